//! From the connection to a session at rest: greeting, EHLO or HELO, STARTTLS (CL-1, CL-2, TLS-2, TLS-8, TLS-9).

use super::{Broken, Command, Dialogue, Ready, Step, Why, Wire, says_goodbye};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::reply::{Reply, ReplyReader};

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
    secure: bool,
    greeting: String,
}

impl Opening {
    /// A new connection, whose greeting is awaited.
    pub fn new(options: Options) -> Opening {
        Opening {
            wire: Wire::new(options.pipelining),
            options,
            state: State::Await(Command::Greeting),
            begun: false,
            secure: false,
            greeting: String::new(),
        }
    }

    /// The name with which the peer greeted, in lower case; empty before the greeting (DV-10).
    pub fn greeting_name(&self) -> &str {
        &self.greeting
    }

    /// The TLS handshake is done; EHLO is sent anew and nothing learned in clear survives (RFC 3207 §4.2, TLS-8).
    pub fn secured(&mut self) {
        debug_assert_eq!(self.state, State::Handshake);
        self.secure = true;
        self.wire.reader = ReplyReader::new();
        self.wire.capabilities = Capabilities::default();
        self.send(Command::Ehlo, format!("EHLO {}\r\n", self.options.helo));
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
                self.send(Command::Ehlo, format!("EHLO {}\r\n", self.options.helo));
            }
            Command::Ehlo if code.is_positive() => {
                self.wire.capabilities = Capabilities::from_ehlo(&reply);
                let offered = self.wire.capabilities.starttls;
                let starttls = !self.secure
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
                    self.state = State::Done;
                }
            }
            // RFC 5321 §3.2, §4.1.1.1: a server that does not know EHLO.
            Command::Ehlo
                if matches!(code.get(), 500..=504)
                    && self.options.helo_fallback
                    && self.options.starttls != StartTls::Required
                    && !self.secure =>
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
            _ if code.is_transient() || code.is_permanent() => {
                return Err(Broken::refused(command, reply));
            }
            _ => return Err(Broken::unexpected(command, &reply)),
        }
        Ok(())
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
