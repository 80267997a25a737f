//! Unix sockets that we listen on: made, replaced and removed without ever touching what is not ours (CTL-3, SEC-2).

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, chown, geteuid};

/// Longest path of a socket: `sun_path` holds 108 octets with the final NUL (unix(7)).
pub const MAX_PATH: usize = 107;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why a socket could not be made. What stood at its path is untouched.
#[derive(Debug)]
pub struct BindError {
    path: PathBuf,
    reason: String,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for BindError {}

/// A listening socket; its file goes when this is dropped, if it is still ours.
#[derive(Debug)]
pub struct Bound {
    listener: UnixListener,
    file: File,
}

impl Bound {
    /// The socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for File {
    fn drop(&mut self) {
        // Somebody may have put another in its place.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| meta.dev() == self.device && meta.ino() == self.inode);
        if ours {
            // After root was given up the directory may be closed to us; the next start replaces a stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a listening socket of this mode at `path`, owned by `owner` (uid, gid) if we are root. Does not block.
///
/// Its directory is made if it is missing (0755, of the same owner), and must be one that only we or root can write: that
/// is what makes the steps below safe from others.
///
/// # Errors
/// [`BindError`]: the path is too long, its directory is open to others, something else than a stale socket stands
/// there, or the system says no.
pub fn bind(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<Bound, BindError> {
    make(path, mode, owner).map_err(|error| BindError {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn refuse<T>(reason: impl Into<String>) -> io::Result<T> {
    Err(io::Error::other(reason.into()))
}

fn make(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<Bound> {
    if path.as_os_str().as_bytes().len() > MAX_PATH {
        return refuse(format!("longer than {MAX_PATH} octets"));
    }
    let owner = owner.filter(|_| geteuid().is_root());
    let Some(directory) = path.parent().filter(|dir| dir.is_absolute()) else {
        return refuse("not an absolute path");
    };
    check_directory(directory, owner)?;
    clear_stale(path)?;

    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    // bind(2) makes the file with the mode of the socket itself, less the umask: so it is never wider than wanted, and
    // the umask of the whole process need not be touched.
    fchmod(&socket, Mode::from_bits_truncate(mode))?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    let made = fs::symlink_metadata(path)?;
    let file = File {
        path: path.to_owned(),
        device: made.dev(),
        inode: made.ino(),
    };
    if let Some((uid, gid)) = owner {
        chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    let listener = UnixListener::from(OwnedFd::from(socket));
    Ok(Bound { listener, file })
}

/// Gives a socket that we listen on another mode.
///
/// # Errors
/// [`BindError`]: it is not there any more, or not ours.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), BindError> {
    let change = || {
        // Its directory is closed to others, so it is the same one a moment later.
        if !fs::symlink_metadata(path)?.file_type().is_socket() {
            return refuse("is no longer a socket");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    change().map_err(|error| BindError {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn check_directory(directory: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    if let Err(error) = fs::metadata(directory)
        && error.kind() == io::ErrorKind::NotFound
    {
        fs::DirBuilder::new().mode(0o755).create(directory)?;
        // SEC-2: whatever the umask; the socket has a mode of its own.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        if let Some((uid, gid)) = owner {
            chown(
                directory,
                Some(Uid::from_raw(uid)),
                Some(Gid::from_raw(gid)),
            )?;
        }
    }
    let meta = fs::metadata(directory)?;
    let ours = [0, geteuid().as_raw()].contains(&meta.uid())
        || owner.is_some_and(|(uid, _)| uid == meta.uid());
    if !ours || meta.mode() & 0o022 != 0 {
        return refuse(format!(
            "others than us can write the directory (owner {}, mode {:o})",
            meta.uid(),
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

/// Removes a socket that nobody listens on; refuses to touch anything else.
fn clear_stale(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if kind.is_symlink() {
        return refuse("is a symbolic link");
    }
    if !kind.is_socket() {
        return refuse("exists and is not a socket");
    }
    match UnixStream::connect(path) {
        Ok(_) => refuse("another program is listening there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => refuse(format!("cannot tell whether anybody listens: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::os::unix::fs::symlink;

    // CTL-3
    #[test]
    fn a_socket_has_exactly_its_mode_and_goes_with_its_owner() {
        let dir = TempDir::new();
        let path = dir.join("s");
        for mode in [0o660, 0o666, 0o600] {
            let bound = bind(&path, mode, None).unwrap();
            let meta = fs::symlink_metadata(&path).unwrap();
            assert_eq!(meta.mode() & 0o7777, mode);
            UnixStream::connect(bound.path()).unwrap();
            bound.listener().accept().unwrap();
            drop(bound);
            assert!(!path.exists());
        }
    }

    // CTL-3
    #[test]
    fn a_stale_socket_is_replaced() {
        let dir = TempDir::new();
        let path = dir.join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _bound = bind(&path, 0o600, None).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    // CTL-3
    #[test]
    fn a_live_socket_a_link_and_a_file_are_refused_and_untouched() {
        let dir = TempDir::new();
        let live = dir.join("live");
        let _listener = UnixListener::bind(&live).unwrap();
        let before = fs::symlink_metadata(&live).unwrap().ino();
        let error = bind(&live, 0o600, None).unwrap_err().to_string();
        assert!(error.contains("another program"), "{error}");
        assert_eq!(fs::symlink_metadata(&live).unwrap().ino(), before);
        UnixStream::connect(&live).unwrap();

        let link = dir.join("link");
        symlink(dir.join("nothing"), &link).unwrap();
        let error = bind(&link, 0o600, None).unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());

        let file = dir.join("file");
        fs::write(&file, "mail").unwrap();
        let error = bind(&file, 0o600, None).unwrap_err().to_string();
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"mail");
    }

    // CTL-3
    #[test]
    fn a_path_over_107_octets_is_refused_and_one_of_107_is_not() {
        let dir = TempDir::new();
        let room = MAX_PATH - dir.path().as_os_str().len() - 1;
        assert!(bind(&dir.join(&"x".repeat(room)), 0o600, None).is_ok());
        let error = bind(&dir.join(&"x".repeat(room + 1)), 0o600, None).unwrap_err();
        assert!(error.to_string().contains("107"), "{error}");
    }

    // CTL-3
    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let dir = TempDir::new();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let error = bind(&dir.join("s"), 0o600, None).unwrap_err().to_string();
        assert!(error.contains("others"), "{error}");
        assert!(!dir.join("s").exists());
    }

    #[test]
    fn a_missing_directory_is_made() {
        let dir = TempDir::new();
        let path = dir.join("run").join("s");
        let _bound = bind(&path, 0o600, None).unwrap();
        let meta = fs::metadata(dir.join("run")).unwrap();
        assert_eq!(meta.mode() & 0o022, 0);
        assert!(bind(Path::new("relative"), 0o600, None).is_err());
    }

    // CTL-3
    #[test]
    fn a_socket_that_took_our_place_is_not_removed() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let bound = bind(&path, 0o600, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
