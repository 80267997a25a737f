//! What TLS a host must reach, and why (TLS-1 to TLS-7, TLS-12, TLS-13, STS-7 to STS-9, DANE-1 to DANE-6). Pure.
//!
//! # Who does what
//!
//! ```text
//! facts                                   judgement                          mechanism
//! config::Tls, [[tls_policy]] ──► Ask::of ───┐
//! StsFacts     (delivery::sts: TXT, cache) ──┤
//! MemoryFacts  (store: tls_memory)  ─────────┴─► Ask::learn ─► Course       one per attempt and domain
//! DaneFacts    (net::walk: TLSA) ──────────────► Course::host ─► Requirement   one per host, or the host is skipped
//!                                                 Requirement ────────────► net::tls: handshake ─► Reached
//!                                                 Requirement::judge(&Reached)   go on, or skip the host
//! ```
//!
//! Nothing else judges. `net::tls` says what was reached and knows no requirement beyond what it has to compare with;
//! `delivery` carries facts and failures about. The operator's `explain` and `tlsinfo` ask the same functions.
//!
//! # Levels are no ladder
//!
//! A session *reaches* one of [`TlsLevel`], which is what log and history show. What is *required* is a set of
//! [`Conditions`] that must all hold: TLS at all, a certificate for one of some names, a TLSA record that matches. A
//! certificate may match its TLSA record and carry no name that an MTA-STS policy could accept, and the other way round;
//! neither makes up for the other (DANE-6, RFC 8461 §2). Where several sources ask for something, all of it is asked for:
//! that is how the strictest wins (TLS-1). Two sources can be met by either kind of proof: memory, for which DANE is
//! more than a name, and REQUIRETLS, which takes usable DANE or an MTA-STS policy in mode enforce (RFC 8689 §4.2.1).
//!
//! | source                         | asks for                                                       | forbids clear text |
//! |--------------------------------|----------------------------------------------------------------|--------------------|
//! | `tls.level`, `[[tls_policy]]`  | what the word says                                             | from encrypt on    |
//! | relay transport, in their place | a certificate for the host's name; what its keys say           | unless tls = none  |
//! | memory                         | TLS, or a verified peer                                        | yes                |
//! | MTA-STS enforce                | a listed host, a certificate for its name                      | yes                |
//! | MTA-STS testing                | nothing; what enforce would refuse is reported                 | no                 |
//! | DANE, a usable record          | one record that matches                                        | yes                |
//! | DANE, none of them usable      | TLS                                                            | yes                |
//! | DANE, lookup failed            | the host is skipped                                            | yes                |
//! | REQUIRETLS                     | DANE or MTA-STS enforce, and the peer's REQUIRETLS             | yes                |
//! | `TLS-Required: No`             | lets MTA-STS, DANE and memory go; not the operator's own words | no                 |
//!
//! `[[tls_policy]]` stands in the place of `tls.level`, memory and MTA-STS; what DANE asks for it does not take away,
//! but for `none`, which means no TLS. REQUIRETLS overrides that too, and looks at MTA-STS again.
//!
//! # For those who add a source
//!
//! Facts are plain data made by somebody who does the I/O; each has a value for "nothing is known", which asks for
//! nothing. A lookup that failed is a fact of its own and never "nothing" (STS-3, DANE-3). Reasons are texts for the
//! postmaster who reads them in a notice: they name the source and what was found.

pub mod facts;
pub mod report;
mod requirement;

pub use requirement::Requirement;

use std::fmt;
use std::sync::Arc;

use crate::config::{Relay, RelayTls, TlsMemory, TlsPolicy, TlsWanted};
use crate::message::RequireTls;
use crate::policy::failure::{Cause, Failure, Retry, Scope, Stage, TlsLevel};
use crate::policy::plan::HostName;
use crate::smtp::address::{AddressDomain, Domain};
use crate::smtp::reply::EnhancedCode;

use facts::{DaneFacts, MemoryFacts, StsFacts, StsMode, StsPolicy, Tlsa};
use report::Applied;

