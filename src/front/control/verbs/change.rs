//! What an operator does to recipients: `kick`, `drop`, `fail`, `hold`, `release`, `route` (CTL-8, CTL-11 to CTL-14).
//!
//! All of them are one call of the store with the same filter, the same `dry-run` and the same note of what was left
//! out, one log line per message with the operator's uid, and a wake-up for the dispatcher.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use super::{Call, pause};
use crate::clock::Timestamp;
use crate::config::TransportKind;
use crate::dispatch::Wake;
use crate::front::control::filter::{self, Args};
use crate::front::control::output::{Done, Record, Reply, Stop};
use crate::front::control::times;
use crate::log::Line;
use crate::message::QueueId;
use crate::policy::route as routes;
use crate::store::{Actor, Change, ChangeReport, ChangedRow, DestinationKey, Filter, State};

/// Destinations that are woken one by one; beyond them the dispatcher looks at everything.
const MAX_WAKES: usize = 256;

/// Longest text for the sender, in octets.
const MAX_TEXT: usize = 1000;

pub(super) fn kick(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let at = args.read("at", "a time such as 2026-11-21T18:40:00Z", times::time)?;
    let delay = args.read("in", "a duration such as 10m", times::duration)?;
    let at = match (at, delay) {
        (Some(_), Some(_)) => return Err(Stop::usage("at or in, not both")),
        (Some(at), None) => at,
        (None, Some(delay)) => call.now.plus(delay),
        (None, None) => call.now,
    };
    let transport = transport(call, &mut args)?;
    let mut wanted = Wanted::take(call, args)?;
    // CTL-11: held ones are neither touched nor counted, and a worker's are on their way already.
    match wanted.filter.state {
        None | Some(State::Queued) => wanted.filter.state = Some(State::Queued),
        Some(_) => return Ok(Done::Count(0, None)),
    }
    if let (Some(route), false) = (transport, wanted.dry_run) {
        wanted.apply(call, "routed", &route, None, reply)?;
    }
    let report = wanted.apply(call, "kicked", &Change::Kick { at }, Some(at), reply)?;
    Ok(Done::Count(report.affected, None))
}

pub(super) fn drop(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let wait = args.flag("wait")?;
    let wanted = Wanted::take(call, args)?;
    let report = wanted.apply(call, "dropped", &Change::Drop { wait }, None, reply)?;
    left_out(&report, reply)
}

pub(super) fn fail(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let wait = args.flag("wait")?;
    // Here `text` is what the sender reads, not a filter.
    let text = args.value("text")?.unwrap_or_default();
    if text.len() > MAX_TEXT {
        return Err(Stop::usage("the text is too long"));
    }
    let wanted = Wanted::take(call, args)?;
    let report = wanted.apply(call, "failed", &Change::Fail { text, wait }, None, reply)?;
    left_out(&report, reply)
}

pub(super) fn hold(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let reason = args.value("reason")?.unwrap_or_default();
    if reason.len() > pause::MAX_REASON {
        return Err(Stop::usage("the reason is too long"));
    }
    let wanted = Wanted::take(call, args)?;
    let report = wanted.apply(call, "held", &Change::Hold { reason }, None, reply)?;
    left_out(&report, reply)
}

pub(super) fn release(call: &Call<'_>, args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let wanted = Wanted::take(call, args)?;
    let report = wanted.apply(call, "released", &Change::Release, Some(call.now), reply)?;
    Ok(Done::Count(report.affected, None))
}

pub(super) fn route(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let Some(change) = transport(call, &mut args)? else {
        return Err(Stop::usage(
            "transport=NAME or transport=default is missing",
        ));
    };
    let wanted = Wanted::take(call, args)?;
    let report = wanted.apply(call, "routed", &change, Some(call.now), reply)?;
    left_out(&report, reply)
}

/// A change that moves nothing: the same for all recipients that are not final.
pub(super) fn changed(
    call: &Call<'_>,
    args: Args,
    event: &'static str,
    change: &Change,
    reply: &mut Reply<'_>,
) -> Result<Done, Stop> {
    let wanted = Wanted::take(call, args)?;
    let report = wanted.apply(call, event, change, Some(call.now), reply)?;
    left_out(&report, reply)
}

/// Takes `transport` as the transport to set (CTL-14).
fn transport(call: &Call<'_>, args: &mut Args) -> Result<Option<Change>, Stop> {
    let Some(name) = args.value("transport")? else {
        return Ok(None);
    };
    if name == "default" {
        return Ok(Some(Change::Route {
            transport: None,
            destination: None,
        }));
    }
    let config = call.control.config.get();
    let Ok(way) = routes::find(&config, &name) else {
        return Err(super::no_such_transport(&name));
    };
    let destination = match way.kind() {
        TransportKind::Direct => None,
        _ => Some(routes::named_destination(&name)),
    };
    Ok(Some(Change::Route {
        transport: Some(name),
        destination,
    }))
}

/// CTL-12: what a worker has is not touched, and the operator is told so.
fn left_out(report: &ChangeReport, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    if report.claimed > 0 {
        let record = Record::new()
            .text("note", "left out because an attempt is running")
            .number("claimed", report.claimed);
        reply.record(&record)?;
    }
    Ok(Done::Count(report.affected, None))
}

/// Which recipients a changing verb hits.
struct Wanted {
    filter: Filter,
    dry_run: bool,
}

