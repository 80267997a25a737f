//! A group of requests: one transaction, one sync, and what becomes of it when the disk is full (ST-5, ST-6, ST-16).

use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};

use super::StoreError;
use super::apply::Broken;
use super::fault::{Disk, Trouble};
use super::request::{Answer, Job, Wake};
use super::shared::{Fatal, Tally};
use super::writer::{Writer, stand};

/// Longest wait for more requests before a commit, when the one before it held several.
const GATHER: Duration = Duration::from_millis(1);

/// The disk is said to have room again when no commit has found it full for so long.
const ROOM_AGAIN: Duration = Duration::from_secs(5);

/// What a group came to.
pub(super) enum Outcome {
    Committed(Vec<Result<Answer, StoreError>>),
    /// The transaction is gone and nothing of it was kept: each request has to be tried alone.
    RolledBack(StoreError),
    /// For want of room nobody knows: it is gone unless the system ends before the next commit is written over it.
    Doubtful(String),
    /// Nobody knows.
    Unknown(String),
}

/// A request failed after it wrote something.
struct NeedsSavepoints;

impl Writer<'_> {
    /// Carries out a group and answers it; false when the store has ended.
    pub(super) fn serve(&mut self, jobs: Vec<Job>) -> bool {
        match self.group_with_room(&jobs) {
            Outcome::Committed(answers) => {
                for (job, answer) in jobs.into_iter().zip(answers) {
                    job.reply.send(answer, job.op);
                }
                true
            }
            Outcome::RolledBack(error) if jobs.len() == 1 => {
                for job in jobs {
                    job.reply.send(Err(error.clone()), job.op);
                }
                true
            }
            Outcome::RolledBack(_) => {
                // A full disk may refuse the group and still have room for most of its parts.
                let mut alive = true;
                for job in jobs {
                    alive = alive && self.serve(vec![job]);
                }
                alive
            }
            Outcome::Doubtful(text) => {
                for job in jobs {
                    // Who waits for an outcome to be recorded asks again, and may: it is the same outcome.
                    let answer = if job.op.must_be_recorded() {
                        StoreError::Full(text.clone())
                    } else {
                        StoreError::Unknown(text.clone())
                    };
                    job.reply.send(Err(answer), job.op);
                }
                true
            }
            Outcome::Unknown(text) => {
                for job in jobs {
                    job.reply
                        .send(Err(StoreError::Unknown(text.clone())), job.op);
                }
                self.shared.end(Fatal::Io(text));
                false
            }
        }
    }

    /// ST-6: an outcome, or what makes room, that finds the disk full gets the log from its beginning, then the reserve.
    fn group_with_room(&mut self, jobs: &[Job]) -> Outcome {
        let mut outcome = self.group(jobs);
        let alone = matches!(jobs, [job] if job.op.must_be_recorded());
        for with_reserve in [false, true] {
            match &outcome {
                Outcome::RolledBack(StoreError::Full(why)) => {
                    if !alone {
                        // What can wait is asked for again. Then the log may have begun anew.
                        let _ = self.shared.wake_checkpointer.try_send(Wake::Copy);
                        return outcome;
                    }
                    if with_reserve && !self.shared.space.give_up(why) {
                        return outcome;
                    }
                    if self.copy_log() || with_reserve {
                        outcome = self.group(jobs);
                    }
                }
                _ => return outcome,
            }
        }
        outcome
    }

    /// Waits until the checkpointer has copied the log; whether all of it, so that it begins anew in the place it has.
    fn copy_log(&self) -> bool {
        let (reply, copied) = bounded(1);
        let mut asked = false;
        while !asked {
            select! {
                send(self.shared.wake_checkpointer, Wake::Room(reply.clone())) -> sent => match sent {
                    Ok(()) => asked = true,
                    Err(_) => return false,
                },
                recv(self.gates) -> gate => if let Ok(gate) = gate { stand(&gate) },
            }
        }
        drop(reply);
        loop {
            select! {
                recv(copied) -> all => return all.unwrap_or(false),
                recv(self.gates) -> gate => if let Ok(gate) = gate { stand(&gate) },
            }
        }
    }

    /// Requests hardly ever fail, and a savepoint costs a copy of each page it meets. So the first try goes without
    /// savepoints; if a request fails after it wrote something, all is rolled back and done again with them.
    fn group(&mut self, jobs: &[Job]) -> Outcome {
        match self.try_group(jobs, false) {
            Ok(outcome) => outcome,
            Err(NeedsSavepoints) => self
                .try_group(jobs, true)
                .unwrap_or_else(|NeedsSavepoints| Outcome::Unknown("savepoints".into())),
        }
    }

    fn try_group(&mut self, jobs: &[Job], savepoints: bool) -> Result<Outcome, NeedsSavepoints> {
        let began = Instant::now();
        let before = self.tally;
        self.touched.clear();
        self.next_notice = i64::MAX;
        self.lost.clear();
        self.withheld = 0;
        if let Err(error) = self.sql.begin.execute([]) {
            return Ok(self.undone(before, &error));
        }
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.apply_alone(&job.op, savepoints) {
                Ok(answer) => answers.push(answer),
                Err(Broken::Partly) => {
                    return match self.roll_back(before) {
                        Ok(()) => Err(NeedsSavepoints),
                        Err(error) => Ok(Outcome::Unknown(error.to_string())),
                    };
                }
                Err(Broken::Wholly(error)) => return Ok(self.undone(before, &error)),
            }
        }
        let reserved = match self.finish_group(&before) {
            Ok(reserved) => reserved,
            Err(error) => return Ok(self.undone(before, &error)),
        };
        if let Err(why) = self.hold_room()
            && !jobs.iter().all(|job| job.op.must_be_recorded())
        {
            return Ok(match self.roll_back(before) {
                Ok(()) => self.no_room(why),
                Err(error) => Outcome::Unknown(error.to_string()),
            });
        }
        if let Err(error) = self.sql.commit.execute([]) {
            let trouble = Trouble::of(self.conn, &error);
            let (unknown, text) = (!trouble.kept_nothing, trouble.text.clone());
            return Ok(match self.undone_by(before, trouble) {
                Outcome::RolledBack(StoreError::Full(_)) if unknown => Outcome::Doubtful(text),
                Outcome::RolledBack(_) if unknown => Outcome::Unknown(text),
                outcome => outcome,
            });
        }
        self.has_room();
        if let Some(ids) = reserved {
            self.shared.ids.add(ids);
        }
        let took = began.elapsed();
        self.gather = gather(jobs.len(), took);
        self.shared.committed(self.tally, jobs.len(), took);
        self.shared.notice_due(self.next_notice);
        self.count_notices();
        Ok(Outcome::Committed(answers))
    }

    /// What belongs to the transaction once, however many requests it holds.
    fn finish_group(&mut self, before: &Tally) -> rusqlite::Result<Option<std::ops::Range<i64>>> {
        self.correct_destinations()?;
        if self.sweep {
            self.sweep = self.sweep_step()?;
        }
        if self.tally != *before {
            self.save_tally()?;
        }
        // Ids are reserved along the way, so that `allocate_id` hardly ever waits.
        let Some(ids) = self.shared.ids.next_block_if_low() else {
            return Ok(None);
        };
        self.sql.save_next_id.execute([ids.end])?;
        Ok(Some(ids))
    }

    pub(super) fn save_tally(&mut self) -> rusqlite::Result<usize> {
        let tally = &self.tally;
        self.sql.save_tally.execute([
            tally.messages,
            tally.queued,
            tally.claimed,
            tally.held,
            tally.doubt,
        ])
    }

    /// The group failed as a whole, before or at its COMMIT, and is rolled back.
    pub(super) fn undone(&mut self, before: Tally, error: &rusqlite::Error) -> Outcome {
        self.undone_by(before, Trouble::of(self.conn, error))
    }

    fn undone_by(&mut self, before: Tally, trouble: Trouble) -> Outcome {
        if trouble.disk == Disk::Bad {
            return Outcome::Unknown(trouble.text);
        }
        match self.roll_back(before) {
            Ok(()) if trouble.disk == Disk::Full => self.no_room(trouble.answer),
            Ok(()) => Outcome::RolledBack(trouble.answer),
            Err(error) => Outcome::Unknown(error.to_string()),
        }
    }

    /// The blocks of what this transaction adds to the database (ST-6).
    fn hold_room(&mut self) -> Result<(), StoreError> {
        let failed = |text: String| StoreError::Full(text);
        let pages = self.sql.page_count.query_row([], |row| row.get(0));
        let pages = pages.map_err(|error| failed(error.to_string()))?;
        let held = self.shared.growth.hold(pages);
        held.map_err(|errno| failed(errno.desc().to_owned()))
    }

    fn no_room(&mut self, why: StoreError) -> Outcome {
        if self.full.replace(Instant::now()).is_none() {
            log::error!("the queue cannot be written: {why}");
        }
        Outcome::RolledBack(why)
    }

    fn has_room(&mut self) {
        if self.full.is_some_and(|last| last.elapsed() >= ROOM_AGAIN) {
            self.full = None;
            log::info!("the queue can be written again");
        }
    }

    fn roll_back(&mut self, before: Tally) -> rusqlite::Result<()> {
        self.tally = before;
        self.known.clear();
        // SQLite may have rolled back by itself.
        if !self.conn.is_autocommit() {
            self.sql.rollback.execute([])?;
        }
        Ok(())
    }
}

