//! What the kernel's address space must do while it changes.

use alloc::vec::Vec;
use core::convert::Infallible;
use core::ptr::NonNull;

use fastrand::Rng;
use kernel_core::layout::{BEHIND_STACKS, DIRECT_MAP, KERNEL, KMAP_LOCAL, STACK_SLOTS, VMAP};
use mm::machine::{Geometry, Machine};
use mm::owner::{Reference, TableLevel, TaskId};
use mm::page::{Block, Request};
use mm::units::{Count, Order, PAGE_SHIFT, PAGE_SIZE, Pfn};
use mm::{OwnerKind, units::Bytes};
use x86_64::VirtAddr;

use super::{Outcome, check, diagnostic, ktest};
use crate::image::Protection;
use crate::kernel_stack::{MappedStack, StackError};
use crate::memory::{self, Allocator, MachineOwners};
use crate::paging::live::{self, Permission};
use crate::paging::space::{self, MapError, Space, UnmapError, page_at};
use crate::paging::tables::{self, Table};
use crate::platform::Platform;
use crate::stacks::{self, StackUse};

/// All that a test of the address space needs.
#[derive(Clone, Copy)]
pub(super) struct Live {
    pub(super) platform: &'static Platform,
    pub(super) allocator: &'static Allocator,

    pub(super) owners: &'static MachineOwners,
    pub(super) space: &'static Space,
}

impl Live {
    pub(super) fn get() -> Option<Self> {
        Some(Self {
            platform: Platform::get()?,
            allocator: memory::allocator()?,

            owners: memory::owners()?,
            space: space::kernel()?,
        })
    }

    fn page(self) -> Result<Block<'static, Platform>, mm::page::AllocError> {
        self.allocator.alloc(Request::movable(Order::ZERO))
    }

    /// The tables that are live, in the order in which they lead to each other.
    fn tables(self) -> Vec<Table> {
        let mut tables = Vec::new();
        self.read_tables(&mut tables);
        tables
    }

    /// The same, in room that there is already.
    fn read_tables(self, tables: &mut Vec<Table>) {
        tables.clear();
        let Ok(()) = tables::try_for_each::<Infallible>(self.platform, |table| {
            tables.push(table);
            Ok(())
        });
    }

    /// Pages that are free or hold descriptors: what page tables are made of.
    fn room(self) -> u32 {
        let owned = |kind| self.owners.reports().filter(move |report| report.kind == kind).map(|report| report.pages.0);
        self.allocator.free_pages() + owned(OwnerKind::Slab).sum::<u32>()
    }

    /// Fails unless every live table has an owner that says what the table says, and there are no others.
    fn verify(self) -> Outcome {
        let tables = self.tables();
        let walker = self.owners.walk();
        for table in &tables {
            let found = walker.look(table.frame).get();
            let Some(Reference::PageTable(owner)) = &found else {
                check!(false, "{table:?} is owned by {found:?}");
                continue;
            };
            check!(found.as_ref().is_some_and(|found| found.range().pages() == 1), "{table:?} is not a page");
            let (level, used) = (owner.level(), owner.lock(self.platform).0);
            check!((level, used) == (table.level, table.used), "{table:?} has {used} entries at {level:?}, it is said");
        }
        for level in (1..=tables::ROOT.0).map(TableLevel) {
            let of_level = || tables.iter().filter(|table| table.level == level);
            let (count, entries) = (of_level().count(), of_level().map(|table| u32::from(table.used)).sum());
            let owned = walker.page_tables(level);
            check!(
                (owned.tables.0 as usize, owned.entries) == (count, Count(entries)),
                "{level:?}: {owned:?}, and the processor finds {count} tables with {entries} entries"
            );
        }
        let report = self.owners.reports().find(|report| report.kind == OwnerKind::PageTable);
        let report = report.ok_or("page tables are not reported")?;
        check!(report.pages.0 as usize == tables.len(), "{report:?}, and the processor finds {} tables", tables.len());
        Ok(())
    }
}

pub(super) fn live() -> Result<Live, &'static str> {
    Live::get().ok_or("memory is not up")
}

/// A word of a page that is mapped.
pub(super) fn word(address: u64) -> NonNull<u64> {
    NonNull::new(VirtAddr::new_truncate(address).as_mut_ptr()).unwrap_or(NonNull::dangling())
}

