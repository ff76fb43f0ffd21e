//! Models of a buffer's flags and place, which are a folio's in small.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --lib loom`.

use super::*;
use crate::owner::flag_models::{
    Flag, Flagged, a_place_is_seen_whole, what_is_called_whole_is_whole, what_made_it_dirty_is_written_out,
    whoever_has_the_lock_is_alone,
};

const fn flags(flag: Flag) -> BufferFlags {
    match flag {
        Flag::Locked => BufferFlags::LOCKED,
        Flag::Uptodate => BufferFlags::UPTODATE,
        Flag::Dirty => BufferFlags::DIRTY,
    }
}

impl Flagged for Buffer {
    fn fresh() -> Self {
        Self {
            flags: AtomicU32::new(0),
            data: NonNull::dangling(),
            mapping: AtomicPtr::new(core::ptr::null_mut()),
            index: AtomicU64::new(0),
            lru: LinkedListAtomicLink::new(),
        }
    }

    fn has(&self, flag: Flag) -> bool {
        self.flags().contains(flags(flag))
    }

    fn set(&self, flag: Flag) -> bool {
        Self::set(self, flags(flag)).contains(flags(flag))
    }

    fn clear(&self, flag: Flag) -> bool {
        Self::clear(self, flags(flag)).contains(flags(flag))
    }

    fn put(&self, mapping: *mut (), index: u64) {
        self.set_place(mapping, BlockIndex(index));
    }

    fn place(&self) -> (*mut (), u64) {
        let (mapping, index) = Self::place(self);
        (mapping, index.0)
    }
}

#[test]
fn whoever_has_a_buffers_lock_is_alone_with_its_bytes() {
    whoever_has_the_lock_is_alone::<Buffer>();
}

#[test]
fn bytes_of_a_buffer_that_are_called_whole_are() {
    what_is_called_whole_is_whole::<Buffer>();
}

#[test]
fn whoever_calls_a_buffer_clean_sees_what_made_it_dirty() {
    what_made_it_dirty_is_written_out::<Buffer>();
}

#[test]
fn a_buffer_stands_at_no_index_of_another_mapping() {
    a_place_is_seen_whole::<Buffer>();
}
