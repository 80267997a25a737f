//! The one way for every door to queue a message.
//!
//! A door begins with an envelope, writes content as it arrives, and finishes: then the message is committed or
//! refused whole. Dropping it unfinished leaves nothing behind.

mod plan;

use std::collections::HashSet;
use std::sync::Arc;

use super::memory::{Memory, Share};
use super::refusal::Refusal;
use crate::clock::Clock;
use crate::config::{BareNewline, Config, Live};
use crate::dispatch::{Dispatcher, Wake};
use crate::log::Line;
use crate::message::dkim::Signer;
use crate::message::header::{HeaderFacts, HeaderScanner};
use crate::message::trace::{Origin, Received, new_message_id, write_date};
use crate::message::{Head, NewRecipient, QueueId, RequireTls, Ret};
use crate::net::tls::server::Secured;
use crate::policy::tlsrpt::schedule;
use crate::smtp::address::{Domain, ForwardPath, ReversePath};
use crate::smtp::data::Oddities;
use crate::store::{NewContent, NewMessage, Staged, Store};

/// content up to this size is stored with its accepting commit.
const INLINE: u64 = 256 * 1024;
/// the largest piece that is committed ahead.
const PIECE: u64 = 1024 * 1024;
/// Octets of a header that a signer may keep without asking for room.
const SMALL_HEADER: usize = 64 * 1024;

/// Where a message comes from.
#[derive(Clone, Debug)]
pub struct Client {
    /// The caller: `relay`, `uid:NAME` or the name of a `[[caller]]`.
    pub caller: String,
    /// What it called itself.
    pub helo: String,
    /// Its address or uid.
    pub origin: Origin,
}

/// The envelope of a message, and how it came.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// The recipients; repeated ones become one.
    pub recipients: Vec<NewRecipient>,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID.
    pub envid: Option<String>,
    /// The size that was announced, if any. Only a hint.
    pub size: Option<u64>,
    /// REQUIRETLS.
    pub require_tls: bool,
    /// The protocol, for Received (RFC 3848).
    pub protocol: &'static str,
    /// The TLS it came in.
    pub tls: Option<Secured>,
    /// What becomes of bare LF (IN-4).
    pub bare_newline: BareNewline,
}

/// The kind of door that this came through, as metrics name it.
pub fn door(origin: Origin) -> &'static str {
    match origin {
        Origin::Ip(_) => "smtp",
        Origin::Uid(_) => "unix",
        Origin::Own => "own",
    }
}

/// What all doors share. One for the daemon, in an `Arc`.
pub struct Intake {
    config: Live,
    store: Store,
    dispatcher: Dispatcher,
    clock: Clock,
    memory: Memory,
}

/// Whether mail from this sender is taken at all (SC-14). For doors that can say so before the content comes;
/// [`Intake::begin`] asks it again.
///
/// # Errors
/// [`Refusal::SenderDisabled`].
pub fn check_sender(config: &Config, sender: &ReversePath) -> Result<(), Refusal> {
    let disabled = sender.mailbox().is_some_and(|mailbox| {
        let mut patterns = config.queue.disabled_senders.iter();
        patterns.any(|pattern| pattern.matches(mailbox.domain()))
    });
    if disabled {
        Err(Refusal::SenderDisabled)
    } else {
        Ok(())
    }
}

impl Intake {
    /// The parts that it stands on.
    pub fn new(config: Live, store: Store, dispatcher: Dispatcher, clock: Clock) -> Intake {
        Intake {
            config,
            store,
            dispatcher,
            clock,
            memory: Memory::default(),
        }
    }

    /// A command was refused before there was a message; `reason` is its code, or a word.
    pub(super) fn count_refused(&self, origin: Origin, reason: &str) {
        self.store.metrics().rejected(door(origin), reason);
    }

    /// The configuration in force now.
    pub fn config(&self) -> Arc<Config> {
        self.config.get()
    }

    /// Whether mail from this domain is signed.
    pub(super) fn signs_for(&self, domain: &Domain) -> bool {
        self.config.keyring().signs(domain)
    }

    /// Octets that are set aside for messages being received.
    pub fn memory_held(&self) -> u64 {
        self.memory.held()
    }

