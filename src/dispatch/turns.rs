//! Who is active, and whose turn it is (SC-1 to SC-3). Pure.
//!
//! Holds one entry per destination that has transactions in flight or is known to have due mail, and nothing per
//! message. Destinations that wait for a slot stand in one line; each is served at its head and, if more of its mail
//! is due, goes to its end (SC-2). Those at their own limit stand aside until one of their slots comes back, so they
//! hide nobody. The line is bounded: what does not fit is found again in the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::dead::Probe;
use super::permit::Feedback;
use super::windows::Windows;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::limit::{Standing, half, room};
use crate::store::{DestinationKey, LearnedWindow};

/// Most destinations in the line; those in flight are remembered besides.
pub const MOST_WAITING: usize = 4096;

/// See [`Pace`].
const SPAN: i64 = 10;

/// Slots that come back within a span from a quick destination: what is claimed ahead waits for some tens of
/// milliseconds at most.
const QUICK: u32 = 4;

/// A destination whose turn it is, and the slots set aside for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The destination.
    pub key: DestinationKey,
    /// How many transactions it may have; they already count as in flight.
    pub slots: usize,
    /// It is dead, and this is what it is probed with (SC-7).
    pub probe: Option<Probe>,
}

/// What was found at a destination that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// More of its mail is due.
    More,
    /// Nothing more is due now.
    Nothing,
}

/// An active destination.
#[derive(Clone, Copy, Debug)]
pub struct Active<'a> {
    /// Its key.
    pub key: &'a DestinationKey,
    /// Its transactions in flight.
    pub in_flight: usize,
    /// Whether it has due mail that waits.
    pub waits: bool,
    /// How many it may have.
    pub window: usize,
}

#[derive(Debug)]
struct Entry {
    in_flight: usize,
    /// As [`Windows`] has it, unless [`Turns::widen`].
    window: usize,
    wide: bool,
    place: Place,
    pace: Pace,
    /// Mail came due while it was being served.
    dirty: bool,
}

impl Entry {
    fn new(window: usize) -> Entry {
        Entry {
            in_flight: 0,
            window,
            wide: false,
            place: Place::Idle,
            pace: Pace::default(),
            dirty: false,
        }
    }

