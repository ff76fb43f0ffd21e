//! The kernel's ELF file: what is to be loaded where, with which rights, and what is to be relocated.
//!
//! Everything that the file claims is checked here, before a byte is moved: the file is anybody's.
//!
//! Invariants of a [`KernelImage`]: segments share no page and none is writable and executable; every segment's bytes
//! lie in the file; the entry point lies in an executable segment.

use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;
use bootloader_api::BootloaderConfig;
use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::parse::ParseError;
use elf::relocation::RelaIterator;
use elf::segment::ProgramHeader;

use crate::error::{Error, ImageError};

/// Most `PT_LOAD` segments a kernel may have.
pub const MAX_SEGMENTS: usize = 32;

const PAGE: u64 = 4096;
const CONFIG_SECTION: &str = ".bootloader-config";
const DT_RELR: i64 = 36;

bitflags::bitflags! {
    /// What may be done with a segment's pages (`p_flags`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Rights: u32 {
        /// Instructions may be fetched.
        const EXECUTE = abi::PF_X;
        /// Data may be written.
        const WRITE = abi::PF_W;
        /// Data may be read.
        const READ = abi::PF_R;
    }
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

/// Who chooses where the kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The file (`ET_EXEC`).
    Fixed,
    /// The loader (`ET_DYN`).
    Independent,
}

/// A piece of the kernel to load.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'f> {
    start: LinkAddress,
    data: &'f [u8],
    end: LinkAddress,
    align: u64,
    rights: Rights,
}

impl<'f> Segment<'f> {
    fn parse(elf: &ElfBytes<'f, LittleEndian>, header: &ProgramHeader) -> Result<Self, ImageError> {
        let start = LinkAddress(header.p_vaddr);
        let rights = Rights::from_bits_truncate(header.p_flags);
        if rights.contains(Rights::WRITE | Rights::EXECUTE) {
            return Err(ImageError::WritableAndExecutable(start));
        }
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
        Ok(Self { start, data: elf.segment_data(header)?, end, align, rights })
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

    fn contains(&self, range: &Range<u64>) -> bool {
        self.start.0 <= range.start && range.start <= range.end && range.end <= self.end.0
    }
}

/// A segment's pages in memory; the first byte is the first page's.
#[derive(Debug)]
pub struct LoadedSegment<'f, 'm> {
    segment: Segment<'f>,
    memory: &'m mut [u8],
}

impl<'f, 'm> LoadedSegment<'f, 'm> {
    /// Fills the segment's pages: its bytes where they belong, zeros around them.
    ///
    /// # Errors
    /// [`ImageError::BadSegmentSize`] if `memory` is too short.
    pub fn load(segment: Segment<'f>, memory: &'m mut [u8]) -> Result<Self, ImageError> {
        memory.fill(0);
        let loaded = usize::try_from(segment.start.0 % PAGE).ok();
        let place = loaded.and_then(|start| memory.get_mut(start..)?.get_mut(..segment.data.len()));
        place.ok_or(ImageError::BadSegmentSize(segment.start))?.copy_from_slice(segment.data);
        Ok(Self { segment, memory })
    }

    fn word_at(&mut self, at: u64) -> Option<&mut [u8]> {
        if !self.segment.contains(&(at..at.checked_add(8)?)) {
            return None;
        }
        let offset = usize::try_from(at - self.segment.pages().start.0).ok()?;
        self.memory.get_mut(offset..)?.get_mut(..8)
    }
}

/// The thread-local storage template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsImage {
    /// Its first byte.
    pub start: LinkAddress,
    /// Bytes that have a value.
    pub file_size: u64,
    /// Bytes in all.
    pub memory_size: u64,
}

/// A kernel that can be loaded.
#[derive(Debug)]
pub struct KernelImage<'f> {
    elf: ElfBytes<'f, LittleEndian>,
    segments: ArrayVec<Segment<'f>, MAX_SEGMENTS>,
    relro: Option<Range<u64>>,
    tls: Option<TlsImage>,
    position: Position,
}

