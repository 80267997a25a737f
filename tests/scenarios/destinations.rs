//! What `domains` says of destinations, and what it lets an operator do with them (CTL-16).

use posthaste::clock::{Clock, Timestamp};

use crate::support::daemon::TestDaemon;
use crate::support::mx::{Mx, Script};

fn metric(daemon: &TestDaemon, name: &str) -> String {
    let lines = daemon.control("metrics\n");
    let line = lines.iter().find(|line| line.starts_with(name));
    line.expect("the metric is there").clone()
}

/// The only line but for the last one.
fn one(daemon: &TestDaemon, request: &str) -> String {
    let lines = daemon.control(&format!("{request}\n"));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[1], "OK 1");
    lines[0].clone()
}

// CTL-16, SC-6, OBS-6
#[test]
fn domains_counts_what_is_due_and_what_waits_and_says_what_is_known_of_each() {
    let mx = Mx::start(Script::default());
    let config = format!(
        "[[transport]]\nname = \"smart\"\nkind = \"relay\"\nhosts = [\"{}\"]\ntls = \"none\"\n[[route]]\n\
         transport = \"smart\"\n",
        mx.address()
    );
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let daemon = TestDaemon::start_with(clock.clone(), &config);
    let submit = || {
        daemon.submit("joe@here.test", &["bob@dest.test"], "S: x\r\n\r\nx\r\n");
    };
    assert_eq!(daemon.control("domains\n"), ["OK 0"]);
    submit();
    mx.wait_for_transaction(1);
    daemon.control("pause\n");
    (0..3).for_each(|_| submit());
    daemon.control("kick all in=1h\n");
    (0..2).for_each(|_| submit());

    let next = format!(" next={} ", clock.now());
    let line = one(&daemon, "domains transport=smart");
    for part in [
        "destination=relay:smart state=ok window=",
        " due=2 waiting=3 ",
        &next,
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert_eq!(daemon.control("domains state=dead\n"), ["OK 0"]);
    assert!(metric(&daemon, "posthaste_limits_learned ").ends_with(" 0"));

    let wrong = daemon.control("domains state=ok transport=smart set=1\n");
    assert!(wrong[0].starts_with("ERR "), "{wrong:?}");
    assert_eq!(
        daemon.control("domains transport=smart set=3 pin\n"),
        ["OK 1"]
    );
    for (words, why) in [
        ("transport=gone", "no transport is named \"gone\""),
        ("transport=gone set=2", "no transport is named \"gone\""),
        (
            "transport=smart domain=dest.test",
            "transport smart is one destination",
        ),
        (
            "transport=direct",
            "transport direct has a destination for each",
        ),
        ("transport=smart set=21", "set=21: connections allows 20"),
    ] {
        let answer = daemon.control(&format!("domains {words}\n"));
        let wanted = format!("ERR usage {why}");
        assert!(answer[0].starts_with(&wanted), "{words}: {answer:?}");
    }
    let same = daemon.control("domains domain=dest.test transport=direct\n");
    assert!(
        same[0].starts_with("destination=dest.test state=ok "),
        "{same:?}"
    );
    let line = one(&daemon, "domains state=ok");
    for part in [
        " window=3 ",
        " pinned=yes ",
        " cause=\"set by an operator\" ",
    ] {
        assert!(line.contains(part), "no {part} in {line}");
    }
    assert!(metric(&daemon, "posthaste_limits_learned ").ends_with(" 1"));
    assert_eq!(daemon.control("domains transport=smart clear\n"), ["OK 1"]);
    assert!(metric(&daemon, "posthaste_limits_learned ").ends_with(" 0"));

    // Nothing is known of it any more but that it has mail.
    let line = one(&daemon, "domains");
    assert!(line.contains("destination=relay:smart state=ok "), "{line}");
    assert!(line.contains(" due=2 waiting=3 "), "{line}");
}
