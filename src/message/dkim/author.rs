//! Whose mail it is: the domains in From.
//!
//! Read generously. A From that other readers take for one of ours must not leave unsigned (MSG-8), so whatever could be
//! the domain of an address counts, several of them too; a signature too many harms nobody.

use crate::smtp::address::Domain;

/// Domains that are looked at, over all From fields.
const MOST: usize = 16;

/// Deepest nesting of comments.
const MAX_COMMENTS: u32 = 100;

/// Adds the domains of the addresses in the value of a From field.
pub(super) fn domains(value: &[u8], out: &mut Vec<Domain>) {
    let text = String::from_utf8_lossy(value);
    let mut chars = text.chars().peekable();
    let (mut comments, mut quoted) = (0_u32, false);
    // What stands behind an `@`, while it is being read.
    let mut name: Option<String> = None;
    loop {
        let c = chars.next();
        match c {
            Some('\\') if quoted || comments > 0 => {
                chars.next();
                continue;
            }
            Some('"') if comments == 0 => quoted = !quoted,
            Some(_) if quoted => continue,
            Some('(') if comments < MAX_COMMENTS => {
                comments += 1;
                continue;
            }
            Some(')') if comments > 0 => {
                comments -= 1;
                continue;
            }
            Some(_) if comments > 0 => continue,
            _ => {}
        }
        match (&mut name, c) {
            // RFC 5322 §4.4: blanks around the at and the dots.
            (Some(name), Some(' ' | '\t' | '\r' | '\n'))
                if name.is_empty()
                    || name.ends_with('.')
                    || next_word(&chars).is_some_and(|c| c == '.') => {}
            (Some(name), Some(c)) if is_of_name(c) => name.push(c),
            (_, c) => {
                let ended = name.take();
                if let Some(domain) = ended.and_then(|name| Domain::parse(&name).ok())
                    && out.len() < MOST
                    && !out.contains(&domain)
                {
                    out.push(domain);
                }
                match c {
                    Some('@') => name = Some(String::new()),
                    Some(_) => {}
                    None => return,
                }
            }
        }
    }
}

/// The next character that is no blank.
fn next_word(chars: &std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    // A header of nothing but blanks is looked through once per blank; a few are all that anybody writes.
    chars.clone().take(80).find(|c| !c.is_ascii_whitespace())
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || !c.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(value: &str) -> Vec<String> {
        let mut out = Vec::new();
        domains(value.as_bytes(), &mut out);
        out.iter().map(ToString::to_string).collect()
    }

    // MSG-7, MSG-8
    #[test]
    fn the_author_is_found_however_the_address_is_written() {
        for (value, wanted) in [
            (" joe@Here.Example\r\n", "here.example"),
            (" Joe <joe@here.example>", "here.example"),
            (" \"x@no.example\" <joe@here.example>", "here.example"),
            (
                " Joe (x@no.example (y@no.example)) <joe@here.example>",
                "here.example",
            ),
            (" \"a\\\"@no.example\"@here.example", "here.example"),
            (" joe @ here . example (home)", "here.example"),
            (" joe@\r\n here.example", "here.example"),
            (
                " <@relay.example:joe@here.example>",
                "relay.example here.example",
            ),
            (
                " A <a@one.example>, b@two.example;",
                "one.example two.example",
            ),
            (" friends: a@one.example, b@one.example;", "one.example"),
            (" joe@m\u{fc}ller.example", "xn--mller-kva.example"),
            (" joe@here.example.", "here.example"),
            (" joe@[192.0.2.1]", ""),
            (" nobody", ""),
            (" (unclosed joe@no.example", ""),
            ("", ""),
        ] {
            assert_eq!(found(value).join(" "), wanted, "{value:?}");
        }
    }

    // SEC-6
    #[test]
    fn there_is_an_end_to_authors_and_to_comments() {
        let many: String = (0..1000).map(|n| format!("a@d{n}.example, ")).collect();
        assert_eq!(found(&many).len(), MOST);
        assert!(found(&"(".repeat(100_000)).is_empty());
        assert!(found(&format!("a@{}", " ".repeat(100_000))).is_empty());
    }
}
