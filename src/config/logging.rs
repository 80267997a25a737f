//! `[log]`

use std::path::PathBuf;

use log::LevelFilter;
use toml::Spanned;
use toml::de::DeValue;

use super::table::{Fault, table, words};
use super::value::{Value, fault, quoted, text};

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTo {
    /// syslog(3), facility mail.
    Syslog,
    /// Standard error.
    Stderr,
    /// A file, appended.
    File(PathBuf),
}

impl Value for LogTo {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<LogTo, Fault> {
        const WANTED: &str = "\"syslog\", \"stderr\" or an absolute path";
        match text(value, WANTED)? {
            "syslog" => Ok(LogTo::Syslog),
            "stderr" => Ok(LogTo::Stderr),
            path if path.starts_with('/') && !path.contains('\0') => Ok(LogTo::File(path.into())),
            other => Err(fault(value, format!("{other:?} is not {WANTED}"))),
        }
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            LogTo::Syslog => quoted("syslog"),
            LogTo::Stderr => quoted("stderr"),
            LogTo::File(path) => quoted(&path.to_string_lossy()),
        })
    }
}

words! {
    /// The format of log lines.
    pub enum LogFormat {
        /// key=value.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

impl Value for LevelFilter {
    fn read(value: &Spanned<DeValue<'_>>) -> Result<LevelFilter, Fault> {
        const WANTED: &str = "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
        match text(value, WANTED)? {
            "error" => Ok(LevelFilter::Error),
            "warn" => Ok(LevelFilter::Warn),
            "info" => Ok(LevelFilter::Info),
            "debug" => Ok(LevelFilter::Debug),
            "trace" => Ok(LevelFilter::Trace),
            other => Err(fault(value, format!("{other:?} is not {WANTED}"))),
        }
    }

    fn show(&self) -> Option<String> {
        Some(quoted(&self.as_str().to_ascii_lowercase()))
    }
}

table! {
    /// `[log]` (CFG-13).
    pub struct LogTable in "log" {
        /// Where lines go: `"syslog"` (facility mail), `"stderr"`, or the path of a file, which is opened anew at a
        /// reload. With `-F` always standard error.
        to: LogTo = "\"syslog\"";
        /// Least level: `"error"` (an operator must act), `"warn"` (heals by itself), `"info"` (the mail trail),
        /// `"debug"`, `"trace"`.
        level: LevelFilter = "\"info\"";
        /// `"text"` for key=value, `"json"` for one object a line.
        format: LogFormat = "\"text\"";
    }
}
