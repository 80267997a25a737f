//! Is the queue what it should be? Named invariants, each a query that must return no row, and SQLite's own
//! `integrity_check` (ST-18).
//!
//! All of it reads only, on a connection of its own, while the daemon works. No read transaction lasts longer than that
//! of any other reader (ST-14): what concerns single messages is asked in windows of them, and what cannot be finished
//! in time is reported as unfinished, never as well. At each start the quick ones run, for 2 s at most.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::open::{self, Role};
use super::readers;
use super::rows::MAX_ID;
use super::shared::Shared;
use super::{StoreError, fault};
use crate::log::Line;

/// Messages per window. Their rows fit the cache of the connection.
const WINDOW: i64 = 2000;

/// Offending rows that are counted; one is enough to know.
const COUNTED: u64 = 1000;

/// The longest that the quick set may take.
pub(super) const QUICK: Duration = Duration::from_secs(2);

/// KiB, negative: `integrity_check` looks every row up in every index.
const CACHE: i64 = -16_384;

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its name, which stays the same between versions.
    pub name: &'static str,
    /// What should be so.
    pub sentence: &'static str,
    /// Whether it is.
    pub soundness: Soundness,
    /// How long it took.
    pub took: Duration,
}

/// Whether something is as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Soundness {
    /// It is.
    Sound,
    /// It is not.
    Broken {
        /// How many places were found; at most 1000 are counted.
        rows: u64,
        /// The first of them.
        first: String,
    },
    /// It took too long, or could not be read; with the reason.
    Unfinished(String),
}

/// One invariant. Its query returns a row, with one column that names the offender, for each place where it does not hold.
struct Invariant {
    name: &'static str,
    sentence: &'static str,
    sql: &'static str,
}

/// About the queue as a whole, in one look each; those of the quick set first.
const WHOLE: &[Invariant] = &[
    Invariant {
        name: "next-id",
        sentence: "Every id in use is below the next one to be handed out.",
        sql: "SELECT 'message ' || id FROM (SELECT max(id) AS id FROM message UNION ALL SELECT max(message) FROM unowned \
            UNION ALL SELECT max(id) >> 20 FROM recipient UNION ALL SELECT max(id) >> 20 FROM chunk) \
            WHERE id >= (SELECT next_id FROM queue)",
    },
    Invariant {
        name: "unowned",
        sentence: "Content marked as nobody's belongs to no message that still needs it.",
        sql: "SELECT 'message ' || u.message FROM unowned u CROSS JOIN message m ON m.id = u.message WHERE u.kind = 0 \
            OR EXISTS (SELECT 1 FROM recipient r WHERE r.id BETWEEN u.message << 20 AND (u.message << 20) + 1048575 \
            AND r.state < 3) OR EXISTS (SELECT 1 FROM notice n WHERE n.message = u.message)",
    },
    Invariant {
        name: "notice",
        sentence: "What a sender is to be told is of a recipient that came to that end.",
        sql: "SELECT 'recipient ' || n.message || '/' || n.number || ' kind ' || n.kind FROM notice n \
            LEFT JOIN message m ON m.id = n.message LEFT JOIN recipient r ON r.id = (n.message << 20) + n.number \
            WHERE m.id IS NULL OR r.id IS NULL OR n.kind = 0 AND r.state NOT IN (4, 5) OR n.kind = 2 AND r.state <> 3 \
            OR n.kind NOT IN (0, 1, 2)",
    },
    Invariant {
        name: "counts",
        sentence: "The counts of recipients per state are those of the rows.",
        sql: "SELECT name || ' ' || said || ' but ' || there FROM (\
            SELECT 'queued' AS name, queued AS said, (SELECT count(*) FROM recipient INDEXED BY recipient_state \
            WHERE state = 0 AND state < 3) AS there FROM queue UNION ALL \
            SELECT 'claimed', claimed, (SELECT count(*) FROM recipient INDEXED BY recipient_state \
            WHERE state = 1 AND state < 3) FROM queue UNION ALL \
            SELECT 'held', held, (SELECT count(*) FROM recipient INDEXED BY recipient_state \
            WHERE state = 2 AND state < 3) FROM queue) WHERE said <> there",
    },
    Invariant {
        name: "next-due",
        sentence: "Every destination knows when its first queued recipient is due.",
        sql: "SELECT d.key FROM destination d WHERE d.next_due IS NOT (SELECT min(r.next_attempt) FROM recipient r \
            INDEXED BY recipient_due WHERE r.state = 0 AND r.destination = d.id)",
    },
    Invariant {
        name: "count-doubt",
        sentence: "The count of recipients in doubt is that of the rows.",
        sql: "SELECT doubt || ' but ' || there FROM queue, (SELECT count(*) AS there FROM recipient \
            INDEXED BY recipient_state WHERE state < 3 AND doubt <> 0) WHERE doubt <> there",
    },
    Invariant {
        name: "count-messages",
        sentence: "The count of messages is that of those with a recipient that is not final.",
        sql: "SELECT messages || ' but ' || there FROM queue, (SELECT count(*) AS there FROM message m WHERE EXISTS \
            (SELECT 1 FROM recipient r WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 AND r.state < 3)) \
            WHERE messages <> there",
    },
];

