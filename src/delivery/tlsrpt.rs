//! TLS reports: what attempts see is counted here, and goes out once a day (RPT-1 to RPT-4, RFC 8460).
//!
//! RPT-1 says "from the attempts in history". The counts stand in tables of their own instead, because history cannot
//! tell them: it has a row per recipient, and reports count sessions, of which one carries many and some none; a failure
//! that a policy in mode testing lets pass leaves no trace there; nor does a policy that could not be fetched, nor what
//! the policy was at that time. The report is a query over those tables (`store/schema/0005.sql`).
//!
//! Counting is an addition in memory under a lock. The thread that sends the reports also writes the sums down, a minute
//! after the first, so no delivery waits for a commit of its own; a kill loses that minute's counts and nothing else.

mod sending;

pub use sending::Reporter;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::TlsReports;
use crate::clock::{Clock, Timestamp};
use crate::config::Live;
use crate::log::Line;
use crate::message::tlsrpt::{FailureCount, PolicyCount, PolicyType};
use crate::policy::plan::HostName;
use crate::policy::tls::facts::{StsMode, StsPolicy};
use crate::policy::tls::report::{Applied, Kind, Seen};
use crate::policy::tlsrpt::schedule::Day;
use crate::smtp::address::Domain;
use crate::store::{ReportChange, ReportCount, Store, StoreError};

/// Counts are written down so long after the first of them.
const FLUSH: Duration = Duration::from_secs(60);

/// With so many entries they are written down at once.
const MANY: usize = 2_000;

/// Entries in memory; what comes on top of them is not counted (PRC-8).
const MOST: usize = 20_000;

/// Ways of failing of one policy that are told apart.
const MOST_FAILURES: usize = 100;

/// Counts in one request to the store.
const BATCH: usize = 100;

/// Lines of a policy, and octets of them, that are kept: a policy may have thousands.
const MOST_LINES: usize = 100;
const MOST_OCTETS: usize = 4096;

/// Characters of what a host said that are kept.
const LONGEST_TEXT: usize = 200;

/// Counts what attempts see.
pub struct Counter {
    live: Live,
    clock: Clock,
    pending: Mutex<Pending>,
    /// Told when there is something to write down after there was nothing, and when it is much.
    nudge: Sender<()>,
    nudged: Receiver<()>,
}

#[derive(Default)]
struct Pending {
    counts: HashMap<(Day, Domain), Vec<Tally>>,
    /// Tallies and ways of failing.
    entries: usize,
    /// When the first of them came.
    since: Option<Timestamp>,
    /// It has been said that there are many.
    much: bool,
    /// Not counted.
    lost: u64,
}

/// What sessions came to that were held against one policy.
struct Tally {
    applied: Applied,
    successes: u64,
    failures: Vec<Failed>,
}

struct Failed {
    way: Way,
    /// Of the first.
    reason: String,
    sessions: u64,
}

#[derive(PartialEq, Eq)]
struct Way {
    kind: Kind,
    host: Option<HostName>,
    address: Option<IpAddr>,
    helo: Option<String>,
    source: Option<IpAddr>,
}

impl TlsReports for Counter {
    fn seen(&self, seen: Seen) {
        if !self.live.get().tls.reports {
            return;
        }
        let now = self.clock.now();
        let mut pending = self.pending();
        pending.add(Day::of(now), seen);
        let first = pending.since.is_none();
        let much = pending.entries >= MANY && !pending.much;
        pending.since.get_or_insert(now);
        pending.much |= much;
        drop(pending);
        if first || much {
            // It is told already if there is no room.
            let _ = self.nudge.try_send(());
        }
    }
}

impl Counter {
    /// Nothing is counted yet.
    pub fn new(live: Live, clock: Clock) -> Counter {
        let (nudge, nudged) = bounded(1);
        Counter {
            live,
            clock,
            pending: Mutex::default(),
            nudge,
            nudged,
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the counts are to be written down; `None` when there are none.
    fn flush_at(&self) -> Option<Timestamp> {
        let pending = self.pending();
        let since = pending.since?;
        Some(match pending.entries {
            MANY.. => since,
            _ => since.plus(FLUSH),
        })
    }

    /// Writes down what was counted. What the store does not take is lost: it is not worth more than mail.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let pending = std::mem::take(&mut *self.pending());
        if pending.lost > 0 {
            Line::new("tls-report-lost")
                .num("sessions", pending.lost)
                .warn();
        }
        let mut counts = pending.counts.into_iter().flat_map(|((day, domain), all)| {
            all.into_iter().map(move |tally| ReportCount {
                day,
                policy: tally.count(&domain),
                domain: domain.clone(),
            })
        });
        loop {
            let batch: Vec<ReportCount> = counts.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(());
            }
            store.change_report(ReportChange::Count(batch))?;
        }
    }
}

