//! A temporary daemon: inside the test with a clock of its own, or as a process of its own.

#![allow(clippy::unwrap_used)] // a test that cannot set up its daemon has failed
#![allow(dead_code, reason = "grows with the scenarios that use it")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, unbounded};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Group, Pid, User, getegid, geteuid};

use posthaste::clock::Clock;
use posthaste::config::{Config, ListenAddress};
use posthaste::daemon::{Ask, Asking, Daemon, Doors, Error, Setup};

use super::queue::TempDir;

/// A test that waits longer than this for anything has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where a directory's daemon has its control socket.
pub fn control_path(dir: &Path) -> PathBuf {
    dir.join("run/control")
}

/// A configuration that touches nothing outside `dir`: one listener on a free port of 127.0.0.1 and one on
/// `run/smtp`, a name server that is not there, no account, and `more` behind it. What `more` begins with belongs to
/// the top level.
pub fn config(dir: &Path, more: &str) -> String {
    let dir = dir.display();
    let account = match geteuid().is_root() {
        true => account(),
        false => String::new(),
    };
    // `more` may bring tables of its own, which then stand for these.
    let unless = |table: &str, text: String| {
        let written = more.lines().any(|line| line.trim() == table);
        if written { String::new() } else { text }
    };
    let top = format!("hostname = \"posthaste.test\"\n{account}pid_file = \"{dir}/run/pid\"\n");
    let queue = unless(
        "[queue]",
        format!("[queue]\npath = \"{dir}/queue\"\nmin_free = \"1MiB\"\n"),
    );
    let control = unless(
        "[control]",
        format!("[control]\npath = \"{dir}/run/control\"\n"),
    );
    let dns = unless("[dns]", "[dns]\nservers = [\"127.0.0.1:9\"]\n".to_owned());
    let log = unless("[log]", format!("[log]\nto = \"{dir}/run/log\"\n"));
    let listen = unless(
        "[[listen]]",
        format!(
            "[[listen]]\nname = \"tcp\"\naddress = \"127.0.0.1:0\"\n\
             [[listen]]\nname = \"unix\"\naddress = \"unix:{dir}/run/smtp\"\n"
        ),
    );
    let (head, tables) = match more.find("\n[") {
        _ if more.starts_with('[') => ("", more),
        Some(at) => more.split_at(at + 1),
        None => (more, ""),
    };
    format!("{top}{head}\n{queue}{control}{dns}{log}{listen}{tables}\n")
}

/// Root gives the daemon an account that is there everywhere.
fn account() -> String {
    let nobody = User::from_name("nobody")
        .unwrap()
        .expect("an account nobody");
    let group = Group::from_gid(nobody.gid).unwrap().expect("its group");
    format!("user = \"nobody\"\ngroup = \"{}\"\n", group.name)
}

/// A daemon inside the test. Stops when it is dropped.
pub struct TestDaemon {
    asking: Asking,
    thread: Option<JoinHandle<Result<(), Error>>>,
    addresses: Vec<ListenAddress>,
    /// What the next reload reads.
    text: Arc<Mutex<String>>,
    /// The time of the queue.
    pub clock: Clock,
    /// Its directory; `queue` and `run` are in it.
    pub dir: Arc<TempDir>,
}

impl TestDaemon {
    /// Starts one on the system's clock, with [`config`] and `more`.
    pub fn start(more: &str) -> TestDaemon {
        TestDaemon::start_with(Clock::system(), more)
    }

    /// Starts one on this clock.
    pub fn start_with(clock: Clock, more: &str) -> TestDaemon {
        TestDaemon::start_in(Arc::new(TempDir::new()), clock, more).unwrap()
    }

    /// Starts one in this directory, where another one may have left its queue.
    pub fn start_in(dir: Arc<TempDir>, clock: Clock, more: &str) -> Result<TestDaemon, Error> {
        // The daemon in the test is whoever runs the test; only a process of its own can become somebody else.
        let parse = |text: &str| {
            Config::parse(text, Path::new("test.toml")).map(|mut config| {
                (config.user, config.group) = (None, None);
                config
            })
        };
        let text = Arc::new(Mutex::new(config(dir.path(), more)));
        let source = Arc::clone(&text);
        let config = parse(&text.lock().unwrap())?;
        let us = (geteuid().as_raw(), getegid().as_raw());
        let doors = Doors::bind(&config, us)?;
        let setup = Setup {
            clock: clock.clone(),
            source: Arc::new(move || parse(&source.lock().unwrap())),
            // Whoever called it panicked already, which fails the test that waits for its work.
            fatal: Arc::new(|reason| eprintln!("fatal: {reason}")),
            log: None,
            panics: Arc::default(),
        };
        let daemon = Daemon::start(config, doors, setup)?;
        let (asking, addresses) = (daemon.asking(), daemon.addresses());
        let thread = std::thread::spawn(move || daemon.run());
        Ok(TestDaemon {
            asking,
            thread: Some(thread),
            addresses,
            text,
            clock,
            dir,
        })
    }

