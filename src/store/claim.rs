//! Claims: committed before the peer is contacted, and only of rows that are as the dispatcher saw them.

use rusqlite::{OptionalExtension, params};

use super::daily::Daily;
use super::fault::Fault;
use super::request::{Answer, Op};
use super::rows::{self, row_id};
use super::settle::{End, Ends, Found, Wish};
use super::writer::Writer;
use super::{DestinationKey, Settled, State, Store, StoreError, unexpected};
use crate::clock::Timestamp;
use crate::message::QueueId;

/// A request to claim recipients of one message for one transaction, or to move them to another destination.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The message.
    pub id: QueueId,
    /// Its recipients.
    pub numbers: Vec<u32>,
    /// The attempts each must have had; else it is left out.
    pub attempts: u32,
    /// What to do.
    pub action: ClaimAction,
}

/// What a [`ClaimRequest`] does.
#[derive(Clone, Debug)]
pub enum ClaimAction {
    /// Claim: attempts + 1, and this next attempt recorded in case the attempt is cut off.
    Claim {
        /// The back-off's next attempt.
        next_attempt: Timestamp,
        /// Where messages to the addresses are counted by the day.
        daily: Option<Daily>,
    },
    /// The route has changed: move to this destination, stay queued.
    Move {
        /// The new group.
        destination: DestinationKey,
    },
}

/// The answer to one [`ClaimRequest`], in the order of the requests.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The numbers that were claimed or moved.
    pub numbers: Vec<u32>,
    /// Others wait from now on until this time, because their addresses have had their share (SC-8).
    pub parked: Option<Timestamp>,
    /// Others have had theirs too, but this is their last attempt: they are due as they were, and to be claimed alone.
    pub left: bool,
    /// All that were claimed have had their share, which is so many a day: they are to end without contact.
    pub over: Option<u32>,
}

impl Store {
    /// Claims recipients for attempts, or moves them to another destination, in one commit. A recipient
    /// that is no longer as the request expects it is left out of the answer.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was claimed (or, if unknown, the daemon is going down).
    pub fn claim(&self, requests: Vec<ClaimRequest>) -> Result<Vec<Claimed>, StoreError> {
        match self.inner.ask(Op::Claim(requests))? {
            Answer::Claimed(claimed) => Ok(claimed),
            other => Err(unexpected(&other)),
        }
    }

    /// The claim of these recipients is given back without an attempt (RT-7, RT-6): attempts as before, due at `due`.
    /// With a `blocker`, that is why they wait from now on: a fault of our own that no peer had to do with (DV-19).
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub fn unclaim(
        &self,
        id: QueueId,
        numbers: &[u32],
        due: Timestamp,
        blocker: Option<&str>,
    ) -> Result<Settled, StoreError> {
        let op = Op::Unclaim {
            id,
            numbers: numbers.to_vec(),
            due,
            blocker: blocker.map(|text| rows::cut(text.to_owned())),
        };
        match self.inner.ask(op)? {
            Answer::Settled(settled) => Ok(settled),
            other => Err(unexpected(&other)),
        }
    }
}

impl Writer<'_> {
    /// Claims or moves; what has changed since it was read is left out.
    pub(super) fn claim(&mut self, requests: &[ClaimRequest]) -> Result<Vec<Claimed>, Fault> {
        let mut answer = Vec::with_capacity(requests.len());
        for request in requests {
            let mut claimed = Claimed {
                numbers: Vec::with_capacity(request.numbers.len()),
                ..Claimed::default()
            };
            match &request.action {
                ClaimAction::Claim {
                    next_attempt,
                    daily: None,
                } => {
                    for &number in &request.numbers {
                        if self.claim_one(request, number, *next_attempt, None)? {
                            claimed.numbers.push(number);
                        }
                    }
                }
                ClaimAction::Claim {
                    next_attempt,
                    daily: Some(daily),
                } => self.claim_counted(request, *next_attempt, daily, &mut claimed)?,
                ClaimAction::Move { destination } => {
                    for &number in &request.numbers {
                        if self.move_one(request, number, destination)? {
                            claimed.numbers.push(number);
                        }
                    }
                }
            }
            answer.push(claimed);
        }
        Ok(answer)
    }

    /// `counted`: the day at which it is, if it is (SC-8).
    pub(super) fn claim_one(
        &mut self,
        request: &ClaimRequest,
        number: u32,
        next_attempt: Timestamp,
        counted: Option<i64>,
    ) -> Result<bool, Fault> {
        let row = row_id(request.id, number);
        let (now, next) = (self.now().millis(), next_attempt.millis());
        // state and attempts are read again in the transaction that claims.
        let destination: Option<i64> = self
            .sql
            .claimable
            .query_row(params![row, request.attempts], |row| row.get(0))
            .optional()?;
        let Some(destination) = destination else {
            return Ok(false);
        };
        self.sql.claim.execute(params![row, now, next, counted])?;
        self.touched.insert(destination);
        self.tally.queued -= 1;
        self.tally.claimed += 1;
        Ok(true)
    }

    fn move_one(
        &mut self,
        request: &ClaimRequest,
        number: u32,
        destination: &DestinationKey,
    ) -> Result<bool, Fault> {
        let row = row_id(request.id, number);
        let Some(found) = self.find(row)? else {
            return Ok(false);
        };
        let to = self.destination(destination)?;
        let moved = self
            .sql
            .move_to
            .execute(params![row, request.attempts, to])?;
        if moved == 0 {
            return Ok(false);
        }
        self.touched.extend([found.destination, to]);
        Ok(true)
    }

    /// Gives claims back: no attempt was made (RT-7).
    pub(super) fn unclaim(
        &mut self,
        id: QueueId,
        numbers: &[u32],
        due: Timestamp,
        blocker: Option<&str>,
    ) -> Result<Settled, Fault> {
        let mut ended = Ends::default();
        let mut settled = Settled::default();
        for &number in numbers {
            let row = row_id(id, number);
            let Some(found) = self.find(row)?.filter(|found| found.is(State::Claimed)) else {
                log::error!("unclaim qid={id} rcpt={number} ignored: it is not claimed");
                continue;
            };
            let now = self.now();
            self.take_back(&found)?;
            self.sql
                .give_back
                .execute(params![row, due.millis(), now.millis(), blocker])?;
            if found.attempts == 1 {
                self.notice_due(now);
            }
            self.tally.claimed -= 1;
            self.tally.queued += 1;
            self.touched.insert(found.destination);
            let queued = Found {
                state: rows::state_code(State::Queued),
                attempts: found.attempts - 1,
                ..found
            };
            match queued.wish {
                Wish::None => {}
                Wish::Hold => {
                    let reason = queued.wish_text.clone().unwrap_or_default();
                    self.hold_row(&queued, &reason)?;
                    self.clear_wish(row)?;
                    settled.overruled.push((number, State::Held));
                }
                Wish::Drop | Wish::Fail => {
                    let end = End {
                        state: State::Dropped,
                        blocker: "",
                        doubt: queued.doubt,
                        transport: None,
                        dialled: None,
                        unconfirmed: false,
                    };
                    let state = self.end_as_wished(&queued, &end, &mut ended)?;
                    settled.overruled.push((number, state));
                }
            }
        }
        settled.finished = !self.close_messages(&ended)?.is_empty();
        Ok(settled)
    }
}
