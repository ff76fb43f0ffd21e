//! What holders of owned blocks and walkers see; `stress` is the same with everything at once.

use core::num::NonZeroU16;
use std::format;
use std::string::String;
use std::vec::Vec;

use super::{
    CompressedStore, Folio, KernelStack, OwnError, Owned, Owner, Owners, PageTable, PerCpuArea, Reference, Seen,
    TableLevel, TaskId, Walker,
};
use crate::OwnerKind;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::desc::owner_word::OwnerWord;
use crate::faults::Fired;
use crate::host::sweep::fail_each_once;
use crate::host::{HostMachine, scaled};
use crate::invariant::Invariant;
use crate::page::{FailureOutcome, FreeError, PageAllocator, Request};
use crate::slab::{CacheSpec, KmemCaches};
use crate::units::{Bytes, Count, CpuId, NodeId, Order, Pfn, PfnRange};

mod frozen;
mod notes;
mod others;
mod stress;
mod tables;

const CPUS: u16 = 6;
const ORDERS: &[usize] = scaled(&[0, 1, 3, 9, 10], &[3]);

type Pages<'m> = PageAllocator<'m, HostMachine>;

/// Frames of what is called a MiB here.
const FRAMES: u32 = scaled(1 << 8, 1 << 5);

fn frames(mib: u32) -> Pfn {
    Pfn::new(mib * FRAMES)
}

