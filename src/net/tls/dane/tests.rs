//! TLSA records against chains made here (DANE-4, DANE-5).

use super::*;
use crate::net::tls::ca::{Authority, Issued, leaf, tlsa_data};
use crate::policy::plan::HostName;
use crate::smtp::address::Domain;

fn set(records: Vec<Tlsa>) -> DaneSet {
    let name = |text| HostName::Name(Domain::parse(text).unwrap());
    DaneSet {
        records,
        names: vec![name("mx.dest.test"), name("dest.test")],
    }
}

fn record(usage: u8, selector: u8, matching: u8, cert: &X509) -> Tlsa {
    Tlsa {
        usage,
        selector,
        matching,
        data: tlsa_data(cert, selector, matching),
    }
}

fn seen(records: Vec<Tlsa>, issued: &Issued) -> Result<(), Kind> {
    matches(&set(records), &issued.sent()).map_err(|fault| fault.kind)
}

const FORMS: [(u8, u8); 6] = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];

// DANE-5
#[test]
fn usage_3_takes_the_hosts_own_certificate_whatever_its_name_date_and_issuer() {
    let host = leaf(&["other.test"]).expired().self_signed();
    let stranger = leaf(&["other.test"]).expired().self_signed();
    for (selector, matching) in FORMS {
        let good = record(3, selector, matching, &host.cert);
        let bad = record(3, selector, matching, &stranger.cert);
        assert_eq!(
            seen(vec![good.clone()], &host),
            Ok(()),
            "{selector} {matching}"
        );
        assert_eq!(seen(vec![bad.clone()], &host), Err(Kind::TlsaInvalid));
        assert_eq!(seen(vec![bad, good], &host), Ok(()), "one must match");
    }
}

// DANE-5: an authority of the chain is no certificate of the host's own
#[test]
fn usage_3_looks_at_the_first_certificate_only() {
    let root = Authority::root("root");
    let host = root.issue(leaf(&["mx.dest.test"]));
    let of_root = record(3, 1, 1, &root.cert);
    assert_eq!(seen(vec![of_root], &host), Err(Kind::TlsaInvalid));
}

// DANE-5
#[test]
fn usage_2_takes_any_authority_of_the_sent_chain_with_a_path_a_date_and_a_name() {
    let root = Authority::root("root");
    let middle = root.under("middle");
    let good = middle.issue(leaf(&["mx.dest.test"]));
    for (selector, matching) in FORMS {
        for anchor in [&root.cert, &middle.cert] {
            let anchor = record(2, selector, matching, anchor);
            assert_eq!(seen(vec![anchor], &good), Ok(()), "{selector} {matching}");
        }
    }
    let of_middle = || vec![record(2, 1, 1, &middle.cert)];
    let of_root = || vec![record(2, 1, 1, &root.cert)];
    // Any of the names.
    let next_hop = middle.issue(leaf(&["x.test", "dest.test"]));
    assert_eq!(seen(of_middle(), &next_hop), Ok(()));
    let other = middle.issue(leaf(&["x.test"]).common_name("mx.dest.test"));
    assert_eq!(
        seen(of_middle(), &other),
        Err(Kind::CertificateHostMismatch)
    );
    let expired = middle.issue(leaf(&["mx.dest.test"]).expired());
    assert_eq!(seen(of_middle(), &expired), Err(Kind::CertificateExpired));
    let not_yet = middle.issue(leaf(&["mx.dest.test"]).not_yet());
    assert_eq!(seen(of_middle(), &not_yet), Err(Kind::CertificateExpired));
    // The authority must be sent, and so must what is in between.
    let alone = good.clone().sending(vec![]);
    assert_eq!(seen(of_middle(), &alone), Err(Kind::TlsaInvalid));
    let gap = good.clone().sending(vec![root.cert.clone()]);
    assert_eq!(seen(of_root(), &gap), Err(Kind::CertificateNotTrusted));
}

// DANE-5: whoever sends another's authority along has not been vouched for by it
#[test]
fn usage_2_is_not_fooled_by_an_authority_that_signed_nothing() {
    let root = Authority::root("root");
    let stranger = Authority::root("root");
    let host = stranger.issue(leaf(&["mx.dest.test"]));
    let with_root = host.sending(vec![root.cert.clone(), stranger.cert.clone()]);
    let of_root = record(2, 0, 1, &root.cert);
    assert_eq!(
        seen(vec![of_root], &with_root),
        Err(Kind::CertificateNotTrusted)
    );
    // A host's certificate is no authority.
    let first = root.issue(leaf(&["mx.dest.test"]));
    let mut second = root.issue(leaf(&["mx.dest.test"]));
    second.chain = vec![first.cert.clone()];
    let of_first = record(2, 0, 1, &first.cert);
    assert!(seen(vec![of_first], &second).is_err());
    // A record of usage 2 for the first certificate is not met by it.
    let itself = leaf(&["mx.dest.test"]).self_signed();
    let of_itself = record(2, 0, 1, &itself.cert);
    assert_eq!(seen(vec![of_itself], &itself), Err(Kind::TlsaInvalid));
}

// DANE-5
#[test]
fn the_key_in_a_certificate_is_found_as_it_stands() {
    let host = leaf(&["mx.dest.test"]).self_signed();
    let der = host.cert.to_der().unwrap();
    let key = host.cert.public_key().unwrap().public_key_to_der().unwrap();
    assert_eq!(spki::find(&der), Some(&key[..]));
    assert_eq!(spki::find(&der[..der.len() / 2]), None);
}
