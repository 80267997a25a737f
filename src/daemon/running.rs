//! The daemon without a process around it: its parts, in the order in which they start and stop.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Receiver, select};

use super::error::Error;
use super::events::{Ask, Asking, channel};
use super::host::{Host, Source, store_settings};
use crate::clock::Clock;
use crate::config::{Config, Live};
use crate::dispatch::Dispatcher;
use crate::front::control::{self, Host as _};
use crate::front::unix::Bound;
use crate::log::{Line, Log};
use crate::store::{self, Recovery, Store};

/// Ends the process with status 70 and this reason (PRC-3); does not return in the daemon.
pub type Fatal = Arc<dyn Fn(&str) + Send + Sync>;

/// What a [`Daemon`] needs to be told besides its configuration.
pub struct Setup {
    /// The time of the queue.
    pub clock: Clock,
    /// Where a reload takes its configuration from.
    pub source: Source,
    /// What a thread without which nothing goes on does when it panics.
    pub fatal: Fatal,
    /// The log, where it is ours to reconfigure.
    pub log: Option<Log>,
}

/// Sockets that are bound before root is given up.
pub struct Doors {
    control: Bound,
}

impl Doors {
    /// Binds every listener and the control socket. What is made as root belongs to `owner` (uid, gid).
    ///
    /// # Errors
    /// [`Error::Config`]: an address or a path cannot be used (CFG-8).
    pub fn bind(config: &Config, owner: (u32, u32)) -> Result<Doors, Error> {
        let control = control::server::bind(&config.control, Some(owner))
            .map_err(|error| Error::Config(format!("control.path: {error}")))?;
        Ok(Doors { control })
    }
}

/// The running daemon.
pub struct Daemon {
    host: Arc<Host>,
    control: control::server::Server,
    asked: Receiver<Ask>,
}

impl Daemon {
    /// Opens the queue and starts everything, the doors last.
    ///
    /// # Errors
    /// Why it did not start; nothing of it runs then.
    pub fn start(config: Config, doors: Doors, setup: Setup) -> Result<Daemon, Error> {
        for warning in config.warnings() {
            Line::new("unsafe").peer("text", &warning).warn();
        }
        let Setup {
            clock,
            source,
            fatal,
            log,
        } = setup;
        let failed = |what: &'static str| move |error| Error::System(format!("{what}: {error}"));
        let (asking, asked) = channel();

        let (store, recovery) = Store::open(&store_settings(&config), &clock)?;
        report(&recovery);
        let workers = config.workers;
        let live = Live::new(config);
        let (dispatcher, _transactions) = Dispatcher::start(
            store.clone(),
            live.clone(),
            clock.clone(),
            workers,
            Arc::clone(&fatal),
        )
        .map_err(failed("dispatcher"))?;

        let host = Arc::new(Host {
            live: live.clone(),
            store: store.clone(),
            dispatcher,
            asking,
            source,
            log,
            reloading: Mutex::new(()),
        });
        let control = control::verbs::Control {
            store,
            config: live,
            clock,
            host: Arc::clone(&host) as Arc<dyn control::Host>,
        };
        let control = control::server::Server::start(doors.control, control, fatal)
            .map_err(failed("control socket"))?;
        Ok(Daemon {
            host,
            control,
            asked,
        })
    }

    /// The way to ask it for something, for signals.
    pub fn asking(&self) -> Asking {
        self.host.asking.clone()
    }

    /// Answers what is asked until it is time to stop, and stops.
    ///
    /// # Errors
    /// The store ended by itself.
    pub fn run(self) -> Result<(), Error> {
        let fatal = self.host.store.fatal();
        loop {
            let asked = select! {
                recv(self.asked) -> asked => asked,
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

    /// Stops in the reverse order of the start. Running transactions may go on for `grace`, or until another stop is
    /// asked for (PRC-2).
    pub fn stop(self, _grace: Duration) {
        self.host.dispatcher.stop();
        self.control.stop();
        self.host.store.close();
    }
}

/// Logs what the last run left behind.
fn report(recovery: &Recovery) {
    for recipient in &recovery.in_doubt {
        Line::new("queued")
            .key("qid", recipient.message)
            .num("rcpt", recipient.number)
            .key("doubt", "in-doubt")
            .peer("reason", "the daemon ended during an attempt")
            .warn();
    }
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
