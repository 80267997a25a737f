//! `[retry]`

use super::table::table;
use super::units::{Span, not_zero};
use super::value::within;

table! {
    /// `[retry]` (CFG-14).
    pub struct Retry in "retry" {
        /// Waits after the first, second, .. failed attempt; the last one repeats.
        intervals: Vec<Span> = r#"["7m30s", "15m", "30m", "1h", "2h", "4h", "8h", "16h"]"#, all_positive;
        /// Each wait is multiplied by a random factor 1 ± this, from 0 to 0.5, so that retries do not march in step.
        jitter: f64 = "0.1", within(0.0, 0.5);
        /// How long a recipient is tried before its sender is told that posthaste gave up.
        /// Counted from acceptance; checked together with `max_attempts`. RFC 5321 §4.5.4.1 asks for 4 to 5 days.
        lifetime: Span = "\"5d\"", not_zero;
        /// Most attempts for a recipient; not set: as many as fit into `lifetime`.
        max_attempts: Option<u32> = (unset), at_least_one;
        /// Ages at which the sender of a waiting message is told of the delay; `[]` for never.
        delay_notices: Vec<Span> = r#"["4h", "24h", "72h"]"#, rising;
    }
}

fn all_positive(intervals: &[Span]) -> Result<(), String> {
    if intervals.is_empty() {
        return Err("at least one interval is needed".to_owned());
    }
    intervals.iter().try_for_each(not_zero)
}

fn at_least_one(attempts: &Option<u32>) -> Result<(), String> {
    attempts.as_ref().map_or(Ok(()), within(1, u32::MAX))
}

fn rising(ages: &[Span]) -> Result<(), String> {
    ages.iter().try_for_each(not_zero)?;
    if ages.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err("the ages must rise".to_owned())
    }
}
