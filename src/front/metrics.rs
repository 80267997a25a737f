//! All metrics at once, for the control socket and whoever else may ask (OBS-5, OBS-6).

use super::control::Host;
use crate::clock::Timestamp;
use crate::metrics::{Kind, Text};
use crate::store::{Store, StoreError};

/// The metrics in the text format of Prometheus. Costs a few index reads, whatever waits (OBS-7).
///
/// # Errors
/// [`StoreError`].
pub fn text(store: &Store, host: &dyn Host, now: Timestamp) -> Result<String, StoreError> {
    let stats = store.stats()?;
    let mut text = Text::default();
    text.family("build_info", Kind::Gauge, "Always 1; the label says which.");
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    text.sample("build_info", &version, 1);

    let name = "queue_recipients";
    text.family(
        name,
        Kind::Gauge,
        "Recipients that are not final, by state.",
    );
    for (state, count) in [
        ("queued", stats.queued),
        ("claimed", stats.claimed),
        ("held", stats.held),
    ] {
        text.sample(name, &[("state", state)], count);
    }
    let gauges = [
        (
            "queue_messages",
            "Messages with a recipient that is not final.",
            stats.messages,
        ),
        (
            "queue_oldest_seconds",
            "Age of the oldest message with a recipient that is not final; 0 without any.",
            stats.oldest.map_or(0, |oldest| now.since(oldest).as_secs()),
        ),
        ("held", "Recipients on hold.", stats.held),
        (
            "in_doubt",
            "Recipients that may have been, or may yet be, delivered twice.",
            stats.in_doubt,
        ),
        (
            "commits_behind",
            "Requests that the store has not begun to write.",
            stats.behind,
        ),
        ("wal_bytes", "Size of the write-ahead log.", stats.wal_bytes),
        (
            "free_bytes",
            "Free space on the file system of the queue.",
            stats.free_bytes,
        ),
    ];
    for (name, help, value) in gauges {
        text.one(name, Kind::Gauge, help, value);
    }
    let counters = [
        (
            "requests_total",
            "Requests that are on disk; several may share a commit.",
            stats.requests,
        ),
        (
            "dsn_lost_total",
            "Notices to senders that reached nobody.",
            stats.notices_lost,
        ),
        (
            "dsn_withheld_total",
            "Notices to senders that dsn.per_sender withheld.",
            stats.notices_withheld,
        ),
    ];
    for (name, help, value) in counters {
        text.one(name, Kind::Counter, help, value);
    }
    store.metrics().write(&mut text);
    host.gauges(&mut text);
    Ok(text.finish())
}
