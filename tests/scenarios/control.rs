//! Scenarios: the control socket, with a real queue behind it and a clock that stands still.

#![allow(clippy::unwrap_used)] // a test that cannot set up its daemon has failed

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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
            action: ClaimAction::Claim { next_attempt },
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

// CTL-1, CTL-5, CTL-10
#[test]
fn a_listing_is_one_line_per_recipient_and_a_last_line() {
    let fixture = Fixture::new();
    let id = fixture
        .queue
        .add(&["bob@example.org", "\"a b\"@other.example"]);
    fixture.claim(id, &[1]);
    let next = start().plus(minutes(8));
    fixture.queue.settle(id, 1, Verdict::Deferred { next });
    fixture.queue.clock.advance(minutes(3));
    assert_eq!(
        fixture.ask("list sort=next"),
        [
            format!(
                "id={id} rcpt=2 from=<joe@here.example> to=\"<\\\"a b\\\"@other.example>\" state=queued \
                 attempts=0 next={} size=40 age=3m blocker=\"\"",
                start()
            ),
            format!(
                "id={id} rcpt=1 from=<joe@here.example> to=<bob@example.org> state=queued attempts=1 \
                 next={next} size=40 age=3m blocker=\"451 4.0.0 the peer's words\""
            ),
            "OK 2".to_owned(),
        ]
    );
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

// CTL-6
#[test]
fn filters_are_and_ed_and_a_bad_one_changes_nothing() {
    let fixture = Fixture::new();
    let queue = &fixture.queue;
    let a = special(
        queue,
        "relay",
        "app@shop.example",
        &["bob@example.org", "ann@other.example"],
        10,
    );
    queue.clock.advance(minutes(60));
    let b = special(queue, "uid:joe", "", &["Bob@example.org"], 10);
    let held = fixture.last(&format!("hold id={b} reason=\"look at it\""));
    assert_eq!(held, "OK 1");
    for (filter, matches) in [
        ("", 3),
        (&format!("id={a}") as &str, 2),
        (&format!("id={a}/2,{b}"), 2),
        (&format!("id={a}/2,{b} state=queued"), 1),
        ("rcpt=2", 1),
        ("from=<>", 1),
        ("from=@shop.example", 2),
        ("from=shop", 2),
        ("to=bob", 2),
        ("to=<bob@example.org>", 2),
        ("to=@other.example", 1),
        ("to=@example", 0),
        ("domain=EXAMPLE.org", 2),
        ("sender-domain=shop.example", 2),
        ("state=held", 1),
        ("state=claimed", 0),
        ("older=30m", 2),
        ("newer=30m", 1),
        ("older=30m newer=2h domain=example.org", 1),
        ("next-before=1m", 3),
        ("next-before=2001-01-01T00:00:00Z", 0),
        ("caller=uid:joe", 1),
        ("text=\"look at\"", 1),
        ("transport=slow", 0),
    ] {
        let last = fixture.last(&format!("list {filter}"));
        assert_eq!(last, format!("OK {matches}"), "{filter}");
    }
    for bad in [
        "id=x",
        "state=sleeping",
        "older=5",
        "next-before=soon",
        "to=",
        "domain=a..b",
        "unknown=1",
        "id",
    ] {
        for verb in ["drop all", "list", "count", "hold"] {
            let answer = fixture.ask(&format!("{verb} {bad}"));
            assert!(
                answer[0].starts_with("ERR usage "),
                "{verb} {bad}: {answer:?}"
            );
        }
    }
    assert_eq!(fixture.states(a), [State::Queued, State::Queued]);
}

// CTL-7
#[test]
fn a_list_is_sorted_and_goes_on_from_its_cursor() {
    let fixture = Fixture::new();
    let queue = &fixture.queue;
    let mut ids = Vec::new();
    for size in [30, 10, 20] {
        ids.push(special(
            queue,
            "relay",
            "app@here.example",
            &["bob@example.org"],
            size,
        ));
        queue.clock.advance(minutes(1));
    }
    let order = |request: &str| -> Vec<usize> {
        let answer = fixture.ask(request);
        let rows = answer[..answer.len() - 1].iter();
        rows.map(|line| {
            let id = line.split(' ').next().unwrap();
            ids.iter()
                .position(|known| format!("id={known}") == id)
                .unwrap()
        })
        .collect()
    };
    assert_eq!(order("list"), [0, 1, 2]);
    assert_eq!(order("list sort=queued"), [0, 1, 2]);
    assert_eq!(order("list sort=age"), [2, 1, 0]);
    assert_eq!(order("list sort=-age"), [0, 1, 2]);
    assert_eq!(order("list sort=size"), [1, 2, 0]);
    assert_eq!(order("list sort=-size"), [0, 2, 1]);

    let mut seen = Vec::new();
    let mut request = "list sort=size limit=1".to_owned();
    loop {
        let mut answer = fixture.ask(&request);
        let last = answer.pop().unwrap();
        seen.extend(answer);
        assert!(seen.len() <= 3);
        match last.split_once(" cursor=") {
            Some((count, cursor)) => {
                assert_eq!(count, "OK 1");
                request = format!("list sort=size limit=1 cursor={cursor}");
            }
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    for bad in ["limit=0", "limit=10001", "limit=-1", "sort=colour", "limit"] {
        assert!(
            fixture
                .last(&format!("list {bad}"))
                .starts_with("ERR usage "),
            "{bad}"
        );
    }
    let faulty = fixture.last("list cursor=rubbish");
    assert!(faulty.starts_with("ERR usage "), "{faulty}");
}

// CTL-8
#[test]
fn changing_verbs_want_a_filter_or_all_and_can_be_tried_dry() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org", "ann@other.example"]);
    for verb in [
        "kick",
        "drop",
        "fail",
        "fail text=sorry",
        "hold",
        "hold reason=x",
        "release",
        "drop wait",
    ] {
        let last = fixture.last(verb);
        assert!(last.starts_with("ERR usage which?"), "{verb}: {last}");
    }
    for verb in ["kick", "drop", "fail", "hold"] {
        assert_eq!(
            fixture.ask(&format!("{verb} all dry-run")),
            [
                format!("id={id} rcpt=1 to=<bob@example.org>"),
                format!("id={id} rcpt=2 to=<ann@other.example>"),
                "OK 2".to_owned(),
            ],
            "{verb}"
        );
    }
    assert_eq!(fixture.states(id), [State::Queued, State::Queued]);
    assert!(fixture.wakes().is_empty());
    assert_eq!(fixture.ask("drop domain=other.example"), ["OK 1"]);
    assert_eq!(fixture.states(id), [State::Queued, State::Dropped]);
}

// CTL-11, RT-6
#[test]
fn kick_makes_queued_recipients_due_and_nothing_else() {
    let fixture = Fixture::new();
    let id = fixture
        .queue
        .add(&["a@example.org", "b@example.org", "c@other.example"]);
    let later = start().plus(minutes(60));
    fixture.claim(id, &[1]);
    fixture
        .queue
        .settle(id, 1, Verdict::Deferred { next: later });
    assert_eq!(fixture.last(&format!("hold id={id}/2")), "OK 1");
    fixture.claim(id, &[3]);
    fixture.wakes();

    assert_eq!(fixture.ask("kick all"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].next_attempt, start());
    assert_eq!(shown.recipients[0].attempts, 1);
    assert_eq!(shown.recipients[1].state, State::Held);
    let destination = shown.recipients[0].destination.clone();
    assert_eq!(fixture.wakes(), [format!("{destination} {}", start())]);

    assert_eq!(fixture.ask(&format!("kick id={id} in=2h")), ["OK 1"]);
    assert_eq!(fixture.ask("kick all state=held"), ["OK 0"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].next_attempt, start().plus(minutes(120)));
    assert_eq!(fixture.ask("kick all at=2030-01-01T00:00:00Z"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(
        shown.recipients[0].next_attempt.to_string(),
        "2030-01-01T00:00:00Z"
    );
    for bad in [
        "at=tomorrow",
        "in=5",
        "at=2030-01-01T00:00:00Z in=1h",
        "transport=unknown",
    ] {
        let last = fixture.last(&format!("kick all {bad}"));
        assert!(last.starts_with("ERR usage "), "{bad}: {last}");
    }
}

// CTL-12
#[test]
fn drop_and_fail_are_final_and_name_the_operator() {
    let fixture = Fixture::new();
    let uid = nix::unistd::geteuid().as_raw();
    let id = fixture
        .queue
        .add(&["a@example.org", "b@example.org", "c@example.org"]);
    fixture.claim(id, &[3]);
    assert_eq!(fixture.ask(&format!("drop id={id}/1")), ["OK 1"]);
    assert_eq!(
        fixture.ask(&format!("fail id={id} text=\"sorry, wrong list\"")),
        [
            "note=\"left out because an attempt is running\" claimed=1",
            "OK 1"
        ]
    );
    assert_eq!(
        fixture.states(id),
        [State::Dropped, State::Failed, State::Claimed]
    );
    let shown = fixture.ask(&format!("show id={id}"));
    let by = shown
        .iter()
        .filter(|line| line.contains(" operator=\"canceled by operator"));
    let by: Vec<&String> = by.collect();
    assert_eq!(by.len(), 2, "{shown:?}");
    assert!(by.iter().all(|line| line.contains(&uid.to_string())));

    // With `wait` the claimed one follows when its attempt ends undelivered.
    assert_eq!(fixture.ask(&format!("drop id={id}/3 wait")), ["OK 1"]);
    assert_eq!(fixture.states(id)[2], State::Claimed);
    fixture
        .queue
        .settle(id, 3, Verdict::Deferred { next: start() });
    assert_eq!(fixture.states(id)[2], State::Dropped);
    assert_eq!(fixture.ask("drop all"), ["OK 0"]);
}

// CTL-13
#[test]
fn a_held_recipient_keeps_its_next_attempt_and_is_released_at_once() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["a@example.org"]);
    assert_eq!(
        fixture.ask("hold all reason=\"ask \\\"legal\\\"\""),
        ["OK 1"]
    );
    assert!(fixture.wakes().is_empty());
    let line = fixture.ask("list").remove(0);
    assert!(line.contains(" state=held "), "{line}");
    assert!(line.contains(&format!(" next={} ", start())), "{line}");
    assert!(line.ends_with(" blocker=\"ask \\\"legal\\\"\""), "{line}");
    assert_eq!(fixture.ask("release all"), ["OK 1"]);
    assert_eq!(fixture.wakes(), [format!("example.org {}", start())]);
    assert_eq!(fixture.states(id), [State::Queued]);
    assert_eq!(fixture.ask("release all"), ["OK 0"]);
}

// CTL-14
#[test]
fn route_sets_a_transport_that_exists() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["a@example.org"]);
    let last = fixture.last("route all transport=unknown");
    assert!(last.starts_with("ERR usage "), "{last}");
    assert_eq!(fixture.ask("route all transport=slow"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].transport.as_deref(), Some("slow"));
    assert_eq!(&*shown.recipients[0].destination.0, "relay:slow");
    assert_eq!(fixture.wakes(), [format!("relay:slow {}", start())]);
    assert_eq!(fixture.ask("list transport=slow").len(), 2);
    assert_eq!(fixture.ask("route all transport=default"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].transport, None);
    // At a kick it is the same word.
    assert_eq!(fixture.ask("kick all transport=slow"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].transport.as_deref(), Some("slow"));
}

