//! Others come between a look at what stands somewhere and what comes of it.
//!
//! Whoever is to be between holds a lock that one of the two needs next, or is a store that one reads from. Where it only has to
//! be long enough, a test waits; too short, and it sees less, but fails for nothing else.
#![expect(unsafe_code, reason = "lists a region, freezes a folio, and refers to a mapping that another keeps")]

use core::ptr::NonNull;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use super::*;
use crate::folio::LockedFolio;
use crate::host::on_cpu;
use crate::owner::FolioRef;
use crate::tree::Extent;
use crate::units::{CpuId, SpaceId};

const CPUS: u16 = 4;
const SPACE: SpaceId = SpaceId(NonZeroU16::MIN);

/// A store that holds up who has read from it.
struct HeldStore {
    store: Arc<HostFile>,
    /// How many more are held up.
    holds: AtomicU32,
    let_go: AtomicBool,
}

impl HeldStore {
    fn new(pages: usize) -> Self {
        Self { store: HostFile::pages(pages), holds: AtomicU32::new(0), let_go: AtomicBool::new(false) }
    }

    fn hold_the_next(&self) {
        self.holds.store(1, Ordering::Release);
    }

    fn until_it_is_held(&self) {
        while self.holds.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
    }

    fn let_go(&self) {
        self.let_go.store(true, Ordering::Release);
    }
}

impl Store for HeldStore {
    fn size(&self) -> FileOffset {
        self.store.size()
    }

    fn read(&self, offset: FileOffset, bytes: &mut [u8]) -> Result<(), StoreError> {
        self.store.read(offset, bytes)?;
        let held = self.holds.fetch_update(Ordering::AcqRel, Ordering::Acquire, |holds| holds.checked_sub(1));
        while held.is_ok() && !self.let_go.load(Ordering::Acquire) {
            thread::yield_now();
        }
        Ok(())
    }

    fn write(&self, offset: FileOffset, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.write(offset, bytes)
    }
}

/// Until others have come to where they wait, or could have.
fn others_come() {
    thread::sleep(Duration::from_millis(50));
}

fn write(mapping: &Mapping<'_, HostMachine>, page: u64, byte: u8) {
    mapping.write(PageIndex(page).start(), &[byte]).expect("there is memory");
}

fn read(mapping: &Mapping<'_, HostMachine>, page: u64) -> u8 {
    let mut byte = [0];
    mapping.read(PageIndex(page).start(), &mut byte).expect("it is read");
    byte[0]
}

#[test]
fn what_another_has_forgotten_meanwhile_takes_nothing_behind_it_along() {
    let swap = HostFile::pages(4);
    with_cache(4, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        (1..3).for_each(|page| write(&mapping, page, 7));
        assert_eq!(cache.reclaim(Count(2)), Count(2));
        mapping.forget(PageIndex(1));
        // The other had seen it, too.
        let _ = mapping.forget_absent(PageIndex(1));
        assert_eq!((read(&mapping, 1), read(&mapping, 2)), (0, 7));
        mapping.verify().expect("all is well");
    });
}

#[test]
fn what_is_evicted_while_it_is_given_up_is_given_up_all_the_same() {
    let swap = HostFile::pages(4);
    for cut in [true, false] {
        with_cache_of(8, CPUS, &swap, |cache| {
            let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
            write(&mapping, 5, 7);
            let slot = cache.swap.as_ref().and_then(|swap| swap.take(Order::ZERO)).expect("there is a place");
            let folio = mapping.lookup(PageIndex(5)).expect("it stands there").lock();
            // SAFETY: the other reference is the tree's.
            let frozen = unsafe { folio.freeze(Count(1)) }.expect("nobody else refers to it");
            thread::scope(|scope| {
                // Whoever finds a folio that is frozen looks until it is something else.
                let giving_up = scope.spawn(|| {
                    on_cpu(CpuId(1), || match cut {
                        true => mapping.truncate(PageIndex(0)).expect("nothing is read"),
                        false => mapping.give_up(PageIndex(0), PageIndex(64)),
                    });
                });
                others_come();
                mapping.take_out_frozen(&frozen, Some(slot));
                drop(frozen.into_block());
                giving_up.join().expect("nothing was wrong");
            });
            assert_eq!(cache.report().swapped, Count(0), "{cut}: it is kept");
            assert_eq!(read(&mapping, 5), 0);
        });
    }
}

#[test]
fn what_is_read_while_it_is_taken_over_from_behind_is_taken_over_once() {
    let swap = HeldStore::new(4);
    with_cache_of(8, CPUS, &swap, |cache| {
        let machine = cache.pages().machine();
        let behind = cache.anonymous(Order::ZERO).expect("there is memory");
        write(&behind, 1, 7);
        assert_eq!(cache.reclaim(Count(1)), Count(1));
        let shadow = Mapping::shadow(&behind).expect("there is memory");
        let address: *const Mapping<'_, HostMachine> = &raw const *behind;
        drop(behind);
        swap.hold_the_next();
        thread::scope(|scope| {
            // SAFETY: it stands behind the shadow, and so stays, as long as it cannot be looked at.
            let held_behind = unsafe { &*address }.tree.lock(machine);
            scope.spawn(|| on_cpu(CpuId(1), || write(&shadow, 9, 1)));
            others_come();
            scope.spawn(|| on_cpu(CpuId(2), || assert_eq!(read(&shadow, 1), 7)));
            others_come();
            let held = on_cpu(CpuId(3), || shadow.tree.lock(machine));
            drop(held_behind);
            others_come();
            swap.let_go();
            others_come();
            drop(held);
        });
        assert_eq!((read(&shadow, 1), read(&shadow, 9)), (7, 1));
        shadow.verify().expect("all is well");
    });
}

