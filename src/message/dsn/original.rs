//! What a notification returns of the original message.

/// The original, or its header; CRLF line ends, already cut to size.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// The octets returned.
    pub octets: &'a [u8],
    /// The whole message, and not its header alone.
    pub whole: bool,
    /// `dsn.return_max`: what it may take in the notification, encoded.
    pub limit: usize,
}

/// How octets may stand in a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// RFC 2045 §2.7
    SevenBit,
    /// RFC 2045 §2.8
    EightBit,
    /// A line that is too long, a lone CR or LF, or a NUL.
    Neither,
}

/// What these octets need.
pub(super) fn encoding(octets: &[u8]) -> Encoding {
    let whole_lines = octets.is_empty() || octets.ends_with(b"\r\n");
    let odd = |line: &[u8]| {
        line.len() > 999
            || line.iter().filter(|&&b| b == b'\r').count() != 1
            || !line.ends_with(b"\r")
    };
    let mut lines = octets.split(|&b| b == b'\n');
    lines.next_back();
    if !whole_lines || octets.contains(&0) || lines.any(odd) {
        Encoding::Neither
    } else if octets.is_ascii() {
        Encoding::SevenBit
    } else {
        Encoding::EightBit
    }
}

/// How many octets take no more than `limit` in [`base64_lines`].
pub(super) fn before_base64(limit: usize) -> usize {
    limit / 78 * 57
}

impl<'a> Original<'a> {
    /// The header of `message` up to its blank line, at most `limit` octets, cut at a line end.
    pub fn header_of(message: &'a [u8], limit: usize) -> Original<'a> {
        let mut end = 0;
        while end < message.len() {
            let rest = &message[end..];
            let line = rest
                .iter()
                .position(|&b| b == b'\n')
                .map_or(rest.len(), |at| at + 1);
            let blank = matches!(&rest[..line], b"\r\n" | b"\n");
            if blank || end + line > limit {
                break;
            }
            end += line;
        }
        Original {
            octets: &message[..end],
            whole: false,
            limit,
        }
    }

    /// The whole message if it fits into `limit` octets, else its header (DSN-5).
    pub fn whole_or_header(message: &'a [u8], limit: usize) -> Original<'a> {
        if message.len() <= limit {
            Original {
                octets: message,
                whole: true,
                limit,
            }
        } else {
            Original::header_of(message, limit)
        }
    }
}

/// RFC 2045 §6.8 base64, in lines of 76.
pub(crate) fn base64_lines(octets: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = Vec::with_capacity(octets.len() / 57 * 78 + 80);
    for line in octets.chunks(57) {
        for group in line.chunks(3) {
            let bits = group
                .iter()
                .fold(0_u32, |bits, &b| bits << 8 | u32::from(b))
                << (8 * (3 - group.len()));
            for index in 0..4 {
                let sextet = (bits >> (18 - 6 * index) & 63) as usize;
                out.push(if index <= group.len() {
                    ALPHABET[sextet]
                } else {
                    b'='
                });
            }
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_header_is_returned_and_only_whole_lines_of_it() {
        let message = b"A: 1\r\nB: 2\r\n\r\nbody\r\n";
        assert_eq!(
            Original::header_of(message, 1000).octets,
            b"A: 1\r\nB: 2\r\n"
        );
        assert_eq!(Original::header_of(message, 7).octets, b"A: 1\r\n");
        assert!(Original::header_of(b"", 7).octets.is_empty());
        assert!(Original::whole_or_header(message, 1000).whole);
        assert!(!Original::whole_or_header(message, 10).whole);
    }

    #[test]
    fn base64_agrees_with_rfc_4648_examples() {
        for (plain, coded) in [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(
                base64_lines(plain.as_bytes()),
                format!("{coded}\r\n").as_bytes()
            );
        }
    }
}
