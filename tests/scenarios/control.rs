//! Scenarios: the control socket, with a real queue behind it and a clock that stands still. Here the socket itself;
//! what is asked of it in files of their own.

#![allow(clippy::unwrap_used)] // a test that cannot set up its daemon has failed

mod requests;
mod tool;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use posthaste::clock::Clock;
use posthaste::config::{Config, Live};
use posthaste::delivery::Doing;
use posthaste::dispatch::Wake;
use posthaste::front::control::peer::Peer;
use posthaste::front::control::server::{self, Server};
use posthaste::front::control::verbs::{self, Control};
use posthaste::front::control::{Host, Reloaded};
use posthaste::message::QueueId;
use posthaste::policy::failure::{Stage, Verdict};
use posthaste::store::{ClaimAction, ClaimRequest, NewContent, NewMessage, State};

use crate::support::daemon::{Process, TestDaemon};
use crate::support::queue::{Queue, TempDir, head, message, row, start};

const CONFIG: &str = "hostname = \"mail.here.example\"\n\
    [[transport]]\nname = \"slow\"\nkind = \"relay\"\nhosts = [\"192.0.2.9:25\"]\ntls = \"none\"\n";

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// A daemon that does nothing but remember what it was asked.
#[derive(Default)]
struct Around {
    reload: Mutex<Option<Result<Reloaded, String>>>,
    stops: Mutex<Vec<bool>>,
    wakes: Mutex<Vec<String>>,
    running: Mutex<Vec<Doing>>,
}

impl Host for Around {
    fn reload(&self) -> Result<Reloaded, String> {
        self.reload.lock().unwrap().clone().unwrap()
    }

    fn shutdown(&self, now: bool) {
        self.stops.lock().unwrap().push(now);
    }

    fn wake(&self, wake: Wake) {
        self.wakes.lock().unwrap().push(match wake {
            Wake::Due(destination, at) => format!("{destination} {at}"),
            Wake::Kicked(destination, at) => format!("kicked {destination} {at}"),
            other => format!("{other:?}"),
        });
    }

    fn running(&self) -> Vec<Doing> {
        self.running.lock().unwrap().clone()
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        vec![("workers", "64".to_owned())]
    }
}

