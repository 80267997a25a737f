//! What each verb does.

use super::*;

// CTL-1, CTL-5, CTL-10
#[test]
fn a_listing_is_one_line_per_recipient_and_a_last_line() {
    let fixture = Fixture::new();
    let id = fixture
        .queue
        .add(&["bob@example.org", "\"a b\"@other.example"]);
    fixture.claim(id, &[1]);
    let next = start().plus(minutes(8));
    fixture.queue.settle(id, 1, Verdict::Deferred { next });
    fixture.queue.clock.advance(minutes(3));
    assert_eq!(
        fixture.ask("list sort=next"),
        [
            format!(
                "id={id} rcpt=2 from=<joe@here.example> to=\"<\\\"a b\\\"@other.example>\" state=queued \
                 attempts=0 next={} size=40 age=3m blocker=\"\"",
                start()
            ),
            format!(
                "id={id} rcpt=1 from=<joe@here.example> to=<bob@example.org> state=queued attempts=1 \
                 next={next} size=40 age=3m blocker=\"451 4.0.0 the peer's words\""
            ),
            "OK 2".to_owned(),
        ]
    );
}

// CTL-6
#[test]
fn filters_are_and_ed_and_a_bad_one_changes_nothing() {
    let fixture = Fixture::new();
    let queue = &fixture.queue;
    let a = special(
        queue,
        "relay",
        "app@shop.example",
        &["bob@example.org", "ann@other.example"],
        10,
    );
    queue.clock.advance(minutes(60));
    let b = special(queue, "uid:joe", "", &["Bob@example.org"], 10);
    let held = fixture.last(&format!("hold id={b} reason=\"look at it\""));
    assert_eq!(held, "OK 1");
    for (filter, matches) in [
        ("", 3),
        (&format!("id={a}") as &str, 2),
        (&format!("id={a}/2,{b}"), 2),
        (&format!("id={a}/2,{b} state=queued"), 1),
        ("rcpt=2", 1),
        ("from=<>", 1),
        ("from=@shop.example", 2),
        ("from=shop", 2),
        ("to=bob", 2),
        ("to=<bob@example.org>", 2),
        ("to=@other.example", 1),
        ("to=@example", 0),
        ("domain=EXAMPLE.org", 2),
        ("sender-domain=shop.example", 2),
        ("state=held", 1),
        ("state=claimed", 0),
        ("older=30m", 2),
        ("newer=30m", 1),
        ("older=30m newer=2h domain=example.org", 1),
        ("next-before=1m", 3),
        ("next-before=2001-01-01T00:00:00Z", 0),
        ("caller=uid:joe", 1),
        ("text=\"look at\"", 1),
        ("transport=slow", 0),
    ] {
        let last = fixture.last(&format!("list {filter}"));
        assert_eq!(last, format!("OK {matches}"), "{filter}");
    }
    for bad in [
        "id=x",
        "state=sleeping",
        "older=5",
        "next-before=soon",
        "to=",
        "domain=a..b",
        "unknown=1",
        "id",
    ] {
        for verb in ["drop all", "list", "count", "hold"] {
            let answer = fixture.ask(&format!("{verb} {bad}"));
            assert!(
                answer[0].starts_with("ERR usage "),
                "{verb} {bad}: {answer:?}"
            );
        }
    }
    assert_eq!(fixture.states(a), [State::Queued, State::Queued]);
}

