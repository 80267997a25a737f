//! How many messages an address gets in a UTC day (SC-8).
//!
//! A message is counted with its claim, so that no two workers can send the last one at once, and is so no longer when nothing
//! of it was delivered. What may have been sent stays counted. Who has had as many as it may is not claimed: it waits, without
//! an attempt, until the next day begins.

use std::iter::repeat;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::claim::{ClaimRequest, Claimed};
use super::fault::Fault;
use super::rows::row_id;
use super::settle::Found;
use super::writer::Writer;
use crate::clock::Timestamp;

/// A day.
const DAY: Duration = Duration::from_secs(86_400);

/// Days that are kept: also the one before, should the clock go back over midnight.
const KEPT: i64 = 1;

/// How many messages may go in a day to the addresses of a claim.
#[derive(Clone, Debug)]
pub struct Daily {
    /// The most, in the order of the numbers; 0: any number.
    pub most: Vec<u32>,
    /// When the mail expires: it waits no longer than that (RT-4).
    pub expiry: Timestamp,
    /// This is its last attempt in any case: it does not wait.
    pub last: bool,
    /// There is no slot for it: what is over its limit waits from now on, and the rest is left as it is.
    pub park_only: bool,
}

/// The UTC day of a time, from 1970-01-01.
fn day_of(at: Timestamp) -> i64 {
    at.millis().div_euclid(DAY.as_millis() as i64)
}

/// When the UTC day after that of a time begins.
pub(super) fn day_after(at: Timestamp) -> Timestamp {
    let next = day_of(at).saturating_add(1);
    Timestamp::from_millis(next.saturating_mul(DAY.as_millis() as i64))
}

