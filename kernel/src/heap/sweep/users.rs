//! The steps of the script that fill users' memory.

use core::pin::Pin;

use kernel_core::layout::USERS;
use mm::cache::{CacheError, GiveError, Mapping, MemoryStore, MemoryStoreError, PageCache};
use mm::folio::{SplitError, SplitTo};
use mm::owner::{Folio, OwnError, Owned};
use mm::page::Request;
use mm::space::{
    Access, AddressRange, FaultError, GupError, MapError, PageProtection, RegionError, Sharing, SpaceError, Spaces,
};
use mm::units::{Bytes, Count, FileOffset, Order, PAGE_SIZE, PageIndex, VirtualAddress};

use super::{Memory, Rest, Stopped, no_owner};
use crate::platform::Platform;
use crate::user::access::{copy_from_user, copy_to_user};
use crate::user::live;
use crate::user::mmu::ProcessorTables;

impl From<OwnError> for Stopped {
    fn from(error: OwnError) -> Self {
        no_owner(((), error))
    }
}

impl From<MemoryStoreError> for Stopped {
    fn from(_: MemoryStoreError) -> Self {
        Self::NoMemory
    }
}

impl From<CacheError> for Stopped {
    fn from(error: CacheError) -> Self {
        match error {
            CacheError::Folio(error) => error.into(),
            CacheError::Node(error) => error.into(),
            CacheError::Store(_) | CacheError::Beyond(_) | CacheError::Lost(_) => {
                Self::Wrong("a file has no such contents")
            }
        }
    }
}

impl From<GiveError> for Stopped {
    fn from(error: GiveError) -> Self {
        match error {
            GiveError::NoMemory(error) => error.into(),
            GiveError::Foreign | GiveError::Referred => {
                Self::Wrong("a folio that is to be given is somebody else's too")
            }
            GiveError::NoPlace(_) | GiveError::Occupied(_) => Self::Wrong("a folio finds no place in a mapping"),
        }
    }
}

impl From<SplitError> for Stopped {
    fn from(error: SplitError) -> Self {
        match error {
            SplitError::NoMemory(error) => error.into(),
            SplitError::NoSuchPieces | SplitError::Referred | SplitError::Pinned | SplitError::Nowhere => {
                Self::Wrong("a folio is not split")
            }
        }
    }
}

impl From<SpaceError> for Stopped {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::Table(error) => error.into(),
            SpaceError::NoMemory(error) => error.into(),
            SpaceError::TooMany => Self::Wrong("there are too many spaces"),
        }
    }
}

impl From<RegionError> for Stopped {
    fn from(error: RegionError) -> Self {
        match error {
            RegionError::NoMemory(error) => error.into(),
            RegionError::Map(MapError::NoTable(error)) => error.into(),
            _ => Self::Wrong("a region is not made or changed"),
        }
    }
}

impl From<GupError> for Stopped {
    fn from(error: GupError) -> Self {
        match error {
            GupError::Fault(FaultError::Contents(error)) => error.into(),
            GupError::Fault(FaultError::Map(MapError::NoTable(error))) => error.into(),
            _ => Self::Wrong("a user's page is not pinned"),
        }
    }
}

const fn offset(page: u64) -> FileOffset {
    PageIndex(page).start()
}

fn folio(memory: Memory, order: usize) -> Result<Owned<'static, Platform, Folio>, Stopped> {
    memory.owners.alloc(Request::movable(Order::of(order)), Folio::new()).map_err(no_owner)
}

/// Folios given to a mapping, made by it, split and copied.
pub(super) fn folios_in_mappings(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    let row = folio(memory, 3)?.split(SplitTo::Uniform(Order::ZERO)).map_err(|(_, error)| Stopped::from(error))?;
    let joined = row.join().map_err(|_| Stopped::Wrong("what was split is not joined"))?;
    PageCache::with(memory.owners, None, |cache| in_mappings(cache, joined, memory, rest))?
}

