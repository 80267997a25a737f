//! Transports with retry terms of their own.

use std::sync::Arc;
use std::time::Duration;

use super::{CONTENT, QUICK, manual, queue_is_empty, relay, route, until};
use crate::support::daemon::TestDaemon;
use crate::support::mx::{Mx, Script};
use crate::support::queue::TempDir;

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// A transport that only ever says "later", and its own name.
fn later(name: &str, terms: &str) -> String {
    format!(
        "[[transport]]\nname = \"{name}\"\nkind = \"fail\"\ncode = 450\ntext = \"by {name}\"\n{terms}\n"
    )
}

/// What was told to the sender next.
fn told(mx: &Mx) -> String {
    let notice = mx.next_transaction();
    assert_eq!(notice.recipients(), ["ann@here.example"]);
    String::from_utf8(notice.content).unwrap()
}

// CFG-19, RT-1, RT-3, RT-4, RT-8
#[test]
fn each_transport_tries_and_gives_up_by_terms_of_its_own() {
    let mx = Mx::start(Script::new());
    let clock = manual();
    let more = [
        QUICK.to_owned(),
        relay("out", &mx),
        later(
            "quick",
            "intervals = [\"1m\"]\nlifetime = \"2m30s\"\ndelay_notices = [\"1m30s\"]",
        ),
        later("slow", "intervals = [\"20m\", \"1h\"]\nmax_attempts = 2"),
        later("usual", ""),
        route("quick", "to = [\"quick.example\"]"),
        route("slow", "to = [\"slow.example\"]"),
        route("usual", "to = [\"usual.example\"]"),
        route("out", ""),
    ]
    .concat();
    let daemon = TestDaemon::start_in(Arc::new(TempDir::new()), clock.clone(), &more).unwrap();
    let to = ["a@quick.example", "b@slow.example", "c@usual.example"];
    let id = daemon.submit("ann@here.example", &to, CONTENT);
    let waits = |number: u32, attempts: u32, next: &str, expires: &str| {
        let wanted = format!("attempts={attempts} next={next} expires={expires}");
        until(&daemon, &format!("why id={id}/{number}\n"), |answer| {
            answer.contains("state=queued") && answer.contains(&wanted)
        })
    };
    let (soon, late) = ("2027-01-15T08:02:30Z", "2027-01-20T08:00:00Z");
    waits(1, 1, "2027-01-15T08:01:00Z", soon);
    waits(2, 1, "2027-01-15T08:20:00Z", late);
    waits(3, 1, "2027-01-15T08:10:00Z", late);
    clock.advance(minutes(1));
    waits(1, 2, "2027-01-15T08:02:00Z", soon);
    clock.advance(Duration::from_secs(30));
    let delayed = told(&mx);
    assert!(delayed.contains("Action: delayed\r\n"), "{delayed}");
    assert!(
        delayed.contains("Will-Retry-Until: Fri, 15 Jan 2027 08:02:30 +0000"),
        "{delayed}"
    );
    clock.advance(Duration::from_secs(30));
    waits(1, 3, soon, soon);
    clock.advance(Duration::from_secs(30));
    let expired = told(&mx);
    assert!(expired.contains("Status: 4.4.7\r\n"), "{expired}");
    assert!(expired.contains("a@quick.example"), "{expired}");
    // The others have only just begun.
    waits(3, 1, "2027-01-15T08:10:00Z", late);
    clock.advance(Duration::from_secs(450));
    waits(3, 2, "2027-01-15T08:20:00Z", late);
    waits(2, 1, "2027-01-15T08:20:00Z", late);
    clock.advance(minutes(10));
    let failed = told(&mx);
    assert!(failed.contains("b@slow.example"), "{failed}");
    assert!(!failed.contains("Status: 4.4.7\r\n"), "{failed}");
    waits(3, 3, "2027-01-15T08:30:00Z", late);
}

// CFG-19, RO-2, RT-3, RT-4
#[test]
fn mail_that_changes_its_transport_waits_as_the_last_one_says_and_ends_as_the_next_one_says() {
    let mx = Mx::start(Script::new());
    let clock = manual();
    let more = [
        QUICK.to_owned(),
        relay("out", &mx),
        later("first", "intervals = [\"1m\"]\nmax_attempts = 2"),
        later("second", "intervals = [\"5m\"]\nlifetime = \"10m\""),
        route("out", "to = [\"here.example\"]"),
        route("second", "min_attempts = 2"),
        route("first", ""),
    ]
    .concat();
    let daemon = TestDaemon::start_in(Arc::new(TempDir::new()), clock.clone(), &more).unwrap();
    let id = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    let tried = |attempts: u32, by: &str, next: &str, expires: &str| {
        let wanted = format!("attempts={attempts} next={next} expires={expires}");
        let why = until(&daemon, &format!("why id={id}\n"), |answer| {
            answer.contains("state=queued") && answer.contains(&wanted)
        });
        assert!(why.contains(&format!("by {by}")), "{why}");
    };
    let (first, second) = ("2027-01-20T08:00:00Z", "2027-01-15T08:10:00Z");
    tried(1, "first", "2027-01-15T08:01:00Z", first);
    clock.advance(minutes(1));
    // The second attempt would be the last of this transport; there is another one.
    tried(2, "first", "2027-01-15T08:02:00Z", second);
    clock.advance(minutes(1));
    tried(3, "second", "2027-01-15T08:07:00Z", second);
    clock.advance(minutes(5));
    tried(4, "second", second, second);
    clock.advance(minutes(3));
    let expired = told(&mx);
    assert!(expired.contains("Status: 4.4.7\r\n"), "{expired}");
    queue_is_empty(&daemon);
}
