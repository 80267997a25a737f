//! Scenarios: so many messages a day to one address (SC-8), over the real queue with a clock that can be moved, and with the
//! whole daemon.

#![allow(clippy::unwrap_used)] // a test that cannot change its queue has failed

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste::clock::{Clock, Timestamp};
use posthaste::config::Config;
use posthaste::message::QueueId;
use posthaste::policy::failure::Verdict;
use posthaste::store::{Actor, Change, Filter};

use crate::support::daemon::TestDaemon;
use crate::support::mx::{At, Mx, Script, reply};
use crate::support::office::Office;
use crate::support::queue::{Queue, TempDir, key, row, start};

const BOB: &str = "bob@slow.example";

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The clock begins at 08:00 UTC.
fn midnight() -> Timestamp {
    start().plus(seconds(16 * 3600))
}

/// So many a day to each address of one domain, as many as one likes to all others.
fn config(most: u32) -> Config {
    let text = format!(
        "hostname = \"here.example\"\n[retry]\njitter = 0.0\n[limits]\ninitial = 20\n[[limit]]\n\
         destinations = [\"slow.example\"]\nper_address_day = {most}\n"
    );
    Config::parse(&text, Path::new("f")).unwrap()
}

fn kick(office: &Office, id: QueueId) {
    let at = office.now();
    let filter = Filter {
        ids: vec![(id, None)],
        ..Filter::default()
    };
    let store = &office.queue.store;
    store
        .change(
            &filter,
            &Change::Kick { at },
            &Actor { uid: 0 },
            false,
            &mut |_| {},
        )
        .unwrap();
    let wake = posthaste::dispatch::Wake::Kicked(key("slow.example"), at);
    office.dispatcher.wake(wake);
}

/// It waits without an attempt, and it is shown why.
#[track_caller]
fn is_parked(office: &Office, id: QueueId, most: u32) {
    let row = &office.rows(id)[0];
    assert_eq!((row.attempts, row.next_attempt), (0, midnight()));
    let shown = office.dispatcher.blocker(&office.listed(id));
    let limit = format!("limit: per_address_day {most}");
    assert_eq!(shown, Some((limit, Some(midnight()))));
}

// SC-8, SC-9, RT-7
#[test]
fn what_is_over_the_number_of_a_day_waits_without_an_attempt_and_goes_at_midnight() {
    let office = Office::over(Queue::new(), config(3), 8);
    let ids: Vec<QueueId> = (0..5).map(|_| office.send(&[BOB])).collect();
    for id in &ids[..3] {
        office.reach(office.take_of(*id));
    }
    let other = office.send(&["joe@slow.example"]);
    office.reach(office.take_of(other));
    office.expect_nothing();
    for id in &ids[3..] {
        is_parked(&office, *id, 3);
    }
    // Who asks is told the same again.
    kick(&office, ids[3]);
    office.expect_nothing();
    is_parked(&office, ids[3], 3);
    office.queue.clock.advance(seconds(16 * 3600 - 1));
    office.expect_nothing();
    office.queue.clock.advance(seconds(1));
    for id in &ids[3..] {
        office.reach(office.take_of(*id));
    }
    office.expect_nothing();
    office.dispatcher.stop();
}

// SC-8
#[test]
fn a_message_that_was_not_delivered_leaves_its_place_to_the_next() {
    let office = Office::over(Queue::new(), config(1), 8);
    let first = office.send(&[BOB]);
    let due = office.defer(office.take_of(first));
    let second = office.send(&[BOB]);
    office.reach(office.take_of(second));
    office.queue.clock.advance(due.since(office.now()));
    office.expect_nothing();
    let row = &office.rows(first)[0];
    assert_eq!(
        (row.attempts, row.next_attempt, row.parked),
        (1, midnight(), Some(1))
    );
    assert_eq!(row.blocker, "451 4.0.0 the peer's words", "they are kept");
    office.dispatcher.stop();
}

// SC-8, SC-10
#[test]
fn the_recipients_of_a_message_are_counted_one_by_one() {
    let office = Office::over(Queue::new(), config(1), 8);
    let first = office.send(&[BOB]);
    office.reach(office.take_of(first));
    let id = office.send(&[BOB, "joe@slow.example"]);
    let transaction = office.take_of(id);
    let numbers: Vec<u32> = transaction
        .recipients
        .iter()
        .map(|row| row.id.number)
        .collect();
    assert_eq!(numbers, [2]);
    office.reach(transaction);
    office.expect_nothing();
    is_parked(&office, id, 1);
    office.dispatcher.stop();
}

