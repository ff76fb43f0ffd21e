//! Counted references to owned blocks: each keeps the pages and the descriptor, and the last one frees them.
#![expect(unsafe_code, reason = "looks at owners under references")]

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;

use super::folio::Folio;
use super::kinds::{CompressedStore, KernelStack, PerCpuArea};
use super::owners::{Owners, sealed::Described};
use super::page_table::PageTable;
use crate::OwnerKind;
use crate::desc::owner_word::with_owners;
use crate::descriptor::{self, Descriptor, Life, Put};
use crate::machine::Machine;
use crate::slab::Slab;
use crate::units::{Order, Pfn, PfnRange};

/// A reference to a block that a `T` owns.
///
/// # Invariants
/// It is counted in the descriptor's life (DESC-2), so descriptor, owner and block stay what they are.
#[must_use = "dropping a reference may free the block"]
pub struct Shared<'a, M: Machine, T: Described> {
    owners: &'a Owners<'a, M>,
    descriptor: NonNull<Descriptor<T>>,
    head: Pfn,
    order: Order,
}

// SAFETY: a reference shares an owner, which is `Send` and `Sync`, and may be given up on any CPU.
unsafe impl<M: Machine, T: Described> Send for Shared<'_, M, T> {}
// SAFETY: as above.
unsafe impl<M: Machine, T: Described> Sync for Shared<'_, M, T> {}

impl<'a, M: Machine, T: Described> Shared<'a, M, T> {
    /// Takes over a reference that is counted already.
    pub(super) const fn new(
        owners: &'a Owners<'a, M>,
        descriptor: NonNull<Descriptor<T>>,
        head: Pfn,
        order: Order,
    ) -> Self {
        Self { owners, descriptor, head, order }
    }

    pub(crate) const fn owners(&self) -> &'a Owners<'a, M> {
        self.owners
    }

    pub(crate) const fn descriptor(&self) -> NonNull<Descriptor<T>> {
        self.descriptor
    }

    fn described(&self) -> &Descriptor<T> {
        // SAFETY: DESC-2, this is a reference.
        unsafe { self.descriptor.as_ref() }
    }

    pub(super) fn life(&self) -> &Life {
        self.described().life()
    }

    /// Another reference to the same block.
    ///
    /// # Panics
    /// There are two thousand million already.
    pub fn get(&self) -> Self {
        self.keep();
        Self { ..*self }
    }

    /// Takes a reference that no value stands for.
    pub(super) fn keep(&self) {
        self.life().get();
    }

    /// Gives up a reference that no value stands for.
    ///
    /// # Panics
    /// DESC-2 is broken: it was this one.
    pub(super) fn give_up(&self) {
        if self.life().put() == Put::Last {
            panic!("invariant DESC-2 broken: a reference goes that was kept for nobody");
        }
    }

    /// Makes of this a reference that no value stands for: the descriptor's address does.
    pub(crate) fn into_kept(self) -> NonNull<Descriptor<T>> {
        core::mem::ManuallyDrop::new(self).descriptor
    }

    /// The first frame.
    pub const fn head(&self) -> Pfn {
        self.head
    }

    /// The size.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The frames of the block.
    pub const fn range(&self) -> PfnRange {
        PfnRange::new(self.head, self.head.plus(self.order.pages()))
    }

    /// Gives up the reference if it is the only one. If it was, whoever called retires the owner, and must not drop this.
    pub(super) fn put_only(&self) -> Put {
        self.life().put_only()
    }
}

impl<'a, M: Machine, T: Described> Shared<'a, M, T> {
    /// Takes a reference to the owner in a descriptor, if it is alive.
    ///
    /// # Safety
    /// The memory is a descriptor of these owners until this returns: something keeps it, or it was one since a walk began
    /// that still goes on.
    pub(crate) unsafe fn find(owners: &'a Owners<'a, M>, descriptor: NonNull<Descriptor<T>>) -> Option<Self> {
        // SAFETY: the caller's promise.
        let life = unsafe { descriptor.as_ref() }.life();
        let seen = life.look()?;
        life.try_get(seen.generation)?;
        Some(Self::new(owners, descriptor, seen.head, seen.order))
    }

