//! The order of commands, and the code of every answer.

use super::*;
use crate::smtp::address::Domain;
use crate::smtp::command::RcptPath;

#[derive(Default)]
struct Open {
    waits: bool,
}

impl Host for Open {
    fn sender(&mut self, path: &ReversePath) -> Result<(), Answer> {
        match path.to_string().as_str() {
            "spam@b.example" => Err(Answer::new(451, 3, 0, "no")),
            _ => Ok(()),
        }
    }

    fn recipient(&mut self, command: RcptCommand) -> Result<Recipient, Answer> {
        match command.path {
            RcptPath::Mailbox(path) if path.local() != "nobody" => Ok(Recipient {
                path,
                params: command.params,
            }),
            _ => Err(Answer::new(550, 1, 1, "no")),
        }
    }

    fn input_waits(&mut self) -> bool {
        self.waits
    }
}

fn session() -> Session {
    Session::new(Settings {
        hostname: Domain::parse("mail.here.example").unwrap(),
        max_message_size: 1000,
        max_recipients: 2,
        max_errors: 100,
        reject_early_talk: false,
        tls: Tls::None,
    })
}

/// Says lines, answers the code and enhanced code of the last line of each reply.
fn say(session: &mut Session, lines: &[&str]) -> Vec<String> {
    let mut codes = Vec::new();
    for line in lines {
        let mut out = Vec::new();
        let step = session.line(Line::Whole(line.as_bytes()), &mut Open::default(), &mut out);
        let reply = String::from_utf8(out).unwrap();
        let last = reply.lines().next_back().unwrap_or("data");
        let mut words = last.splitn(3, ' ');
        let code = words.next().unwrap();
        let status = words
            .next()
            .filter(|w| w.split('.').count() == 3 && w.len() == 5);
        let close = if matches!(step, Step::Close) {
            " close"
        } else {
            ""
        };
        codes.push(
            format!("{code} {}{close}", status.unwrap_or_default())
                .trim()
                .to_owned(),
        );
    }
    codes
}

const HELLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<a@b.example>";
const RCPT: &str = "RCPT TO:<c@d.example>";

// IN-1
#[test]
fn ehlo_announces_what_is_done_and_nothing_else() {
    let mut out = Vec::new();
    session().line(Line::Whole(b"EHLO x"), &mut Open::default(), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "250-mail.here.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
         250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-LIMITS RCPTMAX=2\r\n250 HELP\r\n"
    );
    let mut out = Vec::new();
    session().line(Line::Whole(b"HELO x"), &mut Open::default(), &mut out);
    assert_eq!(out, b"250 mail.here.example\r\n");
}

// IN-8
#[test]
fn commands_out_of_order_change_nothing() {
    let mut s = session();
    let early = say(&mut s, &[MAIL, RCPT, "DATA", "EHLO", "HELO "]);
    assert_eq!(
        early,
        [
            "503 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "501 5.5.4",
            "501 5.5.4"
        ]
    );
    let order = say(
        &mut s,
        &[
            HELLO,
            RCPT,
            "DATA",
            MAIL,
            "DATA",
            MAIL,
            "STARTTLS",
            "AUTH PLAIN",
            RCPT,
        ],
    );
    assert_eq!(
        order,
        [
            "250",
            "503 5.5.1",
            "503 5.5.1",
            "250 2.1.0",
            "554 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "250 2.1.5"
        ]
    );
    assert_eq!(say(&mut s, &["DATA"]), ["data"]);
    assert_eq!(
        say(&mut s, &["STARTTLS", "AUTH PLAIN"]),
        ["502 5.5.1", "502 5.5.1"]
    );
}

// IN-8
#[test]
fn ehlo_helo_and_rset_clear_the_transaction() {
    for clearing in [HELLO, "HELO x", "RSET"] {
        let mut s = session();
        say(&mut s, &[HELLO, MAIL, RCPT, clearing]);
        assert_eq!(say(&mut s, &["DATA", MAIL]), ["503 5.5.1", "250 2.1.0"]);
    }
    let mut s = session();
    say(&mut s, &[HELLO, MAIL, RCPT]);
    // Faulty ones do not.
    assert_eq!(say(&mut s, &["EHLO", "RSET x", "DATA x"]), ["501 5.5.4"; 3]);
    assert_eq!(say(&mut s, &["DATA"]), ["data"]);
}

// IN-9
#[test]
fn the_other_commands_have_their_codes() {
    let mut s = session();
    let got = say(
        &mut s,
        &[
            "XYZZY", "", "EXPN x", "TURN", "ETRN x", "VRFY a", "NOOP x y", "HELP x", "QUIT now",
            "QUIT",
        ],
    );
    assert_eq!(
        got,
        [
            "500 5.5.2",
            "500 5.5.2",
            "502 5.5.1",
            "502 5.5.1",
            "502 5.5.1",
            "252 2.5.2",
            "250 2.0.0",
            "214 2.0.0",
            "501 5.5.4",
            "221 2.0.0 close"
        ]
    );
    assert_eq!(say(&mut session(), &["BDAT 5 LAST"]), ["502 5.5.1 close"]);
}

