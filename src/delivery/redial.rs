//! A relay that hangs up early is dialled again in the same attempt (RO-10): smarthosts in front of a farm do so when one
//! of its members goes down, and the next one is there at once.

use std::time::Duration;

use crossbeam_channel::select;

use super::attempt::Attempt;
use crate::policy::failure::{Cause, Failure, Stage};

/// The longest wait before a redial.
const LONGEST: Duration = Duration::from_secs(8);

impl Attempt<'_> {
    /// The hosts are used up and recipients are left: whether to go over them once more. Waits for it.
    pub(super) fn redials(&mut self) -> bool {
        let Some(relay) = &self.relay else {
            return false;
        };
        let most = relay.redial;
        let hung_up = |row: &usize| {
            // Nothing was said before the first round.
            let before = self.said_before.get(*row).copied().unwrap_or(0);
            let said = &self.failures[*row][before..];
            !said.is_empty() && said.iter().all(|(failure, _)| is_hang_up(failure))
        };
        if self.pending.is_empty() || self.redialled >= most || !self.pending.iter().all(hung_up) {
            return false;
        }
        let wait = wait(self.redialled, rand::random());
        self.redialled += 1;
        self.said_before = self.failures.iter().map(Vec::len).collect();
        wait.is_zero() || self.pause(wait)
    }

    /// `false`: the attempt's time is over, or we are stopping.
    fn pause(&self, span: Duration) -> bool {
        let Ok(left) = self.end.remaining() else {
            return false;
        };
        self.running.alive();
        let clock = &self.parts.clock;
        let timer = clock.timer(clock.now().plus(span));
        select! {
            recv(timer) -> _ => !self.running.is_cut(),
            recv(self.parts.over) -> _ => false,
            default(left) => false,
        }
    }
}

/// It went away, or said that it would, and did not say why the mail is unwelcome.
fn is_hang_up(failure: &Failure) -> bool {
    if let Some(code) = failure.code {
        // RFC 5321 §3.8: it closes whenever it says so.
        return code.get() == 421;
    }
    let gone = matches!(failure.cause, Cause::Eof | Cause::Reset | Cause::Epipe);
    let after_ehlo = matches!(
        failure.stage,
        Stage::StartTls
            | Stage::Auth
            | Stage::Mail
            | Stage::Rcpt
            | Stage::Data
            | Stage::Content
            | Stage::Rset
    );
    gone && after_ehlo && !failure.may_be_sent_twice
}

/// At once, then 1, 2, 4, 8 seconds, each ± 20 %. `random` is 0..=1.
fn wait(redialled: u32, random: f64) -> Duration {
    let Some(doublings) = redialled.checked_sub(1) else {
        return Duration::ZERO;
    };
    let whole = Duration::from_secs(1)
        .saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX))
        .min(LONGEST);
    whole.mul_f64(0.8 + 0.4 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    // RO-10
    #[test]
    fn redials_come_at_once_and_then_after_1_2_4_8_seconds() {
        let seconds = |redialled, random| wait(redialled, random).as_secs_f64();
        let waits: Vec<f64> = (0..7).map(|n| seconds(n, 0.5)).collect();
        assert_eq!(waits, [0.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
        assert!((seconds(2, 0.0) - 1.6).abs() < 1e-9);
        assert!((seconds(2, 1.0) - 2.4).abs() < 1e-9);
        assert_eq!(wait(u32::MAX, 0.5), LONGEST);
    }
}
