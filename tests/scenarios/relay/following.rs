//! The next transaction on the heels of the one before it: its commands behind that one's content (RFC 2920 §3.1).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use posthaste::clock::{Clock, Timestamp};

use crate::support::daemon::{PATIENCE, TestDaemon};

/// Messages of a scene.
const COUNT: usize = 30;

const ENVELOPE: &str = "250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n";
const KEPT: &str = "250 2.0.0 kept\r\n";

/// One connection to a relay that the test plays, octet by octet.
struct Peer {
    stream: TcpStream,
    heard: String,
}

impl Peer {
    /// Takes the next connection as far as MAIL.
    fn accept(listener: &TcpListener) -> Peer {
        Peer::announcing(listener, "")
    }

    /// The same, with more lines of what it can.
    fn announcing(listener: &TcpListener, more: &str) -> Peer {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer {
            stream,
            heard: String::new(),
        };
        peer.say("220 relay.test\r\n");
        peer.hear("\r\n");
        peer.say(&format!(
            "250-relay.test\r\n{more}250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n"
        ));
        peer
    }

    fn say(&mut self, words: &str) {
        self.stream.write_all(words.as_bytes()).unwrap();
    }

    /// All up to `end`.
    fn hear(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.heard.find(end) {
                let rest = self.heard.split_off(at + end.len());
                return std::mem::replace(&mut self.heard, rest);
            }
            let mut buffer = [0; 4096];
            let n = self.stream.read(&mut buffer).unwrap();
            assert_ne!(n, 0, "closed before {end:?}, after {:?}", self.heard);
            self.heard.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    }

    /// The number of the recipient of the transaction that begins.
    fn envelope(&mut self) -> usize {
        let envelope = self.hear("DATA\r\n");
        let (_, rcpt) = envelope.split_once("RCPT TO:<r").expect("a recipient");
        let (number, _) = rcpt.split_once('@').unwrap();
        number.parse().unwrap()
    }

    /// Takes the content, and its number, which stands in the subject.
    fn content(&mut self) -> usize {
        let content = self.hear("\r\n.\r\n");
        let (_, subject) = content.split_once("Subject: ").unwrap();
        subject.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Takes a whole transaction.
    fn take(&mut self) -> usize {
        let number = self.envelope();
        self.say(ENVELOPE);
        assert_eq!(self.content(), number);
        self.say(KEPT);
        number
    }

    /// Whether anything came with what was heard last, or comes at once.
    fn goes_on(&mut self) -> bool {
        let mut buffer = [0; 4096];
        self.stream.set_read_timeout(Some(PATIENCE / 200)).unwrap();
        let more = self.stream.read(&mut buffer).unwrap_or(0);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        self.heard
            .push_str(&String::from_utf8_lossy(&buffer[..more]));
        !self.heard.is_empty()
    }

    /// Whether it is closed before anything else comes; QUIT is nothing.
    fn is_over(&mut self) -> bool {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest);
        rest.is_empty() || rest == b"QUIT\r\n"
    }
}

/// A daemon that gives all mail to `listener` over so many connections, under a clock that stands still: a relay that has
/// taken some messages is a quick one, then, and one more message than it has connections is claimed for each of them.
struct Scene {
    daemon: TestDaemon,
    listener: TcpListener,
    /// Those of the messages, which are handed in at the start.
    ids: Vec<i64>,
}

impl Scene {
    fn new(connections: usize) -> Scene {
        Scene::of(connections, |_| "hello\n".to_owned())
    }

    /// With these bodies, by number.
    fn of(connections: usize, body: impl Fn(usize) -> String) -> Scene {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let more = format!(
            "[limits]\nconnections = {connections}\ninitial = {connections}\n[retry]\njitter = 0.0\n\
             [[transport]]\nname = \"out\"\nkind = \"relay\"\nhosts = [\"127.0.0.1:{port}\"]\ntls = \"none\"\n\
             [[route]]\ntransport = \"out\"\n"
        );
        let clock = Clock::manual(Timestamp::from_secs(1_790_000_000));
        let daemon = TestDaemon::start_with(clock, &more);
        let submit = |number| {
            let content = format!("Subject: {number}\n\n{}", body(number));
            let to = format!("r{number}@dest.test");
            daemon.submit("ann@here.test", &[&to], &content)
        };
        Scene {
            ids: (1..=COUNT).map(submit).collect(),
            daemon,
            listener,
        }
    }

