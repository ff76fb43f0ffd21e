//! How low a zone falls, for whom, and who is asked to give something up then.

use core::num::NonZeroU16;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec::Vec;

use super::super::{AllocError, Block, PageAllocator, Request};
use super::{MIB, Machine, allocator, ballast, exhaust, machine, usable};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{at_each_step, scaled};
use crate::migratetype::Migratetype;
use crate::shrinker::{Shortage, Shrinker};
use crate::units::{Count, NodeId, Order, Pfn, PhysAddr};
use crate::zone::{ZoneKind, ZoneReport};

/// Of most machines here.
const MEMORY: u64 = scaled(64, 8) * MIB;

type Blocks<'a> = Vec<Block<'a, Machine>>;

fn all<'a>(allocator: &'a PageAllocator<'_, Machine>, request: Request) -> Blocks<'a> {
    core::iter::from_fn(|| allocator.alloc(request).ok()).collect()
}

fn only(allocator: &PageAllocator<'_, Machine>) -> ZoneReport {
    let mut zones = allocator.zones();
    let zone = zones.next().expect("there is a zone");
    assert_eq!(zones.next(), None);
    zone
}

fn zone(allocator: &PageAllocator<'_, Machine>, kind: ZoneKind) -> ZoneReport {
    allocator.zones().find(|zone| zone.kind == kind).expect("there is a zone of that kind")
}

#[test]
fn ordinary_requests_stop_at_min_those_that_cannot_wait_at_half_and_others_nowhere() {
    let machine = machine(MEMORY, MEMORY);
    let allocator = allocator(&machine, &[usable(0, MEMORY)]);
    let min = only(&allocator).watermarks.min;
    // The root of 16 times 64 MiB is 1 MiB; of 8 MiB no more than a 64th is kept.
    let most = scaled(256, 32);
    assert!((most - 6..=most).contains(&min), "{min}");
    let page = Request::new(Order::ZERO);
    let ballast = ballast(&allocator, page.with_order(Order::of(6)), 700);
    let mut held = all(&allocator, page);
    assert_eq!(only(&allocator).free, min);
    assert_eq!(allocator.alloc(page).err(), Some(AllocError::Exhausted(page)));
    // One page more, and a pair would leave too little.
    held.pop();
    let pair = page.with_order(Order::of(1));
    assert!(allocator.alloc(pair).is_err());
    held.push(allocator.alloc(page).expect("a page leaves just enough"));
    let atomic = all(&allocator, page.atomic());
    assert_eq!(only(&allocator).free, min / 2);
    assert_eq!(atomic.len() as u32, min - min / 2);
    assert!(allocator.alloc(page.nowait()).is_err());
    let reserve = all(&allocator, page.from_reserve());
    assert_eq!((only(&allocator).free, reserve.len() as u32), (0, min / 2));
    drop((ballast, held, atomic, reserve));
    assert_eq!(only(&allocator).free, only(&allocator).managed);
    allocator.verify().expect("all is well in the end");
}

#[test]
fn who_could_be_served_from_above_leaves_more_to_those_who_could_not() {
    let (end, lowmem) = scaled((1024 * MIB, 32 * MIB), (32 * MIB, 8 * MIB));
    let machine = machine(end, lowmem);
    let allocator = allocator(&machine, &[usable(0, end)]);
    let low = || zone(&allocator, ZoneKind::Dma32);
    let highmem = zone(&allocator, ZoneKind::Highmem);
    let protection = highmem.managed / 256;
    assert_eq!(low().watermarks.protection, [0, 0, protection]);
    let (min, largest) = (low().watermarks.min, Order::of(10));
    let mut anywhere = all(&allocator, Request::movable(largest));
    anywhere.extend(exhaust(&allocator, Request::movable(Order::ZERO)));
    assert_eq!(zone(&allocator, ZoneKind::Highmem).free, highmem.watermarks.min);
    assert_eq!(low().free, min + protection);
    let lowmem = all(&allocator, Request::new(Order::ZERO));
    assert_eq!((low().free, lowmem.len() as u32), (min, protection));
    let reserve = all(&allocator, Request::movable(Order::ZERO).from_reserve());
    assert_eq!((allocator.free_pages(), reserve.len() as u32), (0, min + highmem.watermarks.min));
}

