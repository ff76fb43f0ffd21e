//! What a replay writes into every page it is given, and finds there again if nobody else has had the page meanwhile.

use mm::units::{PAGE_SIZE, Pfn};
use thiserror::Error;

use super::held::{Held, Id};

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Broken {
    /// It does not hold what was written.
    #[error("{pfn:?} does not hold what was written: at byte {byte} {found:#018x} in place of {wrote:#018x}")]
    Differs { pfn: Pfn, byte: usize, wrote: u64, found: u64 },
    /// What stands there cannot be read, or written.
    #[error("what was written to {0:?} is out of reach")]
    Unreachable(Pfn),
}

/// The words of one page: those of two blocks differ, and those of two pages of one block.
fn words(id: Id, page: u32) -> impl Iterator<Item = u64> {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let first = ((u64::from(id.0) << 32) + u64::from(page) + 1).wrapping_mul(ODD);
    core::iter::successors(Some(first), |word| Some(word.wrapping_add(ODD)))
}

/// Writes all pages of the block.
///
/// # Errors
/// The first that cannot be written.
pub(super) fn fill(block: &mut Held, id: Id) -> Result<(), Broken> {
    for number in 0..block.order().pages() {
        let filled = block.with_page(number, |page: &mut [u8; PAGE_SIZE]| {
            for (place, word) in page.as_chunks_mut().0.iter_mut().zip(words(id, number)) {
                *place = word.to_le_bytes();
            }
        });
        filled.ok_or_else(|| Broken::Unreachable(block.frame(number)))?;
    }
    Ok(())
}

/// Looks whether all pages of the block still hold what [`fill`] wrote.
///
/// # Errors
/// The first word that differs, or page that cannot be read.
pub(super) fn check(block: &mut Held, id: Id) -> Result<(), Broken> {
    for number in 0..block.order().pages() {
        let differs = |page: &mut [u8; PAGE_SIZE]| {
            let found = page.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
            (0..).step_by(size_of::<u64>()).zip(found.zip(words(id, number))).find(|(_, (found, wrote))| found != wrote)
        };
        let found = block.with_page(number, differs).ok_or_else(|| Broken::Unreachable(block.frame(number)))?;
        if let Some((byte, (found, wrote))) = found {
            return Err(Broken::Differs { pfn: block.frame(number), byte, wrote, found });
        }
    }
    Ok(())
}
