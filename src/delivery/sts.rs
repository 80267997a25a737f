//! The MTA-STS policies of domains: DNS, HTTPS, and the cache in the store, put together (STS-1 to STS-12, RFC 8461).
//!
//! | DNS says            | nothing in force           | a policy in force                              |
//! |---------------------|----------------------------|------------------------------------------------|
//! | no answer           | the attempt is postponed   | it holds                                       |
//! | no record           | no policy                  | it holds                                       |
//! | a record, same id   | fetched                    | it holds, without HTTPS                        |
//! | a record, new id    | fetched                    | fetched; the old one holds if that fails       |
//!
//! A fetch that failed means no policy, and is not repeated for [`AGAIN`]. One domain is fetched by one thread at a time;
//! others who want it wait for what comes of it. What a policy asks for is judged in `policy::tls`.

mod refresh;

pub use refresh::Refresher;

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{StsSource, TlsReports};
use crate::clock::{Clock, Timestamp};
use crate::config::Live;
use crate::log::Line;
use crate::net::Network;
use crate::net::deadline::Deadline;
use crate::net::dns::DnsError;
use crate::net::https::Request;
use crate::policy::hosts::Found;
use crate::policy::sts;
use crate::policy::tls::Fault;
use crate::policy::tls::facts::{StsFacts, StsMode, StsPolicy};
use crate::policy::tls::report::{Applied, Kind, Seen};
use crate::recent::Recent;
use crate::smtp::address::Domain;
use crate::store::{Store, StsChange, StsRow};

/// The longest fetch, from the first lookup to the last octet (STS-5, RFC 8461 §3.3).
const LONGEST_FETCH: Duration = Duration::from_secs(60);

/// A fetch that failed is not repeated for this time (STS-3, RFC 8461 §3.3).
const AGAIN: Duration = Duration::from_secs(300);

/// Domains whose fetch failed that are remembered; the oldest go first (PRC-8).
const MOST_FAILED: usize = 10_000;

/// That a policy was used is written down this often; a commit for each attempt would be for nothing.
const DAY: Duration = Duration::from_secs(86_400);

/// Where policies are (RFC 8461 §3.3).
const PATH: &str = "/.well-known/mta-sts.txt";

/// Knows the policies.
pub struct Sts {
    store: Store,
    live: Live,
    clock: Clock,
    network: Network,
    reports: Arc<dyn TlsReports>,
    fetches: Mutex<Fetches>,
    landed: Condvar,
}

#[derive(Default)]
struct Fetches {
    /// Under way: as many as threads that fetch.
    running: HashSet<Domain>,
    failed: Recent<Domain, Timestamp>,
}

/// What a caller may do about a policy that has to be fetched.
enum Turn<'a> {
    /// Fetch it, while holding this.
    Mine(Fetching<'a>),
    /// Look again: somebody has fetched it.
    Again,
    /// Nothing: it failed a short while ago.
    NotYet,
    /// Nothing: somebody fetches it, and the caller's time is over.
    OutOfTime,
}

/// One fetch under way.
struct Fetching<'a> {
    sts: &'a Sts,
    domain: &'a Domain,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.sts.fetches().running.remove(self.domain);
        self.sts.landed.notify_all();
    }
}

impl Sts {
    /// Asks nobody yet.
    pub fn new(
        store: Store,
        live: Live,
        clock: Clock,
        network: Network,
        reports: Arc<dyn TlsReports>,
    ) -> Sts {
        Sts {
            store,
            live,
            clock,
            network,
            reports,
            fetches: Mutex::default(),
            landed: Condvar::new(),
        }
    }

