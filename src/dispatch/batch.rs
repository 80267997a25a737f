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
            let destination = match self.blocks.recipient(routed.name, domain) {
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
