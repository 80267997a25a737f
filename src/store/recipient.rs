//! A recipient as a row: its state, and the group it waits in.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::{NewRecipient, RecipientId};

/// The group a recipient waits in, as policy names it: a domain, `[ip]`, or `relay:NAME`. Opaque to the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationKey(pub Arc<str>);

impl fmt::Display for DestinationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// State of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Due at its next attempt.
    Queued,
    /// A worker has it.
    Claimed,
    /// Skipped by dispatch until released.
    Held,
    /// Final: the next hop took it.
    Delivered,
    /// Final: permanent failure, `max_attempts`, or operator `fail`.
    Failed,
    /// Final: its lifetime was over.
    Expired,
    /// Final: an operator dropped it.
    Dropped,
}

impl State {
    /// Whether no state follows it.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            State::Delivered | State::Failed | State::Expired | State::Dropped
        )
    }
}

impl State {
    /// Its word, in listings and as the event of a log line.
    pub fn word(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Claimed => "claimed",
            State::Held => "held",
            State::Delivered => "delivered",
            State::Failed => "failed",
            State::Expired => "expired",
            State::Dropped => "dropped",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a recipient may have been, or may yet be, delivered twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// It was claimed when the daemon died.
    InDoubt,
    /// The reply to the dot was lost.
    MayBeSentTwice,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doubt::InDoubt => "in-doubt",
            Doubt::MayBeSentTwice => "may-be-sent-twice",
        })
    }
}

/// A recipient row.
#[derive(Clone, Debug)]
pub struct RecipientRow {
    /// `ID/N`.
    pub id: RecipientId,
    /// Address, ORCPT, NOTIFY.
    pub recipient: NewRecipient,
    /// Its state.
    pub state: State,
    /// Attempts begun so far.
    pub attempts: u32,
    /// When the last attempt began.
    pub last_attempt: Option<Timestamp>,
    /// When the next attempt is due; for a claimed one, when it would be due if this one is cut off.
    pub next_attempt: Timestamp,
    /// The group it waits in.
    pub destination: DestinationKey,
    /// The transport an operator set.
    pub transport: Option<String>,
    /// Addresses dialled so far, latest last, at most 8 (DV-12).
    pub dialled: Vec<std::net::IpAddr>,
    /// The one recorded reason why it waits: the last reply, or the reason of a hold.
    pub blocker: String,
    /// A second copy is possible.
    pub doubt: Option<Doubt>,
    /// The age up to which its sender has been told of the delay (RT-8).
    pub delay_told: Duration,
    /// So many messages a day may go to its address, and it waits until its next attempt for that (SC-8).
    pub parked: Option<u32>,
}
