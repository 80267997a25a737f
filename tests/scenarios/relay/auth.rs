//! TLS and AUTH of one host.

use openssl::ssl::SslVersion;
use posthaste::config::RelayTls;
use posthaste::message::RequireTls;
use posthaste::policy::failure::TlsLevel;
use posthaste::store::State;

use super::{BOB, bench, good, set_login, with_login};
use crate::client::bench::{Result, letter};
use crate::support::mx::{At, Do, Mx, Script, on, reply};
use crate::tls::pki;

const ALL: &[&str] = &[
    "PLAIN",
    "LOGIN",
    "CRAM-MD5",
    "SCRAM-SHA-1",
    "SCRAM-SHA-1-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-256-PLUS",
];

/// It waits, no attempt is counted, and nothing was handed over.
#[track_caller]
fn is_broken(result: &Result, mx: &Mx, words: &str) {
    let row = &result.row;
    assert_eq!((row.state, row.attempts), (State::Queued, 0), "{row:?}");
    assert!(row.blocker.contains(words), "{}", row.blocker);
    for session in mx.sessions() {
        let mail = session.commands.iter().any(|line| line.starts_with("MAIL"));
        assert!(!mail, "{session:?}");
    }
}

// RO-6, TLS-11
#[test]
fn tls_is_required_and_verified_by_name_unless_something_else_is_written() {
    let mx = Mx::start(good().starttls());
    let result = bench(&[&mx], |_| {}).deliver(letter(BOB));
    assert_eq!(result.is_delivered().tls, TlsLevel::Verified);
    assert_eq!(result.last().tls_policy, "verify:transport");
    assert_eq!(mx.sessions()[0].sni.as_deref(), Some("smart1.test"));

    let mx = Mx::start(good().implicit());
    let implicit = bench(&[&mx], |relay| relay.tls = Some(RelayTls::Implicit));
    assert_eq!(
        implicit.deliver(letter(BOB)).is_delivered().tls,
        TlsLevel::Verified
    );

    let strange = |word| Script::new().identity(pki().certificate(word, "smart1.test"));
    for (script, words) in [
        (strange("self").starttls(), "4.7.5 bad certificate"),
        (strange("stranger").starttls(), "4.7.5 bad certificate"),
        (strange("expired").starttls(), "4.7.5 bad certificate"),
        (strange("other").starttls(), "4.7.5 bad certificate"),
        (
            Script::new(),
            "4.7.4 STARTTLS is not offered; the transport requires it",
        ),
        (
            good().starttls().rule(reply(At::StartTls, "554 5.7.0 no")),
            "4.7.5 5.7.0 no",
        ),
        (
            good()
                .starttls()
                .rule(on(At::Handshake, Do::Raw(b"?????".to_vec()))),
            "4.7.5 TLS",
        ),
    ] {
        let mx = Mx::start(script);
        is_broken(&bench(&[&mx], |_| {}).deliver(letter(BOB)), &mx, words);
    }
    let mx = Mx::start(strange("other").implicit());
    let implicit = bench(&[&mx], |relay| relay.tls = Some(RelayTls::Implicit));
    is_broken(&implicit.deliver(letter(BOB)), &mx, "4.7.5 bad certificate");
}

// RO-6, SEC-12
#[test]
fn verification_goes_only_by_the_words_for_it() {
    let mx = Mx::start(Script::new().starttls());
    let any = bench(&[&mx], |relay| relay.danger_accept_invalid_certs = true);
    let result = any.deliver(letter(BOB));
    assert_eq!(result.is_delivered().tls, TlsLevel::Encrypted);
    let mx = Mx::start(Script::new().starttls());
    let none = bench(&[&mx], |relay| relay.tls = Some(RelayTls::None));
    assert_eq!(
        none.deliver(letter(BOB)).is_delivered().tls,
        TlsLevel::Plain
    );
    // Not verified, but not without TLS either.
    let mx = Mx::start(Script::new());
    let any = bench(&[&mx], |relay| relay.danger_accept_invalid_certs = true);
    is_broken(&any.deliver(letter(BOB)), &mx, "4.7.4");
}

