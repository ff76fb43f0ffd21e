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
    /// Heads a section that is out of use.
    Offline,
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
            State::Offline => "offline",
        })
    }
}

/// Both words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) allocator: u64,
    pub(super) allocatee: u64,
}

/// The bits that a state has.
const STATE: u64 = 0x600f;
/// Marks of memory that failed: of the page, and of one of its block.
const MARKS: u64 = 0x1800;
/// The bits in which a block that is allocated and one that is at hand differ.
const CACHED_OR_ALLOCATED: u64 = 0b0110 ^ 0b1010;

impl Words {
    pub(super) fn state(self) -> Option<State> {
        Some(match self.allocator & STATE {
            0b0000 => State::Hole,
            0b0011 => State::Tail,
            0b0101 => State::Reserved,
            0b0110 => State::Allocated,
            0b1001 => State::Isolated,
            0b1010 => State::Cached,
            0b1100 => State::Free,
            0b1111 => State::Node,
            0x6005 => State::Offline,
            _ => return None,
        })
    }

    /// Whether the number of bits that are set is even in the first word, but for marks of memory that failed.
    pub(super) fn is_even(self) -> bool {
        (self.allocator & !MARKS).count_ones().is_multiple_of(2)
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

    /// What the second word says of the block at hand that this frame heads.
    pub(super) fn number_at_hand(head: u64) -> u64 {
        head << 32
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
