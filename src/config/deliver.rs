//! `[deliver]`

use std::net::IpAddr;

use super::table::{table, words};
use super::units::{Span, not_zero};
use super::value::within;
use crate::smtp::address::Domain;

words! {
    /// Which address family goes first (DV-12).
    pub enum Family {
        /// The other family than last time.
        Alternate = "alternate",
        /// IPv4 first.
        Prefer4 = "prefer4",
        /// IPv6 first.
        Prefer6 = "prefer6",
        /// IPv4 only.
        Only4 = "only4",
        /// IPv6 only.
        Only6 = "only6",
    }
}

words! {
    /// What becomes of 8-bit content at a peer without 8BITMIME (CL-12).
    pub enum Without8BitMime {
        /// Sent as it is.
        Send = "send",
        /// Other hosts, then permanent 5.6.3.
        Fail = "fail",
    }
}

table! {
    /// `[deliver]` (CFG-15, CFG-16).
    pub struct Deliver in "deliver" {
        /// Connecting to one address.
        dial_timeout: Span = "\"30s\"", not_zero;
        /// Lookup and connecting, all addresses of one host.
        host_timeout: Span = "\"1m\"", not_zero;
        /// Reply to a command (RFC 5321 §4.5.3.2: 5 minutes for the greeting, MAIL and RCPT).
        command_timeout: Span = "\"5m\"", not_zero;
        /// Reply to DATA (RFC 5321 §4.5.3.2.4).
        data_timeout: Span = "\"2m\"", not_zero;
        /// Each block of content until the peer has taken it (RFC 5321 §4.5.3.2.5).
        block_timeout: Span = "\"3m\"", not_zero;
        /// Reply to the dot that ends the content (RFC 5321 §4.5.3.2.6). Too short a wait makes duplicates.
        dot_timeout: Span = "\"10m\"", not_zero;
        /// Reply to QUIT.
        quit_timeout: Span = "\"5s\"", not_zero;
        /// From connecting to the last octet of the content, plus 1 s for each 16 KiB.
        total_timeout: Span = "\"10m\"", not_zero;
        /// All hosts of one attempt, the wait for the reply to the dot excepted.
        attempt_timeout: Span = "\"30m\"", not_zero;
        /// The port of MX hosts.
        smtp_port: u16 = "25", within(1, u16::MAX);
        /// Most MX hosts of one attempt.
        max_mx: usize = "5", within(1, 100);
        /// Most addresses of one attempt, all hosts together.
        max_addresses: usize = "10", within(1, 1000);
        /// Address family: `"alternate"` (the other one than last time), `"prefer4"`, `"prefer6"`, `"only4"`, `"only6"`.
        family: Family = "\"alternate\"";
        /// Our own addresses to send from; the first of the dialled family is used. `[]`: the system chooses.
        source_addresses: Vec<IpAddr> = "[]";
        /// Name in EHLO; not set: `hostname`.
        helo: Option<Domain> = (unset);
        /// Permits MX hosts at private, loopback and other special addresses. For trials and closed networks.
        allow_private: bool = "false";
        /// Permits recipients at address literals such as `user@[192.0.2.1]`.
        address_literals: bool = "false";
        /// 8-bit content at a host without 8BITMIME: `"send"` as it is, or `"fail"`.
        without_8bitmime: Without8BitMime = "\"send\"";
        /// Whether PIPELINING is used where a host offers it.
        pipelining: bool = "true";
        /// Longest idle time of a kept session.
        idle_session: Span = "\"30s\"";
        /// Longest life of a session.
        session_age: Span = "\"5m\"", not_zero;
        /// Most transactions of a session.
        session_messages: u32 = "100", within(1, 1_000_000);
    }
}