    /// STS-3, STS-4: the table above.
    fn find(&self, domain: &Domain, deadline: Deadline) -> (StsFacts, &'static str) {
        // The name of the record must fit; a longer domain cannot have one.
        if Domain::parse(&format!("_mta-sts.{domain}")).is_err() {
            return (StsFacts::Nothing, "none");
        }
        loop {
            let row = match self.store.sts_policy(domain) {
                Ok(row) => row,
                Err(error) => {
                    let why = format!("what is known of the domain's policy: {error}");
                    return (StsFacts::Local(why), "unknown");
                }
            };
            let now = self.clock.now();
            let row = row.map(|row| self.guarded(row, now));
            let (kept, anew) = match row {
                Some(row) if now < row.policy.expires => (Some(row.policy), row.anew),
                _ => (None, false),
            };
            let known = |kept: Option<StsPolicy>, otherwise| match kept {
                Some(policy) => (StsFacts::Policy(Arc::new(policy)), "cached"),
                None => otherwise,
            };
            let id = match self.id(domain, deadline) {
                Ok(Some(id)) => id,
                Ok(None) => return known(kept, (StsFacts::Nothing, "none")),
                Err(error) if error.is_local() => {
                    return known(kept, (StsFacts::Local(error.to_string()), "unknown"));
                }
                Err(error) => {
                    return known(kept, (StsFacts::Unknown(error.to_string()), "unknown"));
                }
            };
            if !anew && kept.as_ref().is_some_and(|policy| policy.id == id) {
                return known(kept, (StsFacts::Nothing, "none"));
            }
            match self.turn(domain, now, deadline) {
                Turn::Again => {}
                Turn::NotYet => return known(kept, (StsFacts::Nothing, "failed")),
                Turn::OutOfTime => {
                    let why = "no time was left to fetch the policy".to_owned();
                    return known(kept, (StsFacts::Unknown(why), "unknown"));
                }
                Turn::Mine(_fetching) => {
                    return match self.fetch_and_keep(domain, &id, deadline) {
                        Some(policy) => (StsFacts::Policy(Arc::new(policy)), "fetched"),
                        None => known(kept, (StsFacts::Nothing, "failed")),
                    };
                }
            }
        }
    }

    /// RT-9: after the clock went back no policy is in force for longer than it would be if it were fetched now; and that
    /// an attempt used it is noted.
    fn guarded(&self, mut row: StsRow, now: Timestamp) -> StsRow {
        if row.fetched > now {
            let age = Duration::from_secs(row.policy.max_age.into());
            row.policy.expires = row.policy.expires.min(now.plus(age));
            row.fetched = now;
            self.store.note_sts(StsChange::Keep {
                domain: row.domain.clone(),
                policy: row.policy.clone(),
                at: now,
            });
        }
        if now.since(row.used) >= DAY || row.used > now {
            self.store.note_sts(StsChange::Used {
                domain: row.domain.clone(),
                at: now,
            });
        }
        row
    }

    /// The id that DNS has (STS-2).
    fn id(&self, domain: &Domain, deadline: Deadline) -> Result<Option<String>, DnsError> {
        let name = format!("_mta-sts.{domain}");
        let answer = self.network.resolver().txt(&name, deadline)?;
        Ok(match &answer.found {
            Found::Records(records) => sts::record(records).map(str::to_owned),
            Found::Missing(_) => None,
        })
    }