ktest!(
    "tables",
    fn every_table_that_the_processor_walks_is_owned_at_its_level_with_its_entries_counted() {
        let live = live()?;
        live.verify()?;
        let tables = live.tables();
        let count = |level| tables.iter().filter(|table| table.level == TableLevel(level)).count();
        diagnostic!("{} tables: {} {} {} {} from the root down", tables.len(), count(4), count(3), count(2), count(1));
        check!(count(4) == 1, "{} roots", count(4));
        let stays = |table: &Table| table.level == TableLevel(3) && VMAP.contains(&table.base);
        let empty = tables.iter().find(|table| table.used == 0 && !stays(table));
        check!(empty.is_none(), "{empty:?} leads nowhere");
        check!(tables.iter().filter(|&table| stays(table)).count() == 4, "not all that the root leads to is there");
        Ok(())
    }
);

ktest!(
    "tables",
    fn a_mapped_page_shows_its_frames_bytes_and_another_frame_there_shows_others() {
        let live = live()?;
        let mut pages = [live.page()?, live.page()?];
        for (byte, page) in [0x11, 0x22].into_iter().zip(&mut pages) {
            let head = page.head();
            page.with_page(head, |bytes| bytes.fill(byte)).ok_or("a block has no first page")?;
        }
        let address = VMAP.end - PAGE_SIZE as u64;
        // The first one comes again: a translation that was not flushed would show the other.
        for (page, shown, written) in [(0, 0x11_u8, 0x44_u8), (1, 0x22, 0x55), (0, 0x44, 0x66)] {
            let frame = pages[page].head();
            live.space.map(page_at(address), frame, Protection::ReadWrite)?;
            let leaf = live::find(live.platform, address).ok_or("it is not in the tables")?;
            check!((leaf.size, leaf.physical) == (PAGE_SIZE as u64, frame.address()), "{leaf:x?}");
            check!((leaf.write, leaf.execute) == (Permission::Granted, Permission::Denied), "{leaf:x?}");
            let place = word(address + 0xff8);
            // SAFETY: the page is mapped, and the frame the test's.
            let found = unsafe { place.read_volatile() }.to_ne_bytes();
            // SAFETY: as above, for writing, too.
            unsafe { place.write_volatile(u64::from_ne_bytes([written; 8])) };
            // SAFETY: nobody refers to the page any more.
            let unmapped = unsafe { live.space.unmap(page_at(address)) }?;
            check!(unmapped == frame, "{unmapped:?} was mapped in place of {frame:?}");
            check!(found == [shown; 8], "{found:x?} is shown in place of {shown:#x}");
            check!(live::find(live.platform, address).is_none(), "the page is still in the tables");
            let kept = pages[page].with_page(frame, |bytes| bytes[0xff8..].to_vec());
            check!(kept.as_deref() == Some(&[written; 8]), "the frame holds {kept:x?}, and {written:#x} was written");
        }
        live.verify()
    }
);

ktest!(
    "tables",
    fn after_random_pages_came_and_went_all_tables_are_those_of_before() {
        const ROUNDS: usize = 2000;
        const MOST: usize = 64;

        let live = live()?;
        let page = live.page()?;
        let (before, room) = (live.tables(), live.room());
        let mut rng = Rng::with_seed(0x7ab1e5);
        let mut mapped: Vec<u64> = Vec::with_capacity(MOST);
        let mut most_tables = 0;
        for round in 0..ROUNDS {
            // Near and far: neighbours in one table, and pages that share none but the root.
            let spread = 12 + 9 * rng.u32(0..4) + rng.u32(0..4);
            let address = BEHIND_STACKS + (rng.u64(0..(VMAP.end - BEHIND_STACKS).min(1 << spread)) & !0xfff);
            let known = mapped.contains(&address);
            if mapped.len() < MOST && (known || rng.bool()) {
                let outcome = live.space.map(page_at(address), page.head(), Protection::Read);
                let expected = if known { Err(MapError::Taken(address)) } else { Ok(()) };
                check!(outcome == expected, "round {round}: {outcome:x?} at {address:#x} in place of {expected:x?}");
                if !known {
                    mapped.push(address);
                }
            } else if !mapped.is_empty() {
                let address = mapped.swap_remove(rng.usize(..mapped.len()));
                // SAFETY: nobody looks at the page.
                let outcome = unsafe { live.space.unmap(page_at(address)) };
                check!(outcome == Ok(page.head()), "round {round}: {outcome:x?} at {address:#x}");
            }
            if round % 200 == 0 {
                live.verify()?;
                most_tables = most_tables.max(live.tables().len());
            }
        }
        for address in mapped {
            // SAFETY: as above.
            unsafe { live.space.unmap(page_at(address)) }?;
            // SAFETY: as above.
            let again = unsafe { live.space.unmap(page_at(address)) };
            check!(again == Err(UnmapError::NotMapped(address)), "{again:x?} at {address:#x}, a second time");
        }
        let after = live.tables();
        check!(after == before, "{} tables became {}", before.len(), after.len());
        // Of hundreds of tables the list itself takes pages.
        drop(after);
        let left = live.room();
        check!(left == room, "{room} pages were free or of descriptors, and now {left}");
        diagnostic!("{} tables, up to {most_tables}, and as many again", before.len());
        live.owners.verify()?;
        live.verify()
    }
);

