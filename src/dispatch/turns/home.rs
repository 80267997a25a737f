//! What the members of one destination share: its window, and the order in which they are served.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Timestamp;
use crate::store::DestinationKey;

/// See [`Pace`].
pub(super) const SPAN: i64 = 10;

/// Slots that come back within a span from a quick destination: what is claimed ahead waits for some tens of
/// milliseconds at most.
pub(super) const QUICK: u32 = 4;

/// Who has mail of its own: a domain, a relay, or what waits under a pause.
#[derive(Debug)]
pub(super) struct Member {
    /// With whom it shares a window: itself, or the group of its hosts (SC-4).
    pub(super) home: DestinationKey,
    pub(super) in_flight: usize,
    /// Of those, with the workers.
    pub(super) running: usize,
    pub(super) turn: Turn,
    /// Mail came due while it was being served.
    pub(super) dirty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing due is known.
    Idle,
    /// Waits at its home, with this ticket.
    Waiting(u64),
    /// Handed out by [`super::Turns::serve`], not yet answered by [`super::Turns::served`].
    Serving,
}

impl Member {
    pub(super) fn new(home: DestinationKey) -> Member {
        Member {
            home,
            in_flight: 0,
            running: 0,
            turn: Turn::Idle,
            dirty: false,
        }
    }

    pub(super) fn has_nothing(&self) -> bool {
        self.turn == Turn::Idle && self.in_flight == 0 && self.running == 0
    }
}

/// One destination, as limits see it.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) in_flight: usize,
    /// Of those, with the workers: no more are put there than the window has.
    pub(super) running: usize,
    /// As [`super::Windows`] has it, unless [`super::Turns::offer_wide`].
    pub(super) window: usize,
    pub(super) wide: bool,
    pub(super) place: Place,
    /// The ticket that it had in the line when members came with transactions in flight that left it no room.
    pub(super) kept: Option<u64>,
    pub(super) pace: Pace,
    pub(super) members: usize,
    /// Members with due mail, by ticket.
    pub(super) waiting: BTreeMap<u64, DestinationKey>,
    /// Whose claims are ahead of what the window lets run, in turn.
    pub(super) ready: VecDeque<DestinationKey>,
    /// More members have due mail than are remembered.
    pub(super) overflow: bool,
}

/// Where a home stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// None of its members waits.
    Idle,
    /// In the line, at this ticket, with no transaction in flight.
    Fresh(u64),
    /// In the line, at this ticket, with transactions in flight.
    Busy(u64),
    /// Due mail, but at its own limit.
    Aside,
}

impl Home {
    pub(super) fn new(window: usize) -> Home {
        Home {
            in_flight: 0,
            running: 0,
            window,
            wide: false,
            place: Place::Idle,
            kept: None,
            pace: Pace::default(),
            members: 0,
            waiting: BTreeMap::new(),
            ready: VecDeque::new(),
            overflow: false,
        }
    }

    /// A quick destination may have as much again claimed ahead, so that there is something for each connection in the
    /// moment it comes back, and claims are made by the dozen.
    pub(super) fn with_ahead(&self) -> usize {
        match self.pace.is_quick() {
            true => self.window.saturating_mul(2),
            false => self.window,
        }
    }

    /// Whether one that stands aside is to be served again, `most` being what it may have. One that has claims ahead
    /// waits until half of them are used up: its connections are busy that long, and one commit then claims many.
    pub(super) fn has_room_again(&self, most: usize) -> bool {
        let ahead = most.saturating_sub(self.window);
        self.in_flight + ahead.div_ceil(2) <= most && self.in_flight < most
    }
}

/// How quickly a destination gives slots back.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The span of [`SPAN`] milliseconds that is counted now, by number.
    span: i64,
    count: u32,
    /// What came back in the span before it.
    before: u32,
}

impl Pace {
    pub(super) fn count(&mut self, now: Timestamp) {
        let span = now.millis().div_euclid(SPAN);
        if span != self.span {
            self.before = if span == self.span + 1 { self.count } else { 0 };
            (self.span, self.count) = (span, 0);
        }
        self.count = self.count.saturating_add(1);
    }

    /// As of the last slot that came back.
    pub(super) fn is_quick(&self) -> bool {
        self.count.max(self.before) >= QUICK
    }
}
