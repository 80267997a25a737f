//! Scenarios: destinations that cannot be spoken to (SC-7), over the real queue with a clock that can be moved, and with
//! the whole program.

#![allow(clippy::unwrap_used)] // a test that cannot change its queue has failed

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthaste::config::{Config, Span};
use posthaste::dispatch::{Transaction, Wake};
use posthaste::message::{Head, QueueId};
use posthaste::policy::failure::Verdict;
use posthaste::policy::retry::{Lifetimes, Terms};
use posthaste::store::{NewClaim, NewRow, Pause, PauseScope, RecipientRow, State};

use crate::support::daemon::Process;
use crate::support::dns::DnsServer;
use crate::support::mx::{Mx, Script};
use crate::support::office::{Office, config};
use crate::support::queue::{Queue, key, message, row, settlement, start};

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

const DEAD: &str = "dead.example";

/// A queue with a destination that has just been found dead, and the messages that found it so.
fn with_a_dead_destination(config: Config) -> (Office, Vec<QueueId>) {
    let office = Office::over(Queue::new(), config, 8);
    let strike = |_| {
        assert!(office.dispatcher.dead(&key(DEAD)).is_none());
        let id = office.send(&["bob@dead.example"]);
        office.refuse(office.take_of(id));
        id
    };
    let ids = (0..3).map(strike).collect();
    let dead = office.dispatcher.dead(&key(DEAD)).unwrap();
    assert_eq!(dead.probe, Some(office.now().plus(minutes(1))));
    assert_eq!(office.dispatcher.snapshot().dead, 1);
    (office, ids)
}

// SC-7, RT-7
#[test]
fn a_dead_destination_is_probed_by_one_transaction_and_the_first_success_ends_it() {
    let (office, _) = with_a_dead_destination(config());
    let waiting: Vec<QueueId> = (0..5).map(|_| office.send(&["bob@dead.example"])).collect();
    office.expect_nothing();
    assert!(office.dispatcher.reserve(&key(DEAD)).is_none());
    let (why, until) = office
        .dispatcher
        .blocker(&office.listed(waiting[0]))
        .unwrap();
    assert!(why.starts_with("destination: dead since 20"), "{why}");
    assert!(why.ends_with(": connection refused"), "{why}");
    assert_eq!(until, Some(office.now().plus(minutes(1))));

    office.queue.clock.advance(minutes(1));
    let probe = office.take_of(waiting[0]);
    office.expect_nothing();
    office.refuse(probe);
    office.expect_nothing();
    let attempts: Vec<u32> = waiting
        .iter()
        .map(|id| office.rows(*id)[0].attempts)
        .collect();
    assert_eq!(attempts, [1, 0, 0, 0, 0], "it counts for the probe alone");

    office.queue.clock.advance(minutes(2));
    office.reach(office.take_of(waiting[1]));
    assert!(office.dispatcher.dead(&key(DEAD)).is_none());
    for _ in 0..3 {
        let transaction = office.take();
        assert!(waiting[2..].contains(&transaction.head.id));
        office.reach(transaction);
    }
    office.expect_nothing();
    office.dispatcher.stop();
}

// SC-7, RT-3, RT-4
#[test]
fn mail_whose_expiry_comes_while_its_destination_is_dead_has_its_last_attempt_then() {
    let mut config = config();
    config.retry.lifetime = Span(minutes(7));
    let (office, _) = with_a_dead_destination(config);
    office.queue.clock.advance(Duration::from_secs(10));
    let old = [
        office.send(&["a@dead.example"]),
        office.send(&["b@dead.example"]),
    ];
    office.queue.clock.advance(minutes(1));
    let probe = office.take_of(old[0]);
    // Its next attempt is at its expiry; the other one waits unattempted. A later one goes before them by its priority.
    office.refuse(probe);
    let rows: Vec<NewRow> = vec![row("c@dead.example", office.now())];
    let young = office.send_rows(rows, 9);
    let mut seen = BTreeMap::new();
    for _ in 0..60 {
        office.queue.clock.advance(Duration::from_secs(10));
        office.expect_nothing_but(|transaction| {
            let id = transaction.head.id;
            let verdict = office.refuse(transaction);
            seen.insert(id, (office.now(), verdict));
        });
    }
    for id in old {
        let (at, verdict) = seen[&id];
        assert_eq!(verdict, Verdict::Expired);
        assert_eq!(at, start().plus(minutes(7) + Duration::from_secs(10)));
    }
    assert_eq!(office.state(young), State::Expired);
    office.dispatcher.stop();
}