/// TLS is required and not offered (TLS-3; RFC 5248: X.7.4, security features not supported).
pub const NOT_OFFERED: EnhancedCode = EnhancedCode::new(4, 7, 4);

/// TLS is required and what came of it is not enough (TLS-3; RFC 5248: X.7.5, cryptographic failure).
pub const NOT_ENOUGH: EnhancedCode = EnhancedCode::new(4, 7, 5);

/// REQUIRETLS cannot be met (RFC 8689 §4.2.1).
pub const REQUIRETLS: EnhancedCode = EnhancedCode::new(5, 7, 30);

/// Who asks for it. The order is that of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// `tls.level`
    Level,
    /// `[[tls_policy]]`
    Policy,
    /// The relay transport.
    Transport,
    /// What the domain once reached.
    Memory,
    /// MTA-STS in mode enforce.
    Sts,
    /// TLSA records.
    Dane,
    /// REQUIRETLS.
    RequireTls,
    /// `TLS-Required: No`.
    Waived,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Level => "tls.level",
            Source::Policy => "tls_policy",
            Source::Transport => "transport",
            Source::Memory => "memory",
            Source::Sts => "mta-sts",
            Source::Dane => "dane",
            Source::RequireTls => "requiretls",
            Source::Waived => "tls-required-no",
        })
    }
}

/// What to do about STARTTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encryption {
    /// No TLS.
    Never,
    /// When it is offered.
    IfOffered,
    /// No session without.
    Required,
}

/// What must hold of a session. Sessions are shared only between equal conditions (CL-25, SEC-8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conditions {
    /// TLS at all.
    pub encryption: Encryption,
    /// The certificate must be for one of `names`.
    pub by_name: bool,
    /// One of the TLSA records must match.
    pub by_dane: bool,
    /// Names that count as the peer's: compared in any case, because the level reached tells of it (TLS-1).
    pub names: Vec<HostName>,
    /// The TLSA records and the names for usage 2.
    pub dane: Option<Arc<DaneSet>>,
    /// The name in SNI (TLS-14); `None` for addresses, which SNI does not know (RFC 6066 §3).
    pub sni: Option<Domain>,
}

/// What the peer's chain is compared with (DANE-5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DaneSet {
    /// Usable records.
    pub records: Vec<Tlsa>,
    /// Host, its expansion, next hop, its expansion; for usage 2.
    pub names: Vec<HostName>,
}

/// What a handshake found out (by `net::tls`); compared with the requirement by [`Requirement::judge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Whether there is TLS at all.
    pub encrypted: bool,
    /// Whether the chain verifies and is for one of [`Conditions::names`].
    pub name: Result<(), Fault>,
    /// The same for [`Conditions::dane`]; `None` where nothing was compared.
    pub dane: Option<Result<(), Fault>>,
    /// Protocol and cipher, for the record; empty without TLS.
    pub protocol: String,
}

/// What is wrong with the peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its kind in reports (RFC 8460 §4.3).
    pub kind: report::Kind,
    /// In words.
    pub text: String,
}

impl Reached {
    /// A session in clear.
    pub fn plain() -> Reached {
        Reached {
            encrypted: false,
            name: Err(Fault {
                kind: report::Kind::StartTlsNotSupported,
                text: "no TLS".to_string(),
            }),
            dane: None,
            protocol: String::new(),
        }
    }

    /// The level (TLS-1). What DANE proves counts for more than a name.
    pub fn level(&self) -> TlsLevel {
        match (self.encrypted, &self.dane, &self.name) {
            (false, ..) => TlsLevel::Plain,
            (true, Some(Ok(())), _) => TlsLevel::Dane,
            (true, _, Ok(())) => TlsLevel::Verified,
            (true, ..) => TlsLevel::Encrypted,
        }
    }
}

