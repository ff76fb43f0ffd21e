//! What is written to memory that is held: whose it is, in every word, so that whoever else wrote there is found out, too.

use core::fmt;

use crate::units::CpuId;

/// Says of each word of a piece of memory which allocation of which CPU has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(u64);

/// Tells a mark from any other word.
const MAGIC: u64 = 0x6d61 << 48;
const SERIAL_BITS: u32 = 32;
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// A word's place: a physical address in a page, and where an object stands in the kernel's address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(pub u64);

impl Mark {
    /// For the CPU's allocation of this number.
    pub(super) const fn new(CpuId(cpu): CpuId, serial: u32) -> Self {
        Self(MAGIC | (cpu as u64) << SERIAL_BITS | serial as u64)
    }

    /// What stands at a place of this allocation's.
    pub(super) const fn word(self, Place(place): Place) -> u64 {
        self.0 ^ place.wrapping_mul(ODD)
    }

    /// The mark that `word` was made of, if it was made of one for this place.
    pub(super) const fn of(word: u64, Place(place): Place) -> Option<Self> {
        let mark = word ^ place.wrapping_mul(ODD);
        if mark >> 48 == MAGIC >> 48 { Some(Self(mark)) } else { None }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (cpu, serial) = (self.0 >> SERIAL_BITS & 0xffff, self.0 & u64::from(u32::MAX));
        write!(f, "allocation {serial} of CPU {cpu}")
    }
}

/// What stands where something else should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Another allocation's mark: the memory was handed out twice, or given up and still written to.
    Other(Mark),
    /// What nobody marks memory with.
    Word(u64),
}

impl Found {
    pub(super) fn of(word: u64, place: Place) -> Self {
        Mark::of(word, place).map_or(Self::Word(word), Self::Other)
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(mark) => write!(f, "the mark of {mark}"),
            Self::Word(word) => write!(f, "{word:#x}, which is no mark"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_word_says_who_wrote_it_if_it_stands_where_it_was_written() {
        let mark = Mark::new(CpuId(3), 17);
        let (here, there) = (Place(0x0fff_ffff_fff8), Place(0x0fff_ffff_f000));
        assert_eq!(Found::of(mark.word(here), here), Found::Other(mark));
        assert_eq!(Found::of(mark.word(here), there), Found::Word(mark.word(here)));
        assert_eq!(Found::of(mark.word(here), here).to_string(), "the mark of allocation 17 of CPU 3");
        assert_eq!(Found::of(0, here), Found::Word(0));
    }
}
