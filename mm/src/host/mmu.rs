//! A memory management unit in software: walks page tables as a processor does, and remembers what it found.
//!
//! ```text
//!   63     44 43     12 11                    5 4      3        2 1        0
//!  +---------+---------+-----------------------+-----+----------+----------+
//!  |    0    |  frame  |           0           | use | allowed  |   kind   |
//!  +---------+---------+-----------------------+-----+----------+----------+
//!   kind: 0 empty, 1 table, 2 page, 3 moving; allowed: 0 read, 1 write too, 2 execute too; use: accessed
//! ```
//!
//! What it remembers is never forgotten by itself, so that whoever changes an entry and does not flush it is found out:
//! users see the old page, and [`HostMmu::stale`] names it. A flush waits until no access is under way, as a real one
//! waits for the other processors.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::HashMap;

use spin::{Mutex, MutexGuard};

use super::HostMachine;
use crate::machine::{Geometry, Machine, Standard};
use crate::owner::TableLevel;
use crate::space::{Access, Accessed, Mmu, PageEntry, PageProtection, TableEntry};
use crate::units::{PAGE_SHIFT, PAGE_SIZE, Pfn, VirtualAddress};

const KIND: u64 = 0b11;
const TABLE: u64 = 1;
const PAGE: u64 = 2;
const MOVING: u64 = 3;
const ALLOWED_SHIFT: u32 = 2;
const ACCESSED: u64 = 1 << 4;

/// Entries of the root, of each half, that are users'.
const USERS: u64 = 2;

/// What the other half of every root says: it leads nowhere, and nobody touches it.
const KERNELS: u64 = 0xdead_0000_0000_0000;

/// The unit, for tables of `1 << SHIFT` entries.
pub struct HostMmu<'m, G: Geometry = Standard, const SHIFT: u32 = 9> {
    machine: &'m HostMachine<G>,
    known: Mutex<Known>,
}

/// Translations by root and page.
type Known = HashMap<(Pfn, VirtualAddress), PageEntry>;

/// The tables do not allow an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PageFault;

impl<'m, G: Geometry, const SHIFT: u32> HostMmu<'m, G, SHIFT> {
    /// A unit that knows nothing yet.
    pub fn new(machine: &'m HostMachine<G>) -> Self {
        Self { machine, known: Mutex::default() }
    }

    /// Reads a user's bytes through the tables below `root`. What these do not allow is `fault`'s to see to; then it is
    /// tried again.
    ///
    /// # Errors
    /// What `fault` gives. Bytes before the page that it was about have been read.
    pub fn load<E>(
        &self,
        root: Pfn,
        address: VirtualAddress,
        bytes: &mut [u8],
        mut fault: impl FnMut(VirtualAddress, Access) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        let mut at = address;
        while !rest.is_empty() {
            let (within, len) = piece(at, rest.len());
            let (part, behind) = rest.split_at_mut(len);
            self.access(root, at, Access::Read, &mut fault, |frame| self.machine.read(frame, within, part))?;
            (rest, at) = (behind, at.plus(len as u64));
        }
        Ok(())
    }

    /// Writes a user's bytes, as [`load`](Self::load) reads them.
    ///
    /// # Errors
    /// What `fault` gives. Bytes before the page that it was about have been written.
    pub fn store<E>(
        &self,
        root: Pfn,
        address: VirtualAddress,
        bytes: &[u8],
        mut fault: impl FnMut(VirtualAddress, Access) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = bytes;
        let mut at = address;
        while !rest.is_empty() {
            let (within, len) = piece(at, rest.len());
            let (part, behind) = rest.split_at(len);
            self.access(root, at, Access::Write, &mut fault, |frame| self.machine.write(frame, within, part))?;
            (rest, at) = (behind, at.plus(len as u64));
        }
        Ok(())
    }

    fn access<E>(
        &self,
        root: Pfn,
        address: VirtualAddress,
        access: Access,
        fault: &mut impl FnMut(VirtualAddress, Access) -> Result<(), E>,
        touch: impl FnOnce(Pfn),
    ) -> Result<(), E> {
        loop {
            // Held during the access: nobody flushes meanwhile.
            let mut known = self.known.lock();
            match self.translate(&mut known, root, address.page(), access) {
                Ok(frame) => {
                    touch(frame);
                    return Ok(());
                }
                Err(PageFault) => {
                    drop(known);
                    fault(address, access)?;
                }
            }
        }
    }

    /// The frame at a page, as long as nobody flushes.
    fn translate(
        &self,
        known: &mut MutexGuard<'_, Known>,
        root: Pfn,
        page: VirtualAddress,
        access: Access,
    ) -> Result<Pfn, PageFault> {
        if let Some(entry) = known.get(&(root, page))
            && entry.protection.allows(access)
        {
            return Ok(entry.frame);
        }
        // As on real processors, a translation that does not suffice is looked up again before it is a fault.
        known.remove(&(root, page));
        let entry = self.walk(root, page, Accessed::Yes).filter(|entry| entry.protection.allows(access));
        let entry = entry.ok_or(PageFault)?;
        known.insert((root, page), entry);
        Ok(entry.frame)
    }