/// A machine of 32 MiB, the uppermost 8 of them highmem, with a hole of 3 MiB that begins inside a section.
fn with_pages<R>(test: impl FnOnce(&Pages<'_>) -> R) -> R {
    let cpus = NonZeroU16::new(CPUS).expect("not zero");
    let machine = HostMachine::new(frames(32), frames(24), cpus).expect("the host lends memory");
    let usable = |start, len| {
        let kind = RegionKind::Usable;
        Region { start: frames(start).address(), len: frames(len).address().0, kind, node: NodeId(0) }
    };
    let mut map: BootMap = BootMap::new(&[usable(0, 13), usable(16, 16)]).expect("the map is sound");
    let pages = machine.allocator(&mut map).expect("the tables fit");
    let free = pages.free_pages();
    let result = test(&pages);
    pages.verify().expect("the page allocator is sound");
    assert_eq!(pages.free_pages(), free, "pages were lost");
    result
}

fn with_owners<R>(test: impl FnOnce(&Owners<'_, HostMachine>) -> R) -> R {
    with_pages(|pages| {
        let caches = KmemCaches::new(pages).expect("there is memory");
        let owners = Owners::new(&caches).expect("there is memory");
        owners.verify().expect("all is well at first");
        let result = test(&owners);
        owners.verify().expect("all is well at last");
        for report in owners.reports().filter(|report| report.kind != OwnerKind::Slab) {
            assert_eq!((report.blocks, report.pages), (Count(0), Count(0)), "{} left", report.kind.name());
        }
        result
    })
}

/// Looks at every frame of a block and around it, from head and tails alike.
fn sees(walker: &Walker<'_, HostMachine>, range: PfnRange, order: Order, kind: OwnerKind) {
    for pfn in range.frames() {
        let sighting = walker.look(pfn);
        assert_eq!(sighting.seen(), Seen::Allocated(kind), "{pfn:?}");
        assert_eq!((sighting.head(), sighting.order()), (range.start, order), "{pfn:?}");
        let reference = sighting.get();
        assert_eq!(reference.as_ref().map(Reference::kind), kind.has_descriptor().then_some(kind));
        assert!(reference.is_none_or(|reference| reference.range() == range));
    }
    for outside in [range.start.number().wrapping_sub(1), range.end.number()].map(Pfn::new) {
        assert!(!walker.look(outside).range().contains(range.start), "{outside:?}");
    }
}

fn round_trip<T: Owner>(owners: &Owners<'_, HostMachine>, kind: OwnerKind, owner: impl Fn() -> T) {
    for order in ORDERS.iter().copied().map(Order::of) {
        for request in [Request::new(order), Request::movable(order)] {
            let mut owned = owners.alloc(request, owner()).map_err(|(_, error)| error).expect("there is memory");
            let walker = owners.walk();
            sees(&walker, owned.range(), order, kind);
            let last = Pfn::new(owned.range().end.number() - 1);
            assert_eq!(owned.with_page(last, |bytes| bytes.fill(0x5a)), Some(()));
            owners.verify().expect("all is well with an owner");
            // There and back: the block is the same, and so are its contents.
            let (mut block, owner) = owned.into_block().expect("nobody refers to it");
            sees(&walker, block.range(), order, OwnerKind::Plain);
            assert_eq!(block.with_page(last, |bytes| bytes.iter().all(|&byte| byte == 0x5a)), Some(true));
            let owned = owners.adopt(block, owner).map_err(|(_, _, error)| error).expect("there is memory");
            let range = owned.range();
            sees(&walker, range, order, kind);
            drop(owned);
            owners.pages().drain();
            for pfn in range.frames() {
                assert_eq!(walker.look(pfn).seen(), Seen::Free, "{pfn:?}");
            }
        }
    }
}

#[test]
fn a_block_of_every_kind_is_seen_from_each_of_its_frames_and_becomes_plain_and_owned_again() {
    with_owners(|owners| {
        round_trip(owners, OwnerKind::Folio, Folio::new);
        round_trip(owners, OwnerKind::PageTable, || PageTable::new(TableLevel(1)));
        round_trip(owners, OwnerKind::CompressedStore, || CompressedStore::new(Bytes(2048)));
        round_trip(owners, OwnerKind::PerCpuArea, || PerCpuArea { cpu: CpuId(3) });
        round_trip(owners, OwnerKind::KernelStack, || KernelStack { task: TaskId(1) });
    });
}

#[test]
fn a_walk_finds_every_frame_of_a_machine_with_holes_once() {
    with_owners(|owners| {
        let walker = owners.walk();
        // Frame 0 is none that anybody may have.
        for hole in [frames(0), frames(13), frames(15), frames(32), Pfn::new(u32::MAX - 1), Pfn::LIMIT] {
            assert_eq!(walker.look(hole).seen(), Seen::Hole);
        }
        // Its own tables are memory that the allocator was not given.
        let reserved = walker.blocks(walker.frames()).filter(|sighting| sighting.seen() == Seen::Reserved).count();
        assert!(reserved as u64 * 4096 >= owners.pages().metadata().total(), "{reserved} reserved frames");
        let held = [
            owners.alloc(Request::new(Order::of(2)), Folio::new()),
            owners.alloc(Request::movable(Order::of(5)), Folio::new()),
        ];
        let large = owners.caches.kmalloc(Bytes(100_000)).expect("there is memory");
        let types = walker.page_types();
        let usable = (13 + 16) * FRAMES - 1;
        assert_eq!(types.pages(), Count(usable));
        let free = types.free.pages().0 + types.nodes.pages().0 + types.cached.pages().0;
        assert_eq!(free, owners.pages().free_pages());
        assert_eq!(types.allocated(OwnerKind::Folio).pages(), Count(4 + 32));
        assert_eq!(types.allocated(OwnerKind::Folio).blocks(), Count(2));
        assert_eq!(types.allocated(OwnerKind::LargeKmalloc).pages(), Count(32));
        let slabs = owners.reports().find(|report| report.kind == OwnerKind::Slab).expect("there are slabs");
        assert_eq!(types.allocated(OwnerKind::Slab).pages(), slabs.pages);
        assert_eq!(types.moving.pages(), Count(0));
        // A part of a block is a part: what was asked for is what is shown.
        let start = held[1].as_ref().map_err(|(_, error)| *error).expect("there is memory").range().start;
        let inside = PfnRange::new(start.plus(3), start.plus(5));
        assert_eq!(walker.blocks(inside).count(), 1);
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { owners.caches.kfree(large) }, Ok(()));
        drop(held);
    });
}

#[test]
fn a_reference_outlives_the_walk_and_the_owner_and_keeps_the_block() {
    with_owners(|owners| {
        let free = owners.pages().free_pages();
        let stack = KernelStack { task: TaskId(77) };
        let owned =
            owners.alloc(Request::new(Order::of(2)), stack).map_err(|(_, error)| error).expect("there is memory");
        let range = owned.range();
        let get = || owners.walk().look(range.start.plus(3)).get();
        let (first, second) = (get().expect("it is alive"), get().expect("it is alive"));
        let owned = owned.into_block().expect_err("others refer to it");
        assert_eq!(owned.task, TaskId(77));
        drop(owned);
        assert!(owners.pages().free_pages() < free);
        sees(&owners.walk(), range, Order::of(2), OwnerKind::KernelStack);
        drop(first);
        let Reference::KernelStack(stack) = &second else { panic!("{second:?} is no stack") };
        assert_eq!(stack.task, TaskId(77));
        owners.verify().expect("an owner without its first reference is one");
        drop(second);
        assert_eq!(owners.walk().look(range.start).seen(), scaled(Seen::Cached, Seen::Free));
        assert!(get().is_none());
    });
}

#[test]
fn what_was_seen_cannot_be_had_once_it_is_gone_though_its_descriptor_serves_again() {
    with_owners(|owners| {
        let alloc = |task| {
            let stack = KernelStack { task: TaskId(task) };
            owners.alloc(Request::new(Order::ZERO), stack).map_err(|(_, error)| error).expect("there is memory")
        };
        let first = alloc(1);
        let head = first.head();
        let walker = owners.walk();
        let sighting = walker.look(head);
        assert!(sighting.get().is_some());
        drop(first);
        assert!(sighting.get().is_none());
        // The same page, and the same descriptor, of the same kind.
        let again = alloc(2);
        assert_eq!(again.head(), head, "the page that was freed last comes first");
        assert!(sighting.get().is_none());
        let now = walker.look(head).get();
        assert!(matches!(now, Some(Reference::KernelStack(stack)) if stack.task == TaskId(2)));
    });
}

#[test]
fn a_slab_that_is_referred_to_keeps_its_pages_and_goes_with_the_reference() {
    with_owners(|owners| {
        let cache = owners.caches.create(CacheSpec::new("seen", 512)).expect("it fits");
        let object = cache.alloc_raw().expect("there is memory");
        let pfn =
            Pfn::containing(crate::machine::Machine::physical(owners.pages().machine(), object)).expect("it is low");
        let slab = owners.walk().look(pfn).get().expect("it is alive");
        let range = slab.range();
        assert_eq!(slab.kind(), OwnerKind::Slab);
        let Reference::Slab(of_cache) = &slab else { panic!("{slab:?} is no slab") };
        let place = |byte| {
            let address = object.map_addr(|address| address.saturating_add(byte));
            owners.caches.place_in(of_cache, address).map(|place| (place.cache, place.offset, place.size))
        };
        let name = cache.name();
        assert_eq!([0, 511].map(place), [0, 511].map(|offset| Some((name, Bytes(offset), Bytes(512)))));
        // SAFETY: nobody uses it any more.
        assert_eq!(unsafe { cache.free_raw(object) }, Ok(()));
        assert_eq!(cache.destroy().map_err(|leaked| leaked.objects), Ok(()));
        assert_eq!(place(0), None, "the cache is gone");
        let walker = owners.walk();
        for pfn in range.frames() {
            assert_eq!(walker.look(pfn).seen(), Seen::Allocated(OwnerKind::Plain), "the cache has given it up");
        }
        drop(slab);
        assert_eq!(walker.look(pfn).seen(), Seen::Cached);
    });
}

#[test]
fn descriptors_memory_stays_while_anybody_walks() {
    with_owners(|owners| {
        owners.caches.shrink();
        let held: Vec<_> = (0..scaled(200, 70))
            .map(|_| owners.alloc(Request::new(Order::ZERO), Folio::new()).map_err(|(_, e)| e))
            .collect();
        let descriptors = |owners: &Owners<'_, HostMachine>| {
            owners.reports().find(|report| report.kind == OwnerKind::Folio).expect("it has a line").descriptors
        };
        let full = descriptors(owners);
        drop(held);
        let walker = owners.walk();
        owners.caches.shrink();
        assert_eq!(descriptors(owners), full);
        drop(walker);
        owners.caches.shrink();
        assert_eq!(descriptors(owners), Bytes(0));
    });
}

