//! What a replay holds for one block of the trace: a folio that stands in a mapping, other memory of an owner of its own,
//! or plain memory.

use core::fmt;
use core::ptr::NonNull;
use core::slice;

use arrayvec::ArrayVec;
use mm::cache::MappingRef;
use mm::charge::GroupId;
use mm::migratetype::Migratetype;
use mm::owner::{Folio, OwnError, Owned, PageTable, TableLevel};
use mm::page::{AllocError, Block, Request};
use mm::trace::{AllocationFlags, BlockId};
use mm::units::{Bytes, Order, PAGE_SIZE, PageIndex, Pfn};
use mm::zone::ZoneKind;

use crate::memory::{Caches, MachineOwners};
use crate::platform::Platform;

/// A block's name: an index into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(pub(super) u32);

impl From<BlockId> for Id {
    fn from(id: BlockId) -> Self {
        // A name beyond 32 bits is none of any table's.
        Self(u32::try_from(id.index()).unwrap_or(u32::MAX))
    }
}

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
    /// Memory that can move, or may be highmem: files' and anonymous memory.
    Folio,
    /// Memory that can be reclaimed by who has it.
    Plain,
    /// Kernel memory that is charged or zeroed, as page tables are.
    Table,
    /// Other kernel memory: an object, in a slab or a block of its own.
    Object,
}

impl Wanted {
    pub(super) fn kind(&self) -> Kind {
        let owned = AllocationFlags::ACCOUNTED | AllocationFlags::ZEROED;
        if self.migratetype == Migratetype::Movable || self.flags.contains(AllocationFlags::HIGHMEM) {
            Kind::Folio
        } else if self.migratetype != Migratetype::Unmovable {
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

/// A mapping for each size of folios.
pub(super) type Mappings = ArrayVec<MappingRef<'static, Platform>, ORDERS>;

pub(super) const ORDERS: usize = Order::LIMIT.index() + 1;

/// Where memory of all kinds comes from.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) allocator: &'static crate::memory::Allocator,
    pub(super) caches: &'static Caches,
    pub(super) owners: &'static MachineOwners,
    /// Where folios stand, a mapping for each size: each at the place that its block's name has among those of its size.
    pub(super) mappings: Mappings,
}

/// Memory of one block of the trace; dropping it frees it.
#[derive(Debug)]
pub(super) enum Held {
    Folio(Standing),
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
    pub(super) fn alloc(source: &Source, wanted: &Wanted, id: Id) -> Result<Self, AllocError> {
        let exhausted = AllocError::Exhausted(wanted.request());
        let no_owner = |error| match error {
            OwnError::Pages(error) => error,
            OwnError::Descriptor(_) | OwnError::Foreign => exhausted,
        };
        match wanted.kind() {
            Kind::Folio => {
                let folio =
                    source.owners.alloc(wanted.request(), Folio::new()).map_err(|(_, error)| no_owner(error))?;
                Standing::give(source, folio, id).ok_or(exhausted).map(Self::Folio)
            }
            Kind::Plain => source.allocator.alloc(wanted.request()).map(Self::Plain),
            Kind::Table => {
                let table = source.owners.alloc(wanted.request(), PageTable::new(TableLevel(1)));
                table.map(Self::Table).map_err(|(_, error)| no_owner(error))
            }
            Kind::Object => Object::alloc(source.caches, wanted.order).map(Self::Object).ok_or(exhausted),
        }
    }

    pub(super) fn order(&self) -> Order {
        match self {
            Self::Folio(folio) => folio.order,
            Self::Plain(block) => block.order(),
            Self::Table(table) => table.order(),
            Self::Object(object) => object.order,
        }
    }

    /// The pages that `group` pays for.
    pub(super) fn pages_charged_to(&self, group: GroupId) -> u32 {
        let payer = match self {
            Self::Folio(folio) => folio.payer,
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
            Self::Folio(folio) => folio.with_page(number, look),
            Self::Plain(block) => block.with_page(block.head().plus(number), look),
            Self::Table(table) => table.with_page(table.head().plus(number), look),
            Self::Object(object) => object.page(number).map(look),
        }
    }

    /// The frame of one of its pages.
    pub(super) fn frame(&self, number: u32) -> Pfn {
        match self {
            Self::Folio(folio) => folio.head.plus(number),
            Self::Plain(block) => block.head().plus(number),
            Self::Table(table) => table.head().plus(number),
            Self::Object(object) => object.head().plus(number),
        }
    }
}

/// A folio in a mapping, which alone refers to it.
#[derive(Debug)]
pub(super) struct Standing {
    mapping: MappingRef<'static, Platform>,
    index: PageIndex,
    head: Pfn,
    order: Order,
    payer: GroupId,
}

impl Standing {
    /// Puts a folio at the place of a block's name; `None` if there is no memory for the tree.
    fn give(source: &Source, folio: Owned<'static, Platform, Folio>, Id(id): Id) -> Option<Self> {
        let (head, order, payer) = (folio.head(), folio.order(), folio.group());
        let (mapping, index) = (&source.mappings[order.index()], PageIndex(u64::from(id) << order.number()));
        mapping.give(folio, index).ok()?;
        Some(Self { mapping: mapping.get(), index, head, order, payer })
    }

    /// Copies a page out and, if that changes it, in again.
    fn with_page<R>(&self, number: u32, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        let offset = (number < self.order.pages()).then(|| self.index.plus(u64::from(number)).start())?;
        let mut page = [0; PAGE_SIZE];
        self.mapping.read(offset, &mut page).ok()?;
        let before = page;
        let result = look(&mut page);
        if page != before {
            self.mapping.write(offset, &page).ok()?;
        }
        Some(result)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        self.mapping.forget(self.index);
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