// SC-8, SC-2
#[test]
fn a_heap_of_mail_over_the_limit_does_not_stand_before_other_mail_of_its_domain() {
    let queue = Queue::new();
    let ids: Vec<QueueId> = (0..1200).map(|_| queue.add(&[BOB])).collect();
    let other = queue.add(&["joe@slow.example"]);
    let office = Office::over(queue, config(1), 8);
    let first = office.take_of(ids[0]);
    office.reach(office.take_of(other));
    office.reach(first);
    office.expect_nothing();
    ids[1..].iter().for_each(|id| is_parked(&office, *id, 1));
    office.dispatcher.stop();
}

// SC-8, RT-5
#[test]
fn a_restart_and_a_crash_forget_nothing_of_the_day() {
    let office = Office::over(Queue::new(), config(2), 8);
    let first = office.send(&[BOB]);
    office.reach(office.take_of(first));
    let office = office.restart(seconds(1));
    let (second, third) = (office.send(&[BOB]), office.send(&[BOB]));
    let running = office.take_of(second);
    office.expect_nothing();
    is_parked(&office, third, 2);
    // It had not come to its dot.
    drop(running);
    let (office, recovery) = office.crash();
    assert_eq!(recovery.cut_off.len(), 1);
    let fourth = office.send(&[BOB]);
    office.reach(office.take_of(fourth));
    office.expect_nothing();
    is_parked(&office, third, 2);
    office.dispatcher.stop();
}

// SC-8, CFG-5, CFG-6
#[test]
fn when_the_limit_is_lifted_new_mail_goes_and_what_waits_goes_when_it_is_kicked() {
    let office = Office::over(Queue::new(), config(1), 8);
    let ids: Vec<QueueId> = (0..3).map(|_| office.send(&[BOB])).collect();
    office.reach(office.take_of(ids[0]));
    office.expect_nothing();
    office.reconfigure(|config| config.limit[0].per_address_day = Some(0));
    let new = office.send(&[BOB]);
    office.reach(office.take_of(new));
    office.expect_nothing();
    is_parked(&office, ids[1], 1);
    kick(&office, ids[1]);
    office.reach(office.take_of(ids[1]));
    office.queue.clock.advance(midnight().since(office.now()));
    office.reach(office.take_of(ids[2]));
    office.dispatcher.stop();
}

// SC-8, SC-7
#[test]
fn mail_over_its_limit_is_no_probe_of_a_dead_destination() {
    let office = Office::over(Queue::new(), config(1), 8);
    let first = office.send(&[BOB]);
    office.reach(office.take_of(first));
    for _ in 0..3 {
        let id = office.send(&["joe@slow.example"]);
        office.refuse(office.take_of(id));
    }
    assert!(office.dispatcher.dead(&key("slow.example")).is_some());
    let over = office.send(&[BOB]);
    let fresh = office.send(&["ann@slow.example"]);
    office.queue.clock.advance(seconds(60));
    office.reach(office.take_of(fresh));
    office.expect_nothing_but(|other| office.deliver(other));
    is_parked(&office, over, 1);
    office.dispatcher.stop();
}

// SC-8, RT-3, RT-4, RT-12
#[test]
fn mail_whose_life_ends_before_midnight_is_handed_over_to_end_there() {
    let mut config = config(1);
    config.retry.lifetime = "1h".parse().unwrap();
    let office = Office::over(Queue::new(), config, 8);
    let first = office.send(&[BOB]);
    office.reach(office.take_of(first));
    let rows = ["joe@slow.example", BOB].map(|to| row(to, office.now()));
    let id = office.send_rows(rows.into(), 0);
    let joe = office.take_of(id);
    assert_eq!((joe.recipients.len(), joe.over), (1, None));
    office.settle(joe, |_| Verdict::Deferred {
        next: start().plus(seconds(3600)),
    });
    office.expect_nothing();
    let shown = office.dispatcher.blocker(&office.listed(id));
    let end = start().plus(seconds(3600));
    assert_eq!(office.rows(id)[1].next_attempt, end);
    assert!(shown.is_none(), "that of the first");
    office.queue.clock.advance(seconds(3600));
    let mut ends = [office.take_of(id), office.take_of(id)];
    ends.sort_by_key(|transaction| transaction.over);
    let [joe, bob] = ends;
    assert_eq!((joe.recipients[0].id.number, joe.over), (1, None));
    assert_eq!((bob.recipients[0].id.number, bob.over), (2, Some(1)));
    office.reach(joe);
    office.fail(bob);
    office.expect_nothing();
    office.dispatcher.stop();
}

/// All mail goes to this host, so many a day to each address of `dest.test`.
fn through(mx: &Mx, most: u32, more: &str) -> String {
    format!(
        "{more}[deliver]\nallow_private = true\n[dsn]\ncollect = \"0s\"\n[[limit]]\ndestinations = [\"*\"]\n\
         connections = 1\n[[limit]]\ndestinations = [\"dest.test\"]\nper_address_day = {most}\n[[transport]]\n\
         name = \"smart\"\nkind = \"relay\"\nhosts = [\"{}\"]\ntls = \"none\"\n[[route]]\ntransport = \"smart\"\n",
        mx.address()
    )
}

