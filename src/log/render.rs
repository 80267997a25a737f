//! Text and JSON forms of a line.

use std::fmt::{self, Write};
use std::time::Duration;

use ::log::kv::{self, Key, Value, VisitSource};
use ::log::{Level, Record};

use super::line;
use crate::clock::Timestamp;
use crate::config::LogFormat;

/// Keys whose values are words of others and are quoted even if they need not be, so that a reader sees them end.
const ALWAYS_QUOTED: [&str; 2] = ["text", "reason"];

/// Octets of most lines, at most.
const USUAL: usize = 512;

/// Bytes that may stand in a value without quotes.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'
}

/// Octets of the longest escape of one octet.
pub(super) const LONGEST_ESCAPE: usize = 4;

/// Octets of `byte` in escaped form.
fn escaped_byte_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        b' '..=b'~' => 1,
        _ => LONGEST_ESCAPE,
    }
}

/// Octets of `text` in escaped form, without quotes.
pub(super) fn escaped_len(text: &str) -> usize {
    text.bytes().map(escaped_byte_len).sum()
}

/// The longest prefix of `text` that is at most `longest` octets in escaped form, cut between characters.
pub(super) fn cut_at(text: &str, longest: usize) -> usize {
    let mut used = 0;
    for (at, char) in text.char_indices() {
        let mut utf8 = [0; 4];
        used += escaped_len(char.encode_utf8(&mut utf8));
        if used > longest {
            return at;
        }
    }
    text.len()
}

/// Writes `key=value`, with quotes where the value needs them.
fn pair<W: Write + ?Sized>(out: &mut W, key: &str, text: &str) -> fmt::Result {
    out.write_str(key)?;
    out.write_char('=')?;
    // An `=` inside a plain value is harmless: the first one ends the key. A leading quote cannot occur.
    if !text.is_empty() && text.bytes().all(is_plain) && !ALWAYS_QUOTED.contains(&key) {
        return out.write_str(text);
    }
    out.write_char('"')?;
    for byte in text.bytes() {
        match byte {
            b'"' => out.write_str("\\\"")?,
            b'\\' => out.write_str("\\\\")?,
            b'\n' => out.write_str("\\n")?,
            b'\r' => out.write_str("\\r")?,
            b'\t' => out.write_str("\\t")?,
            b' '..=b'~' => out.write_char(char::from(byte))?,
            _ => write!(out, "\\x{byte:02x}")?,
        }
    }
    out.write_char('"')
}

