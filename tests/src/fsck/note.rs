//! The note that the kernel has left for who reads an image: names and numbers (`mm::image`).

use std::collections::HashMap;

use super::NotAnImage;
use super::memory::{Memory, Physical};

/// How a note begins.
const MAGIC: [u8; 16] = *b"two-word page 1\n";
/// What a note has room for.
const ROOM: u64 = 2 * 4096 - 32;

/// Where things are, and how they are laid out.
#[derive(Debug)]
pub(super) struct Note(HashMap<String, u64>);

impl Note {
    /// Looks at the first bytes of each page, until there is a whole note.
    pub(super) fn find(memory: &Memory) -> Result<Note, NotAnImage> {
        let begins = memory.page_starts().filter(|(_, start)| *start == MAGIC);
        begins.map(|(place, _)| place).find_map(|place| Note::at(memory, place)).ok_or(NotAnImage::NoNote)
    }

    fn at(memory: &Memory, Physical(place): Physical) -> Option<Note> {
        let word = |behind| Some(u64::from_le_bytes(memory.read(Physical(place + behind))?));
        let (len, checksum) = (word(16)?, word(24)?);
        let bytes = (0..len.min(ROOM)).map(|byte| Some(memory.read::<1>(Physical(place + 32 + byte))?[0]));
        let bytes = bytes.collect::<Option<Vec<u8>>>()?;
        let fnv = |so_far: u64, byte: &u8| (so_far ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        if len > ROOM || bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv) != checksum {
            return None;
        }
        let text = String::from_utf8(bytes).ok()?;
        let line = |line: &str| {
            let (name, number) = line.split_once('=')?;
            Some((name.to_owned(), u64::from_str_radix(number, 16).ok()?))
        };
        text.lines().map(line).collect::<Option<_>>().map(Note)
    }

    /// What the note says by this name.
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }
}
