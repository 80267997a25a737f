//! What is demanded of the schedule in the model world.

use proptest::prelude::*;

use super::*;

fn event() -> impl Strategy<Value = Event> {
    let ms = prop_oneof![Just(0u32), 1u32..120_000];
    prop_oneof![
        6 => (0usize..40, 1usize..20, prop_oneof![3 => Just(0u32), 1 => 1u32..600_000])
            .prop_map(|(d, n, delay)| Event::Submit(d, n, delay)),
        6 => (0u32..400_000).prop_map(Event::Advance),
        2 => (0usize..40, ms.clone()).prop_map(|(d, ms)| Event::Kick(d, ms)),
        2 => (0usize..500).prop_map(Event::Hold),
        1 => (0usize..500).prop_map(Event::Release),
        1 => (0usize..500).prop_map(Event::Drop),
        1 => (proptest::option::of(0usize..40), ms).prop_map(|(d, ms)| Event::Pause(d, ms)),
        1 => Just(Event::Resume),
        1 => prop_oneof![-90_000i32..90_000, -5i32..5].prop_map(Event::Step),
        1 => (1u32..90_000, 1u32..60_000).prop_map(|(secs, ms)| Event::Astray(secs, ms)),
        1 => (1u8..6).prop_map(Event::Fault),
        1 => (1u32..600).prop_map(Event::Lifetime),
        2 => (0usize..40).prop_map(Event::Down),
        1 => (0usize..40).prop_map(Event::Up),
    ]
}

fn run(size: Size, seed: u64, events: &[Event]) -> World {
    let mut world = World::new(size, seed);
    world.drive();
    for event in events {
        world.apply(event);
    }
    world.finish();
    world
}

fn size() -> impl Strategy<Value = Size> {
    let line = prop_oneof![Just(4096usize), 1usize..12];
    let groups = prop_oneof![Just(0usize), 1usize..4];
    let counts = (1usize..12, 1usize..8, 1usize..24, line, groups);
    counts.prop_map(|(workers, window, destinations, line, groups)| Size {
        workers,
        window,
        destinations,
        line,
        groups,
    })
}

/// Enough worlds for every day; `PROPTEST_CASES` asks for more.
fn worlds() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: if asked { default.cases } else { 96 },
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(worlds())]

    // RT-9, RT-12, SC-1, SC-2, SC-3, SC-7, SC-11
    #[test]
    fn whatever_happens_every_message_ends_and_no_limit_is_passed(
        size in size(),
        seed: u64,
        events in proptest::collection::vec(event(), 1..60),
    ) {
        run(size, seed, &events);
    }

    #[test]
    fn the_same_events_lead_to_the_same_turns(
        size in size(),
        seed: u64,
        events in proptest::collection::vec(event(), 1..20),
    ) {
        let first = run(size, seed, &events);
        let second = run(size, seed, &events);
        prop_assert_eq!(first.diary, second.diary);
    }
}

// SC-2
#[test]
fn a_thousand_messages_to_one_dead_destination_delay_no_other() {
    let size = Size {
        workers: 8,
        window: 20,
        destinations: 50,
        line: 4096,
        groups: 0,
    };
    let mut world = World::new(size, 7);
    world.slow = Some(0);
    world.drive();
    world.apply(&Event::Submit(0, 1000, 0));
    world.advance(60_000);
    for destination in 1..50 {
        world.apply(&Event::Submit(destination, 1, 0));
    }
    world.advance(5_000);
    let others = &world.messages[1000..];
    assert!(others.iter().all(|m| m.attempts > 0));
}

