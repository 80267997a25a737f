//! What stopped a delivery, as facts for the verdict; and what was recorded of an attempt.
//!
//! Mechanism (`delivery`) fills these in; judgement (`policy::verdict`) reads them. Nothing here decides.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::smtp::reply::{EnhancedCode, ReplyCode};

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Temporary: the recipient stays queued.
    Later,
    /// Permanent: the recipient fails now and its sender is told.
    Never,
}

/// Who is affected by a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One recipient.
    Recipient,
    /// All recipients of the transaction.
    Transaction,
    /// One host of the next hop; others may be tried.
    Host,
    /// The whole destination.
    Destination,
    /// A relay as it is configured: its credentials, certificate, TLS or name. Another of its hosts may do better; if none
    /// does, the transport is broken until an operator mends it. Ours, no attempt, and never a bounce (RO-8).
    Transport,
    /// Ourselves: configuration, disk, memory, our network. Never held against a peer, never a bounce (DV-19).
    Local,
}

/// Where in the delivery it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Routing, before any lookup.
    Route,
    /// DNS lookups.
    Dns,
    /// TCP connection.
    Connect,
    /// Waiting for the 220.
    Greeting,
    /// EHLO or HELO.
    Ehlo,
    /// STARTTLS and the handshake.
    StartTls,
    /// AUTH.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// Sending the content.
    Content,
    /// Waiting for the reply to the final dot.
    FinalDot,
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
}

impl Stage {
    /// Whether there was a session that mail could be handed to.
    pub fn is_from_mail_on(self) -> bool {
        matches!(
            self,
            Stage::Mail
                | Stage::Rcpt
                | Stage::Data
                | Stage::Content
                | Stage::FinalDot
                | Stage::Rset
        )
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Route => "route",
            Stage::Dns => "dns",
            Stage::Connect => "connect",
            Stage::Greeting => "greeting",
            Stage::Ehlo => "ehlo",
            Stage::StartTls => "starttls",
            Stage::Auth => "auth",
            Stage::Mail => "mail",
            Stage::Rcpt => "rcpt",
            Stage::Data => "data",
            Stage::Content => "content",
            Stage::FinalDot => "final-dot",
            Stage::Rset => "rset",
            Stage::Quit => "quit",
        })
    }
}

/// The bounded set of causes that metrics and history name (OBS-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A reply of the peer.
    Reply,
    /// A reply of the peer that is about this address alone (CL-18).
    Address,
    /// The peer closed the connection.
    Eof,
    /// Connection reset.
    Reset,
    /// Broken pipe.
    Epipe,
    /// A deadline ran out.
    Timeout,
    /// Connection refused or host unreachable.
    Refused,
    /// DNS.
    Dns,
    /// TLS negotiation.
    Tls,
    /// The peer broke the protocol.
    Protocol,
    /// Ourselves.
    Local,
}

impl Cause {
    /// Its word, as stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Reply => "reply",
            Cause::Address => "address",
            Cause::Eof => "eof",
            Cause::Reset => "reset",
            Cause::Epipe => "epipe",
            Cause::Timeout => "timeout",
            Cause::Refused => "refused",
            Cause::Dns => "dns",
            Cause::Tls => "tls",
            Cause::Protocol => "protocol",
            Cause::Local => "local",
        }
    }
}

/// Why delivery stopped, and what the queue may conclude from it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Later or never.
    pub retry: Retry,
    /// Who is affected.
    pub scope: Scope,
    /// At which stage.
    pub stage: Stage,
    /// Its cause, from a bounded set.
    pub cause: Cause,
    /// The peer's reply code, if a reply was the cause.
    pub code: Option<ReplyCode>,
    /// 4.4.2, 5.1.1, ..: for the log and the DSN.
    pub status: EnhancedCode,
    /// The peer's words or ours; multi-line replies joined with `\n`, control and 8-bit bytes escaped, at most 4 KiB.
    pub text: String,
    /// The dot was sent and no good reply came: the message may be sent twice.
    pub may_be_sent_twice: bool,
}

/// How well the session was protected (TLS-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsLevel {
    /// No TLS.
    #[default]
    Plain,
    /// TLS with an unverified peer.
    Encrypted,
    /// Verified by name.
    Verified,
    /// Verified by DANE.
    Dane,
}

impl fmt::Display for TlsLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsLevel::Plain => "plain",
            TlsLevel::Encrypted => "encrypted",
            TlsLevel::Verified => "verified",
            TlsLevel::Dane => "dane",
        })
    }
}

/// The record of one attempt for one recipient (OBS-8), kept for ever or until history is pruned.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// When it began: the claim.
    pub started: Timestamp,
    /// How long it took from the claim to the outcome.
    pub duration: Duration,
    /// Time per stage: in the queue before the claim, connecting, session set-up, data.
    pub delays: [Duration; 4],
    /// The transport's name.
    pub transport: String,
    /// The host that gave the outcome; empty if none was reached.
    pub host: String,
    /// Its address and port, if one was dialled.
    pub address: Option<SocketAddr>,
    /// All addresses that were dialled in this attempt (DV-12).
    pub dialled: Vec<IpAddr>,
    /// Our own address in that connection.
    pub source: Option<IpAddr>,
    /// The level reached.
    pub tls: TlsLevel,
    /// What was required and by whom, `LEVEL:SOURCE+SOURCE`; empty where it did not come so far (TLS-1).
    pub tls_policy: String,
    /// The stage of the outcome.
    pub stage: Stage,
    /// The final reply's code, also on success (CL-28).
    pub code: Option<ReplyCode>,
    /// Its enhanced code, or ours.
    pub status: EnhancedCode,
    /// Its whole text, escaped, at most 4 KiB; or our own words.
    pub text: String,
    /// `None` on success.
    pub cause: Option<Cause>,
    ///
    pub may_be_sent_twice: bool,
    /// The name of the worker thread.
    pub worker: String,
    /// Whether the session was a reused one.
    pub reused: bool,
}

/// What becomes of one recipient after an attempt; the word of `policy::verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Delivered: final.
    Delivered,
    /// Temporary: tried again at this time.
    Deferred {
        /// The next attempt.
        next: Timestamp,
    },
    /// Permanent failure, or `max_attempts` reached: final.
    Failed,
    /// Its lifetime is over: final, status 4.4.7.
    Expired,
    /// Poison: held by ourselves after `queue.poison_limit` panics or hangs.
    Held,
}
