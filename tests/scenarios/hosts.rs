//! From a domain to an open connection: lookups, order, what is skipped, and dials that fail.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};
use posthaste::config::{Config, Live, Relay, RelayHost};
use posthaste::net::Network;
use posthaste::net::deadline::Deadline;
use posthaste::net::walk::Walk;
use posthaste::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use posthaste::policy::plan::{Reason, Target};
use posthaste::smtp::address::Domain;

use crate::support::dns::{DnsServer, Fault, RecordType, ResponseCode};

/// Without the check of DV-8, because all hosts of the tests are on loopback; and at a port where we do not listen
/// ourselves.
const PRIVATE: &str = "[deliver]\nallow_private = true\nsmtp_port = 2525\n";

fn network(dns: &DnsServer, settings: &str) -> Network {
    let text = format!(
        "hostname = \"us.example\"\n{settings}[dns]\nservers = [\"{}\"]\n",
        dns.addr()
    );
    let config = Config::parse(&text, Path::new("test.toml")).unwrap();
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    Network::new(Live::new(config), clock)
}

fn relay(hosts: Vec<(RelayHost, u16)>) -> Target {
    Target::Relay(Arc::new(Relay::plain(hosts)))
}

fn domain(name: &str) -> Target {
    Target::Domain(Domain::parse(name).unwrap())
}

fn long() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn walk(network: &Network, target: &Target) -> Result<Walk, Failure> {
    network.walk("direct", target, &[], long())
}

/// The names of all hosts that the walk gives out, without dialling them.
fn all_hosts(walk: &mut Walk) -> Vec<String> {
    std::iter::from_fn(|| walk.next_host())
        .map(|host| host.name.to_string())
        .collect()
}

/// What the attempt ends with when nothing was dialled.
fn outcome(dns: &DnsServer, settings: &str, name: &str) -> (Retry, String) {
    let failure = match walk(&network(dns, settings), &domain(name)) {
        Err(failure) => failure,
        Ok(mut walk) => {
            let given = all_hosts(&mut walk);
            assert!(given.is_empty(), "{given:?}");
            walk.conclusion()
        }
    };
    assert_eq!(failure.stage, Stage::Dns);
    (failure.retry, failure.status.to_string())
}

fn never(status: &str) -> (Retry, String) {
    (Retry::Never, status.to_string())
}

fn later(status: &str) -> (Retry, String) {
    (Retry::Later, status.to_string())
}

