//! All caches of a machine, and the way from an address to its cache.
//!
//! Cost: allocating and freeing is what `cpu` costs; freeing by address alone adds the look-up of the page's owner, two
//! dependent loads of tables and two of descriptors.
#![expect(unsafe_code, reason = "caches live in objects of the cache of caches")]

use core::fmt;
use core::num::NonZeroU16;
use core::panic::Location;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use spin::Mutex;
use thiserror::Error;

use super::cache::{Cache, CacheName, Constructor, Stability, is_marked, mark, unmark};
use super::cpu::{CpuSheaf, Slot};
use super::debug::{Anatomy, Corruption, DebugFlags, Growth, History, SlabDebug, Watch};
use super::descriptor::{Slab, SlabPointer};
use super::kmalloc::{CLASSES, LargeBlocks};
use super::layout::{Around, MARK, SlabLayout, WhileFree};
use super::lists::Slabs;
use super::sheaf::{self, Sheaf};
use crate::OwnerKind;
use crate::descriptor::Descriptor;
use crate::machine::{Geometry, Machine};
use crate::page::{PageAllocator, Request};
use crate::units::{Order, PfnRange};

/// There is no memory for an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("no memory for an object")]
pub struct NoMemory;

/// What a cache is to be.
#[derive(Clone, Copy, Debug)]
pub struct CacheSpec<'s> {
    pub(super) name: &'s str,
    pub(super) size: u32,
    pub(super) align: u32,
    pub(super) constructor: Option<Constructor>,
    pub(super) request: Request,
    pub(super) stability: Stability,
    pub(super) debug: DebugFlags,
}

impl<'s> CacheSpec<'s> {
    /// A cache of objects of `size` bytes, aligned to eight.
    pub const fn new(name: &'s str, size: u32) -> Self {
        let (constructor, request, debug) = (None, Request::new(Order::ZERO), DebugFlags::empty());
        Self { name, size, align: 8, constructor, request, stability: Stability::Ordinary, debug }
    }

    /// The same, aligned to `align` bytes: a power of two up to the size of a slab.
    #[must_use]
    pub const fn aligned(self, align: u32) -> Self {
        Self { align, ..self }
    }

    /// The same, with objects that are what `constructor` makes them whenever they are allocated, so long as they are
    /// that when they are freed.
    #[must_use]
    pub const fn constructed(self, constructor: Constructor) -> Self {
        Self { constructor: Some(constructor), ..self }
    }

    /// The same, with slabs allocated by this request, whose order does not matter.
    #[must_use]
    pub const fn from(self, request: Request) -> Self {
        Self { request, ..self }
    }

    /// The same, debugged, whatever else is asked for all caches.
    #[must_use]
    pub const fn debugged(self, flags: DebugFlags) -> Self {
        Self { debug: self.debug.union(flags), ..self }
    }

    /// The same, for descriptors.
    pub(crate) const fn type_stable(self) -> Self {
        Self { stability: Stability::TypeStable, ..self }
    }
}