/// Which facts an attempt needs, before any is known. Made of the configuration and the message alone.
#[derive(Clone, Debug)]
pub struct Ask {
    /// MTA-STS is to be looked up.
    pub sts: bool,
    /// Memory is to be looked up.
    pub memory: bool,
    /// TLSA records are to be looked up.
    pub dane: bool,
    wanted: TlsWanted,
    names: Vec<HostName>,
    source: Source,
    held: TlsMemory,
    fallback: bool,
    require: RequireTls,
}

impl Ask {
    /// For mail to `domain` that goes straight to its hosts. `sts`: MTA-STS is on.
    pub fn of(
        tls: &crate::config::Tls,
        policies: &[TlsPolicy],
        sts: bool,
        domain: &AddressDomain,
        require: RequireTls,
    ) -> Ask {
        let row = TlsPolicy::first_of(policies, domain);
        let (wanted, source) = match row {
            Some(row) => (row.level, Source::Policy),
            None => (tls.level, Source::Level),
        };
        let names = row.map_or(&[][..], |row| &row.names);
        // DV-11: an address has neither MTA-STS nor DANE, and memory is per domain.
        let name = matches!(domain, AddressDomain::Name(_));
        let waived = require == RequireTls::No;
        let required = require == RequireTls::Yes;
        let never = row.is_some() && wanted == TlsWanted::Never && !required;
        Ask {
            sts: sts && name && !waived && (required || row.is_none()),
            memory: tls.memory != TlsMemory::Off && name && !waived && row.is_none(),
            dane: (tls.dane || wanted == TlsWanted::Dane) && name && !waived && !never,
            wanted,
            names: names.iter().cloned().map(HostName::Name).collect(),
            source,
            held: tls.memory,
            fallback: tls.fallback,
            require,
        }
    }

    /// For mail that goes through a relay transport, which has words of its own about TLS (RO-6): neither what `[tls]`
    /// says nor what DNS says counts there.
    ///
    /// # Errors
    /// The message's failure: it requires what the transport does not give (RO-12).
    pub fn relay(relay: &Relay, require: RequireTls) -> Result<Ask, Failure> {
        let required = require == RequireTls::Yes;
        if required && !relay.verifies() {
            return Err(Failure {
                retry: Retry::Never,
                scope: Scope::Destination,
                stage: Stage::Route,
                ..skip(
                    REQUIRETLS,
                    "REQUIRETLS cannot be met through this transport, which does not verify TLS"
                        .to_string(),
                )
            });
        }
        Ok(Ask {
            sts: false,
            memory: false,
            dane: false,
            wanted: match relay.tls {
                Some(RelayTls::None) => TlsWanted::Never,
                _ if relay.danger_accept_invalid_certs => TlsWanted::Encrypt,
                _ => TlsWanted::Verify,
            },
            names: Vec::new(),
            source: Source::Transport,
            held: TlsMemory::Off,
            fallback: false,
            require,
        })
    }

    /// With the facts of the domain; those that were not asked for count as nothing.
    ///
    /// # Errors
    /// The failure of the whole attempt: the policy is unknown for now (STS-3).
    pub fn learn(self, sts: StsFacts, memory: MemoryFacts) -> Result<Course, Failure> {
        let sts = match sts {
            _ if !self.sts => None,
            StsFacts::Nothing => None,
            StsFacts::Policy(policy) => Some(policy),
            StsFacts::Unknown(ref why) | StsFacts::Local(ref why) => {
                return Err(Failure {
                    scope: match sts {
                        StsFacts::Local(_) => Scope::Local,
                        _ => Scope::Destination,
                    },
                    stage: Stage::Dns,
                    cause: Cause::Dns,
                    ..skip(EnhancedCode::new(4, 4, 3), format!("MTA-STS: {why}"))
                });
            }
        };
        let memory = if self.memory {
            memory
        } else {
            MemoryFacts::nothing()
        };
        Ok(Course {
            ask: self,
            sts,
            memory,
        })
    }
}

/// What holds for all hosts of an attempt.
#[derive(Clone, Debug)]
pub struct Course {
    ask: Ask,
    sts: Option<Arc<StsPolicy>>,
    memory: MemoryFacts,
}

