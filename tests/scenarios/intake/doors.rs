//! The doors themselves: stops, full queues, reloads, binding, few descriptors.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use posthaste::config::{Listen, ListenAddress, Size};
use posthaste::front::listener::Bound;
use posthaste::net::deadline::Deadline;

use super::MESSAGE;
use crate::support::daemon::{PATIENCE, Process, write_config};
use crate::support::front::{Client, House, Setup};
use crate::support::queue::TempDir;

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
        sessions.len() > 4,
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
