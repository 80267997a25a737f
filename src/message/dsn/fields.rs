//! The header of a notification and the fields of its machine-readable part (RFC 3464 §2).

use std::fmt::Write as _;

use super::{Action, Block, MAX_BLOCKS, Notice};
use crate::clock::Timestamp;
use crate::message::QueueId;
use crate::smtp::address::Mailbox;
use crate::smtp::reply::EnhancedCode;

/// Lines are folded after this many octets where there is a blank, and hard before RFC 5322's 998.
const FOLD_AT: usize = 76;
const HARD_LIMIT: usize = 900;

/// Octets of addresses in X-Failed-Recipients.
const FAILED_RECIPIENTS: usize = 4096;

/// The header of the notification itself, without Content-Type (DSN-4).
pub(super) fn message_header(notice: &Notice<'_>, subject: &str, utf8: bool) -> Vec<u8> {
    let mut out = String::new();
    let original_id = message_id(&notice.head.message_id);
    field(&mut out, "Date", &notice.now.rfc5322());
    field(
        &mut out,
        "From",
        &format!("Mail delivery <{}>", notice.from),
    );
    field(&mut out, "To", &format!("<{}>", notice.to));
    field(&mut out, "Subject", &printable(subject, utf8));
    field(&mut out, "Message-ID", notice.message_id);
    if let Some(id) = original_id {
        field(&mut out, "In-Reply-To", id);
        field(&mut out, "References", id);
    }
    // RFC 3834 §5: automatic answers say so, and are not answered in turn.
    field(&mut out, "Auto-Submitted", "auto-replied");
    if notice
        .blocks
        .iter()
        .any(|block| block.action == Action::Failed)
    {
        let mut addresses = Vec::new();
        let mut octets = 0;
        for block in notice.blocks {
            let address = block.path.to_string();
            octets += address.len();
            if octets > FAILED_RECIPIENTS {
                break;
            }
            if utf8 || address.is_ascii() {
                addresses.push(address);
            }
        }
        if !addresses.is_empty() {
            field(&mut out, "X-Failed-Recipients", &addresses.join(", "));
        }
    }
    field(&mut out, "MIME-Version", "1.0");
    out.into_bytes()
}

/// A Message-ID that can be referred to: others wrote it, and not all write what RFC 5322 §3.6.4 asks for.
fn message_id(id: &str) -> Option<&str> {
    let inner = id.strip_prefix('<')?.strip_suffix('>')?;
    let plain = |b: u8| b.is_ascii_graphic() && b != b'<' && b != b'>';
    (!inner.is_empty() && id.len() < HARD_LIMIT && inner.bytes().all(plain)).then_some(id)
}

/// The header of the summary to the postmaster, without Content-Type.
pub(super) fn summary_header(
    from: &Mailbox,
    to: &Mailbox,
    now: Timestamp,
    message_id: &str,
    subject: &str,
) -> Vec<u8> {
    let mut out = String::new();
    field(&mut out, "Date", &now.rfc5322());
    field(&mut out, "From", &format!("Mail delivery <{from}>"));
    field(&mut out, "To", &format!("<{to}>"));
    field(&mut out, "Subject", subject);
    field(&mut out, "Message-ID", message_id);
    field(&mut out, "Auto-Submitted", "auto-generated");
    field(&mut out, "MIME-Version", "1.0");
    out.into_bytes()
}

/// The message/delivery-status part: one group for the message, one per recipient, within `budget` octets.
/// Returns it and how many recipients it describes; at least one, whatever the budget.
pub(super) fn delivery_status(notice: &Notice<'_>, utf8: bool, budget: usize) -> (String, usize) {
    let mut out = String::new();
    if let Some(envid) = &notice.head.envid {
        field(&mut out, "Original-Envelope-Id", &printable(envid, utf8));
    }
    field(
        &mut out,
        "Reporting-MTA",
        &format!("dns; {}", notice.reporting_mta),
    );
    field(&mut out, "Arrival-Date", &notice.head.arrived.rfc5322());

    let mut described = 0;
    // A long reply is shown whole to one recipient, and shorter to each of many.
    let reply_limit = (24 * 1024 / notice.blocks.len().max(1)).clamp(160, 4096);
    for block in notice.blocks.iter().take(MAX_BLOCKS) {
        let group = recipient_group(notice.head.id, block, utf8, reply_limit);
        if described > 0 && out.len() + group.len() > budget {
            break;
        }
        out.push_str("\r\n");
        out.push_str(&group);
        described += 1;
    }
    (out, described)
}

