//! Scenarios: when mail is tried again, and when it is given up, over the real queue and a clock that can be moved.

#![allow(clippy::unwrap_used)] // a test that cannot change its queue has failed

use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::config::Span;
use posthaste::dispatch::Wake;
use posthaste::message::QueueId;
use posthaste::policy::failure::Verdict;
use posthaste::store::{Actor, Change, Doubt, Filter, Pause, PauseScope, State};

use crate::support::office::Office;
use crate::support::queue::{key, start};

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn hours(count: u64) -> Duration {
    minutes(60 * count)
}

fn days(count: u64) -> Duration {
    hours(24 * count)
}

fn by_id(id: QueueId) -> Filter {
    Filter {
        ids: vec![(id, None)],
        ..Filter::default()
    }
}

fn kick(office: &Office, id: QueueId, at: Timestamp) {
    let actor = Actor { uid: 0 };
    let wake = |destination| office.dispatcher.wake(Wake::Due(destination, at));
    let report = office
        .queue
        .store
        .change(
            &by_id(id),
            &Change::Kick { at },
            &actor,
            false,
            &mut |row| {
                wake(row.destination.clone());
            },
        )
        .unwrap();
    assert_eq!(report.affected, 1);
}

// RT-1, RT-2, RT-4
#[test]
fn attempts_fall_where_the_manual_says_and_the_last_one_on_the_expiry() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    let mut seen = Vec::new();
    loop {
        let transaction = office.take_of(id);
        seen.push(office.now().since(start()).as_secs_f64() / 60.0);
        let Verdict::Deferred { next } = office.fail(transaction) else {
            break;
        };
        office.queue.clock.set(next.minus(Duration::from_millis(1)));
        office.expect_nothing();
        office.queue.clock.set(next);
    }
    let expected = [
        0.0, 7.5, 22.5, 52.5, 112.5, 232.5, 472.5, 952.5, 1912.5, 2872.5, 3832.5, 4792.5, 5752.5,
        6712.5, 7200.0,
    ];
    assert_eq!(seen, expected);
    assert_eq!(office.state(id), State::Expired);
    office.expect_nothing();
    office.dispatcher.stop();
}

// RT-5
#[test]
fn a_restart_makes_no_undue_mail_due_and_counts_no_attempt() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    let next = office.defer(office.take_of(id));
    let office = office.restart(minutes(3));
    office.expect_nothing();
    office.queue.clock.set(next);
    let transaction = office.take_of(id);
    assert_eq!(transaction.recipients[0].attempts, 1);
    assert_eq!(office.defer(transaction), next.plus(minutes(15)));
    office.dispatcher.stop();
}

// RT-5, Q-8, Q-12
#[test]
fn an_attempt_that_a_crash_cut_off_waits_its_back_off() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    drop(office.take_of(id)); // claimed, and never settled
    let _out = office.queue.store.dot(id, 1).unwrap();
    let (office, recovery) = office.crash();
    assert_eq!(recovery.in_doubt.len(), 1);
    office.expect_nothing();
    office.queue.clock.advance(minutes(8));
    let again = office.take_of(id);
    assert_eq!(again.recipients[0].attempts, 1);
    assert_eq!(again.recipients[0].doubt, Some(Doubt::InDoubt));
    office.deliver(again);
    office.dispatcher.stop();
}

// RT-3, CFG-6
#[test]
fn a_lowered_lifetime_ends_old_mail_after_its_next_attempt() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    let next = office.defer(office.take_of(id));
    office.queue.clock.set(next);
    let next = office.defer(office.take_of(id));
    office.reconfigure(|config| config.retry.lifetime = Span(minutes(10)));
    office.expect_nothing();
    assert_eq!(office.state(id), State::Queued);
    office.queue.clock.set(next);
    assert_eq!(office.fail(office.take_of(id)), Verdict::Expired);
    office.expect_nothing();
    office.dispatcher.stop();
}

// RT-3
#[test]
fn a_lowered_number_of_attempts_fails_old_mail_after_its_next_attempt() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    for _ in 0..3 {
        let next = office.defer(office.take_of(id));
        office.queue.clock.set(next);
    }
    office.reconfigure(|config| config.retry.max_attempts = Some(2));
    assert_eq!(office.fail(office.take_of(id)), Verdict::Failed);
    assert_eq!(office.state(id), State::Failed);
    office.dispatcher.stop();
}

// RT-4
#[test]
fn mail_that_passed_its_expiry_while_the_daemon_was_down_gets_exactly_one_attempt() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    office.defer(office.take_of(id));
    let office = office.restart(days(9));
    assert_eq!(office.fail(office.take_of(id)), Verdict::Expired);
    assert_eq!(office.rows(id)[0].attempts, 2);
    office.queue.clock.advance(days(9));
    office.expect_nothing();
    office.dispatcher.stop();
}

