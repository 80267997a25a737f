//! One connected socket, TCP or Unix, and the system calls on it. The only place where an expired wait becomes
//! `TimedOut`, and where interrupted calls are completed.
//!
//! The usual read is one system call: the socket blocks, with a receive timeout of [`FIRST_WAIT`] that is set once for
//! its life. Only what takes longer, or a deadline nearer than that, costs a `poll` besides. A write never blocks in
//! the call itself, so that reading can go on beside it (CL-14).

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use socket2::{Domain, Protocol, SockAddr, TcpKeepalive, Type};

use super::deadline::Deadline;

/// How long a blocking read waits in the kernel before `poll` with the exact deadline takes over.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The same for clients that connected to us: so long a stop may go unnoticed by [`Socket::read_or`].
const FIRST_WAIT_OF_CLIENT: Duration = Duration::from_millis(100);

/// How often a silent peer's system is asked whether it still knows of the connection (RFC 9293 §3.8.4).
///
/// A program that ends, a host that starts anew and a lost entry of address translation can leave a connection that only
/// our side knows of (Linux itself loses one now and then that is dialled while the listener is closed). Such a peer
/// answers with a reset, and the next host has its turn, not after minutes of waiting for a greeting. A peer that is slow
/// notices nothing of it.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// No answer at all decides nothing: so many in a row, the most that Linux takes, last longer than the wait for a final
/// dot, and the deadlines of the stages come first.
const KEEPALIVES: u32 = 127;

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    kind: Kind,
    /// How long a blocking read waits in the kernel.
    first_wait: Duration,
}

#[derive(Debug)]
enum Kind {
    /// TCP, with the peer's address as it was at the start (a reset connection has none any more).
    Tcp(TcpStream, SocketAddr),
    /// Unix.
    Unix(UnixStream),
}

impl Socket {
    /// An accepted TCP connection, and whose it is.
    pub(super) fn from_tcp(tcp: TcpStream, peer: SocketAddr) -> io::Result<Socket> {
        tcp.set_nodelay(true)?;
        Socket::with(Kind::Tcp(tcp, peer), FIRST_WAIT_OF_CLIENT)
    }

    /// A Unix connection.
    pub(super) fn from_unix(unix: UnixStream) -> io::Result<Socket> {
        Socket::with(Kind::Unix(unix), FIRST_WAIT_OF_CLIENT)
    }

    fn with(kind: Kind, first_wait: Duration) -> io::Result<Socket> {
        match &kind {
            Kind::Tcp(tcp, _) => tcp.set_read_timeout(Some(first_wait))?,
            Kind::Unix(unix) => unix.set_read_timeout(Some(first_wait))?,
        }
        Ok(Socket { kind, first_wait })
    }

