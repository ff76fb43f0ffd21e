//! The checker: every slab of every cache, and the pages that name it.
#![expect(unsafe_code, reason = "looks at slabs on their lists")]

use super::cache::Cache;
use super::caches::KmemCaches;
use super::descriptor::SlabPointer;
use super::lists::{Place, Slabs};
use crate::OwnerKind;
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;

impl<M: Machine> KmemCaches<'_, M> {
    /// Checks SLAB-2, SLAB-3 and DESC-1 of every slab, and SLAB-4 of those that are debugged; the machine is told who
    /// broke that. Cost: a pass over all slabs, with each cache's lock held in turn.
    ///
    /// # Errors
    /// The first violation found.
    pub fn verify(&self) -> Result<(), Violation> {
        self.try_for_each_cache(|cache| {
            self.with_slabs(cache, |slabs| self.verify_cache(cache, slabs))?;
            self.validate_cache(cache).map_err(|found| Violation::of(Invariant::Slab4, None, found.part.name()))
        })
    }

    fn verify_cache(&self, cache: &Cache, slabs: &mut Slabs) -> Result<(), Violation> {
        let mut taken = 0;
        for place in Place::ALL {
            let mut found = 0;
            let mut next = slabs.list(place).iter().next();
            while let Some(slab) = next {
                taken += self.verify_slab(cache, slabs, place, slab)?;
                found += 1;
                next = slabs.behind(slab);
            }
            if found != slabs.count_of(place) {
                return Err(Violation::of(Invariant::Slab3, None, "a list of slabs is not as long as it says"));
            }
        }
        if taken != slabs.taken_with_own() {
            return Err(Violation::of(Invariant::Slab2, None, "a cache's count of objects is not its slabs'"));
        }
        Ok(())
    }

    /// Checks one slab and gives its objects that are taken.
    fn verify_slab(&self, cache: &Cache, slabs: &mut Slabs, place: Place, slab: SlabPointer) -> Result<u32, Violation> {
        // SAFETY: the slab is on a list of this cache, whose lock is held.
        let descriptor = unsafe { slab.as_ref() };
        let described = descriptor.life().look();
        let described = described.ok_or(Violation::of(Invariant::Desc1, None, "a slab's descriptor is dead"))?;
        let broken = |invariant, what| Violation::of(invariant, Some(described.head), what);
        // SAFETY: as above, so it has a reference.
        let owner = unsafe { descriptor.owner() };
        if !core::ptr::eq(owner.cache().as_ptr(), cache) {
            return Err(broken(Invariant::Slab3, "a slab is on the list of another cache"));
        }
        let counts = slabs.counts(slab);
        if counts.taken + counts.in_slab != cache.layout.objects {
            return Err(broken(Invariant::Slab2, "a slab's count is not what its bitmap says"));
        }
        if slabs.place(counts.taken, &cache.layout) != place {
            return Err(broken(Invariant::Slab3, "a slab is on the list of another place"));
        }
        let names_slab = |pfn| {
            let owner = self.pages.page(pfn).map(crate::desc::word::Page::owner);
            owner.and_then(|owner| owner.descriptor(OwnerKind::Slab)) == Some(slab)
        };
        if !described.range().frames().all(names_slab) {
            return Err(broken(Invariant::Desc1, "a page of a slab does not name it"));
        }
        Ok(counts.taken)
    }
}
