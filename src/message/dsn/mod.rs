//! Delivery status notifications: facts in, a message out (RFC 3461, 3462, 3464, 6522, 6533).
//!
//! Composes and decides nothing: who is told what, and when, is `policy::notice`; that it happens in the transaction
//! that moves the state is the store's. Everything from others (reply text, ORCPT, ENVID, the original's header) is
//! data here and cannot leave its field (DSN-9).

mod fields;
mod original;
mod redact;
mod text;

use std::net::IpAddr;
use std::time::Duration;

use mail_builder::headers::HeaderType;
use mail_builder::headers::content_type::ContentType;
use mail_builder::mime::{BodyPart, MimePart};

use crate::clock::Timestamp;
use crate::message::Head;
use crate::smtp::address::{Domain, ForwardPath, Mailbox};
use crate::smtp::reply::{EnhancedCode, ReplyCode};

pub(super) use original::base64_lines;

use original::Encoding;

pub use original::Original;
pub use redact::without_original;

/// The most recipients that one notification describes one by one (DSN-3).
pub const MAX_BLOCKS: usize = 500;

/// Octets that the report and the text may take. DSN-9 grants 64 KiB to all but the original: the rest is for the header,
/// for a first recipient that is longer than a budget's end, and for the text's transfer encoding.
const STATUS_BUDGET: usize = 28 * 1024;
const TEXT_BUDGET: usize = 8 * 1024;

/// What a notification says (RFC 3464 §2.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Given up.
    Failed,
    /// Still tried.
    Delayed,
    /// Delivered by ourselves.
    Delivered,
    /// Handed to a host that sends no notifications of success.
    Relayed,
    /// Delivered to a list or alias.
    Expanded,
}

impl Action {
    /// The word of RFC 3464 §2.3.3.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Failed => "failed",
            Action::Delayed => "delayed",
            Action::Delivered => "delivered",
            Action::Relayed => "relayed",
            Action::Expanded => "expanded",
        }
    }
}

/// What is reported of one recipient.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its number in the message, for Final-Log-ID.
    pub number: u32,
    /// The forward-path.
    pub path: ForwardPath,
    /// ORCPT as `type;address`, decoded.
    pub orcpt: Option<String>,
    /// What happened.
    pub action: Action,
    /// Status; its class is made that of the action.
    pub status: EnhancedCode,
    /// Name and address of the host that decided, if one was reached.
    pub remote: Option<(String, Option<IpAddr>)>,
    /// The code of a real reply; none if the words in `reason` are ours.
    pub code: Option<ReplyCode>,
    /// The reply's text without its code, lines joined with `\n`; or our own words.
    pub reason: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the last one began.
    pub last_attempt: Option<Timestamp>,
    /// When the next one is due; delays only.
    pub next_attempt: Option<Timestamp>,
    /// When we give up; delays only.
    pub retry_until: Option<Timestamp>,
    /// Given up because of its age: the time from its arrival to the last attempt.
    pub expired_after: Option<Duration>,
}

/// All facts of one notification. All blocks have the same action group: failed, delayed or success.
#[derive(Clone, Debug)]
pub struct Notice<'a> {
    /// The message it is about.
    pub head: &'a Head,
    /// One per recipient, by number; those past [`MAX_BLOCKS`] and past the size bound are only counted.
    pub blocks: &'a [Block],
    /// Recipients beyond `blocks` that the caller left out already.
    pub further: usize,
    /// What is returned of the original.
    pub original: Original<'a>,
    /// Our name.
    pub reporting_mta: &'a Domain,
    /// `dsn.from`.
    pub from: &'a Mailbox,
    /// Whom it goes to: the reverse-path, or `dsn.postmaster`.
    pub to: &'a Mailbox,
    /// Now, for Date.
    pub now: Timestamp,
    /// Message-ID with its brackets, for the notification itself.
    pub message_id: &'a str,
    /// Random text for the boundary: at least 16 letters or digits.
    pub boundary_seed: &'a str,
}

