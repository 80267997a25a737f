//! How fast the queue is, and that its cost does not follow its length.
//!
//! `cargo bench --bench queue -- [threads=N] [messages=N] [size=BYTES] [backlog=N,N,..] [dir=PATH] [fill=N]`
//!
//! Sync is on, as always; put `dir` on a tmpfs to see the CPU alone. Prints one line per measurement. Not part of
//! `cargo test`: times say nothing on a busy machine, and ratios within one run are all that counts.

#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code, reason = "the scenarios use the rest")]
#[path = "../support/queue.rs"]
mod queue;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use posthaste::clock::Clock;
use posthaste::message::QueueId;
use posthaste::policy::failure::Verdict;
use posthaste::store::{
    Actor, Change, ClaimAction, ClaimRequest, Filter, ListQuery, NewClaim, NewContent, Sort, Store,
};

struct Options {
    threads: usize,
    messages: usize,
    size: usize,
    backlog: Vec<usize>,
    dir: PathBuf,
    /// Only fills the queue directory `dir` with so many recipients.
    fill: usize,
}

fn options() -> Options {
    let mut options = Options {
        threads: 256,
        messages: 100_000,
        size: 4096,
        backlog: vec![1000, 100_000],
        dir: std::env::temp_dir(),
        fill: 0,
    };
    for word in std::env::args().skip(1) {
        let Some((key, value)) = word.split_once('=') else {
            continue; // cargo adds --bench
        };
        match key {
            "threads" => options.threads = value.parse().unwrap(),
            "messages" => options.messages = value.parse().unwrap(),
            "size" => options.size = value.parse().unwrap(),
            "backlog" => {
                options.backlog = value
                    .split(',')
                    .filter(|word| !word.is_empty())
                    .map(|word| word.parse().unwrap())
                    .collect();
            }
            "fill" => options.fill = value.parse().unwrap(),
            "dir" => options.dir = value.into(),
            other => panic!("unknown option {other}"),
        }
    }
    options
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let span = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec() as u64) + Duration::from_micros(time.tv_usec() as u64)
    };
    span(usage.user_time()) + span(usage.system_time())
}

/// Runs `work` and prints what one of `count` costs.
fn measure<T>(name: &str, count: usize, work: impl FnOnce() -> T) -> T {
    let (wall, before) = (Instant::now(), cpu());
    let result = work();
    let (wall, used) = (wall.elapsed(), cpu() - before);
    println!(
        "{name:<34} {count:>8} in {:>8.3} s: {:>9.1} us each, {:>8.0}/s; CPU {:>7.1} us each, {:>8.0} per CPU second",
        wall.as_secs_f64(),
        wall.as_secs_f64() * 1e6 / count as f64,
        count as f64 / wall.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64,
        count as f64 / used.as_secs_f64().max(1e-9),
    );
    result
}

/// `work` for each of 0..count, spread over threads.
fn spread(threads: usize, count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    work(n);
                }
            });
        }
    });
}

/// Half of the queue waits for one dead domain, the rest for ten thousand others.
fn domain(n: usize) -> String {
    if n.is_multiple_of(2) {
        "dead.example".into()
    } else {
        format!("d{}.example", n / 2 % 10_000)
    }
}

/// Makes attempts at up to `limit` due recipients of a destination that all fail for now: one claim, then the outcomes,
/// all at once. How many there were.
fn defer(store: &Store, clock: &Clock, domain: &str, limit: usize) -> usize {
    let key = queue::key(domain);
    let due = store.due(&key, clock.now(), limit).unwrap();
    let next_attempt = clock.now().plus(Duration::from_secs(3600));
    let requests = due
        .iter()
        .map(|one| ClaimRequest {
            id: one.head.id,
            numbers: vec![one.row.id.number],
            attempts: one.row.attempts,
            action: ClaimAction::Claim {
                next_attempt,
                daily: None,
            },
        })
        .collect();
    store.claim(requests).unwrap();
    spread(due.len().min(20), due.len(), |n| {
        let verdict = Verdict::Deferred { next: clock.now() };
        let mut done = queue::settlement(due[n].head.id, 1, verdict, clock.now());
        done.outcomes[0].destination = key.clone();
        store.settle(done).unwrap();
    });
    due.len()
}

fn add(store: &Store, clock: &Clock, content: &Arc<Vec<u8>>, n: usize, claimed: bool) -> QueueId {
    let id = store.allocate_id().unwrap();
    let now = clock.now();
    let mut row = queue::row(&format!("user{n}@{}", domain(n)), now);
    if claimed {
        row.claim = Some(NewClaim {
            next_attempt: now.plus(Duration::from_secs(450)),
        });
    }
    let mut message = queue::message(id, now, vec![row]);
    message.content = NewContent::Inline(Arc::clone(content));
    store.enqueue(message).unwrap();
    id
}

