//! What the writer is asked for, and what it answers.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::change::{ChangeStep, Ended, Hit};
use super::notice::SendNotice;
use super::reply::Reply;
use super::{
    ClaimRequest, Claimed, DelayNoted, DestinationKey, LearnedWindow, NewRow, NoticeKind, Pause,
    PauseScope, ReportChange, Settled, Settlement, StoreError, StsChange, TlsSeen, unexpected,
};
use crate::clock::Timestamp;
use crate::message::{Head, QueueId};

/// What the writer is asked for.
pub(super) enum Op {
    Enqueue(Enqueue),
    Stage {
        id: QueueId,
        first: u32,
        data: Vec<u8>,
    },
    Unstage {
        id: QueueId,
    },
    Claim(Vec<ClaimRequest>),
    Settle(Arc<Settlement>),
    Unclaim {
        id: QueueId,
        numbers: Vec<u32>,
        due: Timestamp,
        /// Why, if that is worth showing.
        blocker: Option<String>,
    },
    Change(ChangeStep),
    /// Holds what is not final of a damaged message.
    Damaged {
        id: QueueId,
        reason: String,
    },
    PullIn {
        now: Timestamp,
        horizon: Timestamp,
        after: (i64, i64),
    },
    /// Rows whose delay is due.
    Delays(Vec<DelayNoted>),
    Notice(SendNotice),
    /// A notice that cannot be sent now must not stand before the others.
    Postpone {
        id: QueueId,
        kind: NoticeKind,
        due: Timestamp,
    },
    /// What was withheld from these addresses, summed up.
    Summary {
        addresses: Vec<String>,
        message: Option<Enqueue>,
    },
    Pause {
        scope: PauseScope,
        pause: Option<Pause>,
    },
    /// TLS was seen.
    NoteTls(TlsSeen),
    /// What is remembered of a domain's TLS is no longer true.
    ForgetTls(String),
    /// A window was learned, or is so no longer.
    NoteWindow(DestinationKey, Option<LearnedWindow>),
    /// The cache of MTA-STS policies changes.
    ChangeSts(StsChange),
    /// TLS reports, and what is counted for them.
    ChangeReport(ReportChange),
    ReserveIds,
    /// Nothing is going on: caches are given up (PRC-7).
    Rest,
    /// Everything before it is done; the writer marks an orderly end and ends.
    Close,
    /// The same without the mark.
    Leave,
}

/// A message to accept, as the writer sees it.
pub(super) struct Enqueue {
    pub(super) head: Arc<Head>,
    pub(super) recipients: Vec<NewRow>,
    pub(super) exempt: bool,
    pub(super) content: Content,
}

/// Its content.
pub(super) enum Content {
    Inline(Arc<Vec<u8>>),
    /// Already there: rows and octets.
    Staged {
        chunks: u32,
        size: u64,
    },
}

impl Op {
    /// What has happened outside, or makes room: it gets the reserve on a full disk (ST-6). A drop or the end of a
    /// recipient is worth more than a new message or a new attempt.
    pub(super) fn must_be_recorded(&self) -> bool {
        matches!(
            self,
            Op::Settle(_)
                | Op::Unclaim { .. }
                | Op::Change(_)
                | Op::Pause { .. }
                | Op::Damaged { .. }
                | Op::Unstage { .. }
        )
    }

    /// Octets of content in it.
    pub(super) fn weight(&self) -> usize {
        match self {
            Op::Enqueue(Enqueue {
                content: Content::Inline(data),
                ..
            }) => data.len(),
            Op::Stage { data, .. } => data.len(),
            _ => 0,
        }
    }
}

/// What it answers.
#[derive(Debug)]
pub(super) enum Answer {
    Settled(Settled),
    Done,
    Claimed(Vec<Claimed>),
    /// Per row of the step, and the messages that this ended.
    Changed(Vec<Hit>, Vec<Ended>),
    /// Whether there was something to lift.
    Lifted(bool),
    Ids(std::ops::Range<i64>),
    /// The address has had its share of notifications.
    Withheld,
    /// How many rows changed, and where to go on.
    PulledIn(u64, Option<(i64, i64)>),
}

impl Answer {
    /// Whether the request changed something, for those that say so.
    pub(super) fn whether(self) -> Result<bool, StoreError> {
        match self {
            Answer::Lifted(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }
}

/// A request on its way.
pub(super) struct Job {
    pub(super) op: Op,
    pub(super) reply: Reply,
}

/// What the checkpointer is woken for.
pub(super) enum Wake {
    /// There is something to copy.
    Copy,
    /// The writer stands on a full disk and waits to hear whether the log can begin anew (ST-6).
    Room(Sender<bool>),
}

/// The checkpointer asks the writer to stand still between two transactions.
pub(super) struct Gate {
    /// Told when the writer stands.
    pub(super) ready: Sender<()>,
    /// The writer goes on when this disconnects.
    pub(super) done: Receiver<()>,
}
