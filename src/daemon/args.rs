//! The command line of posthasted.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::error::Error;
use crate::config::DEFAULT_PATH;

/// What `-h` prints.
pub const USAGE: &str = "\
usage: posthasted [-F] [-f FILE]
       posthasted -n | -p [-f FILE]
       posthasted -V | -h

  -f FILE  read this configuration, not /etc/posthaste/posthaste.toml
  -F       stay in the foreground and log to standard error
  -n       check the configuration and what it names, and exit 0 or 78
  -p       print the configuration in force, every setting with its value
  -V       print the version
  -h       print this";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Run the daemon.
    Run,
    /// `-n`
    Check,
    /// `-p`
    Print,
    /// `-V`
    Version,
    /// `-h`
    Help,
}

/// The command line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// `-f`
    pub file: PathBuf,
    /// `-F`
    pub foreground: bool,
    /// What to do.
    pub action: Action,
}

impl Args {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Args, Error> {
        let mut args = Args {
            file: PathBuf::from(DEFAULT_PATH),
            foreground: false,
            action: Action::Run,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let Some(flags) = word
                .as_bytes()
                .strip_prefix(b"-")
                .filter(|flags| !flags.is_empty())
            else {
                return usage(format!("unexpected {:?}", word.to_string_lossy()));
            };
            for (at, flag) in flags.iter().enumerate() {
                match flag {
                    b'F' => args.foreground = true,
                    b'n' => args.act(Action::Check)?,
                    b'p' => args.act(Action::Print)?,
                    b'V' => args.act(Action::Version)?,
                    b'h' => args.act(Action::Help)?,
                    b'f' => {
                        let rest = &flags[at + 1..];
                        let file = match rest.is_empty() {
                            true => words.next(),
                            false => Some(OsStr::from_bytes(rest).to_owned()),
                        };
                        match file.filter(|file| !file.is_empty()) {
                            Some(file) => args.file = PathBuf::from(file),
                            None => return usage("-f needs a file"),
                        }
                        break;
                    }
                    _ => return usage(format!("unknown option in {:?}", word.to_string_lossy())),
                }
            }
        }
        Ok(args)
    }

    fn act(&mut self, action: Action) -> Result<(), Error> {
        if self.action != Action::Run && self.action != action {
            return usage("-n, -p, -V and -h exclude each other");
        }
        self.action = action;
        Ok(())
    }
}

fn usage<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Usage(reason.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, Error> {
        Args::parse(words.iter().map(OsString::from))
    }

    // CFG-1
    #[test]
    fn options_may_stand_apart_or_together() {
        for words in [
            &["-F", "-f", "/x"][..],
            &["-Ff/x"],
            &["-Ff", "/x"],
            &["-f/x", "-F"],
        ] {
            let args = parse(words).unwrap();
            assert_eq!((args.foreground, args.file), (true, PathBuf::from("/x")));
        }
        assert_eq!(
            parse(&[]).unwrap().file,
            PathBuf::from("/etc/posthaste/posthaste.toml")
        );
        assert_eq!(parse(&["-n"]).unwrap().action, Action::Check);
    }

    // PRC-10
    #[test]
    fn anything_else_is_a_usage_error() {
        for words in [
            &["-x"][..],
            &["start"],
            &["-"],
            &["--help"],
            &["-f"],
            &["-f", ""],
            &["-n", "-p"],
        ] {
            assert!(matches!(parse(words), Err(Error::Usage(_))), "{words:?}");
        }
    }
}
