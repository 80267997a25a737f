//! Scenarios: SMTP sessions over real sockets into a real queue.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::config::{BareNewline, DomainPattern, EarlyTalk, Listen, ListenAddress, Size, Span};
use posthaste::front::listener::Bound;
use posthaste::message::Ret;
use posthaste::net::deadline::Deadline;
use posthaste::smtp::address::{Domain, Mailbox};
use posthaste::store::{State, Store};

use crate::support::daemon::{PATIENCE, Process, write_config};
use crate::support::front::{Client, House, Setup};
use crate::support::queue::TempDir;

const MESSAGE: &str = "From: joe@src.example\r\nSubject: hello\r\n there\r\n\r\nbody\r\n";

fn millis(count: u64) -> Span {
    Span(Duration::from_millis(count))
}

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

// IN-3, IN-4, IN-20, SEC-4
#[test]
fn no_trick_with_line_ends_makes_two_messages_of_one() {
    let tricks: [&[u8]; 12] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r.\r",
        b"\r.\r\n",
        b"\n.\r",
        b"\r\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\n\r.\r\n",
        b"\r\n.\r\r\n",
    ];
    for reject in [false, true] {
        let house = House::with(|config| {
            if reject {
                config.listen[0].bare_newline = BareNewline::Reject;
            }
        });
        for trick in tricks {
            let before = house.ids().len();
            let mut client = house.client();
            client.open();
            let smuggled: &[u8] =
                b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<evil@y.example>\r\nDATA\r\nSubject: evil\r\n";
            client.send([b"Subject: good\r\n\r\nbody", trick, smuggled, b"\r\n.\r\n"].concat());
            let bare_lf_alone = !trick.contains(&0) && {
                let text = String::from_utf8_lossy(trick).replace("\r\n", "");
                !text.contains('\r')
            };
            let taken = bare_lf_alone && !reject;
            client.expect(if taken { "250 2.0.0" } else { "550 5.6.0" });
            client.ask("NOOP", "250 2.0.0");
            assert_eq!(house.ids().len() - before, usize::from(taken), "{trick:?}");
        }
        for id in house.ids() {
            let shown = house.show(id);
            assert_eq!(
                shown.recipients[0].recipient.path.to_string(),
                "bob@dest.example"
            );
            let content = String::from_utf8(house.content(id)).unwrap();
            assert!(content.contains("MAIL FROM:<evil@x.example>\r\n"));
            assert!(!content.replace("\r\n", "").contains(['\r', '\n']));
        }
    }
}

// IN-3, IN-5, Q-21
#[test]
fn a_session_is_the_same_byte_by_byte_and_in_one_piece() {
    let house = House::new();
    let session = "EHLO x\r\nMAIL FROM:<joe@src.example>\r\nRCPT TO:<bob@dest.example>\r\nDATA\r\n";
    let content = "Subject: dots\r\n\r\n..one\r\n...\r\n.. \r\nend.\r\n.\r\nQUIT\r\n";
    let mut whole = house.connect();
    whole.send(format!("{session}{content}"));
    let mut drip = house.connect();
    for octet in format!("{session}{content}").bytes() {
        drip.send([octet]);
    }
    for client in [&mut whole, &mut drip] {
        for start in ["220", "250", "250", "250", "354", "250 2.0.0", "221"] {
            client.expect(start);
        }
        client.expect_close();
    }
    let ids = house.ids();
    assert_eq!(ids.len(), 2);
    for id in ids {
        let expected = "Subject: dots\r\n\r\n.one\r\n..\r\n. \r\nend.\r\n";
        assert_eq!(house.content(id), expected.as_bytes());
    }
}

