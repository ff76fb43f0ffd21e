//! The directory of QEMU's firmware configuration device: which file has which name.
//!
//! Source: QEMU, `docs/specs/fw_cfg`, "Firmware Configuration Items".

/// Bytes of one directory entry.
pub const ENTRY_SIZE: usize = 64;

/// What a select of the device names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selector(pub u16);

/// A file of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What to select to read it.
    pub selector: Selector,
    /// Bytes in it.
    pub size: u32,
}

/// Decodes one directory entry, and gives it if `name` is its name.
pub fn decode(entry: &[u8; ENTRY_SIZE], name: &str) -> Option<Entry> {
    let [s0, s1, s2, s3, k0, k1, _, _, label @ ..] = entry;
    let label = label.split(|&byte| byte == 0).next()?;
    (label == name.as_bytes()).then(|| Entry {
        selector: Selector(u16::from_be_bytes([*k0, *k1])),
        size: u32::from_be_bytes([*s0, *s1, *s2, *s3]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8]) -> [u8; ENTRY_SIZE] {
        let mut entry = [0; ENTRY_SIZE];
        entry[..6].copy_from_slice(&[0, 1, 2, 3, 0x12, 0x34]);
        entry[8..8 + name.len()].copy_from_slice(name);
        entry
    }

    #[test]
    fn an_entry_is_found_by_its_whole_name_only() {
        let file = entry(b"opt/mm/cmdline");
        assert_eq!(decode(&file, "opt/mm/cmdline"), Some(Entry { selector: Selector(0x1234), size: 0x10203 }));
        assert_eq!(decode(&file, "opt/mm/cmd"), None);
        assert_eq!(decode(&file, "opt/mm/cmdline2"), None);
    }

    #[test]
    fn a_name_that_fills_its_field_needs_no_terminator() {
        let name = [b'x'; 56];
        assert!(decode(&entry(&name), core::str::from_utf8(&name).unwrap()).is_some());
    }
}
