//! Walkers look at folios and take references while others split, join, move, convert and free them.
//!
//! A folio's index is the number of its first frame: splits and joins keep that so by themselves, and who moves one says
//! it anew. So a walker that gets hold of a folio can tell whether it is the one of the frames that it says.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;
use crate::host::on_cpu;
use crate::units::CpuId;

fn mark(folio: &Folio, head: Pfn) {
    folio.set_place(core::ptr::null_mut(), PageIndex(u64::from(head.number())));
}

fn check(folio: &FolioRef<'_, HostMachine>) {
    assert_eq!(folio.index(), PageIndex(u64::from(folio.head().number())), "{folio:?} is another's");
}

fn make<'o>(owners: &'o Owners<'o, HostMachine>, rng: &mut fastrand::Rng) -> Option<Folios<'o>> {
    let order = Order::of(rng.u64(..).trailing_zeros().min(8) as usize);
    let block = owners.pages().alloc(Request::movable(order)).ok()?;
    let folio = Folio::new();
    mark(&folio, block.head());
    owners.adopt(block, folio).ok()
}

/// Moves a folio to another block, if nobody refers to it and there is one.
fn relocate<'o>(owners: &'o Owners<'o, HostMachine>, folio: Folios<'o>) -> Folios<'o> {
    let Ok(block) = owners.pages().alloc(Request::movable(folio.order())) else { return folio };
    let mut frozen = match folio.freeze() {
        Ok(frozen) => frozen,
        Err(folio) => return folio,
    };
    drop(frozen.relocate(block).expect("it is of the same size"));
    mark(&frozen, frozen.head());
    // SAFETY: it was owned.
    unsafe { frozen.thaw_owned() }
}

/// Makes a folio plain, halves the block and makes it whole, and gives it an owner again.
fn through_plain<'o>(owners: &'o Owners<'o, HostMachine>, folio: Folios<'o>) -> Option<Folios<'o>> {
    let (block, folio) = match folio.into_block() {
        Ok(plain) => plain,
        Err(folio) => return Some(folio),
    };
    let block = match block.split() {
        Ok((low, high)) => high.merge(low).expect("they were one"),
        Err(page) => page,
    };
    owners.adopt(block, folio).ok()
}

fn change<'o>(
    owners: &'o Owners<'o, HostMachine>,
    folio: Folios<'o>,
    rng: &mut fastrand::Rng,
    into: &mut Vec<Folios<'o>>,
) {
    let (head, order) = (folio.head(), folio.order());
    let to = match rng.u8(0..4) {
        0 => SplitTo::Uniform(Order::of(rng.usize(0..=order.index()))),
        1 => SplitTo::Around(head.plus(rng.u32(0..order.pages())), Order::ZERO),
        2 => return into.push(relocate(owners, folio)),
        _ => return into.extend(through_plain(owners, folio)),
    };
    let mut row = match folio.split(to) {
        Ok(row) => row,
        Err((folio, _)) => return into.push(folio),
    };
    if rng.bool() {
        row = match row.join() {
            Ok(folio) => return into.push(folio),
            Err((row, _)) => row,
        };
    }
    while let Some(piece) = row.next() {
        match (rng.u8(0..4), row.range().is_empty()) {
            (0, _) => drop(piece),
            (1, false) => match piece.join(row.next().expect("there is another")) {
                Ok(joined) => into.push(joined),
                Err((one, two, _)) => into.extend([one, two]),
            },
            _ => into.push(piece),
        }
    }
}

fn churn(owners: &Owners<'_, HostMachine>, seed: u64, rounds: u32) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held = Vec::new();
    for _ in 0..rounds {
        if held.len() < 24 && rng.bool() {
            held.extend(make(owners, &mut rng));
        }
        if held.is_empty() {
            continue;
        }
        let one = held.swap_remove(rng.usize(0..held.len()));
        if held.len() < 200 && rng.u8(0..4) != 0 {
            change(owners, one, &mut rng, &mut held);
        }
    }
}

