//! An address space, and what is to be found in it.

use core::pin::Pin;

use kernel_core::layout::USERS;
use mm::cache::MappingRef;
use mm::space::{AddressRange, PageProtection, Sharing, Space, SpaceRef, Spaces};
use mm::units::{Order, PAGE_SIZE, PageIndex, VirtualAddress};

use super::contents::{Stamp, Stamps};
use super::sizes::Sizes;
use crate::ktest::NotPassed;
use crate::platform::Platform;
use crate::user::mmu::ProcessorTables;

/// Processes there are at one time, at most.
pub(super) const PROCESSES: usize = 4;

pub(super) type ProcessSpace<'u> = Space<'u, Platform, ProcessorTables>;
pub(super) type ProcessRef<'u> = SpaceRef<'u, Platform, ProcessorTables>;

/// A part of every process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// Memory of its own.
    Anonymous,
    /// The first file, as all see it.
    Shared,
    /// The beginning of the second file, with the changes of its own.
    Private,
}

impl Part {
    const fn start(self) -> VirtualAddress {
        let number = match self {
            Self::Anonymous => 0,
            Self::Shared => 1,
            Self::Private => 2,
        };
        VirtualAddress(USERS.start + (number << 30))
    }

    /// Where a page of it is.
    pub(super) const fn page(self, number: u64) -> VirtualAddress {
        self.start().plus(number * PAGE_SIZE as u64)
    }

    /// Its pages.
    pub(super) fn pages(self, sizes: &Sizes) -> u64 {
        u64::from(match self {
            Self::Anonymous => sizes.anonymous,
            Self::Shared => sizes.file,
            Self::Private => sizes.private,
        })
    }

    fn range(self, sizes: &Sizes) -> AddressRange {
        AddressRange::of_pages(self.start(), self.pages(sizes))
    }
}

/// What a process is to find that is its own.
pub(super) struct Model {
    pub(super) anonymous: Stamps,
    /// Where it was never written, the file is seen.
    pub(super) private: Stamps,
}

impl Model {
    pub(super) fn new(sizes: &Sizes) -> Self {
        Self { anonymous: Stamps::zeroes(sizes.anonymous), private: Stamps::zeroes(sizes.private) }
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.anonymous.copy_from(&other.anonymous);
        self.private.copy_from(&other.private);
    }

    pub(super) fn clear(&mut self) {
        self.anonymous.set_all(Stamp::ZERO);
        self.private.set_all(Stamp::ZERO);
    }
}

/// A process that has never run.
pub(super) fn create<'u>(
    spaces: Pin<&'u Spaces<'u, Platform, ProcessorTables>>,
    files: &[MappingRef<'u, Platform>; 2],
    sizes: &Sizes,
) -> Result<ProcessRef<'u>, NotPassed> {
    let space = spaces.create()?;
    let (write, start) = (PageProtection::ReadWrite, PageIndex(0));
    map_anonymous(&space, sizes)?;
    space.map_file(Part::Shared.range(sizes), &files[0], start, write, Sharing::Shared)?;
    space.map_file(Part::Private.range(sizes), &files[1], start, write, Sharing::Private)?;
    Ok(space)
}

/// New memory in the place of what a process has.
pub(super) fn renew(space: &ProcessSpace<'_>, sizes: &Sizes) -> Result<(), NotPassed> {
    space.unmap(Part::Anonymous.range(sizes))?;
    map_anonymous(space, sizes)
}

fn map_anonymous(space: &ProcessSpace<'_>, sizes: &Sizes) -> Result<(), NotPassed> {
    let range = Part::Anonymous.range(sizes);
    Ok(space.map_anonymous(range, PageProtection::ReadWrite, Sharing::Private, Order::of(4))?)
}
