//! Through a SOCKS5 proxy (RO-11).

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use posthaste::config::{Line, Proxy, RelayHost, RelayTls, Secret};
use posthaste::smtp::address::Domain;
use posthaste::store::State;

use super::{BOB, bench};
use crate::client::bench::{Bench, letter};
use crate::support::mx::{Mx, Script};

/// A proxy that takes IPv4 addresses, and only this user if there is one. It answers `refusal` unless that is 0.
struct Socks {
    address: SocketAddr,
    served: Arc<AtomicUsize>,
}

impl Socks {
    fn start(login: Option<(&'static str, &'static str)>, refusal: u8) -> Socks {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&served);
        // It ends with the test program.
        thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                thread::spawn(move || {
                    let _ = serve(tcp, login, refusal, &count);
                });
            }
        });
        Socks { address, served }
    }

    fn proxy(&self, login: Option<(&str, &str)>) -> Proxy {
        Proxy {
            host: RelayHost::Ip(self.address.ip()),
            port: self.address.port(),
            login: login.map(|(user, password)| (user.to_string(), Secret::new(password))),
        }
    }
}

fn serve(
    mut tcp: TcpStream,
    login: Option<(&str, &str)>,
    refusal: u8,
    count: &AtomicUsize,
) -> std::io::Result<()> {
    let mut hello = [0; 3];
    tcp.read_exact(&mut hello)?;
    let wanted = if login.is_some() { 2 } else { 0 };
    if hello != [5, 1, wanted] {
        return tcp.write_all(&[5, 255]);
    }
    tcp.write_all(&[5, wanted])?;
    if let Some((user, password)) = login {
        let fields = [user, password].map(|s| [&[s.len() as u8][..], s.as_bytes()].concat());
        let expected = [&[1][..], &fields.concat()].concat();
        let mut found = vec![0; expected.len()];
        tcp.read_exact(&mut found)?;
        tcp.write_all(&[1, u8::from(found != expected)])?;
    }
    let mut request = [0; 10];
    tcp.read_exact(&mut request)?;
    assert_eq!(request[..4], [5, 1, 0, 1], "names are resolved here");
    let ip = Ipv4Addr::new(request[4], request[5], request[6], request[7]);
    let port = u16::from_be_bytes([request[8], request[9]]);
    count.fetch_add(1, Ordering::SeqCst);
    if refusal != 0 {
        return tcp.write_all(&[5, refusal, 0, 1, 0, 0, 0, 0, 0, 0]);
    }
    let mut host = TcpStream::connect((ip, port))?;
    tcp.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut back, mut there) = (tcp.try_clone()?, host.try_clone()?);
    let answers = thread::spawn(move || {
        let _ = std::io::copy(&mut there, &mut back);
        let _ = back.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut tcp, &mut host);
    let _ = host.shutdown(Shutdown::Write);
    let _ = answers.join();
    Ok(())
}

fn through(mx: &Mx, proxy: Proxy) -> Bench {
    let bench = bench(&[mx], |relay| relay.tls = Some(RelayTls::None));
    bench.change(|config| {
        config.transport[0].line = Some(Arc::new(Line {
            helo: Some(Domain::parse("hidden.test").unwrap()),
            proxy: Some(proxy),
            ..Line::default()
        }));
    });
    bench
}

// RO-11, RO-17
#[test]
fn hosts_are_dialled_through_the_proxy_and_never_past_it() {
    for login in [None, Some(("we", "pass:word"))] {
        let mx = Mx::start(Script::new());
        let socks = Socks::start(login, 0);
        let result = through(&mx, socks.proxy(login)).deliver(letter(BOB));
        assert_eq!(result.is_delivered().address, Some(mx.address()));
        assert_eq!(socks.served.load(Ordering::SeqCst), 1);
        assert_eq!(mx.sessions()[0].commands[0], "EHLO hidden.test");
    }
}

// RO-11, RO-8
#[test]
fn a_proxy_that_does_not_serve_us_is_our_own_fault_and_no_attempt() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let dead = Proxy {
        host: RelayHost::Ip(dead.ip()),
        port: dead.port(),
        login: None,
    };
    let nowhere = Proxy {
        host: RelayHost::Name(Domain::parse("proxy.test").unwrap()),
        ..dead.clone()
    };
    let closed = Socks::start(Some(("we", "right")), 0);
    let (anonymous, wrong) = (closed.proxy(None), closed.proxy(Some(("we", "wrong"))));
    for (proxy, words) in [
        (dead, "Connection refused"),
        (nowhere, "4.3.5 proxy proxy.test"),
        (anonymous, "it wants a user and a password"),
        (wrong, "it refuses our user and password"),
    ] {
        let mx = Mx::start(Script::new());
        let result = through(&mx, proxy).deliver(letter(BOB));
        assert_eq!((result.row.state, result.row.attempts), (State::Queued, 0));
        assert!(result.row.blocker.contains(words), "{}", result.row.blocker);
        assert_eq!(mx.connections(), 0);
    }
}

// RO-11
#[test]
fn what_the_proxy_says_of_the_host_is_the_hosts() {
    let mx = Mx::start(Script::new());
    let socks = Socks::start(None, 5);
    let result = through(&mx, socks.proxy(None)).deliver(letter(BOB));
    let text = &result.is(State::Queued, "4.4.1").text;
    assert!(
        text.contains("connection refused, says the proxy"),
        "{text}"
    );
    assert_eq!(result.row.attempts, 1);
}
