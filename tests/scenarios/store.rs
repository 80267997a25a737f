//! Scenarios: the queue through its public interface.

#![allow(clippy::unwrap_used)] // an answer that is no answer is a failed test

mod handed;
mod model;

use std::sync::Arc;
use std::time::Duration;

use posthaste::clock::Timestamp;
use posthaste::message::QueueId;
use posthaste::policy::failure::Verdict;
use posthaste::store::{
    Actor, BackupError, Change, ClaimAction, ClaimRequest, Doubt, Filter, GroupBy, InDoubt,
    ListQuery, NewContent, OpenError, Pause, PauseScope, Sort, Soundness, State, Store, StoreError,
};

use crate::support::queue::{
    Queue, TempDir, attempt, key, message, row, settings, settlement, start,
};

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn claim(id: QueueId, numbers: &[u32], attempts: u32, next_attempt: Timestamp) -> ClaimRequest {
    ClaimRequest {
        id,
        numbers: numbers.to_vec(),
        attempts,
        action: ClaimAction::Claim {
            next_attempt,
            daily: None,
        },
    }
}

fn by_id(id: QueueId) -> Filter {
    Filter {
        ids: vec![(id, None)],
        ..Filter::default()
    }
}

fn list(queue: &Queue, filter: Filter) -> Vec<posthaste::store::DueRecipient> {
    let query = ListQuery {
        filter,
        sort: Sort::Next,
        descending: false,
        limit: 1000,
        cursor: None,
    };
    queue.store.list(&query).unwrap().rows
}

fn states(queue: &Queue, id: QueueId) -> Vec<State> {
    let shown = queue.store.show(id).unwrap().unwrap();
    shown.recipients.iter().map(|row| row.state).collect()
}

fn change(queue: &Queue, filter: &Filter, change: &Change) -> (u64, u64) {
    let report = queue
        .store
        .change(filter, change, &Actor { uid: 7 }, false, &mut |_| {})
        .unwrap();
    (report.affected, report.claimed)
}

fn content(queue: &Queue, id: QueueId) -> Vec<u8> {
    let mut reader = queue.store.content(id).unwrap();
    let mut all = Vec::new();
    while let Some(chunk) = reader.next_chunk().unwrap() {
        all.extend_from_slice(&chunk);
    }
    all
}

//
#[test]
fn an_accepted_message_is_there_after_a_crash_as_it_was_handed_in() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example", "\"a b\"@other.example"]);
    let (queue, recovery) = queue.crash();
    assert!(recovery.in_doubt.is_empty() && recovery.orphan_chunks == 0);
    let shown = queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.head.message_id, format!("<{id}@here.example>"));
    assert_eq!(shown.head.arrived, start());
    assert!(shown.has_content && shown.attempts.is_empty());
    let paths: Vec<String> = shown
        .recipients
        .iter()
        .map(|row| row.recipient.path.to_string())
        .collect();
    assert_eq!(paths, ["bob@dest.example", "\"a b\"@other.example"]);
    assert_eq!(content(&queue, id), b"Subject: test\r\n\r\nbody\r\n");
}

// OBS-8
#[test]
fn a_recipient_is_claimed_settled_and_remembered_with_its_attempts() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example"]);
    let later = start().plus(minutes(8));
    let due = queue.store.due(&key("dest.example"), start(), 10).unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].row.attempts, 0);
    let claimed = queue.store.claim(vec![claim(id, &[1], 0, later)]).unwrap();
    assert_eq!(claimed[0].numbers, [1]);
    // A second claim of the same row finds it taken.
    let again = queue.store.claim(vec![claim(id, &[1], 0, later)]).unwrap();
    assert!(again[0].numbers.is_empty());
    assert!(
        queue
            .store
            .due(&key("dest.example"), later, 10)
            .unwrap()
            .is_empty()
    );
    let running = queue.store.show(id).unwrap().unwrap();
    assert_eq!(running.attempts.len(), 1, "Q-15: the running attempt shows");
    assert!(running.attempts[0].result.is_none());

    queue.settle(id, 1, Verdict::Deferred { next: later });
    let rows = list(&queue, Filter::default());
    assert_eq!(rows[0].row.next_attempt, later);
    assert_eq!(rows[0].row.blocker, "451 4.0.0 the peer's words");
    assert!(
        queue
            .store
            .due(&key("dest.example"), start(), 10)
            .unwrap()
            .is_empty()
    );
    assert_eq!(queue.store.next_due().unwrap(), Some(later));

    let last = later.plus(minutes(15));
    queue.store.claim(vec![claim(id, &[1], 1, last)]).unwrap();
    queue.settle(id, 1, Verdict::Delivered);
    let shown = queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].state, State::Delivered);
    assert_eq!(shown.recipients[0].dialled.len(), 1);
    let results: Vec<_> = shown
        .attempts
        .iter()
        .map(|one| one.result.as_ref().unwrap())
        .collect();
    assert_eq!(results.len(), 2);
    assert_eq!(results[1].host, "mx.dest.example");
    assert_eq!(results[1].code.unwrap().get(), 250);
    assert_eq!(results[0].cause, attempt(Verdict::Failed, start()).cause);
    assert!(!shown.has_content);
    assert!(list(&queue, Filter::default()).is_empty());
    assert_eq!(queue.store.next_due().unwrap(), None);
    assert!(matches!(
        queue.store.content(id).unwrap().next_chunk(),
        Err(StoreError::Failed(_))
    ));
    assert_eq!(queue.store.stats().unwrap().messages, 0);
}

