//! Mail addresses as they travel in the envelope: domains, forward-paths and reverse-paths.
//!
//! Typed once at the edge; inside, the type is the proof that the text is canonical and safe to write into a command.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// RFC 5321 §4.5.3.1.1: octets of a local part, quotes included.
const MAX_LOCAL: usize = 64;
/// RFC 5321 §4.5.3.1.2: octets of a domain as it is written.
const MAX_DOMAIN: usize = 255;
/// RFC 5321 §4.5.3.1.3: octets of a path, 256 with its two brackets.
const MAX_MAILBOX: usize = 254;
/// RFC 1035 §3.1: octets of a name without its trailing dot, and of a label.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A domain name as lower-case A-labels, at most 253 octets, each label 1 to 63 (DNS-7). Underscores are allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String);

/// Why a text is not an address or not a domain. The text of the error is fit for an SMTP reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressError {
    /// The syntax is wrong; the text says what and where.
    Syntax(&'static str),
    /// The domain cannot be converted or is too long (501 5.1.2 at intake, permanent 5.1.2 in delivery).
    Domain(&'static str),
    /// A local part alone (501 5.1.8 as a sender; `<postmaster>` as a recipient is IN-23).
    NoDomain,
    /// Non-ASCII without SMTPUTF8 (553 5.6.7).
    NeedsUtf8,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::Syntax(what) | AddressError::Domain(what) => f.write_str(what),
            AddressError::NoDomain => f.write_str("the address has no domain"),
            AddressError::NeedsUtf8 => f.write_str("non-ASCII address without SMTPUTF8"),
        }
    }
}

impl std::error::Error for AddressError {}

impl Domain {
    /// Reads a domain of ASCII or U-labels; converts by UTS-46 non-transitional to lower-case A-labels (DNS-7).
    ///
    /// One trailing dot is dropped. A name that looks like an IPv4 address is none: RFC 1123 §2.1 says that no host
    /// can have it, and taking it would hide a forgotten pair of brackets.
    ///
    /// # Errors
    /// [`AddressError::Syntax`] for what is no name at all, [`AddressError::Domain`] when the conversion fails or a
    /// length limit is passed.
    pub fn parse(text: &str) -> Result<Domain, AddressError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let plain = text.is_ascii() && !text.split('.').any(has_ace_prefix);
        let name = if plain {
            text.to_ascii_lowercase()
        } else {
            // The characters are judged below, for both ways alike; underscores rule out the STD3 list.
            Uts46::new()
                .to_ascii(
                    text.as_bytes(),
                    AsciiDenyList::EMPTY,
                    Hyphens::CheckFirstLast,
                    DnsLength::Ignore,
                )
                .map_err(|_| AddressError::Domain("the domain is not a valid IDN"))?
                .into_owned()
        };
        let mut labels = 0;
        let mut numeric = 0;
        for label in name.split('.') {
            check_label(label)?;
            labels += 1;
            numeric += usize::from(label.bytes().all(|b| b.is_ascii_digit()));
        }
        if name.len() > MAX_NAME {
            return Err(AddressError::Domain("the domain is too long"));
        }
        if labels == 4 && numeric == 4 {
            return Err(AddressError::Syntax(
                "an address literal needs square brackets",
            ));
        }
        Ok(Domain(name))
    }

    /// The name, without trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn has_ace_prefix(label: &str) -> bool {
    label
        .get(..4)
        .is_some_and(|prefix| prefix.eq_ignore_ascii_case("xn--"))
}

