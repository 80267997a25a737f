//! With whom a destination shares its window: who joins a group of hosts, and who leaves one (SC-4, SC-7).

use super::Turns;
use super::home::Turn;
use crate::clock::Timestamp;
use crate::dispatch::windows::{MxHosts, Windows};
use crate::store::DestinationKey;

impl Turns {
    /// A domain has these hosts (SC-4): from here on it waits where the others wait that have them.
    pub fn join_group(&mut self, key: &DestinationKey, hosts: MxHosts<'_>) {
        self.windows.join(key, hosts);
        self.go_home(key);
        // Its limits may be others, now that they are known.
        self.change_window(key, |_| ());
    }

    /// The same of one that is dead, and shares nothing as long as it is.
    pub fn note_hosts(&mut self, key: &DestinationKey, hosts: MxHosts<'_>) {
        self.windows.join(key, hosts);
    }

    /// It is dead: last attempts go side by side, because however many there are they must come to an end (RT-4), and
    /// nothing more is learned; nor does it share anything as long as that is so. It joins the line, which has a place.
    pub fn offer_wide(&mut self, key: &DestinationKey) {
        let connections = self.windows.limits(key).connections;
        self.entry(key);
        self.rehome(key, key.clone());
        let (member, home) = self.entry(key);
        home.window = connections;
        home.wide = true;
        if member.turn == Turn::Idle {
            self.wait(key);
        }
    }

    /// It was dead and lives again. With the time since when, its window begins anew too (SC-7). Whether something was
    /// learned before.
    pub fn revive(&mut self, key: &DestinationKey, since: Option<Timestamp>) -> bool {
        let forget = |windows: &mut Windows| since.is_some_and(|at| windows.forget(key, at));
        self.go_home(key);
        self.change_window(key, forget)
    }

    /// Who has nothing at all is forgotten.
    pub(super) fn let_go(&mut self, key: &DestinationKey) {
        let Some(member) = self.members.get(key).filter(|member| member.has_nothing()) else {
            return;
        };
        let home = member.home.clone();
        self.members.remove(key);
        self.move_out(&home);
    }

    /// A home has a member less; one without any is forgotten.
    fn move_out(&mut self, at: &DestinationKey) {
        if let Some(home) = self.homes.get_mut(at) {
            home.members -= 1;
            if home.members == 0 {
                self.seeks |= home.overflow;
                self.homes.remove(at);
            }
        }
    }

    /// To where it belongs by what is known of its hosts.
    fn go_home(&mut self, key: &DestinationKey) {
        let home = self.windows.home(key).clone();
        self.rehome(key, home);
    }

    /// It shares its window with others from here on, and brings with it what it has.
    fn rehome(&mut self, key: &DestinationKey, to: DestinationKey) {
        let Some(from) = self.members.get(key).map(|member| member.home.clone()) else {
            return;
        };
        if from == to {
            return;
        }
        let waited = self
            .members
            .get(key)
            .is_some_and(|member| matches!(member.turn, Turn::Waiting(_)));
        self.leave(key);
        let Some(member) = self.members.get_mut(key) else {
            return;
        };
        member.home = to.clone();
        let (in_flight, running) = (member.in_flight, member.running);
        let mut ready = 0;
        if let Some(home) = self.homes.get_mut(&from) {
            home.in_flight -= in_flight;
            home.running -= running;
            let before = home.ready.len();
            home.ready.retain(|other| other != key);
            ready = before - home.ready.len();
        }
        let (_, home) = self.entry(key);
        home.members += 1;
        home.in_flight += in_flight;
        home.running += running;
        home.ready.extend(std::iter::repeat_n(key.clone(), ready));
        self.settle(&to);
        if waited {
            self.wait(key);
        }
        self.settle(&from);
        self.move_out(&from);
    }
}
