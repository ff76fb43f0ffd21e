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

/// A record as it stands in memory. Whatever is there, it can be read as one.
#[repr(C)]
struct Record {
    location: *const Location<'static>,
    cpu: u64,
    operation: u64,
    seal: u64,
}

/// Bytes of a record.
pub(super) const RECORD_BYTES: u32 = 32;
const _: () = assert!(size_of::<Record>() == RECORD_BYTES as usize);

/// A record that is not what its cache wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SealBroken;

impl Record {
    fn new(location: *const Location<'static>, cpu: u64, operation: u64) -> Self {
        let mut record = Self { location, cpu, operation, seal: 0 };
        record.seal = record.right_seal();
        record
    }

    /// Changes with any one byte of the words in front of it.
    fn right_seal(&self) -> u64 {
        !(self.location.addr() as u64 ^ self.cpu.rotate_left(8) ^ self.operation.rotate_left(16))
    }
}

/// Writes a record.
///
/// # Safety
/// There is room for one at `place`, aligned to eight, that is the caller's.
pub(super) unsafe fn write(place: NonNull<u8>, track: Option<Track>) {
    let record = match track {
        Some(Track { location, cpu: CpuId(cpu), operation }) => Record::new(location, cpu.into(), operation),
        None => Record::new(core::ptr::null(), 0, 0),
    };
    // SAFETY: the caller's promise.
    unsafe { place.cast().write(record) };
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
    let record = unsafe { place.cast::<Record>().read() };
    if record.seal != record.right_seal() {
        return Err(SealBroken);
    }
    let Ok(cpu) = u16::try_from(record.cpu) else { return Err(SealBroken) };
    // SAFETY: the seal says that this was written here, and what was written was a reference to something static, or none.
    let location = unsafe { record.location.as_ref() };
    Ok(location.map(|location| Track { location, cpu: CpuId(cpu), operation: record.operation }))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Reads what stands in four words.
    fn read_from(words: &mut [u64; 4]) -> Result<Option<Track>, SealBroken> {
        // SAFETY: a record is four words, and these are the test's.
        unsafe { read(NonNull::from(words).cast()) }
    }

    #[test]
    fn a_record_that_was_zeroed_is_none() {
        assert_eq!(read_from(&mut [0; 4]), Err(SealBroken));
    }

    #[test]
    fn a_record_of_nobody_says_so_until_somebody_writes_there() {
        let mut words = [0; 4];
        // SAFETY: as above.
        unsafe { write(NonNull::from(&mut words).cast(), None) };
        assert_eq!(read_from(&mut words), Ok(None));
        // The first word is a pointer, and is not followed.
        for word in 0..words.len() {
            for bit in [1, 1 << 63] {
                words[word] ^= bit;
                assert_eq!(read_from(&mut words), Err(SealBroken), "word {word}, {bit:#x}");
                words[word] ^= bit;
            }
        }
    }
}
