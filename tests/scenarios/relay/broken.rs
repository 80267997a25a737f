//! A relay that an operator has to mend (RO-8), with the whole daemon and a clock that can be moved.

use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};
use posthaste::net::deadline::Deadline;

use crate::support::daemon::TestDaemon;
use crate::support::mx::PATIENCE;
use crate::support::mx::{Mx, Script};

/// The first retry interval of the relay; that of everything else is shorter.
const INTERVAL: Duration = Duration::from_secs(600);

fn guarded(password: &str) -> Script {
    Script::new().auth("us", password, &["SCRAM-SHA-256"])
}

fn config(mx: &Mx, password: &str) -> String {
    format!(
        "[retry]\njitter = 0.0\n[[transport]]\nname = \"smart\"\nkind = \"relay\"\nhosts = [\"{}\"]\ntls = \"none\"\n\
         intervals = [\"10m\"]\nuser = \"us\"\npassword = \"{password}\"\n[[route]]\ntransport = \"smart\"\n",
        mx.address()
    )
}

/// What `transports` says of it.
fn state(daemon: &TestDaemon) -> String {
    let lines = daemon.control("transports\n");
    let line = lines
        .iter()
        .find(|line| line.starts_with("transport=smart "));
    line.expect("the transport is listed").clone()
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::after(PATIENCE);
    while !done() {
        assert!(!deadline.is_over(), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn broken_metric(daemon: &TestDaemon) -> String {
    let lines = daemon.control("metrics\n");
    let line = lines
        .iter()
        .find(|line| line.contains("posthaste_transport_broken{"));
    line.expect("the metric is there").clone()
}

fn count(daemon: &TestDaemon) -> String {
    daemon.control("count\n").join(" ")
}

// RO-8, RT-7, CTL-11, CFG-19
#[test]
fn a_wrong_password_for_an_hour_bounces_nothing_and_when_it_is_mended_everything_leaves() {
    let mx = Mx::start(guarded("changed"));
    let address = mx.address();
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_with(clock.clone(), &config(&mx, "sesame"));
    let submit = || {
        daemon.submit("joe@here.test", &["bob@dest.test"], "S: x\r\n\r\nx\r\n");
    };
    (0..5).for_each(|_| submit());
    wait("it is not found broken", || {
        state(&daemon).contains(" state=broken ")
    });
    wait("not all are settled", || {
        let lines = daemon.control("count by=state\n").join(" ");
        !lines.contains("claimed")
    });
    let line = state(&daemon);
    assert!(line.contains("535 5.7.8 wrong"), "{line}");
    assert!(broken_metric(&daemon).ends_with(" 1"));
    let first = mx.connections();
    // More mail changes nothing.
    (0..5).for_each(|_| submit());
    for probe in 1..=6 {
        clock.advance(INTERVAL);
        wait("it is not probed", || mx.connections() == first + probe);
        let next = format!(" probe={} ", clock.now().plus(INTERVAL));
        wait("the probe does not end", || state(&daemon).contains(&next));
    }
    assert!(mx.transactions().is_empty());
    assert_eq!(mx.connections(), first + 6, "one probe for each interval");
    let blocked = daemon.control("list limit=1\n").join(" ");
    assert!(blocked.contains("transport broken since"), "{blocked}");
    let attempts = daemon.control("list\n").join(" ");
    assert!(!attempts.contains(" attempts=1 "), "{attempts}");

    drop(mx);
    let mx = Mx::start_at(address, guarded("sesame"));
    clock.advance(INTERVAL);
    mx.wait_for_transaction(10);
    wait("the queue does not empty", || {
        count(&daemon).contains("OK 0")
    });
    assert!(state(&daemon).contains(" state=ok"));
    assert!(broken_metric(&daemon).ends_with(" 0"));
    let bounces = mx
        .transactions()
        .iter()
        .filter(|t| t.reverse_path().is_empty())
        .count();
    assert_eq!((mx.transactions().len(), bounces), (10, 0));
}

// RO-8, CFG-5: nobody waits for the next probe
#[test]
fn a_reload_with_another_password_tries_at_once() {
    let mx = Mx::start(guarded("sesame"));
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_with(clock, &config(&mx, "mistyped"));
    daemon.submit("joe@here.test", &["bob@dest.test"], "S: x\r\n\r\nx\r\n");
    wait("it is not found broken", || {
        state(&daemon).contains(" state=broken ")
    });
    daemon.submit("joe@here.test", &["ann@dest.test"], "S: x\r\n\r\nx\r\n");
    daemon.rewrite(&config(&mx, "sesame"));
    let reply = daemon.control("reload\n").join(" ");
    assert!(reply.contains("transport"), "{reply}");
    mx.wait_for_transaction(1);
    assert_eq!(mx.transactions()[0].recipients(), ["ann@dest.test"]);
}
