//! What senders are to be told: written with the state that causes it, read when it is due, and gone in the transaction
//! that queues the notification (Q-10, DSN-3). Who is told what is `policy::notice`'s word.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::{self, Fault};
use super::request::{Answer, Enqueue};
use super::rows::{self, ATTEMPT, HEAD, RECIPIENT, RECIPIENT_WIDTH, row_id, row_range};
use super::settle::Found;
use super::writer::Writer;
use super::{
    DelayDue, DelayNoted, NoticeKind, PendingNotice, RecipientRow, ShownAttempt, State, StoreError,
    WithheldNotices,
};
use crate::clock::Timestamp;
use crate::config::Rate;
use crate::log::Line;
use crate::message::dsn::{Action, MAX_BLOCKS};
use crate::message::{Notify, QueueId};
use crate::policy::notice;

/// Rows of `notified` that are tidied away with each notification.
const TIDY: i64 = 16;

/// When the first attempt of a recipient is still running, its delay is looked at again after this time.
const POSTPONE_MILLIS: i64 = 60_000;

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

/// Withheld notifications are summed up once an hour (DSN-11).
pub(super) const SUMMARY_AFTER: std::time::Duration = std::time::Duration::from_secs(3600);

pub(super) const NEXT_NOTICE: &str =
    "SELECT due FROM notice INDEXED BY notice_due ORDER BY due LIMIT 1";
pub(super) const NEXT_DELAY: &str = "SELECT delay_due FROM recipient INDEXED BY recipient_delay \
    WHERE delay_due IS NOT NULL ORDER BY delay_due LIMIT 1";
pub(super) const NEXT_SUMMARY: &str = "SELECT first FROM notified INDEXED BY notified_first \
    WHERE withheld > 0 ORDER BY first LIMIT 1";
pub(super) const DUE: &str =
    "SELECT message, kind FROM notice INDEXED BY notice_due WHERE due <= ?1 ORDER BY due LIMIT ?2";
pub(super) const NUMBERS: &str =
    "SELECT number FROM notice WHERE message = ?1 AND kind = ?2 ORDER BY number";
pub(super) const WITHHELD: &str = "SELECT address, withheld FROM notified INDEXED BY notified_first \
    WHERE withheld > 0 AND first <= ?1 ORDER BY first LIMIT 500";

/// Recipients whose delay is to be told.
pub(super) fn delays_sql() -> String {
    format!(
        "SELECT {RECIPIENT}, {HEAD} FROM recipient r INDEXED BY recipient_delay CROSS JOIN message m ON m.id = r.id >> 20 \
         WHERE r.delay_due IS NOT NULL AND r.delay_due <= ?1 ORDER BY r.delay_due LIMIT ?2"
    )
}

/// The latest attempt of a recipient, or the operator's word that ended it.
pub(super) fn last_attempt_sql() -> String {
    format!(
        "SELECT {ATTEMPT} FROM attempt WHERE recipient = ?1 ORDER BY ordinal DESC, kind DESC LIMIT 1"
    )
}

fn one_recipient_sql() -> String {
    format!("SELECT {RECIPIENT} FROM recipient r WHERE r.id = ?1")
}

fn sql(error: rusqlite::Error) -> StoreError {
    fault::answer_for(&error)
}

/// When there is something to do for the thread that sends notices.
pub(super) fn next(conn: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let first = |text: &str| -> Result<Option<i64>, StoreError> {
        conn.prepare_cached(text)
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
            .map_err(sql)
    };
    let summary = first(NEXT_SUMMARY)?.map(|at| Timestamp::from_millis(at).plus(SUMMARY_AFTER));
    let others = [first(NEXT_NOTICE)?, first(NEXT_DELAY)?];
    let others = others.into_iter().flatten().map(Timestamp::from_millis);
    Ok(others.chain(summary).min())
}

