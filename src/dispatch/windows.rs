//! How many connections a destination may have now, learned from what comes of them (SC-5, SC-6). Pure.
//!
//! A window begins at `limits.initial`, grows by one for each full window of successes, and is halved when a connection
//! fails or a host asks for less. The refusals of one moment halve it once. It grows only as far as it is used, as that
//! of Postfix does: many messages one after another say nothing about as many at once.
//!
//! Who was refused while others were let in was told a number. Up to that the window grows again at once, and beyond it
//! only after an hour, or every few messages would be refused for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::permit::{Feedback, PushBack};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::limit::{Limits, limits, share_limits};
use crate::store::{DestinationKey, LearnedWindow};

/// How long a number that a host has shown is believed.
const BELIEF: Duration = Duration::from_secs(3600);

/// Destinations that are remembered (PRC-8). Those that were not used for the longest go first, but what was learned
/// from a refusal stays for as long as there is room.
const MOST: usize = 10_000;

/// Longest text that is kept, in characters.
const MOST_TEXT: usize = 256;

/// Why a window is smaller than it may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The reply or the error.
    pub text: String,
    /// When it came.
    pub at: Timestamp,
}

/// A window, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Connections at once.
    pub size: usize,
    /// What it had to learn; `None`: nothing but successes.
    pub cause: Option<Cause>,
    /// An operator has fixed it.
    pub pinned: bool,
    /// When an attempt last got as far as MAIL.
    pub success: Option<Timestamp>,
    /// When one was last refused for want of room, or met nobody.
    pub failure: Option<Timestamp>,
}

/// All windows that are not as at first.
#[derive(Debug)]
pub struct Windows {
    config: Arc<Config>,
    entries: HashMap<DestinationKey, Window>,
    /// Domains whose hosts are known, with the group that they share them in (SC-4).
    groups: HashMap<DestinationKey, DestinationKey>,
    most: usize,
    /// What was learned of these went for want of room.
    forgotten: Vec<DestinationKey>,
}

#[derive(Debug)]
struct Window {
    size: usize,
    limits: Limits,
    /// Successes since it changed.
    good: usize,
    /// So many of those that were under way when it was halved are still out: what refuses them is that same moment.
    spared: usize,
    cause: Option<Cause>,
    /// As many were let in when one more was refused, and that is believed until then.
    ceiling: Option<(usize, Timestamp)>,
    pinned: bool,
    used: Timestamp,
    success: Option<Timestamp>,
    failure: Option<Timestamp>,
}

impl Windows {
    /// All are as at first.
    pub fn new(config: Arc<Config>) -> Windows {
        Windows {
            config,
            entries: HashMap::new(),
            groups: HashMap::new(),
            most: MOST,
            forgotten: Vec::new(),
        }
    }

    /// Other limits may hold.
    pub fn set_config(&mut self, config: &Arc<Config>) {
        if Arc::ptr_eq(&self.config, config) {
            return;
        }
        self.config = Arc::clone(config);
        // Hosts that are others now are told of by the next delivery.
        let groups = &mut self.groups;
        groups.retain(|key, group| share_limits(config, key, group));
        for (key, window) in &mut self.entries {
            window.limits = limits(config, key);
            window.size = window.size.min(window.limits.connections);
        }
    }

    /// Where what is learned of it is kept: with all who have the same hosts, if they are known.
    pub fn home<'a>(&'a self, key: &'a DestinationKey) -> &'a DestinationKey {
        self.groups.get(key).unwrap_or(key)
    }

    /// A domain has these hosts: its window is that of their group, unless other limits hold for it (SC-4, SC-9).
    pub fn join(&mut self, key: &DestinationKey, group: &DestinationKey) {
        if !share_limits(&self.config, key, group) {
            self.groups.remove(key);
            return;
        }
        if self.groups.get(key) == Some(group) {
            return;
        }
        if self.groups.len() >= self.most {
            self.groups.clear(); // the next delivery tells again
        }
        if !self.entries.contains_key(group)
            && let Some(mut own) = self.entries.remove(key)
        {
            own.limits = limits(&self.config, group);
            if !own.is_plain() {
                self.forgotten.extend([key.clone(), group.clone()]);
            }
            self.entries.insert(group.clone(), own);
        }
        self.groups.insert(key.clone(), group.clone());
    }

