//! Reads one request line: a verb and its words (CTL-1). Pure; knows no verb.
//!
//! ```text
//! line  = *blank [ "json" 1*blank ] verb *( 1*blank word ) *blank
//! verb  = name
//! word  = name [ "=" value ]
//! name  = a-z *( a-z / 0-9 / "-" )
//! value = *bare / quoted
//! ```
//!
//! A bare value ends at the next blank and holds no `"` and no control character. A quoted one begins right after the
//! `=`, ends at its closing `"`, which a blank or the end of the line must follow, and knows `\"`, `\\`, `\n` and, so
//! that everything that [`output`](super::output) prints can be sent back, `\xHH` for one octet.

use std::fmt;

/// Longest request, in octets without its line end (CTL-1).
pub const MAX_LINE: usize = 64 * 1024;

/// Longest name; no verb and no word is near it. What repeats a name in an error stays short by it.
const MAX_NAME: usize = 64;

/// Most words of a request; an `id` list is one word.
const MAX_WORDS: usize = 64;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Answer in JSON.
    pub json: bool,
    /// What to do.
    pub verb: String,
    /// What with, in the order given. No name occurs twice.
    pub words: Vec<Word>,
}

/// One `name=value`, or one `name` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Left of the `=`.
    pub name: String,
    /// Right of it, unquoted; `None` without `=`.
    pub value: Option<String>,
}

/// Why a line is not a request. The text goes to the client and repeats at most a few words of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError(String);

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LineError {}

fn wrong<T>(text: impl Into<String>) -> Result<T, LineError> {
    Err(LineError(text.into()))
}

/// Reads a line without its line end. `None` for an empty one, which is no request and gets no answer.
///
/// # Errors
/// [`LineError`]; nothing may be done.
pub fn parse(line: &[u8]) -> Result<Option<Request>, LineError> {
    if line.len() > MAX_LINE {
        return wrong("the line is too long");
    }
    let Ok(line) = std::str::from_utf8(line) else {
        return wrong("the line is not UTF-8");
    };
    // Telnet and `nc -C` end lines in CRLF.
    let line = line.strip_suffix('\r').unwrap_or(line);
    if let Some(c) = line.chars().find(|c| c.is_control() && *c != '\t') {
        return wrong(format!(
            "control character {} in the line",
            c.escape_default()
        ));
    }
    let mut rest = skip_blanks(line);
    if rest.is_empty() {
        return Ok(None);
    }
    let mut request = Request::default();
    let mut first = true;
    while !rest.is_empty() {
        let (word, after) = word(rest)?;
        rest = skip_blanks(after);
        if request.verb.is_empty() {
            if word.value.is_some() {
                return wrong("a verb comes first");
            }
            // Only once: "json json" asks for a verb called json, which does not exist.
            if first && word.name == "json" {
                request.json = true;
            } else {
                request.verb = word.name;
            }
            first = false;
            continue;
        }
        if request.words.iter().any(|w| w.name == word.name) {
            return wrong(format!("{} is given twice", word.name));
        }
        if request.words.len() == MAX_WORDS {
            return wrong("too many words");
        }
        request.words.push(word);
    }
    if request.verb.is_empty() {
        return wrong("a verb must follow json");
    }
    Ok(Some(request))
}

fn skip_blanks(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

/// What names are made of; the first is a letter.
fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
}

/// Whether this is the name of a word, or a verb.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_name_char)
}

/// Reads the word at the start of `text`; returns it and what follows.
fn word(text: &str) -> Result<(Word, &str), LineError> {
    let end = text.find(|c: char| !is_name_char(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        return wrong(format!("a word must begin with a name at {}", near(text)));
    }
    if name.len() > MAX_NAME {
        return wrong(format!("no name is as long as that at {}", near(text)));
    }
    let name = name.to_owned();
    if rest.is_empty() || rest.starts_with([' ', '\t']) {
        return Ok((Word { name, value: None }, rest));
    }
    let Some(rest) = rest.strip_prefix('=') else {
        return wrong(format!(
            "names are lower-case letters, digits and hyphens, at {}",
            near(text)
        ));
    };
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = rest.find([' ', '\t']).unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            if value.contains('"') {
                return wrong(format!(
                    "a quote in the middle of {name}: quote the whole value and write \\\" inside"
                ));
            }
            (value.to_owned(), rest)
        }
    };
    let value = Some(value);
    Ok((Word { name, value }, rest))
}

