//! The server's side of a session as a state machine (RFC 5321 §4.1.4): lines in, replies and next steps out.
//!
//! It knows order and syntax. Whether a sender or a recipient is welcome it asks its [`Host`]; reading, writing, time
//! limits and what becomes of content are the business of whoever drives it.

mod host;

pub use host::{Greeted, Host, Recipient, Settings, Tls, Transaction};

use super::address::ReversePath;
use super::answer::Answer;
use super::command::{MailCommand, RcptCommand, Verb, is_other_protocol, split};
use super::line::Line;

/// IN-13: too many sessions, in all or of this client.
pub const TOO_MANY_SESSIONS: Answer = Answer::new(421, 7, 0, "too many sessions, try again later");
/// IN-11, IN-12: the client is too slow with a command, with content or with reading.
pub const TIMED_OUT: Answer = Answer::new(
    421,
    4,
    2,
    "timed out, nothing of this transaction is queued",
);
/// IN-27: the daemon is stopping.
pub const STOPPING: Answer = Answer::new(421, 3, 2, "service is stopping, try again later");
/// IN-20: bytes came before they were asked for.
pub const EARLY_TALK: Answer = Answer::new(554, 5, 0, "you spoke before your turn");
/// The client's end of stream came inside the content.
pub const CUT_OFF: Answer = Answer::new(
    421,
    4,
    2,
    "content ended without its final dot, nothing is queued",
);

/// IN-30: commands in the clear behind STARTTLS, which anybody on the way may have put there.
const GLUED: Answer = Answer::new(554, 5, 1, "nothing may follow STARTTLS before its reply");

const TOO_MANY_ERRORS: Answer = Answer::new(421, 7, 0, "too many errors");
const WRONG_PROTOCOL: Answer = Answer::new(502, 7, 0, "this is SMTP");

/// What the driver does next.
#[derive(Debug)]
pub enum Step {
    /// Read the next command.
    Command,
    /// Make ready for content, then call [`Session::go_ahead`] or [`Session::refuse_data`].
    Data(Transaction),
    /// Send the replies, throw away what else was read, do the handshake and call [`Session::secured`]. Nothing may be
    /// read in clear any more, whatever comes of it.
    StartTls,
    /// Send the replies and close.
    Close,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    greeted: Option<Greeted>,
    transaction: Option<Transaction>,
    errors: u32,
    first: bool,
    refused: Option<Answer>,
}

impl Session {
    /// A session whose greeting was not sent yet.
    pub fn new(settings: Settings) -> Session {
        Session {
            settings,
            greeted: None,
            transaction: None,
            errors: 0,
            first: true,
            refused: None,
        }
    }

    /// The error that was replied last, if any was since the last call: for the log.
    pub fn take_refused(&mut self) -> Option<Answer> {
        self.refused.take()
    }

    /// The sender of the transaction that is open.
    pub fn sender(&self) -> Option<&ReversePath> {
        self.transaction.as_ref().map(|t| &t.reverse_path)
    }

    /// Who the client says it is, once it has.
    pub fn greeted(&self) -> Option<&Greeted> {
        self.greeted.as_ref()
    }

    /// The greeting; closes at once on a client that has spoken already where that is forbidden.
    pub fn greet(&mut self, host: &mut dyn Host, out: &mut Vec<u8>) -> Step {
        if self.settings.reject_early_talk && host.input_waits() {
            return self.close(EARLY_TALK, out);
        }
        let greeting = format!("{} ESMTP posthaste", self.settings.hostname);
        Answer::bare(220, "").with_text(greeting).write(out);
        Step::Command
    }

    /// The session is inside TLS from now on; all that was said before is forgotten (RFC 3207 §4.2).
    pub fn secured(&mut self) {
        self.settings.tls = Tls::Active;
        self.greeted = None;
        self.transaction = None;
    }

    /// Looks at a line of which the end has not come. `true` if there is no need to wait for it: the client speaks
    /// another protocol, and `out` has been told so (IN-10).
    pub fn glance(&mut self, unread: &[u8], out: &mut Vec<u8>) -> bool {
        let wrong = self.first && is_other_protocol(unread);
        if wrong {
            self.close(WRONG_PROTOCOL, out);
        }
        wrong
    }

    /// Answers one command line.
    pub fn line(&mut self, line: Line<'_>, host: &mut dyn Host, out: &mut Vec<u8>) -> Step {
        let first = std::mem::replace(&mut self.first, false);
        let text = match line {
            Line::TooLong => {
                return self.reply(Answer::new(500, 5, 2, "line too long"), out);
            }
            Line::Whole(text) | Line::BareLineEnd(text) => text,
        };
        let split = split(text);
        if first && is_other_protocol(text) || matches!(split, Ok((Verb::Http, _))) {
            return self.close(WRONG_PROTOCOL, out);
        }
        if matches!(line, Line::BareLineEnd(_)) {
            let answer = Answer::new(500, 5, 2, "lines end in CRLF, and have no other CR or LF");
            return self.reply(answer, out);
        }
        match split {
            Ok((Verb::Data, text)) => self.data(text, host, out),
            Ok((verb, text)) => self.command(verb, text, host, out),
            Err(answer) => self.reply(answer, out),
        }
    }

