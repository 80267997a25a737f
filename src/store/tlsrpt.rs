//! Counts for TLS reports, and how far the reports are (RPT-1, RPT-2, RPT-4). When one is due is for `policy::tlsrpt`.
//!
//! A crash loses what had not been handed over, and nothing else: a request counts as a whole or not at all.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::{self, Fault};
use super::writer::Writer;
use super::{DueReport, ReportChange, ReportCount, ReportRow, StoreError};
use crate::clock::Timestamp;
use crate::message::tlsrpt::{FailureCount, PolicyCount, PolicyType};
use crate::policy::tlsrpt::schedule::Day;
use crate::smtp::address::Domain;

/// RPT-4: domains of a day. Who comes later is not counted, and gets no report.
const MOST_DOMAINS: i64 = 10_000;

/// Policies of a domain and day: who changes them more often than that gets a report that lacks some.
const MOST_POLICIES: i64 = 10;

/// Ways of failing of one policy that are told apart; hosts, addresses and greetings are the peer's to choose.
const MOST_FAILURES: i64 = 100;

/// What is removed at a time, so that nobody waits long for it.
const STEP: i64 = 200;

/// The report that is due first, and how many are due.
pub(super) fn due(conn: &Connection, now: Timestamp) -> Result<Option<DueReport>, StoreError> {
    let read = || {
        let first = conn
            .prepare_cached(
                "SELECT day, domain, tries FROM tls_report WHERE done = 0 AND next <= ?1 \
                 ORDER BY next, day, domain LIMIT 1",
            )?
            .query_row([now.millis()], |row| {
                Ok((row.get(0)?, row.get::<_, String>(1)?, row.get(2)?))
            })
            .optional()?;
        let Some((day, domain, tries)) = first else {
            return Ok(None);
        };
        let waiting: i64 = conn
            .prepare_cached("SELECT count(*) FROM tls_report WHERE done = 0 AND next <= ?1")?
            .query_row([now.millis()], |row| row.get(0))?;
        Ok(Some(DueReport {
            day: Day::from_number(day),
            domain,
            tries,
            waiting: usize::try_from(waiting).unwrap_or(usize::MAX),
        }))
    };
    read().map_err(|error: rusqlite::Error| fault::answer_for(&error))
}

/// When the first of those that are not due yet will be.
pub(super) fn next(conn: &Connection, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let read = || {
        conn.prepare_cached("SELECT min(next) FROM tls_report WHERE done = 0 AND next > ?1")?
            .query_row([now.millis()], |row| row.get::<_, Option<i64>>(0))
    };
    read()
        .map(|next| next.map(Timestamp::from_millis))
        .map_err(|error| fault::answer_for(&error))
}

/// What was counted of a domain on a day.
pub(super) fn counts(
    conn: &Connection,
    day: Day,
    domain: &str,
) -> Result<Vec<PolicyCount>, StoreError> {
    let read = || {
        let mut policies = conn.prepare_cached(
            "SELECT id, kind, base, lines, successes, failures FROM tls_report_policy \
             WHERE day = ?1 AND domain = ?2 ORDER BY kind, base, lines",
        )?;
        let mut failures = conn.prepare_cached(
            "SELECT kind, host, address, helo, source, reason, sessions FROM tls_report_failure \
             WHERE policy = ?1 ORDER BY kind, host, address, helo, source",
        )?;
        policies
            .query_map(params![day.number(), domain], |row| {
                let id: i64 = row.get(0)?;
                let mut count = policy(row)?;
                count.details = failures
                    .query_map([id], failure)?
                    .collect::<rusqlite::Result<_>>()?;
                Ok(count)
            })?
            .collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error: rusqlite::Error| fault::answer_for(&error))
}

fn policy(row: &Row<'_>) -> rusqlite::Result<PolicyCount> {
    let lines: String = row.get(3)?;
    Ok(PolicyCount {
        kind: match row.get(1)? {
            1 => PolicyType::Sts,
            2 => PolicyType::Tlsa,
            _ => PolicyType::NoPolicyFound,
        },
        domain: row.get(2)?,
        lines: lines.lines().map(str::to_owned).collect(),
        successes: unsigned(row.get(4)?),
        failures: unsigned(row.get(5)?),
        details: Vec::new(),
    })
}