// SC-7, CFG-19, RT-4
#[test]
fn mail_at_a_dead_destination_has_its_last_attempt_when_its_own_transport_says() {
    let text = "hostname = \"here.example\"\n[retry]\njitter = 0.0\nlifetime = \"20m\"\n[[transport]]\nname = \"hurry\"\n\
                kind = \"direct\"\nlifetime = \"7m\"\n[[route]]\nfrom = [\"*\"]\nto = [\"dead.example\"]\n\
                min_attempts = 1\ntransport = \"hurry\"\n";
    let config = Config::parse(text, Path::new("f")).unwrap();
    let queue = Queue::new();
    let mut waiting = Vec::new();
    for attempted in [true, false] {
        let id = queue.store.allocate_id().unwrap();
        let mut new = message(id, start(), vec![row("bob@dead.example", start())]);
        new.recipients[0].claim = attempted.then(|| NewClaim {
            next_attempt: start(),
        });
        queue.store.enqueue(new).unwrap();
        if attempted {
            let next = start().plus(minutes(1));
            let mut failed = settlement(id, 1, Verdict::Deferred { next }, start());
            failed.outcomes[0].destination = key(DEAD);
            queue.store.settle(failed).unwrap();
        }
        waiting.push(id);
    }
    let lifetimes = Lifetimes::shortest_at(&config, &key(DEAD));
    let expiry_of =
        |head: &Head, row: &RecipientRow| Terms::of_waiting(&config, head, row).expiry();
    let look = |at| {
        let now = start().plus(minutes(at));
        let (rows, next) = queue
            .store
            .at_expiry(&key(DEAD), now, &lifetimes, &expiry_of, 10)
            .unwrap();
        let ids: Vec<QueueId> = rows.iter().map(|row| row.head.id).collect();
        (ids, next.map(|next| next.since(start()).as_secs() / 60))
    };
    // Both may be meant by the first; when that has come, one of them was not.
    assert_eq!(look(6), (vec![], Some(7)));
    assert_eq!(look(7), (vec![waiting[0]], Some(20)));
    assert_eq!(look(19), (vec![waiting[0]], Some(20)));
    assert_eq!(look(20), (vec![waiting[1], waiting[0]], None));
}

// SC-7, CTL-11
#[test]
fn a_kick_probes_a_dead_destination_at_once() {
    let (office, ids) = with_a_dead_destination(config());
    let waits = office.send(&["bob@dead.example"]);
    office.expect_nothing();
    office
        .dispatcher
        .wake(Wake::Kicked(key(DEAD), office.now()));
    office.reach(office.take_of(waits));
    office.expect_nothing();
    assert_eq!(
        office.rows(ids[0])[0].attempts,
        1,
        "they wait for their time"
    );
    office.dispatcher.stop();
}

// SC-7, SC-12, CFG-6
#[test]
fn a_pause_keeps_the_probe_and_a_changed_configuration_forgets_who_is_dead() {
    let (office, _) = with_a_dead_destination(config());
    let waits = office.send(&["bob@dead.example"]);
    let scope = PauseScope::Domain(DEAD.to_owned());
    let pause = Pause {
        since: office.now(),
        until: None,
        reason: String::new(),
    };
    office.queue.store.set_pause(&scope, Some(&pause)).unwrap();
    office.dispatcher.wake(Wake::Everything);
    office.queue.clock.advance(minutes(2));
    office.expect_nothing();
    let (why, _) = office.dispatcher.blocker(&office.listed(waits)).unwrap();
    assert!(why.starts_with("paused: domain"), "{why}");
    office.queue.store.set_pause(&scope, None).unwrap();
    office.dispatcher.wake(Wake::Everything);
    office.refuse(office.take_of(waits));
    let others: Vec<QueueId> = (0..2).map(|_| office.send(&["bob@dead.example"])).collect();
    office.expect_nothing();
    office.reconfigure(|config| config.deliver.smtp_port = 2525);
    for _ in others {
        office.deliver(office.take());
    }
    assert!(office.dispatcher.dead(&key(DEAD)).is_none());
    office.dispatcher.stop();
}

