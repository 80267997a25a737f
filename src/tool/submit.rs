//! Hands one message to the daemon over SMTP on its Unix listener. Lock-step: the daemon is on this machine.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{DATA, DENIED, Exit, NO_USER, TEMPORARY, unanswered};
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::smtp::address::{Mailbox, ReversePath};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::reply::{Reply, ReplyReader};
use crate::smtp::serialise::Serialiser;

/// RFC 5321 §4.5.3.2: replies, and blocks of content.
const COMMAND: Duration = Duration::from_secs(300);
/// §4.5.3.2.6: the reply to the dot.
const DOT: Duration = Duration::from_secs(600);

/// What goes into MAIL and RCPT.
pub(super) struct Envelope {
    pub(super) sender: ReversePath,
    pub(super) recipients: Vec<Mailbox>,
    /// RFC 3461 §4.1, for every recipient.
    pub(super) notify: Option<String>,
    /// RFC 3461 §4.3.
    pub(super) ret: Option<&'static str>,
    /// RFC 3461 §4.4, not yet encoded.
    pub(super) envid: Option<String>,
}

/// A session with the daemon. Dropping it before [`Session::finish`] queues nothing.
pub(super) struct Session {
    stream: Stream,
    replies: ReplyReader,
    capabilities: Capabilities,
    serialiser: Serialiser,
    spare: Vec<u8>,
    verbose: bool,
}

impl Session {
    /// Connects and says EHLO.
    ///
    /// # Errors
    /// Exit 75 if the daemon is not there or refuses for now, 77 if we may not connect.
    pub(super) fn open(path: &Path, hostname: &str, verbose: bool) -> Result<Session, Exit> {
        let stream = UnixStream::connect(path)
            .and_then(Stream::from_unix)
            .map_err(|error| {
                let status = match error.kind() {
                    io::ErrorKind::PermissionDenied => DENIED,
                    _ => TEMPORARY,
                };
                Exit::new(status, unanswered(path, &error))
            })?;
        let mut session = Session {
            stream,
            replies: ReplyReader::new(),
            capabilities: Capabilities::default(),
            serialiser: Serialiser::new(),
            spare: Vec::new(),
            verbose,
        };
        session.reply(COMMAND)?;
        let hello = session.command(&format!("EHLO {hostname}"))?;
        session.capabilities = Capabilities::from_ehlo(&hello);
        Ok(session)
    }

    /// MAIL, all RCPT, DATA. One refused recipient refuses the message.
    ///
    /// # Errors
    /// By the reply: 75 for 4yz, 77 for what is not permitted, 67 and 65 for other 5yz.
    pub(super) fn begin(&mut self, envelope: &Envelope) -> Result<(), Exit> {
        let caps = self.capabilities.clone();
        if let Some(most) = caps.limits.rcpt_max
            && envelope.recipients.len() > most as usize
        {
            // Several transactions would be several messages.
            return Err(Exit::new(DATA, format!("more than {most} recipients")));
        }
        let mut mail = format!("MAIL FROM:<{}>", envelope.sender);
        if caps.eight_bit_mime {
            // What the content holds is not known yet, and the daemon looks for itself.
            mail.push_str(" BODY=8BITMIME");
        }
        let utf8 = envelope.recipients.iter().any(Mailbox::needs_utf8)
            || envelope.sender.mailbox().is_some_and(Mailbox::needs_utf8);
        if utf8 {
            mail.push_str(" SMTPUTF8");
        }
        if caps.dsn {
            if let Some(ret) = envelope.ret {
                mail.push_str(&format!(" RET={ret}"));
            }
            if let Some(envid) = &envelope.envid {
                mail.push_str(&format!(" ENVID={}", xtext(envid)));
            }
        }
        self.command(&mail)?;
        for recipient in &envelope.recipients {
            let mut rcpt = format!("RCPT TO:<{recipient}>");
            if let (true, Some(notify)) = (caps.dsn, &envelope.notify) {
                rcpt.push_str(&format!(" NOTIFY={notify}"));
            }
            self.command(&rcpt)?;
        }
        self.command("DATA")?;
        Ok(())
    }

    /// A piece of the content, with CRLF line ends.
    ///
    /// # Errors
    /// Exit 75.
    pub(super) fn content(&mut self, piece: &[u8]) -> Result<(), Exit> {
        let out = self.serialiser.piece(piece, &mut self.spare);
        let sent = self.stream.write_all(out, Deadline::after(COMMAND));
        sent.map_err(|error| self.lost(error))
    }

