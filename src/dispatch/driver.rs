//! The dispatcher thread: does for the schedule what that asks for, against the store and the workers' channel.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, never, select};

use super::batch::{Batch, Grouping, Job};
use super::blocks::Blocks;
use super::dead::Probe;
use super::permit::{Permit, Transaction};
use super::scan::{PAGE, Read};
use super::schedule::{Found, Step};
use super::shared::{Shared, tell};
use super::turns::Pick;
use crate::clock::Timestamp;
use crate::heap;
use crate::log::Line;
use crate::message::Head;
use crate::policy::limit::{any_per_address_day, per_address_day};
use crate::policy::retry::{Lifetimes, Terms, longest_wait_of_all};
use crate::store::{
    ClaimAction, ClaimRequest, Claimed, Contents, Daily, DueRecipient, RecipientRow, StoreError,
};

/// Longest sleep while mail waits for its time, so that a step of the wall clock is noticed (RT-9). Waking to look at
/// the clock makes no query.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Sleep after which the memory of a load is given back (PRC-7).
const REST: Duration = Duration::from_secs(10);

/// Most rows read for one pick.
const MOST_ROWS: usize = 4096;

/// Most rows that are parked for one pick beside those that are claimed (SC-8).
const MOST_PARKED: usize = 500;

/// The thread's own state.
pub(super) struct Driver {
    shared: Arc<Shared>,
    bell: Receiver<()>,
}

