//! TLS reports: from handshakes to what a server of the domain is sent the day after (RFC 8460).

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::pkey::PKey;
use posthaste::clock::{Clock, Timestamp};
use posthaste::message::dkim::{Outcome, SigningKey, Verifier};
use posthaste::smtp::address::Domain;

use crate::support::ca::{Authority, Issued, leaf, tlsa_data};
use crate::support::daemon::{PATIENCE, TestDaemon};
use crate::support::dns::{DnsServer, Fault, RecordType, ResponseCode};
use crate::support::https::{Asked, Https, Say, response};
use crate::support::mx::{At, Mx, Script, reply};
use crate::support::queue::{TempDir, start};

const MINUTE: Duration = Duration::from_secs(60);

/// 00:00 UTC after [`start`].
fn midnight() -> Timestamp {
    Timestamp::from_secs((start().secs() / 86_400 + 1) * 86_400)
}

/// Domains with hosts here, and a server that takes reports.
struct World {
    ca: Authority,
    dns: DnsServer,
    policies: Https,
    reports: Https,
    mx: Mx,
    clock: Clock,
    daemon: Option<TestDaemon>,
    dir: Arc<TempDir>,
    /// `deliver.allow_private`
    private: bool,
    /// `deliver.idle_session`
    idle: &'static str,
    more: String,
}

impl World {
    /// `more` is for the end of `[tls]` and for further tables.
    fn start(more: &str) -> World {
        let dir = Arc::new(TempDir::new());
        let ca = Authority::root("the authority");
        fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        let text = "version: STSv1\nmode: testing\nmx: mx.dest.test\nmax_age: 86400\n";
        let mut world = World {
            dns: DnsServer::start().a("reports.test", "127.0.0.1"),
            policies: Https::start(
                ca.issue(leaf(&["mta-sts.dest.test"])),
                Say::Text(text.to_owned()),
            ),
            reports: Https::start(
                ca.issue(leaf(&["reports.test"])),
                response("201 Created", "", ""),
            ),
            mx: Mx::start(Script::new()),
            clock: Clock::manual(start()),
            daemon: None,
            ca,
            dir,
            private: true,
            idle: "0s",
            more: more.to_owned(),
        };
        world.restart();
        world
    }

    fn daemon(&self) -> &TestDaemon {
        self.daemon.as_ref().unwrap()
    }

    fn settings(&self) -> String {
        format!(
            "[dns]\nservers = [\"{}\"]\n\
             [deliver]\nsmtp_port = {}\nallow_private = {}\nfamily = \"only4\"\nidle_session = \"{}\"\n\
             [retry]\nintervals = [\"10m\"]\njitter = 0.0\n\
             [tls]\nca_file = \"{}\"\nmta_sts_port = {}\nmemory = \"off\"\n{}",
            self.dns.addr(),
            self.mx.port(),
            self.private,
            self.idle,
            self.dir.path().join("ca.pem").display(),
            self.policies.port(),
            self.more
        )
    }

    fn restart(&mut self) {
        drop(self.daemon.take());
        let settings = self.settings();
        let daemon = TestDaemon::start_in(Arc::clone(&self.dir), self.clock.clone(), &settings);
        self.daemon = Some(daemon.unwrap());
    }

    /// From now on the hosts are like this.
    fn hosts(&mut self, script: Script) {
        self.mx = Mx::start(script);
        self.reload();
    }

    fn reload(&self) {
        self.daemon().rewrite(&self.settings());
        let said = self.daemon().control("reload\n");
        assert_eq!(said.last().unwrap(), "OK reloaded");
    }

    /// They offer TLS with this certificate.
    fn certificate(&mut self, identity: Issued) {
        self.hosts(
            Script::new()
                .name("mx.dest.test")
                .starttls()
                .identity(identity),
        );
    }

    /// A domain with one host here and a record about reports.
    fn domain(&self, name: &str, record: &str) {
        let host = format!("mx.{name}");
        self.dns.mx(name, 10, &host).a(&host, "127.0.0.1");
        if !record.is_empty() {
            self.dns.txt(&format!("_smtp._tls.{name}"), record);
        }
    }

