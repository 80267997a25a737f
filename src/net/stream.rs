//! One blocking stream under deadlines: TCP or Unix, plain or TLS.
//!
//! An expired socket timeout arrives as `WouldBlock` on Unix, and as a handshake's `WouldBlock` from TLS; both become
//! `TimedOut` here and nowhere else.

use std::io;
use std::net::{IpAddr, SocketAddr};

use super::deadline::Deadline;
use crate::policy::failure::TlsLevel;

/// A connection. Reads and writes carry their own deadline.
#[derive(Debug)]
pub struct Stream {
    // net: replace
    _private: (),
}

impl Stream {
    /// Dials `address`, from `source` if given, within `deadline`.
    ///
    /// # Errors
    /// The system's; `TimedOut` at the deadline; `AddrNotAvailable` when `source` cannot be bound.
    pub fn connect(
        _address: SocketAddr,
        _source: Option<IpAddr>,
        _deadline: Deadline,
    ) -> io::Result<Stream> {
        unimplemented!("net")
    }

    /// Wraps an accepted TCP connection; sets TCP_NODELAY.
    ///
    /// # Errors
    /// The system's.
    pub fn from_tcp(_tcp: std::net::TcpStream) -> io::Result<Stream> {
        unimplemented!("net")
    }

    /// Wraps an accepted Unix connection.
    ///
    /// # Errors
    /// The system's.
    pub fn from_unix(_unix: std::os::unix::net::UnixStream) -> io::Result<Stream> {
        unimplemented!("net")
    }

    /// Reads at least one byte, or 0 at the end of the stream.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn read(&mut self, _buf: &mut [u8], _deadline: Deadline) -> io::Result<usize> {
        unimplemented!("net")
    }

    /// Writes what the peer takes now, at least one byte.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn write(&mut self, _bytes: &[u8], _deadline: Deadline) -> io::Result<usize> {
        unimplemented!("net")
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn write_all(&mut self, _bytes: &[u8], _deadline: Deadline) -> io::Result<()> {
        unimplemented!("net")
    }

    /// Waits until the stream can be read (or is at its end), or can be written if `writing`; so that reading can go
    /// on beside writing (CL-14). Returns (readable, writable).
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn wait(&mut self, _writing: bool, _deadline: Deadline) -> io::Result<(bool, bool)> {
        unimplemented!("net")
    }

    /// Whether bytes or an end of stream wait unread; never blocks (CL-7, CL-8).
    pub fn has_unread(&mut self) -> bool {
        unimplemented!("net")
    }

    /// Client side STARTTLS with a new handshake; consumes the plain stream, which can never be read again (TLS-9).
    /// Opportunistic so far: any certificate is taken, TLS 1.2 at least.
    ///
    /// # Errors
    /// `TimedOut`, or `InvalidData` with the reason for a failed handshake.
    pub fn start_tls(self, _host: &str, _deadline: Deadline) -> io::Result<Stream> {
        unimplemented!("net")
    }

    /// The level reached so far.
    pub fn tls_level(&self) -> TlsLevel {
        unimplemented!("net")
    }

    /// The peer's address; `None` for Unix sockets.
    pub fn peer(&self) -> Option<SocketAddr> {
        unimplemented!("net")
    }

    /// Our own address in this connection; `None` for Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        unimplemented!("net")
    }

    /// Closes at once, without waiting for the peer.
    pub fn close(self) {
        unimplemented!("net")
    }
}
