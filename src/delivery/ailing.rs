//! Hosts of relays that have just failed (RO-5): for a minute they are asked last, so that a relay with one dead host out
//! of two costs the first few transactions their time and not each of them.
//!
//! Nothing is decided by it but the order. After the minute one transaction tries whether the host is well again, while
//! the others go on asking it last. The same memory, of an hour, serves hosts that cannot take commands in groups as large
//! as they announce ([`following`](super::following)).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::plan::HostName;

/// How long a host is asked last.
const MINUTE: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

/// Those remembered (PRC-8): more hosts than any configuration has.
const MOST: usize = 1000;

/// The hosts that are not well.
#[derive(Debug)]
pub(super) struct Ailing {
    /// How long one is remembered.
    wait: Duration,
    /// There are some. Without any nobody takes the lock.
    any: AtomicBool,
    until: Mutex<HashMap<(HostName, u16), Instant>>,
}

impl Ailing {
    /// None yet; each is remembered for a minute.
    pub(super) fn for_a_minute() -> Ailing {
        Ailing::remembered_for(MINUTE)
    }

    /// None yet; each is remembered for an hour.
    pub(super) fn for_an_hour() -> Ailing {
        Ailing::remembered_for(HOUR)
    }

    fn remembered_for(wait: Duration) -> Ailing {
        Ailing {
            wait,
            any: AtomicBool::new(false),
            until: Mutex::default(),
        }
    }

    /// It has just failed.
    pub(super) fn add(&self, host: &HostName, port: u16) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= MOST {
            until.clear();
        }
        until.insert((host.clone(), port), Instant::now() + self.wait);
        self.any.store(true, Ordering::Relaxed);
    }

    /// It works.
    pub(super) fn remove(&self, host: &HostName, port: u16) {
        if self.any.load(Ordering::Relaxed) {
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            until.remove(&(host.clone(), port));
            self.any.store(!until.is_empty(), Ordering::Relaxed);
        }
    }

    /// Whether it is to be asked last. Whoever is told no about a host that was not well finds out about it.
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
        let ailing = Ailing::for_a_minute();
        let host = HostName::Ip("192.0.2.1".parse().unwrap());
        assert!(!ailing.has(&host, 25));
        ailing.add(&host, 25);
        assert!(ailing.has(&host, 25) && !ailing.has(&host, 587));
        let past = Instant::now() - Duration::from_millis(1);
        ailing
            .until
            .lock()
            .unwrap()
            .insert((host.clone(), 25), past);
        assert!(!ailing.has(&host, 25), "one tries it");
        assert!(ailing.has(&host, 25), "and the others wait");
        ailing.remove(&host, 25);
        assert!(!ailing.has(&host, 25));
        assert!(!ailing.any.load(Ordering::Relaxed));
    }
}