/// Recipients whose delay is due, with the facts that decide on the next one. Rows that cannot be read are left out:
/// they are held when dispatch comes by, and their delay is struck.
pub(super) fn delays(
    conn: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<DelayDue>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = || {
        let mut statement = conn.prepare_cached(&delays_sql())?;
        let found = statement.query_map([now.millis(), limit], |row| {
            let number: i64 = row.get(0)?;
            let key = super::DestinationKey("".into());
            let facts = rows::head(row, RECIPIENT_WIDTH)
                .and_then(|head| rows::recipient(row, 0, key).map(|row| (Arc::new(head), row)));
            Ok(DelayDue {
                row: number,
                facts: facts.ok(),
            })
        })?;
        found.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(sql)
}

/// Messages about which something is to be told, earliest first; each message and kind once.
pub(super) fn due(
    conn: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<(QueueId, NoticeKind)>, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = || {
        let mut statement = conn.prepare_cached(DUE)?;
        let found =
            statement.query_map([now.millis(), limit], |row| Ok((row.get(0)?, row.get(1)?)))?;
        found.collect::<rusqlite::Result<Vec<(i64, i64)>>>()
    };
    let mut groups = Vec::new();
    for (message, kind) in read().map_err(sql)? {
        let kind = NoticeKind::from_code(kind);
        if let (Some(id), Some(kind)) = (QueueId::new(message), kind)
            && !groups.contains(&(id, kind))
        {
            groups.push((id, kind));
        }
    }
    Ok(groups)
}

/// Everything a notification needs to know. `None` if there is nothing (any more) to tell.
pub(super) fn pending(
    conn: &Connection,
    id: QueueId,
    kind: NoticeKind,
) -> Result<Option<PendingNotice>, StoreError> {
    let read = || {
        let mut statement = conn.prepare_cached(NUMBERS)?;
        let found = statement.query_map([id.get(), kind as i64], |row| row.get(0))?;
        found.collect::<rusqlite::Result<Vec<u32>>>()
    };
    let numbers = read().map_err(sql)?;
    if numbers.is_empty() {
        return Ok(None);
    }
    let head = conn
        .prepare_cached(&super::due::head_sql())
        .and_then(|mut statement| {
            statement
                .query_row([id.get()], |row| Ok(rows::head(row, 0)))
                .optional()
        })
        .map_err(sql)?;
    let head = match head {
        Some(Ok(head)) => Some(Arc::new(head)),
        Some(Err(_)) | None => None,
    };
    let mut recipients = Vec::new();
    let mut further = 0;
    // Of the original recipients only hashes are kept, with random keys: there may be 100 000, of 500 octets each.
    let (hasher, mut originals) = (RandomState::new(), HashSet::new());
    for number in &numbers {
        let row = row_id(id, *number);
        let Some(recipient) = one(conn, row)? else {
            further += 1;
            continue;
        };
        // A delay is news only while it lasts.
        let news = kind != NoticeKind::Delayed || !recipient.state.is_final();
        // DSN-16: several expansions of one original recipient are one.
        let orcpt = recipient.recipient.orcpt.as_ref();
        if !news || orcpt.is_some_and(|orcpt| !originals.insert(hasher.hash_one(orcpt))) {
            continue;
        }
        if recipients.len() < MAX_BLOCKS {
            recipients.push((recipient, last_attempt(conn, row)?));
        } else {
            further += 1;
        }
    }
    Ok(Some(PendingNotice {
        head,
        numbers,
        recipients,
        further,
    }))
}

/// A recipient; `None` if it cannot be read.
fn one(conn: &Connection, row: i64) -> Result<Option<RecipientRow>, StoreError> {
    let key = super::DestinationKey("".into());
    let found = conn
        .prepare_cached(&one_recipient_sql())
        .and_then(|mut statement| {
            statement
                .query_row([row], |found| Ok(rows::recipient(found, 0, key)))
                .optional()
        })
        .map_err(sql)?;
    Ok(found.and_then(Result::ok))
}

fn last_attempt(conn: &Connection, row: i64) -> Result<Option<ShownAttempt>, StoreError> {
    let found = conn
        .prepare_cached(&last_attempt_sql())
        .and_then(|mut statement| {
            statement
                .query_row([row], |found| Ok(rows::attempt(found)))
                .optional()
        })
        .map_err(sql)?;
    Ok(found.and_then(Result::ok))
}

/// Addresses from which notifications were withheld an hour ago or earlier.
pub(super) fn withheld(conn: &Connection, now: Timestamp) -> Result<WithheldNotices, StoreError> {
    let read = || {
        let mut statement = conn.prepare_cached(WITHHELD)?;
        let found = statement.query_map([now.minus(SUMMARY_AFTER).millis()], |row| {
            Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs()))
        })?;
        found.collect::<rusqlite::Result<_>>()
    };
    read().map_err(sql)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    //
    #[test]
    fn what_is_due_is_found_by_index() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        let texts = [
            NEXT_NOTICE,
            NEXT_DELAY,
            NEXT_SUMMARY,
            DUE,
            NUMBERS,
            WITHHELD,
        ]
        .map(str::to_owned);
        for text in texts
            .into_iter()
            .chain([delays_sql(), last_attempt_sql(), one_recipient_sql()])
        {
            let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let parameters = vec![1; statement.parameter_count()];
            let steps: Vec<String> = statement
                .query_map(rusqlite::params_from_iter(parameters), |row| row.get(3))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            for step in steps {
                // Reading the head of an index in its order is no scan of a table, as long as a LIMIT ends it.
                let ordered =
                    step.starts_with("SCAN") && step.contains("USING") && text.contains("LIMIT");
                assert!(ordered || !step.starts_with("SCAN"), "{text}: {step}");
                assert!(!step.contains("TEMP B-TREE"), "{text}: {step}");
            }
        }
    }
}
