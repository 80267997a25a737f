//! Content: its one true end, its size, its header.

use posthaste::config::{BareNewline, Size};
use posthaste::store::Store;

use super::MESSAGE;
use crate::support::front::House;

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
