//! Connections to other hosts, and what they carried.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Kind, Metrics, Text, load};

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialled {
    /// It became a session.
    Opened,
    /// It did not, but there was one.
    Failed,
    /// There was none.
    Unreached,
}

#[derive(Debug, Default)]
pub(super) struct SessionCounters {
    connections: [AtomicU64; 3],
    /// Transactions on fresh sessions and on used ones.
    transactions: [AtomicU64; 2],
}

impl Metrics {
    /// A host was dialled.
    pub fn dialled(&self, result: Dialled) {
        self.0.sessions.connections[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A transaction was begun, on a session that had carried one before or not.
    pub fn transaction(&self, reused: bool) {
        self.0.sessions.transactions[usize::from(reused)].fetch_add(1, Ordering::Relaxed);
    }
}

impl SessionCounters {
    pub(super) fn write(&self, text: &mut Text) {
        let name = "connections_total";
        text.family(
            name,
            Kind::Counter,
            "Connections to other hosts, by what became of them.",
        );
        for (result, count) in ["opened", "failed", "unreached"]
            .iter()
            .zip(&self.connections)
        {
            text.sample(name, &[("result", result)], load(count));
        }
        let name = "transactions_total";
        text.family(
            name,
            Kind::Counter,
            "Transactions with other hosts, on new and on reused sessions.",
        );
        for (session, count) in ["new", "reused"].iter().zip(&self.transactions) {
            text.sample(name, &[("session", session)], load(count));
        }
    }
}
