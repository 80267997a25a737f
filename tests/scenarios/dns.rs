//! The resolver against a DNS server that misbehaves.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::{A, MX};
use posthaste::clock::{Clock, Timestamp};
use posthaste::config::{Config, Live};
use posthaste::net::deadline::Deadline;
use posthaste::net::dns::{Answer, DnsError, IpFamily, Resolver};
use posthaste::policy::hosts::{Found, MxRecord};
use posthaste::policy::plan::Missing;
use posthaste::smtp::address::Domain;

use crate::support::dns::{
    DnsServer, Fault, Forgery, RecordType, ResponseCode, compression_loop, to_name,
};

/// A resolver, its clock, and the servers it asks.
struct Client {
    resolver: Resolver,
    clock: Clock,
}

impl Client {
    fn new(servers: &[SocketAddr], settings: &str) -> Client {
        let servers: Vec<String> = servers.iter().map(|s| format!("\"{s}\"")).collect();
        let text = format!(
            "hostname = \"here.example\"\n[dns]\nservers = [{}]\n{settings}\n",
            servers.join(", ")
        );
        let config = Config::parse(&text, Path::new("test.toml")).unwrap();
        let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
        Client {
            resolver: Resolver::new(Live::new(config), clock.clone()),
            clock,
        }
    }

    fn of(dns: &DnsServer) -> Client {
        Client::new(&[dns.addr()], "")
    }

    /// For servers that do not answer.
    fn impatient(dns: &DnsServer) -> Client {
        Client::new(
            &[dns.addr()],
            "query_timeout = \"40ms\"\ntotal_timeout = \"80ms\"",
        )
    }

    fn mx(&self, domain: &str) -> Result<Answer<MxRecord>, DnsError> {
        self.resolver.mx(&name(domain), long())
    }

    fn exchanges(&self, domain: &str) -> Vec<String> {
        match self.mx(domain).unwrap().found {
            Found::Records(records) => records.into_iter().map(|mx| mx.exchange).collect(),
            Found::Missing(missing) => panic!("{missing:?}"),
        }
    }

    fn a(&self, host: &str) -> Result<Answer<IpAddr>, DnsError> {
        self.resolver.addresses(&name(host), IpFamily::V4, long())
    }

    fn address(&self, host: &str) -> String {
        match self.a(host).unwrap().found {
            Found::Records(records) => records[0].to_string(),
            Found::Missing(missing) => panic!("{missing:?}"),
        }
    }
}

