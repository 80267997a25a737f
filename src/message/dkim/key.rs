//! Signing keys, and the ring of those in force.

use std::fmt;
use std::sync::Arc;

use openssl::base64::encode_block;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private};
use openssl::sha::sha256;
use openssl::sign::Signer as OpensslSigner;

use crate::smtp::address::Domain;

/// RFC 8301 §3.2: keys of fewer bits are not believed by anybody.
const LEAST_BITS: u32 = 1024;
/// Below it there is a warning (MSG-8).
const GOOD_BITS: u32 = 2048;
/// RFC 8301 §3.2 has verifiers take as many; what is longer nobody needs to check, and fits no DNS answer.
const MOST_BITS: u32 = 4096;

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5 (RFC 6376 §3.3.1).
    Rsa,
    /// Ed25519 over the SHA-256 hash (RFC 8463 §3).
    Ed25519,
}

impl Algorithm {
    /// The value of `a=`.
    pub fn tag(self) -> &'static str {
        match self {
            Algorithm::Rsa => "rsa-sha256",
            Algorithm::Ed25519 => "ed25519-sha256",
        }
    }

    /// The value of `k=` in DNS.
    pub fn key_type(self) -> &'static str {
        match self {
            Algorithm::Rsa => "rsa",
            Algorithm::Ed25519 => "ed25519",
        }
    }
}

/// Why a key cannot be used, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError(pub String);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyError {}

impl From<ErrorStack> for KeyError {
    fn from(error: ErrorStack) -> KeyError {
        KeyError(format!("OpenSSL: {error}"))
    }
}

/// A key with the name under which its public half stands in DNS.
pub struct SigningKey {
    domain: Domain,
    selector: Domain,
    algorithm: Algorithm,
    key: PKey<Private>,
}

/// SEC-10: nothing of the key.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.name())
    }
}

impl SigningKey {
    /// Takes a key for mail of `domain` that is published under `selector`, and tries it.
    ///
    /// # Errors
    /// Neither RSA nor Ed25519, RSA of under 1024 or over 4096 bits, or no key that signs.
    pub fn new(
        domain: Domain,
        selector: Domain,
        key: PKey<Private>,
    ) -> Result<SigningKey, KeyError> {
        let algorithm = match key.id() {
            Id::RSA if !(LEAST_BITS..=MOST_BITS).contains(&key.bits()) => {
                let bits = key.bits();
                return Err(KeyError(format!(
                    "an RSA key of {bits} bits; wanted are {LEAST_BITS} at least, better {GOOD_BITS}, and at most {MOST_BITS}"
                )));
            }
            Id::RSA => Algorithm::Rsa,
            Id::ED25519 => Algorithm::Ed25519,
            _ => return Err(KeyError("neither an RSA nor an Ed25519 key".to_owned())),
        };
        let key = SigningKey {
            domain,
            selector,
            algorithm,
            key,
        };
        key.sign(b"")?;
        Ok(key)
    }

    /// One that looks like a good key and cannot sign.
    #[cfg(test)]
    pub fn broken(domain: Domain) -> SigningKey {
        SigningKey {
            selector: domain.clone(),
            domain,
            algorithm: Algorithm::Ed25519,
            key: PKey::generate_x25519().expect("OpenSSL makes keys"),
        }
    }

    /// The domain that signs.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Its selector.
    pub fn selector(&self) -> &Domain {
        &self.selector
    }

    /// How it signs.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Where its public half is looked up (RFC 6376 §3.6.2.1).
    pub fn name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    /// What an operator should know of it (MSG-8).
    pub fn warning(&self) -> Option<String> {
        let bits = self.key.bits();
        (self.algorithm == Algorithm::Rsa && bits < GOOD_BITS).then(|| {
            format!(
                "{}: an RSA key of {bits} bits, under {GOOD_BITS}",
                self.name()
            )
        })
    }

