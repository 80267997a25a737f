//! What senders are to be told: written with the state that causes it, read when it is due, and gone in the transaction
//! that queues the notification (Q-10, DSN-3). Who is told what is `policy::notice`'s word.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::accept::enqueue_inline;
use super::fault::Fault;
use super::pending::SUMMARY_AFTER;
use super::request::{Answer, Enqueue, Op};
use super::rows::{self, row_range};
use super::settle::Found;
use super::writer::Writer;
use super::{NewMessage, State, Store, StoreError};
use crate::clock::Timestamp;
use crate::config::Rate;
use crate::log::Line;
use crate::message::dsn::Action;
use crate::message::{Notify, QueueId};
use crate::policy::notice;

/// Rows of `notified` that are tidied away with each notification.
const TIDY: i64 = 16;

/// When the first attempt of a recipient is still running, its delay is looked at again after this time.
const POSTPONE_MILLIS: i64 = 60_000;

/// What a notification is about; also how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// Given up.
    Failed = 0,
    /// Still here.
    Delayed = 1,
    /// Gone to a host that does not confirm.
    Success = 2,
}

impl NoticeKind {
    pub(super) fn from_code(code: i64) -> Option<NoticeKind> {
        match code {
            0 => Some(NoticeKind::Failed),
            1 => Some(NoticeKind::Delayed),
            2 => Some(NoticeKind::Success),
            _ => None,
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayNoted {
    /// Which.
    pub row: i64,
    /// The age that has been reached and is told now; `None`: nothing to tell, only the next time changes.
    pub told: Option<Duration>,
    /// When to look at it again.
    pub next: Option<Timestamp>,
}

impl Store {
    /// Writes down that senders are to be told of these delays, and when to look at each again. Rows that are finished,
    /// held, or at their first attempt are passed over.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn note_delays(&self, rows: Vec<DelayNoted>) -> Result<(), StoreError> {
        self.inner.ask(Op::Delays(rows)).map(drop)
    }

    /// Queues the notification about `numbers` of a message and strikes them from the list, in one commit; without a
    /// `message` only strikes them. With a `share`, an address that has had that many is sent nothing: `Ok(false)`.
    ///
    /// # Errors
    /// [`StoreError`]; they stay on the list, unless the outcome is unknown.
    pub fn send_notice(
        &self,
        id: QueueId,
        kind: NoticeKind,
        numbers: Vec<u32>,
        message: Option<NewMessage>,
        share: Option<(String, crate::config::Rate)>,
    ) -> Result<bool, StoreError> {
        let tells = message.is_some();
        let message = message.map(enqueue_inline).transpose()?;
        let answer = self.inner.ask(Op::Notice(SendNotice {
            id,
            kind,
            numbers,
            message,
            share,
        }))?;
        let withheld = matches!(answer, Answer::Withheld);
        if tells && !withheld {
            self.inner.shared.metrics.notice(kind as usize);
        }
        Ok(!withheld)
    }

    /// Puts a notice off that cannot be sent now.
    ///
    /// # Errors
    /// [`StoreError`]; it stays due.
    pub fn postpone_notice(
        &self,
        id: QueueId,
        kind: NoticeKind,
        due: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.ask(Op::Postpone { id, kind, due }).map(drop)
    }

    /// Counts a notice that can be sent to nobody; whoever says so has logged it (DSN-10).
    pub fn count_lost_notice(&self) {
        self.inner.shared.count_notices(1, 0);
    }

    /// Strikes them from that list, in one commit with the summary that tells of them.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn send_summary(
        &self,
        addresses: Vec<String>,
        message: Option<NewMessage>,
    ) -> Result<(), StoreError> {
        let message = message.map(enqueue_inline).transpose()?;
        self.inner.ask(Op::Summary { addresses, message }).map(drop)
    }
}

/// A notification to queue, and the rows it answers.
pub(super) struct SendNotice {
    pub(super) id: QueueId,
    pub(super) kind: NoticeKind,
    pub(super) numbers: Vec<u32>,
    /// None: the rows are struck without telling anybody.
    pub(super) message: Option<Enqueue>,
    /// Whose share it is counted to, and the share (DSN-11).
    pub(super) share: Option<(String, Rate)>,
}

impl Writer<'_> {
    /// Called at the end of a recipient: its sender is told of a failure, or of a success that nobody else confirms.
    /// True when there is something to tell.
    pub(super) fn note_end(
        &mut self,
        found: &Found,
        state: State,
        unconfirmed: bool,
    ) -> Result<bool, Fault> {
        let (kind, action) = match state {
            State::Failed | State::Expired => (NoticeKind::Failed, Action::Failed),
            State::Delivered if unconfirmed => (NoticeKind::Success, Action::Relayed),
            // DSN-1: nothing on an operator's drop.
            _ => return Ok(false),
        };
        self.note(found.id, kind, action, self.shared.collect())
    }

