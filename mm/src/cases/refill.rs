//! Memory runs out and comes back, over and over: what has coalesced is the same each time (FREE-6).
//!
//! What a large machine has too much of is held all the while, so that a round stays cheap and the lists of largest blocks
//! short: with no node among them, not a single free block may differ.

use arrayvec::ArrayVec;

use super::footprint::Footprint;
use super::holdings::Holdings;
use super::random::Random;
use super::{Failure, Seed};
use crate::PageState;
use crate::machine::{Geometry, Machine};
use crate::migratetype::Migratetype;
use crate::page::{PageAllocator, Request};
use crate::units::{Count, Order, Pfn};

/// Pages that a round is about, so many of a large machine.
const PAGES: u32 = 4096;

/// Blocks that are told apart when they are freed; what is more comes back in the order of its frames.
const HEADS: usize = 4096;

/// Pages of all rounds of the case together, about.
const BUDGET: u32 = 1 << 16;

pub(super) fn coalesced_memory_is_the_same_each_time_it_has_run_out<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let rounds = BUDGET / allocator.free_pages().clamp(1, PAGES);
    run_out_and_refill(allocator, seed, Count(rounds.min(1000))).map(|_| ())
}

/// Rounds after which every single free block was one again; of the others, as many were of each size, but for where nodes
/// stood among them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Same(pub Count);

/// Allocates all memory in blocks of random sizes and kinds, and frees it in random order, so many times. Nobody else may use
/// the allocator meanwhile.
///
/// # Errors
/// Says what was not as before.
pub fn run_out_and_refill<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
    Count(rounds): Count,
) -> Result<Same, Failure> {
    let mut random = Random::new(seed);
    let mut rest = Holdings::new(allocator)?;
    rest.leave_free(PAGES)?;
    let mut held = Holdings::new(allocator)?;
    serve_movable(&mut held)?;
    let (footprint, before) = (Footprint::of(allocator), Coalesced::now(allocator));
    let mut same = 0;
    for round in 0..rounds {
        let heads = run_out(&mut held, &mut random)?;
        Failure::unless_equal(0, allocator.free_pages(), "free pages when memory has run out")?;
        if round == 0 {
            allocator.verify()?;
        }
        refill(&mut held, heads, &mut random)?;
        serve_movable(&mut held)?;
        footprint.check_restored(allocator)?;
        same += u32::from(before.check(&Coalesced::now(allocator))?);
    }
    allocator.verify()?;
    Ok(Same(Count(same)))
}

/// Allocates blocks of random kinds until there is no page left, and gives the heads of the first ones.
fn run_out<M: Machine>(held: &mut Holdings<'_, M>, random: &mut Random) -> Result<ArrayVec<Pfn, HEADS>, Failure> {
    let mut heads = ArrayVec::new();
    let largest = M::Geometry::MAX_ORDER;
    loop {
        let request = Request::movable(random.small_order(largest)).with_migratetype(random.migratetype());
        let head = match held.alloc(request.from_reserve())? {
            Some(head) => Some(head),
            None => held.alloc(request.with_order(Order::ZERO).from_reserve())?,
        };
        let Some(head) = head else { return Ok(heads) };
        // What there is no room for is found by its frame.
        let _ = heads.try_push(head);
    }
}

/// Frees all that is held, most of it in random order.
fn refill<M: Machine>(
    held: &mut Holdings<'_, M>,
    mut heads: ArrayVec<Pfn, HEADS>,
    random: &mut Random,
) -> Result<(), Failure> {
    while !heads.is_empty() {
        let head = heads.swap_remove(random.index(heads.len()));
        let block = held.take(head);
        Failure::unless_of(block.is_some(), head, "what was allocated is held until it is freed")?;
    }
    free_all(held);
    Failure::unless_equal(0, held.pages(), "pages that are held when all are free")
}

fn free_all<M: Machine>(held: &mut Holdings<'_, M>) {
    let mut at = held.hull().start;
    while let Some(block) = held.take_next(at) {
        at = block.range().end;
    }
}

/// Has all free memory serve movable requests once: whose request a pageblock served last is what its free blocks are for.
fn serve_movable<M: Machine>(held: &mut Holdings<'_, M>) -> Result<(), Failure> {
    held.alloc_everything(Request::movable(Order::ZERO))?;
    free_all(held);
    Ok(())
}

/// The free blocks of all zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Coalesced {
    /// By migratetype and order.
    blocks: [[u32; Order::LIMIT.index() + 1]; Migratetype::ALL.len()],
    nodes: u32,
    /// Follows from the frame and the order of each of them.
    digest: u64,
}

impl Coalesced {
    /// As of now, once nothing is at hand of any CPU. Cost: a look at every block there is.
    fn now<M: Machine>(allocator: &PageAllocator<'_, M>) -> Self {
        allocator.drain();
        let mut coalesced = Self { blocks: Default::default(), nodes: 0, digest: 0 };
        for zone in allocator.zones() {
            coalesced.nodes += zone.nodes;
            for (all, of_zone) in coalesced.blocks.iter_mut().flatten().zip(zone.blocks.into_iter().flatten()) {
                *all += of_zone;
            }
            let mut at = zone.span.start;
            while at < zone.span.end {
                at = match allocator.page_state(at) {
                    (PageState::Free, order) => {
                        coalesced.note(at, order);
                        at.plus(order.pages())
                    }
                    (PageState::Allocated, order) => at.plus(order.pages()),
                    _ => at.plus(1),
                };
            }
        }
        coalesced
    }

    fn note(&mut self, head: Pfn, order: Order) {
        let block = u64::from(head.number()) << 8 | u64::from(order.number());
        self.digest = (self.digest ^ block).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    /// Fails unless every free block is one again, and says whether that could be seen: where nodes stand among them, the
    /// blocks around those may differ.
    fn check(&self, now: &Self) -> Result<bool, Failure> {
        if self.nodes > 0 || now.nodes > 0 {
            return Ok(false);
        }
        for (before, after) in self.blocks.iter().flatten().zip(now.blocks.iter().flatten()) {
            Failure::unless_equal(*before, *after, "free blocks of a migratetype and an order as at first")?;
        }
        Failure::unless(self.digest == now.digest, "the same blocks are free as at first")?;
        Ok(true)
    }
}
