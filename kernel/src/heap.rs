//! The kernel's heap, as `alloc` knows it: [`kmalloc`](mm::slab::KmemCaches::kmalloc), and before that is up, the boot heap.
//!
//! The two are told apart by address. Boot is over once [`retire_boot_heap`] says what became of it; everything that
//! lives longer is allocated behind [`serve_from`].
//!
//! May be used with interrupts on and off, and in a handler; cost: that of `kmalloc`, one test of a static before it.

mod boot;
mod sweep;

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

use mm::slab::{Census, ReallocError, size_for};
pub(crate) use mm::units::Bytes;
use mm::units::{Count, PAGE_SIZE};
use spin::Once;

use self::boot::Fate;
use crate::image::ro_after_init;
use crate::ktest::{check, ktest};
use crate::memory::{self, Allocator, Caches};
use crate::paging::space::{self, Space};
use crate::paging::{live, retire};
use crate::platform::Platform;
use crate::serial::println;

#[global_allocator]
static HEAP: Heap = Heap;

struct Heap;

ro_after_init! {
    /// What `kmalloc` is asked of, once it is up.
    static CACHES: Once<&'static Caches> = Once::new();
}

static BOOT_HEAPS_FATE: Once<Fate> = Once::new();

/// Gives the boot heap its memory. Nothing may be allocated before.
pub(crate) fn init() {
    boot::init();
}

/// From now on memory comes from these caches; the boot heap only takes back what it gave.
pub(crate) fn serve_from(caches: &'static Caches) {
    CACHES.call_once(|| caches);
}

/// The end of boot: what the boot heap still holds is accounted for, and if that is nothing, its memory becomes the page
/// allocator's.
pub(crate) fn retire_boot_heap(space: &Space, allocator: &'static Allocator) {
    let fate = *BOOT_HEAPS_FATE.call_once(|| boot::give_back(space, allocator));
    match fate {
        Fate::Adopted(Count(pages)) => println!("boot heap: retired empty, its {pages} pages are free memory now"),
        Fate::Kept(held) => println!("boot heap: retired with {held}"),
    }
}

/// What is allocated and not freed, in objects of all caches and large blocks, to the object; what the boot heap still
/// holds is not in it.
pub(crate) fn census() -> Census {
    CACHES.get().map_or(Census { objects: Count(0), bytes: Bytes(0) }, |caches| caches.census())
}

/// The bytes of all that is allocated and not freed.
pub(crate) fn used() -> Bytes {
    Bytes(census().bytes.0 + boot::held().bytes.0)
}

/// A pointer as `alloc` wants it.
fn bare<E>(allocated: Result<NonNull<u8>, E>) -> *mut u8 {
    allocated.map_or(ptr::null_mut(), NonNull::as_ptr)
}

// SAFETY: `kmalloc` gives memory of its own to each, as large as asked for, and `size_for` asks for what is as aligned
// as the layout; the boot heap does the same for its memory.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match CACHES.get() {
            Some(caches) => bare(caches.kmalloc(size_for(layout))),
            None => bare(boot::alloc(layout).ok_or(())),
        }
    }

    unsafe fn dealloc(&self, address: *mut u8, layout: Layout) {
        // SAFETY: nothing that was allocated is at null.
        let place = unsafe { NonNull::new_unchecked(address) };
        if boot::has(address) {
            // SAFETY: the boot heap gave it, and the caller promises the rest.
            return unsafe { boot::dealloc(place, layout) };
        }
        let freed = CACHES.get().map(|caches| {
            // SAFETY: the caller's promise.
            unsafe { caches.kfree(place) }
        });
        match freed {
            Some(Ok(())) => {}
            Some(Err(error)) => panic!("heap: {error}"),
            None => panic!("heap: foreign pointer: {place:p} is not of the boot heap, and there is no other"),
        }
    }

    unsafe fn realloc(&self, address: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size makes a layout.
        let resized = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let Some(caches) = CACHES.get().filter(|_| !boot::has(address)) else {
            // SAFETY: as above, and the size is not 0.
            let new = unsafe { self.alloc(resized) };
            if !new.is_null() {
                // SAFETY: both are as long as the shorter layout, and the new one was just allocated.
                unsafe { ptr::copy_nonoverlapping(address, new, layout.size().min(size)) };
                // SAFETY: the caller gives the old place up.
                unsafe { self.dealloc(address, layout) };
            }
            return new;
        };
        // SAFETY: nothing that was allocated is at null.
        let place = unsafe { NonNull::new_unchecked(address) };
        // SAFETY: the caller's promise.
        match unsafe { caches.krealloc(place, size_for(resized)) } {
            Ok(new) => new.as_ptr(),
            // A smaller one is there already, if need be where it is.
            Err(ReallocError::NoMemory(_)) if size <= layout.size() => address,
            Err(ReallocError::NoMemory(_)) => ptr::null_mut(),
            Err(ReallocError::NotAllocated(error)) => panic!("heap: {error}"),
        }
    }
}