    /// What DNS has to say (RFC 6376 §3.6.1, RFC 8463 §4).
    ///
    /// # Errors
    /// OpenSSL's.
    pub fn record(&self) -> Result<String, KeyError> {
        let public = match self.algorithm {
            Algorithm::Rsa => self.key.public_key_to_der()?,
            Algorithm::Ed25519 => self.key.raw_public_key()?,
        };
        Ok(format!(
            "v=DKIM1; k={}; p={}",
            self.algorithm.key_type(),
            encode_block(&public)
        ))
    }

    /// Signs the canonical header fields.
    ///
    /// # Errors
    /// OpenSSL's.
    pub(super) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature =
            match self.algorithm {
                Algorithm::Rsa => OpensslSigner::new(MessageDigest::sha256(), &self.key)?
                    .sign_oneshot_to_vec(data)?,
                // RFC 8463 §3: PureEdDSA over the hash.
                Algorithm::Ed25519 => OpensslSigner::new_without_digest(&self.key)?
                    .sign_oneshot_to_vec(&sha256(data))?,
            };
        Ok(signature)
    }

    /// Whether it is the same key under the same name.
    pub fn is_same(&self, other: &SigningKey) -> bool {
        self.domain == other.domain
            && self.selector == other.selector
            && self.key.public_eq(&other.key)
    }
}

/// The keys in force. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Keyring(Arc<[Arc<SigningKey>]>);

impl Keyring {
    /// A ring of these, in the order in which they sign.
    pub fn new(keys: Vec<Arc<SigningKey>>) -> Keyring {
        Keyring(keys.into())
    }

    /// All of them.
    pub fn keys(&self) -> &[Arc<SigningKey>] {
        &self.0
    }

    /// Nothing is signed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether mail with this domain in From is signed.
    pub fn signs(&self, domain: &Domain) -> bool {
        self.0.iter().any(|key| key.domain == *domain)
    }
}

#[cfg(test)]
mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::nid::Nid;
    use openssl::rsa::Rsa;

    use super::*;

    fn name(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn key(key: PKey<Private>) -> Result<SigningKey, KeyError> {
        SigningKey::new(name("here.example"), name("s1"), key)
    }

    fn rsa(bits: u32) -> PKey<Private> {
        PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
    }

    // MSG-8
    #[test]
    fn only_keys_that_sign_and_that_others_believe_are_taken() {
        assert!(key(rsa(512)).unwrap_err().0.contains("of 512 bits"));
        let weak = key(rsa(1024)).unwrap().warning().unwrap();
        assert!(weak.starts_with("s1._domainkey.here.example: an RSA key of 1024"));
        assert_eq!(key(rsa(2048)).unwrap().warning(), None);
        let ed = key(PKey::generate_ed25519().unwrap()).unwrap();
        assert_eq!((ed.algorithm(), ed.warning()), (Algorithm::Ed25519, None));
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let ec = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        for other in [ec, PKey::generate_x25519().unwrap()] {
            assert!(key(other).unwrap_err().0.contains("neither"));
        }
    }

    // MSG-7
    #[test]
    fn a_ring_signs_for_exactly_the_domains_it_has_keys_of() {
        let ed = Arc::new(key(PKey::generate_ed25519().unwrap()).unwrap());
        let ring = Keyring::new(vec![ed]);
        assert!(ring.signs(&name("HERE.example")));
        assert!(!ring.signs(&name("sub.here.example")) && !ring.signs(&name("example")));
        assert!(Keyring::default().is_empty() && !Keyring::default().signs(&name("a.b")));
    }

    // SEC-10
    #[test]
    fn a_key_shows_nothing_but_its_name() {
        let ed = key(PKey::generate_ed25519().unwrap()).unwrap();
        assert_eq!(format!("{ed:?}"), "SigningKey(s1._domainkey.here.example)");
        assert!(ed.record().unwrap().starts_with("v=DKIM1; k=ed25519; p="));
    }
}
