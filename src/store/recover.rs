//! What a start finds and puts right, before anything else runs. Any start is a recovery start; its cost follows
//! what was in flight, never the length of the queue or of the history.

use rusqlite::params;

use super::change::Ended;
use super::dots::Before;
use super::fault::Fault;
use super::rows::{self, Kind};
use super::settle::{End, Ends, Found, Wish};
use super::writer::Writer;
use super::{Doubt, State};
use crate::clock::Timestamp;
use crate::log::Line;
use crate::message::{QueueId, RecipientId};

/// What the record of an attempt says that was cut off before its dot.
const NOT_SENT: &str = "the message was not sent";

/// Rows per page.
const STEP: i64 = 1000;

/// What becomes of in-doubt recipients at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDoubt {
    /// Queued again after their recorded back-off.
    Retry,
    /// Held for the operator.
    Hold,
}

/// What recovery found at start; all of it is logged by the daemon.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Recipients that were claimed when the last run ended, and may have been delivered.
    pub in_doubt: Vec<RecipientId>,
    /// Those that were claimed and cannot have been: their dot was not sent.
    pub cut_off: Vec<RecipientId>,
    /// Messages held because their row or content is damaged.
    pub damaged: Vec<QueueId>,
    /// Messages held because they were claimed at too many deaths of the process.
    pub poisoned: Vec<QueueId>,
    /// Chunks that no message owned.
    pub orphan_chunks: u64,
}

