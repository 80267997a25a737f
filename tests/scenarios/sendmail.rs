//! Scenarios: the names `sendmail`, `mailq` and `newaliases`, as real processes against a real or a scripted daemon.

#![allow(clippy::unwrap_used)] // a test that cannot set up its daemon has failed

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

use crate::support::daemon::TestDaemon;
use crate::support::program::run;
use crate::support::queue::TempDir;

const TOOL: &str = env!("CARGO_BIN_EXE_posthaste");

/// A configuration file for the tool, with the sockets of `run` in it.
fn file(run: &Path) -> PathBuf {
    let file = run.join("tool.toml");
    let text = format!(
        "hostname = \"here.example\"\n[control]\npath = {:?}\n[[listen]]\naddress = \"unix:{}\"\n",
        run.join("control"),
        run.join("smtp").display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// `posthaste -f FILE NAME ARGS`.
fn named(file: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(TOOL);
    command.arg("-f").arg(file).args(args);
    run(command, input)
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A daemon that delivers nothing, and the file for the tool.
fn daemon() -> (TestDaemon, PathBuf) {
    let daemon = TestDaemon::start("");
    assert_eq!(daemon.control("pause\n"), ["OK 1"]);
    let file = file(&daemon.dir.path().join("run"));
    (daemon, file)
}

/// The values of a key in the listing.
fn listed(daemon: &TestDaemon, key: &str) -> Vec<String> {
    let lines = daemon.control("list sort=queued\n");
    let rows = lines[..lines.len() - 1].iter();
    let words = rows.flat_map(|line| line.split(' '));
    words
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .map(str::to_owned)
        .collect()
}

/// The content of the only message, without what the daemon put in front of it.
fn content(daemon: &TestDaemon) -> Vec<String> {
    let id = &listed(daemon, "id")[0];
    let lines = daemon.control(&format!("show id={id} content\n"));
    let raw = lines.iter().filter_map(|line| line.strip_prefix("| "));
    raw.map(str::to_owned).collect()
}

// SM-1, SM-7, Q-1, Q-21
#[test]
fn a_message_on_standard_input_is_queued_when_the_status_is_0() {
    let (daemon, file) = daemon();
    let input = b"From: x@y.example\nSubject: hello\r\n\n.\n..two\n.three\r\nno end";
    let args = [
        "sendmail",
        "-i",
        "-f",
        "joe@here.example",
        "bob@example.org",
        "ann@example.org",
    ];
    let output = named(&file, &args, input);
    assert_eq!(status(&output), 0, "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    assert_eq!(listed(&daemon, "from"), ["<joe@here.example>"; 2]);
    assert_eq!(
        listed(&daemon, "to"),
        ["<bob@example.org>", "<ann@example.org>"]
    );
    let content = content(&daemon);
    let at = content
        .iter()
        .position(|line| line == "From: x@y.example")
        .unwrap();
    assert_eq!(
        content[at..],
        [
            "From: x@y.example",
            "Subject: hello",
            "",
            ".",
            "..two",
            ".three",
            "no end"
        ]
    );
}

// SM-7
#[test]
fn a_lone_dot_ends_the_message_without_i() {
    let (daemon, file) = daemon();
    let input = b"From: x@y.example\n\nbody\n.\nnot read\n";
    assert_eq!(
        status(&named(&file, &["sendmail", "bob@example.org"], input)),
        0
    );
    assert_eq!(content(&daemon).last().unwrap(), "body");
}

// SM-8, SM-9, MSG-1
#[test]
fn with_t_the_recipients_come_from_the_header_and_bcc_goes() {
    let (daemon, file) = daemon();
    let input = b"To: Bob <bob@example.org>, bob@EXAMPLE.org\nCc: friends: ann@example.org;\n\
        Bcc: hidden@example.org,\n carl@example.org\nSubject: x\n\nbody\n";
    let args = ["sendmail", "-t", "-i", "-F", "Joe Doe", "-f", "joe", "root"];
    let output = named(&file, &args, input);
    assert_eq!(status(&output), 0, "{output:?}");
    assert_eq!(listed(&daemon, "from")[0], "<joe@here.example>");
    assert_eq!(
        listed(&daemon, "to"),
        [
            "<root@here.example>",
            "<bob@example.org>",
            "<ann@example.org>",
            "<hidden@example.org>",
            "<carl@example.org>",
        ]
    );
    let content = content(&daemon).join("\n");
    assert!(
        content.contains("From: Joe Doe <joe@here.example>\nTo: Bob"),
        "{content}"
    );
    assert!(
        !content.contains("hidden") && !content.contains("carl"),
        "{content}"
    );
    assert!(
        content.contains("\nDate: ") || content.starts_with("Date: "),
        "{content}"
    );
}

// SM-7, IN-25
#[test]
fn text_without_a_header_becomes_a_body() {
    let (daemon, file) = daemon();
    let output = named(
        &file,
        &["sendmail", "-f", "<>", "bob@example.org"],
        b"hello\nworld\n",
    );
    assert_eq!(status(&output), 0, "{output:?}");
    assert_eq!(listed(&daemon, "from"), ["<>"]);
    let content = content(&daemon);
    assert_eq!(content[content.len() - 3..], ["", "hello", "world"]);
    assert!(content.contains(&"From: MAILER-DAEMON@here.example".to_owned()));
}

// SM-2, SM-5, SM-7 to SM-9
#[test]
fn what_is_refused_queues_nothing_and_says_so_by_its_status() {
    let (daemon, file) = daemon();
    let message = &b"Subject: x\n\nbody\n"[..];
    for (args, input, expected) in [
        (&["-i"][..], message, 64),
        (&["-t"], message, 64),
        (&["-bd"], message, 64),
        (&["-C/etc/passwd", "bob@example.org"], message, 64),
        (&["-z", "bob@example.org"], message, 64),
        (&["--", "-bob@example.org"], message, 64),
        (&["Bob Smith"], message, 64),
        (&["-f", "a b\nc", "bob@example.org"], message, 64),
        (&["bob@example.org"], b"a\rb\n", 65),
        (&["bob@example.org"], b"Subject: x\n\na\0b\n", 65),
        (&["-t"], b"To: Bob Smith\n\nbody\n", 65),
    ] {
        let args: Vec<&str> = ["sendmail"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        let output = named(&file, &args, input);
        assert_eq!(status(&output), expected, "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(daemon.control("count\n"), ["count=0", "OK 0"]);
}

// SM-1, SM-3
#[test]
fn without_a_daemon_the_status_is_75() {
    let directory = TempDir::new();
    let file = file(directory.path());
    let args = ["sendmail", "bob@example.org"];
    assert_eq!(status(&named(&file, &args, b"Subject: x\n\n")), 75);
    assert_eq!(status(&named(&file, &["mailq"], b"")), 69);
    assert_eq!(status(&named(&file, &["newaliases"], b"")), 0);
}

/// A listener that answers each line that begins with `verb` by `reply`, and everything else well. Returns what it was
/// told, once its client is gone.
fn scripted(path: &Path, verb: &'static str, reply: &'static str) -> JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let (mut heard, mut in_data) = (Vec::new(), false);
        stream.write_all(b"220 here.example\r\n").unwrap();
        while let Some(Ok(line)) = lines.next() {
            heard.push(line.clone());
            let answer = match line.as_str() {
                "." => "250 2.0.0 queued as 1",
                _ if in_data => continue,
                line if line.starts_with("EHLO") => "250-here.example\r\n250 8BITMIME",
                "DATA" => "354 go on",
                "QUIT" => "221 bye",
                _ => "250 ok",
            };
            in_data = (in_data || line == "DATA") && line != ".";
            let refused = line.starts_with(verb);
            in_data &= !refused;
            let answer = if refused { reply } else { answer };
            if stream
                .write_all(format!("{answer}\r\n").as_bytes())
                .is_err()
            {
                break;
            }
        }
        heard
    })
}

// SM-1, SM-3, Q-2
#[test]
fn a_refusal_of_the_daemon_becomes_a_status() {
    for (verb, reply, expected) in [
        ("EHLO", "421 4.3.2 closing", 75),
        ("MAIL", "452 4.3.1 no room", 75),
        ("RCPT TO:<b@", "550 5.1.1 no such user", 67),
        ("RCPT", "554 5.7.1 no relay", 77),
        ("DATA", "451 4.3.0 later", 75),
        (".", "554 5.6.0 bad header", 65),
        (".", "451 4.3.0 not committed", 75),
        (".", "not a reply", 75),
        ("QUIT", "451 4.3.0 odd", 0),
    ] {
        let directory = TempDir::new();
        let file = file(directory.path());
        let server = scripted(&directory.path().join("smtp"), verb, reply);
        let args = ["sendmail", "a@example.org", "b@example.org"];
        let output = named(&file, &args, b"Subject: x\n\nbody\n");
        let heard = server.join().unwrap();
        assert_eq!(status(&output), expected, "{verb} {reply}: {output:?}");
        assert_eq!(
            heard.contains(&".".to_owned()),
            matches!(verb, "." | "QUIT"),
            "{verb}: {heard:?}"
        );
    }
}

// SM-7, SEC-4
#[test]
fn input_that_turns_out_to_be_bad_never_sends_its_dot() {
    let directory = TempDir::new();
    let file = file(directory.path());
    let server = scripted(&directory.path().join("smtp"), "nothing", "");
    let mut input = b"Subject: x\n\n".to_vec();
    for _ in 0..20_000 {
        input.extend_from_slice(b".line\n");
    }
    input.extend_from_slice(b"a bare\rCR\n");
    let output = named(&file, &["sendmail", "-i", "a@example.org"], &input);
    assert_eq!(status(&output), 65, "{output:?}");
    let heard = server.join().unwrap();
    assert!(heard.contains(&"..line".to_owned()) && !heard.contains(&".".to_owned()));
}

// SM-2
#[test]
fn bs_speaks_smtp_with_the_daemon() {
    let (daemon, file) = daemon();
    let dialogue =
        b"EHLO x\r\nMAIL FROM:<joe@here.example>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n\
        Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n";
    let output = named(&file, &["sendmail", "-bs"], dialogue);
    assert_eq!(status(&output), 0, "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("220 ") && text.contains("queued as"),
        "{text}"
    );
    assert_eq!(listed(&daemon, "to"), ["<bob@example.org>"]);
}

// SM-11
#[test]
fn mailq_shows_the_queue_for_people() {
    let (_daemon, file) = daemon();
    let empty = named(&file, &["mailq"], b"");
    assert_eq!(empty.stdout, b"0 recipients, 0B\n");
    let args = [
        "sendmail",
        "-f",
        "joe@here.example",
        "bob@example.org",
        "ann@example.org",
    ];
    assert_eq!(status(&named(&file, &args, b"Subject: x\n\nbody\n")), 0);
    for args in [&["mailq"][..], &["sendmail", "-bp"]] {
        let output = named(&file, args, b"");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ID/N "), "{text}");
        assert!(
            lines[1].ends_with("<joe@here.example> -> <bob@example.org>"),
            "{text}"
        );
        assert_eq!(lines[2].trim(), "paused: all deliveries");
        assert!(lines[5].starts_with("2 recipients, "), "{text}");
    }
    assert_eq!(status(&named(&file, &["mailq", "-v"], b"")), 64);
}

// SM-1, SM-5
#[test]
fn the_name_that_the_program_is_called_by_selects_what_it_is() {
    let directory = TempDir::new();
    let called = |name: &str, args: &[&str]| {
        let link = directory.path().join(name);
        if !link.exists() {
            symlink(TOOL, &link).unwrap();
        }
        let mut command = Command::new(&link);
        command.args(args);
        run(command, b"")
    };
    assert_eq!(status(&called("newaliases", &[])), 0);
    assert_eq!(status(&called("sendmail", &["-bi"])), 0);
    let unknown = called("sendmail", &["-bd"]);
    assert_eq!(status(&unknown), 64);
    assert!(unknown.stderr.starts_with(b"sendmail: "));
    assert_eq!(status(&called("mailq", &["what"])), 64);
    // As itself it wants a verb.
    assert_eq!(status(&called("posthaste", &[])), 64);
}
