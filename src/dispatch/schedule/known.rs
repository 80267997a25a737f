//! What is known of destinations: their hosts, what they may have, and why their mail waits (SC-4 to SC-6, SC-9).

use std::collections::{BTreeMap, BTreeSet};

use super::Schedule;
use crate::clock::Timestamp;
use crate::dispatch::dead::DeadDestination;
use crate::dispatch::turns::Active;
use crate::dispatch::windows::{Learned, MxHosts, Windows};
use crate::policy::limit::Limits;
use crate::store::{DestinationKey, LearnedWindow};

/// What was claimed for one transaction.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The limits that were known then.
    pub limits: Limits,
    /// How many recipients it has.
    pub recipients: usize,
}

impl Claim {
    /// Whether it might have been claimed under these limits too.
    fn obeys(&self, limits: &Limits) -> bool {
        let (then, now) = (self.limits.per_address_day, limits.per_address_day);
        // Who was not counted is not to be sent where that is asked for.
        let counted = now == 0 || (1..=now).contains(&then);
        self.recipients <= limits.recipients && counted
    }
}

/// What is known of a destination, for `domains` (CTL-16).
#[derive(Clone, Debug)]
pub struct Known {
    /// Its key.
    pub key: DestinationKey,
    /// All with the same hosts, whose window it shares (SC-4).
    pub group: Option<DestinationKey>,
    /// Its transactions in flight; of a group those of all in it.
    pub in_flight: usize,
    /// Most connections that it may have now.
    pub window: usize,
    /// What an operator allows it.
    pub limits: Limits,
    /// The limit that its due mail waits for, if it has any, and until when.
    pub waits_for: Option<(String, Option<Timestamp>)>,
    /// What was learned of it.
    pub learned: Option<Learned>,
    /// It is dead.
    pub dead: Option<DeadDestination>,
}

impl Schedule {
    /// A domain has these hosts, by what a worker found whose transaction counts as running (SC-4). `false`: others have
    /// all their connections, and the mail is to wait with theirs; or it was claimed before anybody knew which limits hold
    /// for it (SC-9), as `claim` does not obey them.
    pub fn enter(&mut self, key: &DestinationKey, hosts: MxHosts<'_>, claim: &Claim) -> bool {
        if self.dead.is_dead(key) {
            self.turns.note_hosts(key, hosts);
            return claim.obeys(&self.limits(key)); // for the rest it has its own rules
        }
        let before = self.turns.windows().home(key).clone();
        self.turns.join_group(key, hosts);
        // What of its mail waits for a rate waits with the others from here on.
        if self.turns.windows().home(key) != &before
            && self.rates.leave(&before, key)
            && self.blocks.group(key).is_none()
            && !self.turns.offer(key)
        {
            self.scan.again(Timestamp::default());
        }
        let limits = self.limits(key);
        if !claim.obeys(&limits) {
            return false;
        }
        let (running, window) = self.turns.crowd(key);
        let alone = self.turns.home_of(key) != hosts.group;
        alone && claim.limits.connections <= limits.connections || running <= window
    }

    /// What an operator allows a destination, as far as is known.
    pub fn limits(&self, key: &DestinationKey) -> Limits {
        self.turns.windows().limits(key)
    }

    /// The limit that due mail of `key` waits for now, and until when (SC-9).
    pub fn limit(
        &self,
        key: &DestinationKey,
        now: Timestamp,
    ) -> Option<(String, Option<Timestamp>)> {
        let home = self.turns.windows().home(key);
        let rate = self.rates.why(home, key, now);
        rate.or_else(|| {
            // Not what is claimed: a slot that is set aside for the very row may not be needed.
            let (running, window) = self.turns.crowd(key);
            let full = running >= window;
            full.then(|| (format!("connections {window}"), None))
        })
    }

    /// The destination whose window it shares, itself or the group of its hosts.
    pub fn home_of(&self, key: &DestinationKey) -> DestinationKey {
        self.turns.home_of(key).clone()
    }

    /// Most connections that a destination may have now (SC-5).
    pub fn window_of(&self, key: &DestinationKey) -> usize {
        self.turns.window_of(key)
    }

    /// Transactions with the workers of all that share its window.
    pub fn running(&self, key: &DestinationKey) -> usize {
        self.turns.crowd(key).0
    }

    /// What the store kept of windows, before anything else.
    pub fn load_windows(&mut self, kept: Vec<(DestinationKey, LearnedWindow)>) {
        self.turns.load(kept);
    }

    /// An operator sets a window, and may fix it there (SC-6). The size that it has now.
    pub fn set_window(
        &mut self,
        key: &DestinationKey,
        size: Option<usize>,
        pin: bool,
        now: Timestamp,
    ) -> usize {
        self.lessons.push(key.clone());
        let set = |windows: &mut Windows| windows.set(key, size, pin, now);
        self.turns.change_window(key, set)
    }

    /// An operator lets a window begin anew. Whether something was learned before.
    pub fn clear_window(&mut self, key: &DestinationKey) -> bool {
        self.lessons.push(key.clone());
        self.turns.change_window(key, |windows| windows.clear(key))
    }

    /// Windows that a refusal made smaller, or that are at their limit again (SC-6), since this was asked last.
    pub fn lessons(&mut self) -> Vec<(DestinationKey, Option<LearnedWindow>)> {
        let mut keys = std::mem::take(&mut self.lessons);
        keys.extend(self.turns.forgotten());
        let keep = |key: DestinationKey| {
            let windows = self.turns.windows();
            // A domain that has joined a group has nothing of its own any more.
            let home = windows.home(&key).clone();
            (home, windows.to_keep(&key))
        };
        keys.into_iter().map(keep).collect()
    }

    /// Destinations of which anything is known, with what it is; or this one, with the group of its hosts.
    pub fn known(&self, only: Option<&DestinationKey>, now: Timestamp) -> Vec<Known> {
        let active: BTreeMap<&DestinationKey, Active<'_>> = self
            .turns
            .active()
            .map(|active| (active.key, active))
            .collect();
        let windows = self.turns.windows();
        let mut keys: BTreeSet<&DestinationKey> = BTreeSet::new();
        match only {
            Some(key) => keys.extend([key, windows.home(key)]),
            None => {
                keys.extend(active.keys());
                keys.extend(windows.keys());
                keys.extend(self.dead.known());
                keys.extend(self.rates.waiting());
            }
        }
        let known = |key: &DestinationKey| Known {
            key: key.clone(),
            in_flight: match active.get(key) {
                Some(active) => active.in_flight,
                None => self.turns.in_flight_at(key),
            },
            group: Some(windows.home(key)).filter(|home| *home != key).cloned(),
            window: windows.size(key),
            limits: windows.limits(key),
            waits_for: self.rates.waits_for(windows.home(key), key, now),
            learned: windows.get(key),
            dead: self.dead.get(key),
        };
        keys.into_iter().map(known).collect()
    }

    /// Destinations whose window a refusal or an operator has made what it is (OBS-6).
    pub fn learned(&self) -> usize {
        self.turns.windows().learned()
    }
}
