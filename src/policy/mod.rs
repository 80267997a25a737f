//! Judgement: pure functions of (facts, now). No socket, no store, no clock, no log.

pub mod failure;
pub mod limit;
pub mod notice;
pub mod retry;
pub mod route;
