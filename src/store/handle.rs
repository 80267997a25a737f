//! The parts behind a [`Store`](super::Store): threads, channel, readers; how they start and how they end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};
use rusqlite::Connection;

use super::after::{self, Task};
use super::backup::{self, BackupError};
use super::check::{self, Checked, Checker};
use super::checkpoint::{self, Checkpointer};
use super::dots::{self, Before, Dots};
use super::fault::{Fault, Trouble};
use super::open::{self, Files, Role};
use super::readers::Readers;
use super::reply::{Then, Waiter, reply, reply_to};
use super::request::{Answer, Gate, Job, Op, Wake};
use super::shared::{Fatal, Shared, lock};
use super::writer::Writer;
use super::{OpenError, Recovery, Settings, StoreError, schema, space};
use crate::clock::Clock;
use crate::message::QueueId;

/// Requests that may wait for the writer; more callers wait for a place.
const WAITING_REQUESTS: usize = 1024;

/// How long a client at the dot waits for its turn (IN-26). Once the writer has its request, it waits for the outcome.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Inner {
    requests: Sender<Job>,
    /// To the thread that does what follows a commit.
    after: Sender<Task>,
    pub(super) readers: Readers,
    pub(super) dots: Arc<Dots>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Clock,
    pub(super) database: std::path::PathBuf,
    pub(super) wal: std::path::PathBuf,
    /// Held while a check or a backup runs: one at a time.
    checking: Mutex<()>,
    parts: Mutex<Option<Parts>>,
}

/// What ends with the store, taken once.
struct Parts {
    writer: JoinHandle<()>,
    after: JoinHandle<()>,
    checkpointer: JoinHandle<Option<Checkpointer>>,
    /// The quick check of the start.
    check: JoinHandle<()>,
    /// The checkpointer ends when this is dropped.
    stop_checkpointer: Sender<()>,
    files: Files,
}

