//! The programmable interval timer, as a clock that every PC has and that needs no calibration: it measures the short times
//! that firmware's interfaces ask to be waited for. Under QEMU's `-icount` it counts the machine's virtual time.
//!
//! Source: Intel 8254 data sheet; channel 2, whose gate and output are at port 0x61.

use core::hint::spin_loop;

use x86_64::instructions::port::Port;

use crate::clock::count_down;

const FREQUENCY: u64 = 1_193_182;
const CHANNEL_2: u16 = 0x42;
const COMMAND: u16 = 0x43;
const CONTROL: u16 = 0x61;
const GATE: u8 = 1;
const SPEAKER: u8 = 1 << 1;
const OUTPUT: u8 = 1 << 5;
/// Channel 2, both bytes, mode 0: the output rises when the count is down.
const COUNT_DOWN: u8 = 0b1011_0000;

/// Rounds of a loop between two looks, as an emulator needs longer for a port than for a thousand instructions.
const BETWEEN_LOOKS: u64 = 1000;

/// Looks after which a machine without such a timer is not waited for.
const PATIENCE: u32 = 1_000_000;

/// Some microseconds; 54 thousand is the most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Microseconds(pub(crate) u16);

/// What waiting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// What was waited for has happened.
    Happened,
    /// It has not.
    InVain,
}

/// Waits until `happened`, or until so much time has passed.
pub(crate) fn wait(time: Microseconds, mut happened: impl FnMut() -> Waited) -> Waited {
    let count = (u64::from(time.0) * FREQUENCY / 1_000_000).clamp(1, u16::MAX.into());
    let [low, high, ..] = count.to_le_bytes();
    let mut control = Port::<u8>::new(CONTROL);
    let write = |port: u16, value: u8| {
        // SAFETY: channel 2 drives the speaker, which is off, and nothing else.
        unsafe { Port::new(port).write(value) };
    };
    // SAFETY: reading the port changes nothing.
    let before = unsafe { control.read() };
    write(CONTROL, before & !SPEAKER | GATE);
    write(COMMAND, COUNT_DOWN);
    write(CHANNEL_2, low);
    write(CHANNEL_2, high);
    for _ in 0..PATIENCE {
        if happened() == Waited::Happened {
            return Waited::Happened;
        }
        // SAFETY: as above.
        if unsafe { control.read() } & OUTPUT != 0 {
            break;
        }
        count_down(BETWEEN_LOOKS);
        // Other CPUs may depend on this one's giving way.
        spin_loop();
    }
    Waited::InVain
}
