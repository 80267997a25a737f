//! `[dsn]`

use super::table::{table, words};
use super::units::{Rate, Size, Span, not_zero};
use super::value::parse_mailbox;
use crate::smtp::address::Mailbox;

words! {
    /// What a notice returns of the original unless its sender asked otherwise (RFC 3461 §4.3).
    pub enum Returned {
        /// Its header only.
        Headers = "headers",
        /// The whole message.
        Full = "full",
    }
}

impl From<Returned> for bool {
    fn from(returned: Returned) -> bool {
        returned == Returned::Full
    }
}

impl From<bool> for Returned {
    fn from(full: bool) -> Returned {
        if full {
            Returned::Full
        } else {
            Returned::Headers
        }
    }
}

table! {
    /// `[dsn]` (CFG-23).
    pub struct Dsn in "dsn" {
        /// From of notices to senders.
        from: Mailbox = (computed "\"postmaster@HOSTNAME\"", parse_mailbox("postmaster@localhost"));
        /// Gets what cannot be told to a sender; `""` for nobody.
        postmaster: Option<Mailbox> = "\"\"";
        /// How long a notice is tried.
        lifetime: Span = "\"2d\"", not_zero;
        /// What is returned of the original unless its sender asked otherwise: `"headers"` or `"full"`.
        return_full ("return"): bool as Returned = "\"headers\"";
        /// Most of the original that is returned.
        return_max: Size = "\"256KiB\"";
        /// Failures of one message that come within this time share a notice.
        collect: Span = "\"5s\"";
        /// Most notices to one address.
        per_sender: Rate = "\"100/1h\"";
    }
}
