//! Content and commands on their way: deadlines, deadlocks, early answers, extensions (CL-9, CL-11 to CL-14, CL-21,
//! CL-26, CL-29).

use std::time::Duration;

use posthaste::config::Without8BitMime;
use posthaste::message::Ret;
use posthaste::policy::failure::{Cause, Stage};
use posthaste::smtp::address::ReversePath;
use posthaste::store::State;

use super::bench::{Bench, hosts, letter, millis};
use crate::support::mx::{At, Do, Mx, Script, on, reply};

const BOB: &[&str] = &["bob@dest.test"];

// CL-9, DV-18
#[test]
fn a_peer_that_falls_silent_runs_out_of_time_at_every_stage() {
    for (at, stage) in [
        (At::Greeting, Stage::Greeting),
        (At::Ehlo, Stage::Ehlo),
        (At::Mail, Stage::Mail),
        (At::Rcpt, Stage::Rcpt),
        (At::Data, Stage::Data),
    ] {
        let mx = Mx::start(Script::new().rule(on(at, Do::Stall)));
        let bench = Bench::with(&[&mx], |config| {
            config.deliver.command_timeout = millis(400);
            config.deliver.data_timeout = millis(400);
        });
        let result = bench.deliver(letter(BOB));
        let attempt = result.is(State::Queued, "4.4.2");
        assert_eq!(
            (attempt.stage, attempt.cause),
            (stage, Some(Cause::Timeout))
        );
        assert!(!result.may_be_sent_twice());
    }
}

// CL-9: the limit is one for the whole reply and not for each read
#[test]
fn a_peer_that_drips_a_reply_runs_out_of_time() {
    let mx = Mx::start(Script::new().rule(on(At::Mail, Do::Drip(b'2', Duration::from_millis(5)))));
    let bench = Bench::with(&[&mx], |config| {
        config.deliver.command_timeout = millis(400)
    });
    let result = bench.deliver(letter(BOB));
    assert_eq!(
        result.is(State::Queued, "4.4.2").cause,
        Some(Cause::Timeout)
    );
}

// CL-9: each reply has its time, but all of them together no more than total_timeout
#[test]
fn many_slow_replies_run_out_of_the_total_time() {
    let mx = Mx::start(Script::new().rule(on(
        At::Mail,
        Do::RawThenDrip(b"250-".to_vec(), b'x', Duration::from_millis(5)),
    )));
    let bench = Bench::with(&[&mx], |config| config.deliver.total_timeout = millis(800));
    let result = bench.deliver(letter(BOB));
    assert_eq!(
        result.is(State::Queued, "4.4.2").cause,
        Some(Cause::Timeout)
    );
}

fn large() -> Vec<u8> {
    b"Subject: large\r\n\r\n"
        .iter()
        .copied()
        .chain(b"0123456789.123456789.123456789.123456789.123456789.12345\r\n".repeat(100_000))
        .collect()
}

// CL-9, CL-21: a zero window
#[test]
fn a_peer_that_does_not_read_the_content_runs_out_of_time() {
    let mx = Mx::start(
        Script::new()
            .small_buffers()
            .rule(on(At::Content(1000), Do::Stall)),
    );
    let bench = Bench::with(&[&mx], |config| config.deliver.block_timeout = millis(500));
    let result = bench.deliver(letter(BOB).content(&large()));
    let attempt = result.is(State::Queued, "4.4.2");
    assert_eq!(
        (attempt.stage, attempt.cause),
        (Stage::Content, Some(Cause::Timeout))
    );
    assert!(!result.may_be_sent_twice());
}

// CL-21
#[test]
fn an_answer_before_the_end_of_the_content_counts_if_it_is_a_complete_refusal() {
    for (action, state, status) in [
        (
            Do::Reply("552 5.3.4 too large".into()),
            State::Failed,
            "5.3.4",
        ),
        (
            Do::ReplyAndClose("554 5.6.0 no".into()),
            State::Failed,
            "5.6.0",
        ),
        (Do::Reply("451 4.3.0 later".into()), State::Queued, "4.3.0"),
        (
            Do::RawAndClose(b"552 5.3.4 too lar".to_vec()),
            State::Queued,
            "4.4.2",
        ),
        (Do::Reply("250 2.0.0 thanks".into()), State::Queued, "4.5.0"),
        (Do::Close, State::Queued, "4.4.2"),
        (Do::Reset, State::Queued, "4.4.2"),
    ] {
        let mx = Mx::start(
            Script::new()
                .small_buffers()
                .rule(on(At::Content(1000), action.clone())),
        );
        let result = Bench::new(&[&mx]).deliver(letter(BOB).content(&large()));
        assert_eq!(result.is(state, status).stage, Stage::Content, "{action:?}");
        assert!(!result.may_be_sent_twice(), "{action:?}");
        assert!(mx.transactions().is_empty());
    }
}

