//! `domains` (CTL-16).

use super::Call;
use crate::dispatch::Known;
use crate::front::control::filter::Args;
use crate::front::control::output::{Done, Record, Reply, Stop};
use crate::log::Line;
use crate::policy::route::{direct_destination, named_destination};
use crate::smtp::address::AddressDomain;
use crate::store::DestinationKey;

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
    args.finish()?;
    let key = match (domain, transport) {
        (Some(_), Some(_)) => return Err(Stop::usage("transport or domain, not both")),
        (Some(domain), None) => Some(direct_destination(&domain)),
        (None, Some(name)) => Some(named_destination(&name)),
        (None, None) => None,
    };
    match (key, set.is_some() || pin, clear) {
        (key, false, false) => list(call, key.as_ref(), reply),
        (Some(key), true, false) => set_window(call, &key, set, pin),
        (Some(key), false, true) => clear_window(call, &key),
        (Some(_), true, true) => Err(Stop::usage("set and pin, or clear")),
        (None, ..) => Err(Stop::usage(
            "set, pin and clear need a destination: domain=D or transport=T",
        )),
    }
}

fn list(
    call: &Call<'_>,
    key: Option<&DestinationKey>,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let known = call.control.host.known(key);
    for known in &known {
        reply.record(&record(known))?;
    }
    Ok(Done::Count(known.len() as u64, None))
}

fn record(known: &Known) -> Record {
    let state = match &known.dead {
        Some(dead) if dead.broken => "broken",
        Some(_) => "dead",
        None => "ok",
    };
    let learned = known.learned.as_ref();
    let cause = learned.and_then(|learned| learned.cause.as_ref());
    let dead = known.dead.as_ref();
    Record::new()
        .text("destination", &known.key)
        .text("state", state)
        .maybe("group", known.group.as_ref())
        .number("window", known.window as i64)
        .number("connections", known.connections as i64)
        .number("in-flight", known.in_flight as i64)
        .text("due", if known.waits { "yes" } else { "no" })
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
    let size = call.control.host.set_window(key, size, pin);
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
