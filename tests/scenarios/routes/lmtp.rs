//! LMTP over TCP and Unix sockets, against a server of a few lines. A real one is in tests/peers/lmtp.sh.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::{CONTENT, QUICK, manual, queue_is_empty, relay, route, until};
use crate::support::daemon::{Process, TestDaemon};
use crate::support::mx::{Mx, Script};
use crate::support::queue::TempDir;

/// What a session said, up to its end.
type Heard = Receiver<String>;

/// One session: `later` is put off, `full` is refused after the dot, everybody else is kept. `who` is its greeting.
fn session(stream: impl Read + Write, heard: &Sender<String>, who: &str) {
    let mut reader = BufReader::new(stream);
    let say = |reader: &mut BufReader<_>, text: String| {
        let stream: &mut _ = BufReader::get_mut(reader);
        Write::write_all(stream, text.as_bytes()).is_ok()
    };
    say(&mut reader, format!("220 {who} LMTP\r\n"));
    let mut recipients: Vec<String> = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
        let text = line.trim_end().to_owned();
        line.clear();
        let _ = heard.send(text.clone());
        let verb = text.get(..4).unwrap_or_default();
        let mut answer = String::new();
        match verb {
            "LHLO" => answer.push_str(
                "250-store\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME\r\n",
            ),
            "RCPT" if text.contains("<nobody@") => answer.push_str("550 5.1.1 no such user\r\n"),
            "RCPT" => {
                recipients.push(text.clone());
                answer.push_str("250 2.1.5 ok\r\n");
            }
            "DATA" if recipients.is_empty() => answer.push_str("503 5.5.1 nobody\r\n"),
            "DATA" => {
                say(&mut reader, "354 go\r\n".to_owned());
                loop {
                    line.clear();
                    if !reader.read_line(&mut line).is_ok_and(|n| n > 0) || line == ".\r\n" {
                        break;
                    }
                }
                line.clear();
                for recipient in recipients.drain(..) {
                    answer.push_str(match recipient {
                        r if r.contains("<later@") => "452 4.2.2 over quota\r\n",
                        r if r.contains("<full@") => "552 5.2.2 over quota for good\r\n",
                        _ => "250 2.0.0 kept\r\n",
                    });
                }
            }
            "QUIT" => answer.push_str("221 2.0.0 bye\r\n"),
            "EHLO" | "HELO" => answer.push_str("500 5.5.1 this is LMTP\r\n"),
            _ => answer.push_str("250 2.0.0 ok\r\n"),
        }
        if !say(&mut reader, answer) || verb == "QUIT" {
            return;
        }
    }
}

/// Listens on a Unix socket until the test ends.
fn unix(path: &Path, who: &'static str) -> Heard {
    let listener = UnixListener::bind(path).unwrap();
    // A daemon of its own account may come, too.
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    let (sender, heard) = unbounded();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || session(stream, &sender, who));
        }
    });
    heard
}

/// The next command that begins so.
fn next(heard: &Heard, verb: &str) -> String {
    loop {
        let line = heard
            .recv_timeout(std::time::Duration::from_secs(30))
            .unwrap_or_else(|error| panic!("no {verb}: {error}"));
        if line.starts_with(verb) {
            return line;
        }
    }
}

