//! Signs a message while it passes (MSG-7).

use std::fmt;
use std::sync::Arc;

use memchr::memmem;
use openssl::base64::encode_block;

use super::author;
use super::canon::{BodyHash, Form, fields, relaxed_field, split};
use super::key::{KeyError, Keyring, SigningKey};
use crate::clock::Timestamp;
use crate::smtp::address::Domain;

/// Fields that are signed, and signed once more than they are there, so that nobody can add one (RFC 6376 §8.15).
const SIGNED: [&str; 15] = [
    "from",
    "subject",
    "date",
    "to",
    "cc",
    "message-id",
    "reply-to",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-id",
    "content-description",
    "content-disposition",
];

/// Octets of the header that are looked at in one go: the end of it is soon found, and little of the body copied.
const STEP: usize = 4096;

/// Where lines of the signature's own field are folded (RFC 5322 §2.1.1).
const WIDTH: usize = 76;

/// A key failed to sign: mail that should have been signed does not leave (MSG-8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignError {
    key: String,
    error: KeyError,
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DKIM signing with {} failed: {}", self.key, self.error)
    }
}

impl std::error::Error for SignError {}

/// Signs a message that is given whole.
///
/// # Errors
/// [`SignError`].
pub fn sign(ring: &Keyring, content: &[u8], now: Timestamp) -> Result<String, SignError> {
    let mut signer = Signer::new(ring.clone());
    signer.read(content);
    signer.finish(b"", now)
}

/// A message on its way. It is given content with CRLF line ends, from its first octet on.
pub struct Signer {
    ring: Keyring,
    at: Place,
}

enum Place {
    /// The header so far.
    Header(Vec<u8>),
    Body(Box<Body>),
    /// None of our keys is for this author.
    NotOurs,
}

struct Body {
    authors: Vec<Domain>,
    header: Header,
    hash: BodyHash,
}

/// The fields to be signed, canonical, by their place in [`SIGNED`], in the order of the header.
#[derive(Default)]
struct Header(Vec<(usize, Vec<u8>)>);

impl Header {
    fn add(&mut self, header: &[u8]) {
        for field in fields(header) {
            let Some((name, value)) = split(field) else {
                continue;
            };
            let signed = |signed: &str| name.eq_ignore_ascii_case(signed.as_bytes());
            if let Some(at) = SIGNED.iter().position(|name| signed(name)) {
                let mut canonical = Vec::with_capacity(field.len());
                relaxed_field(name, value, &mut canonical);
                self.0.push((at, canonical));
            }
        }
    }
}

impl Signer {
    /// For the message that begins now.
    pub fn new(ring: Keyring) -> Signer {
        Signer {
            ring,
            at: Place::Header(Vec::new()),
        }
    }

    /// Octets that are held of the message.
    pub fn held(&self) -> usize {
        match &self.at {
            Place::Header(header) => header.len(),
            Place::Body(body) => body.header.0.iter().map(|(_, field)| field.len()).sum(),
            Place::NotOurs => 0,
        }
    }

