//! From host to host and from TLS to clear: DV-10, DV-15 to DV-19, TLS-2, TLS-4, TLS-8, TLS-9, RO-5, RO-9.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use posthaste::dispatch::Wake;
use posthaste::policy::failure::{Cause, Stage, TlsLevel};
use posthaste::smtp::address::Domain;
use posthaste::store::State;

use super::bench::{Bench, hosts, letter, millis};
use crate::support::mx::{At, Do, Gate, Mx, Script, on, reply};

const BOB: &[&str] = &["bob@dest.test"];

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

// DV-15, DV-18
#[test]
fn a_host_that_refuses_connections_gives_way_to_the_next_one_and_alone_it_is_temporary() {
    let two = hosts(vec![Script::new(), Script::new()]);
    let bench = Bench::new(&[&two[0], &two[1]]);
    bench.dns.forget("mx1.dest.test");
    bench.dns.a("mx1.dest.test", "127.0.0.9");
    let result = bench.deliver(letter(BOB));
    let attempt = result.is_delivered();
    assert_eq!(attempt.host, "mx2.dest.test");
    assert_eq!(attempt.dialled, [ip(9), ip(2)]);

    let mx = Mx::start(Script::new());
    let bench = Bench::new(&[&mx]);
    bench.dns.forget("mx1.dest.test");
    bench.dns.a("mx1.dest.test", "127.0.0.9");
    let result = bench.deliver(letter(BOB));
    let attempt = result.is(State::Queued, "4.4.1");
    assert_eq!(
        (attempt.stage, attempt.cause),
        (Stage::Connect, Some(Cause::Refused))
    );
    assert_eq!(result.row.attempts, 1);
}

// DV-15
#[test]
fn an_address_that_closes_without_a_byte_gives_way_to_the_next_address_of_the_host() {
    for action in [Do::Close, Do::Reset] {
        let two = hosts(vec![
            Script::new().rule(on(At::Greeting, action)),
            Script::new(),
        ]);
        let bench = Bench::with(&[&two[0]], |config| config.deliver.max_mx = 1);
        bench.dns.a("mx1.dest.test", "127.0.0.2");
        // The address used last goes first (DV-12).
        let result = bench.deliver(letter(BOB).rows(|rows| rows[0].dialled = vec![ip(1)]));
        let attempt = result.is_delivered();
        assert_eq!(attempt.address.unwrap().ip(), ip(2));
        assert_eq!(attempt.dialled, [ip(1), ip(2)]);
        assert_eq!(two[0].connections(), 1);
    }
}

// DV-16: a refusal is the host's word, not that of one of its addresses
#[test]
fn a_refusal_does_not_lead_to_another_address_of_the_same_host() {
    for at in [At::Greeting, At::Mail, At::Rcpt] {
        let two = hosts(vec![
            Script::new().rule(reply(at, "451 4.3.2 no")),
            Script::new(),
        ]);
        let bench = Bench::new(&[&two[0]]);
        bench.dns.a("mx1.dest.test", "127.0.0.2");
        let result = bench.deliver(letter(BOB).rows(|rows| rows[0].dialled = vec![ip(1)]));
        assert_eq!(result.row.state, State::Queued);
        assert_eq!(two[1].connections(), 0, "{at:?}");
    }
}

// DV-16: the last host's words are recorded
#[test]
fn when_all_hosts_are_used_up_the_last_ones_words_are_recorded() {
    let no = |text: &str| Script::new().rule(on(At::Greeting, Do::ReplyAndClose(text.into())));
    let two = hosts(vec![no("450 first"), no("451 second")]);
    let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
    assert_eq!(result.is(State::Queued, "4.0.0").text, "second");
}

// DV-17
#[test]
fn a_refusal_by_policy_is_final_at_once_for_a_host_of_one_family() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.7.1 listed")));
    Bench::new(&[&mx])
        .deliver(letter(BOB))
        .is(State::Failed, "5.7.1");
}

// DV-17
#[test]
fn a_refusal_by_policy_is_temporary_once_for_a_host_of_both_families() {
    let refuse = || Script::new().rule(reply(At::Rcpt, "550 5.7.1 listed"));
    let four = Mx::start(refuse());
    let six = Mx::start_at(
        ("::1".parse::<IpAddr>().unwrap(), four.port()).into(),
        refuse(),
    );
    let mut bench = Bench::new(&[&four]);
    bench.dns.aaaa("mx1.dest.test", "::1");
    let id = bench.send(letter(BOB));
    let Ok(Wake::Due(_, due)) = bench.wakes.recv_timeout(crate::support::mx::PATIENCE) else {
        panic!("the recipient is not due again");
    };
    assert_eq!(due, bench.now().plus(Duration::from_secs(450)));
    bench.result(id, 1).is(State::Queued, "5.7.1");
    bench.queue.clock.set(due);
    bench.claim(id, None, |_| {});
    bench.finish();
    let result = bench.result(id, 1);
    assert_eq!(result.row.state, State::Failed);
    let families: Vec<bool> = result
        .attempts
        .iter()
        .map(|attempt| attempt.address.unwrap().is_ipv4())
        .collect();
    assert_ne!(families[0], families[1], "the other family was not tried");
    assert_eq!((four.connections(), six.connections()), (1, 1));
}

