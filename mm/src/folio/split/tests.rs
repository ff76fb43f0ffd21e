//! What holders of folios see of splits and joins; `model` is random ones against sets of pages, `stress` is with walkers.

use core::num::NonZeroU16;
use std::vec::Vec;

use super::*;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::faults::Fired;
use crate::folio::LockedFolio;
use crate::host::sweep::fail_each_once;
use crate::host::{HostMachine, scaled};
use crate::owner::{FolioFlags, FolioRef, PinnedFolio, Reference, Seen};
use crate::page::{PageAllocator, Request};
use crate::slab::KmemCaches;
use crate::units::{NodeId, PageIndex, PhysAddr};
use crate::{OwnerKind, PageState};

mod model;
mod stress;

/// The order of the largest folios.
const LARGE: usize = scaled(10, 7);
const CPUS: u16 = 5;

type Pages<'m> = PageAllocator<'m, HostMachine>;
type Folios<'o> = Owned<'o, HostMachine, Folio>;

/// A machine of 16 MiB, the uppermost 6 of them highmem.
fn with_pages<R>(test: impl FnOnce(&Pages<'_>) -> R) -> R {
    let frames = |mib: u32| Pfn::new(mib << scaled(8, 6));
    let cpus = NonZeroU16::new(CPUS).expect("not zero");
    let machine = HostMachine::new(frames(16), frames(10), cpus).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: frames(16).address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
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
        let result = test(&owners);
        owners.verify().expect("all is well at last");
        result
    })
}

fn alloc<'o>(owners: &'o Owners<'o, HostMachine>, order: usize) -> Folios<'o> {
    let folio = owners.alloc(Request::movable(Order::of(order)), Folio::new());
    folio.map_err(|(_, error)| error).expect("there is memory")
}

/// Sizes of the pieces that a plan makes of a folio, by where in it they begin.
fn shape(order: usize, to: impl Fn(Pfn) -> SplitTo) -> Vec<(u32, u8)> {
    with_owners(|owners| {
        let folio = alloc(owners, order);
        let start = folio.head();
        let row = folio.split(to(start)).map_err(|(_, error)| error).expect("it has such pieces");
        row.map(|piece| (piece.head().number() - start.number(), piece.order().number())).collect()
    })
}

#[test]
fn a_folio_is_cut_into_equal_pieces_or_into_halves_around_a_page() {
    assert_eq!(shape(4, |_| SplitTo::Uniform(Order::of(2))), [(0, 2), (4, 2), (8, 2), (12, 2)]);
    assert_eq!(shape(1, |_| SplitTo::Uniform(Order::ZERO)), [(0, 0), (1, 0)]);
    let around = |page, order| move |start: Pfn| SplitTo::Around(start.plus(page), Order::of(order));
    assert_eq!(shape(4, around(5, 0)), [(0, 2), (4, 0), (5, 0), (6, 1), (8, 3)]);
    assert_eq!(shape(4, around(0, 0)), [(0, 0), (1, 0), (2, 1), (4, 2), (8, 3)]);
    assert_eq!(shape(4, around(15, 1)), [(0, 3), (8, 2), (12, 1), (14, 1)]);
    assert_eq!(shape(3, around(6, 2)), [(0, 2), (4, 2)]);
    for page in [0, 1, 511, 512, 777, 1023].map(|page| page % (1 << LARGE)).into_iter().step_by(scaled(1, 5)) {
        let pieces = shape(LARGE, around(page, 0));
        assert_eq!(pieces.len(), LARGE + 1);
        assert!(pieces.contains(&(page, 0)));
    }
}

#[test]
fn pieces_that_nobody_takes_are_freed_with_their_row() {
    with_owners(|owners| {
        let folio = alloc(owners, 4);
        let start = folio.range().start;
        let mut row = folio.split(SplitTo::Uniform(Order::of(2))).map_err(|(_, error)| error).expect("alone");
        let first = row.next().expect("there are four");
        let in_use = || [0, 4, 8, 12].map(|page| owners.pages().page_state(start.plus(page)).0 == PageState::Allocated);
        assert_eq!(in_use(), [true; 4]);
        drop(row);
        assert_eq!(in_use(), [true, false, false, false]);
        drop(first);
        assert_eq!(in_use(), [false; 4]);
    });
}

