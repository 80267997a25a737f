//! Notices that mail which could go does not (SC-11).
//!
//! Whatever the cause (a slot that was lost, a lock, a commit that never returns): a daemon that listens but does not
//! deliver is worse than one that ends and is started again. Time is counted in looks at a monotonic pace, so neither
//! a clock step nor a suspended machine counts as standing still.

use std::time::Duration;

/// Time between two looks.
pub const PACE: Duration = Duration::from_secs(60);

/// Looks without progress after which something is wrong: 10 minutes.
const PATIENCE: u32 = 10;

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Watchdog {
    progress: u64,
    looks: u32,
}

impl Watchdog {
    /// One look, [`PACE`] after the last: whether due mail could go, and the counter of progress. `true`: it has stood
    /// still for too long.
    pub fn look(&mut self, could_go: bool, progress: u64) -> bool {
        if !could_go || progress != self.progress {
            self.looks = 0;
        } else {
            self.looks += 1;
        }
        self.progress = progress;
        self.looks >= PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // SC-11
    #[test]
    fn ten_minutes_without_progress_are_too_long_and_any_progress_starts_them_anew() {
        let mut dog = Watchdog::default();
        assert!((0..9).all(|_| !dog.look(true, 0)));
        assert!(!dog.look(true, 1), "something went out");
        assert!((0..9).all(|_| !dog.look(true, 1)));
        assert!(dog.look(true, 1));
    }

    // SC-11
    #[test]
    fn mail_that_may_not_go_is_no_reason_to_worry() {
        let mut dog = Watchdog::default();
        assert!((0..100).all(|_| !dog.look(false, 0)));
    }
}
