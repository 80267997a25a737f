#![expect(
    unused_must_use,
    reason = "most steps of a dialogue are there to get to the next one"
)]

mod lmtp;

use super::*;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::params::{Notify, Ret};

fn options() -> Options {
    Options {
        helo: "here.test".to_string(),
        starttls: StartTls::IfOffered,
        helo_fallback: true,
        pipelining: true,
        lmtp: false,
        credentials: None,
    }
}

/// Lets the dialogue go on with these octets of the peer until it waits for more; what it sent meanwhile, and the step.
fn hear(dialogue: &mut impl Dialogue, octets: &str) -> (String, Result<Step, Broken>) {
    dialogue.wire().push(octets.as_bytes());
    go_on(dialogue)
}

fn go_on(dialogue: &mut impl Dialogue) -> (String, Result<Step, Broken>) {
    let step = loop {
        match dialogue.advance() {
            Ok(Step::Begin(_)) => {}
            other => break other,
        }
    };
    let output = std::mem::take(&mut dialogue.wire().output);
    (String::from_utf8(output).unwrap(), step)
}

fn ready(keywords: &[&str]) -> Ready {
    let mut opening = Opening::new(options());
    let mut ehlo: String = "250-mx.test\r\n".to_string();
    for keyword in keywords {
        ehlo.push_str(&format!("250-{keyword}\r\n"));
    }
    ehlo.push_str("250 X-LAST\r\n");
    assert_eq!(
        hear(&mut opening, "220 mx.test\r\n").0,
        "EHLO here.test\r\n"
    );
    assert_eq!(hear(&mut opening, &ehlo), (String::new(), Ok(Step::Done)));
    opening.finish().unwrap()
}

fn begin(ready: Ready, recipients: &[&str]) -> Transaction {
    with_envelope(recipients, |mail, recipients| ready.begin(mail, recipients))
}

fn pipelined(recipients: &[&str]) -> Transaction {
    begin(ready(&["PIPELINING", "ENHANCEDSTATUSCODES"]), recipients)
}

/// The codes with which each recipient was answered; `+` before a delivery, `again` and `open` as they are.
fn codes(answers: &Answers, count: usize) -> Vec<String> {
    (0..count)
        .map(|n| match answers.answer(n) {
            Answer::Delivered(reply) => format!("+{}", reply.code()),
            Answer::Refused(_, reply) => reply.code().to_string(),
            Answer::Again => "again".to_string(),
            Answer::Open => "open".to_string(),
        })
        .collect()
}

// CL-1, CL-30
#[test]
fn a_session_is_opened_and_carries_a_transaction() {
    let mut transaction = begin(ready(&["SIZE 10000", "8BITMIME", "DSN"]), &["bob"]);
    assert_eq!(
        go_on(&mut transaction),
        (
            "MAIL FROM:<ann@here.test> SIZE=1234 BODY=7BIT\r\n".to_string(),
            Ok(Step::Await(Command::Mail))
        )
    );
    assert_eq!(
        hear(&mut transaction, "250 ok\r\n").0,
        "RCPT TO:<bob@dest.test>\r\n"
    );
    assert_eq!(hear(&mut transaction, "251 ok\r\n").0, "DATA\r\n");
    assert_eq!(
        hear(&mut transaction, "354 go\r\n"),
        (String::new(), Ok(Step::Content))
    );
    transaction.content_sent();
    assert_eq!(
        hear(&mut transaction, "250 2.0.0 kept as 42\r\n").1,
        Ok(Step::Done)
    );
    let (answers, ready) = transaction.end();
    assert_eq!(codes(&answers, 1), ["+250"]);
    let mut next = begin(ready.unwrap(), &["cat"]);
    assert!(
        go_on(&mut next).0.starts_with("MAIL "),
        "no RSET after success"
    );
}

