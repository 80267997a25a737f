//! The queue: one SQLite file, one writer thread, many readers.
//!
//! Everything outside knows this interface alone, never SQL or SQLite. The store knows rows and states; it never
//! reads a reply and never decides a retry time. Only the store moves the states of recipients.
//!
//! Words: a *destination* here is an opaque key that policy gives to a recipient: the group it waits in. It is an
//! index, not a decision: the route is evaluated anew at each attempt, and a recipient found in the wrong group is
//! moved (see [`Store::claim`]).
//!
//! # States of a recipient, and who moves them
//!
//! | from    | to      | by                                                                                  |
//! |---------|---------|-------------------------------------------------------------------------------------|
//! | -       | queued, held, claimed | [`Store::enqueue`], in the commit that accepts the message            |
//! | queued  | claimed | [`Store::claim`], before the peer is contacted                                      |
//! | claimed | queued  | [`Store::settle`] (deferred), [`Store::unclaim`], [`Store::open`] (in doubt)         |
//! | claimed | held    | [`Store::settle`] (poison, or an operator's hold meanwhile), [`Store::open`]         |
//! | claimed | delivered, failed, expired, dropped | [`Store::settle`]                                       |
//! | queued  | held    | [`Store::change`], damage                                                           |
//! | held    | queued  | [`Store::change`]                                                                   |
//! | queued, held | failed, dropped | [`Store::change`]                                                      |
//!
//! Each move is one transaction. What a crash leaves behind: before the commit the old state, after it the new one;
//! content staged for a message that never came (swept at start); rows that are still claimed (in doubt at start,
//! Nothing else.
//!
//! # Files
//!
//! `queue.db` with its `-wal` and `-shm`, `lock`, and `reserve`, in a directory of mode 0700.

mod accept;
mod after;
mod apply;
mod backup;
mod change;
mod check;
mod checkpoint;
mod claim;
mod content;
mod daily;
mod dots;
mod due;
mod errno;
mod error;
mod fault;
mod filter;
mod group;
mod growth;
mod handle;
mod list;
mod notice;
mod open;
mod pause;
mod pending;
#[cfg(test)]
mod plans;
mod query;
mod readers;
mod recipient;
mod recover;
mod reply;
mod request;
mod rows;
mod schema;
mod selftest;
mod settle;
mod shared;
mod space;
mod statements;
mod stats;
mod sts;
mod sweep;
#[cfg(test)]
mod testing;
mod tls;
mod tlsrpt;
mod window;
mod writer;

pub use accept::{NewClaim, NewContent, NewMessage, NewRow};
pub use backup::BackupError;
pub use change::{Actor, Change, ChangeReport, ChangedRow};
pub use check::{Checked, Soundness};
pub use claim::{ClaimAction, ClaimRequest, Claimed};
pub use content::{ContentReader, Contents, Staged};
pub use daily::Daily;
pub use dots::Mark;
pub use due::{DueDestination, DueRecipient, QueuedAt};
pub use error::{OpenError, StoreError};
pub use notice::{DelayNoted, NoticeKind};
pub use pause::{Pause, PauseScope};
pub use pending::{DelayDue, PendingNotice, WithheldNotices};
pub use query::{Filter, GroupBy, ListPage, ListQuery, Shown, ShownAttempt, Sort};
pub use recipient::{DestinationKey, Doubt, RecipientRow, State};
pub use recover::{InDoubt, Recovery};
pub use settle::{Outcome, Settled, Settlement};
pub use shared::Fatal;
pub use stats::StoreStats;
pub use sts::{StsChange, StsRow};
pub use tls::{TlsRow, TlsSeen};
pub use tlsrpt::{DueReport, ReportChange, ReportCount, ReportRow};
pub use window::LearnedWindow;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::message::QueueId;
use crate::metrics::Metrics;
use handle::Inner;
use request::{Answer, Op};

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
    /// Free octets on the file system under which new mail is refused; taken again at twice that (ST-6).
    pub min_free: u64,
    /// Octets of the reserve that is given up to record outcomes on a full disk (ST-6).
    pub reserve: u64,
    /// `dsn.collect`: failures of one message that come within this time share a notice (DSN-3).
    pub collect: Duration,
}

