//! What the control socket and the signals ask of the daemon as a whole: reload, stop, summary.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::events::{Ask, Asking};
use crate::config::{Config, ConfigError, Listen, Live};
use crate::delivery::{Doing, Workers};
use crate::dispatch::{Dispatcher, Wake};
use crate::front::control::{self, Reloaded};
use crate::front::listener::Front;
use crate::log::{Line, Log};
use crate::store::{self, Store};

/// Where a reload takes its configuration from.
pub type Source = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Keys that are read at the start only (CFG-5).
const NEEDS_RESTART: [&str; 8] = [
    "user",
    "group",
    "workers",
    "pid_file",
    "queue.path",
    "control.path",
    "control.mode",
    "control.clients",
];

/// The daemon as its doors see it.
pub(super) struct Host {
    pub live: Live,
    pub store: Store,
    pub dispatcher: Dispatcher,
    pub workers: Arc<Workers>,
    /// The SMTP listeners, which start last.
    pub front: OnceLock<Arc<Front>>,
    pub asking: Asking,
    pub source: Source,
    pub log: Option<Log>,
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

/// Rules of listeners that are there change at once; listeners that are not there yet, or no longer, wait for a
/// restart, as does the mode of a socket. Says whether any does.
fn listeners(new: &mut Config, old: &Config) -> bool {
    let same = |a: &Listen, b: &Listen| a.name == b.name && a.address == b.address;
    let mut in_force = old.listen.clone();
    for listen in &mut in_force {
        if let Some(rules) = new.listen.iter().find(|other| same(other, listen)) {
            let mode = listen.mode;
            listen.clone_from(rules);
            listen.mode = mode;
        }
    }
    let waits = in_force != new.listen;
    new.listen = in_force;
    new.default_listeners = old.default_listeners;
    waits
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
        new.queue.path.clone_from(&old.queue.path);
        new.control.clone_from(&old.control);
        if listeners(&mut new, &old) {
            changed.retain(|key| key != "listen");
            restart.push("listen".to_owned());
        }

        // The one step that can fail comes first.
        if let Some(log) = &self.log {
            log.reconfigure(&new.log)
                .map_err(|error| error.to_string())?;
        }
        self.store.reconfigure(&store_settings(&new));
        self.live.set(new);
        self.dispatcher.wake(Wake::Everything);
        Ok(Reloaded { changed, restart })
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

    fn running(&self) -> Vec<Doing> {
        self.workers.registry().doing()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let going = self.dispatcher.snapshot();
        let lost = self.log.as_ref().map_or(0, Log::lost);
        vec![
            ("workers", going.workers.to_string()),
            ("in-flight", going.in_flight.to_string()),
            ("sessions", self.sessions().to_string()),
            ("log-lost", lost.to_string()),
            // SEC-12
            ("unsafe", self.live.get().warnings().join("; ")),
        ]
    }
}
