//! What the writer, the checkpointer and the handles know together.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rusqlite::Connection;

use super::growth::Growth;
use super::open::DATABASE;
use super::request::Wake;
use super::rows::MAX_ID;
use super::space::{Space, Wanted};
use super::{Settings, StoreError};
use crate::message::QueueId;
use crate::metrics::Metrics;

/// Ids reserved per commit.
const BLOCK: i64 = 4096;

/// Fewer left than this, and the next commit reserves more.
const LOW: i64 = 1024;

/// Commit times remembered.
const COMMIT_TIMES: usize = 1000;

/// Why the store ended by itself. The daemon stops accepting at once and exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The outcome of a commit is unknown, or the files are gone or not what they were: exit 74, so that the next start
    /// reads what is really there (ST-4, ST-12).
    Io(String),
    /// The writer or the checkpointer panicked: exit 70 (PRC-3).
    Panic(String),
}

/// Counts kept in the same transactions as the rows they count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) messages: i64,
    pub(super) queued: i64,
    pub(super) claimed: i64,
    pub(super) held: i64,
    pub(super) doubt: i64,
}

impl Tally {
    pub(super) fn read(conn: &Connection) -> rusqlite::Result<Tally> {
        conn.query_row(
            "SELECT messages, queued, claimed, held, doubt FROM queue WHERE one = 1",
            [],
            |row| {
                Ok(Tally {
                    messages: row.get(0)?,
                    queued: row.get(1)?,
                    claimed: row.get(2)?,
                    held: row.get(3)?,
                    doubt: row.get(4)?,
                })
            },
        )
    }

    /// A recipient enters (+1) or leaves (-1) a state by its stored code; final states are not counted.
    pub(super) fn count(&mut self, state: i64, by: i64) {
        match state {
            0 => self.queued += by,
            1 => self.claimed += by,
            2 => self.held += by,
            _ => {}
        }
    }
}

/// Queue ids that are reserved on disk and not yet handed out.
#[derive(Debug)]
pub(super) struct Ids {
    blocks: Mutex<VecDeque<Range<i64>>>,
    left: AtomicI64,
    /// Start of the next block; moved by the writer alone, also when the commit then fails, so no id comes twice.
    next: AtomicI64,
}

impl Ids {
    /// `next` is the first id that was never reserved.
    pub(super) fn new(next: i64) -> Ids {
        Ids {
            blocks: Mutex::new(VecDeque::new()),
            left: AtomicI64::new(0),
            next: AtomicI64::new(next),
        }
    }

    pub(super) fn take(&self) -> Option<QueueId> {
        let mut blocks = lock(&self.blocks);
        loop {
            match blocks.front_mut()?.next() {
                Some(id) => {
                    self.left.fetch_sub(1, Ordering::Relaxed);
                    return QueueId::new(id);
                }
                None => {
                    blocks.pop_front();
                }
            }
        }
    }

    /// A block to reserve in the running transaction.
    pub(super) fn next_block(&self) -> Range<i64> {
        let start = self.next.fetch_add(BLOCK, Ordering::Relaxed).min(MAX_ID);
        start..(start + BLOCK).min(MAX_ID)
    }

    /// The same, if few are left.
    pub(super) fn next_block_if_low(&self) -> Option<Range<i64>> {
        (self.left.load(Ordering::Relaxed) < LOW).then(|| self.next_block())
    }

    /// Its commit is on disk: the ids may be handed out.
    pub(super) fn add(&self, ids: Range<i64>) {
        self.left.fetch_add(ids.end - ids.start, Ordering::Relaxed);
        lock(&self.blocks).push_back(ids);
    }
}

/// Bookkeeping of commits.
#[derive(Debug, Default)]
struct Times {
    last: VecDeque<Duration>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) ids: Ids,
    pub(super) metrics: Metrics,
    settings: RwLock<Settings>,
    pub(super) space: Space,
    pub(super) growth: Growth,
    /// As of the last commit.
    tally: Mutex<Tally>,
    times: Mutex<Times>,
    commits: AtomicU64,
    requests: AtomicU64,
    /// Frames in the log after the last commit, and how many of them are in the database.
    pub(super) frames: AtomicI64,
    pub(super) checkpointed: AtomicI64,
    pub(super) closed: AtomicBool,
    fatal: (Sender<Fatal>, Receiver<Fatal>),
    /// Wakes the checkpointer.
    pub(super) wake_checkpointer: Sender<Wake>,
    /// Up to when the thread that sends notices sleeps, in milliseconds, and what wakes it earlier.
    next_notice: AtomicI64,
    notices: (Sender<()>, Receiver<()>),
    /// Notifications lost and withheld, in this run.
    notices_lost: AtomicU64,
    notices_withheld: AtomicU64,
}

/// Frames that wait in the log before the checkpointer is woken: 8 MiB.
const CHECKPOINT_AFTER: i64 = 2048;

