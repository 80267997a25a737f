//! Which recipients, to which next hop, when. Decides; does no I/O to peers.
//!
//! The core is a pure state machine, [`schedule`]: destinations in turn, slots, pauses, the next wake. One thread drives
//! it: reads what is due, claims it in one commit for all destinations of a round, and hands transactions to the
//! workers. Mail that is just being accepted takes a shorter way: [`Dispatcher::reserve`] finds room for it without a
//! query, it is claimed in the commit that accepts it, and [`Dispatcher::submit`] hands it over.
//!
//! Nothing here remembers single messages. What a worker does not take, or a crash cuts off, is in the store.

mod anteroom;
mod batch;
pub mod blocks;
pub mod dead;
mod driver;
mod permit;
pub mod rates;
pub mod scan;
pub mod schedule;
mod shared;
pub mod turns;
pub mod watchdog;
pub mod windows;
#[cfg(test)]
mod world;

pub use permit::{Feedback, Permit, PushBack, Transaction};
pub use schedule::Known;
pub use windows::MxHosts;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::clock::{Clock, Timestamp};
use crate::config::Live;
use crate::feed::Taker;
use crate::log::Line;
use crate::policy::limit::Limits;
use crate::store::{DestinationKey, DueRecipient, Pause, PauseScope, Store};
use dead::DeadDestination;
use driver::Driver;
use shared::Shared;
use watchdog::{PACE, Watchdog};

/// Something happened that may make work due.
#[derive(Clone, Debug)]
pub enum Wake {
    /// New or changed mail in this destination, due at this time.
    Due(DestinationKey, Timestamp),
    /// The same by the word of an operator, who wants a dead destination to be probed then (CTL-11).
    Kicked(DestinationKey, Timestamp),
    /// The same for very many destinations.
    KickedMany(Timestamp),
    /// Pauses, configuration, or very many recipients changed: look at everything anew.
    Everything,
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
    /// Destinations with transactions in flight or known due mail, with both numbers, by key.
    pub destinations: Vec<DestinationSnapshot>,
    /// Pauses in force.
    pub pauses: Vec<(PauseScope, Pause)>,
    /// Destinations that are dead (SC-7).
    pub dead: usize,
    /// Destinations whose window a refusal or an operator has made what it is (SC-6).
    pub learned: usize,
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
    /// How many it may have.
    pub window: usize,
}

/// A handle on the dispatcher; cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    shared: Arc<Shared>,
    threads: Arc<Mutex<Option<Threads>>>,
}

struct Threads {
    dispatcher: JoinHandle<()>,
    watchdog: JoinHandle<()>,
    /// Dropped to end the watchdog.
    leash: Sender<()>,
}

