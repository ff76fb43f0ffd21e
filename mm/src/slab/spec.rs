//! What a cache is to be, and what comes of it.

use core::sync::atomic::AtomicPtr;

use thiserror::Error;

use super::cache::{Cache, CacheName, Constructor, Stability};
use super::caches::{KmemCaches, NoMemory};
use super::debug::{Anatomy, DebugFlags, Growth, Watch};
use super::layout::{Around, MARK, SlabLayout, WhileFree};
use super::lists::Slabs;
use super::sheaf;
use super::sides::Sides;
use crate::lock::Mutex;
use crate::machine::{Geometry, Machine};
use crate::page::Request;
use crate::units::Order;
use crate::zone::ZoneKind;

/// What a cache is to be.
#[derive(Clone, Copy, Debug)]
pub struct CacheSpec<'s> {
    pub(super) name: &'s str,
    pub(super) size: u32,
    pub(super) align: u32,
    pub(super) constructor: Option<Constructor>,
    pub(super) request: Request,
    pub(super) stability: Stability,
    /// Bytes of a constructed object that it keeps while it is free, if not all.
    kept: Option<u32>,
    pub(super) debug: DebugFlags,
}

impl<'s> CacheSpec<'s> {
    /// A cache of objects of `size` bytes, aligned to eight.
    pub const fn new(name: &'s str, size: u32) -> Self {
        let (constructor, request, debug) = (None, Request::new(Order::ZERO), DebugFlags::empty());
        Self { name, size, align: 8, constructor, request, stability: Stability::Ordinary, kept: None, debug }
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

    /// The same, with slabs allocated by this request, whose order does not matter. They are never highmem: objects have
    /// addresses.
    #[must_use]
    pub const fn from(self, request: Request) -> Self {
        Self { request, ..self }
    }

    /// The same, debugged, whatever else is asked for all caches.
    #[must_use]
    pub const fn debugged(self, flags: DebugFlags) -> Self {
        Self { debug: self.debug.union(flags), ..self }
    }

    /// The same, with objects that need to stay what the constructor made them only in their first `bytes`.
    pub(crate) const fn keeping(self, bytes: u32) -> Self {
        Self { kept: Some(bytes), ..self }
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

impl<M: Machine> KmemCaches<'_, M> {
    /// What a cache will be that may be one of those to debug. Where no slab holds objects with all that is asked for
    /// around them, or only a larger one than may be, there is less around them.
    pub(super) fn plan_debugged(&self, spec: &CacheSpec<'_>) -> Result<Cache, CreateError> {
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
        let CacheSpec { name, size, align, constructor, request, stability, kept, debug } = *spec;
        let around = Anatomy::around(debug, align.max(MARK));
        let contents = match (constructor, kept) {
            (Some(_), Some(kept)) if debug.is_empty() => WhileFree::KeptTo(kept),
            (Some(_), _) => WhileFree::Kept,
            // A mark in a smaller object than itself would lie in what is behind.
            (None, _) if around != Around::default() && size < MARK => WhileFree::Kept,
            (None, _) => WhileFree::Forgotten,
        };
        let layout = SlabLayout::new(size, align, contents, around, M::Geometry::MAX_ORDER);
        let layout = layout.ok_or(CreateError::Impossible { size, align })?;
        let name = name.chars().fold(CacheName::new(), |mut short, next| {
            // What is too long for a name is left out of it.
            let _ = short.try_push(next);
            short
        });
        Ok(Cache {
            sides: Sides::NONE,
            layout,
            name,
            constructor,
            stability,
            request: request.with_order(layout.order).up_to(request.highest.min(ZoneKind::Normal)),
            sheaf_objects: if debug.is_empty() { sheaf::capacity(layout.stride) } else { 0 },
            watch: (!debug.is_empty()).then(|| Watch::new(&layout, debug, constructor)),
            slabs: Mutex::new(Slabs::new(0)),
            closing: Mutex::new(()),
            next: AtomicPtr::new(core::ptr::null_mut()),
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
