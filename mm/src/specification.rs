//! What a page allocator is to do, and nothing of how: every page is nobody's, free, or in one block that somebody has.
//!
//! ```text
//!                 Given                    Allocated
//!    ┌─────────┐ ───────> ┌──────┐ ──────────────────────> ┌────────────────┐ ─┐ Halved
//!    │ Outside │          │ Free │                         │ Held(an order) │  │ Joined
//!    └─────────┘          └──────┘ <────────────────────── └────────────────┘ <┘
//!                                          Freed
//! ```
//!
//! There is no other way. It is meant to be obviously right, and to share nothing with what it watches: it knows no list, node,
//! zone, CPU or descriptor. A machine that [has one](crate::machine::Machine::specification) sees every change go through it;
//! one that the table does not allow stops the machine.
//!
//! What is allocated is told once it has happened, what is freed before it does: so whoever else comes by the page in
//! between finds it as it has to be, and CPUs need no lock for it.
//!
//! Invariants: SPEC-1 here; SPEC-2 is checked by [`verify_specified`](crate::page::PageAllocator::verify_specified).
//! Cost: a byte of memory a page, and an atomic operation for each page of a block.
//! Source: the executable specification that runs beside pKVM, "Ghost in the Android Shell" (SOSP 2025).

use core::sync::atomic::{AtomicU8, Ordering};

use crate::invariant::{Invariant, Violation};
use crate::units::{Order, Pfn, PfnRange};

/// What becomes of pages. Linux's tracepoints `mm_page_alloc` and `mm_page_free`, and what is no event there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The allocator may have these from now on.
    Given(PfnRange),
    /// What is free of these the allocator has no longer.
    Taken(PfnRange),
    /// Somebody has the block of this order there.
    Allocated(Pfn, Order),
    /// Who has the block of this order there gives it up.
    Freed(Pfn, Order),
    /// Who has a block makes two of this order of it.
    Halved(Pfn, Order),
    /// Who has two blocks of this order makes one of them.
    Joined(Pfn, Order),
}

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// None of the allocator's.
    Outside,
    /// To be had.
    Free,
    /// In a block of this order, which starts at a multiple of its size.
    Held(Order),
}

/// What stands about one page in the specification's table; `Outside` to begin with.
#[derive(Debug, Default)]
pub struct Entry(AtomicU8);

impl Entry {
    const OUTSIDE: u8 = 0;
    const FREE: u8 = 1;
    const HELD: u8 = 2;

    fn standing(&self) -> Standing {
        let byte = self.0.load(Ordering::Relaxed);
        match byte.checked_sub(Self::HELD) {
            Some(order) => Standing::Held(Order::of(order.into())),
            None if byte == Self::FREE => Standing::Free,
            None => Standing::Outside,
        }
    }
}

impl Standing {
    const fn byte(self) -> u8 {
        match self {
            Self::Outside => Entry::OUTSIDE,
            Self::Free => Entry::FREE,
            Self::Held(order) => Entry::HELD + order.number(),
        }
    }
}

/// The table, an entry for each frame from 0 on. Frames behind its end are outside.
///
/// Ranges are looked at as one slice: an interpreter goes through all of a slice of atomics whenever it is passed on.
#[derive(Clone, Copy, Debug)]
pub struct Specification<'t> {
    pages: &'t [Entry],
}

impl<'t> Specification<'t> {
    /// With such a table.
    pub const fn new(pages: &'t [Entry]) -> Self {
        Self { pages }
    }

    /// One past the last frame that it knows.
    pub fn end(self) -> Pfn {
        Pfn::new(u32::try_from(self.pages.len()).unwrap_or(u32::MAX))
    }

    /// What a page is to be.
    pub fn standing(self, pfn: Pfn) -> Standing {
        self.pages.get(pfn.index()).map_or(Standing::Outside, Entry::standing)
    }

    /// The head of the block that a page is held in.
    pub fn head(self, pfn: Pfn) -> Option<Pfn> {
        match self.standing(pfn) {
            Standing::Held(order) => Some(pfn.align_down(order)),
            Standing::Outside | Standing::Free => None,
        }
    }

    /// Whether all of the range can be had.
    pub fn is_free(self, range: PfnRange) -> bool {
        self.first_unlike(range, Standing::Free).is_none()
    }

    /// The first page of a range that is to be anything but this.
    pub fn first_unlike(self, range: PfnRange, standing: Standing) -> Option<Pfn> {
        let mut pages = self.pages.get(range.start.index()..).unwrap_or_default().iter();
        let is_unlike = |entry: Option<&Entry>| entry.map_or(Standing::Outside, Entry::standing) != standing;
        range.frames().find(|_| is_unlike(pages.next()))
    }

