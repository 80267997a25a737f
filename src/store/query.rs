//! What may be asked about the queue (CTL-7): lists, counts, one message with all its attempts.

use std::sync::Arc;

use super::{DueRecipient, RecipientRow, State, Store, StoreError, list};
use crate::clock::Timestamp;
use crate::message::{Head, QueueId};
use crate::policy::failure::Attempt;

/// Which recipients; all fields AND-ed, empty ones match all (CTL-6).
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these messages, or these single recipients.
    pub ids: Vec<(QueueId, Option<u32>)>,
    /// Recipient number.
    pub rcpt: Option<u32>,
    /// Substring of the reverse-path; `@dom` exactly that domain; `<>` the null one.
    pub from: Option<String>,
    /// Substring of the forward-path; `@dom` exactly that domain.
    pub to: Option<String>,
    /// Domain of the recipient, exactly.
    pub domain: Option<String>,
    /// Domain of the sender, exactly.
    pub sender_domain: Option<String>,
    /// Transport set by an operator or used at the last attempt.
    pub transport: Option<String>,
    /// State.
    pub state: Option<State>,
    /// Arrived before this time.
    pub arrived_before: Option<Timestamp>,
    /// Arrived after this time.
    pub arrived_after: Option<Timestamp>,
    /// Next attempt before this time.
    pub next_before: Option<Timestamp>,
    /// Caller, exactly.
    pub caller: Option<String>,
    /// Substring of the last reply.
    pub text: Option<String>,
}

/// Order of a list; ties by id (CTL-7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Next attempt.
    #[default]
    Next,
    /// Arrival (`queued`, and `age` the other way round).
    Arrived,
    /// Size.
    Size,
}

/// A page of a listing.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Which.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// Descending.
    pub descending: bool,
    /// At most so many rows.
    pub limit: usize,
    /// Where the last page ended.
    pub cursor: Option<String>,
}

/// A page of a listing.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The rows with their messages.
    pub rows: Vec<DueRecipient>,
    /// Where to go on, if more follow.
    pub cursor: Option<String>,
}

/// Groups of [`Store::count`](super::Store::count).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// Domain of the recipient.
    Domain,
    /// Transport.
    Transport,
    /// State.
    State,
    /// Caller.
    Caller,
    /// Age in the steps 5, 10, 20, .. 640 minutes and more.
    Age,
}

/// Everything known of one message.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The message.
    pub head: Arc<Head>,
    /// All its recipients, finished ones included, by number.
    pub recipients: Vec<RecipientRow>,
    /// All attempts, oldest first.
    pub attempts: Vec<ShownAttempt>,
    /// Whether its content is still there.
    pub has_content: bool,
}

/// One recorded attempt, or the cancelling hand of an operator.
#[derive(Clone, Debug)]
pub struct ShownAttempt {
    /// The recipient.
    pub number: u32,
    /// The attempt's ordinal, from 1.
    pub ordinal: u32,
    /// When it began.
    pub started: Timestamp,
    /// `None` while it runs or when a crash cut it off.
    pub result: Option<Attempt>,
    /// A crash cut it off.
    pub cut_off: bool,
    /// It did, and the message may have been delivered.
    pub in_doubt: bool,
    /// What an operator did instead, with the uid: `canceled by operator`.
    pub operator: Option<String>,
}

impl Store {
    /// One page of recipients, a consistent snapshot (CTL-7).
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self, query: &ListQuery) -> Result<ListPage, StoreError> {
        let (page, damaged) = self.inner.readers.read(|conn| list::list(conn, query))?;
        self.hold_all(damaged);
        Ok(page)
    }

    /// Counts recipients, in all or per group, groups by descending count.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count(
        &self,
        filter: &Filter,
        by: Option<GroupBy>,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let (now, tally) = (self.inner.clock.now(), self.inner.shared.tally());
        self.inner
            .readers
            .read(|conn| list::count(conn, filter, by, now, &tally))
    }

    /// Everything known of one message, queued or finished: head, recipients, attempts. `None` if unknown.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn show(&self, id: QueueId) -> Result<Option<Shown>, StoreError> {
        self.inner.readers.read(|conn| list::show(conn, id))
    }
}