struct Fixture {
    server: Option<Server>,
    queue: Queue,
    around: Arc<Around>,
    path: PathBuf,
    live: Live,
    _directory: TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(CONFIG, server::IDLE)
    }

    fn with(config: &str, idle: Duration) -> Fixture {
        let directory = TempDir::new();
        let path = directory.path().join("run").join("control");
        let mut config = Config::parse(config, "test.toml".as_ref()).unwrap();
        config.control.path.clone_from(&path);
        let queue = Queue::new();
        let around = Arc::new(Around::default());
        let bound = server::bind(&config.control, None).unwrap();
        let live = Live::new(config);
        let control = Control {
            store: queue.store.clone(),
            config: live.clone(),
            clock: queue.clock.clone(),
            host: Arc::clone(&around) as Arc<dyn Host>,
        };
        let fatal = Arc::new(|reason: &str| panic!("{reason}"));
        let server = Server::start_with(bound, control, fatal, idle).unwrap();
        Fixture {
            server: Some(server),
            queue,
            around,
            path,
            live,
            _directory: directory,
        }
    }

    fn connect(&self) -> Client {
        Client::new(UnixStream::connect(&self.path).unwrap())
    }

    /// The whole answer to one request.
    fn ask(&self, request: &str) -> Vec<String> {
        let mut client = self.connect();
        client.send(&format!("{request}\n"));
        client.answer()
    }

    /// The last line of the answer.
    fn last(&self, request: &str) -> String {
        self.ask(request).pop().unwrap()
    }

    /// As a client that may not do all.
    fn ask_as(&self, caller: &str, request: &str) -> Vec<String> {
        let control = Control {
            store: self.queue.store.clone(),
            config: self.live.clone(),
            clock: self.queue.clock.clone(),
            host: Arc::clone(&self.around) as Arc<dyn Host>,
        };
        let peer = Peer {
            uid: 1234,
            caller: caller.to_owned(),
            all: false,
        };
        let mut out = Vec::new();
        verbs::answer(&control, &peer, request.as_bytes(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn states(&self, id: QueueId) -> Vec<State> {
        let shown = self.queue.store.show(id).unwrap().unwrap();
        shown.recipients.iter().map(|row| row.state).collect()
    }

    fn claim(&self, id: QueueId, numbers: &[u32]) {
        let next_attempt = self.queue.clock.now().plus(minutes(7));
        let claimed = self.queue.store.claim(vec![ClaimRequest {
            id,
            numbers: numbers.to_vec(),
            attempts: 0,
            action: ClaimAction::Claim {
                next_attempt,
                daily: None,
            },
        }]);
        assert_eq!(claimed.unwrap()[0].numbers, numbers);
    }

    fn wakes(&self) -> Vec<String> {
        std::mem::take(&mut *self.around.wakes.lock().unwrap())
    }

    fn tool(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_posthaste"))
            .arg("-s")
            .arg(&self.path)
            .args(args)
            .output()
            .unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
        self.queue.store.close();
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn new(stream: UnixStream) -> Client {
        // So that a server that never answers fails the test instead of hanging it.
        let patience = Some(Duration::from_secs(30));
        stream.set_read_timeout(patience).unwrap();
        stream.set_write_timeout(patience).unwrap();
        Client(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.strip_suffix('\n').map(str::to_owned)
    }

    /// Lines up to the last one of an answer.
    fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().expect("a last line");
            let last = line.starts_with("OK ") || line.starts_with("ERR ");
            lines.push(line);
            if last {
                return lines;
            }
        }
    }

    fn is_closed(&mut self) -> bool {
        self.line().is_none()
    }

    /// Waits until the server has closed, without reading.
    fn wait_for_hangup(&mut self) {
        let stream = self.0.get_ref();
        let mut fds = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        assert_eq!(poll(&mut fds, PollTimeout::from(30_000_u16)), Ok(1));
    }
}

/// A message with its own head.
fn special(queue: &Queue, caller: &str, from: &str, to: &[&str], size: u64) -> QueueId {
    let id = queue.store.allocate_id().unwrap();
    let now = queue.clock.now();
    let mut made: NewMessage = message(id, now, to.iter().map(|to| row(to, now)).collect());
    let mut its = head(id, now);
    its.caller = caller.to_owned();
    its.size = size;
    its.reverse_path = posthaste::smtp::address::ReversePath::parse(from, true).unwrap();
    made.head = Arc::new(its);
    queue.store.enqueue(made).unwrap();
    id
}

// CTL-1
#[test]
fn several_requests_share_a_connection_and_its_end_comes_after_full_answers() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let mut client = fixture.connect();
    client.send("list domain=example.org\n\r\n\nkick id=1000000\r\nnonsense\nversion\n");
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.answer().pop().unwrap(), "OK 1");
    assert_eq!(client.answer(), ["OK 0"]);
    assert!(client.answer()[0].starts_with("ERR usage "));
    assert_eq!(client.answer().len(), 2);
    assert!(client.is_closed());

    let mut client = fixture.connect();
    client.send("quit\nlist\n");
    assert_eq!(client.answer(), ["OK bye"]);
    let mut rest = Vec::new();
    // A reset is as good as an end.
    let _ = client.0.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

// CTL-1
#[test]
fn an_unfinished_last_line_is_not_carried_out() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org"]);
    let mut client = fixture.connect();
    client.send(&format!("drop id={id}"));
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert!(client.answer()[0].starts_with("ERR usage "));
    assert!(client.is_closed());
    assert_eq!(fixture.states(id), [State::Queued]);
}

