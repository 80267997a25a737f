//! What the workers are doing: one entry per transaction under way, from claim to the last outcome.
//!
//! It decides who may settle a recipient. A worker does, when it has an outcome; but at a stop (PRC-2) whoever stops
//! the daemon takes the recipients of all transactions that have not sent their dot. From then on their worker can
//! neither send a dot nor settle, wherever it hangs at that moment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::outcome::Break;
use crate::clock::{Clock, Timestamp};
use crate::dispatch::{MxHosts, Permit, Transaction};
use crate::message::{Head, QueueId};
use crate::net::deadline::Deadline;
use crate::policy::failure::Stage;
use crate::store::{Mark, RecipientRow, Store};

/// A transaction under way.
#[derive(Debug)]
pub struct Running {
    /// The message.
    pub head: Arc<Head>,
    /// Its recipients as they were before the claim.
    pub rows: Vec<RecipientRow>,
    /// The transport's name.
    pub transport: String,
    /// When they were claimed.
    pub claimed_at: Timestamp,
    /// The same, or a moment before, on the monotonic clock.
    pub claimed: Instant,
    /// When the worker began.
    pub began: Instant,
    /// The worker thread's name.
    pub worker: String,
    /// One random number for all its recipients, so that what failed together is due together (SC-10, RT-1).
    pub random: f64,
    ledger: Mutex<Ledger>,
    permit: Mutex<Option<Permit>>,
    /// Its dot, once it may be out.
    mark: Mutex<Option<Mark>>,
}

#[derive(Debug)]
struct Ledger {
    /// When the worker was last seen to get on.
    seen: Instant,
    /// By row: not settled yet.
    open: Vec<bool>,
    phase: Phase,
    stage: Stage,
    host: String,
    address: Option<SocketAddr>,
    dialled: Vec<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Working,
    /// The dot may be out and its reply is awaited: nobody but the worker can know the outcome.
    DotSent,
    /// Its recipients were taken away.
    Cut,
}

/// What a transaction is doing, for the listing.
#[derive(Clone, Debug)]
pub struct Doing {
    /// The message.
    pub id: QueueId,
    /// The recipients that are not settled.
    pub numbers: Vec<u32>,
    /// The stage.
    pub stage: Stage,
    /// The host; empty before the first.
    pub host: String,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// Since the worker began.
    pub elapsed: Duration,
    /// The worker.
    pub worker: String,
}

impl Running {
    /// The time now, to count waits from: a clock that was put forward since the claim may go back again (RT-9).
    pub fn now(&self, clock: &Clock) -> Timestamp {
        let passed = self.claimed.elapsed();
        clock.now().min(self.claimed_at.plus(passed))
    }

    /// When it was due before its claim, to be given back as it was. That is past, whatever the clock says now (RT-9).
    pub fn due(&self, clock: &Clock) -> Timestamp {
        self.rows[0].next_attempt.min(clock.now())
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker has come to this stage.
    pub fn at(&self, stage: Stage) {
        let mut ledger = self.lock();
        ledger.stage = stage;
        ledger.seen = Instant::now();
    }

    /// The worker is alive, though it waits.
    pub fn alive(&self) {
        self.lock().seen = Instant::now();
    }

    /// Takes a place in the window of the hosts that were found. `false`: there is none now (SC-4).
    pub fn enter(&self, hosts: MxHosts<'_>) -> bool {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.rows.len();
        permit
            .as_mut()
            .is_none_or(|permit| permit.enter(hosts, count))
    }

    /// Whether a new connection may be made now; with `further` it is made in any case (SC-8).
    pub fn may_dial(&self, further: bool) -> bool {
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        permit
            .as_ref()
            .is_none_or(|permit| permit.may_dial(further))
    }

    /// Recipients were given back without an attempt.
    pub fn untried(&self) {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(permit) = permit.as_mut() {
            permit.untried();
        }
    }

    /// Whether other transactions to the same destination are with the workers too.
    pub fn has_company(&self) -> bool {
        let permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        permit.as_ref().is_some_and(Permit::has_company)
    }

    /// Another transaction for the same destination that waits for a connection and may go out on this one's.
    pub fn follow(&self) -> Option<Transaction> {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        permit.as_mut().and_then(Permit::follow)
    }

    /// It had better wait for another connection. After this transaction was given up it has its connection.
    pub fn unfollow(&self, transaction: Transaction) -> Option<Transaction> {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        match permit.as_mut() {
            Some(permit) => permit.unfollow(transaction),
            None => return Some(transaction),
        }
        None
    }

    /// The slot that it holds, once.
    pub fn permit(&self) -> Option<Permit> {
        let mut permit = self.permit.lock().unwrap_or_else(PoisonError::into_inner);
        permit.take()
    }

    /// The worker turns to this host.
    pub fn at_host(&self, host: &str, address: Option<SocketAddr>) {
        let mut ledger = self.lock();
        ledger.seen = Instant::now();
        ledger.stage = Stage::Connect;
        ledger.host = host.to_string();
        ledger.address = address;
    }

    /// These addresses were dialled, or used again.
    pub fn dialled(&self, addresses: &[IpAddr]) {
        let mut ledger = self.lock();
        for address in addresses {
            if !ledger.dialled.contains(address) {
                ledger.dialled.push(*address);
            }
        }
    }

    /// The addresses dialled so far.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lock().dialled.clone()
    }

