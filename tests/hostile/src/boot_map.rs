//! Lists of regions, against an oracle that knows nothing of sweeps or intervals: it asks of a page whether each of its
//! bytes is usable.
//!
//! Input: four bytes for what is done with the map, then eight for each region. Regions lie where something ends: memory, what
//! a frame number reaches, all addresses.

use std::collections::BTreeSet;
use std::num::NonZeroU8;

use mm::boot_map::{BootMap, BootMapError, CarveError, Extent, Region, RegionKind, SplitError};
use mm::units::{NodeId, Order, PAGE_SHIFT, Pfn, PhysAddr};

/// More would say no more, and take longer.
const MOST_REGIONS: usize = 48;
/// Room for all that so many regions can be cut into.
const ROOMY: usize = 512;
const TIGHT: usize = 8;

const BASES: [u64; 8] =
    [0, 1 << 20, (1 << 32) - 0x8000, 1 << 40, (1 << 44) - 0x9000, 1 << 44, 1 << 52, u64::MAX - 0x8000];

/// See the module.
pub fn check(bytes: &[u8]) {
    let Some((choices, records)) = bytes.split_first_chunk::<4>() else { return };
    let regions: Vec<_> = records.as_chunks().0.iter().take(MOST_REGIONS).map(region).collect();
    let oracle = Oracle(&regions);
    let roomy = BootMap::<ROOMY>::new(&regions);
    let tight = BootMap::<TIGHT>::new(&regions);
    match roomy {
        Ok(map) => {
            oracle.agrees(&map);
            used(&map, choices);
            match tight {
                Ok(tight) => {
                    assert_eq!(tight.extents(), map.extents());
                    used(&tight, choices);
                }
                Err(BootMapError::TooManyExtents { capacity: TIGHT, region }) => {
                    assert_eq!(regions[region.index], region.region);
                    assert!(map.extents().len() > TIGHT);
                }
                Err(error) => panic!("{error}, if there is little room"),
            }
        }
        Err(error) => {
            oracle.confirms(error);
            assert_eq!(tight.err(), Some(error), "more room made another error");
        }
    }
}

fn region(record: &[u8; 8]) -> Region {
    let [what, base, start @ .., length_low, length_high, shift, _] = *record;
    let start = BASES[usize::from(base) % BASES.len()].wrapping_add(u16::from_le_bytes(start).into());
    let len = u64::from(u16::from_le_bytes([length_low, length_high])) << (shift % 49);
    let kind = if what & 1 == 0 { RegionKind::Usable } else { RegionKind::Reserved };
    Region { start: PhysAddr(start), len, kind, node: NodeId(what >> 1) }
}

/// First and last byte of a region; nothing if it has none.
fn bytes_of(region: &Region) -> Option<(u64, u64)> {
    Some((region.start.0, region.start.0.saturating_add(region.len.checked_sub(1)?)))
}

fn wraps(region: &Region) -> bool {
    region.len > 0 && region.start.0.checked_add(region.len - 1).is_none()
}

fn is_usable(region: &Region) -> bool {
    region.kind == RegionKind::Usable && region.len > 0
}

fn is_too_high(region: &Region) -> bool {
    is_usable(region) && bytes_of(region).is_some_and(|(_, last)| last >= Pfn::LIMIT.address().0)
}

fn clash(one: &Region, other: &Region) -> bool {
    let meet = |((first, last), (other_first, other_last))| first <= other_last && other_first <= last;
    is_usable(one) && is_usable(other) && one.node != other.node && bytes_of(one).zip(bytes_of(other)).is_some_and(meet)
}

struct Oracle<'r>(&'r [Region]);

impl Oracle<'_> {
    /// What the page with this number is.
    fn class(&self, page: u32) -> Option<(NodeId, RegionKind)> {
        let first = u64::from(page) << PAGE_SHIFT;
        let last = first + (1 << PAGE_SHIFT) - 1;
        let is_whole = |node: &NodeId| {
            let mut at = first;
            while at <= last {
                let holds = |&(first, last): &(u64, u64)| first <= at && at <= last;
                let of_node = self.0.iter().filter(|region| is_usable(region) && region.node == *node);
                let Some((_, reached)) = of_node.filter_map(bytes_of).find(holds) else { return false };
                at = reached + 1;
            }
            true
        };
        let node = self.0.iter().map(|region| region.node).find(is_whole).filter(|_| page != 0)?;
        let touches = |region: &Region| {
            let meets = |(start, end)| start <= last && first <= end;
            region.kind == RegionKind::Reserved && bytes_of(region).is_some_and(meets)
        };
        let kind = if self.0.iter().any(touches) { RegionKind::Reserved } else { RegionKind::Usable };
        Some((node, kind))
    }

    /// All pages between which nothing changes.
    fn places(&self, extents: &[Extent]) -> BTreeSet<u32> {
        let edges = self.0.iter().filter_map(bytes_of).flat_map(|(first, last)| [first, last]);
        let frames = extents.iter().flat_map(|extent| [extent.range.start, extent.range.end]);
        edges.chain(frames.map(|frame| frame.address().0)).flat_map(around).collect()
    }

    fn agrees<const CAPACITY: usize>(&self, map: &BootMap<CAPACITY>) {
        for region in self.0 {
            assert!(!wraps(region) && !is_too_high(region), "{region} was taken");
            assert!(!self.0.iter().any(|other| clash(region, other)), "{region} was taken");
        }
        is_in_order(map.extents());
        for page in self.places(map.extents()) {
            assert_eq!(class(map.extents(), page), self.class(page), "page {page:#x} of {:?}", self.0);
        }
        assert!(map.usable_pages() > 0);
    }

    fn confirms(&self, error: BootMapError) {
        let named = |region: mm::boot_map::NumberedRegion| {
            assert_eq!(self.0[region.index], region.region);
            region.region
        };
        match error {
            BootMapError::Wraps(region) => assert!(wraps(&named(region)), "{error}"),
            BootMapError::TooHigh(region) => assert!(is_too_high(&named(region)), "{error}"),
            BootMapError::NodesOverlap { first, second } => {
                assert!(first.index < second.index && clash(&named(first), &named(second)), "{error}");
            }
            BootMapError::TooManyExtents { .. } => panic!("{error}"),
            BootMapError::NoUsableMemory => {
                let usable = |page: &u32| self.class(*page).is_some_and(|(_, kind)| kind == RegionKind::Usable);
                assert_eq!(self.places(&[]).iter().find(|page| usable(page)), None, "{:?}", self.0);
            }
        }
    }
}

