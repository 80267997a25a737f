//! What may not be delivered now, although it is due: pauses (SC-12), transports that do not exist (RO-3), and senders
//! that are disabled (SC-14). Pure.
//!
//! A blocked group is not even read. Where a block hits only some of the mail of a group, that mail is moved to a group
//! of its own for as long as the block lasts, so that it cannot stand before the rest; the route brings it back.

use std::fmt::Write as _;
use std::sync::Arc;

use super::dead::DeadDestination;
use crate::clock::Timestamp;
use crate::config::{Config, TransportKind};
use crate::policy::route::{
    BUILT_IN, RouteFacts, UnknownTransport, domain_of, find, relay_of, route, unknown_destination,
    unknown_of, via_of,
};
use crate::smtp::address::{AddressDomain, ReversePath};
use crate::store::{DestinationKey, DueRecipient, Pause, PauseScope};

/// The pauses in force, and the configuration they act on.
#[derive(Clone, Debug)]
pub struct Blocks {
    config: Arc<Config>,
    pauses: Vec<(PauseScope, Pause)>,
}

/// Why a group or a recipient waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// A pause with this scope.
    Paused(PauseScope),
    /// Its transport is not in the configuration.
    Unknown(UnknownTransport),
    /// Mail of this sender's domain is stopped by `queue.disabled_senders`.
    Sender(String),
}

impl Blocks {
    /// The pauses that are in force at `now`.
    pub fn new(
        config: Arc<Config>,
        mut pauses: Vec<(PauseScope, Pause)>,
        now: Timestamp,
    ) -> Blocks {
        pauses.retain(|(_, pause)| in_force(pause, now));
        Blocks { config, pauses }
    }

    /// The configuration that these blocks were made from.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The pauses in force.
    pub fn pauses(&self) -> &[(PauseScope, Pause)] {
        &self.pauses
    }

    /// Whether nothing at all goes out.
    pub fn everything(&self) -> bool {
        self.is_paused(&PauseScope::All)
    }

    /// When the first of the pauses ends.
    pub fn next_end(&self) -> Option<Timestamp> {
        self.pauses.iter().filter_map(|(_, p)| p.until).min()
    }

    /// Takes out the pauses that have ended.
    pub fn expire(&mut self, now: Timestamp) {
        self.pauses.retain(|(_, pause)| in_force(pause, now));
    }

    /// Whether all mail of a group is blocked.
    pub fn group(&self, key: &DestinationKey) -> Option<Block> {
        let scope = self.group_scopes(key).find(|scope| self.is_paused(scope));
        if let Some(scope) = scope {
            return Some(Block::Paused(scope));
        }
        if let Some(transport) = unknown_of(key) {
            return find(&self.config, transport).err().map(Block::Unknown);
        }
        let sender = key.0.strip_prefix("disabled:")?;
        let domain = AddressDomain::parse(sender).ok()?;
        self.is_disabled(&domain)
            .then(|| Block::Sender(sender.to_owned()))
    }

    /// Whether mail of this sender is stopped (SC-14).
    pub fn sender(&self, path: &ReversePath) -> Option<Block> {
        if self.config.queue.disabled_senders.is_empty() {
            return None;
        }
        let domain = path.mailbox()?.domain();
        self.is_disabled(domain)
            .then(|| Block::Sender(domain.to_string()))
    }

    fn is_disabled(&self, domain: &AddressDomain) -> bool {
        let mut patterns = self.config.queue.disabled_senders.iter();
        patterns.any(|pattern| pattern.matches(domain))
    }

    /// Whether mail of this transport for this domain is blocked, inside a group that is not.
    pub fn recipient(&self, transport: &str, domain: &AddressDomain) -> Option<Block> {
        if self.pauses.is_empty() {
            return None;
        }
        let domain = bare(domain);
        self.pauses
            .iter()
            .map(|(scope, _)| scope)
            .find(|scope| match scope {
                PauseScope::All => true,
                PauseScope::Transport(name) => name == transport,
                PauseScope::Domain(name) => same_domain(name, &domain),
            })
            .map(|scope| Block::Paused(scope.clone()))
    }

