//! The facts that decide about TLS: what others have found out, as plain data. Each has a value for "nothing".

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::policy::failure::TlsLevel;
use crate::policy::plan::HostName;
use crate::smtp::address::Domain;

/// What is known of a domain's MTA-STS policy (RFC 8461).
#[derive(Clone, Debug, Default)]
pub enum StsFacts {
    /// There is none, it could not be fetched, or nobody looked (STS-3).
    #[default]
    Nothing,
    /// This one is in force (STS-4).
    Policy(Arc<StsPolicy>),
    /// Nothing is cached, and DNS does not say for now whether there is one: nobody may be dialled (STS-3).
    Unknown(String),
    /// The same, and only we are to blame: no name server can be asked, or the cache cannot be read (DV-19).
    Local(String),
}

/// A policy that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsPolicy {
    /// The id of its TXT record.
    pub id: String,
    /// Its mode.
    pub mode: StsMode,
    /// Its `mx` patterns.
    pub mx: Vec<MxPattern>,
    /// Its `max_age` in seconds.
    pub max_age: u32,
    /// Until when it may be used.
    pub expires: Timestamp,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsMode {
    /// Hosts that do not meet it are not used.
    Enforce,
    /// Hosts that do not meet it are used and reported.
    Testing,
    /// Nothing.
    None,
}

impl StsPolicy {
    /// Whether one of its patterns names the host (STS-7). An address is nobody's MX.
    pub fn lists(&self, host: &HostName) -> bool {
        match host {
            HostName::Name(name) => self.mx.iter().any(|pattern| pattern.matches(name)),
            HostName::Ip(_) | HostName::Unix(_) => false,
        }
    }
}

/// One `mx` pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MxPattern {
    /// This host.
    Exact(Domain),
    /// Exactly one label before this (RFC 8461 §4.1).
    OneLabelUnder(Domain),
}

impl MxPattern {
    /// Reads a pattern; `None` for a bad wildcard or a bad name (STS-6).
    pub fn parse(text: &str) -> Option<MxPattern> {
        match text.strip_prefix("*.") {
            Some(rest) => Domain::parse(rest).ok().map(MxPattern::OneLabelUnder),
            None => Domain::parse(text).ok().map(MxPattern::Exact),
        }
    }

    fn matches(&self, host: &Domain) -> bool {
        match self {
            MxPattern::Exact(name) => name == host,
            MxPattern::OneLabelUnder(parent) => host
                .as_str()
                .split_once('.')
                .is_some_and(|(_, rest)| rest == parent.as_str()),
        }
    }
}

impl fmt::Display for MxPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MxPattern::Exact(name) => name.fmt(f),
            MxPattern::OneLabelUnder(name) => write!(f, "*.{name}"),
        }
    }
}

/// What DNS says of a host's TLSA records (DANE-1 to DANE-3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DaneFacts {
    /// MX or addresses are not authentic, or nobody looked.
    #[default]
    Insecure,
    /// All of it is authentic, and there is definitely no record.
    Nothing,
    /// All of it is authentic, and there are records, usable or not.
    Records {
        /// The name under which they were found.
        base: Domain,
        /// At most [`MAX_TLSA`].
        records: Vec<Tlsa>,
    },
    /// The host is authentic, and its records could not be looked up or are bogus.
    Failed(String),
}

/// TLSA records of a host that are looked at (DANE-2).
pub const MAX_TLSA: usize = 100;

/// A TLSA record (RFC 6698 §2.1).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tlsa {
    /// 2: an authority of the chain; 3: the host's own certificate; 0 and 1 are not for mail (RFC 7672 §3.1.3).
    pub usage: u8,
    /// 0: the whole certificate; 1: its public key.
    pub selector: u8,
    /// 0: as it is; 1: SHA-256; 2: SHA-512.
    pub matching: u8,
    /// What must match.
    pub data: Vec<u8>,
}

impl Tlsa {
    /// DANE-4: of a kind that we can compare, and as long as it must be.
    pub fn is_usable(&self) -> bool {
        let length = match self.matching {
            0 => !self.data.is_empty(),
            1 => self.data.len() == 32,
            2 => self.data.len() == 64,
            _ => false,
        };
        matches!(self.usage, 2 | 3) && matches!(self.selector, 0 | 1) && length
    }
}

/// As reports and `tlsinfo` write it (RFC 8460 §4.4: the presentation form).
impl fmt::Display for Tlsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What the hosts of a domain once reached (TLS-5, TLS-6), as far as it is not too long ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    /// When TLS was seen last.
    pub encrypted: Option<Timestamp>,
    /// When a host was verified last, by name or DANE.
    pub verified: Option<Timestamp>,
    /// When a host announced REQUIRETLS last: a hint, nothing is made of it here.
    pub requiretls: Option<Timestamp>,
}

impl MemoryFacts {
    /// Nothing is remembered.
    pub fn nothing() -> MemoryFacts {
        MemoryFacts::default()
    }

    /// What is left of it at `now`: what was not seen for `age` is forgotten (TLS-6).
    #[must_use]
    pub fn at(self, now: Timestamp, age: Duration) -> MemoryFacts {
        // A time in the future is one before a clock step: it counts as now (RT-9).
        let fresh = |at: &Timestamp| now.since(*at) < age;
        MemoryFacts {
            encrypted: self.encrypted.filter(fresh),
            verified: self.verified.filter(fresh),
            requiretls: self.requiretls.filter(fresh),
        }
    }

    /// The best that is remembered.
    pub fn level(&self) -> TlsLevel {
        match (self.encrypted, self.verified) {
            (_, Some(_)) => TlsLevel::Verified,
            (Some(_), None) => TlsLevel::Encrypted,
            (None, None) => TlsLevel::Plain,
        }
    }
}
