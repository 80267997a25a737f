//! Who sits at the other end of the control socket, and what it may do (CTL-4).

use std::ffi::CString;
use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgrouplist};

/// A client of the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its uid, for the log and for the history of what it changes.
    pub uid: u32,
    /// The caller whose mail it may read if it may not do all: `uid:NAME` (AU-5).
    pub caller: String,
    /// It may do all, with everybody's mail.
    pub all: bool,
}

/// The uid and gid that the kernel recorded when the client connected.
///
/// # Errors
/// The system's.
pub fn credentials(stream: &UnixStream) -> io::Result<(u32, u32)> {
    let credentials = getsockopt(stream, PeerCredentials)?;
    Ok((credentials.uid(), credentials.gid()))
}

impl Peer {
    /// Judges a client by its credentials: root, our user and our group may do all. Reads the account data base, so it
    /// may block as that does.
    pub fn new(uid: u32, gid: u32) -> Peer {
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let ours = getegid();
        let all = uid == 0
            || uid == geteuid().as_raw()
            || gid == ours.as_raw()
            || user
                .as_ref()
                .is_some_and(|user| in_group(&user.name, gid, ours));
        let name = user.map_or_else(|| uid.to_string(), |user| user.name);
        Peer {
            uid,
            caller: format!("uid:{name}"),
            all,
        }
    }
}

/// The kernel reports only the gid of the process; who is in the group by /etc/group counts as well.
fn in_group(name: &str, gid: u32, group: Gid) -> bool {
    let Ok(name) = CString::new(name) else {
        return false;
    };
    getgrouplist(&name, Gid::from_raw(gid)).is_ok_and(|groups| groups.contains(&group))
}

#[cfg(test)]
mod tests {
    use super::*;

    // CTL-4
    #[test]
    fn root_our_user_and_our_group_may_do_all() {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        assert!(Peer::new(0, 65_534).all);
        assert!(Peer::new(uid, 65_534).all);
        assert!(Peer::new(65_533, gid).all);
        assert!(!Peer::new(65_533, 65_533).all);
    }

    // CTL-4
    #[test]
    fn the_kernel_tells_who_is_at_the_other_end() {
        let (a, _b) = UnixStream::pair().unwrap();
        assert_eq!(
            credentials(&a).unwrap(),
            (geteuid().as_raw(), getegid().as_raw())
        );
        assert_eq!(Peer::new(4_000_000_000, 65_533).caller, "uid:4000000000");
        assert_eq!(Peer::new(0, 0).caller, "uid:root");
    }
}