impl<'f> KernelImage<'f> {
    /// Reads and checks the file's headers.
    ///
    /// # Errors
    /// An [`ImageError`] that names the first claim that does not hold.
    pub fn parse(file: &'f [u8]) -> Result<Self, ImageError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file)?;
        if elf.ehdr.class != Class::ELF64 || elf.ehdr.e_machine != abi::EM_X86_64 {
            return Err(ImageError::WrongMachine);
        }
        let position = match elf.ehdr.e_type {
            abi::ET_EXEC => Position::Fixed,
            abi::ET_DYN => Position::Independent,
            other => return Err(ImageError::WrongType(other)),
        };
        let headers = elf.segments().ok_or(ImageError::NoSegments)?;
        let mut image = Self { elf, segments: ArrayVec::new(), relro: None, tls: None, position };
        for header in headers.iter() {
            match header.p_type {
                abi::PT_LOAD if header.p_memsz > 0 => image.add(Segment::parse(&image.elf, &header)?)?,
                abi::PT_GNU_RELRO if header.p_memsz > 0 => image.relro = Some(memory_range(&header)?),
                abi::PT_TLS => {
                    let start = LinkAddress(header.p_vaddr);
                    let (file_size, memory_size) = (header.p_filesz, header.p_memsz);
                    image.tls = Some(TlsImage { start, file_size, memory_size });
                }
                _ => {}
            }
        }
        image.check()?;
        Ok(image)
    }

    fn add(&mut self, segment: Segment<'f>) -> Result<(), ImageError> {
        let pages = segment.pages();
        let shares = |other: &&Segment<'_>| other.pages().start < pages.end && pages.start < other.pages().end;
        if let Some(other) = self.segments.iter().find(shares) {
            return Err(ImageError::Overlapping(other.start, segment.start));
        }
        self.segments.try_push(segment).map_err(|_| ImageError::TooManySegments)
    }

    fn check(&self) -> Result<(), ImageError> {
        if self.segments.is_empty() {
            return Err(ImageError::NoSegments);
        }
        let entry = self.entry();
        let entry_byte = entry.0..entry.0.saturating_add(1);
        let executable = self.segments.iter().filter(|segment| segment.rights.contains(Rights::EXECUTE));
        if !executable.into_iter().any(|segment| segment.contains(&entry_byte)) {
            return Err(ImageError::BadEntryPoint(entry));
        }
        let tls = self.tls.iter().map(|tls| tls.start.0..tls.start.0.saturating_add(tls.file_size));
        for range in tls.chain(self.relro.clone().map(|relro| relro.start..relro.start)) {
            if !range.is_empty() && !self.segments.iter().any(|segment| segment.contains(&range)) {
                return Err(ImageError::OutsideSegments(LinkAddress(range.start)));
            }
        }
        Ok(())
    }

    /// The configuration that the kernel was built with.
    ///
    /// # Errors
    /// [`ImageError::NoConfig`] if this is no `bootloader_api` kernel; [`Error::Config`] if its section is damaged.
    pub fn config(&self) -> Result<BootloaderConfig, Error> {
        let section = self.elf.section_header_by_name(CONFIG_SECTION).map_err(ImageError::from)?;
        let (bytes, compressed) =
            self.elf.section_data(&section.ok_or(ImageError::NoConfig)?).map_err(ImageError::from)?;
        if compressed.is_some() {
            return Err(Error::Config("the section is compressed"));
        }
        BootloaderConfig::deserialize(bytes).map_err(Error::Config)
    }

    /// The segments, in the file's order.
    pub fn segments(&self) -> &[Segment<'f>] {
        &self.segments
    }

