//! The worker threads: take transactions, carry them out, survive what goes wrong in one (Q-22, PRC-2, PRC-3, SC-11).

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::attempt::{self, Left};
use super::outcome::{Break, local};
use super::running::{Begun, Running};
use super::session::Limits;
use super::settle::{Happened, Scene, give_back, settle};
use super::{Parts, Pools, Registry, Tools};
use crate::dispatch::Transaction;
use crate::log::Line;
use crate::net::deadline::Deadline;
use crate::policy::failure::Failure;
use crate::smtp::reply::EnhancedCode;

/// The worker threads. They end when the dispatcher's channel closes and the transactions under way are over.
pub struct Workers {
    parts: Parts,
    receiver: Receiver<Transaction>,
    threads: Mutex<Threads>,
    /// Dropped at the end; see [`Parts::over`].
    over: Mutex<Option<Sender<()>>>,
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
        let workers = Workers {
            parts: Parts {
                tools,
                pools: Pools::new(),
                registry: Registry::default(),
                over,
            },
            receiver,
            threads: Mutex::new(Threads::default()),
            over: Mutex::new(Some(over_sender)),
            ends: unbounded(),
        };
        workers.grow(count)?;
        Ok(workers)
    }

    /// Starts further workers until there are `count`. If it is less than before, the dispatcher gives them less to do
    /// (CFG-6).
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub fn grow(&self, count: usize) -> io::Result<()> {
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

    /// Transactions under way.
    pub fn registry(&self) -> &Registry {
        &self.parts.registry
    }

    /// Sessions.
    pub fn pools(&self) -> &Pools {
        &self.parts.pools
    }

    /// Waits until all workers have ended, after the dispatcher has stopped. `false`: some are still busy at `deadline`.
    pub fn wait(&self, deadline: Deadline) -> bool {
        let mut threads = self.lock();
        while threads.ended < threads.handles.len() {
            let end = deadline
                .remaining()
                .ok()
                .and_then(|left| self.ends.1.recv_timeout(left).ok());
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

    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
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
    drop(entry);
    permit.finish(left.feedback);
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
    let (stage, host, address) = running.place();
    Line::new("panic")
        .key("qid", running.head.id)
        .key("stage", stage)
        .key("worker", &running.worker)
        .peer("text", words)
        .error();
    let mut failure = local(
        stage,
        EnhancedCode::new(4, 3, 0),
        format!("internal error: {words}"),
    );
    failure.may_be_sent_twice = running.awaits_dot();
    let scene = Arc::new(Scene {
        host,
        address,
        ..Scene::default()
    });
    let happened = running.take_rest().into_iter().map(|row| Happened {
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
