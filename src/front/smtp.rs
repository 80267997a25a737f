//! Drives one SMTP session: `smtp::server` over a stream, under deadlines, into [`Intake`].
//!
//! Whatever a client does, its session ends: a command has a limit from the end of the one before it, content has a
//! least pace, replies must be read, and all of it together has a limit too (IN-11, IN-12).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::accept::{Client, Envelope, Incoming, Intake, check_sender};
use super::refusal::Refusal;
use super::relay::accept_recipient;
use super::stop::Flag;
use super::tls::handshake;
use crate::config::{Config, EarlyTalk, Listen, ListenTls};
use crate::log::Line as LogLine;
use crate::message::NewRecipient;
use crate::message::trace::Origin;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::net::tls::server::{Identity, Secured};
use crate::smtp::address::ReversePath;
use crate::smtp::answer::Answer;
use crate::smtp::command::RcptCommand;
use crate::smtp::data::DataReader;
use crate::smtp::line::{Line, LineReader};
use crate::smtp::server::{
    CUT_OFF, Host, Recipient, STOPPING, Session, Settings, Step, TIMED_OUT, Tls, Transaction,
};
use crate::spare::Spare;

/// Octets that are read at once.
const BUFFER: usize = 32 * 1024;
/// Replies that are kept back for one write while a client pipelines.
const REPLIES: usize = 16 * 1024;
/// IN-12: content must come at 500 octets a second, judged over 5 minutes.
const PACE_WINDOW: Duration = Duration::from_secs(300);
const PACE_OCTETS: u64 = 500 * 300;
/// How often content that stalls looks whether the daemon still waits for it.
const SLICE: Duration = Duration::from_secs(1);
/// How long a last word may take to be written.
const LAST_WORD: Duration = Duration::from_secs(5);
/// How long, and how much, a client is listened to that is cut while it sends: closing with its bytes unread would
/// reset the connection and could take our last reply from it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_OCTETS: usize = 1 << 20;

/// How a session is told to end.
pub(super) struct Stops {
    /// No new commands (IN-27).
    pub(super) stopping: Flag,
    /// Content is no longer waited for either.
    pub(super) cut: Flag,
}

/// Where a session takes place.
pub(super) struct Place<'a> {
    pub(super) intake: &'a Intake,
    pub(super) stops: &'a Stops,
    pub(super) config: &'a Config,
    pub(super) listen: &'a Listen,
    /// Whom the listener shows itself as, if it does TLS.
    pub(super) identity: Option<Identity>,
    pub(super) origin: Origin,
    /// The caller that its messages carry.
    pub(super) caller: String,
}

/// Why a conversation ends in good order.
enum Over {
    /// Replies are to be sent, and that is all.
    Close,
    /// It goes on inside TLS.
    StartTls,
}

/// Why a session ends that the state machine would have gone on with.
enum End {
    /// The client is gone, does not read, or has shut its side where nothing more can follow.
    Gone,
    /// A deadline passed.
    TimedOut,
    /// The daemon stops.
    Stopping,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        match error.kind() {
            io::ErrorKind::TimedOut => End::TimedOut,
            _ => End::Gone,
        }
    }
}

/// Serves one client until its session ends.
pub(super) fn serve(stream: Stream, place: &Place<'_>) {
    let config = place.config;
    let limit = config.intake.command_line;
    let session = Session::new(Settings {
        hostname: config.hostname.clone(),
        max_message_size: config.intake.max_message_size.get(),
        max_recipients: config.intake.max_recipients,
        max_errors: config.intake.max_errors,
        reject_early_talk: place.listen.early_talk == EarlyTalk::Reject,
        tls: match (place.listen.tls, &place.identity) {
            (ListenTls::StartTls, Some(_)) => Tls::Offered,
            _ => Tls::None,
        },
    });
    let mut conversation = Conversation {
        place,
        stream,
        secured: None,
        session,
        lines: LineReader::new(limit),
        input: Input::new(BUFFER.max(limit + 1)),
        out: Vec::with_capacity(512),
        idle: config.intake.idle_timeout.get(),
        ends: Deadline::after(config.intake.session_timeout.get()),
    };
    if place.listen.tls == ListenTls::Implicit {
        let Some(inside) = conversation.secure() else {
            return;
        };
        conversation = inside;
    }
    let goes_on = conversation.greet();
    let cut_by_us = loop {
        let over = match goes_on {
            true => conversation.run(),
            false => Ok(Over::Close),
        };
        match over {
            Ok(Over::Close) => break true,
            Ok(Over::StartTls) => match conversation.secure() {
                Some(inside) => conversation = inside,
                None => return,
            },
            Err(End::Gone) => break false,
            Err(End::TimedOut) => {
                TIMED_OUT.write(&mut conversation.out);
                break true;
            }
            Err(End::Stopping) => {
                STOPPING.write(&mut conversation.out);
                break true;
            }
        }
    };
    conversation.close(cut_by_us);
}

