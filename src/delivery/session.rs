//! One SMTP session over one connection: drives the state machines of `smtp::client` under deadlines.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::content::Content;
use super::outcome::Break;
use crate::config::Deliver;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::policy::failure::TlsLevel;
use crate::policy::tls::Reached;
use crate::smtp::address::Domain;
use crate::smtp::client::{
    Answers, Broken, Command, Dialogue, Envelope, Mail, Rcpt, Ready, Step, Transaction,
};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::sasl::Mechanism;
use crate::smtp::serialise::Serialiser;
use crate::spare::Spare;

/// What is written at once. A small message goes out with its dot in one write.
const BLOCK: usize = 64 * 1024;

/// A time limit for content of each further 16 KiB (CL-9).
const SIZE_PER_SECOND: u64 = 16 * 1024;

/// What is still waited for after the connection failed under a write: words that are already here (CL-21).
const LAST_WORDS: Duration = Duration::from_millis(50);

/// How long what follows waits for the reply to the dot before it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The limits of a session's stages (CFG-15).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    command: Duration,
    data: Duration,
    block: Duration,
    dot: Duration,
    quit: Duration,
    total: Duration,
}

impl Limits {
    /// Those of the configuration.
    pub fn of(deliver: &Deliver) -> Limits {
        Limits {
            command: deliver.command_timeout.get(),
            data: deliver.data_timeout.get(),
            block: deliver.block_timeout.get(),
            dot: deliver.dot_timeout.get(),
            quit: deliver.quit_timeout.get(),
            total: deliver.total_timeout.get(),
        }
    }

    /// When a transaction that begins now must have sent its dot (CL-9).
    pub fn total(&self, size: u64) -> Deadline {
        Deadline::after(
            self.total
                .saturating_add(Duration::from_secs(size / SIZE_PER_SECOND)),
        )
    }

    /// When the reply to this command must be there. What the peer does with a whole message has a limit of its own,
    /// so that a 250 after nine minutes is a delivery (CL-9).
    pub(super) fn reply(&self, command: Command, total: Deadline) -> Deadline {
        match command {
            Command::Dot => Deadline::after(self.dot),
            Command::Quit => Deadline::after(self.quit),
            Command::Data => Deadline::after(self.data).min(total),
            _ => Deadline::after(self.command).min(total),
        }
    }
}

/// How the session came to be, for the record of attempts.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The host, as planned.
    pub host: String,
    /// Its address.
    pub address: SocketAddr,
    /// Our own address in it.
    pub source: Option<IpAddr>,
    /// What its handshake reached; `None` in clear.
    pub reached: Option<Arc<Reached>>,
    /// How we proved who we are; `None` without AUTH.
    pub mechanism: Option<Mechanism>,
}

impl Origin {
    /// The level of its protection.
    pub fn level(&self) -> TlsLevel {
        self.reached
            .as_ref()
            .map_or(TlsLevel::Plain, |reached| reached.level())
    }
}

/// An open session at rest.
#[derive(Debug)]
pub struct Session {
    stream: Stream,
    ready: Ready,
    origin: Origin,
    greeting: String,
    born: Instant,
    idle_since: Instant,
    transactions: u32,
    /// Failed transactions in a row (CL-24).
    failed: u32,
    /// The domains that it was counted for (RPT-1); no more than transactions.
    counted: Vec<Domain>,
    /// The commands of the next transaction are out (RFC 2920 §3.1): it can carry that, and nothing else.
    ahead: Option<Envelope>,
}

/// What the one whose transaction is carried is asked and told on the way.
pub struct Asides<'a> {
    /// All but the end of the content is out. When it fails, the dot is not sent (PRC-2, Q-26).
    pub before_dot: &'a dyn Fn() -> Result<(), Break>,
    /// The commands of a transaction that may go out behind the content; asked only where that is possible.
    pub follow: &'a dyn Fn(&Transaction) -> Option<Envelope>,
    /// What follows had better not wait any longer for the reply to this dot: it will not be carried by this session.
    pub unfollow: &'a dyn Fn(),
}