// CTL-7
#[test]
fn a_list_is_sorted_and_goes_on_from_its_cursor() {
    let fixture = Fixture::new();
    let queue = &fixture.queue;
    let mut ids = Vec::new();
    for size in [30, 10, 20] {
        ids.push(special(
            queue,
            "relay",
            "app@here.example",
            &["bob@example.org"],
            size,
        ));
        queue.clock.advance(minutes(1));
    }
    let order = |request: &str| -> Vec<usize> {
        let answer = fixture.ask(request);
        let rows = answer[..answer.len() - 1].iter();
        rows.map(|line| {
            let id = line.split(' ').next().unwrap();
            ids.iter()
                .position(|known| format!("id={known}") == id)
                .unwrap()
        })
        .collect()
    };
    assert_eq!(order("list"), [0, 1, 2]);
    assert_eq!(order("list sort=queued"), [0, 1, 2]);
    assert_eq!(order("list sort=age"), [2, 1, 0]);
    assert_eq!(order("list sort=-age"), [0, 1, 2]);
    assert_eq!(order("list sort=size"), [1, 2, 0]);
    assert_eq!(order("list sort=-size"), [0, 2, 1]);

    let mut seen = Vec::new();
    let mut request = "list sort=size limit=1".to_owned();
    loop {
        let mut answer = fixture.ask(&request);
        let last = answer.pop().unwrap();
        seen.extend(answer);
        assert!(seen.len() <= 3);
        match last.split_once(" cursor=") {
            Some((count, cursor)) => {
                assert_eq!(count, "OK 1");
                request = format!("list sort=size limit=1 cursor={cursor}");
            }
            None => break,
        }
    }
    assert_eq!(seen.len(), 3);
    for bad in ["limit=0", "limit=10001", "limit=-1", "sort=colour", "limit"] {
        assert!(
            fixture
                .last(&format!("list {bad}"))
                .starts_with("ERR usage "),
            "{bad}"
        );
    }
    let faulty = fixture.last("list cursor=rubbish");
    assert!(faulty.starts_with("ERR usage "), "{faulty}");
}

// CTL-8
#[test]
fn changing_verbs_want_a_filter_or_all_and_can_be_tried_dry() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org", "ann@other.example"]);
    for verb in [
        "kick",
        "drop",
        "fail",
        "fail text=sorry",
        "hold",
        "hold reason=x",
        "release",
        "drop wait",
    ] {
        let last = fixture.last(verb);
        assert!(last.starts_with("ERR usage which?"), "{verb}: {last}");
    }
    for verb in ["kick", "drop", "fail", "hold"] {
        assert_eq!(
            fixture.ask(&format!("{verb} all dry-run")),
            [
                format!("id={id} rcpt=1 to=<bob@example.org>"),
                format!("id={id} rcpt=2 to=<ann@other.example>"),
                "OK 2".to_owned(),
            ],
            "{verb}"
        );
    }
    assert_eq!(fixture.states(id), [State::Queued, State::Queued]);
    assert!(fixture.wakes().is_empty());
    assert_eq!(fixture.ask("drop domain=other.example"), ["OK 1"]);
    assert_eq!(fixture.states(id), [State::Queued, State::Dropped]);
}

