//! A scripted MX: an SMTP server on loopback, in threads of its own, that does what its script says and remembers
//! what it saw. Dropping it closes every connection.

#![allow(clippy::unwrap_used)] // a test that cannot set up its server has failed

mod auth;
mod script;

pub use script::{At, Do, Gate, Rule, Script, on, reply};

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use openssl::ssl::{NameType, SslAcceptor, SslMethod, SslOptions, SslStream, SslVerifyMode};

use super::ca::{Issued, leaf};

/// How long a test waits for something that must come, before it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What was seen of one connection.
#[derive(Clone, Debug, Default)]
pub struct SeenSession {
    /// All command lines, without line ends.
    pub commands: Vec<String>,
    /// What each read returned outside the content, so that a test sees which commands came in one write.
    pub reads: Vec<String>,
    /// TLS was established.
    pub tls: bool,
    /// The mechanism by which the client came in.
    pub auth: Option<String>,
    /// The name that the client wanted in TLS.
    pub sni: Option<String>,
    /// The client is gone, or was sent away.
    pub closed: bool,
}

/// One transaction whose final dot was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenTransaction {
    /// The connection, from 1.
    pub connection: usize,
    /// The MAIL line.
    pub mail: String,
    /// The RCPT lines that were accepted.
    pub rcpt: Vec<String>,
    /// The content, without dot stuffing and terminator.
    pub content: Vec<u8>,
    /// Whether it came through TLS.
    pub tls: bool,
    /// Whether it was answered 2yz.
    pub accepted: bool,
}

impl SeenTransaction {
    /// The addresses of the recipients, without brackets.
    pub fn recipients(&self) -> Vec<&str> {
        self.rcpt.iter().map(|line| address(line)).collect()
    }

    /// The reverse-path, without brackets.
    pub fn reverse_path(&self) -> &str {
        address(&self.mail)
    }
}

fn address(line: &str) -> &str {
    line.split_once('<')
        .and_then(|(_, rest)| rest.rsplit_once('>'))
        .map_or("", |(address, _)| address)
}

#[derive(Default)]
struct Seen {
    sessions: Vec<SeenSession>,
    transactions: Vec<SeenTransaction>,
    sockets: Vec<Option<TcpStream>>,
}

/// The server.
pub struct Mx {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    changed: Arc<Condvar>,
    stop: Arc<AtomicBool>,
    finished: Receiver<SeenTransaction>,
    closed: Receiver<usize>,
    acceptor: Option<JoinHandle<()>>,
}

impl Mx {
    /// Starts on 127.0.0.1 and a free port.
    pub fn start(script: Script) -> Mx {
        Mx::start_at((Ipv4Addr::LOCALHOST, 0).into(), script)
    }

