//! Listening sockets, and the threads that accept from them.
//!
//! Binding is apart from starting: ports are bound while the daemon still has the right to, mail is accepted when
//! everything else runs.

mod bound;
mod users;

pub use bound::{BindError, Bound, bind, identity};

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};

use self::bound::Socket;
use self::users::Users;
use super::accept::Intake;
use super::connection::Connection;
use super::limits::{self, Limits};
use super::smtp::{Place, Stops, serve};
use super::stop::Flag;
use super::threads::Threads;
use super::tls::{Renewed, log_identity};
use crate::clock::Timestamp;
use crate::config::{Config, Listen, ListenAddress, ListenTls};
use crate::dispatch::Fatal;
use crate::heap;
use crate::log::Line;
use crate::message::trace::Origin;
use crate::net::deadline::Deadline;
use crate::net::tls::server::Identity;
use crate::smtp::answer::Answer;
use crate::smtp::server::TOO_MANY_SESSIONS;

/// PRC-5: descriptors that sessions leave to the database, DNS, deliveries and the control socket.
const RESERVED: u64 = 24;
/// How long accepting rests when the system has no descriptors or memory for it.
const REST: Duration = Duration::from_millis(100);

/// Without a connection for so long, the memory of a load is given back (PRC-7).
const QUIET: Duration = Duration::from_secs(5);
const NO_ROOM: Answer = Answer::new(421, 3, 2, "out of resources, try again later");

/// A connection that has a place, on its way to a session thread.
struct Arrival {
    connection: Connection,
    origin: Origin,
    config: Arc<Config>,
    listen: Arc<Listen>,
    identity: Option<Identity>,
    _place: limits::Place,
}

/// What acceptors and sessions share.
struct Shared {
    intake: Arc<Intake>,
    stops: Stops,
    limits: Limits,
    users: Users,
    fatal: Fatal,
    /// Raised, and another put in its place, when acceptors must look whether they are still wanted: one for all of
    /// them, because descriptors may be few (PRC-5).
    turn: Mutex<Arc<Flag>>,
}

/// All SMTP listeners, running.
pub struct Front {
    shared: Arc<Shared>,
    sessions: Arc<Threads<Arrival>>,
    doors: Mutex<Vec<Door>>,
}

/// One listener that is accepted from.
struct Door {
    /// What it was bound for.
    listen: Arc<Listen>,
    /// Where it listens, with its real port.
    address: ListenAddress,
    closed: Arc<AtomicBool>,
    identity: Shown,
    acceptor: JoinHandle<()>,
}

/// Whom new sessions of a listener see; replaced by a reload (CFG-5).
type Shown = Arc<Mutex<Option<Identity>>>;

fn shown(identity: &Shown) -> Option<Identity> {
    let identity = identity.lock().unwrap_or_else(PoisonError::into_inner);
    identity.clone()
}

impl Front {
    /// Starts accepting. `fatal` is called when an acceptor panics (PRC-3).
    ///
    /// # Errors
    /// No threads or descriptors; nothing is accepted then.
    pub fn start(bound: Vec<Bound>, intake: Arc<Intake>, fatal: Fatal) -> io::Result<Front> {
        let shared = Arc::new(Shared {
            intake,
            stops: Stops {
                stopping: Flag::new()?,
                cut: Flag::new()?,
            },
            limits: Limits::default(),
            users: Users::default(),
            fatal,
            turn: Mutex::new(Arc::new(Flag::new()?)),
        });
        let serving = Arc::clone(&shared);
        let front = Front {
            sessions: Arc::new(Threads::new("smtp", move |arrival| {
                serving.session(arrival)
            })),
            shared,
            doors: Mutex::default(),
        };
        for bound in bound {
            match front.accept_from(bound) {
                Ok(door) => front.doors().push(door),
                Err(error) => {
                    front.stop();
                    return Err(error);
                }
            }
        }
        Ok(front)
    }

    /// Other listeners for those that there were (CFG-5): accepts from `opened` and closes those of `closed`, of which
    /// sessions that are there go on to their end. Returns when what was closed is free to be bound by others.
    ///
    /// # Errors
    /// No threads or descriptors; all is as it was.
    pub fn rebind(&self, opened: Vec<Bound>, closed: &[Listen]) -> io::Result<()> {
        let turn = Flag::new()?;
        let mut new = Vec::with_capacity(opened.len());
        for bound in opened {
            match self.accept_from(bound) {
                Ok(door) => new.push(door),
                Err(error) => {
                    self.close(new, turn);
                    return Err(error);
                }
            }
        }
        let mut doors = self.doors();
        let goes = |door: &mut Door| closed.iter().any(|listen| listen.is_at(&door.listen));
        let old: Vec<Door> = doors.extract_if(.., goes).collect();
        doors.append(&mut new);
        drop(doors);
        self.close(old, turn);
        Ok(())
    }

