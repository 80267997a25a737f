//! Every source alone, and what they make of each other.

use std::time::Duration;

use super::facts::MxPattern;
use super::report::Kind;
use super::*;
use crate::clock::Timestamp;
use crate::config::{Config, DomainPattern, Tls};

fn domain(text: &str) -> Domain {
    Domain::parse(text).unwrap()
}

fn host(text: &str) -> HostName {
    HostName::Name(domain(text))
}

fn tls() -> Tls {
    Config::default_for(domain("here.test")).tls
}

fn row(level: TlsWanted, names: &[&str]) -> TlsPolicy {
    TlsPolicy {
        domains: vec![DomainPattern::Exact(domain("dest.test"))],
        level,
        names: names.iter().map(|name| domain(name)).collect(),
    }
}

fn sts(mode: StsMode, mx: &[&str]) -> StsFacts {
    StsFacts::Policy(Arc::new(StsPolicy {
        id: "1".to_string(),
        mode,
        mx: mx.iter().map(|mx| MxPattern::parse(mx).unwrap()).collect(),
        max_age: 86_400,
        expires: Timestamp::from_secs(1_900_000_000),
    }))
}

fn tlsa(usage: u8) -> Tlsa {
    Tlsa {
        usage,
        selector: 1,
        matching: 1,
        data: vec![7; 32],
    }
}

fn records(records: Vec<Tlsa>) -> DaneFacts {
    DaneFacts::Records {
        base: domain("mx.dest.test"),
        records,
    }
}

fn remembered(level: TlsLevel) -> MemoryFacts {
    let then = Some(Timestamp::from_secs(1_800_000_000));
    MemoryFacts {
        encrypted: then.filter(|_| level >= TlsLevel::Encrypted),
        verified: then.filter(|_| level >= TlsLevel::Verified),
        requiretls: None,
    }
}

/// One question; what is not said is nothing.
struct Case {
    tls: Tls,
    rows: Vec<TlsPolicy>,
    require: RequireTls,
    sts: StsFacts,
    memory: MemoryFacts,
    dane: DaneFacts,
}

fn case() -> Case {
    Case {
        tls: tls(),
        rows: Vec::new(),
        require: RequireTls::Default,
        sts: StsFacts::Nothing,
        memory: MemoryFacts::nothing(),
        dane: DaneFacts::Insecure,
    }
}

impl Case {
    fn requirement(self) -> Result<Requirement, Failure> {
        let to = AddressDomain::Name(domain("dest.test"));
        let ask = Ask::of(&self.tls, &self.rows, true, &to, self.require);
        let names = HostNames {
            host: host("mx.dest.test"),
            expanded: Some(domain("real.test")),
            next_hop: vec![domain("dest.test")],
        };
        ask.learn(self.sts, self.memory)?.host(&names, &self.dane)
    }

    /// As the log shows it, and whether clear text may follow.
    fn shown(self) -> (String, bool) {
        match self.requirement() {
            Ok(requirement) => (requirement.to_string(), requirement.fallback),
            Err(failure) => (failure.status.to_string(), false),
        }
    }
}

// TLS-1, TLS-2, TLS-4
#[test]
fn by_default_tls_is_used_when_offered_and_clear_text_may_follow() {
    assert_eq!(case().shown(), ("opportunistic".to_string(), true));
    let mut strict = case();
    strict.tls.fallback = false;
    assert_eq!(strict.shown(), ("opportunistic".to_string(), false));
}

