//! The buffers of one store, and the way to them: by index, without a lock, while they come and go.
//!
//! As with folios, the tree gives an address that was a buffer's descriptor, a reference is taken only of one that is
//! alive, and under its lock the buffer says whether it stands here.
#![expect(unsafe_code, reason = "follows the tree to descriptors, and answers for its references")]

use core::fmt;
use core::marker::PhantomPinned;
use core::pin::Pin;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use thiserror::Error;

use super::buffer::{Buffer, BufferFlags, BufferRef, LockedBuffer};
use super::buffer_cache::BufferCache;
use crate::cache::{Generation, Store, StoreError, StoreRef, any_store};
use crate::descriptor::Descriptor;
use crate::machine::Machine;
use crate::slab::{Counted, NoMemory};
use crate::tree::{Entry, Extent, InsertError, Tree};
use crate::units::{Count, FileOffset, PageIndex};

/// A buffer's place in its mapping: a number of buffers from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    pub(super) const fn extent(self) -> Extent {
        Extent::page(PageIndex(self.0))
    }
}

/// Why contents are not there; what was there still is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BufferError {
    /// There is no memory for a buffer, and none can be reclaimed.
    #[error("no memory for a buffer: {0}")]
    NoMemory(#[from] NoMemory),
    /// The store does not give or take them.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A reference to a mapping. With the last one it goes, and all that stands in it.
pub type BufferMappingRef<'a, M> = Counted<'a, M, BufferMapping<'a, M>>;

/// A store's contents, in buffers.
pub struct BufferMapping<'a, M: Machine> {
    pub(super) cache: &'a BufferCache<'a, M>,
    pub(super) store: StoreRef<'a, M>,
    pub(super) tree: Tree<'a, Descriptor<Buffer>, Standing>,
    /// Until it is empty its buffers lead to it.
    _looked_at: PhantomPinned,
}

/// What the tree's lock guards besides.
#[derive(Debug)]
pub(super) struct Standing {
    /// Buffers that stand here.
    pub(super) buffers: u32,
}

/// Whether a buffer's contents must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contents {
    /// They are looked at, or some of them stay.
    Wanted,
    /// All of them are about to be written.
    Overwritten,
}

impl<M: Machine> BufferCache<'_, M> {
    /// The buffers of a store, of which there are none yet. The store is the mapping's from then on.
    ///
    /// # Errors
    /// There is no memory for the mapping, and the store is dropped: who will try again keeps a reference to it.
    pub fn mapping<'s>(self: Pin<&'s Self>, store: impl Store + 'static) -> Result<BufferMappingRef<'s, M>, NoMemory> {
        let cache = self.get_ref();
        let store = any_store(cache.caches, store)?;
        let tree = cache.nodes.tree(Standing { buffers: 0 });
        cache.mappings.fetch_add(1, Ordering::Relaxed);
        let mapping = BufferMapping { cache, store, tree, _looked_at: PhantomPinned };
        Counted::new(cache.caches, mapping).map_err(|(_, error)| error)
    }
}

