//! SCRAM (RFC 5802, RFC 7677): both sides prove that they know the password, and neither shows it.

use openssl::base64;
use openssl::hash::{MessageDigest, hash};
use openssl::memcmp;
use openssl::pkcs5::pbkdf2_hmac;

use super::prep::prepared;
use super::{Binding, hmac};

/// RFC 5802 §5.1 and RFC 7677 §4 ask for this much at least. Less makes what a false peer sees easy to guess from.
const LEAST_ITERATIONS: usize = 4096;

/// More than anybody asks for, and half a second of work.
const MOST_ITERATIONS: usize = 1_000_000;

/// Which hash.
#[derive(Clone, Copy, Debug)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

/// Whether the exchange is tied to the TLS session (RFC 5802 §6).
#[derive(Clone, Debug)]
pub(super) enum Bound {
    /// The peer can and we do: flag p.
    With(Option<Binding>),
    /// We could, and the peer says it cannot: flag y, so that a peer whose offer was removed on the way notices.
    PeerCannot,
    /// We cannot, or shall not: flag n.
    WeCannot,
}

/// The client.
pub(super) struct Scram {
    hash: Hash,
    user: String,
    password: String,
    /// The GS2 header.
    header: String,
    binding: Vec<u8>,
    nonce: String,
    state: State,
}

enum State {
    /// The client's first message is out, or about to be.
    First,
    /// The client's proof is out; with this the peer proves itself.
    Proved { signature: Vec<u8> },
    /// The peer has proved itself.
    Verified,
}

impl std::fmt::Debug for Scram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scram")
    }
}

impl Hash {
    fn digest(self) -> MessageDigest {
        match self {
            Hash::Sha1 => MessageDigest::sha1(),
            Hash::Sha256 => MessageDigest::sha256(),
        }
    }
}

impl Scram {
    pub(super) fn new(hash: Hash, user: &str, password: &str, bound: Bound, nonce: &str) -> Scram {
        let (header, binding) = match bound {
            Bound::With(Some(binding)) => (format!("p={},,", binding.kind), binding.data),
            Bound::PeerCannot => ("y,,".to_string(), Vec::new()),
            Bound::With(None) | Bound::WeCannot => ("n,,".to_string(), Vec::new()),
        };
        Scram {
            hash,
            // RFC 5802 §5.1: the two that the syntax needs.
            user: prepared(user).replace('=', "=3D").replace(',', "=2C"),
            password: prepared(password),
            header,
            binding,
            nonce: nonce.to_string(),
            state: State::First,
        }
    }

    /// client-first-message
    pub(super) fn first(&mut self) -> Vec<u8> {
        format!("{}{}", self.header, self.bare()).into_bytes()
    }

    fn bare(&self) -> String {
        format!("n={},r={}", self.user, self.nonce)
    }

    /// The answer to server-first-message, or to server-final-message, which is empty.
    pub(super) fn respond(&mut self, challenge: &[u8]) -> Result<Vec<u8>, String> {
        let text = std::str::from_utf8(challenge).map_err(|_| "the challenge is not UTF-8")?;
        match &self.state {
            State::First => self.prove(text),
            State::Proved { signature } => {
                verify(text, signature)?;
                self.state = State::Verified;
                Ok(Vec::new())
            }
            State::Verified => Err("a challenge too many".to_string()),
        }
    }

    pub(super) fn accepted(&self) -> Result<(), String> {
        match self.state {
            State::Verified => Ok(()),
            _ => Err("accepted without proving that it knows the password".to_string()),
        }
    }

    /// RFC 5802 §3, with the names used there.
    fn prove(&mut self, server_first: &str) -> Result<Vec<u8>, String> {
        let challenge = Challenge::parse(server_first, &self.nonce)?;
        let digest = self.hash.digest();
        let mut salted = vec![0; digest.size()];
        let failed = |error: openssl::error::ErrorStack| format!("OpenSSL: {error}");
        pbkdf2_hmac(
            self.password.as_bytes(),
            &challenge.salt,
            challenge.iterations,
            digest,
            &mut salted,
        )
        .map_err(failed)?;
        let mut input = self.header.clone().into_bytes();
        input.extend_from_slice(&self.binding);
        let without_proof = format!("c={},r={}", base64::encode_block(&input), challenge.nonce);
        let auth_message = format!("{},{server_first},{without_proof}", self.bare());
        let auth_message = auth_message.as_bytes();
        let client_key = hmac(digest, &salted, &[b"Client Key"])?;
        let stored_key = hash(digest, &client_key).map_err(failed)?;
        let client_signature = hmac(digest, &stored_key, &[auth_message])?;
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&client_signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let server_key = hmac(digest, &salted, &[b"Server Key"])?;
        let signature = hmac(digest, &server_key, &[auth_message])?;
        self.state = State::Proved { signature };
        Ok(format!("{without_proof},p={}", base64::encode_block(&proof)).into_bytes())
    }
}

/// server-first-message
struct Challenge {
    nonce: String,
    salt: Vec<u8>,
    iterations: usize,
}

