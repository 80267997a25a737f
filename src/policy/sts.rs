//! What MTA-STS says, read from DNS and from the policy's text (RFC 8461), and what a cached policy is worth. Pure.
//!
//! Whether a host meets a policy is judged in [`policy::tls`](super::tls), with all the rest about TLS.

use super::txt::{self, WSP};
use crate::clock::Timestamp;
use crate::policy::tls::facts::{MxPattern, StsMode, StsPolicy};
use std::time::Duration;

/// The largest policy that is read (STS-5, RFC 8461 §3.3).
pub const LONGEST_POLICY: usize = 64 * 1024;

/// The longest life of a policy in seconds (RFC 8461 §3.2): about one year.
const LONGEST_AGE: u64 = 31_557_600;

/// What the TXT records of `_mta-sts.DOMAIN` say: the id of the policy (STS-2, RFC 8461 §3.1). `None`: the domain has no
/// policy, because there is no record, more than one, or a bad one.
pub fn record(records: &[Vec<u8>]) -> Option<&str> {
    let mut id = None;
    for field in txt::only(records, "v=STSv1;")? {
        let (name, value) = field?;
        if name == "id" {
            // An id that is given twice says nothing.
            if id.is_some() || !is_id(value) {
                return None;
            }
            id = Some(value);
        } else if !txt::is_extension(name, value) {
            return None;
        }
    }
    id
}

fn is_id(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// A policy as its text says (RFC 8461 §3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// What it does.
    pub mode: StsMode,
    /// Seconds for which it may be kept; 0: for one attempt only.
    pub max_age: u32,
    /// At least one, except in mode none.
    pub mx: Vec<MxPattern>,
}

/// Reads a policy (STS-6, RFC 8461 §3.2).
///
/// # Errors
/// What is wrong with it, in words. It then counts as not fetched.
pub fn policy(text: &[u8]) -> Result<PolicyText, String> {
    if text.len() > LONGEST_POLICY {
        return Err("the policy is longer than 64 KiB".to_string());
    }
    let text = std::str::from_utf8(text).map_err(|_| "the policy is not UTF-8".to_string())?;
    let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
    for line in text.split('\n') {
        let line = line
            .strip_suffix('\r')
            .unwrap_or(line)
            .trim_end_matches(WSP);
        if line.is_empty() {
            continue;
        }
        let Some((key, value)) = line.split_once(':') else {
            return Err("a line of the policy has no colon".to_string());
        };
        let value = value.trim_matches(WSP);
        match key {
            "mx" => match MxPattern::parse(value) {
                Some(pattern) => mx.push(pattern),
                None => return Err(format!("bad mx {value:?} in the policy")),
            },
            // Of other keys that are given twice the first counts.
            "version" if version.is_none() => version = Some(value),
            "mode" if mode.is_none() => mode = Some(value),
            "max_age" if max_age.is_none() => max_age = Some(value),
            _ => {}
        }
    }
    match version {
        Some("STSv1") => {}
        Some(other) => return Err(format!("version {other:?} of the policy is unknown")),
        None => return Err("the policy has no version".to_string()),
    }
    let mode = match mode {
        Some("enforce") => StsMode::Enforce,
        Some("testing") => StsMode::Testing,
        Some("none") => StsMode::None,
        Some(other) => return Err(format!("mode {other:?} of the policy is unknown")),
        None => return Err("the policy has no mode".to_string()),
    };
    let max_age = match max_age {
        Some(age) if (1..=10).contains(&age.len()) && age.bytes().all(|b| b.is_ascii_digit()) => {
            age.parse::<u64>().map_err(|e| e.to_string())?
        }
        Some(other) => return Err(format!("max_age {other:?} of the policy is no number")),
        None => return Err("the policy has no max_age".to_string()),
    };
    if mx.is_empty() && mode != StsMode::None {
        return Err("the policy has no mx".to_string());
    }
    Ok(PolicyText {
        mode,
        max_age: u32::try_from(max_age.min(LONGEST_AGE)).expect("a year fits"),
        mx,
    })
}

