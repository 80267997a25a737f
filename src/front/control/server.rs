//! The socket and its clients: a thread that accepts, and one for each client, as many as `control.clients` allows and
//! one more for root (CTL-2, CTL-3).
//!
//! Every wait has an end: a request must be whole, and a piece of an answer taken, within [`IDLE`]. A client that is
//! refused, cut off or whose request panics costs nobody else anything.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::input::{Input, Lines};
use super::output::{Code, Reply, Sink, Stop};
use super::peer::{self, Peer};
use super::verbs::{self, Control};
use crate::front::stop::Flag;
use crate::front::threads::{self, Start};
use crate::front::unix::{self, BindError, Bound};
use crate::log::Line;
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;

/// The longest that a client may take for a request, and for a piece of an answer.
pub const IDLE: Duration = Duration::from_secs(60);

/// The longest that [`Server::stop`] waits for answers that are going out.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Octets of an answer that are collected before they are sent.
const PIECE: usize = 32 * 1024;

/// Opens the socket, apart from [`Server::start`], so that it can be done as root; `owner` (uid, gid) gets it then.
///
/// # Errors
/// [`BindError`].
pub fn bind(table: &crate::config::Control, owner: Option<(u32, u32)>) -> Result<Bound, BindError> {
    unix::bind(&table.path, table.mode, owner)
}

/// Ends the process with status 70 and this reason in the log.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// The running control socket.
pub struct Server {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
    _bound: Arc<Bound>,
}

/// What the acceptor and the clients share.
struct Shared {
    control: Control,
    idle: Duration,
    stopping: Flag,
    clients: Mutex<Clients>,
    /// A client has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Clients {
    next: u64,
    open: HashMap<u64, UnixStream>,
}

impl Shared {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Starts to answer. Should the accepting thread panic, `fatal` is called (PRC-3).
    ///
    /// # Errors
    /// A thread cannot be started, or descriptors are lacking.
    pub fn start(bound: Bound, control: Control, fatal: Fatal) -> io::Result<Server> {
        Server::start_with(bound, control, fatal, IDLE)
    }