ktest!(
    "tables",
    fn a_page_is_refused_where_none_may_come_and_none_may_go() {
        let live = live()?;
        let page = live.page()?;
        let before = live.tables();
        for address in [0, DIRECT_MAP, VMAP.start - PAGE_SIZE as u64, VMAP.end, KERNEL, KMAP_LOCAL] {
            let outcome = live.space.map(page_at(address), page.head(), Protection::Read);
            check!(outcome == Err(MapError::Outside(address)), "{outcome:x?} at {address:#x}");
        }
        for address in [DIRECT_MAP, DIRECT_MAP + 0x20_0000, KMAP_LOCAL + PAGE_SIZE as u64] {
            // SAFETY: nothing is unmapped there.
            let outcome = unsafe { live.space.unmap(page_at(address)) };
            check!(outcome == Err(UnmapError::Fixed(address)), "{outcome:x?} at {address:#x}");
        }
        // SAFETY: as above.
        let outcome = unsafe { live.space.unmap(page_at(BEHIND_STACKS)) };
        check!(outcome == Err(UnmapError::NotMapped(BEHIND_STACKS)), "{outcome:x?}");
        check!(live.tables() == before, "the tables have changed");
        Ok(())
    }
);

ktest!(
    "tables",
    fn a_table_that_cannot_be_had_at_any_level_leaves_nothing_behind() {
        /// Tables that a page takes whose neighbours are all unmapped: the root's are always there.
        const MISSING: usize = 2;

        let live = live()?;
        let page = live.page()?;
        let address = BEHIND_STACKS + (3 << 39) + (5 << 30) + (7 << 21) + (9 << PAGE_SHIFT);
        let before = live.tables();
        let mut after = Vec::with_capacity(before.len() + 4 * MISSING);
        // Descriptors for the tables and room in the list are at hand, so that only pages are short.
        live.space.map(page_at(address), page.head(), Protection::Read)?;
        // SAFETY: nobody looks at the page.
        unsafe { live.space.unmap(page_at(address)) }?;
        let mut spare: Vec<_> =
            (0..=MISSING).map(|_| live.allocator.alloc(Request::new(Order::ZERO))).collect::<Result<_, _>>()?;
        let mut hoard: Vec<Block<'_, Platform>> = Vec::with_capacity(4096);
        for order in (0..=<<Platform as Machine>::Geometry as Geometry>::MAX_ORDER.index()).rev().map(Order::of) {
            while hoard.len() < hoard.capacity()
                && let Ok(block) = live.allocator.alloc(Request::new(order).atomic())
            {
                hoard.push(block);
            }
        }
        let mut refused = 0;
        let outcome = loop {
            let free = live.allocator.free_pages();
            match live.space.map(page_at(address), page.head(), Protection::Read) {
                Err(MapError::NoTable(_)) => {}
                other => break other,
            }
            refused += 1;
            check!(live.allocator.free_pages() == free, "failure {refused} lost {free} pages");
            live.read_tables(&mut after);
            check!(after == before, "failure {refused} left a table");
            drop(spare.pop().ok_or("it fails with enough pages")?);
        };
        outcome?;
        // SAFETY: as above.
        unsafe { live.space.unmap(page_at(address)) }?;
        drop((hoard, spare));
        check!(refused == MISSING, "refused {refused} times");
        check!(live.tables() == before, "the tables have changed");
        live.verify()
    }
);

