//! Who we are on the network: the facts for loop detection (DV-10).

use std::net::{IpAddr, SocketAddr};

use crate::config::{Config, ListenAddress};
use crate::policy::hosts::Own;

/// What leads back to us according to the configuration, wildcard listeners spread over our interfaces.
pub(super) fn facts(config: &Config) -> Own {
    let mut endpoints = Vec::new();
    let mut interfaces = None;
    for listen in &config.listen {
        let ListenAddress::Tcp(address) = &listen.address else {
            continue;
        };
        if address.port() == 0 {
            continue;
        }
        if !address.ip().is_unspecified() {
            endpoints.push(*address);
            continue;
        }
        let v6_too = address.is_ipv6();
        endpoints.extend(
            interfaces
                .get_or_insert_with(interface_addresses)
                .iter()
                // An IPv6 wildcard may take IPv4 as well.
                .filter(|ip| v6_too || ip.is_ipv4())
                .map(|ip| SocketAddr::new(*ip, address.port())),
        );
    }
    Own {
        hostname: config.hostname.clone(),
        endpoints,
    }
}

/// The addresses of our interfaces; none where the system does not tell.
fn interface_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect()
}
