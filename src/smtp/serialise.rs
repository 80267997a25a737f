//! The one way in which content leaves (CL-26, SEC-4): CRLF line ends only, dots stuffed, exactly one terminator.
//!
//! Content goes through in chunks of any size. A chunk that needs no change, which is the usual one, is handed on as it
//! is; where something must change, the stretches between the changes are copied whole.

/// Turns content into what follows DATA.
#[derive(Debug, Default)]
pub struct Serialiser {
    last: Last,
}

/// What stands before the next octet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    /// A line end, or nothing yet.
    #[default]
    Line,
    /// A CR that was not handed on yet, because what it means depends on the next octet.
    Cr,
    /// Anything else.
    Text,
}

impl Serialiser {
    /// A serialiser at the beginning of the content.
    pub fn new() -> Serialiser {
        Serialiser::default()
    }

    /// The next piece as it goes out: `chunk` itself, or a changed copy of it in `spare`, which is overwritten.
    pub fn piece<'a>(&mut self, chunk: &'a [u8], spare: &'a mut Vec<u8>) -> &'a [u8] {
        let Some(&end) = chunk.last() else {
            return chunk;
        };
        if self.last != Last::Cr && end != b'\r' && first_change(self.last, chunk).is_none() {
            self.last = if end == b'\n' { Last::Line } else { Last::Text };
            return chunk;
        }
        spare.clear();
        self.change(chunk, spare);
        spare
    }

    /// What ends the content: a missing line end, and the dot (RFC 5321 §4.1.1.4).
    pub fn finish(self) -> &'static [u8] {
        match self.last {
            Last::Line => b".\r\n",
            Last::Cr | Last::Text => b"\r\n.\r\n",
        }
    }

    /// Copies `chunk` to `out` with what must change.
    fn change(&mut self, mut chunk: &[u8], out: &mut Vec<u8>) {
        out.reserve(chunk.len() + chunk.len() / 32 + 4);
        loop {
            if self.last == Last::Cr && !chunk.is_empty() {
                // CR LF, or a stray CR that becomes a line end.
                out.extend_from_slice(b"\r\n");
                chunk = chunk.strip_prefix(b"\n").unwrap_or(chunk);
                self.last = Last::Line;
            }
            let Some((&end, _)) = chunk.split_last() else {
                return;
            };
            let Some(at) = first_change(self.last, chunk) else {
                // A CR at the very end waits for the next octet.
                let (kept, last) = match end {
                    b'\r' => (&chunk[..chunk.len() - 1], Last::Cr),
                    b'\n' => (chunk, Last::Line),
                    _ => (chunk, Last::Text),
                };
                out.extend_from_slice(kept);
                self.last = last;
                return;
            };
            let (kept, rest) = chunk.split_at(at);
            match rest[0] {
                // What follows a stray CR.
                _ if kept.ends_with(b"\r") => {
                    out.extend_from_slice(&kept[..kept.len() - 1]);
                    self.last = Last::Cr;
                    chunk = rest;
                }
                // RFC 5321 §4.5.2: a dot at the beginning of a line is doubled.
                b'.' => {
                    out.extend_from_slice(kept);
                    out.extend_from_slice(b"..");
                    self.last = Last::Text;
                    chunk = &rest[1..];
                }
                // A stray LF.
                _ => {
                    out.extend_from_slice(kept);
                    out.extend_from_slice(b"\r\n");
                    self.last = Last::Line;
                    chunk = &rest[1..];
                }
            }
        }
    }
}

/// The place of the first octet that must change: a dot at the beginning of a line, an LF without CR before it, or
/// what follows a CR without being LF. `last` is not [`Last::Cr`]. A CR at the end is nobody's business yet.
fn first_change(last: Last, chunk: &[u8]) -> Option<usize> {
    let first = *chunk.first()?;
    if first == b'\n' || (first == b'.' && last == Last::Line) {
        return Some(0);
    }
    // Blocks without a branch inside, so that the compiler compares many octets at a time.
    const BLOCK: usize = 256;
    let mut at = 1;
    while at < chunk.len() {
        let end = (at + BLOCK).min(chunk.len());
        let (before, block) = (&chunk[at - 1..end - 1], &chunk[at..end]);
        let changes = before
            .iter()
            .zip(block)
            .fold(false, |any, (p, c)| any | must_change(*p, *c));
        if changes {
            let inside = before
                .iter()
                .zip(block)
                .position(|(p, c)| must_change(*p, *c));
            return inside.map(|inside| at + inside);
        }
        at = end;
    }
    None
}

