//! TLS on our own listeners: clients from the openssl crate, certificates of an authority made here.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use openssl::ssl::{
    HandshakeError, SslConnector, SslConnectorBuilder, SslMethod, SslSessionCacheMode, SslStream,
    SslVersion,
};
use posthaste::config::{Config, ListenTls};
use posthaste::front::listener::bind;
use posthaste::message::RequireTls;

use super::{MESSAGE, millis};
use crate::support::ca::{Authority, Issued, leaf};
use crate::support::daemon::{PATIENCE, Process, TestDaemon, run, write_config};
use crate::support::front::{Client, House, Setup};
use crate::support::queue::TempDir;

const NAME: &str = "mail.here.example";

/// Certificates in files, and the authority that clients believe.
struct Files {
    root: Authority,
    dir: TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files {
            root: Authority::root("root"),
            dir: TempDir::new(),
        };
        files.renew();
        files
    }

    /// Another certificate in the same files.
    fn renew(&self) -> Issued {
        let issued = self.root.issue(leaf(&[NAME]));
        self.write(&issued);
        issued
    }

    fn write(&self, issued: &Issued) {
        let chain: Vec<u8> = issued
            .sent()
            .iter()
            .flat_map(|c| c.to_pem().unwrap())
            .collect();
        write(
            &self.key(),
            &issued.key.private_key_to_pem_pkcs8().unwrap(),
            0o600,
        );
        write(&self.cert(), &chain, 0o644);
    }

    fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// A listener in the file of the configuration.
    fn listen(&self, tls: &str) -> String {
        let (cert, key) = (self.cert(), self.key());
        format!(
            "[[listen]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\ntls = \"{tls}\"\ncert = \"{}\"\nkey = \"{}\"\n",
            cert.display(),
            key.display()
        )
    }

    fn connector(&self) -> SslConnectorBuilder {
        let mut connector = SslConnector::builder(SslMethod::tls_client()).unwrap();
        connector
            .cert_store_mut()
            .add_cert(self.root.cert.clone())
            .unwrap();
        connector
    }

    /// The client's handshake, which verifies the name.
    fn handshake(&self, tcp: TcpStream) -> SslStream<TcpStream> {
        self.connector().build().connect(NAME, tcp).unwrap()
    }
}