#[test]
fn nobody_but_its_owner_frees_a_block() {
    with_owners(|owners| {
        let pages = owners.pages();
        let refused = |pfn: Pfn| {
            // SAFETY: every one of these must be refused; that it is, is what is tested.
            let freed = unsafe { pages.free_raw(pfn) };
            // SAFETY: as above.
            let owned = unsafe { pages.from_raw(pfn) }.map(core::mem::forget);
            assert_eq!(freed, owned);
            freed.expect_err("the block is somebody's")
        };
        let table = owners.alloc(Request::new(Order::of(1)), PageTable::new(TableLevel(2)));
        let table = table.map_err(|(_, error)| error).expect("there is memory");
        let head = table.head();
        assert_eq!(refused(head), FreeError::Owned { pfn: head, owner: OwnerKind::PageTable });
        assert_eq!(refused(head.plus(1)), FreeError::Tail { pfn: head.plus(1), head });
        for size in [512, 50_000] {
            let object = owners.caches.kmalloc(Bytes(size)).expect("there is memory");
            let frame = Pfn::containing(crate::machine::Machine::physical(pages.machine(), object)).expect("it is low");
            let pfn = owners.walk().look(frame).head();
            let owner = if size == 512 { OwnerKind::Slab } else { OwnerKind::LargeKmalloc };
            assert_eq!(refused(pfn), FreeError::Owned { pfn, owner });
            // SAFETY: nobody uses it any more.
            assert_eq!(unsafe { owners.caches.kfree(object) }, Ok(()));
        }
        drop(table);
        assert_eq!(refused(head), FreeError::AlreadyFree(head));
    });
}

