//! `show` and `why`: all that is known of one message (CTL-10), or the one thing that matters (CTL-18).

use std::io;

use super::Call;
use super::list::Facts;
use crate::front::control::filter::{self, Args};
use crate::front::control::output::{Done, Record, Reply, Stop, span};
use crate::message::{Head, Notify, QueueId, Ret};
use crate::policy::failure::Cause;
use crate::policy::retry::Terms;
use crate::store::{DueRecipient, Filter, ListQuery, RecipientRow, Shown, ShownAttempt, Sort};

/// The longest piece of a line that is held in memory.
const PIECE: usize = 64 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Headers,
    Content,
}

pub(super) fn show(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let (id, number) = message(&mut args)?;
    let part = match (args.flag("headers")?, args.flag("content")?) {
        (true, true) => return Err(Stop::usage("headers or content, not both")),
        (true, false) => Some(Part::Headers),
        (false, true) => Some(Part::Content),
        (false, false) => None,
    };
    args.finish()?;
    let Some(shown) = call.control.store.show(id)? else {
        return Ok(Done::Count(0, None));
    };
    // CTL-4: to others it is as if the message did not exist.
    let foreign = !call.peer.all && shown.head.caller != call.peer.caller;
    let wanted = |n: u32| number.is_none_or(|number| number == n);
    if foreign || !shown.recipients.iter().any(|row| wanted(row.id.number)) {
        return Ok(Done::Count(0, None));
    }

    let facts = Facts::gather(call)?;
    reply.record(&head_record(call, &shown))?;
    for (key, value) in &shown.head.extras {
        let record = Record::new()
            .number("id", id.get())
            .text("extra", key)
            .text("value", value);
        reply.record(&record)?;
    }
    for row in shown.recipients.iter().filter(|row| wanted(row.id.number)) {
        reply.record(&recipient_record(call, &facts, &shown, row))?;
    }
    for attempt in shown.attempts.iter().filter(|a| wanted(a.number)) {
        reply.record(&attempt_record(id, attempt))?;
    }
    if let (Some(part), true) = (part, shown.has_content) {
        content(call, &shown.head, part, reply)?;
    }
    Ok(Done::Count(1, None))
}

/// Takes `id`, which must name one message.
fn message(args: &mut Args) -> Result<(QueueId, Option<u32>), Stop> {
    args.read("id", "one queue id, ID or ID/N", filter::id)?
        .ok_or_else(|| Stop::usage("id=ID or id=ID/N is missing"))
}

fn head_record(call: &Call<'_>, shown: &Shown) -> Record {
    let head = &shown.head;
    let ret = head.ret.map(|ret| match ret {
        Ret::Full => "full",
        Ret::Headers => "hdrs",
    });
    Record::new()
        .number("id", head.id.get())
        .path("from", &head.reverse_path)
        .text("caller", &head.caller)
        .text("client", &head.client)
        .time("arrived", head.arrived)
        .text("age", span(call.now.since(head.arrived)))
        .number("size", head.size)
        .text("message-id", &head.message_id)
        .text("subject", &head.subject)
        .number("recipients", shown.recipients.len())
        .text("content", if shown.has_content { "yes" } else { "no" })
        .text("eight-bit", if head.eight_bit { "yes" } else { "no" })
        .text("smtputf8", if head.utf8_headers { "yes" } else { "no" })
        .text("requiretls", head.require_tls.word())
        .number("priority", head.priority)
        .maybe("envid", head.envid.as_ref())
        .maybe("ret", ret)
        .maybe("lifetime", head.lifetime.map(span))
        .maybe("max-attempts", head.max_attempts)
}

