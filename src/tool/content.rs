//! The message on standard input: line ends, the lone dot, and the header (SM-7, SM-8, MSG-1).

use super::{DATA, Exit};
use crate::smtp::address::{Mailbox, ReversePath};

use super::addresses;

/// The longest header.
const MAX_HEADER: usize = 1024 * 1024;

/// Makes CRLF of all line ends, and looks for the end of the message. Split-invariant (SEC-6).
#[derive(Debug)]
pub(super) struct Normaliser {
    /// A lone dot ends the message.
    dot_ends: bool,
    at_start: bool,
    pending: Pending,
    /// The lone dot has come; what follows is not read.
    pub(super) ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    Nothing,
    Cr,
    Dot,
    DotCr,
}

impl Normaliser {
    pub(super) fn new(dot_ends: bool) -> Normaliser {
        Normaliser {
            dot_ends,
            at_start: true,
            pending: Pending::Nothing,
            ended: false,
        }
    }

    /// Adds what `bytes` become to `out`.
    ///
    /// # Errors
    /// A bare CR or a NUL: exit 65.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Exit> {
        let bare = || Exit::new(DATA, "a CR without LF in the message");
        for &byte in bytes {
            if self.ended {
                return Ok(());
            }
            match (self.pending, byte) {
                (Pending::Dot | Pending::DotCr, b'\n') => {
                    self.ended = true;
                    self.pending = Pending::Nothing;
                    continue;
                }
                (Pending::Dot, b'\r') => {
                    self.pending = Pending::DotCr;
                    continue;
                }
                (Pending::Dot, _) => {
                    out.push(b'.');
                    self.at_start = false;
                }
                (Pending::Cr, b'\n') | (Pending::Nothing, _) => {}
                (Pending::Cr | Pending::DotCr, _) => return Err(bare()),
            }
            self.pending = Pending::Nothing;
            match byte {
                0 => return Err(Exit::new(DATA, "a NUL in the message")),
                b'\r' => self.pending = Pending::Cr,
                b'\n' => {
                    out.extend_from_slice(b"\r\n");
                    self.at_start = true;
                }
                b'.' if self.at_start && self.dot_ends => self.pending = Pending::Dot,
                byte => {
                    out.push(byte);
                    self.at_start = false;
                }
            }
        }
        Ok(())
    }

    /// The input is at its end.
    ///
    /// # Errors
    /// It ends in a bare CR.
    pub(super) fn finish(&mut self) -> Result<(), Exit> {
        match self.pending {
            Pending::Cr | Pending::DotCr => Err(Exit::new(DATA, "the message ends in a CR")),
            Pending::Dot | Pending::Nothing => {
                self.ended = true;
                Ok(())
            }
        }
    }
}

/// The fields of a header, each with its folded lines and CRLF.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    fields: Vec<Vec<u8>>,
}

/// Collects the header. Takes normalised octets.
#[derive(Debug, Default)]
pub(super) struct HeaderReader {
    buf: Vec<u8>,
    /// Where the next line of `buf` begins.
    at: usize,
    header: Header,
    begun: bool,
}

impl HeaderReader {
    /// Takes the next piece; the header and the beginning of the body once the header is complete.
    ///
    /// # Errors
    /// It is too long: exit 65.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Option<(Header, Vec<u8>)>, Exit> {
        let mut scan = self.buf.len().saturating_sub(1).max(self.at);
        self.buf.extend_from_slice(bytes);
        while let Some(end) = find_crlf(&self.buf, scan) {
            if self.line(self.at, end + 2) {
                return Ok(Some(self.take()));
            }
            scan = self.at;
        }
        if self.buf.len() > MAX_HEADER {
            return Err(Exit::new(DATA, "the header is longer than 1 MiB"));
        }
        Ok(None)
    }

    /// The input ended before the header did.
    pub(super) fn finish(&mut self) -> (Header, Vec<u8>) {
        if self.at < self.buf.len() {
            self.buf.extend_from_slice(b"\r\n");
            self.line(self.at, self.buf.len());
        }
        self.take()
    }

    fn take(&mut self) -> (Header, Vec<u8>) {
        (
            std::mem::take(&mut self.header),
            self.buf.split_off(self.at),
        )
    }

    /// Judges the line at `start..end`; `true` if the header ends with or before it. Then `at` is where the body begins.
    fn line(&mut self, start: usize, end: usize) -> bool {
        let line = &self.buf[start..end];
        let first = !std::mem::replace(&mut self.begun, true);
        if line == b"\r\n" {
            self.at = end;
            return true;
        }
        // The separator line of a mailbox file.
        if first && (line.starts_with(b"From ") || line.starts_with(b">From ")) {
            self.at = end;
            return false;
        }
        match self.header.fields.last_mut() {
            Some(field) if matches!(line[0], b' ' | b'\t') => field.extend_from_slice(line),
            _ if is_field(line) => self.header.fields.push(line.to_vec()),
            // What is no field begins the body, as if a blank line stood before it.
            _ => return true,
        }
        self.at = end;
        false
    }
}

