//! The script: each step holds what it has while the steps behind it run, so a failure unwinds all that came before.
//!
//! It makes everything anew above the page allocator, and leaves nothing. A new kind of memory is one more step.
#![expect(unsafe_code, reason = "frees memory by its address")]

use core::mem::MaybeUninit;
use core::pin::{Pin, pin};
use core::ptr::NonNull;
use core::slice;

use arrayvec::ArrayVec;

use super::super::holdings::orders;
use super::Stopped;
use crate::cache::{Mapping, MemoryStore, PageCache, Store, StoreError};
use crate::charge::GroupId;
use crate::folio::SplitTo;
use crate::machine::Machine;
use crate::owner::{CompressedStore, Folio, KernelStack, Owners, PageTable, PerCpuArea, TableLevel, TaskId};
use crate::page::{PageAllocator, Request};
use crate::slab::{CacheSpec, KmemCache, KmemCaches};
use crate::subpage::{BufferCache, BufferSize};
use crate::units::{Bytes, Count, CpuId, FileOffset, Order, PAGE_SIZE, PageIndex};
use crate::zone::ZoneKind;

/// What a machine has in addition, to be done while the script holds all that it has.
pub type Inner<'i, M> = &'i dyn Fn(&PageAllocator<'_, M>, Pin<&PageCache<'_, M>>) -> Result<(), Stopped>;

/// The steps behind a step.
type Rest<'r> = &'r dyn Fn() -> Result<(), Stopped>;

/// Runs the script. However it ends, what it made is gone, and was sound until then.
pub(super) fn run<M: Machine>(pages: &PageAllocator<'_, M>, inner: Inner<'_, M>) -> Result<(), Stopped> {
    // Owners take every page with an owner for one of theirs, so they are only asked if nobody else has any.
    let alone = pages.zones().all(|zone| zone.free == zone.managed);
    blocks_that_a_group_pays_for(pages, &|| {
        let caches = KmemCaches::new(pages)?;
        let outcome = a_cache_of_its_own(&caches, &|| {
            memory_by_size(&caches, &|| {
                let owners = Owners::new(&caches)?;
                let outcome =
                    owners_of_every_kind(&owners, &|| folios_in_pieces(&owners, &|| contents(&owners, inner)));
                if alone {
                    owners.verify()?;
                }
                outcome
            })
        });
        caches.verify()?;
        outcome
    })
}

fn blocks_that_a_group_pays_for<M: Machine>(pages: &PageAllocator<'_, M>, rest: Rest<'_>) -> Result<(), Stopped> {
    let group = pages.groups().create(None).map_err(|_| Stopped::Wrong("there is a group"))?;
    let outcome = blocks_of_every_size(pages, group.id(), rest);
    group.destroy().map_err(|_| Stopped::Wrong("a group pays for nothing that is free"))?;
    outcome
}

/// One of every order, many at once, more than are kept at hand, and a run of no power of two.
fn blocks_of_every_size<M: Machine>(
    pages: &PageAllocator<'_, M>,
    group: GroupId,
    rest: Rest<'_>,
) -> Result<(), Stopped> {
    const MANY: usize = 100;
    let mut held: ArrayVec<_, { 2 * (Order::LIMIT.index() + 1) }> = ArrayVec::new();
    for order in orders::<M>() {
        held.push(pages.alloc(Request::movable(order))?);
        if order <= Order::of(3) {
            held.push(pages.alloc(Request::new(order).charged_to(group))?);
        }
    }
    let many = pages.alloc_bulk::<MANY>(Request::movable(Order::ZERO));
    if many.heads().len() < MANY {
        return Err(Stopped::NoMemory);
    }
    for order in (0..3).map(Order::of) {
        drop([pages.alloc(Request::new(order).atomic())?, pages.alloc(Request::new(order).nowait())?]);
    }
    pages.tick();
    let range = pages.alloc_contig_aligned(37, Order::of(3), ZoneKind::Highmem)?;
    rest()?;
    drop((held, many, range));
    Ok(())
}

fn a_cache_of_its_own<M: Machine>(caches: &KmemCaches<'_, M>, rest: Rest<'_>) -> Result<(), Stopped> {
    let cache = caches.create(CacheSpec::new("unwinding", 700).aligned(64))?;
    let outcome = objects_and_some_set_aside(&cache, rest);
    cache.destroy().map_err(|_| Stopped::Wrong("a cache without objects can be destroyed"))?;
    outcome
}

