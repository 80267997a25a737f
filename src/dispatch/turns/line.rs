//! The line: who stands where in it, and whose turn it is (SC-1 to SC-3).

use super::Turns;
use super::home::{Home, Place, Turn};
use crate::policy::limit::{Standing, half, room};
use crate::store::DestinationKey;

impl Turns {
    pub(super) fn room(&self, home: Option<&Home>) -> usize {
        room(&Standing {
            workers: self.workers,
            busy: self.in_flight,
            in_flight: home.map_or(0, |home| home.in_flight),
            // One that has nothing yet may have one at least, whatever was learned of it.
            window: home.map_or(1, Home::with_ahead),
        })
    }

    /// The ticket at the head of what can be served now, and whether it stands in the fresh part.
    pub(super) fn head(&self) -> Option<(u64, bool)> {
        let fresh = self.fresh.first_key_value().map(|(&ticket, _)| ticket);
        let busy = self.busy.first_key_value().map(|(&ticket, _)| ticket);
        let for_fresh = self.room(None) > 0;
        // The limits of its own are not the reason why a destination stands in the line; one slot of another's kind
        // tells whether workers are left for those that already have some.
        let for_busy = self.room_for_busy();
        match (fresh.filter(|_| for_fresh), busy.filter(|_| for_busy)) {
            (Some(f), Some(b)) if b < f => Some((b, false)),
            (Some(f), _) => Some((f, true)),
            (None, Some(b)) => Some((b, false)),
            (None, None) => None,
        }
    }

    /// Whether workers are left for destinations that already have some.
    fn room_for_busy(&self) -> bool {
        room(&Standing {
            workers: self.workers,
            busy: self.in_flight,
            in_flight: 1,
            window: usize::MAX,
        }) > 0
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// It waits at its home, behind those that do already. It must not wait yet.
    pub(super) fn wait(&mut self, key: &DestinationKey) {
        let ticket = self.next_ticket();
        let (member, home) = self.entry(key);
        member.turn = Turn::Waiting(ticket);
        home.waiting.insert(ticket, key.clone());
        let (at, fresh) = (member.home.clone(), matches!(home.place, Place::Fresh(_)));
        self.fresh_members += usize::from(fresh);
        self.line_up(&at);
    }

    /// It waits no longer.
    pub(super) fn leave(&mut self, key: &DestinationKey) {
        let Some(member) = self.members.get_mut(key) else {
            return;
        };
        let Turn::Waiting(ticket) = member.turn else {
            return;
        };
        member.turn = Turn::Idle;
        let Some(home) = self.homes.get_mut(&member.home) else {
            return;
        };
        home.waiting.remove(&ticket);
        if matches!(home.place, Place::Fresh(_)) {
            self.fresh_members -= 1;
        }
        if home.waiting.is_empty() {
            home.kept = None;
            self.seeks |= std::mem::take(&mut home.overflow);
            match std::mem::replace(&mut home.place, Place::Idle) {
                Place::Fresh(ticket) => self.fresh.remove(&ticket),
                Place::Busy(ticket) => self.busy.remove(&ticket),
                Place::Idle | Place::Aside => None,
            };
        }
    }

    /// A home that has a reason to and does not do so yet goes to the end of the line, or aside.
    pub(super) fn line_up(&mut self, at: &DestinationKey) {
        let new = self.next_ticket();
        let workers = self.workers;
        let Some(home) = self.homes.get_mut(at) else {
            return;
        };
        if home.place != Place::Idle || home.waiting.is_empty() {
            return;
        }
        let ticket = home.kept.take().unwrap_or(new);
        home.place = if home.in_flight >= most(workers, home) {
            Place::Aside
        } else if home.in_flight == 0 {
            self.fresh_members += home.waiting.len();
            self.fresh.insert(ticket, at.clone());
            Place::Fresh(ticket)
        } else {
            self.busy.insert(ticket, at.clone());
            Place::Busy(ticket)
        };
    }

    /// After slots came or went: a home that stood aside joins the line, and one that has none left, or some now, changes
    /// its part of the line without losing its place.
    pub(super) fn settle(&mut self, at: &DestinationKey) {
        let workers = self.workers;
        let Some(home) = self.homes.get_mut(at) else {
            return;
        };
        let most = most(workers, home);
        let full = home.in_flight >= most;
        match home.place {
            Place::Busy(ticket) if home.in_flight == 0 => {
                home.place = Place::Fresh(ticket);
                self.fresh_members += home.waiting.len();
                self.busy.remove(&ticket);
                self.fresh.insert(ticket, at.clone());
            }
            Place::Busy(ticket) if full => {
                // Its window became smaller.
                home.place = Place::Aside;
                self.busy.remove(&ticket);
            }
            Place::Fresh(ticket) if home.in_flight > 0 => {
                self.fresh_members -= home.waiting.len();
                self.fresh.remove(&ticket);
                if full {
                    home.place = Place::Aside;
                    home.kept = Some(ticket);
                } else {
                    home.place = Place::Busy(ticket);
                    self.busy.insert(ticket, at.clone());
                }
            }
            Place::Aside if home.has_room_again(most) => {
                home.place = Place::Idle;
                self.line_up(at);
            }
            _ => {}
        }
    }
}

/// The most that a destination may have, however many workers are free.
fn most(workers: usize, home: &Home) -> usize {
    home.with_ahead().min(half(workers))
}
