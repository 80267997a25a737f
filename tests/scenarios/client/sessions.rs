//! Sessions that carry several transactions: the pool, RSET, QUIT, and sessions that go away (CL-7, CL-8, CL-20, CL-22
//! to CL-25, Q-11).

use posthaste::policy::failure::{Cause, Stage};
use posthaste::store::State;

use super::bench::{Bench, hosts, letter, millis};
use crate::support::mx::{At, Do, Gate, Mx, Script, on, reply};

const BOB: &[&str] = &["bob@dest.test"];

// CL-24
#[test]
fn a_session_carries_one_transaction_after_another_without_rset() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::of_one_connection(&[&mx]);
    let ids = [0; 3].map(|_| bench.send(letter(BOB)));
    bench.finish();
    let reused: Vec<bool> = ids
        .iter()
        .map(|id| bench.result(*id, 1).is_delivered().reused)
        .collect();
    assert_eq!(reused, [false, true, true]);
    assert_eq!(mx.connections(), 1);
    let commands = &mx.sessions()[0].commands;
    assert!(!commands.iter().any(|c| c == "RSET"), "{commands:?}");
    assert_eq!(
        (
            bench.workers().pools().size(),
            bench.workers().pools().idle()
        ),
        (1, 1)
    );
}

// the outcome is committed before the session takes its next transaction
#[test]
fn an_outcome_is_in_the_queue_before_the_session_goes_on() {
    let gate = Gate::new();
    let mx = Mx::start(Script::new().rule(on(At::Mail, Do::Gate(gate.clone())).transaction(2)));
    let mut bench = Bench::of_one_connection(&[&mx]);
    let first = bench.send(letter(BOB));
    let second = bench.send(letter(BOB));
    mx.next_transaction();
    mx.wait_for_commands(1, 2, "MAIL");
    assert_eq!(bench.result(first, 1).row.state, State::Delivered);
    assert_eq!(bench.result(second, 1).row.state, State::Claimed);
    gate.open();
    bench.finish();
    bench.result(second, 1).is_delivered();
}

// CL-24
#[test]
fn a_session_ends_with_quit_after_session_messages_transactions() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::with(&[&mx], |config| {
        config.deliver.session_messages = 2;
        config.limits.connections = 1;
    });
    let ids = [0; 3].map(|_| bench.send(letter(BOB)));
    bench.finish();
    for id in ids {
        bench.result(id, 1).is_delivered();
    }
    assert_eq!(mx.connections(), 2);
    assert_eq!(mx.next_close(), 1);
    assert_eq!(mx.sessions()[0].commands.last().unwrap(), "QUIT");
    assert_eq!(
        mx.transactions()
            .iter()
            .map(|t| t.connection)
            .collect::<Vec<_>>(),
        [1, 1, 2]
    );
}

// CL-24: a limit that permits nothing at all does not make a loop of dialling
#[test]
fn a_session_carries_one_transaction_whatever_its_limits() {
    let mx = Mx::start(Script::new());
    let bench = Bench::with(&[&mx], |config| {
        config.deliver.session_messages = 0;
        config.deliver.session_age = millis(0);
    });
    bench.deliver(letter(BOB)).is_delivered();
    assert_eq!(mx.connections(), 1);
}

// CL-24
#[test]
fn idle_sessions_are_closed_with_quit() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::with(&[&mx], |config| config.deliver.idle_session = millis(100));
    let id = bench.send(letter(BOB));
    assert_eq!(mx.next_close(), 1);
    assert_eq!(mx.sessions()[0].commands.last().unwrap(), "QUIT");
    bench.finish();
    bench.result(id, 1).is_delivered();
}

// CL-24: connections are opened when mail is ready, never in advance
#[test]
fn nobody_is_dialled_before_there_is_mail() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::new(&[&mx]);
    bench.finish();
    assert_eq!((mx.connections(), bench.workers().pools().size()), (0, 0));
}

// CL-24
#[test]
fn four_failed_transactions_in_a_row_close_a_session_and_a_success_resets_the_count() {
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "450 4.2.1 later").line("later@")));
    let mut bench = Bench::of_one_connection(&[&mx]);
    for to in ["later@dest.test"; 3] {
        bench.send(letter(&[to]));
    }
    bench.send(letter(BOB));
    for to in ["later@dest.test"; 5] {
        bench.send(letter(&[to]));
    }
    bench.finish();
    let count = |n: usize| {
        let commands = &mx.sessions()[n].commands;
        commands.iter().filter(|c| c.starts_with("MAIL")).count()
    };
    assert_eq!(mx.connections(), 2);
    assert_eq!((count(0), count(1)), (8, 1));
}