// DV-10
#[test]
fn a_host_that_greets_with_our_name_is_a_loop_and_a_relay_that_does_is_broken() {
    let mx = Mx::start(Script::new().name("HERE.test"));
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    result.is(State::Failed, "5.4.6");
    assert!(mx.transactions().is_empty());

    let mx = Mx::start(Script::new().name("here.test"));
    let result = Bench::relay(&[&mx], |_| {}).deliver(letter(BOB));
    assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
    let blocker = result.row.blocker;
    assert!(blocker.starts_with("4.3.5 127.0.0.1 greets"), "{blocker}");
}

// DV-3, DV-4: what the plan says is the outcome when nobody was dialled
#[test]
fn what_dns_says_for_good_is_final_and_no_host_is_dialled() {
    let bench = Bench::new(&[]);
    bench.dns.mx("dest.test", 0, ".");
    bench.deliver(letter(BOB)).is(State::Failed, "5.1.10");
    let bench = Bench::new(&[]);
    bench.deliver(letter(BOB)).is(State::Failed, "5.1.2");
}

// DV-19, RT-7: nobody was dialled, so it was no attempt
#[test]
fn a_transport_that_does_not_exist_costs_no_attempt() {
    let mut bench = Bench::new(&[]);
    bench.transport = "nowhere".to_string();
    let result = bench.deliver(letter(BOB));
    assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
}

// DV-19
#[test]
fn a_source_address_that_cannot_be_bound_is_our_own_fault() {
    let mx = Mx::start(Script::new());
    let bench = Bench::with(&[&mx], |config| {
        config.deliver.source_addresses = vec!["192.0.2.1".parse().unwrap()];
    });
    let result = bench.deliver(letter(BOB));
    assert_eq!(result.row.state, State::Queued);
    assert_eq!(mx.connections(), 0);
}

// TLS-2, TLS-9
#[test]
fn starttls_is_used_when_offered_whatever_the_certificate() {
    let mx = Mx::start(Script::new().starttls());
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    assert_eq!(result.is_delivered().tls, TlsLevel::Encrypted);
    assert!(mx.next_transaction().tls);
    let commands = &mx.sessions()[0].commands;
    assert_eq!(
        commands[..3],
        ["EHLO here.test", "STARTTLS", "EHLO here.test"]
    );
}

// TLS-4
#[test]
fn a_starttls_that_fails_is_followed_by_one_plain_redial_of_the_same_host() {
    for rule in [
        reply(At::StartTls, "454 4.7.0 not now"),
        reply(At::StartTls, "502 5.5.1 what?"),
        on(At::StartTls, Do::Close),
        on(At::StartTls, Do::Raw(b"250 what?\r\n".to_vec())),
        on(At::Handshake, Do::Close),
        on(
            At::Handshake,
            Do::RawAndClose(b"no TLS here, sorry\r\n".to_vec()),
        ),
    ] {
        let two = hosts(vec![
            Script::new().starttls().rule(rule.clone()),
            Script::new(),
        ]);
        let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
        let attempt = result.is_delivered();
        assert_eq!(
            (attempt.host.as_str(), attempt.tls),
            ("mx1.dest.test", TlsLevel::Plain)
        );
        assert_eq!(result.row.attempts, 1);
        assert_eq!(
            (two[0].connections(), two[1].connections()),
            (2, 0),
            "{rule:?}"
        );
        let commands = &two[0].sessions()[1].commands;
        assert!(!commands.iter().any(|c| c == "STARTTLS"), "{commands:?}");
    }
}

// TLS-4: one, and not more
#[test]
fn a_plain_redial_that_fails_is_the_hosts_failure() {
    let script = Script::new()
        .starttls()
        .rule(reply(At::StartTls, "454 4.7.0 not now"))
        .rule(on(At::Greeting, Do::ReplyAndClose("421 4.3.2 busy".into())).connection(2));
    let two = hosts(vec![script, Script::new()]);
    let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
    assert_eq!(result.is_delivered().host, "mx2.dest.test");
    assert_eq!(two[0].connections(), 2);
}

// TLS-8
#[test]
fn what_is_put_in_behind_the_220_of_starttls_ends_the_session_without_a_redial() {
    let mx = Mx::start(Script::new().starttls().rule(on(
        At::StartTls,
        Do::Raw(b"220 go ahead\r\n250-mx.test\r\n250 DSN\r\n".to_vec()),
    )));
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    let attempt = result.is(State::Queued, "4.7.5");
    assert_eq!(
        (attempt.stage, attempt.cause),
        (Stage::StartTls, Some(Cause::Tls))
    );
    assert_eq!(mx.connections(), 1);
    assert!(mx.transactions().is_empty());
}