// IN-20, IN-29: `nc host 25 < session.txt`.
#[test]
fn a_client_that_says_everything_at_once_and_shuts_its_side_is_answered_in_full() {
    let house = House::new();
    let mut client = house.connect();
    client.send(format!(
        "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<bob@dest.example>\r\nDATA\r\n{MESSAGE}.\r\nNOOP\r\nVRFY x\r\n"
    ));
    client.end();
    for start in [
        "220",
        "250",
        "250",
        "250",
        "354",
        "250 2.0.0 queued as",
        "250 2.0.0 ok",
        "252",
    ] {
        client.expect(start);
    }
    client.expect_close();
    let added = String::from_utf8(house.only().head.added_header.clone()).unwrap();
    assert!(added.contains(" with SMTP id "));
}

// IN-20
#[test]
fn an_early_talker_is_turned_away_where_the_listener_says_so() {
    let mut setup = Setup::new();
    setup.config.listen[0].early_talk = EarlyTalk::Reject;
    let bound = setup.bind();
    let ListenAddress::Tcp(address) = bound[0].address() else {
        panic!("tcp");
    };
    // It waits in the backlog, and its bytes with it.
    let mut early = Client::tcp(address);
    early.send("EHLO x\r\nQUIT\r\n");
    let house = setup.start_on(bound);
    early.expect("554 5.5.0");
    early.expect_close();
    drop(early);
    let mut polite = house.client();
    polite.send("MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nRSET\r\n");
    for _ in 0..3 {
        polite.expect("250");
    }
    polite.open();
    polite.content(MESSAGE, "250");
}

// IN-6, IN-7, IN-8, IN-9
#[test]
fn faulty_commands_are_answered_once_and_never_run() {
    let house = House::new();
    let mut client = house.client();
    client.ask("NOOP\nMAIL FROM:<evil@x.example>", "500 5.5.2");
    client.ask("NO\rOP", "500 5.5.2");
    client.ask("RCPT TO:<a@b.example>", "503 5.5.1");
    client.ask("MAIL FROM:<a@b.example>\0", "501 5.1.7");
    client.ask("NOOP \x07", "501 5.5.2");
    let long = format!("NOOP {}\r\nMAIL FROM:<x@y.example>", "x".repeat(5000));
    client.ask(&long, "500 5.5.2");
    client.expect("250 2.1.0");
    client.ask("MAIL FROM:<again@y.example>", "503 5.5.1");
    assert!(house.ids().is_empty());
}

// IN-10
#[test]
fn other_protocols_are_told_so_and_closed() {
    let house = House::new();
    for (hello, ends) in [
        (
            "GET / HTTP/1.1\r\nHost: x\r\n\r\nMAIL FROM:<a@b.example>\r\n",
            true,
        ),
        ("POST / HTTP/1.1\nHost: x\n\n", true),
        ("\x16\x03\x01\x02", false),
        ("SSH-2.0-OpenSSH_9.9\r\n", true),
    ] {
        let mut client = house.connect();
        client.expect("220");
        assert!(client.try_send(hello));
        client.expect("502 5.7.0");
        if ends {
            client.expect_close();
        }
    }
    let mut client = house.client();
    client.ask("CONNECT x:25 HTTP/1.1", "502 5.7.0");
    client.expect_close();
}

// IN-11
#[test]
fn a_client_that_makes_only_errors_is_cut() {
    let house = House::with(|config| config.intake.max_errors = 2);
    let mut client = house.client();
    client.send("x\r\nx\r\nx\r\nNOOP\r\n");
    client.expect("500");
    client.expect("500");
    client.expect("421 4.7.0");
    client.expect_close();
}

// IN-11, CL-9
#[test]
fn half_a_command_does_not_keep_a_session_open() {
    let house = House::with(|config| config.intake.idle_timeout = millis(150));
    let mut silent = house.connect();
    silent.expect("220");
    silent.expect("421 4.4.2");
    silent.expect_close();
    let mut dripping = house.connect();
    dripping.expect("220");
    let dripper = std::thread::spawn(move || {
        // Until it is told off: no single read of the server waits for long.
        while dripping.try_send("x") {
            std::thread::yield_now();
        }
    });
    dripper.join().unwrap();
    house.wait_for_sessions();
    let mut content = house.client();
    content.open();
    content.send("Subject: x\r\n");
    content.expect("421 4.4.2");
    assert!(house.ids().is_empty());
}