/// How many of [`WHOLE`] are quick: their cost does not follow the history, and hardly the queue.
const QUICK_ONES: usize = 5;

/// About the messages from ?1 to ?2.
const OF_MESSAGES: &[Invariant] = &[
    Invariant {
        name: "recipient-message",
        sentence: "Every recipient belongs to a message and to a destination.",
        sql: "SELECT 'recipient ' || (r.id >> 20) || '/' || (r.id & 1048575) FROM recipient r \
            WHERE r.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 AND (r.id & 1048575 = 0 \
            OR NOT EXISTS (SELECT 1 FROM message m WHERE m.id = r.id >> 20) \
            OR NOT EXISTS (SELECT 1 FROM destination d WHERE d.id = r.destination))",
    },
    Invariant {
        name: "recipients",
        sentence: "Every message has all its recipients.",
        sql: "SELECT 'message ' || m.id FROM message m WHERE m.id BETWEEN ?1 AND ?2 AND m.recipients <> (\
            SELECT count(*) FROM recipient r WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575)",
    },
    Invariant {
        name: "open",
        sentence: "A message with several recipients or much content knows how many of them are not final.",
        sql: "SELECT 'message ' || m.id FROM message m WHERE m.id BETWEEN ?1 AND ?2 \
            AND (m.recipients > 1 OR m.chunks > 1) AND m.open <> (SELECT count(*) FROM recipient r \
            WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 AND r.state < 3)",
    },
    Invariant {
        name: "alone",
        sentence: "A recipient marked as its message's only one is that, and no other is so marked.",
        sql: "SELECT 'recipient ' || m.id || '/' || (r.id & 1048575) FROM message m CROSS JOIN recipient r \
            ON r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 WHERE m.id BETWEEN ?1 AND ?2 \
            AND r.alone <> (m.recipients = 1 AND m.chunks <= 1)",
    },
    Invariant {
        name: "state",
        sentence: "The fields of a recipient fit its state.",
        sql: "SELECT 'recipient ' || (r.id >> 20) || '/' || (r.id & 1048575) FROM recipient r \
            WHERE r.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 AND (r.state NOT BETWEEN 0 AND 6 \
            OR r.doubt NOT BETWEEN 0 AND 2 OR r.wish NOT BETWEEN 0 AND 3 OR r.attempts < 0 \
            OR (r.finished IS NULL) <> (r.state < 3) OR r.state = 1 AND (r.attempts = 0 OR r.last_attempt IS NULL) \
            OR r.state >= 3 AND (r.delay_due IS NOT NULL OR r.wish <> 0))",
    },
    Invariant {
        name: "content",
        sentence: "A message that may still be sent or told of has all its content.",
        sql: "SELECT 'message ' || m.id FROM message m WHERE m.id BETWEEN ?1 AND ?2 AND (EXISTS (SELECT 1 FROM recipient r \
            WHERE r.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575 AND r.state < 3) \
            OR EXISTS (SELECT 1 FROM notice n WHERE n.message = m.id)) \
            AND (m.chunks, m.content_size) IS NOT (SELECT count(*), coalesce(sum(length(c.data)), 0) FROM chunk c \
            WHERE c.id BETWEEN m.id << 20 AND (m.id << 20) + 1048575)",
    },
    Invariant {
        name: "freed",
        sentence: "All content belongs to a message that needs it, or is marked as nobody's.",
        sql: "SELECT 'message ' || (c.id >> 20) FROM chunk c WHERE c.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 \
            AND NOT EXISTS (SELECT 1 FROM unowned u WHERE u.message = c.id >> 20) \
            AND (NOT EXISTS (SELECT 1 FROM message m WHERE m.id = c.id >> 20) \
            OR NOT EXISTS (SELECT 1 FROM recipient r WHERE r.id BETWEEN c.id >> 20 << 20 AND (c.id >> 20 << 20) + 1048575 \
            AND r.state < 3) AND NOT EXISTS (SELECT 1 FROM notice n WHERE n.message = c.id >> 20))",
    },
    Invariant {
        name: "attempt",
        sentence: "Every attempt is one that its recipient has counted.",
        sql: "SELECT 'recipient ' || (a.recipient >> 20) || '/' || (a.recipient & 1048575) || ' attempt ' || a.ordinal \
            FROM attempt a LEFT JOIN recipient r ON r.id = a.recipient \
            WHERE a.recipient BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 \
            AND (r.id IS NULL OR a.kind NOT IN (0, 1, 2) OR a.ordinal > r.attempts AND a.kind < 2)",
    },
    Invariant {
        name: "delivered",
        sentence: "Every delivered recipient has the attempt that delivered it.",
        sql: "SELECT 'recipient ' || (r.id >> 20) || '/' || (r.id & 1048575) FROM recipient r \
            WHERE r.id BETWEEN ?1 << 20 AND (?2 << 20) + 1048575 AND r.state = 3 AND NOT EXISTS (\
            SELECT 1 FROM attempt a WHERE a.recipient = r.id AND a.kind = 0 AND a.cause IS NULL)",
    },
];

