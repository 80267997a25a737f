//! The way of one answer back from the writer.
//!
//! A lock and a condition variable and no channel: hundreds of callers sleep here for a whole commit, and a channel's
//! receiver spins before it sleeps.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::StoreError;
use super::request::{Answer, Op};
use super::shared::lock;

enum State {
    /// The writer has not begun.
    Waiting,
    /// The writer has it: its outcome must be awaited.
    Taken,
    /// The caller gave up before the writer began: it must not be done.
    GivenUp,
    /// With what was asked for: who made it takes it apart, and the writer need not wait for its memory.
    Answered(Result<Answer, StoreError>, Option<Op>),
}

struct Slot {
    state: Mutex<State>,
    answered: Condvar,
}

/// The writer's end. Dropped without an answer, it answers [`StoreError::Closed`].
pub(super) struct Reply(Arc<Slot>);

/// The caller's end.
pub(super) struct Waiter(Arc<Slot>);

/// Both ends.
pub(super) fn reply() -> (Reply, Waiter) {
    let slot = Arc::new(Slot {
        state: Mutex::new(State::Waiting),
        answered: Condvar::new(),
    });
    (Reply(Arc::clone(&slot)), Waiter(slot))
}

impl Reply {
    /// The writer begins; false when nobody wants it any more.
    pub(super) fn take(&self) -> bool {
        let mut state = lock(&self.0.state);
        if matches!(*state, State::GivenUp) {
            return false;
        }
        *state = State::Taken;
        true
    }

    /// Answers. A caller that is gone cannot be told; what it asked for stands.
    pub(super) fn send(self, answer: Result<Answer, StoreError>, op: Op) {
        *lock(&self.0.state) = State::Answered(answer, Some(op));
        self.0.answered.notify_one();
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        if !matches!(*state, State::Answered(..)) {
            *state = State::Answered(Err(StoreError::Closed), None);
            drop(state);
            self.0.answered.notify_one();
        }
    }
}

impl Waiter {
    /// Waits for the answer, however long it takes.
    pub(super) fn wait(self) -> Result<Answer, StoreError> {
        let mut state = lock(&self.0.state);
        loop {
            if let State::Answered(answer, op) = &mut *state {
                let answer = std::mem::replace(answer, Err(StoreError::Closed));
                let op = op.take();
                drop(state);
                drop(op);
                return answer;
            }
            state = self
                .0
                .answered
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Gives up if the writer has not begun after `patience`; else waits for the answer.
    pub(super) fn wait_or_give_up(self, patience: Duration) -> Result<Answer, StoreError> {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.0.state);
        while matches!(*state, State::Waiting) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *state = State::GivenUp;
                return Err(StoreError::Busy);
            }
            state = self
                .0
                .answered
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(state);
        self.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // IN-26, ST-15
    #[test]
    fn a_caller_gives_up_only_what_the_writer_has_not_begun() {
        let (writer, caller) = reply();
        assert!(matches!(
            caller.wait_or_give_up(Duration::ZERO),
            Err(StoreError::Busy)
        ));
        assert!(!writer.take());

        let (writer, caller) = reply();
        assert!(writer.take());
        let waiting = std::thread::spawn(move || caller.wait_or_give_up(Duration::ZERO));
        writer.send(Ok(Answer::Done), Op::Rest);
        assert!(matches!(waiting.join().unwrap(), Ok(Answer::Done)));
    }

    // PRC-3
    #[test]
    fn a_request_that_is_dropped_unanswered_answers_closed() {
        let (writer, caller) = reply();
        drop(writer);
        assert!(matches!(caller.wait(), Err(StoreError::Closed)));
    }
}
