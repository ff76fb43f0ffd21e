//! The kernel's bytes in memory: copied, zero-filled, relocated.
//!
//! A static position-independent executable needs one relocation only: add the slide to an address
//! (`R_X86_64_RELATIVE`). Whatever else a file asks for is refused. The relocations are found through the program
//! headers, as they are for a program: section headers may say anything.

use elf::abi;
use elf::dynamic::DynamicTable;
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::relocation::RelaIterator;

use crate::error::ImageError;
use crate::kernel_image::KernelImage;
use crate::segment::{LinkAddress, PAGE, Segment, Slide};

/// Compact relative relocations, which the ELF library has no name for.
const DT_RELR: i64 = 36;

/// Bytes of an entry with an addend.
const RELA_SIZE: u64 = 24;

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

impl<'f> KernelImage<'f> {
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
        let (mut start, mut length) = (None, None);
        for entry in self.dynamic().into_iter().flat_map(DynamicTable::iter) {
            match entry.d_tag {
                abi::DT_NULL => break,
                abi::DT_RELA => start = Some(entry.d_ptr()),
                abi::DT_RELASZ => length = Some(entry.d_val()),
                abi::DT_RELAENT if entry.d_val() != RELA_SIZE => return Err(ImageError::Malformed),
                tag @ (abi::DT_REL | abi::DT_JMPREL | DT_RELR) => {
                    return Err(ImageError::UnsupportedRelocationTable(tag));
                }
                _ => {}
            }
        }
        let (start, length) = match (start, length) {
            (Some(start), Some(length)) => (start, length),
            (None, None) => return Ok(&[]),
            // One without the other: rather than start a kernel that is not relocated.
            _ => return Err(ImageError::Malformed),
        };
        let table = self.segments().iter().find_map(|segment| {
            let offset = usize::try_from(start.checked_sub(segment.start.0)?).ok()?;
            segment.data.get(offset..)?.get(..usize::try_from(length).ok()?)
        });
        table.ok_or(ImageError::BadRelocation(LinkAddress(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_elf::TestElf;

    /// What the kernel finds from its first page on.
    fn loaded(elf: &TestElf, slide: Slide) -> Result<Vec<u8>, ImageError> {
        let file = elf.bytes();
        let image = KernelImage::parse(&file)?;
        let mut memory = vec![0xa5; usize::try_from(image.span().end.0).unwrap()];
        let mut rest = memory.as_mut_slice();
        let mut segments = Vec::new();
        for segment in image.segments() {
            let (pages, after) = rest.split_at_mut(usize::try_from(segment.page_count() * PAGE).unwrap());
            segments.push(LoadedSegment::load(*segment, pages)?);
            rest = after;
        }
        image.relocate(slide, &mut segments)?;
        drop(segments);
        Ok(memory)
    }

    fn with_relocation(words: [u64; 3]) -> TestElf {
        let mut elf = TestElf::kernel();
        elf.content[1].1 = words.to_vec();
        elf
    }

    fn word(memory: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(*memory[at..].first_chunk().unwrap())
    }

    #[test]
    fn bytes_land_where_they_are_linked_and_zeros_around_them() {
        let memory = loaded(&TestElf::kernel(), Slide(0)).unwrap();
        assert_eq!(word(&memory, 0x4080), 0xdada_dada_dada_dada);
        assert!(memory[0x4000..0x4080].iter().chain(&memory[0x4088..]).all(|&byte| byte == 0));
        assert!(memory[0x1000..0x1200].iter().all(|&byte| byte == 0));
        assert_eq!(memory[..4], *b"\x7fELF");
    }

    #[test]
    fn relocations_add_the_slide_up_or_down() {
        for slide in [0x80_0000_0000, 0xffff_ffff_8000_0000, 0_u64.wrapping_sub(0x1000)] {
            let memory = loaded(&TestElf::kernel(), Slide(slide)).unwrap();
            assert_eq!(word(&memory, 0x3010), slide.wrapping_add(0x1234));
        }
        let crossing = with_relocation([0x4ffc, 8, 0x1234]);
        assert_eq!(word(&loaded(&crossing, Slide(1 << 40)).unwrap(), 0x4ffc), (1 << 40) + 0x1234);
    }

    #[test]
    fn a_relocation_outside_the_segments_or_across_their_end_is_refused() {
        for at in [0x1100, 0x3008, 0x37f9, 0x5879, 0x9000, u64::MAX - 3] {
            let error = loaded(&with_relocation([at, 8, 0]), Slide(0));
            assert_eq!(error.unwrap_err(), ImageError::BadRelocation(LinkAddress(at)));
        }
    }

    #[test]
    fn other_relocations_are_refused_by_their_names() {
        let symbol = with_relocation([0x3010, 6 | 1 << 32, 0]);
        let error = ImageError::UnsupportedRelocation { kind: 6, at: LinkAddress(0x3010) };
        assert_eq!(loaded(&symbol, Slide(0)).unwrap_err(), error);
        for tag in [17, 23, 36] {
            let mut elf = TestElf::kernel();
            elf.content[0].1[0] = tag;
            let error = ImageError::UnsupportedRelocationTable(tag.cast_signed());
            assert_eq!(loaded(&elf, Slide(0)).unwrap_err(), error);
        }
    }

    #[test]
    fn half_a_relocation_table_is_refused_and_none_is_fine() {
        for lost in [0, 2] {
            let mut elf = TestElf::kernel();
            elf.content[0].1[lost] = 0x6fff_fff9;
            assert_eq!(loaded(&elf, Slide(0)).unwrap_err(), ImageError::Malformed);
        }
        let mut elf = TestElf::kernel();
        elf.content[0].1[0] = 0;
        assert_eq!(word(&loaded(&elf, Slide(0)).unwrap(), 0x3010), 0);
    }

    #[test]
    fn a_relocation_table_outside_the_file_is_refused() {
        for (start, length) in [(1 << 50, 24), (0xa00, 1 << 50), (0xa00, u64::MAX), (0xff0, 24)] {
            let mut elf = TestElf::kernel();
            elf.content[0].1[1] = start;
            elf.content[0].1[3] = length;
            assert_eq!(loaded(&elf, Slide(0)).unwrap_err(), ImageError::BadRelocation(LinkAddress(start)));
        }
    }
}
