//! Counters of TLS toward other hosts (OBS-6). Every label is one of a few words.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Kind, Text};
use crate::policy::failure::TlsLevel;

/// What a host's TLSA records came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DaneResult {
    /// One matched.
    Verified = 0,
    /// There were only unusable ones, and TLS.
    Unusable = 1,
    /// None matched, or there was no TLS.
    Failed = 2,
    /// They could not be looked up.
    Lookup = 3,
}

/// What a message's own wish came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequireTlsResult {
    /// REQUIRETLS was handed on.
    Sent = 0,
    /// REQUIRETLS kept a host from being used.
    Refused = 1,
    /// `TLS-Required: No` let an attempt go without what domains ask for.
    Waived = 2,
}

#[derive(Debug, Default)]
pub(super) struct TlsCounters {
    level: [AtomicU64; 4],
    fallback: AtomicU64,
    injection: AtomicU64,
    memory: [AtomicU64; 2],
    dane: [AtomicU64; 4],
    requiretls: [AtomicU64; 3],
    /// Mode testing or enforce, then failed or met.
    sts: [[AtomicU64; 2]; 2],
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl super::Metrics {
    /// A session was opened at this level.
    pub fn tls(&self, level: TlsLevel) {
        add(&self.0.tls.level[level as usize]);
    }

    /// TLS failed, and clear text follows (TLS-4).
    pub fn tls_fallback(&self) {
        add(&self.0.tls.fallback);
    }

    /// Something came between STARTTLS and the handshake (TLS-8).
    pub fn tls_injection(&self) {
        add(&self.0.tls.injection);
    }

    /// A host was held to what its domain once reached.
    pub fn tls_memory(&self, passed: bool) {
        add(&self.0.tls.memory[usize::from(passed)]);
    }

    /// A host has TLSA records.
    pub fn dane(&self, result: DaneResult) {
        add(&self.0.tls.dane[result as usize]);
    }

    /// A message wished something of TLS.
    pub fn requiretls(&self, result: RequireTlsResult) {
        add(&self.0.tls.requiretls[result as usize]);
    }

    /// A host was held against an MTA-STS policy.
    pub fn sts(&self, enforce: bool, met: bool) {
        add(&self.0.tls.sts[usize::from(enforce)][usize::from(met)]);
    }
}

impl TlsCounters {
    pub(super) fn write(&self, text: &mut Text) {
        let family = |text: &mut Text, name, help, label, words: &[&str], counts: &[AtomicU64]| {
            text.family(name, Kind::Counter, help);
            for (word, count) in words.iter().zip(counts) {
                text.sample(name, &[(label, word)], super::load(count));
            }
        };
        family(
            text,
            "tls_total",
            "Sessions opened to other hosts, by what TLS reached.",
            "level",
            &["plain", "encrypted", "verified", "dane"],
            &self.level,
        );
        text.one(
            "tls_fallback_total",
            Kind::Counter,
            "Hosts that were spoken to in clear because their TLS failed.",
            super::load(&self.fallback),
        );
        text.one(
            "tls_injection_total",
            Kind::Counter,
            "Sessions in which something came between STARTTLS and the handshake.",
            super::load(&self.injection),
        );
        family(
            text,
            "tls_memory_total",
            "Hosts held to what their domain once reached.",
            "result",
            &["fail", "pass"],
            &self.memory,
        );
        family(
            text,
            "dane_total",
            "Hosts with TLSA records, by what came of them.",
            "result",
            &["verified", "unusable", "failed", "lookup"],
            &self.dane,
        );
        family(
            text,
            "requiretls_total",
            "Messages with a wish of their own: handed on, hosts refused for it, requirements of domains waived.",
            "result",
            &["sent", "refused", "waived"],
            &self.requiretls,
        );
        let name = "sts_total";
        text.family(
            name,
            Kind::Counter,
            "Hosts held against an MTA-STS policy, by mode and result.",
        );
        for (mode, counts) in ["testing", "enforce"].iter().zip(&self.sts) {
            for (result, count) in ["failed", "met"].iter().zip(counts) {
                let labels = [("mode", *mode), ("result", *result)];
                text.sample(name, &labels, super::load(count));
            }
        }
    }
}