impl Challenge {
    fn parse(text: &str, ours: &str) -> Result<Challenge, String> {
        let mut parts = text.split(',');
        let mut part = |name: char| {
            parts
                .next()
                .and_then(|part| part.strip_prefix(name)?.strip_prefix('='))
        };
        // RFC 5802 §5.1: "m=" in first place is an extension that must be understood.
        let nonce = part('r').ok_or("the challenge has no nonce")?;
        // Ours with something of theirs behind it: or it is an answer to somebody else, or to nobody.
        if nonce.len() <= ours.len() || !nonce.starts_with(ours) {
            return Err("the nonce is not ours".to_string());
        }
        let printable = |byte: u8| matches!(byte, 0x21..=0x7e) && byte != b',';
        if !nonce.bytes().all(printable) {
            return Err("the nonce is malformed".to_string());
        }
        let salt = part('s').and_then(decoded).filter(|salt| !salt.is_empty());
        let salt = salt.ok_or("the salt is malformed")?;
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let iterations = part('i').filter(digits).and_then(|text| text.parse().ok());
        match iterations {
            Some(iterations @ LEAST_ITERATIONS..=MOST_ITERATIONS) => Ok(Challenge {
                nonce: nonce.to_string(),
                salt,
                iterations,
            }),
            Some(other) => Err(format!(
                "{other} iterations are not within {LEAST_ITERATIONS} to {MOST_ITERATIONS}"
            )),
            None => Err("the number of iterations is malformed".to_string()),
        }
    }
}

/// server-final-message
fn verify(text: &str, signature: &[u8]) -> Result<(), String> {
    let first = text.split(',').next().unwrap_or_default();
    if let Some(error) = first.strip_prefix("e=") {
        let error: String = error.chars().take(100).collect();
        return Err(format!("refused: {}", error.escape_default()));
    }
    let theirs = first.strip_prefix("v=").and_then(decoded);
    let theirs = theirs.ok_or("the proof of the peer is malformed")?;
    if theirs.len() == signature.len() && memcmp::eq(&theirs, signature) {
        Ok(())
    } else {
        Err("the peer does not know the password".to_string())
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    // OpenSSL forgives blanks around it.
    let strict = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    if !text.bytes().all(strict) {
        return None;
    }
    base64::decode_block(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha1() -> Scram {
        let nonce = "fyko+d2lbbFgONRv9qkxdawL";
        Scram::new(Hash::Sha1, "user", "pencil", Bound::WeCannot, nonce)
    }

    const SHA1_FIRST: &str =
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096";

    // RO-7: RFC 5802 §5
    #[test]
    fn sha_1_answers_as_its_rfc_shows() {
        let mut scram = sha1();
        assert_eq!(scram.first(), b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL");
        let last = scram.respond(SHA1_FIRST.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(last).unwrap(),
            "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts="
        );
        assert!(scram.accepted().is_err());
        assert_eq!(
            scram.respond(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=").unwrap(),
            b""
        );
        assert_eq!(scram.accepted(), Ok(()));
        assert!(scram.respond(b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=").is_err());
    }

    // RO-7: RFC 7677 §3
    #[test]
    fn sha_256_answers_as_its_rfc_shows() {
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        let mut scram = Scram::new(Hash::Sha256, "user", "pencil", Bound::WeCannot, nonce);
        assert_eq!(scram.first(), b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let last = scram.respond(first.as_bytes()).unwrap();
        assert_eq!(
            String::from_utf8(last).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        let proof = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        assert_eq!(scram.respond(proof).unwrap(), b"");
        assert_eq!(scram.accepted(), Ok(()));
    }

    // RO-7: RFC 5802 §6, §7
    #[test]
    fn the_binding_is_named_ahead_and_part_of_the_proof() {
        let binding = Binding {
            kind: "tls-exporter",
            data: b"\xff\x00secret".to_vec(),
        };
        let bound = Bound::With(Some(binding));
        let mut scram = Scram::new(Hash::Sha256, "a=b,c", "pencil", bound, "abc");
        assert_eq!(scram.first(), b"p=tls-exporter,,n=a=3Db=2Cc,r=abc");
        let last = scram.respond(b"r=abcd,s=QSXCR+Q6sek8bf92,i=4096").unwrap();
        let mut input = b"p=tls-exporter,,".to_vec();
        input.extend_from_slice(b"\xff\x00secret");
        let expected = format!("c={},r=abcd,p=", base64::encode_block(&input));
        assert!(last.starts_with(expected.as_bytes()));
        let mut scram = Scram::new(Hash::Sha1, "u", "p", Bound::PeerCannot, "abc");
        assert_eq!(scram.first(), b"y,,n=u,r=abc");
    }

    // RO-8
    #[test]
    fn a_peer_that_does_not_know_the_password_is_found_out() {
        for proof in [
            "v=AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "v=",
            "v=rmF9",
            "e=invalid-proof",
            "",
            "x",
        ] {
            let mut scram = sha1();
            scram.respond(SHA1_FIRST.as_bytes()).unwrap();
            assert!(scram.respond(proof.as_bytes()).is_err(), "{proof:?}");
            assert!(scram.accepted().is_err());
        }
    }

    // RO-8
    #[test]
    fn malformed_challenges_are_refused() {
        for bad in [
            "",
            "r=",
            "r=fyko+d2lbbFgONRv9qkxdawL,s=QSXCR+Q6sek8bf92,i=4096", // nothing of theirs
            "r=somebodyelse3rfcNHYJY1ZVvWVs7jjjjjjjjj,s=QSXCR+Q6sek8bf92,i=4096",
            "m=ext,r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=4096",
            "r=fyko+d2lbbFgONRv9qkxdawLx,s=,i=4096",
            "r=fyko+d2lbbFgONRv9qkxdawLx,s=?,i=4096",
            "r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92",
            "r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=0",
            "r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=4095",
            "r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=4000000000",
            "r=fyko+d2lbbFgONRv9qkxdawLx,s=QSXCR+Q6sek8bf92,i=+4096",
            "r=fyko+d2lbbFgONRv9qkxdawL\u{e9},s=QSXCR+Q6sek8bf92,i=4096",
        ] {
            assert!(sha1().respond(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(sha1().respond(b"\xff").is_err());
    }
}