    /// Takes the next piece of content.
    pub fn read(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            match &mut self.at {
                Place::NotOurs => return,
                Place::Body(body) => return body.hash.read(piece),
                Place::Header(header) => {
                    let (step, rest) = piece.split_at(piece.len().min(STEP));
                    piece = rest;
                    // The empty line may be cut anywhere.
                    let from = header.len().saturating_sub(3);
                    header.extend_from_slice(step);
                    let end = match header.starts_with(b"\r\n") {
                        true => Some(0),
                        false => memmem::find(&header[from..], b"\r\n\r\n").map(|at| from + at + 2),
                    };
                    if let Some(end) = end {
                        let begun = header.split_off(end);
                        let header = std::mem::take(header);
                        self.end_header(&header);
                        self.read(&begun[2..]);
                    }
                }
            }
        }
    }

    fn end_header(&mut self, header: &[u8]) {
        let mut authors = Vec::new();
        for field in fields(header) {
            if let Some((name, value)) = split(field)
                && name.eq_ignore_ascii_case(b"from")
            {
                author::domains(value, &mut authors);
            }
        }
        authors.retain(|author| self.ring.signs(author));
        if authors.is_empty() {
            self.at = Place::NotOurs;
            return;
        }
        let mut wanted = Header::default();
        wanted.add(header);
        self.at = Place::Body(Box::new(Body {
            authors,
            header: wanted,
            hash: BodyHash::new(Form::Relaxed, None),
        }));
    }

    /// The DKIM-Signature fields, one per key, each with its CRLF; none if no key is for this author. `added` are the
    /// fields that go in front of the content and were not in it.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn finish(mut self, added: &[u8], now: Timestamp) -> Result<String, SignError> {
        if let Place::Header(header) = &mut self.at {
            let header = std::mem::take(header);
            self.end_header(&header);
        }
        let Place::Body(body) = self.at else {
            return Ok(String::new());
        };
        let Body {
            authors,
            mut header,
            hash,
        } = *body;
        let body_hash = encode_block(&hash.finish());
        // They stand above the others.
        let below = std::mem::take(&mut header.0);
        header.add(added);
        header.0.extend(below);
        let (names, data) = signed(&header);
        let mut out = String::new();
        let ours = |key: &&Arc<SigningKey>| authors.contains(key.domain());
        for key in self.ring.keys().iter().filter(ours) {
            let field = signature(key, &names, &body_hash, now, data.clone());
            out.push_str(&field.map_err(|error| SignError {
                key: key.name(),
                error,
            })?);
        }
        Ok(out)
    }
}

/// The names for `h=`, and the fields in that order: of each name the last first, and one that is not there
/// (RFC 6376 §5.4.2).
fn signed(header: &Header) -> (Vec<&'static str>, Vec<u8>) {
    let (mut names, mut data) = (Vec::new(), Vec::new());
    for (at, name) in SIGNED.iter().enumerate() {
        for (_, field) in header.0.iter().rev().filter(|(of, _)| *of == at) {
            data.extend_from_slice(field);
            data.extend_from_slice(b"\r\n");
            names.push(*name);
        }
        names.push(name);
    }
    (names, data)
}

/// One DKIM-Signature field. It is signed itself, with nothing in `b=` and without its line end (RFC 6376 §3.7).
fn signature(
    key: &SigningKey,
    names: &[&str],
    body_hash: &str,
    now: Timestamp,
    mut data: Vec<u8>,
) -> Result<String, KeyError> {
    let mut field = Folded::new("DKIM-Signature:");
    field.tag("v=1;");
    field.tag(&format!("a={};", key.algorithm().tag()));
    field.tag("c=relaxed/relaxed;");
    field.tag(&format!("d={};", key.domain()));
    field.tag(&format!("s={};", key.selector()));
    field.tag(&format!("t={};", now.secs()));
    for (n, name) in names.iter().enumerate() {
        let end = if n + 1 < names.len() { ':' } else { ';' };
        match n {
            0 => field.tag(&format!("h={name}{end}")),
            _ => field.glued(&format!("{name}{end}")),
        }
    }
    field.tag(&format!("bh={body_hash};"));
    field.tag("b=");
    let (name, value) = field.text.split_once(':').unwrap_or_default();
    relaxed_field(name.as_bytes(), value.as_bytes(), &mut data);
    let signature = encode_block(&key.sign(&data)?);
    let mut rest = signature.as_str();
    while !rest.is_empty() {
        let room = WIDTH.saturating_sub(field.column).max(4);
        let (now, later) = rest.split_at(room.min(rest.len()));
        field.glued(now);
        rest = later;
    }
    field.text.push_str("\r\n");
    Ok(field.text)
}

/// A field whose lines stay short.
struct Folded {
    text: String,
    column: usize,
}

impl Folded {
    fn new(start: &str) -> Folded {
        Folded {
            text: start.to_owned(),
            column: start.len(),
        }
    }

    /// A word with a blank in front of it.
    fn tag(&mut self, word: &str) {
        if self.column + 1 + word.len() > WIDTH {
            self.fold();
        } else {
            self.text.push(' ');
            self.column += 1;
        }
        self.push(word);
    }

    /// One that may stand right behind the last.
    fn glued(&mut self, word: &str) {
        if self.column + word.len() > WIDTH {
            self.fold();
        }
        self.push(word);
    }

    fn fold(&mut self) {
        self.text.push_str("\r\n\t");
        // As wide as readers show it.
        self.column = 8;
    }

