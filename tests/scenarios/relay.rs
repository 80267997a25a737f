//! Relays as smarthosts: TLS, AUTH, failover, redial, proxy, and what happens when one is broken (RO-5 to RO-12, RO-16, RO-17).

mod auth;
mod broken;
mod following;
mod hosts;
mod proxy;
mod redial;
mod trial;

use std::sync::Arc;

use posthaste::config::{Access, Login, Relay, RelayHost, Secret, Transport, TransportKind};
use posthaste::smtp::address::Domain;

use crate::client::bench::Bench;
use crate::support::mx::{Mx, Script};
use crate::tls::pki;

pub const BOB: &[&str] = &["bob@dest.test"];

/// Shows a certificate for `smart1.test`.
pub fn good() -> Script {
    Script::new().identity(pki().certificate("good", "smart1.test"))
}

/// The relay with the hosts `smart1.test`, `smart2.test` and so on, and TLS as it is by default.
pub fn relay(hosts: &[&Mx]) -> Relay {
    let named = |(n, host): (usize, &&Mx)| {
        let name = Domain::parse(&format!("smart{}.test", n + 1)).unwrap();
        (RelayHost::Name(name), host.port())
    };
    let mut relay = Relay::plain(hosts.iter().enumerate().map(named).collect());
    relay.tls = None;
    relay.access = Some(Arc::new(Access {
        login: None,
        ca_file: Some(pki().ca_file.clone()),
    }));
    relay
}

/// With this user and the password `sesame`.
pub fn with_login(relay: &mut Relay, user: &str) -> Login {
    let login = Login {
        user: user.to_string(),
        password: Secret::new("sesame"),
        mechanisms: Vec::new(),
        danger_without_tls: false,
    };
    set_login(relay, login.clone());
    login
}

pub fn set_login(relay: &mut Relay, login: Login) {
    let ca_file = relay.access.as_ref().and_then(|own| own.ca_file.clone());
    relay.access = Some(Arc::new(Access {
        login: Some(login),
        ca_file,
    }));
}

/// Everything goes through this relay.
pub fn bench(hosts: &[&Mx], change: impl FnOnce(&mut Relay)) -> Bench {
    let mut relay = relay(hosts);
    change(&mut relay);
    let mut bench = Bench::with(&[], |config| {
        config.transport.push(Transport {
            name: "smart".to_string(),
            kind: TransportKind::Relay(Arc::new(relay)),
            line: None,
            retry: None,
            limits: Default::default(),
        });
    });
    for (n, host) in hosts.iter().enumerate() {
        let ip = host.address().ip().to_string();
        bench.dns.a(&format!("smart{}.test", n + 1), &ip);
    }
    bench.transport = "smart".to_string();
    bench
}
