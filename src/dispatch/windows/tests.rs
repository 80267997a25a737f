//! What windows learn, and with whom they are shared.

use super::*;
use crate::smtp::address;

fn key() -> DestinationKey {
    DestinationKey("dest.example".into())
}

fn of(group: &DestinationKey) -> MxHosts<'_> {
    let best = "mx.provider.example";
    MxHosts { group, best }
}

fn windows(initial: usize, connections: usize) -> Windows {
    let mut config = Config::default_for(address::Domain::parse("here.example").unwrap());
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
    windows.join(&key(), of(&group));
    assert_eq!(
        windows.forgotten(),
        [key(), group.clone()],
        "kept elsewhere"
    );
    windows.join(&other, of(&group));
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
fn the_window_of_hosts_is_kept_when_one_domain_lives_again_and_others_got_through_all_the_while() {
    let mut windows = windows(2, 20);
    let (other, group) = (
        DestinationKey("other.example".into()),
        DestinationKey("mx:mx.provider.example".into()),
    );
    windows.join(&key(), of(&group));
    windows.join(&other, of(&group));
    windows.heard(&other, 5, &refusal("421 too many", false), at(1));
    let learned = (windows.size(&other), windows.to_keep(&other));
    windows.heard(&other, 1, &success(), at(11));
    assert!(!windows.forget(&key(), at(10)));
    assert_eq!((windows.size(&other), windows.to_keep(&other)), learned);
    // Nobody got through since: the hosts were dead, not the domain.
    assert!(windows.forget(&key(), at(11)));
    assert_eq!((windows.size(&other), windows.to_keep(&other)), (2, None));
}

/// Tables for a domain, for hosts, and for another domain, in this order.
fn with_tables() -> Arc<Config> {
    let text = "hostname = \"here.example\"\n\
        [[limit]]\ndestinations = [\"own.example\"]\nconnections = 3\n\
        [[limit]]\ndestinations = [\"mx1.big.example\"]\nconnections = 50\ninitial = 5\n\
        [[limit]]\ndestinations = [\"late.example\"]\nconnections = 9\n";
    Arc::new(Config::parse(text, std::path::Path::new("f")).unwrap())
}

fn dest(text: &str) -> DestinationKey {
    DestinationKey(text.into())
}

// SC-4, SC-9
#[test]
fn a_domain_shares_a_window_if_the_first_table_for_it_and_for_its_best_host_is_the_same() {
    let mut windows = Windows::new(with_tables());
    let group = dest("mx:mx1.big.example,mx2.big.example");
    let (best, second) = ("mx1.big.example", "mx2.big.example");
    let mut told = |domain: &str, best| {
        let (domain, group) = (dest(domain), &group);
        windows.join(&domain, MxHosts { group, best });
        let limits = windows.limits(&domain);
        (
            windows.home(&domain) == group,
            limits.connections,
            windows.size(&domain),
        )
    };
    assert_eq!(told("a.example", best), (true, 50, 5));
    assert_eq!(
        told("late.example", best),
        (true, 50, 5),
        "the first table is the host's"
    );
    assert_eq!(told("own.example", best), (false, 3, 2));
    assert_eq!(
        told("odd.example", second),
        (false, 20, 2),
        "another host is its best"
    );
    assert_eq!(told("odd.example", best), (true, 50, 5));
    // The provider has turned its hosts round.
    assert_eq!(told("a.example", second), (true, 20, 2));
    assert_eq!(told("late.example", second), (false, 9, 2));
    assert_eq!(
        told("odd.example", best),
        (false, 50, 5),
        "it has not heard of that"
    );
}

// SC-9
#[test]
fn a_pattern_for_a_host_that_is_not_the_best_does_nothing() {
    let mut windows = Windows::new(with_tables());
    let group = dest("mx:mx0.big.example,mx1.big.example");
    assert_eq!(windows.limits(&group).connections, 50, "nobody has told");
    let hosts = MxHosts {
        group: &group,
        best: "mx0.big.example",
    };
    windows.join(&dest("a.example"), hosts);
    assert_eq!(windows.limits(&dest("a.example")).connections, 20);
    assert_eq!(windows.home(&dest("a.example")), &group);
}

// SC-6, SC-9
#[test]
fn what_was_learned_within_the_limits_of_the_best_host_is_not_lost_before_that_is_known() {
    let kept = |size| LearnedWindow {
        size,
        ceiling: None,
        cause: "421 too many".to_owned(),
        at: at(1),
        pinned: false,
    };
    let mut windows = Windows::new(with_tables());
    let odd = dest("odd.example");
    let relay = dest("relay:smart");
    let loaded = [&odd, &key(), &relay].map(|key| (key.clone(), kept(40)));
    windows.load(loaded.into());
    assert_eq!(windows.to_keep(&relay).unwrap().size, 20, "it has no hosts");
    assert_eq!((windows.size(&odd), windows.size(&key())), (20, 20));
    assert_eq!(windows.to_keep(&odd).unwrap().size, 40);
    let group = dest("mx:mx1.big.example,mx2.big.example");
    let hosts = |best| MxHosts {
        group: &group,
        best,
    };
    windows.join(&dest("b.example"), hosts("mx2.big.example"));
    windows.join(&odd, hosts("mx1.big.example"));
    assert_eq!((windows.home(&odd), windows.size(&odd)), (&odd, 40));
    windows.join(&key(), hosts("mx2.big.example"));
    assert_eq!(windows.size(&key()), 20, "its host allows no more");
    // A reload knows the host too.
    let mut config = Config::clone(&with_tables());
    config.limit[1].connections = Some(30);
    windows.set_config(&Arc::new(config));
    assert_eq!(windows.size(&odd), 30);
}

// PRC-8
#[test]
fn the_hosts_that_are_remembered_are_bounded() {
    let mut windows = windows(2, 4);
    windows.most = 10;
    for n in 0..100 {
        let group = dest(&format!("mx:mx{n}.example"));
        let best = "mx.example";
        // Many domains, and one that moves from host to host.
        windows.join(
            &dest(&format!("d{n}.example")),
            MxHosts {
                group: &group,
                best,
            },
        );
        windows.join(
            &key(),
            MxHosts {
                group: &group,
                best,
            },
        );
        assert!(windows.domains.len() <= 10 && windows.groups.len() <= 10);
    }
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
