//! What a replay holds for one block of the trace: plain memory, or memory of an owner of its own.

use core::fmt;
use core::ptr::NonNull;
use core::slice;

use mm::charge::GroupId;
use mm::migratetype::Migratetype;
use mm::owner::{OwnError, Owned, PageTable, TableLevel};
use mm::page::{AllocError, Block, Request};
use mm::trace::AllocationFlags;
use mm::units::{Bytes, Order, PAGE_SIZE, Pfn};
use mm::zone::ZoneKind;

use crate::memory::{Caches, MachineOwners};
use crate::platform::Platform;

/// What a record asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) order: Order,
    pub(super) migratetype: Migratetype,
    pub(super) flags: AllocationFlags,
    /// Who pays.
    pub(super) group: GroupId,
}

/// The kinds of memory that a replay asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Memory that can move, or may be highmem: files' and anonymous memory, which have no owner yet.
    Plain,
    /// Kernel memory that is charged or zeroed, as page tables are.
    Table,
    /// Other kernel memory: an object, in a slab or a block of its own.
    Object,
}

impl Wanted {
    pub(super) fn kind(&self) -> Kind {
        let owned = AllocationFlags::ACCOUNTED | AllocationFlags::ZEROED;
        if self.migratetype != Migratetype::Unmovable || self.flags.contains(AllocationFlags::HIGHMEM) {
            Kind::Plain
        } else if self.flags.intersects(owned) {
            Kind::Table
        } else {
            Kind::Object
        }
    }

    /// The request for pages anywhere.
    pub(super) const fn anywhere(&self) -> Request {
        Request::movable(self.order).with_migratetype(self.migratetype).charged_to(self.group)
    }

    /// The request for pages of the zones that the record allows.
    pub(super) fn request(&self) -> Request {
        let highmem = self.flags.contains(AllocationFlags::HIGHMEM);
        if highmem { self.anywhere() } else { self.anywhere().up_to(ZoneKind::Normal) }
    }
}

/// Where memory of all kinds comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) allocator: &'static crate::memory::Allocator,
    pub(super) caches: &'static Caches,
    pub(super) owners: &'static MachineOwners,
}

/// Memory of one block of the trace; dropping it frees it.
#[derive(Debug)]
pub(super) enum Held {
    Plain(Block<'static, Platform>),
    Table(Owned<'static, Platform, PageTable>),
    Object(Object),
}

impl Held {
    /// Allocates what a record wants.
    ///
    /// # Errors
    /// There is no such memory where the record wants it.
    #[inline]
    pub(super) fn alloc(source: Source, wanted: &Wanted) -> Result<Self, AllocError> {
        let exhausted = AllocError::Exhausted(wanted.request());
        match wanted.kind() {
            Kind::Plain => source.allocator.alloc(wanted.request()).map(Self::Plain),
            Kind::Table => {
                let table = source.owners.alloc(wanted.request(), PageTable::new(TableLevel(1)));
                table.map(Self::Table).map_err(|(_, error)| match error {
                    OwnError::Pages(error) => error,
                    _ => exhausted,
                })
            }
            Kind::Object => Object::alloc(source.caches, wanted.order).map(Self::Object).ok_or(exhausted),
        }
    }

    pub(super) fn order(&self) -> Order {
        match self {
            Self::Plain(block) => block.order(),
            Self::Table(table) => table.order(),
            Self::Object(object) => object.order,
        }
    }

    /// The pages that `group` pays for.
    pub(super) fn pages_charged_to(&self, group: GroupId) -> u32 {
        let payer = match self {
            Self::Plain(block) => block.group(),
            Self::Table(table) => table.group(),
            // The cache of the object's size pays for its slab.
            Self::Object(_) => GroupId::ROOT,
        };
        if payer == group { self.order().pages() } else { 0 }
    }

    /// Shows the bytes of one of its pages; `None` if it has none of that number.
    pub(super) fn with_page<R>(&mut self, number: u32, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        match self {
            Self::Plain(block) => block.with_page(block.head().plus(number), look),
            Self::Table(table) => table.with_page(table.head().plus(number), look),
            Self::Object(object) => object.page(number).map(look),
        }
    }

    /// The frame of one of its pages.
    pub(super) fn frame(&self, number: u32) -> Pfn {
        match self {
            Self::Plain(block) => block.head().plus(number),
            Self::Table(table) => table.head().plus(number),
            Self::Object(object) => object.head().plus(number),
        }
    }
}

/// Memory of whole pages from `kmalloc`.
pub(super) struct Object {
    caches: &'static Caches,
    start: NonNull<u8>,
    order: Order,
}

impl Object {
    fn alloc(caches: &'static Caches, order: Order) -> Option<Self> {
        let start = caches.kmalloc(Bytes(PAGE_SIZE << order.number())).ok()?;
        Some(Self { caches, start, order })
    }

    fn page(&mut self, number: u32) -> Option<&mut [u8; PAGE_SIZE]> {
        // SAFETY: the object is that large, and its holder's alone.
        let bytes = unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), PAGE_SIZE << self.order.number()) };
        bytes.as_chunks_mut().0.get_mut(number as usize)
    }

    fn head(&self) -> Pfn {
        self.caches.slab_pages(self.start).map_or(Pfn::LIMIT, |pages| pages.start)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: the object is its holder's alone, who is gone.
        if let Err(error) = unsafe { self.caches.kfree(self.start) } {
            panic!("replay: {error}");
        }
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({:p}, {:?})", self.start, self.order)
    }
}
