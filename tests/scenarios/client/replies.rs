//! What each reply at each stage makes of a recipient (CL-1, CL-5, CL-6, CL-14 to CL-19, CL-27, CL-28, DV-16).

use posthaste::policy::failure::{Cause, Stage};
use posthaste::store::State;

use super::bench::{Bench, CONTENT, hosts, letter, millis};
use crate::support::mx::{At, Do, Mx, Script, on, reply};

const BOB: &[&str] = &["bob@dest.test"];

/// One message to one recipient at one host that answers so.
fn with(rule: crate::support::mx::Rule) -> super::bench::Result {
    let mx = Mx::start(Script::new().rule(rule));
    Bench::new(&[&mx]).deliver(letter(BOB))
}

// CL-28, OBS-8, Q-11
#[test]
fn a_delivery_is_recorded_with_the_final_reply() {
    let mx = Mx::start(Script::new().rule(reply(At::Dot, "250-2.6.0 kept\r\n250 2.6.0 as 4711")));
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    let attempt = result.is_delivered();
    assert_eq!(attempt.text, "2.6.0 kept\n2.6.0 as 4711");
    assert_eq!(attempt.code.unwrap().get(), 250);
    assert_eq!(attempt.status.to_string(), "2.6.0");
    assert_eq!(attempt.host, "mx1.dest.test");
    assert_eq!(attempt.address, Some(mx.address()));
    assert_eq!(attempt.dialled, [mx.address().ip()]);
    assert_eq!(attempt.source, Some(mx.address().ip()));
    assert_eq!(attempt.stage, Stage::FinalDot);
    assert_eq!(attempt.cause, None);
    assert_eq!(
        (attempt.worker.as_str(), attempt.reused),
        ("worker-1", false)
    );
    let seen = mx.next_transaction();
    assert_eq!(seen.content, [b"Received: from x\r\n", CONTENT].concat());
    assert_eq!(
        seen.mail,
        format!(
            "MAIL FROM:<joe@here.test> SIZE={} BODY=7BIT",
            18 + CONTENT.len()
        )
    );
    assert_eq!(seen.rcpt, ["RCPT TO:<bob@dest.test>"]);
}

// CL-14: one write for the envelope, one for the content with its dot
#[test]
fn a_small_message_takes_one_write_for_the_envelope_and_one_for_the_content() {
    let mx = Mx::start(Script::new());
    Bench::new(&[&mx])
        .deliver(letter(BOB).warm())
        .is_delivered();
    let reads = &mx.sessions()[0].reads;
    assert!(
        reads[1].starts_with("MAIL FROM:") && reads[1].ends_with("\r\nDATA\r\n"),
        "{reads:?}"
    );
}

// CL-1, DV-16: refusals before MAIL are the host's, whatever their code
#[test]
fn a_refused_greeting_or_ehlo_is_temporary() {
    for (at, text, code, status) in [
        (At::Greeting, "554 5.7.1 go away", 554, "4.0.0"),
        (At::Greeting, "450 later", 450, "4.0.0"),
        (At::Greeting, "421 busy", 421, "4.0.0"),
        (At::Ehlo, "550 no", 550, "4.0.0"),
        (At::Ehlo, "450 no", 450, "4.0.0"),
        (At::Ehlo, "521 no", 521, "4.0.0"),
    ] {
        let result = with(on(at, Do::ReplyAndClose(text.to_string())));
        let attempt = result.is(State::Queued, status);
        assert_eq!(attempt.code.unwrap().get(), code);
        assert_eq!(attempt.cause, Some(Cause::Reply));
    }
}

// CL-1, DV-18
#[test]
fn a_521_greeting_of_all_hosts_is_permanent_and_of_some_it_is_not() {
    let no_mail = || Script::new().rule(on(At::Greeting, Do::ReplyAndClose("521 no mail".into())));
    let two = hosts(vec![no_mail(), no_mail()]);
    let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
    result.is(State::Failed, "5.3.2");
    assert_eq!((two[0].connections(), two[1].connections()), (1, 1));

    let busy = Script::new().rule(on(At::Greeting, Do::ReplyAndClose("421 4.3.2 busy".into())));
    let two = hosts(vec![busy, no_mail()]);
    let result = Bench::new(&[&two[0], &two[1]]).deliver(letter(BOB));
    let attempt = result.is(State::Queued, "4.0.0");
    assert_eq!(
        (attempt.host.as_str(), attempt.text.as_str()),
        ("mx1.dest.test", "4.3.2 busy")
    );
}