// CTL-11, RT-6
#[test]
fn kick_makes_queued_recipients_due_and_nothing_else() {
    let fixture = Fixture::new();
    let id = fixture
        .queue
        .add(&["a@example.org", "b@example.org", "c@other.example"]);
    let later = start().plus(minutes(60));
    fixture.claim(id, &[1]);
    fixture
        .queue
        .settle(id, 1, Verdict::Deferred { next: later });
    assert_eq!(fixture.last(&format!("hold id={id}/2")), "OK 1");
    fixture.claim(id, &[3]);
    fixture.wakes();

    assert_eq!(fixture.ask("kick all"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].next_attempt, start());
    assert_eq!(shown.recipients[0].attempts, 1);
    assert_eq!(shown.recipients[1].state, State::Held);
    let destination = shown.recipients[0].destination.clone();
    // CTL-11: a dead destination is probed then.
    let kicked = format!("kicked {destination} {}", start());
    assert_eq!(fixture.wakes(), [kicked]);

    assert_eq!(fixture.ask(&format!("kick id={id} in=2h")), ["OK 1"]);
    assert_eq!(fixture.ask("kick all state=held"), ["OK 0"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].next_attempt, start().plus(minutes(120)));
    assert_eq!(fixture.ask("kick all at=2030-01-01T00:00:00Z"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(
        shown.recipients[0].next_attempt.to_string(),
        "2030-01-01T00:00:00Z"
    );
    for bad in [
        "at=tomorrow",
        "in=5",
        "at=2030-01-01T00:00:00Z in=1h",
        "transport=unknown",
    ] {
        let last = fixture.last(&format!("kick all {bad}"));
        assert!(last.starts_with("ERR usage "), "{bad}: {last}");
    }
}

// CTL-12
#[test]
fn drop_and_fail_are_final_and_name_the_operator() {
    let fixture = Fixture::new();
    let uid = nix::unistd::geteuid().as_raw();
    let id = fixture
        .queue
        .add(&["a@example.org", "b@example.org", "c@example.org"]);
    fixture.claim(id, &[3]);
    assert_eq!(fixture.ask(&format!("drop id={id}/1")), ["OK 1"]);
    assert_eq!(
        fixture.ask(&format!("fail id={id} text=\"sorry, wrong list\"")),
        [
            "note=\"left out because an attempt is running\" claimed=1",
            "OK 1"
        ]
    );
    assert_eq!(
        fixture.states(id),
        [State::Dropped, State::Failed, State::Claimed]
    );
    let shown = fixture.ask(&format!("show id={id}"));
    let by = shown
        .iter()
        .filter(|line| line.contains(" operator=\"canceled by operator"));
    let by: Vec<&String> = by.collect();
    assert_eq!(by.len(), 2, "{shown:?}");
    assert!(by.iter().all(|line| line.contains(&uid.to_string())));

    // With `wait` the claimed one follows when its attempt ends undelivered.
    assert_eq!(fixture.ask(&format!("drop id={id}/3 wait")), ["OK 1"]);
    assert_eq!(fixture.states(id)[2], State::Claimed);
    fixture
        .queue
        .settle(id, 3, Verdict::Deferred { next: start() });
    assert_eq!(fixture.states(id)[2], State::Dropped);
    assert_eq!(fixture.ask("drop all"), ["OK 0"]);
}

// CTL-13
#[test]
fn a_held_recipient_keeps_its_next_attempt_and_is_released_at_once() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["a@example.org"]);
    assert_eq!(
        fixture.ask("hold all reason=\"ask \\\"legal\\\"\""),
        ["OK 1"]
    );
    assert!(fixture.wakes().is_empty());
    let line = fixture.ask("list").remove(0);
    assert!(line.contains(" state=held "), "{line}");
    assert!(line.contains(&format!(" next={} ", start())), "{line}");
    assert!(line.ends_with(" blocker=\"ask \\\"legal\\\"\""), "{line}");
    assert_eq!(fixture.ask("release all"), ["OK 1"]);
    assert_eq!(fixture.wakes(), [format!("example.org {}", start())]);
    assert_eq!(fixture.states(id), [State::Queued]);
    assert_eq!(fixture.ask("release all"), ["OK 0"]);
}

// CTL-14
#[test]
fn route_sets_a_transport_that_exists() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["a@example.org"]);
    let last = fixture.last("route all transport=unknown");
    assert!(last.starts_with("ERR usage "), "{last}");
    assert_eq!(fixture.ask("route all transport=slow"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].transport.as_deref(), Some("slow"));
    assert_eq!(&*shown.recipients[0].destination.0, "relay:slow");
    assert_eq!(fixture.wakes(), [format!("relay:slow {}", start())]);
    assert_eq!(fixture.ask("list transport=slow").len(), 2);
    assert_eq!(fixture.ask("route all transport=default"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].transport, None);
    // At a kick it is the same word.
    assert_eq!(fixture.ask("kick all transport=slow"), ["OK 1"]);
    let shown = fixture.queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].transport.as_deref(), Some("slow"));
}