// CL-26, SEC-4, Q-21
#[test]
fn a_large_message_arrives_as_it_was_handed_in() {
    for starttls in [false, true] {
        let mut script = Script::new();
        if starttls {
            script = script.starttls();
        }
        let mx = Mx::start(script);
        let content = [&large()[..], b".\r\n..\r\n.x\r\nend without line end"].concat();
        Bench::new(&[&mx])
            .deliver(letter(BOB).content(&content))
            .is_delivered();
        let seen = mx.next_transaction();
        assert_eq!(seen.tls, starttls);
        let expected = [b"Received: from x\r\n", &content[..], b"\r\n"].concat();
        assert!(seen.content == expected, "the content was altered");
    }
}

// CL-26
#[test]
fn content_of_dots_and_stray_line_ends_is_one_message() {
    let mx = Mx::start(Script::new());
    let content = b"S: x\r\n\r\n.\r\n.\n.\r.\r\n\r\n.\r\nRSET\r\n";
    let mut bench = Bench::new(&[&mx]);
    let id = bench.send(letter(BOB).content(content).warm());
    bench.finish();
    bench.result(id, 1).is_delivered();
    assert_eq!(mx.transactions().len(), 1);
    assert_eq!(
        mx.next_transaction().content,
        b"Received: from x\r\nS: x\r\n\r\n.\r\n.\r\n.\r\n.\r\n\r\n.\r\nRSET\r\n"
    );
}

// CL-14
#[test]
fn a_thousand_recipients_and_a_peer_with_small_buffers_do_not_lock_up() {
    for starttls in [false, true] {
        let mut script = Script::new().small_buffers();
        if starttls {
            script = script.starttls();
        }
        let mx = Mx::start(script);
        let to: Vec<String> = (0..1000)
            .map(|n| format!("recipient-with-a-rather-long-local-part-{n}@dest.test"))
            .collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let mut bench = Bench::new(&[&mx]);
        let id = bench.send(letter(&to));
        bench.finish();
        bench.result(id, 1000).is_delivered();
        assert_eq!(mx.next_transaction().rcpt.len(), 1000);
    }
}

// CL-11
#[test]
fn a_host_whose_size_limit_is_too_small_is_skipped_without_mail() {
    let small = || Script::new().keywords(&["PIPELINING", "SIZE 10"]);
    let two = hosts(vec![small(), Script::new()]);
    let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
    assert_eq!(result.is_delivered().host, "mx2.dest.test");
    let commands = &two[0].sessions()[0].commands;
    assert!(
        !commands.iter().any(|c| c.starts_with("MAIL")),
        "{commands:?}"
    );

    let two = hosts(vec![small(), small()]);
    let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
    result.is(State::Failed, "5.3.4");

    let busy = Script::new().rule(reply(At::Mail, "451 4.3.2 busy"));
    let two = hosts(vec![small(), busy]);
    let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
    result.is(State::Queued, "4.3.2");

    for keyword in ["SIZE", "SIZE 0", "SIZE lots"] {
        let mx = Mx::start(Script::new().keywords(&[keyword]));
        Bench::new(&[&mx]).deliver(letter(BOB)).is_delivered();
        assert!(mx.next_transaction().mail.contains(" SIZE="));
    }
}

// CL-12
#[test]
fn eight_bit_content_goes_as_it_is_or_fails_as_configured() {
    let eight_bit = || {
        letter(BOB)
            .content(b"S: x\r\n\r\n\xe4\r\n")
            .head(|head| head.eight_bit = true)
    };
    let mx = Mx::start(Script::new());
    Bench::new(&[&mx]).deliver(eight_bit()).is_delivered();
    assert!(mx.next_transaction().mail.contains(" BODY=8BITMIME"));

    let seven = || Script::new().without("8BITMIME");
    let mx = Mx::start(seven());
    Bench::new(&[&mx]).deliver(eight_bit()).is_delivered();
    assert!(!mx.next_transaction().mail.contains("BODY"));

    let fail = |config: &mut posthaste::config::Config| {
        config.deliver.without_8bitmime = Without8BitMime::Fail;
    };
    let two = hosts(vec![seven(), Script::new()]);
    let result = Bench::with(&[&two[0], &two[1]], fail).deliver(eight_bit());
    assert_eq!(result.is_delivered().host, "mx2.dest.test");
    let two = hosts(vec![seven(), seven()]);
    let result = Bench::with(&[&two[0], &two[1]], fail).deliver(eight_bit());
    result.is(State::Failed, "5.6.3");
}