// CL-2
#[test]
fn a_server_that_knows_only_helo_gets_helo_on_the_same_connection() {
    let mx = Mx::start(Script::new().rule(reply(At::Ehlo, "502 5.5.1 what?")));
    Bench::new(&[&mx]).deliver(letter(BOB)).is_delivered();
    let session = &mx.sessions()[0];
    assert_eq!(session.commands[..2], ["EHLO here.test", "HELO here.test"]);
    assert_eq!(session.commands[2], "MAIL FROM:<joe@here.test>");
    assert_eq!(mx.connections(), 1);
}

// CL-5, CL-18, CL-19, DV-16
#[test]
fn replies_to_mail_rcpt_data_and_dot_defer_or_fail_by_their_first_digit() {
    for (at, stage) in [
        (At::Mail, Stage::Mail),
        (At::Rcpt, Stage::Rcpt),
        (At::Data, Stage::Data),
        (At::Dot, Stage::FinalDot),
    ] {
        let result = with(reply(at, "450 4.2.1 later"));
        let attempt = result.is(State::Queued, "4.2.1");
        assert_eq!((attempt.stage, attempt.code.unwrap().get()), (stage, 450));
        assert_eq!(attempt.text, "4.2.1 later");
        assert!(!result.may_be_sent_twice());
        let result = with(reply(at, "571 5.7.1 never"));
        assert_eq!(result.is(State::Failed, "5.7.1").stage, stage);
        // The three digits decide.
        with(reply(at, "471 5.7.1 contradictory")).is(State::Queued, "4.7.1");
    }
}

// CL-18
#[test]
fn a_refusal_that_is_about_the_address_is_recorded_as_such() {
    let class = |at, text| with(reply(at, text)).last().cause.unwrap().word();
    assert_eq!(class(At::Rcpt, "550 5.1.1 unknown"), "address");
    assert_eq!(class(At::Rcpt, "451 4.7.1 greylisted"), "address");
    assert_eq!(class(At::Rcpt, "452 4.5.3 too many"), "reply");
    assert_eq!(class(At::Mail, "550 5.7.1 not from here"), "reply");
}

// CL-5
#[test]
fn enhanced_codes_are_read_only_when_announced() {
    let mx = Mx::start(
        Script::new()
            .without("ENHANCEDSTATUSCODES")
            .rule(reply(At::Rcpt, "550 5.1.1 unknown")),
    );
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    assert_eq!(result.is(State::Failed, "5.0.0").text, "5.1.1 unknown");
}

// CL-3, CL-6, DV-18
#[test]
fn rubbish_and_replies_out_of_place_are_protocol_errors_at_every_stage() {
    for at in [At::Greeting, At::Ehlo, At::Mail, At::Rcpt, At::Data] {
        for octets in [
            "rubbish\r\n",
            "25x ok\r\n",
            "250-a\r\n550 b\r\n",
            "150 wait\r\n",
            "320 hm\r\n",
        ] {
            let result = with(on(at, Do::Raw(octets.as_bytes().to_vec())));
            let attempt = result.is(State::Queued, "4.5.0");
            assert_eq!(attempt.cause, Some(Cause::Protocol), "{at:?} {octets}");
            assert!(!result.may_be_sent_twice());
        }
    }
    let mx = Mx::start(Script::new().rule(reply(At::Data, "250 go on")));
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    result.is(State::Queued, "4.5.0");
    assert!(mx.transactions().is_empty(), "content after a 250 to DATA");
}

// CL-3: a protocol error ends the session without QUIT (CL-22)
#[test]
fn after_a_protocol_error_nothing_more_is_said() {
    let mx = Mx::start(Script::new().rule(on(At::Rcpt, Do::Raw(b"rubbish\r\n".to_vec()))));
    Bench::new(&[&mx]).deliver(letter(BOB));
    mx.next_close();
    let commands = &mx.sessions()[0].commands;
    assert!(
        !commands.iter().any(|c| c == "QUIT" || c == "RSET"),
        "{commands:?}"
    );
}

// Q-14, CL-6
#[test]
fn a_lost_or_odd_reply_to_the_dot_is_temporary_and_may_be_sent_twice() {
    for action in [
        Do::Close,
        Do::Reset,
        Do::RawAndClose(b"250 tak".to_vec()),
        Do::RawAndClose(b"250-taken\r\n".to_vec()),
        Do::Raw(b"rubbish\r\n".to_vec()),
        Do::Raw(b"354 more\r\n".to_vec()),
        Do::Raw(b"150 wait\r\n".to_vec()),
    ] {
        let result = with(on(At::Dot, action.clone()));
        assert_eq!(result.row.state, State::Queued, "{action:?}");
        assert!(result.may_be_sent_twice(), "{action:?}");
        assert_eq!(result.last().stage, Stage::FinalDot);
        assert!(result.last().text.contains("may be sent twice"));
    }
}

