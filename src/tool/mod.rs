//! What posthaste(8) does: the operator's tool, and the names `sendmail`, `mailq` and `newaliases`.
//!
//! A thin client of the daemon's sockets. It keeps no mail itself: `sendmail` ends with status 0 only after the daemon's
//! 250, that is after the commit. It opens no file but the configuration and the keys that `dkim` is told of, and no
//! environment variable selects one (SM-5, SM-10).

mod addresses;
mod content;
mod control;
mod dkim;
mod flags;
mod mailq;
mod paths;
mod sendmail;
mod submit;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use paths::Paths;

/// How the tool ends when not well: an exit status of sysexits(3) and words for standard error.
#[derive(Debug, PartialEq, Eq)]
struct Exit {
    status: u8,
    text: String,
}

/// Nothing matched (CTL-23).
const NOTHING: u8 = 1;
/// Wrong arguments.
const USAGE: u8 = 64;
/// The message is malformed.
const DATA: u8 = 65;
/// No such recipient.
const NO_USER: u8 = 67;
/// The daemon is not there.
const UNAVAILABLE: u8 = 69;
/// A fault of the program.
const SOFTWARE: u8 = 70;
/// A fault of input or output.
const IO: u8 = 74;
/// Not now; trying again can help.
const TEMPORARY: u8 = 75;
/// Not permitted.
const DENIED: u8 = 77;

impl Exit {
    fn new(status: u8, text: impl Into<String>) -> Exit {
        let text = text.into();
        Exit { status, text }
    }

    fn usage(text: impl Into<String>) -> Exit {
        Exit::new(USAGE, text)
    }

    /// Standard output could not be written. Who closes a pipe early (`posthaste list | head`) has what he wants.
    fn output(error: &io::Error) -> Exit {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::new(0, ""),
            _ => Exit::new(IO, format!("standard output: {error}")),
        }
    }
}

/// Why a socket of the daemon does not answer, and what to do about it.
fn unanswered(path: &Path, error: &io::Error) -> String {
    let what = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "no posthasted listens there; start it, or name its configuration with -f FILE"
        }
        io::ErrorKind::PermissionDenied => {
            "this account may not connect; see \"mode\" and \"group\" in posthaste.toml(5)"
        }
        _ => return format!("{}: {error}", path.display()),
    };
    format!("{}: {what}", path.display())
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const HELP: &str = "\
usage: posthaste [-f FILE] [-s SOCKET] VERB [WORD ...]
       posthaste [-f FILE] sendmail|mailq|newaliases [ARGUMENT ...]
       posthaste [-f FILE] dkim keygen|dns|verify [WORD ...]
posthaste help lists the verbs; see posthaste(8) and posthaste-control(5).";

/// Runs the tool with the arguments of the program, the name it was called by first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let called = args.next().unwrap_or_default();
    let name = Path::new(&called)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("posthaste")
        .to_owned();
    let result = texts(args).and_then(|args| match name.as_str() {
        // SM-1: these take no option of ours.
        "sendmail" | "mailq" | "newaliases" => named(&name, args, &Paths::find(None)?),
        _ => tool(args),
    });
    match result {
        Ok(status) => ExitCode::from(status),
        Err(exit) => {
            if !exit.text.is_empty() {
                // Nobody is left to tell when standard error is closed.
                let _ = writeln!(io::stderr(), "{name}: {exit}");
            }
            ExitCode::from(exit.status)
        }
    }
}

/// All arguments are text: addresses and words of the control protocol are UTF-8.
fn texts(args: impl Iterator<Item = OsString>) -> Result<Vec<String>, Exit> {
    args.map(|arg| {
        arg.into_string()
            .map_err(|arg| Exit::usage(format!("not UTF-8: {arg:?}")))
    })
    .collect()
}

/// What the other names do; `posthaste NAME` does the same with a chosen configuration.
fn named(name: &str, args: Vec<String>, paths: &Paths) -> Result<u8, Exit> {
    match name {
        "sendmail" => sendmail::run(args, paths),
        "mailq" if args.is_empty() => mailq::run(paths),
        "mailq" => Err(Exit::usage("mailq takes no argument")),
        // There are no alias files to rebuild (SM-11).
        _ => Ok(0),
    }
}

fn tool(args: Vec<String>) -> Result<u8, Exit> {
    let (mut file, mut socket): (Option<PathBuf>, Option<PathBuf>) = (None, None);
    let mut args = args.into_iter().peekable();
    while let Some(flag) = args.next_if(|arg| arg.starts_with('-')) {
        let mut value = |long: &str| match (&flag[2..], args.next()) {
            ("", Some(value)) => Ok(PathBuf::from(value)),
            ("", None) => Err(Exit::usage(format!("-{long} needs a value\n{HELP}"))),
            _ => Err(Exit::usage(format!("unknown option {flag}\n{HELP}"))),
        };
        match flag.as_bytes() {
            [b'-', b'f', ..] => file = Some(value("f")?),
            [b'-', b's', ..] => socket = Some(value("s")?),
            b"-h" | b"--help" => {
                writeln!(io::stdout(), "{HELP}").map_err(|error| Exit::output(&error))?;
                return Ok(0);
            }
            b"--" => break,
            _ => return Err(Exit::usage(format!("unknown option {flag}\n{HELP}"))),
        }
    }
    let args: Vec<String> = args.collect();
    if let Some(("dkim", words)) = args
        .split_first()
        .map(|(verb, words)| (verb.as_str(), words))
    {
        return dkim::run(words, file.as_deref());
    }
    let mut paths = Paths::find(file.as_deref())?;
    if let Some(socket) = socket {
        paths.control = socket;
    }
    match args.split_first() {
        None => Err(Exit::usage(format!("a verb is missing\n{HELP}"))),
        Some((name, rest)) if matches!(name.as_str(), "sendmail" | "mailq" | "newaliases") => {
            named(name, rest.to_vec(), &paths)
        }
        Some(_) => control::run(&args, &paths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CTL-23
    #[test]
    fn a_daemon_that_is_not_there_is_said_with_its_socket_and_what_to_do() {
        let error = |kind| io::Error::from(kind);
        for (kind, advice) in [
            (io::ErrorKind::NotFound, "start it"),
            (io::ErrorKind::ConnectionRefused, "start it"),
            (io::ErrorKind::PermissionDenied, "\"mode\""),
        ] {
            let text = unanswered(Path::new("/run/p/control"), &error(kind));
            assert!(
                text.starts_with("/run/p/control: ") && text.contains(advice),
                "{text}"
            );
        }
    }
}
