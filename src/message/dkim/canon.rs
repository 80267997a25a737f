//! The relaxed forms of header fields and bodies (RFC 6376 §3.4.2, §3.4.4), and the simple ones for what others signed.

use memchr::{memchr, memchr_iter, memchr3};
use openssl::sha::Sha256;

/// What is collected before it is hashed: the words of a text are short.
const BLOCK: usize = 4096;

/// The fields of a header, each with its continuation lines and its last line end, in the order of the text.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = header;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = memchr_iter(b'\n', rest)
            .map(|lf| lf + 1)
            .find(|next| !matches!(rest.get(*next), Some(b' ' | b'\t')))
            .unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after;
        Some(field)
    })
}

/// Name and value of a field; `None` for what is no field.
pub(super) fn split(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', field)?;
    Some((field[..colon].trim_ascii_end(), &field[colon + 1..]))
}

/// RFC 6376 §3.4.2, without the line end of the field.
pub(super) fn relaxed_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let start = out.len();
    let mut blank = false;
    for &byte in value {
        match byte {
            b' ' | b'\t' => blank = true,
            b'\r' | b'\n' => {}
            _ => {
                if blank && out.len() > start {
                    out.push(b' ');
                }
                blank = false;
                out.push(byte);
            }
        }
    }
}

/// Forms of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 6376 §3.4.3 or, for fields, §3.4.1.
    Simple,
    /// RFC 6376 §3.4.4 or, for fields, §3.4.2.
    Relaxed,
}

/// Hashes a body piece by piece, however it is cut.
pub(super) struct BodyHash {
    form: Form,
    /// `l=`: octets of the canonical body that are hashed.
    left: u64,
    hash: Sha256,
    block: Vec<u8>,
    /// A carriage return of which the next octet has not come.
    cr: bool,
    /// Blanks that only count if something follows on their line.
    blank: bool,
    /// Line ends that only count if something follows.
    line_ends: u64,
    /// Something other than line ends has come.
    any: bool,
}

impl BodyHash {
    pub(super) fn new(form: Form, limit: Option<u64>) -> BodyHash {
        BodyHash {
            form,
            left: limit.unwrap_or(u64::MAX),
            hash: Sha256::new(),
            block: Vec::with_capacity(BLOCK),
            cr: false,
            blank: false,
            line_ends: 0,
            any: false,
        }
    }

