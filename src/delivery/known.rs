//! Hosts of relays of which something is known for a while: that they are ailing, or cannot do what they announce.
//!
//! A host that has just failed (RO-5) is asked last for a minute, so that a relay with one dead host out of two costs the
//! first few transactions their time and not each of them. Nothing is decided by it but the order. One that lost count of
//! commands behind a content gets them a step at a time for an hour ([`following`](super::following)). Once the time is
//! over one transaction tries whether it still holds, while the others go on as if it did.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::plan::HostName;

/// How long a host that failed is asked last.
const MINUTE: Duration = Duration::from_secs(60);

/// How long a host gets one step at a time.
const HOUR: Duration = Duration::from_secs(3600);

/// Those remembered (PRC-8): more hosts than any configuration has.
const MOST: usize = 1000;

/// The hosts that one thing is known of.
#[derive(Debug)]
pub(super) struct KnownHosts {
    /// For how long.
    wait: Duration,
    /// There are some. Without any nobody takes the lock.
    any: AtomicBool,
    until: Mutex<HashMap<(HostName, u16), Instant>>,
}

impl KnownHosts {
    /// None yet; each is remembered for a minute.
    pub(super) fn for_a_minute() -> KnownHosts {
        KnownHosts::remembered_for(MINUTE)
    }

    /// None yet; each is remembered for an hour.
    pub(super) fn for_an_hour() -> KnownHosts {
        KnownHosts::remembered_for(HOUR)
    }

    fn remembered_for(wait: Duration) -> KnownHosts {
        KnownHosts {
            wait,
            any: AtomicBool::new(false),
            until: Mutex::default(),
        }
    }

    /// It holds of this one from now on.
    pub(super) fn add(&self, host: &HostName, port: u16) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= MOST {
            until.clear();
        }
        until.insert((host.clone(), port), Instant::now() + self.wait);
        self.any.store(true, Ordering::Relaxed);
    }

    /// It holds no longer.
    pub(super) fn remove(&self, host: &HostName, port: u16) {
        if self.any.load(Ordering::Relaxed) {
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            until.remove(&(host.clone(), port));
            self.any.store(!until.is_empty(), Ordering::Relaxed);
        }
    }

    /// Whether it holds. Whoever is told no about a host of which it did finds out about it.
    pub(super) fn has(&self, host: &HostName, port: u16) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(until) = until.get_mut(&(host.clone(), port)) else {
            return false;
        };
        let now = Instant::now();
        if *until > now {
            return true;
        }
        *until = now + self.wait;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RO-5
    #[test]
    fn a_host_that_failed_is_asked_last_until_one_finds_that_it_works() {
        let known = KnownHosts::for_a_minute();
        let host = HostName::Ip("192.0.2.1".parse().unwrap());
        assert!(!known.has(&host, 25));
        known.add(&host, 25);
        assert!(known.has(&host, 25) && !known.has(&host, 587));
        let past = Instant::now() - Duration::from_millis(1);
        known.until.lock().unwrap().insert((host.clone(), 25), past);
        assert!(!known.has(&host, 25), "one tries it");
        assert!(known.has(&host, 25), "and the others wait");
        known.remove(&host, 25);
        assert!(!known.has(&host, 25));
        assert!(!known.any.load(Ordering::Relaxed));
    }
}
