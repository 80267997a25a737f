//! One SMTP session over one connection: what it is good for, and its transactions one after the other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::content::Content;
use super::course::{Asides, Course, Next};
use super::drive::{LAST_WORDS, drive};
use super::outcome::Break;
use crate::config::Deliver;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;
use crate::policy::failure::TlsLevel;
use crate::policy::tls::Reached;
use crate::smtp::address::Domain;
use crate::smtp::client::{Answers, Command, Dialogue, Envelope, Mail, Rcpt, Ready};
use crate::smtp::ehlo::Capabilities;
use crate::smtp::sasl::Mechanism;

/// A time limit for content of each further 16 KiB (CL-9).
const SIZE_PER_SECOND: u64 = 16 * 1024;

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

    /// When the next piece of content must be out.
    pub(super) fn content(&self, total: Deadline) -> Deadline {
        Deadline::after(self.block).min(total)
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
        let mut course = Course::new(&mut self.stream, &mut transaction, limits, total);
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
