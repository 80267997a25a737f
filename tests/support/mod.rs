//! What the scenarios stand on: a scripted MX, a DNS server, a temporary daemon. A test that needs a server starts it.

pub mod ca;
pub mod daemon;
pub mod dns;
pub mod front;
pub mod https;
pub mod mx;
pub mod office;
pub mod program;
pub mod queue;
pub mod tap;
