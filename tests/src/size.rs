//! Sizes and addresses as people and the kernel's command line write them: `64M`, `0x1000`, `8G`.

use std::fmt;
use std::str::FromStr;

/// An amount of memory, or a physical address, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

const SUFFIXES: [(char, u32); 3] = [('G', 30), ('M', 20), ('K', 10)];

impl Size {
    /// So many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Size {
        Size(bytes)
    }

    /// So many times 2^20 bytes.
    #[must_use]
    pub const fn mib(mib: u32) -> Size {
        Size((mib as u64) << 20)
    }

    /// So many times 2^30 bytes.
    #[must_use]
    pub const fn gib(gib: u32) -> Size {
        Size((gib as u64) << 30)
    }

    /// How many bytes.
    #[must_use]
    pub const fn in_bytes(self) -> u64 {
        self.0
    }
}

/// Writes the largest suffix that loses nothing.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (suffix, shift) in SUFFIXES {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Size, anyhow::Error> {
        let shift = |suffix| SUFFIXES.iter().find(|(letter, _)| *letter == suffix).map(|(_, shift)| *shift);
        let (digits, shift) = match text.chars().last().and_then(|last| shift(last.to_ascii_uppercase())) {
            Some(shift) => (&text[..text.len() - 1], shift),
            None => (text, 0),
        };
        let number = match digits.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        number
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .map(Size)
            .ok_or_else(|| anyhow::anyhow!("'{text}' is no size: write it like 4096, 64M, 8G or 0x1000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_reads_back_as_it_was_written() {
        for text in ["0", "1", "4095", "4K", "4097", "64M", "8G", "1025M", "17179869183G"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        assert_eq!("0x1000".parse::<Size>().unwrap(), Size::bytes(4096));
        assert_eq!("0x10m".parse::<Size>().unwrap(), Size::mib(16));
        assert_eq!("1024M".parse::<Size>().unwrap(), Size::gib(1));
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_text() {
        for text in ["", "M", "0x", "-1", "1.5G", "64MB", "17179869184G", "0xfffffffffffffffff", "８G", "é"] {
            let error = text.parse::<Size>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }
}
