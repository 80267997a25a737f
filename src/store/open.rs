//! The files of the queue: directory, lock, creation, refusal of what is not ours, and the settings of connections.
//!
//! Nothing is ever repaired by deleting, and no empty queue is made where another one was (ST-11).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{
    AFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, CODA_SUPER_MAGIC, F2FS_SUPER_MAGIC, FUSE_SUPER_MAGIC,
    FsType, NCP_SUPER_MAGIC, NFS_SUPER_MAGIC, NILFS_SUPER_MAGIC, SMB_SUPER_MAGIC, statfs,
};
use rusqlite::types::FromSql;
use rusqlite::{Connection, OpenFlags};

use super::OpenError;
use super::schema::{self, APPLICATION_ID};

/// Name of the database in the queue directory.
pub(super) const DATABASE: &str = "queue.db";

/// While it is being made; never a queue.
const UNFINISHED: &str = "queue.db.new";

/// Octets of a page.
pub(super) const PAGE: i64 = 4096;

/// A size over which the log is cut when it starts anew.
const WAL_KEPT: i64 = 64 << 20;

/// At start another process (sqlite3(1), a backup) may hold a lock for a moment; our own threads never do.
const BUSY: Duration = Duration::from_secs(10);

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The only one that writes.
    Writer,
    /// Short read transactions.
    Reader,
    /// The only one that checkpoints.
    Checkpointer,
}

/// The queue directory with its lock, which ends with the process and leaves nothing to remove (ST-9).
#[derive(Debug)]
pub(super) struct Files {
    /// The database.
    pub(super) database: PathBuf,
    /// Its write-ahead log.
    pub(super) wal: PathBuf,
    /// Holds the lock.
    lock: File,
}

/// A child that was forked a moment ago has the lock too, until its exec; so it is given up, not only closed.
impl Drop for Files {
    fn drop(&mut self) {
        // Where that fails, the end of the last who has it does.
        let _ = self.lock.unlock();
    }
}

/// Makes or checks the directory, takes the lock, makes the database if there is none.
pub(super) fn prepare(directory: &Path) -> Result<Files, OpenError> {
    check_version(rusqlite::version_number())?;
    make_directory(directory)?;
    check_filesystem(directory)?;
    let lock = lock(directory)?;
    let database = directory.join(DATABASE);
    let wal = directory.join(format!("{DATABASE}-wal"));
    match fs::metadata(&database) {
        Ok(metadata) => check_header(&database, &metadata)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if wal.exists() {
                return Err(OpenError::Refused(format!(
                    "{} is missing but its -wal file is there: put the database back",
                    database.display()
                )));
            }
            create(directory)?;
        }
        Err(error) => return Err(system(&database, &error)),
    }
    Ok(Files {
        database,
        wal,
        lock,
    })
}

fn system(path: &Path, error: &dyn std::fmt::Display) -> OpenError {
    OpenError::System(format!("{}: {error}", path.display()))
}

/// ST-1. Versions whose WAL reset can lose commits, but for two repaired ones.
fn check_version(version: i32) -> Result<(), OpenError> {
    const REPAIRED: [i32; 2] = [3_044_006, 3_050_007];
    if (3_007_000..=3_051_002).contains(&version) && !REPAIRED.contains(&version) {
        return Err(OpenError::Refused(format!(
            "SQLite {}.{}.{} can lose commits (WAL reset bug); 3.51.3 or later is needed",
            version / 1_000_000,
            version / 1000 % 1000,
            version % 1000
        )));
    }
    Ok(())
}

/// ST-10. Ours and 0700; synced once, with its parent, when it is new.
fn make_directory(path: &Path) -> Result<(), OpenError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {
            sync_directory(path)?;
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                sync_directory(parent)?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(system(path, &error)),
    }
    let metadata = fs::metadata(path).map_err(|error| system(path, &error))?;
    if !metadata.is_dir() {
        return Err(OpenError::Refused(format!(
            "{} is not a directory",
            path.display()
        )));
    }
    let us = nix::unistd::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(OpenError::Refused(format!(
            "{} belongs to uid {}, the daemon runs as uid {us}",
            path.display(),
            metadata.uid()
        )));
    }
    if metadata.mode() & 0o7777 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
            .map_err(|error| system(path, &error))?;
    }
    Ok(())
}

