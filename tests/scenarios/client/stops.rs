//! The end of the daemon while transactions are under way, and slots that come back (PRC-2, SC-11, RT-7).

use std::time::Duration;

use posthaste::policy::failure::{Cause, Stage};
use posthaste::store::State;

use super::bench::{Bench, hosts, letter, millis};
use crate::support::mx::{At, Do, Gate, Mx, Script, on};

const BOB: &[&str] = &["bob@dest.test"];

// PRC-2
#[test]
fn at_the_end_of_the_grace_what_waits_for_its_dots_reply_stays_claimed_and_the_rest_is_settled() {
    let (dot, rcpt) = (Gate::new(), Gate::new());
    let mx = Mx::start(
        Script::new()
            .rule(on(At::Dot, Do::Gate(dot.clone())).connection(1))
            .rule(on(At::Rcpt, Do::Gate(rcpt.clone())).connection(2)),
    );
    let mut bench = Bench::new(&[&mx]);
    bench.workers().allow_one_more();
    let sent = bench.send(letter(BOB));
    mx.wait_for_transaction(1);
    let unsent = bench.send(letter(BOB));
    mx.wait_for_commands(2, 1, "RCPT");

    bench.workers().cut();
    let cut = bench.result(unsent, 1);
    let attempt = cut.is(State::Queued, "4.3.0");
    assert_eq!(
        (attempt.stage, attempt.cause),
        (Stage::Mail, Some(Cause::Local))
    );
    assert_eq!(attempt.host, "mx1.dest.test");
    assert!(!cut.may_be_sent_twice());
    assert_eq!(bench.result(sent, 1).row.state, State::Claimed);

    // Whatever comes later: the first one's outcome is recorded, and the second one's dot is not sent.
    dot.open();
    rcpt.open();
    bench.finish();
    bench.result(sent, 1).is_delivered();
    assert_eq!(bench.result(unsent, 1).attempts.len(), 1);
    assert_eq!(mx.transactions().len(), 1);
    assert_eq!(bench.workers().registry().count(), 0);
}

// PRC-2, RT-7
#[test]
fn what_a_worker_takes_after_the_end_of_the_grace_goes_back_untried() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::new(&[&mx]);
    bench.workers().cut();
    let id = bench.send(letter(BOB));
    bench.finish();
    let result = bench.result(id, 1);
    assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
    assert_eq!(mx.connections(), 0);
}

// PRC-2
#[test]
fn waiting_for_workers_ends_at_its_deadline() {
    let gate = Gate::new();
    let mx = Mx::start(Script::new().rule(on(At::Mail, Do::Gate(gate.clone()))));
    let mut bench = Bench::new(&[&mx]);
    let id = bench.send(letter(BOB));
    mx.wait_for_commands(1, 1, "MAIL");
    bench.close_channel();
    let soon = posthaste::net::deadline::Deadline::after(Duration::from_millis(20));
    assert!(!bench.workers().wait(soon));
    gate.open();
    bench.finish();
    bench.result(id, 1).is_delivered();
}

// PRC-2: idle sessions end with QUIT
#[test]
fn closing_ends_idle_sessions_with_quit() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::new(&[&mx]);
    bench.send(letter(BOB));
    bench.finish();
    bench.workers().close();
    assert_eq!(mx.next_close(), 1);
    assert_eq!(mx.sessions()[0].commands.last().unwrap(), "QUIT");
}

// SC-11, RT-7: as many sessions to a host as connections allow; who finds no room has made no attempt
#[test]
fn a_host_gets_no_more_sessions_than_connections_allow() {
    let gate = Gate::new();
    let mx = Mx::start(Script::new().rule(on(At::Mail, Do::Gate(gate.clone())).connection(1)));
    let mut bench = Bench::with(&[&mx], |config| config.limits.connections = 1);
    bench.workers().allow_one_more();
    let first = bench.send(letter(BOB));
    mx.wait_for_commands(1, 1, "MAIL");
    let second = bench.send(letter(BOB));
    let wake = bench
        .wakes
        .recv_timeout(crate::support::mx::PATIENCE)
        .unwrap();
    assert!(matches!(wake, posthaste::dispatch::Wake::Due(..)));
    let result = bench.result(second, 1);
    assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
    gate.open();
    bench.finish();
    bench.result(first, 1).is_delivered();
    assert_eq!(mx.connections(), 1);
}

// SC-11
#[test]
fn slots_come_back_on_every_way_out() {
    let bad = [
        on(At::Greeting, Do::Close),
        on(At::Ehlo, Do::Reset),
        on(At::Mail, Do::Raw(b"rubbish\r\n".to_vec())),
        on(At::Rcpt, Do::Stall),
        on(At::Dot, Do::Close),
    ];
    for rule in bad {
        let two = hosts(vec![Script::new().rule(rule.clone())]);
        let mut bench = Bench::with(&[&two[0]], |config| {
            config.deliver.command_timeout = millis(50);
        });
        let id = bench.send(letter(BOB));
        bench.finish();
        assert_eq!(bench.result(id, 1).row.state, State::Queued);
        let (pools, registry) = (bench.workers().pools(), bench.workers().registry());
        assert_eq!((pools.size(), registry.count()), (0, 0), "{rule:?}");
    }
}

//
#[test]
fn what_runs_can_be_listed_with_stage_and_host() {
    let gate = Gate::new();
    let mx = Mx::start(Script::new().rule(on(At::Dot, Do::Gate(gate.clone()))));
    let mut bench = Bench::new(&[&mx]);
    let id = bench.send(letter(BOB));
    mx.wait_for_transaction(1);
    let doing = bench.workers().registry().doing();
    assert_eq!(doing.len(), 1);
    assert_eq!((doing[0].id, &doing[0].numbers[..]), (id, &[1][..]));
    assert_eq!(
        (doing[0].stage, doing[0].host.as_str()),
        (Stage::FinalDot, "mx1.dest.test")
    );
    assert_eq!(doing[0].address, Some(mx.address()));
    gate.open();
    bench.finish();
    assert!(bench.workers().registry().doing().is_empty());
}