fn send(daemon: &TestDaemon, to: &str) -> i64 {
    daemon.submit("ann@here.test", &[to], "Subject: hi\n\nhello\n")
}

/// The only line of an answer, once it says this.
#[track_caller]
fn until(daemon: &TestDaemon, request: &str, words: &str) -> String {
    let patience = Instant::now() + seconds(30);
    loop {
        let answer = daemon.control(request);
        if let Some(line) = answer.iter().find(|line| line.contains(words)) {
            return line.clone();
        }
        assert!(Instant::now() < patience, "{request}: {answer:?}");
        std::thread::yield_now();
    }
}

// SC-8, SC-9, RT-7, CTL-10, CTL-18
#[test]
fn behind_a_relay_the_limit_is_that_of_the_address_and_list_show_and_why_name_it() {
    let mx = Mx::start(Script::default());
    let clock = Clock::manual(start());
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, 3, ""));
    for _ in 0..3 {
        send(&daemon, "bob@dest.test");
        mx.next_transaction();
    }
    let over = [
        send(&daemon, "bob@dest.test"),
        send(&daemon, "Bob@dest.test"),
    ];
    for _ in 0..4 {
        send(&daemon, "joe@free.test");
        mx.next_transaction();
    }
    let limit = "blocker=\"limit: per_address_day 3\" until=2027-01-16T00:00:00Z";
    for id in over {
        for request in ["list", "show", "why"] {
            let line = until(&daemon, &format!("{request} id={id}"), limit);
            assert!(line.contains(" attempts=0 "), "{line}");
        }
    }
    assert_eq!(daemon.control("kick all")[0], "OK 2");
    until(&daemon, &format!("why id={}", over[0]), limit);
    until(&daemon, &format!("why id={}", over[1]), limit);
    clock.advance(midnight().since(clock.now()));
    for _ in 0..2 {
        assert!(mx.next_transaction().rcpt[0].contains("@dest.test"));
    }
    until(&daemon, "count", "OK 0");
    daemon.stop();
}

// SC-8, RT-3, RT-4, RT-8, DSN-1
#[test]
fn the_sender_is_told_of_the_limit_while_mail_waits_for_it_and_when_it_expires_there() {
    let mx = Mx::start(Script::default());
    let clock = Clock::manual(start());
    let retry = "[retry]\nlifetime = \"6h\"\ndelay_notices = [\"1h\"]\njitter = 0.0\n";
    let dir = Arc::new(TempDir::new());
    let daemon = TestDaemon::start_in(dir, clock.clone(), &through(&mx, 1, retry)).unwrap();
    send(&daemon, "bob@dest.test");
    mx.next_transaction();
    let id = send(&daemon, "bob@dest.test");
    until(&daemon, &format!("why id={id}"), "per_address_day 1");
    clock.advance(seconds(3600));
    let told = mx.next_transaction();
    let text = String::from_utf8_lossy(&told.content).into_owned();
    assert!(text.contains("Action: delayed"), "{text}");
    assert!(text.contains("limit: per_address_day 1"), "{text}");
    clock.advance(seconds(5 * 3600));
    let told = mx.next_transaction();
    let text = String::from_utf8_lossy(&told.content).into_owned();
    assert!(
        text.contains("Action: failed") && text.contains("Status: 4.4.7"),
        "{text}"
    );
    assert!(text.contains("limit: per_address_day 1"), "{text}");
    assert_eq!(mx.connections(), 1, "nobody else was contacted");
    until(&daemon, "count", "OK 0");
    daemon.stop();
}

// SC-8, Q-14
#[test]
fn a_refusal_costs_no_place_of_the_day() {
    let script = Script::new().rule(reply(At::Dot, "451 4.3.0 not now").transaction(1));
    let mx = Mx::start(script);
    let clock = Clock::manual(start());
    let daemon = TestDaemon::start_with(clock.clone(), &through(&mx, 1, ""));
    let first = send(&daemon, "bob@dest.test");
    until(&daemon, &format!("why id={first}"), "not now");
    send(&daemon, "bob@dest.test");
    mx.next_transaction();
    daemon.control("kick all");
    let limit = "blocker=\"limit: per_address_day 1\"";
    let line = until(&daemon, &format!("why id={first}"), limit);
    assert!(line.contains("reply=\"451 4.3.0 not now\""), "{line}");
    assert!(line.contains(" attempts=1 "), "{line}");
    daemon.stop();
}
