//! The daemon without a process around it: its parts, in the order in which they start and stop.

use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::check;
use super::error::Error;
use super::events::{Ask, Asking, channel};
use super::host::{Host, Source, store_settings};
use super::keys;
use super::memory::{self, Idle};
use super::trials;
use crate::clock::Clock;
use crate::config::{Config, ListenAddress, Live};
use crate::delivery::{Counter, Refresher, Reporter, Sts, TlsSeams, Tools, Workers};
use crate::dispatch::{Dispatcher, Fatal};
use crate::front::accept::Intake;
use crate::front::control::{self, Host as _};
use crate::front::listener::{self, Front};
use crate::front::notices::Notices;
use crate::front::reports::ReportOutbox;
use crate::front::unix;
use crate::log::{Line, Log};
use crate::message::dkim::Keyring;
use crate::net::Network;
use crate::net::deadline::Deadline;
use crate::store::{self, Recovery, Store};

/// How long sessions at the dot may take for their commit once the grace is over (IN-27).
const LAST_COMMITS: Duration = Duration::from_secs(5);
/// How often a stop looks whether another one was asked for.
const GLANCE: Duration = Duration::from_millis(50);

/// What a [`Daemon`] needs to be told besides its configuration.
pub struct Setup {
    /// The time of the queue.
    pub clock: Clock,
    /// Where a reload takes its configuration from.
    pub source: Source,
    /// What a thread without which nothing goes on does when it panics (PRC-3); does not return in the daemon.
    pub fatal: Fatal,
    /// The log, where it is ours to reconfigure.
    pub log: Option<Log>,
    /// Panics so far, counted by whoever hears of them.
    pub panics: Arc<AtomicU64>,
}

/// Sockets that are bound, and keys that are read, before root is given up.
pub struct Doors {
    listeners: Vec<listener::Bound>,
    control: unix::Bound,
    /// Read before root is given up, too.
    keyring: Keyring,
    /// Default listeners that this host cannot have.
    left_out: Vec<ListenAddress>,
}

impl Doors {
    /// Reads every signing key, and binds every listener and the control socket. What is made as root belongs to `owner`
    /// (uid, gid).
    ///
    /// # Errors
    /// [`Error::Config`]: a key, an address or a path cannot be used (CFG-8).
    pub fn bind(config: &Config, owner: (u32, u32)) -> Result<Doors, Error> {
        let keyring = keys::load(config).map_err(Error::Config)?;
        let mut doors = Doors {
            keyring,
            listeners: Vec::with_capacity(config.listen.len()),
            control: control::server::bind(&config.control, Some(owner))
                .map_err(|error| Error::Config(format!("control.path: {error}")))?,
            left_out: Vec::new(),
        };
        for listen in &config.listen {
            // Nobody asked for [::1] in particular, so a host without IPv6 starts without it.
            let v6 = matches!(listen.address, ListenAddress::Tcp(tcp) if tcp.is_ipv6());
            if v6
                && config.default_listeners
                && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err()
            {
                doors.left_out.push(listen.address.clone());
                continue;
            }
            let bound = listener::Bound::new(listen, Some(owner));
            doors
                .listeners
                .push(bound.map_err(|error| Error::Config(format!("listen: {error}")))?);
        }
        Ok(doors)
    }
}

/// The running daemon.
pub struct Daemon {
    host: Arc<Host>,
    front: Arc<Front>,
    workers: Arc<Workers>,
    control: control::server::Server,
    control_path: PathBuf,
    notices: Notices,
    refresher: Refresher,
    reporter: Reporter,
    asked: Receiver<Ask>,
}

