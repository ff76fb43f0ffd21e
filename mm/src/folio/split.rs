//! One folio made many, and many made one again, in place: no page moves, only descriptors come and go.
//!
//! ```text
//!   order 4, uniform to order 2     ┌────┬────┬────┬────┐
//!   order 4, around a page, to 0    ┌────────┬────┬─┬▀┬──┐   the page alone, and beside it halves as large as can be
//! ```
//!
//! How many pieces there are to be is known beforehand, and their descriptors are had before anything changes: so it is
//! done whole, or not at all. Likewise all that are to be joined are [frozen](crate::owner::Frozen) before the first
//! two are.
//!
//! Invariants: DESC-1, ACCT-2 (each piece is paid for by who paid for the whole).
//! Cost: a descriptor and three descriptor writes for each piece more.
//!
//! Source: Z. Yan, "Buddy allocator like (or non-uniform) folio split", Linux 6.15.
#![expect(unsafe_code, reason = "keeps folios side by side by their frames alone")]

use core::fmt;
use core::mem::ManuallyDrop;

use arrayvec::ArrayVec;
use thiserror::Error;

use super::lock::FrozenFolio;
use crate::machine::{Geometry, Machine};
use crate::owner::{Descriptors, Folio, Owned, Owners};
use crate::slab::NoMemory;
use crate::units::{Count, Order, Pfn, PfnRange};

/// What a folio is to be cut into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplitTo {
    /// Pieces of this size.
    Uniform(Order),
    /// A piece of this size around this frame, and what is left in pieces as large as can be.
    Around(Pfn, Order),
}

/// Why a folio was not split; it is as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SplitError {
    /// The pieces would not be smaller than the folio, or not lie in it.
    #[error("the folio has no such pieces")]
    NoSuchPieces,
    /// Somebody else refers to it.
    #[error("the folio is referred to")]
    Referred,
    /// Its pages must stay what they are.
    #[error("the folio is pinned")]
    Pinned,
    /// It stands in no mapping of the cache that was to split it.
    #[error("the folio stands in no mapping of the cache")]
    Nowhere,
    /// There is no memory for the pieces' descriptors, or for their places in a tree.
    #[error(transparent)]
    NoMemory(#[from] NoMemory),
}

/// Why folios were not joined; all of them are as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum JoinError {
    /// They do not make up one block, of a size and at a place that blocks have.
    #[error("the folios make up no block")]
    NoBlock,
    /// The folio with this head is paid for by another group, or in another zone.
    #[error("the folio at {0:?} is paid for by another group, or lies in another zone")]
    NotAlike(Pfn),
    /// Somebody else refers to the folio with this head.
    #[error("the folio at {0:?} is referred to")]
    Referred(Pfn),
}

impl SplitTo {
    /// Pieces that a folio of `order` at `head` comes to; `None` if it has no such pieces.
    pub fn pieces(self, head: Pfn, order: Order) -> Option<Count> {
        match self {
            Self::Uniform(to) if to < order => Some(Count(1 << (order.number() - to.number()))),
            Self::Around(pfn, to) if to < order && pfn.align_down(order) == head => {
                Some(Count(u32::from(order.number() - to.number()) + 1))
            }
            _ => None,
        }
    }

    /// Whether the part of `order` at `head` is to be cut further.
    fn cuts(self, head: Pfn, order: Order) -> bool {
        match self {
            Self::Uniform(to) => to < order,
            Self::Around(pfn, to) => to < order && pfn.align_down(order) == head,
        }
    }
}

/// Pieces that wait for those below them.
type Above<'a, M> = ArrayVec<FrozenFolio<'a, M>, { Order::LIMIT.index() + 1 }>;

impl<'a, M: Machine> FrozenFolio<'a, M> {
    /// Cuts the folio, and hands out the pieces in ascending order: frozen still, locked if the folio was, and to have no
    /// reference but the holder's, unless told [otherwise](Self::keep). What was kept for the whole is kept for none.
    ///
    /// # Errors
    /// It has no such pieces, or there are too few descriptors: one for each piece but the first. It comes back.
    pub(crate) fn split(
        self,
        to: SplitTo,
        descriptors: &mut Descriptors<'_, 'a, M, Folio>,
        mut each: impl FnMut(Self),
    ) -> Result<(), Self> {
        match to.pieces(self.head(), self.order()) {
            Some(Count(pieces)) if descriptors.left().0 >= pieces - 1 => {}
            _ => return Err(self),
        }
        let mut above = Above::new();
        let mut at = self;
        at.keep(Count(0));
        loop {
            while to.cuts(at.head(), at.order()) {
                let upper = at.order().down().map_or(0, Order::pages);
                let Ok((low, high)) = at.halve(descriptors, |whole| whole.part(upper)) else {
                    panic!("invariant DESC-1 broken: a folio cannot be halved though a descriptor was set aside");
                };
                above.push(high);
                at = low;
            }
            each(at);
            match above.pop() {
                Some(next) => at = next,
                None => return Ok(()),
            }
        }
    }

