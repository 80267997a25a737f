//! `posthaste.toml` as a typed [`Config`]: each setting declared once, with its default and its doc comment (CFG-4).
//!
//! Field paths are those of the file: `config.retry.intervals` is `[retry] intervals`. One file per table; `table!`
//! makes field, key, default, reader and printer from one declaration, so the sample in `etc/`, the manual and
//! `posthasted -p` can be tested against [`settings`].
//!
//! A [`Config`] is plain data. What the file does not show, whether a directory can be opened or an account exists, is
//! the daemon's business.

mod control;
mod deliver;
mod dkim;
mod dns;
mod dsn;
mod intake;
mod limits;
mod listen;
mod load;
mod logging;
mod pattern;
mod print;
mod proxy;
mod queue;
mod reader;
mod relay;
mod retry;
mod route;
mod scheduling;
mod secret;
mod table;
mod tls;
mod transport;
mod units;
mod value;

pub use control::Control;
pub use deliver::{Deliver, Family, Without8BitMime};
pub use dkim::Dkim;
pub use dns::{Dns, Server};
pub use dsn::Dsn;
pub use intake::Intake;
pub use limits::{Limit, Limits};
pub use listen::{BareNewline, EarlyTalk, Listen, ListenAddress, ListenAuth, ListenTls, Role};
pub use load::{ConfigError, DEFAULT_PATH};
pub use logging::{LogFormat, LogTable, LogTo};
pub use pattern::{ClientPattern, DomainPattern};
pub use proxy::Proxy;
pub use queue::Queue;
pub use relay::{Access, HostOrder, Login, Relay, RelayTls, StartProbe};
pub use retry::Retry;
pub use route::Route;
pub use scheduling::Scheduling;
pub use secret::Secret;
pub use table::Setting;
pub use tls::{Tls, TlsMemory, TlsPolicy, TlsVersion, TlsWanted};
pub use transport::{Line, OwnLimits, OwnRetry, RelayHost, Transport, TransportKind};
pub use units::{Rate, RateLimit, Size, Span};

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::message::dkim::Keyring;
use crate::smtp::address::{Domain, Mailbox};
use table::{Table, table};
use transport::TransportTable;
use value::{absolute, parse_domain, parse_mailbox, within};

table! {
    /// The whole configuration, checked. Built by the loader or from [`Config::default_for`].
    pub struct Config in "" {
        /// Our name in EHLO, greetings, Received and Message-ID; a full domain name.
        hostname: Domain = (computed "the system's name", parse_domain("localhost.localdomain")), full_name;
        /// Account that the daemon runs as when started as root; else not set, or the running account.
        /// Changes at a restart.
        user: Option<String> = (computed "\"posthaste\"", None), not_root;
        /// Its group. Changes at a restart.
        group: Option<String> = (computed "\"posthaste\"", None);
        /// Most transactions at once. Changes at a restart.
        workers: usize = "64", within(1, 10_000);
        /// Where the process id is written, unless `-F` is given. Changes at a restart.
        pid_file: PathBuf = "\"/run/posthaste/pid\"", absolute;
        /// How it shares processors with other programs: `"batch"`, or `"inherit"` for as it was started. Changes at a
        /// restart.
        scheduling: Scheduling = "\"batch\"";
        /// How long running transactions may go on at a normal stop.
        shutdown_grace: Span = "\"30s\"";
        /// Takes every local part at `hostname`, and bare `<postmaster>`; `""` for nobody.
        local_mail_to: Option<Mailbox> = "\"\"";
    }
    plus {
        /// `[queue]`
        queue: Queue = Queue::defaults();
        /// `[intake]`
        intake: Intake = Intake::defaults();
        /// `[[listen]]`
        listen: Vec<Listen> = default_listeners();
        /// Nobody wrote `[[listen]]`: of the three default listeners the one on `[::1]` may fail where there is no IPv6.
        default_listeners: bool = true;
        /// `[control]`
        control: Control = Control::defaults();
        /// `[log]`
        log: LogTable = LogTable::defaults();
        /// `[retry]`
        retry: Retry = Retry::defaults();
        /// `[deliver]`
        deliver: Deliver = Deliver::defaults();
        /// `[dns]`
        dns: Dns = Dns::defaults();
        /// `[tls]`
        tls: Tls = Tls::defaults();
        /// `[[tls_policy]]`
        tls_policy: Vec<TlsPolicy> = Vec::new();
        /// `[limits]`
        limits: Limits = Limits::defaults();
        /// `[[limit]]`
        limit: Vec<Limit> = Vec::new();
        /// `[dsn]`
        dsn: Dsn = Dsn::defaults();
        /// `[[dkim]]`
        dkim: Vec<Dkim> = Vec::new();
        /// `[[transport]]`
        transport: Vec<Transport> = Vec::new();
        /// `[[route]]`
        route: Vec<Route> = Vec::new();
    }
}

/// CFG-9: a full domain name, because single labels in EHLO are refused by half the world.
fn full_name(name: &Domain) -> Result<(), String> {
    if name.as_str().contains('.') {
        Ok(())
    } else {
        Err(format!("\"{name}\" is not a full domain name"))
    }
}

fn not_root(user: &Option<String>) -> Result<(), String> {
    match user.as_deref() {
        // SEC-1: nothing that parses mail runs as root.
        Some("root") => Err("posthaste does not run as root".to_owned()),
        _ => Ok(()),
    }
}

