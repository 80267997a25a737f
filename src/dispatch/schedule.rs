//! Which destination may have which number of transactions, and when to look again: the pure core of dispatch.
//!
//! Fed with events and a `now`; asks its driver for one thing at a time ([`Step`]) and is told the answer. It does no
//! I/O, reads no clock, and knows nothing of single messages: what is queued stays in the store, and what is remembered
//! here is bounded by the destinations that are active now.

mod known;
mod rated;

use std::sync::Arc;
use std::time::Duration;

use super::blocks::Blocks;
use super::dead::{Dead, News};
use super::permit::Feedback;
use super::rates::Rates;
use super::scan::{PAGE, Read, Scan};
use super::turns::{Active, Left, MOST_WAITING, Pick, Turns};
use super::windows::Windows;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::store::{DestinationKey, DueDestination};
pub use known::{Claim, Known};

/// Most destinations served in one round, so that one commit of claims stays small.
const MOST_PICKS: usize = 64;

/// First wait after a fault of the store; doubles up to [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// When a destination that should have had work gave none is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the driver is to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read pauses and configuration anew; answered by [`Schedule::set_blocks`].
    Reload,
    /// Claim and send; each pick is answered by [`Schedule::served`].
    Serve(Vec<Pick>),
    /// Read the index of destinations; answered by [`Schedule::page`] or [`Schedule::seen_ahead`].
    Read(Read),
    /// Nothing until this time, or until something happens.
    Sleep(Option<Timestamp>),
}

/// What came of a [`Pick`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// More mail is due.
    More,
    /// Nothing more is due now.
    Nothing,
    /// Its mail could not be read, or none of it could be claimed although it is there: not now, so that a fault in
    /// one place cannot keep everything busy.
    Trouble,
}

/// The state machine.
#[derive(Debug)]
pub struct Schedule {
    turns: Turns,
    scan: Scan,
    dead: Dead,
    rates: Rates,
    blocks: Arc<Blocks>,
    reload: bool,
    /// The last step but for sleeping was to read a page.
    has_read: bool,
    /// After faults of the store: how many in a row, and until when to wait.
    faults: u32,
    wait: Option<Timestamp>,
    /// The latest `now` that anybody told, to notice a clock that went back.
    latest: Timestamp,
    /// Counts claims and slots given back, for the watchdog.
    progress: u64,
    /// Who died or lives again, not yet told.
    news: Vec<(DestinationKey, News)>,
    /// Whose window changed so that the store should know.
    lessons: Vec<DestinationKey>,
}

impl Schedule {
    /// Nothing in flight, nothing known; the first step is [`Step::Reload`].
    pub fn new(workers: usize, config: Arc<Config>) -> Schedule {
        Schedule::with_line(workers, config, MOST_WAITING)
    }

    /// The same with a line of another length.
    pub fn with_line(workers: usize, config: Arc<Config>, most_waiting: usize) -> Schedule {
        Schedule {
            turns: Turns::new(workers, Windows::new(Arc::clone(&config)), most_waiting),
            scan: Scan::default(),
            dead: Dead::new(Arc::clone(&config)),
            rates: Rates::new(&config),
            blocks: Arc::new(Blocks::new(config, Vec::new(), Timestamp::default())),
            reload: true,
            has_read: false,
            faults: 0,
            wait: None,
            latest: Timestamp::default(),
            progress: 0,
            news: Vec::new(),
            lessons: Vec::new(),
        }
    }

