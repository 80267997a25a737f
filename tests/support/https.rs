//! A small HTTPS server for policies and reports: says what it is told to say, and remembers what it was asked.

#![allow(clippy::unwrap_used)] // a test that cannot set up its server has failed
#![allow(dead_code, reason = "grows with the scenarios that use it")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use openssl::ssl::{SslAcceptor, SslMethod, SslStream};

use super::ca::Issued;

/// How long a test waits for a request before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it says to each request, from the next one on.
#[derive(Clone, Debug)]
pub enum Say {
    /// Status 200 and this as text/plain.
    Text(String),
    /// These octets; then it closes in order.
    Octets(Vec<u8>),
    /// These octets; then the connection is cut without close_notify.
    Cut(Vec<u8>),
    /// The head of a good response, then one octet at a time until the client is gone.
    Drip,
    /// Nothing at all, from the handshake on, until the client is gone.
    Silence,
}

/// A status line, these header lines and this content.
pub fn response(status: &str, headers: &str, body: &str) -> Say {
    let length = body.len();
    Say::Octets(
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}")
            .into_bytes(),
    )
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Request line and header.
    pub head: String,
    /// Its content.
    pub body: Vec<u8>,
}

struct State {
    identity: Issued,
    say: Say,
    asked: Vec<Asked>,
    /// Connections, whatever became of them.
    connections: usize,
    sockets: Vec<TcpStream>,
}

/// The server.
pub struct Https {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Https {
    /// Starts on 127.0.0.1 and a free port.
    pub fn start(identity: Issued, say: Say) -> Https {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            identity,
            say,
            asked: Vec::new(),
            connections: 0,
            sockets: Vec::new(),
        };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&state), Arc::clone(&stop));
        let acceptor = thread::Builder::new()
            .name("https-accept".to_string())
            .spawn(move || {
                let mut sessions = Vec::new();
                for tcp in listener.incoming() {
                    if stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(tcp) = tcp else { continue };
                    {
                        let mut state = shared.0.lock().unwrap();
                        state.connections += 1;
                        state.sockets.push(tcp.try_clone().unwrap());
                    }
                    let shared = Arc::clone(&shared);
                    sessions.push(thread::spawn(move || serve(tcp, &shared)));
                }
                for session in sessions {
                    let _ = session.join();
                }
            })
            .unwrap();
        Https {
            address,
            state,
            stop,
            acceptor: Some(acceptor),
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Says this from now on.
    pub fn say(&self, say: Say) {
        self.state.0.lock().unwrap().say = say;
    }

    /// Has this certificate from now on.
    pub fn identity(&self, identity: Issued) {
        self.state.0.lock().unwrap().identity = identity;
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.0.lock().unwrap().asked.clone()
    }

    /// All connections so far.
    pub fn connections(&self) -> usize {
        self.state.0.lock().unwrap().connections
    }

    /// Waits until so many requests have come.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let (state, changed) = &*self.state;
        let (state, result) = changed
            .wait_timeout_while(state.lock().unwrap(), PATIENCE, |state| {
                state.asked.len() < count
            })
            .unwrap();
        let came = state.asked.len();
        // A lock that is held by a panic is one that Drop cannot take.
        drop(state);
        assert!(!result.timed_out(), "{came} requests");
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for socket in &self.state.0.lock().unwrap().sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve(tcp: TcpStream, shared: &(Mutex<State>, Condvar)) {
    let (identity, say) = {
        let state = shared.0.lock().unwrap();
        (state.identity.clone(), state.say.clone())
    };
    if matches!(say, Say::Silence) {
        let _ = (&tcp).read(&mut [0; 16 * 1024]);
        let _ = (&tcp).read(&mut [0]);
        return;
    }
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&identity.key).unwrap();
    acceptor.set_certificate(&identity.cert).unwrap();
    for cert in &identity.chain {
        acceptor.add_extra_chain_cert(cert.clone()).unwrap();
    }
    let Ok(mut tls) = acceptor.build().accept(tcp) else {
        return;
    };
    let Some(asked) = request(&mut tls) else {
        return;
    };
    {
        let mut state = shared.0.lock().unwrap();
        state.asked.push(asked);
        shared.1.notify_all();
    }
    let octets = match say {
        Say::Text(text) => match response("200 OK", "Content-Type: text/plain\r\n", &text) {
            Say::Octets(octets) => octets,
            _ => unreachable!(),
        },
        Say::Octets(octets) => octets,
        Say::Cut(octets) => {
            let _ = tls.write_all(&octets);
            let _ = tls.get_ref().shutdown(Shutdown::Write);
            return;
        }
        Say::Drip => {
            let head =
                b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 65000\r\n\r\n";
            let _ = tls.write_all(head);
            while tls.write_all(b"\n").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
            return;
        }
        Say::Silence => return,
    };
    let _ = tls.write_all(&octets);
    let _ = tls.shutdown();
    let _ = tls.get_ref().shutdown(Shutdown::Write);
    // A close with unread bytes becomes a reset and may eat the response.
    let _ = tls.get_ref().read(&mut [0; 64]);
}

fn request(tls: &mut SslStream<TcpStream>) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        read_more(tls, &mut bytes)?;
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().unwrap());
    while bytes.len() < end + length {
        read_more(tls, &mut bytes)?;
    }
    Some(Asked {
        head,
        body: bytes.split_off(end),
    })
}

fn read_more(tls: &mut SslStream<TcpStream>, bytes: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 4096];
    match tls.read(&mut piece) {
        Ok(n) if n > 0 => {
            bytes.extend_from_slice(&piece[..n]);
            Some(())
        }
        _ => None,
    }
}
