//! What is known of a message when it is queued: sender, recipients, trace, worker.

use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::config::DomainPattern;
use posthaste::message::Ret;
use posthaste::smtp::address::{Domain, Mailbox};
use posthaste::store::State;

use super::MESSAGE;
use crate::support::front::{Client, House};

// IN-1, IN-2, IN-28, MSG-1, Q-1, Q-5
#[test]
fn a_message_is_queued_with_all_that_is_known_of_it() {
    let house = House::new();
    let mut client = house.client();
    client.ask(
        "MAIL FROM:<joe@src.example> BODY=8BITMIME RET=HDRS ENVID=a+2Bb SIZE=100",
        "250 2.1.0",
    );
    client.ask(
        "RCPT TO:<Bob@DEST.example> NOTIFY=DELAY ORCPT=rfc822;x+2By@z.example",
        "250 2.1.5",
    );
    client.ask("DATA", "354 ");
    let reply = client.content(MESSAGE, "250 2.0.0 queued as ");
    let shown = house.only();
    assert_eq!(reply, format!("250 2.0.0 queued as {}\r\n", shown.head.id));
    let head = &shown.head;
    assert_eq!(head.reverse_path.to_string(), "joe@src.example");
    assert_eq!(
        (head.caller.as_str(), head.client.as_str()),
        ("relay", "127.0.0.1")
    );
    assert_eq!(
        (head.subject.as_str(), head.eight_bit),
        ("hello there", false)
    );
    assert_eq!(
        (head.ret, head.envid.as_deref()),
        (Some(Ret::Headers), Some("a+b"))
    );
    assert_eq!(head.arrived, house.clock.now());
    let recipient = &shown.recipients[0].recipient;
    assert_eq!(recipient.path.to_string(), "Bob@dest.example");
    assert_eq!(recipient.orcpt.as_deref(), Some("rfc822;x+y@z.example"));
    assert!(recipient.notify.delay && !recipient.notify.failure);

    let added = String::from_utf8(head.added_header.clone()).unwrap();
    let date = house.clock.now().rfc5322();
    assert_eq!(
        added,
        format!(
            "Received: from client.example ([127.0.0.1])\r\n\tby mail.here.example (posthaste) with ESMTP id {}\r\n\
             \tfor <Bob@dest.example>; {date}\r\nDate: {date}\r\nMessage-ID: {}\r\n",
            head.id, head.message_id
        )
    );
    assert!(head.message_id.ends_with("@mail.here.example>"));
    assert_eq!(head.size, (added.len() + MESSAGE.len()) as u64);
    assert_eq!(house.content(head.id), MESSAGE.as_bytes());
}

// MSG-1, Q-21
#[test]
fn what_a_message_has_is_not_added_again() {
    let house = House::new();
    let mut client = house.client();
    client.open();
    let message = "Date: x\r\nMessage-Id: <own@src.example>\r\nBcc: kept@src.example\r\n\r\n";
    client.content(message, "250");
    let shown = house.only();
    let added = String::from_utf8(shown.head.added_header.clone()).unwrap();
    assert!(!added.contains("Date:") && !added.contains("Message-ID:"));
    assert_eq!(shown.head.message_id, "<own@src.example>");
    assert_eq!(house.content(shown.head.id), message.as_bytes());
}

// IN-2, IN-38
#[test]
fn several_messages_follow_each_other_in_one_session() {
    let house = House::new();
    let mut client = house.client();
    for _ in 0..3 {
        client.open();
        client.content(MESSAGE, "250 2.0.0");
        client.ask("DATA", "503 5.5.1");
    }
    client.ask("MAIL FROM:<>", "250");
    client.ask("RSET", "250");
    client.ask("MAIL FROM:<>", "250");
    client.ask("RCPT TO:<a@b.example>", "250");
    client.ask("DATA", "354");
    // IN-5: empty content is legal.
    client.content("", "250 2.0.0");
    client.ask("QUIT", "221 2.0.0");
    client.expect_close();
    assert_eq!(house.ids().len(), 4);
}

// IN-22, Q-19
#[test]
fn recipients_are_counted_and_repeated_ones_become_one() {
    let house = House::with(|config| config.intake.max_recipients = 4);
    let mut client = house.client();
    client.ask("MAIL FROM:<>", "250");
    for to in [
        "a@b.example",
        "\"a\"@B.example",
        "A@b.example",
        "c@d.example",
    ] {
        client.ask(&format!("RCPT TO:<{to}>"), "250 2.1.5");
    }
    client.ask("RCPT TO:<e@f.example>", "452 4.5.3");
    client.ask("DATA", "354");
    client.content(MESSAGE, "250");
    let shown = house.only();
    let paths: Vec<_> = shown
        .recipients
        .iter()
        .map(|r| r.recipient.path.to_string())
        .collect();
    assert_eq!(paths, ["a@b.example", "A@b.example", "c@d.example"]);
    // IN-28: each of several would be told of the others.
    let added = String::from_utf8(shown.head.added_header.clone()).unwrap();
    assert!(!added.contains("for <"));
}

