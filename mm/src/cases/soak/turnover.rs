//! Single pages that go from hand to hand: how often a zone's lock is taken for them once all is in its stride.

use core::num::NonZeroU32;

use arrayvec::ArrayVec;
use spin::Mutex;

use super::super::crew::Crew;
use super::super::random::Random;
use super::super::{Failure, Seed};
use super::CPUS;
use crate::machine::Machine;
use crate::page::{AllocError, Block, PageAllocator, Request};
use crate::units::{CpuId, Order};

/// Pages that a CPU has at most.
const HELD: usize = 256;
/// Pages that wait for a CPU at most.
const LETTERS: usize = 64;

/// How often zones' locks were taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turnover {
    /// Pages that were allocated, and as many that were freed.
    pub pages: u64,
    /// How often a zone's lock was taken meanwhile.
    pub locked: u64,
}

impl Turnover {
    /// Acquisitions for 1000 allocations and frees.
    pub const fn per_1000(&self) -> u64 {
        let operations = 2 * self.pages;
        if operations == 0 { 0 } else { (1000 * self.locked).div_ceil(operations) }
    }
}

/// Has all CPUs allocate and free single pages at random, of which every fourth is freed by another CPU, for so many steps
/// to get into their stride, and as many that count. Nobody else may use the allocator meanwhile.
///
/// # Errors
/// A page was refused.
pub fn turn_over<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    crew: &dyn Crew,
    seed: Seed,
    steps: NonZeroU32,
) -> Result<Turnover, Failure> {
    let letters: [Letters<'_, M>; CPUS] = core::array::from_fn(|_| Mutex::default());
    let total: Mutex<Result<u64, Failure>> = Mutex::new(Ok(0));
    let mut turnover = Turnover { pages: 0, locked: 0 };
    for _ in ["in stride", "counted"] {
        *total.lock() = Ok(0);
        let before = allocator.zone_lock_acquisitions();
        let work = || {
            let outcome = work(allocator, &letters, seed, steps);
            let mut total = total.lock();
            *total = total.and_then(|pages| Ok(pages + outcome?));
        };
        crew.everywhere(&work, None);
        // Each zone's lock is taken to ask, too.
        let looks = allocator.zones().count() as u64;
        let locked = allocator.zone_lock_acquisitions().0 - before.0 - looks;
        turnover = Turnover { pages: (*total.lock())?, locked };
    }
    Ok(turnover)
}

type Letters<'a, M> = Mutex<ArrayVec<Block<'a, M>, LETTERS>>;

/// Says how many pages this CPU has allocated.
fn work<'a, M: Machine>(
    allocator: &'a PageAllocator<'_, M>,
    letters: &[Letters<'a, M>; CPUS],
    Seed(seed): Seed,
    steps: NonZeroU32,
) -> Result<u64, Failure> {
    let (CpuId(cpu), cpus) = (allocator.machine().cpu(), u32::from(allocator.machine().cpus().get()));
    let mut random = Random::new(Seed(seed ^ u64::from(cpu)));
    let mut held: ArrayVec<Block<'a, M>, HELD> = ArrayVec::new();
    let mut pages = 0;
    for _ in 0..steps.get() {
        if held.is_empty() || (!held.is_full() && random.below(2) == 0) {
            match allocator.alloc(Request::movable(Order::ZERO)) {
                Ok(page) => held.push(page),
                Err(AllocError::Exhausted(_)) => return Err(Failure::Skipped("there is no memory to turn over")),
                Err(error) => return Err(error.into()),
            }
            pages += 1;
            continue;
        }
        let page = held.swap_remove(random.index(held.len()));
        if random.below(4) == 0 {
            let receiver = random.below(cpus) as usize % CPUS;
            drop(letters[receiver].lock().try_push(page));
        } else {
            drop(page);
        }
        let letter = letters[usize::from(cpu) % CPUS].lock().pop();
        drop(letter);
    }
    Ok(pages)
}
