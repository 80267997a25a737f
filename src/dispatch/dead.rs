//! Destinations that cannot be spoken to (SC-7). Pure.
//!
//! Three attempts in a row that end before MAIL make a destination dead: from then on its mail is only queued, and one
//! transaction at a time finds out whether it lives again, after 1, 2, 4 minutes and so on. Nothing is remembered of
//! its messages, and nothing outlives the process: after a restart three attempts tell again.
//!
//! No probe is later than the first retry interval of the transport that its mail takes. A transport that is broken (RO-8)
//! is the same with other numbers: one attempt tells, and probes come at that interval and not before, because only an operator can mend it.
//!
//! Two kinds of mail do not wait for a probe to succeed. What reaches its expiry has its last attempt then (RT-3, RT-4),
//! and since that is an attempt like any other, it is the probe of that time. What an operator kicks makes a probe due.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::retry::first_interval_at;
use crate::store::DestinationKey;

/// So many attempts in a row make a destination dead.
const STRIKES: u32 = 3;

/// The wait for the first probe; doubles up to the first retry interval of its transport.
const FIRST_WAIT: Duration = Duration::from_secs(60);

/// However short the retry intervals are: a probe that fails at once must not keep the dispatcher busy.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Mail that came later may reach its expiry before that which was there when somebody last looked.
const LOOK_FOR_EXPIRY: Duration = Duration::from_secs(3600);

/// Destinations that are remembered (PRC-8). Those that nobody has had mail for the longest go first; a dead one with
/// mail stays, and once there are so many of them, further ones are tried like any other.
const MOST: usize = 10_000;

/// Longest text that is kept, in characters.
const MOST_TEXT: usize = 256;

/// A destination that is dead, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadDestination {
    /// Since when.
    pub since: Timestamp,
    /// When it is probed next; `None` while that goes on.
    pub probe: Option<Timestamp>,
    /// The last word of the last attempt.
    pub text: String,
    /// It is a transport that an operator has to mend (RO-8).
    pub broken: bool,
}

impl fmt::Display for DeadDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.broken {
            "transport broken"
        } else {
            "dead"
        };
        write!(f, "{what} since {}: {}", self.since, self.text)
    }
}

/// What a report changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It is dead.
    Dead(DeadDestination),
    /// It lives again, after so long.
    Alive(Duration),
    /// The same of a transport that was broken.
    Mended(Duration),
}

/// What a probe shall take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Look for mail at its expiry first.
    pub last_attempts: bool,
    /// If there is none, take one transaction of what is due.
    pub any: bool,
}

/// Destinations whose last attempt ended before MAIL.
#[derive(Debug)]
pub struct Dead {
    entries: HashMap<DestinationKey, Entry>,
    /// Of those in [`Phase::Waiting`].
    timers: BTreeSet<(Timestamp, DestinationKey)>,
    /// Has the retry intervals.
    config: Arc<Config>,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    strikes: u32,
    text: String,
    /// When something was last heard of it.
    used: Timestamp,
    dead: Option<State>,
}

#[derive(Debug)]
struct State {
    since: Timestamp,
    /// Probes that have failed.
    failed: u32,
    probe_at: Timestamp,
    phase: Phase,
    /// Due mail was told of since the last probe began.
    wanted: bool,
    /// This probe: something was sent; an attempt ended before MAIL.
    sent: bool,
    struck: bool,
    /// It is a transport, and broken (RO-8).
    broken: bool,
    /// It was told that it is dead: no attempt from before is under way that may still succeed.
    told: bool,
    /// The first of its mail reaches its expiry; `None`: not known, or none did when somebody looked.
    expiry: Option<Timestamp>,
    /// When to look for that again at the latest.
    look: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No due mail is known: there is nothing to probe with.
    Idle,
    /// Until this time.
    Waiting(Timestamp),
    /// It is time, but attempts from before are under way: their outcome comes first.
    Overdue,
    /// From its place in the line to its outcome.
    Probing,
}

impl Dead {
    /// Nothing is known.
    pub fn new(config: Arc<Config>) -> Dead {
        Dead {
            entries: HashMap::new(),
            timers: BTreeSet::new(),
            config,
            most: MOST,
        }
    }

    /// Whether its mail waits.
    pub fn is_dead(&self, key: &DestinationKey) -> bool {
        self.state(key).is_some()
    }

    /// What there is to say of a dead destination.
    pub fn get(&self, key: &DestinationKey) -> Option<DeadDestination> {
        self.entries.get(key).and_then(Entry::describe)
    }

