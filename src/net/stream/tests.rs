//! Streams in the clear and over TLS, against peers that drip, are silent, or say too much.

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
