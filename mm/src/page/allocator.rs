//! The page allocator: zones behind their locks, owned blocks in front.
//!
//! Small blocks come from what the CPU has at hand (`at_hand`), and go back there; all others, and a CPU that has none left
//! or too many, go to a zone (`pcp` draws the way).
//!
//! Locks: one a zone, and whose turn it is to take what all CPUs have at hand (`lock_order`). Descriptor words change only
//! under the lock of the zone that they name, or in the hands of whoever has the block: its owner, or the CPU that has it
//! at hand.
//!
//! Cost: at hand, no lock and no atomic read-modify-write; else one lock, and within it what `buddy` costs. Freeing reads the
//! block's own words to learn zone and order.

use core::sync::atomic::AtomicU32;

use thiserror::Error;

use super::block::{Block, ContigRange};
use super::numa::NumaCounters;
use super::reclaim::Reclaim;
use super::request::Request;
use super::zonelist::Zonelists;
use crate::OwnerKind;
use crate::block::FreeBlock;
use crate::buddy::{Buddy, ContigError};
use crate::charge::{ChargeError, ChargeGroups};
use crate::desc::allocator_word::{AllocatorWord, PageState};
use crate::desc::map::PageMap;
use crate::desc::word::Page;
use crate::descriptor::WalkGate;
use crate::early::MetadataBytes;
use crate::faults::InjectedFault;
use crate::invariant::Violation;
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::{Geometry, Machine};
use crate::pcp::CpuCaches;
use crate::poison;
use crate::specification::Change;
use crate::units::{NodeId, Order, Pfn, PfnRange, ZoneId};
use crate::zone::{Zone, ZoneKind};

/// A zone and what about it never changes.
#[derive(Debug)]
pub(super) struct ZoneCell<G> {
    pub(super) id: ZoneId,
    pub(super) node: NodeId,
    pub(super) kind: ZoneKind,
    pub(super) zone: Mutex<class::Zone, Zone<G>>,
}

/// The page allocator of a machine.
#[derive(Debug)]
pub struct PageAllocator<'m, M: Machine> {
    pub(super) machine: &'m M,
    pub(super) map: PageMap<'m, M::Geometry>,
    /// By node, and within a node the kinds that serve the fewest requests first.
    pub(super) zones: &'m [ZoneCell<M::Geometry>],
    pub(super) zonelists: Zonelists<'m>,
    /// What CPUs have at hand.
    pub(super) cpu_caches: CpuCaches<'m>,
    /// Whose turn it is to take that away from them.
    pub(super) draining: Mutex<class::Draining, ()>,
    pub(super) numa: NumaCounters<'m>,
    pub(super) reclaim: Reclaim<'m>,
    pub(super) groups: ChargeGroups<'m>,
    pub(super) metadata: MetadataBytes,
    /// Who follows owner words without a lock.
    pub(super) gate: WalkGate,
    /// Pages whose memory is known to lie.
    pub(super) hwpoisoned: AtomicU32,
}

/// Why no block was allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AllocError {
    /// The geometry has no blocks that large.
    #[error("no block is as large as {0:?}")]
    OrderTooLarge(Order),
    /// No zone that may serve the request can spare a block of that order.
    #[error("no zone up to {} can spare {:?}", .0.highest.name(), .0.order)]
    Exhausted(Request),
    /// The group that the request names cannot pay.
    #[error(transparent)]
    Charge(#[from] ChargeError),
}

impl AllocError {
    /// Out of line, so that a request need not be kept at hand while it may still be served.
    #[cold]
    #[inline(never)]
    pub(super) const fn exhausted(request: Request) -> Self {
        Self::Exhausted(request)
    }
}

/// Why a block was not freed; the allocator is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FreeError {
    /// The frame is no memory that the allocator knows.
    #[error("{0:?} is no memory")]
    NoMemory(Pfn),
    /// The frame was never the allocator's.
    #[error("{0:?} is reserved")]
    Reserved(Pfn),
    /// The frame is in a section that is out of use.
    #[error("{0:?} is offline")]
    Offline(Pfn),
    /// The frame is free: freed before, or never allocated.
    #[error("{0:?} is free already: a double free, or it was never allocated")]
    AlreadyFree(Pfn),
    /// The frame is inside an allocated block, whose head this is.
    #[error("{pfn:?} is inside the block at {head:?}")]
    Tail {
        /// What was to be freed.
        pfn: Pfn,
        /// What should have been.
        head: Pfn,
    },
    /// The frame heads a block with an owner, who alone frees it.
    #[error("{pfn:?} has an owner ({}), who alone frees it", owner.name())]
    Owned {
        /// What was to be freed.
        pfn: Pfn,
        /// Whose it is.
        owner: OwnerKind,
    },
    /// The frame's descriptor says what no descriptor says.
    #[error("the descriptor of {0:?} is corrupt")]
    Corrupt(Pfn),
}