    /// What to do now.
    pub fn step(&mut self, now: Timestamp) -> Step {
        self.saw(now);
        if self.turns.take_seeks() {
            self.scan.again(now);
        }
        if self.wait.is_some_and(|until| until > now) {
            return Step::Sleep(self.wait);
        }
        self.wait = None;
        if self.reload {
            return Step::Reload;
        }
        if self.blocks.next_end().is_some_and(|end| end <= now) {
            Arc::make_mut(&mut self.blocks).expire(now);
            self.scan.again(now);
        }
        if self.blocks.everything() {
            return Step::Sleep(self.blocks.next_end());
        }
        // Reading and serving take turns, so that neither a long index nor a line that never ends stops the other.
        let full = self.turns.is_full();
        let read = if full {
            Read::Nothing
        } else {
            self.scan.read(now)
        };
        let page = matches!(read, Read::Page { .. }) && !self.has_read;
        self.has_read = page;
        if page {
            return Step::Read(read);
        }
        let picks = loop {
            self.offer_probes(now);
            self.offer_waiting(now);
            let picks = self.pick(now);
            let waits = self.rates.next().is_some_and(|at| at <= now);
            let more = !self.turns.is_full() && (self.dead.due(now).is_some() || waits);
            if !picks.is_empty() || !more {
                break picks;
            }
        };
        if !picks.is_empty() {
            return Step::Serve(picks);
        }
        if read != Read::Nothing {
            return Step::Read(read);
        }
        if full && !self.turns.is_full() {
            return self.step(now); // those in it wait for something else
        }
        self.faults = 0;
        Step::Sleep(self.sleep_until())
    }

    fn sleep_until(&self) -> Option<Timestamp> {
        let next = if self.turns.is_full() {
            [None, None, None] // there is a line; no use in reading before a slot comes back
        } else {
            [self.scan.wake(), self.dead.next(), self.rates.next()]
        };
        let next = next.into_iter().chain([self.blocks.next_end()]);
        next.flatten().min()
    }

    /// Dead destinations whose time has come join the line.
    fn offer_probes(&mut self, now: Timestamp) {
        while !self.turns.is_full()
            && let Some(key) = self.dead.due(now)
        {
            if self.blocks.group(&key).is_some() {
                self.dead.idle(&key); // found again when it is blocked no longer
            } else if self.turns.in_flight_of(&key) > 0 {
                self.dead.overdue(&key);
            } else if let Some(at) = self.held_until(&key, now) {
                self.dead.put_off(&key, at);
            } else {
                self.dead.probe(&key);
                self.turns.offer_wide(&key); // the line is not full
            }
        }
    }

    /// Destinations whose rate lets them go on join the line (SC-8).
    fn offer_waiting(&mut self, now: Timestamp) {
        while !self.turns.is_full()
            && let Some(key) = self.rates.pop(now)
        {
            if self.blocks.group(&key).is_none() && !self.dead.is_dead(&key) {
                self.turns.offer(&key); // the line is not full
            } else {
                self.due(&key, now, now);
            }
        }
    }

    /// The clock showed this, to whoever it was: what was put off from then on is put off too long if it goes back (RT-9),
    /// and the dispatcher may have slept all the while.
    fn saw(&mut self, now: Timestamp) {
        self.latest = self.latest.max(now);
    }

    /// Whether the clock has gone back behind a time already seen; forgets it by that, and looks at everything again.
    pub fn clock_went_back(&mut self, now: Timestamp) -> bool {
        let back = now < self.latest;
        if back {
            self.latest = now;
            self.scan.again(now);
            self.wait = None;
            self.dead.clock_went_back(now);
            self.rates.clock_went_back(now);
        }
        back
    }

    /// Pauses or configuration may have changed; until they are read again no new slot is handed out.
    pub fn reload(&mut self) {
        self.reload = true;
    }

    /// The answer to [`Step::Reload`].
    pub fn set_blocks(&mut self, blocks: Blocks, now: Timestamp) {
        self.reload = false;
        if !Arc::ptr_eq(blocks.config(), self.blocks.config()) {
            // Other hosts, other routes: what was learned may be about something else (CFG-6).
            self.dead.begin_anew(Arc::clone(blocks.config()));
            self.rates.set_config(blocks.config());
        }
        self.blocks = Arc::new(blocks);
        self.turns.set_config(self.blocks.config());
        for key in self.turns.line() {
            if self.blocks.group(&key).is_some() {
                self.turns.forget(&key);
                self.end_probe(&key, now);
            }
        }
        self.scan.again(now);
    }

    /// What is known of a destination that is dead.
    pub fn dead(&self) -> &Dead {
        &self.dead
    }

