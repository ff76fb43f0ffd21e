//! The kernel's bytes in memory: copied, zero-filled, relocated.
//!
//! A static position-independent executable needs one relocation only: add the slide to an address
//! (`R_X86_64_RELATIVE`). Whatever else a file asks for is refused.

use elf::abi;
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
        let (mut start, mut length) = (0, 0);
        for entry in self.elf().dynamic()?.into_iter().flat_map(|table| table.iter()) {
            match entry.d_tag {
                abi::DT_NULL => break,
                abi::DT_RELA => start = entry.d_ptr(),
                abi::DT_RELASZ => length = entry.d_val(),
                abi::DT_RELAENT if entry.d_val() != RELA_SIZE => return Err(ImageError::Malformed),
                tag @ (abi::DT_REL | abi::DT_JMPREL | DT_RELR) => {
                    return Err(ImageError::UnsupportedRelocationTable(tag));
                }
                _ => {}
            }
        }
        if length == 0 {
            return Ok(&[]);
        }
        let table = self.segments().iter().find_map(|segment| {
            let offset = usize::try_from(start.checked_sub(segment.start.0)?).ok()?;
            segment.data.get(offset..)?.get(..usize::try_from(length).ok()?)
        });
        table.ok_or(ImageError::BadRelocation(LinkAddress(start)))
    }
}
