//! A TLS report: counts in, the JSON of RFC 8460 §4.4 out, and the mail that carries it (§5.3).
//!
//! Writes and decides nothing: who gets one, and when, is `policy::tlsrpt`. What hosts said is data here and cannot leave
//! its string. The JSON is written by hand: a dozen keys, and nothing is read.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::dsn::base64_lines;
use crate::clock::Timestamp;
use crate::smtp::address::{Domain, Mailbox};

/// The media type of a report as it is sent (RFC 8460 §6.4).
pub const GZIP: &str = "application/tlsrpt+gzip";

/// The type of a policy (RFC 8460 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyType {
    /// Neither MTA-STS nor DANE.
    NoPolicyFound,
    /// MTA-STS.
    Sts,
    /// DANE.
    Tlsa,
}

impl fmt::Display for PolicyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PolicyType::NoPolicyFound => "no-policy-found",
            PolicyType::Sts => "sts",
            PolicyType::Tlsa => "tlsa",
        })
    }
}

/// What sessions that were held against one policy came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyCount {
    /// Its type.
    pub kind: PolicyType,
    /// The domain that has it: for TLSA records the base domain (RFC 8460 §1.1).
    pub domain: String,
    /// Its words: the lines of an MTA-STS policy, or TLSA records.
    pub lines: Vec<String>,
    /// Sessions that met it.
    pub successes: u64,
    /// Sessions that did not.
    pub failures: u64,
    /// What was wrong with those, as far as there was room to tell them apart.
    pub details: Vec<FailureCount>,
}

/// Sessions that failed in the same way. Texts are empty where nothing is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureCount {
    /// The kind (RFC 8460 §4.3).
    pub kind: String,
    /// The host.
    pub host: String,
    /// Its address.
    pub address: String,
    /// The name it greeted with.
    pub helo: String,
    /// Our own address.
    pub source: String,
    /// What was wrong, in words: of the first of them.
    pub reason: String,
    /// How many.
    pub sessions: u64,
}

/// A report about one domain and one time.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The domain it is about and for.
    pub domain: &'a Domain,
    /// Who made it.
    pub submitter: &'a Domain,
    /// Whom to ask about it.
    pub contact: &'a Mailbox,
    /// From this time on,
    pub start: Timestamp,
    /// up to the end of this second.
    pub end: Timestamp,
    /// What was seen.
    pub policies: &'a [PolicyCount],
}

impl Report<'_> {
    /// The same for the same domain and time, so that a copy is known for one (RFC 8460 §5.3). The left side of a
    /// Message-ID.
    fn id_left(&self) -> String {
        format!("{}.{}", self.start.secs(), self.domain)
    }

    /// The report's id.
    pub fn id(&self) -> String {
        format!("{}@{}", self.id_left(), self.submitter)
    }

    /// RFC 8460 §5.1
    pub fn filename(&self) -> String {
        format!(
            "{}!{}!{}!{}.json.gz",
            self.submitter,
            self.domain,
            self.start.secs(),
            self.end.secs()
        )
    }

    /// The report itself (RFC 8460 §4.4).
    pub fn json(&self) -> String {
        let mut json = Json::default();
        json.object(|json| {
            json.text("organization-name", self.submitter.as_str());
            json.key("date-range");
            json.object(|json| {
                json.text("start-datetime", &self.start.to_string());
                json.text("end-datetime", &self.end.to_string());
            });
            json.text("contact-info", &self.contact.to_string());
            json.text("report-id", &self.id());
            json.key("policies");
            json.list(self.policies, policy);
        });
        json.0
    }

    /// The same as it is sent.
    pub fn gzip(&self) -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(self.json().as_bytes())
            .and_then(|()| gzip.finish())
            .expect("a Vec takes everything")
    }
}

fn policy(json: &mut Json, count: &PolicyCount) {
    json.object(|json| {
        json.key("policy");
        json.object(|json| {
            json.text("policy-type", &count.kind.to_string());
            if !count.lines.is_empty() {
                json.key("policy-string");
                json.list(&count.lines, |json, line| json.string(line));
            }
            json.text("policy-domain", &count.domain);
            let mx = |line: &&String| count.kind == PolicyType::Sts && line.starts_with("mx: ");
            let mx: Vec<&String> = count.lines.iter().filter(mx).collect();
            if !mx.is_empty() {
                json.key("mx-host");
                json.list(&mx, |json, line| json.string(&line["mx: ".len()..]));
            }
        });
        json.key("summary");
        json.object(|json| {
            json.number("total-successful-session-count", count.successes);
            json.number("total-failure-session-count", count.failures);
        });
        if !count.details.is_empty() {
            json.key("failure-details");
            json.list(&count.details, failure);
        }
    });
}

