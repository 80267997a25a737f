//! What an SQLite error means for the one who asked, and for the store.

use nix::errno::Errno;
use rusqlite::{Connection, ErrorCode, ffi};

use super::{StoreError, errno};

/// Why a step inside a transaction failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// SQLite said no.
    Sql(rusqlite::Error),
    /// We did: the request is wrong, or a limit is reached.
    Reject(StoreError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        Fault::Sql(error)
    }
}

impl Fault {
    /// The request itself is wrong.
    pub(super) fn rejected(text: impl Into<String>) -> Fault {
        Fault::Reject(StoreError::Failed(text.into()))
    }

    /// The answer to the one who asked, when nothing of the request was kept.
    pub(super) fn into_answer(self) -> StoreError {
        match self {
            Fault::Reject(answer) => answer,
            Fault::Sql(error) => answer_for(&error),
        }
    }
}

/// The answer for an SQLite error of a reader, or of a statement that SQLite itself could judge.
pub(super) fn answer_for(error: &rusqlite::Error) -> StoreError {
    let text = error.to_string();
    match error.sqlite_error_code() {
        // ST-5. SQLITE_FULL is ENOSPC at a write, before anything was synced, so nothing was kept.
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly) => StoreError::Full(text),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(text),
        Some(ErrorCode::SystemIoFailure) => StoreError::Unknown(text),
        Some(ErrorCode::OperationInterrupted) => {
            StoreError::Failed("cut off after its time limit".into())
        }
        _ => StoreError::Failed(text),
    }
}

/// What a failed write says about the disk, by the system's own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    /// Nothing: the error is of another kind.
    Fine,
    /// There is no room, or it may not be written; both pass (ST-5).
    Full,
    /// The system wants to be asked again (ST-8).
    Again,
    /// It cannot be trusted any more (ST-4).
    Bad,
}

/// An error of the writing or the checkpointing side with all that can be known of it. Made at once after the call that
/// failed, before anything else is asked of the connection.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) disk: Disk,
    /// In words.
    pub(super) text: String,
    /// The answer when everything was rolled back.
    pub(super) answer: StoreError,
    /// A failed COMMIT is known to have kept nothing. Everything else is unknown (ST-3).
    pub(super) kept_nothing: bool,
}

impl Trouble {
    pub(super) fn of(conn: &Connection, error: &rusqlite::Error) -> Trouble {
        match error {
            rusqlite::Error::SqliteFailure(code, _) if code.code == ErrorCode::SystemIoFailure => {
                io_failure(error, code.extended_code, errno::of(conn))
            }
            _ => {
                let answer = answer_for(error);
                let full = matches!(answer, StoreError::Full(_));
                Trouble {
                    text: error.to_string(),
                    disk: if full { Disk::Full } else { Disk::Fine },
                    kept_nothing: full || matches!(answer, StoreError::Busy),
                    answer,
                }
            }
        }
    }
}

fn io_failure(error: &rusqlite::Error, code: i32, errno: Errno) -> Trouble {
    let text = if errno == Errno::UnknownErrno {
        error.to_string()
    } else {
        format!("{error}: {}", errno.desc())
    };
    let disk = match errno {
        // A sync may say so too (ext4 that became read-only does). What it did not sync is written once more: SQLite
        // puts the next commit over the frames of this one, and a checkpoint copies again what it did not finish.
        _ if is_room(errno) => Disk::Full,
        Errno::EAGAIN | Errno::EINTR if code == ffi::SQLITE_IOERR_WRITE => Disk::Again,
        // After a sync that failed otherwise, what was not synced may be gone although it can still be read, and no
        // later sync says so (ST-4).
        _ => Disk::Bad,
    };
    Trouble {
        disk,
        // The commit frame is written last, so if a write of the log failed there is none that is valid. What comes
        // after it (the sync, the index) is unknown.
        kept_nothing: code == ffi::SQLITE_IOERR_WRITE && disk != Disk::Bad,
        answer: match disk {
            Disk::Full => StoreError::Full(text.clone()),
            Disk::Again => StoreError::Busy,
            Disk::Bad | Disk::Fine => StoreError::Unknown(text.clone()),
        },
        text,
    }
}

/// No space or inode, a quota, a size limit, or read-only (ST-5).
pub(super) fn is_room(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG | Errno::EROFS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    // ST-3, ST-5
    #[test]
    fn lack_of_space_is_told_apart_from_io_errors_and_from_damage() {
        let conn = Connection::open_in_memory().unwrap();
        for code in [ffi::SQLITE_FULL, ffi::SQLITE_READONLY] {
            let trouble = Trouble::of(&conn, &sqlite(code));
            assert!(matches!(trouble.answer, StoreError::Full(_)));
            assert!(trouble.kept_nothing && trouble.disk == Disk::Full);
        }
        let trouble = Trouble::of(&conn, &sqlite(ffi::SQLITE_CORRUPT));
        assert!(matches!(trouble.answer, StoreError::Damaged(_)));
        assert!(!trouble.kept_nothing && trouble.disk == Disk::Fine);
        // Nobody knows why: the worst is assumed.
        let trouble = Trouble::of(&conn, &sqlite(ffi::SQLITE_IOERR_WRITE));
        assert!(matches!(trouble.answer, StoreError::Unknown(_)));
        assert!(!trouble.kept_nothing && trouble.disk == Disk::Bad);
    }

    // ST-4, ST-5, ST-8
    #[test]
    fn an_io_error_is_judged_by_errno_and_only_a_write_is_known_to_have_kept_nothing() {
        let of = |code, errno| {
            let trouble = io_failure(&sqlite(code), code, errno);
            (trouble.disk, trouble.kept_nothing)
        };
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG, Errno::EROFS] {
            assert_eq!(of(ffi::SQLITE_IOERR_WRITE, errno), (Disk::Full, true));
            assert_eq!(of(ffi::SQLITE_IOERR_FSYNC, errno), (Disk::Full, false));
            // The index of the log is written after the sync: what was committed is there.
            assert_eq!(of(ffi::SQLITE_IOERR_SHMSIZE, errno), (Disk::Full, false));
        }
        for errno in [Errno::EAGAIN, Errno::EINTR] {
            assert_eq!(of(ffi::SQLITE_IOERR_WRITE, errno), (Disk::Again, true));
            assert_eq!(of(ffi::SQLITE_IOERR_FSYNC, errno), (Disk::Bad, false));
        }
        for errno in [Errno::EIO, Errno::ENXIO, Errno::ENOMEM, Errno::EBADF] {
            assert_eq!(of(ffi::SQLITE_IOERR_WRITE, errno), (Disk::Bad, false));
            assert_eq!(of(ffi::SQLITE_IOERR_FSYNC, errno), (Disk::Bad, false));
        }
    }

    // ST-5
    #[test]
    fn the_text_of_an_io_error_names_the_reason_of_the_system() {
        let code = ffi::SQLITE_IOERR_WRITE;
        let trouble = io_failure(&sqlite(code), code, Errno::EDQUOT);
        assert!(trouble.text.contains("uota"), "{trouble:?}");
    }
}