fn find_crlf(buf: &[u8], from: usize) -> Option<usize> {
    let found = buf[from..].windows(2).position(|pair| pair == b"\r\n")?;
    Some(from + found)
}

/// RFC 5322 §2.2: a name of printable ASCII, and a colon; blanks before it are the obsolete form of §4.5.
fn is_field(line: &[u8]) -> bool {
    let name = line.split(|b| *b == b':').next().unwrap_or_default();
    let trimmed = name.trim_ascii_end();
    name.len() < line.len() && !trimmed.is_empty() && trimmed.iter().all(u8::is_ascii_graphic)
}

fn name_of(field: &[u8]) -> String {
    let name = field.split(|b| *b == b':').next().unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).to_ascii_lowercase()
}

fn body_of(field: &[u8]) -> String {
    let at = field.iter().position(|b| *b == b':').map_or(0, |at| at + 1);
    String::from_utf8_lossy(&field[at..]).into_owned()
}

impl Header {
    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| name_of(field) == name)
    }

    /// The recipients of To, Cc and Bcc, or of their Resent- forms if the message was resent (RFC 5322 §3.6.6): then
    /// those of the last time, which stand on top.
    ///
    /// # Errors
    /// A field that is no list of addresses: exit 65.
    pub(super) fn recipients(&self, hostname: &str) -> Result<Vec<Mailbox>, Exit> {
        let fields = match self.last_resent_block() {
            block if block.is_empty() => self
                .fields
                .iter()
                .filter(|f| matches!(name_of(f).as_str(), "to" | "cc" | "bcc"))
                .collect(),
            block => block,
        };
        let mut found: Vec<Mailbox> = Vec::new();
        for field in fields {
            found.extend(addresses::field(&body_of(field), hostname)?);
        }
        Ok(found)
    }

    /// The Resent-To, -Cc, -Bcc of the topmost block. A block ends where the trace of the transport before it begins, or
    /// where a Resent- field comes that it has already.
    fn last_resent_block(&self) -> Vec<&Vec<u8>> {
        let (mut seen, mut block): (Vec<String>, Vec<&Vec<u8>>) = (Vec::new(), Vec::new());
        for field in &self.fields {
            let name = name_of(field);
            let trace = matches!(name.as_str(), "received" | "return-path");
            if !seen.is_empty() && (trace || seen.contains(&name)) {
                break;
            }
            if name.starts_with("resent-") {
                if matches!(name.as_str(), "resent-to" | "resent-cc" | "resent-bcc") {
                    block.push(field);
                }
                seen.push(name);
            }
        }
        block
    }

    /// Removes Bcc and Resent-Bcc (MSG-1).
    pub(super) fn remove_bcc(&mut self) {
        self.fields
            .retain(|field| !matches!(name_of(field).as_str(), "bcc" | "resent-bcc"));
    }

    /// Adds a From made of the envelope, if there is none (MSG-1).
    pub(super) fn add_from(&mut self, sender: &ReversePath, name: Option<&str>, hostname: &str) {
        if self.has("from") {
            return;
        }
        let address = match sender {
            ReversePath::Mailbox(mailbox) => mailbox.to_string(),
            // RFC 5322 §3.6.2: a From must be there, also when nobody wants an answer.
            ReversePath::Null => format!("MAILER-DAEMON@{hostname}"),
        };
        let field = match name {
            Some(name) if !name.is_empty() => format!("From: {} <{address}>\r\n", phrase(name)),
            _ => format!("From: {address}\r\n"),
        };
        self.fields.insert(0, field.into_bytes());
    }

    /// The header with the blank line behind it.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let mut out = self.fields.concat();
        out.extend_from_slice(b"\r\n");
        out
    }
}

