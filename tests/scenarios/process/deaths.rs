//! The end of a thread without which nothing goes on (PRC-3).
//!
//! The daemon runs in a process of its own, which is this test program once more: its log panics when a certain thread
//! says a certain thing, and everything else is as in posthasted.

use std::env;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use log::{Log, Metadata, Record};
use nix::unistd::{getegid, geteuid};
use posthaste::clock::{Clock, Timestamp};
use posthaste::config::Config;
use posthaste::daemon::{Daemon, Doors, Setup, fatal};

use super::MAIL;
use crate::support::daemon::{PATIENCE, Smtp, config, control, control_path, submit_over};
use crate::support::queue::TempDir;

/// Names the thread that is to die, and makes a run of this test the one that dies.
const DIES: &str = "POSTHASTE_TEST_DIES";
/// The directory of that daemon, which cannot clean up behind itself.
const DIRECTORY: &str = "POSTHASTE_TEST_DIRECTORY";

/// Panics in a thread that says this.
struct Trap {
    thread: String,
    words: &'static str,
}

impl Log for Trap {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let words = record.args().to_string();
        eprintln!("{words}");
        let here = thread::current().name() == Some(&self.thread);
        assert!(!here || words != self.words, "the trap");
    }

    fn flush(&self) {}
}

/// Runs a daemon until `thread` dies of what it logs when `provoke` is done.
fn die(thread: &str, words: &'static str, more: &str, provoke: impl FnOnce(&Path, &Clock)) -> ! {
    let trap = Trap {
        thread: thread.to_owned(),
        words,
    };
    log::set_boxed_logger(Box::new(trap)).unwrap();
    log::set_max_level(log::LevelFilter::Info);
    let dir = PathBuf::from(env::var_os(DIRECTORY).unwrap());
    let mut config = Config::parse(&config(&dir, more), Path::new("test.toml")).unwrap();
    (config.user, config.group) = (None, None);
    let doors = Doors::bind(&config, (geteuid().as_raw(), getegid().as_raw())).unwrap();
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let setup = Setup {
        clock: clock.clone(),
        source: Arc::new(|| unreachable!("nobody reloads")),
        fatal: fatal(None),
        log: None,
        panics: Arc::default(),
    };
    let daemon = Daemon::start(config, doors, setup).unwrap();
    let running = thread::spawn(move || daemon.run());
    provoke(&dir, &clock);
    let late = Instant::now() + PATIENCE;
    while !running.is_finished() {
        if Instant::now() > late {
            eprintln!("it goes on without its thread");
            exit(1);
        }
        thread::sleep(Duration::from_millis(10));
    }
    // What `main` does with it.
    match running.join().unwrap() {
        Ok(()) => exit(0),
        Err(error) => {
            eprintln!("{error}");
            exit(i32::from(error.exit_status()))
        }
    }
}

/// Runs the test `name` once more, as the process in which `thread` dies; its status and what it wrote.
fn run(name: &str, thread: &str) -> (Option<i32>, String) {
    let name = format!("process::deaths::{name}");
    let dir = TempDir::new();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(DIES, thread)
        .env(DIRECTORY, dir.path())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), log)
}

/// Whether this process is the one whose thread dies.
fn dies() -> Option<String> {
    env::var(DIES).ok()
}

// PRC-3, PRC-10
#[test]
fn a_daemon_whose_acceptor_dies_exits_70() {
    if let Some(thread) = dies() {
        let more = "[intake]\nsessions = 1\n";
        die(&thread, "rejected", more, |dir, _| {
            // It stays, and the next is turned away by the acceptor, which says so.
            std::mem::forget(Smtp::over_unix(&dir.join("run/smtp")));
            let _next = UnixStream::connect(dir.join("run/smtp")).unwrap();
        });
    }
    let (status, log) = run("a_daemon_whose_acceptor_dies_exits_70", "accept unix");
    assert_eq!(status, Some(70), "{log}");
    assert!(log.contains("the trap"), "{log}");
}

// PRC-3, PRC-10
#[test]
fn a_daemon_whose_control_socket_dies_exits_70() {
    if let Some(thread) = dies() {
        die(&thread, "rejected", "", |dir, _| {
            let mut clients = Vec::new();
            // As many as there may be stay, and the next is turned away by the acceptor, which says so.
            while let Ok(client) = UnixStream::connect(control_path(dir)) {
                clients.push(client);
                assert!(clients.len() < 1000, "nobody is turned away");
            }
        });
    }
    let (status, log) = run("a_daemon_whose_control_socket_dies_exits_70", "control");
    assert_eq!(status, Some(70), "{log}");
    assert!(log.contains("the trap"), "{log}");
}

// PRC-3, PRC-10
#[test]
fn a_daemon_whose_dispatcher_dies_exits_70() {
    if let Some(thread) = dies() {
        die(&thread, "clock-went-back", "", |dir, clock| {
            let said = |line: &str| control(&control_path(dir), line);
            assert_eq!(said("pause"), ["OK 1"]);
            let smtp = Smtp::over_unix(&dir.join("run/smtp"));
            submit_over(smtp, "ann@here.test", &["bob@dest.test"], MAIL);
            // There is mail that would wait too long now.
            clock.set(Timestamp::from_secs(1_700_000_000));
            let _ = said("resume");
        });
    }
    let (status, log) = run("a_daemon_whose_dispatcher_dies_exits_70", "dispatcher");
    assert_eq!(status, Some(70), "{log}");
    assert!(log.contains("the trap"), "{log}");
}

// PRC-3, PRC-10, DSN-2
#[test]
fn a_daemon_whose_writer_dies_exits_70() {
    if let Some(thread) = dies() {
        let more = "[dsn]\ncollect = \"0s\"\n";
        die(&thread, "notice", more, |dir, _| {
            let said = |line: &str| control(&control_path(dir), line);
            assert_eq!(said("pause"), ["OK 1"]);
            let smtp = Smtp::over_unix(&dir.join("run/smtp"));
            submit_over(smtp, "ann@here.test", &["bob@dest.test"], MAIL);
            assert_eq!(said("fail all"), ["OK 1"]);
            // The sender cannot be told either, which is the last word of the writer.
            while said("list").len() < 2 {
                thread::yield_now();
            }
            let _ = said("fail all");
        });
    }
    let (status, log) = run("a_daemon_whose_writer_dies_exits_70", "store-writer");
    assert_eq!(status, Some(70), "{log}");
    assert!(log.contains("store-writer"), "{log}");
}
