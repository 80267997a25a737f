//! A model world around the schedule, in virtual time: a store, workers, operators and clocks that do anything (RT-12).
//!
//! It drives the schedule exactly as the dispatcher thread does, bell included, and checks after every step that no
//! limit is exceeded, that nobody who could be served waits while the dispatcher sleeps, and that turns are kept.

mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::blocks::Blocks;
use super::dead::Probe;
use super::permit::{Feedback, PushBack};
use super::rates::Spent;
use super::scan::{PAGE, Read};
use super::schedule::{Claim, Found, Schedule, Step};
use super::turns::{Active, Pick};
use super::windows::MxHosts;
use crate::clock::Timestamp;
use crate::config::{Config, Rate, RateLimit, Span};
use crate::message::{Head, QueueId};
use crate::policy::limit::{Standing, half, room};
use crate::policy::retry::{Course, Ended, Terms, longest_wait};
use crate::smtp::address::Domain;
use crate::store::{DestinationKey, DueDestination, Pause, PauseScope};

/// How the dispatcher thread caps its sleep.
const LONGEST_SLEEP: u64 = 60_000;

#[derive(Clone, Debug)]
enum Event {
    /// So many messages to a destination, due after so many milliseconds.
    Submit(usize, usize, u32),
    /// All queued mail of a destination becomes due after so many milliseconds.
    Kick(usize, u32),
    Hold(usize),
    Release(usize),
    Drop(usize),
    Pause(Option<usize>, u32),
    Resume,
    /// The wall clock moves by so many seconds.
    Step(i32),
    /// It is put forward by so many seconds, and so many milliseconds later back by as many.
    Astray(u32, u32),
    /// The next so many commits fail.
    Fault(u8),
    Advance(u32),
    Lifetime(u32),
    /// No attempt to this destination gets as far as MAIL; or they do again.
    Down(usize),
    Up(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    Claimed,
    Held,
    Final,
}

#[derive(Debug)]
struct Message {
    destination: usize,
    state: State,
    due: i64,
    attempts: u32,
    arrived: i64,
    last: Option<i64>,
    /// An operator or a sender asked for this time.
    wanted: bool,
    dropped: bool,
}

#[derive(Clone, Debug)]
struct Running {
    message: usize,
    started: i64,
    /// The same on the monotonic clock.
    claimed: u64,
    took: u64,
    ends: u64,
    /// Where it is counted, and since when.
    home: Option<DestinationKey>,
    counted: i64,
    dialled: bool,
    stage: Stage,
    /// What it was due at before its claim, and whether that was asked for.
    due: i64,
    wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Claimed ahead: it waits for a connection.
    Ready,
    /// A worker looks for the hosts.
    Resolving,
    /// It has a connection.
    Connected,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    workers: usize,
    window: usize,
    destinations: usize,
    /// Most destinations that the schedule remembers.
    line: usize,
    /// The destinations are at so many sets of hosts; 0: each has its own.
    groups: usize,
}

struct World {
    schedule: Schedule,
    config: Arc<Config>,
    destinations: usize,
    groups: usize,
    messages: Vec<Message>,
    running: Vec<Running>,
    pauses: Vec<(PauseScope, Pause)>,
    wall: i64,
    mono: u64,
    /// While the dispatcher sleeps: until when it thinks, and when its timer fires.
    asleep: Option<(Option<Timestamp>, Option<u64>)>,
    faults: u8,
    /// This destination takes ten minutes for anything, the others a moment.
    slow: Option<usize>,
    down: BTreeSet<usize>,
    was_down: bool,
    seed: u64,
    /// Destinations without a slot that wait in the line, with the others served since.
    passed: BTreeMap<DestinationKey, BTreeMap<DestinationKey, usize>>,
    queries: u64,
    /// Sessions that were kept, by destination.
    kept: HashMap<usize, usize>,
    /// When connections were made, and when messages went out, by destination.
    dials: HashMap<usize, Vec<i64>>,
    sent: HashMap<usize, Vec<i64>>,
    stepped: bool,
    diary: Vec<(u64, usize, usize)>,
}

impl World {
    fn new(size: Size, seed: u64) -> World {
        let Size {
            workers,
            window,
            destinations,
            line,
            groups,
        } = size;
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        let minutes = |m: u64| Span(Duration::from_secs(60 * m));
        config.retry.intervals = vec![minutes(3), minutes(5), minutes(20)];
        config.retry.lifetime = minutes(300);
        config.limits.connections = window;
        config.limits.initial = 1 + seed as usize % 3;
        config.limits.rate = RateLimit((seed > 1000 && seed % 5 == 1).then_some(Rate {
            count: 1 + seed % 11,
            per: Span(Duration::from_millis(1 + seed % 60_000)),
        }));
        if seed > 1000 && seed % 7 == 2 {
            config.limits.dial_interval = Span(Duration::from_millis(1 + seed % 30_000));
        }
        let config = Arc::new(config);
        World {
            schedule: Schedule::with_line(workers, Arc::clone(&config), line),
            config,
            destinations,
            groups,
            messages: Vec::new(),
            running: Vec::new(),
            pauses: Vec::new(),
            wall: 1_800_000_000_000,
            mono: 0,
            asleep: Some((None, None)),
            faults: 0,
            slow: None,
            down: BTreeSet::new(),
            was_down: false,
            seed,
            passed: BTreeMap::new(),
            queries: 0,
            kept: HashMap::new(),
            dials: HashMap::new(),
            sent: HashMap::new(),
            stepped: false,
            diary: Vec::new(),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.wall)
    }

