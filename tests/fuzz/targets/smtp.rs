//! The grammar of SMTP, of both sides.

use posthaste::smtp::data::DataReader;
use posthaste::smtp::ehlo::Capabilities;
use posthaste::smtp::params::{MailParams, RcptParams};
use posthaste::smtp::reply::{Reply, ReplyError, ReplyReader, SESSION_MAX, TEXT_KEPT};
use posthaste::smtp::serialise::Serialiser;

use super::{Target, kind, magnitude, pieces, shape};
use crate::mutate::fnv;

/// Content behind DATA, and its way out again.
pub const DATA: Target = Target {
    name: "data",
    words: &[
        b"\r\n.\r\n",
        b"\n.\n",
        b"\r\n.\n",
        b"\n.\r\n",
        b"\r.\r",
        b"\r\n..",
        b"\r\n.",
        b"\r\n",
        b"\r",
        b"\n",
        b"\0",
        b".",
        b"\r\n.\r\nMAIL FROM:<a@b>\r\n",
    ],
    run: data,
};

/// Parameters of MAIL and RCPT.
pub const PARAMS: Target = Target {
    name: "params",
    words: &[
        b"SIZE=",
        b"BODY=8BITMIME",
        b"BODY=7BIT",
        b"SMTPUTF8",
        b"RET=FULL",
        b"RET=HDRS",
        b"ENVID=",
        b"NOTIFY=NEVER",
        b"NOTIFY=SUCCESS,FAILURE,DELAY",
        b"ORCPT=rfc822;",
        b"ORCPT=utf-8;",
        b"+2B",
        b"+0D+0A",
        b"\\x{fc}",
        b"REQUIRETLS",
        b"AUTH=<>",
        b" ",
        b"99999999999999999999",
    ],
    run: params,
};

/// Replies of a peer, and what EHLO's announces.
pub const REPLY: Target = Target {
    name: "reply",
    words: &[
        b"250-",
        b"250 ",
        b"250",
        b"\r\n",
        b"\n",
        b"\r",
        b"220 mx ESMTP\r\n",
        b"421 4.3.2 ",
        b"550-5.1.1 ",
        b"5.1.1",
        b"199 ",
        b"600 ",
        b"250-SIZE 1000\r\n",
        b"250-LIMITS RCPTMAX=5 MAILMAX=2\r\n",
        b"250-AUTH=PLAIN LOGIN\r\n",
        b"250-STARTTLS\r\n",
        b"-1 ",
    ],
    run: reply,
};

/// What the reader gave, and how many octets it took.
fn read_content<'a>(input: impl Iterator<Item = &'a [u8]>) -> (DataReader, Vec<u8>, usize) {
    let (mut reader, mut content, mut taken) = (DataReader::new(), Vec::new(), 0);
    for piece in input {
        let took = reader.read(piece, &mut |run| content.extend_from_slice(run));
        taken += took;
        if reader.is_over() {
            break;
        }
        assert_eq!(took, piece.len(), "not all taken before the end");
    }
    (reader, content, taken)
}

/// IN-3 to IN-5, CL-26, SEC-4: one true end wherever the input is cut; what went in goes out and comes in again.
fn data(input: &[u8]) -> u64 {
    let (reader, content, taken) = read_content(std::iter::once(input));
    let (split_reader, split_content, split_taken) = read_content(pieces(input));
    let odd = reader.oddities();
    assert_eq!(taken, split_taken, "the end depends on the split");
    assert_eq!(odd, split_reader.oddities());
    if reader.is_over() {
        assert_eq!(content, split_content, "the content depends on the split");
    }

    // An end by another way: CRLF.CRLF, where a CRLF stands before the first octet.
    let whole = [b"\r\n", input].concat();
    let end = whole.windows(5).position(|w| w == b"\r\n.\r\n");
    assert_eq!(
        reader.is_over().then_some(taken),
        end.map(|at| at + 3),
        "not the true end"
    );

    let bare_lf = |bytes: &[u8]| {
        (0..bytes.len()).any(|i| bytes[i] == b'\n' && (i == 0 || bytes[i - 1] != b'\r'))
    };
    if reader.is_over() {
        assert!(!bare_lf(&content), "a bare LF came through");
    }

    if reader.is_over() && !odd.bare_cr && !odd.nul {
        let (mut serialiser, mut spare, mut wire) = (Serialiser::new(), Vec::new(), Vec::new());
        for piece in pieces(&content) {
            wire.extend_from_slice(serialiser.piece(piece, &mut spare));
        }
        wire.extend_from_slice(serialiser.finish());
        let (again, content_again, taken_again) = read_content(std::iter::once(&wire[..]));
        assert!(
            again.is_over() && taken_again == wire.len(),
            "a second end in what went out"
        );
        let mut expected = content.clone();
        if !expected.is_empty() && !expected.ends_with(b"\r\n") {
            expected.extend_from_slice(b"\r\n");
        }
        assert!(content_again == expected, "content changed on its way");
    }
    shape(&[
        u64::from(reader.is_over()),
        u64::from(odd.bare_lf) | u64::from(odd.bare_cr) << 1 | u64::from(odd.nul) << 2,
        magnitude(content.len()),
        magnitude(content.windows(3).filter(|w| w == b"\r\n.").count()),
    ])
}

