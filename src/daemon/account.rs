//! Who the daemon runs as, and giving up root for good (PRC-1, CFG-9, SEC-1).

use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgroups, getresgid, getresuid, seteuid, setgroups,
    setresgid, setresuid,
};

use super::error::Error;
use crate::config::Config;

/// The account that a daemon started as root runs as when the file does not name one.
const DEFAULT: &str = "posthaste";

/// The account the daemon runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// Finds the account. Started without root, the daemon stays who it is, and the file may say nothing else.
    ///
    /// # Errors
    /// [`Error::Config`]: there is no such account, it is root, or it is not ours.
    pub fn of(config: &Config) -> Result<Account, Error> {
        if geteuid().is_root() {
            let user = config.user.as_deref().unwrap_or(DEFAULT);
            let group = config.group.as_deref().unwrap_or(DEFAULT);
            let account = Account {
                uid: find_user(user)?,
                gid: find_group(group)?,
            };
            if account.uid.is_root() {
                return Err(Error::Config(format!("user: {user} has the uid of root")));
            }
            return Ok(account);
        }
        let ours = Account {
            uid: geteuid(),
            gid: getegid(),
        };
        if let Some(user) = &config.user
            && find_user(user)? != ours.uid
        {
            return Err(Error::Config(format!(
                "user: started as uid {}, without the right to become {user}",
                ours.uid
            )));
        }
        if let Some(group) = &config.group
            && find_group(group)? != ours.gid
        {
            return Err(Error::Config(format!(
                "group: started as gid {}, without the right to become {group}",
                ours.gid
            )));
        }
        Ok(ours)
    }

    /// uid and gid as numbers: the owner of sockets made as root.
    pub fn ids(self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Gives up root for good and proves it. Does nothing when we are not root.
    ///
    /// # Errors
    /// [`Error::System`]: something of root is left; the daemon must not go on.
    pub fn assume(self) -> Result<(), Error> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let failed = |error| Error::System(format!("cannot give up root: {error}"));
        setgroups(&[self.gid]).map_err(failed)?;
        setresgid(self.gid, self.gid, self.gid).map_err(failed)?;
        setresuid(self.uid, self.uid, self.uid).map_err(failed)?;
        self.prove()
    }

    /// Every id is the account's, and root does not come back when asked for.
    fn prove(self) -> Result<(), Error> {
        let failed = |error| Error::System(format!("cannot tell who we are: {error}"));
        let uids = getresuid().map_err(failed)?;
        let gids = getresgid().map_err(failed)?;
        let groups = getgroups().map_err(failed)?;
        let ours = [uids.real, uids.effective, uids.saved]
            .iter()
            .all(|uid| *uid == self.uid)
            && [gids.real, gids.effective, gids.saved]
                .iter()
                .all(|gid| *gid == self.gid)
            && groups.iter().all(|gid| *gid == self.gid);
        if !ours || seteuid(Uid::from_raw(0)).is_ok() {
            return Err(Error::System(
                "root could not be given up for good".to_owned(),
            ));
        }
        Ok(())
    }
}

fn find_user(name: &str) -> Result<Uid, Error> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(user.uid),
        Ok(None) => Err(Error::Config(format!("user: there is no account {name}"))),
        Err(error) => Err(Error::System(format!("user: {name}: {error}"))),
    }
}

fn find_group(name: &str) -> Result<Gid, Error> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(Error::Config(format!("group: there is no group {name}"))),
        Err(error) => Err(Error::System(format!("group: {name}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    // CFG-9
    #[test]
    fn an_account_that_is_not_there_or_not_ours_or_root_is_a_fault_of_the_configuration() {
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        config.user = Some("no-such-account-here".into());
        assert!(matches!(Account::of(&config), Err(Error::Config(_))));
        config.user = Some("root".into());
        assert!(matches!(Account::of(&config), Err(Error::Config(_))));
    }
}