    /// Where it is: stage, host, address.
    pub fn place(&self) -> (Stage, String, Option<SocketAddr>) {
        let ledger = self.lock();
        (ledger.stage, ledger.host.clone(), ledger.address)
    }

    /// Asks for leave to send the dot, and writes down that it may be out.
    ///
    /// # Errors
    /// It must not be sent: its recipients were taken away (PRC-2), or nothing would say after a crash that it may have
    /// been.
    pub fn before_dot(&self, store: &Store) -> Result<(), Break> {
        {
            let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
            if mark.is_none() {
                // SC-10: it is the same for all of them.
                let before = self.rows.first().map_or(0, |row| row.attempts);
                let written = store.dot(self.head.id, before + 1);
                *mark = Some(written.map_err(Break::Content)?);
            }
        }
        self.may_send_dot().then_some(()).ok_or(Break::Cut)
    }

    /// An outcome could not be committed: what is written of its dot must stay.
    pub fn keep_mark(&self) {
        self.mark
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// All outcomes are committed: its dot is no longer of interest.
    fn let_go_of_mark(&self) {
        let mark = self
            .mark
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Whatever was not taken to be settled may be out; after a cut whoever has taken it is not done.
        let ledger = self.lock();
        if let Some(mark) = mark
            && ledger.phase == Phase::Working
            && !ledger.open.contains(&true)
        {
            mark.settled();
        }
    }

    /// Whether the dot may be sent; if so, only the worker can settle until [`Running::dot_answered`].
    pub fn may_send_dot(&self) -> bool {
        let mut ledger = self.lock();
        if ledger.phase == Phase::Working {
            ledger.phase = Phase::DotSent;
            ledger.stage = Stage::FinalDot;
            ledger.seen = Instant::now();
        }
        ledger.phase == Phase::DotSent
    }

    /// The transaction with the peer has ended, one way or the other.
    pub fn dot_answered(&self) {
        let mut ledger = self.lock();
        if ledger.phase == Phase::DotSent {
            ledger.phase = Phase::Working;
        }
        ledger.seen = Instant::now();
    }

    /// Whether the dot went out and its reply is not known.
    pub fn awaits_dot(&self) -> bool {
        self.lock().phase == Phase::DotSent
    }

    /// Takes those of these rows that are still open, to settle them; none after a cut.
    pub fn take(&self, rows: &[usize]) -> Vec<usize> {
        let mut ledger = self.lock();
        if ledger.phase == Phase::Cut {
            return Vec::new();
        }
        let mut taken = rows.to_vec();
        taken.retain(|row| ledger.open.get(*row).copied().unwrap_or(false));
        for row in &taken {
            ledger.open[*row] = false;
        }
        taken
    }

    /// Takes all rows that are still open.
    pub fn take_rest(&self) -> Vec<usize> {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        self.take(&all)
    }

    /// Takes everything away from the worker unless it has sent its dot. The open rows.
    /// Whether its recipients have been taken away from it.
    pub fn is_cut(&self) -> bool {
        self.lock().phase == Phase::Cut
    }

    fn cut(&self) -> Vec<usize> {
        let mut ledger = self.lock();
        if ledger.phase != Phase::Working {
            return Vec::new();
        }
        ledger.phase = Phase::Cut;
        let open = std::mem::take(&mut ledger.open);
        (0..open.len()).filter(|row| open[*row]).collect()
    }

    /// Takes everything away from a worker that has not got on for so long: the open rows, and whether its dot
    /// may be out.
    fn give_up(&self, limit: Duration) -> Option<(Vec<usize>, bool)> {
        let mut ledger = self.lock();
        if ledger.phase == Phase::Cut || ledger.seen.elapsed() < limit {
            return None;
        }
        let dot_sent = ledger.phase == Phase::DotSent;
        ledger.phase = Phase::Cut;
        let open = std::mem::take(&mut ledger.open);
        let rows = (0..open.len()).filter(|row| open[*row]).collect();
        Some((rows, dot_sent))
    }

    fn doing(&self) -> Doing {
        let ledger = self.lock();
        let open = self.rows.iter().zip(&ledger.open);
        Doing {
            id: self.head.id,
            numbers: open
                .filter_map(|(row, open)| open.then_some(row.id.number))
                .collect(),
            stage: ledger.stage,
            host: ledger.host.clone(),
            address: ledger.address,
            elapsed: self.began.elapsed(),
            worker: self.worker.clone(),
        }
    }
}

/// All transactions under way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Entries>,
    /// The last one has left.
    empty: Condvar,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    running: BTreeMap<u64, Arc<Running>>,
    cut: bool,
}

