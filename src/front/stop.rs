//! A flag that can be waited for together with a socket.

use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Down until it is raised, once, for ever.
#[derive(Debug)]
pub struct Flag {
    raised: AtomicBool,
    /// Becomes readable (at its end) when the other end is dropped; one descriptor wakes any number of waiters.
    reader: PipeReader,
    writer: Mutex<Option<PipeWriter>>,
}

impl Flag {
    /// A flag that is down.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new() -> io::Result<Flag> {
        let (reader, writer) = pipe()?;
        Ok(Flag {
            raised: AtomicBool::new(false),
            reader,
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Raises it and wakes all who wait.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }

    /// Whether it is up.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }
}

impl AsFd for Flag {
    /// Readable once the flag is up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
