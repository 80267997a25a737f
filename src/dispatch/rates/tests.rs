use super::*;

fn key(text: &str) -> DestinationKey {
    DestinationKey(text.into())
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000 + millis)
}

fn limits(rate: &str, dial_millis: u64) -> Limits {
    Limits {
        connections: 20,
        initial: 20,
        recipients: 100,
        rate: rate.parse().ok(),
        dial_interval: Duration::from_millis(dial_millis),
        per_address_day: 0,
    }
}

fn rates() -> Rates {
    let domain = crate::smtp::address::Domain::parse("here.example").unwrap();
    let mut config = Config::default_for(domain);
    config.limits.dial_interval = Span(Duration::from_secs(1));
    Rates::new(&config)
}

fn all(rates: &mut Rates, now: Timestamp) -> Vec<String> {
    std::iter::from_fn(|| rates.pop(now).map(|key| key.to_string())).collect()
}

// SC-8
#[test]
fn a_rate_lets_its_count_go_at_once_and_as_many_again_in_its_time() {
    let (mut rates, home, limits) = (rates(), key("d.example"), limits("3/1m", 0));
    assert_eq!(rates.take(&home, &limits, 20, at(0)), Some(3));
    assert_eq!(rates.take(&home, &limits, 20, at(19_999)), Some(0));
    assert_eq!(rates.take(&home, &limits, 20, at(20_000)), Some(1));
    assert_eq!(rates.take(&home, &limits, 20, at(59_999)), Some(1));
    assert_eq!(rates.take(&home, &limits, 20, at(60_000)), Some(1));
    assert_eq!(rates.take(&home, &limits, 20, at(9_000_000)), Some(3));
    rates.give_back(&home, 2, at(9_000_000));
    assert_eq!(rates.take(&home, &limits, 20, at(9_000_000)), Some(2));
}

// SC-8
#[test]
fn what_was_not_sent_counts_for_nothing() {
    let (mut rates, home, limits) = (rates(), key("d.example"), limits("1/1h", 0));
    assert_eq!(rates.take(&home, &limits, 1, at(0)), Some(1));
    rates.release(&home, Spent::default(), at(10));
    assert_eq!(rates.take(&home, &limits, 1, at(10)), Some(1));
    let sent = Spent {
        message: true,
        ..Spent::default()
    };
    rates.release(&home, sent, at(20));
    assert_eq!(rates.take(&home, &limits, 1, at(20)), Some(0));
}

// SC-8, SC-4
#[test]
fn who_shares_a_rate_goes_in_the_order_of_coming_and_only_as_many_as_may() {
    let (mut rates, home, limits) = (rates(), key("mx:mx.example"), limits("2/2s", 0));
    assert_eq!(rates.take(&home, &limits, 2, at(0)), Some(2));
    for name in ["a", "b", "c"] {
        assert_eq!(rates.wait(&home, &key(name), &limits, at(0)), Wait::Here);
    }
    assert_eq!(rates.wait(&home, &key("a"), &limits, at(0)), Wait::Here);
    assert_eq!(rates.next(), Some(at(1000)));
    assert_eq!(all(&mut rates, at(999)), [""; 0]);
    assert_eq!(all(&mut rates, at(1000)), ["a"]);
    assert_eq!(rates.take(&home, &limits, 9, at(1000)), Some(1));
    assert_eq!(rates.wait(&home, &key("a"), &limits, at(1000)), Wait::Here);
    assert_eq!(all(&mut rates, at(2000)), ["b"]);
    // It had nothing after all.
    assert_eq!(rates.take(&home, &limits, 9, at(2000)), Some(1));
    rates.give_back(&home, 1, at(2000));
    assert_eq!(all(&mut rates, at(2100)), ["c"]);
}

// SC-8, CFG-5
#[test]
fn another_rate_holds_from_the_next_message_on_and_forgives_nothing() {
    let (mut rates, home) = (rates(), key("d.example"));
    assert_eq!(rates.take(&home, &limits("2/1h", 0), 9, at(0)), Some(2));
    let quick = limits("100/1s", 0);
    assert_eq!(rates.take(&home, &quick, 9, at(0)), Some(0));
    assert_eq!(rates.take(&home, &quick, 9, at(20)), Some(2));
    assert_eq!(rates.take(&home, &limits("", 0), 9, at(20)), None);
}

// SC-8
#[test]
fn one_connection_is_made_in_each_interval_and_kept_sessions_need_none() {
    let (mut rates, home, limits) = (rates(), key("d.example"), limits("", 10_000));
    assert_eq!(rates.take(&home, &limits, 9, at(0)), Some(1));
    assert!(rates.dial(&home, &limits, at(50)));
    assert_eq!(rates.take(&home, &limits, 9, at(60)), Some(0));
    assert_eq!(
        rates.wait(&home, &key("d.example"), &limits, at(60)),
        Wait::Here
    );
    assert_eq!(rates.next(), Some(at(10_050)));
    let kept = Spent {
        message: true,
        dialled: true,
        kept: true,
    };
    rates.release(&home, kept, at(100));
    assert_eq!(all(&mut rates, at(100)), ["d.example"]);
    assert_eq!(rates.take(&home, &limits, 9, at(100)), Some(1));
    // The session is gone when the worker comes for it.
    assert!(!rates.dial(&home, &limits, at(110)));
    rates.release(&home, Spent::default(), at(120));
    assert_eq!(rates.take(&home, &limits, 9, at(10_049)), Some(0));
    assert_eq!(rates.take(&home, &limits, 9, at(10_050)), Some(1));
    // What goes on to another host does so at once, and the next one waits for it.
    assert!(rates.dial(&home, &limits, at(10_050)));
    rates.dial_on(&home, &limits, at(10_060));
    assert!(!rates.dial(&home, &limits, at(30_049)));
    assert!(rates.dial(&home, &limits, at(30_050)));
}

// PRC-8
#[test]
fn what_is_remembered_is_bounded() {
    let (mut rates, limits) = (rates(), limits("1/1h", 0));
    rates.most = 10;
    for n in 0..100 {
        let name = key(&format!("d{n}"));
        assert_eq!(rates.take(&name, &limits, 1, at(n)), Some(1));
        let spent = Spent {
            message: true,
            ..Spent::default()
        };
        rates.release(&name, spent, at(n));
    }
    assert!(rates.homes.len() <= 10);
    rates.take(&key("d"), &limits, 1, at(100));
    let waits = |n: usize| key(&format!("w{n}"));
    for n in 0..10 {
        let wait = rates.wait(&key("d"), &waits(n), &limits, at(100));
        assert_eq!(wait, Wait::Here);
    }
    let wait = rates.wait(&key("d"), &waits(10), &limits, at(100));
    assert_eq!(wait, Wait::Until(at(3_600_100)));
}

// RT-9
#[test]
fn a_clock_that_goes_back_makes_nothing_wait_longer() {
    let (mut rates, home, limits) = (rates(), key("d"), limits("1/1m", 10_000));
    rates.take(&home, &limits, 1, at(0));
    assert!(rates.dial(&home, &limits, at(0)));
    assert_eq!(rates.wait(&home, &home, &limits, at(0)), Wait::Here);
    rates.clock_went_back(at(-900_000));
    assert_eq!(rates.next(), Some(at(-840_000)));
}
