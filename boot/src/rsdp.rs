//! The ACPI root pointer in a piece of BIOS memory.
//!
//! Source: ACPI 6.5, 5.2.5.1: signature on a 16-byte boundary, the first 20 bytes add up to zero.

/// Where BIOSes keep it, beside the first KiB of the extended BIOS data area.
pub const BIOS_AREA: core::ops::Range<u64> = 0xe_0000..0x10_0000;

const SIGNATURE: &[u8; 8] = b"RSD PTR ";
const CHECKED_BYTES: usize = 20;

/// The offset of the root pointer in `memory`, which starts on a 16-byte boundary.
pub fn find(memory: &[u8]) -> Option<u64> {
    let starts = (0..memory.len()).step_by(16);
    let found = starts.into_iter().find(|&start| {
        memory.get(start..start + CHECKED_BYTES).is_some_and(|bytes| {
            bytes.starts_with(SIGNATURE) && bytes.iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte)) == 0
        })
    })?;
    u64::try_from(found).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(memory: &mut [u8], at: usize) {
        memory[at..at + 8].copy_from_slice(SIGNATURE);
        let sum = memory[at..at + CHECKED_BYTES].iter().fold(0_u8, |sum, &byte| sum.wrapping_add(byte));
        memory[at + 8] = memory[at + 8].wrapping_sub(sum);
    }

    #[test]
    fn a_bad_checksum_or_a_crooked_place_is_passed_over() {
        let mut memory = vec![0xa5; 512];
        memory[32..40].copy_from_slice(SIGNATURE);
        place(&mut memory, 104);
        assert_eq!(find(&memory), None);
        place(&mut memory, 160);
        assert_eq!(find(&memory), Some(160));
    }

    #[test]
    fn one_that_the_end_cuts_off_is_none() {
        let mut memory = vec![0; 64];
        place(&mut memory, 32);
        assert_eq!(find(&memory[..48]), None);
        assert_eq!(find(&[]), None);
    }
}
