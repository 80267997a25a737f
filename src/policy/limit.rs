//! How much of the daemon one destination may use (SC-1, SC-3). Pure.
//!
//! A window that learns (SC-5) and per-destination tables (SC-9) will be further facts here.

use crate::config::Config;
use crate::store::DestinationKey;

/// What limits a destination in this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Most transactions in the whole daemon.
    pub workers: usize,
    /// Transactions that run now, to all destinations.
    pub busy: usize,
    /// Those to this destination.
    pub in_flight: usize,
    /// Its [`window`].
    pub window: usize,
}

/// Most connections to `destination` at once.
pub fn window(config: &Config, _destination: &DestinationKey) -> usize {
    config.limits.connections.max(1)
}

/// Half the workers, at least one: the most that a destination may hold (SC-3).
pub fn half(workers: usize) -> usize {
    (workers / 2).max(1)
}

/// How many more transactions a destination may have now.
///
/// The workers (SC-1) and the destination's window are hard bounds. The others exist because a slot cannot be taken
/// back from a peer that has stopped answering: what other mail will need within seconds (SC-2) must be kept free
/// before that mail is due. So a destination holds at most half the workers, also when it is alone (SC-3); and the
/// last quarter of the workers is for destinations that have none, so that a few silent ones do not end up with all.
pub fn room(standing: &Standing) -> usize {
    let free = standing.workers.saturating_sub(standing.busy);
    let most = standing.window.min(half(standing.workers));
    let within = most.saturating_sub(standing.in_flight);
    let kept = (standing.workers / 4).max(1);
    let first = usize::from(standing.in_flight == 0);
    within.min(free.saturating_sub(kept).max(first.min(free)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone(workers: usize, window: usize) -> usize {
        let mut held = 0;
        loop {
            let more = room(&Standing {
                workers,
                busy: held,
                in_flight: held,
                window,
            });
            if more == 0 {
                return held;
            }
            held += more;
        }
    }

    // SC-1, SC-3
    #[test]
    fn a_destination_alone_ends_at_its_window_or_half_the_workers() {
        assert_eq!(alone(64, 20), 20);
        assert_eq!(alone(64, 1), 1);
        assert_eq!(alone(8, 20), 4);
        for workers in 1..80 {
            let held = alone(workers, 1000);
            assert!((1..=half(workers)).contains(&held), "{held} of {workers}");
        }
    }

    // SC-2
    #[test]
    fn ten_silent_destinations_leave_workers_for_the_others() {
        let (workers, mut busy) = (64, 0);
        for _ in 0..10 {
            let mut in_flight = 0;
            loop {
                let more = room(&Standing {
                    workers,
                    busy,
                    in_flight,
                    window: 20,
                });
                if more == 0 {
                    break;
                }
                in_flight += more.min(1);
                busy += more.min(1);
            }
            assert!(in_flight >= 1, "a destination without a slot gets one");
        }
        assert!(workers - busy >= 16 - 10, "{busy} of {workers} are taken");
        let standing = Standing {
            workers,
            busy: workers,
            in_flight: 0,
            window: 20,
        };
        assert_eq!(room(&standing), 0, "no worker, no room");
    }
}
