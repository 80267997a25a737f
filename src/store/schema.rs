//! Numbered schema files and how a database moves from one to the next (ST-13).

use rusqlite::{Connection, TransactionBehavior};

use super::OpenError;

/// `PRAGMA application_id` of a posthaste queue: "phsQ".
pub(super) const APPLICATION_ID: i32 = 0x7068_7351;

/// The schema files in order; the first takes an empty database to version 1.
const MIGRATIONS: [&str; 8] = [
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
    include_str!("schema/0005.sql"),
    include_str!("schema/0006.sql"),
    include_str!("schema/0007.sql"),
    include_str!("schema/0008.sql"),
];

/// The version this program writes.
pub(super) const VERSION: i32 = MIGRATIONS.len() as i32;

/// Brings the database to [`VERSION`], one transaction per step, so that a kill leaves the one or the other.
///
/// # Errors
/// [`OpenError::Refused`] for a database of a newer program; else what SQLite says.
pub(super) fn migrate(conn: &mut Connection) -> Result<(), OpenError> {
    let from = version(conn).map_err(|error| refused(conn, &error))?;
    if from > VERSION {
        return Err(OpenError::Refused(format!(
            "the queue was written by a newer posthaste (schema {from}; this one knows {VERSION})"
        )));
    }
    let from = usize::try_from(from)
        .map_err(|_| OpenError::Refused(format!("the queue's schema version is {from}")))?;
    for (index, sql) in MIGRATIONS.iter().enumerate().skip(from) {
        step(conn, sql, index + 1).map_err(|error| refused(conn, &error))?;
    }
    Ok(())
}

/// The version in the file.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<i32> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn step(conn: &mut Connection, sql: &str, version: usize) -> rusqlite::Result<()> {
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(sql)?;
    transaction.pragma_update(None, "user_version", version as i64)?;
    transaction.commit()
}

fn refused(conn: &Connection, error: &rusqlite::Error) -> OpenError {
    let path = conn.path().unwrap_or("the queue").to_owned();
    OpenError::Refused(format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // ST-13
    #[test]
    fn a_newer_schema_is_refused_and_left_alone() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        let error = migrate(&mut conn).unwrap_err();
        assert!(
            matches!(&error, OpenError::Refused(text) if text.contains("newer")),
            "{error}"
        );
        assert_eq!(version(&conn).unwrap(), VERSION + 1);
    }

    // ST-13
    #[test]
    fn a_step_that_fails_leaves_the_old_schema() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        assert!(
            step(
                &mut conn,
                "CREATE TABLE more (a); CREATE TABLE message (b);",
                2
            )
            .is_err()
        );
        assert_eq!(version(&conn).unwrap(), VERSION);
        let more: i64 = conn
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE name = 'more'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(more, 0);
    }

    // ST-13
    #[test]
    fn a_migrated_database_is_not_migrated_again() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        migrate(&mut conn).unwrap();
        assert_eq!(version(&conn).unwrap(), VERSION);
    }
}
