//! What users of caches see, on a machine of several CPUs played by threads.

use core::num::NonZeroU16;
use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::thread;
use std::vec::Vec;

use self::crowd::Sent;
use super::cache::mark_of;
use super::{CacheReport, CacheSpec, Census, FreeObjectError, KmemCache, KmemCaches, SlabDebug};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::sweep::fail_each_once;
use crate::host::{HostMachine, on_cpu, scaled};
use crate::page::{PageAllocator, Request};
use crate::units::{Bytes, Count, CpuId, NodeId, Order, Pfn, PhysAddr};

const CPUS: u16 = 4;

type Pages<'m> = PageAllocator<'m, HostMachine>;

mod checker;
mod counts;
mod crowd;
// What is shut may not have been written, which an interpreter does not let anybody look at.
#[cfg(not(miri))]
mod fences;
mod gone;
mod handlers;
mod init;
// By signals, which an interpreter has none of.
#[cfg(all(target_arch = "x86_64", not(miri)))]
mod interrupted;
#[cfg(not(miri))]
mod parts;
mod separate;
mod sheaves;
mod shown;
mod shuffle;
mod unwound;

/// One past the last frame, and where highmem begins.
const END: Pfn = Pfn::new(scaled(0x2000, 0x400));
const LOWMEM_END: Pfn = Pfn::new(scaled(0x1000, 0x300));

/// The first eight bytes of an object that looks free, whoever has it.
fn as_if_free(object: NonNull<u8>) -> u64 {
    u64::from(mark_of(object)) << 32
}

