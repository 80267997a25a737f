//! A connection that was accepted, before anybody knows whether it will be served.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use super::control::peer::credentials;
use crate::config::ListenTls;
use crate::message::trace::Origin;
use crate::net::stream::Stream;
use crate::smtp::answer::Answer;

/// The alert `internal_error`, fatal (RFC 8446 §6.2), which any side may send before anything was agreed on.
const NO_ROOM_FOR_TLS: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// As the system handed it out.
pub(super) enum Connection {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Connection {
    /// Whose it is.
    pub fn origin(&self) -> Origin {
        match self {
            Connection::Tcp(_, peer) => Origin::Ip(peer.ip().to_canonical()),
            Connection::Unix(unix) => Origin::Uid(credentials(unix).ok().map(|(uid, _)| uid)),
        }
    }

    /// The number of its descriptor.
    pub fn descriptor(&self) -> u64 {
        let raw = match self {
            Connection::Tcp(tcp, _) => tcp.as_raw_fd(),
            Connection::Unix(unix) => unix.as_raw_fd(),
        };
        u64::try_from(raw).unwrap_or(0)
    }

    /// One line, or in its place what TLS has for it, if the system takes it at once, and the end.
    pub fn turn_away(self, answer: &Answer, tls: ListenTls) {
        let mut word = Vec::new();
        match tls {
            // RFC 8314 §3.3: nothing is said in clear. A handshake for one line would cost what there is too little of.
            ListenTls::Implicit => word.extend_from_slice(&NO_ROOM_FOR_TLS),
            ListenTls::None | ListenTls::StartTls => answer.write(&mut word),
        }
        // Best effort: a client that cannot be told sees the connection close.
        let _ = match self {
            Connection::Tcp(tcp, _) => tcp
                .set_nonblocking(true)
                .and_then(|()| last_word(&tcp, &word)),
            Connection::Unix(unix) => unix
                .set_nonblocking(true)
                .and_then(|()| last_word(&unix, &word)),
        };
    }

    /// The stream that a session reads and writes.
    ///
    /// # Errors
    /// The client is gone already.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self {
            Connection::Tcp(tcp, peer) => Stream::from_tcp(tcp, peer),
            Connection::Unix(unix) => Stream::from_unix(unix),
        }
    }
}

/// Who speaks first, as TLS clients do, would get a reset in the place of the word if what it said stayed unread.
fn last_word(mut socket: impl Read + Write, word: &[u8]) -> io::Result<()> {
    socket.write_all(word)?;
    socket.read(&mut [0; 4096]).map(drop)
}