// CTL-17, SC-12
#[test]
fn a_pause_is_the_blocker_until_it_ends_or_is_lifted() {
    let fixture = Fixture::new();
    fixture.queue.add(&["a@example.org"]);
    let blocker = || {
        let line = fixture.ask("list domain=example.org").remove(0);
        line.split_once(" blocker=").unwrap().1.to_owned()
    };
    assert_eq!(blocker(), "\"\"");
    assert_eq!(fixture.ask("pause domain=other.example"), ["OK 1"]);
    assert_eq!(blocker(), "\"\"");
    assert_eq!(
        fixture.ask("pause domain=Example.org for=1h reason=\"new disks\""),
        ["OK 1"]
    );
    assert_eq!(fixture.wakes(), ["Everything", "Everything"]);
    let until = start().plus(minutes(60));
    assert_eq!(
        blocker(),
        format!("\"paused: domain example.org (new disks)\" until={until}")
    );
    let stats = fixture.ask("stats");
    assert!(
        stats.iter().any(|line| *line
            == format!(
                "pause=domain=example.org since={} until={until} reason=\"new disks\"",
                start()
            )),
        "{stats:?}"
    );
    fixture.queue.clock.advance(minutes(60));
    assert_eq!(blocker(), "\"\"");

    assert_eq!(fixture.ask("pause"), ["OK 1"]);
    assert!(blocker().starts_with("\"paused: all deliveries"));
    assert_eq!(fixture.ask("resume domain=unknown.example"), ["OK 0"]);
    assert_eq!(fixture.ask("resume"), ["OK 1"]);
    assert_eq!(blocker(), "\"\"");
    assert_eq!(fixture.ask("pause transport=direct"), ["OK 1"]);
    assert!(blocker().starts_with("\"paused: transport direct"));
    assert_eq!(fixture.ask("resume all"), ["OK 3"]);
    assert_eq!(blocker(), "\"\"");
    for bad in [
        "pause transport=unknown",
        "pause for=soon",
        "pause transport=slow domain=x.example",
        "pause all domain=x.example",
        "resume all domain=x.example",
        "resume for=1h",
    ] {
        assert!(fixture.last(bad).starts_with("ERR usage "), "{bad}");
    }
}

// CTL-9
#[test]
fn count_counts_in_all_and_in_groups() {
    let fixture = Fixture::new();
    let id = fixture
        .queue
        .add(&["a@example.org", "b@example.org", "c@other.example"]);
    fixture.last(&format!("hold id={id}/3"));
    assert_eq!(fixture.ask("count"), ["count=3", "OK 3"]);
    assert_eq!(fixture.ask("count state=held"), ["count=1", "OK 1"]);
    assert_eq!(
        fixture.ask("count by=domain"),
        [
            "domain=example.org count=2",
            "domain=other.example count=1",
            "OK 2"
        ]
    );
    assert_eq!(
        fixture.ask("count by=state"),
        ["state=queued count=2", "state=held count=1", "OK 2"]
    );
    assert_eq!(
        fixture.ask("count by=caller"),
        ["caller=relay count=3", "OK 1"]
    );
    assert_eq!(fixture.ask("count by=age").len(), 2);
    assert_eq!(fixture.ask("count by=transport").pop().unwrap(), "OK 1");
    assert!(fixture.last("count by=colour").starts_with("ERR usage "));
}

// CTL-10, Q-15, OBS-8
#[test]
fn show_says_everything_and_gives_the_raw_message() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org", "ann@example.org"]);
    fixture.claim(id, &[1]);
    let next = start().plus(minutes(8));
    fixture.queue.settle(id, 1, Verdict::Deferred { next });
    fixture.claim(id, &[2]);
    fixture.around.running.lock().unwrap().push(Doing {
        id,
        numbers: vec![2],
        stage: Stage::FinalDot,
        host: "mx.example.org".to_owned(),
        address: None,
        elapsed: Duration::from_secs(5),
        worker: "worker-1".to_owned(),
    });
    let answer = fixture.ask(&format!("show id={id}"));
    assert!(answer[0].starts_with(&format!("id={id} from=<joe@here.example> caller=relay ")));
    assert!(answer[0].contains(" subject=test "));
    assert!(answer[1].contains(" rcpt=1 ") && answer[1].contains(" state=queued "));
    assert!(
        answer[2].contains(" stage=final-dot host=mx.example.org elapsed=5s "),
        "{answer:?}"
    );
    assert!(answer[3].contains(" rcpt=1 attempt=1 "), "{answer:?}");
    assert!(
        answer[3].contains(" code=451 status=4.0.0 result=error "),
        "{answer:?}"
    );
    assert!(answer[4].ends_with(" result=running"), "{answer:?}");
    assert_eq!(answer[5], "OK 1");
    // The listing says the same of the running attempt.
    let list = fixture.ask(&format!("list id={id}/2"));
    assert!(list[0].contains(" stage=final-dot host=mx.example.org elapsed=5s "));

    let one = fixture.ask(&format!("show id={id}/2"));
    assert!(one.iter().all(|line| !line.contains("rcpt=1 ")));
    assert_eq!(
        fixture.ask(&format!("show id={id} content"))[5..],
        [
            "| Received: from x",
            "| Subject: test",
            "| ",
            "| body",
            "OK 1"
        ]
    );
    assert_eq!(
        fixture.ask(&format!("show id={id} headers"))[5..],
        ["| Received: from x", "| Subject: test", "OK 1"]
    );
    assert_eq!(fixture.ask("show id=1000000"), ["OK 0"]);
    assert_eq!(fixture.ask(&format!("show id={id}/3")), ["OK 0"]);
    for bad in [
        "show",
        "show id=1,2",
        "show id=x",
        "show id=1 headers content",
    ] {
        assert!(fixture.last(bad).starts_with("ERR usage "), "{bad}");
    }
}

