//! Regions go while somebody looks at them.
#![expect(unsafe_code, reason = "lists a region")]

use core::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;

use super::*;
use crate::folio::LockedFolio;
use crate::host::on_cpu;
use crate::owner::FolioRef;
use crate::units::CpuId;

/// What two CPUs have come to: nothing, one looks at the region, the other gives it up, the first has looked.
#[derive(Default)]
struct Stage(AtomicU8);

impl Stage {
    fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Release);
    }

    fn wait_for(&self, stage: u8) {
        while self.0.load(Ordering::Acquire) < stage {
            thread::yield_now();
        }
    }
}

/// A region that takes itself off the list when it goes, as those of address spaces do.
struct Going<'g> {
    place: Listed<HostMachine>,
    family: Counted<'g, HostMachine, Family<HostMachine>>,
    machine: &'g HostMachine,
    stage: &'g Stage,
}

impl MapsFolios<HostMachine> for Going<'_> {
    fn unmap(&self, _: &LockedFolio<'_, HostMachine>, _: Leave) {}

    fn put_back(&self, _: &FolioRef<'_, HostMachine>, _: Pfn) {
        self.stage.set(1);
        self.stage.wait_for(2);
        // Long enough for the other to come to where it waits.
        (0..100).for_each(|_| thread::yield_now());
        self.stage.set(3);
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
        assert_eq!(self.stage.0.load(Ordering::Acquire), 3, "it went while somebody looked");
    }
}

/// An interpreter sees, too, whether the region is still anybody's to look at.
#[test]
fn a_region_is_looked_at_until_it_is_off_the_list_even_while_it_is_dropped() {
    let swap = HostFile::pages(1);
    with_cache_of(8, 2, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        mapping.write(PageIndex(0).start(), &[1]).expect("there is memory");
        let folio = mapping.lookup(PageIndex(0)).expect("it stands there");
        let (stage, machine) = (Stage::default(), cache.pages().machine());
        let region = Going { place: Listed::new(), family: mapping.family(), machine, stage: &stage };
        let region = Counted::new(cache.owners().caches, region).map_err(|(_, error)| error).expect("there is memory");
        let address: NonNull<dyn MapsFolios<HostMachine> + '_> = NonNull::from(&*region);
        // SAFETY: the place is a part of the region, which does not move, and takes itself off before it goes.
        unsafe { region.family.list(machine, &region.place, address) };
        thread::scope(|scope| {
            scope.spawn(|| on_cpu(CpuId(1), || mapping.family().put_back(&folio, Pfn::new(0))));
            stage.wait_for(1);
            stage.set(2);
            drop(region);
        });
    });
}
