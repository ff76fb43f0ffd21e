//! Where things stand in the address space, and what an address there means.
//!
//! | from | what |
//! |---|---|
//! | `0x0000_0080_0000_0000` | users' addresses, to the middle; what is below is nobody's, so that small numbers are no pointers |
//! | `0xffff_8000_0000_0000` | the direct map: physical memory below the lowmem boundary |
//! | `0xffff_a000_0000_0000` | one 2 MiB window of `kmap_local` slots |
//! | `0xffff_be00_0000_0000` | the vmap area: pages mapped one by one, the kernel's stacks first, the local APIC near the end |
//! | `0xffff_c000_0000_0000` | the kernel image, its stack, and what the loader passes |
//!
//! The slots of a CPU are every other page of a 16-page stride, so an unmapped page lies on both sides of each slot
//! and a run-over faults. Stacks have slots of their own, too; each leaves the slot's ends free, so that the pages
//! below it and above it are unmapped.

use core::fmt;
use core::ops::Range;

use mm::units::{CpuId, Order, PAGE_SHIFT, PAGE_SIZE, Pfn, PhysAddr};

/// What may be users': the lower half, but for what the root's first entry spans.
pub const USERS: Range<u64> = ROOT_ENTRY..1 << 47;
/// The addresses that one entry of a root spans.
pub const ROOT_ENTRY: u64 = 1 << 39;
/// Where frame 0 stands in the direct map.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// The first address behind the direct map's window: it holds every frame that a [`Pfn`] can name.
pub const DIRECT_MAP_LIMIT: u64 = DIRECT_MAP + ((Pfn::LIMIT.number() as u64) << PAGE_SHIFT);
/// The window of `kmap_local` slots; one page table maps it.
pub const KMAP_LOCAL: u64 = 0xffff_a000_0000_0000;
/// The vmap area, mapped a page at a time by whoever needs addresses in a row.
pub const VMAP: Range<u64> = KERNEL - 4 * ROOT_ENTRY..KERNEL;
/// The lowest address at which a loader may place the kernel.
pub const KERNEL: u64 = 0xffff_c000_0000_0000;

/// Slots that a CPU may hold at a time for one context: two for a copy, or one around a use of the allocator, which
/// needs two.
const KMAP_NESTING: usize = 3;
/// Contexts of a CPU that hold slots: a task, and one level of interrupt handlers above it. Those that cannot be masked
/// hold none.
const KMAP_CONTEXTS: usize = 2;
/// Slots that one CPU may hold at a time.
pub const KMAP_SLOTS: usize = KMAP_CONTEXTS * KMAP_NESTING;
/// Pages of the window that belong to one CPU: its slots, and the guards around them.
const KMAP_STRIDE: usize = 16;
/// Entries in a page table.
pub const TABLE_ENTRIES: usize = 512;
/// CPUs that the window has slots for: no more are started.
pub const CPUS: usize = TABLE_ENTRIES / KMAP_STRIDE;

const _: () = assert!(2 * KMAP_SLOTS < KMAP_STRIDE);

/// Stacks that the vmap area has slots for.
pub const STACK_SLOTS: usize = 512;
/// log2 of a stack slot's pages.
const STACK_SLOT_SHIFT: u32 = 6;
/// The largest stack: half of its slot.
pub const LARGEST_STACK: Order = Order::of(STACK_SLOT_SHIFT as usize - 1);
/// Where pages begin that are nobody's stack.
pub const BEHIND_STACKS: u64 = VMAP.start + ((STACK_SLOTS as u64) << (STACK_SLOT_SHIFT + PAGE_SHIFT));

const _: () = assert!(BEHIND_STACKS < VMAP.end);

/// Where every CPU finds the registers of its own local APIC: apart from what comes and goes in the vmap area.
pub const LOCAL_APIC: u64 = VMAP.end - ROOT_ENTRY + (1 << 30);

/// The place of a stack in the vmap area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackSlot(usize);