#[test]
fn adopted_memory_raises_the_marks() {
    let machine = machine(64 * MIB, 64 * MIB);
    let reserved = Region { kind: RegionKind::Reserved, ..usable(8 * MIB, 32 * MIB) };
    let mut map: BootMap = BootMap::new(&[usable(0, 64 * MIB), reserved]).expect("the map is sound");
    let allocator = machine.allocator(&mut map).expect("the tables fit");
    let before = only(&allocator).watermarks;
    let range = crate::units::PfnRange::new(Pfn::new(8 << 8), Pfn::new(40 << 8));
    // SAFETY: nobody uses the memory of this machine but its allocator.
    let adopted = unsafe { allocator.adopt(range) }.expect("it is reserved");
    let after = only(&allocator).watermarks;
    assert!(after.min > before.min && after.high > before.high, "{before:?} {after:?}");
    drop(adopted);
}

/// Holds pages that it can do without, and notes how it is asked.
#[derive(Debug)]
struct Hoard<'a> {
    allocator: &'a PageAllocator<'a, Machine>,
    blocks: Mutex<Blocks<'a>>,
    asked: Mutex<Vec<Shortage>>,
    /// What it allocates itself each time.
    request: Option<Request>,
    inside: AtomicU32,
}

impl<'a> Hoard<'a> {
    fn new(allocator: &'a PageAllocator<'a, Machine>, pages: usize, request: Request) -> Self {
        let blocks = (0..pages).map(|_| allocator.alloc(request).expect("there is memory")).collect();
        Self {
            allocator,
            blocks: Mutex::new(blocks),
            asked: Mutex::default(),
            request: None,
            inside: AtomicU32::new(0),
        }
    }

    fn asked(&self) -> Vec<Shortage> {
        core::mem::take(&mut self.asked.lock().expect("nobody panics with it"))
    }

    fn left(&self) -> usize {
        self.blocks.lock().expect("as above").len()
    }
}

impl Shrinker for Hoard<'_> {
    fn reclaimable(&self) -> Count {
        Count(self.left() as u32)
    }

    fn shrink(&self, shortage: &Shortage) -> Count {
        assert_eq!(self.inside.fetch_add(1, Ordering::Relaxed), 0, "a shrinker is asked by its own allocation");
        self.asked.lock().expect("as above").push(*shortage);
        // No zone is locked: each can be looked at, allocated from and freed to.
        at_each_step(|| self.allocator.verify().expect("all is well in between"));
        if let Some(request) = self.request {
            let block = self.allocator.alloc(request).expect("a shrinker has the reserves");
            assert_eq!(self.allocator.reclaim(Shortage::of(Count(1))), Count(0), "it asks nobody else");
            drop(block);
        }
        let mut blocks = self.blocks.lock().expect("as above");
        let keep = blocks.len().saturating_sub(shortage.wanted.0 as usize);
        let given: Blocks<'_> = blocks.drain(keep..).collect();
        drop(blocks);
        self.inside.store(0, Ordering::Relaxed);
        Count(given.len() as u32)
    }
}

#[test]
fn below_low_shrinkers_fill_a_zone_up_to_high_and_what_they_give_back_is_used() {
    let machine = machine(64 * MIB, 64 * MIB);
    let allocator = allocator(&machine, &[usable(0, 64 * MIB)]);
    let page = Request::new(Order::ZERO);
    let marks = only(&allocator).watermarks;
    let mut hoard = Hoard::new(&allocator, 3000, Request::new(Order::ZERO));
    hoard.request = Some(page);
    let held = allocator.with_shrinker(&hoard, || {
        let above = only(&allocator).free - marks.low;
        let mut held: Blocks<'_> = (0..above).map(|_| allocator.alloc(page).expect("there is plenty")).collect();
        assert_eq!((only(&allocator).free, hoard.asked()), (marks.low, Vec::new()), "at low nobody is asked");
        held.push(allocator.alloc(page).expect("there is enough"));
        let wanted = Count(marks.high + 1 - marks.low);
        let first = Shortage { wanted, highest: ZoneKind::Normal, node: Some(NodeId(0)) };
        assert_eq!(hoard.asked(), [first]);
        assert_eq!(only(&allocator).free, marks.high, "as full as it is to be, once the page is taken");
        held.extend(all(&allocator, page));
        assert_eq!((hoard.left(), only(&allocator).free), (0, marks.min), "all was given back, and used");
        // Whoever has nothing is not asked, however often pages are wanted.
        hoard.asked();
        assert!(allocator.alloc(page).is_err());
        assert_eq!(hoard.asked(), []);
        held
    });
    drop(held.expect("there is room"));
    let Hoard { blocks, .. } = hoard;
    drop(blocks);
    assert_eq!(only(&allocator).free, only(&allocator).managed);
}