/// Bytes of the client that were read and not used.
struct Input {
    buffer: Spare,
    start: usize,
    end: usize,
}

impl Input {
    fn new(size: usize) -> Input {
        let mut buffer = Spare::take();
        buffer.resize(size, 0);
        Input {
            buffer,
            start: 0,
            end: 0,
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn skip(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    fn read(&mut self, stream: &mut Stream, deadline: Deadline) -> io::Result<usize> {
        let n = stream.read(self.room(), deadline)?;
        self.end += n;
        Ok(n)
    }

    /// `None`: `other` can be read.
    fn read_or(
        &mut self,
        stream: &mut Stream,
        other: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<Option<usize>> {
        let n = stream.read_or(self.room(), other, deadline)?;
        self.end += n.unwrap_or(0);
        Ok(n)
    }

    /// Where more can be read to.
    fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.buffer[self.end..]
    }
}

struct Conversation<'a> {
    place: &'a Place<'a>,
    stream: Stream,
    /// What TLS it is inside of.
    secured: Option<Secured>,
    session: Session,
    lines: LineReader,
    input: Input,
    /// Replies that were not written yet.
    out: Vec<u8>,
    idle: Duration,
    ends: Deadline,
}

impl Conversation<'_> {
    /// Says the replies and goes on inside TLS; `None` if that fails, and then it is over. What is left is new but for
    /// the limits of the session: nothing that was said in clear counts any more (RFC 3207 §4.2).
    fn secure(mut self) -> Option<Self> {
        self.flush().ok()?;
        let (stream, secured) = handshake(
            self.stream,
            self.place,
            self.ends.min(Deadline::after(self.idle)),
        )?;
        self.session.secured();
        Some(Conversation {
            stream,
            secured: Some(secured),
            lines: LineReader::new(self.place.config.intake.command_line),
            input: Input::new(self.input.buffer.len()),
            ..self
        })
    }

    /// The greeting. `false` if the session ends with it.
    fn greet(&mut self) -> bool {
        let mut door = Door {
            place: self.place,
            stream: &mut self.stream,
            buffered: false,
        };
        !matches!(self.session.greet(&mut door, &mut self.out), Step::Close)
    }

    /// Until the session closes in good order, or ends otherwise.
    fn run(&mut self) -> Result<Over, End> {
        // IN-11: counted per command and not per read.
        let mut deadline = None;
        loop {
            if self.place.stops.stopping.is_raised() {
                return Err(End::Stopping);
            }
            let unread = self.input.unread();
            let (n, line) = self.lines.next(unread);
            let Some(line) = line else {
                self.input.skip(n);
                if self.session.glance(self.input.unread(), &mut self.out) {
                    self.log_refused(None);
                    return Ok(Over::Close);
                }
                let deadline =
                    *deadline.get_or_insert_with(|| Deadline::after(self.idle).min(self.ends));
                self.read_command(deadline)?;
                continue;
            };
            deadline = None;
            let mut door = Door {
                place: self.place,
                stream: &mut self.stream,
                buffered: unread.len() > n,
            };
            let step = self.session.line(line, &mut door, &mut self.out);
            if let Some(answer) = self.session.take_refused() {
                log_refused(self.place, &self.session, self.secured, Some(line), &answer);
            }
            self.input.skip(n);
            let step = match step {
                Step::Data(transaction) => self.data(transaction)?,
                step => step,
            };
            match step {
                Step::Close => return Ok(Over::Close),
                Step::StartTls => return Ok(Over::StartTls),
                Step::Command | Step::Data(_) => {}
            }
            if self.out.len() > REPLIES {
                self.flush()?;
            }
        }
    }

    /// Reads more of a command. Before it waits, all replies go out: in one write if the client pipelined.
    fn read_command(&mut self, deadline: Deadline) -> Result<(), End> {
        self.flush()?;
        let stopping = self.place.stops.stopping.as_fd();
        match self.input.read_or(&mut self.stream, stopping, deadline)? {
            None => Err(End::Stopping),
            // IN-29: what it said before was answered.
            Some(0) => Err(End::Gone),
            Some(_) => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = self.stream.write_all(&self.out, Deadline::after(self.idle));
        self.out.clear();
        // IN-12: to one that does not read there is nothing more to say.
        written.map_err(|_| End::Gone)
    }

    fn data(&mut self, transaction: Transaction) -> Result<Step, End> {
        let place = self.place;
        let sender = transaction.reverse_path.clone();
        let incoming = match place
            .intake
            .begin(self.client(), self.envelope(transaction))
        {
            Ok(incoming) => incoming,
            Err(refusal) => {
                let mut door = Door {
                    place,
                    stream: &mut self.stream,
                    buffered: !self.input.unread().is_empty(),
                };
                let step = self
                    .session
                    .refuse_data(refusal.answer(), &mut door, &mut self.out);
                self.log_refused(Some(&sender));
                return Ok(step);
            }
        };
        self.session.go_ahead(&mut self.out);
        let answer = match self.content(incoming)? {
            Ok(id) => Answer::new(250, 0, 0, "").with_text(format!("queued as {id}")),
            Err(refusal) => refusal.answer(),
        };
        Ok(self.session.content_answer(&answer, &mut self.out))
    }

    /// Reads content to its true end. Dropping `incoming` before leaves nothing behind.
    fn content(
        &mut self,
        mut incoming: Incoming<'_>,
    ) -> Result<Result<crate::message::QueueId, Refusal>, End> {
        let mut reader = DataReader::new();
        let mut pace = Pace::new(PACE_WINDOW);
        let mut idle = Deadline::after(self.idle);
        loop {
            let taken = reader.read(self.input.unread(), &mut |run| incoming.write(run));
            self.input.skip(taken);
            if reader.is_over() {
                return Ok(incoming.finish(reader.oddities()));
            }
            self.flush()?;
            let slice = Deadline::after(SLICE).min(idle).min(pace.window);
            match self.input.read(&mut self.stream, slice) {
                Ok(0) => {
                    CUT_OFF.write(&mut self.out);
                    return Err(End::Gone);
                }
                Ok(n) => {
                    pace.octets += n as u64;
                    idle = Deadline::after(self.idle);
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error.into()),
            }
            if self.place.stops.cut.is_raised() {
                return Err(End::Stopping);
            }
            if idle.is_over() || pace.is_too_slow() {
                return Err(End::TimedOut);
            }
        }
    }

    fn client(&self) -> Client {
        let greeted = self.session.greeted();
        Client {
            caller: self.place.caller.clone(),
            helo: greeted.map(|g| g.name.clone()).unwrap_or_default(),
            origin: self.place.origin,
        }
    }

    fn envelope(&self, transaction: Transaction) -> Envelope {
        let recipient = |recipient: Recipient| NewRecipient {
            path: recipient.path,
            orcpt: recipient.params.orcpt,
            notify: recipient.params.notify,
        };
        let esmtp = self.session.greeted().is_some_and(|g| g.esmtp);
        Envelope {
            reverse_path: transaction.reverse_path,
            recipients: transaction.recipients.into_iter().map(recipient).collect(),
            ret: transaction.params.ret,
            envid: transaction.params.envid,
            size: transaction.params.size,
            require_tls: transaction.params.require_tls,
            // RFC 3848, RFC 6531 §4.3; HELO has no name of its own inside TLS.
            protocol: match (esmtp, transaction.params.utf8, self.secured) {
                (_, true, None) => "UTF8SMTP",
                (_, true, Some(_)) => "UTF8SMTPS",
                (true, false, None) => "ESMTP",
                (true, false, Some(_)) => "ESMTPS",
                (false, false, _) => "SMTP",
            },
            tls: self.secured,
            bare_newline: self.place.listen.bare_newline,
        }
    }

    fn log_refused(&mut self, sender: Option<&ReversePath>) {
        if let Some(answer) = self.session.take_refused() {
            let line = refused_line(self.place, &self.session, self.secured, &answer);
            match sender {
                Some(sender) => line.path("from", sender),
                None => line,
            }
            .peer("text", answer.text())
            .info();
        }
    }

    /// Writes the last replies and closes. A client that is cut by us may still be sending.
    fn close(mut self, cut_by_us: bool) {
        let deadline = Deadline::after(LAST_WORD);
        let written = self.stream.write_all(&self.out, deadline);
        if written.is_ok() && cut_by_us && self.stream.has_unread() {
            let _ = self.stream.finish_writing();
            let deadline = Deadline::after(LINGER);
            let mut heard = 0;
            while heard < LINGER_OCTETS {
                match self.stream.read(&mut self.input.buffer, deadline) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => heard += n,
                }
            }
        }
        self.stream.close();
    }
}

/// One line for each refusal, with the command that was refused (OBS-1).
fn log_refused(
    place: &Place<'_>,
    session: &Session,
    secured: Option<Secured>,
    line: Option<Line<'_>>,
    answer: &Answer,
) {
    let command = match line {
        Some(Line::Whole(text) | Line::BareLineEnd(text)) => text,
        Some(Line::TooLong) | None => &[],
    };
    // What follows AUTH may be a password (OBS-2).
    let secret = command
        .get(..4)
        .is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH"));
    let command = if secret { &command[..4] } else { command };
    let line = refused_line(place, session, secured, answer);
    match session.sender() {
        Some(sender) => line.path("from", sender),
        None => line,
    }
    .peer("command", &String::from_utf8_lossy(command))
    .peer("text", answer.text())
    .info();
}

fn refused_line(
    place: &Place<'_>,
    session: &Session,
    secured: Option<Secured>,
    answer: &Answer,
) -> LogLine {
    let code = answer.code().to_string();
    place.intake.count_refused(place.origin, &code);
    let line = LogLine::of_client("rejected", place.origin)
        .key("listen", &place.listen.name)
        .key("caller", &place.caller)
        .opt("tls", secured)
        .num("code", answer.code())
        .opt("status", answer.status());
    match session.greeted() {
        Some(greeted) => line.peer("helo", &greeted.name),
        None => line,
    }
}

/// IN-12: the least pace of content.
struct Pace {
    window: Deadline,
    length: Duration,
    octets: u64,
}

impl Pace {
    fn new(length: Duration) -> Pace {
        Pace {
            window: Deadline::after(length),
            length,
            octets: 0,
        }
    }