/// A machine with lowmem and highmem.
pub(super) fn with_pages<R>(test: impl FnOnce(&Pages<'_>) -> R) -> R {
    with_pages_of(CPUS, test)
}

/// The same, of so many CPUs.
fn with_pages_of<R>(cpus: u16, test: impl FnOnce(&Pages<'_>) -> R) -> R {
    let cpus = NonZeroU16::new(cpus).expect("not zero");
    let machine = HostMachine::new(END, LOWMEM_END, cpus).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: END.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let free = pages.free_pages();
    let result = test(&pages);
    pages.verify().expect("the page allocator is sound");
    assert_eq!(pages.free_pages(), free, "pages were lost");
    result
}

/// Runs a test as it is, and with all that it allocates debugged: then there is nothing to report either.
fn with_caches(test: impl Fn(&KmemCaches<'_, HostMachine>)) {
    for debug in [SlabDebug::NONE, SlabDebug::parse("FZPU").expect("these are flags")] {
        with_pages(|pages| {
            let caches = KmemCaches::new_with(pages, debug).expect("there is memory");
            caches.verify().expect("all is well at first");
            test(&caches);
            caches.verify().expect("all is well at last");
            assert_eq!(pages.machine().take_reports(), [""; 0]);
        });
    }
}

/// Frees an object that nobody uses any more, or what is none and is refused.
pub(super) fn free(cache: &KmemCache<'_, HostMachine>, address: NonNull<u8>) -> Result<(), FreeObjectError> {
    // SAFETY: every caller in these tests is done with the object.
    unsafe { cache.free_raw(address) }
}

/// What is said of the cache of this name.
fn report_of(caches: &KmemCaches<'_, HostMachine>, name: &str) -> CacheReport {
    let mut found = None;
    caches.for_each_report(|report| {
        if report.name.as_str() == name {
            found = Some(report);
        }
    });
    found.expect("there is a cache of that name")
}

/// Objects allocated and not freed, but for the descriptors of slabs: sheaves may come to lie scattered.
fn taken(caches: &KmemCaches<'_, HostMachine>) -> u32 {
    caches.shrink();
    let mut taken = 0;
    caches.for_each_report(|report| {
        if report.name.as_str() != "slab" {
            taken += report.active.0;
        }
    });
    taken
}

#[test]
fn objects_of_every_size_and_alignment_are_aligned_apart_and_keep_their_contents() {
    with_caches(|caches| {
        let before = taken(caches);
        for (size, align) in [
            (1, 1),
            (8, 8),
            (24, 8),
            (24, 16),
            (40, 64),
            (100, 4096),
            (200, 128),
            (4096, 8),
            (5000, 32),
            (70_000, 4096),
        ]
        .into_iter()
        .take(scaled(10, 9))
        {
            let cache = caches.create(CacheSpec::new("sized", size).aligned(align)).expect("it fits");
            let mut held: Vec<_> = (0..scaled(150, 30).min(scaled(4 << 20, 1 << 14) / size))
                .map(|_| cache.alloc().expect("there is memory"))
                .collect();
            for (number, object) in (0_u8..).zip(&mut held) {
                assert_eq!(object.address().addr().get() % align as usize, 0, "{size} {align}");
                object.bytes_mut().fill(core::mem::MaybeUninit::new(number));
            }
            caches.verify().expect("all is well with objects out");
            for (number, object) in (0_u8..).zip(&mut held) {
                // SAFETY: all of it was just written.
                let intact = object.bytes_mut().iter().all(|byte| unsafe { byte.assume_init() } == number);
                assert!(intact, "object {number} of {size} bytes was written by another");
            }
            // Every second one goes first, so that slabs are partial.
            let mut keep = false;
            held.retain(|_| {
                keep = !keep;
                keep
            });
            caches.verify().expect("all is well with half of them out");
            drop(held);
            assert_eq!(cache.destroy().map_err(|leaked| leaked.objects), Ok(()));
        }
        assert_eq!(taken(caches), before);
    });
}

#[test]
fn a_constructor_runs_once_an_object_and_what_it_made_survives_free() {
    fn construct(bytes: &mut [core::mem::MaybeUninit<u8>]) {
        bytes.fill(core::mem::MaybeUninit::new(0xc5));
    }
    with_caches(|caches| {
        let cache = caches.create(CacheSpec::new("constructed", 56).constructed(construct)).expect("it fits");
        for _ in 0..scaled(500, 20) {
            let mut object = cache.alloc().expect("there is memory");
            // SAFETY: the constructor wrote all of it.
            assert!(object.bytes_mut().iter().all(|byte| unsafe { byte.assume_init() } == 0xc5));
        }
        let mut held: Vec<_> = (0..scaled(500, 100)).map(|_| cache.alloc().expect("there is memory")).collect();
        for object in &mut held {
            // SAFETY: as above.
            assert!(object.bytes_mut().iter().all(|byte| unsafe { byte.assume_init() } == 0xc5));
        }
    });
}

/// Who frees what was another's, long ago, may hit an object that nobody has had since.
#[test]
fn an_object_that_was_never_allocated_is_free_already() {
    with_caches(|caches| {
        for size in [8, 96, 1024] {
            let cache = caches.create(CacheSpec::new("young", size)).expect("it fits");
            let object = cache.alloc_raw().expect("there is memory");
            let report = cache.report();
            let others = (1..report.objects_per_slab.0 as usize).flat_map(|nth| {
                let distance = nth * report.stride.0;
                [
                    object.map_addr(|at| at.saturating_add(distance)),
                    object.map_addr(|at| (at.get() - distance).try_into().unwrap()),
                ]
            });
            let slab = caches.slab_pages(object);
            // SAFETY: an object of that slab is allocated.
            let is_object = |at| unsafe { caches.ksize(at) }.is_ok();
            let others: Vec<_> = others.filter(|&at| caches.slab_pages(at) == slab && is_object(at)).collect();
            assert_eq!(others.len() + 1, report.objects_per_slab.0 as usize);
            for other in others {
                let wrong = free(&cache, other);
                assert!(matches!(wrong, Err(FreeObjectError::DoubleFree { .. })), "{size} at {other:?}: {wrong:?}");
            }
            assert_eq!(free(&cache, object), Ok(()));
        }
    });
}

#[test]
fn every_wrong_free_is_named_and_changes_nothing() {
    with_caches(|caches| {
        let [one, other] = ["one", "other"].map(|name| caches.create(CacheSpec::new(name, 96)).expect("it fits"));
        let object = one.alloc_raw().expect("there is memory");
        let wrong = free(&other, object);
        assert!(matches!(wrong, Err(FreeObjectError::WrongCache { .. })), "{wrong:?}");
        for offset in [1, 8, 95] {
            // SAFETY: the object is that large.
            let misaligned = free(&one, unsafe { object.add(offset) });
            assert!(matches!(misaligned, Err(FreeObjectError::Misaligned { .. })), "{offset}: {misaligned:?}");
        }
        assert_eq!(free(&one, object), Ok(()));
        for _ in 0..3 {
            let twice = free(&one, object);
            assert!(matches!(twice, Err(FreeObjectError::DoubleFree { .. })), "{twice:?}");
        }
        // In its slab again, it is still free.
        one.shrink();
        let keeper = one.alloc_raw().expect("there is memory");
        let neighbour = one.alloc_raw().expect("there is memory");
        assert_eq!(free(&one, neighbour), Ok(()));
        caches.gather_all();
        let twice = free(&one, neighbour);
        assert!(matches!(twice, Err(FreeObjectError::DoubleFree { .. })), "{twice:?}");
        assert_eq!(free(&one, keeper), Ok(()));
        let page = caches.pages.alloc(Request::new(Order::of(1))).expect("there is memory");
        let bytes = caches.pages.machine();
        for place in [
            crate::machine::Machine::direct_map(bytes, page.head()),
            crate::machine::Machine::direct_map(bytes, page.head().plus(1)),
            NonNull::from(&page).cast(),
            NonNull::dangling(),
        ] {
            // SAFETY: nothing there is an object, so it is refused.
            let foreign = unsafe { caches.kfree(place) };
            assert!(matches!(foreign, Err(FreeObjectError::Foreign(_))), "{foreign:?}");
        }
    });
}

#[test]
#[should_panic(expected = "invariant SLAB-1 broken")]
#[cfg_attr(asan, ignore = "a sanitizer stops it before")]
fn an_object_at_hand_that_somebody_wrote_to_since_it_was_freed_is_not_handed_out() {
    with_caches(|caches| {
        let object = caches.kmalloc(Bytes(64)).expect("there is memory");
        // SAFETY: the test uses it only once more, which is the bug that it is about.
        assert_eq!(unsafe { caches.kfree(object) }, Ok(()));
        // SAFETY: its slab stays.
        unsafe { object.cast::<u64>().write(0) };
        let _ = caches.kmalloc(Bytes(64));
    });
}

#[test]
fn an_owner_that_stores_the_mark_itself_is_not_taken_for_free() {
    with_caches(|caches| {
        let object = caches.kmalloc(Bytes(64)).expect("there is memory");
        // SAFETY: the object is this test's, and has room.
        unsafe { object.cast::<u64>().write(as_if_free(object)) };
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { caches.kfree(object) }, Ok(()));
    });
}

#[test]
fn memory_by_size_has_that_size_and_can_change_it() {
    with_caches(|caches| {
        let before = taken(caches);
        let nothing = Census { objects: Count(0), bytes: Bytes(0) };
        assert_eq!(caches.census(), nothing);
        let mut held = Vec::new();
        for size in
            (1..300).step_by(scaled(1, 61)).chain([4095, 4096, 4097, 8192, 8193, 20_000, scaled(1 << 20, 1 << 15)])
        {
            let object = caches.kmalloc(Bytes(size)).expect("there is memory");
            // SAFETY: it was just allocated.
            assert!(unsafe { caches.ksize(object) }.expect("it was just allocated") >= Bytes(size));
            // SAFETY: it is that large.
            unsafe { object.write_bytes(size.to_le_bytes()[0], size) };
            held.push((object, size));
        }
        for (object, size) in &mut held {
            for new in [*size * 2, *size / 2 + 1, 3 * *size] {
                // SAFETY: the old place is not used again.
                *object = unsafe { caches.krealloc(*object, Bytes(new)) }.expect("there is memory");
                let kept = (*size).min(new);
                for at in [0, kept / 2, kept - 1].into_iter().filter(|&at| at < *size / 2 + 1) {
                    // SAFETY: the object is that large.
                    let place = unsafe { object.add(at) };
                    // SAFETY: as above.
                    let byte = unsafe { place.read() };
                    assert_eq!(byte, size.to_le_bytes()[0], "{size} to {new}");
                }
            }
        }
        let census = caches.census();
        // SAFETY: it is allocated.
        let room = |object| unsafe { caches.ksize(object) }.expect("it is allocated").0;
        let really = held.iter().map(|&(object, _)| room(object)).sum();
        assert_eq!((census.objects.0 as usize, census.bytes), (held.len(), Bytes(really)));
        for (object, _) in held {
            // SAFETY: nobody uses it any more.
            assert_eq!(unsafe { caches.kfree(object) }, Ok(()));
        }
        assert_eq!(caches.census(), nothing);
        assert_eq!(taken(caches), before);
        assert!(caches.kmalloc(Bytes(usize::MAX)).is_err());
        assert!(caches.kmalloc(Bytes(5 << 20)).is_err());
    });
}

#[test]
fn an_object_of_a_cache_moves_when_it_is_to_grow_though_its_pages_would_do() {
    with_caches(|caches| {
        let cache = caches.create(CacheSpec::new("ten thousand", 10_000)).expect("it fits");
        let object = cache.alloc_raw().expect("there is memory");
        // SAFETY: it is that long, and this test's.
        unsafe { object.as_ptr().write_bytes(0xc5, 10_000) };
        // SAFETY: as above, and nobody uses the old place any more.
        let grown = unsafe { caches.krealloc(object, Bytes(12_000)) }.expect("there is memory");
        assert_ne!(grown, object);
        // SAFETY: it is that long.
        let last = unsafe { grown.add(9_999) };
        // SAFETY: what stood there was copied.
        assert_eq!(unsafe { last.read() }, 0xc5);
        // SAFETY: it was just allocated, and nobody uses it any more.
        assert_eq!(unsafe { caches.kfree(grown) }, Ok(()));
    });
}

#[test]
fn random_work_never_gives_one_object_to_two_and_ends_as_it_began() {
    with_caches(|caches| {
        let before = taken(caches);
        let sizes = [8, 24, 64, 192, 1000, 4096, 9000];
        let made: Vec<_> =
            sizes.iter().map(|&size| caches.create(CacheSpec::new("random", size)).expect("it fits")).collect();
        let mut rng = fastrand::Rng::with_seed(7);
        let mut held: BTreeMap<usize, (usize, NonNull<u8>)> = BTreeMap::new();
        for step in 0..scaled(40_000, 300) {
            let grow = rng.u32(0..100) < if step / scaled(4000, 75) % 2 == 0 { 60 } else { 35 };
            if grow {
                let which = rng.usize(0..made.len());
                let Ok(object) = made[which].alloc_raw() else { continue };
                let (start, end) = (object.addr().get(), object.addr().get() + sizes[which] as usize);
                let below = held.range(..end).next_back();
                let clear = below.is_none_or(|(&at, &(other, _))| at + sizes[other] as usize <= start);
                assert!(clear, "step {step}: {start:#x} overlaps an object that is allocated");
                // SAFETY: the object is that large.
                unsafe { object.write_bytes(0xff, sizes[which] as usize) };
                held.insert(start, (which, object));
            } else if let Some(&at) = held.keys().nth(rng.usize(0..held.len().max(1))) {
                let (which, object) = held.remove(&at).expect("it was just found");
                // SAFETY: nobody uses it any more.
                assert_eq!(unsafe { made[which].free_raw(object) }, Ok(()));
            }
            if step % scaled(500, 150) == 0 {
                caches.verify().expect("all is well");
            }
            if step % scaled(7000, 70) == 0 {
                caches.shrink();
            }
        }
        for (which, object) in held.into_values() {
            // SAFETY: nobody uses it any more.
            assert_eq!(unsafe { caches.kfree(object) }, Ok(()), "{which}");
        }
        for cache in made {
            assert_eq!(cache.destroy().map_err(|leaked| leaked.objects), Ok(()));
        }
        assert_eq!(taken(caches), before);
    });
}

#[test]
fn a_cache_with_objects_out_is_not_destroyed_and_says_which() {
    with_caches(|caches| {
        let cache = caches.create(CacheSpec::new("leaky", 48)).expect("it fits");
        let mut held: Vec<_> = (0..300).map(|_| cache.alloc_raw().expect("there is memory")).collect();
        let kept = held.swap_remove(137);
        for object in held {
            // SAFETY: nobody uses it any more.
            assert_eq!(unsafe { cache.free_raw(object) }, Ok(()));
        }
        let leaked = cache.destroy().expect_err("an object is out");
        assert_eq!((leaked.objects, leaked.first.0), (1, kept.addr().get()));
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { leaked.cache.free_raw(kept) }, Ok(()));
        assert!(leaked.cache.destroy().is_ok());
    });
}

#[test]
fn what_was_set_aside_can_be_had_when_there_is_no_memory_left() {
    with_caches(|caches| {
        let cache = caches.create(CacheSpec::new("set aside", 512)).expect("it fits");
        let mut aside = cache.prefill(Count(200)).expect("there is memory");
        let mut hoard = Vec::new();
        while let Ok(page) = caches.pages.alloc(Request::new(Order::ZERO)) {
            hoard.push(page);
        }
        let rest: Vec<_> = core::iter::from_fn(|| cache.alloc().ok()).collect();
        let got: Vec<_> = core::iter::from_fn(|| aside.alloc()).collect();
        assert_eq!((got.len(), aside.left()), (200, Count(0)));
        let mut places: Vec<_> = got.iter().chain(&rest).map(super::Object::address).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), got.len() + rest.len(), "an object was given to two");
        drop((got, aside));
        // One that is not used up goes back whole, and one that cannot be had leaves nothing.
        drop(cache.prefill(Count(150)).expect("there are so many"));
        assert!(cache.prefill(Count(100_000)).is_err());
        drop(rest);
        assert!(cache.destroy().is_ok());
    });
}

