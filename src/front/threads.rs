//! Threads that are kept for sessions: started when none is idle, reused, and ended when they were idle for a while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use crate::net::deadline::Deadline;

/// How long an idle thread is kept.
const KEEP: Duration = Duration::from_secs(60);

/// A piece of work that a thread does alone.
pub type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug, Default)]
struct Counts {
    /// Threads that wait for a job and were not promised one.
    idle: usize,
    threads: usize,
    /// Numbers the threads' names.
    started: u64,
}

struct Shared {
    counts: Mutex<Counts>,
    ended: Condvar,
    // Never holds more jobs than there are threads promised to them, so it is bounded by the callers' own limit.
    jobs: Receiver<Job>,
}

/// The threads. How many there may be is up to the caller, who hands out no more jobs at once than that.
pub struct Threads {
    name: &'static str,
    shared: Arc<Shared>,
    send: Mutex<Option<Sender<Job>>>,
}

impl Threads {
    /// No threads yet; they will be called `name-N`.
    pub fn new(name: &'static str) -> Threads {
        let (send, jobs) = unbounded();
        Threads {
            name,
            shared: Arc::new(Shared {
                counts: Mutex::default(),
                ended: Condvar::new(),
                jobs,
            }),
            send: Mutex::new(Some(send)),
        }
    }

    /// Gives a job to an idle thread or a new one; does not wait. A panic in it is caught (PRC-3).
    ///
    /// # Errors
    /// No thread could be started (PRC-4), or they were told to end; the job is dropped.
    pub fn run(&self, job: Job) -> std::io::Result<()> {
        let send = self.send.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(send) = send.as_ref() else {
            return Err(std::io::Error::other("closed"));
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
                .spawn(move || shared.work());
            if let Err(error) = started {
                self.shared.lock().threads -= 1;
                return Err(error);
            }
        }
        send.send(job).map_err(|_| std::io::Error::other("closed"))
    }

    /// Threads now, idle ones included.
    pub fn count(&self) -> usize {
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

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        // A new thread was promised the job that it was started for.
        let mut job = self.jobs.recv().ok();
        while let Some(run) = job {
            // The panic hook has logged it; whoever waits for the job sees its drop.
            let _ = catch_unwind(AssertUnwindSafe(run));
            self.lock().idle += 1;
            job = match self.jobs.recv_timeout(KEEP) {
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
        let threads = Threads::new("test");
        let (done, finished) = bounded(1);
        for _ in 0..50 {
            let done = done.clone();
            threads
                .run(Box::new(move || done.send(()).unwrap()))
                .unwrap();
            finished.recv().unwrap();
            while threads.shared.lock().idle == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(threads.count(), 1);
        let (hold, held) = bounded::<()>(0);
        threads
            .run(Box::new(move || {
                let _ = held.recv();
                panic!("contained");
            }))
            .unwrap();
        let after = done.clone();
        threads
            .run(Box::new(move || after.send(()).unwrap()))
            .unwrap();
        finished.recv().unwrap();
        assert_eq!(threads.count(), 2);
        assert!(!threads.join(Deadline::after(Duration::from_millis(1))));
        assert!(threads.run(Box::new(|| {})).is_err());
        drop(hold);
        assert!(threads.join(Deadline::after(Duration::from_secs(20))));
    }
}