/// A transaction that was carried as far as it went.
#[derive(Debug)]
pub struct Carried {
    /// What the peer said of each recipient.
    pub answers: Answers,
    /// The session, if it can go on.
    pub session: Option<Session>,
    /// Why it cannot.
    pub broken: Option<Break>,
    /// From MAIL to the end.
    pub took: Duration,
    /// How long the reply to the dot was waited for; the attempt's limit does not count it (DV-6).
    pub waited_for_dot: Duration,
}

impl Session {
    /// One that has just been opened.
    pub(super) fn at_rest(
        stream: Stream,
        ready: Ready,
        origin: Origin,
        greeting: String,
    ) -> Session {
        let now = Instant::now();
        Session {
            stream,
            ready,
            origin,
            greeting,
            born: now,
            idle_since: now,
            transactions: 0,
            failed: 0,
            counted: Vec::new(),
            ahead: None,
        }
    }

    /// How it came to be.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The name with which the peer greeted (DV-10).
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Whether it is counted for this domain the first time.
    pub fn is_new_to(&mut self, domain: &Domain) -> bool {
        let new = !self.counted.contains(domain);
        if new {
            self.counted.push(domain.clone());
        }
        new
    }

    /// What the peer announced.
    pub fn capabilities(&self) -> &Capabilities {
        self.ready.capabilities()
    }

    /// Whether the commands of its next transaction are out: it is for whoever that transaction is, and not at rest.
    pub fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }

    /// Whether it may carry one more transaction (CL-20, CL-24).
    pub fn may_carry_more(&self, deliver: &Deliver) -> bool {
        self.ready.is_clean() && self.may_carry(1, deliver)
    }

    /// Whether another transaction may follow right behind its next one.
    pub fn may_be_followed(&self, deliver: &Deliver) -> bool {
        self.may_carry(2, deliver)
    }

    /// Whether limits allow so many more transactions.
    fn may_carry(&self, more: u32, deliver: &Deliver) -> bool {
        let limits = &self.capabilities().limits;
        // A limit of domains holds for the whole session; one transaction keeps it without a list of them.
        let most = match limits.rcpt_domain_max {
            Some(_) => 1,
            None => limits.mail_max.unwrap_or(u32::MAX),
        };
        self.transactions.saturating_add(more) <= deliver.session_messages.min(most)
            && self.failed < 4
            && self.born.elapsed() < deliver.session_age.get()
    }

    /// Whether it has waited for work for too long.
    pub fn is_stale(&self, idle: Duration, age: Duration) -> bool {
        self.idle_since.elapsed() >= idle || self.born.elapsed() >= age
    }

    /// Whether the peer has closed it or spoken out of turn meanwhile (CL-8). Never blocks.
    pub fn is_dead(&mut self) -> bool {
        !self.ready.is_clean() || self.stream.has_unread()
    }

    /// It begins to wait for work.
    pub fn rest(&mut self) {
        self.idle_since = Instant::now();
    }

    /// Carries out one transaction. `total` is the limit up to the last octet of the dot (CL-9). Where commands are out
    /// already they must be those of this transaction; if not, the session has come to nothing.
    pub fn carry<'a>(
        mut self,
        mail: &Mail<'_>,
        recipients: impl Iterator<Item = Rcpt<'a>>,
        content: &Content,
        limits: &Limits,
        total: Deadline,
        asides: &Asides<'_>,
    ) -> Carried {
        let began = Instant::now();
        let transaction = match self.ahead.take() {
            None => Some(self.ready.begin(mail, recipients)),
            Some(envelope) => self.ready.resume(envelope, mail, recipients),
        };
        let Some(mut transaction) = transaction else {
            self.stream.close();
            return Carried {
                answers: Answers::none(),
                session: None,
                broken: Some(Break::Eof(Command::Mail)),
                took: began.elapsed(),
                waited_for_dot: Duration::ZERO,
            };
        };
        let mut course = Course {
            stream: &mut self.stream,
            transaction: &mut transaction,
            limits,
            total,
            begun: false,
            waited_for_dot: Duration::ZERO,
            next: Next::Nothing,
        };
        let broken = course.run(content, asides).err();
        let (waited_for_dot, next) = (course.waited_for_dot, course.next);
        let (answers, ready) = transaction.end();
        let (ahead, of_use) = match next {
            Next::Nothing => (None, true),
            Next::Out(envelope) => (Some(envelope), true),
            Next::Forsaken => (None, false),
        };
        let session = match (ready, &broken) {
            (Some(ready), None) => Some(Session {
                ready,
                ahead,
                transactions: self.transactions.saturating_add(1),
                failed: if answers.succeeded() {
                    0
                } else {
                    self.failed.saturating_add(1)
                },
                ..self
            }),
            _ => {
                self.stream.close();
                None
            }
        };
        let session = match of_use {
            true => session,
            false => {
                if let Some(session) = session {
                    session.drop_politely();
                }
                None
            }
        };
        Carried {
            answers,
            session,
            broken,
            took: began.elapsed(),
            waited_for_dot,
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// There is none; the connection is closed.
    pub fn noop(mut self, limits: &Limits, total: Deadline) -> Result<Session, Break> {
        let mut asking = self.ready.noop();
        drive(&mut self.stream, &mut asking, &|command| {
            limits.reply(command, total)
        })?;
        Ok(Session {
            ready: asking.finish(),
            ..self
        })
    }

    /// Says QUIT, waits for the reply within `quit_timeout` and closes (CL-23). Whatever happens alters nothing.
    pub fn quit(mut self, limits: &Limits) {
        let mut quitting = self.ready.quit();
        let deadline = Deadline::after(limits.quit);
        let _ = drive(&mut self.stream, &mut quitting, &|_| deadline);
        self.stream.close();
    }

    /// Says QUIT if the peer takes it at once, and closes: for sessions that nobody has time to wait for.
    pub fn drop_politely(mut self) {
        let mut quitting = self.ready.quit();
        let quit = std::mem::take(&mut quitting.wire().output);
        let _ = self.stream.write_all(&quit, Deadline::after(LAST_WORDS));
        self.stream.close();
    }
}

/// A transaction on its way through a connection.
struct Course<'a> {
    stream: &'a mut Stream,
    transaction: &'a mut Transaction,
    limits: &'a Limits,
    total: Deadline,
    /// Some of the content is out.
    begun: bool,
    /// How long the reply to the dot was waited for.
    waited_for_dot: Duration,
    next: Next,
}

