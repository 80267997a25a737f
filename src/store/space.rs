//! Room on the disk: new mail is refused before there is none, and a reserve keeps room for outcomes (ST-5, ST-6).
//!
//! The floor has a hysteresis: under `queue.min_free` new mail is refused, and taken again at twice that. The reserve is
//! a file of `queue.reserve` octets beside the database. It is given up when an outcome, an operator's change or a
//! checkpoint finds the disk full; from then on the writer does nothing that can wait, so that nothing else takes what was
//! freed, and no delivery is begun whose outcome might have no room. Once outcomes have found room for a while and there
//! is enough for the reserve as well, it is made again and everything goes on.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, posix_fallocate};
use nix::sys::statvfs::statvfs;

use super::StoreError;
use super::shared::lock;

/// Name of the reserve in the queue directory.
const RESERVE: &str = "reserve";

/// A look at the file system serves all messages of this time.
const GLANCE: Duration = Duration::from_millis(500);

/// The reserve is not made again until no outcome has found the disk full for so long.
const QUIET: Duration = Duration::from_secs(5);

/// Free octets under which there is no reserve to be made, however small, and a start needs the one there is.
const SLACK: u64 = 1 << 20;

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
    tight: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    /// New mail is refused, for this reason.
    low: Option<String>,
    /// When an outcome or a checkpoint last found the disk full, if it is not known to have passed.
    full: Option<Instant>,
    /// It has been said that there is no reserve.
    told: bool,
}

impl Space {
    /// Makes the reserve if there is room for it; without it the queue works as well, only less long on a full disk.
    pub(super) fn open(directory: &Path, wanted: Wanted) -> Space {
        let space = Space {
            directory: directory.to_owned(),
            state: Mutex::default(),
            tight: AtomicBool::new(false),
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

    /// Only what must be recorded may be written: the reserve is in use.
    pub(super) fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Acquire)
    }

    fn judge(&self, state: &mut State, wanted: Wanted, mut free: u64) {
        if state.full.is_some_and(|last| last.elapsed() < QUIET) {
            return;
        }
        let reserve = self.directory.join(RESERVE);
        if !is_reserve(&reserve, wanted.reserve) {
            let made = if free < wanted.reserve.max(SLACK).saturating_mul(2) {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                make_reserve(&reserve, wanted.reserve)
            };
            match made {
                Ok(()) => free -= wanted.reserve,
                Err(error) => {
                    if !std::mem::replace(&mut state.told, true) && wanted.reserve > 0 {
                        log::warn!("no reserve in the queue directory: {error}");
                    }
                    if state.full.is_some() {
                        return;
                    }
                }
            }
        }
        if state.full.take().is_some() {
            self.tight.store(false, Ordering::Release);
            state.told = false;
            log::info!("the queue has room again: {free} bytes free");
        }
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
    }

    /// What must be recorded found the disk full: gives up the reserve for it. False if there is none left to give.
    /// Nothing else is written until there is room again.
    pub(super) fn give_up(&self, why: &str) -> bool {
        let mut state = lock(&self.state);
        let given = fs::remove_file(self.directory.join(RESERVE)).is_ok();
        if state.full.replace(Instant::now()).is_none() {
            self.tight.store(true, Ordering::Release);
            state.low = Some("the disk is full".to_owned());
            let reserve = if given { "given up" } else { "missing" };
            log::error!(
                "the queue has no room: {why}; no new mail, no new attempts; the reserve that records outcomes is {reserve}"
            );
        }
        given
    }
}

/// Before the database is opened: even reading it takes a few blocks. On a disk without them the reserve goes.
pub(super) fn make_room_to_start(directory: &Path) {
    let short = free(directory).is_ok_and(|free| free < SLACK);
    if short && fs::remove_file(directory.join(RESERVE)).is_ok() {
        log::error!("the disk is full: the queue's reserve was given up to start");
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

fn is_reserve(path: &Path, size: u64) -> bool {
    match fs::symlink_metadata(path) {
        Ok(found) => size > 0 && found.is_file() && found.len() == size,
        Err(error) => size == 0 && error.kind() == io::ErrorKind::NotFound,
    }
}

/// Makes the reserve, or makes it as large as is wanted.
fn make_reserve(path: &Path, size: u64) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
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
            tight: AtomicBool::new(false),
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
        assert!(space.give_up("full") && space.is_tight());
        assert!(!reserve.exists() && !space.give_up("full"));
        assert!(matches!(space.check(WANTED), Err(StoreError::Full(_))));
        let plenty = 4 * SLACK;
        let look = |free| space.judge(&mut lock(&space.state), WANTED, free);
        // An outcome has just found the disk full; what it was given is not taken back.
        look(plenty);
        assert!(space.is_tight() && !reserve.exists());
        let quiet = Instant::now().checked_sub(QUIET);
        lock(&space.state).full = quiet;
        look(SLACK);
        assert!(space.is_tight() && !reserve.exists());
        look(plenty);
        assert!(!space.is_tight() && reserve.exists() && space.check(WANTED).is_ok());
        // A link in its place is replaced, never followed.
        fs::remove_file(&reserve).unwrap();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "mine").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &reserve).unwrap();
        look(plenty);
        assert_eq!(fs::read(&elsewhere).unwrap(), b"mine");
        assert!(is_reserve(&reserve, 4096));
    }

    // ST-5, ST-6
    #[test]
    fn without_a_reserve_a_full_disk_still_stops_what_can_wait_until_it_has_room() {
        let directory = TempDir::new();
        let space = space(&directory);
        let none = Wanted::default();
        assert!(!space.give_up("full") && space.is_tight());
        lock(&space.state).full = Instant::now().checked_sub(QUIET);
        space.judge(&mut lock(&space.state), none, SLACK);
        assert!(!space.is_tight());
    }
}
