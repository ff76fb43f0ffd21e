//! The boot heap: a piece of the image, so it is there before any memory is mapped or counted.
//!
//! It serves until `kmalloc` does and then takes back what it gave. Once that is all, its pages lose their mapping in
//! the image and go to the page allocator as any other memory.
//!
//! Invariants: BOOT-HEAP (whoever holds the lock and finds a heap has its memory mapped; whoever finds none has no
//! business there).

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;

use linked_list_allocator::Heap;
use mm::units::{Bytes, Count};
use spin::Mutex;
use x86_64::instructions::interrupts;

use crate::memory::Allocator;
use crate::paging::retire;
use crate::paging::space::Space;

const SIZE: usize = 1024 * 1024;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

// SAFETY: nobody touches the memory but the heap, which has a lock of its own.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; SIZE]));

static BOOT_HEAP: Mutex<BootHeap> = Mutex::new(BootHeap { heap: None, allocations: 0 });

struct BootHeap {
    /// `None` before there is one, and once its memory is given back.
    heap: Option<Heap>,
    allocations: u32,
}

// SAFETY: the heap's memory is a static.
unsafe impl Send for BootHeap {}

/// What the boot heap holds for its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    pub(crate) allocations: Count,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} allocations", self.bytes, self.allocations.0)
    }
}

/// What became of the boot heap's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The page allocator has so many of its pages; the others were nothing that it can take.
    Adopted(Count),
    /// The heap stays for what is still allocated in it.
    Kept(Held),
}

fn with<R>(work: impl FnOnce(&mut BootHeap) -> R) -> R {
    interrupts::without_interrupts(|| work(&mut BOOT_HEAP.lock()))
}

/// Gives the heap its memory. Nothing may be allocated before.
pub(super) fn init() {
    with(|boot| {
        if boot.heap.is_none() {
            // SAFETY: the memory lives until it is given back, and is the heap's alone.
            boot.heap = Some(unsafe { Heap::new(MEMORY.0.get().cast(), SIZE) });
        }
    });
}

/// The addresses of its memory in the image.
pub(crate) fn addresses() -> Range<u64> {
    let start = MEMORY.0.get().addr() as u64;
    start..start + SIZE as u64
}

/// Whether `address` was allocated here.
pub(super) fn has(address: *mut u8) -> bool {
    addresses().contains(&(address.addr() as u64))
}

/// Allocates; `None` if there is no room, or no heap any more.
pub(super) fn alloc(layout: Layout) -> Option<NonNull<u8>> {
    with(|boot| {
        let place = boot.heap.as_mut()?.allocate_first_fit(layout).ok()?;
        boot.allocations += 1;
        Some(place)
    })
}

/// Takes memory back.
///
/// # Panics
/// The heap has been given back, so this was freed before.
///
/// # Safety
/// The memory was allocated here with that layout, and nobody uses it any more.
pub(super) unsafe fn dealloc(place: NonNull<u8>, layout: Layout) {
    with(|boot| {
        let heap = boot.heap.as_mut();
        let heap = heap.unwrap_or_else(|| panic!("heap: double free: {place:p} is of the boot heap, which is gone"));
        // SAFETY: the caller's promise.
        unsafe { heap.deallocate(place, layout) };
        boot.allocations -= 1;
    });
}

/// What is allocated in it.
pub(crate) fn held() -> Held {
    with(|boot| Held { bytes: Bytes(boot.heap.as_ref().map_or(0, Heap::used)), allocations: Count(boot.allocations) })
}

/// Gives the memory to the page allocator, unless something is still allocated there. Whoever has called this must have
/// seen to it that nothing new comes from here.
pub(super) fn give_back(space: &Space, allocator: &'static Allocator) -> Fate {
    let empty = with(|boot| if boot.allocations == 0 { boot.heap.take() } else { None });
    if empty.is_none() {
        return Fate::Kept(held());
    }
    // SAFETY: BOOT-HEAP, there is no heap any more, and nobody else ever touches its memory in the image.
    Fate::Adopted(unsafe { retire::give_back(space, allocator, addresses()) })
}