ktest!(
    "heap",
    fn the_boot_heap_is_empty_after_boot_and_its_memory_is_free_and_counted() {
        let (allocator, setup) = memory::allocator().zip(memory::setup()).ok_or("the page allocator is not up")?;
        let platform = Platform::get().ok_or("the platform is not up")?;
        let space = space::kernel().ok_or("page tables have no owners")?;
        let fate = BOOT_HEAPS_FATE.get().ok_or("the boot heap was not retired")?;
        let Fate::Adopted(Count(pages)) = *fate else {
            check!(false, "the boot heap was not empty: {fate:?}");
            return Ok(());
        };
        let range = boot::addresses();
        let all = (range.end - range.start) / PAGE_SIZE as u64;
        check!(u64::from(pages) == all, "of {all} pages only {pages} are the page allocator's");
        let mapped = range.step_by(PAGE_SIZE).find(|&page| live::find(platform, page).is_some());
        check!(mapped.is_none(), "{mapped:x?} is still mapped in the image");
        check!(boot::held().allocations == Count(0), "it holds {}", boot::held());
        let managed: u32 = allocator.zones().map(|zone| zone.managed).sum();
        let tables = allocator.metadata().total() / PAGE_SIZE as u64;
        let adopted = space.adopted().0 + retire::given_back().0;
        let given = u64::from(setup.usable_pages) - tables + u64::from(adopted);
        check!(u64::from(managed) == given, "{managed} pages are managed, and {given} were given");
        Ok(())
    }
);

ktest!(
    "heap",
    fn what_is_freed_can_be_had_again() {
        use alloc::vec::Vec;

        const HALF: usize = 512 * 1024;
        let before = census();
        for round in 0..64_u8 {
            let half = alloc::vec![round; HALF];
            check!(half.iter().all(|&byte| byte == round), "round {round}: the memory does not hold what was written");
        }
        let pieces: Vec<Vec<u8>> = (1..200).map(|size| alloc::vec![0; size]).collect();
        let odd: Vec<Vec<u8>> = pieces.into_iter().filter(|piece| piece.len() % 2 == 1).collect();
        // A piece and the list itself is one each.
        check!(census().objects.0 == before.objects.0 + 101, "{before} became {} with {}", census(), odd.len());
        drop(odd);
        check!(census() == before, "{before} became {}", census());
        Ok(())
    }
);

ktest!(
    "heap",
    fn memory_is_aligned_as_asked_and_keeps_its_contents_when_it_grows_and_shrinks() {
        const SIZES: [usize; 9] = [1, 24, 65, 96, 129, 192, 1000, 8192, 20_000];
        for (size, shift) in SIZES.into_iter().flat_map(|size| (0..=16).map(move |shift| (size, shift))) {
            let align = 1 << shift;
            let (layout, fill) = (Layout::from_size_align(size, align)?, (size + shift).to_le_bytes()[0] | 1);
            // SAFETY: the size is not 0.
            let mut place = unsafe { alloc::alloc::alloc_zeroed(layout) };
            let mut len = size;
            for new in [size, 3 * size, size.div_ceil(2)] {
                check!(!place.is_null() && place.addr().is_multiple_of(align), "{layout:?} is at {place:p}");
                let kept = size.min(len);
                // SAFETY: so long it is.
                let bytes = unsafe { core::slice::from_raw_parts_mut(place, len) };
                let expected = if len == size && new == size { 0 } else { fill };
                check!(bytes[..kept].iter().all(|&byte| byte == expected), "{layout:?}: its contents are lost");
                bytes.fill(fill);
                // SAFETY: it has this length and alignment, and a new length that is not 0.
                place = unsafe { alloc::alloc::realloc(place, Layout::from_size_align(len, align)?, new) };
                len = new;
            }
            check!(!place.is_null() && place.addr().is_multiple_of(align), "{layout:?}, smaller, is at {place:p}");
            // SAFETY: it has this layout, and nobody uses it any more.
            unsafe { alloc::alloc::dealloc(place, Layout::from_size_align(len, align)?) };
        }
        Ok(())
    }
);

ktest!(
    "heap",
    fn what_is_larger_than_any_block_is_refused_and_costs_nothing() {
        let before = census();
        for size in [5 << 20, 1 << 40, isize::MAX.cast_unsigned()] {
            let refused = alloc::vec::Vec::<u8>::new().try_reserve_exact(size);
            check!(refused.is_err(), "{size} bytes can be had");
        }
        let aligned = Layout::from_size_align(8, 8 << 20)?;
        // SAFETY: the size is not 0.
        let place = unsafe { alloc::alloc::alloc(aligned) };
        // A compiler that sees it used for nothing may say that it was had, and not ask.
        check!(core::hint::black_box(place).is_null(), "{aligned:?} can be had");
        check!(census() == before, "{before} became {}", census());
        Ok(())
    }
);

ktest!(
    WhenNamed,
    "crash",
    fn heap_double_free() {
        let layout = Layout::new::<[u64; 8]>();
        // SAFETY: the size is not 0.
        let place = unsafe { alloc::alloc::alloc(layout) };
        for _ in 0..2 {
            // SAFETY: it has this layout; the second time it is not allocated, and the heap's panic ends the kernel.
            unsafe { alloc::alloc::dealloc(core::hint::black_box(place), layout) };
        }
        Err("the kernel goes on".into())
    }
);
