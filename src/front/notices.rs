//! The door of our own mail: notifications to senders (DSN-1 to DSN-16).
//!
//! What is to be told stands in the store, written with the state that caused it; this thread composes it when it is
//! due and queues it in the transaction that strikes it from the list. A crash at any point leaves the one or the
//! other. It sleeps until the next time that the store knows, and asks nothing meanwhile (SC-1).
//!
//! To stop it, drop the sender that [`Notices::start`] keeps: [`Notices::stop`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Live};
use crate::dispatch::{Dispatcher, Wake};
use crate::log::Line;
use crate::message::dsn::{Action, Block, Composed, Notice, Original, compose};
use crate::message::trace::new_message_id;
use crate::message::{Head, NewRecipient, Notify, QueueId, RequireTls, Ret};
use crate::policy::notice;
use crate::policy::retry::Terms;
use crate::policy::route::{RouteFacts, route};
use crate::smtp::address::{AddressDomain, Mailbox, ReversePath};
use crate::smtp::reply::EnhancedCode;
use crate::store::{
    DestinationKey, NewContent, NewMessage, NewRow, NoticeKind, PendingNotice, RecipientRow,
    ShownAttempt, State, Store, StoreError,
};

/// Rows looked at in one go.
const STEP: usize = 500;

/// When the store cannot answer, it is asked again after this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The caller of our own mail.
const CALLER: &str = "dsn";

/// The thread that sends notifications.
pub struct Notices {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// What it works with.
#[derive(Clone)]
struct Parts {
    config: Live,
    store: Store,
    dispatcher: Dispatcher,
    clock: Clock,
}

impl Notices {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(
        config: Live,
        store: Store,
        dispatcher: Dispatcher,
        clock: Clock,
    ) -> std::io::Result<Notices> {
        let (stop, stopped) = bounded(0);
        let parts = Parts {
            config,
            store,
            dispatcher,
            clock,
        };
        let thread = std::thread::Builder::new()
            .name("notices".into())
            .spawn(move || run(&parts, &stopped))?;
        Ok(Notices { stop, thread })
    }

