//! What the control socket and the signals ask of the daemon as a whole: reload, stop, summary.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::events::{Ask, Asking};
use super::keys;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, ConfigError, Listen, ListenAddress, Live, TransportKind};
use crate::delivery::{Doing, Probe, Trial, Workers};
use crate::dispatch::dead::DeadDestination;
use crate::dispatch::{DestinationSnapshot, Dispatcher, Known, Wake};
use crate::front::control::{self, Reloaded};
use crate::front::listener::{Bound, Front};
use crate::front::tls::Renewed;
use crate::front::unix;
use crate::log::{Line, Log};
use crate::metrics::{Kind, Text};
use crate::net::deadline::Deadline;
use crate::policy::failure::Failure;
use crate::policy::route::named_destination;
use crate::smtp::address::Domain;
use crate::store::{self, DestinationKey, Store};

/// Where a reload takes its configuration from.
pub type Source = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Keys that are read at the start only (CFG-5).
const NEEDS_RESTART: [&str; 7] = [
    "user",
    "group",
    "workers",
    "pid_file",
    "scheduling",
    "queue.path",
    "control.path",
];

/// The daemon as its doors see it.
pub(super) struct Host {
    pub live: Live,
    pub clock: Clock,
    pub store: Store,
    pub dispatcher: Dispatcher,
    pub workers: Arc<Workers>,
    /// The SMTP listeners, which start last.
    pub front: OnceLock<Arc<Front>>,
    pub asking: Asking,
    pub source: Source,
    pub log: Option<Log>,
    pub panics: Arc<AtomicU64>,
    /// Reloads come from several threads and go one after the other.
    pub reloading: Mutex<()>,
}

/// The part of the configuration that the store is told of.
pub(super) fn store_settings(config: &Config) -> store::Settings {
    store::Settings {
        path: config.queue.path.clone(),
        max_messages: config.queue.max_messages,
        in_doubt: config.queue.in_doubt,
        poison_limit: config.queue.poison_limit,
        min_free: config.queue.min_free.get(),
        reserve: config.queue.reserve.get(),
        collect: config.dsn.collect.get(),
    }
}

/// What a reload does to the listeners (CFG-5).
struct Listeners {
    opened: Vec<Listen>,
    closed: Vec<Listen>,
    /// Something of it needs a restart.
    waits: bool,
}

/// Rules of listeners that stay change at once, listeners come and go. A new low port, which takes a right that we have
/// given up, and a place that a listener which goes has to leave first need a restart: then no listener comes or goes,
/// or a move from one to the other would leave the daemon without any. `new` becomes what is in force.
fn listeners(new: &mut Config, old: &Config) -> Listeners {
    let beyond = |these: &[Listen], those: &[Listen]| -> Vec<Listen> {
        let lacking = |listen: &&Listen| !those.iter().any(|other| other.is_at(listen));
        these.iter().filter(lacking).cloned().collect()
    };
    let opened = beyond(&new.listen, &old.listen);
    let closed = beyond(&old.listen, &new.listen);
    let waits = opened.iter().any(|listen| {
        is_low_port(&listen.address) || closed.iter().any(|other| share_place(other, listen))
    });
    let come_and_go = !waits;
    if !come_and_go {
        new.listen.retain(|listen| !opened.contains(listen));
        new.listen.extend(closed.iter().cloned());
        new.default_listeners = old.default_listeners;
    }
    let unless_waiting = |these| if come_and_go { these } else { Vec::new() };
    Listeners {
        opened: unless_waiting(opened),
        closed: unless_waiting(closed),
        waits,
    }
}

/// Unix sockets that stay and are to have another mode.
fn modes<'a>(new: &'a Config, old: &Config) -> Vec<(&'a Path, u32)> {
    let mut modes = Vec::new();
    for listen in &new.listen {
        let before = old.listen.iter().find(|other| other.is_at(listen));
        if let ListenAddress::Unix(path) = &listen.address
            && before.is_some_and(|before| before.mode != listen.mode)
        {
            modes.push((path.as_path(), listen.mode));
        }
    }
    if new.control.mode != old.control.mode {
        modes.push((new.control.path.as_path(), new.control.mode));
    }
    modes
}

fn is_low_port(address: &ListenAddress) -> bool {
    matches!(address, ListenAddress::Tcp(tcp) if (1..1024).contains(&tcp.port()))
}

/// Whether the system may refuse one of them while the other is there.
fn share_place(one: &Listen, other: &Listen) -> bool {
    match (&one.address, &other.address) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            one.port() == other.port() && one.port() != 0
        }
        (one, other) => one == other,
    }
}

