//! The client's side of SOCKS5 (RFC 1928) with a password (RFC 1929), under a deadline (RO-11).
//!
//! Nothing is read past the proxy's last octet: what follows is the host's greeting.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use super::deadline::Deadline;
use super::stream::Stream;

/// A proxy whose addresses are known.
#[derive(Clone)]
pub struct Via {
    /// Its addresses, in the order of dialling. Never empty.
    pub addresses: Vec<SocketAddr>,
    /// User and password there.
    pub login: Option<(String, String)>,
}

/// Without the password.
impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Via").field(&self.addresses).finish()
    }
}

/// Why there is no way through the proxy.
#[derive(Debug)]
pub enum NoWay {
    /// The proxy is to blame, or we are: it refuses us, or does not speak SOCKS5.
    Proxy(io::Error),
    /// The proxy did its part, and the host is to blame.
    Host(io::Error),
}

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const PASSWORD: u8 = 2;

/// Makes ourselves known on a fresh connection to the proxy.
///
/// # Errors
/// The proxy does not want us, or is none.
pub fn greet(
    stream: &mut Stream,
    login: Option<&(String, String)>,
    deadline: Deadline,
) -> io::Result<()> {
    // RFC 1928 §3: one method, so that the proxy has no choice to let us in as somebody else.
    let method = match login {
        Some(_) => PASSWORD,
        None => NO_LOGIN,
    };
    stream.write_all(&[VERSION, 1, method], deadline)?;
    let answer = read::<2>(stream, deadline)?;
    match answer {
        [VERSION, chosen] if chosen == method => {}
        [VERSION, 0xff] if login.is_some() => {
            return Err(refused("it takes no user and password".to_owned()));
        }
        [VERSION, 0xff] => return Err(refused("it wants a user and a password".to_owned())),
        _ => return Err(garbage()),
    }
    let Some((user, password)) = login else {
        return Ok(());
    };
    // RFC 1929 §2; both are 1 to 255 octets, as the configuration makes sure.
    let mut request = vec![1];
    for field in [user, password] {
        let length = u8::try_from(field.len()).map_err(|_| garbage())?;
        request.push(length);
        request.extend_from_slice(field.as_bytes());
    }
    stream.write_all(&request, deadline)?;
    match read::<2>(stream, deadline)? {
        [1, 0] => Ok(()),
        [1, _] => Err(refused("it refuses our user and password".to_owned())),
        _ => Err(garbage()),
    }
}

/// Asks for a connection to `target`. After it the stream is the host's.
///
/// # Errors
/// [`NoWay`]
pub fn connect(stream: &mut Stream, target: SocketAddr, deadline: Deadline) -> Result<(), NoWay> {
    let mut request = vec![VERSION, 1, 0];
    match target.ip().to_canonical() {
        IpAddr::V4(ip) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
    }
    request.extend_from_slice(&target.port().to_be_bytes());
    stream.write_all(&request, deadline).map_err(NoWay::Proxy)?;
    // It waits for the host now, so time that runs out is the host's.
    let head = read::<4>(stream, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => NoWay::Host(error),
        _ => NoWay::Proxy(error),
    })?;
    let [VERSION, reply, 0, kind] = head else {
        return Err(NoWay::Proxy(garbage()));
    };
    // RFC 1928 §6
    let of_host = |kind: io::ErrorKind, text: &str| {
        Err(NoWay::Host(io::Error::new(
            kind,
            format!("{text}, says the proxy"),
        )))
    };
    match reply {
        0 => {}
        1 => return Err(NoWay::Proxy(refused("general failure".to_owned()))),
        2 => {
            let text = format!("it does not permit connections to {target}");
            return Err(NoWay::Proxy(refused(text)));
        }
        3 => return of_host(io::ErrorKind::NetworkUnreachable, "network unreachable"),
        4 => return of_host(io::ErrorKind::HostUnreachable, "host unreachable"),
        5 => return of_host(io::ErrorKind::ConnectionRefused, "connection refused"),
        6 => return of_host(io::ErrorKind::HostUnreachable, "TTL expired"),
        other => return Err(NoWay::Proxy(refused(format!("reply {other}")))),
    }
    // The address from which it connects says nothing to us, and ends what is the proxy's.
    let rest = match kind {
        1 => read::<6>(stream, deadline).map(drop),
        4 => read::<18>(stream, deadline).map(drop),
        3 => read::<1>(stream, deadline).and_then(|[length]| {
            for _ in 0..usize::from(length) + 2 {
                read::<1>(stream, deadline)?;
            }
            Ok(())
        }),
        _ => Err(garbage()),
    };
    rest.map_err(NoWay::Proxy)
}

