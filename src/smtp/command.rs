//! The commands of a client: one line without its CRLF to a verb, and the paths of MAIL and RCPT (RFC 5321 §4.1.1).

use super::address::{AddressError, ForwardPath, Mailbox, ReversePath, strip_source_route};
use super::answer::Answer;
use super::params::{MailParams, RcptParams, is_plain};

/// RFC 5321 §4.5.3.1.3: octets of a path with its brackets.
const MAX_PATH: usize = 256;

/// What a line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// EHLO
    Ehlo,
    /// HELO
    Helo,
    /// MAIL
    Mail,
    /// RCPT
    Rcpt,
    /// DATA
    Data,
    /// RSET
    Rset,
    /// NOOP
    Noop,
    /// QUIT
    Quit,
    /// HELP
    Help,
    /// VRFY
    Vrfy,
    /// STARTTLS
    StartTls,
    /// AUTH
    Auth,
    /// BDAT: a chunk follows that must never be taken for commands.
    Bdat,
    /// EXPN, TURN, ETRN: known, and not for us.
    Declined,
    /// GET, POST, CONNECT: a web client, whose further lines may be anybody's words (IN-10).
    Http,
    /// Anything else.
    Unknown,
}

/// Splits a line into its verb and the rest, without the blanks around that.
///
/// # Errors
/// 501 5.5.2 for control and 8-bit bytes where no address can stand (IN-6).
pub fn split(line: &[u8]) -> Result<(Verb, &[u8]), Answer> {
    // RFC 5321 §4.1.1: white space before the line end is tolerated.
    let line = line.trim_ascii_end();
    let end = line.iter().position(|b| *b == b' ').unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let verb = match word.to_ascii_uppercase().as_slice() {
        b"EHLO" => Verb::Ehlo,
        b"HELO" => Verb::Helo,
        b"MAIL" => Verb::Mail,
        b"RCPT" => Verb::Rcpt,
        b"DATA" => Verb::Data,
        b"RSET" => Verb::Rset,
        b"NOOP" => Verb::Noop,
        b"QUIT" => Verb::Quit,
        b"HELP" => Verb::Help,
        b"VRFY" => Verb::Vrfy,
        b"STARTTLS" => Verb::StartTls,
        b"AUTH" => Verb::Auth,
        b"BDAT" => Verb::Bdat,
        b"EXPN" | b"TURN" | b"ETRN" => Verb::Declined,
        b"GET" | b"POST" | b"CONNECT" => Verb::Http,
        _ => Verb::Unknown,
    };
    let judged_later = matches!(verb, Verb::Mail | Verb::Rcpt | Verb::Http);
    if !judged_later && !is_plain(line) {
        return Err(Answer::new(
            501,
            5,
            2,
            "control or 8-bit bytes in a command",
        ));
    }
    Ok((verb, rest.trim_ascii_start()))
}

/// IN-10: whether the first bytes of a session show that the client means another protocol. `line` is a whole line, or
/// what there is of one.
pub fn is_other_protocol(line: &[u8]) -> bool {
    // A TLS handshake record; SMTP has no command that begins with a control byte.
    if line.first() == Some(&0x16) || line.starts_with(b"SSH-") {
        return true;
    }
    let verbs: [&[u8]; 6] = [b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS"];
    verbs.iter().any(|verb| {
        line.strip_prefix(*verb)
            .is_some_and(|rest| rest.starts_with(b" "))
    })
}

/// MAIL, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailCommand {
    /// The reverse-path.
    pub reverse_path: ReversePath,
    /// Its parameters.
    pub params: MailParams,
}

/// What RCPT names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RcptPath {
    /// A mailbox.
    Mailbox(ForwardPath),
    /// `<postmaster>` without a domain, in any case (RFC 5321 §4.1.1.3, IN-23).
    Postmaster,
}

/// RCPT, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptCommand {
    /// The forward-path.
    pub path: RcptPath,
    /// Its parameters.
    pub params: RcptParams,
}

