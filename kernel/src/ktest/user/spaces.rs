//! What files and anonymous memory must look like at users' addresses, on the processor's own page tables.

use alloc::string::{String, ToString};

use mm::cache::Store;
use mm::compact::{Compactor, MigrateError, Refusal};
use mm::owner::Seen;
use mm::page::{FailureOutcome, Request};
use mm::space::{Access, FaultError, GupError, PageProtection, Sharing};
use mm::units::{Bytes, Count, FileOffset, Order, PAGE_SIZE, PageIndex};

use super::users::{PAGES, Users, filed, filed_page, is, page, pages, read, write};
use crate::ktest::{check, diagnostic, ktest, skip};
use crate::paging::live;
use crate::user::access::{copy_from_user, copy_to_user};
use crate::user::live as space_live;

const ALL: u64 = PAGES as u64;

ktest!(
    "spaces",
    fn a_file_is_the_same_in_all_who_share_it_and_what_is_written_reaches_the_store() {
        Users::with(|users| {
            let file = users.file(Order::of(4))?;
            let [one, other] = [users.spaces.create()?, users.spaces.create()?];
            for space in [&one, &other] {
                space.map_file(pages(0, ALL), &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Shared)?;
            }
            for number in 0..ALL {
                check!(read(&one, number)? == filed_page(number), "page {number} is not the file's");
            }
            for number in (0..ALL).step_by(7) {
                write(&one, number, 0x5a)?;
                check!(is(&other, number, 0x5a), "the other does not see what was written to page {number}");
                check!(
                    users.stored(number * PAGE_SIZE as u64)? == filed(number * PAGE_SIZE as u64),
                    "it was written through"
                );
            }
            one.verify()?;
            let written = file.write_back()?;
            check!(written >= Count(ALL.div_ceil(7).try_into()?), "{written:?} pages were written back");
            for number in 0..ALL {
                let at = number * PAGE_SIZE as u64 + 100;
                let expected = if number % 7 == 0 { 0x5a } else { filed(at) };
                check!(users.stored(at)? == expected, "page {number} of the store is not what was written");
            }
            // It is clean now, so the next write faults and makes it dirty again.
            write(&other, 7, 0x66)?;
            check!(is(&one, 7, 0x66) && file.write_back()? > Count(0), "a write after write-back is lost");
            check!(users.stored(7 * PAGE_SIZE as u64)? == 0x66, "a write after write-back does not reach the store");
            file.verify()?;
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn what_is_written_to_a_private_file_is_seen_there_alone() {
        Users::with(|users| {
            let file = users.file(Order::of(3))?;
            let [private, shared] = [users.spaces.create()?, users.spaces.create()?];
            private.map_file(pages(0, ALL), &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Private)?;
            shared.map_file(pages(0, ALL), &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Shared)?;
            // Read before it is written, and not.
            check!(read(&private, 3)? == filed_page(3), "page 3 is not the file's");
            for number in [3, 4] {
                write(&private, number, 0x77)?;
                check!(is(&private, number, 0x77), "page {number} is not what was written");
                check!(read(&shared, number)? == filed_page(number), "page {number} of the file was written");
            }
            // What the file shows later is seen wherever nothing was written.
            write(&shared, 5, 0x11)?;
            write(&shared, 3, 0x22)?;
            check!(is(&private, 5, 0x11) && is(&private, 3, 0x77), "the private one does not show what it should");
            file.write_back()?;
            check!(users.stored(4 * PAGE_SIZE as u64)? == filed(4 * PAGE_SIZE as u64), "the store was written");
            private.verify()?;
            shared.verify()?;
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn anonymous_memory_is_zero_until_it_is_written_and_only_what_is_allowed_is_done_to_it() {
        Users::with(|users| {
            let space = users.spaces.create()?;
            space.map_anonymous(pages(0, 64), PageProtection::ReadWrite, Sharing::Private, Order::of(2))?;
            for number in 0..64 {
                check!(is(&space, number, 0), "page {number} is not zero");
                if number % 3 == 0 {
                    write(&space, number, number.to_le_bytes()[0] | 1)?;
                }
            }
            space.protect(pages(10, 20), PageProtection::Read)?;
            for number in 0..64_u64 {
                let expected = if number % 3 == 0 { number.to_le_bytes()[0] | 1 } else { 0 };
                check!(is(&space, number, expected), "page {number} is not as it was written");
                let written = write(&space, number, 0xee).is_ok();
                check!(written != (10..30).contains(&number), "page {number}: a write is {written}");
            }
            space.protect(pages(10, 20), PageProtection::ReadWrite)?;
            write(&space, 15, 0x15)?;
            check!(is(&space, 15, 0x15) && read(&space, 64).is_err(), "a page behind the region can be read");
            space.verify()?;
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn a_page_behind_the_end_of_a_file_cannot_be_accessed() {
        Users::with(|users| {
            let file = users.file(Order::of(4))?;
            let space = users.spaces.create()?;
            space.map_file(pages(0, 8), &file, PageIndex(ALL - 4), PageProtection::Read, Sharing::Shared)?;
            check!(read(&space, 3)? == filed_page(ALL - 1), "the last page is not the file's");
            check!(read(&space, 4).is_err(), "a page behind the last can be read");
            let mut bytes = [0; 100];
            let read = space_live::with(&*space, || copy_from_user(page(4).plus(0), &mut bytes));
            check!(read.is_err_and(|error| error.left == Bytes(100)), "some of it was read");
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn after_a_fork_each_side_sees_its_own_writes_and_what_was_there_also_if_it_was_writable_just_now() {
        Users::with(|users| {
            let file = users.file(Order::of(2))?;
            let parent = users.spaces.create()?;
            parent.map_anonymous(pages(0, 32), PageProtection::ReadWrite, Sharing::Private, Order::of(2))?;
            parent.map_anonymous(pages(32, 4), PageProtection::ReadWrite, Sharing::Shared, Order::ZERO)?;
            parent.map_file(pages(36, 4), &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Private)?;
            for number in 0..40 {
                write(&parent, number, 1)?;
            }
            // The parent runs while it is forked, with entries that let it write in the processor's memory.
            let child = space_live::with(&*parent, || {
                copy_to_user(page(0), &[1; 8])?;
                let child = parent.fork().map_err(crate::ktest::NotPassed::from)?;
                copy_to_user(page(0), &[2; PAGE_SIZE])?;
                Ok::<_, crate::ktest::NotPassed>(child)
            })?;
            check!(is(&parent, 0, 2) && is(&child, 0, 1), "what the parent wrote right after the fork is wrong");
            let grandchild = child.fork()?;
            for (space, byte) in [(&parent, 3), (&child, 4), (&grandchild, 5)] {
                for number in (1..40).filter(|number| number % 3 == u64::from(byte) % 3) {
                    write(space, number, byte)?;
                }
            }
            for (space, byte) in [(&parent, 3), (&child, 4), (&grandchild, 5)] {
                for number in 1..40 {
                    let last_writer = [3, 4, 5][usize::try_from(number % 3)?];
                    let shared = (32..36).contains(&number);
                    let own = number % 3 == u64::from(byte) % 3;
                    let expected = if shared {
                        last_writer
                    } else if own {
                        byte
                    } else {
                        1
                    };
                    check!(
                        is(space, number, expected),
                        "page {number} of the one that writes {byte} is not {expected}"
                    );
                }
                space.verify()?;
            }
            // The one in the middle goes, and what is behind the others becomes theirs.
            drop(child);
            for number in 1..32 {
                write(&grandchild, number, 6)?;
                let expected = if number % 3 == 0 { 3 } else { 1 };
                check!(is(&parent, number, expected), "page {number} of the parent changed with its grandchild's");
            }
            drop(parent);
            check!(
                (1..32).all(|number| is(&grandchild, number, 6)) && is(&grandchild, 0, 1),
                "the last one lost pages"
            );
            grandchild.verify()?;
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn what_is_unmapped_faults_at_once_and_its_neighbours_stay() {
        Users::with(|users| {
            let space = users.spaces.create()?;
            space.map_anonymous(pages(0, 32), PageProtection::ReadWrite, Sharing::Private, Order::of(3))?;
            (0..32).try_for_each(|number| write(&space, number, 9))?;
            space_live::with(&*space, || {
                let mut byte = [0];
                for number in [0, 5, 6, 7, 31] {
                    copy_from_user(page(number), &mut byte)?;
                    space.unmap(pages(number, 1))?;
                    check!(copy_from_user(page(number), &mut byte).is_err(), "page {number} is still there");
                }
                Ok(())
            })?;
            for number in 0..32 {
                let gone = [0, 5, 6, 7, 31].contains(&number);
                check!(read(&space, number).is_err() == gone && (gone || is(&space, number, 9)), "page {number}");
            }
            space.unmap(pages(0, 64))?;
            check!((0..32).all(|number| read(&space, number).is_err()), "a page is still there");
            space.map_anonymous(pages(0, 32), PageProtection::ReadWrite, Sharing::Private, Order::ZERO)?;
            check!((0..32).all(|number| is(&space, number, 0)), "a new region shows what the old one did");
            space.verify()?;
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn two_mib_are_one_entry_until_a_part_of_them_goes() {
        const LARGE: u64 = 2 << 20;
        Users::with(|users| {
            let Ok(block) = users.live.allocator.alloc(Request::movable(Order::of(9))) else {
                return skip("there are no 2 MiB", users.live.allocator.free_pages());
            };
            drop(block);
            let space = users.spaces.create()?;
            space.map_anonymous(pages(0, 512), PageProtection::ReadWrite, Sharing::Private, Order::of(9))?;
            let size = |number| {
                let leaf = space_live::with(&*space, || live::find(users.live.platform, page(number).0));
                leaf.map(|leaf| leaf.size)
            };
            write(&space, 300, 7)?;
            check!(size(0) == Some(LARGE), "the entry maps {:?} bytes", size(0));
            check!(is(&space, 299, 0) && is(&space, 300, 7), "the pages are not what was written");
            space.protect(pages(100, 1), PageProtection::Read)?;
            check!(size(0) == Some(PAGE_SIZE as u64), "after a page was protected it maps {:?}", size(0));
            check!(write(&space, 100, 1).is_err() && write(&space, 101, 1).is_ok(), "the wrong page is protected");
            space.unmap(pages(200, 1))?;
            check!(read(&space, 200).is_err() && is(&space, 300, 7) && is(&space, 511, 0), "the wrong page is gone");
            space.verify()?;
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn what_was_reclaimed_comes_back_as_it_was() {
        Users::with(|users| {
            let file = users.file(Order::of(3))?;
            let space = users.spaces.create()?;
            space.map_anonymous(pages(0, 200), PageProtection::ReadWrite, Sharing::Private, Order::of(3))?;
            space.map_file(pages(200, ALL), &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Shared)?;
            let byte = |number: u64| number.to_le_bytes()[0] | 1;
            for number in 0..200 + ALL {
                write(&space, number, byte(number))?;
            }
            for round in 0..3 {
                let Count(most) = users.cache.reclaim(Count(u32::MAX));
                diagnostic!("round {round}: {most} pages were reclaimed, {:?}", users.cache.report().swapped);
                check!(most > 0 || round > 0, "nothing was reclaimed");
                for number in 0..200 + ALL {
                    check!(is(&space, number, byte(number)), "round {round}: page {number} is not what it was");
                }
                space.verify()?;
                file.verify()?;
            }
            let report = users.cache.report();
            check!(report.swapped_in > 0 && report.swapped_out >= report.swapped_in, "{report:?}");
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn pinned_pages_are_found_in_runs_stay_where_they_are_and_frames_of_no_folio_are_refused() {
        Users::with(|users| {
            let space = users.spaces.create()?;
            space.map_anonymous(pages(0, 16), PageProtection::ReadWrite, Sharing::Private, Order::of(2))?;
            (0..16).try_for_each(|number| write(&space, number, 0x41))?;
            let start = page(1).plus(100);
            let pinned = space.get_user_pages(start, Bytes(6 * PAGE_SIZE), Access::Write)?;
            check!(pinned.len() == Bytes(6 * PAGE_SIZE), "{pinned:?}");
            let runs: usize = pinned.runs().iter().map(|run| run.len().0).sum();
            check!(runs == 6 * PAGE_SIZE && pinned.runs().len() < 6, "{pinned:?}");
            let heads: alloc::vec::Vec<_> = pinned.runs().iter().map(|run| run.folio().head()).collect();
            for _ in 0..3 {
                users.cache.reclaim(Count(u32::MAX));
            }
            let left = pinned.runs().iter().map(|run| run.folio().order().pages()).sum::<u32>();
            let report = users.cache.report();
            check!(report.active.0 + report.inactive.0 == left, "{report:?}, and {left} pages are pinned");
            let again = space.get_user_pages(start, Bytes(6 * PAGE_SIZE), Access::Read)?;
            check!(again.runs().iter().map(|run| run.folio().head()).eq(heads), "{again:?} and {pinned:?}");
            drop((pinned, again));
            check!(is(&space, 7, 0x41), "what was pinned is not what it was");
            users.cache.reclaim(Count(u32::MAX));
            users.cache.reclaim(Count(u32::MAX));
            check!(users.cache.report().inactive == Count(0), "what was pinned is never reclaimed");

            let block = users.live.allocator.alloc(Request::movable(Order::ZERO))?;
            // SAFETY: the frame is the test's, and users read and write it as bytes.
            unsafe { space.map_frames(pages(20, 1), block.head(), PageProtection::ReadWrite) }?;
            write(&space, 20, 0x42)?;
            let refused = space.get_user_pages(page(20), Bytes(1), Access::Read).err();
            let plain = Seen::Allocated(mm::OwnerKind::Plain);
            check!(refused == Some(GupError::NotAFolio(page(20), plain)), "{refused:?}");
            let missing = space.get_user_pages(page(30), Bytes(1), Access::Read);
            check!(matches!(missing, Err(GupError::Fault(_))), "{missing:?}");
            space.unmap(pages(20, 1))?;
            drop(block);
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn a_space_that_goes_gives_every_page_back_whatever_it_had() {
        Users::with(|users| {
            let room = |users: &Users<'_>| {
                users.live.owners.verify()?;
                Ok::<_, crate::ktest::NotPassed>(crate::heap::census())
            };
            let before = room(&users)?;
            let file = users.file(Order::of(4))?;
            let with_file = room(&users)?;
            for round in 0..3 {
                let space = users.spaces.create()?;
                space.map_anonymous(pages(0, 64), PageProtection::ReadWrite, Sharing::Private, Order::of(round))?;
                space.map_file(pages(64, 64), &file, PageIndex(0), PageProtection::Read, Sharing::Private)?;
                (0..64).try_for_each(|number| write(&space, number, 1))?;
                (64..128).try_for_each(|number| read(&space, number).map(drop))?;
                let child = space.fork()?;
                (0..64).step_by(2).try_for_each(|number| write(&child, number, 2))?;
                drop(space);
                check!(is(&child, 1, 1) && is(&child, 2, 2), "the child lost what it had");
            }
            check!(file.pages() >= 64, "the file's pages went with who mapped them");
            file.truncate(PageIndex(0))?;
            check!(room(&users)? == with_file, "{with_file} became {}", room(&users)?);
            drop(file);
            check!(room(&users)? == before, "{before} became {}", room(&users)?);
            let mut byte = [0];
            users.store.read(FileOffset(5), &mut byte)?;
            check!(byte == [filed(5)], "the store has changed");
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn pages_move_under_those_who_map_them_and_pinned_ones_stay() {
        const COUNT: u64 = 1024;
        const WANTED: Order = Order::of(6);
        Users::with(|users| {
            let free = users.live.allocator.free_pages();
            // All of them at first, their tables, and what a zone keeps back.
            if u64::from(free) < COUNT + COUNT / 4 {
                return skip("there is no room for them", free);
            }
            let mapping = users.cache.anonymous(Order::ZERO)?;
            let [one, other] = [users.spaces.create()?, users.spaces.create()?];
            for (space, protection) in [(&one, PageProtection::ReadWrite), (&other, PageProtection::Read)] {
                space.map_file(pages(0, COUNT), &mapping, PageIndex(0), protection, Sharing::Shared)?;
            }
            let byte = |number: u64| number.wrapping_mul(7).to_le_bytes()[0] | 1;
            (0..COUNT).try_for_each(|number| write(&one, number, byte(number)))?;
            let stays = |number: u64| number.is_multiple_of(5);
            (0..COUNT).filter(|&number| !stays(number)).for_each(|number| mapping.forget(PageIndex(number)));
            (0..COUNT).filter(|&number| stays(number)).try_for_each(|number| read(&other, number).map(drop))?;
            let pinned = one.get_user_pages(page(500), Bytes(1), Access::Write)?;
            let head = |number| mapping.lookup(PageIndex(number)).map(|folio| folio.head());
            let before: alloc::vec::Vec<_> = (0..COUNT).map(head).collect();
            let mut blocks = alloc::vec::Vec::with_capacity(64);
            let report = Compactor::new(&users.spaces).compact(WANTED, Count(64), |block| blocks.push(block));
            diagnostic!("{} of {} areas cleared, {:?}", report.cleared.0, report.tried.0, report.moved);
            check!(report.cleared.0 > 0 && blocks.len() == report.cleared.0 as usize, "{report}");
            check!(blocks.iter().all(|block| block.order() == WANTED), "{blocks:?}");
            let moved = (0..COUNT).zip(&before).filter(|&(number, &before)| head(number) != before).count();
            check!(moved > 0 && moved <= report.moved.folios.0 as usize, "{moved} have moved, {:?}", report.moved);
            check!(head(500) == before[500], "a pinned page has moved");
            check!(report.refused(Refusal::Stays(MigrateError::Pinned)) <= Count(1), "{report}");
            for number in (0..COUNT).filter(|&number| stays(number)) {
                check!(is(&one, number, byte(number)) && is(&other, number, byte(number)), "page {number} has changed");
            }
            drop(pinned);
            for space in [&one, &other] {
                space.verify()?;
            }
            mapping.verify()?;
            users.live.allocator.verify()?;
            // What was made is memory like any other.
            drop(blocks);
            write(&one, 3, 3)?;
            check!(is(&other, 3, 3), "the other does not see what was written after all had moved");
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn memory_that_fails_is_gone_for_all_who_map_it_and_what_was_only_there_is_reported_and_not_waited_for() {
        Users::with(|users| {
            let file = users.file(Order::of(2))?;
            let [one, other] = [users.spaces.create()?, users.spaces.create()?];
            for space in [&one, &other] {
                space.map_file(pages(0, 16), &file, PageIndex(0), PageProtection::ReadWrite, Sharing::Shared)?;
            }
            (0..16).try_for_each(|number| read(&one, number).map(drop))?;
            (8..16).try_for_each(|number| write(&other, number, 0x5a))?;
            let frame = |number: u64| {
                let folio = file.lookup(PageIndex(number))?;
                Some(folio.head().plus(u32::try_from(number - folio.index().0).ok()?))
            };
            let [clean, dirty] = [frame(1).ok_or("page 1 is not there")?, frame(9).ok_or("page 9 is not there")?];
            let failed = users.cache.memory_failure(clean)?;
            check!(failed.outcome == FailureOutcome::Recovered, "a clean page: {failed:?}");
            check!(read(&other, 1)? == filed_page(1) && frame(1) != Some(clean), "a clean page is not read again");
            let failed = users.cache.memory_failure(dirty)?;
            check!(failed.outcome == FailureOutcome::Failed { lost: Count(1) }, "a dirty page: {failed:?}");
            for space in [&one, &other] {
                check!(read(space, 9).is_err() && write(space, 9, 1).is_err(), "what was lost can be accessed");
                let fault = space.fault(page(9), Access::Read);
                check!(fault == Err(FaultError::Poisoned(page(9))), "{fault:?}");
                check!(is(space, 8, 0x5a) && is(space, 10, 0x5a), "a page beside it was lost, too");
                space.verify()?;
            }
            file.verify()?;
            for pfn in [clean, dirty] {
                users.live.allocator.unpoison_memory(pfn)?;
            }
            Ok(())
        })
    }
);

ktest!(
    "spaces",
    fn a_section_goes_out_of_use_under_those_who_have_memory_in_it_and_comes_back() {
        // The kernel has nothing in the other half of a section that a block of this size was split off.
        const LARGE: Order = Order::of(9);
        const COUNT: u64 = 4 * LARGE.pages() as u64;
        Users::with(|users| {
            let free = users.live.allocator.free_pages();
            if u64::from(free) < 2 * COUNT {
                return skip("there is no room to move to", free);
            }
            let space = users.spaces.create()?;
            space.map_anonymous(pages(0, COUNT), PageProtection::ReadWrite, Sharing::Private, LARGE)?;
            let byte = |number: u64| number.to_le_bytes()[0] | 1;
            (0..COUNT).try_for_each(|number| write(&space, number, byte(number)))?;
            let (allocator, compactor) = (users.live.allocator, Compactor::new(&users.spaces));
            let managed = || allocator.zones().map(|zone| zone.managed).sum::<u32>();
            let before = managed();
            let mut gone = Err(String::new());
            for number in (0..COUNT).step_by(LARGE.pages() as usize) {
                let pinned = space.get_user_pages(page(number), Bytes(1), Access::Read)?;
                let head = pinned.runs().first().ok_or("nothing is pinned")?.folio().head();
                drop(pinned);
                gone = compactor.offline_pages(head).map(|section| (section, head)).map_err(|why| why.to_string());
                if gone.is_ok() {
                    break;
                }
            }
            let (section, head) = match gone {
                Ok(gone) => gone,
                Err(why) => return skip("every section of a user's page stays", why),
            };
            check!(section.contains(head), "{section:?} went, and {head:?} was to");
            check!(managed() + section.pages() == before, "{before} pages were managed, then {}", managed());
            check!((0..COUNT).all(|number| is(&space, number, byte(number))), "a user lost something");
            allocator.verify()?;
            check!(allocator.online_pages(head)? == section, "another section came back");
            check!(managed() == before, "{before} pages were managed, and now {}", managed());
            check!((0..COUNT).all(|number| is(&space, number, byte(number))), "a user lost something");
            space.verify()?;
            Ok(())
        })
    }
);
