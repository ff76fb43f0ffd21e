//! Four thousand pages in a row, then freed in three orders; and sixty-four at once.
//!
//! A CPU that does this again and again has all of them at hand in the end, as it has here before it is measured. What the
//! bulk interface gives comes in a row, as zones give it.

use alloc::vec::Vec;

use mm::page::{Block, Request};
use mm::units::Order;

use super::{Sampler, allocator, benchmark, needed};
use crate::ktest::{NotPassed, Outcome, check};
use crate::platform::Platform;

const PAGES: usize = 4096;
const PAGE: Request = Request::movable(Order::ZERO);

/// The pages, in the order in which they were allocated.
fn pages() -> Result<Vec<Block<'static, Platform>>, NotPassed> {
    (0..PAGES).map(|_| needed(PAGE)).collect()
}

/// Times that it takes until a list has grown to hold all of them.
const WARM_UP: usize = 6;

/// What the CPU has done many times: allocated the pages, and freed them.
fn warm_up() -> Outcome {
    (0..WARM_UP).try_for_each(|_| {
        drop(pages()?);
        Ok(())
    })
}

/// Frees the pages in this order; a sample is one page.
fn free(sampler: &mut Sampler, pages: impl IntoIterator<Item = Block<'static, Platform>>) -> Outcome {
    for page in pages {
        sampler.sample(|| drop(page));
    }
    Ok(())
}

benchmark!("page", fn bulk4096_alloc(sampler) {
    warm_up()?;
    let allocator = allocator()?;
    let mut pages = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        pages.push(sampler.sample(|| allocator.alloc(PAGE))?);
    }
    Ok(())
});

benchmark!("page", fn bulk4096_free_fifo(sampler) {
    warm_up()?;
    free(sampler, pages()?)
});

benchmark!("page", fn bulk4096_free_lifo(sampler) {
    warm_up()?;
    free(sampler, pages()?.into_iter().rev())
});

benchmark!("page", fn bulk4096_free_random(sampler) {
    warm_up()?;
    let mut pages = pages()?;
    sampler.random().shuffle(&mut pages);
    free(sampler, pages)
});

/// Pages that the bulk interface is asked for at once.
const BATCH: usize = 64;
const BATCHES: usize = 100;

benchmark!("page", fn bulk_api64_alloc(sampler) {
    let allocator = allocator()?;
    allocator.drain();
    drop(allocator.alloc_bulk::<BATCH>(PAGE));
    for _ in 0..BATCHES {
        let (batch, ticks) = sampler.time(|| allocator.alloc_bulk::<BATCH>(PAGE));
        check!(batch.heads().len() == BATCH, "{} pages of {BATCH}", batch.heads().len());
        sampler.record(ticks / BATCH as u64);
    }
    Ok(())
});

benchmark!("page", fn bulk_api64_free(sampler) {
    let allocator = allocator()?;
    allocator.drain();
    drop(allocator.alloc_bulk::<BATCH>(PAGE));
    for _ in 0..BATCHES {
        let batch = allocator.alloc_bulk::<BATCH>(PAGE);
        check!(batch.heads().len() == BATCH, "{} pages of {BATCH}", batch.heads().len());
        let ((), ticks) = sampler.time(|| drop(batch));
        sampler.record(ticks / BATCH as u64);
    }
    Ok(())
});

benchmark!(Pages, "page", fn node_pages_peak(sampler) {
    let allocator = allocator()?;
    let mut pages = pages()?;
    sampler.random().shuffle(&mut pages);
    let mut peak = 0;
    for page in pages {
        drop(page);
        // What is at hand of the CPU is in no node.
        allocator.drain();
        peak = peak.max(allocator.zones().map(|zone| zone.nodes).sum());
    }
    sampler.know(u64::from(peak));
    sampler.note(alloc::format!("while {PAGES} pages are freed in random order"));
    Ok(())
});
