//! The descriptors of all kinds, and the two ways of owning a block: allocate it, or take over a plain one.
//!
//! Cost: a pair of descriptor operations, two counters, two words; the pages cost what they cost.
#![expect(unsafe_code, reason = "descriptors are objects of their caches until they are given back")]

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

use super::folio::Folio;
use super::kinds::{CompressedStore, KernelStack, PerCpuArea};
use super::owned::Owned;
use super::page_table::PageTable;
use super::reference::Shared;
use crate::OwnerKind;
use crate::desc::owner_word::{OwnerWord, with_owners};
use crate::desc::word::Page;
use crate::descriptor::{Descriptor, Keeper};
use crate::image::{Note, NoteFull};
use crate::machine::Machine;
use crate::page::{AllocError, Block, PageAllocator, Request};
use crate::slab::{CreateError, KmemCache, KmemCaches, NoMemory, Slab, descriptors};
use crate::units::{Bytes, Count, PAGE_SIZE};

pub(super) mod sealed {
    use super::{Machine, OwnerKind, Shared};

    /// What has descriptors.
    pub trait Described: Sized + Send + Sync + 'static {
        const KIND: OwnerKind;

        /// Frees the block and the descriptor to which `last` was the last reference.
        fn bury<M: Machine>(last: &Shared<'_, M, Self>);
    }

    /// What has descriptors of ours.
    pub trait Kept: Described {
        /// Where its descriptors stand among those of all kinds.
        const INDEX: usize;
    }
}

/// What can own a block: a line in the table of kinds, and a struct.
pub trait Owner: sealed::Kept {}

