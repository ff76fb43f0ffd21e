//! What holders of a tree see.

use core::num::NonZeroU16;
use core::ptr::NonNull;
use std::vec::Vec;

use super::edit::NotOne;
use super::node::Mark;
use super::word::{NodePointer, Word};
use super::{Entry, Extent, Found, InsertError, NodeReserve, NodesLacking, TreeGuard, TreeNodes};
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::{HostMachine, scaled};
use crate::invariant::Invariant;
use crate::page::PageAllocator;
use crate::slab::{KmemCaches, SlabDebug};
use crate::units::{Count, NodeId, Order, PageIndex, Pfn, PhysAddr, StoreSlot};

mod model;
#[expect(unsafe_code, reason = "follows what it finds")]
mod readers;

const CPUS: u16 = 4;

const END: Pfn = Pfn::new(scaled(0x1000, 0x200));

/// A machine of lowmem, and nodes on it: as they are, and with all that is allocated debugged.
fn with_nodes(test: impl Fn(&PageAllocator<'_, HostMachine>, &TreeNodes<'_, HostMachine>)) {
    for debug in [SlabDebug::NONE, SlabDebug::parse("FZPU").expect("these are flags")] {
        let cpus = NonZeroU16::new(CPUS).expect("not zero");
        let machine = HostMachine::new(END, END, cpus).expect("the host lends memory");
        let memory = Region { start: PhysAddr(0), len: END.address().0, kind: RegionKind::Usable, node: NodeId(0) };
        let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
        let pages = machine.allocator(&mut map).expect("the tables fit");
        let free = pages.free_pages();
        let caches = KmemCaches::new_with(&pages, debug).expect("there is memory");
        let nodes = TreeNodes::new(&caches).expect("there is memory");
        test(&pages, &nodes);
        drop(nodes);
        caches.verify().expect("the caches are sound");
        drop(caches);
        pages.verify().expect("the page allocator is sound");
        assert_eq!(pages.free_pages(), free, "pages were lost");
        assert_eq!(machine.take_reports(), [""; 0]);
    }
}

/// So many nodes set aside.
fn reserve<'n, 'a>(nodes: &'n TreeNodes<'a, HostMachine>, count: u32) -> NodeReserve<'n, 'a, HostMachine> {
    let mut reserve = nodes.no_reserve();
    reserve.refill(Count(count)).expect("there is memory");
    reserve
}

/// An item that nobody follows.
fn item(number: usize) -> Entry<u128> {
    Entry::Item(NonNull::without_provenance(core::num::NonZero::new(16 * (number + 1)).expect("not zero")))
}

#[test]
fn one_entry_at_index_0_needs_no_node() {
    with_nodes(|_, nodes| {
        let tree = nodes.tree::<u128, _>(());
        let mut reserve = nodes.no_reserve();
        let mut guard = tree.lock(nodes.machine());
        let first = Extent::page(PageIndex(0));
        assert_eq!(guard.insert(first, item(1), &mut reserve), Ok(()));
        let found = Found { first: PageIndex(0), last: PageIndex(0), entry: item(1) };
        assert_eq!(guard.insert(first, item(2), &mut reserve), Err(InsertError::Occupied(found)));
        guard.mark(first);
        assert_eq!(guard.next_marked(PageIndex(0)), Some(found));
        assert_eq!(guard.verify(), Ok(Count(0)));
        let far = Extent::page(PageIndex(64));
        assert_eq!(guard.insert(far, item(2), &mut reserve), Err(InsertError::Nodes(NodesLacking(Count(3)))));
        assert_eq!(reserve.refill(Count(3)), Ok(()));
        assert_eq!(guard.insert(far, item(2), &mut reserve), Ok(()));
        assert_eq!(guard.verify(), Ok(Count(3)));
        assert_eq!(guard.next_marked(PageIndex(0)), Some(found));
        assert_eq!(guard.remove(far, &mut reserve), Ok(item(2)));
        assert_eq!(guard.verify(), Ok(Count(0)));
        assert_eq!(guard.next_marked(PageIndex(0)), Some(found));
        assert_eq!(guard.replace(first, Entry::Stored(StoreSlot(u32::MAX))), Ok(item(1)));
        assert_eq!(guard.remove(first, &mut reserve), Ok(Entry::Stored(StoreSlot(u32::MAX))));
        assert_eq!(guard.remove(first, &mut reserve), Err(NotOne));
    });
}