/// MAIL and RCPT for these, as [`begin`] says them.
fn with_envelope<T>(
    recipients: &[&str],
    what: impl FnOnce(&Mail<'_>, &mut dyn Iterator<Item = Rcpt<'_>>) -> T,
) -> T {
    let path = ReversePath::parse("ann@here.test", false).unwrap();
    let mail = Mail {
        reverse_path: &path,
        size: 1234,
        eight_bit: false,
        utf8: false,
        ret: None,
        envid: None,
        require_tls: false,
    };
    let paths: Vec<Mailbox> = recipients
        .iter()
        .map(|path| Mailbox::parse(&format!("{path}@dest.test"), false).unwrap())
        .collect();
    let mut recipients = paths.iter().map(|path| Rcpt {
        path,
        notify: Notify::default(),
        orcpt: None,
    });
    what(&mail, &mut recipients)
}

// RFC 2920 §3.1
#[test]
fn the_commands_of_the_next_transaction_may_go_out_behind_the_content() {
    for (to_the_dot, first) in [("250 kept\r\n", "+250"), ("554 spam\r\n", "554")] {
        let mut one = pipelined(&["bob"]);
        assert!(!one.may_be_followed());
        go_on(&mut one);
        assert!(!one.may_be_followed());
        assert_eq!(
            hear(&mut one, "250 ok\r\n250 ok\r\n354 go\r\n").1,
            Ok(Step::Content)
        );
        assert!(one.may_be_followed());
        let next = with_envelope(&["cat", "dan"], |mail, recipients| {
            one.followed_by(mail, recipients)
        });
        assert_eq!(
            next.commands(),
            b"MAIL FROM:<ann@here.test>\r\nRCPT TO:<cat@dest.test>\r\nRCPT TO:<dan@dest.test>\r\nDATA\r\n"
        );
        one.content_sent();
        // All replies may come at once.
        let replies = format!("{to_the_dot}250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n");
        assert_eq!(hear(&mut one, &replies).1, Ok(Step::Done));
        let (answers, ready) = one.end();
        assert_eq!(codes(&answers, 1), [first]);
        let mut two = with_envelope(&["cat", "dan"], |mail, recipients| {
            ready.unwrap().resume(next, mail, recipients).unwrap()
        });
        // Nothing is said again, nor RSET.
        assert_eq!(go_on(&mut two), (String::new(), Ok(Step::Content)));
        two.content_sent();
        assert_eq!(hear(&mut two, "250 kept\r\n").1, Ok(Step::Done));
        assert_eq!(codes(&two.end().0, 2), ["+250", "550"]);
    }
}

// RFC 2920 §3.1
#[test]
fn a_session_whose_peer_has_heard_of_other_recipients_is_of_no_use() {
    let mut one = pipelined(&["bob"]);
    go_on(&mut one);
    hear(&mut one, "250 ok\r\n250 ok\r\n354 go\r\n").1.unwrap();
    let next = with_envelope(&["cat"], |mail, recipients| {
        one.followed_by(mail, recipients)
    });
    one.content_sent();
    hear(&mut one, "250 kept\r\n").1.unwrap();
    let ready = one.end().1.unwrap();
    assert!(
        with_envelope(&["dan"], |mail, recipients| ready
            .resume(next, mail, recipients))
        .is_none()
    );
}

// RFC 2920 §3.1, CL-17
#[test]
fn nothing_follows_without_pipelining_or_where_recipients_are_left_over() {
    let mut plain = begin(ready(&[]), &["bob"]);
    go_on(&mut plain);
    for reply in ["250 ok\r\n", "250 ok\r\n", "354 go\r\n"] {
        hear(&mut plain, reply).1.unwrap();
    }
    assert!(!plain.may_be_followed());
    let mut crowded = pipelined(&["bob", "cat"]);
    go_on(&mut crowded);
    let replies = "250 ok\r\n250 ok\r\n452 too many\r\n354 go\r\n";
    assert_eq!(hear(&mut crowded, replies).1, Ok(Step::Content));
    assert!(!crowded.may_be_followed());
}

// CL-1
#[test]
fn a_greeting_other_than_220_ends_the_session_before_ehlo() {
    for (greeting, refused) in [
        ("554 5.7.1 go away\r\n", true),
        ("421 busy\r\n", true),
        ("250 hello\r\n", false),
        ("354 what\r\n", false),
        ("hello\r\n", false),
    ] {
        let mut opening = Opening::new(options());
        let (output, step) = hear(&mut opening, greeting);
        let broken = step.unwrap_err();
        assert_eq!(output, "", "{greeting}");
        assert_eq!(broken.at, Command::Greeting);
        assert_eq!(matches!(broken.why, Why::Refused(_)), refused, "{greeting}");
    }
}

