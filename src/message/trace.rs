//! The header lines that we put in front of a message: Received (RFC 5321 §4.4), and Date and Message-ID where they
//! are missing (MSG-1).

use std::fmt::{self, Write};
use std::net::IpAddr;

use super::QueueId;
use crate::clock::Timestamp;
use crate::smtp::address::{Domain, ForwardPath};

/// Octets of a client's name that are kept; a domain is no longer (RFC 5321 §4.5.3.1.2).
const MAX_NAME: usize = 255;

/// Where a message came from, as far as Received tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A network address.
    Ip(IpAddr),
    /// The user of a Unix socket, if the system told.
    Uid(Option<u32>),
    /// Ourselves.
    Own,
}

/// As it is written to the log and kept with the message.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Ip(ip) => ip.fmt(f),
            Origin::Uid(Some(uid)) => write!(f, "unix uid={uid}"),
            Origin::Uid(None) => f.write_str("unix"),
            Origin::Own => f.write_str("own"),
        }
    }
}

/// The facts of one Received field.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// What the client called itself.
    pub helo: &'a str,
    /// Where it is.
    pub origin: Origin,
    /// The protocol (RFC 3848, RFC 6531 §4.3): `SMTP`, `ESMTP`, `UTF8SMTP`, `ESMTPS`, `UTF8SMTPS`.
    pub protocol: &'static str,
    /// The cipher suite, if it came inside TLS.
    pub cipher: Option<&'static str>,
    /// Our name.
    pub hostname: &'a Domain,
    /// The queue id.
    pub id: QueueId,
    /// The recipient, if there is only one: with more, `for` would tell each of the others (RFC 5321 §7.6).
    pub only: Option<&'a ForwardPath>,
    /// When it arrived.
    pub arrived: Timestamp,
}

impl Received<'_> {
    /// The field, folded, with its CRLF; ASCII, whatever the client called itself (IN-28).
    pub fn write(&self, out: &mut String) {
        out.push_str("Received: from ");
        push_name(out, self.helo);
        // Writing to a String cannot fail.
        let _ = match self.origin {
            Origin::Ip(IpAddr::V4(ip)) => write!(out, " ([{ip}])"),
            Origin::Ip(IpAddr::V6(ip)) => write!(out, " ([IPv6:{ip}])"),
            Origin::Uid(Some(uid)) => write!(out, " (uid {uid})"),
            Origin::Uid(None) | Origin::Own => Ok(()),
        };
        let _ = write!(
            out,
            "\r\n\tby {} (posthaste) with {} id {}",
            self.hostname, self.protocol, self.id
        );
        let date = self.arrived.rfc5322();
        let only = self.only.filter(|path| !path.needs_utf8());
        if let Some(path) = only {
            let _ = write!(out, "\r\n\tfor <{path}>");
        }
        // RFC 8314 §4.3
        if let Some(cipher) = self.cipher {
            let _ = write!(out, "\r\n\ttls {cipher}");
        }
        let _ = match only.is_some() || self.cipher.is_some() {
            true => write!(out, "; {date}\r\n"),
            false => write!(out, ";\r\n\t{date}\r\n"),
        };
    }
}

/// Bytes that could mean something else in the field become question marks.
fn push_name(out: &mut String, name: &str) {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let before = out.len();
    out.extend(
        name.chars()
            .take(MAX_NAME)
            .map(|c| if harmless(c) { c } else { '?' }),
    );
    if out.len() == before {
        out.push_str("unknown");
    }
}

/// A Date field.
pub fn write_date(out: &mut String, now: Timestamp) {
    let _ = write!(out, "Date: {}\r\n", now.rfc5322());
}

