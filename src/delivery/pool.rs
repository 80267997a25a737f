//! Idle sessions and their number per host (design.md 7, CL-24, CL-25).
//!
//! One r2d2 pool per host and way of speaking to it. r2d2 would dial in a background thread, redial on its own and keep
//! only the text of an error, and a mail queue must not; so its connections are [`Slot`]s, which dial nothing. A worker
//! takes a slot, finds a session in it or dials in its own thread under its own deadline, and puts the session back if
//! it can be used again. An empty slot that comes back is broken and dropped, which makes room for the next.
//!
//! r2d2's own reaper stays off: it would leave one job behind for every pool ever made. One job for all pools closes
//! idle sessions instead, and removes pools that nobody used; it runs only while there is something to close.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, NopErrorHandler, Pool, PooledConnection};
use scheduled_thread_pool::ScheduledThreadPool;

use super::session::Session;
use crate::config::{Access, Deliver, Proxy};
use crate::policy::plan::HostName;
use crate::policy::tls::Conditions;

/// Most pools; beyond it the one unused for the longest time goes (PRC-8).
const POOLS_MAX: usize = 1000;

/// Which sessions may be shared: those that are equal in all of this (CL-25).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The host.
    pub host: HostName,
    /// Its port.
    pub port: u16,
    /// What its TLS must be, and with whom (SEC-8).
    pub tls: Conditions,
    /// Who we are there and whom we believe, where that is not what everybody else is and does.
    pub access: Option<Arc<Access>>,
    /// The proxy on the way to it.
    pub proxy: Option<Proxy>,
    /// Our source addresses.
    pub sources: Vec<IpAddr>,
    /// Our EHLO name.
    pub helo: String,
}

/// Room for one session to a host.
#[derive(Debug, Default)]
pub struct Slot(Option<Session>);

/// Hands out empty slots.
#[derive(Debug)]
struct Slots;

impl ManageConnection for Slots {
    type Connection = Slot;
    type Error = Infallible;

    fn connect(&self) -> Result<Slot, Infallible> {
        Ok(Slot::default())
    }

    fn is_valid(&self, _slot: &mut Slot) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, slot: &mut Slot) -> bool {
        slot.0.is_none()
    }
}

/// A slot that is held. Given back on drop, panic included (SC-11); with a session in it only after [`Place::keep`].
pub struct Place {
    slot: PooledConnection<Slots>,
    pools: Weak<Inner>,
}

impl Place {
    /// The session that waited in it, if any; the slot is empty then.
    pub fn take(&mut self) -> Option<Session> {
        self.slot.0.take()
    }

    /// Gives the slot back with a session that the next transaction may use.
    pub fn keep(mut self, mut session: Session) {
        session.rest();
        self.slot.0 = Some(session);
        let pools = self.pools.upgrade();
        drop(self.slot);
        if let Some(pools) = pools {
            Inner::watch(&pools);
        }
    }
}

/// All pools. Cheap to clone.
#[derive(Clone)]
pub struct Pools(Arc<Inner>);

struct Inner {
    threads: Arc<ScheduledThreadPool>,
    state: Mutex<State>,
}

struct State {
    pools: HashMap<Key, Entry>,
    /// The job that closes idle sessions is scheduled.
    watched: bool,
    closed: bool,
}

struct Entry {
    pool: Pool<Slots>,
    used: Instant,
    /// How long its sessions may wait for work, and live.
    idle: Duration,
    age: Duration,
}

impl Pools {
    /// No pools, and the threads that serve them.
    pub fn new() -> Pools {
        let threads = ScheduledThreadPool::builder()
            .num_threads(2)
            .thread_name_pattern("pool-{}")
            .build();
        Pools(Arc::new(Inner {
            threads: Arc::new(threads),
            state: Mutex::new(State {
                pools: HashMap::new(),
                watched: false,
                closed: false,
            }),
        }))
    }

    /// A slot for a session to this host, with an idle session that will do if there is one: alive, young enough, and to
    /// one of `addresses`, which are those of the host now (DV-7). Waits up to `patience` when as many slots are taken
    /// as there may be `connections`; `None` then.
    pub fn place(
        &self,
        key: &Key,
        addresses: &[IpAddr],
        connections: usize,
        deliver: &Deliver,
        patience: Duration,
    ) -> Option<Place> {
        let most = u32::try_from(connections.max(1)).unwrap_or(u32::MAX);
        let pool = self.pool(key, most, deliver);
        let mut vacant = None;
        // Idle sessions that will do for somebody else; held until there is a slot, or they would be it.
        let mut others = Vec::new();
        // r2d2 hands out what came back last first, which is what a pool that should shrink wants.
        while let Some(mut slot) = pool.try_get() {
            match fitness(&mut slot, addresses, deliver) {
                Fitness::Good => return Some(self.held(slot)),
                Fitness::ElsewhereOnly => others.push(slot),
                Fitness::None => vacant = Some(slot),
            }
        }
        if vacant.is_none() && pool.state().connections >= most {
            // The host's last room may be taken by an idle session that is of no use here.
            vacant = others.pop().map(emptied);
        }
        let slot = match vacant {
            Some(slot) => slot,
            None => {
                let mut slot = pool.get_timeout(patience).ok()?;
                match fitness(&mut slot, addresses, deliver) {
                    Fitness::ElsewhereOnly => emptied(slot),
                    Fitness::Good | Fitness::None => slot,
                }
            }
        };
        Some(self.held(slot))
    }

    /// How many slots are held or hold idle sessions, in all pools.
    pub fn size(&self) -> usize {
        let state = self.0.lock();
        let connections = state.pools.values().map(|e| e.pool.state().connections);
        connections.sum::<u32>() as usize
    }