/// CFG-12.
fn default_listeners() -> Vec<Listen> {
    vec![
        Listen::at(ListenAddress::Tcp((Ipv4Addr::LOCALHOST, 25).into())),
        Listen::at(ListenAddress::Tcp((Ipv6Addr::LOCALHOST, 25).into())),
        Listen::at(ListenAddress::Unix("/run/posthaste/smtp".into())),
    ]
}

impl Config {
    /// All defaults, for a host of this name.
    pub fn default_for(hostname: Domain) -> Config {
        let mut config = Config::defaults();
        config.dsn.from = parse_mailbox(&format!("postmaster@{hostname}"));
        config.hostname = hostname;
        config
    }

    /// The transport of this name, unless it is the built-in `direct`.
    pub fn transport(&self, name: &str) -> Option<&Transport> {
        self.transport
            .iter()
            .find(|transport| transport.name == name)
    }

    /// `[deliver]` as it holds for a transport that sets out like this (CFG-19).
    pub fn deliver_of<'a>(&'a self, line: &'a Option<Arc<Line>>) -> &'a Deliver {
        let own = line.as_ref().and_then(|line| line.deliver.as_ref());
        own.unwrap_or(&self.deliver)
    }

    /// `[retry]` as it holds for the transport of this name (CFG-19).
    pub fn retry_of(&self, transport: &str) -> &Retry {
        let own = self.transport(transport);
        let own = own.and_then(|transport| transport.retry.as_ref());
        own.map_or(&self.retry, |own| &own.terms)
    }

    /// `[retry]` of all transports that have one of their own.
    pub fn own_retries(&self) -> impl Iterator<Item = (&Transport, &Retry)> {
        let own = self.transport.iter();
        own.filter_map(|transport| Some((transport, &transport.retry.as_ref()?.terms)))
    }

    /// What weakens safety in this configuration, in words for the log at each start and for `stats` (SEC-12).
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.deliver.allow_private {
            warnings.push(
                "deliver.allow_private: mail may be delivered to private addresses".to_owned(),
            );
        }
        for listen in &self.listen {
            if listen.relay_from.iter().any(ClientPattern::is_everyone) {
                warnings.push(format!(
                    "listen {}: relay_from lets everybody relay",
                    listen.name
                ));
            }
        }
        for transport in &self.transport {
            let TransportKind::Relay(relay) = &transport.kind else {
                continue;
            };
            let name = &transport.name;
            if relay.danger_accept_invalid_certs {
                warnings.push(format!(
                    "transport {name}: danger_accept_invalid_certs: its relay may be anybody"
                ));
            }
            if relay.login().is_some_and(|login| login.danger_without_tls) {
                warnings.push(format!(
                    "transport {name}: danger_auth_without_tls: whoever listens may learn its password"
                ));
            }
        }
        warnings
    }

    /// The transport with a secret in the file itself, which then nobody else may read (CFG-7).
    fn holds_secret(&self) -> Option<usize> {
        self.transport.iter().position(|transport| {
            let password = match &transport.kind {
                TransportKind::Relay(relay) => relay.login().map(|login| &login.password),
                _ => None,
            };
            let proxy = transport.line.as_ref().and_then(|line| line.proxy.as_ref());
            let proxy = proxy.and_then(|proxy| proxy.login.as_ref());
            let mut secrets = password.into_iter().chain(proxy.map(|(_, secret)| secret));
            secrets.any(Secret::is_inline)
        })
    }
}

/// Every setting there is, in the order of the manual: what the sample and the manual are tested against (CFG-4).
pub fn settings() -> Vec<Setting> {
    let config = Config::defaults();
    let transport = TransportTable::defaults();
    let route = Route::defaults();
    let limit = Limit::defaults();
    let listen = Listen::defaults();
    let tls_policy = TlsPolicy::defaults();
    let dkim = Dkim::defaults();
    [
        config.show(),
        config.queue.show(),
        config.intake.show(),
        listen.show(),
        config.control.show(),
        config.log.show(),
        config.retry.show(),
        config.deliver.show(),
        config.dns.show(),
        config.limits.show(),
        limit.show(),
        config.dsn.show(),
        dkim.show(),
        config.tls.show(),
        tls_policy.show(),
        transport.show(),
        route.show(),
    ]
    .into_iter()
    .flatten()
    .map(|(setting, _)| setting)
    .collect()
}

/// The configuration in force, replaced whole by a reload (CFG-5), with the signing keys that it names. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Live(Arc<RwLock<InForce>>);

#[derive(Debug)]
struct InForce {
    config: Arc<Config>,
    keyring: Keyring,
}

impl Live {
    /// Puts a configuration in force that signs nothing.
    pub fn new(config: Config) -> Live {
        Live::with_keyring(config, Keyring::default())
    }

    /// Puts a configuration in force, with what was read of its `[[dkim]]`.
    pub fn with_keyring(config: Config, keyring: Keyring) -> Live {
        let config = Arc::new(config);
        Live(Arc::new(RwLock::new(InForce { config, keyring })))
    }

    fn read(&self) -> RwLockReadGuard<'_, InForce> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration in force now; take it anew for each piece of work (CFG-6).
    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.read().config)
    }

    /// The keys that sign now (MSG-7); [`Keyring::signs`] tells whether mail of a domain can be signed.
    pub fn keyring(&self) -> Keyring {
        self.read().keyring.clone()
    }

    /// Replaces it; the keys stay.
    pub fn set(&self, config: Config) {
        self.set_with(config, self.keyring());
    }

    /// Replaces it with its keys, both in the same instant: mail of a domain with keys never leaves unsigned (MSG-8).
    pub fn set_with(&self, config: Config, keyring: Keyring) {
        let config = Arc::new(config);
        let new = InForce { config, keyring };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }
}
