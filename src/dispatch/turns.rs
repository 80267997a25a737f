//! Who is active, and whose turn it is (SC-1 to SC-4). Pure.
//!
//! Holds one entry per destination that has transactions in flight or is known to have due mail, and nothing per
//! message. Destinations that wait for a slot stand in one line; each is served at its head and, if more of its mail
//! is due, goes to its end (SC-2). Those at their own limit stand aside until one of their slots comes back, so they
//! hide nobody. The line is bounded: what does not fit is found again in the store.
//!
//! Domains with the same hosts are one destination (SC-4): as soon as a delivery has told which hosts those are, they
//! have one place in the line, their *home*, and are its *members*, which are served in turn whenever the home is. So
//! mail for a host that has all its connections waits here, unclaimed, and goes in the moment one comes back. What
//! is not known to share anything is its own home.

mod home;
mod line;
mod moving;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::dead::Probe;
use super::permit::Feedback;
use super::windows::Windows;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::limit::Limits;
use crate::store::{DestinationKey, LearnedWindow};
use home::{Home, Member, Place, Turn};

/// Most destinations in the line; those in flight are remembered besides.
pub const MOST_WAITING: usize = 4096;

/// Most members of one home that are remembered while they wait (PRC-8).
const MOST_MEMBERS: usize = 1024;

/// A destination whose turn it is, and the slots set aside for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The destination.
    pub key: DestinationKey,
    /// How many transactions it may have; they already count as in flight.
    pub slots: usize,
    /// It is dead, and this is what it is probed with (SC-7).
    pub probe: Option<Probe>,
    /// Where its messages are counted, if they are (SC-8).
    pub home: Option<DestinationKey>,
    /// What an operator allows it.
    pub limits: Limits,
}

/// What was found at a destination that was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// More of its mail is due.
    More,
    /// Nothing more is due now.
    Nothing,
}

/// An active destination.
#[derive(Clone, Copy, Debug)]
pub struct Active<'a> {
    /// Its key.
    pub key: &'a DestinationKey,
    /// With whom it shares its window; itself, if with nobody.
    pub home: &'a DestinationKey,
    /// Its transactions in flight.
    pub in_flight: usize,
    /// Those of all that share its window.
    pub together: usize,
    /// Whether it has due mail that waits.
    pub waits: bool,
    /// How many it may have, with those it shares that with.
    pub window: usize,
}

/// The line and the counters.
#[derive(Debug)]
pub struct Turns {
    workers: usize,
    windows: Windows,
    most_waiting: usize,
    most_members: usize,
    in_flight: usize,
    /// Destinations handed out by [`Turns::serve`] and not yet answered for.
    serving: usize,
    members: HashMap<DestinationKey, Member>,
    homes: HashMap<DestinationKey, Home>,
    /// Two parts of one line of homes, because the last workers are only for destinations that have none
    /// (`policy::limit`).
    fresh: BTreeMap<u64, DestinationKey>,
    busy: BTreeMap<u64, DestinationKey>,
    /// Members that wait at homes in `fresh`.
    fresh_members: usize,
    ticket: u64,
    /// A home has room again for members that it did not remember.
    seeks: bool,
}

impl Turns {
    /// Nobody is active. At most `most_waiting` destinations wait in the line ([`MOST_WAITING`]).
    pub fn new(workers: usize, windows: Windows, most_waiting: usize) -> Turns {
        Turns {
            workers: workers.max(1),
            windows,
            most_waiting,
            most_members: most_waiting.clamp(1, MOST_MEMBERS),
            in_flight: 0,
            serving: 0,
            members: HashMap::new(),
            homes: HashMap::new(),
            fresh: BTreeMap::new(),
            busy: BTreeMap::new(),
            fresh_members: 0,
            ticket: 0,
            seeks: false,
        }
    }

    /// Other limits may hold.
    pub fn set_config(&mut self, config: &Arc<Config>) {
        self.windows.set_config(config);
        for (key, home) in &mut self.homes {
            home.window = self.windows.size(key);
            home.wide = false;
        }
        let mut homes: Vec<DestinationKey> = self.homes.keys().cloned().collect();
        homes.sort_unstable(); // an order that does not depend on the map's
        for home in homes {
            self.settle(&home);
        }
    }