// RO-14, CFG-20, DV-10
#[test]
fn each_recipient_is_settled_by_its_own_reply_after_the_dot() {
    let dir = Arc::new(TempDir::new());
    let socket = dir.path().join("lmtp");
    // The store on this host has its name.
    let heard = unix(&socket, "posthaste.test");
    let mx = Mx::start(Script::new());
    let clock = manual();
    let more = [
        QUICK.to_owned(),
        relay("out", &mx),
        format!(
            "[[transport]]\nname = \"store\"\nkind = \"lmtp\"\nhosts = [\"unix:{}\"]\n",
            socket.display()
        ),
        route("store", "to = [\"dest.example\"]"),
        route("out", ""),
    ]
    .concat();
    let daemon = TestDaemon::start_in(dir, clock.clone(), &more).unwrap();
    daemon.submit(
        "ann@here.example",
        &[
            "bob@dest.example",
            "later@dest.example",
            "nobody@dest.example",
            "full@dest.example",
        ],
        CONTENT,
    );
    assert_eq!(next(&heard, "LHLO"), "LHLO posthaste.test");
    // One notice tells of both that failed, each with its own words.
    let notice = mx.next_transaction();
    assert_eq!(notice.recipients(), ["ann@here.example"]);
    let mut text = String::from_utf8(notice.content).unwrap();
    if !text.contains("over quota for good") || !text.contains("no such user") {
        text.push_str(&String::from_utf8(mx.next_transaction().content).unwrap());
    }
    for wanted in [
        "Status: 5.2.2\r\n",
        "Status: 5.1.1\r\n",
        "Diagnostic-Code: smtp; 552 5.2.2 over quota for good\r\n",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("Remote-MTA"), "{text}");
    let waits = until(&daemon, "list\n", |answer| {
        answer.contains("state=queued attempts=1 ") && answer.ends_with("OK 1")
    });
    assert!(
        waits.contains("to=<later@dest.example>") && waits.contains("452 4.2.2 over quota"),
        "{waits}"
    );
    assert!(!waits.contains("doubt="), "{waits}");
    assert_eq!(daemon.control("drop all\n"), ["OK 1"]);
    queue_is_empty(&daemon);
    // RO-16
    let tried = daemon.control("transports test=store\n").join("\n");
    assert!(
        tried.contains("host=unix:") && !tried.contains("0.0.0.0"),
        "{tried}"
    );
    for step in ["connect", "greeting", "ehlo", "noop", "quit"] {
        assert!(tried.contains(&format!("step={step} result=ok")), "{tried}");
    }
    let listed = daemon.control("transports\n").join("\n");
    assert!(listed.contains("kind=lmtp"), "{listed}");
}

// RO-14, CL-24, OBS-1
#[test]
fn the_log_names_the_socket_and_sessions_are_used_again() {
    let dir = Arc::new(TempDir::new());
    let socket = dir.path().join("lmtp");
    let heard = unix(&socket, "store");
    let more = format!(
        "[[transport]]\nname = \"store\"\nkind = \"lmtp\"\nhosts = [\"unix:{}\"]\n[[route]]\ntransport = \"store\"\n",
        socket.display()
    );
    let daemon = Process::start_in(dir, &more);
    for round in 1..=3 {
        let id = daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
        let line = daemon.wait_for(&format!(" deliver qid={id} "));
        assert!(
            line.contains(&format!(" relay=unix:{} ", socket.display())),
            "{line}"
        );
        assert!(
            line.contains(" stage=final-dot code=250 ") && line.contains(" result=delivered "),
            "{line}"
        );
        if round == 1 {
            next(&heard, "LHLO");
        }
        next(&heard, "MAIL");
    }
    let said: Vec<String> = heard.try_iter().collect();
    assert!(
        !said.iter().any(|line| line.starts_with("LHLO")),
        "{said:?}"
    );
}

// RO-14, DV-19
#[test]
fn lmtp_over_tcp_and_a_socket_that_is_not_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, heard) = unbounded();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || session(stream, &sender, "store"));
        }
    });
    let dir = Arc::new(TempDir::new());
    let clock = manual();
    let more = [
        QUICK.to_owned(),
        format!(
            "[[transport]]\nname = \"tcp\"\nkind = \"lmtp\"\nhosts = [\"127.0.0.1:{port}\"]\ntls = \"none\"\n\
             [[transport]]\nname = \"gone\"\nkind = \"lmtp\"\nhosts = [\"unix:{}\"]\n",
            dir.path().join("gone").display()
        ),
        route("gone", "to = [\"gone.example\"]"),
        route("tcp", ""),
    ]
    .concat();
    let daemon = TestDaemon::start_in(dir, clock, &more).unwrap();
    daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    next(&heard, "LHLO");
    assert!(next(&heard, "RCPT").starts_with("RCPT TO:<bob@dest.example>"));
    queue_is_empty(&daemon);
    daemon.submit("ann@here.example", &["cid@gone.example"], CONTENT);
    let waits = until(&daemon, "list\n", |answer| {
        answer.contains("blocker=\"4.4.1 ")
    });
    assert!(
        waits.contains("attempts=1 ") && waits.contains("connect to unix:"),
        "{waits}"
    );
}
