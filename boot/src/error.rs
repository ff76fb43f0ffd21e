//! What can keep a kernel from starting; each reads as the end of a `boot: error: …` line.

use core::fmt;

use crate::segment::LinkAddress;

/// Why the kernel cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The start-info structure or a table that it names is not what PVH defines.
    StartInfo(&'static str),
    /// The firmware's memory map has more entries than the loader holds, or splits into more ranges.
    MemoryMapTooLong,
    /// No `-initrd`.
    NoModule,
    /// A structure or the kernel's file lies where the loader has no mapping.
    Unreachable {
        /// What lies there.
        what: &'static str,
        /// Its physical address.
        address: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// The kernel's file is not an ELF file that can be loaded.
    Kernel(ImageError),
    /// The kernel's `.bootloader-config` section does not hold a configuration.
    Config(&'static str),
    /// A mapping cannot be placed.
    Placement {
        /// Which mapping.
        what: &'static str,
        /// The address that was asked for; `None` if any would have done.
        at: Option<u64>,
        /// Its length in bytes.
        length: u64,
        /// Why not.
        reason: &'static str,
    },
    /// Usable memory between 1 MiB and 4 GiB does not hold what the kernel needs.
    OutOfMemory {
        /// What the memory was for.
        what: &'static str,
        /// How much, in 4 KiB pages.
        pages: u64,
    },
    /// The page tables refused a mapping that was planned.
    Mapping {
        /// The virtual address.
        address: u64,
    },
}

/// What is wrong with the kernel's ELF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageError {
    /// Not an ELF file.
    NotElf,
    /// Not for a 64-bit little-endian x86.
    WrongMachine,
    /// Neither an executable nor a position-independent executable.
    WrongType(u16),
    /// A header, segment or section reaches beyond the file's end.
    Truncated,
    /// A header contradicts itself or the format.
    Malformed,
    /// No `PT_LOAD` segment.
    NoSegments,
    /// More `PT_LOAD` segments than the loader holds.
    TooManySegments,
    /// A segment is longer in the file than in memory, or leaves the address space.
    BadSegmentSize(LinkAddress),
    /// A segment's alignment is no power of two, or its address and file offset disagree about it.
    Misaligned(LinkAddress),
    /// Two segments share a page.
    Overlapping(LinkAddress, LinkAddress),
    /// A segment is to be writable and executable.
    WritableAndExecutable(LinkAddress),
    /// The entry point is in no executable segment.
    BadEntryPoint(LinkAddress),
    /// The thread-local template or the read-only-after-relocation range is in no segment.
    OutsideSegments(LinkAddress),
    /// No `.bootloader-config` section.
    NoConfig,
    /// A relocation that a static position-independent executable has no use for.
    UnsupportedRelocation {
        /// Its type, as in the processor's ABI.
        kind: u32,
        /// Where it applies.
        at: LinkAddress,
    },
    /// A relocation table in a form that the loader does not read, named by its dynamic tag.
    UnsupportedRelocationTable(i64),
    /// A relocation points outside the loaded segments.
    BadRelocation(LinkAddress),
}

impl From<ImageError> for Error {
    fn from(error: ImageError) -> Self {
        Self::Kernel(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StartInfo(what) => write!(f, "PVH start info: {what}"),
            Self::MemoryMapTooLong => write!(f, "the firmware's memory map has too many entries"),
            Self::NoModule => write!(f, "no kernel: give its ELF file with -initrd"),
            Self::Unreachable { what, address, length } => {
                write!(f, "{what} at {address:#x} ({length:#x} bytes) is not below 4 GiB")
            }
            Self::Kernel(error) => write!(f, "kernel: {error}"),
            Self::Config(reason) => write!(f, "kernel: .bootloader-config: {reason}"),
            Self::Placement { what, at: Some(address), length, reason } => {
                write!(f, "{what} at {address:#x} ({length:#x} bytes): {reason}")
            }
            Self::Placement { what, at: None, length, reason } => write!(f, "{what} ({length:#x} bytes): {reason}"),
            Self::OutOfMemory { what, pages } => {
                write!(f, "out of memory: no {pages} contiguous pages between 1 MiB and 4 GiB for {what}")
            }
            Self::Mapping { address } => write!(f, "page tables: cannot map {address:#x}"),
        }
    }
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotElf => write!(f, "not an ELF file"),
            Self::WrongMachine => write!(f, "not a 64-bit x86 ELF file"),
            Self::WrongType(kind) => write!(f, "ELF type {kind} is no executable"),
            Self::Truncated => write!(f, "the ELF file is truncated"),
            Self::Malformed => write!(f, "the ELF file is malformed"),
            Self::NoSegments => write!(f, "no loadable segments"),
            Self::TooManySegments => write!(f, "too many loadable segments"),
            Self::BadSegmentSize(at) => write!(f, "the segment at {at} has an impossible size"),
            Self::Misaligned(at) => write!(f, "the segment at {at} is misaligned"),
            Self::Overlapping(one, other) => write!(f, "the segments at {one} and {other} share a page"),
            Self::WritableAndExecutable(at) => write!(f, "the segment at {at} is writable and executable"),
            Self::BadEntryPoint(at) => write!(f, "the entry point {at} is in no executable segment"),
            Self::OutsideSegments(at) => write!(f, "the TLS or RELRO range at {at} is in no segment"),
            Self::NoConfig => write!(f, "no .bootloader-config section: not a bootloader_api kernel"),
            Self::UnsupportedRelocation { kind, at } => write!(f, "relocation type {kind} at {at} is not supported"),
            Self::UnsupportedRelocationTable(tag) => write!(f, "relocation table {tag:#x} is not supported"),
            Self::BadRelocation(at) => write!(f, "the relocation at {at} is outside the segments"),
        }
    }
}

impl core::error::Error for Error {}
impl core::error::Error for ImageError {}