// IN-12
#[test]
fn a_session_ends_at_its_limit_but_running_data_may_end() {
    let house = House::with(|config| config.intake.session_timeout = millis(200));
    let mut client = house.client();
    client.open();
    let over = Deadline::after(Duration::from_millis(250));
    while !over.is_over() {
        client.send("X: y\r\n");
        std::thread::yield_now();
    }
    client.content("", "250 2.0.0");
    client.expect("421 4.4.2");
    client.expect_close();
    assert_eq!(house.ids().len(), 1);
}

// IN-12
#[test]
fn a_client_that_does_not_read_its_replies_is_cut() {
    let house = House::with(|config| config.intake.idle_timeout = millis(200));
    let mut client = house.connect();
    let much = "HELP\r\n".repeat(10_000);
    while client.try_send(&much) {}
    drop(client);
    house.wait_for_sessions();
}

// IN-13
#[test]
fn sessions_are_limited_in_all_and_per_client() {
    let house = House::with(|config| {
        config.intake.sessions = 3;
        config.intake.sessions_per_client = 2;
    });
    let first = house.client();
    let mut second = house.client();
    let mut third = house.connect();
    third.expect("421 4.7.0");
    third.expect_close();
    // Others are not affected.
    let mut local = Client::unix(&house.unix());
    local.expect("220");
    drop(first);
    while house.front.sessions() > 2 {
        std::thread::yield_now();
    }
    let mut again = house.client();
    again.ask("NOOP", "250");
    second.ask("NOOP", "250");
    house.connect().expect("421 4.7.0");
}

// IN-14
#[test]
fn too_large_a_message_is_refused_at_once_or_after_its_end() {
    let house = House::with(|config| config.intake.max_message_size = Size(400_000));
    let mut client = house.client();
    client.ask("MAIL FROM:<> SIZE=400001", "552 5.3.4");
    for size in [400_001, 900_000] {
        client.open();
        let line = format!("{}\r\n", "x".repeat(998));
        let content = line.repeat(size / 1000) + &"y".repeat(size % 1000);
        client.content(format!("\r\n{content}\r\n"), "552 5.3.4");
    }
    client.open();
    // The stuffing does not count.
    let exact = format!("\r\n..{}\r\n", "x".repeat(399_995));
    client.content(exact, "250 2.0.0");
    assert_eq!(house.ids().len(), 1);
    assert_eq!(house.intake.memory_held(), 0);
}

// Q-7, Q-21, IN-7, ST-17
#[test]
fn large_content_is_kept_as_it_is_whatever_its_lines() {
    let house = House::new();
    let mut content = b"Subject: large\r\n\r\n".to_vec();
    let mut noise = 12345_u32;
    while content.len() < 3_000_000 {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match noise >> 24 {
            b @ (0 | 10 | 13 | 46) => content.push(b as u8 | 64),
            1 => content.extend_from_slice(b"\r\n"),
            b => content.push(b as u8),
        }
    }
    content.extend_from_slice(b"\r\n");
    let mut client = house.client();
    client.open();
    client.content(&content, "250 2.0.0");
    let shown = house.only();
    assert!(house.content(shown.head.id) == content);
    assert!(shown.head.eight_bit);
    assert_eq!(house.intake.memory_held(), 0);
}

