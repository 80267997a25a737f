//! `transports` (RO-16).

use std::time::Duration;

use super::{Call, no_such_transport};
use crate::config::{RelayHost, Transport, TransportKind};
use crate::delivery::Trial;
use crate::front::control::filter::Args;
use crate::front::control::output::{Code, Done, Record, Reply, Stop};
use crate::log::Line;
use crate::policy::route::{BUILT_IN, named_destination};

/// How long trying one out may take.
const PATIENCE: Duration = Duration::from_secs(50);

pub(super) fn transports(
    call: &Call<'_>,
    mut args: Args,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let test = args.value("test")?;
    let clear = args.value("clear")?;
    args.finish()?;
    match (test, clear) {
        (None, None) => list(call, reply),
        (Some(name), None) => try_out(call, &name, reply),
        (None, Some(name)) => {
            let count = mend(call, &exists(call, &name)?);
            Ok(Done::Count(count, None))
        }
        (Some(_), Some(_)) => Err(Stop::usage("test or clear, not both")),
    }
}

fn list(call: &Call<'_>, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let config = call.control.config.get();
    let built_in = Record::new()
        .text("transport", BUILT_IN)
        .text("kind", "direct")
        .text("state", "ok");
    reply.record(&built_in)?;
    for transport in &config.transport {
        reply.record(&about(call, transport))?;
    }
    Ok(Done::Count(config.transport.len() as u64 + 1, None))
}

fn about(call: &Call<'_>, transport: &Transport) -> Record {
    let record = Record::new().text("transport", &transport.name);
    let TransportKind::Relay(relay) = &transport.kind else {
        return record
            .text("kind", transport.kind.word())
            .text("state", "ok");
    };
    let hosts: Vec<String> = relay
        .hosts
        .iter()
        .map(|(host, port)| match host {
            RelayHost::Unix(_) => host.to_string(),
            host => format!("{host}:{port}"),
        })
        .collect();
    let record = record
        .text("kind", transport.kind.word())
        .text("hosts", hosts.join(","));
    match call.control.host.dead(&named_destination(&transport.name)) {
        None => record.text("state", "ok"),
        Some(dead) => record
            .text("state", if dead.broken { "broken" } else { "dead" })
            .time("since", dead.since)
            .maybe("probe", dead.probe)
            .text("text", &dead.text),
    }
}

fn exists(call: &Call<'_>, name: &str) -> Result<String, Stop> {
    match call.control.config.get().transport(name) {
        Some(transport) => Ok(transport.name.clone()),
        None if name == BUILT_IN => Err(Stop::usage(format!(
            "transport {name} has no hosts of its own"
        ))),
        None => Err(no_such_transport(name)),
    }
}

fn try_out(call: &Call<'_>, name: &str, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let name = exists(call, name)?;
    let trials = match call.control.host.try_transport(&name, PATIENCE) {
        None => return Ok(Done::Count(0, None)),
        Some(Err(failure)) => return Err(Stop::Refused(Code::Usage, failure.text)),
        Some(Ok(trials)) => trials,
    };
    let mut count = 0;
    for trial in &trials {
        for step in &trial.steps {
            let record = Record::new()
                .text("host", &trial.host)
                .text("step", step.name);
            reply.record(&match &step.result {
                Ok(text) if text.is_empty() => record.text("result", "ok"),
                Ok(text) => record.text("result", "ok").text("text", text),
                Err(text) => record.text("result", "error").text("text", text),
            })?;
            count += 1;
        }
    }
    if !trials.iter().any(Trial::works) {
        let text = format!("no host of {name} works");
        return Err(Stop::Refused(Code::Temporary, text));
    }
    // Somebody has mended it.
    mend(call, &name);
    Ok(Done::Count(count, None))
}

/// Its mail goes again, at once.
fn mend(call: &Call<'_>, name: &str) -> u64 {
    let known = call.control.host.revive(&named_destination(name));
    if known {
        Line::new("transport-cleared")
            .key("transport", name)
            .num("uid", call.peer.uid)
            .info();
    }
    u64::from(known)
}
