//! Pinned users' pages.
#![expect(unsafe_code, reason = "maps frames that are no folio's")]

use std::sync::Arc;

use super::rig::{HostFile, with_rig};
use super::*;
use crate::OwnerKind;
use crate::owner::{FolioFlags, Seen};
use crate::space::mmu::Access;
use crate::space::{FaultError, GupError, Sharing};
use crate::units::{Bytes, PageIndex};

use PageProtection::{Read, ReadWrite};
use Sharing::{Private, Shared};

#[test]
fn a_users_bytes_are_runs_of_folios_whatever_was_mapped_before() {
    with_rig(|rig| {
        let space = rig.space();
        space.map_anonymous(pages(16, 64), ReadWrite, Private, LARGE).expect("nothing is there");
        // From the middle of a page to the middle of another, over three large folios.
        let (start, len) = (VirtualAddress(at(20).0 + 100), 40 * 4096);
        let pinned = space.get_user_pages(start, Bytes(len), Access::Write).expect("it can be had");
        let runs: Vec<_> = pinned.runs().iter().map(|run| (run.offset().0, run.len().0)).collect();
        assert_eq!(runs, [(4 * 4096 + 100, 12 * 4096 - 100), (0, 16 * 4096), (0, 12 * 4096 + 100)]);
        assert_eq!(pinned.len(), Bytes(len));
        assert!(pinned.runs().iter().all(|run| run.folio().pins() == Count(1)));
        rig.set(&space, 37, 9);
        let mut byte = [0];
        assert_eq!(pinned.runs()[1].folio().copy_to(Bytes(5 * 4096), &mut byte), Some(()));
        assert_eq!(byte, [9], "the user's page is the pinned one");
        rig.verify([&space]);
        let folio = pinned.runs()[0].folio().get();
        drop(pinned);
        assert_eq!(folio.pins(), Count(0));
    });
}

#[test]
fn what_is_pinned_is_not_reclaimed_and_what_a_device_wrote_is_not_lost() {
    let store = HostFile::pages(16);
    with_rig(|rig| {
        let file = rig.cache.file(Arc::clone(&store), Order::of(2)).expect("there is memory");
        let space = rig.space();
        space.map_file(pages(0, 16), &file, PageIndex(0), ReadWrite, Shared).expect("nothing is there");
        let pinned = space.get_user_pages(at(5), Bytes(4096), Access::Write).expect("it can be had");
        file.write_back().expect("the store works");
        let folio = pinned.runs()[0].folio().get();
        assert!(!folio.flags().contains(FolioFlags::DIRTY));
        rig.cache.reclaim(Count(100));
        assert_eq!(rig.byte(&space, 5), 5);
        let frame = folio.head().plus(1);
        rig.cache.reclaim(Count(100));
        let there = file.lookup(PageIndex(5)).expect("it is in memory");
        assert_eq!(there.head().plus(1), frame, "it stays where it was");
        rig.machine.write(frame, 0, &[0xd0]);
        drop((there, folio, pinned));
        file.write_back().expect("the store works");
        assert_eq!(store.byte(5), 0xd0);
        rig.verify([&space]);
    });
}

#[test]
fn to_be_written_a_page_is_copied_first_if_it_is_not_the_spaces_own() {
    with_rig(|rig| {
        let parent = rig.space();
        parent.map_anonymous(pages(0, 4), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        rig.set(&parent, 1, 7);
        let child = parent.fork().expect("there is memory");
        let before = child.get_user_pages(at(1), Bytes(1), Access::Read).expect("it can be had");
        let written = child.get_user_pages(at(1), Bytes(1), Access::Write).expect("it can be had");
        assert_ne!(before.runs()[0].folio().head(), written.runs()[0].folio().head());
        rig.machine.write(written.runs()[0].folio().head(), 0, &[8]);
        assert_eq!((rig.byte(&parent, 1), rig.byte(&child, 1)), (7, 8));
        drop((before, written));
        rig.verify([&parent, &child]);
    });
}

#[test]
fn what_is_no_folio_is_refused_by_name_and_what_is_not_allowed_too() {
    with_rig(|rig| {
        let space = rig.space();
        let block = rig.pages.alloc(Request::new(Order::of(1))).expect("there is memory");
        // SAFETY: the block is the test's, and outlives the mapping.
        unsafe { space.map_frames(pages(3, 2), block.head(), ReadWrite) }.expect("nothing is there");
        space.map_anonymous(pages(0, 1), Read, Private, LARGE).expect("nothing is there");
        rig.set(&space, 4, 0x44);
        rig.verify([&space]);
        let pin = |page, len, access| space.get_user_pages(at(page), Bytes(len), access).map(|pinned| pinned.len());
        let plain = Seen::Allocated(OwnerKind::Plain);
        assert_eq!(pin(3, 1, Access::Read), Err(GupError::NotAFolio(at(3), plain)));
        assert_eq!(pin(0, 1, Access::Write), Err(FaultError::Denied(at(0), Access::Write).into()));
        assert_eq!(pin(0, 2 * 4096, Access::Read), Err(FaultError::NoRegion(at(1)).into()));
        assert_eq!(pin(0, 4096, Access::Read), Ok(Bytes(4096)));
        drop(space);
        drop(block);
    });
}

#[test]
fn no_more_folios_are_pinned_at_once_than_there_is_room_for() {
    with_rig(|rig| {
        let space = rig.space();
        space.map_anonymous(pages(0, 40), ReadWrite, Private, Order::ZERO).expect("nothing is there");
        let pinned = space.get_user_pages(at(0), Bytes(40 * 4096), Access::Write).expect("it can be had");
        assert!(pinned.len() >= Bytes(16 * 4096) && pinned.len() < Bytes(40 * 4096));
        let rest = VirtualAddress(pinned.len().0 as u64);
        let more = space.get_user_pages(rest, Bytes(4096), Access::Write).expect("it can be had");
        assert_eq!(more.len(), Bytes(4096));
    });
}