    /// A random number below `below` (splitmix64).
    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    fn random_unit(&mut self) -> f64 {
        self.random(1001) as f64 / 1000.0
    }

    // The store.

    /// Earliest due time of each destination with queued mail.
    fn earliest(&self) -> BTreeMap<usize, i64> {
        let mut earliest = BTreeMap::new();
        for m in self.messages.iter().filter(|m| m.state == State::Queued) {
            let due = earliest.entry(m.destination).or_insert(m.due);
            *due = m.due.min(*due);
        }
        earliest
    }

    fn due_destinations(
        &mut self,
        now: Timestamp,
        after: Option<(Timestamp, i64)>,
        limit: usize,
    ) -> Vec<DueDestination> {
        self.queries += 1;
        let place = |d: &DueDestination| (d.next_due, d.row);
        let mut found: Vec<DueDestination> = self
            .earliest()
            .into_iter()
            .map(|(d, due)| DueDestination {
                key: key(d),
                next_due: Timestamp::from_millis(due),
                row: d as i64,
            })
            .filter(|d| d.next_due <= now && after.is_none_or(|after| place(d) > after))
            .collect();
        found.sort_by_key(place);
        found.truncate(limit);
        found
    }

    fn due(&self, destination: usize) -> Vec<usize> {
        let mut due: Vec<usize> = (0..self.messages.len())
            .filter(|&m| {
                let m = &self.messages[m];
                m.destination == destination && m.state == State::Queued && m.due <= self.wall
            })
            .collect();
        due.sort_by_key(|&m| (self.messages[m].due, m));
        due
    }

    fn commit_fails(&mut self) -> bool {
        let fails = self.faults > 0;
        self.faults = self.faults.saturating_sub(1);
        fails
    }

    // The dispatcher thread.