fn write(path: &Path, octets: &[u8], mode: u32) {
    fs::write(path, octets).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn house_with(tls: ListenTls, change: impl FnOnce(&mut Config)) -> (House, Files) {
    let files = Files::new();
    let house = House::with(|config| {
        config.listen[0].tls = tls;
        config.listen[0].cert = Some(files.cert());
        config.listen[0].key = Some(files.key());
        change(config);
    });
    (house, files)
}

fn house(tls: ListenTls) -> (House, Files) {
    house_with(tls, |_| {})
}

fn tcp(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// A connection on which STARTTLS was answered.
fn ready(address: SocketAddr) -> TcpStream {
    let tcp = tcp(address);
    let mut plain = Client::over(tcp.try_clone().unwrap());
    plain.expect("220");
    let announced = plain.ask("EHLO before.example", "250");
    assert!(announced.contains("250-STARTTLS\r\n") && !announced.contains("REQUIRETLS"));
    plain.ask("STARTTLS", "220 2.0.0");
    tcp
}

/// A client inside TLS, and its bare socket.
fn inside(house: &House, files: &Files) -> (Client, TcpStream) {
    let tcp = ready(house.tcp());
    let raw = tcp.try_clone().unwrap();
    (Client::over(files.handshake(tcp)), raw)
}

/// What comes until the end, or a reset.
fn rest(tcp: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    match tcp.read_to_end(&mut heard) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    heard
}

// IN-1, IN-28, IN-30, IN-32
#[test]
fn mail_that_comes_inside_tls_says_so_and_may_require_it_of_others() {
    let (house, files) = house(ListenTls::StartTls);
    let (mut client, _) = inside(&house, &files);
    client.ask("MAIL FROM:<joe@src.example>", "503 5.5.1");
    let announced = client.ask("EHLO after.example", "250");
    assert!(announced.contains("250-REQUIRETLS\r\n") && !announced.contains("STARTTLS\r\n"));
    client.ask("STARTTLS", "503 5.5.1");
    client.open();
    client.content(MESSAGE, "250");
    let plain = house.only();
    assert_eq!(plain.head.require_tls, RequireTls::Default);
    let added = String::from_utf8(plain.head.added_header.clone()).unwrap();
    assert!(
        added.starts_with("Received: from after.example ([127.0.0.1])\r\n"),
        "{added}"
    );
    assert!(added.contains(" with ESMTPS id "), "{added}");
    assert!(
        added.contains("\r\n\ttls TLS_AES_256_GCM_SHA384; "),
        "{added}"
    );

    client.ask("MAIL FROM:<joe@src.example> REQUIRETLS SMTPUTF8", "250");
    client.ask("RCPT TO:<bob@dest.example>", "250");
    client.ask("DATA", "354");
    client.content(format!("TLS-Required: No\r\n{MESSAGE}"), "250");
    let required = house.show(house.ids()[1]);
    // RFC 8689 §4.1: beside REQUIRETLS the field means nothing.
    assert_eq!(required.head.require_tls, RequireTls::Yes);
    let added = String::from_utf8(required.head.added_header.clone()).unwrap();
    assert!(added.contains(" with UTF8SMTPS id "), "{added}");

    client.ask("HELO x", "250");
    client.ask("MAIL FROM:<joe@src.example> REQUIRETLS", "555 5.5.4");
}

// IN-32, TLS-13
#[test]
fn outside_tls_nothing_can_be_required_and_the_wish_for_less_is_kept() {
    let (house, _files) = house(ListenTls::StartTls);
    let mut client = house.client();
    client.ask("MAIL FROM:<joe@src.example> REQUIRETLS", "530 5.7.0");
    client.open();
    client.content(format!("TLS-Required: No\r\n{MESSAGE}"), "250");
    let message = house.only();
    assert_eq!(message.head.require_tls, RequireTls::No);
    assert!(
        house
            .content(message.head.id)
            .starts_with(b"TLS-Required: No\r\n")
    );
}

// IN-30
#[test]
fn versions_from_1_2_on_are_spoken_without_tickets() {
    let (house, files) = house(ListenTls::StartTls);
    for (version, spoken) in [
        (SslVersion::TLS1, false),
        (SslVersion::TLS1_1, false),
        (SslVersion::TLS1_2, true),
        (SslVersion::TLS1_3, true),
    ] {
        let mut connector = files.connector();
        connector.set_security_level(0);
        connector.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        connector.set_min_proto_version(Some(version)).unwrap();
        connector.set_max_proto_version(Some(version)).unwrap();
        let tickets = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tickets);
        connector.set_session_cache_mode(SslSessionCacheMode::CLIENT);
        connector.set_new_session_callback(move |_, session| {
            // TLS 1.2 calls this for every session; one that can be resumed has an id or a ticket.
            if version == SslVersion::TLS1_3 || !session.id().is_empty() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let done = connector.build().connect(NAME, ready(house.tcp()));
        let Ok(stream) = done else {
            assert!(!spoken, "{version:?}: {:?}", done.err());
            let Err(HandshakeError::Failure(error)) = done else {
                panic!("{version:?}: not even an alert");
            };
            assert!(
                error.error().to_string().contains("alert protocol version"),
                "{error:?}"
            );
            continue;
        };
        assert!(spoken, "{version:?}");
        let mut client = Client::over(stream);
        client.ask("EHLO x", "250");
        client.ask("QUIT", "221");
        client.expect_close();
        assert_eq!(tickets.load(Ordering::Relaxed), 0, "{version:?}");
    }
}

// IN-30: what stands behind STARTTLS could have been put there by anybody on the way.
#[test]
fn commands_in_the_clear_behind_starttls_are_never_run() {
    let (house, _files) = house(ListenTls::StartTls);
    let mut client = house.client();
    client.send("STARTTLS\r\nMAIL FROM:<evil@src.example>\r\nRCPT TO:<bob@dest.example>\r\n");
    client.expect("554 5.5.1");
    client.expect_close();
    // What comes after the reply is no ClientHello.
    let mut tcp = ready(house.tcp());
    tcp.write_all(b"EHLO x\r\nMAIL FROM:<evil@src.example>\r\n")
        .unwrap();
    let heard = rest(&mut tcp);
    assert!(!heard.windows(3).any(|w| w == b"250"), "{heard:?}");
    house.wait_for_sessions();
    assert!(house.ids().is_empty());
}

// IN-31
#[test]
fn an_end_of_tls_is_the_end_of_the_session_and_of_its_transaction() {
    let (house, files) = house(ListenTls::StartTls);
    const MORE: &[u8] =
        b".\r\nMAIL FROM:<evil@src.example>\r\nRCPT TO:<bob@dest.example>\r\nQUIT\r\n";
    for polite in [true, false] {
        for in_data in [true, false] {
            let mut tls = files.handshake(ready(house.tcp()));
            let mut raw = tls.get_ref().try_clone().unwrap();
            let commands =
                "EHLO x\r\nMAIL FROM:<joe@src.example>\r\nRCPT TO:<bob@dest.example>\r\n";
            tls.write_all(commands.as_bytes()).unwrap();
            let (data, last): (&[u8], &str) = match in_data {
                true => (b"DATA\r\n", "354"),
                false => (b"NOOP\r\n", "250 2.0.0"),
            };
            tls.write_all(data).unwrap();
            let mut heard = String::new();
            while !heard.lines().any(|line| line.starts_with(last)) {
                let mut buffer = [0; 1024];
                let n = tls.read(&mut buffer).unwrap();
                assert!(n > 0, "{heard}");
                heard += std::str::from_utf8(&buffer[..n]).unwrap();
            }
            if in_data {
                tls.write_all(b"Subject: half\r\n\r\nbody\r\n").unwrap();
            }
            if polite {
                tls.shutdown().unwrap();
                // In the clear, where TLS has ended.
                let _ = raw.write_all(MORE);
            } else {
                // In the clear, where TLS has not.
                raw.write_all(MORE).unwrap();
            }
            let clear = rest(&mut raw);
            assert!(
                !clear.windows(4).any(|w| w == b"250 " || w == b"221 "),
                "{clear:?}"
            );
            // And the bare end of the connection.
            let (mut client, raw) = inside(&house, &files);
            client.ask("EHLO x", "250");
            if in_data {
                client.open();
                client.send("Subject: half\r\n");
            }
            raw.shutdown(std::net::Shutdown::Both).unwrap();
            house.wait_for_sessions();
            assert!(house.ids().is_empty(), "polite {polite}, in data {in_data}");
        }
    }
}

// IN-10, IN-30, IN-31, PRC-7
#[test]
fn who_does_not_speak_tls_where_it_is_due_is_cut_off() {
    let (house, files) = house_with(ListenTls::Implicit, |config| {
        config.intake.idle_timeout = millis(400);
    });
    // A ClientHello that says it has 16 MiB to come.
    let mut giant = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff, 3, 3];
    giant.resize(5 + 0x4000, b'x');
    let more = giant[..5].iter().copied().chain([b'x'; 0x4000]);
    let giant: Vec<u8> = giant.iter().copied().chain(more).collect();
    for words in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".as_slice(),
        b"EHLO x\r\nMAIL FROM:<joe@src.example>\r\n",
        &giant,
        b"\x16\x03\x01",
        b"\x80\x2e\x01\x00\x02",
        b"",
    ] {
        let mut tcp = tcp(house.tcp());
        tcp.write_all(words).unwrap();
        let heard = rest(&mut tcp);
        // An alert at most.
        assert!(
            heard.len() <= 7 && heard.first().is_none_or(|b| *b == 0x15),
            "{heard:?}"
        );
    }
    // Byte by byte a handshake does not get more time either.
    let mut dripping = tcp(house.tcp());
    let hello = [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];
    let mut sent = hello.iter().copied().chain(std::iter::repeat(0));
    while dripping.write_all(&[sent.next().unwrap()]).is_ok() {
        std::thread::sleep(Duration::from_millis(1));
    }
    house.wait_for_sessions();
    // The others are served; the short time was for the silent ones.
    let mut config = (*house.live.get()).clone();
    config.intake.idle_timeout = millis(60_000);
    house.live.set(config);
    let mut client = Client::over(files.handshake(tcp(house.tcp())));
    client.expect("220 mail.here.example ");
    client.ask("EHLO x", "250");
    client.ask("STARTTLS", "503 5.5.1");
    client.ask("QUIT", "221");
    client.expect_close();
}

// IN-13, SEC-8
#[test]
fn a_client_too_many_hears_it_in_the_words_of_tls() {
    let (house, files) = house_with(ListenTls::Implicit, |config| {
        config.intake.sessions_per_client = 1;
    });
    let mut first = Client::over(files.handshake(tcp(house.tcp())));
    first.expect("220");
    let connector = files.connector().build();
    let error = connector.connect(NAME, tcp(house.tcp())).unwrap_err();
    assert!(
        error.to_string().contains("alert internal error"),
        "{error}"
    );
    // Who says nothing hears the same, and nothing in clear.
    let mut silent = tcp(house.tcp());
    assert_eq!(rest(&mut silent), [21, 3, 3, 0, 2, 2, 80]);
    first.ask("NOOP", "250");
}

// IN-27, PRC-2
#[test]
fn a_stop_does_not_wait_for_handshakes() {
    let (house, _files) = house(ListenTls::Implicit);
    let mut silent = tcp(house.tcp());
    while house.front.sessions() == 0 {
        std::thread::yield_now();
    }
    house.front.stop();
    assert!(rest(&mut silent).is_empty());
    house.wait_for_sessions();
}

// IN-29
#[test]
fn a_client_that_ends_its_side_of_tls_is_answered_first() {
    let (house, files) = house(ListenTls::Implicit);
    let mut tls = files.handshake(tcp(house.tcp()));
    let all = format!(
        "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<bob@dest.example>\r\nDATA\r\n{MESSAGE}.\r\nNOOP\r\n"
    );
    tls.write_all(all.as_bytes()).unwrap();
    tls.shutdown().unwrap();
    let mut heard = String::new();
    tls.read_to_string(&mut heard).unwrap();
    assert!(
        heard.contains("\r\n250 2.0.0 queued as ") && heard.ends_with("250 2.0.0 ok\r\n"),
        "{heard}"
    );
    assert_eq!(house.ids().len(), 1);
}

// CL-9, IN-5, Q-21
#[test]
fn large_content_inside_tls_arrives_as_it_was() {
    let (house, files) = house(ListenTls::StartTls);
    let (mut client, _) = inside(&house, &files);
    client.ask("EHLO x", "250");
    let body: String = (0..60_000)
        .map(|n| format!("line {n} of a long text\r\n"))
        .collect();
    let content = format!("Subject: long\r\n\r\n{body}");
    client.open();
    client.content(&content, "250");
    assert!(house.content(house.only().head.id) == content.as_bytes());
}

fn certificate(tls: &SslStream<TcpStream>) -> Vec<u8> {
    tls.ssl().peer_certificate().unwrap().to_der().unwrap()
}

// CFG-5, IN-30
#[test]
fn a_reload_shows_the_next_session_another_certificate_and_a_faulty_one_changes_nothing() {
    let files = Files::new();
    let daemon = TestDaemon::start(&files.listen("starttls"));
    let first = files.handshake(ready(daemon.smtp()));
    let before = certificate(&first);
    let mut first = Client::over(first);
    first.ask("EHLO x", "250");
    assert_eq!(daemon.control("reload"), ["OK reloaded"]);

    let good = files.renew();
    write(&files.cert(), b"rubbish\n", 0o644);
    let refused = daemon.control("reload");
    let reason = format!("listen tls: {}: no certificate", files.cert().display());
    assert!(refused.last().unwrap().contains(&reason), "{refused:?}");
    assert_eq!(certificate(&files.handshake(ready(daemon.smtp()))), before);
    files.write(&good);
    fs::set_permissions(files.key(), Permissions::from_mode(0o644)).unwrap();
    let refused = daemon.control("reload");
    assert!(
        refused.last().unwrap().contains("(mode 0644)"),
        "{refused:?}"
    );
    assert_eq!(certificate(&files.handshake(ready(daemon.smtp()))), before);

    fs::set_permissions(files.key(), Permissions::from_mode(0o600)).unwrap();
    assert_eq!(
        daemon.control("reload"),
        ["changed=listen.cert", "OK reloaded"]
    );
    assert_ne!(certificate(&files.handshake(ready(daemon.smtp()))), before);
    // The one that was there goes on.
    first.open();
    first.content(MESSAGE, "250");
}

// CFG-5, CFG-6
#[test]
fn tls_of_a_listener_comes_and_goes_with_a_reload() {
    let files = Files::new();
    let plain = "[[listen]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n";
    let daemon = TestDaemon::start(plain);
    let mut old = Client::tcp(daemon.smtp());
    old.expect("220");
    daemon.rewrite(&files.listen("starttls"));
    let answer = daemon.control("reload");
    assert_eq!(
        answer,
        ["changed=listen", "changed=listen.cert", "OK reloaded"]
    );
    old.ask("EHLO x", "250");
    old.ask("STARTTLS", "502 5.5.1");
    files.handshake(ready(daemon.smtp()));
    daemon.rewrite(&files.listen("implicit"));
    assert!(daemon.control("reload").last().unwrap().starts_with("OK "));
    files.handshake(tcp(daemon.smtp()));
    daemon.rewrite(plain);
    assert!(daemon.control("reload").last().unwrap().starts_with("OK "));
    Client::tcp(daemon.smtp()).expect("220");
}

// CFG-1, CFG-7, CFG-8
#[test]
fn a_listener_without_a_usable_pair_stops_the_start() {
    let files = Files::new();
    let (setup, mut faulty) = (Setup::new(), Vec::new());
    for (cert, key) in [(files.cert(), files.cert()), (files.key(), files.key())] {
        let mut listen = setup.config.listen.clone();
        listen[0].tls = ListenTls::StartTls;
        (listen[0].cert, listen[0].key) = (Some(cert), Some(key));
        faulty.push(bind(&listen, None).unwrap_err().to_string());
    }
    assert!(
        faulty[0].contains("cert.pem: group or others"),
        "{faulty:?}"
    );
    assert!(faulty[1].contains("key.pem: no certificate"), "{faulty:?}");

    let dir = TempDir::new();
    let more = format!("{}[log]\nto = \"stderr\"\n", files.listen("implicit"));
    let file = write_config(&dir, &more);
    let file = file.to_str().unwrap();
    let checked = run(&["-n", "-f", file]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    write(&files.key(), b"", 0o600);
    for arguments in [&["-n", "-f", file][..], &["-F", "-f", file], &["-f", file]] {
        let ended = run(arguments);
        let words = String::from_utf8(ended.stderr).unwrap();
        let wanted = format!("listen: tls: {}: no key in PEM form", files.key().display());
        assert_eq!(ended.status.code(), Some(78), "{words}");
        assert!(
            words.trim_end().ends_with(&format!("{wanted} is in it")),
            "{words}"
        );
        assert_eq!(words.lines().count(), 1, "{words}");
    }
}

// CFG-5, PRC-1
#[test]
fn what_only_root_may_read_is_read_at_the_start_and_a_reload_says_what_it_cannot_read() {
    if !geteuid().is_root() {
        return;
    }
    let files = Files::new();
    fs::set_permissions(files.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let process = Process::start(&files.listen("implicit"));
    assert_eq!(process.control("reload"), ["OK reloaded"]);
    files.renew();
    let refused = process.control("reload");
    let reason = format!("listen tls: {}: Permission denied", files.key().display());
    assert!(refused.last().unwrap().contains(&reason), "{refused:?}");
    fs::set_permissions(files.dir.path(), Permissions::from_mode(0o700)).unwrap();
    let kept = process.control("reload");
    assert_eq!(kept, ["needs-restart=listen.cert", "OK reloaded"]);
    process.wait_for(" certificate listen=tls result=kept ");
    process.signal(Signal::SIGTERM);
}
