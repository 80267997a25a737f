//! Care for the queue as a file: `check`.

use super::Call;
use crate::front::control::filter::Args;
use crate::front::control::output::{Code, Done, Record, Reply, Stop, span};
use crate::log::Line;
use crate::store::{Checked, Soundness};

pub(super) fn check(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let quick = args.flag("quick")?;
    args.finish()?;
    Line::new("check").num("uid", call.peer.uid).info();
    let (mut done, mut broken, mut unfinished) = (0_u64, 0_u64, 0_u64);
    let mut told = Ok(());
    call.control.store.check(quick, &mut |checked| {
        done += 1;
        match checked.soundness {
            Soundness::Sound => {}
            Soundness::Broken { .. } => broken += 1,
            Soundness::Unfinished(_) => unfinished += 1,
        }
        if told.is_ok() {
            told = reply.record(&record(&checked));
        }
    })?;
    told?;
    // Whoever looks at the exit status alone must not take silence for health.
    if broken > 0 {
        let text = format!("{broken} of {done} checks found what must not be");
        return Err(Stop::Refused(Code::Internal, text));
    }
    if unfinished > 0 {
        let text = format!("{unfinished} of {done} checks could not be finished");
        return Err(Stop::Refused(Code::Temporary, text));
    }
    Ok(Done::Count(done, None))
}

fn record(checked: &Checked) -> Record {
    let record = Record::new().text("check", checked.name);
    let record = match &checked.soundness {
        Soundness::Sound => record.text("result", "ok"),
        Soundness::Broken { rows, first } => record
            .text("result", "broken")
            .number("rows", *rows)
            .text("first", first),
        Soundness::Unfinished(why) => record.text("result", "unfinished").text("reason", why),
    };
    record
        .text("took", span(checked.took))
        .text("text", checked.sentence)
}