fn objects_and_some_set_aside<M: Machine>(cache: &KmemCache<'_, M>, rest: Rest<'_>) -> Result<(), Stopped> {
    const OBJECTS: usize = 30;
    const ASIDE: usize = 70;
    let mut objects: ArrayVec<_, OBJECTS> = ArrayVec::new();
    for number in 0..OBJECTS {
        let mut object = cache.alloc()?;
        object.bytes_mut().fill(MaybeUninit::new(u8::try_from(number).unwrap_or(u8::MAX)));
        objects.push(object);
    }
    let mut aside = cache.prefill(Count(70))?;
    rest()?;
    let taken: ArrayVec<_, ASIDE> = core::iter::from_fn(|| aside.alloc()).take(ASIDE).collect();
    if taken.len() < ASIDE { Err(Stopped::Wrong("what was set aside is all there")) } else { Ok(()) }
}

/// Memory by size, with a pattern in it; freed when it drops.
struct Sized<'c, 'a, M: Machine> {
    caches: &'c KmemCaches<'a, M>,
    place: NonNull<u8>,
    size: Bytes,
}

impl<'c, 'a, M: Machine> Sized<'c, 'a, M> {
    const PATTERN: u8 = 0x5a;

    fn new(caches: &'c KmemCaches<'a, M>, size: Bytes) -> Result<Self, Stopped> {
        let place = caches.kmalloc(size)?;
        // SAFETY: so long it is, and nobody else's.
        unsafe { place.write_bytes(Self::PATTERN, size.0) };
        Ok(Self { caches, place, size })
    }

    /// Changes the size, by which the contents are kept, also if that fails.
    fn resize(&mut self, size: Bytes) -> Result<(), Stopped> {
        // SAFETY: the memory is this one's alone, and the old place is forgotten.
        let resized = unsafe { self.caches.krealloc(self.place, size) };
        let kept = if resized.is_ok() { self.size.0.min(size.0) } else { self.size.0 };
        self.place = resized.unwrap_or(self.place);
        // SAFETY: so long it is at least, and all of it was written.
        let bytes = unsafe { slice::from_raw_parts(self.place.as_ptr(), kept) };
        if bytes.iter().any(|&byte| byte != Self::PATTERN) {
            return Err(Stopped::Wrong("memory that gets another size keeps its contents"));
        }
        resized?;
        // SAFETY: as above.
        unsafe { self.place.write_bytes(Self::PATTERN, size.0) };
        self.size = size;
        Ok(())
    }
}

impl<M: Machine> Drop for Sized<'_, '_, M> {
    fn drop(&mut self) {
        // SAFETY: the memory is this one's alone.
        if let Err(error) = unsafe { self.caches.kfree(self.place) } {
            panic!("invariant SLAB-1 broken: memory that is somebody's cannot be freed: {error}");
        }
    }
}

fn memory_by_size<M: Machine>(caches: &KmemCaches<'_, M>, rest: Rest<'_>) -> Result<(), Stopped> {
    let mut small = Sized::new(caches, Bytes(24))?;
    let mut middle = Sized::new(caches, Bytes(3000))?;
    let mut large = Sized::new(caches, Bytes(3 * PAGE_SIZE))?;
    small.resize(Bytes(100))?;
    middle.resize(Bytes(50_000))?;
    large.resize(Bytes(6 * PAGE_SIZE))?;
    rest()?;
    large.resize(Bytes(200))
}

/// Blocks with owners, one that was plain before, and a reference that outlives its owner.
fn owners_of_every_kind<M: Machine>(owners: &Owners<'_, M>, rest: Rest<'_>) -> Result<(), Stopped> {
    let pages = owners.pages();
    let request = |order| Request::new(Order::of(order));
    let table = owners.alloc(request(0), PageTable::new(TableLevel(1))).map_err(|(_, error)| error)?;
    let store = owners.alloc(request(2), CompressedStore::new(Bytes(96))).map_err(|(_, error)| error)?;
    let area = owners.alloc(request(1), PerCpuArea { cpu: CpuId(0) }).map_err(|(_, error)| error)?;
    let stack = owners.alloc(request(3), KernelStack { task: TaskId(1) }).map_err(|(_, error)| error)?;
    let plain = pages.alloc(request(2))?;
    let range = plain.range();
    let folio = match owners.adopt(plain, Folio::new()) {
        Ok(folio) => folio,
        Err((block, ..)) if block.range() != range => return Err(Stopped::Wrong("a block comes back as it was")),
        Err((.., error)) => return Err(error.into()),
    };
    let reference = owners.walk().look(store.head().plus(3)).get();
    drop(store);
    rest()?;
    if reference.is_none() {
        return Err(Stopped::Wrong("an owner that is alive can be referred to"));
    }
    drop((table, area, stack, folio, reference));
    Ok(())
}

