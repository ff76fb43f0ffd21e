//! A buffer: its descriptor, references to it, and its lock.
//!
//! Where its bytes are never changes. Who wants to see them holds the lock, a bit that spins; reclaim only tries.
#![expect(unsafe_code, reason = "descriptors and bytes are objects of caches until they are given back")]

#[cfg(all(test, loom))]
mod loom;

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use core::slice;

use bitflags::bitflags;
use intrusive_collections::{LinkedListAtomicLink, UnsafeRef};

use super::buffer_cache::BufferCache;
use super::mapping::BlockIndex;
use crate::descriptor::{Descriptor, Keeper, Put};
use crate::lock::may_wait;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::slab::NoMemory;
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use crate::units::{Order, Pfn};

bitflags! {
    /// The state of a buffer.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct BufferFlags: u32 {
        /// Somebody holds its lock.
        const LOCKED = 1;
        /// The contents are the store's, or newer.
        const UPTODATE = 1 << 1;
        /// The contents are newer than the store's.
        const DIRTY = 1 << 2;
        /// Used since it was last looked at.
        const REFERENCED = 1 << 3;
        /// Of the generation that is used again and again.
        const ACTIVE = 1 << 4;
    }
}

/// What a buffer's descriptor keeps. Its references are the descriptor's.
#[derive(Debug)]
pub struct Buffer {
    flags: AtomicU32,
    data: NonNull<u8>,
    mapping: AtomicPtr<()>,
    index: AtomicU64,
    pub(super) lru: LinkedListAtomicLink,
}

// SAFETY: BUF-3, the bytes are touched only under the lock.
unsafe impl Sync for Buffer {}
// SAFETY: as above.
unsafe impl Send for Buffer {}

// A cache line.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Descriptor<Buffer>>() == 64);

impl Buffer {
    /// The state.
    pub fn flags(&self) -> BufferFlags {
        BufferFlags::from_bits_retain(self.flags.load(Ordering::Acquire))
    }

    /// Sets flags. Says what was set before.
    pub(super) fn set(&self, flags: BufferFlags) -> BufferFlags {
        BufferFlags::from_bits_retain(self.flags.fetch_or(flags.bits(), Ordering::AcqRel))
    }

    /// Clears flags. Says what was set before.
    pub(super) fn clear(&self, flags: BufferFlags) -> BufferFlags {
        BufferFlags::from_bits_retain(self.flags.fetch_and(!flags.bits(), Ordering::AcqRel))
    }

    /// The mapping in which it stands, and where. Stable under its lock.
    pub(super) fn place(&self) -> (*mut (), BlockIndex) {
        // Acquire pairs with the release in `set_place`.
        let mapping = self.mapping.load(Ordering::Acquire);
        (mapping, BlockIndex(self.index.load(Ordering::Relaxed)))
    }

    /// Puts it into a mapping, or into none. The caller holds the locks of both.
    pub(super) fn set_place(&self, mapping: *mut (), BlockIndex(index): BlockIndex) {
        self.index.store(index, Ordering::Relaxed);
        self.mapping.store(mapping, Ordering::Release);
    }

    /// Where its bytes stand.
    pub(super) const fn data(&self) -> NonNull<u8> {
        self.data
    }
}

/// A reference to a buffer.
///
/// # Invariants
/// It is counted in the descriptor's life (DESC-2).
pub struct BufferRef<'a, M: Machine> {
    cache: &'a BufferCache<'a, M>,
    descriptor: NonNull<Descriptor<Buffer>>,
}

// SAFETY: it shares a buffer, which is `Send` and `Sync`, and may be given up on any CPU.
unsafe impl<M: Machine> Send for BufferRef<'_, M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Sync for BufferRef<'_, M> {}

