//! TLS reports (RFC 8460): who wants one, read from DNS, and when they go out. Pure.
//!
//! What is counted is in [`policy::tls::report`](super::tls::report), how a report is written in `message::tlsrpt`.

pub mod schedule;

use std::fmt;

use super::txt::{self, WSP};
use crate::smtp::address::{AddressDomain, Domain, Mailbox};

/// The name of the record (RFC 8460 §3), in front of the policy domain.
pub const LABELS: &str = "_smtp._tls";

/// Places that one domain's report goes to; further ones are left out.
pub const MOST_TARGETS: usize = 8;

/// Where a report is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `mailto:`
    Mail(Mailbox),
    /// `https:`
    Post {
        /// The server.
        host: Domain,
        /// Its port.
        port: u16,
        /// Path and query: graphic ASCII, from `/` on.
        path: String,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Mail(mailbox) => write!(f, "mailto:{mailbox}"),
            Target::Post {
                host,
                port: 443,
                path,
            } => write!(f, "https://{host}{path}"),
            Target::Post { host, port, path } => write!(f, "https://{host}:{port}{path}"),
        }
    }
}

/// What the TXT records of `_smtp._tls.DOMAIN` say: where reports are wanted, as far as we can go there. `None`: the
/// domain wants none, because there is no record, more than one, or a bad one (RPT-2, RFC 8460 §3).
pub fn record(records: &[Vec<u8>]) -> Option<Vec<Target>> {
    let mut targets = None;
    for field in txt::only(records, "v=TLSRPTv1;")? {
        let (name, value) = field?;
        if name == "rua" {
            let targets = targets.get_or_insert_with(Vec::new);
            for uri in value.split(',') {
                targets.extend(uri_of(uri.trim_matches(WSP))?);
            }
        } else if !txt::is_extension(name, value) {
            return None;
        }
    }
    // A record without rua is none.
    let mut targets: Vec<Target> = targets?;
    targets.truncate(MOST_TARGETS);
    Some(targets)
}

/// One URI: `None` if it is none, `Some(None)` if it leads where we cannot go.
fn uri_of(uri: &str) -> Option<Option<Target>> {
    let (scheme, rest) = uri.split_once(':')?;
    let mut letters = scheme.bytes();
    let good = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    // RFC 8460 §3: an exclamation mark must be encoded.
    if !good || !rest.bytes().all(|b| b.is_ascii_graphic() && b != b'!') {
        return None;
    }
    Some(if scheme.eq_ignore_ascii_case("mailto") {
        mail(rest)
    } else if scheme.eq_ignore_ascii_case("https") {
        post(rest)
    } else {
        None
    })
}

/// RFC 6068 §2: one address; header fields, which it may ask for, are ours to choose.
fn mail(rest: &str) -> Option<Target> {
    let address = rest.split('?').next().unwrap_or_default();
    let mailbox = Mailbox::parse(&decoded(address)?, false).ok()?;
    matches!(mailbox.domain(), AddressDomain::Name(_)).then_some(Target::Mail(mailbox))
}

/// RFC 3986 §3: authority, path and query. Who wants a password or an address to be used wants too much.
fn post(rest: &str) -> Option<Target> {
    let rest = rest.strip_prefix("//")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (host, port) = match authority.split_once(':') {
        None | Some((_, "")) => (authority.trim_end_matches(':'), 443),
        Some((host, digits)) => {
            let digits = digits
                .bytes()
                .all(|b| b.is_ascii_digit())
                .then_some(digits)?;
            let port = digits.parse().ok().filter(|port| *port != 0)?;
            (host, port)
        }
    };
    let host = Domain::parse(host).ok()?;
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    Some(Target::Post { host, port, path })
}

