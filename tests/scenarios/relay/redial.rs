//! Relays that hang up early (RO-10).

use std::time::Duration;

use posthaste::config::RelayTls;
use posthaste::net::deadline::Deadline;
use posthaste::store::State;

use super::{BOB, bench};
use crate::client::bench::{Bench, hosts, letter};
use crate::support::mx::{At, Do, Mx, PATIENCE, Rule, Script, on, reply};

fn hang_up(connection: usize, at: At) -> Rule {
    let goodbye = Do::ReplyAndClose("421 4.3.2 restarting".to_string());
    let action = match connection % 2 {
        0 => goodbye,
        _ => Do::Close,
    };
    on(at, action).connection(connection)
}

fn plain(mx: &[&Mx], redial: u32) -> Bench {
    bench(mx, |relay| {
        relay.tls = Some(RelayTls::None);
        relay.redial = redial;
    })
}

/// Lets time go on until the worker is through.
fn finish(bench: &mut Bench) {
    bench.close_channel();
    let deadline = Deadline::after(PATIENCE);
    let glance = || Deadline::after(Duration::from_millis(1));
    while !bench.workers().wait(glance()) {
        assert!(!deadline.is_over(), "the worker hangs");
        bench.queue.clock.advance(Duration::from_millis(100));
    }
}

// RO-10, Q-13
#[test]
fn a_relay_that_hangs_up_on_five_connections_gets_the_message_once_in_one_attempt() {
    for at in [At::Mail, At::Rcpt, At::Data] {
        let rules = (1..=5).map(|n| hang_up(n, at));
        let script = rules.fold(Script::new(), Script::rule);
        let mx = Mx::start(script);
        let mut bench = plain(&[&mx], 5);
        let began = bench.now();
        let id = bench.send(letter(BOB));
        finish(&mut bench);
        let result = bench.result(id, 1);
        result.is_delivered();
        assert_eq!((result.row.attempts, result.attempts.len()), (1, 1));
        assert_eq!((mx.connections(), mx.transactions().len()), (6, 1));
        let waited = bench.now().since(began);
        // 1 + 2 + 4 + 8 s, each 20 % less or more; the clock goes on a little at the end.
        assert!(waited >= Duration::from_secs(12), "{waited:?}");
    }
}

// RO-10
#[test]
fn so_often_and_no_more() {
    for redial in [0, 2] {
        let mx = Mx::start(Script::new().rule(on(At::Mail, Do::Close)));
        let mut bench = plain(&[&mx], redial);
        let id = bench.send(letter(BOB));
        finish(&mut bench);
        let result = bench.result(id, 1);
        assert_eq!((result.row.state, result.row.attempts), (State::Queued, 1));
        assert_eq!(mx.connections(), redial as usize + 1);
    }
}

// RO-10
#[test]
fn all_its_hosts_must_have_hung_up() {
    let closes = || Script::new().rule(on(At::Mail, Do::Close));
    let later = Script::new().rule(reply(At::Mail, "451 4.3.0 disk full"));
    let servers = hosts(vec![closes(), later]);
    let mut bench = plain(&[&servers[0], &servers[1]], 5);
    let id = bench.send(letter(BOB));
    finish(&mut bench);
    bench.result(id, 1).is(State::Queued, "4.3.0");
    assert_eq!((servers[0].connections(), servers[1].connections()), (1, 1));

    let servers = hosts(vec![closes(), closes()]);
    let mut bench = plain(&[&servers[0], &servers[1]], 1);
    bench.send(letter(BOB));
    finish(&mut bench);
    assert_eq!((servers[0].connections(), servers[1].connections()), (2, 2));
}

// RO-10, Q-14: what may be there already is not sent again
#[test]
fn after_the_dot_nothing_is_redialled() {
    let mx = Mx::start(Script::new().rule(on(At::Dot, Do::Close)));
    let mut bench = plain(&[&mx], 5);
    let id = bench.send(letter(BOB));
    finish(&mut bench);
    assert!(bench.result(id, 1).may_be_sent_twice());
    assert_eq!(mx.connections(), 1);
}
