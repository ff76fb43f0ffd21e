//! What is to be found in every page: a function of who wrote it last.

use alloc::vec::Vec;
use core::fmt;

use mm::units::PAGE_SIZE;

/// Who wrote a page: no two writes have one stamp, and nobody has the stamp of a page that was never written.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp(u64);

impl Stamp {
    /// Never written: zeroes.
    pub(super) const ZERO: Self = Self(0);

    /// That of the `number`th write, which is to a page of an object.
    pub(super) const fn new(object: u8, page: u64, number: u32) -> Self {
        Self((object as u64) << 56 | (page & 0xff_ffff) << 32 | (number as u64 + 1))
    }

    /// The words of the page.
    fn words(self) -> impl Iterator<Item = u64> {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let step = if self == Self::ZERO { 0 } else { ODD };
        core::iter::successors(Some(self.0.wrapping_mul(ODD)), move |word| Some(word.wrapping_add(step)))
    }

    /// Writes the page.
    pub(super) fn fill(self, page: &mut [u8; PAGE_SIZE]) {
        for (place, word) in page.as_chunks_mut().0.iter_mut().zip(self.words()) {
            *place = word.to_le_bytes();
        }
    }

    /// Whether the page is as this write left it.
    ///
    /// # Errors
    /// The first word that differs.
    pub(super) fn check(self, page: &[u8; PAGE_SIZE]) -> Result<(), Broken> {
        let found = page.as_chunks().0.iter().map(|&bytes| u64::from_le_bytes(bytes));
        let mut words = (0..).step_by(size_of::<u64>()).zip(found.zip(self.words()));
        match words.find(|(_, (found, wrote))| found != wrote) {
            None => Ok(()),
            Some((byte, (found, _))) => Err(Broken { stamp: self, byte, found, first: page.as_chunks().0[0] }),
        }
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ZERO => f.write_str("never written"),
            Self(stamp) => {
                write!(f, "object {}, page {}, write {}", stamp >> 56, stamp >> 32 & 0xff_ffff, stamp & 0xffff_ffff)
            }
        }
    }
}

/// A page that is not as it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broken {
    stamp: Stamp,
    byte: usize,
    found: u64,
    first: [u8; 8],
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// The inverse of the odd factor, modulo 2^64.
        const INVERSE: u64 = 0xf1de_83e1_9937_733d;
        let seems = Stamp(u64::from_le_bytes(self.first).wrapping_mul(INVERSE));
        let Self { stamp, byte, found, .. } = self;
        write!(f, "it is to be [{stamp:?}], and at byte {byte} it is {found:#018x}; it begins like [{seems:?}]")
    }
}

/// The stamps of an object's pages.
pub(super) struct Stamps(Vec<Stamp>);

impl Stamps {
    pub(super) fn zeroes(pages: u32) -> Self {
        Self(alloc::vec![Stamp::ZERO; pages as usize])
    }

    pub(super) fn of(&self, page: u64) -> Stamp {
        self.0[index(page)]
    }

    pub(super) fn set(&mut self, page: u64, stamp: Stamp) {
        self.0[index(page)] = stamp;
    }

    pub(super) fn set_all(&mut self, stamp: Stamp) {
        self.0.fill(stamp);
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.0.copy_from_slice(&other.0);
    }

    pub(super) fn pages(&self) -> u64 {
        self.0.len() as u64
    }

    /// Pages that were ever written.
    pub(super) fn written(&self) -> u64 {
        self.0.iter().filter(|&&stamp| stamp != Stamp::ZERO).count() as u64
    }
}

fn index(page: u64) -> usize {
    usize::try_from(page).unwrap_or(usize::MAX)
}