// CTL-18
#[test]
fn why_gives_reason_next_attempt_and_expiry() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org"]);
    fixture.claim(id, &[1]);
    let next = start().plus(minutes(8));
    fixture.queue.settle(id, 1, Verdict::Deferred { next });
    let expires = start().plus(minutes(5 * 24 * 60));
    assert_eq!(
        fixture.ask(&format!("why id={id}")),
        [
            format!(
                "id={id} rcpt=1 to=<bob@example.org> state=queued blocker=\"451 4.0.0 the peer's words\" \
                 reply=\"451 4.0.0 the peer's words\" attempts=1 next={next} expires={expires}"
            ),
            "OK 1".to_owned()
        ]
    );
    assert_eq!(fixture.ask("why id=1000000"), ["OK 0"]);
}

// CTL-9
#[test]
fn stats_version_and_help_answer() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let stats = fixture.ask("stats");
    assert!(
        stats[0].contains(" messages=1 queued=1 claimed=0 held=0 in-doubt=0 "),
        "{stats:?}"
    );
    assert!(stats[0].ends_with(" workers=64"));
    assert_eq!(
        fixture.ask("version")[0],
        format!("name=posthaste version={}", env!("CARGO_PKG_VERSION"))
    );
    let help = fixture.ask("help");
    assert_eq!(help.last().unwrap(), &format!("OK {}", help.len() - 1));
    for verb in verbs::TABLE {
        let one = fixture.ask(&format!("help {}", verb.name));
        assert!(one[0].starts_with(&format!("verb={} usage=", verb.name)));
        assert!(help.contains(&one[0]));
        assert_eq!(one[1], "OK 1");
    }
    assert!(fixture.last("help me").starts_with("ERR usage "));
}

// ST-18, CTL-9
#[test]
fn check_answers_for_every_check_and_says_err_when_one_finds_something() {
    let fixture = Fixture::new();
    fixture.queue.add(&["bob@example.org"]);
    let all = fixture.ask("check");
    assert_eq!(all.last().unwrap(), &format!("OK {}", all.len() - 1));
    for line in &all[..all.len() - 1] {
        assert!(
            line.starts_with("check=") && line.contains(" result=ok "),
            "{line}"
        );
    }
    assert!(all[all.len() - 2].starts_with("check=integrity "));
    let quick = fixture.ask("check quick");
    assert!(quick.len() < all.len() && quick.last().unwrap().starts_with("OK "));
    // Another program damages the queue behind the daemon's back.
    let database = fixture.queue.settings.path.join("queue.db");
    let wrong = std::process::Command::new("sqlite3")
        .arg(&database)
        .arg("UPDATE queue SET held = 7")
        .status();
    assert!(wrong.unwrap().success());
    let broken = fixture.ask("check quick");
    assert!(
        broken
            .iter()
            .any(|line| line
                .starts_with("check=counts result=broken rows=1 first=\"held 7 but 0\" ")),
        "{broken:?}"
    );
    assert!(broken.last().unwrap().starts_with("ERR internal 1 of "));
}

