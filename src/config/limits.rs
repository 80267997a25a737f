//! `[limits]` and `[[limit]]`

use super::pattern::DomainPattern;
use super::table::table;
use super::units::{RateLimit, Span};
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
        /// Most messages to one destination in a time: `"60/1m"` lets 60 go at once, and after them one a second; `""`: any
        /// number.
        rate: RateLimit = "\"\"";
        /// Least time between new connections to one destination; a session that is kept and used again is none.
        dial_interval: Span = "\"0s\"";
        /// Most messages to one address in a UTC day; what is over it waits until midnight UTC. 0: any number.
        per_address_day: u32 = "0";
    }
}

table! {
    /// `[[limit]]` (SC-9).
    pub struct Limit in "limit" repeated true {
        /// Patterns for the domain of the recipient or its best MX host. The first table with one that fits either holds.
        destinations: Vec<DomainPattern> = (required "[\"example.org\"]"), some;
        /// As in `[limits]`, and so are all below; what is not set is as there.
        connections: Option<usize> = (unset), within_if_given;
        /// How many of them at first.
        initial: Option<usize> = (unset), within_if_given;
        /// Most recipients of one transaction.
        recipients: Option<usize> = (unset), within_if_given;
        /// Most messages in a time; `""`: any number, whatever `[limits]` says.
        rate: Option<RateLimit> = (unset);
        /// Least time between new connections.
        dial_interval: Option<Span> = (unset);
        /// Most messages to one address in a UTC day, also where mail goes by a relay; 0: any number, whatever `[limits]` says.
        per_address_day: Option<u32> = (unset);
    }
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