    /// How many idle sessions there are.
    pub fn idle(&self) -> usize {
        let state = self.0.lock();
        let idle = state
            .pools
            .values()
            .map(|e| e.pool.state().idle_connections);
        idle.sum::<u32>() as usize
    }

    /// Closes all idle sessions, and from now on each session as it comes back (PRC-2).
    pub fn close(&self) {
        let entries: Vec<Entry> = {
            let mut state = self.0.lock();
            state.closed = true;
            state.pools.drain().map(|(_, entry)| entry).collect()
        };
        for entry in entries {
            close_idle(&entry.pool, |_| true);
        }
    }

    fn held(&self, slot: PooledConnection<Slots>) -> Place {
        Place {
            slot,
            pools: Arc::downgrade(&self.0),
        }
    }

    fn pool(&self, key: &Key, most: u32, deliver: &Deliver) -> Pool<Slots> {
        let mut evicted = None;
        let mut state = self.0.lock();
        let (idle, age) = (deliver.idle_session.get(), deliver.session_age.get());
        if let Some(entry) = state.pools.get_mut(key)
            && entry.pool.max_size() == most
        {
            (entry.used, entry.idle, entry.age) = (Instant::now(), idle, age);
            return entry.pool.clone();
        }
        let pool = Pool::builder()
            .max_size(most)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .max_lifetime(None)
            .idle_timeout(None)
            .error_handler(Box::new(NopErrorHandler))
            .thread_pool(Arc::clone(&self.0.threads))
            .build_unchecked(Slots);
        if state.pools.len() >= POOLS_MAX && !state.pools.contains_key(key) {
            let oldest = state.pools.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(key, _)| key.clone());
            evicted = oldest.and_then(|key| state.pools.remove(&key));
        }
        let entry = Entry {
            pool: pool.clone(),
            used: Instant::now(),
            idle,
            age,
        };
        // A pool of another size lives on in the hands of those who hold its slots.
        let replaced = state.pools.insert(key.clone(), entry);
        drop(state);
        for entry in evicted.into_iter().chain(replaced) {
            close_idle(&entry.pool, |_| true);
        }
        Inner::watch(&self.0);
        pool
    }
}

impl Default for Pools {
    fn default() -> Pools {
        Pools::new()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that somebody looks after idle sessions and unused pools.
    fn watch(inner: &Arc<Inner>) {
        let mut state = inner.lock();
        if state.closed {
            drop(state);
            inner.tidy();
        } else if !state.watched {
            state.watched = true;
            let wait = state.tick();
            drop(state);
            Inner::schedule(inner, wait);
        }
    }

    fn schedule(inner: &Arc<Inner>, wait: Duration) {
        let weak = Arc::downgrade(inner);
        inner.threads.execute_after(wait, move || {
            if let Some(inner) = weak.upgrade()
                && let Some(wait) = inner.tidy()
            {
                Inner::schedule(&inner, wait);
            }
        });
    }

    /// Closes sessions that have waited too long and removes unused pools. When to do so again, if anything is left.
    fn tidy(&self) -> Option<Duration> {
        let pools: Vec<_> = {
            let state = self.lock();
            let entries = state.pools.values();
            entries.map(|e| (e.pool.clone(), e.idle, e.age)).collect()
        };
        for (pool, idle, age) in &pools {
            close_idle(pool, |session| session.is_stale(*idle, *age));
        }
        drop(pools);
        let mut state = self.lock();
        state.pools.retain(|_, entry| {
            entry.pool.state().connections > 0 || entry.used.elapsed() < entry.idle
        });
        state.watched = !state.pools.is_empty();
        state.watched.then(|| state.tick())
    }
}

impl State {
    /// How often idle sessions are looked at: often enough to keep each `idle_session` in the eye of a peer.
    fn tick(&self) -> Duration {
        let idle = self.pools.values().map(|entry| entry.idle).min();
        let idle = idle.unwrap_or(Duration::from_secs(30));
        (idle / 4).clamp(Duration::from_millis(50), Duration::from_secs(5))
    }
}

/// What the session in a slot is good for.
enum Fitness {
    /// It can be used.
    Good,
    /// It is alive, but to an address that is not wanted now.
    ElsewhereOnly,
    /// There is none, or none any more.
    None,
}

/// Looks at the session in a slot, and closes one that is past use (CL-8, CL-24).
fn fitness(slot: &mut Slot, addresses: &[IpAddr], deliver: &Deliver) -> Fitness {
    let Some(mut session) = slot.0.take() else {
        return Fitness::None;
    };
    let past = session.is_stale(deliver.idle_session.get(), deliver.session_age.get())
        || !session.may_carry_more(deliver)
        || session.is_dead();
    if past {
        session.drop_politely();
        return Fitness::None;
    }
    let wanted = addresses.contains(&session.origin().address.ip());
    slot.0 = Some(session);
    if wanted {
        Fitness::Good
    } else {
        Fitness::ElsewhereOnly
    }
}

/// Closes the session in a slot.
fn emptied(mut slot: PooledConnection<Slots>) -> PooledConnection<Slots> {
    if let Some(session) = slot.0.take() {
        session.drop_politely();
    }
    slot
}

/// Closes the idle sessions of a pool that `wanted` names.
fn close_idle(pool: &Pool<Slots>, wanted: impl Fn(&Session) -> bool) {
    let mut kept = Vec::new();
    let mut closing = Vec::new();
    while let Some(mut slot) = pool.try_get() {
        match slot.0.take() {
            Some(session) if wanted(&session) => closing.push(session),
            Some(session) => {
                slot.0 = Some(session);
                kept.push(slot);
            }
            None => {}
        }
    }
    // The one that was used last comes first again.
    while let Some(slot) = kept.pop() {
        drop(slot);
    }
    for session in closing {
        session.drop_politely();
    }
}
