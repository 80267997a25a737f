//! `[intake]`

use super::table::table;
use super::units::{Size, Span, not_zero};
use super::value::within;

table! {
    /// `[intake]` (CFG-11).
    pub struct Intake in "intake" {
        /// Largest content of a message, as transferred without dot stuffing.
        max_message_size: Size = "\"50MiB\"", |size: &Size| within(1024, 1 << 40)(&size.0);
        /// Largest header of a message.
        max_header: Size = "\"1MiB\"", |size: &Size| within(1024, 1 << 30)(&size.0);
        /// Most recipients of one message; at least 100 (RFC 5321 §4.5.3.1.8).
        max_recipients: u32 = "1000", within(100, 100_000);
        /// Most sessions at once.
        sessions: usize = "200", within(1, 100_000);
        /// Most sessions of one client address; an IPv6 client counts by its /64.
        sessions_per_client: usize = "50", within(1, 100_000);
        /// Longest command line in octets, line end included; RFC 5321 §4.5.3.1.4 asks for 512 and more with extensions.
        command_line: usize = "2048", within(512, 65_536);
        /// Longest wait for a whole command (RFC 5321 §4.5.3.2.7: at least 5 minutes).
        idle_timeout: Span = "\"5m\"", not_zero;
        /// Longest session; a running DATA may end.
        session_timeout: Span = "\"1h\"", not_zero;
        /// Error replies in a session after which the next faulty command closes it.
        max_errors: u32 = "10", within(1, 100_000);
        /// Most Received fields, the sign of a loop.
        max_hops: u32 = "50", within(1, 1000);
        /// Most memory for messages that are being received; beyond it a new DATA is refused for now.
        memory: Size = "\"256MiB\"", |size: &Size| within(1 << 20, 1 << 40)(&size.0);
    }
}
