//! What is counted for TLS reports, and how long.

use super::*;
use crate::clock::Clock;
use crate::store::testing::{TempDir, open, writable};

const DAY: i64 = 20_833;

fn day() -> Day {
    Day::from_number(DAY)
}

fn failed(host: &str, sessions: u64) -> FailureCount {
    FailureCount {
        kind: "certificate-expired".into(),
        host: host.into(),
        address: "192.0.2.1".into(),
        helo: String::new(),
        source: "192.0.2.9".into(),
        reason: format!("first of {host}"),
        sessions,
    }
}

fn count(domain: &str, lines: &[&str], successes: u64, details: &[FailureCount]) -> ReportCount {
    ReportCount {
        day: day(),
        domain: Domain::parse(domain).unwrap(),
        policy: PolicyCount {
            kind: if lines.is_empty() {
                PolicyType::NoPolicyFound
            } else {
                PolicyType::Sts
            },
            domain: domain.into(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            successes,
            failures: details.iter().map(|one| one.sessions).sum(),
            details: details.to_vec(),
        },
    }
}

// RPT-1
#[test]
fn counts_of_a_day_add_up_and_survive_a_restart() {
    let directory = TempDir::new();
    let store = open(&directory);
    let lines = ["version: STSv1", "mode: testing"];
    let add = |counts| store.change_report(ReportChange::Count(counts)).unwrap();
    assert!(add(vec![
        count("dest.test", &lines, 2, &[failed("a.test", 1)]),
        count("other.test", &[], 1, &[]),
    ]));
    let mut again = failed("a.test", 3);
    again.reason = "a later one".into();
    add(vec![
        count("dest.test", &lines, 1, &[again, failed("b.test", 1)]),
        count("dest.test", &[], 7, &[]),
    ]);
    store.close();
    let store = open(&directory);
    let found = store.report_counts(day(), "dest.test").unwrap();
    let mut all = count(
        "dest.test",
        &lines,
        3,
        &[failed("a.test", 4), failed("b.test", 1)],
    );
    all.policy.failures = 5;
    assert_eq!(found, [count("dest.test", &[], 7, &[]).policy, all.policy]);
    let listed = store.reports_after((Day::from_number(0), ""), 10).unwrap();
    let listed: Vec<_> = listed
        .iter()
        .map(|row| (row.day, &*row.domain, row.done, row.successes, row.failures))
        .collect();
    assert_eq!(
        listed,
        [
            (day(), "dest.test", false, 10, 5),
            (day(), "other.test", false, 1, 0)
        ]
    );
    let rest = store.reports_after((day(), "dest.test"), 10).unwrap();
    assert_eq!(rest.len(), 1);
}

// RPT-2, RPT-4
#[test]
fn a_report_is_due_after_its_day_and_done_once() {
    let directory = TempDir::new();
    let store = open(&directory);
    let add = |counts| store.change_report(ReportChange::Count(counts)).unwrap();
    add(vec![
        count("a.test", &[], 1, &[]),
        count("b.test", &[], 1, &[failed("x.test", 1)]),
    ]);
    let end = day().end();
    let before = end.minus(std::time::Duration::from_millis(1));
    assert_eq!(store.due_report(before).unwrap(), None);
    assert_eq!(store.next_report(before).unwrap(), Some(end));
    let due = store.due_report(end).unwrap().unwrap();
    assert_eq!((&*due.domain, due.tries, due.waiting), ("a.test", 0, 2));
    let later = end.plus(std::time::Duration::from_secs(600));
    let try_at = |tries| ReportChange::Try {
        day: day(),
        domain: "a.test".into(),
        tries,
        next: later,
    };
    assert!(store.change_report(try_at(0)).unwrap());
    assert!(!store.change_report(try_at(0)).unwrap(), "somebody else's");
    assert_eq!(store.next_report(end).unwrap(), Some(later));
    let due = store.due_report(end).unwrap().unwrap();
    assert_eq!((&*due.domain, due.waiting), ("b.test", 1));
    let done = |domain: &str| ReportChange::Done {
        day: day(),
        domain: domain.into(),
    };
    assert!(store.change_report(done("b.test")).unwrap());
    assert!(!store.change_report(done("b.test")).unwrap());
    assert_eq!(store.due_report(end).unwrap(), None);
    let due = store.due_report(later).unwrap().unwrap();
    assert_eq!((&*due.domain, due.tries), ("a.test", 1));
    // What comes when it is out makes no second one.
    add(vec![count("b.test", &[], 1, &[failed("y.test", 1)])]);
    assert_eq!(store.report_counts(day(), "b.test").unwrap(), []);
    assert_eq!(store.due_report(later).unwrap().unwrap().waiting, 1);
}

// RPT-2
#[test]
fn old_days_are_removed_with_all_that_was_counted() {
    let directory = TempDir::new();
    let (_files, conn, shared) = writable(&directory);
    let mut writer = Writer::new(&conn, Clock::system(), shared).unwrap();
    for (number, day) in [DAY, DAY, DAY + 1].into_iter().enumerate() {
        let mut count = count(&format!("d{number}.test"), &[], 1, &[failed("x.test", 1)]);
        count.day = Day::from_number(day);
        writer
            .change_report(&ReportChange::Count(vec![count]))
            .unwrap();
    }
    let forget = ReportChange::Forget {
        before: Day::from_number(DAY + 1),
    };
    assert!(writer.change_report(&forget).unwrap());
    assert!(!writer.change_report(&forget).unwrap());
    for table in [
        "tls_report",
        "tls_report_day",
        "tls_report_policy",
        "tls_report_failure",
    ] {
        let sql = format!("SELECT count(*) FROM {table}");
        let left: i64 = conn.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 1, "{table}");
    }
}

// RPT-4
#[test]
fn domains_policies_and_ways_of_failing_are_bounded() {
    let directory = TempDir::new();
    let (_files, conn, shared) = writable(&directory);
    let mut writer = Writer::new(&conn, Clock::system(), shared).unwrap();
    let mut add = |count| {
        writer
            .change_report(&ReportChange::Count(vec![count]))
            .unwrap()
    };
    for number in 0..MOST_POLICIES + 3 {
        add(count("a.test", &[&format!("max_age: {number}")], 1, &[]));
    }
    assert_eq!(
        counts(&conn, day(), "a.test").unwrap().len() as i64,
        MOST_POLICIES
    );
    for number in 0..MOST_FAILURES + 5 {
        let host = format!("mx{number}.test");
        add(count("b.test", &[], 0, &[failed(&host, 2)]));
    }
    let found = counts(&conn, day(), "b.test").unwrap().remove(0);
    assert_eq!(found.details.len() as i64, MOST_FAILURES + 1);
    assert_eq!(
        (found.details[0].host.as_str(), found.details[0].sessions),
        ("", 10)
    );
    assert_eq!(
        found.failures,
        found.details.iter().map(|one| one.sessions).sum::<u64>()
    );
    conn.execute("UPDATE tls_report_day SET domains = ?1", [MOST_DOMAINS])
        .unwrap();
    add(count("c.test", &[], 1, &[]));
    assert_eq!(counts(&conn, day(), "c.test").unwrap(), []);
    add(count("b.test", &[], 1, &[]));
    assert_eq!(counts(&conn, day(), "b.test").unwrap()[0].successes, 1);
    let mut tomorrow = count("c.test", &[], 1, &[]);
    tomorrow.day = day().following();
    add(tomorrow);
    assert_eq!(counts(&conn, day().following(), "c.test").unwrap().len(), 1);
}
