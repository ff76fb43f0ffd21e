//! Four thousand pages in a row, then freed in three orders.

use alloc::vec::Vec;

use mm::page::{Block, Request};
use mm::units::Order;

use super::{Sampler, allocator, benchmark, needed};
use crate::ktest::{NotPassed, Outcome};
use crate::platform::Platform;

const PAGES: usize = 4096;
const PAGE: Request = Request::movable(Order::ZERO);

/// The pages, in the order in which they were allocated.
fn pages() -> Result<Vec<Block<'static, Platform>>, NotPassed> {
    (0..PAGES).map(|_| needed(PAGE)).collect()
}

/// Frees the pages in this order; a sample is one page.
fn free(sampler: &mut Sampler, pages: impl IntoIterator<Item = Block<'static, Platform>>) -> Outcome {
    for page in pages {
        sampler.sample(|| drop(page));
    }
    Ok(())
}

benchmark!("page", fn bulk4096_alloc(sampler) {
    // The machine has them, and what an earlier benchmark left on the lists is the same whichever ran.
    drop(pages()?);
    let allocator = allocator()?;
    let mut pages = Vec::with_capacity(PAGES);
    for _ in 0..PAGES {
        pages.push(sampler.sample(|| allocator.alloc(PAGE))?);
    }
    Ok(())
});

benchmark!("page", fn bulk4096_free_fifo(sampler) {
    free(sampler, pages()?)
});

benchmark!("page", fn bulk4096_free_lifo(sampler) {
    free(sampler, pages()?.into_iter().rev())
});

benchmark!("page", fn bulk4096_free_random(sampler) {
    let mut pages = pages()?;
    sampler.random().shuffle(&mut pages);
    free(sampler, pages)
});

benchmark!(Pages, "page", fn node_pages_peak(sampler) {
    let allocator = allocator()?;
    let mut pages = pages()?;
    sampler.random().shuffle(&mut pages);
    let mut peak = 0;
    for page in pages {
        drop(page);
        peak = peak.max(allocator.zones().map(|zone| zone.nodes).sum());
    }
    sampler.know(u64::from(peak));
    sampler.note(alloc::format!("while {PAGES} pages are freed in random order"));
    Ok(())
});
