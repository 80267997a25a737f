//! What is asked of the running daemon: by signals, by the control socket.

use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator;

use super::error::Error;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Stop gracefully; asked a second time, end the grace (PRC-2).
    Stop,
    /// Stop without grace.
    StopNow,
    /// Read the configuration again (CFG-5).
    Reload,
    /// Log a summary.
    Summary,
}

/// The way to ask; cheap to clone, never blocks.
#[derive(Clone, Debug)]
pub struct Asking(Sender<Ask>);

impl Asking {
    /// Asks. A flood of one question loses the surplus, which asks for nothing new.
    pub fn ask(&self, ask: Ask) {
        let _ = self.0.try_send(ask);
    }
}

/// A channel of questions.
pub fn channel() -> (Asking, Receiver<Ask>) {
    let (sender, receiver) = bounded(64);
    (Asking(sender), receiver)
}

/// Signals of the process. From [`Signals::install`] on they wait; from [`Signals::listen`] on they ask.
pub struct Signals(Option<iterator::Signals>);

impl Signals {
    /// Takes the signals over, so that one that comes during the start is obeyed after it.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn install() -> Result<Signals, Error> {
        iterator::Signals::new([SIGHUP, SIGTERM, SIGINT, SIGUSR1])
            .map(|signals| Signals(Some(signals)))
            .map_err(|error| Error::System(format!("signals: {error}")))
    }

    /// Starts the thread that turns signals into questions. It ends with the process.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn listen(&mut self, asking: Asking) -> Result<(), Error> {
        let Some(mut signals) = self.0.take() else {
            return Ok(());
        };
        let started: io::Result<_> =
            std::thread::Builder::new()
                .name("signals".into())
                .spawn(move || {
                    for signal in signals.forever() {
                        asking.ask(match signal {
                            SIGHUP => Ask::Reload,
                            SIGUSR1 => Ask::Summary,
                            _ => Ask::Stop,
                        });
                    }
                });
        started
            .map(drop)
            .map_err(|error| Error::System(format!("signals: {error}")))
    }
}
