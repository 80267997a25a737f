//! The one thread that checkpoints (ST-2), and that notices when the files are not ours any more (ST-12).
//!
//! A passive checkpoint copies what it finds while the writer goes on; the log can begin anew only when everything is
//! copied. Under constant load it never would be, and the log would grow without end. So when the log is large the writer
//! is asked to stand still between two transactions for the little that the passive one left.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, MAIN_DB};

use super::fault::{Disk, Trouble};
use super::request::{Gate, Wake};
use super::shared::{Fatal, Shared};
use crate::heap;

/// Frames over which the writer is asked to stand: 64 MiB.
pub(super) const LARGE: i64 = 16_384;

/// ST-14.
const HUGE: u64 = 256 << 20;

/// How often the files are looked at; twice inside the 10 s of ST-12.
const WATCH: Duration = Duration::from_secs(4);

/// What [`run`] needs.
pub(super) struct Checkpointer {
    pub(super) conn: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) gates: Sender<Gate>,
    pub(super) database: PathBuf,
    pub(super) wal: PathBuf,
    /// Frames over which the writer is asked to stand.
    pub(super) large: i64,
}

/// Serves until `stop` disconnects.
pub(super) fn run(this: &Checkpointer, wake: &Receiver<Wake>, stop: &Receiver<()>) {
    let files = Identities::of(this);
    let (mut warned, mut worked) = (false, false);
    loop {
        select! {
            recv(stop) -> _ => return,
            recv(wake) -> why => {
                worked = true;
                let alive = match why {
                    Ok(Wake::Room(reply)) => make_room(this, &reply),
                    _ => copy(this),
                };
                if !alive {
                    return;
                }
                let size = wal_size(&this.wal);
                if size > HUGE && !warned {
                    log::error!("the write-ahead log has {size} bytes; a reader or a slow disk keeps it from beginning anew");
                }
                warned = size > HUGE;
            }
            default(WATCH) => {
                if std::mem::take(&mut worked) {
                    heap::hand_back();
                }
            }
        }
        // Also when no mail comes that would ask: what has waited for room goes on (ST-5).
        let _ = this.shared.check_space();
        if let Some(path) = files.replaced()
            && !this.shared.closed.load(Ordering::Acquire)
        {
            let text = format!("{} was removed or replaced", path.display());
            this.shared.end(Fatal::Io(text));
            return;
        }
    }
}

/// The files as they were at start, by device and inode (ST-12).
struct Identities([(PathBuf, Option<(u64, u64)>); 2]);

impl Identities {
    fn of(this: &Checkpointer) -> Identities {
        Identities([&this.database, &this.wal].map(|path| (path.clone(), identity(path))))
    }

    /// A file that is not there any more, or not the one that was.
    fn replaced(&self) -> Option<&Path> {
        self.0
            .iter()
            .find(|(path, was)| was.is_some() && identity(path) != *was)
            .map(|(path, _)| path.as_path())
    }
}

/// The last checkpoint, when the writer has ended.
pub(super) fn finish(this: &Checkpointer) {
    if let Err(error) = this
        .conn
        .wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::TRUNCATE)
    {
        log::warn!("last checkpoint: {error}; the next start reads the write-ahead log");
    }
}

/// False when the store has ended.
fn copy(this: &Checkpointer) -> bool {
    let Some((frames, copied)) = passive(this) else {
        return !this.shared.closed.load(Ordering::Acquire);
    };
    if frames < this.large || copied == frames {
        return true;
    }
    let (ready, stands) = bounded(1);
    let (go_on, done) = bounded(0);
    if this.gates.send(Gate { ready, done }).is_err() {
        return true;
    }
    // Fails when the writer ends instead of standing.
    if stands.recv().is_ok() {
        passive(this);
    }
    drop(go_on);
    true
}

/// The writer stands anyway, so all of the log can be copied. False when the store has ended.
fn make_room(this: &Checkpointer, reply: &Sender<bool>) -> bool {
    let copied = passive(this);
    let _ = reply.send(copied.is_some_and(|(frames, copied)| frames == copied));
    !this.shared.closed.load(Ordering::Acquire)
}