impl<'a, M: Machine> BufferMapping<'a, M> {
    pub(super) const fn machine(&self) -> &'a M {
        self.cache.machine()
    }

    /// The address that buffers know it by.
    const fn address(&self) -> *mut () {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// The mapping in which a buffer stands, as long as it is locked.
    pub(super) fn of<'b>(buffer: &'b LockedBuffer<'a, M>) -> Option<&'b Self> {
        let (mapping, _) = buffer.place();
        // SAFETY: BUF-3, the buffer leaves its mapping only under its lock, and no mapping goes before its buffers.
        unsafe { mapping.cast::<Self>().as_ref() }
    }

    /// Buffers that stand here.
    pub fn buffers(&self) -> Count {
        Count(self.tree.lock(self.machine()).buffers)
    }

    /// The buffer at an index, in whatever state it is.
    pub fn lookup(&self, index: BlockIndex) -> Option<BufferRef<'a, M>> {
        let walking = self.cache.nodes.gate().enter();
        loop {
            let Entry::Item(descriptor) = self.tree.look(PageIndex(index.0), &walking)? else { return None };
            // SAFETY: the tree had the address while this walks.
            let buffer = unsafe { BufferRef::find(self.cache, descriptor) };
            if let Some(buffer) = buffer.filter(|buffer| self.holds(buffer, index)) {
                return Some(buffer);
            }
            crate::sync::spin_loop();
        }
    }

    /// Whether a buffer stands here at an index. Stable only under its lock.
    pub(super) fn holds(&self, buffer: &Buffer, index: BlockIndex) -> bool {
        buffer.place() == (self.address(), index)
    }

    /// The buffer at an index, locked, and with its contents if they are wanted. A use.
    pub(super) fn locked(&self, index: BlockIndex, contents: Contents) -> Result<LockedBuffer<'a, M>, BufferError> {
        let mut buffer = loop {
            let found = match self.lookup(index) {
                Some(found) => Some(found.lock()).filter(|buffer| self.holds(buffer, index)),
                None => self.make(index)?,
            };
            if let Some(found) = found {
                break found;
            }
        };
        if contents == Contents::Wanted && !buffer.flags().contains(BufferFlags::UPTODATE) {
            // Behind the store's end are zeroes: since the buffer was made, or since the store was cut.
            let (start, len) = self.stored(index);
            self.store.read(start, &mut buffer.bytes_mut()[..len])?;
            buffer.set(BufferFlags::UPTODATE);
        }
        self.mark_accessed(&buffer);
        Ok(buffer)
    }

    /// Where a buffer's bytes begin in the store, and how many of them it has.
    pub(super) fn stored(&self, index: BlockIndex) -> (FileOffset, usize) {
        let start = FileOffset(index.0 << self.cache.size.shift());
        let left = self.store.size().0.saturating_sub(start.0);
        (start, usize::try_from(left).unwrap_or(usize::MAX).min(self.cache.size.bytes()))
    }

    /// Says that a buffer was used: twice makes it active.
    fn mark_accessed(&self, buffer: &BufferRef<'a, M>) {
        let before = buffer.set(BufferFlags::REFERENCED);
        if before.contains(BufferFlags::REFERENCED) && !before.contains(BufferFlags::ACTIVE) {
            buffer.clear(BufferFlags::REFERENCED);
            self.cache.lru.move_to(buffer, Generation::Active);
        }
    }

    /// Makes a buffer at an index, locked and without contents. `None` if somebody else was faster.
    fn make(&self, index: BlockIndex) -> Result<Option<LockedBuffer<'a, M>>, NoMemory> {
        let cache = self.cache;
        let buffer = cache.with_reclaim(|| BufferRef::make(cache))?;
        let mut reserve = cache.nodes.no_reserve();
        let kept = buffer.get().into_kept();
        loop {
            let mut tree = self.tree.lock(self.machine());
            // Who finds it waits for its lock.
            buffer.set_place(self.address(), index);
            let outcome = match tree.insert(index.extent(), Entry::Item(kept), &mut reserve) {
                Ok(()) => {
                    tree.buffers += 1;
                    cache.lru.add(&buffer);
                    return Ok(Some(buffer));
                }
                Err(InsertError::Occupied(_)) => Ok(None),
                Err(InsertError::Nodes(lacking)) => {
                    drop(tree);
                    match cache.with_reclaim(|| reserve.refill(lacking.0)) {
                        Ok(()) => continue,
                        Err(error) => Err(error),
                    }
                }
            };
            buffer.set_place(core::ptr::null_mut(), BlockIndex(0));
            self.cache.put_kept(kept);
            return outcome;
        }
    }

    /// Takes a buffer out that stands here. What is dirty is lost.
    pub(super) fn take_out(&self, buffer: &LockedBuffer<'a, M>) {
        let cache = self.cache;
        cache.lru.remove(buffer);
        let mut reserve = cache.nodes.no_reserve();
        let (_, index) = buffer.place();
        let mut tree = self.tree.lock(self.machine());
        let Ok(Entry::Item(kept)) = tree.remove(index.extent(), &mut reserve) else {
            panic!("invariant BUF-1 broken: a buffer does not stand at {index:?}");
        };
        tree.buffers -= 1;
        buffer.set_place(core::ptr::null_mut(), BlockIndex(0));
        drop(tree);
        cache.put_kept(kept);
    }

    /// The buffer that stands at an index or next behind it, locked, and its index. `None` if there is none; a buffer
    /// that has just gone is passed over.
    pub(super) fn next(&self, from: BlockIndex) -> Option<(BlockIndex, Option<LockedBuffer<'a, M>>)> {
        let index = BlockIndex(self.tree.lock(self.machine()).next(PageIndex(from.0))?.first.0);
        let buffer = self.lookup(index).map(BufferRef::lock);
        Some((index, buffer.filter(|buffer| self.holds(buffer, index))))
    }

    /// Gives up all contents from a byte on, whether they were written or not. The buffer that it lies in keeps what is
    /// before it, and has zeroes behind. The store is to end there too before anybody looks.
    pub fn truncate(&self, from: FileOffset) {
        let cut = BlockIndex(from.0 >> self.cache.size.shift());
        let within = from.0 % self.cache.size.bytes() as u64;
        let mut next = Some(cut);
        while let Some((index, buffer)) = next.and_then(|from| self.next(from)) {
            next = index.0.checked_add(1).map(BlockIndex);
            match (buffer, usize::try_from(within)) {
                (Some(mut buffer), Ok(within)) if index == cut && within > 0 => buffer.bytes_mut()[within..].fill(0),
                (Some(buffer), _) => self.take_out(&buffer),
                (None, _) => next = Some(index),
            }
        }
    }
}

impl<'a, M: Machine> BufferCache<'a, M> {
    /// Gives back a reference that a tree had.
    fn put_kept(&'a self, kept: NonNull<Descriptor<Buffer>>) {
        // SAFETY: the reference was kept for the tree, which does not have it any more.
        drop(unsafe { BufferRef::from_kept(self, kept) });
    }
}

impl<M: Machine> Drop for BufferMapping<'_, M> {
    /// What is dirty is lost.
    fn drop(&mut self) {
        self.truncate(FileOffset(0));
        // Release: what was done to the cache is done when that goes.
        self.cache.mappings.fetch_sub(1, Ordering::Release);
    }
}

impl<M: Machine> fmt::Debug for BufferMapping<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferMapping({} buffers)", self.buffers().0)
    }
}
