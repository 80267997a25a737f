//! How much of the daemon one destination may use (SC-1, SC-3). Pure.
//!
//! What is learned of a destination on the way is `dispatch::windows`.

use std::time::Duration;

use crate::config::{Config, Limit, OwnLimits, Rate};
use crate::policy::route::{domain_of, hosts_of, relay_of, via_of};
use crate::smtp::address::AddressDomain;
use crate::store::DestinationKey;

/// What limits a destination in this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Most transactions in the whole daemon.
    pub workers: usize,
    /// Transactions that run now, to all destinations.
    pub busy: usize,
    /// Those to this destination.
    pub in_flight: usize,
    /// Most that it may have at once now.
    pub window: usize,
}

/// What an operator allows one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most connections at once.
    pub connections: usize,
    /// How many at first; never more than `connections`.
    pub initial: usize,
    /// Most recipients of a transaction.
    pub recipients: usize,
    /// Most messages in a time.
    pub rate: Option<Rate>,
    /// Least time between new connections.
    pub dial_interval: Duration,
    /// Most messages to one address in a UTC day; 0: any number. Behind a relay see [`per_address_day`].
    pub per_address_day: u32,
}

/// The limits of `destination`: those of the first `[[limit]]` that fits its domain or `best`, the best MX host of that, as far
/// as it is known (SC-9); a group of domains has those of its best host alone. For what that leaves open they are those of its
/// `[[transport]]`, if it stands for one; and for the rest `[limits]`.
pub fn limits(config: &Config, destination: &DestinationKey, best: Option<&str>) -> Limits {
    let listed = own(config, destination, best);
    let transport = relay_of(destination).or_else(|| via_of(destination));
    let transport = transport.and_then(|name| config.transport(name));
    let transport = transport.map_or(OwnLimits::default(), |transport| transport.limits);
    let usual = &config.limits;
    let connections = listed
        .and_then(|own| own.connections)
        .or(transport.connections)
        .unwrap_or(usual.connections)
        .max(1);
    let initial = listed.and_then(|own| own.initial);
    let recipients = listed
        .and_then(|own| own.recipients)
        .or(transport.recipients);
    let rate = listed.and_then(|own| own.rate).or(transport.rate);
    let dial_interval = listed
        .and_then(|own| own.dial_interval)
        .or(transport.dial_interval);
    Limits {
        connections,
        initial: initial.unwrap_or(usual.initial).clamp(1, connections),
        recipients: recipients.unwrap_or(usual.recipients).max(1),
        rate: rate.unwrap_or(usual.rate).0,
        dial_interval: dial_interval.unwrap_or(usual.dial_interval).get(),
        per_address_day: listed
            .and_then(|own| own.per_address_day)
            .unwrap_or(usual.per_address_day),
    }
}

/// Most messages in a UTC day to an address of `domain`, whose mail waits at `destination` and has these limits (SC-8); 0: any
/// number. It is a limit of the address: where mail takes a relay, whose limits no `[[limit]]` sets, this one comes from the
/// first that fits the domain and sets it.
pub fn per_address_day(
    config: &Config,
    destination: &DestinationKey,
    limits: &Limits,
    domain: &AddressDomain,
) -> u32 {
    if relay_of(destination).is_none() {
        return limits.per_address_day;
    }
    let fitting = config.limit.iter().filter(|limit| fits(limit, domain));
    let own = fitting.filter_map(|limit| limit.per_address_day).next();
    own.unwrap_or(config.limits.per_address_day)
}

/// Whether messages to any address are counted by the day.
pub fn any_per_address_day(config: &Config) -> bool {
    let mut own = config
        .limit
        .iter()
        .filter_map(|limit| limit.per_address_day);
    config.limits.per_address_day > 0 || own.any(|most| most > 0)
}

fn fits(limit: &Limit, domain: &AddressDomain) -> bool {
    let mut patterns = limit.destinations.iter();
    patterns.any(|pattern| pattern.matches(domain))
}

/// Whether a rate or a least time between connections holds for any destination.
pub fn any_rates(config: &Config) -> bool {
    let usual = &config.limits;
    usual.rate.0.is_some()
        || !usual.dial_interval.get().is_zero()
        || config
            .limit
            .iter()
            .any(|own| own.rate.is_some() || own.dial_interval.is_some())
        || config
            .transport
            .iter()
            .any(|own| own.limits.rate.is_some() || own.limits.dial_interval.is_some())
}

