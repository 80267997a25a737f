//! `posthaste VERB ...`: sends the line that a person would type, prints the data lines, and makes an exit status of the
//! last line (CTL-23).

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::paths::Paths;
use super::{DENIED, Exit, NOTHING, TEMPORARY, UNAVAILABLE, unanswered};
use crate::front::control::line;
use crate::front::control::output::Code;

/// The longest wait for the next piece of an answer. Changes to a million recipients take their time.
const PATIENCE: Duration = Duration::from_secs(600);

/// Longest data line that is believed; lines of a message can be long.
const MAX_ANSWER_LINE: u64 = 256 * 1024 * 1024;

/// Carries out the request in `args`.
pub(super) fn run(args: &[String], paths: &Paths) -> Result<u8, Exit> {
    let request = request(args)?;
    let mut connection = Connection::open(&paths.control)?;
    let stdout = io::stdout();
    // A message may hold anything; a terminal must not act on it (SEC-3).
    let guarded = stdout.is_terminal();
    let mut out = io::BufWriter::new(stdout.lock());
    let last = connection.ask(&request, |data| {
        let written = match guarded {
            true => out.write_all(harmless(data).as_bytes()),
            false => out.write_all(data),
        };
        written
            .and_then(|()| out.write_all(b"\n"))
            .map_err(|error| Exit::output(&error))
    })?;
    out.flush().map_err(|error| Exit::output(&error))?;
    match last {
        Last::Count { count, cursor } => {
            let mut stderr = io::stderr();
            // Standard error may be closed; the status tells as well.
            if let Some(cursor) = cursor {
                let _ = writeln!(stderr, "posthaste: more follow: cursor={cursor}");
            } else if stderr.is_terminal() {
                let _ = writeln!(stderr, "OK {count}");
            }
            Ok(if count == 0 { NOTHING } else { 0 })
        }
        Last::Text(text) => {
            if io::stderr().is_terminal() {
                let _ = writeln!(io::stderr(), "OK {text}");
            }
            Ok(0)
        }
    }
}

/// Makes one request line of the arguments, each `name=value` quoted as it needs. No argument can be two words or two
/// lines.
fn request(args: &[String]) -> Result<String, Exit> {
    let mut request = String::new();
    for arg in args {
        if !request.is_empty() {
            request.push(' ');
        }
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (arg.as_str(), None),
        };
        if !line::is_name(name) {
            return Err(Exit::usage(format!(
                "{arg:?} is neither a word nor a name=value"
            )));
        }
        request.push_str(name);
        if let Some(value) = value {
            request.push('=');
            line::quote(value.as_bytes(), &mut request);
        }
    }
    if request.len() > line::MAX_LINE {
        return Err(Exit::usage("the request is too long"));
    }
    request.push('\n');
    Ok(request)
}

/// A line for a terminal: control characters as `\xHH`.
fn harmless(data: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(data).chars() {
        match c {
            '\t' => out.push(c),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// The last line of a good answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Last {
    /// `OK N`, perhaps with a cursor.
    Count { count: u64, cursor: Option<String> },
    /// `OK text`.
    Text(String),
}

/// A connection to the control socket.
pub(super) struct Connection(BufReader<UnixStream>);

impl Connection {
    /// Connects.
    pub(super) fn open(path: &Path) -> Result<Connection, Exit> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Connection(BufReader::new(stream))),
            Err(error) => {
                let status = match error.kind() {
                    io::ErrorKind::PermissionDenied => DENIED,
                    _ => UNAVAILABLE,
                };
                Err(Exit::new(status, unanswered(path, &error)))
            }
        }
    }

    /// Sends a request and hands every data line to `each`, without its line end.
    pub(super) fn ask(
        &mut self,
        request: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), Exit>,
    ) -> Result<Last, Exit> {
        let broken = |error: io::Error| Exit::new(TEMPORARY, format!("no answer: {error}"));
        // A daemon that sends us away does not read any more; why is in its answer.
        let sent = self.0.get_mut().write_all(request.as_bytes());
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut limited = io::Read::take(&mut self.0, MAX_ANSWER_LINE);
            let read = limited.read_until(b'\n', &mut line).map_err(broken)?;
            if line.pop() != Some(b'\n') {
                sent.map_err(broken)?;
                let what = if read == 0 {
                    "no answer"
                } else {
                    "half an answer"
                };
                return Err(Exit::new(TEMPORARY, format!("{what}: connection closed")));
            }
            if let Some(ended) = last(&line) {
                return ended;
            }
            each(&line)?;
        }
    }
}

/// Whether this line is the last one, and what it says.
fn last(line: &[u8]) -> Option<Result<Last, Exit>> {
    let text = |rest: &[u8]| String::from_utf8_lossy(rest).into_owned();
    if let Some(rest) = line.strip_prefix(b"OK ") {
        let rest = text(rest);
        let (first, more) = rest.split_once(' ').unwrap_or((&rest, ""));
        return Some(Ok(match first.parse() {
            Ok(count) => Last::Count {
                count,
                cursor: more.strip_prefix("cursor=").map(str::to_owned),
            },
            Err(_) => Last::Text(rest),
        }));
    }
    let rest = text(line.strip_prefix(b"ERR ")?);
    let (word, reason) = rest.split_once(' ').unwrap_or((&rest, ""));
    let known = Code::ALL.iter().find(|code| code.word() == word);
    let status = known.map_or(super::SOFTWARE, |code| code.exit_status());
    Some(Err(Exit::new(status, reason)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(args: &[&str]) -> Result<String, Exit> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        request(&args)
    }

    // CTL-23
    #[test]
    fn each_argument_is_one_word_of_the_request() {
        assert_eq!(
            args(&[
                "json",
                "list",
                "id=42",
                "text=try \"again\"",
                "to=\"a b\"@x"
            ])
            .unwrap(),
            "json list id=42 text=\"try \\\"again\\\"\" to=\"\\\"a b\\\"@x\"\n"
        );
        assert_eq!(
            args(&["hold", "all", "reason=a\nquit", "from="]).unwrap(),
            "hold all reason=\"a\\nquit\" from=\"\"\n"
        );
    }

    // CTL-23, SEC-3
    #[test]
    fn no_argument_can_begin_another_word_or_line() {
        assert_eq!(args(&["drop", "id=1 all"]).unwrap(), "drop id=\"1 all\"\n");
        for bad in ["all\ndrop", "a b=c", "", "=x", "All", "x\0", "\"all\""] {
            assert_eq!(args(&["drop", bad]).unwrap_err().status, 64, "{bad:?}");
        }
    }

    // CTL-23
    #[test]
    fn the_last_line_gives_the_status() {
        assert!(last(b"id=42").is_none() && last(b"| OK 3").is_none() && last(b"OK").is_none());
        assert_eq!(
            last(b"OK 3 cursor=\"a b\"").unwrap().unwrap(),
            Last::Count {
                count: 3,
                cursor: Some("\"a b\"".to_owned())
            }
        );
        assert_eq!(
            last(b"OK bye").unwrap().unwrap(),
            Last::Text("bye".to_owned())
        );
        for (line, status) in [
            (&b"ERR usage which?"[..], 64),
            (b"ERR denied no", 77),
            (b"ERR temporary later", 75),
            (b"ERR config f:1: x", 78),
            (b"ERR internal", 70),
            (b"ERR what is this", 70),
        ] {
            assert_eq!(last(line).unwrap().unwrap_err().status, status);
        }
    }

    // SEC-3
    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(
            harmless(b"| a\x1b[2J\tb\x07\xc2\x9b"),
            "| a\\x1b[2J\tb\\x07\\x9b"
        );
    }
}
