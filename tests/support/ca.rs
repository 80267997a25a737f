//! Private authorities and certificates, made in the test. Needs only `openssl`, so that unit tests can take this file
//! in by `#[path]`.

#![allow(clippy::unwrap_used)] // a test that cannot make its certificates has failed
#![allow(dead_code, reason = "each user needs a part of it")]

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// An authority.
#[derive(Clone)]
pub struct Authority {
    pub cert: X509,
    pub key: PKey<Private>,
    /// Authorities above it, nearest first; a root has none.
    pub above: Vec<X509>,
}

/// A certificate of a host, with its key and what it sends along.
#[derive(Clone, Debug)]
pub struct Issued {
    pub cert: X509,
    pub key: PKey<Private>,
    /// What follows the certificate in the handshake.
    pub chain: Vec<X509>,
}

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The common name, which nobody should look at.
    pub common_name: String,
    /// Names and addresses in subjectAltName.
    pub names: Vec<String>,
    /// Days from now: begin and end.
    pub days: (i64, i64),
}

/// A good certificate for these names.
pub fn leaf(names: &[&str]) -> Leaf {
    Leaf {
        common_name: "host".to_string(),
        names: names.iter().map(|name| (*name).to_string()).collect(),
        days: (-1, 30),
    }
}

impl Leaf {
    /// Past its time.
    pub fn expired(mut self) -> Leaf {
        self.days = (-30, -1);
        self
    }

    /// Before its time.
    pub fn not_yet(mut self) -> Leaf {
        self.days = (1, 30);
        self
    }

    /// With this common name.
    pub fn common_name(mut self, name: &str) -> Leaf {
        self.common_name = name.to_string();
        self
    }

    /// Signed by itself.
    pub fn self_signed(self) -> Issued {
        let key = new_key();
        let subject = name(&self.common_name);
        let mut cert = builder(&subject, &subject, &key, self.days);
        self.put_names(&mut cert);
        cert.sign(&key, MessageDigest::sha256()).unwrap();
        Issued {
            cert: cert.build(),
            key,
            chain: Vec::new(),
        }
    }

    fn put_names(&self, cert: &mut X509Builder) {
        if self.names.is_empty() {
            return;
        }
        let mut alternatives = SubjectAlternativeName::new();
        for name in &self.names {
            match name.parse::<IpAddr>() {
                Ok(_) => alternatives.ip(name),
                Err(_) => alternatives.dns(name),
            };
        }
        let extension = alternatives
            .build(&cert.x509v3_context(None, None))
            .unwrap();
        cert.append_extension(extension).unwrap();
    }
}

impl Authority {
    /// A root.
    pub fn root(common_name: &str) -> Authority {
        let key = new_key();
        let subject = name(common_name);
        let mut cert = builder(&subject, &subject, &key, (-1, 365));
        make_authority(&mut cert);
        cert.sign(&key, MessageDigest::sha256()).unwrap();
        Authority {
            cert: cert.build(),
            key,
            above: Vec::new(),
        }
    }

    /// An authority under this one.
    pub fn under(&self, common_name: &str) -> Authority {
        let key = new_key();
        let subject = name(common_name);
        let mut cert = builder(&subject, self.cert.subject_name(), &key, (-1, 365));
        make_authority(&mut cert);
        cert.sign(&self.key, MessageDigest::sha256()).unwrap();
        let mut above = vec![self.cert.clone()];
        above.extend(self.above.iter().cloned());
        Authority {
            cert: cert.build(),
            key,
            above,
        }
    }

    /// A host's certificate. Sends all authorities along.
    pub fn issue(&self, leaf: Leaf) -> Issued {
        let key = new_key();
        let subject = name(&leaf.common_name);
        let mut cert = builder(&subject, self.cert.subject_name(), &key, leaf.days);
        leaf.put_names(&mut cert);
        cert.sign(&self.key, MessageDigest::sha256()).unwrap();
        let mut chain = vec![self.cert.clone()];
        chain.extend(self.above.iter().cloned());
        Issued {
            cert: cert.build(),
            key,
            chain,
        }
    }

    /// Its certificate as `ca_file` wants it.
    pub fn pem(&self) -> Vec<u8> {
        self.cert.to_pem().unwrap()
    }
}

impl Issued {
    /// Sends this along, whatever belongs there.
    pub fn sending(mut self, chain: Vec<X509>) -> Issued {
        self.chain = chain;
        self
    }

    /// The chain as it is sent.
    pub fn sent(&self) -> Vec<X509> {
        let mut all = vec![self.cert.clone()];
        all.extend(self.chain.iter().cloned());
        all
    }
}

/// The data of a TLSA record for a certificate.
pub fn tlsa_data(cert: &X509, selector: u8, matching: u8) -> Vec<u8> {
    let selected = match selector {
        0 => cert.to_der().unwrap(),
        _ => cert.public_key().unwrap().public_key_to_der().unwrap(),
    };
    match matching {
        0 => selected,
        1 => openssl::sha::sha256(&selected).to_vec(),
        _ => openssl::sha::sha512(&selected).to_vec(),
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", common_name).unwrap();
    name.build()
}

fn builder(
    subject: &openssl::x509::X509NameRef,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
    (begin, end): (i64, i64),
) -> X509Builder {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at = |days: i64| Asn1Time::from_unix(now.as_secs() as i64 + days * 86_400).unwrap();
    let mut cert = X509Builder::new().unwrap();
    cert.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(127, MsbOption::MAYBE_ZERO, false).unwrap();
    cert.set_serial_number(&serial.to_asn1_integer().unwrap())
        .unwrap();
    cert.set_subject_name(subject).unwrap();
    cert.set_issuer_name(issuer).unwrap();
    cert.set_pubkey(key).unwrap();
    cert.set_not_before(&at(begin)).unwrap();
    cert.set_not_after(&at(end)).unwrap();
    cert
}

fn make_authority(cert: &mut X509Builder) {
    cert.append_extension(BasicConstraints::new().critical().ca().build().unwrap())
        .unwrap();
    let usage = KeyUsage::new()
        .critical()
        .key_cert_sign()
        .crl_sign()
        .build();
    cert.append_extension(usage.unwrap()).unwrap();
}
