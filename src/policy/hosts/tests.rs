//! The hosts of a domain, and what is concluded when none of them can be used.

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
        let failure = direct("direct", &name("dest.example"), &facts, &own(), 25, 1).unwrap_err();
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
