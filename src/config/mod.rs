//! `posthaste.toml` as a typed [`Config`]: each setting declared once, with its default and its doc comment (CFG-4).
//!
//! Field paths are those of the file: `config.retry.intervals` is `[retry] intervals`.

mod units;

pub use units::{Rate, Size, Span};

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::smtp::address::{Domain, Mailbox};

/// The whole configuration, checked. Built by the loader only; a `Config` in hand is proof that it is usable.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our name in EHLO, greetings, Received and Message-ID; a full domain name.
    pub hostname: Domain,
    /// Account that the daemon runs as when started as root.
    pub user: Option<String>,
    /// Group that the daemon runs as when started as root.
    pub group: Option<String>,
    /// Most transactions at once.
    pub workers: usize,
    /// Where the process id is written unless `-F` is given.
    pub pid_file: PathBuf,
    /// How long running transactions may go on at a normal stop.
    pub shutdown_grace: Span,
    /// Takes every local part at `hostname`, and bare `<postmaster>`.
    pub local_mail_to: Option<Mailbox>,
    /// `[queue]`
    pub queue: Queue,
    /// `[intake]`
    pub intake: Intake,
    /// `[[listen]]`
    pub listen: Vec<Listen>,
    /// `[control]`
    pub control: Control,
    /// `[log]`
    pub log: LogTable,
    /// `[retry]`
    pub retry: Retry,
    /// `[deliver]`
    pub deliver: Deliver,
    /// `[dns]`
    pub dns: Dns,
    /// `[limits]`, as far as core dispatch needs it
    pub limits: Limits,
    /// `[dsn]`
    pub dsn: Dsn,
    /// `[[transport]]`
    pub transport: Vec<Transport>,
    /// `[[route]]`
    pub route: Vec<Route>,
}

/// The configuration in force, replaced whole by a reload (CFG-5). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<Arc<Config>>>);

impl Live {
    /// Puts a configuration in force.
    pub fn new(config: Config) -> Live {
        Live(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// The configuration in force now; take it anew for each piece of work (CFG-6).
    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces it.
    pub fn set(&self, config: Config) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }
}

/// `[queue]` (CFG-10).
#[derive(Clone, Debug)]
pub struct Queue {
    /// The queue directory.
    pub path: PathBuf,
    /// Free space under which new mail is refused.
    pub min_free: Size,
    /// Size of the reserve file.
    pub reserve: Size,
    /// Most messages in the queue; 0 for no limit.
    pub max_messages: u64,
    /// Panics or hangs after which a message is held.
    pub poison_limit: u32,
    /// `"retry"` or `"hold"`: in-doubt recipients at start.
    pub in_doubt: crate::store::InDoubt,
    /// Sender domains that are refused and stopped.
    pub disabled_senders: Vec<DomainPattern>,
}

/// `[intake]` (CFG-11).
#[derive(Clone, Debug)]
pub struct Intake {
    /// Largest content, in octets as transferred without dot stuffing.
    pub max_message_size: Size,
    /// Largest header.
    pub max_header: Size,
    /// Most recipients of one message; at least 100.
    pub max_recipients: u32,
    /// Most sessions at once.
    pub sessions: usize,
    /// Most sessions of one client address (IPv6: /64).
    pub sessions_per_client: usize,
    /// Longest command line in octets, with its line end.
    pub command_line: usize,
    /// Longest wait for a whole command.
    pub idle_timeout: Span,
    /// Longest session; a running DATA may end.
    pub session_timeout: Span,
    /// Error replies after which the next faulty command closes the session.
    pub max_errors: u32,
    /// Most Received fields.
    pub max_hops: u32,
    /// Most memory for messages that are being received.
    pub memory: Size,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Trusted programs and hosts.
    Relay,
    /// Authenticated users.
    Submission,
    /// The outside world, for handlers.
    Inbound,
    /// LMTP.
    Lmtp,
}

/// TLS of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenTls {
    /// None.
    None,
    /// STARTTLS is offered.
    StartTls,
    /// TLS from the first byte.
    Implicit,
}

