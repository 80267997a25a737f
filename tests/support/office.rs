//! A queue with its dispatcher, and the test as the only worker: it takes transactions and says what becomes of them.

#![allow(clippy::unwrap_used)] // a test that cannot set up its queue has failed

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::config::{Config, Live, Relay, RelayHost, Transport, TransportKind};
use posthaste::dispatch::{Dispatcher, Feedback, Transaction, Wake};
use posthaste::feed::Taker;
use posthaste::message::QueueId;
use posthaste::policy::failure::Verdict;
use posthaste::policy::retry::{Course, Ended, Terms};
use posthaste::smtp::address::Domain;
use posthaste::store::{
    DueRecipient, Filter, ListQuery, NewRow, Outcome, RecipientRow, Recovery, Settlement, Sort,
    State, Store,
};

use super::queue::{Queue, attempt, message, row};

/// How long a test waits for what must come before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Office {
    pub queue: Queue,
    pub live: Live,
    pub dispatcher: Dispatcher,
    pub out: Taker<Transaction>,
    workers: usize,
}

/// No jitter, so that times can be told in advance.
pub fn config() -> Config {
    let mut config = Config::default_for(Domain::parse("here.example").unwrap());
    config.retry.jitter = 0.0;
    config
}

/// A relay transport.
pub fn relay(name: &str) -> Transport {
    let host = RelayHost::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Transport {
        name: name.to_owned(),
        kind: TransportKind::Relay(Arc::new(Relay::plain(vec![(host, 2525)]))),
        line: None,
        retry: None,
        limits: Default::default(),
    }
}

impl Office {
    pub fn open(workers: usize) -> Office {
        Office::over(Queue::new(), config(), workers)
    }

    pub fn over(queue: Queue, config: Config, workers: usize) -> Office {
        let live = Live::new(config);
        let (dispatcher, out) = Dispatcher::start(
            queue.store.clone(),
            live.clone(),
            queue.clock.clone(),
            workers,
            Arc::new(|reason: &str| panic!("{reason}")),
        )
        .unwrap();
        Office {
            queue,
            live,
            dispatcher,
            out,
            workers,
        }
    }

    pub fn now(&self) -> Timestamp {
        self.queue.clock.now()
    }

    /// A normal stop; the queue stays.
    pub fn close(self) -> (Queue, Config) {
        self.dispatcher.stop();
        (self.queue, (*self.live.get()).clone())
    }

    /// A normal stop and a new start on the same queue, after `down`.
    pub fn restart(self, down: Duration) -> Office {
        let workers = self.workers;
        let (mut queue, config) = self.close();
        queue.store.close();
        queue.clock.advance(down);
        let (store, _) = Store::open(&queue.settings, &queue.clock).unwrap();
        queue.store = store;
        Office::over(queue, config, workers)
    }

    /// The end of the process without a word, and a new start.
    pub fn crash(self) -> (Office, Recovery) {
        let workers = self.workers;
        let (queue, config) = self.close();
        let (queue, recovery) = queue.crash();
        (Office::over(queue, config, workers), recovery)
    }

    /// Puts another configuration in force, as a reload does.
    pub fn reconfigure(&self, change: impl FnOnce(&mut Config)) {
        let mut config = (*self.live.get()).clone();
        change(&mut config);
        self.live.set(config);
        self.dispatcher.wake(Wake::Everything);
    }

    /// Queues a message, each recipient due now in its domain's group, and tells the dispatcher.
    pub fn send(&self, recipients: &[&str]) -> QueueId {
        let rows = recipients.iter().map(|to| row(to, self.now())).collect();
        self.send_rows(rows, 0)
    }

    pub fn send_rows(&self, rows: Vec<NewRow>, priority: i8) -> QueueId {
        let id = self.queue.store.allocate_id().unwrap();
        let mut due: Vec<_> = rows
            .iter()
            .map(|row| (row.destination.clone(), row.due))
            .collect();
        due.dedup();
        let mut new = message(id, self.now(), rows);
        Arc::get_mut(&mut new.head).unwrap().priority = priority;
        self.queue.store.enqueue(new).unwrap();
        for (destination, at) in due {
            self.dispatcher.wake(Wake::Due(destination, at));
        }
        id
    }

    /// The next transaction.
    pub fn take(&self) -> Transaction {
        self.out
            .recv_timeout(PATIENCE)
            .expect("a transaction must come")
    }

    /// The next transaction, which must be for this message.
    pub fn take_of(&self, id: QueueId) -> Transaction {
        let transaction = self.take();
        assert_eq!(transaction.head.id, id, "{:?}", transaction.recipients);
        transaction
    }

