//! Which servers are asked: those of `dns.servers`, else those of resolv.conf, which is read again when it changes
//! (DNS-1).

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

const PORT: u16 = 53;

/// The most servers that are taken from the file; resolv.conf(5) knows three.
const MAX_SERVERS: usize = 8;

/// The most of the file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// resolv.conf, as last read.
#[derive(Debug)]
pub(super) struct ResolvConf {
    path: PathBuf,
    last: Mutex<(Stamp, Arc<[SocketAddr]>)>,
}

/// Device, inode, size, seconds and nanoseconds of the last change; `None` for a file that is not there.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl ResolvConf {
    pub(super) fn new(path: &Path) -> ResolvConf {
        ResolvConf {
            path: path.to_path_buf(),
            last: Mutex::new((None, default_servers())),
        }
    }

    /// The servers it names now. Costs one stat(2) while it does not change.
    pub(super) fn servers(&self) -> Arc<[SocketAddr]> {
        let stamp = std::fs::metadata(&self.path)
            .map(|m| (m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
            .ok();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != stamp {
            let mut text = String::new();
            let read = File::open(&self.path)
                .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
            // A file that cannot be read just now is looked at again the next time.
            if read.is_ok() {
                *last = (stamp, parse(&text));
            } else if stamp.is_none() {
                *last = (None, default_servers());
            }
        }
        Arc::clone(&last.1)
    }
}

/// resolv.conf(5): without any server, that on the local machine.
fn default_servers() -> Arc<[SocketAddr]> {
    Arc::new([SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)])
}

/// The `nameserver` lines; everything else is for search lists, which mail has no use for.
fn parse(text: &str) -> Arc<[SocketAddr]> {
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter_map(address)
        .take(MAX_SERVERS)
        .collect();
    if servers.is_empty() {
        default_servers()
    } else {
        servers.into()
    }
}

/// An address, for link-local ones with the interface (`fe80::1%eth0`).
fn address(word: &str) -> Option<SocketAddr> {
    if let Some((ip, zone)) = word.split_once('%') {
        let scope = match zone.parse() {
            Ok(index) => index,
            Err(_) => nix::net::if_::if_nametoindex(zone).ok()?,
        };
        return Some(SocketAddrV6::new(ip.parse().ok()?, PORT, 0, scope).into());
    }
    Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    // DNS-1
    #[test]
    fn only_nameserver_lines_count() {
        let servers = parse(
            "# comment\nsearch example.org\n nameserver 192.0.2.53 # first\nnameserver 2001:db8::53\n\
             nameserver fe80::1%1\nnameserver nonsense\nnameserver\noptions edns0\n",
        );
        let expected: [SocketAddr; 3] = [
            "192.0.2.53:53".parse().unwrap(),
            "[2001:db8::53]:53".parse().unwrap(),
            "[fe80::1%1]:53".parse().unwrap(),
        ];
        assert_eq!(*servers, expected);
        assert_eq!(*parse(""), ["127.0.0.1:53".parse().unwrap()]);
    }

    // DNS-1
    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_means_the_local_server() {
        let dir = TempDir::new();
        let path = dir.join("resolv.conf");
        let conf = ResolvConf::new(&path);
        let local: SocketAddr = "127.0.0.1:53".parse().unwrap();
        assert_eq!(*conf.servers(), [local]);
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(conf.servers()[0].ip().to_string(), "192.0.2.1");
        std::fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.22\n").unwrap();
        assert_eq!(conf.servers().len(), 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*conf.servers(), [local]);
    }
}