// CTL-17, SC-12
#[test]
fn a_pause_is_the_blocker_until_it_ends_or_is_lifted() {
    let fixture = Fixture::new();
    fixture.queue.add(&["a@example.org"]);
    let blocker = || {
        let line = fixture.ask("list domain=example.org").remove(0);
        line.split_once(" blocker=").unwrap().1.to_owned()
    };
    assert_eq!(blocker(), "\"\"");
    assert_eq!(fixture.ask("pause domain=other.example"), ["OK 1"]);
    assert_eq!(blocker(), "\"\"");
    assert_eq!(
        fixture.ask("pause domain=Example.org for=1h reason=\"new disks\""),
        ["OK 1"]
    );
    assert_eq!(fixture.wakes(), ["Everything", "Everything"]);
    let until = start().plus(minutes(60));
    assert_eq!(
        blocker(),
        format!("\"paused: domain example.org (new disks)\" until={until}")
    );
    let stats = fixture.ask("stats");
    assert!(
        stats.iter().any(|line| *line
            == format!(
                "pause=domain=example.org since={} until={until} reason=\"new disks\"",
                start()
            )),
        "{stats:?}"
    );
    fixture.queue.clock.advance(minutes(60));
    assert_eq!(blocker(), "\"\"");

    assert_eq!(fixture.ask("pause"), ["OK 1"]);
    assert!(blocker().starts_with("\"paused: all deliveries"));
    assert_eq!(fixture.ask("resume domain=unknown.example"), ["OK 0"]);
    assert_eq!(fixture.ask("resume"), ["OK 1"]);
    assert_eq!(blocker(), "\"\"");
    assert_eq!(fixture.ask("pause transport=direct"), ["OK 1"]);
    assert!(blocker().starts_with("\"paused: transport direct"));
    assert_eq!(fixture.ask("resume all"), ["OK 3"]);
    assert_eq!(blocker(), "\"\"");
    for bad in [
        "pause transport=unknown",
        "pause for=soon",
        "pause transport=slow domain=x.example",
        "pause all domain=x.example",
        "resume all domain=x.example",
        "resume for=1h",
    ] {
        assert!(fixture.last(bad).starts_with("ERR usage "), "{bad}");
    }
}