    /// The dot. Only if this returns well is the message queued.
    ///
    /// # Errors
    /// By the reply.
    pub(super) fn finish(mut self) -> Result<(), Exit> {
        let end = std::mem::take(&mut self.serialiser).finish();
        let sent = self.stream.write_all(end, Deadline::after(COMMAND));
        sent.map_err(|error| self.lost(error))?;
        self.reply(DOT)?;
        // It is queued; how the session ends changes nothing any more.
        let _ = self.command("QUIT");
        Ok(())
    }

    fn command(&mut self, line: &str) -> Result<Reply, Exit> {
        if self.verbose {
            eprintln!("> {line}");
        }
        let line = format!("{line}\r\n");
        let sent = self
            .stream
            .write_all(line.as_bytes(), Deadline::after(COMMAND));
        match sent {
            Ok(()) => self.reply(COMMAND),
            Err(error) => Err(self.lost(error)),
        }
    }

    /// The connection broke while we were sending. The daemon may have said why before it closed.
    fn lost(&mut self, error: io::Error) -> Exit {
        match self.reply(Duration::from_secs(1)) {
            Err(exit) if exit.text.starts_with(|c: char| c.is_ascii_digit()) => exit,
            _ => Exit::new(TEMPORARY, format!("connection lost: {error}")),
        }
    }

    fn reply(&mut self, patience: Duration) -> Result<Reply, Exit> {
        let deadline = Deadline::after(patience);
        let mut buf = [0; 4096];
        let reply = loop {
            let next = self.replies.next_reply();
            match next.map_err(|error| Exit::new(TEMPORARY, error.to_string()))? {
                Some(reply) => break reply,
                None => match self.stream.read(&mut buf, deadline) {
                    Ok(0) => return Err(Exit::new(TEMPORARY, "the daemon closed the connection")),
                    Ok(n) => self.replies.push(&buf[..n]),
                    Err(error) => return Err(Exit::new(TEMPORARY, format!("no reply: {error}"))),
                },
            }
        };
        if self.verbose {
            eprintln!("< {reply}");
        }
        match status(&reply) {
            None => Ok(reply),
            Some(status) => Err(Exit::new(status, reply.to_string().replace('\n', " "))),
        }
    }
}

/// The exit status that a refusal stands for (SM-1, SM-3); `None` for 2yz and 354.
fn status(reply: &Reply) -> Option<u8> {
    let code = reply.code();
    if code.is_positive() || code.get() == 354 {
        return None;
    }
    if !code.is_permanent() {
        return Some(TEMPORARY);
    }
    let enhanced = reply.status(true);
    Some(match (enhanced.subject(), enhanced.detail()) {
        // RFC 3463 §3.2 (X.1.1): bad destination mailbox.
        (1, 1) => NO_USER,
        // §3.8 (X.7): security or policy. Without an enhanced code 530 and 535 say the same.
        (7, _) => DENIED,
        (0, 0) if matches!(code.get(), 530 | 535) => DENIED,
        _ => DATA,
    })
}

/// RFC 3461 §4: what is not plain printable ASCII as `+HH`.
fn xtext(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'+' | b'=' => out.push_str(&format!("+{byte:02X}")),
            b'!'..=b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("+{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::reply::ReplyCode;

    // SM-1, SM-3
    #[test]
    fn refusals_become_statuses_of_sysexits() {
        for (code, text, expected) in [
            (250, "2.0.0 queued as 1", None),
            (354, "go on", None),
            (421, "4.3.2 closing", Some(75)),
            (452, "4.3.1 no room", Some(75)),
            (451, "5.7.1 odd", Some(75)),
            (550, "5.1.1 no such user", Some(67)),
            (554, "5.7.1 no relay", Some(77)),
            (530, "first say who you are", Some(77)),
            (501, "5.1.3 bad address", Some(65)),
            (552, "5.3.4 too big", Some(65)),
            (334, "what?", Some(75)),
        ] {
            let reply = Reply::new(ReplyCode::new(code).unwrap(), text);
            assert_eq!(status(&reply), expected, "{code} {text}");
        }
    }

    #[test]
    fn an_envelope_id_is_xtext() {
        assert_eq!(xtext("a b+c=d"), "a+20b+2Bc+3Dd");
    }
}
