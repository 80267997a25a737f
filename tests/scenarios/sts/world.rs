//! `dest.test` with a policy: its name server, its HTTPS server, its MX, and a daemon that sends to it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste::clock::Clock;

use crate::support::ca::{Authority, leaf};
use crate::support::daemon::TestDaemon;
use crate::support::dns::DnsServer;
use crate::support::https::{Https, Say};
use crate::support::mx::{Mx, Script};
use crate::support::queue::{TempDir, start};

/// Where the record is.
pub const RECORD: &str = "_mta-sts.dest.test";

const PATIENCE: Duration = Duration::from_secs(30);

/// The text of a policy.
pub fn policy(mode: &str, mx: &str, max_age: u32) -> String {
    let mx = match mx {
        "" => String::new(),
        mx => format!("mx: {mx}\r\n"),
    };
    format!("version: STSv1\r\nmode: {mode}\r\n{mx}max_age: {max_age}\r\n")
}

pub struct World {
    pub ca: Authority,
    pub dns: DnsServer,
    pub https: Https,
    pub mx: Mx,
    pub clock: Clock,
    daemon: Option<TestDaemon>,
    dir: Arc<TempDir>,
    tls: String,
}

impl World {
    pub fn start(policy: &str) -> World {
        World::start_with(policy, "")
    }

    /// With more settings of `[tls]`.
    pub fn start_with(policy: &str, tls: &str) -> World {
        let ca = Authority::root("the authority");
        let https = Https::start(
            ca.issue(leaf(&["mta-sts.dest.test"])),
            Say::Text(policy.to_owned()),
        );
        let mx = Mx::start(
            Script::new()
                .starttls()
                .identity(ca.issue(leaf(&["mx.dest.test"]))),
        );
        let dns = DnsServer::start()
            .mx("dest.test", 10, "mx.dest.test")
            .a("mx.dest.test", "127.0.0.1")
            .a("mta-sts.dest.test", "127.0.0.1")
            .txt(RECORD, "v=STSv1; id=1;");
        let dir = Arc::new(TempDir::new());
        fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        let mut world = World {
            ca,
            dns,
            https,
            mx,
            clock: Clock::manual(start()),
            daemon: None,
            dir,
            tls: tls.to_owned(),
        };
        world.restart();
        world
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub fn daemon(&self) -> &TestDaemon {
        self.daemon.as_ref().unwrap()
    }

    fn settings(&self) -> String {
        format!(
            "[dns]\nservers = [\"{}\"]\n\
             [deliver]\nsmtp_port = {}\nallow_private = true\nfamily = \"only4\"\nidle_session = \"0s\"\n\
             [retry]\nintervals = [\"10m\"]\njitter = 0.0\n\
             [tls]\nca_file = \"{}\"\nmta_sts_port = {}\nmemory = \"off\"\n{}",
            self.dns.addr(),
            self.mx.port(),
            self.ca_file().display(),
            self.https.port(),
            self.tls
        )
    }

    /// Stops the daemon, if there is one, and starts another one on the same queue.
    pub fn restart(&mut self) {
        drop(self.daemon.take());
        let settings = self.settings();
        let daemon = TestDaemon::start_in(Arc::clone(&self.dir), self.clock.clone(), &settings);
        self.daemon = Some(daemon.unwrap());
    }

    /// Another MX; the daemon reads its port anew.
    pub fn replace_mx(&mut self, script: Script) {
        self.mx = Mx::start(script);
        self.daemon().rewrite(&self.settings());
        let said = self.daemon().control("reload\n");
        assert_eq!(
            said.last().map(String::as_str),
            Some("OK reloaded"),
            "{said:?}"
        );
    }

    /// Another record.
    pub fn record(&self, text: &str) {
        self.dns.forget(RECORD);
        self.dns.txt(RECORD, text);
    }

    /// Hands in a message to bob@dest.test; what `show` says of its first attempt.
    pub fn send(&self) -> String {
        self.send_to("bob@dest.test")
    }

    pub fn send_to(&self, to: &str) -> String {
        // Whoever was refused often enough is dead to the dispatcher by now (SC-7), and this is about the attempt.
        self.daemon().control("reload\n");
        let id = self
            .daemon()
            .submit("ann@here.test", &[to], "Subject: x\n\nhello\n");
        self.attempt(id, 1)
    }

    /// Makes everything that waits due, and says what comes of the second attempt of the first message.
    pub fn next_attempt(&self) -> String {
        let list = self.daemon().control("list\n");
        let id = list[0]
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("id="))
            .expect("a message waits");
        self.attempt(id.parse().unwrap(), 2)
    }

    /// Waits for an attempt to end and says what it did.
    fn attempt(&self, id: i64, number: usize) -> String {
        let patience = Instant::now() + PATIENCE;
        let ordinal = format!("attempt={number} ");
        loop {
            let shown = self.daemon().control(&format!("show id={id}\n"));
            let ended =
                |line: &&String| line.contains(&ordinal) && !line.contains("result=running");
            if let Some(line) = shown.iter().find(ended) {
                return line.clone();
            }
            assert!(Instant::now() < patience, "{shown:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until so many policies were refreshed, as the metrics tell.
    pub fn until_refreshed(&self, count: usize) {
        let patience = Instant::now() + PATIENCE;
        let line = format!(
            "posthaste_sts_cache_total{{result=\"refreshed\"}} {}",
            count
        );
        loop {
            let metrics = self.daemon().control("metrics\n");
            if metrics.contains(&line) {
                return;
            }
            assert!(Instant::now() < patience, "{line}\n{metrics:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
