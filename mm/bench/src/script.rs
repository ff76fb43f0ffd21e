//! Operations written down beforehand, so that every contender does the same and choosing costs nothing while it is timed.

use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use mm::migratetype::Migratetype;
use mm::trace::{Decoder, Event, Header};
use mm::units::Order;

use crate::contenders::{Pages, Place};
use crate::mix::{Mix, Victim};

/// An operation on the block of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Alloc(u32, Order, Migratetype),
    Free(u32, Order),
}

/// Operations, and how many block numbers they use.
#[derive(Debug)]
pub(crate) struct Script {
    /// Until memory is as full as it is to be.
    pub(crate) filling: Vec<Operation>,
    /// What is measured.
    pub(crate) operations: Vec<Operation>,
    blocks: usize,
}

impl Script {
    /// A page allocated and freed, so many times.
    pub(crate) fn pairs(pairs: usize) -> Self {
        let pair = [Operation::Alloc(0, Order::ZERO, Migratetype::Movable), Operation::Free(0, Order::ZERO)];
        Self { filling: Vec::new(), operations: pair.repeat(pairs), blocks: 1 }
    }

    /// Blocks of random orders up to `largest`: allocated until `percent` of so many frames are in use, then allocated and
    /// freed at random around that.
    pub(crate) fn mix(frames: usize, percent: usize, largest: Order, operations: usize) -> Self {
        let mut mix = Mix::new(frames * percent / 100, largest, Victim::Random, percent as u64);
        let filling = mix.filling();
        let operations = mix.by_ref().take(operations).collect();
        Self { filling, operations, blocks: mix.blocks() }
    }

    /// What a running Linux asked for, as recorded.
    ///
    /// # Errors
    /// The file cannot be read, is no trace, or is empty.
    pub(crate) fn recorded(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes)?;
        let (header, rest) = Header::parse(&bytes)?;
        let mut decoder = Decoder::new(header);
        let operations = decoder.decode(rest).map(|event| {
            Ok(match event? {
                Event::Alloc { id, order, migratetype, .. } => {
                    Operation::Alloc(u32::try_from(id.index())?, order, migratetype)
                }
                Event::Free { id, order, .. } => Operation::Free(u32::try_from(id.index())?, order),
            })
        });
        let operations = operations.collect::<anyhow::Result<Vec<_>>>()?;
        decoder.finish()?;
        anyhow::ensure!(!operations.is_empty(), "there is nothing in {}", path.display());
        Ok(Self { filling: Vec::new(), operations, blocks: header.blocks as usize })
    }

    /// Pages in use when that is most.
    pub(crate) fn peak(&self) -> usize {
        let (mut used, mut peak) = (0_usize, 0);
        for operation in self.filling.iter().chain(&self.operations) {
            match operation {
                Operation::Alloc(_, order, _) => used += 1 << order.index(),
                // Nobody has checked that what a trace frees was allocated.
                Operation::Free(_, order) => used = used.saturating_sub(1 << order.index()),
            }
            peak = peak.max(used);
        }
        peak
    }

    /// An empty table for a run.
    pub(crate) fn table(&self) -> Blocks {
        Blocks::new(self.blocks)
    }
}

/// Where the blocks of a run stand.
#[derive(Debug)]
pub(crate) struct Blocks {
    places: Vec<Option<(Place, Order)>>,
}

impl Blocks {
    /// None of so many.
    pub(crate) fn new(blocks: usize) -> Self {
        Self { places: vec![None; blocks] }
    }

    /// Makes room for so many.
    pub(crate) fn grow(&mut self, blocks: usize) {
        self.places.resize(blocks, None);
    }

    /// Does what is written down. What was refused is not freed.
    #[inline]
    pub(crate) fn run(&mut self, pages: &mut (impl Pages + ?Sized), operations: &[Operation]) {
        for &operation in operations {
            match operation {
                Operation::Alloc(block, order, migratetype) => {
                    self.put(block, pages.alloc(order, migratetype), order);
                }
                Operation::Free(block, order) => {
                    if let Some((place, _)) = self.take(block) {
                        pages.free(place, order);
                    }
                }
            }
        }
    }

    /// Notes where a block stands, if it does.
    #[inline]
    pub(crate) fn put(&mut self, block: u32, place: Option<Place>, order: Order) {
        self.places[block as usize] = place.map(|place| (place, order));
    }

    /// Forgets a block.
    #[inline]
    pub(crate) fn take(&mut self, block: u32) -> Option<(Place, Order)> {
        self.places[block as usize].take()
    }

    /// Pages of all blocks.
    pub(crate) fn pages(&self) -> usize {
        self.places.iter().flatten().map(|(_, order)| 1 << order.index()).sum()
    }

    /// Frees what is left.
    pub(crate) fn finish(self, pages: &mut (impl Pages + ?Sized)) {
        for (place, order) in self.places.into_iter().flatten() {
            pages.free(place, order);
        }
    }
}