/// Why a cache was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CreateError {
    /// No block is as large as one such object, or it has no size.
    #[error("no slab holds an object of {size} bytes, aligned to {align}")]
    Impossible {
        /// Bytes of an object.
        size: u32,
        /// What it is to be aligned to.
        align: u32,
    },
    /// There is no memory for the cache itself.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// An address, as reports name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address(pub(super) usize);

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Why an object was not freed; everything is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FreeObjectError {
    /// Nothing there belongs to any cache.
    #[error("foreign pointer: {0:?} is no object's, of any cache")]
    Foreign(Address),
    /// The object is of another cache.
    #[error("wrong cache: {address:?} is of cache {found}, not of {expected}")]
    WrongCache {
        /// What was to be freed.
        address: Address,
        /// The cache that was to take it.
        expected: CacheName,
        /// The cache that it is of.
        found: CacheName,
    },
    /// The address is in a slab, but no object starts there.
    #[error("misaligned pointer: no object of cache {cache} starts at {address:?}")]
    Misaligned {
        /// What was to be freed.
        address: Address,
        /// The cache whose slab it is in.
        cache: CacheName,
    },
    /// The object is free.
    #[error("double free: {address:?} of cache {cache} is free already{history}")]
    DoubleFree {
        /// What was to be freed.
        address: Address,
        /// Its cache.
        cache: CacheName,
        /// Who had it, if that was recorded.
        history: History,
    },
    /// The object is allocated, but somebody wrote where he may not; that is put right.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

/// All caches of a machine.
///
/// Dropping it gives every page back, whatever is still allocated; nothing can refer to that any more.
pub struct KmemCaches<'a, M: Machine> {
    pub(crate) pages: &'a PageAllocator<'a, M>,
    pub(super) cpus: NonZeroU16,
    pub(super) first: First,
    pub(super) kmalloc: [NonNull<Cache>; CLASSES],
    pub(super) large: LargeBlocks,
    pub(super) all: Mutex<AllCaches>,
    /// Which caches are debugged.
    pub(super) debug: SlabDebug,
}

// SAFETY: caches are `Sync`, and live as long as this.
unsafe impl<M: Machine> Sync for KmemCaches<'_, M> {}
// SAFETY: as above.
unsafe impl<M: Machine> Send for KmemCaches<'_, M> {}

/// The caches that the others are made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    /// Of caches.
    pub(super) caches: NonNull<Cache>,
    /// Of slabs' descriptors.
    pub(super) slabs: NonNull<Cache>,
    /// Of sheaves.
    pub(super) sheaves: NonNull<Cache>,
    /// Of caches' sides for all CPUs.
    pub(super) cpus: NonNull<Cache>,
}

/// The list of all caches, the youngest first.
#[derive(Debug)]
pub(super) struct AllCaches {
    pub(super) youngest: Option<NonNull<Cache>>,
}

impl AllCaches {
    pub(super) fn push(&mut self, cache: NonNull<Cache>) {
        let next = self.youngest.replace(cache);
        Self::link(cache, next);
    }

    /// Takes a cache off the list.
    pub(super) fn remove(&mut self, cache: NonNull<Cache>) {
        let next = Self::behind(cache);
        if self.youngest == Some(cache) {
            self.youngest = next;
            return;
        }
        let mut at = self.youngest;
        while let Some(before) = at {
            at = Self::behind(before);
            if at == Some(cache) {
                Self::link(before, next);
                return;
            }
        }
    }

    /// Every cache, the youngest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = NonNull<Cache>> {
        core::iter::successors(self.youngest, |&cache| Self::behind(cache))
    }

    fn behind(cache: NonNull<Cache>) -> Option<NonNull<Cache>> {
        // SAFETY: caches on the list are alive. Relaxed, since the list is locked.
        NonNull::new(unsafe { live(cache) }.next.load(Ordering::Relaxed))
    }

    fn link(cache: NonNull<Cache>, next: Option<NonNull<Cache>>) {
        let next = next.map_or(core::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: as above.
        unsafe { live(cache) }.next.store(next, Ordering::Relaxed);
    }
}

impl<M: Machine> fmt::Debug for KmemCaches<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KmemCaches").field("cpus", &self.cpus).finish_non_exhaustive()
    }
}

// SAFETY: caches are `Sync`, and live as long as they are on the list.
unsafe impl Send for AllCaches {}

/// A cache that is alive: the first ones and those of `kmalloc` as long as all are, others as long as their handles.
///
/// # Safety
/// The cache is one of those, for as long as `'c`.
#[inline(always)]
pub(super) const unsafe fn live<'c>(cache: NonNull<Cache>) -> &'c Cache {
    // SAFETY: the caller's promise.
    unsafe { cache.as_ref() }
}