impl Host {
    /// Reads the configuration again. A faulty one changes nothing (CFG-5).
    fn read_again(&self) -> Result<Reloaded, String> {
        let _one = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut new = (self.source)().map_err(|error| error.to_string())?;
        let old = self.live.get();
        let (mut restart, mut changed): (Vec<String>, Vec<String>) = old
            .changed_keys(&new)
            .into_iter()
            .partition(|key| NEEDS_RESTART.contains(&key.as_str()));
        // What needs a restart stays as it was in what is in force, so that nobody sees half of it.
        new.user.clone_from(&old.user);
        new.group.clone_from(&old.group);
        new.workers = old.workers;
        new.pid_file.clone_from(&old.pid_file);
        new.scheduling = old.scheduling;
        new.queue.path.clone_from(&old.queue.path);
        new.control.path.clone_from(&old.control.path);
        let listeners = listeners(&mut new, &old);
        if listeners.waits {
            changed.retain(|key| key != "listen");
            restart.push("listen".to_owned());
        }

        // The steps that can fail come first.
        crate::net::tls::Context::check(&new.tls)?;
        let keys = keys::reload(&new, &old, &self.live.keyring())?;
        let opened = listeners.opened.iter().map(|listen| {
            // We own what we make: root was given up.
            Bound::new(listen, None).map_err(|error| format!("listen: {error}"))
        });
        let opened = opened.collect::<Result<Vec<Bound>, String>>()?;
        let renewed = match self.front.get() {
            Some(front) => front.read_again(&new.listen)?,
            None => Renewed::default(),
        };
        if !renewed.is_empty() {
            changed.push("listen.cert".to_owned());
        }
        if renewed.is_unreadable() {
            restart.push("listen.cert".to_owned());
        }
        if keys.changed {
            changed.push("dkim.key".to_owned());
        }
        if keys.unreadable {
            restart.push("dkim.key".to_owned());
        }
        for (path, mode) in modes(&new, &old) {
            unix::set_mode(path, mode).map_err(|error| format!("mode: {error}"))?;
        }
        if let Some(log) = &self.log {
            log.reconfigure(&new.log)
                .map_err(|error| error.to_string())?;
        }
        self.rebind(opened, &listeners.closed)?;
        if let Some(front) = self.front.get() {
            // Before the rules that may ask for it.
            front.renew(renewed, self.clock.now());
        }
        self.store.reconfigure(&store_settings(&new));
        if keys.changed || old.dkim != new.dkim {
            keys::log(&keys.keyring);
        }
        self.live.set_with(new, keys.keyring);
        self.dispatcher.wake(Wake::Everything);
        Ok(Reloaded { changed, restart })
    }

    fn rebind(&self, opened: Vec<Bound>, closed: &[Listen]) -> Result<(), String> {
        if opened.is_empty() && closed.is_empty() {
            return Ok(());
        }
        let front = self.front.get().ok_or("the start is not over yet")?;
        let addresses: Vec<ListenAddress> = opened.iter().map(Bound::address).collect();
        front
            .rebind(opened, closed)
            .map_err(|error| format!("listen: {error}"))?;
        for address in addresses {
            Line::new("listen").key("address", address).info();
        }
        for listen in closed {
            Line::new("listen-closed")
                .key("address", &listen.address)
                .info();
        }
        Ok(())
    }

    /// Open SMTP sessions.
    fn sessions(&self) -> usize {
        self.front.get().map_or(0, |front| front.sessions())
    }

    /// Logs a summary of the state (SIGUSR1).
    pub fn summary(&self) {
        match self.store.stats() {
            Ok(stats) => {
                let going = self.dispatcher.snapshot();
                Line::new("summary")
                    .num("messages", stats.messages)
                    .num("queued", stats.queued)
                    .num("claimed", stats.claimed)
                    .num("held", stats.held)
                    .num("in-doubt", stats.in_doubt)
                    .opt("oldest", stats.oldest)
                    .num("in-flight", going.in_flight)
                    .num("workers", going.workers)
                    .num("sessions", self.sessions())
                    .num("destinations", going.destinations.len())
                    .num("dead", going.dead)
                    .num("pauses", going.pauses.len())
                    .num("commits", stats.commits)
                    .num("wal-bytes", stats.wal_bytes)
                    .num("free-bytes", stats.free_bytes)
                    .num("log-lost", self.log.as_ref().map_or(0, Log::lost))
                    .info();
            }
            Err(error) => Line::new("summary").peer("text", &error.to_string()).warn(),
        }
    }
}