// SC-14, IN-26
#[test]
fn mail_from_a_disabled_domain_is_refused_for_now() {
    let house = House::with(|config| {
        let domain = Domain::parse("src.example").unwrap();
        config.queue.disabled_senders = vec![DomainPattern::Subtree(domain)];
    });
    let mut client = house.client();
    client.ask("MAIL FROM:<a@sub.src.example>", "451 4.3.0");
    client.ask("MAIL FROM:<a@other.example>", "250");
}

// IN-23, RO-4
#[test]
fn local_mail_goes_to_whom_the_configuration_names() {
    let house = House::with(|config| {
        config.local_mail_to = Some(Mailbox::parse("ops@dest.example", false).unwrap());
    });
    let mut client = house.client();
    client.ask("MAIL FROM:<root@mail.here.example>", "250");
    client.ask("RCPT TO:<root@mail.here.example>", "250");
    client.ask("RCPT TO:<Postmaster>", "250");
    client.ask("DATA", "354");
    client.content(MESSAGE, "250");
    let shown = house.only();
    assert_eq!(shown.recipients.len(), 1);
    assert_eq!(
        shown.recipients[0].recipient.path.to_string(),
        "ops@dest.example"
    );
}

// IN-17, IN-19
#[test]
fn non_ascii_addresses_need_smtputf8_and_are_kept_in_canonical_form() {
    let house = House::new();
    let mut client = house.client();
    client.ask("MAIL FROM:<j\u{f6}@src.example>", "553 5.6.7");
    client.ask("RCPT TO:<a@b.example>", "503 5.5.1");
    client.ask("MAIL FROM:<j\u{f6}@src.example> SMTPUTF8", "250");
    client.ask("RCPT TO:<b\u{f6}b@b\u{fc}cher.example>", "250");
    client.ask("RCPT TO:<>", "501 5.1.3");
    client.ask("DATA", "354");
    client.content("Subject: \u{e4}\r\n\r\n", "250");
    let shown = house.only();
    assert_eq!(
        shown.recipients[0].recipient.path.to_string(),
        "b\u{f6}b@xn--bcher-kva.example"
    );
    assert!(shown.head.utf8_headers);
    let added = String::from_utf8(shown.head.added_header.clone()).unwrap();
    assert!(added.is_ascii() && added.contains(" with UTF8SMTP id "));
}

// AU-5, IN-28
#[test]
fn a_local_client_is_known_by_its_user() {
    let house = House::new();
    let mut client = Client::unix(&house.unix());
    client.expect("220");
    client.ask("EHLO localhost", "250");
    client.open();
    client.content(MESSAGE, "250");
    let shown = house.only();
    let uid = nix::unistd::getuid();
    assert_eq!(shown.head.client, format!("unix uid={uid}"));
    assert!(shown.head.caller.starts_with("uid:"));
    let added = String::from_utf8(shown.head.added_header.clone()).unwrap();
    assert!(added.starts_with(&format!("Received: from localhost (uid {uid})\r\n")));
}

// Q-8, SC-10: design.md 5, a message that finds room is claimed by its accepting commit.
#[test]
fn a_message_that_finds_room_is_handed_to_a_worker_with_its_content() {
    let house = House::new();
    let mut client = house.client();
    client.ask("MAIL FROM:<>", "250");
    for to in ["a@one.example", "b@two.example", "c@one.example"] {
        client.ask(&format!("RCPT TO:<{to}>"), "250");
    }
    client.ask("DATA", "354");
    client.content(MESSAGE, "250");
    let mut got = Vec::new();
    for _ in 0..2 {
        let transaction = house
            .transactions
            .recv_timeout(Duration::from_secs(20))
            .unwrap();
        assert_eq!(
            transaction.content.as_deref().map(Vec::as_slice),
            Some(MESSAGE.as_bytes())
        );
        assert_eq!(transaction.transport, "direct");
        let to = transaction.recipients.iter().map(|r| {
            assert_eq!(r.attempts, 0);
            r.recipient.path.to_string()
        });
        got.push((transaction.destination.to_string(), to.collect::<Vec<_>>()));
    }
    got.sort();
    assert_eq!(
        got,
        [
            (
                "one.example".to_owned(),
                vec!["a@one.example".to_owned(), "c@one.example".to_owned()]
            ),
            ("two.example".to_owned(), vec!["b@two.example".to_owned()]),
        ]
    );
    let shown = house.only();
    let claimed = |r: &posthaste::store::RecipientRow| {
        r.state == State::Claimed && r.attempts == 1 && r.next_attempt > Timestamp::from_secs(0)
    };
    assert!(shown.recipients.iter().all(claimed));
}
