//! What the hosts of a domain once reached (TLS-5, TLS-6). The store keeps times; what they mean is for `policy::tls`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::{self, Fault};
use super::request::Op;
use super::writer::Writer;
use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::smtp::address::Domain;

const COLUMNS: &str = "domain, since, encrypted, verified, requiretls";

/// A host of a domain had TLS.
#[derive(Clone, Debug)]
pub struct TlsSeen {
    /// The recipients' domain.
    pub domain: Domain,
    /// When.
    pub at: Timestamp,
    /// The host was verified, by name or by DANE.
    pub verified: bool,
    /// It announced REQUIRETLS.
    pub requiretls: bool,
    /// What was not seen since then is forgotten (TLS-6).
    pub forget_before: Timestamp,
}

/// What is remembered of a domain's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRow {
    /// The domain.
    pub domain: String,
    /// When TLS was seen first.
    pub since: Timestamp,
    /// When TLS was seen last.
    pub encrypted: Timestamp,
    /// When a host was verified last.
    pub verified: Option<Timestamp>,
    /// When a host announced REQUIRETLS last.
    pub requiretls: Option<Timestamp>,
}

impl Store {
    /// Remembers that a host of a domain had TLS (TLS-5). Waits for nothing; comes before whatever is asked for next, and
    /// may be lost when the disk is full.
    pub fn note_tls(&self, seen: TlsSeen) {
        self.inner.tell(Op::NoteTls(seen));
    }

    /// What is remembered of a domain, however old it is.
    ///
    /// # Errors
    /// [`StoreError`]; whoever would speak to it must not go on as if nothing were remembered.
    pub fn tls_memory(&self, domain: &Domain) -> Result<Option<TlsRow>, StoreError> {
        self.inner.readers.read(|conn| of(conn, domain))
    }

    /// What is remembered of the domains that follow `after`, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tls_memories(&self, after: &str, limit: usize) -> Result<Vec<TlsRow>, StoreError> {
        self.inner
            .readers
            .read(|conn| following(conn, after, limit))
    }

    /// Forgets a domain; whether there was something.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_tls(&self, domain: &str) -> Result<bool, StoreError> {
        self.inner.ask(Op::ForgetTls(domain.to_owned()))?.whether()
    }
}

fn row(row: &Row<'_>) -> rusqlite::Result<TlsRow> {
    let time = |millis: Option<i64>| millis.map(Timestamp::from_millis);
    Ok(TlsRow {
        domain: row.get(0)?,
        since: Timestamp::from_millis(row.get(1)?),
        encrypted: Timestamp::from_millis(row.get(2)?),
        verified: time(row.get(3)?),
        requiretls: time(row.get(4)?),
    })
}

/// What is kept of one domain.
pub(super) fn of(conn: &Connection, domain: &Domain) -> Result<Option<TlsRow>, StoreError> {
    let read = || {
        conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM tls_memory WHERE domain = ?1"
        ))?
        .query_row([domain.as_str()], row)
        .optional()
    };
    read().map_err(|error| fault::answer_for(&error))
}

/// What is kept of domains after this one, by name; at most `limit` of them.
pub(super) fn following(
    conn: &Connection,
    domain: &str,
    limit: usize,
) -> Result<Vec<TlsRow>, StoreError> {
    let read = || {
        conn.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM tls_memory WHERE domain > ?1 ORDER BY domain LIMIT ?2"
        ))?
        .query_map(params![domain, limit as i64], row)?
        .collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| fault::answer_for(&error))
}

impl Writer<'_> {
    /// TLS-5. What is too old goes first, so that an old entry does not come to life again.
    pub(super) fn note_tls(&mut self, seen: &TlsSeen) -> Result<(), Fault> {
        let (domain, at) = (seen.domain.as_str(), seen.at.millis());
        let forget = seen.forget_before.millis();
        self.sql.forget_old_tls.execute([forget])?;
        self.sql
            .forget_tls_before
            .execute(params![domain, forget])?;
        let verified = seen.verified.then_some(at);
        let requiretls = seen.requiretls.then_some(at);
        self.sql
            .note_tls
            .execute(params![domain, at, verified, requiretls])?;
        Ok(())
    }

    /// Whether there was something to forget.
    pub(super) fn forget_tls(&mut self, domain: &str) -> Result<bool, Fault> {
        Ok(self.sql.forget_tls.execute([domain])? > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::testing::{TempDir, open};

    // TLS-5, TLS-6
    #[test]
    fn each_thing_is_remembered_with_the_time_it_was_last_seen() {
        let directory = TempDir::new();
        let store = open(&directory);
        let domain = Domain::parse("dest.test").unwrap();
        let start = Timestamp::from_secs(1_800_000_000);
        let day = Duration::from_secs(86_400);
        let note = |days: u32, verified, requiretls| {
            let at = start.plus(day * days);
            store.note_tls(TlsSeen {
                domain: domain.clone(),
                at,
                verified,
                requiretls,
                forget_before: at.minus(day * 10),
            });
            // Behind it in the queue, so it is done when this is.
            store.forget_tls("nobody.test").unwrap();
            store.tls_memory(&domain).unwrap().unwrap()
        };
        let first = note(0, true, true);
        assert_eq!((first.since, first.verified), (start, Some(start)));
        let second = note(3, false, false);
        assert_eq!(second.since, start);
        assert_eq!(second.encrypted, start.plus(day * 3));
        assert_eq!(
            (second.verified, second.requiretls),
            (Some(start), Some(start))
        );
        // Forgotten, and begun anew.
        let third = note(14, false, false);
        assert_eq!((third.since, third.verified), (start.plus(day * 14), None));
        assert_eq!(store.tls_memories("", 10).unwrap(), [third]);
        assert_eq!(store.tls_memories("dest.test", 10).unwrap(), []);
        assert!(store.forget_tls("dest.test").unwrap());
        assert!(!store.forget_tls("dest.test").unwrap());
        assert_eq!(store.tls_memory(&domain).unwrap(), None);
    }

    // TLS-6, PRC-8
    #[test]
    fn what_nobody_asks_for_again_is_removed_by_the_way() {
        let directory = TempDir::new();
        let store = open(&directory);
        let at = |secs| Timestamp::from_secs(1_800_000_000 + secs);
        for n in 0..5 {
            store.note_tls(TlsSeen {
                domain: Domain::parse(&format!("d{n}.test")).unwrap(),
                at: at(i64::from(n)),
                verified: false,
                requiretls: false,
                forget_before: at(i64::from(n) - 2),
            });
        }
        store.forget_tls("nobody.test").unwrap();
        let left = store.tls_memories("", 10).unwrap();
        let left: Vec<&str> = left.iter().map(|row| row.domain.as_str()).collect();
        assert_eq!(left, ["d2.test", "d3.test", "d4.test"]);
    }
}
