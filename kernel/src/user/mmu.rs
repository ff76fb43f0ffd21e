//! Users' page tables as the processor reads them.
//!
//! | bits | 63 | 51–12 | 7 | 6 | 5 | 2 | 1 | 0 |
//! |---|---|---|---|---|---|---|---|---|
//! | a table | 0 | frame | 0 | | | 1 | 1 | 1 |
//! | a page | not to be executed | frame | 2 MiB | | accessed | 1 | writable | 1 |
//! | a page that is being moved | as before | frame | 2 MiB | | as before | 1 | as before | 0 |
//!
//! Bit 2 says that it is users', so no entry but an empty one is 0. The dirty bit (6) is not looked at: an entry that is
//! writable belongs to a folio that is dirty.
//!
//! Source: Intel SDM volume 3, section 5.5, "4-level paging and 5-level paging".

use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kernel_core::layout::USERS;
use mm::owner::TableLevel;
use mm::space::{Accessed, Mmu, PageEntry, PageProtection, TableEntry};
use mm::units::{PAGE_SIZE, Pfn, VirtualAddress};
use x86_64::instructions::tlb;
use x86_64::registers::control::{Cr3, Cr3Flags};
use x86_64::structures::paging::{PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::cpu_local::{PerCpu, per_cpu};
use crate::nmi::{self, Errand};
use crate::paging::entry::{Entry, TABLE, Target};
use crate::paging::space::Space;

/// Pages that are flushed one by one; more cost less if all is forgotten.
const FLUSHED_ALONE: u64 = 32;

/// The processor's page tables, below the kernel's half.
#[derive(Debug)]
pub(crate) struct ProcessorTables {
    kernel: &'static Space,
}

impl ProcessorTables {
    /// Tables whose upper half is the kernel's.
    pub(crate) const fn new(kernel: &'static Space) -> Self {
        Self { kernel }
    }
}

/// The root that each CPU translates with, or is about to: the number of its frame. 0 is the kernel's own, until another
/// was loaded.
static LOADED: PerCpu<AtomicU32> = per_cpu!(AtomicU32::new(0));

/// The root that each CPU is leaving, with which it still translates; 0 otherwise.
static LEFT: PerCpu<AtomicU32> = per_cpu!(AtomicU32::new(0));

/// Has this CPU translate with these tables, and forget what it knows of others.
///
/// # Safety
/// The root has the kernel's half, and stays as long as it is loaded.
pub(super) unsafe fn load(root: Pfn) {
    let frame = PhysFrame::containing_address(PhysAddr::new_truncate(root.address().0));
    // Pairs with the second load in `flush`: who does not see this root in `LOADED` any more sees it here.
    LEFT.this().store(LOADED.this().load(Ordering::Relaxed), Ordering::SeqCst);
    // Pairs with the first load in `flush`: who does not see it has changed the tables before this CPU reads them.
    LOADED.this().swap(root.number(), Ordering::SeqCst);
    // SAFETY: the caller's promise.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
    // Pairs with the second load in `flush`: by then all of it is forgotten.
    LEFT.this().store(0, Ordering::Release);
}

fn flags_of(page: PageEntry, level: TableLevel) -> PageTableFlags {
    let mut flags = PageTableFlags::USER_ACCESSIBLE;
    flags |= match page.protection {
        PageProtection::Read => PageTableFlags::NO_EXECUTE,
        PageProtection::ReadWrite => PageTableFlags::NO_EXECUTE | PageTableFlags::WRITABLE,
        PageProtection::ReadExecute => PageTableFlags::empty(),
    };
    flags.set(PageTableFlags::ACCESSED, page.accessed == Accessed::Yes);
    flags.set(PageTableFlags::HUGE_PAGE, level != TableLevel::LEAF);
    flags
}

fn page_of(entry: Entry) -> PageEntry {
    let flags = entry.flags();
    PageEntry {
        frame: Pfn::containing(entry.address()).expect("users' tables lead to memory below 16 TiB"),
        protection: match (flags.contains(PageTableFlags::WRITABLE), flags.contains(PageTableFlags::NO_EXECUTE)) {
            (true, _) => PageProtection::ReadWrite,
            (false, true) => PageProtection::Read,
            (false, false) => PageProtection::ReadExecute,
        },
        accessed: if flags.contains(PageTableFlags::ACCESSED) { Accessed::Yes } else { Accessed::No },
    }
}

// SAFETY: MMU-ENTRY, the bits are as in the table above, and what the processor marks in them is bit 5, and bit 6, which
// is not looked at. MMU-FLUSH, a CPU forgets everything when it leaves a root; here, this one forgets the pages of the
// root that it is on, and others that are on it forget everything; either way, every table that led to a page. The kernel's
// half allows users nothing, and begins where users' ends.
unsafe impl Mmu for ProcessorTables {
    fn users(&self) -> Range<VirtualAddress> {
        VirtualAddress(USERS.start)..VirtualAddress(USERS.end)
    }

    fn encode(&self, entry: TableEntry, level: TableLevel) -> u64 {
        let (frame, flags) = match entry {
            TableEntry::Empty => return 0,
            TableEntry::Table(frame) => (frame, TABLE | PageTableFlags::USER_ACCESSIBLE),
            TableEntry::Page(page) => (page.frame, flags_of(page, level) | PageTableFlags::PRESENT),
            TableEntry::Moving(page) => (page.frame, flags_of(page, level)),
        };
        frame.address().0 | flags.bits()
    }

    fn decode(&self, bits: u64, level: TableLevel) -> TableEntry {
        let entry = Entry::from_bits(bits);
        match entry.target(level) {
            Target::Nothing if bits == 0 => TableEntry::Empty,
            Target::Nothing => TableEntry::Moving(page_of(entry)),
            Target::Table(frame) => TableEntry::Table(frame),
            Target::Page(_) | Target::LargePage => TableEntry::Page(page_of(entry)),
        }
    }

    fn init_root(&self, entries: &[AtomicU64]) {
        self.kernel.share_with(entries);
    }

    fn flush(&self, root: Pfn, addresses: Range<VirtualAddress>) {
        if LOADED.this().load(Ordering::Relaxed) == root.number() {
            forget(addresses);
        }
        let is_on = |roots: &PerCpu<AtomicU32>, cpu| roots.of(cpu).load(Ordering::SeqCst) == root.number();
        nmi::send_others(Errand::Flush, |cpu| is_on(&LOADED, cpu) || is_on(&LEFT, cpu));
    }
}

/// Has this CPU forget what it knows of some pages, and the tables that led to them.
fn forget(addresses: Range<VirtualAddress>) {
    let (start, end) = (addresses.start.page().0, addresses.end.0);
    if end.saturating_sub(start) > FLUSHED_ALONE * PAGE_SIZE as u64 {
        return tlb::flush_all();
    }
    for page in (start..end).step_by(PAGE_SIZE) {
        tlb::flush(VirtAddr::new_truncate(page));
    }
}
