//! Bytes and pages of folios, up to their ends and not beyond.

use core::num::NonZeroU16;
use std::vec::Vec;

use super::*;
use crate::boot_map::{BootMap, Region, RegionKind};
use crate::host::HostMachine;
use crate::owner::{Folio, Owners};
use crate::page::Request;
use crate::slab::KmemCaches;
use crate::units::{NodeId, PhysAddr};

const PAGE: usize = PAGE_SIZE;

/// Runs a test with two folios of four pages, in lowmem and in highmem, of which nothing is known to be up to date. The byte at
/// `n` of each is a function of `n`.
fn with_folios(test: impl Fn(&LockedFolio<'_, HostMachine>, &LockedFolio<'_, HostMachine>)) {
    let end = Pfn::new(0x800);
    for lowmem_end in [end, Pfn::new(0x400)] {
        let machine = HostMachine::new(end, lowmem_end, NonZeroU16::MIN).expect("the host lends memory");
        let memory = Region { start: PhysAddr(0), len: end.address().0, kind: RegionKind::Usable, node: NodeId(0) };
        let mut map: BootMap = BootMap::new(&[memory]).expect("the map is sound");
        let pages = machine.allocator(&mut map).expect("the tables fit");
        let caches = KmemCaches::new(&pages).expect("there is memory");
        let owners = Owners::new(&caches).expect("there is memory");
        let folio = || {
            let folio = owners.alloc(Request::movable(Order::of(2)), Folio::new());
            let folio = folio.map_err(|(_, error)| error).expect("there is memory").into_shared().lock();
            for page in 0..4 {
                folio.fill_page(page, |bytes| {
                    bytes.copy_from_slice(&known(page as usize * PAGE..(page as usize + 1) * PAGE));
                });
            }
            folio
        };
        test(&folio(), &folio());
    }
}

/// What stands at these places.
fn known(places: core::ops::Range<usize>) -> Vec<u8> {
    places.map(|at| u8::try_from((at * 31 + at / 251) % 253).expect("small")).collect()
}

#[test]
fn any_run_of_bytes_is_copied_out_and_none_that_ends_beyond_the_folio() {
    with_folios(|folio, _| {
        let (mut bytes, untouched) = ([0; 4 * PAGE + 1], [0xfe; 4 * PAGE + 1]);
        let known = known(0..4 * PAGE);
        assert_eq!(folio.copy_to(Bytes(0), &mut bytes[..8]), None, "it is not up to date");
        folio.set(FolioFlags::UPTODATE);
        for start in [0, 1, PAGE - 1, PAGE, PAGE + 7, 3 * PAGE, 4 * PAGE - 1, 4 * PAGE] {
            for len in [0, 1, 2, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 5, 4 * PAGE] {
                bytes.copy_from_slice(&untouched);
                let copied = folio.copy_to(Bytes(start), &mut bytes[..len]);
                assert_eq!(copied, (start + len <= 4 * PAGE).then_some(()), "{len} bytes from {start}");
                if copied.is_some() {
                    assert_eq!(bytes[..len], known[start..start + len], "{len} bytes from {start}");
                }
                let rest = if copied.is_some() { len } else { 0 };
                assert_eq!(bytes[rest..], untouched[rest..]);
            }
        }
        assert_eq!(folio.copy_to(Bytes(usize::MAX), &mut bytes[..2]), None);
    });
}

#[test]
fn any_run_of_bytes_is_copied_in_and_none_that_ends_beyond_the_folio() {
    with_folios(|folio, _| {
        folio.set(FolioFlags::UPTODATE);
        let mut whole = known(0..4 * PAGE);
        for (start, len) in [(5, 3), (PAGE - 3, 6), (PAGE, PAGE), (17, 3 * PAGE), (4 * PAGE - 1, 1)] {
            let new: Vec<u8> = (0..len).map(|at| u8::try_from(at % 7).expect("small") + 0xf0).collect();
            assert_eq!(folio.copy_from(Bytes(start), &new), Some(()));
            whole[start..start + len].copy_from_slice(&new);
            let mut now = [0; 4 * PAGE];
            assert_eq!(folio.copy_to(Bytes(0), &mut now), Some(()));
            assert_eq!(now[..], whole, "{len} bytes at {start}");
        }
        for (start, len) in [(4 * PAGE, 1), (4 * PAGE - 1, 2), (1, 4 * PAGE), (usize::MAX, 2)] {
            assert_eq!(folio.copy_from(Bytes(start), &std::vec![0; len]), None, "{len} bytes at {start}");
        }
    });
}

#[test]
fn pages_are_shown_filled_and_copied_if_there_are_such() {
    with_folios(|folio, other| {
        for page in 0..4 {
            let place = page as usize * PAGE;
            assert_eq!(folio.with_stable_page(page, |bytes| *bytes == *known(place..place + PAGE)), Some(true));
        }
        assert_eq!([4, 5, u32::MAX].map(|page| folio.with_stable_page(page, |_| ())), [None; 3]);
        assert_eq!([4, 5, u32::MAX].map(|page| folio.fill_page(page, |_| ())), [None; 3]);
        assert_eq!([(4, 0), (0, 4), (u32::MAX, 1)].map(|(to, from)| folio.copy_page(to, other, from)), [None; 3]);
        assert_eq!(folio.copy_page(3, other, 1), Some(()));
        assert_eq!(folio.with_stable_page(3, |bytes| *bytes == *known(PAGE..2 * PAGE)), Some(true));
        folio.set(FolioFlags::UPTODATE);
        assert_eq!(folio.fill_page(0, |_| ()), None, "others may see it");
    });
}
