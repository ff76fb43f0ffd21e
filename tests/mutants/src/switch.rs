//! Put beside the sources that have every mutant in them: says which one is on. The environment's `MUTANT` is its number;
//! `MUTANTS_REACHED` is a file in which the bytes of those are set that were come by.

#![allow(unsafe_code, missing_docs, unreachable_pub)]

use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::os::fd::AsFd;

/// Not looked up yet; no mutant has such a number.
const UNKNOWN: u32 = u32::MAX;
/// None is on, and who comes by is noted.
const NOTING: u32 = u32::MAX - 1;

static ON: AtomicU32 = AtomicU32::new(UNKNOWN);
static REACHED: AtomicPtr<AtomicU8> = AtomicPtr::new(core::ptr::null_mut());

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
    let on = ON.load(Relaxed);
    on == mutant || on >= NOTING && look_up(mutant)
}

#[cold]
fn look_up(mutant: u32) -> bool {
    if ON.load(Relaxed) == UNKNOWN {
        let on = match std::env::var_os("MUTANTS_REACHED") {
            Some(file) => {
                REACHED.store(map(&file), Relaxed);
                NOTING
            }
            None => std::env::var("MUTANT").ok().and_then(|number| number.parse().ok()).unwrap_or(0),
        };
        ON.store(on, Relaxed);
    }
    let on = ON.load(Relaxed);
    if on == NOTING {
        // SAFETY: the file has a byte for every mutant, and stays mapped.
        let byte = unsafe { &*REACHED.load(Relaxed).add(mutant as usize) };
        byte.store(1, Relaxed);
    }
    on == mutant
}

/// Shared, so that what a child or a program that is killed comes by is noted too.
fn map(file: &std::ffi::OsStr) -> *mut AtomicU8 {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let file = std::fs::File::options().read(true).write(true).open(file).expect("the file is there");
    let len = file.metadata().expect("the file is there").len();
    let len = usize::try_from(len).expect("files are small");
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: nothing is at an address that the system chooses.
    let at = unsafe { mmap(core::ptr::null_mut(), len, protection, MapFlags::SHARED, file.as_fd(), 0) };
    at.expect("a small file can be mapped").cast()
}
