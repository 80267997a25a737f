//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

/// All names begin with this.
const PREFIX: &str = "posthaste_";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up, from 0 at the start of the daemon.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Spans by their length.
    Histogram,
}

/// Metrics as they are written.
#[derive(Clone, Debug, Default)]
pub struct Text(String);

// Writing to a String cannot fail.
impl Text {
    /// Begins a metric; its samples follow. `name` is without the prefix.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.0, "# HELP {PREFIX}{name} {help}");
        let _ = writeln!(self.0, "# TYPE {PREFIX}{name} {kind}");
    }

    /// One value. Values of labels may be anything.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "{PREFIX}{name}");
        for (n, (label, text)) in labels.iter().enumerate() {
            let open = if n == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{open}{label}=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c if c.is_control() => self.0.push('?'),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A metric of one value.
    pub fn one(&mut self, name: &str, kind: Kind, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// All of it, each line with its end.
    pub fn finish(self) -> String {
        self.0
    }
}
