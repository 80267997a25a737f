//! What DNS knows of a host: its addresses of both families, and its TLSA records.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Walk;
use crate::config::Family;
use crate::net::deadline::Deadline;
use crate::net::dial;
use crate::net::dns::{DnsError, IpFamily, Resolver};
use crate::policy::hosts::{self, Found};
use crate::policy::plan::{Host, HostName, Missing, Reason};
use crate::policy::tls::facts::DaneFacts;
use crate::smtp::address::Domain;

/// The addresses of one host.
#[derive(Debug)]
pub(super) struct LookedUp {
    pub(super) addresses: Addresses,
    /// The end of the chain of CNAMEs.
    pub(super) expanded: Option<Domain>,
    /// All definite answers are authentic.
    pub(super) authentic: bool,
    pub(super) took: Duration,
}

impl LookedUp {
    pub(super) fn nothing() -> LookedUp {
        LookedUp {
            addresses: Addresses::NoneOfFamily,
            expanded: None,
            authentic: false,
            took: Duration::ZERO,
        }
    }
}

/// What DNS knows of a host's addresses, both families together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    Some(Vec<IpAddr>),
    /// Definitely none of any family.
    None(Missing),
    /// None of the one family that was asked for.
    NoneOfFamily,
    Unknown(Reason),
}

impl Walk {
    /// Asks for the host's addresses within `host_timeout`.
    pub(super) fn look_up(&self, host: &Host) -> LookedUp {
        let began = Instant::now();
        let deadline = Deadline::after(self.config.deliver_of(&self.line).host_timeout.get())
            .min(self.deadline);
        let mut looked_up = LookedUp::nothing();
        looked_up.addresses = match &host.name {
            HostName::Ip(ip) => Addresses::Some(vec![*ip]),
            HostName::Unix(_) => Addresses::Some(vec![dial::NO_ADDRESS.ip()]),
            HostName::Name(name) => {
                let most = if host.checked && self.plan.implicit.is_none() {
                    hosts::MAX_TARGET_CNAMES
                } else {
                    usize::MAX
                };
                self.ask(name, most, deadline, &mut looked_up)
            }
        };
        looked_up.took = began.elapsed();
        looked_up
    }

    pub(super) fn ask(
        &self,
        name: &Domain,
        most_cnames: usize,
        deadline: Deadline,
        looked_up: &mut LookedUp,
    ) -> Addresses {
        let resolver = self.network.resolver();
        let families: &[IpFamily] = match self.config.deliver_of(&self.line).family {
            Family::Only4 => &[IpFamily::V4],
            Family::Only6 => &[IpFamily::V6],
            _ => &[IpFamily::V4, IpFamily::V6],
        };
        let mut found = Vec::new();
        let mut error: Option<DnsError> = None;
        looked_up.authentic = true;
        for family in families {
            let deadline = if found.is_empty() {
                deadline
            } else {
                // A family that DNS is silent about must not use up the time of the one that is known (DV-7).
                Deadline::after(self.config.deliver_of(&self.line).host_timeout.get() / 4)
                    .min(deadline)
            };
            match resolver.addresses(name, *family, deadline) {
                Ok(answer) if answer.cnames > most_cnames => {
                    return Addresses::Unknown(Reason::Dns(format!("{} CNAMEs", answer.cnames)));
                }
                Ok(answer) => match answer.found {
                    Found::Records(records) => {
                        found.extend(records);
                        looked_up.authentic &= answer.authentic;
                        looked_up.expanded = Domain::parse(&answer.expanded).ok();
                    }
                    // The name itself does not exist, whatever the family. Some servers say so wrongly of AAAA, which
                    // is therefore asked for last and believed only about itself.
                    Found::Missing(Missing::NxDomain) if *family == IpFamily::V4 => {
                        return Addresses::None(Missing::NxDomain);
                    }
                    Found::Missing(_) => {}
                },
                Err(e) => error = Some(e),
            }
        }
        match error {
            _ if !found.is_empty() => Addresses::Some(found),
            Some(error) if error.is_local() => {
                Addresses::Unknown(Reason::Resolver(error.to_string()))
            }
            Some(error) => Addresses::Unknown(Reason::Dns(error.to_string())),
            None if families.len() == 1 => Addresses::NoneOfFamily,
            None => Addresses::None(Missing::NoData),
        }
    }
}

/// The TLSA records under one name.
pub(super) fn tlsa_at(
    resolver: &Resolver,
    base: &Domain,
    port: u16,
    deadline: Deadline,
) -> DaneFacts {
    // A name that is too long with its prefix cannot have records (DV-5).
    if Domain::parse(&format!("_{port}._tcp.{base}")).is_err() {
        return DaneFacts::Nothing;
    }
    match resolver.tlsa(base, port, deadline) {
        Ok(answer) if answer.cnames > hosts::MAX_TARGET_CNAMES => {
            DaneFacts::Failed(format!("{} CNAMEs", answer.cnames))
        }
        // RFC 7672 §2.2: what is not authentic counts as if it were not there.
        Ok(answer) if !answer.authentic => DaneFacts::Nothing,
        Ok(answer) => match answer.found {
            Found::Records(records) => DaneFacts::Records {
                base: base.clone(),
                records,
            },
            Found::Missing(_) => DaneFacts::Nothing,
        },
        Err(error) => DaneFacts::Failed(error.to_string()),
    }
}
