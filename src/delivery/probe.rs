//! What mail for a domain would meet in TLS, without any mail: for `tlsinfo` (CTL-15).
//!
//! The plan, the facts and the judgement are those of an attempt; nothing is decided here.

use std::sync::Arc;

use super::attempt::{Known, learn};
use super::opening::Security;
use super::session::{Limits, Session};
use super::taking::starttls;
use super::{Parts, Workers};
use crate::message::RequireTls;
use crate::net::deadline::Deadline;
use crate::net::walk::{ReadyHost, Walk};
use crate::policy::failure::Failure;
use crate::policy::plan::Target;
use crate::policy::route::BUILT_IN;
use crate::policy::tls::facts::{DaneFacts, StsFacts};
use crate::policy::tls::{Encryption, Reached, Requirement};
use crate::smtp::address::{AddressDomain, Domain};
use crate::smtp::client::Options;

/// What was found out.
#[derive(Debug)]
pub struct Probe {
    /// The domain's MTA-STS policy.
    pub sts: StsFacts,
    /// Its hosts in the order of an attempt.
    pub hosts: Vec<ProbedHost>,
    /// Why there are no more.
    pub end: Option<Failure>,
}

/// One host.
#[derive(Debug)]
pub struct ProbedHost {
    /// Its name.
    pub name: String,
    /// Its TLSA records.
    pub dane: DaneFacts,
    /// What it must reach, or why it would not be dialled.
    pub requirement: Result<Requirement, Failure>,
    /// What a connection came to; `None` where none was made.
    pub session: Option<ProbedSession>,
}

/// A connection up to QUIT.
#[derive(Debug)]
pub struct ProbedSession {
    /// What the handshake reached, as far as there was one.
    pub reached: Option<Arc<Reached>>,
    /// The host announced REQUIRETLS.
    pub requiretls: bool,
    /// Whether mail would go on.
    pub result: Result<(), Failure>,
}

impl Workers {
    /// Finds out how mail for `domain` would be protected. With `connect` it makes one connection, to the first host that
    /// may be dialled. Blocks until `end` at the latest.
    ///
    /// # Errors
    /// What fails the whole attempt.
    pub fn probe(&self, domain: &Domain, connect: bool, end: Deadline) -> Result<Probe, Failure> {
        probe(self.parts(), domain, connect, end)
    }
}

fn probe(parts: &Parts, domain: &Domain, connect: bool, end: Deadline) -> Result<Probe, Failure> {
    let config = parts.live.get();
    let target = Target::Domain(domain.clone());
    let recipient = AddressDomain::Name(domain.clone());
    let known = learn(
        parts,
        &config,
        RequireTls::Default,
        &target,
        &recipient,
        end,
    )?;
    let mut walk = parts.network.walk(BUILT_IN, &target, &[], end)?;
    let mut probe = Probe {
        sts: known.sts.clone(),
        hosts: Vec::new(),
        end: None,
    };
    let mut connect = connect;
    while let Some(mut host) = walk.next_host() {
        let names = walk.names(&host);
        let dane = match known.course.wants_dane() {
            true => walk.tlsa(&host),
            false => DaneFacts::Insecure,
        };
        let requirement = known.course.host(&names, &dane);
        let session = match &requirement {
            Ok(requirement) if std::mem::take(&mut connect) => Some(session(
                parts,
                &known,
                &mut walk,
                &mut host,
                requirement,
                end,
            )),
            _ => None,
        };
        probe.hosts.push(ProbedHost {
            name: host.name.to_string(),
            dane,
            requirement,
            session,
        });
    }
    if probe.hosts.is_empty() {
        probe.end = Some(walk.conclusion());
    }
    Ok(probe)
}

fn session(
    parts: &Parts,
    known: &Known,
    walk: &mut Walk,
    host: &mut ReadyHost,
    requirement: &Requirement,
    end: Deadline,
) -> ProbedSession {
    let config = parts.live.get();
    let deliver = &config.deliver;
    let limits = Limits::of(deliver);
    let total = limits.total(0).min(end);
    let helo = deliver.helo.as_ref().unwrap_or(&config.hostname);
    let failed = |failure, reached| ProbedSession {
        reached,
        requiretls: false,
        result: Err(failure),
    };
    let connection = match walk.dial(host, total) {
        Ok(connection) => connection,
        Err(failure) => return failed(failure, None),
    };
    let opened = Session::open(
        connection,
        &host.name.to_string(),
        Options {
            helo: helo.to_string(),
            starttls: starttls(requirement),
            helo_fallback: requirement.conditions.encryption != Encryption::Required,
            pipelining: deliver.pipelining,
            lmtp: false,
            credentials: None,
        },
        Security {
            context: &known.context,
            requirement,
            implicit: false,
            handshake: config.tls.handshake_timeout.get(),
        },
        &limits,
        total,
    );
    match opened {
        Ok(session) => {
            let probed = ProbedSession {
                reached: session.origin().reached.clone(),
                requiretls: session.capabilities().requiretls,
                result: Ok(()),
            };
            session.quit(&limits);
            probed
        }
        Err(not) => {
            let failure = not.why.failure(not.enhanced, false);
            let failure = match (&not.reached, not.over_tls && !requirement.fallback) {
                (None, true) => requirement.explain(failure),
                _ => failure,
            };
            failed(failure, not.reached)
        }
    }
}
