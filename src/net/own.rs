//! Who we are on the network: the facts for loop detection (DV-10).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Config, ListenAddress};
use crate::policy::hosts::Own;

/// How long the addresses of our interfaces are taken as known.
const KEEP: Duration = Duration::from_secs(30);

/// The facts as last gathered: every attempt needs them, and asking the system each time would cost more than the rest
/// of its plan.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Option<Facts>>);

#[derive(Debug)]
struct Facts {
    config: Arc<Config>,
    gathered: Instant,
    own: Arc<Own>,
}

impl Kept {
    /// The facts under this configuration.
    pub(super) fn facts(&self, config: &Arc<Config>) -> Arc<Own> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = &*lock()
            && Arc::ptr_eq(&facts.config, config)
            && facts.gathered.elapsed() < KEEP
        {
            return Arc::clone(&facts.own);
        }
        let own = Arc::new(gather(config));
        *lock() = Some(Facts {
            config: Arc::clone(config),
            gathered: Instant::now(),
            own: Arc::clone(&own),
        });
        own
    }
}

/// What leads back to us according to the configuration, wildcard listeners spread over our interfaces.
fn gather(config: &Config) -> Own {
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
