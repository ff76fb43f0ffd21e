//! Models of what the flags and the place of something with contents promise to whoever looks at them without its lock,
//! and of the lock, which is one of the flags: of folios, and of what is made like them.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p mm --lib loom`.

use ::loom::sync::Arc;
use ::loom::thread;

use super::*;
use crate::sync::{UnsafeCell, spin_loop};

/// A flag that the models are about.
#[derive(Clone, Copy)]
pub(crate) enum Flag {
    Locked,
    Uptodate,
    Dirty,
}

/// Something with flags and a place.
pub(crate) trait Flagged: Sized + Send + Sync + 'static {
    fn fresh() -> Self;
    /// Each says whether the flag was set before.
    fn has(&self, flag: Flag) -> bool;
    fn set(&self, flag: Flag) -> bool;
    fn clear(&self, flag: Flag) -> bool;
    fn put(&self, mapping: *mut (), index: u64);
    fn place(&self) -> (*mut (), u64);
}

impl Flag {
    const fn of_folio(self) -> FolioFlags {
        match self {
            Self::Locked => FolioFlags::LOCKED,
            Self::Uptodate => FolioFlags::UPTODATE,
            Self::Dirty => FolioFlags::DIRTY,
        }
    }
}

impl Flagged for Folio {
    fn fresh() -> Self {
        Self::new()
    }

    fn has(&self, flag: Flag) -> bool {
        self.flags().contains(flag.of_folio())
    }

    fn set(&self, flag: Flag) -> bool {
        Self::set(self, flag.of_folio()).contains(flag.of_folio())
    }

    fn clear(&self, flag: Flag) -> bool {
        Self::clear(self, flag.of_folio()).contains(flag.of_folio())
    }

    fn put(&self, mapping: *mut (), index: u64) {
        self.set_place(mapping, PageIndex(index));
    }

    fn place(&self) -> (*mut (), u64) {
        let (mapping, index) = Self::place(self);
        (mapping, index.0)
    }
}

/// It, and its contents.
struct Filled<T> {
    it: T,
    contents: UnsafeCell<u32>,
}

// SAFETY: that nobody is in the cell with another is what the models are about, and they look.
unsafe impl<T: Sync> Sync for Filled<T> {}

impl<T> Filled<T> {
    fn write(&self, value: u32) {
        // SAFETY: that nobody else is there is what is checked.
        self.contents.with_mut(|contents| unsafe { *contents = value });
    }

    fn read(&self) -> u32 {
        // SAFETY: that nobody writes is what is checked.
        self.contents.with(|contents| unsafe { *contents })
    }
}

fn against<T: Flagged>(other: fn(&Filled<T>), this: fn(&Filled<T>)) {
    ::loom::model(move || {
        let filled = Arc::new(Filled { it: T::fresh(), contents: UnsafeCell::new(0) });
        let beside = thread::spawn({
            let filled = Arc::clone(&filled);
            move || other(&filled)
        });
        this(&filled);
        beside.join().expect("it saw nothing wrong");
    });
}

pub(crate) fn whoever_has_the_lock_is_alone<T: Flagged>() {
    fn add<T: Flagged>(filled: &Filled<T>) {
        while filled.it.set(Flag::Locked) {
            spin_loop();
        }
        filled.write(filled.read() + 1);
        filled.it.clear(Flag::Locked);
    }
    against::<T>(add, add);
}

pub(crate) fn what_is_called_whole_is_whole<T: Flagged>() {
    against::<T>(
        |filled| {
            filled.write(7);
            filled.it.set(Flag::Uptodate);
        },
        |filled| {
            if filled.it.has(Flag::Uptodate) {
                assert_eq!(filled.read(), 7);
            }
        },
    );
}

pub(crate) fn what_made_it_dirty_is_written_out<T: Flagged>() {
    against::<T>(
        |filled| {
            filled.write(7);
            filled.it.set(Flag::Dirty);
        },
        |filled| {
            if filled.it.clear(Flag::Dirty) {
                assert_eq!(filled.read(), 7);
            }
        },
    );
}

pub(crate) fn a_place_is_seen_whole<T: Flagged>() {
    const MAPPING: *mut () = core::ptr::without_provenance_mut(64);
    against::<T>(
        |filled| filled.it.put(MAPPING, 5),
        |filled| {
            let (mapping, index) = filled.it.place();
            assert!(mapping.is_null() || index == 5, "{index}");
        },
    );
}

#[test]
fn whoever_has_a_folios_lock_is_alone_with_its_contents() {
    whoever_has_the_lock_is_alone::<Folio>();
}

#[test]
fn contents_of_a_folio_that_are_called_whole_are() {
    what_is_called_whole_is_whole::<Folio>();
}

#[test]
fn whoever_calls_a_folio_clean_sees_what_made_it_dirty() {
    what_made_it_dirty_is_written_out::<Folio>();
}

#[test]
fn a_folio_stands_at_no_index_of_another_mapping() {
    a_place_is_seen_whole::<Folio>();
}