#[test]
fn poisoned_memory_is_never_handed_out_and_never_freed() {
    with_owners(|owners| {
        let pages = owners.pages();
        let block = pages.alloc(Request::new(Order::of(3))).expect("there is memory");
        let failing = block.head().plus(3);
        assert_eq!(pages.memory_failure(failing).map(|failure| failure.outcome), Ok(FailureOutcome::Delayed));
        drop(block);
        let range = PfnRange::new(failing, failing.plus(1));
        sees(&owners.walk(), range, Order::ZERO, OwnerKind::Poisoned);
        let poisoned = FreeError::Owned { pfn: failing, owner: OwnerKind::Poisoned };
        // SAFETY: both must be refused; that they are, is what is tested.
        assert_eq!(unsafe { pages.free_raw(failing) }, Err(poisoned));
        // SAFETY: as above.
        assert_eq!(unsafe { pages.from_raw(failing) }.map(|_| ()), Err(poisoned));
        let mut hoard = Vec::new();
        for order in (0..=10).rev().map(Order::of) {
            while let Ok(block) = pages.alloc(Request::movable(order)) {
                assert!(block.range().intersection(range).is_empty(), "{block:?} is poisoned");
                hoard.push(block);
            }
        }
        drop(hoard);
        owners.verify().expect("poison is an owner");
        assert_eq!(pages.unpoison_memory(failing), Ok(()));
    });
}

#[test]
fn a_block_of_another_allocator_is_handed_back() {
    with_owners(|owners| {
        with_pages(|others| {
            let block = others.alloc(Request::new(Order::ZERO)).expect("there is memory");
            let (block, _, error) = owners.adopt(block, Folio::new()).expect_err("the block is foreign");
            assert_eq!(error, OwnError::Foreign);
            drop(block);
        });
    });
}

#[test]
fn a_conversion_that_fails_hands_back_block_and_owner() {
    with_owners(|owners| {
        let faults = owners.pages().machine().faults();
        let mut block = owners.pages().alloc(Request::new(Order::of(4))).expect("there is memory");
        let range = block.range();
        block.bytes_mut().expect("it is low").fill(7);
        faults.fail_nth(1);
        let (mut block, stack, error) =
            owners.adopt(block, KernelStack { task: TaskId(5) }).expect_err("there is no descriptor");
        assert_eq!(faults.stop(), Fired::Yes);
        assert!(matches!(error, OwnError::Descriptor(_)), "{error}");
        assert_eq!((stack.task, block.range()), (TaskId(5), range));
        assert!(block.bytes_mut().expect("it is low").iter().all(|&byte| byte == 7));
        sees(&owners.walk(), range, Order::of(4), OwnerKind::Plain);
    });
}

#[test]
fn the_nth_allocation_may_fail_for_every_n_and_nothing_is_lost() {
    with_pages(|pages| {
        let swept = fail_each_once(pages, || script(pages));
        assert!(swept.allocations >= scaled(300, 60) && swept.absorbed < 20, "{swept:?}");
    });
}

