//! What the processor must make of users' page tables.

use mm::owner::TableLevel;
use mm::page::{Block, Request};
use mm::space::{Access, Accessed, Mmu, PageEntry, PageProtection, TableEntry};
use mm::units::{Order, PAGE_SIZE, Pfn};
use x86_64::registers::control::{Cr3, Cr4, Cr4Flags};

use super::handmade::{Handmade, PageNumber, entry, refuse};
use crate::image::Protection;
use crate::ktest::space::{Live, live, word};
use crate::ktest::{NotPassed, check, ktest, skip};
use crate::paging::space::page_at;
use crate::platform::Platform;
use crate::user::access::{copy_from_user, copy_to_user};
use crate::user::live;

type Page = Block<'static, Platform>;

/// A page of one byte.
fn page_of(live: Live, byte: u8) -> Result<Page, NotPassed> {
    let mut page = live.allocator.alloc(Request::movable(Order::ZERO))?;
    let head = page.head();
    page.with_page(head, |bytes| bytes.fill(byte)).ok_or("a block has no first page")?;
    Ok(page)
}

/// The byte that stands at the end of a page; `None` if it cannot be read.
fn byte_at(space: &Handmade, page: PageNumber) -> Option<u8> {
    let mut byte = [0];
    copy_from_user(space.address(page).plus(PAGE_SIZE as u64 - 1), &mut byte).ok()?;
    Some(byte[0])
}

const FIRST: PageNumber = PageNumber(0);
const SECOND: PageNumber = PageNumber(1);
const LAST: PageNumber = PageNumber(511);
const END: PageNumber = PageNumber(512);

ktest!(
    "mmu",
    fn every_entry_means_what_was_encoded_and_nothing_that_is_not_present_is_empty() {
        let space = Handmade::new(live()?, refuse)?;
        let mmu = &space.mmu;
        check!(mmu.encode(TableEntry::Empty, TableLevel(1)) == 0, "an empty entry is not 0");
        for level in [TableLevel(1), TableLevel(2)] {
            let last = Pfn::new(u32::MAX - 1).align_down(Order::of(9));
            for frame in [Pfn::new(0), Pfn::new(0x200), Pfn::new(0x1234_5600), last] {
                for protection in [PageProtection::Read, PageProtection::ReadWrite, PageProtection::ReadExecute] {
                    for accessed in [Accessed::No, Accessed::Yes] {
                        let page = PageEntry { frame, protection, accessed };
                        for entry in [TableEntry::Page(page), TableEntry::Moving(page)] {
                            let bits = mmu.encode(entry, level);
                            check!(mmu.decode(bits, level) == entry, "{entry:?} at {level:?} is {bits:#x}");
                            let present = bits & 1 != 0;
                            check!(present == matches!(entry, TableEntry::Page(_)), "{entry:?} is {bits:#x}");
                        }
                    }
                }
                let table = TableEntry::Table(frame);
                let bits = mmu.encode(table, TableLevel(4));
                check!(mmu.decode(bits, TableLevel(4)) == table, "{table:?} is {bits:#x}");
            }
        }
        Ok(())
    }
);

ktest!(
    "mmu",
    fn spaces_have_no_numbers_so_whoever_leaves_one_forgets_it() {
        check!(!Cr4::read().contains(Cr4Flags::PCID), "spaces have numbers");
        Ok(())
    }
);

ktest!(
    "mmu",
    fn each_space_shows_its_own_frames_also_within_another_and_none_is_left_behind() {
        let live = live()?;
        let pages = [page_of(live, 0x11)?, page_of(live, 0x22)?];
        let [outer, inner] = [Handmade::new(live, refuse)?, Handmade::new(live, refuse)?];
        for (space, page) in [&outer, &inner].into_iter().zip(&pages) {
            space.set(FIRST, TableEntry::Page(entry(page.head(), PageProtection::Read)));
        }
        let before = Cr3::read();
        let seen = live::with(&outer, || {
            let first = byte_at(&outer, FIRST);
            let within = live::with(&inner, || byte_at(&inner, FIRST));
            (first, within, byte_at(&outer, FIRST))
        });
        check!(seen == (Some(0x11), Some(0x22), Some(0x11)), "{seen:x?}");
        check!(Cr3::read() == before, "the kernel's tables are not live again");
        check!(byte_at(&outer, FIRST).is_none(), "a user's page can be read where no space is live");
        Ok(())
    }
);

ktest!(
    "mmu",
    fn the_kernels_half_is_there_in_every_space_also_what_was_mapped_after_the_space_was_made() {
        let live = live()?;
        let space = Handmade::new(live, refuse)?;
        let page = page_of(live, 0x33)?;
        // In each of the tables that the root leads to.
        let step = kernel_core::layout::ROOT_ENTRY;
        for address in (0..4).map(|entry| kernel_core::layout::VMAP.end - PAGE_SIZE as u64 - entry * step) {
            live.space.map(page_at(address), page.head(), Protection::Read)?;
            let read = || {
                // SAFETY: the page is mapped, and nobody writes it.
                unsafe { word(address).read_volatile() }
            };
            let seen = live::with(&space, || (read(), alloc::vec![7_u8; 100_000].iter().all(|&byte| byte == 7)));
            // Unmapped while the other is live, it is gone from both.
            // SAFETY: nobody refers to the page.
            let unmapped = live::with(&space, || unsafe { live.space.unmap(page_at(address)) });
            check!(seen == (0x3333_3333_3333_3333, true), "{seen:x?} at {address:#x}");
            check!(unmapped == Ok(page.head()), "{unmapped:?}");
        }
        Ok(())
    }
);

