//! What the daemon counts about itself, and how it says so (OBS-5 to OBS-7, posthaste-control(5)).
//!
//! [`Metrics`] holds what only goes up: counters and spans of this run, counted where things happen. What goes up and
//! down is read from its owner when somebody asks. Nothing here looks at rows, so a scrape costs the same whatever waits.
//!
//! No label carries an address, and every set of labels has an end: causes and reply codes are few by nature, callers and
//! transports beyond [`MOST`] are counted together.

mod sessions;
mod text;
mod tls;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use sessions::Dialled;
pub use text::{Kind, Text};
pub use tls::{DaneResult, RequireTlsResult};

use crate::policy::failure::Cause;
use crate::smtp::reply::ReplyCode;

/// Most label sets per counter; what comes later is counted as `other`.
const MOST: usize = 200;

/// Upper ends of the buckets of [`Spans`], in microseconds.
const BUCKETS: [u64; 12] = [
    100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 1_000_000, 10_000_000,
];

/// The counters of this run; cheap to clone, all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    /// Messages by door and caller.
    accepted: Labelled<1>,
    /// Messages and commands by door and reason.
    rejected: Labelled<1>,
    /// Attempts by result, error and transport.
    attempts: Labelled<2>,
    commits: Spans,
    /// Notices to senders by kind.
    dsn: [AtomicU64; 3],
    orphans: AtomicU64,
    tls: tls::TlsCounters,
    sessions: sessions::SessionCounters,
    /// What became of questions for MTA-STS policies.
    sts_cache: Labelled<0>,
}

/// What stopped an attempt, as a label (OBS-7): a bounded set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(&'static str, u16);

impl Fault {
    /// Nothing did.
    pub const NONE: Fault = Fault("", 0);

    /// A failure: the reply code if there was a reply, else the cause.
    pub fn of(cause: Cause, code: Option<ReplyCode>) -> Fault {
        let name = match (cause, code) {
            (Cause::Reply | Cause::Address, Some(code)) => return Fault("", code.get()),
            (Cause::Reply | Cause::Address, None) => "protocol",
            (Cause::Eof, _) => "eof",
            (Cause::Reset, _) => "reset",
            (Cause::Epipe, _) => "epipe",
            (Cause::Timeout, _) => "timeout",
            (Cause::Refused, _) => "refused",
            (Cause::Dns, _) => "dns",
            (Cause::Tls, _) => "tls",
            (Cause::Protocol, _) => "protocol",
            (Cause::Local, _) => "local",
        };
        Fault(name, 0)
    }
}

impl Metrics {
    /// A message was accepted by this kind of door from this caller.
    pub fn accepted(&self, door: &'static str, caller: &str) {
        self.0.accepted.add([(door, 0)], caller);
    }

    /// A message or command was refused.
    pub fn rejected(&self, door: &'static str, reason: &str) {
        self.0.rejected.add([(door, 0)], reason);
    }

    /// An attempt for one recipient has ended and is recorded.
    pub fn attempt(&self, result: &'static str, fault: Fault, transport: &str) {
        self.0
            .attempts
            .add([(result, 0), (fault.0, fault.1)], transport);
    }

    /// A commit of the store took so long.
    pub fn commit(&self, took: Duration) {
        self.0.commits.add(took);
    }

