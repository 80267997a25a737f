//! What is handed to a worker: a transaction, and the slot that it holds.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::rates::Spent;
use super::schedule::Claim;
use super::shared::{Returned, Shared};
use super::windows::MxHosts;
use crate::clock::Timestamp;
use crate::message::Head;
use crate::policy::limit::Limits;
use crate::store::{DestinationKey, RecipientRow};

/// One transaction for a worker: one message, one next hop, one or more recipients, all claimed.
#[derive(Debug)]
pub struct Transaction {
    /// The message.
    pub head: Arc<Head>,
    /// Its recipients as they were before the claim (so `attempts` does not count this one).
    pub recipients: Vec<RecipientRow>,
    /// The group they wait in.
    pub destination: DestinationKey,
    /// The name of the transport that the route named.
    pub transport: String,
    /// The content, if it is small and came with the message or with the other rows (design.md 12).
    pub content: Option<Arc<Vec<u8>>>,
    /// Its recipients have had as many messages today as this, and it is their last attempt: nobody is contacted (SC-8).
    pub over: Option<u32>,
    /// When it was claimed.
    pub claimed_at: Timestamp,
    /// The slot it holds; dropping it gives the slot back on every way out, panic included (SC-11).
    pub permit: Permit,
}

/// A place in its destination's window, and once a worker has it, its slot. Given back on drop.
pub struct Permit {
    held: Option<(Arc<Shared>, DestinationKey)>,
    since: Instant,
    /// Where it is counted as a message, if it is (SC-8).
    home: Option<DestinationKey>,
    /// The limits under which it was given.
    limits: Option<Limits>,
    /// Its recipients were given back without an attempt.
    untried: bool,
    /// It is with the workers.
    runs: bool,
    /// Another transaction will go on with its connection ([`Permit::follow`]).
    followed: bool,
}

impl Permit {
    pub(super) fn new(
        shared: &Arc<Shared>,
        destination: &DestinationKey,
        home: Option<DestinationKey>,
        limits: Limits,
    ) -> Permit {
        Permit {
            held: Some((Arc::clone(shared), destination.clone())),
            since: Instant::now(),
            home,
            limits: Some(limits),
            untried: false,
            runs: false,
            followed: false,
        }
    }

    /// No attempt comes of it after all, so it counts as no message.
    pub fn untried(&mut self) {
        self.untried = true;
    }

    /// Whether a new connection may be made now; with `further` it is made in any case (SC-8).
    pub fn may_dial(&self, further: bool) -> bool {
        let held = self.held.as_ref();
        held.is_none_or(|(shared, destination)| shared.may_dial(destination, further))
    }

    /// What its end means for rates.
    fn returned(&mut self, feedback: Option<&Feedback>) -> Returned {
        let spent = Spent {
            // What has failed before MAIL was no message.
            message: feedback.is_some_and(|feedback| {
                let failed = feedback.strike.is_some() || feedback.broken.is_some();
                feedback.reached_mail || !(self.untried || failed)
            }),
            dialled: feedback.is_some_and(|feedback| feedback.dialled),
            kept: feedback.is_some_and(|feedback| feedback.kept),
        };
        Returned {
            spent: self.runs.then_some(spent),
            connection: self.runs && !self.followed,
            home: self.home.take(),
        }
    }

    /// When it was given: by the claim.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// From here on with the workers, or not.
    pub(super) fn runs(&mut self, runs: bool) {
        self.runs = runs;
    }

    /// A permit that holds nothing, for transactions that no schedule knows of.
    pub fn detached() -> Permit {
        Permit {
            held: None,
            since: Instant::now(),
            home: None,
            limits: None,
            untried: false,
            runs: false,
            followed: false,
        }
    }

    /// Takes a place for these recipients in the window of the hosts that its destination has, and counts where they do.
    /// `false`: there is none now, and mail of this destination waits from here on until there is (SC-4, SC-8); or it has
    /// other limits than were known when this was given, and is to be claimed under those (SC-9).
    pub fn enter(&mut self, hosts: MxHosts<'_>, recipients: usize) -> bool {
        let (Some((shared, destination)), Some(limits)) = (&self.held, self.limits) else {
            return true;
        };
        let claim = Claim { limits, recipients };
        shared.enter(destination, hosts, &claim, &mut self.home)
    }

    /// Whether other transactions to the same hosts are with the workers too.
    pub fn has_company(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|(shared, destination)| shared.running(destination) > 1)
    }

    /// Another transaction for the same destination that waits for a connection, if its turn has come: it takes over that of
    /// this one. Whoever takes it carries it out, or gives it back ([`Permit::unfollow`]).
    pub fn follow(&mut self) -> Option<Transaction> {
        let (shared, destination) = self.held.as_ref().filter(|_| !self.followed)?;
        let mut next = shared.follow(destination)?;
        next.permit.runs = true;
        self.followed = true;
        Some(next)
    }

    /// What came from [`Permit::follow`] waits for another connection, as the next.
    pub fn unfollow(&mut self, mut transaction: Transaction) {
        transaction.permit.runs = false;
        self.followed = false;
        if let Some((shared, _)) = &self.held {
            shared.unfollow(transaction);
        }
    }

    /// What the worker learned of the destination, given back together with the slot.
    pub fn finish(mut self, feedback: Feedback) {
        if let Some((shared, destination)) = self.held.take() {
            let returned = self.returned(Some(&feedback));
            shared.release(&destination, Some(feedback), returned);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some((shared, destination)) = self.held.take() {
            let returned = self.returned(None);
            shared.release(&destination, None, returned);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.held {
            Some((_, destination)) => f.debug_tuple("Permit").field(&destination.0).finish(),
            None => f.write_str("Permit(detached)"),
        }
    }
}

/// What an attempt says about its destination, for windows and probes.
#[derive(Clone, Debug, Default)]
pub struct Feedback {
    /// A session got as far as MAIL, or would have.
    pub reached_mail: bool,
    /// The attempt ended before MAIL by what the destination did or did not do (SC-7): its last words. Not for faults of
    /// our own, nor for what is certain at once, as that the domain does not exist.
    pub strike: Option<String>,
    /// The transport is broken: nothing can be done through it before an operator mends it (RO-8); why.
    pub broken: Option<String>,
    /// What asks for fewer connections (SC-5).
    pub push_back: Option<PushBack>,
    /// A connection was made.
    pub dialled: bool,
    /// A session was kept that others can use.
    pub kept: bool,
}

/// Something that asks for fewer connections: a connection failure, 421, "too many connections", 4.7.x.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushBack {
    /// The reply or the error.
    pub text: String,
    /// Nobody answered, so it says nothing about how many would be let in.
    pub unreached: bool,
}
