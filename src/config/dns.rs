//! `[dns]`

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;
use toml::de::DeValue;

use super::pattern::ClientPattern;
use super::table::{Fault, table};
use super::units::{Span, not_zero};
use super::value::{Value, fault, parsed, quoted, within};

/// One configured server: address and port.
pub type Server = SocketAddr;

/// A list of servers as written in the file, where the port may be left out.
#[derive(Clone)]
struct Servers(Vec<Server>);

impl From<Servers> for Vec<Server> {
    fn from(servers: Servers) -> Vec<Server> {
        servers.0
    }
}

impl From<Vec<Server>> for Servers {
    fn from(servers: Vec<Server>) -> Servers {
        Servers(servers)
    }
}

impl Value for Servers {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<Servers, Fault> {
        let one = |value| {
            parsed(value, "\"IP\", \"IP:PORT\" or \"[IPv6]:PORT\"", |text| {
                let bare = text.parse().map(|ip: IpAddr| SocketAddr::new(ip, 53));
                bare.or_else(|_| text.parse())
                    .ok()
                    .filter(|server| server.port() != 0)
                    .ok_or("not IP, IP:PORT or [IPv6]:PORT")
            })
        };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(one).collect::<Result<_, _>>().map(Servers),
            _ => Err(fault(value, "wanted is a list of servers in [ ]")),
        }
    }

    fn show(&self) -> Option<String> {
        let one = |server: &Server| match server.port() {
            53 => quoted(&server.ip().to_string()),
            _ => quoted(&server.to_string()),
        };
        Some(format!(
            "[{}]",
            self.0.iter().map(one).collect::<Vec<_>>().join(", ")
        ))
    }
}

table! {
    /// `[dns]` (CFG-17).
    pub struct Dns in "dns" {
        /// Servers, `"IP"`, `"IP:PORT"` or `"[IPv6]:PORT"`; `[]`: those of /etc/resolv.conf.
        servers: Vec<Server> as Servers = "[]";
        /// Servers whose AD bit is believed, as networks.
        trusted: Vec<ClientPattern> = r#"["loopback"]"#, networks;
        /// Wait for one server's answer to one query.
        query_timeout: Span = "\"5s\"", not_zero;
        /// All servers and tries of one lookup.
        total_timeout: Span = "\"30s\"", not_zero;
        /// Most answers that are remembered.
        cache_entries: usize = "10000", within(0, 10_000_000);
        /// Longest time for which an answer is remembered.
        cache_ttl: Span = "\"1d\"";
        /// Longest time for which "there is no such thing" is remembered.
        negative_ttl: Span = "\"15m\"";
    }
}

fn networks(trusted: &[ClientPattern]) -> Result<(), String> {
    if trusted.contains(&ClientPattern::Unix) {
        Err("\"unix\" is no network of DNS servers".to_owned())
    } else {
        Ok(())
    }
}
