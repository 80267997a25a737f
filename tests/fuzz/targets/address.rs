//! Addresses and domains as clients and name servers give them.

use posthaste::smtp::address::{AddressDomain, Domain, Mailbox, ReversePath};

use super::{Target, kind, shape};
use crate::mutate::fnv;

/// Mailboxes, with and without SMTPUTF8.
pub const ADDRESS: Target = Target {
    name: "address",
    words: &[
        b"@",
        b".",
        b"..",
        b"\"",
        b"\\",
        b"[192.0.2.1]",
        b"[IPv6:",
        b"<",
        b">",
        b"xn--",
        b"@a,@b:",
        b"joe@example.org",
        "\u{fc}".as_bytes(),
        "\u{3002}".as_bytes(),
        "\u{200d}".as_bytes(),
        b"%",
        b"!",
    ],
    run: address,
};

/// Domains and address literals.
pub const DOMAIN: Target = Target {
    name: "domain",
    words: &[
        b".",
        b"_",
        b"-",
        b"xn--",
        b"xn--nxasmq6b",
        "\u{df}".as_bytes(),
        "\u{130}".as_bytes(),
        "\u{3002}".as_bytes(),
        "\u{200c}".as_bytes(),
        "\u{5d0}".as_bytes(),
        b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ],
    run: domain,
};

/// IN-17, SEC-3: an accepted address is canonical, short enough, free of control bytes, and reads as itself again.
fn address(input: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(input) else {
        return 0;
    };
    let mut seen = Vec::new();
    for utf8 in [false, true] {
        match Mailbox::parse(text, utf8) {
            Ok(mailbox) => {
                let written = mailbox.to_string();
                assert!(!written.chars().any(char::is_control), "{written:?}");
                assert!(utf8 || written.is_ascii(), "{written:?} without SMTPUTF8");
                assert!(mailbox.local().len() <= 64 && written.len() <= 254 + 64 + 8);
                assert_eq!(
                    Mailbox::parse(&written, utf8).as_ref(),
                    Ok(&mailbox),
                    "canonical form does not read as itself"
                );
                seen.push(1 + u64::from(mailbox.needs_utf8()));
                seen.push(u64::from(mailbox.local().starts_with('"')));
                seen.push(kind(mailbox.domain()));
            }
            Err(error) => seen.push(fnv(format!("{error:?}").as_bytes())),
        }
        if let Ok(ReversePath::Null) = ReversePath::parse(text, utf8) {
            assert!(text.is_empty(), "{text:?} became the null reverse-path");
        }
    }
    shape(&seen)
}

/// DNS-7: an accepted domain is lower-case A-labels of legal length, and reads as itself again.
fn domain(input: &[u8]) -> u64 {
    let Ok(text) = std::str::from_utf8(input) else {
        return 0;
    };
    let literal = match AddressDomain::parse(text) {
        Ok(AddressDomain::Literal(_)) => 1,
        Ok(AddressDomain::Name(_)) => 2,
        Err(_) => 3,
    };
    match Domain::parse(text) {
        Ok(domain) => {
            let name = domain.as_str();
            assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
            for label in name.split('.') {
                assert!((1..=63).contains(&label.len()), "{name:?}");
                assert!(
                    label.bytes().all(|b| b.is_ascii_lowercase()
                        || b.is_ascii_digit()
                        || matches!(b, b'-' | b'_')),
                    "{name:?}"
                );
            }
            assert_eq!(Domain::parse(name).as_ref(), Ok(&domain));
            shape(&[
                literal,
                name.split('.').count() as u64,
                u64::from(name.contains("xn--")),
            ])
        }
        Err(error) => shape(&[literal, fnv(format!("{error:?}").as_bytes())]),
    }
}