/// The end of the next window behind ?1.
const NEXT_WINDOW: &str =
    "SELECT max(id) FROM (SELECT id FROM message WHERE id > ?1 ORDER BY id LIMIT ?2)";

/// Tables that [`integrity`] looks at one by one if all at once take too long.
const TABLES: [&str; 9] = [
    "queue",
    "message",
    "chunk",
    "unowned",
    "destination",
    "recipient",
    "attempt",
    "notice",
    "notified",
];

/// A connection and its limits.
pub(super) struct Checker {
    conn: Connection,
    /// Milliseconds since `start` at which the running query is cut off.
    until: Arc<AtomicU64>,
    start: Instant,
    /// When all of it has to be over, if ever.
    end: Option<Instant>,
}

impl Checker {
    /// A connection of its own. Queries are cut off when the store ends.
    pub(super) fn open(
        database: &Path,
        shared: &Arc<Shared>,
        end: Option<Instant>,
    ) -> Result<Checker, StoreError> {
        let failed = |error: &dyn std::fmt::Display| StoreError::Failed(error.to_string());
        let mut conn = open::connect(database, Role::Reader).map_err(|error| failed(&error))?;
        conn.pragma_update(None, "cache_size", CACHE)
            .map_err(|error| failed(&error))?;
        let (start, until) = (Instant::now(), Arc::new(AtomicU64::new(u64::MAX)));
        let (limit, shared) = (Arc::clone(&until), Arc::clone(shared));
        let over = move || {
            shared.check_open().is_err()
                || readers::millis(start.elapsed()) > limit.load(Ordering::Relaxed)
        };
        conn.progress_handler(readers::STEPS, Some(over))
            .map_err(|error| failed(&error))?;
        Ok(Checker {
            conn,
            until,
            start,
            end,
        })
    }

