//! Carrying transactions on a session to one host, and what each recipient's replies mean for it (CL-11 to CL-20, DV-16).

use std::sync::Arc;

use super::attempt::{After, Attempt};
use super::outcome::{Break, stage, unfit};
use super::session::Session;
use super::settle::{Accepted, Happened, Scene, settle};
use crate::config::Without8BitMime;
use crate::metrics::RequireTlsResult;
use crate::net::deadline::Deadline;
use crate::policy::failure::{Failure, Retry, Scope, Stage};
use crate::policy::tls::{REQUIRETLS, Requirement};
use crate::policy::verdict;
use crate::smtp::client::{Answer, Mail, Rcpt};
use crate::smtp::reply::EnhancedCode;

impl Attempt<'_> {
    /// Runs transactions on one session until no row is left for this host, or the session is over.
    pub(super) fn carry(
        &mut self,
        mut session: Session,
        requirement: &Requirement,
        here: &mut Vec<usize>,
        scene: Scene,
        mut total: Deadline,
    ) -> After {
        let scene_before = scene;
        self.refuse_unfit(&session, requirement, here, &scene_before);
        let mut first = true;
        while !here.is_empty() {
            let reused = scene_before.reused || !first;
            // Whatever the limits are, a session carries one transaction, or dialling would never end.
            if !std::mem::take(&mut first)
                && !session.may_carry_more(self.config.deliver_of(&self.line))
            {
                return After::Full(session);
            }
            let limits = &session.capabilities().limits;
            let batch = self.take_batch(here, limits.rcpt_max, limits.rcpt_domain_max);
            let head = &self.running.head;
            if requirement.requiretls {
                self.parts
                    .store
                    .metrics()
                    .requiretls(RequireTlsResult::Sent);
            }
            let mail = Mail {
                reverse_path: &head.reverse_path,
                size: head.size,
                eight_bit: head.eight_bit,
                utf8: head.utf8_headers || batch.iter().any(|row| self.needs_utf8(*row)),
                ret: head.ret,
                envid: head.envid.as_deref(),
                require_tls: requirement.requiretls,
            };
            let recipients = batch.iter().map(|row| {
                let recipient = &self.running.rows[*row].recipient;
                Rcpt {
                    path: &recipient.path,
                    notify: recipient.notify,
                    orcpt: recipient.orcpt.as_deref(),
                }
            });
            self.running.at(Stage::Mail);
            self.parts.store.metrics().transaction(reused);
            let confirms = session.capabilities().dsn;
            let carried = session.carry(
                &mail,
                recipients,
                &self.content,
                &self.limits,
                total,
                &|| self.running.before_dot(&self.parts.store),
            );
            // DV-6: the wait for the dot's reply does not count.
            self.end = self.end.put_off(carried.waited_for_dot);
            self.feedback.reached_mail |= carried.answers.reached_mail;
            let scene = Arc::new(Scene {
                data: carried.took,
                ..scene_before.clone()
            });
            let broken = carried.broken.as_ref().map(|why| {
                let failure = why.failure(carried.answers.enhanced, self.relay.is_some());
                (why, failure)
            });
            let mut happened = Vec::new();
            for (n, row) in batch.iter().enumerate() {
                let outcome = match carried.answers.answer(n) {
                    Answer::Delivered(reply) => Some(Ok(Accepted {
                        code: Some(reply.code()),
                        status: reply.status(carried.answers.enhanced),
                        text: reply.text(),
                        confirms,
                    })),
                    Answer::Refused(command, reply) => {
                        let failure =
                            verdict::refused(stage(command), reply, carried.answers.enhanced);
                        // DV-16: only a 4yz to MAIL or RCPT goes on to the next host.
                        let on = failure.retry == Retry::Later
                            && matches!(failure.stage, Stage::Mail | Stage::Rcpt);
                        self.note_push_back(&failure);
                        self.done_or_on(*row, failure, on, &scene)
                    }
                    Answer::Again => {
                        here.push(*row);
                        None
                    }
                    Answer::Open => match &broken {
                        // CL-8: a fresh connection at once.
                        Some((why, _)) if scene.reused && why.is_loss() && !after_dot(why) => {
                            here.push(*row);
                            None
                        }
                        Some((why, failure)) => {
                            self.note_push_back(failure);
                            let on = !after_dot(why) && failure.scope == Scope::Host;
                            self.done_or_on(*row, failure.clone(), on, &scene)
                        }
                        None => {
                            let failure = Break::Eof(crate::smtp::client::Command::Data)
                                .failure(false, self.relay.is_some());
                            self.done_or_on(*row, failure, true, &scene)
                        }
                    },
                };
                if let Some(result) = outcome {
                    happened.push(Happened {
                        row: *row,
                        result,
                        scene: Arc::clone(&scene),
                        poison: false,
                    });
                }
            }
            let rows: Vec<usize> = happened.iter().map(|one| one.row).collect();
            let taken = self.running.take(&rows);
            happened.retain(|one| taken.contains(&one.row));
            settle(self.parts, self.running, happened);
            self.running.dot_answered();
            match carried.session {
                Some(kept) => session = kept,
                None => {
                    // What is left for this host without a session that can be replaced goes on.
                    if !scene.reused {
                        self.leave(here, &broken.map(|(_, failure)| failure), &scene);
                    }
                    return After::Lost;
                }
            }
            total = self.limits.total(self.content.size()).min(self.end);
        }
        After::Kept(session)
    }

    /// The failure as the row's outcome; or noted, and the row goes on to the next host.
    fn done_or_on(
        &mut self,
        row: usize,
        failure: Failure,
        on: bool,
        scene: &Arc<Scene>,
    ) -> Option<Result<Accepted, Failure>> {
        if !on {
            return Some(Err(failure));
        }
        self.failures[row].push((failure, Arc::clone(scene)));
        self.pending.push(row);
        None
    }

    /// Rows that waited for a further transaction of a session that broke (CL-17).
    fn leave(&mut self, here: &mut Vec<usize>, broken: &Option<Failure>, scene: &Arc<Scene>) {
        for row in here.drain(..) {
            if let Some(failure) = broken {
                let mut failure = failure.clone();
                failure.may_be_sent_twice = false;
                self.failures[row].push((failure, Arc::clone(scene)));
            }
            self.pending.push(row);
        }
    }

    /// The recipients of the next transaction: at most so many, of at most so many domains (CL-20, RFC 9422 §4).
    fn take_batch(
        &self,
        here: &mut Vec<usize>,
        rcpt_max: Option<u32>,
        rcpt_domain_max: Option<u32>,
    ) -> Vec<usize> {
        let most = here.len().min(rcpt_max.unwrap_or(u32::MAX) as usize);
        let Some(domain_max) = rcpt_domain_max else {
            return here.drain(..most).collect();
        };
        let mut domains = Vec::new();
        let (mut batch, mut rest) = (Vec::new(), Vec::new());
        for row in here.drain(..) {
            let domain = self.running.rows[row].recipient.path.domain();
            let known = domains.contains(&domain);
            if batch.len() < most && (known || domains.len() < domain_max as usize) {
                if !known {
                    domains.push(domain);
                }
                batch.push(row);
            } else {
                rest.push(row);
            }
        }
        *here = rest;
        batch
    }

    /// Takes out the rows that this host cannot serve (CL-11 to CL-13, TLS-12): they go on to the next one.
    fn refuse_unfit(
        &mut self,
        session: &Session,
        requirement: &Requirement,
        here: &mut Vec<usize>,
        scene: &Scene,
    ) {
        let capabilities = session.capabilities();
        let requiretls = requirement.requiretls && !capabilities.requiretls;
        let head = &self.running.head;
        let size = capabilities.size_limit.filter(|limit| *limit < head.size);
        let eight_bit = head.eight_bit
            && !capabilities.eight_bit_mime
            && self.config.deliver_of(&self.line).without_8bitmime == Without8BitMime::Fail;
        let sender = head
            .reverse_path
            .mailbox()
            .is_some_and(|mailbox| mailbox.needs_utf8());
        let utf8 = !capabilities.smtputf8;
        let scene = Arc::new(scene.clone());
        let (host, mut fit) = (&scene.host, Vec::new());
        for row in here.drain(..) {
            let path = &self.running.rows[row].recipient.path;
            // What the message asks for says nothing against the host (SC-7).
            let failure = if requiretls {
                self.parts
                    .store
                    .metrics()
                    .requiretls(RequireTlsResult::Refused);
                // RFC 8689 §4.2.1
                unfit(
                    REQUIRETLS,
                    format!("{host} does not take REQUIRETLS, which the sender requires"),
                )
            } else if let Some(limit) = size {
                unfit(
                    EnhancedCode::new(5, 3, 4),
                    format!(
                        "message of {} octets is over the limit of {limit} of {host}",
                        head.size
                    ),
                )
            } else if eight_bit {
                unfit(
                    EnhancedCode::new(5, 6, 3),
                    format!("{host} does not take 8-bit content"),
                )
            } else if utf8 && (sender || path.needs_utf8()) {
                unfit(
                    EnhancedCode::new(5, 6, 7),
                    format!("{host} does not take non-ASCII addresses"),
                )
            } else {
                fit.push(row);
                continue;
            };
            self.feedback.reached_mail = true;
            self.failures[row].push((failure, Arc::clone(&scene)));
            self.pending.push(row);
        }
        *here = fit;
    }
}

/// The dot may be out: whatever happened, there is no second try in this attempt.
fn after_dot(why: &Break) -> bool {
    why.command() == crate::smtp::client::Command::Dot
}