impl Writer<'_> {
    /// Claims what its address may still get today.
    pub(super) fn claim_counted(
        &mut self,
        request: &ClaimRequest,
        next_attempt: Timestamp,
        daily: &Daily,
        claimed: &mut Claimed,
    ) -> Result<(), Fault> {
        let now = self.now();
        let day = day_of(now);
        let mut over = Vec::new();
        let limits = daily.most.iter().copied().chain(repeat(0));
        for (&number, most) in request.numbers.iter().zip(limits) {
            let mut counted = None;
            let row = row_id(request.id, number);
            if daily.park_only {
                if most > 0 && self.has_had(row, day)? >= most {
                    over.push((number, most));
                }
                continue;
            }
            if most > 0 {
                let facts = params![row, request.attempts, most, day];
                if self.sql.count_address.execute(facts)? == 0 {
                    over.push((number, most));
                    continue;
                }
                self.sql.forget_old_addresses.execute([day - KEPT])?;
                counted = Some(day);
            }
            if self.claim_one(request, number, next_attempt, counted)? {
                claimed.numbers.push(number);
            }
        }
        if daily.last && daily.park_only {
            return Ok(());
        }
        if daily.last {
            return self.end_over(request, next_attempt, &over, claimed);
        }
        let until = day_after(now).min(daily.expiry).max(now);
        for (number, most) in over {
            let row = row_id(request.id, number);
            let destination: Option<i64> = self
                .sql
                .park
                .query_row(
                    params![row, request.attempts, until.millis(), most],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(destination) = destination {
                self.touched.insert(destination);
                claimed.parked = Some(until);
            }
        }
        Ok(())
    }

    /// What is over its limit at its last attempt is claimed to end there; alone, as the others are to be sent.
    fn end_over(
        &mut self,
        request: &ClaimRequest,
        next_attempt: Timestamp,
        over: &[(u32, u32)],
        claimed: &mut Claimed,
    ) -> Result<(), Fault> {
        if !claimed.numbers.is_empty() {
            claimed.left = !over.is_empty();
            return Ok(());
        }
        for &(number, most) in over {
            if self.claim_one(request, number, next_attempt, None)? {
                claimed.numbers.push(number);
                claimed.over = Some(most);
            }
        }
        Ok(())
    }

    /// Messages that the address of this row has had in a day.
    fn has_had(&mut self, row: i64, day: i64) -> Result<u32, Fault> {
        let count = self
            .sql
            .find_address
            .query_row([row, day], |found| found.get(0))
            .optional()?;
        Ok(count.unwrap_or(0))
    }

    /// Nothing came of the attempt that runs: it counts for its address no longer.
    pub(super) fn take_back(&mut self, found: &Found) -> Result<(), Fault> {
        if found.counted.is_some() {
            self.sql.uncount_address.execute([found.id])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::message::{Head, NewRecipient, Notify, QueueId};
    use crate::policy::failure::{Attempt, Cause, Stage, TlsLevel, Verdict};
    use crate::smtp::address::ForwardPath;
    use crate::smtp::reply::EnhancedCode;
    use crate::store::testing::TempDir;
    use crate::store::{
        Actor, Change, Checked, ClaimAction, DestinationKey, Filter, InDoubt, NewContent,
        NewMessage, NewRow, Outcome, RecipientRow, Settings, Settlement, Soundness, State, Store,
    };

    /// 08:00 UTC.
    const MORNING: i64 = 1_800_000_000;
    const TODAY: i64 = MORNING / 86_400;

    struct World {
        store: Store,
        clock: Clock,
        settings: Settings,
        _directory: TempDir,
    }

    impl World {
        fn new() -> World {
            let directory = TempDir::new();
            let settings = Settings::at(&directory.join("queue"));
            let clock = Clock::manual(Timestamp::from_secs(MORNING));
            let store = Store::open(&settings, &clock).unwrap().0;
            World {
                store,
                clock,
                settings,
                _directory: directory,
            }
        }

        fn add(&self, to: &[&str]) -> QueueId {
            let id = self.store.allocate_id().unwrap();
            let row = |to: &&str| NewRow {
                recipient: NewRecipient {
                    path: ForwardPath::parse(to, true).unwrap(),
                    orcpt: None,
                    notify: Notify::default(),
                },
                destination: DestinationKey("dest.example".into()),
                due: self.clock.now(),
                hold: None,
                claim: None,
                delay_due: None,
            };
            let new = NewMessage {
                head: Head::new(id, self.clock.now(), "relay").into(),
                content: NewContent::Inline(b"x\r\n".to_vec().into()),
                recipients: to.iter().map(row).collect(),
                exempt_from_limits: false,
            };
            self.store.enqueue(new).unwrap();
            id
        }

        fn claim_with(&self, id: QueueId, numbers: &[u32], daily: Daily) -> Claimed {
            let request = ClaimRequest {
                id,
                numbers: numbers.to_vec(),
                attempts: self.row(id, numbers[0]).attempts,
                action: ClaimAction::Claim {
                    next_attempt: self.clock.now().plus(Duration::from_secs(450)),
                    daily: Some(daily),
                },
            };
            self.store.claim(vec![request]).unwrap().remove(0)
        }

        /// With so many a day for each.
        fn claim(&self, id: QueueId, most: u32) -> Claimed {
            let count = self.store.show(id).unwrap().unwrap().recipients.len() as u32;
            let numbers: Vec<u32> = (1..=count).collect();
            let daily = Daily {
                most: vec![most; numbers.len()],
                expiry: Timestamp::MAX,
                last: false,
                park_only: false,
            };
            self.claim_with(id, &numbers, daily)
        }

        fn settle(&self, id: QueueId, verdict: Verdict, twice: bool) {
            let outcome = Outcome {
                number: 1,
                verdict,
                destination: DestinationKey("dest.example".into()),
                attempt: Attempt {
                    started: self.clock.now(),
                    duration: Duration::ZERO,
                    delays: [Duration::ZERO; 4],
                    transport: "direct".into(),
                    host: String::new(),
                    address: None,
                    dialled: Vec::new(),
                    source: None,
                    tls: TlsLevel::Plain,
                    stage: Stage::Rcpt,
                    code: None,
                    status: EnhancedCode::new(4, 0, 0),
                    text: "words".into(),
                    cause: (verdict != Verdict::Delivered).then_some(Cause::Eof),
                    may_be_sent_twice: twice,
                    worker: "worker-1".into(),
                    reused: false,
                    tls_policy: String::new(),
                },
                delay_due: None,
                unconfirmed: false,
                poison: false,
            };
            let outcomes = vec![outcome];
            self.store.settle(Settlement { id, outcomes }).unwrap();
        }

        fn row(&self, id: QueueId, number: u32) -> RecipientRow {
            let shown = self.store.show(id).unwrap().unwrap();
            shown.recipients[number as usize - 1].clone()
        }

        /// Days as they are from today, addresses and counts.
        fn counts(&self) -> Vec<(i64, String, i64)> {
            let read = |conn: &rusqlite::Connection| {
                let mut all = conn
                    .prepare("SELECT day, address, count FROM address_day")
                    .unwrap();
                let rows = all.query_map([], |row| {
                    Ok((row.get::<_, i64>(0)? - TODAY, row.get(1)?, row.get(2)?))
                });
                Ok(rows.unwrap().map(Result::unwrap).collect())
            };
            self.store.inner.readers.read(read).unwrap()
        }

        fn count(&self) -> i64 {
            self.counts().iter().map(|(_, _, count)| count).sum()
        }

        fn crash(self) -> World {
            drop(self.store);
            let store = Store::open(&self.settings, &self.clock).unwrap().0;
            World { store, ..self }
        }
    }

    fn deferred() -> Verdict {
        Verdict::Deferred {
            next: Timestamp::from_secs(MORNING + 60),
        }
    }

    fn midnight() -> Timestamp {
        Timestamp::from_secs((TODAY + 1) * 86_400)
    }

    // SC-8, RT-7
    #[test]
    fn an_address_gets_so_many_messages_a_day_and_the_others_wait_unclaimed_until_midnight() {
        let world = World::new();
        for to in ["bob@dest.example", "BOB@dest.example"] {
            let id = world.add(&[to]);
            let claimed = world.claim(id, 2);
            assert_eq!((claimed.numbers, claimed.parked), (vec![1], None));
        }
        let id = world.add(&["Bob@dest.example", "joe@dest.example"]);
        let claimed = world.claim(id, 2);
        assert_eq!(claimed.numbers, [2], "another address");
        assert_eq!(claimed.parked, Some(midnight()));
        let row = world.row(id, 1);
        assert_eq!(
            (row.state, row.attempts, row.next_attempt, row.parked),
            (State::Queued, 0, midnight(), Some(2))
        );
        let bob = (0, "bob@dest.example".to_owned(), 2);
        let joe = (0, "joe@dest.example".to_owned(), 1);
        assert_eq!(world.counts(), [bob, joe]);
        let next = world
            .store
            .due_destinations(Timestamp::MAX, None, 9)
            .unwrap();
        assert_eq!(next[0].next_due, midnight());
        // A kick is a question asked again.
        let kick = Change::Kick {
            at: world.clock.now(),
        };
        let filter = Filter {
            ids: vec![(id, Some(1))],
            ..Filter::default()
        };
        let actor = Actor { uid: 0 };
        let changed = world
            .store
            .change(&filter, &kick, &actor, false, &mut |_| {});
        assert_eq!(changed.unwrap().affected, 1);
        assert_eq!(world.row(id, 1).parked, None);
        let daily = || Daily {
            most: vec![2],
            expiry: Timestamp::MAX,
            last: false,
            park_only: false,
        };
        assert_eq!(world.claim_with(id, &[1], daily()).parked, Some(midnight()));
        world.clock.advance(midnight().since(world.clock.now()));
        let claimed = world.claim_with(id, &[1], daily());
        assert_eq!((claimed.numbers, claimed.parked), (vec![1], None));
        assert_eq!(world.row(id, 1).parked, None);
    }

    // SC-8
    #[test]
    fn what_ends_undelivered_in_whatever_way_is_counted_no_longer_and_what_may_be_out_is() {
        let mut world = World::new();
        let mut expected = 0;
        for (verdict, twice, counts) in [
            (Verdict::Delivered, false, true),
            (deferred(), false, false),
            (deferred(), true, true),
            (Verdict::Failed, false, false),
            (Verdict::Expired, false, false),
            (Verdict::Held, false, false),
        ] {
            let id = world.add(&["bob@dest.example"]);
            assert_eq!(world.claim(id, 9).numbers, [1]);
            assert_eq!(world.count(), expected + 1);
            world.settle(id, verdict, twice);
            expected += i64::from(counts);
            assert_eq!(world.count(), expected, "{verdict:?} {twice}");
        }
        let id = world.add(&["bob@dest.example"]);
        world.claim(id, 9);
        let now = world.clock.now();
        world.store.unclaim(id, &[1], now, None).unwrap();
        assert_eq!(world.count(), expected, "given back");
        // Given back once more it is as it was, and an operator's word for a claimed one ends it uncounted too.
        world.claim(id, 9);
        let filter = Filter {
            ids: vec![(id, None)],
            ..Filter::default()
        };
        let drop = Change::Drop { wait: true };
        let actor = Actor { uid: 0 };
        world
            .store
            .change(&filter, &drop, &actor, false, &mut |_| {})
            .unwrap();
        world.settle(id, deferred(), false);
        assert_eq!(world.row(id, 1).state, State::Dropped);
        assert_eq!(world.count(), expected);
        // A crash: one had not come to its dot, the other may have.
        let before = world.add(&["bob@dest.example"]);
        let after = world.add(&["bob@dest.example"]);
        for id in [before, after] {
            world.claim(id, 9);
        }
        std::mem::forget(world.store.dot(after, 1).unwrap());
        assert_eq!(world.count(), expected + 2);
        world.settings.in_doubt = InDoubt::Retry;
        let world = world.crash();
        assert_eq!(world.count(), expected + 1);
        assert!(world.row(before, 1).doubt.is_none() && world.row(after, 1).doubt.is_some());
        // It is counted once for each time that it is tried.
        assert_eq!(world.claim(after, 9).numbers, [1]);
        assert_eq!(world.count(), expected + 2);
        let mut broken = Vec::new();
        let mut note = |checked: Checked| match checked.soundness {
            Soundness::Sound => {}
            _ => broken.push(checked.name),
        };
        world.store.check(false, &mut note).unwrap();
        assert!(broken.is_empty(), "{broken:?}");
    }

    // SC-8, PRC-8
    #[test]
    fn what_was_counted_is_given_back_to_its_own_day_and_days_that_are_over_go() {
        let world = World::new();
        let id = world.add(&["bob@dest.example"]);
        world.claim(id, 1);
        for n in 0..6 {
            let other = world.add(&[&format!("u{n}@dest.example")]);
            world.claim(other, 1);
        }
        world.clock.advance(DAY);
        let second = world.add(&["bob@dest.example"]);
        assert_eq!(world.claim(second, 1).numbers, [1], "another day");
        assert_eq!(world.counts().len(), 8, "yesterday is kept");
        world.settle(id, deferred(), false);
        let bob: Vec<_> = world
            .counts()
            .into_iter()
            .filter(|c| c.1.starts_with("bob"))
            .collect();
        assert_eq!(
            bob.iter().map(|c| (c.0, c.2)).collect::<Vec<_>>(),
            [(0, 0), (1, 1)]
        );
        world.clock.advance(DAY);
        for n in 0..2 {
            let other = world.add(&[&format!("v{n}@dest.example")]);
            world.claim(other, 1);
        }
        assert!(world.counts().iter().all(|(day, ..)| *day > 0));
    }

    // SC-8
    #[test]
    fn what_has_no_slot_is_parked_if_it_is_over_its_limit_and_else_left_alone() {
        let world = World::new();
        let first = world.add(&["bob@dest.example"]);
        world.claim(first, 1);
        let id = world.add(&["bob@dest.example", "joe@dest.example"]);
        let expiry = Timestamp::MAX;
        for (last, parked) in [(true, None), (false, Some(midnight()))] {
            let daily = Daily {
                most: vec![1; 2],
                expiry,
                last,
                park_only: true,
            };
            let claimed = world.claim_with(id, &[1, 2], daily);
            assert_eq!((claimed.numbers.len(), claimed.parked), (0, parked));
        }
        let states = [1, 2].map(|number| world.row(id, number).parked);
        assert_eq!((states, world.count()), ([Some(1), None], 1));
    }

    // SC-8, RT-3, RT-4, RT-12
    #[test]
    fn mail_waits_no_longer_than_its_expiry_and_then_is_claimed_to_end() {
        let world = World::new();
        let first = world.add(&["bob@dest.example"]);
        world.claim(first, 1);
        let id = world.add(&["bob@dest.example", "joe@dest.example"]);
        let expiry = world.clock.now().plus(Duration::from_secs(3600));
        let daily = |last| Daily {
            most: vec![1; 2],
            expiry,
            last,
            park_only: false,
        };
        // With both at their end the one that may still go goes alone.
        let claimed = world.claim_with(id, &[1, 2], daily(true));
        assert_eq!(
            (claimed.numbers, claimed.left, claimed.over),
            (vec![2], true, None)
        );
        assert_eq!(world.row(id, 1).next_attempt, world.clock.now());
        let claimed = world.claim_with(id, &[1], daily(false));
        assert_eq!((claimed.numbers.len(), claimed.parked), (0, Some(expiry)));
        world.clock.advance(Duration::from_secs(3600));
        let claimed = world.claim_with(id, &[1], daily(true));
        assert_eq!(
            (claimed.numbers, claimed.left, claimed.over),
            (vec![1], false, Some(1))
        );
        assert_eq!(world.count(), 2, "it is not counted");
    }

    // RT-9
    #[test]
    fn what_waits_for_a_midnight_that_was_none_is_looked_at_after_the_longest_interval() {
        let world = World::new();
        let (first, id) = (
            world.add(&["bob@dest.example"]),
            world.add(&["bob@dest.example"]),
        );
        world.clock.advance(3 * DAY);
        world.claim(first, 1);
        assert!(world.claim(id, 1).parked.is_some());
        world.settle(first, Verdict::Delivered, false);
        world.clock.set(Timestamp::from_secs(MORNING + 60));
        let horizon = world.clock.now().plus(Duration::from_secs(3600));
        assert_eq!(world.store.pull_in(horizon).unwrap(), 1);
        assert_eq!(world.row(id, 1).next_attempt, horizon);
        // What waits for the next one stays.
        let third = world.add(&["bob@dest.example"]);
        let again = world.add(&["bob@dest.example"]);
        world.claim(third, 1);
        assert_eq!(world.claim(again, 1).parked, Some(midnight()));
        assert_eq!(world.store.pull_in(horizon).unwrap(), 0);
    }
}
