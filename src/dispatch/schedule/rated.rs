//! What rates and intervals let through (SC-8).

use super::Schedule;
use crate::clock::Timestamp;
use crate::dispatch::rates::{Spent, Wait};
use crate::dispatch::turns::Pick;
use crate::policy::limit::Limits;
use crate::store::DestinationKey;

impl Schedule {
    /// Where the messages of `key` are counted, and what bounds them; `None`: no destination has such limits.
    pub(super) fn counted(&self, key: &DestinationKey) -> Option<(DestinationKey, Limits)> {
        let windows = self.turns.windows();
        let counted = || (windows.home(key).clone(), windows.limits(key));
        self.rates.is_used().then(counted)
    }

    /// Whether a rate keeps due mail of `key` from the line (SC-8).
    pub(super) fn must_wait(&mut self, key: &DestinationKey, now: Timestamp) -> bool {
        let Some((home, limits)) = self.counted(key) else {
            return false;
        };
        match self.rates.wait(&home, key, &limits, now) {
            Wait::No => false,
            Wait::Here => true,
            Wait::Until(at) => {
                self.scan.again(at);
                true
            }
        }
    }

    /// If a rate lets no message of `key` go now, when to look again.
    pub(super) fn held_until(&mut self, key: &DestinationKey, now: Timestamp) -> Option<Timestamp> {
        let (home, limits) = self.counted(key)?;
        self.rates.held_until(&home, &limits, now)
    }

    /// Whether a rate lets one more message of `key` go at once.
    pub(super) fn lets_through(&mut self, key: &DestinationKey, now: Timestamp) -> bool {
        let counted = self.counted(key);
        counted.is_none_or(|(home, limits)| self.rates.lets_through(&home, &limits, now))
    }

    /// One more message of `key` goes, which `paid` is counted at so far. `None`: not now; else where it is counted from
    /// now on.
    pub fn count(
        &mut self,
        key: &DestinationKey,
        paid: Option<&DestinationKey>,
        now: Timestamp,
    ) -> Option<Option<DestinationKey>> {
        let Some((home, limits)) = self.counted(key).filter(|(home, _)| paid != Some(home)) else {
            return Some(paid.cloned());
        };
        self.saw(now);
        if let Some(paid) = paid
            && self.rates.leave(paid, key)
        {
            self.due(key, now, now); // it waits with the others from here on
        }
        let taken = self.rates.take(&home, &limits, 1, now);
        if taken == Some(0) {
            return None;
        }
        if let Some(paid) = paid {
            self.rates.give_back(paid, 1, now);
        }
        Some(taken.map(|_| home))
    }

    /// A transaction that is counted at `home` has come to its end; with `None` no worker has had it.
    pub fn spent(&mut self, home: &DestinationKey, spent: Option<Spent>, now: Timestamp) {
        match spent {
            Some(spent) => self.rates.release(home, spent, now),
            None => self.rates.give_back(home, 1, now),
        }
    }

    /// Whether a worker may make a new connection for mail of `key`; with `further` it makes one in any case, having made
    /// others in the same attempt.
    pub fn dial(&mut self, key: &DestinationKey, further: bool, now: Timestamp) -> bool {
        let Some((home, limits)) = self.counted(key) else {
            return true;
        };
        self.saw(now);
        if further {
            self.rates.dial_on(&home, &limits, now);
            return true;
        }
        self.rates.dial(&home, &limits, now)
    }

    /// Leaves a pick as many slots as its rate allows. `false`: none, and it waits.
    pub(super) fn rated(&mut self, pick: &mut Pick, now: Timestamp) -> bool {
        let Some((home, limits)) = self.counted(&pick.key) else {
            return true;
        };
        match self.rates.take(&home, &limits, pick.slots, now) {
            None => true,
            Some(0) => false,
            Some(count) => {
                self.turns.narrow(pick, count);
                pick.home = Some(home);
                true
            }
        }
    }
}
