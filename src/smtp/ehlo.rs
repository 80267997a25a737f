//! What a peer announced in answer to EHLO (RFC 5321 §4.1.1.1).

use super::reply::Reply;

/// Most keywords that are looked at (CL-10).
const KEYWORDS_MAX: usize = 100;

/// Limits of RFC 9422; `None` where none was announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most transactions in a session.
    pub mail_max: Option<u32>,
    /// Most recipients in a transaction.
    pub rcpt_max: Option<u32>,
    /// Most recipient domains in a transaction.
    pub rcpt_domain_max: Option<u32>,
}

/// The service extensions of a peer, as far as they matter to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// RFC 2920
    pub pipelining: bool,
    /// RFC 6152
    pub eight_bit_mime: bool,
    /// RFC 6531
    pub smtputf8: bool,
    /// RFC 2034
    pub enhanced_status_codes: bool,
    /// RFC 3461
    pub dsn: bool,
    /// RFC 3207
    pub starttls: bool,
    /// RFC 8689
    pub requiretls: bool,
    /// RFC 1870: the largest message in octets; `None` when there is no limit, or none that can be read.
    pub size_limit: Option<u64>,
    /// RFC 1870: whether SIZE was announced at all, so that MAIL may carry it.
    pub size: bool,
    /// RFC 4954: the mechanisms in upper case, in the peer's order, without repetition.
    pub auth: Vec<String>,
    /// RFC 9422
    pub limits: Limits,
}

impl Capabilities {
    /// Reads the reply to EHLO. Keywords are taken without case; unknown and repeated ones and odd parameters are
    /// ignored (CL-10).
    pub fn from_ehlo(reply: &Reply) -> Capabilities {
        let mut capabilities = Capabilities::default();
        let mut limits = Vec::new();
        // The first line is the greeting with the peer's name.
        for line in reply.lines().skip(1).take(KEYWORDS_MAX) {
            let Ok(line) = std::str::from_utf8(line) else {
                continue;
            };
            let mut words = line.split_ascii_whitespace();
            let Some(keyword) = words.next() else {
                continue;
            };
            let keyword = keyword.to_ascii_uppercase();
            match keyword.as_str() {
                "PIPELINING" => capabilities.pipelining = true,
                "8BITMIME" => capabilities.eight_bit_mime = true,
                "SMTPUTF8" => capabilities.smtputf8 = true,
                "ENHANCEDSTATUSCODES" => capabilities.enhanced_status_codes = true,
                "DSN" => capabilities.dsn = true,
                "STARTTLS" => capabilities.starttls = true,
                "REQUIRETLS" => capabilities.requiretls = true,
                "SIZE" if !capabilities.size => {
                    capabilities.size = true;
                    capabilities.size_limit = words.next().and_then(size_limit);
                }
                "AUTH" => capabilities.add_mechanisms(words),
                "LIMITS" => limits.push(words.collect::<Vec<_>>()),
                // The form of servers older than RFC 2554, still seen beside the true one.
                old if old.starts_with("AUTH=") => {
                    capabilities.add_mechanisms(std::iter::once(&old["AUTH=".len()..]).chain(words))
                }
                _ => {}
            }
        }
        if let [words] = limits.as_slice() {
            capabilities.limits = parse_limits(words).unwrap_or_default();
        }
        capabilities
    }

    fn add_mechanisms<'a>(&mut self, words: impl Iterator<Item = &'a str>) {
        for word in words.take(KEYWORDS_MAX) {
            let word = word.to_ascii_uppercase();
            if !word.is_empty() && !self.auth.contains(&word) && self.auth.len() < KEYWORDS_MAX {
                self.auth.push(word);
            }
        }
    }
}

/// RFC 1870 §4: 0 means no fixed limit; a value that cannot be read is none either (CL-11).
fn size_limit(word: &str) -> Option<u64> {
    let digits = word.len() <= 20 && word.bytes().all(|b| b.is_ascii_digit());
    if digits {
        word.parse().ok().filter(|limit| *limit > 0)
    } else {
        None
    }
}