// CL-13
#[test]
fn smtputf8_is_used_where_it_is_needed_and_a_host_without_it_is_skipped() {
    let mx = Mx::start(Script::new());
    let mut bench = Bench::new(&[&mx]);
    let plain = bench.send(letter(BOB));
    let header = bench.send(letter(BOB).head(|head| head.utf8_headers = true));
    let path = bench.send(letter(&["jörg@dest.test"]));
    bench.finish();
    for id in [plain, header, path] {
        bench.result(id, 1).is_delivered();
    }
    let utf8: Vec<bool> = mx
        .transactions()
        .iter()
        .map(|t| t.mail.contains(" SMTPUTF8"))
        .collect();
    assert_eq!(utf8, [false, true, true]);

    let old = || Script::new().without("SMTPUTF8");
    let two = hosts(vec![old(), Script::new()]);
    let mut bench = Bench::new(&[&two[0], &two[1]]);
    let id = bench.send(letter(&["jörg@dest.test", "bob@dest.test"]));
    bench.finish();
    assert_eq!(bench.result(id, 1).is_delivered().host, "mx2.dest.test");
    assert_eq!(bench.result(id, 2).is_delivered().host, "mx1.dest.test");

    let mx = Mx::start(old());
    Bench::new(&[&mx])
        .deliver(letter(&["jörg@dest.test"]))
        .is(State::Failed, "5.6.7");
    // An internationalised domain needs nothing: it goes as A-labels.
    let mx = Mx::start(old());
    let bench = Bench::new(&[&mx]);
    bench.dns.mx("xn--bcher-kva.test", 10, "mx1.dest.test");
    bench.deliver(letter(&["bob@bücher.test"])).is_delivered();
    assert_eq!(
        mx.next_transaction().rcpt,
        ["RCPT TO:<bob@xn--bcher-kva.test>"]
    );
    // The sender's local part counts as much.
    let mx = Mx::start(old());
    let from = letter(BOB).head(|head| {
        head.reverse_path = ReversePath::parse("jörg@here.test", true).unwrap();
    });
    Bench::new(&[&mx]).deliver(from).is(State::Failed, "5.6.7");
}

// CL-2: a host that knows no EHLO knows no SMTPUTF8, and HELO is not tried
#[test]
fn helo_is_not_tried_where_smtputf8_is_needed() {
    let mx = Mx::start(Script::new().rule(reply(At::Ehlo, "502 5.5.1 what?")));
    let result = Bench::new(&[&mx]).deliver(letter(&["jörg@dest.test"]));
    assert_eq!(result.row.state, State::Queued);
    assert!(
        !mx.sessions()[0]
            .commands
            .iter()
            .any(|c| c.starts_with("HELO"))
    );
}

// CL-29, CL-30
#[test]
fn the_parameters_of_dsn_are_passed_on_where_dsn_is_announced() {
    let asked = || {
        letter(BOB)
            .head(|head| {
                head.reverse_path = ReversePath::Null;
                head.ret = Some(Ret::Full);
                head.envid = Some("a+b".into());
            })
            .rows(|rows| {
                rows[0].recipient.orcpt = Some("rfc822;bob=x@dest.test".into());
                rows[0].recipient.notify.given = true;
            })
    };
    let mx = Mx::start(Script::new());
    Bench::new(&[&mx]).deliver(asked()).is_delivered();
    let seen = mx.next_transaction();
    assert!(seen.mail.starts_with("MAIL FROM:<> "), "{}", seen.mail);
    assert!(
        seen.mail.ends_with(" RET=FULL ENVID=a+2Bb"),
        "{}",
        seen.mail
    );
    assert_eq!(
        seen.rcpt,
        ["RCPT TO:<bob@dest.test> NOTIFY=FAILURE,DELAY ORCPT=rfc822;bob+3Dx@dest.test"]
    );
    let mx = Mx::start(Script::new().without("DSN"));
    Bench::new(&[&mx]).deliver(asked()).is_delivered();
    let seen = mx.next_transaction();
    assert!(!seen.mail.contains("RET") && !seen.mail.contains("ENVID"));
    assert_eq!(seen.rcpt, ["RCPT TO:<bob@dest.test>"]);
}