    fn by_post(&self, path: &str) -> String {
        let port = self.reports.port();
        format!("v=TLSRPTv1; rua=https://reports.test:{port}{path}")
    }

    /// Hands in a message; what `show` says of its first attempt.
    fn send(&self, domain: &str) -> String {
        // Whoever was refused often enough is dead to the dispatcher by now (SC-7), and this is about sessions.
        self.daemon().control("reload\n");
        self.send_again(domain)
    }

    /// The same without a reload, which ends sessions that wait.
    fn send_again(&self, domain: &str) -> String {
        let to = format!("bob@{domain}");
        let daemon = self.daemon();
        let id = daemon.submit("ann@here.test", &[&to], "Subject: x\n\nhello\n");
        self.attempt(id, 1)
    }

    /// Waits for an attempt to end and says what it did.
    fn attempt(&self, id: i64, number: usize) -> String {
        let ordinal = format!("attempt={number} ");
        let request = format!("show id={id}\n");
        let ended = |line: &String| line.contains(&ordinal) && !line.contains("result=running");
        let shown = self.until(&request, |lines| {
            // On a slow machine a limit of real time may pass, a name server's or a slot's, and give the claim back for
            // some seconds, which a clock that stands still never brings.
            if lines
                .iter()
                .any(|line| line.contains(" state=queued attempts=0 "))
            {
                self.daemon().control(&format!("kick id={id}\n"));
            }
            lines.iter().any(ended)
        });
        shown.into_iter().find(ended).unwrap()
    }