    /// Begins a message. Does not block.
    ///
    /// # Errors
    /// [`Refusal`]: what can be known before the content comes.
    pub fn begin(&self, client: Client, envelope: Envelope) -> Result<Incoming<'_>, Refusal> {
        let config = self.config.get();
        check_sender(&config, &envelope.reverse_path)?;
        if envelope.recipients.is_empty() {
            return Err(Refusal::NoRecipients);
        }
        // A client that announces little and sends much is staged in small pieces; it gets no more memory for it.
        let piece = envelope.size.unwrap_or(PIECE).clamp(INLINE, PIECE);
        let share = self
            .memory
            .share(piece, config.intake.memory.get())
            .ok_or(Refusal::OutOfMemory)?;
        let incoming = Incoming {
            header: HeaderScanner::new(config.intake.max_header.get()),
            max_header: config.intake.max_header.get(),
            max_size: config.intake.max_message_size.get(),
            max_hops: config.intake.max_hops,
            piece: usize::try_from(piece).unwrap_or(usize::MAX),
            intake: self,
            client,
            envelope,
            size: 0,
            eight_bit: false,
            buffer: Vec::new(),
            staged: None,
            signer: None,
            refusal: None,
            share,
        };
        if config.dkim.is_empty() {
            return Ok(incoming);
        }
        let signer = Signer::new(self.config.keyring());
        Ok(Incoming {
            signer: Some(Box::new(signer)),
            ..incoming
        })
    }
}

/// A message that is arriving.
pub struct Incoming<'a> {
    intake: &'a Intake,
    client: Client,
    envelope: Envelope,
    max_size: u64,
    max_hops: u32,
    /// Octets of a piece that is committed ahead, and most octets held.
    piece: usize,
    header: HeaderScanner,
    max_header: u64,
    size: u64,
    eight_bit: bool,
    buffer: Vec<u8>,
    staged: Option<(QueueId, Staged)>,
    /// Hashes what comes, where there are keys.
    signer: Option<Box<Signer>>,
    /// Known early, said at the end: content is always read to its end.
    refusal: Option<Refusal>,
    /// What it may hold.
    share: Share,
}