/// A listener on this loopback address, at a port that settings can name.
fn listener(ip: &str, port: u16) -> TcpListener {
    TcpListener::bind((ip, port)).unwrap()
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

fn deliver(port: u16, more: &str) -> String {
    format!("[deliver]\nallow_private = true\nsmtp_port = {port}\n{more}")
}

// DV-1
#[test]
fn hosts_are_walked_by_preference_behind_the_cnames_of_the_domain() {
    let dns = DnsServer::start()
        .cname("dest.example", "real.example")
        .mx("real.example", 20, "second.example")
        .mx("real.example", 10, "first.example")
        .a("first.example", "127.0.0.1")
        .a("second.example", "127.0.0.2");
    let mut walk = walk(&network(&dns, PRIVATE), &domain("dest.example")).unwrap();
    let first = walk.next_host().unwrap();
    assert_eq!(first.name.to_string(), "first.example");
    assert_eq!(first.port, 2525);
    // The second is not even looked up before it is needed.
    assert_eq!(dns.asked("second.example", RecordType::A), 0);
    assert_eq!(all_hosts(&mut walk), ["second.example"]);
}

// DV-2
#[test]
fn a_domain_without_mx_records_is_its_own_host() {
    let dns = DnsServer::start()
        .a("nodata.example", "127.0.0.1")
        .cname("alias.example", "nodata.example")
        .a("nxdomain.example", "127.0.0.1")
        // Some servers say so of names that exist.
        .fault(
            "nxdomain.example",
            RecordType::MX,
            Fault::Code(ResponseCode::NXDomain),
        );
    let network = network(&dns, PRIVATE);
    for (name, host) in [
        ("nodata.example", "nodata.example"),
        ("alias.example", "nodata.example"),
        ("nxdomain.example", "nxdomain.example"),
    ] {
        let mut walk = walk(&network, &domain(name)).unwrap();
        assert_eq!(all_hosts(&mut walk), [host]);
    }
}

// DV-2
#[test]
fn an_mx_set_without_a_usable_host_is_never_a_reason_to_try_the_domain() {
    let dns = DnsServer::start()
        .a("dest.example", "127.0.0.1")
        .mx("dest.example", 10, "gone.example")
        .a("odd.example", "127.0.0.1")
        .mx("odd.example", 10, "localhost");
    assert_eq!(outcome(&dns, PRIVATE, "dest.example"), never("5.4.4"));
    assert_eq!(outcome(&dns, PRIVATE, "odd.example"), later("4.4.4"));
    assert_eq!(dns.asked("dest.example", RecordType::A), 0);
    assert_eq!(dns.asked("odd.example", RecordType::A), 0);
}

// DV-2, DNS-3: nor is a failure.
#[test]
fn a_failing_mx_lookup_is_temporary_and_no_address_is_asked_for() {
    let dns = DnsServer::start().a("dest.example", "127.0.0.1");
    dns.fault(
        "dest.example",
        RecordType::MX,
        Fault::Code(ResponseCode::ServFail),
    );
    assert_eq!(outcome(&dns, PRIVATE, "dest.example"), later("4.4.3"));
    assert_eq!(dns.queries().len(), 1);
}

// DV-3
#[test]
fn a_null_mx_ends_it_without_another_question() {
    let dns = DnsServer::start()
        .mx("dest.example", 0, ".")
        .a("dest.example", "127.0.0.1");
    assert_eq!(outcome(&dns, PRIVATE, "dest.example"), never("5.1.10"));
    assert_eq!(dns.queries().len(), 1);
}

// DV-4
#[test]
fn what_is_definitely_not_there_is_permanent() {
    let dns = DnsServer::start()
        .empty("bare.example")
        .mx("both.example", 10, "gone.example")
        .mx("both.example", 20, "bare.example");
    assert_eq!(outcome(&dns, PRIVATE, "gone.example"), never("5.1.2"));
    assert_eq!(outcome(&dns, PRIVATE, "bare.example"), never("5.4.4"));
    assert_eq!(outcome(&dns, PRIVATE, "both.example"), never("5.4.4"));
    // One of them in doubt.
    dns.fault(
        "bare.example",
        RecordType::AAAA,
        Fault::Code(ResponseCode::ServFail),
    );
    assert_eq!(outcome(&dns, PRIVATE, "bare.example"), later("4.4.3"));
    assert_eq!(outcome(&dns, PRIVATE, "both.example"), later("4.4.3"));
}

// DV-4: without AAAA questions nothing is known of IPv6.
#[test]
fn a_family_that_was_not_asked_for_makes_nothing_definite() {
    let dns = DnsServer::start().aaaa("six.example", "::1");
    let settings = format!("{PRIVATE}family = \"only4\"\n");
    assert_eq!(outcome(&dns, &settings, "six.example"), later("4.4.4"));
    assert_eq!(dns.asked("six.example", RecordType::AAAA), 0);
}

// DV-5
#[test]
fn an_mx_target_may_be_a_cname_ten_times_over() {
    let dns = DnsServer::start()
        .mx("ten.example", 10, "c1.example")
        .mx("eleven.example", 10, "c0.example")
        .a("c11.example", "127.0.0.1");
    for n in 0..11 {
        dns.cname(&format!("c{n}.example"), &format!("c{}.example", n + 1));
    }
    let mut walk = walk(&network(&dns, PRIVATE), &domain("ten.example")).unwrap();
    assert_eq!(all_hosts(&mut walk), ["c1.example"]);
    assert_eq!(outcome(&dns, PRIVATE, "eleven.example"), later("4.4.3"));
}

// DV-6
#[test]
fn at_most_max_mx_hosts_are_looked_at() {
    let dns = DnsServer::start();
    for n in 0..9 {
        let host = format!("mx{n}.example");
        dns.mx("dest.example", n, &host).a(&host, "127.0.0.1");
    }
    let settings = format!("{PRIVATE}max_mx = 3\n");
    let mut walk = walk(&network(&dns, &settings), &domain("dest.example")).unwrap();
    assert_eq!(
        all_hosts(&mut walk),
        ["mx0.example", "mx1.example", "mx2.example"]
    );
    assert_eq!(dns.asked("mx3.example", RecordType::A), 0);
    assert_eq!(walk.plan().skips.len(), 6);
}

// DV-6, DV-12
#[test]
fn at_most_max_addresses_addresses_are_dialled_in_all() {
    let dns = DnsServer::start().mx("dest.example", 1, "mx1.example").mx(
        "dest.example",
        2,
        "mx2.example",
    );
    for n in 1..4 {
        dns.a("mx1.example", &format!("127.0.1.{n}"))
            .a("mx2.example", &format!("127.0.2.{n}"));
    }
    // Nobody listens there.
    let unused = port_of(&listener("127.0.0.1", 0));
    let settings = deliver(unused, "max_addresses = 4\n");
    let mut walk = walk(&network(&dns, &settings), &domain("dest.example")).unwrap();
    let first = walk.next_host().unwrap();
    let failure = walk.dial(&first, long()).unwrap_err();
    assert_eq!(
        (failure.retry, failure.scope, failure.stage),
        (Retry::Later, Scope::Host, Stage::Connect)
    );
    assert_eq!(failure.status.to_string(), "4.4.1");
    assert_eq!(failure.cause, Cause::Refused);
    let second = walk.next_host().unwrap();
    walk.dial(&second, long()).unwrap_err();
    assert!(walk.next_host().is_none());
    let dialled = walk.dialled();
    assert_eq!(dialled.len(), 4);
    assert!(dialled[3].to_string().starts_with("127.0.2."));
}

// DV-6
#[test]
fn nothing_is_looked_up_when_the_attempts_time_is_over() {
    let dns = DnsServer::start()
        .mx("dest.example", 1, "mx1.example")
        .mx("dest.example", 2, "mx2.example")
        .a("mx1.example", "127.0.0.1");
    let held = dns.hold("mx1.example", RecordType::A);
    let network = network(&dns, PRIVATE);
    // So that the MX records are known and take no time.
    walk(&network, &domain("dest.example")).unwrap();
    let soon = Deadline::after(Duration::from_millis(200));
    let mut walk = network
        .walk("direct", &domain("dest.example"), &[], soon)
        .unwrap();
    assert!(walk.next_host().is_none());
    held.wait();
    held.release();
    assert_eq!(walk.conclusion().status.to_string(), "4.4.3");
    assert_eq!(dns.asked("mx2.example", RecordType::A), 0);
}

/// An address that takes no further connection: its queue of unaccepted ones is full.
fn full_listener(ip: &str, port: u16) -> (socket2::Socket, Vec<socket2::Socket>) {
    use socket2::{Domain as Family, Socket, Type};
    let address: SocketAddr = format!("{ip}:{port}").parse().unwrap();
    let full = Socket::new(Family::IPV4, Type::STREAM, None).unwrap();
    full.bind(&address.into()).unwrap();
    full.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Family::IPV4, Type::STREAM, None).unwrap();
        let connected = socket.connect_timeout(&address.into(), Duration::from_millis(100));
        waiting.push(socket);
        if connected.is_err() {
            return (full, waiting);
        }
        assert!(
            waiting.len() < 20,
            "the queue of the listener does not fill"
        );
    }
}