    /// An operator wants mail of this destination to be tried at `at` (CTL-11): it is probed then, if it is dead.
    pub fn kick(&mut self, key: &DestinationKey, at: Timestamp, now: Timestamp) {
        self.dead.kick(key, at.max(now));
        self.due(key, at, now);
    }

    /// The same for more destinations than anybody wants to name.
    pub fn kick_all(&mut self, at: Timestamp, now: Timestamp) {
        self.saw(now);
        self.dead.kick_all(at.max(now));
        self.reload();
    }

    /// Mail of `key` was put off until `at`, for a reason that is its own (SC-8).
    pub fn parked(&mut self, key: &DestinationKey, at: Timestamp, now: Timestamp) {
        self.progress += 1;
        self.due(key, at, now);
    }

    /// What is blocked now.
    pub fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    /// Mail of `key` is due at `at`.
    pub fn due(&mut self, key: &DestinationKey, at: Timestamp, now: Timestamp) {
        self.saw(now);
        if at > now {
            self.scan.ahead(at);
        } else if self.blocks.group(key).is_some() {
            // Found again when it is blocked no longer.
        } else if self.dead.is_dead(key) {
            self.dead.want(key, now);
        } else if self.must_wait(key, now) {
            // Offered when its rate lets it go on.
        } else if !self.turns.offer(key) {
            self.scan.again(now);
        }
    }

    /// A slot for mail that is just being accepted.
    pub fn reserve(&mut self, key: &DestinationKey, now: Timestamp) -> bool {
        self.saw(now);
        !self.reload
            && self.wait.is_none()
            && self.scan.is_current(now)
            && self.blocks.next_end().is_none_or(|end| end > now)
            && self.blocks.lets_through(key)
            && !self.dead.is_dead(key)
            && self.lets_through(key, now)
            && self.turns.reserve(key)
    }

    /// Whether slots of the destination come back and may be given to others: it has some, and nothing blocks it.
    pub fn is_served(&mut self, key: &DestinationKey, now: Timestamp) -> bool {
        !self.reload
            && self.wait.is_none()
            && self.blocks.next_end().is_none_or(|end| end > now)
            && self.blocks.lets_through(key)
            && !self.dead.is_dead(key)
            && self.lets_through(key, now)
            && self.turns.is_active(key)
    }

    /// A slot comes back, of a worker if it `ran`, with what was learned of the destination. `true`: it is dead from now on
    /// (SC-7), and what was claimed ahead is to be given back.
    pub fn release(
        &mut self,
        key: &DestinationKey,
        feedback: Option<Feedback>,
        ran: bool,
        now: Timestamp,
    ) -> bool {
        self.saw(now);
        self.progress += 1;
        let (reached, strike, broken) = match &feedback {
            Some(feedback) => (
                feedback.reached_mail,
                feedback.strike.clone(),
                feedback.broken.clone(),
            ),
            None => (false, None, None),
        };
        if self.turns.release(key, feedback.as_ref(), ran, now) {
            self.lessons.push(key.clone());
        }
        if reached {
            self.revive(key, now);
            return false;
        }
        let died = match (broken, strike) {
            (Some(text), _) => self.dead.broken(key, &text, now),
            (None, Some(text)) => self.dead.strike(key, &text, now),
            (None, None) => false,
        };
        if died {
            self.turns.clear_ready(key);
            self.turns.forget(key);
        }
        self.end_probe(key, now);
        self.look_if_quiet(key, now);
        died
    }

    /// It lives, and all that has waited goes. Whether it was dead.
    pub fn revive(&mut self, key: &DestinationKey, now: Timestamp) -> bool {
        let since = self.dead.get(key).map(|dead| dead.since);
        let (was_dead, news) = self.dead.reached(key, now);
        let since = since.filter(|_| news.is_some());
        if was_dead && self.turns.revive(key, since) {
            self.lessons.push(key.clone());
        }
        if was_dead {
            self.due(key, now, now);
        }
        self.news.extend(news.map(|news| (key.clone(), news)));
        was_dead
    }

