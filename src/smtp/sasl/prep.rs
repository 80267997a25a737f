//! SASLprep (RFC 4013): the same name or password, however it was typed, is the same octets.
//!
//! What the profile forbids, control characters for one, is left as it is: a server that obeys it has no such password.

use icu_normalizer::ComposingNormalizerBorrowed;

/// Mapped and normalized.
pub(super) fn prepared(text: &str) -> String {
    if text.is_ascii() {
        return text.to_string();
    }
    let mapped: String = text
        .chars()
        .filter(|c| !is_nothing(*c))
        .map(|c| if is_space(c) { ' ' } else { c })
        .collect();
    ComposingNormalizerBorrowed::new_nfkc()
        .normalize(&mapped)
        .into_owned()
}

/// RFC 3454 B.1
fn is_nothing(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{1806}'
            | '\u{180b}'..='\u{180d}'
            | '\u{200b}'..='\u{200d}'
            | '\u{2060}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
    )
}

/// RFC 3454 C.1.2, but for U+200B, which B.1 takes away.
fn is_space(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{202f}' | '\u{205f}' | '\u{3000}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    // RO-7: RFC 4013 §3
    #[test]
    fn the_examples_of_the_rfc_come_out_as_it_says() {
        for (typed, meant) in [
            ("I\u{ad}X", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("a\u{a0}b\u{3000}c", "a b c"),
            ("u\u{308}", "\u{fc}"),
        ] {
            assert_eq!(prepared(typed), meant);
        }
    }
}