fn in_mappings(
    cache: Pin<&PageCache<'_, Platform>>,
    joined: Owned<'static, Platform, Folio>,
    memory: Memory,
    rest: Rest<'_>,
) -> Result<(), Stopped> {
    let mapping = cache.anonymous(Order::of(2))?;
    mapping.give(joined, PageIndex(8)).map_err(|(_, error)| error)?;
    // Dirty, it is not reclaimed.
    mapping.write(offset(8), &[0])?;
    mapping.give(folio(memory, 0)?, PageIndex(1 << 20)).map_err(|(_, error)| error)?;
    for page in 0..70 {
        mapping.write(offset(page), &[0x5a; 100])?;
    }
    let whole = mapping.lookup(PageIndex(9)).ok_or(Stopped::Wrong("a folio that was given is not there"))?;
    let around = SplitTo::Around(whole.head().plus(5), Order::ZERO);
    // Who looked for memory may have split it already.
    if whole.order() > Order::ZERO {
        cache.split(whole.lock(), around).map_err(|(_, error)| Stopped::from(error))?;
    }
    let fork = Mapping::fork(&mapping)?;
    drop(mapping);
    fork.child.write(offset(13), &[0xa5; 10])?;
    rest.run(memory)?;
    let reads = |mapping: &Mapping<'_, _>, page, byte| {
        let mut bytes = [0; 10];
        mapping.read(offset(page), &mut bytes).is_ok() && bytes == [byte; 10]
    };
    let intact = (0..70).all(|page| reads(&fork.parent, page, 0x5a)) && reads(&fork.child, 13, 0xa5);
    if intact { Ok(()) } else { Err(Stopped::Wrong("a mapping has lost its contents")) }
}

/// A space that has faulted in a file and anonymous memory, and its child.
pub(super) fn spaces_that_fault_fork_and_pin(memory: Memory, rest: Rest<'_>) -> Result<(), Stopped> {
    let store = MemoryStore::new(memory.caches, Count(8), Request::movable(Order::ZERO))?;
    let tables = ProcessorTables::new(memory.space);
    PageCache::with(memory.owners, None, |cache| {
        Spaces::with(cache, &tables, |spaces| in_spaces(cache, spaces, store, memory, rest))
    })?
}

fn in_spaces(
    cache: Pin<&PageCache<'_, Platform>>,
    spaces: Pin<&Spaces<'_, Platform, ProcessorTables>>,
    store: MemoryStore<'static, Platform>,
    memory: Memory,
    rest: Rest<'_>,
) -> Result<(), Stopped> {
    const START: VirtualAddress = VirtualAddress(USERS.start + (9 << 30));
    const FILE: VirtualAddress = VirtualAddress(USERS.start + (11 << 30));
    const PAGES: u64 = 20;

    let no_access = |_| Stopped::NoMemory;
    let page = |number: u64| START.plus(number * PAGE_SIZE as u64);
    let file = cache.file(store, Order::of(2))?;
    let parent = spaces.create()?;
    let (write, private) = (PageProtection::ReadWrite, Sharing::Private);
    parent.map_anonymous(AddressRange::of_pages(START, PAGES), write, private, Order::of(1))?;
    parent.map_file(AddressRange::of_pages(FILE, 8), &file, PageIndex(0), write, private)?;
    live::with(&*parent, || {
        copy_to_user(FILE, &[3; 100])?;
        (0..PAGES).try_for_each(|number| copy_to_user(page(number), &[1; 100]))
    })
    .map_err(no_access)?;
    let child = parent.fork()?;
    parent.unmap(AddressRange::page(page(7)))?;
    live::with(&*child, || (0..PAGES).step_by(2).try_for_each(|number| copy_to_user(page(number), &[2; 100])))
        .map_err(no_access)?;
    let pinned = child.get_user_pages(page(3), Bytes(3 * PAGE_SIZE), Access::Write)?;
    rest.run(memory)?;
    drop(pinned);
    let holds = |address, byte| {
        let mut bytes = [0; 100];
        copy_from_user(address, &mut bytes).is_ok() && bytes == [byte; 100]
    };
    let of_parent = live::with(&*parent, || (0..7).all(|number| holds(page(number), 1)) && holds(FILE, 3));
    let of_child =
        live::with(&*child, || (0..PAGES).all(|number| holds(page(number), if number % 2 == 0 { 2 } else { 1 })));
    if of_parent && of_child { Ok(()) } else { Err(Stopped::Wrong("a space has lost its contents")) }
}