/// IN-17: letters, digits, underscores and inner hyphens, 1 to 63 of them.
fn check_label(label: &str) -> Result<(), AddressError> {
    if label.is_empty() {
        return Err(AddressError::Syntax("the domain has an empty label"));
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if !label.bytes().all(allowed) {
        return Err(AddressError::Syntax(
            "the domain has a character that no domain has",
        ));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(AddressError::Syntax(
            "the domain has a label that begins or ends with a hyphen",
        ));
    }
    if label.len() > MAX_LABEL {
        return Err(AddressError::Domain(
            "the domain has a label over 63 octets",
        ));
    }
    Ok(())
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What stands right of the `@`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressDomain {
    /// A domain name.
    Name(Domain),
    /// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]`.
    Literal(IpAddr),
}

impl AddressDomain {
    /// Reads what stands right of the `@`: a domain, or an address literal in canonical spelling (RFC 5321 §4.1.3).
    ///
    /// # Errors
    /// As [`Domain::parse`].
    pub fn parse(text: &str) -> Result<AddressDomain, AddressError> {
        let Some(literal) = text.strip_prefix('[') else {
            if text.len() > MAX_DOMAIN {
                return Err(AddressError::Syntax("the domain is over 255 octets"));
            }
            // Fit for DNS, but no domain of RFC 5321 §4.1.2.
            if text.ends_with('.') {
                return Err(AddressError::Syntax("the domain ends in a dot"));
            }
            return Domain::parse(text).map(AddressDomain::Name);
        };
        let ip = literal.strip_suffix(']').and_then(parse_literal);
        ip.map(AddressDomain::Literal)
            .ok_or(AddressError::Syntax("malformed address literal"))
    }
}

/// The inside of the brackets. Only the canonical spelling, so that equal addresses are equal texts (DV-11).
fn parse_literal(text: &str) -> Option<IpAddr> {
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            let digits = &text[5..];
            let ip: Ipv6Addr = digits.parse().ok()?;
            let canonical = ip.to_string().eq_ignore_ascii_case(digits);
            canonical.then_some(IpAddr::V6(ip))
        }
        // std takes no leading zeros and no missing parts here.
        _ => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

impl fmt::Display for AddressDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressDomain::Name(domain) => domain.fmt(f),
            AddressDomain::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            AddressDomain::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

/// A mailbox, `local-part@domain`, in canonical form: the local part quoted only where it must be.
///
/// Equality compares the domain without case and the local part exactly (Q-19).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox {
    local: String,
    domain: AddressDomain,
}

impl Mailbox {
    /// Reads a mailbox without angle brackets (IN-17). `utf8` permits non-ASCII local parts and U-labels (RFC 6531).
    ///
    /// # Errors
    /// [`AddressError`]; the message that carries it is refused at intake.
    pub fn parse(text: &str, utf8: bool) -> Result<Mailbox, AddressError> {
        if !utf8 && !text.is_ascii() {
            return Err(AddressError::NeedsUtf8);
        }
        let (local, rest) = if text.starts_with('"') {
            split_quoted(text)?
        } else {
            let at = text.find('@').unwrap_or(text.len());
            let (local, rest) = text.split_at(at);
            if !is_dot_string(local) {
                return Err(AddressError::Syntax("malformed local part"));
            }
            (local.to_owned(), rest)
        };
        if text.len() - rest.len() > MAX_LOCAL {
            return Err(AddressError::Syntax("the local part is over 64 octets"));
        }
        if rest.is_empty() {
            return Err(AddressError::NoDomain);
        }
        let domain = rest
            .strip_prefix('@')
            .ok_or(AddressError::Syntax("text after the quoted local part"))?;
        let mailbox = Mailbox {
            local,
            domain: AddressDomain::parse(domain)?,
        };
        // A-labels can be longer than what was written, and it is they that go out.
        if text.len().max(mailbox.to_string().len()) > MAX_MAILBOX {
            return Err(AddressError::Syntax("the address is over 254 octets"));
        }
        Ok(mailbox)
    }

    /// The local part in canonical form, with its quotes if it needs them.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The part right of the `@`.
    pub fn domain(&self) -> &AddressDomain {
        &self.domain
    }

    /// Whether sending it needs SMTPUTF8: a non-ASCII local part (domains are A-labels always).
    pub fn needs_utf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// RFC 5321 §4.1.2 Dot-string, widened by RFC 6531 §3.3 to non-ASCII characters.
fn is_dot_string(text: &str) -> bool {
    let atext =
        |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_utf8_text(c);
    text.split('.')
        .all(|atom| !atom.is_empty() && atom.chars().all(atext))
}

/// C1 control characters are as unwelcome as C0 ones.
fn is_utf8_text(c: char) -> bool {
    !c.is_ascii() && !c.is_control()
}

/// Takes the quoted string that `text` begins with; answers its canonical form and what follows it.
///
/// RFC 5321 §4.1.2: the quotes and escapes are not part of the name, so `"a"@x` and `a@x` are one mailbox, and the
/// form to send is the one with the least quoting.
fn split_quoted(text: &str) -> Result<(String, &str), AddressError> {
    let mut name = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        let c = match c {
            '"' => {
                let rest = &text[at + 1..];
                if is_dot_string(&name) {
                    return Ok((name, rest));
                }
                let mut quoted = String::with_capacity(name.len() + 2);
                quoted.push('"');
                for c in name.chars() {
                    if matches!(c, '"' | '\\') {
                        quoted.push('\\');
                    }
                    quoted.push(c);
                }
                quoted.push('"');
                return Ok((quoted, rest));
            }
            // Only ASCII can be escaped (RFC 5321 quoted-pairSMTP).
            '\\' => chars.next().map(|(_, c)| c).filter(char::is_ascii),
            _ => Some(c),
        };
        match c {
            Some(c) if matches!(c, ' '..='~') || is_utf8_text(c) => name.push(c),
            _ => return Err(AddressError::Syntax("malformed quoted local part")),
        }
    }
    Err(AddressError::Syntax("a quote is not closed"))
}

/// Drops the source route of a path, `@a,@b:` (RFC 5321 §4.1.1.3: it should be ignored; IN-17).
///
/// # Errors
/// [`AddressError::Syntax`] when what looks like a route is none.
pub fn strip_source_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let malformed = AddressError::Syntax("malformed source route");
    let (route, rest) = path.split_once(':').ok_or(malformed.clone())?;
    let hop = |hop: &str| {
        hop.strip_prefix('@')
            .is_some_and(|name| Domain::parse(name).is_ok())
    };
    if route.split(',').all(hop) {
        Ok(rest)
    } else {
        Err(malformed)
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

/// The forward-path of a recipient (RFC 5321 §4.1.2), always with a domain.
pub type ForwardPath = Mailbox;

/// The reverse-path of a message: null for notifications, else the mailbox that is told of failures.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: never answered (DSN-2).
    Null,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads the text between the angle brackets; the empty text is the null reverse-path.
    ///
    /// # Errors
    /// As [`Mailbox::parse`].
    pub fn parse(text: &str, utf8: bool) -> Result<ReversePath, AddressError> {
        if text.is_empty() {
            return Ok(ReversePath::Null);
        }
        Mailbox::parse(text, utf8).map(ReversePath::Mailbox)
    }

    /// The mailbox, unless null.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            ReversePath::Null => None,
            ReversePath::Mailbox(mailbox) => Some(mailbox),
        }
    }
}