    /// Those that are dead.
    pub fn known(&self) -> impl Iterator<Item = &DestinationKey> {
        let dead = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.dead.is_some());
        dead.map(|(key, _)| key)
    }

    /// How many are dead.
    pub fn count(&self) -> usize {
        let dead = |entry: &&Entry| entry.dead.is_some();
        self.entries.values().filter(dead).count()
    }

    /// When the first of them is to be probed.
    pub fn next(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// One that is to be probed now; it must be answered for by [`Dead::probe`], [`Dead::overdue`] or [`Dead::idle`].
    pub fn due(&self, now: Timestamp) -> Option<DestinationKey> {
        let (at, key) = self.timers.first()?;
        (*at <= now).then(|| key.clone())
    }

    /// An attempt got as far as MAIL: the end of it all. Whether it was dead, and what is to be told.
    pub fn reached(&mut self, key: &DestinationKey, now: Timestamp) -> (bool, Option<News>) {
        self.set(key, Phase::Idle); // off the timers
        let Some(state) = self.entries.remove(key).and_then(|entry| entry.dead) else {
            return (false, None);
        };
        let after = now.since(state.since);
        let news = match state.broken {
            true => News::Mended(after),
            false => News::Alive(after),
        };
        let news = state.told.then_some(news);
        (true, news)
    }

    /// An attempt ended before MAIL, with these words. `true`: it is dead from now on.
    pub fn strike(&mut self, key: &DestinationKey, text: &str, now: Timestamp) -> bool {
        self.struck(key, text, false, now)
    }

    /// An attempt found the transport broken, with these words (RO-8). `true`: its mail waits from now on.
    pub fn broken(&mut self, key: &DestinationKey, text: &str, now: Timestamp) -> bool {
        self.struck(key, text, true, now)
    }

    fn struck(&mut self, key: &DestinationKey, text: &str, broken: bool, now: Timestamp) -> bool {
        if !self.entries.contains_key(key) && !self.make_room() {
            return false;
        }
        let longest = self.longest(key);
        let wait = match broken {
            true => longest,
            false => wait(0, longest),
        };
        let entry = self.entries.entry(key.clone()).or_insert(Entry {
            strikes: 0,
            text: String::new(),
            used: now,
            dead: None,
        });
        entry.strikes = entry.strikes.saturating_add(1);
        entry.used = now;
        entry.text = text.chars().take(MOST_TEXT).collect();
        if let Some(state) = &mut entry.dead {
            state.struck = true;
            if broken && !state.broken {
                // It was merely dead before, and that is not what an operator has to know now.
                state.broken = true;
                state.told = false;
                state.since = now;
            }
            return false;
        }
        if entry.strikes < STRIKES && !broken {
            return false;
        }
        let probe_at = now.plus(wait);
        entry.dead = Some(State {
            since: now,
            failed: 0,
            probe_at,
            phase: Phase::Idle,
            wanted: true,
            sent: false,
            struck: false,
            broken,
            told: false,
            expiry: None,
            look: now,
        });
        self.set(key, Phase::Waiting(probe_at));
        true
    }

    /// No attempt is under way any more. What is to be told, once; and what was [`Dead::overdue`] is so no longer.
    pub fn quiet(&mut self, key: &DestinationKey, now: Timestamp) -> Option<News> {
        let entry = self.entries.get_mut(key)?;
        let state = entry.dead.as_mut()?;
        let overdue = state.phase == Phase::Overdue;
        let untold = !std::mem::replace(&mut state.told, true);
        if overdue {
            self.set(key, Phase::Waiting(now));
        }
        if untold {
            self.get(key).map(News::Dead)
        } else {
            None
        }
    }

    /// Mail of a dead destination is due.
    pub fn want(&mut self, key: &DestinationKey, now: Timestamp) {
        let Some(state) = self.state_mut(key) else {
            return;
        };
        state.wanted = true;
        if state.phase == Phase::Idle {
            let at = state.timer().max(now);
            self.set(key, Phase::Waiting(at));
        }
    }

    /// It is to be probed at `at` at the latest.
    pub fn kick(&mut self, key: &DestinationKey, at: Timestamp) {
        let Some(state) = self.state_mut(key) else {
            return;
        };
        state.probe_at = state.probe_at.min(at);
        let timer = state.timer();
        if matches!(state.phase, Phase::Waiting(_)) {
            self.set(key, Phase::Waiting(timer));
        }
    }

    /// The same for all.
    pub fn kick_all(&mut self, at: Timestamp) {
        for key in self.keys() {
            self.kick(&key, at);
        }
    }

    /// No probe is later than its first retry interval from now (RT-9).
    pub fn clock_went_back(&mut self, now: Timestamp) {
        for key in self.keys() {
            let longest = self.longest(&key);
            self.kick(&key, now.plus(longest));
        }
    }

    /// Nothing is known any more: another configuration holds.
    pub fn begin_anew(&mut self, config: Arc<Config>) {
        self.config = config;
        self.entries.clear();
        self.timers.clear();
    }

    fn longest(&self, key: &DestinationKey) -> Duration {
        first_interval_at(&self.config, key).max(SHORTEST_WAIT)
    }

    /// It has its place in the line, and what it finds there is a probe.
    pub fn probe(&mut self, key: &DestinationKey) {
        self.set(key, Phase::Probing);
    }

    /// Attempts from before are still under way.
    pub fn overdue(&mut self, key: &DestinationKey) {
        self.set(key, Phase::Overdue);
    }

    /// There is nothing to probe with until mail is told of.
    pub fn idle(&mut self, key: &DestinationKey) {
        self.set(key, Phase::Idle);
    }

    /// Whether a probe is under way.
    pub fn is_probing(&self, key: &DestinationKey) -> bool {
        self.state(key)
            .is_some_and(|state| state.phase == Phase::Probing)
    }

    /// Its turn has come: what to take. `alone`: nothing of this probe is under way yet. `None`: it is not its time.
    pub fn take(&mut self, key: &DestinationKey, alone: bool, now: Timestamp) -> Option<Probe> {
        let state = self.state_mut(key)?;
        if state.phase != Phase::Probing {
            return None;
        }
        if alone {
            state.wanted = false;
            state.struck = false;
        }
        Some(Probe {
            last_attempts: state.look <= now || state.expiry.is_some_and(|at| at <= now),
            any: alone,
        })
    }

    /// All mail that is at its expiry now was taken; the first that will be.
    pub fn looked(&mut self, key: &DestinationKey, first: Option<Timestamp>, now: Timestamp) {
        if let Some(state) = self.state_mut(key) {
            state.expiry = first;
            state.look = now.plus(LOOK_FOR_EXPIRY);
        }
    }

    /// Something was sent as a probe.
    pub fn sent(&mut self, key: &DestinationKey) {
        if let Some(state) = self.state_mut(key) {
            state.sent = true;
        }
    }

    /// Nothing of a probe is under way any more, and it has not succeeded: the next one.
    pub fn probed(&mut self, key: &DestinationKey, now: Timestamp) {
        let longest = self.longest(key);
        let Some(state) = self.state_mut(key) else {
            return;
        };
        let sent = std::mem::take(&mut state.sent);
        if std::mem::take(&mut state.struck) {
            state.failed = state.failed.saturating_add(1);
        }
        let phase = match (sent, state.wanted) {
            // There was no mail. The next to come is a probe at once.
            (false, false) => Phase::Idle,
            (false, true) => Phase::Waiting(now),
            (true, _) => {
                // There may be more; if not, the next probe will see.
                state.wanted = true;
                state.probe_at = now.plus(match state.broken {
                    true => longest,
                    false => wait(state.failed, longest),
                });
                Phase::Waiting(state.timer())
            }
        };
        self.set(key, phase);
    }

    /// The probe could not be made for a reason of our own: again at `at`.
    pub fn put_off(&mut self, key: &DestinationKey, at: Timestamp) {
        self.set(key, Phase::Waiting(at));
    }

    fn state(&self, key: &DestinationKey) -> Option<&State> {
        self.entries.get(key)?.dead.as_ref()
    }

    fn state_mut(&mut self, key: &DestinationKey) -> Option<&mut State> {
        self.entries.get_mut(key)?.dead.as_mut()
    }

    fn keys(&self) -> Vec<DestinationKey> {
        self.entries.keys().cloned().collect()
    }

    fn set(&mut self, key: &DestinationKey, phase: Phase) {
        let Some(state) = self.entries.get_mut(key).and_then(|e| e.dead.as_mut()) else {
            return;
        };
        if let Phase::Waiting(at) = std::mem::replace(&mut state.phase, phase) {
            self.timers.remove(&(at, key.clone()));
        }
        if let Phase::Waiting(at) = phase {
            self.timers.insert((at, key.clone()));
        }
    }

    /// Whether one more can be remembered. Forgets the older half of those that hold no mail back.
    fn make_room(&mut self) -> bool {
        if self.entries.len() < self.most {
            return true;
        }
        let goes = |entry: &Entry| {
            entry
                .dead
                .as_ref()
                .is_none_or(|state| state.phase == Phase::Idle)
        };
        let old = self.entries.values().filter(|entry| goes(entry));
        let mut used: Vec<Timestamp> = old.map(|entry| entry.used).collect();
        if used.is_empty() {
            return false;
        }
        let middle = used.len() / 2;
        let (_, &mut last, _) = used.select_nth_unstable(middle);
        self.entries
            .retain(|_, entry| !goes(entry) || entry.used > last);
        true
    }
}