// SC-2, SC-4, RT-7
#[test]
fn mail_for_hosts_that_have_all_their_connections_waits_unclaimed_and_goes_when_one_comes_back() {
    let size = Size {
        workers: 16,
        window: 2,
        destinations: 201,
        line: 4096,
        groups: 1,
    };
    let mut world = World::new(size, 2);
    world.slow = Some(0);
    world.drive();
    // The first to go find the hosts of their domains, and take both connections for ten minutes.
    world.apply(&Event::Submit(0, 2, 0));
    world.advance(1_000);
    assert_eq!(world.in_flight(0), 2);
    for destination in 1..201 {
        world.apply(&Event::Submit(destination, 2, 0));
    }
    // Each domain that is not known yet is tried once, and then knows that it has to wait.
    world.advance(60_000);
    let claims = world.diary.len();
    let tried = world.messages[2..]
        .iter()
        .find(|m| m.state != State::Queued || m.attempts > 0);
    assert!(
        tried.is_none(),
        "{tried:?} {:?}",
        world.schedule.known(None, world.now()).first()
    );
    let before = world.queries;
    world.advance(400_000);
    assert_eq!(world.diary.len(), claims, "nothing is claimed in vain");
    assert_eq!(world.queries, before, "nor looked for");
    assert_eq!(world.schedule.load().0, 2, "nobody is held");
    world.advance(200_000);
    let waits = world.messages[2..].iter().filter(|m| m.attempts == 0);
    assert_eq!(waits.count(), 0, "all went once there was room");
}

// SC-2, PRC-8
#[test]
fn more_domains_of_one_host_than_are_remembered_go_all_the_same() {
    let size = Size {
        workers: 16,
        window: 2,
        destinations: 60,
        line: 10,
        groups: 1,
    };
    let mut world = World::new(size, 2);
    world.slow = Some(99);
    world.drive();
    for destination in 0..60 {
        world.apply(&Event::Submit(destination, 1, 0));
    }
    world.advance(30_000);
    assert!(world.messages.iter().all(|m| m.attempts > 0));
}

// SC-2, SC-12
#[test]
fn a_full_line_and_paused_destinations_hide_nobody_and_are_not_read_again() {
    let size = Size {
        workers: 4,
        window: 2,
        destinations: 300,
        line: 60,
        groups: 0,
    };
    let mut world = World::new(size, 3);
    for destination in 0..300 {
        if destination < 120 {
            let scope = PauseScope::Domain(key(destination).to_string());
            let pause = Pause {
                since: world.now(),
                until: None,
                reason: String::new(),
            };
            world.pauses.push((scope, pause));
        }
        for _ in 0..2 {
            world.submit_quietly(destination);
        }
    }
    world.drive();
    while world.messages[599].attempts == 0 {
        let at = world.next_happening().expect("the last is served too");
        world.advance(at - world.mono);
    }
    assert!(world.messages[..240].iter().all(|m| m.attempts == 0));
    world.advance(3_600_000);
    let before = world.queries;
    world.apply(&Event::Submit(299, 1, 1));
    world.advance(1);
    assert!(world.queries - before <= 3, "the paused are not read again");
}

/// A world with one destination that is dead, and messages that wait there.
fn dead_world(messages: usize) -> World {
    let size = Size {
        workers: 8,
        window: 20,
        destinations: 2,
        line: 4096,
        groups: 0,
    };
    let mut world = World::new(size, 11);
    world.drive();
    world.apply(&Event::Down(0));
    world.apply(&Event::Submit(0, messages, 0));
    // With one connection at a time, and some attempts that take ten minutes.
    for _ in 0..60 {
        if !world.schedule.dead().is_dead(&key(0)) {
            world.advance(60_000);
        }
    }
    assert!(world.schedule.dead().is_dead(&key(0)));
    world
}

// SC-7, RT-7
#[test]
fn mail_for_a_dead_destination_is_only_queued_and_one_probe_goes_at_a_time() {
    let mut world = dead_world(20);
    let (queries, began) = (world.queries, world.mono);
    world.apply(&Event::Submit(0, 1000, 0));
    assert_eq!(world.queries, queries, "no wake-ups");
    world.advance(3_600_000);
    let since = world.diary.iter().filter(|(at, ..)| *at > began);
    let sent: usize = since.map(|(_, _, taken)| taken).sum();
    // Every three minutes, but some take ten.
    assert!((6..=21).contains(&sent), "{sent} probes");
    world.apply(&Event::Up(0));
    world.advance(200_000);
    assert!(!world.schedule.dead().is_dead(&key(0)));
    assert!(world.queries - queries < 2000);
    world.finish();
}

