//! What others wrote stays where it belongs (DSN-9), and many failures make one bounded notification (DSN-3).

use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};

use super::{AT_ONCE, CONTENT, has, queue_is_empty, read, through};
use crate::support::daemon::{TestDaemon, submission};
use crate::support::mx::{At, Mx, Script, reply};

/// The fields of the report, without their values.
fn fields(lines: &[String]) -> Vec<&str> {
    let names = lines.iter().filter(|line| line.starts_with("status "));
    names
        .filter_map(|line| line.split(": ").next())
        .map(|name| name.trim_end_matches(':'))
        .collect()
}

// DSN-9, DSN-7, DSN-5
#[test]
fn replies_parameters_and_headers_of_others_stay_in_their_fields() {
    let evil = "550-5.1.1 \u{1b}[2J--=_0 Final-Recipient: rfc822;evil@x.example\r\n\
        550-5.1.1 \tStatus: 2.0.0 \u{85}\u{2028}\r\n550-5.1.1 \r\n550 5.1.1 Content-Type: text/html";
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, evil).line("<bob@")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    let long = "x".repeat(5000);
    let content = format!(
        "Subject: --=_0 \u{fc}\u{2028}\r\nFrom: ann@here.example\r\nMessage-ID: <a b> evil\r\n\
         X-Long: {long}\r\nContent-Type: multipart/mixed; boundary=\"=_0\"\r\n\r\n--=_0--\r\n"
    );
    submission(
        &daemon,
        "MAIL FROM:<ann@here.example> ENVID=--+3D_0+3BReporting-MTA:evil",
        &["RCPT TO:<bob@dest.example> ORCPT=x-evil;a+2BStatus:2.0.0+3B+5Cx{0A}"],
        &content,
    );
    let notice = mx.next_transaction();
    let lines = read(&notice);
    assert_eq!(
        fields(&lines),
        [
            "status 0 Original-Envelope-Id",
            "status 0 Reporting-MTA",
            "status 0 Arrival-Date",
            "status 1 Original-Recipient",
            "status 1 Final-Recipient",
            "status 1 Action",
            "status 1 Status",
            "status 1 Remote-MTA",
            "status 1 Diagnostic-Code",
            "status 1 Last-Attempt-Date",
            "status 1 Final-Log-ID",
        ],
        "{}",
        lines.join("\n")
    );
    has(&lines, "status 1 Status: 5.1.1");
    has(
        &lines,
        "status 0 Original-Envelope-Id: --=_0;Reporting-MTA:evil",
    );
    // Three parts and no more; what may not stand in 7bit is coded.
    assert_eq!(lines.iter().filter(|l| l.starts_with("part ")).count(), 3);
    has(&lines, "part 2 text/rfc822-headers");
    has(&lines, &long);
    let raw = &notice.content;
    assert!(raw.is_ascii() && !raw.contains(&0x1b) && !raw.contains(&0));
    assert!(raw.split(|&b| b == b'\n').all(|line| line.len() < 999));
    // A Message-ID that is none is not referred to.
    assert!(
        !lines
            .iter()
            .any(|line| line.starts_with("header References"))
    );
}

// DSN-5, DSN-9, DSN-14: a message whose header is UTF-8 comes back whole, in a form that any path takes.
#[test]
fn a_utf8_message_comes_back_whole_in_ascii() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    submission(
        &daemon,
        "MAIL FROM:<ann@here.example> RET=FULL BODY=8BITMIME SMTPUTF8",
        &["RCPT TO:<bob@dest.example>"],
        "Subject: gr\u{fc}\u{df}e\r\nFrom: ann@here.example\r\n\r\nb\u{f6}dy\r\n",
    );
    let notice = mx.next_transaction();
    assert!(notice.content.is_ascii());
    assert!(!notice.mail.contains("SMTPUTF8"), "{}", notice.mail);
    let text = String::from_utf8(notice.content).unwrap();
    assert!(text.contains("Content-Type: message/global\r\n"), "{text}");
}

// DSN-14: who has an internationalised address is told in UTF-8.
#[test]
fn an_internationalised_sender_is_told_in_the_utf8_flavour() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<b\u{f8}b@")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    submission(
        &daemon,
        "MAIL FROM:<j\u{f6}rg@here.example> SMTPUTF8",
        &["RCPT TO:<b\u{f8}b@dest.example>"],
        CONTENT,
    );
    let notice = mx.next_transaction();
    assert_eq!(notice.recipients(), ["j\u{f6}rg@here.example"]);
    assert!(notice.mail.contains("SMTPUTF8"), "{}", notice.mail);
    let lines = read(&notice);
    has(&lines, "type multipart/report global-delivery-status");
    has(&lines, "part 1 message/global-delivery-status");
    let text = String::from_utf8_lossy(&notice.content).into_owned();
    assert!(
        text.contains("Final-Recipient: utf-8;b\u{f8}b@dest.example\r\n"),
        "{text}"
    );
}

// DSN-3, DSN-9
#[test]
fn ten_thousand_failing_recipients_make_one_bounded_notification() {
    let mx = Mx::start(
        Script::new().rule(reply(At::Rcpt, "550 5.1.1 no such user here").line("@dest.example")),
    );
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let more =
        "[intake]\nmax_recipients = 10000\n[limits]\nrecipients = 1000\n[dsn]\ncollect = \"1h\"\n";
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, more));
    let to: Vec<String> = (1..=10_000).map(|n| format!("u{n}@dest.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    daemon.submit("ann@here.example", &to, CONTENT);
    queue_is_empty(&daemon);
    clock.advance(Duration::from_secs(3600));
    let notice = mx.next_transaction();
    let lines = read(&notice);
    has(&lines, "header Subject: Delivery failed: 10000 recipients");
    let blocks = lines.iter().filter(|l| l.contains(" Final-Recipient:"));
    let blocks = blocks.count();
    assert!((50..=500).contains(&blocks), "{blocks} blocks");
    let shown = lines.iter().filter(|l| l.starts_with("text <u")).count();
    has(
        &lines,
        &format!(
            "text and {} more, which are not listed here.",
            10_000 - shown
        ),
    );
    assert!(notice.content.len() < 64 << 10, "{}", notice.content.len());
    queue_is_empty(&daemon);
    assert_eq!(mx.transactions().len(), 1);
}

// DSN-16
#[test]
fn several_expansions_of_one_original_recipient_are_one() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("@dest.example")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    submission(
        &daemon,
        "MAIL FROM:<ann@here.example>",
        &[
            "RCPT TO:<one@dest.example> ORCPT=rfc822;list@here.example",
            "RCPT TO:<two@dest.example> ORCPT=rfc822;list@here.example",
            "RCPT TO:<three@dest.example>",
        ],
        CONTENT,
    );
    let lines = read(&mx.next_transaction());
    let original = "Original-Recipient: rfc822;list@here.example";
    assert_eq!(lines.iter().filter(|l| l.contains(original)).count(), 1);
    has(&lines, "header Subject: Delivery failed: 2 recipients");
    has(&lines, "Final-Recipient: rfc822;three@dest.example");
}
