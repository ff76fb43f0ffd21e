//! All lists: whose they are, and which of them a block goes to.

use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::boot_map::{BootMap, Region, RegionKind};
use crate::desc::allocator_word::AllocatorWord;
use crate::early::MetadataBytes;
use crate::host::{HostMachine, on_cpu, scaled};
use crate::machine::{Machine, Standard};
use crate::migratetype::Migratetype;
use crate::pcp::CpuCaches;
use crate::units::{CpuId, NodeId, Order, Pfn, PhysAddr, ZoneId};

const ZONE: ZoneId = ZoneId(0);
const END: Pfn = Pfn::new(0x2000);

fn word(migratetype: Migratetype, order: usize) -> AllocatorWord {
    AllocatorWord::allocated(migratetype, Order::of(order), ZONE)
}

/// The lists of so many CPUs, of one zone that has plenty.
fn with_caches(cpus: u16, test: impl FnOnce(&HostMachine<Standard>, CpuCaches<'_>)) {
    let cpus = NonZeroU16::new(cpus).expect("not zero");
    let machine = HostMachine::<Standard>::new(END, END, cpus).expect("the host lends memory");
    let memory = Region { start: PhysAddr(0), len: END.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let mut boot_map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let zones = [scaled(1 << 20, 1 << 14)].into_iter();
    let caches = CpuCaches::carve(&machine, &mut boot_map, &zones, &|_, _| Some(ZONE), &mut MetadataBytes::default());
    test(&machine, caches.expect("the lists fit"));
}

#[test]
fn who_is_busy_is_a_handler_until_it_is_not() {
    with_caches(2, |machine, caches| {
        assert!(!caches.is_busy(CpuId(0)));
        let busy = caches.enter(CpuId(0), machine).expect("nobody is in");
        assert!(caches.is_busy(CpuId(0)) && !caches.is_busy(CpuId(1)));
        let entered = machine.interrupt(|| caches.enter(CpuId(0), machine).is_some());
        assert_eq!(entered, Some(false), "a handler has interrupted it");
        drop(busy);
        assert!(!caches.is_busy(CpuId(0)));
    });
}

#[test]
fn who_closes_all_keeps_what_it_is_busy_with_and_lets_nobody_in_until_it_is_done() {
    with_caches(2, |machine, caches| {
        let busy = caches.enter(CpuId(0), machine).expect("nobody is in");
        let (mut told, enter) = (false, || on_cpu(CpuId(1), || caches.enter(CpuId(1), machine).is_some()));
        let entered = caches.close(CpuId(0), || told = true, |_| enter());
        assert!(told && !entered);
        assert!(enter());
        drop(busy);
    });
}

#[test]
fn who_closes_all_waits_for_those_who_are_busy() {
    with_caches(2, |machine, caches| {
        let (is_in, is_done) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                on_cpu(CpuId(1), || {
                    let busy = caches.enter(CpuId(1), machine).expect("nobody is in");
                    is_in.store(true, Ordering::Release);
                    (0..100).for_each(|_| thread::yield_now());
                    is_done.store(true, Ordering::Relaxed);
                    drop(busy);
                });
            });
            while !is_in.load(Ordering::Acquire) {
                thread::yield_now();
            }
            caches.close(CpuId(0), || machine.heavy_barrier(), |_| assert!(is_done.load(Ordering::Relaxed)));
        });
    });
}

#[test]
fn only_who_is_not_alone_has_a_shelf() {
    for cpus in 1..4 {
        with_caches(cpus, |_, caches| {
            let small = caches.on_shelf(word(Migratetype::Movable, 0));
            assert_eq!(small.is_some(), cpus > 1);
            assert!(caches.on_shelf(word(Migratetype::Movable, 4)).is_none());
        });
    }
}

#[test]
fn the_last_list_of_an_order_is_known_until_another_type_of_it_comes() {
    with_caches(1, |machine, caches| {
        let at_hand = caches.enter(CpuId(0), machine).expect("nobody is in");
        let [movable, unmovable, large] =
            [(Migratetype::Movable, 0), (Migratetype::Unmovable, 0), (Migratetype::Movable, 3)]
                .map(|(migratetype, order)| word(migratetype, order));
        assert!(at_hand.same_as_last_of_order(movable).is_none());
        for word in [movable, large] {
            let list = at_hand.list_for(word).expect("such are kept");
            assert!(core::ptr::eq(at_hand.same_as_last_of_order(word).expect("it is the last"), list));
        }
        assert!(at_hand.same_as_last_of_order(movable).is_some(), "of its order it still is");
        assert!(at_hand.same_as_last_of_order(unmovable).is_none());
        at_hand.list_for(unmovable).expect("such are kept");
        assert!(at_hand.same_as_last_of_order(movable).is_none());
    });
}
