//! From the connection to a session at rest: greeting, EHLO or HELO, STARTTLS, AUTH (CL-1, CL-2, TLS-2, TLS-8, TLS-9,
//! RO-7, RO-8).

use std::sync::Arc;

use super::{Broken, Command, Dialogue, Ready, Step, Why, Wire, says_goodbye};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::reply::{Reply, ReplyReader};
use crate::smtp::sasl::{self, Credentials, Exchange, Mechanism, Protection};

/// The longest line with an initial response; a longer one is sent when the peer asks for it (RFC 5321 §4.5.3.1.4).
const MAX_COMMAND: usize = 512;

/// RO-8: no mechanism has so many challenges.
const MAX_CHALLENGES: u32 = 8;

/// What to do about STARTTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartTls {
    /// Never.
    Never,
    /// When it is offered (TLS-2).
    IfOffered,
    /// Always: a host that does not offer it is left (TLS-3).
    Required,
}

/// How a session is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our name in EHLO.
    pub helo: String,
    /// STARTTLS.
    pub starttls: StartTls,
    /// Whether HELO may follow a refused EHLO: not where TLS, AUTH, SMTPUTF8 or REQUIRETLS is needed (CL-2).
    pub helo_fallback: bool,
    /// Whether PIPELINING is used when announced.
    pub pipelining: bool,
    /// LMTP in place of SMTP: LHLO, and a reply for each recipient after the dot (RFC 2033).
    pub lmtp: bool,
    /// Whom we say to be, if AUTH is wanted. Without it there is no session then (RO-8).
    pub credentials: Option<Arc<Credentials>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A reply to this is awaited.
    Await(Command),
    /// The driver does the handshake.
    Handshake,
    Done,
}

/// A session that is being opened.
#[derive(Debug)]
pub struct Opening {
    wire: Wire,
    options: Options,
    state: State,
    /// Something was put into the output, and the driver has not been told to make sure that nothing waits.
    begun: bool,
    /// TLS, once there is some.
    protection: Option<Protection>,
    greeting: String,
    exchange: Option<Exchange>,
    challenges: u32,
    /// The initial response of the exchange, as long as it has not been sent.
    initial: Option<Vec<u8>>,
}

impl Opening {
    /// A new connection, whose greeting is awaited.
    pub fn new(options: Options) -> Opening {
        let mut wire = Wire::new(options.pipelining);
        wire.lmtp = options.lmtp;
        Opening {
            wire,
            options,
            state: State::Await(Command::Greeting),
            begun: false,
            protection: None,
            greeting: String::new(),
            exchange: None,
            challenges: 0,
            initial: None,
        }
    }

    /// The same on a connection that began with the TLS handshake (RFC 8314 §3.3).
    pub fn inside_tls(options: Options, protection: Protection) -> Opening {
        Opening {
            protection: Some(protection),
            ..Opening::new(options)
        }
    }

    /// The mechanism by which we proved who we are; `None` without AUTH.
    pub fn mechanism(&self) -> Option<Mechanism> {
        self.exchange.as_ref().map(Exchange::mechanism)
    }

    /// The name with which the peer greeted, in lower case; empty before the greeting (DV-10).
    pub fn greeting_name(&self) -> &str {
        &self.greeting
    }

    /// The TLS handshake is done; EHLO is sent anew and nothing learned in clear survives (RFC 3207 §4.2, TLS-8).
    pub fn secured(&mut self, protection: Protection) {
        debug_assert_eq!(self.state, State::Handshake);
        self.protection = Some(protection);
        self.wire.reader = ReplyReader::new();
        self.wire.capabilities = Capabilities::default();
        self.hello();
    }

    /// The session at rest, after [`Step::Done`].
    ///
    /// # Errors
    /// `Broken` when the dialogue is not done: a bug of the driver, which closes the session.
    pub fn finish(self) -> Result<Ready, Broken> {
        match self.state {
            State::Done => Ok(Ready {
                wire: self.wire,
                reset_after: None,
            }),
            State::Handshake => Err(Broken::out_of_step(Command::StartTls)),
            State::Await(command) => Err(Broken::out_of_step(command)),
        }
    }

    fn hello(&mut self) {
        // RFC 2033 §4.1: LMTP has LHLO, with the replies of EHLO.
        let verb = if self.options.lmtp { "LHLO" } else { "EHLO" };
        self.send(Command::Ehlo, format!("{verb} {}\r\n", self.options.helo));
    }

    fn send(&mut self, command: Command, line: String) {
        self.wire.output.extend_from_slice(line.as_bytes());
        self.state = State::Await(command);
        self.begun = true;
    }