// CTL-9
#[test]
fn count_counts_in_all_and_in_groups() {
    let fixture = Fixture::new();
    let id = fixture
        .queue
        .add(&["a@example.org", "b@example.org", "c@other.example"]);
    fixture.last(&format!("hold id={id}/3"));
    assert_eq!(fixture.ask("count"), ["count=3", "OK 3"]);
    assert_eq!(fixture.ask("count state=held"), ["count=1", "OK 1"]);
    assert_eq!(
        fixture.ask("count by=domain"),
        [
            "domain=example.org count=2",
            "domain=other.example count=1",
            "OK 2"
        ]
    );
    assert_eq!(
        fixture.ask("count by=state"),
        ["state=queued count=2", "state=held count=1", "OK 2"]
    );
    assert_eq!(
        fixture.ask("count by=caller"),
        ["caller=relay count=3", "OK 1"]
    );
    assert_eq!(fixture.ask("count by=age").len(), 2);
    assert_eq!(fixture.ask("count by=transport").pop().unwrap(), "OK 1");
    assert!(fixture.last("count by=colour").starts_with("ERR usage "));
}

// CTL-10, Q-15, OBS-8
#[test]
fn show_says_everything_and_gives_the_raw_message() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org", "ann@example.org"]);
    fixture.claim(id, &[1]);
    let next = start().plus(minutes(8));
    fixture.queue.settle(id, 1, Verdict::Deferred { next });
    fixture.claim(id, &[2]);
    fixture.around.running.lock().unwrap().push(Doing {
        id,
        numbers: vec![2],
        stage: Stage::FinalDot,
        host: "mx.example.org".to_owned(),
        address: None,
        elapsed: Duration::from_secs(5),
        worker: "worker-1".to_owned(),
    });
    let answer = fixture.ask(&format!("show id={id}"));
    assert!(answer[0].starts_with(&format!("id={id} from=<joe@here.example> caller=relay ")));
    assert!(answer[0].contains(" subject=test "));
    assert!(answer[1].contains(" rcpt=1 ") && answer[1].contains(" state=queued "));
    assert!(
        answer[2].contains(" stage=final-dot host=mx.example.org elapsed=5s "),
        "{answer:?}"
    );
    assert!(answer[3].contains(" rcpt=1 attempt=1 "), "{answer:?}");
    assert!(
        answer[3].contains(" code=451 status=4.0.0 result=error "),
        "{answer:?}"
    );
    assert!(answer[4].ends_with(" result=running"), "{answer:?}");
    assert_eq!(answer[5], "OK 1");
    // The listing says the same of the running attempt.
    let list = fixture.ask(&format!("list id={id}/2"));
    assert!(list[0].contains(" stage=final-dot host=mx.example.org elapsed=5s "));

    let one = fixture.ask(&format!("show id={id}/2"));
    assert!(one.iter().all(|line| !line.contains("rcpt=1 ")));
    assert_eq!(
        fixture.ask(&format!("show id={id} content"))[5..],
        [
            "| Received: from x",
            "| Subject: test",
            "| ",
            "| body",
            "OK 1"
        ]
    );
    assert_eq!(
        fixture.ask(&format!("show id={id} headers"))[5..],
        ["| Received: from x", "| Subject: test", "OK 1"]
    );
    assert_eq!(fixture.ask("show id=1000000"), ["OK 0"]);
    assert_eq!(fixture.ask(&format!("show id={id}/3")), ["OK 0"]);
    for bad in [
        "show",
        "show id=1,2",
        "show id=x",
        "show id=1 headers content",
    ] {
        assert!(fixture.last(bad).starts_with("ERR usage "), "{bad}");
    }
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
    made.content = NewContent::Inline(Arc::from(&b"OK 1\r\nERR usage\r\n"[..]));
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

