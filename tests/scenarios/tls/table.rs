//! From a row of the table to a run: one attempt for one recipient at `dest.test`, and what was seen of it.
//!
//! Columns, with blanks between the words of one and `-` for none:
//!
//! | column      | words                                                                                            |
//! |-------------|--------------------------------------------------------------------------------------------------|
//! | dns         | `insecure`: no AD bit; `secure`; `mx-insecure`, `host-insecure`: none for that; `alias`: the host |
//! |             | is a CNAME of `real.test`; `U.S.M=CERT`: a TLSA record, `@alias`: at the CNAME, `@2`: of host 2;  |
//! |             | `servfail`, `silent`: what asking for TLSA records meets; `rrset-insecure`: they have no AD bit   |
//! | policy      | `KEY=VALUE` of `[tls]`; `row=LEVEL[:NAME]`; `was=LEVEL[:DAYS]`: remembered;                       |
//! |             | `sts=MODE:PATTERN,..`, `sts=unknown`                                                             |
//! | message     | `requiretls`, `tls-required-no`                                                                  |
//! | server      | `clear`: no STARTTLS; `tls`; a reply code to STARTTLS; `broken`, `rubbish`: instead of the        |
//! |             | handshake; `tls1.1`, `tls1.2`; `rejects`: our side of the handshake, when it is over; `inject`;   |
//! |             | `gone`: closes at once. `+requiretls`: announces it. `/` between hosts                           |
//! | certificate | `good`, `expired`, `early`, `other` (another name), `wildcard`, `common` (the name as common name |
//! |             | alone), `self`, `stranger` (of another authority), `partner`, `nexthop`                          |
//! | happens     | `sent LEVEL`, `later STATUS`, `failed STATUS`; then `host2`: there; `dials=N`                    |
//! | required    | as the log shows it                                                                              |
//! | reported    | for each host what a report would say: `ok` or a kind of RFC 8460                                |

#![allow(clippy::unwrap_used)] // a row that cannot be read has failed

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openssl::ssl::SslVersion;
use openssl::x509::X509;
use posthaste::clock::Timestamp;
use posthaste::config::{Config, DomainPattern, TlsMemory, TlsPolicy, TlsVersion, TlsWanted};
use posthaste::delivery::{StsSource, TlsReports, TlsSeams};
use posthaste::message::RequireTls;
use posthaste::net::deadline::Deadline;
use posthaste::policy::failure::TlsLevel;
use posthaste::policy::tls::facts::{MxPattern, StsFacts, StsMode, StsPolicy};
use posthaste::policy::tls::report::Seen;
use posthaste::smtp::address::Domain;
use posthaste::store::{State, TlsSeen};

use crate::client::bench::{Bench, hosts, letter};
use crate::support::ca::{Authority, Issued, leaf, tlsa_data};
use crate::support::dns::{DnsServer, Fault, RecordType, ResponseCode};
use crate::support::mx::{At, Do, Mx, Script, on, reply};
use crate::support::queue::TempDir;
use crate::support::tap::{Tap, commands_in_clear};

/// Certificates that all rows share.
pub struct Pki {
    root: Authority,
    middle: Authority,
    stranger: Authority,
    /// `root` for `tls.ca_file`.
    pub ca_file: PathBuf,
    _directory: TempDir,
}

pub fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| {
        let root = Authority::root("the authority");
        let directory = TempDir::new();
        let ca_file = directory.path().join("ca.pem");
        std::fs::write(&ca_file, root.pem()).unwrap();
        Pki {
            middle: root.under("in between"),
            stranger: Authority::root("somebody else"),
            root,
            ca_file,
            _directory: directory,
        }
    })
}

impl Pki {
    /// A certificate of the table for this host.
    pub fn certificate(&self, word: &str, host: &str) -> Issued {
        match word {
            "good" => self.middle.issue(leaf(&[host])),
            "expired" => self.middle.issue(leaf(&[host]).expired()),
            "early" => self.middle.issue(leaf(&[host]).not_yet()),
            "other" => self.middle.issue(leaf(&["other.test"])),
            "wildcard" => self.middle.issue(leaf(&["*.dest.test"])),
            "common" => self.middle.issue(leaf(&["other.test"]).common_name(host)),
            "self" => leaf(&[host]).self_signed(),
            "stranger" => self.stranger.issue(leaf(&[host])),
            "partner" => self.middle.issue(leaf(&["mail.partner.test"])),
            "nexthop" => self.middle.issue(leaf(&["dest.test"])),
            "real" => self.middle.issue(leaf(&["real.test"])),
            other => panic!("certificate {other}"),
        }
    }

