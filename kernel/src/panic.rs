//! The end of a kernel that cannot go on: it says why, who called whom, and exits.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use x86_64::instructions::interrupts;

use crate::backtrace::{self, FramePointer};
use crate::exit::{Exit, exit};
use crate::serial::Raw;

static DYING: AtomicBool = AtomicBool::new(false);

/// Ends the kernel with what `report` writes. A second failure, inside the report, ends it at once.
pub(crate) fn die(report: impl FnOnce(&mut Raw) -> core::fmt::Result) -> ! {
    interrupts::disable();
    if DYING.swap(true, Ordering::Relaxed) {
        // INVARIANT: the raw port never fails.
        let _ = Raw.write_str("\nPANIC: while reporting a failure\n");
    } else {
        let _ = report(&mut Raw);
    }
    exit(Exit::Failure)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame = FramePointer::here();
    die(|serial| {
        match info.location() {
            Some(place) => writeln!(serial, "\nPANIC: {} at {place}", info.message())?,
            None => writeln!(serial, "\nPANIC: {}", info.message())?,
        }
        backtrace::write(serial, frame)
    })
}