/// A display name (RFC 5322 §3.2.5): plain, quoted, or in encoded words (RFC 2047 §5).
fn phrase(name: &str) -> String {
    // RFC 5322 §3.2.3, atext, and blanks.
    let plain = |c: char| c.is_ascii_alphanumeric() || " !#$%&'*+-/=?^_`{|}~".contains(c);
    if name.chars().all(plain) && !name.contains("=?") {
        return name.to_owned();
    }
    if name.chars().all(|c| (' '..='~').contains(&c)) {
        return format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    }
    let mut words = Vec::new();
    let mut word = String::new();
    for c in name.chars() {
        // RFC 2047 §2: at most 75 characters; 42 octets are 56 in base64.
        if word.len() + c.len_utf8() > 42 {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let encoded = words.iter().map(|word| {
        format!(
            "=?utf-8?B?{}?=",
            openssl::base64::encode_block(word.as_bytes())
        )
    });
    encoded.collect::<Vec<_>>().join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(dot_ends: bool, chunks: &[&[u8]]) -> Result<(Vec<u8>, bool), Exit> {
        let (mut normaliser, mut out) = (Normaliser::new(dot_ends), Vec::new());
        for chunk in chunks {
            normaliser.push(chunk, &mut out)?;
        }
        let ended = normaliser.ended;
        normaliser.finish()?;
        Ok((out, ended))
    }

    // SM-7
    #[test]
    fn all_line_ends_become_crlf() {
        let (out, _) = normal(true, &[b"a\nb\r\nc\r\n\n.d\n..\ne"]).unwrap();
        assert_eq!(out, b"a\r\nb\r\nc\r\n\r\n.d\r\n..\r\ne");
    }

    // SM-7
    #[test]
    fn a_lone_dot_ends_the_message_unless_it_is_text() {
        for text in [&b"a\n.\nb\n"[..], b"a\r\n.\r\nb"] {
            assert_eq!(normal(true, &[text]).unwrap(), (b"a\r\n".to_vec(), true));
            let (out, ended) = normal(false, &[text]).unwrap();
            assert!(out.starts_with(b"a\r\n.\r\nb") && !ended);
        }
        assert_eq!(normal(true, &[b"a\n."]).unwrap().0, b"a\r\n");
        assert_eq!(normal(true, &[b".\n"]).unwrap(), (Vec::new(), true));
    }

    // SM-7
    #[test]
    fn a_bare_cr_and_a_nul_are_faults_of_the_data() {
        for bad in [&b"a\rb"[..], b"a\0b", b"a\r", b"a\r\r\n", b".\rx", b".\r"] {
            assert_eq!(normal(true, &[bad]).unwrap_err().status, 65, "{bad:?}");
        }
    }

    fn split(text: &str) -> (Vec<String>, String) {
        let mut reader = HeaderReader::default();
        let (header, body) = match reader.push(text.as_bytes()).unwrap() {
            Some(done) => done,
            None => reader.finish(),
        };
        let fields = header.fields.into_iter();
        (
            fields.map(|f| String::from_utf8(f).unwrap()).collect(),
            String::from_utf8(body).unwrap(),
        )
    }

    fn header(text: &str) -> Header {
        Header {
            fields: split(text).0.into_iter().map(String::into_bytes).collect(),
        }
    }

    #[test]
    fn the_header_ends_at_a_blank_line_or_at_what_is_no_field() {
        let fields = vec!["A: b\r\n c\r\n".to_owned(), "D:\r\n".to_owned()];
        assert_eq!(
            split("A: b\r\n c\r\nD:\r\n\r\nbody\r\n"),
            (fields.clone(), "body\r\n".into())
        );
        assert_eq!(
            split("From joe Sat\r\nA: b\r\n c\r\nD:\r\nno field\r\n"),
            (fields, "no field\r\n".into())
        );
        assert_eq!(split("hello\r\n"), (vec![], "hello\r\n".into()));
        assert_eq!(split(" x: y\r\n"), (vec![], " x: y\r\n".into()));
        assert_eq!(split("A: b"), (vec!["A: b\r\n".into()], String::new()));
        assert_eq!(split(""), (vec![], String::new()));
        let mut reader = HeaderReader::default();
        assert_eq!(
            reader.push(&vec![b'x'; MAX_HEADER + 1]).unwrap_err().status,
            65
        );
    }

    fn recipients(text: &str) -> Vec<String> {
        let found = header(text).recipients("here.example").unwrap();
        found.iter().map(|mailbox| mailbox.to_string()).collect()
    }

    // SM-8
    #[test]
    fn recipients_come_from_to_cc_and_bcc() {
        assert_eq!(
            recipients(
                "To: a@x.example,\r\n b@x.example\r\nSubject: c@x.example\r\nCC: d@x.example\r\nbcc: root\r\n\r\n"
            ),
            [
                "a@x.example",
                "b@x.example",
                "d@x.example",
                "root@here.example"
            ]
        );
        assert!(recipients("Subject: x\r\n\r\n").is_empty());
    }

    // SM-8
    #[test]
    fn of_a_resent_message_the_last_block_counts() {
        assert_eq!(
            recipients(
                "Resent-From: a@x.example\r\nResent-To: new@x.example\r\nResent-Bcc: hidden@x.example\r\n\
                 Received: by x\r\nResent-To: old@x.example\r\nTo: first@x.example\r\n\r\n"
            ),
            ["new@x.example", "hidden@x.example"]
        );
        assert_eq!(
            recipients("Resent-To: new@x.example\r\nResent-To: old@x.example\r\n\r\n"),
            ["new@x.example"]
        );
    }

    // MSG-1, SM-8
    #[test]
    fn bcc_is_removed_and_a_missing_from_is_made() {
        let sender = ReversePath::parse("joe@here.example", false).unwrap();
        let mut made = header("To: a@x.example\r\nBcc: b@x.example,\r\n c@x.example\r\n\r\n");
        made.remove_bcc();
        made.add_from(&sender, Some("Joe \"J\" Doe"), "here.example");
        assert_eq!(
            String::from_utf8(made.into_bytes()).unwrap(),
            "From: \"Joe \\\"J\\\" Doe\" <joe@here.example>\r\nTo: a@x.example\r\n\r\n"
        );
        let mut kept = header("FROM: x@y.example\r\n\r\n");
        kept.add_from(&sender, None, "here.example");
        assert_eq!(kept.into_bytes(), b"FROM: x@y.example\r\n\r\n");
        let mut null = Header::default();
        null.add_from(&ReversePath::Null, None, "here.example");
        assert_eq!(
            null.into_bytes(),
            b"From: MAILER-DAEMON@here.example\r\n\r\n"
        );
    }

    // SM-9
    #[test]
    fn a_display_name_is_plain_quoted_or_encoded() {
        assert_eq!(phrase("Joe Doe"), "Joe Doe");
        assert_eq!(phrase("Doe, Joe"), "\"Doe, Joe\"");
        assert_eq!(phrase("J\u{f6}rg"), "=?utf-8?B?SsO2cmc=?=");
        let injected = phrase("Joe\r\nBcc: x@y.example");
        assert!(!injected.contains("Bcc"), "{injected}");
        assert!(
            phrase(&"\u{e9}".repeat(100))
                .lines()
                .all(|line| line.len() <= 76)
        );
    }

    proptest! {
        // SEC-6, SM-7
        #[test]
        fn the_split_does_not_matter(text in "[a:.\r\n ]{0,30}", at in 0..30_usize, dot in any::<bool>()) {
            let text = text.as_bytes();
            let (a, b) = text.split_at(at.min(text.len()));
            prop_assert_eq!(normal(dot, &[a, b]), normal(dot, &[text]));
            if let Ok((out, _)) = normal(dot, &[text]) {
                let cut = at.min(out.len());
                let whole = {
                    let mut reader = HeaderReader::default();
                    let done = reader.push(&out).unwrap();
                    done.unwrap_or_else(|| reader.finish())
                };
                let parts = {
                    let mut reader = HeaderReader::default();
                    match reader.push(&out[..cut]).unwrap() {
                        Some((header, mut body)) => {
                            body.extend_from_slice(&out[cut..]);
                            (header, body)
                        }
                        None => reader.push(&out[cut..]).unwrap().unwrap_or_else(|| reader.finish()),
                    }
                };
                prop_assert_eq!(parts, whole);
            }
        }
    }
}
