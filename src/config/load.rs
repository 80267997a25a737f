//! From the text of the file to a [`Config`], or to every fault with its line.

use std::fmt;
use std::path::Path;

use super::{Config, reader};

/// Where the file is unless `-f` says otherwise (CFG-1).
pub const DEFAULT_PATH: &str = "/etc/posthaste/posthaste.toml";

/// Why the configuration cannot be used: one line per fault, `file:line: key: reason` (CFG-1). Exit 78.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// A fault that no line of the file shows.
    pub(super) fn new(file: &Path, reason: impl fmt::Display) -> ConfigError {
        ConfigError(vec![format!("{}: {reason}", file.display())])
    }

    /// The lines.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// All faults, one a line.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// It cannot be read, or [`Config::parse`].
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read(file).map_err(|error| ConfigError::new(file, error))?;
        let text = String::from_utf8(text).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            ConfigError(vec![format!(
                "{}:{line}: syntax: not UTF-8",
                file.display()
            )])
        })?;
        let config = Config::parse(&text, file)?;
        if let Some(n) = config.holds_secret() {
            super::secret::file_must_be_private(file).map_err(|reason| {
                ConfigError::new(file, format!("transport[{n}]: the file {reason}"))
            })?;
        }
        Ok(config)
    }

    /// Reads and checks the text of a file; `file` is for the error messages.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigError> {
        reader::read(text, file).map_err(ConfigError)
    }
}

#[cfg(test)]
mod tests;