/// The names by which a host goes, for DANE (DANE-5) and SNI.
#[derive(Clone, Debug)]
pub struct HostNames {
    /// As the MX record, the relay or the literal names it.
    pub host: HostName,
    /// The end of its chain of CNAMEs.
    pub expanded: Option<Domain>,
    /// The recipients' domain and the end of its chain of CNAMEs; none for relays and literals.
    pub next_hop: Vec<Domain>,
}

impl Course {
    /// Whether TLSA records are wanted at all.
    pub fn wants_dane(&self) -> bool {
        self.ask.dane
    }

    /// Whether an MTA-STS policy in mode enforce is behind it, so that it is worth asking for a newer one before the last
    /// attempt (STS-8).
    pub fn enforces_sts(&self) -> bool {
        self.sts
            .as_ref()
            .is_some_and(|policy| policy.mode == StsMode::Enforce)
    }

    /// What this host must reach.
    ///
    /// # Errors
    /// It is not to be dialled, and this is its failure: temporary 4.7.5; for REQUIRETLS, if nothing vouches for the
    /// host, permanent 5.7.30, which counts if all hosts say so.
    pub fn host(&self, names: &HostNames, dane: &DaneFacts) -> Result<Requirement, Failure> {
        let ask = &self.ask;
        let mut wanted = ask.wanted;
        let mut sources = vec![ask.source];
        if ask.require == RequireTls::No {
            sources.push(Source::Waived);
        }
        if ask.require == RequireTls::Yes {
            // SEC-8: whatever else is said, it needs TLS.
            if wanted == TlsWanted::Never {
                wanted = TlsWanted::Opportunistic;
            }
            sources.push(Source::RequireTls);
        }
        let mut conditions = Conditions {
            encryption: match wanted {
                TlsWanted::Never => Encryption::Never,
                TlsWanted::Opportunistic => Encryption::IfOffered,
                TlsWanted::Encrypt | TlsWanted::Verify | TlsWanted::Dane => Encryption::Required,
            },
            by_name: wanted == TlsWanted::Verify,
            by_dane: false,
            names: vec![names.host.clone()],
            dane: None,
            sni: match &names.host {
                HostName::Name(name) => Some(name.clone()),
                HostName::Ip(_) | HostName::Unix(_) => None,
            },
        };
        if !ask.names.is_empty() {
            conditions.names.clone_from(&ask.names);
        }
        let mut applied = Applied::NoPolicy;

        if let Some(policy) = &self.sts {
            applied = Applied::Sts(Arc::clone(policy));
            if policy.mode == StsMode::Enforce {
                // STS-8: hosts that are not listed are never dialled.
                if !policy.lists(&names.host) {
                    return Err(skip(
                        NOT_ENOUGH,
                        format!("the MTA-STS policy does not list {}", names.host),
                    ));
                }
                conditions.encryption = Encryption::Required;
                conditions.by_name = true;
                conditions.names = vec![names.host.clone()];
                sources.push(Source::Sts);
            }
        }

        let dane = if ask.dane { dane } else { &DaneFacts::Insecure };
        match dane {
            DaneFacts::Insecure | DaneFacts::Nothing => {}
            DaneFacts::Failed(why) => {
                return Err(skip(
                    NOT_ENOUGH,
                    format!("the TLSA records of {} are not known: {why}", names.host),
                ));
            }
            DaneFacts::Records { base, records } => {
                // DANE-4: the records alone say that there is TLS.
                conditions.encryption = Encryption::Required;
                conditions.sni = Some(base.clone());
                sources.push(Source::Dane);
                applied = Applied::Tlsa {
                    base: Some(base.clone()),
                    records: Arc::from(records.as_slice()),
                };
                let usable: Vec<Tlsa> = records.iter().filter(|r| r.is_usable()).cloned().collect();
                if !usable.is_empty() {
                    conditions.by_dane = true;
                    conditions.dane = Some(Arc::new(DaneSet {
                        records: usable,
                        names: names.for_dane(),
                    }));
                }
            }
        }
        if wanted == TlsWanted::Dane && !conditions.by_dane {
            return Err(skip(
                NOT_ENOUGH,
                format!(
                    "{} has no usable TLSA record, and DANE is required",
                    names.host
                ),
            ));
        }
        if ask.require == RequireTls::Yes {
            // RFC 8689 §4.2.1: a name from DNSSEC or from an MTA-STS policy.
            // Through a relay the operator vouches for its name (RO-12).
            let vouched = sources.contains(&Source::Sts) || sources.contains(&Source::Transport);
            if !conditions.by_dane && !vouched {
                return Err(Failure {
                    retry: Retry::Never,
                    ..skip(
                        REQUIRETLS,
                        format!(
                            "REQUIRETLS: neither DANE nor an enforced MTA-STS policy vouches for {}",
                            names.host
                        ),
                    )
                });
            }
            conditions.encryption = Encryption::Required;
        }
        self.remember(&mut conditions, &mut sources);
        sources.sort_unstable();
        Ok(Requirement {
            fallback: ask.fallback && conditions.encryption == Encryption::IfOffered,
            requiretls: ask.require == RequireTls::Yes,
            conditions,
            applied,
            wanted,
            sources,
            memory: self.memory,
        })
    }

