//! The checker of a mapping, while nobody is at work in it.

use super::buffer::BufferFlags;
use super::mapping::{BlockIndex, BufferMapping};
use crate::invariant::{Invariant, Violation};
use crate::machine::Machine;
use crate::units::{PageIndex, Pfn};

impl<M: Machine> BufferMapping<'_, M> {
    /// Checks BUF-1, BUF-2 and TREE-1. Cost: a look at every buffer.
    ///
    /// # Errors
    /// The first violation found.
    pub fn verify(&self) -> Result<(), Violation> {
        let tree = self.tree.lock(self.machine());
        tree.verify()?;
        let (first, last) = (PageIndex(0), PageIndex(u64::MAX));
        let mut buffers = 0;
        for index in tree.entries(first, last).map(|found| BlockIndex(found.first.0)) {
            let broken = |invariant, pfn, what| Err(Violation::of(invariant, pfn, what));
            let Some(buffer) = self.lookup(index) else {
                return broken(Invariant::Buf1, None, "an entry leads to no buffer that stands there");
            };
            let page = Pfn::containing(self.cache.caches.pages.machine().physical(buffer.data()));
            let flags = buffer.flags();
            if flags.contains(BufferFlags::LOCKED) {
                return broken(Invariant::Buf1, page, "a buffer is locked, and nobody is at work");
            }
            if !buffer.lru.is_linked() {
                return broken(Invariant::Buf1, page, "a buffer stands in a mapping and in no generation");
            }
            let marked = tree.next_marked(PageIndex(index.0));
            let marked = marked.is_some_and(|marked| marked.first.0 == index.0);
            if marked != flags.contains(BufferFlags::DIRTY) {
                return broken(Invariant::Buf2, page, "a buffer is dirty and not marked, or marked and clean");
            }
            buffers += 1;
        }
        if buffers != tree.buffers {
            return Err(Violation::of(Invariant::Buf1, None, "a mapping has other buffers than it counts"));
        }
        Ok(())
    }
}
