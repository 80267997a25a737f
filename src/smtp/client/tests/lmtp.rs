//! LMTP: a reply for each recipient after the dot (RFC 2033).

use super::*;

fn lmtp_ready() -> Ready {
    let mut opening = Opening::new(Options {
        lmtp: true,
        ..options()
    });
    let (said, _) = hear(&mut opening, "220 store.test LMTP\r\n");
    assert_eq!(said, "LHLO here.test\r\n");
    let (_, step) = hear(
        &mut opening,
        "250-store.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    );
    assert_eq!(step, Ok(Step::Done));
    opening.finish().unwrap()
}

// RO-14: RFC 2033 §4.2
#[test]
fn lmtp_has_a_reply_for_each_accepted_recipient_after_the_dot() {
    for size in [1, 7, 1000] {
        let mut transaction = begin(lmtp_ready(), &["ann", "bob", "cid", "dan"]);
        go_on(&mut transaction);
        let (_, step) = hear(
            &mut transaction,
            "250 ok\r\n250 ok\r\n550 no such user\r\n250 ok\r\n250 ok\r\n354 go\r\n",
        );
        assert_eq!(step, Ok(Step::Content));
        transaction.content_sent();
        let replies = "250 kept for ann\r\n452 4.2.2 cid is over quota\r\n554-dan\r\n554 never\r\n";
        let mut step = Ok(Step::Done);
        for piece in replies.as_bytes().chunks(size) {
            step = hear(&mut transaction, std::str::from_utf8(piece).unwrap()).1;
        }
        assert_eq!(step, Ok(Step::Done));
        let (answers, ready) = transaction.end();
        assert!(ready.is_some() && answers.succeeded());
        let words: Vec<String> = (0..4)
            .map(|n| match answers.answer(n) {
                Answer::Delivered(reply) => format!("delivered {reply}"),
                Answer::Refused(command, reply) => format!("{command} {}", reply.code()),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(
            words,
            [
                "delivered 250 kept for ann",
                "RCPT 550",
                "the final dot 452",
                "the final dot 554"
            ]
        );
    }
}

// RO-14, Q-14
#[test]
fn lmtp_that_ends_between_the_replies_leaves_the_rest_open() {
    let mut transaction = begin(lmtp_ready(), &["ann", "bob"]);
    go_on(&mut transaction);
    hear(&mut transaction, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    transaction.content_sent();
    let (_, step) = hear(&mut transaction, "250 kept\r\n");
    assert_eq!(step, Ok(Step::Await(Command::Dot)));
    let (answers, ready) = transaction.end();
    assert!(ready.is_none());
    assert!(matches!(answers.answer(0), Answer::Delivered(_)));
    assert!(matches!(answers.answer(1), Answer::Open));
}

// RO-14
#[test]
fn lmtp_is_never_asked_for_a_reply_that_will_not_come() {
    let mut transaction = begin(lmtp_ready(), &["ann"]);
    go_on(&mut transaction);
    // RFC 2033 §4.2: 503 is what it has to say; 354 for nobody would have no end.
    let (_, step) = hear(&mut transaction, "250 ok\r\n550 no\r\n354 go\r\n");
    assert_eq!(step.unwrap_err().at, Command::Data);
    let mut transaction = begin(lmtp_ready(), &["ann"]);
    go_on(&mut transaction);
    let (_, step) = hear(&mut transaction, "250 ok\r\n550 no\r\n503 nobody\r\n");
    assert_eq!(step, Ok(Step::Done));
    // No HELO, whatever is said to LHLO.
    let mut opening = Opening::new(Options {
        lmtp: true,
        ..options()
    });
    hear(&mut opening, "220 x\r\n");
    let (output, step) = hear(&mut opening, "500 what\r\n");
    assert_eq!((output.as_str(), step.unwrap_err().at), ("", Command::Ehlo));
}