/// An entry of the registry; leaves it on drop, panic included (SC-11).
pub struct Entry {
    registry: Registry,
    number: u64,
    /// The transaction.
    pub running: Arc<Running>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.let_go_of_mark();
        let mut entries = self.registry.lock();
        entries.running.remove(&self.number);
        if entries.running.is_empty() {
            self.registry.0.empty.notify_all();
        }
    }
}

/// What a transaction is, as it is entered.
pub struct Begun {
    /// See [`Running`].
    pub head: Arc<Head>,
    /// See [`Running`].
    pub rows: Vec<RecipientRow>,
    /// See [`Running`].
    pub transport: String,
    /// See [`Running`].
    pub claimed_at: Timestamp,
    /// See [`Running`].
    pub worker: String,
    /// Its slot.
    pub permit: Permit,
}

/// What was taken away from a worker that hangs.
pub struct Hung {
    /// The transaction.
    pub running: Arc<Running>,
    /// Its open rows.
    pub rows: Vec<usize>,
    /// The dot may be out.
    pub dot_sent: bool,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        let entries = self.0.entries.lock();
        entries.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is none. `false`: there still are some at `deadline`.
    pub fn wait(&self, deadline: Deadline) -> bool {
        let mut entries = self.lock();
        while !entries.running.is_empty() {
            let Ok(left) = deadline.remaining() else {
                return false;
            };
            let waited = self.0.empty.wait_timeout(entries, left);
            entries = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Enters a transaction. After a cut it is entered as cut, and the caller gives it back untried.
    pub fn enter(&self, begun: Begun) -> (Entry, bool) {
        let running = Arc::new(Running {
            ledger: Mutex::new(Ledger {
                seen: Instant::now(),
                open: vec![true; begun.rows.len()],
                phase: Phase::Working,
                stage: Stage::Route,
                host: String::new(),
                address: None,
                dialled: Vec::new(),
            }),
            claimed: begun.permit.since(),
            permit: Mutex::new(Some(begun.permit)),
            mark: Mutex::default(),
            head: begun.head,
            rows: begun.rows,
            transport: begun.transport,
            claimed_at: begun.claimed_at,
            began: Instant::now(),
            worker: begun.worker,
            random: rand::random(),
        });
        let mut entries = self.lock();
        let number = entries.next;
        entries.next += 1;
        entries.running.insert(number, Arc::clone(&running));
        let cut = entries.cut;
        let entry = Entry {
            registry: self.clone(),
            number,
            running,
        };
        (entry, cut)
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        self.lock().running.len()
    }

    /// What they are doing.
    pub fn doing(&self) -> Vec<Doing> {
        let running: Vec<_> = self.lock().running.values().cloned().collect();
        running.iter().map(|running| running.doing()).collect()
    }

    /// Takes everything away from workers that have not got on for so long.
    pub fn hung(&self, limit: Duration) -> Vec<Hung> {
        let mut entries = self.lock();
        let mut hung = Vec::new();
        entries.running.retain(|_, running| {
            let Some((rows, dot_sent)) = running.give_up(limit) else {
                return true;
            };
            hung.push(Hung {
                running: Arc::clone(running),
                rows,
                dot_sent,
            });
            false
        });
        hung
    }

    /// Takes the open recipients of all transactions that have not sent their dot, now and from now on (PRC-2).
    pub fn cut(&self) -> Vec<(Arc<Running>, Vec<usize>)> {
        let running: Vec<_> = {
            let mut entries = self.lock();
            entries.cut = true;
            entries.running.values().cloned().collect()
        };
        let mut taken = Vec::new();
        for running in running {
            let rows = running.cut();
            if !rows.is_empty() {
                taken.push((running, rows));
            }
        }
        taken
    }
}
