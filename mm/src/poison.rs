//! What free pages hold and whether they can be reached, and who is told of it that they hold something else.
//!
//! ```text
//!            freed                            allocated
//!   owner ─────────> filled, unmapped, on some list ──────────────> mapped, looked at, zeroed ──> owner
//!                      │ ▲
//!    mapped, looked at │ │ filled, unmapped
//!                      ▼ │
//!                a freelist's node
//! ```
//!
//! A node is a free page that holds something: it is looked at when it becomes one, and filled again when it is none any
//! more. Blocks are split and merged as they are. Where any of this is done, CPUs keep nothing at hand (`pcp`): so every page
//! goes the long way, through here, and the short one costs nothing more.
//!
//! Where a machine [fences](Machine::fence_pages) memory off, free pages that are no nodes are closed to all, whatever else is
//! done to them.
//!
//! A page that was written to is told of once, and handed out all the same: what it holds is its new owner's to overwrite.
//!
//! Invariants: POISON-1 (while a page is free and no node, every byte of it is what it was filled with), POISON-2 (and nobody
//! reaches it in the direct map).
//! Cost: a pass over each page that is freed, and one or two over each that is allocated; where it is off, one test each.
//! Source: Linux, `mm/page_poison.c`, `mm/debug_page_alloc.c`, `init_on_alloc` and `init_on_free` of `mm/page_alloc.c`.
#![expect(unsafe_code, reason = "free pages are nobody's but the allocator's, and bare memory")]

use core::fmt;
use core::ptr::NonNull;

use thiserror::Error;

use crate::frame::with_mapped;
use crate::hardening::Hardening;
use crate::machine::{Fence, Machine};
use crate::units::{Count, Order, PAGE_SIZE, Pfn, PfnRange};

/// What every byte of a poisoned page is: Linux's `PAGE_POISON`.
pub const PAGE_POISON: u8 = 0xaa;

const WORD: u64 = u64::from_ne_bytes([PAGE_POISON; 8]);
type Words = [u64; PAGE_SIZE / size_of::<u64>()];

/// What a page became when it was seen that somebody had written to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PoisonedPageUse {
    /// Somebody's.
    Allocated,
    /// A node of a freelist.
    Node,
}

impl PoisonedPageUse {
    /// What to call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocated => "allocated",
            Self::Node => "made a freelist node",
        }
    }
}

/// A page that was written to while it was free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "page poison overwritten: {pfn:?}, offset {first:#x}, is {found:#04x} instead of {PAGE_POISON:#04x}{}: written to after it \
     was freed, and found when it was {}",
    Extent(*self),
    became.name()
)]
pub struct PageCorruption {
    /// The page.
    pub pfn: Pfn,
    /// The first byte that is not what it was, from the page's start.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// What the first one is.
    pub found: u8,
    /// Bytes that are not what they were.
    pub bytes: Count,
    /// What the page became.
    pub became: PoisonedPageUse,
}

/// How much of it was written.
struct Extent(PageCorruption);

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            // Rather a weak cell than a stray pointer.
            PageCorruption { bytes: Count(1), found, .. } if (found ^ PAGE_POISON).is_power_of_two() => {
                f.write_str(" (a single bit)")
            }
            PageCorruption { bytes: Count(1), .. } => Ok(()),
            PageCorruption { bytes: Count(bytes), last, .. } => write!(f, " ({bytes} bytes, up to offset {last:#x})"),
        }
    }
}

/// Does to pages what is to be done when they become free.
///
/// They are nobody's but the allocator's from here on.
#[inline(always)]
pub(crate) fn on_free<M: Machine>(machine: &M, pages: PfnRange) {
    if machine.hardening().treats_pages() {
        give_up(machine, pages);
    }
    machine.fence_pages(pages, Fence::Closed);
}

/// Does to a block what is to be done when it becomes free and stays at hand of a CPU.
#[inline(always)]
pub(crate) fn on_keeping<M: Machine>(machine: &M, head: Pfn, order: Order) {
    machine.fence_pages(PfnRange::new(head, head.plus(order.pages())), Fence::Closed);
}

/// Does to a block what is to be done when somebody gets it from what a CPU has at hand.
#[inline(always)]
pub(crate) fn on_handing_out<M: Machine>(machine: &M, head: Pfn, order: Order) {
    machine.fence_pages(PfnRange::new(head, head.plus(order.pages())), Fence::Open);
}

/// Does to free pages what is to be done when somebody gets them.
///
/// They are the caller's.
#[inline(always)]
pub(crate) fn on_alloc<M: Machine>(machine: &M, pages: PfnRange) {
    machine.fence_pages(pages, Fence::Open);
    if machine.hardening().treats_pages() {
        hand_out(machine, pages);
    }
}

