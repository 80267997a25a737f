//! Parameters of MAIL and RCPT: SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), REQUIRETLS (RFC 8689), and those
//! of DSN (RFC 3461).

use super::answer::Answer;
use super::xtext;

/// RFC 3461 §4.4: the longest ENVID, as written.
const MAX_ENVID: usize = 100;
/// RFC 3461 §4.2: the longest ORCPT, as written.
const MAX_ORCPT: usize = 500;

/// What a DSN returns of the original (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header only.
    Headers,
}

/// Which notifications the sender asked for (RFC 3461 §4.1). `never` excludes the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Notify {
    /// NOTIFY=NEVER.
    pub never: bool,
    /// NOTIFY contains SUCCESS.
    pub success: bool,
    /// NOTIFY contains FAILURE.
    pub failure: bool,
    /// NOTIFY contains DELAY.
    pub delay: bool,
    /// Whether the parameter was given at all; when not, failure and delay are the default.
    pub given: bool,
}

impl Notify {
    /// NOTIFY=NEVER as it is given.
    pub const NEVER: Notify = Notify {
        never: true,
        success: false,
        failure: false,
        delay: false,
        given: true,
    };
}

impl Default for Notify {
    fn default() -> Notify {
        Notify {
            never: false,
            success: false,
            failure: true,
            delay: true,
            given: false,
        }
    }
}

/// Parameters of MAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParams {
    /// SIZE; saturated, because a number of 20 digits is legal.
    pub size: Option<u64>,
    /// BODY; `Some(true)` for 8BITMIME.
    pub eight_bit: Option<bool>,
    /// SMTPUTF8.
    pub utf8: bool,
    /// REQUIRETLS.
    pub require_tls: bool,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, decoded.
    pub envid: Option<String>,
}

/// Parameters of RCPT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParams {
    /// NOTIFY.
    pub notify: Notify,
    /// ORCPT as `type;address`, decoded.
    pub orcpt: Option<String>,
}

const BAD_BYTES: Answer = Answer::new(501, 5, 2, "control or 8-bit bytes in a parameter");
const UNKNOWN: Answer = Answer::new(555, 5, 4, "parameter unknown, or without its value");
const VALUE: Answer = Answer::new(501, 5, 4, "this parameter has no value");
const TWICE: Answer = Answer::new(501, 5, 4, "parameter given twice");

/// IN-6: text that may stand in a command outside of addresses.
pub(super) fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| matches!(b, b' '..=b'~'))
}

/// Splits the text behind the path into keyword and value, keywords upper-case.
fn split(text: &[u8]) -> impl Iterator<Item = (String, Option<&[u8]>)> {
    let words = text.split(|b| *b == b' ').filter(|word| !word.is_empty());
    words.map(|word| {
        let mut parts = word.splitn(2, |b| *b == b'=');
        let keyword = parts.next().unwrap_or_default().to_ascii_uppercase();
        (String::from_utf8_lossy(&keyword).into_owned(), parts.next())
    })
}

