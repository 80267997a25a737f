//! Scenarios: which way mail takes, what an operator changes about it, and the transports that reach nobody.

mod lmtp;
mod terms;

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste::clock::{Clock, Timestamp};

use crate::support::daemon::{Process, Smtp, TestDaemon};
use crate::support::mx::{At, Mx, Script, reply};
use crate::support::queue::TempDir;

const CONTENT: &str = "From: ann@here.example\r\nSubject: x\r\n\r\nthe body\r\n";

const QUICK: &str = "[dsn]\ncollect = \"0s\"\n[retry]\njitter = 0.0\nintervals = [\"10m\"]\n";

/// A relay without TLS.
fn relay(name: &str, mx: &Mx) -> String {
    format!(
        "[[transport]]\nname = \"{name}\"\nkind = \"relay\"\nhosts = [\"{}\"]\ntls = \"none\"\n",
        mx.address()
    )
}

fn route(transport: &str, more: &str) -> String {
    format!("[[route]]\ntransport = \"{transport}\"\n{more}\n")
}

fn manual() -> Clock {
    Clock::manual(Timestamp::from_secs(1_800_000_000))
}

/// Asks the control socket until an answer satisfies; the daemon works while we ask.
#[track_caller]
fn until(daemon: &TestDaemon, line: &str, satisfied: impl Fn(&str) -> bool) -> String {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = daemon.control(line).join("\n");
        if satisfied(&answer) {
            return answer;
        }
        assert!(Instant::now() < patience, "{line}: {answer}");
        std::thread::yield_now();
    }
}

fn queue_is_empty(daemon: &TestDaemon) {
    until(daemon, "count\n", |answer| answer.ends_with("OK 0"));
}

// RO-1, RO-2, RO-4
#[test]
fn mail_goes_the_way_of_its_sender_recipient_and_attempts() {
    let (one, two, own) = (
        Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 later").line("<slow@"))),
        Mx::start(Script::new()),
        Mx::start(Script::new()),
    );
    let clock = manual();
    let more = [
        QUICK.to_owned(),
        relay("one", &one),
        relay("two", &two),
        relay("own", &own),
        route("two", "min_attempts = 1"),
        route("own", "to = [\"mail.here.example\"]"),
        route("one", ""),
        route("two", "from = [\".bulk.example\"]"),
    ]
    .concat();
    let daemon = TestDaemon::start_in(Arc::new(TempDir::new()), clock.clone(), &more).unwrap();
    // The host's own domain is routed like any other.
    daemon.submit("ann@here.example", &["root@mail.here.example"], CONTENT);
    assert_eq!(
        own.next_transaction().recipients(),
        ["root@mail.here.example"]
    );
    // One message, two ways by two senders.
    daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    assert_eq!(one.next_transaction().recipients(), ["bob@dest.example"]);
    daemon.submit("ann@x.bulk.example", &["cid@dest.example"], CONTENT);
    assert_eq!(two.next_transaction().recipients(), ["cid@dest.example"]);
    // The second attempt goes another way than the first.
    daemon.submit("ann@here.example", &["slow@dest.example"], CONTENT);
    let listed = until(&daemon, "list\n", |answer| {
        answer.contains("state=queued attempts=1 ")
    });
    assert!(listed.contains("state=queued"), "{listed}");
    clock.advance(Duration::from_secs(601));
    assert_eq!(two.next_transaction().recipients(), ["slow@dest.example"]);
    queue_is_empty(&daemon);
}

// CTL-14, RO-1, RO-3, CFG-6, RT-7
#[test]
fn an_operators_way_stays_and_waits_when_its_transport_is_gone() {
    let (one, two) = (
        Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 later"))),
        Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 later"))),
    );
    let clock = manual();
    let with = |more: String| format!("{QUICK}{}{}{more}", relay("one", &one), route("one", ""));
    let more = with(relay("two", &two));
    let daemon = TestDaemon::start_in(Arc::new(TempDir::new()), clock.clone(), &more).unwrap();
    daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    daemon.submit("ann@here.example", &["cid@dest.example"], CONTENT);
    until(&daemon, "count state=queued\n", |answer| {
        answer.ends_with("OK 2")
    });
    until(&daemon, "list\n", |a| {
        a.matches("state=queued attempts=1 ").count() == 2
    });
    let answer = daemon.control("route id=1 transport=three\n");
    assert_eq!(
        answer,
        ["ERR usage no transport is named \"three\"; transports lists them"]
    );
    assert_eq!(daemon.control("route id=1 transport=two\n"), ["OK 1"]);
    // It is not due, and gone the next minute.
    daemon.rewrite(&with(String::new()));
    assert_eq!(daemon.control("reload\n").last().unwrap(), "OK reloaded");
    clock.advance(Duration::from_secs(601));
    until(&daemon, "list to=cid\n", |answer| {
        answer.contains("state=queued attempts=2 ")
    });
    let waits = until(&daemon, "list to=bob\n", |answer| {
        answer.contains("blocker=")
    });
    assert!(waits.contains("attempts=1 "), "{waits}");
    let blocker = "transport \\\"two\\\" is not in the configuration";
    assert!(waits.contains(blocker), "{waits}");
    assert!(daemon.control("why id=1\n").join("").contains(blocker));
    // Back again, it goes that way and no other.
    daemon.rewrite(&more);
    daemon.control("reload\n");
    until(&daemon, "list to=bob\n", |answer| {
        answer.contains("state=queued attempts=2 ")
    });
    two.wait_for_commands(1, 1, "RCPT TO:<bob@");
    // And without it the routes are asked.
    assert_eq!(daemon.control("route id=1 transport=default\n"), ["OK 1"]);
    daemon.rewrite(&with(String::new()));
    daemon.control("reload\n");
    clock.advance(Duration::from_secs(601));
    until(&daemon, "list to=bob\n", |answer| {
        answer.contains("state=queued attempts=3 ")
    });
}

