//! Folios: a pair of each size, the way from a tail to its folio, and what describes a page of them.

use alloc::vec::Vec;

use mm::folio::SplitTo;
use mm::owner::{Folio, Owned, Reference};
use mm::page::Request;
use mm::units::{Order, PAGE_SIZE, PageIndex};

use super::pair::half_freed;
use super::{Sampler, allocator, benchmark};
use crate::ktest::{NotPassed, Outcome, check};
use crate::memory::{self, MachineOwners};
use crate::platform::Platform;

const PAIRS: usize = 1000;
const SPLITS: usize = 20;

type OwnedFolio = Owned<'static, Platform, Folio>;

pub(super) fn owners() -> Result<&'static MachineOwners, NotPassed> {
    memory::owners().ok_or_else(|| "owners are not up".into())
}

/// A folio that the benchmark needs; a machine that has none skips it.
fn needed(order: Order) -> Result<OwnedFolio, NotPassed> {
    let folio = owners()?.alloc(Request::movable(order), Folio::new());
    folio.map_err(|(_, error)| NotPassed::Skipped(alloc::format!("too little memory: {error}")))
}

/// Allocates and frees a folio, while blocks of its size are free whose buddies are not; a sample is one pair.
fn pairs(sampler: &mut Sampler, order: Order) -> Outcome {
    let owners = owners()?;
    let request = Request::movable(order);
    let _kept = [half_freed(order)?, half_freed(order)?];
    // The first one fills the sheaf of descriptors.
    drop(needed(order)?);
    for _ in 0..PAIRS {
        sampler.sample(|| owners.alloc(request, Folio::new()).map(drop)).map_err(|(_, error)| error)?;
    }
    Ok(())
}

benchmark!("folio", fn order0_pair(sampler) {
    pairs(sampler, Order::ZERO)
});

benchmark!("folio", fn order4_pair(sampler) {
    pairs(sampler, Order::of(4))
});

benchmark!("folio", fn order9_pair(sampler) {
    pairs(sampler, Order::of(9))
});

benchmark!("folio", fn split_9_to_0(sampler) {
    let mut folio = needed(Order::of(9))?;
    for _ in 0..SPLITS {
        let row = sampler.sample(|| folio.split(SplitTo::Uniform(Order::ZERO))).map_err(|(_, error)| error)?;
        folio = row.join().map_err(|(_, error)| error)?;
    }
    Ok(())
});

benchmark!("folio", fn lookup_tail(sampler) {
    let folio = needed(Order::of(9))?;
    let tail = folio.head().plus(511);
    let walker = owners()?.walk();
    for _ in 0..PAIRS {
        let found = sampler.sample(|| walker.look(tail).get());
        check!(matches!(&found, Some(Reference::Folio(found)) if found.head() == folio.head()), "{found:?}");
    }
    Ok(())
});

/// Pages that the curve is measured with: 128 MiB, or half of what there is.
const PAGES: u32 = 32_768;

/// A thousandth of a byte, for each page.
#[derive(Clone, Copy)]
struct Millibytes(u64);

impl Millibytes {
    /// One word that names whoever owns the page.
    const MEMDESC: Self = Self(8_000);
    /// Two words.
    const TWO_WORDS: Self = Self(16_000);
    /// Linux's `struct page`.
    const LINUX: Self = Self(64_000);

    /// So many pages of descriptors, spread over all that they describe.
    const fn spread(pages: u32, over: u32) -> Self {
        Self(pages as u64 * PAGE_SIZE as u64 * 1000 / over as u64)
    }

    const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl core::fmt::Display for Millibytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// Allocates folios of one size, and counts what describes them: the two words of each page, and the pages that were
/// taken for what is kept apart. Then lets them stand in a file, and counts the pages that its tree takes: that is what
/// any of the designs needs as well.
fn descriptor_bytes(sampler: &mut Sampler, order: Order) -> Outcome {
    let (allocator, caches) = (allocator()?, memory::caches().ok_or("the caches are not up")?);
    let count = PAGES.min(allocator.free_pages() / 2) >> order.number();
    let mut folios: Vec<OwnedFolio> = Vec::with_capacity(count as usize);
    caches.shrink();
    let before = caches.pages_held().0;
    for _ in 0..count {
        folios.push(needed(order)?);
    }
    caches.shrink();
    let taken = caches.pages_held().0 - before;
    let pages = count << order.number();
    check!(pages > 0, "there is no memory for one");
    let mapping = memory::page_cache().ok_or("the page cache is not up")?.anonymous(Order::ZERO)?;
    for (index, folio) in (0..).step_by(order.pages() as usize).map(PageIndex).zip(folios.drain(..)) {
        mapping.give(folio, index).map_err(|(_, error)| error)?;
    }
    caches.shrink();
    let tree = Millibytes::spread(caches.pages_held().0 - before - taken, pages);
    let apart = Millibytes::spread(taken, pages);
    let [ours, memdesc] = [Millibytes::TWO_WORDS, Millibytes::MEMDESC].map(|words| words.plus(apart));
    sampler.know(ours.0);
    sampler.note(alloc::format!(
        "ours {ours:>6}  memdesc {memdesc:>6}  Linux {}  (apart {apart}, and {tree} of tree; {pages} pages)",
        Millibytes::LINUX
    ));
    Ok(())
}

macro_rules! curve {
    ($($name:ident = $order:literal,)+) => {
        $(benchmark!(Millibytes, "folio", fn $name(sampler) {
            descriptor_bytes(sampler, Order::of($order))
        });)+
    };
}

curve! {
    descriptor_bytes_order0 = 0,
    descriptor_bytes_order1 = 1,
    descriptor_bytes_order2 = 2,
    descriptor_bytes_order3 = 3,
    descriptor_bytes_order4 = 4,
    descriptor_bytes_order5 = 5,
    descriptor_bytes_order6 = 6,
    descriptor_bytes_order7 = 7,
    descriptor_bytes_order8 = 8,
    descriptor_bytes_order9 = 9,
    descriptor_bytes_order10 = 10,
}