    /// Reads certificates and keys of listeners that are there again, for [`Front::renew`]; nothing is changed yet.
    ///
    /// # Errors
    /// Which listener and file, and why.
    pub fn read_again(&self, listen: &[Listen]) -> Result<Renewed, String> {
        let mut renewed = Renewed::default();
        for door in self.doors().iter() {
            if let Some(listen) = listen.iter().find(|listen| listen.is_at(&door.listen)) {
                renewed.read(listen, shown(&door.identity).as_ref())?;
            }
        }
        Ok(renewed)
    }

    /// New sessions see these certificates; those that are there go on as they are.
    pub fn renew(&self, renewed: Renewed, now: Timestamp) {
        let doors = self.doors();
        for (listen, identity) in renewed.identities {
            for door in doors.iter().filter(|door| listen.is_at(&door.listen)) {
                log_identity(&listen, &identity, now);
                let mut shown = door.identity.lock().unwrap_or_else(PoisonError::into_inner);
                *shown = Some(identity.clone());
            }
        }
    }

    /// Logs the certificates in use.
    pub fn log_certificates(&self, now: Timestamp) {
        for door in self.doors().iter() {
            if let Some(identity) = shown(&door.identity) {
                log_identity(&door.listen, &identity, now);
            }
        }
    }

    /// Returns when nothing is accepted from these any more and their sockets are closed; sessions go on. The others
    /// wait for `turn` from now on.
    fn close(&self, doors: Vec<Door>, turn: Flag) {
        for door in &doors {
            door.closed.store(true, Ordering::Release);
        }
        let before = std::mem::replace(&mut *self.shared.turn(), Arc::new(turn));
        before.raise();
        for door in doors {
            // Its panic has already called `fatal`.
            let _ = door.acceptor.join();
        }
    }

    fn doors(&self) -> MutexGuard<'_, Vec<Door>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept_from(&self, bound: Bound) -> io::Result<Door> {
        let address = bound.address();
        let listen = Arc::new(bound.listen);
        let closed = Arc::new(AtomicBool::new(false));
        let identity = Arc::new(Mutex::new(bound.identity));
        let acceptor = Acceptor {
            shared: Arc::clone(&self.shared),
            sessions: Arc::clone(&self.sessions),
            listen: Arc::clone(&listen),
            closed: Arc::clone(&closed),
            identity: Arc::clone(&identity),
            turn: self.shared.turn().clone(),
            socket: bound.socket,
            spare: spare(),
            descriptors: descriptors(),
        };
        let handle = thread::Builder::new()
            .name(format!("accept {}", acceptor.listen.name))
            .spawn(move || {
                let fatal = Arc::clone(&acceptor.shared.fatal);
                let name = acceptor.listen.name.clone();
                if catch_unwind(AssertUnwindSafe(|| acceptor.run())).is_err() {
                    fatal(&format!("the acceptor of {name} panicked"));
                }
            })?;
        Ok(Door {
            listen,
            address,
            closed,
            identity,
            acceptor: handle,
        })
    }

    /// Where it listens, with real ports: in the order of the configuration, what a reload has added behind it.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        let doors = self.doors();
        doors.iter().map(|door| door.address.clone()).collect()
    }

    /// Sessions now.
    pub fn sessions(&self) -> usize {
        self.shared.limits.sessions()
    }

    /// Stops accepting and closes the listeners; sessions end before their next command, those in DATA after its reply
    /// (IN-27). Returns when no connection is accepted any more.
    pub fn stop(&self) {
        self.shared.stops.stopping.raise();
        self.shared.turn().raise();
        let doors = std::mem::take(&mut *self.doors());
        for door in doors {
            // Its panic has already called `fatal`.
            let _ = door.acceptor.join();
        }
    }

    /// Ends sessions in DATA too: nothing of their messages is queued. Those at the dot end with their commit.
    pub fn cut(&self) {
        self.shared.stops.cut.raise();
    }

    /// Waits until all sessions have ended after [`Front::stop`], at most until the deadline. `true` if all have.
    pub fn join(&self, deadline: Deadline) -> bool {
        self.sessions.join(deadline)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop();
        self.cut();
    }
}

impl Shared {
    fn turn(&self) -> MutexGuard<'_, Arc<Flag>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, arrival: Arrival) {
        let place = Place {
            intake: &self.intake,
            stops: &self.stops,
            config: &arrival.config,
            listen: rules(&arrival.config, &arrival.listen),
            identity: arrival.identity,
            origin: arrival.origin,
            caller: match arrival.origin {
                Origin::Ip(_) => "relay".to_owned(),
                Origin::Uid(uid) => self.users.caller(uid),
                Origin::Own => self.users.caller(None),
            },
        };
        // A client that is gone already needs no session.
        if let Ok(stream) = arrival.connection.into_stream() {
            serve(stream, &place);
        }
    }
}