    fn of_record<'a>(&'a self, word: &str, own: &'a Issued) -> &'a X509 {
        match word {
            "own" => &own.cert,
            "root" => &self.root.cert,
            "middle" => &self.middle.cert,
            "stranger" => &self.stranger.cert,
            other => panic!("record of {other}"),
        }
    }
}

/// Says what the row says of MTA-STS, and keeps what was seen.
#[derive(Default)]
pub struct Seams {
    pub sts: StsFacts,
    pub seen: Mutex<Vec<Seen>>,
    /// How often all hosts of a policy failed (STS-8).
    pub failed: AtomicUsize,
}

impl StsSource for Seams {
    fn policy(&self, domain: &Domain, _: Deadline) -> StsFacts {
        // STS-1: the recipient's domain as written.
        assert_eq!(domain.as_str(), "dest.test");
        self.sts.clone()
    }

    fn all_failed(&self, _: &Domain) {
        self.failed.fetch_add(1, Ordering::SeqCst);
    }
}

impl TlsReports for Seams {
    fn seen(&self, seen: Seen) {
        assert_eq!(seen.domain.as_str(), "dest.test");
        self.seen.lock().unwrap().push(seen);
    }
}

pub fn seams(seams: &Arc<Seams>) -> TlsSeams {
    TlsSeams {
        sts: Arc::clone(seams) as Arc<dyn StsSource>,
        reports: Arc::clone(seams) as Arc<dyn TlsReports>,
    }
}

/// Runs every row of a table; all that differ are told at once.
#[track_caller]
pub fn run(table: &str) {
    let mut faults = Vec::new();
    let mut rows = 0;
    for line in table.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [
            dns,
            policy,
            message,
            server,
            certificate,
            happens,
            required,
            reported,
        ] = columns[..]
        else {
            panic!("not eight columns: {line}");
        };
        rows += 1;
        let row = Row {
            dns,
            policy,
            message,
            server,
            certificate,
            happens,
        };
        let is = row.run();
        let wanted = (
            words(happens).join(" "),
            required.to_string(),
            words(reported).join(" "),
        );
        if is != wanted {
            faults.push(format!("{line}\n   but: {} | {} | {}", is.0, is.1, is.2));
        }
    }
    assert!(rows > 0);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn words(column: &str) -> Vec<&str> {
    column
        .split_whitespace()
        .filter(|word| *word != "-")
        .collect()
}

struct Row<'a> {
    dns: &'a str,
    policy: &'a str,
    message: &'a str,
    server: &'a str,
    certificate: &'a str,
    happens: &'a str,
}

