//! Large blocks out of fragmented memory: pages move.
//!
//! ```text
//!   area    F f . T f f n .      free pages and freelists' nodes are claimed, so that nothing moves to where it comes from,
//!           │ │ │ │ │ │ │ │      folios and page tables are asked to move,
//!           ▼ ▼ █ ▼ ▼ ▼ █ █      what they leave is claimed too,
//!           █ █ █ █ █ █ █ █ ──>  and all of it merges to one block
//! ```
//!
//! Whoever owns a page says whether it can move: a folio in a memory object, since all its entries are found through the
//! reverse map and its tree leads to its descriptor; a user's page table, since it knows its place; a freelist's node. The
//! kernel's own memory stays. Whether an area can be cleared shows in one look at each block, before anything is moved.
//!
//! `migrate` is one folio or table to another block, `area` the look, `report` what came of it; `offline` is for a whole
//! section that is to go out of use.
//!
//! Areas are tried from the top of each zone, as the allocator prefers what is below its pivot, and those first that have
//! little in use.
//!
//! Nothing is allocated under a lock. What is given up halfway leaves pages where they are by then, and frees what was
//! claimed.
//! Cost: a look at every block of an area, and for each page in use a copy and what its entries cost.
//! Source: M. Gorman, "Memory Compaction", Linux 2.6.35; Linux's `alloc_contig_range`.

mod area;
mod migrate;
mod offline;
mod report;
#[cfg(all(test, not(loom)))]
#[expect(unsafe_code, reason = "frees objects that it took raw")]
mod tests;

pub use migrate::MigrateError;
pub use offline::OfflineError;
pub use report::{CompactReport, Moved, Refusal};

use core::fmt;

use area::InTheWay;

use crate::machine::{Geometry, Machine};
use crate::owner::Owners;
use crate::page::{Block, Claim, PageAllocator};
use crate::space::{Mmu, Spaces};
use crate::units::{Count, Order, Pfn, PfnRange};

/// Times that an area's pages are asked to move, as somebody may use them just now.
const ROUNDS: u32 = 4;

/// Areas with at most so many eighths in use are tried, then those with more.
const SHARES: [u32; 3] = [2, 4, 8];

/// Moves pages.
pub struct Compactor<'a, M: Machine, U: Mmu> {
    spaces: &'a Spaces<'a, M, U>,
}

impl<'a, M: Machine, U: Mmu> Compactor<'a, M, U> {
    /// A compactor of the memory that these spaces map.
    pub const fn new(spaces: &'a Spaces<'a, M, U>) -> Self {
        Self { spaces }
    }

    fn owners(&self) -> &'a Owners<'a, M> {
        self.spaces.cache().owners()
    }

    fn pages(&self) -> &'a PageAllocator<'a, M> {
        self.owners().pages()
    }

    /// Makes up to so many free blocks of an order, and gives them to `take`. The caller holds no lock.
    pub fn compact(&self, order: Order, Count(wanted): Count, mut take: impl FnMut(Block<'a, M>)) -> CompactReport {
        let mut report = CompactReport::default();
        if order > M::Geometry::MAX_ORDER {
            return report;
        }
        self.pages().drain();
        for (round, share) in SHARES.into_iter().enumerate() {
            let tried = round.checked_sub(1).map(|before| SHARES[before] * order.pages() / 8);
            for area in self.areas(order) {
                if report.cleared.0 == wanted {
                    return report;
                }
                let survey = self.survey(area);
                if tried.is_none() {
                    report.looked_at(&survey);
                }
                let Ok(used) = survey else { continue };
                if used > 0 && tried.is_none_or(|tried| used > tried) && used <= share * order.pages() / 8 {
                    let cleared = self.clear(area, &mut report.moved);
                    report.tried(cleared.as_ref().map(|_| ()).map_err(|&refusal| refusal));
                    if let Ok(block) = cleared {
                        take(block);
                    }
                }
            }
        }
        report
    }

    /// The areas of an order, zone by zone, the uppermost first.
    fn areas(&self, order: Order) -> impl Iterator<Item = PfnRange> + use<'a, M, U> {
        let pages = self.pages();
        pages.zones().flat_map(move |zone| {
            let (start, mut end) = (zone.span.start.align_up(order), zone.span.end.align_down(order));
            core::iter::from_fn(move || {
                while start < end {
                    end = Pfn::new(end.number() - order.pages());
                    let area = PfnRange::new(end, end.plus(order.pages()));
                    if pages.zone_around(area.start) == Some(zone.id) {
                        return Some(area);
                    }
                }
                None
            })
        })
    }

    /// Makes an area free, and one block.
    fn clear(&self, area: PfnRange, moved: &mut Moved) -> Result<Block<'a, M>, Refusal> {
        let mut claim = Claim::new(self.pages(), area);
        let mut refused = Refusal::Unsettled;
        for round in 0..ROUNDS {
            if round > 0 {
                // What somebody freed meanwhile may be at hand of a CPU.
                self.pages().drain();
            }
            self.claim_free(&mut claim, moved);
            if claim.is_whole() {
                return claim.into_block().ok_or(Refusal::NotWhole);
            }
            if let Err(InTheWay { why, .. }) = self.vacate(&mut claim, moved) {
                if !why.may_pass() {
                    return Err(why);
                }
                refused = why;
            }
        }
        Err(refused)
    }
}

impl<M: Machine, U: Mmu> fmt::Debug for Compactor<'_, M, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compactor").finish_non_exhaustive()
    }
}
