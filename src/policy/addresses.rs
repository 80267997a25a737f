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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn order(found: &[&str], family: Family, dialled: &[&str], seed: u64) -> Vec<IpAddr> {
        let rules = Rules {
            family,
            checked: true,
            dialled: &ips(dialled),
            seed,
        };
        dial_list("mx.example", &ips(found), &rules).addresses
    }

    const TWO_OF_EACH: [&str; 4] = ["192.88.99.1", "192.88.99.2", "2600::1", "2600::2"];

    // DV-8
    #[test]
    fn private_and_special_networks_are_not_dialled_in_any_form() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.255.255.255",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff::1",
            "fc00::1",
            "fdff::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "64:ff9b::10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "2002:a9fe:a9fe:1:2:3:4:5",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert!(forbidden_network(ip).is_some(), "{ip}");
        }
    }

    // DV-8
    #[test]
    fn public_addresses_next_to_them_are_dialled() {
        for ip in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2600::1",
            "fbff::1",
            "fe00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2003:7f00:1::",
        ] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(forbidden_network(ip), None, "{ip}");
        }
    }

    // DV-8, DV-9
    #[test]
    fn forbidden_addresses_are_skipped_with_their_network_unless_unchecked() {
        let found = ips(&["10.0.0.1", "192.88.99.1", "::ffff:127.0.0.1"]);
        let mut rules = Rules {
            family: Family::Alternate,
            checked: true,
            dialled: &[],
            seed: 1,
        };
        let list = dial_list("mx.example", &found, &rules);
        assert_eq!(list.addresses, ips(&["192.88.99.1"]));
        let reasons: Vec<Reason> = list.skips.into_iter().map(|skip| skip.reason).collect();
        assert_eq!(
            reasons,
            [
                Reason::Network("10.0.0.0/8"),
                Reason::Network("127.0.0.0/8")
            ]
        );
        rules.checked = false;
        assert_eq!(
            dial_list("relay.example", &found, &rules).addresses.len(),
            3
        );
    }

    // DV-12
    #[test]
    fn the_next_attempt_takes_the_other_family() {
        for seed in 0..8 {
            let first = order(&TWO_OF_EACH, Family::Alternate, &[], seed);
            assert!(first[0].is_ipv6());
            // The families take turns.
            assert!(first[1].is_ipv4() && first[2].is_ipv6());
            let used = first[0].to_string();
            let second = order(&TWO_OF_EACH, Family::Alternate, &[&used], seed);
            assert!(second[0].is_ipv4());
            let also = second[0].to_string();
            // And back to the very address that was used before.
            let third = order(&TWO_OF_EACH, Family::Alternate, &[&used, &also], seed);
            assert_eq!(third[0], first[0]);
        }
    }

    // DV-12
    #[test]
    fn within_a_family_the_address_used_last_goes_first() {
        let found = ["192.88.99.1", "192.88.99.2", "192.88.99.3", "192.88.99.4"];
        for seed in 0..8 {
            let used = ["192.88.99.4", "192.88.99.2"];
            let order = order(&found, Family::Alternate, &used, seed);
            assert_eq!(order[..2], ips(&["192.88.99.2", "192.88.99.4"]));
        }
        let firsts: std::collections::HashSet<IpAddr> = (0..64)
            .map(|seed| order(&found, Family::Alternate, &[], seed)[0])
            .collect();
        assert_eq!(firsts.len(), 4);
    }

    // DV-12
    #[test]
    fn preferred_and_only_families_do_as_named() {
        let v4_first = order(&TWO_OF_EACH, Family::Prefer4, &["192.88.99.1"], 1);
        assert_eq!(v4_first[0], ips(&["192.88.99.1"])[0]);
        assert!(v4_first[1].is_ipv4() && v4_first[2].is_ipv6());
        let v6_first = order(&TWO_OF_EACH, Family::Prefer6, &["2600::1"], 1);
        assert!(v6_first[1].is_ipv6() && v6_first[3].is_ipv4());
        let only = order(&TWO_OF_EACH, Family::Only4, &[], 1);
        assert!(only.len() == 2 && only.iter().all(IpAddr::is_ipv4));
        let only = order(&TWO_OF_EACH, Family::Only6, &[], 1);
        assert!(only.len() == 2 && only.iter().all(IpAddr::is_ipv6));
    }

    // DV-17
    #[test]
    fn a_host_has_both_families_only_by_addresses_that_can_be_dialled() {
        let rules = Rules {
            family: Family::Alternate,
            checked: true,
            dialled: &[],
            seed: 1,
        };
        let both = |found: &[&str]| dial_list("mx.example", &ips(found), &rules).both_families;
        assert!(both(&["192.88.99.1", "2600::1"]));
        assert!(!both(&["192.88.99.1", "::1"]));
        assert!(!both(&["192.88.99.1", "::ffff:192.88.99.2"]));
    }

    // DNS-9
    #[test]
    fn of_a_flood_of_addresses_twenty_are_looked_at() {
        let many: Vec<String> = (0..60).map(|n| format!("192.88.99.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(order(&many, Family::Alternate, &[], 1).len(), 20);
        // The same address many times is one.
        assert_eq!(
            order(&["192.88.99.1"; 50], Family::Alternate, &[], 1).len(),
            1
        );
    }

    // DV-13
    #[test]
    fn the_first_source_address_of_the_family_is_used() {
        let sources = ips(&["2001:db8::1", "192.0.2.1", "192.0.2.2"]);
        let v4 = "192.88.99.1".parse().unwrap();
        assert_eq!(source(&sources, v4), Some(sources[1]));
        assert_eq!(source(&sources[..1], v4), None);
        assert_eq!(source(&[], v4), None);
    }

    // DV-8, DV-10
    #[test]
    fn our_own_listeners_are_ourselves_and_a_strangers_word_for_loopback_is_not() {
        let own = Own {
            hostname: Domain::parse("us.example").unwrap(),
            endpoints: vec![
                "198.51.100.9:25".parse().unwrap(),
                "127.0.0.1:25".parse().unwrap(),
            ],
        };
        let ours = |ip: &str, port, checked| is_ourselves(&ips(&[ip]), port, checked, &own);
        assert!(ours("198.51.100.9", 25, true));
        assert!(ours("::ffff:198.51.100.9", 25, true));
        assert!(!ours("198.51.100.9", 2525, true));
        assert!(!ours("198.51.100.10", 25, true));
        assert!(!ours("127.0.0.1", 25, true));
        assert!(ours("127.0.0.1", 25, false));
    }
}
