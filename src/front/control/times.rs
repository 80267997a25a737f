//! Times and durations as requests give them: RFC 3339, and the units of the configuration (CFG-2).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::config::Span;

/// Reads a duration.
pub fn duration(text: &str) -> Option<Duration> {
    text.parse().ok().map(Span::get)
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Reads a time (RFC 3339 §5.6), with any offset; a fraction of a second counts to the millisecond.
pub fn time(text: &str) -> Option<Timestamp> {
    let mut rest = text;
    let mut field = |digits: usize, separators: &str| -> Option<u32> {
        let (number, after) = rest.split_at_checked(digits)?;
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        rest = match separators {
            "" => after,
            any => after.strip_prefix(|c| any.contains(c))?,
        };
        number.parse().ok()
    };
    let year = field(4, "-")?;
    let month = field(2, "-")?;
    let day = field(2, "Tt")?;
    let hour = field(2, ":")?;
    let minute = field(2, ":")?;
    let second = field(2, "")?;
    let at = Timestamp::from_civil(i64::from(year), month, day, hour, minute, second)?;

    let mut millis = 0;
    if let Some(after) = rest.strip_prefix('.') {
        let (fraction, after) = split_digits(after);
        if fraction.is_empty() {
            return None;
        }
        let mut scale = 100;
        for digit in fraction.bytes().take(3) {
            millis += u64::from(digit - b'0') * scale;
            scale /= 10;
        }
        rest = after;
    }
    let at = at.plus(Duration::from_millis(millis));
    if matches!(rest, "Z" | "z") {
        return Some(at);
    }
    let (east, offset) = match rest.split_at_checked(1)? {
        ("+", offset) => (true, offset),
        ("-", offset) => (false, offset),
        _ => return None,
    };
    let (hours, minutes) = offset.split_once(':')?;
    let number = |text: &str, most: u64| -> Option<u64> {
        let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|n| plain && *n <= most)
    };
    let offset = Duration::from_secs(number(hours, 23)? * 3600 + number(minutes, 59)? * 60);
    // East of Greenwich the clocks are ahead of UTC.
    Some(if east {
        at.minus(offset)
    } else {
        at.plus(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_rfc_3339() {
        let noon = Timestamp::from_secs(1_795_262_400);
        for text in [
            "2026-11-21T12:00:00Z",
            "2026-11-21t12:00:00z",
            "2026-11-21T13:00:00+01:00",
            "2026-11-21T08:30:00-03:30",
            "2026-11-21T12:00:00.0009Z",
        ] {
            assert_eq!(time(text), Some(noon), "{text}");
        }
        assert_eq!(
            time("2026-11-21T12:00:00.25Z"),
            Some(noon.plus(Duration::from_millis(250)))
        );
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21T12:00:00",
            "2026-11-21T12:00Z",
            "2026-13-21T12:00:00Z",
            "2026-02-30T12:00:00Z",
            "2026-11-21T12:00:00.Z",
            "2026-11-21T12:00:00+1:00",
            "2026-11-21T12:00:00+01:60",
            "2026-11-21T12:00:00+\u{e9}1:00",
            "2026-11-21T12:00:00Zx",
            "+026-11-21T12:00:00Z",
            "20\u{e9}6-11-21T12:00:00Z",
        ] {
            assert_eq!(time(bad), None, "{bad}");
        }
    }

    proptest! {
        // SEC-6
        #[test]
        fn any_text_is_a_time_or_none(text in "[0-9TZ:.+é-]{0,30}") {
            let _ = (time(&text), duration(&text));
        }

        #[test]
        fn a_printed_time_is_read_back(secs in 0..253_402_300_799_i64) {
            let at = Timestamp::from_secs(secs);
            prop_assert_eq!(time(&at.to_string()), Some(at));
        }

        #[test]
        fn a_printed_span_is_read_back(secs in 0..3_000_000_000_u64) {
            let span = Duration::from_secs(secs);
            prop_assert_eq!(duration(&super::super::output::span(span)), Some(span));
        }
    }
}
