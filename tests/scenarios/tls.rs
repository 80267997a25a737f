//! Whom did we speak to: real workers, real handshakes, certificates of a private authority made here.
//!
//! `rows` is the table: what DNS, policies and the message say, what the hosts offer and show, and what happens. `table`
//! reads it and makes each row a run. What is no single attempt stands in `sessions`, what an operator asks in `verbs`, what
//! others are told of all that in `reports`.

mod reports;
mod rows;
mod sessions;
mod table;
mod verbs;

pub use table::pki;
