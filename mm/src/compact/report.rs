//! What came of looking for large blocks.

use core::fmt;

use super::migrate::MigrateError;
use crate::OwnerKind;
use crate::units::Count;

/// Why an area was not cleared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It has holes, reserved memory, or frames of another zone, or a block in use reaches out of it.
    NotWhole,
    /// Something in it changed too often.
    Unsettled,
    /// A block with an owner of this kind, which never moves, stands in it.
    Unmovable(OwnerKind),
    /// A folio or a page table in it could not be moved.
    Stays(MigrateError),
}

/// Codes of refusals.
const CODES: usize = 2 + MigrateError::ALL.len() + OwnerKind::ALL.len();

impl Refusal {
    /// Every reason there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let owners = OwnerKind::ALL.iter().copied().map(Self::Unmovable);
        [Self::NotWhole, Self::Unsettled].into_iter().chain(MigrateError::ALL.map(Self::Stays)).chain(owners)
    }

    const fn code(self) -> usize {
        match self {
            Self::NotWhole => 0,
            Self::Unsettled => 1,
            Self::Stays(error) => 2 + error as usize,
            Self::Unmovable(kind) => 2 + MigrateError::ALL.len() + kind as usize,
        }
    }

    /// Whether it may be otherwise soon.
    pub(super) const fn may_pass(self) -> bool {
        match self {
            Self::Unsettled => true,
            Self::Stays(error) => error.may_pass(),
            Self::NotWhole | Self::Unmovable(_) => false,
        }
    }
}

impl From<MigrateError> for Refusal {
    fn from(error: MigrateError) -> Self {
        Self::Stays(error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotWhole => f.write_str("not memory of one zone, or part of a larger block"),
            Self::Unsettled => f.write_str("changes too often"),
            Self::Unmovable(kind) => write!(f, "{} stays where it is", kind.name()),
            Self::Stays(error) => error.fmt(f),
        }
    }
}

/// Pages that were moved, by whose they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Of folios.
    pub folios: Count,
    /// Page tables.
    pub tables: Count,
    /// Freelists' nodes.
    pub nodes: Count,
}

impl Moved {
    /// Nothing yet.
    pub(super) const fn none() -> Self {
        Self { folios: Count(0), tables: Count(0), nodes: Count(0) }
    }
}

/// What came of one search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompactReport {
    /// Areas that were looked at.
    pub areas: Count,
    /// Those of them that were free blocks.
    pub free: Count,
    /// Areas whose pages were asked to move.
    pub tried: Count,
    /// Those of them that were cleared.
    pub cleared: Count,
    /// Pages that were moved, whatever came of it.
    pub moved: Moved,
    refused: [u32; CODES],
}

impl Default for CompactReport {
    fn default() -> Self {
        let (none, moved) = (Count(0), Moved::none());
        Self { areas: none, free: none, tried: none, cleared: none, moved, refused: [0; CODES] }
    }
}

impl CompactReport {
    /// Areas that were passed over or given up, for one reason.
    pub const fn refused(&self, refusal: Refusal) -> Count {
        Count(self.refused[refusal.code()])
    }

    pub(super) const fn looked_at(&mut self, survey: &Result<u32, Refusal>) {
        self.areas.0 += 1;
        match survey {
            Ok(0) => self.free.0 += 1,
            Ok(_) => {}
            Err(refusal) => self.refused[refusal.code()] += 1,
        }
    }

    pub(super) const fn tried(&mut self, outcome: Result<(), Refusal>) {
        self.tried.0 += 1;
        match outcome {
            Ok(()) => self.cleared.0 += 1,
            Err(refusal) => self.refused[refusal.code()] += 1,
        }
    }
}

impl fmt::Display for CompactReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { areas, free, tried, cleared, moved, .. } = self;
        writeln!(f, "{} areas: {} free, {} tried, {} cleared", areas.0, free.0, tried.0, cleared.0)?;
        let Moved { folios, tables, nodes } = moved;
        writeln!(f, "moved: {} pages of folios, {} page tables, {} nodes", folios.0, tables.0, nodes.0)?;
        for refusal in Refusal::all().filter(|&refusal| self.refused(refusal).0 > 0) {
            writeln!(f, "refused: {} areas: {refusal}", self.refused(refusal).0)?;
        }
        Ok(())
    }
}