// TLS-1
#[test]
fn each_source_asks_for_its_own() {
    let mut all: Vec<(Case, &str)> = Vec::new();
    for (level, shown) in [
        (TlsWanted::Never, "none:tls.level"),
        (TlsWanted::Encrypt, "encrypt:tls.level"),
        (TlsWanted::Verify, "verify:tls.level"),
        // DANE that is not there.
        (TlsWanted::Dane, "4.7.5"),
    ] {
        let mut level_case = case();
        level_case.tls.level = level;
        all.push((level_case, shown));
    }
    for (level, shown) in [
        (TlsWanted::Never, "none:tls_policy"),
        (TlsWanted::Opportunistic, "opportunistic:tls_policy"),
        (TlsWanted::Encrypt, "encrypt:tls_policy"),
        (TlsWanted::Verify, "verify:tls_policy"),
        (TlsWanted::Dane, "4.7.5"),
    ] {
        let rows = vec![row(level, &[])];
        all.push((Case { rows, ..case() }, shown));
    }
    for (mode, mx, shown) in [
        (StsMode::Enforce, "mx.dest.test", "verify:mta-sts"),
        (StsMode::Enforce, "*.dest.test", "verify:mta-sts"),
        (StsMode::Enforce, "*.test", "4.7.5"),
        (StsMode::Enforce, "other.test", "4.7.5"),
        (StsMode::Testing, "other.test", "opportunistic"),
        (StsMode::None, "other.test", "opportunistic"),
    ] {
        let sts = sts(mode, &[mx]);
        all.push((Case { sts, ..case() }, shown));
    }
    for (dane, shown) in [
        (DaneFacts::Nothing, "opportunistic"),
        (DaneFacts::Failed("bogus".to_string()), "4.7.5"),
        (records(vec![tlsa(3)]), "dane:dane"),
        (records(vec![tlsa(0), tlsa(2)]), "dane:dane"),
        (records(vec![tlsa(0), tlsa(1)]), "encrypt:dane"),
    ] {
        all.push((Case { dane, ..case() }, shown));
    }
    for (held, level, shown) in [
        (TlsMemory::Off, TlsLevel::Verified, "opportunistic"),
        (TlsMemory::Encryption, TlsLevel::Encrypted, "encrypt:memory"),
        (TlsMemory::Encryption, TlsLevel::Verified, "encrypt:memory"),
        (
            TlsMemory::Verification,
            TlsLevel::Encrypted,
            "encrypt:memory",
        ),
        (TlsMemory::Verification, TlsLevel::Verified, "verify:memory"),
    ] {
        let mut memory = Case {
            memory: remembered(level),
            ..case()
        };
        memory.tls.memory = held;
        all.push((memory, shown));
    }
    for (n, (case, shown)) in all.into_iter().enumerate() {
        let (is, fallback) = case.shown();
        assert_eq!(is, shown, "{n}");
        let opportunistic = is.starts_with("opportunistic");
        assert_eq!(fallback, opportunistic, "{n}: {is}");
    }
}

// TLS-1, TLS-7
#[test]
fn a_policy_row_stands_in_the_place_of_memory_and_mta_sts_but_takes_nothing_from_dane() {
    let mut all = Case {
        sts: sts(StsMode::Enforce, &["other.test"]),
        memory: remembered(TlsLevel::Verified),
        rows: vec![row(TlsWanted::Opportunistic, &[])],
        ..case()
    };
    all.tls.memory = TlsMemory::Verification;
    assert_eq!(all.shown(), ("opportunistic:tls_policy".to_string(), true));
    let with_dane = Case {
        rows: vec![row(TlsWanted::Opportunistic, &[])],
        dane: records(vec![tlsa(3)]),
        ..case()
    };
    assert_eq!(with_dane.shown().0, "dane:tls_policy+dane");
    // Never means never.
    let never = Case {
        rows: vec![row(TlsWanted::Never, &[])],
        dane: records(vec![tlsa(3)]),
        ..case()
    };
    assert_eq!(never.shown().0, "none:tls_policy");
}

// TLS-7
#[test]
fn the_first_row_that_fits_holds_and_may_name_other_names() {
    let rows = vec![
        TlsPolicy {
            domains: vec![DomainPattern::Exact(domain("else.test"))],
            ..row(TlsWanted::Never, &[])
        },
        row(TlsWanted::Verify, &["mail.partner.test"]),
        row(TlsWanted::Never, &[]),
    ];
    let requirement = Case { rows, ..case() }.requirement().unwrap();
    assert_eq!(requirement.to_string(), "verify:tls_policy");
    assert_eq!(requirement.conditions.names, [host("mail.partner.test")]);
}