impl Entry {
    fn describe(&self) -> Option<DeadDestination> {
        let state = self.dead.as_ref()?;
        Some(DeadDestination {
            since: state.since,
            probe: match state.phase {
                Phase::Idle => Some(state.probe_at),
                Phase::Waiting(at) => Some(at),
                Phase::Overdue | Phase::Probing => None,
            },
            text: self.text.clone(),
            broken: state.broken,
        })
    }
}

impl State {
    fn timer(&self) -> Timestamp {
        self.expiry
            .map_or(self.probe_at, |at| at.min(self.probe_at))
    }
}

/// 1, 2, 4 minutes and so on.
fn wait(failed: u32, longest: Duration) -> Duration {
    FIRST_WAIT
        .saturating_mul(1u32.checked_shl(failed).unwrap_or(u32::MAX))
        .min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;
    use crate::smtp::address::Domain;

    fn key(n: usize) -> DestinationKey {
        DestinationKey(format!("d{n}.example").into())
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn living(first_interval: u64) -> Dead {
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        config.retry.intervals = vec![Span(Duration::from_secs(first_interval))];
        Dead::new(Arc::new(config))
    }

    /// The destination is dead since second 0, and that was told.
    fn dead(first_interval: u64) -> Dead {
        let mut dead = living(first_interval);
        for strike in 1..=STRIKES {
            assert_eq!(dead.strike(&key(0), "refused", at(0)), strike == STRIKES);
        }
        assert!(matches!(dead.quiet(&key(0), at(0)), Some(News::Dead(_))));
        assert_eq!(dead.quiet(&key(0), at(0)), None, "told once");
        dead
    }

    /// A probe that begins when it is due, and fails at once. When the next one is due.
    fn probe(dead: &mut Dead) -> i64 {
        let now = dead.next().unwrap();
        assert_eq!(dead.due(now), Some(key(0)));
        dead.probe(&key(0));
        assert_eq!(dead.next(), None);
        assert!(dead.take(&key(0), true, now).unwrap().any);
        dead.sent(&key(0));
        dead.strike(&key(0), "refused", now);
        dead.probed(&key(0), now);
        dead.next().unwrap().secs()
    }

    // SC-7
    #[test]
    fn three_attempts_in_a_row_make_it_dead_and_one_success_ends_it() {
        let mut dead = living(450);
        for _ in 0..3 {
            assert!(!dead.strike(&key(0), "refused", at(1)));
            assert!(!dead.strike(&key(0), "refused", at(1)));
            assert!(!dead.is_dead(&key(0)));
            assert_eq!(dead.reached(&key(0), at(2)), (false, None));
        }
        for n in 0..3 {
            assert_eq!(dead.strike(&key(0), "refused", at(3)), n == 2);
        }
        assert_eq!(dead.next(), Some(at(63)));
        assert!(dead.quiet(&key(0), at(3)).is_some());
        let alive = News::Alive(Duration::from_secs(60));
        assert_eq!(dead.reached(&key(0), at(63)), (true, Some(alive)));
        assert_eq!((dead.next(), dead.count()), (None, 0));
    }

    // SC-7
    #[test]
    fn probes_come_after_1_2_4_minutes_and_never_later_than_the_first_interval() {
        let mut dead = dead(450);
        assert_eq!(dead.next(), Some(at(60)));
        let times: Vec<i64> = (0..5).map(|_| probe(&mut dead)).collect();
        assert_eq!(times, [180, 420, 870, 1320, 1770]);
        dead.clock_went_back(at(1000));
        assert_eq!(dead.next(), Some(at(1450)), "RT-9");
    }

    // RO-8
    #[test]
    fn one_attempt_tells_that_a_transport_is_broken_and_it_is_probed_once_per_first_interval() {
        let mut dead = living(450);
        assert!(dead.broken(&key(0), "535 no", at(0)));
        assert!(!dead.broken(&key(0), "535 no", at(1)), "it is already");
        let Some(News::Dead(told)) = dead.quiet(&key(0), at(1)) else {
            panic!("it must be told")
        };
        assert!(told.broken);
        assert_eq!(
            told.to_string().split(" since ").next(),
            Some("transport broken")
        );
        for n in 1..5 {
            assert_eq!(dead.next(), Some(at(450 * n)));
            let now = at(450 * n);
            dead.probe(&key(0));
            dead.take(&key(0), true, now);
            dead.sent(&key(0));
            dead.broken(&key(0), "535 no", now);
            dead.probed(&key(0), now);
            assert_eq!(dead.quiet(&key(0), now), None, "told once");
        }
        let mended = News::Mended(Duration::from_secs(2000));
        assert_eq!(dead.reached(&key(0), at(2000)), (true, Some(mended)));
    }

    // RO-8, SC-7
    #[test]
    fn what_was_merely_dead_is_told_again_when_it_is_found_broken() {
        let mut dead = dead(450);
        dead.probe(&key(0));
        dead.take(&key(0), true, at(60));
        dead.sent(&key(0));
        dead.broken(&key(0), "certificate", at(60));
        dead.probed(&key(0), at(60));
        assert_eq!(dead.next(), Some(at(510)));
        assert!(matches!(dead.quiet(&key(0), at(60)), Some(News::Dead(dead)) if dead.broken));
    }

    // SC-7
    #[test]
    fn a_probe_that_fails_by_our_own_fault_tells_nothing() {
        let mut dead = dead(450);
        probe(&mut dead);
        dead.probe(&key(0));
        dead.take(&key(0), true, at(180));
        dead.sent(&key(0));
        dead.probed(&key(0), at(180));
        assert_eq!(dead.next(), Some(at(300)), "two minutes once more");
    }

    // SC-7
    #[test]
    fn without_mail_nothing_is_probed_and_the_next_to_come_is_a_probe() {
        let mut dead = dead(450);
        dead.probe(&key(0));
        dead.take(&key(0), true, at(60));
        dead.probed(&key(0), at(60));
        assert_eq!(dead.next(), None);
        assert!(dead.is_dead(&key(0)));
        dead.want(&key(0), at(5000));
        assert_eq!(dead.next(), Some(at(5000)));
    }

    // SC-7, CTL-11
    #[test]
    fn a_kick_makes_a_probe_due_and_puts_none_off() {
        let mut dead = dead(450);
        dead.kick(&key(0), at(90));
        assert_eq!(dead.next(), Some(at(60)));
        dead.kick(&key(0), at(5));
        assert_eq!(dead.next(), Some(at(5)));
    }

    // SC-7, RT-4
    #[test]
    fn an_expiry_is_a_probe_of_its_own() {
        let mut dead = dead(450);
        dead.probe(&key(0));
        let first = dead.take(&key(0), true, at(60)).unwrap();
        assert!(first.last_attempts, "nobody has looked yet");
        dead.looked(&key(0), Some(at(100)), at(60));
        dead.sent(&key(0));
        dead.strike(&key(0), "refused", at(61));
        dead.probed(&key(0), at(61));
        assert_eq!(dead.next(), Some(at(100)), "not 61 + 120");
        dead.probe(&key(0));
        assert!(dead.take(&key(0), true, at(100)).unwrap().last_attempts);
        dead.looked(&key(0), None, at(100));
        assert!(!dead.take(&key(0), true, at(101)).unwrap().last_attempts);
    }

    // PRC-8
    #[test]
    fn what_is_remembered_is_bounded_and_a_dead_one_with_mail_stays() {
        let mut dead = dead(450);
        dead.most = 100;
        for n in 1..1000 {
            dead.strike(&key(n), "refused", at(n as i64));
            assert!(dead.entries.len() <= 100);
        }
        assert!(dead.is_dead(&key(0)));
        assert!(dead.entries.contains_key(&key(999)));
        assert!(!dead.entries.contains_key(&key(1)));
        dead.most = 0;
        dead.entries.retain(|other, _| *other == key(0));
        for _ in 0..3 {
            assert!(!dead.strike(&key(1), "refused", at(0)), "no room");
        }
    }
}
