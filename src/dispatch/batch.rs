//! Due rows of one destination to transactions, and to moves of what does not belong there (SC-10, RO-2). Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::blocks::{Blocks, parking};
use crate::clock::Timestamp;
use crate::message::{Head, QueueId};
use crate::policy::route::{RouteFacts, route};
use crate::store::{DestinationKey, DueRecipient, RecipientRow};

/// Recipients that travel together, before their claim.
#[derive(Debug)]
pub struct Job {
    /// Their message.
    pub head: Arc<Head>,
    /// Their rows.
    pub rows: Vec<RecipientRow>,
    /// The transport that the route named.
    pub transport: String,
    /// The content, if it is small and came with the rows.
    pub content: Option<Arc<Vec<u8>>>,
}

/// Recipients of one message that wait in the wrong group.
#[derive(Debug)]
pub struct Stray {
    /// The message.
    pub id: QueueId,
    /// Their numbers.
    pub numbers: Vec<u32>,
    /// Their attempts.
    pub attempts: u32,
    /// The right group.
    pub destination: DestinationKey,
}

/// What the due rows of a destination come to.
#[derive(Debug, Default)]
pub struct Batch {
    /// Transactions, in the order of the rows.
    pub jobs: Vec<Job>,
    /// What must go elsewhere.
    pub strays: Vec<Stray>,
    /// Rows were left over, or the page was full: more may be due.
    pub more: bool,
    /// The page ended inside a message that a job is made of, or inside a run of strays: with more rows at hand the
    /// batch would look different.
    pub cut: bool,
}

/// What decides how rows are grouped.
#[derive(Clone, Copy, Debug)]
pub struct Grouping<'a> {
    /// Pauses, and the configuration with its routes.
    pub blocks: &'a Blocks,
    /// The group that the rows wait in.
    pub destination: &'a DestinationKey,
    /// Most transactions.
    pub slots: usize,
    /// Most recipients of a transaction.
    pub recipients: usize,
}

/// Two recipients of one message go together when all of this is the same (SC-10).
type Together = (QueueId, u32, Timestamp, String);

impl Grouping<'_> {
    /// Groups the due rows of the destination. `full` says that the store had room for no more rows in its answer.
    pub fn apply(&self, due: Vec<DueRecipient>, full: bool) -> Batch {
        let mut batch = Batch {
            more: full,
            ..Batch::default()
        };
        let mut open: HashMap<Together, usize> = HashMap::new();
        let mut last_joined = false;
        for DueRecipient { head, row } in due {
            let routed = route(
                self.blocks.config(),
                &RouteFacts {
                    caller: &head.caller,
                    from: &head.reverse_path,
                    to: &row.recipient.path,
                    attempts: row.attempts,
                    operator: row.transport.as_deref(),
                },
            );
            let domain = row.recipient.path.domain();
            let block = self
                .blocks
                .sender(&head.reverse_path)
                .or_else(|| self.blocks.recipient(routed.name, domain));
            let destination = match block {
                Some(block) => parking(&block),
                None => routed.destination,
            };
            if destination != *self.destination {
                batch.stray(head.id, &row, destination);
                last_joined = true;
                continue;
            }
            let together = (
                head.id,
                row.attempts,
                row.next_attempt,
                routed.name.to_owned(),
            );
            let joined = open
                .get(&together)
                .copied()
                .filter(|&at| batch.jobs[at].rows.len() < self.recipients);
            let at = match joined {
                Some(at) => at,
                None if batch.jobs.len() < self.slots => {
                    batch.jobs.push(Job {
                        head,
                        rows: Vec::new(),
                        transport: together.3.clone(),
                        content: None,
                    });
                    batch.jobs.len() - 1
                }
                None => {
                    batch.more = true;
                    last_joined = false;
                    continue;
                }
            };
            batch.jobs[at].rows.push(row);
            last_joined = batch.jobs[at].rows.len() < self.recipients;
            open.insert(together, at);
        }
        batch.cut = full && last_joined;
        batch
    }
}

