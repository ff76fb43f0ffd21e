//! Memory back from buffers that nobody uses: one by one, until the slabs that they leave empty are enough.

use super::buffer::{BufferFlags, BufferRef};
use super::buffer_cache::BufferCache;
use super::mapping::BufferMapping;
use crate::cache::Generation;
use crate::machine::Machine;
use crate::shrinker::{Shortage, Shrinker};
use crate::units::{Count, PAGE_SIZE};

impl<M: Machine> BufferCache<'_, M> {
    /// Reclaims as many buffers as are wanted; fewer, if after two looks at each there are no more that can go. Says how
    /// many. The caller holds no lock but that of a buffer which nobody sees yet.
    pub fn reclaim(&self, wanted: Count) -> Count {
        let mut reclaimed = 0;
        let [inactive, active] =
            [Generation::Inactive, Generation::Active].map(|generation| u64::from(self.lru.count(generation).0));
        let mut looks = 2 * (inactive + active);
        while reclaimed < wanted.0 && looks > 0 {
            self.balance();
            let Some(buffer) = self.lru.oldest(self, Generation::Inactive) else { break };
            looks -= 1;
            reclaimed += u32::from(evict(buffer).is_some());
        }
        Count(reclaimed)
    }

    /// Makes the oldest active buffers inactive that were not used since they were last looked at, until they are not
    /// more than the inactive ones. All may have been used once: so each is looked at twice.
    fn balance(&self) {
        let mut looks = 2 * u64::from(self.lru.count(Generation::Active).0);
        while looks > 0 && self.lru.count(Generation::Active) > self.lru.count(Generation::Inactive) {
            let Some(buffer) = self.lru.oldest(self, Generation::Active) else { return };
            looks -= 1;
            if !buffer.clear(BufferFlags::REFERENCED).contains(BufferFlags::REFERENCED) {
                self.lru.move_to(&buffer, Generation::Inactive);
            }
        }
    }

    /// Gives back all pages that hold nothing. Says how many.
    fn give_back(&self) -> Count {
        Count(self.data.shrink().0 + self.descriptors.shrink().0 + self.nodes.shrink().0)
    }
}

/// Takes a buffer out of memory, if it can go.
fn evict<M: Machine>(buffer: BufferRef<'_, M>) -> Option<()> {
    let buffer = buffer.try_lock()?;
    let mapping = BufferMapping::of(&buffer)?;
    if buffer.flags().contains(BufferFlags::DIRTY) {
        mapping.write_buffer(&buffer).ok()?;
    }
    mapping.take_out(&buffer);
    Some(())
}

impl<M: Machine> Shrinker for BufferCache<'_, M> {
    fn reclaimable(&self) -> Count {
        self.report().pages
    }

    fn shrink(&self, shortage: &Shortage) -> Count {
        let wanted = shortage.wanted;
        let each = u32::try_from(PAGE_SIZE / self.size.bytes()).unwrap_or(1);
        let mut pages = self.give_back();
        while pages < wanted {
            let buffers = (wanted.0 - pages.0).saturating_mul(each);
            if self.reclaim(Count(buffers)) == Count(0) {
                break;
            }
            pages.0 += self.give_back().0;
        }
        pages
    }
}