impl Pending {
    fn add(&mut self, day: Day, seen: Seen) {
        let full = self.entries >= MOST;
        let tallies = match self.counts.entry((day, seen.domain)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => {
                self.lost += 1;
                return;
            }
            Entry::Vacant(new) => new.insert(Vec::new()),
        };
        let known = tallies
            .iter()
            .position(|tally| tally.applied == seen.applied);
        let tally = match known {
            Some(at) => &mut tallies[at],
            None if full => {
                self.lost += 1;
                return;
            }
            None => {
                self.entries += 1;
                tallies.push(Tally {
                    applied: seen.applied,
                    successes: 0,
                    failures: Vec::new(),
                });
                tallies.last_mut().expect("it was pushed just now")
            }
        };
        let Err(fault) = seen.result else {
            tally.successes += 1;
            return;
        };
        let mut way = Way {
            kind: fault.kind,
            host: seen.host,
            address: seen.address,
            helo: seen.helo,
            source: seen.source,
        };
        let mut reason = fault.text;
        let mut known = tally.failures.iter().position(|one| one.way == way);
        if known.is_none() && (full || tally.failures.len() >= MOST_FAILURES) {
            // There are no more of these than kinds.
            way = Way {
                kind: way.kind,
                host: None,
                address: None,
                helo: None,
                source: None,
            };
            reason.clear();
            known = tally.failures.iter().position(|one| one.way == way);
        }
        match known {
            Some(at) => tally.failures[at].sessions += 1,
            None => {
                self.entries += 1;
                tally.failures.push(Failed {
                    way,
                    reason,
                    sessions: 1,
                });
            }
        }
    }
}

impl Tally {
    fn count(self, recipients: &Domain) -> PolicyCount {
        let own = recipients.to_string();
        let (kind, domain, lines) = match self.applied {
            Applied::NoPolicy => (PolicyType::NoPolicyFound, own, Vec::new()),
            Applied::StsUnknown => (PolicyType::Sts, own, Vec::new()),
            // Mode none is the domain's word that it has no policy (RFC 8461 §5).
            Applied::Sts(policy) if policy.mode == StsMode::None => {
                (PolicyType::NoPolicyFound, own, Vec::new())
            }
            Applied::Sts(policy) => (PolicyType::Sts, own, bounded_lines(sts_lines(&policy))),
            Applied::Tlsa { base, records } => {
                let base = base.map_or(own, |base| base.to_string());
                let lines = records.iter().map(ToString::to_string);
                (PolicyType::Tlsa, base, bounded_lines(lines))
            }
        };
        let details: Vec<FailureCount> = self.failures.into_iter().map(Failed::count).collect();
        PolicyCount {
            kind,
            domain,
            lines,
            successes: self.successes,
            failures: details.iter().map(|one| one.sessions).sum(),
            details,
        }
    }
}

impl Failed {
    fn count(self) -> FailureCount {
        let address = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        FailureCount {
            kind: self.way.kind.to_string(),
            host: match self.way.host {
                Some(host) => host.to_string(),
                None => String::new(),
            },
            address: address(self.way.address),
            helo: cut(self.way.helo.unwrap_or_default()),
            source: address(self.way.source),
            reason: cut(self.reason),
            sessions: self.sessions,
        }
    }
}

fn cut(text: String) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}

/// A policy as its file has it (RFC 8461 §3.2); of what it was fetched with only what counts was kept.
fn sts_lines(policy: &StsPolicy) -> impl Iterator<Item = String> {
    let mode = super::sts::word(policy.mode);
    let head = ["version: STSv1".to_owned(), format!("mode: {mode}")];
    let mx = policy.mx.iter().map(|pattern| format!("mx: {pattern}"));
    let age = format!("max_age: {}", policy.max_age);
    head.into_iter().chain([age]).chain(mx)
}