// TLS-8: also when it comes a moment later, as a packet of its own
#[test]
fn what_waits_unread_behind_the_220_of_starttls_is_an_attack_too() {
    // As much as is read at once, so that the rest is still in the socket when the handshake begins.
    let mut go_ahead = b"220 go ahead ".to_vec();
    go_ahead.resize(8190, b'x');
    go_ahead.extend_from_slice(b"\r\n250-mx.test\r\n250 DSN\r\n");
    let mx = Mx::start(
        Script::new()
            .starttls()
            .rule(on(At::StartTls, Do::Raw(go_ahead))),
    );
    let attempt = Bench::new(&[&mx]).deliver(letter(BOB));
    let attempt = attempt.is(State::Queued, "4.7.5");
    assert_eq!(attempt.stage, Stage::StartTls);
    assert_eq!(mx.connections(), 1);
    assert!(mx.transactions().is_empty());
}

// RO-5
#[test]
fn a_relays_hosts_are_tried_in_order_without_mx() {
    let two = hosts(vec![
        Script::new().rule(on(At::Greeting, Do::ReplyAndClose("554 no".into()))),
        Script::new(),
    ]);
    let mut bench = Bench::relay(&[&two[0], &two[1]], |_| {});
    let id = bench.send(letter(&["bob@dest.test", "ann@other.test"]));
    bench.finish();
    for number in [1, 2] {
        let result = bench.result(id, number);
        let attempt = result.is_delivered();
        assert_eq!(
            (attempt.host.as_str(), attempt.transport.as_str()),
            ("127.0.0.2", "smart")
        );
    }
    assert_eq!(two[1].next_transaction().rcpt.len(), 2);
    assert!(bench.dns.queries().is_empty());
}

// RO-5, RO-9
#[test]
fn a_relays_5yz_is_temporary_before_mail_and_permanent_after() {
    for (at, text) in [
        (At::Greeting, "521 no mail"),
        (At::Greeting, "554 no"),
        (At::Ehlo, "550 no"),
    ] {
        let mx = Mx::start(Script::new().rule(on(at, Do::ReplyAndClose(text.into()))));
        let result = Bench::relay(&[&mx], |_| {}).deliver(letter(BOB));
        assert_eq!(result.row.state, State::Queued, "{text}");
    }
    for at in [At::Mail, At::Rcpt, At::Data, At::Dot] {
        let two = hosts(vec![
            Script::new().rule(reply(at, "550 5.7.1 no")),
            Script::new(),
        ]);
        let result = Bench::relay(&[&two[0], &two[1]], |_| {}).deliver(letter(BOB));
        result.is(State::Failed, "5.7.1");
        assert_eq!(two[1].connections(), 0);
    }
}

// DV-6
#[test]
fn the_attempt_ends_when_its_time_is_over() {
    let stall = || Script::new().rule(on(At::Greeting, Do::Stall));
    let two = hosts(vec![stall(), Script::new()]);
    let bench = Bench::with(&[&two[0], &two[1]], |config| {
        config.deliver.attempt_timeout = millis(800);
    });
    let result = bench.deliver(letter(BOB));
    assert_eq!(
        result.is(State::Queued, "4.4.2").cause,
        Some(Cause::Timeout)
    );
    assert_eq!(two[1].connections(), 0);
}

// DV-6
#[test]
fn the_wait_for_a_dots_reply_is_not_of_the_attempts_time() {
    let gate = Gate::new();
    let busy = Script::new()
        .rule(reply(At::Rcpt, "450 4.2.1 not her").line("ann@"))
        .rule(on(At::Dot, Do::Gate(gate.clone())));
    let two = hosts(vec![busy, Script::new()]);
    let limit = millis(1500);
    let mut bench = Bench::with(&[&two[0], &two[1]], |config| {
        config.deliver.attempt_timeout = limit;
    });
    let id = bench.send(letter(&["bob@dest.test", "ann@dest.test"]));
    two[0].wait_for_commands(1, 1, "DATA");
    std::thread::sleep(limit.get());
    gate.open();
    bench.finish();
    assert_eq!(bench.result(id, 1).is_delivered().host, "mx1.dest.test");
    assert_eq!(bench.result(id, 2).is_delivered().host, "mx2.dest.test");
}

// RT-3, RT-4, RO-2: judged by the settings in force when the attempt ends
#[test]
fn a_recipient_whose_lifetime_is_over_expires_with_its_last_attempt() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "450 4.2.1 later")));
    let bench = Bench::new(&[&mx]);
    let result = bench.deliver(letter(BOB).head(|head| head.lifetime = Some(Duration::ZERO)));
    assert_eq!(result.row.state, State::Expired);
    assert_eq!(result.last().status.to_string(), "4.2.1");
    let bench = Bench::new(&[&mx]);
    let result = bench.deliver(letter(BOB).head(|head| head.max_attempts = Some(1)));
    assert_eq!(result.row.state, State::Failed);
}

// CL-2, CFG-16
#[test]
fn the_name_in_ehlo_is_the_configured_one() {
    let mx = Mx::start(Script::new());
    let bench = Bench::with(&[&mx], |config| {
        config.deliver.helo = Some(Domain::parse("out.here.test").unwrap());
    });
    bench.deliver(letter(BOB)).is_delivered();
    assert_eq!(mx.sessions()[0].commands[0], "EHLO out.here.test");
}
