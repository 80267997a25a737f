//! One question to one server: UDP from a fresh socket, then TCP when the answer did not fit (DNS-1).

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use hickory_proto::op::ResponseCode;

use super::message::{self, Chain, Question, Reply};
use crate::net::deadline::Deadline;
use crate::net::stream::Stream;

/// Why one server gave no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// Nothing that counts came in time; asking again may help.
    Timeout,
    /// The server cannot be reached.
    Unreachable(io::Error),
    /// It says that it failed.
    Refused(ResponseCode),
    /// What it says makes no sense.
    Unusable(&'static str),
    /// The answer did not fit into a datagram, and TCP failed.
    Tcp(io::Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Timeout => f.write_str("no answer in time"),
            Trouble::Unreachable(e) => write!(f, "cannot be asked: {e}"),
            Trouble::Refused(code) => f.write_str(name_of(*code)),
            Trouble::Unusable(why) => f.write_str(why),
            Trouble::Tcp(e) => write!(f, "answer truncated, and TCP failed: {e}"),
        }
    }
}

/// The names that operators know.
fn name_of(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        _ => "an unexpected response code",
    }
}

/// Asks `server` for `question`; the reply is `GoOn` or `Definite`.
pub(super) fn exchange(
    server: SocketAddr,
    question: &Question,
    chain: &mut Chain,
    deadline: Deadline,
) -> Result<Reply, Trouble> {
    let plain_dns = |code| matches!(code, ResponseCode::FormErr | ResponseCode::NotImp);
    match once(server, question, true, chain, deadline)? {
        // RFC 6891 §7: a server that knows nothing of EDNS says one of these and sends no OPT back.
        Reply::Refused { code, edns: false } if plain_dns(code) => {
            let mut again = question.clone();
            again.id = rand::random();
            judge(once(server, &again, false, chain, deadline)?)
        }
        reply => judge(reply),
    }
}

fn judge(reply: Reply) -> Result<Reply, Trouble> {
    match reply {
        Reply::GoOn { .. } | Reply::Definite { .. } => Ok(reply),
        Reply::Refused { code, .. } => Err(Trouble::Refused(code)),
        Reply::Unusable(why) => Err(Trouble::Unusable(why)),
        // Neither is handed out by `once`.
        Reply::NotOurs | Reply::Truncated => Err(Trouble::Timeout),
    }
}

fn once(
    server: SocketAddr,
    question: &Question,
    edns: bool,
    chain: &mut Chain,
    deadline: Deadline,
) -> Result<Reply, Trouble> {
    let bytes = question
        .to_bytes(edns)
        .map_err(|_| Trouble::Unusable("the name cannot be asked for"))?;
    match udp(server, &bytes, question, chain, deadline)? {
        Reply::Truncated => tcp(server, &bytes, question, chain, deadline).map_err(Trouble::Tcp),
        reply => Ok(reply),
    }
}

fn udp(
    server: SocketAddr,
    bytes: &[u8],
    question: &Question,
    chain: &mut Chain,
    deadline: Deadline,
) -> Result<Reply, Trouble> {
    let any: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // A socket of its own for each question: the system picks its port at random (RFC 5452 §9.2), and being connected
    // it lets through only what comes from the server's address and port.
    let socket = UdpSocket::bind((any, 0)).map_err(Trouble::Unreachable)?;
    socket.connect(server).map_err(Trouble::Unreachable)?;
    socket.send(bytes).map_err(Trouble::Unreachable)?;
    let mut answer = [0; 4096];
    loop {
        let left = deadline.remaining().map_err(|_| Trouble::Timeout)?;
        socket
            .set_read_timeout(Some(left))
            .map_err(Trouble::Unreachable)?;
        let n = match socket.recv(&mut answer) {
            Ok(n) => n,
            Err(e) => match e.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    return Err(Trouble::Timeout);
                }
                io::ErrorKind::Interrupted => continue,
                _ => return Err(Trouble::Unreachable(e)),
            },
        };
        let mut tried = chain.clone();
        match message::read(&answer[..n], question, &mut tried) {
            // DNS-2: forged answers and rubbish before the true one do not stop it.
            Reply::NotOurs => {}
            reply => {
                *chain = tried;
                return Ok(reply);
            }
        }
    }
}

/// RFC 7766 §8: two octets of length, then the message. That length bounds an answer to 64 KiB (DNS-9).
fn tcp(
    server: SocketAddr,
    bytes: &[u8],
    question: &Question,
    chain: &mut Chain,
    deadline: Deadline,
) -> io::Result<Reply> {
    let mut stream = Stream::connect(server, None, deadline)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed, deadline)?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, deadline)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    read_exact(&mut stream, &mut answer, deadline)?;
    match message::read(&answer, question, chain) {
        Reply::NotOurs => Err(io::Error::other("not an answer to the question")),
        Reply::Truncated => Err(io::Error::other("truncated there too")),
        reply => Ok(reply),
    }
}

fn read_exact(stream: &mut Stream, mut buf: &mut [u8], deadline: Deadline) -> io::Result<()> {
    while !buf.is_empty() {
        match stream.read(buf, deadline)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => buf = &mut buf[n..],
        }
    }
    Ok(())
}
