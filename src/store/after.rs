//! The thread that does what is left to do after a commit where nobody waits for it.
//!
//! A thread that sleeps for a commit and is woken by it costs two switches of tasks, for each of the dozen requests of a
//! group. Whoever can say beforehand what is to be done then leaves it to this one, which is woken once.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};

/// What it is given.
pub(super) enum Task {
    /// To be done. It must not wait for anybody: others wait behind it.
    Run(Box<dyn FnOnce() + Send>),
    /// Nothing more comes.
    End,
}

impl Task {
    /// Does it. A panic ends no thread (PRC-3).
    pub(super) fn run(self) {
        if let Task::Run(run) = self
            && catch_unwind(AssertUnwindSafe(run)).is_err()
        {
            log::error!("internal error: what follows a commit panicked");
        }
    }
}

/// Starts it. No more wait than there are requests on their way through the writer, and commits of theirs not told.
pub(super) fn start() -> io::Result<(Sender<Task>, JoinHandle<()>)> {
    let (sender, tasks) = unbounded();
    let thread = thread::Builder::new()
        .name("store-after".into())
        .spawn(move || serve(&tasks))?;
    Ok((sender, thread))
}

fn serve(tasks: &Receiver<Task>) {
    while let Ok(task @ Task::Run(_)) = tasks.recv() {
        task.run();
    }
}
