//! The worker threads: take transactions, carry them out, survive what goes wrong in one (Q-22, PRC-2, PRC-3, SC-11).

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::attempt::{self, Left};
use super::outcome::{Break, local};
use super::running::{Begun, Hung, Running};
use super::session::Limits;
use super::settle::{Happened, Scene, give_back, settle};
use super::{Parts, Pools, Registry, Tools};
use crate::dispatch::Transaction;
use crate::log::Line;
use crate::net::deadline::Deadline;
use crate::policy::failure::Failure;
use crate::smtp::reply::EnhancedCode;

/// How often somebody looks whether all workers get on.
const LOOK: Duration = Duration::from_secs(30);

/// What a worker may take beyond the longest of its limits before it counts as hanging.
const SLACK: Duration = Duration::from_secs(300);

/// The worker threads. They end when the dispatcher's channel closes and the transactions under way are over.
pub struct Workers {
    crew: Arc<Crew>,
    /// Dropped at the end; see [`Parts::over`].
    over: Mutex<Option<Sender<()>>>,
}

struct Crew {
    parts: Parts,
    receiver: Receiver<Transaction>,
    threads: Mutex<Threads>,
    /// One message for each worker that ends.
    ends: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct Threads {
    handles: Vec<JoinHandle<()>>,
    ended: usize,
}

impl Workers {
    /// Starts `count` workers.
    ///
    /// # Errors
    /// Not even one thread could be started (PRC-4); with fewer than asked for, mail goes out more slowly.
    pub fn start(
        count: usize,
        tools: Tools,
        receiver: Receiver<Transaction>,
    ) -> io::Result<Workers> {
        let (over_sender, over) = bounded(0);
        let crew = Arc::new(Crew {
            parts: Parts {
                tools,
                pools: Pools::new(),
                registry: Registry::default(),
                over: over.clone(),
            },
            receiver,
            threads: Mutex::new(Threads::default()),
            ends: unbounded(),
        });
        crew.grow(count)?;
        let watched = Arc::clone(&crew);
        // It ends with `over`, so with `close` or the last of us.
        thread::Builder::new()
            .name("worker-watch".to_string())
            .spawn(move || {
                while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(LOOK) {
                    let deliver = &watched.parts.live.get().deliver;
                    let limit = deliver
                        .attempt_timeout
                        .get()
                        .saturating_add(deliver.total_timeout.get())
                        .saturating_add(deliver.dot_timeout.get())
                        .saturating_add(SLACK);
                    watched.give_up(limit);
                }
            })?;
        Ok(Workers {
            crew,
            over: Mutex::new(Some(over_sender)),
        })
    }

    /// Starts further workers until there are `count`. If it is less than before, the dispatcher gives them less to do
    /// (CFG-6).
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub fn grow(&self, count: usize) -> io::Result<()> {
        self.crew.grow(count)
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.crew.parts
    }

    /// Transactions under way.
    pub fn registry(&self) -> &Registry {
        &self.crew.parts.registry
    }

    /// Sessions.
    pub fn pools(&self) -> &Pools {
        &self.crew.parts.pools
    }

    /// Waits until all workers have ended, after the dispatcher has stopped. `false`: some are still busy at `deadline`.
    pub fn wait(&self, deadline: Deadline) -> bool {
        let mut threads = self.crew.lock();
        while threads.ended < threads.handles.len() {
            let end = deadline
                .remaining()
                .ok()
                .and_then(|left| self.crew.ends.1.recv_timeout(left).ok());
            if end.is_none() {
                return false;
            }
            threads.ended += 1;
        }
        for thread in threads.handles.drain(..) {
            // Panics are caught inside; there is nothing else that it could say.
            let _ = thread.join();
        }
        threads.ended = 0;
        true
    }

    /// The grace is over: what has not sent its dot is settled as temporary and can send it no more; what waits for the
    /// reply to its dot stays claimed (PRC-2). The store must still be open.
    pub fn cut(&self) {
        for (running, rows) in self.crew.parts.registry.cut() {
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
            settle(&self.crew.parts, &running, happened.collect());
        }
    }

