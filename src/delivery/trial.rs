//! Trying a relay out without any mail, step by step (RO-16): for `transports test=NAME` and for the start of the daemon.
//!
//! Hosts, TLS and AUTH are those of an attempt; nothing is decided here, and nothing is remembered.

use std::sync::Arc;

use super::attempt::learn;
use super::opening::Security;
use super::outcome::{local, stage};
use super::session::{Limits, Session};
use super::taking::{our_name, starttls};
use super::{Parts, Workers};
use crate::config::{Relay, RelayTls, TransportKind};
use crate::message::RequireTls;
use crate::net::deadline::Deadline;
use crate::net::dial::NO_ADDRESS;
use crate::net::tls::Context;
use crate::net::walk::{ReadyHost, Walk};
use crate::policy::failure::{Failure, Stage, TlsLevel};
use crate::policy::plan::Target;
use crate::policy::route;
use crate::policy::tls::facts::DaneFacts;
use crate::policy::tls::{Reached, Requirement};
use crate::smtp::address::AddressDomain;
use crate::smtp::client::{Options, StartTls};
use crate::smtp::reply::EnhancedCode;

/// What was found out about one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The host.
    pub host: String,
    /// The steps in their order, up to the first that failed.
    pub steps: Vec<TrialStep>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialStep {
    /// resolve, connect, greeting, ehlo, tls, auth, noop or quit.
    pub name: &'static str,
    /// What came of it, in words, or what is wrong.
    pub result: Result<String, String>,
}

impl Trial {
    /// Whether mail would go.
    pub fn works(&self) -> bool {
        self.steps.iter().all(|step| step.result.is_ok())
    }

    /// What is wrong with it.
    pub fn fault(&self) -> Option<&str> {
        let results = self.steps.iter().map(|step| step.result.as_ref());
        results.filter_map(Result::err).map(String::as_str).next()
    }

    fn pass(&mut self, name: &'static str, text: impl Into<String>) {
        let result = Ok(text.into());
        self.steps.push(TrialStep { name, result });
    }

    fn fail(&mut self, name: &'static str, text: impl Into<String>) {
        let result = Err(text.into());
        self.steps.push(TrialStep { name, result });
    }
}

impl Workers {
    /// Tries all hosts of a relay. Blocks until `end` at the latest.
    ///
    /// # Errors
    /// There is no such relay, or its own files cannot be used.
    pub fn try_transport(&self, name: &str, end: Deadline) -> Result<Vec<Trial>, Failure> {
        trials(self.parts(), name, end)
    }
}

fn trials(parts: &Parts, name: &str, end: Deadline) -> Result<Vec<Trial>, Failure> {
    let config = parts.live.get();
    let way = route::find(&config, name)?;
    let TransportKind::Relay(relay) = way.kind() else {
        let text = format!("transport {name} has no hosts of its own to try");
        return Err(local(Stage::Route, EnhancedCode::new(4, 3, 5), text));
    };
    let target = Target::Relay(Arc::clone(relay));
    // What is no domain's business does not depend on it.
    let nobody = AddressDomain::Name(config.hostname.clone());
    let known = learn(parts, &config, RequireTls::Default, &target, &nobody, end)?;
    let mut walk = parts.network.walk(name, &target, &[], end)?;
    walk.set_out_by(way.line().cloned());
    let mut trials = Vec::new();
    let mut left = u32::try_from(relay.hosts.len()).unwrap_or(u32::MAX);
    while let Some(mut host) = walk.next_host() {
        // A host that says nothing leaves the others their time.
        let share = end.remaining().unwrap_or_default() / left.max(1);
        left = left.saturating_sub(1);
        let end = Deadline::after(share).min(end);
        let names = walk.names(&host);
        let mut trial = Trial {
            host: host.name.to_string(),
            steps: Vec::new(),
        };
        match known.course.host(&names, &DaneFacts::Insecure) {
            Ok(requirement) => {
                let asked = Asked {
                    relay,
                    context: &known.context,
                    requirement: &requirement,
                    end,
                };
                asked.go(parts, &mut walk, &mut host, &way, &mut trial);
            }
            Err(failure) => trial.fail("tls", failure.text),
        }
        trials.push(trial);
    }
    for skip in &walk.plan().skips {
        let mut trial = Trial {
            host: skip.host.clone(),
            steps: Vec::new(),
        };
        trial.fail("resolve", skip.reason.to_string());
        trials.push(trial);
    }
    Ok(trials)
}

