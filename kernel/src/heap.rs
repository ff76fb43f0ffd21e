//! The boot heap: a piece of the image, so it is there before any memory is mapped or counted.
//!
//! Serves strings and lists of the boot path, the tests and the reports; pages never come from here.

use core::cell::UnsafeCell;
use core::fmt;

use linked_list_allocator::LockedHeap;
use spin::Once;

use crate::ktest::{check, ktest};

const SIZE: usize = 1024 * 1024;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: nobody touches the memory but the heap, which has a lock of its own.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; SIZE]));

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Gives the heap its memory. Nothing may be allocated before.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the memory lives for ever, is the heap's alone, and `ONCE` lets nobody give it twice.
        unsafe { HEAP.lock().init(MEMORY.0.get().cast(), SIZE) };
    });
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

/// What is allocated and not freed.
pub(crate) fn used() -> Bytes {
    Bytes(HEAP.lock().used())
}

ktest!(
    "heap",
    fn what_is_freed_can_be_had_again() {
        use alloc::vec::Vec;

        let before = used();
        for round in 0..64_u8 {
            let half = alloc::vec![round; SIZE / 2];
            check!(half.iter().all(|&byte| byte == round), "round {round}: the memory does not hold what was written");
        }
        let pieces: Vec<Vec<u8>> = (1..200).map(|size| alloc::vec![0; size]).collect();
        let odd: Vec<Vec<u8>> = pieces.into_iter().filter(|piece| piece.len() % 2 == 1).collect();
        check!(used() > before, "{} pieces take no memory", odd.len());
        drop(odd);
        check!(used() == before, "{before} were in use, and afterwards {}", used());
        Ok(())
    }
);
