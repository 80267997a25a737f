//! What an attempt saw of a host's TLS, for the reports that domains ask for (RFC 8460, RPT-1).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::facts::{StsMode, StsPolicy, Tlsa};
use super::{Fault, Reached, Requirement};
use crate::policy::plan::HostName;
use crate::smtp::address::Domain;

/// Whose policy a session was held against (RFC 8460 §4.4, `policy-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// `no-policy-found`
    NoPolicy,
    /// `sts`, also in mode testing.
    Sts(Arc<StsPolicy>),
    /// `sts`, of which nothing is known, because it could not be had.
    StsUnknown,
    /// `tlsa`
    Tlsa {
        /// The name under which the records stand, as far as there is one (RFC 8460 §1.1).
        base: Option<Domain>,
        /// None where they could not be looked up.
        records: Arc<[Tlsa]>,
    },
}

/// The kinds of failure (RFC 8460 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// STARTTLS is not offered.
    StartTlsNotSupported,
    /// The certificate is for other names.
    CertificateHostMismatch,
    /// It is past its time, or before it.
    CertificateExpired,
    /// Nobody vouches for it.
    CertificateNotTrusted,
    /// Anything else of the handshake, also a host that the MTA-STS policy does not list.
    ValidationFailure,
    /// No TLSA record matches, or none can be read.
    TlsaInvalid,
    /// The records are bogus or cannot be had.
    DnssecInvalid,
    /// DANE is required and there are no records.
    DaneRequired,
    /// The MTA-STS policy could not be fetched.
    StsPolicyFetchError,
    /// The MTA-STS policy cannot be read.
    StsPolicyInvalid,
    /// The certificate of the policy's server.
    StsWebpkiInvalid,
}

/// As reports write it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::StartTlsNotSupported => "starttls-not-supported",
            Kind::CertificateHostMismatch => "certificate-host-mismatch",
            Kind::CertificateExpired => "certificate-expired",
            Kind::CertificateNotTrusted => "certificate-not-trusted",
            Kind::ValidationFailure => "validation-failure",
            Kind::TlsaInvalid => "tlsa-invalid",
            Kind::DnssecInvalid => "dnssec-invalid",
            Kind::DaneRequired => "dane-required",
            Kind::StsPolicyFetchError => "sts-policy-fetch-error",
            Kind::StsPolicyInvalid => "sts-policy-invalid",
            Kind::StsWebpkiInvalid => "sts-webpki-invalid",
        })
    }
}

/// One session, or one host that got none for the sake of TLS.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The policy domain: that of the recipient.
    pub domain: Domain,
    /// Whose policy.
    pub applied: Applied,
    /// The host; none where it is about the policy itself.
    pub host: Option<HostName>,
    /// Its address; none when it was not dialled.
    pub address: Option<IpAddr>,
    /// The name with which it greeted, if it came so far.
    pub helo: Option<String>,
    /// Our address.
    pub source: Option<IpAddr>,
    /// It met the policy, or what was wrong.
    pub result: Result<(), Fault>,
}

/// What a session says of the domain's own policy, whatever was required of it: in mode testing a failure is reported
/// and the mail is delivered (STS-9).
pub fn of_session(requirement: &Requirement, reached: &Reached) -> Result<(), Fault> {
    let plain = || {
        Err(Fault {
            kind: Kind::StartTlsNotSupported,
            text: "STARTTLS is not offered".to_string(),
        })
    };
    match &requirement.applied {
        _ if !reached.encrypted => plain(),
        // Whoever has no policy is only asked for TLS.
        Applied::NoPolicy | Applied::StsUnknown => Ok(()),
        Applied::Sts(policy) if policy.mode == StsMode::None => Ok(()),
        Applied::Sts(policy) => {
            let listed = requirement
                .conditions
                .names
                .iter()
                .any(|host| policy.lists(host));
            if listed {
                reached.name.clone()
            } else {
                Err(Fault {
                    kind: Kind::ValidationFailure,
                    text: "the MTA-STS policy does not list the host".to_string(),
                })
            }
        }
        Applied::Tlsa { .. } => reached.dane.clone().unwrap_or(Ok(())),
    }
}