// RT-5
#[test]
fn what_was_claimed_at_a_crash_is_in_doubt_and_due_after_its_back_off() {
    let queue = Queue::new();
    let later = start().plus(minutes(8));
    let id = queue.add_claimed("bob@dest.example", later);
    let other = queue.add(&["eve@dest.example"]);
    let _out = queue.store.dot(id, 1).unwrap();
    let (queue, recovery) = queue.crash();
    assert_eq!(recovery.in_doubt.len(), 1);
    assert_eq!(recovery.in_doubt[0].to_string(), format!("{id}/1"));
    let shown = queue.store.show(id).unwrap().unwrap();
    let row = &shown.recipients[0];
    assert_eq!(
        (row.state, row.doubt),
        (State::Queued, Some(Doubt::InDoubt))
    );
    assert_eq!((row.attempts, row.next_attempt), (1, later));
    assert!(shown.attempts[0].in_doubt && shown.attempts[0].result.is_none());
    let due = queue.store.due(&key("dest.example"), start(), 10).unwrap();
    assert_eq!(due.len(), 1, "only the other one");
    assert_eq!(due[0].head.id, other);
    assert_eq!(queue.store.stats().unwrap().in_doubt, 1);
    // The mark stays in history.
    queue.store.claim(vec![claim(id, &[1], 1, later)]).unwrap();
    queue.settle(id, 1, Verdict::Delivered);
    let shown = queue.store.show(id).unwrap().unwrap();
    assert_eq!(shown.recipients[0].doubt, Some(Doubt::InDoubt));
    assert_eq!(queue.store.stats().unwrap().in_doubt, 0);
}

// Q-26, RT-5
#[test]
fn what_was_claimed_at_a_crash_and_had_not_come_to_its_dot_is_an_ordinary_retry() {
    let queue = Queue::new();
    let later = start().plus(minutes(8));
    let id = queue.add_claimed("bob@dest.example", later);
    // Its outcome was recorded: the place of its dot is another's.
    let done = queue.add_claimed("eve@dest.example", later);
    let mark = queue.store.dot(done, 1).unwrap();
    queue.settle(done, 1, Verdict::Delivered);
    mark.settled();
    let (queue, recovery) = queue.crash();
    assert!(recovery.in_doubt.is_empty());
    assert_eq!(recovery.cut_off.len(), 1);
    assert_eq!(recovery.cut_off[0].to_string(), format!("{id}/1"));
    let shown = queue.store.show(id).unwrap().unwrap();
    let row = &shown.recipients[0];
    assert_eq!((row.state, row.doubt), (State::Queued, None));
    assert_eq!((row.attempts, row.next_attempt), (1, later));
    assert!(shown.attempts[0].cut_off && !shown.attempts[0].in_doubt);
    assert_eq!(queue.store.stats().unwrap().in_doubt, 0);
    // The dots of the run before are forgotten once they were read.
    queue.store.claim(vec![claim(id, &[1], 1, later)]).unwrap();
    let _out = queue.store.dot(id, 2).unwrap();
    let (queue, recovery) = queue.crash();
    assert_eq!(recovery.in_doubt.len(), 1);
    assert_eq!(queue.store.stats().unwrap().in_doubt, 1);
}

//
#[test]
fn what_was_claimed_at_a_crash_is_held_where_the_operator_wants_it() {
    let mut queue = Queue::new();
    queue.settings.in_doubt = InDoubt::Hold;
    let id = queue.add_claimed("bob@dest.example", start());
    let _out = queue.store.dot(id, 1).unwrap();
    let not_sent = queue.add_claimed("eve@dest.example", start());
    let (queue, recovery) = queue.crash();
    assert_eq!(recovery.in_doubt.len(), 1);
    assert_eq!(states(&queue, id), [State::Held]);
    assert_eq!(states(&queue, not_sent), [State::Queued]);
    assert_eq!(change(&queue, &by_id(id), &Change::Release), (1, 0));
    assert_eq!(states(&queue, id), [State::Queued]);
}

// ST-9
#[test]
fn a_second_store_on_the_same_queue_is_refused_until_the_first_ends() {
    let queue = Queue::new();
    let second = Store::open(&queue.settings, &queue.clock);
    assert!(matches!(second, Err(OpenError::Locked(_))));
    queue.store.close();
    let (store, _) = Store::open(&queue.settings, &queue.clock).unwrap();
    store.close();
}

// ST-11
#[test]
fn a_zero_length_or_foreign_or_cut_database_is_refused_and_left_as_it_is() {
    for damage in ["empty", "text", "foreign", "cut", "no header"] {
        let directory = TempDir::new();
        let settings = settings(directory.path());
        let clock = posthaste::clock::Clock::manual(start());
        let (store, _) = Store::open(&settings, &clock).unwrap();
        store.close();
        let path = settings.path.join("queue.db");
        let whole = std::fs::read(&path).unwrap();
        let bytes = match damage {
            "empty" => Vec::new(),
            "text" => b"From joe@here.example\n".repeat(10),
            "foreign" => {
                let mut bytes = whole;
                bytes[68..72].copy_from_slice(&[0, 0, 0, 9]);
                bytes
            }
            "cut" => whole[..whole.len() / 2].to_vec(),
            _ => {
                let mut bytes = whole;
                bytes[..100].fill(0);
                bytes
            }
        };
        std::fs::write(&path, &bytes).unwrap();
        let error = Store::open(&settings, &clock).err().unwrap();
        assert!(matches!(error, OpenError::Refused(_)), "{damage}: {error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{damage}");
    }
}