fn sync_directory(path: &Path) -> Result<(), OpenError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| system(path, &error))
}

/// ST-10. WAL needs shared memory and locks that all users of the file see; network filesystems have neither.
fn check_filesystem(path: &Path) -> Result<(), OpenError> {
    let kind = statfs(path)
        .map_err(|error| system(path, &error))?
        .filesystem_type();
    match network_name(kind) {
        Some(name) => Err(OpenError::Refused(format!(
            "{} is on {name}; the queue needs a local filesystem",
            path.display()
        ))),
        None => Ok(()),
    }
}

fn network_name(kind: FsType) -> Option<&'static str> {
    // linux/magic.h and the kernel's own headers for those that nix does not name.
    const SMB2: FsType = FsType(0xfe53_4d42);
    const CIFS: FsType = FsType(0xff53_4d42);
    const CEPH: FsType = FsType(0x00c3_6400);
    const V9FS: FsType = FsType(0x0102_1997);
    const LUSTRE: FsType = FsType(0x0bd0_0bd0);
    Some(match kind {
        NFS_SUPER_MAGIC => "NFS",
        SMB_SUPER_MAGIC | SMB2 | CIFS => "SMB",
        AFS_SUPER_MAGIC => "AFS",
        CODA_SUPER_MAGIC => "Coda",
        NCP_SUPER_MAGIC => "NCP",
        // sshfs, GlusterFS and the like; what is behind FUSE cannot be told from here.
        FUSE_SUPER_MAGIC => "FUSE",
        CEPH => "Ceph",
        V9FS => "9P",
        LUSTRE => "Lustre",
        _ => return None,
    })
}

/// ST-9.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| system(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(format!(
            "another posthasted is using {}",
            directory.display()
        ))),
        Err(TryLockError::Error(error)) => Err(system(&path, &error)),
    }
}

/// ST-11. What can be told from the first page alone; the rest is [`check_contents`].
fn check_header(path: &Path, metadata: &fs::Metadata) -> Result<(), OpenError> {
    let refuse = |why: &str| Err(OpenError::Refused(format!("{}: {why}", path.display())));
    if !metadata.is_file() {
        return refuse("not a regular file");
    }
    if metadata.len() == 0 {
        return refuse("empty; it was a queue or never one, and nothing is made over it");
    }
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    if let Err(error) = read {
        if error.kind() != io::ErrorKind::UnexpectedEof {
            return Err(system(path, &error));
        }
        return refuse("damaged: shorter than a header");
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return refuse("not an SQLite database, or its first page is damaged");
    }
    // Set before the file got its name, so no log can hold another value.
    let id = i32::from_be_bytes([header[68], header[69], header[70], header[71]]);
    if id != APPLICATION_ID {
        return refuse("an SQLite database, but not a posthaste queue");
    }
    Ok(())
}

/// Makes a new queue under another name and gives it its own when it is whole: a crash leaves all or nothing, and an
/// empty `queue.db` is never ours.
fn create(directory: &Path) -> Result<(), OpenError> {
    let unfinished = directory.join(UNFINISHED);
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = directory.join(format!("{UNFINISHED}{suffix}"));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(system(&path, &error));
            }
            _ => {}
        }
    }
    // SQLite gives the -wal and -shm files the mode of the database.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .map_err(|error| system(&unfinished, &error))?;
    let made = (|| {
        let mut conn = open_file(&unfinished)?;
        conn.pragma_update(None, "page_size", PAGE)?;
        conn.pragma_update(None, "application_id", APPLICATION_ID)?;
        settings(&mut conn, Role::Writer)?;
        schema::migrate(&mut conn)?;
        conn.close().map_err(|(_, error)| ConnectError::Sql(error))
    })();
    made.map_err(|error: ConnectError| error.at(&unfinished))?;
    file.sync_all()
        .map_err(|error| system(&unfinished, &error))?;
    fs::rename(&unfinished, directory.join(DATABASE))
        .map_err(|error| system(&unfinished, &error))?;
    sync_directory(directory)
}

