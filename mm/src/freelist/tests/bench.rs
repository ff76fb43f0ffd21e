//! What a stack needs to be tried out: pages for its nodes, a machine that counts slots, and a `Vec` to agree with.

use core::num::NonZeroU16;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeSet, VecDeque};
use std::vec::Vec;

use crate::arena::{ArenaMachine, Inside, passed_on_to_its_machine};
use crate::block::Pending;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::desc::allocator_word::{End, ListId};
use crate::desc::map::PageMap;
use crate::desc::word::{NodePlace, Position};
use crate::early::MetadataBytes;
use crate::freelist::stack::Stack;
use crate::freelist::{ListContext, Nodes, Released};
use crate::lock_order::{Context, HeldLocks};
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::units::{CpuId, NodeId, Order, PAGE_SIZE, Pfn, PhysAddr, ZoneId};

/// Where the pages for nodes start; the descriptors stand below.
pub(crate) const BASE: Pfn = Pfn::new(64);

pub(crate) const ZONE: ZoneId = ZoneId(0);

/// The list that a stack's nodes say they serve.
const LIST: ListId = ListId::new(Migratetype::Movable, Order::ZERO, End::Near);

/// A machine that counts its slots.
pub(crate) struct Metered<G> {
    machine: ArenaMachine<G>,
    live: AtomicUsize,
    most: AtomicUsize,
    mapped: AtomicUsize,
}

// SAFETY: passes everything on to a machine that keeps the promise.
unsafe impl<G: Geometry> Machine for Metered<G> {
    type Geometry = G;
    type InterruptGuard<'a>
        = Inside<'a>
    where
        G: 'a;

    passed_on_to_its_machine!();

    fn kmap_local(&self, frame: Pfn) -> NonNull<u8> {
        let live = self.live.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(live, Ordering::Relaxed);
        self.mapped.fetch_add(1, Ordering::Relaxed);
        self.machine.kmap_local(frame)
    }

    unsafe fn kunmap_local(&self, address: NonNull<u8>) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { self.machine.kunmap_local(address) };
    }
}

/// Runs `test` with the descriptors of `pages` pages, of which the first `lowmem` are in the direct map.
pub(crate) fn with_pages<G: Geometry>(
    pages: u32,
    lowmem: u32,
    test: impl FnOnce(&ListContext<'_, '_, Metered<G>>, VecDeque<Pfn>),
) {
    let end = BASE.plus(pages);
    let machine = ArenaMachine::new(end, BASE.plus(lowmem));
    let [live, most, mapped] = [const { AtomicUsize::new(0) }; 3];
    let machine = Metered::<G> { machine, live, most, mapped };
    let region = |start: Pfn, end: Pfn, node| Region {
        start: start.address(),
        len: u64::from(end.number() - start.number()) * PAGE_SIZE as u64,
        kind: RegionKind::Usable,
        node: NodeId(node),
    };
    let regions = [region(Pfn::new(1), BASE, 0), region(BASE, end, 1)];
    let mut boot_map: BootMap = BootMap::new(&regions).expect("the regions are disjoint");
    let map = PageMap::carve(&machine, &mut boot_map, &mut MetadataBytes::default()).expect("descriptors fit below");
    map.fill(boot_map.extents());
    // Lowmem and highmem in turn.
    let (mut high, mut low): (VecDeque<_>, VecDeque<_>) =
        (BASE.number()..end.number()).map(Pfn::new).partition(|&pfn| pfn >= machine.direct_map_end());
    let mut pool = VecDeque::new();
    while pool.len() < pages as usize {
        pool.extend(low.pop_front());
        pool.extend(high.pop_front());
    }
    test(&ListContext { nodes: Nodes::new(&machine), map: &map, zone: ZONE }, pool);
    assert_eq!(machine.live.load(Ordering::Relaxed), 0, "a slot is still mapped");
}

/// Nodes that `stored` entries in a tree demand.
pub(super) fn nodes_for<G: Geometry>(stored: u32) -> u32 {
    let mut level = stored.div_ceil(1 << G::LEAF_SHIFT);
    let mut nodes = level;
    while level > 1 {
        level = level.div_ceil(1 << G::NODE_SHIFT);
        nodes += level;
    }
    nodes
}

/// A stack beside a `Vec` that has the same done to it.
pub(super) struct Bench<'a, 'm, G: Geometry> {
    pub(super) context: &'a ListContext<'a, 'm, Metered<G>>,
    pub(super) stack: Stack<G>,
    pub(super) entries: Vec<Pfn>,
    pub(super) pool: VecDeque<Pfn>,
    pub(super) nodes: u32,
    /// Pages that became nodes, and nodes that became pages.
    pub(super) conversions: u32,
    pending: Pending,
    pages: usize,
}

/// Runs `test` with an empty stack, and empties it afterwards: then every page must be back.
pub(super) fn with_stack<G: Geometry>(pages: u32, lowmem: u32, test: impl FnOnce(&mut Bench<'_, '_, G>)) {
    with_pages(pages, lowmem, |context, pool| {
        let mut bench = Bench {
            context,
            stack: Stack::new(),
            entries: Vec::new(),
            pages: pool.len(),
            pool,
            nodes: 0,
            conversions: 0,
            pending: Pending::new(),
        };
        test(&mut bench);
        bench.pop_many(bench.entries.len());
        bench.check();
        assert_eq!((bench.nodes, bench.pool.len()), (0, bench.pages), "an empty stack keeps pages");
    });
}

