//! What is due, found by index: the cost does not follow the length of the queue.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::rows::{self, Damage, HEAD, RECIPIENT, millis};
use super::{Contents, DestinationKey, RecipientRow, Store, StoreError, content, fault};
use crate::clock::Timestamp;
use crate::message::{Head, QueueId};
use crate::policy::retry::{DSN_CALLER, Lifetimes};

/// A destination with possibly due work.
#[derive(Clone, Debug)]
pub struct DueDestination {
    /// Its key.
    pub key: DestinationKey,
    /// Its earliest due time, or earlier.
    pub next_due: Timestamp,
    /// For paging.
    pub row: i64,
}

/// What is queued at a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueuedAt {
    /// Recipients that are due.
    pub due: usize,
    /// Those that are not yet.
    pub later: usize,
    /// The earliest due time.
    pub next: Option<Timestamp>,
}

/// A due recipient with the facts that routing needs.
#[derive(Clone, Debug)]
pub struct DueRecipient {
    /// The message; one `Arc` per message and answer.
    pub head: Arc<Head>,
    /// The row.
    pub row: RecipientRow,
}

impl Store {
    /// Destinations that may have due work, in the order of their earliest due time, after `after` (for paging).
    /// A hint that is never late: a destination it names may turn out to have nothing due.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn due_destinations(
        &self,
        now: Timestamp,
        after: Option<(Timestamp, i64)>,
        limit: usize,
    ) -> Result<Vec<DueDestination>, StoreError> {
        self.inner
            .readers
            .read(|conn| destinations(conn, now, after, limit))
    }

    /// The earliest time at which any destination has due work, if there is queued mail at all.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.readers.read(next)
    }

    /// Due recipients of one destination, by priority, then due time, then id; at most `limit` rows.
    /// Reads only; rows of one message that belong together follow each other.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn due(
        &self,
        destination: &DestinationKey,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRecipient>, StoreError> {
        let (found, damaged) = self
            .inner
            .readers
            .read(|conn| recipients(conn, destination, now, limit))?;
        self.hold_all(damaged);
        Ok(found)
    }

    /// The same with the content of those that have little of it, because one read of all of it costs far less than a read of
    /// each. Content that is missing or damaged is left out: whoever reads it alone learns of that.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn due_with_content(
        &self,
        destination: &DestinationKey,
        now: Timestamp,
        limit: usize,
    ) -> Result<(Vec<DueRecipient>, Contents), StoreError> {
        let (found, contents, damaged) = self.inner.readers.read(|conn| {
            let (found, damaged) = recipients(conn, destination, now, limit)?;
            let contents = content::small(conn, &found);
            Ok((found, contents, damaged))
        })?;
        self.hold_all(damaged);
        Ok((found, contents))
    }

    /// How many recipients are queued at a destination, for listings; of those that are due and of the others no more than
    /// `most` are looked at.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn queued_at(
        &self,
        destination: &DestinationKey,
        now: Timestamp,
        most: usize,
    ) -> Result<QueuedAt, StoreError> {
        self.inner
            .readers
            .read(|conn| queued(conn, destination, now, most))
    }

    /// Due recipients of one destination that have reached their expiry, in the order of [`Store::due`], and when the first
    /// of the others may do so. `lifetimes` are the shortest there, and `expiry_of` is asked for what has reached those.
    /// Costs a look at each queued row of the destination.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn at_expiry(
        &self,
        destination: &DestinationKey,
        now: Timestamp,
        lifetimes: &Lifetimes,
        expiry_of: &dyn Fn(&Head, &RecipientRow) -> Timestamp,
        limit: usize,
    ) -> Result<(Vec<DueRecipient>, Option<Timestamp>), StoreError> {
        let (found, next, damaged) = self
            .inner
            .readers
            .read(|conn| at_expiry(conn, destination, now, lifetimes, expiry_of, limit))?;
        self.hold_all(damaged);
        Ok((found, next))
    }

    /// each message once; what cannot be held now is met again.
    pub(super) fn hold_all(&self, damaged: Damaged) {
        for (id, reason) in damaged {
            self.inner.hold_damaged(id, &format!("damaged: {reason}"));
        }
    }
}

pub(super) const DESTINATIONS: &str = "SELECT id, key, next_due FROM destination INDEXED BY destination_due \
    WHERE next_due IS NOT NULL AND next_due <= ?1 AND (next_due, id) > (?2, ?3) ORDER BY next_due, id LIMIT ?4";
pub(super) const NEXT_DUE: &str = "SELECT next_due FROM destination INDEXED BY destination_due \
    WHERE next_due IS NOT NULL ORDER BY next_due LIMIT 1";
const FIND: &str = "SELECT id FROM destination WHERE key = ?1";
/// The first row of the next priority level: one seek.
pub(super) const LEVEL: &str = "SELECT rank FROM recipient INDEXED BY recipient_due \
    WHERE state = 0 AND destination = ?1 AND rank > ?2 ORDER BY rank LIMIT 1";