    /// What the tables say of a page, and marks the entry as accessed if it is to be. The frame is that of the page itself.
    #[expect(clippy::cast_possible_truncation, reason = "below the number of pages in an entry")]
    fn walk(&self, root: Pfn, page: VirtualAddress, accessed: Accessed) -> Option<PageEntry> {
        let (mut table, mut level) = (root, Self::ROOT);
        loop {
            let span = PAGE_SHIFT + SHIFT * (u32::from(level.0) - 1);
            let slot = self.slot(table, (page.0 >> span) as usize & ((1 << SHIFT) - 1));
            let bits = slot.load(Ordering::Acquire);
            match self.decode(bits, level) {
                TableEntry::Table(next) => (table, level) = (next, level.below()?),
                TableEntry::Page(entry) => {
                    let marked = bits | ACCESSED;
                    let mark = || slot.compare_exchange(bits, marked, Ordering::Relaxed, Ordering::Relaxed);
                    if accessed == Accessed::Yes && marked != bits && mark().is_err() {
                        continue;
                    }
                    let within = (page.0 & ((1 << span) - 1)) >> PAGE_SHIFT;
                    return Some(PageEntry { frame: entry.frame.plus(within as u32), ..entry });
                }
                TableEntry::Empty | TableEntry::Moving(_) => return None,
            }
        }
    }

    fn slot(&self, table: Pfn, index: usize) -> &AtomicU64 {
        let slots = self.machine.direct_map(table).cast::<AtomicU64>();
        // SAFETY: a table is a page, and no index reaches beyond one.
        let slot = unsafe { slots.add(index) };
        // SAFETY: lowmem stays mapped as long as the machine lives, and a table's words are changed in one piece.
        unsafe { slot.as_ref() }
    }

    /// An address of which more is remembered than the tables say now: somebody changed them and did not flush. To be asked
    /// while nobody changes any.
    pub fn stale(&self) -> Option<(Pfn, VirtualAddress)> {
        let known = self.known.lock();
        let is_so = |root, page, entry: PageEntry| {
            let now = self.walk(root, page, Accessed::No);
            let allowed =
                |now: PageEntry| now.protection == entry.protection || entry.protection == PageProtection::Read;
            now.is_some_and(|now| now.frame == entry.frame && allowed(now))
        };
        known.iter().find(|&(&(root, page), &entry)| !is_so(root, page, entry)).map(|(&place, _)| place)
    }

    /// Forgets everything, as a processor may at any time.
    pub fn forget(&self) {
        self.known.lock().clear();
    }
}

/// The part of a run of bytes that lies in its first page.
fn piece(address: VirtualAddress, len: usize) -> (usize, usize) {
    let within = usize::try_from(address.0 - address.page().0).unwrap_or(0);
    (within, len.min(PAGE_SIZE - within))
}

// SAFETY: the format above holds each entry and nothing else; the bit for use is the unit's. A page is reached only through
// an entry that says so, and what is remembered of addresses goes when they are flushed, under the lock that accesses take.
// The kernel's half is no users' address.
unsafe impl<G: Geometry, const SHIFT: u32> Mmu for HostMmu<'_, G, SHIFT> {
    const TABLE_SHIFT: u32 = SHIFT;

    fn users(&self) -> Range<VirtualAddress> {
        let span = PAGE_SHIFT + SHIFT * (u32::from(Self::ROOT.0) - 1);
        VirtualAddress(0)..VirtualAddress(USERS << span)
    }

    fn encode(&self, entry: TableEntry, _level: TableLevel) -> u64 {
        let page = |kind, page: PageEntry| {
            let allowed = match page.protection {
                PageProtection::Read => 0,
                PageProtection::ReadWrite => 1,
                PageProtection::ReadExecute => 2,
            };
            let accessed = if page.accessed == Accessed::Yes { ACCESSED } else { 0 };
            page.frame.address().0 | accessed | allowed << ALLOWED_SHIFT | kind
        };
        match entry {
            TableEntry::Empty => 0,
            TableEntry::Table(frame) => frame.address().0 | TABLE,
            TableEntry::Page(entry) => page(PAGE, entry),
            TableEntry::Moving(entry) => page(MOVING, entry),
        }
    }

    fn decode(&self, bits: u64, level: TableLevel) -> TableEntry {
        let frame = Pfn::new(u32::try_from(bits >> PAGE_SHIFT).unwrap_or_else(|_| panic!("no entry: {bits:#x}")));
        let protection = match bits >> ALLOWED_SHIFT & 0b11 {
            0 => PageProtection::Read,
            1 => PageProtection::ReadWrite,
            _ => PageProtection::ReadExecute,
        };
        let accessed = if bits & ACCESSED == 0 { Accessed::No } else { Accessed::Yes };
        let page = PageEntry { frame, protection, accessed };
        match bits & KIND {
            TABLE => {
                assert!(level > TableLevel::LEAF, "a leaf leads to a table");
                TableEntry::Table(frame)
            }
            PAGE | MOVING if level > TableLevel(2) => panic!("a page stands in a table of {level:?}"),
            PAGE => TableEntry::Page(page),
            MOVING => TableEntry::Moving(page),
            _ => TableEntry::Empty,
        }
    }

    fn init_root(&self, entries: &[AtomicU64]) {
        for entry in entries.iter().skip(usize::try_from(USERS).unwrap_or(0)) {
            entry.store(KERNELS, Ordering::Relaxed);
        }
    }

    fn flush(&self, root: Pfn, addresses: Range<VirtualAddress>) {
        self.known.lock().retain(|&(of, page), _| of != root || !addresses.contains(&page));
    }
}

impl<G: Geometry, const SHIFT: u32> fmt::Debug for HostMmu<'_, G, SHIFT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMmu").field("known", &self.known.lock().len()).finish_non_exhaustive()
    }
}
