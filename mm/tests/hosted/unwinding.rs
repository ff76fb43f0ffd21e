//! Every allocation of a script fails once, on hosted machines of several shapes: in addition to what any machine does, users'
//! page tables are filled, forked and pinned, and pages move.

use std::num::{NonZeroU8, NonZeroU16};
use std::pin::Pin;

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cache::PageCache;
use mm::cases::Seed;
use mm::cases::refill::{Same, run_out_and_refill};
use mm::cases::unwinding::{Stopped, Unwound, each_fails_once, some_fail};
use mm::compact::Compactor;
use mm::faults::{FaultAttr, FaultPoint};
use mm::host::{HostMachine, HostMmu, on_cpu, scaled};
use mm::machine::{Geometry, Standard};
use mm::page::PageAllocator;
use mm::space::{Access, AddressRange, PageProtection, Sharing, Space, Spaces};
use mm::units::{Bytes, Count, CpuId, NodeId, Order, PAGE_SIZE, Pfn, PhysAddr, VirtualAddress};

type Unit<'m> = HostMmu<'m, Standard, 4>;

const MIB: u64 = 1 << 20;

/// A machine that is yet to be made: its memory and where lowmem ends, in MiB.
#[derive(Clone, Copy, Debug)]
struct Plan {
    usable: &'static [(u64, u64)],
    lowmem: u32,
    nodes: u8,
    cpus: u16,
}

/// All of it lowmem, of which nothing is missing.
const PLAIN: Plan = Plan { usable: &[(0, 40)], lowmem: 40, nodes: 1, cpus: 1 };
/// Two nodes, one of them highmem, and a hole that begins inside a largest block.
const DIVIDED: Plan = Plan { usable: &[(0, 21), (24, 72)], lowmem: 40, nodes: 2, cpus: 3 };
/// Little lowmem.
const HIGH: Plan = Plan { usable: &[(0, 48)], lowmem: 16, nodes: 1, cpus: 2 };

