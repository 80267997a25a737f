//! Numbers of the queue, cheap at any length.

use std::time::Duration;

use super::{Store, StoreError, checkpoint, list};
use crate::clock::Timestamp;

/// Numbers for `stats`.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    /// Messages with at least one recipient that is not final.
    pub messages: u64,
    /// Recipients per state that is not final: queued, claimed, held.
    pub queued: u64,
    /// See `queued`.
    pub claimed: u64,
    /// See `queued`.
    pub held: u64,
    /// Recipients that carry a doubt.
    pub in_doubt: u64,
    /// Arrival of the oldest message.
    pub oldest: Option<Timestamp>,
    /// Commits so far and requests in them, in this run.
    pub commits: u64,
    /// See `commits`.
    pub requests: u64,
    /// Requests that the writer has not begun.
    pub behind: u64,
    /// Size of the write-ahead log in bytes.
    pub wal_bytes: u64,
    /// Free bytes on the file system.
    pub free_bytes: u64,
    /// Notifications of ours that reached nobody, and that were withheld from their senders, in this run (DSN-10, DSN-11).
    pub notices_lost: u64,
    /// See `notices_lost`.
    pub notices_withheld: u64,
    /// Median and longest commit of the last thousand.
    pub commit_time: (Duration, Duration),
}

impl Store {
    /// Numbers for `stats`; cheap at any queue length.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let tally = self.inner.shared.tally();
        let (commits, requests, commit_time) = self.inner.shared.commits();
        let free = nix::sys::statvfs::statvfs(&self.inner.wal)
            .map_or(0, |fs| fs.blocks_available() * fs.fragment_size());
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let (notices_lost, notices_withheld) = self.inner.shared.notices_counted();
        Ok(StoreStats {
            messages: count(tally.messages),
            queued: count(tally.queued),
            claimed: count(tally.claimed),
            held: count(tally.held),
            in_doubt: count(tally.doubt),
            oldest: self.inner.readers.read(list::oldest)?,
            commits,
            requests,
            behind: self.inner.behind() as u64,
            wal_bytes: checkpoint::wal_size(&self.inner.wal),
            free_bytes: free,
            notices_lost,
            notices_withheld,
            commit_time,
        })
    }
}
