//! Reads message content as DATA transfers it (RFC 5321 §4.5.2): finds its one true end, undoes dot stuffing.
//!
//! Content has an end that only CRLF `.` CRLF makes (IN-3). Every other mixture of CR, LF, NUL and dots is content,
//! good or bad: bad content is read to its true end like any other, so that nothing in it is ever taken for a command
//! (SEC-4). Pure, linear, and indifferent to how the bytes are cut.

use memchr::memchr3;

/// What was seen in the content besides lines that end in CRLF.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Oddities {
    /// A LF that no CR precedes. It was written as CRLF.
    pub bare_lf: bool,
    /// A CR that no LF follows.
    pub bare_cr: bool,
    /// A NUL.
    pub nul: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// After CRLF, or at the very beginning: a dot here is stuffing or the end.
    LineStart,
    /// After a dot at the start of a line.
    Dot,
    /// After a dot at the start of a line, and CR: LF is the end.
    DotCr,
    /// Inside a line, or after a bare LF: a line that such a LF begins has no stuffing and no end (IN-4).
    Inside,
    /// After a CR.
    Cr,
    /// Behind the end.
    Over,
}

/// An incremental reader of one message's content.
#[derive(Debug)]
pub struct DataReader {
    place: Place,
    odd: Oddities,
}

impl Default for DataReader {
    fn default() -> DataReader {
        DataReader::new()
    }
}

impl DataReader {
    /// At the start of the content, behind the 354.
    pub fn new() -> DataReader {
        DataReader {
            place: Place::LineStart,
            odd: Oddities::default(),
        }
    }

    /// Whether the end was read.
    pub fn is_over(&self) -> bool {
        self.place == Place::Over
    }

    /// What was seen so far.
    pub fn oddities(&self) -> Oddities {
        self.odd
    }

