//! Which final dots may be out, beside the database: what lets a start after a sudden end tell claims that may have been
//! delivered from those that cannot.
//!
//! A commit before each dot would say the same and cost as much as the one after it. But the death of a process takes nothing
//! from a file that was written without a sync; only that of the system does. So a worker writes 16 octets into `queue.db-dots`
//! just before its dot, without a sync, and the file counts at the next start only if the system still is the one that it was
//! written under, and the database the one beside which it was written. Otherwise all claims are in doubt, as Q-12 has it.
//!
//! The file: a header of [`HEADER`] octets, then records of a message's id and the ordinal of the attempt, which its
//! recipients in one transaction share (SC-10), each in 8 octets, little endian. A record is written over when its outcome is
//! committed and another dot needs a place.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::message::QueueId;

/// What the file begins with, filled up with blanks.
const HEADER: usize = 128;

/// Octets of a record.
const RECORD: usize = 16;

/// The number that Linux gives each of its starts.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// More than any number of workers writes.
const MOST: u64 = 16 << 20;

/// The dots of the run before, if its file may be believed.
#[derive(Debug, Default)]
pub(super) struct Before(Option<BTreeSet<(i64, i64)>>);

impl Before {
    /// Whether the dot of this message and attempt may be out.
    pub(super) fn may_be_out(&self, message: i64, attempt: i64) -> bool {
        self.0
            .as_ref()
            .is_none_or(|dots| dots.contains(&(message, attempt)))
    }
}

/// The file of this run. Without one, every dot may go out unwritten, for the next start will find none.
#[derive(Debug, Default)]
pub(super) struct Dots {
    path: PathBuf,
    file: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    file: Option<Arc<File>>,
    /// Places whose outcome is committed.
    free: Vec<u64>,
    /// Places in use so far.
    used: u64,
}

/// The place of a dot that may be out. Whoever has committed its outcome lets it go with [`Mark::settled`]; dropped otherwise,
/// it stays as it is.
#[derive(Debug)]
pub struct Mark {
    dots: Arc<Dots>,
    place: u64,
}

impl Mark {
    /// The outcome is on disk.
    pub fn settled(self) {
        self.dots.lock().free.push(self.place);
    }
}

/// The file's path.
fn path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push("-dots");
    name.into()
}

/// What the file must begin with to be believed; `None` where the system's starts cannot be told apart.
fn header(database: &Path) -> Option<[u8; HEADER]> {
    let boot = fs::read_to_string(BOOT).ok()?;
    let it = fs::metadata(database).ok()?;
    let text = format!(
        "posthaste dots 1 {} {}:{}",
        boot.trim_end(),
        it.dev(),
        it.ino()
    );
    let mut header = [b' '; HEADER];
    header
        .get_mut(..text.len())?
        .copy_from_slice(text.as_bytes());
    Some(header)
}

/// Reads what the run before has left beside `database`.
pub(super) fn read(database: &Path) -> Before {
    let read = || -> io::Result<Option<Vec<u8>>> {
        let file = File::open(path(database))?;
        let mut octets = Vec::new();
        file.take(MOST).read_to_end(&mut octets)?;
        Ok(Some(octets))
    };
    let octets = match read() {
        Ok(octets) => octets,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::warn!(
                "{}: {error}: all claims are in doubt",
                path(database).display()
            );
            None
        }
    };
    Before(octets.and_then(|octets| {
        let records = octets.strip_prefix(&header(database)?)?;
        Some(records.chunks_exact(RECORD).map(record).collect())
    }))
}

/// It is gone, or was never there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn record(octets: &[u8]) -> (i64, i64) {
    let number = |octets: &[u8]| octets.try_into().map_or(0, i64::from_le_bytes);
    let (message, attempt) = octets.split_at(RECORD / 2);
    (number(message), number(attempt))
}

