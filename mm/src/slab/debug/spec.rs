//! Which caches are debugged, and how: the text of Linux's `slub_debug`.
//!
//! ```text
//!   FLAGS[,CACHE...][;FLAGS[,CACHE...]]...
//! ```
//!
//! The first block that names a cache decides; a block without names decides for those that none names. A name may end
//! in `*`. No flags, where some may stand, are all that are usual; `-` is none.
//! Source: Linux, `Documentation/mm/slub.rst`.

use arrayvec::ArrayString;
use bitflags::bitflags;
use thiserror::Error;

bitflags! {
    /// How a cache is debugged.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct DebugFlags: u8 {
        /// `F`: a word in each object says what the slab's bitmap says.
        const CONSISTENCY = 1;
        /// `Z`: bytes on either side of an object that nobody may write.
        const RED_ZONE = 1 << 1;
        /// `P`: free objects, and what is between objects, are filled with bytes that nobody may change.
        const POISON = 1 << 2;
        /// `U`: who allocated an object and who freed it.
        const USER = 1 << 3;
        /// `T`: the machine is told of every object that is allocated or freed.
        const TRACE = 1 << 4;
    }
}

impl DebugFlags {
    /// Those that are meant where none are given: `FZPU`.
    pub const USUAL: Self = Self::CONSISTENCY.union(Self::RED_ZONE).union(Self::POISON).union(Self::USER);

    /// Those that make objects take more room.
    pub(super) const LARGER: Self = Self::RED_ZONE.union(Self::POISON).union(Self::USER);
}

/// What slabs may become so that their objects can be debugged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::slab) enum Growth {
    /// Larger.
    Allowed,
    /// `O`: no larger than without; rather less is checked.
    Refused,
}

/// What a cache is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::slab) struct Wanted {
    pub(in crate::slab) flags: DebugFlags,
    pub(in crate::slab) growth: Growth,
}

impl Wanted {
    /// What is left of the flags if slabs may not become larger.
    pub(in crate::slab) const fn in_place(self) -> DebugFlags {
        self.flags.difference(DebugFlags::LARGER)
    }
}

/// Why a text says of no cache how it is debugged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SlabDebugError {
    /// No flag has this letter.
    #[error("no flag has the letter {0:?}")]
    NoSuchFlag(char),
    /// The text is too long to be kept.
    #[error("longer than {MOST} bytes")]
    TooLong,
}

/// Bytes of a text that can be kept.
const MOST: usize = 256;

/// Which caches are debugged, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlabDebug {
    text: ArrayString<MOST>,
}

impl SlabDebug {
    /// No cache is, but those made to be.
    pub const NONE: Self = {
        let text = ArrayString::new_const();
        Self { text }
    };

    /// Reads what stands behind `slub_debug=`, or nothing where the word stands alone.
    ///
    /// # Errors
    /// There is no such flag, or too much text.
    pub fn parse(text: &str) -> Result<Self, SlabDebugError> {
        // Linux, too, takes no text at all for all caches and all that is usual.
        let text = if text.is_empty() { "FZPU" } else { text };
        let kept = ArrayString::from(text).map_err(|_| SlabDebugError::TooLong)?;
        text.split(';').try_for_each(|block| wanted(block).map(drop))?;
        Ok(Self { text: kept })
    }

    /// What a cache of this name is to be.
    pub(in crate::slab) fn wanted(&self, cache: &str) -> Wanted {
        let blocks = || self.text.split(';').filter(|block| !block.is_empty());
        let names = |block: &&str| block.split(',').skip(1).any(|pattern| matches(pattern, cache));
        let all = |block: &&str| !block.contains(',');
        let block = blocks().find(names).or_else(|| blocks().find(all));
        // The text was read once without an error.
        block.and_then(|block| wanted(block).ok()).unwrap_or(NOT_DEBUGGED)
    }
}

const NOT_DEBUGGED: Wanted = Wanted { flags: DebugFlags::empty(), growth: Growth::Allowed };

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, _)) => name.starts_with(start),
        None => name == pattern,
    }
}

/// The flags of a block.
fn wanted(block: &str) -> Result<Wanted, SlabDebugError> {
    let letters = block.split(',').next().unwrap_or_default();
    let mut wanted = NOT_DEBUGGED;
    if letters.is_empty() && block.contains(',') {
        wanted.flags = DebugFlags::USUAL;
    }
    if letters == "-" {
        return Ok(wanted);
    }
    for letter in letters.chars() {
        wanted.flags |= match letter.to_ascii_uppercase() {
            'F' => DebugFlags::CONSISTENCY,
            'Z' => DebugFlags::RED_ZONE,
            'P' => DebugFlags::POISON,
            'U' => DebugFlags::USER,
            'T' => DebugFlags::TRACE,
            'O' => {
                wanted.growth = Growth::Refused;
                DebugFlags::empty()
            }
            _ => return Err(SlabDebugError::NoSuchFlag(letter)),
        };
    }
    Ok(wanted)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn flags(text: &str, cache: &str) -> DebugFlags {
        SlabDebug::parse(text).expect("the text makes sense").wanted(cache).flags
    }

    #[test]
    fn the_examples_of_linux_documentation_mean_what_it_says() {
        let (usual, none) = (DebugFlags::USUAL, DebugFlags::empty());
        let (f, z, p) = (DebugFlags::CONSISTENCY, DebugFlags::RED_ZONE, DebugFlags::POISON);
        for (text, cache, meant) in [
            ("", "dentry", usual),
            ("-", "dentry", none),
            ("P", "kmalloc-64", p),
            ("fzpu", "kmalloc-64", usual),
            (",dentry", "dentry", usual),
            (",dentry", "inode", none),
            ("F,dentry", "dentry", f),
            ("F,dentry", "dentry_cache", none),
            ("Z,kmalloc-*", "kmalloc-8k", z),
            ("Z,kmalloc-*", "kmem_cache", none),
            ("FZ;-,zs_handle,zspage", "zspage", none),
            ("FZ;-,zs_handle,zspage", "zspages", f | z),
            ("F;P,a;Z,a,b", "a", p),
            ("F;P,a;Z,a,b", "b", z),
            ("F;P,a;Z,a,b", "c", f),
            ("T", "a", DebugFlags::TRACE),
        ] {
            assert_eq!(flags(text, cache), meant, "slub_debug={text}: {cache}");
        }
        assert!(SlabDebug::NONE.wanted("kmalloc-64") == NOT_DEBUGGED);
        let frugal = SlabDebug::parse("FZPUO").expect("the text makes sense").wanted("any");
        assert_eq!((frugal.growth, frugal.in_place()), (Growth::Refused, f));
    }

    #[test]
    fn a_letter_that_is_no_flag_and_a_text_without_end_are_told() {
        for (text, letter) in [("FZX", 'X'), ("F,a;é", 'é'), ("F-", '-'), ("0", '0'), ("A", 'A')] {
            assert_eq!(SlabDebug::parse(text), Err(SlabDebugError::NoSuchFlag(letter)));
        }
        assert_eq!(SlabDebug::parse(&"F".repeat(257)), Err(SlabDebugError::TooLong));
        assert!(SlabDebug::parse(&"F".repeat(256)).is_ok());
    }
}
