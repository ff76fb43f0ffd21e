//! Owners of blocks (DESC-1): who is named by a head names that block, and no more are counted than there are. There may be
//! more than the kernel counts: tests have owners of their own.
//!
//! A descriptor to which nobody refers is one that is frozen, while its block changes, or that has just died; such are
//! passed over, and counted.

use super::frames::{Block, Census, Frames};
use super::image::{At, Fault, Image};
use super::memory::PAGE;
use super::report::Report;
use super::words::{State, Words};

/// Kinds of owners as the second word names them; of a block that is nobody's but its holder's, the first.
pub(super) const PLAIN: u64 = 0;
pub(super) const FOLIO: u64 = 1;
pub(super) const PAGE_TABLE: u64 = 2;
pub(super) const SLAB: u64 = 8;
/// Those with descriptors that are no slabs.
const DESCRIBED: std::ops::RangeInclusive<u64> = 1..=5;
/// Those whose word has the block's order instead.
const BARE: std::ops::RangeInclusive<u64> = 6..=7;

/// What a descriptor says of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) references: u64,
    pub(super) head: u64,
    pub(super) order: u32,
}

/// Reads a descriptor; `like` is the kind that the note has its layout for.
pub(super) fn described(descriptor: At<'_>, like: &str) -> Result<Described, Fault> {
    let word = |what: &str| descriptor.field(&format!("Descriptor.{like}.{what}"))?.u64();
    let (state, block) = (word("state")?, word("block")?);
    let [order, ..] = (block >> 32).to_le_bytes();
    Ok(Described { references: state & 0xffff_ffff, head: block & 0xffff_ffff, order: order.into() })
}

pub(super) fn check(
    image: &Image,
    frames: &Frames,
    census: &Census,
    is_quiet: bool,
    report: &mut Report,
) -> Result<(), Fault> {
    let mut found = [[0_u64; 2]; 16];
    for block in &census.allocated {
        let kind = block.words.kind();
        let of_kind = &mut found[usize::try_from(kind).unwrap_or_default()];
        of_kind[0] += 1;
        of_kind[1] += 1 << block.words.order();
        check_block(image, frames, block, report)?;
    }
    report.look("owned blocks", found[1..].iter().map(|[blocks, _]| blocks).sum());
    if !is_quiet {
        report.skip("counts of owners, while a zone's lock is held");
        return Ok(());
    }
    // Each CPU may be about to make one that was counted, or to count one less that has gone.
    let slack = image.said("cpus.count")?;
    for kind in DESCRIBED {
        let counts = found[usize::try_from(kind).unwrap_or_default()];
        for (what, found, slack) in [("blocks", counts[0], slack), ("pages", counts[1], slack << frames.max_order)] {
            let said = image.place(&format!("owners.{kind}.{what}"))?.u32()?;
            if u64::from(said) > found + slack {
                let what = format!("owners of kind {kind} have {said} {what} as they are counted, and {found} say so");
                report.find("DESC-1", None, what);
            }
        }
    }
    Ok(())
}

fn check_block(image: &Image, frames: &Frames, block: &Block, report: &mut Report) -> Result<(), Fault> {
    let Block { head, words } = *block;
    match words.kind() {
        0 => {
            // What is about to be at hand says so already (PCP-1).
            if words.allocatee != 0 && words.allocatee != Words::number_at_hand(head) {
                report.find("DESC-1", Some(head), format!("a block that nobody owns has no second word: {words}"));
            }
        }
        kind if BARE.contains(&kind) => {
            if words.number() != u64::from(words.order()) {
                let what = format!("its owner has a block of order {}, and this is: {words}", words.number());
                report.find("DESC-1", Some(head), what);
            }
        }
        kind if kind == SLAB || DESCRIBED.contains(&kind) => {
            let like = if kind == SLAB { "slab" } else { "folio" };
            let place = image.at(words.descriptor());
            if !is_in_slab(image, frames, place) {
                let what = format!("its owner's descriptor should be at {:#x}, which is in no slab", place.address);
                report.find("DESC-1", Some(head), what);
                return Ok(());
            }
            let described = described(place, like)?;
            if described.references == 0 {
                report.meet("blocks whose owner is frozen, or has just died");
            } else if (described.head, described.order) != (head, words.order()) {
                let what = format!("its owner's descriptor says {described:x?}, and the block is: {words}");
                report.find("DESC-1", Some(head), what);
            }
        }
        kind => report.find("DESC-1", Some(head), format!("there is no kind {kind} of owners: {words}")),
    }
    Ok(())
}

/// Whether an address is in the direct map, in a page of a slab.
fn is_in_slab(image: &Image, frames: &Frames, place: At<'_>) -> bool {
    let frame = image.translate(place.address).map(|place| place.0 / PAGE);
    let around = frame.and_then(|frame| frames.block_around(frame));
    around.is_some_and(|words| words.is(State::Allocated) && words.kind() == SLAB)
}