    /// Goes along with a change.
    ///
    /// # Errors
    /// There is no such way (SPEC-1), and what is to be true from then on is not said.
    pub fn follow(self, change: Change) -> Result<(), Violation> {
        let block = |head: Pfn, order: Order| {
            if head.is_aligned(order) {
                Ok(PfnRange::new(head, head.plus(order.pages())))
            } else {
                Err(Violation::of(Invariant::Spec1, Some(head), "a block starts where none of its size does"))
            }
        };
        let whole = |head: Pfn, halves: Order| {
            let order = halves.up().ok_or(Violation::of(Invariant::Spec1, Some(head), "no block is so large"))?;
            Ok((block(head, order)?, order))
        };
        use Standing::{Free, Held, Outside};
        match change {
            Change::Given(range) => self.turn(range, Outside, Free, "a page is given twice"),
            Change::Taken(range) => self.turn(range, Free, Outside, "a page is taken away that is not free"),
            Change::Allocated(head, order) => {
                self.turn(block(head, order)?, Free, Held(order), "a page that is not free is given out")
            }
            Change::Freed(head, order) => self.turn(
                block(head, order)?,
                Held(order),
                Free,
                "a page is taken back that nobody has in such a block",
            ),
            Change::Halved(head, order) => {
                let (range, of) = whole(head, order)?;
                self.turn(range, Held(of), Held(order), "a block is halved that nobody has")
            }
            Change::Joined(head, order) => {
                let (range, to) = whole(head, order)?;
                self.turn(range, Held(order), Held(to), "blocks are joined that nobody has")
            }
        }
    }

    fn turn(self, range: PfnRange, from: Standing, to: Standing, what: &'static str) -> Result<(), Violation> {
        let broken = |pfn, what| Violation::of(Invariant::Spec1, Some(pfn), what);
        let pages = self.pages.get(range.start.index()..range.end.index());
        let unknown = broken(self.end().max(range.start), "a page is used that the specification has no room for");
        range.frames().zip(pages.ok_or(unknown)?).try_for_each(|(pfn, entry)| {
            // Pairs with itself on whatever CPU: who is given a page finds what was said when it was given up.
            let turned = entry.0.compare_exchange(from.byte(), to.byte(), Ordering::AcqRel, Ordering::Relaxed);
            turned.map(|_| ()).map_err(|_| broken(pfn, what))
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ONE: Order = Order::ZERO;
    const TWO: Order = Order::of(1);

    fn at(pfn: u32) -> Pfn {
        Pfn::new(pfn)
    }

    fn with_eight_pages<R>(test: impl FnOnce(Specification<'_>) -> R) -> R {
        let pages: [Entry; 8] = Default::default();
        let specification = Specification::new(&pages);
        specification.follow(Change::Given(PfnRange::new(at(2), at(8)))).expect("nobody has them");
        test(specification)
    }

    #[test]
    fn pages_go_from_hand_to_hand_and_come_back() {
        with_eight_pages(|spec| {
            assert_eq!((spec.standing(at(1)), spec.standing(at(2))), (Standing::Outside, Standing::Free));
            for change in [
                Change::Allocated(at(4), TWO),
                Change::Halved(at(4), ONE),
                Change::Freed(at(5), ONE),
                Change::Allocated(at(5), ONE),
                Change::Joined(at(4), ONE),
            ] {
                spec.follow(change).unwrap_or_else(|violation| panic!("{change:?}: {violation}"));
            }
            assert_eq!((spec.head(at(5)), spec.head(at(6))), (Some(at(4)), None));
            spec.follow(Change::Freed(at(4), TWO)).expect("it is held");
            assert!(spec.is_free(PfnRange::new(at(2), at(8))));
        });
    }

    #[test]
    fn the_first_page_that_is_anything_else_is_found_and_behind_the_table_all_is_outside() {
        with_eight_pages(|spec| {
            spec.follow(Change::Allocated(at(6), ONE)).expect("it is free");
            let first = |start, end, standing| spec.first_unlike(PfnRange::new(at(start), at(end)), standing);
            assert_eq!(first(0, 2, Standing::Outside), None);
            assert_eq!(first(0, 4, Standing::Outside), Some(at(2)));
            assert_eq!(first(2, 8, Standing::Free), Some(at(6)));
            assert_eq!(first(7, 10, Standing::Free), Some(at(8)));
            assert_eq!((first(8, 10, Standing::Outside), first(20, 21, Standing::Free)), (None, Some(at(20))));
            assert_eq!(
                (spec.is_free(PfnRange::new(at(2), at(6))), spec.is_free(PfnRange::new(at(2), at(7)))),
                (true, false)
            );
        });
    }

    #[test]
    fn what_is_not_so_is_refused_by_name() {
        let held = Change::Allocated(at(4), TWO);
        for (wrong, pfn, what) in [
            (Change::Given(PfnRange::new(at(1), at(3))), at(2), "a page is given twice"),
            (Change::Allocated(at(4), ONE), at(4), "a page that is not free is given out"),
            (Change::Allocated(at(1), ONE), at(1), "a page that is not free is given out"),
            (Change::Allocated(at(8), ONE), at(8), "a page is used that the specification has no room for"),
            (Change::Allocated(at(3), TWO), at(3), "a block starts where none of its size does"),
            (Change::Freed(at(4), ONE), at(4), "a page is taken back that nobody has in such a block"),
            (Change::Freed(at(6), TWO), at(6), "a page is taken back that nobody has in such a block"),
            (Change::Freed(at(0), ONE), at(0), "a page is taken back that nobody has in such a block"),
            (Change::Halved(at(6), ONE), at(6), "a block is halved that nobody has"),
            (Change::Joined(at(4), ONE), at(4), "blocks are joined that nobody has"),
        ] {
            with_eight_pages(|spec| {
                spec.follow(held).expect("it is free");
                let expected = Violation::of(Invariant::Spec1, Some(pfn), what);
                assert_eq!(spec.follow(wrong), Err(expected), "{wrong:?}");
            });
        }
    }
}
