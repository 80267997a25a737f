//! One blocking stream under deadlines: TCP or Unix, plain or TLS.
//!
//! An expired socket timeout arrives as `WouldBlock` on Unix, and as a handshake's `WouldBlock` from TLS; both become
//! `TimedOut` below here and nowhere else.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use nix::poll::PollFlags;

use super::deadline::Deadline;
use super::socket::{self, Socket};
use super::tls::server::{Identity, Secured};
use super::tls::{self, Tls};
use crate::policy::failure::TlsLevel;
use crate::policy::tls::{Conditions, Reached};
use crate::smtp::sasl::Protection;

/// A connection. Reads and writes carry their own deadline.
#[derive(Debug)]
pub struct Stream(Layer);

#[derive(Debug)]
enum Layer {
    Plain(Socket),
    // Boxed because most streams are plain and all of them are moved about.
    // What was reached is asked of the sessions that we dialled.
    Tls(Box<Tls>, Option<Arc<Reached>>),
}

impl Stream {
    /// Dials `address`, from `source` if given, within `deadline`.
    ///
    /// # Errors
    /// The system's; `TimedOut` at the deadline; `AddrNotAvailable` when `source` cannot be bound.
    pub fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        deadline: Deadline,
    ) -> io::Result<Stream> {
        let socket = socket::unconnected(address, source)?;
        Stream::connect_socket(socket, address, deadline)
    }

    /// Connects a socket that is made already; its failures are the network's or the peer's.
    pub(super) fn connect_socket(
        socket: socket2::Socket,
        address: SocketAddr,
        deadline: Deadline,
    ) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::connect(
            socket, address, deadline,
        )?)))
    }

    /// Connects to the Unix socket at `path` within `deadline`.
    ///
    /// # Errors
    /// The system's.
    pub fn connect_unix(path: &Path, deadline: Deadline) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::connect_unix(path, deadline)?)))
    }

    /// Wraps an accepted TCP connection; sets TCP_NODELAY.
    ///
    /// # Errors
    /// The system's.
    pub fn from_tcp(tcp: TcpStream) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::from_tcp(tcp)?)))
    }

    /// Wraps an accepted Unix connection.
    ///
    /// # Errors
    /// The system's.
    pub fn from_unix(unix: UnixStream) -> io::Result<Stream> {
        Ok(Stream(Layer::Plain(Socket::from_unix(unix)?)))
    }

    /// Reads at least one byte, or 0 at the end of the stream.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn read(&mut self, buf: &mut [u8], deadline: Deadline) -> io::Result<usize> {
        match &mut self.0 {
            Layer::Plain(socket) => socket.read(buf, deadline),
            Layer::Tls(tls, _) => tls.read(buf, deadline),
        }
    }

    /// Writes what the peer takes now, at least one byte; returns at once after [`Stream::wait`] said writable.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn write(&mut self, bytes: &[u8], deadline: Deadline) -> io::Result<usize> {
        match &mut self.0 {
            Layer::Plain(socket) => socket.write(bytes, deadline),
            Layer::Tls(tls, _) => tls.write(bytes, deadline),
        }
    }

    /// Writes all of `bytes`; on return the system has them.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn write_all(&mut self, mut bytes: &[u8], deadline: Deadline) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = self.write(bytes, deadline)?;
            bytes = &bytes[n..];
        }
        match &mut self.0 {
            Layer::Plain(_) => Ok(()),
            Layer::Tls(tls, _) => tls.flush(deadline),
        }
    }

    /// Waits until the stream can be read (or is at its end), or can be written if `writing`; so that reading can go
    /// on beside writing (CL-14). Returns (readable, writable).
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn wait(&mut self, writing: bool, deadline: Deadline) -> io::Result<(bool, bool)> {
        match &mut self.0 {
            Layer::Plain(socket) => {
                let mut events = PollFlags::POLLIN;
                if writing {
                    events |= PollFlags::POLLOUT;
                }
                socket.poll(events, deadline)
            }
            Layer::Tls(tls, _) => tls.wait(writing, deadline),
        }
    }

    /// Waits until the stream can be read (or is at its end), or `other` can. Returns (stream, other).
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn wait_or(
        &mut self,
        other: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<(bool, bool)> {
        loop {
            if let Layer::Tls(tls, _) = &mut self.0
                && tls.has_unread()
            {
                return Ok((true, false));
            }
            let socket = self.socket();
            let (ours, theirs) = socket.poll_with(other, deadline)?;
            // What arrived for TLS need not be data; only its layer knows.
            if theirs || (ours && matches!(self.0, Layer::Plain(_))) {
                return Ok((ours, theirs));
            }
        }
    }

    /// Reads at least one byte, or 0 at the end of the stream; `None` when `other` can be read instead. A client's bytes
    /// that come at once are read before `other` is looked at.
    ///
    /// # Errors
    /// `TimedOut` at the deadline.
    pub fn read_or(
        &mut self,
        buf: &mut [u8],
        other: BorrowedFd<'_>,
        deadline: Deadline,
    ) -> io::Result<Option<usize>> {
        if let Layer::Plain(socket) = &self.0 {
            return socket.read_or(buf, other, deadline);
        }
        match self.wait_or(other, deadline)? {
            (_, true) => Ok(None),
            _ => self.read(buf, deadline).map(Some),
        }
    }

    /// Ends our side of the connection: the peer reads what was written, and then the end. Reading goes on.
    ///
    /// # Errors
    /// The system's: the peer is gone.
    pub fn finish_writing(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Layer::Plain(socket) => socket.finish_writing(),
            Layer::Tls(tls, _) => tls.finish_writing(),
        }
    }

    /// Whether bytes or an end of stream wait unread; never blocks (CL-7, CL-8).
    pub fn has_unread(&mut self) -> bool {
        match &mut self.0 {
            Layer::Plain(socket) => socket.has_unread(),
            Layer::Tls(tls, _) => tls.has_unread(),
        }
    }

    /// Client side STARTTLS with a new handshake; consumes the plain stream, which can never be read again (TLS-9). Any
    /// certificate is taken; [`Stream::reached`] says what it was worth under `conditions`.
    ///
    /// # Errors
    /// `TimedOut`; `InvalidData` with the reason for a failed handshake, also when the peer's bytes wait already
    /// (TLS-8); `UnexpectedEof` when the peer closes.
    pub fn start_tls(
        self,
        context: &tls::Context,
        conditions: &Conditions,
        deadline: Deadline,
    ) -> io::Result<Stream> {
        match self.0 {
            Layer::Plain(socket) => {
                let (tls, reached) = tls::handshake(socket, context, conditions, deadline)?;
                Ok(Stream(Layer::Tls(Box::new(tls), Some(Arc::new(reached)))))
            }
            Layer::Tls(..) => Err(on_already()),
        }
    }

    /// Server side of a handshake, as `identity`; consumes the plain stream, which can never be read again (IN-31).
    /// Asks once a second whether it is still `wanted`.
    ///
    /// # Errors
    /// `TimedOut`, also when it is not wanted any more; `InvalidData` with the reason for a failed handshake;
    /// `UnexpectedEof` when the peer closes.
    pub fn accept_tls(
        self,
        identity: &Identity,
        deadline: Deadline,
        wanted: &dyn Fn() -> bool,
    ) -> io::Result<(Stream, Secured)> {
        match self.0 {
            Layer::Plain(socket) => {
                let (tls, secured) = identity.accept(socket, deadline, wanted)?;
                Ok((Stream(Layer::Tls(Box::new(tls), None)), secured))
            }
            Layer::Tls(..) => Err(on_already()),
        }
    }

    /// What the handshake reached; `None` in clear, and on the server's side.
    pub fn reached(&self) -> Option<&Arc<Reached>> {
        match &self.0 {
            Layer::Plain(_) => None,
            Layer::Tls(_, reached) => reached.as_ref(),
        }
    }

    /// What of the handshake matters to AUTH; nothing in clear.
    pub fn protection(&self) -> Protection {
        match &self.0 {
            Layer::Tls(tls, Some(reached)) => Protection {
                verified: reached.level() >= TlsLevel::Verified,
                binding: tls.binding(),
            },
            Layer::Plain(_) | Layer::Tls(..) => Protection::default(),
        }
    }

    /// Of a stream at its end: whether the peer said so, with close_notify. In clear nobody can tell.
    pub fn ended_in_order(&mut self) -> bool {
        match &mut self.0 {
            Layer::Plain(_) => true,
            Layer::Tls(tls, _) => tls.ended_in_order(),
        }
    }

    /// The peer's address; `None` for Unix sockets.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.socket().peer()
    }

    /// Our own address in this connection; `None` for Unix sockets.
    pub fn local(&self) -> Option<SocketAddr> {
        self.socket().local()
    }

    /// Closes at once, without waiting for the peer.
    pub fn close(self) {
        match self.0 {
            Layer::Plain(socket) => drop(socket),
            Layer::Tls(tls, _) => tls.close(),
        }
    }

    fn socket(&self) -> &Socket {
        match &self.0 {
            Layer::Plain(socket) => socket,
            Layer::Tls(tls, _) => tls.socket(),
        }
    }
}