    fn command(&mut self, verb: Verb, text: &[u8], host: &mut dyn Host, out: &mut Vec<u8>) -> Step {
        if self.talks_early(verb, host) {
            return self.close(EARLY_TALK, out);
        }
        let answer = match verb {
            Verb::Ehlo | Verb::Helo => self.hello(verb == Verb::Ehlo, text, out),
            Verb::Mail => self.mail(text, host),
            Verb::Rcpt => self.rcpt(text, host),
            Verb::Rset | Verb::Quit if !text.is_empty() => {
                Err(Answer::new(501, 5, 4, "no arguments here"))
            }
            Verb::Rset => {
                self.transaction = None;
                Ok(Some(Answer::new(250, 0, 0, "ok")))
            }
            Verb::Quit => {
                Answer::new(221, 0, 0, "bye").write(out);
                return Step::Close;
            }
            Verb::Noop => Ok(Some(Answer::new(250, 0, 0, "ok"))),
            Verb::Help => Ok(Some(Answer::new(214, 0, 0, "see RFC 5321"))),
            // RFC 5321 §3.5.3: we do not know before we have tried.
            Verb::Vrfy => Ok(Some(Answer::new(252, 5, 2, "send mail and see"))),
            Verb::StartTls | Verb::Auth if self.transaction.is_some() => {
                Err(Answer::new(503, 5, 1, "not inside a transaction"))
            }
            Verb::StartTls if self.settings.tls != Tls::None => {
                return self.start_tls(text, host, out);
            }
            Verb::StartTls | Verb::Auth | Verb::Declined => {
                Err(Answer::new(502, 5, 1, "command not available"))
            }
            Verb::Bdat => {
                // Its chunk follows whatever we say (RFC 3030 §2), and must not be read as commands.
                let answer = Answer::new(502, 5, 1, "CHUNKING is not available");
                return self.close(answer, out);
            }
            Verb::Data | Verb::Http | Verb::Unknown => {
                Err(Answer::new(500, 5, 2, "command not known"))
            }
        };
        match answer {
            Ok(Some(answer)) | Err(answer) => self.reply(answer, out),
            Ok(None) => Step::Command,
        }
    }

    fn start_tls(&mut self, text: &[u8], host: &mut dyn Host, out: &mut Vec<u8>) -> Step {
        if self.settings.tls == Tls::Active {
            return self.reply(Answer::new(503, 5, 1, "TLS is on already"), out);
        }
        if !text.is_empty() {
            return self.reply(Answer::new(501, 5, 4, "no arguments here"), out);
        }
        if host.input_waits() {
            return self.close(GLUED, out);
        }
        Answer::new(220, 0, 0, "begin TLS").write(out);
        Step::StartTls
    }

    /// IN-20: commands after which a client must wait for the reply (RFC 2920 §3.1), and all of one that was not told
    /// of PIPELINING.
    fn talks_early(&self, verb: Verb, host: &mut dyn Host) -> bool {
        let pipelining = self.greeted.as_ref().is_some_and(|greeted| greeted.esmtp);
        let must_wait = matches!(verb, Verb::Ehlo | Verb::Helo | Verb::Data) || !pipelining;
        self.settings.reject_early_talk && must_wait && verb != Verb::Quit && host.input_waits()
    }