//
#[test]
fn a_full_queue_takes_nothing_but_notices() {
    let mut queue = Queue::new();
    queue.settings.max_messages = 1;
    queue.store.reconfigure(&queue.settings);
    let first = queue.add(&["bob@dest.example"]);
    let new = |exempt| {
        let id = queue.store.allocate_id().unwrap();
        let mut new = message(id, start(), vec![row("eve@dest.example", start())]);
        new.exempt_from_limits = exempt;
        queue.store.enqueue(new)
    };
    assert!(matches!(new(false), Err(StoreError::OverLimit)));
    new(true).unwrap();
    change(&queue, &by_id(first), &Change::Drop { wait: false });
    assert!(matches!(new(false), Err(StoreError::OverLimit)));
    change(&queue, &Filter::default(), &Change::Drop { wait: false });
    new(false).unwrap();
}

// Q-7, ST-17
#[test]
fn a_large_content_is_staged_and_comes_back_whole_and_leftovers_are_swept() {
    let queue = Queue::new();
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let id = queue.store.allocate_id().unwrap();
    let mut staged = queue.store.stage(id);
    for piece in body.chunks(1 << 20) {
        staged.append(piece).unwrap();
    }
    let mut new = message(id, start(), vec![row("bob@dest.example", start())]);
    new.content = NewContent::Staged(staged);
    queue.store.enqueue(new).unwrap();
    assert!(content(&queue, id) == body);

    // One that never becomes a message, at a crash.
    let lost = queue.store.allocate_id().unwrap();
    let mut staged = queue.store.stage(lost);
    staged.append(&body[..600_000]).unwrap();
    let copy = copy_of(&queue);
    drop(staged);
    let clock = queue.clock.clone();
    let (store, recovery) = Store::open(&copy.1, &clock).unwrap();
    assert_eq!(recovery.orphan_chunks, 3);
    drop(store);
    // The sweep has taken them.
    let (store, recovery) = Store::open(&copy.1, &clock).unwrap();
    assert_eq!(recovery.orphan_chunks, 0);
    drop(store);
    assert!(content(&queue, id) == body);
}

/// The files as they are now, in a place of their own: what a power loss would leave.
fn copy_of(queue: &Queue) -> (TempDir, posthaste::store::Settings) {
    let directory = TempDir::new();
    let copy = settings(directory.path());
    std::fs::create_dir(&copy.path).unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        std::fs::copy(queue.settings.path.join(name), copy.path.join(name)).unwrap();
    }
    (directory, copy)
}

// ST-18
#[test]
fn a_backup_taken_under_way_is_a_sound_queue_with_all_that_was_accepted_before_it() {
    let queue = Queue::new();
    let before: Vec<QueueId> = (0..200)
        .map(|n| queue.add(&[&format!("user{n}@d{n}.example")]))
        .collect();
    let directory = TempDir::new();
    let restored = settings(directory.path());
    std::fs::create_dir(&restored.path).unwrap();
    let to = restored.path.join("queue.db");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                queue.add(&["later@dest.example"]);
            }
        });
        let size = queue.store.backup(&to).unwrap();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(size, std::fs::metadata(&to).unwrap().len());
    });
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&to).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    // Nothing else is left, and what is there stays as it is.
    assert_eq!(std::fs::read_dir(&restored.path).unwrap().count(), 1);
    let bytes = std::fs::read(&to).unwrap();
    let again = queue.store.backup(&to);
    assert!(matches!(&again, Err(BackupError::Path(text)) if text.contains("there already")));
    assert!(bytes == std::fs::read(&to).unwrap());

    let (store, recovery) = Store::open(&restored, &queue.clock).unwrap();
    assert!(recovery.in_doubt.is_empty());
    for id in before {
        assert!(
            store
                .show(id)
                .unwrap()
                .is_some_and(|shown| shown.has_content)
        );
    }
    store
        .check(false, &mut |checked| {
            assert_eq!(checked.soundness, Soundness::Sound, "{}", checked.name);
        })
        .unwrap();
}

// ST-18
#[test]
fn a_backup_goes_only_to_a_new_absolute_name_outside_the_queue() {
    let queue = Queue::new();
    let directory = TempDir::new();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
    for (to, why) in [
        ("copy.db".into(), "absolute"),
        (queue.settings.path.join("copy.db"), "inside the queue"),
        (directory.path().join("no/such/copy.db"), "No such file"),
        (link, "there already"),
        ("/".into(), "name of a file"),
    ] {
        let refused = queue.store.backup(&to);
        assert!(
            matches!(&refused, Err(BackupError::Path(text)) if text.contains(why)),
            "{refused:?}"
        );
    }
    let taken = directory.path().join("copy.db.unfinished");
    std::fs::write(&taken, "of somebody else").unwrap();
    let refused = queue.store.backup(&directory.path().join("copy.db"));
    assert!(matches!(refused, Err(BackupError::Copy(_))));
    assert_eq!(std::fs::read(&taken).unwrap(), b"of somebody else");
}

// ST-13, ST-18, Q-16
#[test]
fn a_copy_of_database_and_log_starts_like_the_original_after_a_power_loss() {
    let queue = Queue::new();
    let done = queue.add_claimed("ann@dest.example", start());
    queue.settle(done, 1, Verdict::Delivered);
    let open = queue.add_claimed("bob@dest.example", start());
    let (_directory, settings) = copy_of(&queue);
    let (store, recovery) = Store::open(&settings, &queue.clock).unwrap();
    assert_eq!(recovery.in_doubt.len(), 1);
    let shown = store.show(open).unwrap().unwrap();
    assert_eq!(shown.recipients[0].doubt, Some(Doubt::InDoubt));
    let shown = store.show(done).unwrap().unwrap();
    assert_eq!(shown.recipients[0].state, State::Delivered);
    // no id comes twice.
    let next = store.allocate_id().unwrap();
    assert!(next > open && next > queue.store.allocate_id().unwrap());
}

