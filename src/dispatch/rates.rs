//! How often something may be sent to a destination, and how often it may be dialled (SC-8). Pure.
//!
//! Who has had as many messages as its rate allows, or may not be dialled yet while no session is at hand, waits here and
//! not in the line for workers: it holds none of them, and nothing of it is read before its time. What is counted is
//! counted where its window is, so domains with the same MX hosts share it, and stand in a line of their own for it.
//!
//! Only a worker knows whether it needs a new connection, so it asks before it makes one; what is kept here says how many
//! are likely to find a session that was kept, so that few ask in vain. An attempt that has to go on to another host dials
//! that at once: it would never get there otherwise.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::{Config, Rate, Span};
use crate::policy::limit::{Limits, any_rates};
use crate::store::DestinationKey;

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
                    bucket.at = bucket.at.min(now);
                }
                if let Some(dial) = &mut at.dial {
                    dial.next = dial.next.min(now.plus(dial.interval));
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

/// A token bucket: full at first, and as many tokens as its rate says come back in that time.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// What was in it at `at`. A token is as much as the rate's time has milliseconds, and in each of them as much comes
    /// back as the rate's count: so nothing is ever rounded.
    credit: u128,
    at: Timestamp,
    /// The most that was in it while something was under way.
    peak: u128,
}

impl Bucket {
    fn full(rate: Rate, now: Timestamp) -> Bucket {
        Bucket {
            rate,
            credit: capacity(rate),
            at: now,
            peak: capacity(rate),
        }
    }

    /// With the tokens that are in this one, as far as there is room for them.
    fn at_rate(&self, rate: Rate, now: Timestamp) -> Bucket {
        let tokens = self.credit_at(now) / token(self.rate);
        let credit = tokens.saturating_mul(token(rate)).min(capacity(rate));
        Bucket {
            rate,
            credit,
            at: now,
            peak: credit,
        }
    }

    fn credit_at(&self, now: Timestamp) -> u128 {
        let back = now.since(self.at).as_millis();
        let back = back.saturating_mul(u128::from(self.rate.count));
        self.credit.saturating_add(back).min(capacity(self.rate))
    }

    fn room(&self, now: Timestamp) -> usize {
        let tokens = self.credit_at(now) / token(self.rate);
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }

    fn is_full(&self, now: Timestamp) -> bool {
        self.credit_at(now) >= capacity(self.rate)
    }

    /// When there will be so many, or as many as there can be.
    fn until(&self, count: usize, now: Timestamp) -> Timestamp {
        let wanted = (count as u128).saturating_mul(token(self.rate));
        let lacks = wanted
            .min(capacity(self.rate))
            .saturating_sub(self.credit_at(now));
        let millis = lacks.div_ceil(u128::from(self.rate.count.max(1)));
        now.plus(Duration::from_millis(
            u64::try_from(millis).unwrap_or(u64::MAX),
        ))
    }

    /// `alone`: nothing else is under way.
    fn take(&mut self, count: usize, alone: bool, now: Timestamp) {
        let credit = self.credit_at(now);
        let left = credit.saturating_sub((count as u128).saturating_mul(token(self.rate)));
        self.peak = if alone { left } else { self.peak.max(credit) };
        (self.credit, self.at) = (left, now);
    }

    /// What was taken a moment ago was not needed.
    fn give_back(&mut self, count: usize, now: Timestamp) {
        let back = (count as u128).saturating_mul(token(self.rate));
        let credit = self.credit_at(now).saturating_add(back);
        (self.credit, self.at) = (credit.min(capacity(self.rate)), now);
        self.peak = self.peak.max(self.credit);
    }

    /// What was under way came to nothing: back comes as much as there would be now if it had not been taken.
    fn refund(&mut self, now: Timestamp) {
        let credit = self.credit_at(now);
        self.peak = self.peak.max(credit);
        let back = token(self.rate).min(capacity(self.rate).saturating_sub(self.peak));
        self.peak += back;
        (self.credit, self.at) = (credit + back, now);
    }
}

fn token(rate: Rate) -> u128 {
    rate.per.get().as_millis().max(1)
}

fn capacity(rate: Rate) -> u128 {
    token(rate).saturating_mul(u128::from(rate.count))
}

