//! How far the store has been searched for destinations with due mail (RT-9, SC-1). Pure.
//!
//! The store keeps each destination under its earliest due time. A *sweep* reads that index from where the last one
//! ended up to now, page by page, so what is blocked or already known is not read again and again; then one look at
//! what follows tells when the next sweep is worth making. Between sweeps nothing is read: new due times are told by
//! whoever causes them. What cannot be remembered, or is unblocked, asks for a sweep from the start.

use crate::clock::Timestamp;
use crate::store::DueDestination;

/// Most destinations read at once.
pub const PAGE: usize = 256;

/// A place in the index of destinations: due time and row.
pub type Place = (Timestamp, i64);

/// What is to be read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// [`PAGE`] destinations that are due at `to`, after this place.
    Page {
        /// Due then or earlier.
        to: Timestamp,
        /// Where the page before ended.
        after: Option<Place>,
    },
    /// The first destination after this place, due or not.
    Ahead(Place),
    /// Nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A sweep that began at `to` has come to this place.
    Sweeping { at: Option<Place>, to: Timestamp },
    /// The sweep up to here is done; what follows is not known.
    Swept(Place),
    /// What follows is known.
    Resting(Place),
}

/// Progress of the search.
#[derive(Debug)]
pub struct Scan {
    state: State,
    /// The earliest due time ahead that is known; `None`: none.
    next: Option<Timestamp>,
    /// Look at everything again, now or from this time on.
    again: Option<Timestamp>,
}

/// Nothing has been read.
impl Default for Scan {
    fn default() -> Scan {
        Scan {
            state: State::Resting((Timestamp::default(), i64::MIN)),
            next: None,
            again: Some(Timestamp::default()),
        }
    }
}

impl Scan {
    /// Everything must be looked at again, at `at` or later.
    pub fn again(&mut self, at: Timestamp) {
        self.again = Some(self.again.map_or(at, |other| other.min(at)));
    }

