//! One transaction: MAIL, RCPT, DATA, content, dot; and which reply decides for which recipient.

use super::{Broken, Command, Dialogue, Mail, Rcpt, Ready, Step, Wire, commands, says_goodbye};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::reply::Reply;

/// What the peer said about one recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The whole transaction succeeded: this is the 2yz after the dot (CL-28).
    Delivered(&'a Reply),
    /// This reply to this command decides: 4yz or 5yz.
    Refused(Command, &'a Reply),
    /// It goes into a new transaction of the same session at once (CL-17).
    Again,
    /// Nothing decides: the session broke first.
    Open,
}

#[derive(Debug)]
enum Recipient {
    Unasked,
    Accepted,
    Refused(Reply),
    Again,
    /// Accepted, and then this after the dot (RFC 2033 §4.2).
    Settled(Reply),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The commands up to DATA.
    Envelope,
    /// The driver sends content.
    Content,
    /// A lone dot ends a DATA that nobody wants (CL-15).
    LoneDot,
    Dot,
    Done,
}

/// What the peer said of the recipients of a transaction, at its end or where it broke.
#[derive(Debug)]
pub struct Answers {
    recipients: Vec<Recipient>,
    /// The reply that decides for all recipients not refused by a reply of their own.
    end: Option<(Command, Reply)>,
    accepted: usize,
    /// MAIL was answered, whatever the answer: the session got as far as a transaction.
    pub reached_mail: bool,
    /// The replies carry enhanced status codes (CL-5).
    pub enhanced: bool,
}

impl Answers {
    /// The session had broken before anything was asked.
    pub fn none() -> Answers {
        Answers {
            recipients: Vec::new(),
            end: None,
            accepted: 0,
            reached_mail: false,
            enhanced: false,
        }
    }

    /// What is known of the nth recipient.
    pub fn answer(&self, n: usize) -> Answer<'_> {
        match (self.recipients.get(n), &self.end) {
            (Some(Recipient::Refused(reply)), _) => Answer::Refused(Command::Rcpt(n), reply),
            (Some(Recipient::Again), _) => Answer::Again,
            (Some(Recipient::Settled(reply)), _) => match reply.code().is_positive() {
                true => Answer::Delivered(reply),
                false => Answer::Refused(Command::Dot, reply),
            },
            (Some(Recipient::Accepted), Some((Command::Dot, reply)))
                if reply.code().is_positive() =>
            {
                Answer::Delivered(reply)
            }
            (Some(Recipient::Accepted | Recipient::Unasked), Some((command, reply))) => {
                Answer::Refused(*command, reply)
            }
            (Some(Recipient::Accepted | Recipient::Unasked), None) | (None, _) => Answer::Open,
        }
    }

    /// Whether a 2yz came after the dot.
    pub fn succeeded(&self) -> bool {
        let settled = |one: &Recipient| matches!(one, Recipient::Settled(reply) if reply.code().is_positive());
        matches!(&self.end, Some((Command::Dot, reply)) if reply.code().is_positive())
            || self.recipients.iter().any(settled)
    }

    /// The failure as one line, for a refused RSET, which is told with both (CL-22).
    fn failure(&self) -> String {
        let refused = self.recipients.iter().find_map(|r| match r {
            Recipient::Refused(reply) => Some(format!("RCPT refused: {reply}")),
            Recipient::Settled(reply) => Some(format!("{} refused: {reply}", Command::Dot)),
            _ => None,
        });
        match (&self.end, refused) {
            (Some((command, reply)), _) => format!("{command} refused: {reply}"),
            (None, Some(text)) => text,
            (None, None) => "transaction not completed".to_string(),
        }
    }
}

/// The commands of a transaction up to DATA, in the words that a peer understands.
#[derive(Debug, PartialEq, Eq)]
pub struct Envelope {
    /// RSET if needed, MAIL, all RCPT and DATA.
    script: String,
    /// Each of them, with the place in `script` where it ends.
    ends: Vec<(Command, usize)>,
}

impl Envelope {
    pub(super) fn new<'a>(
        reset: bool,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = Rcpt<'a>>,
        capabilities: &Capabilities,
    ) -> Envelope {
        let mut script = String::new();
        let mut ends = Vec::new();
        if reset {
            script.push_str("RSET\r\n");
            ends.push((Command::Rset, script.len()));
        }
        commands::mail(&mut script, mail, capabilities);
        ends.push((Command::Mail, script.len()));
        for (n, recipient) in recipients.enumerate() {
            commands::rcpt(&mut script, &recipient, capabilities);
            ends.push((Command::Rcpt(n), script.len()));
        }
        script.push_str("DATA\r\n");
        ends.push((Command::Data, script.len()));
        Envelope { script, ends }
    }

    /// The octets.
    pub fn commands(&self) -> &[u8] {
        self.script.as_bytes()
    }

    fn recipients(&self) -> usize {
        let asks = |(command, _): &&(Command, usize)| matches!(command, Command::Rcpt(_));
        self.ends.iter().filter(asks).count()
    }
}

