//! `[[transport]]`

mod fits;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::DeValue;

use super::deliver::Deliver;
use super::limits::within_if_given;
use super::proxy::Proxy;
use super::relay::{HostOrder, Relay, RelayTls, StartProbe};
use super::retry::Retry;
use super::secret::Secret;
use super::table::{Fault, Table, table, words};
use super::units::{RateLimit, Span};
use super::value::{Value, absolute_if_any, parsed, quoted, socket_path, within};
use crate::smtp::address::Domain;
use crate::smtp::reply::ReplyCode;
use crate::smtp::sasl::Mechanism;

/// The transport that exists without being declared.
pub const DIRECT: &str = "direct";

/// `[[transport]]`: what exists so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: TransportKind,
    /// How it sets out, where that is not what `[deliver]` says; `None`: in nothing.
    pub line: Option<Arc<Line>>,
    /// When its mail is tried again, where that is not what `[retry]` says; `None`: in nothing.
    pub retry: Option<Arc<OwnRetry>>,
    /// What bounds its mail, where that is not what `[limits]` says.
    pub limits: OwnLimits,
}

/// `[limits]` of one transport (CFG-19); `None`: as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnLimits {
    /// Most connections at once.
    pub connections: Option<usize>,
    /// Most recipients of one transaction.
    pub recipients: Option<usize>,
    /// Most messages in a time.
    pub rate: Option<RateLimit>,
    /// Least time between new connections.
    pub dial_interval: Option<Span>,
}

/// `[retry]` of one transport (CFG-19).
#[derive(Clone, Debug, PartialEq)]
pub struct OwnRetry {
    /// `[retry]` with the transport's own keys in place of those there.
    pub terms: Retry,
    /// Which those are, as TOML.
    pub overrides: Vec<(&'static str, String)>,
}

/// From where, as whom and through what a transport connects, where that is not what `[deliver]` says (RO-11, RO-17).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Line {
    /// Our EHLO name.
    pub helo: Option<Domain>,
    /// Our addresses; empty: those of `[deliver]`.
    pub source_addresses: Vec<IpAddr>,
    /// The proxy.
    pub proxy: Option<Proxy>,
    /// `[deliver]` with the transport's own keys in place of those there (CFG-19); `None` without any.
    pub deliver: Option<Deliver>,
    /// Which those are, as TOML.
    pub overrides: Vec<(&'static str, String)>,
}

impl Line {
    /// The first of its keys that is set.
    fn first_key(&self) -> Option<&'static str> {
        let given = [
            ("helo", self.helo.is_some()),
            ("source_addresses", !self.source_addresses.is_empty()),
            ("proxy", self.proxy.is_some()),
        ];
        let first = given.iter().find(|(_, given)| *given);
        let own = self.overrides.first().map(|(key, _)| *key);
        first.map(|(key, _)| *key).or(own)
    }
}

/// Kinds of transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// Straight to MX hosts.
    Direct,
    /// Through named hosts.
    Relay(Arc<Relay>),
    /// Fails at once (RO-13).
    Fail {
        /// 4yz for now, 5yz for good.
        code: ReplyCode,
        /// For the sender.
        text: String,
    },
    /// Delivered nowhere (RO-13).
    Discard,
}

impl TransportKind {
    /// Its word in the file.
    pub fn word(&self) -> &'static str {
        match self {
            TransportKind::Direct => "direct",
            TransportKind::Relay(relay) if relay.lmtp => "lmtp",
            TransportKind::Relay(_) => "relay",
            TransportKind::Fail { .. } => "fail",
            TransportKind::Discard => "discard",
        }
    }
}

/// A host of a relay transport.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RelayHost {
    /// Resolved by address, without MX.
    Name(Domain),
    /// An address.
    Ip(IpAddr),
    /// A Unix socket, of LMTP.
    Unix(PathBuf),
}

/// As it stands before a port.
impl fmt::Display for RelayHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RelayHost::Name(name) => name.fmt(f),
            RelayHost::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            RelayHost::Ip(ip) => ip.fmt(f),
            RelayHost::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
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

impl Value for (RelayHost, u16) {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<(RelayHost, u16), Fault> {
        const WANTED: &str =
            "\"name\", \"name:port\", \"IP\", \"IP:port\", \"[IPv6]:port\" or \"unix:PATH\"";
        parsed(value, WANTED, |text| match text.strip_prefix("unix:") {
            Some(path) => {
                socket_path(Path::new(path))?;
                Ok((RelayHost::Unix(path.into()), 0))
            }
            None => parse_host(text, 25),
        })
    }

    fn show(&self) -> Option<String> {
        let (host, port) = self;
        Some(quoted(&match host {
            RelayHost::Unix(_) => host.to_string(),
            host => format!("{host}:{port}"),
        }))
    }
}