impl Dots {
    /// Begins the file of this run, once nothing is claimed any more. Where none can be made there is none.
    ///
    /// # Errors
    ///
    /// That of the run before cannot be removed, so that the next start would believe it.
    pub(super) fn begin(database: &Path) -> io::Result<Dots> {
        let path = path(database);
        remove(&path)?;
        let begun = || -> io::Result<Option<Arc<File>>> {
            let Some(header) = header(database) else {
                return Ok(None);
            };
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all_at(&header, 0)?;
            Ok(Some(Arc::new(file)))
        };
        let file = begun().unwrap_or_else(|error| {
            log::warn!(
                "{}: {error}: after a sudden end all claims will be in doubt",
                path.display()
            );
            // Without its whole header it is not believed either.
            let _ = fs::remove_file(&path);
            None
        });
        Ok(Dots {
            path,
            file: Mutex::new(Places {
                file,
                ..Places::default()
            }),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Places> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that the dot of this message and attempt may be out from now on.
    ///
    /// # Errors
    ///
    /// It can neither be written nor the file be put away, which would say as much: the dot must not be sent.
    pub(super) fn mark(self: &Arc<Dots>, message: QueueId, attempt: u32) -> io::Result<Mark> {
        let (place, file) = {
            let mut places = self.lock();
            let place = places.free.pop().unwrap_or(places.used);
            places.used = places.used.max(place + 1);
            (place, places.file.clone())
        };
        let mark = Mark {
            dots: Arc::clone(self),
            place,
        };
        let Some(file) = file else { return Ok(mark) };
        let mut octets = [0; RECORD];
        let (id, ordinal) = octets.split_at_mut(RECORD / 2);
        id.copy_from_slice(&message.get().to_le_bytes());
        ordinal.copy_from_slice(&i64::from(attempt).to_le_bytes());
        let at = HEADER as u64 + place * RECORD as u64;
        if let Err(error) = file.write_all_at(&octets, at) {
            self.put_away(&error)?;
        }
        Ok(mark)
    }

    /// No file says as much as one that is full of dots.
    fn put_away(&self, why: &io::Error) -> io::Result<()> {
        let mut places = self.lock();
        if places.file.is_some() {
            remove(&self.path)?;
            places.file = None;
            log::warn!(
                "{}: {why}: after a sudden end all claims will be in doubt",
                self.path.display()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn id(number: i64) -> QueueId {
        QueueId::new(number).unwrap()
    }

    fn database() -> (TempDir, PathBuf) {
        let dir = TempDir::new();
        let database = dir.path().join("queue.db");
        fs::write(&database, "").unwrap();
        (dir, database)
    }

    //
    #[test]
    fn only_what_was_marked_by_the_run_before_may_be_out() {
        let (_dir, database) = database();
        let dots = Arc::new(Dots::begin(&database).unwrap());
        let first = dots.mark(id(7), 1).unwrap();
        let _second = dots.mark(id(8), 2).unwrap();
        // Its outcome is known: its place is another's.
        first.settled();
        let _third = dots.mark(id(9), 3).unwrap();
        let before = read(&database);
        assert!(before.may_be_out(8, 2) && before.may_be_out(9, 3));
        assert!(!before.may_be_out(7, 1), "settled, and written over");
        assert!(!before.may_be_out(8, 1), "a later claim of it");
        // A record that was cut off is no dot, and does not spoil the others.
        let file = OpenOptions::new()
            .append(true)
            .open(path(&database))
            .unwrap();
        io::Write::write_all(&mut &file, &[1; 5]).unwrap();
        assert!(read(&database).may_be_out(9, 3) && !read(&database).may_be_out(7, 1));
        // The next run begins with none.
        let _dots = Dots::begin(&database).unwrap();
        assert!(!read(&database).may_be_out(8, 2));
    }

    //
    #[test]
    fn a_file_of_another_start_of_the_system_or_another_database_or_none_says_nothing() {
        let (_dir, database) = database();
        assert!(read(&database).may_be_out(1, 1), "none");
        let dots = Arc::new(Dots::begin(&database).unwrap());
        let _mark = dots.mark(id(7), 1).unwrap();
        assert!(!read(&database).may_be_out(1, 1));
        let file = path(&database);
        let whole = fs::read(&file).unwrap();
        let mut other = whole.clone();
        other[20] ^= 1;
        fs::write(&file, other).unwrap();
        assert!(read(&database).may_be_out(1, 1), "another start");
        fs::write(&file, &whole[..HEADER / 2]).unwrap();
        assert!(read(&database).may_be_out(1, 1), "cut off");
        fs::write(&file, &whole).unwrap();
        assert!(!read(&database).may_be_out(1, 1));
        // A copy that was put in its place.
        fs::copy(&database, database.with_extension("copy")).unwrap();
        fs::rename(database.with_extension("copy"), &database).unwrap();
        assert!(read(&database).may_be_out(1, 1), "another database");
    }

    //
    #[test]
    fn a_file_of_the_run_before_that_cannot_be_removed_ends_the_start() {
        let (_dir, database) = database();
        // What remove_file(3) does not remove, whoever asks.
        fs::create_dir(path(&database)).unwrap();
        assert!(Dots::begin(&database).is_err());
        assert!(read(&database).may_be_out(1, 1));
    }

    //
    #[test]
    fn where_it_cannot_be_written_it_is_put_away_and_says_nothing() {
        let (_dir, database) = database();
        let dots = Arc::new(Dots::begin(&database).unwrap());
        let _mark = dots.mark(id(7), 1).unwrap();
        // Opened for reading alone: no write succeeds.
        dots.lock().file = Some(Arc::new(File::open(path(&database)).unwrap()));
        let _second = dots.mark(id(8), 1).unwrap();
        assert!(read(&database).may_be_out(1, 1) && !path(&database).exists());
        // From then on nothing is written, and nothing needs to be.
        let _third = dots.mark(id(9), 1).unwrap();
    }
}