impl Row<'_> {
    fn run(&self) -> (String, String, String) {
        let certificates: Vec<&str> = self.certificate.split('/').map(str::trim).collect();
        let names: Vec<String> = (1..=certificates.len())
            .map(|n| format!("mx{n}.dest.test"))
            .collect();
        let identities: Vec<Option<Issued>> = certificates
            .iter()
            .zip(&names)
            .map(|(word, name)| (*word != "-").then(|| pki().certificate(word, name)))
            .collect();
        let scripts = self
            .server
            .split('/')
            .zip(&identities)
            .map(|(server, identity)| script(server.trim(), identity.clone()))
            .collect();
        let hosts: Vec<Mx> = hosts(scripts);
        // On the path to each host somebody listens.
        let taps: Vec<Tap> = (1..)
            .zip(&hosts)
            .map(|(n, host)| {
                let ip = Ipv4Addr::new(127, 0, 1, n);
                Tap::start_at((ip, host.port()).into(), host.address())
            })
            .collect();
        let seams = Arc::new(Seams {
            sts: self.sts(),
            ..Seams::default()
        });
        let all: Vec<&Mx> = hosts.iter().collect();
        let mut bench = Bench::with_tls(&all, super::table::seams(&seams), |config| {
            config.tls.ca_file = Some(pki().ca_file.clone());
            self.configure(config);
        });
        for (name, tap) in names.iter().zip(&taps) {
            bench.dns.forget(name);
            bench.dns.a(name, &tap.address().ip().to_string());
        }
        self.prepare_dns(&bench.dns, hosts[0].port(), &identities);
        self.remember(&bench);
        let require = match self.message {
            "-" => RequireTls::Default,
            "requiretls" => RequireTls::Yes,
            "tls-required-no" => RequireTls::No,
            other => panic!("message {other}"),
        };
        let id =
            bench.send(letter(&["bob@dest.test"]).head(move |head| head.require_tls = require));
        bench.finish();
        let result = bench.result(id, 1);
        let attempt = result.last();

        let mut happened = match result.row.state {
            State::Delivered => format!("sent {}", attempt.tls),
            State::Queued => format!("later {}", attempt.status),
            State::Failed => format!("failed {}", attempt.status),
            other => format!("{other:?}"),
        };
        if let Some(number) = names.iter().position(|name| *name == attempt.host)
            && number > 0
        {
            happened.push_str(&format!(" host{}", number + 1));
        }
        if self.happens.contains("dials=") {
            let dials: usize = hosts.iter().map(Mx::connections).sum();
            happened.push_str(&format!(" dials={dials}"));
        }
        // STS-8: who keeps the policies is told when one of them keeps mail here, and only then.
        let stopped = self.policy.contains("sts=enforce")
            && !self.policy.contains("row=")
            && attempt.status.to_string().starts_with("4.7.")
            && self.message != "tls-required-no";
        let told = seams.failed.load(Ordering::SeqCst);
        assert_eq!(told, usize::from(stopped), "{}", self.policy);
        let policy = match attempt.tls_policy.as_str() {
            "" => "-".to_string(),
            policy => policy.to_string(),
        };
        drop(bench);
        for ((name, host), tap) in names.iter().zip(&hosts).zip(taps) {
            let delivered = result.row.state == State::Delivered && attempt.host == *name;
            check_channels(
                host,
                &tap.finish(),
                delivered.then_some(attempt.tls),
                &policy,
            );
        }
        let seen = seams.seen.lock().unwrap();
        let reported: Vec<String> = seen
            .iter()
            .map(|seen| match &seen.result {
                Ok(()) => "ok".to_string(),
                Err(fault) => fault.kind.to_string(),
            })
            .collect();
        (happened, policy, reported.join(" "))
    }

    fn sts(&self) -> StsFacts {
        let word = words(self.policy)
            .into_iter()
            .find_map(|word| word.strip_prefix("sts="));
        match word {
            None => StsFacts::Nothing,
            Some("unknown") => StsFacts::Unknown("SERVFAIL".to_string()),
            Some(word) => {
                let (mode, patterns) = word.split_once(':').unwrap();
                StsFacts::Policy(Arc::new(StsPolicy {
                    id: "20261121".to_string(),
                    mode: match mode {
                        "enforce" => StsMode::Enforce,
                        "testing" => StsMode::Testing,
                        "none" => StsMode::None,
                        other => panic!("mode {other}"),
                    },
                    mx: patterns
                        .split(',')
                        .map(|pattern| MxPattern::parse(pattern).unwrap())
                        .collect(),
                    max_age: 86_400,
                    expires: Timestamp::from_secs(4_000_000_000),
                }))
            }
        }
    }

    fn configure(&self, config: &mut Config) {
        for word in words(self.policy) {
            let (key, value) = word.split_once('=').unwrap();
            match (key, value) {
                ("level", level) => config.tls.level = wanted(level),
                ("fallback", value) => config.tls.fallback = value == "true",
                ("dane", value) => config.tls.dane = value == "true",
                ("min_version", "1.3") => config.tls.min_version = TlsVersion::Tls13,
                ("memory", "off") => config.tls.memory = TlsMemory::Off,
                ("memory", "encryption") => config.tls.memory = TlsMemory::Encryption,
                ("memory", "verification") => config.tls.memory = TlsMemory::Verification,
                ("row", row) => {
                    let (level, name) = row.split_once(':').unwrap_or((row, ""));
                    config.tls_policy.push(TlsPolicy {
                        domains: vec![DomainPattern::Exact(Domain::parse("dest.test").unwrap())],
                        level: wanted(level),
                        names: Domain::parse(name).into_iter().collect(),
                    });
                }
                ("was" | "sts", _) => {}
                other => panic!("policy {other:?}"),
            }
        }
    }

    fn prepare_dns(&self, dns: &DnsServer, port: u16, identities: &[Option<Issued>]) {
        dns.authentic(true);
        let mut own_name = "mx1.dest.test".to_string();
        if words(self.dns).contains(&"alias") {
            dns.forget("mx1.dest.test");
            dns.cname("mx1.dest.test", "real.test")
                .a("real.test", "127.0.1.1");
            own_name = "real.test".to_string();
        }
        let tlsa = format!("_{port}._tcp.{own_name}");
        for word in words(self.dns) {
            match word {
                "secure" | "alias" => {}
                "insecure" => drop(dns.authentic(false)),
                "mx-insecure" => drop(dns.insecure("dest.test")),
                "host-insecure" => drop(dns.insecure("mx1.dest.test")),
                "rrset-insecure" => drop(dns.insecure(&tlsa)),
                "servfail" => {
                    dns.fault(&tlsa, RecordType::TLSA, Fault::Code(ResponseCode::ServFail));
                }
                "truncated" => drop(dns.fault(&tlsa, RecordType::TLSA, Fault::Truncate)),
                record => {
                    let (record, place) = record.split_once('@').unwrap_or((record, "1"));
                    let (fields, cert) = record.split_once('=').unwrap();
                    let fields: Vec<u8> = fields.split('.').map(|f| f.parse().unwrap()).collect();
                    let fields: [u8; 3] = fields.try_into().unwrap();
                    let (name, identity) = match place {
                        "1" => (own_name.as_str(), &identities[0]),
                        "2" => ("mx2.dest.test", &identities[1]),
                        "alias" => ("mx1.dest.test", &identities[0]),
                        other => panic!("at {other}"),
                    };
                    let data = match cert {
                        "short" => vec![7; 5],
                        cert => {
                            let nobody = pki().certificate("self", "x.test");
                            let own = identity.as_ref().unwrap_or(&nobody);
                            let matching = fields[2].min(2);
                            tlsa_data(pki().of_record(cert, own), fields[1], matching)
                        }
                    };
                    dns.tlsa(name, port, fields, data);
                }
            }
        }
    }

    fn remember(&self, bench: &Bench) {
        let word = words(self.policy)
            .into_iter()
            .find_map(|word| word.strip_prefix("was="));
        let Some(word) = word else { return };
        let (level, days) = word.split_once(':').unwrap_or((word, "1"));
        let age = Duration::from_secs(86_400 * days.parse::<u64>().unwrap());
        let at = bench.now().minus(age);
        bench.queue.store.note_tls(TlsSeen {
            domain: Domain::parse("dest.test").unwrap(),
            at,
            verified: level == "verified",
            requiretls: false,
            forget_before: Timestamp::from_secs(0),
        });
    }
}

