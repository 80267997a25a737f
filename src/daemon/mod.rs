//! Wiring: start order, signals, stop order.
//!
//! [`run`] is posthasted from its arguments to its end, with everything that concerns a process: account, descriptors,
//! pid file, signals. [`Daemon`] is what runs inside, and can be had without a process around it.

mod account;
mod args;
mod check;
mod error;
mod events;
mod fork;
mod host;
mod keys;
mod memory;
mod process;
mod running;
mod scheduling;
mod trials;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Clock;
use crate::config::{Config, LogTo};
use crate::dispatch::Fatal;
use crate::log::{Line, Log};

use account::Account;
use args::{Action, Args};
use events::Signals;
use process::PidFile;

pub use error::Error;
pub use events::{Ask, Asking};
pub use host::Source;
pub use running::{Daemon, Doors, Setup};

/// posthasted, from its arguments (without the program's name) to its end.
///
/// # Errors
/// Why it did not start, or stopped by itself.
pub fn run(words: impl IntoIterator<Item = OsString>) -> Result<(), Error> {
    let args = Args::parse(words)?;
    match args.action {
        Action::Help => return say(args::USAGE),
        Action::Version => return say(concat!("posthasted ", env!("CARGO_PKG_VERSION"))),
        Action::Print => return say(Config::load(&args.file)?.print().trim_end()),
        Action::Check => return check::check(&Config::load(&args.file)?),
        Action::Run => {}
    }
    // The daemon leaves its directory, and reads the file again at a reload.
    let file = std::path::absolute(&args.file)
        .map_err(|error| Error::Config(format!("{}: {error}", args.file.display())))?;
    let mut config = Config::load(&file)?;
    if args.foreground {
        config.log.to = LogTo::Stderr;
    }

    scheduling::apply(config.scheduling);
    // No thread exists before this, and every thread after.
    let waiting = match args.foreground {
        true => None,
        false => Some(fork::detach().map_err(|error| Error::System(format!("fork: {error}")))?),
    };
    let mut signals = Signals::install()?;
    process::settle_in(args.foreground)?;

    // As root, if we are: what only root may do.
    let account = Account::of(&config)?;
    check::nobody_has(&config.queue.path)?;
    let mut pid_file = match args.foreground {
        true => None,
        false => Some(PidFile::open(&config.pid_file, account.ids())?),
    };
    process::make_queue_directory(&config.queue.path, account.ids())?;
    let doors = Doors::bind(&config, account.ids())?;
    account.assume()?;
    process::leave_directory()?;

    memory::few_arenas();
    let log = Log::start(&config.log)?;
    let panics = Arc::default();
    log_panics(Arc::clone(&panics));
    let keep_stderr = config.log.to == LogTo::Stderr;
    let setup = Setup {
        clock: Clock::system(),
        source: source(file, args.foreground),
        fatal: fatal(Some(log.clone())),
        log: Some(log.clone()),
        panics,
    };
    let daemon = Daemon::start(config, doors, setup)?;
    signals.listen(daemon.asking())?;

    if let Some(file) = &mut pid_file {
        file.write()?;
    }
    if let Some(waiting) = waiting {
        waiting
            .release(keep_stderr)
            .map_err(|error| Error::System(format!("/dev/null: {error}")))?;
    }
    process::notify("READY=1");
    Line::new("start")
        .key("version", env!("CARGO_PKG_VERSION"))
        .num("pid", std::process::id())
        .info();

    // Nobody waits for it, and a host that has no thread to spare does without.
    let testing = daemon.self_test();
    let ended = daemon.run();
    if let Ok(testing) = testing {
        // A panic in it is in the log.
        let _ = testing.join();
    }
    match &ended {
        Ok(()) => Line::new("stop").num("pid", std::process::id()).info(),
        Err(error) => Line::new("stop")
            .num("pid", std::process::id())
            .peer("reason", &error.to_string())
            .error(),
    }
    log.stop();
    ended
}

/// Writes to standard output; who closed it does not want to read it.
fn say(text: &str) -> Result<(), Error> {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// Where a reload takes its configuration from.
fn source(file: PathBuf, foreground: bool) -> Source {
    Arc::new(move || {
        let mut config = Config::load(&file)?;
        if foreground {
            config.log.to = LogTo::Stderr;
        }
        Ok(config)
    })
}

/// A panic is one line of the log wherever it happens; what becomes of its thread is decided there (PRC-3). Without this
/// it would be words on a standard error that is /dev/null.
fn log_panics(count: Arc<AtomicU64>) {
    std::panic::set_hook(Box::new(move |info| {
        count.fetch_add(1, Ordering::Relaxed);
        let payload = info.payload();
        let words = payload.downcast_ref::<&str>().copied();
        let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Line::new("panic")
            .key("thread", std::thread::current().name().unwrap_or("unnamed"))
            .opt("at", info.location())
            .peer("text", words.unwrap_or("no words"))
            .error();
    }));
}

/// Ends the process at once with status 70, from whatever thread finds that it must (PRC-3); the reason is the last line
/// of the log.
pub fn fatal(log: Option<Log>) -> Fatal {
    Arc::new(move |reason| {
        Line::new("stop")
            .num("pid", std::process::id())
            .peer("reason", reason)
            .error();
        if let Some(log) = &log {
            log.drain();
        }
        std::process::exit(70);
    })
}
