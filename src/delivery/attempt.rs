//! One attempt: over the hosts of the next hop until every recipient has an outcome (DV-6, DV-15 to DV-17).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Parts;
use super::content::Content;
use super::outcome::{Break, content_failure, stage, unfit};
use super::pool::{Key, Place};
use super::running::Running;
use super::session::{Limits, Session};
use super::settle::{Accepted, Happened, Scene, give_back, settle};
use crate::config::{Config, TransportKind, Without8BitMime};
use crate::dispatch::Feedback;
use crate::message::RequireTls;
use crate::net::deadline::Deadline;
use crate::net::dial::Connection;
use crate::net::stream::Stream;
use crate::net::walk::{ReadyHost, Walk};
use crate::policy::failure::{Failure, Retry, Scope, Stage};
use crate::policy::plan::Target;
use crate::policy::{route, verdict};
use crate::smtp::client::{Answer, Mail, Options, Rcpt, StartTls};
use crate::smtp::reply::EnhancedCode;

/// How long a slot of a host is waited for whose sessions are all in use by other destinations.
const SLOT_PATIENCE: Duration = Duration::from_millis(500);

/// When recipients that found no slot are tried again; that is no attempt (RT-7).
const SLOT_AGAIN: Duration = Duration::from_secs(5);

/// An attempt under way.
pub(super) struct Attempt<'a> {
    parts: &'a Parts,
    running: &'a Running,
    config: Arc<Config>,
    limits: Limits,
    content: Content,
    /// The end of `attempt_timeout`.
    end: Deadline,
    /// Rows that have no outcome yet.
    pending: Vec<usize>,
    /// By row: what each host that was tried said.
    failures: Vec<Vec<(Failure, Arc<Scene>)>>,
    relay: bool,
    feedback: Feedback,
}

/// What an attempt leaves behind.
#[derive(Default)]
pub(super) struct Left {
    /// For the dispatcher.
    pub feedback: Feedback,
    /// Sessions to be ended once the permit is given back (CL-23), with their slots.
    pub quitting: Vec<Session>,
}

/// How a session came out of the transactions at one host.
enum After {
    /// It can go on.
    Kept(Session),
    /// It has carried as much as it may, and recipients are left for this host.
    Full(Session),
    /// It is gone; recipients that are left for this host may have a fresh one.
    Lost,
}

