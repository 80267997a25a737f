//! Answers kept for their time, and one lookup for all who ask the same at the same moment.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::message::Data;
use super::{DnsError, IpFamily};
use crate::clock::Timestamp;
use crate::net::deadline::Deadline;
use crate::policy::hosts::Found;
use crate::recent::Recent;

/// Octets per permitted entry on the average; an answer of 100 long names weighs many entries.
const WEIGHT_PER_ENTRY: usize = 1024;

/// A question as the cache knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) name: Arc<str>,
    pub(super) kind: Kind,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Mx,
    Addresses(IpFamily),
    Tlsa,
    Txt,
}

/// A definite answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) expanded: String,
    pub(super) cnames: usize,
    pub(super) authentic: bool,
    pub(super) data: Data,
}

impl Cached {
    /// About how much memory it takes.
    fn weight(&self) -> usize {
        let data = match &self.data {
            Data::Mx(Found::Records(records)) => {
                records.iter().map(|mx| 48 + mx.exchange.len()).sum()
            }
            Data::Addresses(Found::Records(addresses)) => addresses.len() * 17,
            Data::Tlsa(Found::Records(records)) => records.iter().map(|r| 32 + r.data.len()).sum(),
            Data::Txt(Found::Records(records)) => records.iter().map(|r| 24 + r.len()).sum(),
            _ => 0,
        };
        256 + self.expanded.len() + data
    }
}

/// The cache: short-locked, bounded in number and weight, the entry that was not used for longest going first (PRC-8).
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    recent: Recent<Key, Entry>,
    weight: usize,
}

#[derive(Debug)]
struct Entry {
    value: Arc<Cached>,
    stored: Timestamp,
    expires: Timestamp,
}

impl Cache {
    /// What is known at `now`.
    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<Arc<Cached>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.recent.touch(key)?;
        // A clock that was set back must not keep an answer alive.
        if now >= entry.expires || now < entry.stored {
            entries.remove(key);
            return None;
        }
        Some(Arc::clone(&entry.value))
    }

    /// Keeps an answer for `ttl`, in a cache of at most `limit` entries.
    pub(super) fn put(
        &self,
        key: &Key,
        value: &Arc<Cached>,
        now: Timestamp,
        ttl: Duration,
        limit: usize,
    ) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(key);
        if ttl.is_zero() || limit == 0 {
            return;
        }
        entries.weight += value.weight();
        let entry = Entry {
            value: Arc::clone(value),
            stored: now,
            expires: now.plus(ttl),
        };
        entries.recent.insert(key.clone(), entry);
        while entries.recent.len() > limit
            || entries.weight > limit.saturating_mul(WEIGHT_PER_ENTRY)
        {
            let Some(oldest) = entries.recent.pop_oldest() else {
                break;
            };
            entries.weight -= oldest.value.weight();
        }
    }
}

impl Entries {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.recent.remove(key) {
            self.weight -= entry.value.weight();
        }
    }
}

/// What a lookup ends with.
pub(super) type Outcome = Result<Arc<Cached>, DnsError>;

/// Lookups under way. As many entries as threads that look something up, so the callers bound it.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Arc<Flight>>>);

#[derive(Debug, Default)]
struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landed: Condvar,
}

/// The part of one caller in a lookup.
pub(super) enum Part<'a> {
    /// It makes the lookup, and tells the others through the guard.
    Leader(Leader<'a>),
    /// Another one made it.
    Follower(Outcome),
    /// Another one makes it, and this one's time is over.
    OutOfTime,
}

/// Whoever holds this makes the lookup. Dropped without an outcome (a panic), it tells the others of a failure.
pub(super) struct Leader<'a> {
    flights: &'a Flights,
    key: Key,
    flight: Arc<Flight>,
}

impl Flights {
    /// Joins the lookup of `key`, or begins it.
    pub(super) fn join(&self, key: &Key, deadline: Deadline) -> Part<'_> {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(key) {
                Some(flight) => Arc::clone(flight),
                None => {
                    let flight = Arc::<Flight>::default();
                    flights.insert(key.clone(), Arc::clone(&flight));
                    return Part::Leader(Leader {
                        flights: self,
                        key: key.clone(),
                        flight,
                    });
                }
            }
        };
        let mut outcome = flight
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = &*outcome {
                return Part::Follower(outcome.clone());
            }
            let Ok(left) = deadline.remaining() else {
                return Part::OutOfTime;
            };
            outcome = flight
                .landed
                .wait_timeout(outcome, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Leader<'_> {
    /// Tells the others.
    pub(super) fn finish(self, outcome: &Outcome) {
        self.land(outcome.clone());
    }

    fn land(&self, outcome: Outcome) {
        let mut slot = self
            .flight
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return;
        }
        // Gone from the list before anybody hears of it, so that who wants to try again begins a new one.
        self.flights
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
        *slot = Some(outcome);
        self.flight.landed.notify_all();
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.land(Err(DnsError::cut_short("the lookup was broken off")));
    }
}
