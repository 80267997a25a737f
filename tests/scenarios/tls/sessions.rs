//! What is no single attempt: shared sessions, memory from one attempt to the next, names and secrets on the wire.

use std::sync::Arc;

use posthaste::config::{TlsMemory, TlsWanted};
use posthaste::policy::failure::TlsLevel;
use posthaste::smtp::address::Domain;
use posthaste::store::State;

use super::table::{Seams, pki, seams};
use crate::client::bench::{Bench, letter};
use crate::support::mx::{At, Mx, Script, reply};

const BOB: &[&str] = &["bob@dest.test"];

fn good(host: &str) -> Script {
    Script::new()
        .starttls()
        .identity(pki().certificate("good", host))
}

fn bench(mx: &Mx, change: impl FnOnce(&mut posthaste::config::Config)) -> Bench {
    let nobody = Arc::new(Seams::default());
    Bench::with_tls(&[mx], seams(&nobody), |config| {
        config.tls.ca_file = Some(pki().ca_file.clone());
        change(config);
    })
}

// CL-25, SEC-8
#[test]
fn sessions_of_different_requirement_are_never_shared() {
    let mx = Mx::start(good("mx1.dest.test"));
    let mut bench = bench(&mx, |config| config.tls.memory = TlsMemory::Off);
    let one = bench.send(letter(BOB));
    bench.wait_for_idle(1);
    let two = bench.send(letter(BOB));
    mx.wait_for_transaction(2);
    bench.wait_for_idle(1);
    bench.change(|config| config.tls.level = TlsWanted::Encrypt);
    let three = bench.send(letter(BOB));
    mx.wait_for_transaction(3);
    bench.wait_for_idle(2);
    bench.change(|config| config.tls.level = TlsWanted::Verify);
    let four = bench.send(letter(BOB));
    mx.wait_for_transaction(4);
    bench.finish();
    let reused: Vec<bool> = [one, two, three, four]
        .iter()
        .map(|id| bench.result(*id, 1).is_delivered().reused)
        .collect();
    assert_eq!(reused, [false, true, false, false]);
    assert_eq!(mx.connections(), 3);
}

// CL-25: a session in clear that TLS was meant for is nobody else's
#[test]
fn a_session_that_fell_back_to_clear_text_is_not_kept() {
    let script = good("mx1.dest.test").rule(reply(At::StartTls, "454 4.7.0 not now"));
    let mx = Mx::start(script);
    let mut bench = bench(&mx, |_| {});
    for _ in 0..2 {
        bench.send(letter(BOB));
    }
    bench.finish();
    assert_eq!(mx.connections(), 4);
}

// TLS-5: raised although the mail is refused, and it holds at once
#[test]
fn what_a_domain_reached_is_remembered_even_if_the_mail_is_refused() {
    let script = good("mx1.dest.test").rule(reply(At::Mail, "550 5.7.1 go away"));
    let mx = Mx::start(script);
    let mut bench = bench(&mx, |_| {});
    let id = bench.send(letter(BOB));
    bench.finish();
    let result = bench.result(id, 1);
    assert_eq!(result.row.state, State::Failed);
    assert_eq!(result.last().tls, TlsLevel::Verified);
    let domain = Domain::parse("dest.test").unwrap();
    let row = bench.queue.store.tls_memory(&domain).unwrap().unwrap();
    assert_eq!(
        (row.encrypted, row.verified),
        (bench.now(), Some(bench.now()))
    );
    assert_eq!(row.requiretls, None);
}

// TLS-1
#[test]
fn what_a_refused_host_reached_is_in_the_record_beside_what_was_required() {
    for (certificate, level) in [("other", TlsLevel::Encrypted), ("good", TlsLevel::Verified)] {
        let script = Script::new()
            .starttls()
            .identity(pki().certificate(certificate, "mx1.dest.test"));
        let mx = Mx::start(script);
        let mut bench = bench(&mx, |_| {});
        bench.dns.authentic(true);
        let stranger = pki().certificate("stranger", "mx1.dest.test");
        let data = crate::support::ca::tlsa_data(&stranger.cert, 1, 1);
        bench.dns.tlsa("mx1.dest.test", mx.port(), [3, 1, 1], data);
        let id = bench.send(letter(BOB));
        bench.finish();
        let result = bench.result(id, 1);
        let attempt = result.last();
        assert_eq!(attempt.status.to_string(), "4.7.5");
        assert_eq!(attempt.tls_policy, "dane:dane");
        assert_eq!(attempt.tls, level);
        assert!(mx.transactions().is_empty());
    }
}

// TLS-6: REQUIRETLS that was seen is kept as a hint
#[test]
fn requiretls_that_was_announced_is_kept_as_a_hint() {
    let mx = Mx::start(good("mx1.dest.test").inside("REQUIRETLS"));
    let mut bench = bench(&mx, |_| {});
    bench.send(letter(BOB));
    bench.finish();
    let domain = Domain::parse("dest.test").unwrap();
    let row = bench.queue.store.tls_memory(&domain).unwrap().unwrap();
    assert_eq!(row.requiretls, Some(bench.now()));
}

