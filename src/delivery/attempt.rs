//! One attempt: over the hosts of the next hop until every recipient has an outcome (DV-6, DV-15 to DV-17).

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Parts;
use super::carrying;
use super::content::Content;
use super::following::{Following, Given, Handed};
use super::nowhere;
use super::outcome::{content_failure, local};
use super::parting::Parting;
use super::running::Running;
use super::session::{Limits, Session};
use super::settle::{Happened, Judged, Scene, give_back, settle};
use crate::config::{Config, Line, Relay, TransportKind};
use crate::dispatch::{Feedback, MxHosts, PushBack};
use crate::message::RequireTls;
use crate::metrics::RequireTlsResult;
use crate::net::deadline::Deadline;
use crate::net::tls;
use crate::net::walk::Walk;
use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use crate::policy::plan::Target;
use crate::policy::tls::facts::{MemoryFacts, StsFacts};
use crate::policy::tls::{Ask, Course, NOT_ENOUGH, NOT_OFFERED};
use crate::policy::{route, verdict};
use crate::smtp::address::{AddressDomain, Domain};
use crate::smtp::reply::EnhancedCode;

/// When mail goes again that a host had no place for: its window is smaller then.
const CROWDED_AGAIN: Duration = Duration::from_secs(1);

/// An attempt under way.
pub(super) struct Attempt<'a> {
    pub(super) parts: &'a Parts,
    pub(super) running: &'a Running,
    pub(super) config: Arc<Config>,
    pub(super) limits: Limits,
    pub(super) content: Content,
    /// The end of `attempt_timeout`.
    pub(super) end: Deadline,
    /// Rows that have no outcome yet.
    pub(super) pending: Vec<usize>,
    /// By row: what each host that was tried said.
    pub(super) failures: Vec<Vec<(Failure, Arc<Scene>)>>,
    /// How the transport sets out, where that is not what `[deliver]` says.
    pub(super) line: Option<Arc<Line>>,
    /// The relay, if it goes through one.
    pub(super) relay: Option<Arc<Relay>>,
    /// The domain whose hosts these are; none for relays and literals.
    pub(super) domain: Option<Domain>,
    /// By row: how much of `failures` is from earlier rounds (RO-10).
    pub(super) said_before: Vec<usize>,
    /// How often the relay was redialled.
    pub(super) redialled: u32,
    /// What holds for the TLS of all hosts.
    pub(super) course: Course,
    /// What the store remembers of the domain, however old.
    pub(super) remembered: MemoryFacts,
    pub(super) context: tls::Context,
    pub(super) feedback: Feedback,
    /// The session on which its commands are out already.
    pub(super) handed: Option<Handed>,
    /// Takes the transaction that follows.
    pub(super) following: &'a Following,
    /// The session on which the commands of that one are out.
    pub(super) handed_on: Option<Handed>,
    /// Its session may wait for the commit without its worker, for it can be kept.
    pub(super) may_part: bool,
    /// Outcomes that are to be recorded once nothing else is left to do.
    pub(super) judged: Option<Judged>,
    /// The same with the session that waits for it.
    pub(super) parting: Option<Parting>,
    /// A host refused us while it had others of our sessions.
    crowded: bool,
}

/// What an attempt leaves behind.
#[derive(Default)]
pub(super) struct Left {
    /// For the dispatcher.
    pub feedback: Feedback,
    /// Sessions to be ended once the permit is given back (CL-23), with their slots.
    pub quitting: Vec<Session>,
    /// The session on which the commands of the transaction that follows are out.
    pub handed: Option<Handed>,
    /// All were delivered, and it is yet to be recorded.
    pub parting: Option<Parting>,
}

/// How a session came out of the transactions at one host.
pub(super) enum After {
    /// It can go on.
    Kept(Session),
    /// It has carried as much as it may, and recipients are left for this host.
    Full(Session),
    /// It is gone; recipients that are left for this host may have a fresh one.
    Lost,
}

