//! What `[[transport]]` of kind relay comes to: hosts, TLS, credentials (CFG-20, RO-5 to RO-10).

use std::path::PathBuf;
use std::sync::Arc;

use super::secret::Secret;
use super::table::words;
use super::transport::RelayHost;
use crate::smtp::sasl::{Credentials, Mechanism, Password};

words! {
    /// In which order the hosts of a relay are tried.
    pub enum HostOrder {
        /// As they stand in the file.
        Listed = "listed",
        /// Anew for each attempt.
        Random = "random",
    }
}

words! {
    /// TLS toward a relay.
    pub enum RelayTls {
        /// None.
        None = "none",
        /// STARTTLS.
        StartTls = "starttls",
        /// TLS from the first octet on.
        Implicit = "implicit",
    }
}

words! {
    /// Whether a relay is tried out at the start of the daemon (RO-16).
    pub enum StartProbe {
        /// No.
        Off = "off",
        /// Yes, and the log says what came of it.
        Warn = "warn",
        /// Yes, and without a host that works there is no start.
        Require = "require",
    }
}

// The best first (RO-7).
words!(impl Mechanism {
    ScramSha256Plus = "SCRAM-SHA-256-PLUS",
    ScramSha256 = "SCRAM-SHA-256",
    ScramSha1Plus = "SCRAM-SHA-1-PLUS",
    ScramSha1 = "SCRAM-SHA-1",
    CramMd5 = "CRAM-MD5",
    Plain = "PLAIN",
    Login = "LOGIN",
});

/// A relay transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// It speaks LMTP (RO-14).
    pub lmtp: bool,
    /// Host name or address, and port; for a Unix socket 0.
    pub hosts: Vec<(RelayHost, u16)>,
    /// In which order they are tried.
    pub order: HostOrder,
    /// TLS; `None`: what the port stands for.
    pub tls: Option<RelayTls>,
    /// Whoever answers is believed to be the relay.
    pub danger_accept_invalid_certs: bool,
    /// How often it is redialled in one attempt (RO-10).
    pub redial: u32,
    /// Whether it is tried out at the start.
    pub probe: StartProbe,
    /// Who we are there, and whom we believe. Sessions are shared only between equals (CL-25); none for a relay that
    /// needs neither, so that nothing is compared there.
    pub access: Option<Arc<Access>>,
}

/// What is particular to one relay and must not be mixed up with another's (CL-25).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// Credentials.
    pub login: Option<Login>,
    /// Authorities that are believed in place of the system's.
    pub ca_file: Option<PathBuf>,
}

/// Credentials, and how they may be used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// Mechanisms that may be used; empty: all.
    pub mechanisms: Vec<Mechanism>,
    /// PLAIN, LOGIN and CRAM-MD5 may be used without verified TLS.
    pub danger_without_tls: bool,
}

impl Relay {
    /// Without TLS and credentials, in this order: for tests, and hosts that are trusted as they are.
    pub fn plain(hosts: Vec<(RelayHost, u16)>) -> Relay {
        Relay {
            lmtp: false,
            hosts,
            order: HostOrder::Listed,
            tls: Some(RelayTls::None),
            danger_accept_invalid_certs: false,
            redial: 5,
            probe: StartProbe::Off,
            access: None,
        }
    }

    /// TLS at a port: 465 is submissions, which begins with the handshake (RFC 8314 §3.3).
    pub fn tls_at(&self, port: u16) -> RelayTls {
        self.tls.unwrap_or(match port {
            465 => RelayTls::Implicit,
            _ => RelayTls::StartTls,
        })
    }

    /// Whether each of its sessions is verified (RO-6, RO-12).
    pub fn verifies(&self) -> bool {
        self.tls != Some(RelayTls::None) && !self.danger_accept_invalid_certs
    }

    /// Credentials.
    pub fn login(&self) -> Option<&Login> {
        self.access.as_ref()?.login.as_ref()
    }
}

impl Login {
    /// For AUTH.
    pub fn credentials(&self) -> Credentials {
        Credentials {
            user: self.user.clone(),
            password: Password(self.password.reveal().to_owned()),
            mechanisms: self.mechanisms.clone(),
            in_clear: self.danger_without_tls,
        }
    }
}