macro_rules! kept {
    (
        bare { $($bare:tt)* }
        described { $($(#[$doc:meta])+ $kind:ident = $code:literal, $name:literal;)+ }
        slab { $($slab:tt)* }
    ) => {
        enum Index {
            $($kind,)+
        }

        $(
            impl sealed::Described for $kind {
                const KIND: OwnerKind = OwnerKind::$kind;

                fn bury<M: Machine>(last: &Shared<'_, M, Self>) {
                    last.owners().free(last);
                }
            }

            impl sealed::Kept for $kind {
                const INDEX: usize = Index::$kind as usize;
            }

            impl Owner for $kind {}
        )+

        const KEPT: usize = [$(Index::$kind,)+].len();

        impl<'a, M: Machine> Owners<'a, M> {
            /// Makes the caches of descriptors.
            ///
            /// # Errors
            /// There is no memory for them; nothing is lost.
            pub fn new(caches: &'a KmemCaches<'a, M>) -> Result<Self, CreateError> {
                let kept = [$(Kept::new(OwnerKind::$kind, caches.create(descriptors::<$kind>($name))?),)+];
                let keeper = caches.pages.gate().new_keeper().ok_or(NoMemory)?;
                Ok(Self { caches, keeper, kept })
            }
        }
    };
}

with_owners!(kept);

impl sealed::Described for Slab {
    const KIND: OwnerKind = OwnerKind::Slab;

    fn bury<M: Machine>(last: &Shared<'_, M, Self>) {
        last.owners().caches.bury(last.descriptor(), last.range());
    }
}

/// Owners of one kind: their descriptors, and how many there are.
#[derive(Debug)]
pub(super) struct Kept<'a, M: Machine> {
    pub(super) kind: OwnerKind,
    cache: KmemCache<'a, M>,
    blocks: AtomicU32,
    pages: AtomicU32,
}

impl<'a, M: Machine> Kept<'a, M> {
    const fn new(kind: OwnerKind, cache: KmemCache<'a, M>) -> Self {
        Self { kind, cache, blocks: AtomicU32::new(0), pages: AtomicU32::new(0) }
    }

    pub(super) fn report(&self) -> OwnerReport {
        let (blocks, pages) = (self.blocks.load(Ordering::Relaxed), self.pages.load(Ordering::Relaxed));
        let descriptors = Bytes(self.cache.report().pages().0 as usize * PAGE_SIZE);
        OwnerReport { kind: self.kind, blocks: Count(blocks), pages: Count(pages), descriptors }
    }
}

/// Owners of one kind at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerReport {
    /// Which kind.
    pub kind: OwnerKind,
    /// Blocks they own.
    pub blocks: Count,
    /// Pages of those blocks.
    pub pages: Count,
    /// Bytes that their descriptors take up, free ones included.
    pub descriptors: Bytes,
}

/// Why a block has no owner; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum OwnError {
    /// There is no memory for a descriptor.
    #[error("no memory for a descriptor: {0}")]
    Descriptor(#[from] NoMemory),
    /// There are no pages.
    #[error(transparent)]
    Pages(#[from] AllocError),
    /// The block is of another allocator than the descriptors.
    #[error("the block is another allocator's")]
    Foreign,
}

/// The owners of a machine's blocks. Dropping it waits until nobody walks.
#[derive(Debug)]
pub struct Owners<'a, M: Machine> {
    pub(crate) caches: &'a KmemCaches<'a, M>,
    /// Whose descriptors they are, of all kinds but slabs.
    pub(super) keeper: Keeper,
    pub(super) kept: [Kept<'a, M>; KEPT],
}

impl<'a, M: Machine> Owners<'a, M> {
    /// The machine whose memory is owned.
    pub const fn machine(&self) -> &'a M {
        self.caches.pages.machine()
    }

    pub(crate) const fn pages(&self) -> &'a PageAllocator<'a, M> {
        self.caches.pages
    }

    /// Pages for an owner of this kind: a page table's come through a zone, so that nothing is an object one moment and a table the
    /// next.
    pub(crate) fn alloc_pages<T: Owner>(&self, request: Request) -> Result<Block<'a, M>, AllocError> {
        let request = if T::KIND == OwnerKind::PageTable { request.through_zone() } else { request };
        self.pages().alloc(request)
    }

    /// Allocates a block for an owner.
    ///
    /// # Errors
    /// There is no memory for the pages or the descriptor. The owner comes back, and nothing was ever visible.
    pub fn alloc<T: Owner>(&self, request: Request, owner: T) -> Result<Owned<'_, M, T>, (T, OwnError)> {
        match self.alloc_pages::<T>(request) {
            Ok(block) => self.adopt(block, owner).map_err(|(_, owner, error)| (owner, error)),
            Err(error) => Err((owner, error.into())),
        }
    }

    /// Gives a plain block an owner.
    ///
    /// # Errors
    /// There is no memory for a descriptor, or the block is another allocator's. Block and owner come back as they were.
    pub fn adopt<'s, T: Owner>(
        &'s self,
        block: Block<'s, M>,
        owner: T,
    ) -> Result<Owned<'s, M, T>, (Block<'s, M>, T, OwnError)> {
        if !core::ptr::eq(block.allocator(), self.pages()) {
            return Err((block, owner, OwnError::Foreign));
        }
        match self.new_descriptor() {
            // SAFETY: the descriptor was just had.
            Ok(descriptor) => Ok(unsafe { self.publish(descriptor, block, owner) }),
            Err(error) => Err((block, owner, error.into())),
        }
    }

    /// Says for who reads an image of memory where owners are counted, and what their descriptors are like.
    ///
    /// # Errors
    /// The note has no room for it.
    pub fn write_note(&self, note: &mut Note) -> Result<(), NoteFull> {
        for kept in &self.kept {
            let (code, counted) = (kept.kind as usize, [("blocks", &kept.blocks), ("pages", &kept.pages)]);
            for (what, count) in counted {
                note.place(format_args!("owners.{code}.{what}"), core::ptr::from_ref(count).addr())?;
            }
        }
        // All descriptors begin alike.
        Descriptor::<Folio>::write_note(note, "folio")?;
        PageTable::write_note(note)
    }

    /// What there is of each kind that has descriptors here, and of slabs.
    pub fn reports(&self) -> impl Iterator<Item = OwnerReport> {
        let slabs = core::iter::once_with(|| self.slab_report());
        self.kept.iter().map(Kept::report).chain(slabs)
    }

    fn slab_report(&self) -> OwnerReport {
        let (mut blocks, mut pages, mut descriptors) = (0, 0, 0);
        self.caches.for_each_report(|cache| {
            blocks += cache.slabs.0;
            pages += cache.pages().0;
            if cache.name.as_str() == OwnerKind::Slab.name() {
                descriptors = cache.pages().0 as usize * PAGE_SIZE;
            }
        });
        let (blocks, pages, descriptors) = (Count(blocks), Count(pages), Bytes(descriptors));
        OwnerReport { kind: OwnerKind::Slab, blocks, pages, descriptors }
    }

    /// Makes an owner and its block known to each other.
    ///
    /// # Safety
    /// The descriptor is unborn or dead, and the caller's.
    unsafe fn publish<'s, T: Owner>(
        &'s self,
        descriptor: NonNull<Descriptor<T>>,
        block: Block<'s, M>,
        owner: T,
    ) -> Owned<'s, M, T> {
        let (head, order) = (block.head(), block.order());
        let kept = &self.kept[T::INDEX];
        kept.blocks.fetch_add(1, Ordering::Relaxed);
        kept.pages.fetch_add(order.pages(), Ordering::Relaxed);
        // SAFETY: the memory of descriptors is never anything else (`Descriptor`).
        let described = unsafe { descriptor.as_ref() };
        // SAFETY: the caller's promise.
        unsafe { described.begin(head, order, self.keeper, owner) };
        // INVARIANT: DESC-1, the descriptor names the block before the block names it.
        self.pages().set_head_owner(head, OwnerWord::described(T::KIND, descriptor));
        Owned::new(Shared::new(self, descriptor, head, order), block)
    }

    /// Frees the block of an owner to which nobody refers any more.
    fn free<T: Owner>(&self, last: &Shared<'_, M, T>) {
        // SAFETY: whoever gave up the last reference calls this, once.
        let owner = unsafe { self.retire(last) };
        // SAFETY: nobody refers to the owner, so nobody uses its pages.
        let freed = unsafe { self.pages().free_raw(last.head()) };
        if let Err(error) = freed {
            panic!("invariant DESC-1 broken: an owner's block cannot be freed: {error}");
        }
        drop(owner);
    }

    /// Makes the block of a dead descriptor plain, gives the descriptor back, and hands out what it kept.
    ///
    /// # Safety
    /// `last` was the last reference, and this is the first call since.
    pub(super) unsafe fn retire<T: Owner>(&self, last: &Shared<'_, M, T>) -> T {
        // Where the block is stands in the descriptor, which can be wrong as any memory can: then it is somebody else's that
        // would be freed.
        let owner = self.pages().page(last.head()).map(Page::owner);
        assert!(
            owner == Some(OwnerWord::described(T::KIND, last.descriptor())),
            "invariant DESC-1 broken: the {} at {:p} is not the owner of {:?}",
            T::KIND.name(),
            last.descriptor(),
            last.head()
        );
        // SAFETY: the descriptor is not given back before the end of this.
        let descriptor = unsafe { last.descriptor().as_ref() };
        // SAFETY: the caller's promise.
        let owner = unsafe { descriptor.take() };
        // INVARIANT: DESC-1, no page names a descriptor that may serve another block.
        self.pages().set_head_owner(last.head(), OwnerWord::PLAIN);
        let kept = &self.kept[T::INDEX];
        kept.blocks.fetch_sub(1, Ordering::Relaxed);
        kept.pages.fetch_sub(last.order().pages(), Ordering::Relaxed);
        self.free_descriptor(last.descriptor());
        owner
    }

    pub(super) const fn cache_of<T: Owner>(&self) -> &KmemCache<'a, M> {
        &self.kept[T::INDEX].cache
    }

    /// Counts a block that has become two.
    pub(super) fn count_halved<T: Owner>(&self) {
        self.kept[T::INDEX].blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts two blocks that have become one, and takes back the descriptor that is not needed any more.
    pub(super) fn count_joined<T: Owner>(&self, descriptor: NonNull<Descriptor<T>>) {
        self.kept[T::INDEX].blocks.fetch_sub(1, Ordering::Relaxed);
        self.free_descriptor(descriptor);
    }

    fn new_descriptor<T: Owner>(&self) -> Result<NonNull<Descriptor<T>>, NoMemory> {
        Ok(self.kept[T::INDEX].cache.alloc_raw()?.cast())
    }

    fn free_descriptor<T: Owner>(&self, descriptor: NonNull<Descriptor<T>>) {
        // An owner may have left nothing, not even zeroes, where the cache looks for the mark of what is free.
        const { assert!(size_of::<T>() > 0, "there is a place") };
        // SAFETY: DESC-2, there are no references, so the place where the owner was is nobody's.
        unsafe { Descriptor::place_of_owner(descriptor).cast::<u64>().write(0) };
        // SAFETY: the descriptor came from this cache, and no page names it.
        let freed = unsafe { self.kept[T::INDEX].cache.free_raw(descriptor.cast()) };
        if let Err(error) = freed {
            panic!("invariant DESC-1 broken: a descriptor cannot be freed: {error}");
        }
    }
}
