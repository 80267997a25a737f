//! MTA-STS policies (STS-10, STS-11). The store keeps times; what they mean is for `policy::sts`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::{self, Fault};
use super::request::Op;
use super::writer::Writer;
use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::policy::tls::facts::{MxPattern, StsMode, StsPolicy};
use crate::smtp::address::Domain;

/// An MTA-STS policy as it is kept (STS-10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsRow {
    /// The policy domain.
    pub domain: Domain,
    /// The policy.
    pub policy: StsPolicy,
    /// When it was fetched.
    pub fetched: Timestamp,
    /// When an attempt last used it, to the day.
    pub used: Timestamp,
    /// All hosts failed it since then.
    pub anew: bool,
}

/// What happens to the policies that are kept.
#[derive(Clone, Debug)]
pub enum StsChange {
    /// This one was fetched. There may be no room for it.
    Keep {
        /// The policy domain.
        domain: Domain,
        /// The policy.
        policy: StsPolicy,
        /// When it was fetched.
        at: Timestamp,
    },
    /// There is none.
    Forget(String),
    /// An attempt used it.
    Used {
        /// The policy domain.
        domain: Domain,
        /// When.
        at: Timestamp,
    },
    /// All hosts failed it.
    Anew(Domain),
    /// Some of those that were not used since then go; ask again while something changes.
    Unused {
        /// When.
        before: Timestamp,
    },
}

impl Store {
    /// Changes the cache of MTA-STS policies; whether something changed, or there was room.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn change_sts(&self, change: StsChange) -> Result<bool, StoreError> {
        self.inner.ask(Op::ChangeSts(change))?.whether()
    }

    /// As [`Store::change_sts`], for what may be lost when the disk is full; waits for nothing.
    pub fn note_sts(&self, change: StsChange) {
        self.inner.tell(Op::ChangeSts(change));
    }

    /// The MTA-STS policy that was fetched of a domain, expired or not.
    ///
    /// # Errors
    /// [`StoreError`]; whoever would speak to it must not go on as if there were none.
    pub fn sts_policy(&self, domain: &Domain) -> Result<Option<StsRow>, StoreError> {
        self.inner.readers.read(|conn| of(conn, domain))
    }

    /// The policies of the domains that follow `after`, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sts_policies(&self, after: &str, limit: usize) -> Result<Vec<StsRow>, StoreError> {
        self.inner
            .readers
            .read(|conn| following(conn, after, limit))
    }

    /// Domains whose policies were fetched after `from` and before `before`, the oldest first, with the time.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn sts_fetched_before(
        &self,
        from: (Timestamp, &str),
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, String)>, StoreError> {
        self.inner
            .readers
            .read(|conn| fetched_between(conn, from, before, limit))
    }

    /// How many policies there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sts_count(&self) -> Result<u64, StoreError> {
        self.inner.readers.read(count)
    }
}

/// STS-10: as many are kept.
pub(super) const MOST: i64 = 100_000;

/// What is removed at a time, so that nobody waits long for it.
const STEP: i64 = 500;

const COLUMNS: &str = "domain, id, mode, max_age, mx, fetched, expires, used, anew";

/// `None` for a row that cannot be read: it is as good as none, and is written over by the next fetch.
fn row(row: &Row<'_>) -> rusqlite::Result<Option<StsRow>> {
    let time = |at| row.get::<_, i64>(at).map(Timestamp::from_millis);
    let domain: String = row.get(0)?;
    let mode = match row.get(2)? {
        0 => StsMode::None,
        1 => StsMode::Testing,
        2 => StsMode::Enforce,
        _ => return Ok(None),
    };
    let mx: String = row.get(4)?;
    let mx: Option<Vec<MxPattern>> = mx.lines().map(MxPattern::parse).collect();
    let (Some(mx), Ok(domain)) = (mx, Domain::parse(&domain)) else {
        return Ok(None);
    };
    Ok(Some(StsRow {
        domain,
        policy: StsPolicy {
            id: row.get(1)?,
            mode,
            mx,
            max_age: row.get(3)?,
            expires: time(6)?,
        },
        fetched: time(5)?,
        used: time(7)?,
        anew: row.get(8)?,
    }))
}

/// The policy of a domain, expired or not.
pub(super) fn of(conn: &Connection, domain: &Domain) -> Result<Option<StsRow>, StoreError> {
    let read = || {
        conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM sts_policy WHERE domain = ?1"
        ))?
        .query_row([domain.as_str()], row)
        .optional()
    };
    read()
        .map(Option::flatten)
        .map_err(|error| fault::answer_for(&error))
}

