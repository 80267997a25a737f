//! Several hosts, and from where they are dialled.

use std::path::Path;
use std::sync::Arc;

use posthaste::config::{Config, HostOrder, Line, RelayTls};
use posthaste::smtp::address::Domain;
use posthaste::store::State;

use super::{BOB, bench, good, with_login};
use crate::client::bench::{Bench, hosts, letter};
use crate::support::mx::{At, Do, Mx, Script, on, reply};
use crate::tls::pki;

fn plain(scripts: Vec<Script>) -> (Vec<Mx>, Bench) {
    let hosts = hosts(scripts);
    let all: Vec<&Mx> = hosts.iter().collect();
    let bench = bench(&all, |relay| relay.tls = Some(RelayTls::None));
    (hosts, bench)
}

// RO-5, RO-8
#[test]
fn what_fails_before_mail_goes_on_to_the_next_host() {
    let second = || Script::new();
    for first in [
        on(At::Greeting, Do::Close),
        reply(At::Greeting, "554 5.7.1 go away"),
        reply(At::Ehlo, "550 5.0.0 no"),
        reply(At::Mail, "451 4.3.0 later"),
        reply(At::Rcpt, "450 4.2.0 later"),
    ] {
        let (hosts, bench) = plain(vec![Script::new().rule(first.clone()), second()]);
        let result = bench.deliver(letter(BOB));
        assert_eq!(result.is_delivered().host, "smart2.test", "{first:?}");
        assert_eq!(hosts[1].transactions().len(), 1);
    }
    let one = Mx::start(good().starttls().auth("us", "changed", &["PLAIN"]));
    let identity = pki().certificate("good", "smart2.test");
    let two = Script::new().identity(identity).starttls();
    let two = Mx::start(two.auth("us", "sesame", &["PLAIN"]));
    let bench = bench(&[&one, &two], |relay| drop(with_login(relay, "us")));
    assert_eq!(
        bench.deliver(letter(BOB)).is_delivered().host,
        "smart2.test"
    );
}

// RO-5, DV-16
#[test]
fn who_is_refused_for_good_is_not_taken_to_another_host() {
    let refuses = reply(At::Rcpt, "550 5.1.1 unknown").line("bob@");
    let (hosts, mut bench) = plain(vec![Script::new().rule(refuses), Script::new()]);
    let id = bench.send(letter(&["bob@dest.test", "ann@other.test"]));
    bench.finish();
    bench.result(id, 1).is(State::Failed, "5.1.1");
    bench.result(id, 2).is_delivered();
    assert_eq!(hosts[1].connections(), 0);
}

// RO-9
#[test]
fn a_relay_that_wants_nobody_is_temporary_and_its_word_about_mail_is_not() {
    for rule in [
        reply(At::Greeting, "521 5.3.2 no mail here"),
        reply(At::Greeting, "554 5.7.1 go away"),
        reply(At::Ehlo, "550 5.7.1 go away"),
    ] {
        let (_hosts, bench) = plain(vec![Script::new().rule(rule)]);
        let result = bench.deliver(letter(BOB));
        assert_eq!((result.row.state, result.row.attempts), (State::Queued, 1));
        assert_eq!(result.last().status.class(), 4);
    }
    for at in [At::Mail, At::Rcpt, At::Data, At::Dot] {
        let (_hosts, bench) = plain(vec![Script::new().rule(reply(at, "554 5.6.0 bad"))]);
        bench.deliver(letter(BOB)).is(State::Failed, "5.6.0");
    }
}

// RO-5
#[test]
fn a_host_that_failed_is_asked_last_for_a_while() {
    let gone = Script::new().rule(on(At::Greeting, Do::Close));
    let (hosts, mut bench) = plain(vec![gone, Script::new()]);
    for _ in 0..5 {
        bench.send(letter(BOB));
        hosts[1].next_transaction();
    }
    bench.finish();
    assert_eq!(hosts[0].connections(), 1, "once was enough");
}

// RO-5
#[test]
fn random_order_shares_the_load_and_listed_order_does_not() {
    for (order, shared) in [(HostOrder::Random, true), (HostOrder::Listed, false)] {
        let hosts = hosts(vec![Script::new(), Script::new()]);
        let all: Vec<&Mx> = hosts.iter().collect();
        let mut bench = bench(&all, |relay| {
            relay.tls = Some(RelayTls::None);
            relay.order = order;
        });
        // 2^-40 that one of them is left out by chance.
        for _ in 0..40 {
            bench.send(letter(BOB));
        }
        bench.finish();
        let second = hosts[1].transactions().len();
        assert_eq!(second > 0, shared, "{order:?}: {second} of 40");
        assert!(hosts[0].transactions().len() >= 40 - second);
    }
}

// RO-17, CL-2, DV-13
#[test]
fn a_transport_has_its_own_name_and_addresses() {
    let mx = Mx::start(Script::new());
    let mut bench = bench(&[&mx], |relay| relay.tls = Some(RelayTls::None));
    bench.change(|config| {
        config.transport[0].line = Some(Arc::new(Line {
            helo: Some(Domain::parse("out.here.test").unwrap()),
            source_addresses: vec!["127.0.0.7".parse().unwrap()],
            ..Line::default()
        }));
    });
    let id = bench.send(letter(BOB));
    bench.finish();
    let result = bench.result(id, 1);
    assert_eq!(
        result.is_delivered().source,
        Some("127.0.0.7".parse().unwrap())
    );
    assert_eq!(mx.sessions()[0].commands[0], "EHLO out.here.test");
}

// CFG-19, CL-24
#[test]
fn a_transport_has_limits_of_its_own_and_the_others_keep_theirs() {
    let mx = Mx::start(Script::new());
    let mut bench = bench(&[&mx], |relay| relay.tls = Some(RelayTls::None));
    let text = "hostname = \"here.test\"\n[deliver]\nquit_timeout = \"7s\"\n[[transport]]\nname = \"own\"\n\
                kind = \"direct\"\nsession_messages = 1\nidle_session = \"1m\"\n";
    let read = Config::parse(text, Path::new("f")).unwrap();
    let own = read.transport[0].line.clone().unwrap();
    let deliver = own.deliver.as_ref().unwrap();
    assert_eq!(deliver.quit_timeout, read.deliver.quit_timeout);
    assert_eq!(
        (deliver.session_messages, read.deliver.session_messages),
        (1, 100)
    );
    bench.change(|config| {
        let mut own = Line::clone(&own);
        // Only what it says for itself.
        let deliver = own.deliver.as_mut().unwrap();
        deliver
            .source_addresses
            .clone_from(&config.deliver.source_addresses);
        config.transport[0].line = Some(Arc::new(own));
    });
    for _ in 0..3 {
        bench.send(letter(BOB));
    }
    bench.finish();
    assert_eq!(mx.connections(), 3, "one message for each session");
}

// RO-8, DNS-3
#[test]
fn a_name_that_does_not_exist_breaks_the_transport_and_a_silent_dns_does_not() {
    let mx = Mx::start(Script::new());
    let plain = || bench(&[&mx], |relay| relay.tls = Some(RelayTls::None));
    let bench = plain();
    bench.dns.forget("smart1.test");
    let result = bench.deliver(letter(BOB));
    assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
    assert!(
        result
            .row
            .blocker
            .starts_with("4.3.5 no host of transport smart")
    );
    let bench = plain();
    let servfail = crate::support::dns::Fault::Code(crate::support::dns::ResponseCode::ServFail);
    bench.dns.fault_for_all(Some(servfail));
    bench.deliver(letter(BOB)).is(State::Queued, "4.4.3");
}
