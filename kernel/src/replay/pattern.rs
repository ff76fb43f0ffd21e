//! What a replay writes into every page it is given, and finds there again if nobody else has had the page meanwhile.

use core::fmt;

use mm::units::{PAGE_SIZE, Pfn};

use super::held::{Held, Id};

/// A page does not hold what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pfn: Pfn,
    byte: usize,
    wrote: u64,
    found: u64,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pfn, byte, wrote, found } = self;
        write!(f, "{pfn:?} does not hold what was written: at byte {byte} {found:#018x} in place of {wrote:#018x}")
    }
}

/// The words of one page: those of two blocks differ, and those of two pages of one block.
fn words(id: Id, page: u32) -> impl Iterator<Item = u64> {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let first = ((u64::from(id.0) << 32) + u64::from(page) + 1).wrapping_mul(ODD);
    core::iter::successors(Some(first), |word| Some(word.wrapping_add(ODD)))
}

/// Writes all pages of the block.
pub(super) fn fill(block: &mut Held, id: Id) {
    for number in 0..block.order().pages() {
        let filled = block.with_page(number, |page: &mut [u8; PAGE_SIZE]| {
            for (place, word) in page.as_chunks_mut().0.iter_mut().zip(words(id, number)) {
                *place = word.to_le_bytes();
            }
        });
        debug_assert!(filled.is_some(), "DESC-1: a frame of a block is not the block's");
    }
}

/// Looks whether all pages of the block still hold what [`fill`] wrote.
///
/// # Errors
/// The first word that differs.
pub(super) fn check(block: &mut Held, id: Id) -> Result<(), Broken> {
    for number in 0..block.order().pages() {
        let differs = |page: &mut [u8; PAGE_SIZE]| {
            let found = page.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
            (0..).step_by(size_of::<u64>()).zip(found.zip(words(id, number))).find(|(_, (found, wrote))| found != wrote)
        };
        if let Some((byte, (found, wrote))) = block.with_page(number, differs).flatten() {
            return Err(Broken { pfn: block.frame(number), byte, wrote, found });
        }
    }
    Ok(())
}
