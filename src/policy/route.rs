//! Which transport a recipient takes, and in which group it waits (RO-1 to RO-3). Pure.
//!
//! The answer is taken anew for each attempt and never kept (CFG-6, RO-2): what the store remembers is only the group
//! a recipient waits in, and dispatch moves what is found in the wrong one.

use std::fmt;
use std::sync::Arc;

use crate::config::{Config, DomainPattern, Line, OwnLimits, Route, Transport, TransportKind};
use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use crate::smtp::address::{AddressDomain, ForwardPath, ReversePath};
use crate::smtp::reply::EnhancedCode;
use crate::store::DestinationKey;

/// The transport that is there without being configured.
pub const BUILT_IN: &str = "direct";

/// What a route may depend on.
#[derive(Clone, Copy, Debug)]
pub struct RouteFacts<'a> {
    /// The caller of the message.
    pub caller: &'a str,
    /// Its reverse-path.
    pub from: &'a ReversePath,
    /// The recipient.
    pub to: &'a ForwardPath,
    /// Attempts so far.
    pub attempts: u32,
    /// The transport that an operator set on the recipient.
    pub operator: Option<&'a str>,
}

/// The way out.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// The built-in transport: straight to MX hosts.
    BuiltIn,
    /// One of the configuration.
    Configured(&'a Transport),
}

impl Way<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Way::BuiltIn => BUILT_IN,
            Way::Configured(transport) => &transport.name,
        }
    }

    /// The group of mail that it takes to this domain (SC-4, CFG-19).
    pub fn destination(&self, domain: &AddressDomain) -> DestinationKey {
        match (self.kind(), self) {
            (TransportKind::Direct, Way::Configured(own)) if own.limits != OwnLimits::default() => {
                via_destination(self.name(), domain)
            }
            (TransportKind::Direct, _) => direct_destination(domain),
            _ => named_destination(self.name()),
        }
    }

    /// How the transport sets out, where that is not what `[deliver]` says.
    pub fn line(&self) -> Option<&Arc<Line>> {
        match self {
            Way::BuiltIn => None,
            Way::Configured(transport) => transport.line.as_ref(),
        }
    }

    /// What the transport does.
    pub fn kind(&self) -> &TransportKind {
        match self {
            Way::BuiltIn => &TransportKind::Direct,
            Way::Configured(transport) => &transport.kind,
        }
    }
}

/// A transport that nothing defines: a fault of ours, temporary (RO-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownTransport(pub String);

impl fmt::Display for UnknownTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "transport {:?} is not in the configuration; waiting for it, or for a route",
            self.0
        )
    }
}

impl std::error::Error for UnknownTransport {}

impl From<UnknownTransport> for Failure {
    fn from(unknown: UnknownTransport) -> Failure {
        Failure {
            retry: Retry::Later,
            scope: Scope::Local,
            stage: Stage::Route,
            cause: Cause::Local,
            code: None,
            // RFC 3463 §3.4 (X.3.5): system incorrectly configured.
            status: EnhancedCode::new(4, 3, 5),
            text: unknown.to_string(),
            may_be_sent_twice: false,
        }
    }
}

/// Where a recipient goes.
#[derive(Clone, Debug)]
pub struct Routed<'a> {
    /// The transport, if it exists.
    pub transport: Result<Way<'a>, UnknownTransport>,
    /// Its name.
    pub name: &'a str,
    /// The group to wait in; one of its own for an unknown transport, whose mail thus stands in nobody's way.
    pub destination: DestinationKey,
}

/// Picks the transport (RO-1): the operator's; else the first matching route, those with `caller` first, then those
/// with `from`, then the others, each in file order; else the built-in one.
pub fn route<'a>(config: &'a Config, facts: &RouteFacts<'a>) -> Routed<'a> {
    let name = facts
        .operator
        .or_else(|| first_match(&config.route, facts))
        .unwrap_or(BUILT_IN);
    let transport = find(config, name);
    let destination = match &transport {
        Ok(way) => way.destination(facts.to.domain()),
        Err(_) => unknown_destination(name),
    };
    Routed {
        transport,
        name,
        destination,
    }
}

/// The transport of this name.
///
/// # Errors
/// [`UnknownTransport`].
pub fn find<'a>(config: &'a Config, name: &str) -> Result<Way<'a>, UnknownTransport> {
    // The configuration goes first: who declares a transport named "direct" means it.
    if let Some(transport) = config.transport.iter().find(|t| t.name == name) {
        Ok(Way::Configured(transport))
    } else if name == BUILT_IN {
        Ok(Way::BuiltIn)
    } else {
        Err(UnknownTransport(name.to_owned()))
    }
}

/// The group of mail that goes straight to the MX hosts of `domain`, or to the literal's address (SC-4).
pub fn direct_destination(domain: &AddressDomain) -> DestinationKey {
    match domain {
        AddressDomain::Name(name) => DestinationKey(Arc::from(name.as_str())),
        AddressDomain::Literal(ip) => DestinationKey(format!("[{ip}]").into()),
    }
}

