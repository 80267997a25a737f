//! Workers in this process with a real queue, a name server and scripted MX hosts; transactions are claimed and handed
//! to them by hand.

#![allow(clippy::unwrap_used)] // a test that cannot set up its workers has failed

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use posthaste::clock::Timestamp;
use posthaste::config::{Config, Live, Relay, Span, Transport, TransportKind};
use posthaste::delivery::{TlsSeams, Tools, Workers};
use posthaste::dispatch::{Permit, Transaction, Wake};
use posthaste::feed::{Giver, feed};
use posthaste::message::{Head, QueueId};
use posthaste::net::Network;
use posthaste::net::deadline::Deadline;
use posthaste::policy::failure::Attempt;
use posthaste::smtp::address::Domain;
use posthaste::store::{
    ClaimAction, ClaimRequest, Doubt, NewContent, NewMessage, RecipientRow, State,
};

use crate::support::dns::DnsServer;
use crate::support::mx::{Mx, PATIENCE, Script};
use crate::support::queue::{Queue, head, key, row};

pub const CONTENT: &[u8] = b"Subject: test\r\n\r\nbody\r\n";

/// The workers and what they work with.
pub struct Bench {
    pub queue: Queue,
    pub dns: DnsServer,
    pub live: Live,
    pub wakes: Receiver<Wake>,
    sender: Option<Giver<Transaction>>,
    workers: Option<Workers>,
    pub transport: String,
}

type EditRows = dyn FnOnce(&mut Vec<RecipientRow>);

/// A message to be delivered.
pub struct Letter {
    to: Vec<String>,
    content: Vec<u8>,
    edit: Box<dyn FnOnce(&mut Head)>,
    edit_rows: Box<EditRows>,
    warm: bool,
}

pub fn letter(to: &[&str]) -> Letter {
    Letter {
        to: to.iter().map(|to| (*to).to_string()).collect(),
        content: CONTENT.to_vec(),
        edit: Box::new(|_| {}),
        edit_rows: Box::new(|_| {}),
        warm: false,
    }
}

impl Letter {
    pub fn content(mut self, content: &[u8]) -> Letter {
        self.content = content.to_vec();
        self
    }

    pub fn head(mut self, edit: impl FnOnce(&mut Head) + 'static) -> Letter {
        self.edit = Box::new(edit);
        self
    }

    pub fn rows(mut self, edit: impl FnOnce(&mut Vec<RecipientRow>) + 'static) -> Letter {
        self.edit_rows = Box::new(edit);
        self
    }

    /// The content is handed over in memory.
    pub fn warm(mut self) -> Letter {
        self.warm = true;
        self
    }
}

/// Hosts on 127.0.0.1, 127.0.0.2 and so on, all at one port.
pub fn hosts(scripts: Vec<Script>) -> Vec<Mx> {
    let mut hosts: Vec<Mx> = Vec::new();
    for (n, script) in scripts.into_iter().enumerate() {
        let port = hosts.first().map_or(0, Mx::port);
        let ip = Ipv4Addr::new(127, 0, 0, 1 + n as u8);
        hosts.push(Mx::start_at(SocketAddr::from((ip, port)), script));
    }
    hosts
}

impl Bench {
    /// One worker; `dest.test` has these hosts in this order of preference.
    pub fn new(hosts: &[&Mx]) -> Bench {
        Bench::with(hosts, |_| {})
    }

    /// With one connection. Without that limit the worker dials for the next message while the session of the one before it
    /// waits for the commit.
    pub fn of_one_connection(hosts: &[&Mx]) -> Bench {
        Bench::with(hosts, |config| config.limits.connections = 1)
    }

    /// The same with a configuration of its own.
    pub fn with(hosts: &[&Mx], change: impl FnOnce(&mut Config)) -> Bench {
        Bench::with_tls(hosts, TlsSeams::default(), change)
    }

    /// The same with somebody who knows of MTA-STS and takes reports.
    pub fn with_tls(hosts: &[&Mx], tls: TlsSeams, change: impl FnOnce(&mut Config)) -> Bench {
        let queue = Queue::new();
        let dns = DnsServer::start();
        for (n, host) in hosts.iter().enumerate() {
            let name = format!("mx{}.dest.test", n + 1);
            dns.mx("dest.test", 10 * (n as u16 + 1), &name);
            dns.a(&name, &host.address().ip().to_string());
        }
        let mut config = Config::default_for(Domain::parse("here.test").unwrap());
        config.listen.clear();
        config.dns.servers = vec![dns.addr()];
        config.deliver.allow_private = true;
        if let Some(host) = hosts.first() {
            config.deliver.smtp_port = host.port();
        }
        config.retry.jitter = 0.0;
        change(&mut config);
        let live = Live::new(config);
        let (sender, receiver) = feed(100);
        let (wake, wakes) = unbounded();
        let tools = Tools {
            store: queue.store.clone(),
            live: live.clone(),
            clock: queue.clock.clone(),
            network: Network::new(live.clone(), queue.clock.clone()),
            tls,
            wake: Arc::new(move |what| wake.send(what).unwrap()),
        };
        let workers = Workers::start(1, tools, receiver).unwrap();
        Bench {
            queue,
            dns,
            live,
            wakes,
            sender: Some(sender),
            workers: Some(workers),
            transport: "direct".to_string(),
        }
    }

