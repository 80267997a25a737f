//! Scenarios: MTA-STS from DNS record and HTTPS server to what happens to the mail (RFC 8461).

mod fetch;
mod world;

use std::time::Duration;

use crate::support::ca::leaf;
use crate::support::dns::{Fault, RecordType, ResponseCode};
use crate::support::https::{Say, response};
use crate::support::mx::Script;
use world::{RECORD, World, policy};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

// STS-5, STS-8, STS-11
#[test]
fn a_policy_is_fetched_once_and_its_hosts_are_verified() {
    let world = World::start(&policy("enforce", "mx.dest.test", 604_800));
    for n in 1..=3 {
        let sent = world.send();
        assert!(sent.contains("result=ok"), "{sent}");
        assert!(
            sent.contains("tls=verified tls-policy=verify:mta-sts"),
            "{sent}"
        );
        assert_eq!(world.https.asked().len(), 1, "message {n}");
        world.clock.advance(HOUR);
    }
    let asked = &world.https.asked()[0];
    let head: Vec<&str> = asked.head.lines().collect();
    assert_eq!(head[0], "GET /.well-known/mta-sts.txt HTTP/1.1");
    assert_eq!(
        head[1],
        format!("Host: mta-sts.dest.test:{}", world.https.port())
    );
    assert!(head.contains(&"Accept-Encoding: identity"), "{head:?}");
    // The TTL of the records is 300 s, so that each message asked once.
    assert_eq!(world.dns.asked(RECORD, RecordType::TXT), 3);
    let metrics = world.daemon().control("metrics\n");
    for line in [
        "posthaste_sts_cache_total{result=\"fetched\"} 1",
        "posthaste_sts_cache_total{result=\"cached\"} 2",
    ] {
        assert!(
            metrics.iter().any(|found| found == line),
            "{line}\n{metrics:#?}"
        );
    }
}

// STS-8, STS-10: over a restart, and nothing but EHLO is said in clear
#[test]
fn a_host_that_cannot_prove_its_name_gets_no_mail_before_and_after_a_restart() {
    let mut world = World::start(&policy("enforce", "mx.dest.test", 604_800));
    assert!(world.send().contains("result=ok"));
    let false_host = world.ca.issue(leaf(&["other.test"]));
    let script = Script::new().starttls().identity(false_host);
    world.replace_mx(script);
    let refused = world.send();
    assert!(refused.contains("result=error"), "{refused}");
    assert!(refused.contains("status=4.7.5"), "{refused}");
    world.https.say(response("503 Gone", "", ""));
    world.restart();
    let refused = world.send();
    assert!(refused.contains("status=4.7.5"), "{refused}");
    // Somebody asked whether there is a newer one.
    assert_eq!(world.https.connections(), 2);
    for session in world.mx.sessions() {
        let said: Vec<&str> = session.commands.iter().map(|c| &c[..4]).collect();
        assert_eq!(said, ["EHLO", "STAR"]);
    }
}

// STS-8
#[test]
fn clear_text_is_not_spoken_under_a_policy_in_mode_enforce() {
    let mut world = World::start(&policy("enforce", "mx.dest.test", 604_800));
    world.replace_mx(Script::new());
    let refused = world.send();
    assert!(refused.contains("status=4.7.4"), "{refused}");
    let session = &world.mx.sessions()[0];
    assert!(!session.commands.iter().any(|c| c.starts_with("MAIL")));
}

// STS-7, STS-8: the policy is fetched anew whatever its id, once all hosts have failed it
#[test]
fn a_host_that_is_not_listed_is_not_dialled_until_a_newer_policy_lists_it() {
    let world = World::start(&policy("enforce", "mx.elsewhere.test", 604_800));
    let refused = world.send();
    assert!(refused.contains("status=4.7.5"), "{refused}");
    assert!(refused.contains("does not list mx.dest.test"), "{refused}");
    assert_eq!((world.mx.connections(), world.https.asked().len()), (0, 1));
    world
        .https
        .say(Say::Text(policy("enforce", "mx.dest.test", 604_800)));
    world.clock.advance(HOUR);
    let tried = world.next_attempt();
    assert!(tried.contains("result=ok"), "{tried}");
    assert!(tried.contains("tls=verified"), "{tried}");
    assert_eq!(world.https.asked().len(), 2);
}

// STS-9
#[test]
fn in_mode_testing_and_none_mail_goes_to_whoever_is_there() {
    for mode in ["testing", "none"] {
        let world = World::start(&policy(mode, "mx.elsewhere.test", 604_800));
        for _ in 0..2 {
            let sent = world.send();
            assert!(sent.contains("result=ok"), "{mode}: {sent}");
            assert!(sent.contains("tls-policy=opportunistic"), "{mode}: {sent}");
        }
        assert_eq!(world.https.asked().len(), 1, "{mode}");
    }
}

// STS-9
#[test]
fn mode_none_takes_the_place_of_the_policy_that_was_there() {
    let mut world = World::start(&policy("enforce", "mx.dest.test", 604_800));
    assert!(world.send().contains("verify:mta-sts"));
    world.https.say(Say::Text(policy("none", "", 86_400)));
    world.record("v=STSv1; id=2");
    world.replace_mx(Script::new());
    world.clock.advance(HOUR);
    let sent = world.send();
    assert!(
        sent.contains("result=ok") && sent.contains("tls=plain"),
        "{sent}"
    );
}