    /// Who died or lives again since this was asked last.
    pub fn news(&mut self) -> Vec<(DestinationKey, News)> {
        std::mem::take(&mut self.news)
    }

    /// Whether a claimed transaction may go to a worker now; if not, [`Schedule::next_ready`] calls for it.
    pub fn start(&mut self, key: &DestinationKey) -> bool {
        self.turns.start(key)
    }

    /// One that was told to start could not.
    pub fn stop(&mut self, key: &DestinationKey) {
        self.turns.stop(key);
    }

    /// Whose transaction may go to a worker now, of those that wait for a connection of this home.
    pub fn next_ready(&mut self, home: &DestinationKey) -> Option<DestinationKey> {
        self.turns.next_ready(home)
    }

    /// Whether a transaction of `key` that is ready may follow another of it on its connection. Where messages or connections
    /// are counted by time they go one by one, as they were counted.
    pub fn follow(&mut self, key: &DestinationKey) -> bool {
        let limits = self.limits(key);
        limits.rate.is_none() && limits.dial_interval.is_zero() && self.turns.follow(key)
    }

    /// It does not after all, and is the next.
    pub fn unfollow(&mut self, key: &DestinationKey) {
        self.turns.unfollow(key);
    }

    /// As long as something is under way it may succeed: a peer that merely has connections enough is not dead.
    fn look_if_quiet(&mut self, key: &DestinationKey, now: Timestamp) {
        if !self.turns.is_active(key) {
            let news = self.dead.quiet(key, now);
            self.news.extend(news.map(|news| (key.clone(), news)));
        }
    }

    /// If a probe was under way and nothing of it is left, it has failed.
    fn end_probe(&mut self, key: &DestinationKey, now: Timestamp) {
        if self.dead.is_probing(key) && self.turns.is_quiet(key) {
            self.dead.probed(key, now);
        }
    }

    /// For a probe that took all mail at its expiry: when there will be some again.
    pub fn looked(&mut self, key: &DestinationKey, first: Option<Timestamp>, now: Timestamp) {
        self.dead.looked(key, first, now);
    }

    /// The answer to [`Read::Page`].
    pub fn page(&mut self, page: &[DueDestination], now: Timestamp) {
        self.scan.page(page);
        for destination in page {
            self.due(&destination.key, destination.next_due, now);
        }
    }

    /// The answer to [`Read::Ahead`].
    pub fn seen_ahead(&mut self, first: Option<Timestamp>) {
        self.scan.seen_ahead(first);
    }

    /// The answer to one pick of [`Step::Serve`]: so many of its slots are not used, and this was found.
    pub fn served(&mut self, pick: &Pick, unused: usize, found: Found, now: Timestamp) {
        if unused < pick.slots {
            self.faults = 0;
            self.progress += 1;
        }
        if let Some(home) = &pick.home {
            self.rates.give_back(home, unused, now);
        }
        if self.dead.is_dead(&pick.key) {
            return self.served_dead(pick, unused, found, now);
        }
        let left = match found {
            Found::More => Left::More,
            // It lives since, and a probe does not tell what else there is.
            _ if pick.probe.is_some() => Left::More,
            Found::Nothing | Found::Trouble => Left::Nothing,
        };
        if found == Found::Trouble {
            self.scan.again(now.plus(LOOK_AGAIN));
        }
        // A long line keeps room for those that are not in it yet; who leaves it is found by the next sweep, in the
        // order of due times, so nobody is left out for ever.
        let make_room = !self.turns.has_place_for(PAGE) && self.scan.is_behind(now);
        if !self.turns.served(&pick.key, unused, left, make_room) {
            self.scan.again(now);
        }
        if left == Left::Nothing {
            self.scan.moved();
        }
    }

