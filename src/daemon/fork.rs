//! Detaching from the terminal: with `memory`, `scheduling` and `store::errno` the only places of this program that need `unsafe`.

#![expect(unsafe_code, reason = "fork(2) has no safe form; see detach()")]

use std::fs::OpenOptions;
use std::io::{self, PipeReader, PipeWriter, Read, Write};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

/// The way to the process that waits in the starting shell. Dropped without [`Waiting::release`], that process exits as
/// ours does.
#[derive(Debug)]
pub struct Waiting(PipeWriter);

/// Goes on in a child that leads a session of its own; the parent waits and never returns (PRC-9).
///
/// Must be called while the process has one thread.
///
/// # Errors
/// fork(2) or setsid(2) says no.
pub fn detach() -> io::Result<Waiting> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: fork(2) is dangerous in a process of several threads, where the child may call only what is safe in a
    // signal handler. posthasted starts its first thread after this call: `daemon::run` is called by main alone, and
    // nothing before this line in it starts one.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            drop(writer);
            std::process::exit(outcome(reader, child));
        }
        ForkResult::Child => {
            drop(reader);
            setsid()?;
            Ok(Waiting(writer))
        }
    }
}

/// The exit status of the start: 0 once the child is ready, else the child's own.
fn outcome(mut reader: PipeReader, child: Pid) -> i32 {
    let mut ready = [0];
    if reader.read_exact(&mut ready).is_ok() {
        return 0;
    }
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, status)) => return status,
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                eprintln!("posthasted: died of {signal} while it started");
                return 70;
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return 70,
        }
    }
}

impl Waiting {
    /// Lets the starting shell go on: everything is bound and opened. Standard input and output, and standard error
    /// unless the log goes there, become /dev/null.
    ///
    /// # Errors
    /// /dev/null cannot be opened.
    pub fn release(mut self, keep_stderr: bool) -> io::Result<()> {
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        if !keep_stderr {
            dup2_stderr(&null)?;
        }
        // Nobody may be waiting any more; that changes nothing for us.
        let _ = self.0.write_all(&[0]);
        Ok(())
    }
}
