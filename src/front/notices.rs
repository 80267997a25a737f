//! The door of our own mail: notifications to senders (DSN-1 to DSN-16).
//!
//! What is to be told stands in the store, written with the state that caused it; this thread composes it when it is
//! due and queues it in the transaction that strikes it from the list. A crash at any point leaves the one or the
//! other. It sleeps until the next time that the store knows, and asks nothing meanwhile (SC-1).
//!
//! To stop it, drop the sender that [`Notices::start`] keeps: [`Notices::stop`].

mod blocks;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select};

use self::blocks::blocks;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, Live};
use crate::dispatch::{Dispatcher, Wake};
use crate::log::Line;
use crate::message::dkim;
use crate::message::dsn::{Composed, Notice, Original, compose, without_original};
use crate::message::trace::new_message_id;
use crate::message::{Head, NewRecipient, Notify, QueueId, RequireTls, Ret};
use crate::policy::notice;
use crate::policy::retry::Terms;
use crate::policy::route::{RouteFacts, route};
use crate::smtp::address::{AddressDomain, Mailbox, ReversePath};
use crate::store::{
    DelayNoted, DestinationKey, DueRecipient, NewContent, NewMessage, NewRow, NoticeKind,
    PendingNotice, Store, StoreError,
};

/// Rows looked at in one go.
const STEP: usize = 500;

/// When the store cannot answer, it is asked again after this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A notice whose making panics is tried again after this time, and meanwhile stands in nobody's way.
const AFTER_PANIC: Duration = Duration::from_secs(3600);

/// Longest sleep while there is something to tell some day, so that a step of the wall clock is noticed (RT-9).
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// The caller of our own mail.
const CALLER: &str = "dsn";

