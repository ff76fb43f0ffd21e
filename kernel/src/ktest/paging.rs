//! What the live page tables must say.

use alloc::vec::Vec;

use kernel_core::layout::{DIRECT_MAP, DIRECT_MAP_LIMIT, KMAP_LOCAL, LARGEST_STACK, LOCAL_APIC, Place, kmap_address};
use mm::machine::Machine;
use mm::owner::{Seen, TaskId};
use mm::units::{Order, PAGE_SIZE, Pfn, PfnRange};
use x86_64::registers::control::{Cr0, Cr0Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};

use super::{NotPassed, check, diagnostic, ktest};
use crate::image::{self, Protection, Segments};
use crate::kernel_stack::MappedStack;
use crate::paging::live::{self, Leaf, Permission};
use crate::paging::retire;
use crate::platform::Platform;
use crate::stacks::{self, StackUse};
use crate::{cpu, memory};

fn platform() -> Result<&'static Platform, NotPassed> {
    Platform::get().ok_or_else(|| "the platform is not up".into())
}

fn protection_of(leaf: &Leaf) -> Option<Protection> {
    match (leaf.write, leaf.execute) {
        (Permission::Denied, Permission::Denied) => Some(Protection::Read),
        (Permission::Granted, Permission::Denied) => Some(Protection::ReadWrite),
        (Permission::Denied, Permission::Granted) => Some(Protection::ReadExecute),
        (Permission::Granted, Permission::Granted) => None,
    }
}

ktest!(
    "paging",
    fn no_page_is_writable_and_executable() {
        let (mut pages, mut executable, mut both) = (0_u32, 0_u64, Vec::new());
        live::for_each_leaf(platform()?, 0..u64::MAX, |leaf| {
            pages += 1;
            executable += if leaf.execute == Permission::Granted { leaf.size } else { 0 };
            if protection_of(&leaf).is_none() {
                both.push(leaf);
            }
        });
        check!(both.is_empty(), "{} pages are, the first is {:x?}", both.len(), both.first());
        check!(executable > 0, "nothing is executable, so the walk has missed this very code");
        diagnostic!("{pages} pages of all sizes, {executable} bytes executable");
        Ok(())
    }
);

ktest!(
    "paging",
    fn write_protection_and_no_execute_are_switched_on() {
        check!(Cr0::read().contains(Cr0Flags::WRITE_PROTECT), "CR0.WP is off: the kernel may write anywhere");
        check!(Efer::read().contains(EferFlags::NO_EXECUTE_ENABLE), "EFER.NXE is off: everything is executable");
        Ok(())
    }
);

ktest!(
    "paging",
    fn every_page_of_the_image_has_its_segments_protection() {
        let platform = platform()?;
        let mut kinds = [0_u32; 3];
        for segment in Segments::of_kernel()?.iter() {
            let segment = segment?;
            for address in (segment.start..segment.end).step_by(PAGE_SIZE) {
                let leaf = live::find(platform, address);
                if stacks::guards().any(|guard| guard.page == address) {
                    check!(leaf.is_none(), "the guard page at {address:#x} is mapped");
                    continue;
                }
                if retire::is_retired(address) || stacks::early_guards().any(|guard| guard == address) {
                    check!(leaf.is_none(), "the page at {address:#x} is mapped, and was given back");
                    continue;
                }
                let found = leaf.as_ref().and_then(protection_of);
                let sealed = image::read_only_after_init().contains(&address);
                let wanted = if sealed { Protection::Read } else { segment.protection };
                check!(found == Some(wanted), "{address:#x}: {found:?} in place of {wanted:?}");
                kinds[segment.protection as usize] += 1;
            }
        }
        diagnostic!("pages: {} constant, {} variable, {} code", kinds[0], kinds[1], kinds[2]);
        check!(kinds.iter().all(|&pages| pages > 0), "a kind of segment is missing");
        Ok(())
    }
);

ktest!(
    "paging",
    fn code_constants_and_variables_are_protected_as_such() {
        static CONSTANT: [u64; 4] = [1, 2, 3, 4];
        let variable = 0_u64;
        let code = no_page_is_writable_and_executable as fn() -> super::Outcome as usize as u64;
        let places = [
            ("this function", code, Protection::ReadExecute),
            ("a constant", (&raw const CONSTANT).addr() as u64, Protection::Read),
            ("a variable on the stack", (&raw const variable).addr() as u64, Protection::ReadWrite),
            ("the window's page table", (&raw const crate::kmap::WINDOW).addr() as u64, Protection::ReadWrite),
        ];
        for (what, address, wanted) in places {
            let found = live::find(platform()?, address).as_ref().and_then(protection_of);
            check!(found == Some(wanted), "{what} at {address:#x}: {found:?}, not {wanted:?}");
        }
        Ok(())
    }
);