    /// For reports: whose policy keeps a host from being dialled, and how it says so; `None` where it is the message's own
    /// wish.
    pub fn skipped(&self, names: &HostNames, dane: &DaneFacts) -> Option<(Applied, report::Kind)> {
        if let DaneFacts::Failed(_) = dane
            && self.ask.dane
        {
            let applied = Applied::Tlsa {
                base: match &names.host {
                    HostName::Name(name) => Some(name.clone()),
                    HostName::Ip(_) | HostName::Unix(_) => None,
                },
                records: Arc::default(),
            };
            return Some((applied, report::Kind::DnssecInvalid));
        }
        if let Some(policy) = &self.sts
            && policy.mode == StsMode::Enforce
            && !policy.lists(&names.host)
        {
            let applied = Applied::Sts(Arc::clone(policy));
            return Some((applied, report::Kind::ValidationFailure));
        }
        if self.ask.wanted != TlsWanted::Dane {
            return None;
        }
        match dane {
            DaneFacts::Records { records, .. } if records.iter().any(Tlsa::is_usable) => None,
            DaneFacts::Records { base, records } => {
                let applied = Applied::Tlsa {
                    base: Some(base.clone()),
                    records: Arc::from(records.as_slice()),
                };
                Some((applied, report::Kind::DaneRequired))
            }
            _ => Some((Applied::NoPolicy, report::Kind::DaneRequired)),
        }
    }

    /// TLS-5: what the domain once reached it must reach again.
    fn remember(&self, conditions: &mut Conditions, sources: &mut Vec<Source>) {
        let verified = self.memory.verified.is_some() && self.ask.held == TlsMemory::Verification;
        let encrypted = self.memory.encrypted.is_some() && self.ask.held != TlsMemory::Off;
        if encrypted && conditions.encryption != Encryption::Required {
            conditions.encryption = Encryption::Required;
            sources.push(Source::Memory);
        }
        // DANE is more than a name: a domain that moves to it need not keep its old certificate.
        if verified && !conditions.by_name && !conditions.by_dane {
            conditions.by_name = true;
            sources.push(Source::Memory);
        }
        sources.dedup();
    }
}

impl HostNames {
    /// DANE-5, RFC 7672 §3.2.2.
    fn for_dane(&self) -> Vec<HostName> {
        let mut names = vec![self.host.clone()];
        for name in self.expanded.iter().chain(&self.next_hop) {
            let name = HostName::Name(name.clone());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// A host that is not to be used now.
fn skip(status: EnhancedCode, text: String) -> Failure {
    Failure {
        retry: Retry::Later,
        scope: Scope::Host,
        stage: Stage::StartTls,
        cause: Cause::Tls,
        code: None,
        status,
        text: text.chars().take(1000).collect(),
        may_be_sent_twice: false,
    }
}

#[cfg(test)]
mod tests;
