//! Listing, counting and showing (CTL-6, CTL-7, CTL-9, CTL-10).
//!
//! The default list goes along an index and costs its page. Other orders and filters look at the rows that are not
//! final, in one read transaction of at most 10 s (ST-14).

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::due::{self, Damaged, Heads};
use super::filter::{self, Conditions};
use super::rows::{self, ATTEMPT, HEAD, RECIPIENT, RECIPIENT_WIDTH};
use super::shared::Tally;
use super::{
    Change, DueRecipient, Filter, GroupBy, ListPage, ListQuery, Shown, ShownAttempt, Sort, State,
    StoreError, change, fault,
};
use crate::clock::Timestamp;
use crate::message::QueueId;

/// Most rows of a page, whatever is asked for.
const MAX_PAGE: usize = 10_000;

/// Rows looked at per step of [`page`], so that each read transaction is short whatever the filter.
const WINDOW: i64 = 50_000;

fn sql(error: rusqlite::Error) -> StoreError {
    fault::answer_for(&error)
}

/// Tables of a listing. The order of the join is fixed: recipients first, then what each refers to.
fn from(filter: &Filter, index: &str) -> String {
    let ranges = filter::ranges(filter);
    let (source, index) = if ranges.is_empty() {
        (String::new(), index)
    } else {
        let rows = vec!["(?, ?)"; ranges.len()].join(", ");
        (
            format!(
                "(SELECT column1 AS first, column2 AS last FROM (VALUES {rows})) w CROSS JOIN "
            ),
            "NOT INDEXED",
        )
    };
    let on = if ranges.is_empty() {
        ""
    } else {
        " ON r.id BETWEEN w.first AND w.last"
    };
    format!(
        "{source}recipient r {index}{on} \
         CROSS JOIN message m ON m.id = r.id >> 20 \
         CROSS JOIN destination d ON d.id = r.destination"
    )
}

fn range_values(filter: &Filter) -> Vec<Value> {
    filter::ranges(filter)
        .into_iter()
        .flat_map(|(first, last)| [Value::from(first), Value::from(last)])
        .collect()
}

/// The text and values of a list query. One row more than the page says whether more follow.
pub(super) fn list_sql(
    query: &ListQuery,
    limit: usize,
) -> Result<(String, Vec<Value>), StoreError> {
    let filter = &query.filter;
    let finals = filter::wants_final(filter);
    let column = match query.sort {
        Sort::Next => "r.next_attempt",
        Sort::Arrived => "m.arrived",
        Sort::Size => "m.size",
    };
    let index = match query.sort {
        _ if finals => "NOT INDEXED",
        // Few rows are claimed or held, as a rule.
        Sort::Next if !matches!(filter.state, Some(State::Claimed | State::Held)) => {
            "INDEXED BY recipient_next"
        }
        _ => "INDEXED BY recipient_state",
    };
    let mut all = Conditions::of(filter);
    if !finals {
        all.add("r.state < 3", []);
    }
    let (compare, direction) = if query.descending {
        ("<", "DESC")
    } else {
        (">", "ASC")
    };
    if let Some(cursor) = &query.cursor {
        let (value, row) = parse_cursor(cursor)?;
        all.add(
            &format!("({column}, r.id) {compare} (?, ?)"),
            [Value::from(value), row.into()],
        );
    }
    let text = format!(
        "SELECT {column}, d.key, {RECIPIENT}, {HEAD} FROM {} WHERE {} \
         ORDER BY {column} {direction}, r.id {direction} LIMIT {}",
        from(filter, index),
        all.sql(),
        limit + 1
    );
    let mut values = range_values(filter);
    values.extend(all.values);
    Ok((text, values))
}

/// Opaque to others: the sort column's value and the row id of the last row.
fn parse_cursor(text: &str) -> Result<(i64, i64), StoreError> {
    let numbers = text
        .split_once('.')
        .and_then(|(value, row)| Some((value.parse().ok()?, row.parse().ok()?)));
    numbers.ok_or_else(|| StoreError::Failed("not a cursor of a list".into()))
}

