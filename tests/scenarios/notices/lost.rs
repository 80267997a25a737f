//! What cannot be told is at least counted and logged, and a crash neither loses nor doubles anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};

use super::{AT_ONCE, CONTENT, has, queue_is_empty, read, through, until};
use crate::support::daemon::{Process, Smtp, TestDaemon};
use crate::support::mx::{At, Mx, Script, reply};
use crate::support::queue::TempDir;

// DSN-2, DSN-10
#[test]
fn a_notification_that_nobody_takes_is_not_answered_but_counted() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 nobody here")));
    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    until(&daemon, "stats\n", |lines| {
        lines.iter().any(|line| line.contains(" notices-lost=1"))
    });
    queue_is_empty(&daemon);
    assert!(mx.transactions().is_empty());
}

// DSN-12
#[test]
fn a_sender_that_cannot_be_reached_by_construction_gets_none_and_the_postmaster_does() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@")));
    let postmaster = "[dsn]\ncollect = \"0s\"\npostmaster = \"boss@here.example\"\n";
    let daemon = TestDaemon::start(&through(&mx, postmaster));
    daemon.submit("ann@[192.0.2.1]", &["bob@dest.example"], CONTENT);
    let notice = mx.next_transaction();
    assert_eq!(notice.recipients(), ["boss@here.example"]);
    has(&read(&notice), "status 1 Status: 5.1.1");
    daemon.stop();

    let daemon = TestDaemon::start(&through(&mx, AT_ONCE));
    daemon.submit("ann@[192.0.2.1]", &["bob@dest.example"], CONTENT);
    until(&daemon, "stats\n", |lines| {
        lines.iter().any(|line| line.contains(" notices-lost=1"))
    });
    assert_eq!(mx.transactions().len(), 1);
}

// Q-10, DSN-3, PRC-6: kill -9 while a failure waits to be told.
#[test]
fn kill_9_between_failure_and_notification_loses_and_doubles_nothing() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("@dest.example")));
    let later = through(&mx, "[dsn]\ncollect = \"1h\"\n");
    let process = Process::start(&later);
    let id = process.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    process.wait_for(" result=failed ");
    let dir = process.kill();
    assert!(mx.transactions().is_empty());
    // A lowered `dsn.collect` counts for what waits.
    let at_once = through(&mx, AT_ONCE);
    let process = Process::start_in(dir, &at_once);
    let lines = read(&mx.next_transaction());
    has(&lines, &format!("status 1 Final-Log-ID: {id}/1"));
    // It is off our hands when the outcome is committed, which the log tells.
    process.wait_for(" result=delivered ");
    let dir = process.kill();
    let process = Process::start_in(dir, &at_once);
    process.submit("eve@here.example", &["cid@dest.example"], CONTENT);
    assert_eq!(mx.next_transaction().recipients(), ["eve@here.example"]);
    process.stop();
    assert_eq!(mx.transactions().len(), 2);
}

// Q-10, DSN-3: kill -9 at any moment.
#[test]
fn kill_9_anywhere_leaves_one_notification_per_failed_message() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("@dest.example")));
    let mut dir = Arc::new(TempDir::new());
    // Four kills of the same mail are not its fault here.
    let more = format!(
        "[dsn]\ncollect = \"0s\"\n[retry]\nintervals = [\"1s\"]\njitter = 0.0\n\
         [queue]\npath = \"{}/queue\"\nmin_free = \"1MiB\"\npoison_limit = 100\n",
        dir.path().display()
    );
    let more = through(&mx, &more);
    let mut ids = Vec::new();
    for _ in 0..4 {
        let process = Process::start_in(dir, &more);
        for _ in 0..5 {
            ids.push(process.submit("ann@here.example", &["bob@dest.example"], CONTENT));
        }
        dir = process.kill();
    }
    let process = Process::start_in(dir, &more);
    // Message-IDs of the notifications of each message: one that was in doubt may come twice, with the same one.
    let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while told.len() < ids.len() {
        let lines = read(&mx.next_transaction());
        let value = |name: &str| {
            let line = lines.iter().find(|line| line.contains(name)).unwrap();
            line.split_once(name).unwrap().1.to_owned()
        };
        told.entry(value("Final-Log-ID: "))
            .or_default()
            .push(value("header Message-ID: "));
    }
    process.stop();
    let expected: Vec<String> = ids.iter().map(|id| format!("{id}/1")).collect();
    assert!(expected.iter().all(|id| told.contains_key(id)), "{told:?}");
    for (id, messages) in &mut told {
        messages.dedup();
        assert_eq!(messages.len(), 1, "{id}: {messages:?}");
    }
}

// RT-10, DSN-2: a notification has a lifetime of its own, and its end is the end of it.
#[test]
fn a_notification_is_given_up_after_its_own_lifetime() {
    let script = Script::new()
        .rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@"))
        .rule(reply(At::Rcpt, "451 4.7.1 later").line("<ann@"));
    let mx = Mx::start(script);
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let more = through(&mx, AT_ONCE);
    let daemon = TestDaemon::start_with(clock.clone(), &more);
    daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    until(&daemon, "list to=ann@here.example\n", |lines| {
        lines
            .iter()
            .any(|l| l.contains(" attempts=1 ") && l.contains("from=<>") && l.contains("=queued"))
    });
    clock.advance(Duration::from_secs(48 * 3600));
    until(&daemon, "stats\n", |lines| {
        lines.iter().any(|line| line.contains(" notices-lost=1"))
    });
    queue_is_empty(&daemon);
    assert!(mx.transactions().is_empty());
}

// DSN-10, Q-18
#[test]
fn a_full_queue_takes_no_mail_but_tells_senders() {
    let script = Script::new()
        .rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@"))
        .rule(reply(At::Rcpt, "451 4.7.1 later").line("<cid@"));
    let mx = Mx::start(script);
    let dir = Arc::new(TempDir::new());
    let queue = format!(
        "[queue]\npath = \"{}/queue\"\nmin_free = \"1MiB\"\nmax_messages = 1\n[dsn]\ncollect = \"1h\"\n",
        dir.path().display()
    );
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_in(dir, clock.clone(), &through(&mx, &queue)).unwrap();
    let to = ["bob@dest.example", "cid@dest.example"];
    daemon.submit("ann@here.example", &to, CONTENT);
    until(&daemon, "list to=cid@dest.example\n", |lines| {
        lines
            .iter()
            .any(|l| l.contains(" attempts=1 ") && l.contains("=queued"))
    });
    let mut smtp = Smtp::connect(daemon.smtp());
    smtp.say("EHLO client.example");
    let full = |reply: String| reply.starts_with("452 4.3.1");
    let refused = full(smtp.say("MAIL FROM:<eve@here.example>"))
        || full(smtp.say("RCPT TO:<bob@dest.example>"))
        || full(smtp.say("DATA"))
        || full(smtp.say("Subject: x\r\n\r\nbody\r\n."));
    assert!(refused, "the queue takes mail");
    clock.advance(Duration::from_secs(3600));
    assert_eq!(mx.next_transaction().recipients(), ["ann@here.example"]);
}