/// Carries out the attempt. Every row is settled or given back when it returns.
pub(super) fn attempt(parts: &Parts, running: &Running, given: Given<'_>) -> Left {
    let config = parts.live.get();
    let rows: Vec<usize> = (0..running.rows.len()).collect();
    let stopped = |failure: Failure| {
        settle_all(parts, running, &rows, failure, &Arc::default());
        Left::default()
    };
    let (target, line) = match route::find(&config, &running.transport) {
        Ok(way) => {
            let target = match way.kind() {
                TransportKind::Direct => Target::from(running.rows[0].recipient.path.domain()),
                TransportKind::Relay(relay) => Target::Relay(Arc::clone(relay)),
                TransportKind::Fail { code, text } => return stopped(nowhere::fails(*code, text)),
                TransportKind::Discard => {
                    nowhere::discard(parts, running, &rows);
                    return Left::default();
                }
            };
            (target, way.line().cloned())
        }
        Err(unknown) => return stopped(unknown.into()),
    };
    let end = Deadline::after(config.deliver_of(&line).attempt_timeout.get());
    running.at(Stage::Dns);
    if running.head.require_tls == RequireTls::No {
        // TLS-13
        let metrics = parts.store.metrics();
        metrics.requiretls(RequireTlsResult::Waived);
    }
    let require = running.head.require_tls;
    let recipient = running.rows[0].recipient.path.domain();
    let known = match learn(parts, &config, require, &target, recipient, end) {
        Ok(known) => known,
        Err(failure) => {
            let broken = broken(&failure);
            let left = stopped(failure);
            return Left {
                feedback: Feedback {
                    broken,
                    ..left.feedback
                },
                ..left
            };
        }
    };
    let walk = parts
        .network
        .walk(&running.transport, &target, &running.rows[0].dialled, end);
    let mut walk = match walk {
        Ok(walk) => walk,
        Err(failure) => {
            let strike = strike(running, &failure);
            let left = stopped(failure);
            return Left {
                feedback: Feedback {
                    strike,
                    ..left.feedback
                },
                ..left
            };
        }
    };
    walk.set_out_by(line.clone());
    if matches!(target, Target::Domain(_)) {
        let names = walk.host_names();
        let like = &running.rows[0].destination;
        let group = route::hosts_destination(like, names.iter().map(String::as_str).collect());
        // RT-7: others with the same hosts have all their connections, or as many messages as they may have now, or other
        // limits hold for it than were known when it was claimed (SC-9). It is due as it was, so that the dispatcher, which
        // knows the hosts now, keeps it in mind until it may go.
        let enters = |best: String| {
            running.enter(MxHosts {
                group: &group,
                best: &best,
            })
        };
        if !walk.best_host().is_none_or(enters) {
            let due = running.due(&parts.clock);
            give_back(parts, running, &running.take(&rows), due);
            return Left::default();
        }
    }
    let content = match Content::open(&parts.store, &running.head, given.content) {
        Ok(content) => content,
        Err(error) => return stopped(content_failure(&error)),
    };
    let mut attempt = Attempt {
        parts,
        running,
        limits: Limits::of(config.deliver_of(&line)),
        config,
        content,
        end,
        failures: vec![Vec::new(); rows.len()],
        pending: rows,
        line,
        relay: match &target {
            Target::Relay(relay) => Some(Arc::clone(relay)),
            Target::Domain(_) | Target::Literal(_) => None,
        },
        domain: match &target {
            Target::Domain(domain) => Some(domain.clone()),
            Target::Literal(_) | Target::Relay(_) => None,
        },
        said_before: Vec::new(),
        redialled: 0,
        course: known.course,
        remembered: known.remembered,
        context: known.context,
        feedback: Feedback::default(),
        handed: given.handed,
        following: given.following,
        handed_on: None,
        may_part: false,
        judged: None,
        parting: None,
        crowded: false,
    };
    let mut quitting = Vec::new();
    loop {
        if attempt.relay.is_some() {
            walk.put_last(|host, port| parts.ailing.has(host, port));
        }
        if let Some(Handed { key, .. }) = &attempt.handed {
            walk.put_last(|host, port| *host != key.host || port != key.port);
        }
        while !attempt.pending.is_empty() && !attempt.end.is_over() {
            let began = Instant::now();
            walk.ends_at(attempt.end);
            let Some(host) = walk.next_host() else { break };
            attempt.at_host(&mut walk, host, began, &mut quitting);
        }
        if !attempt.redials() {
            break;
        }
        let dialled = &running.rows[0].dialled;
        match parts
            .network
            .walk(&running.transport, &target, dialled, attempt.end)
        {
            Ok(again) => walk = again,
            Err(_) => break,
        }
        walk.set_out_by(attempt.line.clone());
    }
    attempt.conclude(&walk);
    Left {
        feedback: attempt.feedback,
        quitting,
        handed: attempt.handed_on,
        parting: attempt.parting,
    }
}