/// A composed notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// Header and body, CRLF line ends.
    pub content: Vec<u8>,
    /// The subject.
    pub subject: String,
    /// Whether octets over 127 are in it.
    pub eight_bit: bool,
    /// Whether its header needs SMTPUTF8.
    pub utf8_headers: bool,
    /// Recipients described in blocks of their own.
    pub described: usize,
}

/// Composes a notification.
///
/// The UTF-8 flavour of RFC 6533 is used exactly when the sender's own address is internationalised: the notification
/// then needs an SMTPUTF8 path anyhow, and any other sender can be told in ASCII (DSN-14).
pub fn compose(notice: &Notice<'_>) -> Composed {
    let utf8 = notice.to.needs_utf8();
    let (status, described) = fields::delivery_status(notice, utf8, STATUS_BUDGET);
    let words = text::explain(notice, described, TEXT_BUDGET);
    let subject = subject(notice);

    let kind = if utf8 {
        "message/global-delivery-status"
    } else {
        "message/delivery-status"
    };
    let status_encoding = if utf8 && !status.is_ascii() {
        "8bit"
    } else {
        "7bit"
    };
    let original = returned(notice, utf8);
    let whole = matches!(original.headers.iter().find(|(name, _)| name == "Content-Type"), Some((_, HeaderType::ContentType(kind))) if !kind.c_type.ends_with("headers"));
    let parts = vec![
        readable(words).header("Content-Description", raw("Notification")),
        raw_part(kind, status_encoding, status.into_bytes())
            .header("Content-Description", raw("Delivery report")),
        original.header(
            "Content-Description",
            raw(if whole { "Message" } else { "Message header" }),
        ),
    ];

    let boundary = boundary(notice, &parts);
    let mut content = fields::message_header(notice, &subject, utf8);
    let report = ContentType::new("multipart/report")
        .attribute(
            "report-type",
            if utf8 {
                "global-delivery-status"
            } else {
                "delivery-status"
            },
        )
        .attribute("boundary", boundary);
    // RFC 6522 §3 and RFC 6533 §6: the report-type names the machine-readable part.
    let report = MimePart::new(report, BodyPart::Multipart(parts));
    report.write_part(&mut content);

    let utf8_headers = utf8;
    Composed {
        eight_bit: !content.is_ascii(),
        content,
        subject,
        utf8_headers,
        described,
    }
}

/// The words for people. ASCII goes as it is, so that even a reader without MIME shows it well; its lines are short.
fn readable(words: String) -> MimePart<'static> {
    let kind = ContentType::new("text/plain").attribute("charset", "utf-8");
    if words.is_ascii() {
        let lines = words.replace('\n', "\r\n").into_bytes();
        MimePart::new(kind, BodyPart::Binary(lines.into())).transfer_encoding("7bit")
    } else {
        MimePart::new(kind, BodyPart::Text(words.into()))
    }
}

/// The third part. What may not stand there as it is goes as base64 where the part's type permits it; else less goes.
fn returned<'x>(notice: &Notice<'_>, utf8: bool) -> MimePart<'x> {
    let octets = notice.original.octets;
    let header = Original::header_of(octets, octets.len()).octets;
    let part = |kind: &'x str, octets: &[u8]| match original::encoding(octets) {
        Encoding::SevenBit => raw_part(kind, "7bit", octets.to_vec()),
        Encoding::EightBit if utf8 => raw_part(kind, "8bit", octets.to_vec()),
        _ => {
            // RFC 6532 §3.5: message/global may be base64; so may what is text.
            let most = original::before_base64(notice.original.limit);
            let fits = Original::header_of(octets, most).octets;
            let octets = if notice.original.whole { octets } else { fits };
            raw_part(kind, "base64", original::base64_lines(octets))
        }
    };
    let header_kind = if utf8 {
        "message/global-headers"
    } else {
        "text/rfc822-headers"
    };
    if !notice.original.whole {
        return part(header_kind, octets);
    }
    // RFC 6532 §3.7: a message whose header is UTF-8 is no message/rfc822.
    if !header.is_ascii() && octets.len() <= original::before_base64(notice.original.limit) {
        return part("message/global", octets);
    }
    if !header.is_ascii() {
        return part(header_kind, header);
    }
    // RFC 2046 §5.2.1: 7bit, 8bit or binary, nothing else. What intake took has lines that fit.
    let encoding = if octets.is_ascii() { "7bit" } else { "8bit" };
    raw_part("message/rfc822", encoding, octets.to_vec())
}

