//! A barrier on all threads of the process: the heavy side of an asymmetric one.

use std::io;

#[cfg(not(miri))]
use rustix::thread::{MembarrierCommand, membarrier};

/// Makes [`heavy`] possible from here on.
///
/// # Errors
/// The operating system has no such barrier.
#[cfg(not(miri))]
pub(super) fn register() -> io::Result<()> {
    Ok(membarrier(MembarrierCommand::RegisterPrivateExpedited)?)
}

/// In an interpreter the light side is a fence too, so that one is enough here.
#[cfg(miri)]
#[expect(clippy::unnecessary_wraps, reason = "an operating system may lack it")]
pub(super) fn register() -> io::Result<()> {
    Ok(())
}

/// A full memory barrier on every thread.
#[cfg(not(miri))]
pub(super) fn heavy() -> io::Result<()> {
    Ok(membarrier(MembarrierCommand::PrivateExpedited)?)
}

/// As above.
#[cfg(miri)]
#[expect(clippy::unnecessary_wraps, reason = "an operating system may lack it")]
pub(super) fn heavy() -> io::Result<()> {
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    Ok(())
}
