//! A small machine that has one of everything.

use core::num::NonZeroU16;
use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use crate::PageState;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{HostMachine, Snapshot, on_cpu};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::owner::{Folio, KernelStack, Owned, Owners, TaskId};
use crate::page::{PageAllocator, Place, Request};
use crate::slab::{CacheSpec, KmemCache, KmemCaches};
use crate::units::{Bytes, CpuId, NodeId, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};

/// Few entries a node and inline, so that trees are deep; little at hand.
pub(super) struct Small;

impl Geometry for Small {
    const MAX_ORDER: Order = Order::of(5);
    const PAGEBLOCK_ORDER: Order = Order::of(4);
    const LEAF_SHIFT: u32 = 2;
    const NODE_SHIFT: u32 = 1;
    const INLINE: u32 = 4;
    const CPU_CACHE: u32 = 32;
    const RESERVE_SHARE: u32 = 0;
}

pub(super) type M = HostMachine<Small>;

const END: Pfn = Pfn::new(608);
const LOWMEM_END: Pfn = Pfn::new(448);

/// Bytes of an object of the scene's cache.
pub(super) const OBJECT: u32 = 256;

/// A block that somebody has as a bare number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) head: Pfn,
    pub(super) order: Order,
}

/// The machine, and all that is held.
pub(super) struct Scene<'m, 's> {
    pub(super) machine: &'m M,
    pub(super) pages: &'s PageAllocator<'m, M>,
    pub(super) caches: &'s KmemCaches<'s, M>,
    pub(super) cache: &'s KmemCache<'s, M>,
    pub(super) held: Vec<Held>,
    pub(super) objects: Vec<NonNull<u8>>,
    pub(super) folios: Vec<Owned<'s, M, Folio>>,
    pub(super) stacks: Vec<Owned<'s, M, KernelStack>>,
}

impl Scene<'_, '_> {
    /// Runs `test` with the scene.
    pub(super) fn with(test: impl FnOnce(&mut Scene<'_, '_>)) {
        let cpus = NonZeroU16::new(2).expect("not zero");
        let machine = M::new(END, LOWMEM_END, cpus).expect("the host lends memory");
        let region = |start: u32, end: u32, kind| Region {
            start: Pfn::new(start).address(),
            len: u64::from(end - start) * PAGE_SIZE as u64,
            kind,
            node: NodeId(0),
        };
        let regions = [
            region(0, 400, RegionKind::Usable),
            region(400, 408, RegionKind::Reserved),
            // A hole of a few pages follows.
            region(415, 608, RegionKind::Usable),
        ];
        let mut map: BootMap = BootMap::new(&regions).expect("the map is sound");
        let pages = machine.allocator(&mut map).expect("the tables fit");
        let caches = KmemCaches::new(&pages).expect("there is memory");
        let owners = Owners::new(&caches).expect("there is memory");
        let cache = caches.create(CacheSpec::new("flips", OBJECT)).expect("it fits");
        let mut scene = Scene {
            machine: &machine,
            pages: &pages,
            caches: &caches,
            cache: &cache,
            held: Vec::new(),
            objects: Vec::new(),
            folios: Vec::new(),
            stacks: Vec::new(),
        };
        for order in [0, 2] {
            let folio = owners.alloc(Request::movable(Order::of(order)), Folio::new());
            scene.folios.push(folio.map_err(|_| "no memory").expect("memory is free"));
            let stack = owners.alloc(Request::new(Order::of(order)), KernelStack { task: TaskId(7) });
            scene.stacks.push(stack.map_err(|_| "no memory").expect("memory is free"));
        }
        scene.set();
        pages.verify().expect("all is well before any bit flips");
        caches.verify().expect("all is well before any bit flips");
        test(&mut scene);
        // What is held went with the processes that used it, and the machine goes too.
        core::mem::forget(scene);
        core::mem::forget((cache, owners));
        core::mem::forget(caches);
    }

    fn free(&self, head: Pfn) {
        // SAFETY: the scene holds it, and uses no page yet.
        unsafe { self.pages.free_raw(head) }.expect("what is held can be freed");
    }

    /// Brings the machine into a state that has everything.
    fn set(&mut self) {
        self.set_slabs();
        let kinds = [Migratetype::Movable, Migratetype::Unmovable, Migratetype::Reclaimable];
        let mut alloc = |order: usize, kind| {
            let order = Order::of(order);
            let head = self.pages.alloc_raw(Request::movable(order).with_migratetype(kind)).ok()?;
            self.held.push(Held { head, order });
            Some(())
        };
        for round in 0..12 {
            let _ = alloc(round % 5, kinds[round % 3]);
        }
        while alloc(0, Migratetype::Movable).is_some() {}
        self.pages.drain();
        while let Ok(head) = self.pages.alloc_raw(Request::movable(Order::ZERO)) {
            self.held.push(Held { head, order: Order::ZERO });
        }
        // Of the single pages two in five go, so that lists are long, and four rows of eight, that there are larger blocks.
        let goes = |head: Pfn| matches!(head.number() % 5, 1 | 3) || head.number() % 128 / 8 == 5;
        let (gone, kept): (Vec<_>, Vec<_>) =
            self.held.drain(..).partition(|held| held.order == Order::ZERO && goes(held.head));
        self.held = kept;
        let (at_hand, to_zones) = gone.split_at(gone.len() / 8);
        to_zones.iter().for_each(|held| self.free(held.head));
        self.pages.drain();
        for (index, held) in (0_u16..).zip(at_hand) {
            on_cpu(CpuId(index % 2), || self.free(held.head));
        }
        self.fill_held();
    }