    /// Closes idle sessions with QUIT, and lets go of whoever waits for the store.
    pub fn close(&self) {
        self.over
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.crew.parts.pools.close();
    }
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grow(&self, count: usize) -> io::Result<()> {
        let mut threads = self.lock();
        while threads.handles.len() < count.max(1) {
            let name = format!("worker-{}", threads.handles.len() + 1);
            let (parts, receiver) = (self.parts.clone(), self.receiver.clone());
            let ends = self.ends.0.clone();
            let started = thread::Builder::new().name(name.clone()).spawn(move || {
                for transaction in &receiver {
                    carry_out(&parts, transaction, &name, attempt::attempt);
                }
                let _ = ends.send(());
            });
            match started {
                Ok(thread) => threads.handles.push(thread),
                Err(error) if threads.handles.is_empty() => return Err(error),
                Err(error) => {
                    Line::new("workers")
                        .num("started", threads.handles.len())
                        .num("wanted", count)
                        .peer("text", &error.to_string())
                        .error();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Gives up transactions whose worker has not got on for `limit`: their recipients are settled, their slots are
    /// freed, and another worker takes the place of the one that hangs. How many there were.
    fn give_up(&self, limit: Duration) -> usize {
        let hung = self.parts.registry.hung(limit);
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
            poison(
                &self.parts,
                &running,
                rows,
                dot_sent,
                "internal error: the worker hangs",
            );
            drop(running.permit());
            let wanted = self.lock().handles.len() + 1;
            // Without a thread there is one worker fewer; `grow` has said so.
            let _ = self.grow(wanted);
        }
        count
    }
}

/// Carries out one transaction. Whatever happens in it, its recipients are settled or given back, its permit returns,
/// and the worker goes on.
fn carry_out(
    parts: &Parts,
    transaction: Transaction,
    worker: &str,
    attempt: impl FnOnce(&Parts, &Running, Option<Arc<[u8]>>) -> Left,
) {
    let Transaction {
        head,
        recipients,
        destination: _,
        transport,
        content,
        claimed_at,
        permit,
    } = transaction;
    if recipients.is_empty() {
        return;
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
        return;
    }
    let result = catch_unwind(AssertUnwindSafe(|| attempt(parts, running, content)));
    let left = match result {
        Ok(left) => left,
        Err(panic) => {
            panicked(parts, running, panic.as_ref());
            Left::default()
        }
    };
    // None: it was given up, and its slot is somebody else's.
    if let Some(permit) = running.permit() {
        permit.finish(left.feedback);
    }
    drop(entry);
    // CL-23: QUIT holds no slot, and nothing it brings alters the outcome.
    if !left.quitting.is_empty() {
        let limits = Limits::of(&parts.live.get().deliver);
        for session in left.quitting {
            session.quit(&limits);
        }
    }
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

    fn run(fixture: &Fixture, attempt: impl FnOnce(&Parts, &Running, Option<Arc<[u8]>>) -> Left) {
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
        let (sender, receiver) = unbounded();
        let workers = Workers::start(1, fixture.parts.tools.clone(), receiver).unwrap();
        let parts = workers.crew.parts.clone();
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
        assert_eq!(workers.crew.give_up(Duration::from_secs(3600)), 0);
        assert_eq!(workers.crew.give_up(Duration::ZERO), 1);
        assert_eq!(workers.registry().count(), 0);
        assert_eq!(workers.crew.lock().handles.len(), 2);
        drop(release);
        worker.join().unwrap();
        let shown = fixture.shown();
        assert_eq!(shown.attempts.len(), 1);
        let attempt = shown.attempts[0].result.as_ref().unwrap();
        assert_eq!(attempt.text, "internal error: the worker hangs");
        assert_eq!(attempt.stage, crate::policy::failure::Stage::Data);
        assert_eq!(shown.recipients[0].state, State::Queued);
        drop(sender);
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
