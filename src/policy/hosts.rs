//! From DNS facts to the hosts of an attempt (DV-1 to DV-5, DV-10), and what it means when none of them can be dialled.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage};
use crate::policy::plan::{Host, HostName, Missing, Plan, Reason, Skip, Target};
use crate::smtp::address::Domain;
use crate::smtp::reply::EnhancedCode;

/// DNS-9: MX records that are looked at.
pub const MAX_MX_RECORDS: usize = 100;

/// DV-5: CNAMEs that are followed from an MX record to its host. RFC 5321 §5.1 forbids them there; they are in use.
pub const MAX_TARGET_CNAMES: usize = 10;

/// A definite answer of DNS. Whatever is not definite is an error of the resolver (DNS-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// At least one record.
    Records(Vec<T>),
    /// None.
    Missing(Missing),
}

/// An MX record as it stands in DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is better.
    pub preference: u16,
    /// In presentation form, lower case, without the trailing dot; empty for the root, which is a null MX.
    pub exchange: String,
}

/// What leads back to this host (DV-10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// Our name.
    pub hostname: Domain,
    /// Where we listen, wildcard addresses resolved to the addresses of our interfaces.
    pub endpoints: Vec<SocketAddr>,
}

impl Own {
    /// Whether a connection to this address and port would come back to us.
    pub fn has_endpoint(&self, ip: IpAddr, port: u16) -> bool {
        self.endpoints
            .iter()
            .any(|own| own.ip().to_canonical() == ip && own.port() == port)
    }
}

/// The answer to the question for MX records.
#[derive(Clone, Copy, Debug)]
pub struct MxFacts<'a> {
    /// The domain at the end of its chain of CNAMEs, in presentation form; the domain itself without any.
    pub expanded: &'a str,
    /// Its MX records.
    pub found: &'a Found<MxRecord>,
}

/// Plans a direct delivery to `domain`: hosts by preference, equals in an order that `seed` decides.
///
/// # Errors
/// What is decided without looking up a single address: null MX (DV-3), only invalid targets (DV-5), a loop (DV-10).
pub fn direct(
    transport: &str,
    domain: &Domain,
    mx: &MxFacts<'_>,
    own: &Own,
    port: u16,
    seed: u64,
) -> Result<Plan, Failure> {
    let mut plan = Plan {
        transport: transport.to_string(),
        target: Target::Domain(domain.clone()),
        implicit: None,
        hosts: Vec::new(),
        skips: Vec::new(),
    };
    let targets: Vec<(u16, &str, Result<Domain, Reason>)> = match mx.found {
        Found::Records(records) => {
            let records = &records[..records.len().min(MAX_MX_RECORDS)];
            // RFC 7505 §3: a null MX stands alone; beside others it is none. Several of them still say the same.
            if !records.is_empty() && records.iter().all(|record| record.exchange.is_empty()) {
                return Err(failure(
                    Retry::Never,
                    EnhancedCode::new(5, 1, 10),
                    format!("{domain} takes no mail (null MX)"),
                ));
            }
            records
                .iter()
                .map(|mx| (mx.preference, mx.exchange.as_str(), valid_target(mx)))
                .collect()
        }
        // RFC 5321 §5.1: an empty list of MXs means an implicit MX of preference 0, that host.
        Found::Missing(missing) => {
            plan.implicit = Some(*missing);
            let host = Domain::parse(mx.expanded).map_err(|_| Reason::InvalidName);
            vec![(0, mx.expanded, host)]
        }
    };
    for (preference, target, host) in targets {
        match host {
            Ok(name) => plan.hosts.push(Host {
                name: HostName::Name(name),
                port,
                preference,
                checked: true,
            }),
            Err(reason) => plan.skips.push(Skip {
                host: target.to_string(),
                address: None,
                reason,
            }),
        }
    }
    plan.hosts
        .sort_by_cached_key(|host| (host.preference, shuffle_key(seed, &host.name.to_string())));
    // The same name twice is one host, at its better preference.
    let mut seen = std::collections::HashSet::new();
    plan.hosts.retain(|host| seen.insert(host.name.clone()));
    if plan.hosts.is_empty() {
        return Err(no_usable_host(
            domain,
            "its DNS records name no host",
            &plan.skips,
        ));
    }
    let ourselves = plan
        .hosts
        .iter()
        .find(|host| host.name == HostName::Name(own.hostname.clone()))
        .cloned();
    if let Some(host) = ourselves {
        discard_from(&mut plan, &host);
        if plan.hosts.is_empty() {
            return Err(loop_failure(domain, host.name.to_string().as_str()));
        }
    }
    Ok(plan)
}