/// A new Message-ID with its brackets: 20 random bytes in hex, at our name (MSG-1).
pub fn new_message_id(hostname: &Domain) -> String {
    let random: [u8; 20] = rand::random();
    let mut id = String::with_capacity(48 + hostname.as_str().len());
    id.push('<');
    for byte in random {
        let _ = write!(id, "{byte:02x}");
    }
    let _ = write!(id, "@{hostname}>");
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(helo: &str, origin: Origin, only: Option<&ForwardPath>) -> String {
        let mut out = String::new();
        Received {
            helo,
            origin,
            protocol: "ESMTP",
            cipher: None,
            hostname: &Domain::parse("mail.here.example").unwrap(),
            id: QueueId::new(42).unwrap(),
            only,
            arrived: Timestamp::from_secs(1_795_286_400),
        }
        .write(&mut out);
        out
    }

    // IN-28
    #[test]
    fn received_says_who_how_where_and_when() {
        let bob = ForwardPath::parse("bob@dest.example", false).unwrap();
        let client = Origin::Ip([192, 0, 2, 1].into());
        assert_eq!(
            received("client.example", client, Some(&bob)),
            "Received: from client.example ([192.0.2.1])\r\n\tby mail.here.example (posthaste) with ESMTP id 42\r\n\
             \tfor <bob@dest.example>; Sat, 21 Nov 2026 18:40:00 +0000\r\n"
        );
        let client = Origin::Ip("2001:db8::1".parse().unwrap());
        assert_eq!(
            received("[10.0.0.1]", client, None),
            "Received: from [10.0.0.1] ([IPv6:2001:db8::1])\r\n\tby mail.here.example (posthaste) with ESMTP id 42;\
             \r\n\tSat, 21 Nov 2026 18:40:00 +0000\r\n"
        );
        assert!(
            received("", Origin::Uid(Some(7)), None)
                .starts_with("Received: from unknown (uid 7)\r\n")
        );
    }

    // IN-28: RFC 3848, RFC 8314 §4.3
    #[test]
    fn what_came_inside_tls_says_so() {
        let bob = ForwardPath::parse("bob@dest.example", false).unwrap();
        for (only, words) in [
            (
                Some(&bob),
                "id 42\r\n\tfor <bob@dest.example>\r\n\ttls TLS_X; Sat, ",
            ),
            (None, "id 42\r\n\ttls TLS_X; Sat, "),
        ] {
            let mut out = String::new();
            Received {
                helo: "x",
                origin: Origin::Uid(None),
                protocol: "ESMTPS",
                cipher: Some("TLS_X"),
                hostname: &Domain::parse("mail.here.example").unwrap(),
                id: QueueId::new(42).unwrap(),
                only,
                arrived: Timestamp::from_secs(1_795_286_400),
            }
            .write(&mut out);
            assert!(out.contains(&format!("with ESMTPS {words}")), "{out}");
            assert!(out.ends_with("+0000\r\n"), "{out}");
        }
    }

    // IN-28, SEC-3
    #[test]
    fn nothing_a_client_says_breaks_the_field() {
        let odd = format!("a(b)\"<>;\\\u{e4}\r\nX: y {}", "z".repeat(999));
        let utf8 = ForwardPath::parse("\u{e4}@dest.example", true).unwrap();
        let field = received(&odd, Origin::Uid(None), Some(&utf8));
        assert!(field.starts_with("Received: from a?b???????"), "{field}");
        assert!(field.is_ascii() && !field.contains("for <"));
        assert!(
            field
                .split("\r\n")
                .all(|line| line.len() < 998 && !line.contains(['\r', '\n']))
        );
        assert!(
            field
                .split("\r\n")
                .skip(1)
                .all(|line| line.is_empty() || line.starts_with('\t'))
        );
    }

    // MSG-1
    #[test]
    fn message_ids_are_new_each_time_and_bracketed_once() {
        let host = Domain::parse("mail.here.example").unwrap();
        let (one, two) = (new_message_id(&host), new_message_id(&host));
        assert_ne!(one, two);
        let hex = one
            .strip_prefix('<')
            .and_then(|id| id.strip_suffix("@mail.here.example>"));
        assert!(
            hex.is_some_and(|hex| hex.len() == 40 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        );
    }
}