// DV-7
#[test]
fn a_dead_first_address_does_not_use_up_the_time_of_the_second() {
    let live = listener("127.0.3.2", 0);
    let port = port_of(&live);
    let _dead = full_listener("127.0.3.1", port);
    let dns = DnsServer::start()
        .a("dest.example", "127.0.3.1")
        .a("dest.example", "127.0.3.2");
    let network = network(&dns, &deliver(port, "host_timeout = \"1s\"\n"));
    // The address used before goes first: the dead one.
    let dead: IpAddr = "127.0.3.1".parse().unwrap();
    let mut walk = network
        .walk("direct", &domain("dest.example"), &[dead], long())
        .unwrap();
    let host = walk.next_host().unwrap();
    let connection = walk.dial(&host, long()).unwrap();
    assert_eq!(connection.address, live.local_addr().unwrap());
    assert_eq!(walk.dialled(), [dead, connection.address.ip()]);
}

// DV-15: the session came to nothing on the first address, which may have taken long; that is no part of the dial.
#[test]
fn a_host_may_be_dialled_again_with_the_addresses_that_are_left() {
    let (one, other) = (listener("127.0.3.21", 0), "127.0.3.22");
    let port = port_of(&one);
    let other = listener(other, port);
    let dns = DnsServer::start()
        .a("dest.example", "127.0.3.21")
        .a("dest.example", "127.0.3.22");
    let network = network(&dns, &deliver(port, ""));
    let mut walk = walk(&network, &domain("dest.example")).unwrap();
    let mut host = walk.next_host().unwrap();
    let first = walk.dial(&host, long()).unwrap().address;
    host.addresses.remove(0);
    let second = walk.dial(&host, long()).unwrap().address;
    let mut both = [first, second];
    both.sort();
    assert_eq!(
        both,
        [one.local_addr().unwrap(), other.local_addr().unwrap()]
    );
}

