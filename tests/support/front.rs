//! SMTP listeners on a temporary queue, and a client to talk to them line by line.

#![allow(clippy::unwrap_used)] // a test that cannot set up its listeners has failed

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openssl::ssl::SslStream;
use posthaste::clock::Clock;
use posthaste::config::{Config, Listen, ListenAddress, Live};
use posthaste::dispatch::{Dispatcher, Transaction};
use posthaste::feed::Taker;
use posthaste::front::accept::Intake;
use posthaste::front::listener::{Bound, Front, bind};
use posthaste::message::QueueId;
use posthaste::net::deadline::Deadline;
use posthaste::smtp::address::Domain;
use posthaste::store::{DestinationKey, Filter, ListQuery, Settings, Shown, Sort, Store};

use super::queue::{TempDir, settings, start};

const LONG: Duration = Duration::from_secs(30);

/// A configuration with one TCP listener on a free port of 127.0.0.1 and one Unix socket.
pub struct Setup {
    pub config: Config,
    pub settings: Settings,
    directory: TempDir,
}

impl Setup {
    pub fn new() -> Setup {
        let directory = TempDir::new();
        let mut config = Config::default_for(Domain::parse("mail.here.example").unwrap());
        config.listen = vec![
            Listen::at(ListenAddress::Tcp(([127, 0, 0, 1], 0).into())),
            Listen::at(ListenAddress::Unix(directory.path().join("smtp"))),
        ];
        Setup {
            config,
            settings: settings(directory.path()),
            directory,
        }
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Setup {
        let mut setup = Setup::new();
        change(&mut setup.config);
        setup
    }

    pub fn bind(&self) -> Vec<Bound> {
        bind(&self.config.listen, None).unwrap()
    }

    pub fn start(self) -> House {
        let bound = self.bind();
        self.start_on(bound)
    }

    pub fn start_on(self, bound: Vec<Bound>) -> House {
        let clock = Clock::manual(start());
        let (store, _) = Store::open(&self.settings, &clock).unwrap();
        let live = Live::new(self.config);
        let fatal: posthaste::dispatch::Fatal = Arc::new(|why| panic!("{why}"));
        let (dispatcher, transactions) = Dispatcher::start(
            store.clone(),
            live.clone(),
            clock.clone(),
            64,
            Arc::clone(&fatal),
        )
        .unwrap();
        // Until the dispatcher has looked at the queue once, it reserves nothing.
        let probe = DestinationKey(Arc::from("probe.invalid"));
        while dispatcher.reserve(&probe).is_none() {
            std::thread::yield_now();
        }
        let intake = Arc::new(Intake::new(
            live.clone(),
            store.clone(),
            dispatcher.clone(),
            clock.clone(),
        ));
        let front = Front::start(bound, Arc::clone(&intake), fatal).unwrap();
        House {
            store,
            clock,
            live,
            transactions,
            intake,
            front,
            settings: self.settings,
            dispatcher,
            _directory: self.directory,
        }
    }
}

/// Running listeners on a real queue and a real dispatcher, without workers: what is claimed stays claimed.
pub struct House {
    pub store: Store,
    pub clock: Clock,
    pub live: Live,
    pub transactions: Taker<Transaction>,
    pub intake: Arc<Intake>,
    pub front: Front,
    pub settings: Settings,
    dispatcher: Dispatcher,
    _directory: TempDir,
}

impl House {
    pub fn new() -> House {
        Setup::new().start()
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> House {
        Setup::with(change).start()
    }

    pub fn tcp(&self) -> SocketAddr {
        let address = self.front.addresses().into_iter().find_map(|a| match a {
            ListenAddress::Tcp(address) => Some(address),
            ListenAddress::Unix(_) => None,
        });
        address.unwrap()
    }

    pub fn unix(&self) -> PathBuf {
        let path = self.front.addresses().into_iter().find_map(|a| match a {
            ListenAddress::Unix(path) => Some(path),
            ListenAddress::Tcp(_) => None,
        });
        path.unwrap()
    }

    /// A connected client that has not read the greeting.
    pub fn connect(&self) -> Client {
        Client::tcp(self.tcp())
    }

    /// A client that was greeted and has said EHLO.
    pub fn client(&self) -> Client {
        let mut client = self.connect();
        client.expect("220");
        client.ask("EHLO client.example", "250");
        client
    }

    /// Ids of all queued messages, oldest first.
    pub fn ids(&self) -> Vec<QueueId> {
        let query = ListQuery {
            filter: Filter::default(),
            sort: Sort::Arrived,
            descending: false,
            limit: 10_000,
            cursor: None,
        };
        let mut ids: Vec<_> = self.store.list(&query).unwrap().rows;
        ids.sort_by_key(|row| row.head.id);
        ids.dedup_by_key(|row| row.head.id);
        ids.iter().map(|row| row.head.id).collect()
    }

    /// The one message that is queued.
    pub fn only(&self) -> Shown {
        let ids = self.ids();
        assert_eq!(ids.len(), 1, "{ids:?}");
        self.show(ids[0])
    }

    pub fn show(&self, id: QueueId) -> Shown {
        self.store.show(id).unwrap().unwrap()
    }

    pub fn content(&self, id: QueueId) -> Vec<u8> {
        let mut reader = self.store.content(id).unwrap();
        let mut content = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            content.extend_from_slice(&chunk);
        }
        content
    }

