//! Who is told what, and when: pure decisions about delivery status notifications (RFC 3461, RT-8, DSN-1, DSN-2).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::message::{Notify, dsn::Action};
use crate::smtp::address::ReversePath;

/// Whether the sender of a recipient gets a notification of this action.
///
/// A null reverse-path is never answered (RFC 5321 §4.5.5), and NOTIFY=NEVER is obeyed even at expiry (DSN-1).
pub fn wanted(reverse_path: &ReversePath, notify: Notify, action: Action) -> bool {
    if *reverse_path == ReversePath::Null || notify.never {
        return false;
    }
    match action {
        Action::Failed => notify.failure,
        // RFC 3461 §4.1: without the parameter a delay may be reported; with it only if DELAY is among its words.
        Action::Delayed => notify.delay,
        Action::Delivered | Action::Relayed | Action::Expanded => notify.success,
    }
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
    use crate::smtp::address::Mailbox;

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    // DSN-1, DSN-2
    #[test]
    fn a_null_reverse_path_and_never_are_not_answered() {
        let bob = ReversePath::Mailbox(Mailbox::parse("bob@here.example", false).unwrap());
        let never = Notify {
            never: true,
            failure: false,
            delay: false,
            success: false,
            given: true,
        };
        for action in [Action::Failed, Action::Delayed, Action::Relayed] {
            assert!(!wanted(&ReversePath::Null, Notify::default(), action));
            assert!(!wanted(&bob, never, action));
        }
        assert!(wanted(&bob, Notify::default(), Action::Failed));
        assert!(wanted(&bob, Notify::default(), Action::Delayed));
        assert!(!wanted(&bob, Notify::default(), Action::Relayed));
        let only_success = Notify {
            success: true,
            failure: false,
            delay: false,
            never: false,
            given: true,
        };
        assert!(wanted(&bob, only_success, Action::Relayed));
        assert!(!wanted(&bob, only_success, Action::Failed));
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
