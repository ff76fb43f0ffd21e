//! What somebody must know who has nothing but an image of the machine's memory, and looks for the allocator in it: where it
//! stands, and how its structures are laid out. Linux's `vmcoreinfo`.
//!
//! ```text
//!   magic (16 bytes) | length of the text | its checksum | text: lines "name=hexadecimal number"
//!
//!   Zone=1e08      a type: its size       Zone.free=2c    a field of it: how far from its start
//!   zones=ffff…    a place: its address   zones.count=2   any other number
//! ```
//!
//! A note begins a page, so that it is found by a look at the first bytes of each; the checksum tells it from what is left of
//! one. Each structure is described beside its declaration, by `layout!`: a field that goes takes its line with it, and who
//! reads an image says what it lacks.
//!
//! Cost: nothing but the note, which is written once.

use core::fmt::{self, Write};

/// How a note begins.
pub const MAGIC: [u8; 16] = *b"two-word page 1\n";

/// Bytes of text that a note has room for.
const ROOM: usize = 2 * crate::units::PAGE_SIZE - 32;

/// Says where the allocator's structures are and how they are laid out.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Note {
    magic: [u8; 16],
    len: u64,
    checksum: u64,
    text: [u8; ROOM],
}

const _: () = assert!(size_of::<Note>() == 2 * crate::units::PAGE_SIZE);

/// A note has no room for all that there is to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the note for whoever reads an image of memory has no room for all that there is to say")]
pub struct NoteFull;

impl Note {
    /// One that says nothing yet.
    pub const fn new() -> Self {
        Self { magic: MAGIC, len: 0, checksum: EMPTY, text: [0; ROOM] }
    }

    /// Says one number more.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn number(&mut self, name: impl fmt::Display, number: u64) -> Result<(), NoteFull> {
        writeln!(self, "{name}={number:x}").map_err(|_| NoteFull)
    }

    /// Says where something stands, or how far from something else, or how large it is.
    pub(crate) fn place(&mut self, name: impl fmt::Display, place: usize) -> Result<(), NoteFull> {
        self.number(name, place as u64)
    }

    /// All that it says.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn text(&self) -> &str {
        let len = usize::try_from(self.len).expect("it is no longer than the room");
        core::str::from_utf8(&self.text[..len]).expect("texts were written")
    }
}

impl Default for Note {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Note {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = usize::try_from(self.len).ok().and_then(|len| self.text.get_mut(len..)).ok_or(fmt::Error)?;
        rest.get_mut(..text.len()).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len += text.len() as u64;
        self.checksum = text.bytes().fold(self.checksum, checksum);
        Ok(())
    }
}

/// The checksum of no text.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// The checksum with one byte more: FNV-1a.
const fn checksum(so_far: u64, byte: u8) -> u64 {
    (so_far ^ byte as u64).wrapping_mul(0x0100_0000_01b3)
}

/// Describes a type: its size, and where the named fields are.
macro_rules! layout {
    ($note:expr, $type:ty as $name:literal: $($($field:ident).+),+ $(,)?) => {{
        $note.place($name, size_of::<$type>())?;
        $($note.place(concat!($name, ".", stringify!($($field).+)), core::mem::offset_of!($type, $($field).+))?;)+
        Ok::<(), $crate::image::NoteFull>(())
    }};
}
pub(crate) use layout;

/// How far from the start of a value a part of it stands.
pub(crate) fn distance<T, P>(whole: &T, part: *const P) -> usize {
    part.addr().wrapping_sub(core::ptr::from_ref(whole).addr())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Pair {
        first: u8,
        second: Second,
    }

    struct Second {
        large: u64,
        small: u32,
    }

    #[test]
    fn a_note_says_sizes_and_places_one_a_line_and_its_checksum_is_that_of_all() -> Result<(), NoteFull> {
        let mut note = Note::new();
        layout!(note, Pair as "Pair": first, second.small)?;
        note.number("zones", 0xffff_8000_0000_1000)?;
        let pair = Pair { first: 1, second: Second { large: 2, small: 3 } };
        let first = distance(&pair, &raw const pair.first);
        let small = distance(&pair, &raw const pair.second.small);
        let text = std::format!("Pair=18\nPair.first={first:x}\nPair.second.small={small:x}\nzones=ffff800000001000\n");
        assert_eq!((note.len, &note.text[..text.len()]), (text.len() as u64, text.as_bytes()));
        assert_eq!(note.checksum, text.bytes().fold(EMPTY, checksum));
        assert_eq!((pair.first, pair.second.large), (1, 2));
        Ok(())
    }

    #[test]
    fn a_note_that_is_full_says_so_and_is_still_whole() {
        let mut note = Note::new();
        let lines = (0..).take_while(|&line| note.number("a_number_of_many", line).is_ok()).count();
        assert!(lines > 300 && ROOM - 40 < usize::try_from(note.len).expect("it is small"), "{lines}");
        let text = &note.text[..usize::try_from(note.len).expect("it is small")];
        assert_eq!(note.checksum, text.iter().copied().fold(EMPTY, checksum));
    }
}
