//! The end of a transaction that went well: its worker takes the next one, and does not wait for the commit.
//!
//! What is left to do after the commit is done by a thread of the store: the lines of the mail trail, the session back to its
//! pool, the slot back to the dispatcher. The session is nobody's until then, so that the next transaction on it begins
//! after the outcome of this one is on disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::Parts;
use super::pool::Place;
use super::running::Entry;
use super::session::Session;
use super::settle::{Judged, is_passing, tell_unsettled};
use crate::dispatch::Feedback;
use crate::store::{Settled, StoreError};

/// Outcomes that are to be recorded, and the session that may go on then.
pub(super) struct Parting {
    pub judged: Judged,
    pub session: Session,
    pub place: Place,
}

impl Parting {
    /// Hands all of it to the store.
    pub(super) fn leave(self, parts: &Arc<Parts>, entry: Entry, feedback: Feedback) {
        let Parting {
            judged,
            session,
            place,
        } = self;
        let settlement = judged.settlement();
        let rest = Rest {
            parts: Arc::clone(parts),
            entry,
            feedback,
            judged,
            keep: move || place.keep(session),
        };
        let told = move |result| rest.told(result);
        parts.store.settle_then(settlement, told);
    }
}

/// What is left to do when the store has answered.
struct Rest<K> {
    parts: Arc<Parts>,
    entry: Entry,
    feedback: Feedback,
    judged: Judged,
    /// Puts the session back.
    keep: K,
}

impl<K: FnOnce() + Send + 'static> Rest<K> {
    fn told(self, result: Result<Settled, StoreError>) {
        match result {
            Ok(settled) => self.end(|judged, parts, entry| {
                judged.recorded(parts, &entry.running, &settled);
            }),
            Err(error) if is_passing(&error) => self.ask_again(),
            Err(error) => self.end(|_, _, entry| {
                tell_unsettled(&entry.running, &error);
                entry.running.keep_mark();
            }),
        }
    }

    /// ST-7: what was delivered must be recorded, however long that takes. Nobody else should wait for it.
    fn ask_again(self) {
        let rest = Arc::new(Mutex::new(Some(self)));
        let take = |rest: &Mutex<Option<Rest<K>>>| {
            let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
            rest.take()
        };
        let ask = move |rest: Rest<K>| {
            rest.end(|judged, parts, entry| judged.commit(parts, &entry.running));
        };
        let own = Arc::clone(&rest);
        let thread = thread::Builder::new().name("settle".into());
        let started = thread.spawn(move || take(&own).map(ask));
        // Without a thread the others wait after all; the store has no room for them either.
        if started.is_err() {
            take(&rest).map(ask);
        }
    }

    fn end(self, record: impl FnOnce(Judged, &Parts, &Entry)) {
        record(self.judged, &self.parts, &self.entry);
        let running = &self.entry.running;
        running.dot_answered();
        (self.keep)();
        // None: it was given up, and its slot is somebody else's.
        if let Some(permit) = running.permit() {
            permit.finish(self.feedback);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::super::fixture::Fixture;
    use super::super::running::Begun;
    use super::super::settle::{Accepted, Happened};
    use super::*;
    use crate::net::deadline::Deadline;
    use crate::smtp::reply::{EnhancedCode, ReplyCode};
    use crate::store::State;

    /// A delivery of which the store said this; whether its session went back, and what is recorded after all is over.
    fn told(
        answer: impl FnOnce(&Fixture, &Judged) -> Result<Settled, StoreError>,
    ) -> (bool, State) {
        let fixture = Fixture::new();
        let transaction = fixture.claim();
        let (entry, _) = fixture.parts.registry.enter(Begun {
            head: transaction.head,
            rows: transaction.recipients,
            transport: transaction.transport,
            claimed_at: transaction.claimed_at,
            worker: "worker-7".into(),
            permit: transaction.permit,
        });
        assert!(entry.running.may_send_dot());
        let accepted = Accepted {
            code: ReplyCode::new(250),
            status: EnhancedCode::new(2, 0, 0),
            text: "kept".to_owned(),
            confirms: false,
        };
        let happened = entry.running.take(&[0]).into_iter().map(|row| Happened {
            row,
            result: Ok(accepted.clone()),
            scene: Arc::default(),
            poison: false,
        });
        let judged = Judged::new(&fixture.parts, &entry.running, happened.collect());
        assert!(judged.are_deliveries());
        let answer = answer(&fixture, &judged);
        let kept = Arc::new(AtomicBool::new(false));
        let back = Arc::clone(&kept);
        let rest = Rest {
            parts: Arc::clone(&fixture.parts),
            entry,
            feedback: Feedback::default(),
            judged,
            keep: move || back.store(true, Ordering::Relaxed),
        };
        rest.told(answer);
        let patience = Deadline::after(Duration::from_secs(20));
        assert!(fixture.parts.registry.wait(patience));
        let state = fixture.shown().recipients[0].state;
        (kept.load(Ordering::Relaxed), state)
    }

    //
    #[test]
    fn the_session_goes_back_once_the_outcome_is_recorded() {
        let recorded = told(|fixture, judged| fixture.parts.store.settle(judged.settlement()));
        assert_eq!(recorded, (true, State::Delivered));
    }

    // ST-7
    #[test]
    fn a_store_without_room_is_asked_again_until_it_records_the_delivery() {
        let full = StoreError::Full("no space left on device".to_owned());
        assert_eq!(told(|_, _| Err(full)), (true, State::Delivered));
    }

    // ST-3, Q-12: the next start finds it claimed, and its dot written down
    #[test]
    fn a_delivery_that_cannot_be_recorded_stays_claimed() {
        let closed = told(|_, _| Err(StoreError::Closed));
        assert_eq!(closed, (true, State::Claimed));
    }
}
