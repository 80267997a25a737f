//! Applying one request in the transaction of its group.

use rusqlite::{OptionalExtension, params};

use super::fault::Fault;
use super::request::{Answer, Op};
use super::writer::Writer;
use super::{DestinationKey, StoreError};

/// Destination ids remembered; a miss costs one seek.
const KNOWN_DESTINATIONS: usize = 10_000;

/// What a failed request leaves of its group.
pub(super) enum Broken {
    /// Some of the request's rows, to be rolled back with the group.
    Partly,
    /// Nothing: the transaction is gone.
    Wholly(rusqlite::Error),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Broken {
        Broken::Wholly(error)
    }
}

impl Writer<'_> {
    /// One request, in its savepoint if it has one.
    pub(super) fn apply_alone(
        &mut self,
        op: &Op,
        savepoint: bool,
    ) -> Result<Result<Answer, StoreError>, Broken> {
        let (before, lost, withheld) = (self.tally, self.lost.len(), self.withheld);
        let changes = self.conn.total_changes();
        if savepoint {
            self.sql.savepoint.execute([])?;
        }
        let fault = match self.apply(op) {
            Ok(answer) => {
                if savepoint {
                    self.sql.release.execute([])?;
                }
                return Ok(Ok(answer));
            }
            Err(fault) => fault,
        };
        self.tally = before;
        self.lost.truncate(lost);
        self.withheld = withheld;
        // Some errors end the transaction and all that was applied before (SQLITE_IOERR, SQLITE_FULL, ..).
        let ended = self.conn.is_autocommit();
        if let Fault::Sql(error) = &fault
            && !ended
        {
            log::error!("store request failed: {error}");
        }
        match fault {
            Fault::Sql(error) if ended => Err(Broken::Wholly(error)),
            fault if savepoint => {
                self.known.clear();
                self.sql.rollback_to.execute([])?;
                self.sql.release.execute([])?;
                Ok(Err(fault.into_answer()))
            }
            // Refused before it wrote anything.
            fault if self.conn.total_changes() == changes => Ok(Err(fault.into_answer())),
            _ => Err(Broken::Partly),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<Answer, Fault> {
        // ST-5: no attempt is begun whose outcome might have no room, and nothing else takes what was freed for outcomes.
        if self.shared.space.is_tight() && !op.must_be_recorded() {
            let why = "what is left of it is for outcomes".to_owned();
            return Err(Fault::Reject(StoreError::Full(why)));
        }
        match op {
            Op::Enqueue(message) => self.enqueue(message).map(|()| Answer::Done),
            Op::Stage { id, first, data } => {
                self.put_ahead(*id, *first, data).map(|()| Answer::Done)
            }
            Op::Unstage { id } => self.unstage(*id).map(|()| Answer::Done),
            Op::Claim(requests) => self.claim(requests).map(Answer::Claimed),
            Op::Settle(settlement) => self.settle(settlement).map(Answer::Settled),
            Op::Unclaim {
                id,
                numbers,
                due,
                blocker,
            } => self
                .unclaim(*id, numbers, *due, blocker.as_deref())
                .map(Answer::Settled),
            Op::Change(step) => self
                .change(step)
                .map(|(hits, ended)| Answer::Changed(hits, ended)),
            Op::Damaged { id, reason } => self.hold_message(*id, reason).map(|()| Answer::Done),
            Op::PullIn {
                now,
                horizon,
                after,
            } => self.pull_in(*now, *horizon, *after),
            Op::Delays(rows) => self.delays(rows),
            Op::Notice(notice) => self.send_notice(notice),
            Op::Postpone { id, kind, due } => self.postpone_notice(*id, *kind, *due),
            Op::Summary { addresses, message } => self.send_summary(addresses, message.as_ref()),
            Op::Pause { scope, pause } => self.set_pause(scope, pause.as_ref()).map(Answer::Lifted),
            Op::NoteTls(seen) => self.note_tls(seen).map(|()| Answer::Done),
            Op::NoteWindow(key, window) => self
                .note_window(key, window.as_ref())
                .map(|()| Answer::Done),
            Op::ForgetTls(domain) => self.forget_tls(domain).map(Answer::Lifted),
            Op::ChangeSts(change) => self.change_sts(change).map(Answer::Lifted),
            Op::ChangeReport(change) => self.change_report(change).map(Answer::Lifted),
            Op::ReserveIds => {
                let ids = self.shared.ids.next_block();
                self.sql.save_next_id.execute([ids.end])?;
                Ok(Answer::Ids(ids))
            }
            // Never in a group.
            Op::Close | Op::Leave | Op::Rest => Ok(Answer::Done),
        }
    }

    /// The id of a destination, made if it is new.
    pub(super) fn destination(&mut self, key: &DestinationKey) -> Result<i64, Fault> {
        if let Some(id) = self.known.get(key) {
            return Ok(*id);
        }
        let found = self
            .sql
            .find_destination
            .query_row([&key.0], |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => self.sql.insert_destination.insert([&key.0])?,
        };
        if self.known.len() >= KNOWN_DESTINATIONS {
            self.known.clear();
        }
        self.known.insert(key.clone(), id);
        Ok(id)
    }

    /// Makes `next_due` of all touched destinations exact: a seek per priority level in use.
    pub(super) fn correct_destinations(&mut self) -> rusqlite::Result<()> {
        for id in std::mem::take(&mut self.touched) {
            let mut earliest: Option<i64> = None;
            let mut rank = i64::MIN;
            loop {
                let level = self
                    .sql
                    .next_level
                    .query_row([id, rank], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
                    .optional()?;
                let Some((next_rank, due)) = level else { break };
                rank = next_rank;
                earliest = Some(earliest.map_or(due, |known| known.min(due)));
            }
            self.sql.save_next_due.execute(params![id, earliest])?;
        }
        Ok(())
    }
}
