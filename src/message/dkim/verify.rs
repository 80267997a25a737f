//! Checks signatures, ours and those of others (RFC 6376 §6.1): the second half of `posthaste dkim`.

use std::collections::HashMap;

use openssl::base64::decode_block;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Public};
use openssl::rsa::Rsa;
use openssl::sha::sha256;
use openssl::sign::Verifier as OpensslVerifier;

use super::canon::{BodyHash, Form, fields, relaxed_field, split};
use super::key::Algorithm;
use crate::clock::Timestamp;
use crate::smtp::address::Domain;

/// Signatures that are looked at (RFC 6376 §8.4: there must be a limit).
pub const MAX_SIGNATURES: usize = 20;

/// How far a signature may come from the future: clocks differ.
const CLOCKS_DIFFER: i64 = 300;

/// What a signature is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is good.
    Pass,
    /// It is not, and why.
    Fail(&'static str),
    /// It cannot be judged for good: no key, or one that is none.
    Error(&'static str),
}

/// A DKIM-Signature field that can be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// `a=`
    pub algorithm: Algorithm,
    /// `d=`
    pub domain: Domain,
    /// `s=`
    pub selector: Domain,
    /// `i=` names a subdomain of `d=`.
    of_subdomain: bool,
    header_form: Form,
    body_form: Form,
    fields: Vec<String>,
    body_hash: Vec<u8>,
    limit: Option<u64>,
    from: Option<i64>,
    until: Option<i64>,
    signature: Vec<u8>,
    /// Its own field, with nothing in `b=`.
    own: Vec<u8>,
}

impl Signature {
    /// Where its key is looked up.
    pub fn key_name(&self) -> String {
        format!("{}._domainkey.{}", self.selector, self.domain)
    }

    fn parse(field: &[u8]) -> Result<Signature, &'static str> {
        let (_, value) = split(field).ok_or("no field")?;
        let tags = tags(value)?;
        let needed = |tag: &str, lacking| tags.get(tag).map(String::as_str).ok_or(lacking);
        if needed("v", "v= is missing")? != "1" {
            return Err("v= is not 1");
        }
        let algorithm = match needed("a", "a= is missing")? {
            "rsa-sha256" => Algorithm::Rsa,
            "ed25519-sha256" => Algorithm::Ed25519,
            // RFC 8301 §3.1
            "rsa-sha1" => return Err("rsa-sha1 is not believed any more"),
            _ => return Err("a= is unknown"),
        };
        let name = |tag, lacking, bad| {
            needed(tag, lacking).and_then(|t| Domain::parse(t).map_err(|_| bad))
        };
        let domain = name("d", "d= is missing", "d= is no domain")?;
        let selector = name("s", "s= is missing", "s= is no selector")?;
        let of_subdomain = match tags.get("i") {
            None => false,
            Some(identity) => {
                let of = identity.rsplit_once('@').ok_or("i= has no domain")?.1;
                let of = Domain::parse(of).map_err(|_| "i= has no domain")?;
                let above = of.as_str().strip_suffix(domain.as_str());
                match above {
                    Some("") => false,
                    Some(above) if above.ends_with('.') => true,
                    _ => return Err("i= is not of d="),
                }
            }
        };
        let form = |word: &str| match word {
            "simple" => Ok(Form::Simple),
            "relaxed" => Ok(Form::Relaxed),
            _ => Err("c= is unknown"),
        };
        let canonical = tags.get("c").map_or("simple", String::as_str);
        let (header_form, body_form) = match canonical.split_once('/') {
            Some((header, body)) => (form(header)?, form(body)?),
            None => (form(canonical)?, Form::Simple),
        };
        let names = needed("h", "h= is missing")?.split(':');
        let fields: Vec<String> = names.map(str::to_ascii_lowercase).collect();
        if !fields.iter().any(|name| name == "from") {
            return Err("h= lacks From");
        }
        let number = |tag: &str, bad| match tags.get(tag) {
            None => Ok(None),
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse::<i64>().map(Some).map_err(|_| bad)
            }
            Some(_) => Err(bad),
        };
        let base64 = |tag, lacking, bad| {
            needed(tag, lacking).and_then(|text| decode_block(text).map_err(|_| bad))
        };
        Ok(Signature {
            algorithm,
            domain,
            selector,
            of_subdomain,
            header_form,
            body_form,
            fields,
            body_hash: base64("bh", "bh= is missing", "bh= is no base64")?,
            limit: number("l", "l= is no number")?.map(i64::unsigned_abs),
            from: number("t", "t= is no number")?,
            until: number("x", "x= is no number")?,
            signature: base64("b", "b= is missing", "b= is no base64")?,
            own: without_signature(field),
        })
    }
}