#[inline(always)]
fn must_change(before: u8, octet: u8) -> bool {
    ((before == b'\r') != (octet == b'\n')) | ((before == b'\n') & (octet == b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn serialise(chunks: &[&[u8]]) -> Vec<u8> {
        let mut serialiser = Serialiser::new();
        let (mut out, mut spare) = (Vec::new(), Vec::new());
        for chunk in chunks {
            out.extend_from_slice(serialiser.piece(chunk, &mut spare));
        }
        out.extend_from_slice(serialiser.finish());
        out
    }

    /// Line ends as the rule wants them, octet by octet, as plainly as can be.
    fn normalised(content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut octets = content.iter().copied().peekable();
        while let Some(octet) = octets.next() {
            match octet {
                b'\r' => {
                    octets.next_if_eq(&b'\n');
                    out.extend_from_slice(b"\r\n");
                }
                b'\n' => out.extend_from_slice(b"\r\n"),
                other => out.push(other),
            }
        }
        if !out.is_empty() && !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// As a receiver reads it: lines up to the first lone dot, with one leading dot removed; and what is left over.
    fn receive(sent: &[u8]) -> (Vec<u8>, &[u8]) {
        let mut content = Vec::new();
        let mut rest = sent;
        loop {
            let end = rest.windows(2).position(|w| w == b"\r\n").unwrap() + 2;
            let line = &rest[..end];
            rest = &rest[end..];
            if line == b".\r\n" {
                return (content, rest);
            }
            content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        }
    }

    // CL-26
    #[test]
    fn content_ends_with_crlf_and_one_terminator_whatever_it_ends_with() {
        assert_eq!(serialise(&[]), b".\r\n");
        assert_eq!(serialise(&[b""]), b".\r\n");
        assert_eq!(serialise(&[b"a\r\n"]), b"a\r\n.\r\n");
        assert_eq!(serialise(&[b"a"]), b"a\r\n.\r\n");
        assert_eq!(serialise(&[b"a\r"]), b"a\r\n.\r\n");
        assert_eq!(serialise(&[b"a\n"]), b"a\r\n.\r\n");
        assert_eq!(serialise(&[b"."]), b"..\r\n.\r\n");
        assert_eq!(serialise(&[b"a\r\n."]), b"a\r\n..\r\n.\r\n");
    }

    // CL-26
    #[test]
    fn stray_cr_and_lf_leave_as_crlf_and_cannot_end_the_content_early() {
        assert_eq!(
            serialise(&[b"a\rb\n.\nc\r.\r\r\n"]),
            b"a\r\nb\r\n..\r\nc\r\n..\r\n\r\n.\r\n"
        );
        assert_eq!(
            serialise(&[b"a\r", b"\n", b".", b"\r", b"\nb"]),
            b"a\r\n..\r\nb\r\n.\r\n"
        );
    }

    // CL-26
    #[test]
    fn a_chunk_that_needs_no_change_is_not_copied() {
        let chunk = b"Subject: x\r\n\r\nbody. with.dots\r\n".repeat(100);
        let mut serialiser = Serialiser::new();
        let mut spare = Vec::new();
        let piece = serialiser.piece(&chunk, &mut spare);
        assert_eq!(piece.as_ptr(), chunk.as_ptr());
    }

    proptest! {
        // CL-26, SEC-4
        #[test]
        fn a_receiver_gets_the_content_with_crlf_and_nothing_after_it(
            content in proptest::collection::vec(
                prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'x'), any::<u8>()], 0..700),
            cuts in proptest::collection::vec(0usize..700, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(content.len())).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &content[w[0]..w[1]]).collect();
            let sent = serialise(&pieces);
            let (received, rest) = receive(&sent);
            prop_assert_eq!(received, normalised(&content));
            prop_assert!(rest.is_empty());
            let octets: Vec<&[u8]> = content.chunks(1).collect();
            prop_assert_eq!(serialise(&octets), sent);
        }
    }
}
