//! A DNS server on loopback for tests and trials: answers from a table like a recursing resolver, and misbehaves where
//! it is told to.
//!
//! ```text
//! let dns = DnsServer::start()
//!     .mx("dest.example", 10, "mx1.dest.example")
//!     .a("mx1.dest.example", "127.0.0.1");
//! config.dns.servers = vec![dns.addr()];
//! ..
//! assert_eq!(dns.asked("dest.example", RecordType::MX), 1);
//! dns.fault("dest.example", RecordType::MX, Fault::Code(ResponseCode::ServFail));   // while it runs
//! ```
//!
//! A name without any record does not exist (NXDOMAIN), a name without the wanted ones is NODATA. It stops when the last
//! handle is dropped. Needs only `std` and `hickory-proto`, so that a tool can take this file in by `#[path]`.

#![allow(dead_code, reason = "each user needs a part of it")]

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA, TLSA, TXT};
use hickory_proto::rr::{Name, RData, Record};

pub use hickory_proto::op::ResponseCode;
pub use hickory_proto::rr::RecordType;

/// A handle on the server; clones are the same server.
#[derive(Clone)]
pub struct DnsServer {
    running: Arc<Running>,
}

/// What a server does instead of answering as it should, or before it.
#[derive(Clone)]
pub enum Fault {
    /// This response code and nothing else.
    Code(ResponseCode),
    /// A code without question and EDNS, as servers send that know nothing of EDNS; queries without EDNS are answered.
    NoEdns,
    /// No answer at all.
    Silent,
    /// No answer to the first so many queries.
    SilentFor(usize),
    /// By UDP nothing but the truncation bit.
    Truncate,
    /// These forgeries by UDP, then the true answer.
    Forge(Vec<Forgery>),
    /// The answer made by this function from the query; an empty one is not sent.
    Raw(Maker),
    /// The answer ends at a CNAME, whatever is known of its target.
    LazyCname,
    /// The answer waits until the [`Held`] lets it go.
    Hold(Arc<Mutex<HoldEnds>>),
}

/// Makes an answer from a query.
pub type Maker = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// What comes before the true answer.
#[derive(Clone, Copy, Debug)]
pub enum Forgery {
    /// Another id, with a false address.
    WrongId,
    /// Another question, with a false address.
    WrongQuestion,
    /// The right id and question, from another port.
    WrongPort,
    /// Bytes that are no message.
    Garbage,
    /// The right header, then a name that points at itself.
    CompressionLoop,
    /// The right header and question, then a record that says it is longer than the message.
    LyingLength,
}

/// The other end of [`Fault::Hold`].
pub struct Held {
    arrived: Receiver<()>,
    release: Sender<()>,
}

/// The server's ends.
pub struct HoldEnds {
    arrived: Sender<()>,
    release: Receiver<()>,
}

impl Held {
    /// Waits until the question has come.
    pub fn wait(&self) {
        self.arrived
            .recv_timeout(Duration::from_secs(20))
            .expect("the question did not come");
    }

    /// Lets one answer go.
    pub fn release(&self) {
        let _ = self.release.send(());
    }
}

/// A question as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Lower case, without trailing dot.
    pub name: String,
    pub kind: RecordType,
    pub tcp: bool,
    pub id: u16,
    pub from: SocketAddr,
    pub edns: bool,
}

struct Running {
    addr: SocketAddr,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    stop: AtomicBool,
    zone: Mutex<Zone>,
}

struct Zone {
    records: HashMap<String, Vec<RData>>,
    faults: HashMap<(String, RecordType), Fault>,
    fault_for_all: Option<Fault>,
    /// Records put into every answer to a question for this name, whoever they belong to.
    besides: HashMap<String, Vec<Record>>,
    asked: Vec<Asked>,
    ttl: u32,
    negative_ttl: u32,
    soa: bool,
    authentic: bool,
    /// Names whose answers never have the AD bit.
    insecure: HashSet<String>,
}

impl DnsServer {
    /// Starts on a free port of 127.0.0.1.
    pub fn start() -> DnsServer {
        // The same number must be free for both protocols.
        for _ in 0..100 {
            if let Ok(server) = DnsServer::start_on("127.0.0.1:0".parse().expect("an address")) {
                return server;
            }
        }
        panic!("no port that is free for UDP and TCP");
    }

