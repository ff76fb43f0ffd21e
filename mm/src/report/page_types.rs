//! The summary of Linux's `page-types`: how many pages there are of each kind.

use core::fmt;

use super::{Pages, Usage};
use crate::OwnerKind;

/// A line for each kind that there is a page of: flags, pages, MiB, a letter a flag, names. Kinds of pages that Linux
/// has a flag for carry it (`include/uapi/linux/kernel-page-flags.h`), others one of ours, from 52 on, where Linux
/// has none.
#[derive(Clone, Copy, Debug)]
pub struct PageTypes(pub Usage);

/// A bit of the flags.
#[derive(Clone, Copy)]
struct Flag {
    bit: u32,
    letter: char,
    name: &'static str,
}

impl Flag {
    const SLAB: Self = Self { bit: 7, letter: 'S', name: "slab" };
    const BUDDY: Self = Self { bit: 10, letter: 'B', name: "buddy" };
    const HWPOISON: Self = Self { bit: 19, letter: 'X', name: "hwpoison" };
    const PGTABLE: Self = Self { bit: 26, letter: 'g', name: "pgtable" };
    const RESERVED: Self = Self { bit: 32, letter: 'r', name: "reserved" };
    const FREELIST_NODE: Self = Self { bit: 52, letter: 'N', name: "freelist_node" };
    const FOLIO: Self = Self { bit: 53, letter: 'F', name: "folio" };
    const COMPRESSED_STORE: Self = Self { bit: 54, letter: 'C', name: "zspage" };
    const PER_CPU_AREA: Self = Self { bit: 55, letter: 'p', name: "percpu" };
    const KERNEL_STACK: Self = Self { bit: 56, letter: 'k', name: "kernel_stack" };
    const LARGE_KMALLOC: Self = Self { bit: 57, letter: 'K', name: "large_kmalloc" };
    const CPU_LIST: Self = Self { bit: 58, letter: 'P', name: "cpu_list" };

    /// All of them, by bit: the order of their letters and names.
    const ALL: [Self; 12] = [
        Self::SLAB,
        Self::BUDDY,
        Self::HWPOISON,
        Self::PGTABLE,
        Self::RESERVED,
        Self::FREELIST_NODE,
        Self::FOLIO,
        Self::COMPRESSED_STORE,
        Self::PER_CPU_AREA,
        Self::KERNEL_STACK,
        Self::LARGE_KMALLOC,
        Self::CPU_LIST,
    ];

    const fn mask(self) -> u64 {
        1 << self.bit
    }
}

/// The flags of pages with an owner of this kind.
const fn flags(kind: OwnerKind) -> u64 {
    match kind {
        OwnerKind::Plain => 0,
        OwnerKind::Folio => Flag::FOLIO.mask(),
        OwnerKind::Slab => Flag::SLAB.mask(),
        OwnerKind::PageTable => Flag::PGTABLE.mask(),
        OwnerKind::CompressedStore => Flag::COMPRESSED_STORE.mask(),
        OwnerKind::PerCpuArea => Flag::PER_CPU_AREA.mask(),
        OwnerKind::KernelStack => Flag::KERNEL_STACK.mask(),
        OwnerKind::LargeKmalloc => Flag::LARGE_KMALLOC.mask(),
        OwnerKind::Poisoned => Flag::HWPOISON.mask(),
    }
}

impl fmt::Display for PageTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(usage) = self;
        let memory = usage.memory();
        let nobodys = [
            (Flag::BUDDY.mask(), memory.free.less(memory.nodes).less(memory.cached)),
            (Flag::CPU_LIST.mask(), memory.cached),
            (Flag::BUDDY.mask() | Flag::FREELIST_NODE.mask(), memory.nodes),
            (Flag::RESERVED.mask(), memory.present.less(memory.managed)),
        ];
        let owned = OwnerKind::ALL.iter().map(|&kind| (flags(kind), usage.allocated[kind]));
        writeln!(f, "             flags\tpage-count       MB  symbolic-flags\t\t\tlong-symbolic-flags")?;
        let mut total = Pages(0);
        for (flags, pages) in owned.chain(nobodys).filter(|&(_, pages)| pages > Pages(0)) {
            write!(f, "0x{flags:016x}\t{:>10} {:>8}  ", pages.0, mib(pages))?;
            Letters(flags).fmt(f)?;
            f.write_str("\t")?;
            Names(flags).fmt(f)?;
            writeln!(f)?;
            total = total + pages;
        }
        writeln!(f, "             total\t{:>10} {:>8}", total.0, mib(total))
    }
}

const fn mib(pages: Pages) -> u64 {
    pages.bytes() >> 20
}

/// A letter for each flag that is set, and a line for each that is not.
struct Letters(u64);

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Flag::ALL.iter().try_for_each(|flag| {
            let letter = if self.0 & flag.mask() == 0 { '_' } else { flag.letter };
            write!(f, "{letter}")
        })
    }
}

/// The names of the flags that are set, with commas between them.
struct Names(u64);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Flag::ALL.iter().filter(|flag| self.0 & flag.mask() != 0);
        set.enumerate().try_for_each(|(index, flag)| {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", flag.name)
        })
    }
}