#[test]
fn no_more_pieces_are_reckoned_with_than_there_will_be() {
    let head = Pfn::new(0x400);
    for order in 0..=10 {
        for to in 0..=10 {
            let (uniform, around) = (SplitTo::Uniform(Order::of(to)), SplitTo::Around(head.plus(1), Order::of(to)));
            let pieces = |plan: SplitTo| plan.pieces(head, Order::of(order)).map(|Count(pieces)| pieces as usize);
            assert_eq!(pieces(uniform), (to < order).then(|| 1 << (order - to)));
            assert_eq!(pieces(around), (to < order).then(|| order - to + 1));
            assert_eq!(pieces(SplitTo::Around(head.plus(1 << order), Order::of(to))), None);
        }
    }
}

#[test]
fn a_thousand_pages_become_folios_of_their_own_and_one_again() {
    with_owners(|owners| {
        let mut folio = alloc(owners, LARGE);
        let range = folio.range();
        for (at, pfn) in (0..).zip(range.frames()) {
            let _ = folio.with_page(pfn, |bytes| bytes[..4].copy_from_slice(&u32::to_le_bytes(at)));
        }
        folio.set(FolioFlags::UPTODATE | FolioFlags::DIRTY);
        folio.set_place(core::ptr::null_mut(), PageIndex(70_000));
        let row = folio.split(SplitTo::Uniform(Order::ZERO)).map_err(|(_, error)| error).expect("there is memory");
        owners.verify().expect("all is well with a thousand folios");
        assert_eq!(std::format!("{row:?}"), std::format!("FolioRow({range:?})"));
        let walker = owners.walk();
        for (at, pfn) in (0..).zip(range.frames()) {
            let Some(Reference::Folio(page)) = walker.look(pfn).get() else { panic!("{pfn:?} is no folio's") };
            assert_eq!((page.head(), page.order()), (pfn, Order::ZERO));
            assert_eq!(page.index(), PageIndex(70_000 + at));
            assert_eq!(page.flags(), FolioFlags::UPTODATE | FolioFlags::DIRTY);
        }
        drop(walker);
        let mut folio = row.join().map_err(|(_, error)| error).expect("nobody refers to them");
        assert_eq!(folio.range(), range);
        assert_eq!(folio.index(), PageIndex(70_000));
        for (at, pfn) in (0_u32..).zip(range.frames()) {
            assert_eq!(folio.with_page(pfn, |bytes| bytes[..4] == at.to_le_bytes()), Some(true), "{pfn:?}");
        }
    });
}

#[test]
fn what_is_joined_is_up_to_date_if_all_of_it_was_and_dirty_if_any_was() {
    with_owners(|owners| {
        let states = [
            (FolioFlags::UPTODATE, FolioFlags::UPTODATE, FolioFlags::UPTODATE),
            (FolioFlags::UPTODATE, FolioFlags::DIRTY, FolioFlags::DIRTY),
            (
                FolioFlags::ACTIVE,
                FolioFlags::UPTODATE | FolioFlags::REFERENCED,
                FolioFlags::ACTIVE | FolioFlags::REFERENCED,
            ),
        ];
        for (lower, upper, whole) in states {
            let row = alloc(owners, 3).split(SplitTo::Uniform(Order::of(2))).map_err(|(_, error)| error);
            let mut row = row.expect("there is memory");
            let (Some(low), Some(high)) = (row.next(), row.next()) else { panic!("two pieces") };
            low.set(lower);
            high.set(upper);
            // The upper one first: it makes no difference.
            let folio = high.join(low).map_err(|(_, _, error)| error).expect("they are buddies");
            assert_eq!(folio.flags(), whole);
        }
    });
}

#[test]
fn what_cannot_be_split_comes_back_with_the_reason() {
    with_owners(|owners| {
        let refused = |folio: Folios<'_>, to, error| {
            let (range, free) = (folio.range(), owners.pages().free_pages());
            let (folio, why) = folio.split(to).expect_err("it must be refused");
            assert_eq!((why, folio.range(), owners.pages().free_pages()), (error, range, free));
            owners.verify().expect("a refusal changes nothing");
        };
        let (to_pages, order) = (SplitTo::Uniform(Order::ZERO), Order::of(3));
        refused(alloc(owners, 0), to_pages, SplitError::NoSuchPieces);
        refused(alloc(owners, 3), SplitTo::Uniform(order), SplitError::NoSuchPieces);
        let folio = alloc(owners, 3);
        let outside = [folio.range().end, Pfn::new(folio.head().number().wrapping_sub(1)), Pfn::LIMIT];
        refused(folio, SplitTo::Around(outside[0], Order::ZERO), SplitError::NoSuchPieces);
        refused(alloc(owners, 3), SplitTo::Around(outside[1], Order::ZERO), SplitError::NoSuchPieces);
        refused(alloc(owners, 3), SplitTo::Around(outside[2], Order::ZERO), SplitError::NoSuchPieces);
        let folio = alloc(owners, 3);
        refused_around_its_head(folio, order);
        let look = |pfn| match owners.walk().look(pfn).get() {
            Some(Reference::Folio(folio)) => folio,
            other => panic!("{other:?} is no folio"),
        };
        let folio = alloc(owners, 3);
        let other: FolioRef<'_, HostMachine> = look(folio.head().plus(7));
        refused(folio, to_pages, SplitError::Referred);
        // Its owner has let it go, so it lives by this reference.
        let pinned = PinnedFolio::new(other);
        assert_eq!(pinned.folio().order(), order);
        let folio = alloc(owners, 3);
        let other = PinnedFolio::new(look(folio.head()));
        refused(folio, to_pages, SplitError::Pinned);
        drop((pinned, other));
        let (folio, faults) = (alloc(owners, LARGE), owners.pages().machine().faults());
        faults.fail_nth(1);
        let (folio, why) = folio.split(to_pages).expect_err("there is no memory");
        assert_eq!(faults.stop(), Fired::Yes);
        assert!(matches!(why, SplitError::NoMemory(_)), "{why}");
        assert_eq!(folio.order(), Order::of(LARGE));
    });
}