impl Writer<'_> {
    /// One transaction: a crash during recovery leaves it to the next start.
    pub(super) fn recover(
        &mut self,
        in_doubt: InDoubt,
        before: &Before,
    ) -> Result<Recovery, Fault> {
        self.sql.begin.execute([])?;
        let mut found = Recovery::default();
        let died = self
            .conn
            .query_row("SELECT clean = 0 FROM queue WHERE one = 1", [], |row| {
                row.get(0)
            })?;
        let told = self.recover_claimed(in_doubt, before, died, &mut found)?;
        found.orphan_chunks = self.count_orphans()?;
        self.conn.execute("UPDATE unowned SET kind = 1", [])?;
        self.correct_destinations()?;
        self.save_tally()?;
        self.sql.save_clean.execute([0])?;
        let ids = self.shared.ids.next_block();
        self.sql.save_next_id.execute([ids.end])?;
        told.write(self.now());
        self.sql.commit.execute([])?;
        self.shared.ids.add(ids);
        self.shared.set_tally(self.tally);
        self.count_notices();
        Ok(found)
    }

    /// whatever was claimed may have been sent, but for what is known not to have come to its dot.
    fn recover_claimed(
        &mut self,
        in_doubt: InDoubt,
        before: &Before,
        died: bool,
        found: &mut Recovery,
    ) -> Result<Told, Fault> {
        let mut ended = Ends::default();
        let mut told = Told::default();
        let mut poison: Option<(i64, Option<String>)> = None;
        let mut after = 0;
        loop {
            let page: Vec<i64> = self
                .sql
                .claimed
                .query_map([after, STEP], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let Some(&last) = page.last() else { break };
            after = last;
            for row in page {
                let Some(recipient) = self.find(row)? else {
                    continue;
                };
                let message = rows::message_of(row);
                if poison.as_ref().is_none_or(|(known, _)| *known != message) {
                    let reason = if died {
                        self.count_death(message)?
                    } else {
                        None
                    };
                    if let (Some(_), Some(id)) = (&reason, QueueId::new(message)) {
                        found.poisoned.push(id);
                    }
                    poison = Some((message, reason));
                }
                let reason = poison.as_ref().and_then(|(_, reason)| reason.as_deref());
                let sent = before.may_be_out(message, recipient.attempts);
                let in_doubt = sent.then_some(in_doubt);
                let state = self.cut_off(&recipient, in_doubt, reason, &mut ended)?;
                if let Ok(id) = rows::recipient_id(row) {
                    let (found, told) = if sent {
                        (&mut found.in_doubt, &mut told.in_doubt)
                    } else {
                        (&mut found.cut_off, &mut told.cut_off)
                    };
                    found.push(id);
                    told.push((id, state));
                }
            }
        }
        for message in self.close_messages(&ended)? {
            told.ended.push(self.ended(message)?);
        }
        // A lowered `dsn.collect` counts for what waits, and so does a clock that went back (RT-9).
        self.pull_notices()?;
        // The fellows of a poisoned recipient wait with it.
        for id in found.poisoned.clone() {
            let reason = self.poison_reason(id)?;
            self.hold_message(id, &reason)?;
        }
        Ok(told)
    }

    /// What becomes of a claim: in doubt, or without any, as nothing of it was sent. The state that it has now.
    fn cut_off(
        &mut self,
        found: &Found,
        in_doubt: Option<InDoubt>,
        poison: Option<&str>,
        ended: &mut Ends,
    ) -> Result<State, Fault> {
        let doubt = in_doubt.map(|_| rows::doubt_code(Some(Doubt::InDoubt)));
        if doubt.is_none() {
            self.take_back(found)?;
        }
        // the record of the attempt that was cut off.
        let started = found.last_attempt.unwrap_or(0);
        let cut_off = Kind::CutOff as i64;
        self.sql.insert_note.execute(params![
            found.id,
            found.attempts,
            cut_off,
            started,
            doubt.is_none().then_some(NOT_SENT),
            None::<i64>
        ])?;
        if matches!(found.wish, Wish::Drop | Wish::Fail) {
            let end = End {
                state: State::Dropped,
                blocker: "",
                doubt: doubt.unwrap_or(found.doubt),
                transport: None,
                dialled: None,
                unconfirmed: false,
            };
            return self.end_as_wished(found, &end, ended);
        }
        let wished =
            (found.wish == Wish::Hold).then(|| found.wish_text.clone().unwrap_or_default());
        let hold = match (poison, wished, in_doubt) {
            (Some(reason), _, _) => Some(reason.to_owned()),
            (None, Some(reason), _) => Some(reason),
            (None, None, Some(InDoubt::Hold)) => {
                Some("in doubt: claimed when the daemon died".into())
            }
            (None, None, Some(InDoubt::Retry) | None) => None,
        };
        let state = if hold.is_some() {
            State::Held
        } else {
            State::Queued
        };
        let blocker = hold.as_deref().unwrap_or(if doubt.is_some() {
            "in doubt: the daemon died during the attempt"
        } else {
            "the daemon died during the attempt, before the message was sent"
        });
        let code = rows::state_code(state);
        // RT-5: due after the back-off that the claim recorded.
        let now = self.now().millis();
        self.sql
            .doubt
            .execute(params![found.id, code, blocker, now, doubt])?;
        self.touched.insert(found.destination);
        self.tally.claimed -= 1;
        self.tally.count(code, 1);
        self.tally.doubt += i64::from(doubt.is_some() && found.doubt == 0);
        Ok(state)
    }

    /// one more death with this message claimed; the reason to hold it when it was one too many.
    fn count_death(&mut self, message: i64) -> Result<Option<String>, Fault> {
        let mut rows = self.sql.count_death.query([message])?;
        let deaths: Option<u32> = match rows.next()? {
            Some(row) => Some(row.get(0)?),
            None => None,
        };
        drop(rows);
        let (_, limit) = self.shared.limits();
        Ok(deaths
            .filter(|&deaths| limit > 0 && deaths >= limit)
            .map(death_reason))
    }

    fn poison_reason(&mut self, id: QueueId) -> Result<String, Fault> {
        let deaths = self.conn.query_row(
            "SELECT deaths FROM message WHERE id = ?1",
            [id.get()],
            |row| row.get(0),
        )?;
        Ok(death_reason(deaths))
    }

    /// Chunks staged for messages that never came; they are removed while the daemon already runs.
    fn count_orphans(&mut self) -> Result<u64, Fault> {
        let mut staged = self
            .conn
            .prepare("SELECT message FROM unowned WHERE kind = 0")?;
        let mut count = self
            .conn
            .prepare("SELECT count(*) FROM chunk WHERE id BETWEEN ?1 AND ?2")?;
        let mut orphans = 0;
        let mut found = staged.query([])?;
        while let Some(row) = found.next()? {
            let Some(id) = QueueId::new(row.get(0)?) else {
                continue;
            };
            let (first, last) = rows::row_range(id);
            let chunks: i64 = count.query_row([first, last], |row| row.get(0))?;
            orphans += u64::try_from(chunks).unwrap_or(0);
        }
        Ok(orphans)
    }
}

/// What the log has to say of a recovery.
#[derive(Default)]
struct Told {
    in_doubt: Vec<(RecipientId, State)>,
    cut_off: Vec<(RecipientId, State)>,
    ended: Vec<Ended>,
}

impl Told {
    /// the log names them before the commit that makes them due. After it the next start would not find them
    /// claimed, and a daemon that is killed once more before its log is written would never have said it.
    fn write(&self, now: Timestamp) {
        for (recipient, state) in &self.in_doubt {
            Line::new(state.word())
                .key("qid", recipient.message)
                .num("rcpt", recipient.number)
                .key("doubt", Doubt::InDoubt)
                .peer("reason", "the daemon ended during an attempt")
                .warn();
        }
        for (recipient, state) in &self.cut_off {
            Line::new(state.word())
                .key("qid", recipient.message)
                .num("rcpt", recipient.number)
                .peer("reason", "the daemon ended before the message was sent")
                .info();
        }
        for ended in &self.ended {
            Line::new("done")
                .num("qid", ended.message)
                .span("delay", now.since(ended.arrived))
                .info();
        }
        if !self.in_doubt.is_empty() {
            log::logger().flush();
        }
    }
}

fn death_reason(deaths: u32) -> String {
    format!("poison: the daemon died {deaths} times while it had this message claimed")
}
