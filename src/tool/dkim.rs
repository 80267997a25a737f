//! `posthaste dkim keygen|dns|verify` (MSG-9): works on files and DNS, and asks no daemon.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;

use super::{DATA, Exit, IO, NOTHING, SOFTWARE, TEMPORARY};
use crate::clock::Clock;
use crate::config::{Config, DEFAULT_PATH, Live};
use crate::front::control::output::Record;
use crate::message::dkim::{Outcome, SigningKey, Verifier};
use crate::net::deadline::Deadline;
use crate::net::dns::Resolver;
use crate::net::tls::server::read_key;
use crate::policy::hosts::Found;
use crate::smtp::address::Domain;

/// Largest message that is checked.
const MAX_MESSAGE: u64 = 256 << 20;

/// Octets of one string of a TXT record (RFC 1035 §3.3).
const MAX_STRING: usize = 255;

/// sysexits(3): something is wrong with the configuration.
const CONFIG: u8 = 78;
/// sysexits(3): a file cannot be made.
const CANNOT_CREATE: u8 = 73;

const USAGE: &str = "\
usage: posthaste dkim keygen key=FILE [algorithm=rsa|ed25519] [bits=N]
       posthaste [-f FILE] dkim dns [domain=DOMAIN] [selector=S] [key=FILE]
       posthaste [-f FILE] dkim verify";

/// Carries out `dkim` with these words; `file` is the configuration, if one was named.
pub(super) fn run(args: &[String], file: Option<&Path>) -> Result<u8, Exit> {
    let (verb, words) = args.split_first().ok_or_else(|| Exit::usage(USAGE))?;
    let mut words = Words::read(words)?;
    let status = match verb.as_str() {
        "keygen" => keygen(&mut words)?,
        "dns" => dns(&mut words, file)?,
        "verify" => verify(&mut words, file)?,
        _ => return Err(Exit::usage(USAGE)),
    };
    Ok(status)
}

/// `name=value` words.
struct Words(Vec<(String, String)>);

impl Words {
    fn read(args: &[String]) -> Result<Words, Exit> {
        let words = args.iter().map(|arg| match arg.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(Exit::usage(format!("{arg:?} is no name=value\n{USAGE}"))),
        });
        Ok(Words(words.collect::<Result<_, Exit>>()?))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.remove(at).1)
    }

    fn domain(&mut self, name: &str) -> Result<Option<Domain>, Exit> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let parsed = Domain::parse(&text).map_err(|why| Exit::usage(format!("{name}: {why}")));
        parsed.map(Some)
    }

    /// Nothing may be left.
    fn finish(&self) -> Result<(), Exit> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Exit::usage(format!(
                "{name}: twice, or unknown here\n{USAGE}"
            ))),
        }
    }
}

fn configuration(file: Option<&Path>) -> Result<Option<Config>, Exit> {
    let path = file.unwrap_or(Path::new(DEFAULT_PATH));
    match Config::load(path) {
        Ok(config) => Ok(Some(config)),
        // As for the sockets (CTL-23): without a file that we may read, what is built in.
        Err(_) if file.is_none() && std::fs::read(path).is_err() => Ok(None),
        Err(error) => Err(Exit::new(CONFIG, error.to_string())),
    }
}

fn openssl(error: ErrorStack) -> Exit {
    Exit::new(SOFTWARE, format!("OpenSSL: {error}"))
}

fn keygen(words: &mut Words) -> Result<u8, Exit> {
    let path = words.take("key").map(PathBuf::from);
    let algorithm = words.take("algorithm");
    let bits = words.take("bits");
    words.finish()?;
    let path = path.ok_or_else(|| Exit::usage(format!("key=FILE is missing\n{USAGE}")))?;
    let key = match (algorithm.as_deref().unwrap_or("rsa"), bits) {
        ("ed25519", None) => PKey::generate_ed25519().map_err(openssl)?,
        ("rsa", bits) => {
            // RFC 8301 §3.2: at least 2048 for what is new.
            let bits = bits.as_deref().unwrap_or("2048").parse().ok();
            let bits = bits.filter(|bits| (2048..=4096).contains(bits));
            let bits = bits.ok_or_else(|| Exit::usage("bits: a number from 2048 to 4096"))?;
            Rsa::generate(bits)
                .and_then(PKey::from_rsa)
                .map_err(openssl)?
        }
        ("ed25519", Some(_)) => return Err(Exit::usage("bits: only rsa has a choice")),
        _ => return Err(Exit::usage("algorithm: rsa or ed25519")),
    };
    write_key(&path, &key)?;
    Ok(0)
}

