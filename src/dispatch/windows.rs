//! How many connections a destination may have now, learned from what comes of them (SC-5, SC-6). Pure.
//!
//! A window begins at `limits.initial`, grows by one for each full window of successes, and is halved when a connection
//! fails or a host asks for less. The refusals of one moment halve it once. It grows only as far as it is used, as that
//! of Postfix does: many messages one after another say nothing about as many at once.
//!
//! Who was refused while others were let in was told a number. Up to that the window grows again at once, and beyond it
//! only after an hour, or every few messages would be refused for ever.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::permit::{Feedback, PushBack};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::policy::limit::{Limits, limits, same_table};
use crate::policy::route::relay_of;
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

/// The MX hosts of a domain, as a worker has found them.
#[derive(Clone, Copy, Debug)]
pub struct MxHosts<'a> {
    /// The destination of all domains that have them (SC-4).
    pub group: &'a DestinationKey,
    /// The best of them: the first by name of those with the lowest preference (SC-9).
    pub best: &'a str,
}

/// All windows that are not as at first.
#[derive(Debug)]
pub struct Windows {
    config: Arc<Config>,
    entries: HashMap<DestinationKey, Window>,
    /// Domains whose hosts are known.
    domains: HashMap<DestinationKey, Domain>,
    /// The best hosts of their groups: of the first domain that told of it.
    groups: HashMap<DestinationKey, Arc<str>>,
    most: usize,
    /// What was learned of these went for want of room.
    forgotten: Vec<DestinationKey>,
}

/// What a delivery has told of a domain.
#[derive(Debug)]
struct Domain {
    group: DestinationKey,
    best: Arc<str>,
    /// It shares the window of the group: the same limits hold for both.
    joined: bool,
}