    /// The answer to a pick of a destination that is dead.
    fn served_dead(&mut self, pick: &Pick, unused: usize, found: Found, now: Timestamp) {
        let key = &pick.key;
        if pick.probe.is_none() {
            // It has died since: what is left of its mail waits.
            self.turns.served(key, unused, Left::Nothing, false);
            self.turns.forget(key);
            self.dead.want(key, now);
        } else {
            if unused < pick.slots {
                self.dead.sent(key);
            }
            let left = match found {
                Found::More => Left::More,
                Found::Nothing | Found::Trouble => Left::Nothing,
            };
            self.turns.served(key, unused, left, false);
            let nothing = unused == pick.slots && self.turns.is_quiet(key);
            self.end_probe(key, now);
            if found == Found::Trouble && nothing {
                self.dead.put_off(key, now.plus(LOOK_AGAIN));
            }
        }
        self.look_if_quiet(key, now);
        self.scan.moved();
    }

    /// The store failed: nothing of these picks was claimed. Waits before the next step, longer each time.
    pub fn failed(&mut self, picks: &[Pick], now: Timestamp) {
        for pick in picks {
            if let Some(home) = &pick.home {
                self.rates.give_back(home, pick.slots, now);
            }
            self.turns.served(&pick.key, pick.slots, Left::More, false);
        }
        let wait = FIRST_BACKOFF.saturating_mul(1 << self.faults.min(5));
        self.faults = self.faults.saturating_add(1);
        self.wait = Some(now.plus(wait.min(LONGEST_BACKOFF)));
    }

    /// Transactions in flight and most at once.
    pub fn load(&self) -> (usize, usize) {
        (self.turns.in_flight(), self.turns.workers())
    }

    /// Active destinations, in no order.
    pub fn active(&self) -> impl Iterator<Item = Active<'_>> {
        self.turns.active()
    }

    /// Whether a fault of the store keeps everything waiting.
    pub fn is_backing_off(&self) -> bool {
        self.wait.is_some()
    }

    /// Whether the line has no room for more.
    #[cfg(test)]
    pub fn is_full(&self) -> bool {
        self.turns.is_full()
    }

    /// For the watchdog: whether mail could go that does not, and how far things have come.
    pub fn watch(&self) -> (bool, u64) {
        let can_serve = !self.blocks.everything() && self.turns.can_serve();
        let could = self.wait.is_none() && (can_serve || self.turns.serving() > 0);
        (could, self.progress)
    }

    /// Whether there is a reason to leave a sleep that lasts until `until`.
    pub fn has_reason_to_wake(&self, until: Option<Timestamp>) -> bool {
        if self.wait.is_some() {
            return false;
        }
        if self.reload || self.blocks.everything() {
            return self.reload;
        }
        if self.turns.seeks() {
            return true;
        }
        let earlier = |at: Timestamp| until.is_none_or(|until| at < until);
        self.turns.can_serve() || self.sleep_until().is_some_and(earlier)
    }

    fn pick(&mut self, now: Timestamp) -> Vec<Pick> {
        let mut picks = Vec::new();
        while picks.len() < MOST_PICKS {
            let Some(mut pick) = self.turns.serve() else {
                break;
            };
            let mut goes = self.rated(&mut pick, now);
            if goes && self.dead.is_dead(&pick.key) {
                let alone = self.turns.in_flight_of(&pick.key) == pick.slots;
                pick.probe = self.dead.take(&pick.key, alone, now);
                // If not, it died on its way here, and it is not the time for a probe.
                goes = pick.probe.is_some();
            }
            if goes {
                picks.push(pick);
            } else {
                self.drop_pick(&pick, now);
            }
        }
        picks
    }

    /// What was picked is not served now after all.
    fn drop_pick(&mut self, pick: &Pick, now: Timestamp) {
        if let Some(home) = &pick.home {
            self.rates.give_back(home, pick.slots, now);
        }
        self.turns
            .served(&pick.key, pick.slots, Left::Nothing, false);
        if self.dead.is_probing(&pick.key) {
            let at = self.held_until(&pick.key, now);
            self.dead
                .put_off(&pick.key, at.unwrap_or(now.plus(LOOK_AGAIN)));
        }
        self.due(&pick.key, now, now);
        self.look_if_quiet(&pick.key, now);
    }
}
