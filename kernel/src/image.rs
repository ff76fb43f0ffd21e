//! The kernel's own image, as its ELF header describes it: the linker puts the header into the first segment.

use core::ops::{Deref, Range};
use core::sync::atomic::{AtomicU64, Ordering};

use mm::units::PAGE_SIZE;
use xmas_elf::ElfFile;
use xmas_elf::program::Type;

// SAFETY: the linker defines both where it lays out the image, whose first page is always there.
unsafe extern "C" {
    /// The ELF header; defined by the linker.
    static __ehdr_start: [u8; PAGE_SIZE];
    /// One past the last byte of the image; defined by the linker.
    static _end: u8;
}

/// A variable that nobody writes once the kernel is up. It fills whole pages, which can be protected apart.
#[derive(Debug)]
#[repr(align(4096))]
pub(crate) struct ReadOnlyAfterInit<T>(pub(crate) T);

impl<T> Deref for ReadOnlyAfterInit<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Declares such a variable.
macro_rules! ro_after_init {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;) => {
        $(#[$attribute])*
        // SAFETY: the section is one of variables, which the linker surrounds by the symbols that tell where it is.
        #[unsafe(link_section = "ro_after_init")]
        // Of one that it thinks it knows all uses of, the optimizer keeps what is used, and not the rest of the page.
        #[used]
        static $name: $crate::image::ReadOnlyAfterInit<$type> = $crate::image::ReadOnlyAfterInit($value);
    };
}

pub(crate) use ro_after_init;

// SAFETY: the linker defines both where it lays out the section.
unsafe extern "C" {
    /// The first byte of what is declared by [`ro_after_init`]; defined by the linker.
    static __start_ro_after_init: u8;
    /// One past the last; defined by the linker.
    static __stop_ro_after_init: u8;
}

/// The pages of all variables that nobody writes once the kernel is up.
///
/// # Panics
/// Their section does not begin and end with a page, so that others stand there too.
pub(crate) fn read_only_after_init() -> Range<u64> {
    let (start, end) = ((&raw const __start_ro_after_init).addr(), (&raw const __stop_ro_after_init).addr());
    assert!(start % PAGE_SIZE == 0 && end % PAGE_SIZE == 0, "what is read-only shares a page: {start:#x} to {end:#x}");
    start as u64..end as u64
}

ro_after_init! {
    static SLIDE: AtomicU64 = AtomicU64::new(0);
}

/// Says how far the loader has moved the image from where it is linked.
pub(crate) fn set_slide(bytes: u64) {
    SLIDE.store(bytes, Ordering::Relaxed);
}

/// Where `address` is in the ELF file as linked; `None` outside the image.
pub(crate) fn as_linked(address: u64) -> Option<u64> {
    let (start, end) = ((&raw const __ehdr_start).addr() as u64, (&raw const _end).addr() as u64);
    (start..end).contains(&address).then(|| address.wrapping_sub(SLIDE.load(Ordering::Relaxed)))
}

/// Pages of the image that are mapped alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// The first page's address.
    pub(crate) start: u64,
    /// One past the last page.
    pub(crate) end: u64,
    /// What may be done there.
    pub(crate) protection: Protection,
}

/// What may be done with a page of the image: never both writing and executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// Constants, and what only relocation wrote.
    Read,
    /// Variables.
    ReadWrite,
    /// Code.
    ReadExecute,
}

/// The loaded segments, and the part of them that is read-only once relocated.
#[derive(Debug)]
pub(crate) struct Segments {
    elf: ElfFile<'static>,
    relocated: Option<(u64, u64)>,
}

impl Segments {
    /// Reads the image's own header.
    ///
    /// # Errors
    /// Says what is wrong with the header.
    pub(crate) fn of_kernel() -> Result<Self, &'static str> {
        // SAFETY: the linker begins the first loaded segment, which is never written, with the header, and a
        // segment's memory ends at a page.
        let elf = ElfFile::new(unsafe { &__ehdr_start })?;
        let relocated = elf.program_iter().find(|header| header.get_type() == Ok(Type::GnuRelro));
        let relocated = relocated.map(|header| (header.virtual_addr(), header.virtual_addr() + header.mem_size()));
        Ok(Self { elf, relocated })
    }

    /// Bytes of the ELF file up to the end of the last part that is loaded; symbols and debug information lie behind.
    pub(crate) fn loaded_file_len(&self) -> u64 {
        let loaded = self.elf.program_iter().filter(|header| header.get_type() == Ok(Type::Load));
        loaded.map(|header| header.offset().saturating_add(header.file_size())).fold(0, Ord::max)
    }

    /// Each segment in the order of addresses; what relocation alone writes is split off as read-only.
    ///
    /// # Errors
    /// A segment that is both writable and executable is none of ours.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<Segment, &'static str>> {
        self.elf
            .program_iter()
            .filter(|header| header.get_type() == Ok(Type::Load))
            .flat_map(|header| {
                let protection = match (header.flags().is_write(), header.flags().is_execute()) {
                    (true, true) => return [Some(Err("a segment is writable and executable")), None],
                    (true, false) => Protection::ReadWrite,
                    (false, true) => Protection::ReadExecute,
                    (false, false) => Protection::Read,
                };
                let (start, end) = (header.virtual_addr(), header.virtual_addr() + header.mem_size());
                match self.relocated {
                    Some((from, to)) if from == start && to.is_multiple_of(PAGE_SIZE as u64) => [
                        Some(Ok(Segment::slid(from, to.min(end), Protection::Read))),
                        (to < end).then(|| Ok(Segment::slid(to, end, protection))),
                    ],
                    _ => [Some(Ok(Segment::slid(start, end, protection))), None],
                }
            })
            .flatten()
    }
}

impl Segment {
    fn slid(start: u64, end: u64, protection: Protection) -> Self {
        let slide = SLIDE.load(Ordering::Relaxed);
        let mask = PAGE_SIZE as u64 - 1;
        Self { start: start.wrapping_add(slide) & !mask, end: (end.wrapping_add(slide) + mask) & !mask, protection }
    }
}