impl MailCommand {
    /// Reads what follows `MAIL`. `esmtp` if the client said EHLO; after HELO there are no parameters (IN-15).
    ///
    /// # Errors
    /// The reply that refuses it (IN-14 to IN-17, IN-19).
    pub fn parse(text: &[u8], esmtp: bool) -> Result<MailCommand, Answer> {
        let malformed = |text| Answer::new(501, 1, 7, "").with_text(text);
        let syntax = Answer::new(501, 5, 4, "syntax: MAIL FROM:<address> [parameters]");
        let text = strip_keyword(text, b"FROM:").ok_or(syntax)?;
        let (path, params) = split_path(text).map_err(|what| malformed(what.to_owned()))?;
        let params = parse_params(params, esmtp, MailParams::parse)?;
        if path.is_empty() {
            return Ok(MailCommand {
                reverse_path: ReversePath::Null,
                params,
            });
        }
        let mailbox = parse_mailbox(path, params.utf8).map_err(|e| match e {
            AddressError::NoDomain => Answer::new(501, 1, 8, "the sender has no domain"),
            e => refuse_address(&e, malformed),
        })?;
        Ok(MailCommand {
            reverse_path: ReversePath::Mailbox(mailbox),
            params,
        })
    }
}

impl RcptCommand {
    /// Reads what follows `RCPT`. `utf8` if MAIL had SMTPUTF8.
    ///
    /// # Errors
    /// The reply that refuses it (IN-15 to IN-17, IN-19).
    pub fn parse(text: &[u8], esmtp: bool, utf8: bool) -> Result<RcptCommand, Answer> {
        let malformed = |text| Answer::new(501, 1, 3, "").with_text(text);
        let syntax = Answer::new(501, 5, 4, "syntax: RCPT TO:<address> [parameters]");
        let text = strip_keyword(text, b"TO:").ok_or(syntax)?;
        let (path, params) = split_path(text).map_err(|what| malformed(what.to_owned()))?;
        let params = parse_params(params, esmtp, |text| RcptParams::parse(text, utf8))?;
        if path.eq_ignore_ascii_case(b"postmaster") {
            return Ok(RcptCommand {
                path: RcptPath::Postmaster,
                params,
            });
        }
        let mailbox = parse_mailbox(path, utf8).map_err(|e| refuse_address(&e, malformed))?;
        Ok(RcptCommand {
            path: RcptPath::Mailbox(mailbox),
            params,
        })
    }
}

fn strip_keyword<'a>(text: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(keyword.len())?;
    // RFC 5321 §3.3 has no blank behind the colon; many clients do (IN-6).
    start
        .eq_ignore_ascii_case(keyword)
        .then(|| rest.trim_ascii_start())
}

fn parse_params<T: Default>(
    text: &[u8],
    esmtp: bool,
    parse: impl FnOnce(&[u8]) -> Result<T, Answer>,
) -> Result<T, Answer> {
    if text.is_empty() {
        Ok(T::default())
    } else if esmtp {
        parse(text)
    } else {
        Err(Answer::new(555, 5, 4, "parameters need EHLO"))
    }
}

/// Splits `<path> parameters`; a bracket inside a quoted local part is part of it.
fn split_path(text: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let inside = text
        .strip_prefix(b"<")
        .ok_or("the address needs angle brackets")?;
    let (mut quoted, mut escaped) = (false, false);
    let end = inside.iter().position(|b| {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' => return !quoted,
            _ => {}
        }
        false
    });
    let end = end.ok_or("the address needs angle brackets")?;
    let (path, rest) = (&inside[..end], &inside[end + 1..]);
    if path.len() + 2 > MAX_PATH {
        return Err("the address is over 254 octets");
    }
    match rest.first() {
        None | Some(b' ') => Ok((path, rest)),
        Some(_) => Err("text after the address"),
    }
}

fn parse_mailbox(path: &[u8], utf8: bool) -> Result<Mailbox, AddressError> {
    let path = std::str::from_utf8(path)
        .map_err(|_| AddressError::Syntax("the address is neither ASCII nor UTF-8"))?;
    Mailbox::parse(strip_source_route(path)?, utf8)
}