/// Owners of every kind, both ways, until the first failure; whatever it was, all is well then.
fn script(pages: &Pages<'_>) -> Result<(), String> {
    fn text(error: &dyn core::fmt::Display) -> String {
        format!("{error}")
    }
    let caches = KmemCaches::new(pages).map_err(|error| text(&error))?;
    let owners = Owners::new(&caches).map_err(|error| text(&error))?;
    fn both<'o, T: Owner>(
        owners: &'o Owners<'o, HostMachine>,
        make: impl Fn() -> T,
    ) -> Result<Vec<Owned<'o, HostMachine, T>>, String> {
        let mut held = Vec::new();
        for number in 0..scaled(40, 8) {
            let order = Order::of(number % 4);
            held.push(owners.alloc(Request::movable(order), make()).map_err(|(_, error)| text(&error))?);
            let block = owners.pages().alloc(Request::new(order)).map_err(|error| text(&error))?;
            let range = block.range();
            held.push(owners.adopt(block, make()).map_err(|(block, _, error)| {
                assert_eq!(block.range(), range, "another block came back");
                text(&error)
            })?);
        }
        Ok(held)
    }
    let outcome = (|| {
        let folios = both(&owners, Folio::new)?;
        let tables = both(&owners, || PageTable::new(TableLevel(1)))?;
        let stores = both(&owners, || CompressedStore::new(Bytes(96)))?;
        let areas = both(&owners, || PerCpuArea { cpu: CpuId(1) })?;
        let stacks = both(&owners, || KernelStack { task: TaskId(9) })?;
        let references: Vec<_> = stacks.iter().filter_map(|stack| owners.walk().look(stack.head()).get()).collect();
        assert_eq!(references.len(), stacks.len());
        drop((folios, tables, stores, areas, stacks));
        drop(references);
        Ok(())
    })();
    owners.verify().map_err(|violation| text(&violation))?;
    outcome
}

#[test]
fn the_checker_names_whatever_does_not_lead_back() {
    with_owners(|owners| {
        let pages = owners.pages();
        let [one, other] = [0, 1].map(|_| {
            owners.alloc(Request::new(Order::of(1)), Folio::new()).map_err(|(_, error)| error).expect("there is memory")
        });
        let word = |pfn| pages.page(pfn).expect("it has a descriptor").owner();
        let (one_word, other_word) = (word(one.head()), word(other.head()));
        let plain = pages.alloc(Request::new(Order::of(1))).expect("there is memory");
        for (pfn, wrong, right) in [
            // The block has forgotten its owner, or names another's.
            (one.head(), OwnerWord::PLAIN, one_word),
            (one.head(), other_word, one_word),
            // Two blocks name one owner.
            (plain.head(), one_word, OwnerWord::PLAIN),
            // What an older block left behind.
            (plain.head().plus(1), one_word, OwnerWord::PLAIN),
            (one.head().plus(1), one_word, OwnerWord::PLAIN),
            // A size that the block has not.
            (plain.head(), OwnerWord::bare(OwnerKind::Poisoned, Order::of(2)), OwnerWord::PLAIN),
        ] {
            pages.set_head_owner(pfn, wrong);
            let violation = owners.verify().expect_err("what was broken is seen");
            assert_eq!(violation.invariant, Invariant::Desc1, "{violation}");
            pages.set_head_owner(pfn, right);
            owners.verify().expect("it is mended");
        }
    });
}

#[test]
fn owners_keep_what_they_are_for() {
    with_owners(|owners| {
        let table = owners.alloc(Request::new(Order::ZERO), PageTable::new(TableLevel(4)));
        let table = table.map_err(|(_, error)| error).expect("there is memory");
        table.lock(owners.machine()).0 += 3;
        let seen = owners.walk().look(table.head()).get();
        let Some(Reference::PageTable(seen)) = seen else { panic!("{seen:?} is no page table") };
        assert_eq!((seen.level(), seen.lock(owners.machine()).0), (TableLevel(4), 3));
        drop((seen, table));
        let store = owners.alloc(Request::movable(Order::of(2)), CompressedStore::new(Bytes(640)));
        let store = store.map_err(|(_, error)| error).expect("there is memory");
        store.remove();
        store.add();
        store.add();
        store.remove();
        assert_eq!((store.class(), store.objects()), (Bytes(640), Count(1)));
    });
}
