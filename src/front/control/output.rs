//! Writes answers (CTL-1, CTL-5): records as `key=value` or as one JSON object, raw lines of a message behind `| `,
//! and the last line, `OK ...` or `ERR CODE text`.
//!
//! Whatever stands in a value, it cannot end a line, begin a field or move a cursor: values are bare only if they are
//! printable ASCII without blanks, and escaped in quotes otherwise (SEC-3). As a data line begins with a key and `=`,
//! with `{` or with `| `, none can be taken for a last line.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use super::line::quote;
use crate::clock::Timestamp;
use crate::config::Span;
use crate::store::StoreError;

/// One record: keys and values in order. Keys are an interface: added, never renamed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(Vec<(&'static str, Value)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(i64),
    Text(String),
}

impl Record {
    /// An empty one.
    pub fn new() -> Record {
        Record::default()
    }

    /// A number; in JSON a number too.
    #[must_use]
    pub fn number(mut self, key: &'static str, value: impl TryInto<i64>) -> Record {
        let value = value.try_into().unwrap_or(i64::MAX);
        self.0.push((key, Value::Number(value)));
        self
    }

    /// A text.
    #[must_use]
    pub fn text(mut self, key: &'static str, value: impl fmt::Display) -> Record {
        self.0.push((key, Value::Text(value.to_string())));
        self
    }

    /// A text, unless there is none; then the key is left out.
    #[must_use]
    pub fn maybe(self, key: &'static str, value: Option<impl fmt::Display>) -> Record {
        match value {
            Some(value) => self.text(key, value),
            None => self,
        }
    }

    /// An address in its angle brackets (CTL-10).
    #[must_use]
    pub fn path(self, key: &'static str, path: impl fmt::Display) -> Record {
        self.text(key, format_args!("<{path}>"))
    }

    /// A time, RFC 3339 in UTC.
    #[must_use]
    pub fn time(self, key: &'static str, at: Timestamp) -> Record {
        self.text(key, at)
    }

    /// The line, without its end.
    pub fn line(&self, json: bool) -> String {
        let mut out = String::new();
        if json {
            out.push('{');
        }
        for (n, (key, value)) in self.0.iter().enumerate() {
            if n > 0 {
                out.push(if json { ',' } else { ' ' });
            }
            // Writing to a String cannot fail.
            let _ = match (json, value) {
                (false, Value::Number(number)) => write!(out, "{key}={number}"),
                (false, Value::Text(text)) => {
                    let _ = write!(out, "{key}=");
                    quote(text.as_bytes(), &mut out);
                    Ok(())
                }
                (true, Value::Number(number)) => write!(out, "\"{key}\":{number}"),
                (true, Value::Text(text)) => {
                    let _ = write!(out, "\"{key}\":");
                    quote_json(text, &mut out);
                    Ok(())
                }
            };
        }
        if json {
            out.push('}');
        }
        out
    }
}

/// A JSON string (RFC 8259 §7), in ASCII alone, so that it is safe on a terminal too.
fn quote_json(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            c => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

/// A duration in the units of the configuration (CFG-2), so that it can be sent back: `1h30m12s`, `250ms`, `0s`.
/// From a minute on milliseconds are left out.
pub fn span(span: Duration) -> String {
    let shown = match span.as_secs() {
        0..60 => span,
        secs => Duration::from_secs(secs),
    };
    Span(shown).to_string()
}

/// CODE of an ERR line. The tool makes its exit status of it (CTL-23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The request is wrong; sending it again cannot help. Exit 64.
    Usage,
    /// This client may not do that. Exit 77.
    Denied,
    /// Not now. Exit 75.
    Temporary,
    /// The configuration is faulty and was not put in force. Exit 78.
    Config,
    /// A fault of the daemon, which is in its log. Exit 70.
    Internal,
}

impl Code {
    /// All codes.
    pub const ALL: [Code; 5] = [
        Code::Usage,
        Code::Denied,
        Code::Temporary,
        Code::Config,
        Code::Internal,
    ];

