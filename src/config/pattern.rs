//! Domain patterns and client networks (CFG-3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use toml::Spanned;
use toml::de::DeValue;

use super::table::Fault;
use super::value::{Value, parsed, quoted};
use crate::smtp::address::{AddressDomain, Domain};

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
    pub fn matches(&self, ip: Option<IpAddr>) -> bool {
        let Some(ip) = ip.map(|ip| ip.to_canonical()) else {
            return *self == ClientPattern::Unix;
        };
        match self {
            ClientPattern::Unix => false,
            // 127.0.0.0/8 and ::1.
            ClientPattern::Loopback => ip.is_loopback(),
            ClientPattern::Net(net, length) => match (net, ip) {
                (IpAddr::V4(net), IpAddr::V4(ip)) => same_v4(*net, ip, *length),
                (IpAddr::V6(net), IpAddr::V6(ip)) => same_v6(*net, ip, *length),
                _ => false,
            },
        }
    }

    /// Whether every address of a family is in it: an open door, worth a warning.
    pub fn is_everyone(&self) -> bool {
        matches!(self, ClientPattern::Net(_, 0))
    }

    fn parse(text: &str) -> Result<ClientPattern, &'static str> {
        const WANTED: &str =
            "wanted is loopback, unix, an address or a network such as 192.0.2.0/24";
        match text {
            "loopback" => return Ok(ClientPattern::Loopback),
            "unix" => return Ok(ClientPattern::Unix),
            _ => {}
        }
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) => (ip, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| WANTED)?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(text) if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Err("the prefix length is no number");
            }
            Some(text) => text.parse().unwrap_or(u8::MAX),
        };
        if length > bits {
            return Err("the prefix is longer than the address");
        }
        // 192.0.2.7/24 is a slip of the pen: either the host or the network was meant.
        let inside = match ip {
            IpAddr::V4(ip) => length == 32 || u32::from(ip) << length == 0,
            IpAddr::V6(ip) => length == 128 || u128::from(ip) << length == 0,
        };
        if !inside {
            return Err("the address has bits behind the prefix");
        }
        if let IpAddr::V6(v6) = ip
            && v6.to_ipv4_mapped().is_some()
        {
            return Err("write IPv4 networks as IPv4");
        }
        Ok(ClientPattern::Net(ip, length))
    }
}

fn same_v4(net: Ipv4Addr, ip: Ipv4Addr, length: u8) -> bool {
    let differ = u32::from(net) ^ u32::from(ip);
    differ.leading_zeros() >= u32::from(length)
}

fn same_v6(net: Ipv6Addr, ip: Ipv6Addr, length: u8) -> bool {
    let differ = u128::from(net) ^ u128::from(ip);
    differ.leading_zeros() >= u32::from(length)
}

impl Value for ClientPattern {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<ClientPattern, Fault> {
        parsed(value, "a network in quotes", ClientPattern::parse)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&match self {
            ClientPattern::Loopback => "loopback".to_owned(),
            ClientPattern::Unix => "unix".to_owned(),
            ClientPattern::Net(ip, length) => format!("{ip}/{length}"),
        }))
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
    pub fn matches(&self, domain: &AddressDomain) -> bool {
        let name = match domain {
            AddressDomain::Name(name) => name,
            AddressDomain::Literal(_) => return *self == DomainPattern::All,
        };
        match self {
            DomainPattern::All => true,
            DomainPattern::Exact(own) => own == name,
            DomainPattern::Subtree(own) => {
                let head = name.as_str().strip_suffix(own.as_str());
                head.is_some_and(|head| head.is_empty() || head.ends_with('.'))
            }
        }
    }

    fn parse(text: &str) -> Result<DomainPattern, String> {
        if text == "*" {
            return Ok(DomainPattern::All);
        }
        let (name, pattern): (_, fn(Domain) -> DomainPattern) = match text.strip_prefix('.') {
            Some(name) => (name, DomainPattern::Subtree),
            None => (text, DomainPattern::Exact),
        };
        Domain::parse(name).map(pattern).map_err(|error| {
            format!("{error}; a pattern is a domain, .domain for it and all below it, or *")
        })
    }
}

impl Value for DomainPattern {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<DomainPattern, Fault> {
        parsed(value, "a domain pattern", DomainPattern::parse)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&match self {
            DomainPattern::Exact(domain) => domain.to_string(),
            DomainPattern::Subtree(domain) => format!(".{domain}"),
            DomainPattern::All => "*".to_owned(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> AddressDomain {
        AddressDomain::Name(Domain::parse(text).unwrap())
    }

    // CFG-3
    #[test]
    fn a_domain_pattern_means_the_name_or_its_subtree_or_all() {
        let pattern = |text: &str| DomainPattern::parse(text).unwrap();
        assert!(pattern("Example.ORG").matches(&name("example.org")));
        assert!(!pattern("example.org").matches(&name("a.example.org")));
        assert!(pattern(".example.org").matches(&name("example.org")));
        assert!(pattern(".example.org").matches(&name("a.b.example.org")));
        assert!(!pattern(".example.org").matches(&name("badexample.org")));
        assert!(pattern("b\u{fc}cher.example").matches(&name("xn--bcher-kva.example")));
        let literal = AddressDomain::Literal([192, 0, 2, 1].into());
        assert!(pattern("*").matches(&name("x.example")) && pattern("*").matches(&literal));
        assert!(!pattern(".example").matches(&literal));
        for bad in ["", ".", "*.example.org", "a b", "..example"] {
            assert!(DomainPattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    // CFG-3
    #[test]
    fn a_client_pattern_means_a_network_loopback_or_a_unix_socket() {
        let matches = |pattern: &str, ip: &str| {
            ClientPattern::parse(pattern)
                .unwrap()
                .matches(Some(ip.parse().unwrap()))
        };
        assert!(matches("loopback", "127.9.9.9") && matches("loopback", "::1"));
        assert!(
            matches("loopback", "::ffff:127.0.0.1"),
            "mapped counts as IPv4"
        );
        assert!(!matches("loopback", "192.0.2.1") && !matches("unix", "127.0.0.1"));
        assert!(matches("192.0.2.0/24", "192.0.2.255") && !matches("192.0.2.0/24", "192.0.3.0"));
        assert!(matches("192.0.2.7", "192.0.2.7") && !matches("192.0.2.7", "192.0.2.6"));
        assert!(matches("0.0.0.0/0", "8.8.8.8") && !matches("0.0.0.0/0", "2001:db8::1"));
        assert!(
            matches("2001:db8::/32", "2001:db8:1::1") && !matches("2001:db8::/32", "2001:db9::")
        );
        assert!(matches("::/0", "2001:db8::1") && !matches("::/0", "192.0.2.1"));
        assert!(ClientPattern::Unix.matches(None) && !ClientPattern::Loopback.matches(None));
        for bad in [
            "",
            "localhost",
            "192.0.2.7/24",
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/",
            "192.0.2.0/+8",
            "300.0.0.0/8",
            "192.0.2/24",
            "::ffff:192.0.2.0/120",
        ] {
            assert!(ClientPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
