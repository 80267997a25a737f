//! How often something may be sent to a destination, and how often it may be dialled (SC-8). Pure.
//!
//! Who has had as many messages as its rate allows, or may not be dialled yet while no session is at hand, waits here and
//! not in the line for workers: it holds none of them, and nothing of it is read before its time. What is counted is
//! counted where its window is, so domains with the same MX hosts share it, and stand in a line of their own for it.
//!
//! Only a worker knows whether it needs a new connection, so it asks before it makes one; what is kept here says how many
//! are likely to find a session that was kept, so that few ask in vain. An attempt that has to go on to another host dials
//! that at once: it would never get there otherwise.

mod bucket;
mod dial;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Config, Span};
use crate::policy::limit::{Limits, any_rates};
use crate::store::DestinationKey;
use bucket::Bucket;
use dial::Dial;

/// Destinations that are remembered, and as many that wait (PRC-8). What was not counted for the longest goes first; who
/// finds no place here is found again in the store.
const MOST: usize = 10_000;

/// At a quick rate mail is claimed by the dozen, as often as this.
const TICK: Duration = Duration::from_millis(100);

/// Who had its turn and did not use it makes room for the next after so long.
const UNUSED: Duration = Duration::from_secs(1);

/// When nothing but the end of an attempt can tell: looked at again at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What came of a transaction, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// It counts as a message.
    pub message: bool,
    /// It has made a connection.
    pub dialled: bool,
    /// It has left a session behind that can be used again.
    pub kept: bool,
}

/// Whether a destination must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It need not.
    No,
    /// It stands in line here.
    Here,
    /// There is no place for it: it must be looked for again then.
    Until(Timestamp),
}

/// All that is counted.
#[derive(Debug)]
pub struct Rates {
    /// Whether any destination has such limits.
    used: bool,
    homes: HashMap<DestinationKey, Home>,
    timers: BTreeSet<(Timestamp, DestinationKey)>,
    /// All who stand in a line.
    waiting: HashSet<DestinationKey>,
    /// Those whose turn it is.
    ready: VecDeque<DestinationKey>,
    most: usize,
}

/// One destination, or all domains with the same hosts.
#[derive(Debug)]
struct Home {
    bucket: Option<Bucket>,
    dial: Option<Dial>,
    /// Transactions claimed and not yet given back.
    out: usize,
    line: VecDeque<DestinationKey>,
    timer: Option<Timestamp>,
}

impl Rates {
    /// Nothing has been counted.
    pub fn new(config: &Config) -> Rates {
        Rates {
            used: any_rates(config),
            homes: HashMap::new(),
            timers: BTreeSet::new(),
            waiting: HashSet::new(),
            ready: VecDeque::new(),
            most: MOST,
        }
    }

    /// Other limits may hold. Nobody waits any more: who has due mail is to be offered again.
    pub fn set_config(&mut self, config: &Config) {
        self.used = any_rates(config);
        self.timers.clear();
        self.waiting.clear();
        self.ready.clear();
        for home in self.homes.values_mut() {
            home.line.clear();
            home.timer = None;
        }
        if !self.used {
            self.homes.clear();
        }
    }

    /// Whether any destination has such limits; if not, there is nothing to ask.
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// When somebody's turn comes.
    pub fn next(&self) -> Option<Timestamp> {
        match self.ready.is_empty() {
            true => self.timers.first().map(|(at, _)| *at),
            false => Some(Timestamp::default()),
        }
    }

    /// Whether mail of `key`, which is counted at `home`, may go now; if not, it waits.
    pub fn wait(
        &mut self,
        home: &DestinationKey,
        key: &DestinationKey,
        limits: &Limits,
        now: Timestamp,
    ) -> Wait {
        if self.waiting.contains(key) {
            return Wait::Here;
        }
        let full = self.waiting.len() >= self.most;
        let Some(at) = self.home(home, limits, now) else {
            return Wait::No;
        };
        if at.line.is_empty() && at.room(now) > 0 {
            return Wait::No;
        }
        if full {
            let until = at.until(1, now).unwrap_or(now.plus(LOOK_AGAIN));
            return Wait::Until(until.max(now.plus(UNUSED)));
        }
        at.line.push_back(key.clone());
        self.waiting.insert(key.clone());
        self.arm(home, now);
        Wait::Here
    }

