//! The queue: one SQLite file, one writer thread, many readers.
//!
//! Everything outside knows this interface alone, never SQL or SQLite. The store knows rows and states; it never
//! reads a reply and never decides a retry time. Only the store moves the states of recipients.
//!
//! Words: a *destination* here is an opaque key that policy gives to a recipient: the group it waits in. It is an
//! index, not a decision: the route is evaluated anew at each attempt, and a recipient found in the wrong group is
//! moved (see [`Store::claim`]).

mod types;

pub use types::*;

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{Clock, Timestamp};
use crate::message::QueueId;

/// What [`Store::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The queue directory; the database is `queue.db` in it.
    pub path: PathBuf,
    /// The most messages in the queue, 0 for no limit.
    pub max_messages: u64,
    /// What becomes of in-doubt recipients at start.
    pub in_doubt: InDoubt,
    /// `queue.poison_limit`.
    pub poison_limit: u32,
}

/// A handle on the queue; cheap to clone. The writer thread ends when [`Store::close`] is called.
#[derive(Clone)]
pub struct Store {
    // store: replace by the real handle
    _inner: Arc<()>,
}

impl Store {
    /// Opens or creates the queue, takes the lock, migrates, recovers what a crash left, starts the writer.
    ///
    /// # Errors
    /// [`OpenError`]; the daemon does not start.
    pub fn open(_settings: &Settings, _clock: &Clock) -> Result<(Store, Recovery), OpenError> {
        unimplemented!("store")
    }

    /// A fresh queue id, never handed out before or after. Does not wait, except now and then for one commit
    /// that reserves the next block of ids.
    ///
    /// # Errors
    /// [`StoreError`]; the caller answers 451 4.3.0.
    pub fn allocate_id(&self) -> Result<QueueId, StoreError> {
        unimplemented!("store")
    }

    /// Begins the content of a message that is larger than one chunk; its pieces are committed ahead.
    /// Dropping the returned guard without enqueueing removes what was staged.
    pub fn stage(&self, _id: QueueId) -> Staged {
        unimplemented!("store")
    }

    /// Accepts a message: content, envelope and rows in one commit. Returns after that commit.
    /// Recipients that name [`NewRow::claim`] are inserted as claimed, with their first attempt counted.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the message is kept, except that after [`StoreError::Unknown`] it may be there.
    pub fn enqueue(&self, _message: NewMessage) -> Result<(), StoreError> {
        unimplemented!("store")
    }

    /// Destinations that may have due work, in the order of their earliest due time, after `after` (for paging).
    /// A hint that is never late: a destination it names may turn out to have nothing due.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn due_destinations(
        &self,
        _now: Timestamp,
        _after: Option<(Timestamp, i64)>,
        _limit: usize,
    ) -> Result<Vec<DueDestination>, StoreError> {
        unimplemented!("store")
    }

    /// The earliest time at which any destination has due work, if there is queued mail at all.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        unimplemented!("store")
    }

    /// Due recipients of one destination, by priority, then due time, then id; at most `limit` rows.
    /// Reads only; rows of one message that belong together follow each other.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn due(
        &self,
        _destination: &DestinationKey,
        _now: Timestamp,
        _limit: usize,
    ) -> Result<Vec<DueRecipient>, StoreError> {
        unimplemented!("store")
    }

    /// Claims recipients for attempts, or moves them to another destination, in one commit. A recipient
    /// that is no longer as the request expects it is left out of the answer.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was claimed (or, if unknown, the daemon is going down).
    pub fn claim(&self, _requests: Vec<ClaimRequest>) -> Result<Vec<Claimed>, StoreError> {
        unimplemented!("store")
    }

    /// Records the outcome of an attempt for the recipients of a transaction in one commit, and applies
    /// what an operator asked for with `wait` meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; the recipients stay claimed, in doubt after a restart.
    pub fn settle(&self, _settlement: Settlement) -> Result<(), StoreError> {
        unimplemented!("store")
    }

    /// The claim of these recipients is given back without an attempt (RT-7, RT-6): attempts as before, due at `due`.
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub fn unclaim(
        &self,
        _id: QueueId,
        _numbers: &[u32],
        _due: Timestamp,
    ) -> Result<(), StoreError> {
        unimplemented!("store")
    }

    /// The content of a message as chunks, in order, without the added header.
    ///
    /// # Errors
    /// [`StoreError`]; the attempt is settled as temporary 4.3.1, or 4.3.0 for a damaged row.
    pub fn content(&self, _id: QueueId) -> Result<ContentReader, StoreError> {
        unimplemented!("store")
    }

    /// One page of recipients, a consistent snapshot (CTL-7).
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self, _query: &ListQuery) -> Result<ListPage, StoreError> {
        unimplemented!("store")
    }

    /// Counts recipients, in all or per group, groups by descending count.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count(
        &self,
        _filter: &Filter,
        _by: Option<GroupBy>,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        unimplemented!("store")
    }

    /// Everything known of one message, queued or finished: head, recipients, attempts. `None` if unknown.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn show(&self, _id: QueueId) -> Result<Option<Shown>, StoreError> {
        unimplemented!("store")
    }

    /// An operator's change to all matching recipients, in transactions of at most 10 000 rows (CTL-8). `each` is
    /// called for every row after the commit that holds it; with `dry_run` nothing changes and `each` sees what would.
    ///
    /// # Errors
    /// [`StoreError`]; steps already committed stand, and `each` has seen them.
    pub fn change(
        &self,
        _filter: &Filter,
        _change: &Change,
        _actor: &Actor,
        _dry_run: bool,
        _each: &mut dyn FnMut(&ChangedRow),
    ) -> Result<ChangeReport, StoreError> {
        unimplemented!("store")
    }

    /// Sets or lifts a pause (SC-12). Lifting one that is not there is `Ok(false)`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_pause(
        &self,
        _scope: &PauseScope,
        _pause: Option<&Pause>,
    ) -> Result<bool, StoreError> {
        unimplemented!("store")
    }

    /// All pauses in force, expired ones included until somebody lifts them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn pauses(&self) -> Result<Vec<(PauseScope, Pause)>, StoreError> {
        unimplemented!("store")
    }

    /// Numbers for `stats`; cheap at any queue length.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        unimplemented!("store")
    }

    /// Changes the settings that may change while running.
    pub fn reconfigure(&self, _settings: &Settings) {
        unimplemented!("store")
    }

    /// Waits for what is already requested, checkpoints, closes all connections and ends the writer.
    /// Later calls on any clone answer [`StoreError::Closed`].
    pub fn close(&self) {
        unimplemented!("store")
    }
}
