//! Scenarios: who is served when, over the real queue.

#![allow(clippy::unwrap_used)] // a test that cannot change its queue has failed

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use posthaste::config::{DomainPattern, Route, Span};
use posthaste::dispatch::{Feedback, PushBack, Transaction, Wake};
use posthaste::policy::failure::Verdict;
use posthaste::smtp::address::Domain;
use posthaste::store::{NewClaim, NewRow, Pause, PauseScope, RecipientRow, State};

use crate::support::office::{Office, config, relay};
use crate::support::queue::{Queue, key, message, row, start};

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn pause(office: &Office, scope: &PauseScope, lasts: Option<Duration>) {
    let now = office.now();
    let pause = Pause {
        since: now,
        until: lasts.map(|span| now.plus(span)),
        reason: "works".to_owned(),
    };
    office.queue.store.set_pause(scope, Some(&pause)).unwrap();
    office.dispatcher.wake(Wake::Everything);
}

fn resume(office: &Office, scope: &PauseScope) {
    assert!(office.queue.store.set_pause(scope, None).unwrap());
    office.dispatcher.wake(Wake::Everything);
}

fn domain(name: &str) -> PauseScope {
    PauseScope::Domain(name.to_owned())
}

fn rows_in(office: &Office, group: &str, recipients: &[&str]) -> Vec<NewRow> {
    let row = |to: &&str| NewRow {
        destination: key(group),
        ..row(to, office.now())
    };
    recipients.iter().map(row).collect()
}

/// All mail goes through a relay of this name.
fn route_all_to(name: &str) -> Route {
    Route {
        caller: Vec::new(),
        from: Vec::new(),
        to: Vec::new(),
        min_attempts: 0,
        transport: name.to_owned(),
    }
}

fn exactly(domain: &str) -> Vec<DomainPattern> {
    vec![DomainPattern::Exact(Domain::parse(domain).unwrap())]
}

// SC-2, SC-3, RT-7
#[test]
fn a_thousand_messages_to_one_dead_domain_delay_no_other() {
    let mut config = config();
    config.limits.initial = 20;
    let office = Office::over(Queue::new(), config, 8);
    for _ in 0..1000 {
        office.send(&["bob@dead.example"]);
    }
    let stuck: Vec<Transaction> = (0..4).map(|_| office.take()).collect();
    for name in ["a", "b", "c"] {
        let id = office.send(&[&format!("ann@{name}.example")]);
        let transaction = office.take_of(id);
        office.deliver(transaction);
    }
    office.expect_nothing();
    let snapshot = office.dispatcher.snapshot();
    assert_eq!((snapshot.workers, snapshot.in_flight), (8, 4));
    assert_eq!(snapshot.destinations.len(), 1);
    assert!(snapshot.destinations[0].waits);
    drop(stuck);
    office.dispatcher.stop();
}

// SC-2
#[test]
fn destinations_are_served_in_turn() {
    let office = Office::open(2);
    let first = office.send(&["x@filler.example"]);
    let second = office.send(&["y@filler2.example"]);
    let fillers = [office.take_of(first), office.take_of(second)];
    for name in ["a", "b", "c"] {
        for _ in 0..3 {
            office.send(&[&format!("ann@{name}.example")]);
        }
    }
    fillers
        .into_iter()
        .for_each(|filler| office.deliver(filler));
    let mut turns = Vec::new();
    for _ in 0..9 {
        let transaction = office.take();
        turns.push(transaction.destination.to_string());
        office.deliver(transaction);
    }
    for round in turns.chunks(3) {
        let mut round = round.to_vec();
        round.sort();
        assert_eq!(round, ["a.example", "b.example", "c.example"], "{turns:?}");
    }
    office.dispatcher.stop();
}

// SC-1
#[test]
fn no_more_transactions_than_workers() {
    let office = Office::open(3);
    for n in 0..10 {
        office.send(&[&format!("ann@d{n}.example")]);
    }
    let mut seen = 0;
    let mut running: Vec<Transaction> = Vec::new();
    while seen < 10 {
        running.push(office.take());
        seen += 1;
        assert!(running.len() <= 3);
        assert!(office.dispatcher.snapshot().in_flight <= 3);
        if running.len() == 3 {
            assert!(office.out.is_empty(), "all workers are busy");
            office.deliver(running.remove(0));
        }
    }
    running
        .into_iter()
        .for_each(|running| office.deliver(running));
    assert_eq!(office.dispatcher.snapshot().in_flight, 0);
    office.dispatcher.stop();
}

