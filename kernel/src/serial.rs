//! The first serial port, where everything this kernel says goes.
//!
//! Lock order: a leaf; nothing is called under it, and interrupts are off, so handlers may print. A text is written whole
//! before another CPU's begins.

use core::fmt::{self, Write};

use spin::Mutex;
use uart_16550::backend::PioBackend;
use uart_16550::{Config, Uart16550Tty};
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::instructions::port::Port;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

static CONSOLE: Mutex<Option<Uart16550Tty<PioBackend>>> = Mutex::new(None);

/// Sets the port up. Without one, all output is lost and the kernel runs on.
pub(crate) fn init() {
    // SAFETY: COM1 is where a PC has its first serial port, and only this module and the raw path of a dying kernel
    // use it.
    let console = unsafe { Uart16550Tty::new_port(COM1, Config::default()) };
    *CONSOLE.lock() = console.ok();
}

/// Writes formatted text; for the macro.
pub(crate) fn write(text: fmt::Arguments<'_>) {
    without_interrupts(|| {
        if let Some(console) = CONSOLE.lock().as_mut() {
            // INVARIANT: the port itself never fails; an error comes from a `Display` and loses only its own text.
            let _ = console.write_fmt(text);
        }
    });
}

/// The port without its lock: for a kernel that is about to exit and cannot know who holds it.
#[derive(Debug)]
pub(crate) struct Raw;

impl Write for Raw {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut status = Port::<u8>::new(LINE_STATUS);
        let mut data = Port::<u8>::new(COM1);
        for byte in text.bytes() {
            // SAFETY: reading the line status has no effect beyond clearing its error bits.
            while unsafe { status.read() } & TRANSMITTER_EMPTY == 0 {}
            // SAFETY: the transmitter takes a byte, and nothing else of the port changes.
            unsafe { data.write(byte) };
        }
        Ok(())
    }
}

/// Prints text to the serial port.
macro_rules! print {
    ($($text:tt)*) => { $crate::serial::write(format_args!($($text)*)) };
}

/// Prints a line to the serial port.
macro_rules! println {
    ($($text:tt)*) => { $crate::serial::print!("{}\n", format_args!($($text)*)) };
}

pub(crate) use {print, println};
