//! The lines of the mail trail that tell what became of recipients (OBS-1).

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::running::Running;
use super::settle::Happened;
use crate::clock::Timestamp;
use crate::log::Line;
use crate::message::RecipientId;
use crate::policy::failure::{Attempt, Scope, Verdict};
use crate::smtp::reply::EnhancedCode;
use crate::store::{Doubt, Settled, State};

/// the log names them before the commit that makes them due again, as a start does with what is in doubt: a daemon
/// that is killed between commit and line would never have said it.
pub(super) fn tell_doubt(recipients: &[RecipientId]) {
    for recipient in recipients {
        Line::new("doubt")
            .key("qid", recipient.message)
            .num("rcpt", recipient.number)
            .key("doubt", Doubt::MayBeSentTwice)
            .warn();
    }
    if !recipients.is_empty() {
        log::logger().flush();
    }
}

/// The end of a message is one line, whatever ended its last recipient (OBS-1).
pub(super) fn tell_done(running: &Running, settled: &Settled, now: Timestamp) {
    if settled.finished {
        Line::new("done")
            .key("qid", running.head.id)
            .span("delay", now.since(running.head.arrived))
            .info();
    }
}

/// The line of one recipient and attempt (OBS-1), up to what becomes of it, and what stands behind that.
pub(super) struct Trail {
    pub(super) number: u32,
    verdict: Verdict,
    line: Line,
    status: EnhancedCode,
    doubt: Option<Doubt>,
    text: String,
    /// It reached nobody (RO-13).
    discarded: bool,
    pub(super) level: log::Level,
}

impl Trail {
    pub(super) fn new(
        running: &Running,
        one: &Happened,
        attempt: &Attempt,
        verdict: Verdict,
        now: Timestamp,
    ) -> Trail {
        let row = &running.rows[one.row];
        let line = Line::new("deliver")
            .key("qid", running.head.id)
            .num("rcpt", row.id.number)
            .path("to", &row.recipient.path)
            .path("from", &running.head.reverse_path)
            .key("relay", Relay(attempt))
            .key("transport", &attempt.transport)
            .num("attempt", row.attempts.saturating_add(1))
            .span("delay", now.since(running.head.arrived))
            .key("delays", Delays(&attempt.delays))
            .key("tls", attempt.tls)
            .opt(
                "tls-policy",
                (!attempt.tls_policy.is_empty()).then_some(&attempt.tls_policy),
            )
            .key("stage", attempt.stage)
            .opt("code", attempt.code);
        Trail {
            number: row.id.number,
            verdict,
            line,
            status: attempt.status,
            doubt: attempt.may_be_sent_twice.then_some(Doubt::MayBeSentTwice),
            text: attempt.text.clone(),
            discarded: matches!(&one.result, Ok(accepted) if accepted.code.is_none()),
            level: level(one),
        }
    }

    /// `overruled`: the state that it has, if that is not what the verdict says.
    pub(super) fn write(self, overruled: Option<State>) {
        let level = self.level;
        self.complete(overruled).write(level);
    }

    pub(super) fn complete(self, overruled: Option<State>) -> Line {
        let (result, next) = match (overruled, self.verdict) {
            (Some(state), _) => (state.word(), None),
            (None, Verdict::Delivered) if self.discarded => ("discarded", None),
            (None, Verdict::Delivered) => ("delivered", None),
            (None, Verdict::Deferred { next }) => ("deferred", Some(next)),
            (None, Verdict::Failed) => ("failed", None),
            (None, Verdict::Expired) => ("expired", None),
            (None, Verdict::Held) => ("held", None),
        };
        // RT-3: an expiry has a status of its own; the last reply stays in the text.
        let status = match (overruled, self.verdict) {
            (None, Verdict::Expired) => EnhancedCode::new(4, 4, 7),
            _ => self.status,
        };
        self.line
            .key("status", status)
            .key("result", result)
            .opt("next", next)
            .opt("doubt", self.doubt)
            .peer("text", &self.text)
    }
}

/// The host and its address, as the log shows them.
struct Relay<'a>(&'a Attempt);

impl fmt::Display for Relay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attempt { host, address, .. } = self.0;
        match address {
            _ if host.is_empty() => f.write_str("none"),
            None => f.write_str(host),
            Some(address) => write!(f, "{host}[{}]:{}", address.ip(), address.port()),
        }
    }
}

/// Seconds, with milliseconds where there are any, with slashes between.
struct Delays<'a>(&'a [Duration]);

impl fmt::Display for Delays<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, span) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_char('/')?;
            }
            let millis = span.as_millis();
            match millis % 1000 {
                0 => write!(f, "{}", millis / 1000)?,
                rest => write!(f, "{}.{rest:03}", millis / 1000)?,
            }
        }
        Ok(())
    }
}

/// A fault of our own is for the operator (DV-19, OBS-3). A broken transport has one line for all its mail (RO-8).
pub(super) fn level(one: &Happened) -> log::Level {
    match &one.result {
        Err(failure) if failure.scope == Scope::Local => log::Level::Error,
        _ => log::Level::Info,
    }
}