/// Without angle brackets; empty for the null reverse-path.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => Ok(()),
            ReversePath::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mailbox(text: &str) -> String {
        Mailbox::parse(text, true)
            .unwrap_or_else(|e| panic!("{text}: {e}"))
            .to_string()
    }

    // DNS-7
    #[test]
    fn domains_become_lower_case_a_labels() {
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        for (text, name) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("b\u{fc}cher.example", "xn--bcher-kva.example"),
            // Non-transitional: the sharp s is a letter of its own.
            ("stra\u{df}e.example", "xn--strae-oqa.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("_dmarc.a_b.example", "_dmarc.a_b.example"),
            ("b\u{fc}cher_x.example", "xn--bcher_x-n2a.example"),
            ("a--b.example", "a--b.example"),
            ("localhost", "localhost"),
            ("1.2.3.4.example", "1.2.3.4.example"),
            (long.as_str(), long.as_str()),
        ] {
            assert_eq!(
                Domain::parse(text).as_ref().map(Domain::as_str),
                Ok(name),
                "{text}"
            );
        }
    }

    // DNS-7, IN-17
    #[test]
    fn what_dns_cannot_hold_is_no_domain() {
        let label = "a".repeat(64);
        let name = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(62));
        let u_label = format!("\u{fc}{}", "a".repeat(60));
        for text in [&label, &name, &u_label, "xn--a", "xn--.example"] {
            let got = Domain::parse(text);
            assert!(
                matches!(got, Err(AddressError::Domain(_))),
                "{text}: {got:?}"
            );
        }
        for text in [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            "-a.b",
            "a-.b",
            "a b",
            "a/b",
            "a\0b",
            "a@b",
            "1.2.3.4",
            "999.1.1.1",
            "a\n",
            "[1.2.3.4]",
        ] {
            let got = Domain::parse(text);
            assert!(
                matches!(got, Err(AddressError::Syntax(_))),
                "{text:?}: {got:?}"
            );
        }
    }

    // IN-17
    #[test]
    fn quoted_local_parts_are_brought_to_canonical_form() {
        for (text, canonical) in [
            ("Bob@Example.ORG", "Bob@example.org"),
            (r#""bob"@example.org"#, "bob@example.org"),
            (r#""b\ob"@example.org"#, "bob@example.org"),
            (r#""a.b"@example.org"#, "a.b@example.org"),
            (r#""a b"@example.org"#, r#""a b"@example.org"#),
            (r#""a\ b"@example.org"#, r#""a b"@example.org"#),
            (r#""a\"\\b"@example.org"#, r#""a\"\\b"@example.org"#),
            (r#""a@b"@example.org"#, r#""a@b"@example.org"#),
            (r#""a..b"@example.org"#, r#""a..b"@example.org"#),
            (r#"""@example.org"#, r#"""@example.org"#),
            ("a+b=c/d@example.org", "a+b=c/d@example.org"),
            ("user%dest@us.example", "user%dest@us.example"),
            ("dest!user@us.example", "dest!user@us.example"),
            ("|x@example.org", "|x@example.org"),
            ("-f@example.org", "-f@example.org"),
            ("\u{e4}@b\u{fc}cher.example", "\u{e4}@xn--bcher-kva.example"),
            ("a@[192.0.2.1]", "a@[192.0.2.1]"),
            ("a@[ipv6:2001:DB8::1]", "a@[IPv6:2001:db8::1]"),
        ] {
            assert_eq!(mailbox(text), canonical);
        }
    }

    // IN-17, IN-19
    #[test]
    fn malformed_addresses_are_refused() {
        let long_local = format!("{}@example.org", "a".repeat(65));
        let long = format!("a@{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        for text in [
            "",
            "@example.org",
            "a@",
            "a@@b",
            "a@b@c",
            ".a@b",
            "a.@b",
            "a..b@c",
            "a b@c",
            "a@b c",
            "a@b.",
            "a@b..c",
            "<a@b>",
            "a@b>",
            "a,b@c",
            "a:b@c",
            "a;b@c",
            "a(b)@c",
            "\"a@b",
            "\"a\"b@c",
            "\"a\"@",
            "\"a\\\"@b",
            "\"a\tb\"@c",
            "\"a\0\"@c",
            "\"a\\\n\"@c",
            "a\u{85}@b",
            "\"\\\u{e4}\"@b",
            "a@1.2.3.4",
            "a@[1.2.3]",
            "a@[01.2.3.4]",
            "a@[1.2.3.4",
            "a@1.2.3.4]",
            "a@[IPv6:1.2.3.4]",
            "a@[IPv6:2001:0db8::1]",
            "a@[IPv6:fe80::1%eth0]",
            "a@[::1]",
            "a@[IPv6:]",
            "a@[]",
            "a@[x:y]",
            &long_local,
            &long,
        ] {
            let got = Mailbox::parse(text, true);
            assert!(
                matches!(got, Err(AddressError::Syntax(_))),
                "{text:?}: {got:?}"
            );
        }
        assert_eq!(
            Mailbox::parse("postmaster", false),
            Err(AddressError::NoDomain)
        );
        assert_eq!(
            Mailbox::parse("\u{e4}@example.org", false),
            Err(AddressError::NeedsUtf8)
        );
        assert_eq!(
            Mailbox::parse("a@\u{e4}.example", false),
            Err(AddressError::NeedsUtf8)
        );
    }

    // IN-17, IN-21
    #[test]
    fn source_routes_are_dropped_and_nothing_else() {
        assert_eq!(strip_source_route("@a.example,@b.example:c@d"), Ok("c@d"));
        assert_eq!(strip_source_route("c@d"), Ok("c@d"));
        assert_eq!(strip_source_route("\"a:b\"@d"), Ok("\"a:b\"@d"));
        for bad in ["@a", "@:c@d", "@a,:c@d", "@a,b:c@d", "@a b:c@d", "@a@b:c@d"] {
            assert!(strip_source_route(bad).is_err(), "{bad}");
        }
    }

    // Q-19
    #[test]
    fn mailboxes_are_equal_without_domain_case_but_with_local_case() {
        let parse = |text| Mailbox::parse(text, true);
        assert_eq!(parse("a@B.example"), parse("\"a\"@b.EXAMPLE"));
        assert_ne!(parse("A@b.example"), parse("a@b.example"));
    }

    proptest! {
        // SEC-6: any text is answered, and what was taken once is taken again, unchanged.
        #[test]
        fn an_accepted_mailbox_reads_back_as_itself(
            text in r#"([a-zA-Z.+-]{1,9}|"([ -~]|\PC){0,9}"|\PC{1,9})@(\[([0-9.]{7,9}|IPv6:[0-9a-f:]{2,9})\]|[\PC.]{1,12}|[a-zA-Z0-9_.-]{1,12})"#,
        ) {
            if let Ok(mailbox) = Mailbox::parse(&text, true) {
                prop_assert_eq!(Mailbox::parse(&mailbox.to_string(), true), Ok(mailbox.clone()));
                prop_assert!(!mailbox.to_string().chars().any(char::is_control));
            }
        }

        #[test]
        fn an_accepted_domain_reads_back_as_itself(text in "\\PC{1,20}|[a-zA-Z0-9_.\u{df}-]{1,20}") {
            if let Ok(domain) = Domain::parse(&text) {
                prop_assert!(domain.as_str().is_ascii());
                prop_assert_eq!(Domain::parse(domain.as_str()), Ok(domain.clone()));
            }
        }
    }
}