// CL-22
#[test]
fn rset_goes_ahead_of_the_transaction_after_a_failed_one() {
    for at in [At::Mail, At::Rcpt, At::Data, At::Dot] {
        let mx = Mx::start(Script::new().rule(reply(at, "450 4.2.1 later").transaction(1)));
        let mut bench = Bench::new(&[&mx]);
        let first = bench.send(letter(BOB));
        let second = bench.send(letter(BOB));
        bench.finish();
        bench.result(first, 1).is(State::Queued, "4.2.1");
        bench.result(second, 1).is_delivered();
        assert_eq!(mx.connections(), 1, "{at:?}");
        let commands = &mx.sessions()[0].commands;
        let rset = commands.iter().position(|c| c == "RSET").expect("no RSET");
        assert!(commands[rset + 1].starts_with("MAIL"), "{commands:?}");
    }
}

// CL-22, CL-8: the second message has done nothing wrong and gets a fresh connection
#[test]
fn a_refused_rset_closes_the_session_and_costs_the_next_message_nothing() {
    let mx = Mx::start(
        Script::new()
            .rule(reply(At::Rcpt, "450 4.2.1 later").connection(1))
            .rule(reply(At::Rset, "503 5.5.1 no")),
    );
    let mut bench = Bench::new(&[&mx]);
    bench.send(letter(BOB));
    let second = bench.send(letter(BOB));
    bench.finish();
    assert!(!bench.result(second, 1).is_delivered().reused);
    assert_eq!(mx.connections(), 2);
}

// CL-8
#[test]
fn a_reused_session_that_goes_away_is_replaced_at_once_by_one_fresh_connection() {
    for action in [
        Do::Close,
        Do::Reset,
        Do::ReplyAndClose("421 4.4.2 idle too long".into()),
    ] {
        for at in [At::Mail, At::Rcpt, At::Data] {
            let mx =
                Mx::start(Script::new().rule(on(at, action.clone()).connection(1).transaction(2)));
            let mut bench = Bench::of_one_connection(&[&mx]);
            bench.send(letter(BOB));
            let second = bench.send(letter(BOB));
            bench.finish();
            let result = bench.result(second, 1);
            assert!(!result.is_delivered().reused, "{action:?} at {at:?}");
            assert_eq!((result.row.attempts, result.attempts.len()), (1, 1));
            assert_eq!(mx.connections(), 2);
        }
    }
}

// CL-8: only once
#[test]
fn a_fresh_connection_that_goes_away_sends_the_recipients_to_the_next_host() {
    for action in [
        Do::Close,
        Do::Reset,
        Do::ReplyAndClose("421 4.3.2 busy".into()),
    ] {
        for at in [At::Ehlo, At::Mail, At::Rcpt, At::Data] {
            let two = hosts(vec![
                Script::new().rule(on(at, action.clone())),
                Script::new(),
            ]);
            let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
            assert_eq!(
                result.is_delivered().host,
                "mx2.dest.test",
                "{action:?} at {at:?}"
            );
            assert_eq!(two[0].connections(), 1);
        }
    }
}

// CL-8
#[test]
fn a_pooled_session_that_was_closed_or_spoken_to_is_not_used() {
    for close in [true, false] {
        let mx = Mx::start(Script::new());
        let mut bench = Bench::new(&[&mx]);
        let first = bench.send(letter(BOB));
        mx.next_transaction();
        bench.wait_for_idle(1);
        if close {
            mx.hang_up(1);
        } else {
            mx.push(1, b"421 4.4.2 idle too long\r\n");
        }
        let second = bench.send(letter(BOB));
        bench.finish();
        bench.result(first, 1).is_delivered();
        let result = bench.result(second, 1);
        assert!(!result.is_delivered().reused);
        assert_eq!(mx.connections(), 2);
        let commands = &mx.sessions()[0].commands;
        let mails = commands.iter().filter(|c| c.starts_with("MAIL")).count();
        assert_eq!(mails, 1, "{commands:?}");
    }
}

// CL-7
#[test]
fn words_that_wait_before_a_command_are_not_its_reply() {
    for (at, octets) in [
        (At::Greeting, "220 mx.test\r\n250 surprise\r\n"),
        (At::Ehlo, "250 mx.test\r\n250 surprise\r\n"),
        (At::Ehlo, "250 mx.test\r\n2"),
    ] {
        let mx = Mx::start(Script::new().rule(on(at, Do::Raw(octets.into()))));
        let result = Bench::new(&[&mx]).deliver(letter(BOB));
        assert_eq!(
            result.is(State::Queued, "4.5.0").cause,
            Some(Cause::Protocol)
        );
        assert!(mx.transactions().is_empty());
        assert_eq!(mx.connections(), 1, "{octets:?}");
    }
}

