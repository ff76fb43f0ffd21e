//! Slabs come and go: a descriptor first, then pages, then the two are made known to each other; back in the opposite
//! order.
//!
//! The descriptor of a slab is an object of the cache of slabs' descriptors. A slab *of that cache* would need one of
//! itself before it has any, so such a slab describes itself: its first object is its own descriptor. There is no other
//! special case, at boot or later.
#![expect(unsafe_code, reason = "makes objects out of a block's bare memory, and back")]

use core::ptr::NonNull;

use super::cache::{Cache, Stability, mark, mark_of};
use super::caches::{KmemCaches, NoMemory};
use super::cpu::Slot;
use super::descriptor::{Slab, SlabPointer};
use super::lists::{SlabList, Slabs};
use super::refill::Patience;
use crate::OwnerKind;
use crate::PageState;
use crate::desc::owner_word::OwnerWord;
use crate::desc::word::Page;
use crate::descriptor::{Described, Descriptor, Put};
use crate::machine::Machine;
use crate::page::{AllocError, Block, PageAllocator, Request};
use crate::undo::Undo;
use crate::units::{Pfn, PfnRange};

/// The slot in which a slab that describes itself has its descriptor.
const OWN_SLOT: u32 = 0;

/// Empty slabs that a cache keeps when others are given back, so that one object more or less does not cost a slab.
pub(super) const KEPT_EMPTY: u32 = 2;