// IN-10
#[test]
fn other_protocols_end_the_session() {
    for line in [
        "GET / HTTP/1.0",
        "PUT / HTTP/1.0",
        "SSH-2.0-x",
        "\x16\x03\x01",
    ] {
        assert_eq!(
            say(&mut session(), &[line]),
            ["502 5.7.0 close"],
            "{line:?}"
        );
        assert!(
            session().glance(line.as_bytes(), &mut Vec::new()),
            "{line:?}"
        );
    }
    assert_eq!(
        say(&mut session(), &[HELLO, "PUT / HTTP/1.0"])[1],
        "500 5.5.2"
    );
    assert_eq!(
        say(&mut session(), &[HELLO, "POST / HTTP/1.0"])[1],
        "502 5.7.0 close"
    );
    let mut out = Vec::new();
    let step = session().line(
        Line::BareLineEnd(b"GET / HTTP/1.0"),
        &mut Open::default(),
        &mut out,
    );
    assert!(matches!(step, Step::Close) && out.starts_with(b"502 5.7.0"));
    assert!(!session().glance(b"EHLO", &mut Vec::new()));
}

// IN-11
#[test]
fn too_many_errors_close_the_session_and_temporary_refusals_are_no_errors() {
    let mut s = session();
    s.settings.max_errors = 3;
    say(&mut s, &[HELLO, MAIL, RCPT, RCPT]);
    assert_eq!(say(&mut s, &[RCPT; 9]), ["452 4.5.3"; 9]);
    assert_eq!(
        say(&mut s, &["x", "RCPT TO:<>", "RSET", "x", "NOOP", "x"]),
        [
            "500 5.5.2",
            "501 5.1.3",
            "250 2.0.0",
            "500 5.5.2",
            "250 2.0.0",
            "421 4.7.0 close"
        ]
    );
}

// IN-6, IN-7
#[test]
fn faulty_lines_are_answered_and_not_run() {
    let mut s = session();
    for line in [Line::BareLineEnd(b"QUIT"), Line::TooLong] {
        let mut out = Vec::new();
        let step = s.line(line, &mut Open::default(), &mut out);
        assert!(matches!(step, Step::Command));
        assert!(out.starts_with(b"500 5.5.2 "));
    }
}

// IN-14, IN-22
#[test]
fn size_and_recipients_are_limited() {
    let mut s = session();
    assert_eq!(
        say(
            &mut s,
            &[
                HELLO,
                "MAIL FROM:<> SIZE=1001",
                "MAIL FROM:<> SIZE=1000",
                RCPT,
                "RCPT TO:<nobody@x>",
                RCPT
            ]
        ),
        [
            "250",
            "552 5.3.4",
            "250 2.1.0",
            "250 2.1.5",
            "550 5.1.1",
            "250 2.1.5"
        ]
    );
    assert_eq!(say(&mut s, &[RCPT, "DATA"]), ["452 4.5.3", "data"]);
}

// SC-14
#[test]
fn a_refused_sender_begins_no_transaction() {
    let got = say(
        &mut session(),
        &[HELLO, "MAIL FROM:<spam@b.example>", RCPT, MAIL],
    );
    assert_eq!(got, ["250", "451 4.3.0", "503 5.5.1", "250 2.1.0"]);
}

// IN-20
#[test]
fn bytes_behind_a_refused_data_close_the_session() {
    let waits = &mut Open { waits: true };
    for prepare in [
        &[][..],
        &[HELLO],
        &[HELLO, MAIL],
        &[HELLO, MAIL, "RCPT TO:<nobody@x>"],
    ] {
        let mut s = session();
        say(&mut s, prepare);
        let step = s.line(Line::Whole(b"DATA"), waits, &mut Vec::new());
        assert!(matches!(step, Step::Close), "{prepare:?}");
    }
    let mut s = session();
    say(&mut s, &[HELLO, MAIL, RCPT]);
    let step = s.line(Line::Whole(b"DATA"), waits, &mut Vec::new());
    assert!(matches!(step, Step::Data(_)));
    let refused = s.refuse_data(Answer::new(452, 3, 1, "full"), waits, &mut Vec::new());
    assert!(matches!(refused, Step::Close));
}

// IN-20
#[test]
fn where_it_is_forbidden_talking_early_closes_the_session() {
    let waits = &mut Open { waits: true };
    let mut strict = session();
    strict.settings.reject_early_talk = true;
    let mut out = Vec::new();
    assert!(matches!(strict.greet(waits, &mut out), Step::Close));
    let step = strict.line(Line::Whole(b"EHLO x"), waits, &mut out);
    assert!(matches!(step, Step::Close));
    assert_eq!(
        String::from_utf8(out).unwrap().matches("554 5.5.0").count(),
        2
    );
    say(&mut strict, &[HELLO]);
    let step = strict.line(Line::Whole(MAIL.as_bytes()), waits, &mut Vec::new());
    assert!(matches!(step, Step::Command), "pipelining was offered");
    // Otherwise it is taken.
    let mut out = Vec::new();
    assert!(matches!(session().greet(waits, &mut out), Step::Command));
    assert!(out.starts_with(b"220 mail.here.example "));
}

