//! Which addresses of a host are dialled, in which order, from which address of ours (DV-6 to DV-9, DV-12, DV-13).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Family;
use crate::policy::hosts::Own;
use crate::policy::plan::{Reason, Skip};

/// DNS-9: addresses of one host that are looked at.
const MAX_PER_HOST: usize = 20;

/// What decides about a host's addresses.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// `deliver.family`.
    pub family: Family,
    /// Whether the addresses must pass the check of DV-8: an MX host, and not `deliver.allow_private`.
    pub checked: bool,
    /// Addresses dialled for these recipients before, latest last.
    pub dialled: &'a [IpAddr],
    /// For the order among equals.
    pub seed: u64,
}

/// A host's addresses, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialList {
    /// To be dialled in this order.
    pub addresses: Vec<IpAddr>,
    /// Not to be dialled, with the reason.
    pub skips: Vec<Skip>,
    /// Addresses of both families are left (DV-17).
    pub both_families: bool,
}

/// Filters and orders the addresses of `host`.
pub fn dial_list(host: &str, found: &[IpAddr], rules: &Rules<'_>) -> DialList {
    let mut skips = Vec::new();
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for ip in found {
        // A mapped address is the IPv4 address that would be dialled.
        let ip = ip.to_canonical();
        let list = if ip.is_ipv4() { &mut v4 } else { &mut v6 };
        if list.contains(&ip) || list.len() == MAX_PER_HOST {
            continue;
        }
        let refused = rules.checked.then(|| forbidden_network(ip)).flatten();
        let reason = match refused {
            Some(network) => Reason::Network(network),
            None if !permits(rules.family, ip) => Reason::Family,
            None => {
                list.push(ip);
                continue;
            }
        };
        if skips.len() < MAX_PER_HOST {
            skips.push(Skip {
                host: host.to_string(),
                address: Some(ip),
                reason,
            });
        }
    }
    let both_families = !v4.is_empty() && !v6.is_empty();
    let last = rules
        .dialled
        .iter()
        .rev()
        .map(IpAddr::to_canonical)
        .find(|ip| v4.contains(ip) || v6.contains(ip));
    let v6_first = match (rules.family, last) {
        (Family::Prefer4 | Family::Only4, _) => false,
        (Family::Prefer6 | Family::Only6, _) => true,
        (Family::Alternate, Some(last)) => last.is_ipv4(),
        // RFC 6724 §2.1: without other knowledge IPv6 goes first.
        (Family::Alternate, None) => true,
    };
    order_within(&mut v4, rules);
    order_within(&mut v6, rules);
    let (first, second) = if v6_first { (v6, v4) } else { (v4, v6) };
    let mut addresses = match rules.family {
        // The families take turns, so that one without a route costs little.
        Family::Alternate => interleave(first, second),
        _ => [first, second].concat(),
    };
    addresses.truncate(MAX_PER_HOST);
    DialList {
        addresses,
        skips,
        both_families,
    }
}

/// Whether `family` permits the address at all.
pub fn permits(family: Family, ip: IpAddr) -> bool {
    match family {
        Family::Only4 => ip.is_ipv4(),
        Family::Only6 => ip.is_ipv6(),
        Family::Alternate | Family::Prefer4 | Family::Prefer6 => true,
    }
}

/// The address used last goes first, for greylisting (DV-12); the others are shuffled to share the load.
fn order_within(addresses: &mut [IpAddr], rules: &Rules<'_>) {
    addresses.sort_by_cached_key(|ip| {
        let last_use = rules
            .dialled
            .iter()
            .rposition(|used| used.to_canonical() == *ip);
        let rank = match last_use {
            Some(at) => rules.dialled.len() - at,
            None => usize::MAX,
        };
        (rank, super::hosts::shuffle_key(rules.seed, &ip.to_string()))
    });
}

fn interleave(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        match (first.next(), second.next()) {
            (None, None) => return all,
            (one, other) => all.extend(one.into_iter().chain(other)),
        }
    }
}

/// The first of our `source_addresses` of the dialled family, the same at every attempt (DV-13).
pub fn source(source_addresses: &[IpAddr], dialled: IpAddr) -> Option<IpAddr> {
    source_addresses
        .iter()
        .find(|ip| ip.is_ipv4() == dialled.is_ipv4())
        .copied()
}

/// Whether one of the addresses leads back to us. Loopback and its like do not count here: whoever names them is
/// refused by the check of DV-8, and where that is off, `own` says what is ours.
pub fn is_ourselves(found: &[IpAddr], port: u16, checked: bool, own: &Own) -> bool {
    found.iter().any(|ip| {
        let ip = ip.to_canonical();
        let local = ip.is_loopback() || ip.is_unspecified();
        !(checked && local) && own.has_endpoint(ip, port)
    })
}

/// The network of DV-8 that the address is in, also inside an IPv6 form of an IPv4 address; `None` if it may be dialled
/// at a stranger's word. Holds for MX hosts and for the hosts of MTA-STS and TLSRPT (DV-9).
pub fn forbidden_network(ip: IpAddr) -> Option<&'static str> {
    match ip {
        IpAddr::V4(ip) => forbidden_v4(ip),
        IpAddr::V6(ip) => forbidden_v6(ip),
    }
}

fn forbidden_v4(ip: Ipv4Addr) -> Option<&'static str> {
    const NETWORKS: [(u32, u32, &str); 11] = [
        (0x0000_0000, 8, "0.0.0.0/8"),
        (0x0a00_0000, 8, "10.0.0.0/8"),
        (0x6440_0000, 10, "100.64.0.0/10"),
        (0x7f00_0000, 8, "127.0.0.0/8"),
        (0xa9fe_0000, 16, "169.254.0.0/16"),
        (0xac10_0000, 12, "172.16.0.0/12"),
        (0xc000_0000, 24, "192.0.0.0/24"),
        (0xc0a8_0000, 16, "192.168.0.0/16"),
        (0xc612_0000, 15, "198.18.0.0/15"),
        (0xe000_0000, 4, "224.0.0.0/4"),
        (0xf000_0000, 4, "240.0.0.0/4"),
    ];
    let bits = ip.to_bits();
    NETWORKS
        .iter()
        .find(|(network, length, _)| (bits ^ network) >> (32 - length) == 0)
        .map(|(_, _, name)| *name)
}

fn forbidden_v6(ip: Ipv6Addr) -> Option<&'static str> {
    if ip.is_unspecified() {
        return Some("::/128");
    }
    if ip.is_loopback() {
        return Some("::1/128");
    }
    let segments = ip.segments();
    match segments[0] {
        first if first & 0xffc0 == 0xfe80 => return Some("fe80::/10"),
        first if first & 0xffc0 == 0xfec0 => return Some("fec0::/10"),
        first if first & 0xfe00 == 0xfc00 => return Some("fc00::/7"),
        first if first & 0xff00 == 0xff00 => return Some("ff00::/8"),
        _ => {}
    }
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    let inside = match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4: the gateway's IPv4 address follows the prefix.
        [0x2002, high, low, ..] => v4(high, low),
        _ => return None,
    };
    forbidden_v4(inside)
}
