//! What operators change (CTL-8, CTL-11 to CTL-14), and the pull after a backward clock step (RT-9).
//!
//! A reader finds the rows, a page at a time by key; the writer looks at each again before it changes it, so that the
//! outcome committed first stands (CTL-24).

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{OptionalExtension, params};

use super::daily::day_after;
use super::fault::Fault;
use super::request::{Answer, Op};
use super::settle::{End, Ends, Found, Wish};
use super::writer::Writer;
use super::{DestinationKey, Filter, State, Store, StoreError, list, rows, unexpected};
use crate::clock::Timestamp;
use crate::message::{RecipientId, RequireTls};
use crate::smtp::address::ForwardPath;

/// Who asks for a change.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The uid from the socket's peer credentials.
    pub uid: u32,
}

/// An operator's change (CTL-11 to CTL-14).
#[derive(Clone, Debug)]
pub enum Change {
    /// Queued recipients become due at this time.
    Kick {
        /// When.
        at: Timestamp,
    },
    /// Final dropped, no DSN.
    Drop {
        /// Claimed ones too, once their attempt ends undelivered.
        wait: bool,
    },
    /// Final failed, with this text and status 5.7.0.
    Fail {
        /// For the sender.
        text: String,
        /// Claimed ones too, once their attempt ends undelivered.
        wait: bool,
    },
    /// Held, with this reason.
    Hold {
        /// Why.
        reason: String,
    },
    /// Queued again, `next` as it was.
    Release,
    /// The transport from the next attempt on; `None` for the routes' own choice.
    Route {
        /// Its name.
        transport: Option<String>,
        /// The group the recipients wait in from now on; `None`: their domain's.
        destination: Option<DestinationKey>,
    },
    /// What the whole message requires of TLS, from the next attempt on.
    RequireTls {
        /// The wish.
        value: RequireTls,
    },
}

/// One row that a change touched or would touch.
#[derive(Clone, Debug)]
pub struct ChangedRow {
    /// The recipient.
    pub id: RecipientId,
    /// Its forward-path.
    pub path: ForwardPath,
    /// The group it waits in, to wake the dispatcher.
    pub destination: DestinationKey,
    /// With it the last recipient of the message reached its end; when the message was accepted.
    pub finished: Option<Timestamp>,
}

/// What a change did.
#[derive(Clone, Debug, Default)]
pub struct ChangeReport {
    /// Rows affected.
    pub affected: u64,
    /// Matching rows left out because a worker has them.
    pub claimed: u64,
}

impl Store {
    /// An operator's change to all matching recipients, in transactions of at most 10 000 rows (CTL-8). `each` is
    /// called for every row after the commit that holds it; with `dry_run` nothing changes and `each` sees what would.
    ///
    /// # Errors
    /// [`StoreError`]; steps already committed stand, and `each` has seen them.
    pub fn change(
        &self,
        filter: &Filter,
        change: &Change,
        actor: &Actor,
        dry_run: bool,
        each: &mut dyn FnMut(&ChangedRow),
    ) -> Result<ChangeReport, StoreError> {
        let mut report = ChangeReport::default();
        for source in list::sources(filter, change) {
            let mut after = Some(0);
            while let Some(from) = after {
                let (found, next) = self
                    .inner
                    .readers
                    .read(|conn| list::page(conn, filter, source, from))?;
                after = next;
                let (hits, ended) = self.change_page(&found, change, actor, dry_run)?;
                let mut ended: HashMap<i64, Timestamp> = ended
                    .into_iter()
                    .map(|ended| (ended.message, ended.arrived))
                    .collect();
                // Told with the last row of the message, and rows of a page are in the order of their ids.
                let mut rows = found.iter().zip(hits).peekable();
                while let Some((row, hit)) = rows.next() {
                    let message = rows::message_of(row.row);
                    let goes_on = rows
                        .peek()
                        .is_some_and(|(next, _)| rows::message_of(next.row) == message);
                    let finished = if goes_on {
                        None
                    } else {
                        ended.remove(&message)
                    };
                    report_hit(row, hit, finished, &mut report, each);
                }
            }
        }
        Ok(report)
    }

