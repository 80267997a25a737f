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
mod tests {
    use super::*;
    use crate::config::Relay;
    use std::sync::Arc;

    fn name(text: &str) -> Domain {
        Domain::parse(text).unwrap()
    }

    fn own() -> Own {
        Own {
            hostname: name("us.example"),
            endpoints: vec!["198.51.100.9:25".parse().unwrap()],
        }
    }

    fn plan_of(found: &Found<MxRecord>, seed: u64) -> Result<Plan, Failure> {
        let facts = MxFacts {
            expanded: "real.example",
            found,
        };
        direct("direct", &name("dest.example"), &facts, &own(), 25, seed)
    }

    fn mx(records: &[(u16, &str)]) -> Found<MxRecord> {
        Found::Records(
            records
                .iter()
                .map(|(preference, exchange)| MxRecord {
                    preference: *preference,
                    exchange: (*exchange).to_string(),
                })
                .collect(),
        )
    }

    fn hosts(plan: &Plan) -> Vec<String> {
        plan.hosts
            .iter()
            .map(|host| host.name.to_string())
            .collect()
    }

    /// The conclusion after each of these hosts was skipped for this reason.
    fn concluded(implicit: Option<Missing>, reasons: &[Reason]) -> (Retry, String) {
        let plan = Plan {
            transport: "direct".to_string(),
            target: Target::Domain(name("dest.example")),
            implicit,
            hosts: Vec::new(),
            skips: reasons
                .iter()
                .enumerate()
                .map(|(n, reason)| Skip {
                    host: format!("mx{n}.example"),
                    address: None,
                    reason: reason.clone(),
                })
                .collect(),
        };
        let failure = conclusion(&plan);
        (failure.retry, failure.status.to_string())
    }

    // DV-1
    #[test]
    fn hosts_go_by_preference_and_equals_in_an_order_of_the_seed() {
        let records = mx(&[
            (20, "c.example"),
            (10, "a.example"),
            (10, "b.example"),
            (5, "first.example"),
            (10, "d.example"),
        ]);
        let mut orders = std::collections::HashSet::new();
        for seed in 0..64 {
            let order = hosts(&plan_of(&records, seed).unwrap());
            assert_eq!(order.first().unwrap(), "first.example");
            assert_eq!(order.last().unwrap(), "c.example");
            assert_eq!(order, hosts(&plan_of(&records, seed).unwrap()));
            orders.insert(order);
        }
        // Three equals have six orders.
        assert_eq!(orders.len(), 6);
    }

    // DV-2
    #[test]
    fn without_mx_records_the_expanded_domain_is_the_host() {
        for missing in [Missing::NoData, Missing::NxDomain] {
            let plan = plan_of(&Found::Missing(missing), 1).unwrap();
            assert_eq!(hosts(&plan), ["real.example"]);
            assert_eq!(plan.implicit, Some(missing));
            assert!(plan.hosts[0].checked);
        }
    }

    // DV-2: a CNAME to the root, or to what no host is called, is no null MX.
    #[test]
    fn an_implicit_host_without_a_host_name_is_temporary() {
        for expanded in ["", "a b.example"] {
            let missing = Found::Missing(Missing::NoData);
            let facts = MxFacts {
                expanded,
                found: &missing,
            };
            let failure =
                direct("direct", &name("dest.example"), &facts, &own(), 25, 1).unwrap_err();
            assert_eq!(failure.retry, Retry::Later);
            assert_eq!(failure.status.to_string(), "4.4.4");
        }
    }

    // DV-3
    #[test]
    fn a_null_mx_alone_is_permanent_and_beside_others_it_is_nothing() {
        for records in [mx(&[(0, "")]), mx(&[(10, ""), (0, "")])] {
            let failure = plan_of(&records, 1).unwrap_err();
            assert_eq!(failure.retry, Retry::Never);
            assert_eq!(failure.status.to_string(), "5.1.10");
        }
        let plan = plan_of(&mx(&[(0, ""), (10, "a.example")]), 1).unwrap();
        assert_eq!(hosts(&plan), ["a.example"]);
        assert_eq!(plan.skips[0].reason, Reason::NullMx);
    }

    // DV-4
    #[test]
    fn what_is_definite_is_permanent_and_one_doubt_makes_it_temporary() {
        use Reason::{Dns, NoAddress, NxDomain};
        let never = |status: &str| (Retry::Never, status.to_string());
        let later = |status: &str| (Retry::Later, status.to_string());
        let doubt = || Dns("SERVFAIL".to_string());
        let (gone, bare) = (Some(Missing::NxDomain), Some(Missing::NoData));
        assert_eq!(concluded(gone, &[NxDomain]), never("5.1.2"));
        assert_eq!(concluded(gone, &[NoAddress]), never("5.4.4"));
        assert_eq!(concluded(bare, &[NoAddress]), never("5.4.4"));
        assert_eq!(concluded(bare, &[NxDomain]), never("5.4.4"));
        assert_eq!(concluded(gone, &[doubt()]), later("4.4.3"));
        assert_eq!(concluded(None, &[NxDomain, NoAddress]), never("5.4.4"));
        assert_eq!(
            concluded(None, &[NxDomain, doubt(), NoAddress]),
            later("4.4.3")
        );
        // What was never a host changes nothing about the others.
        assert_eq!(
            concluded(None, &[Reason::InvalidName, Reason::NullMx, NxDomain]),
            never("5.4.4")
        );
        // What was not looked at is not definite.
        assert_eq!(concluded(None, &[NxDomain, Reason::MaxMx]), later("4.4.4"));
        assert_eq!(
            concluded(None, &[NxDomain, Reason::OutOfTime]),
            later("4.4.1")
        );
        assert_eq!(concluded(None, &[NxDomain, Reason::Family]), later("4.4.4"));
    }

