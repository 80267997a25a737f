//! The queue: one SQLite file, one writer thread, many readers.
//!
//! Everything outside knows this interface alone, never SQL or SQLite. The store knows rows and states; it never
//! reads a reply and never decides a retry time. Only the store moves the states of recipients.
//!
//! Words: a *destination* here is an opaque key that policy gives to a recipient: the group it waits in. It is an
//! index, not a decision: the route is evaluated anew at each attempt, and a recipient found in the wrong group is
//! moved (see [`Store::claim`]).
//!
//! # States of a recipient, and who moves them
//!
//! | from    | to      | by                                                                                  |
//! |---------|---------|-------------------------------------------------------------------------------------|
//! | -       | queued, held, claimed | [`Store::enqueue`], in the commit that accepts the message            |
//! | queued  | claimed | [`Store::claim`], before the peer is contacted                                      |
//! | claimed | queued  | [`Store::settle`] (deferred), [`Store::unclaim`], [`Store::open`] (in doubt)         |
//! | claimed | held    | [`Store::settle`] (poison, or an operator's hold meanwhile), [`Store::open`]         |
//! | claimed | delivered, failed, expired, dropped | [`Store::settle`]                                       |
//! | queued  | held    | [`Store::change`], damage                                                           |
//! | held    | queued  | [`Store::change`]                                                                   |
//! | queued, held | failed, dropped | [`Store::change`]                                                      |
//!
//! Each move is one transaction. What a crash leaves behind: before the commit the old state, after it the new one;
//! content staged for a message that never came (swept at start); rows that are still claimed (in doubt at start,
//! Nothing else.
//!
//! # Files
//!
//! `queue.db` with its `-wal` and `-shm`, `lock`, and `reserve`, in a directory of mode 0700.

mod accept;
mod backup;
mod change;
mod check;
mod checkpoint;
mod claim;
mod content;
mod due;
mod errno;
mod fault;
mod filter;
mod growth;
mod handle;
mod list;
mod notice;
mod open;
mod pause;
#[cfg(test)]
mod plans;
mod readers;
mod recover;
mod reply;
mod request;
mod rows;
mod schema;
mod selftest;
mod settle;
mod shared;
mod space;
mod statements;
mod sts;
mod sweep;
#[cfg(test)]
mod testing;
mod tls;
mod tlsrpt;
mod types;
mod window;
mod writer;

pub use backup::BackupError;
pub use check::{Checked, Soundness};
pub use content::{ContentReader, Staged};
pub use shared::Fatal;
pub use types::*;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{Clock, Timestamp};
use crate::message::tlsrpt::PolicyCount;
use crate::message::{Head, QueueId};
use crate::metrics::Metrics;
use crate::policy::retry::Lifetimes;
use crate::policy::tlsrpt::schedule::Day;
use crate::smtp::address::Domain;
use change::{ChangeStep, Ended, Hit};
use due::Damaged;
use handle::Inner;
use request::{Answer, Content, Enqueue, Op};

/// What [`Store::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The queue directory; the database is `queue.db` in it.
    pub path: PathBuf,
    /// The most messages in the queue, 0 for no limit.
    pub max_messages: u64,
    /// What becomes of in-doubt recipients at start.
    pub in_doubt: InDoubt,
    /// `queue.poison_limit`.
    pub poison_limit: u32,
    /// Free octets on the file system under which new mail is refused; taken again at twice that (ST-6).
    pub min_free: u64,
    /// Octets of the reserve that is given up to record outcomes on a full disk (ST-6).
    pub reserve: u64,
    /// `dsn.collect`: failures of one message that come within this time share a notice (DSN-3).
    pub collect: std::time::Duration,
}