/// Writes a JSON string. Everything but printable ASCII is escaped, so that a line is a line on any terminal.
fn json_string(out: &mut dyn Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    for char in text.chars() {
        match char {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            ' '..='~' => out.write_char(char)?,
            _ => {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
        }
    }
    out.write_char('"')
}

/// Writes seconds, with a fraction where there is one.
pub(super) fn seconds<W: Write + ?Sized>(out: &mut W, span: Duration) -> fmt::Result {
    write!(out, "{}", span.as_secs())?;
    let millis = span.subsec_millis();
    match (millis % 10, millis % 100, millis) {
        (_, _, 0) => out.write_char('s'),
        (_, 0, _) => write!(out, ".{}s", millis / 100),
        (0, _, _) => write!(out, ".{:02}s", millis / 10),
        _ => write!(out, ".{millis:03}s"),
    }
}

/// Writes the time as RFC 3339 has it, in UTC with milliseconds.
pub(super) fn time<W: Write + ?Sized>(out: &mut W, at: Timestamp) -> fmt::Result {
    at.write_civil(out)?;
    write!(out, ".{:03}Z", at.millis() % 1000)
}

/// The word for a level.
pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Whether the record is a [`super::Line`], and not words from one of the facade's macros.
pub(super) fn is_line(record: &Record<'_>) -> bool {
    matches!(record.target(), line::MAIL | line::FLOOD)
}

/// The body of a record: one line without its line end. The text form carries neither time nor level, because some
/// sinks add their own; the JSON form has both.
pub(super) fn body(record: &Record<'_>, at: Timestamp, format: LogFormat) -> String {
    let words = record.args().to_string();
    let mut out = String::with_capacity(USUAL);
    let written = match format {
        LogFormat::Text => text_body(&mut out, record, &words),
        LogFormat::Json => json_body(&mut out, record, &words, at),
    };
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
    out
}

fn text_body(out: &mut String, record: &Record<'_>, words: &str) -> fmt::Result {
    if is_line(record) {
        out.push_str(words);
    } else {
        out.push_str("note");
        if record.level() >= Level::Debug {
            out.push(' ');
            pair(out, "module", record.target())?;
        }
        out.push(' ');
        pair(out, "text", capped(words))?;
    }
    visit(record, &mut |key, value| field(out, key, value));
    Ok(())
}

fn json_body(out: &mut String, record: &Record<'_>, words: &str, at: Timestamp) -> fmt::Result {
    out.push_str("{\"time\":\"");
    time(out, at)?;
    out.push_str("\",\"level\":");
    json_string(out, level(record.level()))?;
    out.push_str(",\"event\":");
    if is_line(record) {
        json_string(out, words)?;
    } else {
        out.push_str("\"note\",\"module\":");
        json_string(out, record.target())?;
        out.push_str(",\"text\":");
        json_string(out, capped(words))?;
    }
    visit(record, &mut |key, value| {
        out.push(',');
        json_string(out, key)?;
        out.push(':');
        match value {
            Field::Number(number) => write!(out, "{number}"),
            Field::Text(text) => json_string(out, text),
        }
    });
    out.push('}');
    Ok(())
}

/// Notes may quote anything; four times the limit of peer text keeps them one datagram.
fn capped(words: &str) -> &str {
    &words[..cut_at(words, 2048)]
}

/// A value: numbers stay numbers in JSON.
#[derive(Clone, Copy)]
pub(super) enum Field<'v> {
    Number(i64),
    Text(&'v str),
}

/// Writes a key and its value in text form, with the blank before them.
pub(super) fn field<W: Write + ?Sized>(out: &mut W, key: &str, value: Field<'_>) -> fmt::Result {
    out.write_char(' ')?;
    match value {
        Field::Number(number) => write!(out, "{key}={number}"),
        Field::Text(text) => pair(out, key, text),
    }
}

/// Calls `each` with every key and value of a record.
fn visit(record: &Record<'_>, each: &mut dyn FnMut(&str, Field<'_>) -> fmt::Result) {
    struct Each<'a>(&'a mut dyn FnMut(&str, Field<'_>) -> fmt::Result);
    impl<'kvs> VisitSource<'kvs> for Each<'_> {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
            let words;
            // Most are text, and of a text nobody asks whether it is a number.
            let field = match value.to_borrowed_str() {
                Some(text) => Field::Text(text),
                None => match value.to_i64() {
                    Some(number) => Field::Number(number),
                    None => {
                        words = value.to_string();
                        Field::Text(&words)
                    }
                },
            };
            (self.0)(key.as_str(), field).map_err(kv::Error::from)
        }
    }
    let visited = record.key_values().visit(&mut Each(each));
    debug_assert!(visited.is_ok(), "writing to a String cannot fail");
}

/// The value of the first key of a record: the client, for lines of [`line::FLOOD`].
pub(super) fn first_value(record: &Record<'_>) -> Option<String> {
    let mut first = None;
    visit(record, &mut |_, value| {
        first.get_or_insert_with(|| match value {
            Field::Text(text) => text.to_owned(),
            Field::Number(number) => number.to_string(),
        });
        Ok(())
    });
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: i64 = 1_795_286_400_123;

    fn rendered(format: LogFormat, words: &str, target: &str) -> String {
        body(
            &Record::builder()
                .level(Level::Warn)
                .target(target)
                .key_values(&[("qid", "42"), ("text", "a \"b\"\n\u{e9}\u{1f4a9}")])
                .args(format_args!("{words}"))
                .build(),
            Timestamp::from_millis(AT),
            format,
        )
    }

    // OBS-1
    #[test]
    fn json_has_the_same_keys_as_text_with_time_and_level() {
        assert_eq!(
            rendered(LogFormat::Json, "queued", line::MAIL),
            "{\"time\":\"2026-11-21T18:40:00.123Z\",\"level\":\"warn\",\"event\":\"queued\",\"qid\":\"42\",\
             \"text\":\"a \\\"b\\\"\\n\\u00e9\\ud83d\\udca9\"}"
        );
        assert_eq!(
            rendered(LogFormat::Text, "queued", line::MAIL),
            "queued qid=42 text=\"a \\\"b\\\"\\n\\xc3\\xa9\\xf0\\x9f\\x92\\xa9\""
        );
    }

    // OBS-2
    #[test]
    fn words_from_the_macros_of_the_facade_become_a_note_of_one_line() {
        let text = rendered(LogFormat::Text, "two\nlines", "some::module");
        assert!(
            text.starts_with("note text=\"two\\nlines\" qid=42"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
        assert!(rendered(LogFormat::Text, &"x".repeat(9000), "m").len() < 2200);
    }

    #[test]
    fn spans_are_seconds_without_needless_zeros() {
        for (millis, text) in [
            (0, "0s"),
            (250, "0.25s"),
            (1000, "1s"),
            (5_412_007, "5412.007s"),
            (70, "0.07s"),
            (1_230, "1.23s"),
            (100_000, "100s"),
        ] {
            let mut out = String::new();
            seconds(&mut out, Duration::from_millis(millis)).unwrap();
            assert_eq!(out, text);
        }
    }
}
