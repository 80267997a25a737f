//! Filters as SQL conditions (CTL-6). Values are always bound, never written into the text.

use rusqlite::types::Value;

use super::rows::{self, row_id, row_range};
use super::{Filter, State};

/// Conditions on a recipient `r` and its message `m`, with their values in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    parts: Vec<String>,
    pub(super) values: Vec<Value>,
}

impl Conditions {
    /// All parts, AND-ed; never empty.
    pub(super) fn sql(&self) -> String {
        if self.parts.is_empty() {
            return "1".into();
        }
        self.parts.join(" AND ")
    }

    /// Adds a condition; each `?` in it takes the next value.
    pub(super) fn add(&mut self, part: &str, values: impl IntoIterator<Item = Value>) {
        self.parts.push(part.to_owned());
        self.values.extend(values);
    }

    /// Everything in the filter but the ids, which choose where to look (see [`ranges`]).
    pub(super) fn of(filter: &Filter) -> Conditions {
        let mut all = Conditions::default();
        if let Some(number) = filter.rcpt {
            let mask = i64::from(rows::MAX_NUMBER);
            all.add(
                "(r.id & ?) = ?",
                [Value::from(mask), i64::from(number).into()],
            );
        }
        if let Some(from) = &filter.from {
            if from == "<>" {
                all.add("m.sender = ''", []);
            } else {
                address(&mut all, "m.sender", "m.sender_domain", from);
            }
        }
        if let Some(to) = &filter.to {
            address(&mut all, "r.address", "r.domain", to);
        }
        if let Some(domain) = &filter.domain {
            all.add("r.domain = ?", [Value::from(domain.to_ascii_lowercase())]);
        }
        if let Some(domain) = &filter.sender_domain {
            all.add(
                "m.sender_domain = ?",
                [Value::from(domain.to_ascii_lowercase())],
            );
        }
        if let Some(transport) = &filter.transport {
            all.add(
                "(r.transport = ? OR r.used = ?)",
                [Value::from(transport.clone()), transport.clone().into()],
            );
        }
        if let Some(state) = filter.state {
            all.add("r.state = ?", [Value::from(rows::state_code(state))]);
        }
        for (part, time) in [
            ("m.arrived < ?", filter.arrived_before),
            ("m.arrived > ?", filter.arrived_after),
            ("r.next_attempt < ?", filter.next_before),
        ] {
            if let Some(time) = time {
                all.add(part, [Value::from(time.millis())]);
            }
        }
        if let Some(caller) = &filter.caller {
            all.add("m.caller = ?", [Value::from(caller.clone())]);
        }
        if let Some(text) = &filter.text {
            all.add("instr(r.blocker, ?) > 0", [Value::from(text.clone())]);
        }
        all
    }
}

/// A substring, without regard to ASCII case; `@dom` exactly that domain.
fn address(all: &mut Conditions, column: &str, domain_column: &str, wanted: &str) {
    let wanted = wanted.to_ascii_lowercase();
    match wanted.strip_prefix('@') {
        Some(domain) => all.add(
            &format!("{domain_column} = ?"),
            [Value::from(domain.to_owned())],
        ),
        None => all.add(
            &format!("instr(lower({column}), ?) > 0"),
            [Value::from(wanted)],
        ),
    }
}

/// Whether final rows are asked for.
pub(super) fn wants_final(filter: &Filter) -> bool {
    filter.state.is_some_and(State::is_final)
}

/// Row id ranges that the ids of a filter stand for: sorted, without overlap; empty when it names none.
pub(super) fn ranges(filter: &Filter) -> Vec<(i64, i64)> {
    let mut all: Vec<(i64, i64)> = filter
        .ids
        .iter()
        .map(|&(message, number)| match number {
            None => row_range(message),
            // A number that no recipient can have matches nothing.
            Some(number) if number > rows::MAX_NUMBER => (0, 0),
            Some(number) => (row_id(message, number), row_id(message, number)),
        })
        .collect();
    all.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::with_capacity(all.len());
    for (first, last) in all {
        match merged.last_mut() {
            Some(known) if first <= known.1 => known.1 = known.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QueueId;

    // CTL-6
    #[test]
    fn ids_become_ranges_without_overlap() {
        let id = |n| QueueId::new(n).unwrap();
        let filter = Filter {
            ids: vec![
                (id(7), Some(3)),
                (id(2), None),
                (id(2), Some(5)),
                (id(7), Some(3)),
                (id(7), Some(u32::MAX)),
            ],
            ..Filter::default()
        };
        let seven = row_id(id(7), 3);
        assert_eq!(ranges(&filter), [(0, 0), row_range(id(2)), (seven, seven)]);
        assert!(ranges(&Filter::default()).is_empty());
    }

    // CTL-6, IN-18
    #[test]
    fn values_are_bound_and_never_part_of_the_text() {
        let filter = Filter {
            to: Some("' OR 1=1 --".into()),
            from: Some("@Dest.Example".into()),
            domain: Some("'; DROP TABLE message".into()),
            ..Filter::default()
        };
        let all = Conditions::of(&filter);
        assert!(!all.sql().contains("OR 1") && !all.sql().contains("DROP"));
        assert_eq!(all.values.len(), all.sql().matches('?').count());
        assert!(all.values.contains(&Value::from("dest.example".to_owned())));
    }
}