// SC-7
#[test]
fn as_long_as_one_session_gets_on_a_destination_that_refuses_more_of_them_comes_back_with_it() {
    let mut config = config();
    config.limits.initial = 4;
    let office = Office::over(Queue::new(), config, 8);
    for _ in 0..4 {
        office.send(&["bob@dead.example"]);
    }
    let mut running: Vec<Transaction> = (0..4).map(|_| office.take()).collect();
    let slow = running.remove(0);
    for transaction in running {
        office.refuse(transaction);
    }
    let id = office.send(&["bob@dead.example"]);
    office.expect_nothing();
    office.reach(slow);
    office.reach(office.take_of(id));
    office.dispatcher.stop();
}

// SC-7, CTL-10, CTL-11, CTL-18
#[test]
fn the_daemon_gives_up_dialling_a_port_that_refuses_and_a_kick_after_its_repair_brings_everything()
{
    // A port that is ours, and refuses.
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = closed.local_addr().unwrap();
    drop(closed);
    let dns = DnsServer::start();
    dns.mx("dead.test", 10, "mx.dead.test");
    dns.a("mx.dead.test", "127.0.0.1");
    let daemon = Process::start(&format!(
        "[dns]\nservers = [\"{}\"]\n[deliver]\nsmtp_port = {}\nallow_private = true\nfamily = \"only4\"\n",
        dns.addr(),
        address.port()
    ));
    let send = || {
        daemon.submit(
            "ann@here.test",
            &["bob@dead.test"],
            "Subject: hi\n\nhello\n",
        )
    };
    for _ in 0..3 {
        send();
        daemon.wait_for("result=deferred");
    }
    let told = daemon.wait_for("destination-dead");
    assert!(told.contains("destination=dead.test"), "{told}");
    assert!(
        told.contains("probe=") && told.contains("refused"),
        "{told}"
    );
    let id = send();
    for line in [format!("list id={id}"), format!("why id={id}")] {
        let answer = daemon.control(&line);
        assert!(
            answer[0].contains("blocker=\"destination: dead since"),
            "{answer:?}"
        );
        assert!(
            answer[0].contains("until=") && answer[0].contains("attempts=0"),
            "{answer:?}"
        );
    }
    let metrics = daemon.control("metrics").join("\n");
    assert!(
        metrics.contains("posthaste_destinations{state=\"dead\"} 1"),
        "{metrics}"
    );
    let mx = Mx::start_at(address, Script::default());
    assert_eq!(
        daemon.control("kick domain=dead.test").last().unwrap(),
        "OK 4"
    );
    for _ in 0..4 {
        mx.next_transaction();
    }
    daemon.wait_for("destination-alive");
    daemon.stop();
}

// SC-7, RT-3, RT-10
#[test]
fn the_store_finds_mail_at_its_expiry_where_the_retry_terms_say_it_is() {
    let queue = Queue::new();
    let config = config();
    let lifetimes = Lifetimes::of(&config);
    let mut expiries = Vec::new();
    for (caller, lifetime) in [("relay", None), ("dsn", None), ("relay", Some(minutes(5)))] {
        let id = queue.store.allocate_id().unwrap();
        let mut new = message(id, start(), vec![row("bob@dead.example", start())]);
        let head = Arc::get_mut(&mut new.head).unwrap();
        head.caller = caller.to_owned();
        head.lifetime = lifetime;
        expiries.push((Terms::of(&config, head).expiry(), id));
        queue.store.enqueue(new).unwrap();
    }
    expiries.sort();
    let expiry_of =
        |head: &Head, row: &RecipientRow| Terms::of_waiting(&config, head, row).expiry();
    let look = |now| {
        let store = &queue.store;
        let found = store.at_expiry(&key(DEAD), now, &lifetimes, &expiry_of, 10);
        found.unwrap()
    };
    let (rows, next) = look(start());
    assert!(rows.is_empty());
    assert_eq!(next, Some(expiries[0].0));
    for (n, (expiry, _)) in expiries.iter().enumerate() {
        assert_eq!(look(expiry.minus(Duration::from_millis(1))).0.len(), n);
        let (rows, _) = look(*expiry);
        let mut found: Vec<QueueId> = rows.iter().map(|row| row.head.id).collect();
        found.sort();
        let mut expected: Vec<QueueId> = expiries[..=n].iter().map(|(_, id)| *id).collect();
        expected.sort();
        assert_eq!(found, expected);
    }
}