    fn drive(&mut self) {
        self.asleep = None;
        for _ in 0..20_000 {
            let now = self.now();
            if self.schedule.clock_went_back(now) {
                self.recall();
            }
            match self.schedule.step(now) {
                Step::Reload => {
                    if self.commit_fails() {
                        self.schedule.failed(&[], now);
                    } else {
                        let config = Arc::clone(&self.config);
                        let blocks = Blocks::new(config, self.pauses.clone(), now);
                        self.schedule.set_blocks(blocks, now);
                    }
                }
                Step::Read(Read::Page { to, after }) => {
                    let page = self.due_destinations(to, after, PAGE);
                    self.schedule.page(&page, now);
                }
                Step::Read(Read::Ahead(after)) => {
                    let first = self.due_destinations(Timestamp::MAX, Some(after), 1);
                    self.schedule.seen_ahead(first.first().map(|d| d.next_due));
                }
                Step::Read(Read::Nothing) => panic!("asked to read nothing"),
                Step::Serve(picks) => self.serve(picks),
                Step::Sleep(until) => {
                    assert!(until.is_none_or(|at| at > now), "sleeps until {until:?}");
                    if !self.schedule.has_reason_to_wake(until) {
                        let wall = now.millis();
                        let timer = until
                            .map(|at| self.mono + ((at.millis() - wall) as u64).min(LONGEST_SLEEP));
                        self.asleep = Some((until, timer));
                        self.check_waits();
                        return self.check_that_nobody_could_go();
                    }
                }
            }
            self.check_limits();
            self.see_who_waits();
        }
        panic!("the dispatcher never sleeps");
    }

    fn serve(&mut self, picks: Vec<Pick>) {
        let now = self.now();
        self.check_limits();
        self.check_turns(&picks);
        if self.commit_fails() {
            return self.schedule.failed(&picks, now);
        }
        for pick in picks {
            let destination = number(&pick.key);
            let (due, most) = match pick.probe {
                None => (self.due(destination), pick.slots),
                Some(probe) => self.find_probe(&pick, probe),
            };
            let taken = due.len().min(most);
            for &message in &due[..taken] {
                self.claim(message, pick.home.clone());
            }
            let found = if due.len() > taken {
                Found::More
            } else {
                Found::Nothing
            };
            self.diary.push((self.mono, destination, taken));
            self.schedule.served(&pick, pick.slots - taken, found, now);
        }
    }

    /// As `Driver::find_probe`.
    fn find_probe(&mut self, pick: &Pick, probe: Probe) -> (Vec<usize>, usize) {
        let now = self.now();
        let destination = number(&pick.key);
        let expiry = |m: &Message| m.arrived + self.config.retry.lifetime.get().as_millis() as i64;
        let mut due = self.due(destination);
        if probe.last_attempts {
            let mut last = due.clone();
            last.retain(|&m| expiry(&self.messages[m]) <= self.wall);
            let here = |m: &&Message| m.destination == destination && m.state == State::Queued;
            let waiting = self.messages.iter().filter(here).map(expiry);
            let first = waiting.filter(|at| *at > self.wall).min();
            let first = first.map(Timestamp::from_millis);
            if last.len() <= pick.slots {
                self.schedule.looked(&pick.key, first, now);
            }
            if !last.is_empty() {
                return (last, pick.slots);
            }
        }
        if !probe.any {
            return (Vec::new(), 0);
        }
        assert_eq!(self.in_flight(destination), 0, "SC-7: one probe at a time");
        due.truncate(1);
        (due, 1)
    }

    fn claim(&mut self, message: usize, home: Option<DestinationKey>) {
        let destination = self.messages[message].destination;
        let took = match (self.slow, self.random(10)) {
            (Some(slow), _) if slow == destination => 600_000,
            (Some(_), _) => 50,
            (None, 0) => 600_000,
            (None, _) => 50 + self.random(5_000),
        };
        let starts = self.schedule.start(&key(destination));
        self.running.push(Running {
            message,
            started: self.wall,
            claimed: self.mono,
            took,
            ends: u64::MAX,
            home,
            counted: self.wall,
            dialled: false,
            stage: Stage::Ready,
            due: self.messages[message].due,
            wanted: self.messages[message].wanted,
        });
        if starts {
            self.start(self.running.len() - 1);
        }
        let head = self.head(message);
        let random = self.random_unit();
        let now = self.now();
        let m = &mut self.messages[message];
        m.attempts += 1;
        let next = Terms::of(&self.config, &head).next_attempt(m.attempts, now, random);
        m.due = next.millis();
        m.last = Some(self.wall);
        m.state = State::Claimed;
        m.wanted = false;
    }