    /// Its word in the ERR line.
    pub fn word(self) -> &'static str {
        match self {
            Code::Usage => "usage",
            Code::Denied => "denied",
            Code::Temporary => "temporary",
            Code::Config => "config",
            Code::Internal => "internal",
        }
    }

    /// The exit status of posthaste(8) that belongs to it (sysexits(3)).
    pub fn exit_status(self) -> u8 {
        match self {
            Code::Usage => 64,
            Code::Denied => 77,
            Code::Temporary => 75,
            Code::Config => 78,
            Code::Internal => 70,
        }
    }
}

/// Why a request was not carried out.
#[derive(Debug)]
pub enum Stop {
    /// The client gets `ERR CODE text`.
    Refused(Code, String),
    /// The client is gone, or does not read.
    Gone(io::Error),
}

impl Stop {
    /// `ERR usage text`.
    pub fn usage(text: impl Into<String>) -> Stop {
        Stop::Refused(Code::Usage, text.into())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Gone(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        let code = match error {
            StoreError::Damaged(_) => Code::Internal,
            // What the store cannot do now it may be able to do later.
            _ => Code::Temporary,
        };
        Stop::Refused(code, error.to_string())
    }
}

/// How a request that was carried out ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// `OK N`, and where to go on if more follow (CTL-7).
    Count(u64, Option<String>),
    /// `OK text`.
    Text(&'static str),
    /// `OK bye`, and the connection ends.
    Bye,
}

/// Where the bytes of an answer go; blocks until they are taken or the client is given up.
pub trait Sink {
    /// Takes all of `bytes`.
    ///
    /// # Errors
    /// The client is gone or does not read.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// The answer to one request while it is being written.
pub struct Reply<'a> {
    json: bool,
    sink: &'a mut dyn Sink,
}

impl<'a> Reply<'a> {
    /// An answer that goes to `sink`.
    pub fn new(json: bool, sink: &'a mut dyn Sink) -> Reply<'a> {
        Reply { json, sink }
    }

    /// One record.
    ///
    /// # Errors
    /// The client is gone.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        let mut line = record.line(self.json);
        line.push('\n');
        self.sink.put(line.as_bytes())
    }

    /// A piece of a line of a message, without its line end. As it is, behind `| `; in JSON as an object with the key
    /// `line`, or `part` if more of the line follows, in which octets that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// The client is gone.
    pub fn raw(&mut self, piece: &[u8], first: bool, last: bool) -> io::Result<()> {
        if self.json {
            let key = if last { "line" } else { "part" };
            return self.record(&Record::new().text(key, String::from_utf8_lossy(piece)));
        }
        if first {
            self.sink.put(b"| ")?;
        }
        self.sink.put(piece)?;
        if last {
            self.sink.put(b"\n")?;
        }
        Ok(())
    }

    /// A line in a format of its own, which must not begin as a last line does; in JSON an object with the key `line`.
    ///
    /// # Errors
    /// The client is gone.
    pub fn plain(&mut self, line: &str) -> io::Result<()> {
        if self.json {
            return self.record(&Record::new().text("line", line));
        }
        self.sink.put(line.as_bytes())?;
        self.sink.put(b"\n")
    }