fn failure(json: &mut Json, count: &FailureCount) {
    json.object(|json| {
        json.text("result-type", &count.kind);
        for (key, text) in [
            ("sending-mta-ip", &count.source),
            ("receiving-mx-hostname", &count.host),
            ("receiving-mx-helo", &count.helo),
            ("receiving-ip", &count.address),
        ] {
            if !text.is_empty() {
                json.text(key, text);
            }
        }
        json.number("failed-session-count", count.sessions);
        if !count.reason.is_empty() {
            json.text("failure-reason-code", &count.reason);
        }
    });
}

/// JSON as it is written, comma by comma.
#[derive(Default)]
struct Json(String);

impl Json {
    fn comma(&mut self) {
        if !self.0.ends_with(['{', '[', ':']) && !self.0.is_empty() {
            self.0.push(',');
        }
    }

    fn object(&mut self, members: impl FnOnce(&mut Json)) {
        self.comma();
        self.0.push('{');
        members(self);
        self.0.push('}');
    }

    fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Json, &T)) {
        self.comma();
        self.0.push('[');
        for one in items {
            item(self, one);
        }
        self.0.push(']');
    }

    fn key(&mut self, key: &str) {
        self.string(key);
        self.0.push(':');
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key);
        self.string(text);
    }

    fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        self.0.push_str(&number.to_string());
    }

    /// RFC 8259 §7
    fn string(&mut self, text: &str) {
        self.comma();
        self.0.push('"');
        for char in text.chars() {
            match char {
                '"' | '\\' => self.0.extend(['\\', char]),
                // DEL and the C1 controls need no escape, but nobody wants to look at them.
                _ if char.is_control() => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(char));
                }
                _ => self.0.push(char),
            }
        }
        self.0.push('"');
    }
}

/// The mail that brings a report (RFC 8460 §5.3).
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// What it brings.
    pub report: &'a Report<'a>,
    /// Whom it goes to.
    pub to: &'a Mailbox,
    /// Now, for Date.
    pub now: Timestamp,
    /// Message-ID with its brackets.
    pub message_id: &'a str,
}