/// Folios that are split and put together; one that cannot be split is whole.
fn folios_in_pieces<M: Machine>(owners: &Owners<'_, M>, rest: Rest<'_>) -> Result<(), Stopped> {
    let request = Request::movable(Order::of(4));
    let folio = owners.alloc(request, Folio::new()).map_err(|(_, error)| error)?;
    let range = folio.range();
    let whole = |error: crate::folio::SplitError, left| {
        if left == range { error.into() } else { Stopped::Wrong("a folio that cannot be split is whole") }
    };
    let around = SplitTo::Around(range.start.plus(5), Order::ZERO);
    let row = folio.split(around).map_err(|(folio, error)| whole(error, folio.range()))?;
    let folio = row.join().map_err(|_| Stopped::Wrong("what was split can be joined"))?;
    let row = folio.split(SplitTo::Uniform(Order::ZERO)).map_err(|(folio, error)| whole(error, folio.range()))?;
    let every_third: ArrayVec<_, 6> = row.step_by(3).collect();
    rest()?;
    drop(every_third);
    Ok(())
}

const fn offset(page: u64) -> FileOffset {
    PageIndex(page).start()
}

/// What stands behind the file: twelve pages of one byte, which cannot be written.
struct Sevens;

impl Store for Sevens {
    fn size(&self) -> FileOffset {
        offset(12)
    }

    fn read(&self, _: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        bytes.fill(7);
        Ok(())
    }

    fn write(&self, _: FileOffset, _: &[u8]) -> Result<(), StoreError> {
        Err(StoreError::Full)
    }
}

const NOT_INTACT: Stopped = Stopped::Wrong("contents are what was written last");

/// Contents of files and of nobody, in folios and in smaller pieces, forked and reclaimed.
fn contents<M: Machine>(owners: &Owners<'_, M>, inner: Inner<'_, M>) -> Result<(), Stopped> {
    let caches = owners.caches;
    let store = MemoryStore::new(caches, Count(12), Request::movable(Order::ZERO))?;
    store.write(offset(3), &[9]).map_err(|_| Stopped::Wrong("a store in memory can be written"))?;
    let buffers = pin!(BufferCache::new(caches, BufferSize::Kib1)?);
    let buffers = buffers.into_ref();
    let small = buffers.mapping(Sevens)?;
    small.write(FileOffset(1000), &[8; 5000])?;
    PageCache::with(owners, None, |cache| contents_of_folios(cache, inner))??;
    let (mut byte, mut bytes) = ([0], [0; 5000]);
    small.read(FileOffset(1000), &mut bytes)?;
    store.read(offset(3), &mut byte).map_err(|_| Stopped::Wrong("a store in memory can be read"))?;
    if bytes == [8; 5000] && byte == [9] { Ok(()) } else { Err(NOT_INTACT) }
}

/// Those in folios.
fn contents_of_folios<M: Machine>(cache: Pin<&PageCache<'_, M>>, inner: Inner<'_, M>) -> Result<(), Stopped> {
    const PAGES: u64 = 70;
    let owners = cache.owners();
    let file = cache.file(Sevens, Order::of(2))?;
    let mut byte = [0];
    let mut intact = true;
    for page in 4..12 {
        file.read(offset(page), &mut byte)?;
        intact &= byte == [7];
    }
    let private = Mapping::shadow(&file)?;
    private.write(offset(6), &[1; 2 * PAGE_SIZE])?;
    let mapping = cache.anonymous(Order::of(2))?;
    let folio = owners.alloc(Request::movable(Order::of(3)), Folio::new()).map_err(|(_, error)| error)?;
    mapping.give(folio, PageIndex(8)).map_err(|(_, error)| error)?;
    // Dirty, it is not reclaimed.
    mapping.write(offset(8), &[0])?;
    for page in 0..PAGES {
        mapping.write(offset(page), &[0x5a; 100])?;
    }
    let found = mapping.lookup(PageIndex(9)).ok_or(Stopped::Wrong("a folio that was given is there"))?;
    // Who looked for memory may have split it already.
    if found.order() > Order::ZERO {
        let around = SplitTo::Around(found.head(), Order::ZERO);
        cache.split(found.lock(), around).map_err(|(_, error)| Stopped::from(error))?;
    }
    let fork = Mapping::fork(&mapping)?;
    drop(mapping);
    fork.child.write(offset(13), &[0xa5; 10])?;
    cache.reclaim(Count(4));
    inner(owners.pages(), cache)?;
    let holds = |mapping: &Mapping<'_, M>, page, byte| {
        let mut bytes = [0; 10];
        mapping.read(offset(page), &mut bytes).map(|()| bytes == [byte; 10])
    };
    intact &= holds(&fork.child, 13, 0xa5)? && holds(&private, 6, 1)?;
    for page in 0..PAGES {
        intact &= holds(&fork.parent, page, 0x5a)?;
    }
    if intact { Ok(()) } else { Err(NOT_INTACT) }
}