    fn take(&mut self, command: Command, reply: Reply) -> Result<(), Broken> {
        let code = reply.code();
        match command {
            Command::Greeting if code.get() == 220 => {
                let first = reply.lines().next().unwrap_or_default();
                let name = first.split(|b| b.is_ascii_whitespace()).next();
                self.greeting =
                    String::from_utf8_lossy(name.unwrap_or_default()).to_ascii_lowercase();
                self.wire.must_be_clean(Command::Ehlo)?;
                self.hello();
            }
            Command::Ehlo if code.is_positive() => {
                self.wire.capabilities = Capabilities::from_ehlo(&reply);
                let offered = self.wire.capabilities.starttls;
                let starttls = self.protection.is_none()
                    && match self.options.starttls {
                        StartTls::Never => false,
                        StartTls::IfOffered => offered,
                        StartTls::Required if offered => true,
                        StartTls::Required => {
                            return Err(Broken {
                                at: Command::StartTls,
                                why: Why::NotOffered,
                            });
                        }
                    };
                if starttls {
                    self.wire.must_be_clean(Command::StartTls)?;
                    self.send(Command::StartTls, "STARTTLS\r\n".to_string());
                } else {
                    self.authenticate()?;
                }
            }
            // RFC 5321 §3.2, §4.1.1.1: a server that does not know EHLO.
            Command::Ehlo
                if matches!(code.get(), 500..=504)
                    && self.options.helo_fallback
                    && !self.options.lmtp
                    && self.options.starttls != StartTls::Required
                    && self.options.credentials.is_none()
                    && self.protection.is_none() =>
            {
                self.wire.must_be_clean(Command::Helo)?;
                self.send(Command::Helo, format!("HELO {}\r\n", self.options.helo));
            }
            Command::Helo if code.is_positive() => self.state = State::Done,
            Command::StartTls if code.get() == 220 => {
                if !self.wire.is_clean() {
                    return Err(Broken {
                        at: Command::StartTls,
                        why: Why::Injection,
                    });
                }
                self.state = State::Handshake;
            }
            Command::Auth if code.get() == 334 => self.challenge(&reply)?,
            // RFC 4954 §4: 235.
            Command::Auth if code.is_positive() => {
                let proved = match (&self.exchange, &self.initial) {
                    (Some(exchange), None) => exchange.accepted(),
                    _ => Err("accepted before the password was asked for".to_string()),
                };
                proved.map_err(unproved)?;
                self.state = State::Done;
            }
            _ if code.is_transient() || code.is_permanent() => {
                return Err(Broken::refused(command, reply));
            }
            _ => return Err(Broken::unexpected(command, &reply)),
        }
        Ok(())
    }
}

impl Opening {
    /// EHLO is over: AUTH if we are somebody.
    fn authenticate(&mut self) -> Result<(), Broken> {
        let Some(credentials) = self.options.credentials.clone() else {
            self.state = State::Done;
            return Ok(());
        };
        self.wire.must_be_clean(Command::Auth)?;
        let clear = Protection::default();
        let protection = self.protection.as_ref().unwrap_or(&clear);
        let announced = &self.wire.capabilities.auth;
        let mechanism =
            sasl::choose(&credentials, announced, protection).map_err(|text| Broken {
                at: Command::Auth,
                why: Why::NoMechanism(text),
            })?;
        let nonce = openssl::base64::encode_block(&rand::random::<[u8; 24]>());
        let mut exchange = Exchange::new(mechanism, &credentials, protection, announced, &nonce);
        let mut line = format!("AUTH {}", mechanism.name());
        self.initial = exchange.initial();
        if let Some(initial) = &self.initial {
            // RFC 4954 §4: "=" is the empty one; ours never is.
            let initial = openssl::base64::encode_block(initial);
            if line.len() + 1 + initial.len() + 2 <= MAX_COMMAND {
                line = format!("{line} {initial}");
                self.initial = None;
            }
        }
        self.exchange = Some(exchange);
        self.send(Command::Auth, format!("{line}\r\n"));
        Ok(())
    }

    /// A 334: its challenge is answered, or the session is over (RO-8).
    fn challenge(&mut self, reply: &Reply) -> Result<(), Broken> {
        self.wire.must_be_clean(Command::Auth)?;
        self.challenges += 1;
        if self.challenges > MAX_CHALLENGES {
            return Err(unproved("it asks without end".to_string()));
        }
        let mut lines = reply.lines();
        let (first, more) = (lines.next().unwrap_or_default(), lines.next().is_some());
        let text = std::str::from_utf8(first).map(str::trim).unwrap_or("?");
        let decoded = match text {
            // What some servers say in place of an empty one.
            "" | "=" => Ok(Vec::new()),
            text => openssl::base64::decode_block(text),
        };
        let Ok(challenge) = decoded else {
            return Err(unproved("the challenge is not base64".to_string()));
        };
        if more {
            return Err(unproved("the challenge has several lines".to_string()));
        }
        let response = match (self.initial.take(), &mut self.exchange) {
            (Some(initial), _) if challenge.is_empty() => initial,
            (None, Some(exchange)) => exchange.respond(&challenge).map_err(unproved)?,
            _ => return Err(unproved("the first challenge must be empty".to_string())),
        };
        let response = openssl::base64::encode_block(&response);
        self.send(Command::Auth, format!("{response}\r\n"));
        Ok(())
    }
}

fn unproved(text: String) -> Broken {
    Broken {
        at: Command::Auth,
        why: Why::Unproved(text),
    }
}

impl Dialogue for Opening {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn advance(&mut self) -> Result<Step, Broken> {
        loop {
            let command = match self.state {
                State::Done => return Ok(Step::Done),
                State::Handshake => return Ok(Step::Handshake),
                State::Await(command) => command,
            };
            if std::mem::take(&mut self.begun) {
                return Ok(Step::Begin(command));
            }
            let Some(reply) = self.wire.next_reply(command)? else {
                return Ok(Step::Await(command));
            };
            if says_goodbye(&reply) {
                return Err(Broken::refused(command, reply));
            }
            self.take(command, reply)?;
        }
    }
}
