//! Responses of HTTP/1.1 servers (RFC 9112), as much of them as policies and reports need: bytes in, one response out.
//!
//! Read strictly: what can be understood in two ways is refused, because what is read here decides about security.

/// The largest status line and header section.
const LONGEST_HEAD: usize = 16 * 1024;

/// The largest line of a chunk's size, extensions included.
const LONGEST_CHUNK_LINE: usize = 1024;

/// Interim responses that are passed over.
const MOST_INTERIM: usize = 8;

/// Lines of a trailer that are passed over.
const MOST_TRAILER: usize = 100;

/// A whole response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Content-Type as it was sent, if it was.
    pub content_type: Option<String>,
    /// Content-Encoding, unless it is missing or `identity`.
    pub encoding: Option<String>,
    /// The content.
    pub body: Vec<u8>,
}

/// Reads a response piece by piece.
#[derive(Debug)]
pub struct Reader {
    buffer: Vec<u8>,
    state: State,
    response: Response,
    /// The largest content.
    limit: usize,
    /// Interim responses, or lines of the trailer, so far.
    passed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So much is missing.
    Length(usize),
    /// Until the end of the stream.
    ToEnd,
    ChunkSize,
    /// So much of the chunk is missing.
    Chunk(usize),
    /// The line end behind a chunk.
    ChunkEnd,
    Trailer,
    Done,
}

impl Reader {
    /// For content of at most `limit` octets.
    pub fn new(limit: usize) -> Reader {
        Reader {
            buffer: Vec::new(),
            state: State::Head,
            response: Response::default(),
            limit,
            passed: 0,
        }
    }

    /// Takes what was read; whether the response is complete. What follows it is not looked at.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<bool, &'static str> {
        self.buffer.extend_from_slice(bytes);
        while self.state != State::Done && self.step()? {}
        Ok(self.state == State::Done)
    }

    /// The response, once the stream has ended in order or [`Reader::feed`] said that it is complete.
    ///
    /// # Errors
    /// It ended too early.
    pub fn finish(self) -> Result<Response, &'static str> {
        match self.state {
            State::Done | State::ToEnd => Ok(self.response),
            _ => Err("the response ends too early"),
        }
    }

    /// One step; `false` when more bytes are wanted.
    fn step(&mut self) -> Result<bool, &'static str> {
        match self.state {
            State::Head => return self.head(),
            State::Length(missing) => {
                let missing = missing - self.take(missing)?;
                self.state = match missing {
                    0 => State::Done,
                    missing => State::Length(missing),
                };
                return Ok(missing == 0);
            }
            State::ToEnd => {
                self.take(usize::MAX)?;
                return Ok(false);
            }
            State::ChunkSize => {
                let Some(line) = self.line(LONGEST_CHUNK_LINE)? else {
                    return Ok(false);
                };
                // RFC 9112 §7.1.1: extensions are passed over.
                let size = line.split(|b| *b == b';').next().unwrap_or_default();
                let size = hexadecimal(size.trim_ascii_end()).ok_or("bad size of a chunk")?;
                if size > self.limit - self.response.body.len() {
                    return Err("the content is too long");
                }
                self.state = match size {
                    0 => State::Trailer,
                    size => State::Chunk(size),
                };
            }
            State::Chunk(missing) => {
                let missing = missing - self.take(missing)?;
                self.state = match missing {
                    0 => State::ChunkEnd,
                    missing => State::Chunk(missing),
                };
                return Ok(missing == 0);
            }
            State::ChunkEnd => match self.line(LONGEST_CHUNK_LINE)? {
                None => return Ok(false),
                Some(line) if line.is_empty() => self.state = State::ChunkSize,
                Some(_) => return Err("a chunk is longer than its size"),
            },
            // Whatever it says is of no interest.
            State::Trailer => match self.line(LONGEST_HEAD)? {
                None => return Ok(false),
                Some(line) if line.is_empty() => self.state = State::Done,
                Some(_) => {
                    self.passed += 1;
                    if self.passed > MOST_TRAILER {
                        return Err("the trailer is too long");
                    }
                }
            },
            State::Done => return Ok(false),
        }
        Ok(true)
    }

    /// Moves at most `most` octets of content out of the buffer; how many.
    fn take(&mut self, most: usize) -> Result<usize, &'static str> {
        let n = self.buffer.len().min(most);
        if n > self.limit - self.response.body.len() {
            return Err("the content is too long");
        }
        self.response.body.extend(self.buffer.drain(..n));
        Ok(n)
    }

    /// The next line without its end, once it is there.
    fn line(&mut self, longest: usize) -> Result<Option<Vec<u8>>, &'static str> {
        match self.buffer.iter().position(|b| *b == b'\n') {
            Some(end) if end <= longest => {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                Ok(Some(line))
            }
            None if self.buffer.len() <= longest => Ok(None),
            _ => Err("a line of the response is too long"),
        }
    }

    /// The head, once all of it is there; interim responses are passed over (RFC 9110 §15.2).
    fn head(&mut self) -> Result<bool, &'static str> {
        let Some(end) = end_of_head(&self.buffer) else {
            if self.buffer.len() > LONGEST_HEAD {
                return Err("the head of the response is too long");
            }
            return Ok(false);
        };
        if end > LONGEST_HEAD {
            return Err("the head of the response is too long");
        }
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = parse_head(&head)?;
        if head.status / 100 == 1 {
            self.passed += 1;
            if head.status == 101 || self.passed > MOST_INTERIM {
                return Err("interim responses without end");
            }
            return Ok(true);
        }
        self.passed = 0;
        self.response.status = head.status;
        self.response.content_type = head.content_type;
        self.response.encoding = head.encoding;
        // RFC 9112 §6.3
        self.state = match (head.status, head.chunked, head.length) {
            (204 | 304, ..) => State::Done,
            (_, true, _) => State::ChunkSize,
            (_, _, Some(0)) => State::Done,
            (_, _, Some(length)) if length > self.limit => return Err("the content is too long"),
            (_, _, Some(length)) => State::Length(length),
            (_, false, None) => State::ToEnd,
        };
        Ok(true)
    }
}