impl Incoming<'_> {
    /// Takes the next piece of content, CRLF line ends. Blocks for a commit now and then if the message is large.
    pub fn write(&mut self, mut content: &[u8]) {
        self.size = self.size.saturating_add(content.len() as u64);
        if self.refusal.is_some() {
            return;
        }
        if self.size > self.max_size {
            return self.refuse(Refusal::TooLarge);
        }
        if !self.header.is_over() {
            self.header.read(content);
            if let Some(fault) = self.header.fault() {
                return self.refuse(Refusal::Header(fault));
            }
        }
        if let Some(signer) = &mut self.signer {
            signer.read(content);
            if signer.held() > SMALL_HEADER
                && !self.share.covers(self.piece as u64 + self.max_header)
            {
                let most = self.intake.config.get().intake.memory.get();
                if !self.share.grow(self.max_header, most) {
                    return self.refuse(Refusal::OutOfMemory);
                }
            }
        }
        self.eight_bit |= !content.is_ascii();
        while !content.is_empty() {
            if self.buffer.len() == self.piece
                && let Err(refusal) = self.stage()
            {
                return self.refuse(refusal);
            }
            let (now, later) = content.split_at(content.len().min(self.piece - self.buffer.len()));
            self.make_room(now.len());
            self.buffer.extend_from_slice(now);
            content = later;
        }
    }

    /// Octets so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.refusal = Some(refusal);
        self.buffer = Vec::new();
        self.staged = None;
        self.signer = None;
    }

    /// Grows by doubling, but never beyond the piece that this message has a share for.
    fn make_room(&mut self, more: usize) {
        let (wanted, capacity) = (self.buffer.len() + more, self.buffer.capacity());
        if wanted > capacity {
            let capacity = wanted.max(capacity * 2).min(self.piece);
            self.buffer.reserve_exact(capacity - self.buffer.len());
        }
    }

    fn stage(&mut self) -> Result<(), Refusal> {
        let (_, staged) = match &mut self.staged {
            Some(staged) => staged,
            none => {
                let id = self.intake.store.allocate_id()?;
                none.insert((id, self.intake.store.stage(id)))
            }
        };
        staged.append(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Queues the message; on return it is committed, and the work it makes is known to the dispatcher. `odd` is what
    /// the content had that no content should.
    ///
    /// # Errors
    /// [`Refusal`]; it is in the log already.
    pub fn finish(mut self, odd: Oddities) -> Result<QueueId, Refusal> {
        let result = self.queue(odd);
        let metrics = self.intake.store.metrics();
        match &result {
            Ok(_) => metrics.accepted(door(self.client.origin), &self.client.caller),
            Err(refusal) => {
                metrics.rejected(door(self.client.origin), refusal.name());
                self.log_refusal(refusal);
            }
        }
        result
    }

    fn queue(&mut self, odd: Oddities) -> Result<QueueId, Refusal> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        if let Some(refusal) = Refusal::of_oddities(odd, self.envelope.bare_newline) {
            return Err(refusal);
        }
        let header = std::mem::replace(&mut self.header, HeaderScanner::new(0));
        let header = header.finish().map_err(Refusal::Header)?;
        if header.received > self.max_hops {
            return Err(Refusal::TooManyHops);
        }
        let (id, content) = self.take_content()?;
        // A worker that takes it at once need not read it back.
        let warm = match &content {
            NewContent::Inline(content) => Some(Arc::clone(content)),
            NewContent::Staged(_) => None,
        };
        let config = self.intake.config.get();
        let recipients = without_repeats(std::mem::take(&mut self.envelope.recipients));
        let head = Arc::new(self.head(&config, id, header, &recipients)?);
        let plan = self.plan(&config, &head, recipients);
        self.intake.store.enqueue(NewMessage {
            head: Arc::clone(&head),
            content,
            recipients: plan.rows,
            exempt_from_limits: self.is_own(),
        })?;
        self.log_queued(&head, &plan.only, plan.recipients);
        for mut transaction in plan.claimed {
            transaction.content = warm.clone();
            self.intake.dispatcher.submit(transaction);
        }
        for destination in plan.waiting {
            let wake = Wake::Due(destination, head.arrived);
            self.intake.dispatcher.wake(wake);
        }
        Ok(id)
    }

    fn take_content(&mut self) -> Result<(QueueId, NewContent), Refusal> {
        if self.staged.is_none() && self.buffer.len() as u64 <= INLINE {
            let content = Arc::new(std::mem::take(&mut self.buffer));
            let id = self.intake.store.allocate_id()?;
            return Ok((id, NewContent::Inline(content)));
        }
        if !self.buffer.is_empty() {
            self.stage()?;
        }
        match self.staged.take() {
            Some((id, staged)) => Ok((id, NewContent::Staged(staged))),
            None => unreachable!("content that is not inline was staged just now"),
        }
    }

    fn head(
        &mut self,
        config: &Config,
        id: QueueId,
        header: HeaderFacts,
        recipients: &[NewRecipient],
    ) -> Result<Head, Refusal> {
        let arrived = self.intake.clock.now();
        let mut added = String::with_capacity(400);
        let only = match recipients {
            [only] => Some(&only.path),
            _ => None,
        };
        // Nobody handed in what is our own.
        if !self.is_own() {
            Received {
                helo: &self.client.helo,
                origin: self.client.origin,
                protocol: self.envelope.protocol,
                cipher: self.envelope.tls.map(|tls| tls.cipher),
                hostname: &config.hostname,
                id,
                only,
                arrived,
            }
            .write(&mut added);
        }
        let trace = added.len();
        // MSG-1
        if !header.date {
            write_date(&mut added, arrived);
        }
        let message_id = header.message_id.unwrap_or_else(|| {
            let id = new_message_id(&config.hostname);
            added.push_str("Message-ID: ");
            added.push_str(&id);
            added.push_str("\r\n");
            id
        });
        if let Some(signer) = self.signer.take() {
            // Above all that it signs (RFC 6376 §5.6).
            let signatures = signer.finish(&added.as_bytes()[trace..], arrived)?;
            added.insert_str(trace, &signatures);
        }
        Ok(Head {
            id,
            arrived,
            caller: self.client.caller.clone(),
            client: self.client.origin.to_string(),
            reverse_path: self.envelope.reverse_path.clone(),
            size: self.size + added.len() as u64,
            added_header: added.into_bytes(),
            message_id,
            subject: header.subject.unwrap_or_default(),
            eight_bit: self.eight_bit,
            utf8_headers: header.utf8,
            // RFC 8689 §4.1: beside REQUIRETLS the header field means nothing.
            require_tls: match self.envelope.require_tls {
                true => RequireTls::Yes,
                false => header.require_tls,
            },
            envid: self.envelope.envid.clone(),
            ret: self.envelope.ret,
            priority: 0,
            // RT-10, RPT-4: a report is of no use for long.
            lifetime: self.is_own().then(|| config.dsn.lifetime.get()),
            max_attempts: self.is_own().then_some(schedule::TRIES),
            extras: Vec::new(),
        })
    }

    /// A report: it passes the limits of Q-18, and is tried for a short while.
    fn is_own(&self) -> bool {
        self.client.origin == Origin::Own
    }

    fn log_queued(&self, head: &Head, only: &Option<ForwardPath>, recipients: usize) {
        let mut line = Line::new("queued")
            .key("qid", head.id)
            .path("from", &head.reverse_path);
        if let Some(only) = only {
            line = line.path("to", only);
        }
        line.num("rcpts", recipients as u64)
            .num("size", head.size)
            .key("client", &head.client)
            .key("caller", &head.caller)
            .key("proto", self.envelope.protocol)
            .opt("tls", self.envelope.tls)
            .peer("helo", &self.client.helo)
            .peer("msgid", &head.message_id)
            .info();
    }

    fn log_refusal(&self, refusal: &Refusal) {
        let answer = refusal.answer();
        let line = Line::of_client("rejected", self.client.origin)
            .key("caller", &self.client.caller)
            .path("from", &self.envelope.reverse_path)
            .opt("tls", self.envelope.tls)
            .num("size", self.size)
            .num("code", answer.code())
            .opt("status", answer.status())
            .peer("helo", &self.client.helo)
            .peer("text", &refusal.to_string());
        match refusal {
            // The store says itself what an operator must act on.
            Refusal::Store(_) | Refusal::OutOfMemory => line.warn(),
            Refusal::Signing(_) => line.error(),
            _ => line.info(),
        }
    }
}

