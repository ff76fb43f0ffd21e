//! Blocks of random orders that come and go, with a certain share of memory in use.

use std::collections::VecDeque;

use mm::migratetype::Migratetype;
use mm::units::Order;

use crate::script::Operation;

/// Which block is freed next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Victim {
    /// Any.
    Random,
    /// The oldest; those of the filling in random order, but with numbers in that order: whoever has a table of blocks reads
    /// it from front to back, however large it is.
    Oldest,
}

/// Such blocks, without end.
#[derive(Debug)]
pub(crate) struct Mix {
    random: fastrand::Rng,
    target: usize,
    largest: Order,
    victim: Victim,
    live: VecDeque<(u32, Order)>,
    used: usize,
    unused: Vec<u32>,
    blocks: u32,
}

impl Mix {
    /// Blocks of orders up to `largest`, `target` pages of them.
    pub(crate) fn new(target: usize, largest: Order, victim: Victim, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { random, target, largest, victim, live: VecDeque::new(), used: 0, unused: Vec::new(), blocks: 0 }
    }

    /// Allocations until there are so many pages.
    pub(crate) fn filling(&mut self) -> Vec<Operation> {
        let mut orders = Vec::new();
        while self.used < self.target {
            orders.push(self.order());
        }
        let mut numbers: Vec<_> = (0..).take(orders.len()).collect();
        if self.victim == Victim::Oldest {
            self.random.shuffle(&mut numbers);
        }
        self.live = numbers.iter().copied().zip(orders.iter().copied()).collect();
        self.live.make_contiguous().sort_unstable_by_key(|&(number, _)| number);
        self.blocks = self.live.back().map_or(0, |&(number, _)| number + 1);
        let allocated = |(number, order)| Operation::Alloc(number, order, Migratetype::Movable);
        numbers.into_iter().zip(orders).map(allocated).collect()
    }

    /// Block numbers used so far.
    pub(crate) const fn blocks(&self) -> usize {
        self.blocks as usize
    }

    fn order(&mut self) -> Order {
        let order = Order::of(self.random.usize(0..=self.largest.index()));
        self.used += 1 << order.index();
        order
    }

    fn alloc(&mut self) -> Operation {
        let order = self.order();
        let number = self.unused.pop().unwrap_or_else(|| {
            self.blocks += 1;
            self.blocks - 1
        });
        self.live.push_back((number, order));
        Operation::Alloc(number, order, Migratetype::Movable)
    }

    fn free(&mut self) -> Option<Operation> {
        let (number, order) = match self.victim {
            Victim::Random => {
                let nth = self.random.usize(..self.live.len());
                self.live.swap_remove_back(nth)?
            }
            Victim::Oldest => self.live.pop_front()?,
        };
        self.used -= 1 << order.index();
        self.unused.push(number);
        Some(Operation::Free(number, order))
    }
}

impl Iterator for Mix {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        if self.used < self.target { Some(self.alloc()) } else { self.free() }
    }
}
