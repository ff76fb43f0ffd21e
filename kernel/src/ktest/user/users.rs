//! A page cache with a file, a swap store and address spaces of its own, all of which leave nothing behind.

use alloc::vec::Vec;
use core::pin::Pin;

use kernel_core::layout::USERS;
use mm::cache::{MappingRef, MemoryStore, PageCache, Store};
use mm::page::Request;
use mm::slab::Counted;
use mm::space::{AddressRange, Space, Spaces};
use mm::units::{Count, FileOffset, Order, PAGE_SIZE, VirtualAddress};

use crate::ktest::space::{Live, live};
use crate::ktest::{NotPassed, Outcome, check};
use crate::memory::{self, Wholeness};
use crate::platform::Platform;
use crate::user::access::{Inaccessible, copy_from_user, copy_to_user};
use crate::user::live;
use crate::user::mmu::ProcessorTables;

/// An address space of the processor's.
pub(super) type UserSpace<'u> = Space<'u, Platform, ProcessorTables>;

/// What a test of users' memory has.
#[derive(Clone, Copy)]
pub(super) struct Users<'u> {
    pub(super) live: Live,
    /// Behind the file: each byte is [`filed`].
    pub(super) store: &'u Counted<'static, Platform, MemoryStore<'static, Platform>>,
    pub(super) cache: Pin<&'u PageCache<'u, Platform>>,
    pub(super) spaces: Pin<&'u Spaces<'u, Platform, ProcessorTables>>,
}

/// Pages of the file, and of the swap store.
pub(super) const PAGES: u32 = 256;

/// Where the tests' regions begin: at 2 MiB.
pub(super) const START: VirtualAddress = VirtualAddress(USERS.start + (1 << 39) + (3 << 30) + (5 << 21));

/// So many pages, from a page of the tests' on.
pub(super) const fn pages(first: u64, count: u64) -> AddressRange {
    AddressRange::of_pages(page(first), count)
}

/// The address of a page of the tests'.
pub(super) const fn page(number: u64) -> VirtualAddress {
    START.plus(number * PAGE_SIZE as u64)
}

/// A byte of the file as it was at first.
pub(super) fn filed(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56).to_le_bytes()[0]
}

/// The bytes of a page of the file as it was at first.
pub(super) fn filed_page(number: u64) -> Vec<u8> {
    (0..PAGE_SIZE as u64).map(|at| filed(number * PAGE_SIZE as u64 + at)).collect()
}

impl<'u> Users<'u> {
    /// Runs a test; afterwards all memory is as before.
    pub(super) fn with(test: impl FnOnce(Users<'_>) -> Outcome) -> Outcome {
        let live = live()?;
        let caches = memory::caches().ok_or("the caches are not up")?;
        let before = Wholeness::now(live.allocator);
        {
            let request = Request::movable(Order::ZERO);
            let [file, swap] =
                [MemoryStore::new(caches, Count(PAGES), request)?, MemoryStore::new(caches, Count(PAGES), request)?];
            for number in 0..u64::from(PAGES) {
                file.write(FileOffset(number * PAGE_SIZE as u64), &filed_page(number))?;
            }
            let file = Counted::new(caches, file).map_err(|(_, error)| error)?;
            let tables = ProcessorTables::new(live.space);
            PageCache::with(live.owners, Some(&swap), |cache| {
                Spaces::with(cache, &tables, |spaces| {
                    let users = Users { live, store: &file, cache, spaces };
                    live.allocator.with_shrinker(&*cache, || test(users))
                })
            })???;
        }
        live.owners.verify()?;
        caches.verify()?;
        live.allocator.verify()?;
        let after = Wholeness::now(live.allocator);
        check!(after.is_restored(&before), "memory is not as before: {before} became {after}");
        Ok(())
    }

    pub(super) fn file(&self, largest: Order) -> Result<MappingRef<'u, Platform>, NotPassed> {
        Ok(self.cache.file(self.store.get(), largest)?)
    }

    /// What the store has at a place of the file.
    pub(super) fn stored(&self, offset: u64) -> Result<u8, NotPassed> {
        let mut byte = [0];
        self.store.read(FileOffset(offset), &mut byte)?;
        Ok(byte[0])
    }
}

/// Reads a page in a space.
pub(super) fn read(space: &UserSpace<'_>, number: u64) -> Result<Vec<u8>, Inaccessible> {
    let mut bytes = alloc::vec![0; PAGE_SIZE];
    live::with(space, || copy_from_user(page(number), &mut bytes)).map(|()| bytes)
}

/// Writes a byte to all of a page in a space.
pub(super) fn write(space: &UserSpace<'_>, number: u64, byte: u8) -> Result<(), Inaccessible> {
    live::with(space, || copy_to_user(page(number), &[byte; PAGE_SIZE]))
}

/// Whether a page in a space is full of a byte.
pub(super) fn is(space: &UserSpace<'_>, number: u64, byte: u8) -> bool {
    read(space, number).is_ok_and(|bytes| bytes.iter().all(|&found| found == byte))
}