    /// Connects a socket from [`unconnected`].
    pub(super) fn connect(
        socket: socket2::Socket,
        address: SocketAddr,
        deadline: Deadline,
    ) -> io::Result<Socket> {
        socket.connect_timeout(&SockAddr::from(address), deadline.remaining()?)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE)
                .with_interval(KEEPALIVE)
                .with_retries(KEEPALIVES),
        )?;
        Socket::with(Kind::Tcp(socket.into(), address), FIRST_WAIT)
    }

    /// Connects to a Unix socket. A listener with too many in its queue refuses at once (unix(7)).
    pub(super) fn connect_unix(path: &Path, deadline: Deadline) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.connect_timeout(&SockAddr::unix(path)?, deadline.remaining()?)?;
        Socket::with(
            Kind::Unix(UnixStream::from(OwnedFd::from(socket))),
            FIRST_WAIT,
        )
    }

    /// The peer's address; `None` for Unix sockets.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(_, peer) => Some(*peer),
            Kind::Unix(_) => None,
        }
    }

    /// Our own address; `None` for Unix sockets.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Tcp(tcp, _) => tcp.local_addr().ok(),
            Kind::Unix(_) => None,
        }
    }

    /// Reads at least one byte, or 0 at the end; `None` when `other` can be read. What comes at once costs one system
    /// call; `other` is looked at after that.
    pub(super) fn read_or(
        &self,
        buf: &mut [u8],
        other: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<Option<usize>> {
        let mut flags = MsgFlags::empty();
        if deadline.remaining()? < self.first_wait {
            flags = MsgFlags::MSG_DONTWAIT;
        }
        loop {
            match recv(self.raw(), buf, flags) {
                Ok(n) => return Ok(Some(n)),
                Err(Errno::EAGAIN) => {
                    let (_, theirs) = self.poll_with(other, deadline)?;
                    if theirs {
                        return Ok(None);
                    }
                }
                Err(Errno::EINTR) => {
                    deadline.remaining()?;
                }
                Err(e) => return Err(e.into()),
            }
            flags = MsgFlags::MSG_DONTWAIT;
        }
    }

    /// Reads at least one byte, or 0 at the end.
    pub(super) fn read(&self, buf: &mut [u8], deadline: Deadline) -> io::Result<usize> {
        let mut flags = MsgFlags::empty();
        if deadline.remaining()? < self.first_wait {
            flags = MsgFlags::MSG_DONTWAIT;
        }
        loop {
            match recv(self.raw(), buf, flags) {
                Ok(n) => return Ok(n),
                Err(Errno::EAGAIN) => {
                    self.poll(PollFlags::POLLIN, deadline)?;
                }
                // Looks at the clock again, so that a storm of signals does not outlast the deadline.
                Err(Errno::EINTR) => {
                    deadline.remaining()?;
                }
                Err(e) => return Err(e.into()),
            }
            flags = MsgFlags::MSG_DONTWAIT;
        }
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.try_recv(buf, MsgFlags::MSG_DONTWAIT)
    }

    /// Whether a byte or an end of stream waits. An error that waits counts too: the next read shows it.
    pub(super) fn has_unread(&self) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        !matches!(self.try_recv(&mut [0], flags),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    fn try_recv(&self, buf: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
        loop {
            match recv(self.raw(), buf, flags) {
                Err(Errno::EINTR) => {}
                other => return other.map_err(io::Error::from),
            }
        }
    }

    /// Writes what the peer takes now, at least one byte.
    pub(super) fn write(&self, bytes: &[u8], deadline: Deadline) -> io::Result<usize> {
        loop {
            match self.try_write(bytes) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.poll(PollFlags::POLLOUT, deadline)?;
                }
                other => return other,
            }
        }
    }

    /// Writes what the peer takes now; `WouldBlock` if nothing.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        // A peer that went away is an error of this write, not a SIGPIPE for the process.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        loop {
            match send(self.raw(), bytes, flags) {
                Err(Errno::EINTR) => {}
                other => return other.map_err(io::Error::from),
            }
        }
    }

    /// Waits for one of `events`. Returns (readable, writable); an error or hang-up of the socket counts as both, so
    /// that the next call shows it.
    pub(super) fn poll(&self, events: PollFlags, deadline: Deadline) -> io::Result<(bool, bool)> {
        let mut fds = [PollFd::new(self.as_fd(), events)];
        wait_for(&mut fds, deadline)?;
        let got = fds[0].revents().unwrap_or(PollFlags::POLLERR);
        let broken = got.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL);
        Ok((
            broken || got.intersects(PollFlags::POLLIN | PollFlags::POLLHUP),
            events.contains(PollFlags::POLLOUT)
                && (broken || got.intersects(PollFlags::POLLOUT | PollFlags::POLLHUP)),
        ))
    }

    /// Waits until this socket or `other` can be read. Returns (this, other).
    pub(super) fn poll_with(
        &self,
        other: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<(bool, bool)> {
        let mut fds = [self.as_fd(), other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        wait_for(&mut fds, deadline)?;
        let [ours, theirs] = fds.map(|fd| fd.any().unwrap_or(true));
        Ok((ours, theirs))
    }

    /// Ends our side of the connection.
    pub(super) fn finish_writing(&self) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(tcp, _) => tcp.shutdown(Shutdown::Write),
            Kind::Unix(unix) => unix.shutdown(Shutdown::Write),
        }
    }

    fn raw(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Tcp(tcp, _) => tcp.as_fd(),
            Kind::Unix(unix) => unix.as_fd(),
        }
    }
}

/// Waits until one of `fds` has something, completing interrupted calls.
///
/// # Errors
/// `TimedOut` at the deadline.
pub(super) fn wait_for(fds: &mut [PollFd<'_>], deadline: Deadline) -> io::Result<()> {
    loop {
        // Rounded up, so that the last part of a millisecond is slept and not spun.
        let left = deadline.remaining()? + Duration::from_micros(999);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// A TCP socket for a dial to `address`, bound to `source` if given. All that can fail here is our own affair and not
/// the peer's (DV-14).
///
/// # Errors
/// The system's for the socket; `AddrNotAvailable` when `source` cannot be bound.
pub(super) fn unconnected(
    address: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if let Some(source) = source {
        socket
            .bind(&SockAddr::from(SocketAddr::new(source, 0)))
            .map_err(|e| {
                io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    format!("cannot use source address {source}: {e}"),
                )
            })?;
    }
    Ok(socket)
}