// CL-2
#[test]
fn helo_follows_an_ehlo_that_is_not_understood() {
    for code in 500..=504 {
        let mut opening = Opening::new(options());
        hear(&mut opening, "220 x\r\n");
        assert_eq!(
            hear(&mut opening, &format!("{code} what?\r\n")).0,
            "HELO here.test\r\n"
        );
        assert_eq!(hear(&mut opening, "250 x\r\n").1, Ok(Step::Done));
        assert_eq!(
            opening.finish().unwrap().capabilities(),
            &Capabilities::default()
        );
    }
    for (code, helo_fallback) in [(550, true), (421, true), (450, true), (500, false)] {
        let mut opening = Opening::new(Options {
            helo_fallback,
            ..options()
        });
        hear(&mut opening, "220 x\r\n");
        let (output, step) = hear(&mut opening, &format!("{code} no\r\n"));
        assert_eq!(output, "");
        assert_eq!(step.unwrap_err().at, Command::Ehlo);
    }
}

// CL-2, TLS-9
#[test]
fn after_the_handshake_ehlo_is_sent_anew_and_only_its_answer_counts() {
    let mut opening = Opening::new(options());
    hear(&mut opening, "220 x\r\n");
    assert_eq!(
        hear(&mut opening, "250-x\r\n250-DSN\r\n250 STARTTLS\r\n").0,
        "STARTTLS\r\n"
    );
    assert_eq!(hear(&mut opening, "220 go\r\n").1, Ok(Step::Handshake));
    opening.secured(Default::default());
    assert_eq!(go_on(&mut opening).0, "EHLO here.test\r\n");
    let mut refused = opening;
    assert_eq!(
        hear(&mut refused, "250-x\r\n250-STARTTLS\r\n250 SIZE\r\n"),
        (String::new(), Ok(Step::Done)),
        "STARTTLS inside TLS is not used"
    );
    let capabilities = refused.finish().unwrap().capabilities().clone();
    assert!(capabilities.size && !capabilities.dsn);
}

// CL-2
#[test]
fn helo_is_not_sent_inside_tls() {
    let mut opening = Opening::new(options());
    hear(&mut opening, "220 x\r\n");
    hear(&mut opening, "250-x\r\n250 STARTTLS\r\n");
    hear(&mut opening, "220 go\r\n");
    opening.secured(Default::default());
    go_on(&mut opening);
    let (output, step) = hear(&mut opening, "500 what?\r\n");
    assert_eq!((output.as_str(), step.unwrap_err().at), ("", Command::Ehlo));
}

// TLS-8
#[test]
fn bytes_behind_the_220_of_starttls_are_an_attack() {
    let mut opening = Opening::new(options());
    hear(&mut opening, "220 x\r\n");
    hear(&mut opening, "250-x\r\n250 STARTTLS\r\n");
    let (_, step) = hear(&mut opening, "220 go\r\n250 injected\r\n");
    assert_eq!(step.unwrap_err().why, Why::Injection);
}

// TLS-8: also a part of a line
#[test]
fn half_a_line_behind_the_220_of_starttls_is_an_attack_too() {
    let mut opening = Opening::new(options());
    hear(&mut opening, "220 x\r\n");
    hear(&mut opening, "250-x\r\n250 STARTTLS\r\n");
    let (_, step) = hear(&mut opening, "220 go\r\n2");
    assert_eq!(step.unwrap_err().why, Why::Injection);
}

// CL-7
#[test]
fn a_reply_that_nobody_asked_for_is_never_taken_for_the_next_one() {
    let mut opening = Opening::new(options());
    let (output, step) = hear(&mut opening, "220 x\r\n250 early\r\n");
    assert_eq!(output, "");
    assert_eq!(step.unwrap_err().why, Why::OutOfStep);

    let mut transaction = pipelined(&["bob"]);
    go_on(&mut transaction);
    let (_, step) = hear(&mut transaction, "250 a\r\n250 b\r\n354 c\r\n250 d\r\n");
    assert_eq!(
        step.unwrap_err().why,
        Why::OutOfStep,
        "CL-14: one reply per command"
    );
}

