//! Typed time, movable in tests.
//!
//! Two kinds of time are kept apart. A [`Timestamp`] is UTC wall-clock time, the only kind that is ever stored.
//! Spans inside one run are measured with [`std::time::Instant`] (see `net::deadline`) and are not the business of
//! this module. Everything that asks "what time is it" or "wake me at" for the *queue* asks a [`Clock`], so that a
//! test can drive years of retry schedule in milliseconds.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, after, bounded, never};

/// UTC time in milliseconds since 1970-01-01T00:00:00Z, never negative.
///
/// Milliseconds and not seconds, because retry intervals may be set down to milliseconds for trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest instant that can be written as RFC 3339: 9999-12-31T23:59:59.999Z. Arithmetic saturates here.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// From milliseconds since the epoch; values out of range are clamped.
    pub fn from_millis(millis: i64) -> Timestamp {
        Timestamp(millis.clamp(0, Self::MAX.0))
    }

    /// From whole seconds since the epoch; values out of range are clamped.
    pub fn from_secs(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs.saturating_mul(1000))
    }

    /// Milliseconds since the epoch, as stored.
    pub fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub fn secs(self) -> i64 {
        self.0 / 1000
    }

    /// This time moved forward, saturating at [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Timestamp {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.0.saturating_add(millis))
    }

    /// This time moved back, saturating at the epoch.
    #[must_use]
    pub fn minus(self, span: Duration) -> Timestamp {
        let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millis(self.0.saturating_sub(millis))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Year, month, day, hour, minute, second, in UTC (proleptic Gregorian).
    pub fn civil(self) -> (i64, u32, u32, u32, u32, u32) {
        let secs = self.secs();
        let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        // Days to civil date by eras of 400 years, counted from 0000-03-01.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
        let month = if month_shifted < 10 {
            month_shifted + 3
        } else {
            month_shifted - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (
            year,
            month as u32,
            day as u32,
            (rest / 3600) as u32,
            (rest / 60 % 60) as u32,
            (rest % 60) as u32,
        )
    }

    /// From a civil UTC date and time; `None` when a field is out of range (second 60 is taken as 59).
    pub fn from_civil(
        year: i64,
        month: u32,
        day: u32,
        hour: u32,
        minute: u32,
        second: u32,
    ) -> Option<Timestamp> {
        if !(1970..=9999).contains(&year)
            || !(1..=12).contains(&month)
            || hour > 23
            || minute > 59
            || second > 60
        {
            return None;
        }
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in_month = match month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if day < 1 || day > days_in_month {
            return None;
        }
        let (m, y) = (i64::from(month), if month <= 2 { year - 1 } else { year });
        let era = y.div_euclid(400);
        let year_of_era = y.rem_euclid(400);
        let day_of_year = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + i64::from(day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let secs = days * 86_400
            + i64::from(hour) * 3600
            + i64::from(minute) * 60
            + i64::from(second.min(59));
        Some(Timestamp::from_secs(secs))
    }

    /// Writes `2026-11-21T18:40:00`: each line of the log has it, so its digits are put together by hand.
    pub(crate) fn write_civil<W: Write + ?Sized>(self, out: &mut W) -> fmt::Result {
        let (year, month, day, hour, minute, second) = self.civil();
        write!(out, "{year:04}")?;
        let mut text = *b"-00-00T00:00:00";
        let parts = [(1, month), (4, day), (7, hour), (10, minute), (13, second)];
        put_two_digits(&mut text, parts);
        out.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }

    /// The date as RFC 5322 §3.3 writes it in headers, in UTC: `Sat, 21 Nov 2026 18:40:00 +0000`.
    pub fn rfc5322(self) -> String {
        const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let (year, month, day, hour, minute, second) = self.civil();
        let weekday = DAYS[(self.secs().div_euclid(86_400)).rem_euclid(7) as usize];
        let month = MONTHS[(month - 1) as usize];
        let mut time = *b"00:00:00";
        put_two_digits(&mut time, [(0, hour), (3, minute), (6, second)]);
        let time = std::str::from_utf8(&time).unwrap_or_default();
        format!("{weekday}, {day} {month} {year:04} {time} +0000")
    }
}

/// Adds numbers below 100 to the zeros that stand at their places.
fn put_two_digits<const N: usize>(text: &mut [u8], numbers: [(usize, u32); N]) {
    for (at, number) in numbers {
        text[at] += (number / 10) as u8;
        text[at + 1] += (number % 10) as u8;
    }
}

/// RFC 3339 in UTC with whole seconds: `2026-11-21T18:40:00Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_civil(f)?;
        f.write_char('Z')
    }
}