impl Inner {
    pub(super) fn open(settings: &Settings, clock: &Clock) -> Result<(Inner, Recovery), OpenError> {
        let files = open::prepare(&settings.path)?;
        space::make_room_to_start(&settings.path);
        let mut conn = open::connect(&files.database, Role::Writer)?;
        schema::migrate(&mut conn)?;
        open::check_contents(&conn, &files.database)?;
        let next_id = conn
            .query_row("SELECT next_id FROM queue WHERE one = 1", [], |row| {
                row.get(0)
            })
            .map_err(|error| OpenError::Refused(error.to_string()))?;
        let (wake, woken) = bounded(1);
        let shared = Arc::new(Shared::new(settings.clone(), next_id, wake));
        let seen = Arc::clone(&shared);
        conn.wal_hook(Some(move |_: &mut _, frames| {
            seen.frames.store(i64::from(frames), Ordering::Relaxed);
            Ok(())
        }))
        .map_err(|error| OpenError::System(error.to_string()))?;
        let recovery = {
            let before = dots::read(&files.database);
            let again = match recover(&conn, clock, &shared, settings, &before)? {
                Ok(recovery) => Ok(recovery),
                // ST-6: what was in flight is an outcome too.
                Err(StoreError::Full(why)) if shared.space.give_up(&why) => {
                    recover(&conn, clock, &shared, settings, &before)?
                }
                Err(error) => Err(error),
            };
            again.map_err(|error| OpenError::System(error.to_string()))?
        };
        shared.metrics.orphans(recovery.orphan_chunks);
        // Only now: no claim needs the one of the run before any more.
        let dots = Dots::begin(&files.database).map_err(|error| {
            OpenError::System(format!(
                "{}-dots: {error}: remove it",
                files.database.display()
            ))
        })?;
        let dots = Arc::new(dots);
        let readers = Readers::open(&files.database)?;
        let (gates, asked) = bounded(1);
        let checkpointer = Checkpointer {
            conn: open::connect(&files.database, Role::Checkpointer)?,
            shared: Arc::clone(&shared),
            gates,
            database: files.database.clone(),
            wal: files.wal.clone(),
            large: checkpoint::LARGE,
        };
        let (requests, taken) = bounded(WAITING_REQUESTS);
        let (stop, stopped) = bounded(0);
        let system = |error: std::io::Error| OpenError::System(format!("thread: {error}"));
        let (after, follows) = after::start().map_err(system)?;
        let writer = {
            let (clock, shared) = (clock.clone(), Arc::clone(&shared));
            std::thread::Builder::new()
                .name("store-writer".into())
                .spawn(move || write(&conn, clock, &shared, &taken, &asked))
                .map_err(system)?
        };
        let checkpointer = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || copy(checkpointer, &woken, &stopped))
            .map_err(system)?;
        let check = {
            let (database, shared) = (files.database.clone(), Arc::clone(&shared));
            std::thread::Builder::new()
                .name("store-check".into())
                .spawn(move || check::at_start(&database, &shared))
                .map_err(system)?
        };
        let inner = Inner {
            requests,
            after,
            readers,
            dots,
            shared,
            clock: clock.clone(),
            database: files.database.clone(),
            wal: files.wal.clone(),
            checking: Mutex::default(),
            parts: Mutex::new(Some(Parts {
                writer,
                after: follows,
                checkpointer,
                check,
                stop_checkpointer: stop,
                files,
            })),
        };
        Ok((inner, recovery))
    }

    /// Hands a request to the writer and waits for its outcome, however long the disk takes (ST-15).
    pub(super) fn ask(&self, op: Op) -> Result<Answer, StoreError> {
        let (job, answer) = self.job(op)?;
        self.requests.send(job).map_err(|_| StoreError::Closed)?;
        answer.wait()
    }

    /// The same, but gives up when the writer has not begun within 30 s: then nothing of it was, or will be, done.
    pub(super) fn ask_briefly(&self, op: Op) -> Result<Answer, StoreError> {
        let (job, answer) = self.job(op)?;
        match self.requests.send_timeout(job, PATIENCE) {
            Ok(()) => answer.wait_or_give_up(PATIENCE),
            Err(SendTimeoutError::Timeout(_)) => Err(StoreError::Busy),
            Err(SendTimeoutError::Disconnected(_)) => Err(StoreError::Closed),
        }
    }

    /// Hands a request to the writer, and what is to be done with its outcome to the thread that does such things: `then` must
    /// not wait for anybody. Told by the caller's thread if the store has ended.
    pub(super) fn ask_then(&self, op: Op, then: Then) {
        let reply = reply_to(then, self.after.clone());
        // Dropped by either, it says so.
        if self.shared.check_open().is_ok() {
            let _ = self.requests.send(Job { op, reply });
        }
    }

    /// Hands a request over without waiting for anything; it may be lost.
    pub(super) fn tell(&self, op: Op) {
        if let Ok((job, _)) = self.job(op) {
            let _ = self.requests.try_send(job);
        }
    }

    /// Requests that the writer has not begun.
    pub(super) fn behind(&self) -> usize {
        self.requests.len()
    }

    fn job(&self, op: Op) -> Result<(Job, Waiter), StoreError> {
        self.shared.check_open()?;
        let (reply, answer) = reply();
        Ok((Job { op, reply }, answer))
    }

    /// holds what is not final of the message; all other mail goes on.
    pub(super) fn hold_damaged(&self, id: QueueId, reason: &str) {
        log::error!("damaged qid={id} text=\"{}\"", reason.escape_debug());
        let held = self.ask(Op::Damaged {
            id,
            reason: super::rows::cut(reason.to_owned()),
        });
        if let Err(error) = held {
            log::error!("damaged qid={id} could not be held: {error}");
        }
    }

    /// A place for a long reader.
    fn one_at_a_time(&self) -> Result<MutexGuard<'_, ()>, StoreError> {
        match self.checking.try_lock() {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(StoreError::Busy),
        }
    }

    pub(super) fn backup(&self, to: &std::path::Path) -> Result<u64, BackupError> {
        let _one = self.one_at_a_time()?;
        self.shared.check_open()?;
        backup::backup(&self.database, to, &self.shared)
    }

    pub(super) fn check(
        &self,
        quick: bool,
        each: &mut dyn FnMut(Checked),
    ) -> Result<(), StoreError> {
        let _one = self.one_at_a_time()?;
        self.shared.check_open()?;
        let end = quick.then(|| Instant::now() + check::QUICK);
        let checker = Checker::open(&self.database, &self.shared, end)?;
        let mut heard = |checked: Checked| {
            check::log_broken(&checked);
            each(checked);
        };
        if quick {
            checker.quick(&mut heard);
        } else {
            checker.all(&mut heard);
        }
        self.shared.check_open()
    }

    /// Ends everything in order. With `orderly` what is requested already is done and the end is marked.
    pub(super) fn end(&self, orderly: bool) {
        let Some(parts) = lock(&self.parts).take() else {
            return;
        };
        self.shared.closed.store(true, Ordering::Release);
        let (reply, _answer) = reply();
        let op = if orderly { Op::Close } else { Op::Leave };
        // The writer may have ended by itself.
        let _ = self.requests.send(Job { op, reply });
        let _ = parts.writer.join();
        let _ = self.after.send(Task::End);
        // It may be the one that has let go of the last handle.
        if parts.after.thread().id() != std::thread::current().id() {
            let _ = parts.after.join();
        }
        // Its query is cut off.
        let _ = parts.check.join();
        self.readers.close();
        drop(parts.stop_checkpointer);
        if let Ok(Some(checkpointer)) = parts.checkpointer.join()
            && orderly
        {
            checkpoint::finish(&checkpointer);
        }
        // The lock goes last.
        drop(parts.files);
    }
}