    /// Most connections that the destination may have now, with those it shares them with.
    pub fn window_of(&self, key: &DestinationKey) -> usize {
        let home = self.home_of(key);
        match self.homes.get(home) {
            Some(entry) => entry.window,
            None => self.windows.size(home),
        }
    }

    /// What was learned of destinations.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// With whom it shares its window: the group of its hosts, if they are known, or itself.
    pub fn home_of<'a>(&'a self, key: &'a DestinationKey) -> &'a DestinationKey {
        match self.members.get(key) {
            Some(member) => &member.home,
            None => self.windows.home(key),
        }
    }

    /// The same, to change what is known of `key`.
    pub fn change_window<T>(
        &mut self,
        key: &DestinationKey,
        change: impl FnOnce(&mut Windows) -> T,
    ) -> T {
        let changed = change(&mut self.windows);
        let home = self.home_of(key).clone();
        if let Some(entry) = self.homes.get_mut(&home) {
            entry.window = self.windows.size(&home);
            entry.wide = false;
        }
        self.settle(&home);
        changed
    }

    /// What was kept of windows, before anything else.
    pub fn load(&mut self, kept: Vec<(DestinationKey, LearnedWindow)>) {
        self.windows.load(kept);
    }

    /// Whose lessons went for want of room.
    pub fn forgotten(&mut self) -> Vec<DestinationKey> {
        self.windows.forgotten()
    }

    /// Transactions in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Most transactions at once.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Destinations in the line.
    pub fn waiting(&self) -> usize {
        self.fresh.len() + self.busy.len()
    }

    /// Destinations that are being served.
    pub fn serving(&self) -> usize {
        self.serving
    }

    /// Whether the line has no room for destinations that are not yet known.
    pub fn is_full(&self) -> bool {
        !self.has_place_for(1)
    }

    /// Whether the line has room for so many more. Destinations with transactions in flight do not count: there are
    /// never more of them than workers, and they may be waiting for more than those that have none.
    pub fn has_place_for(&self, more: usize) -> bool {
        self.fresh_members + more <= self.most_waiting
    }

    /// Whether a home has room again for members that were not remembered: they must be found again in the store.
    pub fn seeks(&self) -> bool {
        self.seeks
    }

    /// The same; they will be found.
    pub fn take_seeks(&mut self) -> bool {
        std::mem::take(&mut self.seeks)
    }