/// The thread that sends notifications.
pub struct Notices {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Why mail waits that is not tried, and until when.
type Blocker = dyn Fn(&DueRecipient) -> Option<(String, Option<Timestamp>)> + Send + Sync;

/// What makes notifications: all of it but the thread that does it in time.
#[derive(Clone)]
pub struct Teller {
    /// The configuration in force.
    pub config: Live,
    /// The queue.
    pub store: Store,
    /// Its time.
    pub clock: Clock,
    /// Tells dispatch of a notification that is due.
    pub wake: Arc<dyn Fn(Wake) + Send + Sync>,
    /// What dispatch says of mail that is due.
    pub blocker: Arc<Blocker>,
}

impl Teller {
    /// Tells everything that is due and returns when something will be next.
    ///
    /// # Errors
    /// [`StoreError`]: what was not told stays on its list; ask again later.
    pub fn tell_all_due(&self) -> Result<Option<Timestamp>, StoreError> {
        tell_all_due(self)
    }
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
        let waking = dispatcher.clone();
        let parts = Teller {
            config,
            store,
            clock,
            wake: Arc::new(move |wake| waking.wake(wake)),
            blocker: Arc::new(move |due| dispatcher.blocker(due)),
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

fn run(parts: &Teller, stopped: &Receiver<()>) {
    let earlier = parts.store.notices();
    loop {
        // PRC-3: a panic costs one round, not the notices of all others.
        let round = catch_unwind(AssertUnwindSafe(|| tell_all_due(parts)));
        let now = parts.clock.now();
        let next = match round {
            Ok(Ok(next)) => next.map(|next| next.min(now.plus(LONGEST_SLEEP))),
            Ok(Err(StoreError::Closed)) => return,
            Ok(Err(error)) => {
                // The store is full or busy: everything stays on its list.
                Line::new("notice")
                    .key("result", "later")
                    .peer("text", &error.to_string())
                    .warn();
                Some(now.plus(PATIENCE))
            }
            Err(_) => {
                Line::new("panic").key("thread", "notices").error();
                Some(now.plus(PATIENCE))
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

fn tell_all_due(parts: &Teller) -> Result<Option<Timestamp>, StoreError> {
    let config = parts.config.get();
    loop {
        let next = parts.store.next_notice()?;
        let now = parts.clock.now();
        if next.is_none_or(|next| next > now) {
            return Ok(next);
        }
        note_delays(parts, &config, now)?;
        for (id, kind) in parts.store.due_notices(now, STEP)? {
            tell_or_postpone(parts, &config, id, kind)?;
        }
        sum_up(parts, &config, now)?;
    }
}

/// RT-8: delays that have reached an age are written down as notices.
fn note_delays(parts: &Teller, config: &Config, now: Timestamp) -> Result<(), StoreError> {
    loop {
        let due = parts.store.delays(now, STEP)?;
        if due.is_empty() {
            return Ok(());
        }
        let rows = due
            .iter()
            .map(|delay| {
                // What cannot be read is dispatch's to hold.
                let (told, next) = delay.facts.as_ref().map_or((None, None), |(head, row)| {
                    let terms = Terms::of_waiting(config, head, row);
                    let told = notice::delay_reached(&terms, head, row.delay_told, now);
                    let known = told.unwrap_or(row.delay_told);
                    let next = notice::next_delay_of(&terms, head, known);
                    // Past the expiry an age that went by is nothing to wait for.
                    (told, next.filter(|next| *next > now))
                });
                DelayNoted {
                    row: delay.row,
                    told,
                    next,
                }
            })
            .collect();
        parts.store.note_delays(rows)?;
    }
}

/// One notice that cannot be made must not keep the others from their senders: it is put off, if the store still
/// takes anything.
fn tell_or_postpone(
    parts: &Teller,
    config: &Config,
    id: QueueId,
    kind: NoticeKind,
) -> Result<(), StoreError> {
    let made = catch_unwind(AssertUnwindSafe(|| tell(parts, config, id, kind)));
    let line = Line::new("notice").key("qid", id).key("kind", word(kind));
    let after = match made {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(StoreError::Closed)) => return Err(StoreError::Closed),
        Ok(Err(error)) => {
            let line = line.key("result", "later");
            line.peer("text", &error.to_string()).warn();
            PATIENCE
        }
        Err(_) => {
            line.key("result", "later").key("text", "panic").error();
            AFTER_PANIC
        }
    };
    let later = parts.clock.now().plus(after);
    parts.store.postpone_notice(id, kind, later)
}

/// Composes and queues one notification.
fn tell(parts: &Teller, config: &Config, id: QueueId, kind: NoticeKind) -> Result<(), StoreError> {
    let Some(mut pending) = parts.store.pending_notice(id, kind)? else {
        return Ok(());
    };
    let numbers = std::mem::take(&mut pending.numbers);
    let Some(head) = pending.head.clone() else {
        lost(parts, id, kind, "the message's row is damaged");
        return parts
            .store
            .send_notice(id, kind, numbers, None, None)
            .map(drop);
    };
    if head.caller == CALLER && head.reverse_path == ReversePath::Null {
        return tell_again(parts, config, kind, numbers, &head, &pending);
    }
    let blocks = blocks(parts, config, &head, kind, &pending);
    // DSN-12: where no answer can arrive, the postmaster gets it.
    let (to, sender) = match (recipient_of(config, &head), &config.dsn.postmaster) {
        (Some(sender), _) => (sender.clone(), true),
        (None, Some(postmaster)) => (postmaster.clone(), false),
        (None, None) => {
            lost(
                parts,
                id,
                kind,
                "its sender cannot be reached by construction",
            );
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
        further: pending.further,
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
    // DSN-15, RFC 8689 §5; without REQUIRETLS the header field may ask for less, which is nobody else's business.
    let require = match head.require_tls {
        RequireTls::Yes => RequireTls::Yes,
        RequireTls::No | RequireTls::Default => RequireTls::Default,
    };
    let (message, destination) = own_message(parts, config, &composed, message_id, &to, require)?;
    let own = message.head.id;
    let sent = parts
        .store
        .send_notice(id, kind, numbers, Some(message), share)?;
    let line = Line::new("notice")
        .key("qid", id)
        .path("to", &to)
        .key("kind", word(kind))
        .num("rcpts", (blocks.len() + pending.further) as u64);
    if sent {
        line.key("result", "queued").key("as", own).info();
        let now = parts.clock.now();
        (parts.wake)(Wake::Due(destination, now));
    } else {
        // DSN-11: never silently.
        line.key("result", "withheld").warn();
    }
    Ok(())
}

/// DSN-15: a notification that nobody took under REQUIRETLS goes once more, under no requirement and with nothing of the
/// original in it.
fn tell_again(
    parts: &Teller,
    config: &Config,
    kind: NoticeKind,
    numbers: Vec<u32>,
    head: &Head,
    pending: &PendingNotice,
) -> Result<(), StoreError> {
    let id = head.id;
    let content = whole(parts, head);
    let redacted = without_original(&content);
    let (Some((row, _)), Some(content)) = (pending.recipients.first(), redacted) else {
        lost(
            parts,
            id,
            kind,
            "it cannot be read to be sent without the original",
        );
        return parts
            .store
            .send_notice(id, kind, numbers, None, None)
            .map(drop);
    };
    let composed = Composed {
        eight_bit: !content.is_ascii(),
        content,
        subject: head.subject.clone(),
        utf8_headers: head.utf8_headers,
        described: 0,
    };
    let to = &row.recipient.path;
    let message_id = head.message_id.clone();
    let require = RequireTls::Default;
    let (message, destination) = own_message(parts, config, &composed, message_id, to, require)?;
    let own = message.head.id;
    parts
        .store
        .send_notice(id, kind, numbers, Some(message), None)?;
    Line::new("notice")
        .key("qid", id)
        .path("to", to)
        .key("kind", word(kind))
        .key("result", "queued")
        .key("as", own)
        .key("text", "without the original, not under REQUIRETLS")
        .info();
    (parts.wake)(Wake::Due(destination, parts.clock.now()));
    Ok(())
}

/// The content of one of our own notifications.
fn whole(parts: &Teller, head: &Head) -> Vec<u8> {
    let mut octets = Vec::new();
    let read = (|| {
        let mut content = parts.store.content(head.id)?;
        while let Some(chunk) = content.next_chunk()? {
            octets.extend_from_slice(&chunk);
        }
        Ok::<(), StoreError>(())
    })();
    match read {
        Ok(()) => octets,
        Err(_) => Vec::new(),
    }
}

/// DSN-11: what was withheld is summed up to the postmaster once an hour.
fn sum_up(parts: &Teller, config: &Config, now: Timestamp) -> Result<(), StoreError> {
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
    let require = RequireTls::Default;
    let (message, destination) =
        own_message(parts, config, &composed, message_id, postmaster, require)?;
    parts.store.send_summary(addresses, Some(message))?;
    (parts.wake)(Wake::Due(destination, now));
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

/// RET decides, else the configuration (DSN-5); never with REQUIRETLS (DSN-15).
fn whole_wanted(config: &Config, head: &Head) -> bool {
    match head.ret {
        _ if head.require_tls == RequireTls::Yes => false,
        Some(ret) => ret == Ret::Full,
        None => config.dsn.return_full,
    }
}

/// What of the original may be returned; empty if its content cannot be read, because the notification matters more.
fn original(parts: &Teller, config: &Config, head: &Head) -> Vec<u8> {
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

/// A message of our own: from nobody, exempt from limits, ready to queue.
fn own_message(
    parts: &Teller,
    config: &Config,
    composed: &Composed,
    message_id: String,
    to: &Mailbox,
    require_tls: RequireTls,
) -> Result<(NewMessage, DestinationKey), StoreError> {
    let path = match &config.local_mail_to {
        Some(local) if *to.domain() == AddressDomain::Name(config.hostname.clone()) => {
            local.clone()
        }
        _ => to.clone(),
    };
    let now = parts.clock.now();
    // DSN-10, MSG-8: what cannot be signed waits on its list.
    let signatures = dkim::sign(&parts.config.keyring(), &composed.content, now)
        .map_err(|error| StoreError::Failed(error.to_string()))?;
    let head = Head {
        client: CALLER.into(),
        message_id,
        subject: composed.subject.clone(),
        size: (signatures.len() + composed.content.len()) as u64,
        added_header: signatures.into_bytes(),
        eight_bit: composed.eight_bit,
        utf8_headers: composed.utf8_headers,
        require_tls,
        ..Head::new(parts.store.allocate_id()?, now, CALLER)
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
            notify: Notify::NEVER,
        },
        destination: destination.clone(),
        due: now,
        hold: None,
        delay_due: None,
        claim: None,
    };
    let message = NewMessage {
        head: Arc::new(head),
        content: NewContent::Inline(Arc::new(composed.content.clone())),
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
fn lost(parts: &Teller, id: QueueId, kind: NoticeKind, why: &str) {
    parts.store.count_lost_notice();
    Line::new("notice")
        .key("qid", id)
        .key("kind", word(kind))
        .key("result", "lost")
        .peer("text", why)
        .error();
}