/// Whether one table sets the limits of two destinations, each with the best host of its domain, or none at all does.
pub fn same_table(
    config: &Config,
    one: (&DestinationKey, Option<&str>),
    other: (&DestinationKey, Option<&str>),
) -> bool {
    config.limit.is_empty() || own(config, one.0, one.1) == own(config, other.0, other.1)
}

fn own<'a>(
    config: &'a Config,
    destination: &DestinationKey,
    best: Option<&str>,
) -> Option<&'a Limit> {
    if config.limit.is_empty() || relay_of(destination).is_some() {
        return None;
    }
    let names: Vec<AddressDomain> = match (hosts_of(destination), best) {
        // Before anybody has told which of them is the best.
        (Some(hosts), None) => hosts
            .filter_map(|host| AddressDomain::parse(host).ok())
            .collect(),
        (hosts, best) => {
            let domain = domain_of(destination);
            // An address literal of IPv6 stands in a key without its tag; all that fits one fits the other.
            let domain = match domain.starts_with('[') {
                true => "[127.0.0.1]",
                false => domain,
            };
            let domain = hosts.is_none().then_some(domain);
            let names = domain.into_iter().chain(best);
            names
                .filter_map(|name| AddressDomain::parse(name).ok())
                .collect()
        }
    };
    let any = |limit: &&Limit| names.iter().any(|name| fits(limit, name));
    config.limit.iter().find(any)
}

/// Most connections that any destination may have.
pub fn most_connections(config: &Config) -> usize {
    let own = config.limit.iter().filter_map(|limit| limit.connections);
    let transports = config.transport.iter();
    let transports = transports.filter_map(|transport| transport.limits.connections);
    own.chain(transports)
        .fold(config.limits.connections.max(1), usize::max)
}

/// Half the workers, at least one: the most that a destination may hold (SC-3).
pub fn half(workers: usize) -> usize {
    (workers / 2).max(1)
}