// DANE-6, TLS-1
#[test]
fn a_certificate_must_satisfy_all_who_ask_for_it() {
    let both = Case {
        sts: sts(StsMode::Enforce, &["mx.dest.test"]),
        dane: records(vec![tlsa(3)]),
        ..case()
    };
    let requirement = both.requirement().unwrap();
    assert_eq!(requirement.to_string(), "dane:mta-sts+dane");
    let fault = || {
        Err(Fault {
            kind: Kind::CertificateNotTrusted,
            text: "self-signed".to_string(),
        })
    };
    let judge = |name: Result<(), Fault>, dane: Result<(), Fault>| {
        requirement.judge(&Reached {
            encrypted: true,
            name,
            dane: Some(dane),
            protocol: String::new(),
        })
    };
    assert!(judge(Ok(()), Ok(())).is_ok());
    for failure in [judge(fault(), Ok(())), judge(Ok(()), fault())] {
        let failure = failure.unwrap_err();
        assert_eq!(failure.status, NOT_ENOUGH);
        assert_eq!((failure.retry, failure.scope), (Retry::Later, Scope::Host));
    }
    let plain = requirement.judge(&Reached::plain()).unwrap_err();
    assert_eq!(plain.status, NOT_OFFERED);
}

// TLS-5: DANE is more than the name that was there before
#[test]
fn memory_of_a_verified_name_is_satisfied_by_dane() {
    let mut moved = Case {
        memory: remembered(TlsLevel::Verified),
        dane: records(vec![tlsa(3)]),
        ..case()
    };
    moved.tls.memory = TlsMemory::Verification;
    let requirement = moved.requirement().unwrap();
    assert!(requirement.conditions.by_dane && !requirement.conditions.by_name);
}

// TLS-6
#[test]
fn what_was_not_seen_for_memory_age_is_forgotten() {
    let seen = Timestamp::from_secs(1_800_000_000);
    let facts = MemoryFacts {
        encrypted: Some(seen.plus(Duration::from_secs(60))),
        verified: Some(seen),
        requiretls: None,
    };
    let age = Duration::from_secs(3600);
    let at = |secs| facts.at(seen.plus(Duration::from_secs(secs)), age).level();
    assert_eq!(at(0), TlsLevel::Verified);
    assert_eq!(at(3599), TlsLevel::Verified);
    assert_eq!(at(3600), TlsLevel::Encrypted);
    assert_eq!(at(3660), TlsLevel::Plain);
}

// TLS-12
#[test]
fn requiretls_needs_dane_or_an_enforced_policy_and_lifts_every_word_against_tls() {
    let required = |sts, dane, rows| Case {
        require: RequireTls::Yes,
        sts,
        dane,
        rows,
        ..case()
    };
    let enforce = || sts(StsMode::Enforce, &["mx.dest.test"]);
    let alone = required(StsFacts::Nothing, DaneFacts::Nothing, Vec::new());
    let failure = alone.requirement().unwrap_err();
    assert_eq!((failure.status, failure.retry), (REQUIRETLS, Retry::Never));
    for not_enough in [
        required(
            sts(StsMode::Testing, &["mx.dest.test"]),
            DaneFacts::Insecure,
            vec![],
        ),
        required(StsFacts::Nothing, records(vec![tlsa(1)]), vec![]),
        required(
            StsFacts::Nothing,
            DaneFacts::Insecure,
            vec![row(TlsWanted::Verify, &[])],
        ),
    ] {
        assert_eq!(not_enough.shown().0, "5.7.30");
    }
    // Not listed is a matter for later: the policy may change.
    let not_listed = required(
        sts(StsMode::Enforce, &["x.test"]),
        DaneFacts::Insecure,
        vec![],
    );
    assert_eq!(not_listed.shown().0, "4.7.5");
    for (enough, shown) in [
        (
            required(enforce(), DaneFacts::Insecure, vec![]),
            "verify:mta-sts+requiretls",
        ),
        (
            required(StsFacts::Nothing, records(vec![tlsa(3)]), vec![]),
            "dane:dane+requiretls",
        ),
        (
            required(
                enforce(),
                DaneFacts::Insecure,
                vec![row(TlsWanted::Never, &[])],
            ),
            "verify:tls_policy+mta-sts+requiretls",
        ),
    ] {
        let requirement = enough.requirement().unwrap();
        assert_eq!(requirement.to_string(), shown);
        assert!(requirement.requiretls && !requirement.fallback);
    }
}