    /// A notice to a sender was queued: 0 failed, 1 delayed, 2 success.
    pub fn notice(&self, kind: usize) {
        if let Some(count) = self.0.dsn.get(kind) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Pieces of content without a message were found and are removed.
    pub fn orphans(&self, count: u64) {
        self.0.orphans.fetch_add(count, Ordering::Relaxed);
    }

    /// Somebody asked for the MTA-STS policy of a domain, or it was refreshed.
    pub fn sts_cache(&self, result: &'static str) {
        self.0.sts_cache.add([], result);
    }

    /// Everything that is counted here.
    pub fn write(&self, text: &mut Text) {
        let counters = &*self.0;
        counters.accepted.write(
            text,
            "accepted_total",
            "Messages accepted, by door and caller.",
            ["door", "caller"],
        );
        counters.rejected.write(
            text,
            "rejected_total",
            "Messages and commands refused, by door and reason.",
            ["door", "reason"],
        );
        counters.attempts.write(
            text,
            "attempts_total",
            "Attempts that have ended, one for each recipient.",
            ["result", "error", "transport"],
        );
        counters.commits.write(
            text,
            "commit_seconds",
            "Time of a commit of the store, from its first request to the disk.",
        );
        text.family("dsn_total", Kind::Counter, "Notices to senders, by kind.");
        for (kind, count) in ["failed", "delayed", "success"].iter().zip(&counters.dsn) {
            text.sample("dsn_total", &[("kind", kind)], load(count));
        }
        counters.sts_cache.write(
            text,
            "sts_cache_total",
            "Questions for MTA-STS policies, by what they ended with.",
            ["result"],
        );
        text.one(
            "orphans_total",
            Kind::Counter,
            "Pieces of content of messages that never came, found at the start.",
            load(&counters.orphans),
        );
        counters.sessions.write(text);
        counters.tls.write(text);
    }
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// A counter with N labels of fixed words or numbers, and one of a word from elsewhere.
#[derive(Debug)]
struct Labelled<const N: usize>(Mutex<Vec<Entry<N>>>);

#[derive(Debug)]
struct Entry<const N: usize> {
    /// A word, or if it is empty a number, or if that is 0 nothing.
    fixed: [(&'static str, u16); N],
    word: String,
    count: u64,
}

impl<const N: usize> Default for Labelled<N> {
    fn default() -> Labelled<N> {
        Labelled(Mutex::default())
    }
}

impl<const N: usize> Labelled<N> {
    fn add(&self, fixed: [(&'static str, u16); N], word: &str) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A few entries as a rule, and the busiest are the first that came.
        let find = |entries: &mut Vec<Entry<N>>, word: &str| {
            entries
                .iter()
                .position(|entry| entry.word == word && entry.fixed == fixed)
        };
        let word = match find(&mut entries, word) {
            Some(at) => return entries[at].count += 1,
            None if entries.len() < MOST => word,
            None => "other",
        };
        match find(&mut entries, word) {
            Some(at) => entries[at].count += 1,
            None => entries.push(Entry {
                fixed,
                word: word.to_owned(),
                count: 1,
            }),
        }
    }

    fn write<const M: usize>(
        &self,
        text: &mut Text,
        name: &'static str,
        help: &str,
        labels: [&'static str; M],
    ) {
        text.family(name, Kind::Counter, help);
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.iter() {
            let mut values: Vec<String> = Vec::with_capacity(M);
            values.extend(entry.fixed.iter().map(|(word, number)| match number {
                0 => (*word).to_owned(),
                number => number.to_string(),
            }));
            values.push(entry.word.clone());
            let pairs: Vec<(&str, &str)> = labels
                .iter()
                .copied()
                .zip(values.iter().map(String::as_str))
                .collect();
            text.sample(name, &pairs, entry.count);
        }
    }
}

/// A histogram of spans.
#[derive(Debug, Default)]
struct Spans {
    /// Spans up to each of [`BUCKETS`] and over the one before, and those over the last.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Spans {
    fn add(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|end| *end < micros);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn write(&self, text: &mut Text, name: &'static str, help: &str) {
        text.family(name, Kind::Histogram, help);
        let bucket = format!("{name}_bucket");
        let mut count = 0;
        for (at, found) in self.buckets.iter().enumerate() {
            count += load(found);
            let end = BUCKETS
                .get(at)
                .map_or_else(|| "+Inf".to_owned(), |end| seconds(*end));
            text.sample(&bucket, &[("le", &end)], count);
        }
        text.sample(&format!("{name}_sum"), &[], seconds(load(&self.micros)));
        text.sample(&format!("{name}_count"), &[], count);
    }
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let text = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    let text = text.trim_end_matches('0');
    text.trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(metrics: &Metrics) -> String {
        let mut text = Text::default();
        metrics.write(&mut text);
        text.finish()
    }

    // OBS-5, OBS-7
    #[test]
    fn attempts_are_counted_by_result_error_and_transport() {
        let metrics = Metrics::default();
        for _ in 0..3 {
            metrics.attempt("delivered", Fault::NONE, "direct");
        }
        let busy = Fault::of(Cause::Reply, ReplyCode::new(421));
        metrics.attempt("deferred", busy, "direct");
        metrics.attempt("deferred", Fault::of(Cause::Eof, None), "smart\"host\n");
        let text = written(&metrics);
        for line in [
            "posthaste_attempts_total{result=\"delivered\",error=\"\",transport=\"direct\"} 3",
            "posthaste_attempts_total{result=\"deferred\",error=\"421\",transport=\"direct\"} 1",
            "posthaste_attempts_total{result=\"deferred\",error=\"eof\",transport=\"smart\\\"host\\n\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    // OBS-7, PRC-8
    #[test]
    fn labels_from_elsewhere_have_an_end_and_nothing_is_lost() {
        let metrics = Metrics::default();
        for n in 0..10_000 {
            metrics.accepted("smtp", &format!("uid:user{n}"));
        }
        let text = written(&metrics);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("posthaste_accepted_total{"))
            .collect();
        assert_eq!(lines.len(), MOST + 1);
        let sum: u64 = lines
            .iter()
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum();
        assert_eq!(sum, 10_000);
    }

    // OBS-6
    #[test]
    fn spans_fall_into_buckets_that_add_up() {
        let metrics = Metrics::default();
        for micros in [50, 100, 101, 20_000_000] {
            metrics.commit(Duration::from_micros(micros));
        }
        let text = written(&metrics);
        for line in [
            "posthaste_commit_seconds_bucket{le=\"0.0001\"} 2",
            "posthaste_commit_seconds_bucket{le=\"0.00025\"} 3",
            "posthaste_commit_seconds_bucket{le=\"10\"} 3",
            "posthaste_commit_seconds_bucket{le=\"+Inf\"} 4",
            "posthaste_commit_seconds_sum 20.000251",
            "posthaste_commit_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
