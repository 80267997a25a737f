//! The worker threads: take transactions, carry them out, survive what goes wrong in one (Q-22, PRC-2, PRC-3, SC-11).

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::attempt::{self, Left};
use super::crew::{self, Crew};
use super::following::{Following, Given, Handed};
use super::known::KnownHosts;
use super::nowhere;
use super::outcome::{Break, local};
use super::running::{Begun, Hung, Running};
use super::session::Limits;
use super::settle::{Happened, Scene, give_back, settle};
use super::{Parts, Pools, Registry, Tools};
use crate::config::Config;
use crate::dispatch::Transaction;
use crate::feed::Taker;
use crate::log::Line;
use crate::net::deadline::Deadline;
use crate::policy::failure::Failure;
use crate::smtp::reply::EnhancedCode;

/// What a worker may take beyond the longest of its limits before it counts as hanging.
const SLACK: Duration = Duration::from_secs(300);

/// The worker threads. They end when the dispatcher's channel closes and the transactions under way are over.
pub struct Workers {
    parts: Arc<Parts>,
    crew: Arc<Crew<Transaction>>,
    /// Dropped at the end; see [`Parts::over`].
    over: Mutex<Option<Sender<()>>>,
}

impl Workers {
    /// Starts workers, which become `most` when there is so much to do, and fewer again.
    ///
    /// # Errors
    /// Not even one thread could be started (PRC-4); with fewer than are needed, mail goes out more slowly.
    pub fn start(most: usize, tools: Tools, receiver: Taker<Transaction>) -> io::Result<Workers> {
        let (over_sender, over) = bounded(0);
        let parts = Arc::new(Parts {
            tools,
            pools: Pools::new(),
            ailing: Arc::new(KnownHosts::for_a_minute()),
            step_by_step: Arc::new(KnownHosts::for_an_hour()),
            registry: Registry::default(),
            over: over.clone(),
        });
        let own = Arc::clone(&parts);
        let crew = Crew::start("worker", most, receiver, move |worker, transaction| {
            carry_out(&own, transaction, worker, attempt::attempt);
        })?;
        let workers = Workers {
            parts,
            crew: Arc::new(crew),
            over: Mutex::new(Some(over_sender)),
        };
        let (parts, crew) = (workers.parts.clone(), Arc::clone(&workers.crew));
        // It ends with `over`, so with `close` or the last of us.
        thread::Builder::new()
            .name("worker-watch".to_string())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(crew::PACE) {
                    let limit = longest(&parts.live.get()).saturating_add(SLACK);
                    give_up(&parts, &crew, limit);
                    crew.look();
                }
            })?;
        Ok(workers)
    }

    /// There may be one more than before.
    pub fn allow_one_more(&self) {
        self.crew.allow_one_more();
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Transactions under way.
    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    /// Sessions.
    pub fn pools(&self) -> &Pools {
        &self.parts.pools
    }

    /// Waits until all workers have ended and what they delivered is recorded, after the dispatcher has stopped. `false`: some
    /// of it is still under way at `deadline`.
    pub fn wait(&self, deadline: Deadline) -> bool {
        self.crew.join(deadline) && self.parts.registry.wait(deadline)
    }

    /// The grace is over: what has not sent its dot is settled as temporary and can send it no more; what waits for the
    /// reply to its dot stays claimed (PRC-2). The store must still be open.
    pub fn cut(&self) {
        for (running, rows) in self.parts.registry.cut() {
            let failure = Break::Cut.failure(false, false);
            let (stage, host, address) = running.place();
            let scene = Arc::new(Scene {
                host,
                address,
                ..Scene::default()
            });
            let happened = rows.into_iter().map(|row| Happened {
                row,
                result: Err(Failure {
                    stage,
                    ..failure.clone()
                }),
                scene: Arc::clone(&scene),
                poison: false,
            });
            settle(&self.parts, &running, happened.collect());
        }
    }

    /// Closes idle sessions with QUIT, and lets go of whoever waits for the store.
    pub fn close(&self) {
        self.over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.parts.pools.close();
    }
}

/// The longest that the limits of any transport permit.
fn longest(config: &Config) -> Duration {
    let own = config.transport.iter().filter_map(|transport| {
        let line = transport.line.as_ref()?;
        line.deliver.as_ref()
    });
    let limits = own.chain([&config.deliver]).map(|deliver| {
        deliver
            .attempt_timeout
            .get()
            .saturating_add(deliver.total_timeout.get())
            .saturating_add(deliver.dot_timeout.get())
    });
    limits.max().unwrap_or_default()
}

