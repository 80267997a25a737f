//! Pauses of deliveries (SC-12): kept in the database, so that they survive restarts.

use rusqlite::{Connection, params};

use super::fault::{self, Fault};
use super::request::Op;
use super::writer::Writer;
use super::{Store, StoreError};
use crate::clock::Timestamp;

/// What a pause stops (SC-12).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PauseScope {
    /// All deliveries.
    All,
    /// Those of a transport.
    Transport(String),
    /// Those of a destination: a domain.
    Domain(String),
}

/// A pause.
#[derive(Clone, Debug)]
pub struct Pause {
    /// When it began.
    pub since: Timestamp,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

impl Store {
    /// Sets or lifts a pause (SC-12). Lifting one that is not there is `Ok(false)`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_pause(&self, scope: &PauseScope, pause: Option<&Pause>) -> Result<bool, StoreError> {
        let (scope, pause) = (scope.clone(), pause.cloned());
        self.inner.ask(Op::Pause { scope, pause })?.whether()
    }

    /// All pauses in force, expired ones included until somebody lifts them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn pauses(&self) -> Result<Vec<(PauseScope, Pause)>, StoreError> {
        self.inner.readers.read(all)
    }
}

/// A scope as stored.
fn scope_name(scope: &PauseScope) -> (&'static str, &str) {
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

impl Writer<'_> {
    pub(super) fn set_pause(
        &mut self,
        scope: &PauseScope,
        pause: Option<&Pause>,
    ) -> Result<bool, Fault> {
        let (kind, name) = scope_name(scope);
        match pause {
            Some(pause) => {
                self.sql.set_pause.execute(params![
                    kind,
                    name,
                    pause.since.millis(),
                    pause.until.map(Timestamp::millis),
                    pause.reason
                ])?;
                Ok(true)
            }
            None => Ok(self.sql.lift_pause.execute([kind, name])? > 0),
        }
    }
}
