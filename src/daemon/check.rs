//! `-n`: what the file cannot show by itself (CFG-1, CFG-8).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::account::Account;
use super::error::Error;
use super::keys;
use crate::config::{Config, ListenAddress, LogTo, TransportKind};
use crate::front::listener;
use crate::log;
use crate::net::tls::Context;

/// Makes every check of a start that disturbs no running daemon and leaves nothing behind.
///
/// # Errors
/// The first fault, as a start would name it.
pub fn check(config: &Config) -> Result<(), Error> {
    let account = Account::of(config)?;
    queue_directory(&config.queue.path, account.ids().0)?;
    if let LogTo::File(path) = &config.log.to {
        log::check_file(path).map_err(|error| fault("log.to", path, &error))?;
    }
    directory_of("pid_file", &config.pid_file)?;
    directory_of("control.path", &config.control.path)?;
    for listen in &config.listen {
        match &listen.address {
            ListenAddress::Unix(path) => directory_of("listen", path)?,
            // What the daemon itself forgives: [::1] among the default listeners, where there is no IPv6.
            ListenAddress::Tcp(tcp) if config.default_listeners && tcp.is_ipv6() => {}
            ListenAddress::Tcp(tcp) => address("listen", tcp.ip())?,
        }
        listener::identity(listen).map_err(|error| Error::Config(format!("listen: {error}")))?;
    }
    for ip in &config.deliver.source_addresses {
        address("deliver.source_addresses", *ip)?;
    }
    for transport in &config.transport {
        let line = transport.line.as_ref();
        for ip in line.map_or(&[][..], |line| &line.source_addresses) {
            let key = format!("transport {}: source_addresses", transport.name);
            address(&key, *ip)?;
        }
    }
    let keyring = keys::load(config).map_err(Error::Config)?;
    for warning in keyring.keys().iter().filter_map(|key| key.warning()) {
        // A check has no log; who closed standard error does not want to know.
        let _ = writeln!(io::stderr(), "posthasted: {warning}");
    }
    authorities(config)
}

/// Each `ca_file` can be read and holds certificates (CFG-8).
///
/// # Errors
/// What is wrong with it.
pub fn authorities(config: &Config) -> Result<(), Error> {
    Context::check(&config.tls).map_err(Error::Config)?;
    for transport in &config.transport {
        if let TransportKind::Relay(relay) = &transport.kind
            && let Some(own) = &relay.access
            && own.ca_file.is_some()
        {
            Context::with(&config.tls, own.ca_file.as_deref())
                .map_err(|error| Error::Config(format!("transport {}: {error}", transport.name)))?;
        }
    }
    Ok(())
}

/// Refuses to start beside a running daemon before anything of it is touched (ST-9). The lock itself is taken by the
/// store; this only says so in time.
///
/// # Errors
/// [`Error::Locked`].
pub fn nobody_has(queue: &Path) -> Result<(), Error> {
    let Ok(file) = OpenOptions::new()
        .read(true)
        .write(true)
        .open(queue.join("lock"))
    else {
        return Ok(());
    };
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => Err(Error::Locked(format!(
            "{}: another posthasted has this queue",
            queue.display()
        ))),
        _ => Ok(()),
    }
}

fn fault(key: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::Config(format!("{key}: {}: {error}", path.display()))
}

/// The queue directory is the account's, or can be made.
fn queue_directory(path: &Path, uid: u32) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_dir() => Err(fault("queue.path", path, &"is not a directory")),
        Ok(found) if found.uid() != uid => {
            let owner = found.uid();
            let reason = format!("belongs to uid {owner}, the daemon runs as uid {uid}");
            Err(fault("queue.path", path, &reason))
        }
        Ok(_) => fs::read_dir(path)
            .map(drop)
            .map_err(|error| fault("queue.path", path, &error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => directory_of("queue.path", path),
        Err(error) => Err(fault("queue.path", path, &error)),
    }
}

/// The directory of a path can be written, or be made inside one that can: as the start makes one level.
fn directory_of(key: &str, path: &Path) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let directory = match directory.exists() {
        true => directory,
        false => directory.parent().unwrap_or(Path::new("/")),
    };
    access(directory, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|error| {
        fault(
            key,
            path,
            &format!("{}: {}", directory.display(), error.desc()),
        )
    })
}

/// An address is one of this host: some port of it can be bound.
fn address(key: &str, ip: IpAddr) -> Result<(), Error> {
    TcpListener::bind((ip, 0))
        .map(drop)
        .map_err(|error| Error::Config(format!("{key}: {ip}: {error}")))
}