// CL-14
#[test]
fn with_pipelining_mail_rcpt_and_data_leave_together_and_replies_are_counted() {
    let mut transaction = pipelined(&["bob", "cat", "dan"]);
    let (output, step) = go_on(&mut transaction);
    assert_eq!(
        output,
        "MAIL FROM:<ann@here.test>\r\nRCPT TO:<bob@dest.test>\r\nRCPT TO:<cat@dest.test>\r\n\
         RCPT TO:<dan@dest.test>\r\nDATA\r\n"
    );
    assert_eq!(step, Ok(Step::Await(Command::Mail)));
    let (_, step) = hear(&mut transaction, "250 a\r\n250 b\r\n550 5.1.1 c\r\n45");
    assert_eq!(step, Ok(Step::Await(Command::Rcpt(2))));
    let (_, step) = hear(&mut transaction, "0 4.2.1 d\r\n354 e\r\n");
    assert_eq!(step, Ok(Step::Content));
    transaction.content_sent();
    hear(&mut transaction, "250 f\r\n");
    let (answers, ready) = transaction.end();
    // CL-16
    assert_eq!(codes(&answers, 3), ["+250", "550", "450"]);
    assert!(ready.is_some());
}

// CL-14
#[test]
fn without_pipelining_in_the_configuration_commands_go_one_by_one() {
    let mut opening = Opening::new(Options {
        pipelining: false,
        ..options()
    });
    hear(&mut opening, "220 x\r\n");
    hear(&mut opening, "250-x\r\n250 PIPELINING\r\n");
    let mut transaction = begin(opening.finish().unwrap(), &["bob"]);
    assert_eq!(go_on(&mut transaction).0, "MAIL FROM:<ann@here.test>\r\n");
}

// CL-6
#[test]
fn only_354_begins_the_content_and_only_2yz_ends_it_well() {
    for data in ["250 ok", "200 ok", "355 ok", "334 ok"] {
        let mut transaction = pipelined(&["bob"]);
        go_on(&mut transaction);
        let (_, step) = hear(&mut transaction, &format!("250 a\r\n250 b\r\n{data}\r\n"));
        let broken = step.unwrap_err();
        assert_eq!(broken.at, Command::Data, "{data}");
        assert!(matches!(broken.why, Why::Protocol(_)), "{data}");
        assert_eq!(codes(&transaction.end().0, 1), ["open"]);
    }
    for dot in ["354 more", "199 wait", "garbage"] {
        let mut transaction = pipelined(&["bob"]);
        go_on(&mut transaction);
        hear(&mut transaction, "250 a\r\n250 b\r\n354 c\r\n");
        transaction.content_sent();
        let (_, step) = hear(&mut transaction, &format!("{dot}\r\n"));
        assert_eq!(step.unwrap_err().at, Command::Dot, "{dot}");
        assert_eq!(codes(&transaction.end().0, 1), ["open"]);
    }
    for rcpt in ["350 what", "150 what"] {
        let mut transaction = pipelined(&["bob"]);
        go_on(&mut transaction);
        let (_, step) = hear(&mut transaction, &format!("250 a\r\n{rcpt}\r\n"));
        assert_eq!(step.unwrap_err().at, Command::Rcpt(0), "{rcpt}");
    }
    // Any 2yz.
    let mut transaction = pipelined(&["bob"]);
    go_on(&mut transaction);
    hear(&mut transaction, "299 a\r\n252 b\r\n354 c\r\n");
    transaction.content_sent();
    hear(&mut transaction, "200\r\n");
    assert_eq!(codes(&transaction.end().0, 1), ["+200"]);
}