// STS-3
#[test]
fn without_a_word_from_dns_nobody_is_dialled() {
    let world = World::start(&policy("enforce", "mx.dest.test", 604_800));
    let servfail = Fault::Code(ResponseCode::ServFail);
    world.dns.fault(RECORD, RecordType::TXT, servfail);
    let refused = world.send();
    assert!(refused.contains("result=error"), "{refused}");
    assert!(refused.contains("status=4.4.3"), "{refused}");
    assert_eq!((world.mx.connections(), world.https.connections()), (0, 0));
    world.dns.heal(RECORD, RecordType::TXT);
    world.clock.advance(HOUR);
    let sent = world.next_attempt();
    assert!(sent.contains("verify:mta-sts"), "{sent}");
}

// STS-4
#[test]
fn a_policy_in_force_holds_when_dns_or_the_server_lets_it_down() {
    let mut world = World::start(&policy("enforce", "mx.dest.test", 604_800));
    assert!(world.send().contains("verify:mta-sts"));
    world.replace_mx(Script::new());
    let servfail = Fault::Code(ResponseCode::ServFail);
    let mut fetches = 1;
    for (what, fetched) in [("servfail", 0), ("gone", 0), ("new id, no server", 1)] {
        world.clock.advance(HOUR);
        match what {
            "servfail" => drop(world.dns.fault(RECORD, RecordType::TXT, servfail.clone())),
            "gone" => drop(world.dns.forget(RECORD)),
            _ => {
                world.https.say(response("503 Gone", "", ""));
                world.record("v=STSv1; id=2");
            }
        }
        fetches += fetched;
        let refused = world.send();
        assert!(refused.contains("status=4.7.4"), "{what}: {refused}");
        assert_eq!(world.https.asked().len(), fetches, "{what}");
    }
    // Until the server is back.
    world
        .https
        .say(Say::Text(policy("testing", "mx.dest.test", 604_800)));
    world.clock.advance(6 * MINUTE);
    assert!(world.send().contains("result=ok"));
}

// STS-4, STS-10, RT-9
#[test]
fn a_policy_expires_by_the_clock_and_a_clock_that_went_wrong_takes_nothing_away() {
    let mut world = World::start(&policy("enforce", "mx.dest.test", 1_000_000));
    assert!(world.send().contains("verify:mta-sts"));
    world.https.say(response("404 Not Found", "", ""));
    world.replace_mx(Script::new());
    let start = world.clock.now();
    world.clock.set(start.plus(DAY * 11));
    assert!(
        world.send().contains("status=4.7.4"),
        "it has half a day left"
    );
    world.clock.set(start.plus(DAY * 12));
    assert!(world.send().contains("tls=plain"), "it has expired");
    // The clock was wrong all the time.
    world.clock.set(start.plus(DAY));
    assert!(world.send().contains("status=4.7.4"));
    // And now it is wrong the other way: in force for max_age from now, and not for years.
    world.clock.set(start.minus(DAY * 1000));
    assert!(world.send().contains("status=4.7.4"));
    world.clock.advance(DAY * 12);
    assert!(world.send().contains("tls=plain"));
}

// STS-6
#[test]
fn a_policy_without_a_life_of_its_own_is_for_one_attempt() {
    let world = World::start(&policy("enforce", "mx.dest.test", 0));
    for n in 1..=2 {
        assert!(world.send().contains("verify:mta-sts"));
        assert_eq!(world.https.asked().len(), n);
    }
}

// STS-11
#[test]
fn policies_are_fetched_anew_each_day_whether_or_not_there_is_mail() {
    let mut world = World::start(&policy("enforce", "mx.dest.test", 200_000));
    assert!(world.send().contains("verify:mta-sts"));
    for n in 2..=4 {
        world.clock.advance(DAY + 4 * HOUR);
        world.https.wait_for(n);
        world.until_refreshed(n - 1);
    }
    // So it has not expired, although its first life is over.
    world.https.say(response("503 Gone", "", ""));
    world.replace_mx(Script::new());
    let refused = world.send();
    assert!(refused.contains("status=4.7.4"), "{refused}");
}

// STS-1
#[test]
fn the_policy_is_that_of_the_domain_as_written() {
    let world = World::start(&policy("enforce", "mx.elsewhere.test", 604_800));
    world.dns.cname("alias.test", "dest.test");
    world.dns.mx("sub.dest.test", 10, "mx.dest.test");
    for to in ["bob@alias.test", "bob@sub.dest.test"] {
        let sent = world.send_to(to);
        assert!(sent.contains("result=ok"), "{sent}");
    }
    assert_eq!(world.https.connections(), 0);
    assert_eq!(world.dns.asked("_mta-sts.alias.test", RecordType::TXT), 1);
}

// STS-2: the record may be a CNAME, as providers tell their customers to make it
#[test]
fn a_record_behind_a_cname_counts() {
    let world = World::start(&policy("enforce", "mx.dest.test", 604_800));
    world.dns.forget(RECORD);
    world.dns.cname(RECORD, "_mta-sts.provider.test");
    world.dns.txt("_mta-sts.provider.test", "v=STSv1; id=1");
    assert!(world.send().contains("verify:mta-sts"));
}

// CFG-18
#[test]
fn switched_off_nobody_is_asked() {
    let world = World::start_with(
        &policy("enforce", "mx.elsewhere.test", 604_800),
        "mta_sts = false\n",
    );
    assert!(world.send().contains("result=ok"));
    assert_eq!(world.dns.asked(RECORD, RecordType::TXT), 0);
}