impl StackSlot {
    /// Slot `number`; `None` if there are not so many.
    pub const fn new(number: usize) -> Option<Self> {
        if number < STACK_SLOTS { Some(Self(number)) } else { None }
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..STACK_SLOTS).map(Self)
    }

    /// The number.
    pub const fn number(self) -> usize {
        self.0
    }

    /// The addresses of a stack of `1 << order` pages, up to [`LARGEST_STACK`]: the upper end of the slot's lower three
    /// quarters.
    pub const fn stack(self, order: Order) -> Range<u64> {
        let slot = VMAP.start + ((self.0 as u64) << (STACK_SLOT_SHIFT + PAGE_SHIFT));
        let end = slot + (3 << (STACK_SLOT_SHIFT + PAGE_SHIFT) >> 2);
        end - ((PAGE_SIZE as u64) << order.number())..end
    }
}

/// The page of the window that is slot `slot` of `cpu`.
pub const fn kmap_entry(cpu: CpuId, slot: usize) -> usize {
    cpu.0 as usize * KMAP_STRIDE + 2 * slot + 1
}

/// The address of a page of the window.
pub const fn kmap_address(entry: usize) -> u64 {
    KMAP_LOCAL + (entry * PAGE_SIZE) as u64
}

/// Sign-extends a 48-bit address.
pub const fn canonical(address: u64) -> u64 {
    (address << 16).cast_signed().wrapping_shr(16).cast_unsigned()
}

/// A page that is left unmapped so that running into it faults, and what it guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The page's first byte.
    pub page: u64,
    /// The stack that it guards.
    pub stack: &'static str,
    /// Which end of it.
    pub edge: Edge,
}

/// An end of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// Where it is full: stacks grow downwards.
    Below,
    /// Where it is empty.
    Above,
}

/// What an address of the kernel's address space means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first page, which nothing ever maps.
    NullPage,
    /// The guard page at an end of a stack.
    StackGuard(Guard),
    /// Below the end of the direct map.
    DirectMap(Pfn),
    /// In the direct map's window, above its end.
    Highmem(Pfn),
    /// A `kmap_local` slot.
    KmapSlot(CpuId, usize),
    /// An unmapped page between two slots.
    KmapGuard,
    /// The part of the address space where the loader puts the kernel.
    Kernel,
    /// No address of this machine: the upper bits are not the sign of the rest.
    NonCanonical,
    /// In the vmap area.
    Vmap,
    /// Where users' memory is.
    User,
    /// None of these.
    Nowhere,
}

impl Place {
    /// What `address` means where the direct map ends at `direct_map_end`.
    pub fn of(address: u64, direct_map_end: Pfn, guards: impl IntoIterator<Item = Guard>) -> Self {
        let page = address & !(PAGE_SIZE as u64 - 1);
        if let Some(guard) = guards.into_iter().find(|guard| guard.page == page) {
            return Self::StackGuard(guard);
        }
        match address {
            0..0x1000 => Self::NullPage,
            _ if USERS.contains(&address) => Self::User,
            0x0000_8000_0000_0000..DIRECT_MAP => Self::NonCanonical,
            DIRECT_MAP..DIRECT_MAP_LIMIT => match Pfn::containing(PhysAddr(address - DIRECT_MAP)) {
                Some(frame) if frame < direct_map_end => Self::DirectMap(frame),
                Some(frame) => Self::Highmem(frame),
                None => Self::Nowhere,
            },
            KMAP_LOCAL.. if address < kmap_address(TABLE_ENTRIES) => Self::of_window_entry(page - KMAP_LOCAL),
            KERNEL.. => Self::Kernel,
            _ if VMAP.contains(&address) => Self::Vmap,
            _ => Self::Nowhere,
        }
    }

