//! Taking a message in: content ahead, then everything else in one commit.

use std::sync::Arc;

use rusqlite::params;

use super::content::Staged;
use super::fault::Fault;
use super::request::{Answer, Content, Enqueue, Op};
use super::rows::{self, MAX_NUMBER};
use super::writer::Writer;
use super::{DestinationKey, State, Store, StoreError, unexpected};
use crate::clock::Timestamp;
use crate::message::{Head, NewRecipient, QueueId};
use crate::smtp::address::AddressDomain;

/// The content of a new message.
pub enum NewContent {
    /// Small: goes into the accepting commit. Shared, so that a worker can send it from memory while it is warm.
    // A vector, so that what was received becomes it without a copy.
    Inline(Arc<Vec<u8>>),
    /// Large: staged ahead in chunks; the last commit makes it a message.
    Staged(Staged),
}

/// A message to accept.
pub struct NewMessage {
    /// What its recipients share; `head.id` comes from `Store::allocate_id`.
    pub head: Arc<Head>,
    /// Its content, without `head.added_header`.
    pub content: NewContent,
    /// At least one; already free of duplicates. Numbered from 1 in this order.
    pub recipients: Vec<NewRow>,
    /// Notices and reports pass the limits of Q-18.
    pub exempt_from_limits: bool,
}

/// One recipient row of a new message.
pub struct NewRow {
    /// Address, ORCPT, NOTIFY.
    pub recipient: NewRecipient,
    /// The group it waits in.
    pub destination: DestinationKey,
    /// Its first attempt is due at this time.
    pub due: Timestamp,
    /// Held from the start, with this reason.
    pub hold: Option<String>,
    /// When its sender is to be told first that it is still here (RT-8).
    pub delay_due: Option<Timestamp>,
    /// Claim it in the accepting commit: the attempt is counted, the next one is due at this time.
    pub claim: Option<NewClaim>,
}

/// A claim made in the accepting commit.
pub struct NewClaim {
    /// When the next attempt is due, should this one be cut off.
    pub next_attempt: Timestamp,
}