// CTL-2, SEC-6
#[test]
fn rubbish_gets_an_error_line_and_harms_nobody() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org"]);
    let mut other = fixture.connect();
    let mut client = fixture.connect();
    let long = format!("drop id={}", "1,".repeat(40_000));
    for bad in [
        "drop all\0",
        "drop\0all",
        "\x1b[2J",
        "drop all text=\"",
        "DROP all",
        "GET / HTTP/1.1",
        "drop all all",
        &long,
    ] {
        client.send(&format!("{bad}\n"));
        let answer = client.answer();
        assert_eq!(answer.len(), 1, "{answer:?}");
        assert!(answer[0].starts_with("ERR usage "), "{answer:?}");
        assert!(answer[0].len() < 500);
    }
    client.0.get_mut().write_all(b"list to=\xff\xfe\n").unwrap();
    assert!(client.answer()[0].starts_with("ERR usage "));
    other.send("count\n");
    assert_eq!(other.answer(), ["count=1", "OK 1"]);
    assert_eq!(fixture.states(id), [State::Queued]);
}

// CTL-2
#[test]
fn a_client_that_is_silent_or_drips_is_closed() {
    let fixture = Fixture::with(CONFIG, Duration::from_millis(100));
    let mut silent = fixture.connect();
    let mut half = fixture.connect();
    half.send("drop a");
    for client in [&mut silent, &mut half] {
        assert_eq!(
            client.line().unwrap(),
            "ERR temporary no request for too long"
        );
        assert!(client.is_closed());
    }
}

// CTL-2
#[test]
fn a_client_that_does_not_read_is_cut_off_and_others_are_served() {
    let fixture = Fixture::with(CONFIG, Duration::from_millis(200));
    let content = format!("Subject: x\r\n\r\n{}\r\n", "y".repeat(8 << 20));
    let id = fixture.queue.store.allocate_id().unwrap();
    let mut big = message(id, start(), vec![row("bob@example.org", start())]);
    let mut staged = fixture.queue.store.stage(id);
    for piece in content.as_bytes().chunks(1 << 20) {
        staged.append(piece).unwrap();
    }
    big.content = NewContent::Staged(staged);
    fixture.queue.store.enqueue(big).unwrap();

    let mut stuck = fixture.connect();
    stuck.send(&format!("show id={id} content\n"));
    assert_eq!(fixture.ask("count"), ["count=1", "OK 1"]);
    stuck.wait_for_hangup();
    // What the socket had taken is all there is.
    let mut got = Vec::new();
    let _ = stuck.0.read_to_end(&mut got);
    assert!(got.len() < content.len());
}

// CTL-2
#[test]
fn more_clients_than_allowed_are_sent_away_and_root_has_a_place_of_its_own() {
    let config = format!("{CONFIG}[control]\nclients = 2\n");
    let fixture = Fixture::with(&config, server::IDLE);
    let mut clients: Vec<Client> = (0..2).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        client.send("version\n");
        assert_eq!(client.answer().len(), 2);
    }
    let mut third = fixture.connect();
    if nix::unistd::geteuid().is_root() {
        third.send("version\n");
        assert_eq!(third.answer().len(), 2);
    } else {
        assert_eq!(third.answer(), ["ERR temporary too many clients"]);
    }
    let mut fourth = fixture.connect();
    assert_eq!(fourth.answer(), ["ERR temporary too many clients"]);
    assert!(fourth.is_closed());
    // A place that is given up is free again.
    for mut client in clients {
        client.send("quit\n");
        assert_eq!(client.answer(), ["OK bye"]);
        client.wait_for_hangup();
    }
    assert_eq!(fixture.ask("version").len(), 2);
}

// CTL-3
#[test]
fn the_socket_has_its_mode_and_goes_when_the_daemon_stops() {
    let mut fixture = Fixture::new();
    let mode = std::fs::symlink_metadata(&fixture.path).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o660);
    // A second one would be a second daemon.
    let table = fixture.live.get().control.clone();
    let error = server::bind(&table, None).unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    let mut waiting = fixture.connect();
    waiting.send("version\n");
    assert_eq!(waiting.answer().len(), 2);
    fixture.server.take().unwrap().stop();
    assert!(waiting.is_closed());
    assert!(!fixture.path.exists());
}

