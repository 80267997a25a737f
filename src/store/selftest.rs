//! How durable, and how fast, is the disk under the queue? (ST-19)
//!
//! At each start a file beside the database gets what a small commit writes to the log, twenty times, each synced. Nobody
//! can tell from here whether a disk lies, but one that says it has written before it can have is a lie, and barriers that
//! are switched off are in the mount table. It runs beside the daemon, which is ready meanwhile, and ends after a second or
//! with the store.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::log::Line;

/// Syncs that are timed.
const SYNCS: usize = 20;

/// The longest that all of them may take, but for the one that is under way.
const LIMIT: Duration = Duration::from_secs(1);

/// No disk is as fast as that; a battery-backed controller or flash with capacitors takes longer to answer.
const TOO_FAST: Duration = Duration::from_micros(20);

/// A page of the log with its header, twice: the least that a commit writes.
const COMMIT: usize = 2 * (4096 + 24);

/// Its name in the queue directory; left there by a crash it is used again.
const NAME: &str = "selftest";

/// Mount options with which a sync is no promise. Neither `data=writeback` nor `noatime` is one of them: the data of a
/// synced file is on disk before fsync returns, whatever the order of the rest.
const NO_BARRIERS: [&str; 5] = [
    "nobarrier",
    "barrier=0",
    "barrier=none",
    "fsync_mode=nobarrier",
    "volatile", // overlayfs: it does not sync at all
];

/// File systems in memory: gone with the machine.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// What the kernel says about the mount that holds a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mount {
    /// `ext4`
    kind: String,
    /// Flags of the mount and of the file system, with commas between.
    options: String,
}

impl Mount {
    /// Why this mount keeps no promise, if one can tell.
    fn fault(&self) -> Option<String> {
        if IN_MEMORY.contains(&self.kind.as_str()) {
            return Some(format!(
                "{} is memory and is gone with the power",
                self.kind
            ));
        }
        let bad = self
            .options
            .split(',')
            .find(|option| NO_BARRIERS.contains(option))?;
        Some(format!(
            "mounted with {bad}: a sync does not reach the disk"
        ))
    }
}

/// Measures and logs.
pub(super) fn run(directory: &Path, shared: &Shared) {
    let mount = mount_of(directory).unwrap_or_default();
    let over = || shared.check_open().is_err();
    let syncs = match time_syncs(&directory.join(NAME), &over) {
        Ok(syncs) => syncs,
        // A full disk has its own messages.
        Err(error) => {
            return log::warn!("the durability of the queue could not be tested: {error}");
        }
    };
    let Some(median) = median(syncs).filter(|_| !over()) else {
        return;
    };
    let ceiling = per_second(median);
    Line::new("durability")
        .key("filesystem", &mount.kind)
        .key("options", &mount.options)
        .key("sync", format_args!("{}us", median.as_micros()))
        .num("ceiling", ceiling)
        .peer(
            "text",
            "messages a second that wait for a sync of their own; those that come together share one",
        )
        .info();
    let faults = [mount.fault(), lie(median)];
    for fault in faults.into_iter().flatten() {
        Line::new("durability")
            .peer("fault", &fault)
            .peer("text", "mail that was accepted may be lost with the power")
            .warn();
    }
}

/// Whether a sync comes back sooner than it can.
fn lie(median: Duration) -> Option<String> {
    (median < TOO_FAST).then(|| {
        format!(
            "a sync takes {} us: something below answers before it has written",
            median.as_micros()
        )
    })
}

fn per_second(median: Duration) -> u64 {
    (1e9 / (median.as_nanos().max(1) as f64)) as u64
}

fn median(mut syncs: Vec<Duration>) -> Option<Duration> {
    syncs.sort_unstable();
    syncs.get(syncs.len() / 2).copied()
}

/// The file is removed on every way out.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The times of [`SYNCS`] synced writes, or of as many as there was time for.
fn time_syncs(path: &Path, over: &dyn Fn() -> bool) -> io::Result<Vec<Duration>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let _scratch = Scratch(path.to_owned());
    // As in a log that began anew the blocks are there already, so that a sync is one of data alone.
    let mut content = vec![0x5a; COMMIT];
    file.write_all_at(&content, 0)?;
    file.sync_all()?;
    let began = Instant::now();
    let mut syncs = Vec::with_capacity(SYNCS);
    while syncs.len() < SYNCS && (syncs.is_empty() || began.elapsed() < LIMIT) && !over() {
        content[0] = content[0].wrapping_add(1);
        let start = Instant::now();
        file.write_all_at(&content, 0)?;
        file.sync_data()?;
        syncs.push(start.elapsed());
    }
    Ok(syncs)
}