    /// A quick destination may have as much again claimed ahead, so that there is something for each connection in the
    /// moment it comes back, and claims are made by the dozen.
    fn with_ahead(&self) -> usize {
        match self.pace.is_quick() {
            true => self.window.saturating_mul(2),
            false => self.window,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Nothing due is known.
    #[default]
    Idle,
    /// In the line, at this ticket, with no transaction in flight.
    Fresh(u64),
    /// In the line, at this ticket, with transactions in flight.
    Busy(u64),
    /// Due mail, but at its own limit.
    Aside,
    /// Handed out by [`Turns::serve`], not yet answered by [`Turns::served`].
    Serving,
}

/// How quickly a destination gives slots back.
#[derive(Debug, Default)]
struct Pace {
    /// The span of [`SPAN`] milliseconds that is counted now, by number.
    span: i64,
    count: u32,
    /// What came back in the span before it.
    before: u32,
}

impl Pace {
    fn count(&mut self, now: Timestamp) {
        let span = now.millis().div_euclid(SPAN);
        if span != self.span {
            self.before = if span == self.span + 1 { self.count } else { 0 };
            (self.span, self.count) = (span, 0);
        }
        self.count = self.count.saturating_add(1);
    }

    /// As of the last slot that came back.
    fn is_quick(&self) -> bool {
        self.count.max(self.before) >= QUICK
    }
}

/// The line and the counters.
#[derive(Debug)]
pub struct Turns {
    workers: usize,
    windows: Windows,
    most_waiting: usize,
    in_flight: usize,
    /// Destinations handed out by [`Turns::serve`] and not yet answered for.
    serving: usize,
    entries: HashMap<DestinationKey, Entry>,
    /// Two parts of one line, because the last workers are only for destinations that have none (`policy::limit`).
    fresh: BTreeMap<u64, DestinationKey>,
    busy: BTreeMap<u64, DestinationKey>,
    ticket: u64,
}

impl Turns {
    /// Nobody is active. At most `most_waiting` destinations wait in the line ([`MOST_WAITING`]).
    pub fn new(workers: usize, windows: Windows, most_waiting: usize) -> Turns {
        Turns {
            workers: workers.max(1),
            windows,
            most_waiting,
            in_flight: 0,
            serving: 0,
            entries: HashMap::new(),
            fresh: BTreeMap::new(),
            busy: BTreeMap::new(),
            ticket: 0,
        }
    }

    /// Other limits may hold.
    pub fn set_config(&mut self, config: &Arc<Config>) {
        self.windows.set_config(config);
        for (key, entry) in &mut self.entries {
            entry.window = self.windows.size(key);
            entry.wide = false;
        }
        for key in self.keys(|place| matches!(place, Place::Aside | Place::Busy(_))) {
            self.settle_place(&key);
        }
    }

    /// Most connections that the destination may have now.
    pub fn window_of(&self, key: &DestinationKey) -> usize {
        match self.entries.get(key) {
            Some(entry) => entry.window,
            None => self.windows.size(key),
        }
    }

    /// What was learned of destinations.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// The same, to change what is known of `key`.
    pub fn change_window<T>(
        &mut self,
        key: &DestinationKey,
        change: impl FnOnce(&mut Windows) -> T,
    ) -> T {
        let changed = change(&mut self.windows);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.window = self.windows.size(key);
            entry.wide = false;
        }
        self.settle_place(key);
        changed
    }

    /// What was kept of windows, before anything else.
    pub fn load(&mut self, kept: Vec<(DestinationKey, LearnedWindow)>) {
        self.windows.load(kept);
    }

    /// Whose lessons went for want of room.
    pub fn forgotten(&mut self) -> Vec<DestinationKey> {
        self.windows.forgotten()
    }

    /// It is dead: last attempts go side by side, because however many there are they must come to an end (RT-4), and
    /// nothing more is learned. For one in the line.
    pub fn widen(&mut self, key: &DestinationKey) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.window = self.windows.limits(key).connections;
            entry.wide = true;
        }
    }

    /// It was dead and lives again. With `anew` its window begins anew too (SC-7). Whether something was learned before.
    pub fn revive(&mut self, key: &DestinationKey, anew: bool) -> bool {
        self.change_window(key, |windows| anew && windows.forget(key))
    }

    /// Transactions in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Most transactions at once.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Destinations in the line.
    pub fn waiting(&self) -> usize {
        self.fresh.len() + self.busy.len()
    }

    /// Destinations that are being served.
    pub fn serving(&self) -> usize {
        self.serving
    }

    /// Whether the line has no room for destinations that are not yet known.
    pub fn is_full(&self) -> bool {
        !self.has_place_for(1)
    }

    /// Whether the line has room for so many more. Destinations with transactions in flight do not count: there are
    /// never more of them than workers, and they may be waiting for more than those that have none.
    pub fn has_place_for(&self, more: usize) -> bool {
        self.fresh.len() + more <= self.most_waiting
    }

    /// The active destinations, in no order.
    pub fn active(&self) -> impl Iterator<Item = Active<'_>> {
        self.entries.iter().map(|(key, entry)| Active {
            key,
            in_flight: entry.in_flight,
            waits: entry.place != Place::Idle,
            window: entry.window,
        })
    }

    /// Mail of `key` is due. `false`: the line is full, and the caller must find this destination again later.
    pub fn offer(&mut self, key: &DestinationKey) -> bool {
        let full = self.is_full();
        match self.entries.get_mut(key) {
            Some(entry) if entry.place == Place::Serving => entry.dirty = true,
            Some(entry) if entry.place != Place::Idle => {}
            Some(entry) if full && entry.in_flight == 0 => return false,
            None if full => return false,
            _ => self.join(key),
        }
        true
    }

    /// A slot for mail that is just being accepted: only if nothing older of its destination waits, and each
    /// destination in the line could still have a worker.
    pub fn reserve(&mut self, key: &DestinationKey) -> bool {
        let entry = self.entries.get(key);
        let idle = entry.is_none_or(|entry| entry.place == Place::Idle);
        let free = self.workers.saturating_sub(self.in_flight);
        if !idle || free <= self.waiting() || self.room(entry) == 0 {
            return false;
        }
        self.entry(key).in_flight += 1;
        self.in_flight += 1;
        true
    }

    /// Whether this destination has transactions in flight, so that slots of it come back.
    pub fn is_active(&self, key: &DestinationKey) -> bool {
        self.entries
            .get(key)
            .is_some_and(|entry| entry.in_flight > 0)
    }

    /// Transactions of this destination in flight.
    pub fn in_flight_of(&self, key: &DestinationKey) -> usize {
        self.entries.get(key).map_or(0, |entry| entry.in_flight)
    }

    /// Whether it has nothing in flight, and no place in the line or the hands of the driver.
    pub fn is_quiet(&self, key: &DestinationKey) -> bool {
        !self.entries.contains_key(key)
    }

    /// Gives a slot back. `together`: so many run in its group, if it has one. Whether something was learned that the store
    /// should know (SC-6).
    pub fn release(
        &mut self,
        key: &DestinationKey,
        feedback: Option<&Feedback>,
        together: usize,
        now: Timestamp,
    ) -> bool {
        let mut learned = false;
        if let Some(entry) = self.entries.get_mut(key) {
            entry.pace.count(now);
            if let Some(feedback) = feedback
                && !entry.wide
            {
                let heard = self
                    .windows
                    .heard(key, entry.in_flight.max(together), feedback, now);
                (entry.window, learned) = heard;
            }
        }
        self.give_back(key, 1);
        self.settle_place(key);
        learned
    }

    fn entry(&mut self, key: &DestinationKey) -> &mut Entry {
        let windows = &self.windows;
        let entry = self.entries.entry(key.clone());
        entry.or_insert_with_key(|key| Entry::new(windows.size(key)))
    }

    /// Whether [`Turns::serve`] would hand out anything.
    pub fn can_serve(&self) -> bool {
        self.head().is_some()
    }

    /// The destination whose turn it is, if there is a worker for it. It is out of the line until it is answered for
    /// by [`Turns::served`].
    pub fn serve(&mut self) -> Option<Pick> {
        let (ticket, fresh) = self.head()?;
        // Several slots at once save round trips to the store, as long as each of the others could have as many.
        let free = self.workers.saturating_sub(self.in_flight);
        let share = (free / self.waiting().max(1)).max(1);
        let line = if fresh {
            &mut self.fresh
        } else {
            &mut self.busy
        };
        let key = line.remove(&ticket)?;
        let slots = self.room(self.entries.get(&key)).min(share);
        let entry = self.entry(&key);
        entry.place = Place::Serving;
        entry.dirty = false;
        entry.in_flight += slots;
        self.in_flight += slots;
        self.serving += 1;
        Some(Pick {
            key,
            slots,
            probe: None,
        })
    }

    /// Answers for a [`Pick`]: so many of its slots were not needed, and this is left. With `make_room` it goes out of
    /// the line even if it has more. `false`: it has more but is not in the line, and the caller must find it again.
    pub fn served(
        &mut self,
        key: &DestinationKey,
        unused: usize,
        left: Left,
        make_room: bool,
    ) -> bool {
        self.give_back(key, unused);
        let Some(entry) = self.entries.get_mut(key) else {
            return true;
        };
        if entry.place == Place::Serving {
            self.serving -= 1;
        }
        let more = left == Left::More || entry.dirty;
        entry.place = Place::Idle;
        entry.dirty = false;
        if more && !make_room {
            self.join(key);
        } else {
            self.settle_place(key);
        }
        !more || !make_room
    }

    /// Forgets what is due of this destination; its slots stay counted. For destinations that are blocked.
    pub fn forget(&mut self, key: &DestinationKey) {
        self.leave(key);
        if let Some(entry) = self.entries.get_mut(key)
            && entry.place != Place::Serving
        {
            entry.place = Place::Idle;
        }
        self.settle_place(key);
    }

    /// Destinations for which [`Turns::forget`] could do something.
    pub fn line(&self) -> Vec<DestinationKey> {
        self.keys(|place| !matches!(place, Place::Idle | Place::Serving))
    }

    /// The destinations in such a place, in an order that does not depend on the map's.
    fn keys(&self, at: impl Fn(Place) -> bool) -> Vec<DestinationKey> {
        let mut keys: Vec<DestinationKey> = self
            .entries
            .iter()
            .filter(|(_, entry)| at(entry.place))
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort_unstable();
        keys
    }

    fn room(&self, entry: Option<&Entry>) -> usize {
        room(&Standing {
            workers: self.workers,
            busy: self.in_flight,
            in_flight: entry.map_or(0, |entry| entry.in_flight),
            // One that has nothing yet may have one at least, whatever was learned of it.
            window: entry.map_or(1, Entry::with_ahead),
        })
    }

    /// The most that a destination may have, however many workers are free.
    fn most(&self, entry: &Entry) -> usize {
        entry.with_ahead().min(half(self.workers))
    }

    /// The ticket at the head of what can be served now, and whether it stands in the fresh part.
    fn head(&self) -> Option<(u64, bool)> {
        let fresh = self.fresh.first_key_value().map(|(&ticket, _)| ticket);
        let busy = self.busy.first_key_value().map(|(&ticket, _)| ticket);
        let for_fresh = self.room(None) > 0;
        // The limits of its own are not the reason why a destination stands in the line; one slot of another's kind
        // tells whether workers are left for those that already have some.
        let for_busy = self.room_for_busy();
        match (fresh.filter(|_| for_fresh), busy.filter(|_| for_busy)) {
            (Some(f), Some(b)) if b < f => Some((b, false)),
            (Some(f), _) => Some((f, true)),
            (None, Some(b)) => Some((b, false)),
            (None, None) => None,
        }
    }

    /// Whether workers are left for destinations that already have some.
    fn room_for_busy(&self) -> bool {
        room(&Standing {
            workers: self.workers,
            busy: self.in_flight,
            in_flight: 1,
            window: usize::MAX,
        }) > 0
    }

    /// Whether a destination that stands aside is to be served again. One that has claims ahead waits until half of
    /// them are used up: its connections are busy that long, and one commit then claims many.
    fn has_room_again(&self, key: &DestinationKey) -> bool {
        self.entries.get(key).is_some_and(|entry| {
            let most = self.most(entry);
            let ahead = most.saturating_sub(entry.window);
            entry.in_flight + ahead.div_ceil(2) <= most && entry.in_flight < most
        })
    }

    /// To the end of the line, or aside. The destination must not be in the line.
    fn join(&mut self, key: &DestinationKey) {
        let entry = self.entries.get(key);
        let in_flight = entry.map_or(0, |entry| entry.in_flight);
        let ticket = self.ticket;
        let place = if entry.is_some_and(|entry| entry.in_flight >= self.most(entry)) {
            Place::Aside
        } else if in_flight == 0 {
            self.fresh.insert(ticket, key.clone());
            Place::Fresh(ticket)
        } else {
            self.busy.insert(ticket, key.clone());
            Place::Busy(ticket)
        };
        self.ticket += 1;
        self.entry(key).place = place;
    }

    fn leave(&mut self, key: &DestinationKey) {
        match self.entries.get(key).map(|entry| entry.place) {
            Some(Place::Fresh(ticket)) => {
                self.fresh.remove(&ticket);
            }
            Some(Place::Busy(ticket)) => {
                self.busy.remove(&ticket);
            }
            _ => {}
        }
    }

    fn give_back(&mut self, key: &DestinationKey, slots: usize) {
        if let Some(entry) = self.entries.get_mut(key) {
            let slots = slots.min(entry.in_flight);
            entry.in_flight -= slots;
            self.in_flight -= slots;
        }
    }

    /// After slots came back: whoever stood aside joins the line, whoever has none left changes its part of the line
    /// without losing its place, and who has nothing at all is forgotten.
    fn settle_place(&mut self, key: &DestinationKey) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let (in_flight, place) = (entry.in_flight, entry.place);
        let most = entry.with_ahead().min(half(self.workers));
        match place {
            Place::Idle if in_flight == 0 => {
                self.entries.remove(key);
            }
            Place::Busy(ticket) if in_flight == 0 => {
                entry.place = Place::Fresh(ticket);
                if let Some(key) = self.busy.remove(&ticket) {
                    self.fresh.insert(ticket, key);
                }
            }
            Place::Busy(ticket) if in_flight >= most => {
                // Its window became smaller.
                entry.place = Place::Aside;
                self.busy.remove(&ticket);
            }
            Place::Aside if self.has_room_again(key) => self.join(key),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    /// Windows that are as large as they may be.
    fn windows(size: usize) -> Windows {
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        config.limits.connections = size;
        config.limits.initial = size;
        Windows::new(Arc::new(config))
    }

    fn now() -> Timestamp {
        Timestamp::from_secs(1)
    }

    fn key(n: usize) -> DestinationKey {
        DestinationKey(format!("d{n}.example").into())
    }

    fn all_picks(turns: &mut Turns) -> Vec<(usize, usize)> {
        let mut picks = Vec::new();
        while let Some(pick) = turns.serve() {
            let n = pick.key.0[1..].split('.').next().unwrap().parse().unwrap();
            picks.push((n, pick.slots));
            turns.served(&pick.key, 0, Left::More, false);
        }
        picks
    }

    // SC-2
    #[test]
    fn destinations_are_served_in_turn() {
        let mut turns = Turns::new(8, windows(1), MOST_WAITING);
        for n in 0..4 {
            assert!(turns.offer(&key(n)));
        }
        assert_eq!(all_picks(&mut turns), [(0, 1), (1, 1), (2, 1), (3, 1)]);
        turns.release(&key(2), None, 0, now());
        turns.release(&key(0), None, 0, now());
        assert_eq!(all_picks(&mut turns), [(2, 1), (0, 1)]);
    }

    // SC-3
    #[test]
    fn a_destination_at_its_limit_stands_aside_and_hides_nobody() {
        let mut turns = Turns::new(4, windows(20), MOST_WAITING);
        turns.offer(&key(0));
        assert_eq!(all_picks(&mut turns), [(0, 2)]);
        assert!(!turns.can_serve());
        turns.offer(&key(1));
        assert_eq!(all_picks(&mut turns), [(1, 1)]);
        turns.release(&key(0), None, 0, now());
        assert_eq!(all_picks(&mut turns), [(1, 1)], "the other came first");
        turns.release(&key(0), None, 0, now());
        assert_eq!(all_picks(&mut turns), [(0, 1)]);
    }

    // SC-1
    #[test]
    fn the_last_workers_are_for_destinations_without_one() {
        let mut turns = Turns::new(8, windows(20), MOST_WAITING);
        for n in 0..3 {
            turns.offer(&key(n));
        }
        while turns.can_serve() {
            all_picks(&mut turns);
        }
        assert_eq!(turns.in_flight(), 6);
        for n in 3..9 {
            turns.offer(&key(n));
        }
        assert_eq!(all_picks(&mut turns), [(3, 1), (4, 1)]);
        assert_eq!(turns.in_flight(), 8);
    }

    // SC-2, SC-3
    #[test]
    fn a_quick_destination_has_as_much_again_claimed_ahead_and_by_the_dozen() {
        let mut turns = Turns::new(64, windows(4), MOST_WAITING);
        turns.offer(&key(0));
        assert_eq!(all_picks(&mut turns), [(0, 4)]);
        for _ in 0..QUICK - 1 {
            turns.release(&key(0), None, 0, now());
            assert_eq!(all_picks(&mut turns), [(0, 1)]);
        }
        turns.release(&key(0), None, 0, now());
        assert_eq!(all_picks(&mut turns), [(0, 5)], "eight, of which four run");
        turns.release(&key(0), None, 0, now());
        assert!(!turns.can_serve(), "not for one alone");
        turns.release(&key(0), None, 0, now());
        assert_eq!(all_picks(&mut turns), [(0, 2)]);
        for span in 1..=4 {
            let later = Timestamp::from_millis(1000 + 2 * SPAN * span);
            turns.release(&key(0), None, 0, later);
            assert!(!turns.can_serve(), "slow now, and more than its window");
        }
        turns.release(&key(0), None, 0, Timestamp::from_secs(9));
        assert_eq!(all_picks(&mut turns), [(0, 1)]);
    }

    // SC-11
    #[test]
    fn nothing_is_remembered_of_a_destination_that_has_nothing() {
        let mut turns = Turns::new(4, windows(2), MOST_WAITING);
        assert!(turns.reserve(&key(1)));
        turns.offer(&key(2));
        let pick = turns.serve().unwrap();
        turns.served(&pick.key, pick.slots, Left::Nothing, false);
        turns.release(&key(1), None, 0, now());
        assert_eq!((turns.in_flight(), turns.active().count()), (0, 0));
        turns.release(&key(1), None, 0, now());
        assert_eq!(turns.in_flight(), 0, "a slot is given back once");
    }

    #[test]
    fn mail_that_comes_due_while_its_destination_is_served_is_not_forgotten() {
        let mut turns = Turns::new(4, windows(2), MOST_WAITING);
        turns.offer(&key(1));
        let pick = turns.serve().unwrap();
        turns.offer(&key(1));
        turns.served(&pick.key, pick.slots, Left::Nothing, false);
        assert_eq!(turns.serve().map(|p| p.key), Some(key(1)));
    }

    #[test]
    fn new_mail_takes_no_slot_before_older_mail_that_waits() {
        let mut turns = Turns::new(4, windows(2), MOST_WAITING);
        turns.offer(&key(1));
        assert!(!turns.reserve(&key(1)), "older mail of its own");
        assert!(turns.reserve(&key(2)));
        turns.offer(&key(3));
        turns.offer(&key(4));
        assert!(!turns.reserve(&key(5)), "three wait for three workers");
    }

    #[test]
    fn the_line_is_bounded() {
        let mut turns = Turns::new(4, windows(2), MOST_WAITING);
        assert!((0..MOST_WAITING).all(|n| turns.offer(&key(n))));
        assert!(!turns.offer(&key(MOST_WAITING)));
        assert!(turns.offer(&key(7)), "it is there already");
    }
}