    /// Ends it after the notification in hand.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

fn run(parts: &Parts, stopped: &Receiver<()>) {
    let earlier = parts.store.notices();
    loop {
        // PRC-3: a panic costs one round, not the notices of all others.
        let round = catch_unwind(AssertUnwindSafe(|| tell_all_due(parts)));
        let next = match round {
            Ok(Ok(next)) => next,
            Ok(Err(StoreError::Closed)) => return,
            Ok(Err(error)) => {
                Line::new("notice")
                    .key("result", "later")
                    .peer("text", &error.to_string())
                    .warn();
                Some(parts.clock.now().plus(PATIENCE))
            }
            Err(_) => {
                Line::new("panic").key("thread", "notices").error();
                Some(parts.clock.now().plus(PATIENCE))
            }
        };
        let timer = parts.clock.timer(next.unwrap_or(Timestamp::MAX));
        select! {
            recv(stopped) -> _ => return,
            recv(earlier) -> _ => {}
            recv(timer) -> _ => {}
        }
    }
}

/// Tells everything that is due and returns when something will be next.
fn tell_all_due(parts: &Parts) -> Result<Option<Timestamp>, StoreError> {
    let config = parts.config.get();
    loop {
        let next = parts.store.next_notice()?;
        let now = parts.clock.now();
        if next.is_none_or(|next| next > now) {
            return Ok(next);
        }
        note_delays(parts, &config, now)?;
        for (id, kind) in parts.store.due_notices(now, STEP)? {
            tell(parts, &config, id, kind)?;
        }
        sum_up(parts, &config, now)?;
    }
}

/// RT-8: delays that have reached an age are written down as notices.
fn note_delays(parts: &Parts, config: &Config, now: Timestamp) -> Result<(), StoreError> {
    loop {
        let due = parts.store.delays(now, STEP)?;
        if due.is_empty() {
            return Ok(());
        }
        let rows = due
            .iter()
            .map(|delay| {
                let facts = delay.facts.as_ref();
                let next = facts.and_then(|(head, _)| notice::next_delay_of(config, head, now));
                (delay.row, next)
            })
            .collect();
        parts.store.note_delays(rows)?;
    }
}

/// Composes and queues one notification.
fn tell(parts: &Parts, config: &Config, id: QueueId, kind: NoticeKind) -> Result<(), StoreError> {
    let Some(mut pending) = parts.store.pending_notice(id, kind)? else {
        return Ok(());
    };
    let numbers = std::mem::take(&mut pending.numbers);
    let Some(head) = pending.head.clone() else {
        lost(id, kind, "the message's row is damaged");
        return parts
            .store
            .send_notice(id, kind, numbers, None, None)
            .map(drop);
    };
    let blocks = blocks(config, &head, kind, &pending, parts.clock.now());
    // DSN-12: where no answer can arrive, the postmaster gets it.
    let (to, sender) = match (recipient_of(config, &head), &config.dsn.postmaster) {
        (Some(sender), _) => (sender.clone(), true),
        (None, Some(postmaster)) => (postmaster.clone(), false),
        (None, None) => {
            lost(id, kind, "its sender cannot be reached by construction");
            return parts
                .store
                .send_notice(id, kind, numbers, None, None)
                .map(drop);
        }
    };
    if blocks.is_empty() {
        // Delivered since: there is nothing to tell any more.
        return parts
            .store
            .send_notice(id, kind, numbers, None, None)
            .map(drop);
    }
    let further = numbers.len().saturating_sub(pending.recipients.len());
    let original = original(parts, config, &head);
    let limit = usize::try_from(config.dsn.return_max.get()).unwrap_or(usize::MAX);
    let original = if whole_wanted(config, &head) {
        Original::whole_or_header(&original, limit)
    } else {
        Original::header_of(&original, limit)
    };
    let message_id = new_message_id(&config.hostname);
    let composed = compose(&Notice {
        head: &head,
        blocks: &blocks,
        further,
        original,
        reporting_mta: &config.hostname,
        from: &config.dsn.from,
        to: &to,
        now: parts.clock.now(),
        message_id: &message_id,
        boundary_seed: &format!("{:032x}", rand::random::<u128>()),
    });
    let share =
        (sender && kind != NoticeKind::Success).then(|| (to.to_string(), config.dsn.per_sender));
    let (message, destination) = own_message(parts, config, &composed, message_id, &to)?;
    let own = message.head.id;
    let sent = parts
        .store
        .send_notice(id, kind, numbers, Some(message), share)?;
    let line = Line::new("notice")
        .key("qid", id)
        .path("to", &to)
        .key("kind", word(kind))
        .num("rcpts", (blocks.len() + further) as u64);
    if sent {
        line.key("result", "queued").key("as", own).info();
        let now = parts.clock.now();
        parts.dispatcher.wake(Wake::Due(destination, now));
    } else {
        // DSN-11: never silently.
        line.key("result", "withheld").warn();
    }
    Ok(())
}

/// DSN-11: what was withheld is summed up to the postmaster once an hour.
fn sum_up(parts: &Parts, config: &Config, now: Timestamp) -> Result<(), StoreError> {
    let withheld = parts.store.withheld_notices(now)?;
    if withheld.is_empty() {
        return Ok(());
    }
    let addresses: Vec<String> = withheld
        .iter()
        .map(|(address, _)| address.clone())
        .collect();
    let Some(postmaster) = &config.dsn.postmaster else {
        // Each was logged when it was withheld.
        return parts.store.send_summary(addresses, None);
    };
    let message_id = new_message_id(&config.hostname);
    let composed = crate::message::dsn::summary(
        &withheld,
        &config.hostname,
        &config.dsn.from,
        postmaster,
        now,
        &message_id,
    );
    let (message, destination) = own_message(parts, config, &composed, message_id, postmaster)?;
    parts.store.send_summary(addresses, Some(message))?;
    parts.dispatcher.wake(Wake::Due(destination, now));
    Ok(())
}

/// Whom a notification goes to, unless it cannot be delivered by construction.
fn recipient_of<'a>(config: &Config, head: &'a Head) -> Option<&'a Mailbox> {
    let sender = head.reverse_path.mailbox()?;
    match sender.domain() {
        AddressDomain::Literal(_) if !config.deliver.address_literals => None,
        _ => Some(sender),
    }
}

/// RET decides, else the configuration (DSN-5).
fn whole_wanted(config: &Config, head: &Head) -> bool {
    match head.ret {
        Some(ret) => ret == Ret::Full,
        None => config.dsn.return_full,
    }
}

/// What of the original may be returned; empty if its content cannot be read, because the notification matters more.
fn original(parts: &Parts, config: &Config, head: &Head) -> Vec<u8> {
    let limit = usize::try_from(config.dsn.return_max.get()).unwrap_or(usize::MAX);
    let mut octets = head.added_header.clone();
    let read = (|| {
        let mut content = parts.store.content(head.id)?;
        while octets.len() <= limit {
            let Some(chunk) = content.next_chunk()? else {
                break;
            };
            octets.extend_from_slice(&chunk);
        }
        Ok::<(), StoreError>(())
    })();
    if let Err(error) = read {
        Line::new("notice")
            .key("qid", head.id)
            .peer("text", &format!("without the original: {error}"))
            .warn();
    }
    octets
}