/// A transaction under way.
#[derive(Debug)]
pub struct Transaction {
    wire: Wire,
    answers: Answers,
    envelope: Envelope,
    /// How many of `ends` are sent, and how many answered.
    sent: usize,
    answered: usize,
    state: State,
    begun: bool,
    reset_after: Option<String>,
}

impl Transaction {
    pub(super) fn new<'a>(
        ready: Ready,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = Rcpt<'a>>,
    ) -> Transaction {
        let Ready { wire, reset_after } = ready;
        let reset = reset_after.is_some();
        let envelope = Envelope::new(reset, mail, recipients, &wire.capabilities);
        Transaction::with(wire, envelope, reset_after)
    }

    /// One whose commands are out already, behind the content of the one before it. That may have failed, and no RSET
    /// came between: with the reply to its dot it was over all the same (RFC 5321 §4.1.1.4).
    pub(super) fn resumed(ready: Ready, envelope: Envelope) -> Transaction {
        let sent = envelope.ends.len();
        Transaction {
            sent,
            ..Transaction::with(ready.wire, envelope, None)
        }
    }

    fn with(wire: Wire, envelope: Envelope, reset_after: Option<String>) -> Transaction {
        let asked = std::iter::repeat_with(|| Recipient::Unasked);
        let answers = Answers {
            recipients: asked.take(envelope.recipients()).collect(),
            end: None,
            accepted: 0,
            reached_mail: false,
            enhanced: wire.enhanced(),
        };
        Transaction {
            wire,
            answers,
            envelope,
            sent: 0,
            answered: 0,
            state: State::Envelope,
            begun: false,
            reset_after,
        }
    }

    /// Whether the commands of another transaction may go out right behind this one's content (RFC 2920 §3.1): it is its
    /// turn, the peer takes commands in groups, and nothing is left that would have to come before. LMTP has as many
    /// replies to the dot as recipients, and is left alone.
    pub fn may_be_followed(&self) -> bool {
        let again = |one: &Recipient| matches!(one, Recipient::Again);
        self.state == State::Content
            && self.wire.uses_pipelining()
            && !self.wire.lmtp
            && !self.answers.recipients.iter().any(again)
    }

    /// What the peer announced.
    pub fn capabilities(&self) -> &Capabilities {
        &self.wire.capabilities
    }

    /// The commands of such a transaction, for [`Ready::resume`].
    pub fn followed_by<'a>(
        &self,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = Rcpt<'a>>,
    ) -> Envelope {
        Envelope::new(false, mail, recipients, &self.wire.capabilities)
    }

    /// All of the content and its terminator are sent: the reply to the dot is awaited.
    pub fn content_sent(&mut self) {
        debug_assert_eq!(self.state, State::Content);
        self.state = State::Dot;
    }

    /// Takes a reply that came while content was being sent, if it is complete. The session is over then: what was
    /// sent of the content has no end (CL-21).
    ///
    /// # Errors
    /// [`Broken`] for what is no refusal.
    pub fn early_reply(&mut self) -> Result<bool, Broken> {
        let Some(reply) = self.wire.next_reply(Command::Content)? else {
            return Ok(false);
        };
        let code = reply.code();
        if code.is_permanent() || code.is_transient() {
            self.answers.end = Some((Command::Content, reply));
            Ok(true)
        } else {
            Err(Broken::unexpected(Command::Content, &reply))
        }
    }

    /// Ends it: what was answered, and the session at rest if the dialogue came to [`Step::Done`].
    pub fn end(self) -> (Answers, Option<Ready>) {
        // After any reply to the dot the transaction is over (RFC 5321 §4.1.1.4); after a failure before it, it is
        // not. CL-22 asks for RSET after every failed one, which also pleases servers that count differently.
        let ready = (self.state == State::Done).then(|| Ready {
            wire: self.wire,
            reset_after: (!self.answers.succeeded()).then(|| self.answers.failure()),
        });
        (self.answers, ready)
    }

    /// Puts the next commands into the output: all at once with PIPELINING, else one at a time.
    fn send(&mut self) {
        let from = self.sent;
        if self.wire.uses_pipelining() {
            self.sent = self.envelope.ends.len();
        } else if self.sent == self.answered {
            self.skip_needless();
            self.sent = (self.answered + 1).min(self.envelope.ends.len());
        }
        let from = from.max(self.answered);
        if from < self.sent {
            let start = if from == 0 {
                0
            } else {
                self.envelope.ends[from - 1].1
            };
            let text = &self.envelope.script[start..self.envelope.ends[self.sent - 1].1];
            self.wire.output.extend_from_slice(text.as_bytes());
            self.begun = true;
        }
    }

    /// Without PIPELINING nothing is asked whose answer is known already.
    fn skip_needless(&mut self) {
        while let Some((command, _)) = self.envelope.ends.get(self.answered) {
            let needless = match command {
                Command::Rcpt(n) => {
                    // CL-17: once the peer has enough recipients, the others wait for the next transaction.
                    let enough = n
                        .checked_sub(1)
                        .is_some_and(|n| matches!(self.answers.recipients[n], Recipient::Again));
                    if enough {
                        self.answers.recipients[*n] = Recipient::Again;
                    }
                    enough || self.answers.end.is_some()
                }
                Command::Data => self.answers.accepted == 0,
                _ => false,
            };
            if !needless {
                return;
            }
            self.answered += 1;
        }
    }

    fn take(&mut self, command: Command, reply: Reply) -> Result<(), Broken> {
        let code = reply.code();
        let refused = code.is_transient() || code.is_permanent();
        if says_goodbye(&reply) {
            return Err(Broken::refused(command, reply));
        }
        match command {
            Command::Rset if code.is_positive() => self.reset_after = None,
            // CL-22: the error names both failures.
            Command::Rset => {
                let before = self.reset_after.take().unwrap_or_default();
                let text = format!("{}\nafter: {before}", reply.text());
                return Err(Broken::refused(command, Reply::new(code, text)));
            }
            Command::Mail if code.is_positive() => {}
            Command::Mail if refused => self.answers.end = Some((command, reply)),
            // CL-19: MAIL speaks for all; what RCPT and DATA get after it is its echo.
            Command::Rcpt(_) | Command::Data if self.answers.end.is_some() && refused => {}
            Command::Rcpt(n) if code.is_positive() => {
                self.answers.recipients[n] = Recipient::Accepted;
                self.answers.accepted += 1;
            }
            Command::Rcpt(n) if refused => {
                // RFC 5321 §4.5.3.1.10: too many recipients, in either spelling (CL-17).
                let too_many = matches!(code.get(), 452 | 552) && self.answers.accepted > 0;
                self.answers.recipients[n] = if too_many {
                    Recipient::Again
                } else {
                    Recipient::Refused(reply)
                };
            }
            // CL-15: nobody wants the content, but the peer waits for it.
            // RFC 2033 §4.2: LMTP has a reply for each accepted recipient, so for nobody there would be none to wait for.
            Command::Data if code.get() == 354 && self.wire.lmtp && self.answers.accepted == 0 => {
                return Err(Broken::unexpected(command, &reply));
            }
            Command::Data
                if code.get() == 354
                    && (self.answers.accepted == 0 || self.answers.end.is_some()) =>
            {
                self.wire.must_be_clean(Command::Data)?;
                self.wire.output.extend_from_slice(b".\r\n");
                self.begun = true;
                self.state = State::LoneDot;
            }
            Command::Data if code.get() == 354 => {
                // CL-14: one reply per command, and the peer's turn is over.
                self.wire.must_be_clean(Command::Data)?;
                self.state = State::Content;
            }
            Command::Data if refused => {
                if self.answers.accepted > 0 {
                    self.answers.end = Some((command, reply));
                }
            }
            Command::Dot if self.wire.lmtp && (code.is_positive() || refused) => {
                // RFC 2033 §4.2: in the order of RCPT.
                let mut waiting = self.answers.recipients.iter_mut();
                let waiting = waiting.by_ref();
                if let Some(next) = waiting.find(|one| matches!(one, Recipient::Accepted)) {
                    *next = Recipient::Settled(reply);
                }
                if !waiting.any(|one| matches!(one, Recipient::Accepted)) {
                    self.state = State::Done;
                }
            }
            Command::Dot if code.is_positive() || refused => {
                self.answers.end = Some((command, reply));
                self.state = State::Done;
            }
            _ => return Err(Broken::unexpected(command, &reply)),
        }
        Ok(())
    }

    fn awaited(&self) -> Command {
        match self.state {
            State::Dot => Command::Dot,
            State::LoneDot => Command::Data,
            State::Content => Command::Content,
            State::Envelope | State::Done => self
                .envelope
                .ends
                .get(self.answered)
                .map_or(Command::Data, |e| e.0),
        }
    }
}

impl Dialogue for Transaction {
    fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    fn advance(&mut self) -> Result<Step, Broken> {
        loop {
            match self.state {
                State::Done => return Ok(Step::Done),
                State::Content => return Ok(Step::Content),
                State::Envelope => {
                    self.send();
                    if self.answered == self.envelope.ends.len() {
                        self.wire.must_be_clean(Command::Data)?;
                        self.state = State::Done;
                        continue;
                    }
                }
                State::LoneDot | State::Dot => {}
            }
            let command = self.awaited();
            if std::mem::take(&mut self.begun) {
                return Ok(Step::Begin(command));
            }
            let Some(reply) = self.wire.next_reply(command)? else {
                return Ok(Step::Await(command));
            };
            if self.state == State::LoneDot {
                self.state = State::Done;
                continue;
            }
            self.answered += usize::from(self.state == State::Envelope);
            self.answers.reached_mail |= command == Command::Mail;
            self.take(command, reply)?;
        }
    }
}