// ST-15, ST-16
#[test]
fn many_at_once_each_get_their_commit_and_a_bad_one_fails_alone() {
    let queue = Queue::new();
    let taken = queue.add(&["bob@dest.example"]);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|n| {
                let store = queue.store.clone();
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for round in 0..8 {
                        let bad = (n + round) % 8 == 0;
                        let id = if bad {
                            taken
                        } else {
                            store.allocate_id().unwrap()
                        };
                        let to = format!("user{n}@d{round}.example");
                        let new = message(id, start(), vec![row(&to, start())]);
                        done.push((bad, id, store.enqueue(new)));
                    }
                    done
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let mut good = 1;
    for (bad, id, result) in results {
        if bad {
            assert!(matches!(result, Err(StoreError::Failed(_))), "{result:?}");
        } else {
            result.unwrap();
            assert!(queue.store.show(id).unwrap().is_some());
            good += 1;
        }
    }
    let stats = queue.store.stats().unwrap();
    assert_eq!((stats.messages, stats.queued), (good, good));
    assert!(stats.commits < stats.requests, "some shared a commit");
    assert_eq!(list(&queue, Filter::default()).len() as u64, good);
}

//
#[test]
fn a_message_without_recipients_leaves_nothing_behind() {
    let queue = Queue::new();
    let id = queue.store.allocate_id().unwrap();
    let refused = queue.store.enqueue(message(id, start(), Vec::new()));
    assert!(matches!(refused, Err(StoreError::Failed(_))));
    assert!(queue.store.show(id).unwrap().is_none());
}

// SC-2, SC-12, RT-6, CTL-11
#[test]
fn due_work_comes_by_priority_then_time_and_a_kick_makes_it_due() {
    let queue = Queue::new();
    let add = |priority, due: Timestamp| {
        let id = queue.store.allocate_id().unwrap();
        let mut new = message(id, start(), vec![row("bob@dest.example", due)]);
        Arc::get_mut(&mut new.head).unwrap().priority = priority;
        queue.store.enqueue(new).unwrap();
        id
    };
    let later = start().plus(minutes(5));
    let low = add(-3, start());
    let normal = add(0, start());
    let late = add(9, later);
    let due = |now| -> Vec<QueueId> {
        let rows = queue.store.due(&key("dest.example"), now, 10).unwrap();
        rows.iter().map(|one| one.head.id).collect()
    };
    assert_eq!(due(start()), [normal, low]);
    assert_eq!(due(later), [late, normal, low]);
    assert_eq!(
        queue
            .store
            .due(&key("dest.example"), later, 2)
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        change(&queue, &by_id(late), &Change::Kick { at: start() }),
        (1, 0)
    );
    assert_eq!(due(start()), [late, normal, low]);
    let row = &list(&queue, by_id(late))[0].row;
    assert_eq!(row.attempts, 0);
}

// Q-20, SC-2
#[test]
fn destinations_come_in_the_order_of_their_earliest_due_time_in_pages() {
    let queue = Queue::new();
    for n in 0..5_u64 {
        let due = start().plus(minutes(10 - n));
        queue.add_rows(vec![row(&format!("bob@d{n}.example"), due)]);
    }
    let now = start().plus(minutes(9));
    let first = queue.store.due_destinations(now, None, 3).unwrap();
    let names = |page: &[posthaste::store::DueDestination]| -> Vec<String> {
        page.iter().map(|one| one.key.to_string()).collect()
    };
    assert_eq!(names(&first), ["d4.example", "d3.example", "d2.example"]);
    let last = first.last().unwrap();
    let rest = queue
        .store
        .due_destinations(now, Some((last.next_due, last.row)), 3)
        .unwrap();
    assert_eq!(names(&rest), ["d1.example"]);
    assert_eq!(
        queue.store.next_due().unwrap(),
        Some(start().plus(minutes(6)))
    );
}

//
#[test]
fn a_move_changes_the_group_and_only_of_rows_as_they_were_seen() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example"]);
    let to = |attempts| ClaimRequest {
        id,
        numbers: vec![1, 2],
        attempts,
        action: ClaimAction::Move {
            destination: key("relay:hub"),
        },
    };
    let answer = queue.store.claim(vec![to(1), to(0)]).unwrap();
    assert!(answer[0].numbers.is_empty());
    assert_eq!(answer[1].numbers, [1]);
    assert!(
        queue
            .store
            .due(&key("dest.example"), start(), 9)
            .unwrap()
            .is_empty()
    );
    let due = queue.store.due(&key("relay:hub"), start(), 9).unwrap();
    assert_eq!(due[0].row.destination, key("relay:hub"));
    let all = queue.store.due_destinations(start(), None, 9).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].key, key("relay:hub"));
}

// RT-7, RT-5
#[test]
fn a_claim_given_back_was_no_attempt() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example"]);
    let later = start().plus(minutes(5));
    queue.store.claim(vec![claim(id, &[1], 0, later)]).unwrap();
    queue
        .store
        .unclaim(id, &[1], later, Some("4.4.3 no name server answered"))
        .unwrap();
    let row = queue.store.show(id).unwrap().unwrap().recipients.remove(0);
    assert_eq!(row.blocker, "4.4.3 no name server answered");
    let row = list(&queue, by_id(id)).remove(0).row;
    assert_eq!(
        (row.state, row.attempts, row.last_attempt),
        (State::Queued, 0, None)
    );
    assert_eq!(row.next_attempt, later);
    assert_eq!(queue.store.next_due().unwrap(), Some(later));
    assert!(queue.store.show(id).unwrap().unwrap().attempts.is_empty());
}

