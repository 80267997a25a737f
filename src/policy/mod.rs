//! Judgement: pure functions of (facts, now). No socket, no store, no clock, no log.

pub mod addresses;
pub mod failure;
pub mod hosts;
pub mod limit;
pub mod notice;
pub mod plan;
pub mod retry;
pub mod route;
pub mod sts;
pub mod tls;
pub mod tlsrpt;
pub mod txt;
pub mod verdict;
