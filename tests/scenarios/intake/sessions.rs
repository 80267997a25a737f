//! Sessions: commands, other protocols, limits of time and number.

use std::time::Duration;

use posthaste::config::{EarlyTalk, ListenAddress};
use posthaste::net::deadline::Deadline;

use super::{MESSAGE, millis};
use crate::support::front::{Client, House, Setup};

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
    let house = House::with(|config| config.intake.session_timeout = millis(1000));
    let mut client = house.client();
    client.open();
    client.send("X: y\r\n\r\n");
    let over = Deadline::after(Duration::from_millis(1100));
    while !over.is_over() {
        client.send("z\r\n");
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
