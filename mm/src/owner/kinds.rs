//! What owners keep in their descriptors: for each kind with descriptors in the table, a struct of its name.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::units::{Bytes, Count, CpuId};

/// A block of compressed pages, all of one size class.
#[derive(Debug)]
pub struct CompressedStore {
    class: Bytes,
    objects: AtomicU32,
}

impl CompressedStore {
    /// A store of nothing yet.
    pub const fn new(class: Bytes) -> Self {
        Self { class, objects: AtomicU32::new(0) }
    }

    /// Bytes of an object.
    pub const fn class(&self) -> Bytes {
        self.class
    }

    /// Objects in it.
    pub fn objects(&self) -> Count {
        Count(self.objects.load(Ordering::Relaxed))
    }

    /// Counts one object more.
    pub fn add(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one object less; none if there is none.
    pub fn remove(&self) {
        let less = |objects: u32| objects.checked_sub(1);
        // With none there is nothing to take away.
        let _ = self.objects.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

/// Memory of one CPU.
#[derive(Debug)]
pub struct PerCpuArea {
    /// Whose.
    pub cpu: CpuId,
}

/// A task, by the number that the kernel gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TaskId(pub u64);

/// A kernel stack.
#[derive(Debug)]
pub struct KernelStack {
    /// Whose.
    pub task: TaskId,
}