/// Where the header section ends, the empty line included.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut start = 0;
    while let Some(at) = bytes[start..].iter().position(|b| *b == b'\n') {
        let line = &bytes[start..start + at];
        start += at + 1;
        if line.is_empty() || line == b"\r" {
            return Some(start);
        }
    }
    None
}

#[derive(Default)]
struct Head {
    status: u16,
    content_type: Option<String>,
    encoding: Option<String>,
    chunked: bool,
    length: Option<usize>,
}

fn parse_head(bytes: &[u8]) -> Result<Head, &'static str> {
    let mut lines = bytes
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut head = Head {
        status: status(lines.next().unwrap_or_default()).ok_or("this is no HTTP response")?,
        ..Head::default()
    };
    for line in lines.filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = line.split_at(colon.ok_or("a header field has no colon")?);
        // RFC 9112 §5.1, §5.2: no blank before the colon, and no folding.
        if name.is_empty() || name.iter().any(u8::is_ascii_whitespace) {
            return Err("a header field has a bad name");
        }
        let value = String::from_utf8_lossy(value[1..].trim_ascii()).into_owned();
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            let length = value.parse().ok().filter(|_| digits);
            let length = length.ok_or("bad Content-Length")?;
            if head.length.is_some_and(|other| other != length) {
                return Err("two lengths of the content");
            }
            head.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if head.chunked || !value.eq_ignore_ascii_case("chunked") {
                return Err("a transfer coding that nobody asked for");
            }
            head.chunked = true;
        } else if name.eq_ignore_ascii_case(b"content-encoding") {
            if !value.eq_ignore_ascii_case("identity") {
                head.encoding = Some(value);
            }
        } else if name.eq_ignore_ascii_case(b"content-type") {
            head.content_type.get_or_insert(value);
        }
    }
    // RFC 9112 §6.3: this may be somebody's attempt to have it read in two ways.
    if head.chunked && head.length.is_some() {
        return Err("two lengths of the content");
    }
    Ok(head)
}

/// `HTTP/1.1 200 OK`
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (version, rest) = rest.split_first()?;
    let (blank, rest) = rest.split_first()?;
    let (code, rest) = rest.split_at_checked(3)?;
    let good = version.is_ascii_digit()
        && *blank == b' '
        && code.iter().all(u8::is_ascii_digit)
        && rest.first().is_none_or(|b| *b == b' ');
    let code: u16 = std::str::from_utf8(code).ok()?.parse().ok()?;
    (good && (100..600).contains(&code)).then_some(code)
}

fn hexadecimal(digits: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(digits).ok()?;
    let good = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    good.then(|| usize::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole of it at once, and byte by byte: the same.
    fn read(text: &str) -> Result<Response, &'static str> {
        let mut at_once = Reader::new(100);
        let whole = at_once.feed(text.as_bytes()).and_then(|_| at_once.finish());
        let mut reader = Reader::new(100);
        for byte in text.bytes() {
            match reader.feed(&[byte]) {
                Ok(false) => {}
                Ok(true) => break,
                Err(error) => {
                    assert!(whole.is_err(), "{text:?}");
                    return Err(error);
                }
            }
        }
        let bytewise = reader.finish();
        assert_eq!(bytewise, whole, "{text:?}");
        bytewise
    }

    #[test]
    fn content_ends_by_length_by_chunks_or_by_the_end() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 5\r\n\r\nhellorubbish",
            "HTTP/1.1 200\nContent-Type: text/plain; charset=utf-8\ncontent-length:5\n\nhello",
            "HTTP/1.0 200 fine\r\nCONTENT-TYPE: text/plain; charset=utf-8\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
             2;a=b\r\nhe\r\n003 \r\nllo\r\n0\r\nX: y\r\n\r\nrubbish",
            "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\r\nhello",
        ] {
            let response = read(text).unwrap();
            assert_eq!(
                (response.status, &response.body[..]),
                (200, &b"hello"[..]),
                "{text}"
            );
            let kind = response.content_type.as_deref();
            assert_eq!(kind, Some("text/plain; charset=utf-8"), "{text}");
            assert_eq!(response.encoding, None);
        }
    }

    #[test]
    fn other_codes_and_codings_are_told() {
        let moved = read("HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!((moved.status, moved.content_type), (301, None));
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n").unwrap().status, 204);
        let packed = read("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nx").unwrap();
        assert_eq!(packed.encoding.as_deref(), Some("gzip"));
    }

    #[test]
    fn what_is_short_long_or_of_two_meanings_is_refused() {
        let long = "x".repeat(101);
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffff\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\nhello",
            "HTTP/2 200 OK\r\n\r\nhello",
            "HTTP/1.1 2000 OK\r\n\r\nhello",
            "HTTP/1.1 099 OK\r\n\r\nhello",
            "HTTP/1.1 101 Switching\r\n\r\n",
            "220 mx.example ESMTP\r\n",
            &format!("HTTP/1.1 200 OK\r\n\r\n{long}"),
            &format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "y".repeat(LONGEST_HEAD)),
            &"HTTP/1.1 100 Continue\r\n\r\n".repeat(9),
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}