// DV-7, DV-15
#[test]
fn a_dead_host_is_left_at_its_deadline_and_the_next_one_tried() {
    let live = listener("127.0.3.12", 0);
    let port = port_of(&live);
    let _dead = full_listener("127.0.3.11", port);
    let dns = DnsServer::start()
        .mx("dest.example", 1, "dead.example")
        .mx("dest.example", 2, "live.example")
        .a("dead.example", "127.0.3.11")
        .a("live.example", "127.0.3.12");
    let network = network(&dns, &deliver(port, "dial_timeout = \"200ms\"\n"));
    let mut walk = walk(&network, &domain("dest.example")).unwrap();
    let dead = walk.next_host().unwrap();
    let failure = walk.dial(&dead, long()).unwrap_err();
    assert_eq!(failure.cause, Cause::Timeout);
    assert_eq!(failure.status.to_string(), "4.4.1");
    assert_eq!(failure.scope, Scope::Host);
    let live = walk.next_host().unwrap();
    walk.dial(&live, long()).unwrap();
}

// CL-9
#[test]
fn the_limit_of_a_whole_transaction_covers_its_dial() {
    let dead = listener("127.0.3.13", 0);
    let port = port_of(&dead);
    drop(dead);
    let _dead = full_listener("127.0.3.13", port);
    let dns = DnsServer::start().a("dest.example", "127.0.3.13");
    // Neither of its own limits would end the dial before the test gives up.
    let own = "dial_timeout = \"1h\"\nhost_timeout = \"1h\"\n";
    let network = network(&dns, &deliver(port, own));
    let mut walk = walk(&network, &domain("dest.example")).unwrap();
    let host = walk.next_host().unwrap();
    let total = Deadline::after(Duration::from_millis(200));
    assert_eq!(walk.dial(&host, total).unwrap_err().cause, Cause::Timeout);
}

// DV-7: the servers of some domains do not answer questions for AAAA.
#[test]
fn a_silent_second_family_leaves_time_for_the_first() {
    let live = listener("127.0.0.1", 0);
    let dns = DnsServer::start().a("dest.example", "127.0.0.1").fault(
        "dest.example",
        RecordType::AAAA,
        Fault::Silent,
    );
    let settings = deliver(port_of(&live), "host_timeout = \"2s\"\n");
    let mut walk = walk(&network(&dns, &settings), &domain("dest.example")).unwrap();
    let host = walk.next_host().unwrap();
    walk.dial(&host, long()).unwrap();
}

// DV-8
#[test]
fn private_addresses_are_not_dialled_for_strangers() {
    let dns = DnsServer::start()
        .mx("private.example", 1, "mx.private.example")
        .a("mx.private.example", "10.1.2.3")
        .a("mx.private.example", "127.0.0.1")
        .aaaa("mx.private.example", "::ffff:192.168.0.1")
        .aaaa("mx.private.example", "fd00::1");
    assert_eq!(outcome(&dns, "", "private.example"), later("4.4.4"));
    let mut walk = walk(&network(&dns, ""), &domain("private.example")).unwrap();
    assert!(walk.next_host().is_none());
    assert!(walk.conclusion().text.contains("deliver.allow_private"));
    // Each address with its reason, and the host as a whole.
    assert_eq!(walk.plan().skips.len(), 5);
}

// DV-9
#[test]
fn a_relay_may_be_anywhere() {
    let live = listener("127.0.0.1", 0);
    let dns = DnsServer::start().a("smart.example", "127.0.0.1");
    let smart = RelayHost::Name(Domain::parse("smart.example").unwrap());
    let target = relay(vec![(smart, port_of(&live))]);
    let mut walk = walk(&network(&dns, ""), &target).unwrap();
    let host = walk.next_host().unwrap();
    walk.dial(&host, long()).unwrap();
    // RO-5: by address, not by MX.
    assert_eq!(dns.asked("smart.example", RecordType::MX), 0);
}

