//! Scenarios: what senders are told. Every notification is read by Python's `email` package and by mail-parser, not by us.

mod delays;
mod hostile;
mod lost;
mod required;
mod told;

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste::clock::{Clock, Timestamp};

use crate::support::daemon::{TestDaemon, submission};
use crate::support::mx::{At, Mx, Script, SeenTransaction, reply};
use crate::support::queue::TempDir;

const CONTENT: &str = "From: ann@here.example\r\nSubject: figures\r\nMessage-ID: <1@here.example>\r\n\
    Date: Sat, 21 Nov 2026 18:40:00 +0000\r\n\r\nthe body\r\n";

/// Everything goes to one server, which plays the recipients' hosts and the senders'.
fn through(mx: &Mx, more: &str) -> String {
    format!(
        "{more}\n[[transport]]\nname = \"out\"\nkind = \"relay\"\nhosts = [\"{}\"]\ntls = \"none\"\n\
         [[route]]\ntransport = \"out\"\n",
        mx.address()
    )
}

const AT_ONCE: &str = "[dsn]\ncollect = \"0s\"\n[retry]\njitter = 0.0\n";

/// Lines of `path: value` for every part and field of a notification, as another program reads them.
fn read(notice: &SeenTransaction) -> Vec<String> {
    const PROGRAM: &str = r#"
import sys, email, email.policy
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
for k, v in m.items(): print("header %s: %s" % (k, v))
print("type", m.get_content_type(), m.get_param("report-type"))
for i, part in enumerate(m.iter_parts()):
    t = part.get_content_type()
    print("part", i, t)
    if t.endswith("delivery-status"):
        for j, group in enumerate(part.get_payload()):
            for k, v in group.items(): print("status %d %s: %s" % (j, k, " ".join(str(v).split())))
    elif t == "text/plain":
        for line in part.get_content().splitlines(): print("text", line)
    elif t.startswith("message/"):
        for k, v in part.get_payload(0).items(): print("original %s: %s" % (k, v))
        print("original body", part.get_payload(0).get_payload().strip())
    else:
        for line in part.get_payload(decode=True).decode("utf-8", "replace").splitlines(): print("original", line)
for d in m.defects: print("DEFECT", d)
for p in m.walk():
    for d in p.defects: print("DEFECT", d)
"#;
    let mut python = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env("PYTHONIOENCODING", "utf-8")
        .spawn()
        .expect("python3");
    let mut input = python.stdin.take().unwrap();
    input.write_all(&notice.content).unwrap();
    drop(input);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(!lines.contains("DEFECT"), "{lines}");
    // Another reader finds the same parts.
    let parsed = mail_parser::MessageParser::default()
        .parse(&notice.content)
        .expect("a message");
    let types = parsed.root_part().headers.iter();
    let report = types.filter_map(|header| header.value.as_content_type());
    assert!(report.into_iter().any(|kind| kind.ctype() == "multipart"));
    let mail_parser::PartType::Multipart(parts) = &parsed.root_part().body else {
        panic!("not a multipart: {lines}");
    };
    assert_eq!(parts.len(), 3);
    lines.lines().map(str::to_owned).collect()
}

#[track_caller]
fn has(lines: &[String], wanted: &str) {
    let found = lines.iter().any(|line| line.contains(wanted));
    assert!(found, "no {wanted:?} in\n{}", lines.join("\n"));
}

/// Asks the control socket until an answer satisfies; the daemon works while we ask.
#[track_caller]
fn until(daemon: &TestDaemon, line: &str, satisfied: impl Fn(&[String]) -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = daemon.control(line);
        if satisfied(&answer) {
            return;
        }
        assert!(Instant::now() < patience, "{line}: {answer:?}");
        std::thread::yield_now();
    }
}

fn queue_is_empty(daemon: &TestDaemon) {
    until(daemon, "count\n", |lines| {
        lines.iter().any(|line| line == "OK 0")
    });
}

