//! Threads that are kept for sessions: started when none is idle, reused, and ended when they were idle for a while.
//!
//! The thread that became idle last is the first to get work, so that after a load those that are not needed any more
//! run into their limit, however much the others have to do (PRC-7).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use crate::net::deadline::Deadline;

/// How long an idle thread is kept.
const KEEP: Duration = Duration::from_secs(20);

struct State<T> {
    /// The threads that wait for a job; the last one is the warmest.
    idle: Vec<Arc<Seat<T>>>,
    threads: usize,
    /// Numbers the threads.
    started: u64,
    closed: bool,
}

/// Where one thread waits for one job. No channel: its receiver gives way to others before it sleeps, and then sleeps
/// nearly always.
struct Seat<T> {
    given: Mutex<Given<T>>,
    called: Condvar,
}

enum Given<T> {
    Nothing,
    Job(T),
    /// It is to end.
    Leave,
}

impl<T> Seat<T> {
    fn new() -> Arc<Seat<T>> {
        Arc::new(Seat {
            given: Mutex::new(Given::Nothing),
            called: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Given<T>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, given: Given<T>) {
        *self.lock() = given;
        self.called.notify_one();
    }

    /// What it was given within this time.
    fn wait(&self, span: Duration) -> Given<T> {
        let nothing = |given: &mut Given<T>| matches!(given, Given::Nothing);
        let waited = self
            .called
            .wait_timeout_while(self.lock(), span, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let mut given = waited.0;
        std::mem::replace(&mut given, Given::Nothing)
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
    keep: Duration,
    work: Box<dyn Fn(T) + Send + Sync>,
}

/// Starts a thread of this name.
pub(super) type Start = fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()>;

/// Starts one for real.
pub(super) fn start(name: String, life: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(life).map(drop)
}

/// The threads. How many there may be is up to the caller, who hands out no more jobs at once than that.
pub struct Threads<T> {
    name: &'static str,
    start: Start,
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Threads<T> {
    /// No threads yet; they will be called `name-N` and do `work` on each job.
    pub fn new(name: &'static str, work: impl Fn(T) + Send + Sync + 'static) -> Threads<T> {
        Threads::keeping(KEEP, name, work)
    }

    fn keeping(
        keep: Duration,
        name: &'static str,
        work: impl Fn(T) + Send + Sync + 'static,
    ) -> Threads<T> {
        let state = State {
            idle: Vec::new(),
            threads: 0,
            started: 0,
            closed: false,
        };
        Threads {
            name,
            start,
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                ended: Condvar::new(),
                keep,
                work: Box::new(work),
            }),
        }
    }

    /// Gives a job to an idle thread or a new one; does not wait. A panic in it is caught (PRC-3).
    ///
    /// # Errors
    /// The job back: no thread could be started (PRC-4), or they were told to end.
    pub fn run(&self, job: T) -> Result<(), T> {
        let mut state = self.shared.lock();
        if state.closed {
            return Err(job);
        }
        if let Some(seat) = state.idle.pop() {
            drop(state);
            seat.give(Given::Job(job));
            return Ok(());
        }
        state.threads += 1;
        state.started += 1;
        let number = state.started;
        drop(state);

        let shared = Arc::clone(&self.shared);
        // The job goes another way than into the closure, so that it is still ours if there is no thread.
        let (send, receive) = bounded(1);
        let life = move || {
            if let Ok(job) = receive.recv() {
                shared.run(job);
            }
            shared.lock().threads -= 1;
            shared.ended.notify_all();
        };
        let started = (self.start)(format!("{}-{number}", self.name), Box::new(life));
        if started.is_err() {
            self.shared.lock().threads -= 1;
            return Err(job);
        }
        send.send(job).map_err(|refused| refused.0)
    }

    /// Lets threads end when they have no job, and waits until all have, or the deadline is over. `true` if all have.
    pub fn join(&self, deadline: Deadline) -> bool {
        let mut state = self.shared.lock();
        state.closed = true;
        for seat in std::mem::take(&mut state.idle) {
            seat.give(Given::Leave);
        }
        while state.threads > 0 {
            let Ok(left) = deadline.remaining() else {
                return false;
            };
            let waited = self.shared.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of one thread, from its first job on.
    fn run(&self, mut job: T) {
        let seat = Seat::new();
        loop {
            // The panic hook has logged it; whoever waits for the job sees its parts dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.work)(job)));
            {
                let mut state = self.lock();
                if state.closed {
                    return;
                }
                state.idle.push(Arc::clone(&seat));
            }
            let mut given = seat.wait(self.keep);
            if matches!(given, Given::Nothing) {
                let mut state = self.lock();
                let before = state.idle.len();
                state.idle.retain(|other| !Arc::ptr_eq(other, &seat));
                if state.idle.len() < before {
                    return;
                }
                // Somebody took us from the list just now, and gives us something in a moment.
                drop(state);
                while matches!(given, Given::Nothing) {
                    given = seat.wait(self.keep);
                }
            }
            match given {
                Given::Job(next) => job = next,
                Given::Nothing | Given::Leave => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // PRC-3, PRC-7
    #[test]
    fn threads_are_reused_also_after_a_panic_and_end_when_told() {
        let (done, finished) = bounded(1);
        let (hold, held) = bounded::<()>(0);
        let threads = Threads::new("test", move |panics: bool| {
            if panics {
                let _ = held.recv();
                panic!("contained");
            }
            done.send(()).unwrap();
        });
        let until_idle = |idle| {
            while threads.shared.lock().idle.len() < idle {
                thread::yield_now();
            }
        };
        for _ in 0..50 {
            threads.run(false).unwrap();
            finished.recv().unwrap();
            until_idle(1);
        }
        assert_eq!(threads.shared.lock().threads, 1);
        threads.run(true).unwrap();
        threads.run(false).unwrap();
        finished.recv().unwrap();
        assert_eq!(threads.shared.lock().threads, 2);
        hold.send(()).unwrap();
        until_idle(2);
        threads.run(false).unwrap();
        finished.recv().unwrap();
        assert_eq!(threads.shared.lock().threads, 2);
        threads.run(true).unwrap();
        assert!(!threads.join(Deadline::after(Duration::from_millis(1))));
        assert_eq!(threads.run(false), Err(false));
        drop(hold);
        assert!(threads.join(Deadline::after(Duration::from_secs(20))));
    }

    // PRC-4
    #[test]
    fn a_job_that_no_thread_can_be_started_for_comes_back() {
        let (done, finished) = bounded(1);
        let mut threads = Threads::new("test", move |job: u32| done.send(job).unwrap());
        threads.start = |_, _| Err(io::ErrorKind::WouldBlock.into());
        assert_eq!(threads.run(1), Err(1));
        threads.start = start;
        threads.run(2).unwrap();
        assert_eq!(finished.recv().unwrap(), 2);
        assert!(threads.join(Deadline::after(Duration::from_secs(20))));
    }

    // PRC-7
    #[test]
    fn threads_that_a_load_has_started_end_when_it_is_over() {
        let (hold, held) = bounded::<()>(0);
        let threads = Threads::keeping(Duration::from_millis(20), "test", move |_: u32| {
            let _ = held.recv();
        });
        for job in 0..20 {
            threads.run(job).unwrap();
        }
        assert_eq!(threads.shared.lock().threads, 20);
        for _ in 0..20 {
            hold.send(()).unwrap();
        }
        // Work goes on meanwhile, one job at a time.
        let long = Deadline::after(Duration::from_secs(20));
        while threads.shared.lock().threads > 2 {
            assert!(!long.is_over());
            threads.run(0).unwrap();
            hold.send(()).unwrap();
        }
        drop(hold);
        assert!(threads.join(Deadline::after(Duration::from_secs(20))));
    }
}
