//! Durations, sizes and rates that carry their units (CFG-2).

use std::time::Duration;

/// A duration: numbers with units w d h m s ms, joined without blanks (`"7m30s"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
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

/// `"count/duration"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In which time.
    pub per: Span,
}
