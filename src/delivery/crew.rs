//! Threads that take jobs from a channel: as few as will do, as many as are allowed (PRC-4, PRC-7).
//!
//! Whoever takes a job makes sure, before anything else, that another thread waits for the next one. So a job in the
//! channel has somebody who waits for it, unless as many work as are allowed, or the system has no thread to give: then
//! the first that has finished takes it. Those who send need not know.
//!
//! Threads that were not missed since the last look end; some stay whatever happens.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;

use crate::feed::Taker;
use crate::heap;
use crate::log::Line;
use crate::net::deadline::Deadline;

/// How often somebody has to call [`Crew::look`], and how often a thread without a job asks whether it may end.
pub(super) const PACE: Duration = Duration::from_secs(10);

/// Idle threads that stay.
const KEPT: usize = 2;

/// Starts a thread of this name.
type Start = dyn Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync;

/// Does a job; told the name of the thread.
type Work<T> = dyn Fn(&str, T) + Send + Sync;

/// The threads. They end when the channel closes and the jobs under way are over.
pub(super) struct Crew<T>(Arc<Shared<T>>);

struct Shared<T> {
    name: &'static str,
    jobs: Taker<T>,
    work: Box<Work<T>>,
    pace: Duration,
    start: Box<Start>,
    state: Mutex<State>,
    /// A thread has ended.
    ended: Condvar,
}

struct State {
    /// The numbers of the threads there are.
    threads: BTreeSet<usize>,
    /// Threads that have no job.
    idle: usize,
    /// The least of `idle` since the last look: so many were not missed.
    least: usize,
    /// Threads that may end.
    dismissed: usize,
    /// Most threads.
    most: usize,
    /// The last one could not be started.
    short: bool,
}

