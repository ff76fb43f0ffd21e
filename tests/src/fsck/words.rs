//! What the two words of a page's descriptor say, read as the design draws them.

use std::fmt;

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// No memory.
    Hole,
    /// Behind its block's head.
    Tail,
    /// Never the allocator's.
    Reserved,
    /// Heads a block that somebody has.
    Allocated,
    /// Heads a block between two lists.
    Isolated,
    /// Heads a block at hand of a CPU.
    Cached,
    /// Heads a free block.
    Free,
    /// Serves a freelist.
    Node,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Hole => "hole",
            State::Tail => "tail",
            State::Reserved => "reserved",
            State::Allocated => "allocated",
            State::Isolated => "isolated",
            State::Cached => "at hand",
            State::Free => "free",
            State::Node => "node",
        })
    }
}

/// Both words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) allocator: u64,
    pub(super) allocatee: u64,
}

/// The bits in which a block that is allocated and one that is at hand differ.
const CACHED_OR_ALLOCATED: u64 = 3 ^ 5;

impl Words {
    pub(super) fn state(self) -> Option<State> {
        Some(match self.allocator & 0xf {
            0 => State::Hole,
            1 => State::Tail,
            2 => State::Reserved,
            3 => State::Allocated,
            4 => State::Isolated,
            5 => State::Cached,
            8 => State::Free,
            9 => State::Node,
            _ => return None,
        })
    }

    pub(super) fn is(self, state: State) -> bool {
        self.state() == Some(state)
    }

    /// The end of a list that a free block stands on or a node serves: the end in bit 0, then order, then migratetype.
    pub(super) fn list(self) -> u64 {
        self.allocator >> 4 & 0x7f
    }

    pub(super) fn order(self) -> u32 {
        (self.allocator >> 5 & 0xf) as u32
    }

    pub(super) fn migratetype(self) -> u64 {
        self.allocator >> 9 & 3
    }

    pub(super) fn zone(self) -> usize {
        (self.allocator >> 16 & 0xff) as usize
    }

    /// A node's level, or the group that pays for an allocated block.
    pub(super) fn level_or_group(self) -> u64 {
        self.allocator >> 24 & 0xff
    }

    /// What the first word of a block at hand says, once it is allocated.
    pub(super) fn cached_as(allocated: u64) -> u64 {
        allocated ^ CACHED_OR_ALLOCATED
    }

    /// The kind of the owner; 0 if there is none.
    pub(super) fn kind(self) -> u64 {
        self.allocatee & 0xf
    }

    /// The number that a page which is not allocated has: a position, or the first position under a node. Or the order of a
    /// block whose owner has no descriptor.
    pub(super) fn number(self) -> u64 {
        self.allocatee >> 4
    }

    /// Where the owner's descriptor stands.
    pub(super) fn descriptor(self) -> u64 {
        self.allocatee & !0xf
    }
}

/// Says what was found.
impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.state() {
            Some(state) => write!(f, "{state} (")?,
            None => write!(f, "no state (")?,
        }
        write!(f, "{:#x}, {:#x})", self.allocator, self.allocatee)
    }
}
