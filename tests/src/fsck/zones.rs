//! Zones: what each says of itself, against its lists and the descriptors.

use super::frames::{Census, Frames};
use super::freelists;
use super::image::{At, Fault, Image};
use super::report::{Report, ZoneSummary};
use super::words::State;

/// Zones that a descriptor can name.
const MOST: u64 = 256;
/// The migratetype of what is set aside for large blocks.
const HIGH_ATOMIC: u64 = 3;

/// A zone as it says that it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Zone<'i> {
    pub(super) number: usize,
    pub(super) place: At<'i>,
    /// Whether somebody has its lock.
    pub(super) held: bool,
    pub(super) span: [u64; 2],
    managed: u64,
    free: u64,
    nodes: u64,
}

impl Zone<'_> {
    pub(super) fn summary(&self, census: &Census) -> ZoneSummary {
        let of_zone = &census.zones[self.number];
        let Zone { number, held, span, managed, free, nodes, .. } = *self;
        let blocks = of_zone.blocks_by_order.clone();
        ZoneSummary { number, span, held, managed, free, at_hand: of_zone.at_hand, nodes, blocks }
    }
}

pub(super) fn read(image: &Image) -> Result<Vec<Zone<'_>>, Fault> {
    let (cells, count) = (image.place("zones")?, image.said("zones.count")?.min(MOST));
    let zone = |index: u64| {
        let lock = cells.element(index, "ZoneCell")?.field("ZoneCell.zone")?;
        let place = lock.field("ZoneCell.zone.value")?;
        let number = |name: &str| place.field(name)?.u32().map(u64::from);
        Ok(Zone {
            number: usize::try_from(index).unwrap_or_default(),
            place,
            held: lock.field("ZoneCell.zone.held")?.is_held()?,
            span: [number("Zone.span.start")?, number("Zone.span.end")?],
            managed: number("Zone.managed")?,
            free: number("Zone.free")?,
            nodes: number("Zone.nodes")?,
        })
    };
    (0..count).map(zone).collect()
}

/// Checks a zone that nobody is at work on.
pub(super) fn check(
    image: &Image,
    frames: &Frames,
    census: &Census,
    zone: &Zone<'_>,
    report: &mut Report,
) -> Result<(), Fault> {
    let number = zone.number;
    if zone.held {
        report.skip("zones whose lock is held");
        return Ok(());
    }
    report.look("zones", 1);
    let of_zone = &census.zones[number];
    let id = zone.place.field("Zone.id")?.u8()?;
    if usize::from(id) != number {
        report.find("ZONE-1", None, format!("zone {number} says that it is zone {id}"));
    }
    let pending = zone.place.field("Zone.pending")?.field("Pending.todo")?.u16()?;
    if u64::from(pending) & !image.said("pending.stuck")? != 0 {
        let what = format!("zone {number} has blocks in flight, of orders {pending:#b}, and its lock is free");
        report.find("ACCT-1", None, what);
    }
    let found = freelists::check(image, frames, zone, report)?;
    let mut equal = |invariant, what: &str, said: u64, found: u64| {
        if said != found {
            report.find(invariant, None, format!("zone {number}: {what}: {said} is said, {found} found"));
        }
    };
    equal("FREE-1", "blocks on lists are those whose descriptors are free", found.entries, of_zone.free_blocks);
    equal("FREE-4", "nodes of lists are those whose descriptors are nodes", found.nodes, of_zone.nodes);
    equal("FREE-4", "the zone counts its nodes", zone.nodes, found.nodes);
    equal("ACCT-1", "the zone counts its free pages", zone.free, of_zone.in_free_blocks + of_zone.nodes);
    let sum = zone.free + of_zone.at_hand + of_zone.allocated;
    equal("ACCT-1", "all pages are free, at hand or allocated", zone.managed, sum);
    if found.entries == 0 && found.nodes > 0 {
        let what = format!("zone {number}: {} free pages are nodes of empty lists", found.nodes);
        report.find("FREE-3", None, what);
    }
    check_set_aside(frames, zone, report)
}

/// RSRV-1: what is set aside is of the type for that, and no other free block is.
fn check_set_aside(frames: &Frames, zone: &Zone<'_>, report: &mut Report) -> Result<(), Fault> {
    let number = zone.number;
    let array = zone.place.field("Zone.highatomic")?;
    let count = array.u32()?;
    if count > 8 {
        report.find("RSRV-1", None, format!("zone {number} sets 8 blocks aside at most, and says {count}"));
        return Ok(());
    }
    let heads = (0..u64::from(count)).map(|index| array.field("highatomic.elements")?.plus(4 * index).u32());
    let heads = heads.map(|head| head.map(u64::from)).collect::<Result<Vec<_>, _>>()?;
    for &head in &heads {
        let types: Vec<_> = frames.pageblocks(head).map(|pageblock| frames.pageblock_type(pageblock)).collect();
        if types.iter().any(|&found| found != Some(HIGH_ATOMIC)) {
            let what = format!("zone {number} sets this block aside, whose pageblocks are of types {types:?}, not 3");
            report.find("RSRV-1", Some(head), what);
        }
    }
    let free = (zone.span[0]..zone.span[1]).filter_map(|frame| Some((frame, frames.words(frame)?)));
    for (frame, words) in free {
        let aside = words.is(State::Free) && words.zone() == number && words.migratetype() == HIGH_ATOMIC;
        if aside && !heads.contains(&(frame >> frames.max_order << frames.max_order)) {
            report.find("RSRV-1", Some(frame), "a free block is of the type of what is set aside, and is not".into());
        }
    }
    Ok(())
}
