//! The SMTP client against scripted MX hosts, with real workers and a real queue.

pub mod bench;
mod hosts;
mod replies;
mod sessions;
mod stops;
mod streams;

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::support::mx::{At, Mx, Script, reply};

/// The scripted MX itself, so that what stands on it stands firm.
#[test]
fn the_scripted_mx_obeys_its_rules_and_remembers_what_it_saw() {
    let mx = Mx::start(
        Script::new().rule(
            reply(At::Rcpt, "550 5.1.1 unknown")
                .line("bob@")
                .transaction(1),
        ),
    );
    let mut tcp = TcpStream::connect(mx.address()).unwrap();
    tcp.write_all(
        b"EHLO here.test\r\nMAIL FROM:<a@here.test>\r\nRCPT TO:<bob@d.test>\r\nRCPT TO:<ann@d.test>\r\nDATA\r\n\
          S: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n",
    )
    .unwrap();
    let mut replies = String::new();
    tcp.read_to_string(&mut replies).unwrap();
    assert!(
        replies.contains("\r\n550 5.1.1 unknown\r\n250 2.1.5 ok\r\n354 "),
        "{replies}"
    );
    let seen = mx.next_transaction();
    assert_eq!(seen.recipients(), ["ann@d.test"]);
    assert_eq!(seen.reverse_path(), "a@here.test");
    assert_eq!(seen.content, b"S: x\r\n\r\n.dot\r\n");
    assert!(seen.accepted && !seen.tls);
    drop(tcp);
    assert_eq!(mx.next_close(), 1);
}