// SC-7, RT-3
#[test]
fn mail_for_a_dead_destination_ends_at_its_expiry_and_not_much_later() {
    let mut world = dead_world(300);
    let lifetime = world.config.retry.lifetime.get().as_millis() as u64;
    world.advance(lifetime - world.mono - 1000);
    let open = |world: &World| {
        let open = |m: &&Message| m.state != State::Final;
        world.messages.iter().filter(open).count()
    };
    assert_eq!(open(&world), 300);
    // The slowest attempts of this world take ten minutes.
    world.advance(2 * 3_600_000);
    assert_eq!(open(&world), 0, "the last attempts go side by side");
    world.finish();
}

// SC-7, RT-9
#[test]
fn a_clock_that_is_put_forward_and_back_while_the_dispatcher_sleeps_puts_no_probe_off() {
    let mut world = World::new(
        Size {
            workers: 1,
            window: 5,
            destinations: 1,
            line: 4096,
            groups: 0,
        },
        1,
    );
    world.drive();
    world.apply(&Event::Down(0));
    world.apply(&Event::Submit(0, 5, 0));
    let until = |world: &mut World, done: fn(&World) -> bool| {
        while !done(world) {
            let at = world.next_happening().expect("there is mail");
            world.advance(at - world.mono);
        }
    };
    // The third attempt is under way, and the dispatcher sleeps until the first message is due again.
    until(&mut world, |world| world.messages[2].attempts > 0);
    world.apply(&Event::Step(3600));
    until(&mut world, |world| world.schedule.dead().is_dead(&key(0)));
    world.apply(&Event::Step(-3600));
    world.advance(LONGEST_SLEEP);
    let latest = world.now().plus(world.config.retry.intervals[0].get());
    let dead = world.schedule.dead().get(&key(0)).expect("it is dead");
    assert!(dead.probe.is_none_or(|at| at <= latest), "{dead:?}");
    world.finish();
}

// SC-2, RT-9
#[test]
fn mail_told_of_while_the_clock_was_back_is_found_after_it_came_forward_again() {
    let size = Size {
        workers: 5,
        window: 1,
        destinations: 17,
        line: 4096,
        groups: 0,
    };
    let events = [
        Event::Pause(Some(0), 1),
        Event::Fault(3),
        Event::Submit(2, 2, 0),
        Event::Astray(48, 755),
        Event::Submit(3, 1, 1),
        Event::Astray(47, 8000),
    ];
    run(size, 0, &events);
}

// SC-2, SC-12
#[test]
fn who_comes_back_after_a_pause_stands_behind_the_others() {
    let size = Size {
        workers: 3,
        window: 1,
        destinations: 23,
        line: 4096,
        groups: 0,
    };
    let events = [
        Event::Submit(5, 1, 1),
        Event::Submit(4, 1, 0),
        Event::Submit(9, 7, 0),
        Event::Fault(1),
        Event::Submit(27, 4, 0),
        Event::Astray(409, 43_561),
        Event::Advance(17_355),
        Event::Submit(0, 5, 0),
        Event::Submit(0, 5, 0),
        Event::Advance(258_051),
        Event::Advance(276_928),
        Event::Submit(29, 2, 0),
        Event::Submit(7, 3, 0),
        Event::Advance(13_884),
        Event::Pause(None, 0),
        Event::Advance(2_772),
        Event::Resume,
        Event::Advance(4_601),
        Event::Pause(None, 0),
        Event::Advance(3_585),
    ];
    run(size, 16_668_764_722_047_523_357, &events);
}

// SC-8, RT-9
#[test]
fn who_waits_for_the_rate_of_its_domain_waits_for_that_of_its_hosts_once_they_are_known() {
    let size = Size {
        workers: 2,
        window: 1,
        destinations: 2,
        line: 4096,
        groups: 1,
    };
    let events = [
        Event::Submit(0, 2, 0),
        Event::Submit(1, 2, 0),
        Event::Step(-3),
        Event::Advance(0),
    ];
    run(size, 9_323_759_075_974_688_067, &events);
}
