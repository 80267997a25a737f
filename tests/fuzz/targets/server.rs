//! A client's whole side of a session with our server, and the header of what it sends.

use posthaste::message::header::HeaderScanner;
use posthaste::smtp::address::{Domain, ReversePath};
use posthaste::smtp::answer::Answer;
use posthaste::smtp::command::{RcptCommand, RcptPath};
use posthaste::smtp::data::DataReader;
use posthaste::smtp::line::LineReader;
use posthaste::smtp::reply::ReplyReader;
use posthaste::smtp::server::{Host, Recipient, Session, Settings, Step, Tls};

use super::{Target, magnitude, pieces, shape};
use crate::mutate::fnv;

/// All that a client sends in a session.
pub const SESSION: Target = Target {
    name: "session",
    words: &[
        b"EHLO a\r\n",
        b"HELO a\r\n",
        b"MAIL FROM:<a@b.example>",
        b"RCPT TO:<c@d.example>",
        b"DATA\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
        b"NOOP x\r\n",
        b"VRFY a\r\n",
        b"BDAT 10\r\n",
        b"GET / HTTP/1.1\r\n",
        b" SIZE=10",
        b" SMTPUTF8",
        b"<>",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"STARTTLS\r\n",
        b" REQUIRETLS",
        b"AUTH PLAIN\r\n",
        b"<postmaster>",
    ],
    run: session,
};

/// The header of a message, with CRLF line ends as the DATA reader gives them.
pub const HEADER: Target = Target {
    name: "header",
    words: &[
        b"Received: ",
        b"Date: ",
        b"Message-ID: <",
        b"Subject: ",
        b"TLS-Required: No",
        b"\r\n",
        b"\r\n ",
        b"\r\n\t",
        b"\r\n\r\n",
        b":",
        b"x: y\r\n",
        b"\xc3\xbc",
        b"\xff",
        b"\0",
        b"=?utf-8?q?a?=",
    ],
    run: header,
};

const MAX_RECIPIENTS: u32 = 5;

/// Takes everything.
struct Anything;

impl Host for Anything {
    fn sender(&mut self, _: &ReversePath) -> Result<(), Answer> {
        Ok(())
    }

    fn recipient(&mut self, command: RcptCommand) -> Result<Recipient, Answer> {
        let RcptPath::Mailbox(path) = command.path else {
            return Err(Answer::new(550, 1, 1, "no postmaster"));
        };
        Ok(Recipient {
            path,
            params: command.params,
        })
    }

    // What waits depends on the split, so the sessions that are compared must not hear of it.
    fn input_waits(&mut self) -> bool {
        false
    }
}

/// What we answered, and the envelope and content of each message.
#[derive(Debug, Default, PartialEq, Eq)]
struct Transcript {
    replies: Vec<u8>,
    messages: Vec<(String, Vec<u8>)>,
    closed: bool,
    /// Whatever came behind STARTTLS was for the handshake, and never a command (IN-30).
    tls: bool,
}

fn converse<'a>(tls: Tls, input: impl Iterator<Item = &'a [u8]>) -> Transcript {
    let mut session = Session::new(Settings {
        hostname: Domain::parse("us.example").expect("a domain"),
        max_message_size: 10_000,
        max_recipients: MAX_RECIPIENTS,
        max_errors: 10,
        reject_early_talk: false,
        tls,
    });
    let (mut seen, mut host) = (Transcript::default(), Anything);
    let mut lines = LineReader::new(2048);
    let mut content: Option<(DataReader, Vec<u8>)> = None;
    session.greet(&mut host, &mut seen.replies);
    let mut unread = Vec::new();
    for piece in input {
        unread.extend_from_slice(piece);
        loop {
            if let Some((mut reader, mut bytes)) = content.take() {
                let taken = reader.read(&unread, &mut |run| bytes.extend_from_slice(run));
                unread.drain(..taken);
                if !reader.is_over() {
                    content = Some((reader, bytes));
                    break;
                }
                seen.messages.last_mut().expect("DATA began one").1 = bytes;
                session.content_answer(&Answer::new(250, 0, 0, "queued as 1"), &mut seen.replies);
                continue;
            }
            let (taken, line) = lines.next(&unread);
            let step = line.map(|line| session.line(line, &mut host, &mut seen.replies));
            unread.drain(..taken);
            match step {
                None => break,
                Some(Step::Command) => {}
                Some(Step::Data(transaction)) => {
                    let recipients = transaction.recipients.len();
                    assert!((1..=MAX_RECIPIENTS as usize).contains(&recipients));
                    seen.messages.push((format!("{transaction:?}"), Vec::new()));
                    session.go_ahead(&mut seen.replies);
                    content = Some((DataReader::new(), Vec::new()));
                }
                Some(Step::Close) => {
                    seen.closed = true;
                    return seen;
                }
                Some(Step::StartTls) => {
                    assert_eq!(tls, Tls::Offered);
                    seen.tls = true;
                    return seen;
                }
            }
        }
    }
    seen
}

/// IN-3, IN-6 to IN-11, IN-30, SEC-4: the same answers and messages in any split, and every answer is a reply.
fn session(input: &[u8]) -> u64 {
    shape(&[Tls::None, Tls::Offered, Tls::Active].map(|tls| conversation(tls, input)))
}

fn conversation(tls: Tls, input: &[u8]) -> u64 {
    let whole = converse(tls, std::iter::once(input));
    let split = converse(tls, pieces(input));
    assert_eq!(whole, split, "the session depends on the split");
    let mut reader = ReplyReader::new();
    reader.push(&whole.replies);
    let mut codes = Vec::new();
    while let Some(reply) = reader.next_reply().expect("our own reply is malformed") {
        assert_eq!(
            u16::from(reply.status(true).class()).min(5),
            match reply.code().get() / 100 {
                3 => 4,
                class => class,
            }
        );
        codes.push(reply.code().get());
    }
    assert!(reader.is_empty(), "half a reply");
    let kinds: u64 = codes.iter().fold(0, |set, code| set | 1 << (code % 64));
    shape(&[
        kinds,
        magnitude(codes.len()),
        magnitude(whole.messages.len()),
        u64::from(whole.closed) | u64::from(whole.tls) << 1,
        magnitude(whole.messages.iter().map(|(_, bytes)| bytes.len()).sum()),
    ])
}

/// IN-24, IN-25: the same facts or fault in any split; what is kept is bounded and free of control characters.
fn header(input: &[u8]) -> u64 {
    let scan = |input: &mut dyn Iterator<Item = &[u8]>| {
        let mut scanner = HeaderScanner::new(4096);
        for piece in input {
            scanner.read(piece);
        }
        scanner.finish()
    };
    let whole = scan(&mut std::iter::once(input));
    let split = scan(&mut pieces(input));
    assert_eq!(whole, split, "the header depends on the split");
    match whole {
        Ok(facts) => {
            // Cut at 998 octets; what is no UTF-8 becomes U+FFFD, of three octets.
            for value in [&facts.message_id, &facts.subject].into_iter().flatten() {
                assert!(
                    value.len() <= 3 * 998 && !value.chars().any(char::is_control),
                    "{value:?}"
                );
            }
            shape(&[
                u64::from(facts.received.min(4)),
                u64::from(facts.date) | u64::from(facts.utf8) << 1,
                facts.message_id.map_or(0, |id| 1 + magnitude(id.len())),
                facts
                    .subject
                    .map_or(0, |subject| 1 + magnitude(subject.len())),
                fnv(format!("{:?}", facts.require_tls).as_bytes()),
            ])
        }
        Err(fault) => fnv(format!("{fault:?}").as_bytes()),
    }
}