    /// Starts on this address, UDP and TCP.
    pub fn start_on(addr: SocketAddr) -> io::Result<DnsServer> {
        let udp = UdpSocket::bind(addr)?;
        let addr = udp.local_addr()?;
        let tcp = TcpListener::bind(addr)?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            zone: Mutex::new(Zone {
                records: HashMap::new(),
                faults: HashMap::new(),
                fault_for_all: None,
                besides: HashMap::new(),
                asked: Vec::new(),
                ttl: 300,
                negative_ttl: 60,
                soa: true,
                authentic: false,
                insecure: HashSet::new(),
            }),
        });
        let (for_udp, for_tcp) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            spawn("test-dns-udp", move || serve_udp(&for_udp, udp)),
            spawn("test-dns-tcp", move || serve_tcp(&for_tcp, tcp)),
        ];
        Ok(DnsServer {
            running: Arc::new(Running {
                addr,
                shared,
                threads: Mutex::new(threads),
            }),
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.running.addr
    }

    /// Adds an A record.
    pub fn a(&self, name: &str, address: &str) -> DnsServer {
        self.record(name, RData::A(A(address.parse().expect("an IPv4 address"))))
    }

    /// Adds an AAAA record.
    pub fn aaaa(&self, name: &str, address: &str) -> DnsServer {
        let address = address.parse().expect("an IPv6 address");
        self.record(name, RData::AAAA(AAAA(address)))
    }

    /// Adds an MX record; `.` as the exchange is a null MX.
    pub fn mx(&self, name: &str, preference: u16, exchange: &str) -> DnsServer {
        self.record(name, RData::MX(MX::new(preference, to_name(exchange))))
    }

    /// Adds a CNAME.
    pub fn cname(&self, name: &str, target: &str) -> DnsServer {
        self.record(name, RData::CNAME(CNAME(to_name(target))))
    }

    /// Adds a TXT record of this text, in as many strings as it takes.
    pub fn txt(&self, name: &str, text: &str) -> DnsServer {
        // RFC 1035 §3.3: a string has 255 octets at most.
        let strings = text.as_bytes().chunks(255);
        let strings = strings.map(|s| String::from_utf8_lossy(s).into_owned());
        self.record(name, RData::TXT(TXT::new(strings.collect())))
    }

    /// Adds any record.
    pub fn record(&self, name: &str, data: RData) -> DnsServer {
        self.zone().records.entry(key(name)).or_default().push(data);
        self.clone()
    }

    /// Makes the name exist without a record of its own, so that it is NODATA.
    pub fn empty(&self, name: &str) -> DnsServer {
        self.zone().records.entry(key(name)).or_default();
        self.clone()
    }

    /// Forgets the records and faults of a name, which then does not exist.
    pub fn forget(&self, name: &str) -> DnsServer {
        let mut zone = self.zone();
        zone.records.remove(&key(name));
        zone.faults.retain(|(of, _), _| *of != key(name));
        drop(zone);
        self.clone()
    }

    /// Adds records of any table line: `name A 192.0.2.1`, `name MX 10 host`, `name CNAME host`, `name TXT words`.
    pub fn line(&self, line: &str) -> Result<DnsServer, String> {
        let wrong = || format!("not understood: {line}");
        let mut words = line.split_whitespace();
        let (name, kind) = (
            words.next().ok_or_else(wrong)?,
            words.next().ok_or_else(wrong)?,
        );
        let rest: Vec<&str> = words.collect();
        match (kind.to_ascii_uppercase().as_str(), rest.as_slice()) {
            ("A", [ip]) if ip.parse::<std::net::Ipv4Addr>().is_ok() => Ok(self.a(name, ip)),
            ("AAAA", [ip]) if ip.parse::<std::net::Ipv6Addr>().is_ok() => Ok(self.aaaa(name, ip)),
            ("MX", [preference, host]) => {
                Ok(self.mx(name, preference.parse().map_err(|_| wrong())?, host))
            }
            ("CNAME", [host]) => Ok(self.cname(name, host)),
            ("TXT", words) => Ok(self.txt(name, &words.join(" "))),
            _ => Err(wrong()),
        }
    }

    /// Misbehaves at this question.
    pub fn fault(&self, name: &str, kind: RecordType, fault: Fault) -> DnsServer {
        self.zone().faults.insert((key(name), kind), fault);
        self.clone()
    }

    /// Behaves again at this question.
    pub fn heal(&self, name: &str, kind: RecordType) -> DnsServer {
        self.zone().faults.remove(&(key(name), kind));
        self.clone()
    }

    /// Misbehaves at every question, or at none any more.
    pub fn fault_for_all(&self, fault: Option<Fault>) -> DnsServer {
        self.zone().fault_for_all = fault;
        self.clone()
    }

    /// Makes answers to this question wait.
    pub fn hold(&self, name: &str, kind: RecordType) -> Held {
        let (arrived, here) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let ends = HoldEnds {
            arrived,
            release: released,
        };
        self.fault(name, kind, Fault::Hold(Arc::new(Mutex::new(ends))));
        Held {
            arrived: here,
            release,
        }
    }

    /// Puts a record of another name into the answers to questions for `name`.
    pub fn besides(&self, name: &str, owner: &str, data: RData) -> DnsServer {
        let mut zone = self.zone();
        let record = Record::from_rdata(to_name(owner), zone.ttl, data);
        zone.besides.entry(key(name)).or_default().push(record);
        drop(zone);
        self.clone()
    }

    /// TTL of all records from now on; 300 at first.
    pub fn ttl(&self, seconds: u32) -> DnsServer {
        self.zone().ttl = seconds;
        self.clone()
    }

    /// TTL and MINIMUM of the SOA in negative answers; 60 at first. `None`: no SOA.
    pub fn negative_ttl(&self, seconds: Option<u32>) -> DnsServer {
        let mut zone = self.zone();
        zone.soa = seconds.is_some();
        zone.negative_ttl = seconds.unwrap_or(0);
        drop(zone);
        self.clone()
    }

    /// Sets the AD bit in answers.
    pub fn authentic(&self, authentic: bool) -> DnsServer {
        self.zone().authentic = authentic;
        self.clone()
    }

    /// Never sets the AD bit in answers to questions for this name.
    pub fn insecure(&self, name: &str) -> DnsServer {
        self.zone().insecure.insert(key(name));
        self.clone()
    }

    /// Adds a TLSA record for SMTP at this port.
    pub fn tlsa(&self, host: &str, port: u16, fields: [u8; 3], data: Vec<u8>) -> DnsServer {
        let [usage, selector, matching] = fields;
        let record = TLSA::new(usage.into(), selector.into(), matching.into(), data);
        self.record(&format!("_{port}._tcp.{host}"), RData::TLSA(record))
    }

    /// All questions so far.
    pub fn queries(&self) -> Vec<Asked> {
        self.zone().asked.clone()
    }

    /// How often this was asked.
    pub fn asked(&self, name: &str, kind: RecordType) -> usize {
        let name = key(name);
        self.zone()
            .asked
            .iter()
            .filter(|asked| asked.name == name && asked.kind == kind)
            .count()
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        lock(&self.running.shared.zone)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes both threads.
        if let Ok(socket) = UdpSocket::bind("127.0.0.1:0") {
            let _ = socket.send_to(&[], self.addr);
        }
        let _ = TcpStream::connect(self.addr);
        for thread in lock(&self.threads).drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    thread::Builder::new()
        .name(name.to_string())
        .spawn(work)
        .expect("a thread")
}

/// Any text as a name, label by label, so that odd names can be made too.
pub fn to_name(text: &str) -> Name {
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text
        .split('.')
        .filter(|label| !label.is_empty())
        .map(str::as_bytes);
    Name::from_labels(labels).expect("a name")
}

fn key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn serve_udp(shared: &Arc<Shared>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let mut buf = [0; 4096];
    while let Ok((n, from)) = socket.recv_from(&mut buf) {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let (shared, socket) = (Arc::clone(shared), Arc::clone(&socket));
        let query = buf[..n].to_vec();
        let Some(fault) = shared.note(&query, from, false) else {
            continue;
        };
        // Every answer gets its own thread: simple, and one that waits holds up no other.
        drop(spawn("test-dns-answer", move || {
            for datagram in shared.datagrams(&query, fault, from) {
                let _ = socket.send_to(&datagram, from);
            }
        }));
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: TcpListener) {
    while let Ok((stream, from)) = listener.accept() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let shared = Arc::clone(shared);
        drop(spawn("test-dns-answer", move || {
            let _ = serve_stream(&shared, stream, from);
        }));
    }
}

fn serve_stream(shared: &Arc<Shared>, mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        let Some(fault) = shared.note(&query, from, true) else {
            return Ok(());
        };
        let Some(answer) = shared.answer(&query, fault, true) else {
            return Ok(());
        };
        stream.write_all(&(answer.len() as u16).to_be_bytes())?;
        stream.write_all(&answer)?;
    }
}

