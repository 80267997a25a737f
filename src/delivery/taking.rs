//! Taking a session to a host: what its TLS must be, a kept session that will do, or a fresh one (CL-8, CL-25, TLS-3 to
//! TLS-5, DV-15).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attempt::{After, Attempt};
use super::following::Handed;
use super::opening::{NotOpened, Security};
use super::outcome::Break;
use super::parting::Parting;
use super::pool::{Key, Place};
use super::session::Session;
use super::settle::{Scene, give_back};
use crate::clock::Timestamp;
use crate::config::{Config, Line, RelayTls};
use crate::metrics::{DaneResult, Dialled};
use crate::net::deadline::Deadline;
use crate::net::dial::{Connection, NO_ADDRESS};
use crate::net::stream::Stream;
use crate::net::walk::{self, ReadyHost, Walk};
use crate::policy::failure::{Failure, Scope, Stage, TlsLevel};
use crate::policy::limit::most_connections;
use crate::policy::retry::REPORT_CALLER;
use crate::policy::tls::facts::{DaneFacts, StsMode};
use crate::policy::tls::report::{self, Applied, Seen};
use crate::policy::tls::{Encryption, Fault, Reached, Requirement, Source};
use crate::smtp::address::Domain;
use crate::smtp::client::{Options, StartTls, Why};
use crate::store::TlsSeen;

/// How long a slot of a host is waited for whose sessions are all in use by other destinations.
const SLOT_PATIENCE: Duration = Duration::from_millis(500);

/// When recipients that found no slot are tried again; that is no attempt (RT-7).
const SLOT_AGAIN: Duration = Duration::from_secs(5);

/// What is remembered of a domain is written anew this often; a commit for each session would be for nothing.
const REMEMBER_AGAIN: Duration = Duration::from_secs(86_400);