    /// The quick set.
    pub(super) fn quick(&self, each: &mut dyn FnMut(Checked)) {
        self.whole(&WHOLE[..QUICK_ONES], each);
    }

    /// Everything. `each` hears of every check once, when it is done.
    pub(super) fn all(&self, each: &mut dyn FnMut(Checked)) {
        self.whole(WHOLE, each);
        self.messages(each);
        self.integrity(each);
    }

    fn whole(&self, invariants: &[Invariant], each: &mut dyn FnMut(Checked)) {
        for invariant in invariants {
            let began = Instant::now();
            let mut found = Soundness::Sound;
            self.limited(|conn| ask(conn, invariant.sql, &[], &mut found))
                .unwrap_or_else(|error| unfinished(&mut found, &error));
            each(checked(invariant, found, began.elapsed()));
        }
    }

    /// All of [`OF_MESSAGES`], a window after the other: each window is one snapshot.
    fn messages(&self, each: &mut dyn FnMut(Checked)) {
        let mut found: Vec<(Soundness, Duration)> =
            vec![(Soundness::Sound, Duration::ZERO); OF_MESSAGES.len()];
        let mut after = -1;
        while after < MAX_ID {
            let window = self.limited(|conn| {
                let last: Option<i64> = conn
                    .prepare_cached(NEXT_WINDOW)?
                    .query_row([after, WINDOW], |row| row.get(0))
                    .optional()?
                    .flatten();
                // Behind the last message there may be rows of none.
                let last = last.unwrap_or(MAX_ID);
                for (invariant, (found, took)) in OF_MESSAGES.iter().zip(&mut found) {
                    let began = Instant::now();
                    ask(conn, invariant.sql, &[after + 1, last], found)?;
                    *took += began.elapsed();
                }
                Ok(last)
            });
            match window {
                Ok(last) => after = last,
                Err(error) => {
                    for (found, _) in &mut found {
                        unfinished(found, &error);
                    }
                    break;
                }
            }
        }
        for (invariant, (found, took)) in OF_MESSAGES.iter().zip(found) {
            each(checked(invariant, found, took));
        }
    }

    /// SQLite's own check, of all at once, or table by table where that takes too long.
    fn integrity(&self, each: &mut dyn FnMut(Checked)) {
        let mut check = |name: &'static str, pragma: &str, last: bool| {
            let began = Instant::now();
            let mut found = Soundness::Sound;
            self.limited(|conn| ask_integrity(conn, pragma, &mut found))
                .unwrap_or_else(|error| unfinished(&mut found, &error));
            let finished = !matches!(found, Soundness::Unfinished(_));
            if finished || last {
                each(Checked {
                    name,
                    sentence: "SQLite finds the file whole, and every index entry where it belongs.",
                    soundness: found,
                    took: began.elapsed(),
                });
            }
            finished
        };
        if !check("integrity", "PRAGMA integrity_check(10)", false) {
            for table in TABLES {
                check(table, &format!("PRAGMA integrity_check({table})"), true);
            }
        }
    }

    /// One read transaction, no longer than any other (ST-14).
    fn limited<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut limit = readers::LIMIT;
        if let Some(end) = self.end {
            limit = limit.min(end.saturating_duration_since(Instant::now()));
        }
        self.until.store(
            readers::millis(self.start.elapsed() + limit),
            Ordering::Relaxed,
        );
        let sql = |error: rusqlite::Error| fault::answer_for(&error);
        let snapshot = self.conn.unchecked_transaction().map_err(sql)?;
        read(&snapshot).map_err(sql)
    }
}

fn checked(invariant: &Invariant, soundness: Soundness, took: Duration) -> Checked {
    Checked {
        name: invariant.name,
        sentence: invariant.sentence,
        soundness,
        took,
    }
}

/// What was found broken before the query was cut off stays found.
fn unfinished(found: &mut Soundness, error: &StoreError) {
    if *found == Soundness::Sound {
        *found = Soundness::Unfinished(error.to_string());
    }
}