    fn fetches(&self) -> MutexGuard<'_, Fetches> {
        self.fetches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn<'a>(&'a self, domain: &'a Domain, now: Timestamp, deadline: Deadline) -> Turn<'a> {
        let mut fetches = self.fetches();
        let mut waited = false;
        while fetches.running.contains(domain) {
            let Ok(left) = deadline.remaining() else {
                return Turn::OutOfTime;
            };
            fetches = self
                .landed
                .wait_timeout(fetches, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            waited = true;
        }
        if waited {
            return Turn::Again;
        }
        let recently = |at: &Timestamp| *at <= now && now.since(*at) < AGAIN;
        if fetches.failed.peek(domain).is_some_and(recently) {
            return Turn::NotYet;
        }
        fetches.running.insert(domain.clone());
        Turn::Mine(Fetching { sts: self, domain })
    }

    /// Fetches the policy and keeps it; `None` when that failed, which is then known for a while.
    fn fetch_and_keep(&self, domain: &Domain, id: &str, deadline: Deadline) -> Option<StsPolicy> {
        let fetched = self.fetch(domain, deadline);
        let now = self.clock.now();
        let policy = match fetched {
            Ok(text) => text.in_force(id, now),
            Err(fault) => {
                Line::new("sts-failed")
                    .key("domain", domain)
                    .key("kind", fault.kind)
                    .peer("text", &fault.text)
                    .warn();
                self.note_failed(domain, now);
                self.reports.seen(Seen {
                    domain: domain.clone(),
                    applied: Applied::StsUnknown,
                    host: None,
                    address: None,
                    helo: None,
                    source: None,
                    result: Err(fault),
                });
                return None;
            }
        };
        // STS-6: a policy without a life of its own is for this attempt only, and takes the place of the one before.
        let change = match policy.max_age {
            0 => StsChange::Forget(domain.as_str().to_owned()),
            _ => StsChange::Keep {
                domain: domain.clone(),
                policy: policy.clone(),
                at: now,
            },
        };
        let result = match self.store.change_sts(change) {
            Ok(false) if policy.max_age > 0 => "not kept: no room",
            Ok(_) => "kept",
            // It holds for this attempt at least.
            Err(_) => "not kept: the store cannot",
        };
        Line::new("sts")
            .key("domain", domain)
            .key("mode", word(policy.mode))
            .key("id", id)
            .num("max_age", policy.max_age)
            .peer("result", result)
            .info();
        Some(policy)
    }

    fn note_failed(&self, domain: &Domain, now: Timestamp) {
        let mut fetches = self.fetches();
        fetches.failed.insert(domain.clone(), now);
        while let Some((_, at)) = fetches.failed.oldest()
            && (fetches.failed.len() > MOST_FAILED || now.since(*at) >= AGAIN)
        {
            fetches.failed.pop_oldest();
        }
    }

    /// STS-5, RFC 8461 §3.3.
    fn fetch(&self, domain: &Domain, deadline: Deadline) -> Result<sts::PolicyText, Fault> {
        let failed = |text: String| Fault {
            kind: Kind::StsPolicyFetchError,
            text,
        };
        let host =
            Domain::parse(&format!("mta-sts.{domain}")).map_err(|e| failed(e.to_string()))?;
        let request = Request {
            host: &host,
            port: self.live.get().tls.mta_sts_port,
            path: PATH,
            content: None,
            limit: sts::LONGEST_POLICY,
        };
        let deadline = Deadline::after(LONGEST_FETCH).min(deadline);
        let response = self
            .network
            .https(&request, deadline)
            .map_err(|error| Fault {
                kind: match error.certificate {
                    true => Kind::StsWebpkiInvalid,
                    false => Kind::StsPolicyFetchError,
                },
                text: error.text,
            })?;
        // Redirects are not followed (RFC 8461 §3.3).
        if response.status != 200 {
            return Err(failed(format!("HTTP status {}", response.status)));
        }
        if let Some(encoding) = response.encoding {
            return Err(failed(format!("Content-Encoding {encoding}")));
        }
        if let Some(kind) = &response.content_type {
            let media = kind.split(';').next().unwrap_or_default().trim();
            if !media.eq_ignore_ascii_case("text/plain") {
                return Err(failed(format!("Content-Type {kind}")));
            }
        }
        sts::policy(&response.body).map_err(|text| Fault {
            kind: Kind::StsPolicyInvalid,
            text,
        })
    }
}

impl StsSource for Sts {
    fn policy(&self, domain: &Domain, deadline: Deadline) -> StsFacts {
        let (facts, result) = self.find(domain, deadline);
        self.store.metrics().sts_cache(result);
        facts
    }

    fn all_failed(&self, domain: &Domain) {
        self.store.note_sts(StsChange::Anew(domain.clone()));
    }
}

/// As policies write it.
pub(super) fn word(mode: StsMode) -> &'static str {
    match mode {
        StsMode::Enforce => "enforce",
        StsMode::Testing => "testing",
        StsMode::None => "none",
    }
}
