//! Scenarios: DKIM signatures on what leaves (MSG-7, MSG-8). Other verifiers are asked in tests/peers/dkim.sh.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use nix::unistd::geteuid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use posthaste::clock::{Clock, Timestamp};
use posthaste::message::dkim::{Outcome, SigningKey, Verifier};
use posthaste::smtp::address::Domain;

use crate::support::daemon::{self, Process, Smtp, TestDaemon};
use crate::support::dns::{DnsServer, Fault};
use crate::support::mx::{At, Mx, Script, reply};
use crate::support::program::run;
use crate::support::queue::TempDir;

/// A key file with this mode.
fn write_key(dir: &Path, name: &str, key: &PKey<Private>, mode: u32) -> PathBuf {
    let path = dir.join(name);
    let _ = fs::remove_file(&path);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .unwrap();
    let pem = key.private_key_to_pem_pkcs8().unwrap();
    file.write_all(&pem).unwrap();
    path
}

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn ed25519() -> PKey<Private> {
    PKey::generate_ed25519().unwrap()
}

/// A `[[dkim]]` for here.example.
fn table(selector: &str, key: &Path) -> String {
    format!(
        "[[dkim]]\ndomain = \"here.example\"\nselector = \"{selector}\"\nkey = {:?}\n",
        key.display()
    )
}

/// Everything goes to this server.
fn through(mx: &Mx) -> String {
    format!(
        "[dsn]\ncollect = \"0s\"\nfrom = \"mailer@here.example\"\n[[transport]]\nname = \"out\"\nkind = \"relay\"\n\
         hosts = [\"{}\"]\ntls = \"none\"\n[[route]]\ntransport = \"out\"\n",
        mx.address()
    )
}

/// The TXT record of a key.
fn record(key: &PKey<Private>) -> Vec<u8> {
    let name = || Domain::parse("here.example").unwrap();
    let key = SigningKey::new(name(), name(), key.clone()).unwrap();
    key.record().unwrap().into_bytes()
}

/// What the signatures on a message are worth, by selector.
fn judged(
    content: &[u8],
    keys: &[(&str, &PKey<Private>)],
    now: Timestamp,
) -> Vec<(String, Outcome)> {
    let verifier = Verifier::new(content);
    let judge = |signature: &Result<posthaste::message::dkim::Signature, _>| {
        let signature = signature.as_ref().unwrap();
        let selector = signature.selector.to_string();
        let key = keys.iter().find(|(name, _)| **name == selector);
        let records: Vec<_> = key.map(|(_, key)| record(key)).into_iter().collect();
        let outcome = verifier.verify(signature, &records, now);
        (selector, outcome)
    };
    verifier.signatures().iter().map(judge).collect()
}

fn pass(selector: &str) -> (String, Outcome) {
    (selector.to_owned(), Outcome::Pass)
}

const CONTENT: &str = "From: Ann <ann@Here.Example>\r\nSubject: a\r\n\tb\r\n\r\n.dots \t and blanks  \r\n\r\n\u{e4}\r\n\r\n";

// MSG-7, CFG-23
#[test]
fn mail_of_a_domain_with_keys_arrives_with_a_good_signature_of_each() {
    let dir = Arc::new(TempDir::new());
    let (one, two) = (rsa(2048), ed25519());
    let tables = table("one", &write_key(dir.path(), "one", &one, 0o600))
        + &table("two", &write_key(dir.path(), "two", &two, 0o400));
    let keys = [("one", &one), ("two", &two)];
    let mx = Mx::start(Script::new());
    let clock = Clock::system();
    let more = format!("{tables}{}", through(&mx));
    let daemon = TestDaemon::start_in(dir, clock.clone(), &more).unwrap();
    daemon.submit("ann@bounces.example", &["bob@dest.example"], CONTENT);
    let seen = mx.next_transaction();
    assert_eq!(
        judged(&seen.content, &keys, clock.now()),
        [pass("one"), pass("two")]
    );
    let text = String::from_utf8(seen.content).unwrap();
    assert!(
        text.starts_with("Received: ") && text.contains("\r\nDKIM-Signature: v=1; a=rsa-sha256;")
    );
    // Longer than a piece that is kept in memory, and than one that is committed with the message.
    let long = format!(
        "From: a@here.example\r\n\r\n{}",
        "words and blanks \u{e4} \r\n".repeat(120_000)
    );
    daemon.submit("ann@here.example", &["bob@dest.example"], &long);
    let seen = mx.next_transaction();
    assert!(seen.content.len() > 2 << 20);
    assert_eq!(
        judged(&seen.content, &keys, clock.now()),
        [pass("one"), pass("two")]
    );
    // The domain in From counts, and no other.
    daemon.submit(
        "ann@here.example",
        &["bob@dest.example"],
        "From: ann@sub.here.example\r\nSender: ann@here.example\r\n\r\nx",
    );
    let other = mx.next_transaction();
    assert!(
        !String::from_utf8(other.content)
            .unwrap()
            .contains("DKIM-Signature")
    );
}