/// AUTH of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenAuth {
    /// Not offered.
    None,
    /// Offered.
    Optional,
    /// MAIL needs it.
    Required,
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `"IP:PORT"`
    Tcp(SocketAddr),
    /// `"unix:PATH"`
    Unix(PathBuf),
}

/// What becomes of a bare LF in content (IN-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BareNewline {
    /// Taken as a line end that can never end the data.
    Normalize,
    /// 550 5.6.0.
    Reject,
}

/// What becomes of a client that talks before its turn (IN-20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlyTalk {
    /// Taken.
    Accept,
    /// 554 5.5.0 and close.
    Reject,
}

/// `[[listen]]` (CFG-12).
#[derive(Clone, Debug)]
pub struct Listen {
    /// For the log.
    pub name: String,
    /// Where.
    pub address: ListenAddress,
    /// What for.
    pub role: Role,
    /// TLS.
    pub tls: ListenTls,
    /// Certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// Private key, PEM.
    pub key: Option<PathBuf>,
    /// AUTH.
    pub auth: ListenAuth,
    /// Clients that may relay without AUTH.
    pub relay_from: Vec<ClientPattern>,
    /// Bare LF in content.
    pub bare_newline: BareNewline,
    /// Early talkers.
    pub early_talk: EarlyTalk,
    /// Mode of a Unix socket.
    pub mode: u32,
}

/// One entry of `relay_from`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientPattern {
    /// `loopback`
    Loopback,
    /// `unix`
    Unix,
    /// A CIDR network: address and prefix length.
    Net(IpAddr, u8),
}

impl ClientPattern {
    /// Whether a client at `ip` (`None`: a Unix socket) matches. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn matches(&self, _ip: Option<IpAddr>) -> bool {
        unimplemented!("config")
    }
}

/// A domain pattern (CFG-3): `example.org` exactly, `.example.org` it and every subdomain, `*` all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainPattern {
    /// Exactly this.
    Exact(Domain),
    /// This and every subdomain.
    Subtree(Domain),
    /// All, address literals included.
    All,
}

impl DomainPattern {
    /// Whether it matches. An address literal matches only `*`.
    pub fn matches(&self, _domain: &crate::smtp::address::AddressDomain) -> bool {
        unimplemented!("config")
    }
}

/// `[control]` (CFG-13).
#[derive(Clone, Debug)]
pub struct Control {
    /// The socket.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// A loopback TCP address besides, if any.
    pub tcp: Option<SocketAddr>,
    /// Most clients at once; one more for uid 0.
    pub clients: usize,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// syslog(3), facility mail.
    Syslog,
    /// Standard error.
    Stderr,
    /// A file, appended.
    File(PathBuf),
}

/// Their format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// key=value.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]` (CFG-13).
#[derive(Clone, Debug)]
pub struct LogTable {
    /// Where to.
    pub to: LogTo,
    /// Least level.
    pub level: log::LevelFilter,
    /// Format.
    pub format: LogFormat,
}

/// `[retry]` (CFG-14).
#[derive(Clone, Debug)]
pub struct Retry {
    /// Waits after the first, second, .. failed attempt; the last repeats. Never empty.
    pub intervals: Vec<Span>,
    /// Random factor 1 ± this, 0 to 0.5.
    pub jitter: f64,
    /// How long a recipient is tried, from acceptance. RFC 5321 §4.5.4.1 asks for 4 to 5 days.
    pub lifetime: Span,
    /// Most attempts, if set.
    pub max_attempts: Option<u32>,
    /// Ages at which the sender is told of the delay.
    pub delay_notices: Vec<Span>,
}

/// Which address family goes first (DV-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The other family than last time.
    Alternate,
    /// IPv4 first.
    Prefer4,
    /// IPv6 first.
    Prefer6,
    /// IPv4 only.
    Only4,
    /// IPv6 only.
    Only6,
}

/// What becomes of 8-bit content at a peer without 8BITMIME (CL-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without8BitMime {
    /// Sent as it is.
    Send,
    /// Other hosts, then permanent 5.6.3.
    Fail,
}