    /// Starts on this address. Several hosts that share a port take the port of the first on 127.0.0.2 and so on.
    pub fn start_at(address: SocketAddr, script: Script) -> Mx {
        let listener = TcpListener::bind(address).unwrap();
        if script.small_buffers {
            // What a listener has, its connections inherit.
            let socket = socket2::SockRef::from(&listener);
            socket.set_recv_buffer_size(4096).unwrap();
            socket.set_send_buffer_size(4096).unwrap();
        }
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let changed = Arc::new(Condvar::new());
        let stop = Arc::new(AtomicBool::new(false));
        let changed_in = changed.clone();
        let (finished_in, finished) = unbounded();
        let (closed_in, closed) = unbounded();
        let (seen_in, stop_in, script) = (seen.clone(), stop.clone(), Arc::new(script));
        let acceptor = thread::Builder::new()
            .name("mx-accept".to_string())
            .spawn(move || {
                let mut sessions = Vec::new();
                for tcp in listener.incoming() {
                    if stop_in.load(Ordering::SeqCst) {
                        break;
                    }
                    let Ok(tcp) = tcp else { continue };
                    let number = {
                        let mut seen = seen_in.lock().unwrap();
                        seen.sessions.push(SeenSession::default());
                        seen.sockets.push(tcp.try_clone().ok());
                        seen.sessions.len()
                    };
                    let session = Session {
                        script: script.clone(),
                        seen: seen_in.clone(),
                        changed: changed_in.clone(),
                        finished: finished_in.clone(),
                        number,
                        stream: Io::Plain(tcp),
                        buffer: Vec::new(),
                        transactions: 0,
                    };
                    let closed_in = closed_in.clone();
                    sessions.push(thread::spawn(move || {
                        let seen = session.seen.clone();
                        session.run();
                        seen.lock().unwrap().sessions[number - 1].closed = true;
                        let _ = closed_in.send(number);
                    }));
                }
                for session in sessions {
                    let _ = session.join();
                }
            })
            .unwrap();
        Mx {
            address,
            seen,
            changed,
            stop,
            finished,
            closed,
            acceptor: Some(acceptor),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits for the next transaction whose dot was answered.
    pub fn next_transaction(&self) -> SeenTransaction {
        self.finished
            .recv_timeout(PATIENCE)
            .expect("the MX sees no transaction")
    }

    /// Waits until the next connection ends, and says which.
    pub fn next_close(&self) -> usize {
        self.closed
            .recv_timeout(PATIENCE)
            .expect("no connection to the MX ends")
    }

    /// All transactions so far whose dot was seen.
    pub fn transactions(&self) -> Vec<SeenTransaction> {
        self.seen.lock().unwrap().transactions.clone()
    }

    /// All connections so far.
    pub fn sessions(&self) -> Vec<SeenSession> {
        self.seen.lock().unwrap().sessions.clone()
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.lock().unwrap().sessions.len()
    }

    /// Waits until this connection (from 1) has sent `count` command lines that begin with `verb`.
    pub fn wait_for_commands(&self, connection: usize, count: usize, verb: &str) {
        let seen = self.seen.lock().unwrap();
        let enough = |seen: &mut Seen| {
            let session = seen.sessions.get(connection - 1);
            let lines = session.map(|s| s.commands.iter().filter(|c| c.starts_with(verb)).count());
            lines.unwrap_or(0) < count
        };
        let (_seen, result) = self
            .changed
            .wait_timeout_while(seen, PATIENCE, enough)
            .unwrap();
        assert!(!result.timed_out(), "{verb} does not come");
    }

    /// Waits until so many dots were seen, answered or not.
    pub fn wait_for_transaction(&self, count: usize) {
        let seen = self.seen.lock().unwrap();
        let (_seen, result) = self
            .changed
            .wait_timeout_while(seen, PATIENCE, |seen| seen.transactions.len() < count)
            .unwrap();
        assert!(!result.timed_out(), "the dot does not come");
    }

    /// Sends octets on a plain connection (from 1) out of turn.
    pub fn push(&self, connection: usize, octets: &[u8]) {
        let seen = self.seen.lock().unwrap();
        let mut socket = seen.sockets[connection - 1].as_ref().unwrap();
        socket.write_all(octets).unwrap();
    }

    /// Closes a connection (from 1) out of turn.
    pub fn hang_up(&self, connection: usize) {
        let seen = self.seen.lock().unwrap();
        if let Some(socket) = &seen.sockets[connection - 1] {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Mx {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for socket in self.seen.lock().unwrap().sockets.iter().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

enum Io {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
    Gone,
}

impl Io {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Io::Plain(tcp) => tcp.read(buf),
            Io::Tls(tls) => tls.read(buf),
            Io::Gone => Ok(0),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Io::Plain(tcp) => tcp.write_all(bytes),
            Io::Tls(tls) => tls.write_all(bytes),
            Io::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Io::Plain(tcp) => Some(tcp),
            Io::Tls(tls) => Some(tls.get_ref()),
            Io::Gone => None,
        }
    }
}

/// Whether the session goes on, and whether the command was accepted.
enum Next {
    Accepted,
    Refused,
    Over,
}

struct Session {
    script: Arc<Script>,
    seen: Arc<Mutex<Seen>>,
    changed: Arc<Condvar>,
    finished: Sender<SeenTransaction>,
    number: usize,
    stream: Io,
    buffer: Vec<u8>,
    transactions: usize,
}

impl Session {
    fn run(mut self) {
        let _ = self.stream.tcp().map(|tcp| tcp.set_nodelay(true));
        let _ = self.talk();
        // A close with unread bytes becomes a reset and may eat the last reply; so the sending side goes first.
        if let Some(tcp) = self.stream.tcp() {
            let _ = tcp.shutdown(Shutdown::Write);
            let _ = tcp.set_read_timeout(Some(Duration::from_millis(200)));
            let mut rest = [0; 4096];
            while matches!(self.stream.read(&mut rest), Ok(n) if n > 0) {}
        }
        if let Some(tcp) = self.stream.tcp() {
            let _ = tcp.shutdown(Shutdown::Both);
        }
    }

    fn talk(&mut self) -> io::Result<()> {
        if self.script.implicit && !matches!(self.handshake()?, Next::Accepted) {
            return Ok(());
        }
        let greeting = format!("220 {} ready", self.script.name);
        if !matches!(self.obey(At::Greeting, "", 0, &greeting)?, Next::Accepted) {
            // A refused greeting still hears QUIT (RFC 5321 §3.1).
            return Ok(());
        }
        let mut transaction = SeenTransaction::default();
        let mut rcpt = 0;
        loop {
            let Some(line) = self.line()? else {
                return Ok(());
            };
            self.session(|seen| seen.commands.push(line.clone()));
            let verb = line
                .split([' ', ':'])
                .next()
                .unwrap_or("")
                .to_ascii_uppercase();
            let next = match verb.as_str() {
                "EHLO" => {
                    let tls = matches!(self.stream, Io::Tls(_));
                    let mut words = vec![self.script.name.clone()];
                    words.extend(self.script.keywords.clone());
                    if self.script.starttls && !tls {
                        words.push("STARTTLS".to_string());
                    }
                    if tls {
                        words.extend(self.script.inside.clone());
                    }
                    let offers = tls || !(self.script.starttls || self.script.implicit);
                    if let Some(auth) = self.script.auth.as_ref().filter(|_| offers) {
                        words.push(format!("AUTH {}", auth.mechanisms.join(" ")));
                    }
                    let last = words.pop().unwrap_or_default();
                    let mut text: String = words.iter().map(|w| format!("250-{w}\r\n")).collect();
                    text.push_str(&format!("250 {last}"));
                    self.obey(At::Ehlo, &line, 0, &text)?
                }
                "HELO" => self.obey(At::Helo, &line, 0, "250 mx.test")?,
                "STARTTLS" => match self.obey(At::StartTls, &line, 0, "220 2.0.0 go ahead")? {
                    Next::Accepted => self.handshake()?,
                    other => other,
                },
                "AUTH" => match self.obey_or(At::Auth, &line) {
                    Some(next) => next?,
                    None => self.auth(&line)?,
                },
                "NOOP" => self.obey(At::Noop, &line, 0, "250 2.0.0 ok")?,
                "MAIL" if self.script.auth.is_some() && !self.is_in() => {
                    self.say("530 5.7.0 who are you?")?
                }
                "MAIL" => {
                    self.transactions += 1;
                    rcpt = 0;
                    let next = self.obey(At::Mail, &line, 0, "250 2.1.0 ok")?;
                    transaction = SeenTransaction::default();
                    if matches!(next, Next::Accepted) {
                        transaction.mail = line;
                    }
                    next
                }
                "RCPT" => {
                    rcpt += 1;
                    if transaction.mail.is_empty() {
                        self.say("503 5.5.1 MAIL first")?;
                        continue;
                    }
                    let next = self.obey(At::Rcpt, &line, rcpt, "250 2.1.5 ok")?;
                    if matches!(next, Next::Accepted) {
                        transaction.rcpt.push(line);
                    }
                    next
                }
                "DATA" => {
                    let usual = if transaction.rcpt.is_empty() {
                        "554 5.5.1 no valid recipients"
                    } else {
                        "354 go ahead"
                    };
                    match self.obey(At::Data, &line, 0, usual)? {
                        Next::Accepted => self.content(std::mem::take(&mut transaction))?,
                        other => other,
                    }
                }
                "RSET" => {
                    transaction = SeenTransaction::default();
                    self.obey(At::Rset, &line, 0, "250 2.0.0 ok")?
                }
                "QUIT" => {
                    self.obey(At::Quit, &line, 0, "221 2.0.0 bye")?;
                    return Ok(());
                }
                _ => {
                    self.say("500 5.5.2 what?")?;
                    continue;
                }
            };
            if matches!(next, Next::Over) {
                return Ok(());
            }
        }
    }

    fn session(&self, change: impl FnOnce(&mut SeenSession)) {
        change(&mut self.seen.lock().unwrap().sessions[self.number - 1]);
        self.changed.notify_all();
    }

    fn is_in(&self) -> bool {
        self.seen.lock().unwrap().sessions[self.number - 1]
            .auth
            .is_some()
    }

    /// Does what the script says for this stage, if it says anything.
    fn obey_or(&mut self, at: At, line: &str) -> Option<io::Result<Next>> {
        let action = self.rule(at, line, 0)?;
        Some(self.act(action))
    }

    fn auth(&mut self, line: &str) -> io::Result<Next> {
        let script = Arc::clone(&self.script);
        let Some(auth) = &script.auth else {
            return self.say("503 5.5.1 no AUTH here");
        };
        let bindings = match &self.stream {
            Io::Tls(tls) => auth::bindings(tls.ssl()),
            _ => Vec::new(),
        };
        let mut words = line.split(' ').skip(1);
        let mechanism = words.next().unwrap_or_default().to_string();
        let mut exchange = auth::Exchange::new(auth, &mechanism, bindings);
        let mut heard = words.next().map(str::to_string);
        loop {
            match exchange.next(heard.as_deref()) {
                Err(end) => {
                    if end.starts_with('2') {
                        self.session(|seen| seen.auth = Some(mechanism.clone()));
                    }
                    return self.say(end);
                }
                Ok(challenge) => self.say(&format!("334 {challenge}"))?,
            };
            let Some(line) = self.line()? else {
                return Ok(Next::Over);
            };
            self.session(|seen| seen.commands.push(line.clone()));
            heard = Some(line);
        }
    }

    /// Does what the script says for this stage, or gives the usual answer.
    fn obey(&mut self, at: At, line: &str, nth: usize, usual: &str) -> io::Result<Next> {
        match self.rule(at, line, nth) {
            None => self.say(usual),
            Some(Do::Gate(gate)) => {
                gate.wait();
                self.say(usual)
            }
            Some(action) => self.act(action),
        }
    }

    fn rule(&self, at: At, line: &str, nth: usize) -> Option<Do> {
        let rule = self.script.rules.iter().find(|rule| {
            rule.at == at
                && rule.connection.is_none_or(|n| n == self.number)
                && rule.transaction.is_none_or(|n| n == self.transactions)
                && rule.nth.is_none_or(|n| n == nth)
                && rule
                    .line
                    .as_ref()
                    .is_none_or(|part| line.contains(part.as_str()))
        })?;
        Some(rule.action.clone())
    }

    fn say(&mut self, text: &str) -> io::Result<Next> {
        self.stream.write_all(format!("{text}\r\n").as_bytes())?;
        Ok(match text.as_bytes().first() {
            Some(b'2' | b'3') => Next::Accepted,
            _ => Next::Refused,
        })
    }

    fn act(&mut self, action: Do) -> io::Result<Next> {
        match action {
            Do::Reply(text) => self.say(&text),
            Do::ReplyAndClose(text) => {
                self.say(&text)?;
                Ok(Next::Over)
            }
            Do::Bytewise(text) => {
                for byte in format!("{text}\r\n").bytes() {
                    self.stream.write_all(&[byte])?;
                }
                Ok(match text.as_bytes().first() {
                    Some(b'2' | b'3') => Next::Accepted,
                    _ => Next::Refused,
                })
            }
            Do::Raw(octets) => {
                self.stream.write_all(&octets)?;
                Ok(Next::Accepted)
            }
            Do::RawAndClose(octets) => {
                self.stream.write_all(&octets)?;
                Ok(Next::Over)
            }
            Do::Drip(octet, pace) => loop {
                self.stream.write_all(&[octet])?;
                thread::sleep(pace);
            },
            Do::RawThenDrip(octets, octet, pace) => {
                self.stream.write_all(&octets)?;
                self.act(Do::Drip(octet, pace))
            }
            Do::Stall => {
                // Reading would let the client go on writing; so only its going away is waited for.
                let tcp = self.stream.tcp().and_then(|tcp| tcp.try_clone().ok());
                if let Some(tcp) = tcp {
                    wait_for_hangup(&tcp);
                }
                Ok(Next::Over)
            }
            Do::Close => Ok(Next::Over),
            Do::Reset => {
                if let Some(tcp) = self.stream.tcp() {
                    let socket = socket2::SockRef::from(tcp);
                    socket.set_linger(Some(Duration::ZERO))?;
                }
                // The reset is sent when the last copy of the socket closes.
                self.seen.lock().unwrap().sockets[self.number - 1] = None;
                self.stream = Io::Gone;
                Ok(Next::Over)
            }
            Do::Gate(gate) => {
                gate.wait();
                Ok(Next::Accepted)
            }
        }
    }

    fn handshake(&mut self) -> io::Result<Next> {
        if let Some(action) = self.rule(At::Handshake, "", 0) {
            // Not before the client's hello has come: what arrived together with the 220 would be an injection.
            if let Io::Plain(tcp) = &self.stream {
                tcp.peek(&mut [0])?;
            }
            return self.act(action);
        }
        let Io::Plain(tcp) = std::mem::replace(&mut self.stream, Io::Gone) else {
            return Ok(Next::Over);
        };
        let acceptor = match &self.script.identity {
            Some(identity) => acceptor(&self.script, identity),
            None => acceptor(&self.script, own_identity()),
        };
        match acceptor.accept(tcp) {
            Ok(tls) => {
                self.stream = Io::Tls(Box::new(tls));
                self.buffer.clear();
                let sni = match &self.stream {
                    Io::Tls(tls) => tls.ssl().servername(NameType::HOST_NAME),
                    _ => None,
                };
                let sni = sni.map(str::to_string);
                self.session(|seen| (seen.tls, seen.sni) = (true, sni));
                Ok(Next::Accepted)
            }
            Err(_) => Ok(Next::Over),
        }
    }

    fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                return Ok(Some(line.trim_end_matches(['\r', '\n']).to_string()));
            }
            let mut chunk = [0; 65536];
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(&chunk[..n]).into_owned();
            self.session(|seen| seen.reads.push(text));
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }

    fn content(&mut self, mut transaction: SeenTransaction) -> io::Result<Next> {
        let cut = self.script.rules.iter().find_map(|rule| match rule.at {
            At::Content(octets)
                if rule.connection.is_none_or(|n| n == self.number)
                    && rule.transaction.is_none_or(|n| n == self.transactions) =>
            {
                Some((octets, rule.action.clone()))
            }
            _ => None,
        });
        let mut data = std::mem::take(&mut self.buffer);
        let mut searched = 0;
        let end = loop {
            if data.starts_with(b".\r\n") {
                break 0;
            }
            let fresh = &data[searched..];
            if let Some(at) = fresh.windows(5).position(|w| w == b"\r\n.\r\n") {
                break searched + at + 2;
            }
            searched = data.len().saturating_sub(4);
            if let Some((octets, action)) = &cut
                && data.len() >= *octets
            {
                self.act(action.clone())?;
                return Ok(Next::Over);
            }
            let mut chunk = vec![0; 65536];
            let n = self.stream.read(&mut chunk)?;
            if n == 0 {
                return Ok(Next::Over);
            }
            data.extend_from_slice(&chunk[..n]);
        };
        self.buffer = data.split_off(end + 3);
        data.truncate(end);
        transaction.content = unstuff(&data);
        transaction.connection = self.number;
        transaction.tls = matches!(self.stream, Io::Tls(_));
        let index = {
            let mut seen = self.seen.lock().unwrap();
            seen.transactions.push(transaction.clone());
            seen.transactions.len() - 1
        };
        self.changed.notify_all();
        let next = self.obey(At::Dot, "", 0, "250 2.0.0 taken");
        transaction.accepted = matches!(next, Ok(Next::Accepted));
        self.seen.lock().unwrap().transactions[index].accepted = transaction.accepted;
        let _ = self.finished.send(transaction);
        next
    }
}

fn unstuff(data: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(data.len());
    for line in data.split_inclusive(|b| *b == b'\n') {
        content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    content
}

/// Waits until the peer closes or resets, without reading.
fn wait_for_hangup(tcp: &TcpStream) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    // Linux's POLLRDHUP, which nix does not name: without it a mere FIN goes unnoticed.
    const RDHUP: PollFlags = PollFlags::from_bits_retain(0x2000);
    let mut fds = [PollFd::new(tcp.as_fd(), RDHUP)];
    let _ = poll(&mut fds, PollTimeout::from(60_000_u16));
}

/// A self-signed certificate for `mx.test`, made once per run.
fn own_identity() -> &'static Issued {
    static IDENTITY: OnceLock<Issued> = OnceLock::new();
    IDENTITY.get_or_init(|| leaf(&[]).common_name("mx.test").self_signed())
}

fn acceptor(script: &Script, identity: &Issued) -> SslAcceptor {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_private_key(&identity.key).unwrap();
    acceptor.set_certificate(&identity.cert).unwrap();
    for cert in &identity.chain {
        acceptor.add_extra_chain_cert(cert.clone()).unwrap();
    }
    if let Some(highest) = script.highest {
        acceptor.set_security_level(0);
        acceptor.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        // Or it would refuse everybody before it has heard anything.
        acceptor.clear_options(SslOptions::NO_TLSV1 | SslOptions::NO_TLSV1_1);
        acceptor.set_min_proto_version(None).unwrap();
        acceptor.set_max_proto_version(Some(highest)).unwrap();
    }
    if script.client_certificate {
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    acceptor.build()
}