impl Wanted {
    /// Takes the filter or the word `all`, and nothing may be left then.
    fn take(call: &Call<'_>, mut args: Args) -> Result<Wanted, Stop> {
        let all = args.flag("all")?;
        let dry_run = args.flag("dry-run")?;
        let filter = filter::take(&mut args, call.now)?;
        args.finish()?;
        match filter {
            None if !all => Err(Stop::usage("which? give a filter, or the word all")),
            filter => Ok(Wanted {
                filter: filter.unwrap_or_default(),
                dry_run,
            }),
        }
    }

    /// Carries `change` out, or shows what it would hit. `wake` is when the changed recipients are due.
    fn apply(
        &self,
        call: &Call<'_>,
        event: &'static str,
        change: &Change,
        wake: Option<Timestamp>,
        reply: &mut Reply<'_>,
    ) -> Result<ChangeReport, Stop> {
        let actor = Actor { uid: call.peer.uid };
        if self.dry_run {
            let mut gone = Ok(());
            let report =
                call.control
                    .store
                    .change(&self.filter, change, &actor, true, &mut |row| {
                        if gone.is_ok() {
                            gone = would(row, reply);
                        }
                    })?;
            gone?;
            return Ok(report);
        }
        let mut trail = Trail {
            event,
            uid: call.peer.uid,
            change,
            message: None,
            finished: None,
        };
        let mut destinations = HashSet::new();
        let result = call
            .control
            .store
            .change(&self.filter, change, &actor, false, &mut |row| {
                trail.add(row.id.message, row.id.number);
                trail.finished = row.finished.map(|arrived| call.now.since(arrived));
                if wake.is_some() && destinations.len() <= MAX_WAKES {
                    destinations.insert(row.destination.clone());
                }
            });
        // Steps that were committed stand, also when a later one failed.
        trail.end();
        if let Some(at) = wake {
            let kicked = matches!(change, Change::Kick { .. });
            wake_all(call, destinations, at, kicked);
        }
        Ok(result?)
    }
}

fn would(row: &ChangedRow, reply: &mut Reply<'_>) -> io::Result<()> {
    let record = Record::new()
        .number("id", row.id.message.get())
        .number("rcpt", row.id.number)
        .path("to", &row.path);
    reply.record(&record)
}

fn wake_all(call: &Call<'_>, destinations: HashSet<DestinationKey>, at: Timestamp, kicked: bool) {
    let host = &call.control.host;
    if destinations.len() > MAX_WAKES {
        host.wake(match kicked {
            true => Wake::KickedMany(at),
            false => Wake::Everything,
        });
        return;
    }
    for destination in destinations {
        host.wake(match kicked {
            true => Wake::Kicked(destination, at),
            false => Wake::Due(destination, at),
        });
    }
}

/// One log line per message (CTL-8), and one more if that was its end (OBS-1). The store reports rows of one message one
/// after the other.
struct Trail<'a> {
    event: &'static str,
    uid: u32,
    change: &'a Change,
    message: Option<(QueueId, Ranges)>,
    /// The last recipient of the message has ended, so long after it was accepted.
    finished: Option<Duration>,
}

impl Trail<'_> {
    fn add(&mut self, id: QueueId, number: u32) {
        match &mut self.message {
            Some((message, numbers)) if *message == id => numbers.add(number),
            _ => {
                self.end();
                let mut numbers = Ranges::default();
                numbers.add(number);
                self.message = Some((id, numbers));
            }
        }
    }

    fn end(&mut self) {
        let Some((id, numbers)) = self.message.take() else {
            return;
        };
        let line = Line::new(self.event)
            .key("qid", id)
            .key("rcpt", numbers.text())
            .num("uid", self.uid);
        match self.change {
            Change::Kick { at } => line.key("next", at),
            Change::Fail { text, .. } => line.key("status", "5.7.0").peer("text", text),
            Change::Hold { reason } => line.peer("reason", reason),
            Change::Route { transport, .. } => {
                line.key("transport", transport.as_deref().unwrap_or("default"))
            }
            Change::RequireTls { value } => line.key("set", value.word()),
            Change::Drop { .. } | Change::Release => line,
        }
        .info();
        if let Some(delay) = self.finished.take() {
            Line::new("done").key("qid", id).span("delay", delay).info();
        }
    }
}

/// Recipient numbers as `1-3,7`; what a line cannot hold any more is left out with `..`.
#[derive(Default)]
struct Ranges {
    done: String,
    open: Option<(u32, u32)>,
}

impl Ranges {
    fn add(&mut self, number: u32) {
        match &mut self.open {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            _ => {
                self.close();
                self.open = Some((number, number));
            }
        }
    }

    fn close(&mut self) {
        let Some((first, last)) = self.open.take() else {
            return;
        };
        if self.done.ends_with("..") {
            return;
        }
        if self.done.len() > 500 {
            self.done.push_str(",..");
            return;
        }
        if !self.done.is_empty() {
            self.done.push(',');
        }
        // Writing to a String cannot fail.
        let _ = match first == last {
            true => write!(self.done, "{first}"),
            false => write!(self.done, "{first}-{last}"),
        };
    }

    fn text(mut self) -> String {
        self.close();
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CTL-8
    #[test]
    fn the_numbers_of_a_log_line_are_ranges_and_bounded() {
        let text = |numbers: &[u32]| {
            let mut ranges = Ranges::default();
            numbers.iter().for_each(|n| ranges.add(*n));
            ranges.text()
        };
        assert_eq!(text(&[1]), "1");
        assert_eq!(text(&[1, 2, 3, 7, 9, 10]), "1-3,7,9-10");
        let odd: Vec<u32> = (0..50_000).map(|n| 2 * n + 1).collect();
        let long = text(&odd);
        assert!(long.len() < 600 && long.ends_with(",.."), "{long}");
    }
}
