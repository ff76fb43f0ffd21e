//! Somebody flips a bit of this machine's memory while the kernel waits: a debugger, through QEMU. The kernel says where what
//! stands that there is a point in flipping, and once that is done uses all the memory that it has.
//!
//! What it prints is read by the harness (`tests/src/flips.rs`): a line `# flip at ADDRESS BYTES KIND` for each place, all physical,
//! then `# flip now ADDRESS`, where it waits for a word that is not zero; in the end `# flip over: …`, unless the flip
//! has ended it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::ptr::NonNull;

use mm::PageState;
use mm::machine::Machine;
use mm::page::Request;
use mm::slab::CacheSpec;
use mm::units::{Bytes, Count, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};

use super::{Outcome, diagnostic, ktest};
use crate::memory::{self, Allocator, Caches};

/// Pages that are held to begin with, of which some go: lists get longer than they are inline.
const PAGES: u32 = 400;

/// Pages that are left free, for whatever the kernel needs meanwhile.
const LEFT: u32 = 64;

/// Objects of a cache, which is the test's.
const OBJECTS: usize = 40;

/// What the test has.
struct Held {
    pages: Vec<Pfn>,
    objects: Vec<NonNull<u8>>,
    /// Of what could not be given back, the first error.
    refused: Option<String>,
}

fn free(allocator: &Allocator, held: &mut Held, head: Pfn) {
    // SAFETY: the test has it, and does not use it.
    if let Err(error) = unsafe { allocator.free_raw(head) } {
        held.refused.get_or_insert_with(|| format!("{error}"));
    }
}

fn free_object(caches: &Caches, held: &mut Held, object: NonNull<u8>) {
    // SAFETY: the test has it, and does not use it.
    if let Err(error) = unsafe { caches.kfree(object) } {
        held.refused.get_or_insert_with(|| format!("{error}"));
    }
}

/// Says where what stands.
fn name_places(allocator: &Allocator, held: &Held) -> Outcome {
    let place = |pfn| allocator.descriptor_place(pfn).ok_or("a frame has no descriptor");
    let end = allocator.zones().map(|zone| zone.span.end).max().ok_or("there is no zone")?;
    let mut seen = [false; 16];
    let first_of_each_state = PfnRange::new(Pfn::new(0), end).frames().filter_map(|pfn| {
        let (state, _) = allocator.page_state(pfn);
        let seen = &mut seen[state as usize % 16];
        (!core::mem::replace(seen, true)).then_some((pfn, name(state)))
    });
    let object = *held.objects.first().ok_or("there is no object")?;
    let slab = Pfn::containing(allocator.machine().physical(object)).ok_or("an object is nowhere")?;
    for (pfn, kind) in first_of_each_state.chain([(slab, "page of a slab")]) {
        let PhysAddr(words) = place(pfn)?;
        diagnostic!("flip at {words:#x} 8 first word of a {kind}");
        diagnostic!("flip at {:#x} 8 second word of a {kind}", words + 8);
        if allocator.page_state(pfn).0 == PageState::Node {
            diagnostic!("flip at {:#x} 64 slots of a {kind}", pfn.address().0);
        }
    }
    let PhysAddr(words) = place(slab)?;
    let table = Pfn::containing(PhysAddr(words)).ok_or("a descriptor is nowhere")?;
    let offset = usize::try_from(words % PAGE_SIZE as u64).map_err(|_| "a page is too long")? + 8;
    // SAFETY: descriptors are in the direct map, and none crosses a page.
    let word = unsafe { allocator.machine().direct_map(table).add(offset) }.cast::<*mut u8>();
    // SAFETY: it is the second word of a descriptor, which leads to a slab's as long as an object of that is held.
    let descriptor = unsafe { word.read_volatile() };
    let descriptor = NonNull::new(descriptor.map_addr(|address| address & !0xf)).ok_or("a slab has no descriptor")?;
    diagnostic!("flip at {:#x} 128 descriptor of a slab", allocator.machine().physical(descriptor).0);
    Ok(())
}