/// Policies of domains after this one, by name; at most `limit` of them.
pub(super) fn following(
    conn: &Connection,
    domain: &str,
    limit: usize,
) -> Result<Vec<StsRow>, StoreError> {
    let read = || {
        conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM sts_policy WHERE domain > ?1 ORDER BY domain LIMIT ?2"
        ))?
        .query_map(params![domain, limit as i64], row)?
        .filter_map(Result::transpose)
        .collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| fault::answer_for(&error))
}

/// Domains whose policies were fetched between the two times, the oldest first; with the time, to go on from there.
pub(super) fn fetched_between(
    conn: &Connection,
    from: (Timestamp, &str),
    before: Timestamp,
    limit: usize,
) -> Result<Vec<(Timestamp, String)>, StoreError> {
    let read = || {
        conn.prepare_cached(
            "SELECT fetched, domain FROM sts_policy WHERE (fetched, domain) > (?1, ?2) AND fetched < ?3 \
             ORDER BY fetched, domain LIMIT ?4",
        )?
        .query_map(
            params![from.0.millis(), from.1, before.millis(), limit as i64],
            |row| Ok((Timestamp::from_millis(row.get(0)?), row.get(1)?)),
        )?
        .collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| fault::answer_for(&error))
}

/// How many there are.
pub(super) fn count(conn: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT policies FROM sts_count WHERE one = 1";
    let count: i64 = conn
        .query_row(sql, [], |row| row.get(0))
        .map_err(|error| fault::answer_for(&error))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

impl Writer<'_> {
    /// Whether something changed; of [`StsChange::Keep`], whether there was room.
    pub(super) fn change_sts(&mut self, change: &StsChange) -> Result<bool, Fault> {
        match change {
            StsChange::Keep { domain, policy, at } => self.keep_sts(domain, policy, *at),
            StsChange::Forget(domain) => Ok(self.sql.forget_sts.execute([domain])? > 0),
            StsChange::Used { domain, at } => {
                let changed = self
                    .sql
                    .use_sts
                    .execute(params![domain.as_str(), at.millis()])?;
                Ok(changed > 0)
            }
            StsChange::Anew(domain) => Ok(self.sql.anew_sts.execute([domain.as_str()])? > 0),
            StsChange::Unused { before } => {
                let gone = self
                    .sql
                    .forget_unused_sts
                    .execute(params![before.millis(), STEP])?;
                Ok(gone > 0)
            }
        }
    }

    fn keep_sts(
        &mut self,
        domain: &Domain,
        policy: &StsPolicy,
        at: Timestamp,
    ) -> Result<bool, Fault> {
        let mode = match policy.mode {
            StsMode::None => 0,
            StsMode::Testing => 1,
            StsMode::Enforce => 2,
        };
        let mx: Vec<String> = policy.mx.iter().map(MxPattern::to_string).collect();
        let values = params![
            domain.as_str(),
            policy.id,
            mode,
            policy.max_age,
            mx.join("\n"),
            at.millis(),
            policy.expires.millis(),
        ];
        if self.sql.renew_sts.execute(values)? > 0 {
            return Ok(true);
        }
        let count: i64 = self.sql.count_sts.query_row([], |row| row.get(0))?;
        if count >= MOST {
            // STS-10: who is known keeps the place until the policy has expired.
            self.sql.forget_expired_sts.execute([at.millis()])?;
            let count: i64 = self.sql.count_sts.query_row([], |row| row.get(0))?;
            if count >= MOST {
                return Ok(false);
            }
        }
        self.sql.insert_sts.execute(values)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;
    use crate::store::testing::{TempDir, open, writable};

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(1_800_000_000 + secs)
    }

    fn policy(id: &str, from: Timestamp) -> StsPolicy {
        let text = b"version: STSv1\nmode: enforce\nmx: mx.a.test\nmx: *.b.test\nmax_age: 100\n";
        crate::policy::sts::policy(text).unwrap().in_force(id, from)
    }

    fn keep(store: &Store, name: &str, id: &str, from: Timestamp) -> bool {
        store
            .change_sts(StsChange::Keep {
                domain: domain(name),
                policy: policy(id, from),
                at: from,
            })
            .unwrap()
    }

    // STS-10
    #[test]
    fn a_policy_survives_a_restart_word_for_word() {
        let directory = TempDir::new();
        let store = open(&directory);
        assert_eq!(store.sts_policy(&domain("dest.test")).unwrap(), None);
        assert!(keep(&store, "dest.test", "1", at(0)));
        store.close();
        let store = open(&directory);
        let row = store.sts_policy(&domain("dest.test")).unwrap().unwrap();
        assert_eq!(row.policy, policy("1", at(0)));
        assert_eq!((row.fetched, row.used, row.anew), (at(0), at(0), false));
        assert_eq!(store.sts_policies("", 10).unwrap(), [row]);
        assert_eq!(store.sts_policies("dest.test", 10).unwrap(), []);
    }

    // STS-4, STS-8, STS-11
    #[test]
    fn marks_are_kept_until_the_policy_is_fetched_anew() {
        let directory = TempDir::new();
        let store = open(&directory);
        keep(&store, "dest.test", "1", at(0));
        store.note_sts(StsChange::Anew(domain("dest.test")));
        store.note_sts(StsChange::Used {
            domain: domain("dest.test"),
            at: at(50),
        });
        let forget = |name: &str| {
            store
                .change_sts(StsChange::Forget(name.to_owned()))
                .unwrap()
        };
        // Behind them in the queue, so they are done when this is.
        assert!(!forget("nobody.test"));
        let row = store.sts_policy(&domain("dest.test")).unwrap().unwrap();
        assert_eq!((row.used, row.anew, row.fetched), (at(50), true, at(0)));
        assert!(keep(&store, "dest.test", "2", at(60)));
        let row = store.sts_policy(&domain("dest.test")).unwrap().unwrap();
        assert_eq!((row.used, row.anew, row.fetched), (at(50), false, at(60)));
        assert_eq!(row.policy, policy("2", at(60)));
        assert!(forget("dest.test"));
        assert_eq!(store.sts_policy(&domain("dest.test")).unwrap(), None);
        assert_eq!(store.sts_count().unwrap(), 0);
    }

    // STS-11
    #[test]
    fn what_was_not_fetched_for_long_is_found_oldest_first_and_what_is_unused_goes() {
        let directory = TempDir::new();
        let store = open(&directory);
        for n in 0..5 {
            keep(&store, &format!("d{}.test", 9 - n), "1", at(n));
        }
        let old = |from: (Timestamp, &str), limit| -> Vec<String> {
            let found = store.sts_fetched_before(from, at(3), limit).unwrap();
            found.into_iter().map(|(_, domain)| domain).collect()
        };
        assert_eq!(old((Timestamp::default(), ""), 2), ["d9.test", "d8.test"]);
        assert_eq!(old((at(1), "d8.test"), 2), ["d7.test"]);
        assert!(
            store
                .change_sts(StsChange::Unused { before: at(4) })
                .unwrap()
        );
        assert!(
            !store
                .change_sts(StsChange::Unused { before: at(4) })
                .unwrap()
        );
        assert_eq!(store.sts_count().unwrap(), 1);
    }

    // STS-10
    #[test]
    fn a_full_cache_takes_a_new_domain_only_in_the_place_of_an_expired_one() {
        let directory = TempDir::new();
        let (_files, conn, shared) = writable(&directory);
        conn.execute_batch(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MOST}) \
             INSERT INTO sts_policy SELECT 'd' || i || '.test', '1', 2, 100, 'mx.test', 0, \
             CASE i WHEN 7 THEN {} ELSE {} END, 0, 0 FROM n",
            at(10).millis(),
            at(100).millis()
        ))
        .unwrap();
        let mut writer = Writer::new(&conn, Clock::system(), shared).unwrap();
        let mut keep = |name: &str, now: Timestamp| {
            let change = StsChange::Keep {
                domain: domain(name),
                policy: policy("2", now),
                at: now,
            };
            writer.change_sts(&change).unwrap()
        };
        assert!(!keep("new.test", at(10)));
        assert!(keep("d5.test", at(10)), "who is known is renewed");
        assert!(keep("new.test", at(10).plus(Duration::from_millis(1))));
        assert!(!keep("newer.test", at(20)));
        assert_eq!(count(&conn).unwrap(), MOST as u64);
        assert_eq!(of(&conn, &domain("d7.test")).unwrap(), None);
        assert!(of(&conn, &domain("d8.test")).unwrap().is_some());
    }
}
