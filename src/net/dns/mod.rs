//! A small blocking resolver: questions to the servers of `[dns]` or resolv.conf, answers as facts, a bounded cache.
//!
//! Answers are facts with a definite meaning; everything else is a [`DnsError`], which is always temporary (DNS-3). What
//! the facts mean for mail is decided in `policy::hosts`.

mod cache;
mod exchange;
mod message;
mod servers;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};

use super::deadline::Deadline;
use crate::clock::Clock;
use crate::config::{Dns, Live};
use crate::policy::hosts::{Found, MxRecord};
use crate::policy::tls::facts::Tlsa;
use crate::smtp::address::Domain;
use cache::{Cache, Cached, Flights, Key, Kind, Outcome, Part};
use exchange::{Trouble, exchange};
use message::{Chain, Data, Question, Reply};
use servers::ResolvConf;

/// How often a server that does not answer is asked in one lookup, if time permits.
const ROUNDS: usize = 3;

/// Address families to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpFamily {
    /// A records.
    V4,
    /// AAAA records.
    V6,
}

/// A definite answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The name at the end of the chain of CNAMEs, lower case, without trailing dot.
    pub expanded: String,
    /// The records, or which of the two ways in which there are none.
    pub found: Found<T>,
    /// How many CNAMEs led there.
    pub cnames: usize,
    /// Validated by a server whose word is trusted (DNS-8), the whole chain of CNAMEs included.
    pub authentic: bool,
}

/// Why a lookup has no definite answer. Always temporary (DNS-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsError {
    text: String,
    local: bool,
    cut_short: bool,
}

impl DnsError {
    fn new(text: String) -> DnsError {
        DnsError {
            text,
            local: false,
            cut_short: false,
        }
    }

    /// A cached answer of another kind than its key says: cannot happen, and is no reason to panic.
    fn mixed_up(kind: &str) -> DnsError {
        DnsError::new(format!("no records for a question of kind {kind}"))
    }

    /// Of a lookup that ended before its own time; another may try again.
    fn cut_short(text: &str) -> DnsError {
        DnsError {
            cut_short: true,
            ..DnsError::new(text.to_string())
        }
    }

    /// Whether no server could be asked at all, which says nothing about the name (DV-19).
    pub fn is_local(&self) -> bool {
        self.local
    }
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for DnsError {}

/// The resolver. Cheap to clone; all clones share one cache.
#[derive(Clone, Debug)]
pub struct Resolver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    live: Live,
    clock: Clock,
    resolv_conf: ResolvConf,
    cache: Cache,
    flights: Flights,
    /// The server that answered last; the next lookup begins with it, so that a dead one is not waited for each time.
    favourite: AtomicUsize,
}

impl Resolver {
    /// A resolver for the servers of the configuration in force, read anew for each lookup. `clock` ages the cache.
    pub fn new(live: Live, clock: Clock) -> Resolver {
        Resolver::with_resolv_conf(live, clock, Path::new("/etc/resolv.conf"))
    }

    /// As [`Resolver::new`], with another file in the place of `/etc/resolv.conf`.
    pub fn with_resolv_conf(live: Live, clock: Clock, path: &Path) -> Resolver {
        Resolver(Arc::new(Inner {
            live,
            clock,
            resolv_conf: ResolvConf::new(path),
            cache: Cache::default(),
            flights: Flights::default(),
            favourite: AtomicUsize::new(0),
        }))
    }

    /// Whether the word of any server in use is trusted; else no answer is ever authentic (DNS-8).
    pub fn is_trusted(&self) -> bool {
        let config = self.0.live.get();
        let servers = self.0.servers(&config.dns);
        servers.iter().any(|server| trusted(&config.dns, *server))
    }

    /// The MX records of `domain`, its CNAMEs followed (DV-1). Blocks until `deadline` or `dns.total_timeout`.
    ///
    /// # Errors
    /// [`DnsError`]: nothing definite is known.
    pub fn mx(&self, domain: &Domain, deadline: Deadline) -> Result<Answer<MxRecord>, DnsError> {
        let cached = self.0.look_up(domain.as_str(), Kind::Mx, deadline)?;
        match &cached.data {
            Data::Mx(found) => Ok(answer(&cached, found.clone())),
            _ => Err(DnsError::mixed_up("MX")),
        }
    }

