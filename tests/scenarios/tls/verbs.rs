//! What an operator asks and says about TLS: CTL-15.

use crate::support::ca::tlsa_data;
use crate::support::daemon::{Process, TestDaemon, posthasted, write_config};
use crate::support::dns::{DnsServer, Fault, RecordType, ResponseCode};
use crate::support::mx::{At, Do, Mx, Script, on, reply};
use crate::support::queue::TempDir;

use super::table::pki;

/// A daemon that delivers to `dest.test` at this host.
fn daemon(mx: &Mx, dns: &DnsServer, tls: &str) -> TestDaemon {
    dns.mx("dest.test", 10, "mx1.dest.test");
    dns.a("mx1.dest.test", "127.0.0.1");
    TestDaemon::start(&format!(
        "[dns]\nservers = [\"{}\"]\n[deliver]\nallow_private = true\nsmtp_port = {}\n\
         [tls]\nca_file = \"{}\"\n{tls}",
        dns.addr(),
        mx.port(),
        pki().ca_file.display(),
    ))
}

fn good() -> Script {
    Script::new()
        .starttls()
        .identity(pki().certificate("good", "mx1.dest.test"))
        .inside("REQUIRETLS")
}

fn submit(daemon: &TestDaemon) -> i64 {
    daemon.submit("joe@here.test", &["bob@dest.test"], "Subject: x\n\nbody\n")
}

// DNS-8
#[test]
fn a_start_without_a_trusted_name_server_says_that_dane_is_off() {
    for (server, off) in [("192.0.2.53", true), ("127.0.0.1:9", false)] {
        let dir = std::sync::Arc::new(TempDir::new());
        let file = write_config(&dir, &format!("[dns]\nservers = [\"{server}\"]\n"));
        let mut command = posthasted();
        command.arg("-F").arg("-f").arg(&file);
        let process = Process::spawn(dir, command);
        if off {
            process.wait_for(" dane-off ");
        } else {
            process.signal(nix::sys::signal::Signal::SIGTERM);
            let log = process.rest_of_log();
            assert!(
                !log.iter().any(|line| line.contains("dane-off")),
                "{log:#?}"
            );
        }
    }
}

