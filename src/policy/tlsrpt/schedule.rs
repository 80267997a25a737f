//! When reports go out (RPT-2, RPT-4). Pure.
//!
//! Every sender reports at the same midnight, so each begins a few minutes after it, at a time of its own, and spreads
//! its reports over hours (RFC 8460 §4.1: a full UTC day; a random delay of up to four hours).

use std::time::Duration;

use crate::clock::Timestamp;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The first report goes out so long after midnight at the earliest,
const EARLIEST: Duration = Duration::from_secs(4 * MINUTE);
/// and so much later at the latest.
const JITTER: Duration = Duration::from_secs(2 * MINUTE);
/// All reports of a day go out within this time,
const WITHIN: Duration = Duration::from_secs(4 * HOUR);
/// and two of them are no further apart than this, so that few are done soon.
const APART: Duration = Duration::from_secs(5 * MINUTE);
/// What is older than this tells nobody anything.
const KEPT: Duration = Duration::from_secs(48 * HOUR);

/// The waits after each failed try but the last (RFC 8460 §5.5: on a logarithmic scale, up to 24 hours).
const AGAIN: [Duration; TRIES as usize - 1] = [
    Duration::from_secs(10 * MINUTE),
    Duration::from_secs(30 * MINUTE),
    Duration::from_secs(90 * MINUTE),
    Duration::from_secs(4 * HOUR),
];

/// How often a report is tried (RPT-4), by whatever way.
pub const TRIES: u32 = 5;

/// A UTC day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i64);

impl Day {
    /// The day of a time.
    pub fn of(at: Timestamp) -> Day {
        Day(at.secs().div_euclid(24 * HOUR as i64))
    }

    /// Days since 1970-01-01, as the store keeps it.
    pub fn number(self) -> i64 {
        self.0
    }

    /// The reverse of [`Day::number`].
    pub fn from_number(number: i64) -> Day {
        Day(number)
    }

    /// 00:00 UTC.
    pub fn start(self) -> Timestamp {
        Timestamp::from_secs(self.0.saturating_mul(24 * HOUR as i64))
    }

    /// 24:00 UTC.
    pub fn end(self) -> Timestamp {
        self.following().start()
    }

    /// The day after.
    pub fn following(self) -> Day {
        Day(self.0.saturating_add(1))
    }

    /// As RFC 3339 writes it.
    pub fn date(self) -> String {
        let (year, month, day, ..) = self.start().civil();
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// When the reports about the days before `today` begin to go out. `random` is 0..=1, drawn once a day.
pub fn begins(today: Day, random: f64) -> Timestamp {
    let jitter = JITTER.mul_f64(random.clamp(0.0, 1.0));
    today.start().plus(EARLIEST + jitter)
}

/// How long after one report the next goes out when so many still wait. Within the hours after `begins` what is left of
/// them is shared; who comes later, as after a day off, spreads what waits over as many hours from then on.
pub fn pace(waiting: usize, begins: Timestamp, now: Timestamp) -> Duration {
    let end = begins.plus(WITHIN);
    let left = if now < end { end.since(now) } else { WITHIN };
    // One share stays free, so that the last of them is not at the very end.
    let shares = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(1);
    (left / shares).min(APART)
}

/// How long after a failed try the next one is due; `None`: that was the last.
pub fn again(tries: u32) -> Option<Duration> {
    let nth = usize::try_from(tries.saturating_sub(1)).ok()?;
    AGAIN.get(nth).copied()
}

/// The first day that is worth a report at this time: older ones are dropped.
pub fn oldest(now: Timestamp) -> Day {
    // A day is as old as its end.
    Day::of(now.minus(KEPT))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * HOUR;

    fn at(day: i64, hour: u64, minute: u64) -> Timestamp {
        Day(day)
            .start()
            .plus(Duration::from_secs(hour * HOUR + minute * MINUTE))
    }

    // RPT-1
    #[test]
    fn a_day_is_that_of_utc() {
        let day = Day::of(Timestamp::from_secs(1_800_000_000));
        assert_eq!(day.date(), "2027-01-15");
        assert_eq!(day.start().to_string(), "2027-01-15T00:00:00Z");
        assert_eq!(day.end().since(day.start()), Duration::from_secs(DAY));
        assert_eq!(Day::of(day.end()), day.following());
        assert_eq!(Day::of(day.end().minus(Duration::from_millis(1))), day);
    }

    // RPT-2
    #[test]
    fn reports_begin_four_to_six_minutes_after_midnight() {
        assert_eq!(begins(Day(7), 0.0), at(7, 0, 4));
        assert_eq!(begins(Day(7), 1.0), at(7, 0, 6));
        assert_eq!(begins(Day(7), 9.0), at(7, 0, 6));
    }

    // RPT-2: a year's worth of sizes; whatever their number, all are out within the hours.
    #[test]
    fn all_are_out_within_four_hours_and_few_of_them_soon() {
        for count in [1, 2, 48, 49, 1000, 10_000] {
            let begins = begins(Day(7), 0.3);
            let (mut now, mut times) = (begins, Vec::new());
            for left in (0..count).rev() {
                times.push(now);
                now = now.plus(pace(left, begins, now));
            }
            let last = *times.last().unwrap();
            assert!(last.since(begins) < WITHIN, "{count}: {last}");
            let apart = |pair: &[Timestamp]| pair[1].since(pair[0]);
            assert!(times.windows(2).all(|pair| apart(pair) <= APART), "{count}");
            if count == 10_000 {
                assert!(last.since(begins) > WITHIN * 9 / 10, "spread");
            }
        }
    }

    // RPT-2
    #[test]
    fn who_comes_late_spreads_them_all_the_same() {
        let begins = begins(Day(7), 0.0);
        let late = at(7, 9, 0);
        assert_eq!(pace(3, begins, late), APART);
        assert_eq!(pace(14_399, begins, late), Duration::from_secs(1));
        assert_eq!(pace(0, begins, late), APART);
    }

    // RPT-4
    #[test]
    fn a_report_is_tried_five_times_within_a_day() {
        let waits: Vec<Duration> = (1..).map_while(again).collect();
        assert_eq!(waits.len() + 1, 5);
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(waits.iter().sum::<Duration>() < Duration::from_secs(DAY));
        assert_eq!(again(0), Some(AGAIN[0]), "of a row that was never tried");
    }

    // RPT-2
    #[test]
    fn what_ended_48_hours_ago_is_dropped() {
        assert_eq!(oldest(at(10, 0, 0)), Day(8));
        assert_eq!(oldest(at(9, 23, 59)), Day(7));
        assert_eq!(oldest(at(9, 0, 0)), Day(7));
    }
}
