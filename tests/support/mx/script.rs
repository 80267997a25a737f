//! What a scripted MX does: rules that each name a stage, an optional circumstance, and an action.

use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use openssl::ssl::SslVersion;

use super::auth::Auth;
use crate::support::ca::Issued;

/// Where in a session a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Instead of the greeting.
    Greeting,
    /// At EHLO.
    Ehlo,
    /// At HELO.
    Helo,
    /// At STARTTLS.
    StartTls,
    /// After the 220 of STARTTLS, instead of the handshake.
    Handshake,
    /// At AUTH and at each line of its exchange.
    Auth,
    /// At NOOP.
    Noop,
    /// At MAIL.
    Mail,
    /// At RCPT.
    Rcpt,
    /// At DATA.
    Data,
    /// Once this many octets of content were read.
    Content(usize),
    /// After the final dot.
    Dot,
    /// At RSET.
    Rset,
    /// At QUIT.
    Quit,
}

/// What happens there.
#[derive(Clone, Debug)]
pub enum Do {
    /// Sends this and CRLF, and goes on; lines of a multi-line reply are parted by CRLF in the text.
    /// A negative reply refuses, a positive one accepts.
    Reply(String),
    /// As `Reply`, then closes.
    ReplyAndClose(String),
    /// As `Reply`, with each octet in a packet of its own.
    Bytewise(String),
    /// Octets just as they are, then goes on as after a positive reply.
    Raw(Vec<u8>),
    /// Octets just as they are, then closes.
    RawAndClose(Vec<u8>),
    /// This octet again and again, so far apart, until the client goes away.
    Drip(u8, Duration),
    /// Octets just as they are, then as `Drip`.
    RawThenDrip(Vec<u8>, u8, Duration),
    /// Neither reads nor writes until the client goes away or the MX is dropped.
    Stall,
    /// Closes.
    Close,
    /// Closes with a TCP reset.
    Reset,
    /// Waits until the gate is opened, then does as if there were no rule.
    Gate(Gate),
}

/// Holds back an answer until the test opens it.
#[derive(Clone, Debug)]
pub struct Gate(Sender<()>, Receiver<()>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Gate {
        let (sender, receiver) = unbounded();
        Gate(sender, receiver)
    }

    /// Lets one answer pass.
    pub fn open(&self) {
        self.0.send(()).unwrap();
    }

    pub(super) fn wait(&self) {
        let _ = self.1.recv_timeout(super::PATIENCE);
    }
}

/// One rule.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(super) at: At,
    pub(super) connection: Option<usize>,
    pub(super) transaction: Option<usize>,
    pub(super) line: Option<String>,
    pub(super) nth: Option<usize>,
    pub(super) action: Do,
}

/// A rule for every time this stage is reached; narrow it with the methods below.
pub fn on(at: At, action: Do) -> Rule {
    Rule {
        at,
        connection: None,
        transaction: None,
        line: None,
        nth: None,
        action,
    }
}

/// A rule that answers with this reply.
pub fn reply(at: At, text: &str) -> Rule {
    on(at, Do::Reply(text.to_string()))
}

impl Rule {
    /// Only on this connection, counted from 1.
    pub fn connection(mut self, number: usize) -> Rule {
        self.connection = Some(number);
        self
    }

    /// Only in this transaction of the connection, counted from 1 by MAIL.
    pub fn transaction(mut self, number: usize) -> Rule {
        self.transaction = Some(number);
        self
    }

    /// Only when the command line contains this.
    pub fn line(mut self, part: &str) -> Rule {
        self.line = Some(part.to_string());
        self
    }

    /// Only at the nth command of this kind in the transaction, counted from 1 (for RCPT).
    pub fn nth(mut self, number: usize) -> Rule {
        self.nth = Some(number);
        self
    }
}

/// The whole script: the keywords of EHLO and the rules. The first rule that fits is obeyed; else all is accepted.
#[derive(Clone, Debug)]
pub struct Script {
    pub(super) name: String,
    pub(super) keywords: Vec<String>,
    pub(super) starttls: bool,
    pub(super) identity: Option<Issued>,
    pub(super) highest: Option<SslVersion>,
    pub(super) client_certificate: bool,
    pub(super) inside: Vec<String>,
    pub(super) small_buffers: bool,
    pub(super) implicit: bool,
    pub(super) auth: Option<Auth>,
    pub(super) rules: Vec<Rule>,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            name: "mx.test".to_string(),
            keywords: [
                "PIPELINING",
                "SIZE 52428800",
                "8BITMIME",
                "SMTPUTF8",
                "ENHANCEDSTATUSCODES",
                "DSN",
            ]
            .map(str::to_string)
            .to_vec(),
            starttls: false,
            identity: None,
            highest: None,
            client_certificate: false,
            inside: Vec::new(),
            small_buffers: false,
            implicit: false,
            auth: None,
            rules: Vec::new(),
        }
    }
}

impl Script {
    /// Accepts everything; announces PIPELINING, SIZE, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, DSN.
    pub fn new() -> Script {
        Script::default()
    }

    /// The keywords announced, instead of the usual.
    pub fn keywords(mut self, keywords: &[&str]) -> Script {
        self.keywords = keywords.iter().map(|k| (*k).to_string()).collect();
        self
    }

    /// Without this keyword.
    pub fn without(mut self, keyword: &str) -> Script {
        self.keywords.retain(|k| !k.starts_with(keyword));
        self
    }

    /// The name in the greeting.
    pub fn name(mut self, name: &str) -> Script {
        self.name = name.to_string();
        self
    }

    /// Announces STARTTLS, with a self-signed certificate.
    pub fn starttls(mut self) -> Script {
        self.starttls = true;
        self
    }

    /// The certificate and chain that it shows.
    pub fn identity(mut self, identity: Issued) -> Script {
        self.identity = Some(identity);
        self
    }

    /// The highest TLS version it speaks.
    pub fn highest(mut self, version: SslVersion) -> Script {
        self.highest = Some(version);
        self
    }

    /// Insists on a certificate of the client; in TLS 1.3 its refusal comes when the client's handshake is over.
    pub fn demands_client_certificate(mut self) -> Script {
        self.client_certificate = true;
        self
    }

    /// A keyword announced only inside TLS.
    pub fn inside(mut self, keyword: &str) -> Script {
        self.inside.push(keyword.to_string());
        self
    }

    /// Buffers of 4 KiB in the system, or as small as it allows.
    pub fn small_buffers(mut self) -> Script {
        self.small_buffers = true;
        self
    }

    /// Begins with the TLS handshake, with a self-signed certificate unless there is a better.
    pub fn implicit(mut self) -> Script {
        self.implicit = true;
        self
    }

    /// Takes mail from this user only, who has to come by one of these mechanisms; announced inside TLS if there is any.
    pub fn auth(mut self, user: &str, password: &str, mechanisms: &[&str]) -> Script {
        self.auth = Some(Auth {
            user: user.to_string(),
            password: password.to_string(),
            mechanisms: mechanisms.iter().map(|name| (*name).to_string()).collect(),
        });
        self
    }

    /// One more rule.
    pub fn rule(mut self, rule: Rule) -> Script {
        self.rules.push(rule);
        self
    }
}