    fn hello(
        &mut self,
        esmtp: bool,
        name: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Answer>, Answer> {
        if name.is_empty() {
            return Err(Answer::new(501, 5, 4, "say who you are"));
        }
        self.transaction = None;
        self.greeted = Some(Greeted {
            name: String::from_utf8_lossy(name).into_owned(),
            esmtp,
        });
        if !esmtp {
            let name = self.settings.hostname.to_string();
            return Ok(Some(Answer::bare(250, "").with_text(name)));
        }
        // IN-1: nothing is announced that is not done.
        let announced = format!(
            "250-{}\r\n250-PIPELINING\r\n250-SIZE {}\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
             250-ENHANCEDSTATUSCODES\r\n250-DSN\r\n250-LIMITS RCPTMAX={}\r\n{}250 HELP\r\n",
            self.settings.hostname,
            self.settings.max_message_size,
            self.settings.max_recipients,
            match self.settings.tls {
                Tls::None => "",
                Tls::Offered => "250-STARTTLS\r\n",
                // RFC 8689 §2: never outside of TLS.
                Tls::Active => "250-REQUIRETLS\r\n",
            },
        );
        out.extend_from_slice(announced.as_bytes());
        Ok(None)
    }

    fn esmtp(&self) -> Result<bool, Answer> {
        match &self.greeted {
            Some(greeted) => Ok(greeted.esmtp),
            None => Err(Answer::new(503, 5, 1, "say EHLO first")),
        }
    }

    fn mail(&mut self, text: &[u8], host: &mut dyn Host) -> Result<Option<Answer>, Answer> {
        let esmtp = self.esmtp()?;
        if self.transaction.is_some() {
            return Err(Answer::new(503, 5, 1, "inside a transaction already"));
        }
        let mail = MailCommand::parse(text, esmtp)?;
        if mail.params.require_tls && self.settings.tls != Tls::Active {
            // IN-32: it is a request for protection that this connection does not have.
            return Err(Answer::new(530, 7, 0, "REQUIRETLS needs TLS"));
        }
        if mail.params.size > Some(self.settings.max_message_size) {
            return Err(Answer::new(552, 3, 4, "message too large"));
        }
        host.sender(&mail.reverse_path)?;
        self.transaction = Some(Transaction {
            reverse_path: mail.reverse_path,
            params: mail.params,
            recipients: Vec::new(),
        });
        Ok(Some(Answer::new(250, 1, 0, "ok")))
    }

    fn rcpt(&mut self, text: &[u8], host: &mut dyn Host) -> Result<Option<Answer>, Answer> {
        let esmtp = self.esmtp()?;
        let Some(transaction) = &mut self.transaction else {
            return Err(Answer::new(503, 5, 1, "MAIL comes first"));
        };
        let command = RcptCommand::parse(text, esmtp, transaction.params.utf8)?;
        let max = usize::try_from(self.settings.max_recipients).unwrap_or(usize::MAX);
        if transaction.recipients.len() >= max {
            return Err(Answer::new(452, 5, 3, "too many recipients"));
        }
        transaction.recipients.push(host.recipient(command)?);
        Ok(Some(Answer::new(250, 1, 5, "ok")))
    }

    fn data(&mut self, text: &[u8], host: &mut dyn Host, out: &mut Vec<u8>) -> Step {
        if self.talks_early(Verb::Data, host) {
            return self.close(EARLY_TALK, out);
        }
        let recipients = self.transaction.as_ref().map(|t| t.recipients.len());
        let answer = match (self.esmtp(), recipients) {
            (Err(answer), _) => answer,
            _ if !text.is_empty() => Answer::new(501, 5, 4, "no arguments here"),
            (_, None) => Answer::new(503, 5, 1, "MAIL comes first"),
            (_, Some(0)) => Answer::new(554, 5, 1, "no valid recipients"),
            (_, Some(_)) => {
                if let Some(transaction) = self.transaction.take() {
                    return Step::Data(transaction);
                }
                // Unreachable, and harmless.
                Answer::new(503, 5, 1, "MAIL comes first")
            }
        };
        self.refuse_data(answer, host, out)
    }

    /// Refuses DATA. What waits behind it is content that the client sent without leave, and must never be parsed as
    /// commands (IN-20).
    pub fn refuse_data(&mut self, answer: Answer, host: &mut dyn Host, out: &mut Vec<u8>) -> Step {
        let step = self.reply(answer, out);
        if host.input_waits() {
            return Step::Close;
        }
        step
    }

    /// Asks for the content.
    pub fn go_ahead(&self, out: &mut Vec<u8>) {
        Answer::bare(354, "go ahead, end with CRLF.CRLF").write(out);
    }

    /// The one reply after the end of the content. The envelope is empty then (IN-2).
    pub fn content_answer(&mut self, answer: &Answer, out: &mut Vec<u8>) -> Step {
        // The client sent what it was asked for, so this is never the fault that closes the session.
        self.errors = self.errors.saturating_add(answer.is_permanent().into());
        answer.write(out);
        if answer.closes() {
            Step::Close
        } else {
            Step::Command
        }
    }

    fn close(&mut self, answer: Answer, out: &mut Vec<u8>) -> Step {
        answer.write(out);
        self.refused = Some(answer);
        Step::Close
    }

    /// Writes a reply. Of 5yz ones there may be `max_errors` (IN-11); 4yz ones are not the client's fault.
    fn reply(&mut self, answer: Answer, out: &mut Vec<u8>) -> Step {
        if answer.is_permanent() {
            if self.errors >= self.settings.max_errors {
                return self.close(TOO_MANY_ERRORS, out);
            }
            self.errors += 1;
        }
        answer.write(out);
        self.refused = answer.is_error().then_some(answer.clone());
        if answer.closes() {
            Step::Close
        } else {
            Step::Command
        }
    }
}

#[cfg(test)]
mod tests;
