//! Which recipients of a new message are claimed in the commit that accepts it, and which the dispatcher is told of.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::Incoming;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::dispatch::{Permit, Transaction};
use crate::message::{Head, NewRecipient, RecipientId};
use crate::policy::limit::{any_per_address_day, limits, per_address_day};
use crate::policy::notice;
use crate::policy::retry::Terms;
use crate::policy::route::{RouteFacts, route};
use crate::smtp::address::ForwardPath;
use crate::store::{DestinationKey, NewClaim, NewRow, RecipientRow, State};

/// Groups of one message that may be claimed in its accepting commit; the others are the dispatcher's.
const MAX_CLAIMED_GROUPS: usize = 16;

/// Recipients with the same transport and destination.
struct Group {
    /// Its transport exists.
    usable: bool,
    /// When its senders are told of a delay.
    delay_due: Option<Timestamp>,
    /// Indices of its recipients.
    members: Vec<usize>,
}

/// What becomes of the recipients at once.
pub(super) struct Plan {
    pub(super) recipients: usize,
    pub(super) only: Option<ForwardPath>,
    pub(super) rows: Vec<NewRow>,
    /// Claimed in the accepting commit, one per group. Dropping them gives their slots back.
    pub(super) claimed: Vec<Transaction>,
    /// Groups that the dispatcher is told of.
    pub(super) waiting: Vec<DestinationKey>,
}

impl Incoming<'_> {
    /// Groups the recipients by transport and destination. A group that fits one transaction is claimed in the accepting
    /// commit if its destination has room.
    pub(super) fn plan(
        &self,
        config: &Config,
        head: &Arc<Head>,
        recipients: Vec<NewRecipient>,
    ) -> Plan {
        let mut plan = Plan {
            recipients: recipients.len(),
            only: match recipients.as_slice() {
                [only] => Some(only.path.clone()),
                _ => None,
            },
            rows: Vec::with_capacity(recipients.len()),
            claimed: Vec::new(),
            waiting: Vec::new(),
        };
        let mut groups: HashMap<(String, DestinationKey), Group> = HashMap::new();
        for (index, recipient) in recipients.into_iter().enumerate() {
            let routed = route(
                config,
                &RouteFacts {
                    caller: &head.caller,
                    from: &head.reverse_path,
                    to: &recipient.path,
                    attempts: 0,
                    operator: None,
                },
            );
            let (name, destination) = (routed.name.to_owned(), routed.destination);
            let group = groups
                .entry((name, destination.clone()))
                .or_insert_with_key(|(name, _)| Group {
                    usable: routed.transport.is_ok(),
                    delay_due: notice::next_delay_of(
                        &Terms::by(config, head, name),
                        head,
                        Duration::ZERO,
                    ),
                    members: Vec::new(),
                });
            group.members.push(index);
            plan.rows.push(NewRow {
                recipient,
                destination,
                due: head.arrived,
                hold: None,
                delay_due: group.delay_due,
                claim: None,
            });
        }
        // A message for many groups would wait many times.
        let alone = groups.len() == 1;
        // SC-8: what is counted by the day is so by the claims of the dispatcher.
        let by_day = any_per_address_day(config);
        for ((transport, destination), group) in groups {
            // Without tables it makes no difference what is known of its hosts.
            let limits = match config.limit.is_empty() {
                true => limits(config, &destination, None),
                false => self.intake.dispatcher.limits(&destination),
            };
            let counted = |index: &usize| {
                let domain = plan.rows[*index].recipient.path.domain();
                per_address_day(config, &destination, &limits, domain) > 0
            };
            let claim = group.usable
                && group.members.len() <= limits.recipients
                && !(by_day && group.members.iter().any(counted))
                && plan.claimed.len() < MAX_CLAIMED_GROUPS;
            let permit = match claim {
                true if alone => self.intake.dispatcher.reserve_soon(&destination),
                true => self.intake.dispatcher.reserve(&destination),
                false => None,
            };
            match permit {
                Some(permit) => plan.claim(config, head, transport, destination, &group, permit),
                None => plan.waiting.push(destination),
            }
        }
        plan
    }
}

impl Plan {
    fn claim(
        &mut self,
        config: &Config,
        head: &Arc<Head>,
        transport: String,
        destination: DestinationKey,
        group: &Group,
        permit: Permit,
    ) {
        // the back-off that counts if this attempt is cut off.
        let terms = Terms::by(config, head, &transport);
        let next_attempt = terms.next_attempt(1, head.arrived, rand::random());
        let mut recipients = Vec::with_capacity(group.members.len());
        for index in &group.members {
            let row = &mut self.rows[*index];
            row.claim = Some(NewClaim { next_attempt });
            recipients.push(RecipientRow {
                id: RecipientId {
                    message: head.id,
                    number: u32::try_from(*index + 1).unwrap_or(u32::MAX),
                },
                recipient: row.recipient.clone(),
                state: State::Queued,
                attempts: 0,
                last_attempt: None,
                // As before the claim: it is due since it came.
                next_attempt: head.arrived,
                destination: destination.clone(),
                transport: None,
                dialled: Vec::new(),
                blocker: String::new(),
                doubt: None,
                delay_told: Duration::ZERO,
                parked: None,
            });
        }
        self.claimed.push(Transaction {
            head: Arc::clone(head),
            recipients,
            destination,
            transport,
            content: None,
            over: None,
            claimed_at: head.arrived,
            permit,
        });
    }
}
