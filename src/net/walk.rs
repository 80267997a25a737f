//! The walk of one attempt over its hosts: lookups and dials in the order that policy decides.
//!
//! ```text
//! let mut walk = network.walk(transport, &target, &dialled_before, attempt_deadline)?;   // Err: the whole attempt
//! while let Some(host) = walk.next_host() {
//!     // walk.tlsa(&host) says what its TLSA records are, for policy::tls.
//!     // An idle session to (host.name, host.port) may be taken here instead of dialling.
//!     match walk.dial(&host, total_deadline) {
//!         Ok(connection) => ..,             // SMTP; done, or remember the failure and go on
//!         Err(failure) => last = Some(failure),
//!     }
//! }
//! // No host left: the last failure of a host that was tried counts; without any, what the skips say.
//! let failure = last.unwrap_or_else(|| walk.conclusion());
//! ```

mod lookup;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::lookup::{Addresses, LookedUp, tlsa_at};
use super::Network;
use super::deadline::Deadline;
use super::dial::{self, Connection};
use super::dns::DnsError;
use super::socks::Via;
use crate::config::{Config, Deliver, HostOrder, Line, Relay, RelayHost};
use crate::policy::addresses::{self, Rules};
use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use crate::policy::hosts::{self, MxFacts, Own};
use crate::policy::plan::{Host, HostName, Missing, Plan, Reason, Skip, Target};
use crate::policy::tls::HostNames;
use crate::policy::tls::facts::DaneFacts;
use crate::smtp::address::Domain;
use crate::smtp::reply::EnhancedCode;

/// The walk. Blocks in [`Walk::next_host`] (DNS) and [`Walk::dial`], never past the attempt's deadline.
#[derive(Debug)]
pub struct Walk {
    network: Network,
    config: Arc<Config>,
    line: Option<Arc<Line>>,
    own: Arc<Own>,
    plan: Plan,
    /// Addresses already looked up of hosts at the head of `plan.hosts`, to find ourselves among their equals.
    looked_up: Vec<LookedUp>,
    dialled_before: Vec<IpAddr>,
    dialled: Vec<IpAddr>,
    hosts_given: usize,
    /// The MX answer was authentic (DANE-1).
    mx_authentic: bool,
    /// The recipients' domain and the end of its chain of CNAMEs.
    next_hop: Vec<Domain>,
    /// What is left of `host_timeout` for the host given last.
    host_time: Duration,
    deadline: Deadline,
    seed: u64,
}

/// A host whose addresses are known, in the order of dialling. Never empty.
#[derive(Clone, Debug)]
pub struct ReadyHost {
    /// Its name or address: for the log, SNI, and the pool.
    pub name: HostName,
    /// The port.
    pub port: u16,
    /// Its addresses, filtered and ordered: exactly these are dialled (DV-7).
    pub addresses: Vec<IpAddr>,
    /// It has addresses of both families (DV-17).
    pub both_families: bool,
    /// The end of its chain of CNAMEs; `None` for addresses.
    pub expanded: Option<Domain>,
    /// MX and addresses are authentic (DNS-8): its TLSA records count (DANE-1).
    pub authentic: bool,
}

impl Network {
    /// Begins the walk for one attempt. Asks for the MX records of a direct target; blocks until `deadline`, the end of
    /// `attempt_timeout`, at the latest. `dialled_before` is what the recipients' rows remember, latest last (DV-12).
    ///
    /// # Errors
    /// The failure of the whole attempt: DNS (4.4.3), null MX (5.1.10), loop (5.4.6), no usable host (4.4.4).
    pub fn walk(
        &self,
        transport: &str,
        target: &Target,
        dialled_before: &[IpAddr],
        deadline: Deadline,
    ) -> Result<Walk, Failure> {
        let config = self.live().get();
        let own = self.own(&config);
        let seed = rand::random();
        let port = config.deliver.smtp_port;
        let mut mx_authentic = false;
        let mut next_hop = Vec::new();
        let plan = match target {
            Target::Domain(domain) => {
                let mx = self
                    .resolver()
                    .mx(domain, deadline)
                    .map_err(|error| dns_failure(domain, &error))?;
                let facts = MxFacts {
                    expanded: &mx.expanded,
                    found: &mx.found,
                };
                mx_authentic = mx.authentic;
                next_hop.push(domain.clone());
                next_hop.extend(Domain::parse(&mx.expanded).ok().filter(|to| to != domain));
                hosts::direct(transport, domain, &facts, &own, port, seed)?
            }
            Target::Literal(ip) => literal(transport, *ip, port, &config)?,
            Target::Relay(relay) => of_relay(transport, relay, &own, seed),
        };
        Ok(Walk {
            network: self.clone(),
            config,
            line: None,
            own,
            plan,
            looked_up: Vec::new(),
            dialled_before: dialled_before.to_vec(),
            dialled: Vec::new(),
            hosts_given: 0,
            mx_authentic,
            next_hop,
            host_time: Duration::ZERO,
            deadline,
            seed,
        })
    }
}

