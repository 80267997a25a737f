//! How much content is held for messages that are being received (ST-17).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count of octets; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<AtomicU64>);

/// A share of it, given back on drop.
#[derive(Debug)]
pub struct Share {
    memory: Memory,
    octets: u64,
}

impl Memory {
    /// A share of `octets`, if all shares together stay within `limit`. One message alone is always let in: a limit
    /// that is too small must not stop mail for ever.
    pub fn share(&self, octets: u64, limit: u64) -> Option<Share> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                let wanted = held.saturating_add(octets);
                (held == 0 || wanted <= limit).then_some(wanted)
            })
            .ok()?;
        Some(Share {
            memory: self.clone(),
            octets,
        })
    }

    /// Octets that are held now.
    pub fn held(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Whether it is of so many octets.
    pub fn covers(&self, octets: u64) -> bool {
        self.octets >= octets
    }

    /// Makes it larger, if all shares together stay within `limit`.
    pub fn grow(&mut self, more: u64, limit: u64) -> bool {
        let alone = self.memory.held() == self.octets;
        match self
            .memory
            .share(more, if alone { u64::MAX } else { limit })
        {
            Some(mut added) => {
                // What it held is ours to give back now.
                self.octets += std::mem::take(&mut added.octets);
                true
            }
            None => false,
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.octets, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ST-17
    #[test]
    fn shares_stay_within_the_limit_and_come_back() {
        let memory = Memory::default();
        let first = memory.share(80, 50);
        assert!(first.is_some() && memory.share(1, 50).is_none());
        drop(first);
        let second = memory.share(30, 50).unwrap();
        let third = memory.share(20, 50).unwrap();
        assert!(memory.share(1, 50).is_none());
        drop(third);
        let mut second = second;
        assert!(second.grow(40, 50), "alone it may go over");
        assert!(second.covers(70) && !second.covers(71));
        let fourth = memory.share(0, 70).unwrap();
        let mut fifth = memory.share(1, 71).unwrap();
        assert!(!fifth.grow(1, 71) && fifth.grow(1, 72));
        assert_eq!(memory.held(), 72);
        drop((second, fourth, fifth));
        assert_eq!(memory.held(), 0);
    }
}