    /// Out of the line at `home`. Whether it stood there.
    pub fn leave(&mut self, home: &DestinationKey, key: &DestinationKey) -> bool {
        let Some(at) = self.homes.get_mut(home).filter(|at| at.line.contains(key)) else {
            return false;
        };
        at.line.retain(|other| other != key);
        self.waiting.remove(key)
    }

    /// Whether one more message may go now, without any wait.
    pub fn lets_through(&mut self, home: &DestinationKey, limits: &Limits, now: Timestamp) -> bool {
        let at = self.home(home, limits, now);
        at.is_none_or(|at| at.line.is_empty() && at.room(now) > 0)
    }

    /// If no message may go now, when to look again.
    pub fn held_until(
        &mut self,
        home: &DestinationKey,
        limits: &Limits,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let at = self.home(home, limits, now)?;
        (at.room(now) == 0).then(|| at.wakes(now).max(now.plus(Duration::from_millis(1))))
    }

    /// Takes as many as may go of `most`; `None`: it has no such limits, and nothing is counted.
    pub fn take(
        &mut self,
        home: &DestinationKey,
        limits: &Limits,
        most: usize,
        now: Timestamp,
    ) -> Option<usize> {
        let at = self.home(home, limits, now)?;
        // The others in line shall have theirs.
        let share = (at.room(now) / (at.line.len() + 1)).max(1);
        let count = most.min(share).min(at.room(now));
        at.take(count, now);
        if at.room(now) == 0 {
            self.arm(home, now);
        }
        Some(count)
    }

    /// So many of those taken are given back: they were not needed.
    pub fn give_back(&mut self, home: &DestinationKey, count: usize, now: Timestamp) {
        let Some(at) = self.homes.get_mut(home).filter(|_| count > 0) else {
            return;
        };
        at.out = at.out.saturating_sub(count);
        if let Some(bucket) = &mut at.bucket {
            bucket.give_back(count, now);
        }
        for _ in 0..count {
            if let Some(dial) = &mut at.dial {
                dial.unused();
            }
        }
        self.arm(home, now);
    }

    /// A transaction has come to its end.
    pub fn release(&mut self, home: &DestinationKey, spent: Spent, now: Timestamp) {
        let Some(at) = self.homes.get_mut(home) else {
            return;
        };
        at.out = at.out.saturating_sub(1);
        if let Some(bucket) = at.bucket.as_mut().filter(|_| !spent.message) {
            bucket.refund(now);
        }
        if let Some(dial) = &mut at.dial {
            dial.idle += usize::from(spent.kept);
            if !spent.dialled || at.out == 0 {
                dial.handed = false;
            }
        }
        self.arm(home, now);
    }

    /// A worker wants to make a connection for a fresh attempt. `false`: not yet.
    pub fn dial(&mut self, home: &DestinationKey, limits: &Limits, now: Timestamp) -> bool {
        let Some(dial) = self.home(home, limits, now).and_then(|at| at.dial.as_mut()) else {
            return true;
        };
        let may = dial.next <= now;
        if may {
            dial.book(now);
        } else {
            // It found no session, so there is none.
            dial.idle = 0;
        }
        self.arm(home, now);
        may
    }

    /// A worker makes a further connection in its attempt, whenever the last one was.
    pub fn dial_on(&mut self, home: &DestinationKey, limits: &Limits, now: Timestamp) {
        let at = self.home(home, limits, now);
        if let Some(dial) = at.and_then(|at| at.dial.as_mut()) {
            dial.book(now);
            self.arm(home, now);
        }
    }

