//! The one lock of dispatch, and the bell that wakes its thread.
//!
//! Everybody may take the lock, and nobody keeps it for more than bookkeeping: no store, no log, and no [`Permit`]
//! dropped under it. The thread is woken only when it sleeps and there is something for it to do, so a busy daemon
//! rings seldom.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use super::anteroom::{Anteroom, PATIENCE};
use super::dead::News;
use super::permit::{Feedback, Permit, Transaction};
use super::rates::Spent;
use super::schedule::{Claim, Schedule};
use super::windows::MxHosts;
use super::{DestinationSnapshot, Snapshot, Wake};
use crate::clock::{Clock, Timestamp};
use crate::config::Live;
use crate::feed::{Giver, Taker, feed};
use crate::log::Line;
use crate::policy::route::relay_of;
use crate::store::{DestinationKey, LearnedWindow, Store};

/// What the handles, the permits and the thread share.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) config: Live,
    pub(super) clock: Clock,
    /// Wakes the thread; holds one ring.
    bell: Sender<()>,
    state: Mutex<State>,
    /// Kept so that what no worker has taken can be taken back at the end.
    pub(super) untaken: Taker<Transaction>,
}

pub(super) struct State {
    pub(super) schedule: Schedule,
    /// To the workers; `None` once dispatch has stopped.
    out: Option<Giver<Transaction>>,
    anteroom: Anteroom,
    /// Claimed ahead while all connections are busy, by destination. Bounded like claims are; whose turn it is the
    /// schedule knows.
    ready: HashMap<DestinationKey, VecDeque<Transaction>>,
    /// Since the thread sleeps: until when. `None` while it is awake.
    asleep: Option<Option<Timestamp>>,
    pub(super) stopping: bool,
}

/// What a permit held besides its place at its destination.
pub(super) struct Returned {
    /// Where it was counted.
    pub(super) home: Option<DestinationKey>,
    /// What it has spent; `None`: no worker has had it.
    pub(super) spent: Option<Spent>,
    /// It holds a connection that another may have now.
    pub(super) connection: bool,
}

impl State {
    /// To the workers, where it counts already; back if nobody is there to take it.
    fn put(&mut self, mut transaction: Transaction) -> Option<Transaction> {
        let back = match &self.out {
            None => transaction,
            Some(out) => {
                transaction.permit.runs(true);
                match out.try_send(transaction) {
                    Ok(()) => return None,
                    Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => back,
                }
            }
        };
        Some(self.took_back(back))
    }

    fn took_back(&mut self, mut back: Transaction) -> Transaction {
        back.permit.runs(false);
        self.schedule.stop(&back.destination);
        back
    }

    /// Connections may have come back, or the window may have grown: the next transactions that are ready get them. What
    /// cannot be handed on comes back.
    fn hand_on(&mut self, home: &DestinationKey) -> Vec<Transaction> {
        let mut refused = Vec::new();
        while let Some(key) = self.schedule.next_ready(home) {
            match self.ready.get_mut(&key).and_then(VecDeque::pop_front) {
                Some(next) => refused.extend(self.put(next)),
                None => self.schedule.stop(&key),
            }
            if self.ready.get(&key).is_some_and(VecDeque::is_empty) {
                self.ready.remove(&key);
            }
        }
        refused
    }

    /// Counts a message that has just been given a slot. Where it is counted.
    fn counted(&mut self, destination: &DestinationKey, now: Timestamp) -> Option<DestinationKey> {
        self.schedule.count(destination, None, now).flatten()
    }

    /// After something by which a destination may share its window with others than `before`: both may have room.
    fn moved(&mut self, destination: &DestinationKey, before: &DestinationKey) -> Vec<Transaction> {
        let home = self.schedule.home_of(destination);
        if home == *before {
            return Vec::new();
        }
        let mut refused = self.hand_on(before);
        refused.extend(self.hand_on(&home));
        refused
    }
}

