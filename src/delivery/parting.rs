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
            session,
            place,
        };
        let told = move |result| rest.told(result);
        parts.store.settle_then(settlement, told);
    }
}

/// What is left to do when the store has answered.
struct Rest {
    parts: Arc<Parts>,
    entry: Entry,
    feedback: Feedback,
    judged: Judged,
    session: Session,
    place: Place,
}

impl Rest {
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
        let take = |rest: &Mutex<Option<Rest>>| {
            let mut rest = rest.lock().unwrap_or_else(PoisonError::into_inner);
            rest.take()
        };
        let ask = move |rest: Rest| {
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
        self.place.keep(self.session);
        // None: it was given up, and its slot is somebody else's.
        if let Some(permit) = running.permit() {
            permit.finish(self.feedback);
        }
    }
}