    /// Somebody whose turn has come.
    pub fn pop(&mut self, now: Timestamp) -> Option<DestinationKey> {
        loop {
            if let Some(key) = self.ready.pop_front() {
                return Some(key);
            }
            let due = self.timers.first().filter(|(at, _)| *at <= now);
            let home = due.map(|(_, home)| home.clone())?;
            let Some(at) = self.homes.get_mut(&home) else {
                self.timers.retain(|(_, other)| *other != home);
                continue;
            };
            let count = at.room(now).min(at.line.len());
            for key in at.line.drain(..count) {
                self.waiting.remove(&key);
                self.ready.push_back(key);
            }
            let until = match (at.line.is_empty(), count) {
                (true, _) => None,
                (false, 0) => Some(at.wakes(now)),
                (false, count) => {
                    let next = at.until(count + 1, now);
                    let soon = now.plus(UNUSED);
                    Some(next.map_or(soon, |next| next.min(soon)))
                }
            };
            self.set_timer(
                &home,
                until.map(|at| at.max(now.plus(Duration::from_millis(1)))),
            );
        }
    }

    /// All who wait.
    pub fn waiting(&self) -> impl Iterator<Item = &DestinationKey> {
        self.waiting.iter()
    }

    /// The same as [`Rates::why`] for who has mail that waits, and nothing for others.
    pub fn waits_for(
        &self,
        home: &DestinationKey,
        key: &DestinationKey,
        now: Timestamp,
    ) -> Option<(String, Option<Timestamp>)> {
        let waits = self.waiting.contains(key);
        waits.then(|| self.why(home, key, now)).flatten()
    }

    /// What mail of `key`, which is counted at `home`, waits for now, and until when.
    pub fn why(
        &self,
        home: &DestinationKey,
        key: &DestinationKey,
        now: Timestamp,
    ) -> Option<(String, Option<Timestamp>)> {
        let at = self.homes.get(home)?;
        let (bucket, dial) = (at.bucket.as_ref(), at.dial.as_ref());
        let rate = |bucket: &Bucket| format!("rate {}", bucket.rate);
        if let Some(bucket) = bucket.filter(|bucket| bucket.room(now) == 0) {
            return Some((rate(bucket), Some(bucket.until(1, now))));
        }
        let interval = |dial: &Dial| format!("dial_interval {}", Span(dial.interval));
        if let Some(dial) = dial.filter(|dial| dial.room(now) == 0) {
            return Some((interval(dial), dial.until(1, now)));
        }
        // The others in line go first, or it is a moment before the next round.
        let why = bucket.map(rate).or_else(|| dial.map(interval))?;
        let waits = self.waiting.contains(key);
        waits.then_some((why, at.timer))
    }

    /// The clock has gone back: nothing waits longer than it would have at most (RT-9).
    pub fn clock_went_back(&mut self, now: Timestamp) {
        let keys: Vec<DestinationKey> = self.homes.keys().cloned().collect();
        for key in keys {
            if let Some(at) = self.homes.get_mut(&key) {
                if let Some(bucket) = &mut at.bucket {
                    bucket.clock_went_back(now);
                }
                if let Some(dial) = &mut at.dial {
                    dial.clock_went_back(now);
                }
            }
            self.arm(&key, now);
        }
    }

    /// What is counted at `home`; `None`: it has no such limits.
    fn home(
        &mut self,
        home: &DestinationKey,
        limits: &Limits,
        now: Timestamp,
    ) -> Option<&mut Home> {
        if limits.rate.is_none() && limits.dial_interval.is_zero() {
            if self.homes.get(home).is_some_and(|at| at.line.is_empty()) {
                self.homes.remove(home);
            }
            return None;
        }
        if !self.homes.contains_key(home) {
            self.make_room(now);
        }
        let at = self.homes.entry(home.clone()).or_insert_with(|| Home {
            bucket: None,
            dial: None,
            out: 0,
            line: VecDeque::new(),
            timer: None,
        });
        at.obey(limits, now);
        Some(at)
    }

