//! The least time between new connections to one destination (SC-8).

use std::time::Duration;

use crate::clock::Timestamp;

/// New connections.
#[derive(Debug)]
pub(super) struct Dial {
    /// The least time between two.
    pub(super) interval: Duration,
    /// When the next one may be made.
    pub(super) next: Timestamp,
    /// Somebody is on its way to make it.
    pub(super) handed: bool,
    /// Sessions that were kept and nobody is on its way to, as far as is known.
    pub(super) idle: usize,
}

impl Dial {
    /// How many transactions may begin now: those that are likely to find a session, and one that makes a connection.
    pub(super) fn room(&self, now: Timestamp) -> usize {
        self.idle + usize::from(!self.handed && self.next <= now)
    }

    /// When so many may begin; `None`: not by time alone.
    pub(super) fn until(&self, count: usize, now: Timestamp) -> Option<Timestamp> {
        if count <= self.idle {
            return Some(now);
        }
        let by_time = !self.handed && count == self.idle + 1;
        by_time.then(|| self.next.max(now))
    }

    /// So many begin.
    pub(super) fn take(&mut self, count: usize) {
        let reused = count.min(self.idle);
        self.idle -= reused;
        self.handed |= count > reused;
    }

    /// The clock has gone back: nothing waits longer than it would at most (RT-9).
    pub(super) fn clock_went_back(&mut self, now: Timestamp) {
        self.next = self.next.min(now.plus(self.interval));
    }

    /// One that was taken is given back.
    pub(super) fn unused(&mut self) {
        match self.handed {
            true => self.handed = false,
            false => self.idle += 1,
        }
    }

    /// A connection is being made.
    pub(super) fn book(&mut self, now: Timestamp) {
        self.next = self.next.max(now).plus(self.interval);
        self.handed = false;
    }
}
