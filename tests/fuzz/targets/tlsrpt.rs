//! Records that say where TLS reports are wanted.

use posthaste::policy::tlsrpt::{self, MOST_TARGETS};

use super::{Target, kind, magnitude, shape};

/// TXT records, one a line.
pub const RECORD: Target = Target {
    name: "tlsrpt",
    words: &[
        b"v=TLSRPTv1;",
        b" rua=",
        b"mailto:tls-reports@example.org",
        b"mailto:",
        b"https://reports.example.org/v1?x=y",
        b"https://",
        b"HTTPS:",
        b":8443",
        b"%40",
        b"%0d%0a",
        b"%",
        b"@",
        b",",
        b";",
        b"!",
        b"#",
        b"\n",
        b"x.y-z_=1",
    ],
    run: record,
};

/// RPT-2, RPT-3: one record; what it names can stand in a request line or in an envelope, and reads as itself when it is
/// written into a record again.
fn record(input: &[u8]) -> u64 {
    let records: Vec<Vec<u8>> = input.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let ours = records
        .iter()
        .filter(|r| r.starts_with(b"v=TLSRPTv1;"))
        .count();
    let Some(targets) = tlsrpt::record(&records) else {
        return shape(&[0, magnitude(ours), magnitude(input.len())]);
    };
    assert!(ours == 1 && targets.len() <= MOST_TARGETS);
    for target in &targets {
        if let tlsrpt::Target::Post { port, path, .. } = target {
            assert!(*port > 0 && path.starts_with('/'));
            assert!(path.bytes().all(|b| b.is_ascii_graphic()));
            let again = format!("v=TLSRPTv1;rua={target}").into_bytes();
            assert_eq!(tlsrpt::record(&[again]), Some(vec![target.clone()]));
        }
    }
    let kinds: Vec<u64> = targets.iter().map(kind).collect();
    shape(&[1, magnitude(records.len()), shape(&kinds)])
}