    /// The active destinations, in no order.
    pub fn active(&self) -> impl Iterator<Item = Active<'_>> {
        self.members.iter().filter_map(|(key, member)| {
            let home = self.homes.get(&member.home)?;
            Some(Active {
                key,
                home: &member.home,
                in_flight: member.in_flight,
                together: home.in_flight,
                waits: member.turn != Turn::Idle,
                window: home.window,
            })
        })
    }

    /// Mail of `key` is due. `false`: the line is full, and the caller must find this destination again later.
    pub fn offer(&mut self, key: &DestinationKey) -> bool {
        let full = self.is_full();
        match self.members.get_mut(key) {
            Some(member) if member.turn == Turn::Serving => {
                member.dirty = true;
                return true;
            }
            Some(member) if member.turn != Turn::Idle => return true,
            _ => {}
        }
        let most = self.most_members;
        let home = self.home_of(key).clone();
        match self.homes.get_mut(&home) {
            Some(home) if home.waiting.len() >= most => {
                home.overflow = true;
                return true;
            }
            Some(home) if full && home.in_flight == 0 => return false,
            None if full => return false,
            _ => {}
        }
        self.wait(key);
        true
    }

    /// A slot for mail that is just being accepted: only if nothing older of its destination waits, and each
    /// destination in the line could still have a worker.
    pub fn reserve(&mut self, key: &DestinationKey) -> bool {
        let member = self.members.get(key);
        let home = self.homes.get(self.home_of(key));
        let idle = member.is_none_or(|member| member.turn == Turn::Idle)
            && home.is_none_or(|home| home.waiting.is_empty() && !home.overflow);
        let free = self.workers.saturating_sub(self.in_flight);
        if !idle || free <= self.waiting() || self.room(home) == 0 {
            return false;
        }
        self.take(key, 1);
        true
    }

    /// Whether this destination has transactions in flight, so that slots of it come back.
    pub fn is_active(&self, key: &DestinationKey) -> bool {
        self.in_flight_of(key) > 0
    }

    /// Transactions of this destination in flight.
    pub fn in_flight_of(&self, key: &DestinationKey) -> usize {
        self.members.get(key).map_or(0, |member| member.in_flight)
    }

    /// Transactions in flight of all that have this home.
    pub fn in_flight_at(&self, home: &DestinationKey) -> usize {
        self.homes.get(home).map_or(0, |home| home.in_flight)
    }

    /// Whether it has nothing in flight, and no place in the line or the hands of the driver.
    pub fn is_quiet(&self, key: &DestinationKey) -> bool {
        !self.members.contains_key(key)
    }

    /// Gives a slot back; with `ran` it was with the workers. Whether something was learned that the store should know
    /// (SC-6).
    pub fn release(
        &mut self,
        key: &DestinationKey,
        feedback: Option<&Feedback>,
        ran: bool,
        now: Timestamp,
    ) -> bool {
        let mut learned = false;
        let at = self.home_of(key).clone();
        if let Some(home) = self.homes.get_mut(&at) {
            // What is merely given back, or meets nobody, does not make it quick.
            if feedback.is_some_and(|feedback| feedback.reached_mail) {
                home.pace.count(now);
            }
            if let Some(feedback) = feedback
                && !home.wide
            {
                let heard = self.windows.heard(&at, home.in_flight, feedback, now);
                (home.window, learned) = heard;
            }
        }
        if ran {
            self.stop(key);
        }
        self.give_back(key, 1);
        self.settle(&at);
        self.let_go(key);
        learned
    }

    /// Whether a claimed transaction may go to a worker now. If not, it is called for by [`Turns::next_ready`].
    pub fn start(&mut self, key: &DestinationKey) -> bool {
        let Some(member) = self.members.get_mut(key) else {
            return true;
        };
        let Some(home) = self.homes.get_mut(&member.home) else {
            return true;
        };
        let starts = home.running < home.window;
        if starts {
            home.running += 1;
            member.running += 1;
        } else {
            home.ready.push_back(key.clone());
        }
        starts
    }

    /// It is with the workers no longer.
    pub fn stop(&mut self, key: &DestinationKey) {
        if let Some(member) = self.members.get_mut(key) {
            member.running = member.running.saturating_sub(1);
            if let Some(home) = self.homes.get_mut(&member.home) {
                home.running = home.running.saturating_sub(1);
            }
        }
    }

    /// Whose transaction may go to a worker now, of those that were claimed ahead; it counts as there.
    pub fn next_ready(&mut self, home: &DestinationKey) -> Option<DestinationKey> {
        let home = self.homes.get_mut(home)?;
        if home.running >= home.window {
            return None;
        }
        let key = home.ready.pop_front()?;
        home.running += 1;
        if let Some(member) = self.members.get_mut(&key) {
            member.running += 1;
        }
        Some(key)
    }

    /// A worker can go on with another transaction of `key` on the connection that it has, which counts once: whether one is
    /// ready and its turn has come. Only where connections come back within moments, or it would wait for one transaction
    /// while others end.
    pub fn follow(&mut self, key: &DestinationKey) -> bool {
        let home = self.home_of(key).clone();
        let Some(home) = self.homes.get_mut(&home) else {
            return false;
        };
        let follows =
            home.pace.is_quick() && home.running <= home.window && home.ready.front() == Some(key);
        if follows {
            home.ready.pop_front();
        }
        follows
    }

    /// It could not: the transaction waits again, as the next.
    pub fn unfollow(&mut self, key: &DestinationKey) {
        let home = self.home_of(key).clone();
        if let Some(home) = self.homes.get_mut(&home) {
            home.ready.push_front(key.clone());
        }
    }

    /// What is claimed ahead of it goes back.
    pub fn clear_ready(&mut self, key: &DestinationKey) {
        if let Some(home) = self
            .homes
            .get_mut(self.members.get(key).map_or(key, |m| &m.home))
        {
            home.ready.retain(|other| other != key);
        }
    }

    /// Those with the workers of all that share its window, and how many that may be.
    pub fn crowd(&self, key: &DestinationKey) -> (usize, usize) {
        let home = self.homes.get(self.home_of(key));
        home.map_or((0, 1), |home| (home.running, home.window))
    }

    /// Whether [`Turns::serve`] would hand out anything.
    pub fn can_serve(&self) -> bool {
        self.head().is_some()
    }

    /// The destination whose turn it is, if there is a worker for it. It is out of the line until it is answered for
    /// by [`Turns::served`]; others of its home are not, if that has room for them.
    pub fn serve(&mut self) -> Option<Pick> {
        let (ticket, fresh) = self.head()?;
        // Several slots at once save round trips to the store, as long as each of the others could have as many.
        let free = self.workers.saturating_sub(self.in_flight);
        let share = (free / self.waiting().max(1)).max(1);
        let line = if fresh {
            &mut self.fresh
        } else {
            &mut self.busy
        };
        let at = line.remove(&ticket)?;
        let room = self.room(self.homes.get(&at));
        let home = self.homes.get_mut(&at)?;
        if fresh {
            self.fresh_members -= home.waiting.len();
        }
        home.place = Place::Idle;
        let slots = room
            .min(share)
            .min(room.div_ceil(home.waiting.len().max(1)));
        let (_, key) = home.waiting.pop_first()?;
        if home.overflow && home.waiting.len() <= self.most_members / 2 {
            home.overflow = false;
            self.seeks = true;
        }
        self.take(&key, slots);
        if let Some(member) = self.members.get_mut(&key) {
            member.turn = Turn::Serving;
            member.dirty = false;
        }
        self.serving += 1;
        self.line_up(&at);
        let limits = self.windows.limits(&key);
        Some(Pick {
            key,
            slots,
            probe: None,
            home: None,
            limits,
        })
    }

    /// A pick shall have fewer slots than were set aside for it.
    pub fn narrow(&mut self, pick: &mut Pick, slots: usize) {
        self.give_back(&pick.key, pick.slots.saturating_sub(slots));
        pick.slots = pick.slots.min(slots);
    }

    /// Answers for a [`Pick`]: so many of its slots were not needed, and this is left. With `make_room` it goes out of
    /// the line even if it has more. `false`: it has more but is not in the line, and the caller must find it again.
    pub fn served(
        &mut self,
        key: &DestinationKey,
        unused: usize,
        left: Left,
        make_room: bool,
    ) -> bool {
        self.give_back(key, unused);
        let Some(member) = self.members.get_mut(key) else {
            return true;
        };
        if member.turn == Turn::Serving {
            self.serving -= 1;
            member.turn = Turn::Idle;
        }
        let more = left == Left::More || member.dirty;
        member.dirty = false;
        let home = member.home.clone();
        if more && !make_room {
            self.wait(key);
        }
        self.settle(&home);
        self.let_go(key);
        !more || !make_room
    }

    /// Forgets what is due of this destination; its slots stay counted. For destinations that are blocked.
    pub fn forget(&mut self, key: &DestinationKey) {
        if let Some(home) = self.members.get(key).map(|member| member.home.clone()) {
            self.leave(key);
            self.settle(&home);
            self.let_go(key);
        }
    }

    /// Destinations for which [`Turns::forget`] could do something, in an order that does not depend on the map's.
    pub fn line(&self) -> Vec<DestinationKey> {
        let waits = |member: &Member| matches!(member.turn, Turn::Waiting(_));
        let mut keys: Vec<DestinationKey> = self
            .members
            .iter()
            .filter(|(_, member)| waits(member))
            .map(|(key, _)| key.clone())
            .collect();
        keys.sort_unstable();
        keys
    }

    /// The entries of `key` and of its home.
    fn entry(&mut self, key: &DestinationKey) -> (&mut Member, &mut Home) {
        let member = match self.members.entry(key.clone()) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let home = self.windows.home(key).clone();
                let windows = &self.windows;
                let entry = self.homes.entry(home.clone());
                entry
                    .or_insert_with_key(|home| Home::new(windows.size(home)))
                    .members += 1;
                new.insert(Member::new(home))
            }
        };
        let windows = &self.windows;
        let home = self.homes.entry(member.home.clone());
        let home = home.or_insert_with_key(|home| Home::new(windows.size(home)));
        (member, home)
    }

    fn take(&mut self, key: &DestinationKey, slots: usize) {
        let (member, home) = self.entry(key);
        member.in_flight += slots;
        home.in_flight += slots;
        self.in_flight += slots;
    }

    fn give_back(&mut self, key: &DestinationKey, slots: usize) {
        if let Some(member) = self.members.get_mut(key) {
            let slots = slots.min(member.in_flight);
            member.in_flight -= slots;
            self.in_flight -= slots;
            if let Some(home) = self.homes.get_mut(&member.home) {
                home.in_flight -= slots;
            }
        }
    }
}
