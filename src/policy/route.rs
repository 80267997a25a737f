//! Which transport a recipient takes, and in which group it waits (RO-1 to RO-3). Pure.
//!
//! The answer is taken anew for each attempt and never kept (CFG-6, RO-2): what the store remembers is only the group
//! a recipient waits in, and dispatch moves what is found in the wrong one.

use std::fmt;
use std::sync::Arc;

use crate::config::{Config, DomainPattern, Route, Transport, TransportKind};
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
    /// The group to wait in; also for an unknown transport, whose mail thus stands in nobody's way.
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
        Ok(way) => match way.kind() {
            TransportKind::Direct => direct_destination(facts.to.domain()),
            TransportKind::Relay { .. } => named_destination(name),
        },
        Err(_) => named_destination(name),
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

/// The group of a relay, or of a transport that does not exist. A domain holds no colon and a literal begins with a
/// bracket, so the kinds of key never meet.
pub fn named_destination(transport: &str) -> DestinationKey {
    DestinationKey(format!("relay:{transport}").into())
}

/// The relay that a destination stands for.
pub fn relay_of(destination: &DestinationKey) -> Option<&str> {
    destination.0.strip_prefix("relay:")
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
