//! A property: whatever happens to mail, every recipient ends, and every sender is told what NOTIFY asked for and nothing
//! else. The queue, its clock and the teller are the real ones; the test plays the peers, the operator and the crashes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::config::{Config, Live};
use posthaste::front::notices::Teller;
use posthaste::message::{Notify, QueueId};
use posthaste::policy::failure::Verdict;
use posthaste::policy::notice::next_delay_of;
use posthaste::policy::retry::{Course, Ended, Terms};
use posthaste::smtp::address::ReversePath;
use posthaste::store::{
    Actor, Change, ClaimAction, ClaimRequest, Filter, NewClaim, RecipientRow, Settlement, State,
};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use crate::support::office::config;
use crate::support::queue::{Queue, message, row, settlement, start};

const RECIPIENTS: u32 = 2;

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Confirmed,
    Unconfirmed,
    Refused,
    Later,
    /// The process dies during it.
    Crash,
    /// It is given back: no attempt was made.
    NotMade,
}

#[derive(Clone, Debug)]
enum Event {
    /// NOTIFY of the recipients, whether there is somebody to tell, and whether the first attempt begins at once.
    Submit([u8; RECIPIENTS as usize], bool, bool),
    Attempt(prop::sample::Index, End),
    Operator(prop::sample::Index, u8),
    /// Minutes.
    Clock(i64),
    Tell,
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let end = prop_oneof![
        1 => Just(End::Confirmed),
        1 => Just(End::Unconfirmed),
        1 => Just(End::Refused),
        4 => Just(End::Later),
        1 => Just(End::Crash),
        1 => Just(End::NotMade),
    ];
    let index = any::<prop::sample::Index>;
    let event = prop_oneof![
        3 => (prop::array::uniform2(0..6_u8), prop::bool::weighted(0.8), any::<bool>())
            .prop_map(|(notify, from, claim)| Event::Submit(notify, from, claim)),
        6 => (index(), end).prop_map(|(at, end)| Event::Attempt(at, end)),
        2 => (index(), 0..5_u8).prop_map(|(at, verb)| Event::Operator(at, verb)),
        5 => (-400..2500_i64).prop_map(Event::Clock),
        3 => Just(Event::Tell),
        1 => Just(Event::Restart),
    ];
    prop::collection::vec(event, 5..40)
}

fn notify(code: u8) -> Notify {
    let words = |never, success, failure, delay| Notify {
        never,
        success,
        failure,
        delay,
        given: true,
    };
    match code {
        0 => Notify::default(),
        1 => words(true, false, false, false),
        2 => words(false, true, false, false),
        3 => words(false, false, true, false),
        4 => words(false, true, true, true),
        _ => words(false, false, false, true),
    }
}

/// What RFC 3461 §4.1 and RT-8 say of one recipient, reckoned apart from the daemon.
#[derive(Clone, Debug)]
struct Expected {
    notify: Notify,
    answerable: bool,
    arrived: Timestamp,
    told: Duration,
    delays: u32,
    unconfirmed: bool,
}

struct World {
    queue: Option<Queue>,
    config: Live,
    expected: BTreeMap<(QueueId, u32), Expected>,
}

impl World {
    fn new() -> World {
        let mut config: Config = config();
        config.dsn.per_sender.count = 1_000_000;
        World {
            queue: Some(Queue::new()),
            config: Live::new(config),
            expected: BTreeMap::new(),
        }
    }

    fn queue(&self) -> &Queue {
        self.queue.as_ref().expect("it is taken only in a restart")
    }

    fn now(&self) -> Timestamp {
        self.queue().clock.now()
    }

    fn row(&self, (id, number): (QueueId, u32)) -> RecipientRow {
        let shown = self.queue().store.show(id).unwrap().unwrap();
        shown.recipients[number as usize - 1].clone()
    }