ktest!(
    "mmu",
    fn a_page_that_is_taken_away_or_protected_is_so_at_once_once_it_is_flushed() {
        let live = live()?;
        let pages = [page_of(live, 0x44)?, page_of(live, 0x55)?];
        let space = Handmade::new(live, refuse)?;
        let [first, second] = pages.each_ref().map(Block::head);
        live::with(&space, || {
            for round in 0..100 {
                let show = |frame, protection| {
                    space.set(FIRST, TableEntry::Page(entry(frame, protection)));
                    space.flush(FIRST, SECOND);
                };
                show(first, PageProtection::ReadWrite);
                check!(byte_at(&space, FIRST) == Some(0x44), "round {round}: the first frame is not shown");
                check!(copy_to_user(space.address(FIRST), &[1]).is_ok(), "round {round}: it cannot be written");
                show(first, PageProtection::Read);
                check!(copy_to_user(space.address(FIRST), &[1]).is_err(), "round {round}: it can be written");
                show(second, PageProtection::Read);
                check!(byte_at(&space, FIRST) == Some(0x55), "round {round}: the second frame is not shown");
                space.set(FIRST, TableEntry::Moving(entry(second, PageProtection::ReadWrite)));
                space.flush(FIRST, SECOND);
                check!(byte_at(&space, FIRST).is_none(), "round {round}: a page that is being moved can be read");
                space.set(FIRST, TableEntry::Empty);
                space.flush(FIRST, SECOND);
                check!(byte_at(&space, FIRST).is_none(), "round {round}: a page that is gone can be read");
            }
            Ok(())
        })
    }
);

ktest!(
    "mmu",
    fn a_large_entry_maps_2_mib_and_all_of_them_are_gone_with_it() {
        let live = live()?;
        let block = live.allocator.alloc(Request::movable(Order::of(9)));
        let mut block = match block {
            Ok(block) => block,
            Err(error) => return skip("there are no 2 MiB", error),
        };
        for (byte, frame) in (0_usize..).zip(block.range().frames()) {
            block.with_page(frame, |bytes| bytes.fill(byte.to_le_bytes()[0])).ok_or("a frame is not the block's")?;
        }
        let head = block.head();
        let space = Handmade::new(live, refuse)?;
        let everywhere = || (0..=LAST.0).map(|page| byte_at(&space, PageNumber(page)));
        live::with(&space, || {
            for protection in [PageProtection::Read, PageProtection::ReadWrite] {
                space.set_all(TableEntry::Page(entry(head, protection)));
                let right = everywhere().eq((0_usize..512).map(|page| Some(page.to_le_bytes()[0])));
                check!(right, "a page of it is not its own");
                let written = copy_to_user(space.address(LAST), &[0]).is_ok();
                check!(
                    written == (protection == PageProtection::ReadWrite),
                    "{protection:?}, and a write is {written}"
                );
                space.set_all(TableEntry::Moving(entry(head, protection)));
                space.flush(FIRST, END);
                check!(everywhere().all(|byte| byte.is_none()), "a page is left of 2 MiB that are being moved");
            }
            Ok(())
        })
    }
);

ktest!(
    "mmu",
    fn the_processor_marks_the_entry_that_it_used_and_no_other() {
        let live = live()?;
        let page = page_of(live, 0x66)?;
        let space = Handmade::new(live, refuse)?;
        let fresh = entry(page.head(), PageProtection::ReadWrite);
        let used = PageEntry { accessed: Accessed::Yes, ..fresh };
        space.set(FIRST, TableEntry::Page(fresh));
        space.set(SECOND, TableEntry::Page(fresh));
        live::with(&space, || byte_at(&space, SECOND));
        check!(space.get(FIRST) == TableEntry::Page(fresh), "{:?}, and nobody used it", space.get(FIRST));
        check!(space.get(SECOND) == TableEntry::Page(used), "{:?}, and it was read", space.get(SECOND));
        // What it marks in an entry that is written means nothing more.
        let written = live::with(&space, || copy_to_user(space.address(SECOND), &[1, 2, 3]));
        check!(written.is_ok() && space.get(SECOND) == TableEntry::Page(used), "{:?}", space.get(SECOND));
        check!(space.take_faults().is_empty(), "an entry that was there faulted");
        let execute = live::with(&space, || space.get(SECOND));
        check!(matches!(execute, TableEntry::Page(page) if !page.protection.allows(Access::Execute)), "{execute:?}");
        Ok(())
    }
);
