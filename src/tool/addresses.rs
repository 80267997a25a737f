//! Addresses as people write them: on the command line, and in To, Cc and Bcc (SM-8, SM-9).

use super::{DATA, Exit, USAGE};
use crate::smtp::address::Mailbox;

/// Deepest nesting of comments.
const MAX_COMMENTS: usize = 100;

/// An address from the command line or a header, with our domain if it has none.
///
/// # Errors
/// It is no address, or begins with `-`, which others might take for an option: with `status`.
pub(super) fn mailbox(text: &str, hostname: &str, status: u8) -> Result<Mailbox, Exit> {
    let refuse = |why: &str| Err(Exit::new(status, format!("{text:?}: {why}")));
    if text.starts_with('-') {
        return refuse("an address must not begin with a hyphen");
    }
    let full = match has_domain(text) {
        true => text.to_owned(),
        false => format!("{text}@{hostname}"),
    };
    match Mailbox::parse(&full, true) {
        Ok(mailbox) => Ok(mailbox),
        Err(error) => refuse(&error.to_string()),
    }
}

/// An argument: one address or a list of them, as in a header.
///
/// # Errors
/// As [`mailbox`], exit 64.
pub(super) fn argument(text: &str, hostname: &str) -> Result<Vec<Mailbox>, Exit> {
    if text.starts_with('-') {
        return Err(mailbox(text, hostname, USAGE).map_or_else(|exit| exit, |_| Exit::usage(text)));
    }
    let found = list(text).map_err(|why| Exit::usage(format!("{text:?}: {why}")))?;
    if found.is_empty() {
        return Err(Exit::usage(format!("{text:?}: no address")));
    }
    found
        .iter()
        .map(|address| mailbox(address, hostname, USAGE))
        .collect()
}

/// The body of a To, Cc or Bcc field, unfolded.
///
/// # Errors
/// As [`mailbox`], exit 65.
pub(super) fn field(text: &str, hostname: &str) -> Result<Vec<Mailbox>, Exit> {
    let found = list(text).map_err(|why| Exit::new(DATA, format!("header: {why}: {text:?}")))?;
    found
        .iter()
        .map(|address| mailbox(address, hostname, DATA))
        .collect()
}

fn has_domain(text: &str) -> bool {
    match text.rfind('@') {
        // `"joe@home"` is a local part alone.
        Some(at) => !(text.ends_with('"') && text[..at].contains('"')),
        None => false,
    }
}

/// Where the reader is inside one mailbox.
#[derive(Default)]
struct Mail {
    /// What stands outside angle brackets: an address, or a display name.
    plain: String,
    /// A blank came after `plain`, so what follows begins a new word.
    gap: bool,
    /// `plain` is more than one word and so no address.
    words: bool,
    /// What stands inside.
    angle: Option<String>,
}

impl Mail {
    /// Adds a character of an address or a name outside quotes and brackets.
    fn add(&mut self, c: char) {
        // Blanks are allowed around dots and the at (RFC 5322 §4.4); between words they make a display name.
        let joint = |c: char| c == '.' || c == '@';
        if self.gap && !joint(c) && !self.plain.ends_with(joint) && !self.plain.is_empty() {
            self.words = true;
        }
        self.gap = false;
        self.plain.push(c);
    }

    fn finish(&mut self, out: &mut Vec<String>) -> Result<(), &'static str> {
        let mail = std::mem::take(self);
        match mail.angle {
            Some(angle) => {
                // RFC 5321 §4.1.1.3: source routes are ignored.
                let address = match angle.strip_prefix('@').and_then(|a| a.split_once(':')) {
                    Some((_, address)) => address,
                    None => &angle,
                };
                match address {
                    "" => return Err("empty angle brackets"),
                    address => out.push(address.to_owned()),
                }
            }
            None if mail.plain.is_empty() => {}
            None if mail.words => return Err("a name without an address"),
            None => out.push(mail.plain),
        }
        Ok(())
    }
}