impl Shared {
    /// Writes the question down; gives the fault that it meets, `None` for what is no question.
    fn note(&self, query: &[u8], from: SocketAddr, tcp: bool) -> Option<Option<Fault>> {
        let message = Message::from_vec(query).ok()?;
        let question = message.queries.first()?;
        let name = key(&question.name().to_ascii());
        let kind = question.query_type();
        let mut zone = lock(&self.zone);
        zone.asked.push(Asked {
            name: name.clone(),
            kind,
            tcp,
            id: message.metadata.id,
            from,
            edns: message.edns.is_some(),
        });
        let all = zone.fault_for_all.clone();
        let fault = zone.faults.get(&(name.clone(), kind)).cloned().or(all);
        if let Some(Fault::SilentFor(n)) = &fault {
            let next = match n {
                0 | 1 => None,
                n => Some(Fault::SilentFor(n - 1)),
            };
            match next {
                Some(next) => zone.faults.insert((name, kind), next),
                None => zone.faults.remove(&(name, kind)),
            };
            if *n == 0 {
                return Some(None);
            }
        }
        Some(fault)
    }

    fn datagrams(&self, query: &[u8], fault: Option<Fault>, to: SocketAddr) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        if let Some(Fault::Forge(forgeries)) = &fault {
            for forgery in forgeries {
                datagrams.extend(forge(*forgery, query, to));
            }
        }
        datagrams.extend(self.answer(query, fault, false));
        datagrams
    }

    fn answer(&self, query: &[u8], fault: Option<Fault>, tcp: bool) -> Option<Vec<u8>> {
        let query_message = Message::from_vec(query).ok()?;
        let mut answer = Message::response(query_message.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = query_message.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        let question = query_message.queries.first()?.clone();
        answer.add_query(question.clone());
        if query_message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            answer.set_edns(edns);
        }
        let mut lazy = false;
        match fault {
            Some(Fault::Silent | Fault::SilentFor(_)) => return None,
            Some(Fault::Code(code)) => {
                answer.metadata.response_code = code;
                return answer.to_vec().ok();
            }
            Some(Fault::NoEdns) if query_message.edns.is_some() => {
                let mut bare = Message::response(query_message.metadata.id, OpCode::Query);
                bare.metadata.response_code = ResponseCode::FormErr;
                return bare.to_vec().ok();
            }
            Some(Fault::Truncate) if !tcp => {
                answer.metadata.truncation = true;
                return answer.to_vec().ok();
            }
            Some(Fault::Raw(make)) => {
                let raw = make(query);
                return (!raw.is_empty()).then_some(raw);
            }
            Some(Fault::Hold(ends)) => {
                let ends = lock(&ends);
                let _ = ends.arrived.send(());
                let _ = ends.release.recv();
            }
            Some(Fault::LazyCname) => lazy = true,
            _ => {}
        }
        self.fill(&mut answer, question.name(), question.query_type(), lazy);
        let bytes = answer.to_vec().ok()?;
        if !tcp && bytes.len() > 1232 {
            let mut short = answer;
            short.answers.clear();
            short.authorities.clear();
            short.metadata.truncation = true;
            return short.to_vec().ok();
        }
        Some(bytes)
    }

    fn fill(&self, answer: &mut Message, name: &Name, kind: RecordType, lazy: bool) {
        let zone = lock(&self.zone);
        let insecure = zone.insecure.contains(&key(&name.to_ascii()));
        answer.metadata.authentic_data = zone.authentic && !insecure;
        if let Some(records) = zone.besides.get(&key(&name.to_ascii())) {
            answer.add_answers(records.iter().cloned());
        }
        let mut here = name.clone();
        // A loop of CNAMEs is answered as a loop, and once is enough.
        for _ in 0..40 {
            let Some(records) = zone.records.get(&key(&here.to_ascii())) else {
                if !(lazy && here != *name) {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                    zone.add_soa(answer);
                }
                return;
            };
            let of_kind = |wanted: RecordType| {
                records
                    .iter()
                    .filter(move |data| data.record_type() == wanted)
                    .cloned()
            };
            answer.add_answers(
                of_kind(kind).map(|data| Record::from_rdata(here.clone(), zone.ttl, data)),
            );
            let found = of_kind(kind).next().is_some();
            let cname = of_kind(RecordType::CNAME).next();
            let Some(RData::CNAME(target)) = cname else {
                if !found {
                    zone.add_soa(answer);
                }
                return;
            };
            answer.add_answers(
                of_kind(RecordType::CNAME)
                    .map(|data| Record::from_rdata(here.clone(), zone.ttl, data)),
            );
            if found || lazy {
                return;
            }
            here = target.0;
        }
    }
}

