//! Random operations with the specification beside: what is given, what is refused, and what is turned away, each as it has to
//! be, and the whole state compared.
//!
//! Whoever has operations of another kind, as a fuzzer has, hands them to [`Beside`] one by one.
//!
//! Invariants: SPEC-1, SPEC-2, and FREE-3 for every refusal. Cost: a look at all frames for each refusal and each check.
#![expect(unsafe_code, reason = "frees what must not be freed")]

use core::fmt;
use core::num::NonZeroU32;

use arrayvec::ArrayVec;

use super::random::Random;
use super::{Failure, Seed};
use crate::PageState;
use crate::machine::{Geometry, Machine};
use crate::page::{AllocError, Block, FailureError, FailureOutcome, FreeError, PageAllocator, Request};
use crate::specification::{Specification, Standing};
use crate::units::{Count, Order, Pfn, PfnRange};
use crate::zone::ZoneKind;

/// The most blocks that are held at a time.
const HELD: usize = 64;

/// The most pages that are out of use at a time because they fail, and the most sections.
const FAILED: usize = 16;
const OFFLINE: usize = 4;

/// Steps of a case, and how many of them lie between two comparisons.
const STEPS: Count = Count(2000);
const COMPARE_EVERY: NonZeroU32 = NonZeroU32::new(500).unwrap();

/// One of what is held, whatever there is: the number is taken modulo how many there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick(pub u16);

/// What a user may do.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Allocates a block; if too many are held, frees one instead.
    Alloc(Request),
    /// Allocates up to so many at once as can be held.
    AllocBulk(Request),
    /// Frees a block that is held.
    Free(Pick),
    /// Frees all from one on.
    FreeFrom(Pick),
    /// Halves one.
    Split(Pick),
    /// Joins one with its buddy, if that is held.
    Merge(Pick),
    /// Allocates these very frames.
    Contig(PfnRange),
    /// Frees a frame that heads no allocated block.
    FreeWrongly(Pfn),
    /// Takes what CPUs have at hand.
    Drain,
    /// Says that the memory of this frame fails; if too much does, takes some in again instead.
    Fail(Pfn),
    /// Takes a page in again of which that was said.
    Unpoison(Pick),
    /// Takes the section around this frame out of use, if it is free; if too many are, takes one in again instead.
    Offline(Pfn),
    /// Takes in one that is.
    Online(Pick),
}

impl Operation {
    fn random<M: Machine>(random: &mut Random, frames: PfnRange) -> Self {
        let largest = M::Geometry::MAX_ORDER;
        let pick = |random: &mut Random| Pick(u16::try_from(random.below(1 << 16)).unwrap_or(0));
        let request = |random: &mut Random, order| {
            let highest = ZoneKind::ALL[random.index(ZoneKind::ALL.len())];
            Request::movable(order).with_migratetype(random.migratetype()).up_to(highest).from_reserve()
        };
        match random.below(40) {
            0..8 => {
                let order = random.small_order(largest);
                Self::Alloc(request(random, order))
            }
            8..10 => {
                let order = random.order(largest);
                Self::Alloc(request(random, order))
            }
            10 => {
                let order = random.small_order(Order::of(2).min(largest));
                Self::AllocBulk(request(random, order))
            }
            11..22 => Self::Free(pick(random)),
            22 => Self::FreeFrom(pick(random)),
            23..25 => Self::Split(pick(random)),
            25..27 => Self::Merge(pick(random)),
            27 => {
                let start = random.frame(frames);
                Self::Contig(PfnRange::new(start, start.plus(1 + random.below(largest.pages()))))
            }
            28..31 => Self::FreeWrongly(random.frame(frames)),
            31..34 => Self::Fail(random.frame(frames)),
            34..36 => Self::Unpoison(pick(random)),
            36..38 => Self::Offline(random.frame(frames)),
            38 => Self::Online(pick(random)),
            _ => Self::Drain,
        }
    }
}

/// An allocator beside its specification, and the blocks that a user holds. Nobody else uses the allocator meanwhile.
pub struct Beside<'a, M: Machine> {
    pages: &'a PageAllocator<'a, M>,
    specification: Specification<'a>,
    held: ArrayVec<Block<'a, M>, HELD>,
    failed: ArrayVec<Pfn, FAILED>,
    offline: ArrayVec<Pfn, OFFLINE>,
}

