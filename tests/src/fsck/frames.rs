//! All page descriptors of an image, and the walk over the blocks that they say there are.

use std::collections::BTreeMap;

use super::image::{At, Fault, Image};
use super::memory::PAGE;
use super::report::Report;
use super::words::{State, Words};
use super::zones::Zone;

/// Pages of a frame number that the descriptors' own tables can lead to.
const LIMIT: u64 = 1 << 32;

/// A section: an aligned block of the largest order, all of whose frames have descriptors.
#[derive(Debug)]
struct Section {
    words: Vec<Words>,
    /// Where the first descriptor stands.
    address: u64,
    types: u64,
}

/// All descriptors.
#[derive(Debug)]
pub(super) struct Frames {
    sections: BTreeMap<u64, Section>,
    pub(super) max_order: u32,
    pageblock_order: u32,
}

impl Frames {
    pub(super) fn read(image: &Image, report: &mut Report) -> Result<Frames, Fault> {
        let max_order = u32::try_from(image.said("max_order")?).unwrap_or(0).min(15);
        let pageblock_order = u32::try_from(image.said("pageblock_order")?).unwrap_or(0).min(max_order);
        let holes = image.said("map.holes")?;
        let (root, shift) = (image.place("map.root")?, image.said("map.table_shift")?.min(16));
        let tables = image.said("map.tables")?.min(LIMIT >> (u64::from(max_order) + shift));
        let mut frames = Frames { sections: BTreeMap::new(), max_order, pageblock_order };
        for table in 0..tables {
            let entries = root.plus(8 * table).target()?;
            for entry in 0..1 << shift {
                let section = entries.element(entry, "Section")?;
                let descriptors = section.field("Section.descriptors.pages")?.target()?;
                if descriptors.address == holes {
                    continue;
                }
                let number = table << shift | entry;
                let types = section.field("Section.types")?.u64()?;
                match read_words(descriptors, 1 << max_order) {
                    Ok(words) => {
                        let section = Section { words, address: descriptors.address, types };
                        frames.sections.insert(number, section);
                    }
                    Err(Fault::Nowhere(address)) => {
                        let what = format!("a section's descriptors should be at {address:#x}, where no memory is");
                        report.find("ZONE-1", Some(number << max_order), what);
                    }
                    Err(fault) => return Err(fault),
                }
            }
        }
        report.look("descriptors", frames.sections.values().map(|section| section.words.len() as u64).sum());
        Ok(frames)
    }

    fn section(&self, frame: u64) -> Option<&Section> {
        self.sections.get(&(frame >> self.max_order))
    }

    /// The words of a frame; `None` if it has no descriptor of its own.
    pub(super) fn words(&self, frame: u64) -> Option<Words> {
        self.section(frame)?.words.get(usize::try_from(frame % (1 << self.max_order)).ok()?).copied()
    }

    /// Where the descriptor of a frame stands.
    pub(super) fn descriptor_address(&self, frame: u64) -> Option<u64> {
        Some(self.section(frame)?.address + 16 * (frame % (1 << self.max_order)))
    }

    /// The migratetype of the pageblock around a frame.
    pub(super) fn pageblock_type(&self, frame: u64) -> Option<u64> {
        let pageblock = (frame % (1 << self.max_order)) >> self.pageblock_order;
        Some(self.section(frame)?.types >> (2 * pageblock) & 3)
    }

    /// The pageblocks of a block of the largest order.
    pub(super) fn pageblocks(&self, head: u64) -> impl Iterator<Item = u64> {
        (head..head + (1 << self.max_order)).step_by(1 << self.pageblock_order)
    }

    /// What the block around a frame says that it is.
    pub(super) fn block_around(&self, frame: u64) -> Option<Words> {
        let heads = (0..=self.max_order).map(|order| frame >> order << order);
        heads.filter_map(|head| self.words(head)).find(|words| !words.is(State::Tail))
    }
}

/// Descriptors in a row, a page of them at a time.
fn read_words(first: At<'_>, count: u64) -> Result<Vec<Words>, Fault> {
    let mut words = Vec::new();
    let bytes = 16 * count;
    let mut at = 0;
    while at < bytes {
        let place = first.plus(at);
        let inside = place.address % PAGE;
        let end = (at + PAGE - inside).min(bytes);
        let page = place.page()?;
        let descriptors = page.chunks_exact(16).zip((0..).step_by(16));
        let ours = descriptors.filter(|(_, place)| (inside..inside + end - at).contains(place));
        words.extend(ours.map(|(descriptor, _)| descriptor).map(|descriptor| {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| descriptor[at + byte]));
            Words { allocator: word(0), allocatee: word(8) }
        }));
        at = end;
    }
    Ok(words)
}

/// A block that somebody has, or that is at hand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) head: u64,
    pub(super) words: Words,
}

/// What the descriptors say there is in a zone.
#[derive(Clone, Debug, Default)]
pub(super) struct OfZone {
    pub(super) allocated: u64,
    pub(super) at_hand: u64,
    pub(super) in_free_blocks: u64,
    pub(super) free_blocks: u64,
    pub(super) nodes: u64,
    pub(super) blocks_by_order: Vec<u64>,
}

/// What the descriptors say there is.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub(super) zones: Vec<OfZone>,
    pub(super) allocated: Vec<Block>,
    pub(super) cached: Vec<Block>,
}

