//! How a case ends when it does not pass.

use thiserror::Error;

use super::soak::{Found, Mark, Place};
use crate::buddy::ContigError;
use crate::charge::{ChargeError, TooManyGroups};
use crate::invariant::Violation;
use crate::page::{AllocError, FreeError};
use crate::units::Pfn;

/// Why a case did not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Failure {
    /// An invariant is broken.
    #[error("{0}")]
    Violation(#[from] Violation),
    /// An allocation failed that should not have.
    #[error("allocation failed: {0}")]
    Alloc(#[from] AllocError),
    /// A free failed that should not have.
    #[error("free failed: {0}")]
    Free(#[from] FreeError),
    /// A range could not be allocated, but should have been.
    #[error("range allocation failed: {0}")]
    Contig(#[from] ContigError),
    /// A block could not be charged, but should have been.
    #[error("charging failed: {0}")]
    Charge(#[from] ChargeError),
    /// A group could not be made, but should have been.
    #[error("no group: {0}")]
    Group(#[from] TooManyGroups),
    /// What should have held and did not.
    #[error("expected that {0}")]
    Expected(&'static str),
    /// What should have held of this page and did not.
    #[error("expected that {what} ({pfn:?})")]
    ExpectedOf {
        /// What should have held.
        what: &'static str,
        /// The page.
        pfn: Pfn,
    },
    /// Memory does not hold what its owner wrote.
    #[error("expected that {:#x} holds what {owner} wrote, found {found}", place.0)]
    Overwritten {
        /// Where.
        place: Place,
        /// Whose it is.
        owner: Mark,
        /// What stands there.
        found: Found,
    },
    /// Two counts that should be equal.
    #[error("expected {expected} {what}, found {found}")]
    Count {
        /// What was counted.
        what: &'static str,
        /// How many there should be.
        expected: u32,
        /// How many there are.
        found: u32,
    },
    /// A wrong free was not turned away as what it is.
    #[error("expected the free to fail ({expected}), but {}", Answer(found))]
    WrongFree {
        /// What should have been said.
        expected: FreeError,
        /// What was; nothing if the free went through.
        found: Option<FreeError>,
    },
    /// A request that cannot be served was not refused for the reason why.
    #[error("expected the request to be refused ({expected}), but {}", Answer(found))]
    WrongRefusal {
        /// What should have been said.
        expected: AllocError,
        /// What was; nothing if the request was served.
        found: Option<AllocError>,
    },
    /// A range that cannot be had was not refused for what stands in its way.
    #[error("expected the range to be refused ({expected}), but {}", Answer(found))]
    WrongRange {
        /// What should have been said.
        expected: ContigError,
        /// What was; nothing if the range was allocated.
        found: Option<ContigError>,
    },
    /// The machine lacks what the case is about.
    #[error("skipped: {0}")]
    Skipped(&'static str),
}

impl Failure {
    /// Fails unless `holds`.
    pub(super) fn unless(holds: bool, what: &'static str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::Expected(what)) }
    }

    /// Fails unless `holds` of the page.
    pub(super) fn unless_of(holds: bool, pfn: Pfn, what: &'static str) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self::ExpectedOf { what, pfn }) }
    }

    /// Fails unless the counts are equal.
    pub(super) fn unless_equal(expected: u32, found: u32, what: &'static str) -> Result<(), Self> {
        if expected == found { Ok(()) } else { Err(Self::Count { what, expected, found }) }
    }
}

/// What was answered, in words.
struct Answer<'a, E>(&'a Option<E>);

impl<E: core::fmt::Display> core::fmt::Display for Answer<'_, E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            Some(answer) => write!(f, "was told: {answer}"),
            None => f.write_str("it went through"),
        }
    }
}