/// `tag=value; ...` without blanks (RFC 6376 §3.2).
fn tags(value: &[u8]) -> Result<HashMap<String, String>, &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "not UTF-8")?;
    let mut tags = HashMap::new();
    for tag in text.split(';') {
        let tag: String = tag.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if tag.is_empty() {
            continue;
        }
        let (name, value) = tag.split_once('=').ok_or("a tag without a value")?;
        if tags.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err("a tag twice");
        }
    }
    Ok(tags)
}

/// The field with the value of `b=` taken out, and nothing else (RFC 6376 §3.7).
fn without_signature(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    for (n, tag) in field.split(|b| *b == b';').enumerate() {
        if n > 0 {
            out.push(b';');
        }
        // The first tag stands behind the field's name.
        let start = match n {
            0 => tag.iter().position(|b| *b == b':').map_or(0, |at| at + 1),
            _ => 0,
        };
        let equals = tag.iter().position(|b| *b == b'=');
        match equals {
            Some(at) if tag[start..at].trim_ascii() == b"b" => out.extend_from_slice(&tag[..=at]),
            _ => out.extend_from_slice(tag),
        }
    }
    out
}

/// A message to be checked.
pub struct Verifier<'a> {
    fields: Vec<&'a [u8]>,
    body: &'a [u8],
    signatures: Vec<Result<Signature, &'static str>>,
}

