//! How a session broke, and what that says as a [`Failure`]. Mechanism only: what follows from it is for
//! `policy::verdict`.

use std::io;

use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use crate::policy::{tls, verdict};
use crate::smtp::client::{Broken, Command, Why};
use crate::smtp::reply::EnhancedCode;
use crate::store::StoreError;

/// Why a session cannot go on.
#[derive(Debug)]
pub enum Break {
    /// The connection failed, or a deadline ran out.
    Io(Command, io::Error),
    /// The peer closed.
    Eof(Command),
    /// What the peer said.
    Said(Broken),
    /// What TLS reached is not enough, by the word of `policy::tls`.
    Security(Box<Failure>),
    /// The content could not be read from the store; the final dot was not sent.
    Content(StoreError),
    /// We are stopping; the final dot was not sent (PRC-2).
    Cut,
}

impl From<Broken> for Break {
    fn from(broken: Broken) -> Break {
        Break::Said(broken)
    }
}

impl Break {
    /// What was going on.
    pub fn command(&self) -> Command {
        match self {
            Break::Io(command, _) | Break::Eof(command) => *command,
            Break::Said(broken) => broken.at,
            Break::Security(_) => Command::StartTls,
            Break::Content(_) | Break::Cut => Command::Content,
        }
    }

    /// The connection went away, or is about to: close, reset or 421, or words about it that nobody asked for. On a
    /// reused session that says nothing about the peer's will to take mail (CL-8).
    pub fn is_loss(&self) -> bool {
        match self {
            Break::Io(_, error) => error.kind() != io::ErrorKind::TimedOut,
            Break::Eof(_) => true,
            Break::Said(broken) => {
                matches!(&broken.why, Why::Refused(_) | Why::OutOfStep)
            }
            Break::Security(_) | Break::Content(_) | Break::Cut => false,
        }
    }

    /// RO-8: nothing can be done with this relay as it is configured, and only an operator can mend it: its credentials, its
    /// certificate, its TLS.
    fn breaks_relay(&self) -> bool {
        match self {
            Break::Security(_) => true,
            // A handshake that failed by what was said in it; not one that was cut off.
            Break::Io(Command::StartTls, error) => error.kind() == io::ErrorKind::InvalidData,
            Break::Said(broken) => match &broken.why {
                Why::NotOffered | Why::NoMechanism(_) | Why::Unproved(_) => true,
                // Any code but the one that says that the peer closes (RO-10).
                Why::Refused(reply) if broken.at == Command::Auth => reply.code().get() != 421,
                Why::Refused(reply) if broken.at == Command::StartTls => {
                    reply.code().is_permanent()
                }
                Why::Protocol(_) | Why::OutOfStep => broken.at == Command::Auth,
                Why::Refused(_) | Why::Injection => false,
            },
            Break::Io(..) | Break::Eof(_) | Break::Content(_) | Break::Cut => false,
        }
    }

    /// As a failure. `enhanced`: ENHANCEDSTATUSCODES was announced; `relay`: the host is a smarthost.
    pub fn failure(&self, enhanced: bool, relay: bool) -> Failure {
        let stage = stage(self.command());
        let mut failure = match self {
            Break::Io(command, error) => io_failure(*command, error),
            Break::Eof(command) => lost(
                stage,
                Cause::Eof,
                format!("connection closed while {}", doing(*command)),
            ),
            Break::Said(broken) => match &broken.why {
                Why::Refused(reply) => verdict::session_refused(stage, reply, enhanced, relay),
                Why::NoMechanism(_) => Failure {
                    status: tls::NOT_OFFERED,
                    ..lost(stage, Cause::Protocol, broken.to_string())
                },
                Why::Unproved(_) => Failure {
                    status: verdict::AUTH_FAILED,
                    ..lost(stage, Cause::Protocol, broken.to_string())
                },
                Why::Protocol(_) | Why::OutOfStep => Failure {
                    cause: Cause::Protocol,
                    status: EnhancedCode::new(4, 5, 0),
                    ..lost(stage, Cause::Protocol, broken.to_string())
                },
                Why::NotOffered => Failure {
                    status: tls::NOT_OFFERED,
                    ..lost(stage, Cause::Tls, broken.to_string())
                },
                Why::Injection => Failure {
                    status: tls::NOT_ENOUGH,
                    ..lost(stage, Cause::Tls, broken.to_string())
                },
            },
            Break::Security(failure) => Failure::clone(failure),
            Break::Content(error) => content_failure(error),
            Break::Cut => local(
                stage,
                EnhancedCode::new(4, 3, 0),
                "cut off by the stop of this host's mail queue".to_string(),
            ),
        };
        if relay && self.breaks_relay() {
            failure.scope = Scope::Transport;
        }
        // Q-14, RFC 5321 §4.2.5: only a complete refusal tells that the peer did not take it.
        failure.may_be_sent_twice = self.command() == Command::Dot
            && !matches!(self, Break::Said(broken) if matches!(broken.why, Why::Refused(_)));
        if failure.may_be_sent_twice {
            failure.text.push_str("; may be sent twice");
        }
        failure
    }
}

