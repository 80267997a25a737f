//! One limit for a whole stage, made once and passed down by value.

use std::io;
use std::time::{Duration, Instant};

/// The instant at which a stage has run out of time. A peer that drips bytes still runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `span` from now; spans too long to express become about a century.
    pub fn after(span: Duration) -> Deadline {
        let now = Instant::now();
        let century = Duration::from_secs(3_155_760_000);
        Deadline(
            now.checked_add(span)
                .or_else(|| now.checked_add(century))
                .unwrap_or(now),
        )
    }

    /// The earlier of the two.
    #[must_use]
    pub fn min(self, other: Deadline) -> Deadline {
        Deadline(self.0.min(other.0))
    }

    /// Later by this span: it did not count.
    #[must_use]
    pub fn put_off(self, span: Duration) -> Deadline {
        Deadline(self.0.checked_add(span).unwrap_or(self.0))
    }

    /// Time left, never zero, because std refuses a zero socket timeout.
    ///
    /// # Errors
    /// `TimedOut` when nothing is left.
    pub fn remaining(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(left)
        }
    }

    /// Whether the time is over.
    pub fn is_over(self) -> bool {
        self.remaining().is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_a_deadline_that_is_over() {
        let over = Deadline::after(Duration::ZERO);
        assert!(over.is_over());
        let error = over.remaining().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn spans_too_long_to_express_are_long_and_the_earlier_of_two_counts() {
        let never = Deadline::after(Duration::MAX);
        let hour = Deadline::after(Duration::from_secs(3600));
        assert!(never > hour && !never.is_over());
        assert_eq!(never.min(hour), hour);
        assert!(hour.remaining().unwrap() <= Duration::from_secs(3600));
    }
}
