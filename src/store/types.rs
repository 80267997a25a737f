//! What goes into the store and what comes out of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::content::Staged;
use crate::clock::Timestamp;
use crate::message::tlsrpt::PolicyCount;
use crate::message::{Head, NewRecipient, QueueId, RecipientId, RequireTls};
use crate::policy::failure::{Attempt, Verdict};
use crate::policy::tls::facts::StsPolicy;
use crate::policy::tlsrpt::schedule::Day;
use crate::smtp::address::{Domain, ForwardPath};

/// The group a recipient waits in, as policy names it: a domain, `[ip]`, or `relay:NAME`. Opaque to the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationKey(pub Arc<str>);

impl fmt::Display for DestinationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of in-doubt recipients at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InDoubt {
    /// Queued again after their recorded back-off.
    Retry,
    /// Held for the operator.
    Hold,
}

/// What recovery found at start; all of it is logged by the daemon.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Recipients that were claimed when the last run ended.
    pub in_doubt: Vec<RecipientId>,
    /// Messages held because their row or content is damaged.
    pub damaged: Vec<QueueId>,
    /// Messages held because they were claimed at too many deaths of the process.
    pub poisoned: Vec<QueueId>,
    /// Chunks that no message owned.
    pub orphan_chunks: u64,
}

/// Why the queue could not be opened. The text is the one clear last line (CFG-8).
#[derive(Debug)]
pub enum OpenError {
    /// Another daemon has it: exit 75 (ST-9).
    Locked(String),
    /// Damaged, foreign, newer, on a network filesystem, wrong SQLite: exit 78 (ST-1, ST-11, ST-13).
    Refused(String),
    /// The system said no: exit 71.
    System(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked(text) | OpenError::Refused(text) | OpenError::System(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// Why a request to the store failed, and so what the caller may answer.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// No space, quota, read-only: 452 4.3.1; nothing was kept (ST-5).
    Full(String),
    /// `queue.max_messages` or a caller's limit: 452 4.3.1; nothing was kept.
    OverLimit,
    /// The commit failed and its outcome is unknown: 451 4.3.0, never repeated (ST-3).
    Unknown(String),
    /// Busy for longer than 30 s: 451 4.3.0; nothing was kept (IN-26).
    Busy,
    /// The store is closed or closing: 421 4.3.2.
    Closed,
    /// This one request failed; nothing of it was kept; others are not affected. 451 4.3.0.
    Failed(String),
    /// The row or content asked for is damaged.
    Damaged(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Full(text) => write!(f, "no room in the queue: {text}"),
            StoreError::OverLimit => f.write_str("the queue is at its limit of messages"),
            StoreError::Unknown(text) => write!(f, "commit failed, outcome unknown: {text}"),
            StoreError::Busy => f.write_str("the queue is busy"),
            StoreError::Closed => f.write_str("the queue is closed"),
            StoreError::Failed(text) => write!(f, "queue request failed: {text}"),
            StoreError::Damaged(text) => write!(f, "damaged: {text}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// The content of a new message.
pub enum NewContent {
    /// Small: goes into the accepting commit. Shared, so that a worker can send it from memory while it is warm.
    Inline(Arc<[u8]>),
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

/// A destination with possibly due work.
#[derive(Clone, Debug)]
pub struct DueDestination {
    /// Its key.
    pub key: DestinationKey,
    /// Its earliest due time, or earlier.
    pub next_due: Timestamp,
    /// For paging.
    pub row: i64,
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
}

/// A due recipient with the facts that routing needs.
#[derive(Clone, Debug)]
pub struct DueRecipient {
    /// The message; one `Arc` per message and answer.
    pub head: Arc<Head>,
    /// The row.
    pub row: RecipientRow,
}

/// A request to claim recipients of one message for one transaction, or to move them to another destination.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The message.
    pub id: QueueId,
    /// Its recipients.
    pub numbers: Vec<u32>,
    /// The attempts each must have had; else it is left out.
    pub attempts: u32,
    /// What to do.
    pub action: ClaimAction,
}

/// What a [`ClaimRequest`] does.
#[derive(Clone, Debug)]
pub enum ClaimAction {
    /// Claim: attempts + 1, and this next attempt recorded in case the attempt is cut off.
    Claim {
        /// The back-off's next attempt.
        next_attempt: Timestamp,
    },
    /// The route has changed: move to this destination, stay queued.
    Move {
        /// The new group.
        destination: DestinationKey,
    },
}

/// The answer to one [`ClaimRequest`], in the order of the requests.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The numbers that were claimed or moved.
    pub numbers: Vec<u32>,
}

/// The outcomes of one transaction.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The message.
    pub id: QueueId,
    /// One per recipient of the transaction.
    pub outcomes: Vec<Outcome>,
}

/// The outcome for one recipient.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The recipient's number.
    pub number: u32,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The group it waits in from now on, if it stays queued: routes may depend on attempts (RO-2).
    pub destination: DestinationKey,
    /// What is recorded.
    pub attempt: Attempt,
    /// When its sender is to be told next that it is still here, should it stay (RT-8), by the settings of now.
    pub delay_due: Option<Timestamp>,
    /// Delivered, the sender asked to be told, and the next hop does not confirm (RFC 3461 §5.2.2).
    pub unconfirmed: bool,
    /// The unit of work panicked or hung: counted towards poison.
    pub poison: bool,
}

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
    pub in_doubt: bool,
    /// What an operator did instead, with the uid: `canceled by operator`.
    pub operator: Option<String>,
}

/// Who asks for a change.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The uid from the socket's peer credentials.
    pub uid: u32,
}