// RT-6
#[test]
fn a_kick_makes_mail_due_and_alters_neither_count_nor_back_off() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    let next = office.defer(office.take_of(id));
    office.queue.clock.set(next);
    office.defer(office.take_of(id));
    office.queue.clock.advance(minutes(1));
    kick(&office, id, office.now());
    let kicked = office.take_of(id);
    assert_eq!(kicked.recipients[0].attempts, 2);
    let next = office.defer(kicked);
    assert_eq!(next, office.now().plus(minutes(30)), "the third interval");
    kick(&office, id, office.now().plus(minutes(2)));
    office.queue.clock.advance(minutes(1));
    office.expect_nothing();
    office.queue.clock.advance(minutes(1));
    office.deliver(office.take_of(id));
    office.dispatcher.stop();
}

// RT-7
#[test]
fn waiting_for_a_pause_is_no_attempt() {
    let office = Office::open(4);
    let pause = Pause {
        since: office.now(),
        until: Some(office.now().plus(hours(2))),
        reason: String::new(),
    };
    let scope = PauseScope::Domain("dest.example".to_owned());
    office.queue.store.set_pause(&scope, Some(&pause)).unwrap();
    office.dispatcher.wake(Wake::Everything);
    let id = office.send(&["bob@dest.example"]);
    office.expect_nothing();
    office.queue.clock.advance(hours(2));
    let transaction = office.take_of(id);
    assert_eq!(transaction.recipients[0].attempts, 0);
    office.deliver(transaction);
    office.dispatcher.stop();
}

// RT-9
#[test]
fn a_clock_put_forward_expires_nothing_without_an_attempt_after_it() {
    let office = Office::open(4);
    let waiting = office.send(&["ann@else.example"]);
    office.defer(office.take_of(waiting));
    let running = office.send(&["bob@dest.example"]);
    let transaction = office.take_of(running);
    office.queue.clock.advance(days(30));
    assert_eq!(office.fail(office.take_of(waiting)), Verdict::Expired);
    // Its wait counts from where the attempt ended, so it is over now, as that of the other was.
    assert!(office.defer(transaction) <= office.now());
    assert_eq!(office.fail(office.take_of(running)), Verdict::Expired);
    office.dispatcher.stop();
}

// RT-9
#[test]
fn after_a_clock_put_back_nothing_waits_longer_than_the_longest_interval() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    office.defer(office.take_of(id));
    office.queue.clock.set(start().minus(days(100)));
    office.expect_nothing();
    let next = office.rows(id)[0].next_attempt;
    assert!(next <= office.now().plus(hours(16)), "{next}");
    office.queue.clock.set(next);
    office.deliver(office.take_of(id));
    office.dispatcher.stop();
}

// RT-9
#[test]
fn a_clock_put_back_while_the_daemon_was_down_is_noticed_at_the_start() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    office.defer(office.take_of(id));
    let asked_for = office.now().plus(days(40));
    let far = office.send(&["eve@dest.example"]);
    office.defer(office.take_of(far));
    office.queue.clock.advance(minutes(1));
    let clock = office.queue.clock.clone();
    let (queue, config) = office.close();
    clock.set(start().minus(days(100)));
    let office = Office::over(queue, config, 4);
    office.expect_nothing();
    let horizon = office.now().plus(hours(16));
    assert!(office.rows(id)[0].next_attempt <= horizon);
    kick(&office, far, asked_for);
    office.queue.clock.set(horizon);
    office.deliver(office.take_of(id));
    office.expect_nothing();
    assert_eq!(office.rows(far)[0].next_attempt, asked_for);
    assert_eq!(office.listed(far).row.destination, key("dest.example"));
    office.dispatcher.stop();
}

// DV-19, DNS-6, CTL-10
#[test]
fn mail_that_waits_for_a_dead_resolver_says_so_and_has_had_no_attempt() {
    // The temporary daemon's name server is a port where nobody listens.
    let daemon = crate::support::daemon::TestDaemon::start(
        "[dns]\nservers = [\"127.0.0.1:9\"]\nquery_timeout = \"100ms\"\ntotal_timeout = \"300ms\"\n",
    );
    let id = daemon.submit(
        "ann@here.example",
        &["bob@dest.example"],
        "Subject: hi\n\nhi\n",
    );
    let patience = std::time::Instant::now() + crate::support::daemon::PATIENCE;
    loop {
        let answer = daemon.control(&format!("list id={id}\n"));
        if answer
            .iter()
            .any(|line| line.contains("attempts=0") && line.contains("blocker=\"4.4.3 "))
        {
            break;
        }
        assert!(std::time::Instant::now() < patience, "{answer:?}");
        std::thread::yield_now();
    }
}