    fn recall(&mut self) {
        let retry = &self.config.retry;
        let latest = self
            .now()
            .plus(longest_wait(&retry.intervals, retry.jitter));
        for m in &mut self.messages {
            let past = m.last.unwrap_or(m.arrived);
            if m.state != State::Final && m.due > latest.millis() && past > self.wall {
                m.due = latest.millis();
            }
        }
    }

    fn head(&self, message: usize) -> Head {
        Head::new(
            QueueId::new(1).unwrap(),
            Timestamp::from_millis(self.messages[message].arrived),
            "relay",
        )
    }

    // The workers.

    fn start(&mut self, at: usize) {
        let run = &mut self.running[at];
        run.stage = Stage::Resolving;
        run.ends = self.mono + 5;
    }

    /// `Shared::hand_on`.
    fn hand_on(&mut self, home: &DestinationKey) {
        while let Some(next) = self.schedule.next_ready(home) {
            let waits = |run: &Running| {
                run.stage == Stage::Ready && self.messages[run.message].destination == number(&next)
            };
            let at = self.running.iter().position(waits);
            self.start(at.expect("who is called for is there"));
        }
    }

    /// `Shared::moved`.
    fn moved(&mut self, destination: usize, before: &DestinationKey) {
        let home = self.schedule.home_of(&key(destination));
        if home != *before {
            self.hand_on(before);
            self.hand_on(&home);
        }
    }

    fn give_slot_back(
        &mut self,
        destination: usize,
        feedback: Option<Feedback>,
        counted: Option<(DestinationKey, Option<Spent>)>,
    ) {
        let now = self.now();
        let home = self.schedule.home_of(&key(destination));
        let died = self
            .schedule
            .release(&key(destination), feedback, true, now);
        if died {
            let messages = &self.messages;
            let ready = |run: &Running| {
                run.stage == Stage::Ready && messages[run.message].destination == destination
            };
            let back: Vec<Running> = self.running.extract_if(.., |run| ready(run)).collect();
            for run in back {
                self.schedule.release(&key(destination), None, false, now);
                if let Some(home) = &run.home {
                    self.schedule.spent(home, None, now);
                }
                self.unclaim(&run);
            }
        }
        if let Some((counted, spent)) = counted {
            self.schedule.spent(&counted, spent, now);
        }
        self.hand_on(&home);
        self.moved(destination, &home);
        self.schedule.news();
        self.schedule.lessons();
        self.poke();
    }

    /// No attempt was made.
    fn unclaim(&mut self, run: &Running) {
        let m = &mut self.messages[run.message];
        m.attempts -= 1;
        m.due = run.due.min(self.wall);
        m.wanted = run.wanted;
        m.state = if m.dropped {
            State::Final
        } else {
            State::Queued
        };
        let (destination, due) = (m.destination, Timestamp::from_millis(m.due));
        self.due_at(destination, due);
    }

    /// The hosts are known.
    fn resolved(&mut self, at: usize) {
        let run = self.running[at].clone();
        let destination = self.messages[run.message].destination;
        let entered = self.groups == 0 || {
            let before = self.schedule.home_of(&key(destination));
            let group = self.group(destination);
            let hosts = MxHosts {
                group: &group,
                best: "mx.example",
            };
            let claim = Claim {
                limits: self.schedule.limits(&key(destination)),
                recipients: 1,
            };
            let entered = self.schedule.enter(&key(destination), hosts, &claim);
            self.moved(destination, &before);
            entered
        };
        let (key, now) = (key(destination), self.now());
        let count = || self.schedule.count(&key, run.home.as_ref(), now);
        let counted = entered.then(count).flatten();
        let home = counted.clone().unwrap_or(run.home.clone());
        if counted.is_some()
            && let Some(dialled) = self.connect(destination)
        {
            let run = &mut self.running[at];
            run.stage = Stage::Connected;
            run.ends = self.mono + run.took;
            if home != run.home {
                run.counted = self.wall;
            }
            (run.home, run.dialled) = (home, dialled);
        } else {
            self.unclaim(&run);
            self.running.remove(at);
            let counted = home.map(|home| (home, Some(Spent::default())));
            self.give_slot_back(destination, None, counted);
        }
    }

