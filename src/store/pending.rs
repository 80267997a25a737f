//! What senders are still to be told, as it is read when it is due (DSN-3).

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::fault;
use super::rows::{self, ATTEMPT, HEAD, RECIPIENT, RECIPIENT_WIDTH, row_id};
use super::{NoticeKind, RecipientRow, ShownAttempt, Store, StoreError};
use crate::clock::Timestamp;
use crate::message::dsn::MAX_BLOCKS;
use crate::message::{Head, QueueId};

/// A recipient whose sender is to be told of a delay.
#[derive(Clone, Debug)]
pub struct DelayDue {
    /// For [`Store::note_delays`](super::Store::note_delays).
    pub row: i64,
    /// Its message and itself; `None` if they cannot be read.
    pub facts: Option<(Arc<Head>, RecipientRow)>,
}

/// The facts of one notice.
#[derive(Clone, Debug)]
pub struct PendingNotice {
    /// The message; `None` if it cannot be read.
    pub head: Option<Arc<Head>>,
    /// All recipients it is about.
    pub numbers: Vec<u32>,
    /// The first 500 of them that are (still) news, each with its latest attempt; of those with the same original
    /// recipient only one (DSN-16).
    pub recipients: Vec<(RecipientRow, Option<ShownAttempt>)>,
    /// How many more there are.
    pub further: usize,
}

/// Addresses and how many notifications were withheld from each.
pub type WithheldNotices = Vec<(String, u64)>;

impl Store {
    /// When there is something for the thread that sends notices to do, if ever; the channel of
    /// [`Store::notices`] tells when that becomes earlier.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn next_notice(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.shared.notices_read();
        let next = self.inner.readers.read(next)?;
        let known = next.map_or(i64::MAX, Timestamp::millis);
        self.inner.shared.notices_known(known);
        Ok(next)
    }

    /// Readable when a notice is due earlier than [`Store::next_notice`] said.
    pub fn notices(&self) -> crossbeam_channel::Receiver<()> {
        self.inner.shared.notices()
    }

    /// Recipients whose next delay notice is due (RT-8).
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn delays(&self, now: Timestamp, limit: usize) -> Result<Vec<DelayDue>, StoreError> {
        self.inner.readers.read(|conn| delays(conn, now, limit))
    }

    /// Messages about which their senders are to be told something now.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn due_notices(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(QueueId, NoticeKind)>, StoreError> {
        self.inner.readers.read(|conn| due(conn, now, limit))
    }

    /// The facts of one notice.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn pending_notice(
        &self,
        id: QueueId,
        kind: NoticeKind,
    ) -> Result<Option<PendingNotice>, StoreError> {
        self.inner.readers.read(|conn| pending(conn, id, kind))
    }

    /// Addresses from which notifications have been withheld for an hour, with their number (DSN-11).
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn withheld_notices(&self, now: Timestamp) -> Result<WithheldNotices, StoreError> {
        self.inner.readers.read(|conn| withheld(conn, now))
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