// CTL-5
#[test]
fn json_answers_are_read_by_another_reader_with_the_same_keys() {
    let fixture = Fixture::new();
    let id = fixture.queue.store.allocate_id().unwrap();
    let mut row = row("\"a \\\" b\"@example.org", start());
    row.hold = Some("two\nlines \"quoted\" \u{e9}\u{1f600}\t\\".to_owned());
    fixture
        .queue
        .store
        .enqueue(message(id, start(), vec![row]))
        .unwrap();
    let requests = [
        "list",
        "show id=1",
        "count by=domain",
        "stats",
        "help",
        "version",
        "why id=1",
    ];
    for request in requests {
        let request = request.replace("id=1", &format!("id={id}"));
        let plain = fixture.ask(&request);
        let json = fixture.ask(&format!("json {request}"));
        assert_eq!(plain.len(), json.len());
        assert_eq!(plain.last(), json.last());
        for (plain, json) in plain.iter().zip(&json[..json.len() - 1]) {
            let keys = run("jq", &["-r", "keys_unsorted | join(\" \")"], json);
            let words = format!("x {plain}");
            let parsed = posthaste::front::control::line::parse(words.as_bytes());
            let parsed = parsed.unwrap().unwrap().words;
            let names: Vec<&str> = parsed.iter().map(|word| word.name.as_str()).collect();
            assert_eq!(keys.trim_end(), names.join(" "));
        }
    }
    let json = &fixture.ask("json list")[0];
    assert_eq!(
        run("jq", &["-j", ".blocker"], json),
        "two\nlines \"quoted\" \u{e9}\u{1f600}\t\\"
    );
    assert_eq!(
        run("jq", &["-j", ".id, .to"], json),
        format!("{id}<\"a \\\" b\"@example.org>")
    );
}