// CTL-12, CTL-24
#[test]
fn drop_and_fail_wait_for_running_attempts_only_when_told_to() {
    let queue = Queue::new();
    let later = start().plus(minutes(5));
    let dropped = queue.add_claimed("bob@dest.example", later);
    let failed = queue.add_claimed("eve@dest.example", later);
    let delivered = queue.add_claimed("ann@dest.example", later);
    let all = Filter::default();
    assert_eq!(change(&queue, &all, &Change::Drop { wait: false }), (0, 3));
    assert_eq!(
        change(&queue, &by_id(dropped), &Change::Drop { wait: true }),
        (1, 0)
    );
    assert_eq!(
        change(&queue, &by_id(delivered), &Change::Drop { wait: true }),
        (1, 0)
    );
    let fail = Change::Fail {
        text: "go away".into(),
        wait: true,
    };
    assert_eq!(change(&queue, &by_id(failed), &fail), (1, 0));
    for id in [dropped, failed] {
        queue.settle(id, 1, Verdict::Deferred { next: later });
    }
    queue.settle(delivered, 1, Verdict::Delivered);
    assert_eq!(states(&queue, dropped), [State::Dropped]);
    assert_eq!(states(&queue, failed), [State::Failed]);
    assert_eq!(states(&queue, delivered), [State::Delivered]);
    let shown = queue.store.show(failed).unwrap().unwrap();
    assert_eq!(shown.recipients[0].blocker, "5.7.0 go away");
    let words = shown.attempts.iter().find_map(|one| one.operator.clone());
    assert_eq!(words.unwrap(), "canceled by operator uid=7: 5.7.0 go away");
    assert_eq!(queue.store.stats().unwrap().messages, 0);
}

// CTL-13, Q-9
#[test]
fn held_recipients_are_not_due_and_keep_their_time() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example", "eve@dest.example"]);
    let hold = Change::Hold {
        reason: "look at it".into(),
    };
    let one = Filter {
        ids: vec![(id, Some(2))],
        ..Filter::default()
    };
    assert_eq!(change(&queue, &one, &hold), (1, 0));
    let due = queue.store.due(&key("dest.example"), start(), 9).unwrap();
    assert_eq!(due.len(), 1);
    let claimed = queue
        .store
        .claim(vec![claim(id, &[1, 2], 0, start())])
        .unwrap();
    assert_eq!(claimed[0].numbers, [1]);
    assert_eq!(
        change(&queue, &by_id(id), &Change::Kick { at: start() }),
        (0, 1)
    );
    assert_eq!(change(&queue, &by_id(id), &Change::Release), (1, 0));
    let row = &list(&queue, one)[0].row;
    assert_eq!((row.state, row.next_attempt), (State::Queued, start()));
}

// CTL-10, CTL-13
#[test]
fn who_is_released_waits_for_what_the_last_attempt_met_and_not_for_the_hold() {
    let queue = Queue::new();
    let later = start().plus(minutes(5));
    let tried = queue.add_claimed("bob@dest.example", later);
    queue.settle(tried, 1, Verdict::Deferred { next: later });
    let met = list(&queue, by_id(tried)).remove(0).row.blocker;
    assert!(!met.is_empty());
    let new = queue.add(&["eve@dest.example"]);
    let hold = Change::Hold {
        reason: "look at it".into(),
    };
    for (id, blocker) in [(tried, met.as_str()), (new, "")] {
        assert_eq!(change(&queue, &by_id(id), &hold), (1, 0));
        let row = list(&queue, by_id(id)).remove(0).row;
        assert_eq!(row.blocker, "look at it");
        assert_eq!(change(&queue, &by_id(id), &Change::Release), (1, 0));
        let row = list(&queue, by_id(id)).remove(0).row;
        assert_eq!(row.blocker, blocker);
    }
}

//
#[test]
fn a_message_that_poisons_its_worker_is_held_after_the_limit() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example", "eve@dest.example"]);
    for round in 0..3 {
        queue
            .store
            .claim(vec![claim(id, &[1], round, start())])
            .unwrap();
        let mut ill = settlement(id, 1, Verdict::Deferred { next: start() }, start());
        ill.outcomes[0].poison = true;
        queue.store.settle(ill).unwrap();
    }
    assert_eq!(states(&queue, id), [State::Held, State::Held]);
    assert!(
        list(&queue, by_id(id))[0]
            .row
            .blocker
            .starts_with("poison: 3")
    );
    // Deaths of the whole process count, orderly stops do not.
    let id = queue.add(&["tom@dest.example"]);
    let mut queue = queue;
    for round in 0..5 {
        let claimed = queue
            .store
            .claim(vec![claim(id, &[1], round, start())])
            .unwrap();
        assert_eq!(claimed[0].numbers, [1], "round {round}");
        let (next, recovery) = if round < 2 {
            queue.store.close();
            queue.crash()
        } else {
            queue.crash()
        };
        assert_eq!(recovery.poisoned.len(), usize::from(round == 4));
        queue = next;
    }
    assert_eq!(states(&queue, id), [State::Held]);
}

// SC-12
#[test]
fn pauses_survive_a_restart_and_can_be_lifted_once() {
    let queue = Queue::new();
    let scope = PauseScope::Domain("dest.example".into());
    let pause = Pause {
        since: start(),
        until: Some(start().plus(minutes(5))),
        reason: "moving".into(),
    };
    assert!(queue.store.set_pause(&scope, Some(&pause)).unwrap());
    assert!(
        queue
            .store
            .set_pause(&PauseScope::All, Some(&pause))
            .unwrap()
    );
    let (queue, _) = queue.crash();
    let all = queue.store.pauses().unwrap();
    assert_eq!(all.len(), 2);
    assert!(
        all.iter()
            .any(|(at, one)| *at == scope && one.until == pause.until)
    );
    assert!(queue.store.set_pause(&scope, None).unwrap());
    assert!(!queue.store.set_pause(&scope, None).unwrap());
    assert_eq!(queue.store.pauses().unwrap().len(), 1);
}

