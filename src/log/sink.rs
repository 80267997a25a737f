//! Where lines go: syslog, standard error, a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::log::Level;
use nix::fcntl::OFlag;

use super::render;
use crate::clock::Timestamp;
use crate::config::LogTo;

/// Name before the process id in syslog.
const IDENT: &str = "posthasted";
/// syslog(3): LOG_MAIL.
const FACILITY_MAIL: u8 = 2 << 3;
/// Lines are written at the latest when there are so many octets of them.
const MUCH: usize = 32 << 10;
/// A syslog socket that is not there is asked for at most this often.
const RECONNECT: Duration = Duration::from_secs(1);

/// One line, rendered.
#[derive(Debug)]
pub(super) struct Entry {
    pub at: Timestamp,
    pub level: Level,
    /// The body as [`render::body`] gave it.
    pub body: String,
    /// Whether the body carries time and level itself.
    pub dated: bool,
}

/// An open sink. Used by the writer thread alone, which may wait in it; nobody else does.
#[derive(Debug)]
pub(super) enum Sink {
    Syslog(Syslog),
    /// Standard error, or a file.
    Lines(Lines),
}

impl Sink {
    /// Opens a sink. A syslog that is not there is no error: it may come (OBS-4).
    ///
    /// # Errors
    /// A file that cannot be opened for appending.
    pub fn open(to: &LogTo) -> io::Result<Sink> {
        Ok(match to {
            LogTo::Syslog => Sink::Syslog(Syslog::new("/dev/log")),
            LogTo::Stderr => Sink::Lines(Lines::to(To::Stderr)),
            LogTo::File(path) => Sink::Lines(Lines::open(path)?),
        })
    }

    /// Writes one line, or keeps it until [`Sink::flush`].
    ///
    /// # Errors
    /// So many lines are lost.
    pub fn write(&mut self, entry: &Entry) -> Result<(), (u64, io::Error)> {
        let alone = |error| (1, error);
        match self {
            Sink::Syslog(syslog) => syslog.write(entry).map_err(alone),
            Sink::Lines(lines) => lines.put(entry),
        }
    }

    /// Writes what waits: call it before waiting for more.
    ///
    /// # Errors
    /// So many lines are lost.
    pub fn flush(&mut self) -> Result<(), (u64, io::Error)> {
        match self {
            Sink::Lines(lines) => lines.flush(),
            Sink::Syslog(_) => Ok(()),
        }
    }
}

/// Appends the line as it stands in a file, with its line end.
fn put_dated(out: &mut String, entry: &Entry) {
    if !entry.dated {
        let written = render::time(out, entry.at);
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        out.push(' ');
        out.push_str(render::level(entry.level));
        out.push(' ');
    }
    out.push_str(&entry.body);
    out.push('\n');
}

/// Where whole lines are written one behind another.
#[derive(Debug)]
enum To {
    /// Appended to.
    File(File),
    Stderr,
}

impl Write for To {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        match self {
            To::File(file) => file.write(octets),
            // It has no buffer of its own.
            To::Stderr => io::stderr().write(octets),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines on their way to a file or standard error.
#[derive(Debug)]
pub(super) struct Lines {
    to: To,
    /// The last write stopped in the middle of a line.
    torn: bool,
    /// Whole lines that are not written yet: under load many go out in one write.
    waiting: String,
}

impl Lines {
    fn open(path: &Path) -> io::Result<Lines> {
        // O_NONBLOCK: a FIFO without a reader fails instead of holding up the start; it means nothing to files.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o640)
            .custom_flags(flags.bits())
            .open(path)?;
        Ok(Lines::to(To::File(file)))
    }

    fn to(to: To) -> Lines {
        Lines {
            to,
            torn: false,
            waiting: String::new(),
        }
    }

