//! `[[listen]]`

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::DeValue;

use super::pattern::ClientPattern;
use super::table::{Fault, table, words};
use super::value::{Mode, Value, absolute_if_any, parsed, quoted, socket_path};

words! {
    /// What a listener is for.
    pub enum Role {
        /// Trusted programs and hosts.
        Relay = "relay",
        /// Authenticated users.
        Submission = "submission",
        /// The outside world, for handlers.
        Inbound = "inbound",
        /// LMTP.
        Lmtp = "lmtp",
    }
}

words! {
    /// TLS of a listener.
    pub enum ListenTls {
        /// None.
        None = "none",
        /// STARTTLS is offered.
        StartTls = "starttls",
        /// TLS from the first byte.
        Implicit = "implicit",
    }
}

words! {
    /// AUTH of a listener.
    pub enum ListenAuth {
        /// Not offered.
        None = "none",
        /// Offered.
        Optional = "optional",
        /// MAIL needs it.
        Required = "required",
    }
}

words! {
    /// What becomes of a bare LF in content (IN-4).
    pub enum BareNewline {
        /// Taken as a line end that can never end the data.
        Normalize = "normalize",
        /// 550 5.6.0.
        Reject = "reject",
    }
}

words! {
    /// What becomes of a client that talks before its turn (IN-20).
    pub enum EarlyTalk {
        /// Taken.
        Accept = "accept",
        /// 554 5.5.0 and close.
        Reject = "reject",
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `"IP:PORT"`
    Tcp(SocketAddr),
    /// `"unix:PATH"`
    Unix(PathBuf),
}

/// As it is written in the file.
impl std::fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenAddress::Tcp(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Value for ListenAddress {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<ListenAddress, Fault> {
        const WANTED: &str = "\"IP:PORT\", \"[IPv6]:PORT\" or \"unix:PATH\"";
        parsed(value, WANTED, |text| match text.strip_prefix("unix:") {
            Some(path) => socket_path(Path::new(path)).map(|()| ListenAddress::Unix(path.into())),
            None => text
                .parse()
                .map(ListenAddress::Tcp)
                .map_err(|_| format!("not {WANTED}")),
        })
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string()))
    }
}

table! {
    /// `[[listen]]` (CFG-12). With none of these tables there are three: 127.0.0.1:25, [::1]:25 and
    /// unix:/run/posthaste/smtp.
    pub struct Listen in "listen" repeated true {
        /// Name in the log; not set: the address.
        name: String = (computed "the address", String::new());
        /// Where: `"IP:PORT"`, `"[IPv6]:PORT"` or `"unix:PATH"`.
        address: ListenAddress = (required "\"127.0.0.1:25\"");
        /// What for: `"relay"` takes mail from trusted programs and hosts.
        role: Role = "\"relay\"", this_version_relays;
        /// TLS: `"none"`, `"starttls"`: offered, `"implicit"`: from the first octet on.
        tls: ListenTls = "\"none\"";
        /// Certificate and what it was signed with, PEM, the host's own first. A reload reads it again.
        cert: Option<PathBuf> = (unset), absolute_if_any;
        /// Its private key, PEM, without passphrase. Only its owner may read it. A reload reads it again.
        key: Option<PathBuf> = (unset), absolute_if_any;
        /// AUTH: `"none"`.
        auth: ListenAuth = "\"none\"", no_auth_yet;
        /// Clients that may relay: `"loopback"`, `"unix"`, addresses and networks.
        relay_from: Vec<ClientPattern> = r#"["loopback", "unix"]"#;
        /// A bare LF in content: `"normalize"` takes it as the end of a line, `"reject"` refuses the message.
        bare_newline: BareNewline = "\"normalize\"";
        /// A client that talks before its turn: `"accept"`, `"reject"`.
        early_talk: EarlyTalk = "\"accept\"";
        /// Mode of a Unix socket.
        mode: u32 as Mode = "0o666";
    }
}

impl Listen {
    /// A relay listener at `address`, named after it, with all defaults.
    pub fn at(address: ListenAddress) -> Listen {
        let defaults = <Listen as super::table::Table>::defaults();
        Listen {
            name: address.to_string(),
            address,
            ..defaults
        }
    }

    /// Whether this is the same listener, whatever its name and rules: the same place. Where the system chooses the port,
    /// only the name tells one from another.
    pub fn is_at(&self, other: &Listen) -> bool {
        let chosen = matches!(self.address, ListenAddress::Tcp(tcp) if tcp.port() == 0);
        self.address == other.address && (!chosen || self.name == other.name)
    }

    /// What concerns more than one key.
    ///
    /// # Errors
    /// The key at fault, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let given = [("cert", &self.cert), ("key", &self.key)];
        for (key, path) in given {
            match (self.tls, path) {
                // Whoever names a certificate thinks that it is shown.
                (ListenTls::None, Some(_)) => {
                    return Err((key, "needs tls = \"starttls\" or \"implicit\""));
                }
                (ListenTls::StartTls | ListenTls::Implicit, None) => {
                    return Err(("tls", "needs cert and key"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The files of its certificate and key, if it does TLS.
    pub fn identity_files(&self) -> Option<(&Path, &Path)> {
        match self.tls {
            ListenTls::None => None,
            ListenTls::StartTls | ListenTls::Implicit => {
                Some((self.cert.as_deref()?, self.key.as_deref()?))
            }
        }
    }
}

const NOT_YET: &str = "not available in this version";

fn this_version_relays(role: &Role) -> Result<(), String> {
    match role {
        Role::Relay => Ok(()),
        Role::Submission | Role::Inbound | Role::Lmtp => Err(NOT_YET.to_owned()),
    }
}

fn no_auth_yet(auth: &ListenAuth) -> Result<(), String> {
    match auth {
        ListenAuth::None => Ok(()),
        ListenAuth::Optional | ListenAuth::Required => Err(NOT_YET.to_owned()),
    }
}
