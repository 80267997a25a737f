//! MTA-STS records and policies, and the responses of the servers that have them.

use posthaste::net::https::response::Reader;
use posthaste::policy::sts;
use posthaste::policy::tls::facts::StsMode;

use super::{Target, kind, magnitude, pieces, shape};
use crate::mutate::fnv;

/// TXT records, one a line.
pub const RECORD: Target = Target {
    name: "sts-record",
    words: &[
        b"v=STSv1;",
        b"v=STSv1",
        b" id=",
        b"id=20160831085700Z",
        b";",
        b"\n",
        b"=",
        b"\t",
        b"x.y-z_=1",
    ],
    run: record,
};

/// Texts of policies.
pub const POLICY: Target = Target {
    name: "sts-policy",
    words: &[
        b"version: STSv1\n",
        b"mode: enforce\n",
        b"mode: testing\r\n",
        b"mode: none\n",
        b"mx: *.example.org\n",
        b"mx: mx.example.org\n",
        b"mx: *.",
        b"max_age: 604800\n",
        b"max_age: 9999999999\n",
        b":",
        b"\r\n",
        b" \t",
        "\u{fc}".as_bytes(),
    ],
    run: policy,
};

/// Responses of HTTP servers.
pub const HTTP: Target = Target {
    name: "http",
    words: &[
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"Content-Length: 10\r\n",
        b"Content-Type: text/plain\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n\r\n",
        b"\n",
        b"a\r\n0123456789\r\n",
        b"0\r\n\r\n",
        b"ffffffff\r\n",
        b";x=y",
    ],
    run: response,
};

/// STS-2: an id is 1 to 32 letters and digits that stand in the input.
fn record(input: &[u8]) -> u64 {
    let records: Vec<Vec<u8>> = input.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let ours = records
        .iter()
        .filter(|r| r.starts_with(b"v=STSv1;"))
        .count();
    match sts::record(&records) {
        Some(id) => {
            assert!(ours == 1 && (1..=32).contains(&id.len()));
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()));
            shape(&[1, magnitude(id.len()), magnitude(records.len())])
        }
        None => shape(&[0, magnitude(ours), magnitude(input.len())]),
    }
}

/// STS-6: a policy that is taken has hosts, an age within a year, and reads as itself when it is written again.
fn policy(input: &[u8]) -> u64 {
    match sts::policy(input) {
        Ok(policy) => {
            assert!(policy.max_age <= 31_557_600);
            assert!(!policy.mx.is_empty() || policy.mode == StsMode::None);
            let mode = match policy.mode {
                StsMode::Enforce => "enforce",
                StsMode::Testing => "testing",
                StsMode::None => "none",
            };
            let mut text = format!(
                "version: STSv1\nmode: {mode}\nmax_age: {}\n",
                policy.max_age
            );
            for mx in &policy.mx {
                text.push_str(&format!("mx: {mx}\n"));
            }
            assert_eq!(sts::policy(text.as_bytes()).as_ref(), Ok(&policy));
            shape(&[kind(&policy.mode), magnitude(policy.mx.len())])
        }
        Err(error) => {
            let words: Vec<&str> = error.split('"').step_by(2).collect();
            fnv(words.concat().as_bytes())
        }
    }
}

/// In pieces or at once: the same response, never more than was allowed.
fn response(input: &[u8]) -> u64 {
    const LIMIT: usize = 1000;
    let mut whole = Reader::new(LIMIT);
    let whole = whole.feed(input).and_then(|_| whole.finish());
    let mut reader = Reader::new(LIMIT);
    let mut fed = Ok(false);
    for piece in pieces(input) {
        fed = reader.feed(piece);
        if fed != Ok(false) {
            break;
        }
    }
    let parts = fed.and_then(|_| reader.finish());
    assert_eq!(parts, whole);
    match whole {
        Ok(response) => {
            assert!(response.body.len() <= LIMIT && (200..600).contains(&response.status));
            shape(&[
                u64::from(response.status / 100),
                magnitude(response.body.len()),
                u64::from(response.encoding.is_some()),
                u64::from(response.content_type.is_some()),
            ])
        }
        Err(why) => fnv(why.as_bytes()),
    }
}