#[test]
fn a_large_entry_is_broken_up_around_a_page_and_put_together_again() {
    with_nodes(|_, nodes| {
        let tree = nodes.tree::<u128, _>(());
        let mut reserve = reserve(nodes, 16);
        let mut guard = tree.lock(nodes.machine());
        let all = Extent::around(PageIndex(0x1234_5678_9abc), Order::of(9));
        let page = Extent::page(PageIndex(all.first().0 + 77));
        assert_eq!(guard.insert(all, item(1), &mut reserve), Ok(()));
        guard.mark(all);
        let before = guard.verify();
        assert_eq!(guard.replace(page, item(2)), Err(NotOne));
        assert_eq!(guard.expand(page, Order::ZERO, &mut reserve), Ok(()));
        assert_eq!(guard.replace(page, item(2)), Ok(item(1)));
        assert_eq!(guard.look(page.first()), Some(item(2)));
        assert_eq!(guard.look(all.last()), Some(item(1)));
        assert!(guard.collapse(all, &mut reserve).is_err());
        assert_eq!(guard.replace(page, item(1)), Ok(item(2)));
        assert_eq!(guard.collapse(all, &mut reserve), Ok(item(1)));
        assert_eq!(guard.verify(), before);
        let found = Found { first: all.first(), last: all.last(), entry: item(1) };
        assert_eq!(guard.next_marked(PageIndex(0)), Some(found));
        assert_eq!(guard.remove(all, &mut reserve), Ok(item(1)));
        assert_eq!(guard.verify(), Ok(Count(0)));
    });
}

#[test]
fn what_was_lost_is_found_slot_by_slot_whatever_it_was_lost_with() {
    with_nodes(|_, nodes| {
        let tree = nodes.tree::<u128, _>(());
        let mut reserve = reserve(nodes, 16);
        let mut guard = tree.lock(nodes.machine());
        // One of four pages and two single ones in a row, and then one of two nodes.
        let extents = [(4, 2), (8, 0), (9, 0), (256, 7)];
        let extents = extents.map(|(first, order)| Extent::around(PageIndex(first), Order::of(order)));
        for extent in extents {
            guard.insert(extent, item(1), &mut reserve).expect("there is room");
            assert_eq!(guard.replace(extent, Entry::Lost), Ok(item(1)));
        }
        let found: Vec<_> =
            guard.entries(PageIndex(0), PageIndex(1000)).map(|found| (found.first.0, found.last.0)).collect();
        let pages = (4..=9).map(|page| (page, page));
        assert!(pages.chain([(256, 319), (320, 383)]).eq(found.iter().copied()), "{found:?}");
        for (first, last) in found {
            let order = Order::of((last - first + 1).trailing_zeros() as usize);
            assert_eq!(guard.remove(Extent::around(PageIndex(first), order), &mut reserve), Ok(Entry::Lost));
        }
        assert_eq!(guard.verify(), Ok(Count(0)));
    });
}

#[test]
fn the_checker_names_what_a_node_gets_wrong() {
    with_nodes(|_, nodes| {
        let tree = nodes.tree::<u128, _>(());
        let mut reserve = reserve(nodes, 16);
        let mut guard = tree.lock(nodes.machine());
        let [one, other] = [5, 700].map(|index| Extent::page(PageIndex(index)));
        for extent in [one, other] {
            guard.insert(extent, item(0), &mut reserve).expect("there is room");
        }
        guard.mark(one);
        let broken = |guard: &TreeGuard<'_, '_, u128, ()>| guard.verify().map_err(|violation| violation.invariant);
        let root = tree.root().to_node().expect("a node is there");
        let node = guard.access().node(root);
        for (slot, was, wrong) in
            [(0, Mark::Set, Mark::Clear), (10, Mark::Clear, Mark::Set), (1, Mark::Clear, Mark::Set)]
        {
            node.set_mark(slot, wrong);
            assert_eq!(broken(&guard), Err(Invariant::Tree1), "slot {slot}");
            node.set_mark(slot, was);
            assert_eq!(broken(&guard), Ok(Count(3)));
        }
        // A word that leads past a level, and one that leads to nothing.
        let leaf = node.word::<u128>(0).to_node().expect("a leaf is there");
        let lost = node.word::<u128>(10);
        for word in [
            Word::<u128>::node(NodePointer { level: root.level, ..leaf }),
            Word::<u128>::node(reserve.take(leaf.level).expect("in stock")),
        ] {
            node.set(10, word, Mark::Clear);
            assert_eq!(broken(&guard), Err(Invariant::Tree1));
            if let Some(spare) = word.to_node().filter(|spare| spare.node != leaf.node) {
                reserve.put(spare.node);
            }
        }
        // A root that is higher than it must be.
        node.set(10, Word::<u128>::EMPTY, Mark::Clear);
        assert_eq!(broken(&guard), Err(Invariant::Tree1));
        node.set(10, lost, Mark::Clear);
        for extent in [one, other] {
            assert_eq!(guard.remove(extent, &mut reserve), Ok(item(0)));
        }
        assert_eq!(broken(&guard), Ok(Count(0)));
    });
}
