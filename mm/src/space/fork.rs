//! A second space that shows what the first one does, and from then on changes only its own.
//!
//! What is shared stays shared. Of what is private both sides get a shadow, and nobody writes what is behind any more: the
//! entries of the parent's lose that right, and the child begins without any. So a fork costs regions, not pages.
//!
//! What is pinned for writing when its space forks belongs to both sides from then on, and what a device writes there is
//! seen by each until it writes the page itself.

use super::mmu::Mmu;
use super::range::AddressRange;
use super::region::{Backing, Sharing, Spec};
use super::regions::Regions;
use super::spaces::{Space, SpaceError, SpaceRef};
use crate::cache::{Fork, Mapping, MappingRef};
use crate::machine::Machine;
use crate::slab::NoMemory;

impl<'a, M: Machine, U: Mmu> Space<'a, M, U> {
    /// Makes a copy of the space.
    ///
    /// # Errors
    /// There is no memory for it; nothing has changed.
    pub fn fork(&self) -> Result<SpaceRef<'a, M, U>, SpaceError> {
        let child = self.spaces.create()?;
        let mut regions = self.regions.write(self.machine());
        let mut fresh = Regions::new();
        {
            let mut forks = Forks(None);
            let mut childs = child.regions.write(child.machine());
            for region in regions.iter() {
                let all = region.range();
                let (of_parent, of_child) = match region.backing() {
                    Backing::Mapping(mapping, _, Sharing::Private) => {
                        let (parent, child) = forks.of(mapping)?;
                        (Some(parent), Some(child))
                    }
                    _ => (None, None),
                };
                let spec = |mapping: &Option<MappingRef<'a, M>>| {
                    let part = region.spec().part(all);
                    match (part.backing, mapping) {
                        (Backing::Mapping(_, index, sharing), Some(mapping)) => {
                            Spec { backing: Backing::Mapping(mapping.get(), index, sharing), ..part }
                        }
                        (backing, _) => Spec { backing, ..part },
                    }
                };
                childs.insert(child.region(|| spec(&of_child))?);
                if of_parent.is_some() {
                    fresh.insert(self.region(|| spec(&of_parent))?);
                }
            }
        }
        let mut old = Regions::new();
        for region in fresh.iter() {
            while let Some(replaced) = regions.take_first(region.range()) {
                old.insert(replaced);
            }
        }
        regions.append(fresh);
        // Before the child's first write, and before anybody of the parent's can fault.
        self.each_part(&old, AddressRange::ALL, |locked, part, region| {
            locked.protect(part, region.entries(), region.protection().without_write());
        });
        Ok(child)
    }
}

/// The mapping that was forked last, and what became of it: what was one region and was cut goes on sharing one.
struct Forks<'a, M: Machine>(Option<(MappingRef<'a, M>, Fork<'a, M>)>);

impl<'a, M: Machine> Forks<'a, M> {
    fn of(&mut self, mapping: &MappingRef<'a, M>) -> Result<(MappingRef<'a, M>, MappingRef<'a, M>), NoMemory> {
        let (_, fork) = match self.0.take() {
            Some((last, fork)) if last.is(mapping) => self.0.insert((last, fork)),
            _ => self.0.insert((mapping.get(), Mapping::fork(mapping)?)),
        };
        Ok((fork.parent.get(), fork.child.get()))
    }
}
