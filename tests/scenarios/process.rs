//! The daemon as a process: start, exit statuses, signals, stop (PRC, CFG-5, CFG-8, ST-9).

use crate::support::daemon::{Process, TestDaemon};
use crate::support::dns::DnsServer;
use crate::support::mx::{Mx, Script};

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
    daemon.stop();
}

// PRC-1, PRC-2, PRC-9
#[test]
fn the_process_takes_mail_delivers_it_and_stops_at_sigterm() {
    let (dns, mx) = (DnsServer::start(), Mx::start(Script::default()));
    let daemon = Process::start(&toward(&dns, &mx));
    daemon.submit(
        "ann@here.test",
        &["bob@dest.test"],
        "Subject: hi\n\nhello\n",
    );
    mx.next_transaction();
    daemon.wait_for("result=delivered");
    let (status, dir) = daemon.stop();
    assert_eq!(status.code(), Some(0));
    assert!(!dir.path().join("run/control").exists());
}