    /// Mail will be due at `at`, in the future.
    pub fn ahead(&mut self, at: Timestamp) {
        let (State::Sweeping { to, .. } | State::Swept((to, _)) | State::Resting((to, _))) =
            self.state;
        if at <= to {
            // The clock is behind what was searched, and may be beyond it again when somebody looks (RT-9).
            return self.again(at);
        }
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Whether all that is due at `now` has been read, as far as anybody has been told.
    pub fn is_current(&self, now: Timestamp) -> bool {
        !matches!(self.state, State::Sweeping { .. }) && self.wake().is_none_or(|at| at > now)
    }

    /// Whether destinations that are due have not been read.
    pub fn is_behind(&self, now: Timestamp) -> bool {
        !self.is_current(now)
    }

    /// When there will be something to read, if nothing is told before.
    pub fn wake(&self) -> Option<Timestamp> {
        [self.next, self.again].into_iter().flatten().min()
    }

    /// What is to be read now. Begins a sweep if it is time.
    pub fn read(&mut self, now: Timestamp) -> Read {
        // A sweep that runs is never cut off, or those at its end might wait for ever.
        if !matches!(self.state, State::Sweeping { .. }) && self.again.is_some_and(|at| at <= now) {
            self.again = None;
            self.begin(None, now);
        }
        if let State::Resting(from) = self.state
            && self.next.is_some_and(|at| at <= now)
        {
            // After a clock step backward the place lies in the future, and what is due now before it (RT-9).
            self.begin(Some(from).filter(|from| from.0 <= now), now);
        }
        match self.state {
            State::Sweeping { at, to } => Read::Page { to, after: at },
            State::Swept(place) => Read::Ahead(place),
            State::Resting(_) => Read::Nothing,
        }
    }

    /// The answer to [`Read::Page`].
    pub fn page(&mut self, page: &[DueDestination]) {
        let State::Sweeping { to, .. } = self.state else {
            return;
        };
        self.state = match page.last() {
            Some(last) if page.len() >= PAGE => State::Sweeping {
                at: Some((last.next_due, last.row)),
                to,
            },
            _ => State::Swept((to, i64::MAX)),
        };
    }

    /// A destination has nothing more that is due, so it stands elsewhere in the index now: what lies ahead is no
    /// longer known.
    pub fn moved(&mut self) {
        if let State::Resting(place) = self.state {
            self.state = State::Swept(place);
        }
    }

    /// The answer to [`Read::Ahead`].
    pub fn seen_ahead(&mut self, first: Option<Timestamp>) {
        if let State::Swept(place) = self.state {
            self.state = State::Resting(place);
            if let Some(first) = first {
                self.ahead(first);
            }
        }
    }

    fn begin(&mut self, at: Option<Place>, now: Timestamp) {
        self.next = None;
        self.state = State::Sweeping { at, to: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DestinationKey;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn page(from: usize, to: usize) -> Vec<DueDestination> {
        let row = |n: usize| DueDestination {
            key: DestinationKey(format!("d{n}").into()),
            next_due: at(1),
            row: n as i64,
        };
        (from..to).map(row).collect()
    }

    /// A scan that has seen everything at `now`, with something ahead at `next`.
    fn rested(now: Timestamp, next: Option<Timestamp>) -> Scan {
        let mut scan = Scan::default();
        assert_eq!(
            scan.read(now),
            Read::Page {
                to: now,
                after: None
            }
        );
        scan.page(&[]);
        assert_eq!(scan.read(now), Read::Ahead((now, i64::MAX)));
        scan.seen_ahead(next);
        scan
    }

    // SC-1
    #[test]
    fn between_due_times_nothing_is_read() {
        let mut scan = rested(at(10), Some(at(20)));
        assert_eq!(scan.wake(), Some(at(20)));
        assert_eq!(scan.read(at(19)), Read::Nothing);
        scan.ahead(at(15));
        assert_eq!(scan.wake(), Some(at(15)));
        let mut idle = rested(at(10), None);
        assert_eq!(
            (idle.read(at(1_000_000)), idle.wake()),
            (Read::Nothing, None)
        );
    }

    // SC-1
    #[test]
    fn a_sweep_goes_on_where_the_last_one_ended() {
        let mut scan = rested(at(10), Some(at(20)));
        let first = Read::Page {
            to: at(25),
            after: Some((at(10), i64::MAX)),
        };
        assert_eq!(scan.read(at(25)), first);
        scan.page(&page(0, PAGE));
        assert!(scan.is_behind(at(25)));
        scan.again(at(25));
        let second = Read::Page {
            to: at(25),
            after: Some((at(1), PAGE as i64 - 1)),
        };
        assert_eq!(scan.read(at(26)), second, "it is not cut off");
        scan.page(&page(PAGE, PAGE + 3));
        let anew = Read::Page {
            to: at(27),
            after: None,
        };
        assert_eq!(
            scan.read(at(27)),
            anew,
            "but followed by one from the start"
        );
    }

    // RT-9
    #[test]
    fn after_a_step_back_a_sweep_begins_at_the_start() {
        let mut scan = rested(at(100), None);
        scan.ahead(at(50));
        let expected = Read::Page {
            to: at(60),
            after: None,
        };
        assert_eq!(scan.read(at(60)), expected);
    }

    // RT-9
    #[test]
    fn what_is_told_behind_the_place_is_found_from_the_start_however_late_it_is_then() {
        let mut scan = rested(at(100), None);
        scan.ahead(at(50));
        assert_eq!(scan.wake(), Some(at(50)));
        let expected = Read::Page {
            to: at(110),
            after: None,
        };
        assert_eq!(scan.read(at(110)), expected);
    }

    #[test]
    fn what_lies_ahead_is_read_again_after_a_destination_was_emptied() {
        let mut scan = rested(at(10), None);
        scan.moved();
        assert!(scan.is_current(at(11)));
        assert_eq!(scan.read(at(11)), Read::Ahead((at(10), i64::MAX)));
        scan.seen_ahead(Some(at(12)));
        assert!(scan.is_behind(at(12)));
    }
}
