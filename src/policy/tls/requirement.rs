//! What one host must reach, and whether what was reached is enough.

use std::fmt;

use super::facts::MemoryFacts;
use super::report::Applied;
use super::{Conditions, Encryption, NOT_ENOUGH, NOT_OFFERED, Reached, Source, skip};
use crate::config::TlsWanted;
use crate::policy::failure::Failure;

/// What one host must reach, and why.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// What must hold.
    pub conditions: Conditions,
    /// Clear text may follow a TLS that fails (TLS-4).
    pub fallback: bool,
    /// The peer must take REQUIRETLS.
    pub requiretls: bool,
    /// Whose policy it is, for reports (RFC 8460 §4.4).
    pub applied: Applied,
    pub(super) wanted: TlsWanted,
    pub(super) sources: Vec<Source>,
    pub(super) memory: MemoryFacts,
}

impl Requirement {
    /// Whether what was reached is enough to go on to MAIL (TLS-3, SEC-8).
    ///
    /// # Errors
    /// The failure of this host: temporary 4.7.4 or 4.7.5.
    pub fn judge(&self, reached: &Reached) -> Result<(), Failure> {
        let conditions = &self.conditions;
        if !reached.encrypted {
            return match conditions.encryption {
                Encryption::Required => Err(self.not_offered()),
                Encryption::Never | Encryption::IfOffered => Ok(()),
            };
        }
        if conditions.by_dane
            && let Some(fault) = match &reached.dane {
                Some(Ok(())) => None,
                Some(Err(fault)) => Some(fault.text.as_str()),
                None => Some("nothing was compared"),
            }
        {
            return Err(self.not_enough(&format!("the certificate does not match DNS: {fault}")));
        }
        if conditions.by_name
            && let Err(fault) = &reached.name
        {
            return Err(self.not_enough(&format!("bad certificate: {}", fault.text)));
        }
        Ok(())
    }

    /// What it means that STARTTLS or the handshake failed, where clear text may not follow (TLS-3): temporary for this
    /// host, whatever it said.
    #[must_use]
    pub fn explain(&self, failure: Failure) -> Failure {
        Failure {
            code: failure.code,
            cause: failure.cause,
            ..match failure.status {
                NOT_OFFERED => self.not_offered(),
                _ => self.not_enough(&failure.text),
            }
        }
    }

    /// TLS is required and the host does not offer it.
    pub fn not_offered(&self) -> Failure {
        skip(
            NOT_OFFERED,
            format!("STARTTLS is not offered; {}", self.reason()),
        )
    }

    /// TLS came to nothing, or to too little; `what` in words.
    pub fn not_enough(&self, what: &str) -> Failure {
        skip(NOT_ENOUGH, format!("{what}; {}", self.reason()))
    }

    /// Why, in words for a notice.
    fn reason(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        for source in &self.sources {
            texts.push(match source {
                Source::Level | Source::Policy
                    if matches!(self.wanted, TlsWanted::Never | TlsWanted::Opportunistic) =>
                {
                    continue;
                }
                Source::Waived => continue,
                Source::Level => "this host requires it".to_string(),
                Source::Policy => "this host requires it of the domain".to_string(),
                Source::Transport => "the transport requires it".to_string(),
                Source::Memory => {
                    let level = self.memory.level();
                    format!("the domain was {level} before")
                }
                Source::Sts => "the domain's MTA-STS policy requires it".to_string(),
                Source::Dane => "the host's TLSA records require it".to_string(),
                Source::RequireTls => "the sender requires it".to_string(),
            });
        }
        if texts.is_empty() {
            // Offered, failed, and `tls.fallback` forbids clear text.
            return "clear text is not permitted (tls.fallback)".to_string();
        }
        texts.join(", ")
    }

    /// Whether this source is among those that ask.
    pub fn is_asked_by(&self, source: Source) -> bool {
        self.sources.contains(&source)
    }

    /// The level that is required, in the words of the configuration.
    pub fn level(&self) -> &'static str {
        let conditions = &self.conditions;
        match conditions.encryption {
            _ if conditions.by_dane => "dane",
            _ if conditions.by_name => "verify",
            Encryption::Required => "encrypt",
            Encryption::IfOffered => "opportunistic",
            Encryption::Never => "none",
        }
    }
}

/// As log and history show it: `LEVEL:SOURCE+SOURCE`; the default alone has no source.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.level())?;
        let asking = |source: &&Source| match source {
            Source::Level => self.wanted != TlsWanted::Opportunistic,
            _ => true,
        };
        for (n, source) in self.sources.iter().filter(asking).enumerate() {
            write!(f, "{}{source}", if n == 0 { ":" } else { "+" })?;
        }
        Ok(())
    }
}