//
#[test]
fn a_dot_that_is_never_answered_is_temporary_and_may_be_sent_twice() {
    let mx = Mx::start(Script::new().rule(on(At::Dot, Do::Stall)));
    let bench = Bench::with(&[&mx], |config| config.deliver.dot_timeout = millis(100));
    let result = bench.deliver(letter(BOB));
    assert_eq!(
        result.is(State::Queued, "4.4.2").cause,
        Some(Cause::Timeout)
    );
    assert!(result.may_be_sent_twice());
}

// CL-8: a 421 to the dot is a refusal like another
#[test]
fn a_421_to_the_dot_is_temporary_and_not_in_doubt() {
    let result = with(on(At::Dot, Do::ReplyAndClose("421 4.3.2 closing".into())));
    assert_eq!(result.is(State::Queued, "4.3.2").code.unwrap().get(), 421);
    assert!(!result.may_be_sent_twice());
}

// CL-15
#[test]
fn a_refusal_followed_by_a_close_is_that_refusal() {
    for at in [At::Mail, At::Rcpt, At::Dot] {
        with(on(at, Do::ReplyAndClose("550 5.7.1 no".into()))).is(State::Failed, "5.7.1");
    }
    let mx = Mx::start(
        Script::new()
            .without("PIPELINING")
            .rule(on(At::Mail, Do::ReplyAndClose("550 5.7.1 no".into()))),
    );
    Bench::new(&[&mx])
        .deliver(letter(BOB))
        .is(State::Failed, "5.7.1");
}

// CL-15
#[test]
fn a_354_that_nobody_wants_gets_a_lone_dot() {
    let mx = Mx::start(
        Script::new()
            .rule(reply(At::Rcpt, "550 5.1.1 unknown"))
            .rule(reply(At::Data, "354 go ahead"))
            .rule(reply(At::Dot, "250 taken")),
    );
    let result = Bench::new(&[&mx]).deliver(letter(BOB));
    result.is(State::Failed, "5.1.1");
    assert_eq!(mx.next_transaction().content, b"");
}

// CL-16, Q-13, OBS-8
#[test]
fn each_recipient_gets_its_own_result_and_only_the_accepted_ones_that_of_the_dot() {
    let mx = Mx::start(
        Script::new()
            .rule(reply(At::Rcpt, "550 5.1.1 unknown").line("bob@"))
            .rule(reply(At::Rcpt, "450 4.2.1 greylisted").line("cat@"))
            .rule(reply(At::Rcpt, "252 2.1.5 will try").line("dan@")),
    );
    let mut bench = Bench::new(&[&mx]);
    let to = [
        "bob@dest.test",
        "cat@dest.test",
        "dan@dest.test",
        "eve@dest.test",
    ];
    let id = bench.send(letter(&to));
    bench.finish();
    bench.result(id, 1).is(State::Failed, "5.1.1");
    bench.result(id, 2).is(State::Queued, "4.2.1");
    bench.result(id, 3).is_delivered();
    bench.result(id, 4).is_delivered();
    assert_eq!(mx.transactions().len(), 1);
    assert_eq!(mx.next_transaction().recipients(), to[2..]);
}

// CL-17
#[test]
fn recipients_over_the_peers_limit_follow_at_once_on_the_same_session() {
    for code in ["452 4.5.3 too many", "552 too many"] {
        for pipelining in [true, false] {
            let mut script = Script::new()
                .rule(reply(At::Rcpt, code).nth(3))
                .rule(reply(At::Rcpt, code).nth(4))
                .rule(reply(At::Rcpt, code).nth(5));
            if !pipelining {
                script = script.without("PIPELINING");
            }
            let mx = Mx::start(script);
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
                let result = bench.result(id, number);
                result.is_delivered();
                assert_eq!((result.row.attempts, result.attempts.len()), (1, 1));
            }
            let seen = mx.transactions();
            assert_eq!(
                seen.iter().map(|t| t.rcpt.len()).collect::<Vec<_>>(),
                [2, 2, 1]
            );
            assert_eq!(mx.connections(), 1);
        }
    }
}

