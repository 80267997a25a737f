//! Counts for TLS reports, and how far the reports are (RPT-1, RPT-2, RPT-4). When one is due is for `policy::tlsrpt`.
//!
//! A crash loses what had not been handed over, and nothing else: a request counts as a whole or not at all.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::{self, Fault};
use super::request::Op;
use super::writer::Writer;
use super::{Store, StoreError};
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

/// What was counted of one domain's sessions on one day, held against one policy (RPT-1).
#[derive(Clone, Debug)]
pub struct ReportCount {
    /// The UTC day.
    pub day: Day,
    /// The recipients' domain.
    pub domain: Domain,
    /// The policy, and what is added to its counts.
    pub policy: PolicyCount,
}

/// What happens to the TLS reports.
#[derive(Clone, Debug)]
pub enum ReportChange {
    /// These counts are added, as far as there is room for them.
    Count(Vec<ReportCount>),
    /// A try begins, unless another has begun since `tries` were counted.
    Try {
        /// The UTC day.
        day: Day,
        /// The domain.
        domain: String,
        /// Those before it.
        tries: u32,
        /// When the next one is due, should this come to nothing.
        next: Timestamp,
    },
    /// The report is sent, not wanted, or given up.
    Done {
        /// The UTC day.
        day: Day,
        /// The domain.
        domain: String,
    },
    /// Some of what was counted before that day goes; ask again while something changes.
    Forget {
        /// The first day that stays.
        before: Day,
    },
}

/// A report that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueReport {
    /// The UTC day.
    pub day: Day,
    /// The domain.
    pub domain: String,
    /// Tries begun so far.
    pub tries: u32,
    /// Reports that are due, this one included.
    pub waiting: usize,
}

/// A report in the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    /// The UTC day.
    pub day: Day,
    /// The domain.
    pub domain: String,
    /// It is sent, not wanted, or given up.
    pub done: bool,
    /// Tries begun so far.
    pub tries: u32,
    /// When the next one is due.
    pub next: Timestamp,
    /// Sessions that met the policy.
    pub successes: u64,
    /// Sessions that did not.
    pub failures: u64,
}

impl Store {
    /// Changes the TLS reports, or what is counted for them; whether something changed.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of it was kept.
    pub fn change_report(&self, change: ReportChange) -> Result<bool, StoreError> {
        self.inner.ask(Op::ChangeReport(change))?.whether()
    }

    /// The TLS report that is due first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn due_report(&self, now: Timestamp) -> Result<Option<DueReport>, StoreError> {
        self.inner.readers.read(|conn| due(conn, now))
    }

    /// When the first of those that are not due yet will be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn next_report(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.inner.readers.read(|conn| next(conn, now))
    }

    /// What the TLS report about a day and a domain says.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn report_counts(&self, day: Day, domain: &str) -> Result<Vec<PolicyCount>, StoreError> {
        self.inner.readers.read(|conn| counts(conn, day, domain))
    }

    /// The TLS reports that follow this day and domain, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn reports_after(
        &self,
        after: (Day, &str),
        limit: usize,
    ) -> Result<Vec<ReportRow>, StoreError> {
        self.inner
            .readers
            .read(|conn| following(conn, after, limit))
    }
}

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
pub(super) fn following(
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
mod tests;