    /// The addresses of one family of `host`, its CNAMEs followed. Blocks as [`Resolver::mx`].
    ///
    /// # Errors
    /// [`DnsError`]: nothing definite is known.
    pub fn addresses(
        &self,
        host: &Domain,
        family: IpFamily,
        deadline: Deadline,
    ) -> Result<Answer<IpAddr>, DnsError> {
        let cached = self
            .0
            .look_up(host.as_str(), Kind::Addresses(family), deadline)?;
        match &cached.data {
            Data::Addresses(found) => Ok(answer(&cached, found.clone())),
            _ => Err(DnsError::mixed_up("address")),
        }
    }

    /// The TLSA records for SMTP at `port` of `host` (RFC 6698 §3, RFC 7672 §2.2), CNAMEs followed. They are worth nothing
    /// unless [`Answer::authentic`]. Blocks as [`Resolver::mx`].
    ///
    /// # Errors
    /// [`DnsError`]: nothing definite is known, or the answer is bogus: no way to go on without TLS (DANE-3).
    pub fn tlsa(
        &self,
        host: &Domain,
        port: u16,
        deadline: Deadline,
    ) -> Result<Answer<Tlsa>, DnsError> {
        let cached = self
            .0
            .look_up(&format!("_{port}._tcp.{host}"), Kind::Tlsa, deadline)?;
        match &cached.data {
            Data::Tlsa(found) => Ok(answer(&cached, found.clone())),
            _ => Err(DnsError::mixed_up("TLSA")),
        }
    }

    /// The TXT records of a name such as `_mta-sts.example.org`, the strings of each joined, CNAMEs followed. Blocks as
    /// [`Resolver::mx`].
    ///
    /// # Errors
    /// [`DnsError`]: nothing definite is known.
    pub fn txt(&self, name: &str, deadline: Deadline) -> Result<Answer<Vec<u8>>, DnsError> {
        let cached = self.0.look_up(name, Kind::Txt, deadline)?;
        match &cached.data {
            Data::Txt(found) => Ok(answer(&cached, found.clone())),
            _ => Err(DnsError::mixed_up("TXT")),
        }
    }
}

fn answer<T>(cached: &Cached, found: Found<T>) -> Answer<T> {
    Answer {
        expanded: cached.expanded.clone(),
        cnames: cached.cnames,
        found,
        authentic: cached.authentic,
    }
}

fn trusted(dns: &Dns, server: SocketAddr) -> bool {
    let ip = Some(server.ip());
    dns.trusted.iter().any(|pattern| pattern.matches(ip))
}

impl Inner {
    /// The servers in use.
    fn servers(&self, dns: &Dns) -> Arc<[SocketAddr]> {
        if dns.servers.is_empty() {
            self.resolv_conf.servers()
        } else {
            dns.servers.as_slice().into()
        }
    }

    /// From the cache, from a lookup that is under way, or from the servers.
    fn look_up(&self, name: &str, kind: Kind, deadline: Deadline) -> Outcome {
        let key = Key {
            name: name.into(),
            kind,
        };
        loop {
            if let Some(cached) = self.cache.get(&key, self.clock.now()) {
                return Ok(cached);
            }
            match self.flights.join(&key, deadline) {
                Part::Leader(leader) => {
                    // Who led before may have finished between our look into the cache and our joining.
                    let cached = self.cache.get(&key, self.clock.now());
                    let outcome = cached.map_or_else(|| self.ask(&key, deadline), Ok);
                    leader.finish(&outcome);
                    return outcome;
                }
                // The leader's caller had less time than we have.
                Part::Follower(Err(e)) if e.cut_short && !deadline.is_over() => {}
                Part::Follower(outcome) => return outcome,
                Part::OutOfTime => {
                    return Err(DnsError::cut_short("no time was left for the lookup"));
                }
            }
        }
    }

