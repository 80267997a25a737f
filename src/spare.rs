//! A large buffer that a thread keeps from one piece of work to the next.
//!
//! What malloc(3) gives of over a kilobyte comes from one of few arenas that all threads share, and each time costs their
//! lock, and a look at the pieces beside it. A session and a transaction need one such buffer each, and their threads live
//! longer than they do. Nothing is kept beyond the life of the thread (PRC-7).

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// A larger buffer is not kept.
const MOST: usize = 128 * 1024;

thread_local! {
    static KEPT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer, with whatever its last user left in it. Dropped, it is kept for the next.
#[derive(Debug)]
pub struct Spare(Vec<u8>);

impl Spare {
    /// The one that this thread keeps, or if it is in use or there is none yet, an empty one.
    pub fn take() -> Spare {
        // While a thread ends there may be none any more.
        Spare(KEPT.try_with(Cell::take).unwrap_or_default())
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        if buffer.capacity() > MOST {
            return;
        }
        let _ = KEPT.try_with(|kept| {
            let other = kept.take();
            kept.set(match other.capacity() > buffer.capacity() {
                true => other,
                false => buffer,
            });
        });
    }
}

impl Deref for Spare {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Spare {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_to_its_thread_unless_it_is_too_large() {
        let mut first = Spare::take();
        first.resize(1000, b'x');
        let at = first.as_ptr();
        assert!(Spare::take().is_empty(), "it is in use");
        drop(first);
        let mut again = Spare::take();
        assert_eq!((again.as_ptr(), again.len()), (at, 1000));
        again.reserve(MOST);
        drop(again);
        assert!(Spare::take().is_empty());
    }
}
