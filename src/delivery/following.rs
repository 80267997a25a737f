//! The transaction that goes out on the heels of another: its commands behind that one's content, in the same write
//! (RFC 2920 §3.1). It saves the peer a round trip and us a connection.
//!
//! Only through relays that announce PIPELINING and are quick, and only what has waited for a connection anyhow
//! ([`Permit::follow`](crate::dispatch::Permit::follow)). The outcome of the one before is committed before the content of
//! the next goes out, so that a crash leaves no more in doubt than one message a connection.

use std::cell::RefCell;
use std::sync::Arc;

use super::attempt::Attempt;
use super::carrying;
use super::pool::{Key, Place};
use super::session::Session;
use super::settle::Scene;
use crate::dispatch;
use crate::policy::tls::Requirement;
use crate::smtp::client::{Envelope, Transaction};

/// What a worker is given with a transaction besides.
pub(super) struct Given<'a> {
    /// The content, if it is small and at hand.
    pub content: Option<Arc<Vec<u8>>>,
    /// The session on which its commands are out.
    pub handed: Option<Handed>,
    /// Takes the transaction that follows.
    pub following: &'a Following,
}

/// A session on which the commands of a transaction are out, and its place in the pool.
pub(super) struct Handed {
    /// What the session is good for.
    pub key: Key,
    pub place: Place,
    pub session: Session,
}

/// The transaction that follows, in the hands of the worker that carries the one before. It is kept here, out of the
/// reach of a panic.
#[derive(Default)]
pub(super) struct Following(RefCell<Option<dispatch::Transaction>>);

impl Following {
    /// The one to go on with.
    pub fn take(&self) -> Option<dispatch::Transaction> {
        self.0.borrow_mut().take()
    }

    /// Whether there is one.
    pub fn is_some(&self) -> bool {
        self.0.borrow().is_some()
    }
}

impl Attempt<'_> {
    /// Takes the transaction that may follow the one that is being carried. Its commands, unless it is not for this session:
    /// then it waits for another connection.
    pub(super) fn follow(
        &self,
        transaction: &Transaction,
        requirement: &Requirement,
        scene: &Scene,
    ) -> Option<Envelope> {
        let next = self.running.follow()?;
        let envelope = self.envelope(&next, transaction, requirement, scene);
        *self.following.0.borrow_mut() = Some(next);
        if envelope.is_none() {
            self.unfollow();
        }
        envelope
    }

    /// See [`Asides::unfollow`](super::course::Asides::unfollow).
    pub(super) fn unfollow(&self) {
        let mut next = self.following.0.borrow_mut();
        *next = next.take().and_then(|next| self.running.unfollow(next));
    }

    fn envelope(
        &self,
        next: &dispatch::Transaction,
        transaction: &Transaction,
        requirement: &Requirement,
        scene: &Scene,
    ) -> Option<Envelope> {
        let (head, rows) = (&next.head, &next.recipients);
        let capabilities = transaction.capabilities();
        let limits = &capabilities.limits;
        let most = limits.rcpt_max.unwrap_or(u32::MAX) as usize;
        let same_way = next.over.is_none()
            && next.transport == self.running.transport
            && head.require_tls == self.running.head.require_tls
            && rows.len() <= most
            && limits.rcpt_domain_max.is_none()
            // DV-17: after a failure the other family is wanted.
            && (!scene.both_families || rows.iter().all(|row| row.dialled.is_empty()));
        let deliver = self.config.deliver_of(&self.line);
        let fits = |path| {
            carrying::unfit_for(deliver, requirement, capabilities, head, path, &scene.host)
                .is_none()
        };
        if !same_way || !rows.iter().all(|row| fits(&row.recipient.path)) {
            return None;
        }
        let mail = carrying::mail(head, rows.iter(), requirement);
        Some(transaction.followed_by(&mail, rows.iter().map(carrying::rcpt)))
    }
}