    /// Asks the servers, following CNAMEs across answers, and keeps what is found.
    fn ask(&self, key: &Key, deadline: Deadline) -> Outcome {
        let config = self.live.get();
        let dns = &config.dns;
        let servers = self.servers(dns);
        let own = Deadline::after(dns.total_timeout.get());
        let until = own.min(deadline);
        let kind = match key.kind {
            Kind::Mx => RecordType::MX,
            Kind::Addresses(IpFamily::V4) => RecordType::A,
            Kind::Addresses(IpFamily::V6) => RecordType::AAAA,
            Kind::Tlsa => RecordType::TLSA,
            Kind::Txt => RecordType::TXT,
        };
        let name = Name::from_labels(key.name.split('.').map(str::as_bytes))
            .map_err(|_| DnsError::new(format!("{} cannot be asked for", key.name)))?;
        let mut chain = Chain::new(name);
        let mut ttl = u32::MAX;
        let mut authentic = true;
        loop {
            let (reply, server) = self
                .ask_in_turn(&servers, kind, &mut chain, dns, until)
                .map_err(|mut e| {
                    e.cut_short = deadline < own && deadline.is_over();
                    e
                })?;
            let (data, facts) = match reply {
                Reply::Definite { data, facts } => (Some(data), facts),
                Reply::GoOn { facts, .. } => (None, facts),
                _ => return Err(DnsError::new(format!("no answer for {}", key.name))),
            };
            ttl = ttl.min(facts.ttl);
            // DNS-8: the bit is the word of the server, and of the path to it.
            authentic &= facts.authentic && trusted(dns, server);
            let Some(data) = data else {
                continue;
            };
            let longest = if data.is_missing() {
                dns.negative_ttl.min(dns.cache_ttl)
            } else {
                dns.cache_ttl
            };
            let cached = Arc::new(Cached {
                expanded: message::text(chain.end()),
                cnames: chain.steps(),
                authentic,
                data,
            });
            let life = Duration::from_secs(ttl.into()).min(longest.get());
            self.cache
                .put(key, &cached, self.clock.now(), life, dns.cache_entries);
            return Ok(cached);
        }
    }

    /// Asks for the end of the chain, one server after the other; who stays silent is asked again, who refuses is not.
    fn ask_in_turn(
        &self,
        servers: &[SocketAddr],
        kind: RecordType,
        chain: &mut Chain,
        dns: &Dns,
        until: Deadline,
    ) -> Result<(Reply, SocketAddr), DnsError> {
        let first = self.favourite.load(Ordering::Relaxed);
        let mut order: Vec<usize> = (0..servers.len())
            .map(|n| (n + first) % servers.len())
            .collect();
        let mut last: Option<(SocketAddr, Trouble)> = None;
        let mut local = true;
        for _ in 0..ROUNDS {
            let mut silent = Vec::new();
            for n in order {
                if until.is_over() {
                    break;
                }
                let question = Question {
                    id: rand::random(),
                    name: chain.end().clone(),
                    kind,
                };
                let deadline = Deadline::after(dns.query_timeout.get()).min(until);
                // Only an answer that counts makes the chain longer.
                let mut tried = chain.clone();
                match exchange(servers[n], &question, &mut tried, deadline) {
                    Ok(reply) => {
                        self.favourite.store(n, Ordering::Relaxed);
                        *chain = tried;
                        return Ok((reply, servers[n]));
                    }
                    Err(trouble) => {
                        local &= matches!(trouble, Trouble::Unreachable(_));
                        if matches!(trouble, Trouble::Timeout) {
                            silent.push(n);
                        }
                        last = Some((servers[n], trouble));
                    }
                }
            }
            order = silent;
        }
        let name = message::text(chain.end());
        Err(match last {
            Some((server, trouble)) => DnsError {
                local,
                ..DnsError::new(format!("{kind} of {name}: {trouble} (server {server})"))
            },
            None => DnsError::new(format!("{kind} of {name}: no time was left for the lookup")),
        })
    }
}