/// What is known about TLS before the first host.
pub(super) struct Known {
    /// What holds for all hosts.
    pub course: Course,
    /// What the store remembers of the domain, however old.
    pub remembered: MemoryFacts,
    /// The domain's MTA-STS policy.
    pub sts: StsFacts,
    pub context: tls::Context,
}

/// Gathers the facts that TLS needs of the domain as a whole.
pub(super) fn learn(
    parts: &Parts,
    config: &Config,
    require: RequireTls,
    target: &Target,
    recipient: &AddressDomain,
    end: Deadline,
) -> Result<Known, Failure> {
    let ca_file = match target {
        Target::Relay(relay) => relay.access.as_ref().and_then(|own| own.ca_file.as_deref()),
        Target::Domain(_) | Target::Literal(_) => None,
    };
    // DV-19: a file of authorities that cannot be read is our own fault, and no reason for clear text.
    let context = parts.network.tls(ca_file).map_err(|error| Failure {
        scope: match ca_file {
            Some(_) => Scope::Transport,
            None => Scope::Local,
        },
        ..local(Stage::Route, EnhancedCode::new(4, 3, 5), error)
    })?;
    let ask = match target {
        Target::Relay(relay) => Ask::relay(relay, require)?,
        Target::Domain(_) | Target::Literal(_) => Ask::of(
            &config.tls,
            &config.tls_policy,
            config.tls.mta_sts,
            recipient,
            require,
        ),
    };
    let mut remembered = MemoryFacts::nothing();
    let mut sts = StsFacts::Nothing;
    if let Target::Domain(domain) = target {
        // TLS-5: unclear is not "nothing": without its memory nobody is spoken to.
        let row = parts.store.tls_memory(domain).map_err(|error| {
            let text = format!("what is remembered of the domain's TLS: {error}");
            local(Stage::Route, EnhancedCode::new(4, 3, 1), text)
        })?;
        if let Some(row) = row {
            remembered = MemoryFacts {
                encrypted: Some(row.encrypted),
                verified: row.verified,
                requiretls: row.requiretls,
            };
        }
        if ask.sts {
            sts = parts.tls.sts.policy(domain, end);
        }
    }
    let memory = remembered.at(parts.clock.now(), config.tls.memory_age.get());
    Ok(Known {
        course: ask.learn(sts.clone(), memory)?,
        remembered,
        sts,
        context,
    })
}

/// The same failure for all these rows.
pub(super) fn settle_all(
    parts: &Parts,
    running: &Running,
    rows: &[usize],
    failure: Failure,
    scene: &Arc<Scene>,
) {
    let happened = running.take(rows).into_iter().map(|row| Happened {
        row,
        result: Err(failure.clone()),
        scene: Arc::clone(scene),
        poison: false,
    });
    settle(parts, running, happened.collect());
}