/// One page.
pub(super) fn list(
    conn: &Connection,
    query: &ListQuery,
) -> Result<(ListPage, Damaged), StoreError> {
    let limit = query.limit.clamp(1, MAX_PAGE);
    let (text, values) = list_sql(query, limit)?;
    let mut statement = conn.prepare_cached(&text).map_err(sql)?;
    let mut found = statement.query(params_from_iter(values)).map_err(sql)?;
    let mut page = ListPage {
        rows: Vec::new(),
        cursor: None,
    };
    let mut damaged = Damaged::new();
    let mut last = None;
    let mut seen = 0;
    while let Some(row) = found.next().map_err(sql)? {
        seen += 1;
        if seen > limit {
            page.cursor = last.map(|(value, id): (i64, i64)| format!("{value}.{id}"));
            break;
        }
        let id: i64 = row.get(2).map_err(sql)?;
        last = Some((row.get(0).map_err(sql)?, id));
        match recipient_with_head(row, &page.rows) {
            Ok(read) => page.rows.push(read),
            // Once it is held there is no more to be done.
            Err(damage) if row.get(3).is_ok_and(|state: i64| state == 0) => {
                due::note_damage(&mut damaged, id, damage);
            }
            Err(_) => {}
        }
    }
    Ok((page, damaged))
}

/// Neighbours of one message share its head.
fn recipient_with_head(
    row: &rusqlite::Row<'_>,
    before: &[DueRecipient],
) -> Result<DueRecipient, rows::Damage> {
    let recipient = rows::recipient(row, 2, rows::key(row, 1)?)?;
    let head = match before.last() {
        Some(last) if last.head.id == recipient.id.message => Arc::clone(&last.head),
        _ => Arc::new(rows::head(row, 2 + RECIPIENT_WIDTH)?),
    };
    Ok(DueRecipient {
        head,
        row: recipient,
    })
}

/// Ages of [`GroupBy::Age`], in minutes.
const AGES: [i64; 8] = [5, 10, 20, 40, 80, 160, 320, 640];

/// Counts, groups by descending count. `tally` answers what it can without looking at rows.
pub(super) fn count(
    conn: &Connection,
    filter: &Filter,
    by: Option<GroupBy>,
    now: Timestamp,
    tally: &Tally,
) -> Result<Vec<(String, u64)>, StoreError> {
    let everything = filter::ranges(filter).is_empty() && Conditions::of(filter).values.is_empty();
    let unfiltered = everything && filter.from.is_none();
    let states = [
        ("queued", tally.queued),
        ("claimed", tally.claimed),
        ("held", tally.held),
    ];
    match by {
        None if unfiltered => {
            let all = states.iter().map(|(_, count)| count).sum::<i64>();
            return Ok(vec![(String::new(), unsigned(all))]);
        }
        Some(GroupBy::State) if unfiltered => {
            let mut groups: Vec<(String, u64)> = states
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| ((*name).to_owned(), unsigned(*count)))
                .collect();
            groups.sort_by_key(|group| std::cmp::Reverse(group.1));
            return Ok(groups);
        }
        _ => {}
    }
    let (text, values) = count_sql(filter, by, now);
    let mut statement = conn.prepare(&text).map_err(sql)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(sql)?;
    let mut groups = Vec::new();
    while let Some(row) = rows.next().map_err(sql)? {
        let key = match by {
            None => String::new(),
            Some(GroupBy::State) => {
                let code: i64 = row.get(0).map_err(sql)?;
                rows::state(code).map_or_else(|damage| damage.0, |state| state.to_string())
            }
            Some(GroupBy::Age) => {
                let step: usize = row
                    .get::<_, i64>(0)
                    .map_err(sql)?
                    .try_into()
                    .unwrap_or(AGES.len());
                AGES.get(step)
                    .map_or_else(|| "more".into(), |minutes| format!("{minutes}m"))
            }
            Some(_) => row.get(0).map_err(sql)?,
        };
        groups.push((key, unsigned(row.get(1).map_err(sql)?)));
    }
    Ok(groups)
}