fn bounded_lines(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut octets = 0;
    let fits = |line: &String| {
        octets += line.len();
        octets <= MOST_OCTETS
    };
    lines.take(MOST_LINES).take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::policy::tls::Fault;
    use crate::policy::tls::facts::{MxPattern, Tlsa};

    fn seen(domain: &str, applied: &Applied, result: Result<(), Kind>, host: &str) -> Seen {
        Seen {
            domain: Domain::parse(domain).unwrap(),
            applied: applied.clone(),
            host: Some(HostName::Name(Domain::parse(host).unwrap())),
            address: Some(Ipv4Addr::new(192, 0, 2, 7).into()),
            helo: Some("mx.test".into()),
            source: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
            result: result.map_err(|kind| Fault {
                kind,
                text: format!("{host} is bad"),
            }),
        }
    }

    fn sts(mode: StsMode, hosts: usize) -> Applied {
        Applied::Sts(Arc::new(StsPolicy {
            id: "1".into(),
            mode,
            mx: (0..hosts)
                .map(|n| MxPattern::parse(&format!("*.d{n}.test")).unwrap())
                .collect(),
            max_age: 86_400,
            expires: Timestamp::MAX,
        }))
    }

    fn counts(seen: Vec<Seen>) -> Vec<PolicyCount> {
        let mut pending = Pending::default();
        for seen in seen {
            pending.add(Day::from_number(7), seen);
        }
        let all = pending.counts.into_iter();
        all.flat_map(|((_, domain), tallies)| {
            tallies.into_iter().map(move |tally| tally.count(&domain))
        })
        .collect()
    }

    // RPT-1
    #[test]
    fn sessions_are_counted_per_policy_and_way_of_failing() {
        let policy = sts(StsMode::Testing, 1);
        let expired = Err(Kind::CertificateExpired);
        let found = counts(vec![
            seen("dest.test", &policy, Ok(()), "a.test"),
            seen("dest.test", &policy, expired, "a.test"),
            seen("dest.test", &sts(StsMode::Testing, 1), expired, "a.test"),
            seen("dest.test", &policy, expired, "b.test"),
            seen("dest.test", &Applied::NoPolicy, Ok(()), "a.test"),
        ]);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].successes, found[0].failures), (1, 3));
        let wanted = [
            "version: STSv1",
            "mode: testing",
            "max_age: 86400",
            "mx: *.d0.test",
        ];
        assert_eq!(found[0].lines, wanted);
        let first = FailureCount {
            kind: "certificate-expired".into(),
            host: "a.test".into(),
            address: "192.0.2.7".into(),
            helo: "mx.test".into(),
            source: "192.0.2.1".into(),
            reason: "a.test is bad".into(),
            sessions: 2,
        };
        assert_eq!(found[0].details[0], first);
        assert_eq!(found[1].kind, PolicyType::NoPolicyFound);
        assert_eq!((found[1].successes, found[1].failures), (1, 0));
    }

    // RPT-1
    #[test]
    fn policies_are_named_as_rfc_8460_does() {
        let records = Arc::from([Tlsa {
            usage: 3,
            selector: 1,
            matching: 1,
            data: vec![0xab; 2],
        }]);
        let tlsa = Applied::Tlsa {
            base: Some(Domain::parse("mx.test").unwrap()),
            records,
        };
        for (applied, kind, domain, lines) in [
            (tlsa, PolicyType::Tlsa, "mx.test", 1),
            (Applied::StsUnknown, PolicyType::Sts, "dest.test", 0),
            (
                sts(StsMode::None, 0),
                PolicyType::NoPolicyFound,
                "dest.test",
                0,
            ),
            (
                sts(StsMode::Enforce, 5000),
                PolicyType::Sts,
                "dest.test",
                MOST_LINES,
            ),
        ] {
            let found = counts(vec![seen("dest.test", &applied, Ok(()), "mx.test")]).remove(0);
            assert_eq!(
                (found.kind, &*found.domain, found.lines.len()),
                (kind, domain, lines)
            );
        }
    }

    // RPT-4, PRC-8
    #[test]
    fn what_a_peer_can_make_grow_has_a_bound() {
        let failed = Err(Kind::ValidationFailure);
        let many = (0..MOST_FAILURES + 20).map(|n| {
            seen(
                "dest.test",
                &Applied::NoPolicy,
                failed,
                &format!("h{n}.test"),
            )
        });
        let found = counts(many.collect()).remove(0);
        assert_eq!(found.failures, MOST_FAILURES as u64 + 20);
        assert_eq!(found.details.len(), MOST_FAILURES + 1);
        let rest = found.details.last().unwrap();
        assert_eq!((&*rest.host, &*rest.reason, rest.sessions), ("", "", 20));

        let mut pending = Pending::default();
        for n in 0..MOST + 5 {
            let seen = seen(&format!("d{n}.test"), &Applied::NoPolicy, Ok(()), "a.test");
            pending.add(Day::from_number(7), seen);
        }
        assert_eq!((pending.counts.len(), pending.lost), (MOST, 5));
        let known = seen("d0.test", &Applied::NoPolicy, Ok(()), "a.test");
        pending.add(Day::from_number(7), known);
        assert_eq!(pending.lost, 5, "who is known is counted");
    }
}
