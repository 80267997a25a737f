//! Carrying transactions on a session to one host, and what each recipient's replies mean for it (CL-11 to CL-20, DV-16).

use std::sync::Arc;

use super::attempt::{After, Attempt};
use super::course::Asides;
use super::outcome::{Break, stage, unfit};
use super::session::Session;
use super::settle::{Accepted, Happened, Judged, Scene};
use crate::config::{Deliver, Without8BitMime};
use crate::message::Head;
use crate::metrics::RequireTlsResult;
use crate::net::deadline::Deadline;
use crate::policy::failure::{Failure, Retry, Scope, Stage};
use crate::policy::plan::HostName;
use crate::policy::tls::{REQUIRETLS, Requirement};
use crate::policy::verdict;
use crate::smtp::address::ForwardPath;
use crate::smtp::client::{Answer, Command, Mail, Rcpt, Why};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::reply::{EnhancedCode, Reply};
use crate::store::RecipientRow;

impl Attempt<'_> {
    /// Runs transactions on one session until no row is left for this host, or the session is over.
    pub(super) fn carry(
        &mut self,
        mut session: Session,
        (host, port): (&HostName, u16),
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
            let rows = || batch.iter().map(|row| &self.running.rows[*row]);
            let mail = mail(head, rows(), requirement);
            self.running.at(Stage::Mail);
            self.parts.store.metrics().transaction(reused);
            let confirms = session.capabilities().dsn;
            let was_ahead = session.is_ahead();
            let followed = here.is_empty()
                && self.relay.is_some()
                && session.may_be_followed(self.config.deliver_of(&self.line))
                && !self.parts.step_by_step.has(host, port);
            let asides = Asides {
                before_dot: &|| self.running.before_dot(&self.parts.store),
                follow: &|transaction| {
                    let next = || self.follow(transaction, requirement, &scene_before);
                    followed.then(next).flatten()
                },
                unfollow: &|| self.unfollow(),
            };
            let carried = session.carry(
                &mail,
                rows().map(rcpt),
                &self.content,
                &self.limits,
                total,
                &asides,
            );
            // Nothing waits for what else this one has to try.
            if !carried.session.as_ref().is_some_and(Session::is_ahead) {
                self.unfollow();
            }
            let mut lost_count = was_ahead && carried.broken.as_ref().is_some_and(lost_its_way);
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
                    // Asked again in its turn, it may say another thing.
                    Answer::Refused(command, reply)
                        if was_ahead && may_have_lost_count(command, reply) =>
                    {
                        lost_count = true;
                        here.push(*row);
                        None
                    }
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
                        Some((why, _))
                            if scene.reused
                                && (why.is_loss() || was_ahead && lost_its_way(why))
                                && !after_dot(why) =>
                        {
                            here.push(*row);
                            None
                        }
                        Some((why, failure)) => {
                            self.note_push_back(failure);
                            let on = !after_dot(why) && failure.scope == Scope::Host;
                            self.done_or_on(*row, failure.clone(), on, &scene)
                        }
                        None => {
                            let failure =
                                Break::Eof(Command::Data).failure(false, self.relay.is_some());
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
            match was_ahead {
                true if lost_count => self.parts.step_by_step.add(host, port),
                true => self.parts.step_by_step.remove(host, port),
                false => {}
            }
            let rows: Vec<usize> = happened.iter().map(|one| one.row).collect();
            let taken = self.running.take(&rows);
            happened.retain(|one| taken.contains(&one.row));
            let judged = Judged::new(self.parts, self.running, happened);
            let kept = carried.session.as_ref().is_some_and(|kept| {
                !kept.is_ahead() && kept.may_carry_more(self.config.deliver_of(&self.line))
            });
            let nothing_left = here.is_empty() && self.pending.is_empty();
            if self.may_part && kept && nothing_left && judged.are_deliveries() {
                self.judged = Some(judged);
            } else {
                judged.commit(self.parts, self.running);
                self.running.dot_answered();
            }
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
        let scene = Arc::new(scene.clone());
        let mut fit = Vec::new();
        for row in here.drain(..) {
            let failure = unfit_for(
                self.config.deliver_of(&self.line),
                requirement,
                session.capabilities(),
                &self.running.head,
                &self.running.rows[row].recipient.path,
                &scene.host,
            );
            // What the message asks for says nothing against the host (SC-7).
            let Some(failure) = failure else {
                fit.push(row);
                continue;
            };
            if failure.status == REQUIRETLS {
                self.parts
                    .store
                    .metrics()
                    .requiretls(RequireTlsResult::Refused);
            }
            self.feedback.reached_mail = true;
            self.failures[row].push((failure, Arc::clone(&scene)));
            self.pending.push(row);
        }
        *here = fit;
    }
}

