//! Listening sockets, bound while the daemon still has the right to.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use crate::config::{Listen, ListenAddress};
use crate::front::connection::Connection;
use crate::front::unix;
use crate::net::tls::server::Identity;

/// Connections that may wait to be accepted; the system's own limit may be lower.
const BACKLOG: i32 = 1024;

/// Why a listener could not be bound: the one clear last line (CFG-8).
#[derive(Debug)]
pub struct BindError(String);

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BindError {}

/// A listener that is bound and not yet accepted from.
#[derive(Debug)]
pub struct Bound {
    pub(super) listen: Listen,
    pub(super) socket: Socket,
    pub(super) identity: Option<Identity>,
}

/// Where connections come in.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(unix::Bound),
}

/// Binds all listeners of the configuration. `owner` (uid, gid) will own Unix sockets if we are root.
///
/// # Errors
/// [`BindError`] names the first that cannot be bound; those before it are given up again.
pub fn bind(listen: &[Listen], owner: Option<(u32, u32)>) -> Result<Vec<Bound>, BindError> {
    listen
        .iter()
        .map(|listen| Bound::new(listen, owner))
        .collect()
}

/// Reads the certificate and key of a listener, if it does TLS.
///
/// # Errors
/// [`BindError`] names the file and the reason (CFG-8).
pub fn identity(listen: &Listen) -> Result<Option<Identity>, BindError> {
    let Some((cert, key)) = listen.identity_files() else {
        return Ok(None);
    };
    let loaded = Identity::load(cert, key).map(Some);
    loaded.map_err(|error| BindError(format!("{}: {error}", listen.name)))
}

impl Bound {
    /// Reads the certificate and key of one listener, and binds it: both while we may still be root.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn new(listen: &Listen, owner: Option<(u32, u32)>) -> Result<Bound, BindError> {
        let identity = identity(listen)?;
        let socket = match &listen.address {
            ListenAddress::Tcp(address) => bind_tcp(*address)
                .map(Socket::Tcp)
                .map_err(|error| refuse(*address, &error)),
            ListenAddress::Unix(path) => unix::bind(path, listen.mode, owner)
                .map(Socket::Unix)
                .map_err(|error| BindError(format!("cannot listen on unix:{error}"))),
        }?;
        if let Socket::Unix(bound) = &socket {
            let nonblocking = bound.listener().set_nonblocking(true);
            nonblocking.map_err(|error| BindError(format!("{}: {error}", listen.address)))?;
        }
        Ok(Bound {
            listen: listen.clone(),
            socket,
            identity,
        })
    }

    /// Where it listens; with the real port if the configuration said 0.
    pub fn address(&self) -> ListenAddress {
        match &self.socket {
            Socket::Tcp(tcp) => tcp
                .local_addr()
                .map_or_else(|_| self.listen.address.clone(), ListenAddress::Tcp),
            Socket::Unix(_) => self.listen.address.clone(),
        }
    }
}

fn refuse(address: SocketAddr, error: &io::Error) -> BindError {
    let hint = match error.kind() {
        // PRC-1
        ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        }
        _ => "",
    };
    BindError(format!("cannot listen on {address}: {error}{hint}"))
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    // A restart does not wait for the connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // One listener, one family: or `[::]` would shadow an IPv4 listener with other rules.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Socket {
    pub(super) fn accept(&self) -> io::Result<Connection> {
        match self {
            Socket::Tcp(tcp) => tcp.accept().map(|(tcp, peer)| Connection::Tcp(tcp, peer)),
            Socket::Unix(unix) => unix
                .listener()
                .accept()
                .map(|(unix, _)| Connection::Unix(unix)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(tcp) => tcp.as_fd(),
            Socket::Unix(unix) => unix.listener().as_fd(),
        }
    }
}