impl Daemon {
    /// Opens the queue and starts everything, the doors last.
    ///
    /// # Errors
    /// Why it did not start; nothing of it runs then.
    pub fn start(config: Config, doors: Doors, setup: Setup) -> Result<Daemon, Error> {
        check::authorities(&config)?;
        for warning in config.warnings() {
            Line::new("unsafe").peer("text", &warning).warn();
        }
        for address in &doors.left_out {
            let reason = "this host has no IPv6";
            Line::new("listen")
                .key("address", address)
                .peer("reason", reason)
                .warn();
        }
        let (asking, asked) = channel();
        let Setup {
            clock,
            source,
            fatal,
            log,
            panics,
        } = setup;
        let failed = |what: &'static str| move |error| Error::System(format!("{what}: {error}"));

        let (store, recovery) = Store::open(&store_settings(&config), &clock)?;
        report(&recovery);
        let count = config.workers;
        keys::log(&doors.keyring);
        let live = Live::with_keyring(config, doors.keyring);
        let (dispatcher, transactions) = Dispatcher::start(
            store.clone(),
            live.clone(),
            clock.clone(),
            count,
            Arc::clone(&fatal),
        )
        .map_err(failed("dispatcher"))?;
        let waking = dispatcher.clone();
        let network = Network::new(live.clone(), clock.clone());
        // DNS-8
        if live.get().tls.dane && !network.resolver().is_trusted() {
            let reason = "no name server in use is in dns.trusted";
            Line::new("dane-off").peer("reason", reason).warn();
        }
        let counter = Arc::new(Counter::new(live.clone(), clock.clone()));
        let sts = Arc::new(Sts::new(
            store.clone(),
            live.clone(),
            clock.clone(),
            network.clone(),
            Arc::clone(&counter) as _,
        ));
        let reporting = network.clone();
        let tools = Tools {
            store: store.clone(),
            live: live.clone(),
            clock: clock.clone(),
            network,
            tls: TlsSeams {
                sts: Arc::clone(&sts) as _,
                reports: Arc::clone(&counter) as _,
            },
            wake: Arc::new(move |wake| waking.wake(wake)),
        };
        let workers = Workers::start(count, tools, transactions).map_err(failed("workers"))?;
        let workers = Arc::new(workers);
        if let Err(error) = trials::at_start(&live.get(), &workers, &clock) {
            dispatcher.stop();
            workers.close();
            store.close();
            return Err(error);
        }

        let host = Arc::new(Host {
            live: live.clone(),
            clock: clock.clone(),
            store: store.clone(),
            dispatcher: dispatcher.clone(),
            workers: Arc::clone(&workers),
            front: OnceLock::new(),
            asking,
            source,
            log,
            panics,
            reloading: Mutex::new(()),
        });
        let control_path = doors.control.path().to_owned();
        let control = control::verbs::Control {
            store: store.clone(),
            config: live.clone(),
            clock: clock.clone(),
            host: Arc::clone(&host) as Arc<dyn control::Host>,
        };
        let control = control::server::Server::start(doors.control, control, Arc::clone(&fatal))
            .map_err(failed("control socket"))?;
        let notices = Notices::start(
            live.clone(),
            store.clone(),
            dispatcher.clone(),
            clock.clone(),
        )
        .map_err(failed("notices"))?;
        let now = clock.now();
        let refresher = Refresher::start(sts).map_err(failed("sts-refresh"))?;
        let intake = Arc::new(Intake::new(live, store.clone(), dispatcher, clock));
        let outbox = ReportOutbox::new(Arc::clone(&intake));
        let reporter = Reporter::start(counter, store, reporting, Arc::new(outbox))
            .map_err(failed("tls-reports"))?;
        let front = Front::start(doors.listeners, intake, fatal).map_err(failed("listeners"))?;
        let front = Arc::new(front);
        let _ = host.front.set(Arc::clone(&front));
        for address in front.addresses() {
            Line::new("listen").key("address", address).info();
        }
        front.log_certificates(now);
        Ok(Daemon {
            host,
            front,
            workers,
            control,
            control_path,
            notices,
            refresher,
            reporter,
            asked,
        })
    }

    /// The way to ask it for something, for signals.
    pub fn asking(&self) -> Asking {
        self.host.asking.clone()
    }