/// `[deliver]` (CFG-15, CFG-16).
#[derive(Clone, Debug)]
pub struct Deliver {
    /// Per address.
    pub dial_timeout: Span,
    /// Lookup and dial of one host.
    pub host_timeout: Span,
    /// Reply to a command.
    pub command_timeout: Span,
    /// Reply to DATA.
    pub data_timeout: Span,
    /// Each block of content.
    pub block_timeout: Span,
    /// Reply to the final dot.
    pub dot_timeout: Span,
    /// Reply to QUIT.
    pub quit_timeout: Span,
    /// Dial to the last byte of the dot, plus 1 s for each 16 KiB.
    pub total_timeout: Span,
    /// All hosts of one attempt, the wait for the final dot excepted.
    pub attempt_timeout: Span,
    /// The port of MX hosts.
    pub smtp_port: u16,
    /// Most MX hosts of an attempt.
    pub max_mx: usize,
    /// Most addresses of an attempt.
    pub max_addresses: usize,
    /// Address family.
    pub family: Family,
    /// Our own addresses; the first of the dialled family is bound.
    pub source_addresses: Vec<IpAddr>,
    /// EHLO name, if not the hostname.
    pub helo: Option<Domain>,
    /// Permits private addresses for MX delivery (DV-8).
    pub allow_private: bool,
    /// Permits address literals as recipients (DV-11).
    pub address_literals: bool,
    /// 8-bit content without 8BITMIME.
    pub without_8bitmime: Without8BitMime,
    /// Whether PIPELINING is used.
    pub pipelining: bool,
    /// Longest idle time of a kept session.
    pub idle_session: Span,
    /// Longest life of a session.
    pub session_age: Span,
    /// Most transactions of a session.
    pub session_messages: u32,
}

/// One configured server: address and port.
pub type Server = SocketAddr;

/// `[dns]` (CFG-17).
#[derive(Clone, Debug)]
pub struct Dns {
    /// Servers; none: resolv.conf.
    pub servers: Vec<Server>,
    /// Servers whose AD bit is believed.
    pub trusted: Vec<ClientPattern>,
    /// One query.
    pub query_timeout: Span,
    /// One lookup in all.
    pub total_timeout: Span,
    /// Entries of the cache.
    pub cache_entries: usize,
    /// Longest life of an answer.
    pub cache_ttl: Span,
    /// Longest life of a negative answer.
    pub negative_ttl: Span,
}

/// `[limits]`: what the core needs of CFG-22.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most connections to one destination.
    pub connections: usize,
    /// Most recipients of one transaction.
    pub recipients: usize,
}

/// `[dsn]` (CFG-23).
#[derive(Clone, Debug)]
pub struct Dsn {
    /// From of notices.
    pub from: Mailbox,
    /// Gets what cannot be told to a sender.
    pub postmaster: Option<Mailbox>,
    /// Lifetime of notices.
    pub lifetime: Span,
    /// Whether the whole original is returned.
    pub return_full: bool,
    /// Most of the original that is returned.
    pub return_max: Size,
    /// Failures of one message that come within this time share a notice.
    pub collect: Span,
    /// Most notices to one address.
    pub per_sender: Rate,
}

/// `[[transport]]`: what exists so far.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: TransportKind,
}

/// Kinds of transport.
#[derive(Clone, Debug)]
pub enum TransportKind {
    /// Straight to MX hosts.
    Direct,
    /// Through these hosts, in this order; without TLS and AUTH so far.
    Relay {
        /// Host name or address, and port.
        hosts: Vec<(RelayHost, u16)>,
    },
}

/// A host of a relay transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayHost {
    /// Resolved by address, without MX.
    Name(Domain),
    /// An address.
    Ip(IpAddr),
}

/// `[[route]]` (CFG-22).
#[derive(Clone, Debug)]
pub struct Route {
    /// Callers; empty matches all.
    pub caller: Vec<String>,
    /// Sender patterns; empty matches all.
    pub from: Vec<DomainPattern>,
    /// Recipient patterns; empty matches all.
    pub to: Vec<DomainPattern>,
    /// Attempts so far, at least.
    pub min_attempts: u32,
    /// Name of a transport; checked to exist.
    pub transport: String,
}
