//! Carries out one transaction: plan, dial or reuse a session, SMTP, one outcome per recipient.
//!
//! A [`Workers`] is a set of threads that take [`Transaction`](crate::dispatch::Transaction)s from the dispatcher. Each
//! transaction walks over the hosts of its next hop (`net::walk`), takes a session from the [`Pools`] or opens one,
//! and settles each recipient in the store before the session goes on or is closed. What is decided is decided
//! in `policy`.

mod attempt;
mod carrying;
mod content;
mod course;
mod crew;
mod drive;
mod facts;
#[cfg(test)]
mod fixture;
mod following;
mod known;
mod nowhere;
mod opening;
mod outcome;
mod parting;
mod pool;
mod probe;
mod redial;
mod running;
mod session;
mod settle;
mod sts;
mod taking;
mod tlsrpt;
mod trail;
mod trial;
mod worker;

pub use facts::{Outbox, StsSource, TlsReports, TlsSeams};
pub use pool::Pools;
pub use probe::{Probe, ProbedHost, ProbedSession};
pub use running::{Doing, Registry};
pub use sts::{Refresher, Sts};
pub use tlsrpt::{Counter, Reporter};
pub use trial::{Trial, TrialStep};
pub use worker::Workers;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use known::KnownHosts;

use crate::clock::Clock;
use crate::config::Live;
use crate::dispatch::Wake;
use crate::net::Network;
use crate::store::Store;

/// What the workers are given.
#[derive(Clone)]
pub struct Tools {
    /// The queue.
    pub store: Store,
    /// The configuration, taken anew for each attempt (CFG-6).
    pub live: Live,
    /// The queue's time.
    pub clock: Clock,
    /// DNS and dialling.
    pub network: Network,
    /// MTA-STS policies, and TLS reports.
    pub tls: TlsSeams,
    /// Tells the dispatcher when recipients are due again; never blocks.
    pub wake: Arc<dyn Fn(Wake) + Send + Sync>,
}

/// What a worker works with.
#[derive(Clone)]
struct Parts {
    tools: Tools,
    pools: Pools,
    ailing: Arc<KnownHosts>,
    /// Hosts that did not get on with commands behind the content (RFC 2920 §3.1): they get a transaction at a time.
    step_by_step: Arc<KnownHosts>,
    registry: Registry,
    /// Disconnected at the end of the daemon: whoever waits for the store to recover gives up then.
    over: Receiver<()>,
}

impl std::ops::Deref for Parts {
    type Target = Tools;

    fn deref(&self) -> &Tools {
        &self.tools
    }
}

impl Parts {
    /// Waits; `false` if the daemon ends meanwhile.
    fn pause(&self, span: Duration) -> bool {
        matches!(self.over.recv_timeout(span), Err(RecvTimeoutError::Timeout))
    }
}
