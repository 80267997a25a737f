//! `[limits]` and `[[limit]]`

use super::pattern::DomainPattern;
use super::table::table;
use super::value::within;

/// Most that `connections` and `initial` may be.
const MOST: usize = 10_000;

table! {
    /// `[limits]` (CFG-22).
    pub struct Limits in "limits" {
        /// Most connections to one destination at once.
        connections: usize = "20", within(1, MOST);
        /// How many of them at first; one more for each full window of successes, half after a refusal.
        initial: usize = "2", within(1, MOST);
        /// Most recipients of one transaction (RFC 5321 §4.5.3.1.8: a host takes 100 at least).
        recipients: usize = "100", within(1, MOST);
    }
    later ["rate", "dial_interval", "per_address_day"]
}

table! {
    /// `[[limit]]` (SC-9).
    pub struct Limit in "limit" repeated true {
        /// Patterns for the domain of the recipient. The first table with one that fits holds.
        destinations: Vec<DomainPattern> = (required "[\"example.org\"]"), some;
        /// As in `[limits]`, and so are all below; what is not set is as there.
        connections: Option<usize> = (unset), within_if_given;
        /// How many of them at first.
        initial: Option<usize> = (unset), within_if_given;
        /// Most recipients of one transaction.
        recipients: Option<usize> = (unset), within_if_given;
    }
    later ["rate", "dial_interval", "per_address_day"]
}

fn some(patterns: &[DomainPattern]) -> Result<(), String> {
    match patterns.is_empty() {
        true => Err("at least one pattern is wanted".to_owned()),
        false => Ok(()),
    }
}

pub(super) fn within_if_given(number: &Option<usize>) -> Result<(), String> {
    number.as_ref().map_or(Ok(()), within(1, MOST))
}
