//! What the hosts of a domain once reached (TLS-5, TLS-6). The store keeps times; what they mean is for `policy::tls`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::{self, Fault};
use super::writer::Writer;
use super::{StoreError, TlsRow, TlsSeen};
use crate::clock::Timestamp;
use crate::smtp::address::Domain;

const COLUMNS: &str = "domain, since, encrypted, verified, requiretls";

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
pub(super) fn after(
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
    use crate::clock::Clock;
    use crate::store::Store;
    use crate::store::testing::{TempDir, settings};

    fn open(directory: &TempDir) -> Store {
        Store::open(&settings(directory.path()), &Clock::system())
            .unwrap()
            .0
    }

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
