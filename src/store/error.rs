//! Why the queue could not be opened, and why a request to it failed.

use std::fmt;

/// Why the queue could not be opened. The text is the one clear last line (CFG-8).
#[derive(Debug)]
pub enum OpenError {
    /// Another daemon has it: exit 75 (ST-9).
    Locked(String),
    /// Damaged, foreign, newer, on a network filesystem, wrong SQLite: exit 78 (ST-1, ST-11, ST-13).
    Refused(String),
    /// The system said no: exit 71.
    System(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked(text) | OpenError::Refused(text) | OpenError::System(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// Why a request to the store failed, and so what the caller may answer.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// No space, quota, read-only: 452 4.3.1; nothing was kept (ST-5).
    Full(String),
    /// `queue.max_messages` or a caller's limit: 452 4.3.1; nothing was kept.
    OverLimit,
    /// The commit failed and its outcome is unknown: 451 4.3.0, never repeated (ST-3).
    Unknown(String),
    /// Busy for longer than 30 s: 451 4.3.0; nothing was kept (IN-26).
    Busy,
    /// The store is closed or closing: 421 4.3.2.
    Closed,
    /// This one request failed; nothing of it was kept; others are not affected. 451 4.3.0.
    Failed(String),
    /// The row or content asked for is damaged.
    Damaged(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full(text) => write!(f, "no room in the queue: {text}"),
            StoreError::OverLimit => f.write_str("the queue is at its limit of messages"),
            StoreError::Unknown(text) => write!(f, "commit failed, outcome unknown: {text}"),
            StoreError::Busy => f.write_str("the queue is busy"),
            StoreError::Closed => f.write_str("the queue is closed"),
            StoreError::Failed(text) => write!(f, "queue request failed: {text}"),
            StoreError::Damaged(text) => write!(f, "damaged: {text}"),
        }
    }
}

impl std::error::Error for StoreError {}
