//! Cuts what a client sends into request lines, in any split, with bounded memory.

use super::line::MAX_LINE;

/// What a client has sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line, without its line end.
    Line(Vec<u8>),
    /// A line that was too long. It was thrown away to its end.
    TooLong,
}

/// Collects octets until a line is whole.
#[derive(Debug, Default)]
pub struct Lines {
    buf: Vec<u8>,
    /// How far `buf` is known to hold no line end.
    seen: usize,
    /// The line in `buf` is too long; only its end is looked for.
    skipping: bool,
}

impl Lines {
    /// With nothing in it.
    pub fn new() -> Lines {
        Lines::default()
    }

    /// Takes what was read: at most one buffer full, as [`Lines::next`] must be asked before more is read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// The next whole line.
    pub fn next_line(&mut self) -> Option<Input> {
        let Some(at) = self.buf[self.seen..].iter().position(|b| *b == b'\n') else {
            // One more octet than a line may have, for the CR of a CRLF.
            if self.skipping || self.buf.len() > MAX_LINE + 1 {
                self.skipping = true;
                self.buf.clear();
            }
            self.seen = self.buf.len();
            return None;
        };
        let rest = self.buf.split_off(self.seen + at + 1);
        let mut line = std::mem::replace(&mut self.buf, rest);
        self.seen = 0;
        if std::mem::take(&mut self.skipping) {
            return Some(Input::TooLong);
        }
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.len() > MAX_LINE {
            return Some(Input::TooLong);
        }
        Some(Input::Line(line))
    }

    /// Whether part of a line is left that has no end.
    pub fn is_unfinished(&self) -> bool {
        self.skipping || !self.buf.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(chunks: &[&[u8]]) -> (Vec<Input>, bool) {
        let (mut lines, mut out) = (Lines::new(), Vec::new());
        for chunk in chunks {
            lines.push(chunk);
            while let Some(input) = lines.next_line() {
                out.push(input);
            }
        }
        (out, lines.is_unfinished())
    }

    fn line(text: &str) -> Input {
        Input::Line(text.as_bytes().to_vec())
    }

    // CTL-1
    #[test]
    fn lines_end_in_lf_or_crlf() {
        let (lines, unfinished) = cut(&[b"list\r\n\nquit\nli"]);
        assert_eq!(lines, [line("list"), line(""), line("quit")]);
        assert!(unfinished);
    }

    // CTL-1, CTL-2
    #[test]
    fn an_over_long_line_is_thrown_away_to_its_end_in_flat_memory() {
        let longest = vec![b'a'; MAX_LINE];
        assert_eq!(cut(&[&longest, b"\r\n"]).0, [Input::Line(longest.clone())]);
        let mut lines = Lines::new();
        for _ in 0..100 {
            lines.push(&[b'a'; 8192]);
            assert_eq!(lines.next_line(), None);
            assert!(lines.buf.len() <= MAX_LINE + 8192);
        }
        assert!(lines.is_unfinished());
        lines.push(b"\nquit\n");
        assert_eq!(lines.next_line(), Some(Input::TooLong));
        assert_eq!(lines.next_line(), Some(line("quit")));
        assert!(!lines.is_unfinished());
        assert_eq!(cut(&[&[b'a'; MAX_LINE + 1], b"\n"]).0, [Input::TooLong]);
    }

    proptest! {
        // SEC-6
        #[test]
        fn the_split_does_not_matter(text in "[a\r\n]{0,30}", at in 0..30_usize) {
            let text = text.as_bytes();
            let (a, b) = text.split_at(at.min(text.len()));
            prop_assert_eq!(cut(&[a, b]), cut(&[text]));
        }
    }
}
