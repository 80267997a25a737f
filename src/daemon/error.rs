//! Why the daemon ends, as one clear last line and a status of sysexits(3) (CFG-8, PRC-10).

use std::fmt;

use crate::config::ConfigError;
use crate::log::StartError;
use crate::store::OpenError;

/// Why the daemon did not start, or stopped by itself.
#[derive(Debug)]
pub enum Error {
    /// The command line: 64.
    Usage(String),
    /// A relay that must work at the start does not: 69.
    Unavailable(String),
    /// A bug of ours, or a thread without which nothing goes on: 70.
    Internal(String),
    /// The system said no: 71.
    System(String),
    /// The disk under the queue cannot be trusted: 74.
    Io(String),
    /// Another daemon has the queue: 75.
    Locked(String),
    /// Something that the configuration names: 78.
    Config(String),
    /// The configuration: 78.
    File(ConfigError),
}

impl Error {
    /// The status to exit with.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_) => 64,
            Error::Unavailable(_) => 69,
            Error::Internal(_) => 70,
            Error::System(_) => 71,
            Error::Io(_) => 74,
            Error::Locked(_) => 75,
            Error::Config(_) | Error::File(_) => 78,
        }
    }
}

/// As it is written to standard error, last of all.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text)
            | Error::Unavailable(text)
            | Error::Internal(text)
            | Error::System(text)
            | Error::Io(text)
            | Error::Locked(text)
            | Error::Config(text) => write!(f, "posthasted: {text}"),
            // Lines that name file and line stand as they are, as editors expect them.
            Error::File(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Error {
        Error::File(error)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Error {
        match error {
            OpenError::Locked(text) => Error::Locked(text),
            OpenError::Refused(text) => Error::Config(text),
            OpenError::System(text) => Error::System(text),
        }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Error {
        match error {
            StartError::Open(..) => Error::Config(error.to_string()),
            StartError::Thread(_) | StartError::Installed => Error::System(error.to_string()),
        }
    }
}
