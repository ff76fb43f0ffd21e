//! One CPU's stream of steps, and what its interrupts do.

use arrayvec::{ArrayVec, CapacityError};

use super::super::Failure;
use super::super::random::Random;
use super::held::{Held, Marked};
use super::{IN_INTERRUPTS, Soak, Tally};
use crate::cases::Seed;
use crate::machine::{Geometry, Machine};
use crate::owner::Folio;
use crate::page::{AllocError, Request};
use crate::sync::Ordering;
use crate::units::{Count, CpuId, NodeId, Order, PfnRange};
use crate::zone::ZoneKind;

/// What a CPU's task holds at most.
const HELD: usize = 48;
/// The longest range that is pulled, in pages.
const RANGE: u32 = 40;

/// A CPU at work.
pub(super) struct Worker<'k, 's, M: Machine> {
    soak: &'k Soak<'s, M>,
    cpu: CpuId,
    cpus: Count,
    random: Random,
    held: ArrayVec<Marked<'s, M>, HELD>,
    tally: Tally,
    digest: u64,
}

impl<'k, 's, M: Machine> Worker<'k, 's, M> {
    pub(super) fn new(soak: &'k Soak<'s, M>) -> Self {
        let (cpu, cpus) = soak.cpus();
        let Seed(seed) = soak.plan.seed;
        // Not the seed next to it: CPUs are neighbours, and so are seeds.
        let random = Random::new(Seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(cpu.0)));
        Self { soak, cpu, cpus, random, held: ArrayVec::new(), tally: Tally::default(), digest: 0 }
    }

    /// All of it; holds nothing in the end.
    pub(super) fn work(mut self) -> Result<(), Failure> {
        let plan = self.soak.plan;
        let mut steps = plan.steps.get();
        let desk = self.soak.desk(self.cpu);
        let interrupts = || desk.interrupts.load(Ordering::Relaxed);
        while (steps > 0 || interrupts() < plan.interrupts) && !self.soak.has_failed() {
            steps = steps.saturating_sub(1);
            self.step()?;
            self.take_turns();
        }
        core::mem::take(&mut self.held).into_iter().try_for_each(Marked::give_up)?;
        self.soak.digest.fetch_xor(self.digest, Ordering::Relaxed);
        self.soak.tally.lock().add(self.tally);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        match self.random.below(1000) {
            0..330 => self.alloc_small(),
            330..450 => self.alloc_object(),
            450..500 => self.alloc_folio(),
            500..510 => self.alloc_block(M::Geometry::PAGEBLOCK_ORDER),
            510..515 => {
                let order = self.random.order(M::Geometry::MAX_ORDER);
                self.alloc_block(order)
            }
            515..545 => self.pull_range(),
            545..700 => self.hand_over(),
            700..850 => self.take_over(),
            _ => self.free_one(),
        }
    }

    /// Has CPUs take turns now and then where one of them would go on for long. What the step came to, and when, goes into
    /// the digest.
    fn take_turns(&mut self) {
        let turn = self.soak.turn.load(Ordering::Relaxed);
        self.soak.turn.store(turn + 1, Ordering::Relaxed);
        self.digest(turn);
        if self.random.below(4) == 0 {
            crate::sync::spin_loop();
        }
    }

    fn digest(&mut self, value: u64) {
        // FNV-1a, a word at a time, begun with the CPU so that no two streams cancel each other out.
        let start = if self.digest == 0 { 0xcbf2_9ce4_8422_2325 ^ u64::from(self.cpu.0) } else { self.digest };
        self.digest = (start ^ value).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    fn digest_start(&mut self, marked: &Marked<'s, M>) {
        self.digest(marked.start(self.soak.allocator.machine()).0);
    }

    fn alloc_small(&mut self) -> Result<(), Failure> {
        let order = self.random.small_order(Order::of(3));
        self.alloc_block(order.min(M::Geometry::MAX_ORDER))
    }

    fn alloc_block(&mut self, order: Order) -> Result<(), Failure> {
        let request = self.request(order);
        match self.soak.allocator.alloc(request) {
            Ok(block) => self.hold(Held::Block(block)),
            Err(AllocError::Exhausted(_)) => self.refused(),
            Err(error) => Err(error.into()),
        }
    }

    fn alloc_folio(&mut self) -> Result<(), Failure> {
        let order = self.random.small_order(Order::of(2));
        match self.soak.owners.alloc(self.request(order).with_order(order), Folio::new()) {
            Ok(folio) => self.hold(Held::Folio(folio)),
            Err(_) => self.refused(),
        }
    }

    fn alloc_object(&mut self) -> Result<(), Failure> {
        match self.soak.cache.alloc() {
            Ok(object) => self.hold(Held::Object(object)),
            Err(_) => self.refused(),
        }
    }

    /// Pulls a run of frames from anywhere, if all of it happens to be free; nodes in it have to move. Some of it is freed
    /// as one, some block by block.
    fn pull_range(&mut self) -> Result<(), Failure> {
        let allocator = self.soak.allocator;
        let (_, span) = self.zone();
        let start = self.random.frame(span);
        let pages = self.random.below(RANGE) + 1;
        let pulled = match self.random.below(4) {
            0 => allocator.alloc_contig_aligned(pages, Order::of(1), ZoneKind::Highmem),
            _ => allocator.alloc_contig(PfnRange::new(start, start.plus(pages))),
        };
        // What is in the way may be anything: others have it.
        let Ok(range) = pulled else { return Ok(()) };
        self.tally.ranges += 1;
        self.hold(Held::Range(range))
    }

    /// Gives something to another CPU to free, if that has room for it.
    fn hand_over(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        let marked = self.held.swap_remove(self.random.index(self.held.len()));
        let Count(cpus) = self.cpus;
        let receiver = CpuId(u16::try_from(self.random.below(cpus)).unwrap_or(0));
        let returned = self.soak.desk(receiver).letters.lock().try_push(marked);
        self.held.extend(returned.err().map(CapacityError::element));
        Ok(())
    }

    /// Frees or keeps what other CPUs have given.
    fn take_over(&mut self) -> Result<(), Failure> {
        let letter = self.soak.desk(self.cpu).letters.lock().pop();
        let Some(marked) = letter else { return Ok(()) };
        self.tally.remote += 1;
        self.digest_start(&marked);
        if self.held.is_full() || self.random.below(2) == 0 {
            return marked.give_up();
        }
        self.held.push(marked);
        Ok(())
    }

    fn free_one(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        let marked = self.held.swap_remove(self.random.index(self.held.len()));
        self.digest_start(&marked);
        marked.give_up()
    }

    fn hold(&mut self, held: Held<'s, M>) -> Result<(), Failure> {
        self.tally.allocated += 1;
        let marked = Marked::new(held, self.soak.mark(self.cpu))?;
        self.digest_start(&marked);
        if self.held.is_full() {
            self.free_one()?;
        }
        self.held.push(marked);
        Ok(())
    }

    fn refused(&mut self) -> Result<(), Failure> {
        self.tally.refused += 1;
        // Whoever is refused makes room, or all would wait for each other.
        self.free_one()
    }

    /// Any of the zones.
    fn zone(&mut self) -> (NodeId, PfnRange) {
        let zones = &self.soak.zones;
        zones[self.random.index(zones.len())]
    }

    fn request(&mut self, order: Order) -> Request {
        let request = Request::movable(order).with_migratetype(self.random.migratetype());
        let (node, _) = self.zone();
        let request = match self.random.below(8) {
            0 | 1 => request.up_to(ZoneKind::Normal),
            2 => request.near(node),
            3 => request.bound_to(node),
            4 => request.nowait(),
            _ => request,
        };
        // Where memory is short, to the last page of it. Shrinkers are asked seldom: they stop all CPUs, again and again.
        let short = self.soak.plan.pages.is_some();
        match self.random.below(16) {
            0 => request.from_reserve(),
            1..8 if short => request.from_reserve(),
            8..15 if short => request.nowait(),
            _ => request,
        }
    }
}