/// An operator's change (CTL-11 to CTL-14).
#[derive(Clone, Debug)]
pub enum Change {
    /// Queued recipients become due at this time.
    Kick {
        /// When.
        at: Timestamp,
    },
    /// Final dropped, no DSN.
    Drop {
        /// Claimed ones too, once their attempt ends undelivered.
        wait: bool,
    },
    /// Final failed, with this text and status 5.7.0.
    Fail {
        /// For the sender.
        text: String,
        /// Claimed ones too, once their attempt ends undelivered.
        wait: bool,
    },
    /// Held, with this reason.
    Hold {
        /// Why.
        reason: String,
    },
    /// Queued again, `next` as it was.
    Release,
    /// The transport from the next attempt on; `None` for the routes' own choice.
    Route {
        /// Its name.
        transport: Option<String>,
        /// The group the recipients wait in from now on; `None`: their domain's.
        destination: Option<DestinationKey>,
    },
    /// What the whole message requires of TLS, from the next attempt on.
    RequireTls {
        /// The wish.
        value: RequireTls,
    },
}

/// One row that a change touched or would touch.
#[derive(Clone, Debug)]
pub struct ChangedRow {
    /// The recipient.
    pub id: RecipientId,
    /// Its forward-path.
    pub path: ForwardPath,
    /// The group it waits in, to wake the dispatcher.
    pub destination: DestinationKey,
    /// With it the last recipient of the message reached its end; when the message was accepted.
    pub finished: Option<Timestamp>,
}

/// What became of a settlement, or of claims that were given back, beyond what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The last recipient of the message has reached its end.
    pub finished: bool,
    /// Recipients that have another state now, by number: what an operator asked for while they were claimed, or the
    /// poison limit, came first.
    pub overruled: Vec<(u32, State)>,
}

/// What a change did.
#[derive(Clone, Debug, Default)]
pub struct ChangeReport {
    /// Rows affected.
    pub affected: u64,
    /// Matching rows left out because a worker has them.
    pub claimed: u64,
}

/// What a pause stops (SC-12).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PauseScope {
    /// All deliveries.
    All,
    /// Those of a transport.
    Transport(String),
    /// Those of a destination: a domain.
    Domain(String),
}

/// A pause.
#[derive(Clone, Debug)]
pub struct Pause {
    /// When it began.
    pub since: Timestamp,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

/// How many connections a destination takes, as far as that had to be learned (SC-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedWindow {
    /// At once.
    pub size: u32,
    /// So many were let in when one more was refused.
    pub ceiling: Option<u32>,
    /// The reply or the error.
    pub cause: String,
    /// When it came.
    pub at: Timestamp,
    /// An operator has fixed it.
    pub pinned: bool,
}

/// Numbers for `stats`.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    /// Messages with at least one recipient that is not final.
    pub messages: u64,
    /// Recipients per state that is not final: queued, claimed, held.
    pub queued: u64,
    /// See `queued`.
    pub claimed: u64,
    /// See `queued`.
    pub held: u64,
    /// Recipients that carry a doubt.
    pub in_doubt: u64,
    /// Arrival of the oldest message.
    pub oldest: Option<Timestamp>,
    /// Commits so far and requests in them, in this run.
    pub commits: u64,
    /// See `commits`.
    pub requests: u64,
    /// Requests that the writer has not begun.
    pub behind: u64,
    /// Size of the write-ahead log in bytes.
    pub wal_bytes: u64,
    /// Free bytes on the file system.
    pub free_bytes: u64,
    /// Notifications of ours that reached nobody, and that were withheld from their senders, in this run (DSN-10, DSN-11).
    pub notices_lost: u64,
    /// See `notices_lost`.
    pub notices_withheld: u64,
    /// Median and longest commit of the last thousand.
    pub commit_time: (Duration, Duration),
}

/// What a notification is about; also how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// Given up.
    Failed = 0,
    /// Still here.
    Delayed = 1,
    /// Gone to a host that does not confirm.
    Success = 2,
}

impl NoticeKind {
    pub(super) fn from_code(code: i64) -> Option<NoticeKind> {
        match code {
            0 => Some(NoticeKind::Failed),
            1 => Some(NoticeKind::Delayed),
            2 => Some(NoticeKind::Success),
            _ => None,
        }
    }
}

