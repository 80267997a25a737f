//! `pause` and `resume` (CTL-17, SC-12).

use std::fmt;

use super::Call;
use crate::dispatch::Wake;
use crate::front::control::filter::{self, Args};
use crate::front::control::output::{Done, Record, Reply, Stop};
use crate::front::control::times;
use crate::log::Line;
use crate::policy::route;
use crate::store::{Pause, PauseScope};

pub(super) fn pause(call: &Call<'_>, mut args: Args, _: &mut Reply<'_>) -> Result<Done, Stop> {
    // Without a scope all is meant; saying so is allowed.
    let all = args.flag("all")?;
    let scope = scope(call, &mut args, true)?;
    if all && scope.is_some() {
        return Err(Stop::usage("all or a scope, not both"));
    }
    let scope = scope.unwrap_or(PauseScope::All);
    let span = args.read("for", "a duration such as 1h30m", times::duration)?;
    let reason = args.value("reason")?.unwrap_or_default();
    args.finish()?;
    if reason.len() > MAX_REASON {
        return Err(Stop::usage("the reason is too long"));
    }
    let pause = Pause {
        since: call.now,
        until: span.map(|span| call.now.plus(span)),
        reason,
    };
    call.control.store.set_pause(&scope, Some(&pause))?;
    Line::new("paused")
        .key("scope", Scope(&scope))
        .opt("until", pause.until)
        .num("uid", call.peer.uid)
        .peer("reason", &pause.reason)
        .info();
    call.control.host.wake(Wake::Everything);
    Ok(Done::Count(1, None))
}

pub(super) fn resume(call: &Call<'_>, mut args: Args, _: &mut Reply<'_>) -> Result<Done, Stop> {
    let all = args.flag("all")?;
    // A transport that has left the configuration can still be paused.
    let scope = scope(call, &mut args, false)?;
    args.finish()?;
    let scopes = match (all, scope) {
        (true, Some(_)) => return Err(Stop::usage("all or a scope, not both")),
        (true, None) => call
            .control
            .store
            .pauses()?
            .into_iter()
            .map(|(scope, _)| scope)
            .collect(),
        (false, Some(scope)) => vec![scope],
        (false, None) => vec![PauseScope::All],
    };
    let mut lifted = 0;
    for scope in scopes {
        if call.control.store.set_pause(&scope, None)? {
            lifted += 1;
            Line::new("resumed")
                .key("scope", Scope(&scope))
                .num("uid", call.peer.uid)
                .info();
        }
    }
    if lifted > 0 {
        call.control.host.wake(Wake::Everything);
    }
    Ok(Done::Count(lifted, None))
}

/// Longest reason of a pause or a hold, in octets.
pub(super) const MAX_REASON: usize = 1000;

fn scope(call: &Call<'_>, args: &mut Args, must_exist: bool) -> Result<Option<PauseScope>, Stop> {
    let transport = args.value("transport")?;
    let domain = args.read("domain", "a domain or an address literal", filter::domain)?;
    match (transport, domain) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(Stop::usage("transport or domain, not both")),
        (None, Some(domain)) => Ok(Some(PauseScope::Domain(domain))),
        (Some(name), None) => {
            if must_exist && route::find(&call.control.config.get(), &name).is_err() {
                return Err(super::no_such_transport(&name));
            }
            Ok(Some(PauseScope::Transport(name)))
        }
    }
}

/// A scope as the log and `stats` name it.
struct Scope<'a>(&'a PauseScope);

impl fmt::Display for Scope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            PauseScope::All => f.write_str("all"),
            PauseScope::Transport(name) => write!(f, "transport={name}"),
            PauseScope::Domain(name) => write!(f, "domain={name}"),
        }
    }
}

/// The pauses that are not over yet.
pub(super) fn in_force(call: &Call<'_>) -> Result<Vec<(PauseScope, Pause)>, Stop> {
    let mut pauses = call.control.store.pauses()?;
    pauses.retain(|(_, pause)| pause.until.is_none_or(|until| until > call.now));
    Ok(pauses)
}

/// A pause in `stats`.
pub(super) fn record(scope: &PauseScope, pause: &Pause) -> Record {
    Record::new()
        .text("pause", Scope(scope))
        .time("since", pause.since)
        .maybe("until", pause.until)
        .text("reason", &pause.reason)
}
