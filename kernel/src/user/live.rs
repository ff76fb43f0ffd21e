//! The address space that this CPU translates users' addresses in, and who resolves faults there.
//!
//! Invariants: LIVE-1 (the space that is said to be live lives, and its root is the processor's). Spaces nest, as calls do.
//! Cost: a change of spaces forgets all translations: no page is global.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use mm::space::{Access, FaultError, Space};
use mm::units::{Pfn, VirtualAddress};
use thiserror::Error;

use super::mmu::{self, ProcessorTables};
use crate::cpu_local::{PerCpu, per_cpu};
use crate::paging::tables::root;
use crate::platform::Platform;

/// An address space that can be live.
///
/// # Safety
/// The root is a topmost table of the processor's, has the kernel's half, and stays as long as the value is borrowed.
pub(crate) unsafe trait UserSpace: Sync {
    /// The topmost table.
    fn root(&self) -> Pfn;

    /// Makes the access possible: tried again, it succeeds, or there is another fault to resolve.
    ///
    /// # Errors
    /// It is not to be possible.
    fn fault(&self, address: VirtualAddress, access: Access) -> Result<(), Unresolved>;
}

// SAFETY: `ProcessorTables` gives each root the kernel's half, and the space keeps its own.
unsafe impl UserSpace for Space<'_, Platform, ProcessorTables> {
    fn root(&self) -> Pfn {
        self.root()
    }

    fn fault(&self, address: VirtualAddress, access: Access) -> Result<(), Unresolved> {
        Ok(self.fault(address, access)?)
    }
}

/// Why a fault was not resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(crate) enum Unresolved {
    #[error("no user's address space is live")]
    NoSpace,
    #[error("another fault is being resolved")]
    Nested,
    #[error("the page tables are malformed")]
    Malformed,
    #[error(transparent)]
    Refused(#[from] FaultError),
}

/// What is live, on the stack of whoever made it so.
struct Live<'s> {
    space: &'s dyn UserSpace,
}

/// `null`: the kernel's own tables are live, which map nothing of users'. Only the CPU itself touches its own.
static LIVE: PerCpu<AtomicPtr<Live<'static>>> = per_cpu!(AtomicPtr::new(ptr::null_mut()));

static RESOLVING: PerCpu<AtomicBool> = per_cpu!(AtomicBool::new(false));

/// Does some work while users' addresses are this space's.
pub(crate) fn with<R>(space: &dyn UserSpace, work: impl FnOnce() -> R) -> R {
    let live = Live { space };
    let tables = root();
    // SAFETY: LIVE-1, this tells the truth until the frame that it points to is left.
    let before = LIVE.this().swap((&raw const live).cast_mut().cast(), Ordering::Relaxed);
    // SAFETY: as `UserSpace` promises; and nobody is in the middle of a user access.
    unsafe { mmu::load(space.root()) };
    let result = work();
    LIVE.this().store(before, Ordering::Relaxed);
    // SAFETY: these tables were live before, and whoever made them so waits for this to return.
    unsafe { mmu::load(tables) };
    result
}

/// Makes an access to a user's address possible.
///
/// # Errors
/// See [`Unresolved`].
pub(super) fn resolve(address: VirtualAddress, access: Access) -> Result<(), Unresolved> {
    let live = LIVE.this().load(Ordering::Relaxed);
    // SAFETY: LIVE-1.
    let live = unsafe { live.as_ref() }.ok_or(Unresolved::NoSpace)?;
    if RESOLVING.this().swap(true, Ordering::Relaxed) {
        return Err(Unresolved::Nested);
    }
    let outcome = live.space.fault(address, access);
    RESOLVING.this().store(false, Ordering::Relaxed);
    outcome
}