fn failure(row: &Row<'_>) -> rusqlite::Result<FailureCount> {
    Ok(FailureCount {
        kind: row.get(0)?,
        host: row.get(1)?,
        address: row.get(2)?,
        helo: row.get(3)?,
        source: row.get(4)?,
        reason: row.get(5)?,
        sessions: unsigned(row.get(6)?),
    })
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Reports after this day and domain, in order; at most `limit` of them.
pub(super) fn after(
    conn: &Connection,
    after: (Day, &str),
    limit: usize,
) -> Result<Vec<ReportRow>, StoreError> {
    let read = || {
        conn.prepare_cached(
            "SELECT day, domain, done, tries, next, \
             (SELECT coalesce(sum(successes), 0) FROM tls_report_policy p WHERE p.day = r.day AND p.domain = r.domain), \
             (SELECT coalesce(sum(failures), 0) FROM tls_report_policy p WHERE p.day = r.day AND p.domain = r.domain) \
             FROM tls_report r WHERE (day, domain) > (?1, ?2) ORDER BY day, domain LIMIT ?3",
        )?
        .query_map(params![after.0.number(), after.1, limit as i64], |row| {
            Ok(ReportRow {
                day: Day::from_number(row.get(0)?),
                domain: row.get(1)?,
                done: row.get(2)?,
                tries: row.get(3)?,
                next: Timestamp::from_millis(row.get(4)?),
                successes: unsigned(row.get(5)?),
                failures: unsigned(row.get(6)?),
            })
        })?
        .collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error: rusqlite::Error| fault::answer_for(&error))
}

impl Writer<'_> {
    /// Whether something changed.
    pub(super) fn change_report(&mut self, change: &ReportChange) -> Result<bool, Fault> {
        match change {
            ReportChange::Count(counts) => {
                for count in counts {
                    self.count_report(count)?;
                }
                Ok(!counts.is_empty())
            }
            ReportChange::Try {
                day,
                domain,
                tries,
                next,
            } => {
                let values = params![day.number(), domain, tries, next.millis()];
                Ok(self.sql.try_report.execute(values)? > 0)
            }
            ReportChange::Done { day, domain } => {
                let values = params![day.number(), domain];
                let done = self.sql.finish_report.execute(values)? > 0;
                self.sql.forget_failures_of.execute(values)?;
                self.sql.forget_policies_of.execute(values)?;
                Ok(done)
            }
            ReportChange::Forget { before } => {
                let before = before.number();
                let mut gone = self
                    .sql
                    .forget_old_failures
                    .execute(params![before, STEP])?;
                gone += self
                    .sql
                    .forget_old_policies
                    .execute(params![before, STEP])?;
                gone += self.sql.forget_old_reports.execute(params![before, STEP])?;
                self.sql.forget_old_days.execute([before])?;
                Ok(gone > 0)
            }
        }
    }

    fn count_report(&mut self, count: &ReportCount) -> Result<(), Fault> {
        let ReportCount {
            day,
            domain,
            policy,
        } = count;
        let Some(id) = self.report_policy(*day, domain, policy)? else {
            return Ok(());
        };
        for failure in &policy.details {
            let sessions = signed(failure.sessions);
            let known = self.sql.add_failures.execute(params![
                id,
                failure.kind,
                failure.host,
                failure.address,
                failure.helo,
                failure.source,
                sessions
            ])?;
            if known > 0 {
                continue;
            }
            let many: i64 = self.sql.count_failures.query_row([id], |row| row.get(0))?;
            if many < MOST_FAILURES {
                self.sql.insert_failure.execute(params![
                    id,
                    failure.kind,
                    failure.host,
                    failure.address,
                    failure.helo,
                    failure.source,
                    failure.reason,
                    sessions
                ])?;
            } else {
                // There are no more of these than kinds.
                self.sql
                    .add_other_failures
                    .execute(params![id, failure.kind, sessions])?;
            }
        }
        Ok(())
    }

    /// The row of the policy, with the sums of this count added; `None` where there is no room for it, or the report is
    /// out already.
    fn report_policy(
        &mut self,
        day: Day,
        domain: &Domain,
        policy: &PolicyCount,
    ) -> Result<Option<i64>, Fault> {
        let lines = policy.lines.join("\n");
        let kind = match policy.kind {
            PolicyType::NoPolicyFound => 0,
            PolicyType::Sts => 1,
            PolicyType::Tlsa => 2,
        };
        let values = params![
            day.number(),
            domain.as_str(),
            kind,
            policy.domain,
            lines,
            signed(policy.successes),
            signed(policy.failures)
        ];
        let known = self.sql.add_report.query_row(values, |row| row.get(0));
        if let Some(id) = known.optional()? {
            return Ok(Some(id));
        }
        let key = params![day.number(), domain.as_str()];
        let done = self.sql.find_report.query_row(key, |row| row.get(0));
        match done.optional()? {
            Some(true) => return Ok(None),
            Some(false) => {
                let many: i64 = self.sql.count_policies.query_row(key, |row| row.get(0))?;
                if many >= MOST_POLICIES {
                    return Ok(None);
                }
            }
            None => {
                let room = params![day.number(), MOST_DOMAINS];
                if self.sql.add_report_domain.execute(room)? == 0 {
                    return Ok(None);
                }
                let due = day.end().millis();
                self.sql
                    .insert_report
                    .execute(params![day.number(), domain.as_str(), due])?;
            }
        }
        let id = self
            .sql
            .insert_report_policy
            .query_row(values, |row| row.get(0))?;
        Ok(Some(id))
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::Store;
    use crate::store::testing::{TempDir, settings, writable};

    const DAY: i64 = 20_833;

    fn day() -> Day {
        Day::from_number(DAY)
    }

    fn open(directory: &TempDir) -> Store {
        Store::open(&settings(directory.path()), &Clock::system())
            .unwrap()
            .0
    }

    fn failed(host: &str, sessions: u64) -> FailureCount {
        FailureCount {
            kind: "certificate-expired".into(),
            host: host.into(),
            address: "192.0.2.1".into(),
            helo: String::new(),
            source: "192.0.2.9".into(),
            reason: format!("first of {host}"),
            sessions,
        }
    }

    fn count(
        domain: &str,
        lines: &[&str],
        successes: u64,
        details: &[FailureCount],
    ) -> ReportCount {
        ReportCount {
            day: day(),
            domain: Domain::parse(domain).unwrap(),
            policy: PolicyCount {
                kind: if lines.is_empty() {
                    PolicyType::NoPolicyFound
                } else {
                    PolicyType::Sts
                },
                domain: domain.into(),
                lines: lines.iter().map(|line| (*line).to_owned()).collect(),
                successes,
                failures: details.iter().map(|one| one.sessions).sum(),
                details: details.to_vec(),
            },
        }
    }

    // RPT-1
    #[test]
    fn counts_of_a_day_add_up_and_survive_a_restart() {
        let directory = TempDir::new();
        let store = open(&directory);
        let lines = ["version: STSv1", "mode: testing"];
        let add = |counts| store.change_report(ReportChange::Count(counts)).unwrap();
        assert!(add(vec![
            count("dest.test", &lines, 2, &[failed("a.test", 1)]),
            count("other.test", &[], 1, &[]),
        ]));
        let mut again = failed("a.test", 3);
        again.reason = "a later one".into();
        add(vec![
            count("dest.test", &lines, 1, &[again, failed("b.test", 1)]),
            count("dest.test", &[], 7, &[]),
        ]);
        store.close();
        let store = open(&directory);
        let found = store.report_counts(day(), "dest.test").unwrap();
        let mut all = count(
            "dest.test",
            &lines,
            3,
            &[failed("a.test", 4), failed("b.test", 1)],
        );
        all.policy.failures = 5;
        assert_eq!(found, [count("dest.test", &[], 7, &[]).policy, all.policy]);
        let listed = store.reports_after((Day::from_number(0), ""), 10).unwrap();
        let listed: Vec<_> = listed
            .iter()
            .map(|row| (row.day, &*row.domain, row.done, row.successes, row.failures))
            .collect();
        assert_eq!(
            listed,
            [
                (day(), "dest.test", false, 10, 5),
                (day(), "other.test", false, 1, 0)
            ]
        );
        let rest = store.reports_after((day(), "dest.test"), 10).unwrap();
        assert_eq!(rest.len(), 1);
    }

    // RPT-2, RPT-4
    #[test]
    fn a_report_is_due_after_its_day_and_done_once() {
        let directory = TempDir::new();
        let store = open(&directory);
        let add = |counts| store.change_report(ReportChange::Count(counts)).unwrap();
        add(vec![
            count("a.test", &[], 1, &[]),
            count("b.test", &[], 1, &[failed("x.test", 1)]),
        ]);
        let end = day().end();
        let before = end.minus(std::time::Duration::from_millis(1));
        assert_eq!(store.due_report(before).unwrap(), None);
        assert_eq!(store.next_report(before).unwrap(), Some(end));
        let due = store.due_report(end).unwrap().unwrap();
        assert_eq!((&*due.domain, due.tries, due.waiting), ("a.test", 0, 2));
        let later = end.plus(std::time::Duration::from_secs(600));
        let try_at = |tries| ReportChange::Try {
            day: day(),
            domain: "a.test".into(),
            tries,
            next: later,
        };
        assert!(store.change_report(try_at(0)).unwrap());
        assert!(!store.change_report(try_at(0)).unwrap(), "somebody else's");
        assert_eq!(store.next_report(end).unwrap(), Some(later));
        let due = store.due_report(end).unwrap().unwrap();
        assert_eq!((&*due.domain, due.waiting), ("b.test", 1));
        let done = |domain: &str| ReportChange::Done {
            day: day(),
            domain: domain.into(),
        };
        assert!(store.change_report(done("b.test")).unwrap());
        assert!(!store.change_report(done("b.test")).unwrap());
        assert_eq!(store.due_report(end).unwrap(), None);
        let due = store.due_report(later).unwrap().unwrap();
        assert_eq!((&*due.domain, due.tries), ("a.test", 1));
        // What comes when it is out makes no second one.
        add(vec![count("b.test", &[], 1, &[failed("y.test", 1)])]);
        assert_eq!(store.report_counts(day(), "b.test").unwrap(), []);
        assert_eq!(store.due_report(later).unwrap().unwrap().waiting, 1);
    }

    // RPT-2
    #[test]
    fn old_days_are_removed_with_all_that_was_counted() {
        let directory = TempDir::new();
        let (_files, conn, shared) = writable(&directory);
        let mut writer = Writer::new(&conn, Clock::system(), shared).unwrap();
        for (number, day) in [DAY, DAY, DAY + 1].into_iter().enumerate() {
            let mut count = count(&format!("d{number}.test"), &[], 1, &[failed("x.test", 1)]);
            count.day = Day::from_number(day);
            writer
                .change_report(&ReportChange::Count(vec![count]))
                .unwrap();
        }
        let forget = ReportChange::Forget {
            before: Day::from_number(DAY + 1),
        };
        assert!(writer.change_report(&forget).unwrap());
        assert!(!writer.change_report(&forget).unwrap());
        for table in [
            "tls_report",
            "tls_report_day",
            "tls_report_policy",
            "tls_report_failure",
        ] {
            let sql = format!("SELECT count(*) FROM {table}");
            let left: i64 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
            assert_eq!(left, 1, "{table}");
        }
    }

    // RPT-4
    #[test]
    fn domains_policies_and_ways_of_failing_are_bounded() {
        let directory = TempDir::new();
        let (_files, conn, shared) = writable(&directory);
        let mut writer = Writer::new(&conn, Clock::system(), shared).unwrap();
        let mut add = |count| {
            writer
                .change_report(&ReportChange::Count(vec![count]))
                .unwrap()
        };
        for number in 0..MOST_POLICIES + 3 {
            add(count("a.test", &[&format!("max_age: {number}")], 1, &[]));
        }
        assert_eq!(
            counts(&conn, day(), "a.test").unwrap().len() as i64,
            MOST_POLICIES
        );
        for number in 0..MOST_FAILURES + 5 {
            let host = format!("mx{number}.test");
            add(count("b.test", &[], 0, &[failed(&host, 2)]));
        }
        let found = counts(&conn, day(), "b.test").unwrap().remove(0);
        assert_eq!(found.details.len() as i64, MOST_FAILURES + 1);
        assert_eq!(
            (found.details[0].host.as_str(), found.details[0].sessions),
            ("", 10)
        );
        assert_eq!(
            found.failures,
            found.details.iter().map(|one| one.sessions).sum::<u64>()
        );
        conn.execute("UPDATE tls_report_day SET domains = ?1", [MOST_DOMAINS])
            .unwrap();
        add(count("c.test", &[], 1, &[]));
        assert_eq!(counts(&conn, day(), "c.test").unwrap(), []);
        add(count("b.test", &[], 1, &[]));
        assert_eq!(counts(&conn, day(), "b.test").unwrap()[0].successes, 1);
        let mut tomorrow = count("c.test", &[], 1, &[]);
        tomorrow.day = day().following();
        add(tomorrow);
        assert_eq!(counts(&conn, day().following(), "c.test").unwrap().len(), 1);
    }
}