    fn push(&mut self, word: &str) {
        self.text.push_str(word);
        self.column += word.len();
    }
}

#[cfg(test)]
mod tests {
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use proptest::prelude::*;

    use super::super::{Outcome, Verifier};
    use super::*;

    fn name(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn ring() -> Keyring {
        let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let key = |domain, selector, key| {
            Arc::new(SigningKey::new(name(domain), name(selector), key).unwrap())
        };
        let ed = || PKey::generate_ed25519().unwrap();
        Keyring::new(vec![
            key("here.example", "rsa", rsa),
            key("here.example", "ed", ed()),
            key("there.example", "ed", ed()),
        ])
    }

    fn now() -> Timestamp {
        Timestamp::from_secs(1_795_286_400)
    }

    /// Signs it in pieces of this size; what is in front of it then.
    fn signatures(ring: &Keyring, added: &str, content: &[u8], size: usize) -> String {
        let mut signer = Signer::new(ring.clone());
        for piece in content.chunks(size) {
            signer.read(piece);
        }
        signer.finish(added.as_bytes(), now()).unwrap()
    }

    /// What a receiver makes of it, per signature.
    fn judged(ring: &Keyring, message: &[u8]) -> Vec<(String, Outcome)> {
        let verifier = Verifier::new(message);
        let signatures = verifier.signatures();
        signatures
            .iter()
            .map(|signature| {
                let signature = signature.as_ref().unwrap();
                let key = ring
                    .keys()
                    .iter()
                    .find(|key| key.name() == signature.key_name());
                let records = vec![key.unwrap().record().unwrap().into_bytes()];
                let outcome = verifier.verify(signature, &records, now());
                (signature.key_name(), outcome)
            })
            .collect()
    }

    const MAIL: &str =
        "From: Joe <joe@here.example>\r\nTo: a@x.example\r\nX-Other: 1\r\n\r\nHello  you\r\n";

    // MSG-7
    #[test]
    fn every_key_of_the_author_signs_and_the_result_verifies() {
        let ring = ring();
        let added = "Date: now\r\nMessage-ID: <a@b>\r\n";
        let signatures = signatures(&ring, added, MAIL.as_bytes(), 7);
        let message = format!("Received: x\r\n{signatures}{added}{MAIL}");
        assert_eq!(
            judged(&ring, message.as_bytes()),
            [
                ("rsa._domainkey.here.example".to_owned(), Outcome::Pass),
                ("ed._domainkey.here.example".to_owned(), Outcome::Pass)
            ]
        );
        let unfolded = signatures.replace("\r\n\t", " ");
        assert!(unfolded.starts_with(
            "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=here.example; s=rsa; t=1795286400; h=from:from:"
        ));
        // Over-signed: each once more than it is there.
        for field in [
            ":subject:date:date:to:to:cc:",
            "message-id:message-id:",
            "content-type:",
        ] {
            assert!(
                unfolded.replace(' ', "").contains(field),
                "{field}: {unfolded}"
            );
        }
        assert!(signatures.split("\r\n").all(|line| line.len() <= WIDTH));
        assert!(signatures.ends_with("\r\n") && signatures.is_ascii());
    }

    // MSG-7
    #[test]
    fn what_is_changed_or_added_on_the_way_breaks_the_signature() {
        let ring = ring();
        let signatures = signatures(&ring, "", MAIL.as_bytes(), 1000);
        let message = format!("{signatures}{MAIL}");
        let passes = |message: &str| {
            let all = judged(&ring, message.as_bytes());
            assert_eq!(all.len(), 2);
            assert!(all[0].1 == all[1].1 || !all.iter().any(|(_, o)| *o == Outcome::Pass));
            all[0].1 == Outcome::Pass
        };
        assert!(passes(&message));
        for (old, new) in [
            ("Hello  you", "Hello \t you  "),
            ("X-Other: 1", "X-Other: 2"),
            ("To: a@x.example", "tO  :  a@x.example "),
            ("you\r\n", "you\r\n\r\n\r\n"),
        ] {
            assert!(passes(&message.replace(old, new)), "{new}");
        }
        for (old, new) in [
            ("Hello", "hello"),
            ("Hello  you", "Helloyou"),
            ("To: a@x.example", "To: b@x.example"),
            ("To: a", "Subject: added\r\nTo: a"),
            ("To: a", "From: other@x.example\r\nTo: a"),
            ("To: a", "Content-Type: text/html\r\nTo: a"),
            ("t=1795286400", "t=1795286401"),
        ] {
            assert!(!passes(&message.replace(old, new)), "{new}");
        }
    }

    // MSG-7
    #[test]
    fn several_authors_are_signed_for_and_others_are_not() {
        let ring = ring();
        let by = |from: &str| {
            let content = format!("{from}\r\nx\r\n");
            signatures(&ring, "", content.as_bytes(), 1000)
        };
        assert_eq!(by("From: a@else.example\r\n"), "");
        assert_eq!(by("Sender: a@here.example\r\n"), "");
        assert_eq!(by(""), "");
        let both = by("From: a@there.example\r\nSubject: x\r\nfrom : b@HERE.example\r\n");
        assert_eq!(both.matches("DKIM-Signature:").count(), 3);
    }

    // MSG-8
    #[test]
    fn a_key_that_fails_is_told_and_nothing_comes_out_unsigned() {
        let ring = Keyring::new(vec![Arc::new(SigningKey::broken(name("here.example")))]);
        let error = sign(&ring, MAIL.as_bytes(), now()).unwrap_err().to_string();
        assert!(error.starts_with("DKIM signing with here.example._domainkey.here.example failed"));
        assert_eq!(
            sign(&ring, b"From: a@else.example\r\n\r\n", now()),
            Ok(String::new())
        );
    }

    // MSG-7: header alone, no header, an empty line cut anywhere, repeated fields, long lines, 8 bits
    #[test]
    fn odd_messages_verify_like_others() {
        let ring = ring();
        let long = format!(
            "From: a@here.example\r\n\r\n{}\r\n.\r\n",
            "\u{e4} ".repeat(9000)
        );
        for content in [
            "From: a@here.example\r\n",
            "From: a@here.example\r\n\r\n",
            "From: a@here.example\r\n\r\n\r\n\r\n",
            "To: a\r\nFrom: a@here.example\r\nTo: b\r\n c\r\nTo:\r\n\r\nx",
            &long,
        ] {
            for size in [1, 3, 4096, usize::MAX] {
                let signatures = signatures(&ring, "", content.as_bytes(), size);
                let message = format!("{signatures}{content}");
                let all = judged(&ring, message.as_bytes());
                assert_eq!(all.len(), 2);
                assert!(
                    all.iter().all(|(_, o)| *o == Outcome::Pass),
                    "{content:.40}"
                );
            }
        }
    }

    // MSG-7: a message of any size is not kept
    #[test]
    fn nothing_of_a_body_is_held() {
        let mut signer = Signer::new(ring());
        signer.read(MAIL.as_bytes());
        let before = signer.held();
        let piece = vec![b'x'; 1 << 20];
        signer.read(&piece);
        signer.read(&piece);
        assert!(before < 200 && signer.held() == before);
        let mut other = Signer::new(ring());
        other.read(b"From: a@else.example\r\n\r\n");
        assert_eq!(other.held(), 0);
    }

    proptest! {
        #[test]
        fn whatever_is_signed_verifies(
            header in "(From: |To: |Subject:|a@here.example| |\r\n |\r\n|x){0,12}",
            body in "(a| |\t|\r\n|\u{e4}){0,20}",
            size in 1_usize..40,
        ) {
            let ring = ring_of_one();
            let content = format!("From: a@here.example\r\n{}\r\n\r\n{body}", header.trim_start());
            let signatures = signatures(&ring, "", content.as_bytes(), size);
            let message = format!("{signatures}{content}");
            let verifier = Verifier::new(message.as_bytes());
            let signature = verifier.signatures()[0].as_ref().unwrap();
            let record = ring.keys()[0].record().unwrap().into_bytes();
            prop_assert_eq!(verifier.verify(signature, &[record], now()), Outcome::Pass);
        }
    }

    fn ring_of_one() -> Keyring {
        let ed = PKey::generate_ed25519().unwrap();
        let key = SigningKey::new(name("here.example"), name("ed"), ed);
        Keyring::new(vec![Arc::new(key.unwrap())])
    }
}
