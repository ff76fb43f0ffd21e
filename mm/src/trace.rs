//! Recorded page allocations: what a running Linux asked of its allocator, read back one record at a time.
//!
//! A trace is a header of 32 bytes and records of 8, all little-endian. Block ids are small and are used again after a
//! free, so that who replays a trace needs a table of [`Header::blocks`] entries and no map. The reader checks what a
//! record says by itself; whether what is freed was allocated is the replayer's business.
//!
//! The reader takes the file in pieces of any size, allocates nothing and never panics: any input is events or typed
//! errors. Cost: a few instructions a record.
//!
//! ```
//! # use mm::trace::{Decoder, Header};
//! # fn replay(mut chunks: impl Iterator<Item = Vec<u8>>) -> Result<(), Box<dyn std::error::Error>> {
//! # let first = chunks.next().ok_or("empty")?;
//! let (header, rest) = Header::parse(&first)?;
//! let mut decoder = Decoder::new(header);
//! for event in decoder.decode(rest) {
//!     println!("{:?}", event?);
//! }
//! for chunk in chunks {
//!     for event in decoder.decode(&chunk) {
//!         println!("{:?}", event?);
//!     }
//! }
//! decoder.finish()?;
//! # Ok(())
//! # }
//! ```

use arrayvec::ArrayVec;
use bitflags::bitflags;
use thiserror::Error;

use crate::migratetype::Migratetype;
use crate::units::{CpuId, Order};

const MAGIC: [u8; 7] = *b"MMTRACE";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 32;
const RECORD_BYTES: usize = 8;
const MAX_CPUS: u32 = 1 << 16;

/// A block's name within a trace: from 0 up, given again to another block after a free.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct BlockId(u32);

impl BlockId {
    /// The id as an index into a table of [`Header::blocks`] entries.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

bitflags! {
    /// What an allocation asked for besides size and migratetype.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct AllocationFlags: u8 {
        /// The pages must read as zero.
        const ZEROED = 1 << 0;
        /// The pages may lie above the direct map.
        const HIGHMEM = 1 << 1;
        /// The pages were charged to a control group.
        const ACCOUNTED = 1 << 2;
        /// The caller could not sleep.
        const ATOMIC = 1 << 3;
    }
}

/// One thing that happened to the allocator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A block was allocated.
    Alloc {
        /// Its name until it is freed.
        id: BlockId,
        /// Its size.
        order: Order,
        /// What its pages can do.
        migratetype: Migratetype,
        /// Who asked.
        cpu: CpuId,
        /// What else was asked.
        flags: AllocationFlags,
    },
    /// A block was freed, as a whole.
    Free {
        /// Its name, free to be given again.
        id: BlockId,
        /// The size it was allocated with.
        order: Order,
        /// Who freed it.
        cpu: CpuId,
    },
}

/// What a trace says about itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// How many records follow.
    pub records: u32,
    /// All block ids are below this.
    pub blocks: u32,
    /// All CPU numbers are below this.
    pub cpus: u32,
    /// The most pages that are allocated at one time.
    pub peak_pages: u32,
}

/// Why these bytes do not begin a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HeaderError {
    /// There are too few bytes for a header.
    #[error("{bytes} bytes are too few for a header")]
    Truncated {
        /// How many there are.
        bytes: usize,
    },
    /// The file is of another kind.
    #[error("the file is no page-allocation trace")]
    BadMagic,
    /// The format's version is not 1.
    #[error("version {0} of the format is unknown")]
    UnknownVersion(u8),
    /// Bytes that must be zero are not.
    #[error("the header's unused bytes are {0:#x}")]
    UnusedBytes(u64),
    /// More CPUs than a CPU number can name.
    #[error("{0} CPUs are too many")]
    TooManyCpus(u32),
}

impl Header {
    /// The header at the start of a trace, and the bytes behind it.
    ///
    /// # Errors
    /// The bytes are too few or no header of version 1.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let (header, rest) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(HeaderError::Truncated { bytes: bytes.len() })?;
        let (words, _) = header.as_chunks::<4>();
        let word = |index: usize| u32::from_le_bytes(words[index]);
        if header[..MAGIC.len()] != MAGIC {
            return Err(HeaderError::BadMagic);
        }
        if header[MAGIC.len()] != VERSION {
            return Err(HeaderError::UnknownVersion(header[MAGIC.len()]));
        }
        let unused = u64::from(word(6)) | u64::from(word(7)) << 32;
        if unused != 0 {
            return Err(HeaderError::UnusedBytes(unused));
        }
        let header = Self { records: word(2), blocks: word(3), cpus: word(4), peak_pages: word(5) };
        if header.cpus > MAX_CPUS {
            return Err(HeaderError::TooManyCpus(header.cpus));
        }
        Ok((header, rest))
    }
}

