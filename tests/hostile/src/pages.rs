//! The page allocator beside its specification: a memory map, then operations, each with an outcome that it may have.
//!
//! | bytes | |
//! |---|---|
//! | 2 | frames; where highmem starts |
//! | 1 | how many ranges are reserved, and whether on two nodes |
//! | 4 for each | where it starts and how long it is, in bytes times 57 |
//! | 3 for each operation | what, and two numbers |

use std::num::NonZeroU16;

use mm::boot_map::{BootMap, Region, RegionKind};
use mm::cases::beside::{Beside, Operation, Pick};
use mm::host::HostMachine;
use mm::machine::Geometry;
use mm::migratetype::Migratetype;
use mm::page::Request;
use mm::units::{NodeId, Order, PAGE_SIZE, Pfn, PfnRange, PhysAddr};
use mm::zone::ZoneKind;

use crate::holds;

/// Nodes of two entries, short lists, and some pages at hand: little memory crosses every edge.
struct Small<const RING: u32>;

impl<const RING: u32> Geometry for Small<RING> {
    const MAX_ORDER: Order = Order::of(4);
    const PAGEBLOCK_ORDER: Order = Order::of(2);
    const LEAF_SHIFT: u32 = 1;
    const NODE_SHIFT: u32 = 1;
    const INLINE: u32 = RING;
    const CPU_CACHE: u32 = 4;
    const CPU_CACHE_SHARE: u32 = 1;
    const RESERVE_SHARE: u32 = 0;
}

/// Frames below which no machine has its tables.
const FEWEST: u32 = 40;

/// Operations between two comparisons of the whole state.
const COMPARE_EVERY: usize = 8;

/// What stands in the way of odd ranges being ordinary.
const ODD: u64 = 57;

/// Runs the operations, if there is a machine to run them on: with the shortest rings that there are, and with some of
/// which half is more than a leaf.
///
/// # Panics
/// If an outcome is none that it may have, or the state not what is specified.
pub fn check(bytes: &[u8]) {
    let _ended = run::<Small<2>>(&mut bytes.iter().copied());
    let _ended = run::<Small<8>>(&mut bytes.iter().copied());
}

fn run<G: Geometry>(bytes: &mut impl Iterator<Item = u8>) -> Option<()> {
    let frames = FEWEST + u32::from(bytes.next()?);
    let direct_map_end = (FEWEST / 2 + u32::from(bytes.next()?)).min(frames);
    let shape = bytes.next()?;
    let regions = regions(u64::from(frames) * PAGE_SIZE as u64, shape, bytes)?;
    let mut map = BootMap::<64>::new(&regions).ok()?;
    let machine = HostMachine::<G>::new(Pfn::new(frames), Pfn::new(direct_map_end), NonZeroU16::MIN);
    let machine = machine.expect("the host has memory for a test").specified();
    let pages = machine.allocator(&mut map).ok()?;
    let free = pages.free_pages();
    let mut beside = Beside::new(&pages).expect("the machine has a specification");
    let mut steps = 0;
    while let Some(operation) = operation(bytes) {
        steps += 1;
        let done = beside.step(operation);
        let compared = if steps % COMPARE_EVERY == 0 { beside.compare() } else { Ok(()) };
        if let Err(failure) = done.and(compared) {
            panic!("{operation:?}: {failure}");
        }
    }
    if let Err(failure) = beside.compare() {
        panic!("in the end: {failure}");
    }
    drop(beside);
    holds(pages.verify());
    holds(pages.verify_specified());
    assert_eq!(pages.free_pages(), free, "all comes back");
    Some(())
}

fn regions(len: u64, shape: u8, bytes: &mut impl Iterator<Item = u8>) -> Option<Vec<Region>> {
    let nodes = 1 + shape % 2;
    let share = len / u64::from(nodes);
    let usable = (0..nodes).map(|node| {
        let start = PhysAddr(share * u64::from(node));
        Region { start, len: share, kind: RegionKind::Usable, node: NodeId(node) }
    });
    let mut regions: Vec<_> = usable.collect();
    for _ in 0..shape / 2 % 8 {
        let mut number = || Some(u64::from(u16::from_le_bytes([bytes.next()?, bytes.next()?])) * ODD);
        let (start, len) = (number()?, number()? / 16);
        regions.push(Region { start: PhysAddr(start), len, kind: RegionKind::Reserved, node: NodeId(0) });
    }
    Some(regions)
}

fn operation(bytes: &mut impl Iterator<Item = u8>) -> Option<Operation> {
    let (what, one, other) = (bytes.next()?, bytes.next()?, bytes.next()?);
    let pick = Pick(u16::from(one));
    let pfn = Pfn::new(u32::from(one) + u32::from(other / 128) * 256);
    let order = Order::new(one % 6).unwrap_or(Order::ZERO);
    let request = Request::movable(order)
        .with_migratetype(Migratetype::REQUESTED[usize::from(other % 3)])
        .up_to(ZoneKind::ALL[usize::from(other / 3 % 3)])
        .from_reserve();
    Some(match what % 16 {
        0..6 => Operation::Alloc(request),
        6 => Operation::AllocBulk(request),
        7..11 => Operation::Free(pick),
        11 => Operation::FreeFrom(pick),
        12 => Operation::Split(pick),
        13 => Operation::Merge(pick),
        14 => match other % 4 {
            0 => Operation::Drain,
            _ => Operation::FreeWrongly(pfn),
        },
        _ => Operation::Contig(PfnRange::new(pfn, pfn.plus(u32::from(other % 32)))),
    })
}
