//! Outcomes: what becomes of claimed recipients, and the end of recipients and messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{OptionalExtension, Row, params};

use super::accept::CHUNK;
use super::fault::Fault;
use super::request::{Answer, Op};
use super::rows::{self, Kind, row_id, row_range};
use super::sweep::SWEEP_STEP;
use super::writer::Writer;
use super::{DestinationKey, Doubt, State, Store, StoreError, unexpected};
use crate::clock::Timestamp;
use crate::message::QueueId;
use crate::policy::failure::{Attempt, Cause, Verdict};

/// A sweep step is bounded in octets by the size of a chunk: at most 4 MiB.
const _: () = assert!(CHUNK as i64 * SWEEP_STEP <= 4 << 20);

/// Rows of one message held per page.
const HOLD_STEP: i64 = 1000;

/// The outcomes of one transaction.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The message.
    pub id: QueueId,
    /// One per recipient of the transaction.
    pub outcomes: Vec<Outcome>,
}

/// The outcome for one recipient.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The recipient's number.
    pub number: u32,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The group it waits in from now on, if it stays queued: routes may depend on attempts (RO-2).
    pub destination: DestinationKey,
    /// What is recorded.
    pub attempt: Attempt,
    /// When its sender is to be told next that it is still here, should it stay (RT-8), by the settings of now.
    pub delay_due: Option<Timestamp>,
    /// Delivered, the sender asked to be told, and the next hop does not confirm (RFC 3461 §5.2.2).
    pub unconfirmed: bool,
    /// The unit of work panicked or hung: counted towards poison.
    pub poison: bool,
}

/// What became of a settlement, or of claims that were given back, beyond what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The last recipient of the message has reached its end.
    pub finished: bool,
    /// Recipients that have another state now, by number: what an operator asked for while they were claimed, or the
    /// poison limit, came first.
    pub overruled: Vec<(u32, State)>,
}

impl Store {
    /// Records the outcome of an attempt for the recipients of a transaction in one commit, and applies
    /// what an operator asked for with `wait` meanwhile. True when all recipients of the message are final now.
    ///
    /// # Errors
    /// [`StoreError`]; the recipients stay claimed, in doubt after a restart.
    pub fn settle(&self, settlement: impl Into<Arc<Settlement>>) -> Result<Settled, StoreError> {
        match self.inner.ask(Op::Settle(settlement.into()))? {
            Answer::Settled(settled) => Ok(settled),
            other => Err(unexpected(&other)),
        }
    }
}

impl Store {
    /// The same for somebody who does not wait: `then` is told by a thread of the store, after the commit, and must not wait
    /// for anybody. After the end of the store it is told by the caller's own thread.
    pub fn settle_then(
        &self,
        settlement: Arc<Settlement>,
        then: impl FnOnce(Result<Settled, StoreError>) + Send + 'static,
    ) {
        let told = move |answer| {
            then(match answer {
                Ok(Answer::Settled(settled)) => Ok(settled),
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(error),
            });
        };
        self.inner.ask_then(Op::Settle(settlement), Box::new(told));
    }
}

/// What an operator asked for while the recipient was claimed (CTL-12); stored as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    None = 0,
    Drop = 1,
    Fail = 2,
    Hold = 3,
}

/// The facts of a recipient that decide what may become of it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) id: i64,
    pub(super) state: i64,
    pub(super) destination: i64,
    pub(super) attempts: i64,
    pub(super) last_attempt: Option<i64>,
    pub(super) alone: bool,
    pub(super) doubt: i64,
    pub(super) domain: String,
    pub(super) dialled: Option<String>,
    pub(super) wish: Wish,
    pub(super) wish_text: Option<String>,
    pub(super) wish_uid: Option<i64>,
    /// The day at which the running attempt is counted (SC-8).
    pub(super) counted: Option<i64>,
}

impl Found {
    fn read(id: i64, row: &Row<'_>) -> rusqlite::Result<Found> {
        Ok(Found {
            id,
            state: row.get(0)?,
            destination: row.get(1)?,
            attempts: row.get(2)?,
            last_attempt: row.get(3)?,
            alone: row.get(4)?,
            doubt: row.get(5)?,
            domain: row.get(6)?,
            dialled: row.get(7)?,
            wish: match row.get::<_, i64>(8)? {
                1 => Wish::Drop,
                2 => Wish::Fail,
                3 => Wish::Hold,
                _ => Wish::None,
            },
            wish_text: row.get(9)?,
            wish_uid: row.get(10)?,
            counted: row.get(11)?,
        })
    }

