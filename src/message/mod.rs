//! One accepted mail: its queue id, its envelope, and what we add to its header.
//!
//! Knows nothing of rows, sockets or peers.

pub mod dkim;
pub mod dsn;
pub mod header;
pub mod tlsrpt;
pub mod trace;

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::smtp::address::{ForwardPath, ReversePath};

pub use crate::smtp::params::{Notify, Ret};

/// Queue id: a positive decimal integer, unique for the life of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(NonZeroU64);

impl QueueId {
    /// The id, if it is positive and fits SQLite's signed integers.
    pub fn new(id: i64) -> Option<QueueId> {
        u64::try_from(id)
            .ok()
            .and_then(NonZeroU64::new)
            .map(QueueId)
    }

    /// As SQLite stores it.
    pub fn get(self) -> i64 {
        self.0.get() as i64
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for QueueId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<QueueId, &'static str> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let id = if digits {
            text.parse::<i64>().ok()
        } else {
            None
        };
        id.and_then(QueueId::new)
            .ok_or("a queue id is a positive decimal number")
    }
}

/// One recipient of one message, written `ID/N` with N from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecipientId {
    /// The message.
    pub message: QueueId,
    /// The number of the recipient inside the message, from 1.
    pub number: u32,
}

impl fmt::Display for RecipientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.message, self.number)
    }
}

/// Whether the path of a message must be verified TLS (RFC 8689).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RequireTls {
    /// Neither asked for nor waived.
    #[default]
    Default,
    /// REQUIRETLS was given.
    Yes,
    /// `TLS-Required: No` was given.
    No,
}

impl RequireTls {
    /// As the control socket and the log write it.
    pub fn word(self) -> &'static str {
        match self {
            RequireTls::Default => "default",
            RequireTls::Yes => "yes",
            RequireTls::No => "no",
        }
    }
}

/// What all recipients of a message share; the facts of a message row but for its content.
#[derive(Clone, Debug)]
pub struct Head {
    /// The queue id.
    pub id: QueueId,
    /// When it was accepted.
    pub arrived: Timestamp,
    /// The caller: `relay`, `dsn`, `uid:NAME` or the name of a `[[caller]]`.
    pub caller: String,
    /// Client address, or `unix` with uid, for the log and the listing.
    pub client: String,
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// Header lines we put in front of the content, CRLF line ends: Received, and Date and Message-ID when missing.
    pub added_header: Vec<u8>,
    /// The Message-ID with its brackets, its own or the added one.
    pub message_id: String,
    /// The Subject as it stands in the header, unfolded, at most 256 octets; empty if none.
    pub subject: String,
    /// Octets of `added_header` and content together, as sent without dot stuffing.
    pub size: u64,
    /// Whether header or body hold octets over 127.
    pub eight_bit: bool,
    /// Whether headers hold UTF-8 that needs SMTPUTF8 (IN-19); addresses speak for themselves.
    pub utf8_headers: bool,
    /// REQUIRETLS.
    pub require_tls: RequireTls,
    /// ENVID, decoded from xtext.
    pub envid: Option<String>,
    /// RET.
    pub ret: Option<Ret>,
    /// -9 to 9, default 0; higher goes first.
    pub priority: i8,
    /// A lifetime of this message's own (RT-11).
    pub lifetime: Option<Duration>,
    /// A number of attempts of this message's own (RT-11).
    pub max_attempts: Option<u32>,
    /// Key/value extras, at most 64 pairs and 4 KiB together.
    pub extras: Vec<(String, String)>,
}

impl Head {
    /// A head that says no more than this: from the null reverse-path, without a header, and nothing is asked for.
    pub fn new(id: QueueId, arrived: Timestamp, caller: &str) -> Head {
        Head {
            id,
            arrived,
            caller: caller.to_owned(),
            client: String::new(),
            reverse_path: ReversePath::Null,
            added_header: Vec::new(),
            message_id: String::new(),
            subject: String::new(),
            size: 0,
            eight_bit: false,
            utf8_headers: false,
            require_tls: RequireTls::Default,
            envid: None,
            ret: None,
            priority: 0,
            lifetime: None,
            max_attempts: None,
            extras: Vec::new(),
        }
    }

    /// The octets of the content as it stands in the store, without `added_header`.
    pub fn content_size(&self) -> u64 {
        self.size.saturating_sub(self.added_header.len() as u64)
    }
}

/// A recipient as it is handed in.
#[derive(Clone, Debug)]
pub struct NewRecipient {
    /// The forward-path.
    pub path: ForwardPath,
    /// ORCPT as `type;address`, decoded from xtext.
    pub orcpt: Option<String>,
    /// NOTIFY.
    pub notify: Notify,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_ids_are_positive_decimal_numbers_only() {
        assert_eq!("42".parse::<QueueId>().map(QueueId::get), Ok(42));
        for bad in [
            "",
            "0",
            "-1",
            "+1",
            "1x",
            "0x1",
            " 1",
            "9223372036854775808",
        ] {
            assert!(bad.parse::<QueueId>().is_err(), "{bad}");
        }
    }
}
