//! Where clients' sessions wait a moment for a slot of a quick destination.
//!
//! Mail that is claimed in its accepting commit and goes to a worker out of memory costs little more than half of what
//! it costs to queue it, find it, claim it and read it again. So when a destination has all its slots taken, but gives
//! them back so quickly that one will be there within milliseconds, the session of the client waits for it ahead of its
//! commit. Clients that bring mail faster than it can leave are slowed down to that pace; Postfix's `in_flow_delay` has
//! the same purpose and waits for a second. A slow destination keeps nobody waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::permit::Permit;
use crate::clock::Timestamp;
use crate::store::DestinationKey;

/// Longest wait; over it the mail goes the long way.
pub(super) const PATIENCE: Duration = Duration::from_millis(60);

/// Slots that came back are counted per span of this many milliseconds: who is behind no more others than came back in
/// one of them will wait about as long.
const SPAN: i64 = 50;

/// Destinations whose pace is remembered (PRC-8).
const MOST_LINES: usize = 1024;

/// All who wait, by destination.
#[derive(Debug, Default)]
pub(super) struct Anteroom {
    lines: HashMap<DestinationKey, Line>,
}

#[derive(Debug, Default)]
struct Line {
    seats: VecDeque<Arc<Seat>>,
    /// The span that is counted now, by number.
    span: i64,
    count: usize,
    /// Slots that came back in the span before it.
    before: usize,
}

impl Line {
    fn turn_to(&mut self, now: Timestamp) {
        let span = now.millis().div_euclid(SPAN);
        if span != self.span {
            self.before = if span == self.span + 1 { self.count } else { 0 };
            (self.span, self.count) = (span, 0);
        }
    }
}

impl Anteroom {
    /// A slot of `key` came back; who has waited longest for one. Stays in the line until [`Anteroom::next`].
    pub(super) fn came_back(&mut self, key: &DestinationKey, now: Timestamp) -> Option<Arc<Seat>> {
        if let Some(line) = self.lines.get_mut(key) {
            line.turn_to(now);
            line.count += 1;
            return line.seats.front().map(Arc::clone);
        }
        if self.lines.len() >= MOST_LINES {
            // What is not quick any more has nobody waiting, and is counted anew when it comes again.
            self.lines.retain(|_, line| {
                line.turn_to(now);
                !line.seats.is_empty() || line.count + line.before > 0
            });
        }
        if self.lines.len() < MOST_LINES {
            let line = self.lines.entry(key.clone()).or_default();
            line.turn_to(now);
            line.count = 1;
        }
        None
    }

    /// A seat at the end of the line, if one may hope for a slot within milliseconds.
    pub(super) fn take_seat(&mut self, key: &DestinationKey, now: Timestamp) -> Option<Arc<Seat>> {
        let line = self.lines.get_mut(key)?;
        line.turn_to(now);
        if line.seats.len() >= line.before.max(line.count) {
            return None;
        }
        let seat = Arc::new(Seat::default());
        line.seats.push_back(Arc::clone(&seat));
        Some(seat)
    }

    /// Who has waited longest goes out of the line.
    pub(super) fn next(&mut self, key: &DestinationKey) {
        if let Some(line) = self.lines.get_mut(key) {
            line.seats.pop_front();
        }
    }

    /// Leaves the line.
    pub(super) fn leave(&mut self, key: &DestinationKey, seat: &Arc<Seat>) {
        if let Some(line) = self.lines.get_mut(key) {
            line.seats.retain(|other| !Arc::ptr_eq(other, seat));
        }
    }
}

/// One who waits. A slot that nobody takes from it goes back with it.
#[derive(Debug, Default)]
pub(super) struct Seat {
    slot: Mutex<Option<Permit>>,
    called: Condvar,
}

impl Seat {
    fn lock(&self) -> MutexGuard<'_, Option<Permit>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a slot over.
    pub(super) fn call(&self, slot: Permit) {
        *self.lock() = Some(slot);
        self.called.notify_one();
    }

    /// The slot, if it comes in time.
    pub(super) fn wait(&self, patience: Duration) -> Option<Permit> {
        let deadline = Instant::now() + patience;
        let mut slot = self.lock();
        loop {
            if slot.is_some() {
                return slot.take();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let woken = self.called.wait_timeout(slot, left);
            slot = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn key() -> DestinationKey {
        DestinationKey("quick.example".into())
    }

    // SC-2
    #[test]
    fn as_many_may_wait_as_slots_came_back_lately_and_nobody_for_a_slow_destination() {
        let mut room = Anteroom::default();
        assert!(room.take_seat(&key(), at(0)).is_none(), "nothing is known");
        room.came_back(&key(), at(1));
        room.came_back(&key(), at(2));
        assert!(room.take_seat(&key(), at(3)).is_some());
        assert!(room.take_seat(&key(), at(3 + SPAN)).is_some());
        assert!(room.take_seat(&key(), at(3 + SPAN)).is_none(), "two wait");
        assert!(
            room.take_seat(&key(), at(3 + 2 * SPAN)).is_none(),
            "slow now"
        );
        let longest = room.came_back(&key(), at(3 + 2 * SPAN)).unwrap();
        room.next(&key());
        let other = room.came_back(&key(), at(3 + 2 * SPAN)).unwrap();
        assert!(!Arc::ptr_eq(&longest, &other), "one call for each");
        room.leave(&key(), &other);
        assert!(room.came_back(&key(), at(3 + 2 * SPAN)).is_none());
    }

    // PRC-8
    #[test]
    fn the_paces_that_are_remembered_are_bounded_and_the_old_ones_go() {
        let mut room = Anteroom::default();
        let name = |n: usize| DestinationKey(format!("d{n}.example").into());
        for n in 0..2 * MOST_LINES {
            room.came_back(&name(n), at(0));
        }
        assert_eq!(room.lines.len(), MOST_LINES);
        room.came_back(&name(MOST_LINES), at(10 * SPAN));
        assert_eq!(room.lines.len(), 1);
    }

    #[test]
    fn a_call_that_was_made_is_heard_and_none_is_waited_for_without_end() {
        let seat = Seat::default();
        assert!(seat.wait(Duration::ZERO).is_none());
        seat.call(Permit::detached());
        assert!(seat.wait(PATIENCE).is_some());
    }
}
