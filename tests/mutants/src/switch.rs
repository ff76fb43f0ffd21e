//! Put beside the sources that have every mutant in them: says which one is on. The environment's `MUTANT` is its number;
//! `MUTANTS_REACHED` is a file in which the bytes of those are set that were come by.
//!
//! A test comes by switches some hundred million times, and nothing is inlined where nothing is optimized: so what is on is a
//! variable that is set before `main` and then only read, and looking at it a plain load.

#![allow(unsafe_code, missing_docs, unreachable_pub, static_mut_refs)]

use std::os::fd::AsFd;

/// None is on, and who comes by is noted.
const NOTING: u32 = u32::MAX;

static mut ON: u32 = 0;
/// A byte for each mutant, while that is noted.
static mut REACHED: &mut [u8] = &mut [];

/// Whether a mutant is on. In constants none is.
#[inline(always)]
pub const fn on(mutant: u32) -> bool {
    core::intrinsics::const_eval_select((mutant,), never, look)
}

const fn never(_: u32) -> bool {
    false
}

#[inline(always)]
fn look(mutant: u32) -> bool {
    // SAFETY: nobody writes to it once `main` has begun.
    let on = unsafe { ON };
    if on == NOTING {
        // SAFETY: whoever else writes there writes the same, and nobody reads.
        unsafe { REACHED[mutant as usize] = 1 };
    }
    on == mutant
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look_up;

extern "C" fn look_up() {
    let number = std::env::var("MUTANT").ok().and_then(|number| number.parse().ok());
    let file = std::env::var_os("MUTANTS_REACHED");
    // SAFETY: there is one thread yet.
    unsafe {
        ON = number.unwrap_or(0);
        if let Some(file) = file {
            REACHED = map(&file);
            ON = NOTING;
        }
    }
}

/// Shared, so that what a child or a program that is killed comes by is noted too.
fn map(file: &std::ffi::OsStr) -> &'static mut [u8] {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let file = std::fs::File::options().read(true).write(true).open(file).expect("the file is there");
    let len = file.metadata().expect("the file is there").len();
    let len = usize::try_from(len).expect("files are small");
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: nothing is at an address that the system chooses.
    let at = unsafe { mmap(core::ptr::null_mut(), len, protection, MapFlags::SHARED, file.as_fd(), 0) };
    let at: *mut u8 = at.expect("a small file can be mapped").cast();
    // SAFETY: so many bytes are mapped there, for good.
    unsafe { core::slice::from_raw_parts_mut(at, len) }
}