impl<G: Geometry> Bench<'_, '_, G> {
    /// Supplies the next node on the way to the leaf that is missing.
    pub(super) fn supply(&mut self) {
        let page = self.pool.pop_front().expect("more pages than nodes");
        self.context.map.page(page).set_node(LIST, self.context.zone, self.stack.next_place());
        self.stack.supply(self.context.nodes, page);
        self.nodes += 1;
        self.conversions += 1;
    }

    pub(super) fn push(&mut self, pfn: Pfn) {
        while self.stack.needs_node() {
            self.supply();
        }
        if self.stack.is_full() {
            self.stack.spill(self.context.nodes);
        }
        assert_eq!(self.stack.push(pfn).0 as usize, self.entries.len());
        self.entries.push(pfn);
    }

    /// Pushes entries that look like no other.
    pub(super) fn push_many(&mut self, count: u32) {
        for _ in 0..count {
            let unlike = u32::try_from(self.entries.len()).expect("few") * 7 + 3;
            self.push(Pfn::new(unlike));
        }
    }

    pub(super) fn pop(&mut self) {
        let released = &mut Released { pending: &mut self.pending, nodes: &mut self.nodes };
        let popped = self.stack.pop(self.context, released);
        assert_eq!(Some(popped), self.entries.pop());
        self.take_back();
    }

    pub(super) fn pop_many(&mut self, count: usize) {
        (0..count).for_each(|_| self.pop());
    }

    /// Removes an entry: as in `swap_remove`, the top one takes its place.
    pub(super) fn remove(&mut self, index: usize) {
        let released = &mut Released { pending: &mut self.pending, nodes: &mut self.nodes };
        let position = Position(u32::try_from(index).expect("few"));
        let removed = self.entries.swap_remove(index);
        let moved = self.stack.remove(self.context, position, removed, released).expect("it stands there");
        assert_eq!(moved, self.entries.get(index).copied(), "the caller is told which entry has moved");
        self.take_back();
    }

    /// Moves a node to the page that has been out of use longest.
    pub(super) fn relocate(&mut self, place: NodePlace, from: Pfn) {
        let to = self.pool.pop_front().expect("a page to move to");
        self.context.map.page(to).set_node(LIST, self.context.zone, place);
        self.stack.relocate(self.context.nodes, place, to);
        self.pool.push_back(from);
    }

    fn take_back(&mut self) {
        while let Some(page) = self.pending.pop(self.context.map) {
            self.pool.push_back(page.into_head());
            self.conversions += 1;
        }
    }

    /// The nodes from the root down, with the frames they stand in.
    pub(super) fn places(&self) -> Vec<(NodePlace, Pfn)> {
        let mut places = Vec::new();
        let machine = self.context.nodes.machine();
        self.stack.each_node(self.context.nodes, |place, node| {
            assert!(node.is_tagged_rightly(machine));
            places.push((place, node.frame(machine)));
        });
        places
    }

    /// Slots that were ever live at once since this was last asked.
    pub(super) fn most_slots(&self) -> usize {
        self.context.nodes.machine().most.swap(0, Ordering::Relaxed)
    }

    /// Highmem nodes that were looked at so far.
    pub(super) fn touches(&self) -> usize {
        self.context.nodes.machine().mapped.load(Ordering::Relaxed)
    }

    /// Compares all there is to compare.
    pub(super) fn check(&self) {
        assert_eq!(self.stack.len() as usize, self.entries.len());
        let positions = (0..self.stack.len()).map(Position);
        let read: Vec<_> = positions.map(|position| self.stack.get(self.context.nodes, position)).collect();
        assert_eq!(read, self.entries);
        let mut walked = Vec::new();
        self.stack.each_entry(self.context.nodes, |position, pfn| {
            assert_eq!(position.0 as usize, walked.len());
            walked.push(pfn);
        });
        assert_eq!(walked, self.entries);
        assert!(self.stack.is_well_formed(self.context.nodes), "a shape that the length does not demand");

        let frames: BTreeSet<_> = self.places().into_iter().map(|(_, frame)| frame).collect();
        assert_eq!(frames.len(), self.nodes as usize, "the tree does not lead to each of its nodes once");
        let pages: BTreeSet<_> = self.pool.iter().copied().chain(frames).collect();
        assert_eq!(pages.len(), self.pages, "a page is lost, or in use twice");
        assert!(self.nodes <= self.most_nodes(), "{} nodes for {} entries", self.nodes, self.entries.len());
        assert!(self.nodes >= nodes_for::<G>(self.stack.len().saturating_sub(G::INLINE)));
    }

    /// FREE-4: leaves for what is not in the ring, interior nodes above them, and a path to the next leaf.
    fn most_nodes(&self) -> u32 {
        let len = self.stack.len();
        let stored = if len <= G::INLINE / 2 { 0..=0 } else { len.saturating_sub(G::INLINE)..=len - 1 };
        let with_path = |stored: u32| {
            let path_may_be_open = stored.is_multiple_of(1 << G::LEAF_SHIFT);
            if path_may_be_open { nodes_for::<G>(stored + 1) - 1 } else { nodes_for::<G>(stored) }
        };
        stored.map(with_path).max().unwrap_or(0)
    }
}
