//! Where what the page allocator keeps stands in memory: for tests that damage it.

use std::vec::Vec;

use core::ptr::NonNull;

use super::allocator::PageAllocator;
use crate::machine::Machine;
use crate::pcp::CpuCache;
use crate::units::{Pfn, PhysAddr};

/// A piece of memory that is of one use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// What it is for.
    pub(crate) what: &'static str,
    pub(crate) start: PhysAddr,
    pub(crate) bytes: usize,
}

impl<M: Machine> PageAllocator<'_, M> {
    /// Names what stands at an address of lowmem.
    pub(crate) fn place<T>(&self, what: &'static str, address: NonNull<T>) -> Place {
        Place { what, start: self.machine.physical(address.cast()), bytes: size_of::<T>() }
    }

    /// The two words of a page.
    pub(crate) fn words(&self, pfn: Pfn) -> [Place; 2] {
        let page: NonNull<[u64; 2]> = NonNull::from(self.map.page(pfn)).cast();
        let Place { start: PhysAddr(start), .. } = self.place("", page);
        let word = |what, start| Place { what, start: PhysAddr(start), bytes: 8 };
        [word("first word", start), word("second word", start + 8)]
    }

    /// What the heads of all lists that are not empty consist of.
    pub(crate) fn list_parts(&self) -> Vec<Place> {
        let mut parts = Vec::new();
        for cell in self.zones {
            self.with_buddy(cell, |buddy| {
                buddy.zone().lists.each_part(|what, at, bytes| {
                    parts.push(Place { what, start: self.machine.physical(at), bytes });
                });
            });
        }
        parts
    }

    /// What the lists of blocks at hand consist of, of all CPUs and the shelves.
    pub(crate) fn at_hand_parts(&self) -> Vec<Place> {
        let mut parts = Vec::new();
        for cell in self.zones {
            let of_cpus = self.cpu_caches.of_zone(cell.id).chain(self.cpu_caches.shelf(cell.id));
            for list in of_cpus.flat_map(CpuCache::lists).filter(|list| list.len() > 0) {
                list.each_part(|what, at, bytes| parts.push(Place { what, start: self.machine.physical(at), bytes }));
            }
        }
        parts
    }
}