/// New connections.
#[derive(Debug)]
struct Dial {
    interval: Duration,
    /// When the next one may be made.
    next: Timestamp,
    /// Somebody is on its way to make it.
    handed: bool,
    /// Sessions that were kept and nobody is on its way to, as far as is known.
    idle: usize,
}

impl Dial {
    fn room(&self, now: Timestamp) -> usize {
        self.idle + usize::from(!self.handed && self.next <= now)
    }

    fn until(&self, count: usize, now: Timestamp) -> Option<Timestamp> {
        if count <= self.idle {
            return Some(now);
        }
        let by_time = !self.handed && count == self.idle + 1;
        by_time.then(|| self.next.max(now))
    }

    fn take(&mut self, count: usize) {
        let reused = count.min(self.idle);
        self.idle -= reused;
        self.handed |= count > reused;
    }

    /// One that was taken is given back.
    fn unused(&mut self) {
        match self.handed {
            true => self.handed = false,
            false => self.idle += 1,
        }
    }

    fn book(&mut self, now: Timestamp) {
        self.next = self.next.max(now).plus(self.interval);
        self.handed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> DestinationKey {
        DestinationKey(text.into())
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + millis)
    }

    fn limits(rate: &str, dial_millis: u64) -> Limits {
        Limits {
            connections: 20,
            initial: 20,
            recipients: 100,
            rate: rate.parse().ok(),
            dial_interval: Duration::from_millis(dial_millis),
            per_address_day: 0,
        }
    }

    fn rates() -> Rates {
        let domain = crate::smtp::address::Domain::parse("here.example").unwrap();
        let mut config = Config::default_for(domain);
        config.limits.dial_interval = Span(Duration::from_secs(1));
        Rates::new(&config)
    }

    fn all(rates: &mut Rates, now: Timestamp) -> Vec<String> {
        std::iter::from_fn(|| rates.pop(now).map(|key| key.to_string())).collect()
    }

    // SC-8
    #[test]
    fn a_rate_lets_its_count_go_at_once_and_as_many_again_in_its_time() {
        let (mut rates, home, limits) = (rates(), key("d.example"), limits("3/1m", 0));
        assert_eq!(rates.take(&home, &limits, 20, at(0)), Some(3));
        assert_eq!(rates.take(&home, &limits, 20, at(19_999)), Some(0));
        assert_eq!(rates.take(&home, &limits, 20, at(20_000)), Some(1));
        assert_eq!(rates.take(&home, &limits, 20, at(59_999)), Some(1));
        assert_eq!(rates.take(&home, &limits, 20, at(60_000)), Some(1));
        assert_eq!(rates.take(&home, &limits, 20, at(9_000_000)), Some(3));
        rates.give_back(&home, 2, at(9_000_000));
        assert_eq!(rates.take(&home, &limits, 20, at(9_000_000)), Some(2));
    }

    // SC-8
    #[test]
    fn what_was_not_sent_counts_for_nothing() {
        let (mut rates, home, limits) = (rates(), key("d.example"), limits("1/1h", 0));
        assert_eq!(rates.take(&home, &limits, 1, at(0)), Some(1));
        rates.release(&home, Spent::default(), at(10));
        assert_eq!(rates.take(&home, &limits, 1, at(10)), Some(1));
        let sent = Spent {
            message: true,
            ..Spent::default()
        };
        rates.release(&home, sent, at(20));
        assert_eq!(rates.take(&home, &limits, 1, at(20)), Some(0));
    }

    // SC-8, SC-4
    #[test]
    fn who_shares_a_rate_goes_in_the_order_of_coming_and_only_as_many_as_may() {
        let (mut rates, home, limits) = (rates(), key("mx:mx.example"), limits("2/2s", 0));
        assert_eq!(rates.take(&home, &limits, 2, at(0)), Some(2));
        for name in ["a", "b", "c"] {
            assert_eq!(rates.wait(&home, &key(name), &limits, at(0)), Wait::Here);
        }
        assert_eq!(rates.wait(&home, &key("a"), &limits, at(0)), Wait::Here);
        assert_eq!(rates.next(), Some(at(1000)));
        assert_eq!(all(&mut rates, at(999)), [""; 0]);
        assert_eq!(all(&mut rates, at(1000)), ["a"]);
        assert_eq!(rates.take(&home, &limits, 9, at(1000)), Some(1));
        assert_eq!(rates.wait(&home, &key("a"), &limits, at(1000)), Wait::Here);
        assert_eq!(all(&mut rates, at(2000)), ["b"]);
        // It had nothing after all.
        assert_eq!(rates.take(&home, &limits, 9, at(2000)), Some(1));
        rates.give_back(&home, 1, at(2000));
        assert_eq!(all(&mut rates, at(2100)), ["c"]);
    }

