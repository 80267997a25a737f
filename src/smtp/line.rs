//! Finds command lines in what a client sends (IN-6, IN-7).
//!
//! A command ends in CRLF. A lone LF is a fault and not a line end, or two readers of one stream could see different
//! commands in it; it is answered at once and once, and all up to the next CRLF belongs to the faulty command.

use memchr::memchr;

/// A command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Without its CRLF.
    Whole(&'a [u8]),
    /// It holds a CR or LF of its own; what there is of it so far.
    BareLineEnd(&'a [u8]),
    /// Longer than is allowed.
    TooLong,
}

/// The incremental reader. It keeps no bytes: the caller shows it what is unread.
#[derive(Debug)]
pub struct LineReader {
    /// Octets of a line with its CRLF.
    limit: usize,
    /// Bytes that are unread and known to hold no LF.
    scanned: usize,
    /// The line was answered; what remains of it is skipped.
    skipping: bool,
    /// The last byte that was skipped was a CR.
    skipped_cr: bool,
}

impl LineReader {
    /// A reader of lines of at most `limit` octets.
    pub fn new(limit: usize) -> LineReader {
        LineReader {
            limit: limit.max(2),
            scanned: 0,
            skipping: false,
            skipped_cr: false,
        }
    }

    /// The next line in `unread`, if it holds one, and how many bytes of it are read now. The caller shows the others
    /// again, with more behind them.
    pub fn next<'a>(&mut self, unread: &'a [u8]) -> (usize, Option<Line<'a>>) {
        let mut from = 0;
        while self.skipping {
            let Some(lf) = memchr(b'\n', &unread[from..]) else {
                if let Some(last) = unread[from..].last() {
                    self.skipped_cr = *last == b'\r';
                }
                return (unread.len(), None);
            };
            let end = from + lf;
            let after_cr = if lf == 0 {
                self.skipped_cr
            } else {
                unread[end - 1] == b'\r'
            };
            self.skipping = !after_cr;
            self.skipped_cr = false;
            from = end + 1;
        }
        let line = &unread[from..];
        let lf =
            memchr(b'\n', line.get(self.scanned..).unwrap_or_default()).map(|at| at + self.scanned);
        match lf {
            Some(lf) if lf < self.limit => {
                self.scanned = 0;
                let found = match line[..lf].strip_suffix(b"\r") {
                    Some(text) if memchr(b'\r', text).is_none() => Line::Whole(text),
                    Some(text) => Line::BareLineEnd(text),
                    None => {
                        self.skip(false);
                        Line::BareLineEnd(&line[..lf])
                    }
                };
                (from + lf + 1, Some(found))
            }
            None if line.len() < self.limit => {
                self.scanned = line.len();
                (from, None)
            }
            _ => {
                // Exactly the limit is taken here and the rest skipped, so that every split does the same.
                self.scanned = 0;
                self.skip(line[self.limit - 1] == b'\r');
                (from + self.limit, Some(Line::TooLong))
            }
        }
    }

    fn skip(&mut self, after_cr: bool) {
        self.skipping = true;
        self.skipped_cr = after_cr;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines in `input`, which comes in pieces of at most `size` bytes; and what remains unread.
    fn lines(input: &[u8], limit: usize, size: usize) -> (Vec<String>, usize) {
        let mut reader = LineReader::new(limit);
        let (mut lines, mut unread) = (Vec::new(), Vec::new());
        for piece in input.chunks(size) {
            unread.extend_from_slice(piece);
            loop {
                let (n, line) = reader.next(&unread);
                if let Some(line) = line {
                    lines.push(match line {
                        Line::Whole(text) => String::from_utf8_lossy(text).into_owned(),
                        Line::BareLineEnd(_) => "BARE".to_owned(),
                        Line::TooLong => "LONG".to_owned(),
                    });
                }
                let found = line.is_some();
                unread.drain(..n);
                assert!(unread.len() <= limit.max(size));
                if !found {
                    break;
                }
            }
        }
        (lines, unread.len())
    }

    // IN-6, IN-7
    #[test]
    fn only_crlf_ends_a_line_and_a_faulty_one_is_answered_once() {
        for (input, expected) in [
            ("NOOP\r\nQUIT\r\n", vec!["NOOP", "QUIT"]),
            ("NOOP\r\nQUI", vec!["NOOP"]),
            ("\r\n\r\n", vec!["", ""]),
            ("NOOP\nQUIT\r\nRSET\r\n", vec!["BARE", "RSET"]),
            ("NOOP\nRSET\nQUIT\n", vec!["BARE"]),
            ("\n", vec!["BARE"]),
            ("NO\rOP\r\nRSET\r\n", vec!["BARE", "RSET"]),
            ("NOOP\r\r\nRSET\r\n", vec!["BARE", "RSET"]),
            ("0123456789\r\n", vec!["0123456789"]),
            ("0123456789a\r\nRSET\r\n", vec!["LONG", "RSET"]),
            ("0123456789ab\nc\rd\r\nRSET\r\n", vec!["LONG", "RSET"]),
            ("0123456789abQUIT\r\n", vec!["LONG"]),
        ] {
            for size in 1..=input.len() {
                assert_eq!(
                    lines(input.as_bytes(), 12, size).0,
                    expected,
                    "{input:?} by {size}"
                );
            }
        }
    }

    proptest! {
        // IN-6, IN-7, SEC-6
        #[test]
        fn any_split_gives_the_same_lines(input in "(\r|\n|\r\n|a|abc){0,24}", size in 1_usize..9) {
            let whole = lines(input.as_bytes(), 6, usize::MAX);
            prop_assert_eq!(&lines(input.as_bytes(), 6, 1), &whole);
            prop_assert_eq!(&lines(input.as_bytes(), 6, size), &whole);
            // Never more lines than CRLFs, and one faulty line that has not ended.
            prop_assert!(whole.0.len() <= input.matches("\r\n").count() + 1);
        }
    }
}
