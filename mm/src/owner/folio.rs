//! What a folio keeps: where it stands in which memory object, in what state its contents are, who maps it, who pins it.
//!
//! Its references are its descriptor's, its size and pages the block's; so one descriptor of 64 bytes serves a folio of
//! any order. Nothing here knows what a memory object is: a later layer's pointer is kept, and looked at by that alone.
//!
//! Invariants: FOLIO-1 (the object and the index change only under the folio's lock and the object's), MAP-1.
//!
//! Source: M. Wilcox, "Memory folios", Linux 5.16.

#![expect(unsafe_code, reason = "goes from a folio to its descriptor and back")]

#[cfg(all(test, loom))]
pub(crate) mod loom;

use core::ptr::NonNull;

use bitflags::bitflags;
use intrusive_collections::{LinkedListAtomicLink, UnsafeRef};

use super::mapcount::{Edge, MapCount, Mappings, TooManyMappings};
use super::owners::Owners;
use super::reference::Shared;
use crate::descriptor::Descriptor;
use crate::machine::Machine;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::units::{Count, PageIndex, SpaceId};

bitflags! {
    /// The state of a folio's contents.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FolioFlags: u32 {
        /// Somebody holds the folio's lock.
        const LOCKED = 1;
        /// The contents are the memory object's.
        const UPTODATE = 1 << 1;
        /// The contents are newer than the store's.
        const DIRTY = 1 << 2;
        /// The contents are being written to the store.
        const WRITEBACK = 1 << 3;
        /// Used since it was last looked at.
        const REFERENCED = 1 << 4;
        /// Of the generation that is used again and again.
        const ACTIVE = 1 << 5;
        /// The kind of zone that it is listed under, as a number.
        const KIND = 3 << 6;
    }
}

/// A folio. Its references are its descriptor's.
#[derive(Debug)]
pub struct Folio {
    flags: AtomicU32,
    pins: AtomicU32,
    mapcount: MapCount,
    mapping: AtomicPtr<()>,
    index: AtomicU64,
    pub(crate) lru: LinkedListAtomicLink,
}

// A cache line for the whole descriptor.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Descriptor<Folio>>() == 64);

/// A reference to a folio.
pub type FolioRef<'a, M> = Shared<'a, M, Folio>;

impl Default for Folio {
    fn default() -> Self {
        Self::new()
    }
}

impl Folio {
    /// A folio of no memory object, whose contents are nobody's yet.
    pub fn new() -> Self {
        Self {
            flags: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            mapcount: MapCount::new(),
            mapping: AtomicPtr::new(core::ptr::null_mut()),
            index: AtomicU64::new(0),
            lru: LinkedListAtomicLink::new(),
        }
    }

    /// What is to describe a part of this folio, `pages` behind its start, once it is one of its own: the state of the
    /// contents is the same, and it is locked if this is.
    pub(crate) fn part(&self, pages: u32) -> Self {
        let (mapping, index) = self.place();
        let part = Self::new();
        part.flags.store(self.flags().bits(), Ordering::Relaxed);
        part.mapping.store(mapping, Ordering::Relaxed);
        part.index.store(index.plus(u64::from(pages)).0, Ordering::Relaxed);
        part
    }

    /// Takes in the state of a folio that is to be a part of this one: the contents are the memory object's if both are,
    /// and otherwise the whole is what either is.
    pub(crate) fn absorb(&self, part: &Self) {
        let flags = part.flags();
        self.clear(FolioFlags::UPTODATE - flags);
        self.set(flags - FolioFlags::UPTODATE);
    }

    /// The state.
    pub fn flags(&self) -> FolioFlags {
        // Acquire pairs with the release in `set`: who sees contents called whole sees them so.
        FolioFlags::from_bits_retain(self.flags.load(Ordering::Acquire))
    }

    /// Sets flags. Says what was set before.
    pub(crate) fn set(&self, flags: FolioFlags) -> FolioFlags {
        FolioFlags::from_bits_retain(self.flags.fetch_or(flags.bits(), Ordering::AcqRel))
    }

