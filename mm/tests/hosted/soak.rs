//! The soaks on hosted machines: a thread for each CPU.

use std::num::{NonZeroU8, NonZeroU16, NonZeroU32};
use std::thread;

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cases::Seed;
use mm::cases::crew::{Crew, Work};
use mm::cases::exhausted_node::an_exhausted_node_is_helped_out;
use mm::cases::last_page::every_cpu_can_have_the_last_page;
use mm::cases::soak::{Plan, soak, turn_over};
use mm::host::{HostMachine, on_cpu, scaled};
use mm::machine::{Machine, Standard};
use mm::page::PageAllocator;
use mm::units::{CpuId, NodeId, Order, Pfn, PhysAddr};

/// Threads that play CPUs. They have no interrupts.
struct Threads(u16);

impl Crew for Threads {
    fn everywhere(&self, work: Work<'_>, _: Option<Work<'_>>) {
        thread::scope(|scope| {
            for cpu in 0..self.0 {
                scope.spawn(move || on_cpu(CpuId(cpu), work));
            }
        });
    }

    fn on(&self, cpu: CpuId, work: &mut (dyn FnMut() + Send)) {
        on_cpu(cpu, work);
    }
}

/// A machine of so many MiB, which is highmem from there on, with so many CPUs, in so many nodes.
#[derive(Clone, Copy)]
struct Shape {
    mib: u32,
    lowmem_mib: u32,
    cpus: u16,
    nodes: u8,
}

const FRAMES: u32 = 256;

/// A machine with memory to spare, and one that is soon full.
const MIB: u32 = scaled(256, 8);
const SMALL_MIB: u32 = scaled(64, 4);

fn with_machine(shape: Shape, work: impl FnOnce(&PageAllocator<'_, HostMachine>, &Threads)) {
    let cpus = NonZeroU16::new(shape.cpus).expect("a machine has a CPU");
    let (end, lowmem) = (Pfn::new(shape.mib * FRAMES), Pfn::new(shape.lowmem_mib * FRAMES));
    let machine = HostMachine::<Standard>::new(end, lowmem, cpus).expect("the host has room for the machine");
    let memory = Region { start: PhysAddr(0), len: end.address().0, kind: RegionKind::Usable, node: NodeId(0) };
    let map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
    let nodes = NonZeroU8::new(shape.nodes).expect("a machine has a node");
    let mut map = map.split_nodes(nodes, Order::of(9)).expect("there is memory for each node");
    let allocator = machine.allocator(&mut map).expect("the allocator's tables fit");
    work(&allocator, &Threads(machine.cpus().get()));
}

fn soak_on(shape: Shape, steps: u32, pages: Option<u32>) {
    with_machine(shape, |allocator, crew| {
        let steps = NonZeroU32::new(steps).expect("a soak has steps");
        let plan = Plan { seed: Seed(1), steps, interrupts: 0, pages: pages.and_then(NonZeroU32::new) };
        let done = soak(allocator, crew, plan).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{:?}", done.tally);
        assert!(done.tally.remote > 0 || crew.0 == 1 && done.tally.allocated > 0);
    });
}

#[test]
fn nothing_is_lost_or_shared_with_memory_to_spare() {
    soak_on(Shape { mib: MIB, lowmem_mib: MIB, cpus: 4, nodes: 1 }, scaled(20_000, 200), None);
}

#[test]
fn nothing_is_lost_or_shared_between_nodes_and_in_highmem() {
    soak_on(Shape { mib: MIB, lowmem_mib: scaled(96, 4), cpus: 8, nodes: 2 }, scaled(10_000, 100), None);
}

#[test]
fn nothing_is_lost_or_shared_where_memory_is_short() {
    let shape = Shape { mib: SMALL_MIB, lowmem_mib: scaled(48, 3), cpus: 8, nodes: 1 };
    soak_on(shape, scaled(10_000, 100), Some(scaled(600, 200)));
}

#[test]
fn one_cpu_alone_repeats_itself() {
    let digest = || {
        let mut digest = 0;
        with_machine(Shape { mib: SMALL_MIB, lowmem_mib: SMALL_MIB, cpus: 1, nodes: 1 }, |allocator, crew| {
            let plan =
                Plan { seed: Seed(7), steps: NonZeroU32::new(scaled(2000, 100)).unwrap(), interrupts: 0, pages: None };
            digest = soak(allocator, crew, plan).unwrap_or_else(|failure| panic!("{failure}")).digest;
        });
        digest
    };
    assert_eq!(digest(), digest());
}

#[test]
fn every_cpu_can_have_the_last_page_from_wherever_it_is() {
    for lowmem_mib in [SMALL_MIB, SMALL_MIB / 4] {
        with_machine(Shape { mib: SMALL_MIB, lowmem_mib, cpus: 8, nodes: 2 }, |allocator, crew| {
            every_cpu_can_have_the_last_page(allocator, crew, scaled(3000, 10))
                .unwrap_or_else(|failure| panic!("{failure}"));
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "few pages say nothing of how seldom, and many take it too long")]
fn a_zones_lock_is_seldom_taken_for_single_pages() {
    with_machine(Shape { mib: SMALL_MIB, lowmem_mib: SMALL_MIB, cpus: 8, nodes: 1 }, |allocator, crew| {
        let steps = NonZeroU32::new(20_000).expect("there are steps");
        let turnover = turn_over(allocator, crew, Seed(3), steps).unwrap_or_else(|failure| panic!("{failure}"));
        println!("{turnover:?}: {} in 1000", turnover.per_1000());
        assert!(turnover.per_1000() <= 35, "{turnover:?}");
    });
}

#[test]
#[cfg_attr(miri, ignore = "it takes thousands of pages of each node")]
fn an_exhausted_node_is_helped_out_whichever_cpus_ask() {
    with_machine(Shape { mib: MIB, lowmem_mib: 160, cpus: 8, nodes: 3 }, |allocator, crew| {
        an_exhausted_node_is_helped_out(allocator, crew).unwrap_or_else(|failure| panic!("{failure}"));
    });
}
