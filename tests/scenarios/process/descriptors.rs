//! A real daemon that runs out of descriptors (PRC-5).

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, geteuid, sysconf};

use super::{MAIL, toward};
use crate::support::daemon::{PATIENCE, Process, within, write_config};
use crate::support::dns::DnsServer;
use crate::support::mx::{At, Do, Mx, Script, on};
use crate::support::queue::TempDir;

/// Most descriptors of the daemon.
const MOST: usize = 64;

/// A daemon that may not raise its limit.
fn start(more: &str) -> Process {
    let dir = Arc::new(TempDir::new());
    let file = write_config(&dir, more);
    // Without the descriptors that whoever runs the tests has left open, or there would be fewer.
    let script =
        "for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ $fd -lt 3 ] || eval \"exec $fd>&-\"; done
        ulimit -n \"$2\"; exec \"$0\" -F -f \"$1\"";
    let mut command = Command::new("bash");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_posthasted")])
        .arg(file)
        .arg(MOST.to_string());
    let process = Process::spawn(dir, command);
    process.wait_for(" start ");
    process
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The first line that a client of this listener reads.
fn greeting(path: &Path) -> String {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

/// Processor time that a process has used.
fn processor_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Its second word is a name in brackets, which may hold anything.
    let after = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum();
    let second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_millis(ticks * 1000 / u64::try_from(second).unwrap())
}

// PRC-5, IN-29, CTL-2
#[test]
fn without_a_descriptor_left_accepting_rests_and_goes_on_when_there_are_some() {
    // A receiver that keeps its connections, of which there may be more than descriptors.
    let script = Script::new().rule(on(At::Greeting, Do::Stall));
    let (dns, mx) = (DnsServer::start(), Mx::start(script));
    let more = toward(&dns, &mx).replace("[deliver]\n", "[deliver]\naddress_literals = true\n");
    // One destination gets half of the workers.
    let daemon = start(&format!(
        "workers = 100\n{more}[limits]\nconnections = 60\ninitial = 60\n"
    ));
    let pid = daemon.pid();
    assert_eq!(daemon.control("pause"), ["OK 1"]);
    for _ in 0..50 {
        daemon.submit("ann@here.test", &["bob@[127.0.0.1]"], MAIL);
    }
    assert_eq!(daemon.control("resume"), ["OK 1"]);
    // A delivery that finds none is a fault of our own.
    daemon.wait_for("Too many open files");
    within("all to be in use", move || {
        while descriptors(pid) < MOST {
            std::thread::yield_now();
        }
    });

    let mut late = greeting(&daemon.unix());
    daemon.wait_for("cannot accept: Too many open files");
    assert!(late.starts_with("421 4.3.2"), "{late}");
    let before = processor_time(pid);
    for _ in 0..4 {
        late = greeting(&daemon.unix());
        assert!(late.starts_with("421 4.3.2"), "{late}");
        sleep(Duration::from_millis(250));
    }
    let used = processor_time(pid) - before;
    assert!(used < Duration::from_millis(200), "{used:?} of a second");
    if geteuid().is_root() {
        let version = daemon.control("version\nquit\n");
        assert_eq!(version.last().unwrap(), "OK bye");
    }

    drop(mx);
    within("a client to be served", move || {
        while !greeting(&daemon.unix()).starts_with("220") {
            std::thread::yield_now();
        }
    });
}
