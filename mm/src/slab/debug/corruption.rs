//! What is found in a debugged cache that somebody wrote to who had no business there.

use core::fmt;

use thiserror::Error;

use super::track::History;
use crate::slab::cache::CacheName;
use crate::slab::free::Address;

/// What was overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The red zone in front of an object: somebody wrote before its start, or past the end of what is in front.
    LeftRedzone,
    /// The red zone behind an object: its owner wrote past its end.
    RightRedzone,
    /// The object itself, while it was free.
    Poison,
    /// The word that says whether the object is free.
    State,
    /// The record of who allocated or freed it.
    Record,
    /// What fills an object's place up.
    Padding,
    /// What is left behind the last object of a slab.
    SlabPadding,
}

impl Part {
    /// What to call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LeftRedzone => "left red zone overwritten",
            Self::RightRedzone => "right red zone overwritten",
            Self::Poison => "poison overwritten: written to after it was freed",
            Self::State => "state overwritten",
            Self::Record => "owner record overwritten",
            Self::Padding => "padding overwritten",
            Self::SlabPadding => "slab padding overwritten",
        }
    }
}

/// A byte that is not what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Byte {
    /// What it is.
    pub found: u8,
    /// What it was.
    pub expected: u8,
}

/// Something that was overwritten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("{}: object {object:?} of cache {cache}, offset {offset}{}{history}", part.name(), Seen(*byte))]
pub struct Corruption {
    /// The cache.
    pub cache: CacheName,
    /// The object; behind the last one of a slab, what comes there.
    pub object: Address,
    /// What was overwritten.
    pub part: Part,
    /// The first byte that is not what it was, from the object's start.
    pub offset: i32,
    /// That byte; of a record it is only known that it is not whole.
    pub byte: Option<Byte>,
    /// Who had the object.
    pub history: History,
}

struct Seen(Option<Byte>);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Byte { found, expected }) => write!(f, ", is {found:#04x} instead of {expected:#04x}"),
            None => Ok(()),
        }
    }
}