/// The group of a transport that is not direct. A domain holds no colon and a literal begins with a bracket, so the
/// kinds of key never meet.
pub fn named_destination(transport: &str) -> DestinationKey {
    DestinationKey(format!("relay:{transport}").into())
}

/// The group of mail that a direct transport with limits of its own brings to `domain`: what others bring there is bounded
/// apart from it (CFG-19).
pub fn via_destination(transport: &str, domain: &AddressDomain) -> DestinationKey {
    DestinationKey(format!("via:{transport}:{}", direct_destination(domain)).into())
}

/// The transport of such a group.
pub fn via_of(destination: &DestinationKey) -> Option<&str> {
    let (transport, _) = destination.0.strip_prefix("via:")?.split_once(':')?;
    Some(transport)
}

/// The domain of a direct group, `[ip]` of a literal, or what else the key is.
pub fn domain_of(destination: &DestinationKey) -> &str {
    let via = destination.0.strip_prefix("via:");
    let own = via.and_then(|via| via.split_once(':'));
    own.map_or(&destination.0, |(_, domain)| domain)
}

/// The group of all domains that have these MX hosts, in whatever order, like this one (SC-4).
pub fn hosts_destination(like: &DestinationKey, mut hosts: Vec<&str>) -> DestinationKey {
    hosts.sort_unstable();
    hosts.dedup();
    let hosts = hosts.join(",");
    let key = match via_of(like) {
        Some(transport) => format!("via:{transport}:mx:{hosts}"),
        None => format!("mx:{hosts}"),
    };
    DestinationKey(key.into())
}

/// The hosts of such a group.
pub fn hosts_of(destination: &DestinationKey) -> Option<impl Iterator<Item = &str>> {
    let hosts = domain_of(destination).strip_prefix("mx:")?;
    Some(hosts.split(','))
}

/// The transport that a destination stands for, if it is not the hosts of a domain.
pub fn relay_of(destination: &DestinationKey) -> Option<&str> {
    destination.0.strip_prefix("relay:")
}

/// The group of mail that an operator has sent by a transport which does not exist any more (RO-3). Mail that only a
/// route brought to that transport is not in it: another route holds for that now.
pub fn unknown_destination(transport: &str) -> DestinationKey {
    DestinationKey(format!("unknown:{transport}").into())
}

/// The transport that a destination waits for.
pub fn unknown_of(destination: &DestinationKey) -> Option<&str> {
    destination.0.strip_prefix("unknown:")
}

fn first_match<'a>(routes: &'a [Route], facts: &RouteFacts<'_>) -> Option<&'a str> {
    let rank = |route: &Route| match route {
        r if !r.caller.is_empty() => 0,
        r if !r.from.is_empty() => 1,
        _ => 2,
    };
    // `min_by_key` gives the first of equals: file order.
    routes
        .iter()
        .filter(|route| matches(route, facts))
        .min_by_key(|route| rank(route))
        .map(|route| route.transport.as_str())
}

/// RO-2: enough attempts, and each given list matches.
fn matches(route: &Route, facts: &RouteFacts<'_>) -> bool {
    facts.attempts >= route.min_attempts
        && (route.caller.is_empty() || route.caller.iter().any(|name| name == facts.caller))
        && (route.from.is_empty() || from_matches(&route.from, facts.from))
        && (route.to.is_empty() || route.to.iter().any(|p| p.matches(facts.to.domain())))
}

