//! The way of one answer back from the writer.
//!
//! A lock and a condition variable and no channel: hundreds of callers sleep here for a whole commit, and a channel's
//! receiver spins before it sleeps. Who has nothing else to do with the answer than what can be said beforehand does not
//! sleep at all: it leaves that with the request, for the thread of [`after`](super::after).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use super::StoreError;
use super::after::Task;
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

/// What is done with an answer that nobody waits for.
pub(super) type Then = Box<dyn FnOnce(Result<Answer, StoreError>) + Send>;

/// The writer's end. Dropped without an answer, it answers [`StoreError::Closed`].
pub(super) struct Reply(To);

enum To {
    /// Somebody waits.
    Caller(Arc<Slot>),
    /// Nobody does; gone once it is answered.
    Then(Option<(Then, Sender<Task>)>),
}

/// The caller's end.
pub(super) struct Waiter(Arc<Slot>);

/// Both ends.
pub(super) fn reply() -> (Reply, Waiter) {
    let slot = Arc::new(Slot {
        state: Mutex::new(State::Waiting),
        answered: Condvar::new(),
    });
    (Reply(To::Caller(Arc::clone(&slot))), Waiter(slot))
}

/// The writer's end of an answer that nobody waits for: `then` is told it by the thread behind `after`.
pub(super) fn reply_to(then: Then, after: Sender<Task>) -> Reply {
    Reply(To::Then(Some((then, after))))
}

impl Reply {
    /// The writer begins; false when nobody wants it any more.
    pub(super) fn take(&self) -> bool {
        let To::Caller(slot) = &self.0 else {
            return true;
        };
        let mut state = lock(&slot.state);
        if matches!(*state, State::GivenUp) {
            return false;
        }
        *state = State::Taken;
        true
    }

    /// Answers. A caller that is gone cannot be told; what it asked for stands.
    pub(super) fn send(mut self, answer: Result<Answer, StoreError>, op: Op) {
        match &mut self.0 {
            To::Caller(slot) => {
                *lock(&slot.state) = State::Answered(answer, Some(op));
                slot.answered.notify_one();
            }
            To::Then(then) => {
                let Some((then, after)) = then.take() else {
                    return;
                };
                let task = Task::Run(Box::new(move || {
                    drop(op);
                    then(answer);
                }));
                // The store has ended but for this: then it is done here.
                if let Err(back) = after.send(task) {
                    back.0.run();
                }
            }
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        match &mut self.0 {
            To::Caller(slot) => {
                let mut state = lock(&slot.state);
                if !matches!(*state, State::Answered(..)) {
                    *state = State::Answered(Err(StoreError::Closed), None);
                    drop(state);
                    slot.answered.notify_one();
                }
            }
            To::Then(then) => {
                if let Some((then, _)) = then.take() {
                    then(Err(StoreError::Closed));
                }
            }
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

        let (told, hears) = crossbeam_channel::bounded(1);
        let (after, _tasks) = crossbeam_channel::unbounded();
        drop(reply_to(
            Box::new(move |answer| told.send(answer).unwrap()),
            after,
        ));
        assert!(matches!(hears.recv().unwrap(), Err(StoreError::Closed)));
    }

    //
    #[test]
    fn an_answer_that_nobody_waits_for_is_told_by_another_thread_and_once() {
        let (told, hears) = crossbeam_channel::unbounded();
        let (after, tasks) = crossbeam_channel::unbounded();
        let writer = reply_to(
            Box::new(move |answer| told.send(answer).unwrap()),
            after.clone(),
        );
        assert!(writer.take());
        writer.send(Ok(Answer::Done), Op::Rest);
        assert!(hears.try_recv().is_err(), "not by the writer");
        tasks.recv().unwrap().run();
        assert!(matches!(hears.recv().unwrap(), Ok(Answer::Done)));
        assert!(hears.recv().is_err());
    }
}
