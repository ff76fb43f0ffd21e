//! The first caches: of caches, of slabs' descriptors, of CPUs' sides, of sheaves. Each needs the others.
//!
//! Three blocks are cut by hand, into caches, descriptors and sides. The first objects of each are the first caches,
//! the descriptors of the three blocks, and the sides that the first caches share. Put on their caches' lists the three
//! are slabs as any other, and nothing is left that is not an object in a slab.
#![expect(unsafe_code, reason = "writes the first objects where slabs will find them")]

use super::cache::{Cache, mark};
use super::caches::{First, KmemCaches, NoMemory, live, unborn};
use super::cpu::CpuSheaf;
use super::debug::SlabDebug;
use super::descriptor::Slab;
use super::grow::alloc_slab_block;
use super::kmalloc::{self, CLASSES, Class, LargeBlocks};
use super::lists::Slabs;
use super::roster::AllCaches;
use super::sheaf::Sheaf;
use super::sides::Sides;
use super::spec::{CacheSpec, CreateError};
use crate::descriptor::{Descriptor, Life};
use crate::lock::Mutex;
use crate::machine::Machine;
use crate::page::PageAllocator;

impl<'a, M: Machine> KmemCaches<'a, M> {
    /// Makes the caches of a machine on the pages of `pages`, those of `kmalloc` among them.
    ///
    /// # Errors
    /// There is no memory for them; nothing is lost.
    pub fn new(pages: &'a PageAllocator<'a, M>) -> Result<Self, CreateError> {
        Self::new_with(pages, SlabDebug::NONE)
    }

    /// The same, some of which are debugged; those that the others are made of are not.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn new_with(pages: &'a PageAllocator<'a, M>, debug: SlabDebug) -> Result<Self, CreateError> {
        let machine = pages.machine();
        let cpus = machine.cpus();
        let planned = [
            Self::first_cache::<Cache>("kmem_cache", 1)?,
            Cache {
                // A slab of descriptors is never without its own.
                slabs: Mutex::new(Slabs::new(1)),
                ..Self::plan(&descriptors::<Slab>("slab")).map(without_sheaves)?
            },
            Self::first_cache::<CpuSheaf>("kmem_cache_cpu", u32::from(cpus.get()))?,
            Self::first_cache::<Sheaf>("sheaf", 1)?,
        ];
        let [of_caches, of_slabs, of_cpus, _] = &planned;
        // Dropped, and so freed, if one cannot be had.
        let keeper = pages.gate().new_keeper().ok_or(NoMemory)?;
        let no_memory = |_| NoMemory;
        let caches_block = alloc_slab_block(pages, of_caches.request).map_err(no_memory)?;
        let slabs_block = alloc_slab_block(pages, of_slabs.request).map_err(no_memory)?;
        let cpus_block = alloc_slab_block(pages, of_cpus.request).map_err(no_memory)?;
        let [caches_head, slabs_head, cpus_head] =
            [caches_block, slabs_block, cpus_block].map(crate::page::Block::into_raw);

        let first_side = machine.direct_map(cpus_head).cast::<CpuSheaf>();
        for cpu in 0..usize::from(cpus.get()) {
            // SAFETY: the block's first object has room for a side of each CPU.
            let place = unsafe { first_side.add(cpu) };
            // SAFETY: the block was just allocated.
            unsafe { place.write(CpuSheaf::closed(usize::MAX)) };
        }
        // SAFETY: just written, for each CPU.
        let sides = unsafe { Sides::new(first_side) };
        let mut places = [machine.direct_map(caches_head).cast::<Cache>(); 4];
        let stride = of_caches.layout.stride as usize;
        let mut all = AllCaches { youngest: None };
        for ((slot, place), cache) in places.iter_mut().enumerate().zip(planned) {
            // SAFETY: a block of caches has room for sixteen.
            *place = unsafe { place.byte_add(slot * stride) };
            // SAFETY: the block was just allocated, and is cut into places for caches.
            unsafe { place.write(Cache { sides, ..cache }) };
            all.push(*place);
        }
        let [of_caches, of_slabs, of_cpus, of_sheaves] = places;
        let first = First { caches: of_caches, slabs: of_slabs, sheaves: of_sheaves, cpus: of_cpus };
        let mut this = Self {
            pages,
            keeper,
            cpus,
            first,
            kmalloc: [Class::NONE; CLASSES],
            large: LargeBlocks::none(),
            all: Mutex::new(all),
            debug,
        };
        // SAFETY: the first caches live as long as `this`.
        let [of_caches, of_slabs, of_cpus] = [of_caches, of_slabs, of_cpus].map(|cache| unsafe { live(cache) });
        let first_slot = this.construct_all(of_slabs, slabs_head);
        let descriptor = of_slabs.object(first_slot);
        let stride = of_slabs.layout.stride as usize;
        let made = [
            (of_slabs, slabs_head, first_slot, 1..3),
            (of_caches, caches_head, first.caches.cast(), 0..4),
            (of_cpus, cpus_head, first_side.cast(), 0..1),
        ];
        for (index, (cache, head, first_slot, used)) in made.into_iter().enumerate() {
            // SAFETY: a block of descriptors has room for sixteen.
            let place = unsafe { descriptor.add(index * stride) };
            of_slabs.fence_allocated(machine, of_slabs.slot(place));
            // SAFETY: the block is cut into the cache's objects, and the descriptor unborn.
            let slab = unsafe { this.describe(cache, head, place.cast(), first_slot) };
            // SAFETY: the slab was just described, so there is a reference: its cache's.
            let descriptor = unsafe { slab.as_ref() };
            // SAFETY: as above.
            let owner = unsafe { descriptor.owner() };
            for slot in used.end..cache.layout.objects {
                // SAFETY: the slot lies in the block, and nobody has its object.
                let slot = unsafe { first_slot.add((slot * cache.layout.stride) as usize) };
                mark(machine, slot);
                cache.fence_free(machine, slot);
            }
            for slot in used {
                // SAFETY: the slab is on no list yet.
                unsafe { owner.state() }.take_slot(slot);
            }
            this.with_slabs(cache, |slabs| slabs.add(slab, &cache.layout));
        }
        this.kmalloc = kmalloc::create(&this)?;
        Ok(this)
    }

    /// A cache for rows of `count` values.
    fn first_cache<T>(name: &str, count: u32) -> Result<Cache, CreateError> {
        let (size, align) = (bytes(size_of::<T>()).saturating_mul(count), bytes(align_of::<T>()));
        Self::plan(&CacheSpec::new(name, size).aligned(align)).map(without_sheaves)
    }
}

/// Sheaves are made of the first caches, so those have none.
fn without_sheaves(cache: Cache) -> Cache {
    Cache { sheaf_objects: 0, ..cache }
}

/// A cache of descriptors of owners.
pub(crate) const fn descriptors<T>(name: &str) -> CacheSpec<'_> {
    CacheSpec::new(name, bytes(size_of::<Descriptor<T>>()))
        .aligned(bytes(align_of::<Descriptor<T>>()))
        .constructed(unborn::<T>)
        // Who walks looks at the life of a dead descriptor, and at nothing else.
        .keeping(bytes(size_of::<Life>()))
        .type_stable()
}

/// The size or the alignment of a type, none of which is anywhere near 4 GiB.
#[expect(clippy::cast_possible_truncation, reason = "asserted")]
const fn bytes(bytes: usize) -> u32 {
    assert!(bytes <= u32::MAX as usize);
    bytes as u32
}
