//! Room on the disk: new mail is refused before there is none, and a reserve keeps room for outcomes (ST-5, ST-6).
//!
//! The floor has a hysteresis: under `queue.min_free` new mail is refused, and taken again at twice that. The reserve is
//! a file of `queue.reserve` octets beside the database. It is given up when an outcome or an operator's change finds
//! the disk full, and made again once there is room for it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, posix_fallocate};
use nix::sys::statvfs::statvfs;

use super::StoreError;
use super::shared::lock;

/// Name of the reserve in the queue directory.
const RESERVE: &str = "reserve";

/// A look at the file system serves all messages of this time.
const GLANCE: Duration = Duration::from_millis(500);

/// `queue.min_free` and `queue.reserve`, in octets; 0 for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) min_free: u64,
    pub(super) reserve: u64,
}

/// What is known of the room.
#[derive(Debug)]
pub(super) struct Space {
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    /// New mail is refused, for this reason.
    low: Option<String>,
}

impl Space {
    /// Makes the reserve if there is room for it; without it the queue works as well, only less long on a full disk.
    pub(super) fn open(directory: &Path, wanted: Wanted) -> Space {
        let space = Space {
            directory: directory.to_owned(),
            state: Mutex::default(),
        };
        // The first message must not wait for it. What is wrong shows in the log.
        let _ = space.check(wanted);
        space
    }

    /// Whether new mail may be taken now.
    pub(super) fn check(&self, wanted: Wanted) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if state.looked.is_none_or(|at| at.elapsed() >= GLANCE) {
            state.looked = Some(Instant::now());
            // A file system that cannot say is asked by the writes themselves.
            if let Ok(free) = free(&self.directory) {
                self.judge(&mut state, wanted, free);
            }
        }
        match &state.low {
            Some(why) => Err(StoreError::Full(why.clone())),
            None => Ok(()),
        }
    }

    fn judge(&self, state: &mut State, wanted: Wanted, free: u64) {
        let floor = match state.low {
            Some(_) => wanted.min_free.saturating_mul(2),
            None => wanted.min_free,
        };
        if free < floor {
            let why = format!("{free} bytes free, under queue.min_free");
            if state.low.is_none() {
                log::error!("the queue takes no new mail: {why}");
            }
            state.low = Some(why);
        } else if state.low.take().is_some() {
            log::info!("the queue takes new mail again: {free} bytes free");
        }
        if state.low.is_none()
            && let Err(error) = make_reserve(&self.directory.join(RESERVE), wanted.reserve)
        {
            log::warn!("no reserve in the queue directory: {error}");
        }
    }

    /// An outcome found the disk full: gives up the reserve for it. False if there is none left to give. New mail stays
    /// refused until there is room again, so that it cannot take what was freed.
    pub(super) fn give_up(&self) -> bool {
        let given = fs::remove_file(self.directory.join(RESERVE)).is_ok();
        if given {
            let mut state = lock(&self.state);
            state.looked = Some(Instant::now());
            state.low = Some("the disk is full".to_owned());
            log::error!("the disk is full: the queue's reserve was given up to record outcomes");
        }
        given
    }
}

#[cfg(test)]
impl Space {
    /// Where the reserve lies.
    pub(super) fn reserve(&self) -> PathBuf {
        self.directory.join(RESERVE)
    }
}

fn free(directory: &Path) -> io::Result<u64> {
    let stat = statvfs(directory)?;
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

/// Makes the reserve, or makes it as large as is wanted.
fn make_reserve(path: &Path, size: u64) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() == size => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if size == 0 {
        return Ok(());
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)?;
    let allocated = allocate(&file, size);
    if allocated.is_err() {
        // Half a reserve would pass for a whole one.
        let _ = fs::remove_file(path);
    }
    allocated
}

fn allocate(file: &File, size: u64) -> io::Result<()> {
    let size = i64::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
    posix_fallocate(file.as_fd(), 0, size)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TempDir;

    fn space(directory: &TempDir) -> Space {
        Space {
            directory: directory.path().to_owned(),
            state: Mutex::default(),
        }
    }

    const WANTED: Wanted = Wanted {
        min_free: 1000,
        reserve: 4096,
    };

    // ST-6
    #[test]
    fn new_mail_is_refused_under_the_floor_and_taken_again_at_twice_the_floor() {
        let directory = TempDir::new();
        let space = space(&directory);
        let refuses = |free| {
            let mut state = lock(&space.state);
            space.judge(&mut state, WANTED, free);
            state.low.is_some()
        };
        assert!(!refuses(1000));
        assert!(refuses(999));
        assert!(refuses(1999));
        assert!(!refuses(2000));
        assert!(!refuses(1000));
    }

    // ST-6, SEC-2
    #[test]
    fn the_reserve_is_given_up_once_and_made_again_when_there_is_room() {
        let directory = TempDir::new();
        let space = space(&directory);
        let reserve = directory.path().join(RESERVE);
        assert!(space.check(WANTED).is_ok());
        assert_eq!(fs::metadata(&reserve).unwrap().len(), 4096);
        assert!(space.give_up());
        assert!(!reserve.exists() && !space.give_up());
        assert!(matches!(space.check(WANTED), Err(StoreError::Full(_))));
        space.judge(&mut lock(&space.state), WANTED, 2000);
        assert!(space.check(WANTED).is_ok() && reserve.exists());
        // A link in its place is replaced, never followed.
        fs::remove_file(&reserve).unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &reserve).unwrap();
        make_reserve(&reserve, 4096).unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
    }
}