// Q-2, Q-3, IN-12
#[test]
fn a_client_that_leaves_before_the_dot_leaves_nothing_behind() {
    let house = House::new();
    for content in [
        MESSAGE.to_owned(),
        "x".repeat(3_000_000),
        format!("{MESSAGE}.\r"),
    ] {
        let mut client = house.client();
        client.open();
        client.send("Subject: x\r\n\r\n");
        client.send(&content);
        drop(client);
    }
    let mut half = house.client();
    half.open();
    half.send(MESSAGE);
    half.end();
    half.expect("421 4.4.2");
    half.expect_close();
    house.wait_for_sessions();
    assert!(house.ids().is_empty());
    assert_eq!(house.intake.memory_held(), 0);
    // Also after a restart.
    house.store.close();
    let (store, recovery) = Store::open(&house.settings, &house.clock).unwrap();
    assert_eq!(recovery.orphan_chunks, 0);
    assert_eq!(store.stats().unwrap().messages, 0);
    store.close();
}

// ST-17
#[test]
fn content_beyond_the_memory_for_it_is_refused_for_now() {
    let house = House::with(|config| config.intake.memory = Size(300 * 1024));
    let mut first = house.client();
    first.open();
    let mut second = house.client();
    second.ask("MAIL FROM:<> SIZE=10", "250");
    second.ask("RCPT TO:<a@b.example>", "250");
    second.ask("DATA", "452 4.3.1");
    second.ask("DATA", "503 5.5.1");
    first.content(MESSAGE, "250");
    second.open();
    second.content(MESSAGE, "250");
}