// CTL-6, CTL-7
#[test]
fn pages_of_a_list_join_without_gap_or_repetition_in_every_order() {
    let queue = Queue::new();
    for n in 0..25_u64 {
        let due = start().plus(minutes(n % 4));
        queue.clock.advance(Duration::from_secs(1));
        queue.add_rows(vec![
            row(&format!("u{n}@d{}.example", n % 3), due),
            row(&format!("v{n}@other.example"), due),
        ]);
    }
    for sort in [Sort::Next, Sort::Arrived, Sort::Size] {
        for descending in [false, true] {
            let mut query = ListQuery {
                filter: Filter::default(),
                sort,
                descending,
                limit: 7,
                cursor: None,
            };
            let mut seen = Vec::new();
            loop {
                let page = queue.store.list(&query).unwrap();
                seen.extend(page.rows.iter().map(|one| {
                    let first = match sort {
                        Sort::Next => one.row.next_attempt.millis(),
                        Sort::Arrived => one.head.arrived.millis(),
                        Sort::Size => one.head.size as i64,
                    };
                    (first, one.row.id)
                }));
                match page.cursor {
                    Some(cursor) => query.cursor = Some(cursor),
                    None => break,
                }
            }
            let mut sorted = seen.clone();
            sorted.sort_unstable();
            sorted.dedup();
            if descending {
                sorted.reverse();
            }
            assert_eq!(seen.len(), 50);
            assert_eq!(seen, sorted, "{sort:?} {descending}");
        }
    }
}

// CTL-6, CTL-9
#[test]
fn filters_select_and_counts_agree_with_lists() {
    let queue = Queue::new();
    let first = queue.add(&["Bob@dest.example", "eve@other.example"]);
    let second = queue.add(&["bob@sub.dest.example"]);
    let claimed = queue.add_claimed("zoe@dest.example", start().plus(minutes(3)));
    let hits = |filter: Filter| {
        let listed = list(&queue, filter.clone()).len() as u64;
        let counted = queue.store.count(&filter, None).unwrap();
        assert_eq!(counted, [(String::new(), listed)], "{filter:?}");
        listed
    };
    let with = |change: fn(&mut Filter)| {
        let mut filter = Filter::default();
        change(&mut filter);
        filter
    };
    assert_eq!(hits(Filter::default()), 4);
    assert_eq!(hits(by_id(first)), 2);
    assert_eq!(hits(with(|f| f.rcpt = Some(2))), 1);
    assert_eq!(hits(with(|f| f.to = Some("bob@".into()))), 2);
    assert_eq!(hits(with(|f| f.to = Some("@dest.example".into()))), 2);
    assert_eq!(hits(with(|f| f.domain = Some("DEST.example".into()))), 2);
    assert_eq!(hits(with(|f| f.from = Some("<>".into()))), 0);
    assert_eq!(hits(with(|f| f.from = Some("joe".into()))), 4);
    assert_eq!(
        hits(with(|f| f.sender_domain = Some("here.example".into()))),
        4
    );
    assert_eq!(hits(with(|f| f.caller = Some("rela".into()))), 0);
    assert_eq!(hits(with(|f| f.state = Some(State::Claimed))), 1);
    assert_eq!(
        hits(with(|f| f.next_before = Some(start().plus(minutes(1))))),
        3
    );
    assert_eq!(hits(with(|f| f.arrived_after = Some(start()))), 0);
    assert_eq!(hits(with(|f| f.text = Some("words".into()))), 0);
    queue.settle(claimed, 1, Verdict::Deferred { next: start() });
    assert_eq!(hits(with(|f| f.text = Some("words".into()))), 1);
    assert_eq!(hits(with(|f| f.transport = Some("direct".into()))), 1);
    let by = |group| queue.store.count(&Filter::default(), Some(group)).unwrap();
    let domains = by(GroupBy::Domain);
    assert_eq!(domains[0], ("dest.example".into(), 2));
    assert_eq!(domains.len(), 3);
    assert_eq!(by(GroupBy::State), [("queued".into(), 4)]);
    assert_eq!(by(GroupBy::Caller), [("relay".into(), 4)]);
    assert_eq!(by(GroupBy::Age), [("5m".into(), 4)]);
    assert_eq!(by(GroupBy::Transport)[1], ("direct".into(), 1));
    queue
        .store
        .claim(vec![claim(second, &[1], 0, start())])
        .unwrap();
    queue.settle(second, 1, Verdict::Delivered);
    let finished = with(|f| f.state = Some(State::Delivered));
    assert_eq!(list(&queue, finished).len(), 1);
}

// CTL-8
#[test]
fn a_dry_run_says_what_would_be_hit_and_changes_nothing() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example", "eve@other.example"]);
    let mut seen = Vec::new();
    let report = queue
        .store
        .change(
            &Filter::default(),
            &Change::Drop { wait: false },
            &Actor { uid: 0 },
            true,
            &mut |row| seen.push(row.path.to_string()),
        )
        .unwrap();
    assert_eq!(report.affected, 2);
    assert_eq!(seen, ["bob@dest.example", "eve@other.example"]);
    assert_eq!(states(&queue, id), [State::Queued, State::Queued]);
}