impl<'a, M: Machine> Beside<'a, M> {
    /// With nothing held; `None` if the machine has no specification.
    pub fn new(pages: &'a PageAllocator<'a, M>) -> Option<Self> {
        let specification = pages.machine().specification()?;
        Some(Self { pages, specification, held: ArrayVec::new(), failed: ArrayVec::new(), offline: ArrayVec::new() })
    }

    /// Does so many random operations and compares behind every so many of them.
    ///
    /// # Errors
    /// An outcome is none that its operation may have, or a comparison finds a difference.
    pub fn run(&mut self, seed: Seed, steps: Count, compare_every: NonZeroU32) -> Result<(), Failure> {
        let mut random = Random::new(seed);
        let frames = PfnRange::new(Pfn::new(0), self.specification.end());
        for step in 1..=steps.0 {
            self.step(Operation::random::<M>(&mut random, frames))?;
            if step % compare_every == 0 {
                self.compare()?;
            }
        }
        self.restore()?;
        self.compare()
    }

    /// Takes in all that is out of use.
    fn restore(&mut self) -> Result<(), Failure> {
        while !self.offline.is_empty() {
            self.online(Pick(0))?;
        }
        while !self.failed.is_empty() {
            self.unpoison(Pick(0))?;
        }
        Ok(())
    }

    /// Does an operation, and looks at its outcome.
    ///
    /// # Errors
    /// The outcome is none that it may have.
    pub fn step(&mut self, operation: Operation) -> Result<(), Failure> {
        match operation {
            Operation::Alloc(_) if self.held.is_full() => drop(self.held.pop()),
            Operation::Alloc(request) => match self.pages.alloc(request) {
                Ok(block) => self.hold(block, request)?,
                Err(error) => self.check_refusal(error, request)?,
            },
            Operation::AllocBulk(request) => {
                let room = self.held.remaining_capacity();
                let batch = self.pages.alloc_bulk::<{ HELD / 4 }>(request);
                let had = batch.heads().len();
                batch.into_blocks().take(room).try_for_each(|block| self.hold(block, request))?;
                if had < HELD / 4 && had <= room {
                    self.check_refusal(AllocError::Exhausted(request), request)?;
                }
            }
            Operation::Free(pick) => drop(self.take(pick)),
            Operation::FreeFrom(pick) => {
                let kept = usize::from(pick.0) % self.held.len().max(1);
                self.held.truncate(kept);
            }
            Operation::Split(pick) => self.split(pick)?,
            Operation::Merge(pick) => self.merge(pick)?,
            Operation::Contig(range) => match self.pages.alloc_contig(range) {
                Ok(contig) => {
                    let room = self.held.remaining_capacity();
                    let taken = contig.into_blocks().take(room);
                    self.held.extend(taken);
                }
                Err(_) => {
                    let broken = "a range that is free can be had";
                    Failure::unless_of(range.is_empty() || !self.is_free_run(range), range.start, broken)?;
                }
            },
            Operation::FreeWrongly(pfn) => self.free_wrongly(pfn)?,
            Operation::Drain => {
                self.pages.drain();
            }
            Operation::Fail(_) if self.failed.is_full() => self.unpoison(Pick(0))?,
            Operation::Fail(pfn) => self.fail(pfn)?,
            Operation::Unpoison(pick) => self.unpoison(pick)?,
            Operation::Offline(_) if self.offline.is_full() => self.online(Pick(0))?,
            Operation::Offline(pfn) => self.take_offline(pfn)?,
            Operation::Online(pick) => self.online(pick)?,
        }
        Ok(())
    }

    /// Compares the whole state with what is specified, and has the checker look at every invariant.
    ///
    /// # Errors
    /// The first page where they differ, or the first invariant that is broken.
    pub fn compare(&self) -> Result<(), Failure> {
        self.pages.verify()?;
        self.pages.verify_specified()?;
        let end = self.specification.end().number();
        let is_free = |&pfn: &u32| self.specification.standing(Pfn::new(pfn)) == Standing::Free;
        let free = u32::try_from((0..end).filter(is_free).count()).unwrap_or(u32::MAX);
        Failure::unless_equal(free, self.pages.free_pages(), "pages are free")
    }