/// A queue for a daemon to be measured with (growth.sh): all of it waits for an hour, but for the last message.
fn fill(options: &Options, content: &Arc<Vec<u8>>) {
    let clock = Clock::system();
    let mut settings = queue::settings(&options.dir);
    settings.path.clone_from(&options.dir);
    let (store, _) = Store::open(&settings, &clock).unwrap();
    let later = clock.now().plus(Duration::from_secs(3600));
    spread(options.threads, options.fill, |n| {
        let id = store.allocate_id().unwrap();
        let due = if n + 1 == options.fill {
            clock.now()
        } else {
            later
        };
        let row = queue::row(&format!("user{n}@{}", domain(n)), due);
        let mut message = queue::message(id, clock.now(), vec![row]);
        message.content = NewContent::Inline(Arc::clone(content));
        store.enqueue(message).unwrap();
    });
    store.close();
}

fn main() {
    let options = options();
    if options.fill > 0 {
        return fill(&options, &Arc::from(vec![b'x'; options.size]));
    }
    println!(
        "threads={} messages={} size={} dir={}",
        options.threads,
        options.messages,
        options.size,
        options.dir.display()
    );
    let content = Arc::new(Arc::from(vec![b'x'; options.size]));
    let clock = Clock::system();
    let base = options
        .dir
        .join(format!("posthaste-bench-{}", std::process::id()));
    std::fs::create_dir(&base).unwrap();
    let settings = queue::settings(&base);
    let (store, _) = Store::open(&settings, &clock).unwrap();

    measure("accept claimed, settle delivered", options.messages, || {
        spread(options.threads, options.messages, |n| {
            let id = add(&store, &clock, &content, n, true);
            let done = queue::settlement(id, 1, Verdict::Delivered, clock.now());
            store.settle(done).unwrap();
        });
    });
    let stats = store.stats().unwrap();
    println!(
        "commits={} requests={} per_commit={:.1} wal={} KiB db={} KiB median={:?} longest={:?}",
        stats.commits,
        stats.requests,
        stats.requests as f64 / stats.commits as f64,
        stats.wal_bytes >> 10,
        std::fs::metadata(settings.path.join("queue.db"))
            .unwrap()
            .len()
            >> 10,
        stats.commit_time.0,
        stats.commit_time.1
    );

    let mut store = store;
    let mut there = 0;
    for &backlog in &options.backlog {
        measure(
            &format!("accept up to {backlog} queued"),
            (backlog - there).max(1),
            || {
                spread(options.threads, backlog - there, |n| {
                    add(&store, &clock, &content, n, false);
                });
            },
        );
        there = backlog;
        at_depth(&store, &clock, &content, &options);
        store.close();
        store = measure("  close was done; open", 1, || {
            Store::open(&settings, &clock).unwrap().0
        });
    }
    store.close();
    std::fs::remove_dir_all(&base).unwrap();
}

/// The operations that must not notice how much is queued.
fn at_depth(store: &Store, clock: &Clock, content: &Arc<Vec<u8>>, options: &Options) {
    let rounds = 2000;
    measure("  accept claimed, settle delivered", rounds, || {
        spread(options.threads, rounds, |n| {
            let id = add(store, clock, content, n, true);
            let done = queue::settlement(id, 1, Verdict::Delivered, clock.now());
            store.settle(done).unwrap();
        });
    });
    measure("  accept queued, one a commit", 500, || {
        for n in 0..500 {
            add(store, clock, content, n, false);
        }
    });
    measure("  due, claim, settle: 20 of the dead", 2000, || {
        for _ in 0..100 {
            assert_eq!(defer(store, clock, "dead.example", 20), 20);
        }
    });
    measure("  the same, one a commit", 500, || {
        for _ in 0..500 {
            assert_eq!(defer(store, clock, "dead.example", 1), 1);
        }
    });
    measure("  the same, one of each domain", 500, || {
        for n in 0..500 {
            assert_eq!(defer(store, clock, &domain(2 * (n % 400) + 1), 1), 1);
        }
    });
    measure("  due destinations (100)", 500, || {
        for _ in 0..500 {
            store.due_destinations(clock.now(), None, 100).unwrap();
        }
    });
    measure("  next due", 2000, || {
        for _ in 0..2000 {
            store.next_due().unwrap();
        }
    });
    let first_page = ListQuery {
        filter: Filter::default(),
        sort: Sort::Next,
        descending: false,
        limit: 100,
        cursor: None,
    };
    let page = measure("  list (100)", 100, || {
        for _ in 0..99 {
            store.list(&first_page).unwrap();
        }
        store.list(&first_page).unwrap()
    });
    measure("  show", 1000, || {
        for _ in 0..1000 {
            store.show(page.rows[0].head.id).unwrap();
        }
    });
    measure("  kick one", 200, || {
        for n in 0..200 {
            let filter = Filter {
                ids: vec![(page.rows[n % page.rows.len()].head.id, None)],
                ..Filter::default()
            };
            let change = Change::Kick { at: clock.now() };
            store
                .change(&filter, &change, &Actor { uid: 0 }, false, &mut |_| {})
                .unwrap();
        }
    });
    measure("  stats", 1000, || {
        for _ in 0..1000 {
            store.stats().unwrap();
        }
    });
}