fn around(byte: u64) -> impl Iterator<Item = u32> {
    let page = byte >> PAGE_SHIFT;
    let near = page.saturating_sub(1)..=page + 1;
    near.filter_map(|page| u32::try_from(page).ok()).filter(|&page| page < Pfn::LIMIT.number())
}

fn class(extents: &[Extent], page: u32) -> Option<(NodeId, RegionKind)> {
    let extent = extents.iter().find(|extent| extent.range.contains(Pfn::new(page)))?;
    Some((extent.node, extent.kind))
}

fn is_in_order(extents: &[Extent]) {
    assert!(extents.iter().all(|extent| !extent.range.is_empty()), "{extents:?}");
    for pair in extents.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        let differ = one.node != next.node || one.kind != next.kind;
        assert!(one.range.end < next.range.start || one.range.end == next.range.start && differ, "{one:?}, {next:?}");
    }
}

fn used<const CAPACITY: usize>(map: &BootMap<CAPACITY>, &[pages, which, nodes, order]: &[u8; 4]) {
    let limits = [Pfn::LIMIT, Pfn::new(0x10), Pfn::new(0x103), map.usable_end()];
    let preferred = (which & 4 != 0).then_some(NodeId(which >> 4));
    carved(map, pages.into(), limits[usize::from(which % 4)], preferred);
    if let (Some(nodes), Some(order)) = (NonZeroU8::new(nodes), Order::new(order % 11)) {
        split(map, nodes, order);
    }
}

fn carved<const CAPACITY: usize>(map: &BootMap<CAPACITY>, pages: u32, limit: Pfn, preferred: Option<NodeId>) {
    let below = |end: Pfn| end.min(limit).number();
    let room = |range: mm::units::PfnRange| below(range.end).saturating_sub(range.start.number());
    let longest = map.usable().map(|(range, _)| room(range)).max().unwrap_or(0);
    let mut after = map.clone();
    match after.carve(pages, limit, preferred) {
        Ok(taken) => {
            assert!(taken.pages() == pages && taken.end <= limit && pages <= longest);
            is_in_order(after.extents());
            let places = Oracle(&[]).places(&[map.extents(), after.extents()].concat());
            for page in places {
                let (was, is) = (class(map.extents(), page), class(after.extents(), page));
                match was {
                    Some((node, kind)) if taken.contains(Pfn::new(page)) => {
                        assert_eq!((kind, is), (RegionKind::Usable, Some((node, RegionKind::Reserved))));
                    }
                    _ => assert_eq!(was, is, "page {page:#x} after {taken:?} was carved out"),
                }
            }
        }
        Err(error) => {
            assert_eq!(&after, map);
            match error {
                CarveError::OutOfMemory { longest: told, .. } => assert!(told == longest && longest < pages),
                CarveError::TooManyExtents { .. } => assert_eq!(map.extents().len(), CAPACITY),
            }
        }
    }
}

fn split<const CAPACITY: usize>(map: &BootMap<CAPACITY>, nodes: NonZeroU8, order: Order) {
    let block = |frame: Pfn| frame.align_down(order);
    match map.split_nodes(nodes, order) {
        Ok(split) => {
            is_in_order(split.extents());
            let places = Oracle(&[]).places(&[map.extents(), split.extents()].concat());
            for page in places {
                let kind = |(_, kind)| kind;
                assert_eq!(class(split.extents(), page).map(kind), class(map.extents(), page).map(kind));
            }
            for pair in split.extents().windows(2) {
                let (one, next) = (pair[0], pair[1]);
                let last = Pfn::new(one.range.end.number() - 1);
                assert!(one.node <= next.node && (one.node == next.node || block(last) < block(next.range.start)));
            }
            let served: BTreeSet<_> = split.usable().map(|(_, node)| node).collect();
            assert_eq!(served, (0..nodes.get()).map(NodeId).collect());
        }
        Err(SplitError::TooManyNodes { blocks, .. }) => {
            let usable = map.usable().flat_map(|(range, _)| range.frames().map(block).take(ROOMY << order.number()));
            assert_eq!(usable.collect::<BTreeSet<_>>().len(), blocks as usize);
            assert!(blocks < nodes.get().into());
        }
        Err(SplitError::TooManyExtents { .. }) => {
            assert!(map.extents().len() + usize::from(nodes.get()) > CAPACITY);
        }
    }
}
