//! What ties an exchange inside a TLS session to that session (channel bindings, RFC 5056).

use openssl::hash::{MessageDigest, hash};
use openssl::nid::Nid;
use openssl::ssl::{SslRef, SslVersion};

use crate::smtp::sasl::Binding;

/// RFC 9266 §2
const LABEL: &str = "EXPORTER-Channel-Binding";

/// The binding that a peer of this version expects; `None` if there is none that holds.
pub(super) fn of_client(ssl: &SslRef) -> Option<Binding> {
    match ssl.version2()? {
        // RFC 9266 §3: the only one that TLS 1.3 has, and the one that is expected there.
        SslVersion::TLS1_3 => exporter(ssl),
        // RFC 9266 §4.2: without the extended master secret (RFC 7627) two sessions may share theirs, and then their
        // Finished messages tie nothing.
        SslVersion::TLS1_2 if ssl.extms_support() == Some(true) => unique(ssl),
        _ => end_point(ssl),
    }
}

fn exporter(ssl: &SslRef) -> Option<Binding> {
    let mut data = vec![0; 32];
    // The context is there and empty, which before TLS 1.3 is not the same as none.
    ssl.export_keying_material(&mut data, LABEL, Some(&[]))
        .ok()?;
    Some(Binding {
        kind: "tls-exporter",
        data,
    })
}

/// RFC 5929 §3: the first Finished message, which without resumption is the client's.
fn unique(ssl: &SslRef) -> Option<Binding> {
    let mut data = vec![0; 64];
    let length = ssl.finished(&mut data);
    data.truncate(length);
    (1..=64).contains(&length).then_some(Binding {
        kind: "tls-unique",
        data,
    })
}

/// RFC 5929 §4: the server's certificate.
fn end_point(ssl: &SslRef) -> Option<Binding> {
    let certificate = ssl.peer_certificate()?;
    let signed = certificate.signature_algorithm().object().nid();
    let digest = match signed.signature_algorithms()?.digest {
        // RFC 5929 §4.1: where these two were used for the signature, SHA-256 stands in.
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        digest => MessageDigest::from_nid(digest)?,
    };
    let octets = certificate.to_der().ok()?;
    Some(Binding {
        kind: "tls-server-end-point",
        data: hash(digest, &octets).ok()?.to_vec(),
    })
}