/// Discards a host that turned out to be ourselves, and all hosts of equal or worse preference (RFC 5321 §5.1, DV-10).
pub fn discard_from(plan: &mut Plan, ourselves: &Host) {
    let (keep, drop) = std::mem::take(&mut plan.hosts)
        .into_iter()
        .partition(|host| host.preference < ourselves.preference);
    plan.hosts = keep;
    let dropped: Vec<Host> = drop;
    plan.skips.extend(dropped.iter().map(|host| Skip {
        host: host.name.to_string(),
        address: None,
        reason: if host.name == ourselves.name {
            Reason::Ourselves
        } else {
            Reason::NotBetterThanOurselves
        },
    }));
}

/// The best host of `domain` is ourselves: mail for it would go round for ever (DV-10).
fn loop_failure(domain: &Domain, host: &str) -> Failure {
    failure(
        Retry::Never,
        EnhancedCode::new(5, 4, 6),
        format!("mail for {domain} loops back to this host ({host})"),
    )
}

/// A host greets with our own name: it is ourselves (DV-10). For a relay that is a broken transport of ours.
pub fn greeting_loop(plan: &Plan, host: &HostName) -> Failure {
    let mut found = failure(
        Retry::Never,
        EnhancedCode::new(5, 4, 6),
        format!("{host} greets with our own name: mail would loop"),
    );
    found.stage = Stage::Greeting;
    if matches!(plan.target, Target::Relay(_)) {
        found.retry = Retry::Later;
        found.scope = Scope::Transport;
        found.status = EnhancedCode::new(4, 3, 5);
        found.cause = Cause::Local;
    }
    found
}

/// What it means that no host of the plan could be dialled: the skips alone tell (DV-4, DV-5, DV-8). If a host was
/// dialled, its failure counts instead and this is not asked.
pub fn conclusion(plan: &Plan) -> Failure {
    let hosts = plan.skips.iter().filter(|skip| skip.address.is_none());
    let all = |wanted: fn(&Reason) -> bool| {
        let mut hosts = hosts
            .clone()
            // What never was a host says nothing about the others.
            .filter(|skip| !matches!(skip.reason, Reason::InvalidName | Reason::NullMx))
            .peekable();
        hosts.peek().is_some() && hosts.all(|skip| wanted(&skip.reason))
    };
    let domain = match &plan.target {
        Target::Domain(domain) => domain,
        Target::Literal(ip) => {
            return failure(
                Retry::Later,
                EnhancedCode::new(4, 4, 4),
                format!("[{ip}] cannot be used: {}", list(&plan.skips)),
            );
        }
        Target::Relay(_) => {
            let dns = hosts
                .clone()
                .any(|skip| is_unknown(&skip.reason) || skip.reason == Reason::OutOfTime);
            let resolver = |skip: &Skip| matches!(skip.reason, Reason::Resolver(_));
            let none_asked = hosts.clone().count() > 0 && hosts.clone().all(resolver);
            // A smarthost without an address is a broken transport of ours and nobody's bounce (RO-8, DV-19).
            let mut failure = failure(
                Retry::Later,
                if dns {
                    EnhancedCode::new(4, 4, 3)
                } else {
                    EnhancedCode::new(4, 3, 5)
                },
                format!(
                    "no host of transport {} can be used: {}",
                    plan.transport,
                    list(&plan.skips)
                ),
            );
            failure.scope = match (none_asked, dns) {
                (true, _) => Scope::Local,
                (_, true) => Scope::Destination,
                (_, false) => Scope::Transport,
            };
            return failure;
        }
    };
    // Nothing was better than ourselves: the best host is ourselves.
    let ours = |reason: &Reason| {
        matches!(
            reason,
            Reason::Ourselves | Reason::NotBetterThanOurselves | Reason::MaxMx
        )
    };
    if let Some(skip) = hosts
        .clone()
        .find(|skip| skip.reason == Reason::Ourselves && all(ours))
    {
        return loop_failure(domain, &skip.host);
    }
    let mut unknown = hosts.clone().filter(|skip| is_unknown(&skip.reason));
    if let Some(skip) = unknown.next() {
        let mut failure = failure(
            Retry::Later,
            EnhancedCode::new(4, 4, 3),
            format!("DNS: {skip}"),
        );
        let resolver = |skip: &Skip| matches!(skip.reason, Reason::Resolver(_));
        if resolver(skip) && unknown.all(resolver) {
            failure.scope = Scope::Local;
        }
        return failure;
    }
    let cut = |skip: &Skip| matches!(skip.reason, Reason::OutOfTime | Reason::MaxAddresses);
    if !plan.hosts.is_empty() || hosts.clone().any(cut) {
        return failure(
            Retry::Later,
            EnhancedCode::new(4, 4, 1),
            format!("no host of {domain} was reached: {}", list(&plan.skips)),
        );
    }
    let nonexistent = |reason: &Reason| matches!(reason, Reason::NxDomain);
    if plan.implicit == Some(Missing::NxDomain) && all(nonexistent) {
        return failure(
            Retry::Never,
            EnhancedCode::new(5, 1, 2),
            format!("domain {domain} does not exist"),
        );
    }
    let definite = |reason: &Reason| matches!(reason, Reason::NxDomain | Reason::NoAddress);
    if all(definite) {
        let text = match plan.implicit {
            Some(_) => format!("{domain} has neither MX records nor an address"),
            None => format!(
                "no MX host of {domain} has an address: {}",
                list(&plan.skips)
            ),
        };
        return failure(Retry::Never, EnhancedCode::new(5, 4, 4), text);
    }
    no_usable_host(domain, "no usable host", &plan.skips)
}

