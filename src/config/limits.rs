//! `[limits]`

use super::table::table;
use super::value::within;

table! {
    /// `[limits]`: what the core needs of CFG-22.
    pub struct Limits in "limits" {
        /// Most connections to one destination at once.
        connections: usize = "20", within(1, 10_000);
        /// Most recipients of one transaction (RFC 5321 §4.5.3.1.8: a host takes 100 at least).
        recipients: usize = "100", within(1, 10_000);
    }
    later ["initial", "rate", "dial_interval", "per_address_day"]
}