    /// Why this recipient waits, in words, and until when, wherever it stands now: the route is looked up anew. `dead`
    /// knows the destinations that are (SC-7), `limit` what others wait for at `now` (SC-9).
    pub fn why(
        &self,
        due: &DueRecipient,
        now: Timestamp,
        dead: impl FnOnce(&DestinationKey) -> Option<DeadDestination>,
        limit: impl FnOnce(&DestinationKey) -> Option<(String, Option<Timestamp>)>,
    ) -> Option<(String, Option<Timestamp>)> {
        let DueRecipient { head, row } = due;
        let domain = row.recipient.path.domain();
        let routed = route(
            &self.config,
            &RouteFacts {
                caller: &head.caller,
                from: &head.reverse_path,
                to: &row.recipient.path,
                attempts: row.attempts,
                operator: row.transport.as_deref(),
            },
        );
        let block = self
            .sender(&head.reverse_path)
            .or_else(|| self.group(&routed.destination))
            .or_else(|| self.recipient(routed.name, domain));
        if let Some(block) = block {
            return Some(self.describe(&block));
        }
        // It was found to be over it when it was due, whatever holds now.
        if let Some(most) = row.parked.filter(|_| row.next_attempt > now) {
            let limit = format!("limit: per_address_day {most}");
            return Some((limit, Some(row.next_attempt)));
        }
        // What is due only after the probe waits for its own time.
        if let Some(dead) = dead(&routed.destination) {
            let waits = dead.probe.is_none_or(|probe| row.next_attempt <= probe);
            return waits.then(|| (format!("destination: {dead}"), dead.probe));
        }
        let (limit, until) = limit(&routed.destination)?;
        let waits = row.next_attempt <= until.unwrap_or(now);
        waits.then(|| (format!("limit: {limit}"), until))
    }

    /// Whether new mail of this group may go out at once, without a look at its recipients.
    pub fn lets_through(&self, key: &DestinationKey) -> bool {
        if self.pauses.is_empty() {
            return unknown_of(key).is_none() || self.group(key).is_none();
        }
        let partial = |scope: &PauseScope| match scope {
            PauseScope::All => true,
            PauseScope::Transport(name) => match relay_of(key).or_else(|| via_of(key)) {
                Some(own) => own == name,
                None => find(&self.config, name)
                    .is_ok_and(|way| matches!(way.kind(), TransportKind::Direct)),
            },
            PauseScope::Domain(name) => {
                relay_of(key).is_some() || same_domain(name, domain_of(key))
            }
        };
        !self.pauses.iter().any(|(scope, _)| partial(scope)) && self.group(key).is_none()
    }

    /// In words, for listings: what blocks, and until when.
    pub fn describe(&self, block: &Block) -> (String, Option<Timestamp>) {
        let scope = match block {
            Block::Paused(scope) => scope,
            Block::Unknown(unknown) => return (unknown.to_string(), None),
            Block::Sender(domain) => {
                let text = format!("sender-disabled: {domain} is in queue.disabled_senders");
                return (text, None);
            }
        };
        let mut text = match scope {
            PauseScope::All => "paused: all deliveries".to_owned(),
            PauseScope::Transport(name) => format!("paused: transport {name}"),
            PauseScope::Domain(name) => format!("paused: domain {name}"),
        };
        let pause = self.pauses.iter().find(|(s, _)| s == scope).map(|(_, p)| p);
        if let Some(reason) = pause.map(|p| &p.reason).filter(|r| !r.is_empty()) {
            let _ = write!(text, " ({reason})"); // writing to a String cannot fail
        }
        (text, pause.and_then(|p| p.until))
    }