#[test]
fn threads_that_free_each_others_objects_lose_none_and_share_none() {
    with_caches(|caches| {
        let before = taken(caches);
        let cache = caches.create(CacheSpec::new("shared", 40)).expect("it fits");
        let (cache_ref, rounds) = (&cache, scaled(300, 3));
        let channels: Vec<_> = (0..CPUS).map(|_| std::sync::mpsc::channel::<Vec<Sent>>()).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) = channels.into_iter().unzip();
        thread::scope(|scope| {
            for (cpu, receiver) in (0..CPUS).zip(receivers) {
                let next = senders[usize::from(cpu + 1) % senders.len()].clone();
                scope.spawn(move || {
                    on_cpu(CpuId(cpu), || {
                        let tag = u64::from(cpu) << 32;
                        for round in 0..rounds {
                            let batch: Vec<_> = (0..scaled(90, 20))
                                .map(|_| {
                                    let object = cache_ref.alloc_raw().expect("there is memory").cast::<u64>();
                                    // SAFETY: the object is this thread's.
                                    unsafe { object.write(tag | round) };
                                    Sent(object)
                                })
                                .collect();
                            for Sent(object) in &batch {
                                // SAFETY: as above.
                                assert_eq!(unsafe { object.read() }, tag | round, "an object is two threads'");
                            }
                            if next.send(batch).is_err() {
                                break;
                            }
                            let remote = receiver.recv().expect("the other thread runs");
                            for Sent(object) in remote {
                                // SAFETY: the other thread gave it up.
                                assert_eq!(unsafe { cache_ref.free_raw(object.cast()) }, Ok(()));
                            }
                            if cpu == 0 && round % scaled(50, 2) == 0 {
                                cache_ref.shrink();
                            }
                        }
                    });
                });
            }
            drop(senders);
        });
        caches.verify().expect("all is well when the threads are done");
        assert_eq!(cache.destroy().map_err(|leaked| leaked.objects), Ok(()));
        assert_eq!(taken(caches), before);
    });
}