/// A plain message to the postmaster: to whom notifications were not sent, and how many (DSN-11).
pub fn summary(
    withheld: &[(String, u64)],
    reporting_mta: &Domain,
    from: &Mailbox,
    to: &Mailbox,
    now: Timestamp,
    message_id: &str,
) -> Composed {
    let subject = format!("Notifications withheld from {} senders", withheld.len());
    let mut content = fields::summary_header(from, to, now, message_id, &subject);
    let mut words = format!(
        "This is the mail system at {reporting_mta}.\n\nMore notifications than dsn.per_sender allows were due to the \
         senders below; these were not sent.\n\n"
    );
    for (address, count) in withheld {
        if words.len() > STATUS_BUDGET {
            words.push_str("and further senders\n");
            break;
        }
        words.push_str(&format!(
            "{count:8}  <{}>\n",
            fields::printable(address, true)
        ));
    }
    let part = MimePart::new(
        ContentType::new("text/plain").attribute("charset", "utf-8"),
        BodyPart::Text(words.into()),
    );
    part.write_part(&mut content);
    let eight_bit = !content.is_ascii();
    Composed {
        content,
        subject,
        eight_bit,
        utf8_headers: false,
        described: withheld.len(),
    }
}

fn raw(text: &str) -> mail_builder::headers::HeaderType<'_> {
    mail_builder::headers::raw::Raw::new(text).into()
}

/// A part whose octets go out as they are, with the given transfer encoding declared.
fn raw_part<'x>(kind: &'x str, encoding: &'x str, octets: Vec<u8>) -> MimePart<'x> {
    MimePart::new(ContentType::new(kind), BodyPart::Binary(octets.into()))
        .transfer_encoding(encoding)
}

fn subject(notice: &Notice<'_>) -> String {
    let what = match notice.blocks.first().map(|block| block.action) {
        Some(Action::Delayed) => "Delivery delayed",
        Some(Action::Failed) | None => "Delivery failed",
        Some(Action::Delivered | Action::Relayed | Action::Expanded) => "Delivered",
    };
    let count = notice.blocks.len() + notice.further;
    match notice.blocks {
        // An address is canonical by its type: printable, no line ends. Only ASCII ones fit an ASCII subject.
        [only] if count == 1 && !only.path.needs_utf8() => format!("{what}: {}", only.path),
        _ if count == 1 => format!("{what}: 1 recipient"),
        _ => format!("{what}: {count} recipients"),
    }
}

