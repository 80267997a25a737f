//! Pauses of deliveries (SC-12): kept in the database, so that they survive restarts.

use rusqlite::Connection;

use super::{Pause, PauseScope, StoreError, fault};
use crate::clock::Timestamp;

/// A scope as stored.
pub(super) fn scope_name(scope: &PauseScope) -> (&'static str, &str) {
    match scope {
        PauseScope::All => ("all", ""),
        PauseScope::Transport(name) => ("transport", name),
        PauseScope::Domain(name) => ("domain", name),
    }
}

/// All pauses.
pub(super) fn all(conn: &Connection) -> Result<Vec<(PauseScope, Pause)>, StoreError> {
    let read = || {
        let mut statement = conn.prepare_cached(
            "SELECT scope, name, since, until, reason FROM pause ORDER BY scope, name",
        )?;
        let rows = statement.query_map([], |row| {
            let name: String = row.get(1)?;
            let scope = match row.get::<_, String>(0)?.as_str() {
                "transport" => PauseScope::Transport(name),
                "domain" => PauseScope::Domain(name),
                // Unclear means that nothing goes out until somebody looks.
                _ => PauseScope::All,
            };
            let pause = Pause {
                since: Timestamp::from_millis(row.get(2)?),
                until: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_millis),
                reason: row.get(4)?,
            };
            Ok((scope, pause))
        })?;
        rows.collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| fault::answer_for(&error))
}