// RO-13, DSN-7
#[test]
fn transport_fail_tells_the_sender_its_text_or_tries_again() {
    let mx = Mx::start(Script::new());
    let clock = manual();
    let more = [
        QUICK.to_owned(),
        relay("out", &mx),
        "[[transport]]\nname = \"no\"\nkind = \"fail\"\ntext = \"5.7.1 never to them\"\n"
            .to_owned(),
        "[[transport]]\nname = \"later\"\nkind = \"fail\"\ncode = 450\n".to_owned(),
        route("no", "to = [\"never.example\"]"),
        route("later", "to = [\"later.example\"]"),
        route("out", ""),
    ]
    .concat();
    let daemon = TestDaemon::start_in(Arc::new(TempDir::new()), clock.clone(), &more).unwrap();
    daemon.submit("ann@here.example", &["bob@never.example"], CONTENT);
    let notice = mx.next_transaction();
    assert_eq!(notice.recipients(), ["ann@here.example"]);
    let text = String::from_utf8(notice.content).unwrap();
    assert!(
        text.contains("Status: 5.7.1\r\n") && text.contains("never to them"),
        "{text}"
    );
    // The words are ours, no host's.
    assert!(
        !text.contains("Diagnostic-Code") && !text.contains("Remote-MTA"),
        "{text}"
    );
    daemon.submit("ann@here.example", &["cid@later.example"], CONTENT);
    for attempts in 1..=4 {
        let wanted = format!("state=queued attempts={attempts} ");
        until(&daemon, "list to=cid\n", |answer| answer.contains(&wanted));
        clock.advance(Duration::from_secs(601));
    }
    // Often, and still no dead destination.
    let listed = daemon.control("list to=cid\n").join("");
    assert!(
        listed.contains("450 4.0.0 mail to this address is not taken"),
        "{listed}"
    );
}

// RO-13, OBS-1
#[test]
fn transport_discard_is_delivered_nowhere_and_the_log_says_so() {
    let more = "[[transport]]\nname = \"nowhere\"\nkind = \"discard\"\n[[route]]\ntransport = \"nowhere\"\n";
    let daemon = Process::start(more);
    let id = daemon.submit(
        "ann@here.example",
        &["bob@dest.example", "cid@dest.example"],
        CONTENT,
    );
    for number in [1, 2] {
        let line = daemon.wait_for(&format!(" deliver qid={id} rcpt={number} "));
        assert!(line.contains(" transport=nowhere "), "{line}");
        assert!(
            line.contains(" relay=none ") && line.contains(" stage=route "),
            "{line}"
        );
        assert!(
            line.contains(" result=discarded ") && !line.contains(" code="),
            "{line}"
        );
    }
    daemon.wait_for(&format!(" done qid={id} "));
    assert_eq!(daemon.control("count\n").last().unwrap(), "OK 0");
}

// SC-14, RT-7
#[test]
fn mail_of_a_disabled_sender_is_refused_for_now_and_waits_if_it_is_queued() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 later").line("<slow@")));
    let clock = manual();
    let with = |queue: &str| format!("{queue}{QUICK}{}{}", relay("out", &mx), route("out", ""));
    let daemon = TestDaemon::start_in(Arc::new(TempDir::new()), clock.clone(), &with("")).unwrap();
    daemon.submit("ann@app.bad.example", &["slow@dest.example"], CONTENT);
    daemon.submit("ann@here.example", &["slow@dest.example"], CONTENT);
    until(&daemon, "list\n", |a| {
        a.matches("state=queued attempts=1 ").count() == 2
    });
    daemon.rewrite(&with("[queue]\ndisabled_senders = [\".bad.example\"]\n"));
    let answer = daemon.control("reload\n").join("\n");
    assert!(
        answer.contains("changed=queue.disabled_senders"),
        "{answer}"
    );
    let mut smtp = Smtp::connect(daemon.smtp());
    smtp.say("EHLO client.test");
    let refused = smtp.say("MAIL FROM:<ann@bad.example>");
    assert!(refused.starts_with("451 4.3.0 "), "{refused}");
    assert!(smtp.say("MAIL FROM:<>").starts_with("250 "));
    clock.advance(Duration::from_secs(601));
    until(&daemon, "list from=@here.example\n", |answer| {
        answer.contains("state=queued attempts=2 ")
    });
    let waits = daemon.control("list from=bad.example\n").join("");
    assert!(waits.contains("attempts=1 "), "{waits}");
    assert!(
        waits.contains("blocker=\"sender-disabled: app.bad.example"),
        "{waits}"
    );
    // A kick is no permission.
    assert_eq!(daemon.control("kick from=bad.example\n"), ["OK 1"]);
    daemon.rewrite(&with(""));
    daemon.control("reload\n");
    until(&daemon, "list from=bad.example\n", |answer| {
        answer.contains("state=queued attempts=2 ")
    });
}
