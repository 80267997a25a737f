//! The server's side of AUTH (RFC 4954), written against the RFCs and not against the client.

use openssl::base64::{decode_block, encode_block};
use openssl::hash::{MessageDigest, hash};
use openssl::pkcs5::pbkdf2_hmac;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use openssl::ssl::{SslRef, SslVersion};

/// Who may come in, and how.
#[derive(Clone, Debug)]
pub struct Auth {
    pub user: String,
    pub password: String,
    pub mechanisms: Vec<String>,
}

const SALT: &[u8] = b"a salt";
const ITERATIONS: usize = 4096;
const OURS: &str = "%servers-part%";

fn hmac(digest: MessageDigest, key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = PKey::hmac(key).unwrap();
    let mut signer = Signer::new(digest, &key).unwrap();
    signer.update(data).unwrap();
    signer.sign_to_vec().unwrap()
}

/// What the server knows of the TLS session (RFC 5929, RFC 9266).
pub fn bindings(ssl: &SslRef) -> Vec<(&'static str, Vec<u8>)> {
    let mut all = Vec::new();
    if ssl.version2() == Some(SslVersion::TLS1_3) {
        let mut data = vec![0; 32];
        let label = "EXPORTER-Channel-Binding";
        ssl.export_keying_material(&mut data, label, Some(b""))
            .unwrap();
        all.push(("tls-exporter", data));
    } else {
        let mut data = vec![0; 64];
        let length = ssl.peer_finished(&mut data);
        data.truncate(length);
        all.push(("tls-unique", data));
    }
    all
}

/// One exchange: given what the client said, what to say next. `Err` is the end: the reply.
pub struct Exchange<'a> {
    auth: &'a Auth,
    mechanism: String,
    bindings: Vec<(&'static str, Vec<u8>)>,
    step: usize,
    said: Vec<String>,
}

const NO: &str = "535 5.7.8 wrong";
const YES: &str = "235 2.7.0 come in";

impl<'a> Exchange<'a> {
    pub fn new(auth: &'a Auth, mechanism: &str, bindings: Vec<(&'static str, Vec<u8>)>) -> Self {
        Exchange {
            auth,
            mechanism: mechanism.to_ascii_uppercase(),
            bindings,
            step: 0,
            said: Vec::new(),
        }
    }

    /// `heard`: the client's words, `None` before the first without an initial response.
    pub fn next(&mut self, heard: Option<&str>) -> Result<String, &'static str> {
        if !self.auth.mechanisms.contains(&self.mechanism) {
            return Err("504 5.5.4 no such mechanism");
        }
        let heard = match heard {
            None => None,
            Some(text) => Some(decode_block(text).map_err(|_| "501 5.5.2 not base64")?),
        };
        self.step += 1;
        let challenge = match self.mechanism.as_str() {
            "PLAIN" => self.plain(heard)?,
            "LOGIN" => self.login(heard)?,
            "CRAM-MD5" => self.cram(heard)?,
            _ => self.scram(heard)?,
        };
        Ok(encode_block(&challenge))
    }

    fn judge(good: bool) -> Result<Vec<u8>, &'static str> {
        Err(if good { YES } else { NO })
    }

    fn plain(&self, heard: Option<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        let Some(heard) = heard else {
            return Ok(Vec::new());
        };
        let expected = format!("\0{}\0{}", self.auth.user, self.auth.password);
        Self::judge(heard == expected.as_bytes())
    }

    fn login(&mut self, heard: Option<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        if let Some(heard) = heard {
            self.said.push(String::from_utf8(heard).unwrap());
        }
        match self.said.as_slice() {
            [] => Ok(b"Username:".to_vec()),
            [_] => Ok(b"Password:".to_vec()),
            said => Self::judge(said == [self.auth.user.clone(), self.auth.password.clone()]),
        }
    }

    fn cram(&self, heard: Option<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        const CHALLENGE: &[u8] = b"<1.2@mx.test>";
        let Some(heard) = heard else {
            return Ok(CHALLENGE.to_vec());
        };
        let digest = hmac(
            MessageDigest::md5(),
            self.auth.password.as_bytes(),
            CHALLENGE,
        );
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        Self::judge(heard == format!("{} {hex}", self.auth.user).as_bytes())
    }

    fn scram(&mut self, heard: Option<Vec<u8>>) -> Result<Vec<u8>, &'static str> {
        let Some(heard) = heard else {
            return Ok(Vec::new());
        };
        let heard = String::from_utf8(heard).map_err(|_| NO)?;
        self.said.push(heard.clone());
        match self.said.len() {
            1 => {
                let nonce = heard.rsplit_once(",r=").ok_or(NO)?.1;
                let salt = encode_block(SALT);
                Ok(format!("r={nonce}{OURS},s={salt},i={ITERATIONS}").into_bytes())
            }
            2 => self.proof(&heard),
            // The empty answer to our own proof.
            _ => Self::judge(heard.is_empty()),
        }
    }

    fn proof(&self, last: &str) -> Result<Vec<u8>, &'static str> {
        let digest = match self.mechanism.starts_with("SCRAM-SHA-256") {
            true => MessageDigest::sha256(),
            false => MessageDigest::sha1(),
        };
        let first = &self.said[0];
        let mut parts = first.splitn(3, ',');
        let (flag, _authzid, bare) = (
            parts.next().ok_or(NO)?,
            parts.next().ok_or(NO)?,
            parts.next().ok_or(NO)?,
        );
        let mut input = format!("{flag},,").into_bytes();
        match (flag.strip_prefix("p="), self.mechanism.ends_with("-PLUS")) {
            (Some(kind), true) => {
                let known = self.bindings.iter().find(|(name, _)| *name == kind);
                input.extend_from_slice(&known.ok_or(NO)?.1);
            }
            (None, false) => {
                // RFC 5802 §6: it could have, and did not see our offer.
                let offered = self
                    .auth
                    .mechanisms
                    .iter()
                    .any(|name| name.ends_with("-PLUS"));
                if flag == "y" && offered {
                    return Err(NO);
                }
            }
            _ => return Err(NO),
        }
        let user = self.auth.user.replace('=', "=3D").replace(',', "=2C");
        if !bare.starts_with(&format!("n={user},")) {
            return Err(NO);
        }
        let (without, proof) = last.rsplit_once(",p=").ok_or(NO)?;
        let nonce = first.rsplit_once(",r=").ok_or(NO)?.1;
        if without != format!("c={},r={nonce}{OURS}", encode_block(&input)) {
            return Err(NO);
        }
        let mut salted = vec![0; digest.size()];
        let password = self.auth.password.as_bytes();
        pbkdf2_hmac(password, SALT, ITERATIONS, digest, &mut salted).unwrap();
        let salt = encode_block(SALT);
        let message = format!("{bare},r={nonce}{OURS},s={salt},i={ITERATIONS},{without}");
        let stored = hash(digest, &hmac(digest, &salted, b"Client Key")).unwrap();
        let signature = hmac(digest, &stored, message.as_bytes());
        let proof = decode_block(proof).map_err(|_| NO)?;
        let key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        if *hash(digest, &key).unwrap() != *stored {
            return Err(NO);
        }
        let ours = hmac(
            digest,
            &hmac(digest, &salted, b"Server Key"),
            message.as_bytes(),
        );
        Ok(format!("v={}", encode_block(&ours)).into_bytes())
    }
}