/// The last handle is gone without [`Store::close`](super::Store::close): as after a crash, but for the threads.
impl Drop for Inner {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// Recovers what a crash left; an inner error leaves everything as it was.
fn recover(
    conn: &Connection,
    clock: &Clock,
    shared: &Arc<Shared>,
    settings: &Settings,
    before: &Before,
) -> Result<Result<Recovery, StoreError>, OpenError> {
    let mut writer = Writer::new(conn, clock.clone(), Arc::clone(shared))
        .map_err(|error| OpenError::Refused(error.to_string()))?;
    let error = match writer.recover(settings.in_doubt, before) {
        Ok(recovery) => return Ok(Ok(recovery)),
        Err(Fault::Sql(error)) => Trouble::of(conn, &error).answer,
        Err(fault) => fault.into_answer(),
    };
    if !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK")
            .map_err(|error| OpenError::System(error.to_string()))?;
    }
    Ok(Err(error))
}

/// The writer's thread.
fn write(
    conn: &Connection,
    clock: Clock,
    shared: &Arc<Shared>,
    requests: &Receiver<Job>,
    gates: &Receiver<Gate>,
) {
    let run = || match Writer::new(conn, clock, Arc::clone(shared)) {
        Ok(mut writer) => writer.run(requests, gates),
        Err(error) => shared.end(Fatal::Io(error.to_string())),
    };
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        // PRC-3: the daemon must not go on listening.
        shared.end(Fatal::Panic("store-writer".into()));
    }
}

/// The checkpointer's thread; gives its connection back for the last checkpoint.
fn copy(
    checkpointer: Checkpointer,
    woken: &Receiver<Wake>,
    stopped: &Receiver<()>,
) -> Option<Checkpointer> {
    let run = || checkpoint::run(&checkpointer, woken, stopped);
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        checkpointer
            .shared
            .end(Fatal::Panic("store-checkpoint".into()));
        return None;
    }
    Some(checkpointer)
}
