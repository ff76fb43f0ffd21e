//! The walk over all memory, block by block, and what it adds up to.

use super::walker::{Seen, Sighting, Walker};
use crate::OwnerKind;
use crate::machine::{Geometry, Machine};
use crate::units::{Count, Pfn, PfnRange};

/// Blocks and pages of one sort.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    blocks: u32,
    pages: u32,
}

impl Tally {
    /// Blocks.
    pub const fn blocks(&self) -> Count {
        Count(self.blocks)
    }

    /// Their pages.
    pub const fn pages(&self) -> Count {
        Count(self.pages)
    }

    const fn add(&mut self, pages: u32) {
        self.blocks += 1;
        self.pages += pages;
    }
}

/// All memory by what it is. Each frame counts once, however things move during the walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageTypes {
    /// Memory that the allocator was not given.
    pub reserved: Tally,
    /// Sections that are out of use.
    pub offline: Tally,
    /// Free blocks.
    pub free: Tally,
    /// Free pages that serve freelists.
    pub nodes: Tally,
    /// Free blocks between two lists.
    pub isolated: Tally,
    /// Free blocks that CPUs have at hand.
    pub cached: Tally,
    /// What changed too fast to be seen.
    pub moving: Tally,
    allocated: [Tally; OwnerKind::ALL.len()],
}

impl PageTypes {
    /// Allocated blocks of one kind.
    pub const fn allocated(&self, kind: OwnerKind) -> Tally {
        self.allocated[kind as usize]
    }

    /// All pages: holes are none.
    pub fn pages(&self) -> Count {
        let others = [self.reserved, self.offline, self.free, self.nodes, self.isolated, self.cached, self.moving];
        Count(others.iter().chain(&self.allocated).map(|tally| tally.pages).sum())
    }

    fn add(&mut self, seen: Seen, pages: u32) {
        match seen {
            Seen::Hole => {}
            Seen::Reserved => self.reserved.add(pages),
            Seen::Offline => self.offline.add(pages),
            Seen::Free => self.free.add(pages),
            Seen::Node => self.nodes.add(pages),
            Seen::Isolated => self.isolated.add(pages),
            Seen::Cached => self.cached.add(pages),
            Seen::Moving => self.moving.add(pages),
            Seen::Allocated(kind) => self.allocated[kind as usize].add(pages),
        }
    }
}

/// Blocks in ascending order; made by [`Walker::blocks`].
#[derive(Debug)]
pub struct Blocks<'w, 'o, M: Machine> {
    walker: &'w Walker<'o, M>,
    left: PfnRange,
}

impl<'o, M: Machine> Walker<'o, M> {
    /// All frames that may be memory.
    pub fn frames(&self) -> PfnRange {
        self.owners().pages().frames()
    }

    /// What stands in a range, block by block, holes as single frames. No frame is looked at twice, so a block that
    /// grows during the walk is reported once for each part that was passed by. Sections without memory are stepped over.
    pub fn blocks(&self, range: PfnRange) -> Blocks<'_, 'o, M> {
        Blocks { walker: self, left: range.intersection(self.frames()) }
    }

    /// Adds up all memory. Cost: a look at every block.
    pub fn page_types(&self) -> PageTypes {
        let mut types = PageTypes::default();
        let mut blocks = self.blocks(self.frames());
        while let Some((sighting, part)) = blocks.step() {
            types.add(sighting.seen(), part.pages());
        }
        types
    }
}

impl<'w, 'o, M: Machine> Blocks<'w, 'o, M> {
    /// The next block, and the frames of it that have not been passed by.
    fn step(&mut self) -> Option<(Sighting<'w, 'o, M>, PfnRange)> {
        let pages = self.walker.owners().pages();
        while !self.left.is_empty() && !pages.is_populated(self.left.start) {
            self.pass(self.left.start.plus(1).align_up(M::Geometry::MAX_ORDER));
        }
        if self.left.is_empty() {
            return None;
        }
        let sighting = self.walker.look(self.left.start);
        let part = self.left.intersection(sighting.range());
        self.pass(part.end);
        Some((sighting, part))
    }

    fn pass(&mut self, next: Pfn) {
        self.left = PfnRange::new(next.min(self.left.end), self.left.end);
    }
}

impl<'w, 'o, M: Machine> Iterator for Blocks<'w, 'o, M> {
    type Item = Sighting<'w, 'o, M>;

    fn next(&mut self) -> Option<Sighting<'w, 'o, M>> {
        self.step().map(|(sighting, _)| sighting)
    }
}
