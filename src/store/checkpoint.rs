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

use super::fault;
use super::shared::{Fatal, Shared};
use super::writer::Gate;

/// Frames over which the writer is asked to stand: 64 MiB.
const LARGE: i64 = 16_384;

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
}

/// Serves until `stop` disconnects.
pub(super) fn run(this: &Checkpointer, wake: &Receiver<()>, stop: &Receiver<()>) {
    let files = [identity(&this.database), identity(&this.wal)];
    let mut warned = false;
    loop {
        select! {
            recv(stop) -> _ => return,
            recv(wake) -> _ => {
                if !copy(this) {
                    return;
                }
                let size = wal_size(&this.wal);
                if size > HUGE && !warned {
                    log::error!("the write-ahead log has {size} bytes; a reader or a slow disk keeps it from beginning anew");
                }
                warned = size > HUGE;
            }
            default(WATCH) => {}
        }
        for (path, was) in [&this.database, &this.wal].into_iter().zip(&files) {
            let is = identity(path);
            if was.is_some() && is != *was && !this.shared.closed.load(Ordering::Acquire) {
                let text = format!("{} was removed or replaced", path.display());
                this.shared.end(Fatal::Io(text));
                return;
            }
        }
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
    if frames < LARGE || copied == frames {
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

/// Frames in the log and how many of them are copied.
fn passive(this: &Checkpointer) -> Option<(i64, i64)> {
    match this
        .conn
        .wal_checkpoint_v2(Some(MAIN_DB), CheckpointMode::PASSIVE)
    {
        Ok((frames, copied)) => {
            let (frames, copied) = (i64::from(frames), i64::from(copied));
            this.shared.checkpointed.store(copied, Ordering::Relaxed);
            Some((frames, copied))
        }
        Err(error) => {
            log::error!("checkpoint: {error}");
            if fault::is_io_failure(&error) {
                this.shared.end(Fatal::Io(format!("checkpoint: {error}")));
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