/// Halves a folio again and again, and lets the lower half be plain for a while: the upper one never is.
fn seesaw<'o>(owners: &'o Owners<'o, HostMachine>, folio: Folios<'o>, rounds: u32) -> Folios<'o> {
    let half = folio.order().down().expect("it can be halved");
    let mut whole = folio;
    for _ in 0..rounds {
        let mut row = match whole.split(SplitTo::Uniform(half)) {
            Ok(row) => row,
            Err((folio, _)) => {
                whole = folio;
                thread::yield_now();
                continue;
            }
        };
        let (Some(mut low), Some(mut high)) = (row.next(), row.next()) else { panic!("two halves") };
        low = match low.into_block() {
            Ok((block, folio)) => owners.adopt(block, folio).map_err(|(.., error)| error).expect("there is memory"),
            Err(low) => low,
        };
        whole = loop {
            match low.join(high) {
                Ok(whole) => break whole,
                Err((one, two, _)) => (low, high) = (one, two),
            }
            thread::yield_now();
        };
    }
    whole
}

#[derive(Default)]
struct Seeing {
    stop: AtomicBool,
    got: AtomicU64,
    lost: AtomicU64,
}

fn walk_on(owners: &Owners<'_, HostMachine>, seed: u64, always: PfnRange, seeing: &Seeing) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut kept = Vec::new();
    while !seeing.stop.load(Ordering::Relaxed) {
        let walker = owners.walk();
        for _ in 0..scaled(500, 20) {
            let pfn =
                if rng.bool() { always.start.plus(rng.u32(0..always.pages())) } else { Pfn::new(rng.u32(1..4096)) };
            let sighting = walker.look(pfn);
            assert!(sighting.range().contains(pfn), "{sighting:?} at {pfn:?}");
            if always.contains(pfn) {
                let owned = matches!(sighting.seen(), Seen::Allocated(OwnerKind::Folio) | Seen::Moving);
                assert!(owned, "{sighting:?} at {pfn:?}, which always has an owner");
            }
            if sighting.seen() != Seen::Allocated(OwnerKind::Folio) || rng.u8(0..4) != 0 {
                continue;
            }
            let Some(Reference::Folio(folio)) = sighting.get() else {
                seeing.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            seeing.got.fetch_add(1, Ordering::Relaxed);
            assert_eq!(folio.range(), sighting.range());
            assert!(folio.range().contains(pfn), "{folio:?} at {pfn:?}");
            check(&folio);
            if rng.u8(..) == 0 {
                kept.push(folio);
            }
        }
        drop(walker);
        kept.drain(..).for_each(|folio| check(&folio));
    }
}

#[test]
fn no_walker_ever_sees_a_wrong_folio_while_folios_are_split_joined_and_moved() {
    let seeing = Seeing::default();
    with_owners(|owners| {
        let whole = alloc(owners, 5);
        mark(&whole, whole.head());
        let always = PfnRange::new(whole.head().plus(16), whole.range().end);
        let seeing = &seeing;
        let whole = thread::scope(|scope| {
            for cpu in 0..2 {
                scope.spawn(move || on_cpu(CpuId(cpu), || walk_on(owners, cpu.into(), always, seeing)));
            }
            let churning = [2, 3].map(|cpu| {
                let work = move || on_cpu(CpuId(cpu), || churn(owners, cpu.into(), scaled(200_000, 40)));
                scope.spawn(work)
            });
            let seesaw = scope.spawn(move || on_cpu(CpuId(4), || seesaw(owners, whole, scaled(600_000, 40))));
            let outcomes = churning.map(thread::ScopedJoinHandle::join);
            let whole = seesaw.join();
            seeing.stop.store(true, Ordering::Relaxed);
            outcomes.into_iter().for_each(|outcome| outcome.expect("a thread that churned saw nothing wrong"));
            whole.expect("it was halved and joined in the end")
        });
        drop(whole);
    });
    let (got, lost) = (seeing.got.into_inner(), seeing.lost.into_inner());
    assert!(cfg!(miri) || got > 1000, "{got} references");
    std::println!("{got} references were had, {lost} folios had changed between look and get");
}