impl<'a, M: Machine> BufferRef<'a, M> {
    /// A buffer that stands nowhere, all zeroes, and locked.
    pub(super) fn make(cache: &'a BufferCache<'a, M>) -> Result<LockedBuffer<'a, M>, NoMemory> {
        let mut data = cache.data.alloc()?;
        for byte in data.bytes_mut() {
            byte.write(0);
        }
        let descriptor: NonNull<Descriptor<Buffer>> = cache.descriptors.alloc_raw()?.cast();
        let data = data.into_raw();
        let buffer = Buffer {
            flags: AtomicU32::new(BufferFlags::LOCKED.bits()),
            data,
            mapping: AtomicPtr::new(core::ptr::null_mut()),
            index: AtomicU64::new(0),
            lru: LinkedListAtomicLink::new(),
        };
        let page = Pfn::containing(cache.caches.pages.machine().physical(data)).unwrap_or(Pfn::LIMIT);
        // SAFETY: the cache makes descriptors, and they stay that.
        let described = unsafe { descriptor.as_ref() };
        // SAFETY: the descriptor was just had.
        unsafe { described.begin(page, Order::ZERO, Keeper::NOBODY, buffer) };
        Ok(LockedBuffer(Self { cache, descriptor }))
    }

    /// Takes a reference to what has that descriptor, if it is alive.
    ///
    /// # Safety
    /// The descriptor stood in a tree of this cache's while the caller walks, or still does.
    pub(super) unsafe fn find(cache: &'a BufferCache<'a, M>, descriptor: NonNull<Descriptor<Buffer>>) -> Option<Self> {
        // SAFETY: the memory of descriptors stays that as long as anybody walks.
        let life = unsafe { descriptor.as_ref() }.life();
        life.try_get(life.look()?.generation)?;
        Some(Self { cache, descriptor })
    }

    /// Takes a reference to a buffer that is in a generation, whose lists are locked.
    ///
    /// # Safety
    /// The address is that of a buffer of this cache which has a reference.
    pub(super) unsafe fn listed(cache: &'a BufferCache<'a, M>, buffer: NonNull<Buffer>) -> Self {
        // SAFETY: buffers stand in descriptors.
        let descriptor = unsafe { Descriptor::around(buffer) };
        // SAFETY: the caller's promise.
        unsafe { descriptor.as_ref() }.life().get();
        Self { cache, descriptor }
    }

    /// The buffer as an element of a list.
    ///
    /// # Safety
    /// There is a reference to it as long as it is on the list.
    pub(super) unsafe fn linked(&self) -> UnsafeRef<Buffer> {
        // SAFETY: the caller's promise.
        unsafe { UnsafeRef::from_raw(Descriptor::place_of_owner(self.descriptor).as_ptr()) }
    }

    pub(super) fn machine(&self) -> &'a M {
        self.cache.machine()
    }

    fn described(&self) -> &Descriptor<Buffer> {
        // SAFETY: DESC-2, this is a reference.
        unsafe { self.descriptor.as_ref() }
    }

    /// Another reference.
    pub(super) fn get(&self) -> Self {
        self.described().life().get();
        Self { cache: self.cache, descriptor: self.descriptor }
    }

    /// Gives up the reference without giving it back: the descriptor's address stands for it.
    pub(super) fn into_kept(self) -> NonNull<Descriptor<Buffer>> {
        ManuallyDrop::new(self).descriptor
    }

    /// Takes a reference back.
    ///
    /// # Safety
    /// The address stands for a reference, and is taken back once.
    pub(super) const unsafe fn from_kept(
        cache: &'a BufferCache<'a, M>,
        descriptor: NonNull<Descriptor<Buffer>>,
    ) -> Self {
        Self { cache, descriptor }
    }

    /// Locks the buffer. Spins.
    pub(super) fn lock(self) -> LockedBuffer<'a, M> {
        may_wait::<class::Buffer>(self.machine());
        while self.set(BufferFlags::LOCKED).contains(BufferFlags::LOCKED) {
            while self.flags().contains(BufferFlags::LOCKED) {
                crate::sync::spin_loop();
            }
        }
        LockedBuffer(self)
    }

    /// Locks the buffer, if nobody has it locked.
    pub(super) fn try_lock(self) -> Option<LockedBuffer<'a, M>> {
        let before = self.set(BufferFlags::LOCKED);
        (!before.contains(BufferFlags::LOCKED)).then(|| LockedBuffer(self))
    }
}

impl<M: Machine> Deref for BufferRef<'_, M> {
    type Target = Buffer;

    fn deref(&self) -> &Buffer {
        // SAFETY: DESC-2, this is a reference, and lives as long as the borrow.
        unsafe { self.described().owner() }
    }
}

impl<M: Machine> Drop for BufferRef<'_, M> {
    fn drop(&mut self) {
        match self.described().life().put() {
            Put::Others => return,
            Put::Last => {}
        }
        // SAFETY: that was the last reference, and this is done once for it.
        let Buffer { data, .. } = unsafe { self.described().take() };
        // SAFETY: the bytes were the buffer's, to which nobody refers.
        let freed = unsafe { self.cache.data.free_raw(data) };
        debug_assert!(freed.is_ok(), "invariant SLAB-1 broken: a buffer's bytes cannot be freed");
        // SAFETY: no tree leads to the descriptor, and it is dead.
        let freed = unsafe { self.cache.descriptors.free_raw(self.descriptor.cast()) };
        debug_assert!(freed.is_ok(), "invariant SLAB-1 broken: a buffer's descriptor cannot be freed");
    }
}

impl<M: Machine> fmt::Debug for BufferRef<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:?}, {:?})", self.place().1, self.flags())
    }
}

/// A buffer that is locked until this drops.
#[derive(Debug)]
#[must_use = "the buffer is unlocked when this drops"]
pub(super) struct LockedBuffer<'a, M: Machine>(BufferRef<'a, M>);

impl<M: Machine> LockedBuffer<'_, M> {
    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: BUF-3, the lock is held; there are that many, and they were written when the buffer was made.
        unsafe { slice::from_raw_parts(self.0.data.as_ptr(), self.0.cache.size.bytes()) }
    }

    /// Its bytes, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { slice::from_raw_parts_mut(self.0.data.as_ptr(), self.0.cache.size.bytes()) }
    }
}

impl<'a, M: Machine> Deref for LockedBuffer<'a, M> {
    type Target = BufferRef<'a, M>;

    fn deref(&self) -> &BufferRef<'a, M> {
        &self.0
    }
}

impl<M: Machine> Drop for LockedBuffer<'_, M> {
    fn drop(&mut self) {
        self.0.clear(BufferFlags::LOCKED);
    }
}