    fn submit(&mut self, words: [u8; RECIPIENTS as usize], answerable: bool, claim: bool) {
        let (now, config) = (self.now(), self.config.get());
        let id = self.queue().store.allocate_id().unwrap();
        let mut new = message(id, now, Vec::new());
        let head = Arc::get_mut(&mut new.head).unwrap();
        if !answerable {
            head.reverse_path = ReversePath::Null;
        }
        for (number, code) in (1..).zip(words) {
            let mut row = row(&format!("u{number}@dest.example"), now);
            row.recipient.notify = notify(code);
            let terms = Terms::of(&config, &new.head);
            row.delay_due = next_delay_of(&terms, &new.head, Duration::ZERO);
            row.claim = claim.then_some(NewClaim { next_attempt: now });
            new.recipients.push(row);
            let expected = Expected {
                notify: notify(code),
                answerable,
                arrived: now,
                told: Duration::ZERO,
                delays: 0,
                unconfirmed: false,
            };
            self.expected.insert((id, number), expected);
        }
        self.queue().store.enqueue(new).unwrap();
        if claim {
            // The first attempts end at once; otherwise they would stand for a worker that hangs.
            for number in 1..=RECIPIENTS {
                self.outcome((id, number), End::Later);
            }
        }
    }

    fn attempt(&mut self, key: (QueueId, u32), end: End) {
        let row = self.row(key);
        if row.state != State::Queued {
            return;
        }
        let claim = ClaimRequest {
            id: key.0,
            numbers: vec![key.1],
            attempts: row.attempts,
            action: ClaimAction::Claim {
                next_attempt: self.now(),
                daily: None,
            },
        };
        self.queue().store.claim(vec![claim]).unwrap();
        self.outcome(key, end);
    }

    /// Ends the attempt of a claimed recipient as a worker would.
    fn outcome(&mut self, key: (QueueId, u32), end: End) {
        let now = self.now();
        let row = self.row(key);
        let shown = self.queue().store.show(key.0).unwrap().unwrap();
        let config = self.config.get();
        let terms = Terms::of(&config, &shown.head);
        let ended = Ended {
            attempts: row.attempts,
            started: now,
            took: Duration::ZERO,
            now,
        };
        let verdict = match end {
            End::Confirmed | End::Unconfirmed => Verdict::Delivered,
            End::Refused => Verdict::Failed,
            End::Later => match terms.after_failure(&ended, 0.5) {
                Course::Again(next) => Verdict::Deferred { next },
                Course::Expired => Verdict::Expired,
                Course::Exhausted => Verdict::Failed,
            },
            End::Crash => return self.restart(true),
            End::NotMade => {
                let store = &self.queue().store;
                store.unclaim(key.0, &[key.1], now, None).unwrap();
                return;
            }
        };
        let unconfirmed = matches!(end, End::Unconfirmed) && row.recipient.notify.success;
        let mut settlement: Settlement = settlement(key.0, key.1, verdict, now);
        settlement.outcomes[0].unconfirmed = unconfirmed;
        settlement.outcomes[0].delay_due = next_delay_of(&terms, &shown.head, row.delay_told);
        self.queue().store.settle(settlement).unwrap();
        self.expected.get_mut(&key).unwrap().unconfirmed = unconfirmed;
    }

    fn operate(&mut self, (id, number): (QueueId, u32), verb: u8) {
        let change = match verb {
            0 => Change::Hold {
                reason: "a look at it".into(),
            },
            1 => Change::Release,
            2 => Change::Drop { wait: false },
            3 => Change::Fail {
                text: "enough".into(),
                wait: false,
            },
            _ => Change::Kick { at: self.now() },
        };
        let filter = Filter {
            ids: vec![(id, Some(number))],
            ..Filter::default()
        };
        let store = &self.queue().store;
        store
            .change(&filter, &change, &Actor { uid: 0 }, false, &mut |_| ())
            .unwrap();
    }

    fn restart(&mut self, crash: bool) {
        let queue = self.queue.take().expect("it is taken only here");
        if !crash {
            queue.store.close();
        }
        self.queue = Some(queue.crash().0);
    }

    /// Lets the teller work, and reckons what delays it has to tell.
    fn tell(&mut self) {
        let teller = Teller {
            config: self.config.clone(),
            store: self.queue().store.clone(),
            clock: self.queue().clock.clone(),
            wake: Arc::new(|_| ()),
            blocker: Arc::new(|_| None),
        };
        let next = teller.tell_all_due().unwrap();
        let now = self.now();
        assert!(next.is_none_or(|next| next > now));
        let hour = Duration::from_secs(3600);
        let lifetime = 120 * hour;
        for key in self.expected.keys().copied().collect::<Vec<_>>() {
            let row = self.row(key);
            let expected = self.expected.get_mut(&key).unwrap();
            let age = now.since(expected.arrived);
            if row.state.is_final() || age >= lifetime || now < expected.arrived {
                continue;
            }
            let reached = [4, 24, 72].map(|age| age * hour).into_iter();
            let reached = reached.filter(|at| *at <= age && *at > expected.told).max();
            if let Some(reached) = reached {
                expected.told = reached;
                let wanted = expected.answerable && expected.notify.delay;
                expected.delays += u32::from(wanted && row.state != State::Held);
            }
        }
    }