    /// By a session that was kept, or by a new one, if that may be made: whether it was.
    fn connect(&mut self, destination: usize) -> Option<bool> {
        let (hosts, now) = (self.hosts(destination), self.now());
        let kept = self.kept.entry(hosts).or_default();
        if *kept > 0 {
            *kept -= 1;
            return Some(false);
        }
        if !self.schedule.dial(&key(destination), false, now) {
            return None;
        }
        self.dials.entry(hosts).or_default().push(self.wall);
        Some(true)
    }

    /// What stands for its hosts.
    fn hosts(&self, destination: usize) -> usize {
        match self.groups {
            0 => destination,
            groups => destination % groups,
        }
    }

    fn group(&self, destination: usize) -> DestinationKey {
        DestinationKey(format!("mx:mx{}.example", destination % self.groups.max(1)).into())
    }

    fn end(&mut self, at: usize) {
        if self.running[at].stage == Stage::Resolving {
            return self.resolved(at);
        }
        let run = self.running[at].clone();
        let (outcome, random) = (self.random(10), self.random_unit());
        let head = self.head(run.message);
        let ended = Ended {
            attempts: self.messages[run.message].attempts,
            started: Timestamp::from_millis(run.started),
            took: Duration::from_millis(self.mono - run.claimed),
            now: self.now(),
        };
        let course = Terms::of(&self.config, &head).after_failure(&ended, random);
        let m = &mut self.messages[run.message];
        let destination = m.destination;
        let down = self.down.contains(&destination);
        let next = match course {
            Course::Again(next) if (outcome >= 4 || down) && !m.dropped => Some(next),
            _ => None,
        };
        let feedback = match outcome {
            9 => None, // our own fault
            _ => Some(Feedback {
                reached_mail: !down,
                strike: down.then(|| "down".to_owned()),
                broken: None,
                dialled: run.dialled,
                kept: outcome % 2 == 0 && !down,
                push_back: (outcome == 8 || down).then(|| PushBack {
                    text: "421 too many".to_owned(),
                    unreached: down,
                }),
            }),
        };
        m.state = if next.is_some() {
            State::Queued
        } else {
            State::Final
        };
        if let Some(next) = next {
            m.due = next.millis();
            m.last = Some(self.wall);
            self.due_at(destination, next);
        }
        self.running.remove(at);
        let spent = Spent {
            message: feedback.as_ref().is_some_and(|f| f.reached_mail),
            dialled: run.dialled,
            kept: feedback.as_ref().is_some_and(|f| f.kept),
        };
        if spent.kept {
            *self.kept.entry(self.hosts(destination)).or_default() += 1;
        }
        if spent.message {
            let hosts = self.hosts(destination);
            self.sent.entry(hosts).or_default().push(run.counted);
        }
        let counted = run.home.clone().map(|home| (home, Some(spent)));
        self.give_slot_back(destination, feedback, counted);
    }

    // Everybody else.

    /// `wake(Wake::Due)`.
    fn due_at(&mut self, destination: usize, at: Timestamp) {
        let now = self.now();
        self.schedule.due(&key(destination), at, now);
        self.poke();
    }

    /// Rings the bell if the dispatcher would be rung.
    fn poke(&mut self) {
        if let Some((until, _)) = self.asleep
            && self.schedule.has_reason_to_wake(until)
        {
            self.drive();
        }
    }

    /// Puts a message into the store that nobody tells of.
    fn submit_quietly(&mut self, destination: usize) {
        self.messages.push(Message {
            destination,
            state: State::Queued,
            due: self.wall,
            attempts: 0,
            arrived: self.wall,
            last: None,
            wanted: false,
            dropped: false,
        });
    }

    fn submit(&mut self, destination: usize, delay: u32) {
        let now = self.now();
        self.submit_quietly(destination);
        if let Some(m) = self.messages.last_mut() {
            m.due += i64::from(delay);
            m.wanted = delay > 0;
        }
        let message = self.messages.len() - 1;
        if delay == 0 && self.schedule.reserve(&key(destination), now) {
            let home = self.schedule.count(&key(destination), None, now).flatten();
            self.claim(message, home);
        } else {
            let due = Timestamp::from_millis(self.messages[message].due);
            self.due_at(destination, due);
        }
        self.check_limits();
    }