impl<'a> Verifier<'a> {
    /// Takes a message with CRLF line ends.
    pub fn new(message: &'a [u8]) -> Verifier<'a> {
        let empty_line = memchr::memmem::find(message, b"\r\n\r\n");
        let (header, body) = match empty_line {
            _ if message.starts_with(b"\r\n") => (&message[..0], &message[2..]),
            Some(at) => (&message[..at + 2], &message[at + 4..]),
            None => (message, &message[..0]),
        };
        let fields: Vec<&[u8]> = fields(header).collect();
        let named = |field: &&&[u8]| {
            split(field).is_some_and(|(name, _)| name.eq_ignore_ascii_case(b"DKIM-Signature"))
        };
        let signatures = fields.iter().filter(named).take(MAX_SIGNATURES);
        Verifier {
            signatures: signatures.map(|field| Signature::parse(field)).collect(),
            fields,
            body,
        }
    }

    /// The signatures from the top; for each that cannot be understood, why.
    pub fn signatures(&self) -> &[Result<Signature, &'static str>] {
        &self.signatures
    }

    /// Judges a signature by the TXT records found at its key's name.
    pub fn verify(&self, signature: &Signature, records: &[Vec<u8>], now: Timestamp) -> Outcome {
        if signature
            .from
            .is_some_and(|from| from > now.secs() + CLOCKS_DIFFER)
        {
            return Outcome::Fail("it is from the future");
        }
        if signature.until.is_some_and(|until| until < now.secs()) {
            return Outcome::Fail("it has expired");
        }
        // RFC 6376 §3.6.2.2: several records are undefined; one must do.
        let mut outcome = Outcome::Error("there is no key");
        for record in records {
            outcome = match public_key(signature, record) {
                Ok(key) => self.check(signature, &key),
                Err(why) => Outcome::Error(why),
            };
            if outcome == Outcome::Pass {
                break;
            }
        }
        outcome
    }

    fn check(&self, signature: &Signature, key: &PKey<Public>) -> Outcome {
        let mut hash = BodyHash::new(signature.body_form, signature.limit);
        hash.read(self.body);
        if hash.finish()[..] != signature.body_hash[..] {
            return Outcome::Fail("the body was changed");
        }
        match verifies(
            signature.algorithm,
            key,
            &signature.signature,
            &self.signed(signature),
        ) {
            true => Outcome::Pass,
            false => Outcome::Fail("a signed field was changed, or the key is another"),
        }
    }

    /// RFC 6376 §5.4.2: of each name the last field that was not taken yet.
    fn signed(&self, signature: &Signature) -> Vec<u8> {
        let mut by_name: HashMap<String, Vec<&[u8]>> = HashMap::new();
        for field in &self.fields {
            if let Some((name, _)) = split(field) {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                by_name.entry(name).or_default().push(field);
            }
        }
        let mut data = Vec::new();
        let add = |field: &[u8], data: &mut Vec<u8>| match (signature.header_form, split(field)) {
            (Form::Relaxed, Some((name, value))) => relaxed_field(name, value, data),
            _ => data.extend_from_slice(field.strip_suffix(b"\r\n").unwrap_or(field)),
        };
        for name in &signature.fields {
            if let Some(field) = by_name.get_mut(name).and_then(Vec::pop) {
                add(field, &mut data);
                data.extend_from_slice(b"\r\n");
            }
        }
        add(&signature.own, &mut data);
        data
    }
}

/// The key in a record, if it may be used for this signature (RFC 6376 §3.6.1).
fn public_key(signature: &Signature, record: &[u8]) -> Result<PKey<Public>, &'static str> {
    let tags = tags(record).map_err(|_| "the key record is malformed")?;
    let tag = |name: &str, default: &'static str| tags.get(name).map_or(default, String::as_str);
    let lists = |name: &str, wanted: &[&str]| {
        tags.get(name)
            .is_none_or(|list| list.split(':').any(|word| wanted.contains(&word)))
    };
    if tag("v", "DKIM1") != "DKIM1" {
        return Err("the key record is of another version");
    }
    if tag("k", "rsa") != signature.algorithm.key_type() {
        return Err("the key is of another kind");
    }
    if !lists("h", &["sha256"]) || !lists("s", &["*", "email"]) {
        return Err("the key is not for this use");
    }
    if signature.of_subdomain
        && tags
            .get("t")
            .is_some_and(|t| t.split(':').any(|t| t == "s"))
    {
        return Err("the key is not for subdomains");
    }
    let octets = match tags.get("p").map(String::as_str) {
        None => return Err("the key record has no key"),
        Some("") => return Err("the key was revoked"),
        Some(text) => decode_block(text).map_err(|_| "the key is no base64")?,
    };
    let key = match signature.algorithm {
        Algorithm::Ed25519 => PKey::public_key_from_raw_bytes(&octets, Id::ED25519).ok(),
        // RFC 6376 §3.6.1 says the one form, its examples show the other.
        Algorithm::Rsa => Rsa::public_key_from_der(&octets)
            .or_else(|_| Rsa::public_key_from_der_pkcs1(&octets))
            .and_then(PKey::from_rsa)
            .ok(),
    };
    match key {
        None => Err("the key is malformed"),
        // RFC 8301 §3.2
        Some(key) if signature.algorithm == Algorithm::Rsa && key.bits() < 1024 => {
            Err("the key has less than 1024 bits")
        }
        Some(key) => Ok(key),
    }
}

