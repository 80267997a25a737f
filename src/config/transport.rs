//! `[[transport]]`

use std::net::{IpAddr, Ipv6Addr};

use toml::Spanned;
use toml::de::DeValue;

use super::table::{Fault, table, words};
use super::value::{Value, parsed, quoted};
use crate::smtp::address::Domain;

/// The transport that exists without being declared.
pub const DIRECT: &str = "direct";

/// `[[transport]]`: what exists so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: TransportKind,
}

/// Kinds of transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Straight to MX hosts.
    Direct,
    /// Through these hosts, in this order; without TLS and AUTH so far.
    Relay {
        /// Host name or address, and port.
        hosts: Vec<(RelayHost, u16)>,
    },
}

/// A host of a relay transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayHost {
    /// Resolved by address, without MX.
    Name(Domain),
    /// An address.
    Ip(IpAddr),
}

words! {
    /// The word for a kind of transport.
    pub enum KindWord {
        /// Straight to MX hosts.
        Direct = "direct",
        /// Through named hosts.
        Relay = "relay",
        /// LMTP.
        Lmtp = "lmtp",
        /// A program's standard input.
        Pipe = "pipe",
        /// A maildir.
        Maildir = "maildir",
        /// An HTTP request.
        Http = "http",
        /// Fails at once.
        Fail = "fail",
        /// Delivers nowhere.
        Discard = "discard",
        /// To another recipient.
        Redirect = "redirect",
    }
}

words! {
    /// TLS toward a relay.
    pub enum RelayTls {
        /// None.
        None = "none",
        /// STARTTLS.
        StartTls = "starttls",
        /// TLS from the first byte.
        Implicit = "implicit",
    }
}

impl Value for (RelayHost, u16) {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<(RelayHost, u16), Fault> {
        const WANTED: &str = "\"name\", \"name:port\", \"IP\", \"IP:port\" or \"[IPv6]:port\"";
        parsed(value, WANTED, parse_host)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&match self {
            (RelayHost::Name(name), port) => format!("{name}:{port}"),
            (RelayHost::Ip(IpAddr::V6(ip)), port) => format!("[{ip}]:{port}"),
            (RelayHost::Ip(ip), port) => format!("{ip}:{port}"),
        }))
    }
}

fn parse_host(text: &str) -> Result<(RelayHost, u16), String> {
    if text.starts_with("unix:") {
        return Err("Unix sockets are not available in this version".to_owned());
    }
    // A bare IPv6 address is full of colons; with a port it stands in brackets.
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Ok((RelayHost::Ip(ip.into()), 25));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let digits = |port: &&str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port {
        None => 25,
        Some(port) => Some(port)
            .filter(digits)
            .and_then(|port| port.parse().ok())
            .filter(|port| *port != 0)
            .ok_or("the port is no number from 1 to 65535")?,
    };
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        let ip: Ipv6Addr = inner.parse().map_err(|_| "not an IPv6 address in [ ]")?;
        return Ok((RelayHost::Ip(ip.into()), port));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return match ip {
            IpAddr::V4(_) => Ok((RelayHost::Ip(ip), port)),
            IpAddr::V6(_) => Err("an IPv6 address with a port needs [ ]".to_owned()),
        };
    }
    let name = Domain::parse(host).map_err(|error| error.to_string())?;
    if name
        .as_str()
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err("neither a name nor an address".to_owned());
    }
    Ok((RelayHost::Name(name), port))
}

table! {
    /// `[[transport]]` (CFG-19, CFG-20) as it stands in the file.
    pub struct TransportTable in "transport" repeated true {
        /// Its name, for routes, the log and the operator: letters, digits, hyphens, underscores and dots.
        name: String = (required "\"relay\""), transport_name;
        /// What it does: `"direct"` to MX hosts, or `"relay"` through `hosts`.
        kind: KindWord = (required "\"relay\""), kind_exists;
        /// Kind relay: hosts in the order in which they are tried, `"name[:port]"` or `"IP[:port]"`, port 25 by default.
        hosts: Vec<(RelayHost, u16)> = "[]";
        /// Kind relay: `"none"` must be written out, because the relay will be required to have TLS by default.
        tls: Option<RelayTls> = (unset), plain_only;
    }
    later [
        "connections", "rate", "recipients", "dial_interval", "order", "danger_accept_invalid_certs", "ca_file", "user",
        "password", "mechanisms", "danger_auth_without_tls", "proxy", "redial", "probe", "command", "timeout",
        "line_end", "temporary_exits", "path", "url", "authorization", "code", "text", "to", "allow", "intervals",
        "jitter", "lifetime", "max_attempts", "delay_notices", "dial_timeout", "host_timeout", "command_timeout",
        "data_timeout", "block_timeout", "dot_timeout", "quit_timeout", "total_timeout", "attempt_timeout",
        "smtp_port", "max_mx", "max_addresses", "family", "source_addresses", "helo", "allow_private",
        "address_literals", "without_8bitmime", "pipelining", "idle_session", "session_age", "session_messages"
    ]
}

