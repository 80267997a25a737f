//! How many connections destinations take, as far as that had to be learned (SC-6).

use rusqlite::{Connection, params};

use super::fault::{self, Fault};
use super::request::Op;
use super::writer::Writer;
use super::{DestinationKey, Store, StoreError};
use crate::clock::Timestamp;

/// How many connections a destination takes, as far as that had to be learned (SC-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedWindow {
    /// At once.
    pub size: u32,
    /// So many were let in when one more was refused.
    pub ceiling: Option<u32>,
    /// The reply or the error.
    pub cause: String,
    /// When it came.
    pub at: Timestamp,
    /// An operator has fixed it.
    pub pinned: bool,
}

impl Store {
    /// Remembers what was learned of a destination's window (SC-6), or with `None` that it is over. Waits for nothing, and
    /// may be lost when the disk is full.
    pub fn note_window(&self, key: DestinationKey, window: Option<LearnedWindow>) {
        self.inner.tell(Op::NoteWindow(key, window));
    }

    /// All windows that were learned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn windows(&self) -> Result<Vec<(DestinationKey, LearnedWindow)>, StoreError> {
        self.inner.readers.read(all)
    }
}

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