    fn make_room(&mut self, now: Timestamp) {
        if self.homes.len() < self.most {
            return;
        }
        let timers = &mut self.timers;
        let mut keep = |at: &Home, key: &DestinationKey, stays: bool| {
            if let (false, Some(timer)) = (stays, at.timer) {
                timers.remove(&(timer, key.clone()));
            }
            stays
        };
        self.homes
            .retain(|key, at| keep(at, key, at.is_held() || !at.is_fresh(now)));
        if self.homes.len() >= self.most {
            self.homes.retain(|key, at| keep(at, key, at.is_held()));
        }
    }

    /// Sets the timer for who stands in line.
    fn arm(&mut self, home: &DestinationKey, now: Timestamp) {
        if let Some(at) = self.homes.get(home) {
            let until = (!at.line.is_empty()).then(|| at.wakes(now));
            self.set_timer(home, until);
        }
    }

    fn set_timer(&mut self, home: &DestinationKey, until: Option<Timestamp>) {
        let Some(at) = self.homes.get_mut(home).filter(|at| at.timer != until) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut at.timer, until) {
            self.timers.remove(&(old, home.clone()));
        }
        if let Some(new) = until {
            self.timers.insert((new, home.clone()));
        }
    }
}

impl Home {
    /// As the limits are now.
    fn obey(&mut self, limits: &Limits, now: Timestamp) {
        self.bucket = match (limits.rate, self.bucket.take()) {
            (None, _) => None,
            (Some(rate), None) => Some(Bucket::full(rate, now)),
            (Some(rate), Some(old)) if old.rate == rate => Some(old),
            (Some(rate), Some(old)) => Some(old.at_rate(rate, now)),
        };
        let interval = limits.dial_interval;
        self.dial = match self.dial.take() {
            _ if interval.is_zero() => None,
            None => Some(Dial {
                interval,
                next: now,
                handed: false,
                idle: 0,
            }),
            Some(old) => Some(Dial {
                interval,
                next: old.next.min(now.plus(interval)),
                ..old
            }),
        };
    }

    /// How many may begin now.
    fn room(&self, now: Timestamp) -> usize {
        let rate = self.bucket.as_ref().map_or(usize::MAX, |b| b.room(now));
        let dial = self.dial.as_ref().map_or(usize::MAX, |d| d.room(now));
        rate.min(dial)
    }

    /// When `count` may begin, if nothing happens before; `None`: not by time alone.
    fn until(&self, count: usize, now: Timestamp) -> Option<Timestamp> {
        let rate = self.bucket.as_ref().map_or(now, |b| b.until(count, now));
        let dial = match &self.dial {
            None => now,
            Some(dial) => dial.until(count, now)?,
        };
        Some(rate.max(dial))
    }

    /// When to look again.
    fn wakes(&self, now: Timestamp) -> Timestamp {
        if self.room(now) > 0 {
            return now;
        }
        let until = self.until(1, now).unwrap_or(now.plus(LOOK_AGAIN));
        let tick = self.bucket.as_ref().map(|b| TICK.min(b.rate.per.get() / 2));
        until.max(now.plus(tick.unwrap_or_default()))
    }

    fn take(&mut self, count: usize, now: Timestamp) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(count, self.out == 0, now);
        }
        self.out += count;
        if let Some(dial) = &mut self.dial {
            dial.take(count);
        }
    }

    /// Somebody stands in line, or is under way.
    fn is_held(&self) -> bool {
        !self.line.is_empty() || self.out > 0
    }

    /// As if nothing had ever been counted.
    fn is_fresh(&self, now: Timestamp) -> bool {
        self.bucket
            .as_ref()
            .is_none_or(|bucket| bucket.is_full(now))
            && self.dial.as_ref().is_none_or(|dial| dial.next <= now)
    }
}
