//! A rate as a bucket of tokens, one for each message (SC-8).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Rate;

/// A token bucket: full at first, and as many tokens as its rate says come back in that time.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Of how many messages in what time.
    pub(super) rate: Rate,
    /// What was in it at `at`. A token is as much as the rate's time has milliseconds, and in each of them as much comes
    /// back as the rate's count: so nothing is ever rounded.
    credit: u128,
    at: Timestamp,
    /// The most that was in it while something was under way.
    peak: u128,
}

impl Bucket {
    /// As if nothing had ever been taken.
    pub(super) fn full(rate: Rate, now: Timestamp) -> Bucket {
        Bucket {
            rate,
            credit: capacity(rate),
            at: now,
            peak: capacity(rate),
        }
    }

    /// With the tokens that are in this one, as far as there is room for them.
    pub(super) fn at_rate(&self, rate: Rate, now: Timestamp) -> Bucket {
        let tokens = self.credit_at(now) / token(self.rate);
        let credit = tokens.saturating_mul(token(rate)).min(capacity(rate));
        Bucket {
            rate,
            credit,
            at: now,
            peak: credit,
        }
    }

    fn credit_at(&self, now: Timestamp) -> u128 {
        let back = now.since(self.at).as_millis();
        let back = back.saturating_mul(u128::from(self.rate.count));
        self.credit.saturating_add(back).min(capacity(self.rate))
    }

    /// How many tokens are in it.
    pub(super) fn room(&self, now: Timestamp) -> usize {
        let tokens = self.credit_at(now) / token(self.rate);
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }

    /// Whether it is as if nothing had ever been taken.
    pub(super) fn is_full(&self, now: Timestamp) -> bool {
        self.credit_at(now) >= capacity(self.rate)
    }

    /// When there will be so many, or as many as there can be.
    pub(super) fn until(&self, count: usize, now: Timestamp) -> Timestamp {
        let wanted = (count as u128).saturating_mul(token(self.rate));
        let lacks = wanted
            .min(capacity(self.rate))
            .saturating_sub(self.credit_at(now));
        let millis = lacks.div_ceil(u128::from(self.rate.count.max(1)));
        now.plus(Duration::from_millis(
            u64::try_from(millis).unwrap_or(u64::MAX),
        ))
    }

    /// Takes so many; `alone`: nothing else is under way.
    pub(super) fn take(&mut self, count: usize, alone: bool, now: Timestamp) {
        let credit = self.credit_at(now);
        let left = credit.saturating_sub((count as u128).saturating_mul(token(self.rate)));
        self.peak = if alone { left } else { self.peak.max(credit) };
        (self.credit, self.at) = (left, now);
    }

    /// The clock has gone back: what it has earned so far it keeps (RT-9).
    pub(super) fn clock_went_back(&mut self, now: Timestamp) {
        self.at = self.at.min(now);
    }

    /// What was taken a moment ago was not needed.
    pub(super) fn give_back(&mut self, count: usize, now: Timestamp) {
        let back = (count as u128).saturating_mul(token(self.rate));
        let credit = self.credit_at(now).saturating_add(back);
        (self.credit, self.at) = (credit.min(capacity(self.rate)), now);
        self.peak = self.peak.max(self.credit);
    }

    /// What was under way came to nothing: back comes as much as there would be now if it had not been taken.
    pub(super) fn refund(&mut self, now: Timestamp) {
        let credit = self.credit_at(now);
        self.peak = self.peak.max(credit);
        let back = token(self.rate).min(capacity(self.rate).saturating_sub(self.peak));
        self.peak += back;
        (self.credit, self.at) = (credit + back, now);
    }
}

fn token(rate: Rate) -> u128 {
    rate.per.get().as_millis().max(1)
}

fn capacity(rate: Rate) -> u128 {
    token(rate).saturating_mul(u128::from(rate.count))
}
