//! The system's own reason for an SQLite error; a place that needs `unsafe`, like `daemon::fork`.
//!
//! SQLite folds a full quota, a file size limit, a read-only filesystem and a dying disk into one code, SQLITE_IOERR.
//! Only errno tells them apart (ST-4, ST-5), SQLite keeps it, and rusqlite has no safe call for it.

#![expect(
    unsafe_code,
    reason = "rusqlite has no form of sqlite3_system_errno(); see of()"
)]

use nix::errno::Errno;
use rusqlite::Connection;

/// The errno of the last SQLITE_IOERR or SQLITE_CANTOPEN on this connection. SQLite takes it down when the statement
/// fails, before it rolls anything back; it means nothing after any other error, so ask at once and only after these.
pub(super) fn of(conn: &Connection) -> Errno {
    // SAFETY: `handle` is that of an open connection: `conn` is borrowed for this whole call, so nobody can close it, and
    // a Connection is not Sync, so no other thread is using it. sqlite3_system_errno() reads one integer of it; the
    // pointer is not kept.
    Errno::from_raw(unsafe { rusqlite::ffi::sqlite3_system_errno(conn.handle()) })
}