impl<T: Send + 'static> Crew<T> {
    /// Starts the first ones. They are called `name-N`, which `work` is told with each job.
    ///
    /// # Errors
    /// Not even one thread could be started (PRC-4).
    pub(super) fn start(
        name: &'static str,
        most: usize,
        jobs: Taker<T>,
        work: impl Fn(&str, T) + Send + Sync + 'static,
    ) -> io::Result<Crew<T>> {
        let start = |name, life: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name).spawn(life).map(drop)
        };
        Crew::start_with(name, most, jobs, work, PACE, start)
    }

    fn start_with(
        name: &'static str,
        most: usize,
        jobs: Taker<T>,
        work: impl Fn(&str, T) + Send + Sync + 'static,
        pace: Duration,
        start: impl Fn(String, Box<dyn FnOnce() + Send>) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Crew<T>> {
        let most = most.max(1);
        let shared = Arc::new(Shared {
            name,
            jobs,
            work: Box::new(work),
            pace,
            start: Box::new(start),
            state: Mutex::new(State {
                threads: BTreeSet::new(),
                idle: 0,
                least: 0,
                dismissed: 0,
                most,
                short: false,
            }),
            ended: Condvar::new(),
        });
        {
            let mut state = shared.lock();
            shared.add(&mut state)?;
            while state.idle < KEPT.min(most) && shared.add(&mut state).is_ok() {}
        }
        Ok(Crew(shared))
    }

    /// One of them will not come back soon: there may be one more.
    pub(super) fn allow_one_more(&self) {
        let mut state = self.0.lock();
        state.most += 1;
        self.0.staff(&mut state);
    }

    /// Lets those end that nobody missed since the last look, and tries again where a thread could not be started.
    pub(super) fn look(&self) {
        let mut state = self.0.lock();
        state.dismissed = state.least.saturating_sub(KEPT);
        state.least = state.idle;
        self.0.staff(&mut state);
    }

    /// Waits until all have ended, after the channel was closed. `false`: some are still busy at `deadline`.
    pub(super) fn join(&self, deadline: Deadline) -> bool {
        let mut state = self.0.lock();
        while !state.threads.is_empty() {
            let Ok(left) = deadline.remaining() else {
                return false;
            };
            let waited = self.0.ended.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Threads now, and most of them.
    #[cfg(test)]
    pub(super) fn count(&self) -> (usize, usize) {
        let state = self.0.lock();
        (state.threads.len(), state.most)
    }
}

impl<T: Send + 'static> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has to wait for the next job, if there may be one more.
    fn staff(self: &Arc<Self>, state: &mut State) {
        if state.idle > 0 || state.threads.len() >= state.most {
            return;
        }
        match self.add(state) {
            Ok(()) => state.short = false,
            // Said once, not at every job.
            Err(_) if state.short => {}
            Err(error) => {
                state.short = true;
                Line::new("workers")
                    .num("started", state.threads.len())
                    .num("wanted", state.most)
                    .peer("text", &error.to_string())
                    .error();
            }
        }
    }

    /// Starts a thread; it is idle at once.
    fn add(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let taken = &state.threads;
        let number = (1..).find(|number| !taken.contains(number)).unwrap_or(1);
        let name = format!("{}-{number}", self.name);
        let shared = Arc::clone(self);
        let known_as = name.clone();
        (self.start)(name, Box::new(move || shared.live(number, &known_as)))?;
        state.threads.insert(number);
        state.idle += 1;
        Ok(())
    }

    /// The life of one thread.
    fn live(self: &Arc<Self>, number: usize, name: &str) {
        let mut worked = false;
        loop {
            match self.jobs.take_timeout(self.pace) {
                Ok(job) => {
                    worked = true;
                    let mut state = self.lock();
                    state.idle -= 1;
                    state.least = state.least.min(state.idle);
                    self.staff(&mut state);
                    drop(state);
                    // PRC-3. The panic hook has logged it.
                    let _ = catch_unwind(AssertUnwindSafe(|| (self.work)(name, job)));
                    self.lock().idle += 1;
                }
                Err(RecvTimeoutError::Timeout) if worked => {
                    worked = false;
                    heap::hand_back();
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.leave(&mut self.lock(), number),
            }
            let mut state = self.lock();
            // Those that stay wait for the next job, or have it already and will make sure that somebody does.
            if state.dismissed > 0 && state.idle > KEPT {
                state.dismissed -= 1;
                return self.leave(&mut state, number);
            }
        }
    }

    fn leave(&self, state: &mut State, number: usize) {
        state.idle -= 1;
        state.least = state.least.min(state.idle);
        state.threads.remove(&number);
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use crossbeam_channel::{Receiver, Sender, unbounded};

    use super::*;
    use crate::feed::{Giver, feed};

    /// A crew whose jobs say that they have begun and end when they may.
    struct Scene {
        jobs: Giver<u32>,
        begun: Receiver<u32>,
        release: Sender<()>,
        no_threads: Arc<AtomicBool>,
        crew: Crew<u32>,
    }

    fn scene(most: usize) -> Scene {
        let (jobs, taken) = feed(100);
        let (begins, begun) = unbounded();
        let (release, held) = unbounded();
        let no_threads = Arc::new(AtomicBool::new(false));
        let lacking = Arc::clone(&no_threads);
        let work = move |_: &str, job| {
            begins.send(job).unwrap();
            held.recv().unwrap();
            assert_ne!(job, 13, "contained");
        };
        let start =
            move |name, life: Box<dyn FnOnce() + Send>| match lacking.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => thread::Builder::new().name(name).spawn(life).map(drop),
            };
        let pace = Duration::from_millis(5);
        Scene {
            jobs,
            begun,
            release,
            no_threads,
            crew: Crew::start_with("test", most, taken, work, pace, start).unwrap(),
        }
    }

    impl Scene {
        fn send(&self, jobs: std::ops::Range<u32>) {
            jobs.for_each(|job| self.jobs.try_send(job).unwrap());
        }

        /// So many begin; which ones is chance.
        fn begin(&self, count: usize) {
            for _ in 0..count {
                self.begun.recv_timeout(Duration::from_secs(20)).unwrap();
            }
        }

        fn release(&self, count: usize) {
            (0..count).for_each(|_| self.release.send(()).unwrap());
        }

        fn end(self) {
            drop(self.jobs);
            assert!(self.crew.join(Deadline::after(Duration::from_secs(20))));
        }
    }

    // PRC-3, PRC-7
    #[test]
    fn jobs_start_threads_up_to_the_limit_and_those_behind_wait_their_turn() {
        let scene = scene(5);
        assert_eq!(scene.crew.count(), (2, 5));
        scene.send(10..20);
        scene.begin(5);
        assert_eq!(scene.crew.count(), (5, 5));
        assert!(scene.begun.is_empty());
        scene.crew.allow_one_more();
        scene.begin(1);
        scene.release(10);
        scene.begin(4);
        assert_eq!(scene.crew.count(), (6, 6));
        scene.end();
    }

    // PRC-7
    #[test]
    fn threads_that_were_not_missed_end_while_others_work_on() {
        let scene = scene(20);
        scene.send(20..40);
        scene.begin(20);
        scene.release(19);
        let long = Deadline::after(Duration::from_secs(20));
        // One still works, and two wait.
        while scene.crew.count().0 > 3 {
            assert!(!long.is_over());
            scene.crew.look();
            thread::yield_now();
        }
        for _ in 0..10 {
            scene.crew.look();
        }
        assert_eq!(scene.crew.count().0, 3);
        // All are there again for the next load.
        scene.send(40..59);
        scene.begin(19);
        assert_eq!(scene.crew.count().0, 20);
        scene.release(20);
        scene.end();
    }

    // PRC-4
    #[test]
    fn without_a_thread_to_be_had_jobs_wait_for_those_there_are() {
        let scene = scene(8);
        scene.no_threads.store(true, Ordering::Relaxed);
        scene.send(20..26);
        scene.begin(2);
        scene.release(1);
        scene.begin(1);
        assert_eq!(scene.crew.count().0, 2);
        assert!(scene.begun.is_empty());
        // The next look finds that there are threads again, and each that begins work the next one.
        scene.no_threads.store(false, Ordering::Relaxed);
        scene.crew.look();
        scene.begin(3);
        scene.release(5);
        scene.end();

        let (_jobs, taken) = feed::<u32>(1);
        let start = |_, _| Err(io::ErrorKind::WouldBlock.into());
        assert!(Crew::start_with("test", 8, taken, |_, _| {}, PACE, start).is_err());
    }

    // PRC-4, PRC-7: threads end and start again as fast as they can, and no job is left without one.
    #[test]
    fn no_job_is_left_alone_whenever_threads_end() {
        let (jobs, taken) = feed(100);
        let done = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&done);
        let work = move |_: &str, _: usize| {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let start = |name, life: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name).spawn(life).map(drop)
        };
        let crew = Crew::start_with("test", 8, taken, work, Duration::ZERO, start).unwrap();
        for round in 1..=200 {
            (0..8).for_each(|job| jobs.try_send(job).unwrap());
            let long = Deadline::after(Duration::from_secs(20));
            while done.load(Ordering::Relaxed) < 8 * round {
                assert!(!long.is_over());
                crew.look();
                thread::yield_now();
            }
        }
        drop(jobs);
        assert!(crew.join(Deadline::after(Duration::from_secs(20))));
    }
}
