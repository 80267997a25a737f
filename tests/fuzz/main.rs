//! Fuzz targets on the stable toolchain: every parser that reads what others send (SEC-6).
//!
//! `cargo run --release --example fuzz -- [--seconds N] [--seed N] [TARGET..]` replays the corpus, then mutates it for N
//! seconds per target. There is no coverage to go by, so a target returns the *shape* of what it saw (which errors, how
//! many parts); an input with a new shape joins the pool that is mutated further. An input that panics, breaks an
//! invariant or takes suspiciously long is written into `tests/fuzz/corpus/TARGET/`, where it stays as a regression test.

mod mutate;
mod targets;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mutate::{Mutator, fnv};
// The resolver's reader, which the target takes in as source, looks for it here.
use posthaste::policy;
use targets::{TARGETS, Target};

/// No input here is longer than this.
const LONGEST: usize = 64 * 1024;
/// All parsers are linear; 64 KiB take microseconds, so this is far beyond any hiccup of the machine.
const TOO_LONG: Duration = Duration::from_secs(5);
/// The pool keeps this many inputs of new shape per target.
const POOL: usize = 4096;

struct Options {
    seconds: u64,
    seed: u64,
    only: Vec<String>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("fuzz: {text}");
            return ExitCode::from(64);
        }
    };
    // The message of the last panic, kept instead of printed: a fuzzer reports one finding, not a scroll of them.
    let last_panic = Arc::new(Mutex::new(String::new()));
    let keep = Arc::clone(&last_panic);
    panic::set_hook(Box::new(move |info| {
        *keep.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
    }));

    let mut findings = 0;
    for target in TARGETS {
        if !options.only.is_empty() && !options.only.iter().any(|name| name == target.name) {
            continue;
        }
        match fuzz(target, &options) {
            Ok(Outcome { runs, shapes }) => {
                println!(
                    "fuzz: {:<10} {runs} inputs, {shapes} shapes, no finding",
                    target.name
                );
            }
            Err(Finding { path, what }) => {
                let text = last_panic.lock().unwrap_or_else(PoisonError::into_inner);
                println!(
                    "fuzz: {:<10} {what} on {}: {text}",
                    target.name,
                    path.display()
                );
                findings += 1;
            }
        }
    }
    println!("fuzz: seed {}, {findings} findings", options.seed);
    ExitCode::from(u8::from(findings > 0))
}

fn options(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut options = Options {
        seconds: 4,
        seed: clock.as_secs(),
        only: Vec::new(),
    };
    while let Some(argument) = arguments.next() {
        let mut number = || {
            arguments
                .next()
                .and_then(|n| n.parse().ok())
                .ok_or_else(|| format!("{argument} takes a number"))
        };
        match argument.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            name if TARGETS.iter().any(|target| target.name == name) => {
                options.only.push(argument);
            }
            _ => {
                let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
                return Err(format!(
                    "[--seconds N] [--seed N] [{}]..",
                    names.join(" | ")
                ));
            }
        }
    }
    Ok(options)
}

struct Outcome {
    runs: u64,
    shapes: usize,
}

struct Finding {
    path: PathBuf,
    what: &'static str,
}

/// Replays the target's corpus, then mutates until the time is over.
fn fuzz(target: &Target, options: &Options) -> Result<Outcome, Finding> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target.name);
    let mut pool = corpus(&folder).unwrap_or_default();
    let mut shapes = HashSet::new();
    for input in &pool {
        shapes.insert(run(target, input, &folder)?);
    }
    pool.push(Vec::new());

    let mut mutator = Mutator::new(options.seed ^ fnv(target.name.as_bytes()));
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let mut runs = pool.len() as u64;
    while Instant::now() < until {
        for _ in 0..256 {
            let mut input = mutator.mutate(&pool, target.words);
            input.truncate(LONGEST);
            if shapes.insert(run(target, &input, &folder)?) {
                if pool.len() < POOL {
                    pool.push(input);
                } else {
                    let place = mutator.below(pool.len());
                    pool[place] = input;
                }
            }
            runs += 1;
        }
    }
    Ok(Outcome {
        runs,
        shapes: shapes.len(),
    })
}

/// The files of a corpus folder, in the order of their names.
fn corpus(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    paths.iter().map(fs::read).collect()
}

/// One input; its shape, or what is wrong with it.
fn run(target: &Target, input: &[u8], folder: &Path) -> Result<u64, Finding> {
    let start = Instant::now();
    let result = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    let what = match result {
        Ok(shape) if start.elapsed() < TOO_LONG => return Ok(shape),
        Ok(_) => "too slow",
        Err(_) => "panic",
    };
    let path = folder.join(format!("finding-{:016x}", fnv(input)));
    if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::write(&path, input)) {
        eprintln!("fuzz: cannot write {}: {error}", path.display());
    }
    Err(Finding { path, what })
}