fn mount_of(directory: &Path) -> Option<Mount> {
    let device = File::open(directory).ok()?.metadata().ok()?.dev();
    let real = fs::canonicalize(directory).ok()?;
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    find(&table, device, &real)
}

/// The mount in proc_pid_mountinfo(5) that holds `path`: the deepest one, the last of several in one place. Where the
/// device is known from the table it must be the same; btrfs and overlayfs show others.
fn find(table: &str, device: u64, path: &Path) -> Option<Mount> {
    let number = format!(
        "{}:{}",
        nix::sys::stat::major(device),
        nix::sys::stat::minor(device)
    );
    let mut best: Option<(bool, usize, Mount)> = None;
    for line in table.lines() {
        let Some((place, system)) = line.split_once(" - ") else {
            continue;
        };
        let place: Vec<&str> = place.split(' ').collect();
        let system: Vec<&str> = system.split(' ').collect();
        let (Some(id), Some(point), Some(flags)) = (place.get(2), place.get(4), place.get(5))
        else {
            continue;
        };
        let point = unescape(point);
        if !path.starts_with(&point) {
            continue;
        }
        let known = *id == number;
        let rank = (known, point.len());
        if best
            .as_ref()
            .is_some_and(|(known, length, _)| rank < (*known, *length))
        {
            continue;
        }
        let mut options: Vec<&str> = flags.split(',').collect();
        let more = system.get(2).copied().unwrap_or_default();
        options.extend(
            more.split(',')
                .filter(|option| !flags.split(',').any(|flag| flag == *option)),
        );
        let mount = Mount {
            kind: system.first().copied().unwrap_or_default().to_owned(),
            options: options.join(","),
        };
        best = Some((known, point.len(), mount));
    }
    best.map(|(_, _, mount)| mount)
}

/// Blanks and the like are octal in that file.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, c)| text.replace(code, c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::TempDir;

    const TABLE: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
30 22 0:26 / /run rw,nosuid shared:2 - tmpfs tmpfs rw,size=1024k
41 22 254:17 / /var/lib/post\\040haste rw,noatime shared:9 - ext4 /dev/vdb1 rw,nobarrier
42 22 0:40 /sub /data rw - btrfs /dev/vdc rw,compress=no
43 22 254:17 / /over rw,noatime - ext4 /dev/vdb1 rw,data=writeback
";

    fn dev(major: u64, minor: u64) -> u64 {
        nix::sys::stat::makedev(major, minor)
    }

    // ST-19
    #[test]
    fn the_mount_of_a_directory_is_the_deepest_one_with_its_device() {
        let of = |device, path| find(TABLE, device, Path::new(path)).unwrap();
        let root = of(dev(254, 1), "/var/spool");
        assert_eq!(root.kind, "ext4");
        assert_eq!(root.options, "rw,relatime,errors=remount-ro");
        let own = of(dev(254, 17), "/var/lib/post haste/queue");
        assert_eq!(own.options, "rw,noatime,nobarrier");
        // The device of a subvolume is not in the table.
        assert_eq!(of(dev(0, 99), "/data/queue").kind, "btrfs");
        assert_eq!(find("", 0, Path::new("/")), None);
        assert_eq!(find("rubbish\n - \n", 0, Path::new("/")), None);
    }

    // ST-19
    #[test]
    fn missing_barriers_memory_and_syncs_that_cannot_be_true_are_named() {
        let of = |device, path| find(TABLE, device, Path::new(path)).unwrap().fault();
        let nobarrier = of(dev(254, 17), "/var/lib/post haste").unwrap();
        assert!(nobarrier.contains("nobarrier"), "{nobarrier}");
        assert!(of(dev(0, 26), "/run/queue").unwrap().contains("memory"));
        for fine in [of(dev(254, 1), "/var"), of(dev(254, 17), "/over/queue")] {
            assert_eq!(fine, None);
        }
        assert!(lie(Duration::from_micros(19)).is_some());
        assert!(lie(Duration::from_micros(20)).is_none());
        assert_eq!(per_second(Duration::from_millis(2)), 500);
    }

    // ST-19
    #[test]
    fn twenty_syncs_are_timed_and_nothing_is_left() {
        let directory = TempDir::new();
        let path = directory.path().join(NAME);
        fs::write(&path, "left by a crash").unwrap();
        let syncs = time_syncs(&path, &|| false).unwrap();
        assert!(!syncs.is_empty() && syncs.len() <= SYNCS);
        assert!(!path.exists());
        assert!(median(syncs).is_some());
        assert_ne!(mount_of(directory.path()).unwrap().kind, "");
        assert!(time_syncs(Path::new("/nowhere/at/all"), &|| false).is_err());
        assert!(time_syncs(&path, &|| true).unwrap().is_empty());
    }
}
