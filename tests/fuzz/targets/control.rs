//! Lines of the control socket.

use posthaste::front::control::line::{self, MAX_LINE};

use super::{Target, magnitude, shape};
use crate::mutate::fnv;

/// A request line (CTL-1).
pub const LINE: Target = Target {
    name: "control",
    words: &[
        b"json ",
        b"list ",
        b"kick ",
        b"id=42/1,43",
        b"domain=",
        b"text=\"",
        b"\"",
        b"\\\"",
        b"\\n",
        b"\\x41",
        b" all",
        b"=",
        b"\t",
        b"dry-run",
    ],
    run: request,
};

/// SEC-3: what was read, written out by the quoting of the output side, reads as the same request again.
fn request(input: &[u8]) -> u64 {
    match line::parse(input) {
        Ok(None) => 1,
        Ok(Some(request)) => {
            assert!(input.len() <= MAX_LINE && !request.verb.is_empty());
            let mut again = String::from(if request.json { "json " } else { "" });
            again.push_str(&request.verb);
            for word in &request.words {
                again.push(' ');
                again.push_str(&word.name);
                if let Some(value) = &word.value {
                    again.push('=');
                    line::quote(value.as_bytes(), &mut again);
                }
            }
            assert!(again.bytes().all(|b| matches!(b, b' '..=b'~')), "{again}");
            // Escaping makes it longer, so the longest legal line may not come back.
            if again.len() <= MAX_LINE {
                assert_eq!(line::parse(again.as_bytes()), Ok(Some(request.clone())));
            }
            let valued = request.words.iter().filter(|w| w.value.is_some()).count();
            shape(&[
                2,
                u64::from(request.json),
                magnitude(request.words.len()),
                magnitude(valued),
            ])
        }
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.len() <= 400 && !text.contains(['\n', '\r']),
                "{text:?}"
            );
            // The beginning, because the rest repeats the input.
            fnv(&text.as_bytes()[..text.len().min(8)])
        }
    }
}
