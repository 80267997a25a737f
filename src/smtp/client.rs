//! The SMTP client as state machines without I/O (RFC 5321): bytes in, bytes out.
//!
//! The state of a session is a type (CL-31), and each transition consumes the state before it, so that a command in the
//! wrong state cannot be written down:
//!
//! ```text
//! Opening ── greeting, EHLO or HELO, STARTTLS, AUTH ──► Ready ── begin ──► Transaction ── end ──► Ready
//!                                                        ├── resume ──► Transaction ── end ──► Ready
//!                                                        ├── noop ──► Asking ──► Ready
//!                                                        └── quit ──► Quitting
//! ```
//!
//! Each of them is a [`Dialogue`]: whoever drives it sends what is in the [`Wire`]'s output, puts in what the peer
//! sends, and calls [`Dialogue::advance`] to learn what to do next. Nothing here knows of time; the driver has a
//! deadline for each [`Command`] it is told to await.

mod commands;
mod opening;
mod transaction;

pub use commands::{Mail, Rcpt};
pub use opening::{Opening, Options, StartTls};
pub use transaction::{Answer, Answers, Envelope, Transaction};

use std::fmt;

use super::ehlo::Capabilities;
use super::reply::{Reply, ReplyError, ReplyReader};

/// What a reply answers, or what was going on when something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The connection itself: its reply is the greeting.
    Greeting,
    /// EHLO
    Ehlo,
    /// HELO
    Helo,
    /// STARTTLS
    StartTls,
    /// AUTH, up to its end
    Auth,
    /// NOOP
    Noop,
    /// RSET before a transaction
    Rset,
    /// MAIL
    Mail,
    /// RCPT of the nth recipient of the transaction, from 0
    Rcpt(usize),
    /// DATA
    Data,
    /// Content is being sent.
    Content,
    /// The final dot
    Dot,
    /// QUIT
    Quit,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::Greeting => "the greeting",
            Command::Ehlo => "EHLO",
            Command::Helo => "HELO",
            Command::StartTls => "STARTTLS",
            Command::Auth => "AUTH",
            Command::Noop => "NOOP",
            Command::Rset => "RSET",
            Command::Mail => "MAIL",
            Command::Rcpt(_) => "RCPT",
            Command::Data => "DATA",
            Command::Content => "the content",
            Command::Dot => "the final dot",
            Command::Quit => "QUIT",
        })
    }
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send what is to be sent, and read until the reply to this command is there.
    Await(Command),
    /// Make sure that nothing waits unread, then send what is to be sent and await this command's reply (CL-7).
    Begin(Command),
    /// Do the TLS handshake, then call [`Opening::secured`].
    Handshake,
    /// Send the content, then call [`Transaction::content_sent`].
    Content,
    /// The dialogue is over.
    Done,
}

/// The session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// What was going on.
    pub at: Command,
    /// What is wrong.
    pub why: Why,
}

/// Why a session cannot go on, as far as the peer's words tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The peer refused what the session cannot do without: greeting, EHLO, HELO, STARTTLS, RSET; or said 421, after
    /// which it closes (RFC 5321 §3.8).
    Refused(Reply),
    /// The peer broke the protocol (CL-3, CL-4, CL-6, CL-14).
    Protocol(String),
    /// The peer spoke before it was asked (CL-7).
    OutOfStep,
    /// STARTTLS is required and was not announced (TLS-3).
    NotOffered,
    /// No mechanism of AUTH will do (RO-7); why, in words.
    NoMechanism(String),
    /// The peer's part of AUTH is not as it must be, so it may be somebody else (RO-8).
    Unproved(String),
    /// Bytes came after the 220 of STARTTLS and before the handshake: somebody sits in between (TLS-8).
    Injection,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Refused(reply) => write!(f, "{} refused: {reply}", self.at),
            Why::Protocol(text) => write!(f, "protocol error at {}: {text}", self.at),
            Why::OutOfStep => write!(
                f,
                "protocol error before {}: the peer spoke out of turn",
                self.at
            ),
            Why::NotOffered => f.write_str("STARTTLS is not offered"),
            Why::NoMechanism(text) => write!(f, "AUTH: {text}"),
            Why::Unproved(text) => write!(f, "AUTH came to nothing: {text}"),
            Why::Injection => f.write_str("data between STARTTLS and the handshake"),
        }
    }
}

impl std::error::Error for Broken {}

/// A part of a session that the driver carries through.
pub trait Dialogue {
    /// Where its octets come from and go to.
    fn wire(&mut self) -> &mut Wire;

    /// Takes the complete replies that are there and says what to do next.
    ///
    /// # Errors
    /// [`Broken`]; the connection must be closed, without QUIT.
    fn advance(&mut self) -> Result<Step, Broken>;
}

/// What a session is made of besides its connection: the reader of its replies, what is still to be sent, and what the
/// peer announced.
#[derive(Debug)]
pub struct Wire {
    reader: ReplyReader,
    /// Octets for the peer. The driver clears it once they are sent.
    pub output: Vec<u8>,
    capabilities: Capabilities,
    /// Counts replies, so that the driver sees when a new one begins.
    replies: u64,
    pipelining: bool,
    /// It speaks LMTP.
    lmtp: bool,
}