    /// The pauses that would block all of a group.
    fn group_scopes<'a>(
        &'a self,
        key: &'a DestinationKey,
    ) -> impl Iterator<Item = PauseScope> + 'a {
        let transport = relay_of(key)
            .or_else(|| unknown_of(key))
            .or_else(|| via_of(key));
        let own = match (parked_under(key), transport) {
            (Some(scope), _) => Some(scope),
            (None, Some(transport)) => Some(PauseScope::Transport(transport.to_owned())),
            (None, None) if key.0.starts_with("disabled:") => None,
            (None, None) => self.direct_only().then(|| {
                // Without another direct transport all mail of a domain's group takes the built-in one.
                PauseScope::Transport(BUILT_IN.to_owned())
            }),
        };
        let domain = PauseScope::Domain(domain_of(key).to_owned());
        [Some(PauseScope::All), own, Some(domain)]
            .into_iter()
            .flatten()
    }

    fn direct_only(&self) -> bool {
        let direct = |kind: &TransportKind| matches!(kind, TransportKind::Direct);
        !self
            .config
            .transport
            .iter()
            .any(|t| direct(&t.kind) && t.name != BUILT_IN)
    }

    fn is_paused(&self, wanted: &PauseScope) -> bool {
        self.pauses.iter().any(|(scope, _)| match (scope, wanted) {
            (PauseScope::Domain(a), PauseScope::Domain(b)) => same_domain(a, b),
            (a, b) => a == b,
        })
    }
}

/// The group for mail that a block keeps out of its own.
pub fn parking(block: &Block) -> DestinationKey {
    let key = match block {
        Block::Paused(PauseScope::All) => "paused:all".to_owned(),
        Block::Paused(PauseScope::Transport(name)) => format!("paused:transport:{name}"),
        Block::Paused(PauseScope::Domain(name)) => format!("paused:domain:{name}"),
        Block::Unknown(unknown) => return unknown_destination(&unknown.0),
        Block::Sender(domain) => format!("disabled:{domain}"),
    };
    DestinationKey(key.into())
}

/// The pause that a parking group stands for.
fn parked_under(key: &DestinationKey) -> Option<PauseScope> {
    let scope = key.0.strip_prefix("paused:")?;
    if let Some(name) = scope.strip_prefix("transport:") {
        return Some(PauseScope::Transport(name.to_owned()));
    }
    if let Some(name) = scope.strip_prefix("domain:") {
        return Some(PauseScope::Domain(name.to_owned()));
    }
    (scope == "all").then_some(PauseScope::All)
}

/// A pause ends at its time, not after it.
fn in_force(pause: &Pause, now: Timestamp) -> bool {
    pause.until.is_none_or(|until| until > now)
}

/// The domain as an operator writes it: `[ip]` for a literal.
fn bare(domain: &AddressDomain) -> String {
    match domain {
        AddressDomain::Name(name) => name.as_str().to_owned(),
        AddressDomain::Literal(ip) => format!("[{ip}]"),
    }
}