    /// Shows that nothing else is due: what follows comes first. One marker makes the dispatcher look at everything
    /// that is due; what it finds besides comes before the second.
    pub fn expect_nothing(&self) {
        for marker in ["one@marker.example", "two@marker.example"] {
            let id = self.send(&[marker]);
            let transaction = self.take_of(id);
            self.settle(transaction, |_| Verdict::Delivered);
        }
    }

    /// The same, but what else is due goes to `other`.
    pub fn expect_nothing_but(&self, mut other: impl FnMut(Transaction)) {
        for marker in ["one@marker.example", "two@marker.example"] {
            let id = self.send(&[marker]);
            loop {
                let transaction = self.take();
                if transaction.head.id == id {
                    break self.settle(transaction, |_| Verdict::Delivered);
                }
                other(transaction);
            }
        }
    }

    pub fn deliver(&self, transaction: Transaction) {
        self.settle(transaction, |_| Verdict::Delivered);
    }

    /// A temporary failure; when the recipients are due again, or how they end.
    pub fn fail(&self, transaction: Transaction) -> Verdict {
        self.fail_with(transaction, Feedback::default())
    }

    /// The same before MAIL, by the destination's fault (SC-7).
    pub fn refuse(&self, transaction: Transaction) -> Verdict {
        let feedback = Feedback {
            strike: Some("connection refused".to_owned()),
            ..Feedback::default()
        };
        self.fail_with(transaction, feedback)
    }

    fn fail_with(&self, transaction: Transaction, feedback: Feedback) -> Verdict {
        let config = self.live.get();
        let terms = Terms::by(&config, &transaction.head, &transaction.transport);
        let first = &transaction.recipients[0];
        let ended = Ended {
            attempts: first.attempts + 1,
            started: transaction.claimed_at,
            took: Duration::from_millis(50),
            now: self.now(),
        };
        let verdict = match terms.after_failure(&ended, 0.5) {
            Course::Again(next) => Verdict::Deferred { next },
            Course::Expired => Verdict::Expired,
            Course::Exhausted => Verdict::Failed,
        };
        self.settle_with(transaction, |_| verdict, feedback);
        verdict
    }

    /// A temporary failure that is not the last; when it is due again.
    pub fn defer(&self, transaction: Transaction) -> Timestamp {
        match self.fail(transaction) {
            Verdict::Deferred { next } => next,
            end => panic!("final: {end:?}"),
        }
    }

    pub fn settle(&self, transaction: Transaction, verdict: impl Fn(&RecipientRow) -> Verdict) {
        self.settle_with(transaction, verdict, Feedback::default());
    }

    /// A session got as far as MAIL, and further.
    pub fn reach(&self, transaction: Transaction) {
        let feedback = Feedback {
            reached_mail: true,
            ..Feedback::default()
        };
        self.settle_with(transaction, |_| Verdict::Delivered, feedback);
    }

    fn settle_with(
        &self,
        transaction: Transaction,
        verdict: impl Fn(&RecipientRow) -> Verdict,
        feedback: Feedback,
    ) {
        let outcome = |row: &RecipientRow| Outcome {
            number: row.id.number,
            verdict: verdict(row),
            destination: transaction.destination.clone(),
            attempt: attempt(verdict(row), transaction.claimed_at),
            poison: false,
            delay_due: None,
            unconfirmed: false,
        };
        let outcomes: Vec<Outcome> = transaction.recipients.iter().map(outcome).collect();
        let nexts: Vec<Timestamp> = outcomes
            .iter()
            .filter_map(|outcome| match outcome.verdict {
                Verdict::Deferred { next } => Some(next),
                _ => None,
            })
            .collect();
        let id = transaction.head.id;
        self.queue
            .store
            .settle(Settlement { id, outcomes })
            .unwrap();
        if let Some(next) = nexts.into_iter().min() {
            let destination = transaction.destination.clone();
            self.dispatcher.wake(Wake::Due(destination, next));
        }
        transaction.permit.finish(feedback);
    }

    /// All recipients of a message.
    pub fn rows(&self, id: QueueId) -> Vec<RecipientRow> {
        self.queue.store.show(id).unwrap().unwrap().recipients
    }

    pub fn state(&self, id: QueueId) -> State {
        self.rows(id)[0].state
    }

    /// A queued message's first recipient, as a listing sees it.
    pub fn listed(&self, id: QueueId) -> DueRecipient {
        let query = ListQuery {
            filter: Filter {
                ids: vec![(id, None)],
                ..Filter::default()
            },
            sort: Sort::Next,
            descending: false,
            limit: 1,
            cursor: None,
        };
        let page = self.queue.store.list(&query).unwrap();
        page.rows.into_iter().next().expect("it is in the queue")
    }
}