    /// Clears flags. Says what was set before.
    pub(crate) fn clear(&self, flags: FolioFlags) -> FolioFlags {
        FolioFlags::from_bits_retain(self.flags.fetch_and(!flags.bits(), Ordering::AcqRel))
    }

    /// How it is mapped.
    pub fn mappings(&self) -> Mappings {
        self.mapcount.get()
    }

    /// Pins that hold its pages where they are.
    pub fn pins(&self) -> Count {
        Count(self.pins.load(Ordering::Relaxed))
    }

    /// The memory object that it stands in, and where. Stable under its lock.
    pub(crate) fn place(&self) -> (*mut (), PageIndex) {
        // Acquire pairs with the release in `set_place`.
        let mapping = self.mapping.load(Ordering::Acquire);
        (mapping, PageIndex(self.index.load(Ordering::Relaxed)))
    }

    /// The place within the memory object.
    pub fn index(&self) -> PageIndex {
        self.place().1
    }

    /// Puts the folio into a memory object, or into none. FOLIO-1: the caller holds both locks.
    pub(crate) fn set_place(&self, mapping: *mut (), index: PageIndex) {
        self.index.store(index.0, Ordering::Relaxed);
        self.mapping.store(mapping, Ordering::Release);
    }
}

impl<'a, M: Machine> Shared<'a, M, Folio> {
    /// The folio as an element of a list.
    ///
    /// # Safety
    /// Whoever lists it sees to it that the folio stays one as long as it is on the list.
    pub(crate) unsafe fn linked(&self) -> UnsafeRef<Folio> {
        let folio = Descriptor::place_of_owner(self.descriptor());
        // SAFETY: the caller's promise.
        unsafe { UnsafeRef::from_raw(folio.as_ptr()) }
    }

    /// Takes a reference to a folio that is on a list, unless it is frozen.
    ///
    /// # Safety
    /// The address was [linked](Self::linked) by a reference of these owners, and is still listed.
    pub(crate) unsafe fn find_linked(owners: &'a Owners<'a, M>, folio: *const Folio) -> Option<Self> {
        let folio = NonNull::new(folio.cast_mut())?;
        // SAFETY: the address was made of a descriptor's.
        let descriptor = unsafe { Descriptor::around(folio) };
        // SAFETY: who is on a list is in a descriptor.
        unsafe { Self::find(owners, descriptor) }
    }

    /// Counts page-table entries of a space that lead to the folio, each base page for one. The first ones take a
    /// reference for all.
    ///
    /// # Errors
    /// There are as many as can be counted.
    pub(crate) fn add_mappings(&self, space: SpaceId, entries: Count) -> Result<(), TooManyMappings> {
        if self.mapcount.add(space, entries)? == Edge::Crossed {
            self.keep();
        }
        Ok(())
    }

    /// Takes entries away that were counted. The last ones give up the reference.
    pub(crate) fn remove_mappings(&self, space: SpaceId, entries: Count) {
        if self.mapcount.remove(space, entries) == Edge::Crossed {
            self.give_up();
        }
    }
}

/// A folio whose pages stay where they are as long as this lives. Linux's `FOLL_PIN`.
#[derive(Debug)]
#[must_use = "the folio is unpinned when this drops"]
pub struct PinnedFolio<'a, M: Machine>(FolioRef<'a, M>);

impl<'a, M: Machine> PinnedFolio<'a, M> {
    /// Pins a folio.
    pub fn new(folio: FolioRef<'a, M>) -> Self {
        folio.pins.fetch_add(1, Ordering::Relaxed);
        Self(folio)
    }

    /// The folio.
    pub const fn folio(&self) -> &FolioRef<'a, M> {
        &self.0
    }
}

impl<M: Machine> Drop for PinnedFolio<'_, M> {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::Relaxed);
    }
}
