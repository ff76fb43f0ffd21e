//! Large pages that are cut while reclaim looks at them and another CPU uses them.
#![expect(unsafe_code, reason = "lists a region of its own")]

use core::ptr::NonNull;

use super::rig::{Rig, UserSpace, with_rig};
use super::*;
use crate::cache::{Leave, Listed, MapsFolios};
use crate::faults::Fired;
use crate::folio::LockedFolio;
use crate::space::region::{Backing, Region};
use crate::space::{RegionError, Sharing};

use PageProtection::{Read, ReadWrite};

/// The page that is used.
const USED: u64 = 3;

/// Another CPU, which uses a page just when reclaim has asked the regions in front of this one, and not yet those behind.
struct User<'r>(&'r Rig<'r>, Pfn);

impl MapsFolios<HostMachine> for User<'_> {
    fn unmap(&self, _: &LockedFolio<'_, HostMachine>, _: Leave) {}

    fn put_back(&self, _: &Refs<'_>, _: Pfn) {}

    fn write_protect(&self, _: &LockedFolio<'_, HostMachine>) {}

    fn take_accessed(&self, _: &LockedFolio<'_, HostMachine>) -> Accessed {
        let Self(rig, root) = *self;
        rig.unit.forget();
        rig.unit.load(root, at(USED), &mut [0], |_, _| Err("a page went that is used")).expect("it is mapped");
        Accessed::No
    }
}

/// Cuts a large page again and again; each time another allocation fails, and for that memory is reclaimed.
fn cut(cut: impl Fn(&UserSpace<'_>) -> Result<(), RegionError>) {
    with_rig(|rig| {
        for n in 1.. {
            let space = rig.space();
            space.map_anonymous(pages(0, LEAF_PAGES), ReadWrite, Sharing::Private, LARGE).expect("nothing is there");
            rig.set(&space, USED, 7);
            assert_eq!(space.tables.lock().entry(at(USED)).1, pages(0, LEAF_PAGES));
            let regions = space.regions.read(rig.machine);
            let Some(Backing::Mapping(mapping, ..)) = regions.find(at(USED)).map(Region::backing) else {
                panic!("nothing is mapped")
            };
            let family = mapping.family();
            drop(regions);
            let (user, place) = (User(rig, space.root()), Listed::new());
            // SAFETY: the place does not move, and is taken off below, before it and the user go.
            unsafe { family.list(rig.machine, &place, NonNull::<User<'_>>::from(&user)) };
            rig.machine.faults().fail_nth(n);
            let done = cut(&space);
            let fired = rig.machine.faults().stop();
            // SAFETY: it was listed there.
            unsafe { family.unlist(rig.machine, &place) };
            rig.verify([&space]);
            assert_eq!(rig.byte(&space, USED), 7);
            if fired == Fired::No {
                done.expect("nothing failed");
                return;
            }
        }
    });
}

#[test]
fn a_large_page_that_is_used_while_reclaim_asks_about_it_can_be_unmapped_in_part() {
    cut(|space| space.unmap(pages(5, 4)));
}

#[test]
fn a_large_page_that_is_used_while_reclaim_asks_about_it_can_be_protected_in_part() {
    cut(|space| space.protect(pages(0, 8), Read));
}
