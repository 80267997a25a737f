//! A flag that can be waited for together with a socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Down until it is raised, once, for ever.
#[derive(Debug)]
pub struct Flag {
    raised: AtomicBool,
    /// Readable from then on, because nobody reads it: one descriptor wakes any number of waiters (PRC-5).
    event: EventFd,
}

impl Flag {
    /// A flag that is down.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn new() -> io::Result<Flag> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Flag {
            raised: AtomicBool::new(false),
            event: EventFd::from_flags(flags)?,
        })
    }

    /// Raises it and wakes all who wait.
    pub fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        // Fails only when it has been raised 2^64 times.
        let _ = self.event.write(1);
    }

    /// Whether it is up.
    pub fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }
}

impl AsFd for Flag {
    /// Readable once the flag is up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