/// What `list` says of it, and the rest.
fn recipient_record(call: &Call<'_>, facts: &Facts, shown: &Shown, row: &RecipientRow) -> Record {
    let due = DueRecipient {
        head: shown.head.clone(),
        row: row.clone(),
    };
    let dialled: Vec<String> = row.dialled.iter().map(|ip| ip.to_string()).collect();
    facts
        .record(call, &due)
        .maybe("last", row.last_attempt)
        .text("destination", &row.destination)
        .maybe("transport", row.transport.as_ref())
        .maybe("orcpt", row.recipient.orcpt.as_ref())
        .maybe("notify", notify(row.recipient.notify))
        .maybe("dialled", (!dialled.is_empty()).then(|| dialled.join(",")))
}

/// As the client gave it (RFC 3461 §4.1).
fn notify(notify: Notify) -> Option<String> {
    if !notify.given {
        return None;
    }
    let words = [
        (notify.never, "never"),
        (notify.success, "success"),
        (notify.failure, "failure"),
        (notify.delay, "delay"),
    ];
    let given: Vec<&str> = words.iter().filter(|w| w.0).map(|w| w.1).collect();
    Some(given.join(","))
}

fn attempt_record(id: QueueId, shown: &ShownAttempt) -> Record {
    let mut record = Record::new()
        .number("id", id.get())
        .number("rcpt", shown.number)
        .number("attempt", shown.ordinal)
        .time("started", shown.started);
    if let Some(attempt) = &shown.result {
        let risk = attempt.may_be_sent_twice;
        record = record
            .text("duration", span(attempt.duration))
            .text("transport", &attempt.transport)
            .text("host", &attempt.host)
            .maybe("address", attempt.address)
            .maybe("source", attempt.source)
            .text("tls", attempt.tls)
            .maybe(
                "tls-policy",
                (!attempt.tls_policy.is_empty()).then_some(&attempt.tls_policy),
            )
            .text("stage", attempt.stage)
            .maybe("code", attempt.code)
            .text("status", attempt.status)
            .text(
                "result",
                if attempt.cause.is_none() {
                    "ok"
                } else {
                    "error"
                },
            )
            .maybe("class", attempt.cause.map(Cause::word))
            .text("reused", if attempt.reused { "yes" } else { "no" })
            .text("worker", &attempt.worker)
            .maybe("doubt", risk.then_some("may-be-sent-twice"))
            .text("text", &attempt.text);
    } else if shown.operator.is_none() {
        record = record.text("result", if shown.cut_off { "cut-off" } else { "running" });
    }
    if shown.in_doubt {
        record = record.text("doubt", "in-doubt");
    }
    record.maybe("operator", shown.operator.as_ref())
}

/// The raw message, each line behind `| ` (CTL-10): the added header, then the content, chunk by chunk.
fn content(call: &Call<'_>, head: &Head, part: Part, reply: &mut Reply<'_>) -> Result<(), Stop> {
    let mut lines = Lines::new(part);
    if lines.push(&head.added_header, reply)? {
        let mut reader = call.control.store.content(head.id)?;
        while let Some(chunk) = reader.next_chunk()? {
            if !lines.push(&chunk, reply)? {
                return Ok(());
            }
        }
        lines.end(reply)?;
    }
    Ok(())
}

/// Cuts chunks into lines.
struct Lines {
    part: Part,
    /// The line so far, or its tail if a piece of it has gone out.
    line: Vec<u8>,
    begun: bool,
}

impl Lines {
    fn new(part: Part) -> Lines {
        Lines {
            part,
            line: Vec::new(),
            begun: false,
        }
    }