impl Attempt<'_> {
    /// Nothing could be carried to this host.
    pub(super) fn host_failed(&mut self, here: Vec<usize>, failure: Failure, scene: Scene) {
        let scene = Arc::new(scene);
        if !matches!(failure.scope, Scope::Local | Scope::Transport) {
            self.note_push_back(&failure);
        }
        if failure.scope == Scope::Destination {
            // Whatever the other hosts say, this one settles it: a loop (DV-10).
            settle_all(self.parts, self.running, &here, failure, &scene);
            return;
        }
        for row in here {
            self.failures[row].push((failure.clone(), Arc::clone(&scene)));
            self.pending.push(row);
        }
    }

    /// What the failure says about how many connections there may be (SC-5).
    pub(super) fn note_push_back(&mut self, failure: &Failure) {
        if asks_for_less(failure) {
            // RT-7: it has let others in, so what this one waits for is a place.
            let early = failure.code.is_some() && !failure.stage.is_from_mail_on();
            self.crowded |= early && self.running.has_company();
            self.feedback.push_back = Some(PushBack {
                text: words(failure),
                unreached: failure.code.is_none(),
            });
        }
    }

    /// No host is left: the last words count, or what the plan says when no host was tried (DV-4, DV-16).
    fn conclude(&mut self, walk: &Walk) {
        if self.crowded && !self.feedback.reached_mail {
            let rows = std::mem::take(&mut self.pending);
            let due = self.running.now(&self.parts.clock).plus(CROWDED_AGAIN);
            let rows = self.running.take(&rows);
            return give_back(self.parts, self.running, &rows, due);
        }
        let mut happened = Vec::new();
        for row in self.running.take(&std::mem::take(&mut self.pending)) {
            let (failures, scenes): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.failures[row]).into_iter().unzip();
            let last = verdict::exhausted(&failures);
            let (failure, scene) = match last {
                Some(at) => (failures[at].clone(), Arc::clone(&scenes[at])),
                None => (walk.conclusion(), Arc::default()),
            };
            // STS-8, RFC 8461 §5.1: the policy that keeps the mail here may have changed.
            if [NOT_OFFERED, NOT_ENOUGH].contains(&failure.status)
                && self.course.enforces_sts()
                && let Some(domain) = &self.domain
            {
                self.parts.tls.sts.all_failed(domain);
            }
            if !self.feedback.reached_mail {
                if let Some(text) = strike(self.running, &failure) {
                    self.feedback.strike = Some(text);
                }
                if let Some(text) = broken(&failure) {
                    self.feedback.broken = Some(text);
                }
            }
            happened.push(Happened {
                row,
                result: Err(failure),
                scene,
                poison: false,
            });
        }
        settle(self.parts, self.running, happened);
    }

    /// Whether the host must take SMTPUTF8 for this row (RFC 6531).
    pub(super) fn needs_utf8(&self, row: usize) -> bool {
        carrying::needs_utf8(&self.running.head, &self.running.rows[row].recipient.path)
    }
}

/// Whether a failure asks for fewer connections (SC-5). A 4.7.x to the envelope may be about anything, greylisting first of
/// all, unless it speaks of a rate.
fn asks_for_less(failure: &Failure) -> bool {
    let Some(code) = failure.code else {
        return failure.stage == Stage::Connect;
    };
    if code.get() == 421 {
        return true;
    }
    let text = failure.text.to_ascii_lowercase();
    let too_many = text.contains("too many") && text.contains("connections");
    let early = matches!(
        failure.stage,
        Stage::Connect | Stage::Greeting | Stage::Ehlo | Stage::Mail
    );
    let rate = [
        "rate", "too many", "too much", "too fast", "throttl", "limit",
    ];
    let rate = || rate.iter().any(|word| text.contains(word));
    code.is_transient() && (too_many || failure.status.subject() == 7 && (early || rate()))
}

/// The words of a failure before MAIL that speaks against the destination (SC-7): not what is our own fault, what only
/// this message asks for, or what is certain, so that waiting would help nobody.
fn strike(running: &Running, failure: &Failure) -> Option<String> {
    let asked_for = running.head.require_tls == RequireTls::Yes && failure.cause == Cause::Tls;
    let theirs = !matches!(failure.scope, Scope::Local | Scope::Transport);
    let counts = theirs && failure.retry == Retry::Later && !asked_for;
    counts.then(|| words(failure))
}

/// The words of a failure that only an operator can mend (RO-8).
fn broken(failure: &Failure) -> Option<String> {
    (failure.scope == Scope::Transport).then(|| words(failure))
}

fn words(failure: &Failure) -> String {
    match failure.code {
        Some(code) => format!("{code} {}", failure.text),
        None => failure.text.clone(),
    }
}