impl<M: Machine> KmemCaches<'_, M> {
    /// Makes a cache.
    ///
    /// # Errors
    /// No slab holds such an object, or there is no memory.
    pub(super) fn new_cache(&self, spec: &CacheSpec<'_>) -> Result<NonNull<Cache>, CreateError> {
        let mut cache = self.plan_debugged(spec)?;
        let place = self.alloc_for(self.first.caches)?.cast::<Cache>();
        match self.cpu_sides(&cache) {
            Ok(cpus) => cache.cpus = cpus,
            Err(error) => {
                self.free_for(self.first.caches, place.cast());
                return Err(error.into());
            }
        }
        // SAFETY: the place is an object of the cache of caches, just allocated, and as large and aligned as a cache.
        unsafe { place.write(cache) };
        self.all.lock().push(place);
        Ok(place)
    }

    /// What a cache will be that may be one of those to debug. Where no slab holds objects with all that is asked for
    /// around them, or only a larger one than may be, there is less around them.
    fn plan_debugged(&self, spec: &CacheSpec<'_>) -> Result<Cache, CreateError> {
        let wanted = self.debug.wanted(spec.name);
        let plain = Self::plan(&spec.debugged(wanted.in_place()))?;
        match Self::plan(&spec.debugged(wanted.flags)) {
            Ok(debugged) if wanted.growth == Growth::Allowed || debugged.layout.order <= plain.layout.order => {
                Ok(debugged)
            }
            _ => Ok(plain),
        }
    }

    /// What a cache will be, but for its CPUs' sides.
    pub(super) fn plan(spec: &CacheSpec<'_>) -> Result<Cache, CreateError> {
        let CacheSpec { name, size, align, constructor, request, stability, debug } = *spec;
        let around = Anatomy::around(debug, align.max(MARK));
        // A mark in a smaller object than itself would lie in what is behind.
        let kept = constructor.is_some() || (around != Around::default() && size < MARK);
        let contents = if kept { WhileFree::Kept } else { WhileFree::Forgotten };
        let layout = SlabLayout::new(size, align, contents, around, M::Geometry::MAX_ORDER);
        let layout = layout.ok_or(CreateError::Impossible { size, align })?;
        let name = name.chars().fold(CacheName::new(), |mut short, next| {
            // What is too long for a name is left out of it.
            let _ = short.try_push(next);
            short
        });
        Ok(Cache {
            cpus: NonNull::dangling(),
            layout,
            name,
            constructor,
            stability,
            request: request.with_order(layout.order),
            sheaf_objects: if debug.is_empty() { sheaf::capacity(layout.stride) } else { 0 },
            watch: (!debug.is_empty()).then(|| Watch::new(&layout, debug, constructor)),
            slabs: Mutex::new(Slabs::new(0)),
            closing: Mutex::new(()),
            next: AtomicPtr::new(core::ptr::null_mut()),
        })
    }

    /// Every CPU's side of a cache, with a sheaf each if sheaves have room for any object.
    fn cpu_sides(&self, cache: &Cache) -> Result<NonNull<CpuSheaf>, NoMemory> {
        let sheaf_objects = cache.sheaf_objects;
        let sides = self.alloc_for(self.first.cpus)?.cast::<CpuSheaf>();
        for cpu in 0..usize::from(self.cpus.get()) {
            // Addresses in a debugged cache are all looked at closely.
            let mask = if cache.watch.is_some() { usize::MAX } else { cache.layout.address_mask() };
            let mut side = CpuSheaf::closed(mask);
            if sheaf_objects > 0 {
                let Ok(sheaf) = self.new_sheaf() else {
                    self.free_cpu_sides(sides, cpu);
                    return Err(NoMemory);
                };
                side.start(sheaf, sheaf_objects);
            }
            // SAFETY: the object has room for a side of each CPU.
            let place = unsafe { sides.add(cpu) };
            // SAFETY: the place is the new cache's alone.
            unsafe { place.write(side) };
        }
        Ok(sides)
    }

    /// Takes back the sides of the first `made` CPUs, which are closed or were never used.
    pub(super) fn free_cpu_sides(&self, sides: NonNull<CpuSheaf>, made: usize) {
        for cpu in 0..made {
            // SAFETY: the object has room for a side of each CPU.
            let place = unsafe { sides.add(cpu) };
            // SAFETY: this one was written, and nobody uses it any more.
            let mut side = unsafe { place.read() };
            for sheaf in side.dismantle().into_iter().flatten() {
                self.free_for(self.first.sheaves, sheaf.cast());
            }
        }
        self.free_for(self.first.cpus, sides.cast());
    }

    /// An empty sheaf that is nobody's.
    pub(super) fn new_sheaf(&self) -> Result<NonNull<Sheaf>, NoMemory> {
        let sheaf = self.alloc_for(self.first.sheaves)?.cast::<Sheaf>();
        // SAFETY: the object is as large and aligned as a sheaf, and was just allocated.
        unsafe { sheaf.write(Sheaf::new()) };
        Ok(sheaf)
    }

    /// An object of one of the first caches.
    pub(super) fn alloc_for(&self, cache: NonNull<Cache>) -> Result<NonNull<u8>, NoMemory> {
        // SAFETY: the first caches live as long as `self`.
        self.alloc_from(unsafe { live(cache) })
    }

    /// Takes back an object of one of the first caches.
    pub(super) fn free_for(&self, cache: NonNull<Cache>, object: NonNull<u8>) {
        // SAFETY: as above.
        self.free_to(unsafe { live(cache) }, object);
    }

    /// Allocates an object of a cache.
    #[inline(always)]
    #[track_caller]
    pub(super) fn alloc_from(&self, cache: &Cache) -> Result<NonNull<u8>, NoMemory> {
        Ok(cache.object(self.alloc_slot(cache)?))
    }

    /// Allocates an object of a cache, and gives its slot.
    #[inline(always)]
    #[track_caller]
    pub(super) fn alloc_slot(&self, cache: &Cache) -> Result<Slot, NoMemory> {
        let machine = self.pages.machine();
        if machine.allocation_fault().is_some() {
            return Err(NoMemory);
        }
        match cache.cpu(machine.cpu()).take() {
            Some(slot) => {
                unmark(slot);
                Ok(slot)
            }
            None => self.alloc_slowly(cache),
        }
    }

    /// Takes back an object that is known to be the cache's, and allocated.
    #[inline(always)]
    #[track_caller]
    pub(super) fn free_to(&self, cache: &Cache, object: NonNull<u8>) {
        self.free_slot(cache.slot(object), cache.cpu(self.pages.machine().cpu()), || cache);
    }

    /// Takes back a slot of the cache that this is a side of.
    #[inline(always)]
    #[track_caller]
    fn free_slot<'c>(&self, slot: Slot, cpu: &CpuSheaf, cache: impl FnOnce() -> &'c Cache) {
        mark(slot);
        if let Err(slot) = cpu.put(slot) {
            self.free_slowly(cache(), slot);
        }
    }

    /// The slab that an address lies in, if it is in one.
    ///
    /// It stays one while the caller owns an object in it, or holds its cache's lock and it is on a list of that.
    #[inline(always)]
    pub(super) fn slab_of(&self, address: NonNull<u8>) -> Option<SlabPointer> {
        let page = self.pages.page_at(self.pages.machine().physical(address))?;
        page.owner().descriptor(OwnerKind::Slab)
    }

    /// The pages of the slab that an address lies in, at this moment; `None` if it is in none.
    #[inline]
    pub fn slab_pages(&self, address: NonNull<u8>) -> Option<PfnRange> {
        let _walking = self.pages.gate().enter();
        let slab = self.slab_of(address)?;
        // SAFETY: descriptors are type-stable while somebody walks.
        let described = unsafe { slab.as_ref() }.life().look()?;
        Some(described.range())
    }

    /// Takes back whatever stands at `address`, of any cache.
    ///
    /// # Safety
    /// Nobody uses the object any more; if it is none, what is in its memory need only be readable.
    #[inline(always)]
    #[track_caller]
    pub(super) unsafe fn free_at(&self, address: NonNull<u8>) -> Result<(), FreeObjectError> {
        let foreign = FreeObjectError::Foreign(Address::of(address));
        let owner = self.pages.page_at(self.pages.machine().physical(address)).ok_or(foreign)?.owner();
        if !owner.is(OwnerKind::Slab) {
            return Err(foreign);
        }
        // SAFETY: just looked.
        let slab: SlabPointer = unsafe { owner.descriptor_of(OwnerKind::Slab) };
        // SAFETY: the caller's promise: an object of the slab is its own, so the slab stays.
        let slab = unsafe { slab.as_ref() };
        // SAFETY: as above.
        let slab = unsafe { slab.owner() };
        let cpu = slab.cpu(self.pages.machine().cpu());
        let exact = address.addr().get() & cpu.address_mask == 0;
        if !exact || is_marked(address) {
            return self.free_checked(slab, address);
        }
        // SAFETY: a cache with a slab is alive.
        self.free_slot(address, cpu, || unsafe { live(slab.cache()) });
        Ok(())
    }

    /// Takes back what stands at `address`, of this cache.
    ///
    /// # Safety
    /// As for [`free_at`](Self::free_at).
    #[track_caller]
    pub(super) unsafe fn free_of(&self, address: NonNull<u8>, expected: &Cache) -> Result<(), FreeObjectError> {
        let slab = self.slab_of(address).ok_or(FreeObjectError::Foreign(Address::of(address)))?;
        // SAFETY: the caller's promise: an object of the slab is its own, so the slab stays.
        let slab = unsafe { slab.as_ref() };
        // SAFETY: as above.
        let slab = unsafe { slab.owner() };
        // SAFETY: a cache with a slab is alive.
        let found = unsafe { live(slab.cache()) };
        if !core::ptr::eq(expected, found) {
            let (expected, found) = (expected.name, found.name);
            return Err(FreeObjectError::WrongCache { address: Address::of(address), expected, found });
        }
        self.free_checked(slab, address)
    }

    /// Takes back what stands at `address` in a slab, once it is sure that it is an object, and not free.
    #[inline(never)]
    #[track_caller]
    fn free_checked(&self, slab: &Slab, address: NonNull<u8>) -> Result<(), FreeObjectError> {
        // SAFETY: a cache with a slab is alive.
        let cache = unsafe { live(slab.cache()) };
        let slot = address.map_addr(|address| address.saturating_add(cache.layout.mark as usize));
        let address = Address::of(address);
        if cache.layout.slot_at(slab.offset(slot)).is_none() {
            return Err(FreeObjectError::Misaligned { address, cache: cache.name });
        }
        if let Some(watch) = &cache.watch {
            return self.free_debugged(cache, watch, slot, Location::caller());
        }
        if is_marked(slot) && self.is_free(cache, slot) {
            return Err(FreeObjectError::DoubleFree { address, cache: cache.name, history: History::default() });
        }
        self.free_slot(slot, cache.cpu(self.pages.machine().cpu()), || cache);
        Ok(())
    }
}

impl Address {
    #[inline(always)]
    pub(super) fn of(address: NonNull<u8>) -> Self {
        Self(address.addr().get())
    }
}

/// A slab's descriptor in its place, unborn: what the cache of slabs' descriptors constructs.
pub(super) fn unborn<T>(bytes: &mut [core::mem::MaybeUninit<u8>]) {
    debug_assert!(bytes.len() >= size_of::<Descriptor<T>>());
    // SAFETY: the cache of these descriptors makes objects of their size and alignment.
    unsafe { bytes.as_mut_ptr().cast::<Descriptor<T>>().write(Descriptor::unborn()) };
}

const _: () = assert!(align_of::<Descriptor<Slab>>() == 16);