fn ask(
    conn: &Connection,
    sql: &str,
    values: &[i64],
    found: &mut Soundness,
) -> rusqlite::Result<()> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    while let Some(row) = rows.next()? {
        let offender = row.get::<_, Option<String>>(0)?.unwrap_or_default();
        if !found.add(offender) {
            break;
        }
    }
    Ok(())
}

fn ask_integrity(conn: &Connection, pragma: &str, found: &mut Soundness) -> rusqlite::Result<()> {
    let mut statement = conn.prepare(pragma)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            found.add(line);
        }
    }
    Ok(())
}

impl Soundness {
    /// One more offender; false when no more need to be counted.
    fn add(&mut self, offender: String) -> bool {
        match self {
            Soundness::Broken { rows, .. } => {
                *rows += 1;
                *rows < COUNTED
            }
            _ => {
                *self = Soundness::Broken {
                    rows: 1,
                    first: offender,
                };
                true
            }
        }
    }
}

/// The quick set at start. It runs beside the daemon, which is ready meanwhile.
pub(super) fn at_start(database: &Path, shared: &Arc<Shared>) {
    let began = Instant::now();
    let checker = match Checker::open(database, shared, Some(began + QUICK)) {
        Ok(checker) => checker,
        Err(error) => return log::warn!("the queue could not be checked: {error}"),
    };
    let (mut sound, mut unfinished) = (0, 0);
    checker.quick(&mut |checked| match &checked.soundness {
        Soundness::Sound => sound += 1,
        Soundness::Unfinished(_) => unfinished += 1,
        Soundness::Broken { .. } => log_broken(&checked),
    });
    // A store that ended meanwhile has other news.
    if shared.check_open().is_ok() {
        Line::new("checked")
            .num("sound", sound)
            .num("unfinished", unfinished)
            .key("took", format_args!("{}ms", began.elapsed().as_millis()))
            .info();
    }
}