    /// Reads from `input` up to the end of the content or of the input, and gives the content to `sink` in pieces of
    /// any size but none: without stuffing, every line ending in CRLF. Returns how many bytes it took; fewer than all only when
    /// the end was reached, and then the rest is the client's next command.
    pub fn read(&mut self, input: &[u8], sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut give = |run: &[u8]| {
            if !run.is_empty() {
                sink(run);
            }
        };
        // Content that is not given away yet is input[start..at].
        let (mut start, mut at) = (0, 0);
        if self.place == Place::Cr && input.first().is_some_and(|b| *b != b'\n') {
            // The CR of the last piece of input was held back; it turns out to be a bare one.
            self.odd.bare_cr = true;
            give(b"\r");
            self.place = Place::Inside;
        }
        while at < input.len() {
            match self.place {
                Place::Over => break,
                Place::Inside => {
                    at += memchr3(b'\r', b'\n', 0, &input[at..]).unwrap_or(input.len() - at);
                    match input.get(at) {
                        Some(b'\r') => self.place = Place::Cr,
                        Some(b'\n') => {
                            self.odd.bare_lf = true;
                            give(&input[start..at]);
                            give(b"\r\n");
                            start = at + 1;
                        }
                        Some(_) => self.odd.nul = true,
                        None => break,
                    }
                    at += 1;
                }
                Place::Cr => {
                    if input[at] == b'\n' {
                        if at == 0 {
                            // Its CR was the last byte of the input before and was held back.
                            give(b"\r\n");
                            start = 1;
                        }
                        at += 1;
                        self.place = Place::LineStart;
                    } else {
                        self.odd.bare_cr = true;
                        self.place = Place::Inside;
                    }
                }
                Place::LineStart => {
                    self.place = Place::Inside;
                    if input[at] == b'.' {
                        // RFC 5321 §4.5.2: the first dot of a line is not content.
                        give(&input[start..at]);
                        at += 1;
                        start = at;
                        self.place = Place::Dot;
                    }
                }
                Place::Dot => match input[at] {
                    b'\r' => {
                        at += 1;
                        start = at;
                        self.place = Place::DotCr;
                    }
                    b'\n' => {
                        // Not a line of its own before, so its dot was no stuffing: it stays (IN-4).
                        give(b".");
                        self.place = Place::Inside;
                    }
                    _ => self.place = Place::Inside,
                },
                Place::DotCr => {
                    if input[at] == b'\n' {
                        at += 1;
                        start = at;
                        self.place = Place::Over;
                    } else {
                        // `.` CR and no LF: the dot was stuffing, and the CR is a bare one.
                        self.odd.bare_cr = true;
                        give(b"\r");
                        self.place = Place::Inside;
                    }
                }
            }
        }
        // A CR at the end of the input is held back until what follows is known.
        let held = usize::from(self.place == Place::Cr && at > start);
        give(&input[start..at - held]);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader makes of `input` that comes in pieces of at most `size` bytes: content, bytes taken, reader.
    fn read(input: &[u8], size: usize) -> (Vec<u8>, usize, DataReader) {
        let mut reader = DataReader::new();
        let (mut content, mut taken) = (Vec::new(), 0);
        for piece in input.chunks(size) {
            let n = reader.read(piece, &mut |run| content.extend_from_slice(run));
            taken += n;
            if reader.is_over() {
                break;
            }
            assert_eq!(n, piece.len());
        }
        (content, taken, reader)
    }

    fn text(input: &str) -> (String, Oddities) {
        let (content, taken, reader) = read(input.as_bytes(), usize::MAX);
        assert!(reader.is_over(), "{input:?}");
        assert_eq!(taken, input.len(), "{input:?}");
        (String::from_utf8(content).unwrap(), reader.oddities())
    }

    // IN-3, IN-5
    #[test]
    fn stuffing_is_undone_once_and_only_at_the_start_of_lines() {
        for (input, content) in [
            (".\r\n", ""),
            ("\r\n.\r\n", "\r\n"),
            ("A: b\r\n.\r\n", "A: b\r\n"),
            ("..\r\n.\r\n", ".\r\n"),
            ("...\r\n.\r\n", "..\r\n"),
            (".a\r\n.\r\n", "a\r\n"),
            ("a.b..c.\r\n.\r\n", "a.b..c.\r\n"),
            (". \r\n.\r\n", " \r\n"),
            ("a\r\n..\r\n..b\r\n\r\n.\r\n", "a\r\n.\r\n.b\r\n\r\n"),
        ] {
            assert_eq!(text(input), (content.to_owned(), Oddities::default()));
        }
    }

    // IN-3, IN-4
    #[test]
    fn no_other_sequence_ends_the_content() {
        let bare_lf = Oddities {
            bare_lf: true,
            ..Oddities::default()
        };
        for (input, content) in [
            ("a\n.\n.\r\n", "a\r\n.\r\n.\r\n"),
            ("a\n.\r\nQUIT\r\n", "a\r\n.\r\nQUIT\r\n"),
            ("a\r\n.\nb\r\n", "a\r\n.\r\nb\r\n"),
            ("a\n..\n", "a\r\n..\r\n"),
            ("\n\n", "\r\n\r\n"),
        ] {
            let input = format!("{input}\r\n.\r\n");
            assert_eq!(
                text(&input),
                (format!("{content}\r\n"), bare_lf),
                "{input:?}"
            );
        }
        for input in [
            "a\r.\r",
            "a\r\n.\r",
            "a\r\n.\r\r\n",
            "a\r.\r\n",
            "a\r\r\n.\r\r\n",
            "a\n\r.\r\n",
            "\r\n\r.\r\n",
            "a\r\n\r",
            ".\r.\r\n",
        ] {
            let (_, odd) = text(&format!("{input}x\r\n.\r\n"));
            assert!(odd.bare_cr, "{input:?}");
        }
        for input in ["a\0b", "\0\r\n.\0\r\n", "a\r\n\0.\r\n", ".\0\r\n"] {
            let (_, odd) = text(&format!("{input}\r\n.\r\n"));
            assert_eq!((odd.nul, odd.bare_cr), (true, false), "{input:?}");
        }
    }

    // IN-3: what follows the end is the client's next command, and is left alone.
    #[test]
    fn bytes_behind_the_end_are_not_taken() {
        let input = b"a\r\n.\r\nMAIL FROM:<>\r\n.\r\n";
        let (content, taken, mut reader) = read(input, usize::MAX);
        assert_eq!((content.as_slice(), taken), (&b"a\r\n"[..], 6));
        assert_eq!(reader.read(b"more", &mut |_| panic!("content")), 0);
    }

    #[test]
    fn long_content_comes_in_long_pieces() {
        let mut input = b"0123456789 0123456789\r\n".repeat(10_000);
        input.extend_from_slice(b".\r\n");
        let mut runs = 0;
        DataReader::new().read(&input, &mut |_| runs += 1);
        assert!(runs <= 2, "{runs}");
    }

    proptest! {
        // IN-3 to IN-5, SEC-6
        #[test]
        fn any_split_gives_the_same_and_the_end_is_where_it_must_be(
            input in "(\r|\n|\r\n|\\.|\0|a|\r\n\\.|\r\n\\.\r\n){0,24}",
            size in 1_usize..9,
        ) {
            let input = input.as_bytes();
            let (content, taken, reader) = read(input, usize::MAX);
            for size in [1, size] {
                let (again, taken_again, other) = read(input, size);
                prop_assert_eq!(&again, &content);
                prop_assert_eq!(taken_again, taken);
                prop_assert_eq!(other.is_over(), reader.is_over());
                prop_assert_eq!(other.oddities(), reader.oddities());
            }
            // Judged by another way: the DATA command's own CRLF stands in front.
            let framed = [b"\r\n", input].concat();
            let end = framed.windows(5).position(|w| w == b"\r\n.\r\n");
            prop_assert_eq!(reader.is_over(), end.is_some());
            prop_assert_eq!(taken, end.map_or(input.len(), |at| at + 3));
            let read = &input[..taken];
            let lone_lf = |at: usize| read[at] == b'\n' && (at == 0 || read[at - 1] != b'\r');
            prop_assert_eq!(reader.oddities().bare_lf, (0..taken).any(lone_lf));
            prop_assert_eq!(reader.oddities().nul, read.contains(&0));
            if reader.is_over() {
                let lone_cr = |at: usize| read[at] == b'\r' && read.get(at + 1) != Some(&b'\n');
                prop_assert_eq!(reader.oddities().bare_cr, (0..taken).any(lone_cr));
                if reader.oddities() == Oddities::default() {
                    let lines = std::str::from_utf8(&read[..taken - 3]).unwrap().split_inclusive("\r\n");
                    let plain: String = lines.map(|l| l.strip_prefix('.').unwrap_or(l)).collect();
                    prop_assert_eq!(content, plain.into_bytes());
                }
            }
        }

        // Q-21, CL-26: what a client stuffs comes out as it was.
        #[test]
        fn stuffed_lines_come_back(lines in proptest::collection::vec("[.a ]{0,5}", 0..9)) {
            let mut wire = String::new();
            for line in &lines {
                wire += if line.starts_with('.') { "." } else { "" };
                wire += line;
                wire += "\r\n";
            }
            wire += ".\r\n";
            let content: String = lines.iter().map(|l| format!("{l}\r\n")).collect();
            prop_assert_eq!(text(&wire), (content, Oddities::default()));
        }
    }
}
