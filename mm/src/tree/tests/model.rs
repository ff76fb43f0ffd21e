//! A tree against a map: random operations of mixed orders, the checker and the whole contents after each.

use std::collections::BTreeMap;
use std::vec::Vec;

use fastrand::Rng;

use super::super::edit::NotOne;
use super::super::node::NodeStock;
use super::super::reshape::CollapseError;
use super::super::{Entry, Extent, Found, InsertError, NodeReserve, TreeGuard, TreeNodes};
use super::{item, with_nodes};
use crate::host::sweep::fail_each_once;
use crate::host::{HostMachine, scaled};
use crate::slab::KmemCaches;
use crate::units::{Count, Order, PageIndex, StoreSlot};

type Guard<'t, 'n> = TreeGuard<'t, 'n, u128, ()>;
type Reserve<'n, 'a> = NodeReserve<'n, 'a, HostMachine>;

/// What stands where, and whether it is marked.
#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, Modelled>,
    made: usize,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Modelled {
    extent: Extent,
    entry: Entry<u128>,
    marked: bool,
}

impl Modelled {
    fn found(&self) -> Found<u128> {
        Found { first: self.extent.first(), last: self.extent.last(), entry: self.entry }
    }
}

/// Whether two extents, both aligned, have an index in common.
fn overlap(one: Extent, other: Extent) -> bool {
    one.first() <= other.last() && other.first() <= one.last()
}

impl Model {
    fn fresh(&mut self, rng: &mut Rng) -> Entry<u128> {
        self.made += 1;
        match rng.u8(..3) {
            0 => Entry::Stored(StoreSlot(u32::MAX - u32::try_from(self.made).expect("few are made"))),
            _ => item(self.made),
        }
    }

    fn within(&self, extent: Extent) -> Vec<Modelled> {
        self.entries.values().filter(|modelled| overlap(modelled.extent, extent)).copied().collect()
    }

    fn put(&mut self, extent: Extent, entry: Entry<u128>, marked: bool) {
        self.entries.insert(extent.first().0, Modelled { extent, entry, marked });
    }

    fn any(&self, rng: &mut Rng) -> Option<Modelled> {
        let count = self.entries.len();
        (count > 0).then(|| *self.entries.values().nth(rng.usize(..count)).expect("there are so many"))
    }

    /// Nodes of a tree that holds this, counted the plain way: those over each entry, once.
    fn nodes(&self) -> u32 {
        let Some(highest) = self.entries.values().map(|modelled| modelled.extent).max_by_key(|extent| extent.last())
        else {
            return 0;
        };
        let level = |extent: Extent| u32::from(extent.order().number()) / 6;
        let lowest = |extent: Extent| extent.first().0.checked_shr(6 * (level(extent) + 1)).unwrap_or(0);
        let entries: Vec<_> = self.entries.values().map(|modelled| modelled.extent).collect();
        if entries == [Extent::page(PageIndex(0))] {
            return 0;
        }
        let mut top = entries.iter().map(|&extent| level(extent)).max().unwrap_or(0);
        while highest.last().0.checked_shr(6 * (top + 1)).unwrap_or(0) > 0 {
            top += 1;
        }
        (0..=top)
            .map(|at| {
                let mut nodes: Vec<u64> = entries
                    .iter()
                    .filter(|&&extent| level(extent) <= at)
                    .map(|&extent| lowest(extent).checked_shr(6 * (at - level(extent))).unwrap_or(0))
                    .collect();
                nodes.sort_unstable();
                nodes.dedup();
                u32::try_from(nodes.len()).expect("few")
            })
            .sum()
    }

    /// Compares everything.
    fn check(&self, guard: &Guard<'_, '_>) {
        assert_eq!(guard.verify(), Ok(Count(self.nodes())), "{:?}", self.entries);
        let all = guard.entries(PageIndex(0), PageIndex(u64::MAX));
        assert!(all.eq(self.entries.values().map(Modelled::found)), "{:?}", self.entries);
        let mut next = Some(PageIndex(0));
        let marked = core::iter::from_fn(|| {
            let found = guard.next_marked(next?)?;
            next = found.last.0.checked_add(1).map(PageIndex);
            Some(found)
        });
        let expected = self.entries.values().filter(|modelled| modelled.marked).map(Modelled::found);
        assert!(marked.eq(expected), "{:?}", self.entries);
    }
}

/// Places where things collide: few indexes, the ends of nodes of every level, and of the whole.
fn index(rng: &mut Rng) -> u64 {
    match rng.u8(..8) {
        0..=2 => rng.u64(..200),
        3 | 4 => rng.u64(..3 << 12),
        5 => (1_u64 << (6 * rng.u32(1..11))).wrapping_add(rng.u64(..128)).wrapping_sub(64),
        6 => u64::MAX - rng.u64(..5000),
        _ => 0,
    }
}

fn extent(rng: &mut Rng) -> Extent {
    let order = if rng.bool() { 0 } else { rng.usize(..=10) };
    Extent::around(PageIndex(index(rng)), Order::of(order))
}