fn recipient_group(id: QueueId, block: &Block, utf8: bool, reply_limit: usize) -> String {
    let mut out = String::new();
    if let Some((kind, address)) = block
        .orcpt
        .as_deref()
        .and_then(|orcpt| orcpt.split_once(';'))
    {
        let kind = kind.trim();
        if !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            field(
                &mut out,
                "Original-Recipient",
                &format!("{kind};{}", xtext_address(address, utf8)),
            );
        }
    }
    let address = block.path.to_string();
    // RFC 6533 §3: an internationalised address has the type utf-8.
    let kind = if address.is_ascii() {
        "rfc822"
    } else {
        "utf-8"
    };
    field(
        &mut out,
        "Final-Recipient",
        &format!("{kind};{}", xtext_address(&address, utf8)),
    );
    field(&mut out, "Action", block.action.as_str());
    field(&mut out, "Status", &status_of(block).to_string());
    if let Some((name, address)) = &block.remote {
        let mut value = format!("dns; {}", printable(name, false));
        match address {
            // RFC 3464 §2.1.2: a host without a name is a domain literal.
            Some(address) if *name == address.to_string() => value = format!("dns; [{address}]"),
            Some(address) => {
                let _ = write!(value, " ([{address}])");
            }
            None => {}
        }
        field(&mut out, "Remote-MTA", &value);
    }
    // DSN-7: Diagnostic-Code carries the words of a peer, never ours.
    if let Some(code) = block.code {
        let reply = cut(
            &printable(&block.reason.replace('\n', " "), false),
            reply_limit,
        );
        field(
            &mut out,
            "Diagnostic-Code",
            &format!("smtp; {code} {reply}"),
        );
    }
    if let Some(at) = block.last_attempt {
        field(&mut out, "Last-Attempt-Date", &at.rfc5322());
    }
    if block.action == Action::Delayed
        && let Some(until) = block.retry_until
    {
        field(&mut out, "Will-Retry-Until", &until.rfc5322());
    }
    field(&mut out, "Final-Log-ID", &format!("{id}/{}", block.number));
    out
}

/// The status with the class that the action demands (RFC 3464 §2.3.4).
pub(super) fn status_of(block: &Block) -> EnhancedCode {
    let class = match block.action {
        Action::Failed if block.status.class() == 2 => 5,
        // An expired recipient keeps 4.4.7, as RFC 3463 §3.5 defines it.
        Action::Failed => block.status.class(),
        Action::Delayed => 4,
        Action::Delivered | Action::Relayed | Action::Expanded => 2,
    };
    if class == block.status.class() {
        block.status
    } else {
        EnhancedCode::new(class, 0, 0)
    }
}

/// An address in a typed field: as it is in the UTF-8 flavour, else by utf-8-addr-xtext (RFC 6533 §3).
fn xtext_address(address: &str, utf8: bool) -> String {
    let mut out = String::new();
    for c in address.chars() {
        // The characters that QCHAR and QUCHAR leave out.
        let special = !address.is_ascii() && matches!(c, '\\' | '+' | '=' | ' ');
        if c.is_control() || (!utf8 && (!c.is_ascii() || special)) {
            let _ = write!(out, "\\x{{{:02X}}}", c as u32);
        } else {
            out.push(c);
        }
    }
    out
}

/// Text from others: control characters, and outside the UTF-8 flavour all that is not ASCII, become `\xNN` or `\u{..}`.
pub(super) fn printable(text: &str, utf8: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if c.is_ascii() && !c.is_control() => out.push(c),
            // U+0085, U+2028 and U+2029 are line ends to some readers.
            c if utf8 && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}') => out.push(c),
            c if c.is_ascii() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
        }
    }
    out
}

/// At most `limit` octets, with a mark where something is missing.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit.saturating_sub(4);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ...", &text[..end])
}

/// Writes `name: value` folded (RFC 5322 §2.2.3). `value` is free of line ends: its makers escape them, and what is
/// left is dropped here, so that no value can begin a line of its own.
fn field(out: &mut String, name: &str, value: &str) {
    let mut column = name.len() + 1;
    let _ = write!(out, "{name}:");
    for (index, word) in value
        .split([' ', '\r', '\n'])
        .filter(|word| !word.is_empty())
        .enumerate()
    {
        let mut word = word;
        if index > 0 && column + 1 + word.len() > FOLD_AT {
            out.push_str("\r\n");
            column = 0;
        }
        out.push(' ');
        column += 1;
        while column + word.len() > HARD_LIMIT {
            let mut end = HARD_LIMIT - column;
            while !word.is_char_boundary(end) {
                end -= 1;
            }
            out.push_str(&word[..end]);
            out.push_str("\r\n ");
            word = &word[end..];
            column = 1;
        }
        out.push_str(word);
        column += word.len();
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_begin_a_line_of_its_own() {
        let mut out = String::new();
        field(&mut out, "X", "a\r\nEvil: yes\nMore: yes");
        assert_eq!(out, "X: a Evil: yes More: yes\r\n");
    }

    #[test]
    fn long_values_are_folded_at_blanks_and_endless_words_by_force() {
        let mut out = String::new();
        field(
            &mut out,
            "Diagnostic-Code",
            &format!("smtp; {} {}", "word ".repeat(40), "x".repeat(3000)),
        );
        assert!(out.split("\r\n").all(|line| line.len() <= HARD_LIMIT));
        assert!(
            out.split("\r\n")
                .skip(1)
                .all(|line| line.is_empty() || line.starts_with(' '))
        );
    }

    #[test]
    fn peer_text_is_printable_ascii_afterwards() {
        assert_eq!(
            printable("a\0b\u{85}c\u{2028}ü\t", false),
            "a\\x00b\\u{85}c\\u{2028}\\u{fc} "
        );
        assert_eq!(printable("ü\u{2028}", true), "ü\\u{2028}");
    }

    #[test]
    fn internationalised_addresses_are_written_in_utf_8_addr_xtext() {
        assert_eq!(
            xtext_address("jö\\se@x.example", false),
            "j\\x{F6}\\x{5C}se@x.example"
        );
        assert_eq!(xtext_address("jö@x.example", true), "jö@x.example");
    }
}