fn with_tls(tls: Tls) -> Session {
    let mut session = session();
    session.settings.tls = tls;
    session
}

// IN-1, IN-30
#[test]
fn starttls_is_announced_where_it_can_be_said_and_requiretls_where_it_is_done() {
    for (tls, announced) in [
        (Tls::None, ""),
        (Tls::Offered, "250-STARTTLS\r\n"),
        (Tls::Active, "250-REQUIRETLS\r\n"),
    ] {
        let mut out = Vec::new();
        with_tls(tls).line(Line::Whole(b"EHLO x"), &mut Open::default(), &mut out);
        let said = String::from_utf8(out).unwrap();
        let tail = format!("250-LIMITS RCPTMAX=2\r\n{announced}250 HELP\r\n");
        assert!(said.ends_with(&tail), "{said}");
    }
}

// IN-8, IN-30
#[test]
fn starttls_is_refused_where_it_makes_no_sense() {
    let mut s = with_tls(Tls::Offered);
    let codes = say(
        &mut s,
        &["STARTTLS now", HELLO, "STARTTLS x", MAIL, "STARTTLS", RCPT],
    );
    assert_eq!(
        codes,
        [
            "501 5.5.4",
            "250",
            "501 5.5.4",
            "250 2.1.0",
            "503 5.5.1",
            "250 2.1.5"
        ]
    );
    assert_eq!(
        say(
            &mut with_tls(Tls::Active),
            &[HELLO, "STARTTLS", "STARTTLS x"]
        ),
        ["250", "503 5.5.1", "503 5.5.1"]
    );
    assert_eq!(
        say(&mut with_tls(Tls::None), &[HELLO, "STARTTLS"]),
        ["250", "502 5.5.1"]
    );
}

// IN-30
#[test]
fn what_follows_starttls_in_the_clear_ends_the_session() {
    let mut s = with_tls(Tls::Offered);
    say(&mut s, &[HELLO]);
    let mut out = Vec::new();
    let waits = &mut Open { waits: true };
    let step = s.line(Line::Whole(b"STARTTLS"), waits, &mut out);
    assert!(matches!(step, Step::Close));
    assert!(out.starts_with(b"554 5.5.1 "), "{out:?}");
    assert_eq!(s.take_refused().map(|answer| answer.code()), Some(554));
}

// IN-30
#[test]
fn inside_tls_nothing_is_left_of_what_was_said_before() {
    let mut s = with_tls(Tls::Offered);
    say(&mut s, &[HELLO]);
    let mut out = Vec::new();
    let step = s.line(Line::Whole(b"starttls "), &mut Open::default(), &mut out);
    assert!(matches!(step, Step::StartTls));
    assert!(out.starts_with(b"220 2.0.0 "), "{out:?}");
    s.secured();
    assert_eq!(s.greeted(), None);
    assert_eq!(
        say(&mut s, &[MAIL, RCPT, "STARTTLS", HELLO, MAIL, RCPT, "DATA"]),
        [
            "503 5.5.1",
            "503 5.5.1",
            "503 5.5.1",
            "250",
            "250 2.1.0",
            "250 2.1.5",
            "data"
        ]
    );
}

// IN-16, IN-32
#[test]
fn requiretls_is_for_sessions_inside_tls() {
    const REQUIRED: &str = "MAIL FROM:<a@b.example> REQUIRETLS";
    for tls in [Tls::None, Tls::Offered] {
        let mut s = with_tls(tls);
        assert_eq!(
            say(&mut s, &[HELLO, REQUIRED, MAIL]),
            ["250", "530 5.7.0", "250 2.1.0"]
        );
    }
    for tls in [Tls::None, Tls::Active] {
        assert_eq!(
            say(&mut with_tls(tls), &["HELO x", REQUIRED]),
            ["250", "555 5.5.4"]
        );
    }
    let mut s = with_tls(Tls::Active);
    let twice = format!("{REQUIRED} REQUIRETLS");
    let valued = format!("{REQUIRED}=yes");
    assert_eq!(
        say(&mut s, &[HELLO, &twice, &valued, REQUIRED, RCPT]),
        ["250", "501 5.5.4", "501 5.5.4", "250 2.1.0", "250 2.1.5"]
    );
    let step = s.line(Line::Whole(b"DATA"), &mut Open::default(), &mut Vec::new());
    assert!(matches!(step, Step::Data(t) if t.params.require_tls));
}

// IN-2
#[test]
fn a_final_reply_leaves_the_session_usable() {
    let mut s = session();
    s.settings.max_errors = 1;
    for answer in [
        Answer::new(250, 0, 0, "queued"),
        Answer::new(552, 3, 4, "large"),
    ] {
        assert_eq!(say(&mut s, &[HELLO, MAIL, RCPT, "DATA"])[3], "data");
        assert!(matches!(
            s.content_answer(&answer, &mut Vec::new()),
            Step::Command
        ));
    }
    assert_eq!(say(&mut s, &[MAIL]), ["250 2.1.0"]);
}
