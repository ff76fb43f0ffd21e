//! What a PVH loader hands to its guest: `hvm_start_info` and the tables that it names.
//!
//! Decodes bytes; where they come from is the binary's business. All fields are little-endian.
//!
//! Source: Xen, `public/arch-x86/hvm/start_info.h`.

use x86_64::PhysAddr;

use crate::error::Error;

const MAGIC: u32 = 0x336e_c578;

/// A run of physical memory that the start info names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its first byte.
    pub start: PhysAddr,
    /// Its length in bytes.
    pub length: u64,
}

impl Extent {
    fn new(start: u64, length: u64) -> Result<Self, Error> {
        let start = PhysAddr::try_new(start).map_err(|_| Error::StartInfo("an address is beyond physical memory"))?;
        Ok(Self { start, length })
    }
}

/// The head structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartInfo {
    /// The table of modules, [`Module::SIZE`] bytes each; `None` without modules.
    pub modules: Option<Extent>,
    /// The memory map, [`MemoryMapEntry::SIZE`] bytes an entry.
    pub memory_map: Extent,
    /// The ACPI root pointer, if the loader knows it.
    pub rsdp: Option<PhysAddr>,
}

impl StartInfo {
    /// Bytes to read at the address that the loader passes in `ebx`.
    pub const SIZE: u64 = 56;

    /// Decodes the structure.
    ///
    /// # Errors
    /// [`Error::StartInfo`] without the magic number or a memory map.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let fields = Fields(bytes);
        if fields.u32(0)? != MAGIC {
            return Err(Error::StartInfo("bad magic number: not started through PVH"));
        }
        if fields.u32(4)? < 1 {
            return Err(Error::StartInfo("version 0 has no memory map"));
        }
        let modules = match fields.u32(12)? {
            0 => None,
            count => Some(Extent::new(fields.u64(16)?, u64::from(count) * Module::SIZE)?),
        };
        let memory_map = Extent::new(fields.u64(40)?, u64::from(fields.u32(48)?) * MemoryMapEntry::SIZE)?;
        if memory_map.length == 0 {
            return Err(Error::StartInfo("the memory map is empty"));
        }
        let rsdp = PhysAddr::try_new(fields.u64(32)?).ok().filter(|address| !address.is_null());
        Ok(Self { modules, memory_map, rsdp })
    }
}

/// A file that was loaded beside the loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module(pub Extent);

impl Module {
    /// Bytes of one entry.
    pub const SIZE: u64 = 32;

    /// Decodes one entry.
    ///
    /// # Errors
    /// [`Error::StartInfo`] if it is cut off or its address impossible.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let fields = Fields(bytes);
        Ok(Self(Extent::new(fields.u64(0)?, fields.u64(8)?)?))
    }
}

/// A line of the memory map, as the firmware says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// The first byte's address.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// The E820 type: 1 is RAM.
    pub kind: u32,
}

impl MemoryMapEntry {
    /// Bytes of one entry.
    pub const SIZE: u64 = 24;

    /// Decodes a whole table.
    pub fn parse_all(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.chunks_exact(24).filter_map(|entry| {
            let fields = Fields(entry);
            Some(Self { start: fields.u64(0).ok()?, length: fields.u64(8).ok()?, kind: fields.u32(16).ok()? })
        })
    }
}

struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Result<[u8; N], Error> {
        let rest = self.0.get(offset..).and_then(|rest| rest.first_chunk());
        rest.copied().ok_or(Error::StartInfo("a structure is cut off"))
    }

    fn u32(&self, offset: usize) -> Result<u32, Error> {
        self.bytes(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Result<u64, Error> {
        self.bytes(offset).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_info(magic: u32, version: u32, modules: u32, entries: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [magic, version, 0, modules] {
            bytes.extend(word.to_le_bytes());
        }
        for address in [0x7000_u64, 0x8000, 0xf_5a20, 0x9000] {
            bytes.extend(address.to_le_bytes());
        }
        bytes.extend(entries.to_le_bytes());
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn every_field_is_found() {
        let info = StartInfo::parse(&start_info(MAGIC, 1, 2, 7)).unwrap();
        assert_eq!(info.modules, Some(Extent { start: PhysAddr::new(0x7000), length: 64 }));
        assert_eq!(info.memory_map, Extent { start: PhysAddr::new(0x9000), length: 168 });
        assert_eq!(info.rsdp, Some(PhysAddr::new(0xf_5a20)));
    }

    #[test]
    fn a_stranger_a_version_without_a_map_an_empty_map_and_a_cut_are_refused() {
        for bytes in [start_info(1, 1, 0, 1), start_info(MAGIC, 0, 0, 1), start_info(MAGIC, 1, 0, 0)] {
            assert!(matches!(StartInfo::parse(&bytes), Err(Error::StartInfo(_))));
        }
        let whole = start_info(MAGIC, 1, 1, 1);
        for length in 0..52 {
            assert!(StartInfo::parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_memory_map_keeps_order_and_types() {
        let mut bytes = Vec::new();
        for (start, length, kind) in [(0x10_0000_u64, 0xf0_0000_u64, 1_u32), (0, 0x9_fc00, 1), (u64::MAX, 1, 2)] {
            bytes.extend(start.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(u64::from(kind).to_le_bytes());
        }
        let entries: Vec<_> = MemoryMapEntry::parse_all(&bytes).map(|entry| (entry.start, entry.kind)).collect();
        assert_eq!(entries, [(0x10_0000, 1), (0, 1), (u64::MAX, 2)]);
    }
}
