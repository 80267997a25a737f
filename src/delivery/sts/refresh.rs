//! Policies are fetched anew before they expire (STS-11, RFC 8461 §10.2): whoever blocks our fetches for a while must not
//! get rid of them.
//!
//! A thread makes one round a day: what was not fetched for 12 h is, the oldest first, spread over 3 h. It sleeps on the
//! queue's clock, and ends when [`Refresher::stop`] drops its sender.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, select};

use super::{DAY, LONGEST_FETCH, Sts, Turn};
use crate::clock::Timestamp;
use crate::log::Line;
use crate::net::deadline::Deadline;
use crate::smtp::address::Domain;
use crate::store::{StoreError, StsChange};

/// From one round to the next.
const ROUND: Duration = DAY;
/// Policies that were fetched since are left alone.
const FRESH: Duration = Duration::from_secs(12 * 3600);
/// The fetches of a round are spread over this time.
const SPREAD: Duration = Duration::from_secs(3 * 3600);
/// What was not used for this time is forgotten.
const UNUSED: Duration = Duration::from_secs(180 * 86_400);
/// Longest sleep, so that a step of the wall clock is noticed (RT-9).
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// How long a stop waits for the fetch in hand, which loses nothing when it is left alone.
const PATIENCE: Duration = Duration::from_secs(2);
/// Domains read in one go.
const PAGE: usize = 100;

/// The thread that refreshes policies.
pub struct Refresher {
    stop: Sender<()>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
    thread: JoinHandle<()>,
}

impl Refresher {
    /// Starts it; its first round begins at once.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(sts: Arc<Sts>) -> std::io::Result<Refresher> {
        let (stop, stopped) = bounded(0);
        let (running, ended) = bounded::<()>(0);
        let thread = std::thread::Builder::new()
            .name("sts-refresh".into())
            .spawn(move || {
                let _running = running;
                run(&sts, &stopped);
            })?;
        Ok(Refresher {
            stop,
            ended,
            thread,
        })
    }

    /// Ends it after the fetch in hand, or without it when that takes long.
    pub fn stop(self) {
        drop(self.stop);
        if self.ended.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
            let _ = self.thread.join();
        }
    }
}

/// Whether the thread goes on.
#[derive(PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

fn run(sts: &Sts, stopped: &Receiver<()>) {
    let mut next = sts.clock.now();
    loop {
        if sleep_until(sts, stopped, next, ROUND) == Go::Stop {
            return;
        }
        next = sts.clock.now().plus(ROUND);
        // PRC-3: a panic costs one round.
        match catch_unwind(AssertUnwindSafe(|| round(sts, stopped))) {
            Ok(Ok(Go::On)) => {}
            Ok(Ok(Go::Stop)) | Ok(Err(StoreError::Closed)) => return,
            Ok(Err(error)) => {
                let text = error.to_string();
                Line::new("sts-refresh").peer("text", &text).warn();
            }
            Err(_) => Line::new("panic").key("thread", "sts-refresh").error(),
        }
    }
}

/// Sleeps until then; after a backward step of the clock no longer than `longest`.
fn sleep_until(sts: &Sts, stopped: &Receiver<()>, mut at: Timestamp, longest: Duration) -> Go {
    loop {
        let now = sts.clock.now();
        at = at.min(now.plus(longest));
        if now >= at {
            return match stopped.try_recv() {
                Err(TryRecvError::Empty) => Go::On,
                _ => Go::Stop,
            };
        }
        let timer = sts.clock.timer(at.min(now.plus(LONGEST_SLEEP)));
        select! {
            recv(stopped) -> _ => return Go::Stop,
            recv(timer) -> _ => {}
        }
    }
}

fn round(sts: &Sts, stopped: &Receiver<()>) -> Result<Go, StoreError> {
    let began = sts.clock.now();
    let unused = StsChange::Unused {
        before: began.minus(UNUSED),
    };
    while sts.store.change_sts(unused.clone())? {}
    let count = u32::try_from(sts.store.sts_count()?).unwrap_or(u32::MAX);
    let pace = SPREAD / count.max(1);
    let before = began.minus(FRESH);
    let mut from = (Timestamp::default(), String::new());
    loop {
        let page = sts
            .store
            .sts_fetched_before((from.0, &from.1), before, PAGE)?;
        let Some(last) = page.last() else {
            return Ok(Go::On);
        };
        from = last.clone();
        for (_, domain) in &page {
            if !sts.live.get().tls.mta_sts {
                return Ok(Go::On);
            }
            if let Ok(domain) = Domain::parse(domain) {
                refresh(sts, &domain);
            }
            let next = sts.clock.now().plus(pace);
            if sleep_until(sts, stopped, next, pace) == Go::Stop {
                return Ok(Go::Stop);
            }
        }
    }
}

/// One policy. What fails leaves it as it is (STS-4), and is tried again in the next round.
fn refresh(sts: &Sts, domain: &Domain) {
    let deadline = Deadline::after(LONGEST_FETCH);
    let Ok(Some(id)) = sts.id(domain, deadline) else {
        return;
    };
    if let Turn::Mine(_fetching) = sts.turn(domain, sts.clock.now(), deadline) {
        let result = match sts.fetch_and_keep(domain, &id, deadline) {
            Some(_) => "refreshed",
            None => "refresh-failed",
        };
        sts.store.metrics().sts_cache(result);
    }
}
