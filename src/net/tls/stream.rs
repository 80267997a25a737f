//! A TLS session under deadlines.
//!
//! OpenSSL reads and writes through [`Wire`], which knows the deadline of the call in progress and keeps back what the
//! peer does not take at once. So a TLS stream keeps both promises of the plain one: each call ends at its deadline,
//! and a write that `wait` announced does not block, whatever the size of a TLS record (CL-14).

use std::io::{self, Read, Write};
use std::time::Duration;

use nix::poll::PollFlags;
use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, ShutdownState, Ssl, SslRef, SslStream};

use super::{Deadline, Socket, binding};
use crate::smtp::sasl::Binding;

/// The most that is kept back for a peer that does not read; one record is 16 KiB and a little, the rest is room for
/// the answers of the protocol itself. A peer that makes us write more than that without reading is cut off.
const MAX_UNSENT: usize = 64 * 1024;

/// How often a handshake that waits for its peer looks whether it is still wanted.
const SLICE: Duration = Duration::from_secs(1);

/// The largest piece that becomes one record.
const RECORD: usize = 16 * 1024;

/// A TLS session over a socket that can only be reached through it any more (TLS-9).
#[derive(Debug)]
pub(in crate::net) struct Tls {
    stream: SslStream<Wire>,
}

impl Tls {
    /// The client's handshake.
    pub(super) fn connect(ssl: Ssl, socket: Socket, deadline: Deadline) -> io::Result<Tls> {
        let wire = Wire {
            socket,
            unsent: Vec::new(),
            deadline: Some(deadline),
        };
        let mut stream = SslStream::new(ssl, wire)?;
        stream
            .connect()
            .map_err(|e| failure(e, "the peer closed during the TLS handshake"))?;
        stream.get_mut().flush_all(deadline)?;
        Ok(Tls { stream })
    }

    /// The server's handshake. Asks once a second whether it is still wanted.
    pub(super) fn accept(
        ssl: Ssl,
        socket: Socket,
        deadline: Deadline,
        wanted: &dyn Fn() -> bool,
    ) -> io::Result<Tls> {
        let wire = Wire {
            socket,
            unsent: Vec::new(),
            deadline: None,
        };
        let mut stream = SslStream::new(ssl, wire)?;
        loop {
            stream.get_mut().deadline = Some(Deadline::after(SLICE).min(deadline));
            match stream.accept() {
                Ok(()) => break,
                Err(e) if e.code() == ErrorCode::WANT_READ && !deadline.is_over() && wanted() => {}
                Err(e) => return Err(failure(e, "the peer closed during the TLS handshake")),
            }
        }
        stream.get_mut().flush_all(deadline)?;
        Ok(Tls { stream })
    }

    /// What the handshake agreed on.
    pub(super) fn ssl(&self) -> &SslRef {
        self.stream.ssl()
    }

    /// What ties AUTH to this session, on the client's side.
    pub(in crate::net) fn binding(&self) -> Option<Binding> {
        binding::of_client(self.ssl())
    }

    /// Reads at least one byte, or 0 at the end.
    pub(in crate::net) fn read(&mut self, buf: &mut [u8], deadline: Deadline) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.stream.get_mut().deadline = Some(deadline);
        match self.stream.ssl_read(buf) {
            Ok(n) => Ok(n),
            Err(e) if is_end(&e) => Ok(0),
            Err(e) => Err(failure(e, "")),
        }
    }

    /// Writes one record's worth at most. Blocks only while an earlier record is not out.
    pub(in crate::net) fn write(&mut self, bytes: &[u8], deadline: Deadline) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let wire = self.stream.get_mut();
        wire.flush_all(deadline)?;
        wire.deadline = Some(deadline);
        self.stream
            .ssl_write(&bytes[..bytes.len().min(RECORD)])
            .map_err(|e| failure(e, "the peer closed the TLS session"))
    }

    /// Waits until what was written has left us.
    pub(in crate::net) fn flush(&mut self, deadline: Deadline) -> io::Result<()> {
        self.stream.get_mut().flush_all(deadline)
    }

    /// As [`crate::net::stream::Stream::wait`]. Readable means that application data, or the end, can be had at once:
    /// session tickets and half records do not count.
    pub(in crate::net) fn wait(
        &mut self,
        writing: bool,
        deadline: Deadline,
    ) -> io::Result<(bool, bool)> {
        loop {
            let readable = self.has_unread();
            let wire = self.stream.get_mut();
            if writing && wire.unsent.is_empty() {
                if readable {
                    return Ok((true, true));
                }
                let (_, writable) = wire
                    .socket
                    .poll(PollFlags::POLLIN | PollFlags::POLLOUT, deadline)?;
                if writable {
                    return Ok((self.has_unread(), true));
                }
            } else if readable {
                return Ok((true, false));
            } else {
                wire.wait_in_or_flush(deadline)?;
            }
        }
    }

    /// Whether application data or an end waits.
    pub(in crate::net) fn has_unread(&mut self) -> bool {
        if self.stream.ssl().pending() > 0 {
            return true;
        }
        self.stream.get_mut().deadline = None;
        match self.stream.ssl_peek(&mut [0]) {
            Ok(_) => true,
            Err(e) => e.code() != ErrorCode::WANT_READ && e.code() != ErrorCode::WANT_WRITE,
        }
    }

    /// Whether the peer has said close_notify.
    pub(in crate::net) fn ended_in_order(&mut self) -> bool {
        self.stream.get_shutdown().contains(ShutdownState::RECEIVED)
    }

    /// The socket, for its addresses.
    pub(in crate::net) fn socket(&self) -> &Socket {
        &self.stream.get_ref().socket
    }

    /// Ends our side, with close_notify before the end of the stream; reading goes on.
    pub(in crate::net) fn finish_writing(&mut self) -> io::Result<()> {
        let wire = self.stream.get_mut();
        wire.deadline = None;
        wire.flush_now()?;
        // To a peer that does not take it the end of the stream says enough.
        let _ = self.stream.shutdown();
        self.socket().finish_writing()
    }

    /// Says close_notify if the peer takes it now; does not wait for the answer.
    pub(in crate::net) fn close(mut self) {
        self.stream.get_mut().deadline = None;
        // Nothing is left that a failure could harm.
        let _ = self.stream.shutdown();
    }
}

