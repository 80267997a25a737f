//! Scenarios: limits of a provider's MX hosts, which hold for all domains on them (SC-4, SC-9), over the real queue with a
//! clock that can be moved, and with the whole daemon.

#![allow(clippy::unwrap_used)] // a test that cannot change its queue has failed

use std::path::Path;
use std::time::{Duration, Instant};

use posthaste::clock::Clock;
use posthaste::config::Config;
use posthaste::dispatch::{MxHosts, Transaction, Wake};
use posthaste::message::QueueId;

use crate::support::daemon::TestDaemon;
use crate::support::dns::DnsServer;
use crate::support::mx::{Mx, Script};
use crate::support::office::Office;
use crate::support::queue::{Queue, key, start};

/// With these keys for the hosts of the provider, and a table before it for a domain that is on them too.
fn config(keys: &str) -> Config {
    let text = format!(
        "hostname = \"here.example\"\n[retry]\njitter = 0.0\n[[limit]]\ndestinations = [\"own.example\"]\nconnections = 4\n\
         [[limit]]\ndestinations = [\".big.example\"]\n{keys}\n"
    );
    Config::parse(&text, Path::new("f")).unwrap()
}

/// The worker has found that the domain is on the provider's hosts.
fn enters(transaction: &mut Transaction) -> bool {
    let group = key("mx:mx1.big.example,mx2.big.example");
    let hosts = MxHosts {
        group: &group,
        best: "mx1.big.example",
    };
    let count = transaction.recipients.len();
    transaction.permit.enter(hosts, count)
}

/// What the worker does that may not enter.
fn give_back(office: &Office, mut transaction: Transaction) {
    let (id, due) = (transaction.head.id, transaction.recipients[0].next_attempt);
    let rows = transaction.recipients.iter();
    let numbers: Vec<u32> = rows.map(|row| row.id.number).collect();
    let destination = transaction.destination.clone();
    transaction.permit.untried();
    office.queue.store.unclaim(id, &numbers, due, None).unwrap();
    drop(transaction);
    office.dispatcher.wake(Wake::Due(destination, due));
}

// SC-4, SC-5, SC-9, RT-7
#[test]
fn a_table_for_the_hosts_of_a_provider_holds_for_all_domains_on_them_together() {
    let office = Office::over(Queue::new(), config("connections = 1"), 64);
    let ids: Vec<QueueId> = (0..20)
        .map(|n| office.send(&[&format!("bob@d{n}.example")]))
        .collect();
    // Nobody knows yet where these domains are; the workers find out one after another.
    let mut entered = Vec::new();
    for _ in &ids {
        let mut transaction = office.take();
        match enters(&mut transaction) {
            true => entered.push(transaction),
            false => give_back(&office, transaction),
        }
    }
    assert_eq!(entered.len(), 1);
    let mut sent = 0;
    while let Some(transaction) = entered.pop() {
        office.reach(transaction);
        sent += 1;
        if sent < ids.len() {
            let mut next = office.take();
            assert!(enters(&mut next));
            entered.push(next);
        }
    }
    office.expect_nothing();
    office.dispatcher.stop();
}

// SC-9
#[test]
fn a_domain_with_a_table_of_its_own_does_not_share_that_of_its_hosts() {
    let office = Office::over(Queue::new(), config("connections = 1"), 64);
    let other = office.send(&["bob@d.example"]);
    let mut running = office.take_of(other);
    assert!(enters(&mut running));
    let own: Vec<Transaction> = (0..2)
        .map(|_| {
            let id = office.send(&["joe@own.example"]);
            let mut transaction = office.take_of(id);
            assert!(enters(&mut transaction));
            transaction
        })
        .collect();
    assert_eq!(office.dispatcher.limits(&key("own.example")).connections, 4);
    assert_eq!(office.dispatcher.limits(&key("d.example")).connections, 1);
    own.into_iter()
        .for_each(|transaction| office.reach(transaction));
    office.reach(running);
    office.dispatcher.stop();
}

// SC-9, RT-7
#[test]
fn what_was_claimed_before_its_hosts_were_known_is_claimed_again_by_their_limits() {
    let keys = "recipients = 2\nper_address_day = 1";
    let office = Office::over(Queue::new(), config(keys), 64);
    let many = office.send(&["a@d.example", "b@d.example", "c@d.example"]);
    let mut transaction = office.take_of(many);
    assert_eq!(transaction.recipients.len(), 3);
    assert!(!enters(&mut transaction));
    give_back(&office, transaction);
    for count in [2, 1] {
        let mut transaction = office.take_of(many);
        assert_eq!(transaction.recipients.len(), count);
        assert!(enters(&mut transaction));
        office.reach(transaction);
    }
    // The same domain again: it is known by now.
    let again = office.send(&["a@d.example"]);
    office.expect_nothing();
    assert_eq!(office.rows(again)[0].parked, Some(1));
    // And one of which nothing is known yet.
    let first = office.send(&["bob@e.example"]);
    let mut transaction = office.take_of(first);
    assert!(!enters(&mut transaction), "it was not counted");
    give_back(&office, transaction);
    let mut transaction = office.take_of(first);
    assert!(enters(&mut transaction));
    office.reach(transaction);
    assert_eq!(office.rows(first)[0].attempts, 1);
    office.dispatcher.stop();
}

