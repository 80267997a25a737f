//! A few read-only connections that take turns. They never wait for the writer, nor it for them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use rusqlite::Connection;

use super::open::{self, Role};
use super::shared::lock;
use super::{OpenError, StoreError, fault};

/// Read-only connections. Opened at start, so that a lack of descriptors later cannot take the queue away (PRC-5).
const CONNECTIONS: usize = 4;

/// The same where descriptors are few: each connection holds two (PRC-5).
const FEW_CONNECTIONS: usize = 2;

/// Fewer descriptors than this are few.
const MANY_DESCRIPTORS: u64 = 256;

/// A reader that takes longer is cut off, because the log cannot begin anew below it (ST-14).
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Virtual machine steps between two looks at the time.
pub(super) const STEPS: i32 = 10_000;

/// How long a caller waits for a free connection.
const PATIENCE: Duration = Duration::from_secs(30);

struct Reader {
    conn: Connection,
    /// Milliseconds since `start` at which it is cut off.
    until: Arc<AtomicU64>,
}

struct Pool {
    free: Vec<Reader>,
    closed: bool,
}

/// The pool.
pub(super) struct Readers {
    pool: Mutex<Pool>,
    returned: Condvar,
    start: Instant,
    limit: Duration,
    /// Reads begun so far.
    reads: AtomicU64,
}

/// A read transaction. Its two statements are kept like all others; rusqlite's own would be parsed each time.
struct Snapshot<'c>(&'c Connection);

impl<'c> Snapshot<'c> {
    fn of(conn: &'c Connection) -> rusqlite::Result<Snapshot<'c>> {
        conn.prepare_cached("BEGIN")?.execute([])?;
        Ok(Snapshot(conn))
    }
}

/// For a reader a rollback is the same as a commit.
impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        let ended = self
            .0
            .prepare_cached("ROLLBACK")
            .and_then(|mut end| end.execute([]));
        if let Err(error) = ended
            && !self.0.is_autocommit()
        {
            log::error!("a read did not end: {error}");
        }
    }
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Readers, OpenError> {
        Readers::open_with(path, LIMIT)
    }

    fn open_with(path: &Path, limit: Duration) -> Result<Readers, OpenError> {
        let start = Instant::now();
        let connections = match getrlimit(Resource::RLIMIT_NOFILE) {
            Ok((now, _)) if now < MANY_DESCRIPTORS => FEW_CONNECTIONS,
            _ => CONNECTIONS,
        };
        let mut free = Vec::with_capacity(connections);
        for _ in 0..connections {
            let mut conn = open::connect(path, Role::Reader)?;
            let until = Arc::new(AtomicU64::new(u64::MAX));
            let end = Arc::clone(&until);
            conn.progress_handler(
                STEPS,
                Some(move || millis(start.elapsed()) > end.load(Ordering::Relaxed)),
            )
            .map_err(|error| OpenError::System(error.to_string()))?;
            free.push(Reader { conn, until });
        }
        Ok(Readers {
            pool: Mutex::new(Pool {
                free,
                closed: false,
            }),
            returned: Condvar::new(),
            start,
            limit,
            reads: AtomicU64::new(0),
        })
    }

    /// Runs `read` in one read transaction: what it sees is one snapshot, and the latest commit at its begin.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let reader = Borrowed {
            reader: Some(self.borrow()?),
            readers: self,
        };
        let Some(Reader { conn, until }) = reader.reader.as_ref() else {
            return Err(StoreError::Closed);
        };
        until.store(millis(self.start.elapsed() + self.limit), Ordering::Relaxed);
        let sql = |error: rusqlite::Error| fault::answer_for(&error);
        let snapshot = Snapshot::of(conn).map_err(sql)?;
        read(snapshot.0)
    }

    fn borrow(&self) -> Result<Reader, StoreError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pool = lock(&self.pool);
        loop {
            if pool.closed {
                return Err(StoreError::Closed);
            }
            if let Some(reader) = pool.free.pop() {
                return Ok(reader);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Busy);
            }
            pool = self
                .returned
                .wait_timeout(pool, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Reads begun so far.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Gives the caches of those back that nobody uses now (PRC-7).
    pub(super) fn rest(&self) {
        for reader in &lock(&self.pool).free {
            reader.conn.flush_prepared_statement_cache();
            if let Err(error) = open::shrink(&reader.conn) {
                log::debug!("a reader's cache: {error}");
            }
        }
    }

    /// Closes all connections; those in use as soon as they come back.
    pub(super) fn close(&self) {
        let free = {
            let mut pool = lock(&self.pool);
            pool.closed = true;
            std::mem::take(&mut pool.free)
        };
        drop(free);
        self.returned.notify_all();
    }
}

/// Comes back to the pool on every way out.
struct Borrowed<'a> {
    reader: Option<Reader>,
    readers: &'a Readers,
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        let mut pool = lock(&self.readers.pool);
        if pool.closed {
            drop(pool);
            drop(reader);
        } else {
            pool.free.push(reader);
            drop(pool);
            self.readers.returned.notify_one();
        }
    }
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{TempDir, writable};

    // ST-14
    #[test]
    fn a_reader_that_takes_too_long_is_cut_off_and_its_connection_lives_on() {
        let directory = TempDir::new();
        let (files, _conn, _) = writable(&directory);
        let readers = Readers::open_with(&files.database, Duration::ZERO).unwrap();
        for _ in 0..2 * CONNECTIONS {
            let endless = readers.read(|conn| {
                let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
                    SELECT count(*) FROM n";
                conn.query_row(sql, [], |row| row.get::<_, i64>(0))
                    .map_err(|error| fault::answer_for(&error))
            });
            assert!(matches!(endless, Err(StoreError::Failed(_))), "{endless:?}");
        }
        readers.close();
        assert!(matches!(readers.read(|_| Ok(())), Err(StoreError::Closed)));
    }
}
