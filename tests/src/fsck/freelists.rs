//! A zone's freelists: each end is a stack, on a tree of pages that are free themselves, and a ring in the zone.
//!
//! What a tree has to be follows from how many entries are stored in it. So the walk goes where nodes have to be, not where
//! pointers lead, and asks each that it meets whether it knows that it is there.

use super::frames::Frames;
use super::image::{At, Fault, Image};
use super::memory::PAGE;
use super::report::Report;
use super::words::State;
use super::zones::Zone;

/// What all lists of a zone have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    pub(super) entries: u64,
    pub(super) nodes: u64,
}

/// Nothing is higher: a leaf and three levels above have more entries than there are frames.
const HIGHEST: u64 = 4;

pub(super) fn check(image: &Image, frames: &Frames, zone: &Zone<'_>, report: &mut Report) -> Result<Found, Fault> {
    let (leaf_shift, node_shift) = (image.said("leaf_shift")?.min(10), image.said("node_shift")?.min(9));
    let lists = zone.place.field("Zone.lists")?;
    let mut found = Found::default();
    for list in 0..128 {
        let (end, order) = (list & 1, list >> 1 & 0xf);
        if order > u64::from(frames.max_order) {
            continue;
        }
        let place = lists.field("Freelists.stacks")?.element(list, "Stack")?;
        let number = |name: &str| place.field(name)?.u32().map(u64::from);
        let (len, stored) = (number("Stack.len")?, number("Stack.stored")?);
        let [height, prepared] = ["Stack.height", "Stack.prepared"].map(|name| place.field(name)?.u8().map(u64::from));
        let (height, prepared) = (height?, prepared?);
        let occupied = lists.field("Freelists.occupied")?.plus(8 * end).u64()?;
        if (occupied >> (list >> 1) & 1 == 1) != (len > 0) {
            let what =
                format!("{}: its bit says {}, and it has {len} entries", name(zone, list), occupied >> (list >> 1) & 1);
            report.find("FREE-3", None, what);
        }
        let mut walk = Walk {
            image,
            frames,
            zone,
            list,
            place,
            leaf_shift,
            node_shift,
            len,
            stored,
            height,
            prepared,
            found,
            report,
        };
        walk.stack()?;
        found = walk.found;
    }
    report.look("list entries", found.entries);
    report.look("list nodes", found.nodes);
    Ok(found)
}

fn name(zone: &Zone<'_>, list: u64) -> String {
    let end = if list & 1 == 0 { "near" } else { "far" };
    format!("zone {}, type {}, order {}, {end} end", zone.number, list >> 5, list >> 1 & 0xf)
}

struct Walk<'w, 'i> {
    image: &'i Image,
    frames: &'w Frames,
    zone: &'w Zone<'i>,
    list: u64,
    place: At<'i>,
    leaf_shift: u64,
    node_shift: u64,
    len: u64,
    stored: u64,
    height: u64,
    prepared: u64,
    found: Found,
    report: &'w mut Report,
}

/// What the eleven bits above a pointer's tag have to be: all others, the tag among them, folded into each other.
fn check_of(pointer: u64) -> u64 {
    let others = pointer >> 12 | (pointer & 1) << 52;
    (0..64).step_by(11).fold(0, |folded, shift| folded ^ others >> shift) & 0x7ff
}

impl Walk<'_, '_> {
    fn find(&mut self, invariant: &'static str, frame: Option<u64>, what: &str) {
        let what = format!("{}: {what}", name(self.zone, self.list));
        self.report.find(invariant, frame, what);
    }

    /// log2 of the positions under a node of a level.
    fn shift(&self, level: u64) -> u64 {
        self.leaf_shift + (level - 1) * self.node_shift
    }

    fn covers(&self, height: u64, positions: u64) -> bool {
        height > 0 && positions <= 1 << self.shift(height)
    }

    fn leaf(&self) -> u64 {
        1 << self.leaf_shift
    }

    fn stack(&mut self) -> Result<(), Fault> {
        let Self { len, stored, height, prepared, .. } = *self;
        let inline = self.image.said("inline")?.clamp(2, 16);
        let span = self.zone.span[1].saturating_sub(self.zone.span[0]);
        if len > span || stored > len || len - stored > inline || (len > 0 && len == stored) {
            self.find("FREE-4", None, &format!("of {len} entries {stored} are in the tree: not 1 to {inline} less"));
            return Ok(());
        }
        let open = stored.is_multiple_of(self.leaf());
        let lower = height.saturating_sub(1);
        let fits = match stored {
            0 => height == 0,
            _ if height > HIGHEST => false,
            // A root that came before its second child is the only one too many.
            _ => {
                self.covers(height, stored)
                    && (!self.covers(lower, stored) || (open && !self.covers(lower, stored + 1)))
            }
        };
        // With the leaf, the last that is missing, the path is no longer open.
        let path_fits = || prepared == 0 || (open && prepared < self.highest_missing());
        if !fits || !path_fits() || (stored > 0 && len <= inline / 2) {
            let what = format!("{stored} entries of {len} are in a tree of height {height} with {prepared} nodes more");
            self.find("FREE-4", None, &what);
            return Ok(());
        }
        if stored > 0 {
            self.tree()?;
        }
        for position in stored..len {
            let entry = self.place.field("Stack.ring")?.plus(4 * (position % inline)).u32()?;
            self.entry(position, entry.into());
        }
        Ok(())
    }

