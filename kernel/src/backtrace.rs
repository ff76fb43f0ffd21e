//! Who called whom, from the frame pointers that all code of this kernel keeps.
//!
//! Bounded, and reads nothing but mapped stack: it also walks stacks that a bug has scribbled over.

use core::arch::asm;
use core::fmt::{self, Write};

use x86_64::VirtAddr;

use crate::{image, stacks};

const MAX_FRAMES: usize = 64;

/// Where a function's frame record is: the caller's frame pointer, then the return address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FramePointer(pub(crate) u64);

impl FramePointer {
    /// The frame of the function this is inlined into.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        let frame;
        // SAFETY: copying a register changes nothing.
        unsafe { asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
        Self(frame)
    }

    /// The caller's frame and the return address into the caller; `None` where the chain leaves the stacks.
    fn step(self) -> Option<(Self, u64)> {
        let record = self.0..self.0.checked_add(16)?;
        let stack = stacks::all().find(|stack| stack.range.start <= record.start && record.end <= stack.range.end)?;
        if !record.start.is_multiple_of(8) {
            return None;
        }
        let [caller, return_address] = [record.start, record.start + 8].map(|address| {
            // SAFETY: the record lies whole and aligned in a stack, and stacks are always mapped.
            unsafe { VirtAddr::new_truncate(address).as_ptr::<u64>().read_volatile() }
        });
        // A caller's frame is above its callee's, so the walk ends.
        let caller = if record.end <= caller && caller < stack.range.end { caller } else { 0 };
        Some((Self(caller), return_address))
    }
}

/// Writes a line for each return address, as linked, from the innermost outwards.
///
/// # Errors
/// Whatever the writer gives.
pub(crate) fn write(to: &mut impl Write, innermost: FramePointer) -> fmt::Result {
    let mut frame = innermost;
    for _ in 0..MAX_FRAMES {
        let Some((caller, return_address)) = frame.step() else { break };
        let Some(linked) = image::as_linked(return_address) else { break };
        writeln!(to, "  backtrace: {linked:#x}")?;
        frame = caller;
    }
    Ok(())
}
