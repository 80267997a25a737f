//! A transaction on its way through a connection: envelope, content, dot, and what goes out behind them.

use std::io;
use std::time::{Duration, Instant};

use super::content::Content;
use super::drive::{LAST_WORDS, drive};
use super::outcome::Break;
use super::session::Limits;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::smtp::client::{Command, Dialogue, Envelope, Step, Transaction};
use crate::smtp::serialise::Serialiser;
use crate::spare::Spare;

/// What is written at once. A message that is not larger goes out with its dot in one write.
const BLOCK: usize = 128 * 1024;

/// What follows a larger one would wait for it.
const FOLLOWED: u64 = 64 * 1024;

/// How long what follows waits for the reply to the dot before it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the one whose transaction is carried is asked and told on the way.
pub struct Asides<'a> {
    /// All but the end of the content is out. When it fails, the dot is not sent (PRC-2, Q-26).
    pub before_dot: &'a dyn Fn() -> Result<(), Break>,
    /// The commands of a transaction that may go out behind the content; asked only where that is possible.
    pub follow: &'a dyn Fn(&Transaction) -> Option<Envelope>,
    /// What follows had better not wait any longer for the reply to this dot: it will not be carried by this session.
    pub unfollow: &'a dyn Fn(),
}

/// A transaction on its way through a connection.
pub(super) struct Course<'a> {
    stream: &'a mut Stream,
    transaction: &'a mut Transaction,
    limits: &'a Limits,
    total: Deadline,
    /// Some of the content is out.
    begun: bool,
    /// How long the reply to the dot was waited for.
    pub waited_for_dot: Duration,
    /// What went out behind the content.
    pub next: Next,
}

/// What went out behind the content.
pub(super) enum Next {
    Nothing,
    /// The commands of the next transaction.
    Out(Envelope),
    /// The same, and nobody will go on with it on this session.
    Forsaken,
}

impl<'a> Course<'a> {
    /// At its beginning. `total` is the limit up to the last octet of the dot (CL-9).
    pub fn new(
        stream: &'a mut Stream,
        transaction: &'a mut Transaction,
        limits: &'a Limits,
        total: Deadline,
    ) -> Course<'a> {
        Course {
            stream,
            transaction,
            limits,
            total,
            begun: false,
            waited_for_dot: Duration::ZERO,
            next: Next::Nothing,
        }
    }

    /// Goes it as far as the peer lets it; what was answered is the transaction's.
    pub fn run(&mut self, content: &Content, asides: &Asides<'_>) -> Result<(), Break> {
        let (limits, total) = (self.limits, self.total);
        let time = |command| limits.reply(command, total);
        let step = drive(self.stream, self.transaction, &time)?;
        if step != Step::Content {
            return Ok(());
        }
        let follows = self.transaction.may_be_followed() && content.size() <= FOLLOWED;
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
        let deadline = self.limits.content(self.total);
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
