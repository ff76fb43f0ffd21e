//! A case's random choices: the same seed on the same machine makes the same ones.

use fastrand::Rng;

use super::Seed;
use crate::migratetype::Migratetype;
use crate::units::{Order, Pfn, PfnRange};

/// The choices that follow from one seed.
#[derive(Debug)]
pub(super) struct Random(Rng);

impl Random {
    pub(super) fn new(Seed(seed): Seed) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// Below `end`, which is not 0; all equally likely.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        self.0.u32(0..end)
    }

    /// An index into something of `len` elements, which is not empty.
    pub(super) fn index(&mut self, len: usize) -> usize {
        self.0.usize(0..len)
    }

    /// Any 64 bits: to mark contents, or to key a permutation.
    pub(super) fn bits(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Up to `largest`, all equally likely.
    pub(super) fn order(&mut self, largest: Order) -> Order {
        Order::of(self.below(u32::from(largest.number()) + 1) as usize)
    }

    /// Up to `largest`, each half as likely as the one below.
    pub(super) fn small_order(&mut self, largest: Order) -> Order {
        Order::of((self.bits().trailing_zeros() as usize).min(largest.index()))
    }

    pub(super) fn migratetype(&mut self) -> Migratetype {
        Migratetype::REQUESTED[self.order(Order::of(Migratetype::REQUESTED.len() - 1)).index()]
    }

    /// A frame of the range, or its start if it has none.
    pub(super) fn frame(&mut self, range: PfnRange) -> Pfn {
        range.start.plus(self.below(range.pages().max(1)))
    }
}