fn name(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn long() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

// DNS-1
#[test]
fn queries_carry_edns_and_their_ids_and_ports_cannot_be_foretold() {
    let dns = DnsServer::start();
    let client = Client::of(&dns);
    for n in 0..16 {
        client.a(&format!("host{n}.example")).unwrap();
    }
    let asked = dns.queries();
    assert_eq!(asked.len(), 16);
    assert!(asked.iter().all(|query| query.edns && !query.tcp));
    let ids: HashSet<u16> = asked.iter().map(|query| query.id).collect();
    let ports: HashSet<u16> = asked.iter().map(|query| query.from.port()).collect();
    assert!(ids.len() > 12 && ports.len() > 12, "{asked:?}");
    let in_order = asked
        .windows(2)
        .filter(|pair| pair[1].id == pair[0].id.wrapping_add(1))
        .count();
    assert!(in_order < 8);
}

// DNS-1
#[test]
fn a_truncated_answer_is_asked_for_again_by_tcp() {
    let dns = DnsServer::start().mx("dest.example", 10, "mx.dest.example");
    dns.fault("dest.example", RecordType::MX, Fault::Truncate);
    let client = Client::of(&dns);
    assert_eq!(client.exchanges("dest.example"), ["mx.dest.example"]);
    let ways: Vec<bool> = dns.queries().iter().map(|query| query.tcp).collect();
    assert_eq!(ways, [false, true]);
}

// DNS-3
#[test]
fn an_answer_that_is_truncated_by_tcp_too_is_temporary() {
    let dns = DnsServer::start().mx("dest.example", 10, "mx.dest.example");
    let truncated = |query: &[u8]| {
        let mut answer = query.to_vec();
        answer[2] |= 0x82;
        answer
    };
    dns.fault(
        "dest.example",
        RecordType::MX,
        Fault::Raw(Arc::new(truncated)),
    );
    let error = Client::of(&dns).mx("dest.example").unwrap_err();
    assert!(error.to_string().contains("TCP"), "{error}");
}

// DNS-1, DNS-3: one that refuses, one that is silent, one that is not there.
#[test]
fn other_servers_are_asked_when_one_does_not_help() {
    let refusing = DnsServer::start().fault_for_all(Some(Fault::Code(ResponseCode::Refused)));
    let silent = DnsServer::start().fault_for_all(Some(Fault::Silent));
    let gone = DnsServer::start().addr();
    let good = DnsServer::start().a("host.example", "192.0.2.7");
    let client = Client::new(
        &[gone, refusing.addr(), silent.addr(), good.addr()],
        "query_timeout = \"500ms\"",
    );
    assert_eq!(client.address("host.example"), "192.0.2.7");
    assert_eq!(refusing.queries().len(), 1);
    // The one that answered is asked first from now on.
    assert_eq!(good.queries().len(), 1);
    client.a("other.example").unwrap();
    assert_eq!(silent.asked("other.example", RecordType::A), 0);
}

// DNS-1
#[test]
fn a_lost_query_is_repeated() {
    let dns = DnsServer::start().a("host.example", "192.0.2.7");
    dns.fault("host.example", RecordType::A, Fault::SilentFor(1));
    let client = Client::new(&[dns.addr()], "query_timeout = \"300ms\"");
    assert_eq!(client.address("host.example"), "192.0.2.7");
    assert!(dns.queries().len() > 1);
}

// DNS-1
#[test]
fn a_server_without_edns_is_asked_without() {
    let dns = DnsServer::start().a("host.example", "192.0.2.7");
    dns.fault("host.example", RecordType::A, Fault::NoEdns);
    assert_eq!(Client::of(&dns).address("host.example"), "192.0.2.7");
    let edns: Vec<bool> = dns.queries().iter().map(|query| query.edns).collect();
    assert_eq!(edns, [true, false]);
}

// DNS-2
#[test]
fn forged_answers_before_the_true_one_do_not_count() {
    use Forgery::*;
    let dns =
        DnsServer::start()
            .a("host.example", "192.0.2.7")
            .mx("host.example", 10, "mx.host.example");
    let all = vec![
        WrongId,
        WrongQuestion,
        WrongPort,
        Garbage,
        CompressionLoop,
        LyingLength,
    ];
    let client = Client::of(&dns);
    dns.fault("host.example", RecordType::A, Fault::Forge(all.clone()));
    dns.fault("host.example", RecordType::MX, Fault::Forge(all));
    assert_eq!(client.address("host.example"), "192.0.2.7");
    assert_eq!(client.exchanges("host.example"), ["mx.host.example"]);
    assert_eq!(dns.queries().len(), 2);
}

// DNS-2, DNS-3
#[test]
fn nothing_but_rubbish_is_temporary() {
    let dns = DnsServer::start();
    dns.fault_for_all(Some(Fault::Raw(Arc::new(compression_loop))));
    let client = Client::impatient(&dns);
    client.a("host.example").unwrap_err();
    // The header alone, and a count of records that are not there.
    dns.fault_for_all(Some(Fault::Raw(Arc::new(|query: &[u8]| {
        let mut answer = query[..12].to_vec();
        answer[2] |= 0x80;
        answer[7] = 200;
        answer
    }))));
    client.a("host.example").unwrap_err();
}

// DNS-2
#[test]
fn records_of_other_names_are_neither_used_nor_kept() {
    let evil = || RData::MX(MX::new(1, to_name("evil.example")));
    let dns = DnsServer::start()
        .mx("dest.example", 10, "mx.dest.example")
        .besides("dest.example", "victim.example", evil())
        .besides("dest.example", "example", evil())
        .mx("victim.example", 10, "mx.victim.example");
    let client = Client::of(&dns);
    assert_eq!(client.exchanges("dest.example"), ["mx.dest.example"]);
    assert_eq!(client.exchanges("victim.example"), ["mx.victim.example"]);
    assert_eq!(dns.asked("victim.example", RecordType::MX), 1);
}

// DNS-2: names are compared without case.
#[test]
fn case_does_not_matter() {
    let dns = DnsServer::start().cname("dest.example", "MAIL.Example").mx(
        "mail.example",
        10,
        "MX.Mail.EXAMPLE",
    );
    let answer = Client::of(&dns).mx("dest.example").unwrap();
    assert_eq!(answer.expanded, "mail.example");
    assert_eq!(
        answer.found,
        Found::Records(vec![MxRecord {
            preference: 10,
            exchange: "mx.mail.example".to_string()
        }])
    );
}

// DNS-3
#[test]
fn nxdomain_and_nodata_are_answers() {
    let dns = DnsServer::start().a("here.example", "192.0.2.1");
    let client = Client::of(&dns);
    let found = |domain| client.mx(domain).unwrap().found;
    assert_eq!(found("here.example"), Found::Missing(Missing::NoData));
    assert_eq!(found("gone.example"), Found::Missing(Missing::NxDomain));
}

// DNS-3
#[test]
fn failures_of_the_server_are_temporary_and_nothing_else_is_asked_instead() {
    for code in [
        ResponseCode::ServFail,
        ResponseCode::Refused,
        ResponseCode::FormErr,
        ResponseCode::NotImp,
    ] {
        let dns = DnsServer::start().a("dest.example", "192.0.2.1");
        dns.fault("dest.example", RecordType::MX, Fault::Code(code));
        let error = Client::of(&dns).mx("dest.example").unwrap_err();
        assert!(!error.is_local(), "{error}");
        assert_eq!(dns.queries().len(), 1, "{error}");
    }
    let dns = DnsServer::start().fault_for_all(Some(Fault::Silent));
    let error = Client::impatient(&dns).mx("dest.example").unwrap_err();
    assert!(!error.is_local(), "{error}");
    assert_eq!(dns.asked("dest.example", RecordType::A), 0);
}

// DNS-3: what a server says that does not recurse for us.
#[test]
fn a_referral_is_no_answer() {
    let dns = DnsServer::start();
    dns.fault_for_all(Some(Fault::Raw(Arc::new(|query: &[u8]| {
        use hickory_proto::op::{Message, OpCode};
        use hickory_proto::rr::{Record, rdata::NS};
        let asked = Message::from_vec(query).unwrap();
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.add_query(asked.queries[0].clone());
        answer.add_authority(Record::from_rdata(
            to_name("example"),
            300,
            RData::NS(NS(to_name("ns.example"))),
        ));
        answer.to_vec().unwrap()
    }))));
    Client::of(&dns).mx("dest.example").unwrap_err();
}

fn chain(dns: &DnsServer, steps: usize) {
    for n in 0..steps {
        dns.cname(&format!("c{n}.example"), &format!("c{}.example", n + 1));
    }
    dns.mx(&format!("c{steps}.example"), 10, "mx.example");
}

// DNS-4
#[test]
fn sixteen_cnames_are_followed_and_seventeen_are_not() {
    for fault in [None, Some(Fault::LazyCname)] {
        let dns = DnsServer::start().fault_for_all(fault);
        chain(&dns, 17);
        let client = Client::of(&dns);
        client.mx("c0.example").unwrap_err();
        let answer = client.mx("c1.example").unwrap();
        assert_eq!(
            (answer.cnames, answer.expanded.as_str()),
            (16, "c17.example")
        );
    }
}

// DNS-4
#[test]
fn a_loop_of_cnames_is_temporary_within_an_answer_and_across_answers() {
    for fault in [None, Some(Fault::LazyCname)] {
        let dns = DnsServer::start()
            .cname("a.example", "b.example")
            .cname("b.example", "c.example")
            .cname("c.example", "a.example")
            .cname("self.example", "self.example")
            .fault_for_all(fault);
        let client = Client::of(&dns);
        for domain in ["a.example", "self.example"] {
            let error = client.mx(domain).unwrap_err();
            assert!(error.to_string().contains("loop"), "{error}");
        }
    }
}

// DNS-4
#[test]
fn contradictory_data_is_temporary() {
    let dns = DnsServer::start()
        .cname("both.example", "other.example")
        .mx("both.example", 10, "mx.example")
        .cname("two.example", "one.example")
        .cname("two.example", "other.example");
    let client = Client::of(&dns);
    client.mx("both.example").unwrap_err();
    client.mx("two.example").unwrap_err();
}

// DNS-4, DNS-3
#[test]
fn a_cname_to_nowhere_is_nxdomain_of_the_whole() {
    let dns = DnsServer::start().cname("dest.example", "gone.example");
    for fault in [None, Some(Fault::LazyCname)] {
        dns.fault_for_all(fault);
        let answer = Client::of(&dns).mx("dest.example").unwrap();
        assert_eq!(answer.found, Found::Missing(Missing::NxDomain));
        assert_eq!(answer.expanded, "gone.example");
    }
}

// DNS-5
#[test]
fn an_answer_is_kept_for_its_ttl_and_no_longer() {
    let dns = DnsServer::start().ttl(100).a("host.example", "192.0.2.1");
    let client = Client::of(&dns);
    client.address("host.example");
    dns.forget("host.example").a("host.example", "192.0.2.2");
    client.clock.advance(Duration::from_secs(99));
    assert_eq!(client.address("host.example"), "192.0.2.1");
    client.clock.advance(Duration::from_secs(1));
    assert_eq!(client.address("host.example"), "192.0.2.2");
    assert_eq!(dns.queries().len(), 2);
    // A clock that is set back keeps nothing alive.
    client.clock.set(Timestamp::from_secs(1_700_000_000));
    client.address("host.example");
    assert_eq!(dns.queries().len(), 3);
}

// DNS-5
#[test]
fn the_shortest_ttl_of_the_chain_counts() {
    let dns = DnsServer::start()
        .ttl(300)
        .cname("host.example", "real.example")
        .a("real.example", "192.0.2.1");
    dns.besides(
        "host.example",
        "unrelated.example",
        RData::A(A([192, 0, 2, 9].into())),
    );
    let client = Client::new(&[dns.addr()], "cache_ttl = \"1m\"");
    client.address("host.example");
    // Clamped to `cache_ttl`.
    client.clock.advance(Duration::from_secs(60));
    client.address("host.example");
    assert_eq!(dns.queries().len(), 2);
}

// DNS-5
#[test]
fn a_ttl_of_zero_or_with_the_highest_bit_is_not_kept() {
    for ttl in [0, 1 << 31, u32::MAX] {
        let dns = DnsServer::start().ttl(ttl).a("host.example", "192.0.2.1");
        let client = Client::of(&dns);
        client.address("host.example");
        client.address("host.example");
        assert_eq!(dns.queries().len(), 2, "{ttl}");
    }
}

// DNS-5
#[test]
fn negative_answers_live_as_long_as_the_soa_says_and_never_over_negative_ttl() {
    // (SOA, negative_ttl, seconds after which the answer is still known, and is no more)
    for (soa, setting, still, gone) in [
        (Some(60), "15m", 59, 60),
        (Some(86_400), "2m", 119, 120),
        (Some(0), "15m", 0, 0),
        (None, "15m", 0, 0),
    ] {
        let dns = DnsServer::start().negative_ttl(soa);
        let client = Client::new(&[dns.addr()], &format!("negative_ttl = \"{setting}\""));
        client.mx("gone.example").unwrap();
        if still > 0 {
            client.clock.advance(Duration::from_secs(still));
            client.mx("gone.example").unwrap();
            assert_eq!(dns.queries().len(), 1, "{soa:?}");
        }
        client.clock.advance(Duration::from_secs(gone - still));
        client.mx("gone.example").unwrap();
        assert_eq!(dns.queries().len(), 2, "{soa:?}");
    }
}

// DNS-5, PRC-8
#[test]
fn a_full_cache_forgets_what_was_not_used_for_longest() {
    let dns = DnsServer::start();
    let client = Client::new(&[dns.addr()], "cache_entries = 2");
    for host in ["a", "b", "a", "c"] {
        client.a(&format!("{host}.example")).unwrap();
    }
    assert_eq!(dns.queries().len(), 3);
    client.a("a.example").unwrap();
    assert_eq!(dns.queries().len(), 3);
    client.a("b.example").unwrap();
    assert_eq!(dns.asked("b.example", RecordType::A), 2);
}

// DNS-5: failures are not kept.
#[test]
fn after_a_failure_the_next_lookup_asks_again() {
    let dns = DnsServer::start().a("host.example", "192.0.2.1");
    dns.fault_for_all(Some(Fault::Code(ResponseCode::ServFail)));
    let client = Client::of(&dns);
    client.a("host.example").unwrap_err();
    dns.fault_for_all(None);
    assert_eq!(client.address("host.example"), "192.0.2.1");
}

// DNS-6
#[test]
fn a_dead_resolver_is_an_error_of_ours_until_it_comes_back() {
    let addr = DnsServer::start().addr();
    let client = Client::new(&[addr], "");
    let error = client.mx("dest.example").unwrap_err();
    assert!(error.is_local(), "{error}");
    let dns = DnsServer::start_on(addr)
        .unwrap()
        .mx("dest.example", 10, "mx.dest.example");
    assert_eq!(client.exchanges("dest.example"), ["mx.dest.example"]);
    drop(dns);
}

// DNS-1, CL-9: silence costs no more than the caller has.
#[test]
fn a_lookup_ends_at_the_deadline_of_its_caller() {
    let dns = DnsServer::start().fault_for_all(Some(Fault::Silent));
    let client = Client::of(&dns);
    let soon = Deadline::after(Duration::from_millis(30));
    client.resolver.mx(&name("dest.example"), soon).unwrap_err();
    assert_eq!(dns.queries().len(), 1);
}

// DNS-8
#[test]
fn the_ad_bit_is_believed_only_from_trusted_servers() {
    let dns = DnsServer::start()
        .authentic(true)
        .mx("dest.example", 10, "mx.dest.example");
    let authentic = |settings| {
        Client::new(&[dns.addr()], settings)
            .mx("dest.example")
            .unwrap()
            .authentic
    };
    assert!(authentic(""));
    assert!(!authentic("trusted = []"));
    assert!(!authentic("trusted = [\"192.0.2.0/24\"]"));
    dns.authentic(false);
    assert!(!authentic(""));
}

// DNS-9
#[test]
fn of_a_flood_of_records_the_first_hundred_are_looked_at() {
    let dns = DnsServer::start();
    for n in 0..300 {
        dns.mx("dest.example", 10, &format!("mx{n}.dest.example"));
    }
    let client = Client::of(&dns);
    assert_eq!(client.exchanges("dest.example").len(), 100);
    assert!(dns.queries().iter().any(|query| query.tcp));
}

#[test]
fn those_who_ask_the_same_at_the_same_time_share_one_lookup() {
    let dns = DnsServer::start().a("host.example", "192.0.2.1");
    let held = dns.hold("host.example", RecordType::A);
    let client = Arc::new(Client::of(&dns));
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let client = Arc::clone(&client);
            thread::spawn(move || client.address("host.example"))
        })
        .collect();
    held.wait();
    held.release();
    for asker in askers {
        assert_eq!(asker.join().unwrap(), "192.0.2.1");
    }
    assert_eq!(dns.queries().len(), 1);
}

// One that gave up early must not take the others with it.
#[test]
fn whoever_has_more_time_asks_on_when_the_first_asker_gives_up() {
    let dns = DnsServer::start().a("host.example", "192.0.2.1");
    let held = dns.hold("host.example", RecordType::A);
    let client = Arc::new(Client::of(&dns));
    let hasty = Arc::clone(&client);
    let first = thread::spawn(move || {
        let soon = Deadline::after(Duration::from_millis(300));
        hasty
            .resolver
            .addresses(&name("host.example"), IpFamily::V4, soon)
    });
    held.wait();
    let patient = Arc::clone(&client);
    let second = thread::spawn(move || patient.address("host.example"));
    first.join().unwrap().unwrap_err();
    held.release();
    held.release();
    assert_eq!(second.join().unwrap(), "192.0.2.1");
}
