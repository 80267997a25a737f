//! Is the queue what it should be? Named invariants, each a query that must return no row, and SQLite's own
//! `integrity_check` (ST-18).
//!
//! All of it reads only, on a connection of its own, while the daemon works. No read transaction lasts longer than that
//! of any other reader (ST-14): what concerns single messages is asked in windows of them, and what cannot be finished
//! in time is reported as unfinished, never as well. At each start the quick ones run, for 2 s at most.

mod invariants;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use self::invariants::{Invariant, OF_MESSAGES, QUICK_ONES, WHOLE};
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