fn transport_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name {
        DIRECT => Err("\"direct\" is built in".to_owned()),
        "default" => Err("\"default\" stands for the routes' own choice".to_owned()),
        "" => Err("a name is needed".to_owned()),
        name if name.len() > 64 || !name.bytes().all(plain) => {
            Err("a name is at most 64 letters, digits, -, _ and .".to_owned())
        }
        _ => Ok(()),
    }
}

fn kind_exists(kind: &KindWord) -> Result<(), String> {
    match kind {
        KindWord::Direct | KindWord::Relay => Ok(()),
        _ => Err("not available in this version".to_owned()),
    }
}

fn plain_only(tls: &Option<RelayTls>) -> Result<(), String> {
    match tls {
        None | Some(RelayTls::None) => Ok(()),
        Some(RelayTls::StartTls | RelayTls::Implicit) => {
            Err("TLS toward relays is not available in this version, only \"none\"".to_owned())
        }
    }
}

impl TransportTable {
    /// What the table means.
    ///
    /// # Errors
    /// The key at fault, and why.
    pub(super) fn checked(&self) -> Result<Transport, (&'static str, &'static str)> {
        let kind = match self.kind {
            KindWord::Relay if self.hosts.is_empty() => {
                return Err(("hosts", "a relay needs at least one host"));
            }
            // RO-6: the default is verified TLS. Until that exists, nobody shall get less than the manual promises
            // without having said so.
            KindWord::Relay if self.tls.is_none() => {
                return Err((
                    "tls",
                    "must be \"none\": TLS toward relays is not available in this version",
                ));
            }
            KindWord::Relay => TransportKind::Relay {
                hosts: self.hosts.clone(),
            },
            _ if !self.hosts.is_empty() => return Err(("hosts", "only a relay has hosts")),
            _ => TransportKind::Direct,
        };
        Ok(Transport {
            name: self.name.clone(),
            kind,
        })
    }
}

impl From<&Transport> for TransportTable {
    fn from(transport: &Transport) -> TransportTable {
        let (kind, hosts, tls) = match &transport.kind {
            TransportKind::Direct => (KindWord::Direct, Vec::new(), None),
            TransportKind::Relay { hosts } => {
                (KindWord::Relay, hosts.clone(), Some(RelayTls::None))
            }
        };
        TransportTable {
            name: transport.name.clone(),
            kind,
            hosts,
            tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CFG-20
    #[test]
    fn relay_hosts_are_names_or_addresses_with_a_port() {
        for (text, host, port) in [
            ("mx.example.org", "mx.example.org", 25),
            ("MX.example.org:587", "mx.example.org", 587),
            ("192.0.2.1", "192.0.2.1", 25),
            ("192.0.2.1:2525", "192.0.2.1", 2525),
            ("2001:db8::1", "2001:db8::1", 25),
            ("[2001:db8::1]:26", "2001:db8::1", 26),
            ("localhost", "localhost", 25),
        ] {
            let (parsed, parsed_port) = parse_host(text).unwrap();
            let shown = match parsed {
                RelayHost::Name(name) => name.to_string(),
                RelayHost::Ip(ip) => ip.to_string(),
            };
            assert_eq!((shown.as_str(), parsed_port), (host, port));
        }
        for bad in [
            "",
            ":25",
            "mx.example:",
            "mx.example:0",
            "mx.example:65536",
            "mx.example:+25",
            "[192.0.2.1]:25",
            "[2001:db8::1",
            "192.0.2.300",
            "unix:/run/x",
            "a b",
        ] {
            assert!(parse_host(bad).is_err(), "{bad:?}");
        }
    }
}