// SC-7, SC-9, RT-7
#[test]
fn a_probe_of_a_dead_destination_is_held_to_the_limits_that_it_finds_out() {
    let office = Office::over(Queue::new(), config("recipients = 2"), 64);
    for _ in 0..3 {
        let id = office.send(&["bob@d.example"]);
        office.refuse(office.take_of(id));
    }
    assert!(office.dispatcher.dead(&key("d.example")).is_some());
    let many = office.send(&["a@d.example", "b@d.example", "c@d.example"]);
    office.expect_nothing();
    office.queue.clock.advance(Duration::from_secs(60));
    let mut probe = office.take_of(many);
    assert_eq!(probe.recipients.len(), 3);
    assert!(!enters(&mut probe));
    give_back(&office, probe);
    office.queue.clock.advance(Duration::from_secs(120));
    for count in [2, 1] {
        let mut transaction = office.take_of(many);
        assert_eq!(transaction.recipients.len(), count);
        assert!(enters(&mut transaction));
        office.reach(transaction);
        assert!(office.dispatcher.dead(&key("d.example")).is_none());
    }
    assert_eq!(office.rows(many)[0].attempts, 1);
    office.dispatcher.stop();
}

// SC-9, CFG-5, CFG-6
#[test]
fn another_configuration_is_held_against_the_hosts_that_are_known() {
    let office = Office::over(Queue::new(), config("connections = 3"), 64);
    let id = office.send(&["bob@d.example"]);
    let mut transaction = office.take_of(id);
    assert!(enters(&mut transaction));
    office.reach(transaction);
    let of = |domain: &str| office.dispatcher.limits(&key(domain)).connections;
    assert_eq!((of("d.example"), of("else.example")), (3, 20));
    office.reconfigure(|config| config.limit[1].connections = Some(7));
    office.expect_nothing();
    assert_eq!((of("d.example"), of("else.example")), (7, 20));
    office.reconfigure(|config| drop(config.limit.pop()));
    office.expect_nothing();
    assert_eq!(of("d.example"), 20);
    office.dispatcher.stop();
}

/// Domains on a provider's hosts, and on others that only fall back to them.
fn world() -> (Mx, DnsServer) {
    let mx = Mx::start(Script::default());
    let dns = DnsServer::start()
        .a("mx1.big.test", "127.0.0.1")
        .a("mx1.small.test", "127.0.0.1");
    for n in 0..20 {
        dns.mx(&format!("d{n}.test"), 10, "mx1.big.test");
    }
    dns.mx("back.test", 20, "mx1.big.test")
        .mx("back.test", 10, "mx1.small.test");
    (mx, dns)
}

fn daemon(mx: &Mx, dns: &DnsServer, clock: &Clock, keys: &str) -> TestDaemon {
    let text = format!(
        "[dns]\nservers = [\"{}\"]\n[deliver]\nallow_private = true\nsmtp_port = {}\n[limits]\ninitial = 9\n\
         [[limit]]\ndestinations = [\".big.test\"]\n{keys}\n",
        dns.addr(),
        mx.port()
    );
    TestDaemon::start_with(clock.clone(), &text)
}

fn send(daemon: &TestDaemon, to: &str) -> i64 {
    daemon.submit("", &[to], "Subject: hi\n\nhello\n")
}

// SC-4, SC-9, CTL-16
#[test]
fn twenty_domains_on_a_host_with_one_connection_go_by_one() {
    let (mx, dns) = world();
    let daemon = daemon(&mx, &dns, &Clock::system(), "connections = 1");
    for n in 0..20 {
        send(&daemon, &format!("bob@d{n}.test"));
    }
    mx.wait_for_transaction(20);
    assert_eq!(mx.connections(), 1);
    let known = daemon.control("domains domain=d7.test");
    let group = known.iter().find(|line| line.contains("mx:mx1.big.test"));
    assert!(group.unwrap().contains(" connections=1 "), "{known:?}");
    daemon.stop();
}

// SC-8, SC-9, RT-7
#[test]
fn a_rate_of_a_providers_host_holds_for_its_domains_and_not_for_those_that_fall_back_to_it() {
    let (mx, dns) = world();
    let clock = Clock::manual(start());
    let daemon = daemon(&mx, &dns, &clock, "rate = \"3/1h\"");
    for n in 0..5 {
        send(&daemon, &format!("bob@d{n}.test"));
    }
    mx.wait_for_transaction(3);
    for n in 4..10 {
        send(&daemon, "bob@back.test");
        mx.wait_for_transaction(n);
    }
    let patience = Instant::now() + Duration::from_secs(30);
    let waiting = |lines: &[String]| {
        let limit = |line: &&String| line.contains("blocker=\"limit: rate 3/1h\" until=");
        lines.iter().filter(limit).count()
    };
    loop {
        let listed = daemon.control("list");
        if waiting(&listed) == 2 && listed.last().unwrap() == "OK 2" {
            break;
        }
        assert!(Instant::now() < patience, "{listed:?}");
        std::thread::yield_now();
    }
    clock.advance(Duration::from_secs(2 * 1200));
    mx.wait_for_transaction(11);
    daemon.stop();
}