    /// Most connections that it may have now.
    pub fn size(&self, key: &DestinationKey) -> usize {
        let key = self.home(key);
        match self.entries.get(key) {
            Some(window) => window.size,
            None => limits(&self.config, key).initial,
        }
    }

    /// What an operator allows it.
    pub fn limits(&self, key: &DestinationKey) -> Limits {
        limits(&self.config, self.home(key))
    }

    /// What is known of it; `None`: it is as at first.
    pub fn get(&self, key: &DestinationKey) -> Option<Learned> {
        self.entries.get(self.home(key)).map(Window::learned)
    }

    /// One transaction of `in_flight` has come back with this. The size from now on, and with `true` that it had to learn
    /// something, or that what it had learned is over.
    pub fn heard(
        &mut self,
        key: &DestinationKey,
        in_flight: usize,
        feedback: &Feedback,
        now: Timestamp,
    ) -> (usize, bool) {
        let good = feedback.reached_mail;
        // A host that is down matters little where another takes the mail.
        let push_back = feedback.push_back.as_ref();
        let bad = push_back.filter(|push_back| !(push_back.unreached && feedback.reached_mail));
        if !good && bad.is_none() {
            return (self.size(key), false);
        }
        let home = self.groups.get(key).cloned();
        let key = home.as_ref().unwrap_or(key);
        if !self.entries.contains_key(key) {
            let limits = limits(&self.config, key);
            self.make_room();
            self.entries.insert(key.clone(), Window::new(limits, now));
        }
        let Some(window) = self.entries.get_mut(key) else {
            return (1, false);
        };
        window.used = now;
        match bad {
            Some(_) => window.failure = Some(now),
            None => window.success = Some(now),
        }
        if window.pinned {
            return (window.size, false);
        }
        let changed = match bad {
            Some(push_back) => window.halve(in_flight, push_back, now),
            None => window.succeed(in_flight, now),
        };
        (window.size, changed)
    }

    /// It was dead since then and lives: its window begins anew (SC-7), unless others with the same hosts got through in the
    /// meantime: then those were never dead, and what they taught holds (SC-4). Whether it had learned something.
    pub fn forget(&mut self, key: &DestinationKey, since: Timestamp) -> bool {
        let holds = |window: &Window| window.pinned || window.success.is_some_and(|at| at > since);
        if self.entries.get(self.home(key)).is_some_and(holds) {
            return false;
        }
        self.clear(key)
    }

    /// The same, whatever an operator wanted before.
    pub fn clear(&mut self, key: &DestinationKey) -> bool {
        let home = self.home(key).clone();
        let window = self.entries.remove(&home);
        window.is_some_and(|window| !window.is_plain())
    }

    /// An operator sets it, and may fix it there. The size that it has now.
    pub fn set(
        &mut self,
        key: &DestinationKey,
        size: Option<usize>,
        pin: bool,
        now: Timestamp,
    ) -> usize {
        let home = self.groups.get(key).cloned();
        let key = home.as_ref().unwrap_or(key);
        if !self.entries.contains_key(key) {
            self.make_room();
            let window = Window::new(limits(&self.config, key), now);
            self.entries.insert(key.clone(), window);
        }
        let Some(window) = self.entries.get_mut(key) else {
            return 1;
        };
        let most = window.limits.connections;
        window.size = size.unwrap_or(window.size).clamp(1, most);
        window.good = 0;
        window.ceiling = None;
        window.pinned = pin;
        window.cause = Some(Cause {
            text: "set by an operator".to_owned(),
            at: now,
        });
        window.size
    }