    /// Writes what is complete; `false` if nothing more is wanted.
    fn push(&mut self, chunk: &[u8], reply: &mut Reply<'_>) -> io::Result<bool> {
        for piece in chunk.split_inclusive(|b| *b == b'\n') {
            // Long lines go out in pieces; the last octet waits, as it may be the CR of a line end.
            for bytes in piece.chunks(PIECE) {
                if self.line.len() >= PIECE {
                    let last = self.line.pop();
                    reply.raw(&self.line, !self.begun, false)?;
                    self.begun = true;
                    self.line.clear();
                    self.line.extend(last);
                }
                self.line.extend_from_slice(bytes);
            }
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                if self.line.last() == Some(&b'\r') {
                    self.line.pop();
                }
                if self.line.is_empty() && !self.begun && self.part == Part::Headers {
                    return Ok(false);
                }
                reply.raw(&self.line, !self.begun, true)?;
                self.line.clear();
                self.begun = false;
            }
        }
        Ok(true)
    }

    /// Writes a last line that has no end.
    fn end(self, reply: &mut Reply<'_>) -> io::Result<()> {
        if self.line.is_empty() && !self.begun {
            return Ok(());
        }
        reply.raw(&self.line, !self.begun, true)
    }
}

pub(super) fn why(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let id = message(&mut args)?;
    args.finish()?;
    let mut filter = Filter {
        ids: vec![id],
        ..Filter::default()
    };
    if !call.narrow(&mut filter) {
        return Ok(Done::Count(0, None));
    }
    let page = call.control.store.list(&ListQuery {
        filter,
        sort: Sort::Next,
        descending: false,
        limit: super::list::LIMIT,
        cursor: None,
    })?;
    let facts = Facts::gather(call)?;
    let config = call.control.config.get();
    for due in &page.rows {
        let (head, row) = (&due.head, &due.row);
        let (blocker, until) = facts.blocker(due);
        let record = Record::new()
            .number("id", row.id.message.get())
            .number("rcpt", row.id.number)
            .path("to", &row.recipient.path)
            .text("state", row.state)
            .text("blocker", blocker)
            .maybe("until", until)
            .text("reply", &row.blocker)
            .number("attempts", row.attempts)
            .time("next", row.next_attempt)
            .time("expires", Terms::of_waiting(&config, head, row).expiry())
            .maybe("doubt", row.doubt);
        reply.record(&record)?;
    }
    Ok(Done::Count(page.rows.len() as u64, page.cursor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(part: Part, chunks: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reply = Reply::new(false, &mut out);
        let mut lines = Lines::new(part);
        for chunk in chunks {
            if !lines.push(chunk, &mut reply).unwrap() {
                return out;
            }
        }
        lines.end(&mut reply).unwrap();
        out
    }

    // CTL-10
    #[test]
    fn every_line_of_a_message_stands_behind_a_bar() {
        let message = b"A: b\r\n\r\nOK 3\r\n\r\nno end";
        assert_eq!(
            cut(Part::Content, &[message]),
            b"| A: b\n| \n| OK 3\n| \n| no end\n"
        );
        assert_eq!(cut(Part::Headers, &[message]), b"| A: b\n");
        assert_eq!(cut(Part::Content, &[]), b"");
    }

    // CTL-10, SEC-6
    #[test]
    fn a_long_line_stays_one_line_and_keeps_its_octets() {
        let mut message = vec![b'x'; 3 * PIECE - 1];
        message.extend_from_slice(b"\r\ny\r\n");
        let mut expected = b"| ".to_vec();
        expected.extend(vec![b'x'; 3 * PIECE - 1]);
        expected.extend_from_slice(b"\n| y\n");
        assert_eq!(cut(Part::Content, &[&message]), expected);
        for at in [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE - 1, 3 * PIECE] {
            let (a, b) = message.split_at(at);
            assert_eq!(cut(Part::Content, &[a, b]), expected, "cut at {at}");
        }
    }

    proptest! {
        // SEC-6
        #[test]
        fn chunks_may_end_anywhere(message in "[a.\r\n]{0,40}", at in 0..40_usize) {
            let message = message.as_bytes();
            let (a, b) = message.split_at(at.min(message.len()));
            prop_assert_eq!(cut(Part::Content, &[a, b]), cut(Part::Content, &[message]));
            prop_assert_eq!(cut(Part::Headers, &[a, b]), cut(Part::Headers, &[message]));
        }
    }
}
