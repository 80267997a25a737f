//! Memory that the C library keeps for threads: free pieces for one that lives, stacks of those that have ended.
//!
//! glibc keeps up to seven pieces of each small size for each thread, so that it needs no lock for most requests (tcache), and
//! malloc_trim(3) does not touch them: after a load they lie between free pages all over the heap, and hold one page each. Only
//! the end of a thread gives its pieces back.

use std::hint::black_box;

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
        let pieces = || (0..EACH).map(|_| Vec::with_capacity(FIRST + STEP * size));
        // A request that finds none kept has others put by along with its own. So as many are freed first as can be kept,
        // and then exactly those are taken.
        drop(black_box(pieces().collect::<Vec<Vec<u8>>>()));
        kept.extend(pieces());
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

/// More than glibc keeps of the stacks of threads that have ended, which is 40 MiB together (pthread_create(3) takes one of
/// them for the next thread). This much is address space alone: no page of it is touched but the first few.
const WIDER_THAN_ALL: usize = 41 << 20;

/// Gives back the stacks of threads that have ended, which would be kept for threads to come with what was touched of them:
/// a thread with a stack wider than all that may be kept pushes the others out when it ends, and is not kept itself (PRC-7).
/// With another C library it changes nothing.
pub fn free_stacks() {
    let ended = std::thread::Builder::new()
        .name("memory".to_owned())
        .stack_size(WIDER_THAN_ALL)
        .spawn(|| ());
    // Where no such thread can be had, they stay.
    if let Ok(thread) = ended {
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // PRC-7
    #[test]
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    fn stacks_of_threads_that_have_ended_are_given_back() {
        // Wide enough that none of them is another test's, and few enough to be kept.
        let size = (3 << 20) + (64 << 10);
        let stacks = || -> usize {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines()
                .filter_map(|line| line.split(' ').next()?.split_once('-'))
                .map(|(from, to)| {
                    usize::from_str_radix(to, 16).unwrap()
                        - usize::from_str_radix(from, 16).unwrap()
                })
                .filter(|width| (size - (64 << 10)..size + (64 << 10)).contains(width))
                .count()
        };
        let together = std::sync::Arc::new(std::sync::Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let together = std::sync::Arc::clone(&together);
                std::thread::Builder::new()
                    .stack_size(size)
                    .spawn(move || together.wait())
                    .unwrap()
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let kept = stacks();
        free_stacks();
        assert!(stacks() < kept, "{} of {kept} are left", stacks());
    }

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
