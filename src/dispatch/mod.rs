//! Which recipients, to which next hop, when. Decides; does no I/O to peers.
//!
//! The core is a pure state machine in `dispatch::schedule`, fed with events and a `now`.

use std::sync::Arc;

use crate::message::Head;
use crate::store::{DestinationKey, RecipientRow};

/// One transaction for a worker: one message, one next hop, one or more recipients, all claimed.
pub struct Transaction {
    /// The message.
    pub head: Arc<Head>,
    /// Its recipients as they were before the claim (so `attempts` does not count this one).
    pub recipients: Vec<RecipientRow>,
    /// The group they wait in.
    pub destination: DestinationKey,
    /// The name of the transport that the route named.
    pub transport: String,
    /// The content, if it is small and still warm (design.md 12).
    pub content: Option<Arc<[u8]>>,
    /// When it was claimed.
    pub claimed_at: crate::clock::Timestamp,
    /// The slot it holds; dropping it gives the slot back on every way out, panic included (SC-11).
    pub permit: Permit,
}

/// A worker's slot and a place in its destination's window. Given back on drop.
#[derive(Debug)]
pub struct Permit {
    // dispatch: replace
    _private: (),
}

impl Permit {
    /// A permit that holds nothing, for transactions that no schedule knows of.
    pub fn detached() -> Permit {
        Permit { _private: () }
    }

    /// What the worker learned of the destination, given back together with the slot.
    pub fn finish(self, _feedback: Feedback) {
        unimplemented!("dispatch")
    }
}

/// What an attempt says about its destination, for windows and probes.
#[derive(Clone, Debug, Default)]
pub struct Feedback {
    /// A session got as far as MAIL.
    pub reached_mail: bool,
    /// The reply or error that asks for fewer connections: connection failure, 421, 4.7.x.
    pub push_back: Option<String>,
}

/// Something happened that may make work due.
#[derive(Clone, Debug)]
pub enum Wake {
    /// New or changed mail in this destination, due at this time.
    Due(DestinationKey, crate::clock::Timestamp),
    /// Pauses, configuration, or very many recipients changed: look at everything anew.
    Everything,
}

/// A handle on the dispatcher; cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    // dispatch: replace
    _inner: Arc<()>,
}

/// Ends the process with status 70 and this reason in the log (PRC-3); does not return in the daemon.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// What is going on, for `stats`.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Most transactions at once.
    pub workers: usize,
    /// Transactions claimed and not yet given back.
    pub in_flight: usize,
    /// Destinations with transactions in flight or known due mail, with both numbers.
    pub destinations: Vec<DestinationSnapshot>,
    /// Pauses in force.
    pub pauses: Vec<(crate::store::PauseScope, crate::store::Pause)>,
}

/// One active destination.
#[derive(Clone, Debug)]
pub struct DestinationSnapshot {
    /// Its key.
    pub key: DestinationKey,
    /// Its transactions in flight.
    pub in_flight: usize,
    /// Whether it has due mail that waits for a slot.
    pub waits: bool,
}

impl Dispatcher {
    /// Starts the dispatcher thread. The receiver goes to the workers, of which there are `workers`; it closes after
    /// [`Dispatcher::stop`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        _store: crate::store::Store,
        _config: crate::config::Live,
        _clock: crate::clock::Clock,
        _workers: usize,
        _fatal: Fatal,
    ) -> std::io::Result<(Dispatcher, crossbeam_channel::Receiver<Transaction>)> {
        unimplemented!("dispatch")
    }

    /// Stops dispatching and joins the thread; what no worker has taken goes back to the queue unattempted. The
    /// store must still be open. Transactions that run go on; their permits may come back at any time later.
    pub fn stop(&self) {
        unimplemented!("dispatch")
    }

    /// What is going on now.
    pub fn snapshot(&self) -> Snapshot {
        unimplemented!("dispatch")
    }

    /// Why due mail like this waits without an attempt: a pause, or a transport that does not exist; and until when.
    /// `None`: nothing but its turn. The recorded blocker of the row stays what it is.
    pub fn blocker(
        &self,
        _recipient: &crate::store::DueRecipient,
    ) -> Option<(String, Option<crate::clock::Timestamp>)> {
        unimplemented!("dispatch")
    }

    /// A slot for mail that is just being accepted: only if a worker is free, the destination has room and is not
    /// paused, and no older mail of it is due. With it the claim goes into the accepting commit (design.md 5).
    pub fn reserve(&self, _destination: &DestinationKey) -> Option<Permit> {
        unimplemented!("dispatch")
    }

    /// Hands a transaction that was claimed in its accepting commit to a worker.
    pub fn submit(&self, _transaction: Transaction) {
        unimplemented!("dispatch")
    }

    /// Tells that work may be due; never blocks.
    pub fn wake(&self, _wake: Wake) {
        unimplemented!("dispatch")
    }
}