ktest!(
    "stacks",
    fn work_runs_on_an_owned_stack_between_unmapped_pages_and_comes_back() {
        let live = live()?;
        let (tables, room, stacks) = (live.tables(), live.room(), stacks::all().count());
        let mut stack = MappedStack::new(live.space, live.owners, Order::of(3), StackUse::Task, TaskId(7))?;
        let range = stack.range();
        check!(range.end - range.start == 8 * PAGE_SIZE as u64, "{range:x?}");
        for outside in [range.start - PAGE_SIZE as u64, range.end] {
            check!(live::find(live.platform, outside).is_none(), "{outside:#x}, beside the stack, is mapped");
        }
        let first = live::find(live.platform, range.start).ok_or("the stack is not mapped")?;
        let frame = Pfn::containing(first.physical).ok_or("the stack is beyond all memory")?;
        let owner = live.owners.walk().look(frame.plus(3)).get();
        let Some(Reference::KernelStack(owner)) = owner else {
            check!(false, "the stack is owned by {owner:?}");
            return Ok(());
        };
        check!(owner.task == TaskId(7), "the stack is of {:?}", owner.task);
        drop(owner);
        let seen = stack.run(|| {
            let local = core::hint::black_box([7_u8; 4096]);
            let deep: usize = local.iter().map(|&byte| usize::from(byte)).sum();
            ((&raw const local).addr() as u64, Bytes(deep))
        });
        check!(range.contains(&seen.0) && seen.1 == Bytes(7 * 4096), "{seen:x?} on a stack at {range:x?}");
        check!(stacks::all().count() == stacks + 1, "backtraces do not know of the stack");
        drop(stack);
        check!(stacks::all().count() == stacks, "backtraces know of a stack that is gone");
        check!(live::find(live.platform, range.start).is_none(), "the stack is still mapped");
        check!(live.tables() == tables && live.room() == room, "tables or pages are lost");
        Ok(())
    }
);

ktest!(
    "stacks",
    fn when_slots_run_out_or_a_stack_is_too_large_that_is_said_and_nothing_is_lost() {
        let live = live()?;
        let (tables, room) = (live.tables(), live.room());
        let stack = |order| MappedStack::new(live.space, live.owners, order, StackUse::Task, TaskId(1));
        let large = stack(Order::of(6));
        check!(matches!(large, Err(StackError::TooLarge)), "{large:?}");
        let mut stacks = Vec::with_capacity(STACK_SLOTS);
        let ended = loop {
            match stack(Order::ZERO) {
                Ok(stack) => stacks.push(stack),
                Err(error) => break error,
            }
        };
        check!(matches!(ended, StackError::NoSlot | StackError::NoMemory(_)), "{} stacks, then {ended}", stacks.len());
        live.verify()?;
        let mut starts: Vec<_> = stacks.iter().map(|stack| stack.range().start).collect();
        starts.dedup();
        check!(starts.len() == stacks.len(), "two stacks share a slot");
        drop(stacks);
        check!(live.tables() == tables && live.room() == room, "tables or pages are lost");
        Ok(())
    }
);

ktest!(
    "stacks",
    fn the_exceptions_of_this_cpu_run_on_owned_stacks_and_its_segments_stand_in_its_area() {
        let live = live()?;
        let walker = live.owners.walk();
        let pointer = x86_64::instructions::tables::sgdt();
        let frame = Pfn::containing(live.platform.physical(word(pointer.base.as_u64()).cast()));
        let area = frame.and_then(|frame| walker.look(frame).get());
        check!(matches!(&area, Some(Reference::PerCpuArea(area)) if area.cpu == live.platform.cpu()), "{area:?}");
        let mut owned = 0;
        for stack in stacks::all().filter(|stack| VMAP.contains(&stack.range.start)) {
            let leaf = live::find(live.platform, stack.range.start).ok_or("a stack is not mapped")?;
            let frame = Pfn::containing(leaf.physical).ok_or("a stack is beyond all memory")?;
            let owner = walker.look(frame).get();
            check!(matches!(owner, Some(Reference::KernelStack(_))), "the {} is owned by {owner:?}", stack.name);
            owned += 1;
        }
        check!(owned >= stacks::ExceptionStack::ALL.len(), "only {owned} stacks are owned");
        let early = stacks::ExceptionStack::ALL.map(|which| stacks::early_stack(which).range.start);
        let left = early.into_iter().find(|&start| live::find(live.platform, start).is_some());
        check!(left.is_none(), "{left:x?}, a stack of the image, is still mapped");
        Ok(())
    }
);
