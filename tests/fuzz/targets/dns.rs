//! Answers of name servers.

// The reader is private to the resolver, and stays so: it is taken in as source.
#[path = "../../../src/net/dns/message.rs"]
#[allow(dead_code, reason = "the fuzzer asks no questions")]
mod message;

use hickory_proto::rr::{Name, RecordType};
use message::{Chain, Data, MAX_CNAMES, Question, Reply};
use posthaste::policy::hosts::{Found, MAX_MX_RECORDS};
use posthaste::policy::tls::facts::MAX_TLSA;

use super::{Target, kind, magnitude, shape};

/// An answer to a question for MX, A, TLSA or TXT records of `example.org`.
pub const DNS: Target = Target {
    name: "dns",
    words: &[
        b"\x07example\x03org\x00",
        b"\xc0\x0c",
        b"\xc0\xff",
        b"\xff\xff",
        b"\x00\x0f\x00\x01",
        b"\x00\x01\x00\x01",
        b"\x00\x05\x00\x01",
        b"\x00\x06\x00\x01",
        b"\x00\x34\x00\x01",
        b"\x00\x10\x00\x01",
        b"\x00\x00\x01\x2c",
        b"\x00\x04\x7f\x00\x00\x01",
        b"\x3f",
        b"\x00\x29\x04\xd0",
    ],
    run: answer,
};

const ID: u16 = 0x1234;

/// DNS-2, DNS-4, DNS-9: no input gets more than the limits through, or a loop.
fn answer(input: &[u8]) -> u64 {
    let name = Name::from_ascii("example.org.").expect("a name");
    let mut bytes = input.to_vec();
    // A forger who has to guess the id gets no further; this one knows it.
    if let Some(id) = bytes.get_mut(..2) {
        id.copy_from_slice(&ID.to_be_bytes());
    }
    let mut seen = Vec::new();
    for asked in [
        RecordType::MX,
        RecordType::A,
        RecordType::TLSA,
        RecordType::TXT,
    ] {
        let question = Question {
            id: ID,
            name: name.clone(),
            kind: asked,
        };
        let mut chain = Chain::new(name.clone());
        let reply = message::read(&bytes, &question, &mut chain);
        assert!(chain.steps() <= MAX_CNAMES);
        seen.extend([kind(&reply), magnitude(chain.steps())]);
        match reply {
            Reply::Definite {
                data: Data::Mx(Found::Records(records)),
                ..
            } => {
                assert!(asked == RecordType::MX && records.len() <= MAX_MX_RECORDS);
                for record in &records {
                    assert!(
                        record.exchange.bytes().all(|b| b.is_ascii_graphic()),
                        "{record:?}"
                    );
                }
                seen.push(magnitude(records.len()));
            }
            Reply::Definite {
                data: Data::Addresses(Found::Records(addresses)),
                ..
            } => {
                assert!(asked == RecordType::A && addresses.len() <= 40);
                seen.push(magnitude(addresses.len()));
            }
            Reply::Definite {
                data: Data::Tlsa(Found::Records(records)),
                ..
            } => {
                assert!(asked == RecordType::TLSA && records.len() <= MAX_TLSA);
                seen.push(magnitude(records.len()));
            }
            Reply::Definite {
                data: Data::Txt(Found::Records(records)),
                ..
            } => {
                assert!(asked == RecordType::TXT && records.len() <= 100);
                seen.push(magnitude(records.len()));
            }
            Reply::Refused { code, edns } => {
                seen.extend([u64::from(u16::from(code)), u64::from(edns)])
            }
            Reply::Unusable(why) => seen.push(crate::mutate::fnv(why.as_bytes())),
            _ => {}
        }
    }
    shape(&seen)
}