// CL-15
#[test]
fn a_refusal_before_a_close_counts() {
    let mut transaction = pipelined(&["bob", "cat"]);
    go_on(&mut transaction);
    hear(&mut transaction, "550 5.7.1 not from you\r\n");
    assert_eq!(codes(&transaction.end().0, 2), ["550", "550"]);

    let mut transaction = pipelined(&["bob", "cat"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n250 b\r\n550 5.1.1 c\r\n");
    assert_eq!(codes(&transaction.end().0, 2), ["open", "550"]);
}

// CL-15
#[test]
fn a_data_that_nobody_wants_is_ended_by_a_lone_dot_whose_reply_is_ignored() {
    for (first, answer) in [
        ("250 a\r\n550 b\r\n550 c\r\n", "550"),
        ("451 a\r\n250 b\r\n250 c\r\n", "451"),
    ] {
        let mut transaction = pipelined(&["bob", "cat"]);
        go_on(&mut transaction);
        assert_eq!(
            hear(&mut transaction, &format!("{first}354 d\r\n")).0,
            ".\r\n"
        );
        assert_eq!(hear(&mut transaction, "250 taken\r\n").1, Ok(Step::Done));
        let (answers, ready) = transaction.end();
        assert_eq!(codes(&answers, 2), [answer, answer]);
        assert!(!answers.succeeded());
        // CL-22
        let mut next = begin(ready.unwrap(), &["dan"]);
        assert!(go_on(&mut next).0.starts_with("RSET\r\nMAIL "));
    }
}

// CL-15, CL-16: the echo of a refused RCPT at DATA is no news
#[test]
fn data_refused_for_want_of_recipients_leaves_the_answers_of_rcpt() {
    let mut transaction = pipelined(&["bob"]);
    go_on(&mut transaction);
    let (_, step) = hear(&mut transaction, "250 a\r\n450 b\r\n554 no recipients\r\n");
    assert_eq!(step, Ok(Step::Done));
    assert_eq!(codes(&transaction.end().0, 1), ["450"]);
}

// CL-17
#[test]
fn recipients_over_the_peers_limit_go_into_a_new_transaction() {
    let mut transaction = pipelined(&["bob", "cat", "dan"]);
    go_on(&mut transaction);
    let (_, step) = hear(
        &mut transaction,
        "250 a\r\n250 b\r\n452 4.5.3 many\r\n552 5.5.3 many\r\n354 e\r\n",
    );
    assert_eq!(step, Ok(Step::Content));
    transaction.content_sent();
    hear(&mut transaction, "250 f\r\n");
    assert_eq!(codes(&transaction.end().0, 3), ["+250", "again", "again"]);

    let mut transaction = pipelined(&["bob", "cat"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n452 many\r\n250 c\r\n354 e\r\n");
    transaction.content_sent();
    hear(&mut transaction, "250 f\r\n");
    assert_eq!(
        codes(&transaction.end().0, 2),
        ["452", "+250"],
        "the first one is refused"
    );
}

// CL-17: without PIPELINING the rest is not even asked
#[test]
fn without_pipelining_the_recipients_over_the_limit_are_not_asked() {
    let mut transaction = begin(ready(&[]), &["bob", "cat", "dan"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n");
    hear(&mut transaction, "250 b\r\n");
    assert_eq!(hear(&mut transaction, "452 many\r\n").0, "DATA\r\n");
    hear(&mut transaction, "354 d\r\n");
    transaction.content_sent();
    hear(&mut transaction, "250 e\r\n");
    assert_eq!(codes(&transaction.end().0, 3), ["+250", "again", "again"]);
}

// CL-19: without PIPELINING nothing follows a refused MAIL, and no DATA follows without a recipient
#[test]
fn without_pipelining_needless_commands_are_not_sent() {
    let mut transaction = begin(ready(&[]), &["bob"]);
    go_on(&mut transaction);
    assert_eq!(
        hear(&mut transaction, "451 later\r\n"),
        (String::new(), Ok(Step::Done))
    );
    assert_eq!(codes(&transaction.end().0, 1), ["451"]);

    let mut transaction = begin(ready(&[]), &["bob"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n");
    assert_eq!(
        hear(&mut transaction, "550 no\r\n"),
        (String::new(), Ok(Step::Done))
    );
}

// CL-8
#[test]
fn a_421_ends_the_session_at_any_command() {
    let mut transaction = pipelined(&["bob", "cat"]);
    go_on(&mut transaction);
    let (_, step) = hear(&mut transaction, "250 a\r\n550 b\r\n421 4.3.2 closing\r\n");
    let broken = step.unwrap_err();
    assert_eq!(broken.at, Command::Rcpt(1));
    assert!(matches!(broken.why, Why::Refused(_)));
    let (answers, ready) = transaction.end();
    assert_eq!(codes(&answers, 2), ["550", "open"]);
    assert!(ready.is_none());
}

// CL-21
#[test]
fn an_early_refusal_of_the_content_counts_and_an_early_success_does_not() {
    let mut transaction = pipelined(&["bob"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n250 b\r\n354 c\r\n");
    transaction.wire().push(b"552 5.3.4 too la");
    assert_eq!(transaction.early_reply(), Ok(false));
    transaction.wire().push(b"rge\r\n");
    assert_eq!(transaction.early_reply(), Ok(true));
    let (answers, ready) = transaction.end();
    assert_eq!(codes(&answers, 1), ["552"]);
    assert!(ready.is_none());

    let mut transaction = pipelined(&["bob"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n250 b\r\n354 c\r\n");
    transaction.wire().push(b"250 taken\r\n");
    assert!(transaction.early_reply().is_err());
    assert_eq!(codes(&transaction.end().0, 1), ["open"]);
}

// CL-22
#[test]
fn a_refused_rset_names_both_failures() {
    let mut transaction = pipelined(&["bob"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n550 5.1.1 unknown\r\n554 no\r\n");
    let mut next = begin(transaction.end().1.unwrap(), &["cat"]);
    go_on(&mut next);
    let (_, step) = hear(&mut next, "503 5.5.1 not now\r\n");
    let broken = step.unwrap_err();
    assert_eq!(broken.at, Command::Rset);
    let text = broken.to_string();
    assert!(
        text.contains("not now") && text.contains("5.1.1 unknown"),
        "{text}"
    );
    assert_eq!(codes(&next.end().0, 1), ["open"]);
}

// CL-12, CL-13, CL-29
#[test]
fn parameters_are_sent_only_where_they_were_announced() {
    let from = ReversePath::parse("", false).unwrap();
    let path = Mailbox::parse("jörg@dest.test", true).unwrap();
    let mail = Mail {
        reverse_path: &from,
        size: 7,
        eight_bit: true,
        utf8: true,
        ret: Some(Ret::Headers),
        envid: Some("a+b=c d"),
        require_tls: true,
    };
    let rcpt = Rcpt {
        path: &path,
        notify: Notify {
            never: false,
            success: true,
            failure: true,
            delay: false,
            given: true,
        },
        orcpt: Some("utf-8;jörg+x@dest.test"),
    };
    let all = ready(&["PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN"]);
    assert_eq!(
        go_on(&mut all.begin(&mail, [rcpt].into_iter())).0,
        "MAIL FROM:<> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+3Dc+20d\r\n\
         RCPT TO:<jörg@dest.test> NOTIFY=SUCCESS,FAILURE ORCPT=utf-8;j\\x{F6}rg\\x{2B}x@dest.test\r\n\
         DATA\r\n"
    );
    let none = ready(&["PIPELINING"]);
    assert_eq!(
        go_on(&mut none.begin(&mail, [rcpt].into_iter())).0,
        "MAIL FROM:<>\r\nRCPT TO:<jörg@dest.test>\r\nDATA\r\n"
    );
    let never = Rcpt {
        notify: Notify::NEVER,
        orcpt: Some("rfc822;bob@dest.test"),
        ..rcpt
    };
    let dsn = ready(&["PIPELINING", "DSN"]);
    assert!(
        go_on(&mut dsn.begin(&mail, [never].into_iter()))
            .0
            .contains("> NOTIFY=NEVER ORCPT=rfc822;bob@dest.test\r\n")
    );
}

// CL-31
#[test]
fn what_is_not_done_yet_cannot_be_taken_for_a_session_at_rest() {
    let mut opening = Opening::new(options());
    hear(&mut opening, "220 x\r\n");
    assert!(opening.finish().is_err());
    let mut transaction = pipelined(&["bob"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 a\r\n");
    assert!(transaction.end().1.is_none());
}

// CL-23
#[test]
fn any_reply_ends_quit() {
    let mut quitting = ready(&[]).quit();
    assert_eq!(
        go_on(&mut quitting),
        ("QUIT\r\n".to_string(), Ok(Step::Await(Command::Quit)))
    );
    assert_eq!(hear(&mut quitting, "500 what?\r\n").1, Ok(Step::Done));
}