fn no_usable_host(domain: &Domain, what: &str, skips: &[Skip]) -> Failure {
    failure(
        Retry::Later,
        EnhancedCode::new(4, 4, 4),
        format!("{domain}: {what}: {}", list(skips)),
    )
}

/// Nothing definite is known of the host.
fn is_unknown(reason: &Reason) -> bool {
    matches!(reason, Reason::Dns(_) | Reason::Resolver(_))
}

/// The skips as one text, at most a handful of them.
fn list(skips: &[Skip]) -> String {
    const SHOWN: usize = 5;
    let mut texts: Vec<String> = skips.iter().take(SHOWN).map(Skip::to_string).collect();
    if skips.len() > SHOWN {
        texts.push(format!("and {} more", skips.len() - SHOWN));
    }
    texts.join("; ")
}

fn failure(retry: Retry, status: EnhancedCode, text: String) -> Failure {
    Failure {
        retry,
        scope: Scope::Destination,
        stage: Stage::Dns,
        cause: Cause::Dns,
        code: None,
        status,
        text: text.chars().take(1000).collect(),
        may_be_sent_twice: false,
    }
}

/// DV-5: the host that an MX record names. Underscores are in use and let pass.
fn valid_target(record: &MxRecord) -> Result<Domain, Reason> {
    if record.exchange.is_empty() {
        return Err(Reason::NullMx);
    }
    let name = Domain::parse(&record.exchange).map_err(|_| Reason::InvalidName)?;
    let address = name.as_str().parse::<IpAddr>().is_ok();
    // RFC 6761 §6.3: localhost and what is below it are never a name on the network.
    let localhost = name.as_str() == "localhost" || name.as_str().ends_with(".localhost");
    if address || localhost {
        return Err(Reason::InvalidName);
    }
    Ok(name)
}

/// A key that puts names in an order of its own for each seed.
pub(crate) fn shuffle_key(seed: u64, name: &str) -> u64 {
    // SipHash with fixed keys: the same seed gives the same order, as tests and `explain` want it.
    #[expect(
        deprecated,
        reason = "the documented way to a hash that does not change from run to run"
    )]
    let mut hasher = std::hash::SipHasher::new_with_keys(seed, !seed);
    name.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
