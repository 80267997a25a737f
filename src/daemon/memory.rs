//! Gives the memory of a load back when it is over (PRC-7).
//!
//! What a load leaves is caches of SQLite, which would keep their size for ever, and free memory that malloc(3) keeps in
//! the arenas of the threads that used it. The first is given up once the queue has rested for a moment; the second then,
//! and once more when idle threads and idle sessions have ended too. What is kept for threads, living and ended, is the affair
//! of [`heap`].

#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(
        unsafe_code,
        reason = "malloc_trim(3) and mallopt(3) have no safe form"
    )
)]

use std::time::Duration;

use crate::heap;

/// How often it is asked whether anything goes on; a look at a counter.
pub(super) const PACE: Duration = Duration::from_secs(10);

/// Looks after which sessions (`deliver.idle_session`) and threads that wait for work have ended.
const LATE: u32 = 5;

/// What is to be given back now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Caches,
    Allocator,
}

/// How long nothing has been going on.
#[derive(Debug, Default)]
pub(super) struct Idle {
    activity: u64,
    /// Looks without a change since the last one; `None`: all was given back.
    looks: Option<u32>,
}

impl Idle {
    /// Takes a look: `activity` is a number that changes with whatever happens.
    pub(super) fn look(&mut self, activity: u64) -> Step {
        if activity != self.activity {
            self.activity = activity;
            self.looks = Some(0);
            return Step::Nothing;
        }
        let Some(looks) = &mut self.looks else {
            return Step::Nothing;
        };
        *looks += 1;
        match *looks {
            1 => Step::Caches,
            2 => Step::Allocator,
            LATE => {
                self.looks = None;
                Step::Allocator
            }
            _ => Step::Nothing,
        }
    }
}

/// Fewest and most arenas of malloc(3).
const ARENAS: std::ops::RangeInclusive<usize> = 2..=4;

/// Says how many heaps malloc(3) may spread the threads over; before there are threads. By itself it makes eight for each
/// core, and each of them keeps some of what a load leaves. One for each core is as fast (tests/bench/README.md).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn few_arenas() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let arenas = cores.clamp(*ARENAS.start(), *ARENAS.end());
    // Where it cannot be had, all is as it was.
    if let Ok(arenas) = nix::libc::c_int::try_from(arenas) {
        // SAFETY: mallopt(3) takes numbers alone, and no other thread runs yet.
        unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, arenas) };
    }
}

/// Other allocators know better.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn few_arenas() {}

/// Returns to the system what malloc(3) holds and nobody uses. Other threads that allocate meanwhile wait for some
/// milliseconds at most.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn trim() {
    heap::hand_back();
    heap::free_stacks();
    // SAFETY: malloc_trim(3) is safe to call from any thread at any time, and touches no memory that is in use.
    unsafe { nix::libc::malloc_trim(0) };
}

/// Other allocators return memory by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    // PRC-7, SC-1
    #[test]
    fn memory_is_given_back_once_after_each_load_and_never_during_one() {
        let mut idle = Idle::default();
        let mut looks = |activity: &[u64]| -> Vec<Step> {
            activity
                .iter()
                .map(|activity| idle.look(*activity))
                .collect()
        };
        assert_eq!(looks(&[0; 20]), [Step::Nothing; 20]);
        assert_eq!(looks(&[5, 9, 12]), [Step::Nothing; 3]);
        let after = looks(&[12; 20]);
        let given = |step| after.iter().filter(|given| **given == step).count();
        assert_eq!(after[0], Step::Caches);
        assert_eq!((given(Step::Caches), given(Step::Allocator)), (1, 2));
        // Mail that comes meanwhile begins it anew.
        assert_eq!(
            looks(&[13, 13, 14, 14]),
            [Step::Nothing, Step::Caches, Step::Nothing, Step::Caches]
        );
    }
}
