//! All scenarios in one test program, so that it links once. One file per theme; names are sentences about behaviour.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

#[path = "../support/mod.rs"]
mod support;

mod client;
mod config;
mod control;
mod daily;
mod dead;
mod destinations;
mod dispatch;
mod dkim;
mod dns;
mod hosts;
mod intake;
mod metrics;
mod notices;
mod process;
mod providers;
mod rates;
mod relay;
mod retry;
mod routes;
mod sendmail;
mod store;
mod sts;
mod tls;