    /// The last line.
    ///
    /// # Errors
    /// The client is gone.
    pub fn end(&mut self, result: &Result<Done, Stop>) -> io::Result<()> {
        let mut line = match result {
            Ok(Done::Count(count, None)) => format!("OK {count}"),
            Ok(Done::Count(count, Some(cursor))) => {
                let mut line = format!("OK {count} cursor=");
                quote(cursor.as_bytes(), &mut line);
                line
            }
            Ok(Done::Text(text)) => format!("OK {text}"),
            Ok(Done::Bye) => "OK bye".to_owned(),
            Err(Stop::Refused(code, text)) => format!("ERR {} {}", code.word(), one_line(text)),
            Err(Stop::Gone(_)) => return Ok(()),
        };
        line.push('\n');
        self.sink.put(line.as_bytes())
    }
}

/// A text for people on one line: control and 8-bit characters escaped as in a quoted value, at most 1 KiB.
fn one_line(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if out.len() > 1000 {
            out.push_str("..");
            break;
        }
        match byte {
            b'\n' => out.push_str("; "),
            b' '..=b'~' => out.push(char::from(byte)),
            byte => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::line;
    use super::*;
    use proptest::prelude::*;

    // CTL-5, CTL-10
    #[test]
    fn a_record_is_one_line_of_keys_and_values() {
        let record = Record::new()
            .number("id", 42)
            .path("from", "")
            .path("to", "\"a b\"@example.org")
            .time("next", Timestamp::from_secs(1_795_286_400))
            .text("blocker", "451 4.7.1 try \"again\"\nlater\u{e9}\x1b[2J")
            .maybe("doubt", None::<&str>);
        assert_eq!(
            record.line(false),
            "id=42 from=<> to=\"<\\\"a b\\\"@example.org>\" next=2026-11-21T18:40:00Z \
             blocker=\"451 4.7.1 try \\\"again\\\"\\nlater\\xc3\\xa9\\x1b[2J\""
        );
        assert_eq!(
            record.line(true),
            "{\"id\":42,\"from\":\"<>\",\"to\":\"<\\\"a b\\\"@example.org>\",\
             \"next\":\"2026-11-21T18:40:00Z\",\
             \"blocker\":\"451 4.7.1 try \\\"again\\\"\\nlater\\u00e9\\u001b[2J\"}"
        );
    }

    // CTL-1
    #[test]
    fn the_last_line_says_how_it_ended() {
        let last = |result| {
            let mut out = Vec::new();
            Reply::new(false, &mut out).end(&result).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(last(Ok(Done::Count(3, None))), "OK 3\n");
        assert_eq!(
            last(Ok(Done::Count(3, Some("a b".to_owned())))),
            "OK 3 cursor=\"a b\"\n"
        );
        assert_eq!(last(Ok(Done::Text("done"))), "OK done\n");
        assert_eq!(last(Ok(Done::Bye)), "OK bye\n");
        assert_eq!(
            last(Err(Stop::usage("bad\nOK 1\r\x1b"))),
            "ERR usage bad; OK 1\\x0d\\x1b\n"
        );
    }

    // CTL-10
    #[test]
    fn lines_of_a_message_stand_behind_a_bar() {
        let mut out = Vec::new();
        Reply::new(false, &mut out)
            .raw(b"OK 1 \xff", true, true)
            .unwrap();
        assert_eq!(out, b"| OK 1 \xff\n");
        out.clear();
        Reply::new(true, &mut out)
            .raw(b"OK 1 \xff", true, true)
            .unwrap();
        assert_eq!(out, b"{\"line\":\"OK 1 \\ufffd\"}\n");
        out.clear();
        let mut reply = Reply::new(false, &mut out);
        reply.raw(b"a", true, false).unwrap();
        reply.raw(b"b", false, true).unwrap();
        assert_eq!(out, b"| ab\n");
    }

    #[test]
    fn spans_read_like_those_of_the_configuration() {
        let text = |millis| span(Duration::from_millis(millis));
        assert_eq!(text(0), "0s");
        assert_eq!(text(1250), "1s250ms");
        assert_eq!(text(5_412_345), "1h30m12s");
        assert_eq!(text(8 * 86_400_000), "8d");
    }

    proptest! {
        // CTL-1, CTL-5, SEC-3
        #[test]
        fn no_value_can_end_a_line_or_begin_a_field(a in any::<String>(), b in any::<String>()) {
            let record = Record::new().text("a", &a).text("b", &b);
            for json in [false, true] {
                let text = record.line(json);
                prop_assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)));
                prop_assert!(!text.starts_with("OK ") && !text.starts_with("ERR "));
            }
            let back = line::parse(format!("x {}", record.line(false)).as_bytes()).unwrap().unwrap();
            prop_assert_eq!(back.words[0].value.as_deref(), Some(a.as_str()));
            prop_assert_eq!(back.words[1].value.as_deref(), Some(b.as_str()));
        }
    }
}
