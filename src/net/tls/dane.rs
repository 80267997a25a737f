//! Whether a chain matches TLSA records (DANE-5; RFC 6698 §2.1, RFC 7671 §5, RFC 7672 §3).
//!
//! Usage 3 is about the host's own certificate: name, date and issuer do not matter, the handshake has shown that the
//! host has the key. Usage 2 names an authority: it must be in the chain that was sent, the path from the certificate to
//! it must hold, dates and all, and the certificate must be for one of the names.

use openssl::error::ErrorStack;
use openssl::sha::{sha256, sha512};
use openssl::stack::Stack;
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId, X509Ref, X509StoreContext, X509VerifyResult};

use super::{chain_fault, names, spki};
use crate::policy::tls::facts::Tlsa;
use crate::policy::tls::report::Kind;
use crate::policy::tls::{DaneSet, Fault};

/// Certificates of a chain that are looked at.
const MAX_CHAIN: usize = 100;

/// Authorities of a chain to which a path is tried: each costs signatures, and the peer chooses how many there are.
const MAX_ANCHORS: usize = 10;

/// Whether `chain`, as the peer sent it, its own certificate first, matches one of the records.
///
/// # Errors
/// What is wrong: the fault that came nearest to a match.
pub fn matches(set: &DaneSet, chain: &[X509]) -> Result<(), Fault> {
    let chain = &chain[..chain.len().min(MAX_CHAIN)];
    let mut fault = Fault {
        kind: Kind::TlsaInvalid,
        text: "no TLSA record matches the certificate".to_string(),
    };
    let Some((leaf, above)) = chain.split_first() else {
        return Err(fault);
    };
    let of_usage = |usage| {
        set.records
            .iter()
            .filter(move |record| record.usage == usage)
    };
    if of_usage(3).any(|record| selects(record, leaf)) {
        return Ok(());
    }
    let anchors = above
        .iter()
        .filter(|cert| of_usage(2).any(|record| selects(record, cert)));
    for anchor in anchors.take(MAX_ANCHORS) {
        match path_holds(leaf, anchor, above) {
            Ok(X509VerifyResult::OK) if names::is_for(leaf, &set.names) => return Ok(()),
            Ok(X509VerifyResult::OK) => fault = names::mismatch(leaf, &set.names),
            Ok(result) => fault = chain_fault(result),
            Err(_) => {}
        }
    }
    Err(fault)
}

/// Whether the record is about this certificate.
fn selects(record: &Tlsa, cert: &X509Ref) -> bool {
    let Ok(der) = cert.to_der() else {
        return false;
    };
    let selected = match record.selector {
        0 => Some(der.as_slice()),
        1 => spki::find(&der),
        _ => None,
    };
    let Some(selected) = selected else {
        return false;
    };
    match record.matching {
        0 => selected == record.data,
        1 => sha256(selected)[..] == record.data,
        2 => sha512(selected)[..] == record.data,
        _ => false,
    }
}

/// Whether a path from `leaf` to `anchor` holds, with what the peer sent in between.
fn path_holds(
    leaf: &X509Ref,
    anchor: &X509Ref,
    sent: &[X509],
) -> Result<X509VerifyResult, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    store.add_cert(anchor.to_owned())?;
    // RFC 7671 §5.2.2: the authority need not be self-signed.
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    store.set_purpose(X509PurposeId::SSL_SERVER)?;
    let store = store.build();
    let mut between = Stack::new()?;
    for cert in sent {
        between.push(cert.clone())?;
    }
    let mut context = X509StoreContext::new()?;
    context.init(&store, leaf, &between, |context| {
        context.verify_cert()?;
        Ok(context.error())
    })
}

#[cfg(test)]
mod tests;