// CTL-22
#[test]
fn reload_names_the_changed_keys_or_the_fault() {
    let fixture = Fixture::new();
    *fixture.around.reload.lock().unwrap() = Some(Ok(Reloaded {
        changed: vec!["retry.lifetime".to_owned()],
        restart: vec!["queue.path".to_owned()],
    }));
    assert_eq!(
        fixture.ask("reload"),
        [
            "changed=retry.lifetime",
            "needs-restart=queue.path",
            "OK reloaded"
        ]
    );
    *fixture.around.reload.lock().unwrap() =
        Some(Err("f.toml:3: x: bad\nf.toml:4: y: bad".to_owned()));
    assert_eq!(
        fixture.ask("reload"),
        ["ERR config f.toml:3: x: bad; f.toml:4: y: bad"]
    );
    assert_eq!(fixture.tool(&["reload"]).status.code(), Some(78));
}

// CTL-22
#[test]
fn shutdown_is_answered_and_handed_on() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask("shutdown"), ["OK shutting down"]);
    assert_eq!(fixture.ask("shutdown now"), ["OK shutting down"]);
    assert!(fixture.last("shutdown later").starts_with("ERR usage "));
    assert_eq!(*fixture.around.stops.lock().unwrap(), [false, true]);
}

// CTL-24
#[test]
fn the_outcome_that_was_committed_first_stands() {
    let fixture = Fixture::new();
    let id = fixture.queue.add(&["bob@example.org"]);
    fixture.claim(id, &[1]);
    assert_eq!(fixture.last(&format!("drop id={id} wait")), "OK 1");
    fixture.queue.settle(id, 1, Verdict::Delivered);
    assert_eq!(fixture.states(id), [State::Delivered]);
    for verb in [
        "kick",
        "drop",
        "fail",
        "hold",
        "release",
        "route transport=slow",
    ] {
        let last = fixture.last(&format!("{verb} id={id}"));
        assert_eq!(last, "OK 0", "{verb}");
    }
    assert_eq!(fixture.states(id), [State::Delivered]);
    assert_eq!(fixture.last("list state=delivered"), "OK 1");
}

// CTL-8, OBS-1, OBS-2
#[test]
fn a_change_is_one_log_line_per_message_with_the_uid_of_the_operator() {
    let daemon = Process::start("");
    assert_eq!(daemon.control("pause reason=\"a test\"\n"), ["OK 1"]);
    let uid = nix::unistd::geteuid();
    let line = daemon.wait_for(" paused ");
    assert!(
        line.contains(&format!(" scope=all uid={uid} reason=\"a test\"")),
        "{line}"
    );
    let to = ["a@example.org", "b@example.org", "c@example.org"];
    let id = daemon.submit("joe@here.example", &to, "Subject: x\r\n\r\nbody\r\n");
    for (request, affected, words) in [
        (
            format!("drop id={id}/2"),
            1,
            format!(" dropped qid={id} rcpt=2 uid={uid}"),
        ),
        (
            format!("hold id={id} reason=\"look\\n\\\"here\\\"\""),
            2,
            format!(" held qid={id} rcpt=1,3 uid={uid} reason=\"look\\n\\\"here\\\"\""),
        ),
        (
            format!("release id={id}"),
            2,
            format!(" released qid={id} rcpt=1,3 uid={uid}"),
        ),
        (
            "fail all text=sorry".to_owned(),
            2,
            format!(" failed qid={id} rcpt=1,3 uid={uid} "),
        ),
    ] {
        assert_eq!(
            daemon.control(&format!("{request}\n")),
            [format!("OK {affected}")]
        );
        daemon.wait_for(&words);
    }
    assert_eq!(daemon.control("shutdown\n"), ["OK shutting down"]);
    let mut daemon = daemon;
    assert_eq!(daemon.wait().code(), Some(0));
}

// SC-12
#[test]
fn a_pause_outlives_a_restart() {
    let daemon = TestDaemon::start("");
    assert_eq!(daemon.control("pause domain=example.org\n"), ["OK 1"]);
    let dir = daemon.stop();
    let daemon = TestDaemon::start_in(dir, Clock::system(), "").unwrap();
    daemon.submit(
        "joe@here.example",
        &["bob@example.org"],
        "Subject: x\r\n\r\n",
    );
    let line = daemon.control("list\n").remove(0);
    assert!(line.contains(" attempts=0 "), "{line}");
    assert!(
        line.ends_with(" blocker=\"paused: domain example.org\""),
        "{line}"
    );
}
