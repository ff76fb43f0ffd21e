//! An image whose structures are read by name, at addresses as the kernel used them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use super::NotAnImage;
use super::memory::{Memory, PAGE, PAGE_BYTES, Physical};
use super::note::Note;

/// An image of the machine's memory, in which a kernel has left its note.
#[derive(Debug)]
pub struct Image {
    memory: Memory,
    note: Note,
    root: Physical,
    /// Pages that were translated.
    known: RefCell<HashMap<u64, u64>>,
}

/// A word that was replaced by another.
#[derive(Debug)]
#[must_use = "nobody else knows what was there"]
pub struct Replaced {
    place: Physical,
    before: [u8; 8],
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The note does not say this.
    Unsaid(String),
    /// There is no memory at this address.
    Nowhere(u64),
}

/// A structure in the image, which is read by what the note says of its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'i> {
    pub(super) image: &'i Image,
    pub(super) address: u64,
}

impl Image {
    /// Opens a core file.
    ///
    /// # Errors
    /// It is none, or no kernel has left its note.
    pub fn open(path: &Path) -> Result<Image, NotAnImage> {
        let memory = Memory::open(File::open(path)?)?;
        let note = Note::find(&memory)?;
        let root = note.get("kernel_root").ok_or_else(|| NotAnImage::Unsaid("kernel_root".into()))?;
        let root = root.checked_mul(PAGE).ok_or_else(|| NotAnImage::Unsaid("kernel_root".into()))?;
        Ok(Image { memory, note, root: Physical(root), known: RefCell::default() })
    }

    /// What the note says by a name: a place, a distance, a count.
    pub(super) fn said(&self, name: &str) -> Result<u64, Fault> {
        self.note.get(name).ok_or_else(|| Fault::Unsaid(name.to_owned()))
    }

    /// The structure at the address that the note gives a name.
    pub(super) fn place(&self, name: &str) -> Result<At<'_>, Fault> {
        Ok(At { image: self, address: self.said(name)? })
    }

    pub(super) fn at(&self, address: u64) -> At<'_> {
        At { image: self, address }
    }

    /// Where an address of the kernel's leads.
    pub(super) fn translate(&self, address: u64) -> Option<Physical> {
        const TARGET: u64 = 0x000f_ffff_ffff_f000;
        let page = address & !(PAGE - 1);
        if let Some(known) = self.known.borrow().get(&page) {
            return Some(Physical(known + address % PAGE));
        }
        // Canonical: the upper bits are the sign of the rest.
        if (address.cast_signed() << 16 >> 16).cast_unsigned() != address {
            return None;
        }
        let mut table = self.root.0;
        for level in (1..=4).rev() {
            let shift = 12 + 9 * (level - 1);
            let entry = self.physical_u64(Physical(table + (address >> shift) % 512 * 8))?;
            if entry & 1 == 0 {
                return None;
            }
            if level == 1 || (level < 4 && entry & 0x80 != 0) {
                let inside = (1 << shift) - 1;
                let found = (entry & TARGET & !inside) | (page & inside);
                self.known.borrow_mut().insert(page, found);
                return Some(Physical(found + address % PAGE));
            }
            table = entry & TARGET;
        }
        None
    }

    /// The word at a physical address.
    pub(super) fn physical_u64(&self, at: Physical) -> Option<u64> {
        self.memory.read(at).map(u64::from_le_bytes)
    }

    /// A page of memory.
    pub(super) fn page(&self, frame: u64) -> Option<[u8; PAGE_BYTES]> {
        self.memory.read(Physical(frame.checked_mul(PAGE)?))
    }

    fn bytes<const N: usize>(&self, address: u64) -> Result<[u8; N], Fault> {
        let read = || {
            // What the allocator writes crosses no page.
            (address % PAGE + N as u64 <= PAGE).then_some(())?;
            self.memory.read(self.translate(address)?)
        };
        read().ok_or(Fault::Nowhere(address))
    }

    /// Puts a word into the image, as it is looked at from now on; `None` if there is no memory.
    pub fn replace(&self, address: u64, word: u64) -> Option<Replaced> {
        let place = self.translate(address)?;
        let before = self.memory.read(place)?;
        self.memory.write(place, &word.to_le_bytes())?;
        self.known.borrow_mut().clear();
        Some(Replaced { place, before })
    }

    /// Puts back what was there, wherever the address leads by now.
    pub fn restore(&self, Replaced { place, before }: &Replaced) {
        // It was there when it was replaced.
        let _ = self.memory.write(*place, before);
        self.known.borrow_mut().clear();
    }
}

impl<'i> At<'i> {
    /// The part that is so many bytes behind.
    pub(super) fn plus(self, bytes: u64) -> At<'i> {
        At { address: self.address.wrapping_add(bytes), ..self }
    }

    /// The field that the note has under this name.
    pub(super) fn field(self, name: &str) -> Result<At<'i>, Fault> {
        Ok(self.plus(self.image.said(name)?))
    }

    /// The element of a row of structures of a type that begins here.
    pub(super) fn element(self, index: u64, of: &str) -> Result<At<'i>, Fault> {
        Ok(self.plus(index.wrapping_mul(self.image.said(of)?)))
    }

    /// What stands where the pointer here leads.
    pub(super) fn target(self) -> Result<At<'i>, Fault> {
        Ok(At { address: self.u64()?, ..self })
    }

    /// The whole page around this.
    pub(super) fn page(self) -> Result<[u8; PAGE_BYTES], Fault> {
        self.image.bytes(self.address & !(PAGE - 1)).map_err(|_| Fault::Nowhere(self.address))
    }

    pub(super) fn u64(self) -> Result<u64, Fault> {
        self.image.bytes(self.address).map(u64::from_le_bytes)
    }

    pub(super) fn u32(self) -> Result<u32, Fault> {
        self.image.bytes(self.address).map(u32::from_le_bytes)
    }

    pub(super) fn u16(self) -> Result<u16, Fault> {
        self.image.bytes(self.address).map(u16::from_le_bytes)
    }

    pub(super) fn u8(self) -> Result<u8, Fault> {
        self.image.bytes::<1>(self.address).map(|[byte]| byte)
    }

    /// Whether the lock whose byte this is was held.
    pub(super) fn is_held(self) -> Result<bool, Fault> {
        Ok(self.u8()? != 0)
    }
}