/// Gives up transactions whose worker has not got on for `limit`: their recipients are settled, their slots are freed, and
/// another worker takes the place of the one that hangs. How many there were.
fn give_up(parts: &Parts, crew: &Crew<Transaction>, limit: Duration) -> usize {
    let hung = parts.registry.hung(limit);
    let count = hung.len();
    for Hung {
        running,
        rows,
        dot_sent,
    } in hung
    {
        let (stage, ..) = running.place();
        Line::new("hang")
            .key("qid", running.head.id)
            .key("stage", stage)
            .key("worker", &running.worker)
            .error();
        let text = "internal error: the worker hangs";
        poison(parts, &running, rows, dot_sent, text);
        drop(running.permit());
        crew.allow_one_more();
    }
    count
}

/// Carries out a transaction, and those that follow it on its session.
fn carry_out(
    parts: &Arc<Parts>,
    transaction: Transaction,
    worker: &str,
    attempt: impl Fn(&Parts, &Running, Given<'_>) -> Left,
) {
    let mut next = (Some(transaction), None);
    while let (Some(transaction), handed) = next {
        let following = Following::default();
        let handed = carry_one(parts, transaction, handed, &following, worker, &attempt);
        next = (following.take(), handed);
    }
}

/// Carries out one transaction. Whatever happens in it, its recipients are settled or given back, its permit returns,
/// and the worker goes on. The session on which the commands of the one that follows are out, if that came to pass.
fn carry_one(
    parts: &Arc<Parts>,
    transaction: Transaction,
    handed: Option<Handed>,
    following: &Following,
    worker: &str,
    attempt: &impl Fn(&Parts, &Running, Given<'_>) -> Left,
) -> Option<Handed> {
    let Transaction {
        head,
        recipients,
        destination: _,
        transport,
        content,
        over,
        claimed_at,
        permit,
    } = transaction;
    if recipients.is_empty() {
        return None;
    }
    let (entry, cut) = parts.registry.enter(Begun {
        head,
        rows: recipients,
        transport,
        claimed_at,
        worker: worker.to_string(),
        permit,
    });
    let running = &entry.running;
    if cut {
        let now = parts.clock.now();
        give_back(parts, running, &running.take_rest(), now);
        return None;
    }
    let given = Given {
        content,
        handed,
        following,
    };
    let result = catch_unwind(AssertUnwindSafe(|| match over {
        Some(most) => {
            running.untried();
            let failure = nowhere::over_limit(most);
            let rows: Vec<usize> = (0..running.rows.len()).collect();
            attempt::settle_all(parts, running, &rows, failure, &Arc::default());
            Left::default()
        }
        None => attempt(parts, running, given),
    }));
    let left = match result {
        Ok(left) => left,
        Err(panic) => {
            panicked(parts, running, panic.as_ref());
            Left::default()
        }
    };
    if let Some(parting) = left.parting {
        parting.leave(parts, entry, left.feedback);
        return None;
    }
    // None: it was given up, and its slot is somebody else's.
    if let Some(permit) = running.permit() {
        permit.finish(left.feedback);
    }
    drop(entry);
    // CL-23: QUIT holds no slot, and nothing it brings alters the outcome.
    if !left.quitting.is_empty() {
        let limits = Limits::of(&parts.live.get().deliver);
        for session in left.quitting {
            match following.is_some() {
                // Somebody waits.
                true => session.drop_politely(),
                false => session.quit(&limits),
            }
        }
    }
    left.handed
}

/// logged with the id, settled as temporary 4.3.0, counted towards poison.
fn panicked(parts: &Parts, running: &Running, panic: &(dyn Any + Send)) {
    let words = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no words");
    let (stage, ..) = running.place();
    Line::new("panic")
        .key("qid", running.head.id)
        .key("stage", stage)
        .key("worker", &running.worker)
        .peer("text", words)
        .error();
    let rows = running.take_rest();
    poison(
        parts,
        running,
        rows,
        running.awaits_dot(),
        &format!("internal error: {words}"),
    );
}

/// Settles rows of a unit of work that panicked or hangs: temporary 4.3.0, counted towards poison.
fn poison(parts: &Parts, running: &Running, rows: Vec<usize>, dot_sent: bool, text: &str) {
    let (stage, host, address) = running.place();
    let mut failure = local(stage, EnhancedCode::new(4, 3, 0), text.to_string());
    failure.may_be_sent_twice = dot_sent;
    let scene = Arc::new(Scene {
        host,
        address,
        ..Scene::default()
    });
    let happened = rows.into_iter().map(|row| Happened {
        row,
        result: Err(failure.clone()),
        scene: Arc::clone(&scene),
        poison: true,
    });
    settle(parts, running, happened.collect());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::fixture::Fixture;
    use super::*;
    use crate::policy::failure::Cause;
    use crate::store::{Doubt, State};

    fn run(fixture: &Fixture, attempt: impl Fn(&Parts, &Running, Given<'_>) -> Left) {
        let transaction = fixture.claim();
        carry_out(&fixture.parts, transaction, "worker-7", attempt);
    }

    // Q-22, SC-11, PRC-3
    #[test]
    fn a_panic_is_settled_as_our_own_fault_and_the_third_one_holds_the_message() {
        let fixture = Fixture::new();
        for times in 1..=3 {
            run(&fixture, |_, running, _| {
                running.at_host("mx.dest.test", None);
                panic!("out of cheese");
            });
            let shown = fixture.shown();
            let row = &shown.recipients[0];
            let attempt = shown
                .attempts
                .last()
                .and_then(|a| a.result.clone())
                .unwrap();
            assert_eq!(attempt.status.to_string(), "4.3.0");
            assert_eq!(attempt.cause, Some(Cause::Local));
            assert_eq!(attempt.host, "mx.dest.test");
            assert_eq!(attempt.text, "internal error: out of cheese");
            assert_eq!((row.attempts, row.doubt), (times, None));
            let state = if times < 3 {
                State::Queued
            } else {
                State::Held
            };
            assert_eq!(row.state, state);
            assert_eq!(fixture.parts.registry.count(), 0);
            fixture.clock.advance(Duration::from_secs(86_400));
        }
    }

    //
    #[test]
    fn a_panic_after_the_dot_may_mean_a_second_copy() {
        let fixture = Fixture::new();
        run(&fixture, |_, running, _| {
            assert!(running.may_send_dot());
            panic!("out of cheese");
        });
        let row = &fixture.shown().recipients[0];
        assert_eq!(
            (row.state, row.doubt),
            (State::Queued, Some(Doubt::MayBeSentTwice))
        );
    }

    // Q-22, SC-11
    #[test]
    fn a_worker_that_hangs_is_replaced_and_can_neither_send_its_dot_nor_settle() {
        let fixture = Fixture::new();
        let (giver, taker) = crate::feed::feed(1);
        let workers = Workers::start(1, fixture.parts.tools.clone(), taker).unwrap();
        let parts = workers.parts.clone();
        let transaction = fixture.claim();
        let (hanging, hangs) = bounded(0);
        let (release, released) = bounded::<()>(0);
        let worker = thread::spawn(move || {
            carry_out(&parts, transaction, "worker-7", |parts, running, _| {
                running.at(crate::policy::failure::Stage::Data);
                hanging.send(()).unwrap();
                let _ = released.recv();
                assert!(!running.may_send_dot());
                let late = local(
                    crate::policy::failure::Stage::Data,
                    EnhancedCode::new(4, 4, 2),
                    "late".to_string(),
                );
                attempt::settle_all(parts, running, &[0], late, &Arc::default());
                Left::default()
            });
        });
        hangs.recv().unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(give_up(workers.parts(), &workers.crew, hour), 0);
        assert_eq!(give_up(workers.parts(), &workers.crew, Duration::ZERO), 1);
        assert_eq!(workers.registry().count(), 0);
        assert_eq!(workers.crew.count(), (1, 2));
        drop(release);
        worker.join().unwrap();
        let shown = fixture.shown();
        assert_eq!(shown.attempts.len(), 1);
        let attempt = shown.attempts[0].result.as_ref().unwrap();
        assert_eq!(attempt.text, "internal error: the worker hangs");
        assert_eq!(attempt.stage, crate::policy::failure::Stage::Data);
        assert_eq!(shown.recipients[0].state, State::Queued);
        drop(giver);
        assert!(workers.wait(Deadline::after(Duration::from_secs(20))));
    }

    // what was settled before the panic stands
    #[test]
    fn a_panic_alters_nothing_that_was_settled_before_it() {
        let fixture = Fixture::new();
        run(&fixture, |parts, running, _| {
            let failure = local(
                crate::policy::failure::Stage::Rcpt,
                EnhancedCode::new(4, 2, 1),
                "settled".to_string(),
            );
            running.dialled(&["192.0.2.1".parse().unwrap()]);
            attempt::settle_all(parts, running, &[0], failure, &Arc::default());
            panic!("out of cheese");
        });
        let shown = fixture.shown();
        assert_eq!(shown.attempts.len(), 1);
        assert_eq!(shown.attempts[0].result.as_ref().unwrap().text, "settled");
    }
}
