//! Everything at once, on threads that play CPUs.
//!
//! Owners that are made out of plain blocks keep their head in what they store. So a walker that gets hold of one can
//! tell whether it is the owner of the block that it stood in front of.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use super::*;
use crate::host::on_cpu;
use crate::page::Block;

/// Something that a churning thread holds.
enum Held<'o> {
    Plain(Block<'o, HostMachine>),
    Folio(Owned<'o, HostMachine, Folio>),
    Store(Owned<'o, HostMachine, CompressedStore>),
    Area(Owned<'o, HostMachine, PerCpuArea>),
    Stack(Owned<'o, HostMachine, KernelStack>),
    Table(Owned<'o, HostMachine, PageTable>),
    Object(core::ptr::NonNull<u8>),
}

// SAFETY: an object is its holder's alone, wherever that is; the others are `Send`.
unsafe impl Send for Held<'_> {}

fn cookie(head: Pfn) -> u64 {
    u64::from(head.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn cpu_of(head: Pfn) -> CpuId {
    CpuId((head.number() & 0xffff) as u16)
}

/// Whether a referred owner is the one of the block at its head.
fn check(reference: &Reference<'_, HostMachine>) {
    let head = reference.range().start;
    match reference {
        Reference::KernelStack(stack) => assert_eq!(stack.task, TaskId(cookie(head)), "{reference:?}"),
        Reference::PerCpuArea(area) => assert_eq!(area.cpu, cpu_of(head), "{reference:?}"),
        Reference::CompressedStore(store) => {
            assert_eq!(store.class(), Bytes(head.index()), "{reference:?}");
        }
        Reference::PageTable(table) => {
            assert!(matches!(table.level(), TableLevel(1..=5)), "{reference:?}");
            table.lock(table.owners().machine()).0 ^= 1;
        }
        Reference::Folio(_) | Reference::Slab(_) => {}
    }
}

fn convert<'o>(owners: &'o Owners<'o, HostMachine>, block: Block<'o, HostMachine>, choice: u32) -> Held<'o> {
    let head = block.head();
    let plain = Held::Plain;
    match choice % 4 {
        0 => owners
            .adopt(block, KernelStack { task: TaskId(cookie(head)) })
            .map_or_else(|(block, ..)| plain(block), Held::Stack),
        1 => owners.adopt(block, PerCpuArea { cpu: cpu_of(head) }).map_or_else(|(block, ..)| plain(block), Held::Area),
        2 => owners
            .adopt(block, CompressedStore::new(Bytes(head.index())))
            .map_or_else(|(block, ..)| plain(block), Held::Store),
        _ => owners.adopt(block, Folio::new()).map_or_else(|(block, ..)| plain(block), Held::Folio),
    }
}

fn make<'o>(owners: &'o Owners<'o, HostMachine>, rng: &mut fastrand::Rng) -> Option<Held<'o>> {
    let order = Order::of(rng.u64(..).trailing_zeros().min(7) as usize);
    let request = if rng.bool() { Request::new(order) } else { Request::movable(order) };
    match rng.u32(0..8) {
        0 => owners.alloc(request, PageTable::new(TableLevel(rng.u8(1..=5)))).ok().map(Held::Table),
        1 => owners.alloc(request, Folio::new()).ok().map(Held::Folio),
        2 => owners.caches.kmalloc(Bytes(rng.usize(1..40_000))).ok().map(Held::Object),
        3 => owners.pages().alloc(request).ok().map(Held::Plain),
        choice => Some(convert(owners, owners.pages().alloc(request).ok()?, choice)),
    }
}

fn back<'o, T: Owner>(owned: Owned<'o, HostMachine, T>) -> Option<Block<'o, HostMachine>> {
    // Somebody may refer to it just now: then it goes with the last reference.
    owned.into_block().ok().map(|(block, _)| block)
}

fn change<'o>(owners: &'o Owners<'o, HostMachine>, held: Held<'o>, rng: &mut fastrand::Rng, into: &mut Vec<Held<'o>>) {
    let block = match held {
        Held::Plain(block) => Some(block),
        Held::Folio(owned) => back(owned),
        Held::Store(owned) => back(owned),
        Held::Area(owned) => back(owned),
        Held::Stack(owned) => back(owned),
        Held::Table(owned) => back(owned),
        Held::Object(object) => {
            // SAFETY: the object is this thread's, and nobody uses it.
            assert_eq!(unsafe { owners.caches.kfree(object) }, Ok(()));
            None
        }
    };
    let Some(block) = block else { return };
    match block.split() {
        Ok((low, high)) if rng.bool() => {
            into.push(convert(owners, low, rng.u32(..)));
            into.push(Held::Plain(high));
        }
        Ok((low, high)) => into.extend([low, high].map(Held::Plain)),
        Err(block) => into.push(convert(owners, block, rng.u32(..))),
    }
}

fn churn(owners: &Owners<'_, HostMachine>, seed: u64, rounds: u32) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut held = Vec::new();
    for round in 0..rounds {
        let full = round / 512 % 2 == 1;
        match rng.u32(0..10) {
            0..=3 if !full && held.len() < 600 => held.extend(make(owners, &mut rng)),
            4..=5 if !held.is_empty() => {
                let one = held.swap_remove(rng.usize(0..held.len()));
                change(owners, one, &mut rng, &mut held);
            }
            _ if !held.is_empty() && (full || rng.bool()) => {
                release(owners, &held.swap_remove(rng.usize(0..held.len())));
            }
            _ => {}
        }
        if round % scaled(997, 29) == 0 {
            owners.caches.shrink();
        }
    }
    held.into_iter().for_each(|one| release(owners, &one));
}

fn release(owners: &Owners<'_, HostMachine>, held: &Held<'_>) {
    if let Held::Object(object) = held {
        // SAFETY: the object is this thread's, and nobody uses it.
        assert_eq!(unsafe { owners.caches.kfree(*object) }, Ok(()));
    }
}

/// Walks over all memory until told to stop; keeps some of the references for a while.
fn walk_on(owners: &Owners<'_, HostMachine>, seed: u64, stop: &AtomicBool, got: &AtomicU64, lost: &AtomicU64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut kept = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let walker = owners.walk();
        let start = Pfn::new(rng.u32(0..frames(32).number()));
        let range = PfnRange::new(start, start.plus(scaled(1024, 64)));
        let mut sightings = Vec::new();
        for pfn in range.frames() {
            let sighting = walker.look(pfn);
            assert!(sighting.range().contains(pfn), "{sighting:?} at {pfn:?}");
            let hole = (frames(13) <= pfn && pfn < frames(16)) || pfn >= frames(32) || pfn == frames(0);
            assert_eq!(sighting.seen() == Seen::Hole, hole, "{sighting:?} at {pfn:?}");
            if matches!(sighting.seen(), Seen::Allocated(kind) if kind.has_descriptor()) && rng.u8(..) < 64 {
                sightings.push(sighting);
            }
        }
        // Some time passes between look and get.
        thread::yield_now();
        for sighting in sightings {
            let Some(reference) = sighting.get() else {
                lost.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            got.fetch_add(1, Ordering::Relaxed);
            assert_eq!(Seen::Allocated(reference.kind()), sighting.seen());
            assert_eq!(reference.range(), sighting.range());
            check(&reference);
            if rng.u8(..) < 16 {
                kept.push(reference);
            }
        }
        drop(walker);
        kept.iter().for_each(check);
        if kept.len() > 64 || rng.bool() {
            kept.clear();
        }
    }
}

#[test]
fn no_walker_ever_sees_a_wrong_owner_while_everything_churns() {
    let (got, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    with_owners(|owners| {
        let stop = AtomicBool::new(false);
        let (owners, stop, got, lost) = (owners, &stop, &got, &lost);
        thread::scope(|scope| {
            for cpu in 0..3 {
                scope.spawn(move || on_cpu(CpuId(cpu), || walk_on(owners, cpu.into(), stop, got, lost)));
            }
            let churning: Vec<_> = (3..CPUS)
                .map(|cpu| scope.spawn(move || on_cpu(CpuId(cpu), || churn(owners, cpu.into(), scaled(500_000, 60)))))
                .collect();
            let outcomes: Vec<_> = churning.into_iter().map(thread::ScopedJoinHandle::join).collect();
            stop.store(true, Ordering::Relaxed);
            for outcome in outcomes {
                outcome.expect("a thread that churned saw nothing wrong");
            }
        });
        owners.caches.shrink();
        let types = owners.walk().page_types();
        assert_eq!(types.allocated(OwnerKind::LargeKmalloc).pages(), Count(0));
    });
    let (got, lost) = (got.into_inner(), lost.into_inner());
    assert!(cfg!(miri) || got > 1000, "{got} references");
    std::println!("{got} references were had, {lost} owners had gone between look and get");
}
