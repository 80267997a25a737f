//! Scenarios: destinations that take so many messages in a time, and connections at an interval (SC-8), over the real
//! queue with a clock that can be moved, and with the whole daemon.

#![allow(clippy::unwrap_used)] // a test that cannot change its queue has failed

use std::time::{Duration, Instant};

use posthaste::clock::Clock;
use posthaste::config::{Config, RateLimit};
use posthaste::dispatch::MxHosts;
use posthaste::message::QueueId;

use crate::support::daemon::TestDaemon;
use crate::support::mx::{Mx, Script};
use crate::support::office::{Office, config};
use crate::support::queue::{Queue, key, start};

const SLOW: &str = "slow.example";

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn rate(text: &str) -> RateLimit {
    RateLimit(Some(text.parse().unwrap()))
}

/// So many messages at a time to one domain, as many as one likes to all others.
fn slow(text: &str) -> Config {
    let mut config = config();
    let text = format!(
        "hostname = \"here.example\"\n[[limit]]\ndestinations = [\"{SLOW}\"]\nrate = \"{text}\"\n"
    );
    let parsed = Config::parse(&text, std::path::Path::new("f")).unwrap();
    config.limit = parsed.limit;
    config.limits.initial = 20;
    config
}

fn why(office: &Office, id: QueueId) -> (String, Option<Duration>) {
    let (why, until) = office.dispatcher.blocker(&office.listed(id)).unwrap();
    (why, until.map(|until| until.since(start())))
}

// SC-8, SC-9, RT-7
#[test]
fn mail_over_the_rate_waits_its_turn_without_an_attempt_and_delays_nobody_else() {
    let office = Office::over(Queue::new(), slow("2/1m"), 8);
    let ids: Vec<QueueId> = (0..5).map(|_| office.send(&["bob@slow.example"])).collect();
    for id in &ids[..2] {
        office.reach(office.take_of(*id));
    }
    office.expect_nothing();
    assert!(office.dispatcher.reserve(&key(SLOW)).is_none());
    for id in &ids[2..] {
        let expected = ("limit: rate 2/1m".to_owned(), Some(seconds(30)));
        assert_eq!(why(&office, *id), expected);
        let row = &office.rows(*id)[0];
        assert_eq!((row.attempts, row.next_attempt), (0, start()));
    }
    for (n, id) in ids[2..].iter().enumerate() {
        office.queue.clock.advance(seconds(29));
        office.expect_nothing();
        office.queue.clock.advance(seconds(1));
        office.reach(office.take_of(*id));
        assert_eq!(office.now().since(start()), seconds(30 * (n as u64 + 1)));
    }
    office.expect_nothing();
    office.dispatcher.stop();
}

// SC-8
#[test]
fn what_did_not_get_as_far_as_mail_is_no_message() {
    let office = Office::over(Queue::new(), slow("1/1h"), 8);
    let first = office.send(&["bob@slow.example"]);
    let second = office.send(&["bob@slow.example"]);
    office.refuse(office.take_of(first));
    office.reach(office.take_of(second));
    office.expect_nothing();
    office.dispatcher.stop();
}

// SC-8
#[test]
fn mail_that_is_accepted_takes_the_short_way_only_as_often_as_the_rate_says() {
    let office = Office::over(Queue::new(), slow("2/1m"), 8);
    office.expect_nothing();
    let held: Vec<_> = (0..3)
        .map(|_| office.dispatcher.reserve(&key(SLOW)))
        .collect();
    assert_eq!(held.iter().flatten().count(), 2);
    drop(held);
    assert!(
        office.dispatcher.reserve(&key(SLOW)).is_some(),
        "nothing was sent"
    );
    office.dispatcher.stop();
}

// SC-8, CFG-5, CFG-6
#[test]
fn another_rate_holds_for_mail_that_waits_already() {
    let office = Office::over(Queue::new(), slow("1/1h"), 8);
    let ids: Vec<QueueId> = (0..3).map(|_| office.send(&["bob@slow.example"])).collect();
    office.reach(office.take_of(ids[0]));
    office.expect_nothing();
    office.reconfigure(|config| config.limit[0].rate = Some(rate("2/2m")));
    office.expect_nothing();
    office.queue.clock.advance(seconds(60));
    office.reach(office.take_of(ids[1]));
    office.reconfigure(|config| config.limit[0].rate = Some(RateLimit(None)));
    office.reach(office.take_of(ids[2]));
    office.dispatcher.stop();
}

