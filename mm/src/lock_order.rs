//! Which lock may be taken where: every class of locks, in the order in which they may be taken.
//!
//! `lock_classes!` is the one place where that stands. Whoever holds a lock takes none of a class in front of its own, so
//! no two CPUs wait for each other (LOCK-1). A class that interrupt handlers take is taken with interrupts off everywhere,
//! so no handler waits for what it has interrupted; the others are never taken in a handler (LOCK-2). The former stand
//! behind the latter: while a handler elsewhere waits for a lock, its holder waits for nobody who may be interrupted.
//!
//! What a CPU holds is counted by class in [`HeldLocks`], in builds with debug assertions; `lock` looks there whenever it
//! takes one.
//!
//! Invariants: LOCK-1 (order), LOCK-2 (interrupts).
//! Cost: in builds with debug assertions, a look at each class from the wanted one on; in others none.

use core::sync::atomic::{AtomicU8, Ordering};

/// On whose behalf a CPU works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Its own: what may be interrupted, if interrupts are on. Exceptions are their causers' own work.
    Task,
    /// An interrupt's, until the handler returns.
    Handler,
}

/// Whether an interrupt may come on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupts {
    /// It may.
    On,
    /// It waits.
    Off,
}

/// What a CPU is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// On whose behalf.
    pub work: Work,
    /// Whether it can be interrupted.
    pub interrupts: Interrupts,
}

/// Who may take a class's locks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Taken {
    /// No interrupt handler ever.
    InTasks,
    /// Anybody, with interrupts off.
    Anywhere,
}

/// Whether a CPU may hold several locks of one class.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Nesting {
    /// No.
    One,
    /// Yes, by the rule that stands with the class.
    Several,
}

/// A class of locks as a type.
pub trait Class {
    /// The class.
    const CLASS: LockClass;
}

macro_rules! lock_classes {
    ($($(#[$doc:meta])* $class:ident: $taken:ident, $nesting:ident;)+) => {
        /// Every class of locks, in the order in which they may be taken.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum LockClass {
            $($(#[$doc])* $class,)+
        }

        impl LockClass {
            const ALL: &[Self] = &[$(Self::$class),+];

            const fn taken(self) -> Taken {
                match self {
                    $(Self::$class => Taken::$taken,)+
                }
            }

            #[cfg(debug_assertions)]
            const fn nesting(self) -> Nesting {
                match self {
                    $(Self::$class => Nesting::$nesting,)+
                }
            }
        }

        /// The classes as types.
        pub mod class {
            $(
                $(#[$doc])*
                #[derive(Debug)]
                pub struct $class;

                impl super::Class for $class {
                    const CLASS: super::LockClass = super::LockClass::$class;
                }
            )+
        }
    };
}

lock_classes! {
    /// A space's regions. Under it there is allocation, and so reclaim. A fork holds the parent's, then the child's, which
    /// nobody else knows yet.
    Regions: InTasks, Several;
    /// A folio's: a bit that goes with the folio, so only who waits for one is checked. Two are held only while the second
    /// is one that nobody else knows, or is not waited for.
    Folio: InTasks, Several;
    /// A buffer's, likewise.
    Buffer: InTasks, Several;
    /// A shrinker's place, held to read while it is asked: it takes what is behind, and tries folios. Only who waits to ask
    /// is checked.
    Shrinkers: InTasks, One;
    /// The spaces by number.
    Registry: InTasks, One;
    /// The regions of a family of mappings.
    Family: InTasks, One;
    /// Which region a place in that list is.
    Listed: InTasks, One;
    /// All page tables of a space.
    SpaceTables: InTasks, One;
    /// Whoever writes a tree.
    Tree: InTasks, One;
    /// The entries of one page table. The kernel's are taken downwards: a table's, then that of one below it.
    PageTable: InTasks, Several;
    /// Folios by age.
    FolioAges: InTasks, One;
    /// Buffers by age.
    BufferAges: InTasks, One;
    /// Places in the swap store.
    SwapMap: InTasks, One;
    /// The frames of a store in memory.
    StoreFrames: InTasks, One;
    /// The list of all caches of objects.
    AllCaches: InTasks, One;
    /// Whose turn it is to close a cache's CPUs.
    Closing: InTasks, One;
    /// A cache's slabs and spare sheaves. A leaf: nothing is allocated under it, and no page given back.
    Slabs: Anywhere, One;
    /// Whose turn it is to take what CPUs have at hand.
    Draining: Anywhere, One;
    /// A zone. Nothing is called under it but the machine.
    Zone: Anywhere, One;
}

/// Handlers' classes stand behind those that are not theirs.
const _: () = {
    let mut at = 1;
    while at < LockClass::ALL.len() {
        let in_order = matches!(LockClass::ALL[at - 1].taken(), Taken::InTasks)
            || matches!(LockClass::ALL[at].taken(), Taken::Anywhere);
        assert!(in_order, "a class that handlers take stands in front of one that they must not take");
        at += 1;
    }
};

/// The locks that a CPU holds, its interrupt handlers' among them. Only the CPU itself touches it.
///
/// Counts, since a handler that comes while one is changed leaves all of them as it found them.
#[derive(Debug)]
pub struct HeldLocks {
    counts: [AtomicU8; LockClass::ALL.len()],
}

impl HeldLocks {
    /// None is held.
    pub const fn none() -> Self {
        Self { counts: [const { AtomicU8::new(0) }; LockClass::ALL.len()] }
    }

    /// How many of a class are held.
    pub fn count(&self, class: LockClass) -> u8 {
        self.counts[class as usize].load(Ordering::Relaxed)
    }
}

#[cfg(debug_assertions)]
impl HeldLocks {
    /// Stops the machine if a lock of this class must not be taken here.
    ///
    /// # Panics
    /// LOCK-1 or LOCK-2 would be broken.
    #[track_caller]
    pub(crate) fn check_order(&self, class: LockClass, context: Context) {
        self.check_context(class, context);
        for &held in &LockClass::ALL[class as usize..] {
            let may = held == class && class.nesting() == Nesting::Several;
            assert!(
                may || self.count(held) == 0,
                "invariant LOCK-1 broken: {class:?} is taken by whoever holds {held:?}"
            );
        }
    }

    /// The same for one that is not waited for: then the order does not matter.
    #[track_caller]
    pub(crate) fn check_context(&self, class: LockClass, context: Context) {
        match class.taken() {
            Taken::InTasks => assert!(
                context.work == Work::Task,
                "invariant LOCK-2 broken: {class:?} is taken in an interrupt handler, and is for tasks alone"
            ),
            Taken::Anywhere => assert!(
                context.interrupts == Interrupts::Off,
                "invariant LOCK-2 broken: {class:?} is taken with interrupts on, and handlers take it too"
            ),
        }
    }

    pub(crate) fn add(&self, class: LockClass) {
        let count = &self.counts[class as usize];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, class: LockClass) {
        let count = &self.counts[class as usize];
        let left = count.load(Ordering::Relaxed).checked_sub(1);
        let Some(left) = left else {
            panic!("invariant LOCK-1 broken: {class:?} is given up by a CPU that does not hold it")
        };
        count.store(left, Ordering::Relaxed);
    }
}