/// A new file that only its owner may read, or none.
fn write_key(path: &Path, key: &PKey<Private>) -> Result<(), Exit> {
    let failed = |status| move |error| Exit::new(status, format!("{}: {error}", path.display()));
    let pem = key.private_key_to_pem_pkcs8().map_err(openssl)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Exit::new(
            CANNOT_CREATE,
            format!(
                "{}: it exists and is left as it is: name another file, or remove it first",
                path.display()
            ),
        ),
        _ => failed(CANNOT_CREATE)(error),
    })?;
    let written = file.write_all(&pem).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key is of no use, and would stand in the way of the next try.
        let _ = std::fs::remove_file(path);
        failed(IO)(error)
    })
}

fn dns(words: &mut Words, file: Option<&Path>) -> Result<u8, Exit> {
    let domain = words.domain("domain")?;
    let selector = words.domain("selector")?;
    let key = words.take("key").map(PathBuf::from);
    words.finish()?;
    let wanted: Vec<(Domain, Domain, PathBuf)> = match (key, domain, selector) {
        (Some(key), Some(domain), Some(selector)) => vec![(domain, selector, key)],
        (Some(_), ..) => {
            return Err(Exit::usage(
                "key=FILE needs domain= and selector= beside it",
            ));
        }
        (None, domain, selector) => {
            let tables = configuration(file)?.map_or_else(Vec::new, |config| config.dkim);
            let tables = tables.into_iter().filter(|table| {
                domain.as_ref().is_none_or(|domain| *domain == table.domain)
                    && selector.as_ref().is_none_or(|s| *s == table.selector)
            });
            tables.map(|t| (t.domain, t.selector, t.key)).collect()
        }
    };
    let mut out = io::stdout().lock();
    for (domain, selector, path) in &wanted {
        let faulty = |why: String| Exit::new(CONFIG, why);
        let key = read_key(path).map_err(|error| faulty(error.to_string()))?;
        let key = SigningKey::new(domain.clone(), selector.clone(), key)
            .map_err(|error| faulty(format!("{}: {error}", path.display())))?;
        if let Some(warning) = key.warning() {
            let _ = writeln!(io::stderr(), "posthaste: {warning}");
        }
        let record = key.record().map_err(|error| faulty(error.to_string()))?;
        writeln!(out, "{}", zone_line(&key.name(), &record))
            .map_err(|error| Exit::output(&error))?;
    }
    if wanted.is_empty() {
        let text = "posthaste: no [[dkim]] of the configuration fits; see posthaste.toml(5)";
        let _ = writeln!(io::stderr(), "{text}");
        return Ok(NOTHING);
    }
    Ok(0)
}

/// As a line of a zone file (RFC 1035 §5.1). The record is letters, digits and a few signs, none of which means anything
/// between quotes.
fn zone_line(name: &str, record: &str) -> String {
    let strings: Vec<String> = record
        .as_bytes()
        .chunks(MAX_STRING)
        .map(|string| format!("\"{}\"", String::from_utf8_lossy(string)))
        .collect();
    match strings.as_slice() {
        [one] => format!("{name}. IN TXT {one}"),
        more => format!("{name}. IN TXT ( {} )", more.join(" ")),
    }
}