// SC-4, SC-8, SC-9
#[test]
fn domains_with_the_same_hosts_share_one_rate() {
    let mut config = config();
    config.limits.rate = rate("3/1h");
    let office = Office::over(Queue::new(), config, 16);
    let group = key("mx:mx.big.example");
    let hosts = MxHosts {
        group: &group,
        best: "mx.big.example",
    };
    // Nobody knows yet that they belong together; the workers find out one after another.
    let domains: Vec<String> = (0..5).map(|n| format!("bob@d{n}.example")).collect();
    for to in &domains {
        office.send(&[to]);
    }
    let mut sent = 0;
    for _ in &domains {
        let mut transaction = office.take();
        if transaction.permit.enter(hosts, 1) {
            office.reach(transaction);
            sent += 1;
        } else {
            let (id, due) = (transaction.head.id, transaction.recipients[0].next_attempt);
            let destination = transaction.destination.clone();
            transaction.permit.untried();
            office.queue.store.unclaim(id, &[1], due, None).unwrap();
            drop(transaction);
            let wake = posthaste::dispatch::Wake::Due(destination, due);
            office.dispatcher.wake(wake);
        }
    }
    assert_eq!(sent, 3);
    for _ in 0..2 {
        office.expect_nothing();
        office.queue.clock.advance(seconds(1200));
        let mut transaction = office.take();
        assert!(transaction.permit.enter(hosts, 1));
        office.reach(transaction);
    }
    office.dispatcher.stop();
}

// SC-9, RT-7
#[test]
fn mail_for_a_destination_that_has_all_its_connections_says_so() {
    let mut config = config();
    config.limits.connections = 1;
    let office = Office::over(Queue::new(), config, 8);
    let first = office.send(&["bob@slow.example"]);
    let running = office.take_of(first);
    let second = office.send(&["bob@slow.example"]);
    let shown = office
        .dispatcher
        .limit(&key(SLOW))
        .map(|(limit, until)| (limit, until.is_some()));
    assert_eq!(shown, Some(("connections 1".to_owned(), false)));
    office.reach(running);
    office.reach(office.take_of(second));
    assert_eq!(office.dispatcher.limit(&key(SLOW)), None);
    office.dispatcher.stop();
}

// CFG-19, SC-8
#[test]
fn a_direct_transport_has_limits_of_its_own_beside_those_of_all_others() {
    let text = "hostname = \"here.example\"\n[retry]\njitter = 0.0\n[limits]\ninitial = 9\n[[transport]]\nname = \"bulk\"\n\
                kind = \"direct\"\nrate = \"1/1h\"\nrecipients = 2\n[[route]]\nto = [\"slow.example\"]\ntransport = \"bulk\"\n";
    let config = Config::parse(text, std::path::Path::new("f")).unwrap();
    assert_eq!(
        config.limit.len() + usize::from(config.limits.rate.0.is_some()),
        0
    );
    let office = Office::over(Queue::new(), config, 8);
    let many = ["a@slow.example", "b@slow.example", "c@slow.example"];
    let id = office.send(&many);
    let first = office.take_of(id);
    assert_eq!(first.destination, key("via:bulk:slow.example"));
    assert_eq!(first.recipients.len(), 2);
    office.reach(first);
    office.expect_nothing();
    for _ in 0..3 {
        let other = office.send(&["bob@else.example"]);
        office.reach(office.take_of(other));
    }
    office.queue.clock.advance(seconds(3600));
    assert_eq!(office.take_of(id).recipients.len(), 1);
    office.dispatcher.stop();
}

/// All mail goes to this host, which is dialled at most once a minute.
fn once_a_minute(mx: &Mx) -> String {
    format!(
        "[deliver]\nallow_private = true\n[[transport]]\nname = \"smart\"\nkind = \"relay\"\nhosts = [\"{}\"]\n\
         tls = \"none\"\ndial_interval = \"1m\"\n[[route]]\ntransport = \"smart\"\n",
        mx.address()
    )
}

// SC-8, SC-9, RT-7, CTL-16
#[test]
fn a_session_that_was_kept_needs_no_interval_and_a_new_one_waits_for_it() {
    let mx = Mx::start(Script::default());
    let clock = Clock::manual(start());
    let daemon = TestDaemon::start_with(clock.clone(), &once_a_minute(&mx));
    let send = || {
        daemon.submit(
            "ann@here.test",
            &["bob@dest.test"],
            "Subject: hi\n\nhello\n",
        )
    };
    for _ in 0..3 {
        send();
        assert_eq!(mx.next_transaction().connection, 1);
    }
    mx.hang_up(1);
    mx.next_close();
    let id = send();
    let patience = Instant::now() + seconds(30);
    let known = loop {
        let known = daemon.control("domains transport=smart");
        if known[0].contains("limit=\"dial_interval 1m\"") {
            break known;
        }
        assert!(Instant::now() < patience, "{known:?}");
        std::thread::yield_now();
    };
    assert!(known[0].contains(" dial-interval=1m "), "{known:?}");
    let answer = daemon.control(&format!("why id={id}"));
    assert!(answer[0].contains("blocker=\"limit: dial_interval 1m\""));
    assert!(answer[0].contains("until=") && answer[0].contains("attempts=0"));
    clock.advance(seconds(60));
    assert_eq!(mx.next_transaction().connection, 2);
    let shown = daemon.control(&format!("show id={id}"));
    let attempts = shown.iter().filter(|line| line.contains(" attempt="));
    assert!(attempts.count() <= 1, "{shown:?}");
    daemon.stop();
}