    /// Judges at the end of each window, and begins the next.
    fn is_too_slow(&mut self) -> bool {
        if !self.window.is_over() {
            return false;
        }
        let slow = self.octets < PACE_OCTETS;
        *self = Pace::new(self.length);
        slow
    }
}

/// The session's surroundings.
struct Door<'a> {
    place: &'a Place<'a>,
    stream: &'a mut Stream,
    /// Bytes behind the line that is being answered were read already.
    buffered: bool,
}

impl Host for Door<'_> {
    fn sender(&mut self, path: &ReversePath) -> Result<(), Answer> {
        check_sender(self.place.config, path).map_err(|refusal| refusal.answer())
    }

    fn recipient(&mut self, command: RcptCommand) -> Result<Recipient, Answer> {
        accept_recipient(
            self.place.config,
            self.place.listen,
            self.place.origin,
            command,
        )
    }

    fn input_waits(&mut self) -> bool {
        self.buffered || self.stream.has_unread()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // IN-12
    #[test]
    fn content_is_judged_by_its_pace_at_the_end_of_each_window() {
        let mut pace = Pace::new(Duration::ZERO);
        assert!(pace.is_too_slow());
        pace.octets = PACE_OCTETS - 1;
        assert!(pace.is_too_slow());
        pace.octets = PACE_OCTETS;
        assert!(!pace.is_too_slow());
        assert!(pace.is_too_slow(), "a new window begins with nothing");
        assert!(!Pace::new(PACE_WINDOW).is_too_slow());
    }
}
