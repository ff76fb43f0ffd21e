//! Small ELF files for the tests, byte by byte.

use bootloader_api::BootloaderConfig;

pub(crate) const R: u32 = 4;
pub(crate) const RX: u32 = 5;
pub(crate) const RW: u32 = 6;

/// A program header.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) address: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
    pub(crate) align: u64,
}

/// A `PT_LOAD` header whose bytes lie in the file where they lie in memory, relative to `base`.
pub(crate) fn load(base: u64, start: u64, end: u64, flags: u32) -> Header {
    let (offset, size) = (start - base, end - start);
    Header { kind: 1, flags, offset, address: start, file_size: size, memory_size: size, align: 0x1000 }
}

/// A file to be.
pub(crate) struct TestElf {
    pub(crate) kind: u16,
    pub(crate) entry: u64,
    pub(crate) headers: Vec<Header>,
    pub(crate) content: Vec<(usize, Vec<u64>)>,
    pub(crate) config: BootloaderConfig,
}

/// Length of the bytes that headers may name.
const BODY: usize = 0x6000;

impl TestElf {
    /// A position-independent kernel as linkers make it: read-only, code, relocated and plain data with zeros behind;
    /// one relocation at 0x3010, to 0x1234.
    pub(crate) fn kernel() -> Self {
        let data = Header { memory_size: 0x1800, ..load(0, 0x4080, 0x4800, RW) };
        let relro = Header { kind: 0x6474_e552, memory_size: 0x4000 - 0x3010, ..load(0, 0x3010, 0x3800, R) };
        let dynamic = Header { kind: 2, ..load(0, 0x800, 0x840, RW) };
        let headers =
            vec![load(0, 0, 0x1000, R), load(0, 0x1200, 0x2e00, RX), load(0, 0x3010, 0x3800, RW), data, relro, dynamic];
        let dynamic = vec![7, 0xa00, 8, 24, 9, 24, 0, 0];
        let relocations = vec![0x3010, 8, 0x1234];
        let content = vec![(0x800, dynamic), (0xa00, relocations), (0x4080, vec![0xdada_dada_dada_dada])];
        Self { kind: 3, entry: 0x1200, headers, content, config: BootloaderConfig::new_default() }
    }

    /// A kernel that is linked at `base`.
    pub(crate) fn fixed(base: u64) -> Self {
        let headers = vec![load(base, base, base + 0x1000, R), load(base, base + 0x1200, base + 0x2e00, RX)];
        Self { kind: 2, entry: base + 0x1200, headers, content: Vec::new(), config: BootloaderConfig::new_default() }
    }

    /// The file: headers, body, configuration, section names, section headers.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; BODY];
        for (index, header) in self.headers.iter().enumerate() {
            let at = 64 + 56 * index;
            file[at..at + 4].copy_from_slice(&header.kind.to_le_bytes());
            file[at + 4..at + 8].copy_from_slice(&header.flags.to_le_bytes());
            let Header { offset, address, file_size, memory_size, align, .. } = *header;
            put(&mut file, at + 8, &[offset, address, address, file_size, memory_size, align]);
        }
        for (at, words) in &self.content {
            put(&mut file, *at, words);
        }
        let config = file.len() as u64;
        file.extend(self.config.serialize());
        let names = file.len() as u64;
        file.extend(b"\0.bootloader-config\0");
        file.resize(file.len().next_multiple_of(8), 0);
        let sections = file.len() as u64;
        // Words of two halves: name and type, link and info.
        let size = BootloaderConfig::SERIALIZED_LEN as u64;
        let string_table = [3 << 32, 0, 0, names, 20, 0, 1, 0];
        for section in [[0; 8], [1 | 1 << 32, 2, 0, config, size, 0, 1, 0], string_table] {
            file.extend(section.iter().flat_map(|word| word.to_le_bytes()));
        }
        file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(&mut file, 16, &[u64::from(self.kind) | 62 << 16 | 1 << 32, self.entry, 64, sections]);
        let count = self.headers.len() as u64;
        put(&mut file, 48, &[64 << 32 | 56 << 48, count | 64 << 16 | 3 << 32 | 2 << 48]);
        file
    }
}

fn put(file: &mut [u8], at: usize, words: &[u64]) {
    for (index, word) in words.iter().enumerate() {
        file[at + 8 * index..][..8].copy_from_slice(&word.to_le_bytes());
    }
}