impl Dispatcher {
    /// Starts the dispatcher thread. The receiver goes to the workers, of which there are `workers`; it closes after
    /// [`Dispatcher::stop`].
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        store: Store,
        config: Live,
        clock: Clock,
        workers: usize,
        fatal: Fatal,
    ) -> std::io::Result<(Dispatcher, Taker<Transaction>)> {
        let (ring, bell) = bounded(1);
        let shared = Arc::new(Shared::new(store, config, clock, ring, workers));
        let transactions = shared.untaken.clone();
        let driver = Driver::new(Arc::clone(&shared), bell);
        let on_panic = Arc::clone(&fatal);
        let dispatcher = std::thread::Builder::new()
            .name("dispatcher".to_owned())
            .spawn(move || {
                // PRC-3: never listening without delivering.
                if catch_unwind(AssertUnwindSafe(|| driver.run())).is_err() {
                    on_panic("the dispatcher panicked");
                }
            })?;
        let (leash, ended) = bounded(0);
        let watched = Arc::clone(&shared);
        let watchdog = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&watched, &ended, &fatal));
        let watchdog = match watchdog {
            Ok(handle) => handle,
            Err(error) => {
                // Nothing was claimed yet.
                drop(shared.stop());
                let _ = dispatcher.join();
                return Err(error);
            }
        };
        let threads = Threads {
            dispatcher,
            watchdog,
            leash,
        };
        let dispatcher = Dispatcher {
            shared,
            threads: Arc::new(Mutex::new(Some(threads))),
        };
        Ok((dispatcher, transactions))
    }

    /// Stops dispatching and joins the thread; what no worker has taken goes back to the queue unattempted. The
    /// store must still be open. Transactions that run go on; their permits may come back at any time later.
    pub fn stop(&self) {
        let ready = self.shared.stop();
        let threads = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(threads) = threads {
            drop(threads.leash);
            // A panic in either has already called `fatal`.
            let _ = threads.dispatcher.join();
            let _ = threads.watchdog.join();
        }
        self.shared.unclaim(ready);
        self.shared
            .unclaim(self.shared.untaken.try_iter().collect());
    }

    /// A slot for mail that is just being accepted: only if a worker is free, the destination has room and is not
    /// paused, and no older mail of it is due. With it the claim goes into the accepting commit (design.md 5).
    pub fn reserve(&self, destination: &DestinationKey) -> Option<Permit> {
        self.shared.reserve(destination)
    }

    /// The same for a session that can wait some milliseconds: if all slots of a quick destination are taken, one that
    /// comes back.
    pub fn reserve_soon(&self, destination: &DestinationKey) -> Option<Permit> {
        self.shared.reserve_soon(destination)
    }

    /// Hands a transaction that was claimed in its accepting commit to a worker.
    pub fn submit(&self, transaction: Transaction) {
        let refused = {
            let mut state = self.shared.lock();
            self.shared.send(&mut state, [transaction])
        };
        self.shared.unclaim(refused);
    }

    /// Tells that work may be due; never blocks.
    pub fn wake(&self, wake: Wake) {
        self.shared.wake(&wake);
    }

    /// What is going on now.
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    /// Why due mail like this waits without an attempt: a pause, a transport that does not exist, a dead destination,
    /// or a limit; and until when. `None`: nothing but its turn. The recorded blocker of the row stays what it is.
    pub fn blocker(&self, recipient: &DueRecipient) -> Option<(String, Option<Timestamp>)> {
        let blocks = Arc::clone(self.shared.lock().schedule.blocks());
        blocks.why(
            recipient,
            self.shared.clock.now(),
            |destination| self.dead(destination),
            // What lasts a moment, as that all connections are in use, is nothing to tell a sender.
            |destination| self.limit(destination).filter(|(_, until)| until.is_some()),
        )
    }

    /// The limit of `[limits]` that due mail of a destination waits for now, and until when (SC-9).
    pub fn limit(&self, destination: &DestinationKey) -> Option<(String, Option<Timestamp>)> {
        let now = self.shared.clock.now();
        self.shared.lock().schedule.limit(destination, now)
    }

    /// What an operator allows a destination, by its domain and what is known of its hosts (SC-9).
    pub fn limits(&self, destination: &DestinationKey) -> Limits {
        self.shared.lock().schedule.limits(destination)
    }

    /// A destination that is dead, or a transport that is broken, counts as neither from now on, and its mail goes. Whether
    /// it was.
    pub fn revive(&self, destination: &DestinationKey) -> bool {
        self.shared.revive(destination)
    }

    /// Destinations of which anything is known, with what it is, by key; or this one, with the group of its hosts.
    pub fn known(&self, only: Option<&DestinationKey>) -> Vec<Known> {
        let now = self.shared.clock.now();
        self.shared.lock().schedule.known(only, now)
    }

    /// Sets the window of a destination, and with `pin` fixes it there (SC-6). The size that it has now.
    pub fn set_window(
        &self,
        destination: &DestinationKey,
        size: Option<usize>,
        pin: bool,
    ) -> usize {
        self.shared.set_window(destination, size, pin)
    }

    /// Lets the window of a destination begin anew, and if it is dead, its mail go. Whether that changes anything.
    pub fn clear_window(&self, destination: &DestinationKey) -> bool {
        self.shared.clear_window(destination)
    }

    /// What is known of a destination that is dead (SC-7); `None` for all others.
    pub fn dead(&self, destination: &DestinationKey) -> Option<DeadDestination> {
        self.shared.lock().schedule.dead().get(destination)
    }
}

/// The watchdog thread (SC-11): ends with the leash.
fn watch(shared: &Shared, leash: &Receiver<()>, fatal: &Fatal) {
    let mut dog = Watchdog::default();
    while leash.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
        let (could_go, progress, in_flight) = {
            let state = shared.lock();
            let (could_go, progress) = state.schedule.watch();
            (could_go, progress, state.schedule.load().0)
        };
        if dog.look(could_go, progress) {
            Line::new("stalled")
                .num("in-flight", in_flight as i64)
                .error();
            fatal("due mail makes no progress although workers are free");
            return;
        }
    }
}
