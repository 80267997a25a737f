//! Reply codes, enhanced status codes and replies (RFC 5321 §4.2, RFC 3463).

use std::fmt;

/// SMTP reply code, 200..=599. Codes outside it end the transaction (RFC 5321 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyCode(u16);

impl ReplyCode {
    /// The code, if it is one of 200..=599.
    pub fn new(code: u16) -> Option<ReplyCode> {
        (200..=599).contains(&code).then_some(ReplyCode(code))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// RFC 5321 §4.2: an unlisted code is judged by its first digit alone.
    pub fn is_positive(self) -> bool {
        self.0 / 100 == 2
    }

    /// 4yz.
    pub fn is_transient(self) -> bool {
        self.0 / 100 == 4
    }

    /// 5yz.
    pub fn is_permanent(self) -> bool {
        self.0 / 100 == 5
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Digits::new(self.0).three())
    }
}

/// Enhanced mail system status code (RFC 3463): class 2, 4 or 5, subject and detail 0..=999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedCode {
    /// A code of our own. A class other than 2, 4 or 5, or a number over 999, becomes `x.0.0` of class 4,
    /// because unclear means temporary.
    pub const fn new(class: u8, subject: u16, detail: u16) -> EnhancedCode {
        if (class == 2 || class == 4 || class == 5) && subject <= 999 && detail <= 999 {
            EnhancedCode {
                class,
                subject,
                detail,
            }
        } else {
            EnhancedCode {
                class: 4,
                subject: 0,
                detail: 0,
            }
        }
    }

    /// The class: 2, 4 or 5.
    pub fn class(self) -> u8 {
        self.class
    }

    /// The subject, for example 1 for addressing and 7 for security or policy.
    pub fn subject(self) -> u16 {
        self.subject
    }

    /// The detail.
    pub fn detail(self) -> u16 {
        self.detail
    }

    /// Reads `c.s.d` exactly; `None` for anything else.
    pub fn parse(text: &str) -> Option<EnhancedCode> {
        let mut parts = text.split('.');
        let mut number = |longest: usize| {
            let part = parts.next()?;
            let plain = !part.is_empty()
                && part.len() <= longest
                && part.bytes().all(|b| b.is_ascii_digit());
            if plain {
                part.parse::<u16>().ok()
            } else {
                None
            }
        };
        let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
        if parts.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return None;
        }
        Some(EnhancedCode {
            class: class as u8,
            subject,
            detail,
        })
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Digits::new(self.class.into()).plain())?;
        f.write_str(".")?;
        f.write_str(Digits::new(self.subject).plain())?;
        f.write_str(".")?;
        f.write_str(Digits::new(self.detail).plain())
    }
}

/// A number of at most three digits, in writing.
pub(super) struct Digits([u8; 3]);

impl Digits {
    pub(super) fn new(number: u16) -> Digits {
        Digits([number / 100, number / 10, number].map(|digits| b'0' + (digits % 10) as u8))
    }

    /// With leading zeros.
    pub(super) fn three(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Without leading zeros.
    pub(super) fn plain(&self) -> &str {
        let text = self.three();
        match text.trim_start_matches('0') {
            "" => "0",
            digits => digits,
        }
    }
}

/// Most of a reply's text that is kept, in octets, after escaping (CL-27).
pub const TEXT_KEPT: usize = 4096;

/// Most octets of one reply (CL-4).
pub const REPLY_MAX: usize = 64 * 1024;

/// Most octets of all replies of one session (CL-4).
pub const SESSION_MAX: usize = 2 * 1024 * 1024;

/// Peer text made harmless for records, logs and notices (CL-27): printable ASCII stays, `\n` between the lines of a
/// reply stays, everything else becomes `\xHH`. At most `limit` octets come out; what is cut off leaves `...`.
pub fn escape(text: &[u8], limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for &byte in text {
        let room = limit.saturating_sub(out.len());
        match byte {
            b' '..=b'~' | b'\n' if room > 3 => out.push(char::from(byte)),
            _ if room > 6 => out.push_str(&format!("\\x{byte:02x}")),
            _ => {
                out.push_str("...");
                out.truncate(limit);
                break;
            }
        }
    }
    out
}

/// One complete reply: its code and the text of its lines as the peer sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: ReplyCode,
    text: Vec<u8>,
}

