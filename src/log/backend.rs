//! What stands behind the `log` facade: filter, flood limit, a bounded channel and the thread that writes.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ::log::kv::Value;
use ::log::{Level, LevelFilter, Metadata, Record};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::flood::{Flood, Suppressed};
use super::sink::{Entry, Sink};
use super::{line, render};
use crate::clock::{Clock, Timestamp};
use crate::config::{LogFormat, LogTable, LogTo};
use crate::heap;

/// Lines that may wait for a slow sink; at a few hundred octets each this is some megabytes at most.
const WAITING: usize = 8192;
/// How long a caller waits for the writer when it must: a reload, and the end.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often the flood limiter's counts are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// A handle on the log; cheap to clone. The thread ends with [`Log::stop`].
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    sender: Sender<Message>,
    /// Configured level as `LevelFilter as usize`.
    level: AtomicUsize,
    json: AtomicBool,
    /// Filter of RUST_LOG, which can only add lines.
    debug: Option<env_logger::Logger>,
    flood: Mutex<Flood>,
    /// Lines lost and not yet reported.
    lost: AtomicU64,
    /// Lines lost in this run.
    lost_in_all: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Line(Entry),
    /// A new sink from here on.
    Sink(Sink),
    /// Answer when everything before this has been written.
    Flush(Sender<()>),
    /// Give back memory that nobody needs.
    Rest,
    Stop,
}

/// Why the log could not be started.
#[derive(Debug)]
pub enum StartError {
    /// Its file cannot be opened: exit 78 (CFG-8).
    Open(LogTo, io::Error),
    /// Its thread cannot be started: exit 71.
    Thread(io::Error),
    /// Another logger is installed in this process.
    Installed,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Open(LogTo::File(path), error) => {
                write!(f, "log.to: {}: {error}", path.display())
            }
            StartError::Open(_, error) => write!(f, "log.to: {error}"),
            StartError::Thread(error) => write!(f, "log thread: {error}"),
            StartError::Installed => f.write_str("a logger is already installed"),
        }
    }
}

impl std::error::Error for StartError {}

impl Log {
    /// Opens the sink, starts the writer and becomes the logger of the process. At most once in a process; only after
    /// it has detached, because it starts a thread.
    ///
    /// # Errors
    /// [`StartError`]; nothing is installed.
    pub fn start(table: &LogTable) -> Result<Log, StartError> {
        let sink =
            Sink::open(&table.to).map_err(|error| StartError::Open(table.to.clone(), error))?;
        let log = Log::with_sink(table, sink).map_err(StartError::Thread)?;
        ::log::set_boxed_logger(Box::new(log.clone())).map_err(|_| StartError::Installed)?;
        ::log::set_max_level(log.0.max_level());
        Ok(log)
    }

    fn with_sink(table: &LogTable, sink: Sink) -> io::Result<Log> {
        let (sender, receiver) = bounded(WAITING);
        let debug = std::env::var("RUST_LOG")
            .ok()
            .map(|filters| env_logger::Builder::new().parse_filters(&filters).build());
        let log = Log(Arc::new(Shared {
            sender,
            level: AtomicUsize::new(table.level as usize),
            json: AtomicBool::new(table.format == LogFormat::Json),
            debug,
            flood: Mutex::default(),
            lost: AtomicU64::new(0),
            lost_in_all: AtomicU64::new(0),
            thread: Mutex::new(None),
        }));
        let shared = Arc::clone(&log.0);
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || shared.run(&receiver, sink))?;
        *log.0.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(log)
    }

    /// Puts another table in force and opens its sink anew, also if nothing changed (SIGHUP after a rotation).
    ///
    /// # Errors
    /// The new sink cannot be opened; the old one stays in use.
    pub fn reconfigure(&self, table: &LogTable) -> Result<(), StartError> {
        let sink =
            Sink::open(&table.to).map_err(|error| StartError::Open(table.to.clone(), error))?;
        self.0.level.store(table.level as usize, Ordering::Relaxed);
        self.0
            .json
            .store(table.format == LogFormat::Json, Ordering::Relaxed);
        ::log::set_max_level(self.0.max_level());
        if self
            .0
            .sender
            .send_timeout(Message::Sink(sink), PATIENCE)
            .is_err()
        {
            let stuck = io::Error::new(io::ErrorKind::TimedOut, "the log does not take lines");
            return Err(StartError::Open(table.to.clone(), stuck));
        }
        Ok(())
    }

    /// Lines lost in this run.
    pub fn lost(&self) -> u64 {
        self.0.lost_in_all.load(Ordering::Relaxed)
    }

    /// Waits until what has been logged so far is written, or three seconds.
    pub fn drain(&self) {
        let (answer, answered) = bounded(1);
        if self
            .0
            .sender
            .send_timeout(Message::Flush(answer), PATIENCE)
            .is_ok()
        {
            let _ = answered.recv_timeout(PATIENCE);
        }
    }

    /// Nothing is going on: gives back memory that the thread keeps. Waits for nothing.
    pub fn rest(&self) {
        let _ = self.0.sender.try_send(Message::Rest);
    }

    /// Writes what waits and ends the thread; gives up on a sink that does not take lines for three seconds.
    pub fn stop(&self) {
        self.drain();
        if self.0.sender.send_timeout(Message::Stop, PATIENCE).is_err() {
            return;
        }
        let thread = self
            .0
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let waited = Instant::now();
        if let Some(thread) = thread {
            while !thread.is_finished() && waited.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

impl ::log::Log for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= self.0.max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let shared = &self.0;
        if record.level() > shared.level() && !shared.wanted_for_debugging(record) {
            return;
        }
        if record.target() == line::FLOOD
            && let Some(client) = render::first_value(record)
            && !shared.flood().admit(&client, Instant::now())
        {
            return;
        }
        shared.put(shared.entry(record));
    }

    fn flush(&self) {
        self.drain();
    }
}