/// What is due of one level.
const DUE_OF_LEVEL: &str = "SELECT next_attempt FROM recipient INDEXED BY recipient_due \
    WHERE state = 0 AND destination = ?1 AND rank = ?2 AND next_attempt <= ?3 ORDER BY next_attempt LIMIT ?4";
/// What is due later.
const LATER_OF_LEVEL: &str = "SELECT next_attempt FROM recipient INDEXED BY recipient_due \
    WHERE state = 0 AND destination = ?1 AND rank = ?2 AND next_attempt > ?3 ORDER BY next_attempt LIMIT ?4";

/// Due rows of one level, in the order of the index.
pub(super) fn rows_sql() -> String {
    format!(
        "SELECT {RECIPIENT} FROM recipient r INDEXED BY recipient_due \
         WHERE r.state = 0 AND r.destination = ?1 AND r.rank = ?2 AND r.next_attempt <= ?3 \
         ORDER BY r.next_attempt, r.id LIMIT ?4"
    )
}

/// The head of one message.
pub(super) fn head_sql() -> String {
    format!("SELECT {HEAD} FROM message m WHERE m.id = ?1")
}

/// Rows of a destination whose message has reached its earliest expiry, due or not, in the order of the index. Without an
/// index of expiries it looks at each queued row of the destination, so it is asked seldom.
pub(super) fn at_expiry_sql() -> String {
    format!(
        "SELECT {RECIPIENT} FROM recipient r INDEXED BY recipient_due CROSS JOIN message m ON m.id = r.id >> 20 \
         WHERE r.state = 0 AND r.destination = ?1 AND {EXPIRY} <= ?2 \
         ORDER BY r.rank, r.next_attempt, r.id"
    )
}

/// When the first of a destination's messages reaches its earliest expiry after a time.
pub(super) fn next_expiry_sql() -> String {
    format!(
        "SELECT min({EXPIRY}) FROM recipient r INDEXED BY recipient_due CROSS JOIN message m ON m.id = r.id >> 20 \
         WHERE r.state = 0 AND r.destination = ?1 AND {EXPIRY} > ?2"
    )
}

/// As [`Terms::expiry`](crate::policy::retry::Terms::expiry) says for the shortest lifetimes of a destination, in milliseconds.
pub(super) const EXPIRY: &str = "m.arrived + coalesce(m.lifetime, iif(m.caller = ?3, ?4, ?5))";

/// Rows that cannot be read, by message: they are to be held.
pub(super) type Damaged = Vec<(QueueId, String)>;

fn sql(error: rusqlite::Error) -> StoreError {
    fault::answer_for(&error)
}

pub(super) fn destinations(
    conn: &Connection,
    now: Timestamp,
    after: Option<(Timestamp, i64)>,
    limit: usize,
) -> Result<Vec<DueDestination>, StoreError> {
    let (after_due, after_id) = after.map_or((-1, 0), |(due, id)| (due.millis(), id));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = || {
        let mut statement = conn.prepare_cached(DESTINATIONS)?;
        let found = statement.query_map([now.millis(), after_due, after_id, limit], |row| {
            Ok(DueDestination {
                row: row.get(0)?,
                key: DestinationKey(row.get::<_, Arc<str>>(1)?),
                next_due: Timestamp::from_millis(row.get(2)?),
            })
        })?;
        found.collect::<rusqlite::Result<_>>()
    };
    read().map_err(sql)
}

pub(super) fn next(conn: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let read = || {
        conn.prepare_cached(NEXT_DUE)?
            .query_row([], |row| row.get(0))
            .optional()
    };
    Ok(read().map_err(sql)?.map(Timestamp::from_millis))
}

/// Due recipients by priority, then due time, then id. Reads only.
pub(super) fn recipients(
    conn: &Connection,
    key: &DestinationKey,
    now: Timestamp,
    limit: usize,
) -> Result<(Vec<DueRecipient>, Damaged), StoreError> {
    let mut found = Vec::new();
    let mut damaged = Damaged::new();
    let mut heads = Heads::default();
    let Some(destination) = find(conn, key)? else {
        return Ok((found, damaged));
    };
    let mut level = conn.prepare_cached(LEVEL).map_err(sql)?;
    let mut due = conn.prepare_cached(&rows_sql()).map_err(sql)?;
    let mut rank = i64::MIN;
    while found.len() < limit {
        let next: Option<i64> = level
            .query_row([destination, rank], |row| row.get(0))
            .optional()
            .map_err(sql)?;
        let Some(next) = next else { break };
        rank = next;
        let left = i64::try_from(limit - found.len()).unwrap_or(i64::MAX);
        let mut rows = due
            .query([destination, rank, now.millis(), left])
            .map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            let id: i64 = row.get(0).map_err(sql)?;
            let read = rows::recipient(row, 0, key.clone());
            match read.and_then(|row| Ok((heads.get(conn, id)?, row))) {
                Ok((head, row)) => found.push(DueRecipient { head, row }),
                Err(damage) => note_damage(&mut damaged, id, damage),
            }
        }
    }
    Ok((found, damaged))
}