fn verifies(algorithm: Algorithm, key: &PKey<Public>, signature: &[u8], data: &[u8]) -> bool {
    let result = match algorithm {
        Algorithm::Rsa => OpensslVerifier::new(MessageDigest::sha256(), key)
            .and_then(|mut verifier| verifier.verify_oneshot(signature, data)),
        Algorithm::Ed25519 => OpensslVerifier::new_without_digest(key)
            .and_then(|mut verifier| verifier.verify_oneshot(signature, &sha256(data))),
    };
    result.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8463 appendix A.3
    const MAIL: &str = "\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
";
    const ED25519: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    const RSA: &str = "v=DKIM1; k=rsa; \
        p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb\
        3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn judge(message: &str, n: usize, record: &str) -> Outcome {
        let message = message.replace('\n', "\r\n");
        let verifier = Verifier::new(message.as_bytes());
        match &verifier.signatures()[n] {
            Ok(signature) => {
                verifier.verify(signature, &[record.as_bytes().to_vec()], at(1_528_637_909))
            }
            Err(why) => Outcome::Error(why),
        }
    }

    // MSG-9: RFC 8463 appendix A
    #[test]
    fn the_example_of_the_rfc_verifies_with_both_algorithms() {
        assert_eq!(judge(MAIL, 0, ED25519), Outcome::Pass);
        assert_eq!(judge(MAIL, 1, RSA), Outcome::Pass);
        let simple = RSA.replace("; k=rsa", "");
        assert_eq!(judge(MAIL, 1, &simple), Outcome::Pass);
    }

    // MSG-9
    #[test]
    fn what_was_changed_is_said() {
        let fail = |outcome| matches!(outcome, Outcome::Fail(_));
        assert_eq!(
            judge(&MAIL.replace("lost", "won"), 0, ED25519),
            Outcome::Fail("the body was changed")
        );
        for (old, new) in [
            ("dinner ready", "supper ready"),
            ("To: Suzie", "Subject: more\nTo: Suzie"),
            ("b=/gCr", "b=/gCs"),
        ] {
            assert!(fail(judge(&MAIL.replace(old, new), 0, ED25519)), "{new}");
        }
        // Not signed once more, so it may be added.
        let added = MAIL.replace("To: Suzie", "To: x\nTo: Suzie");
        assert_eq!(judge(&added, 0, ED25519), Outcome::Pass);
        let expired = MAIL.replace("t=1528637909;", "t=1528637909; x=1528637908;");
        assert_eq!(judge(&expired, 0, ED25519), Outcome::Fail("it has expired"));
        let early = MAIL.replace("t=1528637909;", "t=1528638909;");
        assert!(fail(judge(&early, 0, ED25519)));
    }

    // MSG-9
    #[test]
    fn keys_that_may_not_be_used_are_errors() {
        for (record, why) in [
            ("v=DKIM1; k=ed25519; p=", "the key was revoked"),
            ("v=DKIM1; k=ed25519", "the key record has no key"),
            (
                "v=DKIM2; k=ed25519; p=AAAA",
                "the key record is of another version",
            ),
            (RSA, "the key is of another kind"),
            ("k=ed25519; p=AAAA", "the key is malformed"),
            ("k=ed25519; h=sha1; p=AAAA", "the key is not for this use"),
            ("k=ed25519; s=tlsrpt; p=AAAA", "the key is not for this use"),
            ("k=ed25519; k=rsa", "the key record is malformed"),
        ] {
            assert_eq!(judge(MAIL, 0, record), Outcome::Error(why), "{record}");
        }
        for (old, new, why) in [
            (
                "a=ed25519-sha256",
                "a=rsa-sha1",
                "rsa-sha1 is not believed any more",
            ),
            ("v=1;", "v=2;", "v= is not 1"),
            ("i=@football", "i=@basketball", "i= is not of d="),
            ("from : to", "to", "h= lacks From"),
            ("q=dns/txt;", "s=x;", "a tag twice"),
        ] {
            // All of them: of names that stand twice, too.
            let mail = MAIL
                .replace(old, new)
                .replace("message-id : from", "message-id");
            let mail = if old == "from : to" {
                mail
            } else {
                MAIL.replace(old, new)
            };
            assert_eq!(judge(&mail, 0, ED25519), Outcome::Error(why), "{new}");
        }
    }

    // MSG-9, SEC-6
    #[test]
    fn rubbish_is_no_signature_and_there_is_an_end_to_them() {
        let many = "DKIM-Signature: x\r\n".repeat(1000);
        let verifier = Verifier::new(many.as_bytes());
        assert_eq!(verifier.signatures().len(), MAX_SIGNATURES);
        assert!(verifier.signatures().iter().all(Result::is_err));
        for nothing in [
            &b""[..],
            b"\r\n",
            b"\r\n\r\nDKIM-Signature: v=1\r\n",
            b"x",
            b":",
        ] {
            assert!(Verifier::new(nothing).signatures().is_empty());
        }
    }
}