// SC-2
#[test]
fn inside_a_destination_priority_goes_before_age() {
    let office = Office::open(2);
    let filler = office.send(&["x@dest.example"]);
    let filler = office.take_of(filler);
    let mut ids = BTreeMap::new();
    for priority in [0, -9, 9, 0] {
        office.queue.clock.advance(Duration::from_secs(1));
        let rows = rows_in(&office, "dest.example", &["bob@dest.example"]);
        ids.entry(-i32::from(priority))
            .or_insert_with(Vec::new)
            .push(office.send_rows(rows, priority));
    }
    office.deliver(filler);
    for id in ids.into_values().flatten() {
        let transaction = office.take_of(id);
        office.deliver(transaction);
    }
    office.dispatcher.stop();
}

// SC-2, SC-10
#[test]
fn a_message_with_very_many_recipients_goes_in_full_transactions_and_in_turn() {
    let office = Office::open(4);
    let recipients: Vec<String> = (0..5000).map(|n| format!("u{n}@dest.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let id = office.send(&recipients);
    let mut left = 5000;
    for round in 0..25 {
        let transaction = office.take_of(id);
        assert_eq!(transaction.recipients.len(), 100);
        left -= 100;
        let other = office.send(&[&format!("ann@other{round}.example")]);
        let second = office.take_of(id);
        left -= second.recipients.len();
        let other = office.take_of(other);
        office.deliver(other);
        office.deliver(transaction);
        office.deliver(second);
    }
    assert_eq!(left, 0);
    office.expect_nothing();
    assert_eq!(office.queue.store.stats().unwrap().messages, 0);
    office.dispatcher.stop();
}

// SC-10
#[test]
fn recipients_travel_together_again_only_with_those_that_failed_with_them() {
    let office = Office::open(4);
    let id = office.send(&["a@dest.example", "b@dest.example", "c@dest.example"]);
    let transaction = office.take_of(id);
    let numbers = |transaction: &Transaction| -> Vec<u32> {
        let number = |row: &RecipientRow| row.id.number;
        transaction.recipients.iter().map(number).collect()
    };
    assert_eq!(numbers(&transaction), [1, 2, 3]);
    let next = start().plus(minutes(5));
    office.settle(transaction, |row| match row.id.number {
        2 => Verdict::Delivered,
        _ => Verdict::Deferred { next },
    });
    office.queue.clock.set(next);
    let again = office.take_of(id);
    assert_eq!(numbers(&again), [1, 3]);
    office.deliver(again);
    office.dispatcher.stop();
}

// SC-12, RT-7
#[test]
fn a_pause_survives_a_restart_and_ends_with_resume() {
    let office = Office::open(4);
    pause(&office, &PauseScope::All, None);
    let id = office.send(&["bob@dest.example"]);
    let office = office.restart(minutes(1));
    // The dispatcher has read the pauses once it shows them; reserving waits for that too.
    let blocker = loop {
        match office.dispatcher.blocker(&office.listed(id)) {
            Some(blocker) => break blocker,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(blocker, ("paused: all deliveries (works)".to_owned(), None));
    assert!(office.dispatcher.reserve(&key("dest.example")).is_none());
    assert!(office.out.is_empty());
    resume(&office, &PauseScope::All);
    let transaction = office.take_of(id);
    assert_eq!(transaction.recipients[0].attempts, 0);
    office.deliver(transaction);
    office.dispatcher.stop();
}

// SC-12
#[test]
fn a_pause_of_a_domain_ends_by_itself_and_stops_no_other() {
    let office = Office::open(4);
    pause(&office, &domain("dest.example"), Some(minutes(10)));
    let id = office.send(&["bob@dest.example"]);
    let other = office.send(&["bob@else.example"]);
    let transaction = office.take_of(other);
    office.deliver(transaction);
    office.expect_nothing();
    let until = Some(start().plus(minutes(10)));
    assert_eq!(
        office.dispatcher.blocker(&office.listed(id)),
        Some(("paused: domain dest.example (works)".to_owned(), until))
    );
    office.queue.clock.advance(minutes(10));
    let transaction = office.take_of(id);
    office.deliver(transaction);
    office.dispatcher.stop();
}

// SC-12
#[test]
fn a_paused_domain_behind_a_relay_does_not_stop_the_relay() {
    let mut config = config();
    config.transport.push(relay("smart"));
    config.route.push(route_all_to("smart"));
    let office = Office::over(Queue::new(), config, 4);
    pause(&office, &domain("dest.example"), None);
    let blocked: Vec<_> = (0..30)
        .map(|_| office.send_rows(rows_in(&office, "relay:smart", &["bob@dest.example"]), 9))
        .collect();
    let other = office.send_rows(rows_in(&office, "relay:smart", &["bob@else.example"]), 0);
    let transaction = office.take_of(other);
    assert_eq!(transaction.transport, "smart");
    office.deliver(transaction);
    resume(&office, &domain("dest.example"));
    for _ in blocked {
        let transaction = office.take();
        assert_eq!(transaction.destination, key("relay:smart"));
        office.deliver(transaction);
    }
    office.dispatcher.stop();
}

// SC-12
#[test]
fn a_paused_relay_stops_only_its_own_mail() {
    let mut config = config();
    config.transport.push(relay("smart"));
    config.route.push(Route {
        to: exactly("smart.example"),
        ..route_all_to("smart")
    });
    let office = Office::over(Queue::new(), config, 4);
    let scope = PauseScope::Transport("smart".to_owned());
    pause(&office, &scope, None);
    let id = office.send_rows(rows_in(&office, "relay:smart", &["bob@smart.example"]), 0);
    office.expect_nothing();
    resume(&office, &scope);
    let transaction = office.take_of(id);
    assert_eq!(transaction.transport, "smart");
    office.deliver(transaction);
    office.dispatcher.stop();
}

// RO-2, CFG-6
#[test]
fn a_changed_route_moves_mail_that_is_already_queued() {
    let office = Office::open(4);
    let id = office.send(&["bob@dest.example"]);
    let next = office.defer(office.take_of(id));
    office.reconfigure(|config| {
        config.transport.push(relay("smart"));
        config.route.push(route_all_to("smart"));
    });
    office.queue.clock.set(next);
    let transaction = office.take_of(id);
    assert_eq!(transaction.transport, "smart");
    assert_eq!(transaction.destination, key("relay:smart"));
    assert_eq!(transaction.recipients[0].attempts, 1);
    office.deliver(transaction);
    office.dispatcher.stop();
}

// RO-3, RT-7
#[test]
fn mail_for_a_transport_that_is_gone_waits_for_the_configuration() {
    let mut config = config();
    config.transport.push(relay("smart"));
    config.route.push(route_all_to("smart"));
    let office = Office::over(Queue::new(), config, 4);
    let id = office.send_rows(rows_in(&office, "relay:smart", &["bob@dest.example"]), 0);
    let next = office.defer(office.take_of(id));
    let other = office.send_rows(rows_in(&office, "relay:smart", &["bob@else.example"]), 0);
    let held = office.take_of(other);
    office.reconfigure(|config| {
        config.transport.clear();
        config.route[0].to = exactly("dest.example");
    });
    let again = office.defer(held).max(next);
    office.queue.clock.set(again);
    // What a route brought there has another route now.
    let second = office.take_of(other);
    assert_eq!(&*second.transport, "direct");
    office.deliver(second);
    office.expect_nothing();
    let (why, until) = office.dispatcher.blocker(&office.listed(id)).unwrap();
    assert!(why.contains("\"smart\"") && until.is_none(), "{why}");
    assert_eq!(office.rows(id)[0].attempts, 1);
    office.reconfigure(|config| config.transport.push(relay("smart")));
    let first = office.take_of(id);
    assert_eq!(&*first.transport, "smart");
    office.deliver(first);
    office.dispatcher.stop();
}

// SC-11, Q-22
#[test]
fn a_worker_that_panics_gives_its_slot_back() {
    let office = Office::open(2);
    let id = office.send(&["bob@dest.example"]);
    let transaction = office.take_of(id);
    assert_eq!(office.dispatcher.snapshot().in_flight, 1);
    let worker = std::thread::spawn(move || {
        let _transaction = transaction;
        panic!("on purpose");
    });
    assert!(worker.join().is_err());
    // The dispatcher may be told of the mail while it serves it, and then looks once more.
    let patience = Instant::now() + Duration::from_secs(30);
    while office.dispatcher.snapshot().in_flight > 0 {
        assert!(Instant::now() < patience);
        std::thread::yield_now();
    }
    office.dispatcher.stop();
}

// RT-1, Q-8
#[test]
fn new_mail_may_be_claimed_in_the_commit_that_accepts_it() {
    let office = Office::open(4);
    office.expect_nothing();
    let destination = key("dest.example");
    // The dispatcher may still be looking at what lies ahead of the markers.
    let permit = loop {
        match office.dispatcher.reserve(&destination) {
            Some(permit) => break permit,
            None => std::thread::yield_now(),
        }
    };
    let id = office.queue.store.allocate_id().unwrap();
    let mut new_row = row("bob@dest.example", office.now());
    new_row.claim = Some(NewClaim {
        next_attempt: office.now().plus(minutes(7)),
    });
    let new = message(id, office.now(), vec![new_row]);
    let head = std::sync::Arc::clone(&new.head);
    office.queue.store.enqueue(new).unwrap();
    let mut before = office.rows(id);
    before[0].attempts = 0;
    office.dispatcher.submit(Transaction {
        head,
        recipients: before,
        destination,
        transport: "direct".to_owned(),
        content: None,
        over: None,
        claimed_at: office.now(),
        permit,
    });
    let transaction = office.take_of(id);
    assert_eq!(office.dispatcher.snapshot().in_flight, 1);
    office.deliver(transaction);
    assert_eq!(office.state(id), State::Delivered);
    assert_eq!(office.dispatcher.snapshot().in_flight, 0);
    office.dispatcher.stop();
}

// SC-3
#[test]
fn new_mail_does_not_overtake_older_mail_of_its_destination() {
    let office = Office::open(4);
    let mut waiting: Vec<_> = (0..5).map(|_| office.send(&["bob@dest.example"])).collect();
    let running: Vec<Transaction> = (0..2).map(|_| office.take()).collect();
    assert!(office.dispatcher.reserve(&key("dest.example")).is_none());
    for transaction in running {
        waiting.retain(|id| *id != transaction.head.id);
        office.deliver(transaction);
    }
    for id in waiting {
        office.deliver(office.take_of(id));
    }
    office.dispatcher.stop();
}

// Q-13, RT-7
#[test]
fn a_stop_gives_back_what_no_worker_has_taken() {
    let office = Office::open(8);
    let ids: Vec<_> = (0..4)
        .map(|n| office.send(&[&format!("bob@d{n}.example")]))
        .collect();
    while office.dispatcher.snapshot().in_flight < 4 {
        std::thread::yield_now();
    }
    let (queue, config) = office.close();
    assert_eq!(queue.store.stats().unwrap().claimed, 0);
    let office = Office::over(queue, config, 8);
    for _ in &ids {
        let transaction = office.take();
        assert_eq!(transaction.recipients[0].attempts, 0);
        assert_eq!(transaction.recipients[0].doubt, None);
        office.deliver(transaction);
    }
    office.dispatcher.stop();
    assert!(office.out.recv().is_err(), "the workers are told");
    assert!(office.dispatcher.reserve(&key("d1.example")).is_none());
}

// SC-5
#[test]
fn what_a_destination_says_against_connections_halves_its_window() {
    let office = Office::open(8);
    office.send(&["a@dest.example"]);
    office.send(&["b@dest.example"]);
    let (first, second) = (office.take(), office.take());
    first.permit.finish(Feedback {
        broken: None,
        reached_mail: false,
        strike: None,
        push_back: Some(PushBack {
            text: "421 4.7.0 too many connections".to_owned(),
            unreached: false,
        }),
        ..Feedback::default()
    });
    assert_eq!(office.dispatcher.snapshot().destinations[0].window, 1);
    office.deliver(second);
    office.dispatcher.stop();
}

// SC-1, CFG-6
#[test]
fn the_window_of_the_configuration_holds_from_the_next_claim_on() {
    let mut config = config();
    config.limits.connections = 1;
    config.limits.initial = 3;
    config.retry.lifetime = Span(minutes(60));
    let office = Office::over(Queue::new(), config, 8);
    let ids: Vec<_> = (0..4).map(|_| office.send(&["bob@dest.example"])).collect();
    let first = office.take_of(ids[0]);
    office.expect_nothing();
    office.reconfigure(|config| config.limits.connections = 3);
    let (second, third) = (office.take_of(ids[1]), office.take_of(ids[2]));
    office.expect_nothing();
    for transaction in [first, second, third] {
        office.deliver(transaction);
    }
    office.deliver(office.take_of(ids[3]));
    office.dispatcher.stop();
}
