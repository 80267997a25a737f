//! Scenarios: the daemon counts what it does, and says so in the format of Prometheus.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::support::daemon::{Smtp, TestDaemon};
use crate::support::mx::{At, Mx, Script, reply};

const MANUAL: &str = include_str!("../../man/posthaste-control.5");

fn daemon(mx: &Mx) -> TestDaemon {
    TestDaemon::start(&format!(
        "[dsn]\ncollect = \"0s\"\n[[transport]]\nname = \"out\"\nkind = \"relay\"\nhosts = [\"{}\"]\ntls = \"none\"\n\
         [[route]]\ntransport = \"out\"\n",
        mx.address()
    ))
}

/// All samples, after the format was read as strictly as a scraper does.
fn scrape(daemon: &TestDaemon) -> BTreeMap<String, f64> {
    let mut lines = daemon.control("metrics\n");
    let count = lines.len() - 1;
    assert_eq!(lines.pop().unwrap(), format!("OK {count}"));
    let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    let mut family = String::new();
    for line in lines {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            family = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(kinds.insert(family.clone(), kind.to_owned()).is_none());
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            let base = name.split('{').next().unwrap();
            let of_family = base.strip_prefix(&family).unwrap();
            assert!(
                ["", "_bucket", "_sum", "_count"].contains(&of_family),
                "{line}"
            );
            let before = samples.insert(name.to_owned(), value.parse().unwrap());
            assert!(before.is_none(), "{line}");
        }
    }
    for (name, kind) in &kinds {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        let entry = format!(".It Cm {name}");
        assert!(MANUAL.contains(&entry), "{name} is not in the manual");
    }
    samples
}

/// Waits until a sample has this value.
#[track_caller]
fn until(daemon: &TestDaemon, name: &str, value: f64) -> BTreeMap<String, f64> {
    let patience = Instant::now() + Duration::from_secs(30);
    loop {
        let samples = scrape(daemon);
        if samples.get(name) == Some(&value) {
            return samples;
        }
        assert!(Instant::now() < patience, "{name}: {samples:#?}");
        std::thread::yield_now();
    }
}

// OBS-5, OBS-6, OBS-7
#[test]
fn what_was_accepted_refused_tried_and_told_is_counted_exactly() {
    let script = Script::new()
        .rule(reply(At::Rcpt, "550 5.1.1 no such user").line("<nobody@"))
        .rule(reply(At::Rcpt, "451 4.7.1 later").line("<later@"));
    let mx = Mx::start(script);
    let daemon = daemon(&mx);
    let before = scrape(&daemon);
    assert_eq!(before["posthaste_queue_recipients{state=\"queued\"}"], 0.0);
    assert_eq!(before["posthaste_queue_oldest_seconds"], 0.0);

    let content = "Subject: x\r\n\r\nbody\r\n";
    for to in ["ann@a.example", "bob@b.example"] {
        daemon.submit("joe@here.example", &[to], content);
    }
    daemon.submit(
        "joe@here.example",
        &["nobody@a.example", "later@a.example"],
        content,
    );
    let mut smtp = Smtp::connect(daemon.smtp());
    smtp.say("EHLO client.example");
    assert!(smtp.say("MAIL FROM:<not an address>").starts_with("501"));

    // The notice of the failure is a message too, and is delivered.
    let delivered = "posthaste_attempts_total{result=\"delivered\",error=\"\",transport=\"out\"}";
    until(&daemon, delivered, 3.0);
    let deferred = "posthaste_attempts_total{result=\"deferred\",error=\"451\",transport=\"out\"}";
    until(&daemon, deferred, 1.0);
    let samples = until(&daemon, "posthaste_in_flight", 0.0);
    for (name, value) in [
        (
            "posthaste_accepted_total{door=\"smtp\",caller=\"relay\"}",
            3.0,
        ),
        (
            "posthaste_rejected_total{door=\"smtp\",reason=\"501\"}",
            1.0,
        ),
        (
            "posthaste_attempts_total{result=\"failed\",error=\"550\",transport=\"out\"}",
            1.0,
        ),
        ("posthaste_dsn_total{kind=\"failed\"}", 1.0),
        ("posthaste_dsn_total{kind=\"delayed\"}", 0.0),
        ("posthaste_dsn_lost_total", 0.0),
        ("posthaste_queue_recipients{state=\"queued\"}", 1.0),
        ("posthaste_queue_recipients{state=\"claimed\"}", 0.0),
        ("posthaste_queue_messages", 1.0),
        ("posthaste_held", 0.0),
        ("posthaste_in_doubt", 0.0),
        ("posthaste_panics_total", 0.0),
        ("posthaste_orphans_total", 0.0),
        ("posthaste_destinations{state=\"in-flight\"}", 0.0),
    ] {
        assert_eq!(samples.get(name), Some(&value), "{name}: {samples:#?}");
    }
    // Our own notices were not handed in by anybody.
    let accepted: f64 = samples
        .iter()
        .filter(|(name, _)| name.starts_with("posthaste_accepted_total{"))
        .map(|(_, value)| value)
        .sum();
    assert_eq!(accepted, 3.0);
    assert!(samples["posthaste_commit_seconds_count"] >= 3.0);
    assert!(samples["posthaste_commit_seconds_sum"] > 0.0);
    assert!(samples["posthaste_free_bytes"] > 0.0);
    // Nothing of the addresses is in any label.
    assert!(samples.keys().all(|name| !name.contains('@')));
    // The manual names no metric that is not there.
    let lines = daemon.control("metrics\n");
    let bases: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    for entry in MANUAL.lines().filter_map(|line| {
        let rest = line.strip_prefix(".It Cm posthaste_")?;
        rest.split(' ').next()
    }) {
        let there = |base: &&str| base.starts_with(&format!("posthaste_{entry}"));
        assert!(bases.iter().any(there), "{entry}");
    }
}

// CTL-5
#[test]
fn metrics_in_json_are_one_object_a_line() {
    let mx = Mx::start(Script::new());
    let daemon = daemon(&mx);
    let lines = daemon.control("json metrics\n");
    assert!(
        lines[0].starts_with("{\"line\":\"# HELP posthaste_"),
        "{}",
        lines[0]
    );
    assert_eq!(lines.last().unwrap(), &format!("OK {}", lines.len() - 1));
}
