//! Who is told what, and when: pure decisions about delivery status notifications (RFC 3461, RT-8, DSN-1, DSN-2).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Config;
use crate::message::{Head, Notify, dsn::Action};
use crate::policy::retry::Terms;

/// Whether the sender of a recipient gets a notification of this action.
///
/// `answerable` is false for a null reverse-path, which is never answered (RFC 5321 §4.5.5, DSN-2). NOTIFY=NEVER is obeyed
/// even at expiry (DSN-1).
pub fn wanted(answerable: bool, notify: Notify, action: Action) -> bool {
    if !answerable || notify.never {
        return false;
    }
    match action {
        Action::Failed => notify.failure,
        // RFC 3461 §4.1: without the parameter a delay may be reported; with it only if DELAY is among its words.
        Action::Delayed => notify.delay,
        Action::Delivered | Action::Relayed | Action::Expanded => notify.success,
    }
}

/// When the sender of a message is to be told next that it is still here, under the configuration in force.
pub fn next_delay_of(config: &Config, head: &Head, now: Timestamp) -> Option<Timestamp> {
    head.reverse_path.mailbox()?;
    let ages: Vec<Duration> = config
        .retry
        .delay_notices
        .iter()
        .map(|age| age.get())
        .collect();
    next_delay(&ages, head.arrived, Terms::of(config, head).expiry(), now)
}

/// When the next delay notice of a recipient is due: at the first of `ages` that lies after `now` and before the
/// recipient's expiry. `None` when no further one will ever be due (RT-8: each age at most once, none at or past expiry).
pub fn next_delay(
    ages: &[Duration],
    counted_from: Timestamp,
    expiry: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    ages.iter()
        .map(|age| counted_from.plus(*age))
        .filter(|at| *at > now && *at < expiry)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    // DSN-1, DSN-2
    #[test]
    fn a_null_reverse_path_and_never_are_not_answered() {
        let never = Notify {
            never: true,
            failure: false,
            delay: false,
            success: false,
            given: true,
        };
        for action in [Action::Failed, Action::Delayed, Action::Relayed] {
            assert!(!wanted(false, Notify::default(), action));
            assert!(!wanted(true, never, action));
        }
        assert!(wanted(true, Notify::default(), Action::Failed));
        assert!(wanted(true, Notify::default(), Action::Delayed));
        assert!(!wanted(true, Notify::default(), Action::Relayed));
        let only_success = Notify {
            success: true,
            failure: false,
            delay: false,
            never: false,
            given: true,
        };
        assert!(wanted(true, only_success, Action::Relayed));
        assert!(!wanted(true, only_success, Action::Failed));
    }

    // RT-8
    #[test]
    fn each_age_comes_once_and_none_at_or_past_the_expiry() {
        let start = Timestamp::from_secs(1_000_000);
        let ages = [hours(4), hours(24), hours(72)];
        let expiry = start.plus(hours(72));
        assert_eq!(
            next_delay(&ages, start, expiry, start),
            Some(start.plus(hours(4)))
        );
        assert_eq!(
            next_delay(&ages, start, expiry, start.plus(hours(4))),
            Some(start.plus(hours(24)))
        );
        assert_eq!(
            next_delay(&ages, start, expiry, start.plus(hours(24))),
            None
        );
        assert_eq!(next_delay(&[], start, expiry, start), None);
    }
}
