//! Durations, sizes and rates that carry their units (CFG-2).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::table::Fault;
use super::value::{Value, parsed, quoted};

/// A duration: numbers with units w d h m s ms, joined without blanks (`"7m30s"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

const MILLIS: [(&str, u64); 6] = [
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The most that a stored time can be moved by and stay a time (milliseconds as i64).
const LONGEST_MILLIS: u64 = i64::MAX as u64;

/// A number and the letters behind it; what follows them is left in `rest`.
fn number_and_unit<'a>(rest: &mut &'a str, kind: &str) -> Result<(u64, &'a str), String> {
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (number, tail) = rest.split_at(digits);
    if number.is_empty() {
        return Err(format!("a {kind} begins with a number"));
    }
    let number = number
        .parse()
        .map_err(|_| format!("{number} is too large for a {kind}"))?;
    let letters = tail
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(tail.len());
    let (unit, tail) = tail.split_at(letters);
    *rest = tail;
    Ok((number, unit))
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        const UNITS: &str = "the units of a duration are w, d, h, m, s, ms";
        let mut rest = text;
        let mut millis: u64 = 0;
        loop {
            let (number, unit) = number_and_unit(&mut rest, "duration")?;
            let each = MILLIS.iter().find(|(name, _)| *name == unit);
            let Some((_, each)) = each else {
                return Err(if unit.is_empty() {
                    format!("a number without its unit; {UNITS}")
                } else {
                    format!("{unit:?} is no unit; {UNITS}")
                });
            };
            millis = number
                .checked_mul(*each)
                .and_then(|part| millis.checked_add(part))
                .filter(|millis| *millis <= LONGEST_MILLIS)
                .ok_or("the duration is too long")?;
            if rest.is_empty() {
                return Ok(Span(Duration::from_millis(millis)));
            }
        }
    }
}

/// In the largest units that fit, zero parts left out: `7m30s`, `0s`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        // Weeks are read but not written: "2w" is shorter, "14d" is what people say of a queue.
        for (unit, each) in &MILLIS[1..] {
            let each = u128::from(*each);
            if millis >= each {
                write!(f, "{}{unit}", millis / each)?;
                millis %= each;
            }
        }
        Ok(())
    }
}

/// A size: a number with unit B KiB MiB GiB (`"50MiB"`), in octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// Octets.
    pub const fn get(self) -> u64 {
        self.0
    }
}

const OCTETS: [(&str, u64); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        const UNITS: &str = "the units of a size are B, KiB, MiB, GiB";
        let mut rest = text;
        let (number, unit) = number_and_unit(&mut rest, "size")?;
        let each = OCTETS.iter().find(|(name, _)| *name == unit);
        let Some((_, each)) = each.filter(|_| rest.is_empty()) else {
            return Err(if unit.is_empty() {
                format!("a number without its unit; {UNITS}")
            } else {
                format!("{:?} is no unit; {UNITS}", format!("{unit}{rest}"))
            });
        };
        // SQLite and off_t count in signed 64 bits.
        number
            .checked_mul(*each)
            .filter(|octets| i64::try_from(*octets).is_ok())
            .map(Size)
            .ok_or_else(|| "the size is too large".to_owned())
    }
}

/// In the largest unit that gives a whole number.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |each: u64| self.0 >= each && self.0.is_multiple_of(each);
        let unit = OCTETS.iter().find(|(_, each)| fits(*each));
        let (name, each) = unit.unwrap_or(&OCTETS[3]);
        write!(f, "{}{name}", self.0 / each)
    }
}

/// `"count/duration"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub count: u64,
    /// In which time; more than none.
    pub per: Span,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let (count, per) = text
            .split_once('/')
            .ok_or("a rate is count/duration, such as 100/1h")?;
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = count.parse().ok().filter(|count| digits && *count > 0);
        let count = count.ok_or("the count of a rate is a number from 1")?;
        let per: Span = per.parse()?;
        if per.0.is_zero() {
            return Err("the duration of a rate is not zero".to_owned());
        }
        Ok(Rate { count, per })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per)
    }
}

/// A rate that bounds something; `""`: nothing does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit(pub Option<Rate>);

impl Value for RateLimit {
    /// Where it may be left out, `""` says something else than nothing.
    const TEXT: bool = false;

    fn read(value: &Spanned<DeValue<'_>>) -> Result<RateLimit, Fault> {
        Option::<Rate>::read(value).map(RateLimit)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(
            &self.0.map(|rate| rate.to_string()).unwrap_or_default(),
        ))
    }
}

macro_rules! values {
    ($($ty:ty: $wanted:literal),*) => {$(
        impl Value for $ty {
            fn read(value: &Spanned<DeValue<'_>>) -> Result<$ty, Fault> {
                parsed(value, $wanted, str::parse::<$ty>)
            }

            fn show(&self) -> Option<String> {
                Some(quoted(&self.to_string()))
            }
        }
    )*};
}
values!(
    Span: "a duration in quotes with its unit, such as \"7m30s\"",
    Size: "a size in quotes with its unit, such as \"50MiB\"",
    Rate: "a rate in quotes, such as \"100/1h\""
);

/// A check: a wait of no length is no wait.
///
/// # Errors
/// It is zero.
pub fn not_zero(span: &Span) -> Result<(), String> {
    if span.0.is_zero() {
        Err("the duration must not be zero".to_owned())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Result<Duration, String> {
        text.parse().map(Span::get)
    }

    // CFG-2
    #[test]
    fn durations_are_numbers_with_units_joined_without_blanks() {
        for (text, millis) in [
            ("7m30s", 450_000),
            ("5d", 432_000_000),
            ("1w2d3h4m5s6ms", 788_645_006),
            ("250ms", 250),
            ("0s", 0),
            ("1h1h", 7_200_000),
        ] {
            assert_eq!(span(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    // CFG-2
    #[test]
    fn a_bare_number_a_sign_an_overflow_and_an_unknown_unit_are_errors() {
        for text in [
            "",
            "5",
            "-5s",
            "+5s",
            "5 s",
            "5s ",
            " 5s",
            "5S",
            "5y",
            "5min",
            "s",
            "1.5h",
            "7m30",
            "99999999999999999999s",
            "18446744073709551615w",
            "9223372036854775807s",
            "5s,",
            "\u{665}s",
        ] {
            assert!(span(text).is_err(), "{text:?}");
        }
        for text in [
            "",
            "5",
            "-5B",
            "+5B",
            "5 MiB",
            "5MB",
            "5mib",
            "5KiB3B",
            "MiB",
            "1.5GiB",
            "0x5B",
            "99999999999999999999B",
            "17179869184GiB",
            "5MiB ",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text:?}");
        }
        for text in [
            "", "5", "/1h", "0/1h", "-1/1h", "+1/1h", "1/", "1/0s", "1/h", "1/2", "1/1h/1h",
            "1 /1h",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    // CFG-2
    #[test]
    fn what_is_printed_is_read_as_the_same() {
        for text in ["7m30s", "5d", "0s", "250ms", "14d", "1d12h", "1s5ms"] {
            assert_eq!(
                text.parse::<Span>().map(|s| s.to_string()),
                Ok(text.to_owned())
            );
        }
        for text in ["50MiB", "1GiB", "1000B", "1025KiB", "0B"] {
            assert_eq!(
                text.parse::<Size>().map(|s| s.to_string()),
                Ok(text.to_owned())
            );
        }
        assert_eq!(
            "100/1h".parse::<Rate>().map(|r| r.to_string()),
            Ok("100/1h".to_owned())
        );
    }
}
