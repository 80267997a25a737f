//! Looks at the header of a message while it passes: syntax, loops, and the few fields that the queue wants to know.
//!
//! Linear and split-invariant, and never holds more than one line and the beginnings of two values. Nothing is
//! changed here, and no field is believed to be more than a claim of its author.

use memchr::memchr;

use super::RequireTls;

/// Octets of a field that are kept: RFC 5322 §2.1.1's longest line. A longer Message-ID is no identifier any more.
const MAX_VALUE: usize = 998;
/// Octets of the Subject that are kept.
const MAX_SUBJECT: usize = 256;

/// Why a header is refused (IN-25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Longer than the limit (552 5.3.4).
    TooLarge,
    /// The first line begins with white space: it would become part of the field that we put above it.
    BeginsWithBlank,
    /// A line that is neither a field nor its continuation.
    NoColon,
    /// A field name that is empty or has control or 8-bit bytes.
    BadName,
}

impl std::fmt::Display for HeaderFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            HeaderFault::TooLarge => "header too large",
            HeaderFault::BeginsWithBlank => "the header begins with white space",
            HeaderFault::NoColon => "a header line has no colon",
            HeaderFault::BadName => "a header field has a malformed name",
        })
    }
}

/// What the header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderFacts {
    /// Number of Received fields (IN-24).
    pub received: u32,
    /// Whether there is a Date.
    pub date: bool,
    /// The first Message-ID with its brackets; empty if the field is empty, `None` if there is none.
    pub message_id: Option<String>,
    /// The first Subject, unfolded, without control characters, at most 256 octets.
    pub subject: Option<String>,
    /// `TLS-Required: No` (RFC 8689 §5) in every field of that name.
    pub require_tls: RequireTls,
    /// The header holds UTF-8 outside ASCII and nothing else of 8 bits: RFC 6532, needs SMTPUTF8 (IN-19).
    pub utf8: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Nothing,
    MessageId,
    Subject,
    TlsRequired,
}

/// The incremental scanner. It is given content with CRLF line ends, from its first byte on.
#[derive(Debug)]
pub struct HeaderScanner {
    limit: u64,
    seen: u64,
    /// The beginning of a line of which the end has not come.
    partial: Vec<u8>,
    started: bool,
    over: bool,
    fault: Option<HeaderFault>,
    wanted: Wanted,
    value: Vec<u8>,
    tls_fields: u32,
    tls_no: u32,
    invalid_utf8: bool,
    facts: HeaderFacts,
}

impl HeaderScanner {
    /// A scanner for headers of at most `limit` octets.
    pub fn new(limit: u64) -> HeaderScanner {
        HeaderScanner {
            limit,
            seen: 0,
            partial: Vec::new(),
            started: false,
            over: false,
            fault: None,
            wanted: Wanted::Nothing,
            value: Vec::new(),
            tls_fields: 0,
            tls_no: 0,
            invalid_utf8: false,
            facts: HeaderFacts::default(),
        }
    }

    /// Whether the header has ended or is refused; more content makes no difference.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Why the header is refused, if that is known already.
    pub fn fault(&self) -> Option<HeaderFault> {
        self.fault
    }

    /// Reads the next piece of content.
    pub fn read(&mut self, mut piece: &[u8]) {
        while !self.over && !piece.is_empty() {
            let Some(lf) = memchr(b'\n', piece) else {
                self.partial.extend_from_slice(piece);
                // An empty line does not count, and two octets could still be one.
                if self.seen + self.partial.len() as u64 > self.limit.saturating_add(2) {
                    self.refuse(HeaderFault::TooLarge);
                }
                return;
            };
            let (line, rest) = piece.split_at(lf + 1);
            piece = rest;
            if self.partial.is_empty() {
                self.line(line);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.line(&whole);
                whole.clear();
                self.partial = whole;
            }
        }
    }