/// What a program makes of its input.
fn run(program: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program}: {input}");
    String::from_utf8(output.stdout).unwrap()
}

// CTL-18
#[test]
fn why_gives_reason_next_attempt_and_expiry() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org"]);
    fixture.claim(id, &[1]);
    let next = start().plus(minutes(8));
    fixture.queue.settle(id, 1, Verdict::Deferred { next });
    let expires = start().plus(minutes(5 * 24 * 60));
    assert_eq!(
        fixture.ask(&format!("why id={id}")),
        [
            format!(
                "id={id} rcpt=1 to=<bob@example.org> state=queued blocker=\"451 4.0.0 the peer's words\" \
                 reply=\"451 4.0.0 the peer's words\" attempts=1 next={next} expires={expires}"
            ),
            "OK 1".to_owned()
        ]
    );
    assert_eq!(fixture.ask("why id=1000000"), ["OK 0"]);
}

// CTL-9
#[test]
fn stats_version_and_help_answer() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let stats = fixture.ask("stats");
    assert!(
        stats[0].contains(" messages=1 queued=1 claimed=0 held=0 in-doubt=0 "),
        "{stats:?}"
    );
    assert!(stats[0].ends_with(" workers=64"));
    assert_eq!(
        fixture.ask("version")[0],
        format!("name=posthaste version={}", env!("CARGO_PKG_VERSION"))
    );
    let help = fixture.ask("help");
    assert_eq!(help.last().unwrap(), &format!("OK {}", help.len() - 1));
    for verb in verbs::TABLE {
        let one = fixture.ask(&format!("help {}", verb.name));
        assert!(one[0].starts_with(&format!("verb={} usage=", verb.name)));
        assert!(help.contains(&one[0]));
        assert_eq!(one[1], "OK 1");
    }
    assert!(fixture.last("help me").starts_with("ERR usage "));
}