impl Settings {
    /// The queue at `path`, without limits and without a reserve, and otherwise as the configuration has it by default.
    pub fn at(path: &Path) -> Settings {
        Settings {
            path: path.to_owned(),
            max_messages: 0,
            in_doubt: InDoubt::Retry,
            poison_limit: 3,
            min_free: 0,
            reserve: 0,
            collect: Duration::from_secs(5),
        }
    }
}

/// A handle on the queue; cheap to clone. The writer thread ends when [`Store::close`] is called.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens or creates the queue, takes the lock, migrates, recovers what a crash left, starts the writer.
    ///
    /// # Errors
    /// [`OpenError`]; the daemon does not start.
    pub fn open(settings: &Settings, clock: &Clock) -> Result<(Store, Recovery), OpenError> {
        let (inner, recovery) = Inner::open(settings, clock)?;
        let inner = Arc::new(inner);
        Ok((Store { inner }, recovery))
    }

    /// Makes a consistent copy of the queue as of now under a name that nothing has yet; says its size in octets. It
    /// starts like the queue itself: whatever is delivered from now on will be sent again by whoever starts it. Blocks;
    /// nobody else waits, but the write-ahead log grows meanwhile.
    ///
    /// # Errors
    /// [`BackupError`]; there is no copy then. Busy while another one, or a check, runs.
    pub fn backup(&self, to: &std::path::Path) -> Result<u64, BackupError> {
        self.inner.backup(to)
    }

    /// Times synced writes beside the database and looks at the mount, for at most a second, and logs what they promise
    /// (ST-19). Blocks; ends early when the store does.
    pub fn self_test(&self) {
        if let Some(directory) = self.inner.database.parent() {
            selftest::run(directory, &self.inner.shared);
        }
    }

    /// The counters of this run. They live here because every part that counts something has the store.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.shared.metrics
    }

    /// Looks for what should not be (ST-18): every named invariant and SQLite's `integrity_check`, or only the `quick`
    /// ones for 2 s at most. `each` hears of every check when it is done. Blocks, for seconds with a large queue; nobody
    /// else waits, and the write-ahead log cannot begin anew for at most 10 s at a time.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another check runs; [`StoreError`] if it cannot begin.
    pub fn check(&self, quick: bool, each: &mut dyn FnMut(Checked)) -> Result<(), StoreError> {
        self.inner.check(quick, each)
    }

    /// The final dot of this attempt for the message, counted from 1, may be out from now on: written for a start after the
    /// sudden end of this process, without a sync. Whoever has committed the outcome lets go of it with [`Mark::settled`].
    ///
    /// # Errors
    /// [`StoreError::Full`]: the dot must not be sent, for nothing would say that it may have been.
    pub fn dot(&self, id: QueueId, attempt: u32) -> Result<Mark, StoreError> {
        let marked = self.inner.dots.mark(id, attempt);
        marked.map_err(|error| StoreError::Full(error.to_string()))
    }

    /// A number that changes with whatever the store is asked for.
    pub fn activity(&self) -> u64 {
        let inner = &self.inner;
        inner.shared.requests().wrapping_add(inner.readers.reads())
    }

    /// Nothing is going on: gives up the memory of caches, which a load fills again (PRC-7). Waits for nothing.
    pub fn rest(&self) {
        self.inner.tell(Op::Rest);
        self.inner.readers.rest();
    }

    /// Changes the settings that may change while running.
    pub fn reconfigure(&self, settings: &Settings) {
        self.inner.shared.reconfigure(settings);
    }

    /// Waits for what is already requested, checkpoints, closes all connections and ends the writer.
    /// Later calls on any clone answer [`StoreError::Closed`].
    pub fn close(&self) {
        self.inner.end(true);
    }

    /// Gets one message when the store has ended by itself: the daemon stops accepting at once and exits with 74 for
    /// [`Fatal::Io`], 70 for [`Fatal::Panic`]. All clones of the receiver share the one message.
    pub fn fatal(&self) -> crossbeam_channel::Receiver<Fatal> {
        self.inner.shared.fatal()
    }
}

/// The writer answers each request in kind.
fn unexpected(answer: &Answer) -> StoreError {
    StoreError::Failed(format!("unexpected answer {answer:?}"))
}
