//! The part of a notification that people read (DSN-8).

use std::fmt::Write as _;
use std::time::Duration;

use super::fields::{cut, printable};
use super::{Action, Block, Notice};
use crate::message::RequireTls;

/// Says in plain words who, why, what host said what, how often tried since when, and for delays when next and when
/// given up; within `budget` octets, the remaining recipients counted.
pub(super) fn explain(notice: &Notice<'_>, described: usize, budget: usize) -> String {
    let mut out = String::new();
    let total = notice.blocks.len() + notice.further;
    let people = if total == 1 {
        "one recipient".to_owned()
    } else {
        format!("{total} recipients")
    };
    let _ = writeln!(
        out,
        "This is the mail system at {}.\n",
        notice.reporting_mta
    );
    let verdict = match notice.blocks.first().map(|block| block.action) {
        Some(Action::Delayed) => format!(
            "Your message has not yet been delivered to {people}.\n\
             It is kept here and tried again: you need not do anything.\n\
             This is only a warning."
        ),
        Some(Action::Delivered | Action::Expanded) => {
            format!("Your message was delivered to {people}.")
        }
        Some(Action::Relayed) => format!(
            "Your message was handed on for {people} to a host that does not confirm delivery.\n\
             No further notice of success will follow."
        ),
        Some(Action::Failed) | None => {
            format!(
                "Your message could not be delivered to {people}.\n\
                 It is not tried again."
            )
        }
    };
    let _ = writeln!(out, "{verdict}\n");

    let mut shown = 0;
    for block in notice.blocks.iter().take(described) {
        let paragraph = paragraph(block, notice);
        if shown > 0 && out.len() + paragraph.len() > budget {
            break;
        }
        out.push_str(&paragraph);
        shown += 1;
    }
    if shown < total {
        let _ = writeln!(
            out,
            "and {} more, which are not listed here.\n",
            total - shown
        );
    }

    let _ = writeln!(out, "The message:");
    let _ = writeln!(out, "    Accepted:   {}", notice.head.arrived.rfc5322());
    // DSN-15: these are parts of the original, and this text may have to go where it may not.
    let quoted = notice.head.require_tls != RequireTls::Yes;
    if quoted && !notice.head.subject.is_empty() {
        let _ = writeln!(
            out,
            "    Subject:    {}",
            cut(&printable(&notice.head.subject, true), 200)
        );
    }
    if quoted && !notice.head.message_id.is_empty() {
        let _ = writeln!(
            out,
            "    Message-ID: {}",
            cut(&printable(&notice.head.message_id, true), 300)
        );
    }
    let _ = writeln!(out, "    Queue id:   {}", notice.head.id);
    out.push_str("\nTo ask about it, give this notice to your mail administrator.\n");
    out
}

fn paragraph(block: &Block, notice: &Notice<'_>) -> String {
    let path = block.path.to_string();
    let mut out = format!("<{}>\n", printable(&path, true));
    // The address that the sender wrote, if another one became of it on the way.
    let original = block.orcpt.as_deref().and_then(|orcpt| {
        let (kind, address) = orcpt.split_once(';')?;
        let mail = ["rfc822", "utf-8"]
            .iter()
            .any(|k| kind.eq_ignore_ascii_case(k));
        (mail && !address.eq_ignore_ascii_case(&path)).then_some(address)
    });
    if let Some(address) = original {
        let _ = writeln!(out, "    sent to <{}>", cut(&printable(address, true), 300));
    }
    let host = block.remote.as_ref().map(|(name, address)| {
        let name = printable(name, false);
        match address {
            Some(address) if name != address.to_string() => format!("{name} [{address}]"),
            _ => name,
        }
    });
    match (block.action, block.code, host) {
        (Action::Delivered | Action::Relayed | Action::Expanded, _, Some(host)) => {
            let _ = writeln!(out, "    accepted by {host}");
        }
        (_, Some(code), Some(host)) => {
            let _ = writeln!(out, "    {host} said:");
            for (index, line) in block.reason.lines().take(20).enumerate() {
                let line = cut(&printable(line, false), 500);
                let code = if index == 0 {
                    format!("{code} ")
                } else {
                    String::new()
                };
                let _ = writeln!(out, "        {code}{line}");
            }
        }
        (_, _, host) => {
            for line in block.reason.lines().take(20) {
                let _ = writeln!(out, "    {}", cut(&printable(line, false), 500));
            }
            if let Some(host) = host {
                let _ = writeln!(out, "    The last host asked was {host}.");
            }
        }
    }
    if block.action == Action::Failed || block.action == Action::Delayed {
        let since = notice.head.arrived.rfc5322();
        let _ = match block.attempts {
            0 => writeln!(out, "    not tried yet, here since {since}"),
            1 => {
                let at = block.last_attempt.unwrap_or(notice.head.arrived);
                writeln!(out, "    tried once, at {}", at.rfc5322())
            }
            times => writeln!(out, "    tried {times} times since {since}"),
        };
    }
    if let Some(age) = block.expired_after {
        let _ = writeln!(out, "    given up after {}", spoken(age));
    }
    if block.action == Action::Delayed {
        if let Some(next) = block.next_attempt {
            let _ = writeln!(out, "    tried next at  {}", next.rfc5322());
        } else {
            let _ = writeln!(out, "    tried next when that is over");
        }
        if let Some(until) = block.retry_until {
            let _ = writeln!(out, "    given up at    {}", until.rfc5322());
        }
    }
    out.push('\n');
    out
}

/// A span as people say it, rounded down.
fn spoken(span: Duration) -> String {
    let minutes = span.as_secs() / 60;
    let (count, unit) = match minutes {
        0..120 => (minutes, "minute"),
        120..2880 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_said_in_words() {
        let spoken = |minutes: u64| spoken(Duration::from_secs(60 * minutes));
        assert_eq!(
            [1, 90, 240, 7200].map(spoken),
            ["1 minute", "90 minutes", "4 hours", "5 days"]
        );
    }
}