/// Frames in the log and how many of them are copied.
fn passive(this: &Checkpointer) -> Option<(i64, i64)> {
    match this
        .conn
        .wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE)
    {
        Ok((frames, copied)) => {
            let (frames, copied) = (i64::from(frames), i64::from(copied));
            this.shared.checkpointed.store(copied, Ordering::Relaxed);
            if frames == copied {
                this.shared.growth.cut();
            }
            Some((frames, copied))
        }
        Err(error) => {
            let trouble = Trouble::of(&this.conn, &error);
            let text = format!("checkpoint: {}", trouble.text);
            match trouble.disk {
                Disk::Bad => this.shared.end(Fatal::Io(text)),
                // It is tried again at the next wake, and then finds what was given up (ST-6).
                Disk::Full => drop(this.shared.space.give_up(&text)),
                Disk::Fine | Disk::Again => log::error!("{text}"),
            }
            None
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Size of the log.
pub(super) fn wal_size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::message::QueueId;
    use crate::store::open::{self, Role};
    use crate::store::reply::reply;
    use crate::store::request::{Job, Op};
    use crate::store::testing::{TempDir, writable};
    use crate::store::writer::Writer;

    // ST-12
    #[test]
    fn a_database_or_log_that_is_removed_or_replaced_is_noticed() {
        for index in 0..2 {
            let directory = TempDir::new();
            let (files, conn, shared) = writable(&directory);
            conn.execute("UPDATE queue SET clean = 1", []).unwrap();
            let (gates, _) = bounded(1);
            let this = Checkpointer {
                conn: open::connect(&files.database, Role::Checkpointer).unwrap(),
                shared,
                gates,
                database: files.database.clone(),
                wal: files.wal.clone(),
                large: LARGE,
            };
            let were = Identities::of(&this);
            assert_eq!(were.replaced(), None);
            let path = [&files.database, &files.wal][index];
            std::fs::copy(path, directory.path().join("copy")).unwrap();
            std::fs::remove_file(path).unwrap();
            assert_eq!(were.replaced(), Some(path.as_path()));
            std::fs::rename(directory.path().join("copy"), path).unwrap();
            assert_eq!(were.replaced(), Some(path.as_path()));
        }
    }

    // ST-2, ST-14
    #[test]
    fn a_large_log_stops_the_writer_for_a_moment_and_begins_anew_when_no_reader_needs_it() {
        let directory = TempDir::new();
        let (files, conn, shared) = writable(&directory);
        let (gates, asked) = bounded(1);
        let this = Checkpointer {
            conn: open::connect(&files.database, Role::Checkpointer).unwrap(),
            shared: Arc::clone(&shared),
            gates,
            database: files.database.clone(),
            wal: files.wal.clone(),
            large: 64,
        };
        let reader = open::connect(&files.database, Role::Reader).unwrap();
        let (requests, taken) = bounded(4);
        std::thread::scope(|scope| {
            let seen = Arc::clone(&shared);
            scope.spawn(move || {
                let mut writer = Writer::new(&conn, Clock::system(), seen).unwrap();
                writer.run(&taken, &asked);
            });
            let write = |id| {
                let (reply, answer) = reply();
                let op = Op::Stage {
                    id: QueueId::new(id).unwrap(),
                    first: 0,
                    data: vec![b'x'; 400_000],
                };
                requests.send(Job { op, reply }).unwrap();
                answer.wait().unwrap();
                shared.frames.load(Ordering::Relaxed)
            };
            let snapshot = reader.unchecked_transaction().unwrap();
            let count = |conn: &Connection| -> i64 {
                conn.query_row("SELECT count(*) FROM chunk", [], |row| row.get(0))
                    .unwrap()
            };
            assert_eq!(count(&snapshot), 0);
            let first = write(1);
            assert!(first > this.large);
            // The writer stood and goes on, though the reader keeps the log from beginning anew.
            assert!(copy(&this));
            let second = write(2);
            assert!(second > first);
            assert_eq!(count(&snapshot), 0);
            drop(snapshot);
            assert!(copy(&this));
            assert!(write(3) < second);
            assert_eq!(count(&reader), 6);
            drop(requests);
        });
    }
}
