//! What the unit tests of the store share: a directory, a message, a writer without its thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_channel::bounded;
use rusqlite::Connection;

use super::open::{self, Files, Role};
use super::request::{Content, Enqueue, Op};
use super::shared::Shared;
use super::{DestinationKey, InDoubt, NewRow, Settings, schema};
use crate::clock::Timestamp;
use crate::message::{Head, NewRecipient, Notify, QueueId};
use crate::smtp::address::ForwardPath;

/// A directory of its own, removed with everything in it.
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("posthaste-store-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) fn settings(path: &Path) -> Settings {
    Settings {
        path: path.to_owned(),
        max_messages: 0,
        in_doubt: InDoubt::Retry,
        poison_limit: 3,
        min_free: 0,
        reserve: 0,
        collect: std::time::Duration::from_secs(5),
    }
}

/// A queue's files and a connection that may write, without any thread.
pub(super) fn writable(directory: &TempDir) -> (Files, Connection, Arc<Shared>) {
    let path = directory.path().join("queue");
    let files = open::prepare(&path).unwrap();
    let mut conn = open::connect(&files.database, Role::Writer).unwrap();
    schema::migrate(&mut conn).unwrap();
    let (wake, _) = bounded(1);
    let shared = Arc::new(Shared::new(settings(&path), 1, wake));
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
        content: Content::Inline(Arc::from(content)),
    })
}