impl Walk {
    /// From where its connections set out, where that is not what `[deliver]` says (RO-17).
    pub fn set_out_by(&mut self, line: Option<Arc<Line>>) {
        self.line = line;
    }

    /// The end of the attempt is put off: what it waited for a final dot's reply does not count (DV-6).
    pub fn ends_at(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// The names of the hosts that are still to be tried.
    pub fn host_names(&self) -> Vec<String> {
        let hosts = self.plan.hosts.iter();
        hosts.map(|host| host.name.to_string()).collect()
    }

    /// The best of them: with the lowest preference, the first by name of equals, whatever the order in which they are dialled.
    pub fn best_host(&self) -> Option<String> {
        let hosts = self.plan.hosts.iter();
        let best = hosts.map(|host| (host.preference, host.name.to_string()));
        best.min().map(|(_, name)| name)
    }

    /// The next host that has an address to dial; hosts without one become skips. `None` when there is no further
    /// host, or the attempt's hosts, addresses or time are used up (DV-6).
    pub fn next_host(&mut self) -> Option<ReadyHost> {
        loop {
            let limit = self.limit_reached();
            if let Some(reason) = limit {
                self.skip_all(reason);
            }
            if self.plan.hosts.is_empty() {
                return None;
            }
            self.look_up_equals();
            if self.discard_ourselves() {
                continue;
            }
            let host = self.plan.hosts.remove(0);
            let looked_up = if self.looked_up.is_empty() {
                self.look_up(&host)
            } else {
                self.looked_up.remove(0)
            };
            self.hosts_given += 1;
            if let Some(ready) = self.ready(&host, looked_up) {
                return Some(ready);
            }
        }
    }

    /// Dials the addresses of the host given last in their order: `dial_timeout` for each, `host_timeout` for lookup and
    /// dials together, and no longer than `until` (CL-9). May be called again with the addresses that are left, when a
    /// session came to nothing at once (DV-15); the time between the calls does not count.
    ///
    /// # Errors
    /// A temporary failure of this host, or `Scope::Local` when only we are to blame (DV-14).
    pub fn dial(&mut self, host: &ReadyHost, until: Deadline) -> Result<Connection, Failure> {
        let began = Instant::now();
        if let HostName::Unix(path) = &host.name {
            let deadline = Deadline::after(self.config.deliver_of(&self.line).dial_timeout.get());
            return dial::dial_unix(path, deadline.min(self.deadline).min(until));
        }
        let via = self.via(until)?;
        let deliver = self.config.deliver_of(&self.line);
        let room = deliver.max_addresses.saturating_sub(self.dialled.len());
        let addresses = &host.addresses[..host.addresses.len().min(room)];
        let dialled = &mut self.dialled;
        let result = dial::dial(
            addresses,
            host.port,
            sources(&self.line, deliver),
            via.as_ref(),
            deliver.dial_timeout.get(),
            Deadline::after(self.host_time)
                .min(self.deadline)
                .min(until),
            |ip| dialled.push(ip),
        );
        self.host_time = self.host_time.saturating_sub(began.elapsed());
        result.map_err(Failure::from)
    }

    /// The proxy of the transport with its addresses, if it has one (RO-11).
    fn via(&self, until: Deadline) -> Result<Option<Via>, Failure> {
        let Some(proxy) = self.line.as_ref().and_then(|line| line.proxy.as_ref()) else {
            return Ok(None);
        };
        let addresses = match &proxy.host {
            RelayHost::Ip(ip) => vec![*ip],
            // No proxy is written so.
            RelayHost::Unix(_) => Vec::new(),
            RelayHost::Name(name) => {
                let deadline = Deadline::after(self.host_time)
                    .min(self.deadline)
                    .min(until);
                let why = match self.ask(name, usize::MAX, deadline, &mut LookedUp::nothing()) {
                    Addresses::Some(found) => Ok(found),
                    Addresses::None(Missing::NxDomain) => Err(Reason::NxDomain),
                    Addresses::None(Missing::NoData) => Err(Reason::NoAddress),
                    Addresses::NoneOfFamily => Err(Reason::Family),
                    Addresses::Unknown(reason) => Err(reason),
                };
                why.map_err(|reason| Failure {
                    retry: Retry::Later,
                    scope: Scope::Local,
                    stage: Stage::Dns,
                    cause: Cause::Local,
                    code: None,
                    status: EnhancedCode::new(4, 3, 5),
                    text: format!("proxy {name}: {reason}"),
                    may_be_sent_twice: false,
                })?
            }
        };
        let login = proxy.login.as_ref();
        Ok(Some(Via {
            addresses: addresses
                .into_iter()
                .map(|ip| SocketAddr::new(ip, proxy.port))
                .collect(),
            login: login.map(|(user, password)| (user.clone(), password.reveal().to_owned())),
        }))
    }

    /// Asks the hosts last that `ailing` names, each of them in its order; before the first is given out.
    pub fn put_last(&mut self, ailing: impl Fn(&HostName, u16) -> bool) {
        if self.plan.hosts.len() < 2 {
            return;
        }
        let hosts = std::mem::take(&mut self.plan.hosts);
        let (last, first): (Vec<Host>, Vec<Host>) = hosts
            .into_iter()
            .partition(|host| ailing(&host.name, host.port));
        self.plan.hosts = [first, last].concat();
    }

    /// The names of a host that its certificate may have, for `policy::tls`.
    pub fn names(&self, host: &ReadyHost) -> HostNames {
        HostNames {
            host: host.name.clone(),
            expanded: host.expanded.clone(),
            next_hop: self.next_hop.clone(),
        }
    }

    /// The TLSA records of the host given last (DANE-1 to DANE-3); asks nobody unless its addresses are authentic. Blocks
    /// within `host_timeout` and the attempt's deadline.
    pub fn tlsa(&mut self, host: &ReadyHost) -> DaneFacts {
        let HostName::Name(name) = &host.name else {
            return DaneFacts::Insecure;
        };
        if !host.authentic {
            return DaneFacts::Insecure;
        }
        let began = Instant::now();
        let deadline = Deadline::after(self.host_time).min(self.deadline);
        // RFC 7672 §2.2.3: the name at the end of the chain first, then the one that the chain begins with.
        let expanded = host.expanded.as_ref().filter(|expanded| *expanded != name);
        let mut facts = DaneFacts::Nothing;
        for base in expanded.into_iter().chain([name]) {
            facts = tlsa_at(self.network.resolver(), base, host.port, deadline);
            if facts != DaneFacts::Nothing {
                break;
            }
        }
        self.host_time = self.host_time.saturating_sub(began.elapsed());
        facts
    }

    /// What the skips say when no host was tried at all (DV-4, DV-8).
    pub fn conclusion(&self) -> Failure {
        hosts::conclusion(&self.plan)
    }

    /// The plan as far as it has been walked: hosts not yet tried, and skips.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// All addresses dialled so far, for the record of the attempt (DV-12).
    pub fn dialled(&self) -> &[IpAddr] {
        &self.dialled
    }

    /// Whether a host's own name in its greeting is ours: then this is a loop (DV-10).
    ///
    /// # Errors
    /// The permanent failure 5.4.6, for direct targets; a broken transport, temporary 4.3.5, for relays.
    pub fn check_greeting(&self, host: &ReadyHost, greeted_as: &str) -> Result<(), Failure> {
        // The mail store on this host has its name.
        let lmtp = matches!(&self.plan.target, Target::Relay(relay) if relay.lmtp);
        if lmtp
            || !greeted_as
                .trim_end_matches('.')
                .eq_ignore_ascii_case(self.own.hostname.as_str())
        {
            return Ok(());
        }
        Err(hosts::greeting_loop(&self.plan, &host.name))
    }

    fn limit_reached(&self) -> Option<Reason> {
        let deliver = self.config.deliver_of(&self.line);
        if self.deadline.is_over() {
            Some(Reason::OutOfTime)
        } else if self.hosts_given >= deliver.max_mx {
            Some(Reason::MaxMx)
        } else if self.dialled.len() >= deliver.max_addresses {
            Some(Reason::MaxAddresses)
        } else {
            None
        }
    }

    fn skip_all(&mut self, reason: Reason) {
        self.looked_up.clear();
        for host in std::mem::take(&mut self.plan.hosts) {
            self.skip(host.name.to_string(), reason.clone());
        }
    }

    fn skip(&mut self, host: String, reason: Reason) {
        self.plan.skips.push(Skip {
            host,
            address: None,
            reason,
        });
    }

    /// DV-10: whoever is as good as ourselves is discarded with us, so all hosts of one preference are looked up before
    /// the first of them is dialled; but only where a connection could lead back to us at all.
    fn look_up_equals(&mut self) {
        if !self.looked_up.is_empty() || !self.may_meet_ourselves() {
            return;
        }
        let best = self.plan.hosts[0].preference;
        let room = self.config.deliver_of(&self.line).max_mx - self.hosts_given;
        let equals: Vec<Host> = self
            .plan
            .hosts
            .iter()
            .take_while(|host| host.preference == best)
            .take(room)
            .cloned()
            .collect();
        self.looked_up = equals.iter().map(|host| self.look_up(host)).collect();
    }

    fn may_meet_ourselves(&self) -> bool {
        let port = self.plan.hosts[0].port;
        self.own.endpoints.iter().any(|own| {
            own.port() == port && (self.unchecked() || !own.ip().to_canonical().is_loopback())
        })
    }

    /// Whether a looked up host leads back to us; then it and what is not better is discarded.
    fn discard_ourselves(&mut self) -> bool {
        let ours = self
            .looked_up
            .iter()
            .zip(&self.plan.hosts)
            .find(|(looked_up, host)| match &looked_up.addresses {
                Addresses::Some(found) => {
                    let checked = host.checked && !self.config.deliver.allow_private;
                    addresses::is_ourselves(found, host.port, checked, &self.own)
                }
                _ => false,
            })
            .map(|(_, host)| host.clone());
        let Some(host) = ours else {
            return false;
        };
        self.looked_up.clear();
        if matches!(self.plan.target, Target::Relay(_)) {
            // A relay's order is the operator's and no preference: only this one is broken.
            self.plan.hosts.remove(0);
            self.skip(host.name.to_string(), Reason::Ourselves);
        } else {
            hosts::discard_from(&mut self.plan, &host);
        }
        true
    }

    /// Judges what was found; `None` after noting a skip.
    fn ready(&mut self, host: &Host, looked_up: LookedUp) -> Option<ReadyHost> {
        let name = host.name.to_string();
        let found = match looked_up.addresses {
            Addresses::Some(found) => found,
            Addresses::None(Missing::NxDomain) => {
                self.skip(name, Reason::NxDomain);
                return None;
            }
            Addresses::None(Missing::NoData) => {
                self.skip(name, Reason::NoAddress);
                return None;
            }
            Addresses::NoneOfFamily => {
                self.skip(name, Reason::Family);
                return None;
            }
            Addresses::Unknown(reason) => {
                self.skip(name, reason);
                return None;
            }
        };
        if matches!(host.name, HostName::Unix(_)) {
            return Some(ReadyHost {
                name: host.name.clone(),
                port: host.port,
                addresses: found,
                both_families: false,
                expanded: None,
                authentic: false,
            });
        }
        let list = addresses::dial_list(
            &name,
            &found,
            &Rules {
                family: self.config.deliver_of(&self.line).family,
                checked: host.checked && !self.config.deliver.allow_private,
                dialled: &self.dialled_before,
                seed: self.seed,
            },
        );
        let first_reason = list.skips.first().map(|skip| skip.reason.clone());
        self.plan.skips.extend(list.skips);
        if list.addresses.is_empty() {
            self.skip(name, first_reason.unwrap_or(Reason::NoAddress));
            return None;
        }
        self.host_time = self
            .config
            .deliver_of(&self.line)
            .host_timeout
            .get()
            .saturating_sub(looked_up.took);
        Some(ReadyHost {
            name: host.name.clone(),
            port: host.port,
            addresses: list.addresses,
            both_families: list.both_families,
            expanded: looked_up.expanded,
            authentic: looked_up.authentic && self.mx_authentic,
        })
    }

    fn unchecked(&self) -> bool {
        self.config.deliver.allow_private || self.plan.hosts.iter().any(|host| !host.checked)
    }
}

/// DV-11: an address literal is its own host, if the setting still permits it.
fn literal(transport: &str, ip: IpAddr, port: u16, config: &Config) -> Result<Plan, Failure> {
    if !config.deliver.address_literals {
        return Err(Failure {
            retry: Retry::Later,
            scope: Scope::Destination,
            stage: Stage::Route,
            cause: Cause::Local,
            code: None,
            status: EnhancedCode::new(4, 4, 4),
            text: format!("[{ip}] is not tried unless deliver.address_literals is set"),
            may_be_sent_twice: false,
        });
    }
    Ok(Plan {
        transport: transport.to_string(),
        target: Target::Literal(ip),
        implicit: None,
        hosts: vec![Host {
            name: HostName::Ip(ip),
            port,
            preference: 0,
            checked: true,
        }],
        skips: Vec::new(),
    })
}

/// RO-5: the hosts of a relay in their order, without MX and without the check of DV-8. The order is kept as their
/// preference, so that one that is ourselves does not discard the others.
fn of_relay(transport: &str, relay: &Arc<Relay>, own: &Own, seed: u64) -> Plan {
    let mut plan = Plan {
        transport: transport.to_string(),
        target: Target::Relay(Arc::clone(relay)),
        implicit: None,
        hosts: Vec::new(),
        skips: Vec::new(),
    };
    for (host, port) in &relay.hosts {
        let name = match host {
            RelayHost::Name(name) => HostName::Name(name.clone()),
            RelayHost::Ip(ip) => HostName::Ip(*ip),
            RelayHost::Unix(path) => HostName::Unix(path.clone()),
        };
        // DV-10: a relay that is our own listener is a broken transport.
        if matches!(name, HostName::Ip(ip) if own.has_endpoint(ip.to_canonical(), *port)) {
            plan.skips.push(Skip {
                host: name.to_string(),
                address: None,
                reason: Reason::Ourselves,
            });
            continue;
        }
        plan.hosts.push(Host {
            name,
            port: *port,
            preference: u16::try_from(plan.hosts.len()).unwrap_or(u16::MAX),
            checked: false,
        });
    }
    if relay.order == HostOrder::Random {
        plan.hosts.sort_by_cached_key(|host| {
            hosts::shuffle_key(seed, &format!("{}:{}", host.name, host.port))
        });
        for (n, host) in plan.hosts.iter_mut().enumerate() {
            host.preference = u16::try_from(n).unwrap_or(u16::MAX);
        }
    }
    plan
}

/// Our addresses for a transport (RO-17).
pub fn sources<'a>(line: &'a Option<Arc<Line>>, deliver: &'a Deliver) -> &'a [IpAddr] {
    match line {
        Some(line) if !line.source_addresses.is_empty() => &line.source_addresses,
        _ => &deliver.source_addresses,
    }
}

/// The MX question itself has no definite answer: the attempt ends, temporary 4.4.3 (DNS-3).
fn dns_failure(domain: &Domain, error: &DnsError) -> Failure {
    Failure {
        retry: Retry::Later,
        scope: if error.is_local() {
            Scope::Local
        } else {
            Scope::Destination
        },
        stage: Stage::Dns,
        cause: Cause::Dns,
        code: None,
        status: EnhancedCode::new(4, 4, 3),
        text: format!("DNS: MX of {domain}: {error}"),
        may_be_sent_twice: false,
    }
}
