//! Who is told what, and when: pure decisions about delivery status notifications (RFC 3461, RT-8, DSN-1, DSN-2).

use std::time::Duration;

use crate::clock::Timestamp;
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

/// When the sender of a message is to be told next that a recipient is still here, under the terms in force: at the
/// first age past `told`, the one that was told last. It may have gone by already, when ages were lowered. `None` when
/// no further one will ever be due (RT-8: each age at most once, none at or past the expiry).
pub fn next_delay_of(terms: &Terms<'_>, head: &Head, told: Duration) -> Option<Timestamp> {
    head.reverse_path.mailbox()?;
    terms
        .delay_notices()
        .filter(|age| *age > told)
        .min()
        .map(|age| head.arrived.plus(age))
}

/// The age that a delay notice sent now tells: the last one reached, if it was not told before. Several that went by
/// together, as while the daemon was down, are one notice.
pub fn delay_reached(
    terms: &Terms<'_>,
    head: &Head,
    told: Duration,
    now: Timestamp,
) -> Option<Duration> {
    head.reverse_path.mailbox()?;
    // The attempt that follows is the last, and its end is told (RT-4).
    if now >= terms.expiry() {
        return None;
    }
    terms
        .delay_notices()
        .filter(|age| *age > told && head.arrived.plus(*age) <= now)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Span};
    use crate::message::QueueId;
    use crate::smtp::address::{Domain, ReversePath};

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    fn head(arrived: Timestamp) -> Head {
        Head {
            client: "192.0.2.9".into(),
            reverse_path: ReversePath::parse("ann@here.example", false).unwrap(),
            size: 1000,
            ..Head::new(QueueId::new(42).unwrap(), arrived, "relay")
        }
    }

    // DSN-1, DSN-2
    #[test]
    fn a_null_reverse_path_and_never_are_not_answered() {
        for action in [Action::Failed, Action::Delayed, Action::Relayed] {
            assert!(!wanted(false, Notify::default(), action));
            assert!(!wanted(true, Notify::NEVER, action));
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
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        config.retry.lifetime = Span(hours(72));
        let start = Timestamp::from_secs(1_000_000);
        let head = head(start);
        let next = |config: &Config, told| {
            next_delay_of(&Terms::of(config, &head), &head, hours(told))
                .map(|at| at.since(start).as_secs() / 3600)
        };
        let reached = |config: &Config, told, age| {
            let terms = Terms::of(config, &head);
            delay_reached(&terms, &head, hours(told), start.plus(hours(age)))
                .map(|age| age.as_secs() / 3600)
        };
        // The third of the default ages is the expiry itself.
        assert_eq!(
            [0, 4, 24].map(|told| next(&config, told)),
            [Some(4), Some(24), None]
        );
        assert_eq!(reached(&config, 0, 3), None);
        assert_eq!(reached(&config, 0, 4), Some(4));
        assert_eq!(reached(&config, 4, 23), None);
        // Both went by while nobody looked, and the clock goes back afterwards.
        assert_eq!(reached(&config, 0, 30), Some(24));
        assert_eq!(reached(&config, 24, 5), None);
        assert_eq!(reached(&config, 0, 72), None);
        // Ages that were lowered count from the next look on; without any nothing is told.
        config.retry.delay_notices = vec![Span(hours(1)), Span(hours(3))];
        assert_eq!(next(&config, 0), Some(1));
        assert_eq!(reached(&config, 0, 2), Some(1));
        config.retry.delay_notices.clear();
        assert_eq!((next(&config, 0), reached(&config, 0, 30)), (None, None));
    }
}