    /// Tests in a thread of its own what the disk promises (ST-19); it ends after a second, or with the store.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn self_test(&self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let store = self.host.store.clone();
        std::thread::Builder::new()
            .name("selftest".to_owned())
            .spawn(move || store.self_test())
    }

    /// Where it listens, with real ports: in the order of the configuration, what a reload has added behind it.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.front.addresses()
    }

    /// Its control socket.
    pub fn control_path(&self) -> &Path {
        &self.control_path
    }

    /// Answers what is asked until it is time to stop, and stops.
    ///
    /// # Errors
    /// The store ended by itself.
    pub fn run(self) -> Result<(), Error> {
        let fatal = self.host.store.fatal();
        let mut idle = Idle::default();
        loop {
            let asked = select! {
                recv(self.asked) -> asked => asked,
                default(memory::PACE) => {
                    self.give_back(&mut idle);
                    continue;
                }
                // ST-4: nothing is stopped gently, because nothing that is done from here on could be recorded.
                recv(fatal) -> why => return Err(match why {
                    Ok(store::Fatal::Io(text)) => Error::Io(text),
                    Ok(store::Fatal::Panic(text)) => Error::Internal(text),
                    Err(_) => Error::Internal("the store is gone".to_owned()),
                }),
            };
            match asked {
                Ok(Ask::Reload) => {
                    // Its outcome is in the log.
                    let _ = self.host.reload();
                }
                Ok(Ask::Summary) => self.host.summary(),
                Ok(Ask::Stop) => {
                    let grace = self.host.live.get().shutdown_grace.get();
                    self.stop(grace);
                    return Ok(());
                }
                Ok(Ask::StopNow) | Err(_) => {
                    self.stop(Duration::ZERO);
                    return Ok(());
                }
            }
        }
    }

    /// PRC-7: the memory of a load ends with it.
    fn give_back(&self, idle: &mut Idle) {
        match idle.look(self.host.store.activity()) {
            memory::Step::Nothing => {}
            memory::Step::Caches => {
                self.host.store.rest();
                if let Some(log) = &self.host.log {
                    log.rest();
                }
            }
            memory::Step::Allocator => memory::trim(),
        }
    }

    /// Stops in the reverse order of the start. Running transactions and content that is being received may go on for
    /// `grace`, or until another stop is asked for (PRC-2).
    pub fn stop(self, grace: Duration) {
        Line::new("stopping").span("grace", grace).info();
        self.front.stop();
        self.host.dispatcher.stop();
        if !self.ends_within(Deadline::after(grace)) {
            self.front.cut();
            self.workers.cut();
            self.front.join(Deadline::after(LAST_COMMITS));
        }
        self.workers.close();
        self.notices.stop();
        self.refresher.stop();
        self.reporter.stop();
        self.control.stop();
        // Everything that was answered is committed; this checkpoints.
        self.host.store.close();
    }

    /// Waits for sessions and transactions; `false` if the grace is over before they are.
    fn ends_within(&self, deadline: Deadline) -> bool {
        loop {
            let glance = Deadline::after(GLANCE).min(deadline);
            if self.front.join(glance) && self.workers.wait(glance) {
                return true;
            }
            let again = self
                .asked
                .try_iter()
                .any(|ask| matches!(ask, Ask::Stop | Ask::StopNow));
            if again || deadline.is_over() {
                return false;
            }
        }
    }
}

/// Logs what the last run left behind. What is in doubt the store has named itself, before its commit.
fn report(recovery: &Recovery) {
    for id in &recovery.damaged {
        Line::new("held")
            .key("qid", id)
            .peer("reason", "its row or content is damaged")
            .error();
    }
    for id in &recovery.poisoned {
        let reason = "the daemon died too often with it in hand";
        Line::new("held")
            .key("qid", id)
            .peer("reason", reason)
            .error();
    }
    if recovery.orphan_chunks > 0 {
        Line::new("swept")
            .num("chunks", recovery.orphan_chunks)
            .info();
    }
}