// MSG-7, IN-4: what is signed is what leaves
#[test]
fn bare_line_feeds_and_stuffed_dots_do_not_break_a_signature() {
    let dir = Arc::new(TempDir::new());
    let key = ed25519();
    let tables = table("s", &write_key(dir.path(), "key", &key, 0o600));
    let mx = Mx::start(Script::new());
    let clock = Clock::system();
    let more = format!("{tables}{}", through(&mx));
    let daemon = TestDaemon::start_in(dir, clock.clone(), &more).unwrap();
    for content in [
        "From: ann@here.example\nSubject: a\n b\n\nx \n..\n\r\n...y\n.\r\n",
        "From: ann@here.example\r\n\r\n",
        "From: ann@here.example\r\n",
    ] {
        let mut smtp = Smtp::connect(daemon.smtp());
        for line in ["EHLO x", "MAIL FROM:<>", "RCPT TO:<bob@dest.example>"] {
            assert!(smtp.say(line).starts_with("250"), "{line}");
        }
        assert!(smtp.say("DATA").starts_with("354"));
        smtp.send(content);
        let answer = smtp.say(".");
        assert!(answer.starts_with("250"), "{answer}");
        let seen = mx.next_transaction();
        assert_eq!(
            judged(&seen.content, &[("s", &key)], clock.now()),
            [pass("s")],
            "{content:?}"
        );
    }
}

// MSG-7, DSN-10
#[test]
fn a_notice_is_signed_for_the_domain_that_it_comes_from() {
    let dir = Arc::new(TempDir::new());
    let key = ed25519();
    let tables = table("two", &write_key(dir.path(), "two", &key, 0o600));
    let mx = Mx::start(Script::new().rule(reply(At::Rcpt, "550 5.1.1 no").line("<bob@")));
    let clock = Clock::system();
    let more = format!("{tables}{}", through(&mx));
    let daemon = TestDaemon::start_in(dir, clock.clone(), &more).unwrap();
    daemon.submit(
        "ann@else.example",
        &["bob@dest.example"],
        "From: ann@else.example\r\n\r\nx",
    );
    let notice = loop {
        let seen = mx.next_transaction();
        if seen.recipients() == ["ann@else.example"] {
            break seen;
        }
    };
    assert_eq!(
        judged(&notice.content, &[("two", &key)], clock.now()),
        [pass("two")]
    );
    let text = String::from_utf8(notice.content).unwrap();
    assert!(
        text.starts_with("DKIM-Signature: ") && text.contains("\r\nFrom: "),
        "{text}"
    );
}