impl<'m, M: Machine> PageAllocator<'m, M> {
    /// Allocates a block.
    ///
    /// # Errors
    /// The order is none there is, no zone that may serve the request has such a block, or its group cannot pay.
    #[inline(always)]
    pub fn alloc(&self, request: Request) -> Result<Block<'_, M>, AllocError> {
        if self.should_fail_alloc_page(request).is_some() {
            return Err(AllocError::exhausted(request));
        }
        match self.alloc_at_hand(request) {
            Some((page, head)) => Ok(Block::own_found(self, page, head, request.order)),
            None => Ok(Block::own(self, self.alloc_particular(request)?, request.order)),
        }
    }

    /// Allocates a block and returns its bare head: to be given to [`free_raw`](Self::free_raw) or
    /// [`from_raw`](Self::from_raw).
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    #[inline(always)]
    pub fn alloc_raw(&self, request: Request) -> Result<Pfn, AllocError> {
        if self.should_fail_alloc_page(request).is_some() {
            return Err(AllocError::exhausted(request));
        }
        match self.alloc_at_hand(request) {
            Some((_, head)) => Ok(head),
            None => self.alloc_particular(request),
        }
    }

    /// Whether a test wants the request to fail.
    #[inline(always)]
    pub(super) fn should_fail_alloc_page(&self, request: Request) -> Option<InjectedFault> {
        self.machine.injected_faults()?.should_fail_alloc_page(request.order)
    }

    /// Allocates a block that is not at hand, or for a group that pays.
    #[cold]
    #[inline(never)]
    fn alloc_particular(&self, request: Request) -> Result<Pfn, AllocError> {
        if request.order > M::Geometry::MAX_ORDER {
            return Err(AllocError::OrderTooLarge(request.order));
        }
        let head = if request.group.is_root() {
            self.alloc_slowly(request)?
        } else {
            self.alloc_charged(request, || self.alloc_slowly(request))?
        };
        poison::on_alloc(self.machine, PfnRange::new(head, head.plus(request.order.pages())));
        self.changed(Change::Allocated(head, request.order));
        Ok(head)
    }

    /// Frees the block that `pfn` heads. The words say how large it is; anything but the head of an allocated block
    /// is turned away by them alone.
    ///
    /// # Errors
    /// Says what the frame is instead; nothing has changed.
    ///
    /// # Safety
    /// Nobody uses the block's pages any more, and no [`Block`] owns them.
    #[expect(unsafe_code, reason = "the caller vouches for what the words cannot say: that nobody uses the pages")]
    #[inline(always)]
    pub unsafe fn free_raw(&self, pfn: Pfn) -> Result<(), FreeError> {
        match self.map.get(pfn).and_then(|page| self.free_at_hand(page, pfn)) {
            Some(()) => Ok(()),
            None => self.free_raw_slowly(pfn),
        }
    }

    // In one call, so that the short way needs no registers saved for it.
    #[inline(never)]
    fn free_raw_slowly(&self, pfn: Pfn) -> Result<(), FreeError> {
        match self.free_at_hand_slowly(pfn) {
            Some(()) => Ok(()),
            None => self.free_elsewhere(pfn).map_err(|word| self.why_not_allocated(pfn, word)),
        }
    }

    /// Takes ownership of the block that `pfn` heads.
    ///
    /// # Errors
    /// Says what the frame is instead.
    ///
    /// # Safety
    /// The caller owns the block: it comes from [`alloc_raw`](Self::alloc_raw) or [`Block::into_raw`].
    #[expect(unsafe_code, reason = "the caller vouches for being the only owner")]
    pub unsafe fn from_raw(&self, pfn: Pfn) -> Result<Block<'_, M>, FreeError> {
        let page = self.map.get(pfn).ok_or(FreeError::NoMemory(pfn))?;
        let word = page.word();
        if word.is(PageState::Allocated) && word.is_intact() && !page.owner().is_owned() {
            return Ok(Block::own(self, pfn, word.order()));
        }
        Err(self.why_not_allocated(pfn, word))
    }

    /// Allocates exactly these frames, if all of them are free.
    ///
    /// # Errors
    /// Names the first frame that stands in the way; the range is as free as before.
    pub fn alloc_contig(&self, range: PfnRange) -> Result<ContigRange<'_, M>, ContigError> {
        let head = self.map.head_of(range.start).ok_or(ContigError::NotManaged(range.start))?;
        let word = self.map.page(head).word();
        if matches!(
            word.state(),
            Some(PageState::Hole | PageState::Reserved | PageState::Tail | PageState::Offline) | None
        ) {
            return Err(ContigError::NotManaged(range.start));
        }
        let cell = self.zones.get(word.zone().index()).ok_or(ContigError::NotManaged(range.start))?;
        match self.with_buddy(cell, |buddy| buddy.alloc_range(range)) {
            // What is in use may only be at hand of a CPU.
            Err(error @ ContigError::InUse(_)) => self
                .with_all_drained(|interrupts| {
                    self.with_buddy_undisturbed(interrupts, cell, |buddy| buddy.alloc_range(range))
                })
                .unwrap_or(Err(error))?,
            result => result?,
        }
        Ok(self.own_contig(range))
    }

    /// Allocates a run of `pages` frames that starts at a multiple of `align`, anywhere in the zones up to `highest`.
    /// Cost: a pass over the descriptors of the blocks before it.
    ///
    /// # Errors
    /// There is no such run.
    pub fn alloc_contig_aligned(
        &self,
        pages: u32,
        align: Order,
        highest: ZoneKind,
    ) -> Result<ContigRange<'_, M>, ContigError> {
        if pages == 0 {
            return Err(ContigError::Empty);
        }
        let find = |interrupts: &M::InterruptGuard<'_>| {
            self.zones.iter().filter(|cell| cell.kind <= highest).find_map(|cell| {
                self.with_buddy_undisturbed(interrupts, cell, |buddy| {
                    let range = buddy.find_range(pages, align)?;
                    buddy.alloc_range(range).is_ok().then_some(range)
                })
            })
        };
        let range = find(&self.machine.disable_interrupts());
        let range = range.or_else(|| self.with_all_drained(find)?);
        range.map(|range| self.own_contig(range)).ok_or(ContigError::NoSuchRun)
    }

    /// The range was just allocated, and was free before.
    fn own_contig(&self, range: PfnRange) -> ContigRange<'_, M> {
        poison::on_alloc(self.machine, range);
        ContigRange::own(self, range)
    }

    /// Checks every invariant of every zone, and of what CPUs have at hand, which they cannot use meanwhile. Not for handlers.
    /// Cost: a pass over all descriptors, with each zone's lock held in turn.
    ///
    /// # Errors
    /// The first violation found.
    pub fn verify(&self) -> Result<(), Violation> {
        let verified = self.with_all_closed(|interrupts, closed| {
            self.zones.iter().try_for_each(|cell| {
                let cached = self.verify_at_hand(closed, cell)?;
                self.with_buddy_undisturbed(interrupts, cell, |buddy| buddy.verify(cached))
            })
        });
        verified.unwrap_or(Ok(()))
    }

    /// What a page is, and the order of the block it heads, as of now. Holes have no state of their own.
    pub fn page_state(&self, pfn: Pfn) -> (PageState, Order) {
        let word = self.map.get(pfn).map_or(AllocatorWord::HOLE, Page::word);
        (word.state().unwrap_or(PageState::Hole), word.order())
    }

    /// The head of the block around `pfn`, whatever its state; `None` where there is no memory.
    pub fn block_of(&self, pfn: Pfn) -> Option<Pfn> {
        self.map.head_of(pfn).filter(|&head| !self.map.page(head).word().is(PageState::Hole))
    }

    /// The machine this allocates the memory of.
    pub const fn machine(&self) -> &'m M {
        self.machine
    }

    /// Memory spent on descriptors and tables.
    pub const fn metadata(&self) -> MetadataBytes {
        self.metadata
    }

    /// Runs one operation on a zone, with its lock held and interrupts off.
    #[inline(always)]
    pub(super) fn with_buddy<R>(
        &self,
        cell: &ZoneCell<M::Geometry>,
        operation: impl FnOnce(&mut Buddy<'_, 'm, M>) -> R,
    ) -> R {
        let interrupts = self.machine.disable_interrupts();
        self.with_buddy_undisturbed(&interrupts, cell, operation)
    }

    /// The same, where interrupts are off already.
    #[inline(always)]
    pub(super) fn with_buddy_undisturbed<R>(
        &self,
        _interrupts_off: &M::InterruptGuard<'_>,
        cell: &ZoneCell<M::Geometry>,
        operation: impl FnOnce(&mut Buddy<'_, 'm, M>) -> R,
    ) -> R {
        let mut zone = cell.zone.lock(self.machine);
        zone.acquisitions += 1;
        operation(&mut Buddy::new(self.machine, &self.map, &mut zone))
    }

    /// Frees a block that is charged, of which the like are not kept at hand, or that is none: what is not the head of an
    /// allocated block comes back as the word that says so.
    #[cold]
    #[inline(never)]
    fn free_elsewhere(&self, pfn: Pfn) -> Result<(), AllocatorWord> {
        match self.uncharge(pfn).and_then(|()| self.free_at_hand_slowly(pfn)) {
            Some(()) => Ok(()),
            None => self.free_to_zone(pfn),
        }
    }

    /// Frees a block to its zone. In one place, so that it is inlined into nothing and all of it into this.
    #[inline(never)]
    fn free_to_zone(&self, pfn: Pfn) -> Result<(), AllocatorWord> {
        let section = self.map.section(pfn).ok_or(AllocatorWord::HOLE)?;
        let page = section.page(pfn);
        // The zone of an allocated block's head never changes; if this heads none, some lock is as good as another.
        let word = page.word();
        let zone = word.zone();
        let cell = self.zones.get(zone.index()).ok_or(word)?;
        self.with_buddy(cell, |buddy| {
            let word = page.word();
            if page.owner().is_owned() || !word.is_sound_in(zone) || !word.is_intact() {
                return self.free_unsound(buddy, pfn);
            }
            self.changed(Change::Freed(pfn, word.order()));
            poison::on_free(self.machine, PfnRange::new(pfn, pfn.plus(word.order().pages())));
            buddy.free(section, FreeBlock::claim(pfn, word.order()), word.when_freed());
            Ok(())
        })
    }

    #[cold]
    fn why_not_allocated(&self, pfn: Pfn, word: AllocatorWord) -> FreeError {
        if !word.is_intact() {
            return FreeError::Corrupt(pfn);
        }
        match word.state() {
            Some(PageState::Hole) => FreeError::NoMemory(pfn),
            Some(PageState::Reserved) => FreeError::Reserved(pfn),
            Some(PageState::Offline) => FreeError::Offline(pfn),
            Some(PageState::Free | PageState::Node | PageState::Isolated | PageState::Cached) => {
                FreeError::AlreadyFree(pfn)
            }
            Some(PageState::Tail) => match self.map.head_of(pfn) {
                Some(head) if self.map.page(head).word().is(PageState::Allocated) => FreeError::Tail { pfn, head },
                Some(head) if self.map.page(head).word().is(PageState::Offline) => FreeError::Offline(pfn),
                Some(_) => FreeError::AlreadyFree(pfn),
                None => FreeError::Corrupt(pfn),
            },
            Some(PageState::Allocated) => match self.map.page(pfn).owner().kind() {
                Some(OwnerKind::Plain) | None => FreeError::Corrupt(pfn),
                Some(owner) => FreeError::Owned { pfn, owner },
            },
            None => FreeError::Corrupt(pfn),
        }
    }

    /// Frees a block that its owner gives up, and that cannot simply be put at hand.
    #[inline(never)]
    pub(super) fn free_owned_slowly(&self, head: Pfn) {
        if self.free_at_hand_slowly(head).is_none()
            && let Err(word) = self.free_elsewhere(head)
        {
            self.panic_not_freed(head, word);
        }
    }

    #[cold]
    #[inline(never)]
    fn panic_not_freed(&self, head: Pfn, word: AllocatorWord) -> ! {
        let error = self.why_not_allocated(head, word);
        panic!("invariant DESC-1 broken: an owned block cannot be freed: {error}");
    }

    /// The order of an allocated block.
    pub(super) fn allocated_order(&self, head: Pfn) -> Option<Order> {
        let word = self.map.get(head)?.word();
        (word.is(PageState::Allocated) && word.is_intact()).then(|| word.order())
    }
}
