//! Free memory that malloc(3) keeps for one thread.
//!
//! glibc keeps up to seven pieces of each small size for each thread, so that it needs no lock for most requests (tcache), and
//! malloc_trim(3) does not touch them: after a load they lie between free pages all over the heap, and hold one page each. Only
//! the end of a thread gives its pieces back.

/// The smallest piece that a thread keeps, in bytes that can be asked for, and how the sizes go on.
const FIRST: usize = 24;
const STEP: usize = 16;

/// Sizes that a thread keeps, and pieces of each.
const SIZES: usize = 64;
const EACH: usize = 7;

/// Gives back the small pieces that malloc(3) keeps for the calling thread, which has nothing to do for a while: it takes them
/// and lets a thread free them that ends at once. With another allocator it costs as little, and changes nothing (PRC-7).
pub fn hand_back() {
    let mut kept: Vec<Vec<u8>> = Vec::with_capacity(SIZES * EACH);
    for size in 0..SIZES {
        kept.extend((0..EACH).map(|_| Vec::with_capacity(FIRST + STEP * size)));
    }
    // Where no thread can be had, they are freed here and stay.
    let ended = std::thread::Builder::new()
        .name("memory".to_owned())
        .spawn(move || drop(kept));
    if let Ok(thread) = ended {
        // What it leaves is there for the next step.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // PRC-7
    #[test]
    fn what_a_thread_keeps_is_taken_from_it_and_its_memory_can_be_used_as_before() {
        let before: Vec<Box<[u8; 40]>> = (0..100).map(|n| Box::new([n; 40])).collect();
        for _ in 0..3 {
            hand_back();
        }
        assert!(
            before
                .iter()
                .zip(0..)
                .all(|(piece, n)| piece[..] == [n; 40])
        );
    }
}