#[test]
fn who_reads_while_a_page_is_taken_over_never_sees_what_it_hides() {
    let swap = HeldStore::new(4);
    with_cache_of(8, CPUS, &swap, |cache| {
        let machine = cache.pages().machine();
        let oldest = cache.anonymous(Order::ZERO).expect("there is memory");
        write(&oldest, 1, 1);
        let behind = Mapping::shadow(&oldest).expect("there is memory");
        write(&behind, 1, 2);
        assert_eq!(cache.reclaim(Count(2)), Count(2));
        let shadow = Mapping::shadow(&behind).expect("there is memory");
        let address: *const Mapping<'_, HostMachine> = &raw const *behind;
        drop((oldest, behind));
        swap.hold_the_next();
        thread::scope(|scope| {
            // SAFETY: as above.
            let held = unsafe { &*address }.tree.lock(machine);
            let taking_over = scope.spawn(|| on_cpu(CpuId(1), || write(&shadow, 9, 1)));
            others_come();
            let reading = scope.spawn(|| on_cpu(CpuId(2), || read(&shadow, 1)));
            others_come();
            drop(held);
            taking_over.join().expect("nothing was wrong");
            swap.let_go();
            assert_eq!(reading.join().expect("nothing was wrong"), 2);
        });
        shadow.verify().expect("all is well");
    });
}

#[test]
fn what_was_written_while_the_page_was_read_back_by_another_stays() {
    let swap = HeldStore::new(1);
    with_cache_of(8, CPUS, &swap, |cache| {
        let mapping = cache.anonymous(Order::ZERO).expect("there is memory");
        write(&mapping, 0, 1);
        assert_eq!(cache.reclaim(Count(1)), Count(1));
        swap.hold_the_next();
        thread::scope(|scope| {
            scope.spawn(|| on_cpu(CpuId(1), || read(&mapping, 0)));
            swap.until_it_is_held();
            // The page comes back, changes, and goes to the only place that there is.
            let writing = scope.spawn(|| {
                on_cpu(CpuId(2), || {
                    write(&mapping, 0, 2);
                    cache.reclaim(Count(1));
                });
            });
            others_come();
            swap.let_go();
            writing.join().expect("nothing was wrong");
        });
        assert_eq!(read(&mapping, 0), 2);
        mapping.verify().expect("all is well");
    });
}

#[test]
fn what_is_divided_where_another_has_divided_it_leaves_what_was_read_back_since() {
    let swap = HostFile::pages(4);
    with_cache(8, &swap, |cache| {
        let mapping = cache.anonymous(Order::of(2)).expect("there is memory");
        (0..4).for_each(|page| write(&mapping, page, 7));
        assert_eq!(cache.reclaim(Count(4)), Count(4));
        let (extent, slot) = mapping.stored_at(PageIndex(0)).expect("it was written out");
        assert_eq!(extent, Extent::around(PageIndex(0), Order::of(2)));
        mapping.divide_stored(extent, slot).expect("there is memory");
        write(&mapping, 1, 8);
        // The other had seen it whole, too.
        mapping.divide_stored(extent, slot).expect("there is memory");
        assert_eq!([0, 1, 2, 3].map(|page| read(&mapping, page)), [7, 8, 7, 7]);
        mapping.verify().expect("all is well");
    });
}

/// A region in which, while a folio is unmapped, another loses a page of the same mapping.
struct Losing<'g, 'c> {
    place: Listed<HostMachine>,
    mapping: &'g Mapping<'c, HostMachine>,
    page: PageIndex,
}

impl MapsFolios<HostMachine> for Losing<'_, '_> {
    fn unmap(&self, folio: &LockedFolio<'_, HostMachine>, _: Leave) {
        on_cpu(CpuId(1), || self.mapping.forget(self.page));
        folio.remove_mappings(SPACE, Count(1));
    }

    fn put_back(&self, _: &FolioRef<'_, HostMachine>, _: Pfn) {}

    fn write_protect(&self, _: &LockedFolio<'_, HostMachine>) {}

    fn take_accessed(&self, _: &LockedFolio<'_, HostMachine>) -> Accessed {
        Accessed::No
    }
}

#[test]
fn a_folio_that_does_not_split_stands_as_it_stood_though_the_tree_has_shrunk_meanwhile() {
    let swap = HostFile::pages(1);
    with_cache_of(8, CPUS, &swap, |cache| {
        let machine = cache.pages().machine();
        let mapping = cache.anonymous(Order::of(6)).expect("there is memory");
        (0..2).for_each(|folio| write(&mapping, 64 * folio, 7));
        let region = Losing { place: Listed::new(), mapping: &mapping, page: PageIndex(64) };
        let address: NonNull<dyn MapsFolios<HostMachine> + '_> = NonNull::from(&region);
        // SAFETY: the place is a part of the region, which does not move, and is taken off before that goes.
        unsafe { mapping.family.list(machine, &region.place, address) };
        let other = mapping.lookup(PageIndex(0)).expect("it stands there");
        other.add_mappings(SPACE, Count(1)).expect("it is the first");
        let folio = mapping.lookup(PageIndex(0)).expect("it stands there").lock();
        let (folio, why) = cache.split(folio, SplitTo::Uniform(Order::ZERO)).expect_err("it is referred to");
        assert_eq!((why, mapping.pages()), (SplitError::Referred, 64));
        drop((folio, other));
        // SAFETY: as above.
        unsafe { mapping.family.unlist(machine, &region.place) };
        mapping.verify().expect("all is well");
        mapping.forget(PageIndex(0));
        assert_eq!(mapping.pages(), 0);
    });
}