    fn change_page(
        &self,
        found: &[list::Candidate],
        change: &Change,
        actor: &Actor,
        dry_run: bool,
    ) -> Result<(Vec<Hit>, Vec<Ended>), StoreError> {
        if found.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        if dry_run {
            let would = |row: &list::Candidate| concerns(change, row.state);
            return Ok((found.iter().map(would).collect(), Vec::new()));
        }
        let step = ChangeStep {
            rows: found.iter().map(|row| row.row).collect(),
            change: change.clone(),
            uid: actor.uid,
        };
        match self.inner.ask(Op::Change(step))? {
            Answer::Changed(hits, ended) => Ok((hits, ended)),
            other => Err(unexpected(&other)),
        }
    }

    /// RT-9: after the clock went back, lets no recipient wait beyond `horizon` because of an arrival, an attempt or a claim
    /// given back that now lies in the future. Times that were asked for stay. Says how many rows changed.
    ///
    /// # Errors
    /// [`StoreError`]; steps already committed stand.
    pub fn pull_in(&self, horizon: Timestamp) -> Result<u64, StoreError> {
        let now = self.inner.clock.now();
        let mut changed = 0;
        let mut after = Some((i64::MAX, i64::MAX));
        while let Some(from) = after {
            let op = Op::PullIn {
                now,
                horizon,
                after: from,
            };
            match self.inner.ask(op)? {
                Answer::PulledIn(count, next) => {
                    changed += count;
                    after = next;
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(changed)
    }
}

fn report_hit(
    row: &list::Candidate,
    hit: Hit,
    finished: Option<Timestamp>,
    report: &mut ChangeReport,
    each: &mut dyn FnMut(&ChangedRow),
) {
    match hit {
        Hit::Left => {}
        Hit::Claimed => report.claimed += 1,
        Hit::Changed(moved) => {
            report.affected += 1;
            let id = rows::recipient_id(row.row);
            // A damaged address is changed like any other; there is only nothing to tell of it.
            if let (Ok(id), Ok(path)) = (id, rows::forward_path(&row.address)) {
                each(&ChangedRow {
                    id,
                    path,
                    destination: moved.unwrap_or_else(|| row.destination.clone()),
                    finished,
                });
            }
        }
    }
}

/// Rows per transaction (CTL-8).
pub(super) const STEP: usize = 10_000;

/// Status of a recipient that an operator fails (CTL-12).
const FAIL_STATUS: &str = "5.7.0";

/// A change to some rows, by their row ids.
pub(super) struct ChangeStep {
    pub(super) rows: Arc<[i64]>,
    pub(super) change: Change,
    pub(super) uid: u32,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    /// Changed, and it waits in this group now if that is new.
    Changed(Option<DestinationKey>),
    /// A worker has it.
    Claimed,
    /// The change does not concern it (any more).
    Left,
}

/// What a change would do to a row in a state; the dry run and the writer ask the same.
pub(super) fn concerns(change: &Change, state: State) -> Hit {
    let changed = Hit::Changed(None);
    match (change, state) {
        (_, State::Delivered | State::Failed | State::Expired | State::Dropped) => Hit::Left,
        // CTL-11: held recipients are not touched and not counted.
        (Change::Kick { .. }, State::Queued) => changed,
        (Change::Kick { .. }, State::Held) => Hit::Left,
        (Change::Drop { .. } | Change::Fail { .. }, State::Queued | State::Held) => changed,
        (Change::Drop { wait: true } | Change::Fail { wait: true, .. }, State::Claimed) => changed,
        (Change::Kick { .. } | Change::Drop { .. } | Change::Fail { .. }, State::Claimed) => {
            Hit::Claimed
        }
        // A claimed recipient is held when its attempt ends undelivered.
        (Change::Hold { .. }, State::Queued | State::Claimed) => changed,
        (Change::Hold { .. }, State::Held) => Hit::Left,
        (Change::Release, State::Held) => changed,
        (Change::Release, State::Queued | State::Claimed) => Hit::Left,
        // From the next attempt on.
        (
            Change::Route { .. } | Change::RequireTls { .. },
            State::Queued | State::Held | State::Claimed,
        ) => changed,
    }
}

/// A message whose last recipient was ended by a change.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) message: i64,
    /// When it was accepted.
    pub(super) arrived: Timestamp,
}

impl Writer<'_> {
    pub(super) fn change(&mut self, step: &ChangeStep) -> Result<(Vec<Hit>, Vec<Ended>), Fault> {
        let mut ended = Ends::default();
        let mut hits = Vec::with_capacity(step.rows.len());
        for &row in step.rows.iter() {
            let hit = match self.find(row)? {
                Some(found) => self.change_one(&found, step, &mut ended)?,
                None => Hit::Left,
            };
            hits.push(hit);
        }
        let closed = self.close_messages(&ended)?;
        let closed = closed.into_iter().map(|message| self.ended(message));
        Ok((hits, closed.collect::<Result<_, Fault>>()?))
    }

    /// What the log says of a message that has ended outside of an attempt.
    pub(super) fn ended(&mut self, message: i64) -> Result<Ended, Fault> {
        let arrived = self.sql.arrived.query_row([message], |row| row.get(0))?;
        Ok(Ended {
            message,
            arrived: Timestamp::from_millis(arrived),
        })
    }

    fn change_one(
        &mut self,
        found: &Found,
        step: &ChangeStep,
        ended: &mut Ends,
    ) -> Result<Hit, Fault> {
        let state = rows::state(found.state).map_err(|damage| Fault::rejected(damage.0))?;
        if matches!(step.change, Change::Release)
            && state == State::Claimed
            && found.wish == Wish::Hold
        {
            self.clear_wish(found.id)?;
            return Ok(Hit::Changed(None));
        }
        let hit = concerns(&step.change, state);
        if hit != Hit::Changed(None) {
            return Ok(hit);
        }
        let claimed = state == State::Claimed;
        match &step.change {
            Change::Kick { at } => {
                // RT-6: neither count nor expiry change.
                self.sql.set_next.execute(params![found.id, at.millis()])?;
                self.touched.insert(found.destination);
            }
            Change::Drop { .. } if claimed => self.set_wish(found, Wish::Drop, "", step.uid)?,
            Change::Fail { text, .. } if claimed => {
                self.set_wish(found, Wish::Fail, &fail_text(text), step.uid)?;
            }
            Change::Hold { reason } if claimed => {
                // A wish to end it is not weakened.
                if matches!(found.wish, Wish::None | Wish::Hold) {
                    self.set_wish(found, Wish::Hold, reason, step.uid)?;
                }
            }
            Change::Drop { .. } => self.cancel(found, State::Dropped, "", step.uid, ended)?,
            Change::Fail { text, .. } => {
                self.cancel(found, State::Failed, &fail_text(text), step.uid, ended)?;
            }
            Change::Hold { reason } => self.hold_row(found, reason)?,
            Change::Release => {
                // The reason of the hold is none any more.
                let reply = self.last_reply(found.id)?;
                self.sql.release_held.execute(params![found.id, reply])?;
                self.touched.insert(found.destination);
                self.tally.held -= 1;
                self.tally.queued += 1;
            }
            Change::RequireTls { value } => {
                let message = found.id >> 20;
                self.sql
                    .set_require_tls
                    .execute(params![message, rows::require_tls(*value)])?;
            }
            Change::Route {
                transport,
                destination,
            } => {
                let key = destination
                    .clone()
                    .unwrap_or_else(|| DestinationKey(found.domain.as_str().into()));
                let to = self.destination(&key)?;
                self.sql
                    .set_route
                    .execute(params![found.id, transport, to])?;
                self.touched.extend([found.destination, to]);
                return Ok(Hit::Changed(Some(key)));
            }
        }
        Ok(hit)
    }

    fn set_wish(&mut self, found: &Found, wish: Wish, text: &str, uid: u32) -> Result<(), Fault> {
        self.sql
            .set_wish
            .execute(params![found.id, wish as i64, text, uid])?;
        Ok(())
    }

    fn cancel(
        &mut self,
        found: &Found,
        state: State,
        text: &str,
        uid: u32,
        ended: &mut Ends,
    ) -> Result<(), Fault> {
        self.note_operator(found, text, Some(i64::from(uid)))?;
        let blocker = if text.is_empty() {
            "canceled by operator"
        } else {
            text
        };
        let end = End {
            state,
            blocker,
            doubt: found.doubt,
            transport: None,
            dialled: None,
            unconfirmed: false,
        };
        self.end(found, &end, ended)
    }

    /// What the last attempt met; empty without any.
    fn last_reply(&mut self, row: i64) -> Result<String, Fault> {
        let found = self.sql.last_reply.query_row([row], |row| {
            let text = |at| {
                row.get::<_, Option<String>>(at)
                    .map(Option::unwrap_or_default)
            };
            Ok(rows::words(row.get(0)?, text(1)?, text(2)?))
        });
        Ok(found.optional()?.unwrap_or_default())
    }

    /// RT-9: after a backward step, no row that waits because of an attempt or an arrival in the future waits longer than
    /// to `horizon`. Rows that were put off on purpose, by a time asked for, stay.
    pub(super) fn pull_in(
        &mut self,
        now: Timestamp,
        horizon: Timestamp,
        after: (i64, i64),
    ) -> Result<Answer, Fault> {
        if after.0 == i64::MAX {
            self.pull_notices()?;
        }
        let (now, horizon) = (now.millis(), horizon.millis());
        let page: Vec<[i64; 7]> = self
            .sql
            .far_ahead
            .query_map(params![horizon, after.0, after.1, STEP as i64], |row| {
                Ok([
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get::<_, Option<i64>>(6)?.unwrap_or(0),
                ])
            })?
            .collect::<rusqlite::Result<_>>()?;
        let mut changed = 0;
        // What is parked waits for a midnight that may not be the next one any more.
        let midnight = day_after(Timestamp::from_millis(now)).millis();
        for [id, next, state, destination, last_attempt, arrived, parked] in &page {
            let strayed = *parked > 0 && *next > midnight;
            if (*last_attempt).max(*arrived) > now || strayed {
                self.sql.pull_in.execute([*id, horizon])?;
                changed += 1;
                if *state == rows::state_code(State::Queued) {
                    self.touched.insert(*destination);
                }
            }
        }
        let more = (page.len() == STEP).then(|| page.last().map(|row| (row[1], row[0])));
        Ok(Answer::PulledIn(changed, more.flatten()))
    }
}

fn fail_text(text: &str) -> String {
    rows::cut(format!("{FAIL_STATUS} {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // CTL-11, CTL-12, CTL-13
    #[test]
    fn claimed_and_held_recipients_are_left_out_where_the_verb_says_so() {
        let kick = Change::Kick {
            at: Timestamp::from_secs(1),
        };
        assert_eq!(concerns(&kick, State::Queued), Hit::Changed(None));
        assert_eq!(concerns(&kick, State::Claimed), Hit::Claimed);
        assert_eq!(concerns(&kick, State::Held), Hit::Left);
        let drop = |wait| Change::Drop { wait };
        assert_eq!(concerns(&drop(false), State::Claimed), Hit::Claimed);
        assert_eq!(concerns(&drop(true), State::Claimed), Hit::Changed(None));
        assert_eq!(concerns(&drop(true), State::Delivered), Hit::Left);
        assert_eq!(concerns(&Change::Release, State::Queued), Hit::Left);
    }
}
