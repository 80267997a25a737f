//! Threads that are kept for sessions: started when none is idle, reused, and ended when they were idle for a while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::net::deadline::Deadline;

/// How long an idle thread is kept.
const KEEP: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct Counts {
    /// Threads that wait for a job and were not promised one.
    idle: usize,
    threads: usize,
    /// Numbers the threads' names.
    started: u64,
}

struct Shared<T> {
    counts: Mutex<Counts>,
    ended: Condvar,
    // Never holds more jobs than there are threads promised to them, so it is bounded by the callers' own limit.
    jobs: Receiver<T>,
    work: Box<dyn Fn(T) + Send + Sync>,
}

/// The threads. How many there may be is up to the caller, who hands out no more jobs at once than that.
pub struct Threads<T> {
    name: &'static str,
    shared: Arc<Shared<T>>,
    send: Mutex<Option<Sender<T>>>,
}

impl<T: Send + 'static> Threads<T> {
    /// No threads yet; they will be called `name-N` and do `work` on each job.
    pub fn new(name: &'static str, work: impl Fn(T) + Send + Sync + 'static) -> Threads<T> {
        let (send, jobs) = unbounded();
        Threads {
            name,
            shared: Arc::new(Shared {
                counts: Mutex::default(),
                ended: Condvar::new(),
                jobs,
                work: Box::new(work),
            }),
            send: Mutex::new(Some(send)),
        }
    }

    /// Gives a job to an idle thread or a new one; does not wait. A panic in it is caught (PRC-3).
    ///
    /// # Errors
    /// The job back: no thread could be started (PRC-4), or they were told to end.
    pub fn run(&self, job: T) -> Result<(), T> {
        let send = self.send.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(send) = send.as_ref() else {
            return Err(job);
        };
        let start = {
            let mut counts = self.shared.lock();
            if counts.idle > 0 {
                counts.idle -= 1;
                None
            } else {
                counts.threads += 1;
                counts.started += 1;
                Some(counts.started)
            }
        };
        if let Some(number) = start {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new()
                .name(format!("{}-{number}", self.name))
                .spawn(move || shared.run());
            if started.is_err() {
                self.shared.lock().threads -= 1;
                return Err(job);
            }
        }
        send.send(job).map_err(|refused| refused.0)
    }

    /// Threads now, idle ones included.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.shared.lock().threads
    }

    /// Lets threads end when they have no job, and waits until all have, or the deadline is over. `true` if all have.
    pub fn join(&self, deadline: Deadline) -> bool {
        self.send
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut counts = self.shared.lock();
        while counts.threads > 0 {
            let Ok(left) = deadline.remaining() else {
                return false;
            };
            let waited = self.shared.ended.wait_timeout(counts, left);
            counts = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // A new thread was promised the job that it was started for.
        let mut next = self.jobs.recv().ok();
        while let Some(job) = next {
            // The panic hook has logged it; whoever waits for the job sees its parts dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| (self.work)(job)));
            self.lock().idle += 1;
            next = match self.jobs.recv_timeout(KEEP) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Disconnected) => None,
                Err(RecvTimeoutError::Timeout) => {
                    let mut counts = self.lock();
                    if counts.idle > 0 {
                        counts.idle -= 1;
                        None
                    } else {
                        // All who wait are promised a job: so one is on its way.
                        drop(counts);
                        self.jobs.recv().ok()
                    }
                }
            };
        }
        self.lock().threads -= 1;
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;

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
            while threads.shared.lock().idle < idle {
                thread::yield_now();
            }
        };
        for _ in 0..50 {
            threads.run(false).unwrap();
            finished.recv().unwrap();
            until_idle(1);
        }
        assert_eq!(threads.count(), 1);
        threads.run(true).unwrap();
        threads.run(false).unwrap();
        finished.recv().unwrap();
        assert_eq!(threads.count(), 2);
        hold.send(()).unwrap();
        until_idle(2);
        threads.run(false).unwrap();
        finished.recv().unwrap();
        assert_eq!(threads.count(), 2);
        threads.run(true).unwrap();
        assert!(!threads.join(Deadline::after(Duration::from_millis(1))));
        assert_eq!(threads.run(false), Err(false));
        drop(hold);
        assert!(threads.join(Deadline::after(Duration::from_secs(20))));
    }
}
