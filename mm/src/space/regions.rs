//! The regions of a space, by address, in a balanced tree of what they are themselves linked by.
#![expect(unsafe_code, reason = "the tree has references that addresses stand for")]
#![expect(single_use_lifetimes, reason = "the adapter's macro asks for a name")]

use core::ptr::{self, NonNull};

use intrusive_collections::{Bound, KeyAdapter, RBTree, RBTreeAtomicLink, UnsafeRef, intrusive_adapter};

use super::mmu::Mmu;
use super::range::AddressRange;
use super::region::{Region, RegionRef};
use crate::machine::Machine;
use crate::slab::Counted;
use crate::sync::Ordering;
use crate::units::VirtualAddress;

intrusive_adapter!(
    ByAddress<'a, M, U> = UnsafeRef<Region<'a, M, U>>: Region<'a, M, U> { link: RBTreeAtomicLink } where M: Machine, U: Mmu
);

impl<'k, 'a, M: Machine, U: Mmu> KeyAdapter<'k> for ByAddress<'a, M, U> {
    type Key = VirtualAddress;

    fn get_key(&self, region: &'k Region<'a, M, U>) -> VirtualAddress {
        region.range().start()
    }
}

/// Regions that do not overlap.
///
/// # Invariants
/// The tree has a reference to each, for which `Region::kept` stands.
pub(super) struct Regions<'a, M: Machine, U: Mmu>(RBTree<ByAddress<'a, M, U>>);

impl<'a, M: Machine, U: Mmu> Regions<'a, M, U> {
    pub(super) fn new() -> Self {
        Self(RBTree::new(ByAddress::NEW))
    }

    /// The region around an address.
    pub(super) fn find(&self, address: VirtualAddress) -> Option<&Region<'a, M, U>> {
        let region = self.0.upper_bound(Bound::Included(&address)).get()?;
        region.range().contains(address).then_some(region)
    }

    /// The first region with an address in a range.
    pub(super) fn first_in(&self, range: AddressRange) -> Option<&Region<'a, M, U>> {
        let around = self.find(range.start());
        let region = around.or_else(|| self.0.lower_bound(Bound::Included(&range.start())).get())?;
        (!region.range().intersection(range).is_empty()).then_some(region)
    }

    /// Those with an address in a range, in ascending order.
    pub(super) fn overlapping(&self, range: AddressRange) -> impl Iterator<Item = &Region<'a, M, U>> {
        let mut left = range;
        core::iter::from_fn(move || {
            let region = self.first_in(left)?;
            left = AddressRange::new(region.range().end(), left.end());
            Some(region)
        })
    }

    /// All of them, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Region<'a, M, U>> {
        self.0.iter()
    }

    /// Puts a region in, which overlaps with none.
    pub(super) fn insert(&mut self, region: RegionRef<'a, M, U>) {
        let address: *const Region<'a, M, U> = &*region;
        let kept = region.into_raw();
        // SAFETY: the reference that was just given up keeps it until it is taken out.
        let region = unsafe { UnsafeRef::from_raw(address) };
        region.kept.store(kept.as_ptr(), Ordering::Relaxed);
        self.0.insert(region);
    }

    /// Takes the first region out that has an address in a range.
    pub(super) fn take_first(&mut self, range: AddressRange) -> Option<RegionRef<'a, M, U>> {
        let region: *const Region<'a, M, U> = self.first_in(range)?;
        // SAFETY: it was found in this tree.
        let mut cursor = unsafe { self.0.cursor_mut_from_ptr(region) };
        let region = cursor.remove()?;
        let kept = NonNull::new(region.kept.swap(ptr::null_mut(), Ordering::Relaxed))?;
        // SAFETY: the reference was given up when the region was put in, and is taken back once.
        Some(unsafe { Counted::from_raw(kept) })
    }

    /// Moves all regions of another tree, which overlap with none, into this one.
    pub(super) fn append(&mut self, mut other: Self) {
        while let Some(region) = other.take_first(AddressRange::ALL) {
            self.insert(region);
        }
    }
}

impl<M: Machine, U: Mmu> Drop for Regions<'_, M, U> {
    fn drop(&mut self) {
        while self.take_first(AddressRange::ALL).is_some() {}
    }
}