    /// Everything goes through a relay transport with these hosts.
    pub fn relay(hosts: &[&Mx], change: impl FnOnce(&mut Config)) -> Bench {
        let servers = hosts
            .iter()
            .map(|host| {
                let address = host.address();
                (
                    posthaste::config::RelayHost::Ip(address.ip()),
                    address.port(),
                )
            })
            .collect();
        let mut bench = Bench::with(&[], |config| {
            config.transport.push(Transport {
                name: "smart".to_string(),
                kind: TransportKind::Relay(Arc::new(Relay::plain(servers))),
                line: None,
                retry: None,
                limits: Default::default(),
            });
            change(config);
        });
        bench.transport = "smart".to_string();
        bench
    }

    pub fn workers(&self) -> &Workers {
        self.workers.as_ref().unwrap()
    }

    /// Queues, claims and hands it to the worker.
    pub fn send(&self, letter: Letter) -> QueueId {
        let store = &self.queue.store;
        let now = self.queue.clock.now();
        let id = store.allocate_id().unwrap();
        let mut head = head(id, now);
        head.reverse_path =
            posthaste::smtp::address::ReversePath::parse("joe@here.test", false).unwrap();
        head.size = (head.added_header.len() + letter.content.len()) as u64;
        (letter.edit)(&mut head);
        let head = Arc::new(head);
        let content: Arc<Vec<u8>> = Arc::new(letter.content);
        let group = "bench";
        let recipients = letter
            .to
            .iter()
            .map(|to| {
                let mut row = row(to, now);
                row.destination = key(group);
                row
            })
            .collect();
        store
            .enqueue(NewMessage {
                head: Arc::clone(&head),
                content: NewContent::Inline(Arc::clone(&content)),
                recipients,
                exempt_from_limits: false,
            })
            .unwrap();
        self.claim(id, letter.warm.then_some(content), letter.edit_rows);
        id
    }

    /// Claims what is queued of a message and hands it to the worker.
    pub fn claim(
        &self,
        id: QueueId,
        content: Option<Arc<Vec<u8>>>,
        edit: impl FnOnce(&mut Vec<RecipientRow>),
    ) {
        let store = &self.queue.store;
        let now = self.queue.clock.now();
        let shown = store.show(id).unwrap().unwrap();
        let mut rows: Vec<RecipientRow> = shown
            .recipients
            .into_iter()
            .filter(|row| row.state == State::Queued)
            .collect();
        let claimed = store
            .claim(vec![ClaimRequest {
                id,
                numbers: rows.iter().map(|row| row.id.number).collect(),
                attempts: rows[0].attempts,
                action: ClaimAction::Claim {
                    next_attempt: now.plus(Duration::from_secs(450)),
                    daily: None,
                },
            }])
            .unwrap();
        assert_eq!(claimed[0].numbers.len(), rows.len());
        edit(&mut rows);
        let transaction = Transaction {
            head: shown.head,
            destination: rows[0].destination.clone(),
            recipients: rows,
            transport: self.transport.clone(),
            content,
            over: None,
            claimed_at: now,
            permit: Permit::detached(),
        };
        self.sender.as_ref().unwrap().try_send(transaction).unwrap();
    }

    /// Waits until so many sessions are idle in the pool.
    pub fn wait_for_idle(&self, count: usize) {
        let deadline = Deadline::after(PATIENCE);
        while self.workers().pools().idle() != count {
            assert!(!deadline.is_over(), "no {count} idle sessions");
            std::thread::yield_now();
        }
    }

    /// Changes the configuration as a reload does.
    pub fn change(&self, change: impl FnOnce(&mut Config)) {
        let mut config = Config::clone(&self.live.get());
        change(&mut config);
        self.live.set(config);
    }

    /// The dispatcher has stopped.
    pub fn close_channel(&mut self) {
        self.sender = None;
    }

    /// Waits until the worker has done all that was sent and has ended.
    pub fn finish(&mut self) {
        self.sender = None;
        let workers = self.workers.as_ref().unwrap();
        assert!(workers.wait(Deadline::after(PATIENCE)), "the worker hangs");
    }

    /// Queues, delivers, waits for the end, and gives the only recipient.
    pub fn deliver(mut self, letter: Letter) -> Result {
        let id = self.send(letter);
        self.finish();
        self.result(id, 1)
    }

    /// What is recorded of a recipient.
    pub fn result(&self, id: QueueId, number: u32) -> Result {
        let shown = self.queue.store.show(id).unwrap().unwrap();
        let row = shown
            .recipients
            .into_iter()
            .find(|row| row.id.number == number)
            .unwrap();
        let attempts = shown
            .attempts
            .into_iter()
            .filter(|attempt| attempt.number == number)
            .filter_map(|attempt| attempt.result)
            .collect();
        Result { row, attempts }
    }

    pub fn now(&self) -> Timestamp {
        self.queue.clock.now()
    }
}

/// A recipient after its attempt.
#[derive(Debug)]
pub struct Result {
    pub row: RecipientRow,
    pub attempts: Vec<Attempt>,
}

impl Result {
    pub fn last(&self) -> &Attempt {
        self.attempts.last().expect("no attempt is recorded")
    }

    #[track_caller]
    pub fn is(&self, state: State, status: &str) -> &Attempt {
        let last = self.last();
        let seen = (self.row.state, last.status.to_string());
        assert_eq!(seen, (state, status.to_string()), "{last:?}");
        last
    }

    #[track_caller]
    pub fn is_delivered(&self) -> &Attempt {
        let last = self.last();
        assert_eq!(self.row.state, State::Delivered, "{last:?}");
        last
    }

    pub fn may_be_sent_twice(&self) -> bool {
        self.row.doubt == Some(Doubt::MayBeSentTwice)
    }
}

pub fn millis(n: u64) -> Span {
    Span(Duration::from_millis(n))
}