pub(super) fn count_sql(
    filter: &Filter,
    by: Option<GroupBy>,
    now: Timestamp,
) -> (String, Vec<Value>) {
    let finals = filter::wants_final(filter);
    let mut all = Conditions::of(filter);
    if !finals {
        all.add("r.state < 3", []);
    }
    let key = match by {
        None => "''".to_owned(),
        Some(GroupBy::Domain) => "r.domain".into(),
        Some(GroupBy::Transport) => "coalesce(r.transport, r.used, '')".into(),
        Some(GroupBy::State) => "r.state".into(),
        Some(GroupBy::Caller) => "m.caller".into(),
        Some(GroupBy::Age) => {
            let steps: String = (0..)
                .zip(AGES)
                .map(|(step, minutes)| {
                    format!(
                        " WHEN m.arrived >= {} THEN {step}",
                        now.millis() - minutes * 60_000
                    )
                })
                .collect();
            format!("CASE{steps} ELSE {} END", AGES.len())
        }
    };
    let index = if finals {
        "NOT INDEXED"
    } else {
        "INDEXED BY recipient_state"
    };
    let text = format!(
        "SELECT {key} AS name, count(*) AS rows FROM {} WHERE {} {} ORDER BY rows DESC, name",
        from(filter, index),
        all.sql(),
        // Without groups the answer is one row, also for none.
        if by.is_some() { "GROUP BY name" } else { "" }
    );
    let mut values = range_values(filter);
    values.extend(all.values);
    (text, values)
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

const HAS_NOTICE: &str = "SELECT 1 FROM notice WHERE message = ?1 LIMIT 1";

/// Everything known of one message.
pub(super) fn show(conn: &Connection, id: QueueId) -> Result<Option<Shown>, StoreError> {
    let damaged = |damage: rows::Damage| StoreError::Damaged(damage.0);
    let known: Option<i64> = conn
        .prepare_cached("SELECT id FROM message WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id.get()], |row| row.get(0)).optional())
        .map_err(sql)?;
    if known.is_none() {
        return Ok(None);
    }
    let (first, last) = rows::row_range(id);
    let head = Heads::default().get(conn, first).map_err(damaged)?;
    let mut shown = Shown {
        head,
        recipients: Vec::new(),
        attempts: attempts(conn, first, last)?,
        // Freed with the last recipient, or when its sender has been told.
        has_content: conn
            .prepare_cached(HAS_NOTICE)
            .and_then(|mut statement| statement.exists([id.get()]))
            .map_err(sql)?,
    };
    let mut statement = conn
        .prepare_cached(&format!(
            "SELECT d.key, {RECIPIENT} FROM recipient r CROSS JOIN destination d ON d.id = r.destination \
             WHERE r.id BETWEEN ?1 AND ?2 ORDER BY r.id"
        ))
        .map_err(sql)?;
    let mut rows = statement.query([first, last]).map_err(sql)?;
    while let Some(row) = rows.next().map_err(sql)? {
        let key = rows::key(row, 0).map_err(damaged)?;
        let recipient = rows::recipient(row, 1, key).map_err(damaged)?;
        // the attempt that runs is the claimed row itself.
        if recipient.state == State::Claimed {
            shown.attempts.push(ShownAttempt {
                number: recipient.id.number,
                ordinal: recipient.attempts,
                started: recipient.last_attempt.unwrap_or_default(),
                result: None,
                cut_off: false,
                in_doubt: false,
                operator: None,
            });
        }
        shown.has_content |= !recipient.state.is_final();
        shown.recipients.push(recipient);
    }
    shown
        .attempts
        .sort_by_key(|attempt| (attempt.started, attempt.number, attempt.ordinal));
    Ok(Some(shown))
}

fn attempts(conn: &Connection, first: i64, last: i64) -> Result<Vec<ShownAttempt>, StoreError> {
    let mut statement = conn
        .prepare_cached(&format!(
            "SELECT {ATTEMPT} FROM attempt WHERE recipient BETWEEN ?1 AND ?2 ORDER BY recipient, ordinal, kind"
        ))
        .map_err(sql)?;
    let mut rows = statement.query([first, last]).map_err(sql)?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next().map_err(sql)? {
        attempts.push(rows::attempt(row).map_err(|damage| StoreError::Damaged(damage.0))?);
    }
    Ok(attempts)
}

/// Where a change looks for its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// These row ids.
    Range(i64, i64),
    /// All rows in this state.
    State(State),
}

/// The places a change has to look at, in order.
pub(super) fn sources(filter: &Filter, change: &Change) -> Vec<Source> {
    let ranges = filter::ranges(filter);
    if !ranges.is_empty() {
        return ranges
            .into_iter()
            .map(|(first, last)| Source::Range(first, last))
            .collect();
    }
    // A row that the change moves on must not come by again: released rows are queued, held ones are held.
    [State::Claimed, State::Queued, State::Held]
        .into_iter()
        .filter(|state| filter.state.is_none_or(|wanted| wanted == *state))
        .filter(|state| change::concerns(change, *state) != change::Hit::Left)
        .map(Source::State)
        .collect()
}

/// A row that a change may concern.
pub(super) struct Candidate {
    pub(super) row: i64,
    pub(super) state: State,
    pub(super) address: String,
    pub(super) destination: super::DestinationKey,
}

/// The next candidates of a source behind `after`, and where to go on; `None` at its end.
pub(super) fn page(
    conn: &Connection,
    filter: &Filter,
    source: Source,
    after: i64,
) -> Result<(Vec<Candidate>, Option<i64>), StoreError> {
    let mut all = Conditions::of(filter);
    all.add("r.state < 3", []);
    // The window ends at some row whether it matches or not: no step looks at more.
    let (index, window, first, last) = match source {
        Source::Range(first, last) => (
            "NOT INDEXED",
            "SELECT id FROM recipient WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT 1 OFFSET ?3",
            first.saturating_sub(1).max(after),
            last,
        ),
        Source::State(state) => {
            let code = rows::state_code(state);
            all.add("r.state = ?", [Value::from(code)]);
            (
                "INDEXED BY recipient_state",
                match state {
                    State::Queued => STATE_WINDOWS[0],
                    State::Claimed => STATE_WINDOWS[1],
                    _ => STATE_WINDOWS[2],
                },
                after,
                i64::MAX,
            )
        }
    };
    let end: Option<i64> = conn
        .prepare_cached(window)
        .and_then(|mut statement| {
            statement
                .query_row([first, last, WINDOW], |row| row.get(0))
                .optional()
        })
        .map_err(sql)?;
    all.add(
        "r.id > ? AND r.id <= ?",
        [Value::from(first), end.unwrap_or(last).into()],
    );
    let text = format!(
        "SELECT r.id, r.state, r.address, d.key FROM recipient r {index} \
         CROSS JOIN message m ON m.id = r.id >> 20 CROSS JOIN destination d ON d.id = r.destination \
         WHERE {} ORDER BY r.id LIMIT {}",
        all.sql(),
        change::STEP
    );
    let mut statement = conn.prepare_cached(&text).map_err(sql)?;
    let mut rows = statement.query(params_from_iter(all.values)).map_err(sql)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(sql)? {
        let damaged = |damage: rows::Damage| StoreError::Damaged(damage.0);
        found.push(Candidate {
            row: row.get(0).map_err(sql)?,
            state: rows::state(row.get(1).map_err(sql)?).map_err(damaged)?,
            address: row.get(2).map_err(sql)?,
            destination: rows::key(row, 3).map_err(damaged)?,
        });
    }
    let go_on = if found.len() == change::STEP {
        found.last().map(|candidate| candidate.row)
    } else {
        end
    };
    Ok((found, go_on))
}

const STATE_WINDOWS: [&str; 3] = [
    "SELECT id FROM recipient INDEXED BY recipient_state WHERE state = 0 AND state < 3 AND id > ?1 AND id <= ?2 ORDER BY id LIMIT 1 OFFSET ?3",
    "SELECT id FROM recipient INDEXED BY recipient_state WHERE state = 1 AND state < 3 AND id > ?1 AND id <= ?2 ORDER BY id LIMIT 1 OFFSET ?3",
    "SELECT id FROM recipient INDEXED BY recipient_state WHERE state = 2 AND state < 3 AND id > ?1 AND id <= ?2 ORDER BY id LIMIT 1 OFFSET ?3",
];

/// When the oldest message with a recipient that is not final arrived: a seek per state, because ids follow arrival.
pub(super) const OLDEST: &str = "SELECT arrived FROM message WHERE id = (SELECT min(oldest) >> 20 FROM (\
    SELECT min(id) AS oldest FROM recipient INDEXED BY recipient_state WHERE state = 0 AND state < 3 UNION ALL \
    SELECT min(id) FROM recipient INDEXED BY recipient_state WHERE state = 1 AND state < 3 UNION ALL \
    SELECT min(id) FROM recipient INDEXED BY recipient_state WHERE state = 2 AND state < 3))";

pub(super) fn oldest(conn: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let found: Option<i64> = conn
        .prepare_cached(OLDEST)
        .and_then(|mut statement| statement.query_row([], |row| row.get(0)).optional())
        .map_err(sql)?;
    Ok(found.map(Timestamp::from_millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;
    use crate::store::statements::tests::plan;

    fn database() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        conn
    }

    fn query(sort: Sort, filter: Filter, cursor: Option<&str>) -> ListQuery {
        ListQuery {
            filter,
            sort,
            descending: false,
            limit: 100,
            cursor: cursor.map(str::to_owned),
        }
    }

    // Q-20, CTL-7
    #[test]
    fn the_default_list_and_its_later_pages_go_along_an_index() {
        let conn = database();
        for cursor in [None, Some("5.7")] {
            let (text, _) = list_sql(&query(Sort::Next, Filter::default(), cursor), 100).unwrap();
            let plan = plan(&conn, &text);
            assert!(plan[0].contains("USING INDEX recipient_next"), "{plan:?}");
            assert!(
                plan.iter().all(|step| !step.contains("TEMP B-TREE")),
                "{plan:?}"
            );
            assert!(
                plan[1..].iter().all(|step| step.starts_with("SEARCH")),
                "{plan:?}"
            );
            if cursor.is_some() {
                assert!(plan[0].starts_with("SEARCH"), "{plan:?}");
            }
        }
    }

    // Q-20, CTL-11
    #[test]
    fn recipients_named_by_id_are_found_by_key() {
        let conn = database();
        let filter = Filter {
            ids: vec![
                (QueueId::new(4).unwrap(), None),
                (QueueId::new(9).unwrap(), Some(1)),
            ],
            ..Filter::default()
        };
        let (listed, _) = list_sql(&query(Sort::Next, filter.clone(), None), 100).unwrap();
        let (counted, _) = count_sql(&filter, None, Timestamp::from_secs(1));
        for text in [listed, counted] {
            let plan = plan(&conn, &text);
            let recipients = plan.iter().find(|step| step.contains(" r ")).unwrap();
            assert!(
                recipients.contains("SEARCH r USING INTEGER PRIMARY KEY"),
                "{plan:?}"
            );
        }
    }

    //
    #[test]
    fn what_the_dispatcher_and_stats_ask_is_found_by_index() {
        let conn = database();
        let texts = [
            due::DESTINATIONS.to_owned(),
            due::NEXT_DUE.into(),
            HAS_NOTICE.into(),
            due::LEVEL.into(),
            due::rows_sql(),
            due::head_sql(),
            OLDEST.into(),
            STATE_WINDOWS[0].into(),
        ];
        for text in texts {
            for step in plan(&conn, &text) {
                let constant = step.starts_with("SCAN (") || step.starts_with("SCAN CONSTANT");
                assert!(!step.starts_with("SCAN") || constant, "{text}: {step}");
                assert!(!step.contains("TEMP B-TREE"), "{text}: {step}");
            }
        }
    }

    // CTL-7
    #[test]
    fn a_cursor_that_is_none_of_ours_is_refused() {
        for bad in ["", "5", "5.", "x.1", "5.7.9"] {
            assert!(parse_cursor(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_cursor("-5.7").unwrap(), (-5, 7));
    }
}
