//! Scenarios: SMTP sessions over real sockets into a real queue.

mod content;
mod doors;
mod envelope;
mod sessions;
mod tls;

use std::time::Duration;

use posthaste::config::Span;

const MESSAGE: &str = "From: joe@src.example\r\nSubject: hello\r\n there\r\n\r\nbody\r\n";

fn millis(count: u64) -> Span {
    Span(Duration::from_millis(count))
}