impl Attempt<'_> {
    /// Tries one host for all pending rows. Rows that get an outcome are settled; the others stay pending with what the
    /// host said.
    pub(super) fn at_host(
        &mut self,
        walk: &mut Walk,
        mut host: ReadyHost,
        began: Instant,
        quitting: &mut Vec<Session>,
    ) {
        let name = host.name.to_string();
        self.running.at_host(&name, None);
        let mut scene = Scene {
            host: name.clone(),
            both_families: host.both_families,
            ..Scene::default()
        };
        let requirement = match self.require(walk, &host) {
            Ok(requirement) => requirement,
            Err(failure) => {
                // Not dialled, and it never will be while that holds (STS-8, DANE-3).
                let here = std::mem::take(&mut self.pending);
                return self.host_failed(here, failure, scene);
            }
        };
        scene.tls_policy = requirement.to_string();
        let deliver = self.config.deliver_of(&self.line);
        let helo = our_name(&self.config, &self.line);
        let key = Key {
            host: host.name.clone(),
            port: host.port,
            tls: requirement.conditions.clone(),
            access: self.relay.as_ref().and_then(|relay| relay.access.clone()),
            proxy: self.line.as_ref().and_then(|line| line.proxy.clone()),
            sources: walk::sources(&self.line, deliver).to_vec(),
            helo: helo.to_string(),
        };
        // DV-12, DV-17: after a failure the other family is wanted, and not the session that is at hand.
        let retried = !self.running.rows[0].dialled.is_empty();
        let mut usable = host.addresses.clone();
        usable.retain(|ip| !retried || ip.is_ipv4() == host.addresses[0].is_ipv4());
        let handed = self.handed.take().filter(|handed| {
            let address = handed.session.origin().address.ip();
            handed.key == key && usable.contains(&address)
        });
        let (place, mut waiting) = match handed {
            Some(handed) => (handed.place, Some(handed.session)),
            None => {
                let most = most_connections(&self.config);
                let pools = &self.parts.pools;
                let place = pools.place(&key, &usable, most, deliver, SLOT_PATIENCE);
                let Some(mut place) = place else {
                    self.no_slot();
                    return;
                };
                let waiting = place.take();
                (place, waiting)
            }
        };
        let login = self.relay.as_ref().and_then(|relay| relay.login());
        let mut options = Options {
            helo: key.helo.clone(),
            starttls: match self.implicit(&host) {
                true => StartTls::Never,
                false => starttls(&requirement),
            },
            credentials: login.map(|login| Arc::new(login.credentials())),
            // CL-2: HELO knows no SMTPUTF8.
            helo_fallback: !self.pending.iter().any(|row| self.needs_utf8(*row)),
            pipelining: deliver.pipelining,
            lmtp: self.relay.as_ref().is_some_and(|relay| relay.lmtp),
        };
        let as_wanted = options.starttls;
        let mut here = std::mem::take(&mut self.pending);
        let mut began = began;
        while !here.is_empty() {
            let mut scene = scene.clone();
            let (mut session, total) = match waiting.take() {
                Some(session) => {
                    scene.reused = true;
                    scene.connect = began.elapsed();
                    let total = self.limits.total(self.content.size()).min(self.end);
                    (session, total)
                }
                None => {
                    if !self.may_dial(&mut here) {
                        return;
                    }
                    let opened = self.open(
                        walk,
                        &mut host,
                        &requirement,
                        &mut options,
                        &mut scene,
                        began,
                    );
                    match opened {
                        Ok(opened) => {
                            self.parts.ailing.remove(&host.name, host.port);
                            opened
                        }
                        Err(failure) => {
                            if self.relay.is_some() && failure.scope != Scope::Local {
                                self.parts.ailing.add(&host.name, host.port);
                            }
                            return self.host_failed(here, failure, scene);
                        }
                    }
                }
            };
            let origin = session.origin().clone();
            scene.address = met(origin.address);
            if scene.address.is_some() {
                self.running.dialled(&[origin.address.ip()]);
            }
            self.running.at_host(&name, scene.address);
            scene.source = origin.source;
            scene.tls = origin.level();
            self.remember(&session, scene.tls);
            // Where we do not ask for TLS, a session in clear says nothing of the host.
            if options.starttls != StartTls::Never {
                self.report(&host, &requirement, &scene, &mut session);
            }
            let reused = scene.reused;
            let at = (&host.name, host.port);
            // A session in clear that TLS was meant for is nobody else's (CL-25).
            let shared = options.starttls == as_wanted;
            let deliver = self.config.deliver_of(&self.line);
            self.may_part = shared && !deliver.idle_session.get().is_zero();
            match self.carry(session, at, &requirement, &mut here, scene, total) {
                After::Kept(session) => {
                    if let Some(judged) = self.judged.take() {
                        self.feedback.kept = true;
                        self.parting = Some(Parting {
                            judged,
                            session,
                            place,
                        });
                    } else if session.is_ahead() {
                        self.hand_on(session, key, place, shared);
                    } else {
                        self.put_away(session, place, shared, quitting);
                    }
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

    /// What the host's TLS must be; its failure if it is not to be dialled.
    fn require(&self, walk: &mut Walk, host: &ReadyHost) -> Result<Requirement, Failure> {
        let dane = if self.course.wants_dane() {
            walk.tlsa(host)
        } else {
            DaneFacts::Insecure
        };
        let names = walk.names(host);
        let result = self.course.host(&names, &dane);
        if matches!(dane, DaneFacts::Failed(_)) {
            self.parts.store.metrics().dane(DaneResult::Lookup);
        }
        if let (Err(failure), Some(domain)) = (&result, self.reported_domain())
            && let Some((applied, kind)) = self.course.skipped(&names, &dane)
        {
            self.parts.tls.reports.seen(Seen {
                domain: domain.clone(),
                applied,
                host: Some(host.name.clone()),
                address: None,
                helo: None,
                source: None,
                result: Err(Fault {
                    kind,
                    text: failure.text.clone(),
                }),
            });
        }
        result
    }

    /// A session to this host on a fresh connection, and the limit of its first transaction.
    fn open(
        &mut self,
        walk: &mut Walk,
        host: &mut ReadyHost,
        requirement: &Requirement,
        options: &mut Options,
        scene: &mut Scene,
        mut began: Instant,
    ) -> Result<(Session, Deadline), Failure> {
        let mut redial: Option<(SocketAddr, Option<IpAddr>)> = None;
        let context = self.context.clone();
        let mut further = false;
        loop {
            if std::mem::replace(&mut further, true) {
                self.running.may_dial(true);
            }
            let total = self.limits.total(self.content.size()).min(self.end);
            let connection = match redial.take() {
                None => walk.dial(host, total),
                Some((address, source)) => self.dial_again(walk, host, address, source, total),
            };
            self.running.dialled(walk.dialled());
            scene.connect = began.elapsed();
            let connection = connection.map_err(|failure| self.unreached(failure))?;
            let (address, source) = (connection.address, connection.source);
            (scene.address, scene.source) = (met(address), source);
            self.running.at_host(&scene.host, scene.address);
            self.running.at(Stage::Greeting);
            let connected = Instant::now();
            let opened = Session::open(
                connection,
                &scene.host,
                options.clone(),
                Security {
                    context: &context,
                    requirement,
                    implicit: self.implicit(host),
                    handshake: self.config.tls.handshake_timeout.get(),
                },
                &self.limits,
                total,
            );
            scene.session = connected.elapsed();
            let not = match opened {
                Ok(session) => {
                    self.parts.store.metrics().dialled(Dialled::Opened);
                    self.opened(requirement, &session);
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
            self.parts.store.metrics().dialled(Dialled::Failed);
            let failure = not.why.failure(not.enhanced, self.relay.is_some());
            if let Some(inside) = &not.inside {
                scene.tls = inside.level();
            }
            if matches!(&not.why, Break::Said(broken) if broken.why == Why::Injection) {
                // TLS-8
                crate::log::Line::new("tls-injection")
                    .key("qid", self.running.head.id)
                    .key("relay", format!("{}[{}]", scene.host, address.ip()))
                    .warn();
                self.parts.store.metrics().tls_injection();
            }
            if not.over_tls && (options.starttls != StartTls::Never || self.implicit(host)) {
                self.report_failed(host, requirement, scene, &not, &failure);
                if !requirement.fallback {
                    return Err(match not.reached {
                        // It has been judged, and says why; the record says what it was (TLS-1).
                        Some(reached) => {
                            scene.tls = reached.level();
                            failure
                        }
                        None => Failure {
                            scope: failure.scope,
                            ..requirement.explain(failure)
                        },
                    });
                }
                // TLS-4: one redial in clear, in the same attempt.
                crate::log::Line::new("tls-fallback")
                    .key("qid", self.running.head.id)
                    .key("relay", format!("{}[{}]", scene.host, address.ip()))
                    .peer("text", &failure.text)
                    .warn();
                self.parts.store.metrics().tls_fallback();
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

    /// Whether connections to it begin with the TLS handshake (RO-6).
    fn implicit(&self, host: &ReadyHost) -> bool {
        let relay = self.relay.as_ref();
        relay.is_some_and(|relay| relay.tls_at(host.port) == RelayTls::Implicit)
    }

    /// There was no connection. A proxy that is to blame for it breaks the relay that needs it (RO-11).
    fn unreached(&self, failure: Failure) -> Failure {
        self.parts.store.metrics().dialled(Dialled::Unreached);
        let proxy = self.line.as_ref().is_some_and(|line| line.proxy.is_some());
        match failure.scope {
            Scope::Local if proxy && self.relay.is_some() => Failure {
                scope: Scope::Transport,
                ..failure
            },
            _ => failure,
        }
    }

    /// The same address once more, from the same source.
    fn dial_again(
        &self,
        walk: &mut Walk,
        host: &ReadyHost,
        address: SocketAddr,
        source: Option<IpAddr>,
        total: Deadline,
    ) -> Result<Connection, Failure> {
        if self.line.as_ref().is_some_and(|line| line.proxy.is_some()) {
            // RO-11: never past the proxy.
            let host = ReadyHost {
                addresses: vec![address.ip()],
                ..host.clone()
            };
            return walk.dial(&host, total);
        }
        let deliver = self.config.deliver_of(&self.line);
        let deadline = Deadline::after(deliver.dial_timeout.get()).min(total);
        let source = walk::sources(&self.line, deliver)
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

    /// TLS-5: raised as soon as it is seen, whatever becomes of the mail.
    fn remember(&self, session: &Session, level: TlsLevel) {
        let Some(domain) = &self.domain else { return };
        let tls = &self.config.tls;
        if level == TlsLevel::Plain || tls.memory == crate::config::TlsMemory::Off {
            return;
        }
        let now = self.parts.clock.now();
        let verified = level >= TlsLevel::Verified;
        let requiretls = session.capabilities().requiretls;
        let again = REMEMBER_AGAIN.min(tls.memory_age.get() / 4);
        let known = |at: Option<Timestamp>| at.is_some_and(|at| now.since(at) < again);
        let remembered = &self.remembered;
        if known(remembered.encrypted)
            && (!verified || known(remembered.verified))
            && (!requiretls || known(remembered.requiretls))
        {
            return;
        }
        self.parts.store.note_tls(TlsSeen {
            domain: domain.clone(),
            at: now,
            verified,
            requiretls,
            forget_before: now.minus(tls.memory_age.get()),
        });
    }

    /// Counts a session that has been opened.
    fn opened(&self, requirement: &Requirement, session: &Session) {
        let plain = Reached::plain();
        let reached = session.origin().reached.as_deref().unwrap_or(&plain);
        self.parts.store.metrics().tls(reached.level());
        self.count(
            requirement,
            true,
            report::of_session(requirement, reached).is_ok(),
        );
    }

    /// What a session says of the domain's policy: once to each domain whose mail it carries.
    fn report(
        &self,
        host: &ReadyHost,
        requirement: &Requirement,
        scene: &Scene,
        session: &mut Session,
    ) {
        let Some(domain) = self.reported_domain() else {
            return;
        };
        if session.is_new_to(domain) {
            let plain = Reached::plain();
            let reached = session.origin().reached.as_deref().unwrap_or(&plain);
            let result = report::of_session(requirement, reached);
            self.seen(host, requirement, scene, session.greeting(), result);
        }
    }

    /// The same of a session that came to nothing over TLS.
    fn report_failed(
        &self,
        host: &ReadyHost,
        requirement: &Requirement,
        scene: &Scene,
        not: &NotOpened,
        failure: &Failure,
    ) {
        let result = match not.reached.as_deref() {
            Some(reached) => report::of_session(requirement, reached),
            None => Err(Fault {
                kind: if failure.status == crate::policy::tls::NOT_OFFERED {
                    report::Kind::StartTlsNotSupported
                } else {
                    report::Kind::ValidationFailure
                },
                text: failure.text.clone(),
            }),
        };
        self.count(requirement, false, result.is_ok());
        self.seen(host, requirement, scene, &not.greeting, result);
    }

    /// What a host's TLS came to, for those who asked something of it, and whether it is what an MTA-STS policy wants
    /// (OBS-6).
    fn count(&self, requirement: &Requirement, passed: bool, met: bool) {
        let metrics = self.parts.store.metrics();
        if let Applied::Sts(policy) = &requirement.applied
            && policy.mode != StsMode::None
        {
            metrics.sts(policy.mode == StsMode::Enforce, met);
        }
        if requirement.is_asked_by(Source::Memory) {
            metrics.tls_memory(passed);
        }
        if requirement.is_asked_by(Source::Dane) {
            metrics.dane(match (passed, requirement.conditions.by_dane) {
                (true, true) => DaneResult::Verified,
                (true, false) => DaneResult::Unusable,
                (false, _) => DaneResult::Failed,
            });
        }
    }

    fn seen(
        &self,
        host: &ReadyHost,
        requirement: &Requirement,
        scene: &Scene,
        greeting: &str,
        result: Result<(), Fault>,
    ) {
        let Some(domain) = self.reported_domain() else {
            return;
        };
        self.parts.tls.reports.seen(Seen {
            domain: domain.clone(),
            applied: requirement.applied.clone(),
            host: Some(host.name.clone()),
            address: scene.address.map(|address| address.ip()),
            helo: (!greeting.is_empty()).then(|| greeting.to_owned()),
            source: scene.source,
            result,
        });
    }

    /// The domain that may get a report of this attempt: never one of how its report was delivered (RPT-4).
    fn reported_domain(&self) -> Option<&Domain> {
        let own = self.running.head.caller == REPORT_CALLER;
        self.domain
            .as_ref()
            .filter(|_| self.config.tls.reports && !own)
    }

    /// Whether a new connection may be made now (SC-8). If not, what has not been tried goes back: that is no attempt (RT-7).
    /// What another host has refused goes on, or it would never get here.
    fn may_dial(&mut self, here: &mut Vec<usize>) -> bool {
        let further = here.iter().any(|row| !self.failures[*row].is_empty());
        if self.running.may_dial(further) {
            self.feedback.dialled = true;
            return true;
        }
        let due = self.running.due(&self.parts.clock);
        let here = self.running.take(&std::mem::take(here));
        give_back(self.parts, self.running, &here, due);
        false
    }

    /// All slots of the host are taken: its limit, so no attempt (RT-7); unless another host has been tried.
    fn no_slot(&mut self) {
        let (tried, untried): (Vec<usize>, Vec<usize>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|row| !self.failures[*row].is_empty());
        self.pending = tried;
        let due = self.running.now(&self.parts.clock).plus(SLOT_AGAIN);
        let untried = self.running.take(&untried);
        give_back(self.parts, self.running, &untried, due);
    }

    /// The session goes to the transaction whose commands are out on it.
    fn hand_on(&mut self, session: Session, key: Key, place: Place, shared: bool) {
        if shared && self.following.is_some() {
            self.handed_on = Some(Handed {
                key,
                place,
                session,
            });
        } else {
            session.drop_politely();
        }
    }

    fn put_away(
        &mut self,
        session: Session,
        place: Place,
        shared: bool,
        quitting: &mut Vec<Session>,
    ) {
        let more = session.may_carry_more(self.config.deliver_of(&self.line));
        if shared
            && more
            && !self
                .config
                .deliver_of(&self.line)
                .idle_session
                .get()
                .is_zero()
        {
            self.feedback.kept = true;
            place.keep(session);
        } else {
            quitting.push(session);
        }
    }
}

/// Our name in EHLO (CL-2, RO-17).
pub(super) fn our_name<'a>(config: &'a Config, line: &'a Option<Arc<Line>>) -> &'a Domain {
    let own = line.as_ref().and_then(|line| line.helo.as_ref());
    own.or(config.deliver.helo.as_ref())
        .unwrap_or(&config.hostname)
}

/// The address of a connection; a Unix socket has none.
fn met(address: SocketAddr) -> Option<SocketAddr> {
    (address != NO_ADDRESS).then_some(address)
}

/// What a requirement says of STARTTLS.
pub(super) fn starttls(requirement: &Requirement) -> StartTls {
    match requirement.conditions.encryption {
        Encryption::Never => StartTls::Never,
        Encryption::IfOffered => StartTls::IfOffered,
        Encryption::Required => StartTls::Required,
    }
}