#[test]
fn who_cannot_wait_or_is_in_a_handler_or_is_below_reserves_asks_nobody_nor_does_anybody_once_it_is_taken_out() {
    let machine = machine(MEMORY, MEMORY);
    let allocator = allocator(&machine, &[usable(0, MEMORY)]);
    let page = Request::new(Order::ZERO);
    let hoard = Hoard::new(&allocator, scaled(1000, 300), page);
    let _ballast = ballast(&allocator, page.with_order(Order::of(6)), 700);
    let mut held = all(&allocator, page.from_reserve());
    allocator
        .with_shrinker(&hoard, || {
            for request in [page.atomic(), page.nowait(), page.from_reserve()] {
                assert!(allocator.alloc(request).is_err());
            }
            machine.interrupt(|| assert!(allocator.alloc(page).is_err())).expect("interrupts are on");
            assert_eq!(hoard.asked(), []);
            // A handler is as urgent as those that cannot wait.
            let min = only(&allocator).watermarks.min;
            held.truncate(held.len() - min as usize);
            machine.interrupt(|| held.extend(all(&allocator, page))).expect("interrupts are on");
            assert_eq!((only(&allocator).free, hoard.asked()), (min / 2, Vec::new()));
            held.push(allocator.alloc(page).expect("somebody gives something up"));
            assert!(!hoard.asked().is_empty());
        })
        .expect("there is room");
    held.extend(all(&allocator, page));
    assert_eq!(hoard.asked(), [], "it was taken out");
    assert!(hoard.left() > 0);
}

#[test]
fn a_shrinker_that_gives_nothing_is_asked_again_only_when_the_zone_has_fallen_further() {
    #[derive(Debug, Default)]
    struct Miser(AtomicU32);
    impl Shrinker for Miser {
        fn reclaimable(&self) -> Count {
            Count(1)
        }
        fn shrink(&self, _: &Shortage) -> Count {
            self.0.fetch_add(1, Ordering::Relaxed);
            Count(0)
        }
    }
    let machine = machine(MEMORY, MEMORY);
    let allocator = allocator(&machine, &[usable(0, MEMORY)]);
    let miser = Miser::default();
    let marks = only(&allocator).watermarks;
    allocator
        .with_shrinker(&miser, || {
            let _ballast = ballast(&allocator, Request::new(Order::of(6)), 700);
            let held = all(&allocator, Request::new(Order::ZERO));
            let asked = miser.0.load(Ordering::Relaxed);
            // Once for every 32 pages between low and min, and once before the error.
            assert!((2..=(marks.low - marks.min) / 32 + 2).contains(&asked), "asked {asked} times");
            drop(held);
            miser.0.store(0, Ordering::Relaxed);
            drop(all(&allocator, Request::new(Order::ZERO)));
            assert_eq!(miser.0.load(Ordering::Relaxed), asked, "once there was plenty, all begins anew");
        })
        .expect("there is room");
}

#[test]
fn a_bound_request_asks_for_memory_of_its_node_and_kind() {
    let end = MEMORY;
    let pfn = |address| Pfn::containing(PhysAddr(address)).expect("low");
    let machine = Machine::new(pfn(end), pfn(end), NonZeroU16::MIN).expect("the host lends memory");
    let far = Region { node: NodeId(1), ..usable(end / 2, end / 2) };
    let allocator = allocator(&machine, &[usable(0, end / 2), far]);
    let bound = Request::movable(Order::ZERO).bound_to(NodeId(1));
    let hoard = Hoard::new(&allocator, 1, Request::new(Order::ZERO));
    allocator
        .with_shrinker(&hoard, || {
            let _held = exhaust(&allocator, bound.from_reserve());
            assert!(allocator.alloc(bound).is_err());
            let asked = hoard.asked();
            assert!(!asked.is_empty());
            assert!(asked.iter().all(|asked| (asked.node, asked.highest) == (Some(NodeId(1)), ZoneKind::Highmem)));
            assert!(allocator.alloc(Request::movable(Order::ZERO)).is_ok(), "the other node has plenty");
        })
        .expect("there is room");
}

