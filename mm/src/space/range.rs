//! Runs of users' addresses.

use core::fmt;

use crate::units::{PAGE_SHIFT, PAGE_SIZE, VirtualAddress};

/// Whole pages of a user's address space: from `start` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddressRange {
    start: VirtualAddress,
    end: VirtualAddress,
}

impl AddressRange {
    /// Every page that has an address.
    pub(super) const ALL: Self = Self::new(VirtualAddress(0), VirtualAddress(u64::MAX));

    /// The pages from the one around `start` up to `end`, rounded up; none if they are out of order.
    pub const fn new(start: VirtualAddress, end: VirtualAddress) -> Self {
        let start = start.page();
        let end = end.plus(PAGE_SIZE as u64 - 1).page();
        Self { start, end: if end.0 < start.0 { start } else { end } }
    }

    /// So many pages from the one around `start` on, as far as there are addresses.
    pub const fn of_pages(start: VirtualAddress, pages: u64) -> Self {
        Self::new(start, start.page().plus(pages.saturating_mul(PAGE_SIZE as u64)))
    }

    /// The page around `address`.
    pub const fn page(address: VirtualAddress) -> Self {
        Self::of_pages(address, 1)
    }

    /// The first address.
    pub const fn start(self) -> VirtualAddress {
        self.start
    }

    /// One past the last address.
    pub const fn end(self) -> VirtualAddress {
        self.end
    }

    /// How many pages.
    pub const fn pages(self) -> u64 {
        (self.end.0 - self.start.0) >> PAGE_SHIFT
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.end.0 == self.start.0
    }

    /// Whether `address` lies in one of them.
    pub const fn contains(self, address: VirtualAddress) -> bool {
        self.start.0 <= address.0 && address.0 < self.end.0
    }

    /// Whether all of `other` is in this.
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// The pages that both have.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The page before the first one, if there is one.
    pub(super) const fn before(self) -> Option<Self> {
        match self.start.0.checked_sub(1) {
            Some(last) => Some(Self::page(VirtualAddress(last))),
            None => None,
        }
    }

    /// The page behind the last one.
    pub(super) const fn behind(self) -> Self {
        Self::page(self.end)
    }

    /// Pages from the start up to the one around `address`, which lies in this or at its end.
    pub(super) const fn pages_to(self, address: VirtualAddress) -> u64 {
        (address.page().0 - self.start.0) >> PAGE_SHIFT
    }

    /// The first address of each page, in ascending order.
    pub fn addresses(self) -> impl Iterator<Item = VirtualAddress> {
        (0..self.pages()).map(move |page| self.start.plus(page << PAGE_SHIFT))
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}, {:?})", self.start, self.end)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> AddressRange {
        AddressRange::new(VirtualAddress(start), VirtualAddress(end))
    }

    #[test]
    fn a_range_is_of_whole_pages_and_never_backwards() {
        assert_eq!(range(0x1fff, 0x2001), range(0x1000, 0x3000));
        assert!(range(0x5000, 0x1000).is_empty());
        assert_eq!(AddressRange::of_pages(VirtualAddress(0x1800), 2), range(0x1000, 0x3000));
        let last = AddressRange::of_pages(VirtualAddress(u64::MAX), 9);
        assert!(last.end() >= last.start() && last.pages() == 0);
    }

    #[test]
    fn pages_of_two_ranges_are_those_in_both() {
        assert_eq!(range(0x1000, 0x5000).intersection(range(0x3000, 0x9000)), range(0x3000, 0x5000));
        assert!(range(0x1000, 0x2000).intersection(range(0x3000, 0x4000)).is_empty());
        assert!(range(0x1000, 0x5000).covers(range(0x2000, 0x5000)));
        assert!(!range(0x1000, 0x5000).covers(range(0x2000, 0x6000)));
        assert!(range(0, 0x3000).addresses().eq([0, 0x1000, 0x2000].map(VirtualAddress)));
    }
}
