//! What a case writes to its pages, to find it there again.
//!
//! The first word of a page is a mark that each allocation has for itself; the others follow from it and the frame. So
//! a page that two blocks share, or that a freelist still writes to, shows.

use super::Failure;
use crate::machine::Machine;
use crate::page::{Block, ContigRange};
use crate::units::{PAGE_SIZE, Pfn, PfnRange};

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Memory whose pages can be looked at.
pub(super) trait Pages {
    fn frames(&self) -> PfnRange;
    fn look<R>(&mut self, pfn: Pfn, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R>;
}

impl<M: Machine> Pages for Block<'_, M> {
    fn frames(&self) -> PfnRange {
        self.range()
    }

    fn look<R>(&mut self, pfn: Pfn, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        self.with_page(pfn, look)
    }
}

impl<M: Machine> Pages for ContigRange<'_, M> {
    fn frames(&self) -> PfnRange {
        self.range()
    }

    fn look<R>(&mut self, pfn: Pfn, look: impl FnOnce(&mut [u8; PAGE_SIZE]) -> R) -> Option<R> {
        self.with_page(pfn, look)
    }
}

fn word(mark: u64, pfn: Pfn, index: usize) -> [u8; 8] {
    match index {
        0 => mark,
        _ => mark.wrapping_add(u64::from(pfn.number())).wrapping_mul(ODD).wrapping_add(index as u64),
    }
    .to_le_bytes()
}

/// Writes to every byte of every page.
pub(super) fn write(pages: &mut impl Pages, mark: u64) -> Result<(), Failure> {
    for pfn in pages.frames().frames() {
        let written = pages.look(pfn, |bytes| {
            for (index, place) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
                *place = word(mark, pfn, index);
            }
        });
        Failure::unless_of(written.is_some(), pfn, "the owner of a page can write to it")?;
    }
    Ok(())
}

/// Checks that everything is as it was [written](write), with one mark in all pages.
pub(super) fn check(pages: &mut impl Pages) -> Result<(), Failure> {
    let mark_of = |bytes: &mut [u8; PAGE_SIZE]| bytes.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let mark = pages.look(pages.frames().start, mark_of).unwrap_or_default();
    for pfn in pages.frames().frames() {
        let intact = pages.look(pfn, |bytes| {
            bytes.as_chunks().0.iter().enumerate().all(|(index, &found)| found == word(mark, pfn, index))
        });
        Failure::unless_of(intact == Some(true), pfn, "a page holds what its owner wrote")?;
    }
    Ok(())
}
