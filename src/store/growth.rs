//! Blocks for the database file, taken before the commit whose checkpoint will need them (ST-6).
//!
//! A commit goes to the write-ahead log; the database file grows only at the checkpoint. If the disk filled up between
//! the two, the checkpoint would fail, the log could not begin anew, and in the end not even an outcome would have
//! room. So what the log holds of new pages has its blocks in the database file already, behind its end where SQLite
//! does not see them. A checkpoint that has copied everything gives back what is left of them.
//!
//! The index of the log (`-shm`) grows with the log, after its sync: a disk that is full just then would leave a commit
//! whose outcome is unknown. Its few blocks are taken once, at start.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::fault;
use super::open::PAGE;
use super::shared::lock;

/// Pages taken beyond what is needed: 4 MiB, so that it is done rarely.
const AHEAD: i64 = 1024;

/// Octets of the index of a log of 256 MiB, beyond which it is an error (ST-14).
const INDEX: i64 = 512 << 10;

/// The database file, to hold blocks for it.
#[derive(Debug)]
pub(super) struct Growth {
    /// Never closed while SQLite has the file open: that would drop SQLite's locks on it (fcntl(2), POSIX locks).
    file: Option<File>,
    /// The index, for the same reason.
    _index: Option<File>,
    /// The database may have so many pages before blocks are taken again.
    pages: Mutex<i64>,
}

impl Growth {
    /// Of a database that SQLite has open. Without the files nothing is held, and a full disk is met later.
    pub(super) fn of(database: &Path) -> Growth {
        let open = |path: &Path| OpenOptions::new().write(true).open(path).ok();
        let mut index = database.as_os_str().to_owned();
        index.push("-shm");
        let index = open(Path::new(&index));
        if let Some(index) = &index {
            let _ = fallocate(index.as_fd(), FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, INDEX);
        }
        Growth {
            file: open(database),
            _index: index,
            pages: Mutex::new(0),
        }
    }

    /// Takes the blocks of a database of so many pages.
    ///
    /// # Errors
    /// There is no room for them.
    pub(super) fn hold(&self, pages: i64) -> nix::Result<()> {
        let mut held = lock(&self.pages);
        let Some(file) = self.file.as_ref().filter(|_| pages > *held) else {
            return Ok(());
        };
        let from = file.metadata().map_or(0, |found| found.len());
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        *held = from / PAGE;
        if pages <= *held {
            return Ok(());
        }
        for wanted in [pages + AHEAD, pages] {
            let (keep, length) = (FallocateFlags::FALLOC_FL_KEEP_SIZE, wanted * PAGE - from);
            match fallocate(file.as_fd(), keep, from, length) {
                Ok(()) => {
                    *held = wanted;
                    return Ok(());
                }
                // A filesystem that cannot do this never will.
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                    *held = i64::MAX;
                    return Ok(());
                }
                Err(error) if fault::is_room(error) => {
                    if wanted == pages {
                        return Err(error);
                    }
                }
                // The writes themselves will say.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// A checkpoint was complete: SQLite has cut the file to its length, and the blocks behind it are gone.
    pub(super) fn cut(&self) {
        let mut held = lock(&self.pages);
        if *held < i64::MAX {
            *held = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TempDir;
    use std::os::unix::fs::MetadataExt;

    // ST-6
    #[test]
    fn blocks_are_taken_behind_the_end_of_the_file_and_again_after_a_cut() {
        let directory = TempDir::new();
        let path = directory.path().join("file");
        std::fs::write(&path, vec![b'x'; 3 * PAGE as usize]).unwrap();
        let blocks = || std::fs::metadata(&path).unwrap().blocks() * 512;
        let growth = Growth::of(&path);
        let few = blocks();
        growth.hold(4).unwrap();
        let many = blocks();
        assert!(many >= few + PAGE as u64);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 3 * PAGE as u64);
        // Within what is held nothing is asked of the system, so it may have gone.
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(3 * PAGE as u64)
            .unwrap();
        growth.hold(4).unwrap();
        assert!(blocks() < many);
        growth.cut();
        growth.hold(4).unwrap();
        assert!(blocks() >= few + PAGE as u64);
    }

    // ST-5, ST-6
    #[test]
    fn a_file_that_cannot_grow_so_far_is_no_room() {
        let directory = TempDir::new();
        let path = directory.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let growth = Growth::of(&path);
        let room = growth.hold(i64::MAX / PAGE / 2);
        assert!(
            matches!(room, Err(Errno::ENOSPC | Errno::EFBIG)),
            "{room:?}"
        );
        assert!(growth.hold(1).is_ok());
        assert!(Growth::of(&directory.path().join("none")).hold(1).is_ok());
    }
}
