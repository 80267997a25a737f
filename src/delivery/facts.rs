//! The seams for what others find out about a domain's TLS, and for what they make of what was seen.
//!
//! Whoever fetches MTA-STS policies implements [`StsSource`], whoever writes TLS reports [`TlsReports`]; both are handed
//! to the workers in [`Tools::tls`](super::Tools::tls). Until then nothing is known and nobody listens.

use std::sync::Arc;

use crate::message::QueueId;
use crate::net::deadline::Deadline;
use crate::policy::tls::facts::StsFacts;
use crate::policy::tls::report::Seen;
use crate::smtp::address::{Domain, Mailbox};

/// Knows the MTA-STS policies of domains.
pub trait StsSource: Send + Sync {
    /// The policy in force for a domain. May ask DNS, and fetch what is not in the cache (STS-3, STS-4); blocks until
    /// `deadline` at the latest, and says [`StsFacts::Unknown`] or [`StsFacts::Local`] only where nobody may be dialled.
    fn policy(&self, domain: &Domain, deadline: Deadline) -> StsFacts;

    /// The hosts that the policy permits have all failed: it may have changed, and the next attempt shall know (STS-8).
    /// Does not block.
    fn all_failed(&self, domain: &Domain);
}

/// Takes what attempts see of other hosts' TLS (RPT-1).
pub trait TlsReports: Send + Sync {
    /// One session, or one host that got none. Does not block.
    fn seen(&self, seen: Seen);
}

/// Takes mail of our own making: reports. It lies behind a door, so whoever opens the doors implements it.
pub trait Outbox: Send + Sync {
    /// Whether mail from this domain is signed with DKIM when it is taken. Reports that are not are ignored by those who
    /// get them (RFC 8460 §3).
    fn signs_for(&self, domain: &Domain) -> bool;

    /// Queues a report from nobody to this address; on return it is committed. `content` has CRLF line ends.
    ///
    /// # Errors
    /// Why not, in words; nothing is queued, ask again later.
    fn queue(&self, to: &Mailbox, content: &[u8]) -> Result<QueueId, String>;
}

/// MTA-STS and reports.
#[derive(Clone)]
pub struct TlsSeams {
    /// MTA-STS.
    pub sts: Arc<dyn StsSource>,
    /// Reports.
    pub reports: Arc<dyn TlsReports>,
}

/// Nothing is known, and nobody listens.
impl Default for TlsSeams {
    fn default() -> TlsSeams {
        TlsSeams {
            sts: Arc::new(Nobody),
            reports: Arc::new(Nobody),
        }
    }
}

struct Nobody;

impl StsSource for Nobody {
    fn policy(&self, _: &Domain, _: Deadline) -> StsFacts {
        StsFacts::Nothing
    }

    fn all_failed(&self, _: &Domain) {}
}

impl TlsReports for Nobody {
    fn seen(&self, _: Seen) {}
}