struct Asked<'a> {
    relay: &'a Arc<Relay>,
    context: &'a Context,
    requirement: &'a Requirement,
    end: Deadline,
}

impl Asked<'_> {
    fn go(
        &self,
        parts: &Parts,
        walk: &mut Walk,
        host: &mut ReadyHost,
        way: &route::Way<'_>,
        trial: &mut Trial,
    ) {
        let config = parts.live.get();
        let line = way.line().cloned();
        let deliver = config.deliver_of(&line);
        let limits = Limits::of(deliver);
        let total = limits.total(0).min(self.end);
        let connection = match walk.dial(host, total) {
            Ok(connection) => connection,
            Err(failure) => return trial.fail("connect", failure.text),
        };
        // A Unix socket has no address.
        let address = (connection.address != NO_ADDRESS).then_some(connection.address);
        trial.pass(
            "connect",
            address.map_or(String::new(), |at| at.to_string()),
        );
        let implicit = self.relay.tls_at(host.port) == RelayTls::Implicit;
        let login = self.relay.login();
        let options = Options {
            helo: our_name(&config, &line).to_string(),
            starttls: match implicit {
                true => StartTls::Never,
                false => starttls(self.requirement),
            },
            helo_fallback: true,
            pipelining: deliver.pipelining,
            lmtp: self.relay.lmtp,
            credentials: login.map(|login| Arc::new(login.credentials())),
        };
        let opened = Session::open(
            connection,
            &host.name.to_string(),
            options,
            Security {
                context: self.context,
                requirement: self.requirement,
                implicit,
                handshake: config.tls.handshake_timeout.get(),
            },
            &limits,
            total,
        );
        let session = match opened {
            Ok(session) => session,
            Err(not) => {
                let failed = step_of(stage(not.why.command()));
                let tls =
                    self.requirement.conditions.encryption != crate::policy::tls::Encryption::Never;
                // What comes before it in the order of this session.
                let mut order = match implicit {
                    true => vec!["tls", "greeting", "ehlo", "auth"],
                    false => vec!["greeting", "ehlo", "tls", "auth"],
                };
                order.retain(|step| *step != "tls" || tls);
                for step in order.iter().take_while(|step| **step != failed) {
                    match (&not.inside, *step) {
                        (Some(reached), "tls") => trial.pass(step, protection(reached)),
                        _ => trial.pass(step, ""),
                    }
                }
                return trial.fail(failed, not.why.failure(not.enhanced, true).text);
            }
        };
        let origin = session.origin();
        let protocol = origin.reached.as_deref().map(protection);
        if implicit && let Some(protocol) = &protocol {
            trial.pass("tls", protocol);
        }
        trial.pass("greeting", session.greeting());
        trial.pass("ehlo", "");
        if !implicit && let Some(protocol) = &protocol {
            trial.pass("tls", protocol);
        }
        debug_assert!(protocol.is_some() || origin.level() == TlsLevel::Plain);
        if let Some(mechanism) = origin.mechanism {
            trial.pass("auth", mechanism.name());
        }
        if let Err(failure) = walk.check_greeting(host, session.greeting()) {
            trial.fail("greeting", failure.text);
            return session.quit(&limits);
        }
        match session.noop(&limits, total) {
            Ok(session) => {
                trial.pass("noop", "");
                session.quit(&limits);
                trial.pass("quit", "");
            }
            Err(why) => trial.fail("noop", why.failure(false, true).text),
        }
    }
}

fn protection(reached: &Reached) -> String {
    format!("{}, {}", reached.level(), reached.protocol)
}

fn step_of(stage: Stage) -> &'static str {
    match stage {
        Stage::Greeting => "greeting",
        Stage::StartTls => "tls",
        Stage::Auth => "auth",
        _ => "ehlo",
    }
}