// CFG-8, CFG-5, CFG-18
#[test]
fn a_file_of_authorities_without_any_stops_the_start_the_check_and_the_reload() {
    let dir = TempDir::new();
    let bad = dir.path().join("ca.pem");
    std::fs::write(&bad, "no certificate\n").unwrap();
    std::fs::create_dir(dir.path().join("run")).unwrap();
    let tls = format!("[tls]\nca_file = \"{}\"\n", bad.display());
    let file = write_config(&dir, &tls);
    let words = format!("tls.ca_file {}", bad.display());
    for option in ["-n", "-F"] {
        let output = posthasted()
            .args([option, "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.contains(&words), "{text}");
    }
    let daemon = TestDaemon::start("");
    daemon.rewrite(&tls);
    let answer = daemon.control("reload");
    assert!(
        answer.last().unwrap().starts_with("ERR config "),
        "{answer:#?}"
    );
    assert!(answer.last().unwrap().contains(&words), "{answer:#?}");
}

/// Waits for a record that holds all these words.
fn wait_for(daemon: &TestDaemon, request: &str, words: &[&str]) -> Vec<String> {
    let end = std::time::Instant::now() + crate::support::daemon::PATIENCE;
    loop {
        let lines = daemon.control(request);
        let found = |line: &String| words.iter().all(|word| line.contains(word));
        if lines.iter().any(found) {
            return lines;
        }
        assert!(std::time::Instant::now() < end, "{request}: {lines:#?}");
        std::thread::yield_now();
    }
}

// CTL-15, TLS-5, TLS-6, TLS-1, OBS-8
#[test]
fn tlsinfo_lists_what_is_remembered_and_clears_it() {
    let (mx, dns) = (Mx::start(good()), DnsServer::start());
    let daemon = daemon(&mx, &dns, "");
    let id = submit(&daemon);
    mx.next_transaction();
    let shown = wait_for(&daemon, &format!("show id={id}"), &["result=ok"]);
    let attempt = shown
        .iter()
        .find(|line| line.contains("result=ok"))
        .unwrap();
    assert!(
        attempt.contains(" tls=verified tls-policy=opportunistic "),
        "{attempt}"
    );

    let listed = daemon.control("tlsinfo");
    assert_eq!(listed.len(), 2, "{listed:#?}");
    assert!(
        listed[0].starts_with("domain=dest.test remembered=verified since="),
        "{listed:#?}"
    );
    assert!(listed[0].contains(" requiretls=2"), "{listed:#?}");
    assert_eq!(listed[1], "OK 1");

    assert_eq!(daemon.control("tlsinfo domain=dest.test clear"), ["OK 1"]);
    assert_eq!(daemon.control("tlsinfo"), ["OK 0"]);
    let again = daemon.control("tlsinfo domain=dest.test clear");
    assert!(again[0].starts_with("ERR "), "{again:#?}");
    for wrong in [
        "tlsinfo clear",
        "tlsinfo test",
        "tlsinfo domain=dest.test clear test",
    ] {
        let answer = daemon.control(wrong);
        assert!(answer[0].starts_with("ERR usage"), "{answer:#?}");
    }
}

// CTL-15
#[test]
fn tlsinfo_shows_what_holds_for_a_domain_and_connects_only_for_a_test() {
    let (mx, dns) = (Mx::start(good()), DnsServer::start());
    let daemon = daemon(&mx, &dns, "level = \"encrypt\"\n");
    let of_domain = daemon.control("tlsinfo domain=dest.test");
    assert_eq!(
        of_domain,
        [
            "host=mx1.dest.test dane=insecure tls-policy=encrypt:tls.level",
            "OK 1"
        ]
    );
    assert_eq!(mx.connections(), 0);

    let tested = daemon.control("tlsinfo domain=dest.test test");
    let host = &tested[0];
    assert!(
        host.starts_with(
            "host=mx1.dest.test dane=insecure tls-policy=encrypt:tls.level tls=verified protocol="
        ),
        "{tested:#?}"
    );
    assert!(host.ends_with(" requiretls=yes result=ok"), "{tested:#?}");
    mx.next_close();
    let commands = &mx.sessions()[0].commands;
    assert_eq!(
        commands[..],
        [
            "EHLO posthaste.test",
            "STARTTLS",
            "EHLO posthaste.test",
            "QUIT"
        ]
    );
    // A test is no mail.
    assert_eq!(daemon.control("tlsinfo"), ["OK 0"]);
}

// CTL-15, DANE-3, DANE-6
#[test]
fn a_test_says_what_is_wrong() {
    let script = good().rule(on(At::Mail, Do::Close));
    let (mx, dns) = (Mx::start(script), DnsServer::start());
    dns.authentic(true);
    let daemon = daemon(&mx, &dns, "");
    let data = tlsa_data(&pki().certificate("self", "x.test").cert, 1, 1);
    dns.tlsa("mx1.dest.test", mx.port(), [3, 1, 1], data);
    let tested = daemon.control("tlsinfo domain=dest.test test");
    for words in [
        "dane=usable tlsa=\"3 1 1 ",
        " tls-policy=dane:dane tls=verified ",
        " tlsa-fault=\"no TLSA record matches the certificate\" ",
        " result=error status=4.7.5 text=\"the certificate does not match DNS",
    ] {
        assert!(tested[0].contains(words), "{words}: {tested:#?}");
    }

    let (mx, dns) = (Mx::start(good()), DnsServer::start());
    dns.authentic(true);
    let tlsa = format!("_{}._tcp.mx1.dest.test", mx.port());
    dns.fault(&tlsa, RecordType::TLSA, Fault::Code(ResponseCode::ServFail));
    let daemon = self::daemon(&mx, &dns, "");
    let tested = daemon.control("tlsinfo domain=dest.test test");
    assert!(
        tested[0].contains("dane=failed result=skipped status=4.7.5 "),
        "{tested:#?}"
    );
    assert_eq!(mx.connections(), 0);

    let nowhere = daemon.control("tlsinfo domain=nowhere.test test");
    assert!(
        nowhere[0].contains("result=error status=5.1.2"),
        "{nowhere:#?}"
    );
}

// CTL-15, TLS-12, TLS-13
#[test]
fn requiretls_can_be_set_and_lifted_for_mail_that_waits() {
    // It takes no REQUIRETLS, so it cannot have that mail.
    let script = Script::new().rule(
        reply(At::Rcpt, "451 4.2.1 later")
            .transaction(1)
            .connection(1),
    );
    let (mx, dns) = (Mx::start(script), DnsServer::start());
    let daemon = daemon(&mx, &dns, "");
    let id = submit(&daemon);
    let waits = format!("list id={id}");
    wait_for(&daemon, &waits, &["state=queued", "4.2.1"]);
    assert_eq!(
        daemon.control(&format!("requiretls id={id} set=no")),
        ["OK 1"]
    );
    let shown = daemon.control(&format!("show id={id}"));
    assert!(shown[0].contains(" requiretls=no "), "{shown:#?}");
    assert_eq!(
        daemon.control(&format!("requiretls id={id} set=yes")),
        ["OK 1"]
    );
    daemon.control(&format!("kick id={id}"));
    let shown = wait_for(&daemon, &format!("show id={id}"), &["state=failed"]);
    assert!(
        shown.iter().any(|line| line.contains(" status=5.7.30 ")),
        "{shown:#?}"
    );
    assert!(mx.transactions().is_empty());
    let samples = daemon.control("metrics");
    let counted = |line: &str| samples.iter().any(|sample| sample == line);
    assert!(
        counted("posthaste_tls_total{level=\"plain\"} 1"),
        "{samples:#?}"
    );
    let wrong = daemon.control("requiretls all set=perhaps");
    assert!(wrong[0].starts_with("ERR usage"), "{wrong:#?}");
    let missing = daemon.control("requiretls set=yes");
    assert!(missing[0].starts_with("ERR usage"), "{missing:#?}");
}