// TLS-5
#[test]
fn with_memory_off_nothing_is_remembered() {
    let mx = Mx::start(good("mx1.dest.test"));
    let mut bench = bench(&mx, |config| config.tls.memory = TlsMemory::Off);
    bench.send(letter(BOB));
    bench.finish();
    let rows = bench.queue.store.tls_memories("", 10).unwrap();
    assert!(rows.is_empty(), "{rows:?}");
}

// TLS-5: the text says what the domain was
#[test]
fn mail_that_memory_holds_back_says_what_the_domain_was() {
    let mx = Mx::start(Script::new());
    let mut bench = bench(&mx, |_| {});
    bench.queue.store.note_tls(posthaste::store::TlsSeen {
        domain: Domain::parse("dest.test").unwrap(),
        at: bench.now(),
        verified: true,
        requiretls: false,
        forget_before: bench.now(),
    });
    let id = bench.send(letter(BOB));
    bench.finish();
    let result = bench.result(id, 1);
    let attempt = result.is(State::Queued, "4.7.4");
    assert!(
        attempt.text.contains("the domain was verified before"),
        "{}",
        attempt.text
    );
    assert!(mx.transactions().is_empty());
}

// DV-19: a file of ours that cannot be read is no reason for clear text, and no attempt
#[test]
fn authorities_that_cannot_be_read_are_our_own_fault() {
    let mx = Mx::start(Script::new());
    let bench = bench(&mx, |config| {
        config.tls.ca_file = Some("/nowhere/ca.pem".into());
    });
    let result = bench.deliver(letter(BOB));
    assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
    assert_eq!(mx.connections(), 0);
}

// RO-12
#[test]
fn requiretls_through_a_relay_without_verified_tls_fails_at_once() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::relay(&[&mx], |_| {});
    let id = bench.send(letter(BOB).head(|head| {
        head.require_tls = posthaste::message::RequireTls::Yes;
    }));
    bench.finish();
    bench.result(id, 1).is(State::Failed, "5.7.30");
    assert_eq!(mx.connections(), 0);
}

// TLS-12: RFC 8689 §4.2.1
#[test]
fn mail_that_requires_tls_says_so_to_the_next_host() {
    let mx = Mx::start(good("mx1.dest.test").inside("REQUIRETLS"));
    let bench = bench(&mx, |_| {});
    bench.dns.authentic(true);
    let identity = pki().certificate("self", "mx1.dest.test");
    let data = crate::support::ca::tlsa_data(&identity.cert, 1, 1);
    drop(mx);
    let mx = Mx::start_at(
        (
            std::net::Ipv4Addr::LOCALHOST,
            bench.live.get().deliver.smtp_port,
        )
            .into(),
        Script::new()
            .starttls()
            .identity(identity)
            .inside("REQUIRETLS"),
    );
    bench.dns.tlsa("mx1.dest.test", mx.port(), [3, 1, 1], data);
    let result = bench.deliver(letter(BOB).head(|head| {
        head.require_tls = posthaste::message::RequireTls::Yes;
    }));
    assert_eq!(result.is_delivered().tls, TlsLevel::Dane);
    let mail = &mx.transactions()[0].mail;
    assert!(mail.ends_with(" REQUIRETLS"), "{mail}");
}

// DANE-1: without MX records the answer that there are none must be authentic too
#[test]
fn a_domain_that_is_its_own_host_has_dane_too() {
    let identity = pki().certificate("self", "dest.test");
    let data = crate::support::ca::tlsa_data(&identity.cert, 1, 1);
    for (insecure, level) in [(false, TlsLevel::Dane), (true, TlsLevel::Encrypted)] {
        let script = Script::new().starttls().identity(identity.clone());
        let mx = Mx::start(script);
        let bench = bench(&mx, |_| {});
        bench.dns.authentic(true).forget("dest.test");
        bench.dns.a("dest.test", "127.0.0.1");
        bench
            .dns
            .tlsa("dest.test", mx.port(), [3, 1, 1], data.clone());
        if insecure {
            bench.dns.insecure("dest.test");
        }
        let result = bench.deliver(letter(BOB));
        let attempt = result.is_delivered();
        assert_eq!((attempt.tls, attempt.host.as_str()), (level, "dest.test"));
    }
}

// TLS-14
#[test]
fn sni_is_the_name_under_which_the_tlsa_records_stand() {
    for (base, expected) in [
        ("real.test", "real.test"),
        ("mx1.dest.test", "mx1.dest.test"),
    ] {
        let identity = pki().certificate("self", "x.test");
        let data = crate::support::ca::tlsa_data(&identity.cert, 1, 1);
        let mx = Mx::start(Script::new().starttls().identity(identity));
        let bench = bench(&mx, |_| {});
        bench.dns.authentic(true).forget("mx1.dest.test");
        bench.dns.cname("mx1.dest.test", "real.test");
        bench.dns.a("real.test", "127.0.0.1");
        bench.dns.tlsa(base, mx.port(), [3, 1, 1], data);
        let result = bench.deliver(letter(BOB));
        assert_eq!(result.is_delivered().tls, TlsLevel::Dane);
        let sni = mx.sessions()[0].sni.clone();
        assert_eq!(sni.as_deref(), Some(expected));
    }
}
