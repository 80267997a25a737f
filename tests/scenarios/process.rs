//! The daemon as a process: start, exit statuses, signals, stop (PRC, CFG-5, CFG-8, ST-9).

#![allow(clippy::unwrap_used)] // a test that cannot start its processes has failed

mod deaths;
mod descriptors;
mod trail;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use posthaste::daemon::Ask;

use crate::support::daemon::{
    PATIENCE, Process, Smtp, TestDaemon, config, control_path, posthasted, run, submit_over,
    within, write_config,
};
use crate::support::dns::DnsServer;
use crate::support::mx::{At, Do, Gate, Mx, Script, on};
use crate::support::queue::TempDir;

/// The tables that send mail for `dest.test` to this receiver.
fn toward(dns: &DnsServer, mx: &Mx) -> String {
    dns.mx("dest.test", 10, "mx.dest.test");
    dns.a("mx.dest.test", "127.0.0.1");
    format!(
        "[dns]\nservers = [\"{}\"]\n[deliver]\nsmtp_port = {}\nallow_private = true\nfamily = \"only4\"\n",
        dns.addr(),
        mx.port()
    )
}

const MAIL: &str = "Subject: hi\n\nhello\n";

/// A line of `/proc/PID/FILE` that begins with `key`.
fn proc_line(pid: Pid, file: &str, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    text.lines()
        .find(|line| line.starts_with(key))
        .unwrap()
        .to_owned()
}

/// A socket for sd_notify(3).
fn notify_socket(dir: &TempDir) -> (UnixDatagram, std::path::PathBuf) {
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    // The daemon is nobody by the time it has something to say.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (socket, path)
}

fn receive(socket: &UnixDatagram) -> String {
    let mut buf = [0; 256];
    let n = socket.recv(&mut buf).unwrap();
    String::from_utf8_lossy(&buf[..n]).into_owned()
}

/// Runs posthasted detached, with its log on the pipe that is returned, and its pid once the start has returned.
/// The pipe is at its end when the daemon is.
fn detached(dir: &TempDir, more: &str) -> (Option<i32>, impl Read + use<>, String) {
    let file = dir.path().join("posthaste.toml");
    let more = format!("{more}\n[log]\nto = \"stderr\"\n");
    fs::write(&file, config(dir.path(), &more)).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = posthasted();
    command
        .arg("-f")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer);
    let status = command.status().unwrap();
    // The last copy of the writing end here goes with the command.
    drop(command);
    let pid = fs::read_to_string(dir.path().join("run/pid")).unwrap_or_default();
    (status.code(), reader, pid)
}

// Q-1, RT-1
#[test]
fn a_message_goes_in_by_smtp_and_out_by_smtp() {
    let (dns, mx) = (DnsServer::start(), Mx::start(Script::default()));
    let daemon = TestDaemon::start(&toward(&dns, &mx));
    daemon.submit(
        "ann@here.test",
        &["bob@dest.test"],
        "Subject: hi\n\n.hello\n",
    );
    let seen = mx.next_transaction();
    assert_eq!(seen.reverse_path(), "ann@here.test");
    assert_eq!(seen.recipients(), ["bob@dest.test"]);
    assert!(String::from_utf8_lossy(&seen.content).ends_with("\r\n\r\n.hello\r\n"));
    daemon.stop();
}

// PRC-2, PRC-10
#[test]
fn the_process_takes_mail_delivers_it_and_stops_at_sigterm_and_sigint() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (dns, mx) = (DnsServer::start(), Mx::start(Script::default()));
        let mut daemon = Process::start(&toward(&dns, &mx));
        daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
        mx.next_transaction();
        daemon.wait_for("result=delivered");
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!daemon.dir.path().join("run/control").exists());
        // Checkpointed: nothing is left in the write-ahead log.
        let wal = fs::metadata(daemon.dir.path().join("queue/queue.db-wal"));
        assert_eq!(wal.map_or(0, |wal| wal.len()), 0);
    }
}