// CTL-22
#[test]
fn reload_names_the_changed_keys_or_the_fault() {
    let fixture = Fixture::new();
    *fixture.around.reload.lock().unwrap() = Some(Ok(Reloaded {
        changed: vec!["retry.lifetime".to_owned()],
        restart: vec!["queue.path".to_owned()],
    }));
    assert_eq!(
        fixture.ask("reload"),
        [
            "changed=retry.lifetime",
            "needs-restart=queue.path",
            "OK reloaded"
        ]
    );
    *fixture.around.reload.lock().unwrap() =
        Some(Err("f.toml:3: x: bad\nf.toml:4: y: bad".to_owned()));
    assert_eq!(
        fixture.ask("reload"),
        ["ERR config f.toml:3: x: bad; f.toml:4: y: bad"]
    );
    assert_eq!(fixture.tool(&["reload"]).status.code(), Some(78));
}

// CTL-22
#[test]
fn shutdown_is_answered_and_handed_on() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask("shutdown"), ["OK shutting down"]);
    assert_eq!(fixture.ask("shutdown now"), ["OK shutting down"]);
    assert!(fixture.last("shutdown later").starts_with("ERR usage "));
    assert_eq!(*fixture.around.stops.lock().unwrap(), [false, true]);
}

// CTL-1, design.md 10
#[test]
fn netcat_is_a_client() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let nc = |args: &[&str], input: &str| {
        let path = fixture.path.to_str().unwrap();
        let args: Vec<&str> = args.iter().copied().chain(["-U", path]).collect();
        run("nc", &args, input)
    };
    let text = nc(
        &[],
        "list domain=example.org\nkick domain=example.org\nquit\n",
    );
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].ends_with(" blocker=\"\""));
    assert_eq!(lines[1..], ["OK 1", "OK 1", "OK bye"]);
    // With -N netcat says that its input is over, and quit is not needed.
    assert_eq!(nc(&["-N"], "count\n"), "count=1\nOK 1\n");
}