fn read<const N: usize>(stream: &mut Stream, deadline: Deadline) -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    let mut had = 0;
    while had < N {
        match stream.read(&mut octets[had..], deadline)? {
            0 => return Err(refused("it closed the connection".to_owned())),
            n => had += n,
        }
    }
    Ok(octets)
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

fn garbage() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "what it says is not SOCKS5".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A proxy that expects these octets and answers with those, then goes on as a host that greets.
    fn proxy(script: Vec<(Vec<u8>, Vec<u8>)>) -> (Stream, thread::JoinHandle<bool>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let handle = thread::spawn(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            for (expected, answer) in script {
                let mut found = vec![0; expected.len()];
                if tcp.read_exact(&mut found).is_err() || found != expected {
                    return false;
                }
                tcp.write_all(&answer).unwrap();
            }
            true
        });
        let stream = Stream::connect(address, None, soon()).unwrap();
        (stream, handle)
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    fn asked(target: &str, answer: &[u8]) -> (Stream, Result<(), NoWay>) {
        let target: SocketAddr = target.parse().unwrap();
        let mut request = vec![5, 1, 0];
        match target.ip() {
            IpAddr::V4(ip) => request.extend([&[1][..], &ip.octets()].concat()),
            IpAddr::V6(ip) => request.extend([&[4][..], &ip.octets()].concat()),
        }
        request.extend(target.port().to_be_bytes());
        let (mut stream, handle) = proxy(vec![(request, answer.to_vec())]);
        let result = connect(&mut stream, target, soon());
        assert!(handle.join().unwrap(), "the request is malformed");
        (stream, result)
    }

    // RO-11: RFC 1928 §3, RFC 1929 §2
    #[test]
    fn the_proxy_hears_who_we_are_and_may_refuse() {
        let login = Some(("us".to_owned(), "pw".to_owned()));
        let said = |login: &Option<(String, String)>, script| {
            let (mut stream, handle) = proxy(script);
            let result = greet(&mut stream, login.as_ref(), soon());
            drop(stream);
            assert!(handle.join().unwrap(), "what we say is malformed");
            result.map_err(|error| error.to_string())
        };
        let hello = |method| vec![5, 1, method];
        let password = vec![1, 2, b'u', b's', 2, b'p', b'w'];
        assert_eq!(said(&None, vec![(hello(0), vec![5, 0])]), Ok(()));
        assert_eq!(
            said(
                &login,
                vec![(hello(2), vec![5, 2]), (password.clone(), vec![1, 0])]
            ),
            Ok(())
        );
        for (login, script) in [
            (&None, vec![(hello(0), vec![5, 255])]),
            (&None, vec![(hello(0), vec![5, 2])]),
            (&None, vec![(hello(0), b"HT".to_vec())]),
            (&None, vec![(hello(0), vec![5])]),
            (&login, vec![(hello(2), vec![5, 0])]),
            (&login, vec![(hello(2), vec![5, 2]), (password, vec![1, 1])]),
        ] {
            assert!(said(login, script).is_err());
        }
    }

    // RO-11: RFC 1928 §4, §6
    #[test]
    fn what_follows_the_answer_of_the_proxy_is_the_hosts() {
        for (target, bound) in [
            ("192.0.2.1:25", vec![1, 1, 2, 3, 4, 0, 25]),
            ("[2001:db8::1]:587", [&[4][..], &[0; 18]].concat()),
            ("192.0.2.1:25", [&[3, 4][..], b"name", &[0, 25]].concat()),
        ] {
            let answer = [&[5, 0, 0][..], &bound, b"220 hi"].concat();
            let (mut stream, result) = asked(target, &answer);
            assert!(result.is_ok());
            let mut rest = [0; 32];
            let n = stream.read(&mut rest, soon()).unwrap();
            assert_eq!(&rest[..n], b"220 hi");
        }
    }

    // RO-11
    #[test]
    fn what_the_host_did_is_not_the_proxys_fault() {
        for reply in [3, 4, 5, 6] {
            let (_, result) = asked("192.0.2.1:25", &[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]);
            assert!(matches!(result, Err(NoWay::Host(_))), "{reply}");
        }
        for answer in [
            &[5, 1, 0, 1, 0, 0, 0, 0, 0, 0][..],
            &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0],
            &[5, 9, 0, 1, 0, 0, 0, 0, 0, 0],
            &[4, 0, 0, 1, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 7, 0, 0, 0, 0, 0, 0],
            &[5, 0, 0, 1, 0],
            &[],
        ] {
            let (_, result) = asked("192.0.2.1:25", answer);
            assert!(matches!(result, Err(NoWay::Proxy(_))), "{answer:?}");
        }
    }
}
