//! Reading and writing a file without mapping it.

use super::fault::Intent;
use super::fill::CacheError;
use super::mapping::Mapping;
use crate::machine::Machine;
use crate::units::{Bytes, FileOffset, Order, PAGE_SIZE, PageIndex};

/// Cuts a run of bytes at the edges of pages: for each, the page, where in it the part begins, and its length.
fn parts(offset: FileOffset, len: usize) -> impl Iterator<Item = (PageIndex, usize, usize)> {
    let mut left = len;
    let mut at = offset;
    core::iter::from_fn(move || {
        let within = usize::try_from(at.0 % PAGE_SIZE as u64).ok()?;
        let part = left.min(PAGE_SIZE - within);
        let page = at.page();
        at = at.plus(part as u64);
        left -= part;
        (part > 0).then_some((page, within, part))
    })
}

impl<'a, M: Machine> Mapping<'a, M> {
    /// Copies bytes out of what is seen through this mapping.
    ///
    /// # Errors
    /// See [`CacheError`]; some bytes may have been copied.
    pub fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), CacheError> {
        let mut rest = bytes;
        for (page, within, len) in parts(offset, rest.len()) {
            let (part, behind) = rest.split_at_mut(len);
            self.with_page(page, Intent::Read, |folio, start| folio.copy_to(Bytes(start + within), part))?;
            rest = behind;
        }
        Ok(())
    }

    /// Copies bytes in. What stands behind the mapping is copied first, and a space that shows the mapping goes on showing
    /// the original until it faults: so this is for files, and for what no space shows.
    ///
    /// # Errors
    /// See [`CacheError`]; some bytes may have been copied.
    pub fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), CacheError> {
        let mut rest = bytes;
        for (page, within, len) in parts(offset, rest.len()) {
            let (part, behind) = rest.split_at(len);
            self.with_page(page, Intent::Write, |folio, start| folio.copy_from(Bytes(start + within), part))?;
            rest = behind;
        }
        Ok(())
    }

    /// Shows the folio that a page stands in, locked, and where in it the page begins.
    fn with_page(
        &self,
        page: PageIndex,
        intent: Intent,
        copy: impl FnOnce(&crate::folio::LockedFolio<'a, M>, usize) -> Option<()>,
    ) -> Result<(), CacheError> {
        let folio = self.fault(page, intent, Order::LIMIT)?.folio;
        let start = usize::try_from(page.0 - folio.index().0).unwrap_or(usize::MAX).saturating_mul(PAGE_SIZE);
        copy(&folio, start).ok_or(CacheError::Beyond(page))
    }
}