// DV-10
#[test]
fn an_mx_host_that_is_ourselves_by_name_discards_itself_and_its_equals() {
    let dns = DnsServer::start()
        .mx("dest.example", 10, "us.example")
        .mx("dest.example", 10, "equal.example")
        .mx("dest.example", 5, "better.example")
        .a("better.example", "127.0.0.1")
        .mx("loop.example", 10, "us.example")
        .mx("loop.example", 20, "worse.example");
    let mut walk = walk(&network(&dns, PRIVATE), &domain("dest.example")).unwrap();
    assert_eq!(all_hosts(&mut walk), ["better.example"]);
    assert_eq!(outcome(&dns, PRIVATE, "loop.example"), never("5.4.6"));
}

// DV-10
#[test]
fn an_mx_host_that_is_ourselves_by_address_and_port_is_found_before_its_equals_are_dialled() {
    let dns = DnsServer::start()
        .mx("dest.example", 5, "better.example")
        .mx("dest.example", 10, "equal.example")
        .mx("dest.example", 10, "alias.example")
        .mx("dest.example", 20, "worse.example")
        .a("better.example", "127.0.4.1")
        .a("equal.example", "127.0.4.2")
        .a("alias.example", "127.0.4.9")
        .a("worse.example", "127.0.4.3")
        .mx("loop.example", 10, "alias.example")
        .mx("loop.example", 10, "equal.example");
    let settings = |port: u16| {
        format!(
            "[deliver]\nallow_private = true\nsmtp_port = 2599\n[[listen]]\nname = \"in\"\naddress = \"127.0.4.9:{port}\"\n"
        )
    };
    for _ in 0..4 {
        let mut walk = walk(&network(&dns, &settings(2599)), &domain("dest.example")).unwrap();
        assert_eq!(all_hosts(&mut walk), ["better.example"]);
        let reasons: Vec<&Reason> = walk.plan().skips.iter().map(|skip| &skip.reason).collect();
        assert!(reasons.contains(&&Reason::Ourselves));
        assert_eq!(reasons.len(), 3);
    }
    assert_eq!(
        outcome(&dns, &settings(2599), "loop.example"),
        never("5.4.6")
    );
    // At another port it is somebody else.
    let mut walk = walk(&network(&dns, &settings(2598)), &domain("loop.example")).unwrap();
    assert_eq!(all_hosts(&mut walk).len(), 2);
}

// DV-10
#[test]
fn a_wildcard_listener_is_at_every_address_of_ours() {
    let dns = DnsServer::start()
        .mx("loop.example", 10, "alias.example")
        .a("alias.example", "127.0.0.1");
    for wildcard in ["0.0.0.0:2596", "[::]:2596"] {
        let settings = format!(
            "[deliver]\nallow_private = true\nsmtp_port = 2596\n[[listen]]\nname = \"in\"\n\
             address = \"{wildcard}\"\n"
        );
        assert_eq!(outcome(&dns, &settings, "loop.example"), never("5.4.6"));
    }
}

// DV-10
#[test]
fn a_relay_that_is_our_own_listener_is_broken_and_nobodys_bounce() {
    let dns = DnsServer::start().a("smart.example", "127.0.4.9");
    let settings = "[[listen]]\nname = \"in\"\naddress = \"127.0.4.9:2597\"\n";
    let network = network(&dns, settings);
    for host in [
        RelayHost::Ip("127.0.4.9".parse().unwrap()),
        RelayHost::Name(Domain::parse("smart.example").unwrap()),
    ] {
        let mut walk = walk(&network, &relay(vec![(host, 2597)])).unwrap();
        assert!(walk.next_host().is_none());
        let failure = walk.conclusion();
        let both = (failure.retry, failure.scope);
        assert_eq!(both, (Retry::Later, Scope::Transport));
        assert_eq!(failure.status.to_string(), "4.3.5");
    }
}

// DV-10
#[test]
fn a_host_that_greets_with_our_name_is_a_loop() {
    let dns = DnsServer::start().a("dest.example", "127.0.0.1");
    let mut walk = walk(&network(&dns, PRIVATE), &domain("dest.example")).unwrap();
    let host = walk.next_host().unwrap();
    walk.check_greeting(&host, "mx.dest.example").unwrap();
    let failure = walk.check_greeting(&host, "US.example.").unwrap_err();
    assert_eq!(failure.retry, Retry::Never);
    assert_eq!(failure.status.to_string(), "5.4.6");
}