    /// Waits until no session is left, so that whatever they left behind is there.
    pub fn wait_for_sessions(&self) {
        let deadline = Deadline::after(LONG);
        while self.front.sessions() > 0 {
            assert!(!deadline.is_over(), "a session does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.front.stop();
        self.front.cut();
        assert!(
            self.front.join(Deadline::after(LONG)),
            "sessions do not end"
        );
        self.dispatcher.stop();
        self.store.close();
    }
}

/// What a client speaks through.
pub trait Socket: Read + Write + Send {
    /// Shuts the sending side.
    fn end(&self);
}

impl Socket for SslStream<TcpStream> {
    fn end(&self) {
        self.get_ref().shutdown(Shutdown::Write).unwrap();
    }
}

impl Socket for TcpStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Socket for UnixStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

/// An SMTP client that does as it is told.
pub struct Client {
    socket: Box<dyn Socket>,
    read: Vec<u8>,
}

impl Client {
    pub fn tcp(address: SocketAddr) -> Client {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Client::over(socket)
    }

    /// One that was connected already.
    pub fn over(socket: impl Socket + 'static) -> Client {
        Client {
            socket: Box::new(socket),
            read: Vec::new(),
        }
    }

    pub fn unix(path: &std::path::Path) -> Client {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Client::over(socket)
    }

    pub fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.socket.write_all(octets.as_ref()).unwrap();
    }

    /// As `send`; a server that closed is no failure.
    pub fn try_send(&mut self, octets: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(octets.as_ref()).is_ok()
    }

    /// Shuts the sending side.
    pub fn end(&self) {
        self.socket.end();
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            let mut buffer = [0; 4096];
            match self.socket.read(&mut buffer) {
                Ok(0) => {
                    assert!(self.read.is_empty(), "half a line: {:?}", self.read);
                    return None;
                }
                Ok(n) => self.read.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return None,
                Err(e) => panic!("no reply: {e}"),
            }
        }
    }

    /// The next reply, all its lines; `None` when the server has closed.
    pub fn reply(&mut self) -> Option<String> {
        let mut reply = String::new();
        loop {
            let line = self.line()?;
            let last = line.as_bytes()[3] != b'-';
            reply += &line;
            if last {
                return Some(reply);
            }
        }
    }

    /// The next reply, which begins so.
    pub fn expect(&mut self, start: &str) -> String {
        let reply = self.reply().expect("a reply");
        assert!(reply.starts_with(start), "{reply:?} instead of {start:?}");
        reply
    }

    /// Sends a line and reads its reply, which begins so.
    pub fn ask(&mut self, line: &str, start: &str) -> String {
        self.send(format!("{line}\r\n"));
        let reply = self.reply().unwrap_or_else(|| panic!("{line}: closed"));
        assert!(
            reply.starts_with(start),
            "{line}: {reply:?} instead of {start:?}"
        );
        reply
    }

    pub fn expect_close(&mut self) {
        assert_eq!(self.reply(), None);
    }

    /// MAIL and RCPT, to DATA's 354.
    pub fn open(&mut self) {
        self.ask("MAIL FROM:<joe@src.example>", "250 2.1.0");
        self.ask("RCPT TO:<bob@dest.example>", "250 2.1.5");
        self.ask("DATA", "354");
    }

    /// Content as it stands, and the dot.
    pub fn content(&mut self, content: impl AsRef<[u8]>, start: &str) -> String {
        self.send([content.as_ref(), b".\r\n"].concat());
        self.expect(start)
    }
}