    /// Waits until what `list` shows of these has so many lines.
    fn until(&self, filter: &str, count: usize) {
        let wanted = format!("OK {count}");
        let mut shown = Vec::new();
        for _ in 0..2000 {
            shown = self.daemon.control(&format!("list {filter}"));
            if shown.last() == Some(&wanted) {
                return;
            }
            thread::sleep(PATIENCE / 2000);
        }
        panic!("{filter}: {shown:?}");
    }

    /// Of all messages, one is out up to its dot on the only connection, and the next behind it as far as that goes. The
    /// number of the first.
    fn followed(&self) -> (Peer, usize) {
        let mut peer = Peer::accept(&self.listener);
        for number in 1..=4 {
            assert_eq!(peer.take(), number);
        }
        for number in 5.. {
            assert_eq!(peer.envelope(), number);
            // The store says so a moment before the dispatcher has it; if that was too long, the one after it will do.
            self.until("state=claimed", 2);
            peer.say(ENVELOPE);
            assert_eq!(peer.content(), number);
            if peer.goes_on() {
                let envelope = peer.hear("DATA\r\n");
                let next = number + 1;
                assert_eq!(
                    envelope,
                    format!("MAIL FROM:<ann@here.test>\r\nRCPT TO:<r{next}@dest.test>\r\nDATA\r\n")
                );
                return (peer, number);
            }
            peer.say(KEPT);
        }
        unreachable!("some message is the last");
    }

    /// The rest is taken.
    fn rest(&self, peer: &mut Peer, from: usize) {
        for number in from..=COUNT {
            assert_eq!(peer.take(), number);
        }
    }

    /// All is gone, after these attempts: the labels, and how many.
    fn ends_with(self, attempts: &[(&str, usize)]) {
        let mut counted = Vec::new();
        for _ in 0..2000 {
            counted = self.attempts();
            if counted
                .iter()
                .map(|(labels, count)| (&labels[..], *count))
                .eq(attempts.iter().copied())
            {
                self.until("", 0);
                self.daemon.stop();
                return;
            }
            thread::sleep(PATIENCE / 2000);
        }
        panic!("{counted:?}");
    }

    fn attempts(&self) -> Vec<(String, usize)> {
        let metrics = self.daemon.control("metrics");
        let counted = metrics.iter().filter_map(|line| {
            let (labels, count) = line
                .strip_prefix("posthaste_attempts_total{result=")?
                .split_once(",transport=\"out\"} ")?;
            Some((labels.to_owned(), count.parse().unwrap()))
        });
        counted.collect()
    }
}

const DELIVERED: &str = "\"delivered\",error=\"\"";

// RFC 2920 §3.1, Q-11
#[test]
fn commands_go_out_behind_the_content_and_the_next_content_after_the_outcome_is_recorded() {
    let scene = Scene::new(1);
    let (mut peer, first) = scene.followed();
    peer.say(&format!("{KEPT}{ENVELOPE}"));
    assert_eq!(peer.content(), first + 1);
    let id = scene.ids[first - 1];
    assert_eq!(
        scene.daemon.control(&format!("list id={id}")),
        ["OK 0"],
        "the outcome of the one before is committed"
    );
    peer.say(KEPT);
    scene.rest(&mut peer, first + 2);
    scene.ends_with(&[(DELIVERED, COUNT)]);
}

// RFC 2920 §3.1, DSN-1: a refused message alters nothing for the next
#[test]
fn what_follows_a_refused_message_is_delivered_all_the_same() {
    let scene = Scene::new(1);
    let (mut peer, first) = scene.followed();
    peer.say(&format!("554 5.7.1 spam\r\n{ENVELOPE}"));
    assert_eq!(peer.content(), first + 1);
    peer.say(KEPT);
    scene.rest(&mut peer, first + 2);
    // The notice of it is mail too, in its time.
    scene.daemon.clock.advance(Duration::from_secs(10));
    peer.hear("MAIL FROM:<>");
    assert!(peer.hear("DATA\r\n").contains("<ann@here.test>"));
    peer.say(ENVELOPE);
    peer.hear("\r\n.\r\n");
    peer.say(KEPT);
    scene.ends_with(&[(DELIVERED, COUNT), ("\"failed\",error=\"554\"", 1)]);
}