    /// What the header says, once all content was read.
    ///
    /// # Errors
    /// [`HeaderFault`]; the message is refused.
    pub fn finish(mut self) -> Result<HeaderFacts, HeaderFault> {
        if !self.over {
            if !self.partial.is_empty() {
                let line = std::mem::take(&mut self.partial);
                self.line(&line);
            }
            self.end_field();
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.facts.utf8 &= !self.invalid_utf8;
        // RFC 8689 §5: fields that contradict each other ask for nothing.
        if self.tls_fields > 0 && self.tls_fields == self.tls_no {
            self.facts.require_tls = RequireTls::No;
        }
        Ok(self.facts)
    }

    fn refuse(&mut self, fault: HeaderFault) {
        self.fault = Some(fault);
        self.over = true;
        self.partial = Vec::new();
    }

    fn line(&mut self, line: &[u8]) {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() {
            self.end_field();
            self.over = true;
            return;
        }
        self.seen += line.len() as u64;
        if self.seen > self.limit {
            return self.refuse(HeaderFault::TooLarge);
        }
        if !text.is_ascii() {
            match std::str::from_utf8(text) {
                Ok(_) => self.facts.utf8 = true,
                Err(_) => self.invalid_utf8 = true,
            }
        }
        let first = !std::mem::replace(&mut self.started, true);
        if matches!(text[0], b' ' | b'\t') {
            if first {
                return self.refuse(HeaderFault::BeginsWithBlank);
            }
            return self.keep(text);
        }
        self.end_field();
        let Some(colon) = memchr(b':', text) else {
            return self.refuse(HeaderFault::NoColon);
        };
        // RFC 5322 §4.5.3: blanks before the colon are obsolete and harmless.
        let name = text[..colon].trim_ascii_end();
        if name.is_empty() || !name.iter().all(|b| matches!(b, b' '..=b'~')) {
            return self.refuse(HeaderFault::BadName);
        }
        self.begin_field(name);
        self.keep(&text[colon + 1..]);
    }

    fn begin_field(&mut self, name: &[u8]) {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        if is(b"Received") {
            self.facts.received = self.facts.received.saturating_add(1);
        } else if is(b"Date") {
            self.facts.date = true;
        } else if is(b"Message-ID") && self.facts.message_id.is_none() {
            self.wanted = Wanted::MessageId;
        } else if is(b"Subject") && self.facts.subject.is_none() {
            self.wanted = Wanted::Subject;
        } else if is(b"TLS-Required") {
            self.wanted = Wanted::TlsRequired;
        }
    }

    /// RFC 5322 §2.2.3: unfolding takes away the line ends and nothing else.
    fn keep(&mut self, text: &[u8]) {
        if self.wanted != Wanted::Nothing {
            let room = MAX_VALUE.saturating_sub(self.value.len());
            self.value.extend_from_slice(&text[..text.len().min(room)]);
        }
    }

    fn end_field(&mut self) {
        let wanted = std::mem::replace(&mut self.wanted, Wanted::Nothing);
        if wanted == Wanted::Nothing {
            return;
        }
        let value: String = String::from_utf8_lossy(&self.value)
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let value = value.trim();
        match wanted {
            Wanted::MessageId => self.facts.message_id = Some(identifier(value).to_owned()),
            Wanted::Subject => {
                let mut end = value.len().min(MAX_SUBJECT);
                while !value.is_char_boundary(end) {
                    end -= 1;
                }
                self.facts.subject = Some(value[..end].to_owned());
            }
            Wanted::TlsRequired => {
                self.tls_fields = self.tls_fields.saturating_add(1);
                if value.eq_ignore_ascii_case("no") {
                    self.tls_no = self.tls_no.saturating_add(1);
                }
            }
            Wanted::Nothing => {}
        }
        self.value.clear();
    }
}

/// The first `<...>` without blanks in it; a value that has none stands for itself.
fn identifier(value: &str) -> &str {
    let bracketed = value.find('<').and_then(|start| {
        let len = value[start..].find('>')?;
        Some(&value[start..=start + len])
    });
    match bracketed {
        Some(id) if id.len() > 2 && !id.contains(char::is_whitespace) => id,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan(content: &[u8], size: usize) -> Result<HeaderFacts, HeaderFault> {
        let mut scanner = HeaderScanner::new(200);
        for piece in content.chunks(size) {
            scanner.read(piece);
        }
        scanner.finish()
    }

    fn facts(content: &str) -> HeaderFacts {
        let facts = scan(content.as_bytes(), usize::MAX).unwrap();
        assert_eq!(scan(content.as_bytes(), 1).as_ref(), Ok(&facts));
        facts
    }

    #[test]
    fn the_wanted_fields_are_found_and_the_body_is_not_looked_at() {
        let got = facts(
            "received: a\r\nSubject: one\r\n\ttwo \r\nSUBJECT: other\r\nDate : x\r\nReceived:\r\n b\r\n\
             Message-Id:\r\n (x) <a@b> \r\n\r\nReceived: no\r\n",
        );
        assert_eq!(
            got,
            HeaderFacts {
                received: 2,
                date: true,
                message_id: Some("<a@b>".to_owned()),
                subject: Some("one\ttwo".replace('\t', " ")),
                ..HeaderFacts::default()
            }
        );
    }

    // IN-5
    #[test]
    fn empty_content_and_a_header_alone_are_legal() {
        assert_eq!(facts(""), HeaderFacts::default());
        assert_eq!(facts("\r\nbody\r\n"), HeaderFacts::default());
        assert_eq!(facts("Subject: x\r\n").subject.as_deref(), Some("x"));
    }

    #[test]
    fn long_and_odd_values_are_cut_to_size() {
        let id = facts("Message-ID: no brackets\r\n").message_id;
        assert_eq!(id.as_deref(), Some("no brackets"));
        assert_eq!(facts("Message-ID:\r\n").message_id.as_deref(), Some(""));
        let mut scanner = HeaderScanner::new(1 << 20);
        let subject = "\u{e4}".repeat(2000);
        scanner.read(format!("Subject: {subject}\r\n x\r\n").as_bytes());
        let got = scanner.finish().unwrap();
        assert_eq!(got.subject.unwrap(), "\u{e4}".repeat(128));
    }

    // IN-19
    #[test]
    fn utf8_in_the_header_needs_smtputf8_and_other_8_bit_bytes_do_not() {
        assert!(facts("Subject: \u{e4}\r\n\r\n").utf8);
        assert!(!facts("Subject: a\r\n\r\n\u{e4}").utf8);
        let latin = scan(b"From: \xe4\r\nSubject: \xc3\xa4\r\n", 3).unwrap();
        assert!(!latin.utf8);
    }

    #[test]
    fn tls_required_no_counts_if_no_other_field_contradicts() {
        let tls = |text: &str| facts(text).require_tls;
        assert_eq!(tls("TLS-Required: No\r\n"), RequireTls::No);
        assert_eq!(
            tls("tls-required: no\r\nTLS-Required: NO\r\n"),
            RequireTls::No
        );
        assert_eq!(
            tls("TLS-Required: No\r\nTLS-Required: x\r\n"),
            RequireTls::Default
        );
        assert_eq!(tls("Subject: x\r\n"), RequireTls::Default);
    }

    // IN-25
    #[test]
    fn malformed_headers_are_refused() {
        for (content, fault) in [
            (" a: b\r\n", HeaderFault::BeginsWithBlank),
            ("\tb\r\n", HeaderFault::BeginsWithBlank),
            ("hello\r\n", HeaderFault::NoColon),
            ("A: b\r\nhello\r\n\r\n", HeaderFault::NoColon),
            ("A: b\r\nhello", HeaderFault::NoColon),
            (": b\r\n", HeaderFault::BadName),
            ("A\x01b: c\r\n", HeaderFault::BadName),
            ("A\tb: c\r\n", HeaderFault::BadName),
            ("\u{e4}: c\r\n", HeaderFault::BadName),
        ] {
            for size in [1, 3, usize::MAX] {
                assert_eq!(scan(content.as_bytes(), size), Err(fault), "{content:?}");
            }
        }
        let exact = format!("A: {}\r\n", "b".repeat(195));
        assert!(scan(format!("{exact}\r\nbody").as_bytes(), 7).is_ok());
        for over in [format!("{exact} x\r\n"), format!("A: {}", "b".repeat(1000))] {
            for size in [1, 3, usize::MAX] {
                assert_eq!(scan(over.as_bytes(), size), Err(HeaderFault::TooLarge));
            }
        }
    }

    // IN-25, SEC-6
    #[test]
    fn a_million_continuation_lines_cost_no_more_than_their_bytes() {
        let mut scanner = HeaderScanner::new(1 << 30);
        scanner.read(b"Subject: x\r\n");
        let lines = b" y\r\n".repeat(1000);
        for _ in 0..1000 {
            scanner.read(&lines);
        }
        assert!(scanner.value.len() <= MAX_VALUE && scanner.partial.capacity() < 64);
        assert!(scanner.finish().is_ok());
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            content in "(a|:|\r\n| |\u{e4}|Subject: |Message-ID:|<x@y>|Received:){0,20}",
            size in 1_usize..9,
        ) {
            let whole = scan(content.as_bytes(), usize::MAX);
            prop_assert_eq!(&scan(content.as_bytes(), 1), &whole);
            prop_assert_eq!(&scan(content.as_bytes(), size), &whole);
        }
    }
}