impl Reply {
    /// A reply with this code and these lines, joined with `\n`.
    pub fn new(code: ReplyCode, text: impl Into<Vec<u8>>) -> Reply {
        Reply {
            code,
            text: text.into(),
        }
    }

    /// Its code.
    pub fn code(&self) -> ReplyCode {
        self.code
    }

    /// The text of each line, without code and separator, just as it came.
    pub fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.text.split(|byte| *byte == b'\n')
    }

    /// Its whole text for records: lines joined with `\n`, escaped, at most 4 KiB (CL-27).
    pub fn text(&self) -> String {
        escape(&self.text, TEXT_KEPT)
    }

    /// The enhanced code with which the text begins, if the peer announced ENHANCEDSTATUSCODES.
    fn enhanced(&self, announced: bool) -> Option<EnhancedCode> {
        if !announced {
            return None;
        }
        let word = self.text.split(|byte| byte.is_ascii_whitespace()).next()?;
        EnhancedCode::parse(std::str::from_utf8(word).ok()?)
    }

    /// Whether the text begins with an enhanced code of class 5, where such codes were announced.
    pub fn has_permanent_enhanced_code(&self, announced: bool) -> bool {
        self.enhanced(announced).is_some_and(|code| code.class == 5)
    }

    /// The status that the reply stands for (CL-5): its enhanced code with the class of the reply code, because the
    /// three digits decide (RFC 2034 §4, RFC 5321 §4.2); else x.0.0.
    pub fn status(&self, announced: bool) -> EnhancedCode {
        let class = match self.code.0 / 100 {
            2 => 2,
            5 => 5,
            _ => 4,
        };
        match self.enhanced(announced) {
            Some(code) => EnhancedCode { class, ..code },
            None => EnhancedCode::new(class, 0, 0),
        }
    }
}

/// Code and escaped text, as an operator reads it.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        if text.is_empty() {
            self.code.fmt(f)
        } else {
            write!(f, "{} {text}", self.code)
        }
    }
}

/// What a peer sent is not a reply (CL-3, CL-4). The session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line that is no reply line, escaped.
    Malformed(String),
    /// One reply went over 64 KiB.
    TooLong,
    /// All replies of the session together went over 2 MiB.
    TooMuch,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplyError::Malformed(line) => write!(f, "malformed reply: {line}"),
            ReplyError::TooLong => f.write_str("reply longer than 64 KiB"),
            ReplyError::TooMuch => f.write_str("replies longer than 2 MiB"),
        }
    }
}

impl std::error::Error for ReplyError {}

/// Cuts what a peer sends into replies. The result does not depend on how the octets were split (CL-4).
#[derive(Debug, Default)]
pub struct ReplyReader {
    /// Octets from `start` on are not yet taken; between it and `scanned` there is no line end.
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    /// The reply whose lines are being read.
    open: Option<(ReplyCode, Vec<u8>)>,
    /// Octets of the open reply.
    reply: usize,
    /// Octets of the session.
    session: usize,
    failed: Option<ReplyError>,
}

impl ReplyReader {
    /// A reader at the beginning of a session.
    pub fn new() -> ReplyReader {
        ReplyReader::default()
    }