// CL-8
#[test]
fn what_follows_gets_a_fresh_connection_when_the_peer_closes_behind_the_message() {
    for last_words in ["", "421 4.3.2 enough\r\n"] {
        let scene = Scene::new(1);
        let (mut peer, first) = scene.followed();
        peer.say(&format!("{KEPT}{last_words}"));
        drop(peer);
        let mut again = Peer::accept(&scene.listener);
        scene.rest(&mut again, first + 1);
        scene.ends_with(&[(DELIVERED, COUNT)]);
    }
}

// RFC 5321 §4.2.2, CL-22
#[test]
fn a_peer_that_loses_count_is_asked_again_and_gets_a_step_at_a_time_from_then_on() {
    let scene = Scene::new(1);
    let (mut peer, first) = scene.followed();
    let lost = "503 5.5.1 bad sequence\r\n";
    peer.say(&format!("{KEPT}{lost}{lost}{lost}"));
    assert_eq!(peer.hear("RSET\r\n"), "RSET\r\n");
    assert_eq!(peer.envelope(), first + 1);
    scene.until("state=claimed", 2);
    peer.say(&format!("250 2.0.0 ok\r\n{ENVELOPE}"));
    assert_eq!(peer.content(), first + 1);
    assert!(!peer.goes_on(), "{:?}", peer.heard);
    peer.say(KEPT);
    scene.rest(&mut peer, first + 2);
    scene.ends_with(&[(DELIVERED, COUNT)]);
}

// Promise 2: a message that takes its time delays no other
#[test]
fn what_follows_takes_another_connection_when_the_reply_to_the_dot_lets_itself_be_waited_for() {
    let scene = Scene::new(2);
    let mut slow = Peer::accept(&scene.listener);
    let mut other = Peer::accept(&scene.listener);
    for _ in 0..2 {
        slow.take();
        other.take();
    }
    let behind = loop {
        slow.envelope();
        scene.until("state=claimed", 4);
        slow.say(ENVELOPE);
        slow.content();
        if slow.goes_on() {
            break slow.envelope();
        }
        slow.say(KEPT);
        other.take();
    };
    // Nothing is said to that dot. The other connection takes all the rest, and before long this one too.
    while other.take() != behind {}
    slow.say(&format!("{KEPT}{ENVELOPE}"));
    assert!(slow.is_over());
    scene.daemon.stop();
}

// RFC 1870 §6.1, promise 2: what is not for this session waits for nothing that happens on it
#[test]
fn what_is_too_large_to_follow_comes_to_its_end_while_the_message_before_waits_for_its_reply() {
    const SMALL: usize = 8;
    let scene = Scene::of(2, |number| match number <= SMALL {
        true => "hello\n".to_owned(),
        false => "a line of a message that is too large\n".repeat(200),
    });
    let size = "250-SIZE 5000\r\n";
    let mut slow = Peer::announcing(&scene.listener, size);
    let mut other = Peer::announcing(&scene.listener, size);
    for _ in 1..SMALL / 2 {
        slow.take();
        other.take();
    }
    // The last two that are small are under way, and two that are not are claimed behind them.
    slow.envelope();
    other.envelope();
    scene.until("state=claimed", 4);
    slow.say(ENVELOPE);
    slow.content();
    assert!(!slow.goes_on(), "{:?}", slow.heard);
    other.say(ENVELOPE);
    other.content();
    other.say(KEPT);
    // Nothing is said to the dot of the one. All others come to their end meanwhile.
    scene.until("", 1);
    slow.say(KEPT);
    scene.ends_with(&[
        (DELIVERED, SMALL),
        ("\"failed\",error=\"protocol\"", COUNT - SMALL),
    ]);
}