    /// Waits until the answer to a request is like this.
    #[track_caller]
    fn until(&self, request: &str, like: impl Fn(&[String]) -> bool) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let lines = self.daemon().control(request);
            if like(&lines) {
                return lines;
            }
            assert!(Instant::now() < end, "{request}: {lines:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A minute later what was counted is written down.
    #[track_caller]
    fn counted(&self, domain: &str, words: &str) {
        self.clock.advance(MINUTE);
        self.until("tlsinfo reports", |lines| {
            let of = format!(" domain={domain} ");
            lines
                .iter()
                .any(|line| line.contains(&of) && line.contains(words))
        });
    }
}

/// The JSON of a report that was posted.
fn json(asked: &Asked) -> String {
    let mut json = String::new();
    flate2::read::GzDecoder::new(&asked.body[..])
        .read_to_string(&mut json)
        .unwrap();
    json
}

#[track_caller]
fn assert_says(json: &str, words: &str) {
    assert!(json.contains(words), "{words}\n{json}");
}

// RPT-1, RPT-2, RPT-3, STS-9
#[test]
fn what_sessions_came_to_is_posted_the_day_after_to_who_asked_for_it() {
    let mut world = World::start("");
    world.dns.authentic(true);
    world.domain("dest.test", &world.by_post("/dest?x=y"));
    world.domain("plain.test", &world.by_post("/plain"));
    world.domain("secure.test", &world.by_post("/secure"));
    world.domain("strange.test", &world.by_post("/strange"));
    world.domain("quiet.test", "");
    for domain in ["dest.test", "strange.test"] {
        let host = format!("mta-sts.{domain}");
        world.dns.a(&host, "127.0.0.1");
        world
            .dns
            .txt(&format!("_mta-sts.{domain}"), "v=STSv1; id=1");
    }
    let stranger = Authority::root("somebody else").issue(leaf(&["mx.dest.test"]));
    let other = world.ca.issue(leaf(&["other.test"]));
    let expired = world.ca.issue(leaf(&["mx.dest.test"]).expired());
    let good = world.ca.issue(leaf(&["mx.dest.test"]));
    let data = tlsa_data(&good.cert, 1, 1);
    let port = |world: &World| world.mx.port();

    // What testing would refuse is delivered, and counted.
    for (certificate, count) in [(stranger, 1), (other, 1), (expired, 2)] {
        world.certificate(certificate);
        for _ in 0..count {
            let sent = world.send("dest.test");
            assert!(sent.contains("result=ok"), "{sent}");
        }
    }
    // In clear: under the policy, and without any.
    world.hosts(Script::new());
    for domain in ["dest.test", "plain.test", "plain.test", "quiet.test"] {
        let sent = world.send(domain);
        assert!(sent.contains("result=ok"), "{sent}");
    }
    world.restart();
    world.certificate(good);
    world
        .dns
        .tlsa("mx.secure.test", port(&world), [3, 1, 1], vec![7; 32]);
    let sent = world.send("secure.test");
    assert!(sent.contains("result=error"), "{sent}");
    world
        .dns
        .forget(&format!("_{}._tcp.mx.secure.test", port(&world)));
    world.daemon().control("drop all\n");
    world
        .dns
        .tlsa("mx.plain.test", port(&world), [3, 1, 1], data);
    for domain in ["dest.test", "plain.test", "strange.test"] {
        let sent = world.send(domain);
        assert!(sent.contains("result=ok"), "{sent}");
    }

    world
        .clock
        .set(midnight().plus(MINUTE * 4 - Duration::from_secs(1)));
    assert_eq!(world.dns.asked("_smtp._tls.dest.test", RecordType::TXT), 0);
    world.clock.set(midnight().plus(MINUTE * 6));
    // One every five minutes, those that nobody wants among them.
    for count in 1..=5 {
        let done = |line: &&String| line.contains("state=done");
        world.until("tlsinfo reports", |lines| {
            lines.iter().filter(done).count() == count
        });
        world.clock.advance(MINUTE * 5);
    }
    let asked = world.reports.asked();
    let request: Vec<&str> = asked[0].head.lines().collect();
    assert_eq!(request[0], "POST /dest?x=y HTTP/1.1");
    assert!(
        request.contains(&"Content-Type: application/tlsrpt+gzip"),
        "{request:?}"
    );

    let dest = json(&asked[0]);
    assert_says(
        &dest,
        "{\"organization-name\":\"posthaste.test\",\"date-range\":{\"start-datetime\":\"2027-01-15T00:00:00Z\",\
         \"end-datetime\":\"2027-01-15T23:59:59Z\"},\"contact-info\":\"postmaster@posthaste.test\",",
    );
    assert_says(
        &dest,
        "\"policies\":[{\"policy\":{\"policy-type\":\"sts\",\"policy-string\":[\"version: STSv1\",\"mode: testing\",\
         \"max_age: 86400\",\"mx: mx.dest.test\"],\"policy-domain\":\"dest.test\",\"mx-host\":[\"mx.dest.test\"]},\
         \"summary\":{\"total-successful-session-count\":1,\"total-failure-session-count\":5},",
    );
    for (kind, count) in [
        ("certificate-not-trusted", 1),
        ("certificate-host-mismatch", 1),
        ("certificate-expired", 2),
    ] {
        assert_says(
            &dest,
            &format!(
                "{{\"result-type\":\"{kind}\",\"sending-mta-ip\":\"127.0.0.1\",\"receiving-mx-hostname\":\"mx.dest.test\",\
                 \"receiving-mx-helo\":\"mx.dest.test\",\"receiving-ip\":\"127.0.0.1\",\"failed-session-count\":{count},"
            ),
        );
    }
    assert_says(&dest, "{\"result-type\":\"starttls-not-supported\",");

    let plain = json(&asked[1]);
    assert_says(
        &plain,
        "{\"policy\":{\"policy-type\":\"no-policy-found\",\"policy-domain\":\"plain.test\"},\
         \"summary\":{\"total-successful-session-count\":0,\"total-failure-session-count\":2},\
         \"failure-details\":[{\"result-type\":\"starttls-not-supported\",",
    );
    assert_says(
        &plain,
        "{\"policy\":{\"policy-type\":\"tlsa\",\"policy-string\":[\"3 1 1 ",
    );
    assert_says(
        &plain,
        "\"policy-domain\":\"mx.plain.test\"},\
         \"summary\":{\"total-successful-session-count\":1,\"total-failure-session-count\":0}}",
    );

    let secure = json(&asked[2]);
    assert_says(
        &secure,
        "\"policy-type\":\"tlsa\",\"policy-string\":[\"3 1 1 0707",
    );
    assert_says(&secure, "{\"result-type\":\"tlsa-invalid\",");

    // The certificate of the server of its policy is for others.
    let strange = json(&asked[3]);
    assert_says(
        &strange,
        "{\"policy\":{\"policy-type\":\"sts\",\"policy-domain\":\"strange.test\"},\
         \"summary\":{\"total-successful-session-count\":0,\"total-failure-session-count\":1},\
         \"failure-details\":[{\"result-type\":\"sts-webpki-invalid\",\"failed-session-count\":1,",
    );
    // Whoever has no record was asked for one, and got nothing.
    assert_eq!(world.dns.asked("_smtp._tls.quiet.test", RecordType::TXT), 1);
    assert_eq!(world.reports.connections(), 4);
    // Two days after their end they are gone.
    world
        .clock
        .set(midnight().plus(MINUTE * 60 * 48 + MINUTE * 6));
    world.until("tlsinfo reports", |lines| lines == ["OK 0"]);
    assert_eq!(world.reports.connections(), 4);
}

// RPT-1
#[test]
fn a_session_counts_once_for_each_domain_whose_mail_it_carries() {
    // Who comes while the session is not put away yet waits for it.
    let mut world = World::start("[limits]\nconnections = 1\n");
    world.idle = "1h";
    world.domain("dest.test", "");
    world.dns.mx("other.test", 10, "mx.dest.test");
    world.certificate(world.ca.issue(leaf(&["mx.dest.test"])));
    for domain in ["dest.test", "other.test", "dest.test", "other.test"] {
        let sent = world.send_again(domain);
        assert!(sent.contains("result=ok"), "{sent}");
    }
    assert_eq!(world.mx.connections(), 1);
    world.counted("dest.test", "successes=1 failures=0");
    world.counted("other.test", "successes=1 failures=0");
}

// RPT-2, RPT-4
#[test]
fn a_report_that_nobody_takes_is_tried_five_times() {
    let mut world = World::start("");
    world.domain("dest.test", &world.by_post("/"));
    world.hosts(Script::new());
    world.send("dest.test");
    world.counted(
        "dest.test",
        "state=waiting tries=0 next=2027-01-16T00:00:00Z successes=0 failures=1",
    );
    world.reports.say(response("503 Later", "", ""));
    world.clock.set(midnight().plus(MINUTE * 6));
    world.reports.wait_for(1);
    for (tried, minutes) in [(2, 10), (3, 30), (4, 90), (5, 240)] {
        world.clock.advance(MINUTE * minutes);
        world.reports.wait_for(tried);
    }
    world.counted("dest.test", "state=done tries=5");
    world.clock.advance(MINUTE * 60 * 12);
    world.counted("dest.test", "state=done tries=5");
    assert_eq!(world.reports.connections(), 5);
    let bodies: Vec<Vec<u8>> = world.reports.asked().into_iter().map(|a| a.body).collect();
    assert!(
        bodies.windows(2).all(|pair| pair[0] == pair[1]),
        "one report"
    );
}

// RPT-2, RPT-4
#[test]
fn a_record_that_cannot_be_had_is_looked_for_five_times() {
    let mut world = World::start("");
    world.domain("dest.test", &world.by_post("/"));
    world.hosts(Script::new());
    world.send("dest.test");
    let servfail = Fault::Code(ResponseCode::ServFail);
    world
        .dns
        .fault("_smtp._tls.dest.test", RecordType::TXT, servfail);
    world.clock.set(midnight().plus(MINUTE * 6));
    for (tried, minutes) in [(1, 10), (2, 30), (3, 90), (4, 240)] {
        let words = format!("tries={tried} ");
        world.until("tlsinfo reports", |lines| lines[0].contains(&words));
        world.clock.advance(MINUTE * minutes);
    }
    world.counted("dest.test", "state=done tries=5");
    assert_eq!(world.reports.connections(), 0);
}

// RPT-2: the counts are there after a restart a day later, and what is in the reports is seen beforehand
#[test]
fn a_daemon_that_was_off_at_midnight_reports_when_it_is_back() {
    let mut world = World::start("");
    world.domain("dest.test", &world.by_post("/"));
    world.certificate(world.ca.issue(leaf(&["mx.dest.test"])));
    world.send("dest.test");
    world.counted("dest.test", "successes=1 failures=0");
    let said = world.daemon().control("tlsinfo domain=dest.test reports\n");
    assert_eq!(said.len(), 3, "{said:#?}");
    assert_eq!(
        said[1],
        "policy-type=no-policy-found policy-domain=dest.test successes=1 failures=0"
    );
    world.daemon = None;
    world.clock.advance(MINUTE * 60 * 24);
    world.restart();
    world.reports.wait_for(1);
    world.counted("dest.test", "state=done");
}

// RPT-3, DV-8, DV-9
#[test]
fn a_server_at_a_private_address_or_without_a_certificate_for_its_name_gets_nothing() {
    let mut world = World::start("");
    world.domain("dest.test", &world.by_post("/"));
    world.send("dest.test");
    world
        .reports
        .identity(world.ca.issue(leaf(&["other.test"])));
    world.clock.set(midnight().plus(MINUTE * 6));
    world.until("tlsinfo reports", |_| world.reports.connections() == 1);
    world.private = false;
    world.reload();
    for (tries, minutes) in [(2, 16), (3, 46)] {
        world.clock.set(midnight().plus(MINUTE * minutes));
        let words = format!("state=waiting tries={tries} ");
        world.until("tlsinfo reports", |lines| lines[0].contains(&words));
    }
    assert_eq!(world.reports.connections(), 1);
    assert_eq!(world.reports.asked(), []);
}

// RPT-4
#[test]
fn switched_off_nothing_is_counted_and_nobody_is_asked() {
    let world = World::start("reports = false\n");
    world.domain("dest.test", &world.by_post("/"));
    // A policy that cannot be had is none to report either.
    world.dns.txt("_mta-sts.dest.test", "v=STSv1; id=1");
    world.send("dest.test");
    world.clock.set(midnight().plus(MINUTE * 7));
    world.send("dest.test");
    world.clock.advance(MINUTE * 2);
    assert_eq!(world.daemon().control("tlsinfo reports"), ["OK 0"]);
    assert_eq!(world.dns.asked("_smtp._tls.dest.test", RecordType::TXT), 0);
    assert_eq!(world.reports.connections(), 0);
}

/// `[tls]` and `[[dkim]]` so that mail of here.example can be signed; the key's record.
fn signed(dir: &TempDir) -> (String, Vec<u8>) {
    let key = PKey::generate_ed25519().unwrap();
    let path = dir.path().join("dkim.pem");
    fs::write(&path, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = format!(
        "report_from = \"tls@here.example\"\n\
         [[dkim]]\ndomain = \"here.example\"\nselector = \"one\"\nkey = \"{}\"\n",
        path.display()
    );
    let name = || Domain::parse("here.example").unwrap();
    let key = SigningKey::new(name(), name(), key).unwrap();
    (settings, key.record().unwrap().into_bytes())
}

// RPT-3, RPT-4, TLS-13, MSG-7
#[test]
fn a_report_by_mail_is_signed_goes_where_no_other_mail_may_go_and_is_not_reported() {
    let keys = TempDir::new();
    let (settings, record) = signed(&keys);
    let mut world = World::start(&settings);
    let enforce = "version: STSv1\nmode: enforce\nmx: mx.dest.test\nmax_age: 604800\n";
    world.policies.say(Say::Text(enforce.to_owned()));
    world.dns.a("mta-sts.dest.test", "127.0.0.1");
    world.dns.txt("_mta-sts.dest.test", "v=STSv1; id=1");
    world.domain(
        "dest.test",
        "v=TLSRPTv1; rua=mailto:tls%2Dreports@dest.test",
    );
    world.domain("plain.test", "");
    world.certificate(world.ca.issue(leaf(&["other.test"])));
    let refused = world.send("dest.test");
    assert!(refused.contains("status=4.7.5"), "{refused}");
    world.daemon().control("drop all\n");

    world.clock.set(midnight().plus(MINUTE * 6));
    let seen = world.mx.next_transaction();
    assert_eq!(
        (seen.reverse_path(), seen.recipients()),
        ("", vec!["tls-reports@dest.test"])
    );
    let verifier = Verifier::new(&seen.content);
    let [Ok(signature)] = verifier.signatures() else {
        panic!("{:?}", verifier.signatures());
    };
    assert_eq!(signature.domain.as_str(), "here.example");
    let outcome = verifier.verify(signature, &[record], world.clock.now());
    assert_eq!(outcome, Outcome::Pass);
    let text = String::from_utf8(seen.content.clone()).unwrap();
    for line in [
        "From: <tls@here.example>",
        "Subject: Report Domain: dest.test",
        "TLS-Report-Domain: dest.test",
        "TLS-Report-Submitter: here.example",
        "TLS-Required: No",
        "Content-Type: multipart/report; report-type=\"tlsrpt\";",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}\n{text}");
    }
    assert!(
        !text.contains("\r\nReceived:") && !text.starts_with("Received:"),
        "{text}"
    );

    // What is counted after it is not about it.
    world.send("plain.test");
    world.counted("plain.test", "day=2027-01-16 ");
    let today = world.daemon().control("tlsinfo reports");
    let of_today = |line: &&String| line.contains("day=2027-01-16");
    assert_eq!(today.iter().filter(of_today).count(), 1, "{today:#?}");
}

// RPT-4
#[test]
fn a_report_by_mail_is_tried_five_times_and_nobody_is_told_of_its_end() {
    let keys = TempDir::new();
    let mut world = World::start(&signed(&keys).0);
    world.domain("dest.test", "v=TLSRPTv1; rua=mailto:reports@dest.test");
    world.hosts(Script::new().rule(reply(At::Rcpt, "450 4.2.1 later").line("<reports@")));
    world.send("dest.test");
    world.clock.set(midnight().plus(MINUTE * 6));
    let listed = world.until("list\n", |lines| lines.len() == 2);
    assert!(listed[0].contains("to=<reports@dest.test>"), "{listed:#?}");
    let id = listed[0]
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("id="))
        .unwrap();
    let id = id.parse().unwrap();
    for number in 1..=5 {
        let tried = world.attempt(id, number);
        assert!(tried.contains("4.2.1"), "{tried}");
        world.daemon().control("reload\n");
        world.clock.advance(MINUTE * 10);
    }
    world.until("list\n", |lines| lines == ["OK 0"]);
    let shown = world.daemon().control(&format!("show id={id}\n"));
    assert!(
        shown.iter().any(|line| line.contains("state=failed"))
            && !shown.iter().any(|line| line.contains("attempt=6 ")),
        "{shown:#?}"
    );
    let told = world.daemon().control("metrics\n");
    let notices =
        |line: &&String| line.starts_with("posthaste_dsn_total{") && !line.ends_with(" 0");
    assert_eq!(told.iter().find(notices), None);
    assert_eq!(world.mx.transactions().len(), 1, "the message alone");
}

// RPT-3
#[test]
fn a_report_that_cannot_be_signed_is_not_mailed_but_posted() {
    let mut world = World::start("report_from = \"tls@here.example\"\n");
    let record = format!("{}, mailto:reports@dest.test", world.by_post("/"));
    world.domain("dest.test", &record);
    world.hosts(Script::new());
    world.send("dest.test");
    world.clock.set(midnight().plus(MINUTE * 6));
    world.reports.wait_for(1);
    world.counted("dest.test", "state=done");
    let report = json(&world.reports.asked()[0]);
    assert_says(&report, "\"contact-info\":\"tls@here.example\"");
    assert_eq!(world.daemon().control("count\n"), ["count=0", "OK 0"]);
    assert_eq!(world.mx.transactions().len(), 1);
}