    /// Takes a line; what waits goes out once it is much.
    fn put(&mut self, entry: &Entry) -> Result<(), (u64, io::Error)> {
        put_dated(&mut self.waiting, entry);
        if self.waiting.len() < MUCH {
            return Ok(());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), (u64, io::Error)> {
        let written = self.write();
        let rest = self.waiting.len() - written.0;
        let result = written.1.map_err(|error| {
            let octets = self.waiting.as_bytes();
            let lost = &octets[octets.len() - rest..];
            let lines = lost.iter().filter(|octet| **octet == b'\n').count() as u64;
            self.torn = written.0 > 0 && octets[written.0 - 1] != b'\n' || self.torn;
            (lines, error)
        });
        self.waiting.clear();
        result
    }

    /// Writes what waits, as far as it goes: so many octets of it are out.
    fn write(&mut self) -> (usize, io::Result<()>) {
        if self.torn && !self.waiting.is_empty() {
            if let Err(error) = self.to.write_all(b"\n") {
                return (0, Err(error));
            }
            self.torn = false;
        }
        let mut written = 0;
        while written < self.waiting.len() {
            match self.to.write(&self.waiting.as_bytes()[written..]) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }
}

/// syslog(3) as datagrams (RFC 3164 form without a time: every daemon puts its own).
#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// No connection is tried before this time.
    not_before: Option<Instant>,
}

impl Syslog {
    fn new(path: impl Into<PathBuf>) -> Syslog {
        Syslog {
            path: path.into(),
            socket: None,
            not_before: None,
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let severity = match entry.level {
            Level::Error => 3,
            Level::Warn => 4,
            Level::Info => 6,
            Level::Debug | Level::Trace => 7,
        };
        let priority = FACILITY_MAIL | severity;
        let datagram = format!(
            "<{priority}>{IDENT}[{}]: {}",
            std::process::id(),
            entry.body
        );
        if self.socket.is_some() && self.send(&datagram).is_ok() {
            return Ok(());
        }
        // The daemon was restarted, or is not there yet.
        let now = Instant::now();
        if self.not_before.is_some_and(|at| now < at) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.not_before = now.checked_add(RECONNECT);
        self.socket = None;
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        // A syslog daemon that hangs costs lines, and the stop of ours no more than this.
        socket.set_write_timeout(Some(RECONNECT))?;
        self.socket = Some(socket);
        self.send(&datagram)?;
        self.not_before = None;
        Ok(())
    }

    fn send(&self, datagram: &str) -> io::Result<()> {
        match &self.socket {
            Some(socket) => socket.send(datagram.as_bytes()).map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Whether a log file could be appended to, without creating it: for `-n`.
///
/// # Errors
/// What opening it would say.
pub fn check_file(path: &Path) -> io::Result<()> {
    use nix::unistd::{AccessFlags, access};
    let checked = if path.exists() {
        access(path, AccessFlags::W_OK)
    } else {
        let parent = path.parent().unwrap_or(Path::new("/"));
        access(parent, AccessFlags::W_OK | AccessFlags::X_OK)
    };
    checked.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn entry(body: &str) -> Entry {
        Entry {
            at: Timestamp::from_millis(1_795_286_400_123),
            level: Level::Warn,
            body: body.to_owned(),
            dated: false,
        }
    }

    // OBS-1, OBS-4
    #[test]
    fn syslog_gets_one_datagram_a_line_and_is_found_again_after_its_restart() {
        let dir = TempDir::new();
        let path = dir.join("log");
        let mut syslog = Syslog::new(&path);
        assert!(syslog.write(&entry("nobody listens")).is_err());
        let mut buf = [0; 512];
        for round in ["one", "two"] {
            let daemon = UnixDatagram::bind(&path).unwrap();
            syslog.not_before = None;
            syslog.write(&entry(round)).unwrap();
            let n = daemon.recv(&mut buf).unwrap();
            let line = format!("<20>posthasted[{}]: {round}", std::process::id());
            assert_eq!(String::from_utf8_lossy(&buf[..n]), line);
            drop(daemon);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_line_in_a_file_begins_with_time_and_level() {
        let mut out = String::new();
        put_dated(&mut out, &entry("done qid=1"));
        assert_eq!(out, "2026-11-21T18:40:00.123Z warn done qid=1\n");
    }
}