    fn apply(&mut self, event: &Event) {
        let now = self.now();
        let all = self.messages.len().max(1);
        match *event {
            Event::Submit(destination, count, delay) => {
                for _ in 0..count {
                    self.submit(destination % self.destinations, delay);
                }
            }
            Event::Kick(destination, delay) => {
                let destination = destination % self.destinations;
                let at = self.wall + i64::from(delay);
                for m in &mut self.messages {
                    if m.destination == destination && m.state == State::Queued {
                        m.due = at;
                        m.wanted = true;
                    }
                }
                let (at, now) = (Timestamp::from_millis(at), self.now());
                self.schedule.kick(&key(destination), at, now);
                self.poke();
            }
            Event::Hold(message) => {
                if let Some(m) = self.messages.get_mut(message % all)
                    && m.state == State::Queued
                {
                    m.state = State::Held;
                }
            }
            Event::Release(message) => self.release(message % all),
            Event::Drop(message) => {
                if let Some(m) = self.messages.get_mut(message % all) {
                    m.dropped = true;
                    if matches!(m.state, State::Queued | State::Held) {
                        m.state = State::Final;
                    }
                }
            }
            Event::Pause(destination, lasts) => {
                let scope = match destination {
                    None => PauseScope::All,
                    Some(d) => PauseScope::Domain(key(d % self.destinations).to_string()),
                };
                let until = (lasts > 0).then(|| now.plus(Duration::from_millis(lasts.into())));
                let pause = Pause {
                    since: now,
                    until,
                    reason: String::new(),
                };
                self.pauses.retain(|(other, _)| *other != scope);
                self.pauses.push((scope, pause));
                self.schedule.reload();
                self.poke();
            }
            Event::Resume => {
                self.pauses.clear();
                self.schedule.reload();
                self.poke();
            }
            Event::Astray(secs, millis) => {
                self.stepped = true;
                self.wall += i64::from(secs) * 1000;
                self.advance(millis.into());
                self.wall -= i64::from(secs) * 1000;
            }
            Event::Step(secs) => {
                self.stepped = true;
                self.wall = (self.wall + i64::from(secs) * 1000).max(0);
            }
            Event::Fault(count) => self.faults = count,
            Event::Advance(millis) => self.advance(millis.into()),
            Event::Lifetime(minutes) => {
                let mut config = Config::clone(&self.config);
                config.retry.lifetime = Span(Duration::from_secs(60 * u64::from(minutes)));
                self.config = Arc::new(config);
                self.schedule.reload();
                self.poke();
            }
            Event::Down(destination) => {
                self.down.insert(destination % self.destinations);
                self.was_down = true;
            }
            Event::Up(destination) => {
                self.down.remove(&(destination % self.destinations));
            }
        }
    }

    fn release(&mut self, message: usize) {
        let Some(m) = self.messages.get_mut(message) else {
            return;
        };
        if m.state == State::Held {
            m.state = State::Queued;
            let (destination, due) = (m.destination, Timestamp::from_millis(m.due));
            self.due_at(destination, due);
        }
    }

    /// When something happens by itself.
    fn next_happening(&self) -> Option<u64> {
        let timer = self.asleep.and_then(|(_, timer)| timer);
        let ends = self.running.iter().map(|run| run.ends);
        let ends = ends.min().filter(|at| *at < u64::MAX);
        timer.into_iter().chain(ends).min()
    }

    fn advance(&mut self, by: u64) {
        let target = self.mono + by;
        while let Some(at) = self.next_happening().filter(|at| *at <= target) {
            self.set_mono(at);
            let ended = self.running.iter().position(|run| run.ends <= at);
            match ended {
                Some(run) => self.end(run),
                None => self.drive(),
            }
            self.check_limits();
        }
        self.set_mono(target);
    }

