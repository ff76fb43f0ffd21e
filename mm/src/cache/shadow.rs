//! Copy-on-write: mappings in front of others.
//!
//! A shadow begins with nothing and shows what is behind it. A fork puts one for each side in front of what both had, and
//! from then on nobody writes that: each copies what it changes. Once all but one of those in front have gone, what is
//! behind is that one's alone, and it absorbs it: folios change their mapping, and page-table entries stay as they are.
//!
//! Who looks for a page finds that a mapping has nothing there and what is behind it in one step, and keeps that from being
//! absorbed by referring to it; who comes while it is absorbed waits. So nobody misses a page that goes from one to the other.
//!
//! Source: R. Rashid et al., "Machine-Independent Virtual Memory Management", ASPLOS 1987; FreeBSD's `vm_object_collapse`.
#![expect(unsafe_code, reason = "a folio's reference goes from one tree to the other")]

use super::mapping::{Contents, Mapping, MappingRef, extent_of};
use crate::descriptor::Descriptor;
use crate::folio::LockedFolio;
use crate::machine::Machine;
use crate::owner::{Folio, FolioFlags, FolioRef};
use crate::slab::NoMemory;
use crate::tree::{Entry, Extent, Found, InsertError, NodeReserve};
use crate::undo::Undo;
use crate::units::PageIndex;