    /// The address of its first TCP listener.
    pub fn smtp(&self) -> SocketAddr {
        let tcp = |address: &ListenAddress| match address {
            ListenAddress::Tcp(tcp) => Some(*tcp),
            ListenAddress::Unix(_) => None,
        };
        self.addresses.iter().find_map(tcp).expect("a TCP listener")
    }

    /// The path of its first Unix listener.
    pub fn unix(&self) -> &Path {
        self.addresses
            .iter()
            .find_map(|address| match address {
                ListenAddress::Unix(path) => Some(path.as_path()),
                ListenAddress::Tcp(_) => None,
            })
            .expect("a Unix listener")
    }

    /// Hands in a message by SMTP; returns its queue id.
    pub fn submit(&self, from: &str, to: &[&str], content: &str) -> i64 {
        submit(self.smtp(), from, to, content)
    }

    /// Says lines to the control socket; returns all lines of the answers.
    pub fn control(&self, lines: &str) -> Vec<String> {
        control(&control_path(self.dir.path()), lines)
    }

    /// What the next reload reads, in place of the former `more`.
    pub fn rewrite(&self, more: &str) {
        *self.text.lock().unwrap() = config(self.dir.path(), more);
    }

    /// Asks for something, as a signal does.
    pub fn ask(&self, ask: Ask) {
        self.asking.ask(ask);
    }

    /// Stops gracefully and leaves the directory.
    pub fn stop(mut self) -> Arc<TempDir> {
        self.end().unwrap();
        Arc::clone(&self.dir)
    }

    /// Waits until it has stopped by itself.
    pub fn wait(mut self) -> Result<(), Error> {
        self.thread.take().unwrap().join().unwrap()
    }

    fn end(&mut self) -> Result<(), Error> {
        match self.thread.take() {
            Some(thread) => {
                self.asking.ask(Ask::Stop);
                thread.join().unwrap()
            }
            None => Ok(()),
        }
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.asking.ask(Ask::StopNow);
        }
        let _ = self.end();
    }
}

/// posthasted as a process of its own. Killed when it is dropped.
pub struct Process {
    child: Option<Child>,
    lines: Receiver<String>,
    /// Its directory.
    pub dir: Arc<TempDir>,
}

impl Process {
    /// Starts `posthasted -F` in a new directory and waits until it is ready.
    pub fn start(more: &str) -> Process {
        Process::start_in(Arc::new(TempDir::new()), more)
    }

    /// As [`Process::start`], where another one may have left its queue.
    pub fn start_in(dir: Arc<TempDir>, more: &str) -> Process {
        let file = write_config(&dir, more);
        let mut command = posthasted();
        command.arg("-F").arg("-f").arg(&file);
        let process = Process::spawn(dir, command);
        process.wait_for(" start ");
        process
    }

    /// Runs a command whose standard error is the log.
    pub fn spawn(dir: Arc<TempDir>, mut command: Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = unbounded();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Process {
            child: Some(child),
            lines,
            dir,
        }
    }