/// Due recipients of one destination at their expiry, and when the first of the others that wait there may be. Reads only.
pub(super) fn at_expiry(
    conn: &Connection,
    key: &DestinationKey,
    now: Timestamp,
    lifetimes: &Lifetimes,
    expiry_of: &dyn Fn(&Head, &RecipientRow) -> Timestamp,
    limit: usize,
) -> Result<(Vec<DueRecipient>, Option<Timestamp>, Damaged), StoreError> {
    let mut found = Vec::new();
    let mut damaged = Damaged::new();
    let Some(destination) = find(conn, key)? else {
        return Ok((found, None, damaged));
    };
    let (notices, mail) = (millis(lifetimes.notices), millis(lifetimes.mail));
    let mut later: Option<Timestamp> = None;
    let mut heads = Heads::default();
    let mut last = conn.prepare_cached(&at_expiry_sql()).map_err(sql)?;
    let facts = params![destination, now.millis(), DSN_CALLER, notices, mail];
    let mut rows = last.query(facts).map_err(sql)?;
    while found.len() < limit
        && let Some(row) = rows.next().map_err(sql)?
    {
        let id: i64 = row.get(0).map_err(sql)?;
        let read = rows::recipient(row, 0, key.clone());
        match read.and_then(|row| Ok((heads.get(conn, id)?, row))) {
            Ok((head, row)) => match expiry_of(&head, &row) {
                // Its transport tries longer than another one here.
                at if at > now => later = Some(later.map_or(at, |first| first.min(at))),
                _ if row.next_attempt <= now => found.push(DueRecipient { head, row }),
                _ => {}
            },
            Err(damage) => note_damage(&mut damaged, id, damage),
        }
    }
    let mut next = conn.prepare_cached(&next_expiry_sql()).map_err(sql)?;
    let facts = params![destination, now.millis(), DSN_CALLER, notices, mail];
    let next: Option<i64> = next.query_row(facts, |row| row.get(0)).map_err(sql)?;
    let next = next.map(Timestamp::from_millis);
    Ok((found, next.into_iter().chain(later).min(), damaged))
}

/// Queued recipients of a destination, by whether they are due; of each no more than `most` are looked at. Reads only.
pub(super) fn queued(
    conn: &Connection,
    key: &DestinationKey,
    now: Timestamp,
    most: usize,
) -> Result<QueuedAt, StoreError> {
    let mut queued = QueuedAt::default();
    let Some(destination) = find(conn, key)? else {
        return Ok(queued);
    };
    let mut read = || {
        let mut level = conn.prepare_cached(LEVEL)?;
        let mut due = conn.prepare_cached(DUE_OF_LEVEL)?;
        let mut later = conn.prepare_cached(LATER_OF_LEVEL)?;
        let mut next = |rank| {
            let found = level.query_row([destination, rank], |row| row.get(0));
            found.optional()
        };
        let mut rank: Option<i64> = next(i64::MIN)?;
        while let Some(at) = rank {
            for (count, statement) in [(&mut queued.due, &mut due), (&mut queued.later, &mut later)]
            {
                let left = i64::try_from(most.saturating_sub(*count)).unwrap_or(i64::MAX);
                let mut rows = statement.query([destination, at, now.millis(), left])?;
                while let Some(row) = rows.next()? {
                    *count += 1;
                    let at = Timestamp::from_millis(row.get(0)?);
                    queued.next = Some(queued.next.map_or(at, |next| next.min(at)));
                }
            }
            rank = next(at)?;
        }
        Ok(())
    };
    read().map_err(sql)?;
    Ok(queued)
}

/// The row of a destination, if it was ever used.
fn find(conn: &Connection, key: &DestinationKey) -> Result<Option<i64>, StoreError> {
    conn.prepare_cached(FIND)
        .and_then(|mut statement| statement.query_row([&key.0], |row| row.get(0)).optional())
        .map_err(sql)
}

/// Remembers a damaged row by its message, each message once.
pub(super) fn note_damage(damaged: &mut Damaged, row: i64, Damage(reason): Damage) {
    let Some(id) = QueueId::new(rows::message_of(row)) else {
        return;
    };
    if damaged.last().is_none_or(|(last, _)| *last != id) {
        damaged.push((id, reason));
    }
}

/// One `Arc` per message and answer.
#[derive(Default)]
pub(super) struct Heads(HashMap<i64, Result<Arc<Head>, Damage>>);

impl Heads {
    /// The head of the message that the recipient row belongs to.
    pub(super) fn get(&mut self, conn: &Connection, row: i64) -> Result<Arc<Head>, Damage> {
        let message = rows::message_of(row);
        self.0
            .entry(message)
            .or_insert_with(|| {
                conn.prepare_cached(&head_sql())?
                    .query_row([message], |row| Ok(rows::head(row, 0)))
                    .optional()?
                    .ok_or_else(|| Damage("its message is missing".into()))?
                    .map(Arc::new)
            })
            .clone()
    }
}