/// An end of stream, with or without close_notify.
fn is_end(e: &openssl::ssl::Error) -> bool {
    e.code() == ErrorCode::ZERO_RETURN || (e.code() == ErrorCode::SYSCALL && e.io_error().is_none())
}

/// The error of a TLS call as one of the stream's; `at_end` is what an end of stream means here.
fn failure(e: openssl::ssl::Error, at_end: &str) -> io::Error {
    if is_end(&e) {
        return io::Error::new(io::ErrorKind::UnexpectedEof, at_end.to_string());
    }
    match e.into_io_error() {
        // `Wire` blocks until its deadline, so this is the deadline.
        Ok(e) if e.kind() == io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        Ok(e) => e,
        Err(e) => invalid(match e.ssl_error() {
            Some(stack) => reasons(stack),
            None => e.to_string(),
        }),
    }
}

/// OpenSSL's own words, without file and line.
pub(super) fn reasons(stack: &ErrorStack) -> String {
    let texts: Vec<&str> = stack.errors().iter().filter_map(|e| e.reason()).collect();
    if texts.is_empty() {
        "TLS failed".to_string()
    } else {
        format!("TLS: {}", texts.join(", "))
    }
}

pub(super) fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// What OpenSSL reads from and writes to.
///
/// At the deadline it says `WouldBlock` and not `TimedOut`, because OpenSSL takes only the former as no damage to the
/// session.
#[derive(Debug)]
struct Wire {
    socket: Socket,
    /// Records that the peer has not taken yet.
    unsent: Vec<u8>,
    /// That of the call in progress; `None`: do not wait at all.
    deadline: Option<Deadline>,
}

impl Wire {
    /// Sends of `unsent` what the peer takes now.
    fn flush_now(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.try_write(&self.unsent) {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn flush_all(&mut self, deadline: Deadline) -> io::Result<()> {
        self.flush_now()?;
        while !self.unsent.is_empty() {
            self.socket.poll(PollFlags::POLLOUT, deadline)?;
            self.flush_now()?;
        }
        Ok(())
    }

    /// Waits until the socket can be read, or has taken something of `unsent`.
    fn wait_in_or_flush(&mut self, deadline: Deadline) -> io::Result<()> {
        let mut events = PollFlags::POLLIN;
        if !self.unsent.is_empty() {
            events |= PollFlags::POLLOUT;
        }
        let (_, writable) = self.socket.poll(events, deadline)?;
        if writable {
            self.flush_now()?;
        }
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(deadline) = self.deadline else {
            return self.socket.try_read(buf);
        };
        let result = loop {
            if self.unsent.is_empty() {
                break self.socket.read(buf, deadline);
            }
            match self.socket.try_read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if let Err(e) = self.wait_in_or_flush(deadline) {
                        break Err(e);
                    }
                }
                other => break other,
            }
        };
        result.map_err(|e| match e.kind() {
            io::ErrorKind::TimedOut => io::ErrorKind::WouldBlock.into(),
            _ => e,
        })
    }
}

impl Write for Wire {
    /// Takes all of `bytes`; what the peer does not take at once is kept.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        if self.unsent.is_empty() {
            match self.socket.try_write(bytes) {
                Ok(n) => sent = n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
        if sent < bytes.len() {
            if self.unsent.len() + bytes.len() > MAX_UNSENT {
                return Err(io::Error::other("the peer does not read"));
            }
            self.unsent.extend_from_slice(&bytes[sent..]);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