    fn set_mono(&mut self, at: u64) {
        self.wall += (at - self.mono) as i64;
        self.mono = at;
    }

    /// Operators lift what they set; then time passes until all is final (RT-12).
    fn finish(&mut self) {
        self.faults = 0;
        self.apply(&Event::Resume);
        for message in 0..self.messages.len() {
            self.release(message);
        }
        for _ in 0..1_000_000 {
            let Some(at) = self.next_happening() else {
                break;
            };
            self.advance(at - self.mono);
        }
        let open = self.messages.iter().find(|m| m.state != State::Final);
        assert!(open.is_none(), "never ends: {open:?}");
        assert_eq!(self.schedule.load().0, 0, "slots were lost");
        assert_eq!(self.schedule.active().count(), 0, "something is remembered");
        self.check_rates();
        let before = self.queries;
        self.advance(86_400_000);
        assert_eq!(self.queries, before, "an idle schedule reads nothing");
    }

    // The promises.

    fn in_flight(&self, destination: usize) -> usize {
        let to = |run: &&Running| self.messages[run.message].destination == destination;
        self.running.iter().filter(to).count()
    }

    /// Those of all that share its window.
    fn in_flight_at_home(&self, destination: usize) -> usize {
        let home = self.schedule.home_of(&key(destination));
        let to = |run: &&Running| {
            self.schedule
                .home_of(&key(self.messages[run.message].destination))
                == home
        };
        self.running.iter().filter(to).count()
    }

    fn check_limits(&self) {
        let (in_flight, workers) = self.schedule.load();
        assert!(in_flight <= workers, "SC-1: {in_flight} of {workers}");
        let mut count: HashMap<usize, usize> = HashMap::new();
        for run in &self.running {
            *count
                .entry(self.messages[run.message].destination)
                .or_default() += 1;
        }
        // As much again may be claimed ahead; what runs is bounded where it is handed out.
        let most = (2 * self.config.limits.connections).min(half(workers));
        assert!(count.values().all(|n| *n <= most), "SC-3: {count:?}");
        let mut connected: HashMap<DestinationKey, usize> = HashMap::new();
        for run in &self.running {
            let destination = self.messages[run.message].destination;
            // What is dead has its own rules, and comes back with what it has.
            if run.stage == Stage::Connected && !self.was_down {
                let home = self.schedule.home_of(&key(destination));
                *connected.entry(home).or_default() += 1;
            }
        }
        let most = self.config.limits.connections;
        assert!(connected.values().all(|n| *n <= most), "{connected:?}");
    }

    /// SC-8: as many at once as the rate says, and as many again in each of its times.
    fn check_rates(&self) {
        if self.stepped {
            return;
        }
        let interval = self.config.limits.dial_interval.get().as_millis() as i64;
        for dials in self.dials.values() {
            assert!(dials.windows(2).all(|two| two[1] - two[0] >= interval));
        }
        let Some(rate) = self.config.limits.rate.0 else {
            return;
        };
        let per = rate.per.get().as_millis() as i64;
        for sent in self.sent.values() {
            let mut sent = sent.clone();
            sent.sort_unstable();
            for (first, from) in sent.iter().enumerate() {
                for (last, to) in sent.iter().enumerate().skip(first) {
                    let most = rate.count as i64 * (per + to - from) / per;
                    assert!(last - first < most as usize, "{sent:?} {rate}");
                }
            }
        }
    }

    /// RT-9: whatever the clock did, nobody waits longer than the longest interval, unless that was asked for.
    fn check_waits(&self) {
        let retry = &self.config.retry;
        let longest = longest_wait(&retry.intervals, retry.jitter);
        let latest = self.now().plus(longest).millis();
        let waits = |m: &&Message| m.state == State::Queued && !m.wanted;
        let late = self.messages.iter().filter(waits).find(|m| m.due > latest);
        assert!(late.is_none(), "at {}: {late:?}", self.wall);
    }

