//! A page fault, from the access to the instruction behind it.

use core::pin::Pin;

use kernel_core::layout::USERS;
use mm::cache::{MemoryStore, PageCache};
use mm::page::Request;
use mm::space::{AddressRange, PageProtection, Sharing, Spaces};
use mm::units::{Count, Order, PAGE_SIZE, PageIndex, VirtualAddress};

use super::folio::owners;
use super::{Sampler, benchmark};
use crate::ktest::{NotPassed, Outcome};
use crate::memory;
use crate::paging::space;
use crate::platform::Platform;
use crate::user::access::{Inaccessible, copy_from_user, copy_to_user};
use crate::user::live::{self, UserSpace};
use crate::user::mmu::ProcessorTables;

const PAGES: u32 = 1024;
const START: VirtualAddress = VirtualAddress(USERS.start);

const fn all() -> AddressRange {
    AddressRange::of_pages(START, PAGES as u64)
}

/// Accesses a byte of each page once in the order of addresses; a sample is one access. Gives whether all succeeded.
fn touch(
    sampler: &mut Sampler,
    space: &dyn UserSpace,
    access: impl Fn(VirtualAddress) -> Result<(), Inaccessible>,
) -> Result<(), Inaccessible> {
    live::with(space, || {
        (0..u64::from(PAGES)).try_for_each(|page| {
            let address = START.plus(page * PAGE_SIZE as u64);
            sampler.sample(|| access(address))
        })
    })
}

/// A cache of its own, and spaces over it.
pub(super) fn with_spaces(
    work: impl FnOnce(Pin<&PageCache<'_, Platform>>, Pin<&Spaces<'_, Platform, ProcessorTables>>) -> Outcome,
) -> Outcome {
    let tables = ProcessorTables::new(space::kernel().ok_or("page tables have no owners")?);
    PageCache::with(owners()?, None, |cache| Spaces::with(cache, &tables, |spaces| work(cache, spaces)))?
}

benchmark!("fault", fn anon(sampler) {
    with_spaces(|_, spaces| {
        let space = spaces.create()?;
        space.map_anonymous(all(), PageProtection::ReadWrite, Sharing::Private, Order::ZERO)?;
        touch(sampler, &*space, |byte| copy_to_user(byte, &[1]))?;
        sampler.note("a write, which zeroes a page".into());
        Ok(())
    })
});

benchmark!("fault", fn file(sampler) {
    let caches = memory::caches().ok_or("the caches are not up")?;
    let skipped = |error| NotPassed::Skipped(alloc::format!("too little memory: {error}"));
    let store = MemoryStore::new(caches, Count(PAGES), Request::movable(Order::ZERO)).map_err(skipped)?;
    with_spaces(|cache, spaces| {
        let file = cache.file(store, Order::ZERO)?;
        let space = spaces.create()?;
        (0..u64::from(PAGES)).try_for_each(|index| file.read_folio(PageIndex(index)).map(drop))?;
        space.map_file(all(), &file, PageIndex(0), PageProtection::Read, Sharing::Shared)?;
        touch(sampler, &*space, |byte| copy_from_user(byte, &mut [0]))?;
        sampler.note("a read of what is in memory".into());
        Ok(())
    })
});
