//! `domains` (CTL-16).

use std::collections::BTreeSet;

use super::{Call, no_such_transport};
use crate::clock::Timestamp;
use crate::config::{Span, TransportKind};
use crate::dispatch::Known;
use crate::front::control::filter::Args;
use crate::front::control::output::{Done, Record, Reply, Stop};
use crate::log::Line;
use crate::policy::route::{self, direct_destination, named_destination};
use crate::smtp::address::AddressDomain;
use crate::store::{DestinationKey, QueuedAt};

/// Recipients that are counted at one destination, of those that are due and of the others.
const MOST: usize = 10_000;

/// Destinations that are listed because they have mail alone, those first that have some due first.
const OTHERS: usize = 1000;

const STATES: [&str; 3] = ["ok", "dead", "broken"];

pub(super) fn domains(
    call: &Call<'_>,
    mut args: Args,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let domain = args.read("domain", "a domain or an address literal", |text| {
        AddressDomain::parse(text).ok()
    })?;
    let transport = args.value("transport")?;
    let set = args.read("set", "a number from 1", |text| {
        text.parse().ok().filter(|number| *number > 0)
    })?;
    let pin = args.flag("pin")?;
    let clear = args.flag("clear")?;
    let state = args.read("state", "ok, dead or broken", |text| {
        STATES.into_iter().find(|state| *state == text)
    })?;
    args.finish()?;
    if state.is_some() && (set.is_some() || pin || clear) {
        return Err(Stop::usage("state is for listing"));
    }
    let key = match (domain, transport) {
        // What is remembered of a transport that is gone can still be forgotten.
        (None, Some(name)) if clear => Some(named_destination(&name)),
        (domain, Some(name)) => Some(by_transport(call, &name, domain.as_ref())?),
        (Some(domain), None) => Some(direct_destination(&domain)),
        (None, None) => None,
    };
    match (key, set.is_some() || pin, clear) {
        (key, false, false) => list(call, key.as_ref(), state, reply),
        (Some(key), true, false) => set_window(call, &key, set, pin),
        (Some(key), false, true) => clear_window(call, &key),
        (Some(_), true, true) => Err(Stop::usage("set and pin, or clear")),
        (None, ..) => Err(Stop::usage(
            "set, pin and clear need a destination: domain=D or transport=T",
        )),
    }
}

/// Where a transport takes mail, or mail of this domain.
fn by_transport(
    call: &Call<'_>,
    name: &str,
    domain: Option<&AddressDomain>,
) -> Result<DestinationKey, Stop> {
    let config = call.control.config.get();
    let way = route::find(&config, name).map_err(|_| no_such_transport(name))?;
    match (way.kind(), domain) {
        (TransportKind::Direct, Some(domain)) => Ok(way.destination(domain)),
        (TransportKind::Direct, None) => Err(Stop::usage(format!(
            "transport {name} has a destination for each domain: which? domain=D"
        ))),
        (_, None) => Ok(named_destination(name)),
        (_, Some(_)) => Err(Stop::usage(format!(
            "transport {name} is one destination, whatever the domain: leave domain out"
        ))),
    }
}

fn list(
    call: &Call<'_>,
    key: Option<&DestinationKey>,
    state: Option<&str>,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let control = call.control;
    let mut all = control.host.known(key);
    if key.is_none() {
        // Others that have mail: nothing is known of them but that.
        let listed: BTreeSet<DestinationKey> = all.iter().map(|one| one.key.clone()).collect();
        let with_mail = control
            .store
            .due_destinations(Timestamp::MAX, None, OTHERS)?;
        let others = with_mail
            .into_iter()
            .filter(|one| !listed.contains(&one.key));
        for other in others {
            let known = control.host.known(Some(&other.key));
            all.extend(known.into_iter().filter(|one| one.key == other.key));
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
    }
    all.retain(|known| state.is_none_or(|state| state_of(known) == state));
    for known in &all {
        let queued = control.store.queued_at(&known.key, call.now, MOST)?;
        reply.record(&record(known, &queued))?;
    }
    Ok(Done::Count(all.len() as u64, None))
}

fn state_of(known: &Known) -> &'static str {
    match &known.dead {
        Some(dead) if dead.broken => "broken",
        Some(_) => "dead",
        None => "ok",
    }
}

fn record(known: &Known, queued: &QueuedAt) -> Record {
    let learned = known.learned.as_ref();
    let cause = learned.and_then(|learned| learned.cause.as_ref());
    let dead = known.dead.as_ref();
    let interval = Some(known.limits.dial_interval).filter(|interval| !interval.is_zero());
    let interval = interval.map(Span);
    let by_day = Some(known.limits.per_address_day).filter(|most| *most > 0);
    Record::new()
        .text("destination", &known.key)
        .text("state", state_of(known))
        .maybe("group", known.group.as_ref())
        .number("window", known.window as i64)
        .number("connections", known.limits.connections as i64)
        .number("in-flight", known.in_flight as i64)
        .number("due", queued.due as i64)
        .number("waiting", queued.later as i64)
        .maybe("next", queued.next)
        .maybe("rate", known.limits.rate)
        .maybe("dial-interval", interval)
        .maybe("per-address-day", by_day)
        .maybe("limit", known.waits_for.as_ref().map(|(limit, _)| limit))
        .maybe(
            "until",
            known.waits_for.as_ref().and_then(|(_, until)| *until),
        )
        .maybe("pinned", learned.filter(|l| l.pinned).map(|_| "yes"))
        .maybe("cause", cause.map(|cause| &cause.text))
        .maybe("learned", cause.map(|cause| cause.at))
        .maybe("last-success", learned.and_then(|l| l.success))
        .maybe("last-failure", learned.and_then(|l| l.failure))
        .maybe("since", dead.map(|dead| dead.since))
        .maybe("probe", dead.and_then(|dead| dead.probe))
        .maybe("text", dead.map(|dead| &dead.text))
}

fn set_window(
    call: &Call<'_>,
    key: &DestinationKey,
    size: Option<usize>,
    pin: bool,
) -> Result<Done, Stop> {
    let host = &call.control.host;
    let known = host.known(Some(key));
    let most = known.first().map(|known| known.limits.connections);
    if let (Some(size), Some(most)) = (size, most)
        && size > most
    {
        return Err(Stop::usage(format!(
            "set={size}: connections allows {most} there at most"
        )));
    }
    let size = host.set_window(key, size, pin);
    Line::new("window-set")
        .key("destination", key)
        .num("window", size as i64)
        .key("pinned", if pin { "yes" } else { "no" })
        .num("uid", call.peer.uid)
        .info();
    Ok(Done::Count(1, None))
}

fn clear_window(call: &Call<'_>, key: &DestinationKey) -> Result<Done, Stop> {
    let cleared = call.control.host.clear_window(key);
    if cleared {
        Line::new("window-cleared")
            .key("destination", key)
            .num("uid", call.peer.uid)
            .info();
    }
    Ok(Done::Count(u64::from(cleared), None))
}