impl Zone {
    fn add_soa(&self, answer: &mut Message) {
        if !self.soa {
            return;
        }
        let soa = SOA::new(
            to_name("ns.example"),
            to_name("hostmaster.example"),
            1,
            3600,
            600,
            86_400,
            self.negative_ttl,
        );
        answer.add_authority(Record::from_rdata(
            Name::root(),
            self.negative_ttl,
            RData::SOA(soa),
        ));
    }
}

/// The forged datagram, or none when it has been sent already.
fn forge(forgery: Forgery, query: &[u8], to: SocketAddr) -> Option<Vec<u8>> {
    let asked = Message::from_vec(query).ok()?;
    let question = asked.queries.first()?.clone();
    let mut false_answer = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    let liar = |name: &Name| {
        let data = match question.query_type() {
            RecordType::MX => RData::MX(MX::new(0, to_name("forged.example"))),
            RecordType::AAAA => RData::AAAA(AAAA("2001:db8::bad".parse().expect("an address"))),
            _ => RData::A(A("192.0.2.66".parse().expect("an address"))),
        };
        Record::from_rdata(name.clone(), 300, data)
    };
    match forgery {
        Forgery::WrongId => {
            false_answer.metadata.id = asked.metadata.id.wrapping_add(1);
            false_answer.add_answer(liar(question.name()));
            false_answer.add_query(question);
        }
        Forgery::WrongQuestion => {
            let mut other = question.clone();
            other.set_name(to_name("other.example"));
            false_answer.add_answer(liar(question.name()));
            false_answer.add_query(other);
        }
        Forgery::WrongPort => {
            false_answer.add_answer(liar(question.name()));
            false_answer.add_query(question);
            let stranger = UdpSocket::bind((to.ip(), 0)).ok()?;
            let _ = stranger.send_to(&false_answer.to_vec().ok()?, to);
            return None;
        }
        Forgery::Garbage => return Some(vec![0xff; 40]),
        Forgery::CompressionLoop => return Some(compression_loop(query)),
        Forgery::LyingLength => {
            false_answer.add_answer(liar(question.name()));
            false_answer.add_query(question);
            let mut bytes = false_answer.to_vec().ok()?;
            // The length of the only record's data stands right before the data at the end.
            let data = match asked.queries[0].query_type() {
                RecordType::A => 4,
                RecordType::AAAA => 16,
                _ => 2 + "forged".len() + "example".len() + 3,
            };
            let at = bytes.len() - data - 2;
            bytes[at..at + 2].copy_from_slice(&[0xff, 0xff]);
            return Some(bytes);
        }
    }
    false_answer.to_vec().ok()
}

/// An answer with the query's header, whose one record's name is a pointer to itself.
pub fn compression_loop(query: &[u8]) -> Vec<u8> {
    let mut bytes = query.to_vec();
    bytes[2] |= 0x80;
    // One answer, nothing after it.
    bytes[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    // Behind header and question; whatever the query had after it is overwritten.
    let end = Message::from_vec(query)
        .ok()
        .and_then(|m| m.queries.first().map(|q| 12 + q.name().len() + 1 + 4))
        .unwrap_or(query.len());
    bytes.truncate(end.min(query.len()));
    let here = bytes.len() as u16;
    bytes.extend_from_slice(&(0xc000 | here).to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 66]);
    bytes
}
