//! Content that no message owns any more is removed in small steps, which may be cut off anywhere.
//!
//! Each commit takes a step along; an idle writer takes steps of their own. What a crash leaves, the next start finds in
//! the table `unowned`.

use std::time::Instant;

use rusqlite::OptionalExtension;

use super::group::Outcome;
use super::rows::row_range;
use super::shared::Fatal;
use super::writer::Writer;
use crate::message::QueueId;

/// Chunks removed per step.
pub(super) const SWEEP_STEP: i64 = 16;

impl Writer<'_> {
    /// One step of the sweep in a transaction of its own; false when the store has ended.
    pub(super) fn sweep_alone(&mut self) -> bool {
        let began = Instant::now();
        let swept = (|| {
            self.sql.begin.execute([])?;
            self.sweep = self.sweep_step()?;
            self.sql.commit.execute([])
        })();
        match swept {
            Ok(_) => {
                self.shared.committed(self.tally, 0, began.elapsed());
                true
            }
            Err(error) => match self.undone(self.tally, &error) {
                Outcome::Unknown(text) => {
                    self.shared.end(Fatal::Io(text));
                    false
                }
                _ => {
                    log::warn!("removal of finished content is put off: {error}");
                    self.sweep = false;
                    true
                }
            },
        }
    }

    /// Removes a few chunks that no message owns; false when none is left.
    pub(super) fn sweep_step(&mut self) -> rusqlite::Result<bool> {
        let message: Option<i64> = self
            .sql
            .next_unowned
            .query_row([], |row| row.get(0))
            .optional()?;
        let Some(message) = message else {
            return Ok(false);
        };
        let Some(id) = QueueId::new(message) else {
            self.sql.unmark_unowned.execute([message])?;
            return Ok(true);
        };
        let (first, last) = row_range(id);
        let removed = self.sql.delete_chunks.execute([first, last, SWEEP_STEP])?;
        if (removed as i64) < SWEEP_STEP {
            self.sql.unmark_unowned.execute([message])?;
        }
        Ok(true)
    }
}