impl PolicyText {
    /// The policy as it is in force from `now` on.
    pub fn in_force(self, id: &str, now: Timestamp) -> StsPolicy {
        StsPolicy {
            id: id.to_owned(),
            mode: self.mode,
            mx: self.mx,
            max_age: self.max_age,
            expires: now.plus(Duration::from_secs(self.max_age.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::plan::HostName;
    use crate::smtp::address::Domain;

    fn records(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    // STS-2
    #[test]
    fn one_good_record_among_others_is_the_record() {
        for (texts, id) in [
            (&["v=STSv1; id=20160831085700Z;"][..], "20160831085700Z"),
            (&["v=STSv1;id=1"], "1"),
            (&["v=STSv1; id=1"], "1"),
            (&["v=STSv1;\t id=1 ;\t"], "1"),
            (&["v=STSv1; a.b-c_d=!x; id=1; later=:"], "1"),
            (
                &["v=spf1 -all", "v=STSv1; id=1", "v=STSv2; id=2", "v=STSv1"],
                "1",
            ),
            (
                &["v=STSv1; id=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaZ"],
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaZ",
            ),
        ] {
            assert_eq!(record(&records(texts)), Some(id), "{texts:?}");
        }
    }

    // STS-2
    #[test]
    fn no_record_two_records_and_a_bad_one_are_none() {
        for texts in [
            &[][..],
            &["v=spf1 -all"],
            &["v=STSv1; id=1", "v=STSv1; id=2"],
            &["v=STSv1; id=1", "v=STSv1; nonsense"],
            &["v=STSv1"],
            &["v=STSv1;"],
            &["v=STSv1; id="],
            &["v=STSv1; id=a-b"],
            &["v=STSv1; id=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
            &["v=STSv1; id=1; id=2"],
            &["v=STSv1;; id=1"],
            &["v=STSv1; id = 1"],
            &["v=STSv1; ID=1"],
            &["V=STSv1; id=1"],
            &[" v=STSv1; id=1"],
            &["v=STSv1; id=1; x"],
            &["v=STSv1; id=1; =x"],
            &["v=STSv1; id=1; x="],
            &["v=STSv1; id=1; x=a b"],
            &["v=STSv1; id=1; x=\u{e4}"],
        ] {
            assert_eq!(record(&records(texts)), None, "{texts:?}");
        }
        assert_eq!(record(&[b"v=STSv1; id=1; x=\xff".to_vec()]), None);
    }

    const GOOD: &str = "version: STSv1\nmode: enforce\nmx: mx1.dest.example\nmx: *.dest.example\nmax_age: 604800\n";

    fn host(name: &str) -> HostName {
        HostName::Name(Domain::parse(name).unwrap())
    }

    // STS-6
    #[test]
    fn a_good_policy_is_understood_however_it_is_spaced() {
        let good = policy(GOOD.as_bytes()).unwrap();
        assert_eq!(
            (good.mode, good.max_age, good.mx.len()),
            (StsMode::Enforce, 604_800, 2)
        );
        for same in [
            GOOD.replace('\n', "\r\n"),
            GOOD.replace('\n', " \t\r\n"),
            GOOD.trim_end().to_owned(),
            GOOD.replace(": ", ":"),
            GOOD.replace(": ", ": \t"),
            format!("{GOOD}\r\n\n"),
            format!("{GOOD}later: x: y\nother:\n"),
            // Of keys that are given twice the first counts.
            format!("{GOOD}mode: testing\nmax_age: 1\nversion: STSv2\n"),
            "max_age: 604800\nmx: MX1.dest.example.\nmx: *.DEST.example\nmode: enforce\nversion: STSv1".to_owned(),
        ] {
            assert_eq!(policy(same.as_bytes()).as_ref(), Ok(&good), "{same:?}");
        }
    }

    // STS-6
    #[test]
    fn a_policy_that_lacks_something_or_has_a_bad_value_is_none() {
        for (from, to) in [
            ("version: STSv1\n", ""),
            ("version: STSv1", "version: STSv2"),
            ("version: STSv1", "Version: STSv1"),
            ("mode: enforce\n", ""),
            ("mode: enforce", "mode: Enforce"),
            ("mode: enforce", "mode enforce"),
            ("max_age: 604800\n", ""),
            ("max_age: 604800", "max_age:"),
            ("max_age: 604800", "max_age: 60480000000"),
            ("max_age: 604800", "max_age: +1"),
            ("max_age: 604800", "max_age: 1d"),
            ("mx: mx1.dest.example", "mx:"),
            ("mx: mx1.dest.example", "mx: mx1 dest.example"),
            ("mx: *.dest.example", "mx: *"),
            ("mx: *.dest.example", "mx: *."),
            ("mx: *.dest.example", "mx: *dest.example"),
            ("mx: *.dest.example", "mx: *.*.example"),
            ("mx: *.dest.example", "mx: mx.*.example"),
            ("mx: *.dest.example", "mx: .dest.example"),
            ("mx: *.dest.example", "mx: 192.0.2.1"),
        ] {
            let bad = GOOD.replace(from, to);
            assert_ne!(bad, GOOD);
            assert!(policy(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(policy(b"").is_err());
        assert!(policy(b"version: STSv1\nmode: enforce\nmax_age: 1\n").is_err());
        assert!(policy(&[GOOD.as_bytes(), b"x: \xff\n"].concat()).is_err());
        assert!(policy(&[GOOD.as_bytes(), &vec![b'\n'; LONGEST_POLICY]].concat()).is_err());
    }

    // STS-6
    #[test]
    fn max_age_is_capped_at_a_year_and_may_be_nothing() {
        let aged = |age: &str| policy(GOOD.replace("604800", age).as_bytes()).unwrap();
        assert_eq!(aged("9999999999").max_age, 31_557_600);
        assert_eq!(aged("31557601").max_age, 31_557_600);
        let now = Timestamp::from_secs(1_800_000_000);
        assert_eq!(aged("0").in_force("1", now).expires, now);
        let day = aged("86400").in_force("1", now);
        assert_eq!(day.expires, now.plus(Duration::from_secs(86_400)));
    }

    // STS-6, STS-9
    #[test]
    fn mode_none_needs_no_mx() {
        let none = policy(b"version: STSv1\nmode: none\nmax_age: 86400\n").unwrap();
        assert_eq!((none.mode, none.mx), (StsMode::None, Vec::new()));
    }

    // STS-7
    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let policy = policy(GOOD.as_bytes())
            .unwrap()
            .in_force("1", Timestamp::default());
        for listed in ["mx1.dest.example", "MX9.DEST.example.", "a_b.dest.example"] {
            assert!(policy.lists(&host(listed)), "{listed}");
        }
        for other in [
            "dest.example",
            "a.b.dest.example",
            "mx1.dest.example.org",
            "xdest.example",
        ] {
            assert!(!policy.lists(&host(other)), "{other}");
        }
        assert!(!policy.lists(&HostName::Ip("192.0.2.1".parse().unwrap())));
    }
}