/// A recipient whose sender is to be told of a delay.
#[derive(Clone, Debug)]
pub struct DelayDue {
    /// For [`Store::note_delays`](super::Store::note_delays).
    pub row: i64,
    /// Its message and itself; `None` if they cannot be read.
    pub facts: Option<(Arc<Head>, RecipientRow)>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayNoted {
    /// Which.
    pub row: i64,
    /// The age that has been reached and is told now; `None`: nothing to tell, only the next time changes.
    pub told: Option<Duration>,
    /// When to look at it again.
    pub next: Option<Timestamp>,
}

/// The facts of one notice.
#[derive(Clone, Debug)]
pub struct PendingNotice {
    /// The message; `None` if it cannot be read.
    pub head: Option<Arc<Head>>,
    /// All recipients it is about.
    pub numbers: Vec<u32>,
    /// The first 500 of them that are (still) news, each with its latest attempt; of those with the same original
    /// recipient only one (DSN-16).
    pub recipients: Vec<(RecipientRow, Option<ShownAttempt>)>,
    /// How many more there are.
    pub further: usize,
}

/// Addresses and how many notifications were withheld from each.
pub type WithheldNotices = Vec<(String, u64)>;

/// A host of a domain had TLS.
#[derive(Clone, Debug)]
pub struct TlsSeen {
    /// The recipients' domain.
    pub domain: Domain,
    /// When.
    pub at: Timestamp,
    /// The host was verified, by name or by DANE.
    pub verified: bool,
    /// It announced REQUIRETLS.
    pub requiretls: bool,
    /// What was not seen since then is forgotten (TLS-6).
    pub forget_before: Timestamp,
}

/// What is remembered of a domain's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsRow {
    /// The domain.
    pub domain: String,
    /// When TLS was seen first.
    pub since: Timestamp,
    /// When TLS was seen last.
    pub encrypted: Timestamp,
    /// When a host was verified last.
    pub verified: Option<Timestamp>,
    /// When a host announced REQUIRETLS last.
    pub requiretls: Option<Timestamp>,
}

/// An MTA-STS policy as it is kept (STS-10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsRow {
    /// The policy domain.
    pub domain: Domain,
    /// The policy.
    pub policy: StsPolicy,
    /// When it was fetched.
    pub fetched: Timestamp,
    /// When an attempt last used it, to the day.
    pub used: Timestamp,
    /// All hosts failed it since then.
    pub anew: bool,
}

/// What happens to the policies that are kept.
#[derive(Clone, Debug)]
pub enum StsChange {
    /// This one was fetched. There may be no room for it.
    Keep {
        /// The policy domain.
        domain: Domain,
        /// The policy.
        policy: StsPolicy,
        /// When it was fetched.
        at: Timestamp,
    },
    /// There is none.
    Forget(String),
    /// An attempt used it.
    Used {
        /// The policy domain.
        domain: Domain,
        /// When.
        at: Timestamp,
    },
    /// All hosts failed it.
    Anew(Domain),
    /// Some of those that were not used since then go; ask again while something changes.
    Unused {
        /// When.
        before: Timestamp,
    },
}

/// What was counted of one domain's sessions on one day, held against one policy (RPT-1).
#[derive(Clone, Debug)]
pub struct ReportCount {
    /// The UTC day.
    pub day: Day,
    /// The recipients' domain.
    pub domain: Domain,
    /// The policy, and what is added to its counts.
    pub policy: PolicyCount,
}

/// What happens to the TLS reports.
#[derive(Clone, Debug)]
pub enum ReportChange {
    /// These counts are added, as far as there is room for them.
    Count(Vec<ReportCount>),
    /// A try begins, unless another has begun since `tries` were counted.
    Try {
        /// The UTC day.
        day: Day,
        /// The domain.
        domain: String,
        /// Those before it.
        tries: u32,
        /// When the next one is due, should this come to nothing.
        next: Timestamp,
    },
    /// The report is sent, not wanted, or given up.
    Done {
        /// The UTC day.
        day: Day,
        /// The domain.
        domain: String,
    },
    /// Some of what was counted before that day goes; ask again while something changes.
    Forget {
        /// The first day that stays.
        before: Day,
    },
}

/// A report that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueReport {
    /// The UTC day.
    pub day: Day,
    /// The domain.
    pub domain: String,
    /// Tries begun so far.
    pub tries: u32,
    /// Reports that are due, this one included.
    pub waiting: usize,
}

/// A report in the listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    /// The UTC day.
    pub day: Day,
    /// The domain.
    pub domain: String,
    /// It is sent, not wanted, or given up.
    pub done: bool,
    /// Tries begun so far.
    pub tries: u32,
    /// When the next one is due.
    pub next: Timestamp,
    /// Sessions that met the policy.
    pub successes: u64,
    /// Sessions that did not.
    pub failures: u64,
}
