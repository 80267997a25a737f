//! The configuration from outside: the program's options, the sample, the manual, reload (CFG).

#![allow(clippy::unwrap_used)] // a test that cannot read its files has failed

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;

use posthaste::config::{Config, Setting, settings};

use crate::support::daemon::{
    Process, TestDaemon, config, control, control_path, posthasted, run, within, write_config,
};
use crate::support::queue::TempDir;

fn sample() -> String {
    read("etc/posthaste.toml")
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn parse(text: &str) -> Config {
    let text = format!("hostname = \"here.example\"\n{text}");
    Config::parse(&text, Path::new("f")).unwrap()
}

fn name(setting: &Setting) -> String {
    format!("[{}] {}", setting.table, setting.key)
}

/// Runs posthasted with `-f` and a file of this text.
fn with_file(option: &str, text: &str) -> (Output, TempDir) {
    let dir = TempDir::new();
    let file = dir.path().join("f.toml");
    fs::write(&file, text).unwrap();
    let output = posthasted()
        .arg(option)
        .arg("-f")
        .arg(&file)
        .output()
        .unwrap();
    (output, dir)
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

// CFG-4
#[test]
fn the_sample_works_as_shipped_and_means_the_defaults() {
    assert!(parse("").changed_keys(&parse(&sample())).is_empty());
}

// CFG-4
#[test]
fn the_sample_shows_every_key_at_its_default_and_no_other() {
    let mut table = String::new();
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for line in sample().lines() {
        let bare = line.trim_start_matches('#');
        if let Some(head) = bare.strip_prefix('[') {
            table = head.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, value)) = bare.split_once(" = ")
            && !line.starts_with("# ")
        {
            shown.insert(format!("[{table}] {key}"), value.to_owned());
        }
    }
    for setting in settings() {
        let value = shown.remove(&name(&setting));
        let value = value.unwrap_or_else(|| panic!("the sample lacks {}", name(&setting)));
        match setting.default {
            Some(default) if value == default => {}
            // What differs is an example, and says what the default is.
            Some(default) => {
                let words = format!("default: {default}");
                assert!(
                    value.ends_with(&words),
                    "{}: {value}, {words}",
                    name(&setting)
                );
            }
            None if setting.required => assert!(value.ends_with("# an example; required")),
            None => assert!(
                value.contains("   # an example"),
                "{}: {value}",
                name(&setting)
            ),
        }
    }
    assert!(
        shown.is_empty(),
        "the sample has keys that do not exist: {shown:?}"
    );
}

// CFG-9, CFG-10, CFG-11, CFG-12, CFG-13, CFG-14, CFG-15, CFG-16, CFG-17, CFG-18, CFG-23
#[test]
fn the_defaults_are_the_decided_ones() {
    // Written a second time on purpose: a default that moves has to move here too.
    let decided = r#"
        [] user = "posthaste", group = "posthaste", workers = 64, pid_file = "/run/posthaste/pid"
        [] scheduling = "batch", shutdown_grace = "30s", local_mail_to = ""
        [queue] path = "/var/lib/posthaste", min_free = "64MiB", reserve = "8MiB", max_messages = 0, poison_limit = 3
        [queue] in_doubt = "retry", disabled_senders = []
        [intake] max_message_size = "50MiB", max_header = "1MiB", max_recipients = 1000, sessions = 200
        [intake] sessions_per_client = 50, command_line = 2048, idle_timeout = "5m", session_timeout = "1h"
        [intake] max_errors = 10, max_hops = 50, memory = "256MiB"
        [listen] role = "relay", tls = "none", auth = "none", bare_newline = "normalize", early_talk = "accept"
        [listen] mode = 0o666
        [control] path = "/run/posthaste/control", mode = 0o660, tcp = "", clients = 32
        [log] to = "syslog", level = "info", format = "text"
        [retry] jitter = 0.1, lifetime = "5d"
        [deliver] dial_timeout = "30s", host_timeout = "1m", command_timeout = "5m", data_timeout = "2m"
        [deliver] block_timeout = "3m", dot_timeout = "10m", quit_timeout = "5s", total_timeout = "10m"
        [deliver] attempt_timeout = "30m", smtp_port = 25, max_mx = 5, max_addresses = 10, family = "alternate"
        [deliver] source_addresses = [], allow_private = false, address_literals = false, without_8bitmime = "send"
        [deliver] pipelining = true, idle_session = "30s", session_age = "5m", session_messages = 100
        [dns] servers = [], trusted = ["loopback"], query_timeout = "5s", total_timeout = "30s", cache_entries = 10000
        [dns] cache_ttl = "1d", negative_ttl = "15m"
        [limits] connections = 20, initial = 2, recipients = 100
        [dsn] from = "postmaster@HOSTNAME", postmaster = "", lifetime = "2d", return = "headers"
        [dsn] return_max = "256KiB", collect = "5s", per_sender = "100/1h"
        [tls] min_version = "1.2", ca_file = "", level = "opportunistic", fallback = true, memory = "encryption"
        [tls] memory_age = "180d", mta_sts = true, mta_sts_port = 443, dane = true, handshake_timeout = "1m"
        [tls] reports = true
        [tls_policy] names = []
        [route] min_attempts = 0"#;
    let settings = settings();
    for line in decided.lines().skip(1) {
        let (table, keys) = line.trim().split_once("] ").unwrap();
        for assignment in keys.split(", ") {
            let (key, default) = assignment.split_once(" = ").unwrap();
            let table = table.trim_start_matches('[');
            let found = settings.iter().find(|s| s.table == table && s.key == key);
            assert_eq!(
                found.and_then(|s| s.default),
                Some(default),
                "[{table}] {key}"
            );
        }
    }
    let long = |key: &str| {
        settings
            .iter()
            .find(|s| s.key == key)
            .and_then(|s| s.default)
    };
    let intervals = r#"["7m30s", "15m", "30m", "1h", "2h", "4h", "8h", "16h"]"#;
    assert_eq!(long("intervals"), Some(intervals));
    assert_eq!(long("delay_notices"), Some(r#"["4h", "24h", "72h"]"#));
    assert_eq!(long("relay_from"), Some(r#"["loopback", "unix"]"#));
}

// CFG-4
#[test]
fn the_sample_with_everything_uncommented_is_a_valid_configuration() {
    let text: Vec<String> = sample()
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| {
            line.trim_start_matches('#')
                .replace("HOSTNAME", "mail.example.org")
        })
        .collect();
    let config = Config::parse(&text.join("\n"), Path::new("f"));
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (
            config.listen.len(),
            config.transport.len(),
            config.route.len()
        ),
        (1, 1, 1)
    );
}

// CFG-4
#[test]
fn the_manual_names_every_key_with_its_default_and_no_other() {
    let mut manual: BTreeMap<String, String> = BTreeMap::new();
    let (mut table, mut key) = (None, None);
    for line in read("man/posthaste.toml.5").lines() {
        if let Some(section) = line.strip_prefix(".Sh ") {
            table = match section {
                "TOP LEVEL" => Some(String::new()),
                section => section
                    .strip_prefix("TABLE [")
                    .map(|name| name.trim_matches(['[', ']']).to_owned()),
            };
            key = None;
        } else if let (Some(table), Some(item)) = (&table, line.strip_prefix(".It Cm ")) {
            // Values of a key are items too; they stand in a list of their own inside the key's.
            let setting = settings()
                .into_iter()
                .find(|s| s.table == table && s.key == item);
            if let Some(setting) = setting {
                key = Some(name(&setting));
                manual.insert(name(&setting), String::new());
            }
        } else if let Some(key) = &key
            && let Some((_, default)) = line.split_once("default ")
        {
            manual.insert(key.clone(), default.trim_end_matches('.').to_owned());
        }
    }
    for setting in settings() {
        let said = manual.get(&name(&setting));
        let said = said.unwrap_or_else(|| panic!("the manual lacks {}", name(&setting)));
        match setting.default {
            Some(default) => assert_eq!(said, default, "{}", name(&setting)),
            None if setting.required => assert_eq!(said, "", "{}", name(&setting)),
            None => assert_eq!(said, "not set", "{}", name(&setting)),
        }
    }
}

// CFG-1, CFG-8
#[test]
fn a_faulty_file_stops_the_start_and_the_check_with_its_line_and_78() {
    for option in ["-n", "-F", "-p"] {
        let (output, dir) = with_file(option, "hostname = \"a.example\"\n[retry]\nlifetime = 5\n");
        assert_eq!(output.status.code(), Some(78), "{option}");
        let file = dir.path().join("f.toml");
        let line = format!(
            "{}:3: retry.lifetime: the number 5 was found",
            file.display()
        );
        assert!(stderr(&output).starts_with(&line), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

// CFG-1, CFG-8
#[test]
fn a_file_that_cannot_be_read_is_78_with_its_name() {
    let dir = TempDir::new();
    let missing = dir.path().join("missing.toml");
    for path in [missing.as_path(), dir.path()] {
        let output = run(&["-n", "-f", &path.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(78));
        assert!(stderr(&output).starts_with(&format!("{}: ", path.display())));
    }
    let file = dir.path().join("latin1.toml");
    fs::write(&file, b"hostname = \"a.example\"\n# \xe9\n").unwrap();
    let output = run(&["-n", "-f", &file.to_string_lossy()]);
    let line = format!("{}:2: syntax: not UTF-8", file.display());
    assert!(stderr(&output).starts_with(&line), "{}", stderr(&output));
}

// CFG-1
#[test]
fn a_check_of_a_good_file_is_0_and_leaves_nothing_behind() {
    let dir = TempDir::new();
    let file = write_config(&dir, "");
    fs::create_dir(dir.path().join("run")).unwrap();
    let output = run(&["-n", "-f", &file.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(output.stderr.is_empty() && output.stdout.is_empty());
    assert!(!dir.path().join("queue").exists());
    assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 0);
}

// CFG-1, CFG-8
#[test]
fn a_check_opens_what_the_file_names() {
    let nowhere = TempDir::new();
    let nowhere = nowhere.path().join("no/such").display().to_string();
    for (more, words) in [
        (
            format!("[queue]\npath = \"{nowhere}/queue\""),
            "queue.path: ",
        ),
        ("[queue]\npath = \"/dev/null\"".to_owned(), "queue.path: "),
        (format!("[log]\nto = \"{nowhere}/log\""), "log.to: "),
        (
            format!("[control]\npath = \"{nowhere}/run/control\""),
            "control.path: ",
        ),
        (
            format!("[[listen]]\naddress = \"unix:{nowhere}/run/smtp\""),
            "listen: ",
        ),
        (
            "[[listen]]\naddress = \"192.0.2.77:2525\"".to_owned(),
            "listen: 192.0.2.77: ",
        ),
        (
            "[deliver]\nsource_addresses = [\"192.0.2.78\"]".to_owned(),
            "deliver.source_addresses: 192.0.2.78: ",
        ),
        ("user = \"no-such-account-here\"".to_owned(), "user: "),
    ] {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("run")).unwrap();
        let mut text = config(dir.path(), &more);
        if more.starts_with("user") {
            text = text.replace("user = \"nobody\"\n", "");
        }
        let file = dir.path().join("f.toml");
        fs::write(&file, text).unwrap();
        let output = run(&["-n", "-f", &file.to_string_lossy()]);
        assert_eq!(
            output.status.code(),
            Some(78),
            "{more}: {}",
            stderr(&output)
        );
        let words = format!("posthasted: {words}");
        assert!(
            stderr(&output).starts_with(&words),
            "{more}: {}",
            stderr(&output)
        );
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}

// CFG-4, CFG-9
#[test]
fn the_printed_configuration_is_a_configuration() {
    let (output, _dir) = with_file(
        "-p",
        "hostname = \"a.example\"\nworkers = 7\n[retry]\njitter = 0\n",
    );
    assert_eq!(output.status.code(), Some(0));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(
        printed.contains("\nworkers = 7\n") && printed.contains("\njitter = 0.0\n"),
        "{printed}"
    );
    let (again, _dir) = with_file("-p", &printed);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), printed);
}

// PRC-10
#[test]
fn words_that_are_no_options_are_64() {
    for args in [&["-x"][..], &["start"], &["-f"], &["-n", "-p"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(stderr(&output).starts_with("posthasted: "), "{args:?}");
    }
    for args in [["-h"], ["-V"]] {
        let output = run(&args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty());
    }
}

// CFG-5
#[test]
fn a_reload_names_what_changed_and_what_needs_a_restart() {
    let daemon = TestDaemon::start("workers = 4\n");
    assert_eq!(daemon.control("reload"), ["OK reloaded"]);
    daemon.rewrite(
        "workers = 5\n[retry]\nlifetime = \"1h\"\n[intake]\nmax_message_size = \"1MiB\"\n",
    );
    let answer = daemon.control("reload");
    assert_eq!(
        answer,
        [
            "changed=intake.max_message_size",
            "changed=retry.lifetime",
            "needs-restart=workers",
            "OK reloaded"
        ]
    );
    // What needs a restart is named again and again until it has had one.
    assert_eq!(
        daemon.control("reload"),
        ["needs-restart=workers", "OK reloaded"]
    );
}

// CFG-5, CFG-6
#[test]
fn a_reload_is_in_force_for_the_next_session() {
    use crate::support::daemon::Smtp;
    let daemon = TestDaemon::start("[intake]\nmax_message_size = \"1MiB\"\n");
    let announced = |daemon: &TestDaemon| {
        let reply = Smtp::connect(daemon.smtp()).say("EHLO x.test");
        reply
            .lines()
            .find(|line| line.contains("SIZE "))
            .map(str::to_owned)
    };
    assert_eq!(announced(&daemon).as_deref(), Some("250-SIZE 1048576"));
    daemon.rewrite("[intake]\nmax_message_size = \"2MiB\"\n");
    daemon.control("reload");
    assert_eq!(announced(&daemon).as_deref(), Some("250-SIZE 2097152"));
}

// CFG-5
#[test]
fn a_faulty_file_changes_nothing_at_a_reload_and_its_fault_is_the_answer() {
    let daemon = TestDaemon::start("");
    daemon.rewrite("[retry]\nlifetime = 5\n[intake]\nmax_message_size = \"1MiB\"\n");
    let answer = daemon.control("reload");
    let last = answer.last().unwrap();
    assert!(
        last.starts_with("ERR ") && last.contains("retry.lifetime"),
        "{answer:?}"
    );
    assert!(last.contains("test.toml:"), "{answer:?}");
    daemon.rewrite("");
    assert_eq!(daemon.control("reload"), ["OK reloaded"]);
}

// CFG-5
#[test]
fn the_rules_of_a_listener_change_at_a_reload_and_a_new_low_port_waits() {
    use crate::support::daemon::Smtp;
    let listen = |from: &str| {
        format!("[[listen]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\nrelay_from = [{from}]\n")
    };
    let daemon = TestDaemon::start(&listen("\"loopback\""));
    let relays = |daemon: &TestDaemon| {
        let mut smtp = Smtp::connect(daemon.smtp());
        smtp.say("EHLO x.test");
        smtp.say("MAIL FROM:<a@b.test>");
        smtp.say("RCPT TO:<c@d.test>")[..3].to_owned()
    };
    assert_eq!(relays(&daemon), "250");
    daemon.rewrite(&listen("\"192.0.2.0/24\""));
    assert_eq!(daemon.control("reload"), ["changed=listen", "OK reloaded"]);
    assert_eq!(relays(&daemon), "554");
    let second = "[[listen]]\naddress = \"127.0.0.1:1\"\n";
    daemon.rewrite(&format!("{}{second}", listen("\"loopback\"")));
    assert_eq!(
        daemon.control("reload"),
        ["needs-restart=listen", "OK reloaded"]
    );
    assert_eq!(relays(&daemon), "250");
}

// CFG-5
#[test]
fn listeners_come_and_go_at_a_reload() {
    use crate::support::daemon::{Smtp, within};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    let listen = |name: &str, address: &dyn std::fmt::Display| {
        format!("[[listen]]\nname = \"{name}\"\naddress = \"{address}\"\n")
    };
    // Ports that were free a moment ago.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let (first, second): (SocketAddr, SocketAddr) = (free().unwrap(), free().unwrap());
    let daemon = TestDaemon::start(&listen("first", &first));
    let mut old_session = Smtp::connect(first);
    old_session.say("EHLO x.test");

    // One more.
    let unix = format!("unix:{}/run/more", daemon.dir.path().display());
    let three = [
        listen("first", &first),
        listen("second", &second),
        listen("third", &unix),
    ];
    daemon.rewrite(&three.concat());
    assert_eq!(daemon.control("reload"), ["changed=listen", "OK reloaded"]);
    assert_eq!(daemon.control("reload"), ["OK reloaded"]);
    Smtp::connect(first);
    Smtp::connect(second);
    Smtp::over_unix(Path::new(&unix["unix:".len()..]));

    // One that cannot be had: all stays as it was, and the answer says which.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|at| (taken, at)).unwrap();
    daemon.rewrite(&[listen("first", &first), listen("fourth", &taken.1)].concat());
    let answer = daemon.control("reload");
    assert!(
        answer[0].starts_with("ERR ") && answer[0].contains(&taken.1.to_string()),
        "{answer:?}"
    );
    Smtp::connect(second);

    // The first goes; who is there already is served to the end.
    daemon.rewrite(&listen("second", &second));
    assert_eq!(daemon.control("reload"), ["changed=listen", "OK reloaded"]);
    assert!(TcpStream::connect(first).is_err());
    assert!(!Path::new(&unix["unix:".len()..]).exists());
    assert_eq!(&old_session.say("NOOP")[..3], "250");
    Smtp::connect(second);
    // Its port is free for others.
    drop(TcpListener::bind(first).unwrap());

    // A move to a low port waits for the restart, and the old door stays open until then.
    daemon.rewrite(&listen("low", &"127.0.0.1:1"));
    let waits = ["needs-restart=listen", "OK reloaded"];
    assert_eq!(daemon.control("reload"), waits);
    Smtp::connect(second);
    // So does another address with the same port.
    daemon.rewrite(&listen("all", &format!("0.0.0.0:{}", second.port())));
    assert_eq!(daemon.control("reload"), waits);
    Smtp::connect(second);
    within("the stop", move || daemon.stop());
}

// CFG-5, CFG-12, CFG-13
#[test]
fn names_of_listeners_and_modes_of_sockets_change_at_a_reload() {
    use crate::support::daemon::{Smtp, control_path};
    let daemon = TestDaemon::start("");
    let (smtp, control) = (daemon.unix().to_owned(), control_path(daemon.dir.path()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!((mode(&smtp), mode(&control)), (0o666, 0o660));
    let before = inode(&smtp);
    let listen = |name: &str, mode: &str, relay: &str| {
        format!(
            "[[listen]]\nname = \"{name}\"\naddress = \"unix:{}\"\nmode = {mode}\nrelay_from = [{relay}]\n\
             [control]\npath = \"{}\"\nmode = 0o600\nclients = 1\n",
            smtp.display(),
            control.display()
        )
    };
    daemon.rewrite(&listen("programs", "0o600", "\"unix\""));
    let mut answer = daemon.control("reload");
    answer.sort();
    let changed = ["control.clients", "control.mode", "listen"].map(|key| format!("changed={key}"));
    assert_eq!(answer[0], "OK reloaded");
    assert_eq!(answer[1..], changed);
    assert_eq!((mode(&smtp), mode(&control)), (0o600, 0o600));
    // The same socket, in which others may wait to be accepted, and the rules under the new name.
    assert_eq!(inode(&smtp), before);
    daemon.rewrite(&listen("strangers", "0o660", ""));
    assert_eq!(daemon.control("reload"), ["changed=listen", "OK reloaded"]);
    assert_eq!((mode(&smtp), inode(&smtp)), (0o660, before));
    let mut client = Smtp::over_unix(&smtp);
    client.say("EHLO x.test");
    client.say("MAIL FROM:<a@b.test>");
    assert_eq!(&client.say("RCPT TO:<c@d.test>")[..3], "554");

    // A socket that has gone is a fault of the reload, which then changes nothing.
    fs::remove_file(&smtp).unwrap();
    daemon.rewrite(&listen("strangers", "0o600", "\"unix\""));
    let answer = daemon.control("reload");
    assert!(answer[0].starts_with("ERR config mode: "), "{answer:?}");
}

// CFG-8, CTL-3
#[test]
fn a_socket_path_that_is_something_else_stops_the_start_and_is_untouched() {
    for key in ["control", "listen"] {
        let dir = TempDir::new();
        let run_dir = dir.path().join("run");
        fs::create_dir(&run_dir).unwrap();
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o755)).unwrap();
        let path = run_dir.join(if key == "control" { "control" } else { "smtp" });
        symlink("/nowhere", &path).unwrap();
        let file = write_config(&dir, "");
        let output = run(&["-F", "-f", &file.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
        let last = stderr(&output).lines().last().unwrap().to_owned();
        assert!(
            last.starts_with(&format!("posthasted: {key}")) && last.contains("link"),
            "{last}"
        );
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    }
}

// CFG-6
#[test]
fn a_changed_setting_applies_to_mail_that_is_queued_already() {
    use crate::support::dns::DnsServer;
    use crate::support::mx::{Mx, Script};
    let (dns, mx) = (DnsServer::start(), Mx::start(Script::default()));
    dns.a("dest.test", "127.0.0.1");
    let more = |allowed: bool| {
        let (server, port) = (dns.addr(), mx.port());
        format!(
            "[dns]\nservers = [\"{server}\"]\n[deliver]\nsmtp_port = {port}\nallow_private = {allowed}\n"
        )
    };
    let daemon = TestDaemon::start(&more(false));
    daemon.submit(
        "ann@here.test",
        &["bob@dest.test"],
        "Subject: hi\n\nhello\n",
    );
    let path = control_path(daemon.dir.path());
    within("the first attempt", move || {
        while !control(&path, "list")[0].contains("allow_private") {
            std::thread::yield_now();
        }
    });
    assert_eq!(mx.connections(), 0);
    daemon.rewrite(&more(true));
    assert_eq!(
        daemon.control("reload"),
        ["changed=deliver.allow_private", "OK reloaded"]
    );
    daemon.control("kick all");
    assert_eq!(mx.next_transaction().recipients(), ["bob@dest.test"]);
}

// SEC-12
#[test]
fn what_weakens_safety_is_logged_at_the_start_and_shown_by_stats() {
    let more = "[deliver]\nallow_private = true\n";
    let daemon = Process::start(more);
    assert!(
        daemon
            .control("stats")
            .join("\n")
            .contains("deliver.allow_private")
    );
    let (_, dir) = daemon.stop();
    let mut command = posthasted();
    command
        .arg("-F")
        .arg("-f")
        .arg(dir.path().join("posthaste.toml"));
    let daemon = Process::spawn(dir, command);
    assert!(daemon.wait_for(" unsafe ").contains(" warn "));
    daemon.wait_for(" start ");
}
