//! Reading and writing runs of bytes.

use super::buffer::BufferFlags;
use super::mapping::{BlockIndex, BufferError, BufferMapping, Contents};
use crate::cache::StoreError;
use crate::machine::Machine;
use crate::units::FileOffset;

impl<M: Machine> BufferMapping<'_, M> {
    /// Cuts a run of bytes at the edges of buffers: for each, its index, where in it the part begins, and its length.
    fn parts(
        &self,
        offset: FileOffset,
        len: usize,
    ) -> Result<impl Iterator<Item = (BlockIndex, usize, usize)> + use<M>, StoreError> {
        let size = self.cache.size;
        let fits = offset.0.checked_add(len as u64).is_some_and(|end| end <= self.store.size().0);
        let (mut at, mut left) = (offset.0, len);
        let parts = core::iter::from_fn(move || {
            let within = usize::try_from(at % size.bytes() as u64).ok()?;
            let (index, part) = (BlockIndex(at >> size.shift()), left.min(size.bytes() - within));
            at += part as u64;
            left -= part;
            (part > 0).then_some((index, within, part))
        });
        fits.then_some(parts).ok_or(StoreError::Beyond(offset))
    }

    /// Copies bytes out.
    ///
    /// # Errors
    /// See [`BufferError`]; some bytes may have been copied.
    pub fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), BufferError> {
        let mut rest = bytes;
        for (index, within, len) in self.parts(offset, rest.len())? {
            let (part, behind) = rest.split_at_mut(len);
            part.copy_from_slice(&self.locked(index, Contents::Wanted)?.bytes()[within..within + len]);
            rest = behind;
        }
        Ok(())
    }

    /// Copies bytes in. A buffer that is written from end to end is not read first.
    ///
    /// # Errors
    /// See [`BufferError`]; some bytes may have been copied.
    pub fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), BufferError> {
        let mut rest = bytes;
        for (index, within, len) in self.parts(offset, rest.len())? {
            let (part, behind) = rest.split_at(len);
            let (_, stored) = self.stored(index);
            let contents = if within == 0 && len >= stored { Contents::Overwritten } else { Contents::Wanted };
            let mut buffer = self.locked(index, contents)?;
            buffer.bytes_mut()[within..within + len].copy_from_slice(part);
            buffer.set(BufferFlags::UPTODATE);
            self.set_dirty(&buffer);
            rest = behind;
        }
        Ok(())
    }
}
