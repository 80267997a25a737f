//! Opens queues as the daemon does at its start, for tests/torture: one directory per line of standard input.
//!
//! Recovery and all named checks run in the program's own code; then the queue is let go of without an orderly end, as a
//! crash would. For each directory one line: `open`, `broken NAME FIRST`, or `refused REASON`.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use posthaste::clock::Clock;
use posthaste::store::{Checked, Settings, Soundness, Store};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reopen: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        // One line, whatever a damaged file made SQLite say.
        writeln!(out, "{}", verdict(line?.into()).escape_debug())?;
        out.flush()?;
    }
    Ok(())
}

fn verdict(path: PathBuf) -> String {
    let settings = Settings {
        poison_limit: 1000,
        ..Settings::at(&path)
    };
    let store = match Store::open(&settings, &Clock::system()) {
        Ok((store, _)) => store,
        Err(error) => return format!("refused {error:?}"),
    };
    let mut found = String::from("open");
    let checked = store.check(false, &mut |checked: Checked| match checked.soundness {
        Soundness::Sound => {}
        Soundness::Broken { first, .. } => found = format!("broken {} {first}", checked.name),
        Soundness::Unfinished(why) => found = format!("broken {} unfinished: {why}", checked.name),
    });
    match checked {
        Ok(()) => found,
        Err(error) => format!("broken check {error:?}"),
    }
}