/// The policies of sched(7) that the threads of a process have, without repetition.
fn policies(pid: Pid) -> BTreeSet<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
    // proc_pid_stat(5): the 41st word, and the second, in parentheses, may have spaces.
    let policy = |stat: String| {
        let (_, words) = stat.rsplit_once(')').unwrap();
        words.split_whitespace().nth(38).unwrap().parse().unwrap()
    };
    stats.map(policy).collect()
}

#[test]
fn all_threads_are_batch_work_unless_the_configuration_says_otherwise() {
    // A policy that the tests were started with stays.
    let ours = policies(Pid::this());
    let batch = if ours == BTreeSet::from([0]) {
        BTreeSet::from([3])
    } else {
        ours.clone()
    };
    for (wanted, expected) in [("", batch), ("scheduling = \"inherit\"\n", ours)] {
        let mut daemon = Process::start(wanted);
        assert_eq!(policies(daemon.pid()), expected);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

// PRC-9, CFG-9
#[test]
fn a_detached_start_returns_when_the_daemon_is_ready_and_leaves_a_pid_file() {
    let dir = TempDir::new();
    let (status, mut log, pid) = detached(&dir, "");
    assert_eq!(status, Some(0));
    // Ready means ready: no waiting here.
    let answer = crate::support::daemon::control(&control_path(dir.path()), "version");
    assert!(answer.last().unwrap().starts_with("OK"), "{answer:?}");
    let pid = Pid::from_raw(pid.trim().parse().unwrap());
    assert_eq!(proc_line(pid, "status", "Name:"), "Name:\tposthasted");
    for fd in [0, 1] {
        let target = fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        // A process that may not be looked at, because it holds mail, shows nothing to others than root.
        assert!(target.is_err() || target.unwrap() == Path::new("/dev/null"));
    }
    assert_eq!(
        fs::metadata(dir.path().join("run/pid")).unwrap().mode() & 0o777,
        0o644
    );
    kill(pid, Signal::SIGTERM).unwrap();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains(" stop pid="), "{text}");
    assert!(!dir.path().join("run/pid").exists());
}

// PRC-9, CFG-8
#[test]
fn a_detached_start_that_fails_says_why_and_returns_the_status_of_its_failure() {
    let dir = TempDir::new();
    let more = "[[listen]]\naddress = \"192.0.2.77:2525\"\n";
    let (status, mut log, pid) = detached(&dir, more);
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!((status, pid.as_str()), (Some(78), ""), "{text}");
    assert!(
        text.lines().last().unwrap().contains("192.0.2.77:2525"),
        "{text}"
    );
}

// ST-9
#[test]
fn a_second_daemon_on_the_queue_is_75_and_disturbs_nothing() {
    let daemon = Process::start("");
    let file = daemon.dir.path().join("posthaste.toml");
    let again = run(&["-f", &file.to_string_lossy()]);
    assert_eq!(again.status.code(), Some(75));
    let stderr = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    // Also one with sockets of its own.
    let other = TempDir::new();
    let queue = format!(
        "[queue]\npath = \"{}/queue\"\n",
        daemon.dir.path().display()
    );
    let file = write_config(&other, &queue);
    assert_eq!(
        run(&["-F", "-f", &file.to_string_lossy()]).status.code(),
        Some(75)
    );
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    assert_eq!(daemon.stop().0.code(), Some(0));
}

// CFG-8, ST-11
#[test]
fn what_the_configuration_names_and_cannot_be_used_stops_the_start_with_one_last_line() {
    let blocked = TempDir::new();
    let file = blocked.path().join("file");
    fs::write(&file, "not a queue").unwrap();
    let (dir, file) = (blocked.path().display(), file.display());
    for (more, status, words) in [
        (
            format!("[queue]\npath = \"{file}\"\n"),
            78,
            "is not a directory",
        ),
        (
            format!("[queue]\npath = \"{dir}/no/such/queue\"\n"),
            78,
            "queue.path: ",
        ),
        (
            format!("[log]\nto = \"{dir}/no/such/log\"\n"),
            78,
            "log.to: ",
        ),
        (
            format!("[[listen]]\naddress = \"unix:{file}\"\n"),
            78,
            "listen: ",
        ),
        (
            format!("[[listen]]\naddress = \"unix:{dir}/no/such/smtp\"\n"),
            78,
            "listen: ",
        ),
        (
            format!("[control]\npath = \"{file}\"\n"),
            78,
            "control.path: ",
        ),
    ] {
        let own = TempDir::new();
        // Not -F, which logs to standard error whatever the file says.
        let config = write_config(&own, &more);
        let output = run(&["-f", &config.to_string_lossy()]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{more}: {stderr}");
        let last = stderr.lines().last().unwrap();
        assert!(
            last.starts_with("posthasted: ") && last.contains(words),
            "{more}: {stderr}"
        );
        assert!(
            !own.path().join("run/pid").exists()
                || fs::read(own.path().join("run/pid")).unwrap().is_empty()
        );
    }
    let own = TempDir::new();
    let text = config(own.path(), "").replace("/run/pid\"", "/no/such/pid\"");
    let config = own.path().join("f.toml");
    fs::write(&config, text).unwrap();
    let output = run(&["-f", &config.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("pid_file: "));
}

// CFG-8, ST-11
#[test]
fn a_damaged_database_is_refused_and_stays_as_it_is() {
    let daemon = Process::start("");
    let (_, dir) = daemon.stop();
    let database = dir.path().join("queue/queue.db");
    fs::write(&database, "this was a queue").unwrap();
    let file = dir.path().join("posthaste.toml");
    let output = run(&["-F", "-f", &file.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(fs::read(&database).unwrap(), b"this was a queue");
}

// PRC-1, SEC-1
#[test]
fn started_as_root_it_becomes_the_account_for_good() {
    let daemon = Process::start("");
    let us = geteuid();
    let expected = match us.is_root() {
        true => User::from_name("nobody").unwrap().unwrap().uid,
        false => us,
    };
    let uid = proc_line(daemon.pid(), "status", "Uid:");
    assert_eq!(
        uid,
        format!("Uid:\t{expected}\t{expected}\t{expected}\t{expected}")
    );
    if us.is_root() {
        let status = proc_line(daemon.pid(), "status", "CapEff:");
        assert_eq!(status, "CapEff:\t0000000000000000");
        let groups = proc_line(daemon.pid(), "status", "Groups:");
        assert!(groups.split_whitespace().count() <= 2, "{groups}");
    }
    // SEC-2, CTL-3
    let mode = |path: &str| fs::metadata(daemon.dir.path().join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("queue"), mode("run/control"), mode("run/smtp")),
        (0o700, 0o660, 0o666)
    );
    let owner = fs::metadata(daemon.dir.path().join("queue/queue.db"))
        .unwrap()
        .uid();
    assert_eq!(owner, expected.as_raw());
}

// PRC-1, SM-10
#[test]
fn closed_descriptors_0_to_2_become_dev_null_and_not_the_database() {
    let dir = Arc::new(TempDir::new());
    let (socket, notify) = notify_socket(&dir);
    let file = write_config(&dir, "");
    let mut command = Command::new("/bin/sh");
    command
        .arg("-c")
        .arg("exec \"$0\" -F -f \"$1\" <&- >&- 2>&-");
    command
        .arg(env!("CARGO_BIN_EXE_posthasted"))
        .arg(&file)
        .env("NOTIFY_SOCKET", &notify);
    let mut daemon = Process::spawn(Arc::clone(&dir), command);
    assert_eq!(receive(&socket), "READY=1");
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/{}/fd/{fd}", daemon.pid())).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

// PRC-9
#[test]
fn systemd_is_told_when_everything_is_bound_and_opened() {
    let dir = Arc::new(TempDir::new());
    let (socket, notify) = notify_socket(&dir);
    let file = write_config(&dir, "");
    let mut command = posthasted();
    command
        .arg("-F")
        .arg("-f")
        .arg(&file)
        .env("NOTIFY_SOCKET", &notify);
    let daemon = Process::spawn(dir, command);
    assert_eq!(receive(&socket), "READY=1");
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    assert_eq!(daemon.stop().0.code(), Some(0));
}

// SEC-10, PRC-5
#[test]
fn the_limit_of_descriptors_is_raised_and_core_dumps_are_off_unless_in_the_foreground() {
    let dir = TempDir::new();
    let (status, mut log, pid) = detached(&dir, "");
    assert_eq!(status, Some(0));
    let pid = Pid::from_raw(pid.trim().parse().unwrap());
    if let Ok(limits) = fs::read_to_string(format!("/proc/{pid}/limits")) {
        let words = |key: &str| {
            let line = limits.lines().find(|line| line.starts_with(key)).unwrap();
            let words: Vec<&str> = line[key.len()..].split_whitespace().collect();
            (words[0].to_owned(), words[1].to_owned())
        };
        assert_eq!(words("Max core file size"), ("0".into(), "0".into()));
        let (soft, hard) = words("Max open files");
        assert_eq!(soft, hard);
    }
    kill(pid, Signal::SIGTERM).unwrap();
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
}

// PRC-5
#[test]
fn sixty_four_descriptors_suffice_and_fewer_are_refused() {
    let (dns, mx) = (DnsServer::start(), Mx::start(Script::default()));
    let start = |limit: u32| {
        let dir = Arc::new(TempDir::new());
        let file = write_config(&dir, &toward(&dns, &mx));
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(format!("ulimit -n {limit}; exec \"$0\" -F -f \"$1\""));
        command.arg(env!("CARGO_BIN_EXE_posthasted")).arg(&file);
        Process::spawn(dir, command)
    };
    let daemon = start(64);
    daemon.wait_for(" start ");
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    mx.next_transaction();
    daemon.wait_for("result=delivered");
    // OBS-1: the message is finished.
    daemon.wait_for(" done qid=");
    assert_eq!(daemon.stop().0.code(), Some(0));
    let mut daemon = start(40);
    daemon.wait_for("40 descriptors are allowed, 64 are needed");
    assert_eq!(daemon.wait().code(), Some(71));
}

// PRC-1
#[test]
fn a_low_port_without_the_right_to_it_is_a_clear_error() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let port = first.trim().parse::<u16>().unwrap().saturating_sub(1);
    if port == 0 {
        return; // no port is low here
    }
    let dir = TempDir::new();
    let text = config(
        dir.path(),
        &format!("[[listen]]\naddress = \"127.0.0.1:{port}\"\n"),
    );
    // Nobody may not look into everybody's build directory.
    let program = dir.path().join("posthasted");
    fs::copy(env!("CARGO_BIN_EXE_posthasted"), &program).unwrap();
    let file = dir.path().join("f.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(&program);
    command.arg("-F").arg("-f").arg(&file).stdin(Stdio::null());
    if geteuid().is_root() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
        std::os::unix::fs::chown(dir.path(), Some(nobody.uid.as_raw()), None).unwrap();
    }
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{stderr}");
    assert!(
        stderr.contains("need root or CAP_NET_BIND_SERVICE"),
        "{stderr}"
    );
}

// CFG-5
#[test]
fn a_reload_opens_a_rotated_log_anew() {
    let dir = TempDir::new();
    let log = dir.path().join("run/log");
    let (socket, notify) = notify_socket(&dir);
    let file = write_config(&dir, "");
    let mut command = posthasted();
    command.arg("-f").arg(&file).env("NOTIFY_SOCKET", &notify);
    assert_eq!(command.status().unwrap().code(), Some(0));
    assert_eq!(receive(&socket), "READY=1");
    let pid = fs::read_to_string(dir.path().join("run/pid")).unwrap();
    let pid = Pid::from_raw(pid.trim().parse().unwrap());
    let control =
        |line: &'static str| crate::support::daemon::control(&control_path(dir.path()), line);
    assert_eq!(fs::metadata(&log).unwrap().mode() & 0o777, 0o640);
    fs::rename(&log, dir.path().join("run/log.1")).unwrap();
    // The verb and the signal are one thing; the verb answers when it is done.
    assert_eq!(control("reload"), ["OK reloaded"]);
    assert!(log.exists());
    kill(pid, Signal::SIGTERM).unwrap();
    let gone = control_path(dir.path());
    within("the stop", move || {
        while UnixStream::connect(&gone).is_ok() {
            std::thread::yield_now();
        }
    });
}

// CFG-5
#[test]
fn sighup_with_a_faulty_file_goes_on_with_the_old_one_and_logs_the_fault() {
    let daemon = Process::start("");
    let file = daemon.dir.path().join("posthaste.toml");
    fs::write(&file, config(daemon.dir.path(), "[retry]\nlifetime = 5\n")).unwrap();
    daemon.signal(Signal::SIGHUP);
    let line = daemon.wait_for(" reload-refused ");
    assert!(
        line.contains(" error ") && line.contains("retry.lifetime: the number 5"),
        "{line}"
    );
    fs::write(
        &file,
        config(daemon.dir.path(), "[retry]\nlifetime = \"1h\"\n"),
    )
    .unwrap();
    daemon.signal(Signal::SIGHUP);
    let line = daemon.wait_for(" reloaded ");
    assert!(line.contains("changed=retry.lifetime"), "{line}");
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    assert_eq!(daemon.stop().0.code(), Some(0));
}

// OBS-12
#[test]
fn sigusr1_logs_a_summary() {
    let daemon = Process::start("");
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    daemon.signal(Signal::SIGUSR1);
    let line = daemon.wait_for(" summary ");
    assert!(
        line.contains(" messages=1 ") && line.contains(" workers=64"),
        "{line}"
    );
}

// PRC-2, Q-13
#[test]
fn a_transaction_that_is_under_way_may_end_within_the_grace() {
    let gate = Gate::new();
    let script = Script::new().rule(on(At::Dot, Do::Gate(gate.clone())));
    let (dns, mx) = (DnsServer::start(), Mx::start(script));
    let mut daemon = Process::start(&toward(&dns, &mx));
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    within_stage(&daemon, "stage=final-dot");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for(" stopping ");
    gate.open();
    daemon.wait_for("result=delivered");
    assert_eq!(daemon.wait().code(), Some(0));
    let again = Process::start_in(Arc::clone(&daemon.dir), &toward(&dns, &mx));
    assert_eq!(again.control("list"), ["OK 0"]);
    assert_eq!(mx.transactions().len(), 1);
}

// PRC-2
#[test]
fn a_second_signal_cuts_what_has_not_sent_its_dot_and_it_is_tried_again_without_a_mark() {
    let script = Script::new().rule(on(At::Mail, Do::Stall));
    let (dns, mx) = (DnsServer::start(), Mx::start(script));
    let mut daemon = Process::start(&toward(&dns, &mx));
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    within_stage(&daemon, "stage=mail");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for(" stopping ");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let again = Process::start_in(Arc::clone(&daemon.dir), &toward(&dns, &mx));
    let list = again.control("list");
    assert!(
        list[0].contains("state=queued") && list[0].contains("attempts=1"),
        "{list:?}"
    );
    assert!(!list[0].contains("doubt"), "{list:?}");
}

// PRC-2, Q-12
#[test]
fn only_what_waits_for_the_reply_to_its_dot_is_in_doubt_after_a_cut() {
    let script = Script::new().rule(on(At::Dot, Do::Stall));
    let (dns, mx) = (DnsServer::start(), Mx::start(script));
    let mut daemon = Process::start(&toward(&dns, &mx));
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    within_stage(&daemon, "stage=final-dot");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for(" stopping ");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    let again = Process::start_in(Arc::clone(&daemon.dir), &toward(&dns, &mx));
    let list = again.control("list");
    assert!(list[0].contains("doubt=in-doubt"), "{list:?}");
}

/// Waits until the one attempt that runs is at a stage.
fn within_stage(daemon: &Process, stage: &'static str) {
    let path = control_path(daemon.dir.path());
    within(stage, move || {
        while !crate::support::daemon::control(&path, "list")[0].contains(stage) {
            std::thread::yield_now();
        }
    });
}

// PRC-2, IN-27
#[test]
fn a_client_in_the_middle_of_its_content_gets_its_answer_within_the_grace_and_an_idle_one_421() {
    let mut daemon = Process::start("");
    let mut idle = Smtp::over_unix(&daemon.unix());
    let mut busy = Smtp::over_unix(&daemon.unix());
    busy.say("EHLO client.test");
    busy.say("MAIL FROM:<ann@here.test>");
    busy.say("RCPT TO:<bob@dest.test>");
    assert!(busy.say("DATA").starts_with("354"));
    busy.send("Subject: hi\r\n\r\n");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for(" stopping ");
    assert!(idle.reply().starts_with("421 "));
    busy.send("the end\r\n.\r\n");
    assert!(busy.reply().starts_with("250 2.0.0 queued as "));
    assert_eq!(daemon.wait().code(), Some(0));
    let again = Process::start_in(Arc::clone(&daemon.dir), "");
    assert!(again.control("list").last().unwrap().starts_with("OK 1"));
}

// CTL-22
#[test]
fn the_control_socket_can_stop_the_daemon_with_and_without_grace() {
    for verb in ["shutdown", "shutdown now"] {
        let daemon = TestDaemon::start("");
        let answer = daemon.control(verb);
        assert!(answer.last().unwrap().starts_with("OK"), "{answer:?}");
        assert!(within("the stop", move || daemon.wait()).is_ok());
    }
}

// PRC-2
#[test]
fn a_daemon_without_a_process_starts_stops_and_starts_again_on_its_queue() {
    let daemon = TestDaemon::start("");
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    let clock = daemon.clock.clone();
    let dir = daemon.stop();
    let daemon = TestDaemon::start_in(dir, clock, "").unwrap();
    assert!(daemon.control("list").last().unwrap().starts_with("OK 1"));
    daemon.ask(Ask::Summary);
    daemon.stop();
}

// PRC-6, Q-1, Q-16
#[test]
fn kill_9_after_the_250_loses_nothing_and_needs_no_cleaning_up() {
    let mut dir = Arc::new(TempDir::new());
    for round in 1..=5 {
        let daemon = Process::start_in(Arc::clone(&dir), "");
        daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
        let count = daemon.control("list").last().unwrap().clone();
        assert!(count.starts_with(&format!("OK {round}")), "{count}");
        dir = daemon.kill();
    }
}

// ST-12, ST-4
#[test]
fn a_database_that_is_taken_away_ends_the_daemon_with_74() {
    let mut daemon = Process::start("");
    daemon.submit("ann@here.test", &["bob@dest.test"], MAIL);
    let queue = daemon.dir.path().join("queue");
    fs::rename(queue.join("queue.db"), queue.join("elsewhere.db")).unwrap();
    let status = within("the end", move || daemon.wait());
    assert_eq!(status.code(), Some(74));
}

// OBS-4, PRC-2
#[test]
fn a_log_that_nobody_reads_stops_neither_mail_nor_the_stop() {
    let dir = Arc::new(TempDir::new());
    let (socket, notify) = notify_socket(&dir);
    let file = write_config(&dir, "");
    let (reader, writer) = std::io::pipe().unwrap();
    // Full before the daemon says its first word.
    nix::fcntl::fcntl(
        &writer,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )
    .unwrap();
    while (&writer).write(&[b'x'; 4096]).is_ok() {}
    nix::fcntl::fcntl(
        &writer,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
    )
    .unwrap();
    let mut command = posthasted();
    command
        .arg("-F")
        .arg("-f")
        .arg(&file)
        .env("NOTIFY_SOCKET", &notify);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    drop(command);
    assert_eq!(receive(&socket), "READY=1");
    submit_over(
        Smtp::over_unix(&dir.path().join("run/smtp")),
        "ann@here.test",
        &["bob@dest.test"],
        MAIL,
    );
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    let status = within("the stop", move || child.wait().unwrap());
    assert_eq!(status.code(), Some(0));
    drop(reader);
}