/// The rules of a listener, and its name, may have changed since it was bound (CFG-5).
fn rules<'a>(config: &'a Config, bound: &'a Listen) -> &'a Listen {
    let mut current = config.listen.iter();
    current.find(|listen| listen.is_at(bound)).unwrap_or(bound)
}

struct Acceptor {
    shared: Arc<Shared>,
    sessions: Arc<Threads<Arrival>>,
    listen: Arc<Listen>,
    /// It is no longer wanted.
    closed: Arc<AtomicBool>,
    identity: Shown,
    turn: Arc<Flag>,
    socket: Socket,
    /// Given up for a moment to turn a client away when there are no descriptors left.
    spare: Option<File>,
    /// Most descriptors of the process.
    descriptors: u64,
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(now, _)| now)
}

impl Acceptor {
    fn run(mut self) {
        let mut worked = false;
        while !self.is_over() {
            match self.socket.accept() {
                Ok(connection) => {
                    worked = true;
                    self.admit(connection);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock if worked => {
                        let quiet = PollTimeout::try_from(QUIET).unwrap_or(PollTimeout::NONE);
                        if !self.wait(quiet) {
                            worked = false;
                            heap::hand_back();
                        }
                    }
                    ErrorKind::WouldBlock => {
                        self.wait(PollTimeout::NONE);
                    }
                    // That client is gone; others may wait.
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => self.recover(&error),
                },
            }
        }
    }

    fn is_over(&mut self) -> bool {
        if self.turn.is_raised() {
            self.turn = self.shared.turn().clone();
        }
        self.closed.load(Ordering::Acquire) || self.shared.stops.stopping.is_raised()
    }

    /// Until somebody connects, it may be over, or the time is; `false` if nothing else happened.
    fn wait(&self, timeout: PollTimeout) -> bool {
        let turn = self.turn.as_fd();
        let mut fds = [turn, self.socket.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // An interruption or an error is seen by the next accept.
        poll(&mut fds, timeout) != Ok(0)
    }

    /// PRC-5: no descriptors, no memory, no network. Whoever waits is told so if one descriptor is to be had, and then
    /// accepting rests, because a connection that cannot be accepted keeps the socket ready.
    fn recover(&mut self, error: &io::Error) {
        let config = self.shared.intake.config();
        Line::of_client("rejected", &rules(&config, &self.listen).name)
            .peer("text", &format!("cannot accept: {error}"))
            .warn();
        let exhausted = [Errno::EMFILE, Errno::ENFILE].map(|errno| errno as i32);
        if error.raw_os_error().is_some_and(|e| exhausted.contains(&e)) {
            self.spare = None;
            if let Ok(connection) = self.socket.accept() {
                connection.turn_away(&NO_ROOM, rules(&config, &self.listen).tls);
            }
            self.spare = spare();
        }
        let mut fds = [PollFd::new(self.turn.as_fd(), PollFlags::POLLIN)];
        let rest = PollTimeout::try_from(REST).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut fds, rest);
    }

    fn admit(&self, connection: Connection) {
        let origin = connection.origin();
        let config = self.shared.intake.config();
        // Descriptors are handed out lowest first, so a high one says that few are left.
        let most = self.descriptors.saturating_sub(RESERVED);
        if connection.descriptor() >= most.max(self.descriptors / 2) {
            self.turn_away(connection, origin, &NO_ROOM);
            return;
        }
        let Some(place) = self.shared.limits.admit(origin, &config.intake) else {
            self.turn_away(connection, origin, &TOO_MANY_SESSIONS);
            return;
        };
        let arrival = Arrival {
            connection,
            origin,
            config,
            listen: Arc::clone(&self.listen),
            identity: shown(&self.identity),
            _place: place,
        };
        // PRC-4
        if let Err(arrival) = self.sessions.run(arrival) {
            self.turn_away(arrival.connection, origin, &NO_ROOM);
        }
    }

    fn turn_away(&self, connection: Connection, origin: Origin, answer: &Answer) {
        let config = self.shared.intake.config();
        let listen = rules(&config, &self.listen);
        connection.turn_away(answer, listen.tls);
        let line = Line::of_client("rejected", origin).key("listen", &listen.name);
        match listen.tls {
            ListenTls::Implicit => line,
            ListenTls::None | ListenTls::StartTls => line
                .num("code", answer.code())
                .opt("status", answer.status()),
        }
        .peer("text", answer.text())
        .info();
    }
}