fn verify(words: &mut Words, file: Option<&Path>) -> Result<u8, Exit> {
    words.finish()?;
    let config = match configuration(file)? {
        Some(config) => config,
        None => {
            let anybody = Domain::parse("localhost.localdomain").map_err(|_| Exit::usage(USAGE))?;
            Config::default_for(anybody)
        }
    };
    let message = message()?;
    let verifier = Verifier::new(&message);
    let patience = config.dns.total_timeout.get();
    let clock = Clock::system();
    let resolver = Resolver::new(Live::new(config), clock.clone());
    let (mut good, mut bad, mut unknown) = (0_u32, 0_u32, 0_u32);
    let mut out = io::stdout().lock();
    for signature in verifier.signatures() {
        let mut record = Record::new();
        let (word, text) = match signature {
            Err(why) => ("error", (*why).to_owned()),
            Ok(signature) => {
                record = record
                    .text("domain", signature.domain.to_string())
                    .text("selector", signature.selector.to_string())
                    .text("algorithm", signature.algorithm.tag());
                match keys(&resolver, &signature.key_name(), patience) {
                    Err(why) => ("unknown", why),
                    Ok(records) => match verifier.verify(signature, &records, clock.now()) {
                        Outcome::Pass => ("pass", String::new()),
                        Outcome::Fail(why) => ("fail", why.to_owned()),
                        Outcome::Error(why) => ("error", why.to_owned()),
                    },
                }
            }
        };
        match word {
            "pass" => good += 1,
            "unknown" => unknown += 1,
            _ => bad += 1,
        }
        record = record.text("result", word);
        if !text.is_empty() {
            record = record.text("text", text);
        }
        writeln!(out, "{}", record.line(false)).map_err(|error| Exit::output(&error))?;
    }
    match (good, bad, unknown) {
        (0, 0, 0) => Err(Exit::new(NOTHING, "no DKIM-Signature")),
        (_, 0, 0) => Ok(0),
        (_, 0, _) => Ok(TEMPORARY),
        _ => Ok(NOTHING),
    }
}

/// The TXT records of a key.
fn keys(resolver: &Resolver, name: &str, patience: Duration) -> Result<Vec<Vec<u8>>, String> {
    let answer = resolver.txt(name, Deadline::after(patience));
    match answer.map_err(|error| error.to_string())?.found {
        Found::Records(records) => Ok(records),
        Found::Missing(_) => Ok(Vec::new()),
    }
}

/// Standard input, with CRLF line ends: files have LF.
fn message() -> Result<Vec<u8>, Exit> {
    let mut read = Vec::new();
    let taken = io::stdin()
        .lock()
        .take(MAX_MESSAGE + 1)
        .read_to_end(&mut read);
    taken.map_err(|error| Exit::new(IO, format!("standard input: {error}")))?;
    if read.len() as u64 > MAX_MESSAGE {
        return Err(Exit::new(DATA, "the message is over 256 MiB"));
    }
    let mut message = Vec::with_capacity(read.len() + read.len() / 32);
    let mut before = 0;
    for octet in read {
        if octet == b'\n' && before != b'\r' {
            message.push(b'\r');
        }
        message.push(octet);
        before = octet;
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    // MSG-9
    #[test]
    fn a_record_is_a_line_of_a_zone_with_short_strings() {
        assert_eq!(
            zone_line("s._domainkey.a.example", "v=DKIM1; p=x"),
            "s._domainkey.a.example. IN TXT \"v=DKIM1; p=x\""
        );
        let long = zone_line("s._domainkey.a.example", &"y".repeat(600));
        assert!(
            long.starts_with("s._domainkey.a.example. IN TXT ( \"yyy") && long.ends_with("\" )")
        );
        let strings: Vec<usize> = long.split('"').skip(1).step_by(2).map(str::len).collect();
        assert_eq!(strings, [255, 255, 90]);
    }

    // MSG-9
    #[test]
    fn unknown_words_are_refused() {
        let run = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            run(&words, Some(Path::new("/nonexistent")))
                .unwrap_err()
                .status
        };
        for words in [
            &[][..],
            &["sign"],
            &["keygen"],
            &["keygen", "key"],
            &["keygen", "key=/nonexistent/k", "algorithm=dsa"],
            &["keygen", "key=/nonexistent/k", "bits=1024"],
            &[
                "keygen",
                "key=/nonexistent/k",
                "algorithm=ed25519",
                "bits=2048",
            ],
            &["keygen", "key=/nonexistent/k", "key=/other"],
            &["dns", "key=/nonexistent/k"],
            &["dns", "domain=a..b"],
            &["verify", "x=y"],
        ] {
            assert_eq!(run(words), 64, "{words:?}");
        }
        assert_eq!(
            run(&["keygen", "key=/nonexistent/k", "algorithm=ed25519"]),
            CANNOT_CREATE
        );
        assert_eq!(run(&["dns"]), CONFIG);
    }
}
