//! From buffers to their store.

use super::buffer::{BufferFlags, LockedBuffer};
use super::mapping::{BlockIndex, BufferMapping};
use crate::cache::StoreError;
use crate::machine::Machine;
use crate::units::{Count, PageIndex};

impl<'a, M: Machine> BufferMapping<'a, M> {
    /// Calls a buffer dirty that stands here.
    pub(super) fn set_dirty(&self, buffer: &LockedBuffer<'a, M>) {
        if !buffer.set(BufferFlags::DIRTY).contains(BufferFlags::DIRTY) {
            self.tree.lock(self.machine()).mark(buffer.place().1.extent());
        }
    }

    /// Writes everything dirty to the store, in ascending order. Says how many buffers were written.
    ///
    /// # Errors
    /// The store has failed; what was not written is still dirty.
    pub fn write_back(&self) -> Result<Count, StoreError> {
        let mut written = 0;
        let mut next = Some(BlockIndex(0));
        while let Some(from) = next {
            let marked = self.tree.lock(self.machine()).next_marked(PageIndex(from.0));
            let Some(index) = marked.map(|found| BlockIndex(found.first.0)) else { break };
            next = index.0.checked_add(1).map(BlockIndex);
            let Some(buffer) = self.lookup(index).map(super::BufferRef::lock) else { continue };
            if self.holds(&buffer, index) && buffer.flags().contains(BufferFlags::DIRTY) {
                self.write_buffer(&buffer)?;
                written += 1;
            }
        }
        Ok(Count(written))
    }

    /// Writes a dirty buffer that stands here.
    pub(super) fn write_buffer(&self, buffer: &LockedBuffer<'a, M>) -> Result<(), StoreError> {
        let (_, index) = buffer.place();
        let (start, len) = self.stored(index);
        self.store.write(start, &buffer.bytes()[..len])?;
        buffer.clear(BufferFlags::DIRTY);
        self.tree.lock(self.machine()).unmark(index.extent());
        Ok(())
    }
}