// CTL-14
#[test]
fn a_transport_set_by_an_operator_moves_the_recipient_to_its_group() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example"]);
    let route = |transport: Option<&str>, destination: Option<&str>| Change::Route {
        transport: transport.map(str::to_owned),
        destination: destination.map(key),
    };
    let set = route(Some("hub"), Some("relay:hub"));
    assert_eq!(change(&queue, &by_id(id), &set), (1, 0));
    let due = queue.store.due(&key("relay:hub"), start(), 9).unwrap();
    assert_eq!(due[0].row.transport.as_deref(), Some("hub"));
    change(&queue, &by_id(id), &route(None, None));
    let due = queue.store.due(&key("dest.example"), start(), 9).unwrap();
    assert_eq!(due[0].row.transport, None);
}

// RT-9
#[test]
fn after_a_backward_clock_step_nothing_waits_beyond_the_horizon_unless_asked_to() {
    let queue = Queue::new();
    let asked = queue.add_rows(vec![row("bob@dest.example", start().plus(minutes(9000)))]);
    let given_back = queue.add(&["ann@dest.example"]);
    let kicked = queue.add(&["joe@dest.example"]);
    queue.clock.advance(minutes(600));
    let later = queue.clock.now().plus(minutes(8));
    for id in [given_back, kicked] {
        queue.store.claim(vec![claim(id, &[1], 0, later)]).unwrap();
        let text = Some("4.3.5 the relay refuses the password");
        queue.store.unclaim(id, &[1], later, text).unwrap();
    }
    let at = start().plus(minutes(9000));
    assert_eq!(change(&queue, &by_id(kicked), &Change::Kick { at }), (1, 0));
    let waiting = queue.add_claimed("eve@dest.example", queue.clock.now().plus(minutes(8)));
    queue.settle(
        waiting,
        1,
        Verdict::Deferred {
            next: queue.clock.now().plus(minutes(8)),
        },
    );
    queue.clock.set(start().plus(minutes(1)));
    let horizon = queue.clock.now().plus(minutes(30));
    assert_eq!(queue.store.pull_in(horizon).unwrap(), 2);
    for id in [waiting, given_back] {
        assert_eq!(list(&queue, by_id(id))[0].row.next_attempt, horizon);
    }
    for id in [asked, kicked] {
        assert_eq!(
            list(&queue, by_id(id))[0].row.next_attempt,
            start().plus(minutes(9000))
        );
    }
    assert_eq!(queue.store.next_due().unwrap(), Some(horizon));
    assert_eq!(queue.store.pull_in(horizon).unwrap(), 0);
}

// RT-9
#[test]
fn a_clock_put_back_into_an_attempt_that_has_ended_does_not_add_its_length_to_the_wait() {
    let queue = Queue::new();
    let id = queue.add_claimed("eve@dest.example", start().plus(minutes(30)));
    queue.clock.advance(minutes(10));
    let next = queue.clock.now().plus(minutes(30));
    queue.settle(id, 1, Verdict::Deferred { next });
    queue.clock.set(start().plus(minutes(1)));
    let horizon = queue.clock.now().plus(minutes(30));
    assert_eq!(queue.store.pull_in(horizon).unwrap(), 1);
    assert_eq!(list(&queue, by_id(id))[0].row.next_attempt, horizon);
}

// CTL-22, PRC-2
#[test]
fn a_closed_store_answers_so_on_every_handle() {
    let queue = Queue::new();
    let other = queue.store.clone();
    queue.store.close();
    queue.store.close();
    assert!(matches!(other.allocate_id(), Err(StoreError::Closed)));
    assert!(matches!(other.next_due(), Err(StoreError::Closed)));
    let new = message(
        QueueId::new(1).unwrap(),
        start(),
        vec![row("a@b.example", start())],
    );
    assert!(matches!(other.enqueue(new), Err(StoreError::Closed)));
    assert!(
        other.fatal().try_recv().is_err(),
        "an orderly end is not fatal"
    );
}

fn with_sql(queue: &Queue, sql: &str) {
    let conn = rusqlite::Connection::open(queue.settings.path.join("queue.db")).unwrap();
    conn.pragma_update(None, "foreign_keys", 0).unwrap();
    conn.execute_batch(sql).unwrap();
}

//
#[test]
fn a_damaged_row_is_held_with_that_reason_and_all_other_mail_goes_on() {
    let queue = Queue::new();
    let bad = queue.add(&["bob@dest.example", "tom@dest.example"]);
    let headless = queue.add(&["kim@dest.example"]);
    let good = queue.add(&["eve@dest.example"]);
    with_sql(
        &queue,
        &format!(
            "UPDATE recipient SET address = 'no address' WHERE id = {bad} << 20 | 1; \
             DELETE FROM message WHERE id = {headless};"
        ),
    );
    let due = |queue: &Queue| -> Vec<String> {
        let rows = queue.store.due(&key("dest.example"), start(), 10).unwrap();
        rows.iter().map(|one| one.row.id.to_string()).collect()
    };
    // The undamaged fellow is seen once more, then waits with its message.
    assert_eq!(due(&queue), [format!("{bad}/2"), format!("{good}/1")]);
    assert_eq!(due(&queue), [format!("{good}/1")]);
    let held = list(&queue, by_id(bad));
    assert_eq!(held.len(), 1, "the damaged one cannot be shown");
    assert!(
        held[0].row.blocker.starts_with("damaged: forward-path"),
        "{}",
        held[0].row.blocker
    );
    assert_eq!(held[0].row.state, State::Held);
    assert_eq!(queue.store.stats().unwrap().held, 3);
    // An operator can get rid of it.
    assert_eq!(
        change(&queue, &by_id(bad), &Change::Drop { wait: false }),
        (2, 0)
    );
    let (queue, recovery) = queue.crash();
    assert!(recovery.in_doubt.is_empty());
    assert_eq!(due(&queue), [format!("{good}/1")]);
}