fn refused_around_its_head(folio: Folios<'_>, order: Order) {
    let around = SplitTo::Around(folio.head(), order);
    let (_, why) = folio.split(around).expect_err("it is one piece already");
    assert_eq!(why, SplitError::NoSuchPieces);
}

fn refused<'o>(one: Folios<'o>, other: Folios<'o>, error: JoinError) -> (Folios<'o>, Folios<'o>) {
    let (owners, ranges) = (one.owners(), (one.range(), other.range()));
    let (one, other, why) = one.join(other).expect_err("it must be refused");
    assert_eq!((why, (one.range(), other.range())), (error, ranges));
    owners.verify().expect("a refusal changes nothing");
    (one, other)
}

#[test]
fn what_cannot_be_joined_comes_back_as_it_came() {
    with_owners(|owners| {
        let row = |order| alloc(owners, order).split(SplitTo::Uniform(Order::of(1))).map_err(|(_, error)| error);
        let pieces: Vec<_> = row(3).expect("there is memory").collect();
        let Ok([a, b, c, d]) = <[_; 4]>::try_from(pieces) else { panic!("four pieces") };
        // Neighbours that are no buddies, strangers, and halves of unequal size.
        let (c, b) = refused(c, b, JoinError::NoBlock);
        let (a, d) = refused(a, d, JoinError::NoBlock);
        let ab = a.join(b).map_err(|(_, _, error)| error).expect("buddies");
        let (ab, c) = refused(ab, c, JoinError::NoBlock);
        // A reference to either.
        let held = owners.walk().look(d.head().plus(1)).get();
        let head = d.head();
        let (d, c) = refused(d, c, JoinError::Referred(head));
        drop(held);
        let cd = c.join(d).map_err(|(_, _, error)| error).expect("nobody refers to it any more");
        let held = owners.walk().look(ab.head().plus(1)).get();
        let head = ab.head();
        let (ab, cd) = refused(ab, cd, JoinError::Referred(head));
        drop(held);
        let whole = ab.join(cd).map_err(|(_, _, error)| error).expect("nobody refers to it any more");
        assert_eq!(whole.order(), Order::of(3));
        // Who pays for one half does not for the other.
        let group = owners.pages().groups().create(None).expect("there are groups");
        let (mut block, folio) = whole.into_block().expect("nobody refers to it");
        block.recharge(group.id()).expect("there is no limit");
        let (low, mut high) = block.split().expect("eight pages can be halved");
        high.recharge(crate::charge::GroupId::ROOT).expect("the root pays for all");
        let head = high.head();
        let (low, high) = low.merge(high).expect_err("two groups pay for it");
        let own = |block, folio| owners.adopt(block, folio).map_err(|(.., error)| error).expect("there is memory");
        let (low, high) = (own(low, folio), own(high, Folio::new()));
        drop(refused(low, high, JoinError::NotAlike(head)));
        group.destroy().map_err(|left| left.pages).expect("nothing is charged to it");
    });
}

