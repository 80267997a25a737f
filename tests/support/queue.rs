//! A temporary queue, and messages to put into it.

#![allow(clippy::unwrap_used)] // a test that cannot set up its queue has failed

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};
use posthaste::message::{Head, NewRecipient, Notify, QueueId};
use posthaste::policy::failure::{Attempt, Cause, Stage, TlsLevel, Verdict};
use posthaste::smtp::address::{Mailbox, ReversePath};
use posthaste::smtp::reply::{EnhancedCode, ReplyCode};
use posthaste::store::{
    DestinationKey, NewClaim, NewContent, NewMessage, NewRow, Outcome, Recovery, Settings,
    Settlement, Store,
};

/// A directory of its own, removed with everything in it.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "posthaste-test-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The time at which test clocks start.
pub fn start() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

pub fn settings(directory: &Path) -> Settings {
    Settings::at(&directory.join("queue"))
}

/// A store in a temporary directory on a clock that stands still.
pub struct Queue {
    pub store: Store,
    pub clock: Clock,
    pub settings: Settings,
    _directory: TempDir,
}

impl Queue {
    pub fn new() -> Queue {
        let directory = TempDir::new();
        let settings = settings(directory.path());
        let clock = Clock::manual(start());
        let (store, _) = Store::open(&settings, &clock).unwrap();
        Queue {
            store,
            clock,
            settings,
            _directory: directory,
        }
    }

    /// Gives the queue up as a crash would, and opens it again.
    pub fn crash(self) -> (Queue, Recovery) {
        drop(self.store);
        let (store, recovery) = Store::open(&self.settings, &self.clock).unwrap();
        let queue = Queue { store, ..self };
        (queue, recovery)
    }

    /// Queues a message to these recipients, due now, each in its domain's destination.
    pub fn add(&self, recipients: &[&str]) -> QueueId {
        let rows = recipients
            .iter()
            .map(|to| row(to, self.clock.now()))
            .collect();
        self.add_rows(rows)
    }

    /// Queues a message with one recipient that is claimed from the start.
    pub fn add_claimed(&self, to: &str, next_attempt: Timestamp) -> QueueId {
        let mut row = row(to, self.clock.now());
        row.claim = Some(NewClaim { next_attempt });
        self.add_rows(vec![row])
    }

    pub fn add_rows(&self, rows: Vec<NewRow>) -> QueueId {
        let id = self.store.allocate_id().unwrap();
        self.store
            .enqueue(message(id, self.clock.now(), rows))
            .unwrap();
        id
    }

    pub fn settle(&self, id: QueueId, number: u32, verdict: Verdict) {
        self.store
            .settle(settlement(id, number, verdict, self.clock.now()))
            .unwrap();
    }
}

pub fn head(id: QueueId, arrived: Timestamp) -> Head {
    Head {
        client: "127.0.0.1".into(),
        reverse_path: ReversePath::Mailbox(mailbox("joe@here.example")),
        added_header: b"Received: from x\r\n".to_vec(),
        message_id: format!("<{id}@here.example>"),
        subject: "test".into(),
        size: 40,
        ..Head::new(id, arrived, "relay")
    }
}

pub fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text, true).unwrap()
}

pub fn key(text: &str) -> DestinationKey {
    DestinationKey(Arc::from(text))
}

pub fn row(to: &str, due: Timestamp) -> NewRow {
    let path = mailbox(to);
    NewRow {
        destination: key(&path.domain().to_string()),
        recipient: NewRecipient {
            path,
            orcpt: None,
            notify: Notify::default(),
        },
        due,
        hold: None,
        delay_due: None,
        claim: None,
    }
}

pub fn message(id: QueueId, arrived: Timestamp, recipients: Vec<NewRow>) -> NewMessage {
    NewMessage {
        head: Arc::new(head(id, arrived)),
        content: NewContent::Inline(Arc::new(b"Subject: test\r\n\r\nbody\r\n".to_vec())),
        recipients,
        exempt_from_limits: false,
    }
}

/// What a worker records, fit to the verdict.
pub fn attempt(verdict: Verdict, started: Timestamp) -> Attempt {
    let delivered = verdict == Verdict::Delivered;
    let (code, class) = match verdict {
        Verdict::Delivered => (250, 2),
        Verdict::Failed => (550, 5),
        _ => (451, 4),
    };
    Attempt {
        started,
        duration: Duration::from_millis(120),
        delays: [0, 20, 30, 70].map(Duration::from_millis),
        transport: "direct".into(),
        host: "mx.dest.example".into(),
        address: Some("192.0.2.7:25".parse().unwrap()),
        dialled: vec!["192.0.2.7".parse().unwrap()],
        source: Some("192.0.2.1".parse().unwrap()),
        tls: TlsLevel::Encrypted,
        stage: if delivered {
            Stage::FinalDot
        } else {
            Stage::Rcpt
        },
        code: ReplyCode::new(code),
        status: EnhancedCode::new(class, 0, 0),
        text: "the peer's words".into(),
        cause: (!delivered).then_some(Cause::Reply),
        may_be_sent_twice: false,
        worker: "worker-1".into(),
        reused: false,
        tls_policy: String::new(),
    }
}

pub fn settlement(id: QueueId, number: u32, verdict: Verdict, started: Timestamp) -> Settlement {
    Settlement {
        id,
        outcomes: vec![Outcome {
            number,
            verdict,
            destination: key("dest.example"),
            attempt: attempt(verdict, started),
            delay_due: None,
            unconfirmed: false,
            poison: false,
        }],
    }
}