// IN-24, IN-25
#[test]
fn loops_and_malformed_headers_are_refused_and_the_session_goes_on() {
    let house = House::with(|config| {
        config.intake.max_hops = 3;
        config.intake.max_header = Size(1000);
    });
    let mut client = house.client();
    let hops = "Received: from a by b; date\r\n";
    for (content, start) in [
        (hops.repeat(4), "554 5.4.6"),
        (hops.repeat(3), "250 2.0.0"),
        (" folded: first\r\n\r\n".to_owned(), "554 5.6.0"),
        ("no colon\r\n\r\n".to_owned(), "554 5.6.0"),
        ("Sub\u{e4}: x\r\n\r\n".to_owned(), "554 5.6.0"),
        (format!("X: y\r\n{}", " z\r\n".repeat(300)), "552 5.3.4"),
        (format!("\r\n{}", hops.repeat(4)), "250 2.0.0"),
    ] {
        client.open();
        client.content(content, start);
    }
    assert_eq!(house.ids().len(), 2);
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

// IN-27, PRC-2
#[test]
fn a_stop_ends_sessions_before_their_next_command_and_content_with_its_reply() {
    let house = House::new();
    // Asked for now, because listeners that have ended have none.
    let (tcp, unix) = (house.tcp(), house.unix());
    let mut idle = house.client();
    let mut sending = house.client();
    sending.open();
    sending.send("Subject: x\r\n");
    house.front.stop();
    idle.expect("421 4.3.2");
    idle.expect_close();
    sending.content("\r\nbody\r\n", "250 2.0.0");
    sending.expect("421 4.3.2");
    sending.expect_close();
    assert!(house.front.join(Deadline::after(Duration::from_secs(20))));
    assert_eq!(house.ids().len(), 1);
    assert!(std::net::TcpStream::connect(tcp).is_err());
    assert!(std::os::unix::net::UnixStream::connect(unix).is_err());
}

// IN-27, Q-3
#[test]
fn content_that_the_daemon_no_longer_waits_for_is_not_queued() {
    let house = House::new();
    let mut sending = house.client();
    sending.open();
    sending.send("Subject: x\r\n");
    house.front.stop();
    house.front.cut();
    sending.expect("421 4.3.2");
    sending.expect_close();
    assert!(house.ids().is_empty());
}

// IN-26, Q-18
#[test]
fn a_queue_that_cannot_take_a_message_says_whether_to_come_again() {
    let mut setup = Setup::new();
    setup.settings.max_messages = 1;
    let house = setup.start();
    let mut client = house.client();
    client.open();
    client.content(MESSAGE, "250");
    client.open();
    client.content(MESSAGE, "452 4.3.1");
    client.ask("NOOP", "250");
    house.store.close();
    client.open();
    client.content(MESSAGE, "421 4.3.2");
    client.expect_close();
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
        assert_eq!(transaction.content.as_deref(), Some(MESSAGE.as_bytes()));
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

// CFG-5, CFG-6, IN-21
#[test]
fn a_changed_configuration_holds_for_the_next_session() {
    let house = House::new();
    house.client().ask("MAIL FROM:<> SIZE=2000", "250");
    let mut config = (*house.live.get()).clone();
    config.intake.max_message_size = Size(1000);
    config.listen[0].relay_from.clear();
    house.live.set(config);
    let mut client = house.client();
    client.ask("MAIL FROM:<> SIZE=2000", "552 5.3.4");
    client.ask("MAIL FROM:<>", "250");
    client.ask("RCPT TO:<a@b.example>", "554 5.7.1");
    client.ask("DATA", "554 5.5.1");
}

// CFG-8, CFG-12
#[test]
fn a_listener_that_cannot_be_bound_says_why() {
    let setup = Setup::new();
    let bound = setup.bind();
    let ListenAddress::Tcp(address) = bound[0].address() else {
        panic!("tcp");
    };
    let again = Bound::new(&Listen::at(ListenAddress::Tcp(address)), None).unwrap_err();
    assert!(
        again
            .to_string()
            .starts_with(&format!("cannot listen on {address}: ")),
        "{again}"
    );
    let live = Bound::new(&setup.config.listen[1], None).unwrap_err();
    assert!(
        live.to_string().starts_with("cannot listen on unix:/"),
        "{live}"
    );
    // One listener, one family: the same port is free for the other.
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let any = ListenAddress::Tcp(([0, 0, 0, 0], 0).into());
        let any = Bound::new(&Listen::at(any), None).unwrap();
        let ListenAddress::Tcp(v4) = any.address() else {
            panic!("tcp");
        };
        let v6 = ListenAddress::Tcp((std::net::Ipv6Addr::UNSPECIFIED, v4.port()).into());
        Bound::new(&Listen::at(v6), None).unwrap();
    }
}

// PRC-5, IN-29
#[test]
fn short_of_descriptors_clients_are_turned_away_and_the_rest_goes_on() {
    let dir = Arc::new(TempDir::new());
    let file = write_config(&dir, "");
    let mut command = Command::new("bash");
    // Without the descriptors that whoever runs the tests has left open, or there would be fewer than 64.
    let script =
        "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -lt 3 ] || eval \"exec $fd>&-\"; done
        ulimit -n 64; exec \"$0\" -F -f \"$1\"";
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_posthasted")])
        .arg(file);
    let process = Process::spawn(dir, command);
    process.wait_for(" start ");
    let mut sessions = Vec::new();
    let turned_away = loop {
        assert!(sessions.len() < 64);
        let mut client = Client::unix(&process.unix());
        let greeting = client.reply().unwrap();
        if !greeting.starts_with("220") {
            break greeting;
        }
        sessions.push(client);
    };
    assert!(turned_away.starts_with("421 4.3.2"), "{turned_away}");
    assert!(
        sessions.len() > 2,
        "64 are enough to run slowly: {}",
        sessions.len()
    );
    assert_eq!(
        process
            .control("version\nquit\n")
            .last()
            .map(String::as_str),
        Some("OK bye")
    );
    // Those that are in are served, into the database.
    let first = &mut sessions[0];
    first.ask("EHLO x", "250");
    first.open();
    first.content(MESSAGE, "250 2.0.0");
    drop(sessions);
    // The last ones to leave give their descriptors back in their own time.
    let long = Deadline::after(PATIENCE);
    while !Client::unix(&process.unix())
        .reply()
        .unwrap()
        .starts_with("220")
    {
        assert!(!long.is_over());
        std::thread::yield_now();
    }
    process.stop();
}