// MSG-8, CFG-7, CFG-8
#[test]
fn a_key_that_cannot_be_used_stops_the_start_and_the_check() {
    let dir = TempDir::new();
    let at = |name: &str| dir.path().join(name);
    // Where the log goes.
    fs::create_dir(at("run")).unwrap();
    write_key(dir.path(), "short", &rsa(512), 0o600);
    write_key(dir.path(), "open", &ed25519(), 0o640);
    write_key(
        dir.path(),
        "other",
        &PKey::generate_x25519().unwrap(),
        0o600,
    );
    fs::write(at("empty"), "").unwrap();
    for (name, reason) in [
        ("missing", "No such file"),
        ("short", "an RSA key of 512 bits"),
        ("open", "group or others may read or write it (mode 0640)"),
        ("other", "neither an RSA nor an Ed25519 key"),
        ("empty", "group or others"),
    ] {
        let file = daemon::write_config(&dir, &table("s", &at(name)));
        for option in ["-n", "-F"] {
            let output = daemon::run(&[option, "-f", file.to_str().unwrap()]);
            let text = String::from_utf8(output.stderr).unwrap();
            let last = text.lines().last().unwrap();
            assert_eq!(output.status.code(), Some(78), "{name}: {text}");
            assert!(
                last.contains(&format!("dkim: {}: {reason}", at(name).display())),
                "{last}"
            );
        }
    }
    // Weak, and said so.
    let key = write_key(dir.path(), "weak", &rsa(1024), 0o600);
    let file = daemon::write_config(&dir, &table("s", &key));
    let output = daemon::run(&["-n", "-f", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.contains("s._domainkey.here.example: an RSA key of 1024 bits, under 2048"),
        "{text}"
    );
}

// MSG-8, CFG-5
#[test]
fn a_reload_takes_new_keys_and_refuses_bad_ones_whole() {
    let dir = Arc::new(TempDir::new());
    let (old, new) = (ed25519(), ed25519());
    let path = write_key(dir.path(), "key", &old, 0o600);
    let mx = Mx::start(Script::new());
    let clock = Clock::system();
    let more = |tables: &str| format!("{tables}{}", through(&mx));
    let daemon = TestDaemon::start_in(Arc::clone(&dir), clock.clone(), &more("")).unwrap();
    let signed = |keys: &[(&str, &PKey<Private>)]| {
        daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
        judged(&mx.next_transaction().content, keys, clock.now())
    };
    assert_eq!(signed(&[]), []);
    daemon.rewrite(&more(&table("s", &path)));
    assert_eq!(
        daemon.control("reload\n"),
        ["changed=dkim", "OK reloaded"].map(String::from).to_vec()
    );
    assert_eq!(signed(&[("s", &old)]), [pass("s")]);
    // The same name and file, another key.
    write_key(dir.path(), "key", &new, 0o600);
    let answer = daemon.control("reload\n").join("\n");
    assert!(answer.contains("dkim.key"), "{answer}");
    assert_eq!(signed(&[("s", &new)]), [pass("s")]);
    // Faulty: what was in force goes on, all of it.
    fs::write(&path, "nothing").unwrap();
    let two = write_key(dir.path(), "two", &old, 0o600);
    daemon.rewrite(&more(&(table("s", &path) + &table("t", &two))));
    let answer = daemon.control("reload\n").join("\n");
    assert!(answer.starts_with("ERR config dkim: "), "{answer}");
    assert_eq!(signed(&[("s", &new)]), [pass("s")]);
    daemon.rewrite(&more(""));
    daemon.control("reload\n");
    assert_eq!(signed(&[]), []);
}

/// `posthaste -f FILE dkim WORDS`, with this on standard input: status, standard output, standard error.
fn tool(file: &Path, words: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.arg("-f").arg(file).arg("dkim").args(words);
    let output = run(command, input);
    let text = |octets| String::from_utf8(octets).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

// MSG-9
#[test]
fn a_key_is_made_published_and_checked_by_the_tool() {
    let dir = Arc::new(TempDir::new());
    let at = |name: &str| dir.path().join(name);
    let none = at("none.toml");
    fs::write(&none, "hostname = \"here.example\"\n").unwrap();
    for (name, algorithm) in [("one", "rsa"), ("two", "ed25519")] {
        let key = format!("key={}", at(name).display());
        let algorithm = format!("algorithm={algorithm}");
        let words = ["keygen", &key, &algorithm];
        assert_eq!(tool(&none, &words, b""), (0, String::new(), String::new()));
        let mode = fs::metadata(at(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (status, _, why) = tool(&none, &words, b"");
        assert!(status == 73 && why.contains("exists"), "{why}");
    }
    let (status, _, told) = tool(&none, &["dns"], b"");
    assert_eq!(status, 1);
    assert!(told.contains("no [[dkim]] of the configuration"), "{told}");
    let dns = DnsServer::start();
    let mx = Mx::start(Script::new());
    let more = table("one", &at("one")) + &table("two", &at("two")) + &through(&mx);
    let more = format!("[dns]\nservers = [\"{}\"]\n{more}", dns.addr());
    let daemon = TestDaemon::start_in(Arc::clone(&dir), Clock::system(), &more).unwrap();
    let file = daemon::write_config(&dir, &more);
    let (status, zone, _) = tool(&file, &["dns"], b"");
    assert_eq!((status, zone.lines().count()), (0, 2), "{zone}");
    for line in zone.lines() {
        let (name, rest) = line.split_once(". IN TXT ").unwrap();
        let text: String = rest.split('"').skip(1).step_by(2).collect();
        assert!(text.starts_with("v=DKIM1; k="), "{text}");
        dns.txt(name, &text);
    }
    daemon.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    let seen = mx.next_transaction().content;
    let (status, lines, _) = tool(&file, &["verify"], &seen);
    assert_eq!(
        lines,
        "domain=here.example selector=one algorithm=rsa-sha256 result=pass\n\
         domain=here.example selector=two algorithm=ed25519-sha256 result=pass\n"
    );
    assert_eq!(status, 0);
    let text = String::from_utf8(seen).unwrap();
    // As a file has it.
    assert_eq!(
        tool(&file, &["verify"], text.replace("\r\n", "\n").as_bytes()).0,
        0
    );
    let (status, lines, _) = tool(&file, &["verify"], text.replace("dots", "dash").as_bytes());
    assert_eq!(
        (
            status,
            lines
                .matches("result=fail text=\"the body was changed\"")
                .count()
        ),
        (1, 2)
    );
    dns.forget("two._domainkey.here.example");
    let (status, lines, _) = tool(&file, &["verify"], text.as_bytes());
    assert_eq!(status, 1);
    assert!(
        lines.ends_with("result=error text=\"there is no key\"\n"),
        "{lines}"
    );
    dns.fault(
        "two._domainkey.here.example",
        RecordType::TXT,
        Fault::Code(ResponseCode::ServFail),
    );
    let (status, lines, _) = tool(&file, &["verify"], text.as_bytes());
    assert!(
        status == 75 && lines.contains("selector=two algorithm=ed25519-sha256 result=unknown"),
        "{lines}"
    );
    let (status, _, why) = tool(&file, &["verify"], b"From: a@b\n\nx\n");
    assert_eq!(
        (status, why.trim_end()),
        (1, "posthaste: no DKIM-Signature")
    );
}

// MSG-8, CFG-5, PRC-1
#[test]
fn a_key_that_only_root_may_read_is_read_at_the_start_and_stays() {
    if !geteuid().is_root() {
        return;
    }
    let dir = Arc::new(TempDir::new());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let key = ed25519();
    let more = table("s", &write_key(dir.path(), "key", &key, 0o600));
    let mx = Mx::start(Script::new());
    // A process, because only that gives root up.
    let process = Process::start_in(Arc::clone(&dir), &format!("{more}{}", through(&mx)));
    let kept = process.control("reload");
    assert_eq!(kept, ["needs-restart=dkim.key", "OK reloaded"]);
    process.wait_for(" dkim-key name=s._domainkey.here.example result=kept ");
    process.submit("ann@here.example", &["bob@dest.example"], CONTENT);
    let now = Clock::system().now();
    let seen = mx.next_transaction();
    assert_eq!(judged(&seen.content, &[("s", &key)], now), [pass("s")]);
    // One that was never read is no key at all.
    let two = write_key(dir.path(), "two", &key, 0o600);
    let more = format!("{more}{}{}", table("t", &two), through(&mx));
    daemon::write_config(&dir, &more);
    let refused = process.control("reload").join("\n");
    let reason = format!("ERR config dkim: {}: Permission denied", two.display());
    assert!(refused.starts_with(&reason), "{refused}");
}
