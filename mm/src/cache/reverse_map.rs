//! Who may map a folio: a list of regions for each family of mappings.
//!
//! A mapping and the shadows in front of it share a family, since a region that sees the youngest shadow may map folios
//! of all behind it. Nobody keeps track of which does: whoever asks goes through the family's regions, each of which
//! knows at once whether it has an entry that leads to the folio, until no entry is left.
//!
//! Invariants: MAP-1 (the folio's mapcount is the sum of its entries in the regions of its family and, for a file's, of
//! those behind which the file stands).
//! Source: Linux's `anon_vma` and `i_mmap`.
#![expect(unsafe_code, reason = "lists regions that their spaces keep")]

use core::fmt;
use core::marker::PhantomPinned;
use core::mem::transmute;
use core::ptr::NonNull;

use intrusive_collections::{LinkedList, LinkedListAtomicLink, UnsafeRef, intrusive_adapter};

use crate::folio::LockedFolio;
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::owner::FolioRef;
use crate::units::Pfn;

/// What stays where an entry was taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// Nothing: who needs the page faults it in again.
    Nothing,
    /// A note that the page is being moved, to be [put back](MapsFolios::put_back).
    Moving,
}

/// Whether the processor has used a page since that was last asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accessed {
    /// It has.
    Yes,
    /// It has not.
    No,
}

/// A part of an address space in which pages of a family may be mapped. All of it is done under the family's lock, and
/// takes no lock but that of the space's tables.
pub trait MapsFolios<M: Machine>: Send + Sync {
    /// Takes away every entry that leads to a page of the folio.
    fn unmap(&self, folio: &LockedFolio<'_, M>, leave: Leave);

    /// Turns every note that says one of the folio's pages was moved away from the block at `old` into an entry that
    /// leads to the page where it is now.
    fn put_back(&self, folio: &FolioRef<'_, M>, old: Pfn);

    /// Takes away the right to write through every entry that leads to a page of the folio.
    fn write_protect(&self, folio: &LockedFolio<'_, M>);

    /// Whether a page of the folio was used through an entry here, and forgets it.
    fn take_accessed(&self, folio: &LockedFolio<'_, M>) -> Accessed;
}

/// A region's place in a family's list: a part of the region, which must not move while it is listed.
pub struct Listed<M: Machine> {
    link: LinkedListAtomicLink,
    region: Mutex<class::Listed, Option<NonNull<dyn MapsFolios<M>>>>,
    /// Until it is off the list whoever goes through that looks at it.
    _looked_at: PhantomPinned,
}

// SAFETY: the region is `Sync`, and looked at only while it is listed.
unsafe impl<M: Machine> Send for Listed<M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Sync for Listed<M> {}

intrusive_adapter!(InFamily<M> = UnsafeRef<Listed<M>>: Listed<M> { link: LinkedListAtomicLink } where M: Machine);

impl<M: Machine> Default for Listed<M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Listed<M> {
    /// In no list.
    pub const fn new() -> Self {
        Self { link: LinkedListAtomicLink::new(), region: Mutex::new(None), _looked_at: PhantomPinned }
    }
}

impl<M: Machine> fmt::Debug for Listed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listed({})", self.link.is_linked())
    }
}

/// The regions that may map folios of a mapping and its shadows.
pub struct Family<M: Machine> {
    regions: Mutex<class::Family, LinkedList<InFamily<M>>>,
}

// SAFETY: the list links regions that are `Sync`, under its lock.
unsafe impl<M: Machine> Send for Family<M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Sync for Family<M> {}

impl<M: Machine> Family<M> {
    pub(super) fn new() -> Self {
        Self { regions: Mutex::new(LinkedList::new(InFamily::NEW)) }
    }

    /// Lists a region.
    ///
    /// # Safety
    /// `place` is a part of what `region` is or belongs to, is in no list, and neither moves nor goes before it is taken
    /// [off](Self::unlist).
    pub(crate) unsafe fn list<'r>(&self, machine: &M, place: &Listed<M>, region: NonNull<dyn MapsFolios<M> + 'r>) {
        // SAFETY: only the lifetime changes, and nobody looks once the region is off the list.
        let region = unsafe { transmute::<NonNull<dyn MapsFolios<M> + 'r>, NonNull<dyn MapsFolios<M>>>(region) };
        *place.region.lock(machine) = Some(region);
        // SAFETY: the caller's promise.
        let place = unsafe { UnsafeRef::from_raw(place) };
        self.regions.lock(machine).push_back(place);
    }

    /// Takes a region off the list, if it is on it.
    ///
    /// # Safety
    /// If the place is in a list, it is in this one.
    pub(crate) unsafe fn unlist(&self, machine: &M, place: &Listed<M>) {
        let mut regions = self.regions.lock(machine);
        if place.link.is_linked() {
            // SAFETY: the caller's promise.
            let mut cursor = unsafe { regions.cursor_mut_from_ptr(place) };
            cursor.remove();
        }
    }

    /// Shows the regions, one after the other, until `visit` has seen enough.
    fn each(&self, machine: &M, mut visit: impl FnMut(&dyn MapsFolios<M>) -> Go) {
        let regions = self.regions.lock(machine);
        for place in regions.iter() {
            let Some(region) = *place.region.lock(machine) else { continue };
            // SAFETY: a region is there as long as it is listed, and the list is locked.
            if visit(unsafe { region.as_ref() }) == Go::NoFurther {
                return;
            }
        }
    }

    /// Takes away every entry that leads to the folio.
    pub(crate) fn unmap(&self, folio: &LockedFolio<'_, M>, leave: Leave) {
        self.each_mapping(folio, |region| region.unmap(folio, leave));
    }

    /// Takes away the right to write through any entry.
    pub(super) fn write_protect(&self, folio: &LockedFolio<'_, M>) {
        self.each_mapping(folio, |region| region.write_protect(folio));
    }

    /// Whether the folio was used through any entry, and forgets it.
    pub(super) fn take_accessed(&self, folio: &LockedFolio<'_, M>) -> Accessed {
        let mut accessed = Accessed::No;
        self.each_mapping(folio, |region| {
            if region.take_accessed(folio) == Accessed::Yes {
                accessed = Accessed::Yes;
            }
        });
        accessed
    }

    /// Lets entries lead to where the folio is now, of those that led to the block at `old`.
    pub(crate) fn put_back(&self, folio: &FolioRef<'_, M>, old: Pfn) {
        self.each(folio.owners().machine(), |region| {
            region.put_back(folio, old);
            Go::On
        });
    }

    /// Shows the regions as long as entries lead to the folio.
    fn each_mapping(&self, folio: &LockedFolio<'_, M>, mut visit: impl FnMut(&dyn MapsFolios<M>)) {
        if folio.mappings().entries.0 == 0 {
            return;
        }
        self.each(folio.owners().machine(), |region| {
            visit(region);
            if folio.mappings().entries.0 == 0 { Go::NoFurther } else { Go::On }
        });
    }
}

/// Whether to look at the next region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Go {
    On,
    NoFurther,
}

impl<M: Machine> fmt::Debug for Family<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").finish_non_exhaustive()
    }
}
