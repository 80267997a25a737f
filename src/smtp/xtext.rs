//! xtext (RFC 3461 §4) and the address forms of ORCPT (RFC 6533 §3).

/// Decodes xtext. `None` for a byte that xtext does not have, a bad escape, or a result that is not UTF-8 or holds
/// control characters: what was hidden in an escape is judged like what stood there openly (IN-16).
pub fn decode(text: &str) -> Option<String> {
    unescape(text, false)
}

/// Encodes a text as xtext.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b'!'..=b'~') && byte != b'+' && byte != b'=' {
            out.push(char::from(byte));
        } else {
            out.push('+');
            for nibble in [byte >> 4, byte & 15] {
                out.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
            }
        }
    }
    out
}

/// Decodes the value of ORCPT, `type;address`, to the same form without escapes. `utf8` permits characters outside
/// ASCII to stand in it as they are (RFC 6533 §3, utf-8-addr-unitext).
pub fn decode_orcpt(text: &str, utf8: bool) -> Option<String> {
    if !utf8 && !text.is_ascii() {
        return None;
    }
    let (kind, address) = text.split_once(';')?;
    let kind_ok = !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !kind_ok || address.is_empty() {
        return None;
    }
    let address = unescape(address, kind.eq_ignore_ascii_case("utf-8"))?;
    Some(format!("{kind};{address}"))
}

/// `unicode` also takes `\x{HEX}` and characters outside ASCII.
fn unescape(text: &str, unicode: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '+' => {
                let digits = rest.get(..2)?;
                // RFC 3461 §4: hexadecimal digits are upper case; lower case is common and not ambiguous.
                if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return None;
                }
                out.push(u8::from_str_radix(digits, 16).ok()?);
                rest = &rest[2..];
            }
            '\\' if unicode => {
                let (digits, after) = rest.strip_prefix("x{")?.split_once('}')?;
                if !(1..=6).contains(&digits.len())
                    || !digits.bytes().all(|b| b.is_ascii_hexdigit())
                {
                    return None;
                }
                let c = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = after;
            }
            '=' => return None,
            '!'..='~' => out.push(c as u8),
            c if unicode && !c.is_ascii() => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        }
    }
    let text = String::from_utf8(out).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // IN-16
    #[test]
    fn escapes_are_undone_and_bad_ones_refused() {
        assert_eq!(decode("a+2Bb+3Dc+20d"), Some("a+b=c d".to_owned()));
        assert_eq!(decode("+c3+a4"), Some("\u{e4}".to_owned()));
        for bad in [
            "a b", "a=b", "+", "+2", "+2G", "++2B", "+0A", "+0D+0A", "+00", "+7F", "+C2+85", "+FF",
            "\u{e4}", "+ 1", "+-1",
        ] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    // IN-16
    #[test]
    fn the_original_recipient_keeps_its_type() {
        let ok = |text, utf8| decode_orcpt(text, utf8);
        assert_eq!(
            ok("rfc822;bob+2Bx@a.example", false).as_deref(),
            Some("rfc822;bob+x@a.example")
        );
        assert_eq!(
            ok(r"utf-8;\x{E4}@a.example", false).as_deref(),
            Some("utf-8;\u{e4}@a.example")
        );
        assert_eq!(
            ok("utf-8;\u{e4}@a.example", true).as_deref(),
            Some("utf-8;\u{e4}@a.example")
        );
        for bad in [
            "rfc822",
            ";a@b",
            "rfc822;",
            "rf c;a",
            "rfc822;\u{e4}",
            "utf-8;\\x{D800}",
            "utf-8;\\x{}",
            "utf-8;\\x{A}",
            "utf-8;\\x{1234567}",
            "utf-8;\\n",
            "rfc822;a+0Ab",
        ] {
            assert_eq!(ok(bad, true), None, "{bad}");
        }
        assert_eq!(ok("utf-8;\u{e4}@a.example", false), None);
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in "\\PC{0,40}") {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|b| matches!(b, b'!'..=b'~')));
            prop_assert_eq!(decode(&encoded), Some(text));
        }
    }
}