/// SEC-8: nothing but EHLO, STARTTLS and QUIT goes to a host over a channel that is weaker than required, and the wire
/// has nothing but TLS on it after STARTTLS. `level` is what was reached where the message went to this host.
fn check_channels(host: &Mx, wires: &[Vec<u8>], level: Option<TlsLevel>, required: &str) {
    let harmless = |line: &String| matches!(line.get(..4), Some("EHLO" | "STAR" | "QUIT"));
    let clear_will_do = required.starts_with("opportunistic") || required.starts_with("none");
    let mut spoken = 0;
    let sessions = host.sessions();
    assert_eq!(wires.len(), sessions.len());
    for (wire, session) in wires.iter().zip(&sessions) {
        let (clear, tls) = commands_in_clear(wire);
        assert!(tls || !session.tls, "{clear:?}");
        if !clear.iter().all(harmless) {
            assert_eq!(level, Some(TlsLevel::Plain), "in clear: {clear:?}");
            assert!(clear_will_do && !tls, "{required}: {clear:?}");
        }
        if !session.commands.iter().all(harmless) {
            spoken += 1;
            assert_eq!(
                Some(session.tls),
                level.map(|level| level > TlsLevel::Plain)
            );
        }
    }
    assert_eq!(spoken, usize::from(level.is_some()), "{sessions:?}");
}

fn wanted(word: &str) -> TlsWanted {
    match word {
        "none" => TlsWanted::Never,
        "opportunistic" => TlsWanted::Opportunistic,
        "encrypt" => TlsWanted::Encrypt,
        "verify" => TlsWanted::Verify,
        "dane" => TlsWanted::Dane,
        other => panic!("level {other}"),
    }
}

fn script(word: &str, identity: Option<Issued>) -> Script {
    let (word, requiretls) = match word.strip_suffix("+requiretls") {
        Some(word) => (word, true),
        None => (word, false),
    };
    let mut script = Script::new();
    if word != "clear" {
        script = script.starttls();
    }
    if let Some(identity) = identity {
        script = script.identity(identity);
    }
    if requiretls {
        script = script.inside("REQUIRETLS");
    }
    match word {
        "clear" | "tls" => script,
        "tls1.1" => script.highest(SslVersion::TLS1_1),
        "tls1.2" => script.highest(SslVersion::TLS1_2),
        "rejects" => script.demands_client_certificate(),
        "broken" => script.rule(on(At::Handshake, Do::Close)),
        "rubbish" => script.rule(on(At::Handshake, Do::RawAndClose(b"what?\r\n".to_vec()))),
        "inject" => script.rule(on(
            At::StartTls,
            Do::Raw(b"220 go ahead\r\n250 injected\r\n".to_vec()),
        )),
        "gone" => script.rule(on(At::Greeting, Do::Close)),
        code => script.rule(reply(At::StartTls, &format!("{code} no"))),
    }
}