impl Shared {
    fn level(&self) -> LevelFilter {
        let level = self.level.load(Ordering::Relaxed);
        LevelFilter::iter()
            .find(|filter| *filter as usize == level)
            .unwrap_or(LevelFilter::Info)
    }

    fn max_level(&self) -> LevelFilter {
        let debug = self.debug.as_ref().map(env_logger::Logger::filter);
        self.level().max(debug.unwrap_or(LevelFilter::Off))
    }

    fn wanted_for_debugging(&self, record: &Record<'_>) -> bool {
        self.debug
            .as_ref()
            .is_some_and(|debug| debug.matches(record))
    }

    fn flood(&self) -> MutexGuard<'_, Flood> {
        self.flood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, record: &Record<'_>) -> Entry {
        let dated = self.json.load(Ordering::Relaxed);
        let format = if dated {
            LogFormat::Json
        } else {
            LogFormat::Text
        };
        let at: Timestamp = Clock::system().now();
        Entry {
            at,
            level: record.level(),
            body: render::body(record, at, format),
            dated,
        }
    }

    /// Never waits (OBS-4).
    fn put(&self, entry: Entry) {
        if self.sender.try_send(Message::Line(entry)).is_err() {
            self.lose(1);
        }
    }

    fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
        self.lost_in_all.fetch_add(lines, Ordering::Relaxed);
    }

    /// A line of the log about itself.
    fn own_line(&self, level: Level, event: &'static str, keys: &[(&str, Value<'_>)]) -> Entry {
        self.entry(
            &Record::builder()
                .level(level)
                .target(line::MAIL)
                .key_values(&keys)
                .args(format_args!("{event}"))
                .build(),
        )
    }

    /// The writer thread.
    fn run(&self, receiver: &Receiver<Message>, mut sink: Sink) {
        let mut swept = Instant::now();
        loop {
            match self.next(receiver) {
                Some(Message::Line(entry)) => self.write(&mut sink, &entry),
                Some(Message::Sink(new)) => {
                    self.flush(&mut sink);
                    sink = new;
                }
                Some(Message::Flush(answer)) => {
                    self.report_lost(&mut sink);
                    self.flush(&mut sink);
                    let _ = answer.try_send(());
                }
                Some(Message::Rest) => heap::hand_back(),
                Some(Message::Stop) => return self.flush(&mut sink),
                None => self.report_lost(&mut sink),
            }
            if receiver.is_empty() {
                self.flush(&mut sink);
            }
            let now = Instant::now();
            if now.saturating_duration_since(swept) >= SWEEP {
                swept = now;
                let over = self.flood().sweep(now);
                for Suppressed { client, count } in over {
                    let keys = [
                        ("client", Value::from(client.as_str())),
                        ("count", Value::from(count)),
                    ];
                    let entry = self.own_line(Level::Warn, "suppressed", &keys);
                    self.write(&mut sink, &entry);
                }
            }
        }
    }

    /// The next message; `None` after a while if something is still to be said. Else sleeps for as long as it is quiet.
    fn next(&self, receiver: &Receiver<Message>) -> Option<Message> {
        if self.lost.load(Ordering::Relaxed) > 0 || !self.flood().is_empty() {
            receiver.recv_timeout(SWEEP).ok()
        } else {
            receiver.recv().ok()
        }
    }

    fn write(&self, sink: &mut Sink, entry: &Entry) {
        self.report_lost(sink);
        if let Err((lines, _)) = sink.write(entry) {
            self.lose(lines);
        }
    }

    /// Nothing waits in memory while the thread waits.
    fn flush(&self, sink: &mut Sink) {
        if let Err((lines, _)) = sink.flush() {
            self.lose(lines);
        }
    }

    /// Says how many lines were lost, as soon as something can be said again.
    fn report_lost(&self, sink: &mut Sink) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost == 0 {
            return;
        }
        let entry = self.own_line(Level::Error, "log-lost", &[("count", Value::from(lost))]);
        match sink.write(&entry).and_then(|()| sink.flush()) {
            Ok(()) => {
                self.lost.fetch_sub(lost, Ordering::Relaxed);
            }
            // What it would have said is still to be said; other lines may have waited with it.
            Err((lines, _)) => self.lose(lines.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::log::Log as _;
    use std::io::Read;
    use std::path::Path;

    use crate::testing::TempDir;

    fn table(path: &Path) -> LogTable {
        LogTable {
            to: LogTo::File(path.to_owned()),
            level: LevelFilter::Info,
            format: LogFormat::Text,
        }
    }

    fn start(table: &LogTable) -> Log {
        Log::with_sink(table, Sink::open(&table.to).unwrap()).unwrap()
    }

    fn say(log: &Log, level: Level, target: &str, event: &str, client: &str) {
        log.log(
            &Record::builder()
                .level(level)
                .target(target)
                .key_values(&[("client", client)])
                .args(format_args!("{event}"))
                .build(),
        );
    }

    // OBS-3, CFG-13
    #[test]
    fn a_file_gets_lines_of_its_level_and_keeps_what_it_had() {
        let dir = TempDir::new();
        let path = dir.join("log");
        std::fs::write(&path, "before\n").unwrap();
        let log = start(&table(&path));
        say(&log, Level::Info, line::MAIL, "queued", "a");
        say(&log, Level::Debug, line::MAIL, "hidden", "a");
        log.stop();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0], "before");
        assert!(lines[1].ends_with("Z info queued client=a"), "{text}");
    }

    // CFG-5
    #[test]
    fn a_rotated_file_is_opened_anew_and_a_bad_path_changes_nothing() {
        let dir = TempDir::new();
        let path = dir.join("log");
        let log = start(&table(&path));
        say(&log, Level::Info, line::MAIL, "first", "a");
        log.drain();
        std::fs::rename(&path, dir.join("log.1")).unwrap();
        log.reconfigure(&table(&path)).unwrap();
        say(&log, Level::Info, line::MAIL, "second", "a");
        assert!(log.reconfigure(&table(&dir.join("no/such/dir"))).is_err());
        say(&log, Level::Info, line::MAIL, "third", "a");
        log.stop();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        assert!(read("log.1").contains("first") && !read("log.1").contains("second"));
        assert!(read("log").contains("second") && read("log").contains("third"));
    }

    // OBS-4
    #[test]
    fn a_full_pipe_delays_nobody_and_the_lost_lines_are_reported_when_it_flows_again() {
        let dir = TempDir::new();
        let path = dir.join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let reader = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let log = start(&table(&path));
        let filler = "x".repeat(900);
        // Nobody reads, so this ends only if no call waits.
        for _ in 0..200 {
            say(&log, Level::Info, line::MAIL, "flood", &filler);
        }
        log.drain();
        assert!(log.lost() > 0);
        let mut read = 0;
        let mut seen = Vec::new();
        let mut buf = [0; 65536];
        // A pipe has 16 pages, and lines that are written together may leave nearly half of each empty.
        while read < 30_000 {
            let n = (&reader).read(&mut buf).unwrap();
            read += n;
            seen.extend_from_slice(&buf[..n]);
        }
        say(&log, Level::Info, line::MAIL, "after", "a");
        log.stop();
        while !String::from_utf8_lossy(&seen).contains("after client=a") {
            let n = (&reader).read(&mut buf).unwrap();
            seen.extend_from_slice(&buf[..n]);
        }
        // A report is short and may find room where no other line did, so there may be several.
        let seen = String::from_utf8_lossy(&seen);
        let reports = seen
            .lines()
            .filter_map(|line| line.split("log-lost count=").nth(1));
        let reported: u64 = reports.map(|count| count.parse::<u64>().unwrap()).sum();
        assert_eq!(reported, log.lost());
    }

    // OBS-3
    #[test]
    fn a_client_that_floods_gets_ten_lines_and_then_a_count_while_the_mail_trail_goes_on() {
        let dir = TempDir::new();
        let path = dir.join("log");
        let log = start(&table(&path));
        for _ in 0..60 {
            say(&log, Level::Info, line::FLOOD, "rejected", "192.0.2.1");
            say(&log, Level::Info, line::MAIL, "queued", "192.0.2.1");
        }
        // The end of a second is not waited for: sweeping later than asked gives the same count.
        let left_out = log.0.flood().sweep(Instant::now() + 2 * SWEEP);
        log.stop();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("queued client").count(), 60);
        let written = text.matches("rejected client").count();
        let counted: u32 = left_out.iter().map(|l| l.count).sum();
        assert_eq!((written, counted), (10, 50));
    }
}