ktest!(
    "paging",
    fn below_and_above_every_stack_is_an_unmapped_page_and_the_stack_itself_is_mapped() {
        let live = super::space::live()?;
        let platform = live.platform;
        // One of each order, beside those that the kernel has.
        let orders = (0..=LARGEST_STACK.index()).map(Order::of);
        let tasks = orders.map(|order| MappedStack::new(live.space, live.owners, order, StackUse::Task, TaskId(1)));
        let tasks: Vec<_> = tasks.collect::<Result<_, _>>()?;
        let expected = 5 * cpu::online().count() + tasks.len();
        check!(stacks::all().count() == expected, "{} stacks of {expected}", stacks::all().count());
        for stack in stacks::all() {
            for guard in stack.guards() {
                check!(live::find(platform, guard.page).is_none(), "mapped, and to be a guard: {guard:x?}");
                let place = Place::of(guard.page, platform.direct_map_end(), stacks::guards());
                check!(place == Place::StackGuard(guard), "{guard:x?} is said to be {place:x?}");
            }
            for address in stack.range.clone().step_by(PAGE_SIZE) {
                let found = live::find(platform, address).as_ref().and_then(protection_of);
                check!(found == Some(Protection::ReadWrite), "{}, {address:#x}: {found:?}", stack.name);
            }
        }
        Ok(())
    }
);

ktest!(
    "paging",
    fn the_direct_map_ends_exactly_at_the_boundary_and_leads_where_it_says() {
        let platform = platform()?;
        let boundary = DIRECT_MAP + platform.direct_map_end().address().0;
        let (allocator, owners) = memory::allocator().zip(memory::owners()).ok_or("nobody owns anything")?;
        let mut below = (0..platform.direct_map_end().number()).rev().map(Pfn::new);
        let memory = below.find(|&pfn| owners.walk().look(pfn).seen() != Seen::Hole).ok_or("there is no memory")?;
        // Free pages may be out of the map. Whoever else has it, has it there.
        let _held = allocator.alloc_contig(PfnRange::new(memory, memory.plus(1)));
        let (mut above, mut astray, mut last) = (None, None, 0);
        live::for_each_leaf(platform, DIRECT_MAP..DIRECT_MAP_LIMIT, |leaf| {
            if leaf.address + leaf.size > boundary {
                above = Some(leaf);
            }
            let identity = leaf.physical.0 == leaf.address - DIRECT_MAP;
            if !identity || leaf.execute == Permission::Granted {
                astray = Some(leaf);
            }
            last = leaf.address + leaf.size;
        });
        check!(above.is_none(), "mapped above the boundary {boundary:#x}: {above:x?}");
        check!(astray.is_none(), "not its own frame, or executable: {astray:x?}");
        check!(last > DIRECT_MAP && last <= boundary, "the last page ends at {last:#x}, the boundary is {boundary:#x}");
        check!(last > DIRECT_MAP + memory.address().0, "{memory:?} is memory, and the last page ends at {last:#x}");
        diagnostic!("the last page ends {} bytes below the boundary", boundary - last);
        Ok(())
    }
);

ktest!(
    "paging",
    fn nothing_of_the_loader_is_left() {
        let mut foreign = Vec::new();
        let image: Vec<_> = Segments::of_kernel()?.iter().collect::<Result<_, _>>()?;
        live::for_each_leaf(platform()?, 0..u64::MAX, |leaf| {
            let ours = (DIRECT_MAP..DIRECT_MAP_LIMIT).contains(&leaf.address)
                || (KMAP_LOCAL..kmap_address(512)).contains(&leaf.address)
                || leaf.address == LOCAL_APIC
                || stacks::all().any(|stack| stack.range.contains(&leaf.address))
                || image.iter().any(|segment| (segment.start..segment.end).contains(&leaf.address));
            if !ours {
                foreign.push(leaf);
            }
        });
        check!(foreign.is_empty(), "{} pages, the first is {:x?}", foreign.len(), foreign.first());
        Ok(())
    }
);
