//! Two CPUs that do something to one thing at the same moment.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::cache::{Store, StoreError};
use crate::units::FileOffset;

/// Two CPUs, of which one looks at something and the other then gives it up.
pub(crate) struct Meeting {
    both: Barrier,
    has_looked: AtomicBool,
}

impl Meeting {
    pub(crate) fn new() -> Self {
        Self { both: Barrier::new(2), has_looked: AtomicBool::new(false) }
    }

    /// Until the other has come to where it waits, or could have.
    pub(crate) fn look(&self) {
        self.both.wait();
        (0..100).for_each(|_| thread::yield_now());
        self.has_looked.store(true, Ordering::Release);
    }

    /// Gives something up while the other looks, which must take until it has.
    pub(crate) fn give_up<T>(&self, it: T) {
        self.begin();
        drop(it);
        self.end();
    }

    /// Waits for the one who looks.
    pub(crate) fn begin(&self) {
        self.both.wait();
    }

    /// By now that one has looked.
    pub(crate) fn end(&self) {
        assert!(self.has_looked.load(Ordering::Acquire), "it went while somebody looked");
    }
}

/// A store that is written to for as long as a meeting takes.
pub(crate) struct SlowStore<S> {
    pub(crate) store: S,
    pub(crate) meeting: Meeting,
}

impl<S> SlowStore<S> {
    pub(crate) fn new(store: S) -> Self {
        Self { store, meeting: Meeting::new() }
    }
}

impl<S: Store> Store for SlowStore<S> {
    fn size(&self) -> FileOffset {
        self.store.size()
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.store.read(offset, bytes)
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        self.meeting.look();
        self.store.write(offset, bytes)
    }
}