impl Plan {
    fn boot<R>(self, work: impl FnOnce(&PageAllocator<'_, HostMachine>) -> R) -> R {
        let usable = |&(start, end): &(u64, u64)| {
            let (start, len) = (PhysAddr(start * MIB), (end - start) * MIB);
            Region { start, len, kind: RegionKind::Usable, node: NodeId(0) }
        };
        let regions: Vec<_> = self.usable.iter().map(usable).collect();
        let map: BootMap = BootMap::new(&regions).expect("the map is sound");
        let nodes = NonZeroU8::new(self.nodes).expect("there is a node");
        let mut map = map.split_nodes(nodes, Standard::MAX_ORDER).expect("there is memory for each node");
        let cpus = NonZeroU16::new(self.cpus).expect("there is a CPU");
        let machine = HostMachine::new(map.usable_end(), Pfn::new(self.lowmem << 8), cpus);
        let machine = machine.expect("the host lends memory");
        let pages = machine.allocator(&mut map).expect("the tables fit");
        work(&pages)
    }
}

fn at(page: u64) -> VirtualAddress {
    VirtualAddress(page * PAGE_SIZE as u64)
}

/// Address spaces that fault, fork, change and pin, and a look for large blocks in what they leave.
fn spaces(pages: &PageAllocator<'_, HostMachine>, cache: Pin<&PageCache<'_, HostMachine>>) -> Result<(), Stopped> {
    let unit = Unit::new(pages.machine());
    Spaces::with(cache, &unit, |spaces| in_spaces(&unit, spaces))
}

fn in_spaces(unit: &Unit<'_>, spaces: Pin<&Spaces<'_, HostMachine, Unit<'_>>>) -> Result<(), Stopped> {
    const PAGES: u64 = 40;
    let store = |space: &Space<'_, HostMachine, Unit<'_>>, page, byte| -> Result<(), Stopped> {
        Ok(unit.store(space.root(), at(page), &[byte], |address, access| space.fault(address, access))?)
    };
    let load = |space: &Space<'_, HostMachine, Unit<'_>>, page| -> Result<u8, Stopped> {
        let mut byte = [0];
        unit.load(space.root(), at(page), &mut byte, |address, access| space.fault(address, access))?;
        Ok(byte[0])
    };
    let parent = spaces.create()?;
    let region = AddressRange::of_pages(at(16), PAGES);
    parent.map_anonymous(region, PageProtection::ReadWrite, Sharing::Private, Order::of(1))?;
    for page in (16..16 + PAGES).step_by(3) {
        store(&parent, page, 1)?;
    }
    let child = parent.fork()?;
    parent.unmap(AddressRange::of_pages(at(30), 5))?;
    child.protect(AddressRange::of_pages(at(44), 4), PageProtection::Read)?;
    for page in (16..40).step_by(6) {
        store(&child, page, 2)?;
    }
    let pinned = child.get_user_pages(at(20), Bytes(3 * PAGE_SIZE), Access::Write)?;
    Compactor::new(&spaces).compact(Order::of(6), Count(2), drop);
    drop(pinned);
    let intact = load(&parent, 16)? == 1 && load(&parent, 22)? == 1 && load(&child, 16)? == 2 && load(&child, 31)? == 1;
    for space in [&parent, &child] {
        space.verify()?;
    }
    match unit.stale() {
        None if intact => Ok(()),
        None => Err(Stopped::Wrong("users find what they wrote")),
        Some(_) => Err(Stopped::Wrong("a processor remembers nothing that is no longer so")),
    }
}

/// Lets each allocation of a kind fail on this machine.
fn each(plan: Plan, point: FaultPoint) -> Unwound {
    let unwound = plan.boot(|pages| {
        on_cpu(CpuId(plan.cpus - 1), || each_fails_once(pages, point, &spaces))
            .unwrap_or_else(|error| panic!("{} on {plan:?}: {error}", point.name()))
    });
    println!("{}: {unwound}", point.name());
    unwound
}

#[test]
#[cfg_attr(miri, ignore = "a long script some hundred times: tests of the library let each allocation of less fail")]
fn every_page_allocation_fails_once_and_all_unwinds() {
    for plan in [PLAIN, DIVIDED, HIGH] {
        let unwound = each(plan, FaultPoint::PageAlloc);
        assert!(unwound.reported > 80 && unwound.absorbed < unwound.reported / 2, "{unwound:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "a long script some hundred times: tests of the library let each allocation of less fail")]
fn every_object_allocation_fails_once_and_all_unwinds() {
    for plan in [PLAIN, DIVIDED, HIGH] {
        let unwound = each(plan, FaultPoint::Slab);
        assert!(unwound.reported > 250 && unwound.absorbed < unwound.reported / 4, "{unwound:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "a long script some hundred times: tests of the library let each allocation of less fail")]
fn allocations_fail_at_random_and_all_unwinds() {
    let attr = |text: &str| text.parse::<FaultAttr>().expect("it is one");
    for plan in [PLAIN, DIVIDED, HIGH] {
        for (page_alloc, slab) in
            [("1,1,0,-1", "1,1,0,-1"), ("7,30,100,-1", "11,20,4096,-1"), ("1,100,400,3", "1,0,0,0")]
        {
            let attrs = [(FaultPoint::PageAlloc, attr(page_alloc)), (FaultPoint::Slab, attr(slab))];
            let unwound = plan.boot(|pages| some_fail(pages, &attrs, Seed(7), Count(100), &spaces));
            let unwound = unwound.unwrap_or_else(|error| panic!("{page_alloc} and {slab} on {plan:?}: {error}"));
            assert!(unwound.reported > 30 && unwound.injected >= u64::from(unwound.reported), "{unwound:?}");
        }
    }
}

/// What fails is not what was asked for first, but all from then on, so that nothing that goes back can do without memory.
#[test]
#[cfg_attr(miri, ignore = "a long script some hundred times: tests of the library let each allocation of less fail")]
fn when_all_fails_from_any_point_on_nothing_that_unwinds_needs_any() {
    const PAGES: usize = 59;
    const BYTES: usize = 8009;
    for plan in [PLAIN, DIVIDED, HIGH] {
        for (point, step) in [(FaultPoint::PageAlloc, PAGES), (FaultPoint::Slab, BYTES)] {
            let mut runs = 0;
            for space in (0..).step_by(step) {
                let attrs = [(point, format!("1,100,{space},-1").parse().expect("it is one"))];
                let unwound = plan.boot(|pages| some_fail(pages, &attrs, Seed(0), Count(1), &spaces));
                let unwound =
                    unwound.unwrap_or_else(|error| panic!("{} and {attrs:?} on {plan:?}: {error}", point.name()));
                if unwound.injected == 0 {
                    break;
                }
                runs += unwound.reported;
            }
            println!("{}: all failed from each of {runs} points on", point.name());
            assert!(runs > 10, "{runs}");
        }
    }
}

#[test]
fn memory_has_run_out_a_thousand_times_and_every_free_block_is_as_at_first() {
    const ROUNDS: Count = Count(scaled(1000, 1));
    const SMALL: Plan = Plan { usable: &[(0, 5)], lowmem: 5, nodes: 1, cpus: 1 };
    const HALF_HIGH: Plan = Plan { usable: &[(0, 2), (3, 8)], lowmem: 4, nodes: 1, cpus: 2 };
    const TWO_NODES: Plan = Plan { usable: &[(0, 8)], lowmem: 8, nodes: 2, cpus: 3 };
    for plan in [SMALL, HALF_HIGH, TWO_NODES] {
        let outcome = plan.boot(|pages| on_cpu(CpuId(plan.cpus - 1), || run_out_and_refill(pages, Seed(3), ROUNDS)));
        let same = outcome.unwrap_or_else(|failure| panic!("{plan:?}: {failure}"));
        assert_eq!(same, Same(ROUNDS), "{plan:?}");
    }
}