/// One of many in a row is referred to: all of them come back, and can be referred to again.
#[test]
fn a_row_is_joined_whole_or_not_at_all() {
    with_owners(|owners| {
        let folio = alloc(owners, 6);
        let range = folio.range();
        let around = SplitTo::Around(range.start.plus(3), Order::ZERO);
        let mut row = folio.split(around).map_err(|(_, error)| error).expect("there is memory");
        let heads: Vec<_> = row.heads(range).collect();
        for &head in &heads {
            let held = owners.walk().look(head).get();
            assert!(held.is_some());
            let (back, error) = row.join().expect_err("one is referred to");
            assert_eq!((error, back.range()), (JoinError::Referred(head), range));
            assert_eq!(back.heads(range).collect::<Vec<_>>(), heads);
            for &head in &heads {
                assert!(owners.walk().look(head).get().is_some(), "{head:?} is frozen still");
            }
            row = back;
        }
        // Without its first folio a row is no block; with it, it is again.
        let first = row.next().expect("there are pieces");
        let (rest, error) = row.join().expect_err("it is no block");
        assert_eq!(error, JoinError::NoBlock);
        let row =
            rest.fold(FolioRow::of(first), |row, next| row.with(next).map_err(|(_, next)| next).expect("in order"));
        let mut others = [alloc(owners, 0), alloc(owners, 0)].into_iter();
        let stranger = others.find(|other| other.head() != range.end).expect("two begin at two places");
        let (row, _) = row.with(stranger).expect_err("it begins elsewhere");
        assert_eq!(row.join().map_err(|(_, error)| error).expect("nobody refers to them").range(), range);
    });
}

/// What a page cache does: it keeps a reference to each folio by its address alone.
#[test]
fn a_locked_folio_that_is_kept_somewhere_is_split_into_locked_ones_that_are() {
    with_owners(|owners| {
        let folio = alloc(owners, 5);
        let range = folio.range();
        let shared = folio.into_shared();
        let slot = shared.get().into_kept();
        let locked = shared.lock();
        // SAFETY: the other reference is the one kept.
        let frozen = unsafe { locked.freeze(Count(1)) }.expect("there are two references");
        assert!(owners.walk().look(range.start).get().is_none(), "it is frozen");
        let to = SplitTo::Around(range.start.plus(9), Order::ZERO);
        let mut too_few = owners.descriptors(Count(4)).expect("there is memory");
        let frozen =
            frozen.split(to, &mut too_few, |_| unreachable!("a piece too early")).expect_err("five are needed");
        assert_eq!((frozen.range(), too_few.left()), (range, Count(4)));
        let mut descriptors = owners.descriptors(Count(5)).expect("there is memory");
        let mut slots = Vec::new();
        let mut end = range.start;
        let split = frozen.split(to, &mut descriptors, |mut piece| {
            assert_eq!(piece.head(), end, "pieces come in ascending order");
            end = piece.range().end;
            slots.push(piece.descriptor());
            piece.keep(Count(1));
            let piece = LockedFolio::held(piece.thaw());
            assert!(piece.flags().contains(FolioFlags::LOCKED));
            drop(piece);
        });
        assert!(split.is_ok());
        assert_eq!((end, slots.len(), slots[0], descriptors.left()), (range.end, 6, slot, Count(0)));
        owners.verify().expect("all is well with pieces that are kept");
        for slot in slots {
            // SAFETY: each was kept for a slot, and is taken back once.
            let piece = unsafe { FolioRef::from_kept(owners, slot) };
            assert!(piece.try_lock().is_ok(), "it was unlocked");
        }
        // Of a small machine CPUs keep nothing at hand.
        assert_eq!(owners.walk().look(range.start).seen(), scaled(Seen::Cached, Seen::Free));
    });
}

#[test]
fn every_allocation_of_splits_and_joins_may_fail_once_and_nothing_is_lost() {
    with_pages(|pages| {
        let swept = fail_each_once(pages, || {
            let caches = KmemCaches::new(pages).map_err(drop)?;
            let owners = Owners::new(&caches).map_err(drop)?;
            let outcome = script(&owners);
            owners.verify().expect("whatever failed, all is well");
            outcome
        });
        assert!(swept.allocations >= scaled(40, 20) && swept.absorbed < 20, "{swept:?}");
    });
}

fn script(owners: &Owners<'_, HostMachine>) -> Result<(), ()> {
    let mut held = Vec::new();
    for order in [LARGE, LARGE - 1, 3, 6, 1] {
        let folio = owners.alloc(Request::movable(Order::of(order)), Folio::new()).map_err(drop)?;
        let range = folio.range();
        let whole = |folio: &Folios<'_>| assert_eq!((folio.range(), folio.flags()), (range, FolioFlags::empty()));
        let row = folio.split(SplitTo::Around(range.start, Order::ZERO)).map_err(|(folio, _)| whole(&folio))?;
        let folio = row.join().map_err(drop)?;
        whole(&folio);
        let row = folio.split(SplitTo::Uniform(Order::ZERO)).map_err(|(folio, _)| whole(&folio))?;
        held.extend(row.enumerate().filter(|(at, _)| at % 3 != 0).map(|(_, piece)| piece));
    }
    Ok(())
}
