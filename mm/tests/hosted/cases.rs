//! The case list on hosted machines of every shape: one test a machine.
//!
//! Each case gets a machine of its own, so that one that panics does not stop the others: once with one CPU, once with
//! eight. Then all of them run one after the other on one machine of two, as they do in a kernel. Where there are several
//! CPUs, each of the others has blocks at hand when a case begins, and the case has to find them.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::num::{NonZeroU8, NonZeroU16};
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cases::{Case, Failure, Seed};
use mm::hardening::Hardening;
use mm::host::{HostMachine, on_cpu, scaled};
use mm::machine::{Geometry, Machine, Standard};
use mm::migratetype::Migratetype;
use mm::page::{PageAllocator, Request};
use mm::units::{CpuId, NodeId, Order, Pfn, PfnRange, PhysAddr};
use mm::zone::ZoneKind;

/// Nodes of two entries and short lists: some hundred pages cross every edge that the real sizes meet at millions.
struct Tiny;

impl Geometry for Tiny {
    const MAX_ORDER: Order = Order::of(3);
    const PAGEBLOCK_ORDER: Order = Order::of(2);
    const LEAF_SHIFT: u32 = 1;
    const NODE_SHIFT: u32 = 1;
    const INLINE: u32 = 2;
    const CPU_CACHE: u32 = 8;
    const RESERVE_SHARE: u32 = 0;
}

/// A machine that is yet to be made.
#[derive(Clone, Copy)]
struct Plan<'a> {
    /// Frames, as pairs of first and one past the last.
    usable: &'a [(u32, u32)],
    reserved: &'a [(u32, u32)],
    direct_map_end: u32,
    nodes: u8,
    reserved_is: Reserved,
    slots: Slots,
    /// Half of memory is allocated before the cases start; one page in this many stays so.
    used: Option<usize>,
    /// What is done to free memory.
    hardening: Hardening,
}

/// Which memory is looked at through slots.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slots {
    Highmem,
    All,
}

/// What becomes of the reserved ranges once the allocator is up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reserved {
    Kept,
    /// The allocator adopts them and they are freed.
    HandedIn,
}

const MIB: u32 = 256;

