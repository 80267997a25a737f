//! What the unit tests of the store share: a directory, a message, a writer without its thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::bounded;
use rusqlite::Connection;

use super::open::{self, Files, Role};
use super::request::{Content, Enqueue, Op};
use super::shared::Shared;
use super::{DestinationKey, NewRow, Settings, Store, schema};
use crate::clock::{Clock, Timestamp};
use crate::message::{Head, NewRecipient, Notify, QueueId};
use crate::smtp::address::ForwardPath;
pub(super) use crate::testing::TempDir;

/// A queue with all its threads.
pub(super) fn open(directory: &TempDir) -> Store {
    let settings = Settings::at(directory.path());
    Store::open(&settings, &Clock::system()).unwrap().0
}

/// A queue's files and a connection that may write, without any thread.
pub(super) fn writable(directory: &TempDir) -> (Files, Connection, Arc<Shared>) {
    let path = directory.join("queue");
    let files = open::prepare(&path).unwrap();
    let mut conn = open::connect(&files.database, Role::Writer).unwrap();
    schema::migrate(&mut conn).unwrap();
    let (wake, _) = bounded(1);
    let shared = Arc::new(Shared::new(Settings::at(&path), 1, wake));
    let seen = Arc::clone(&shared);
    conn.wal_hook(Some(move |_: &mut _, frames| {
        seen.frames.store(i64::from(frames), Ordering::Relaxed);
        Ok(())
    }))
    .unwrap();
    (files, conn, shared)
}

/// A message to one recipient, due now.
pub(super) fn enqueue(id: i64, content: &[u8]) -> Op {
    let id = QueueId::new(id).unwrap();
    let now = Timestamp::from_secs(1_800_000_000);
    Op::Enqueue(Enqueue {
        head: Arc::new(Head {
            client: "unix".into(),
            size: content.len() as u64,
            ..Head::new(id, now, "relay")
        }),
        recipients: vec![NewRow {
            recipient: NewRecipient {
                path: ForwardPath::parse("bob@dest.example", true).unwrap(),
                orcpt: None,
                notify: Notify::default(),
            },
            destination: DestinationKey(Arc::from("dest.example")),
            due: now,
            hold: None,
            claim: None,
            delay_due: None,
        }],
        exempt: false,
        content: Content::Inline(Arc::new(content.to_vec())),
    })
}