    /// SC-2: while the dispatcher sleeps nobody has due mail and room.
    fn check_that_nobody_could_go(&self) {
        let (in_flight, workers) = self.schedule.load();
        if in_flight >= workers || self.schedule.is_backing_off() {
            return;
        }
        assert_eq!(in_flight, self.running.len(), "SC-11");
        let in_force = |pause: &Pause| pause.until.is_none_or(|until| until > self.now());
        let paused: HashSet<&PauseScope> = self
            .pauses
            .iter()
            .filter(|(_, pause)| in_force(pause))
            .map(|(scope, _)| scope)
            .collect();
        if paused.contains(&PauseScope::All) {
            return;
        }
        for (destination, due) in self.earliest() {
            let standing = Standing {
                workers,
                busy: in_flight,
                in_flight: self.in_flight_at_home(destination),
                window: self.schedule.window_of(&key(destination)),
            };
            let own = PauseScope::Domain(key(destination).to_string());
            let limit = self.schedule.limit(&key(destination), self.now());
            if let Some((why, until)) = limit.filter(|_| due <= self.wall)
                && !why.starts_with("connections")
            {
                // SC-8: it is known until when, or somebody is under way who will tell.
                let soon = until.is_some_and(|until| until > self.now());
                let hosts = |destination| self.hosts(destination);
                let mut running = self
                    .running
                    .iter()
                    .map(|run| self.messages[run.message].destination);
                let one = running.any(|other| hosts(other) == hosts(destination));
                assert!(soon || one, "{why} {until:?}");
                continue;
            }
            if due <= self.wall
                && !paused.contains(&own)
                && let Some(dead) = self.schedule.dead().get(&key(destination))
            {
                // SC-7: one is on its way, or it is known when, and that is soon.
                let latest = self.now().plus(self.config.retry.intervals[0].get());
                let soon = |at: Timestamp| at > self.now() && at <= latest;
                let on_its_way = self.in_flight(destination) > 0 || self.schedule.is_full();
                assert!(dead.probe.map_or(on_its_way, soon), "{dead:?}");
                continue;
            }
            assert!(
                due > self.wall || room(&standing) == 0 || paused.contains(&own),
                "destination {destination} could go: {standing:?}"
            );
        }
    }

    /// Who waits without a slot. A pause ends a wait: who comes back after it stands behind the others, and may do so before
    /// anybody is served.
    fn see_who_waits(&mut self) -> BTreeSet<DestinationKey> {
        let waits = |active: &Active<'_>| active.waits && active.together == 0;
        let homes = self.schedule.active().filter(waits);
        let waiting: BTreeSet<DestinationKey> = homes.map(|active| active.home.clone()).collect();
        self.passed.retain(|waits, _| waiting.contains(waits));
        waiting
    }

    /// SC-2: who waits without a slot sees each other destination go before at most twice: once ahead in the line, and
    /// once because it was being served when the wait began.
    fn check_turns(&mut self, picks: &[Pick]) {
        let limits = &self.config.limits;
        if limits.rate.0.is_some() || !limits.dial_interval.get().is_zero() {
            return; // who has to wait for its rate loses its place
        }
        let picked: Vec<usize> = picks.iter().map(|pick| number(&pick.key)).collect();
        let unique: BTreeSet<usize> = picked.iter().copied().collect();
        assert_eq!(unique.len(), picked.len(), "one turn each");
        let waiting = self.see_who_waits();
        let picked: BTreeSet<DestinationKey> = picks
            .iter()
            .map(|pick| self.schedule.home_of(&pick.key))
            .collect();
        for waits in waiting {
            let passed = self.passed.entry(waits.clone()).or_default();
            for other in picked.iter().filter(|other| **other != waits) {
                let times = passed.entry(other.clone()).or_default();
                *times += 1;
                assert!(*times <= 2, "{other} goes before {waits} again and again");
            }
        }
    }
}

fn key(destination: usize) -> DestinationKey {
    DestinationKey(format!("d{destination}.example").into())
}

fn number(key: &DestinationKey) -> usize {
    let digits = key.0.trim_start_matches('d').trim_end_matches(".example");
    digits.parse().unwrap()
}