/// A handle on the queue; cheap to clone. The writer thread ends when [`Store::close`] is called.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens or creates the queue, takes the lock, migrates, recovers what a crash left, starts the writer.
    ///
    /// # Errors
    /// [`OpenError`]; the daemon does not start.
    pub fn open(settings: &Settings, clock: &Clock) -> Result<(Store, Recovery), OpenError> {
        let (inner, recovery) = Inner::open(settings, clock)?;
        let inner = Arc::new(inner);
        Ok((Store { inner }, recovery))
    }

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

    /// Begins the content of a message that is larger than one chunk; its pieces are committed ahead.
    /// Dropping the returned guard without enqueueing removes what was staged.
    pub fn stage(&self, id: QueueId) -> Staged {
        Staged::new(Arc::clone(&self.inner), id)
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

    /// Destinations that may have due work, in the order of their earliest due time, after `after` (for paging).
    /// A hint that is never late: a destination it names may turn out to have nothing due.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn due_destinations(
        &self,
        now: Timestamp,
        after: Option<(Timestamp, i64)>,
        limit: usize,
    ) -> Result<Vec<DueDestination>, StoreError> {
        self.inner
            .readers
            .read(|conn| due::destinations(conn, now, after, limit))
    }

    /// The earliest time at which any destination has due work, if there is queued mail at all.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.readers.read(due::next)
    }

    /// Due recipients of one destination, by priority, then due time, then id; at most `limit` rows.
    /// Reads only; rows of one message that belong together follow each other.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn due(
        &self,
        destination: &DestinationKey,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueRecipient>, StoreError> {
        let (found, damaged) = self
            .inner
            .readers
            .read(|conn| due::recipients(conn, destination, now, limit))?;
        self.hold_all(damaged);
        Ok(found)
    }

    /// Due recipients of one destination that have reached their expiry, in the order of [`Store::due`], and when the first
    /// of the others may do so. `lifetimes` are the shortest there, and `expiry_of` is asked for what has reached those.
    /// Costs a look at each queued row of the destination.
    ///
    /// # Errors
    /// [`StoreError`]; the dispatcher tries again later.
    pub fn at_expiry(
        &self,
        destination: &DestinationKey,
        now: Timestamp,
        lifetimes: &Lifetimes,
        expiry_of: &dyn Fn(&Head, &RecipientRow) -> Timestamp,
        limit: usize,
    ) -> Result<(Vec<DueRecipient>, Option<Timestamp>), StoreError> {
        let (found, next, damaged) = self
            .inner
            .readers
            .read(|conn| due::at_expiry(conn, destination, now, lifetimes, expiry_of, limit))?;
        self.hold_all(damaged);
        Ok((found, next))
    }

    /// Claims recipients for attempts, or moves them to another destination, in one commit. A recipient
    /// that is no longer as the request expects it is left out of the answer.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was claimed (or, if unknown, the daemon is going down).
    pub fn claim(&self, requests: Vec<ClaimRequest>) -> Result<Vec<Claimed>, StoreError> {
        match self.inner.ask(Op::Claim(requests))? {
            Answer::Claimed(claimed) => Ok(claimed),
            other => Err(unexpected(&other)),
        }
    }

    /// Records the outcome of an attempt for the recipients of a transaction in one commit, and applies
    /// what an operator asked for with `wait` meanwhile. True when all recipients of the message are final now.
    ///
    /// # Errors
    /// [`StoreError`]; the recipients stay claimed, in doubt after a restart.
    pub fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        match self.inner.ask(Op::Settle(settlement))? {
            Answer::Settled(settled) => Ok(settled),
            other => Err(unexpected(&other)),
        }
    }

    /// The claim of these recipients is given back without an attempt (RT-7, RT-6): attempts as before, due at `due`.
    /// With a `blocker`, that is why they wait from now on: a fault of our own that no peer had to do with (DV-19).
    ///
    /// # Errors
    /// As [`Store::settle`].
    pub fn unclaim(
        &self,
        id: QueueId,
        numbers: &[u32],
        due: Timestamp,
        blocker: Option<&str>,
    ) -> Result<Settled, StoreError> {
        let op = Op::Unclaim {
            id,
            numbers: numbers.to_vec(),
            due,
            blocker: blocker.map(|text| rows::cut(text.to_owned())),
        };
        match self.inner.ask(op)? {
            Answer::Settled(settled) => Ok(settled),
            other => Err(unexpected(&other)),
        }
    }

    /// The content of a message as chunks, in order, without the added header.
    ///
    /// # Errors
    /// [`StoreError`]; the attempt is settled as temporary 4.3.1, or 4.3.0 for a damaged row.
    pub fn content(&self, id: QueueId) -> Result<ContentReader, StoreError> {
        ContentReader::open(Arc::clone(&self.inner), id)
    }

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

    /// An operator's change to all matching recipients, in transactions of at most 10 000 rows (CTL-8). `each` is
    /// called for every row after the commit that holds it; with `dry_run` nothing changes and `each` sees what would.
    ///
    /// # Errors
    /// [`StoreError`]; steps already committed stand, and `each` has seen them.
    pub fn change(
        &self,
        filter: &Filter,
        change: &Change,
        actor: &Actor,
        dry_run: bool,
        each: &mut dyn FnMut(&ChangedRow),
    ) -> Result<ChangeReport, StoreError> {
        let mut report = ChangeReport::default();
        for source in list::sources(filter, change) {
            let mut after = Some(0);
            while let Some(from) = after {
                let (found, next) = self
                    .inner
                    .readers
                    .read(|conn| list::page(conn, filter, source, from))?;
                after = next;
                let (hits, ended) = self.change_page(&found, change, actor, dry_run)?;
                let mut ended: HashMap<i64, Timestamp> = ended
                    .into_iter()
                    .map(|ended| (ended.message, ended.arrived))
                    .collect();
                // Told with the last row of the message, and rows of a page are in the order of their ids.
                let mut rows = found.iter().zip(hits).peekable();
                while let Some((row, hit)) = rows.next() {
                    let message = rows::message_of(row.row);
                    let goes_on = rows
                        .peek()
                        .is_some_and(|(next, _)| rows::message_of(next.row) == message);
                    let finished = if goes_on {
                        None
                    } else {
                        ended.remove(&message)
                    };
                    report_hit(row, hit, finished, &mut report, each);
                }
            }
        }
        Ok(report)
    }

    /// Sets or lifts a pause (SC-12). Lifting one that is not there is `Ok(false)`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_pause(&self, scope: &PauseScope, pause: Option<&Pause>) -> Result<bool, StoreError> {
        let (scope, pause) = (scope.clone(), pause.cloned());
        match self.inner.ask(Op::Pause { scope, pause })? {
            Answer::Lifted(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    /// All pauses in force, expired ones included until somebody lifts them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn pauses(&self) -> Result<Vec<(PauseScope, Pause)>, StoreError> {
        self.inner.readers.read(pause::all)
    }

    /// Remembers that a host of a domain had TLS (TLS-5). Waits for nothing; comes before whatever is asked for next, and
    /// may be lost when the disk is full.
    pub fn note_tls(&self, seen: TlsSeen) {
        self.inner.tell(Op::NoteTls(seen));
    }

    /// Remembers what was learned of a destination's window (SC-6), or with `None` that it is over. Waits for nothing, and
    /// may be lost when the disk is full.
    pub fn note_window(&self, key: DestinationKey, window: Option<LearnedWindow>) {
        self.inner.tell(Op::NoteWindow(key, window));
    }

    /// All windows that were learned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn windows(&self) -> Result<Vec<(DestinationKey, LearnedWindow)>, StoreError> {
        self.inner.readers.read(window::all)
    }

    /// What is remembered of a domain, however old it is.
    ///
    /// # Errors
    /// [`StoreError`]; whoever would speak to it must not go on as if nothing were remembered.
    pub fn tls_memory(&self, domain: &Domain) -> Result<Option<TlsRow>, StoreError> {
        self.inner.readers.read(|conn| tls::of(conn, domain))
    }

    /// What is remembered of the domains that follow `after`, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tls_memories(&self, after: &str, limit: usize) -> Result<Vec<TlsRow>, StoreError> {
        self.inner
            .readers
            .read(|conn| tls::after(conn, after, limit))
    }

    /// Forgets a domain; whether there was something.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_tls(&self, domain: &str) -> Result<bool, StoreError> {
        match self.inner.ask(Op::ForgetTls(domain.to_owned()))? {
            Answer::Lifted(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    /// Changes the cache of MTA-STS policies; whether something changed, or there was room.
    ///
    /// # Errors
    /// [`StoreError`]
    pub fn change_sts(&self, change: StsChange) -> Result<bool, StoreError> {
        match self.inner.ask(Op::ChangeSts(change))? {
            Answer::Lifted(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`Store::change_sts`], for what may be lost when the disk is full; waits for nothing.
    pub fn note_sts(&self, change: StsChange) {
        self.inner.tell(Op::ChangeSts(change));
    }

    /// The MTA-STS policy that was fetched of a domain, expired or not.
    ///
    /// # Errors
    /// [`StoreError`]; whoever would speak to it must not go on as if there were none.
    pub fn sts_policy(&self, domain: &Domain) -> Result<Option<StsRow>, StoreError> {
        self.inner.readers.read(|conn| sts::of(conn, domain))
    }

    /// The policies of the domains that follow `after`, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sts_policies(&self, after: &str, limit: usize) -> Result<Vec<StsRow>, StoreError> {
        self.inner
            .readers
            .read(|conn| sts::after(conn, after, limit))
    }

    /// Domains whose policies were fetched after `from` and before `before`, the oldest first, with the time.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn sts_fetched_before(
        &self,
        from: (Timestamp, &str),
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<(Timestamp, String)>, StoreError> {
        self.inner
            .readers
            .read(|conn| sts::fetched_between(conn, from, before, limit))
    }

    /// How many policies there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sts_count(&self) -> Result<u64, StoreError> {
        self.inner.readers.read(sts::count)
    }

    /// Changes the TLS reports, or what is counted for them; whether something changed.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of it was kept.
    pub fn change_report(&self, change: ReportChange) -> Result<bool, StoreError> {
        match self.inner.ask(Op::ChangeReport(change))? {
            Answer::Lifted(done) => Ok(done),
            other => Err(unexpected(&other)),
        }
    }

    /// The TLS report that is due first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn due_report(&self, now: Timestamp) -> Result<Option<DueReport>, StoreError> {
        self.inner.readers.read(|conn| tlsrpt::due(conn, now))
    }

    /// When the first of those that are not due yet will be.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn next_report(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        self.inner.readers.read(|conn| tlsrpt::next(conn, now))
    }

    /// What the TLS report about a day and a domain says.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn report_counts(&self, day: Day, domain: &str) -> Result<Vec<PolicyCount>, StoreError> {
        self.inner
            .readers
            .read(|conn| tlsrpt::counts(conn, day, domain))
    }

    /// The TLS reports that follow this day and domain, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn reports_after(
        &self,
        after: (Day, &str),
        limit: usize,
    ) -> Result<Vec<ReportRow>, StoreError> {
        self.inner
            .readers
            .read(|conn| tlsrpt::after(conn, after, limit))
    }

    /// Numbers for `stats`; cheap at any queue length.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let tally = self.inner.shared.tally();
        let (commits, requests, commit_time) = self.inner.shared.commits();
        let free = nix::sys::statvfs::statvfs(&self.inner.wal)
            .map_or(0, |fs| fs.blocks_available() * fs.fragment_size());
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        let (notices_lost, notices_withheld) = self.inner.shared.notices_counted();
        Ok(StoreStats {
            messages: count(tally.messages),
            queued: count(tally.queued),
            claimed: count(tally.claimed),
            held: count(tally.held),
            in_doubt: count(tally.doubt),
            oldest: self.inner.readers.read(list::oldest)?,
            commits,
            requests,
            behind: self.inner.behind() as u64,
            wal_bytes: checkpoint::wal_size(&self.inner.wal),
            free_bytes: free,
            notices_lost,
            notices_withheld,
            commit_time,
        })
    }

    /// Makes a consistent copy of the queue as of now under a name that nothing has yet; says its size in octets. It
    /// starts like the queue itself: whatever is delivered from now on will be sent again by whoever starts it. Blocks;
    /// nobody else waits, but the write-ahead log grows meanwhile.
    ///
    /// # Errors
    /// [`BackupError`]; there is no copy then. Busy while another one, or a check, runs.
    pub fn backup(&self, to: &std::path::Path) -> Result<u64, BackupError> {
        self.inner.backup(to)
    }

    /// Times synced writes beside the database and looks at the mount, for at most a second, and logs what they promise
    /// (ST-19). Blocks; ends early when the store does.
    pub fn self_test(&self) {
        if let Some(directory) = self.inner.database.parent() {
            selftest::run(directory, &self.inner.shared);
        }
    }

    /// The counters of this run. They live here because every part that counts something has the store.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.shared.metrics
    }

    /// Looks for what should not be (ST-18): every named invariant and SQLite's `integrity_check`, or only the `quick`
    /// ones for 2 s at most. `each` hears of every check when it is done. Blocks, for seconds with a large queue; nobody
    /// else waits, and the write-ahead log cannot begin anew for at most 10 s at a time.
    ///
    /// # Errors
    /// [`StoreError::Busy`] while another check runs; [`StoreError`] if it cannot begin.
    pub fn check(&self, quick: bool, each: &mut dyn FnMut(Checked)) -> Result<(), StoreError> {
        self.inner.check(quick, each)
    }

    /// A number that changes with whatever the store is asked for.
    pub fn activity(&self) -> u64 {
        let inner = &self.inner;
        inner.shared.requests().wrapping_add(inner.readers.reads())
    }

    /// Nothing is going on: gives up the memory of caches, which a load fills again (PRC-7). Waits for nothing.
    pub fn rest(&self) {
        self.inner.tell(Op::Rest);
        self.inner.readers.rest();
    }

    /// When there is something for the thread that sends notices to do, if ever; the channel of
    /// [`Store::notices`] tells when that becomes earlier.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn next_notice(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.shared.notices_read();
        let next = self.inner.readers.read(notice::next)?;
        let known = next.map_or(i64::MAX, Timestamp::millis);
        self.inner.shared.notices_known(known);
        Ok(next)
    }

    /// Readable when a notice is due earlier than [`Store::next_notice`] said.
    pub fn notices(&self) -> crossbeam_channel::Receiver<()> {
        self.inner.shared.notices()
    }

    /// Recipients whose next delay notice is due (RT-8).
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn delays(&self, now: Timestamp, limit: usize) -> Result<Vec<DelayDue>, StoreError> {
        self.inner
            .readers
            .read(|conn| notice::delays(conn, now, limit))
    }

    /// Writes down that senders are to be told of these delays, and when to look at each again. Rows that are finished,
    /// held, or at their first attempt are passed over.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn note_delays(&self, rows: Vec<DelayNoted>) -> Result<(), StoreError> {
        self.inner.ask(Op::Delays(rows)).map(drop)
    }

    /// Messages about which their senders are to be told something now.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn due_notices(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<(QueueId, NoticeKind)>, StoreError> {
        self.inner
            .readers
            .read(|conn| notice::due(conn, now, limit))
    }

    /// The facts of one notice.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn pending_notice(
        &self,
        id: QueueId,
        kind: NoticeKind,
    ) -> Result<Option<PendingNotice>, StoreError> {
        self.inner
            .readers
            .read(|conn| notice::pending(conn, id, kind))
    }

    /// Queues the notification about `numbers` of a message and strikes them from the list, in one commit; without a
    /// `message` only strikes them. With a `share`, an address that has had that many is sent nothing: `Ok(false)`.
    ///
    /// # Errors
    /// [`StoreError`]; they stay on the list, unless the outcome is unknown.
    pub fn send_notice(
        &self,
        id: QueueId,
        kind: NoticeKind,
        numbers: Vec<u32>,
        message: Option<NewMessage>,
        share: Option<(String, crate::config::Rate)>,
    ) -> Result<bool, StoreError> {
        let tells = message.is_some();
        let message = message.map(enqueue_inline).transpose()?;
        let answer = self.inner.ask(Op::Notice(notice::SendNotice {
            id,
            kind,
            numbers,
            message,
            share,
        }))?;
        let withheld = matches!(answer, Answer::Withheld);
        if tells && !withheld {
            self.inner.shared.metrics.notice(kind as usize);
        }
        Ok(!withheld)
    }

    /// Puts a notice off that cannot be sent now.
    ///
    /// # Errors
    /// [`StoreError`]; it stays due.
    pub fn postpone_notice(
        &self,
        id: QueueId,
        kind: NoticeKind,
        due: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.ask(Op::Postpone { id, kind, due }).map(drop)
    }

    /// Counts a notice that can be sent to nobody; whoever says so has logged it (DSN-10).
    pub fn count_lost_notice(&self) {
        self.inner.shared.count_notices(1, 0);
    }

    /// Addresses from which notifications have been withheld for an hour, with their number (DSN-11).
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn withheld_notices(&self, now: Timestamp) -> Result<WithheldNotices, StoreError> {
        self.inner.readers.read(|conn| notice::withheld(conn, now))
    }

    /// Strikes them from that list, in one commit with the summary that tells of them.
    ///
    /// # Errors
    /// [`StoreError`]; ask again later.
    pub fn send_summary(
        &self,
        addresses: Vec<String>,
        message: Option<NewMessage>,
    ) -> Result<(), StoreError> {
        let message = message.map(enqueue_inline).transpose()?;
        self.inner.ask(Op::Summary { addresses, message }).map(drop)
    }

    /// Changes the settings that may change while running.
    pub fn reconfigure(&self, settings: &Settings) {
        self.inner.shared.reconfigure(settings);
    }

    /// Waits for what is already requested, checkpoints, closes all connections and ends the writer.
    /// Later calls on any clone answer [`StoreError::Closed`].
    pub fn close(&self) {
        self.inner.end(true);
    }

    /// RT-9: after the clock went back, lets no recipient wait beyond `horizon` because of an arrival or attempt that now
    /// lies in the future. Times that were asked for stay. Says how many rows changed.
    ///
    /// # Errors
    /// [`StoreError`]; steps already committed stand.
    pub fn pull_in(&self, horizon: Timestamp) -> Result<u64, StoreError> {
        let now = self.inner.clock.now();
        let mut changed = 0;
        let mut after = Some((i64::MAX, i64::MAX));
        while let Some(from) = after {
            let op = Op::PullIn {
                now,
                horizon,
                after: from,
            };
            match self.inner.ask(op)? {
                Answer::PulledIn(count, next) => {
                    changed += count;
                    after = next;
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(changed)
    }

    /// Gets one message when the store has ended by itself: the daemon stops accepting at once and exits with 74 for
    /// [`Fatal::Io`], 70 for [`Fatal::Panic`]. All clones of the receiver share the one message.
    pub fn fatal(&self) -> crossbeam_channel::Receiver<Fatal> {
        self.inner.shared.fatal()
    }

    /// each message once; what cannot be held now is met again.
    fn hold_all(&self, damaged: Damaged) {
        for (id, reason) in damaged {
            self.inner.hold_damaged(id, &format!("damaged: {reason}"));
        }
    }

    fn change_page(
        &self,
        found: &[list::Candidate],
        change: &Change,
        actor: &Actor,
        dry_run: bool,
    ) -> Result<(Vec<Hit>, Vec<Ended>), StoreError> {
        if found.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        if dry_run {
            let would = |row: &list::Candidate| change::concerns(change, row.state);
            return Ok((found.iter().map(would).collect(), Vec::new()));
        }
        let step = ChangeStep {
            rows: found.iter().map(|row| row.row).collect(),
            change: change.clone(),
            uid: actor.uid,
        };
        match self.inner.ask(Op::Change(step))? {
            Answer::Changed(hits, ended) => Ok((hits, ended)),
            other => Err(unexpected(&other)),
        }
    }
}

fn report_hit(
    row: &list::Candidate,
    hit: Hit,
    finished: Option<Timestamp>,
    report: &mut ChangeReport,
    each: &mut dyn FnMut(&ChangedRow),
) {
    match hit {
        Hit::Left => {}
        Hit::Claimed => report.claimed += 1,
        Hit::Changed(moved) => {
            report.affected += 1;
            let id = rows::recipient_id(row.row);
            // A damaged address is changed like any other; there is only nothing to tell of it.
            if let (Ok(id), Ok(path)) = (id, rows::forward_path(&row.address)) {
                each(&ChangedRow {
                    id,
                    path,
                    destination: moved.unwrap_or_else(|| row.destination.clone()),
                    finished,
                });
            }
        }
    }
}

/// Our own messages are small.
fn enqueue_inline(message: NewMessage) -> Result<Enqueue, StoreError> {
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

/// The writer answers each request in kind.
fn unexpected(answer: &Answer) -> StoreError {
    StoreError::Failed(format!("unexpected answer {answer:?}"))
}