//
#[test]
fn content_with_a_hole_is_told_from_whole_content_and_its_message_is_held() {
    let queue = Queue::new();
    let id = queue.store.allocate_id().unwrap();
    let mut new = message(id, start(), vec![row("bob@dest.example", start())]);
    new.content = NewContent::Inline(Arc::new(vec![b'x'; 600_000]));
    queue.store.enqueue(new).unwrap();
    queue
        .store
        .claim(vec![claim(id, &[1], 0, start())])
        .unwrap();
    with_sql(
        &queue,
        &format!("DELETE FROM chunk WHERE id = {id} << 20 | 2"),
    );
    let mut reader = queue.store.content(id).unwrap();
    assert!(reader.next_chunk().unwrap().is_some());
    assert!(reader.next_chunk().unwrap().is_some());
    assert!(matches!(reader.next_chunk(), Err(StoreError::Damaged(_))));
    queue.settle(id, 1, Verdict::Deferred { next: start() });
    assert_eq!(states(&queue, id), [State::Held]);
    assert!(
        list(&queue, by_id(id))[0]
            .row
            .blocker
            .starts_with("damaged content")
    );
}

// ST-11
#[test]
fn a_torn_or_garbage_tail_of_the_log_opens_at_the_last_valid_commit() {
    let queue = Queue::new();
    let first = queue.add(&["bob@dest.example"]);
    let (_directory, settings) = copy_of(&queue);
    let wal = settings.path.join("queue.db-wal");
    let whole = std::fs::metadata(&wal).unwrap().len();
    let second = queue.add(&["eve@dest.example"]);
    // The second commit arrives only in part, with garbage behind it.
    let mut bytes = std::fs::read(queue.settings.path.join("queue.db-wal")).unwrap();
    bytes.truncate(usize::try_from(whole).unwrap() + 3000);
    bytes.extend([0xA5; 5000]);
    std::fs::write(&wal, bytes).unwrap();
    let (store, _) = Store::open(&settings, &queue.clock).unwrap();
    assert!(store.show(first).unwrap().is_some());
    assert!(store.show(second).unwrap().is_none());
    // its id was reserved before, and is not handed out again.
    assert!(store.allocate_id().unwrap() > second);
}

//
#[test]
fn the_content_of_a_large_message_is_removed_in_steps_after_its_end_and_pages_are_used_again() {
    let queue = Queue::new();
    let large = || {
        let id = queue.store.allocate_id().unwrap();
        let mut staged = queue.store.stage(id);
        for _ in 0..8 {
            staged.append(&[b'x'; 1 << 20]).unwrap();
        }
        let mut new = message(id, start(), vec![row("bob@dest.example", start())]);
        new.content = NewContent::Staged(staged);
        queue.store.enqueue(new).unwrap();
        change(&queue, &by_id(id), &Change::Drop { wait: false });
        id
    };
    for _ in 0..4 {
        let id = large();
        assert!(!queue.store.show(id).unwrap().unwrap().has_content);
    }
    queue.store.close();
    let size = std::fs::metadata(queue.settings.path.join("queue.db"))
        .unwrap()
        .len();
    assert!(size < 20 << 20, "{size}: four times 8 MiB went through");
}

// RT-3
#[test]
fn a_final_recipient_never_comes_back() {
    let queue = Queue::new();
    let id = queue.add(&["bob@dest.example", "eve@dest.example", "kim@dest.example"]);
    queue
        .store
        .claim(vec![claim(id, &[1, 2], 0, start())])
        .unwrap();
    queue.settle(id, 1, Verdict::Failed);
    queue.settle(id, 2, Verdict::Expired);
    assert_eq!(
        states(&queue, id),
        [State::Failed, State::Expired, State::Queued]
    );
    assert!(queue.store.show(id).unwrap().unwrap().has_content);
    let (queue, _) = queue.crash();
    // Late or repeated requests of any kind change nothing.
    queue.settle(id, 1, Verdict::Deferred { next: start() });
    queue.settle(id, 2, Verdict::Delivered);
    queue.store.unclaim(id, &[1, 2], start(), None).unwrap();
    let claimed = queue
        .store
        .claim(vec![claim(id, &[1, 2], 1, start())])
        .unwrap();
    assert!(claimed[0].numbers.is_empty());
    for verb in [
        Change::Kick { at: start() },
        Change::Release,
        Change::Hold { reason: "x".into() },
        Change::Drop { wait: true },
    ] {
        let finals = Filter {
            ids: vec![(id, Some(1)), (id, Some(2))],
            ..Filter::default()
        };
        assert_eq!(change(&queue, &finals, &verb), (0, 0));
    }
    assert_eq!(
        states(&queue, id),
        [State::Failed, State::Expired, State::Queued]
    );
    assert_eq!(queue.store.show(id).unwrap().unwrap().attempts.len(), 2);
}

//
#[test]
fn a_reply_lost_after_the_dot_leaves_its_mark() {
    let queue = Queue::new();
    let id = queue.add_claimed("bob@dest.example", start());
    let mut lost = settlement(id, 1, Verdict::Deferred { next: start() }, start());
    lost.outcomes[0].attempt.may_be_sent_twice = true;
    queue.store.settle(lost).unwrap();
    let row = &list(&queue, by_id(id))[0].row;
    assert_eq!(row.doubt, Some(Doubt::MayBeSentTwice));
    assert_eq!(queue.store.stats().unwrap().in_doubt, 1);
    let shown = queue.store.show(id).unwrap().unwrap();
    assert!(shown.attempts[0].result.as_ref().unwrap().may_be_sent_twice);
}
