//! The builder of one line.

use std::fmt;
use std::fmt::Write as _;

use ::log::kv::{Error, Key, Source, Value, VisitSource};
use ::log::{Level, Record};

use super::render::{self, Field};

/// Target of ordinary lines.
pub(super) const MAIL: &str = "posthaste";
/// Target of lines that a client could multiply at will: limited by the value of their first key (OBS-3).
pub(super) const FLOOD: &str = "posthaste::flood";

/// Longest peer text in a line, escaped (OBS-2).
const PEER_TEXT: usize = 512;
/// Longest other value, escaped. An address of 256 octets fits even if most of it must be escaped.
const VALUE: usize = 1100;

/// Keys of most lines, at most, and octets of their values.
const USUAL: usize = 24;
const USUAL_VALUES: usize = 384;

/// What stands at the end of a value that was cut.
const MARK: &str = "...";

/// One log line: an event and its keys, in the order in which they are given.
///
/// The convention of order: queue id first, texts last. Every value is escaped when it is written, so nothing that a
/// peer or a message says can end a line or forge a key (SEC-3).
///
/// ```
/// # use posthaste::log::Line;
/// Line::new("queued").key("qid", 42).path("from", "ann@here.example").num("size", 4211).info();
/// ```
#[derive(Clone, Debug)]
#[must_use = "a line is written by info(), warn(), error() or debug()"]
pub struct Line {
    event: &'static str,
    target: &'static str,
    fields: Vec<(&'static str, At)>,
    /// The values that are text, one behind the other: a line is a few allocations, however many keys it has.
    values: String,
}

/// Where a value is.
#[derive(Clone, Copy, Debug)]
enum At {
    /// Ends here in the values, and begins where the text before it ended.
    Text(usize),
    Number(i64),
}

impl Source for Line {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), Error> {
        self.each(|key, value| {
            let value = match value {
                Field::Text(text) => Value::from(text),
                Field::Number(number) => Value::from(number),
            };
            visitor.visit_pair(Key::from_str(key), value)
        })
    }
}

impl Line {
    /// Begins the line of an event. Lines about what happened to mail, and about ourselves.
    pub fn new(event: &'static str) -> Line {
        Line {
            event,
            target: MAIL,
            fields: Vec::with_capacity(USUAL),
            values: String::with_capacity(USUAL_VALUES),
        }
    }

    /// Calls `visit` with each key and its value.
    fn each<'s, E>(
        &'s self,
        mut visit: impl FnMut(&'static str, Field<'s>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut start = 0;
        for (key, at) in &self.fields {
            match *at {
                At::Number(number) => visit(key, Field::Number(number))?,
                At::Text(end) => {
                    visit(key, Field::Text(&self.values[start..end]))?;
                    start = end;
                }
            }
        }
        Ok(())
    }

    /// Begins the line of an event that a client can cause as often as it likes and that moves no mail: at most 10 a
    /// second per client are written, then a count (OBS-3). `client` becomes the key `client`.
    pub fn of_client(event: &'static str, client: impl fmt::Display) -> Line {
        let mut line = Line::new(event).key("client", client);
        line.target = FLOOD;
        line
    }

    /// A value in words that are ours or typed: an id, a name, a code, a state.
    pub fn key(self, key: &'static str, value: impl fmt::Display) -> Line {
        self.text(key, VALUE, |out| write!(out, "{value}"))
    }

    /// As [`Line::key`], left out when there is none.
    pub fn opt(self, key: &'static str, value: Option<impl fmt::Display>) -> Line {
        match value {
            Some(value) => self.key(key, value),
            None => self,
        }
    }

    /// A number.
    pub fn num(mut self, key: &'static str, value: impl TryInto<i64>) -> Line {
        let number = value.try_into().unwrap_or(i64::MAX);
        self.fields.push((key, At::Number(number)));
        self
    }

    /// An envelope path, written inside angle brackets; the null reverse-path is `<>`.
    pub fn path(self, key: &'static str, path: impl fmt::Display) -> Line {
        self.text(key, VALUE, |out| write!(out, "<{path}>"))
    }

    /// A span of time in seconds, with milliseconds where there are any: `5412s`, `0.25s`.
    pub fn span(self, key: &'static str, span: std::time::Duration) -> Line {
        self.text(key, VALUE, |out| render::seconds(out, span))
    }