/// Why a host that announced this cannot have the message for this recipient (CL-11 to CL-13, TLS-12).
pub(super) fn unfit_for(
    deliver: &Deliver,
    requirement: &Requirement,
    capabilities: &Capabilities,
    head: &Head,
    path: &ForwardPath,
    host: &str,
) -> Option<Failure> {
    if requirement.requiretls && !capabilities.requiretls {
        // RFC 8689 §4.2.1
        let text = format!("{host} does not take REQUIRETLS, which the sender requires");
        return Some(unfit(REQUIRETLS, text));
    }
    if let Some(limit) = capabilities.size_limit.filter(|limit| *limit < head.size) {
        let size = head.size;
        let text = format!("message of {size} octets is over the limit of {limit} of {host}");
        return Some(unfit(EnhancedCode::new(5, 3, 4), text));
    }
    if head.eight_bit
        && !capabilities.eight_bit_mime
        && deliver.without_8bitmime == Without8BitMime::Fail
    {
        let text = format!("{host} does not take 8-bit content");
        return Some(unfit(EnhancedCode::new(5, 6, 3), text));
    }
    if needs_utf8(head, path) && !capabilities.smtputf8 {
        let text = format!("{host} does not take non-ASCII addresses");
        return Some(unfit(EnhancedCode::new(5, 6, 7), text));
    }
    None
}

/// Whether an address needs SMTPUTF8 (RFC 6531).
pub(super) fn needs_utf8(head: &Head, path: &ForwardPath) -> bool {
    let sender = head.reverse_path.mailbox();
    sender.is_some_and(|mailbox| mailbox.needs_utf8()) || path.needs_utf8()
}

/// What MAIL says of a message for these recipients.
pub(super) fn mail<'a>(
    head: &'a Head,
    mut rows: impl Iterator<Item = &'a RecipientRow>,
    requirement: &Requirement,
) -> Mail<'a> {
    Mail {
        reverse_path: &head.reverse_path,
        size: head.size,
        eight_bit: head.eight_bit,
        utf8: head.utf8_headers || rows.any(|row| needs_utf8(head, &row.recipient.path)),
        ret: head.ret,
        envid: head.envid.as_deref(),
        require_tls: requirement.requiretls,
    }
}

/// What RCPT says of a recipient.
pub(super) fn rcpt(row: &RecipientRow) -> Rcpt<'_> {
    Rcpt {
        path: &row.recipient.path,
        notify: row.recipient.notify,
        orcpt: row.recipient.orcpt.as_deref(),
    }
}

/// Whether a host that was sent commands behind the content before may have taken them for something else: it refuses what
/// it has not looked at, or finds a command in the wrong place (RFC 5321 §4.2.2).
fn may_have_lost_count(command: Command, reply: &Reply) -> bool {
    matches!(command, Command::Mail | Command::Data) || reply.code().get() == 503
}

/// What went out behind the content before may have been lost on a host that does not read on, or not be what it took it
/// for. A host that merely says that it closes is another thing.
fn lost_its_way(why: &Break) -> bool {
    let envelope = matches!(
        why.command(),
        Command::Mail | Command::Rcpt(_) | Command::Data
    );
    envelope && !matches!(why, Break::Said(broken) if matches!(broken.why, Why::Refused(_)))
}

/// The dot may be out: whatever happened, there is no second try in this attempt.
fn after_dot(why: &Break) -> bool {
    why.command() == Command::Dot
}