fn refuse_address(error: &AddressError, malformed: impl Fn(String) -> Answer) -> Answer {
    match error {
        AddressError::Syntax(_) | AddressError::NoDomain => malformed(error.to_string()),
        // DNS-7
        AddressError::Domain(_) => Answer::new(501, 1, 2, "").with_text(error.to_string()),
        // IN-19
        AddressError::NeedsUtf8 => Answer::new(553, 6, 7, "non-ASCII address without SMTPUTF8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(answer: &Answer) -> String {
        answer.to_string()[..9].to_owned()
    }

    fn mail(text: &str) -> Result<(String, MailParams), String> {
        MailCommand::parse(text.as_bytes(), true)
            .map(|m| (m.reverse_path.to_string(), m.params))
            .map_err(|a| code(&a))
    }

    fn rcpt(text: &str, utf8: bool) -> Result<String, String> {
        RcptCommand::parse(text.as_bytes(), true, utf8)
            .map(|r| match r.path {
                RcptPath::Mailbox(mailbox) => mailbox.to_string(),
                RcptPath::Postmaster => "postmaster".to_owned(),
            })
            .map_err(|a| code(&a))
    }

    // IN-6, IN-9
    #[test]
    fn verbs_are_read_without_case_and_blanks_around_arguments_do_not_matter() {
        for (line, verb, rest) in [
            ("ehlo  a.example  ", Verb::Ehlo, "a.example"),
            ("Mail FROM:<>", Verb::Mail, "FROM:<>"),
            ("QUIT \t", Verb::Quit, ""),
            ("GET / HTTP/1.1", Verb::Http, "/ HTTP/1.1"),
            ("etrn x", Verb::Declined, "x"),
            ("MAILFROM:<>", Verb::Unknown, ""),
            (" NOOP", Verb::Unknown, "NOOP"),
            ("", Verb::Unknown, ""),
        ] {
            assert_eq!(
                split(line.as_bytes()),
                Ok((verb, rest.as_bytes())),
                "{line:?}"
            );
        }
        for line in [
            "EHLO a\0b",
            "NOOP \u{e4}",
            "DATA \x01",
            "RSET \x7f",
            "HELO a\tb",
            "NOOP\tx",
            "NOOP\0",
            "\u{e4}",
            "FOO \x01",
        ] {
            assert_eq!(
                split(line.as_bytes()).map_err(|a| code(&a)),
                Err("501 5.5.2".to_owned())
            );
        }
    }

    // IN-10
    #[test]
    fn other_protocols_are_known_by_their_first_bytes() {
        let others: [&[u8]; 5] = [
            b"GET / HTTP/1.0",
            b"OPTIONS * HTTP/1.0",
            b"\x16\x03\x01",
            b"SSH-2.0-x",
            b"CONNECT a:25 HTTP/1.1",
        ];
        assert!(others.into_iter().all(is_other_protocol));
        let smtp: [&[u8]; 5] = [b"EHLO a", b"get", b"", b"HEADER x", b"GETX "];
        assert!(!smtp.into_iter().any(is_other_protocol));
    }

    // IN-6, IN-17, IN-38
    #[test]
    fn reverse_paths_are_read() {
        for (text, path) in [
            ("FROM:<>", ""),
            ("from:<a@b.example>", "a@b.example"),
            ("FROM:   <a@b.example>", "a@b.example"),
            ("FROM:<a@b.example> SIZE=1", "a@b.example"),
            ("FROM:<@x,@y:a@b.example>", "a@b.example"),
            (r#"FROM:<"a>b"@c.example>"#, r#""a>b"@c.example"#),
            (r#"FROM:<"a\"> b"@c.example>"#, r#""a\"> b"@c.example"#),
            // IN-18
            (
                "FROM:<-oQ/tmp|`id`${x}@b.example>",
                "-oQ/tmp|`id`${x}@b.example",
            ),
        ] {
            assert_eq!(mail(text).map(|m| m.0), Ok(path.to_owned()), "{text}");
        }
        assert!(mail("FROM:<\u{e4}@b.example> SMTPUTF8").is_ok());
    }

    // IN-6, IN-15, IN-17, IN-19, DNS-7
    #[test]
    fn bad_reverse_paths_have_their_codes() {
        let long = format!("FROM:<{}@b.example>", "a".repeat(65));
        let route = format!("FROM:<@{}:a@b.example>", "a.".repeat(130));
        for (text, code) in [
            ("", "501 5.5.4"),
            ("<a@b.example>", "501 5.5.4"),
            ("FROM <a@b.example>", "501 5.5.4"),
            ("TO:<a@b.example>", "501 5.5.4"),
            ("FROM:a@b.example", "501 5.1.7"),
            ("FROM:<a@b.example", "501 5.1.7"),
            ("FROM:<<a@b.example>>", "501 5.1.7"),
            ("FROM:<a@b.example>x", "501 5.1.7"),
            ("FROM:<a@b.example>\tSIZE=1", "501 5.1.7"),
            ("FROM:<a@b..example>", "501 5.1.7"),
            ("FROM:<a..b@b.example>", "501 5.1.7"),
            ("FROM:< >", "501 5.1.7"),
            ("FROM:<\"a\tb\"@c.example>", "501 5.1.7"),
            ("FROM:<a\0@b.example>", "501 5.1.7"),
            ("FROM:<a@b.example> SIZE=1\x01", "501 5.5.2"),
            ("FROM:<bob>", "501 5.1.8"),
            ("FROM:<a@xn--a.example>", "501 5.1.2"),
            ("FROM:<\u{e4}@b.example>", "553 5.6.7"),
            ("FROM:<a@b.example> X", "555 5.5.4"),
            (&long, "501 5.1.7"),
            (&route, "501 5.1.7"),
        ] {
            assert_eq!(mail(text).map(|_| ()), Err(code.to_owned()), "{text:?}");
        }
        let helo = MailCommand::parse(b"FROM:<> SIZE=1", false).unwrap_err();
        assert_eq!(code(&helo), "555 5.5.4");
        let invalid = MailCommand::parse(b"FROM:<\xff@b.example> SMTPUTF8", true).unwrap_err();
        assert_eq!(code(&invalid), "501 5.1.7");
    }

    // IN-17, IN-19, IN-23
    #[test]
    fn forward_paths_are_read_or_refused() {
        assert_eq!(rcpt("TO:<PostMaster>", false), Ok("postmaster".to_owned()));
        assert_eq!(
            rcpt("to: <a@B.example> NOTIFY=NEVER", false),
            Ok("a@b.example".to_owned())
        );
        assert_eq!(
            rcpt("TO:<a@b\u{fc}cher.example>", true),
            Ok("a@xn--bcher-kva.example".to_owned())
        );
        for (text, code) in [
            ("TO:<>", "501 5.1.3"),
            ("TO:<bob>", "501 5.1.3"),
            ("TO:<a@b.example> <c@d.example>", "555 5.5.4"),
            ("TO:<a@b.example>,<c@d.example>", "501 5.1.3"),
            ("TO:<a@b.example,c@d.example>", "501 5.1.3"),
            ("TO:<a@b.example\x01>", "501 5.1.3"),
            ("TO:<\u{e4}@b.example>", "553 5.6.7"),
            ("FROM:<a@b.example>", "501 5.5.4"),
        ] {
            assert_eq!(rcpt(text, false), Err(code.to_owned()), "{text:?}");
        }
    }

    proptest! {
        // SEC-3, SEC-6
        #[test]
        fn any_bytes_are_answered_and_nothing_accepted_can_end_a_line(line in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = split(&line);
            let _ = is_other_protocol(&line);
            for text in [line.clone(), [b"FROM:<", line.as_slice(), b"@b.example>"].concat()] {
                if let Ok(mail) = MailCommand::parse(&text, true) {
                    prop_assert!(!mail.reverse_path.to_string().chars().any(char::is_control));
                }
            }
            let _ = RcptCommand::parse(&line, true, true);
        }
    }
}