// RO-7, RFC 5929, RFC 9266
#[test]
fn every_mechanism_comes_in_and_the_best_is_taken() {
    let mut offered = ALL.to_vec();
    let order = [
        "SCRAM-SHA-256-PLUS",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1-PLUS",
        "SCRAM-SHA-1",
        "CRAM-MD5",
        "PLAIN",
        "LOGIN",
    ];
    for expected in order {
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let script = good().starttls().highest(version);
            let mx = Mx::start(script.auth("we,=", "sesame", &offered));
            let bench = bench(&[&mx], |relay| drop(with_login(relay, "we,=")));
            let result = bench.deliver(letter(BOB));
            assert_eq!(
                result.row.state,
                State::Delivered,
                "{expected}: {:?}",
                result.row
            );
            assert_eq!(mx.sessions()[0].auth.as_deref(), Some(expected));
        }
        offered.retain(|name| *name != expected);
    }
}

// RO-7, SEC-8
#[test]
fn the_password_is_given_away_only_inside_verified_tls() {
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5"] {
        let script = || Script::new().auth("us", "sesame", &[mechanism]);
        let mx = Mx::start(script());
        let clear = bench(&[&mx], |relay| {
            relay.tls = Some(RelayTls::None);
            with_login(relay, "us");
        });
        is_broken(&clear.deliver(letter(BOB)), &mx, "only inside verified TLS");
        let mx = Mx::start(script().starttls());
        let unverified = bench(&[&mx], |relay| {
            relay.danger_accept_invalid_certs = true;
            with_login(relay, "us");
        });
        is_broken(
            &unverified.deliver(letter(BOB)),
            &mx,
            "only inside verified TLS",
        );
        let mx = Mx::start(script());
        let danger = bench(&[&mx], |relay| {
            relay.tls = Some(RelayTls::None);
            let mut login = with_login(relay, "us");
            login.danger_without_tls = true;
            set_login(relay, login);
        });
        danger.deliver(letter(BOB)).is_delivered();
    }
    let mx = Mx::start(Script::new().auth("us", "sesame", &["PLAIN", "SCRAM-SHA-1"]));
    let clear = bench(&[&mx], |relay| {
        relay.tls = Some(RelayTls::None);
        with_login(relay, "us");
    });
    clear.deliver(letter(BOB)).is_delivered();
    assert_eq!(mx.sessions()[0].auth.as_deref(), Some("SCRAM-SHA-1"));
}

// RO-8
#[test]
fn without_auth_there_is_no_mail_and_nothing_bounces_whatever_the_relay_says() {
    let open = |mechanisms: &[&str]| good().starttls().auth("us", "sesame", mechanisms);
    let plain = || open(&["PLAIN"]);
    let scram = || open(&["SCRAM-SHA-256"]);
    let said = |at, text: &str| on(at, Do::Reply(text.to_string()));
    for (script, words) in [
        (
            plain().rule(said(At::Auth, "535 5.7.8 who?")),
            "4.7.8 5.7.8 who?",
        ),
        (
            plain().rule(said(At::Auth, "454 4.7.0 later")),
            "4.7.0 4.7.0 later",
        ),
        (
            plain().rule(said(At::Auth, "534 5.7.9 too weak")),
            "4.7.9 5.7.9 too weak",
        ),
        (plain().rule(said(At::Auth, "500 what?")), "4.7.8 what?"),
        (
            plain().rule(said(At::Auth, "334 AAAA")),
            "a challenge too many",
        ),
        (scram().rule(said(At::Auth, "334 ???")), "not base64"),
        (
            scram().rule(said(At::Auth, "334 AAAA")),
            "the challenge has no nonce",
        ),
        // Whoever does not know the password says yes.
        (
            scram().rule(said(At::Auth, "235 2.7.0 sure")),
            "accepted without proving",
        ),
        (
            open(&["LOGIN"]).rule(said(At::Auth, "235 2.7.0 sure")),
            "accepted before",
        ),
        (open(&["GSSAPI"]), "no common mechanism; offered are GSSAPI"),
        (good().starttls(), "AUTH is not offered"),
        (
            open(&["CRAM-MD5"]).rule(said(At::Auth, "334 ")),
            "the challenge is empty",
        ),
    ] {
        let mx = Mx::start(script);
        let bench = bench(&[&mx], |relay| drop(with_login(relay, "us")));
        is_broken(&bench.deliver(letter(BOB)), &mx, words);
    }
    let mx = Mx::start(good().starttls().auth("us", "other", ALL));
    let bench = bench(&[&mx], |relay| drop(with_login(relay, "us")));
    is_broken(&bench.deliver(letter(BOB)), &mx, "4.7.8 5.7.8 wrong");
}

