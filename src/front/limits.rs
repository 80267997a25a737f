//! How many sessions there may be, in all and of one client (IN-13).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config;
use crate::message::trace::Origin;

/// Who counts as one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Ip(IpAddr),
    Uid(Option<u32>),
    Own,
}

impl Key {
    fn of(origin: Origin) -> Key {
        match origin {
            Origin::Ip(ip) => Key::Ip(match ip.to_canonical() {
                // Who has one address of a /64 has them all.
                IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
                ip => ip,
            }),
            Origin::Uid(uid) => Key::Uid(uid),
            Origin::Own => Key::Own,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    // As many entries as sessions at most.
    clients: HashMap<Key, usize>,
}

/// The counts; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Limits(Arc<Mutex<Counts>>);

/// The place of one session, given back on drop.
#[derive(Debug)]
pub struct Place {
    limits: Limits,
    key: Key,
}

impl Limits {
    /// A place for a session of this client, if there is one.
    pub fn admit(&self, origin: Origin, limits: &config::Intake) -> Option<Place> {
        let key = Key::of(origin);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = &mut *counts;
        let client = counts.clients.get(&key).copied().unwrap_or(0);
        if counts.all >= limits.sessions || client >= limits.sessions_per_client {
            return None;
        }
        counts.all += 1;
        counts.clients.insert(key, client + 1);
        Some(Place {
            limits: self.clone(),
            key,
        })
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all = counts.all.saturating_sub(1);
        if let Some(client) = counts.clients.get_mut(&self.key) {
            *client -= 1;
            if *client == 0 {
                counts.clients.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::smtp::address::Domain;

    fn ip(text: &str) -> Origin {
        Origin::Ip(text.parse().unwrap())
    }

    // IN-13, PRC-8
    #[test]
    fn places_are_counted_in_all_and_per_client() {
        let mut intake = Config::default_for(Domain::parse("mail.here.example").unwrap()).intake;
        intake.sessions = 4;
        intake.sessions_per_client = 2;
        let limits = Limits::default();
        let first = limits.admit(ip("2001:db8::1"), &intake).unwrap();
        let second = limits.admit(ip("2001:db8::2:3:4:5"), &intake).unwrap();
        assert!(
            limits.admit(ip("2001:db8::9"), &intake).is_none(),
            "one /64"
        );
        let other = limits.admit(ip("2001:db8:0:1::1"), &intake).unwrap();
        drop(second);
        let again = limits.admit(ip("2001:db8::9"), &intake).unwrap();
        let last = limits.admit(Origin::Uid(Some(0)), &intake).unwrap();
        assert!(
            limits.admit(ip("192.0.2.1"), &intake).is_none(),
            "all taken"
        );
        drop((first, other, again, last));
        assert_eq!(limits.sessions(), 0);
        let mapped = [
            limits.admit(ip("192.0.2.1"), &intake),
            limits.admit(ip("::ffff:192.0.2.1"), &intake),
        ];
        assert!(
            limits.admit(ip("192.0.2.1"), &intake).is_none(),
            "one address in two forms"
        );
        drop(mapped);
        let counts = limits.0.lock().unwrap();
        assert!(counts.clients.is_empty());
    }
}
