//! How the process shares processors with others (sched(7)).
//!
//! A commit wakes a dozen threads, each for some microseconds of work. In the usual way each of them may push the thread
//! that wakes it off its processor at once, and the store's writer is that thread; as batch work it finishes first what
//! it is at. That saves up to a tenth of the processor time of a message (tests/bench/README.md).

#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(
        unsafe_code,
        reason = "sched_setscheduler(2) has no safe form in nix or std"
    )
)]

use crate::config::Scheduling;

/// Puts the calling thread, and all that it starts from here on, under the policy that is configured. A policy that
/// somebody chose at the start stays. Where it cannot be had all is as it was.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn apply(scheduling: Scheduling) {
    use nix::libc::{
        SCHED_BATCH, SCHED_OTHER, sched_getscheduler, sched_param, sched_setscheduler,
    };

    let parameters = sched_param { sched_priority: 0 };
    // SAFETY: both take numbers, and a structure that is only read; 0 is the calling thread.
    unsafe {
        if scheduling == Scheduling::Batch && sched_getscheduler(0) == SCHED_OTHER {
            sched_setscheduler(0, SCHED_BATCH, &raw const parameters);
        }
    }
}

/// Only Linux knows batch work, and musl does not offer it.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn apply(_: Scheduling) {}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[cfg(test)]
mod tests {
    use std::thread;

    use nix::libc::{self, sched_param};

    use super::*;

    /// What the policy of a thread that was given `before` is after [`apply`].
    fn policy_after(before: libc::c_int, scheduling: Scheduling) -> libc::c_int {
        let thread = thread::spawn(move || {
            let parameters = sched_param { sched_priority: 0 };
            // SAFETY: as above.
            let set = unsafe { libc::sched_setscheduler(0, before, &raw const parameters) };
            assert_eq!(set, 0);
            apply(scheduling);
            // A thread of its own has it too.
            // SAFETY: it takes a number.
            let inherits = || unsafe { libc::sched_getscheduler(0) };
            thread::spawn(inherits).join().unwrap()
        });
        thread.join().unwrap()
    }

    #[test]
    fn the_usual_policy_becomes_batch_and_one_that_somebody_chose_stays() {
        let (other, batch, idle) = (libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE);
        assert_eq!(policy_after(other, Scheduling::Batch), batch);
        assert_eq!(policy_after(other, Scheduling::Inherit), other);
        assert_eq!(policy_after(idle, Scheduling::Batch), idle);
        assert_eq!(policy_after(batch, Scheduling::Inherit), batch);
    }
}