// CL-20
#[test]
fn the_limits_that_a_peer_announces_split_transactions_and_end_sessions() {
    let mx = Mx::start(Script::new().keywords(&["PIPELINING", "LIMITS RCPTMAX=2 MAILMAX=2"]));
    let mut bench = Bench::new(&[&mx]);
    let to = [
        "a@dest.test",
        "b@dest.test",
        "c@dest.test",
        "d@dest.test",
        "e@dest.test",
    ];
    let id = bench.send(letter(&to));
    bench.finish();
    for number in 1..=5 {
        bench.result(id, number).is_delivered();
    }
    let seen: Vec<(usize, usize)> = mx
        .transactions()
        .iter()
        .map(|t| (t.connection, t.rcpt.len()))
        .collect();
    assert_eq!(seen, [(1, 2), (1, 2), (2, 1)]);
}

// CL-23
#[test]
fn nothing_after_the_final_2yz_alters_the_outcome() {
    for action in [
        Do::Raw(b"250 2.0.0 taken\r\n554 no after all\r\n".to_vec()),
        Do::RawAndClose(b"250 2.0.0 taken\r\n".to_vec()),
    ] {
        let mx = Mx::start(Script::new().rule(on(At::Dot, action)));
        let mut bench = Bench::new(&[&mx]);
        let first = bench.send(letter(BOB));
        let second = bench.send(letter(BOB));
        bench.finish();
        bench.result(first, 1).is_delivered();
        assert!(!bench.result(second, 1).is_delivered().reused);
    }
}

// CL-23
#[test]
fn a_quit_that_is_never_answered_is_waited_for_no_longer_than_quit_timeout() {
    let mx = Mx::start(Script::new().rule(on(At::Quit, Do::Stall)));
    let mut bench = Bench::with(&[&mx], |config| {
        config.deliver.session_messages = 1;
        config.deliver.quit_timeout = millis(50);
    });
    let id = bench.send(letter(BOB));
    bench.finish();
    bench.result(id, 1).is_delivered();
}

// CL-25
#[test]
fn sessions_are_shared_only_between_equal_names_in_ehlo() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::new(&[&mx]);
    let first = bench.send(letter(BOB));
    mx.next_transaction();
    bench.wait_for_idle(1);
    bench.change(|config| {
        config.deliver.helo = Some(posthaste::smtp::address::Domain::parse("other.test").unwrap());
    });
    let second = bench.send(letter(BOB));
    bench.finish();
    bench.result(first, 1).is_delivered();
    assert!(!bench.result(second, 1).is_delivered().reused);
    assert_eq!(mx.sessions()[1].commands[0], "EHLO other.test");
}

// CL-25, DV-7: an address that the host no longer has is not used, be the session as good as it may
#[test]
fn a_session_to_an_address_that_dns_no_longer_names_is_not_used() {
    let two = hosts(vec![Script::new(), Script::new()]);
    let mut bench = Bench::with(&[&two[0]], |config| config.dns.cache_ttl = millis(0));
    let first = bench.send(letter(BOB));
    two[0].next_transaction();
    bench.wait_for_idle(1);
    bench.dns.forget("mx1.dest.test");
    bench.dns.a("mx1.dest.test", "127.0.0.2");
    let second = bench.send(letter(BOB));
    bench.finish();
    bench.result(first, 1).is_delivered();
    bench.result(second, 1).is_delivered();
    assert_eq!((two[0].connections(), two[1].connections()), (1, 1));
}

// OBS-8: the times of an attempt
#[test]
fn the_stage_of_a_broken_session_is_recorded() {
    let mx = Mx::start(Script::new().rule(on(At::Ehlo, Do::Close)));
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    let attempt = result.is(State::Queued, "4.4.2");
    assert_eq!(
        (attempt.stage, attempt.cause),
        (Stage::Ehlo, Some(Cause::Eof))
    );
    assert_eq!(attempt.host, "mx1.dest.test");
    assert_eq!(attempt.address, Some(mx.address()));
}

// CL-20
#[test]
fn a_session_keeps_to_as_many_domains_as_the_host_allows() {
    let mx = Mx::start(Script::new().keywords(&["PIPELINING", "LIMITS RCPTDOMAINMAX=1"]));
    let mut bench = Bench::relay(&[&mx], |_| {});
    bench.send(letter(&["a@one.test", "b@two.test", "c@one.test"]));
    bench.finish();
    let (first, second) = (mx.next_transaction(), mx.next_transaction());
    assert_eq!(first.recipients(), ["a@one.test", "c@one.test"]);
    assert_eq!(second.recipients(), ["b@two.test"]);
    assert_eq!((first.connection, second.connection), (1, 2));
}