    /// Makes a value of a reference that none stood for.
    ///
    /// # Safety
    /// The reference was [kept](Self::into_kept), and is taken back once.
    pub(crate) unsafe fn from_kept(owners: &'a Owners<'a, M>, descriptor: NonNull<Descriptor<T>>) -> Self {
        // SAFETY: DESC-2, there is the reference that was kept.
        let seen = unsafe { descriptor.as_ref() }.life().look();
        let seen = seen.unwrap_or_else(|| panic!("invariant DESC-2 broken: a reference was kept to what is gone"));
        Self::new(owners, descriptor, seen.head, seen.order)
    }
}

impl<M: Machine, T: Described> Deref for Shared<'_, M, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: DESC-2, this is a reference, and lives as long as the borrow.
        unsafe { self.described().owner() }
    }
}

impl<M: Machine, T: Described> Drop for Shared<'_, M, T> {
    fn drop(&mut self) {
        match self.life().put() {
            Put::Others => {}
            Put::Last => T::bury(self),
        }
    }
}

impl<M: Machine, T: Described> fmt::Debug for Shared<'_, M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?}, {:?})", T::KIND.name(), self.head, self.order)
    }
}

macro_rules! references {
    (
        bare { $($(#[$bare_doc:meta])+ $bare:ident = $bare_code:literal, $bare_name:literal;)+ }
        described { $($(#[$doc:meta])+ $kind:ident = $code:literal, $name:literal;)+ }
        slab { $(#[$slab_doc:meta])+ $slab:ident = $slab_code:literal, $slab_name:literal; }
    ) => {
        /// A reference to an owned block of whatever kind.
        #[derive(Debug)]
        #[must_use = "dropping a reference may free the block"]
        pub enum Reference<'a, M: Machine> {
            $($(#[$doc])+ $kind(Shared<'a, M, $kind>),)+
            $(#[$slab_doc])+
            $slab(Shared<'a, M, $slab>),
        }

        impl<'a, M: Machine> Reference<'a, M> {
            /// Takes a reference to the owner of a kind whose life is `life`, if it is still what was `seen`, and one of these.
            /// Others over the same allocator may go first, and the last reference must give the descriptor back where it is from.
            ///
            /// # Safety
            /// `life` begins a descriptor of this kind, whose memory is one at least until this returns.
            pub(super) unsafe fn get(
                owners: &'a Owners<'a, M>,
                kind: OwnerKind,
                life: NonNull<Life>,
                seen: descriptor::Described,
            ) -> Option<Self> {
                let keeper = if kind == OwnerKind::$slab { owners.caches.keeper } else { owners.keeper };
                (seen.keeper == keeper).then_some(())?;
                // SAFETY: the caller's promise.
                unsafe { life.as_ref() }.try_get(seen.generation)?;
                match kind {
                    $(OwnerKind::$bare => None,)+
                    $(OwnerKind::$kind => {
                        Some(Self::$kind(Shared::new(owners, life.cast(), seen.head, seen.order)))
                    })+
                    OwnerKind::$slab => Some(Self::$slab(Shared::new(owners, life.cast(), seen.head, seen.order))),
                }
            }

            /// The owner's kind.
            pub const fn kind(&self) -> OwnerKind {
                match self {
                    $(Self::$kind(_) => OwnerKind::$kind,)+
                    Self::$slab(_) => OwnerKind::$slab,
                }
            }

            /// The frames of the block.
            pub const fn range(&self) -> PfnRange {
                match self {
                    $(Self::$kind(shared) => shared.range(),)+
                    Self::$slab(shared) => shared.range(),
                }
            }
        }
    };
}

with_owners!(references);