    fn play(&mut self, event: &Event) {
        let keys: Vec<(QueueId, u32)> = self.expected.keys().copied().collect();
        match event {
            Event::Submit(notify, from, claim) => self.submit(*notify, *from, *claim),
            Event::Attempt(at, end) if !keys.is_empty() => self.attempt(*at.get(&keys), *end),
            Event::Operator(at, verb) if !keys.is_empty() => self.operate(*at.get(&keys), *verb),
            Event::Clock(minutes) => {
                let step = Duration::from_secs(60 * minutes.unsigned_abs());
                let now = self.now();
                let to = if *minutes < 0 {
                    now.minus(step)
                } else {
                    now.plus(step)
                };
                self.queue().clock.set(to.max(start()));
                self.tell();
            }
            Event::Tell => self.tell(),
            Event::Restart => self.restart(false),
            Event::Attempt(..) | Event::Operator(..) => {}
        }
    }

    /// Time passes and peers answer "later" until nothing is left.
    fn end(&mut self) {
        for key in self.expected.keys().copied().collect::<Vec<_>>() {
            self.operate(key, 1);
        }
        self.queue().clock.advance(Duration::from_secs(130 * 3600));
        self.tell();
        for key in self.expected.keys().copied().collect::<Vec<_>>() {
            self.attempt(key, End::Later);
            let state = self.row(key).state;
            assert!(state.is_final(), "{key:?} ends as {state:?}");
        }
        self.queue().clock.advance(Duration::from_secs(60));
        self.tell();
    }

    /// Action and `ID/N` of every block of every notification in the queue.
    fn told(&self) -> Vec<(String, String)> {
        let mut told = Vec::new();
        let last = self.queue().store.allocate_id().unwrap().get();
        for id in (1..last).filter_map(QueueId::new) {
            let Some(shown) = self.queue().store.show(id).unwrap() else {
                continue;
            };
            if shown.head.caller != "dsn" {
                continue;
            }
            assert_eq!(shown.head.reverse_path, ReversePath::Null);
            let mut content = self.queue().store.content(id).unwrap();
            let mut octets = Vec::new();
            while let Some(chunk) = content.next_chunk().unwrap() {
                octets.extend_from_slice(&chunk);
            }
            let text = String::from_utf8(octets).unwrap();
            let mut action = String::new();
            for line in text.lines() {
                if let Some(word) = line.strip_prefix("Action: ") {
                    word.clone_into(&mut action);
                } else if let Some(id) = line.strip_prefix("Final-Log-ID: ") {
                    told.push((id.to_owned(), action.clone()));
                }
            }
        }
        told
    }

    fn check(&self) {
        let mut told: BTreeMap<(String, String), u32> = BTreeMap::new();
        for block in self.told() {
            *told.entry(block).or_default() += 1;
        }
        for (key, expected) in &self.expected {
            let state = self.row(*key).state;
            let failed = matches!(state, State::Failed | State::Expired);
            let relayed = state == State::Delivered && expected.unconfirmed;
            let asked = |asked: bool| u32::from(asked && expected.answerable);
            let wanted = [
                ("failed", asked(failed && expected.notify.failure)),
                ("relayed", asked(relayed && expected.notify.success)),
                ("delayed", expected.delays),
            ];
            for (action, wanted) in wanted {
                let block = (format!("{}/{}", key.0, key.1), action.to_owned());
                let found = told.remove(&block).unwrap_or(0);
                assert_eq!(found, wanted, "{action} {key:?} {state:?} {expected:?}");
            }
        }
        assert!(told.is_empty(), "told of what nobody asked for: {told:?}");
    }
}

// RT-12, DSN-1, DSN-2, DSN-13, RT-8, RT-9
#[test]
fn every_recipient_ends_and_every_sender_is_told_what_notify_asked_for() {
    let config = ProptestConfig {
        // Each step is a commit on disk.
        cases: 8,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng)
        .run(&events(), |events| {
            let mut world = World::new();
            for event in &events {
                world.play(event);
            }
            world.end();
            world.check();
            Ok(())
        })
        .unwrap();
}
