//! Whether a certificate is for a name (TLS-11, RFC 6125 as RFC 7672 and RFC 8461 use it): subjectAltName alone, a
//! wildcard stands for one whole label, addresses match addresses. The common name is not looked at.

use std::net::IpAddr;

use openssl::x509::X509Ref;

use crate::policy::plan::HostName;
use crate::policy::tls::Fault;
use crate::policy::tls::report::Kind;

/// Names of a certificate that are looked at. A message of 100 KiB holds no more than some thousands.
const MAX_NAMES: usize = 10_000;

/// Whether one of the certificate's names is one of `names`.
pub fn is_for(cert: &X509Ref, names: &[HostName]) -> bool {
    let Some(alternatives) = cert.subject_alt_names() else {
        return false;
    };
    alternatives.iter().take(MAX_NAMES).any(|alternative| {
        names.iter().any(|name| match name {
            HostName::Name(host) => alternative
                .dnsname()
                .is_some_and(|pattern| dns_matches(pattern, host.as_str())),
            HostName::Ip(ip) => alternative.ipaddress().is_some_and(|octets| match ip {
                IpAddr::V4(ip) => octets == ip.octets(),
                IpAddr::V6(ip) => octets == ip.octets(),
            }),
            HostName::Unix(_) => false,
        })
    })
}

/// Whether a name of a certificate covers `host`, which is in lower-case A-labels.
fn dns_matches(pattern: &str, host: &str) -> bool {
    if let Some(parent) = pattern.strip_prefix("*.") {
        // RFC 6125 §6.4.3: only the whole leftmost label; and not a whole top-level domain.
        return parent.contains('.')
            && host
                .split_once('.')
                .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent));
    }
    pattern.eq_ignore_ascii_case(host)
}

/// The fault of a certificate that is for other names.
pub(super) fn mismatch(cert: &X509Ref, names: &[HostName]) -> Fault {
    const SHOWN: usize = 3;
    let found: Vec<String> = cert
        .subject_alt_names()
        .map(|alternatives| {
            let names = alternatives.iter().filter_map(|alternative| {
                let name = alternative.dnsname()?;
                Some(name.chars().flat_map(char::escape_debug).take(80).collect())
            });
            names.take(SHOWN).collect()
        })
        .unwrap_or_default();
    let found = match found.is_empty() {
        true => "no name".to_string(),
        false => found.join(", "),
    };
    let wanted: Vec<String> = names.iter().take(SHOWN).map(HostName::to_string).collect();
    Fault {
        kind: Kind::CertificateHostMismatch,
        text: format!("it is for {found} and not for {}", wanted.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // TLS-11
    #[test]
    fn a_wildcard_stands_for_one_whole_label() {
        for (pattern, host, matches) in [
            ("mx.dest.test", "mx.dest.test", true),
            ("MX.Dest.test", "mx.dest.test", true),
            ("*.dest.test", "mx.dest.test", true),
            ("*.Dest.test", "mx.dest.test", true),
            ("*.dest.test", "dest.test", false),
            ("*.dest.test", "a.mx.dest.test", false),
            ("m*.dest.test", "mx.dest.test", false),
            ("mx.*.test", "mx.dest.test", false),
            ("*.test", "dest.test", false),
            ("*", "mx", false),
            ("*.", "mx.", false),
            (".dest.test", "mx.dest.test", false),
            ("mx.dest.test\0.evil.test", "mx.dest.test", false),
            ("", "mx.dest.test", false),
        ] {
            assert_eq!(dns_matches(pattern, host), matches, "{pattern} {host}");
        }
    }
}
