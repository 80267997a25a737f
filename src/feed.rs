//! A channel whose receivers sleep at once, and of which the one that fell asleep last is woken first.
//!
//! The receiver of a channel gives way to others a few times before it sleeps, and whoever has slept longest is woken: with
//! dozens of workers that wait for a moment between two transactions each, that is two more switches of tasks for each of
//! them, and a thread whose memory is in nobody's cache. So those that wait sit down on a stack here, and the sender calls
//! the one on top. What is sent goes through a channel as before.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError, bounded};

/// Room for so many that nobody has taken yet.
pub fn feed<T>(room: usize) -> (Giver<T>, Taker<T>) {
    let (sender, receiver) = bounded(room);
    let seats = Arc::new(Seats::default());
    let giver = Giver {
        sender: Some(sender),
        seats: Arc::clone(&seats),
    };
    (giver, Taker { receiver, seats })
}

/// The end that gives. Dropped, it tells those that wait that nothing more comes.
#[derive(Debug)]
pub struct Giver<T> {
    /// Gone while it is dropped.
    sender: Option<Sender<T>>,
    seats: Arc<Seats>,
}

impl<T> Giver<T> {
    /// Gives one away, and wakes somebody for it. Does not wait.
    ///
    /// # Errors
    /// There is no room, or nobody left who could take it.
    pub fn try_send(&self, one: T) -> Result<(), TrySendError<T>> {
        let Some(sender) = &self.sender else {
            return Err(TrySendError::Disconnected(one));
        };
        sender.try_send(one)?;
        self.seats.call();
        Ok(())
    }
}

impl<T> Drop for Giver<T> {
    fn drop(&mut self) {
        self.sender = None;
        self.seats.call_all();
    }
}

/// The end that takes; what a channel offers besides is that of the channel in it.
#[derive(Debug)]
pub struct Taker<T> {
    receiver: Receiver<T>,
    seats: Arc<Seats>,
}

impl<T> Clone for Taker<T> {
    fn clone(&self) -> Taker<T> {
        Taker {
            receiver: self.receiver.clone(),
            seats: Arc::clone(&self.seats),
        }
    }
}

impl<T> Deref for Taker<T> {
    type Target = Receiver<T>;

    fn deref(&self) -> &Receiver<T> {
        &self.receiver
    }
}

impl<T> Taker<T> {
    /// Takes one, or sleeps until there is one, at most so long.
    ///
    /// # Errors
    /// None came, or none will.
    pub fn take_timeout(&self, span: Duration) -> Result<T, RecvTimeoutError> {
        let mut deadline = None;
        loop {
            if let Some(taken) = self.try_take() {
                return taken;
            }
            self.seats.sit();
            // What came before we sat has called somebody else, or nobody.
            if let Some(taken) = self.try_take() {
                if !self.seats.stand_up() {
                    // A call for another one came to us.
                    self.seats.call();
                }
                return taken;
            }
            let until = *deadline.get_or_insert_with(|| Instant::now() + span);
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
            // Called, there is something to take, or was until somebody came by.
            if self.seats.stand_up() && Instant::now() >= until {
                return Err(RecvTimeoutError::Timeout);
            }
        }
    }

    fn try_take(&self) -> Option<Result<T, RecvTimeoutError>> {
        match self.receiver.try_recv() {
            Ok(one) => Some(Ok(one)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(RecvTimeoutError::Disconnected)),
        }
    }
}

/// Threads that sleep, or are about to; the last one sat down last.
#[derive(Debug, Default)]
struct Seats(Mutex<Vec<Thread>>);

impl Seats {
    fn lock(&self) -> MutexGuard<'_, Vec<Thread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sit(&self) {
        self.lock().push(thread::current());
    }

    /// False: we were called.
    fn stand_up(&self) -> bool {
        let us = thread::current().id();
        let mut seats = self.lock();
        let at = seats.iter().rposition(|thread| thread.id() == us);
        at.map(|at| seats.remove(at)).is_some()
    }

    fn call(&self) {
        let called = self.lock().pop();
        if let Some(called) = called {
            called.unpark();
        }
    }

    fn call_all(&self) {
        for called in std::mem::take(&mut *self.lock()) {
            called.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    // what is given is taken, however those that wait come and go
    #[test]
    fn nothing_that_is_given_is_left_lying_while_somebody_sleeps() {
        const COUNT: usize = 20_000;
        let (giver, taker) = feed(COUNT);
        let taken = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Some of the waits end by themselves, so that calls and timeouts cross each other.
                    let mut spans = [Duration::ZERO, Duration::from_micros(50), LONG]
                        .into_iter()
                        .cycle();
                    loop {
                        match taker.take_timeout(spans.next().unwrap()) {
                            Ok(()) => taken.fetch_add(1, Ordering::Relaxed),
                            Err(RecvTimeoutError::Timeout) => continue,
                            Err(RecvTimeoutError::Disconnected) => return,
                        };
                    }
                });
            }
            for number in 0..COUNT {
                giver.try_send(()).unwrap();
                // Now and then all of them are asleep when the next one comes.
                while number % 50 == 0 && taken.load(Ordering::Relaxed) <= number {
                    thread::yield_now();
                }
            }
            drop(giver);
        });
        assert_eq!(taken.into_inner(), COUNT);
    }

    // PRC-7
    #[test]
    fn the_one_that_fell_asleep_last_is_woken_first() {
        let (giver, taker) = feed(1);
        thread::scope(|scope| {
            let wait = || scope.spawn(|| taker.take_timeout(LONG));
            let sleepers = |count| {
                while taker.seats.lock().len() < count {
                    thread::yield_now();
                }
            };
            let first = wait();
            sleepers(1);
            let last = wait();
            sleepers(2);
            giver.try_send(7).unwrap();
            assert_eq!(last.join().unwrap(), Ok(7));
            assert!(!first.is_finished());
            drop(giver);
            assert_eq!(first.join().unwrap(), Err(RecvTimeoutError::Disconnected));
        });
    }

    #[test]
    fn a_wait_has_its_end() {
        let (giver, taker) = feed::<()>(1);
        assert_eq!(
            taker.take_timeout(Duration::ZERO),
            Err(RecvTimeoutError::Timeout)
        );
        assert!(taker.seats.lock().is_empty());
        giver.try_send(()).unwrap();
        assert!(matches!(giver.try_send(()), Err(TrySendError::Full(()))));
    }
}