/// RFC 3986 §2.1
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Option<Vec<String>> {
        let targets = record(&[text.as_bytes().to_vec()])?;
        Some(targets.iter().map(Target::to_string).collect())
    }

    // RPT-2, RPT-3
    #[test]
    fn a_record_names_addresses_and_servers() {
        for (text, wanted) in [
            ("v=TLSRPTv1;rua=mailto:r@a.test", &["mailto:r@a.test"][..]),
            (
                "v=TLSRPTv1; rua=mailto:r@a.test , https://b.test/v1?x=y ;",
                &["mailto:r@a.test", "https://b.test/v1?x=y"],
            ),
            (
                "v=TLSRPTv1;x=y; rua=MAILTO:a%2Bb%40c@a.test?subject=x;rua=https://b.test:8443",
                &["https://b.test:8443/"],
            ),
            (
                "v=TLSRPTv1;rua=mailto:a%2Bb@a.test?subject=x,HTTPS://B.Test?q#f",
                &["mailto:a+b@a.test", "https://b.test/?q"],
            ),
            // Of no use to us, but a record.
            ("v=TLSRPTv1;rua=http://a.test/", &[]),
            ("v=TLSRPTv1;rua=https://u:p@a.test/", &[]),
            ("v=TLSRPTv1;rua=https://a.test:0/", &[]),
            ("v=TLSRPTv1;rua=https://a.test:65536/", &[]),
            ("v=TLSRPTv1;rua=https:a.test", &[]),
            ("v=TLSRPTv1;rua=mailto:nobody", &[]),
            ("v=TLSRPTv1;rua=mailto:r%0d%0aRCPT@a.test", &[]),
            ("v=TLSRPTv1;rua=mailto:r@[192.0.2.1]", &[]),
        ] {
            assert_eq!(
                one(text),
                Some(wanted.iter().map(|t| (*t).to_owned()).collect()),
                "{text}"
            );
        }
        let many = vec!["mailto:r@a.test"; 20].join(",");
        let targets = one(&format!("v=TLSRPTv1;rua={many}")).unwrap();
        assert_eq!(targets.len(), MOST_TARGETS);
    }

    // RPT-2
    #[test]
    fn anything_but_one_good_record_is_none() {
        let good = b"v=TLSRPTv1;rua=mailto:r@a.test".to_vec();
        let other = b"v=spf1 -all".to_vec();
        assert!(record(&[other.clone(), good.clone()]).is_some());
        assert_eq!(record(&[good.clone(), good]), None);
        assert_eq!(record(&[other]), None);
        assert_eq!(record(&[]), None);
        for bad in [
            "",
            "v=TLSRPTv1",
            "v=TLSRPTv1;",
            "v=tlsrptv1;rua=mailto:r@a.test",
            "v=TLSRPTv1 ;rua=mailto:r@a.test",
            " v=TLSRPTv1;rua=mailto:r@a.test",
            "v=TLSRPTv1;;rua=mailto:r@a.test",
            "v=TLSRPTv1;x=y",
            "v=TLSRPTv1;x;rua=mailto:r@a.test",
            "v=TLSRPTv1;rua=",
            "v=TLSRPTv1;rua=r@a.test",
            "v=TLSRPTv1;rua=mailto:r@a.test,",
            "v=TLSRPTv1;rua=mailto:r@a.test!10m",
            "v=TLSRPTv1;rua=mailto:r @a.test",
            "v=TLSRPTv1;rua=mailto:\u{fc}@a.test",
            "v=TLSRPTv1;RUA=mailto:r@a.test;-x=y",
        ] {
            assert_eq!(one(bad), None, "{bad}");
        }
    }

    proptest! {
        // SEC-6, RPT-2
        #[test]
        fn whatever_is_read_leads_to_a_name_and_can_stand_in_a_request_line(
            text in "(v=TLSRPTv1; ?)?((rua|x)=|mailto:|https://|[a-z.@:/?#,;=%! \u{fc}\r\n]|%[0-9a-f]{2}){0,12}",
        ) {
            for target in record(&[text.into_bytes()]).unwrap_or_default() {
                match target {
                    Target::Mail(mailbox) => prop_assert!(mailbox.to_string().is_ascii()),
                    Target::Post { port, path, .. } => {
                        prop_assert!(port != 0 && path.starts_with('/'));
                        prop_assert!(path.bytes().all(|b| b.is_ascii_graphic()));
                    }
                }
            }
        }
    }
}
