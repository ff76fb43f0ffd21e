//! Which buffer goes next: two generations, each in the order in which it was entered.
//!
//! The rules are those of folios ([`crate::cache`]): used a second time a buffer becomes active, and what is active and
//! not used any more is made inactive when there is more of it than of the other.
#![expect(unsafe_code, reason = "links buffers that a mapping keeps")]

use core::fmt;
use core::ptr::NonNull;

use intrusive_collections::{LinkedList, LinkedListAtomicLink, UnsafeRef, intrusive_adapter};

use super::buffer::{Buffer, BufferFlags, BufferRef};
use super::buffer_cache::BufferCache;
use crate::cache::Generation;
use crate::lock::Mutex;
use crate::lock_order::class;
use crate::machine::Machine;
use crate::units::Count;

intrusive_adapter!(ByAge = UnsafeRef<Buffer>: Buffer { lru: LinkedListAtomicLink });

/// The two generations.
pub(super) struct Lru {
    lists: Mutex<class::BufferAges, Lists>,
}

struct Lists {
    inactive: Age,
    active: Age,
}

/// One generation: the youngest in front.
struct Age {
    list: LinkedList<ByAge>,
    count: u32,
}

// SAFETY: the links are atomic, and buffers are `Send` and `Sync`.
unsafe impl Send for Age {}

impl Age {
    fn new() -> Self {
        Self { list: LinkedList::new(ByAge::NEW), count: 0 }
    }
}

impl Lists {
    fn of(&mut self, generation: Generation) -> &mut Age {
        match generation {
            Generation::Inactive => &mut self.inactive,
            Generation::Active => &mut self.active,
        }
    }

    fn push<M: Machine>(&mut self, buffer: &BufferRef<'_, M>) {
        let age = self.of(generation_of(buffer));
        age.count += 1;
        // SAFETY: BUF-1, the buffer stands in a mapping, whose tree has a reference until it is taken off.
        age.list.push_front(unsafe { buffer.linked() });
    }

    fn unlink(&mut self, buffer: &Buffer) {
        let age = self.of(generation_of(buffer));
        // SAFETY: the buffer is linked, and its flag says in which list.
        let mut cursor = unsafe { age.list.cursor_mut_from_ptr(buffer) };
        if cursor.remove().is_some() {
            age.count -= 1;
        }
    }
}

fn generation_of(buffer: &Buffer) -> Generation {
    if buffer.flags().contains(BufferFlags::ACTIVE) { Generation::Active } else { Generation::Inactive }
}

impl Lru {
    pub(super) fn new() -> Self {
        Self { lists: Mutex::new(Lists { inactive: Age::new(), active: Age::new() }) }
    }

    /// Enters a buffer that has just been put into a mapping.
    pub(super) fn add<M: Machine>(&self, buffer: &BufferRef<'_, M>) {
        self.lists.lock(buffer.machine()).push(buffer);
    }

    /// Takes off a buffer that leaves its mapping.
    pub(super) fn remove<M: Machine>(&self, buffer: &BufferRef<'_, M>) {
        self.lists.lock(buffer.machine()).unlink(buffer);
    }

    /// Moves a buffer to the front of a generation, if it is in one.
    pub(super) fn move_to<M: Machine>(&self, buffer: &BufferRef<'_, M>, generation: Generation) {
        let mut lists = self.lists.lock(buffer.machine());
        if !buffer.lru.is_linked() {
            return;
        }
        lists.unlink(buffer);
        match generation {
            Generation::Inactive => buffer.clear(BufferFlags::ACTIVE),
            Generation::Active => buffer.set(BufferFlags::ACTIVE),
        };
        lists.push(buffer);
    }

    /// The oldest buffer of a generation, which becomes the youngest, so that the next call gives another.
    pub(super) fn oldest<'a, M: Machine>(
        &self,
        cache: &'a BufferCache<'a, M>,
        generation: Generation,
    ) -> Option<BufferRef<'a, M>> {
        let mut lists = self.lists.lock(cache.machine());
        let age = lists.of(generation);
        let oldest = age.list.pop_back()?;
        // As it was linked, and not by way of a reference: it is to lead to what stands around the buffer.
        let address = NonNull::new(UnsafeRef::into_raw(oldest.clone()))?;
        age.list.push_front(oldest);
        // SAFETY: BUF-1, it stands in a mapping, whose tree has a reference as long as the lists are locked.
        Some(unsafe { BufferRef::listed(cache, address) })
    }

    /// Buffers in a generation.
    pub(super) fn count(&self, machine: &impl Machine, generation: Generation) -> Count {
        Count(self.lists.lock(machine).of(generation).count)
    }
}

impl fmt::Debug for Lru {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lru").finish_non_exhaustive()
    }
}
