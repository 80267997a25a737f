//! Names of local users, for connections over Unix sockets.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::{Uid, User};

/// Names of users that are remembered.
const MAX_USERS: usize = 1024;

/// Names of local users, remembered because asking for one may be slow (AU-5).
#[derive(Default)]
pub(super) struct Users(Mutex<HashMap<u32, String>>);

impl Users {
    /// The caller that a connection of this user is.
    pub(super) fn caller(&self, uid: Option<u32>) -> String {
        let Some(uid) = uid else {
            return "uid:unknown".to_owned();
        };
        if let Some(caller) = self.lock().get(&uid) {
            return caller.clone();
        }
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let caller = format!(
            "uid:{}",
            user.map_or_else(|| uid.to_string(), |user| user.name)
        );
        let mut known = self.lock();
        if known.len() >= MAX_USERS {
            known.clear();
        }
        known.insert(uid, caller.clone());
        caller
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
