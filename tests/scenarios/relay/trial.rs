//! Relays that are tried out (RO-16).

use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};
use posthaste::daemon::Error;

use super::good;
use crate::support::daemon::TestDaemon;
use crate::support::dns::DnsServer;
use crate::support::mx::{Mx, Script};
use crate::support::queue::TempDir;
use crate::tls::pki;

fn config(dns: &DnsServer, mx: &Mx, more: &str) -> String {
    dns.a("smart1.test", "127.0.0.1");
    format!(
        "[dns]\nservers = [\"{}\"]\n[[transport]]\nname = \"smart\"\nkind = \"relay\"\n\
         hosts = [\"smart1.test:{}\", \"smart9.test:587\"]\n{more}\n[[route]]\ntransport = \"smart\"\n",
        dns.addr(),
        mx.port()
    )
}

fn secure(password: &str) -> String {
    let ca_file = pki().ca_file.display();
    format!("ca_file = \"{ca_file}\"\nuser = \"us\"\npassword = \"{password}\"")
}

fn steps(daemon: &TestDaemon) -> Vec<String> {
    daemon.control("transports test=smart\n")
}

// RO-16
#[test]
fn each_step_is_shown_up_to_the_one_that_fails_and_no_password() {
    let dns = DnsServer::start();
    let mx = Mx::start(
        good()
            .starttls()
            .auth("us", "sesame", &["SCRAM-SHA-256-PLUS", "PLAIN"]),
    );
    let daemon = TestDaemon::start(&config(&dns, &mx, &secure("sesame")));
    let lines = steps(&daemon);
    let step = |line: &&String| {
        let of = |key: &str| {
            let rest = line.split(&format!(" {key}=")).nth(1).unwrap_or_default();
            rest.split(' ').next().unwrap_or_default().to_string()
        };
        (of("step"), of("result"))
    };
    let found: Vec<(String, String)> = lines
        .iter()
        .filter(|line| line.starts_with("host="))
        .map(|line| step(&line))
        .collect();
    let mut expected: Vec<(String, String)> =
        ["connect", "greeting", "ehlo", "tls", "auth", "noop", "quit"]
            .map(|step| (step.to_string(), "ok".to_string()))
            .to_vec();
    expected.push(("resolve".to_string(), "error".to_string()));
    assert_eq!(found, expected, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("SCRAM-SHA-256-PLUS")));
    assert!(lines.iter().any(|line| line.contains("verified, TLSv1.3")));
    let commands = &mx.sessions()[0].commands;
    assert_eq!(commands.last().map(String::as_str), Some("QUIT"));
    assert!(commands.iter().any(|line| line == "NOOP"));

    daemon.rewrite(&config(&dns, &mx, &secure("mistyped")));
    daemon.control("reload\n");
    let lines = steps(&daemon);
    let all = lines.join("\n");
    assert!(
        all.contains("step=auth result=error text=\"5.7.8 wrong\""),
        "{all}"
    );
    assert!(all.contains("ERR temporary"), "{all}");
    assert!(!all.contains("mistyped"), "{all}");
    let refused = daemon.control("transports test=nowhere\n").join("\n");
    assert!(refused.starts_with("ERR usage"), "{refused}");
    let built_in = daemon.control("transports test=direct\n");
    assert_eq!(
        built_in,
        ["ERR usage transport direct has no hosts of its own"]
    );
}

// RO-6, CFG-8
#[test]
fn without_its_authorities_there_is_no_start() {
    let dns = DnsServer::start();
    let mx = Mx::start(Script::new());
    let text = config(&dns, &mx, "ca_file = \"/nowhere/ca.pem\"");
    let result = TestDaemon::start_in(Arc::new(TempDir::new()), Clock::system(), &text);
    let Err(Error::Config(text)) = result else {
        panic!("it starts");
    };
    assert!(
        text.starts_with("transport smart: ca_file /nowhere/ca.pem: No such file"),
        "{text}"
    );
}

// RO-16
#[test]
fn a_required_relay_is_tried_eleven_times_and_then_there_is_no_start() {
    let dns = DnsServer::start();
    let mx = Mx::start(Script::new());
    let clock = Clock::manual(Timestamp::from_secs(1_800_000_000));
    let began = clock.now();
    let text = config(&dns, &mx, "probe = \"require\"");
    let (time, done) = (clock.clone(), crossbeam_channel::bounded::<()>(0));
    let (end, ended) = done;
    let mover = std::thread::spawn(move || {
        while ended.recv_timeout(Duration::from_millis(1)).is_err() {
            time.advance(Duration::from_millis(100));
        }
    });
    let result = TestDaemon::start_in(Arc::new(TempDir::new()), clock.clone(), &text);
    let took = clock.now().since(began);
    end.send(()).unwrap();
    mover.join().unwrap();
    let Err(error) = result else {
        panic!("it starts");
    };
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("STARTTLS is not offered")));
    assert_eq!(error.exit_status(), 69);
    assert_eq!(mx.connections(), 11);
    assert!(took >= Duration::from_secs(20), "{took:?}");
}

// RO-16
#[test]
fn a_required_relay_that_works_and_one_that_is_only_warned_of_let_it_start() {
    let dns = DnsServer::start();
    let mx = Mx::start(good().starttls().auth("us", "sesame", &["PLAIN"]));
    let required = format!("{}\nprobe = \"require\"", secure("sesame"));
    drop(TestDaemon::start(&config(&dns, &mx, &required)));
    assert_eq!(mx.connections(), 1);
    let mx = Mx::start(Script::new());
    drop(TestDaemon::start(&config(&dns, &mx, "probe = \"warn\"")));
}