impl Host {
    /// RO-8
    fn relays(&self, text: &mut Text) {
        let name = "transport_broken";
        text.family(
            name,
            Kind::Gauge,
            "1 for a relay that an operator has to mend.",
        );
        for transport in &self.live.get().transport {
            if matches!(transport.kind, TransportKind::Relay(_)) {
                let dead = self.dispatcher.dead(&named_destination(&transport.name));
                let broken = dead.is_some_and(|dead| dead.broken);
                text.sample(name, &[("transport", &transport.name)], u8::from(broken));
            }
        }
    }
}

impl control::Host for Host {
    fn reload(&self) -> Result<Reloaded, String> {
        let reloaded = self.read_again();
        match &reloaded {
            Ok(done) => {
                let line = Line::new("reloaded").key("changed", done.changed.join(","));
                line.key("restart", done.restart.join(",")).info();
            }
            Err(reason) => {
                for line in reason.lines() {
                    Line::new("reload-refused").peer("reason", line).error();
                }
            }
        }
        reloaded
    }

    fn shutdown(&self, now: bool) {
        self.asking.ask(if now { Ask::StopNow } else { Ask::Stop });
    }

    fn wake(&self, wake: Wake) {
        self.dispatcher.wake(wake);
    }

    fn dead(&self, destination: &DestinationKey) -> Option<DeadDestination> {
        self.dispatcher.dead(destination)
    }

    fn limit(&self, destination: &DestinationKey) -> Option<(String, Option<Timestamp>)> {
        self.dispatcher.limit(destination)
    }

    fn running(&self) -> Vec<Doing> {
        self.workers.registry().doing()
    }

    fn probe_tls(
        &self,
        domain: &Domain,
        connect: bool,
        patience: Duration,
    ) -> Option<Result<Probe, Failure>> {
        let end = Deadline::after(patience);
        Some(self.workers.probe(domain, connect, end))
    }

    fn try_transport(&self, name: &str, patience: Duration) -> Option<Result<Vec<Trial>, Failure>> {
        let end = Deadline::after(patience);
        Some(self.workers.try_transport(name, end))
    }

    fn revive(&self, destination: &DestinationKey) -> bool {
        self.dispatcher.revive(destination)
    }

    fn known(&self, only: Option<&DestinationKey>) -> Vec<Known> {
        self.dispatcher.known(only)
    }

    fn set_window(&self, destination: &DestinationKey, size: Option<usize>, pin: bool) -> usize {
        self.dispatcher.set_window(destination, size, pin)
    }

    fn clear_window(&self, destination: &DestinationKey) -> bool {
        self.dispatcher.clear_window(destination)
    }

    fn gauges(&self, text: &mut Text) {
        let going = self.dispatcher.snapshot();
        text.one(
            "in_flight",
            Kind::Gauge,
            "Transactions under way.",
            going.in_flight,
        );
        text.one(
            "workers",
            Kind::Gauge,
            "Transactions that may be under way at once.",
            going.workers,
        );
        text.one(
            "sessions",
            Kind::Gauge,
            "Sessions of clients that hand in mail.",
            self.sessions(),
        );
        text.one(
            "limits_learned",
            Kind::Gauge,
            "Destinations whose connection window was made smaller by a refusal, or set by an operator.",
            going.learned,
        );
        let name = "destinations";
        text.family(
            name,
            Kind::Gauge,
            "Destinations with transactions under way, with due mail that waits for a slot, and dead.",
        );
        let in_flight = |one: &&DestinationSnapshot| one.in_flight > 0;
        let waiting = |one: &&DestinationSnapshot| one.waits;
        let active = going.destinations.iter();
        text.sample(
            name,
            &[("state", "in-flight")],
            active.clone().filter(in_flight).count(),
        );
        text.sample(
            name,
            &[("state", "waiting")],
            active.filter(waiting).count(),
        );
        text.sample(name, &[("state", "dead")], going.dead);
        self.relays(text);
        text.one(
            "pauses",
            Kind::Gauge,
            "Pauses in force.",
            going.pauses.len(),
        );
        text.one(
            "panics_total",
            Kind::Counter,
            "Panics of threads, each contained or the end.",
            self.panics.load(Ordering::Relaxed),
        );
        text.one(
            "log_lost_total",
            Kind::Counter,
            "Log lines that found no room.",
            self.log.as_ref().map_or(0, Log::lost),
        );
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let going = self.dispatcher.snapshot();
        let lost = self.log.as_ref().map_or(0, Log::lost);
        vec![
            ("workers", going.workers.to_string()),
            ("in-flight", going.in_flight.to_string()),
            ("dead", going.dead.to_string()),
            ("sessions", self.sessions().to_string()),
            ("log-lost", lost.to_string()),
            // SEC-12
            ("unsafe", self.live.get().warnings().join("; ")),
        ]
    }
}
