//! `[tls]` and `[[tls_policy]]`

use std::path::PathBuf;

use super::pattern::DomainPattern;
use super::table::{table, words};
use super::units::{Span, not_zero};
use super::value::{absolute_if_any, within};
use crate::smtp::address::{AddressDomain, Domain, Mailbox};

words! {
    /// The lowest TLS version.
    pub enum TlsVersion {
        /// TLS 1.2 (RFC 5246).
        Tls12 = "1.2",
        /// TLS 1.3 (RFC 8446).
        Tls13 = "1.3",
    }
}

words! {
    /// What is wanted of TLS toward a host, by the word of the operator (TLS-1, TLS-7).
    pub enum TlsWanted {
        /// Never TLS.
        Never = "none",
        /// TLS when it is offered.
        Opportunistic = "opportunistic",
        /// TLS, whoever it is.
        Encrypt = "encrypt",
        /// TLS with a certificate for the host's name.
        Verify = "verify",
        /// TLS verified by TLSA records.
        Dane = "dane",
    }
}

words! {
    /// What is held against a domain that once did better (TLS-5).
    pub enum TlsMemory {
        /// Nothing.
        Off = "off",
        /// It once had TLS.
        Encryption = "encryption",
        /// It once verified by name.
        Verification = "verification",
    }
}

table! {
    /// `[tls]`: TLS toward other hosts (CFG-18).
    pub struct Tls in "tls" {
        /// Lowest version, `"1.2"` or `"1.3"`.
        min_version: TlsVersion = "\"1.2\"";
        /// Certificates of the authorities that are believed, PEM; `""`: those of the system.
        ca_file: Option<PathBuf> = "\"\"", absolute_if_any;
        /// What every host must reach at least: `"none"`, `"opportunistic"`, `"encrypt"`, `"verify"`, `"dane"`.
        level: TlsWanted = "\"opportunistic\"";
        /// Whether a host whose TLS fails is spoken to in clear where nothing requires TLS.
        fallback: bool = "true";
        /// What is held against a domain that once did better: `"off"`, `"encryption"`, `"verification"`.
        memory: TlsMemory = "\"encryption\"";
        /// How long that is remembered without being seen again.
        memory_age: Span = "\"180d\"", not_zero;
        /// Whether MTA-STS policies are looked up and obeyed (RFC 8461).
        mta_sts: bool = "true";
        /// Port of the servers that have the policies.
        mta_sts_port: u16 = "443", within(1, u16::MAX);
        /// Whether TLSA records are looked up and obeyed. Needs a validating DNS server that `dns.trusted` names.
        dane: bool = "true";
        /// Longest TLS handshake.
        handshake_timeout: Span = "\"1m\"", not_zero;
        /// Whether domains that ask for it are told each day how TLS toward their hosts went (RFC 8460).
        reports: bool = "true";
        /// From of these reports, and whom to ask about them; unset: `from` of `[dsn]`.
        report_from: Option<Mailbox> = (unset), plain_if_any;
    }
}

/// A report is ASCII, and signed by a domain.
fn plain_if_any(from: &Option<Mailbox>) -> Result<(), String> {
    match from {
        Some(from) if !is_plain(from) => {
            Err("an ASCII address with a domain name is wanted".to_owned())
        }
        _ => Ok(()),
    }
}

fn is_plain(mailbox: &Mailbox) -> bool {
    !mailbox.needs_utf8() && matches!(mailbox.domain(), AddressDomain::Name(_))
}

table! {
    /// `[[tls_policy]]` (CFG-18, TLS-7).
    pub struct TlsPolicy in "tls_policy" repeated true {
        /// Patterns for the domain of the recipient. The first table with one that fits holds.
        domains: Vec<DomainPattern> = (required "[\"example.org\"]");
        /// As `level` of `[tls]`; also `"none"`, for never TLS.
        level: TlsWanted = (required "\"verify\"");
        /// With level `"verify"`: names that the certificate may have in place of the host's; `[]`: the host's.
        names: Vec<Domain> = "[]";
    }
}

impl TlsPolicy {
    /// What concerns more than one key.
    ///
    /// # Errors
    /// The key at fault, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.domains.is_empty() {
            return Err(("domains", "at least one pattern is wanted"));
        }
        if !self.names.is_empty() && self.level != TlsWanted::Verify {
            return Err(("names", "only level \"verify\" looks at names"));
        }
        Ok(())
    }

    /// The first that holds for a recipient's domain (TLS-7).
    pub fn first_of<'a>(
        policies: &'a [TlsPolicy],
        domain: &AddressDomain,
    ) -> Option<&'a TlsPolicy> {
        policies
            .iter()
            .find(|policy| policy.domains.iter().any(|pattern| pattern.matches(domain)))
    }
}