impl Letter<'_> {
    /// Header and body, CRLF line ends, ASCII. From is the contact of the report.
    pub fn write(&self) -> Vec<u8> {
        let Letter { report, to, .. } = self;
        let (domain, submitter) = (report.domain, report.submitter);
        let date = self.now.rfc5322();
        let mut out = format!(
            "Date: {date}\r\nFrom: <{}>\r\nTo: <{to}>\r\n\
             Subject: Report Domain: {domain}\r\n\tSubmitter: {submitter}\r\n\tReport-ID: <{}>\r\n\
             Message-ID: {}\r\n",
            report.contact,
            report.id(),
            self.message_id
        );
        // RFC 8460 §3: no TLS failure may keep a report about TLS failures (RFC 8689 §5).
        let _ = write!(
            out,
            "TLS-Report-Domain: {domain}\r\nTLS-Report-Submitter: {submitter}\r\nTLS-Required: No\r\n"
        );
        // Neither base64 nor the words below hold "=_".
        let boundary = format!("=_tlsrpt_{}", report.start.secs());
        let _ = write!(
            out,
            "Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n\tboundary=\"{boundary}\"\r\n\r\n\
             --{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
             This is a report of {submitter} about TLS toward the mail hosts of {domain}\r\n\
             on {} UTC, as RFC 8460 describes it.\r\n\r\n",
            &report.start.to_string()[..10]
        );
        let _ = write!(
            out,
            "--{boundary}\r\nContent-Type: {GZIP}\r\nContent-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment;\r\n\tfilename=\"{}\"\r\n\r\n",
            report.filename()
        );
        let mut out = out.into_bytes();
        out.extend(base64_lines(&report.gzip()));
        out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use mail_parser::{MessageParser, MimeHeaders};
    use proptest::prelude::*;

    use super::*;

    fn domain(name: &str) -> Domain {
        Domain::parse(name).unwrap()
    }

    fn counts() -> Vec<PolicyCount> {
        vec![
            PolicyCount {
                kind: PolicyType::Sts,
                domain: "dest.test".into(),
                lines: [
                    "version: STSv1",
                    "mode: testing",
                    "mx: *.dest.test",
                    "max_age: 86400",
                ]
                .map(str::to_owned)
                .to_vec(),
                successes: 5326,
                failures: 3,
                details: vec![FailureCount {
                    kind: "certificate-expired".into(),
                    host: "mx1.dest.test".into(),
                    address: "192.0.2.7".into(),
                    helo: String::new(),
                    source: "2001:db8::1".into(),
                    reason: "it \"said\"\r\n\\ \u{7f}\u{fc}".into(),
                    sessions: 3,
                }],
            },
            PolicyCount {
                kind: PolicyType::NoPolicyFound,
                domain: "dest.test".into(),
                lines: Vec::new(),
                successes: 1,
                failures: 0,
                details: Vec::new(),
            },
        ]
    }

    fn with_report<T>(policies: &[PolicyCount], look: impl FnOnce(&Report<'_>) -> T) -> T {
        let start = Timestamp::from_secs(1_799_971_200);
        look(&Report {
            domain: &domain("dest.test"),
            submitter: &domain("here.example"),
            contact: &Mailbox::parse("tls@here.example", false).unwrap(),
            start,
            end: Timestamp::from_secs(1_799_971_200 + 86_399),
            policies,
        })
    }

    // RPT-3
    #[test]
    fn a_report_is_the_json_of_rfc_8460() {
        let json = with_report(&counts(), |report| report.json());
        let wanted = r#"{"organization-name":"here.example",
            "date-range":{"start-datetime":"2027-01-15T00:00:00Z","end-datetime":"2027-01-15T23:59:59Z"},
            "contact-info":"tls@here.example",
            "report-id":"1799971200.dest.test@here.example",
            "policies":[
              {"policy":{"policy-type":"sts",
                "policy-string":["version: STSv1","mode: testing","mx: *.dest.test","max_age: 86400"],
                "policy-domain":"dest.test","mx-host":["*.dest.test"]},
               "summary":{"total-successful-session-count":5326,"total-failure-session-count":3},
               "failure-details":[{"result-type":"certificate-expired","sending-mta-ip":"2001:db8::1",
                 "receiving-mx-hostname":"mx1.dest.test","receiving-ip":"192.0.2.7","failed-session-count":3,
                 "failure-reason-code":"it \"said\"\u000d\u000a\\ \u007fü"}]},
              {"policy":{"policy-type":"no-policy-found","policy-domain":"dest.test"},
               "summary":{"total-successful-session-count":1,"total-failure-session-count":0}}]}"#;
        let wanted: String = wanted.lines().map(str::trim_start).collect();
        assert_eq!(json, wanted);
        let empty = with_report(&[], |report| report.json());
        assert!(empty.ends_with("\"policies\":[]}"), "{empty}");
    }

    // RPT-3
    #[test]
    fn the_letter_holds_the_packed_report_under_its_filename() {
        let counts = counts();
        let (letter, json, name) = with_report(&counts, |report| {
            let letter = Letter {
                report,
                to: &Mailbox::parse("reports@dest.test", false).unwrap(),
                now: Timestamp::from_secs(1_800_057_900),
                message_id: "<1@here.example>",
            };
            (letter.write(), report.json(), report.filename())
        });
        assert_eq!(name, "here.example!dest.test!1799971200!1800057599.json.gz");
        assert!(letter.is_ascii());
        let parsed = MessageParser::new().parse(&letter).unwrap();
        let text = |name: &str| parsed.header_raw(name).unwrap().trim().to_owned();
        assert_eq!(text("TLS-Report-Domain"), "dest.test");
        assert_eq!(text("TLS-Report-Submitter"), "here.example");
        assert_eq!(text("TLS-Required"), "No");
        assert_eq!(text("Auto-Submitted"), "auto-generated");
        // RFC 8460 §5.3
        let subject = "Report Domain: dest.test Submitter: here.example \
                       Report-ID: <1799971200.dest.test@here.example>";
        assert_eq!(parsed.subject(), Some(subject));
        let kind = parsed.content_type().unwrap();
        assert_eq!(
            (kind.ctype(), kind.subtype()),
            ("multipart", Some("report"))
        );
        assert_eq!(kind.attribute("report-type"), Some("tlsrpt"));
        assert_eq!(parsed.parts.len(), 3);
        let part = parsed.attachment(0).unwrap();
        assert_eq!(part.attachment_name(), Some(&*name));
        assert_eq!(part.content_type().unwrap().subtype(), Some("tlsrpt+gzip"));
        let mut unpacked = String::new();
        flate2::read::GzDecoder::new(part.contents())
            .read_to_string(&mut unpacked)
            .unwrap();
        assert_eq!(unpacked, json);
    }

    proptest! {
        // RPT-3: whatever a host says stays in its string.
        #[test]
        fn a_string_ends_where_it_should(text in "\\PC{0,5}[\"\\\\\0-\u{a0}]{0,10}") {
            let mut json = Json::default();
            json.string(&text);
            let inner = json.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap();
            prop_assert!(!inner.contains(|c: char| c.is_control()));
            let mut chars = inner.chars();
            let mut back = String::new();
            while let Some(char) = chars.next() {
                back.push(match char {
                    '\\' => match chars.next().unwrap() {
                        'u' => {
                            let hex: String = chars.by_ref().take(4).collect();
                            char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap()
                        }
                        other => other,
                    },
                    '"' => panic!("ends too early"),
                    char => char,
                });
            }
            prop_assert_eq!(back, text);
        }
    }
}
