//! All CPUs at once: they allocate, mark what they have, hand it to each other, free it, pull ranges out of the middle,
//! and check with every free that nobody else wrote to what was theirs.
//!
//! ```text
//!   CPU 0: a stream of steps ──┐  hands over   ┌── takes what was handed over
//!   CPU 1: a stream of steps ──┼──> a letter box for each CPU <──┤
//!   …                          │               │
//!   interrupts on any of them: a little of the same, into hands of their own, never waiting for anyone
//! ```
//!
//! Bounded by steps, never by time. A CPU's stream follows from the seed and the CPU, what it meets from how CPUs take
//! turns: on a machine whose clock counts instructions the two are the same on every run, and so is the digest of all that
//! was done ([`Done::digest`]).
//!
//! `mark` is what is written to memory, `held` the memory, `worker` a CPU's stream, `account` where all pages are in the end;
//! `turnover` is single pages alone, and how seldom they take a lock.

mod account;
mod held;
mod mark;
mod turnover;
mod worker;

use core::num::NonZeroU32;

use arrayvec::ArrayVec;
use spin::Mutex;

pub use account::Account;
pub use mark::{Found, Mark, Place};
pub use turnover::{Turnover, turn_over};

use super::crew::Crew;
use super::footprint::Footprint;
use super::holdings::Holdings;
use super::random::Random;
use super::{Failure, Seed};
use crate::machine::Machine;
use crate::owner::Owners;
use crate::page::{PageAllocator, Request};
use crate::slab::{CacheSpec, KmemCache, KmemCaches};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::units::{Count, CpuId, NodeId, Order, PfnRange};
use held::Marked;
use worker::Worker;

/// What a soak does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Where every CPU's stream starts.
    pub seed: Seed,
    /// Steps of each CPU.
    pub steps: NonZeroU32,
    /// So many interrupts at least come to each CPU before it ends; 0 where there are none.
    pub interrupts: u32,
    /// How many pages all of them have; `None`: all there are.
    pub pages: Option<NonZeroU32>,
}

/// What a soak has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Follows from every step of every CPU, what it got, and in which order CPUs took turns.
    pub digest: u64,
    /// What was counted on all CPUs together.
    pub tally: Tally,
}

/// What was counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// Allocations that were served.
    pub allocated: u32,
    /// Allocations that were refused, for want of memory.
    pub refused: u32,
    /// What was freed by another CPU than the one that had allocated it.
    pub remote: u32,
    /// Contiguous ranges that were had.
    pub ranges: u32,
    /// Interrupts that did their part.
    pub interrupts: u32,
}

/// CPUs that are told apart; those above share letter boxes with those below.
const CPUS: usize = 16;
/// What waits in a letter box at most.
const LETTERS: usize = 16;
/// What interrupts of one CPU hold at most.
const IN_INTERRUPTS: usize = 8;

/// What belongs to one CPU.
struct Desk<'s, M: Machine> {
    letters: Mutex<ArrayVec<Marked<'s, M>, LETTERS>>,
    in_interrupts: Mutex<(Random, ArrayVec<Marked<'s, M>, IN_INTERRUPTS>)>,
    interrupts: AtomicU32,
    /// Of the task's allocations, and those of interrupts.
    serial: AtomicU32,
}

/// What all CPUs work on.
struct Soak<'s, M: Machine> {
    allocator: &'s PageAllocator<'s, M>,
    owners: &'s Owners<'s, M>,
    cache: &'s KmemCache<'s, M>,
    plan: Plan,
    /// Where memory is, and whose: some of the zones, if there are many.
    zones: ArrayVec<(NodeId, PfnRange), 8>,
    desks: [Desk<'s, M>; CPUS],
    /// Steps so far, about: no read-modify-write, that would be a barrier at every step.
    turn: AtomicU64,
    digest: AtomicU64,
    tally: Mutex<Tally>,
    failure: Mutex<Option<Failure>>,
    failed: AtomicU32,
}