    // SC-8, CFG-5
    #[test]
    fn another_rate_holds_from_the_next_message_on_and_forgives_nothing() {
        let (mut rates, home) = (rates(), key("d.example"));
        assert_eq!(rates.take(&home, &limits("2/1h", 0), 9, at(0)), Some(2));
        let quick = limits("100/1s", 0);
        assert_eq!(rates.take(&home, &quick, 9, at(0)), Some(0));
        assert_eq!(rates.take(&home, &quick, 9, at(20)), Some(2));
        assert_eq!(rates.take(&home, &limits("", 0), 9, at(20)), None);
    }

    // SC-8
    #[test]
    fn one_connection_is_made_in_each_interval_and_kept_sessions_need_none() {
        let (mut rates, home, limits) = (rates(), key("d.example"), limits("", 10_000));
        assert_eq!(rates.take(&home, &limits, 9, at(0)), Some(1));
        assert!(rates.dial(&home, &limits, at(50)));
        assert_eq!(rates.take(&home, &limits, 9, at(60)), Some(0));
        assert_eq!(
            rates.wait(&home, &key("d.example"), &limits, at(60)),
            Wait::Here
        );
        assert_eq!(rates.next(), Some(at(10_050)));
        let kept = Spent {
            message: true,
            dialled: true,
            kept: true,
        };
        rates.release(&home, kept, at(100));
        assert_eq!(all(&mut rates, at(100)), ["d.example"]);
        assert_eq!(rates.take(&home, &limits, 9, at(100)), Some(1));
        // The session is gone when the worker comes for it.
        assert!(!rates.dial(&home, &limits, at(110)));
        rates.release(&home, Spent::default(), at(120));
        assert_eq!(rates.take(&home, &limits, 9, at(10_049)), Some(0));
        assert_eq!(rates.take(&home, &limits, 9, at(10_050)), Some(1));
        // What goes on to another host does so at once, and the next one waits for it.
        assert!(rates.dial(&home, &limits, at(10_050)));
        rates.dial_on(&home, &limits, at(10_060));
        assert!(!rates.dial(&home, &limits, at(30_049)));
        assert!(rates.dial(&home, &limits, at(30_050)));
    }

    // PRC-8
    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut rates, limits) = (rates(), limits("1/1h", 0));
        rates.most = 10;
        for n in 0..100 {
            let name = key(&format!("d{n}"));
            assert_eq!(rates.take(&name, &limits, 1, at(n)), Some(1));
            let spent = Spent {
                message: true,
                ..Spent::default()
            };
            rates.release(&name, spent, at(n));
        }
        assert!(rates.homes.len() <= 10);
        rates.take(&key("d"), &limits, 1, at(100));
        let waits = |n: usize| key(&format!("w{n}"));
        for n in 0..10 {
            let wait = rates.wait(&key("d"), &waits(n), &limits, at(100));
            assert_eq!(wait, Wait::Here);
        }
        let wait = rates.wait(&key("d"), &waits(10), &limits, at(100));
        assert_eq!(wait, Wait::Until(at(3_600_100)));
    }

    // RT-9
    #[test]
    fn a_clock_that_goes_back_makes_nothing_wait_longer() {
        let (mut rates, home, limits) = (rates(), key("d"), limits("1/1m", 10_000));
        rates.take(&home, &limits, 1, at(0));
        assert!(rates.dial(&home, &limits, at(0)));
        assert_eq!(rates.wait(&home, &home, &limits, at(0)), Wait::Here);
        rates.clock_went_back(at(-900_000));
        assert_eq!(rates.next(), Some(at(-840_000)));
    }
}