/// The addresses of an address list (RFC 5322 §3.4): groups, comments, display names and quoted strings understood.
fn list(text: &str) -> Result<Vec<String>, &'static str> {
    let (mut out, mut mail) = (Vec::new(), Mail::default());
    let mut comments = 0;
    let mut in_angle = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if comments > 0 {
            match c {
                '\\' => {
                    chars.next();
                }
                '(' => comments += 1,
                ')' => comments -= 1,
                _ => {}
            }
            if comments > MAX_COMMENTS {
                return Err("comments nested too deeply");
            }
            continue;
        }
        match c {
            '(' => comments = 1,
            ')' => return Err("a closing parenthesis alone"),
            '"' => {
                let quoted = quoted(&mut chars)?;
                match (&mut mail.angle, in_angle) {
                    (Some(angle), true) => angle.push_str(&quoted),
                    _ => {
                        mail.add('"');
                        mail.plain.push_str(&quoted[1..]);
                    }
                }
            }
            '[' => {
                let literal = literal(&mut chars)?;
                match (&mut mail.angle, in_angle) {
                    (Some(angle), true) => angle.push_str(&literal),
                    _ => {
                        mail.add('[');
                        mail.plain.push_str(&literal[1..]);
                    }
                }
            }
            '<' if mail.angle.is_some() => return Err("two addresses without a comma"),
            '<' => {
                mail.angle = Some(String::new());
                in_angle = true;
            }
            '>' if in_angle => in_angle = false,
            '>' => return Err("a closing angle bracket alone"),
            ' ' | '\t' | '\r' | '\n' => mail.gap = true,
            c if in_angle => {
                if let Some(angle) = &mut mail.angle {
                    angle.push(c);
                }
            }
            ',' | ';' => mail.finish(&mut out)?,
            // The name of a group.
            ':' => mail = Mail::default(),
            _ if mail.angle.is_some() => return Err("text after an address"),
            c => mail.add(c),
        }
    }
    if comments > 0 || in_angle {
        return Err("a comment or an angle bracket is not closed");
    }
    mail.finish(&mut out)?;
    Ok(out)
}

/// Up to the closing quote, with both quotes.
fn quoted(chars: &mut std::str::Chars<'_>) -> Result<String, &'static str> {
    let mut out = String::from("\"");
    while let Some(c) = chars.next() {
        out.push(c);
        match c {
            '"' => return Ok(out),
            '\\' => out.extend(chars.next()),
            _ => {}
        }
    }
    Err("a quote is not closed")
}

/// Up to the closing bracket, with both brackets.
fn literal(chars: &mut std::str::Chars<'_>) -> Result<String, &'static str> {
    let mut out = String::from("[");
    for c in chars {
        out.push(c);
        if c == ']' {
            return Ok(out);
        }
    }
    Err("a bracket is not closed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(text: &str) -> Vec<String> {
        let found = field(text, "here.example").unwrap();
        found.iter().map(|mailbox| mailbox.to_string()).collect()
    }

    // SM-8
    #[test]
    fn names_comments_groups_and_quotes_are_understood() {
        assert_eq!(of("bob@example.org"), ["bob@example.org"]);
        assert_eq!(
            of("Bob Smith <bob@example.org>, \"Doe, Jane\" <jane@Example.ORG> (at work, (really))"),
            ["bob@example.org", "jane@example.org"]
        );
        assert_eq!(
            of("friends: ann@a.example, Bob <bob@b.example>;, carl@c.example"),
            ["ann@a.example", "bob@b.example", "carl@c.example"]
        );
        assert_eq!(of("undisclosed recipients:;"), [""; 0]);
        assert_eq!(of("(nobody)"), [""; 0]);
        assert_eq!(of("\"a, b\"@example.org"), ["\"a, b\"@example.org"]);
        assert_eq!(of("<@relay.example:bob@example.org>"), ["bob@example.org"]);
        assert_eq!(of("bob @ example . org"), ["bob@example.org"]);
        assert_eq!(of("joe@[192.0.2.1]"), ["joe@[192.0.2.1]"]);
        assert_eq!(
            of("a@x.example,\r\n\tb@x.example"),
            ["a@x.example", "b@x.example"]
        );
    }

    // SM-9
    #[test]
    fn an_address_without_domain_gets_ours() {
        assert_eq!(
            of("root, Joe <joe>"),
            ["root@here.example", "joe@here.example"]
        );
        assert_eq!(of("\"a@b\""), ["\"a@b\"@here.example"]);
    }

    // SM-9
    #[test]
    fn an_address_that_looks_like_an_option_is_refused() {
        for bad in ["-bob@example.org", "-", "-x"] {
            assert_eq!(
                argument(bad, "here.example").unwrap_err().status,
                64,
                "{bad}"
            );
        }
        assert_eq!(
            field("<-bob@example.org>", "here.example")
                .unwrap_err()
                .status,
            65
        );
    }

    // SM-8
    #[test]
    fn what_is_no_address_is_refused_and_not_guessed() {
        for bad in [
            "Bob Smith",
            "<>",
            "Bob <>",
            "<bob@example.org",
            "bob@example.org>",
            "<a@x.example><b@x.example>",
            "<a@x.example> b",
            "\"open",
            "(open",
            "a@b@c.example",
            "a..b@x.example",
            "[open",
        ] {
            assert_eq!(field(bad, "here.example").unwrap_err().status, 65, "{bad}");
        }
        assert_eq!(argument("", "here.example").unwrap_err().status, 64);
        let deep = "(".repeat(100_000);
        assert!(list(&deep).is_err());
    }

    proptest! {
        // SEC-6
        #[test]
        fn any_text_is_a_list_or_an_error(text in any::<String>(), odd in "[a@.<>(),;:\"\\[\\] ]{0,40}") {
            let _ = (list(&text), list(&odd));
        }
    }
}