// TLS-13
#[test]
fn tls_required_no_lets_the_domains_policies_go_but_not_the_operators() {
    let mut all = Case {
        require: RequireTls::No,
        sts: StsFacts::Unknown("SERVFAIL".to_string()),
        memory: remembered(TlsLevel::Verified),
        dane: DaneFacts::Failed("bogus".to_string()),
        ..case()
    };
    all.tls.memory = TlsMemory::Verification;
    let shown = ("opportunistic:tls-required-no".to_string(), true);
    assert_eq!(all.shown(), shown);
    let operator = Case {
        require: RequireTls::No,
        rows: vec![row(TlsWanted::Encrypt, &[])],
        ..case()
    };
    let shown = "encrypt:tls_policy+tls-required-no".to_string();
    assert_eq!(operator.shown(), (shown, false));
}

// STS-3
#[test]
fn an_unknown_policy_postpones_the_attempt_before_any_host() {
    let unknown = || StsFacts::Unknown("no answer in time".to_string());
    let failure = Case {
        sts: unknown(),
        ..case()
    };
    let failure = failure.requirement().unwrap_err();
    assert_eq!(failure.status.to_string(), "4.4.3");
    assert_eq!(failure.scope, Scope::Destination);
    // Who does not ask does not mind.
    let row = Case {
        sts: unknown(),
        rows: vec![row(TlsWanted::Encrypt, &[])],
        ..case()
    };
    assert_eq!(row.shown().0, "encrypt:tls_policy");
}

// DV-11
#[test]
fn an_address_literal_has_neither_mta_sts_nor_dane_nor_memory() {
    let to = AddressDomain::Literal([192, 0, 2, 1].into());
    let ask = Ask::of(&tls(), &[], true, &to, RequireTls::Default);
    assert!(!ask.sts && !ask.dane && !ask.memory);
}

// DANE-4
#[test]
fn records_of_unknown_kind_or_wrong_length_are_unusable() {
    let usable = |usage, selector, matching, length| {
        let data = vec![0; length];
        Tlsa {
            usage,
            selector,
            matching,
            data,
        }
        .is_usable()
    };
    for usage in [2, 3] {
        for selector in [0, 1] {
            assert!(usable(usage, selector, 0, 300));
            assert!(usable(usage, selector, 1, 32));
            assert!(usable(usage, selector, 2, 64));
        }
    }
    for (usage, selector, matching, length) in [
        (0, 0, 1, 32),
        (1, 1, 1, 32),
        (4, 0, 1, 32),
        (255, 0, 1, 32),
        (3, 2, 1, 32),
        (3, 1, 3, 32),
        (3, 1, 1, 31),
        (3, 1, 1, 64),
        (3, 1, 2, 32),
        (3, 1, 0, 0),
    ] {
        assert!(
            !usable(usage, selector, matching, length),
            "{usage} {selector} {matching}"
        );
    }
}

// STS-9, RPT-1
#[test]
fn what_a_policy_in_testing_would_refuse_is_seen_and_lets_mail_through() {
    let testing = |mx| Case {
        sts: sts(StsMode::Testing, &[mx]),
        ..case()
    };
    let encrypted = Reached {
        encrypted: true,
        name: Err(Fault {
            kind: Kind::CertificateExpired,
            text: "expired".to_string(),
        }),
        dane: None,
        protocol: String::new(),
    };
    let seen = |mx, reached: &Reached| {
        let requirement = testing(mx).requirement().unwrap();
        assert!(requirement.judge(reached).is_ok());
        report::of_session(&requirement, reached).map_err(|fault| fault.kind)
    };
    assert_eq!(
        seen("mx.dest.test", &encrypted),
        Err(Kind::CertificateExpired)
    );
    assert_eq!(seen("other.test", &encrypted), Err(Kind::ValidationFailure));
    assert_eq!(
        seen("mx.dest.test", &Reached::plain()),
        Err(Kind::StartTlsNotSupported)
    );
}