/// What the two sides of a fork see from then on.
#[derive(Debug)]
pub struct Fork<'a, M: Machine> {
    /// Whoever had the mapping; every right to write what was mapped is to be taken away before either side goes on.
    pub parent: MappingRef<'a, M>,
    /// The other one.
    pub child: MappingRef<'a, M>,
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// A mapping with nothing in it, in front of another.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn shadow(this: &MappingRef<'a, M>) -> Result<MappingRef<'a, M>, NoMemory> {
        let shadow = || this.cache.mapping(Contents::Anonymous, this.largest, Some(this.get()));
        this.cache.with_reclaim(shadow)
    }

    /// Two mappings that both show what this one does, and each only its own changes. Nobody faults through this one
    /// meanwhile.
    ///
    /// # Errors
    /// There is no memory for them; nothing has changed.
    pub fn fork(this: &MappingRef<'a, M>) -> Result<Fork<'a, M>, NoMemory> {
        let untouched = this.tree.lock(this.machine()).next(PageIndex(0)).is_none();
        match this.behind() {
            // It shows what is behind it, and so can another.
            Some(behind) if untouched => Ok(Fork { parent: this.get(), child: Self::shadow(&behind)? }),
            _ => Ok(Fork { parent: Self::shadow(this)?, child: Self::shadow(this)? }),
        }
    }

    /// What is seen at an index at which nothing stands here. Nobody takes over what that is for as long as the reference lives.
    pub(super) fn behind_at(&self, index: PageIndex) -> Behind<'a, M> {
        let tree = self.tree.lock(self.machine());
        match &tree.behind {
            _ if tree.absorbing || tree.look(index).is_some() => Behind::Again,
            Some(behind) => Behind::Mapping(behind.get()),
            None => Behind::Nothing,
        }
    }

    /// Takes over what stands behind, if that is nobody else's and anonymous, as far as it is not busy.
    pub(super) fn absorb(&self) {
        loop {
            let mut tree = self.tree.lock(self.machine());
            let Some(behind) = tree.behind.as_ref().filter(|behind| behind.is_anonymous() && behind.is_only()) else {
                return;
            };
            // What stands behind is reached only through here, and whoever comes meanwhile waits: nobody reads it back while it
            // changes its place, or looks past both.
            let behind = behind.get();
            tree.absorbing = true;
            drop(tree);
            // Also if somebody panics who was to give memory up.
            let ends = Undo::new(|| self.tree.lock(self.machine()).absorbing = false);
            let absorbed = self.absorb_from(&behind);
            // Who looks through the one that is empty now still finds what is behind it.
            let next = behind.behind();
            ends.forget();
            let mut tree = self.tree.lock(self.machine());
            tree.absorbing = false;
            if absorbed == Absorbed::Part {
                return;
            }
            let empty = core::mem::replace(&mut tree.behind, next);
            drop(tree);
            drop(empty);
        }
    }

    fn absorb_from(&self, behind: &MappingRef<'a, M>) -> Absorbed {
        let mut absorbed = Absorbed::All;
        let mut next = Some(PageIndex(0));
        while let Some(index) = next {
            let found = behind.tree.lock(behind.machine()).next(index);
            let Some(Found { first, last, entry }) = found else { break };
            next = last.0.checked_add(1).map(PageIndex);
            let Some(extent) = extent_of(first, last) else {
                absorbed = Absorbed::Part;
                continue;
            };
            let moved = match entry {
                Entry::Item(_) => match behind.lookup(first).map(FolioRef::try_lock) {
                    // It may have been split since it was found.
                    Some(Ok(folio)) if behind.holds(&folio, first) && folio.order() == extent.order() => {
                        self.absorb_folio(behind, folio)
                    }
                    _ => Absorbed::Part,
                },
                Entry::Stored(_) | Entry::Lost => self.absorb_absent(behind, extent, entry),
            };
            if moved == Absorbed::Part {
                absorbed = Absorbed::Part;
            }
        }
        absorbed
    }

    /// Takes a folio over, or lets it go if nobody sees any of it.
    fn absorb_folio(&self, behind: &MappingRef<'a, M>, folio: LockedFolio<'a, M>) -> Absorbed {
        let extent = Extent::around(folio.index(), folio.order());
        match self.covers(extent) {
            Covers::All => {
                behind.discard(folio);
                Absorbed::All
            }
            Covers::Some => Absorbed::Part,
            Covers::None => {
                let mut reserve = self.reserve();
                let kept = folio.get().into_kept();
                // SAFETY: the reference was kept for the tree, which did not take it.
                let not_taken = Undo::new(|| drop(unsafe { FolioRef::from_kept(self.cache.owners, kept) }));
                if !self.insert_with(extent, Entry::Item(kept), &mut reserve) {
                    return Absorbed::Part;
                }
                not_taken.forget();
                // Who finds it here waits until it says that it stands here.
                let before = behind.take_out(&folio);
                let mut tree = self.tree.lock(self.machine());
                folio.set_place(self.address(), extent.first());
                if folio.flags().contains(FolioFlags::DIRTY) {
                    tree.mark(extent);
                }
                tree.pages += u64::from(folio.order().pages());
                self.cache.lru.add(&folio);
                drop(tree);
                // SAFETY: the reference that the other tree had.
                drop(unsafe { FolioRef::from_kept(self.cache.owners, before) });
                Absorbed::All
            }
        }
    }

    /// Takes over what is not in memory, for it was written out or lost, or forgets it if nobody sees any of it.
    fn absorb_absent(&self, behind: &MappingRef<'a, M>, extent: Extent, entry: Entry<Descriptor<Folio>>) -> Absorbed {
        let covers = self.covers(extent);
        if covers == Covers::Some {
            return Absorbed::Part;
        }
        let mut reserve = self.reserve();
        if covers == Covers::None && !self.insert_with(extent, entry, &mut reserve) {
            return Absorbed::Part;
        }
        let taken = behind.tree.lock(behind.machine()).remove(extent, &mut reserve);
        assert!(taken == Ok(entry), "invariant CACHE-4 broken: what was written out is not there");
        if covers == Covers::All {
            self.release_entry(entry, extent.order());
        }
        Absorbed::All
    }

    /// Inserts an entry if there is memory for the nodes.
    fn insert_with(
        &self,
        extent: Extent,
        entry: Entry<Descriptor<Folio>>,
        reserve: &mut NodeReserve<'_, 'a, M>,
    ) -> bool {
        loop {
            // The lock is let go before anything is allocated.
            let inserted = self.tree.lock(self.machine()).insert(extent, entry, reserve);
            match inserted {
                Ok(()) => return true,
                Err(InsertError::Occupied(_)) => return false,
                Err(InsertError::Nodes(lacking)) => {
                    if reserve.refill(lacking.0).is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// How much of an extent this mapping has something for.
    fn covers(&self, extent: Extent) -> Covers {
        let tree = self.tree.lock(self.machine());
        let pages = |found: Found<_>| found.last.min(extent.last()).0 - found.first.max(extent.first()).0 + 1;
        let covered: u64 = tree.entries(extent.first(), extent.last()).map(pages).sum();
        match covered {
            0 => Covers::None,
            all if all == u64::from(extent.order().pages()) => Covers::All,
            _ => Covers::Some,
        }
    }
}

/// What is behind a mapping at an index.
pub(super) enum Behind<'a, M: Machine> {
    /// This.
    Mapping(MappingRef<'a, M>),
    /// Nothing: the mapping is the last one.
    Nothing,
    /// Something stands in the mapping by now, or will in a moment: to be looked at again.
    Again,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Absorbed {
    All,
    Part,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Covers {
    All,
    Some,
    None,
}