/// IN-14 to IN-16: decoded values hold no control characters.
fn params(input: &[u8]) -> u64 {
    let mut seen = Vec::new();
    match MailParams::parse(input) {
        Ok(params) => {
            if let Some(envid) = &params.envid {
                assert!(
                    !envid.is_empty() && !envid.chars().any(char::is_control),
                    "{envid:?}"
                );
            }
            seen.extend([
                u64::from(params.size.is_some())
                    | u64::from(params.utf8) << 1
                    | u64::from(params.envid.is_some()) << 2,
                params.eight_bit.map_or(0, |b| 1 + u64::from(b)),
                kind(&params.ret),
            ]);
        }
        Err(answer) => seen.push(fnv(format!("{answer:?}").as_bytes())),
    }
    for utf8 in [false, true] {
        match RcptParams::parse(input, utf8) {
            Ok(params) => {
                if let Some(orcpt) = &params.orcpt {
                    assert!(!orcpt.chars().any(char::is_control), "{orcpt:?}");
                    assert!(
                        orcpt
                            .split_once(';')
                            .is_some_and(|(kind, address)| !kind.is_empty() && !address.is_empty())
                    );
                }
                let notify = params.notify;
                assert!(!(notify.never && (notify.success || notify.failure || notify.delay)));
                seen.push(fnv(
                    format!("{notify:?}{}", params.orcpt.is_some()).as_bytes()
                ));
            }
            Err(answer) => seen.push(fnv(format!("{answer:?}").as_bytes())),
        }
    }
    shape(&seen)
}

/// All replies up to the end or the first fault.
fn read_replies<'a>(
    input: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Reply>, Option<ReplyError>, bool) {
    let (mut reader, mut replies) = (ReplyReader::new(), Vec::new());
    for piece in input {
        reader.push(piece);
        loop {
            match reader.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => return (replies, Some(error), false),
            }
        }
    }
    (replies, None, reader.is_empty())
}

/// CL-3 to CL-5, CL-10, CL-27: the same replies in any split, and nothing unprintable in what is kept of them.
fn reply(input: &[u8]) -> u64 {
    assert!(input.len() < SESSION_MAX);
    let whole = read_replies(std::iter::once(input));
    let split = read_replies(pieces(input));
    assert_eq!(whole, split, "the replies depend on the split");
    let (replies, error, empty) = whole;
    let mut seen = vec![
        magnitude(replies.len()),
        error.as_ref().map_or(u64::from(empty), |e| 2 + kind(e)),
    ];
    for reply in replies.iter().take(8) {
        let text = reply.text();
        assert!(text.len() <= TEXT_KEPT);
        assert!(
            text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n')),
            "{text:?}"
        );
        for announced in [false, true] {
            let class = u16::from(reply.status(announced).class());
            let digit = reply.code().get() / 100;
            assert_eq!(class, if matches!(digit, 2 | 5) { digit } else { 4 });
        }
        let capabilities = Capabilities::from_ehlo(reply);
        assert!(capabilities.size_limit != Some(0));
        seen.extend([
            u64::from(reply.code().get() / 100),
            magnitude(reply.lines().count()),
            u64::from(reply.has_permanent_enhanced_code(true)),
            fnv(format!("{capabilities:?}").as_bytes()),
        ]);
    }
    shape(&seen)
}
