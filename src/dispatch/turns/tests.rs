//! What is demanded of the line.

use super::super::permit::PushBack;
use super::home::{QUICK, SPAN};
use super::*;
use crate::dispatch::windows::MxHosts;
use crate::smtp::address::Domain;

/// Windows that are as large as they may be.
fn windows(size: usize) -> Windows {
    let mut config = Config::default_for(Domain::parse("here.example").unwrap());
    config.limits.connections = size;
    config.limits.initial = size;
    Windows::new(Arc::new(config))
}

fn now() -> Timestamp {
    Timestamp::from_secs(1)
}

fn key(n: usize) -> DestinationKey {
    DestinationKey(format!("d{n}.example").into())
}

fn all_picks(turns: &mut Turns) -> Vec<(usize, usize)> {
    let mut picks = Vec::new();
    while let Some(pick) = turns.serve() {
        let n = pick.key.0[1..].split('.').next().unwrap().parse().unwrap();
        picks.push((n, pick.slots));
        turns.served(&pick.key, 0, Left::More, false);
    }
    picks
}

// SC-2
#[test]
fn destinations_are_served_in_turn() {
    let mut turns = Turns::new(8, windows(1), MOST_WAITING);
    for n in 0..4 {
        assert!(turns.offer(&key(n)));
    }
    assert_eq!(all_picks(&mut turns), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    turns.release(&key(2), None, false, now());
    turns.release(&key(0), None, false, now());
    assert_eq!(all_picks(&mut turns), [(2, 1), (0, 1)]);
}

// SC-3
#[test]
fn a_destination_at_its_limit_stands_aside_and_hides_nobody() {
    let mut turns = Turns::new(4, windows(20), MOST_WAITING);
    turns.offer(&key(0));
    assert_eq!(all_picks(&mut turns), [(0, 2)]);
    assert!(!turns.can_serve());
    turns.offer(&key(1));
    assert_eq!(all_picks(&mut turns), [(1, 1)]);
    turns.release(&key(0), None, false, now());
    assert_eq!(all_picks(&mut turns), [(1, 1)], "the other came first");
    turns.release(&key(0), None, false, now());
    assert_eq!(all_picks(&mut turns), [(0, 1)]);
}

// SC-1
#[test]
fn the_last_workers_are_for_destinations_without_one() {
    let mut turns = Turns::new(8, windows(20), MOST_WAITING);
    for n in 0..3 {
        turns.offer(&key(n));
    }
    while turns.can_serve() {
        all_picks(&mut turns);
    }
    assert_eq!(turns.in_flight(), 6);
    for n in 3..9 {
        turns.offer(&key(n));
    }
    assert_eq!(all_picks(&mut turns), [(3, 1), (4, 1)]);
    assert_eq!(turns.in_flight(), 8);
}

// SC-2, SC-3
#[test]
fn a_quick_destination_has_as_much_again_claimed_ahead_and_by_the_dozen() {
    let good = Feedback {
        reached_mail: true,
        ..Feedback::default()
    };
    let mut turns = Turns::new(64, windows(4), MOST_WAITING);
    turns.offer(&key(0));
    assert_eq!(all_picks(&mut turns), [(0, 4)]);
    for _ in 0..QUICK - 1 {
        turns.release(&key(0), Some(&good), false, now());
        assert_eq!(all_picks(&mut turns), [(0, 1)]);
    }
    turns.release(&key(0), Some(&good), false, now());
    assert_eq!(all_picks(&mut turns), [(0, 5)], "eight, of which four run");
    turns.release(&key(0), Some(&good), false, now());
    assert!(!turns.can_serve(), "not for one alone");
    turns.release(&key(0), Some(&good), false, now());
    assert_eq!(all_picks(&mut turns), [(0, 2)]);
    for span in 1..=4 {
        let later = Timestamp::from_millis(1000 + 2 * SPAN * span);
        turns.release(&key(0), Some(&good), false, later);
        assert!(!turns.can_serve(), "slow now, and more than its window");
    }
    turns.release(&key(0), Some(&good), false, Timestamp::from_secs(9));
    assert_eq!(all_picks(&mut turns), [(0, 1)]);
}

// SC-3
#[test]
fn what_is_ready_may_follow_on_a_connection_in_use_and_then_is_its_next_transaction() {
    let good = Feedback {
        reached_mail: true,
        ..Feedback::default()
    };
    let mut turns = Turns::new(64, windows(2), MOST_WAITING);
    turns.take(&key(0), 5 + QUICK as usize);
    assert!(turns.start(&key(0)) && turns.start(&key(0)));
    assert!(!turns.start(&key(0)) && !turns.start(&key(0)) && !turns.start(&key(0)));
    assert!(!turns.follow(&key(0)), "it is not quick");
    for _ in 0..QUICK {
        turns.release(&key(0), Some(&good), false, now());
    }
    assert!(turns.follow(&key(0)) && turns.follow(&key(0)));
    assert_eq!(turns.crowd(&key(0)), (2, 2));
    // Those that they follow end, and the connections are in use as before.
    turns.release(&key(0), None, false, now());
    turns.release(&key(0), None, false, now());
    assert_eq!(turns.next_ready(&key(0)), None);
    // One has to wait after all, and is the next.
    turns.unfollow(&key(0));
    turns.release(&key(0), None, true, now());
    assert_eq!(turns.next_ready(&key(0)), Some(key(0)));
    assert!(turns.follow(&key(0)));
    assert!(!turns.follow(&key(0)), "none is left");
}

// SC-11
#[test]
fn nothing_is_remembered_of_a_destination_that_has_nothing() {
    let mut turns = Turns::new(4, windows(2), MOST_WAITING);
    assert!(turns.reserve(&key(1)));
    turns.offer(&key(2));
    let pick = turns.serve().unwrap();
    turns.served(&pick.key, pick.slots, Left::Nothing, false);
    turns.release(&key(1), None, false, now());
    assert_eq!((turns.in_flight(), turns.active().count()), (0, 0));
    turns.release(&key(1), None, false, now());
    assert_eq!(turns.in_flight(), 0, "a slot is given back once");
}

#[test]
fn mail_that_comes_due_while_its_destination_is_served_is_not_forgotten() {
    let mut turns = Turns::new(4, windows(2), MOST_WAITING);
    turns.offer(&key(1));
    let pick = turns.serve().unwrap();
    turns.offer(&key(1));
    turns.served(&pick.key, pick.slots, Left::Nothing, false);
    assert_eq!(turns.serve().map(|p| p.key), Some(key(1)));
}

#[test]
fn new_mail_takes_no_slot_before_older_mail_that_waits() {
    let mut turns = Turns::new(4, windows(2), MOST_WAITING);
    turns.offer(&key(1));
    assert!(!turns.reserve(&key(1)), "older mail of its own");
    assert!(turns.reserve(&key(2)));
    turns.offer(&key(3));
    turns.offer(&key(4));
    assert!(!turns.reserve(&key(5)), "three wait for three workers");
}

#[test]
fn the_line_is_bounded() {
    let mut turns = Turns::new(4, windows(2), MOST_WAITING);
    assert!((0..MOST_WAITING).all(|n| turns.offer(&key(n))));
    assert!(!turns.offer(&key(MOST_WAITING)));
    assert!(turns.offer(&key(7)), "it is there already");
}

// SC-4, SC-7
#[test]
fn one_domain_that_lives_again_resets_the_window_of_its_hosts_only_if_nobody_got_through() {
    for through in [true, false] {
        let mut turns = Turns::new(16, windows(6), MOST_WAITING);
        let group = DestinationKey("mx:mx.example".into());
        for n in 0..2 {
            let best = "mx.example";
            turns.join_group(
                &key(n),
                MxHosts {
                    group: &group,
                    best,
                },
            );
        }
        let busy = Feedback {
            push_back: Some(PushBack {
                text: "421 too many".to_owned(),
                unreached: false,
            }),
            ..Feedback::default()
        };
        let good = Feedback {
            reached_mail: true,
            ..Feedback::default()
        };
        turns.offer(&key(1));
        assert_eq!(turns.serve().map(|pick| pick.slots), Some(6));
        turns.served(&key(1), 4, Left::Nothing, false);
        turns.release(&key(1), Some(&busy), false, now());
        if through {
            let later = now().plus(std::time::Duration::from_secs(2));
            turns.take(&key(1), 1);
            turns.release(&key(1), Some(&good), false, later);
        }
        assert_eq!(turns.window_of(&key(1)), 3);
        turns.offer_wide(&key(0));
        let since = now().plus(std::time::Duration::from_secs(1));
        assert_eq!(turns.revive(&key(0), Some(since)), !through);
        let expected = if through { 3 } else { 6 };
        assert_eq!(turns.window_of(&key(0)), expected);
        assert_eq!(turns.window_of(&key(1)), expected, "at once");
    }
}