impl Shared {
    pub(super) fn new(settings: Settings, next_id: i64, wake_checkpointer: Sender<Wake>) -> Shared {
        Shared {
            ids: Ids::new(next_id),
            metrics: Metrics::default(),
            space: Space::open(&settings.path, wanted_space(&settings)),
            growth: Growth::of(&settings.path.join(DATABASE)),
            settings: RwLock::new(settings),
            tally: Mutex::default(),
            times: Mutex::default(),
            commits: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            frames: AtomicI64::new(0),
            checkpointed: AtomicI64::new(0),
            closed: AtomicBool::new(false),
            fatal: bounded(1),
            wake_checkpointer,
            next_notice: AtomicI64::new(i64::MAX),
            notices: bounded(1),
            notices_lost: AtomicU64::new(0),
            notices_withheld: AtomicU64::new(0),
        }
    }

    /// The store ends: later requests are answered [`StoreError::Closed`].
    pub(super) fn end(&self, why: Fatal) {
        self.closed.store(true, Ordering::Release);
        log::error!("the queue has ended: {why:?}");
        // Only the first reason counts.
        let _ = self.fatal.0.try_send(why);
    }

    pub(super) fn fatal(&self) -> Receiver<Fatal> {
        self.fatal.1.clone()
    }

    /// [`StoreError::Closed`] once nothing more is taken.
    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        Ok(())
    }

    /// A commit is on disk.
    pub(super) fn committed(&self, tally: Tally, requests: usize, took: Duration) {
        *lock(&self.tally) = tally;
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
        self.metrics.commit(took);
        {
            let mut times = lock(&self.times);
            if times.last.len() == COMMIT_TIMES {
                times.last.pop_front();
            }
            times.last.push_back(took);
        }
        // A log that began anew has fewer frames than were checkpointed of the old one.
        let frames = self.frames.load(Ordering::Relaxed);
        let checkpointed = self.checkpointed.load(Ordering::Relaxed);
        let waiting = if frames < checkpointed {
            frames
        } else {
            frames - checkpointed
        };
        if waiting >= CHECKPOINT_AFTER {
            let _ = self.wake_checkpointer.try_send(Wake::Copy);
        }
    }

    /// A commit gave this time to a notice. The sleeper is woken only by an earlier one than it knows.
    pub(super) fn notice_due(&self, due: i64) {
        if due < i64::MAX && self.next_notice.fetch_min(due, Ordering::AcqRel) > due {
            let _ = self.notices.0.try_send(());
        }
    }

    /// The sleeper is about to look: whatever comes from now on wakes it.
    pub(super) fn notices_read(&self) {
        self.next_notice.store(i64::MAX, Ordering::Release);
    }

    /// The sleeper has looked, and sleeps until then.
    pub(super) fn notices_known(&self, next: i64) {
        self.next_notice.fetch_min(next, Ordering::AcqRel);
    }

    pub(super) fn count_notices(&self, lost: u64, withheld: u64) {
        self.notices_lost.fetch_add(lost, Ordering::Relaxed);
        self.notices_withheld.fetch_add(withheld, Ordering::Relaxed);
    }

    /// Lost and withheld.
    pub(super) fn notices_counted(&self) -> (u64, u64) {
        (
            self.notices_lost.load(Ordering::Relaxed),
            self.notices_withheld.load(Ordering::Relaxed),
        )
    }

    pub(super) fn notices(&self) -> Receiver<()> {
        self.notices.1.clone()
    }

    /// `dsn.collect`.
    pub(super) fn collect(&self) -> Duration {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        settings.collect
    }

    pub(super) fn set_tally(&self, tally: Tally) {
        *lock(&self.tally) = tally;
    }

    pub(super) fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    /// Commits, requests in them, and median and longest of the last commits.
    pub(super) fn commits(&self) -> (u64, u64, (Duration, Duration)) {
        let mut times: Vec<Duration> = lock(&self.times).last.iter().copied().collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let longest = times.last().copied().unwrap_or_default();
        (
            self.commits.load(Ordering::Relaxed),
            self.requests.load(Ordering::Relaxed),
            (median, longest),
        )
    }

    /// Requests in commits so far.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn reconfigure(&self, settings: &Settings) {
        *self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner) = settings.clone();
    }

    /// Whether there is room for new mail (ST-6).
    pub(super) fn check_space(&self) -> Result<(), StoreError> {
        let wanted = {
            let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
            wanted_space(&settings)
        };
        self.space.check(wanted)
    }

    /// `queue.max_messages` and `queue.poison_limit`.
    pub(super) fn limits(&self) -> (u64, u32) {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        (settings.max_messages, settings.poison_limit)
    }
}

fn wanted_space(settings: &Settings) -> Wanted {
    Wanted {
        min_free: settings.min_free,
        reserve: settings.reserve,
    }
}

/// A poisoned lock does not stick: what it guards is whole between two statements (PRC-3).
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    //
    #[test]
    fn ids_come_from_reserved_blocks_only_and_never_twice() {
        let ids = Ids::new(1);
        assert!(ids.take().is_none());
        let lost = ids.next_block();
        // Its commit failed; the next one goes on behind it.
        let block = ids.next_block();
        assert_eq!(lost.end, block.start);
        ids.add(block.clone());
        let mut last = 0;
        while let Some(id) = ids.take() {
            assert!(id.get() > last && block.contains(&id.get()));
            last = id.get();
        }
        assert_eq!(last, block.end - 1);
    }
}