    /// As [`Server::start`], with another time for [`IDLE`].
    ///
    /// # Errors
    /// As there.
    pub fn start_with(
        bound: Bound,
        control: Control,
        fatal: Fatal,
        idle: Duration,
    ) -> io::Result<Server> {
        bound.listener().set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            control,
            idle,
            stopping: Flag::new()?,
            clients: Mutex::default(),
            ended: Condvar::new(),
        });
        let bound = Arc::new(bound);
        let acceptor = Acceptor {
            bound: Arc::clone(&bound),
            shared: Arc::clone(&shared),
            reserve: Reserve::new(),
            start: threads::start,
        };
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                if catch_unwind(AssertUnwindSafe(|| acceptor.run())).is_err() {
                    fatal("the thread of the control socket panicked");
                }
            })?;
        Ok(Server {
            shared,
            thread,
            _bound: bound,
        })
    }

    /// Stops accepting, lets answers that are going out end within 5 s, and closes.
    pub fn stop(self) {
        self.shared.stopping.raise();
        let _ = self.thread.join();
        let deadline = Deadline::after(STOP_GRACE);
        let mut clients = self.shared.clients();
        for stream in clients.open.values() {
            // A waiting client sees the end of its input; one that is being answered is answered first.
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
        while !clients.open.is_empty()
            && let Ok(left) = deadline.remaining()
        {
            clients = self
                .shared
                .ended
                .wait_timeout(clients, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        for stream in clients.open.values() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// How often a copy is tried for that finds no descriptor: for a second.
const COPY_TRIES: usize = 50;

/// Descriptors kept back, so that root gets an answer also when there are none left (CTL-2, PRC-5): one for the
/// connection, one for its copy in [`Clients`].
struct Reserve(Vec<File>);

impl Reserve {
    fn new() -> Reserve {
        let mut reserve = Reserve(Vec::new());
        reserve.fill();
        reserve
    }

    fn fill(&mut self) {
        while self.0.len() < 2 {
            match File::open("/dev/null") {
                Ok(file) => self.0.push(file),
                Err(_) => return,
            }
        }
    }
}

struct Acceptor {
    bound: Arc<Bound>,
    shared: Arc<Shared>,
    reserve: Reserve,
    start: Start,
}

impl Acceptor {
    fn run(mut self) {
        while !self.shared.stopping.is_raised() {
            self.wait(true, PollTimeout::NONE);
            if self.shared.stopping.is_raised() {
                return;
            }
            self.reserve.fill();
            match self.bound.listener().accept() {
                Ok((stream, _)) => self.admit(stream, false),
                Err(error) if no_descriptors(&error) => self.accept_on_reserve(),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::Interrupted
                            | io::ErrorKind::ConnectionAborted
                    ) => {}
                // Out of memory and the like: do not spin.
                Err(_) => self.wait(false, PollTimeout::from(100_u16)),
            }
        }
    }

    /// Waits for a connection or for [`Server::stop`].
    fn wait(&self, for_clients: bool, timeout: PollTimeout) {
        let mut fds = vec![PollFd::new(self.shared.stopping.as_fd(), PollFlags::POLLIN)];
        if for_clients {
            fds.push(PollFd::new(
                self.bound.listener().as_fd(),
                PollFlags::POLLIN,
            ));
        }
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, timeout);
    }

    /// No descriptor is left but the reserved ones: with these root is answered, and everybody else sent away, so that
    /// the queue of connections does not keep the loop busy.
    fn accept_on_reserve(&mut self) {
        self.reserve.0.clear();
        match self.bound.listener().accept() {
            Ok((stream, _)) => self.admit(stream, true),
            Err(_) => self.wait(false, PollTimeout::from(100_u16)),
        }
    }

    /// The connection itself may have got the last descriptor that was free, and root's client before this one may be about to
    /// give back those that were kept for it. The others are not waited for.
    fn copy(&mut self, stream: &UnixStream, uid: u32) -> io::Result<UnixStream> {
        for _ in 0..COPY_TRIES {
            match stream.try_clone() {
                Err(error) if uid == 0 && no_descriptors(&error) => match self.reserve.0.pop() {
                    Some(kept) => drop(kept),
                    None => self.wait(false, PollTimeout::from(20_u16)),
                },
                copy => return copy,
            }
        }
        stream.try_clone()
    }

    fn admit(&mut self, stream: UnixStream, only_root: bool) {
        let Ok((uid, gid)) = peer::credentials(&stream) else {
            return;
        };
        let copy = self.copy(&stream, uid);
        let mut clients = self.shared.clients();
        let most = self.shared.control.config.get().control.clients;
        let room = match uid {
            0 => clients.open.len() <= most,
            _ => clients.open.len() < most && !only_root,
        };
        if !room {
            drop(clients);
            return turn_away(stream, uid, "too many clients");
        }
        let (Ok(()), Ok(copy)) = (stream.set_nonblocking(false), copy) else {
            drop(clients);
            return turn_away(stream, uid, "out of descriptors");
        };
        clients.next += 1;
        let number = clients.next;
        clients.open.insert(number, copy);
        drop(clients);

        let slot = Slot {
            shared: Arc::clone(&self.shared),
            number,
        };
        // The connection goes another way than into the closure, so that it is still ours if there is no thread.
        let (send, receive) = bounded(1);
        let life = move || {
            let shared = Arc::clone(&slot.shared);
            let serve = || {
                if let Ok(stream) = receive.recv() {
                    serve(&shared, stream, uid, gid);
                }
            };
            // PRC-3: contained; the answer is broken off, the slot is given back.
            if catch_unwind(AssertUnwindSafe(serve)).is_err() {
                Line::new("panic").key("thread", "control").error();
            }
            drop(slot);
        };
        match (self.start)(format!("control-{number}"), Box::new(life)) {
            // It waits for nothing else.
            Ok(()) => drop(send.send(stream)),
            // PRC-4: the closure is gone, and with it the slot.
            Err(_) => turn_away(stream, uid, "no thread can be started for you"),
        }
    }
}

fn no_descriptors(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .map(nix::errno::Errno::from_raw)
        .is_some_and(|errno| matches!(errno, nix::Error::EMFILE | nix::Error::ENFILE))
}

/// Says why, if the socket's buffer takes it, and closes.
fn turn_away(mut stream: UnixStream, uid: u32, why: &str) {
    Line::of_client("rejected", format_args!("uid:{uid}"))
        .key("door", "control")
        .key("text", why)
        .warn();
    let mut line = Vec::new();
    // Writing to a Vec cannot fail.
    let _ = Reply::new(false, &mut line).end(&Err(Stop::Refused(Code::Temporary, why.to_owned())));
    if stream.set_nonblocking(true).is_ok() {
        let _ = stream.write_all(&line);
    }
}

/// A client's place; given back on every way out, panic included.
struct Slot {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let gone = self.shared.clients().open.remove(&self.number);
        self.shared.ended.notify_all();
        drop(gone);
    }
}

/// Answers one client until it ends.
fn serve(shared: &Shared, stream: UnixStream, uid: u32, gid: u32) {
    let Ok(stream) = Stream::from_unix(stream) else {
        return;
    };
    let peer = Peer::new(uid, gid);
    let mut out = Out {
        stream,
        idle: shared.idle,
        buf: Vec::new(),
    };
    // Whatever goes wrong with the connection ends it, and there is nobody left to tell.
    let _ = talk(shared, &peer, &mut out);
}

fn talk(shared: &Shared, peer: &Peer, out: &mut Out) -> io::Result<()> {
    let mut lines = Lines::new();
    let mut chunk = [0; 8192];
    loop {
        // One deadline for the whole request: who drips octets runs out as well.
        let deadline = Deadline::after(shared.idle);
        let input = loop {
            if let Some(input) = lines.next_line() {
                break input;
            }
            match out.stream.read(&mut chunk, deadline) {
                Ok(0) if lines.is_unfinished() && !shared.stopping.is_raised() => {
                    // It may be the beginning of another request: `drop id=4` of `drop id=42`.
                    return out.refuse(Stop::usage("the last line has no end; nothing was done"));
                }
                Ok(0) => return Ok(()),
                Ok(n) => lines.push(&chunk[..n]),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return out.refuse(Stop::Refused(
                        Code::Temporary,
                        "no request for too long".to_owned(),
                    ));
                }
                Err(error) => return Err(error),
            }
        };
        let go_on = match input {
            Input::TooLong => {
                out.refuse(Stop::usage("the line is too long"))?;
                true
            }
            Input::Line(line) => {
                let answered = catch_unwind(AssertUnwindSafe(|| {
                    verbs::answer(&shared.control, peer, &line, out)
                }));
                match answered {
                    Ok(go_on) => go_on?,
                    Err(_) => {
                        Line::new("panic")
                            .key("thread", "control")
                            .num("uid", peer.uid)
                            .error();
                        let text = "the request failed inside the daemon; see its log";
                        out.refuse(Stop::Refused(Code::Internal, text.to_owned()))?;
                        false
                    }
                }
            }
        };
        out.flush()?;
        if !go_on {
            return Ok(());
        }
    }
}

/// The way to the client: collects pieces, and gives up on one who does not take a piece in time.
struct Out {
    stream: Stream,
    idle: Duration,
    buf: Vec<u8>,
}

impl Out {
    fn flush(&mut self) -> io::Result<()> {
        let result = self.stream.write_all(&self.buf, Deadline::after(self.idle));
        self.buf.clear();
        result
    }

    fn refuse(&mut self, stop: Stop) -> io::Result<()> {
        Reply::new(false, self).end(&Err(stop))?;
        self.flush()
    }
}

impl Sink for Out {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.buf.extend_from_slice(piece);
            if self.buf.len() >= PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }
}