/// A host with its port, or `usual`.
pub(super) fn parse_host(text: &str, usual: u16) -> Result<(RelayHost, u16), String> {
    // A bare IPv6 address is full of colons; with a port it stands in brackets.
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Ok((RelayHost::Ip(ip.into()), usual));
    }
    if text.contains("://") {
        return Err("a host is written without a scheme, as NAME:PORT".to_owned());
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let digits = |port: &&str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port {
        None => usual,
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
        /// What it does: `"direct"` to MX hosts, `"relay"` through `hosts`, `"lmtp"` to `hosts`, `"fail"` at once with `code` and `text`, or
        /// `"discard"`: delivered nowhere.
        kind: KindWord = (required "\"relay\""), kind_exists;
        /// Kind relay: its hosts, `"name[:port]"` or `"IP[:port]"`, port 25 by default. Names are resolved without MX.
        /// Kind lmtp: with a port that is not 25, or `"unix:PATH"`. What else is said of relays holds for it too.
        hosts: Vec<(RelayHost, u16)> = "[]";
        /// Kind relay: `"listed"`, the hosts are tried in their order, or `"random"`, anew for each attempt.
        order: HostOrder = "\"listed\"";
        /// Kind relay: `"starttls"`, `"implicit"` (TLS from the first octet on) or `"none"`. Not set: implicit on port 465,
        /// starttls on all others. Unless none, it is required, and the certificate must be for the host's name.
        tls: Option<RelayTls> = (unset);
        /// Kind relay: any certificate will do, so whoever stands in between reads the mail and gets the password.
        danger_accept_invalid_certs: bool = "false";
        /// Kind relay: certificates of the authorities that are believed, PEM; `""`: as `ca_file` of `[tls]`.
        ca_file: Option<PathBuf> = "\"\"", absolute_if_any;
        /// Kind relay: who we are there (AUTH); `""`: nobody, without AUTH.
        user: Option<String> = "\"\"", one_line;
        /// Kind relay: the password of `user`, or `{ file = "PATH" }` with a file that holds it. Nobody but its owner may
        /// be able to read that file, or this one if the password stands in it.
        password: Option<Secret> = (unset);
        /// Kind relay: mechanisms that may be used for AUTH; `[]` for all. The best that both sides have is used.
        mechanisms: Vec<Mechanism> = "[]";
        /// Kind relay: PLAIN, LOGIN and CRAM-MD5 may be used without verified TLS too, so whoever listens has the password.
        danger_auth_without_tls: bool = "false";
        /// Kind direct or relay: the SOCKS5 proxy through which hosts are dialled, `"socks5://[USER:PASSWORD@]HOST[:PORT]"`,
        /// port 1080 by default; `""` for none.
        proxy: Option<Proxy> = "\"\"";
        /// Kind relay: how often a relay that closes early is redialled in one attempt.
        redial: u32 = "5", within(0, 20);
        /// Kind relay: whether it is tried out at each start: `"off"`, `"warn"`, which only logs, or `"require"`: without a
        /// host that works there is no start.
        probe: StartProbe = "\"off\"";
        /// Most connections to it at once; not set: as in `[limits]`, and so are the three below.
        connections: Option<usize> = (unset), within_if_given;
        /// Most recipients of one transaction.
        recipients: Option<usize> = (unset), within_if_given;
        /// Most messages in a time; `""`: any number.
        rate: Option<RateLimit> = (unset);
        /// Least time between new connections to it.
        dial_interval: Option<Span> = (unset);
        /// Kind fail: a reply code, 4yz to try again later, 5yz to fail for good.
        code: u16 = "554", within(400, 599);
        /// Kind fail: the words for the sender, one line.
        text: String = "\"mail to this address is not taken\"", short_line;
        /// Our name in EHLO; not set: `helo` of `[deliver]`.
        helo: Option<Domain> = (unset);
        /// Our addresses, the first of each family is used; `[]`: `source_addresses` of `[deliver]`.
        source_addresses: Vec<IpAddr> = "[]";
    }
    plus {
        /// Keys of `[deliver]` and `[retry]` that stand here with another value, as TOML.
        overrides: Vec<(&'static str, String)> = Vec::new();
    }
    later [
        "command", "timeout",
        "line_end", "temporary_exits", "path", "url", "authorization", "to", "allow", "smtp_port", "allow_private",
        "address_literals",
    ]
    also own_value
}

/// Keys of `[deliver]` that a transport may have for itself (CFG-19).
pub(super) const OF_DELIVER: [&str; 17] = [
    "dial_timeout",
    "host_timeout",
    "command_timeout",
    "data_timeout",
    "block_timeout",
    "dot_timeout",
    "quit_timeout",
    "total_timeout",
    "attempt_timeout",
    "max_mx",
    "max_addresses",
    "family",
    "without_8bitmime",
    "pipelining",
    "idle_session",
    "session_age",
    "session_messages",
];

/// Those of `[retry]`: all of them.
pub(super) const OF_RETRY: [&str; 5] = [
    "intervals",
    "jitter",
    "lifetime",
    "max_attempts",
    "delay_notices",
];

/// Reads a key as `[deliver]` or `[retry]` does.
fn own_value(
    table: &mut TransportTable,
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> Option<Result<(), Fault>> {
    let (key, text) = match OF_DELIVER.into_iter().find(|known| *known == key) {
        Some(key) => (key, read_as::<Deliver>(key, value)?),
        None => {
            let key = OF_RETRY.into_iter().find(|known| *known == key)?;
            (key, read_as::<Retry>(key, value)?)
        }
    };
    Some(text.map(|text| table.overrides.extend(text.map(|text| (key, text)))))
}

/// The value as TOML, if a table of this kind may have it.
fn read_as<T: Table>(
    key: &str,
    value: &Spanned<DeValue<'_>>,
) -> Option<Result<Option<String>, Fault>> {
    let mut scratch = T::defaults();
    let result = scratch.set(key, value)?;
    Some(result.map(|()| {
        let shown = scratch.show().into_iter().find(|(of, _)| of.key == key);
        shown.and_then(|(_, text)| text)
    }))
}

/// A table with these keys in place of its own.
fn overridden<T: Table + Clone>(table: &T, overrides: &[(&'static str, String)]) -> T {
    let mut table = table.clone();
    for (key, text) in overrides {
        let value = DeValue::parse(text).ok();
        let read = value.and_then(|value| table.set(key, &value));
        debug_assert!(matches!(read, Some(Ok(()))), "it was read before");
    }
    table
}

fn transport_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name {
        DIRECT => Err("\"direct\" is built in; give another name".to_owned()),
        "default" => {
            Err("\"default\" stands for the routes' own choice; give another name".to_owned())
        }
        "" => Err("a name is needed".to_owned()),
        name if name.len() > 64 || !name.bytes().all(plain) => {
            Err("a name is at most 64 letters, digits, -, _ and .".to_owned())
        }
        _ => Ok(()),
    }
}

fn kind_exists(kind: &KindWord) -> Result<(), String> {
    match kind {
        KindWord::Direct
        | KindWord::Relay
        | KindWord::Lmtp
        | KindWord::Fail
        | KindWord::Discard => Ok(()),
        _ => Err("not available in this version".to_owned()),
    }
}

fn one_line(user: &Option<String>) -> Result<(), String> {
    match user {
        Some(user) if user.len() > 500 || user.chars().any(char::is_control) => {
            Err("a user is at most 500 octets without control characters".to_owned())
        }
        _ => Ok(()),
    }
}

/// It is told to the sender and stands in the log.
fn short_line(text: &str) -> Result<(), String> {
    if text.len() > 500 || text.chars().any(char::is_control) {
        Err("a text is at most 500 octets without control characters".to_owned())
    } else {
        Ok(())
    }
}

impl From<&Transport> for TransportTable {
    fn from(transport: &Transport) -> TransportTable {
        let mut table = TransportTable::defaults();
        table.name.clone_from(&transport.name);
        table.connections = transport.limits.connections;
        table.recipients = transport.limits.recipients;
        table.rate = transport.limits.rate;
        table.dial_interval = transport.limits.dial_interval;
        table.kind = match &transport.kind {
            TransportKind::Direct => KindWord::Direct,
            TransportKind::Relay(relay) if relay.lmtp => KindWord::Lmtp,
            TransportKind::Relay(_) => KindWord::Relay,
            TransportKind::Fail { code, text } => {
                table.code = code.get();
                table.text.clone_from(text);
                KindWord::Fail
            }
            TransportKind::Discard => KindWord::Discard,
        };
        if let TransportKind::Relay(relay) = &transport.kind {
            table.hosts.clone_from(&relay.hosts);
            table.order = relay.order;
            table.tls = relay.tls;
            table.danger_accept_invalid_certs = relay.danger_accept_invalid_certs;
            table.redial = relay.redial;
            table.probe = relay.probe;
            if let Some(access) = &relay.access {
                table.ca_file.clone_from(&access.ca_file);
            }
            if let Some(login) = relay.login() {
                table.user = Some(login.user.clone());
                table.password = Some(login.password.clone());
                table.mechanisms.clone_from(&login.mechanisms);
                table.danger_auth_without_tls = login.danger_without_tls;
            }
        }
        if let Some(line) = &transport.line {
            table.helo.clone_from(&line.helo);
            table.source_addresses.clone_from(&line.source_addresses);
            table.proxy.clone_from(&line.proxy);
            table.overrides.clone_from(&line.overrides);
        }
        if let Some(own) = &transport.retry {
            table.overrides.extend_from_slice(&own.overrides);
        }
        table
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
            ("[2001:db8::1]", "2001:db8::1", 25),
            ("localhost", "localhost", 25),
        ] {
            let (parsed, parsed_port) = parse_host(text, 25).unwrap();
            let shown = match parsed {
                RelayHost::Name(name) => name.to_string(),
                other => other.to_string().replace(['[', ']'], ""),
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
            assert!(parse_host(bad, 25).is_err(), "{bad:?}");
        }
    }
}