    fn take(&mut self, Pick(pick): Pick) -> Option<Block<'a, M>> {
        let index = usize::from(pick).checked_rem(self.held.len())?;
        Some(self.held.swap_remove(index))
    }

    fn kind_of(&self, head: Pfn) -> Option<ZoneKind> {
        let zone = self.pages.zone_around(head)?;
        self.pages.zones().find(|report| report.id == zone).map(|report| report.kind)
    }

    fn hold(&mut self, block: Block<'a, M>, request: Request) -> Result<(), Failure> {
        let head = block.head();
        Failure::unless_of(head.is_aligned(request.order), head, "a block is aligned to its size")?;
        let held = Standing::Held(request.order);
        Failure::unless_of(self.specification.standing(head) == held, head, "what is had is specified to be held")?;
        let kind = self.kind_of(head);
        Failure::unless_of(
            kind.is_some_and(|kind| kind <= request.highest),
            head,
            "a block lies in the zones asked for",
        )?;
        self.held.push(block);
        Ok(())
    }

    fn check_refusal(&self, error: AllocError, request: Request) -> Result<(), Failure> {
        match error {
            AllocError::OrderTooLarge(order) => {
                Failure::unless(order > M::Geometry::MAX_ORDER, "an order that is none too large is served")
            }
            AllocError::Exhausted(_) => match self.could_serve(request) {
                None => Ok(()),
                Some(pfn) => Err(Failure::ExpectedOf { what: "a block that is free can be had", pfn }),
            },
            AllocError::Charge(error) => Err(error.into()),
        }
    }

    /// Whether all of the range is free and of one zone.
    fn is_free_run(&self, range: PfnRange) -> bool {
        let zone = self.pages.zone_around(range.start);
        self.specification.is_free(range) && range.frames().all(|pfn| self.pages.zone_around(pfn) == zone)
    }

    /// A block that would do: free, in one zone, and of more than one page, without a node.
    fn could_serve(&self, request: Request) -> Option<Pfn> {
        if request.order > M::Geometry::MAX_ORDER {
            return None;
        }
        let size = request.order.pages();
        let mut heads = (0..self.specification.end().number()).step_by(size as usize).map(Pfn::new);
        heads.find(|&head| {
            let block = PfnRange::new(head, head.plus(size));
            let is_node = |pfn| self.pages.page_state(pfn).0 == PageState::Node;
            self.is_free_run(block)
                && self.kind_of(head).is_some_and(|kind| kind <= request.highest)
                && (request.order == Order::ZERO || !block.frames().any(is_node))
        })
    }

    fn split(&mut self, pick: Pick) -> Result<(), Failure> {
        let Some(block) = self.take(pick) else { return Ok(()) };
        let order = block.order();
        match block.split() {
            Ok((low, high)) => {
                let alike = low.order().up() == Some(order) && low.range().end == high.head();
                Failure::unless_of(alike, low.head(), "halves are halves, side by side")?;
                // Where there is no room for it, the upper one is freed.
                self.held.push(low);
                let _freed = self.held.try_push(high);
                Ok(())
            }
            Err(page) => {
                Failure::unless_of(order == Order::ZERO, page.head(), "a block of several pages can be halved")?;
                self.held.push(page);
                Ok(())
            }
        }
    }

    fn merge(&mut self, pick: Pick) -> Result<(), Failure> {
        let Some(block) = self.take(pick) else { return Ok(()) };
        let (head, order) = (block.head(), block.order());
        let is_buddy = |other: &Block<'a, M>| other.head() == head.buddy(order);
        let Some(index) = self.held.iter().position(is_buddy) else {
            self.held.push(block);
            return Ok(());
        };
        let other = self.held.swap_remove(index);
        let joins = other.order() == order
            && order < M::Geometry::MAX_ORDER
            && self.pages.zone_around(head) == self.pages.zone_around(other.head());
        match block.merge(other) {
            Ok(whole) => {
                Failure::unless_of(joins && Some(whole.order()) == order.up(), head, "only two halves are joined")?;
                self.held.push(whole);
            }
            Err((block, other)) => {
                Failure::unless_of(!joins, head, "two halves of one zone can be joined")?;
                self.held.extend([block, other]);
            }
        }
        Ok(())
    }

    /// What the block around a frame is.
    fn state_around(&self, pfn: Pfn) -> PageState {
        self.pages.block_of(pfn).map_or(PageState::Hole, |head| self.pages.page_state(head).0)
    }

    fn fail(&mut self, pfn: Pfn) -> Result<(), Failure> {
        let (known, standing, state) =
            (self.failed.contains(&pfn), self.specification.standing(pfn), self.state_around(pfn));
        let failed = self.pages.memory_failure(pfn).map(|failure| failure.outcome);
        let as_expected = match (standing, state) {
            _ if known => failed == Err(FailureError::Known(pfn)),
            (Standing::Free, _) | (_, PageState::Offline) => failed == Ok(FailureOutcome::Recovered),
            (Standing::Held(_), _) => matches!(failed, Ok(FailureOutcome::Delayed | FailureOutcome::Ignored)),
            (Standing::Outside, PageState::Hole) => failed == Err(FailureError::NoMemory(pfn)),
            (Standing::Outside, _) => failed == Ok(FailureOutcome::Ignored),
        };
        Failure::unless_of(as_expected, pfn, "memory that fails is taken out, or marked")?;
        if failed.is_ok() {
            self.failed.push(pfn);
            let held = match standing {
                Standing::Free => Standing::Held(Order::ZERO),
                other => other,
            };
            let still = self.specification.standing(pfn);
            Failure::unless_of(still == held, pfn, "what was free is nobody's to have, and all else is as before")?;
        }
        Ok(())
    }

    fn unpoison(&mut self, Pick(pick): Pick) -> Result<(), Failure> {
        let Some(index) = usize::from(pick).checked_rem(self.failed.len()) else { return Ok(()) };
        let pfn = self.failed.swap_remove(index);
        let taken_in = self.pages.unpoison_memory(pfn);
        Failure::unless_of(taken_in.is_ok(), pfn, "what was said to fail can be taken in")
    }

    fn take_offline(&mut self, pfn: Pfn) -> Result<(), Failure> {
        let section = self.pages.section_of(pfn);
        let is_free = self.is_free_run(section);
        match self.pages.offline_pages(pfn) {
            Ok(section) => {
                let is_out = |pfn| self.specification.standing(pfn) == Standing::Outside;
                Failure::unless_of(section.frames().all(is_out), section.start, "a section goes whole")?;
                self.offline.push(section.start);
                Ok(())
            }
            Err(_) => Failure::unless_of(!is_free, section.start, "a section that is free can go"),
        }
    }

    fn online(&mut self, Pick(pick): Pick) -> Result<(), Failure> {
        let Some(index) = usize::from(pick).checked_rem(self.offline.len()) else { return Ok(()) };
        let start = self.offline.swap_remove(index);
        let section = self.pages.online_pages(start);
        let section =
            section.map_err(|_| Failure::ExpectedOf { what: "what is out of use can come back", pfn: start })?;
        let fails = |pfn| self.failed.contains(&pfn);
        let is_back = |pfn| (self.specification.standing(pfn) == Standing::Free) != fails(pfn);
        Failure::unless_of(section.frames().all(is_back), start, "all that does not fail is free again")
    }

    fn free_wrongly(&self, pfn: Pfn) -> Result<(), Failure> {
        let expected = match (self.specification.standing(pfn), self.specification.head(pfn)) {
            (Standing::Held(_), Some(head)) if head == pfn => return Ok(()),
            (Standing::Held(_), Some(head)) => FreeError::Tail { pfn, head },
            (Standing::Free, _) => FreeError::AlreadyFree(pfn),
            (Standing::Outside | Standing::Held(_), _) => match self.state_around(pfn) {
                PageState::Hole => FreeError::NoMemory(pfn),
                PageState::Offline => FreeError::Offline(pfn),
                _ => FreeError::Reserved(pfn),
            },
        };
        // SAFETY: the frame heads no allocated block, so there is no owner to take it from; that this is found out is what
        // is tested.
        let found = unsafe { self.pages.free_raw(pfn) }.err();
        if found == Some(expected) { Ok(()) } else { Err(Failure::WrongFree { expected, found }) }
    }
}

impl<M: Machine> fmt::Debug for Beside<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Beside({:?})", self.held)
    }
}

pub(super) fn random_operations_are_as_specified_and_so_is_what_they_leave<M: Machine>(
    allocator: &PageAllocator<'_, M>,
    seed: Seed,
) -> Result<(), Failure> {
    let beside = Beside::new(allocator);
    let mut beside = beside.ok_or(Failure::Skipped("the machine has no specification beside it"))?;
    beside.run(seed, STEPS, COMPARE_EVERY)
}

#[cfg(all(test, not(loom)))]
mod tests;