/// The stage of a command.
pub fn stage(command: Command) -> Stage {
    match command {
        Command::Greeting => Stage::Greeting,
        Command::Ehlo | Command::Helo => Stage::Ehlo,
        Command::StartTls => Stage::StartTls,
        Command::Auth => Stage::Auth,
        // Asked between transactions, as RSET is.
        Command::Noop => Stage::Rset,
        Command::Rset => Stage::Rset,
        Command::Mail => Stage::Mail,
        Command::Rcpt(_) => Stage::Rcpt,
        Command::Data => Stage::Data,
        Command::Content => Stage::Content,
        Command::Dot => Stage::FinalDot,
        Command::Quit => Stage::Quit,
    }
}

fn doing(command: Command) -> String {
    match command {
        Command::Content => "sending the content".to_string(),
        Command::Greeting => "waiting for the greeting".to_string(),
        other => format!("waiting for the reply to {other}"),
    }
}

fn io_failure(command: Command, error: &io::Error) -> Failure {
    let stage = stage(command);
    let doing = doing(command);
    let (cause, text) = match error.kind() {
        io::ErrorKind::TimedOut => (Cause::Timeout, format!("timed out {doing}")),
        io::ErrorKind::ConnectionReset => (Cause::Reset, format!("connection reset while {doing}")),
        io::ErrorKind::BrokenPipe => (Cause::Epipe, format!("connection closed while {doing}")),
        io::ErrorKind::InvalidData => (Cause::Tls, format!("{error} while {doing}")),
        io::ErrorKind::UnexpectedEof => (Cause::Eof, format!("connection closed while {doing}")),
        _ => (Cause::Reset, format!("{error} while {doing}")),
    };
    let mut failure = lost(stage, cause, text);
    if cause == Cause::Tls {
        failure.status = tls::NOT_ENOUGH;
    }
    failure
}

/// A host that did not carry it through: temporary 4.4.2.
fn lost(stage: Stage, cause: Cause, text: String) -> Failure {
    Failure {
        retry: Retry::Later,
        scope: Scope::Host,
        stage,
        cause,
        code: None,
        status: EnhancedCode::new(4, 4, 2),
        text,
        may_be_sent_twice: false,
    }
}

/// A fault of our own: temporary, and nobody's bounce (DV-19).
pub fn local(stage: Stage, status: EnhancedCode, text: String) -> Failure {
    Failure {
        retry: Retry::Later,
        scope: Scope::Local,
        stage,
        cause: Cause::Local,
        code: None,
        status,
        text,
        may_be_sent_twice: false,
    }
}

/// Content that cannot be read: 4.3.1 for storage, 4.3.0 for a damaged row.
pub fn content_failure(error: &StoreError) -> Failure {
    let status = match error {
        StoreError::Damaged(_) => EnhancedCode::new(4, 3, 0),
        _ => EnhancedCode::new(4, 3, 1),
    };
    local(Stage::Content, status, format!("content: {error}"))
}

/// A limit or a missing extension of one host, before MAIL: for good only if all hosts have it (CL-11 to CL-13).
pub fn unfit(status: EnhancedCode, text: String) -> Failure {
    Failure {
        retry: Retry::Never,
        scope: Scope::Host,
        stage: Stage::Ehlo,
        cause: Cause::Protocol,
        code: None,
        status,
        text,
        may_be_sent_twice: false,
    }
}

/// The redial of a host in clear failed (TLS-4).
pub fn redial_failure(address: std::net::SocketAddr, error: &io::Error) -> Failure {
    let cause = match error.kind() {
        io::ErrorKind::TimedOut => Cause::Timeout,
        io::ErrorKind::ConnectionReset => Cause::Reset,
        _ => Cause::Refused,
    };
    Failure {
        status: EnhancedCode::new(4, 4, 1),
        ..lost(
            Stage::Connect,
            cause,
            format!("connect to {address}: {error}"),
        )
    }
}
