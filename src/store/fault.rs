//! What an SQLite error means for the one who asked, and for the store.

use rusqlite::ErrorCode;

use super::StoreError;

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

    /// Whether the files can no longer be trusted: the store ends (ST-4).
    pub(super) fn is_fatal(&self) -> bool {
        matches!(self, Fault::Sql(error) if is_io_failure(error))
    }
}

/// The answer for an SQLite error of a statement whose transaction was, or will be, rolled back.
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

/// Whether a failed COMMIT is known to have kept nothing. Everything else is unknown (ST-3).
///
/// SQLITE_FULL and SQLITE_READONLY come from the write of log frames; no valid commit frame is then in the log. An error
/// of the sync itself, also one for lack of space, is SQLITE_IOERR_FSYNC.
pub(super) fn kept_nothing(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::DatabaseBusy)
    )
}

/// An I/O error of the system, other than lack of space.
pub(super) fn is_io_failure(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sqlite(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None)
    }

    // ST-3, ST-4, ST-5
    #[test]
    fn lack_of_space_is_told_apart_from_io_errors_and_from_damage() {
        let full = sqlite(rusqlite::ffi::SQLITE_FULL);
        assert!(matches!(answer_for(&full), StoreError::Full(_)));
        assert!(kept_nothing(&full) && !is_io_failure(&full));
        let readonly = sqlite(rusqlite::ffi::SQLITE_READONLY);
        assert!(matches!(answer_for(&readonly), StoreError::Full(_)));
        let sync = sqlite(rusqlite::ffi::SQLITE_IOERR_FSYNC);
        assert!(matches!(answer_for(&sync), StoreError::Unknown(_)));
        assert!(!kept_nothing(&sync) && is_io_failure(&sync));
        let corrupt = sqlite(rusqlite::ffi::SQLITE_CORRUPT);
        assert!(matches!(answer_for(&corrupt), StoreError::Damaged(_)));
        assert!(!kept_nothing(&corrupt));
    }
}