impl Wire {
    fn new(pipelining: bool) -> Wire {
        Wire {
            reader: ReplyReader::new(),
            output: Vec::new(),
            capabilities: Capabilities::default(),
            replies: 0,
            pipelining,
            lmtp: false,
        }
    }

    /// Takes octets of the peer.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// Whether everything the peer sent was taken as a reply (CL-7).
    pub fn is_clean(&self) -> bool {
        self.reader.is_empty()
    }

    /// How many replies were taken so far.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    fn next_reply(&mut self, at: Command) -> Result<Option<Reply>, Broken> {
        match self.reader.next_reply() {
            Ok(reply) => {
                self.replies += u64::from(reply.is_some());
                Ok(reply)
            }
            Err(error) => Err(error.at(at)),
        }
    }

    /// CL-7: bytes that wait before a command is sent are out of step, and never taken for its reply.
    fn must_be_clean(&self, at: Command) -> Result<(), Broken> {
        if self.is_clean() {
            Ok(())
        } else {
            Err(Broken::out_of_step(at))
        }
    }

    fn uses_pipelining(&self) -> bool {
        self.pipelining && self.capabilities.pipelining
    }

    /// Whether replies carry enhanced status codes (CL-5).
    pub fn enhanced(&self) -> bool {
        self.capabilities.enhanced_status_codes
    }
}

impl ReplyError {
    fn at(self, at: Command) -> Broken {
        Broken {
            at,
            why: Why::Protocol(self.to_string()),
        }
    }
}

impl Broken {
    /// The peer spoke out of turn (CL-7).
    pub fn out_of_step(at: Command) -> Broken {
        Broken {
            at,
            why: Why::OutOfStep,
        }
    }

    fn unexpected(at: Command, reply: &Reply) -> Broken {
        Broken {
            at,
            why: Why::Protocol(format!("unexpected reply {reply}")),
        }
    }

    fn refused(at: Command, reply: Reply) -> Broken {
        Broken {
            at,
            why: Why::Refused(reply),
        }
    }
}

/// RFC 5321 §3.8, §4.2.1: the peer closes after it.
fn says_goodbye(reply: &Reply) -> bool {
    reply.code().get() == 421
}

/// A session at rest: nothing is in flight, and a transaction may begin.
#[derive(Debug)]
pub struct Ready {
    wire: Wire,
    /// The last transaction did not come to its end, so RSET goes ahead of the next (CL-22); and what it failed with.
    reset_after: Option<String>,
}

impl Ready {
    /// What the peer announced; nothing after HELO.
    pub fn capabilities(&self) -> &Capabilities {
        &self.wire.capabilities
    }

    /// Whether bytes wait that no command asked for.
    pub fn is_clean(&self) -> bool {
        self.wire.is_clean()
    }

    /// Begins a transaction with at least one recipient.
    pub fn begin<'a>(
        self,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = Rcpt<'a>>,
    ) -> Transaction {
        Transaction::new(self, mail, recipients)
    }

    /// Goes on with a transaction whose commands went out behind the content of the one that has just ended; their replies
    /// may be here (RFC 2920 §3.1). `None`: they are not what this transaction says, and the session is of no use.
    pub fn resume<'a>(
        self,
        envelope: Envelope,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = Rcpt<'a>>,
    ) -> Option<Transaction> {
        let wanted = Envelope::new(false, mail, recipients, &self.wire.capabilities);
        (wanted == envelope).then(|| Transaction::resumed(self, envelope))
    }

    /// Asks whether the peer is still there.
    pub fn noop(mut self) -> Asking {
        self.wire.output.extend_from_slice(b"NOOP\r\n");
        Asking {
            ready: self,
            answered: false,
        }
    }

    /// Ends the session.
    pub fn quit(mut self) -> Quitting {
        self.wire.output.extend_from_slice(b"QUIT\r\n");
        Quitting { wire: self.wire }
    }
}

/// A session whose peer was asked for a sign of life.
#[derive(Debug)]
pub struct Asking {
    ready: Ready,
    answered: bool,
}

impl Asking {
    /// The session at rest, after [`Step::Done`].
    pub fn finish(self) -> Ready {
        self.ready
    }
}

impl Dialogue for Asking {
    fn wire(&mut self) -> &mut Wire {
        &mut self.ready.wire
    }

    fn advance(&mut self) -> Result<Step, Broken> {
        if self.answered {
            return Ok(Step::Done);
        }
        match self.ready.wire.next_reply(Command::Noop)? {
            None => Ok(Step::Await(Command::Noop)),
            Some(reply) if reply.code().is_positive() => {
                self.answered = true;
                Ok(Step::Done)
            }
            Some(reply) => Err(Broken::refused(Command::Noop, reply)),
        }
    }
}

/// A session that is being ended. Its reply, if one comes, alters nothing (CL-23).
#[derive(Debug)]
pub struct Quitting {
    wire: Wire,
}

impl Dialogue for Quitting {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn advance(&mut self) -> Result<Step, Broken> {
        match self.wire.next_reply(Command::Quit)? {
            Some(_) => Ok(Step::Done),
            None => Ok(Step::Await(Command::Quit)),
        }
    }
}

#[cfg(test)]
mod tests;
