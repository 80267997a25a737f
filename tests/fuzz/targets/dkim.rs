//! DKIM: what is signed verifies however it is cut, and what others send is judged.

use std::sync::{Arc, OnceLock};

use openssl::pkey::PKey;
use posthaste::clock::Timestamp;
use posthaste::message::dkim::{Keyring, Outcome, Signer, SigningKey, Verifier};
use posthaste::smtp::address::Domain;

use super::{Target, kind, magnitude, pieces, shape};

/// Content to be signed.
pub const SIGN: Target = Target {
    name: "dkim-sign",
    words: &[
        b"From: ",
        b"a@here.example",
        b"(c)",
        b"\"q\"",
        b"<x@y.example>",
        b"To:",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b"Subject : x",
        b"DKIM-Signature: v=1;",
    ],
    run: sign,
};

/// A key record, an empty line, and a message with signatures.
pub const VERIFY: Target = Target {
    name: "dkim-verify",
    words: &[
        b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
        b"v=DKIM1; p=",
        b"t=s; s=email; h=sha256;",
        b"\n\n",
        b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/simple; d=a.example; s=b; h=from:to; bh=AAAA; b=AAAA;\r\n",
        b"a=rsa-sha256;",
        b" i=@x.a.example;",
        b"l=3;",
        b"t=1;x=2;",
        b"\r\n ",
        b"\r\n\r\n",
        b";",
        b"=",
        b"b=",
    ],
    run: verify,
};

const NOW: Timestamp = Timestamp::MAX;

fn ring() -> &'static Keyring {
    static RING: OnceLock<Keyring> = OnceLock::new();
    RING.get_or_init(|| {
        let name = |text| Domain::parse(text).expect("a domain");
        let key = PKey::generate_ed25519().expect("a key");
        let key = SigningKey::new(name("here.example"), name("s"), key).expect("a key that signs");
        Keyring::new(vec![Arc::new(key)])
    })
}

fn signed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut signer = Signer::new(ring().clone());
    pieces.for_each(|piece| signer.read(piece));
    let now = Timestamp::from_secs(1_800_000_000);
    signer.finish(b"", now).expect("the key signs")
}

fn sign(input: &[u8]) -> u64 {
    // Whatever stands in other fields; what begins with white space would belong to ours.
    let content = [b"From: a@here.example\r\n", input.trim_ascii_start()].concat();
    let whole = signed(std::iter::once(&content[..]));
    let cut = signed(pieces(&content));
    assert_eq!(
        whole, cut,
        "Ed25519 has no randomness, so the cut must not show"
    );
    let message = [whole.as_bytes(), &content].concat();
    let verifier = Verifier::new(&message);
    let signature = verifier.signatures()[0]
        .as_ref()
        .expect("ours is well-formed");
    let record = ring().keys()[0].record().expect("a record").into_bytes();
    let now = Timestamp::from_secs(1_800_000_000);
    assert_eq!(verifier.verify(signature, &[record], now), Outcome::Pass);
    shape(&[
        magnitude(whole.len()),
        magnitude(verifier.signatures().len()),
    ])
}

fn verify(input: &[u8]) -> u64 {
    let at = input.windows(2).position(|two| two == b"\n\n");
    let (record, message) = match at {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (&input[..0], input),
    };
    let verifier = Verifier::new(message);
    let outcomes = verifier
        .signatures()
        .iter()
        .map(|signature| match signature {
            Err(why) => magnitude(why.len()),
            Ok(signature) => {
                let outcome = verifier.verify(signature, &[record.to_vec()], NOW);
                assert_ne!(outcome, Outcome::Pass, "nobody guesses a signature");
                kind(&outcome)
            }
        });
    shape(&outcomes.collect::<Vec<u64>>())
}