/// Inserts, after it was refused for as long as nodes lack; each time nothing has changed.
fn insert(
    model: &Model,
    guard: &mut Guard<'_, '_>,
    reserve: &mut Reserve<'_, '_>,
    extent: Extent,
    entry: Entry<u128>,
) -> Result<(), Found<u128>> {
    match guard.insert(extent, entry, reserve) {
        Ok(()) => Ok(()),
        Err(InsertError::Occupied(found)) => Err(found),
        Err(InsertError::Nodes(lacking)) => {
            assert!(reserve.count() < lacking.0);
            assert_eq!(guard.nodes_for(extent), Ok(lacking.0));
            model.check(guard);
            reserve.refill(lacking.0).expect("there is memory");
            let used = guard.verify().expect("sound").0;
            assert_eq!(guard.insert(extent, entry, reserve), Ok(()));
            assert_eq!(guard.verify(), Ok(Count(used + lacking.0.0)), "as many as were wanted");
            Ok(())
        }
    }
}

/// Splits an entry into pieces of an order, or only around one of its pages.
fn split(model: &mut Model, guard: &mut Guard<'_, '_>, stock: &mut Reserve<'_, '_>, whole: Modelled, rng: &mut Rng) {
    let to = Order::of(rng.usize(..=whole.extent.order().index()));
    let page = PageIndex(whole.extent.first().0 + rng.u64(..u64::from(whole.extent.order().pages())));
    let mut pieces = Vec::new();
    if rng.bool() {
        for first in (whole.extent.first().0..=whole.extent.last().0).step_by(to.pages() as usize) {
            pieces.push(Extent::around(PageIndex(first), to));
        }
        expand(guard, stock, whole.extent, to);
    } else {
        let mut piece = Extent::around(page, to);
        pieces.push(piece);
        while piece.order() < whole.extent.order() {
            let up = piece.order().up().expect("below the whole");
            pieces.push(Extent::around(PageIndex(piece.first().0 ^ u64::from(piece.order().pages())), piece.order()));
            piece = Extent::around(page, up);
        }
        expand(guard, stock, Extent::around(page, to), to);
    }
    for index in [whole.extent.first(), page, whole.extent.last()] {
        assert_eq!(guard.look(index), Some(whole.entry), "expanded, it is the same");
    }
    model.entries.remove(&whole.extent.first().0);
    for piece in pieces {
        let entry = model.fresh(rng);
        assert_eq!(guard.replace(piece, entry), Ok(whole.entry));
        model.put(piece, entry, whole.marked);
    }
}

fn expand(guard: &mut Guard<'_, '_>, reserve: &mut Reserve<'_, '_>, extent: Extent, to: Order) {
    if let Err(lacking) = guard.expand(extent, to, reserve) {
        assert!(reserve.count() < lacking.0);
        reserve.refill(lacking.0).expect("there is memory");
        assert_eq!(guard.expand(extent, to, reserve), Ok(()));
    }
}

/// Makes one entry of all that stand in an extent.
fn merge(model: &mut Model, guard: &mut Guard<'_, '_>, reserve: &mut Reserve<'_, '_>, extent: Extent, rng: &mut Rng) {
    let pieces = model.within(extent);
    let covered: u64 = pieces.iter().map(|piece| u64::from(piece.extent.order().pages())).sum();
    let inside = pieces.iter().all(|piece| piece.extent.order() <= extent.order());
    if !inside || covered != u64::from(extent.order().pages()) {
        // One entry that is larger is all the same.
        let larger = covered > u64::from(extent.order().pages());
        assert!(larger || guard.collapse(extent, reserve) == Err(NotOne.into()));
        return;
    }
    assert!(pieces.len() == 1 || guard.collapse(extent, reserve) == Err(NotOne.into()));
    let (entry, marked) = (model.fresh(rng), pieces.iter().any(|piece| piece.marked));
    for piece in pieces {
        assert_eq!(guard.replace(piece.extent, entry), Ok(piece.entry));
        model.entries.remove(&piece.extent.first().0);
    }
    match guard.collapse(extent, reserve) {
        Err(CollapseError::Nodes(lacking)) => {
            reserve.refill(lacking.0).expect("there is memory");
            assert_eq!(guard.collapse(extent, reserve), Ok(entry));
        }
        collapsed => assert_eq!(collapsed, Ok(entry)),
    }
    // Those that were not marked stand in slots of their own, perhaps.
    if marked {
        guard.mark(extent);
    } else {
        guard.unmark(extent);
    }
    model.put(extent, entry, marked);
}