#[derive(Debug)]
struct Window {
    size: usize,
    /// It was this when it was kept, which is more than its limits allow while its best host is not known.
    kept: Option<usize>,
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
            domains: HashMap::new(),
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
        // Who shares something that it did not share before is told of by the next delivery.
        for (key, domain) in &mut self.domains {
            domain.joined = domain.joined && belongs(config, key, domain, &self.groups);
        }
        let keys: Vec<DestinationKey> = self.entries.keys().cloned().collect();
        for key in keys {
            self.relimit(&key);
        }
    }

    /// Where what is learned of it is kept: with all who have the same hosts, if they are known.
    pub fn home<'a>(&'a self, key: &'a DestinationKey) -> &'a DestinationKey {
        match self.domains.get(key) {
            Some(domain) if domain.joined => &domain.group,
            _ => key,
        }
    }

    /// A domain has these hosts: its window is that of their group, unless other limits hold for it (SC-4, SC-9).
    pub fn join(&mut self, key: &DestinationKey, hosts: MxHosts<'_>) {
        let MxHosts { group, best } = hosts;
        let full = self.domains.len() >= self.most && !self.domains.contains_key(key);
        if full || self.groups.len() >= self.most && !self.groups.contains_key(group) {
            // The next delivery tells again.
            self.domains.clear();
            self.groups.clear();
        }
        self.note_best(key, hosts);
        let known = self.groups.get(group).filter(|known| ***known == *best);
        let mut domain = Domain {
            group: group.clone(),
            best: known.map_or_else(|| best.into(), Arc::clone),
            joined: false,
        };
        domain.joined = belongs(&self.config, key, &domain, &self.groups);
        let joined = domain.joined;
        let before = self.domains.insert(key.clone(), domain);
        if !joined {
            self.relimit(key);
            return;
        }
        if before.is_some_and(|before| before.joined && before.group == *group) {
            return;
        }
        if !self.entries.contains_key(group)
            && let Some(own) = self.entries.remove(key)
        {
            if !own.is_plain() {
                self.forgotten.extend([key.clone(), group.clone()]);
            }
            self.entries.insert(group.clone(), own);
        }
        self.relimit(group);
    }

    /// Who is the best host of a group says the first domain of it, until that says something else.
    fn note_best(&mut self, key: &DestinationKey, MxHosts { group, best }: MxHosts<'_>) {
        let told = self.domains.get(key).filter(|told| told.group == *group);
        match self.groups.get(group) {
            None => {
                self.groups.insert(group.clone(), best.into());
                self.relimit(group);
                return;
            }
            Some(known) if **known == *best => return,
            Some(known) if told.is_some_and(|told| told.best == *known) => {}
            Some(_) => return,
        }
        self.groups.insert(group.clone(), best.into());
        for (other, domain) in &mut self.domains {
            if domain.group == *group && domain.joined {
                domain.joined = belongs(&self.config, other, domain, &self.groups);
            }
        }
        self.relimit(group);
    }

    /// The limits of a window may be others now.
    fn relimit(&mut self, key: &DestinationKey) {
        let limits = limits(&self.config, key, self.best_of(key));
        let known = self.knows(key);
        if let Some(window) = self.entries.get_mut(key) {
            window.obey(limits, known);
        }
    }

    /// Whether its limits are known, and not only what they are as long as nobody has told of its best host.
    fn knows(&self, key: &DestinationKey) -> bool {
        self.config.limit.is_empty() || relay_of(key).is_some() || self.best_of(key).is_some()
    }

    /// The best host of a domain or of a group.
    fn best_of(&self, key: &DestinationKey) -> Option<&str> {
        let domain = self.domains.get(key).map(|domain| &domain.best);
        let best = domain.or_else(|| self.groups.get(key));
        best.map(|best| &**best)
    }

    /// Most connections that it may have now.
    pub fn size(&self, key: &DestinationKey) -> usize {
        let key = self.home(key);
        match self.entries.get(key) {
            Some(window) => window.size,
            None => self.limits(key).initial,
        }
    }

    /// What an operator allows it.
    pub fn limits(&self, key: &DestinationKey) -> Limits {
        let home = self.home(key);
        limits(&self.config, home, self.best_of(home))
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
        let key = &self.home(key).clone();
        if !self.entries.contains_key(key) {
            let limits = self.limits(key);
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
        let key = &self.home(key).clone();
        if !self.entries.contains_key(key) {
            self.make_room();
            let window = Window::new(self.limits(key), now);
            self.entries.insert(key.clone(), window);
        }
        let Some(window) = self.entries.get_mut(key) else {
            return 1;
        };
        let most = window.limits.connections;
        window.size = size.unwrap_or(window.size).clamp(1, most);
        window.kept = None;
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
            let limits = self.limits(&key);
            let mut window = Window::new(limits, kept.at);
            window.size = (kept.size as usize).max(1);
            window.obey(limits, self.knows(&key));
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
            kept: None,
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

    /// Other limits may hold. What the best host allows is not given up for as long as that is not known.
    fn obey(&mut self, limits: Limits, known: bool) {
        let size = self.kept.take().unwrap_or(self.size);
        self.limits = limits;
        self.size = size.min(limits.connections);
        self.kept = Some(size).filter(|size| !known && *size > self.size);
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
            size: number(self.kept.unwrap_or(self.size)),
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
        self.kept = None;
        self.size = (self.size / 2).max(1);
        self.cause = Some(Cause {
            text: push_back.text.chars().take(MOST_TEXT).collect(),
            at: now,
        });
        self.size < before
    }
}

/// Whether the same limits hold for a domain and for the group of its hosts (SC-9).
fn belongs(
    config: &Config,
    key: &DestinationKey,
    domain: &Domain,
    groups: &HashMap<DestinationKey, Arc<str>>,
) -> bool {
    let best = groups.get(&domain.group).map(|best| &**best);
    same_table(config, (key, Some(&domain.best)), (&domain.group, best))
}

fn number(connections: usize) -> u32 {
    u32::try_from(connections).unwrap_or(u32::MAX)
}
