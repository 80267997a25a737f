//! Manners of the process: limits, mask, directory, pid file, readiness.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chown};
use signal_hook::consts::SIGXFSZ;

use super::error::Error;

/// Descriptors with which the daemon still runs, slowly (PRC-5).
pub const LEAST_DESCRIPTORS: u64 = 64;

/// Limits, mask, directory and the signals that must not kill us. Descriptors 0 to 2 are open by now: the runtime of
/// Rust opens /dev/null in their place before main (PRC-1).
///
/// # Errors
/// [`Error::System`].
pub fn settle_in(foreground: bool) -> Result<(), Error> {
    let failed = |what: &'static str| move |error| Error::System(format!("{what}: {error}"));
    // PRC-5. More is better, but never a reason not to start.
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        if soft < hard {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        }
        if hard < LEAST_DESCRIPTORS {
            let text = format!("{hard} descriptors are allowed, {LEAST_DESCRIPTORS} are needed");
            return Err(Error::System(text));
        }
    }
    if !foreground {
        // SEC-10: memory holds other people's mail.
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("core limit"))?;
        prctl::set_dumpable(false).map_err(failed("prctl"))?;
    }
    umask(Mode::from_bits_truncate(0o027));
    // ST-8. The runtime ignores SIGPIPE already; a handler that does nothing lets write(2) answer EFBIG.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
        .map_err(|error| Error::System(format!("SIGXFSZ: {error}")))?;
    Ok(())
}

/// Leaves the directory we were started in, so that it can be unmounted.
///
/// # Errors
/// [`Error::System`].
pub fn leave_directory() -> Result<(), Error> {
    nix::unistd::chdir("/").map_err(|error| Error::System(format!("/: {error}")))
}

/// Makes the queue directory where only root can. Everything else about it is the store's business.
///
/// # Errors
/// [`Error::Config`] (CFG-8).
pub fn make_queue_directory(path: &Path, (uid, gid): (u32, u32)) -> Result<(), Error> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    // SEC-2: 0700 from the first instant, whatever the umask.
    let made = match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(io::Error::from)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    };
    made.map_err(|error| Error::Config(format!("queue.path: {}: {error}", path.display())))
}

/// The pid file: opened before root is given up, written when everything else has worked, so that a start that fails
/// leaves the file of a running daemon as it was.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
    written: bool,
}

impl PidFile {
    /// Opens the file; makes its directory for `owner` (uid, gid) if it is missing and we are root.
    ///
    /// # Errors
    /// [`Error::Config`] (CFG-8).
    pub fn open(path: &Path, owner: (u32, u32)) -> Result<PidFile, Error> {
        let opened = make_directory(path, owner).and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                // SEC-2: no link in its place.
                .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
                .open(path)
        });
        match opened {
            Ok(file) => {
                // Readable for everybody, whatever the umask; one that is somebody else's keeps its mode.
                let _ = file.set_permissions(fs::Permissions::from_mode(0o644));
                Ok(PidFile {
                    path: path.to_owned(),
                    file,
                    written: false,
                })
            }
            Err(error) => Err(Error::Config(format!(
                "pid_file: {}: {error}",
                path.display()
            ))),
        }
    }

    /// Writes our pid.
    ///
    /// # Errors
    /// [`Error::Config`] (CFG-8).
    pub fn write(&mut self) -> Result<(), Error> {
        self.written = true;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .and_then(|()| {
                self.file
                    .write_all(format!("{}\n", std::process::id()).as_bytes())
            })
            .map_err(|error| Error::Config(format!("pid_file: {}: {error}", self.path.display())))
    }
}

/// Goes with the daemon. Where the directory is root's the file stays, but empty.
impl Drop for PidFile {
    fn drop(&mut self) {
        if self.written && fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

fn make_directory(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    let made = DirBuilder::new().mode(0o755).create(directory);
    if made.is_ok() {
        // SEC-2: whatever the umask; sockets that anybody may use can stand beside the pid file.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    }
    match made {
        Ok(()) if nix::unistd::geteuid().is_root() => {
            chown(
                directory,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
            )?;
            Ok(())
        }
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tells systemd, if it asked, how we are (sd_notify(3): one datagram to `$NOTIFY_SOCKET`).
pub fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(path))),
    };
    // Whoever set the variable and does not listen gets no answer; that is no reason not to run.
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        log::warn!("NOTIFY_SOCKET: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    // CFG-8, ST-9
    #[test]
    fn a_pid_file_is_untouched_until_it_is_written_and_goes_with_its_daemon() {
        let dir = TempDir::new();
        let path = dir.join("pid");
        fs::write(&path, "4711 of another daemon\n").unwrap();
        let us = (
            nix::unistd::geteuid().as_raw(),
            nix::unistd::getegid().as_raw(),
        );
        drop(PidFile::open(&path, us).unwrap());
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "4711 of another daemon\n"
        );
        let mut pid = PidFile::open(&path, us).unwrap();
        pid.write().unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        drop(pid);
        assert!(!path.exists());
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        assert!(matches!(PidFile::open(&path, us), Err(Error::Config(_))));
    }
}
