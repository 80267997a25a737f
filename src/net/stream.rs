//! One blocking stream under deadlines: TCP or Unix, plain or TLS.
//!
//! An expired socket timeout arrives as `WouldBlock` on Unix, and as a handshake's `WouldBlock` from TLS; both become
//! `TimedOut` below here and nowhere else.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use nix::poll::PollFlags;

use super::deadline::Deadline;
use super::socket::{self, Socket};
use super::tls::server::{Identity, Secured};
use super::tls::{self, Tls};
use crate::policy::failure::TlsLevel;
use crate::policy::tls::{Conditions, Reached};
use crate::smtp::sasl::Protection;

/// A connection. Reads and writes carry their own deadline.
#[derive(Debug)]
pub struct Stream(Layer);

#[derive(Debug)]
enum Layer {
    Plain(Socket),
    // Boxed because most streams are plain and all of them are moved about.
    // What was reached is asked of the sessions that we dialled.
    Tls(Box<Tls>, Option<Arc<Reached>>),
}

impl Stream {
    /// Dials `address`, from `source` if given, within `deadline`.
    ///
    /// # Errors
    /// The system's; `TimedOut` at the deadline; `AddrNotAvailable` when `source` cannot be bound.
    pub fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        deadline: Deadline,
    ) -> io::Result<Stream> {
        let socket = socket::unconnected(address, source)?;
        Stream::connect_socket(socket, address, deadline)
    }

    /// Connects a socket that is made already; its failures are the network's or the peer's.
    pub(super) fn connect_socket(
        socket: socket2::Socket,
        address: SocketAddr,
        deadline: Deadline,
    ) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::connect(
            socket, address, deadline,
        )?)))
    }

    /// Connects to the Unix socket at `path` within `deadline`.
    ///
    /// # Errors
    /// The system's.
    pub fn connect_unix(path: &Path, deadline: Deadline) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::connect_unix(path, deadline)?)))
    }

    /// Wraps a TCP connection that was accepted from `peer`; sets TCP_NODELAY.
    ///
    /// # Errors
    /// The system's.
    pub fn from_tcp(tcp: TcpStream, peer: SocketAddr) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::from_tcp(tcp, peer)?)))
    }

    /// Wraps an accepted Unix connection.
    ///
    /// # Errors
    /// The system's.
    pub fn from_unix(unix: UnixStream) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::from_unix(unix)?)))
    }

    /// Reads at least one byte, or 0 at the end of the stream.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn read(&mut self, buf: &mut [u8], deadline: Deadline) -> io::Result<usize> {
        match &mut self.0 {
            Layer::Plain(socket) => socket.read(buf, deadline),
            Layer::Tls(tls, _) => tls.read(buf, deadline),
        }
    }

    /// Writes what the peer takes now, at least one byte; returns at once after [`Stream::wait`] said writable.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn write(&mut self, bytes: &[u8], deadline: Deadline) -> io::Result<usize> {
        match &mut self.0 {
            Layer::Plain(socket) => socket.write(bytes, deadline),
            Layer::Tls(tls, _) => tls.write(bytes, deadline),
        }
    }

    /// Writes all of `bytes`; on return the system has them.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = self.write(bytes, deadline)?;
            bytes = &bytes[n..];
        }
        match &mut self.0 {
            Layer::Plain(_) => Ok(()),
            Layer::Tls(tls, _) => tls.flush(deadline),
        }
    }

    /// Waits until the stream can be read (or is at its end), or can be written if `writing`; so that reading can go
    /// on beside writing (CL-14). Returns (readable, writable).
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn wait(&mut self, writing: bool, deadline: Deadline) -> io::Result<(bool, bool)> {
        match &mut self.0 {
            Layer::Plain(socket) => {
                let mut events = PollFlags::POLLIN;
                if writing {
                    events |= PollFlags::POLLOUT;
                }
                socket.poll(events, deadline)
            }
            Layer::Tls(tls, _) => tls.wait(writing, deadline),
        }
    }

    /// Waits until the stream can be read (or is at its end), or `other` can. Returns (stream, other).
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn wait_or(
        &mut self,
        other: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<(bool, bool)> {
        loop {
            if let Layer::Tls(tls, _) = &mut self.0
                && tls.has_unread()
            {
                return Ok((true, false));
            }
            let socket = self.socket();
            let (ours, theirs) = socket.poll_with(other, deadline)?;
            // What arrived for TLS need not be data; only its layer knows.
            if theirs || (ours && matches!(self.0, Layer::Plain(_))) {
                return Ok((ours, theirs));
            }
        }
    }

    /// Reads at least one byte, or 0 at the end of the stream; `None` when `other` can be read instead. A client's bytes
    /// that come at once are read before `other` is looked at.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn read_or(
        &mut self,
        buf: &mut [u8],
        other: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<Option<usize>> {
        if let Layer::Plain(socket) = &self.0 {
            return socket.read_or(buf, other, deadline);
        }
        match self.wait_or(other, deadline)? {
            (_, true) => Ok(None),
            _ => self.read(buf, deadline).map(Some),
        }
    }

    /// Ends our side of the connection: the peer reads what was written, and then the end. Reading goes on.
    ///
    /// # Errors
    /// The system's: the peer is gone.
    pub fn finish_writing(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Layer::Plain(socket) => socket.finish_writing(),
            Layer::Tls(tls, _) => tls.finish_writing(),
        }
    }

    /// Whether bytes or an end of stream wait unread; never blocks (CL-7, CL-8).
    pub fn has_unread(&mut self) -> bool {
        match &mut self.0 {
            Layer::Plain(socket) => socket.has_unread(),
            Layer::Tls(tls, _) => tls.has_unread(),
        }
    }

    /// Client side STARTTLS with a new handshake; consumes the plain stream, which can never be read again (TLS-9). Any
    /// certificate is taken; [`Stream::reached`] says what it was worth under `conditions`.
    ///
    /// # Errors
    /// `TimedOut`; `InvalidData` with the reason for a failed handshake, also when the peer's bytes wait already
    /// (TLS-8); `UnexpectedEof` when the peer closes.
    pub fn start_tls(
        self,
        context: &tls::Context,
        conditions: &Conditions,
        deadline: Deadline,
    ) -> io::Result<Stream> {
        match self.0 {
            Layer::Plain(socket) => {
                let (tls, reached) = tls::handshake(socket, context, conditions, deadline)?;
                Ok(Stream(Layer::Tls(Box::new(tls), Some(Arc::new(reached)))))
            }
            Layer::Tls(..) => Err(on_already()),
        }
    }

    /// Server side of a handshake, as `identity`; consumes the plain stream, which can never be read again (IN-31).
    /// Asks once a second whether it is still `wanted`.
    ///
    /// # Errors
    /// `TimedOut`, also when it is not wanted any more; `InvalidData` with the reason for a failed handshake;
    /// `UnexpectedEof` when the peer closes.
    pub fn accept_tls(
        self,
        identity: &Identity,
        deadline: Deadline,
        wanted: &dyn Fn() -> bool,
    ) -> io::Result<(Stream, Secured)> {
        match self.0 {
            Layer::Plain(socket) => {
                let (tls, secured) = identity.accept(socket, deadline, wanted)?;
                Ok((Stream(Layer::Tls(Box::new(tls), None)), secured))
            }
            Layer::Tls(..) => Err(on_already()),
        }
    }

    /// What the handshake reached; `None` in clear, and on the server's side.
    pub fn reached(&self) -> Option<&Arc<Reached>> {
        match &self.0 {
            Layer::Plain(_) => None,
            Layer::Tls(_, reached) => reached.as_ref(),
        }
    }

    /// What of the handshake matters to AUTH; nothing in clear.
    pub fn protection(&self) -> Protection {
        match &self.0 {
            Layer::Tls(tls, Some(reached)) => Protection {
                verified: reached.level() >= TlsLevel::Verified,
                binding: tls.binding(),
            },
            Layer::Plain(_) | Layer::Tls(..) => Protection::default(),
        }
    }

    /// Of a stream at its end: whether the peer said so, with close_notify. In clear nobody can tell.
    pub fn ended_in_order(&mut self) -> bool {
        match &mut self.0 {
            Layer::Plain(_) => true,
            Layer::Tls(tls, _) => tls.ended_in_order(),
        }
    }

    /// The peer's address; `None` for Unix sockets.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket().peer()
    }

    /// Our own address in this connection; `None` for Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        self.socket().local()
    }

    /// Closes at once, without waiting for the peer.
    pub fn close(self) {
        match self.0 {
            Layer::Plain(socket) => drop(socket),
            Layer::Tls(tls, _) => tls.close(),
        }
    }

    fn socket(&self) -> &Socket {
        match &self.0 {
            Layer::Plain(socket) => socket,
            Layer::Tls(tls, _) => tls.socket(),
        }
    }
}

fn on_already() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "TLS is on already")
}

#[cfg(test)]
mod tests;