// DSN-1, DSN-4, DSN-5, DSN-6, DSN-7, DSN-8, Q-10
#[test]
fn the_sender_of_refused_mail_is_told_who_refused_whom_and_why() {
    let mx = Mx::start(
        Script::new().without("DSN").rule(
            reply(
                At::Rcpt,
                "550-5.1.1 no such user\r\n550 5.1.1 ask the postmaster",
            )
            .line("<bob@"),
        ),
    );
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    let id = daemon.submit(
        "ann@here.example",
        &["bob@dest.example", "cid@dest.example"],
        CONTENT,
    );
    let first = mx.next_transaction();
    let second = mx.next_transaction();
    let (mail, notice) = if first.reverse_path().is_empty() {
        (second, first)
    } else {
        (first, second)
    };
    assert_eq!(mail.recipients(), ["cid@dest.example"]);
    assert_eq!(notice.reverse_path(), "");
    assert_eq!(notice.recipients(), ["ann@here.example"]);
    let lines = read(&notice);
    has(&lines, "type multipart/report delivery-status");
    has(&lines, "header To: ann@here.example");
    has(&lines, "header Auto-Submitted: auto-replied");
    has(&lines, "header References: <1@here.example>");
    has(&lines, "part 0 text/plain");
    has(&lines, "status 0 Reporting-MTA: dns; posthaste.test");
    has(&lines, "status 1 Final-Recipient: rfc822;bob@dest.example");
    has(&lines, "status 1 Action: failed");
    has(&lines, "status 1 Status: 5.1.1");
    has(
        &lines,
        "status 1 Diagnostic-Code: smtp; 550 5.1.1 no such user",
    );
    has(&lines, "ask the postmaster");
    has(&lines, &format!("status 1 Final-Log-ID: {id}/1"));
    has(&lines, "original Subject: figures");
    let text = lines.join("\n");
    assert!(
        !text.contains("cid@") && !text.contains("the body"),
        "{text}"
    );
    queue_is_empty(&daemon);
}

// DSN-2, IN-38
#[test]
fn a_null_reverse_path_is_never_answered() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    daemon.submit("", &["bob@dest.example"], CONTENT);
    daemon.submit("ann@here.example", &["cid@dest.example"], CONTENT);
    // What follows has been taken, and nothing came before it.
    assert_eq!(mx.next_transaction().recipients(), ["cid@dest.example"]);
    queue_is_empty(&daemon);
    assert_eq!(mx.transactions().len(), 1);
}

// DSN-3
#[test]
fn failures_of_one_message_share_a_notice() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("@dest.example")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    let to: Vec<String> = (1..=40).map(|n| format!("u{n}@dest.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    daemon.submit("ann@here.example", &to, CONTENT);
    let lines = read(&mx.next_transaction());
    has(&lines, "header Subject: Delivery failed: 40 recipients");
    has(&lines, "status 40 Final-Recipient: rfc822;u40@dest.example");
    queue_is_empty(&daemon);
    assert_eq!(mx.transactions().len(), 1);
}

// RT-8, RT-4, DSN-1, DSN-6
#[test]
fn a_message_that_never_leaves_is_told_of_at_its_ages_and_at_its_end() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 come back").line("<bob@")));
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, AT_ONCE));
    let id = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    let hour = Duration::from_secs(3600);
    let attempts = |n: u32| {
        let attempts = format!(" attempts={n} ");
        until(&daemon, &format!("list id={id}\n"), |lines| {
            lines
                .iter()
                .any(|l| l.contains(&attempts) && l.contains("state=queued"))
        });
    };
    attempts(1);
    let mut told = Vec::new();
    let mut tries = 1;
    for age in 1..=120_u32 {
        clock.advance(hour);
        if [4, 24, 72, 120].contains(&age) {
            let lines = read(&mx.next_transaction());
            let action = lines
                .iter()
                .find(|line| line.contains(" Action: "))
                .unwrap();
            told.push((age, action.rsplit(' ').next().unwrap().to_owned()));
            if age < 120 {
                has(
                    &lines,
                    "status 1 Diagnostic-Code: smtp; 451 4.7.1 come back",
                );
                has(&lines, "status 1 Will-Retry-Until: ");
                has(&lines, "text     given up at");
            } else {
                has(&lines, "status 1 Status: 4.4.7");
            }
        }
        // RT-2 with a clock that moves by the hour; each attempt is awaited before it moves on.
        if [1, 2, 3, 4, 6, 10, 18, 34, 50, 66, 82, 98, 114].contains(&age) {
            tries += 1;
            attempts(tries);
        }
    }
    let expected = [
        (4, "delayed"),
        (24, "delayed"),
        (72, "delayed"),
        (120, "failed"),
    ];
    assert_eq!(told, expected.map(|(age, action)| (age, action.to_owned())));
    queue_is_empty(&daemon);
}

