//! The pieces of the kernel that are loaded, and the addresses that they are linked at.
//!
//! Invariants of a [`Segment`]: its bytes lie in the file, its pages in the address space, and it is not both writable
//! and executable.

use core::fmt;
use core::ops::Range;

use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;

use crate::error::ImageError;

/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;

bitflags::bitflags! {
    /// What a file says may be done with a segment (`p_flags`).
    #[derive(Clone, Copy)]
    struct SegmentFlags: u32 {
        const EXECUTE = abi::PF_X;
        const WRITE = abi::PF_W;
    }
}

/// What may be done with a page; writing and executing is not among it (W^X).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
    /// Reading and executing.
    Execute,
}

/// An address as the kernel was linked; add the [`Slide`] for where it runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkAddress(pub u64);

impl LinkAddress {
    /// Where it runs.
    #[must_use]
    pub fn slid(self, slide: Slide) -> u64 {
        self.0.wrapping_add(slide.0)
    }
}

impl fmt::Debug for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// How far the kernel runs from where it was linked, modulo 2^64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slide(pub u64);

/// A piece of the kernel to load.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'f> {
    pub(crate) start: LinkAddress,
    pub(crate) end: LinkAddress,
    pub(crate) data: &'f [u8],
    pub(crate) align: u64,
    pub(crate) access: Access,
}

impl<'f> Segment<'f> {
    /// Reads a `PT_LOAD` header.
    pub(crate) fn parse(elf: &ElfBytes<'f, LittleEndian>, header: &ProgramHeader) -> Result<Self, ImageError> {
        let start = LinkAddress(header.p_vaddr);
        let flags = SegmentFlags::from_bits_truncate(header.p_flags);
        let access = match (flags.contains(SegmentFlags::WRITE), flags.contains(SegmentFlags::EXECUTE)) {
            (false, false) => Access::ReadOnly,
            (true, false) => Access::ReadWrite,
            (false, true) => Access::Execute,
            (true, true) => return Err(ImageError::WritableAndExecutable(start)),
        };
        let align = header.p_align.max(1);
        if !align.is_power_of_two() || header.p_vaddr % align != header.p_offset % align {
            return Err(ImageError::Misaligned(start));
        }
        // The last page of the address space stays free, so that every end can be rounded up.
        let end = start.0.checked_add(header.p_memsz).filter(|&end| end <= u64::MAX - PAGE);
        let end = end.map(LinkAddress).ok_or(ImageError::BadSegmentSize(start))?;
        if header.p_filesz > header.p_memsz {
            return Err(ImageError::BadSegmentSize(start));
        }
        Ok(Self { start, end, data: elf.segment_data(header)?, align, access })
    }

    /// The pages that it lies in.
    pub fn pages(&self) -> Range<LinkAddress> {
        LinkAddress(self.start.0 - self.start.0 % PAGE)..LinkAddress(self.end.0.next_multiple_of(PAGE))
    }

    /// How many pages those are.
    pub fn page_count(&self) -> u64 {
        let pages = self.pages();
        (pages.end.0 - pages.start.0) / PAGE
    }

    pub(crate) fn contains(&self, range: &Range<u64>) -> bool {
        self.start.0 <= range.start && range.start <= range.end && range.end <= self.end.0
    }
}