    fn of_window_entry(offset: u64) -> Self {
        let entry = usize::try_from(offset >> PAGE_SHIFT).unwrap_or(usize::MAX);
        let (cpu, page) = (entry / KMAP_STRIDE, entry % KMAP_STRIDE);
        match u16::try_from(cpu) {
            Ok(cpu) if page % 2 == 1 && page / 2 < KMAP_SLOTS => Self::KmapSlot(CpuId(cpu), page / 2),
            _ => Self::KmapGuard,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NullPage => f.write_str("the null page"),
            Self::StackGuard(Guard { stack, edge: Edge::Below, .. }) => {
                write!(f, "the guard page of the {stack}: it has overflowed")
            }
            Self::StackGuard(Guard { stack, edge: Edge::Above, .. }) => {
                write!(f, "the guard page above the {stack}")
            }
            Self::DirectMap(frame) => write!(f, "the direct map, {frame:?}"),
            Self::Highmem(frame) => write!(f, "unmapped highmem (HIGH-1): {frame:?} is above the direct map's end"),
            Self::KmapSlot(cpu, slot) => write!(f, "kmap_local slot {slot} of CPU {}", cpu.0),
            Self::KmapGuard => f.write_str("a guard page of the kmap_local window"),
            Self::Vmap => f.write_str("the vmap area, where nothing is mapped so"),
            Self::User => f.write_str("users' memory"),
            Self::Kernel => f.write_str("the kernel's image, stack or boot data"),
            Self::NonCanonical => f.write_str("a non-canonical address"),
            Self::Nowhere => f.write_str("no part of the kernel's address space"),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const END: Pfn = Pfn::new(0x4000);
    const GUARD: Guard = Guard { page: KERNEL, stack: "kernel stack", edge: Edge::Below };

    fn place(address: u64) -> Place {
        Place::of(address, END, [GUARD])
    }

    #[test]
    fn the_last_byte_below_the_boundary_is_direct_map_and_the_next_is_highmem_with_its_frame() {
        assert_eq!(place(DIRECT_MAP + 0x3ff_ffff), Place::DirectMap(Pfn::new(0x3fff)));
        assert_eq!(place(DIRECT_MAP + 0x400_0000), Place::Highmem(END));
        assert!(place(DIRECT_MAP + 0x400_0000).to_string().contains("pfn 0x4000"));
    }

    #[test]
    fn every_slot_has_a_guard_on_both_sides_also_across_cpus() {
        for cpu in 0..u16::try_from(CPUS).unwrap() {
            for slot in 0..KMAP_SLOTS {
                let entry = kmap_entry(CpuId(cpu), slot);
                assert_eq!(place(kmap_address(entry) + 0xfff), Place::KmapSlot(CpuId(cpu), slot));
                assert_eq!(place(kmap_address(entry - 1)), Place::KmapGuard);
                assert_eq!(place(kmap_address(entry + 1)), Place::KmapGuard);
            }
        }
        assert_eq!(place(kmap_address(TABLE_ENTRIES)), Place::Nowhere);
    }

    #[test]
    fn stacks_of_any_size_end_alike_and_leave_room_on_both_sides_also_to_the_next_slots_stack() {
        let orders = || (0..=LARGEST_STACK.index()).map(Order::of);
        let mut below = VMAP.start;
        for slot in StackSlot::all() {
            let largest = slot.stack(LARGEST_STACK);
            assert!(largest.start - below >= PAGE_SIZE as u64, "{slot:?} touches what is below");
            for order in orders() {
                let stack = slot.stack(order);
                assert_eq!((stack.end - stack.start, stack.end), ((PAGE_SIZE as u64) << order.number(), largest.end));
                assert!(stack.start.is_multiple_of(PAGE_SIZE as u64));
                assert_eq!(place(stack.start), Place::Vmap);
            }
            below = largest.end;
        }
        assert!(below < BEHIND_STACKS);
        assert_eq!(
            (StackSlot::new(STACK_SLOTS - 1).map(StackSlot::number), StackSlot::new(STACK_SLOTS)),
            (Some(511), None)
        );
    }

    #[test]
    fn null_guard_and_non_canonical_addresses_have_names() {
        assert_eq!(place(8), Place::NullPage);
        assert_eq!(place(KERNEL + 0xff8), Place::StackGuard(GUARD));
        assert_eq!(place(KERNEL + 0x1000), Place::Kernel);
        assert_eq!(place(0x0000_8000_0000_0000), Place::NonCanonical);
        assert_eq!(place(0x0000_7fff_ffff_ffff), Place::User);
        assert_eq!(place(0x0000_0080_0000_0000), Place::User);
        assert_eq!(place(0x0000_007f_ffff_ffff), Place::Nowhere);
    }
}