#[test]
fn memory_in_other_cpus_sheaves_is_found_by_whoever_needs_it() {
    with_caches(|caches| {
        let cache = caches.create(CacheSpec::new("scarce", 1024)).expect("it fits");
        // An interpreter takes milliseconds for an object.
        let ballast = |_| caches.pages.alloc(Request::new(Order::of(4))).ok();
        let _ballast: Vec<_> = (0..scaled(0, 36)).map_while(ballast).collect();
        let mut all = Vec::new();
        while let Ok(object) = cache.alloc() {
            all.push(object);
        }
        let count = all.len();
        assert!(count > scaled(8000, 100), "{count}");
        on_cpu(CpuId(1), || all.truncate(count - 20));
        on_cpu(CpuId(2), || all.truncate(count - 33));
        for _ in 0..33 {
            all.push(cache.alloc().expect("another CPU has one"));
        }
        assert!(cache.alloc().is_err());
    });
}

#[test]
fn the_nth_allocation_may_fail_for_every_n_and_nothing_is_lost() {
    with_pages(|pages| {
        let swept = fail_each_once(pages, || script(pages));
        assert!(swept.allocations >= 200 && swept.absorbed < 5, "{swept:?}");
    });
}

/// Makes caches, sheaves, slabs and large blocks, and gives up at the first failure.
fn script(pages: &Pages<'_>) -> Result<(), std::string::String> {
    let text = |error: &dyn std::fmt::Display| std::format!("{error}");
    let caches = KmemCaches::new(pages).map_err(|error| text(&error))?;
    let outcome = (|| {
        let cache = caches.create(CacheSpec::new("script", 700)).map_err(|error| text(&error))?;
        let held: Result<Vec<_>, _> = (0..30).map(|_| cache.alloc()).collect();
        let held = held.map_err(|error| text(&error))?;
        let aside = cache.prefill(Count(70)).map_err(|error| text(&error))?;
        let large = caches.kmalloc(Bytes(50_000)).map_err(|error| text(&error))?;
        // SAFETY: the old place is not used again; on failure it is freed below with everything else.
        let larger = unsafe { caches.krealloc(large, Bytes(100_000)) };
        // SAFETY: nobody uses it any more.
        unsafe { caches.kfree(larger.unwrap_or(large)) }.map_err(|error| text(&error))?;
        larger.map_err(|error| text(&error))?;
        drop((held, aside));
        cache.destroy().map_err(|leaked| text(&leaked))
    })();
    caches.verify().map_err(|violation| text(&violation))?;
    outcome
}

#[test]
fn a_group_pays_for_the_slabs_of_a_cache_and_gets_its_charge_back() {
    with_caches(|caches| {
        let group = caches.pages.groups().create(Some(12)).expect("there is a group");
        let request = Request::new(Order::ZERO).charged_to(group.id());
        let cache = caches.create(CacheSpec::new("charged", 2048).from(request)).expect("it fits");
        let held: Vec<_> = core::iter::from_fn(|| cache.alloc().ok()).collect();
        let CacheReport { slabs, objects, .. } = cache.report();
        let pages = cache.report().pages().0;
        assert_eq!((held.len(), group.report().usage), (objects.0 as usize, pages));
        assert!(pages <= 12 && pages + pages / slabs.0 > 12, "{pages} pages, but one more slab was within the limit");
        caches.pages.verify_charges().expect("the charges add up");
        drop(held);
        cache.shrink();
        assert_eq!(group.report().usage, 0);
        assert!(cache.destroy().is_ok());
        assert!(group.destroy().is_ok());
    });
}
