//! `list` and `count` (CTL-7, CTL-9, CTL-10).

use std::collections::HashMap;
use std::sync::Arc;

use super::Call;
use crate::clock::Timestamp;
use crate::delivery::Doing;
use crate::dispatch::blocks::Blocks;
use crate::front::control::Host;
use crate::front::control::filter::{self, Args};
use crate::front::control::output::{Done, Record, Reply, Stop, span};
use crate::message::RecipientId;
use crate::store::{DueRecipient, GroupBy, ListQuery, Sort, State, StoreError};

/// Rows of a page, unless the request says otherwise.
pub(super) const LIMIT: usize = 1000;
/// The most that it may say: a page is one snapshot, and is held in memory.
const MAX_LIMIT: usize = 10_000;

pub(super) fn list(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let (sort, descending) = args
        .read(
            "sort",
            "next, queued, age or size, with - in front for descending",
            order,
        )?
        .unwrap_or_default();
    let limit = args
        .read("limit", "a number from 1 to 10000", |text| {
            let plain = text.bytes().all(|b| b.is_ascii_digit());
            text.parse()
                .ok()
                .filter(|n| plain && (1..=MAX_LIMIT).contains(n))
        })?
        .unwrap_or(LIMIT);
    let cursor = args.value("cursor")?;
    let mut filter = filter::take(&mut args, call.now)?.unwrap_or_default();
    args.finish()?;
    if !call.narrow(&mut filter) {
        return Ok(Done::Count(0, None));
    }
    let goes_on = cursor.is_some();
    let page = call.control.store.list(&ListQuery {
        filter,
        sort,
        descending,
        limit,
        cursor,
    });
    let page = page.map_err(|error| match error {
        // The one thing that can be wrong with this request itself.
        StoreError::Failed(text) if goes_on => Stop::usage(text),
        error => error.into(),
    })?;
    let facts = Facts::gather(call)?;
    for due in &page.rows {
        reply.record(&facts.record(call, due))?;
    }
    Ok(Done::Count(page.rows.len() as u64, page.cursor))
}

/// `age` is how long ago a message arrived: the other way round than `queued`.
fn order(text: &str) -> Option<(Sort, bool)> {
    let (minus, name) = match text.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, text),
    };
    match name {
        "next" => Some((Sort::Next, minus)),
        "queued" => Some((Sort::Arrived, minus)),
        "age" => Some((Sort::Arrived, !minus)),
        "size" => Some((Sort::Size, minus)),
        _ => None,
    }
}

pub(super) fn count(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let by = args.read(
        "by",
        "domain, transport, state, caller or age",
        |text| match text {
            "domain" => Some(("domain", GroupBy::Domain)),
            "transport" => Some(("transport", GroupBy::Transport)),
            "state" => Some(("state", GroupBy::State)),
            "caller" => Some(("caller", GroupBy::Caller)),
            "age" => Some(("age", GroupBy::Age)),
            _ => None,
        },
    )?;
    let mut filter = filter::take(&mut args, call.now)?.unwrap_or_default();
    args.finish()?;
    if !call.narrow(&mut filter) {
        return Ok(Done::Count(0, None));
    }
    let groups = call.control.store.count(&filter, by.map(|(_, by)| by))?;
    let Some((key, _)) = by else {
        let count = groups.iter().map(|(_, n)| n).sum();
        reply.record(&Record::new().number("count", count))?;
        return Ok(Done::Count(count, None));
    };
    for (name, count) in &groups {
        reply.record(&Record::new().text(key, name).number("count", *count))?;
    }
    Ok(Done::Count(groups.len() as u64, None))
}

/// What the listing says besides the rows: taken once for a page.
pub(super) struct Facts {
    /// Made anew from the store, so that a pause shows in the very next request.
    blocks: Blocks,
    host: Arc<dyn Host>,
    running: HashMap<RecipientId, Doing>,
    now: Timestamp,
}

impl Facts {
    pub(super) fn gather(call: &Call<'_>) -> Result<Facts, Stop> {
        let mut running = HashMap::new();
        for attempt in call.control.host.running() {
            for number in attempt.numbers.clone() {
                let message = attempt.id;
                running.insert(RecipientId { message, number }, attempt.clone());
            }
        }
        let pauses = call.control.store.pauses()?;
        Ok(Facts {
            blocks: Blocks::new(call.control.config.get(), pauses, call.now),
            host: Arc::clone(&call.control.host),
            running,
            now: call.now,
        })
    }

    /// The one reason why a recipient waits, and until when if it is a pause or the like: what dispatch says, else what
    /// the last attempt or the hold recorded.
    pub(super) fn blocker(&self, due: &DueRecipient) -> (String, Option<Timestamp>) {
        let waits = match due.row.state {
            State::Queued => self.blocks.why(
                due,
                self.now,
                |destination| self.host.dead(destination),
                |destination| self.host.limit(destination),
            ),
            _ => None,
        };
        waits.unwrap_or_else(|| (due.row.blocker.clone(), None))
    }

    /// A line of `list`.
    pub(super) fn record(&self, call: &Call<'_>, due: &DueRecipient) -> Record {
        let (head, row) = (&due.head, &due.row);
        let mut record = Record::new()
            .number("id", row.id.message.get())
            .number("rcpt", row.id.number)
            .path("from", &head.reverse_path)
            .path("to", &row.recipient.path)
            .text("state", row.state)
            .number("attempts", row.attempts)
            .time("next", row.next_attempt)
            .number("size", head.size)
            .text("age", span(call.now.since(head.arrived)));
        // Q-15; the worker may be done since, or not have told yet.
        if let (State::Claimed, Some(running)) = (row.state, self.running.get(&row.id)) {
            record = record.text("stage", running.stage);
            if !running.host.is_empty() {
                record = record.text("host", &running.host);
            }
            record = record.text("elapsed", span(running.elapsed));
        }
        let (blocker, until) = self.blocker(due);
        record
            .text("blocker", blocker)
            .maybe("until", until)
            .maybe("doubt", row.doubt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CTL-7
    #[test]
    fn age_sorts_the_other_way_round_than_arrival() {
        assert_eq!(order("next"), Some((Sort::Next, false)));
        assert_eq!(order("-next"), Some((Sort::Next, true)));
        assert_eq!(order("queued"), order("-age"));
        assert_eq!(order("-queued"), order("age"));
        assert_eq!(order("-size"), Some((Sort::Size, true)));
        for bad in ["", "-", "--next", "Next", "id"] {
            assert_eq!(order(bad), None, "{bad}");
        }
    }
}