// CL-17
#[test]
fn a_452_or_552_to_the_only_recipient_is_its_own() {
    with(reply(At::Rcpt, "452 4.2.2 full")).is(State::Queued, "4.2.2");
    with(reply(At::Rcpt, "552 full")).is(State::Queued, "4.0.0");
    with(reply(At::Rcpt, "552 5.2.2 full")).is(State::Failed, "5.2.2");
}

// CL-19
#[test]
fn a_552_to_mail_says_that_the_message_is_too_large() {
    with(reply(At::Mail, "552 no")).is(State::Failed, "5.3.4");
}

// CL-27
#[test]
fn peer_text_is_recorded_with_control_and_8_bit_bytes_escaped() {
    let octets = b"550-5.1.1 a\x1b[31m\xff\r\n550 5.1.1 b\0\r\n".to_vec();
    let result = with(on(At::Rcpt, Do::RawAndClose(octets)));
    let attempt = result.is(State::Failed, "5.1.1");
    assert_eq!(attempt.text, "5.1.1 a\\x1b[31m\\xff\n5.1.1 b\\x00");
}

// CL-4
#[test]
fn replies_octet_by_octet_are_the_same_replies() {
    let slow = |text: &str| Do::Bytewise(text.to_string());
    let mx = Mx::start(
        Script::new()
            .rule(on(At::Greeting, slow("220-mx.test\r\n220 ready")))
            .rule(on(
                At::Ehlo,
                slow("250-mx.test\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES"),
            ))
            .rule(on(At::Rcpt, slow("550-5.1.1 un\r\n550 5.1.1 known")).line("bob@"))
            .rule(on(At::Dot, slow("250-2.0.0 a\r\n250 2.0.0 b"))),
    );
    let mut bench = Bench::new(&[&mx]);
    let id = bench.send(letter(&["bob@dest.test", "cat@dest.test"]));
    bench.finish();
    assert_eq!(
        bench.result(id, 1).is(State::Failed, "5.1.1").text,
        "5.1.1 un\n5.1.1 known"
    );
    assert_eq!(bench.result(id, 2).is_delivered().text, "2.0.0 a\n2.0.0 b");
}

// CL-4
#[test]
fn a_reply_without_end_ends_the_session() {
    let mut endless = b"250-".to_vec();
    endless.resize(70_000, b'x');
    let result = with(on(At::Mail, Do::RawAndClose(endless)));
    let attempt = result.is(State::Queued, "4.5.0");
    assert!(attempt.text.contains("64 KiB"), "{}", attempt.text);
}

// DV-16
#[test]
fn a_5yz_asks_no_other_host_and_a_4yz_to_mail_or_rcpt_sends_the_refused_ones_on() {
    let first = Script::new()
        .rule(reply(At::Rcpt, "550 5.1.1 unknown").line("bob@"))
        .rule(reply(At::Rcpt, "450 4.2.1 first").line("cat@"));
    let second = Script::new().rule(reply(At::Rcpt, "451 4.3.0 second").line("eve@"));
    let two = hosts(vec![
        first.rule(reply(At::Rcpt, "450 4.2.1 first").line("eve@")),
        second,
    ]);
    let mut bench = Bench::new(&[&two[0], &two[1]]);
    let to = [
        "bob@dest.test",
        "cat@dest.test",
        "dan@dest.test",
        "eve@dest.test",
    ];
    let id = bench.send(letter(&to));
    bench.finish();
    bench.result(id, 1).is(State::Failed, "5.1.1");
    assert_eq!(bench.result(id, 2).is_delivered().host, "mx2.dest.test");
    assert_eq!(bench.result(id, 3).is_delivered().host, "mx1.dest.test");
    // The last host's words are recorded.
    assert_eq!(
        bench.result(id, 4).is(State::Queued, "4.3.0").text,
        "4.3.0 second"
    );
    assert_eq!(two[0].next_transaction().recipients(), ["dan@dest.test"]);
    assert_eq!(two[1].next_transaction().recipients(), ["cat@dest.test"]);

    for rule in [
        reply(At::Mail, "550 5.7.1 no"),
        reply(At::Data, "554 5.7.1 no"),
        reply(At::Dot, "554 5.7.1 no"),
    ] {
        let two = hosts(vec![Script::new().rule(rule), Script::new()]);
        Bench::new(&[&two[0], &two[1]])
            .deliver(letter(BOB))
            .is(State::Failed, "5.7.1");
        assert_eq!(two[1].connections(), 0);
    }
    let two = hosts(vec![
        Script::new().rule(reply(At::Mail, "451 4.7.1 no")),
        Script::new(),
    ]);
    Bench::new(&[&two[0], &two[1]])
        .deliver(letter(BOB))
        .is_delivered();
}