    fn note(
        &mut self,
        row: i64,
        kind: NoticeKind,
        action: Action,
        collect: std::time::Duration,
    ) -> Result<bool, Fault> {
        let (notify, answerable, ours, required): (i64, bool, bool, bool) =
            self.sql.notice_facts.query_row([row], |found| {
                Ok((found.get(0)?, found.get(1)?, found.get(2)?, found.get(3)?))
            })?;
        // DSN-15: what nobody took under REQUIRETLS is said once more, without the original.
        let again = ours && required && kind == NoticeKind::Failed;
        if ours && !again && kind == NoticeKind::Failed {
            self.lost.push(row);
        }
        let notify: Notify = rows::notify(notify);
        if !again && !notice::wanted(answerable, notify, action) {
            return Ok(false);
        }
        let due = match again {
            true => self.now(),
            false => self.now().plus(collect),
        };
        let number = row & i64::from(rows::MAX_NUMBER);
        self.sql.insert_notice.execute(params![
            rows::message_of(row),
            kind as i64,
            number,
            due.millis()
        ])?;
        self.notice_due(due);
        Ok(true)
    }

    /// The thread that sends notices learns of an earlier time once the commit is done.
    pub(super) fn notice_due(&mut self, due: Timestamp) {
        self.next_notice = self.next_notice.min(due.millis());
    }

    /// Whether anything is still to be told of a message.
    pub(super) fn has_notice(&mut self, message: i64) -> Result<bool, Fault> {
        Ok(self
            .sql
            .has_notice
            .query_row([message], |_| Ok(()))
            .optional()?
            .is_some())
    }

    /// The transaction is kept: what is to be said of our own notifications is said now.
    pub(super) fn count_notices(&mut self) {
        for row in self.lost.drain(..) {
            // DSN-2: it is answered by nobody, so here is the last place to speak of it.
            if let Ok(id) = rows::recipient_id(row) {
                Line::new("notice")
                    .key("qid", id.message)
                    .key("result", "lost")
                    .peer("text", "the notification itself could not be delivered")
                    .error();
            }
            self.shared.count_notices(1, 0);
        }
        self.shared.count_notices(0, self.withheld);
        self.withheld = 0;
    }

    pub(super) fn postpone_notice(
        &mut self,
        id: QueueId,
        kind: NoticeKind,
        due: Timestamp,
    ) -> Result<Answer, Fault> {
        let put_off = params![id.get(), kind as i64, due.millis()];
        self.sql.postpone_notice.execute(put_off)?;
        self.notice_due(due);
        Ok(Answer::Done)
    }

    /// Notices that would be gathered for longer than `dsn.collect` says are due: another clock or setting said so.
    pub(super) fn pull_notices(&mut self) -> Result<(), Fault> {
        let now = self.now();
        let latest = now.plus(self.shared.collect());
        let span = [now.millis(), latest.millis()];
        if self.sql.pull_notices.execute(span)? > 0 {
            self.notice_due(now);
        }
        Ok(())
    }

