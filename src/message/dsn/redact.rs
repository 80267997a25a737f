//! A notification of ours without the part that returns the original, for where REQUIRETLS cannot be met (DSN-15).

use memchr::memmem;

/// A composed notification without anything that stood in the original: the third part, and the header fields that
/// name its Message-ID. `None` if it is no notification of ours.
pub fn without_original(content: &[u8]) -> Option<Vec<u8>> {
    let body = memmem::find(content, b"\r\n\r\n")? + 2;
    let (header, body) = content.split_at(body);
    let at = memmem::find(header, b"boundary=\"")? + b"boundary=\"".len();
    let boundary = &header[at..];
    let boundary = &boundary[..boundary.iter().position(|b| *b == b'"')?];
    let delimiter = [b"\r\n--", boundary].concat();
    // DSN-9: it is in no part, so these are the delimiters: text, report, original, end.
    let places: Vec<usize> = memmem::find_iter(body, &delimiter).collect();
    let [_, _, third, end] = places[..] else {
        return None;
    };
    let mut out = Vec::with_capacity(content.len());
    let mut drops = false;
    for line in header.split_inclusive(|b| *b == b'\n') {
        let folded = matches!(line.first(), Some(b' ' | b'\t'));
        if !folded {
            drops = line.starts_with(b"In-Reply-To:") || line.starts_with(b"References:");
        }
        if !drops {
            out.extend_from_slice(line);
        }
    }
    out.extend_from_slice(&body[..third]);
    out.extend_from_slice(&body[end..]);
    Some(out)
}