const fn name(state: PageState) -> &'static str {
    match state {
        PageState::Hole => "hole",
        PageState::Reserved => "reserved page",
        PageState::Tail => "tail",
        PageState::Free => "free block",
        PageState::Node => "node",
        PageState::Allocated => "block that is held",
        PageState::Isolated => "block in flight",
        PageState::Cached => "block at hand",
        PageState::Offline => "section out of use",
    }
}

/// Uses everything: what is held goes, what there is comes, and goes again.
fn use_all(allocator: &Allocator, caches: &Caches, held: &mut Held) {
    let alloc = |held: &mut Held, order: usize| {
        let enough = allocator.free_pages() > LEFT + Order::of(order).pages();
        let room = held.pages.len() < held.pages.capacity();
        let head = if enough && room { allocator.alloc_raw(Request::new(Order::of(order))).ok() } else { None };
        head.map(|head| held.pages.push(head))
    };
    for _ in 0..OBJECTS {
        if let Ok(object) = caches.kmalloc(Bytes(200)) {
            free_object(caches, held, object);
        }
    }
    for order in [0, 4, 1, 0] {
        let mut keep = true;
        for head in core::mem::take(&mut held.pages) {
            keep = !keep;
            if keep && held.pages.len() < held.pages.capacity() {
                held.pages.push(head);
            } else {
                free(allocator, held, head);
            }
        }
        held.pages.reserve_exact(3000);
        while alloc(held, order).is_some() {}
    }
    for head in core::mem::take(&mut held.pages) {
        free(allocator, held, head);
    }
    for object in core::mem::take(&mut held.objects) {
        free_object(caches, held, object);
    }
    let Count(_) = allocator.drain();
}

ktest!(
    WhenNamed,
    "flips",
    fn somebody_flips_a_bit_and_everything_is_used() {
        let allocator = memory::allocator().ok_or("the page allocator is not up")?;
        let caches = memory::caches().ok_or("the caches are not up")?;
        let mut held = Held { pages: Vec::with_capacity(3000), objects: Vec::new(), refused: None };
        let cache = caches.create(CacheSpec::new("flips", 256))?;
        for _ in 0..OBJECTS {
            held.objects.push(cache.alloc_raw()?);
        }
        for _ in 0..PAGES {
            held.pages.push(allocator.alloc_raw(Request::new(Order::ZERO))?);
        }
        held.pages.push(allocator.alloc_raw(Request::new(Order::of(3)))?);
        let gone: Vec<_> = held.pages.extract_if(.., |head| matches!(head.number() % 5, 1 | 3)).collect();
        let (at_hand, to_zone) = gone.split_at(8);
        to_zone.iter().for_each(|&head| free(allocator, &mut held, head));
        let Count(_) = allocator.drain();
        at_hand.iter().for_each(|&head| free(allocator, &mut held, head));
        let bell = allocator.alloc(Request::new(Order::ZERO))?;
        let rung = allocator.machine().direct_map(bell.head()).cast::<u32>();
        // SAFETY: the page is the test's.
        unsafe { rung.write_volatile(0) };
        name_places(allocator, &held)?;
        diagnostic!("flip now {:#x}", bell.head().address().0);
        // SAFETY: as above, and whoever else writes is no CPU.
        while unsafe { rung.read_volatile() } == 0 {
            spin_loop();
        }
        // SAFETY: as above.
        if unsafe { rung.read_volatile() } > 1 {
            let found = allocator.verify().and_then(|()| caches.verify());
            diagnostic!("flip looked for: {found:?}");
        }
        use_all(allocator, caches, &mut held);
        drop(bell);
        let found = allocator.verify().and_then(|()| caches.verify()).and_then(|()| allocator.verify_specified());
        match (&held.refused, &found) {
            (Some(refused), _) => diagnostic!("flip over: refused, {refused}"),
            (None, Err(violation)) => diagnostic!("flip over: found afterwards, {violation}"),
            (None, Ok(())) => diagnostic!("flip over: nothing"),
        }
        // Whoever finds such a thing does not go on with it.
        match found {
            Err(violation) => panic!("{violation}"),
            Ok(()) => Ok(()),
        }
    }
);
