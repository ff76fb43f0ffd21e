//! The end of a kernel that cannot go on: it says why, who called whom, and exits.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU16, Ordering};

use mm::units::CpuId;

use x86_64::instructions::interrupts;

use crate::backtrace::{self, FramePointer};
use crate::cpu_local::this_cpu;
use crate::exit::{Exit, exit};
use crate::nmi;
use crate::serial::Raw;

/// The CPU that ends the kernel.
static DYING: AtomicU16 = AtomicU16::new(NOBODY);

const NOBODY: u16 = u16::MAX;

/// Ends the kernel with what `report` writes. Other CPUs stop, those that fail, too, without a word: their failure may be
/// this one's doing. A second failure of this CPU, inside the report, ends the kernel at once.
pub(crate) fn die(report: impl FnOnce(&mut Raw) -> core::fmt::Result) -> ! {
    interrupts::disable();
    let CpuId(cpu) = this_cpu();
    match DYING.compare_exchange(NOBODY, cpu, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {
            nmi::stop_others();
            let _ = report(&mut Raw);
        }
        Err(dying) if dying == cpu => {
            // INVARIANT: the raw port never fails.
            let _ = Raw.write_str("\nPANIC: while reporting a failure\n");
        }
        Err(_) => nmi::stop(),
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