/// An invariant that does not hold is the operator's business (OBS-3).
pub(super) fn log_broken(checked: &Checked) {
    if let Soundness::Broken { rows, first } = &checked.soundness {
        Line::new("check-failed")
            .key("check", checked.name)
            .num("rows", *rows)
            .peer("first", first)
            .peer("text", checked.sentence)
            .error();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::reply::reply;
    use crate::store::request::Job;
    use crate::store::testing::{TempDir, enqueue, writable};
    use crate::store::writer::Writer;

    /// A queue of three messages, and what each check says after `damage`.
    fn broken_by(damage: &str) -> Vec<&'static str> {
        let directory = TempDir::new();
        let (files, conn, shared) = writable(&directory);
        let mut writer = Writer::new(&conn, Clock::system(), Arc::clone(&shared)).unwrap();
        for id in [1, 2, 3] {
            let (reply, waiter) = reply();
            let op = enqueue(id, b"content");
            assert!(writer.serve(vec![Job { op, reply }]));
            waiter.wait().unwrap();
        }
        conn.pragma_update(None, "foreign_keys", 0).unwrap();
        conn.execute_batch("UPDATE queue SET next_id = 4").unwrap();
        conn.execute_batch(damage).unwrap();
        let checker = Checker::open(&files.database, &shared, None).unwrap();
        let mut broken = Vec::new();
        let mut names = Vec::new();
        checker.all(&mut |checked| {
            names.push(checked.name);
            match checked.soundness {
                Soundness::Sound => {}
                Soundness::Broken { rows, first } => {
                    assert!(rows > 0 && !first.is_empty());
                    broken.push(checked.name);
                }
                Soundness::Unfinished(why) => panic!("{}: {why}", checked.name),
            }
        });
        let known = WHOLE.len() + OF_MESSAGES.len() + 1;
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), known, "{names:?}");
        broken
    }

    // ST-18
    #[test]
    fn a_queue_as_it_should_be_breaks_no_invariant() {
        assert_eq!(broken_by(""), [""; 0]);
    }

    // ST-18
    #[test]
    fn each_invariant_is_broken_by_what_it_forbids() {
        let of_two = "(2 << 20) + 1";
        let cases = [
            ("next-id", "UPDATE queue SET next_id = 3".to_owned()),
            ("unowned", "INSERT INTO unowned VALUES (2, 1)".into()),
            ("unowned", "INSERT INTO unowned VALUES (2, 0)".into()),
            ("notice", "INSERT INTO notice VALUES (2, 0, 1, 5)".into()),
            ("counts", "UPDATE queue SET queued = 2".into()),
            ("counts", "UPDATE queue SET held = 1".into()),
            ("next-due", "UPDATE destination SET next_due = 5".into()),
            ("next-due", "UPDATE destination SET next_due = NULL".into()),
            (
                "count-doubt",
                format!("UPDATE recipient SET doubt = 1 WHERE id = {of_two}"),
            ),
            ("count-messages", "UPDATE queue SET messages = 2".into()),
            (
                "recipient-message",
                format!("UPDATE recipient SET id = 5 << 20 | 1 WHERE id = {of_two}"),
            ),
            (
                "recipient-message",
                format!("UPDATE recipient SET destination = 9 WHERE id = {of_two}"),
            ),
            (
                "recipients",
                "UPDATE message SET recipients = 2 WHERE id = 2".into(),
            ),
            (
                "open",
                "UPDATE message SET recipients = 2, open = 2 WHERE id = 2".into(),
            ),
            (
                "alone",
                format!("UPDATE recipient SET alone = 0 WHERE id = {of_two}"),
            ),
            (
                "state",
                format!("UPDATE recipient SET state = 7 WHERE id = {of_two}"),
            ),
            (
                "state",
                format!("UPDATE recipient SET finished = 5 WHERE id = {of_two}"),
            ),
            (
                "state",
                format!("UPDATE recipient SET state = 1 WHERE id = {of_two}"),
            ),
            ("content", "DELETE FROM chunk WHERE id = 2 << 20".into()),
            (
                "content",
                "UPDATE chunk SET data = x'00' WHERE id = 2 << 20".into(),
            ),
            ("freed", "INSERT INTO chunk VALUES (9 << 20, x'00')".into()),
            (
                "freed",
                format!("UPDATE recipient SET state = 6, finished = 5 WHERE id = {of_two}"),
            ),
            (
                "attempt",
                "INSERT INTO attempt (recipient, ordinal, kind, started) VALUES (9, 1, 0, 5)"
                    .into(),
            ),
            (
                "delivered",
                format!("UPDATE recipient SET state = 3, finished = 5 WHERE id = {of_two}"),
            ),
            (
                "integrity",
                "PRAGMA writable_schema = 1; UPDATE sqlite_schema SET sql = \
                 'CREATE INDEX recipient_delay ON recipient (delay_due) WHERE delay_due IS NULL' \
                 WHERE name = 'recipient_delay'"
                    .into(),
            ),
        ];
        for (name, damage) in &cases {
            let broken = broken_by(damage);
            assert!(broken.contains(name), "{damage}: {broken:?}");
        }
        let tried = |name: &str| cases.iter().any(|(tried, _)| *tried == name);
        for invariant in WHOLE.iter().chain(OF_MESSAGES) {
            assert!(tried(invariant.name), "{} has no case", invariant.name);
        }
    }

    // ST-14, ST-18
    #[test]
    fn what_is_cut_off_is_unfinished_and_not_sound() {
        let directory = TempDir::new();
        let (files, _conn, shared) = writable(&directory);
        let checker = Checker::open(&files.database, &shared, Some(Instant::now())).unwrap();
        let mut found = Soundness::Sound;
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
            SELECT 'row' FROM n WHERE i < 0";
        let cut_off = checker.limited(|conn| ask(conn, endless, &[], &mut found));
        unfinished(&mut found, &cut_off.unwrap_err());
        assert!(matches!(found, Soundness::Unfinished(_)), "{found:?}");
    }
}
