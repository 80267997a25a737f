//! What a notification says of each recipient (DSN-7).

use std::sync::Arc;

use super::Teller;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::message::Head;
use crate::message::dsn::{Action, Block};
use crate::policy::failure::Attempt;
use crate::policy::retry::Terms;
use crate::smtp::reply::EnhancedCode;
use crate::store::{DueRecipient, NoticeKind, PendingNotice, RecipientRow, ShownAttempt, State};

/// A block for each recipient that the notice is about, by the facts of its row and its latest attempt.
pub(super) fn blocks(
    parts: &Teller,
    config: &Config,
    head: &Arc<Head>,
    kind: NoticeKind,
    pending: &PendingNotice,
) -> Vec<Block> {
    let recipients = pending.recipients.iter();
    recipients
        .map(|(row, attempt)| match kind {
            NoticeKind::Failed => failed(head, row, attempt.as_ref()),
            NoticeKind::Delayed => {
                let waits = (row.state == State::Queued)
                    .then(|| {
                        (parts.blocker)(&DueRecipient {
                            head: Arc::clone(head),
                            row: row.clone(),
                        })
                    })
                    .flatten();
                let now = parts.clock.now();
                delayed(config, head, row, attempt.as_ref(), waits, now)
            }
            NoticeKind::Success => relayed(row, attempt.as_ref()),
        })
        .collect()
}

/// What is the same in all of them: the facts of the row, and of its latest attempt if that had a result.
fn block(row: &RecipientRow, action: Action, last: Option<&Attempt>, own: EnhancedCode) -> Block {
    Block {
        number: row.id.number,
        path: row.recipient.path.clone(),
        orcpt: row.recipient.orcpt.clone(),
        action,
        status: last.map_or(own, |last| last.status),
        remote: last
            // RFC 3464 §2.3.5: a name of a host, which a path is not.
            .filter(|last| !last.host.is_empty() && !last.host.starts_with("unix:"))
            .map(|last| (last.host.clone(), last.address.map(|address| address.ip()))),
        // DSN-7: that of a host; transport `fail` has one of its own.
        code: last
            .filter(|last| !last.host.is_empty())
            .and_then(|last| last.code),
        reason: last.map_or_else(|| row.blocker.clone(), |last| last.text.clone()),
        attempts: row.attempts,
        last_attempt: row.last_attempt,
        next_attempt: None,
        retry_until: None,
        expired_after: None,
    }
}

fn failed(head: &Head, row: &RecipientRow, attempt: Option<&ShownAttempt>) -> Block {
    let by_operator = attempt.is_some_and(|attempt| attempt.operator.is_some());
    // What the last host said is not why an operator gave up.
    let last = attempt.and_then(|attempt| attempt.result.as_ref());
    let last = last.filter(|_| !by_operator);
    let own = EnhancedCode::new(5, if by_operator { 7 } else { 0 }, 0);
    let mut block = block(row, Action::Failed, last, own);
    // DSN-7, RFC 3463 §3.5
    if row.state == State::Expired {
        block.status = EnhancedCode::new(4, 4, 7);
        let waited = row.last_attempt.unwrap_or(head.arrived);
        block.expired_after = Some(waited.since(head.arrived));
    }
    block
}

/// RT-8: what blocks it now, else what the last attempt met; `waits` is a pause or the like, and until when.
fn delayed(
    config: &Config,
    head: &Head,
    row: &RecipientRow,
    attempt: Option<&ShownAttempt>,
    waits: Option<(String, Option<Timestamp>)>,
    now: Timestamp,
) -> Block {
    let last = attempt.and_then(|attempt| attempt.result.as_ref());
    let last = last.filter(|_| waits.is_none());
    // RFC 3463 §3.4: X.3.2, a system that takes no messages now, for what we do not even try.
    let own = if waits.is_some() {
        EnhancedCode::new(4, 3, 2)
    } else {
        EnhancedCode::new(4, 0, 0)
    };
    let mut block = block(row, Action::Delayed, last, own);
    block.next_attempt = Some(row.next_attempt.max(now));
    if let Some((why, until)) = waits {
        block.reason = why;
        block.next_attempt = until.map(|until| until.max(row.next_attempt));
    } else if block.reason.is_empty() {
        block.reason = "It waits for its first attempt.".to_owned();
    }
    block.retry_until = Some(Terms::of_waiting(config, head, row).expiry());
    block
}

fn relayed(row: &RecipientRow, attempt: Option<&ShownAttempt>) -> Block {
    let last = attempt.and_then(|attempt| attempt.result.as_ref());
    block(row, Action::Relayed, last, EnhancedCode::new(2, 0, 0))
}