impl Shared {
    pub(super) fn new(
        store: Store,
        config: Live,
        clock: Clock,
        bell: Sender<()>,
        workers: usize,
    ) -> Shared {
        let workers = workers.max(1);
        // Each transaction in the channel holds one of the slots, so it is never full.
        let (out, untaken) = feed(workers);
        let mut schedule = Schedule::new(workers, config.get());
        match store.windows() {
            Ok(kept) => schedule.load_windows(kept),
            // They are learned again.
            Err(error) => Line::new("not-read")
                .key("table", "learned_window")
                .peer("text", &error.to_string())
                .error(),
        }
        Shared {
            store,
            config,
            clock,
            bell,
            state: Mutex::new(State {
                schedule,
                out: Some(out),
                anteroom: Anteroom::default(),
                ready: HashMap::new(),
                asleep: None,
                stopping: false,
            }),
            untaken,
        }
    }

    /// The state; a panic under the lock leaves counters that are still whole (PRC-3: a poisoned lock does not stick).
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self, wake: &Wake) {
        let now = self.clock.now();
        let mut state = self.lock();
        match wake {
            Wake::Due(key, at) => state.schedule.due(key, *at, now),
            Wake::Kicked(key, at) => state.schedule.kick(key, *at, now),
            Wake::KickedMany(at) => state.schedule.kick_all(*at, now),
            Wake::Everything => state.schedule.reload(),
        }
        self.ring(&mut state);
    }

    pub(super) fn revive(&self, destination: &DestinationKey) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        let was_dead = state.schedule.revive(destination, now);
        let news = state.schedule.news();
        let lessons = state.schedule.lessons();
        self.ring(&mut state);
        drop(state);
        tell(&news);
        self.keep(lessons);
        was_dead
    }

    pub(super) fn reserve(self: &Arc<Self>, destination: &DestinationKey) -> Option<Permit> {
        let now = self.clock.now();
        let mut state = self.lock();
        let home = match !state.stopping && state.schedule.reserve(destination, now) {
            true => state.counted(destination, now),
            false => return None,
        };
        let limits = state.schedule.limits(destination);
        drop(state);
        Some(Permit::new(self, destination, home, limits))
    }

    pub(super) fn reserve_soon(self: &Arc<Self>, destination: &DestinationKey) -> Option<Permit> {
        let now = self.clock.now();
        let seat = {
            let mut state = self.lock();
            if state.stopping {
                return None;
            }
            if state.schedule.reserve(destination, now) {
                let home = state.counted(destination, now);
                let limits = state.schedule.limits(destination);
                drop(state);
                return Some(Permit::new(self, destination, home, limits));
            }
            if !state.schedule.is_served(destination, now) {
                return None;
            }
            state.anteroom.take_seat(destination, now)?
        };
        seat.wait(PATIENCE).or_else(|| {
            self.lock().anteroom.leave(destination, &seat);
            // Called at the last moment? A call that comes later still gives its slot back with the seat.
            seat.wait(Duration::ZERO)
        })
    }

    /// A claim is given back; if a worker had it, a connection too, for what is ready.
    pub(super) fn release(
        self: &Arc<Self>,
        destination: &DestinationKey,
        feedback: Option<Feedback>,
        returned: Returned,
    ) {
        let now = self.clock.now();
        let mut state = self.lock();
        let home = state.schedule.home_of(destination);
        let freed = returned.connection;
        let died = state.schedule.release(destination, feedback, freed, now);
        if let Some(counted) = &returned.home {
            state.schedule.spent(counted, returned.spent, now);
        }
        let mut refused = Vec::new();
        if died {
            refused.extend(state.ready.remove(destination).unwrap_or_default());
        }
        refused.extend(state.hand_on(&home));
        refused.extend(state.moved(destination, &home));
        let news = state.schedule.news();
        let lessons = state.schedule.lessons();
        let seat = state.anteroom.came_back(destination, now);
        let called = seat.filter(|_| state.schedule.reserve(destination, now));
        let called = called.map(|seat| {
            state.anteroom.next(destination);
            let home = state.counted(destination, now);
            (seat, home, state.schedule.limits(destination))
        });
        self.ring(&mut state);
        drop(state);
        if let Some((seat, home, limits)) = called {
            seat.call(Permit::new(self, destination, home, limits));
        }
        tell(&news);
        self.keep(lessons);
        self.unclaim(refused);
    }

    /// Sends transactions to the workers; what cannot be sent comes back.
    pub(super) fn send(
        &self,
        state: &mut State,
        transactions: impl IntoIterator<Item = Transaction>,
    ) -> Vec<Transaction> {
        let mut refused = Vec::new();
        for transaction in transactions {
            let destination = transaction.destination.clone();
            if state.out.is_none() {
                refused.push(transaction);
            } else if state.schedule.start(&destination) {
                refused.extend(state.put(transaction));
            } else {
                let ready = state.ready.entry(destination).or_default();
                ready.push_back(transaction);
            }
        }
        refused
    }

    /// The next transaction that is ready for a destination, for a worker that has a connection there.
    pub(super) fn follow(&self, destination: &DestinationKey) -> Option<Transaction> {
        let mut state = self.lock();
        if state.out.is_none() || !state.schedule.follow(destination) {
            return None;
        }
        let next = state.ready.get_mut(destination)?.pop_front();
        if state.ready.get(destination).is_some_and(VecDeque::is_empty) {
            state.ready.remove(destination);
        }
        next
    }

    /// One that came from [`Shared::follow`] waits for another connection.
    pub(super) fn unfollow(&self, transaction: Transaction) {
        let mut state = self.lock();
        if state.out.is_none() {
            drop(state);
            return self.unclaim(vec![transaction]);
        }
        let destination = transaction.destination.clone();
        let home = state.schedule.home_of(&destination);
        state.schedule.unfollow(&destination);
        let ready = state.ready.entry(destination).or_default();
        ready.push_front(transaction);
        let refused = state.hand_on(&home);
        drop(state);
        self.unclaim(refused);
    }

    /// Gives the claims of transactions back that no worker will see: no attempt was made (RT-7).
    pub(super) fn unclaim(&self, transactions: Vec<Transaction>) {
        for transaction in transactions {
            let numbers: Vec<u32> = transaction.recipients.iter().map(|r| r.id.number).collect();
            // All recipients of a transaction were due at the same time (SC-10).
            let Some(due) = transaction.recipients.first().map(|r| r.next_attempt) else {
                continue;
            };
            let due = due.min(self.clock.now()); // it is past, whatever the clock says now (RT-9)
            let id = transaction.head.id;
            if let Err(error) = self.store.unclaim(id, &numbers, due, None) {
                // Still claimed: in doubt at the next start, and tried again then.
                Line::new("not-unclaimed")
                    .key("qid", id)
                    .peer("text", &error.to_string())
                    .error();
            }
        }
    }

    /// Tells the thread to end, and the workers that nothing more comes. What was ready for them comes back.
    pub(super) fn stop(&self) -> Vec<Transaction> {
        let mut state = self.lock();
        state.stopping = true;
        state.out = None;
        state.asleep = None;
        let _ = self.bell.try_send(()); // full: it rings already
        let ready = std::mem::take(&mut state.ready);
        ready.into_values().flatten().collect()
    }

    /// Before sleeping; `false` if something happened since the schedule was asked.
    pub(super) fn fall_asleep(state: &mut State, until: Option<Timestamp>) -> bool {
        let sleeps = !state.stopping && !state.schedule.has_reason_to_wake(until);
        state.asleep = sleeps.then_some(until);
        sleeps
    }

    /// After sleeping.
    pub(super) fn awake(&self) {
        self.lock().asleep = None;
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let state = self.lock();
        let (in_flight, workers) = state.schedule.load();
        let mut destinations: Vec<DestinationSnapshot> = state
            .schedule
            .active()
            .map(|active| DestinationSnapshot {
                key: active.key.clone(),
                in_flight: active.in_flight,
                waits: active.waits,
                window: active.window,
            })
            .collect();
        let blocks = Arc::clone(state.schedule.blocks());
        let dead = state.schedule.dead().count();
        let learned = state.schedule.learned();
        drop(state);
        destinations.sort_by(|a, b| a.key.cmp(&b.key));
        Snapshot {
            workers,
            in_flight,
            destinations,
            pauses: blocks.pauses().to_vec(),
            dead,
            learned,
        }
    }

    /// A worker has found the hosts of a destination. `false`: others have all their connections, or their rate is used up.
    pub(super) fn enter(
        &self,
        destination: &DestinationKey,
        hosts: MxHosts<'_>,
        claim: &Claim,
        counted: &mut Option<DestinationKey>,
    ) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        let before = state.schedule.home_of(destination);
        let mut entered = state.schedule.enter(destination, hosts, claim);
        if entered {
            // It may have been claimed before anybody knew with whom it shares its rate.
            match state.schedule.count(destination, counted.as_ref(), now) {
                Some(now_at) => *counted = now_at,
                None => entered = false,
            }
        }
        let refused = state.moved(destination, &before);
        self.ring(&mut state);
        drop(state);
        self.unclaim(refused);
        entered
    }

    /// A worker has to make a new connection: whether it may (SC-8).
    pub(super) fn may_dial(&self, destination: &DestinationKey, further: bool) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        let may = state.schedule.dial(destination, further, now);
        self.ring(&mut state);
        may
    }

    /// Transactions with the workers of all that share the window of a destination.
    pub(super) fn running(&self, destination: &DestinationKey) -> usize {
        self.lock().schedule.running(destination)
    }

    /// An operator sets a window.
    pub(super) fn set_window(
        &self,
        destination: &DestinationKey,
        size: Option<usize>,
        pin: bool,
    ) -> usize {
        let now = self.clock.now();
        let mut state = self.lock();
        let size = state.schedule.set_window(destination, size, pin, now);
        let lessons = state.schedule.lessons();
        self.ring(&mut state);
        drop(state);
        self.note(lessons);
        size
    }

    /// An operator lets a window begin anew, and a dead destination be tried.
    pub(super) fn clear_window(&self, destination: &DestinationKey) -> bool {
        let mut state = self.lock();
        let cleared = state.schedule.clear_window(destination);
        let lessons = state.schedule.lessons();
        self.ring(&mut state);
        drop(state);
        self.note(lessons);
        self.revive(destination) || cleared
    }

    /// What destinations taught goes to the log and to the store (SC-6).
    fn keep(&self, lessons: Vec<(DestinationKey, Option<LearnedWindow>)>) {
        for (destination, window) in &lessons {
            if let Some(window) = window {
                Line::new("destination-slowed")
                    .key("destination", destination)
                    .num("window", i64::from(window.size))
                    .peer("text", &window.cause)
                    .info();
            }
        }
        self.note(lessons);
    }

    fn note(&self, lessons: Vec<(DestinationKey, Option<LearnedWindow>)>) {
        for (destination, window) in lessons {
            self.store.note_window(destination, window);
        }
    }

    fn ring(&self, state: &mut State) {
        if let Some(until) = state.asleep
            && state.schedule.has_reason_to_wake(until)
        {
            state.asleep = None;
            let _ = self.bell.try_send(()); // full: it rings already
        }
    }
}

fn transport(destination: &DestinationKey) -> &str {
    relay_of(destination).unwrap_or(&destination.0)
}

/// SC-7, RO-8: an operator reads when a destination died, and when it came back.
pub(super) fn tell(news: &[(DestinationKey, News)]) {
    for (destination, news) in news {
        match news {
            News::Dead(dead) if dead.broken => Line::new("transport-broken")
                .key("transport", transport(destination))
                .opt("probe", dead.probe)
                .peer("text", &dead.text)
                .error(),
            News::Mended(after) => Line::new("transport-mended")
                .key("transport", transport(destination))
                .span("after", *after)
                .info(),
            News::Dead(dead) => Line::new("destination-dead")
                .key("destination", destination)
                .opt("probe", dead.probe)
                .peer("text", &dead.text)
                .warn(),
            News::Alive(after) => Line::new("destination-alive")
                .key("destination", destination)
                .span("after", *after)
                .info(),
        }
    }
}