/// of equal recipients the first stays, with what it asked for.
fn without_repeats(recipients: Vec<NewRecipient>) -> Vec<NewRecipient> {
    if recipients.len() < 2 {
        return recipients;
    }
    let mut seen = HashSet::with_capacity(recipients.len());
    let mut kept = Vec::with_capacity(recipients.len());
    for recipient in recipients {
        if seen.insert(recipient.path.clone()) {
            kept.push(recipient);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::message::Notify;
    use crate::message::dkim::{Keyring, SigningKey};
    use crate::smtp::address::Domain;
    use crate::store::Settings;
    use crate::testing::TempDir;

    fn client() -> Client {
        Client {
            caller: "relay".to_owned(),
            helo: "x".to_owned(),
            origin: Origin::Uid(None),
        }
    }

    fn envelope() -> Envelope {
        Envelope {
            reverse_path: ReversePath::Null,
            recipients: vec![NewRecipient {
                path: ForwardPath::parse("bob@dest.example", false).unwrap(),
                orcpt: None,
                notify: Notify::default(),
            }],
            ret: None,
            envid: None,
            size: None,
            require_tls: false,
            protocol: "ESMTP",
            tls: None,
            bare_newline: BareNewline::Normalize,
        }
    }

    // MSG-8, IN-26, ST-17
    #[test]
    fn what_cannot_be_signed_is_refused_for_now_and_nothing_of_it_is_queued() {
        let directory = TempDir::new();
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        let settings = Settings {
            collect: Duration::ZERO,
            ..Settings::at(&directory.join("queue"))
        };
        let (store, _) = Store::open(&settings, &clock).unwrap();
        let here = Domain::parse("here.example").unwrap();
        let mut config = Config::default_for(here.clone());
        config.dkim = vec![crate::config::Dkim {
            domain: here.clone(),
            selector: here.clone(),
            key: directory.join("key"),
        }];
        let keyring = Keyring::new(vec![Arc::new(SigningKey::broken(here))]);
        let live = Live::with_keyring(config, keyring);
        let fatal: crate::dispatch::Fatal = Arc::new(|why| panic!("{why}"));
        let (dispatcher, _transactions) =
            Dispatcher::start(store.clone(), live.clone(), clock.clone(), 1, fatal).unwrap();
        let intake = Intake::new(live, store.clone(), dispatcher.clone(), clock);
        let hand_in = |content: &[u8]| {
            let mut incoming = intake.begin(client(), envelope()).unwrap();
            incoming.write(content);
            incoming.finish(Oddities::default())
        };
        let long = [
            &b"From: a@here.example\r\n\r\n"[..],
            &b"x\r\n".repeat(700_000),
        ];
        for content in [&b"From: a@here.example\r\n\r\nx\r\n"[..], &long.concat()] {
            let refusal = hand_in(content).unwrap_err();
            assert!(refusal.answer().to_string().starts_with("451 4.3.0 "));
            assert!(refusal.to_string().starts_with("DKIM signing with"));
            assert_eq!(store.stats().unwrap().messages, 0);
        }
        assert!(hand_in(b"From: a@else.example\r\n\r\nx\r\n").is_ok());
        assert_eq!(intake.memory_held(), 0);
        // ST-17: a long header that is kept until the end counts.
        let mut incoming = intake.begin(client(), envelope()).unwrap();
        incoming.write(b"From: a@here.example\r\n");
        let before = intake.memory_held();
        incoming.write(&b"To: a@dest.example\r\n".repeat(5000));
        assert_eq!(intake.memory_held(), before + (1 << 20));
        drop(incoming);
        assert_eq!(intake.memory_held(), 0);
        dispatcher.stop();
        store.close();
    }
}
