//! Where in an ELF core file which memory is. QEMU's `dump-guest-memory` writes one segment for each piece of memory, so that
//! the hole below 4 GiB takes no place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::NotAnImage;

/// A piece of memory in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Its first physical address.
    pub(super) start: u64,
    pub(super) len: u64,
    /// Where in the file it stands.
    pub(super) offset: u64,
}

/// Headers that a file may have; QEMU writes a handful.
const MOST: u16 = 4096;

/// Reads the headers of a core file. What reaches past the end of the file is not there.
pub(super) fn segments(file: &File) -> Result<Vec<Segment>, NotAnImage> {
    const LOAD: u32 = 1;
    let size = file.metadata()?.len();
    let mut header = [0; 64];
    read(file, &mut header, 0, "it ends within its header")?;
    // A machine that has not got far is still one of 32 bits.
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    if header[..6] != *b"\x7fELF\x02\x01" || half(16) != 4 || ![3, 62].contains(&half(18)) {
        return Err(NotAnImage::NoCore("its first bytes are another kind of file's"));
    }
    let (entry_size, count) = (half(54), half(56));
    if entry_size != 56 || count > MOST {
        return Err(NotAnImage::NoCore("its program headers are of no known size"));
    }
    let table = u64::from_le_bytes(word(&header, 32));
    let mut segments = Vec::new();
    for index in 0..u64::from(count) {
        let mut entry = [0; 56];
        let at = table.checked_add(56 * index).ok_or(NotAnImage::NoCore("its program headers are nowhere"))?;
        read(file, &mut entry, at, "it ends within its program headers")?;
        if u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) != LOAD {
            continue;
        }
        let [offset, start, len] = [8, 24, 32].map(|at| u64::from_le_bytes(word(&entry, at)));
        let len = len.min(size.saturating_sub(offset)).min(u64::MAX - start);
        if len > 0 {
            segments.push(Segment { start, len, offset });
        }
    }
    if segments.is_empty() {
        return Err(NotAnImage::NoCore("there is no memory in it"));
    }
    segments.sort_by_key(|segment| segment.start);
    Ok(segments)
}

fn word(bytes: &[u8], at: usize) -> [u8; 8] {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    word
}

fn read(file: &File, bytes: &mut [u8], at: u64, short: &'static str) -> Result<(), NotAnImage> {
    file.read_exact_at(bytes, at).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => NotAnImage::NoCore(short),
        _ => error.into(),
    })
}
