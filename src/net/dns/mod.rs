//! A small blocking resolver: questions to the servers of `[dns]` or resolv.conf, answers as facts, a bounded cache.

use std::fmt;
use std::net::IpAddr;

use super::deadline::Deadline;
use crate::clock::Clock;
use crate::config::Live;
use crate::policy::hosts::{Found, MxRecord};
use crate::smtp::address::Domain;

/// Address families to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamily {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// A definite answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The name at the end of the chain of CNAMEs, lower case, without trailing dot.
    pub expanded: String,
    /// The records, or which of the two ways in which there are none.
    pub found: Found<T>,
    /// Validated by a server whose word is trusted (DNS-8), the whole chain of CNAMEs included.
    pub authentic: bool,
}

/// Why a lookup has no definite answer. Always temporary (DNS-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsError {
    text: String,
    local: bool,
}

impl DnsError {
    /// Whether no server could be asked at all, which says nothing about the name (DV-19).
    pub fn is_local(&self) -> bool {
        self.local
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for DnsError {}

/// The resolver. Cheap to clone; all clones share one cache.
#[derive(Clone, Debug)]
pub struct Resolver {
    _live: Live,
}

impl Resolver {
    /// A resolver for the servers of the configuration in force, read anew for each lookup. `clock` ages the cache.
    pub fn new(live: Live, _clock: Clock) -> Resolver {
        Resolver { _live: live }
    }

    /// The MX records of `domain`, its CNAMEs followed (DV-1). Blocks until `deadline` or `dns.total_timeout`.
    ///
    /// # Errors
    /// [`DnsError`]: nothing definite is known.
    pub fn mx(&self, _domain: &Domain, _deadline: Deadline) -> Result<Answer<MxRecord>, DnsError> {
        unimplemented!("net")
    }

    /// The addresses of one family of `host`, its CNAMEs followed. Blocks as [`Resolver::mx`].
    ///
    /// # Errors
    /// [`DnsError`]: nothing definite is known.
    pub fn addresses(
        &self,
        _host: &Domain,
        _family: IpFamily,
        _deadline: Deadline,
    ) -> Result<Answer<IpAddr>, DnsError> {
        unimplemented!("net")
    }
}
