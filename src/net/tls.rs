//! TLS under the one stream type: the client's side of STARTTLS.
//!
//! OpenSSL reads and writes through [`Wire`], which knows the deadline of the call in progress and keeps back what the
//! peer does not take at once. So a TLS stream keeps both promises of the plain one: each call ends at its deadline,
//! and a write that `wait` announced does not block, whatever the size of a TLS record (CL-14).
//!
//! Only the opportunistic level exists so far (TLS-2); verified and DANE levels will be further contexts, chosen by
//! the caller of [`handshake`].

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::sync::LazyLock;

use nix::poll::PollFlags;
use openssl::error::ErrorStack;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslMethod, SslMode, SslOptions, SslSessionCacheMode, SslStream,
    SslVerifyMode, SslVersion,
};

use super::deadline::Deadline;
use super::socket::Socket;

/// The most that is kept back for a peer that does not read; one record is 16 KiB and a little, the rest is room for
/// the answers of the protocol itself. A peer that makes us write more than that without reading is cut off.
const MAX_UNSENT: usize = 64 * 1024;

/// The largest piece that becomes one record.
const RECORD: usize = 16 * 1024;

/// What opportunistic sessions share. Built at first use and never changed; it holds no sessions and no keys.
static OPPORTUNISTIC: LazyLock<Result<SslContext, ErrorStack>> = LazyLock::new(opportunistic);

fn opportunistic() -> Result<SslContext, ErrorStack> {
    let mut context = SslContext::builder(SslMethod::tls_client())?;
    // RFC 7435: any protection is better than the cleartext that would be used otherwise, so no certificate, key
    // size or signature is refused (TLS-2). Versions before 1.2 are (RFC 8996).
    context.set_verify(SslVerifyMode::NONE);
    context.set_security_level(0);
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // TLS-10. OpenSSL's own limit for certificate messages is the 100 KiB that are asked for.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(
        SslOptions::NO_TICKET
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            // Many servers close without close_notify. SMTP frames its replies itself, so that a cut is seen.
            | SslOptions::IGNORE_UNEXPECTED_EOF,
    );
    context.set_mode(
        SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::AUTO_RETRY
            | SslMode::RELEASE_BUFFERS,
    );
    // One system call for a record instead of two.
    context.set_read_ahead(true);
    Ok(context.build())
}

/// A TLS session over a socket that can only be reached through it any more (TLS-9).
#[derive(Debug)]
pub(super) struct Tls {
    stream: SslStream<Wire>,
}

/// The client's handshake. `host` goes into SNI unless it is an address (RFC 6066 §3).
///
/// # Errors
/// `TimedOut`; `InvalidData` with the reason.
pub(super) fn handshake(socket: Socket, host: &str, deadline: Deadline) -> io::Result<Tls> {
    // RFC 3207 §4.2, TLS-8: the server waits for our ClientHello, so whatever is here already was put in by another.
    if socket.has_unread() {
        return Err(invalid("data before the TLS handshake".to_string()));
    }
    let context = OPPORTUNISTIC
        .as_ref()
        .map_err(|e| io::Error::other(format!("TLS cannot be set up: {e}")))?;
    let mut ssl = Ssl::new(context)?;
    if host.parse::<IpAddr>().is_err() {
        ssl.set_hostname(host)?;
    }
    let wire = Wire {
        socket,
        unsent: Vec::new(),
        deadline: Some(deadline),
    };
    let mut stream = SslStream::new(ssl, wire)?;
    match stream.connect() {
        Ok(()) => {}
        Err(e) => return Err(failure(e, "the peer closed during the TLS handshake")),
    }
    stream.get_mut().flush_all(deadline)?;
    Ok(Tls { stream })
}

impl Tls {
    /// Reads at least one byte, or 0 at the end.
    pub(super) fn read(&mut self, buf: &mut [u8], deadline: Deadline) -> io::Result<usize> {
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
    pub(super) fn write(&mut self, bytes: &[u8], deadline: Deadline) -> io::Result<usize> {
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
    pub(super) fn flush(&mut self, deadline: Deadline) -> io::Result<()> {
        self.stream.get_mut().flush_all(deadline)
    }

    /// As [`super::stream::Stream::wait`]. Readable means that application data, or the end, can be had at once:
    /// session tickets and half records do not count.
    pub(super) fn wait(&mut self, writing: bool, deadline: Deadline) -> io::Result<(bool, bool)> {
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
    pub(super) fn has_unread(&mut self) -> bool {
        if self.stream.ssl().pending() > 0 {
            return true;
        }
        self.stream.get_mut().deadline = None;
        match self.stream.ssl_peek(&mut [0]) {
            Ok(_) => true,
            Err(e) => e.code() != ErrorCode::WANT_READ && e.code() != ErrorCode::WANT_WRITE,
        }
    }

    /// The socket, for its addresses.
    pub(super) fn socket(&self) -> &Socket {
        &self.stream.get_ref().socket
    }

    /// Says close_notify if the peer takes it now; does not wait for the answer.
    pub(super) fn close(mut self) {
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
fn reasons(stack: &ErrorStack) -> String {
    let texts: Vec<&str> = stack.errors().iter().filter_map(|e| e.reason()).collect();
    if texts.is_empty() {
        "TLS failed".to_string()
    } else {
        format!("TLS: {}", texts.join(", "))
    }
}

fn invalid(text: String) -> io::Error {
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