/// What went out behind the content.
enum Next {
    Nothing,
    /// The commands of the next transaction.
    Out(Envelope),
    /// The same, and nobody will go on with it on this session.
    Forsaken,
}

impl Course<'_> {
    fn run(&mut self, content: &Content, asides: &Asides<'_>) -> Result<(), Break> {
        let (limits, total) = (self.limits, self.total);
        let time = |command| limits.reply(command, total);
        let step = drive(self.stream, self.transaction, &time)?;
        if step != Step::Content {
            return Ok(());
        }
        // What follows a large one would wait for it.
        let follows = self.transaction.may_be_followed() && content.size() <= BLOCK as u64;
        let next = follows.then(|| (asides.follow)(self.transaction)).flatten();
        match self.send_content(content, next.as_ref(), asides.before_dot) {
            Ok(true) => self.transaction.content_sent(),
            // The peer has answered; the content has no end, so the session is over.
            Ok(false) => return Err(Break::Eof(Command::Content)),
            Err(why) => {
                return match self.last_words() {
                    Ok(true) => Err(Break::Eof(Command::Content)),
                    _ => Err(why),
                };
            }
        }
        let sent = Instant::now();
        let result = match next {
            None => drive(self.stream, self.transaction, &time),
            Some(next) => {
                self.next = Next::Out(next);
                self.await_dot(&time, asides.unfollow)
            }
        };
        self.waited_for_dot = sent.elapsed();
        result.map(|_| ())
    }

    /// Waits for the reply to the dot, and before long for it alone.
    fn await_dot(
        &mut self,
        time: &dyn Fn(Command) -> Deadline,
        unfollow: &dyn Fn(),
    ) -> Result<Step, Break> {
        let (soon, dot) = (Deadline::after(PATIENCE), time(Command::Dot));
        match drive(self.stream, self.transaction, &|_| soon.min(dot)) {
            Err(Break::Io(_, error))
                if error.kind() == io::ErrorKind::TimedOut && !dot.is_over() =>
            {
                self.next = Next::Forsaken;
                unfollow();
                drive(self.stream, self.transaction, &|_| dot)
            }
            result => result,
        }
    }

    /// Sends the content, its end, and what follows it. `Ok(false)`: the peer answered before it was all out (CL-21).
    fn send_content(
        &mut self,
        content: &Content,
        next: Option<&Envelope>,
        before_dot: &dyn Fn() -> Result<(), Break>,
    ) -> Result<bool, Break> {
        let mut serialiser = Serialiser::new();
        let mut pieces = content.read().map_err(Break::Content)?;
        let mut block = Spare::take();
        block.clear();
        block.reserve(BLOCK.min(content.size() as usize + 64));
        let mut spare = Vec::new();
        while let Some(piece) = pieces.next_piece().map_err(Break::Content)? {
            let piece = serialiser.piece(piece, &mut spare);
            if block.len() + piece.len() > BLOCK {
                // What is collected, then the rest without a further copy, but for a last part that the dot joins.
                if !self.write(&block, block.len())? {
                    return Ok(false);
                }
                block.clear();
                let whole = piece.len() - piece.len() % BLOCK;
                for part in piece[..whole].chunks(BLOCK) {
                    if !self.write(part, part.len())? {
                        return Ok(false);
                    }
                }
                block.extend_from_slice(&piece[whole..]);
            } else {
                block.extend_from_slice(piece);
            }
        }
        block.extend_from_slice(serialiser.finish());
        let end = block.len();
        if let Some(next) = next {
            block.extend_from_slice(next.commands());
        }
        before_dot()?;
        Ok(self.write(&block, end)?
            && self
                .stream
                .write_all(&[], self.total)
                .map(|()| true)
                .map_err(|e| Break::Io(Command::Content, e))?)
    }

    /// Writes one block, reading beside it up to `end`, where the content ends that it is of. `Ok(false)`: the peer has
    /// answered.
    fn write(&mut self, block: &[u8], end: usize) -> Result<bool, Break> {
        let io = |error| Break::Io(Command::Content, error);
        let deadline = Deadline::after(self.limits.block).min(self.total);
        let mut sent = 0;
        while sent < end {
            // The first part goes out without asking: nothing is in flight, so the system takes some of it at once,
            // and of a small message nearly always all.
            let (readable, writable) = if std::mem::replace(&mut self.begun, true) {
                self.stream.wait(true, deadline).map_err(io)?
            } else {
                (false, true)
            };
            if readable && self.hear(deadline)? {
                return Ok(false);
            }
            if writable {
                sent += self.stream.write(&block[sent..], deadline).map_err(io)?;
            }
        }
        // The dot is out, and what the peer says now is its reply. Whether the connection still works shows when that is
        // read: a fault here must not make anybody believe that the dot was not sent.
        if sent < block.len() {
            let _ = self.stream.write_all(&block[sent..], deadline);
        }
        Ok(true)
    }

    /// Reads what is there; whether it completes a reply.
    fn hear(&mut self, deadline: Deadline) -> Result<bool, Break> {
        let mut buffer = [0; 4096];
        let n = self
            .stream
            .read(&mut buffer, deadline)
            .map_err(|error| Break::Io(Command::Content, error))?;
        if n == 0 {
            return Err(Break::Eof(Command::Content));
        }
        self.transaction.wire().push(&buffer[..n]);
        Ok(self.transaction.early_reply()?)
    }

    /// After a failed write: what the peer said before it went away (CL-15, CL-21).
    fn last_words(&mut self) -> Result<bool, Break> {
        while self.stream.has_unread() {
            if self.hear(Deadline::after(LAST_WORDS))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Carries a dialogue on until it needs more than replies, or is over.
pub(super) fn drive(
    stream: &mut Stream,
    dialogue: &mut impl Dialogue,
    time: &dyn Fn(Command) -> Deadline,
) -> Result<Step, Break> {
    let mut awaited: Option<(u64, Deadline)> = None;
    // The connection failed under a write; what the peer said before is still read.
    let mut failed: Option<io::Error> = None;
    // Most replies are short, and a long one comes in parts.
    let mut buffer = [0; 2048];
    loop {
        let command = match dialogue.advance()? {
            Step::Begin(command) => {
                if !dialogue.wire().is_clean() {
                    return Err(Broken::out_of_step(command).into());
                }
                if stream.has_unread() {
                    return Err(out_of_turn(stream, dialogue, command));
                }
                continue;
            }
            Step::Await(command) => command,
            step => return Ok(step),
        };
        // One limit for each reply (CL-9): it begins when the reply before it is complete.
        let replies = dialogue.wire().replies();
        let deadline = match awaited {
            Some((of, deadline)) if of == replies => deadline,
            _ => awaited.insert((replies, time(command))).1,
        };
        let output = std::mem::take(&mut dialogue.wire().output);
        if !output.is_empty()
            && let Err(error) = send(stream, dialogue, &output, deadline)
        {
            failed = Some(error);
        }
        if let Some(error) = failed.take() {
            if !stream.has_unread() {
                return Err(Break::Io(command, error));
            }
            failed = Some(error);
        } else if !output.is_empty() && !dialogue.wire().is_clean() {
            // Something came beside the sending.
            continue;
        }
        match stream.read(&mut buffer, deadline) {
            Ok(0) => return Err(Break::Eof(command)),
            Ok(n) => dialogue.wire().push(&buffer[..n]),
            Err(error) => return Err(Break::Io(command, error)),
        }
    }
}

/// Sends commands with reading beside writing, so that a peer that answers before it has read all cannot lock both
/// sides up (CL-14, RFC 2920 §3.1).
fn send(
    stream: &mut Stream,
    dialogue: &mut impl Dialogue,
    output: &[u8],
    deadline: Deadline,
) -> io::Result<()> {
    // Nothing is in flight, so the system takes at least a part at once.
    let mut sent = stream.write(output, deadline)?;
    while sent < output.len() {
        let (readable, writable) = stream.wait(true, deadline)?;
        if readable {
            let mut buffer = [0; 8192];
            let n = stream.read(&mut buffer, deadline)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            dialogue.wire().push(&buffer[..n]);
        }
        if writable {
            sent += stream.write(&output[sent..], deadline)?;
        }
    }
    Ok(())
}

/// Something waits where nothing may: the end of the connection, or words that no command asked for (CL-7).
pub(super) fn out_of_turn(
    stream: &mut Stream,
    dialogue: &mut impl Dialogue,
    command: Command,
) -> Break {
    let mut buffer = [0; 512];
    match stream.read(&mut buffer, Deadline::after(LAST_WORDS)) {
        Ok(0) => Break::Eof(command),
        Err(error) => Break::Io(command, error),
        Ok(n) => {
            dialogue.wire().push(&buffer[..n]);
            Break::Said(Broken::out_of_step(command))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::smtp::address::Domain;

    // CL-9: a 250 after nine minutes is a delivery
    #[test]
    fn the_reply_to_the_dot_has_a_limit_of_its_own_and_all_others_end_with_the_total() {
        let config = Config::default_for(Domain::parse("here.test").unwrap());
        let limits = Limits::of(&config.deliver);
        let over = Deadline::after(Duration::ZERO);
        let left = limits.reply(Command::Dot, over).remaining().unwrap();
        assert!(left > Duration::from_secs(9 * 60));
        for command in [
            Command::Greeting,
            Command::Ehlo,
            Command::StartTls,
            Command::Rset,
            Command::Mail,
            Command::Rcpt(0),
            Command::Data,
        ] {
            assert!(limits.reply(command, over).is_over(), "{command}");
        }
    }

    // CL-9
    #[test]
    fn the_total_grows_by_a_second_for_each_16_kib() {
        let config = Config::default_for(Domain::parse("here.test").unwrap());
        let limits = Limits::of(&config.deliver);
        let left = |size| limits.total(size).remaining().unwrap().as_secs();
        let (small, large) = (left(0), left(50 << 20));
        assert!((599..=600).contains(&small), "{small}");
        assert!((3799..=3800).contains(&large), "{large}");
    }
}