impl Store {
    /// A fresh queue id, never handed out before or after. Does not wait, except now and then for one commit
    /// that reserves the next block of ids.
    ///
    /// # Errors
    /// [`StoreError`]; the caller answers 451 4.3.0.
    pub fn allocate_id(&self) -> Result<QueueId, StoreError> {
        loop {
            self.inner.shared.check_open()?;
            if let Some(id) = self.inner.shared.ids.take() {
                return Ok(id);
            }
            match self.inner.ask_briefly(Op::ReserveIds)? {
                Answer::Ids(ids) if ids.is_empty() => {
                    return Err(StoreError::Failed("all queue ids are used up".into()));
                }
                Answer::Ids(ids) => self.inner.shared.ids.add(ids),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// Accepts a message: content, envelope and rows in one commit. Returns after that commit.
    /// Recipients that name [`NewRow::claim`] are inserted as claimed, with their first attempt counted.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of the message is kept, except that after [`StoreError::Unknown`] it may be there.
    pub fn enqueue(&self, message: NewMessage) -> Result<(), StoreError> {
        if !message.exempt_from_limits {
            self.inner.shared.check_space()?;
        }
        let (content, mut staged) = match message.content {
            NewContent::Inline(data) => (Content::Inline(data), None),
            NewContent::Staged(staged) => {
                let (chunks, size) = staged.extent();
                if staged.id() != message.head.id {
                    return Err(StoreError::Failed("content staged under another id".into()));
                }
                (Content::Staged { chunks, size }, Some(staged))
            }
        };
        let answer = self.inner.ask_briefly(Op::Enqueue(Enqueue {
            head: message.head,
            recipients: message.recipients,
            exempt: message.exempt_from_limits,
            content,
        }));
        // After an unknown outcome the content may be a message's: the next start sees what is there.
        if let (Ok(_) | Err(StoreError::Unknown(_)), Some(staged)) = (&answer, &mut staged) {
            staged.settle();
        }
        answer.map(drop)
    }
}

/// Our own messages are small.
pub(super) fn enqueue_inline(message: NewMessage) -> Result<Enqueue, StoreError> {
    match message.content {
        NewContent::Inline(data) => Ok(Enqueue {
            head: message.head,
            recipients: message.recipients,
            exempt: message.exempt_from_limits,
            content: Content::Inline(data),
        }),
        NewContent::Staged(_) => Err(StoreError::Failed("a notice with staged content".into())),
    }
}

/// Octets per row of content.
pub(super) const CHUNK: usize = 256 << 10;

impl Writer<'_> {
    /// The accepting step. All or nothing: its savepoint sees to that.
    pub(super) fn enqueue(&mut self, message: &Enqueue) -> Result<(), Fault> {
        let head = &*message.head;
        let count = message.recipients.len();
        // zero recipients is an error.
        if count == 0 || count > MAX_NUMBER as usize {
            return Err(Fault::rejected(format!("{count} recipients")));
        }
        let (max_messages, _) = self.shared.limits();
        let messages = u64::try_from(self.tally.messages).unwrap_or(0);
        //
        if max_messages > 0 && messages >= max_messages && !message.exempt {
            return Err(Fault::Reject(StoreError::OverLimit));
        }
        let (chunks, size) = match &message.content {
            Content::Inline(data) => {
                let mut chunks = 0;
                for (position, piece) in (0..).zip(data.chunks(CHUNK)) {
                    self.sql
                        .insert_chunk
                        .execute(params![rows::row_id(head.id, position), piece])?;
                    chunks = position + 1;
                }
                (chunks, data.len() as u64)
            }
            Content::Staged { chunks, size } => {
                // Now it has an owner. Without the mark it was swept, or never staged.
                if *chunks > 0 && self.sql.unmark_unowned.execute([head.id.get()])? == 0 {
                    return Err(Fault::rejected("the staged content is gone"));
                }
                (*chunks, *size)
            }
        };
        self.insert_message(head, chunks, size, count)?;
        let alone = count == 1 && chunks <= 1;
        for (number, row) in (1..).zip(&message.recipients) {
            self.insert_recipient(head, number, row, alone)?;
        }
        self.tally.messages += 1;
        Ok(())
    }

    fn insert_message(
        &mut self,
        head: &Head,
        chunks: u32,
        content_size: u64,
        recipients: usize,
    ) -> Result<(), Fault> {
        let (sender, sender_domain) = match head.reverse_path.mailbox() {
            None => (String::new(), String::new()),
            Some(mailbox) => (mailbox.to_string(), mailbox.domain().to_string()),
        };
        let extras = rows::join_extras(&head.extras).map_err(Fault::rejected)?;
        self.sql.insert_message.execute(params![
            head.id.get(),
            head.arrived.millis(),
            head.caller,
            head.client,
            sender,
            sender_domain,
            head.added_header,
            head.message_id,
            head.subject,
            i64::try_from(head.size).unwrap_or(i64::MAX),
            head.eight_bit,
            head.utf8_headers,
            rows::require_tls(head.require_tls),
            head.envid,
            head.ret.map(rows::ret),
            head.priority,
            head.lifetime.map(rows::millis),
            head.max_attempts,
            extras,
            chunks,
            i64::try_from(content_size).unwrap_or(i64::MAX),
            recipients as i64,
        ])?;
        Ok(())
    }

    fn insert_recipient(
        &mut self,
        head: &Head,
        number: u32,
        row: &NewRow,
        alone: bool,
    ) -> Result<(), Fault> {
        let destination = self.destination(&row.destination)?;
        let now = self.clock.now().millis();
        // an attempt that begins with the accepting commit is counted in it.
        let (state, attempts, last, next) = match (&row.hold, &row.claim) {
            (Some(_), _) => (State::Held, 0, None, row.due),
            (None, Some(claim)) => (State::Claimed, 1, Some(now), claim.next_attempt),
            (None, None) => (State::Queued, 0, None, row.due),
        };
        if state == State::Queued {
            self.touched.insert(destination);
        }
        let path = &row.recipient.path;
        let domain_text;
        let domain = match path.domain() {
            AddressDomain::Name(domain) => domain.as_str(),
            literal @ AddressDomain::Literal(_) => {
                domain_text = literal.to_string();
                &domain_text
            }
        };
        // Most mail leaves with its first attempt: what is claimed here costs no index entry for a delay.
        let delay_due = row.delay_due.filter(|_| state != State::Claimed);
        let state = rows::state_code(state);
        self.sql.insert_recipient.execute(params![
            rows::row_id(head.id, number),
            state,
            destination,
            -i64::from(head.priority),
            next.millis(),
            attempts,
            last,
            alone,
            path.to_string(),
            domain,
            rows::notify_code(row.recipient.notify),
            row.recipient.orcpt,
            row.hold.as_deref().unwrap_or_default(),
            delay_due.map(Timestamp::millis),
        ])?;
        if let Some(due) = delay_due {
            self.notice_due(due);
        }
        self.tally.count(state, 1);
        Ok(())
    }

    /// Content ahead of its message, marked as nobody's until the message comes.
    pub(super) fn put_ahead(&mut self, id: QueueId, first: u32, data: &[u8]) -> Result<(), Fault> {
        if first == 0 {
            self.sql.mark_unowned.execute([id.get(), 0])?;
        }
        for (position, piece) in (first..).zip(data.chunks(CHUNK)) {
            if position > MAX_NUMBER {
                return Err(Fault::rejected("too many chunks"));
            }
            self.sql
                .insert_chunk
                .execute(params![rows::row_id(id, position), piece])?;
        }
        Ok(())
    }

    /// What was staged is not wanted any more; it is removed in steps.
    pub(super) fn unstage(&mut self, id: QueueId) -> Result<(), Fault> {
        self.sql.mark_unowned.execute([id.get(), 1])?;
        self.sweep = true;
        Ok(())
    }

    /// When it is due at the latest.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
