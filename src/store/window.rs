//! How many connections destinations take, as far as that had to be learned (SC-6).

use rusqlite::{Connection, params};

use super::fault::{self, Fault};
use super::writer::Writer;
use super::{DestinationKey, LearnedWindow, StoreError};
use crate::clock::Timestamp;

/// All of them.
pub(super) fn all(conn: &Connection) -> Result<Vec<(DestinationKey, LearnedWindow)>, StoreError> {
    let read = || {
        let mut statement = conn.prepare_cached(
            "SELECT destination, size, ceiling, cause, at, pinned FROM learned_window ORDER BY destination",
        )?;
        let rows = statement.query_map([], |row| {
            let window = LearnedWindow {
                size: row.get(1)?,
                ceiling: row.get(2)?,
                cause: row.get(3)?,
                at: Timestamp::from_millis(row.get(4)?),
                pinned: row.get(5)?,
            };
            Ok((DestinationKey(row.get::<_, String>(0)?.into()), window))
        })?;
        rows.collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| fault::answer_for(&error))
}

impl Writer<'_> {
    /// `None`: it is as it would be without.
    pub(super) fn note_window(
        &mut self,
        key: &DestinationKey,
        window: Option<&LearnedWindow>,
    ) -> Result<(), Fault> {
        match window {
            Some(window) => self.sql.note_window.execute(params![
                &*key.0,
                window.size,
                window.ceiling,
                window.cause,
                window.at.millis(),
                window.pinned,
            ])?,
            None => self.sql.forget_window.execute([&*key.0])?,
        };
        Ok(())
    }
}
