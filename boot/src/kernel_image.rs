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
use elf::dynamic::DynamicTable;
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
    dynamic: Option<DynamicTable<'f, LittleEndian>>,
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
        let mut image = Self { elf, segments: ArrayVec::new(), relro: None, tls: None, dynamic: None, position };
        for header in headers.iter() {
            match header.p_type {
                abi::PT_LOAD if header.p_memsz > 0 => image.add(Segment::parse(&image.elf, &header)?)?,
                abi::PT_GNU_RELRO if header.p_memsz > 0 => image.relro = Some(memory_range(&header)?),
                abi::PT_DYNAMIC => {
                    let entries = image.elf.segment_data(&header)?;
                    image.dynamic = Some(DynamicTable::new(LittleEndian, Class::ELF64, entries));
                }
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

    /// The dynamic table, which names the relocations.
    pub(crate) fn dynamic(&self) -> Option<&DynamicTable<'f, LittleEndian>> {
        self.dynamic.as_ref()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_elf::{Header, R, RW, RX, TestElf, load};

    fn refusal(elf: &TestElf) -> ImageError {
        KernelImage::parse(&elf.bytes()).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_position_independent_kernel_is_read_as_it_was_linked() {
        let file = TestElf::kernel().bytes();
        let image = KernelImage::parse(&file).unwrap();
        let segments: Vec<_> =
            image.segments().iter().map(|s| (s.pages().start.0, s.pages().end.0, s.data.len(), s.access)).collect();
        let code = (0x1000, 0x3000, 0x1c00, Access::Execute);
        let relocated = (0x3000, 0x4000, 0x7f0, Access::ReadWrite);
        let data = (0x4000, 0x6000, 0x780, Access::ReadWrite);
        assert_eq!(segments, [(0, 0x1000, 0x1000, Access::ReadOnly), code, relocated, data]);
        assert_eq!((image.position(), image.entry()), (Position::Independent, LinkAddress(0x1200)));
        assert_eq!(image.span(), LinkAddress(0)..LinkAddress(0x6000));
        assert_eq!(image.config(), Ok(BootloaderConfig::new_default()));
    }

    #[test]
    fn only_whole_pages_of_the_relocated_range_become_read_only() {
        let mut elf = TestElf::kernel();
        let relro = elf.headers.iter_mut().find(|header| header.kind == abi::PT_GNU_RELRO).unwrap();
        relro.memory_size = 0x4800 - 0x3010;
        let file = elf.bytes();
        let image = KernelImage::parse(&file).unwrap();
        let access = |segment: usize, page| image.access(&image.segments()[segment], LinkAddress(page));
        assert_eq!(access(1, 0x2000), Access::Execute);
        assert_eq!(access(2, 0x3000), Access::ReadOnly);
        assert_eq!([access(3, 0x4000), access(3, 0x5000)], [Access::ReadWrite; 2]);
    }

    #[test]
    fn a_page_may_not_be_writable_and_executable_or_belong_to_two_segments() {
        let mut elf = TestElf::kernel();
        elf.headers[1].flags = 7;
        assert_eq!(refusal(&elf), ImageError::WritableAndExecutable(LinkAddress(0x1200)));
        elf.headers[1] = load(0, 0xff8, 0x2e00, RX);
        assert_eq!(refusal(&elf), ImageError::Overlapping(LinkAddress(0), LinkAddress(0xff8)));
        elf.headers[1] = load(0, 0x1200, 0x3008, RX);
        assert_eq!(refusal(&elf), ImageError::Overlapping(LinkAddress(0x1200), LinkAddress(0x3010)));
    }

    #[test]
    fn impossible_sizes_and_alignments_are_named() {
        let data = TestElf::kernel().headers[3];
        let cases = [
            (Header { memory_size: u64::MAX, ..data }, ImageError::BadSegmentSize(LinkAddress(0x4080))),
            (Header { memory_size: 0x77f, ..data }, ImageError::BadSegmentSize(LinkAddress(0x4080))),
            (Header { memory_size: u64::MAX - 0x4080, ..data }, ImageError::BadSegmentSize(LinkAddress(0x4080))),
            (Header { align: 0x1800, ..data }, ImageError::Misaligned(LinkAddress(0x4080))),
            (Header { address: 0x4088, ..data }, ImageError::Misaligned(LinkAddress(0x4088))),
            (Header { offset: 0xff_f080, ..data }, ImageError::Truncated),
            (Header { offset: u64::MAX - 8, align: 1, ..data }, ImageError::Malformed),
        ];
        for (header, error) in cases {
            let mut elf = TestElf::kernel();
            elf.headers[3] = header;
            assert_eq!(refusal(&elf), error);
        }
    }

    #[test]
    fn the_entry_point_lies_in_code_and_the_tls_template_in_a_segment() {
        for entry in [0, 0x11ff, 0x2e00, 0x4080, u64::MAX] {
            assert_eq!(refusal(&TestElf { entry, ..TestElf::kernel() }), ImageError::BadEntryPoint(LinkAddress(entry)));
        }
        let mut elf = TestElf::kernel();
        elf.headers.push(Header { kind: abi::PT_TLS, memory_size: 0x900, ..load(0, 0x4080, 0x4180, R) });
        let file = elf.bytes();
        let tls = TlsImage { start: LinkAddress(0x4080), file_size: 0x100, memory_size: 0x900 };
        assert_eq!(KernelImage::parse(&file).unwrap().tls(), Some(tls));
        elf.headers.last_mut().unwrap().address = 0x5800;
        assert_eq!(refusal(&elf), ImageError::OutsideSegments(LinkAddress(0x5800)));
    }

    #[test]
    fn strangers_are_told_apart() {
        assert_eq!(refusal(&TestElf { kind: 1, ..TestElf::kernel() }), ImageError::WrongType(1));
        assert_eq!(refusal(&TestElf { headers: Vec::new(), ..TestElf::kernel() }), ImageError::NoSegments);
        let many = (0..33).map(|index| load(0x10_0000 * index, 0x10_0000 * index, 0x10_0000 * index + 8, RW)).collect();
        assert_eq!(refusal(&TestElf { headers: many, ..TestElf::kernel() }), ImageError::TooManySegments);
        let patched = |at: usize, byte| {
            let mut file = TestElf::kernel().bytes();
            file[at] = byte;
            KernelImage::parse(&file).map(|_| ()).unwrap_err()
        };
        assert_eq!(patched(0, 0), ImageError::NotElf);
        assert_eq!([patched(4, 1), patched(5, 2), patched(18, 3)], [ImageError::WrongMachine; 3]);
    }

    #[test]
    fn a_kernel_without_or_with_a_damaged_configuration_is_refused() {
        let mut file = TestElf::kernel().bytes();
        let name = file.windows(18).rposition(|bytes| bytes == CONFIG_SECTION.as_bytes()).unwrap();
        file[name] = b'_';
        assert_eq!(KernelImage::parse(&file).unwrap().config(), Err(Error::Kernel(ImageError::NoConfig)));
        file[name] = b'.';
        file[name - 1 - BootloaderConfig::SERIALIZED_LEN] ^= 1;
        assert!(matches!(KernelImage::parse(&file).unwrap().config(), Err(Error::Config(_))));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let whole = TestElf::kernel().bytes();
        for length in (0..whole.len()).step_by(7) {
            assert!(KernelImage::parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }
}