    /// Slabs that are full, partial and empty, and objects at hand.
    fn set_slabs(&mut self) {
        let alloc = || self.cache.alloc_raw().expect("there is memory");
        let mut objects: Vec<_> = (0..96).map(|_| alloc()).collect();
        objects.sort();
        let free = |object| {
            // SAFETY: it was just allocated, and nobody uses it.
            unsafe { self.cache.free_raw(object) }.expect("it is an object");
        };
        // The first two slabs stay full, the next two go empty, of the last two every third object goes.
        objects.drain(32..64).for_each(free);
        self.caches.gather_all();
        let mut index = 0;
        objects.retain(|&object| {
            index += 1;
            let goes = index > 32 && index % 3 == 0;
            if goes {
                free(object);
            }
            !goes
        });
        self.objects = objects;
        self.objects.extend((0..3).map(|_| self.caches.kmalloc(Bytes(3 * PAGE_SIZE)).expect("there is memory")));
        self.objects.extend((0..9).map(|_| self.caches.kmalloc(Bytes(64)).expect("there is memory")));
    }

    /// What stands in all pages.
    pub(super) fn save(&self) -> Snapshot {
        self.machine.save(PfnRange::new(Pfn::new(0), END))
    }

    /// Puts it back.
    pub(super) fn restore(&self, snapshot: &Snapshot) {
        // SAFETY: the processes that have changed it are gone, and this one is as it was when it was taken.
        unsafe { self.machine.restore(snapshot) };
    }

    /// Flips a bit.
    pub(super) fn flip(&self, place: Place, bit: usize) {
        let PhysAddr(at) = PhysAddr(place.start.0 + bit as u64 / 8);
        let frame = Pfn::containing(PhysAddr(at)).expect("it is memory");
        let offset = usize::try_from(at % PAGE_SIZE as u64).expect("below a page");
        let mut byte = [0];
        self.machine.read(frame, offset, &mut byte);
        self.machine.write(frame, offset, &[byte[0] ^ 1 << (bit % 8)]);
    }

    /// All that is flipped, by kind: of pages of one kind the first, or all.
    pub(super) fn places(&self, every_page: bool) -> Vec<(String, Place)> {
        let mut places = Vec::new();
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for pfn in PfnRange::new(Pfn::new(0), END).frames() {
            let kind = self.kind_of(pfn);
            let count = seen.entry(kind.clone()).or_default();
            *count += 1;
            if every_page || *count <= 1 {
                places.extend(self.pages.words(pfn).map(|word| (format!("{}, {kind}", word.what), word)));
            }
            if self.pages.page_state(pfn).0 == PageState::Node && (every_page || *count <= 2) {
                // As much as lists of this geometry use, and a pointer more.
                let bytes = (4 << Small::LEAF_SHIFT).max(8 << Small::NODE_SHIFT) + 8;
                places.push((format!("slots of a {kind}"), Place { what: "slots", start: pfn.address(), bytes }));
            }
        }
        let mut parts = self.pages.list_parts();
        parts.extend(self.pages.at_hand_parts());
        parts.extend(self.caches.parts_of(self.cache));
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for part in parts {
            let count = counts.entry(part.what).or_default();
            *count += 1;
            if every_page || *count <= 2 {
                places.push((part.what.into(), part));
            }
        }
        places
    }

    /// What kind of page one is: where it is, its state, and whose it is.
    fn kind_of(&self, pfn: Pfn) -> String {
        let (state, order) = self.pages.page_state(pfn);
        let place = if pfn < self.machine.direct_map_end() { "lowmem" } else { "highmem" };
        let of = |pfn| {
            let owner = self.pages.page(pfn).and_then(|page| page.owner().kind()).map_or("", |kind| kind.name());
            match self.pages.page_state(pfn).0 {
                PageState::Allocated => format!(" {owner}"),
                PageState::Node => format!(" level {}", self.pages.page(pfn).map_or(0, |page| page.word().level())),
                _ => String::new(),
            }
        };
        match state {
            PageState::Tail => {
                let head = self.pages.block_of(pfn);
                let inside = head.map(|head| format!("{:?}{}", self.pages.page_state(head).0, of(head)));
                format!("tail of {}, {place}", inside.unwrap_or_default())
            }
            PageState::Hole | PageState::Reserved => format!("{state:?}"),
            _ => format!("{state:?}{} of order {}, {place}", of(pfn), order.index()),
        }
    }
}
