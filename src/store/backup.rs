//! A consistent copy of the queue while the daemon works (ST-18).
//!
//! SQLite's backup interface copies pages of one snapshot in steps, on connections of its own: the writer never waits. As
//! long as it runs the write-ahead log cannot begin anew, so it grows by what is written meanwhile.
//!
//! The copy gets its name when it is whole and on disk, and never replaces anything. A crash leaves `NAME.unfinished`.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::StoreError;
use super::open::{self, Role};
use super::shared::Shared;

/// Why there is no copy. Nothing of it is left.
#[derive(Clone, Debug)]
pub enum BackupError {
    /// The name cannot be used; the text says why.
    Path(String),
    /// Reading or writing failed.
    Copy(String),
    /// The store is busy or closed.
    Store(StoreError),
}

impl std::fmt::Display for BackupError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BackupError::Path(text) | BackupError::Copy(text) => f.write_str(text),
            BackupError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BackupError {}

/// Pages per step: 1 MiB.
const STEP: i32 = 256;

/// Steps between two syncs of the copy, so that the disk is not left with gigabytes to write when the writer wants to sync.
const SYNC_AFTER: u32 = 32;

/// When a lock of the source cannot be had at once, which hardly ever happens.
const PAUSE: Duration = Duration::from_millis(20);

/// Removes what is there on every way out but the good one.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Copies the database to `to`; its size in octets.
pub(super) fn backup(database: &Path, to: &Path, shared: &Shared) -> Result<u64, BackupError> {
    let queue = database.parent().unwrap_or(Path::new("/"));
    let directory = check_path(to, queue)?;
    let mut name = OsString::from(to);
    name.push(".unfinished");
    let unfinished = PathBuf::from(name);
    // Nobody else can read it from the first instant, whatever the umask (SEC-2).
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(|error| at(&unfinished, &error))?;
    let guard = Unfinished(unfinished);
    copy(database, &guard.0, &file, shared)?;
    file.sync_all().map_err(|error| at(&guard.0, &error))?;
    // Unlike a rename this fails if the name is taken meanwhile.
    fs::hard_link(&guard.0, to).map_err(|error| at(to, &error))?;
    drop(guard);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| at(directory, &error))?;
    let size = file.metadata().map_err(|error| at(to, &error))?.len();
    Ok(size)
}

/// The directory of the copy, if that may be its name.
fn check_path<'p>(to: &'p Path, queue: &Path) -> Result<&'p Path, BackupError> {
    let wrong = |why: &str| Err(BackupError::Path(format!("{}: {why}", to.display())));
    if !to.is_absolute() {
        return wrong("not an absolute path");
    }
    let (Some(directory), Some(_)) = (to.parent(), to.file_name()) else {
        return wrong("not the name of a file");
    };
    let real = |path: &Path| fs::canonicalize(path);
    match (real(directory), real(queue)) {
        (Err(error), _) => return wrong(&error.to_string()),
        // What lies beside the queue is one day taken for a part of it.
        (Ok(directory), Ok(queue)) if directory.starts_with(&queue) => {
            return wrong("inside the queue directory");
        }
        _ => {}
    }
    // A link that leads nowhere is there, too.
    match fs::symlink_metadata(to) {
        Ok(_) => wrong("is there already"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(directory),
        Err(error) => wrong(&error.to_string()),
    }
}

fn copy(database: &Path, to: &Path, file: &File, shared: &Shared) -> Result<(), BackupError> {
    let store = |error: rusqlite::Error| BackupError::Copy(error.to_string());
    let source = open::connect(database, Role::Reader)
        .map_err(|error| BackupError::Copy(error.to_string()))?;
    // One snapshot for all steps; else a commit between two of them would begin the copy anew.
    let snapshot = source.unchecked_transaction().map_err(store)?;
    open::pin(&snapshot).map_err(store)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut target = Connection::open_with_flags(to, flags).map_err(store)?;
    // It is nobody's until it is whole, and synced by us.
    open::unsafe_but_fast(&target).map_err(store)?;
    let steps = Backup::new(&snapshot, &mut target).map_err(store)?;
    let mut since_sync = 0;
    loop {
        shared.check_open().map_err(BackupError::Store)?;
        match steps.step(STEP).map_err(store)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {
                since_sync += 1;
                if since_sync == SYNC_AFTER {
                    since_sync = 0;
                    file.sync_data().map_err(|error| at(to, &error))?;
                }
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

fn at(path: &Path, error: &io::Error) -> BackupError {
    BackupError::Copy(format!("{}: {error}", path.display()))
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> BackupError {
        BackupError::Store(error)
    }
}