    // DV-19
    #[test]
    fn a_resolver_that_cannot_be_asked_is_our_own_fault() {
        let plan = |reasons: [Reason; 2]| Plan {
            transport: "direct".to_string(),
            target: Target::Domain(name("dest.example")),
            implicit: None,
            hosts: Vec::new(),
            skips: reasons
                .map(|reason| Skip {
                    host: "mx.example".to_string(),
                    address: None,
                    reason,
                })
                .to_vec(),
        };
        let gone = || Reason::Resolver("cannot be asked".to_string());
        let failed = Reason::Dns("SERVFAIL".to_string());
        assert_eq!(conclusion(&plan([gone(), gone()])).scope, Scope::Local);
        let mixed = conclusion(&plan([gone(), failed]));
        assert_eq!(mixed.scope, Scope::Destination);
        assert_eq!(mixed.status.to_string(), "4.4.3");
    }

    // DV-5
    #[test]
    fn invalid_targets_are_dropped_and_underscores_are_not() {
        let long = format!("{}.example", "x".repeat(64));
        let records = mx(&[
            (1, "192.0.2.1"),
            (2, "a..example"),
            (3, &long),
            (4, "localhost"),
            (5, "mail.localhost"),
            (6, "bad\\032char.example"),
            (7, "_mx.under_score.example"),
        ]);
        let plan = plan_of(&records, 1).unwrap();
        assert_eq!(hosts(&plan), ["_mx.under_score.example"]);
        assert_eq!(plan.skips.len(), 6);
        let failure = plan_of(&mx(&[(1, "192.0.2.1"), (2, "localhost")]), 1).unwrap_err();
        assert_eq!(failure.retry, Retry::Later);
        assert_eq!(failure.status.to_string(), "4.4.4");
    }

    // DV-8
    #[test]
    fn hosts_with_forbidden_addresses_only_are_temporary_and_the_setting_is_named() {
        let plan = Plan {
            transport: "direct".to_string(),
            target: Target::Domain(name("dest.example")),
            implicit: None,
            hosts: Vec::new(),
            skips: vec![Skip {
                host: "mx.example".to_string(),
                address: None,
                reason: Reason::Network("10.0.0.0/8"),
            }],
        };
        let failure = conclusion(&plan);
        assert_eq!(failure.retry, Retry::Later);
        assert_eq!(failure.status.to_string(), "4.4.4");
        assert!(failure.text.contains("deliver.allow_private"));
    }

    // DV-10
    #[test]
    fn ourselves_and_what_is_not_better_is_discarded() {
        let records = mx(&[
            (5, "better.example"),
            (10, "us.example"),
            (10, "equal.example"),
            (20, "worse.example"),
        ]);
        let plan = plan_of(&records, 1).unwrap();
        assert_eq!(hosts(&plan), ["better.example"]);
        assert_eq!(plan.skips.len(), 3);
        let failure = plan_of(&mx(&[(10, "us.example"), (20, "worse.example")]), 1).unwrap_err();
        assert_eq!(failure.retry, Retry::Never);
        assert_eq!(failure.status.to_string(), "5.4.6");
        // Implicit MX of our own name: the same loop.
        let missing = Found::Missing(Missing::NoData);
        let facts = MxFacts {
            expanded: "us.example",
            found: &missing,
        };
        let failure = direct("direct", &name("us.example"), &facts, &own(), 25, 1).unwrap_err();
        assert_eq!(failure.status.to_string(), "5.4.6");
    }

    // DV-10: as a backup host we cannot say that the better hosts, which are gone, are gone for good.
    #[test]
    fn a_backup_host_whose_better_hosts_are_gone_waits() {
        use Reason::{NotBetterThanOurselves, NxDomain, Ourselves};
        assert_eq!(
            concluded(None, &[Ourselves, NotBetterThanOurselves]),
            (Retry::Never, "5.4.6".to_string())
        );
        assert_eq!(
            concluded(None, &[Ourselves, NotBetterThanOurselves, NxDomain]),
            (Retry::Later, "4.4.4".to_string())
        );
    }

    // DV-10, DV-19
    #[test]
    fn a_host_that_greets_as_ourselves_is_a_loop_and_a_relay_is_broken() {
        let mut plan = plan_of(&mx(&[(1, "a.example")]), 1).unwrap();
        let host = plan.hosts[0].name.clone();
        let failure = greeting_loop(&plan, &host);
        assert_eq!(failure.retry, Retry::Never);
        assert_eq!(failure.status.to_string(), "5.4.6");
        plan.target = Target::Relay(Arc::new(Relay::plain(Vec::new())));
        let failure = greeting_loop(&plan, &host);
        assert_eq!(failure.retry, Retry::Later);
        assert_eq!(failure.scope, Scope::Transport);
        assert_eq!(failure.status.to_string(), "4.3.5");
    }

    // RO-8, DV-10, DV-19
    #[test]
    fn a_relay_without_a_usable_host_never_bounces() {
        for reason in [Reason::NxDomain, Reason::NoAddress, Reason::Ourselves] {
            let plan = Plan {
                transport: "smart".to_string(),
                target: Target::Relay(Arc::new(Relay::plain(Vec::new()))),
                implicit: None,
                hosts: Vec::new(),
                skips: vec![Skip {
                    host: "smart.example".to_string(),
                    address: None,
                    reason,
                }],
            };
            let failure = conclusion(&plan);
            let both = (failure.retry, failure.scope);
            assert_eq!(both, (Retry::Later, Scope::Transport));
            assert_eq!(failure.status.to_string(), "4.3.5");
        }
    }
}
