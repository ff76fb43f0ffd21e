//! More contents than there is memory for: files and anonymous memory of several address spaces, forked and written at
//! random, while what does not fit is written out and read back. Every byte is known at any time.
//!
//! Nearly all memory is set aside: first the medium of the stores, then, on a large machine, what would only make
//! it take longer. What the objects add up to is a multiple of what is left.
//!
//! `sizes` is how memory is divided, `contents` what is to be found in every page, `process` an address space and its
//! model, `run` what is done at random.

mod contents;
mod process;
mod run;
mod sizes;

use core::array;

use kernel_core::cmdline::Seed;
use mm::cache::{MemoryStore, PageCache};
use mm::page::Request;
use mm::slab::Counted;
use mm::space::Spaces;
use mm::units::{Count, Order};

use self::run::Workload;
use self::sizes::Sizes;
use crate::ktest::{Outcome, check, diagnostic, ktest, skip};
use crate::memory::{self, Wholeness};
use crate::paging::space;
use crate::user::mmu::ProcessorTables;

ktest!(
    "workload",
    fn files_and_anonymous_memory_larger_than_memory_keep_every_byte() {
        let (allocator, caches) = memory::allocator().zip(memory::caches()).ok_or("the allocators are not up")?;
        let (owners, kernel) = memory::owners().zip(space::kernel()).ok_or("page tables have no owners")?;
        let before = Wholeness::now(allocator);
        let Some(sizes) = Sizes::of(before.free_pages) else {
            return skip("there is too little memory to divide", before);
        };
        {
            let request = Request::movable(Order::ZERO);
            let store = |pages| MemoryStore::new(caches, Count(pages), request);
            let counted = |store| Counted::new(caches, store).map_err(|(_, error)| error);
            let (one, other, swap) = (counted(store(sizes.file)?)?, counted(store(sizes.file)?)?, store(sizes.swap)?);
            let models = array::from_fn(|_| process::Model::new(&sizes));
            let files = array::from_fn(|_| contents::Stamps::zeroes(sizes.file));
            let _set_aside = sizes.set_aside(allocator)?;
            let tables = ProcessorTables::new(kernel);
            PageCache::with(owners, Some(&swap), |cache| {
                Spaces::with(cache, &tables, |spaces| -> Outcome {
                    let mappings = [cache.file(one.get(), Order::of(4))?, cache.file(other.get(), Order::of(4))?];
                    diagnostic!("{sizes}, {} pages are free", allocator.free_pages());
                    let mut workload = Workload::new(sizes, cache, spaces, mappings, files, models, Seed(0x5eed));
                    allocator.with_shrinker(&*cache, || workload.run([&one, &other]))??;
                    let (pages, free) = (workload.pages(), sizes.free);
                    check!(
                        pages > 2 * u64::from(free),
                        "{pages} pages of contents are no multiple of {free} free ones"
                    );
                    Ok(())
                })
            })??;
        }
        owners.verify()?;
        caches.verify()?;
        allocator.verify()?;
        allocator.verify_specified()?;
        let after = Wholeness::now(allocator);
        check!(after.is_restored(&before), "memory is not as before: {before} became {after}");
        Ok(())
    }
);
