//! Care for the queue as a file: `backup`, `check`.

use std::path::Path;
use std::time::Instant;

use super::Call;
use crate::front::control::filter::Args;
use crate::front::control::output::{Code, Done, Record, Reply, Stop, span};
use crate::log::Line;
use crate::store::{BackupError, Checked, Soundness};

pub(super) fn backup(call: &Call<'_>, mut args: Args, reply: &mut Reply<'_>) -> Result<Done, Stop> {
    let to = args.value("to")?;
    args.finish()?;
    let Some(to) = to else {
        return Err(Stop::usage("backup needs to=FILE"));
    };
    let began = Instant::now();
    let copied = call.control.store.backup(Path::new(&to));
    let line = Line::new("backup")
        .num("uid", call.peer.uid)
        .peer("to", &to);
    match copied {
        Ok(bytes) => {
            let took = began.elapsed();
            line.num("bytes", bytes).span("took", took).info();
            let record = Record::new()
                .text("to", &to)
                .number("bytes", bytes)
                .text("took", span(took));
            reply.record(&record)?;
            Ok(Done::Count(1, None))
        }
        Err(error) => {
            let text = error.to_string();
            line.peer("error", &text).warn();
            Err(match error {
                BackupError::Path(_) => Stop::usage(text),
                BackupError::Copy(_) => Stop::Refused(Code::Temporary, text),
                BackupError::Store(error) => error.into(),
            })
        }
    }
}

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