/// RFC 9422 §3: `None`, so no limit at all, for a syntax error or a repeated name (CL-20).
fn parse_limits(words: &[&str]) -> Option<Limits> {
    let mut limits = Limits::default();
    let mut seen: Vec<String> = Vec::new();
    for word in words {
        let (name, value) = word.split_once('=')?;
        let name = name.to_ascii_uppercase();
        let good = !name.is_empty()
            && !value.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && value.bytes().all(|b| b.is_ascii_graphic());
        if !good || seen.contains(&name) || seen.len() == KEYWORDS_MAX {
            return None;
        }
        let digits = value.len() <= 6 && value.bytes().all(|b| b.is_ascii_digit());
        let number = value.parse().ok().filter(|n| digits && *n > 0);
        match name.as_str() {
            "MAILMAX" => limits.mail_max = number,
            "RCPTMAX" => limits.rcpt_max = number,
            "RCPTDOMAINMAX" => limits.rcpt_domain_max = number,
            _ => {}
        }
        seen.push(name);
    }
    Some(limits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::ReplyCode;

    fn read(lines: &[&str]) -> Capabilities {
        let text = format!("mx.test hello\n{}", lines.join("\n"));
        Capabilities::from_ehlo(&Reply::new(ReplyCode::new(250).unwrap(), text))
    }

    // CL-10
    #[test]
    fn keywords_are_read_without_case_and_odd_ones_are_ignored() {
        let read = read(&[
            "pipelining please",
            "Size 1000",
            "SIZE 5",
            "X-ODD =?=",
            "",
            "8bitMIME",
            "DSN",
            "DSN",
        ]);
        assert!(read.pipelining && read.eight_bit_mime && read.dsn);
        assert!(!read.smtputf8 && !read.starttls);
        assert_eq!(read.size_limit, Some(1000), "the first SIZE counts");
    }

    // CL-10
    #[test]
    fn the_old_form_of_auth_adds_to_the_mechanisms() {
        assert_eq!(
            read(&["AUTH LOGIN plain", "AUTH=LOGIN CRAM-MD5"]).auth,
            ["LOGIN", "PLAIN", "CRAM-MD5"]
        );
    }

    // CL-10
    #[test]
    fn no_more_than_a_hundred_keywords_are_looked_at() {
        let mut lines = vec!["X"; 100];
        lines.push("DSN");
        assert!(!read(&lines).dsn);
        assert!(read(&lines[1..]).dsn);
    }

    // CL-10: the name in the first line is no keyword
    #[test]
    fn the_first_line_announces_nothing() {
        let reply = Reply::new(ReplyCode::new(250).unwrap(), "PIPELINING");
        assert_eq!(Capabilities::from_ehlo(&reply), Capabilities::default());
    }

    // CL-11
    #[test]
    fn size_without_a_readable_value_is_no_limit() {
        for line in [
            "SIZE",
            "SIZE 0",
            "SIZE x",
            "SIZE -5",
            "SIZE 999999999999999999999",
        ] {
            let read = read(&[line]);
            assert!(read.size && read.size_limit.is_none(), "{line}");
        }
    }

    // CL-20
    #[test]
    fn limits_that_break_the_syntax_are_all_ignored_and_odd_values_alone() {
        let limits = |line: &str| read(&[line]).limits;
        assert_eq!(
            limits("LIMITS RCPTMAX=20 MAILMAX=5 RCPTDOMAINMAX=1 OTHER=x"),
            Limits {
                mail_max: Some(5),
                rcpt_max: Some(20),
                rcpt_domain_max: Some(1)
            }
        );
        for bad in [
            "LIMITS RCPTMAX=20 MAILMAX",
            "LIMITS RCPTMAX=20 RCPTMAX=20",
            "LIMITS RCPTMAX=20 =3",
            "LIMITS RCPTMAX= ",
        ] {
            assert_eq!(limits(bad), Limits::default(), "{bad}");
        }
        for odd in ["0", "1234567", "x", "-1"] {
            let line = format!("LIMITS RCPTMAX={odd} MAILMAX=5");
            let limits = limits(&line);
            assert_eq!((limits.rcpt_max, limits.mail_max), (None, Some(5)), "{odd}");
        }
        let twice = read(&["LIMITS RCPTMAX=2", "LIMITS RCPTMAX=3"]);
        assert_eq!(twice.limits, Limits::default());
    }
}