impl Batch {
    fn stray(&mut self, id: QueueId, row: &RecipientRow, destination: DestinationKey) {
        let number = row.id.number;
        match self.strays.last_mut() {
            Some(stray)
                if stray.id == id
                    && stray.attempts == row.attempts
                    && stray.destination == destination =>
            {
                stray.numbers.push(number);
            }
            _ => self.strays.push(Stray {
                id,
                numbers: vec![number],
                attempts: row.attempts,
                destination,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::message::{NewRecipient, Notify, RecipientId};
    use crate::smtp::address::{Domain, ForwardPath};
    use crate::store::State;

    fn key(text: &str) -> DestinationKey {
        DestinationKey(text.into())
    }

    fn head(id: i64) -> Arc<Head> {
        Arc::new(Head::new(
            QueueId::new(id).unwrap(),
            Timestamp::from_secs(5),
            "relay",
        ))
    }

    /// Recipients `1..=count` of a message at `domain`.
    fn due(id: i64, count: u32, domain: &str, attempts: u32) -> Vec<DueRecipient> {
        let head = head(id);
        let row = |number: u32| RecipientRow {
            id: RecipientId {
                message: head.id,
                number,
            },
            recipient: NewRecipient {
                path: ForwardPath::parse(&format!("u{number}@{domain}"), false).unwrap(),
                orcpt: None,
                notify: Notify::default(),
            },
            state: State::Queued,
            attempts,
            last_attempt: None,
            next_attempt: Timestamp::from_secs(5),
            destination: key("d.example"),
            transport: None,
            dialled: Vec::new(),
            blocker: String::new(),
            doubt: None,
            delay_told: std::time::Duration::ZERO,
            parked: None,
        };
        (1..=count)
            .map(|number| DueRecipient {
                head: Arc::clone(&head),
                row: row(number),
            })
            .collect()
    }

    fn apply(slots: usize, rows: Vec<DueRecipient>, full: bool) -> Batch {
        let config = Config::default_for(Domain::parse("here.example").unwrap());
        let blocks = Blocks::new(Arc::new(config), Vec::new(), Timestamp::from_secs(9));
        let grouping = Grouping {
            blocks: &blocks,
            destination: &key("d.example"),
            slots,
            recipients: 100,
        };
        grouping.apply(rows, full)
    }

    fn sizes(batch: &Batch) -> Vec<usize> {
        batch.jobs.iter().map(|job| job.rows.len()).collect()
    }

    // SC-10
    #[test]
    fn recipients_of_one_message_travel_together_up_to_the_limit() {
        let batch = apply(9, due(1, 230, "d.example", 0), false);
        assert_eq!(sizes(&batch), [100, 100, 30]);
        assert!(!batch.more && !batch.cut);
    }

    // SC-10
    #[test]
    fn recipients_with_other_attempts_or_another_due_time_travel_apart() {
        let mut rows = due(1, 4, "d.example", 0);
        rows[2].row.attempts = 1;
        rows[3].row.next_attempt = Timestamp::from_secs(4);
        rows.extend(due(2, 2, "d.example", 0));
        assert_eq!(sizes(&apply(9, rows, false)), [2, 1, 1, 2]);
    }

    // SC-1
    #[test]
    fn no_more_transactions_than_slots() {
        let mut rows = due(1, 1, "d.example", 0);
        rows.extend(due(2, 1, "d.example", 0));
        rows.extend(due(3, 1, "d.example", 0));
        let batch = apply(2, rows, true);
        assert_eq!(sizes(&batch), [1, 1]);
        assert!(batch.more && !batch.cut, "the third is known to be another");
    }

    // SC-10
    #[test]
    fn a_message_that_may_go_on_behind_the_page_is_read_further() {
        assert!(apply(2, due(1, 3, "d.example", 0), true).cut);
        assert!(!apply(2, due(1, 3, "d.example", 0), false).cut);
        assert!(
            !apply(1, due(1, 100, "d.example", 0), true).cut,
            "a full transaction"
        );
    }

    // RO-2
    #[test]
    fn recipients_in_the_wrong_group_are_moved_and_take_no_slot() {
        let mut rows = due(1, 3, "else.example", 2);
        rows.extend(due(2, 1, "d.example", 0));
        let batch = apply(1, rows, false);
        assert_eq!(sizes(&batch), [1]);
        assert_eq!(batch.strays.len(), 1);
        let stray = &batch.strays[0];
        assert_eq!((&stray.numbers[..], stray.attempts), (&[1, 2, 3][..], 2));
        assert_eq!(stray.destination, key("else.example"));
    }
}
