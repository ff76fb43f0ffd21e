//! Operations written down beforehand, so that every contender does the same and choosing costs nothing while it is timed.

use std::collections::TryReserveError;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use mm::trace::{Decoder, Event, Header};
use mm::units::Order;

use crate::contenders::{Pages, Place};

/// An operation on the block of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Alloc(u32, Order),
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
    /// Blocks of random orders up to `largest`: allocated until `percent` of so many frames are in use, then allocated and
    /// freed at random around that.
    pub(crate) fn mix(frames: usize, percent: usize, largest: Order, operations: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(percent as u64);
        let target = frames * percent / 100;
        let (mut live, mut used, mut unused, mut blocks) = (Vec::new(), 0, Vec::new(), 0_u32);
        let mut alloc = |random: &mut fastrand::Rng, live: &mut Vec<_>, unused: &mut Vec<u32>| {
            let order = Order::of(random.usize(0..=largest.index()));
            let block = unused.pop().unwrap_or_else(|| {
                blocks += 1;
                blocks - 1
            });
            live.push((block, order));
            Operation::Alloc(block, order)
        };
        let mut filling = Vec::new();
        while used < target {
            let operation = alloc(&mut random, &mut live, &mut unused);
            if let Operation::Alloc(_, order) = operation {
                used += 1 << order.index();
            }
            filling.push(operation);
        }
        let mut mixed = Vec::with_capacity(operations);
        while mixed.len() < operations {
            if used < target {
                let operation = alloc(&mut random, &mut live, &mut unused);
                if let Operation::Alloc(_, order) = operation {
                    used += 1 << order.index();
                }
                mixed.push(operation);
            } else {
                let (block, order) = live.swap_remove(random.usize(..live.len()));
                used -= 1 << order.index();
                unused.push(block);
                mixed.push(Operation::Free(block, order));
            }
        }
        Self { filling, operations: mixed, blocks: blocks as usize }
    }

    /// What a running Linux asked for, as recorded.
    ///
    /// # Errors
    /// The file cannot be read, or is no trace.
    pub(crate) fn recorded(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(file).read_to_end(&mut bytes)?;
        let (header, rest) = Header::parse(&bytes)?;
        let mut decoder = Decoder::new(header);
        let operations = decoder.decode(rest).map(|event| {
            Ok(match event? {
                Event::Alloc { id, order, .. } => Operation::Alloc(u32::try_from(id.index())?, order),
                Event::Free { id, order, .. } => Operation::Free(u32::try_from(id.index())?, order),
            })
        });
        let operations = operations.collect::<anyhow::Result<Vec<_>>>()?;
        decoder.finish()?;
        Ok(Self { filling: Vec::new(), operations, blocks: header.blocks as usize })
    }

    /// An empty table for a run.
    pub(crate) fn table(&self) -> Result<Blocks, TryReserveError> {
        let mut places = Vec::new();
        places.try_reserve_exact(self.blocks)?;
        places.resize(self.blocks, None);
        Ok(Blocks { places, refused: 0 })
    }
}

/// Where the blocks of a run stand.
#[derive(Debug)]
pub(crate) struct Blocks {
    places: Vec<Option<(Place, Order)>>,
    /// Allocations that failed.
    pub(crate) refused: usize,
}

impl Blocks {
    /// Does what is written down. What was refused is not freed.
    #[inline]
    pub(crate) fn run(&mut self, pages: &mut impl Pages, operations: &[Operation]) {
        for &operation in operations {
            self.step(pages, operation);
        }
    }

    /// Does one thing.
    #[inline]
    pub(crate) fn step(&mut self, pages: &mut impl Pages, operation: Operation) {
        match operation {
            Operation::Alloc(block, order) => {
                let place = pages.alloc(order);
                self.refused += usize::from(place.is_none());
                self.places[block as usize] = place.map(|place| (place, order));
            }
            Operation::Free(block, order) => {
                if let Some((place, _)) = self.places[block as usize].take() {
                    pages.free(place, order);
                }
            }
        }
    }

    /// Frees what is left.
    pub(crate) fn finish(self, pages: &mut impl Pages) {
        for (place, order) in self.places.into_iter().flatten() {
            pages.free(place, order);
        }
    }
}