/// Carries out the attempt. Every row is settled or given back when it returns.
pub(super) fn attempt(parts: &Parts, running: &Running, warm: Option<Arc<[u8]>>) -> Left {
    let config = parts.live.get();
    let end = Deadline::after(config.deliver.attempt_timeout.get());
    let rows: Vec<usize> = (0..running.rows.len()).collect();
    let stopped = |failure: Failure| {
        settle_all(parts, running, &rows, failure, &Arc::default());
        Left::default()
    };
    if running.head.require_tls == RequireTls::Yes {
        // TLS-12: no level above opportunistic exists yet, so nothing may leave.
        let mut failure = unfit(
            EnhancedCode::new(5, 7, 30),
            "REQUIRETLS cannot be met".to_string(),
        );
        (failure.stage, failure.scope) = (Stage::Route, Scope::Destination);
        return stopped(failure);
    }
    let way = match route::find(&config, &running.transport) {
        Ok(way) => way.kind().clone(),
        Err(unknown) => return stopped(unknown.into()),
    };
    let target = match &way {
        TransportKind::Direct => Target::from(running.rows[0].recipient.path.domain()),
        TransportKind::Relay { hosts } => Target::Relay(hosts.clone()),
    };
    running.at(Stage::Dns);
    let walk = parts
        .network
        .walk(&running.transport, &target, &running.rows[0].dialled, end);
    let mut walk = match walk {
        Ok(walk) => walk,
        Err(failure) => return stopped(failure),
    };
    let content = match Content::open(&parts.store, &running.head, warm) {
        Ok(content) => content,
        Err(error) => return stopped(content_failure(&error)),
    };
    let mut attempt = Attempt {
        parts,
        running,
        limits: Limits::of(&config.deliver),
        config,
        content,
        end,
        failures: vec![Vec::new(); rows.len()],
        pending: rows,
        relay: matches!(target, Target::Relay(_)),
        feedback: Feedback::default(),
    };
    let mut quitting = Vec::new();
    while !attempt.pending.is_empty() && !attempt.end.is_over() {
        let began = Instant::now();
        walk.ends_at(attempt.end);
        let Some(host) = walk.next_host() else { break };
        attempt.at_host(&mut walk, host, began, &mut quitting);
    }
    attempt.conclude(&walk);
    Left {
        feedback: attempt.feedback,
        quitting,
    }
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
    /// Tries one host for all pending rows. Rows that get an outcome are settled; the others stay pending with what the
    /// host said.
    fn at_host(
        &mut self,
        walk: &mut Walk,
        mut host: ReadyHost,
        began: Instant,
        quitting: &mut Vec<Session>,
    ) {
        let name = host.name.to_string();
        self.running.at_host(&name, None);
        let deliver = &self.config.deliver;
        let helo = deliver.helo.as_ref().unwrap_or(&self.config.hostname);
        let key = Key {
            host: host.name.clone(),
            port: host.port,
            starttls: StartTls::IfOffered,
            sources: deliver.source_addresses.clone(),
            helo: helo.to_string(),
        };
        // DV-12, DV-17: after a failure the other family is wanted, and not the session that is at hand.
        let retried = !self.running.rows[0].dialled.is_empty();
        let mut usable = host.addresses.clone();
        usable.retain(|ip| !retried || ip.is_ipv4() == host.addresses[0].is_ipv4());
        let place = self
            .parts
            .pools
            .place(&key, &usable, &self.config, SLOT_PATIENCE);
        let Some(mut place) = place else {
            self.no_slot();
            return;
        };
        let mut options = Options {
            helo: key.helo,
            starttls: StartTls::IfOffered,
            // CL-2: HELO knows no SMTPUTF8.
            helo_fallback: !self.pending.iter().any(|row| self.needs_utf8(*row)),
            pipelining: deliver.pipelining,
        };
        let mut waiting = place.take();
        let mut here = std::mem::take(&mut self.pending);
        let mut began = began;
        while !here.is_empty() {
            let mut scene = Scene {
                host: name.clone(),
                both_families: host.both_families,
                ..Scene::default()
            };
            let (session, total) = match waiting.take() {
                Some(session) => {
                    scene.reused = true;
                    scene.connect = began.elapsed();
                    let total = self.limits.total(self.content.size()).min(self.end);
                    (session, total)
                }
                None => match self.open(walk, &mut host, &mut options, &mut scene, began) {
                    Ok(opened) => opened,
                    Err(failure) => return self.host_failed(here, failure, scene),
                },
            };
            let origin = session.origin().clone();
            self.running.dialled(&[origin.address.ip()]);
            self.running.at_host(&name, Some(origin.address));
            scene.address = Some(origin.address);
            scene.source = origin.source;
            scene.tls = origin.tls;
            let reused = scene.reused;
            match self.carry(session, &mut here, scene, total) {
                After::Kept(session) => {
                    // A session in clear that TLS was meant for is nobody else's (CL-25).
                    let shared = options.starttls == StartTls::IfOffered;
                    self.put_away(session, place, shared, quitting);
                    return;
                }
                After::Full(session) => session.quit(&self.limits),
                After::Lost if reused => {}
                After::Lost => {
                    debug_assert!(here.is_empty());
                    self.pending.append(&mut here);
                    return;
                }
            }
            began = Instant::now();
        }
    }

    /// A session to this host on a fresh connection, and the limit of its first transaction.
    fn open(
        &mut self,
        walk: &mut Walk,
        host: &mut ReadyHost,
        options: &mut Options,
        scene: &mut Scene,
        mut began: Instant,
    ) -> Result<(Session, Deadline), Failure> {
        let mut redial: Option<(std::net::SocketAddr, Option<IpAddr>)> = None;
        loop {
            let total = self.limits.total(self.content.size()).min(self.end);
            let connection = match redial.take() {
                None => walk.dial(host, total),
                Some((address, source)) => {
                    let deadline =
                        Deadline::after(self.config.deliver.dial_timeout.get()).min(total);
                    let source = self
                        .config
                        .deliver
                        .source_addresses
                        .iter()
                        .find(|own| Some(**own) == source);
                    Stream::connect(address, source.copied(), deadline)
                        .map(|stream| Connection {
                            source: stream.local().map(|local| local.ip()),
                            stream,
                            address,
                        })
                        .map_err(|error| super::outcome::redial_failure(address, &error))
                }
            };
            self.running.dialled(walk.dialled());
            scene.connect = began.elapsed();
            let connection = connection?;
            let (address, source) = (connection.address, connection.source);
            (scene.address, scene.source) = (Some(address), source);
            self.running.at_host(&scene.host, Some(address));
            self.running.at(Stage::Greeting);
            let connected = Instant::now();
            let opened = Session::open(
                connection,
                &scene.host,
                options.clone(),
                &self.limits,
                total,
            );
            scene.session = connected.elapsed();
            let not = match opened {
                Ok(session) => {
                    return match walk.check_greeting(host, session.greeting()) {
                        Ok(()) => Ok((session, total)),
                        Err(failure) => {
                            session.drop_politely();
                            Err(failure)
                        }
                    };
                }
                Err(not) => not,
            };
            let failure = not.why.failure(not.enhanced, self.relay);
            if not.over_tls && options.starttls != StartTls::Never {
                // TLS-4: one redial in clear, in the same attempt.
                crate::log::Line::new("tls-fallback")
                    .key("qid", self.running.head.id)
                    .key("relay", format!("{}[{}]", scene.host, address.ip()))
                    .peer("text", &failure.text)
                    .warn();
                options.starttls = StartTls::Never;
                redial = Some((address, source));
                began = Instant::now();
                continue;
            }
            if not.without_a_byte
                && let Some(at) = host.addresses.iter().position(|ip| *ip == address.ip())
                && at + 1 < host.addresses.len()
            {
                // DV-15: this address is dead, the next one may live.
                host.addresses.drain(..=at);
                began = Instant::now();
                continue;
            }
            return Err(failure);
        }
    }

    /// Runs transactions on one session until no row is left for this host, or the session is over.
    fn carry(
        &mut self,
        mut session: Session,
        here: &mut Vec<usize>,
        scene: Scene,
        mut total: Deadline,
    ) -> After {
        let scene_before = scene;
        self.refuse_unfit(&session, here, &scene_before);
        let mut first = true;
        while !here.is_empty() {
            // Whatever the limits are, a session carries one transaction, or dialling would never end.
            if !std::mem::take(&mut first) && !session.may_carry_more(&self.config.deliver) {
                return After::Full(session);
            }
            let limits = &session.capabilities().limits;
            let batch = self.take_batch(here, limits.rcpt_max, limits.rcpt_domain_max);
            let head = &self.running.head;
            let mail = Mail {
                reverse_path: &head.reverse_path,
                size: head.size,
                eight_bit: head.eight_bit,
                utf8: head.utf8_headers || batch.iter().any(|row| self.needs_utf8(*row)),
                ret: head.ret,
                envid: head.envid.as_deref(),
            };
            let recipients = batch.iter().map(|row| {
                let recipient = &self.running.rows[*row].recipient;
                Rcpt {
                    path: &recipient.path,
                    notify: recipient.notify,
                    orcpt: recipient.orcpt.as_deref(),
                }
            });
            self.running.at(Stage::Mail);
            let confirms = session.capabilities().dsn;
            let carried = session.carry(
                &mail,
                recipients,
                &self.content,
                &self.limits,
                total,
                &|| self.running.may_send_dot(),
            );
            // DV-6: the wait for the dot's reply does not count.
            self.end = self.end.put_off(carried.waited_for_dot);
            self.feedback.reached_mail |= carried.answers.reached_mail;
            let scene = Arc::new(Scene {
                data: carried.took,
                ..scene_before.clone()
            });
            let broken = carried.broken.as_ref().map(|why| {
                let failure = why.failure(carried.answers.enhanced, self.relay);
                (why, failure)
            });
            let mut happened = Vec::new();
            for (n, row) in batch.iter().enumerate() {
                let outcome = match carried.answers.answer(n) {
                    Answer::Delivered(reply) => Some(Ok(Accepted {
                        code: reply.code(),
                        status: reply.status(carried.answers.enhanced),
                        text: reply.text(),
                        confirms,
                    })),
                    Answer::Refused(command, reply) => {
                        let failure =
                            verdict::refused(stage(command), reply, carried.answers.enhanced);
                        // DV-16: only a 4yz to MAIL or RCPT goes on to the next host.
                        let on = failure.retry == Retry::Later
                            && matches!(failure.stage, Stage::Mail | Stage::Rcpt);
                        self.note_push_back(&failure);
                        self.done_or_on(*row, failure, on, &scene)
                    }
                    Answer::Again => {
                        here.push(*row);
                        None
                    }
                    Answer::Open => match &broken {
                        // CL-8: a fresh connection at once.
                        Some((why, _)) if scene.reused && why.is_loss() && !after_dot(why) => {
                            here.push(*row);
                            None
                        }
                        Some((why, failure)) => {
                            self.note_push_back(failure);
                            let on = !after_dot(why) && failure.scope == Scope::Host;
                            self.done_or_on(*row, failure.clone(), on, &scene)
                        }
                        None => {
                            let failure = Break::Eof(crate::smtp::client::Command::Data)
                                .failure(false, self.relay);
                            self.done_or_on(*row, failure, true, &scene)
                        }
                    },
                };
                if let Some(result) = outcome {
                    happened.push(Happened {
                        row: *row,
                        result,
                        scene: Arc::clone(&scene),
                        poison: false,
                    });
                }
            }
            let rows: Vec<usize> = happened.iter().map(|one| one.row).collect();
            let taken = self.running.take(&rows);
            happened.retain(|one| taken.contains(&one.row));
            settle(self.parts, self.running, happened);
            self.running.dot_answered();
            match carried.session {
                Some(kept) => session = kept,
                None => {
                    // What is left for this host without a session that can be replaced goes on.
                    if !scene.reused {
                        self.leave(here, &broken.map(|(_, failure)| failure), &scene);
                    }
                    return After::Lost;
                }
            }
            total = self.limits.total(self.content.size()).min(self.end);
        }
        After::Kept(session)
    }

    /// The failure as the row's outcome; or noted, and the row goes on to the next host.
    fn done_or_on(
        &mut self,
        row: usize,
        failure: Failure,
        on: bool,
        scene: &Arc<Scene>,
    ) -> Option<Result<Accepted, Failure>> {
        if !on {
            return Some(Err(failure));
        }
        self.failures[row].push((failure, Arc::clone(scene)));
        self.pending.push(row);
        None
    }

    /// Rows that waited for a further transaction of a session that broke (CL-17).
    fn leave(&mut self, here: &mut Vec<usize>, broken: &Option<Failure>, scene: &Arc<Scene>) {
        for row in here.drain(..) {
            if let Some(failure) = broken {
                let mut failure = failure.clone();
                failure.may_be_sent_twice = false;
                self.failures[row].push((failure, Arc::clone(scene)));
            }
            self.pending.push(row);
        }
    }

    /// The recipients of the next transaction: at most so many, of at most so many domains (CL-20, RFC 9422 §4).
    fn take_batch(
        &self,
        here: &mut Vec<usize>,
        rcpt_max: Option<u32>,
        rcpt_domain_max: Option<u32>,
    ) -> Vec<usize> {
        let most = here.len().min(rcpt_max.unwrap_or(u32::MAX) as usize);
        let Some(domain_max) = rcpt_domain_max else {
            return here.drain(..most).collect();
        };
        let mut domains = Vec::new();
        let (mut batch, mut rest) = (Vec::new(), Vec::new());
        for row in here.drain(..) {
            let domain = self.running.rows[row].recipient.path.domain();
            let known = domains.contains(&domain);
            if batch.len() < most && (known || domains.len() < domain_max as usize) {
                if !known {
                    domains.push(domain);
                }
                batch.push(row);
            } else {
                rest.push(row);
            }
        }
        *here = rest;
        batch
    }

    /// Takes out the rows that this host cannot serve (CL-11 to CL-13): they go on to the next one.
    fn refuse_unfit(&mut self, session: &Session, here: &mut Vec<usize>, scene: &Scene) {
        let capabilities = session.capabilities();
        let head = &self.running.head;
        let size = capabilities.size_limit.filter(|limit| *limit < head.size);
        let eight_bit = head.eight_bit
            && !capabilities.eight_bit_mime
            && self.config.deliver.without_8bitmime == Without8BitMime::Fail;
        let sender = head
            .reverse_path
            .mailbox()
            .is_some_and(|mailbox| mailbox.needs_utf8());
        let utf8 = !capabilities.smtputf8;
        let scene = Arc::new(scene.clone());
        let (host, mut fit) = (&scene.host, Vec::new());
        for row in here.drain(..) {
            let path = &self.running.rows[row].recipient.path;
            let failure = if let Some(limit) = size {
                unfit(
                    EnhancedCode::new(5, 3, 4),
                    format!(
                        "message of {} octets is over the limit of {limit} of {host}",
                        head.size
                    ),
                )
            } else if eight_bit {
                unfit(
                    EnhancedCode::new(5, 6, 3),
                    format!("{host} does not take 8-bit content"),
                )
            } else if utf8 && (sender || path.needs_utf8()) {
                unfit(
                    EnhancedCode::new(5, 6, 7),
                    format!("{host} does not take non-ASCII addresses"),
                )
            } else {
                fit.push(row);
                continue;
            };
            self.failures[row].push((failure, Arc::clone(&scene)));
            self.pending.push(row);
        }
        *here = fit;
    }

    /// Nothing could be carried to this host.
    fn host_failed(&mut self, here: Vec<usize>, failure: Failure, scene: Scene) {
        let scene = Arc::new(scene);
        if failure.scope != Scope::Local {
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

    fn note_push_back(&mut self, failure: &Failure) {
        let asks = match failure.code {
            None => failure.stage == Stage::Connect,
            Some(code) => {
                code.get() == 421 || (code.is_transient() && failure.status.subject() == 7)
            }
        };
        if asks {
            let code = failure
                .code
                .map(|code| format!("{code} "))
                .unwrap_or_default();
            self.feedback.push_back = Some(format!("{code}{}", failure.text));
        }
    }

    /// All slots of the host are taken: its limit, so no attempt (RT-7); unless another host has been tried.
    fn no_slot(&mut self) {
        let (tried, untried): (Vec<usize>, Vec<usize>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|row| !self.failures[*row].is_empty());
        self.pending = tried;
        let due = self.parts.clock.now().plus(SLOT_AGAIN);
        let untried = self.running.take(&untried);
        give_back(self.parts, self.running, &untried, due);
    }

    fn put_away(&self, session: Session, place: Place, shared: bool, quitting: &mut Vec<Session>) {
        let more = session.may_carry_more(&self.config.deliver);
        if shared && more && !self.config.deliver.idle_session.get().is_zero() {
            place.keep(session);
        } else {
            quitting.push(session);
        }
    }

    /// No host is left: the last words count, or what the plan says when no host was tried (DV-4, DV-16).
    fn conclude(&mut self, walk: &Walk) {
        let mut happened = Vec::new();
        for row in self.running.take(&std::mem::take(&mut self.pending)) {
            let (failures, scenes): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.failures[row]).into_iter().unzip();
            let last = verdict::exhausted(&failures);
            let (failure, scene) = match last {
                Some(at) => (failures[at].clone(), Arc::clone(&scenes[at])),
                None => (walk.conclusion(), Arc::default()),
            };
            happened.push(Happened {
                row,
                result: Err(failure),
                scene,
                poison: false,
            });
        }
        settle(self.parts, self.running, happened);
    }

    fn needs_utf8(&self, row: usize) -> bool {
        let head = &self.running.head;
        head.reverse_path
            .mailbox()
            .is_some_and(|mailbox| mailbox.needs_utf8())
            || self.running.rows[row].recipient.path.needs_utf8()
    }
}

/// The dot may be out: whatever happened, there is no second try in this attempt.
fn after_dot(why: &Break) -> bool {
    why.command() == crate::smtp::client::Command::Dot
}