    /// Joins this with the folio behind it. Its contents are the memory object's if both folios' were, and are newer
    /// than the store's if one of them was.
    fn join_next(self, upper: Self) -> Result<Self, (Self, Self)> {
        let (whole, upper) = self.join(upper)?;
        whole.absorb(&upper);
        Ok(whole)
    }
}

impl<'a, M: Machine> Owned<'a, M, Folio> {
    /// Cuts a folio that is in no memory object. The pieces' state is the folio's.
    ///
    /// # Errors
    /// It has no such pieces, is referred to or pinned, or there is no memory for descriptors; it comes back.
    pub fn split(self, to: SplitTo) -> Result<FolioRow<'a, M>, (Self, SplitError)> {
        let Some(Count(pieces)) = to.pieces(self.head(), self.order()) else {
            return Err((self, SplitError::NoSuchPieces));
        };
        let owners = self.owners();
        let mut descriptors = match owners.descriptors(Count(pieces - 1)) {
            Ok(descriptors) => descriptors,
            Err(error) => return Err((self, error.into())),
        };
        let range = self.range();
        let frozen = match self.freeze() {
            Ok(frozen) => frozen,
            Err(folio) => {
                let pinned = folio.pins() > Count(0);
                return Err((folio, if pinned { SplitError::Pinned } else { SplitError::Referred }));
            }
        };
        let split = frozen.split(to, &mut descriptors, |piece| {
            // SAFETY: it was owned.
            let _ = unsafe { piece.thaw_owned() }.into_raw();
        });
        assert!(split.is_ok(), "invariant DESC-1 broken: a folio cannot be split though descriptors were set aside");
        Ok(FolioRow { owners, range })
    }

    /// Joins two halves of a block, in whatever order they come.
    ///
    /// # Errors
    /// They are not that, or one of them is referred to; both come back.
    pub fn join(self, other: Self) -> Result<Self, (Self, Self, JoinError)> {
        let swapped = other.head() < self.head();
        let (low, upper) = if swapped { (other, self) } else { (self, other) };
        let back = |low, upper, error| if swapped { (upper, low, error) } else { (low, upper, error) };
        if low.range().end != upper.head() || !core::ptr::eq(low.owners(), upper.owners()) {
            return Err(back(low, upper, JoinError::NoBlock));
        }
        let (owners, range) = (low.owners(), PfnRange::new(low.head(), upper.range().end));
        let _ = (low.into_raw(), upper.into_raw());
        FolioRow { owners, range }.join().map_err(|(mut row, error)| match (row.next(), row.next()) {
            (Some(low), Some(upper)) => back(low, upper, error),
            _ => unreachable!("a row of two has two"),
        })
    }
}

/// Folios side by side, of whatever sizes, in ascending order; those not taken are freed.
///
/// # Invariants
/// The range is a row of owned folios, which nobody else gives up (DESC-1).
#[must_use = "dropping a row drops the folios"]
pub struct FolioRow<'a, M: Machine> {
    owners: &'a Owners<'a, M>,
    range: PfnRange,
}

impl<'a, M: Machine> FolioRow<'a, M> {
    /// A row of one.
    pub fn of(folio: Owned<'a, M, Folio>) -> Self {
        let (owners, range) = (folio.owners(), folio.range());
        let _ = folio.into_raw();
        Self { owners, range }
    }

    /// The row with a folio more.
    ///
    /// # Errors
    /// It does not begin where the row ends; both come back.
    pub fn with(mut self, next: Owned<'a, M, Folio>) -> Result<Self, (Self, Owned<'a, M, Folio>)> {
        if self.range.is_empty() || next.head() != self.range.end || !core::ptr::eq(next.owners(), self.owners) {
            return Err((self, next));
        }
        self.range.end = next.range().end;
        let _ = next.into_raw();
        Ok(self)
    }