fn value(value: Option<&[u8]>) -> Result<&str, Answer> {
    // IN-15: a keyword alone is no parameter; IN-16: an empty value is a bad one.
    let value = value.ok_or(UNKNOWN)?;
    if !is_plain(value) {
        return Err(BAD_BYTES);
    }
    std::str::from_utf8(value).map_err(|_| BAD_BYTES)
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Answer> {
    match slot.replace(value) {
        Some(_) => Err(TWICE),
        None => Ok(()),
    }
}

/// A keyword that stands alone.
fn flag(set: &mut bool, given: Option<&[u8]>) -> Result<(), Answer> {
    match given {
        Some(_) => Err(VALUE),
        None if std::mem::replace(set, true) => Err(TWICE),
        None => Ok(()),
    }
}

impl MailParams {
    /// Reads what stands behind the path of MAIL.
    ///
    /// # Errors
    /// The reply that refuses it (IN-14 to IN-16).
    pub fn parse(text: &[u8]) -> Result<MailParams, Answer> {
        let mut params = MailParams::default();
        for (keyword, given) in split(text) {
            match keyword.as_str() {
                "SIZE" => once(&mut params.size, parse_size(value(given)?)?)?,
                "BODY" => once(&mut params.eight_bit, parse_body(value(given)?)?)?,
                "SMTPUTF8" => flag(&mut params.utf8, given)?,
                "REQUIRETLS" => flag(&mut params.require_tls, given)?,
                "RET" => once(&mut params.ret, parse_ret(value(given)?)?)?,
                "ENVID" => once(&mut params.envid, parse_envid(value(given)?)?)?,
                _ => return Err(UNKNOWN),
            }
        }
        Ok(params)
    }
}

impl RcptParams {
    /// Reads what stands behind the path of RCPT; `utf8` if SMTPUTF8 was given to MAIL.
    ///
    /// # Errors
    /// The reply that refuses it (IN-15, IN-16).
    pub fn parse(text: &[u8], utf8: bool) -> Result<RcptParams, Answer> {
        let mut notify = None;
        let mut orcpt = None;
        for (keyword, given) in split(text) {
            match keyword.as_str() {
                "NOTIFY" => once(&mut notify, parse_notify(value(given)?)?)?,
                "ORCPT" => once(&mut orcpt, parse_orcpt(given.ok_or(UNKNOWN)?, utf8)?)?,
                _ => return Err(UNKNOWN),
            }
        }
        Ok(RcptParams {
            notify: notify.unwrap_or_default(),
            orcpt,
        })
    }
}

/// RFC 1870 §4: up to 20 digits, which may be more than 64 bits hold.
fn parse_size(text: &str) -> Result<u64, Answer> {
    if !(1..=20).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Answer::new(501, 5, 4, "SIZE needs 1 to 20 digits"));
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

fn parse_body(text: &str) -> Result<bool, Answer> {
    match text.to_ascii_uppercase().as_str() {
        "7BIT" => Ok(false),
        "8BITMIME" => Ok(true),
        // RFC 3030, not announced.
        "BINARYMIME" => Err(Answer::new(555, 5, 4, "BINARYMIME is not supported")),
        _ => Err(Answer::new(501, 5, 4, "BODY is 7BIT or 8BITMIME")),
    }
}

fn parse_ret(text: &str) -> Result<Ret, Answer> {
    match text.to_ascii_uppercase().as_str() {
        "FULL" => Ok(Ret::Full),
        "HDRS" => Ok(Ret::Headers),
        _ => Err(Answer::new(501, 5, 4, "RET is FULL or HDRS")),
    }
}

fn parse_envid(text: &str) -> Result<String, Answer> {
    let malformed = Answer::new(501, 5, 4, "malformed ENVID");
    if text.is_empty() || text.len() > MAX_ENVID {
        return Err(malformed);
    }
    // RFC 3461 §4.4: printable ASCII before it was encoded.
    xtext::decode(text)
        .filter(|envid| envid.is_ascii())
        .ok_or(malformed)
}

fn parse_notify(text: &str) -> Result<Notify, Answer> {
    let malformed = Answer::new(501, 5, 4, "NOTIFY is NEVER, or of SUCCESS,FAILURE,DELAY");
    let mut notify = Notify {
        never: false,
        success: false,
        failure: false,
        delay: false,
        given: true,
    };
    for word in text.split(',') {
        let flag = match word.to_ascii_uppercase().as_str() {
            "NEVER" => &mut notify.never,
            "SUCCESS" => &mut notify.success,
            "FAILURE" => &mut notify.failure,
            "DELAY" => &mut notify.delay,
            _ => return Err(malformed),
        };
        if std::mem::replace(flag, true) {
            return Err(malformed);
        }
    }
    if notify.never && (notify.success || notify.failure || notify.delay) {
        return Err(malformed);
    }
    Ok(notify)
}

fn parse_orcpt(text: &[u8], utf8: bool) -> Result<String, Answer> {
    let malformed = Answer::new(501, 5, 4, "malformed ORCPT");
    if text.len() > MAX_ORCPT {
        return Err(malformed);
    }
    if !utf8 && !is_plain(text) {
        return Err(BAD_BYTES);
    }
    let text = std::str::from_utf8(text).map_err(|_| BAD_BYTES)?;
    xtext::decode_orcpt(text, utf8).ok_or(malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(text: &str) -> Result<MailParams, String> {
        MailParams::parse(text.as_bytes()).map_err(|a| a.to_string()[..9].to_owned())
    }

    fn rcpt(text: &str) -> Result<RcptParams, String> {
        RcptParams::parse(text.as_bytes(), false).map_err(|a| a.to_string()[..9].to_owned())
    }

    // IN-14, IN-15, IN-16
    #[test]
    fn good_parameters_are_read_without_case_and_with_any_blanks() {
        let params = mail("  size=12  Body=8BitMime SMTPUTF8 ret=HDRS ENVID=a+2Bb+20c ").unwrap();
        assert_eq!(params.size, Some(12));
        assert_eq!(params.eight_bit, Some(true));
        assert!(params.utf8);
        assert_eq!(params.ret, Some(Ret::Headers));
        assert_eq!(params.envid.as_deref(), Some("a+b c"));
        assert_eq!(
            mail("SIZE=99999999999999999999").unwrap().size,
            Some(u64::MAX)
        );
        assert_eq!(mail("").unwrap(), MailParams::default());

        let params = rcpt("NOTIFY=success,Delay ORCPT=rfc822;bob+2Bx@a.example").unwrap();
        assert!(params.notify.success && params.notify.delay && params.notify.given);
        assert!(!params.notify.failure && !params.notify.never);
        assert_eq!(params.orcpt.as_deref(), Some("rfc822;bob+x@a.example"));
        assert!(rcpt("NOTIFY=NEVER").unwrap().notify.never);
        assert!(!rcpt("").unwrap().notify.given);
    }

    // IN-14, IN-15, IN-16
    #[test]
    fn bad_parameters_of_mail_have_their_codes() {
        let long = format!("ENVID={}", "a".repeat(101));
        for (text, code) in [
            ("SIZE", "555 5.5.4"),
            ("SIZE=", "501 5.5.4"),
            ("SIZE=+1", "501 5.5.4"),
            ("SIZE=-1", "501 5.5.4"),
            ("SIZE=1x", "501 5.5.4"),
            ("SIZE=1=1", "501 5.5.4"),
            ("SIZE=1 SIZE=1", "501 5.5.4"),
            ("SIZE=000000000000000000001", "501 5.5.4"),
            ("BODY", "555 5.5.4"),
            ("BODY=", "501 5.5.4"),
            ("BODY=BINARYMIME", "555 5.5.4"),
            ("BODY=x", "501 5.5.4"),
            ("BODY=7BIT BODY=7BIT", "501 5.5.4"),
            ("SMTPUTF8=1", "501 5.5.4"),
            ("SMTPUTF8 SMTPUTF8", "501 5.5.4"),
            ("RET=", "501 5.5.4"),
            ("RET=x", "501 5.5.4"),
            ("RET=FULL RET=HDRS", "501 5.5.4"),
            ("ENVID=", "501 5.5.4"),
            ("ENVID=a+0D+0A", "501 5.5.4"),
            ("ENVID=a+00", "501 5.5.4"),
            ("ENVID=+C3+A4", "501 5.5.4"),
            ("ENVID=a ENVID=a", "501 5.5.4"),
            ("ENVID=\u{e4}", "501 5.5.2"),
            (&long, "501 5.5.4"),
            ("AUTH=<>", "555 5.5.4"),
            ("REQUIRETLS=yes", "501 5.5.4"),
            ("REQUIRETLS REQUIRETLS", "501 5.5.4"),
            ("HOLDFOR=1", "555 5.5.4"),
            ("NOTIFY=NEVER", "555 5.5.4"),
            ("=", "555 5.5.4"),
            ("X\u{e4}", "555 5.5.4"),
        ] {
            assert_eq!(mail(text), Err(code.to_owned()), "{text}");
        }
    }

    // IN-15, IN-16
    #[test]
    fn bad_parameters_of_rcpt_have_their_codes() {
        let long = format!("ORCPT=rfc822;{}", "a".repeat(494));
        for (text, code) in [
            ("NOTIFY", "555 5.5.4"),
            ("NOTIFY=", "501 5.5.4"),
            ("NOTIFY=NEVER,DELAY", "501 5.5.4"),
            ("NOTIFY=DELAY,DELAY", "501 5.5.4"),
            ("NOTIFY=DELAY,", "501 5.5.4"),
            ("NOTIFY=x", "501 5.5.4"),
            ("NOTIFY=DELAY NOTIFY=DELAY", "501 5.5.4"),
            ("ORCPT", "555 5.5.4"),
            ("ORCPT=", "501 5.5.4"),
            ("ORCPT=rfc822", "501 5.5.4"),
            ("ORCPT=rfc822;", "501 5.5.4"),
            ("ORCPT=rfc822;a+0Ab", "501 5.5.4"),
            ("ORCPT=rfc822;a ORCPT=rfc822;b", "501 5.5.4"),
            ("ORCPT=rfc822;\u{e4}", "501 5.5.2"),
            (&long, "501 5.5.4"),
            ("SIZE=1", "555 5.5.4"),
            ("RET=FULL", "555 5.5.4"),
        ] {
            assert_eq!(rcpt(text), Err(code.to_owned()), "{text}");
        }
        let utf8 = RcptParams::parse("ORCPT=utf-8;\u{e4}@a.example".as_bytes(), true);
        assert_eq!(
            utf8.unwrap().orcpt.as_deref(),
            Some("utf-8;\u{e4}@a.example")
        );
    }
}