/// Reads up to the closing quote; returns the value and what follows the quote.
fn unquote(text: &str) -> Result<(String, &str), LineError> {
    let mut value = Vec::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                let rest = &text[at + 1..];
                if !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
                    return wrong(format!(
                        "a blank must follow a closing quote, at {}",
                        near(rest)
                    ));
                }
                return match String::from_utf8(value) {
                    Ok(value) => Ok((value, rest)),
                    Err(_) => wrong("a quoted value is not UTF-8"),
                };
            }
            '\\' => match chars.next() {
                Some((_, '"')) => value.push(b'"'),
                Some((_, '\\')) => value.push(b'\\'),
                Some((_, 'n')) => value.push(b'\n'),
                Some((_, 'x')) => {
                    let mut digit = || chars.next().and_then(|(_, c)| c.to_digit(16));
                    match (digit(), digit()) {
                        (Some(high), Some(low)) => value.push((high * 16 + low) as u8),
                        _ => return wrong("\\x needs two hexadecimal digits"),
                    }
                }
                _ => return wrong("only \\\", \\\\, \\n and \\xHH are known in quotes"),
            },
            c => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    wrong("a quote is not closed")
}

/// The first few characters of a faulty part, for the error text.
fn near(text: &str) -> String {
    let mut short: String = text.chars().take(20).collect();
    if short.len() < text.len() {
        short.push_str("..");
    }
    format!("{short:?}")
}

/// Writes a value so that [`parse`] reads it back: bare where that is possible, else quoted. Everything but printable
/// ASCII is escaped, so that the result is safe in a log and on a terminal.
pub fn quote(value: &[u8], out: &mut String) {
    use fmt::Write as _;
    let bare = !value.is_empty()
        && value
            .iter()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\'));
    if bare {
        out.extend(value.iter().map(|b| char::from(*b)));
        return;
    }
    out.push('"');
    for byte in value {
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b' '..=b'~' => out.push(char::from(*byte)),
            byte => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ok(line: &str) -> Request {
        parse(line.as_bytes()).unwrap().unwrap()
    }

    fn word(name: &str, value: Option<&str>) -> Word {
        Word {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        }
    }

    // CTL-2
    #[test]
    fn an_error_repeats_little_of_an_endless_name() {
        let name = "s".repeat(700);
        for line in [
            name.clone(),
            format!("list {name}=a\"b"),
            format!("list {name} {name}"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.len() < 100, "{error}");
        }
    }

    // CTL-1
    #[test]
    fn a_request_is_a_verb_and_words() {
        let request = ok(" kick\tid=42,43/2 text=\"a \\\"b\\\" \\\\ c\\nd\" all  reason= \r");
        assert!(!request.json);
        assert_eq!(request.verb, "kick");
        assert_eq!(
            request.words,
            [
                word("id", Some("42,43/2")),
                word("text", Some("a \"b\" \\ c\nd")),
                word("all", None),
                word("reason", Some("")),
            ]
        );
    }

    // CTL-5
    #[test]
    fn json_before_the_verb_asks_for_json_and_is_no_verb() {
        assert!(ok("json list").json);
        assert_eq!(ok("json json").verb, "json");
        assert!(parse(b"json").is_err() && parse(b"json ").is_err());
    }

    // CTL-1
    #[test]
    fn an_empty_line_is_no_request() {
        for line in ["", " ", "\t \r", "\r"] {
            assert_eq!(parse(line.as_bytes()), Ok(None), "{line:?}");
        }
    }

    // CTL-1, CTL-2, CTL-6
    #[test]
    fn rubbish_is_refused() {
        for line in [
            "=x",
            "x=1",
            "LIST",
            "list id=1 id=2",
            "list text=\"open",
            "list text=\"a\"b",
            "list text=a\"b\"",
            "list text=\"\\q\"",
            "list text=\"\\x4\"",
            "list text=\"\\xff\"",
            "list text=\"\\",
            "list \"x\"",
            "list 1d=2",
            "list -d",
            "list a\0b",
            "list text=\"\x1b[2J\"",
            "list\rquit",
            "list\u{85}",
        ] {
            assert!(parse(line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(parse(b"list to=\xff").is_err());
        let longest = format!("fail text={}", "a".repeat(MAX_LINE - 10));
        assert_eq!(longest.len(), MAX_LINE);
        assert!(parse(longest.as_bytes()).is_ok());
        assert!(parse(&[b'a'; MAX_LINE + 1]).is_err());
    }

    #[test]
    fn an_error_repeats_only_a_few_characters_of_the_line() {
        let line = format!("list {}", "\u{e9}".repeat(1000));
        assert!(parse(line.as_bytes()).unwrap_err().to_string().len() < 200);
    }

    proptest! {
        // SEC-6
        #[test]
        fn any_bytes_are_a_request_or_an_error(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&line);
        }

        // SEC-6
        #[test]
        fn any_text_of_the_right_alphabet_is_a_request_or_an_error(line in "[a-z=\" \\\\nx0-9]{0,80}") {
            let _ = parse(line.as_bytes());
        }

        // CTL-5, SEC-3
        #[test]
        fn every_value_that_is_printed_can_be_sent_back(value in any::<String>()) {
            let mut line = String::from("list text=");
            quote(value.as_bytes(), &mut line);
            prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)));
            let request = parse(line.as_bytes()).unwrap().unwrap();
            prop_assert_eq!(request.words[0].value.as_deref(), Some(value.as_str()));
        }
    }
}