impl<M: Machine> KmemCaches<'_, M> {
    /// Gives a cache one more slab.
    pub(super) fn grow(&self, cache: &Cache, patience: Patience) -> Result<(), NoMemory> {
        let place = NonNull::from(cache);
        if place == self.first.slabs {
            let block = self.slab_block(cache, patience)?;
            let first = self.construct_all(cache, block.head());
            let head = block.into_raw();
            cache.fence_allocated(self.pages.machine(), first);
            // SAFETY: the block was just cut into unborn descriptors, and this is the first of them.
            let slab = unsafe { self.describe(cache, head, cache.object(first).cast(), first) };
            self.with_slabs(cache, |slabs| slabs.add(slab, &cache.layout));
            return Ok(());
        }
        let descriptor = self.alloc_for(self.first.slabs, patience)?;
        let unused = Undo::new(|| self.free_for(self.first.slabs, descriptor));
        let block = self.slab_block(cache, patience)?;
        let first = self.construct_all(cache, block.head());
        let head = block.into_raw();
        unused.forget();
        // SAFETY: the descriptor was just allocated from the cache of slabs' descriptors.
        let slab = unsafe { self.describe(cache, head, descriptor.cast(), first) };
        self.with_slabs(cache, |slabs| slabs.add(slab, &cache.layout));
        Ok(())
    }

    fn slab_block(&self, cache: &Cache, patience: Patience) -> Result<Block<'_, M>, NoMemory> {
        let request = match patience {
            Patience::Waits => cache.request,
            Patience::Never => cache.request.nowait(),
        };
        alloc_slab_block(self.pages, request).map_err(|_| NoMemory)
    }

    /// Makes a fresh block the objects of a cache, and gives the first slot.
    pub(super) fn construct_all(&self, cache: &Cache, head: Pfn) -> Slot {
        let layout = &cache.layout;
        let machine = self.pages.machine();
        let start = machine.direct_map(head);
        if let Some(watch) = &cache.watch {
            self.surround_all(cache, watch, head);
        }
        // SAFETY: the block, which the caller has just allocated, starts with that much in front of an object.
        let first = cache.slot(unsafe { start.add(layout.front as usize) });
        for slot in 0..layout.objects {
            // SAFETY: the slots lie in the block, which the caller has just allocated.
            let slot = unsafe { first.add((slot * layout.stride) as usize) };
            cache.construct(slot);
            // Nobody has it, so nobody may free it. Of a debugged one that stands elsewhere already.
            if cache.watch.is_none() {
                mark(machine, slot);
                cache.fence_free(machine, slot);
            }
        }
        first
    }

    /// Makes a block a slab of a cache, described at `descriptor`, and makes that known in every page of it.
    ///
    /// # Safety
    /// The block is the caller's and cut into the cache's objects, from `first` on; the descriptor is unborn or dead,
    /// and the caller's.
    pub(super) unsafe fn describe(
        &self,
        cache: &Cache,
        head: Pfn,
        descriptor: SlabPointer,
        first: Slot,
    ) -> SlabPointer {
        let slab = Slab::new(cache, first);
        cache.fence_end(self.pages.machine(), first);
        if descriptor.cast() == cache.object(first) {
            // SAFETY: nobody knows the slab yet.
            unsafe { slab.state() }.take_slot(OWN_SLOT);
        }
        let order = cache.layout.order;
        // SAFETY: the caller's promise: it is made.
        let described = unsafe { descriptor.as_ref() };
        // SAFETY: the caller's promise: it is not alive.
        unsafe { described.begin(head, order, self.keeper, slab) };
        // INVARIANT: DESC-1, the descriptor names the block before any page names it.
        self.pages.set_owner(block(head, &cache.layout), OwnerWord::described(OwnerKind::Slab, descriptor));
        descriptor
    }

    /// Gives back slabs that are empty and on no list of their cache any more.
    pub(super) fn discard(&self, slabs: SlabList) -> u32 {
        self.give_up(self.unname(slabs))
    }

    /// Has no page lead to these slabs any more, which are empty and on no list of their cache.
    pub(super) fn unname(&self, mut slabs: SlabList) -> SlabList {
        let mut unnamed = SlabList::new();
        while let Some(slab) = slabs.pop() {
            // SAFETY: the slab has its cache's reference until that is given up.
            let Some(described) = unsafe { slab.as_ref() }.life().look() else { continue };
            self.check_names(slab, described);
            self.pages.set_owner(described.range(), OwnerWord::PLAIN);
            unnamed.push(slab);
        }
        unnamed
    }

    /// Has the pages of such a slab lead to it again.
    pub(super) fn name(&self, slab: SlabPointer) {
        // SAFETY: the slab has its cache's reference.
        if let Some(described) = unsafe { slab.as_ref() }.life().look() {
            self.pages.set_owner(described.range(), OwnerWord::described(OwnerKind::Slab, slab));
        }
    }

    /// Gives back slabs to which no page leads any more.
    pub(super) fn give_up(&self, mut slabs: SlabList) -> u32 {
        let mut pages = 0;
        while let Some(slab) = slabs.pop() {
            // SAFETY: the slab has its cache's reference until that is given up.
            let descriptor = unsafe { slab.as_ref() };
            // INVARIANT: DESC-1, no page names a descriptor that is about to die.
            let Some(described) = descriptor.life().look() else { continue };
            pages += described.order.pages();
            if descriptor.life().put() == Put::Last {
                self.bury(slab, described.range());
            }
        }
        pages
    }

    /// DESC-1: the block that a descriptor names, from its first page to its last, names it. Nothing is given back that does not.
    pub(super) fn check_names(&self, slab: SlabPointer, described: Described) {
        let range = described.range();
        let names = |pfn| self.pages.page(pfn).map(Page::owner) == Some(OwnerWord::described(OwnerKind::Slab, slab));
        let last = range.end.number().checked_sub(1).map(Pfn::new);
        let agree = self.pages.page_state(range.start) == (PageState::Allocated, described.order);
        assert!(
            agree && names(range.start) && last.is_some_and(names),
            "invariant DESC-1 broken: the slab at {slab:p} and the block at {:?} do not name each other",
            range.start
        );
    }

    /// Frees the pages and the descriptor of a slab to which nobody refers any more.
    pub(crate) fn bury(&self, slab: NonNull<Descriptor<Slab>>, pages: PfnRange) {
        // SAFETY: the memory of descriptors stays, and this one is in nobody else's hands.
        let descriptor = unsafe { slab.as_ref() };
        // SAFETY: whoever gave up the last reference calls this, once.
        unsafe { descriptor.take() };
        // The cache may be gone: who refers to a slab does not keep it.
        let described_in = Pfn::containing(self.pages.machine().physical(slab.cast()));
        let describes_itself = described_in.is_some_and(|pfn| pages.contains(pfn));
        // SAFETY: the slab was empty, so nobody has anything in its pages.
        let freed = unsafe { self.pages.free_raw(pages.start) };
        if let Err(error) = freed {
            panic!("invariant DESC-1 broken: a slab's block cannot be freed: {error}");
        }
        if !describes_itself {
            self.free_for(self.first.slabs, slab.cast());
        }
    }
}

impl Slabs {
    /// Takes the empty slabs that are too many off their list.
    pub(super) fn take_surplus(&mut self, stability: Stability, discarded: &mut SlabList) {
        if stability == Stability::Ordinary {
            self.take_empty(KEPT_EMPTY, discarded);
        }
    }
}

/// A block for a slab. None starts where the lower half of an address is zero: what marks a free object there many owners store.
pub(super) fn alloc_slab_block<'a, M: Machine>(
    pages: &'a PageAllocator<'_, M>,
    request: Request,
) -> Result<Block<'a, M>, AllocError> {
    let block = pages.alloc(request)?;
    if mark_of(pages.machine().direct_map(block.head())) != 0 {
        return Ok(block);
    }
    // The first one goes back behind this.
    pages.alloc(request)
}

fn block(head: Pfn, layout: &super::layout::SlabLayout) -> PfnRange {
    PfnRange::new(head, head.plus(layout.order.pages()))
}
