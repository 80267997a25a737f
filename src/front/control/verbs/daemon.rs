//! What concerns the daemon as a whole: `stats`, `reload`, `shutdown`, `version`.

use super::{Call, Control};
use crate::front::control::filter::Args;
use crate::front::control::output::{Code, Done, Record, Reply, Stop, span};
use crate::log::Line;

use super::pause;

pub(super) fn stats(call: &Call<'_>, args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    args.finish()?;
    let stats = call.control.store.stats()?;
    let (median, longest) = stats.commit_time;
    let mut record = Record::new()
        .text("version", env!("CARGO_PKG_VERSION"))
        .number("messages", stats.messages)
        .number("queued", stats.queued)
        .number("claimed", stats.claimed)
        .number("held", stats.held)
        .number("in-doubt", stats.in_doubt)
        .maybe("oldest", stats.oldest)
        .number("commits", stats.commits)
        .number("requests", stats.requests)
        .text("commit-median", span(median))
        .text("commit-longest", span(longest))
        .number("wal-bytes", stats.wal_bytes)
        .number("free-bytes", stats.free_bytes)
        .number("notices-lost", stats.notices_lost)
        .number("notices-withheld", stats.notices_withheld);
    for (key, value) in call.control.host.facts() {
        record = record.text(key, value);
    }
    reply.record(&record)?;
    let pauses = pause::in_force(call)?;
    for (scope, pause) in &pauses {
        reply.record(&pause::record(scope, pause))?;
    }
    Ok(Done::Count(1 + pauses.len() as u64, None))
}

pub(super) fn metrics(call: &Call<'_>, args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    args.finish()?;
    let Control { store, host, .. } = call.control;
    let text = crate::front::metrics::text(store, &**host, call.now)?;
    let mut lines = 0;
    for line in text.lines() {
        reply.plain(line)?;
        lines += 1;
    }
    Ok(Done::Count(lines, None))
}

pub(super) fn reload(call: &Call<'_>, args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    args.finish()?;
    Line::new("reload").num("uid", call.peer.uid).info();
    match call.control.host.reload() {
        Err(text) => Err(Stop::Refused(Code::Config, text)),
        Ok(reloaded) => {
            for key in &reloaded.changed {
                reply.record(&Record::new().text("changed", key))?;
            }
            for key in &reloaded.restart {
                reply.record(&Record::new().text("needs-restart", key))?;
            }
            Ok(Done::Text("reloaded"))
        }
    }
}

pub(super) fn shutdown(call: &Call<'_>, mut args: Args, _: &mut Reply<'_>) -> Result<Done, Stop> {
    let now = args.flag("now")?;
    args.finish()?;
    Line::new("shutdown")
        .num("uid", call.peer.uid)
        .opt("now", now.then_some("yes"))
        .info();
    call.control.host.shutdown(now);
    Ok(Done::Text("shutting down"))
}

pub(super) fn version(_: &Call<'_>, args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    args.finish()?;
    let record = Record::new()
        .text("name", env!("CARGO_PKG_NAME"))
        .text("version", env!("CARGO_PKG_VERSION"));
    reply.record(&record)?;
    Ok(Done::Count(1, None))
}