    pub(super) fn is(&self, state: State) -> bool {
        self.state == rows::state_code(state)
    }

    pub(super) fn is_final(&self) -> bool {
        self.state >= rows::state_code(State::Delivered)
    }
}

/// What a recipient becomes for good.
pub(super) struct End<'a> {
    pub(super) state: State,
    pub(super) blocker: &'a str,
    pub(super) doubt: i64,
    pub(super) transport: Option<&'a str>,
    pub(super) dialled: Option<&'a str>,
    /// Delivered, and the next hop will not confirm it to a sender who asked.
    pub(super) unconfirmed: bool,
}

impl Writer<'_> {
    pub(super) fn find(&mut self, row: i64) -> Result<Option<Found>, Fault> {
        Ok(self
            .sql
            .find_recipient
            .query_row([row], |found| Found::read(row, found))
            .optional()?)
    }

    /// Records the outcomes of one transaction.
    pub(super) fn settle(&mut self, settlement: &Settlement) -> Result<Settled, Fault> {
        let id = settlement.id;
        let poisoned = if settlement.outcomes.iter().any(|outcome| outcome.poison) {
            self.count_fault(id)?
        } else {
            None
        };
        // Recipients that reach their end, to close the message once.
        let mut ended = Ends::default();
        let mut settled = Settled::default();
        for outcome in &settlement.outcomes {
            let overruled = self.settle_one(id, outcome, poisoned.as_deref(), &mut ended)?;
            settled
                .overruled
                .extend(overruled.map(|state| (outcome.number, state)));
        }
        settled.finished = !self.close_messages(&ended)?.is_empty();
        if let Some(reason) = poisoned {
            self.hold_message(id, &reason)?;
        }
        Ok(settled)
    }

    /// one more panic or hang; the reason to hold the message when it was one too many.
    fn count_fault(&mut self, id: QueueId) -> Result<Option<String>, Fault> {
        let faults: Option<u32> = self
            .sql
            .count_fault
            .query_row([id.get()], |row| row.get(0))
            .optional()?;
        let (_, limit) = self.shared.limits();
        Ok(faults
            .filter(|&faults| limit > 0 && faults >= limit)
            .map(|faults| format!("poison: {faults} panics or hangs of the worker that had it")))
    }

    /// The state, if it is another than the verdict says.
    fn settle_one(
        &mut self,
        id: QueueId,
        outcome: &Outcome,
        poisoned: Option<&str>,
        ended: &mut Ends,
    ) -> Result<Option<State>, Fault> {
        let row = row_id(id, outcome.number);
        let Some(found) = self.find(row)? else {
            return Err(Fault::rejected(format!(
                "{id}/{}: no such recipient",
                outcome.number
            )));
        };
        let attempt = &outcome.attempt;
        let claimed = found.is(State::Claimed);
        // CTL-24: the outcome committed first stands. Only a delivery is news for a row that is not claimed.
        if found.is_final() || (!claimed && outcome.verdict != Verdict::Delivered) {
            log::error!(
                "settle qid={id} rcpt={} ignored: it is not claimed",
                outcome.number
            );
            return Ok(None);
        }
        if outcome.verdict != Verdict::Delivered && !attempt.may_be_sent_twice {
            self.take_back(&found)?;
        }
        self.insert_attempt(row, found.attempts, attempt)?;
        let doubt = if attempt.may_be_sent_twice {
            rows::doubt_code(Some(Doubt::MayBeSentTwice))
        } else {
            found.doubt
        };
        // Most attempts dial nothing new, or nothing at all on a reused session.
        let dialled = if attempt.dialled.is_empty() {
            found.dialled.clone()
        } else {
            rows::merge_dialled(found.dialled.as_deref(), &attempt.dialled)
        };
        let blocker = match outcome.verdict {
            Verdict::Delivered => String::new(),
            _ => rows::blocker(attempt),
        };
        let end = |state| End {
            state,
            blocker: &blocker,
            doubt,
            transport: Some(&attempt.transport),
            dialled: dialled.as_deref(),
            unconfirmed: outcome.unconfirmed,
        };
        let last = match outcome.verdict {
            Verdict::Delivered => Some(State::Delivered),
            _ if matches!(found.wish, Wish::Drop | Wish::Fail) => {
                let state = self.end_as_wished(&found, &end(State::Dropped), ended)?;
                return Ok(Some(state));
            }
            Verdict::Failed => Some(State::Failed),
            Verdict::Expired => Some(State::Expired),
            Verdict::Deferred { .. } | Verdict::Held => None,
        };
        if let Some(state) = last {
            self.end(&found, &end(state), ended)?;
            return Ok(None);
        }
        let next = match outcome.verdict {
            Verdict::Deferred { next } => Some(next),
            _ => None,
        };
        let hold = match (poisoned, found.wish) {
            (Some(reason), _) => Some(reason.to_owned()),
            (None, Wish::Hold) => found.wish_text.clone(),
            (None, _) => next.is_none().then(|| blocker.clone()),
        };
        let state = if hold.is_some() {
            State::Held
        } else {
            State::Queued
        };
        let destination = self.destination(&outcome.destination)?;
        let state = rows::state_code(state);
        // A held row keeps the next attempt that its claim recorded.
        let next = next.map_or_else(|| self.next_attempt_of(row), |next| Ok(next.millis()))?;
        self.sql.defer.execute(params![
            row,
            state,
            next,
            destination,
            hold.as_deref().unwrap_or(&blocker),
            doubt,
            attempt.transport,
            dialled,
            outcome.delay_due.map(Timestamp::millis),
            self.now().millis(),
        ])?;
        if let Some(due) = outcome.delay_due {
            self.notice_due(due);
        }
        self.touched.insert(destination);
        self.tally.count(found.state, -1);
        self.tally.count(state, 1);
        self.tally.doubt += i64::from(doubt != 0) - i64::from(found.doubt != 0);
        Ok((hold.is_some() && outcome.verdict != Verdict::Held).then_some(State::Held))
    }

    fn next_attempt_of(&mut self, row: i64) -> Result<i64, Fault> {
        Ok(self
            .sql
            .next_attempt
            .query_row([row], |found| found.get(0))?)
    }

    /// What an operator asked for with `wait`: the attempt has ended undelivered. The state that it has now.
    pub(super) fn end_as_wished(
        &mut self,
        found: &Found,
        end: &End<'_>,
        ended: &mut Ends,
    ) -> Result<State, Fault> {
        let text = found.wish_text.clone().unwrap_or_default();
        self.note_operator(found, &text, found.wish_uid)?;
        let failing = found.wish == Wish::Fail;
        let wished = End {
            state: if failing {
                State::Failed
            } else {
                State::Dropped
            },
            blocker: if failing { &text } else { end.blocker },
            ..*end
        };
        self.end(found, &wished, ended)?;
        Ok(wished.state)
    }

    /// `canceled by operator` and the uid, in history (CTL-12).
    pub(super) fn note_operator(
        &mut self,
        found: &Found,
        text: &str,
        uid: Option<i64>,
    ) -> Result<(), Fault> {
        let now = self.now().millis();
        let kind = Kind::Operator as i64;
        self.sql
            .insert_note
            .execute(params![found.id, found.attempts, kind, now, text, uid])?;
        Ok(())
    }

    /// The end of a recipient, of whatever cause; all ends go through here.
    ///
    /// What a final state causes joins its transaction: what the sender is to be told is a further row, and so will
    /// be the event. A failure of either undoes the final state with it.
    pub(super) fn end(
        &mut self,
        found: &Found,
        end: &End<'_>,
        ended: &mut Ends,
    ) -> Result<(), Fault> {
        let now = self.now().millis();
        self.sql.finish.execute(params![
            found.id,
            rows::state_code(end.state),
            now,
            end.blocker,
            end.doubt,
            end.transport,
            end.dialled,
        ])?;
        if found.is(State::Queued) {
            self.touched.insert(found.destination);
        }
        self.tally.count(found.state, -1);
        self.tally.doubt -= i64::from(found.doubt != 0);
        let told = self.note_end(found, end.state, end.unconfirmed)?;
        ended.add(found, told);
        Ok(())
    }

    /// Messages whose last recipient has ended: their content is freed at once, or when the sender has been told.
    /// Which they are.
    pub(super) fn close_messages(&mut self, ended: &Ends) -> Result<Vec<i64>, Fault> {
        let mut closed_now = ended.told.clone();
        for &message in &ended.alone {
            self.sql.delete_chunk.execute([message << 20])?;
            closed_now.push(message);
        }
        for (&message, &count) in &ended.counted {
            let closed: Option<(i64, i64)> = self
                .sql
                .close_some
                .query_row([message, count], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((0, chunks)) = closed else { continue };
            closed_now.push(message);
            if self.has_notice(message)? {
                continue;
            }
            if chunks == 1 {
                self.sql.delete_chunk.execute([message << 20])?;
            } else if chunks > 1 {
                // Freeing a large content takes long; it goes in steps, between the transactions of others.
                self.sql.mark_unowned.execute([message, 1])?;
                self.sweep = true;
            }
        }
        self.tally.messages -= closed_now.len() as i64;
        Ok(closed_now)
    }

    fn insert_attempt(&mut self, row: i64, ordinal: i64, attempt: &Attempt) -> Result<(), Fault> {
        let delays = attempt.delays.map(rows::millis);
        self.sql.insert_attempt.execute(params![
            row,
            ordinal,
            attempt.started.millis(),
            rows::millis(attempt.duration),
            delays[0],
            delays[1],
            delays[2],
            delays[3],
            attempt.transport,
            attempt.host,
            attempt.address.map(|address| address.to_string()),
            rows::join_addresses(&attempt.dialled),
            attempt.source.map(|source| source.to_string()),
            rows::level_name(attempt.tls),
            rows::stage_name(attempt.stage),
            attempt.code.map(|code| code.get()),
            attempt.status.to_string(),
            attempt.text,
            attempt.cause.map(Cause::word),
            attempt.may_be_sent_twice,
            attempt.worker,
            attempt.reused,
            attempt.tls_policy,
        ])?;
        Ok(())
    }

    pub(super) fn clear_wish(&mut self, row: i64) -> Result<(), Fault> {
        let none = Wish::None as i64;
        self.sql
            .set_wish
            .execute(params![row, none, None::<String>, None::<i64>])?;
        Ok(())
    }

    /// A queued row becomes held.
    pub(super) fn hold_row(&mut self, found: &Found, reason: &str) -> Result<(), Fault> {
        self.sql.hold.execute(params![found.id, reason])?;
        self.touched.insert(found.destination);
        self.tally.queued -= 1;
        self.tally.held += 1;
        Ok(())
    }

    /// Holds what is queued of a message, and what is claimed once its attempt ends undelivered.
    pub(super) fn hold_message(&mut self, id: QueueId, reason: &str) -> Result<(), Fault> {
        let (mut after, last) = row_range(id);
        loop {
            let page: Vec<i64> = self
                .sql
                .open_of_message
                .query_map([after, last, HOLD_STEP], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            let Some(&end) = page.last() else {
                return Ok(());
            };
            after = end;
            for row in page {
                let Some(found) = self.find(row)? else {
                    continue;
                };
                if found.is(State::Queued) {
                    self.hold_row(&found, reason)?;
                } else if found.is(State::Claimed) && found.wish == Wish::None {
                    let hold = Wish::Hold as i64;
                    self.sql
                        .set_wish
                        .execute(params![row, hold, reason, None::<i64>])?;
                }
            }
        }
    }
}

/// Recipients that ended in one request, per message.
#[derive(Default)]
pub(super) struct Ends {
    /// Messages that ended with their only recipient, and of which nothing is to be told.
    alone: Vec<i64>,
    /// The others that ended with their only recipient.
    told: Vec<i64>,
    /// How many ended of the others.
    counted: BTreeMap<i64, i64>,
}

impl Ends {
    fn add(&mut self, found: &Found, told: bool) {
        let message = rows::message_of(found.id);
        if found.alone && told {
            self.told.push(message);
        } else if found.alone {
            self.alone.push(message);
        } else {
            *self.counted.entry(message).or_insert(0) += 1;
        }
    }
}