    /// What the store kept.
    pub fn load(&mut self, kept: Vec<(DestinationKey, LearnedWindow)>) {
        for (key, kept) in kept {
            let mut window = Window::new(limits(&self.config, &key), kept.at);
            window.size = (kept.size as usize).clamp(1, window.limits.connections);
            window.ceiling = kept
                .ceiling
                .map(|most| (most as usize, kept.at.plus(BELIEF)));
            window.pinned = kept.pinned;
            window.cause = Some(Cause {
                text: kept.cause,
                at: kept.at,
            });
            self.make_room();
            self.entries.insert(key, window);
        }
    }

    /// What the store is to keep of it.
    pub fn to_keep(&self, key: &DestinationKey) -> Option<LearnedWindow> {
        self.entries.get(self.home(key)).and_then(Window::to_keep)
    }

    /// Whose lessons went for want of room, since this was asked last.
    pub fn forgotten(&mut self) -> Vec<DestinationKey> {
        std::mem::take(&mut self.forgotten)
    }

    /// All that are not as at first, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &DestinationKey> {
        self.entries.keys()
    }

    /// How many of them were taught something, or told by an operator.
    pub fn learned(&self) -> usize {
        let taught = |window: &&Window| !window.is_plain();
        self.entries.values().filter(taught).count()
    }

    /// Makes it possible to remember one more: forgets the older half of those that had nothing to learn, or if there are
    /// none, of all.
    fn make_room(&mut self) {
        if self.entries.len() < self.most {
            return;
        }
        let all = !self.entries.values().any(Window::is_plain);
        let goes = |window: &Window| all || window.is_plain();
        let old = self.entries.values().filter(|window| goes(window));
        let mut used: Vec<Timestamp> = old.map(|window| window.used).collect();
        let middle = used.len() / 2;
        let (_, &mut last, _) = used.select_nth_unstable(middle);
        let forgotten = &mut self.forgotten;
        self.entries.retain(|key, window| {
            let stays = !goes(window) || window.used > last;
            if !stays && !window.is_plain() {
                forgotten.push(key.clone());
            }
            stays
        });
    }
}

impl Window {
    fn new(limits: Limits, now: Timestamp) -> Window {
        Window {
            size: limits.initial,
            limits,
            good: 0,
            spared: 0,
            cause: None,
            ceiling: None,
            pinned: false,
            used: now,
            success: None,
            failure: None,
        }
    }

    fn learned(&self) -> Learned {
        Learned {
            size: self.size,
            cause: self.cause.clone(),
            pinned: self.pinned,
            success: self.success,
            failure: self.failure,
        }
    }

    /// Whether nothing but successes made it what it is.
    fn is_plain(&self) -> bool {
        self.cause.is_none() && !self.pinned
    }

    fn to_keep(&self) -> Option<LearnedWindow> {
        let cause = self.cause.as_ref()?;
        Some(LearnedWindow {
            size: number(self.size),
            ceiling: self.ceiling.map(|(most, _)| number(most)),
            cause: cause.text.clone(),
            at: cause.at,
            pinned: self.pinned,
        })
    }

    /// Whether what was learned is over.
    fn succeed(&mut self, in_flight: usize, now: Timestamp) -> bool {
        self.spared = self.spared.saturating_sub(1);
        if self.size >= self.limits.connections {
            return self.cause.take().is_some();
        }
        if self.size >= in_flight + self.limits.initial {
            return false;
        }
        self.good += 1;
        if self.good < self.size {
            return false;
        }
        if let Some((ceiling, until)) = &mut self.ceiling
            && self.size >= *ceiling
        {
            // A clock that was put back must not make it believed for ever.
            *until = (*until).min(now.plus(BELIEF));
            if *until > now {
                return false;
            }
            self.ceiling = None;
        }
        self.good = 0;
        self.size += 1;
        self.size >= self.limits.connections && self.cause.take().is_some()
    }