/// The null reverse-path has no domain; only `*` stands for it.
fn from_matches(patterns: &[DomainPattern], from: &ReversePath) -> bool {
    match from.mailbox() {
        Some(mailbox) => patterns.iter().any(|p| p.matches(mailbox.domain())),
        None => patterns.contains(&DomainPattern::All),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::config::{Relay, RelayHost};
    use crate::smtp::address::{Domain, Mailbox};

    fn relay(name: &str) -> Transport {
        Transport {
            name: name.to_owned(),
            kind: TransportKind::Relay(Arc::new(Relay::plain(vec![(
                RelayHost::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                25,
            )]))),
            line: None,
            retry: None,
            limits: Default::default(),
        }
    }

    fn exactly(domain: &str) -> Vec<DomainPattern> {
        vec![DomainPattern::Exact(Domain::parse(domain).unwrap())]
    }

    fn to(transport: &str) -> Route {
        Route {
            caller: Vec::new(),
            from: Vec::new(),
            to: Vec::new(),
            min_attempts: 0,
            transport: transport.to_owned(),
        }
    }

    fn config(routes: Vec<Route>) -> Config {
        let mut config = Config::default_for(Domain::parse("here.example").unwrap());
        config.transport = ["a", "b", "c"].map(relay).to_vec();
        config.route = routes;
        config
    }

    struct Mail<'a> {
        caller: &'a str,
        from: ReversePath,
        to: Mailbox,
        attempts: u32,
        operator: Option<&'a str>,
    }

    fn mail(from: &str, to: &str) -> Mail<'static> {
        Mail {
            caller: "relay",
            from: ReversePath::parse(from, false).unwrap(),
            to: Mailbox::parse(to, false).unwrap(),
            attempts: 0,
            operator: None,
        }
    }

    /// Transport and destination.
    fn routed(config: &Config, mail: &Mail<'_>) -> (String, String) {
        let facts = RouteFacts {
            caller: mail.caller,
            from: &mail.from,
            to: &mail.to,
            attempts: mail.attempts,
            operator: mail.operator,
        };
        let routed = route(config, &facts);
        (routed.name.to_owned(), routed.destination.to_string())
    }

    fn transport(config: &Config, mail: &Mail<'_>) -> String {
        routed(config, mail).0
    }

    // RO-1
    #[test]
    fn without_a_route_mail_goes_straight_to_its_domain() {
        let config = config(vec![]);
        let direct = |domain: &str| ("direct".to_owned(), domain.to_owned());
        let bob = mail("a@x.example", "bob@Dest.Example");
        assert_eq!(routed(&config, &bob), direct("dest.example"));
        let literal = mail("a@x.example", "bob@[192.0.2.1]");
        assert_eq!(routed(&config, &literal), direct("[192.0.2.1]"));
        let v6 = mail("a@x.example", "bob@[IPv6:2001:db8::1]");
        assert_eq!(routed(&config, &v6), direct("[2001:db8::1]"));
    }

    // RO-1
    #[test]
    fn routes_with_a_caller_go_first_then_those_with_a_sender_then_the_others_in_file_order() {
        let by_caller = |name: &str, t: &str| Route {
            caller: vec![name.to_owned()],
            ..to(t)
        };
        let by_sender = |domain: &str, t: &str| Route {
            from: exactly(domain),
            ..to(t)
        };
        let config = config(vec![
            to("c"),
            to("a"),
            by_sender("x.example", "b"),
            by_sender("x.example", "c"),
            by_caller("app", "a"),
        ]);
        let plain = mail("a@y.example", "bob@dest.example");
        assert_eq!(routed(&config, &plain), ("c".into(), "relay:c".into()));
        let sender = mail("a@x.example", "bob@dest.example");
        assert_eq!(transport(&config, &sender), "b");
        let caller = Mail {
            caller: "app",
            ..mail("a@x.example", "bob@dest.example")
        };
        assert_eq!(transport(&config, &caller), "a");
        let operator = Mail {
            operator: Some("b"),
            ..caller
        };
        assert_eq!(transport(&config, &operator), "b");
    }

    // RO-2
    #[test]
    fn a_route_may_wait_for_a_first_failed_attempt() {
        let config = config(vec![Route {
            min_attempts: 1,
            ..to("a")
        }]);
        let first = mail("a@x.example", "bob@dest.example");
        assert_eq!(transport(&config, &first), "direct");
        let second = Mail {
            attempts: 1,
            ..first
        };
        assert_eq!(transport(&config, &second), "a");
    }

    // RO-2
    #[test]
    fn each_given_list_must_match_and_only_the_star_matches_the_null_reverse_path() {
        let both = Route {
            from: exactly("x.example"),
            to: exactly("dest.example"),
            ..to("a")
        };
        let any = Route {
            from: vec![DomainPattern::All],
            to: exactly("dest.example"),
            ..to("b")
        };
        let config = config(vec![both, any]);
        for (from, rcpt, expected) in [
            ("a@x.example", "bob@dest.example", "a"),
            ("a@x.example", "bob@else.example", "direct"),
            ("a@y.example", "bob@dest.example", "b"),
            ("", "bob@dest.example", "b"),
        ] {
            assert_eq!(transport(&config, &mail(from, rcpt)), expected, "{from:?}");
        }
    }

    // RO-3
    #[test]
    fn a_transport_that_is_gone_is_a_temporary_fault_of_ours() {
        let config = config(vec![]);
        let bob = Mail {
            operator: Some("gone"),
            ..mail("a@x.example", "bob@dest.example")
        };
        let facts = RouteFacts {
            caller: bob.caller,
            from: &bob.from,
            to: &bob.to,
            attempts: 3,
            operator: bob.operator,
        };
        let routed = route(&config, &facts);
        assert_eq!(unknown_of(&routed.destination), Some("gone"));
        assert_eq!(relay_of(&routed.destination), None);
        let failure = Failure::from(routed.transport.unwrap_err());
        assert_eq!(failure.status.to_string(), "4.3.5");
        assert_eq!((failure.retry, failure.scope), (Retry::Later, Scope::Local));
    }
}