/// Why a connection cannot be used.
enum ConnectError {
    Sql(rusqlite::Error),
    Open(OpenError),
}

impl From<rusqlite::Error> for ConnectError {
    fn from(error: rusqlite::Error) -> ConnectError {
        ConnectError::Sql(error)
    }
}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> ConnectError {
        ConnectError::Open(error)
    }
}

impl ConnectError {
    fn at(self, path: &Path) -> OpenError {
        use rusqlite::ErrorCode::{CannotOpen, DatabaseBusy, DiskFull, ReadOnly, SystemIoFailure};
        match self {
            ConnectError::Open(error) => error,
            ConnectError::Sql(error) => match error.sqlite_error_code() {
                Some(CannotOpen | DiskFull | ReadOnly | SystemIoFailure) => system(path, &error),
                Some(DatabaseBusy) => {
                    OpenError::Locked(format!("{}: in use by another program", path.display()))
                }
                _ => OpenError::Refused(format!("{}: damaged? {error}", path.display())),
            },
        }
    }
}

/// Where the index of the log is: in a file, the `-shm`, mapped by whoever has the database open. But on a filesystem that
/// writes changes to another place, a mapped page needs room for each change, and where a full disk or quota has none the
/// system's only way to say so is SIGBUS. There the index is in memory of our own, and no other program can open the file.
fn vfs_for(path: &Path) -> &'static str {
    let elsewhere = statfs(path).is_ok_and(|found| writes_elsewhere(found.filesystem_type()));
    if elsewhere { "unix-excl" } else { "unix" }
}

fn writes_elsewhere(kind: FsType) -> bool {
    const BCACHEFS: FsType = FsType(0xca45_1a4e);
    const ZFS: FsType = FsType(0x2fc1_2fc1);
    [
        BTRFS_SUPER_MAGIC,
        F2FS_SUPER_MAGIC,
        NILFS_SUPER_MAGIC,
        BCACHEFS,
        ZFS,
    ]
    .contains(&kind)
}

fn open_file(path: &Path) -> rusqlite::Result<Connection> {
    // No CREATE: an absent file is an error. No mutex: each connection is used by one thread at a time.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags_and_vfs(path, flags, vfs_for(path))?;
    conn.busy_timeout(BUSY)?;
    Ok(conn)
}

/// Opens a connection with all settings made and read back (ST-2).
pub(super) fn connect(path: &Path, role: Role) -> Result<Connection, OpenError> {
    let made = (|| {
        let mut conn = open_file(path)?;
        settings(&mut conn, role)?;
        Ok(conn)
    })();
    made.map_err(|error: ConnectError| error.at(path))
}