// DV-11
#[test]
fn an_address_literal_is_its_own_host_if_permitted_and_public() {
    let dns = DnsServer::start();
    let literal = |ip: &str| Target::Literal(ip.parse().unwrap());
    let failure = walk(&network(&dns, ""), &literal("192.88.99.1")).unwrap_err();
    assert_eq!(failure.retry, Retry::Later);
    assert!(failure.text.contains("address_literals"));
    let permitted = network(&dns, "[deliver]\naddress_literals = true\n");
    let mut public = walk(&permitted, &literal("192.88.99.1")).unwrap();
    assert_eq!(all_hosts(&mut public), ["192.88.99.1"]);
    let mut private = walk(&permitted, &literal("127.0.0.1")).unwrap();
    assert!(private.next_host().is_none());
    assert_eq!(private.conclusion().status.to_string(), "4.4.4");
    assert!(dns.queries().is_empty());
}

// DV-12
#[test]
fn the_next_attempt_begins_with_the_other_family() {
    let dns = DnsServer::start()
        .a("dest.example", "127.0.0.1")
        .aaaa("dest.example", "::1");
    let network = network(&dns, PRIVATE);
    let first = |before: &[IpAddr]| {
        let mut walk = network
            .walk("direct", &domain("dest.example"), before, long())
            .unwrap();
        let host = walk.next_host().unwrap();
        assert!(host.both_families);
        host.addresses[0]
    };
    let one = first(&[]);
    let other = first(&[one]);
    assert_ne!(one.is_ipv4(), other.is_ipv4());
    assert_eq!(first(&[one, other]), one);
}

// DV-13
#[test]
fn the_source_address_of_the_dialled_family_is_bound() {
    let live = listener("127.0.0.1", 0);
    let dns = DnsServer::start().a("dest.example", "127.0.0.1");
    let sources = "source_addresses = [\"::1\", \"127.0.5.1\", \"127.0.5.2\"]\n";
    let network = network(&dns, &deliver(port_of(&live), sources));
    for _ in 0..3 {
        let mut walk = walk(&network, &domain("dest.example")).unwrap();
        let host = walk.next_host().unwrap();
        let connection = walk.dial(&host, long()).unwrap();
        assert_eq!(connection.source, Some("127.0.5.1".parse().unwrap()));
        let (_, seen) = live.accept().unwrap();
        assert_eq!(seen.ip().to_string(), "127.0.5.1");
    }
}

// DV-14
#[test]
fn a_source_address_that_is_not_ours_is_our_own_fault() {
    let live = listener("127.0.0.1", 0);
    let dns = DnsServer::start()
        .a("dest.example", "127.0.0.1")
        .aaaa("dest.example", "::1");
    // TEST-NET-1 and the documentation prefix are nobody's.
    let sources = "source_addresses = [\"192.0.2.1\", \"2001:db8::1\"]\n";
    let network = network(&dns, &deliver(port_of(&live), sources));
    let mut walk = walk(&network, &domain("dest.example")).unwrap();
    let host = walk.next_host().unwrap();
    let failure = walk.dial(&host, long()).unwrap_err();
    assert_eq!(
        (failure.retry, failure.scope, failure.cause),
        (Retry::Later, Scope::Local, Cause::Local)
    );
    assert_eq!(failure.status.to_string(), "4.4.1");
    assert_eq!(walk.dialled().len(), 2);
}

// DV-14
#[test]
fn after_a_local_error_the_next_address_is_dialled() {
    let live = listener("127.0.0.1", 0);
    let dns = DnsServer::start()
        .a("dest.example", "127.0.0.1")
        .aaaa("dest.example", "::1");
    let sources = "source_addresses = [\"2001:db8::1\"]\nfamily = \"prefer6\"\n";
    let network = network(&dns, &deliver(port_of(&live), sources));
    let mut walk = walk(&network, &domain("dest.example")).unwrap();
    let host = walk.next_host().unwrap();
    assert!(host.addresses[0].is_ipv6());
    let connection = walk.dial(&host, long()).unwrap();
    assert!(connection.address.is_ipv4());
}