    /// Free text, most of all a peer's: cut at 512 octets (OBS-2). Belongs at the end of the line.
    pub fn peer(self, key: &'static str, text: &str) -> Line {
        self.text(key, PEER_TEXT, |out| out.write_str(text))
    }

    fn text(
        mut self,
        key: &'static str,
        longest: usize,
        write: impl FnOnce(&mut String) -> fmt::Result,
    ) -> Line {
        let start = self.values.len();
        let written = write(&mut self.values);
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        let text = &self.values[start..];
        // What is short is not long in escapes either.
        if text.len() > longest / render::LONGEST_ESCAPE && render::escaped_len(text) > longest {
            let kept = render::cut_at(text, longest - MARK.len());
            self.values.truncate(start + kept);
            self.values.push_str(MARK);
        }
        self.fields.push((key, At::Text(self.values.len())));
        self
    }

    /// Writes the line as part of the mail trail.
    pub fn info(&self) {
        self.write(Level::Info);
    }

    /// Writes the line as something that will heal by itself.
    pub fn warn(&self) {
        self.write(Level::Warn);
    }

    /// Writes the line as something that an operator must act on.
    pub fn error(&self) {
        self.write(Level::Error);
    }

    /// Writes the line for whoever looks for a fault.
    pub fn debug(&self) {
        self.write(Level::Debug);
    }

    /// Writes the line.
    pub fn write(&self, level: Level) {
        ::log::logger().log(
            &Record::builder()
                .level(level)
                .target(self.target)
                .key_values(self)
                .args(format_args!("{}", self.event))
                .build(),
        );
    }
}

/// The line in text form, without time and level: what [`Line::write`] gives to the log.
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.event)?;
        self.each(|key, value| render::field(f, key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // OBS-1
    #[test]
    fn a_line_names_its_event_first_and_keeps_the_order_of_its_keys() {
        let line = Line::new("deliver")
            .key("qid", 42)
            .path("to", "bob@dest.example")
            .path("from", "")
            .opt("code", None::<u16>)
            .num("attempt", 3_u32)
            .span("delay", Duration::from_millis(5_412_250))
            .key("result", "deferred")
            .peer("text", "timed out; may be sent twice");
        assert_eq!(
            line.to_string(),
            "deliver qid=42 to=<bob@dest.example> from=<> attempt=3 delay=5412.25s result=deferred \
             text=\"timed out; may be sent twice\""
        );
    }

    // OBS-2, SEC-3
    #[test]
    fn peer_text_can_neither_end_the_line_nor_forge_a_key_nor_reach_the_terminal() {
        let line = Line::new("deliver").key("helo", "x result=delivered").peer(
            "text",
            "a\r\nqueued qid=1 \"b\\ \u{1b}[2J \u{e9}\u{85}\u{2028}",
        );
        assert_eq!(
            line.to_string(),
            "deliver helo=\"x result=delivered\" text=\"a\\r\\nqueued qid=1 \\\"b\\\\ \\x1b[2J \
             \\xc3\\xa9\\xc2\\x85\\xe2\\x80\\xa8\""
        );
    }

    // OBS-2
    #[test]
    fn peer_text_is_cut_at_512_octets_as_written_and_never_inside_an_escape() {
        for text in ["x".repeat(2000), "\u{e9}".repeat(900), "\n".repeat(700)] {
            let line = Line::new("e").peer("text", &text).to_string();
            let value = line.trim_start_matches("e text=\"").trim_end_matches('"');
            assert!(
                value.len() <= PEER_TEXT && value.len() > PEER_TEXT - 8,
                "{line}"
            );
            let body = value.trim_end_matches("...");
            assert_eq!(
                render::escaped_len(&text[..render::cut_at(&text, 509)]),
                body.len()
            );
        }
        let fits = "y".repeat(PEER_TEXT);
        assert!(
            Line::new("e")
                .peer("text", &fits)
                .to_string()
                .contains(&fits)
        );
    }

    // OBS-2
    #[test]
    fn the_longest_addresses_are_written_whole() {
        let address = format!("{}@{}", "\u{e9}".repeat(32), "d".repeat(253));
        let line = Line::new("e").path("to", &address).to_string();
        assert!(line.ends_with(&format!("{}>\"", "d".repeat(253))), "{line}");
    }
}
