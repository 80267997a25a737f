//! SMTP grammar and the state machines of both sides (RFC 5321): bytes in, bytes out.
//!
//! No socket, no clock and no log in here; every parser takes its input in any split (SEC-6).

pub mod address;
pub mod answer;
pub mod client;
pub mod command;
pub mod data;
pub mod ehlo;
pub mod line;
pub mod params;
pub mod reply;
pub mod sasl;
pub mod serialise;
pub mod server;
pub mod xtext;