    fn tree(&mut self) -> Result<(), Fault> {
        let root = self.place.field("Stack.root")?.u64()?;
        let last = self.node(self.height, 0, root)?;
        let tail = self.place.field("Stack.tail")?.u64()?;
        if last != Some(tail) {
            self.find("FREE-4", None, &format!("its last leaf is at {last:x?}, and it says {tail:#x}"));
        }
        Ok(())
    }

    /// The level of the highest node that is missing on the path to the leaf that comes next.
    fn highest_missing(&self) -> u64 {
        let begins = |level: &u64| self.stored.is_multiple_of(1 << self.shift(*level));
        (1..self.height).take_while(begins).last().unwrap_or(1)
    }

    /// Whether there is a node of a level that begins at a position: because entries are under it, or because it stands on
    /// the path to the leaf that is still missing.
    fn is_due(&self, level: u64, first: u64) -> bool {
        let highest_missing = self.highest_missing();
        let on_path = self.prepared > 0 && level < self.height && level + self.prepared > highest_missing;
        first < self.stored || (on_path && first == self.stored && level <= highest_missing)
    }

    /// Looks at the node of a level over a position, to which `pointer` leads, and at all below. Gives the pointer to the
    /// last leaf there.
    fn node(&mut self, level: u64, first: u64, pointer: u64) -> Result<Option<u64>, Fault> {
        let end = self.image.said("direct_map.end")?;
        if pointer >> 1 & 0x7ff != check_of(pointer) {
            let what = format!("a pointer's check is {:#x}, and this is {pointer:#x}", check_of(pointer));
            self.find("FREE-4", None, &what);
            return Ok(None);
        }
        let (frame, is_highmem) = match pointer & 1 {
            1 => (Some(pointer >> 12), true),
            _ => (self.image.translate(pointer / PAGE * PAGE).map(|place| place.0 / PAGE), false),
        };
        let Some((frame, page)) = frame.and_then(|frame| Some((frame, self.image.page(frame)?))) else {
            self.find(
                "FREE-4",
                None,
                &format!("a node of level {level} should be at {pointer:#x}, where no memory is"),
            );
            return Ok(None);
        };
        self.found.nodes += 1;
        if is_highmem != (frame >= end) {
            let what = format!("highmem begins at pfn {end:#x}, and the pointer to this node is {pointer:#x}");
            self.find("HIGH-1", Some(frame), &what);
        }
        let words = self.frames.words(frame);
        let knows = words.is_some_and(|words| {
            words.is(State::Node)
                && words.zone() == self.zone.number
                && words.list() == self.list
                && words.level_or_group() == level
                && words.number() == first
        });
        if !knows {
            let found = words.map_or("no descriptor".to_owned(), |words| words.to_string());
            let what = format!("this is its node of level {level} over position {first}, and says {found}");
            self.find("FREE-4", Some(frame), &what);
        }
        if level == 1 {
            for (position, entry) in (first..self.stored.min(first + self.leaf())).zip(page.chunks_exact(4)) {
                self.entry(position, u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]).into());
            }
            return Ok((first < self.stored).then_some(pointer));
        }
        let mut last = None;
        for child in 0..1 << self.node_shift {
            let below = first + (child << self.shift(level - 1));
            if !self.is_due(level - 1, below) {
                break;
            }
            let at = usize::try_from(8 * child).unwrap_or(usize::MAX);
            let mut pointer = [0; 8];
            pointer.copy_from_slice(&page[at..at + 8]);
            last = self.node(level - 1, below, u64::from_le_bytes(pointer))?.or(last);
        }
        Ok(last)
    }

    fn entry(&mut self, position: u64, frame: u64) {
        self.found.entries += 1;
        let words = self.frames.words(frame);
        let knows = words.is_some_and(|words| {
            words.is(State::Free) && words.zone() == self.zone.number && words.list() == self.list
        });
        let found = words.map_or("no descriptor".to_owned(), |words| words.to_string());
        if !knows {
            let what = format!("this stands at position {position}, and is {found}");
            self.find("FREE-1", Some(frame), &what);
        } else if words.is_some_and(|words| words.number() != position) {
            self.find(
                "FREE-1",
                Some(frame),
                &format!("this stands at position {position}, and says that it is {found}"),
            );
        }
    }
}