/// Where the time comes from. Cheap to clone; all clones share one time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Mutex<Manual>>),
}

#[derive(Debug)]
struct Manual {
    now: Timestamp,
    timers: Vec<(Timestamp, Sender<Instant>)>,
}

impl Clock {
    /// The clock of the system.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still until [`Clock::advance`] or [`Clock::set`] moves it.
    pub fn manual(start: Timestamp) -> Clock {
        Clock(Source::Manual(Arc::new(Mutex::new(Manual {
            now: start,
            timers: Vec::new(),
        }))))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Source::Manual(manual) => manual.lock().unwrap_or_else(PoisonError::into_inner).now,
        }
    }

    /// A channel that becomes readable once the time is `at` or later; for use in `select!`.
    ///
    /// With the system clock the wait is monotonic and computed from the time now: a later clock step neither
    /// shortens nor lengthens it (RT-9), so callers that must notice steps ask for no more than they can bear.
    pub fn timer(&self, at: Timestamp) -> Receiver<Instant> {
        match &self.0 {
            Source::System if at == Timestamp::MAX => never(),
            Source::System => after(at.since(self.now())),
            Source::Manual(manual) => {
                let mut manual = manual.lock().unwrap_or_else(PoisonError::into_inner);
                let (sender, receiver) = bounded(1);
                if manual.now >= at {
                    // The receiver is in our hands and empty, so this cannot fail.
                    let _ = sender.send(Instant::now());
                } else {
                    manual.timers.push((at, sender));
                }
                receiver
            }
        }
    }

    /// Moves a manual clock forward and fires the timers that have come due. No effect on the system clock.
    pub fn advance(&self, span: Duration) {
        self.set(self.now().plus(span));
    }

    /// Sets a manual clock, forward or backward, and fires the timers that are due then. No effect on the system clock.
    pub fn set(&self, to: Timestamp) {
        if let Source::Manual(manual) = &self.0 {
            let mut manual = manual.lock().unwrap_or_else(PoisonError::into_inner);
            manual.now = to;
            manual.timers.retain(|(at, sender)| {
                if *at <= to {
                    let _ = sender.try_send(Instant::now());
                }
                *at > to
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_round_trip_over_leap_years_and_centuries() {
        for secs in [
            0,
            951_782_400,
            951_868_799,
            1_709_164_800,
            4_107_542_400,
            253_402_300_799,
        ] {
            let t = Timestamp::from_secs(secs);
            let (y, mo, d, h, mi, s) = t.civil();
            assert_eq!(Timestamp::from_civil(y, mo, d, h, mi, s), Some(t), "{t}");
        }
        assert_eq!(
            Timestamp::from_secs(1_795_286_400).to_string(),
            "2026-11-21T18:40:00Z"
        );
        assert_eq!(
            Timestamp::from_secs(1_795_286_400).rfc5322(),
            "Sat, 21 Nov 2026 18:40:00 +0000"
        );
        assert_eq!(Timestamp::from_civil(2026, 2, 29, 0, 0, 0), None);
    }

    #[test]
    fn a_manual_clock_fires_a_timer_when_it_passes_it_and_not_before() {
        let clock = Clock::manual(Timestamp::from_secs(100));
        let timer = clock.timer(Timestamp::from_secs(160));
        clock.advance(Duration::from_secs(59));
        assert!(timer.try_recv().is_err());
        clock.advance(Duration::from_secs(1));
        assert!(timer.try_recv().is_ok());
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(Timestamp::MAX.plus(Duration::MAX), Timestamp::MAX);
        assert_eq!(
            Timestamp::from_secs(5).minus(Duration::from_secs(9)),
            Timestamp::default()
        );
        assert_eq!(
            Timestamp::from_secs(5).since(Timestamp::from_secs(9)),
            Duration::ZERO
        );
    }
}
