//! The control socket: one line asks, data lines and one last line answer (design.md 10, posthaste-control(5)).
//!
//! [`line`] reads a request, [`filter`] turns its words into what the store understands, [`verbs`] is the table of all
//! that can be asked, [`output`] writes records so that nothing a peer said can look like structure, and [`server`]
//! owns the socket and its clients. What the verbs do is done by the store; what concerns the whole daemon is asked
//! of a [`Host`].

pub mod filter;
pub mod input;
pub mod line;
pub mod output;
pub mod peer;
pub mod server;
pub mod times;
pub mod verbs;

use std::time::Duration;

use crate::clock::Timestamp;
use crate::delivery::{Doing, Probe, Trial};
use crate::dispatch::dead::DeadDestination;
use crate::dispatch::{Known, Wake};
use crate::metrics::Text;
use crate::policy::failure::Failure;
use crate::smtp::address::Domain;
use crate::store::DestinationKey;

/// What the control socket asks of the daemon around it. Called from the threads of control clients, several at once.
pub trait Host: Send + Sync {
    /// Reads the configuration again, reopens logs, reloads certificates and lists (CFG-5). Blocks until it is in
    /// force or refused.
    ///
    /// # Errors
    /// Why nothing was changed, as `file:line: key: reason`.
    fn reload(&self) -> Result<Reloaded, String>;

    /// Asks for a stop, as SIGTERM does, or with `now` as a second SIGTERM does (PRC-2). Returns at once; the answer
    /// to the client still goes out.
    fn shutdown(&self, now: bool);

    /// Hands this on to [`Dispatcher::wake`](crate::dispatch::Dispatcher::wake); never blocks.
    fn wake(&self, wake: Wake);

    /// What is known of a destination that is dead (SC-7); `None` for all others.
    fn dead(&self, _destination: &DestinationKey) -> Option<DeadDestination> {
        None
    }

    /// The limit that due mail of a destination waits for now, and until when (SC-9).
    fn limit(&self, _destination: &DestinationKey) -> Option<(String, Option<Timestamp>)> {
        None
    }

    /// The attempts that are running, at most one entry per worker, for `list` and `show`.
    fn running(&self) -> Vec<Doing> {
        Vec::new()
    }

    /// How mail for a domain would be protected, with one connection if wanted, for `tlsinfo`; blocks for `patience` at
    /// most. `None`: there is nobody to ask.
    fn probe_tls(
        &self,
        _domain: &Domain,
        _connect: bool,
        _patience: Duration,
    ) -> Option<Result<Probe, Failure>> {
        None
    }

    /// Tries the hosts of a relay, for `transports`; blocks for `patience` at most. `None`: there is nobody to ask.
    fn try_transport(
        &self,
        _name: &str,
        _patience: Duration,
    ) -> Option<Result<Vec<Trial>, Failure>> {
        None
    }

    /// A destination that is dead, or a transport that is broken, counts as neither from now on. Whether it was.
    fn revive(&self, _destination: &DestinationKey) -> bool {
        false
    }

    /// Destinations of which anything is known, for `domains`; or this one, with the group of its hosts.
    fn known(&self, _only: Option<&DestinationKey>) -> Vec<Known> {
        Vec::new()
    }

    /// Sets the window of a destination, and may fix it there (SC-6). The size that it has now.
    fn set_window(&self, _destination: &DestinationKey, _size: Option<usize>, _pin: bool) -> usize {
        0
    }

    /// Forgets what was learned of a destination. Whether there was something.
    fn clear_window(&self, _destination: &DestinationKey) -> bool {
        false
    }

    /// What `metrics` shows besides the numbers of the store.
    fn gauges(&self, _text: &mut Text) {}

    /// What `stats` shows besides the numbers of the store, as keys and values: workers, transactions in flight, open
    /// sessions, what weakens safety (SEC-12). Keys are an interface: added, never renamed.
    fn facts(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose value changed and is in force: `retry.lifetime`.
    pub changed: Vec<String>,
    /// Keys whose value changed and that need a restart (CFG-5).
    pub restart: Vec<String>,
}