/// ST-2.
fn settings(conn: &mut Connection, role: Role) -> Result<(), ConnectError> {
    set(conn, "journal_mode", "wal".to_owned())?;
    set(conn, "synchronous", 2)?; // FULL
    set(conn, "foreign_keys", 1)?;
    set(conn, "trusted_schema", 0)?;
    set(conn, "cell_size_check", 1)?;
    set(conn, "mmap_size", 0)?;
    // One thread alone checkpoints.
    set(conn, "wal_autocheckpoint", 0)?;
    set(conn, "journal_size_limit", WAL_KEPT)?;
    set(conn, "temp_store", 2)?; // memory
    // KiB, negative. Bounded, whatever the length of the queue. The writer's is small too: a commit that moved pages
    // while it balanced a tree looks through all that is cached, and what few pages more would hit costs less than that.
    // A reader's pages are worth nothing after the next commit, so it needs no more than one of its reads touches.
    set(
        conn,
        "cache_size",
        if role == Role::Writer { -2048 } else { -512 },
    )?;
    set(conn, "query_only", i64::from(role == Role::Reader))?;
    conn.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Gives the connection's page cache back; it fills again as it is used (PRC-7).
pub(super) fn shrink(conn: &Connection) -> rusqlite::Result<()> {
    conn.execute_batch("PRAGMA shrink_memory")
}

/// Makes a transaction that has begun read something, which is when its snapshot is taken.
pub(super) fn pin(conn: &Connection) -> rusqlite::Result<()> {
    schema::version(conn).map(drop)
}

/// For a file that is a queue only once it is whole and synced: no journal, no syncs by SQLite.
pub(super) fn unsafe_but_fast(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update_and_check(None, "journal_mode", "off", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", 0)?;
    conn.pragma_update(None, "cache_size", -1024)
}

/// Sets a pragma and reads it back on its own, because some only seem to accept a value.
fn set<T>(conn: &Connection, name: &str, value: T) -> Result<(), ConnectError>
where
    T: rusqlite::ToSql + FromSql + PartialEq + std::fmt::Display,
{
    conn.pragma_update_and_check(None, name, &value, |_| Ok(()))
        .or_else(|error| match error {
            rusqlite::Error::QueryReturnedNoRows => Ok(()),
            other => Err(other),
        })?;
    let found: Option<T> = conn
        .pragma_query_value(None, name, |row| row.get(0))
        .map(Some)
        .or_else(|error| match error {
            // `mmap_size` has no value where the VFS cannot map.
            rusqlite::Error::QueryReturnedNoRows => Ok(None),
            other => Err(other),
        })?;
    match found {
        Some(found) if found != value => Err(ConnectError::Open(OpenError::Refused(format!(
            "SQLite refuses to set {name} to {value}: it stays {found}"
        )))),
        _ => Ok(()),
    }
}

/// ST-11. A look at the edges of everything, cheap at any size: what is damaged as a whole is refused here, a damaged
/// row is met when it is used.
pub(super) fn check_contents(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    look(conn).map_err(|error| ConnectError::Sql(error).at(path))
}

fn look(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("SELECT next_id FROM queue WHERE one = 1", [], |row| {
        row.get::<_, i64>(0)
    })?;
    for table in ["message", "chunk", "unowned", "destination", "recipient"] {
        for end in ["min", "max"] {
            conn.query_row(
                &format!("SELECT {end}(id) FROM {table}")
                    .replace("(id) FROM unowned", "(message) FROM unowned"),
                [],
                |row| row.get::<_, Option<i64>>(0),
            )?;
        }
    }
    for (index, column, condition) in [
        ("recipient_due", "destination", "state = 0"),
        ("recipient_state", "state", "state < 3"),
        ("recipient_next", "next_attempt", "state < 3"),
    ] {
        conn.query_row(
            &format!("SELECT min({column}) FROM recipient INDEXED BY {index} WHERE {condition}"),
            [],
            |row| row.get::<_, Option<i64>>(0),
        )?;
    }
    conn.query_row(
        "SELECT count(*) FROM (SELECT 1 FROM attempt LIMIT 1)",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    conn.query_row(
        "SELECT count(*) FROM (SELECT 1 FROM pause LIMIT 1)",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::{TempDir, writable};

    // ST-9
    #[test]
    fn the_lock_ends_with_its_owner_though_a_child_that_is_about_to_exec_has_it_too() {
        let directory = TempDir::new();
        let queue = directory.path().join("queue");
        let files = prepare(&queue).unwrap();
        assert!(matches!(prepare(&queue), Err(OpenError::Locked(_))));
        let _child = files.lock.try_clone().unwrap();
        drop(files);
        assert!(prepare(&queue).is_ok());
    }

    // ST-5
    #[test]
    fn where_changes_are_written_elsewhere_the_index_of_the_log_is_in_no_file() {
        assert!(writes_elsewhere(BTRFS_SUPER_MAGIC));
        assert!(!writes_elsewhere(nix::sys::statfs::EXT4_SUPER_MAGIC));
        assert!(!writes_elsewhere(nix::sys::statfs::TMPFS_MAGIC));
        // And it is common to all connections of the process all the same.
        let directory = TempDir::new();
        let path = directory.path().join("file");
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let open = || {
            let mut conn = Connection::open_with_flags_and_vfs(&path, flags, "unix-excl").unwrap();
            assert!(settings(&mut conn, Role::Writer).is_ok());
            conn
        };
        let (writer, reader) = (open(), open());
        writer.execute_batch("CREATE TABLE t AS SELECT 77").unwrap();
        let seen = reader.query_row("SELECT * FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(seen, Ok(77));
        assert!(directory.path().join("file-wal").exists());
        assert!(!directory.path().join("file-shm").exists());
    }

    // ST-1
    #[test]
    fn sqlite_versions_with_the_wal_reset_bug_are_refused() {
        for bad in [3_007_000, 3_044_005, 3_044_007, 3_050_006, 3_051_002] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
        for good in [3_044_006, 3_050_007, 3_051_003, rusqlite::version_number()] {
            assert!(check_version(good).is_ok(), "{good}");
        }
    }

    // ST-10
    #[test]
    fn network_filesystems_are_known_by_their_magic() {
        assert_eq!(network_name(NFS_SUPER_MAGIC), Some("NFS"));
        assert_eq!(network_name(FsType(0xff53_4d42)), Some("SMB"));
        assert_eq!(network_name(nix::sys::statfs::EXT4_SUPER_MAGIC), None);
        assert_eq!(network_name(nix::sys::statfs::TMPFS_MAGIC), None);
    }

    // ST-10
    #[test]
    fn the_directory_becomes_ours_alone_and_nothing_else_is_taken_for_it() {
        let directory = TempDir::new();
        let path = directory.path().join("queue");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        drop(prepare(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        for name in ["queue.db", "lock"] {
            let mode = fs::metadata(path.join(name)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o600, "{name}");
        }
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(prepare(&file), Err(OpenError::Refused(_))));
        let nowhere = directory.path().join("a/b");
        assert!(matches!(prepare(&nowhere), Err(OpenError::System(_))));
    }

    // ST-11
    #[test]
    fn no_new_queue_is_made_where_a_log_of_another_lies() {
        let directory = TempDir::new();
        let path = directory.path().join("queue");
        drop(prepare(&path).unwrap());
        fs::rename(path.join("queue.db"), path.join("away")).unwrap();
        fs::write(path.join("queue.db-wal"), "frames").unwrap();
        assert!(matches!(prepare(&path), Err(OpenError::Refused(_))));
        assert!(!path.join("queue.db").exists());
    }

    // ST-11, Q-16
    #[test]
    fn a_queue_that_was_not_finished_being_made_is_made_anew() {
        let directory = TempDir::new();
        let path = directory.path().join("queue");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(UNFINISHED), "half").unwrap();
        fs::write(path.join("queue.db.new-wal"), "half").unwrap();
        drop(prepare(&path).unwrap());
        assert!(path.join("queue.db").exists() && !path.join(UNFINISHED).exists());
    }

    // ST-2
    #[test]
    fn every_connection_has_its_settings_and_readers_cannot_write() {
        let directory = TempDir::new();
        let (files, _conn, _) = writable(&directory);
        for role in [Role::Writer, Role::Reader, Role::Checkpointer] {
            let conn = connect(&files.database, role).unwrap();
            let number = |name: &str| -> i64 {
                conn.pragma_query_value(None, name, |row| row.get(0))
                    .unwrap()
            };
            let mode: String = conn
                .pragma_query_value(None, "journal_mode", |row| row.get(0))
                .unwrap();
            assert_eq!(mode, "wal");
            assert_eq!(number("synchronous"), 2);
            assert_eq!(number("foreign_keys"), 1);
            assert_eq!(number("trusted_schema"), 0);
            assert_eq!(number("cell_size_check"), 1);
            assert_eq!(number("wal_autocheckpoint"), 0);
            let wrote = conn.execute("DELETE FROM pause", []);
            assert_eq!(wrote.is_err(), role == Role::Reader);
        }
    }

    // ST-2, ST-10
    #[test]
    fn a_setting_that_does_not_stick_stops_the_start() {
        let conn = Connection::open_in_memory().unwrap();
        let refused = set(&conn, "journal_mode", "wal".to_owned());
        assert!(matches!(
            refused,
            Err(ConnectError::Open(OpenError::Refused(text))) if text.contains("journal_mode")
        ));
    }
}