/// A boundary that occurs in no part (DSN-9). The seed is random, so a second round is not expected, only provided for.
fn boundary(notice: &Notice<'_>, parts: &[MimePart<'_>]) -> String {
    let mut round = 0_u32;
    loop {
        let boundary = format!("=_{}_{round}", notice.boundary_seed);
        let found = parts.iter().any(|part| match &part.contents {
            BodyPart::Text(text) => text.contains(&boundary),
            BodyPart::Binary(octets) => contains(octets, boundary.as_bytes()),
            BodyPart::Multipart(_) => false,
        });
        if !found {
            return boundary;
        }
        round += 1;
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{QueueId, Ret};
    use crate::smtp::address::ReversePath;

    fn head(sender: &str) -> Head {
        Head {
            client: "192.0.2.9".into(),
            reverse_path: ReversePath::parse(sender, true).unwrap(),
            message_id: "<abc@here.example>".into(),
            subject: "Quarterly figures".into(),
            size: 1000,
            envid: Some("QQ314159".into()),
            ret: Some(Ret::Headers),
            ..Head::new(
                QueueId::new(42).unwrap(),
                Timestamp::from_secs(1_795_286_400),
                "relay",
            )
        }
    }

    fn block(address: &str, reason: &str) -> Block {
        Block {
            number: 1,
            path: Mailbox::parse(address, true).unwrap(),
            orcpt: Some(format!("rfc822;{address}")),
            action: Action::Failed,
            status: EnhancedCode::new(5, 1, 1),
            remote: Some(("mx1.dest.example".into(), "192.0.2.7".parse().ok())),
            code: ReplyCode::new(550),
            reason: reason.into(),
            attempts: 1,
            last_attempt: Some(Timestamp::from_secs(1_795_286_400)),
            next_attempt: None,
            retry_until: None,
            expired_after: None,
        }
    }

    fn composed(head: &Head, blocks: &[Block], further: usize, original: Original<'_>) -> Composed {
        let to = head.reverse_path.mailbox().unwrap().clone();
        compose(&Notice {
            head,
            blocks,
            further,
            original,
            reporting_mta: &Domain::parse("here.example").unwrap(),
            from: &Mailbox::parse("postmaster@here.example", false).unwrap(),
            to: &to,
            now: Timestamp::from_secs(1_795_290_000),
            message_id: "<d1@here.example>",
            boundary_seed: "0123456789abcdef",
        })
    }

    const HEADER: Original<'_> = Original {
        octets: b"Subject: hi\r\nFrom: a@here.example\r\n",
        whole: false,
        limit: 256 * 1024,
    };

    fn text(composed: &Composed) -> String {
        String::from_utf8(composed.content.clone()).unwrap()
    }

    // DSN-4, DSN-5, DSN-6, DSN-7
    #[test]
    fn a_failure_names_the_recipient_the_host_and_its_words() {
        let report = composed(
            &head("ann@here.example"),
            &[block(
                "bob@dest.example",
                "5.1.1 no such user\nsee https://dest.example/",
            )],
            0,
            HEADER,
        );
        let text = text(&report);
        for line in [
            "Subject: Delivery failed: bob@dest.example\r\n",
            "Auto-Submitted: auto-replied\r\n",
            "In-Reply-To: <abc@here.example>\r\n",
            "X-Failed-Recipients: bob@dest.example\r\n",
            "Original-Envelope-Id: QQ314159\r\n",
            "Reporting-MTA: dns; here.example\r\n",
            "Final-Recipient: rfc822;bob@dest.example\r\n",
            "Original-Recipient: rfc822;bob@dest.example\r\n",
            "Action: failed\r\n",
            "Status: 5.1.1\r\n",
            "Remote-MTA: dns; mx1.dest.example ([192.0.2.7])\r\n",
            "Diagnostic-Code: smtp; 550 5.1.1 no such user see https://dest.example/\r\n",
            "Final-Log-ID: 42/1\r\n",
            "Content-Type: text/rfc822-headers",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        assert_eq!(report.described, 1);
        assert!(!report.eight_bit && !text.contains("Will-Retry-Until"));
    }

    // DSN-7: words of our own are no diagnostic of a peer.
    #[test]
    fn expiry_without_a_reply_has_no_diagnostic_code() {
        let mut expired = block("bob@dest.example", "connection timed out");
        expired.code = None;
        expired.status = EnhancedCode::new(4, 4, 7);
        let text = text(&composed(&head("ann@here.example"), &[expired], 0, HEADER));
        assert!(
            !text.contains("Diagnostic-Code") && text.contains("Status: 4.4.7\r\n"),
            "{text}"
        );
    }

    // DSN-6
    #[test]
    fn a_delay_says_when_it_is_tried_next_and_when_given_up() {
        let mut delayed = block("bob@dest.example", "451 later");
        delayed.action = Action::Delayed;
        delayed.status = EnhancedCode::new(4, 7, 1);
        delayed.next_attempt = Some(Timestamp::from_secs(1_795_300_000));
        delayed.retry_until = Some(Timestamp::from_secs(1_795_700_000));
        let text = text(&composed(&head("ann@here.example"), &[delayed], 0, HEADER));
        assert!(
            text.contains("Action: delayed\r\n") && text.contains("Status: 4.7.1\r\n"),
            "{text}"
        );
        assert!(text.contains(&format!(
            "Will-Retry-Until: {}",
            Timestamp::from_secs(1_795_700_000).rfc5322()
        )));
        assert!(
            text.contains("tried next at") && text.contains("given up at"),
            "{text}"
        );
    }

    // DSN-9
    #[test]
    fn hostile_text_stays_inside_its_field() {
        let evil = "no\r\nFinal-Recipient: rfc822;evil@x\r\n\r\n--=_0123456789abcdef_0\r\nX: \u{85}\u{2028}\0\u{1b}[2J";
        let mut hostile = block("bob@dest.example", evil);
        hostile.orcpt = Some("rfc822;a\r\nStatus: 2.0.0".into());
        hostile.remote = Some(("mx\r\nAction: delivered".into(), None));
        let mut from = head("ann@here.example");
        from.envid = Some("x\r\nReporting-MTA: dns; evil".into());
        from.subject = "hi\r\n\r\n--=_0123456789abcdef_0".into();
        from.message_id = "<a@b>\r\nBcc: evil@x".into();
        let original = Original {
            octets: b"Subject: --=_0123456789abcdef_0\r\n",
            whole: false,
            limit: 256 * 1024,
        };
        let report = composed(&from, &[hostile], 0, original);
        let text = text(&report);
        let boundary = "--=_0123456789abcdef_1";
        assert_eq!(text.matches(boundary).count(), 4, "{text}");
        for name in [
            "Final-Recipient:",
            "Status:",
            "Action:",
            "Reporting-MTA:",
            "Bcc:",
        ] {
            let lines = text.lines().filter(|line| line.starts_with(name)).count();
            assert_eq!(lines, usize::from(name != "Bcc:"), "{name} in\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains('\0'));
    }

    // DSN-3, DSN-9
    #[test]
    fn ten_thousand_failures_make_one_bounded_notice_that_counts_the_rest() {
        let blocks: Vec<Block> = (0..500)
            .map(|n| block(&format!("u{n}@dest.example"), &"long words ".repeat(300)))
            .collect();
        let report = composed(&head("ann@here.example"), &blocks, 9_500, HEADER);
        let text = text(&report);
        assert!(
            report.content.len() < 64 * 1024,
            "{} octets",
            report.content.len()
        );
        assert!(report.described > 20);
        assert!(
            text.contains("10000 recipients") && text.contains("more, which are not listed here"),
            "{text}"
        );
    }

    // DSN-14
    #[test]
    fn an_internationalised_sender_gets_the_utf8_flavour_and_others_ascii() {
        let utf8 = composed(
            &head("jörg@here.example"),
            &[block("bøb@dest.example", "no")],
            0,
            HEADER,
        );
        let text_utf8 = text(&utf8);
        assert!(utf8.utf8_headers && utf8.eight_bit);
        assert!(
            text_utf8.contains("message/global-delivery-status"),
            "{text_utf8}"
        );
        assert!(
            text_utf8.contains("Final-Recipient: utf-8;bøb@dest.example\r\n"),
            "{text_utf8}"
        );
        let original = Original {
            octets: "Subject: grüße\r\n".as_bytes(),
            whole: false,
            limit: 256 * 1024,
        };
        let ascii = composed(
            &head("ann@here.example"),
            &[block("bøb@dest.example", "no")],
            0,
            original,
        );
        let text_ascii = text(&ascii);
        assert!(!ascii.eight_bit, "{text_ascii}");
        assert!(
            text_ascii.contains("Final-Recipient: utf-8;b\\x{F8}b@dest.example\r\n"),
            "{text_ascii}"
        );
        assert!(
            text_ascii.contains("Content-Transfer-Encoding: base64"),
            "{text_ascii}"
        );
    }

    // DSN-5
    #[test]
    fn the_whole_original_is_returned_as_message_rfc822() {
        let original = Original::whole_or_header(b"Subject: hi\r\n\r\nbody\r\n", 1000);
        let text = text(&composed(
            &head("ann@here.example"),
            &[block("bob@dest.example", "no")],
            0,
            original,
        ));
        assert!(
            text.contains("Content-Type: message/rfc822") && text.contains("\r\n\r\nbody\r\n"),
            "{text}"
        );
    }
}