/// A record that cannot be, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("record {record}: {defect}")]
pub struct RecordError {
    /// The record's number, from 0.
    pub record: u32,
    /// What is wrong with it.
    pub defect: Defect,
}

/// What is wrong with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Defect {
    /// The header announced fewer records.
    #[error("the header announced no such record")]
    Unannounced,
    /// The id is not below the number of blocks.
    #[error("block {0} is none of the header's")]
    UnknownBlock(u32),
    /// Bits that must be zero are not, or the order is above 10.
    #[error("{0:#04x} names no operation and order")]
    BadOperation(u8),
    /// The CPU is not below the number of CPUs.
    #[error("CPU {0} is none of the header's")]
    UnknownCpu(u8),
    /// There is no such migratetype, or a free has one.
    #[error("{0} is no migratetype here")]
    BadMigratetype(u8),
    /// There are no such flags, or a free has some.
    #[error("{0:#04x} are no flags here")]
    BadFlags(u8),
}

/// The trace does not end behind its last record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BadEnd {
    /// It ended before.
    #[error("the trace ends after {complete} of {announced} records")]
    Truncated {
        /// Whole records seen.
        complete: u32,
        /// Records the header announced.
        announced: u32,
    },
    /// There is something behind, which is no record.
    #[error("the trace has {bytes} bytes behind its last record")]
    Unannounced {
        /// How many.
        bytes: usize,
    },
}

/// Turns the bytes behind a header into events.
#[derive(Debug)]
pub struct Decoder {
    header: Header,
    complete: u32,
    /// The beginning of a record whose end the next piece brings.
    partial: ArrayVec<u8, RECORD_BYTES>,
}

impl Decoder {
    /// A decoder for the records that follow this header.
    pub const fn new(header: Header) -> Self {
        Self { header, complete: 0, partial: ArrayVec::new_const() }
    }

    /// The events of the next piece of the file; a record may begin in one piece and end in another.
    ///
    /// A bad record is an error in its place, and on it goes behind it. Bytes the caller does not iterate over are
    /// lost.
    pub fn decode<'p>(&'p mut self, mut piece: &'p [u8]) -> impl Iterator<Item = Result<Event, RecordError>> + use<'p> {
        core::iter::from_fn(move || {
            let (next, rest) = piece.split_at(self.partial.remaining_capacity().min(piece.len()));
            piece = rest;
            self.partial.extend(next.iter().copied());
            let record = match self.partial.take().into_inner() {
                Ok(record) => record,
                Err(partial) => {
                    self.partial = partial;
                    return None;
                }
            };
            let number = self.complete;
            if number == self.header.records {
                return Some(Err(RecordError { record: number, defect: Defect::Unannounced }));
            }
            self.complete += 1;
            Some(self.header.event(record).map_err(|defect| RecordError { record: number, defect }))
        })
    }

    /// Makes sure that nothing is missing, nor left over.
    ///
    /// # Errors
    /// There were fewer records than the header announced, or the last one is incomplete, or part of one is behind it. Whole ones
    /// behind it were told of when they were decoded.
    pub fn finish(self) -> Result<(), BadEnd> {
        let (complete, announced) = (self.complete, self.header.records);
        match self.partial.len() {
            _ if complete < announced => Err(BadEnd::Truncated { complete, announced }),
            0 => Ok(()),
            bytes => Err(BadEnd::Unannounced { bytes }),
        }
    }
}

impl Header {
    /// What a record says.
    fn event(&self, record: [u8; RECORD_BYTES]) -> Result<Event, Defect> {
        const FREE: u8 = 1 << 7;
        let [id @ .., operation, cpu, migratetype, flags] = record;
        let id = u32::from_le_bytes(id);
        if id >= self.blocks {
            return Err(Defect::UnknownBlock(id));
        }
        let id = BlockId(id);
        // Bits 5 and 6 are unused: set, they make an order that is too large.
        let order = Order::new(operation & !FREE).ok_or(Defect::BadOperation(operation))?;
        if u32::from(cpu) >= self.cpus {
            return Err(Defect::UnknownCpu(cpu));
        }
        let cpu = CpuId(cpu.into());
        if operation & FREE != 0 {
            return match (migratetype, flags) {
                (0, 0) => Ok(Event::Free { id, order, cpu }),
                (0, _) => Err(Defect::BadFlags(flags)),
                _ => Err(Defect::BadMigratetype(migratetype)),
            };
        }
        let migratetype =
            *Migratetype::REQUESTED.get(usize::from(migratetype)).ok_or(Defect::BadMigratetype(migratetype))?;
        let flags = AllocationFlags::from_bits(flags).ok_or(Defect::BadFlags(flags))?;
        Ok(Event::Alloc { id, order, migratetype, cpu, flags })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
