//! `[queue]`

use std::path::PathBuf;

use super::pattern::DomainPattern;
use super::table::{table, words};
use super::units::Size;
use super::value::{absolute, within};
use crate::store::InDoubt;

words!(impl InDoubt {
    Retry = "retry",
    Hold = "hold",
});

table! {
    /// `[queue]` (CFG-10).
    pub struct Queue in "queue" {
        /// The queue directory; the database in it is `queue.db`. Never on a network filesystem. Changes at a restart.
        path: PathBuf = "\"/var/lib/posthaste\"", absolute;
        /// Free space on its filesystem under which new mail is refused; it is taken again at twice this.
        min_free: Size = "\"64MiB\"";
        /// Size of a reserve file that is given up on a full disk, so that outcomes can still be recorded.
        reserve: Size = "\"8MiB\"";
        /// Most messages in the queue; 0 for no limit.
        max_messages: u64 = "0";
        /// Panics or hangs of a worker, or deaths of the daemon, after which the message in hand is held.
        poison_limit: u32 = "3", within(1, 1000);
        /// What becomes of recipients that were being delivered when the daemon died: `"retry"` or `"hold"`.
        in_doubt: InDoubt = "\"retry\"";
        /// Sender domains whose mail is refused for now, and waits if it is queued already.
        disabled_senders: Vec<DomainPattern> = "[]";
    }
}