fn step(model: &mut Model, guard: &mut Guard<'_, '_>, reserve: &mut Reserve<'_, '_>, rng: &mut Rng, fill: u8) {
    let extent = extent(rng);
    match rng.u8(..16) {
        0..=4 if rng.u8(..4) < fill => {
            let entry = model.fresh(rng);
            match insert(model, guard, reserve, extent, entry) {
                Ok(()) => {
                    assert_eq!(model.within(extent), []);
                    model.put(extent, entry, false);
                }
                Err(found) => assert_eq!(Some(found), model.within(extent).first().map(Modelled::found)),
            }
        }
        0..=6 => {
            let Some(taken) = model.any(rng) else { return };
            assert_eq!(guard.remove(taken.extent, reserve), Ok(taken.entry));
            model.entries.remove(&taken.extent.first().0);
        }
        7 => {
            let removed = match *model.within(extent) {
                [one] if one.extent == extent => {
                    model.entries.remove(&extent.first().0);
                    Ok(one.entry)
                }
                // Part of an entry that has slots of its own could go; nobody wants that.
                [one] if one.extent.order() > extent.order() => return,
                _ => Err(NotOne),
            };
            assert_eq!(guard.remove(extent, reserve), removed);
        }
        8 | 9 => {
            let Some(old) = model.any(rng) else { return };
            let entry = model.fresh(rng);
            assert_eq!(guard.replace(old.extent, entry), Ok(old.entry));
            model.put(old.extent, entry, old.marked);
        }
        10 => {
            let Some(whole) = model.any(rng) else { return };
            split(model, guard, reserve, whole, rng);
        }
        11 => merge(model, guard, reserve, extent, rng),
        12 | 13 => {
            // An extent may hold several entries; one that is larger is not halved.
            if model.within(extent).iter().any(|modelled| modelled.extent.order() > extent.order()) {
                return;
            }
            let mark = rng.bool();
            if mark {
                guard.mark(extent);
            } else {
                guard.unmark(extent);
            }
            for modelled in model.entries.values_mut().filter(|modelled| overlap(modelled.extent, extent)) {
                modelled.marked = mark;
            }
        }
        14 => {
            let at = PageIndex(index(rng));
            let here = model.within(Extent::page(at));
            assert_eq!(guard.look(at), here.first().map(|modelled| modelled.entry));
            let from = |modelled: &&Modelled| modelled.extent.last() >= at;
            assert_eq!(guard.next(at), model.entries.values().find(from).map(Modelled::found));
            let marked = model.entries.values().filter(|modelled| modelled.marked);
            assert_eq!(guard.next_marked(at), marked.clone().find(from).map(Modelled::found));
        }
        _ => drain(reserve, rng),
    }
}

/// Gives back all that is in stock, or all but a few.
fn drain(stock: &mut Reserve<'_, '_>, rng: &mut Rng) {
    let mut rest = stock.nodes.no_reserve();
    for _ in 0..rng.u32(..4) {
        let rest: &mut NodeStock = &mut rest;
        if let Some(node) = stock.take(super::super::word::Level::LEAF) {
            rest.put(node.node);
        }
    }
    *stock = rest;
}

#[test]
fn random_operations_of_mixed_orders_are_those_of_a_map() {
    with_nodes(|_, nodes| {
        for seed in 0..scaled(24, 1) {
            let mut rng = Rng::with_seed(seed);
            let tree = nodes.tree::<u128, _>(());
            let mut reserve = nodes.no_reserve();
            let mut guard = tree.lock(nodes.machine());
            let mut model = Model::default();
            for turn in 0..scaled(1500, 60) {
                // It fills, and empties again.
                let fill = if turn / scaled(300, 20) % 2 == 0 { 4 } else { 1 };
                step(&mut model, &mut guard, &mut reserve, &mut rng, fill);
                model.check(&guard);
            }
            while let Some(left) = model.any(&mut rng) {
                assert_eq!(guard.remove(left.extent, &mut reserve), Ok(left.entry));
                model.entries.remove(&left.extent.first().0);
                model.check(&guard);
            }
        }
    });
}

#[test]
fn every_allocation_of_nodes_may_fail() {
    fn script(caches: &KmemCaches<'_, HostMachine>) -> Result<(), &'static str> {
        let nodes = TreeNodes::new(caches).map_err(|_| "no cache")?;
        let tree = nodes.tree::<u128, _>(());
        let mut reserve = nodes.no_reserve();
        let mut inserted = Ok(());
        let places = [0, 1 << 50, 64, 1 << 20, 4096, u64::MAX, 128 << 9].map(PageIndex);
        for (number, &index) in places.iter().enumerate() {
            let extent = Extent::around(index, Order::of(number));
            let wanted = tree.lock(nodes.machine()).nodes_for(extent).expect("nothing is there");
            inserted = reserve.refill(wanted).map_err(|_| "no nodes");
            if inserted.is_err() {
                break;
            }
            tree.lock(nodes.machine()).insert(extent, item(number), &mut reserve).expect("nodes are there");
        }
        let mut guard = tree.lock(nodes.machine());
        guard.verify().expect("sound");
        for (number, &index) in places.iter().enumerate() {
            let extent = Extent::around(index, Order::of(number));
            if guard.look(index).is_some() {
                assert_eq!(guard.remove(extent, &mut reserve), Ok(item(number)));
            }
        }
        assert_eq!(guard.verify(), Ok(Count(0)));
        inserted
    }
    with_nodes(|pages, _| {
        let swept = fail_each_once(pages, || {
            let caches = KmemCaches::new(pages).map_err(|_| "no caches")?;
            script(&caches)
        });
        assert!(swept.allocations > 60, "{swept:?}");
    });
}