    /// The frames of all folios in the row.
    pub const fn range(&self) -> PfnRange {
        self.range
    }

    /// Joins all of them.
    ///
    /// # Errors
    /// They make up no block, are not alike, or one of them is referred to; all of them come back.
    pub fn join(self) -> Result<Owned<'a, M, Folio>, (Self, JoinError)> {
        if let Err(error) = self.check_block().and_then(|()| self.freeze_all()) {
            return Err((self, error));
        }
        let row = ManuallyDrop::new(self);
        let mut joined = Above::new();
        let mut at = row.range.start;
        while at < row.range.end {
            // SAFETY: all folios of the row were left frozen, and each is taken back once.
            let mut piece: FrozenFolio<'a, M> = unsafe { row.owners.frozen_from_raw(at) };
            at = piece.range().end;
            while joined.last().is_some_and(|low: &FrozenFolio<'a, M>| low.order() == piece.order()) {
                piece = match joined.pop().map(|low| low.join_next(piece)) {
                    Some(Ok(whole)) => whole,
                    _ => panic!("invariant ZONE-1 broken: two halves of {:?} do not join", row.range),
                };
            }
            joined.push(piece);
        }
        let Some(whole) = joined.pop().filter(|_| joined.is_empty()) else {
            panic!("invariant ZONE-1 broken: {:?} is no row of aligned blocks", row.range);
        };
        // SAFETY: all that it was made of was owned.
        Ok(unsafe { whole.thaw_owned() })
    }

    /// Whether the row is one block, all of it in one zone and paid for by one group.
    fn check_block(&self) -> Result<(), JoinError> {
        let order = u8::try_from(self.range.pages().trailing_zeros()).ok().and_then(Order::new);
        let order = order.filter(|&order| order.pages() == self.range.pages() && self.range.start.is_aligned(order));
        order.filter(|&order| order <= M::Geometry::MAX_ORDER).ok_or(JoinError::NoBlock)?;
        let pages = self.owners.pages();
        let of = |head| (pages.group_of(head), pages.zone_around(head));
        let first = of(self.range.start);
        match self.heads(self.range).find(|&head| of(head) != first) {
            Some(head) => Err(JoinError::NotAlike(head)),
            None => Ok(()),
        }
    }

    /// Freezes all folios, and leaves them so.
    fn freeze_all(&self) -> Result<(), JoinError> {
        for head in self.heads(self.range) {
            // SAFETY: the row owns its folios, and this one is given up again at once.
            let folio = unsafe { self.owners.from_raw::<Folio>(head) };
            match folio.freeze() {
                Ok(frozen) => {
                    let _ = frozen.into_raw();
                }
                Err(folio) => {
                    let _ = folio.into_raw();
                    self.thaw_all(PfnRange::new(self.range.start, head));
                    return Err(JoinError::Referred(head));
                }
            }
        }
        Ok(())
    }

    fn thaw_all(&self, frozen: PfnRange) {
        for head in self.heads(frozen) {
            // SAFETY: it was left frozen just now.
            let frozen: FrozenFolio<'a, M> = unsafe { self.owners.frozen_from_raw(head) };
            // SAFETY: the row owns it.
            let _ = unsafe { frozen.thaw_owned() }.into_raw();
        }
    }

    /// The heads of the folios in a part of the row.
    fn heads(&self, part: PfnRange) -> impl Iterator<Item = Pfn> + use<'a, M> {
        let pages = self.owners.pages();
        let mut at = part.start;
        core::iter::from_fn(move || {
            let head = Some(at).filter(|&head| head < part.end)?;
            at = head.plus(pages.page_state(head).1.pages());
            Some(head)
        })
    }
}

impl<'a, M: Machine> Iterator for FolioRow<'a, M> {
    type Item = Owned<'a, M, Folio>;

    /// Takes the first folio out of the row.
    fn next(&mut self) -> Option<Owned<'a, M, Folio>> {
        if self.range.is_empty() {
            return None;
        }
        // SAFETY: the row owns its folios, and this is its first no longer.
        let folio = unsafe { self.owners.from_raw::<Folio>(self.range.start) };
        self.range = PfnRange::new(folio.range().end, self.range.end);
        Some(folio)
    }
}

impl<M: Machine> Drop for FolioRow<'_, M> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

impl<M: Machine> fmt::Debug for FolioRow<'_, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FolioRow({:?})", self.range)
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
