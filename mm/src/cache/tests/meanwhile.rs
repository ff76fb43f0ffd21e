//! Others come between a look at what stands somewhere and what comes of it.
//!
//! Where it only has to be long enough, a test waits; too short, and it sees less, but fails for nothing else.
#![expect(unsafe_code, reason = "freezes a folio")]

use std::thread;
use std::time::Duration;

use super::*;
use crate::host::on_cpu;
use crate::units::CpuId;

const CPUS: u16 = 4;

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