    /// Takes octets from the peer. They are judged by [`ReplyReader::next_reply`].
    pub fn push(&mut self, bytes: &[u8]) {
        self.session = self.session.saturating_add(bytes.len());
        if self.session > SESSION_MAX {
            self.failed.get_or_insert(ReplyError::TooMuch);
        }
        if self.failed.is_some() {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether nothing waits: neither an unread reply nor a part of one (CL-7).
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len() && self.open.is_none() && self.failed.is_none()
    }

    /// The next complete reply, if there is one.
    ///
    /// # Errors
    /// [`ReplyError`]; once and for all.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        // Replies that came before the fault are still good (TLS-9).
        let result = self.scan();
        match (result, &self.failed) {
            (Ok(Some(reply)), _) => Ok(Some(reply)),
            (Ok(None), Some(error)) => Err(error.clone()),
            (Ok(None), None) => Ok(None),
            (Err(error), _) => {
                self.buffer.clear();
                (self.start, self.scanned, self.open) = (0, 0, None);
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    fn scan(&mut self) -> Result<Option<Reply>, ReplyError> {
        loop {
            let rest = &self.buffer[self.scanned..];
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.buffer.len();
                if self.reply + (self.buffer.len() - self.start) > REPLY_MAX {
                    return Err(ReplyError::TooLong);
                }
                return Ok(None);
            };
            let end = self.scanned + at;
            self.reply += end + 1 - self.start;
            if self.reply > REPLY_MAX {
                return Err(ReplyError::TooLong);
            }
            // CL-3: LF alone also ends a line.
            let line = &self.buffer[self.start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let parsed = parse_line(line);
            let malformed = || ReplyError::Malformed(escape(line, 200));
            let (code, last, text) = parsed.ok_or_else(malformed)?;
            let complete = match &mut self.open {
                None => {
                    self.open = Some((code, text.to_vec()));
                    last
                }
                // RFC 5321 §4.2.1: the code is the same on each line.
                Some((first, _)) if *first != code => return Err(malformed()),
                Some((_, lines)) => {
                    lines.push(b'\n');
                    lines.extend_from_slice(text);
                    last
                }
            };
            self.start = end + 1;
            self.scanned = self.start;
            if complete {
                self.reply = 0;
                return Ok(self.open.take().map(|(code, text)| Reply { code, text }));
            }
        }
    }
}

/// Code, whether it is the last line, and text (RFC 5321 §4.2.1; a bare code is complete, §4.2).
fn parse_line(line: &[u8]) -> Option<(ReplyCode, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let code = digits.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'));
    let code = ReplyCode::new(code)?;
    match rest {
        [] => Some((code, true, rest)),
        [b' ', text @ ..] => Some((code, true, text)),
        [b'-', text @ ..] => Some((code, false, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(chunks: &[&[u8]]) -> Result<Vec<Reply>, ReplyError> {
        let mut reader = ReplyReader::new();
        let mut replies = Vec::new();
        for chunk in chunks {
            reader.push(chunk);
            while let Some(reply) = reader.next_reply()? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    fn one(bytes: &[u8]) -> Reply {
        let mut replies = read(&[bytes]).unwrap();
        assert_eq!(replies.len(), 1);
        replies.remove(0)
    }

    // CL-3
    #[test]
    fn a_reply_is_lines_of_one_code_ended_by_crlf_or_lf_with_or_without_text() {
        let reply = one(b"250-mx.test\r\n250-SIZE\n250\r\n");
        assert_eq!(reply.code().get(), 250);
        assert_eq!(reply.text(), "mx.test\nSIZE\n");
        assert_eq!(one(b"220\n").text(), "");
        assert_eq!(read(&[b"250 a\r\n250-b\r\n"]).unwrap().len(), 1);
    }

    // CL-3
    #[test]
    fn anything_else_is_malformed_and_stays_so() {
        for bad in [
            &b"199 x\r\n"[..],
            b"600 x\r\n",
            b"25 x\r\n",
            b"2500 x\r\n",
            b"250\tx\r\n",
            b"\r\n",
            b" 250 x\r\n",
            b"250-a\r\n251 b\r\n",
            b"250-a\r\nb\r\n",
            b"\xff\xff\xff x\r\n",
        ] {
            let mut reader = ReplyReader::new();
            reader.push(bad);
            assert!(reader.next_reply().is_err(), "{bad:?}");
            reader.push(b"250 ok\r\n");
            assert!(reader.next_reply().is_err(), "{bad:?} is forgotten");
        }
    }

    // CL-4
    #[test]
    fn a_reply_over_64_kib_and_a_session_over_2_mib_end() {
        let line = [&b"250-"[..], &[b'x'; 1000][..], b"\r\n"].concat();
        let lines: Vec<&[u8]> = (0..66).map(|_| &line[..]).collect();
        assert_eq!(read(&lines), Err(ReplyError::TooLong));
        assert_eq!(read(&[&vec![b'2'; 70_000]]), Err(ReplyError::TooLong));
        let reply = [&b"250 "[..], &[b'x'; 60_000][..], b"\r\n"].concat();
        let replies: Vec<&[u8]> = (0..36).map(|_| &reply[..]).collect();
        assert_eq!(read(&replies[..34]).map(|r| r.len()), Ok(34));
        assert_eq!(read(&replies), Err(ReplyError::TooMuch));
    }

    // CL-5
    #[test]
    fn the_three_digits_decide_the_class_of_the_enhanced_code() {
        let status = |text: &[u8], announced| one(text).status(announced).to_string();
        assert_eq!(status(b"550 5.1.1 no\r\n", true), "5.1.1");
        assert_eq!(status(b"550 5.1.1 no\r\n", false), "5.0.0");
        assert_eq!(status(b"450 5.7.1 no\r\n", true), "4.7.1");
        assert_eq!(status(b"550 2.1.5 no\r\n", true), "5.1.5");
        assert_eq!(status(b"550 3.1.1 no\r\n", true), "5.0.0");
        assert_eq!(status(b"550 5.1.1000 no\r\n", true), "5.0.0");
        assert_eq!(status(b"250\r\n", true), "2.0.0");
        assert_eq!(status(b"354 go\r\n", true), "4.0.0");
        assert_eq!(status(b"550-5.7.1 a\r\n550 b\r\n", true), "5.7.1");
    }

    // CL-27
    #[test]
    fn control_and_8_bit_bytes_are_escaped_and_long_text_is_cut() {
        assert_eq!(
            one(b"550 a\x1b[1m\xe9\0b\r\r\n").text(),
            "a\\x1b[1m\\xe9\\x00b\\x0d"
        );
        let long = escape(&vec![b'x'; 10_000], TEXT_KEPT);
        assert!(long.len() <= TEXT_KEPT && long.ends_with("..."));
        let long = escape(&vec![0xff; 10_000], TEXT_KEPT);
        assert!(long.len() <= TEXT_KEPT && long.ends_with("..."));
    }

    // CL-7
    #[test]
    fn the_reader_tells_whether_anything_waits_unread() {
        let mut reader = ReplyReader::new();
        assert!(reader.is_empty());
        reader.push(b"250-a\r\n");
        assert_eq!(reader.next_reply(), Ok(None));
        assert!(!reader.is_empty(), "an open reply");
        reader.push(b"250 b\r\n2");
        assert!(reader.next_reply().unwrap().is_some());
        assert!(!reader.is_empty(), "one octet of the next");
    }

    proptest! {
        // CL-4
        #[test]
        fn replies_do_not_depend_on_how_the_octets_are_split(
            lines in proptest::collection::vec(
                (prop_oneof![Just("250 "), Just("250-"), Just("550 "), Just("354"), Just("99")], "[ -~]{0,12}",
                 prop_oneof![Just("\r\n"), Just("\n"), Just("\r\r\n")]), 0..12),
            cuts in proptest::collection::vec(0usize..200, 0..20),
        ) {
            let bytes: Vec<u8> = lines.iter().flat_map(|(a, b, c)| format!("{a}{b}{c}").into_bytes()).collect();
            let whole = collect(&[&bytes]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.push(0);
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(&collect(&pieces), &whole);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            prop_assert_eq!(&collect(&single), &whole);
        }

        #[test]
        fn no_octets_at_all_make_the_reader_panic(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..40), 0..10)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let _ = read(&chunks);
        }
    }

    /// The replies up to the first fault, and that fault.
    fn collect(chunks: &[&[u8]]) -> (Vec<Reply>, Option<ReplyError>) {
        let mut reader = ReplyReader::new();
        let mut replies = Vec::new();
        for chunk in chunks {
            reader.push(chunk);
            loop {
                match reader.next_reply() {
                    Ok(Some(reply)) => replies.push(reply),
                    Ok(None) => break,
                    Err(error) => return (replies, Some(error)),
                }
            }
        }
        (replies, None)
    }

    #[test]
    fn enhanced_codes_of_another_class_or_shape_are_not_codes() {
        assert_eq!(
            EnhancedCode::parse("5.1.1"),
            Some(EnhancedCode::new(5, 1, 1))
        );
        for bad in [
            "3.1.1", "5.1", "5.1.1.1", "5.1.1000", "5..1", "+5.1.1", "5.-1.1", "55.1.1",
        ] {
            assert_eq!(EnhancedCode::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn reply_codes_outside_200_to_599_do_not_exist() {
        assert!(ReplyCode::new(199).is_none() && ReplyCode::new(600).is_none());
        assert!(ReplyCode::new(250).is_some_and(ReplyCode::is_positive));
    }
}