#[test]
fn sixteen_shrinkers_can_be_entered_and_places_are_used_again() {
    let machine = machine(16 * MIB, 16 * MIB);
    let allocator = allocator(&machine, &[usable(0, 16 * MIB)]);
    #[derive(Debug)]
    struct Nothing;
    impl Shrinker for Nothing {
        fn reclaimable(&self) -> Count {
            Count(0)
        }
        fn shrink(&self, _: &Shortage) -> Count {
            unreachable!("it has nothing")
        }
    }
    for _ in 0..3 {
        let entered: Vec<_> = core::iter::from_fn(|| allocator.register_shrinker(&Nothing).ok()).collect();
        assert_eq!(entered.len(), 16);
        assert!(allocator.with_shrinker(&Nothing, || ()).is_err());
        assert_eq!(allocator.reclaim(Shortage::of(Count(1))), Count(0));
    }
    assert_eq!(allocator.with_shrinker(&Nothing, || 5), Ok(5));
}

/// Free pages of the zone that are set aside.
fn set_aside(zone: &ZoneReport) -> u32 {
    (0..).zip(zone.blocks[Migratetype::HighAtomic.index()]).map(|(order, blocks)| blocks << order).sum()
}

#[test]
#[cfg_attr(miri, ignore = "all pages of half a gibibyte one by one, more than once")]
fn a_large_block_is_to_be_had_in_need_when_single_pages_have_used_up_the_rest() {
    let machine = machine(512 * MIB, 512 * MIB);
    let allocator = allocator(&machine, &[usable(0, 512 * MIB)]);
    let whole = Order::of(10).pages();
    assert_eq!(set_aside(&only(&allocator)), whole, "one page in 64, in whole blocks");
    let page = Request::movable(Order::ZERO);
    let three = page.with_order(Order::of(3));
    let held = all(&allocator, page.nowait());
    let marks = only(&allocator).watermarks;
    assert_eq!((only(&allocator).free, set_aside(&only(&allocator))), (marks.min + whole, whole));
    assert!(allocator.alloc(three.nowait()).is_err());
    // A single page is nothing large, however urgent; what is below min is for it.
    let pages = all(&allocator, page.atomic().with_migratetype(Migratetype::Unmovable));
    assert!(pages.len() as u32 >= marks.min / 2);
    drop(pages);
    allocator.verify().expect("all is well in between");
    drop(held);

    // What was given up is set aside again once there is plenty.
    allocator.drain();
    drop(allocator.alloc(page));
    assert_eq!(set_aside(&only(&allocator)), whole);
    let mut held = all(&allocator, page.nowait());
    held.extend((0..marks.min).map(|_| allocator.alloc(page.from_reserve()).expect("there is nothing else left")));
    // As many pages come free as are to be left, and no two of them are neighbours.
    held.sort_by_key(Block::head);
    let mut at = 0;
    held.retain(|_| {
        at += 1;
        at % 16 != 0 || at / 16 > marks.min
    });
    assert_eq!(only(&allocator).free, marks.min + whole);
    let saved: Blocks<'_> = (0..8).map(|_| allocator.alloc(three.atomic()).expect("it is set aside")).collect();
    assert!(set_aside(&only(&allocator)) < whole);
    drop(saved);
    assert_eq!(set_aside(&only(&allocator)), whole, "what is freed there goes back");
    // Whoever may wait gets it before being told that there is nothing.
    let last = allocator.alloc(three).expect("it is everybody's in the end");
    assert_eq!(set_aside(&only(&allocator)), 0);
    let rest = all(&allocator, page);
    assert_eq!(only(&allocator).free, marks.min);
    drop((held, last, rest));
    allocator.verify().expect("all is well in the end");
    assert_eq!(only(&allocator).free, only(&allocator).managed);
}

#[test]
#[cfg_attr(miri, ignore = "all pages of half a gibibyte one by one, more than once")]
fn with_so_many_pages_free_so_many_are_to_be_had_by_those_who_may_have_the_last_one() {
    let machine = machine(512 * MIB, 300 * MIB);
    let allocator = allocator(&machine, &[usable(0, 512 * MIB)]);
    let free = allocator.free_pages();
    let held = all(&allocator, Request::movable(Order::ZERO).from_reserve());
    assert_eq!((held.len() as u32, allocator.free_pages()), (free, 0));
    allocator.verify().expect("all is well without a page");
    drop(held);
    assert_eq!(allocator.free_pages(), free);
    allocator.verify().expect("all is well in the end");
}
