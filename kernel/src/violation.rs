//! What an access that the processor refuses has violated, in words.

use core::fmt;

use mm::space::Access;
use mm::units::{Order, Pfn};
use x86_64::registers::control::Cr4Flags;
use x86_64::registers::rflags::RFlags;

use crate::exception::{Mode, PageFault, PageFaultCause};
use crate::layout::{Edge, Guard, Place};

/// A rule about memory, and who has broken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// The kernel executes nothing of users'.
    Smep,
    /// The kernel reads and writes users' memory nowhere but in the routines for that.
    Smap,
    /// A stack has an end.
    Guard(Guard),
    /// Nothing is at the first page.
    NullPage,
    /// What does not allow it is not written.
    ReadOnly,
    /// What does not allow it is not executed.
    NotExecutable,
    /// A free page is nobody's.
    FreePage(Pfn, Order),
    /// What is not there is not used.
    NotMapped,
}

impl Violation {
    /// What keeps the kernel from users' addresses, with these flags and on such a CPU, whatever the page tables say;
    /// `None` if it is they alone.
    pub fn of_users_memory(fault: PageFault, flags: RFlags, switched_on: Cr4Flags) -> Option<Self> {
        if fault.mode() == Mode::User {
            return None;
        }
        match fault.access() {
            Access::Execute => {
                switched_on.contains(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION).then_some(Self::Smep)
            }
            Access::Read | Access::Write => {
                let prevented = switched_on.contains(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION);
                (prevented && !flags.contains(RFlags::ALIGNMENT_CHECK)).then_some(Self::Smap)
            }
        }
    }

    /// What a fault at such a place has violated; `None` if the tables are odd, or another rule is broken than these.
    pub fn of(fault: PageFault, place: Place, flags: RFlags, switched_on: Cr4Flags) -> Option<Self> {
        match (place, fault.cause()) {
            (Place::StackGuard(guard), _) => return Some(Self::Guard(guard)),
            (Place::NullPage, _) => return Some(Self::NullPage),
            (Place::User, _) => {
                let prevented = Self::of_users_memory(fault, flags, switched_on);
                if prevented.is_some() {
                    return prevented;
                }
            }
            _ => {}
        }
        match (fault.cause(), fault.access()) {
            (PageFaultCause::NotPresent, _) => Some(Self::NotMapped),
            (PageFaultCause::Protection, Access::Write) => Some(Self::ReadOnly),
            (PageFaultCause::Protection, Access::Execute) => Some(Self::NotExecutable),
            _ => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Smep => f.write_str("SMEP, the kernel executes users' memory"),
            Self::Smap => f.write_str("SMAP, the kernel uses users' memory outside of the routines that may"),
            Self::Guard(Guard { stack, edge: Edge::Below, .. }) => {
                write!(f, "the guard page below the {stack}, which is full")
            }
            Self::Guard(Guard { stack, edge: Edge::Above, .. }) => {
                write!(f, "the guard page above the {stack}, which is empty")
            }
            Self::NullPage => f.write_str("a null pointer is used"),
            Self::ReadOnly => f.write_str("a write to read-only memory"),
            Self::NotExecutable => f.write_str("an execution of memory that is not executable"),
            Self::FreePage(head, order) => {
                write!(f, "a use of memory that is free, in the block of order {} at {head:?}", order.number())
            }
            Self::NotMapped => f.write_str("a use of memory that is not mapped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const ON: Cr4Flags =
        Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION.union(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION);
    const READ: u64 = 0;
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const FETCH: u64 = 16;

    fn of(code: u64, place: Place) -> Option<Violation> {
        Violation::of(PageFault::of(code), place, RFlags::empty(), ON)
    }

    #[test]
    fn the_kernel_at_users_addresses_is_told_apart_from_users_and_from_who_may() {
        for present in [0, PRESENT] {
            assert_eq!(of(present | READ, Place::User), Some(Violation::Smap));
            assert_eq!(of(present | WRITE, Place::User), Some(Violation::Smap));
            assert_eq!(of(present | FETCH, Place::User), Some(Violation::Smep));
        }
        let fault = PageFault::of(PRESENT | WRITE);
        let allowed = Violation::of(fault, Place::User, RFlags::ALIGNMENT_CHECK, ON);
        assert_eq!(allowed, Some(Violation::ReadOnly));
        let absent = Violation::of(fault, Place::User, RFlags::empty(), Cr4Flags::empty());
        assert_eq!(absent, Some(Violation::ReadOnly));
        assert_eq!(of(PRESENT | WRITE | USER, Place::User), Some(Violation::ReadOnly));
        assert_eq!(of(FETCH | USER, Place::User), Some(Violation::NotMapped));
        // AC allows no execution.
        let fetch = Violation::of(PageFault::of(FETCH), Place::User, RFlags::ALIGNMENT_CHECK, ON);
        assert_eq!(fetch, Some(Violation::Smep));
    }

    #[test]
    fn in_the_kernels_half_it_is_what_the_page_does_not_allow() {
        let place = Place::DirectMap(Pfn::new(7));
        assert_eq!(of(PRESENT | WRITE, place), Some(Violation::ReadOnly));
        assert_eq!(of(PRESENT | FETCH, Place::Kernel), Some(Violation::NotExecutable));
        assert_eq!(of(WRITE, Place::Vmap), Some(Violation::NotMapped));
        assert_eq!(of(PRESENT | READ, Place::Kernel), None);
    }

    #[test]
    fn guards_and_null_pointers_go_before_what_else_is_wrong() {
        let guard = |edge| Place::StackGuard(Guard { page: 0, stack: "task stack", edge });
        let said = |edge| of(WRITE, guard(edge)).map(|violation| violation.to_string()).unwrap();
        assert_eq!(said(Edge::Below), "the guard page below the task stack, which is full");
        assert_eq!(said(Edge::Above), "the guard page above the task stack, which is empty");
        assert_eq!(of(WRITE, Place::NullPage), Some(Violation::NullPage));
    }
}