fn blocks(
    config: &Config,
    head: &Head,
    kind: NoticeKind,
    pending: &PendingNotice,
    now: Timestamp,
) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (row, attempt) in &pending.recipients {
        // A delay is news only while it lasts.
        if kind == NoticeKind::Delayed && row.state.is_final() {
            continue;
        }
        let block = block(config, head, kind, row, attempt.as_ref(), now);
        // DSN-16: several expansions of one original recipient are one.
        let known = block.orcpt.is_some() && blocks.iter().any(|b| b.orcpt == block.orcpt);
        if !known {
            blocks.push(block);
        }
    }
    blocks
}

fn block(
    config: &Config,
    head: &Head,
    kind: NoticeKind,
    row: &RecipientRow,
    attempt: Option<&ShownAttempt>,
    now: Timestamp,
) -> Block {
    let last = attempt.and_then(|attempt| attempt.result.as_ref());
    let by_operator = attempt.is_some_and(|attempt| attempt.operator.is_some());
    let (action, status) = match (kind, row.state) {
        (NoticeKind::Success, _) => (
            Action::Relayed,
            last.map_or(EnhancedCode::new(2, 0, 0), |last| last.status),
        ),
        (NoticeKind::Delayed, _) => (
            Action::Delayed,
            last.map_or(EnhancedCode::new(4, 0, 0), |last| last.status),
        ),
        // CTL-12, DSN-7
        (NoticeKind::Failed, _) if by_operator => (Action::Failed, EnhancedCode::new(5, 7, 0)),
        (NoticeKind::Failed, State::Expired) => (Action::Failed, EnhancedCode::new(4, 4, 7)),
        (NoticeKind::Failed, _) => (
            Action::Failed,
            last.map_or(EnhancedCode::new(5, 0, 0), |last| last.status),
        ),
    };
    let last = last.filter(|_| !by_operator);
    let delayed = kind == NoticeKind::Delayed;
    let reason = match last {
        Some(last) => last.text.clone(),
        None if row.blocker.is_empty() && delayed => "It has not been tried yet.".to_owned(),
        None => row.blocker.clone(),
    };
    Block {
        number: row.id.number,
        path: row.recipient.path.clone(),
        orcpt: row.recipient.orcpt.clone(),
        action,
        status,
        remote: last
            .filter(|last| !last.host.is_empty())
            .map(|last| (last.host.clone(), last.address.map(|address| address.ip()))),
        code: last.and_then(|last| last.code),
        reason,
        attempts: row.attempts,
        last_attempt: row.last_attempt,
        next_attempt: delayed.then(|| row.next_attempt.max(now)),
        retry_until: delayed.then(|| Terms::of(config, head).expiry()),
    }
}

/// A message of our own: from nobody, exempt from limits, ready to queue.
fn own_message(
    parts: &Parts,
    config: &Config,
    composed: &Composed,
    message_id: String,
    to: &Mailbox,
) -> Result<(NewMessage, DestinationKey), StoreError> {
    let path = match &config.local_mail_to {
        Some(local) if *to.domain() == AddressDomain::Name(config.hostname.clone()) => {
            local.clone()
        }
        _ => to.clone(),
    };
    let now = parts.clock.now();
    let head = Head {
        id: parts.store.allocate_id()?,
        arrived: now,
        caller: CALLER.into(),
        client: CALLER.into(),
        reverse_path: ReversePath::Null,
        added_header: Vec::new(),
        message_id,
        subject: composed.subject.clone(),
        size: composed.content.len() as u64,
        eight_bit: composed.eight_bit,
        utf8_headers: composed.utf8_headers,
        require_tls: RequireTls::Default,
        envid: None,
        ret: None,
        priority: 0,
        lifetime: None,
        max_attempts: None,
        extras: Vec::new(),
    };
    let routed = route(
        config,
        &RouteFacts {
            caller: CALLER,
            from: &head.reverse_path,
            to: &path,
            attempts: 0,
            operator: None,
        },
    );
    let destination = routed.destination;
    let row = NewRow {
        recipient: NewRecipient {
            path,
            orcpt: None,
            // RFC 3461 §6.1: a notification asks for none.
            notify: Notify {
                never: true,
                success: false,
                failure: false,
                delay: false,
                given: true,
            },
        },
        destination: destination.clone(),
        due: now,
        hold: None,
        delay_due: None,
        claim: None,
    };
    let message = NewMessage {
        head: Arc::new(head),
        content: NewContent::Inline(composed.content.clone().into()),
        recipients: vec![row],
        exempt_from_limits: true,
    };
    Ok((message, destination))
}

fn word(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Failed => "failed",
        NoticeKind::Delayed => "delayed",
        NoticeKind::Success => "success",
    }
}

/// DSN-10: a notification that cannot be sent is at least said here.
fn lost(id: QueueId, kind: NoticeKind, why: &str) {
    Line::new("notice")
        .key("qid", id)
        .key("kind", word(kind))
        .key("result", "lost")
        .peer("text", why)
        .error();
}