// RO-8, PRC-8
#[test]
fn a_relay_that_asks_without_end_is_left() {
    let endless = |at| on(at, Do::Reply("334 VXNlcm5hbWU6".to_string()));
    let mx = Mx::start(
        good()
            .starttls()
            .auth("us", "sesame", &["LOGIN"])
            .rule(endless(At::Auth)),
    );
    let bench = bench(&[&mx], |relay| drop(with_login(relay, "us")));
    // The scripted MX takes the user for a command; what it answers is one more question or a refusal.
    let result = bench.deliver(letter(BOB));
    assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
    assert!(mx.transactions().is_empty());
}

// RO-7: a line that would be too long is sent when it is asked for
#[test]
fn a_long_user_is_sent_in_answer_to_an_empty_challenge() {
    let user = "u".repeat(480);
    let mx = Mx::start(good().starttls().auth(&user, "sesame", &["PLAIN"]));
    let bench = bench(&[&mx], |relay| drop(with_login(relay, &user)));
    bench.deliver(letter(BOB)).is_delivered();
    assert!(
        mx.sessions()[0]
            .commands
            .contains(&"AUTH PLAIN".to_string())
    );
}

// CL-25, SEC-8
#[test]
fn sessions_of_different_users_are_never_shared() {
    let mx = Mx::start(good().starttls().auth("us", "sesame", ALL));
    let mut bench = bench(&[&mx], |relay| drop(with_login(relay, "us")));
    for _ in 0..2 {
        bench.send(letter(BOB));
        mx.next_transaction();
        bench.wait_for_idle(1);
    }
    assert_eq!(mx.connections(), 1);
    bench.change(|config| {
        let posthaste::config::TransportKind::Relay(relay) = &config.transport[0].kind else {
            panic!("a relay");
        };
        let mut relay = posthaste::config::Relay::clone(relay);
        with_login(&mut relay, "them");
        config.transport[0].kind = posthaste::config::TransportKind::Relay(relay.into());
    });
    let id = bench.send(letter(BOB));
    bench.finish();
    assert_eq!(bench.result(id, 1).row.attempts, 0, "they are refused");
    assert_eq!(mx.connections(), 2);
}

// RO-12, TLS-12
#[test]
fn requiretls_goes_through_a_relay_that_is_verified_and_takes_it_and_fails_at_once_elsewhere() {
    let required = || letter(BOB).head(|head| head.require_tls = RequireTls::Yes);
    let mx = Mx::start(good().starttls().inside("REQUIRETLS"));
    bench(&[&mx], |_| {}).deliver(required()).is_delivered();
    assert!(mx.transactions()[0].mail.contains(" REQUIRETLS"));
    let mx = Mx::start(good().starttls());
    let result = bench(&[&mx], |_| {}).deliver(required());
    result.is(State::Failed, "5.7.30");
    for tls in [Some(RelayTls::None), None] {
        let mx = Mx::start(good().starttls().inside("REQUIRETLS"));
        let weak = bench(&[&mx], |relay| {
            relay.tls = tls;
            relay.danger_accept_invalid_certs = tls.is_none();
        });
        weak.deliver(required()).is(State::Failed, "5.7.30");
        assert_eq!(mx.connections(), 0);
    }
}