/// How many more transactions a destination may have now.
///
/// The workers (SC-1) and the destination's window are hard bounds. The others exist because a slot cannot be taken
/// back from a peer that has stopped answering: what other mail will need within seconds (SC-2) must be kept free
/// before that mail is due. So a destination holds at most half the workers, also when it is alone (SC-3); and the
/// last quarter of the workers is for destinations that have none, so that a few silent ones do not end up with all.
pub fn room(standing: &Standing) -> usize {
    let free = standing.workers.saturating_sub(standing.busy);
    let most = standing.window.min(half(standing.workers));
    let within = most.saturating_sub(standing.in_flight);
    let kept = (standing.workers / 4).max(1);
    let first = usize::from(standing.in_flight == 0);
    within.min(free.saturating_sub(kept).max(first.min(free)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DomainPattern, Relay, Transport, TransportKind};
    use crate::smtp::address::Domain;

    // SC-9
    #[test]
    fn the_first_table_that_fits_sets_what_it_names_and_the_rest_is_as_usual() {
        let domain = |text: &str| Domain::parse(text).unwrap();
        let mut config = Config::default_for(domain("here.example"));
        let limit = |pattern, connections, initial| Limit {
            destinations: vec![pattern],
            connections,
            initial,
            recipients: None,
            rate: None,
            dial_interval: None,
            per_address_day: None,
        };
        config.limit = vec![
            limit(DomainPattern::Exact(domain("a.example")), Some(1), None),
            limit(
                DomainPattern::Subtree(domain("a.example")),
                Some(50),
                Some(9),
            ),
            limit(DomainPattern::All, None, Some(5)),
        ];
        config.limits.recipients = 7;
        let of = |key: &str| {
            let limits = limits(&config, &DestinationKey(key.into()), None);
            assert_eq!(limits.recipients, 7);
            (limits.connections, limits.initial)
        };
        assert_eq!(of("a.example"), (1, 1));
        assert_eq!(of("b.a.example"), (50, 9));
        assert_eq!(of("c.example"), (20, 5));
        assert_eq!(of("[2001:db8::1]"), (20, 5));
        assert_eq!(of("relay:smart"), (20, 2));
        assert_eq!(most_connections(&config), 50);
        let relay = Relay::plain(Vec::new());
        config.transport = vec![Transport {
            name: "smart".to_owned(),
            kind: TransportKind::Relay(relay.into()),
            line: None,
            retry: None,
            limits: OwnLimits {
                connections: Some(60),
                ..OwnLimits::default()
            },
        }];
        let limits = limits(&config, &DestinationKey("relay:smart".into()), None);
        assert_eq!((limits.connections, limits.recipients), (60, 7));
        assert_eq!(most_connections(&config), 60);
    }

    // SC-9
    #[test]
    fn the_best_host_of_a_domain_decides_where_its_name_fits_no_earlier_table() {
        let text = "hostname = \"here.example\"\n\
            [[limit]]\ndestinations = [\"own.example\"]\nconnections = 3\n\
            [[limit]]\ndestinations = [\".big.example\"]\nconnections = 1\n\
            [[limit]]\ndestinations = [\"late.example\"]\nconnections = 9\n";
        let config = Config::parse(text, std::path::Path::new("f")).unwrap();
        let key = |text: &str| DestinationKey(text.into());
        let of = |text: &str, best| limits(&config, &key(text), best).connections;
        let best = Some("mx1.big.example");
        assert_eq!((of("a.example", None), of("a.example", best)), (20, 1));
        assert_eq!(of("via:bulk:a.example", best), 1);
        assert_eq!(of("own.example", best), 3, "its table is the first");
        assert_eq!((of("late.example", None), of("late.example", best)), (9, 1));
        assert_eq!(of("[192.0.2.1]", None), 20);
        let group = "mx:mx.else.example,mx1.big.example";
        assert_eq!(
            (of(group, None), of(group, Some("mx.else.example"))),
            (1, 20)
        );
        assert_eq!(of(group, best), 1);
        let same =
            |domain: &str, own| same_table(&config, (&key(domain), own), (&key(group), best));
        assert!(same("a.example", best) && same("late.example", best));
        assert!(!same("own.example", best) && !same("a.example", Some("mx.else.example")));
    }

    // SC-8, CFG-22
    #[test]
    fn what_an_address_may_get_in_a_day_is_said_by_its_domain_behind_a_relay_too() {
        let text = "hostname = \"here.example\"\n[limits]\nper_address_day = 9\n\
            [[limit]]\ndestinations = [\"a.example\"]\nconnections = 1\n\
            [[limit]]\ndestinations = [\".a.example\", \"b.example\"]\nper_address_day = 3\n\
            [[limit]]\ndestinations = [\"free.example\"]\nper_address_day = 0\n";
        let mut config = Config::parse(text, std::path::Path::new("f")).unwrap();
        let of = |config: &Config, key: &str, domain: &str| {
            let key = DestinationKey(key.into());
            let domain = AddressDomain::parse(domain).unwrap();
            per_address_day(config, &key, &limits(config, &key, None), &domain)
        };
        for (domain, direct, relayed) in [
            // The first table that fits holds for direct mail, whether it sets this or not.
            ("a.example", 9, 3),
            ("x.a.example", 3, 3),
            ("b.example", 3, 3),
            ("free.example", 0, 0),
            ("else.example", 9, 9),
        ] {
            assert_eq!(of(&config, domain, domain), direct, "{domain}");
            let via = format!("via:bulk:{domain}");
            assert_eq!(of(&config, &via, domain), direct, "{via}");
            assert_eq!(of(&config, "relay:smart", domain), relayed, "{domain}");
        }
        assert!(any_per_address_day(&config));
        config.limits.per_address_day = 0;
        assert!(any_per_address_day(&config));
        config.limit.truncate(1);
        assert!(!any_per_address_day(&config));
    }

    fn alone(workers: usize, window: usize) -> usize {
        let mut held = 0;
        loop {
            let more = room(&Standing {
                workers,
                busy: held,
                in_flight: held,
                window,
            });
            if more == 0 {
                return held;
            }
            held += more;
        }
    }

    // SC-1, SC-3
    #[test]
    fn a_destination_alone_ends_at_its_window_or_half_the_workers() {
        assert_eq!(alone(64, 20), 20);
        assert_eq!(alone(64, 1), 1);
        assert_eq!(alone(8, 20), 4);
        for workers in 1..80 {
            let held = alone(workers, 1000);
            assert!((1..=half(workers)).contains(&held), "{held} of {workers}");
        }
    }

    // SC-2
    #[test]
    fn ten_silent_destinations_leave_workers_for_the_others() {
        let (workers, mut busy) = (64, 0);
        for _ in 0..10 {
            let mut in_flight = 0;
            loop {
                let more = room(&Standing {
                    workers,
                    busy,
                    in_flight,
                    window: 20,
                });
                if more == 0 {
                    break;
                }
                in_flight += more.min(1);
                busy += more.min(1);
            }
            assert!(in_flight >= 1, "a destination without a slot gets one");
        }
        assert!(workers - busy >= 16 - 10, "{busy} of {workers} are taken");
        let standing = Standing {
            workers,
            busy: workers,
            in_flight: 0,
            window: 20,
        };
        assert_eq!(room(&standing), 0, "no worker, no room");
    }
}