impl Plan<'_> {
    const fn lowmem(usable: &'static [(u32, u32)]) -> Plan<'static> {
        Plan {
            usable,
            reserved: &[],
            direct_map_end: u32::MAX,
            nodes: 1,
            reserved_is: Reserved::Kept,
            slots: Slots::Highmem,
            used: None,
            hardening: Hardening::empty(),
        }
    }

    fn regions(&self) -> Vec<Region> {
        let region = |&(start, end): &(u32, u32), kind| Region {
            start: Pfn::new(start).address(),
            len: Pfn::new(end).address().0 - Pfn::new(start).address().0,
            kind,
            node: NodeId(0),
        };
        let usable = self.usable.iter().map(|frames| region(frames, RegionKind::Usable));
        let reserved = self.reserved.iter().map(|frames| region(frames, RegionKind::Reserved));
        let unaligned = Region { start: PhysAddr(0x9_fc00), len: 0x400, kind: RegionKind::Reserved, node: NodeId(0) };
        usable.chain(reserved).chain([unaligned]).collect()
    }

    /// Boots the machine with so many CPUs and hands its allocator to `work`.
    fn boot<G: Geometry>(self, cpus: u16, work: impl FnOnce(&PageAllocator<'_, HostMachine<G>>)) {
        let cpus = NonZeroU16::new(cpus).expect("a machine has a CPU");
        let end = self.usable.iter().map(|&(_, end)| end).max().expect("a machine has memory");
        let machine = HostMachine::<G>::new(Pfn::new(end), Pfn::new(self.direct_map_end), cpus);
        let machine = machine.expect("the host has room for the machine").hardened(self.hardening);
        let machine = if self.slots == Slots::All { machine.kmapped() } else { machine };
        let map: BootMap = BootMap::new(&self.regions()).expect("the map is sound");
        let nodes = NonZeroU8::new(self.nodes).expect("a machine has a node");
        let mut map = map.split_nodes(nodes, G::MAX_ORDER).expect("there is memory for each node");
        let allocator = machine.allocator(&mut map).expect("the allocator's tables fit");
        if self.reserved_is == Reserved::HandedIn {
            for &(start, end) in self.reserved {
                // SAFETY: nobody uses the memory of this machine but its allocator.
                let adopted = unsafe { allocator.adopt(PfnRange::new(Pfn::new(start), Pfn::new(end))) };
                drop(adopted.expect("the plan reserves memory of one zone"));
                allocator.verify().expect("every invariant holds");
            }
        }
        let _used = self.used.map(|every| {
            let page = |_| allocator.alloc(Request::movable(Order::ZERO)).ok();
            let pages: Vec<_> = (0..allocator.free_pages() / 2).map_while(page).collect();
            pages.into_iter().step_by(every).collect::<Vec<_>>()
        });
        work(&allocator);
        if !self.hardening.is_empty() {
            assert_eq!(machine.take_reports(), [""; 0], "nobody has written to a free page");
        }
    }

    /// Runs every case, and panics with the list of those that failed.
    fn run_all<G: Geometry>(self) {
        name_panics();
        let mut failures = Failures(String::new());
        for &(cpus, seed) in scaled(&[(1, Seed(1)), (8, Seed(2))][..], &[]) {
            for (nth, case) in (0..).zip(Case::<HostMachine<G>>::ALL) {
                let run = || self.boot(cpus, |allocator| failures.run(case, allocator, CpuId(nth % cpus), seed));
                if catch_unwind(AssertUnwindSafe(run)).is_err() {
                    writeln!(failures.0, "  {} ({cpus} CPUs): panicked, as said above", case.name)
                        .expect("a string grows");
                }
            }
        }
        assert!(failures.0.is_empty(), "on a machine each:\n{}", failures.0);
        self.boot::<G>(2, |allocator| {
            for (nth, case) in (0..).zip(Case::ALL) {
                failures.run(case, allocator, CpuId(nth % 2), Seed(3));
            }
        });
        assert!(failures.0.is_empty(), "one after the other:\n{}", failures.0);
    }
}

/// What went wrong, a line each.
struct Failures(String);

impl Failures {
    /// Runs a case on one CPU, while the others have something at hand.
    fn run<M: Machine>(&mut self, case: &Case<M>, allocator: &PageAllocator<'_, M>, cpu: CpuId, seed: Seed) {
        RUNNING.set(case.name);
        let cpus = allocator.machine().cpus();
        (0..cpus.get()).map(CpuId).filter(|&other| other != cpu).for_each(|other| on_cpu(other, || stock(allocator)));
        match on_cpu(cpu, || case.run(allocator, seed)) {
            Ok(()) => {}
            Err(Failure::Skipped(reason)) => println!("{} ({cpus} CPUs): skipped: {reason}", case.name),
            Err(failure) => writeln!(self.0, "  {} ({cpus} CPUs): {failure}", case.name).expect("a string grows"),
        }
        RUNNING.set("");
    }
}

/// Has this CPU keep blocks of every size at hand that may be kept there, as far as there is memory.
fn stock<M: Machine>(allocator: &PageAllocator<'_, M>) {
    for migratetype in Migratetype::REQUESTED {
        for order in (0..=M::Geometry::PAGEBLOCK_ORDER.index()).map(Order::of) {
            let request = Request::movable(order).with_migratetype(migratetype);
            drop((allocator.alloc(request).ok(), allocator.alloc(request.up_to(ZoneKind::Normal)).ok()));
        }
    }
}

thread_local! {
    static RUNNING: Cell<&'static str> = const { Cell::new("") };
}

/// Names the case in every panic, at once: blocks that are freed on the way out may panic too, and end the process.
fn name_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !RUNNING.get().is_empty() {
                // Not through `eprintln!`, which the test harness withholds until the test ends.
                let _ = writeln!(std::io::stderr(), "{}: {info}", RUNNING.get());
            }
            report(info);
        }));
    });
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn sixteen_mebibytes_of_lowmem() {
    Plan::lowmem(&[(0, 16 * MIB)]).run_all::<Standard>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn sixteen_mebibytes_through_slots() {
    Plan { slots: Slots::All, ..Plan::lowmem(&[(0, 16 * MIB)]) }.run_all::<Standard>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn sixty_four_mebibytes_with_the_lowmem_boundary_in_the_middle() {
    Plan { direct_map_end: 32 * MIB, ..Plan::lowmem(&[(0, 64 * MIB)]) }.run_all::<Standard>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn a_lowmem_boundary_inside_a_block() {
    Plan { direct_map_end: 21 * MIB + 77, ..Plan::lowmem(&[(0, 48 * MIB)]) }.run_all::<Standard>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn two_nodes_with_highmem_on_both_sides_of_the_cut() {
    Plan { direct_map_end: 24 * MIB, nodes: 2, ..Plan::lowmem(&[(0, 64 * MIB)]) }.run_all::<Standard>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn a_ragged_map_with_holes_and_reserved_ranges_in_use() {
    let usable =
        [(0, 159), (256, 5 * MIB + 3), (7 * MIB - 1, 20 * MIB), (40 * MIB + 5, 53 * MIB), (53 * MIB + 1, 70 * MIB)];
    let reserved = [(3 * MIB, 3 * MIB + 9), (11 * MIB + 1, 12 * MIB), (60 * MIB, 60 * MIB + 1)];
    let plan = Plan { usable: &usable, reserved: &reserved, direct_map_end: 45 * MIB, ..Plan::lowmem(&[]) };
    Plan { used: Some(7), ..plan }.run_all::<Standard>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn six_mebibytes_left_of_sixteen_and_in_use() {
    Plan { reserved: &[(256, 10 * MIB)], used: Some(11), ..Plan::lowmem(&[(0, 16 * MIB)]) }.run_all::<Standard>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn three_kinds_of_memory_around_4_gib() {
    let usable = [(0, 12 * MIB), (4088 * MIB, 4105 * MIB)];
    Plan { usable: &usable, direct_map_end: 4099 * MIB + 3, ..Plan::lowmem(&[]) }.run_all::<Standard>();
}

#[test]
fn tiny_sizes_without_highmem() {
    Plan::lowmem(&[(0, 400)]).run_all::<Tiny>();
}

#[test]
fn tiny_sizes_with_the_lowmem_boundary_inside_a_block() {
    Plan { direct_map_end: 357, ..Plan::lowmem(&[(0, 500)]) }.run_all::<Tiny>();
}

#[test]
fn tiny_sizes_on_two_nodes_in_use() {
    Plan { direct_map_end: 203, nodes: 2, used: Some(5), ..Plan::lowmem(&[(0, 600)]) }.run_all::<Tiny>();
}

#[test]
fn tiny_sizes_on_a_ragged_map() {
    let usable = [(0, 37), (41, 150), (163, 290), (292, 293), (295, 641)];
    let reserved = [(9, 10), (100, 103), (333, 350)];
    let plan = Plan { usable: &usable, reserved: &reserved, direct_map_end: 270, nodes: 3, ..Plan::lowmem(&[]) };
    plan.run_all::<Tiny>();
}

#[test]
#[cfg_attr(miri, ignore = "a large machine: those of tiny sizes go through the same cases")]
fn memory_that_was_reserved_and_handed_in_is_like_any_other() {
    let reserved = [(3 * MIB, 5 * MIB + 9), (11 * MIB + 1, 20 * MIB), (43 * MIB, 44 * MIB), (46 * MIB, 48 * MIB)];
    let plan = Plan { reserved: &reserved, direct_map_end: 45 * MIB, ..Plan::lowmem(&[(0, 48 * MIB)]) };
    Plan { reserved_is: Reserved::HandedIn, ..plan }.run_all::<Standard>();
}

#[test]
fn tiny_sizes_with_memory_that_was_reserved_and_handed_in() {
    let reserved = [(9, 10), (100, 103), (203, 219), (333, 350), (395, 400)];
    let plan = Plan { reserved: &reserved, direct_map_end: 270, nodes: 2, ..Plan::lowmem(&[(0, 400)]) };
    Plan { reserved_is: Reserved::HandedIn, used: Some(5), ..plan }.run_all::<Tiny>();
}

#[test]
fn tiny_sizes_with_free_pages_poisoned_and_fresh_ones_zeroed() {
    let plan = Plan { direct_map_end: 420, nodes: 2, hardening: Hardening::all(), ..Plan::lowmem(&[(0, 500)]) };
    Plan { reserved: &[(203, 219)], reserved_is: Reserved::HandedIn, ..plan }.run_all::<Tiny>();
}
