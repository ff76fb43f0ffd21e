//! The last words of a loader that cannot go on.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use uart_16550::{Config, Uart16550, Uart16550Tty};
use x86_64::instructions::{hlt, port::Port};

const COM1: u16 = 0x3f8;
const DEBUG_EXIT: u16 = 0xf4;
const FAILURE: u32 = 0x11;

/// Prints `boot: error: …` on the first serial port and ends QEMU with the status of a failure.
pub(super) fn fail(message: fmt::Arguments<'_>) -> ! {
    // SAFETY: the ports of COM1 are a PC's, and whoever was writing to them has been given up for this message.
    if let Ok(mut port) = unsafe { Uart16550::new_port(COM1) } {
        // A port that does not answer gets the message anyway: it is the only place for it.
        let _ = port.init(Config::default());
        let _ = writeln!(Uart16550Tty::from_inner(port), "boot: error: {message}");
    }
    let mut exit = Port::new(DEBUG_EXIT);
    // SAFETY: QEMU's isa-debug-exit, or a port that nothing answers.
    unsafe { exit.write(FAILURE) };
    loop {
        hlt();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fail(format_args!("internal: {info}"))
}