fn on_already() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "TLS is on already")
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};
    use std::time::Duration;

    use openssl::asn1::Asn1Time;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::ssl::{SslAcceptor, SslMethod, SslStream, SslVersion};
    use openssl::x509::extension::SubjectAlternativeName;
    use openssl::x509::{X509Builder, X509NameBuilder};

    use super::*;
    use crate::config::Config;
    use crate::policy::failure::TlsLevel;
    use crate::policy::plan::HostName;
    use crate::policy::tls::Encryption;
    use crate::smtp::address::Domain;

    fn long() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    /// A handshake that wants nothing, with `mx.dest.example` in SNI.
    fn start_tls(stream: Stream, deadline: Deadline) -> io::Result<Stream> {
        let name = Domain::parse("mx.dest.example").unwrap();
        let conditions = Conditions {
            encryption: Encryption::IfOffered,
            by_name: false,
            by_dane: false,
            names: vec![HostName::Name(name.clone())],
            dane: None,
            sni: Some(name.clone()),
        };
        let context = tls::Context::new(&Config::default_for(name).tls).unwrap();
        stream.start_tls(&context, &conditions, deadline)
    }

    fn short() -> Deadline {
        Deadline::after(Duration::from_millis(20))
    }

    /// A connected pair: ours, and the peer's bare socket.
    fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = Stream::connect(listener.local_addr().unwrap(), None, long()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    /// A server with a self-signed certificate that expired long ago and names another host.
    fn acceptor(highest: Option<SslVersion>) -> SslAcceptor {
        acceptor_with(highest, 1)
    }

    /// The same, with this many alternative names of some 20 octets each.
    fn acceptor_with(highest: Option<SslVersion>, names: usize) -> SslAcceptor {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut name = X509NameBuilder::new().unwrap();
        name.append_entry_by_text("CN", "other.example").unwrap();
        let name = name.build();
        let mut cert = X509Builder::new().unwrap();
        cert.set_subject_name(&name).unwrap();
        cert.set_issuer_name(&name).unwrap();
        cert.set_pubkey(&key).unwrap();
        cert.set_not_before(&Asn1Time::from_unix(0).unwrap())
            .unwrap();
        cert.set_not_after(&Asn1Time::from_unix(86_400).unwrap())
            .unwrap();
        let mut alternatives = SubjectAlternativeName::new();
        for n in 0..names {
            alternatives.dns(&format!("host{n:08}.example"));
        }
        let alternatives = alternatives
            .build(&cert.x509v3_context(None, None))
            .unwrap();
        cert.append_extension(alternatives).unwrap();
        cert.sign(&key, MessageDigest::sha256()).unwrap();
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_private_key(&key).unwrap();
        acceptor.set_certificate(&cert.build()).unwrap();
        acceptor.set_security_level(0);
        acceptor.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        acceptor.set_min_proto_version(None).unwrap();
        acceptor.set_max_proto_version(highest).unwrap();
        acceptor.build()
    }

    fn tls_pair() -> (Stream, SslStream<TcpStream>) {
        let (ours, peer) = pair();
        let server = thread::spawn(move || acceptor(None).accept(peer).unwrap());
        let ours = start_tls(ours, long()).unwrap();
        (ours, server.join().unwrap())
    }

    /// Both kinds of stream, with the peer as something to read from and write to.
    fn both() -> Vec<(Stream, Box<dyn Duplex>)> {
        let (plain, peer) = pair();
        let (tls, tls_peer) = tls_pair();
        vec![(plain, Box::new(peer)), (tls, Box::new(tls_peer))]
    }

    trait Duplex: Read + Write + Send {}
    impl<T: Read + Write + Send> Duplex for T {}

    fn drip(mut peer: Box<dyn Duplex>) -> JoinHandle<()> {
        thread::spawn(move || while peer.write_all(b".").is_ok() {})
    }

    // CL-9
    #[test]
    fn a_peer_that_drips_bytes_runs_out_of_time() {
        for (mut stream, peer) in both() {
            let dripper = drip(peer);
            let deadline = short();
            let error = loop {
                match stream.read(&mut [0], deadline) {
                    Ok(n) => assert_eq!(n, 1),
                    Err(e) => break e,
                }
            };
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            stream.close();
            dripper.join().unwrap();
        }
    }

    // CL-9
    #[test]
    fn a_silent_peer_runs_out_of_time_and_the_stream_can_be_used_on() {
        for (mut stream, mut peer) in both() {
            let error = stream.read(&mut [0; 8], short()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            let error = stream.wait(false, short()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            peer.write_all(b"250 ok").unwrap();
            let mut buf = [0; 8];
            assert_eq!(stream.read(&mut buf, long()).unwrap(), 6);
            stream.write_all(b"RSET", long()).unwrap();
            let mut heard = [0; 4];
            peer.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"RSET");
        }
    }

    // CL-9
    #[test]
    fn a_peer_that_does_not_read_runs_out_of_time() {
        for (mut stream, peer) in both() {
            let much = vec![b'x'; 32 << 20];
            let error = stream.write_all(&much, short()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            drop(peer);
        }
    }

    // CL-14
    #[test]
    fn what_a_peer_says_can_be_read_while_it_does_not_read() {
        for (mut stream, mut peer) in both() {
            let piece = vec![b'x'; 1 << 20];
            // Until it no longer takes anything: a write that `wait` announced always returns.
            while let Ok((_, true)) = stream.wait(true, short()) {
                assert!(stream.write(&piece, short()).unwrap() > 0);
            }
            peer.write_all(b"550 no").unwrap();
            assert!(stream.wait(true, long()).unwrap().0);
            let mut buf = [0; 16];
            assert_eq!(stream.read(&mut buf, long()).unwrap(), 6);
            assert_eq!(&buf[..6], b"550 no");
        }
    }

    // CL-14
    #[test]
    fn nothing_is_lost_when_the_peer_reads_late() {
        for (mut stream, mut peer) in both() {
            let sent: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
            let size = sent.len();
            let reader = thread::spawn(move || {
                let mut got = vec![0; size];
                peer.read_exact(&mut got).unwrap();
                got
            });
            stream.write_all(&sent, long()).unwrap();
            assert!(reader.join().unwrap() == sent);
        }
    }

    // CL-7, CL-8, TLS-10: a TLS 1.3 server has sent its tickets by now, and they are no bytes of the conversation.
    #[test]
    fn unread_bytes_and_an_end_of_stream_are_seen_without_blocking() {
        for (mut stream, mut peer) in both() {
            assert!(!stream.has_unread());
            peer.write_all(b"421").unwrap();
            stream.wait(false, long()).unwrap();
            assert!(stream.has_unread());
            assert!(stream.has_unread());
            assert_eq!(stream.read(&mut [0; 2], long()).unwrap(), 2);
            assert!(stream.has_unread());
            assert_eq!(stream.read(&mut [0; 2], long()).unwrap(), 1);
            assert!(!stream.has_unread());
            drop(peer);
            assert_eq!(stream.wait(false, long()).unwrap(), (true, false));
            assert!(stream.has_unread());
            assert_eq!(stream.read(&mut [0; 2], long()).unwrap(), 0);
        }
    }

    // TLS-2
    #[test]
    fn an_expired_self_signed_certificate_of_another_host_is_taken() {
        let (stream, peer) = tls_pair();
        assert_eq!(stream.reached().unwrap().level(), TlsLevel::Encrypted);
        assert_eq!(
            peer.ssl().servername(openssl::ssl::NameType::HOST_NAME),
            Some("mx.dest.example")
        );
        assert!(!peer.ssl().session_reused());
    }

    // TLS-2
    #[test]
    fn tls_below_1_2_is_refused() {
        let (ours, peer) = pair();
        let server = thread::spawn(move || {
            acceptor(Some(SslVersion::TLS1_1))
                .accept(peer)
                .err()
                .is_some()
        });
        let error = start_tls(ours, long()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(server.join().unwrap());
    }

    // TLS-10
    #[test]
    fn certificate_messages_over_100_kib_are_refused() {
        for (names, taken) in [(3000, true), (6000, false)] {
            let (ours, peer) = pair();
            let server = thread::spawn(move || acceptor_with(None, names).accept(peer).is_ok());
            let result = start_tls(ours, long());
            assert_eq!(result.is_ok(), taken, "{names}");
            drop(result);
            let _ = server.join().unwrap();
        }
    }

    // TLS-8
    #[test]
    fn bytes_that_wait_before_the_handshake_end_it() {
        let (mut ours, mut peer) = pair();
        peer.write_all(b"250 injected\r\n").unwrap();
        ours.wait(false, long()).unwrap();
        let error = start_tls(ours, long()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        // Not a byte of a ClientHello went out.
        let mut heard = Vec::new();
        let _ = peer.read_to_end(&mut heard);
        assert!(heard.is_empty());
    }

    // TLS-10
    #[test]
    fn a_handshake_ends_whatever_the_peer_does() {
        let (ours, _silent) = pair();
        let error = start_tls(ours, short()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);

        let (ours, peer) = pair();
        let (hello_seen, seen) = mpsc::channel();
        let rubbish = thread::spawn(move || {
            let mut peer = peer;
            peer.read_exact(&mut [0; 5]).unwrap();
            hello_seen.send(()).unwrap();
            peer.write_all(b"500 what?\r\n").unwrap();
            peer
        });
        let error = start_tls(ours, long()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        seen.recv().unwrap();
        drop(rubbish.join().unwrap());

        let (ours, peer) = pair();
        let closing = thread::spawn(move || {
            let mut peer = peer;
            // All of the ClientHello, so that closing is an end and not a reset.
            let _ = peer.read(&mut [0; 4096]).unwrap();
        });
        let error = start_tls(ours, long()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        closing.join().unwrap();
    }

    // TLS-9
    #[test]
    fn cleartext_after_the_handshake_is_an_error_and_not_data() {
        let (mut ours, mut peer) = tls_pair();
        peer.get_mut().write_all(b"250 in clear\r\n").unwrap();
        let error = ours.read(&mut [0; 64], long()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    // DV-13, DV-14
    #[test]
    fn a_dial_is_bound_to_its_source_or_says_that_it_cannot() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bound = Stream::connect(address, Some([127, 0, 0, 9].into()), long()).unwrap();
        assert_eq!(
            bound.local().map(|l| l.ip()),
            Some(IpAddr::from([127, 0, 0, 9]))
        );
        assert_eq!(bound.peer(), Some(address));
        let (_, seen) = listener.accept().unwrap();
        assert_eq!(seen.ip(), IpAddr::from([127, 0, 0, 9]));
        // TEST-NET-1 is nobody's address.
        let error = Stream::connect(address, Some([192, 0, 2, 1].into()), long()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    }

    // IN-27, IN-29
    #[test]
    fn a_wait_can_be_ended_by_another_descriptor_and_writing_by_us() {
        let (other, wake) = std::io::pipe().unwrap();
        for (mut stream, mut peer) in both() {
            let error = stream.wait_or(other.as_fd(), short()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            peer.write_all(b"x").unwrap();
            assert_eq!(
                stream.wait_or(other.as_fd(), long()).unwrap(),
                (true, false)
            );
            stream.read(&mut [0], long()).unwrap();
            stream.finish_writing().unwrap();
            let _ = peer.read_to_end(&mut Vec::new());
            peer.write_all(b"y").unwrap();
            assert_eq!(stream.read(&mut [0], long()).unwrap(), 1);
        }
        drop(wake);
        let (mut stream, _peer) = pair();
        assert_eq!(
            stream.wait_or(other.as_fd(), long()).unwrap(),
            (false, true)
        );
    }

    #[test]
    fn a_unix_stream_obeys_the_same_deadlines() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let mut ours = Stream::from_unix(ours).unwrap();
        let error = ours.read(&mut [0], short()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        peer.write_all(b"x").unwrap();
        assert!(ours.has_unread());
        assert_eq!(ours.read(&mut [0; 4], long()).unwrap(), 1);
        ours.write_all(b"yz", long()).unwrap();
        peer.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(ours.peer(), None);
    }
}