/// Runs a soak, and makes sure that it leaves everything as it found it: nothing lost (ACCT-1), as whole as before.
/// Nobody else may use the allocator meanwhile.
///
/// # Errors
/// The first thing that did not hold, on whichever CPU.
pub fn soak<M: Machine>(allocator: &PageAllocator<'_, M>, crew: &dyn Crew, plan: Plan) -> Result<Done, Failure> {
    const NO_ROOM: Failure = Failure::Skipped("there is no memory for caches and owners");
    let before = Footprint::settled(allocator);
    // Of its own, so that all they take goes back with them.
    let caches = KmemCaches::new(allocator).map_err(|_| NO_ROOM)?;
    let owners = Owners::new(&caches).map_err(|_| NO_ROOM)?;
    let cache =
        caches.create(CacheSpec::new("soak", OBJECT).from(Request::new(Order::ZERO).nowait())).map_err(|_| NO_ROOM)?;
    let mut rest = Holdings::new(allocator)?;
    if let Some(pages) = plan.pages {
        rest.leave_free(pages.get())?;
        let page = Request::movable(Order::ZERO).from_reserve();
        while allocator.free_pages() > pages.get() && rest.alloc(page)?.is_some() {}
    }
    let done = Soak::new(allocator, &owners, &cache, plan).run(crew)?;
    caches.verify()?;
    drop(cache);
    drop(owners);
    drop(caches);
    drop(rest);
    allocator.drain();
    before.check_restored(allocator)?;
    allocator.verify()?;
    allocator.verify_charges()?;
    allocator.zones().try_for_each(|zone| Account::of(allocator, &zone).map(drop))?;
    Ok(done)
}

/// Bytes of an object.
const OBJECT: u32 = 96;

impl<'s, M: Machine> Soak<'s, M> {
    fn new(
        allocator: &'s PageAllocator<'s, M>,
        owners: &'s Owners<'s, M>,
        cache: &'s KmemCache<'s, M>,
        plan: Plan,
    ) -> Self {
        let desk = |cpu: usize| Desk {
            letters: Mutex::default(),
            in_interrupts: Mutex::new((Random::new(Seed(plan.seed.0 ^ !(cpu as u64))), ArrayVec::new())),
            interrupts: AtomicU32::new(0),
            serial: AtomicU32::new(0),
        };
        Self {
            allocator,
            owners,
            cache,
            plan,
            zones: allocator.zones().map(|zone| (zone.node, zone.span)).take(8).collect(),
            desks: core::array::from_fn(desk),
            turn: AtomicU64::new(0),
            digest: AtomicU64::new(0),
            tally: Mutex::default(),
            failure: Mutex::new(None),
            failed: AtomicU32::new(0),
        }
    }

    fn run(self, crew: &dyn Crew) -> Result<Done, Failure> {
        let task = || self.note(Worker::new(&self).work());
        let handler = || self.note(worker::interrupt(&self));
        crew.everywhere(&task, (self.plan.interrupts > 0).then_some(&handler));
        if let Some(failure) = self.failure.into_inner() {
            return Err(failure);
        }
        let mut tally = self.tally.into_inner();
        for desk in self.desks {
            tally.interrupts += desk.interrupts.into_inner();
            desk.letters.into_inner().into_iter().try_for_each(Marked::give_up)?;
            desk.in_interrupts.into_inner().1.into_iter().try_for_each(Marked::give_up)?;
        }
        Ok(Done { digest: self.digest.load(Ordering::Relaxed), tally })
    }

    /// Keeps the first failure, and has all CPUs stop.
    fn note(&self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            self.failed.store(1, Ordering::Relaxed);
            // An interrupt waits for nobody: who holds this has a failure to tell as well.
            if let Some(mut place) = self.failure.try_lock() {
                place.get_or_insert(failure);
            }
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed) != 0
    }

    fn desk(&self, CpuId(cpu): CpuId) -> &Desk<'s, M> {
        &self.desks[usize::from(cpu) % CPUS]
    }

    /// Which CPU this is, and how many there are.
    fn cpus(&self) -> (CpuId, Count) {
        let machine = self.allocator.machine();
        (machine.cpu(), Count(u32::from(machine.cpus().get())))
    }

    /// A mark that no other allocation has.
    fn mark(&self, cpu: CpuId) -> Mark {
        Mark::new(cpu, self.desk(cpu).serial.fetch_add(1, Ordering::Relaxed))
    }
}