// CTL-23
#[test]
fn the_tool_prints_data_lines_and_tells_the_rest_by_its_status() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["\"a b\"@example.org"]);
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let list = fixture.tool(&["list", "to=\"a b\"@example.org"]);
    assert_eq!(list.status.code(), Some(0));
    assert!(text(&list).starts_with(&format!("id={id} rcpt=1 ")));
    assert_eq!(text(&list).lines().count(), 1);
    assert_eq!(text(&fixture.tool(&["json", "count"])), "{\"count\":1}\n");
    for (args, status) in [
        (&["list", "domain=none.example"][..], 1),
        (&["drop"], 64),
        (&["drop", "all\nquit"], 64),
        (&["nonsense"], 64),
        (&[], 64),
        (&["hold", "all", "reason=one\ntwo \"three\""], 0),
        (&["release", "all", "dry-run"], 0),
        (&["kick", "all"], 1),
    ] {
        let output = fixture.tool(args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        assert!(status != 64 || !output.stderr.is_empty());
    }
    assert!(fixture.ask("list")[0].ends_with(" blocker=\"one\\ntwo \\\"three\\\"\""));
    // Nobody there.
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .args(["-s", "/nonexistent/control", "list"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
}

// CTL-23
#[test]
fn the_tool_finds_the_socket_in_the_configuration() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let file = fixture.path.with_file_name("posthaste.toml");
    // A file with a fault elsewhere still leads to the daemon.
    let text = format!(
        "[retry]\nlifetime = \"soon\"\n[control]\npath = {:?}\n",
        fixture.path
    );
    std::fs::write(&file, text).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_posthaste"))
        .arg("-f")
        .arg(&file)
        .arg("count")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"count=1\n");
}

// CTL-24
#[test]
fn the_outcome_that_was_committed_first_stands() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org"]);
    fixture.claim(id, &[1]);
    assert_eq!(fixture.last(&format!("drop id={id} wait")), "OK 1");
    fixture.queue.settle(id, 1, Verdict::Delivered);
    assert_eq!(fixture.states(id), [State::Delivered]);
    for verb in [
        "kick",
        "drop",
        "fail",
        "hold",
        "release",
        "route transport=slow",
    ] {
        let last = fixture.last(&format!("{verb} id={id}"));
        assert_eq!(last, "OK 0", "{verb}");
    }
    assert_eq!(fixture.states(id), [State::Delivered]);
    assert_eq!(fixture.last("list state=delivered"), "OK 1");
}

// CTL-9, CTL-23, design.md 10
#[test]
fn the_examples_of_the_manuals_work_when_pasted() {
    let fixture = Fixture::new();
    let socket = fixture.path.to_str().unwrap();
    let as_tool = format!(
        "posthaste() {{ {} -s {socket} \"$@\"; }}; ",
        env!("CARGO_BIN_EXE_posthaste")
    );
    let mut tried = 0;
    for page in ["posthaste-control.5", "posthaste.8"] {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(page);
        let text = std::fs::read_to_string(page).unwrap();
        let examples = text.split_once(".Sh EXAMPLES").unwrap().1;
        let shell = |line: &&str| {
            let posthaste = line.starts_with("posthaste ") && !line.contains(" -f ");
            posthaste || line.contains("| nc ")
        };
        for line in examples.lines().filter(shell) {
            fixture.queue.add(&["bob@example.org", "ann@slow.example"]);
            fixture.last("hold to=ann");
            let line = line
                .replace("\\e", "\\")
                .replace("/run/posthaste/control", socket);
            // Ids of the examples are not those of this queue: nothing matched is an answer too.
            let output = Command::new("sh")
                .args(["-c", &format!("{as_tool}{line}")])
                .output()
                .unwrap();
            assert!(
                matches!(output.status.code(), Some(0 | 1)),
                "{line}: {output:?}"
            );
            assert!(output.stderr.is_empty(), "{line}: {output:?}");
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(!text.contains("ERR "), "{line}: {text}");
            tried += 1;
        }
    }
    assert!(tried > 8, "{tried} examples");
}
