//! Dials the addresses of one host, one after the other, within the host's time (DV-7, DV-13 to DV-15).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::deadline::Deadline;
use super::socket;
use super::socks::{self, NoWay, Via};
use super::stream::Stream;
use crate::policy::addresses;
use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use crate::smtp::reply::EnhancedCode;

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    /// The stream.
    pub stream: Stream,
    /// The address that answered.
    pub address: SocketAddr,
    /// Our own address in it.
    pub source: Option<IpAddr>,
}

/// One address that gave no connection.
#[derive(Debug)]
pub struct Try {
    /// The address.
    pub address: SocketAddr,
    /// The system's error; `TimedOut` when its share of the time was over.
    pub error: io::Error,
    /// It was our own affair: no source address, no route, no descriptors. Not held against the peer (DV-14).
    pub local: bool,
}

/// No address of a host gave a connection.
#[derive(Debug, Default)]
pub struct DialError {
    /// What was tried, in order; empty when there was no address or no time.
    pub tries: Vec<Try>,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tries.is_empty() {
            return f.write_str("no time was left to connect");
        }
        for (n, one) in self.tries.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}connect to {}: ", one.address)?;
            match one.error.kind() {
                io::ErrorKind::TimedOut if one.error.get_ref().is_none() => {
                    f.write_str("timed out")?
                }
                _ => one.error.fmt(f)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for DialError {}

impl From<DialError> for Failure {
    /// Temporary 4.4.1 (DV-15). Ours alone if nothing of it was the network's or the peer's doing (DV-14).
    fn from(error: DialError) -> Failure {
        let local = !error.tries.is_empty() && error.tries.iter().all(|one| one.local);
        let last = error.tries.iter().rev().find(|one| one.local == local);
        let cause = match last.map(|one| one.error.kind()) {
            _ if local => Cause::Local,
            None | Some(io::ErrorKind::TimedOut) => Cause::Timeout,
            Some(io::ErrorKind::ConnectionReset) => Cause::Reset,
            Some(_) => Cause::Refused,
        };
        Failure {
            retry: Retry::Later,
            scope: if local { Scope::Local } else { Scope::Host },
            stage: Stage::Connect,
            cause,
            code: None,
            status: EnhancedCode::new(4, 4, 1),
            text: error.to_string(),
            may_be_sent_twice: false,
        }
    }
}

/// Dials `addresses` in their order until one answers; through a proxy if there is one.
///
/// Each address gets `dial_timeout`, but never more than its even share of what is left until `deadline`: a dead first
/// address cannot use up a live second one's time (DV-7). `before_each` is called with each address before its dial, and where a
/// proxy does not even listen to us not at all.
///
/// # Errors
/// [`DialError`] with every try.
pub fn dial(
    addresses: &[IpAddr],
    port: u16,
    source_addresses: &[IpAddr],
    via: Option<&Via>,
    dial_timeout: Duration,
    deadline: Deadline,
    mut before_each: impl FnMut(IpAddr),
) -> Result<Connection, DialError> {
    let mut failed = DialError::default();
    for (n, ip) in addresses.iter().enumerate() {
        let Ok(left) = deadline.remaining() else {
            break;
        };
        let waiting = u32::try_from(addresses.len() - n).unwrap_or(u32::MAX);
        let share = Deadline::after(dial_timeout.min(left / waiting)).min(deadline);
        let address = SocketAddr::new(*ip, port);
        let result = match via {
            None => {
                before_each(*ip);
                dial_one(address, addresses::source(source_addresses, *ip), share)
            }
            Some(via) => dial_via(via, address, source_addresses, share, || before_each(*ip)),
        };
        match result {
            Ok(connection) => return Ok(connection),
            Err(one) => failed.tries.push(one),
        }
    }
    Err(failed)
}

/// What stands for the address of a Unix socket, which has none: 0.0.0.0, port 0, which nobody can be dialled at.
pub const NO_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Connects to a Unix socket.
///
/// # Errors
/// Temporary 4.4.1; ours alone where we lack the right or the means (DV-14).
pub fn dial_unix(path: &Path, deadline: Deadline) -> Result<Connection, Failure> {
    let stream = Stream::connect_unix(path, deadline).map_err(|error| {
        let one = Try {
            address: NO_ADDRESS,
            local: is_local(&error),
            error,
        };
        let text = format!("connect to unix:{}: {}", path.display(), one.error);
        Failure {
            text,
            ..Failure::from(DialError { tries: vec![one] })
        }
    })?;
    Ok(Connection {
        stream,
        address: NO_ADDRESS,
        source: None,
    })
}

fn dial_one(
    address: SocketAddr,
    source: Option<IpAddr>,
    deadline: Deadline,
) -> Result<Connection, Try> {
    let failed = |error: io::Error, local: bool| Try {
        address,
        error,
        local,
    };
    let socket = socket::unconnected(address, source).map_err(|e| failed(e, true))?;
    let stream = Stream::connect_socket(socket, address, deadline).map_err(|e| {
        let local = is_local(&e);
        failed(e, local)
    })?;
    let source = stream.local().map(|local| local.ip());
    Ok(Connection {
        stream,
        address,
        source,
    })
}

/// Through a proxy: its own faults are ours (RO-11), what it says of the host is the host's.
fn dial_via(
    via: &Via,
    address: SocketAddr,
    source_addresses: &[IpAddr],
    deadline: Deadline,
    before: impl FnOnce(),
) -> Result<Connection, Try> {
    let of_proxy = |proxy: SocketAddr, error: io::Error| Try {
        address,
        error: io::Error::new(error.kind(), format!("proxy {proxy}: {}", in_words(&error))),
        local: true,
    };
    let mut last = None;
    for (n, proxy) in via.addresses.iter().enumerate() {
        let left = match deadline.remaining() {
            Ok(left) => left,
            Err(error) => return Err(last.unwrap_or_else(|| of_proxy(*proxy, error))),
        };
        let waiting = u32::try_from(via.addresses.len() - n).unwrap_or(u32::MAX);
        let share = Deadline::after(left / waiting).min(deadline);
        let source = addresses::source(source_addresses, proxy.ip());
        let mut connection = match dial_one(*proxy, source, share) {
            Ok(connection) => connection,
            Err(failed) => {
                last = Some(of_proxy(*proxy, failed.error));
                continue;
            }
        };
        let stream = &mut connection.stream;
        if let Err(error) = socks::greet(stream, via.login.as_ref(), share) {
            last = Some(of_proxy(*proxy, error));
            continue;
        }
        before();
        return match socks::connect(stream, address, deadline) {
            Ok(()) => Ok(Connection {
                address,
                ..connection
            }),
            Err(NoWay::Proxy(error)) => Err(of_proxy(*proxy, error)),
            Err(NoWay::Host(error)) => Err(Try {
                address,
                error,
                local: false,
            }),
        };
    }
    Err(last.unwrap_or_else(|| Try {
        address,
        error: io::ErrorKind::AddrNotAvailable.into(),
        local: true,
    }))
}

fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a failed connect says something about us and not about the peer (DV-14).
fn is_local(error: &io::Error) -> bool {
    use nix::errno::Errno;
    error.raw_os_error().is_some_and(|code| {
        matches!(
            Errno::from_raw(code),
            Errno::EADDRNOTAVAIL
                | Errno::ENETUNREACH
                | Errno::ENETDOWN
                | Errno::EAFNOSUPPORT
                | Errno::EACCES
                | Errno::EPERM
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EMFILE
                | Errno::ENFILE
        )
    })
}
