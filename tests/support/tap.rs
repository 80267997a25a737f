//! A recording proxy: what somebody on the path between client and host sees.

#![allow(clippy::unwrap_used)] // a test that cannot set up its proxy has failed

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// What the client said, by connection.
type Records = Arc<Mutex<Vec<Vec<u8>>>>;

/// The proxy, in front of one host.
pub struct Tap {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    records: Records,
    acceptor: JoinHandle<()>,
}

impl Tap {
    /// Listens at `address`, and passes everything on to `host` and back.
    pub fn start_at(address: SocketAddr, host: SocketAddr) -> Tap {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let records = Records::default();
        let (stopping, recording) = (Arc::clone(&stop), Arc::clone(&records));
        let acceptor = thread::spawn(move || {
            let mut ways = Vec::new();
            for client in listener.incoming().map_while(Result::ok) {
                if stopping.load(Ordering::SeqCst) {
                    break;
                }
                let host = TcpStream::connect(host).unwrap();
                let number = {
                    let mut records = recording.lock().unwrap();
                    records.push(Vec::new());
                    records.len() - 1
                };
                let (from, to) = (client.try_clone().unwrap(), host.try_clone().unwrap());
                // A client that has ended hears nothing more, whether the host ends or not.
                let records = Arc::clone(&recording);
                let record = move |octets: &[u8]| {
                    records.lock().unwrap()[number].extend_from_slice(octets);
                };
                ways.push(way(from, to, Shutdown::Both, record));
                ways.push(way(host, client, Shutdown::Write, |_| {}));
            }
            for way in ways {
                way.join().unwrap();
            }
        });
        Tap {
            address,
            stop,
            records,
            acceptor,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until all connections have ended, and gives what the client of each has said.
    pub fn finish(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.acceptor.join().unwrap();
        std::mem::take(&mut *self.records.lock().unwrap())
    }
}

/// One direction of one connection, until it ends.
fn way(
    mut from: TcpStream,
    mut to: TcpStream,
    end: Shutdown,
    record: impl Fn(&[u8]) + Send + 'static,
) -> JoinHandle<()> {
    to.set_nodelay(true).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            // Recorded first: what arrives has been overheard.
            record(&buffer[..n]);
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(end);
        let _ = from.shutdown(Shutdown::Read);
    })
}

/// The commands that went in clear, and whether TLS records and nothing else followed them.
pub fn commands_in_clear(client: &[u8]) -> (Vec<String>, bool) {
    let mut commands = Vec::new();
    let mut rest = client;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        // A handshake record, whatever version it says.
        if rest.starts_with(&[22, 3]) {
            break;
        }
        commands.push(String::from_utf8_lossy(&rest[..end]).trim_end().to_string());
        rest = &rest[end + 1..];
    }
    let tls = !rest.is_empty();
    while let [20..=23, 3, _, high, low, octets @ ..] = rest {
        let length = usize::from(*high) << 8 | usize::from(*low);
        // The last one may have been cut off.
        rest = &octets[length.min(octets.len())..];
    }
    assert!(rest.is_empty(), "not TLS: {rest:?} after {commands:?}");
    (commands, tls)
}
