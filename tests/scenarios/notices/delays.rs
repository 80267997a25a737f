//! Delay notices besides attempts: pauses, holds, changed settings, NOTIFY (RT-8, DSN-1).

use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};

use super::{AT_ONCE, CONTENT, has, queue_is_empty, read, through, until};
use crate::support::daemon::{TestDaemon, submission};
use crate::support::mx::{At, Mx, Script, reply};

fn hours(count: u64) -> Duration {
    Duration::from_secs(3600 * count)
}

fn attempted(daemon: &TestDaemon, filter: &str, attempts: u32) {
    let attempts = format!(" attempts={attempts} ");
    until(daemon, &format!("list {filter}\n"), |lines| {
        lines
            .iter()
            .any(|l| l.contains(&attempts) && l.contains("state=queued"))
    });
}

// RT-8, RT-7, DSN-8
#[test]
fn a_pause_is_told_with_its_reason_and_a_hold_is_not_told_at_all() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<cid@")));
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, AT_ONCE));
    daemon.control("pause domain=dest.example reason=\"moving house\"\n");
    let id = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    clock.advance(hours(4));
    let lines = read(&mx.next_transaction());
    has(&lines, "header Subject: Delivery delayed: bob@dest.example");
    has(&lines, "paused: domain dest.example (moving house)");
    has(&lines, "text     not tried yet, here since");
    has(&lines, "text     tried next when that is over");
    has(&lines, "status 1 Will-Retry-Until: ");
    has(&lines, "status 1 Status: 4.3.2");
    assert!(!lines.iter().any(|line| line.contains("Diagnostic-Code")));

    daemon.control(&format!("hold id={id} reason=later\n"));
    clock.advance(hours(20));
    // What comes later is told, so what comes before it was passed over.
    daemon.submit("eve@here.example", &["cid@other.example"], CONTENT);
    assert_eq!(mx.next_transaction().recipients(), ["eve@here.example"]);
    daemon.control(&format!("release id={id}\n"));
    clock.advance(hours(48));
    let notice = mx.next_transaction();
    assert_eq!(notice.recipients(), ["ann@here.example"]);
    has(&read(&notice), "status 1 Action: delayed");
    daemon.control("resume domain=dest.example\n");
    assert_eq!(mx.next_transaction().recipients(), ["bob@dest.example"]);
    queue_is_empty(&daemon);
    assert_eq!(mx.transactions().len(), 4);
}

// RT-8, CFG-6
#[test]
fn lowered_ages_count_from_the_next_attempt_on() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 later").line("<bob@")));
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, AT_ONCE));
    let id = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    let filter = format!("id={id}");
    attempted(&daemon, &filter, 1);
    daemon.rewrite(&through(
        &mx,
        &format!("{AT_ONCE}delay_notices = [\"1h\"]\n"),
    ));
    let answer = daemon.control("reload\n");
    assert!(
        answer.iter().any(|line| line == "OK reloaded"),
        "{answer:?}"
    );
    clock.advance(hours(2));
    let notice = mx.next_transaction();
    has(&read(&notice), "status 1 Action: delayed");
    attempted(&daemon, &filter, 2);
    daemon.stop();
    assert_eq!(mx.transactions().len(), 1);
}

// DSN-1, RT-4, RT-8: NEVER is obeyed at the end too, and who was away past the expiry is told once.
#[test]
fn at_the_expiry_never_means_never_and_others_are_told_once() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "451 4.7.1 later").line("<bob@")));
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, AT_ONCE));
    for (from, notify) in [
        ("ann", "NEVER"),
        ("dan", "SUCCESS"),
        ("eve", "FAILURE,DELAY"),
    ] {
        submission(
            &daemon,
            &format!("MAIL FROM:<{from}@here.example>"),
            &[&format!("RCPT TO:<bob@dest.example> NOTIFY={notify}")],
            CONTENT,
        );
        attempted(&daemon, &format!("from={from}@here.example"), 1);
    }
    let dir = daemon.stop();
    clock.advance(hours(200));
    let daemon = TestDaemon::start_in(dir, clock, &through(&mx, AT_ONCE)).unwrap();
    let notice = mx.next_transaction();
    assert_eq!(notice.recipients(), ["eve@here.example"]);
    let lines = read(&notice);
    has(&lines, "status 1 Action: failed");
    has(&lines, "status 1 Status: 4.4.7");
    has(&lines, "status 1 Diagnostic-Code: smtp; 451 4.7.1 later");
    has(&lines, "text     given up after 8 days");
    queue_is_empty(&daemon);
    assert_eq!(mx.transactions().len(), 1);
}