/// What an interrupt does on the CPU that it came to: a little of everything that may be done there, and it waits for
/// nobody.
pub(super) fn interrupt<M: Machine>(soak: &Soak<'_, M>) -> Result<(), Failure> {
    let (cpu, _) = soak.cpus();
    let desk = soak.desk(cpu);
    // An interrupt in an interrupt leaves it at that.
    let Some(mut hands) = desk.in_interrupts.try_lock() else { return Ok(()) };
    let (random, held) = &mut *hands;
    for _ in 0..=random.below(3) {
        let free = held.len() == IN_INTERRUPTS || (!held.is_empty() && random.below(2) == 0);
        if free {
            held.swap_remove(random.index(held.len())).give_up()?;
            continue;
        }
        let got = match random.below(3) {
            0 => soak.cache.alloc().ok().map(Held::Object),
            _ => {
                let order = random.small_order(Order::of(3)).min(M::Geometry::MAX_ORDER);
                soak.allocator
                    .alloc(Request::movable(order).with_migratetype(random.migratetype()))
                    .ok()
                    .map(Held::Block)
            }
        };
        if let Some(got) = got {
            held.push(Marked::new(got, soak.mark(cpu))?);
        }
    }
    desk.interrupts.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.allocated += other.allocated;
        self.refused += other.refused;
        self.remote += other.remote;
        self.ranges += other.ranges;
        self.interrupts += other.interrupts;
    }
}
