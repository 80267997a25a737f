//! From a connection to a session: greeting, EHLO or HELO, STARTTLS, AUTH, and whether TLS reached enough (TLS-3, TLS-8, SEC-8).

use std::sync::Arc;
use std::time::Duration;

use super::drive::{drive, out_of_turn};
use super::outcome::Break;
use super::session::{Limits, Origin, Session};
use crate::net::deadline::Deadline;
use crate::net::dial::Connection;
use crate::net::stream::Stream;
use crate::net::tls;
use crate::policy::tls::{Reached, Requirement};
use crate::smtp::client::{Broken, Command, Dialogue, Opening, Options, Step, Why};
use crate::smtp::sasl::Protection;

/// What the opening of a session has to know of TLS.
#[derive(Clone, Copy)]
pub struct Security<'a> {
    /// Versions, authorities.
    pub context: &'a tls::Context,
    /// What must be reached.
    pub requirement: &'a Requirement,
    /// The connection begins with the handshake (RFC 8314 §3.3).
    pub implicit: bool,
    /// The longest handshake (TLS-10).
    pub handshake: Duration,
}

/// Why a session could not be opened.
#[derive(Debug)]
pub struct NotOpened {
    /// What happened.
    pub why: Break,
    /// The peer announced ENHANCEDSTATUSCODES.
    pub enhanced: bool,
    /// It closed without a byte: another address of the host may be better (DV-15).
    pub without_a_byte: bool,
    /// STARTTLS or the handshake failed: the same host may be spoken to in clear where nothing forbids it (TLS-4).
    pub over_tls: bool,
    /// The name with which the peer greeted, if it did.
    pub greeting: String,
    /// What the handshake reached, where that was not enough.
    pub reached: Option<Arc<Reached>>,
    /// What the handshake reached, where something else failed behind it.
    pub inside: Option<Arc<Reached>>,
}

impl Session {
    /// Opens a session on a fresh connection: greeting, EHLO or HELO, STARTTLS, AUTH.
    ///
    /// # Errors
    /// [`NotOpened`]; the connection is closed.
    pub fn open(
        connection: Connection,
        host: &str,
        options: Options,
        security: Security<'_>,
        limits: &Limits,
        total: Deadline,
    ) -> Result<Session, NotOpened> {
        let Connection {
            mut stream,
            address,
            source,
        } = connection;
        let auth = options.credentials.is_some();
        // Only AUTH asks for it.
        let protection = |stream: &Stream| match auth {
            true => stream.protection(),
            false => Protection::default(),
        };
        let mut opening = if security.implicit {
            stream = secure(stream, security, total)?;
            let protection = protection(&stream);
            Opening::inside_tls(options, protection)
        } else {
            Opening::new(options)
        };
        let time = |command| limits.reply(command, total);
        // How many replies had come when the handshake was done.
        let mut secured = None;
        loop {
            let step = drive(&mut stream, &mut opening, &time)
                .and_then(|step| unless_injected(step, &mut stream, &mut opening));
            match step {
                Ok(Step::Handshake) => {
                    stream = secure(stream, security, total).map_err(|not| NotOpened {
                        greeting: opening.greeting_name().to_owned(),
                        ..not
                    })?;
                    secured = Some(opening.wire().replies());
                    opening.secured(protection(&stream));
                }
                Ok(_) => break,
                Err(why) => {
                    let nothing_came = opening.wire().replies() == 0 && opening.wire().is_clean();
                    let injected = matches!(&why, Break::Said(broken)
                        if broken.why == Why::Injection);
                    // A TLS 1.3 server that does not like our side of the handshake says so when ours is over already
                    // (RFC 8446 §4.4.4): its first words are an alert, or it closes.
                    let rejected = secured == Some(opening.wire().replies())
                        && opening.wire().is_clean()
                        && matches!(why, Break::Io(..) | Break::Eof(_))
                        && why.is_loss();
                    return Err(NotOpened {
                        without_a_byte: nothing_came && why.is_loss(),
                        over_tls: rejected || (why.command() == Command::StartTls && !injected),
                        enhanced: opening.wire().enhanced(),
                        greeting: opening.greeting_name().to_owned(),
                        reached: None,
                        inside: stream.reached().cloned(),
                        why,
                    });
                }
            }
        }
        let mechanism = opening.mechanism();
        let greeting = opening.greeting_name().to_string();
        let enhanced = opening.wire().enhanced();
        let ready = opening.finish().map_err(|broken| NotOpened {
            why: broken.into(),
            enhanced,
            without_a_byte: false,
            over_tls: false,
            greeting: greeting.clone(),
            reached: None,
            inside: stream.reached().cloned(),
        })?;
        let origin = Origin {
            host: host.to_string(),
            address,
            source,
            reached: stream.reached().cloned(),
            mechanism,
        };
        Ok(Session::at_rest(stream, ready, origin, greeting))
    }
}

/// The handshake, and whether it reached enough. Not an octet follows where it did not (TLS-3, SEC-8).
fn secure(stream: Stream, security: Security<'_>, total: Deadline) -> Result<Stream, NotOpened> {
    let failed = |why, reached| NotOpened {
        why,
        enhanced: false,
        without_a_byte: false,
        over_tls: true,
        greeting: String::new(),
        inside: None,
        reached,
    };
    let requirement = security.requirement;
    let deadline = Deadline::after(security.handshake).min(total);
    let stream = stream
        .start_tls(security.context, &requirement.conditions, deadline)
        .map_err(|error| failed(Break::Io(Command::StartTls, error), None))?;
    let reached = stream.reached().cloned();
    let judged = match &reached {
        Some(reached) => requirement.judge(reached),
        None => requirement.judge(&Reached::plain()),
    };
    match judged {
        Ok(()) => Ok(stream),
        Err(failure) => {
            stream.close();
            Err(failed(Break::Security(Box::new(failure)), reached))
        }
    }
}

/// TLS-8: what came a moment after the 220 and ahead of the handshake is an attack too, and no reason to go on in clear.
fn unless_injected(step: Step, stream: &mut Stream, opening: &mut Opening) -> Result<Step, Break> {
    if step != Step::Handshake || !stream.has_unread() {
        return Ok(step);
    }
    Err(match out_of_turn(stream, opening, Command::StartTls) {
        Break::Said(said) => Break::Said(Broken {
            why: Why::Injection,
            ..said
        }),
        closed => closed,
    })
}