/// How long the next group is gathered before it is begun. Where requests come one at a time each is committed at once;
/// where several came together, their senders are busy and will be back soon, and to wait a part of the time that a
/// commit takes here makes fewer commits of more requests.
fn gather(requests: usize, took: Duration) -> Duration {
    if requests < 2 {
        return Duration::ZERO;
    }
    (took / 2).min(GATHER)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rusqlite::Connection;

    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::store::reply::{Waiter, reply};
    use crate::store::request::Op;
    use crate::store::testing::{TempDir, enqueue, writable};
    use crate::store::{Pause, PauseScope};

    fn job(op: Op) -> (Job, Waiter) {
        let (reply, waiter) = reply();
        (Job { op, reply }, waiter)
    }

    /// Serves these requests as one group; their answers, and whether the store lives on.
    fn serve(writer: &mut Writer<'_>, ops: Vec<Op>) -> (Vec<Result<Answer, StoreError>>, bool) {
        let (jobs, waiters): (Vec<_>, Vec<_>) = ops.into_iter().map(job).unzip();
        let alive = writer.serve(jobs);
        (waiters.into_iter().map(Waiter::wait).collect(), alive)
    }

    fn messages(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM message", [], |row| row.get(0))
            .unwrap()
    }

    // ST-6, ST-7
    #[test]
    fn an_outcome_that_finds_the_disk_full_is_recorded_with_the_reserve() {
        let directory = TempDir::new();
        let (_files, conn, shared) = writable(&directory);
        let mut writer = Writer::new(&conn, Clock::system(), Arc::clone(&shared)).unwrap();
        let (answers, _) = serve(&mut writer, vec![enqueue(1, b"small")]);
        assert!(answers[0].is_ok());
        let pages: i64 = conn
            .query_row("PRAGMA page_count", [], |row| row.get(0))
            .unwrap();
        let full = |pages: i64| {
            let pragma = format!("PRAGMA max_page_count = {pages}");
            conn.query_row(&pragma, [], |_| Ok(())).unwrap();
        };
        full(pages);
        let large = vec![b'x'; 200_000];
        let reserve = shared.space.reserve();
        std::fs::write(&reserve, b"reserve").unwrap();
        let pause = || Op::Pause {
            scope: PauseScope::Domain("d".repeat(60_000)),
            pause: Some(Pause {
                since: Timestamp::from_secs(1),
                until: None,
                reason: "r".repeat(60_000),
            }),
        };
        // New mail does not get it, and what must be recorded does; here even that was not enough.
        let (answers, alive) = serve(&mut writer, vec![enqueue(2, &large)]);
        assert!(alive && matches!(&answers[..], [Err(StoreError::Full(_))]));
        assert!(reserve.exists());
        let (answers, alive) = serve(&mut writer, vec![pause()]);
        assert!(alive && matches!(&answers[..], [Err(StoreError::Full(_))]));
        assert!(!reserve.exists());
        assert!(matches!(shared.check_space(), Err(StoreError::Full(_))));
        full(1_000_000);
        let (answers, _) = serve(&mut writer, vec![pause()]);
        assert!(answers[0].is_ok());
        // What was freed is for outcomes: nothing new is begun until the reserve is back.
        let claim = Op::Claim(Vec::new());
        let (answers, alive) = serve(&mut writer, vec![claim, enqueue(3, b"small")]);
        assert!(
            alive
                && answers
                    .iter()
                    .all(|answer| matches!(answer, Err(StoreError::Full(_))))
        );
    }

    // ST-5, ST-16, Q-2
    #[test]
    fn a_full_disk_refuses_what_has_no_room_keeps_the_rest_and_heals() {
        let directory = TempDir::new();
        let (_files, conn, shared) = writable(&directory);
        let pages: i64 = conn
            .query_row("PRAGMA page_count", [], |row| row.get(0))
            .unwrap();
        conn.query_row(
            &format!("PRAGMA max_page_count = {}", pages + 8),
            [],
            |_| Ok(()),
        )
        .unwrap();
        let mut writer = Writer::new(&conn, Clock::system(), Arc::clone(&shared)).unwrap();
        let large = [b'x'; 200_000];
        let ops = vec![
            enqueue(1, b"small"),
            enqueue(2, &large),
            enqueue(3, b"small"),
        ];
        let (answers, alive) = serve(&mut writer, ops);
        assert!(alive);
        assert!(
            matches!(&answers[..], [Ok(_), Err(StoreError::Full(_)), Ok(_)]),
            "{answers:?}"
        );
        assert_eq!(messages(&conn), 2);
        assert_eq!(shared.tally().messages, 2);
        conn.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(()))
            .unwrap();
        let (answers, _) = serve(&mut writer, vec![enqueue(2, &large)]);
        assert!(answers[0].is_ok());
        assert_eq!(shared.tally().queued, 3);
        assert!(shared.fatal().try_recv().is_err());
    }

    // ST-3, ST-4
    #[test]
    fn a_failed_commit_is_an_unknown_outcome_for_all_and_the_end_of_the_store() {
        let directory = TempDir::new();
        let (_files, mut conn, shared) = writable(&directory);
        conn.commit_hook(Some(|| true)).unwrap();
        let mut writer = Writer::new(&conn, Clock::system(), Arc::clone(&shared)).unwrap();
        let (answers, alive) = serve(&mut writer, vec![enqueue(1, b"a"), enqueue(2, b"b")]);
        assert!(!alive);
        for answer in answers {
            assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
        }
        assert!(matches!(shared.fatal().try_recv(), Ok(Fatal::Io(_))));
        assert!(matches!(shared.check_open(), Err(StoreError::Closed)));
        assert!(
            shared.ids.take().is_none(),
            "ids of the failed commit are not used"
        );
    }

    // ST-16
    #[test]
    fn requests_that_fail_after_they_wrote_leave_the_rest_of_their_group_alone() {
        let directory = TempDir::new();
        let (_files, conn, shared) = writable(&directory);
        let mut writer = Writer::new(&conn, Clock::system(), Arc::clone(&shared)).unwrap();
        serve(&mut writer, vec![enqueue(7, b"first")]);
        // The chunk of a second 7 cannot be written, nor its message; a 9 with a foreign chunk fails half-way.
        conn.execute(
            "INSERT INTO recipient (id, state, destination, rank, next_attempt, attempts, alone, doubt, address, domain, \
             notify, blocker, wish) SELECT (9 << 20) + 1, state, destination, rank, next_attempt, attempts, alone, doubt, \
             address, domain, notify, blocker, wish FROM recipient",
            [],
        )
        .unwrap();
        let ops = vec![
            enqueue(8, b"x"),
            enqueue(7, b"y"),
            enqueue(9, b"z"),
            enqueue(10, b"x"),
        ];
        let (answers, alive) = serve(&mut writer, ops);
        assert!(alive);
        let fine: Vec<bool> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(fine, [true, false, false, true], "{answers:?}");
        assert_eq!(messages(&conn), 3);
        let chunks: i64 = conn
            .query_row("SELECT count(*) FROM chunk", [], |row| row.get(0))
            .unwrap();
        assert_eq!((chunks, shared.tally().messages), (3, 3));
    }
}
