//! After the clock was put back, nothing waits longer than the longest interval (RT-9).
//!
//! A recipient that was last tried, or accepted, at a time that is still to come was scheduled by another clock. Mail
//! that is to go far ahead because somebody asked for it is told from that by its past, and left alone.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::retry::longest_wait;
use crate::store::{Actor, Change, Filter, ListQuery, Sort, State, Store, StoreError};

/// Rows looked at and changed at once.
const PAGE: usize = 500;

/// How far ahead of the clock an arrival may lie without proving anything: the slack of clocks that are kept right.
const SLACK: Duration = Duration::from_secs(1);

/// Makes due at the longest interval from now what would otherwise wait longer because of a clock that was wrong.
///
/// Reads the queue from its latest due time down, so it costs one look when there is nothing to do.
pub(super) fn recall(store: &Store, config: &Config, now: Timestamp) -> Result<(), StoreError> {
    let latest = now.plus(longest_wait(&config.retry.intervals, config.retry.jitter));
    let mut query = ListQuery {
        filter: Filter {
            state: Some(State::Queued),
            ..Filter::default()
        },
        sort: Sort::Next,
        descending: true,
        limit: PAGE,
        cursor: None,
    };
    loop {
        let page = store.list(&query)?;
        let late = page.rows.iter().filter(|due| due.row.next_attempt > latest);
        let reached_the_end = page.rows.len() > late.clone().count();
        let ids: Vec<_> = late
            .filter(|due| due.row.last_attempt.unwrap_or(due.head.arrived) > now.plus(SLACK))
            .map(|due| (due.row.id.message, Some(due.row.id.number)))
            .collect();
        if !ids.is_empty() {
            log::warn!("dispatch result=recalled recipients={}", ids.len());
            let filter = Filter {
                ids,
                ..Filter::default()
            };
            let change = Change::Kick { at: latest };
            store.change(&filter, &change, &Actor { uid: 0 }, false, &mut |_| {})?;
        }
        query.cursor = page.cursor;
        if reached_the_end || query.cursor.is_none() {
            return Ok(());
        }
    }
}