// CTL-4
#[test]
fn others_read_only_their_own_mail_and_change_nothing() {
    let fixture = Fixture::new();
    let theirs = special(
        &fixture.queue,
        "relay",
        "app@here.example",
        &["bob@example.org"],
        10,
    );
    let own = special(
        &fixture.queue,
        "uid:joe",
        "joe@here.example",
        &["ann@example.org"],
        10,
    );
    let ask = |request: &str| fixture.ask_as("uid:joe", request);
    let list = ask("list");
    assert_eq!(list.len(), 2);
    assert!(list[0].starts_with(&format!("id={own} ")));
    assert_eq!(ask("count"), ["count=1", "OK 1"]);
    assert_eq!(ask(&format!("list id={theirs}")), ["OK 0"]);
    assert_eq!(ask("list caller=relay"), ["OK 0"]);
    assert_eq!(ask("count caller=relay"), ["OK 0"]);
    assert_eq!(ask(&format!("show id={theirs} content")), ["OK 0"]);
    assert_eq!(ask(&format!("why id={theirs}")), ["OK 0"]);
    assert_eq!(ask(&format!("show id={own}")).pop().unwrap(), "OK 1");
    assert_eq!(ask(&format!("why id={own}")).pop().unwrap(), "OK 1");
    for verb in [
        "kick all",
        "drop all",
        "drop caller=uid:joe",
        "fail all",
        "hold all",
        "release all",
        "route all transport=slow",
        "pause",
        "resume",
        "stats",
        "reload",
        "shutdown",
    ] {
        let answer = ask(verb);
        assert!(answer[0].starts_with("ERR denied "), "{verb}: {answer:?}");
    }
    assert_eq!(fixture.states(theirs), [State::Queued]);
    assert!(fixture.around.stops.lock().unwrap().is_empty());
}

// CTL-1, SEC-3
#[test]
fn nothing_in_a_message_can_look_like_an_answer() {
    let fixture = Fixture::new();
    let id = fixture.queue.store.allocate_id().unwrap();
    let mut row = row("\"OK 1\"@example.org", start());
    row.hold = Some("OK 3\nERR usage x\r\n\x1b[31m\u{e9}".to_owned());
    let mut made = message(id, start(), vec![row]);
    let mut its = head(id, start());
    its.subject = "OK 1\nERR x".to_owned();
    made.head = Arc::new(its);
    made.content = NewContent::Inline(Arc::new(b"OK 1\r\nERR usage\r\n".to_vec()));
    fixture.queue.store.enqueue(made).unwrap();
    for request in [
        "list".to_owned(),
        "json list".to_owned(),
        format!("show id={id} content"),
        format!("json show id={id} content"),
        format!("why id={id}"),
    ] {
        let answer = fixture.ask(&request);
        let (last, data) = answer.split_last().unwrap();
        assert_eq!(last, "OK 1", "{request}: {answer:?}");
        for line in data {
            assert!(!line.starts_with("OK ") && !line.starts_with("ERR "));
            assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
        }
    }
}

// CTL-4
#[test]
fn the_kernel_tells_root_from_others() {
    if !nix::unistd::geteuid().is_root() {
        // Nobody else can become somebody else.
        return;
    }
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let config = format!("{CONFIG}[control]\nmode = 0o666\n");
    let fixture = Fixture::with(&config, server::IDLE);
    special(
        &fixture.queue,
        "uid:nobody",
        "nobody@here.example",
        &["bob@example.org"],
        10,
    );
    special(
        &fixture.queue,
        "uid:root",
        "root@here.example",
        &["ann@example.org"],
        10,
    );
    let mut command = Command::new("nc");
    command.args(["-N", "-U", fixture.path.to_str().unwrap()]);
    command.uid(nobody.uid.as_raw()).gid(nobody.gid.as_raw());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"count\ndrop all\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["count=1", "OK 1"]);
    assert!(lines[2].starts_with("ERR denied "), "{text}");
    assert_eq!(fixture.last("count"), "OK 2");
}
