//! For the unit tests of delivery: one message with one recipient in a temporary queue.

use std::sync::Arc;
use std::time::Duration;

use super::known::KnownHosts;
use super::{Parts, Pools, Registry, Tools};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Live};
use crate::dispatch::{Permit, Transaction};
use crate::message::{Head, NewRecipient, Notify, QueueId};
use crate::net::Network;
use crate::smtp::address::{Domain, Mailbox, ReversePath};
use crate::store::{
    ClaimAction, ClaimRequest, DestinationKey, NewContent, NewMessage, NewRow, Settings, Shown,
    Store,
};
use crate::testing::TempDir;

pub struct Fixture {
    pub parts: Arc<Parts>,
    pub clock: Clock,
    id: QueueId,
    _directory: TempDir,
    _over: crossbeam_channel::Sender<()>,
}

impl Fixture {
    pub fn new() -> Fixture {
        let directory = TempDir::new();
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let settings = Settings::at(&directory.join("queue"));
        let (store, _) = Store::open(&settings, &clock).unwrap();
        let mut config = Config::default_for(Domain::parse("here.test").unwrap());
        config.retry.jitter = 0.0;
        let live = Live::new(config);
        let id = store.allocate_id().unwrap();
        store
            .enqueue(NewMessage {
                head: Arc::new(head(id, clock.now())),
                content: NewContent::Inline(Arc::new(b"S: x\r\n\r\nbody\r\n".to_vec())),
                recipients: vec![NewRow {
                    recipient: NewRecipient {
                        path: Mailbox::parse("bob@dest.test", false).unwrap(),
                        orcpt: None,
                        notify: Notify::default(),
                    },
                    destination: DestinationKey(Arc::from("dest.test")),
                    due: clock.now(),
                    hold: None,
                    claim: None,
                    delay_due: None,
                }],
                exempt_from_limits: false,
            })
            .unwrap();
        let (_over, over) = crossbeam_channel::bounded(0);
        Fixture {
            parts: Arc::new(Parts {
                tools: Tools {
                    store,
                    network: Network::new(live.clone(), clock.clone()),
                    tls: super::TlsSeams::default(),
                    live,
                    clock: clock.clone(),
                    wake: Arc::new(|_| {}),
                },
                pools: Pools::new(),
                ailing: Arc::new(KnownHosts::for_a_minute()),
                step_by_step: Arc::new(KnownHosts::for_an_hour()),
                registry: Registry::default(),
                over,
            }),
            clock,
            id,
            _directory: directory,
            _over,
        }
    }

    /// Claims the recipient.
    pub fn claim(&self) -> Transaction {
        let shown = self.shown();
        let rows = shown.recipients;
        let now = self.clock.now();
        let claimed = self
            .parts
            .store
            .claim(vec![ClaimRequest {
                id: self.id,
                numbers: vec![1],
                attempts: rows[0].attempts,
                action: ClaimAction::Claim {
                    next_attempt: now.plus(Duration::from_secs(450)),
                    daily: None,
                },
            }])
            .unwrap();
        assert_eq!(claimed[0].numbers, [1]);
        Transaction {
            head: shown.head,
            recipients: rows,
            destination: DestinationKey(Arc::from("dest.test")),
            transport: "direct".into(),
            content: None,
            over: None,
            claimed_at: now,
            permit: Permit::detached(),
        }
    }

    pub fn shown(&self) -> Shown {
        self.parts.store.show(self.id).unwrap().unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.parts.store.close();
    }
}

fn head(id: QueueId, arrived: Timestamp) -> Head {
    Head {
        client: "127.0.0.1".into(),
        reverse_path: ReversePath::parse("joe@here.test", false).unwrap(),
        message_id: "<x@here.test>".into(),
        subject: "x".into(),
        size: 14,
        ..Head::new(id, arrived, "relay")
    }
}