    /// RT-8: delays of these rows are told, or passed over; each gets the time of its next one.
    pub(super) fn delays(&mut self, rows: &[DelayNoted]) -> Result<Answer, Fault> {
        for DelayNoted { row, told, next } in rows {
            let Some(found) = self.find(*row)?.filter(|found| !found.is_final()) else {
                continue;
            };
            // Nothing has failed yet: this attempt may still deliver it.
            if told.is_some() && found.is(State::Claimed) && found.attempts <= 1 {
                let later = self.now().millis() + POSTPONE_MILLIS;
                self.sql.set_delay.execute(params![row, later, 0])?;
                self.notice_due(Timestamp::from_millis(later));
                continue;
            }
            let next = next.map(Timestamp::millis);
            let until = told.map_or(0, rows::millis);
            self.sql.set_delay.execute(params![row, next, until])?;
            if let Some(next) = next {
                self.notice_due(Timestamp::from_millis(next));
            }
            // An operator who holds it knows of it.
            if told.is_some() && !found.is(State::Held) {
                // Fellows of the same age are found together: there is nothing to wait for.
                let at_once = std::time::Duration::ZERO;
                self.note(*row, NoticeKind::Delayed, Action::Delayed, at_once)?;
            }
        }
        Ok(Answer::Done)
    }

    /// Queues a notification and strikes what it tells, or withholds it where the address has had its share.
    pub(super) fn send_notice(&mut self, notice: &SendNotice) -> Result<Answer, Fault> {
        let (message, kind) = (notice.id.get(), notice.kind as i64);
        let mut struck = 0;
        for number in &notice.numbers {
            struck += self
                .sql
                .strike_notice
                .execute(params![message, kind, number])?;
        }
        if struck == 0 {
            return Err(Fault::rejected(format!("{}: told already", notice.id)));
        }
        let withheld = match &notice.share {
            Some((address, share)) => !self.within_share(address, *share)?,
            None => false,
        };
        if let (Some(enqueue), false) = (&notice.message, withheld) {
            self.enqueue(enqueue)?;
        }
        self.free_when_told(message)?;
        Ok(if withheld {
            self.withheld += 1;
            Answer::Withheld
        } else {
            Answer::Done
        })
    }

    /// Content that was kept for the notification alone.
    fn free_when_told(&mut self, message: i64) -> Result<(), Fault> {
        let Some(id) = QueueId::new(message) else {
            return Ok(());
        };
        let (first, last) = row_range(id);
        let open = self
            .sql
            .is_open
            .query_row([first, last], |_| Ok(()))
            .optional()?;
        if open.is_none() && !self.has_notice(message)? {
            self.sql.mark_unowned.execute([message, 1])?;
            self.sweep = true;
        }
        Ok(())
    }

    /// DSN-11: counts one more notification to an address; false when it has had its share.
    fn within_share(&mut self, address: &str, share: Rate) -> Result<bool, Fault> {
        let now = self.now();
        let window = now.minus(share.per.get()).millis();
        self.sql.tidy_notified.execute([window, TIDY])?;
        let found: Option<(i64, i64)> = self
            .sql
            .find_notified
            .query_row([address], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let now = now.millis();
        // A start in the future was written by another clock.
        let (since, sent) = found
            .filter(|(since, _)| *since > window && *since <= now)
            .unwrap_or((now, 0));
        let within = sent < i64::try_from(share.count).unwrap_or(i64::MAX);
        self.sql.count_notified.execute(params![
            address,
            since,
            sent + i64::from(within),
            !within,
            (!within).then_some(now)
        ])?;
        if !within {
            self.notice_due(Timestamp::from_millis(now).plus(SUMMARY_AFTER));
        }
        Ok(within)
    }

    /// The postmaster's summary of what was withheld from these addresses.
    pub(super) fn send_summary(
        &mut self,
        addresses: &[String],
        message: Option<&Enqueue>,
    ) -> Result<Answer, Fault> {
        for address in addresses {
            self.sql.forget_withheld.execute([address])?;
        }
        if let Some(message) = message {
            self.enqueue(message)?;
        }
        Ok(Answer::Done)
    }
}
