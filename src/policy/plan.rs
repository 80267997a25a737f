//! The plan of one attempt: which hosts in which order, and which are skipped and why. Made by `policy::hosts` from DNS
//! facts, walked by `net::walk` for a worker, and printed by the operator's `explain`, so that the dry run cannot lie.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Relay;
use crate::smtp::address::{AddressDomain, Domain};

/// What a transport makes of a recipient: where the way begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Direct: the MX hosts of a domain.
    Domain(Domain),
    /// Direct: an address literal (DV-11).
    Literal(IpAddr),
    /// Relay: its hosts and ports, without MX (RO-5).
    Relay(Arc<Relay>),
}

impl From<&AddressDomain> for Target {
    fn from(domain: &AddressDomain) -> Target {
        match domain {
            AddressDomain::Name(name) => Target::Domain(name.clone()),
            AddressDomain::Literal(ip) => Target::Literal(*ip),
        }
    }
}

/// The plan. `hosts` shrinks and `skips` grows as answers come in; both keep their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the transport.
    pub transport: String,
    /// Where the way begins.
    pub target: Target,
    /// There are no MX records, so the domain itself is the host: what the MX question was answered (DV-2).
    pub implicit: Option<Missing>,
    /// Hosts still to be tried, best first.
    pub hosts: Vec<Host>,
    /// What is not tried, and why, in the order in which it was found out.
    pub skips: Vec<Skip>,
}

/// A definite answer without records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The name exists without such a record.
    NoData,
    /// The name does not exist.
    NxDomain,
}

/// A host to be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name or address.
    pub name: HostName,
    /// The port to dial.
    pub port: u16,
    /// The preference of its MX record; 0 where there is none.
    pub preference: u16,
    /// Whether its addresses must pass the check of DV-8; hosts named by the operator need not (DV-9).
    pub checked: bool,
}

/// How a host is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostName {
    /// By name.
    Name(Domain),
    /// By address: a literal, or an operator's relay.
    Ip(IpAddr),
    /// A Unix socket of an operator's.
    Unix(PathBuf),
}

/// As the log writes it: the name, or the bare address.
impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostName::Name(name) => name.fmt(f),
            HostName::Ip(ip) => ip.fmt(f),
            HostName::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A host, or one of its addresses, that is not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The host as it was named.
    pub host: String,
    /// The address, if only that is skipped.
    pub address: Option<IpAddr>,
    /// Why.
    pub reason: Reason,
}

/// Why something is skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is ourselves (DV-10).
    Ourselves,
    /// Its preference is not better than ours (DV-10).
    NotBetterThanOurselves,
    /// The MX record names no host (DV-5).
    InvalidName,
    /// A null MX beside other records (DV-3).
    NullMx,
    /// The name does not exist.
    NxDomain,
    /// It definitely has no address.
    NoAddress,
    /// It has none of the address family that `deliver.family` permits.
    Family,
    /// The lookup failed for now; the resolver's words.
    Dns(String),
    /// No DNS server could be asked at all, which says nothing about the host (DV-19).
    Resolver(String),
    /// The address is in a network that is not dialled (DV-8); its name.
    Network(&'static str),
    /// `deliver.max_mx` hosts were used up.
    MaxMx,
    /// `deliver.max_addresses` addresses were used up.
    MaxAddresses,
    /// The attempt's time was over.
    OutOfTime,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Ourselves => f.write_str("it is this host"),
            Reason::NotBetterThanOurselves => f.write_str("its preference is not below our own"),
            Reason::InvalidName => f.write_str("the MX record names no host"),
            Reason::NullMx => f.write_str("null MX beside other records"),
            Reason::NxDomain => f.write_str("the name does not exist"),
            Reason::NoAddress => f.write_str("it has no address"),
            Reason::Family => {
                f.write_str("it has no address of the family that deliver.family permits")
            }
            Reason::Dns(text) | Reason::Resolver(text) => f.write_str(text),
            Reason::Network(network) => {
                write!(
                    f,
                    "{network} is not dialled unless deliver.allow_private is set"
                )
            }
            Reason::MaxMx => f.write_str("deliver.max_mx hosts were looked at"),
            Reason::MaxAddresses => f.write_str("deliver.max_addresses addresses were dialled"),
            Reason::OutOfTime => f.write_str("deliver.attempt_timeout was over"),
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}[{address}]: {}", self.host, self.reason),
            None => write!(f, "{}: {}", self.host, self.reason),
        }
    }
}
