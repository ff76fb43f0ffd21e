//! Who had an object: where in the source it was allocated or freed, on which CPU, and as which operation of its cache.
//!
//! A record stands behind its object, where whoever writes too far may write, and holds a reference. So it is sealed,
//! and what bears no seal is not followed.
#![expect(unsafe_code, reason = "records live in bare memory")]

use core::fmt;
use core::panic::Location;
use core::ptr::NonNull;

use crate::units::CpuId;

/// Somebody who had an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Track {
    /// Where in the source.
    pub location: &'static Location<'static>,
    /// On which CPU.
    pub cpu: CpuId,
    /// The how manieth of all allocations and frees of the cache.
    pub operation: u64,
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CpuId(cpu) = self.cpu;
        write!(f, "{}:{} by CPU {cpu}, operation {}", self.location.file(), self.location.line(), self.operation)
    }
}

impl fmt::Debug for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who had an object, as far as that was recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// Who allocated it last.
    pub allocated: Option<Track>,
    /// Who freed it last.
    pub freed: Option<Track>,
}

/// To follow whatever is said of an object; nothing if nothing is known.
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(allocated) = self.allocated {
            write!(f, "; allocated at {allocated}")?;
        }
        if let Some(freed) = self.freed {
            write!(f, "; freed at {freed}")?;
        }
        Ok(())
    }
}

type Words = [u64; 4];

/// Bytes of a record.
pub(super) const RECORD_BYTES: u32 = 32;
const _: () = assert!(size_of::<Words>() == RECORD_BYTES as usize);

/// A record that is not what its cache wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SealBroken;

/// Changes with any one byte of the words in front of it.
const fn seal([location, cpu, operation, _]: Words) -> u64 {
    !(location ^ cpu.rotate_left(8) ^ operation.rotate_left(16))
}

/// Writes a record.
///
/// # Safety
/// There is room for one at `place`, aligned to eight, that is the caller's.
pub(super) unsafe fn write(place: NonNull<u8>, track: Option<Track>) {
    let mut words = [0; 4];
    if let Some(Track { location, cpu: CpuId(cpu), operation }) = track {
        let location = core::ptr::from_ref(location).expose_provenance() as u64;
        words = [location, u64::from(cpu), operation, 0];
    }
    words[3] = seal(words);
    // SAFETY: the caller's promise.
    unsafe { place.cast::<Words>().write(words) };
}

/// Reads a record.
///
/// # Errors
/// Somebody else wrote there.
///
/// # Safety
/// A record was written at `place`, which is the caller's to read.
pub(super) unsafe fn read(place: NonNull<u8>) -> Result<Option<Track>, SealBroken> {
    // SAFETY: the caller's promise.
    let words = unsafe { place.cast::<Words>().read() };
    if words[3] != seal(words) {
        return Err(SealBroken);
    }
    let [location, cpu, operation, _] = words;
    let (Ok(location), Ok(cpu)) = (usize::try_from(location), u16::try_from(cpu)) else { return Err(SealBroken) };
    let location = NonNull::new(core::ptr::with_exposed_provenance_mut::<Location<'static>>(location));
    // SAFETY: the seal says that this was written here, and what was written was a reference to something static.
    Ok(location.map(|location| Track { location: unsafe { location.as_ref() }, cpu: CpuId(cpu), operation }))
}