/// Goes through all blocks: ZONE-1, FREE-2, DESC-1 of what nobody owns, and that every page is one thing (ACCT-1).
pub(super) fn take_census(frames: &Frames, zones: &[Zone<'_>], report: &mut Report) -> Census {
    let orders = frames.max_order as usize + 1;
    let empty = OfZone { blocks_by_order: vec![0; orders], ..OfZone::default() };
    let mut walk =
        Walk { frames, zones, report, census: Census { zones: vec![empty; zones.len()], ..Census::default() } };
    for &section in frames.sections.keys() {
        let (mut at, end) = (section << frames.max_order, (section + 1) << frames.max_order);
        while at < end {
            at += walk.block(at);
        }
    }
    walk.census
}

struct Walk<'w> {
    frames: &'w Frames,
    zones: &'w [Zone<'w>],
    report: &'w mut Report,
    census: Census,
}

impl Walk<'_> {
    /// Whether somebody is at work where a frame is.
    fn is_guarded(&self, frame: u64) -> bool {
        self.zones.iter().any(|zone| zone.held && (zone.span[0]..zone.span[1]).contains(&frame))
    }

    /// Says that something is wrong, unless somebody is at work there.
    fn find(&mut self, invariant: &'static str, frame: u64, what: String) {
        if self.is_guarded(frame) {
            self.report.skip("pages of zones whose lock is held");
        } else {
            self.report.find(invariant, Some(frame), what);
        }
    }

    /// Looks at the block that begins at a frame. Gives its pages.
    fn block(&mut self, head: u64) -> u64 {
        let Some(words) = self.frames.words(head) else { return 1 };
        let Some(state) = words.state() else {
            self.find("ACCT-1", head, format!("a page is one of nine things, and this is {words}"));
            return 1;
        };
        if !words.is_even() {
            self.find("WORD-1", head, format!("a first word has an even number of bits, and this is {words}"));
        }
        let order = match state {
            State::Free | State::Allocated | State::Cached | State::Offline => words.order(),
            State::Tail => {
                self.find("ACCT-1", head, "a page is behind the head of a block, and no block reaches here".into());
                0
            }
            State::Isolated => {
                self.find("ACCT-1", head, format!("no block is in flight when the zone's lock is free: {words}"));
                0
            }
            State::Hole | State::Reserved | State::Node => 0,
        };
        if order > self.frames.max_order || !head.is_multiple_of(1 << order) {
            self.find("ZONE-1", head, format!("a block is aligned to its size, and this is of order {order}: {words}"));
            return 1;
        }
        *self.report.pages.entry(state).or_default() += 1 << order;
        if matches!(state, State::Free | State::Allocated | State::Cached | State::Node) {
            self.in_zone(head, words, state, 1 << order);
        }
        if state != State::Allocated && words.kind() != 0 {
            self.find("DESC-1", head, format!("a page that nobody has names an owner: {words}"));
        }
        self.tails(head, words, order);
        1 << order
    }

    fn in_zone(&mut self, head: u64, words: Words, state: State, pages: u64) {
        let number = words.zone();
        let inside = |zone: &Zone| zone.span[0] <= head && head + pages <= zone.span[1];
        if !self.zones.get(number).is_some_and(inside) {
            let what = format!("a block lies in the span of its zone, and zone {number} is not here: {words}");
            return self.find("ZONE-1", head, what);
        }
        let of_zone = &mut self.census.zones[number];
        match state {
            State::Free => {
                of_zone.free_blocks += 1;
                of_zone.in_free_blocks += pages;
                of_zone.blocks_by_order[words.order() as usize] += 1;
                self.free(head, words);
            }
            State::Cached => {
                of_zone.at_hand += pages;
                self.census.cached.push(Block { head, words });
            }
            State::Node => of_zone.nodes += 1,
            _ => {
                of_zone.allocated += pages;
                self.census.allocated.push(Block { head, words });
            }
        }
    }

    fn free(&mut self, head: u64, words: Words) {
        let order = words.order();
        let buddy = self.frames.words(head ^ (1 << order)).filter(|_| order < self.frames.max_order);
        let alike = |buddy: &Words| buddy.is(State::Free) && buddy.order() == order && buddy.zone() == words.zone();
        if buddy.is_some_and(|buddy| alike(&buddy)) {
            let what =
                format!("free buddies of one size and zone merge, and that at pfn {:#x} has not", head ^ 1 << order);
            self.find("FREE-2", head, what);
        }
        let expected = self.frames.pageblock_type(head);
        if expected != Some(words.migratetype()) {
            let found = words.migratetype();
            self.find(
                "FREE-1",
                head,
                format!("a block is on the list of its pageblock's type, {expected:?}, not {found}"),
            );
        }
    }

    fn tails(&mut self, head: u64, words: Words, order: u32) {
        let is_slab = words.is(State::Allocated) && words.kind() == super::owners::SLAB;
        for behind in 1..1_u64 << order {
            let Some(tail) = self.frames.words(head + behind) else { continue };
            // Halves that are being made or joined: their owner is at it, without a lock. The upper half's head is written
            // first, and is the last to go.
            let is_half = words.is(State::Allocated) && behind == 1 << (order - 1);
            if !tail.is(State::Tail) {
                let in_hand = is_half && tail.is(State::Allocated) && tail.order() + 1 == order;
                if in_hand && tail.zone() == words.zone() {
                    self.report.meet("blocks that are being halved or joined");
                } else {
                    let what =
                        format!("a page inside the block of order {order} at pfn {head:#x} is a tail, not {tail}");
                    self.find("ZONE-1", head + behind, what);
                }
            } else if tail.kind() != 0 && !is_slab {
                if is_half {
                    self.report.meet("blocks that are being halved or joined");
                } else {
                    let what = format!("a tail in the block at pfn {head:#x} names no owner, and this does: {tail}");
                    self.find("DESC-1", head + behind, what);
                }
            } else if !tail.is_even() {
                self.find("WORD-1", head + behind, format!("a tail has an even number of bits, and this is {tail}"));
            }
        }
    }
}