fn same_domain(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DomainPattern, Relay, RelayHost, Transport};
    use crate::smtp::address::Domain;

    fn key(text: &str) -> DestinationKey {
        DestinationKey(text.into())
    }

    fn domain(text: &str) -> AddressDomain {
        AddressDomain::Name(Domain::parse(text).unwrap())
    }

    fn blocks(pauses: &[PauseScope]) -> Blocks {
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        let hosts = vec![(RelayHost::Name(Domain::parse("mx.example").unwrap()), 25)];
        config.transport = vec![Transport {
            name: "smart".to_owned(),
            kind: TransportKind::Relay(Arc::new(Relay::plain(hosts))),
            line: None,
            retry: None,
            limits: Default::default(),
        }];
        let pause = |scope: &PauseScope| {
            let pause = Pause {
                since: Timestamp::from_secs(10),
                until: Some(Timestamp::from_secs(20)),
                reason: "works".to_owned(),
            };
            (scope.clone(), pause)
        };
        let pauses = pauses.iter().map(pause).collect();
        Blocks::new(Arc::new(config), pauses, Timestamp::from_secs(15))
    }

    // SC-12
    #[test]
    fn a_pause_blocks_the_group_of_its_domain_or_relay_and_no_other() {
        let domain = PauseScope::Domain("Dest.Example".to_owned());
        let relay = PauseScope::Transport("smart".to_owned());
        let paused = blocks(&[domain.clone(), relay.clone()]);
        assert_eq!(
            paused.group(&key("dest.example")),
            Some(Block::Paused(PauseScope::Domain("dest.example".to_owned())))
        );
        assert_eq!(
            paused.group(&key("relay:smart")),
            Some(Block::Paused(relay.clone()))
        );
        assert_eq!(paused.group(&key("else.example")), None);
        assert!(!paused.lets_through(&key("dest.example")));
        assert!(paused.lets_through(&key("else.example")));
        let direct = blocks(&[PauseScope::Transport("direct".to_owned())]);
        assert!(direct.group(&key("dest.example")).is_some());
        assert!(direct.group(&key("relay:smart")).is_none());
        assert!(direct.lets_through(&key("relay:smart")));
    }

    // SC-12
    #[test]
    fn a_paused_domain_behind_a_relay_waits_in_a_group_of_its_own() {
        let scope = PauseScope::Domain("dest.example".to_owned());
        let mut paused = blocks(std::slice::from_ref(&scope));
        assert_eq!(paused.group(&key("relay:smart")), None);
        let block = paused.recipient("smart", &domain("dest.example"));
        assert_eq!(block, Some(Block::Paused(scope)));
        assert_eq!(paused.recipient("smart", &domain("else.example")), None);
        assert!(
            !paused.lets_through(&key("relay:smart")),
            "one must look at the recipient"
        );
        let own = parking(&block.unwrap());
        assert!(paused.group(&own).is_some());
        paused.expire(Timestamp::from_secs(20));
        assert_eq!(paused.group(&own), None, "the pause is over");
    }

    // SC-12
    #[test]
    fn a_pause_is_shown_with_its_reason_and_its_end() {
        let paused = blocks(&[PauseScope::All]);
        assert!(paused.everything());
        let block = paused.group(&key("dest.example")).unwrap();
        assert_eq!(
            paused.describe(&block),
            (
                "paused: all deliveries (works)".to_owned(),
                Some(Timestamp::from_secs(20))
            )
        );
    }

    // RO-3
    #[test]
    fn the_group_of_an_unknown_transport_waits_for_the_configuration() {
        let blocks = blocks(&[]);
        assert!(matches!(
            blocks.group(&key("unknown:gone")),
            Some(Block::Unknown(_))
        ));
        assert!(!blocks.lets_through(&key("unknown:gone")));
        assert_eq!(blocks.group(&key("unknown:smart")), None, "it is back");
        // Mail that a route brought there has another route now, and must be looked at.
        assert_eq!(blocks.group(&key("relay:gone")), None);
        assert_eq!(blocks.group(&key("relay:smart")), None);
    }

    // SC-14
    #[test]
    fn mail_of_a_disabled_sender_waits_in_a_group_of_its_own() {
        let from = |text: &str| ReversePath::parse(text, false).unwrap();
        let usual = blocks(&[]);
        assert_eq!(usual.sender(&from("a@bad.example")), None);
        let mut config = Config::clone(usual.config());
        config.queue.disabled_senders = vec![DomainPattern::Subtree(
            Domain::parse("bad.example").unwrap(),
        )];
        let stopped = Blocks::new(Arc::new(config), Vec::new(), Timestamp::from_secs(15));
        assert_eq!(stopped.sender(&from("a@good.example")), None);
        assert_eq!(stopped.sender(&ReversePath::Null), None);
        let block = stopped.sender(&from("a@X.bad.example")).unwrap();
        let own = parking(&block);
        assert_eq!(stopped.group(&own), Some(block.clone()));
        assert_eq!(usual.group(&own), None);
        let (why, until) = stopped.describe(&block);
        assert!(why.starts_with("sender-disabled: x.bad.example") && until.is_none());
    }
}