    /// Takes the next piece.
    pub(super) fn read(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let special = match self.form {
                Form::Relaxed => memchr3(b'\n', b' ', b'\t', piece),
                Form::Simple => memchr(b'\n', piece),
            };
            let run = &piece[..special.unwrap_or(piece.len())];
            if !run.is_empty() {
                // The carriage return of a line end is none of its text.
                let (text, cr) = match run {
                    [text @ .., b'\r'] => (text, true),
                    text => (text, false),
                };
                if std::mem::replace(&mut self.cr, cr) {
                    self.text(b"\r");
                }
                self.text(text);
            }
            let Some(at) = special else { return };
            match piece[at] {
                b'\n' => {
                    self.cr = false;
                    self.blank = false;
                    self.line_ends += 1;
                }
                _ => {
                    if std::mem::take(&mut self.cr) {
                        self.text(b"\r");
                    }
                    self.blank = true;
                }
            }
            piece = &piece[at + 1..];
        }
    }

    fn text(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        self.any = true;
        while self.line_ends > 0 {
            self.line_ends -= 1;
            self.put(b"\r\n");
        }
        if std::mem::take(&mut self.blank) {
            self.put(b" ");
        }
        self.put(text);
    }

    fn put(&mut self, octets: &[u8]) {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let octets = &octets[..octets.len().min(most)];
        self.left -= octets.len() as u64;
        if self.block.len() + octets.len() > BLOCK {
            self.hash.update(&self.block);
            self.block.clear();
        }
        if octets.len() > BLOCK {
            self.hash.update(octets);
        } else {
            self.block.extend_from_slice(octets);
        }
    }

    /// The hash. Empty lines at the end do not count, and what came without a last line end gets one; an empty body is
    /// nothing in the relaxed form and a line end in the simple one.
    pub(super) fn finish(mut self) -> [u8; 32] {
        if std::mem::take(&mut self.cr) {
            self.text(b"\r");
        }
        if self.any || self.form == Form::Simple {
            self.put(b"\r\n");
        }
        self.hash.update(&self.block);
        self.hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use openssl::sha::sha256;
    use proptest::prelude::*;

    use super::*;

    fn body(form: Form, text: &[u8], size: usize) -> [u8; 32] {
        let mut hash = BodyHash::new(form, None);
        for piece in text.chunks(size) {
            hash.read(piece);
        }
        hash.finish()
    }

    fn relaxed(field: &str) -> String {
        let (name, value) = split(field.as_bytes()).unwrap();
        let mut out = Vec::new();
        relaxed_field(name, value, &mut out);
        String::from_utf8(out).unwrap()
    }

    // MSG-7: RFC 6376 §3.4.5, the examples
    #[test]
    fn the_examples_of_the_rfc_come_out_as_it_says() {
        let header = "A: X\r\nB : Y\t\r\n\tZ  \r\n";
        let all: Vec<String> = fields(header.as_bytes())
            .map(|field| relaxed(std::str::from_utf8(field).unwrap()))
            .collect();
        assert_eq!(all, ["a:X", "b:Y Z"]);
        let text = b" C \r\nD \t E\r\n\r\n\r\n";
        for size in [1, 2, 3, 100] {
            assert_eq!(body(Form::Relaxed, text, size), sha256(b" C\r\nD E\r\n"));
            assert_eq!(body(Form::Simple, text, size), sha256(b" C \r\nD \t E\r\n"));
        }
    }

    // MSG-7
    #[test]
    fn empty_bodies_and_missing_line_ends_are_as_the_rfc_says() {
        for empty in [&b""[..], b"\r\n", b"\r\n\r\n", b" \t\r\n\r\n"] {
            assert_eq!(body(Form::Relaxed, empty, 1), sha256(b""));
        }
        // RFC 6376 §3.4.3 gives this one.
        assert_eq!(
            openssl::base64::encode_block(&body(Form::Simple, b"", 1)),
            "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY="
        );
        assert_eq!(body(Form::Relaxed, b"a b", 2), sha256(b"a b\r\n"));
        assert_eq!(relaxed("Subject:\r\n"), "subject:");
        assert_eq!(relaxed("Subject: \r\n \t x \r\n\t\r\n"), "subject:x");
    }

    // MSG-7
    #[test]
    fn long_lines_and_eight_bits_are_kept_as_they_are() {
        let long = [b"x".repeat(10_000), b"\xff\xc3\xa4\r\n".to_vec()].concat();
        assert_eq!(body(Form::Relaxed, &long, 4095), sha256(&long));
        let mut cut = BodyHash::new(Form::Relaxed, Some(3));
        cut.read(b"a  bcd\r\n");
        assert_eq!(cut.finish(), sha256(b"a b"));
    }

    /// Line by line, the way the RFC tells it.
    fn told(text: &str) -> Vec<u8> {
        let mut out: Vec<u8> = Vec::new();
        for line in text.split("\r\n") {
            let words: Vec<&str> = line.split([' ', '\t']).collect();
            let mut one = String::new();
            for (n, word) in words.iter().enumerate() {
                if n > 0 && !one.ends_with(' ') {
                    one.push(' ');
                }
                one.push_str(word);
            }
            out.extend_from_slice(one.trim_end_matches(' ').as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        while out.ends_with(b"\r\n\r\n") {
            out.truncate(out.len() - 2);
        }
        if out == b"\r\n" {
            out.clear();
        }
        out
    }

    proptest! {
        #[test]
        fn any_split_gives_what_the_rfc_tells(
            text in "(a|bc|\r\n| |\t|\u{e4}){0,30}",
            size in 1_usize..9,
        ) {
            prop_assert_eq!(body(Form::Relaxed, text.as_bytes(), size), sha256(&told(&text)));
        }
    }
}
