//! What goes while somebody looks at it: an interpreter sees whether it is still anybody's to look at.
#![expect(unsafe_code, reason = "lists a region, and visits what goes")]

use core::mem;
use core::ptr::NonNull;
use std::thread;

use super::page_cache::Visit;
use super::*;
use crate::folio::LockedFolio;
use crate::host::{Meeting, SlowStore, on_cpu};
use crate::owner::FolioRef;
use crate::units::CpuId;

/// A region that takes itself off the list when it goes, as those of address spaces do.
struct Going<'g> {
    place: Listed<HostMachine>,
    family: Counted<'g, HostMachine, Family<HostMachine>>,
    machine: &'g HostMachine,
    meeting: &'g Meeting,
}

impl MapsFolios<HostMachine> for Going<'_> {
    fn unmap(&self, _: &LockedFolio<'_, HostMachine>, _: Leave) {}

    fn put_back(&self, _: &FolioRef<'_, HostMachine>, _: Pfn) {
        self.meeting.look();
    }

    fn write_protect(&self, _: &LockedFolio<'_, HostMachine>) {}

    fn take_accessed(&self, _: &LockedFolio<'_, HostMachine>) -> Accessed {
        Accessed::No
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        // SAFETY: it was listed there, and nowhere else.
        unsafe { self.family.unlist(self.machine, &self.place) };
    }
}

#[test]
fn a_region_is_looked_at_until_it_is_off_the_list_even_while_it_is_dropped() {
    let swap = HostFile::pages(1);
    with_cache_of(8, 2, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        mapping.write(PageIndex(0).start(), &[1]).expect("there is memory");
        let folio = mapping.lookup(PageIndex(0)).expect("it stands there");
        let (meeting, machine) = (Meeting::new(), cache.pages().machine());
        let region = Going { place: Listed::new(), family: mapping.family(), machine, meeting: &meeting };
        let region = Counted::new(cache.owners().caches, region).map_err(|(_, error)| error).expect("there is memory");
        let address: NonNull<dyn MapsFolios<HostMachine> + '_> = NonNull::from(&*region);
        // SAFETY: the place is a part of the region, which does not move, and takes itself off before it goes.
        unsafe { region.family.list(machine, &region.place, address) };
        thread::scope(|scope| {
            scope.spawn(|| on_cpu(CpuId(1), || mapping.family().put_back(&folio, Pfn::new(0))));
            meeting.give_up(region);
        });
    });
}

#[test]
fn a_mapping_is_looked_at_until_its_last_folio_has_gone_even_while_it_is_dropped() {
    let (swap, file) = (HostFile::pages(1), Arc::new(SlowStore::new(HostFile::pages(1))));
    with_cache_of(8, 2, &swap, |cache| {
        let mapping = cache.file(Arc::clone(&file), Order::ZERO).expect("there is memory");
        mapping.write(FileOffset(0), &[0xee]).expect("there is memory");
        thread::scope(|scope| {
            let reclaiming = scope.spawn(|| on_cpu(CpuId(1), || cache.reclaim(Count(1))));
            file.meeting.give_up(mapping);
            // Who drops it may wait for the folio, to which it refers then.
            assert!(reclaiming.join().expect("nothing was wrong") <= Count(1));
        });
    });
    assert_eq!(file.store.bytes.lock().expect("no test fails with the lock")[0], 0xee);
}

#[test]
fn a_cache_goes_only_when_everybody_has_gone_who_had_come_to_it_by_a_folio() {
    let (swap, meeting) = (HostFile::pages(1), Meeting::new());
    with_cache_of(8, 2, &swap, |cache| {
        thread::scope(|scope| {
            let gone = PageCache::with(cache.owners(), None, |other| {
                let visit = Visit::of(&other);
                // SAFETY: it begins while the cache is there, which waits for its end.
                let visit = unsafe { mem::transmute::<Visit<'_>, Visit<'static>>(visit) };
                scope.spawn(|| {
                    meeting.look();
                    drop(visit);
                });
                meeting.begin();
            });
            gone.expect("there is memory");
            meeting.end();
        });
    });
}