/// Does to a page what is to be done when its memory fails and nobody uses it any more: it is as out of reach as a free one.
#[inline(always)]
pub(crate) fn on_failure<M: Machine>(machine: &M, pfn: Pfn) {
    let page = PfnRange::new(pfn, pfn.plus(1));
    if machine.hardening().treats_pages() {
        hide(machine, page);
    }
    machine.fence_pages(page, Fence::Closed);
}

/// Does to a page that [failed](on_failure), or was free when it did, what is to be done when it becomes free again.
#[inline(always)]
pub(crate) fn on_recovery<M: Machine>(machine: &M, pfn: Pfn) {
    if machine.hardening().treats_pages() {
        show(machine, PfnRange::new(pfn, pfn.plus(1)));
    }
    on_free(machine, PfnRange::new(pfn, pfn.plus(1)));
}

/// Does to a free page what is to be done when it becomes a node.
#[inline(always)]
pub(crate) fn on_becoming_node<M: Machine>(machine: &M, pfn: Pfn) {
    machine.fence_pages(PfnRange::new(pfn, pfn.plus(1)), Fence::Open);
    if machine.hardening().treats_pages() {
        make_node(machine, pfn);
    }
}

/// POISON-2: whether free pages of this kind are out of reach.
fn hides<M: Machine>(machine: &M, pages: PfnRange) -> bool {
    machine.hardening().contains(Hardening::DEBUG_PAGEALLOC) && pages.end <= machine.direct_map_end()
}

/// Puts pages out of reach that are nobody's from here on.
fn hide<M: Machine>(machine: &M, pages: PfnRange) {
    if hides(machine, pages) {
        // SAFETY: they are free, or out of use, and in no list yet.
        unsafe { machine.unmap_pages(pages) };
    }
}

/// Puts pages that are no longer free within reach.
fn show<M: Machine>(machine: &M, pages: PfnRange) {
    if hides(machine, pages) {
        // SAFETY: POISON-2, they were free, and are in the hands of whoever calls.
        unsafe { machine.map_pages(pages) };
    }
}

#[cold]
#[inline(never)]
fn give_up<M: Machine>(machine: &M, pages: PfnRange) {
    // What a slab had around its objects is closed.
    machine.fence_pages(pages, Fence::Open);
    fill(machine, pages);
    hide(machine, pages);
}

#[cold]
#[inline(never)]
fn make_node<M: Machine>(machine: &M, pfn: Pfn) {
    show(machine, PfnRange::new(pfn, pfn.plus(1)));
    look_at(machine, pfn, PoisonedPageUse::Node);
}

fn fill<M: Machine>(machine: &M, pages: PfnRange) {
    let hardening = machine.hardening();
    let byte = if hardening.contains(Hardening::PAGE_POISON) {
        PAGE_POISON
    } else if hardening.contains(Hardening::INIT_ON_FREE) {
        0
    } else {
        return;
    };
    for pfn in pages.frames() {
        // SAFETY: the page is mapped meanwhile, and as it is free, nobody's but the allocator's.
        with_mapped(machine, pfn, |page| unsafe { page.write_bytes(byte, PAGE_SIZE) });
    }
}

#[cold]
#[inline(never)]
fn hand_out<M: Machine>(machine: &M, pages: PfnRange) {
    show(machine, pages);
    let hardening = machine.hardening();
    // What was zeroed when it was freed is zero, unless it was poisoned instead.
    let is_zero = hardening.contains(Hardening::INIT_ON_FREE) && !hardening.contains(Hardening::PAGE_POISON);
    for pfn in pages.frames() {
        look_at(machine, pfn, PoisonedPageUse::Allocated);
        if hardening.initializes() && !is_zero {
            // SAFETY: the page is mapped meanwhile, and not yet known to who gets it.
            with_mapped(machine, pfn, |page| unsafe { page.write_bytes(0, PAGE_SIZE) });
        }
    }
}

/// POISON-1: tells of a page that is not what it was filled with.
fn look_at<M: Machine>(machine: &M, pfn: Pfn, became: PoisonedPageUse) {
    if !machine.hardening().contains(Hardening::PAGE_POISON) {
        return;
    }
    if let Some(corruption) = with_mapped(machine, pfn, |page| find(page, pfn, became)) {
        machine.report(&corruption);
    }
}

/// What is wrong with a poisoned page, which is the allocator's and mapped.
fn find(page: NonNull<u8>, pfn: Pfn, became: PoisonedPageUse) -> Option<PageCorruption> {
    // SAFETY: a page is that large, and aligned to more than that.
    let words = unsafe { page.cast::<Words>().as_ref() };
    // All of them, as that is faster than to stop.
    if words.iter().fold(0, |wrong, word| wrong | (word ^ WORD)) == 0 {
        return None;
    }
    let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
    let mut wrong = (0..).zip(bytes).filter(|&(_, byte)| byte != PAGE_POISON);
    let (first, found) = wrong.next()?;
    let (last, more) = wrong.fold((first, 0), |(_, count), (offset, _)| (offset, count + 1));
    Some(PageCorruption { pfn, first, last, found, bytes: Count(1 + more), became })
}