    /// The process id.
    pub fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        Pid::from_raw(i32::try_from(child.id()).unwrap())
    }

    /// Reads the log up to a line that contains `words`, and returns it.
    pub fn wait_for(&self, words: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no {words:?} in the log ({error}):\n{}", seen.join("\n")),
            }
        }
    }

    /// All lines of the log that are there and were not read.
    pub fn rest_of_log(&self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
        }
        lines
    }

    /// Says lines to the control socket; returns all lines of the answers.
    pub fn control(&self, lines: &str) -> Vec<String> {
        control(&control_path(self.dir.path()), lines)
    }

    /// The path of its Unix listener.
    pub fn unix(&self) -> PathBuf {
        self.dir.path().join("run/smtp")
    }

    /// Hands in a message over the Unix listener.
    pub fn submit(&self, from: &str, to: &[&str], content: &str) -> i64 {
        submit_over(Smtp::over_unix(&self.unix()), from, to, content)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    /// SIGTERM, and its exit status.
    pub fn stop(mut self) -> (ExitStatus, Arc<TempDir>) {
        self.signal(Signal::SIGTERM);
        (self.wait(), Arc::clone(&self.dir))
    }

    /// kill -9.
    pub fn kill(mut self) -> Arc<TempDir> {
        self.signal(Signal::SIGKILL);
        self.wait();
        Arc::clone(&self.dir)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The daemon's program, without the environment's wishes.
pub fn posthasted() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthasted"));
    command
        .env_remove("RUST_LOG")
        .env_remove("NOTIFY_SOCKET")
        .env("RUST_BACKTRACE", "0");
    command
}

/// Runs posthasted with these arguments to its end.
pub fn run(args: &[&str]) -> Output {
    posthasted()
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Writes [`config`] into the directory and returns its path.
pub fn write_config(dir: &TempDir, more: &str) -> PathBuf {
    let file = dir.path().join("posthaste.toml");
    fs::write(&file, config(dir.path(), more)).unwrap();
    file
}

/// One SMTP session, line by line.
pub struct Smtp {
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
}

impl Smtp {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> Smtp {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Smtp::greeted(Box::new(stream.try_clone().unwrap()), Box::new(stream))
    }

    /// Connects to a Unix listener and reads the greeting.
    pub fn over_unix(path: &Path) -> Smtp {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Smtp::greeted(Box::new(stream.try_clone().unwrap()), Box::new(stream))
    }

    fn greeted(reader: Box<dyn Read + Send>, writer: Box<dyn Write + Send>) -> Smtp {
        let mut smtp = Smtp {
            reader: BufReader::new(reader),
            writer,
        };
        let greeting = smtp.reply();
        assert!(greeting.starts_with("220 "), "{greeting}");
        smtp
    }

    /// Reads one reply, its lines joined with a newline.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).unwrap();
            let last = line.as_bytes().get(3) != Some(&b'-');
            reply.push_str(line.trim_end());
            if last {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// Sends a line and reads its reply.
    pub fn say(&mut self, line: &str) -> String {
        self.send(&format!("{line}\r\n"));
        self.reply()
    }

    /// Sends octets.
    pub fn send(&mut self, octets: &str) {
        self.writer.write_all(octets.as_bytes()).unwrap();
    }
}

/// Hands in a message; returns its queue id. `content` has LF line ends and is stuffed here.
pub fn submit(address: SocketAddr, from: &str, to: &[&str], content: &str) -> i64 {
    submit_over(Smtp::connect(address), from, to, content)
}

/// As [`submit`], over a session that is greeted and fresh.
pub fn submit_over(mut smtp: Smtp, from: &str, to: &[&str], content: &str) -> i64 {
    let mut good = |line: &str, code: &str| {
        let reply = smtp.say(line);
        assert!(reply.starts_with(code), "{line}: {reply}");
        reply
    };
    good("EHLO client.test", "250");
    good(&format!("MAIL FROM:<{from}>"), "250");
    for to in to {
        good(&format!("RCPT TO:<{to}>"), "250");
    }
    good("DATA", "354");
    let mut data = String::new();
    for line in content.lines() {
        if line.starts_with('.') {
            data.push('.');
        }
        data.push_str(line);
        data.push_str("\r\n");
    }
    let reply = good(&format!("{data}."), "250 2.0.0 queued as ");
    good("QUIT", "221");
    reply.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Says lines to a control socket; returns all lines of the answers.
pub fn control(path: &Path, lines: &str) -> Vec<String> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{lines}\n").as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().map(str::to_owned).collect()
}

/// Runs something in a thread of its own and fails after [`PATIENCE`], for calls that must not hang.
pub fn within<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = bounded(1);
    std::thread::spawn(move || sender.send(call()));
    receiver
        .recv_timeout(PATIENCE)
        .unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Hands in a message with these MAIL and RCPT lines, parameters and all.
pub fn submission(daemon: &TestDaemon, mail: &str, rcpt: &[&str], content: &str) {
    let mut smtp = Smtp::connect(daemon.smtp());
    let lines = ["EHLO client.example", mail];
    for line in lines.iter().chain(rcpt) {
        let answer = smtp.say(line);
        assert!(answer.starts_with("250"), "{line}: {answer}");
    }
    assert!(smtp.say("DATA").starts_with("354"));
    smtp.send(content);
    let answer = smtp.say(".");
    assert!(answer.starts_with("250"), "{answer}");
    smtp.say("QUIT");
}
