//! How often a case can afford the full checker, which looks at every descriptor.

use super::Failure;
use crate::machine::Machine;
use crate::page::PageAllocator;

/// Descriptors that one case may have looked at in its steps: a second or so under emulation.
const BUDGET: u32 = 1 << 21;

/// Runs the checker after each step while the machine is small, and ever less on a large one.
pub(super) struct Checks<'a, M: Machine> {
    allocator: &'a PageAllocator<'a, M>,
    pages: u32,
    left: u32,
}

impl<'a, M: Machine> Checks<'a, M> {
    pub(super) fn new(allocator: &'a PageAllocator<'a, M>) -> Self {
        let pages = allocator.zones().map(|zone| zone.managed).sum::<u32>().max(1);
        Self { allocator, pages, left: BUDGET }
    }

    /// After a step like many others: checks as long as the budget lasts.
    pub(super) fn step(&mut self) -> Result<(), Failure> {
        if let Some(left) = self.left.checked_sub(self.pages) {
            self.left = left;
            self.turn()?;
        }
        Ok(())
    }

    /// Where something turns: always checks.
    pub(super) fn turn(&self) -> Result<(), Failure> {
        self.allocator.verify()?;
        Ok(self.allocator.verify_charges()?)
    }
}
