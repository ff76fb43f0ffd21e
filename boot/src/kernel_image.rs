//! The kernel's ELF file: what is to be loaded where, and with which access.
//!
//! Everything that the file claims is checked here, before a byte is moved: the file is anybody's.
//!
//! Invariants of a [`KernelImage`]: segments share no page and none is writable and executable; every segment's bytes
//! lie in the file; the entry point lies in an executable segment.

use core::ops::Range;

use arrayvec::ArrayVec;
use bootloader_api::BootloaderConfig;
use elf::ElfBytes;
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::parse::ParseError;
use elf::segment::ProgramHeader;

use crate::error::{Error, ImageError};
use crate::segment::{Access, LinkAddress, PAGE, Segment};

/// Most `PT_LOAD` segments a kernel may have.
pub const MAX_SEGMENTS: usize = 32;

const CONFIG_SECTION: &str = ".bootloader-config";

/// Who chooses where the kernel runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The file (`ET_EXEC`).
    Fixed,
    /// The loader (`ET_DYN`).
    Independent,
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
        if file.get(abi::EI_CLASS) == Some(&abi::ELFCLASS32) {
            return Err(ImageError::WrongMachine);
        }
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
        let mut executable = self.segments.iter().filter(|segment| segment.access == Access::Execute);
        if !executable.any(|segment| segment.contains(&entry_byte)) {
            return Err(ImageError::BadEntryPoint(entry));
        }
        let tls = self.tls.iter().map(|tls| tls.start.0..tls.start.0.saturating_add(tls.file_size));
        // A relocated range may end in the padding behind its segment, but it starts in one.
        let relro = self.relro.iter().map(|relro| relro.start..relro.start.saturating_add(1));
        for range in tls.chain(relro).filter(|range| !range.is_empty()) {
            if !self.segments.iter().any(|segment| segment.contains(&range)) {
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
    pub fn access(&self, segment: &Segment<'_>, page: LinkAddress) -> Access {
        let end = page.0 + PAGE;
        // As dynamic linkers do it: a page of which the range covers only the beginning stays writable.
        match &self.relro {
            Some(relro) if segment.access == Access::ReadWrite && relro.start < end && end <= relro.end => {
                Access::ReadOnly
            }
            _ => segment.access,
        }
    }

    /// Its parsed headers.
    pub(crate) fn elf(&self) -> &ElfBytes<'f, LittleEndian> {
        &self.elf
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