/// A pick with what was found for it.
struct Looked {
    pick: Pick,
    batch: Batch,
    trouble: bool,
    /// One transaction to probe with: what else is due waits (SC-7).
    alone: bool,
    /// All mail at its expiry is in the batch; when there will be more.
    expiry: Option<Option<Timestamp>>,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, bell: Receiver<()>) -> Driver {
        Driver { shared, bell }
    }

    /// Runs until [`Shared::stop`].
    pub(super) fn run(&self) {
        // A clock that was put right while the daemon was down (RT-9).
        self.recall(self.shared.clock.now());
        loop {
            let mut state = self.shared.lock();
            // Under the lock: nobody can have told of a later time, unless the clock went back.
            let now = self.shared.clock.now();
            if state.stopping {
                return;
            }
            if state.schedule.clock_went_back(now) {
                drop(state);
                self.recall(now);
                continue;
            }
            let step = state.schedule.step(now);
            let blocks = Arc::clone(state.schedule.blocks());
            match step {
                Step::Sleep(until) => {
                    let sleeps = Shared::fall_asleep(&mut state, until);
                    drop(state);
                    if sleeps {
                        self.sleep(until, now);
                    }
                }
                Step::Reload => {
                    drop(state);
                    self.reload(now);
                }
                Step::Read(read) => {
                    drop(state);
                    self.read(read, now);
                }
                Step::Serve(picks) => {
                    drop(state);
                    self.serve(picks, &blocks, now);
                }
            }
        }
    }

    fn sleep(&self, until: Option<Timestamp>, now: Timestamp) {
        let timer = match until {
            None => never(),
            Some(at) => self.shared.clock.timer(at.min(now.plus(LONGEST_SLEEP))),
        };
        select! {
            recv(self.bell) -> _ => {}
            recv(timer) -> _ => {}
            default(REST) => {
                heap::hand_back();
                select! {
                    recv(self.bell) -> _ => {}
                    recv(timer) -> _ => {}
                }
            }
        }
        self.shared.awake();
    }

    fn reload(&self, now: Timestamp) {
        // Cleared first: what changes from here on asks again.
        match self.shared.store.pauses() {
            Ok(pauses) => {
                let blocks = Blocks::new(self.shared.config.get(), pauses, now);
                self.shared.lock().schedule.set_blocks(blocks, now);
            }
            Err(error) => self.failed("pauses", &error, &[], now),
        }
    }

    fn read(&self, read: Read, now: Timestamp) {
        let store = &self.shared.store;
        let answer = match read {
            Read::Nothing => return,
            Read::Page { to, after } => store.due_destinations(to, after, PAGE),
            Read::Ahead(after) => store.due_destinations(Timestamp::MAX, Some(after), 1),
        };
        match answer {
            Err(error) => self.failed("due-destinations", &error, &[], now),
            Ok(rows) => {
                let mut state = self.shared.lock();
                if matches!(read, Read::Page { .. }) {
                    state.schedule.page(&rows, now);
                } else {
                    let first = rows.first().map(|row| row.next_due);
                    state.schedule.seen_ahead(first);
                }
            }
        }
    }

    fn serve(&self, picks: Vec<Pick>, blocks: &Blocks, now: Timestamp) {
        let found: Vec<Looked> = picks
            .iter()
            .map(|pick| self.find(pick, blocks, now))
            .collect();
        let mut requests = Vec::new();
        for found in &found {
            let jobs = found.batch.jobs.iter();
            requests.extend(jobs.map(|job| claim(job, &found.pick, blocks, false, now)));
            requests.extend(found.batch.strays.iter().map(|stray| ClaimRequest {
                id: stray.id,
                numbers: stray.numbers.clone(),
                attempts: stray.attempts,
                action: ClaimAction::Move {
                    destination: stray.destination.clone(),
                },
            }));
        }
        let claimed = if requests.is_empty() {
            Ok(Vec::new())
        } else {
            self.shared.store.claim(requests)
        };
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => return self.failed("claim", &error, &picks, now),
        };
        let mut answers = claimed.into_iter();
        let mut transactions = Vec::new();
        let mut served = Vec::new();
        let mut moved = Vec::new();
        let mut parked = Vec::new();
        for Looked {
            pick,
            batch,
            trouble,
            alone,
            expiry,
        } in found
        {
            let rows = !batch.jobs.is_empty() || !batch.strays.is_empty();
            let (mut used, mut progress, mut left) = (0, false, false);
            for job in batch.jobs {
                let claimed = answers.next().unwrap_or_default();
                if let Some(until) = claimed.parked {
                    parked.push((pick.key.clone(), until));
                    progress = true;
                }
                left |= claimed.left;
                if let Some(transaction) = self.transaction(job, &pick, &claimed, now) {
                    transactions.push(transaction);
                    used += 1;
                }
            }
            if batch.more && parked.last().is_some_and(|(key, _)| *key == pick.key) {
                self.park_more(&pick, blocks, now);
            }
            for stray in batch.strays {
                if answers
                    .next()
                    .is_some_and(|moved| !moved.numbers.is_empty())
                {
                    moved.push(stray.destination);
                    progress = true;
                }
            }
            let outcome = if trouble || rows && used == 0 && !progress {
                Found::Trouble
            } else if left || batch.more && !(alone && used > 0) {
                Found::More
            } else {
                Found::Nothing
            };
            // What could not be claimed is to be found again.
            let expiry = expiry.filter(|_| outcome != Found::Trouble && !left);
            served.push((pick, used, outcome, expiry));
        }
        let mut state = self.shared.lock();
        let refused = self.shared.send(&mut state, transactions);
        for (pick, used, outcome, expiry) in served {
            if let Some(first) = expiry {
                state.schedule.looked(&pick.key, first, now);
            }
            let unused = pick.slots.saturating_sub(used);
            state.schedule.served(&pick, unused, outcome, now);
        }
        for destination in moved {
            state.schedule.due(&destination, now, now);
        }
        for (destination, until) in parked {
            state.schedule.parked(&destination, until, now);
        }
        let news = state.schedule.news();
        drop(state);
        tell(&news);
        self.shared.unclaim(refused);
    }

    /// Where some mail has turned out to be over its limit of the day there may be much of it, before other mail that is not.
    fn park_more(&self, pick: &Pick, blocks: &Blocks, now: Timestamp) {
        let store = &self.shared.store;
        let parked = store.due(&pick.key, now, MOST_PARKED).and_then(|rows| {
            let grouping = Grouping {
                blocks,
                destination: &pick.key,
                slots: MOST_PARKED,
                recipients: pick.limits.recipients,
            };
            let jobs = grouping.apply(rows, false).jobs;
            let requests = jobs.iter().map(|job| claim(job, pick, blocks, true, now));
            let requests: Vec<ClaimRequest> = requests.filter(parks).collect();
            match requests.is_empty() {
                true => Ok(Vec::new()),
                false => store.claim(requests),
            }
        });
        // It is only sooner than otherwise.
        if let Err(error) = parked {
            Line::new("not-read")
                .key("destination", &pick.key)
                .peer("text", &error.to_string())
                .error();
        }
    }

    /// Reads the due rows for a pick.
    fn find(&self, pick: &Pick, blocks: &Blocks, now: Timestamp) -> Looked {
        let store = &self.shared.store;
        let mut contents = Contents::new();
        let usual = |limit| {
            let (rows, found) = store.due_with_content(&pick.key, now, limit)?;
            contents = found;
            Ok(rows)
        };
        let mut expiry = None;
        let found = match pick.probe {
            None => gather(pick, blocks, pick.slots, usual),
            Some(probe) => self.find_probe(pick, probe, blocks, now, &mut expiry),
        };
        let (batch, trouble) = match found {
            Ok(mut batch) => {
                for job in &mut batch.jobs {
                    job.content = contents.get(&job.head.id).cloned();
                }
                (batch, false)
            }
            Err(error) => {
                Line::new("not-read")
                    .key("destination", &pick.key)
                    .peer("text", &error.to_string())
                    .error();
                (Batch::default(), true)
            }
        };
        // Mail at its expiry is not alone: all of it goes.
        let last =
            |job: &Job| Terms::by(blocks.config(), &job.head, &job.transport).expiry() <= now;
        let alone = pick.probe.is_some() && !batch.jobs.first().is_some_and(last);
        Looked {
            pick: pick.clone(),
            batch,
            trouble,
            alone,
            expiry,
        }
    }

    /// What a dead destination is probed with (SC-7): mail at its expiry, which has its last attempt in any case (RT-4);
    /// or else one transaction of what is due. `expiry` is told when all of the first kind was found.
    fn find_probe(
        &self,
        pick: &Pick,
        probe: Probe,
        blocks: &Blocks,
        now: Timestamp,
        expiry: &mut Option<Option<Timestamp>>,
    ) -> Result<Batch, StoreError> {
        let store = &self.shared.store;
        if probe.last_attempts {
            let config = blocks.config();
            let lifetimes = Lifetimes::shortest_at(config, &pick.key);
            let expiry_of =
                |head: &Head, row: &RecipientRow| Terms::of_waiting(config, head, row).expiry();
            let mut next = None;
            let batch = gather(pick, blocks, pick.slots, |limit| {
                let (rows, first) =
                    store.at_expiry(&pick.key, now, &lifetimes, &expiry_of, limit)?;
                next = first;
                Ok(rows)
            })?;
            if !batch.more {
                *expiry = Some(next);
            }
            if !batch.jobs.is_empty() || !batch.strays.is_empty() {
                return Ok(batch);
            }
        }
        if !probe.any {
            return Ok(Batch::default());
        }
        gather(pick, blocks, 1, |limit| store.due(&pick.key, now, limit))
    }

    /// A claimed job as a transaction; `None` if nothing of it could be claimed.
    fn transaction(
        &self,
        job: Job,
        pick: &Pick,
        claimed: &Claimed,
        now: Timestamp,
    ) -> Option<Transaction> {
        let mut recipients = job.rows;
        let numbers = &claimed.numbers;
        if numbers.len() < recipients.len() {
            recipients.retain(|row| numbers.contains(&row.id.number));
        }
        if recipients.is_empty() {
            return None;
        }
        Some(Transaction {
            head: job.head,
            recipients,
            destination: pick.key.clone(),
            transport: job.transport,
            content: job.content,
            over: claimed.over,
            claimed_at: now,
            permit: Permit::new(&self.shared, &pick.key, pick.home.clone(), pick.limits),
        })
    }

    fn failed(&self, what: &str, error: &StoreError, picks: &[Pick], now: Timestamp) {
        Line::new("dispatch-waits")
            .key("request", what)
            .peer("text", &error.to_string())
            .error();
        self.shared.lock().schedule.failed(picks, now);
    }

    /// After the clock was put back nothing waits longer than the longest interval (RT-9).
    fn recall(&self, now: Timestamp) {
        let longest = longest_wait_of_all(&self.shared.config.get());
        match self.shared.store.pull_in(now.plus(longest)) {
            Ok(0) => {}
            Ok(count) => Line::new("clock-went-back").num("rcpts", count).warn(),
            Err(error) => self.failed("pull-in", &error, &[], now),
        }
    }
}