    /// Whether it is smaller now.
    fn halve(&mut self, in_flight: usize, push_back: &PushBack, now: Timestamp) -> bool {
        self.good = 0;
        if self.spared > 0 {
            self.spared -= 1;
            return false;
        }
        let out = in_flight.min(self.size);
        self.spared = out.saturating_sub(1);
        if !push_back.unreached && out > 1 {
            self.ceiling = Some((out - 1, now.plus(BELIEF)));
        }
        let before = self.size;
        self.size = (self.size / 2).max(1);
        self.cause = Some(Cause {
            text: push_back.text.chars().take(MOST_TEXT).collect(),
            at: now,
        });
        self.size < before
    }
}

fn number(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::address::Domain;

    fn key() -> DestinationKey {
        DestinationKey("dest.example".into())
    }

    fn windows(initial: usize, connections: usize) -> Windows {
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        config.limits.initial = initial;
        config.limits.connections = connections;
        Windows::new(Arc::new(config))
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn success() -> Feedback {
        Feedback {
            reached_mail: true,
            ..Feedback::default()
        }
    }

    fn refusal(text: &str, unreached: bool) -> Feedback {
        Feedback {
            push_back: Some(PushBack {
                text: text.to_owned(),
                unreached,
            }),
            ..Feedback::default()
        }
    }

    fn succeed(windows: &mut Windows, times: usize, in_flight: usize) -> usize {
        for _ in 0..times {
            windows.heard(&key(), in_flight, &success(), at(1));
        }
        windows.size(&key())
    }

    // SC-5
    #[test]
    fn a_window_grows_by_one_for_each_full_window_of_successes_up_to_its_limit() {
        let mut windows = windows(2, 4);
        assert_eq!(windows.size(&key()), 2);
        assert_eq!(succeed(&mut windows, 1, 20), 2);
        assert_eq!(succeed(&mut windows, 1, 20), 3);
        assert_eq!(succeed(&mut windows, 2, 20), 3);
        assert_eq!(succeed(&mut windows, 1, 20), 4);
        assert_eq!(succeed(&mut windows, 100, 20), 4);
    }

    // SC-5
    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut windows = windows(2, 20);
        assert_eq!(succeed(&mut windows, 100, 1), 3);
        assert_eq!(succeed(&mut windows, 100, 3), 5);
    }

    // SC-5
    #[test]
    fn the_refusals_of_one_moment_halve_a_window_once_and_never_below_one() {
        let mut windows = windows(8, 8);
        let text = "421 too many connections";
        let heard = windows.heard(&key(), 8, &refusal(text, false), at(5));
        assert_eq!(heard, (4, true));
        for in_flight in (1..8).rev() {
            let heard = windows.heard(&key(), in_flight, &refusal("421 later", false), at(6));
            assert_eq!(heard, (4, false));
        }
        let cause = windows.get(&key()).unwrap().cause.unwrap();
        assert_eq!((cause.text.as_str(), cause.at), (text, at(5)));
        for expected in [2, 1, 1] {
            let heard = windows.heard(&key(), 1, &refusal("no route", true), at(7));
            assert_eq!(heard.0, expected);
        }
    }

    // SC-5
    #[test]
    fn a_number_that_a_host_has_shown_is_not_passed_again_for_an_hour() {
        let mut windows = windows(2, 20);
        assert_eq!(succeed(&mut windows, 5, 20), 4);
        let full = refusal("421 too many connections", false);
        assert_eq!(windows.heard(&key(), 4, &full, at(1)).0, 2);
        assert_eq!(succeed(&mut windows, 1000, 20), 3);
        let hour = at(1).plus(BELIEF);
        assert_eq!(windows.heard(&key(), 3, &success(), hour).0, 4);
    }

    // SC-6
    #[test]
    fn what_was_learned_is_over_when_the_window_is_at_its_limit_again() {
        let mut windows = windows(2, 4);
        windows.heard(&key(), 1, &refusal("timed out", true), at(1));
        assert_eq!(succeed(&mut windows, 5, 4), 3);
        assert!(windows.get(&key()).unwrap().cause.is_some());
        assert_eq!(windows.heard(&key(), 4, &success(), at(1)), (4, true));
        assert_eq!(windows.get(&key()).unwrap().cause, None);
    }

    // SC-6
    #[test]
    fn what_was_kept_holds_after_a_restart_with_its_cause_and_its_ceiling() {
        let mut before = windows(2, 20);
        succeed(&mut before, 5, 20);
        before.heard(&key(), 4, &refusal("421 too many", false), at(1));
        let mut after = windows(2, 20);
        after.load(vec![(key(), before.to_keep(&key()).unwrap())]);
        assert_eq!(
            after.get(&key()).unwrap().cause,
            before.get(&key()).unwrap().cause
        );
        assert_eq!(succeed(&mut after, 1000, 20), 3);
        assert!(after.forget(&key(), at(2)), "it was dead and lives");
        assert_eq!((after.size(&key()), after.to_keep(&key())), (2, None));
    }

    // SC-6, CTL-16
    #[test]
    fn a_window_that_is_pinned_stays_until_it_is_cleared() {
        let mut windows = windows(2, 20);
        assert_eq!(windows.set(&key(), Some(7), true, at(1)), 7);
        succeed(&mut windows, 1000, 20);
        windows.heard(&key(), 7, &refusal("421 too many", false), at(1));
        assert!(!windows.forget(&key(), at(2)));
        assert_eq!(windows.size(&key()), 7);
        assert!(windows.to_keep(&key()).unwrap().pinned);
        assert!(windows.clear(&key()));
        assert_eq!(windows.size(&key()), 2);
        assert_eq!(windows.set(&key(), Some(70), false, at(1)), 20);
    }

    // SC-4
    #[test]
    fn domains_with_the_same_hosts_share_a_window_and_what_was_learned_of_the_first() {
        let mut windows = windows(2, 20);
        let (other, group) = (
            DestinationKey("other.example".into()),
            DestinationKey("mx:mx.provider.example".into()),
        );
        windows.heard(&key(), 2, &refusal("421 too many", false), at(1));
        windows.join(&key(), &group);
        assert_eq!(
            windows.forgotten(),
            [key(), group.clone()],
            "kept elsewhere"
        );
        windows.join(&other, &group);
        assert_eq!((windows.size(&key()), windows.size(&other)), (1, 1));
        windows.heard(&other, 1, &success(), at(1));
        assert_eq!(
            windows.size(&key()),
            1,
            "one was let in when the second was refused"
        );
        assert_eq!(windows.set(&other, Some(6), false, at(2)), 6);
        assert_eq!((windows.size(&key()), windows.home(&key())), (6, &group));
    }

    // SC-4, SC-5, SC-7
    #[test]
    fn the_window_of_hosts_is_kept_when_one_domain_lives_again_and_others_got_through_all_the_while()
     {
        let mut windows = windows(2, 20);
        let (other, group) = (
            DestinationKey("other.example".into()),
            DestinationKey("mx:mx.provider.example".into()),
        );
        windows.join(&key(), &group);
        windows.join(&other, &group);
        windows.heard(&other, 5, &refusal("421 too many", false), at(1));
        let learned = (windows.size(&other), windows.to_keep(&other));
        windows.heard(&other, 1, &success(), at(11));
        assert!(!windows.forget(&key(), at(10)));
        assert_eq!((windows.size(&other), windows.to_keep(&other)), learned);
        // Nobody got through since: the hosts were dead, not the domain.
        assert!(windows.forget(&key(), at(11)));
        assert_eq!((windows.size(&other), windows.to_keep(&other)), (2, None));
    }

    // PRC-8
    #[test]
    fn the_windows_that_are_remembered_are_bounded_and_lessons_go_last() {
        let mut windows = windows(2, 4);
        windows.most = 100;
        windows.heard(&key(), 1, &refusal("timed out", true), at(0));
        for n in 0..1000 {
            let name = DestinationKey(format!("d{n}.example").into());
            windows.heard(&name, 1, &success(), at(n));
        }
        assert!(windows.entries.len() <= 100);
        assert!(windows.get(&key()).is_some());
    }
}