// RT-8: each age at most once, also over restarts.
#[test]
fn an_age_that_was_told_is_not_told_again_after_a_restart() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 come back").line("<bob@")));
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let more = through(&mx, AT_ONCE);
    let dir = Arc::new(TempDir::new());
    let daemon = TestDaemon::start_in(dir, clock.clone(), &more).unwrap();
    let id = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    until(&daemon, &format!("list id={id}\n"), |l| {
        l.iter()
            .any(|l| l.contains("attempts=1 ") && l.contains("state=queued"))
    });
    clock.advance(Duration::from_secs(5 * 3600));
    has(&read(&mx.next_transaction()), "Action: delayed");
    let dir = daemon.stop();
    let daemon = TestDaemon::start_in(dir, clock.clone(), &more).unwrap();
    clock.advance(Duration::from_secs(20 * 3600));
    has(&read(&mx.next_transaction()), "Action: delayed");
    daemon.stop();
    assert_eq!(mx.transactions().len(), 2);
}

// DSN-13, CL-29
#[test]
fn success_is_told_where_the_next_hop_does_not_and_passed_on_where_it_does() {
    for confirms in [false, true] {
        let script = if confirms {
            Script::new()
        } else {
            Script::new().without("DSN")
        };
        let mx = Mx::start(script);
        let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
        submission(
            &daemon,
            "MAIL FROM:<ann@here.example> RET=HDRS ENVID=QQ314159",
            &["RCPT TO:<bob@dest.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;robert@dest.example"],
            CONTENT,
        );
        let mail = mx.next_transaction();
        assert_eq!(
            mail.mail.contains("ENVID=QQ314159"),
            confirms,
            "{}",
            mail.mail
        );
        assert_eq!(
            mail.rcpt[0].contains("NOTIFY=SUCCESS,FAILURE"),
            confirms,
            "{}",
            mail.rcpt[0]
        );
        if !confirms {
            let lines = read(&mx.next_transaction());
            has(&lines, "status 0 Original-Envelope-Id: QQ314159");
            has(
                &lines,
                "status 1 Original-Recipient: rfc822;robert@dest.example",
            );
            has(&lines, "status 1 Action: relayed");
            has(&lines, "status 1 Status: 2.");
        }
        queue_is_empty(&daemon);
        assert_eq!(mx.transactions().len(), if confirms { 1 } else { 2 });
    }
}

// DSN-1, CTL-12
#[test]
fn an_operator_who_fails_mail_is_quoted_and_one_who_drops_it_is_not() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 come back").line("<bob@")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    let dropped = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    let failed = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    for id in [dropped, failed] {
        until(&daemon, &format!("list id={id}\n"), |l| {
            l.iter()
                .any(|l| l.contains("state=queued") && l.contains("attempts=1 "))
        });
    }
    daemon.control(&format!("drop id={dropped}\n"));
    daemon.control(&format!(
        "fail id={failed} text=\"the account was closed\"\n"
    ));
    let lines = read(&mx.next_transaction());
    has(&lines, &format!("status 1 Final-Log-ID: {failed}/1"));
    has(&lines, "status 1 Status: 5.7.0");
    has(&lines, "the account was closed");
    assert!(!lines.iter().any(|line| line.contains("Diagnostic-Code")));
    queue_is_empty(&daemon);
    assert_eq!(mx.transactions().len(), 1);
}

// DSN-11
#[test]
fn more_than_a_sender_s_share_is_withheld_and_summed_up_to_the_postmaster() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@")));
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let more =
        "[dsn]\ncollect = \"0s\"\nper_sender = \"2/1h\"\npostmaster = \"boss@here.example\"\n";
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, more));
    for _ in 0..5 {
        daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    }
    for _ in 0..2 {
        assert_eq!(mx.next_transaction().recipients(), ["ann@here.example"]);
    }
    queue_is_empty(&daemon);
    // All five have failed; when a later one is told, they have been passed.
    daemon.submit("eve@here.example", &["bob@dest.example"], CONTENT);
    assert_eq!(mx.next_transaction().recipients(), ["eve@here.example"]);
    clock.advance(Duration::from_secs(3601));
    let summary = mx.next_transaction();
    assert_eq!(summary.recipients(), ["boss@here.example"]);
    let text = String::from_utf8_lossy(&summary.content).into_owned();
    assert!(text.contains("3  <ann@here.example>"), "{text}");
    queue_is_empty(&daemon);
    assert_eq!(mx.transactions().len(), 4);
}

// DSN-5: RET=FULL returns the message, and its content was kept for that.
#[test]
fn the_whole_message_comes_back_where_ret_asks_for_it() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    submission(
        &daemon,
        "MAIL FROM:<ann@here.example> RET=FULL",
        &["RCPT TO:<bob@dest.example>"],
        CONTENT,
    );
    let lines = read(&mx.next_transaction());
    has(&lines, "part 2 message/rfc822");
    has(&lines, "original body the body");
}
