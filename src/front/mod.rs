//! The doors: listeners, the SMTP server, the control socket. Decodes a request, calls one function, encodes the answer.

pub mod accept;
mod connection;
pub mod control;
mod limits;
pub mod listener;
mod memory;
pub mod metrics;
pub mod notices;
pub mod refusal;
mod relay;
pub mod reports;
mod smtp;
mod stop;
mod threads;
pub mod tls;
pub mod unix;