/// Transactions of what `read` finds: first as few rows as will do if each message has one recipient, then enough.
fn gather(
    pick: &Pick,
    blocks: &Blocks,
    slots: usize,
    mut read: impl FnMut(usize) -> Result<Vec<DueRecipient>, StoreError>,
) -> Result<Batch, StoreError> {
    let recipients = pick.limits.recipients;
    let grouping = Grouping {
        blocks,
        destination: &pick.key,
        slots,
        recipients,
    };
    let narrow = slots + 1;
    let wide = slots.saturating_mul(recipients).min(MOST_ROWS);
    let wide = wide.max(recipients) + 1;
    let mut batch = Batch::default();
    for limit in [narrow, wide] {
        let rows = read(limit)?;
        let full = rows.len() >= limit;
        batch = grouping.apply(rows, full);
        if !batch.cut || wide <= narrow {
            break;
        }
    }
    Ok(batch)
}

/// Whether there is anything to park by this request, which must claim nothing.
fn parks(request: &ClaimRequest) -> bool {
    match &request.action {
        ClaimAction::Claim { daily, .. } => daily.is_some(),
        ClaimAction::Move { .. } => false,
    }
}

/// The claim of a job: the next attempt stands in it already, should this one be cut off. One random number for
/// all its recipients, so that they stay together.
fn claim(job: &Job, pick: &Pick, blocks: &Blocks, park_only: bool, now: Timestamp) -> ClaimRequest {
    let attempts = job.rows.first().map_or(0, |row| row.attempts);
    let config = blocks.config();
    let terms = Terms::by(config, &job.head, &job.transport);
    let daily = any_per_address_day(config).then(|| {
        let most = |row: &RecipientRow| {
            let domain = row.recipient.path.domain();
            per_address_day(config, &pick.key, &pick.limits, domain)
        };
        Daily {
            most: job.rows.iter().map(most).collect(),
            expiry: terms.expiry(),
            last: terms.expiry() <= now,
            park_only,
        }
    });
    ClaimRequest {
        id: job.head.id,
        numbers: job.rows.iter().map(|row| row.id.number).collect(),
        attempts,
        action: ClaimAction::Claim {
            next_attempt: terms.next_attempt(attempts.saturating_add(1), now, rand::random()),
            daily: daily.filter(|daily| daily.most.iter().any(|most| *most > 0)),
        },
    }
}