    /// The pages from the first segment's start to the last one's end.
    pub fn span(&self) -> Range<LinkAddress> {
        let starts = self.segments.iter().map(|segment| segment.pages().start);
        let ends = self.segments.iter().map(|segment| segment.pages().end);
        starts.min().unwrap_or(LinkAddress(0))..ends.max().unwrap_or(LinkAddress(0))
    }

    /// What the slide must be a multiple of, in bytes: a power of two, at least a page.
    pub fn align(&self) -> u64 {
        self.segments.iter().map(|segment| segment.align).fold(PAGE, u64::max)
    }

    /// The first instruction.
    pub fn entry(&self) -> LinkAddress {
        LinkAddress(self.elf.ehdr.e_entry)
    }

    /// Who chooses where it runs.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The thread-local storage template, if it has one.
    pub fn tls(&self) -> Option<TlsImage> {
        self.tls
    }

    /// What may be done with `page` of `segment` once the kernel is relocated.
    pub fn rights(&self, segment: &Segment<'_>, page: LinkAddress) -> Rights {
        // As dynamic linkers do it: a page that the range only begins to cover at its end stays writable.
        let read_only =
            self.relro.as_ref().is_some_and(|range| range.start < page.0 + PAGE && page.0 + PAGE <= range.end);
        if read_only { segment.rights - Rights::WRITE } else { segment.rights }
    }

    /// Applies all relocations.
    ///
    /// # Errors
    /// An [`ImageError`] if there is one that a static position-independent executable does not need, or one outside
    /// the segments.
    pub fn relocate(&self, slide: Slide, loaded: &mut [LoadedSegment<'f, '_>]) -> Result<(), ImageError> {
        for relocation in RelaIterator::new(LittleEndian, Class::ELF64, self.relocation_table()?) {
            let at = LinkAddress(relocation.r_offset);
            match relocation.r_type {
                abi::R_X86_64_NONE => {}
                abi::R_X86_64_RELATIVE => {
                    let word = loaded.iter_mut().find_map(|segment| segment.word_at(at.0));
                    let value = LinkAddress(relocation.r_addend.cast_unsigned()).slid(slide);
                    word.ok_or(ImageError::BadRelocation(at))?.copy_from_slice(&value.to_le_bytes());
                }
                kind => return Err(ImageError::UnsupportedRelocation { kind, at }),
            }
        }
        Ok(())
    }

    fn relocation_table(&self) -> Result<&'f [u8], ImageError> {
        let (mut start, mut length) = (0, 0);
        for entry in self.elf.dynamic()?.into_iter().flat_map(|table| table.iter()) {
            match entry.d_tag {
                abi::DT_NULL => break,
                abi::DT_RELA => start = entry.d_ptr(),
                abi::DT_RELASZ => length = entry.d_val(),
                abi::DT_RELAENT if entry.d_val() != 24 => return Err(ImageError::Malformed),
                tag @ (abi::DT_REL | abi::DT_JMPREL | DT_RELR) => {
                    return Err(ImageError::UnsupportedRelocationTable(tag));
                }
                _ => {}
            }
        }
        if length == 0 {
            return Ok(&[]);
        }
        let table = self.segments.iter().find_map(|segment| {
            let offset = usize::try_from(start.checked_sub(segment.start.0)?).ok()?;
            segment.data.get(offset..)?.get(..usize::try_from(length).ok()?)
        });
        table.ok_or(ImageError::BadRelocation(LinkAddress(start)))
    }
}

fn memory_range(header: &ProgramHeader) -> Result<Range<u64>, ImageError> {
    let end = header.p_vaddr.checked_add(header.p_memsz).ok_or(ImageError::Malformed)?;
    Ok(header.p_vaddr..end)
}

impl From<ParseError> for ImageError {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::BadMagic(_) => Self::NotElf,
            ParseError::UnsupportedElfClass(_) | ParseError::UnsupportedElfEndianness(_) => Self::WrongMachine,
            ParseError::SliceReadError(_) | ParseError::BadOffset(_) => Self::Truncated,
            _ => Self::Malformed,
        }
    }
}
