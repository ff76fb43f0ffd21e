use core::num::NonZero;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{HIGHMEM, NodePointer, NodeView, PhantomData};
use crate::arena::ArenaMachine;
use crate::host::scaled;
use crate::machine::{Machine, Standard};
use crate::units::{PAGE_SHIFT, Pfn};

/// Of 64 frames the upper half is highmem.
fn machine() -> ArenaMachine<Standard> {
    ArenaMachine::new(Pfn::new(64), Pfn::new(32))
}

fn bits(pointer: NodePointer) -> usize {
    pointer.0.addr().get()
}

/// What stands where a pointer stood of which some bits have changed, if it can be a pointer at all.
fn changed(pointer: NodePointer, by: usize) -> Option<NodePointer> {
    let bits = NonZero::new(bits(pointer) ^ by)?;
    Some(NodePointer(pointer.0.map_addr(|_| bits)))
}

fn is_followed(pointer: NodePointer, machine: &impl Machine) -> bool {
    catch_unwind(AssertUnwindSafe(|| pointer.frame(machine))).is_ok()
}

#[test]
fn a_pointer_leads_to_its_frame_and_says_whether_that_is_highmem() {
    let machine = machine();
    for pfn in (1..64).map(Pfn::new) {
        let pointer = NodePointer::to(&machine, pfn);
        assert_eq!((pointer.frame(&machine), pointer.is_highmem()), (pfn, pfn >= Pfn::new(32)));
        assert!(pointer.is_tagged_rightly(&machine));
    }
    // A frame number of 32 bits, as high as can be.
    let last = NodePointer::to(&machine, Pfn::new(u32::MAX));
    assert_eq!(last.frame(&machine), Pfn::new(u32::MAX));
}

#[test]
fn no_pointer_is_followed_of_which_one_bit_has_flipped_or_some_within_eleven_in_a_row() {
    let machine = machine();
    for pfn in [1, 31, 32, 63, 0x5a5a_5a5a, u32::MAX].map(Pfn::new).into_iter().step_by(scaled(1, 5)) {
        let pointer = NodePointer::to(&machine, pfn);
        for bit in (0..usize::BITS).step_by(scaled(1, 7)) {
            let flipped = changed(pointer, 1 << bit).expect("its check is not zero as well");
            assert!(!is_followed(flipped, &machine), "{pointer:?}, bit {bit}");
        }
        for start in (PAGE_SHIFT..=usize::BITS - 11).step_by(scaled(1, 13)) {
            for run in [0b11, 0b101, 0b100_0000_0001, 0x7ff, 0b101_0101_0101] {
                let flipped = changed(pointer, run << start).expect("its check is not zero as well");
                assert!(!is_followed(flipped, &machine), "{pointer:?}, {run:#b} from {start}");
            }
        }
    }
}

#[test]
fn a_tag_that_does_not_fit_the_frame_is_seen() {
    let machine = machine();
    let tagged = |pfn: Pfn| NonZero::new(pfn.index() << PAGE_SHIFT | HIGHMEM).expect("the tag is set");
    let lowmem = NodePointer::sealed(NonNull::without_provenance(tagged(Pfn::new(7))));
    assert_eq!((lowmem.frame(&machine), lowmem.is_tagged_rightly(&machine)), (Pfn::new(7), false));
}

#[test]
fn every_entry_of_a_page_has_a_place_of_its_own() {
    let mut page = [0_u64; 512];
    let view = NodeView { page: NonNull::from(&mut page).cast(), mapping: PhantomData };
    for index in 0..1024 {
        view.set_entry(index, Pfn::new(u32::try_from(index).expect("small") + 1));
    }
    assert!((0..1024).all(|index| view.entry(index).index() == index + 1));
    let machine = machine();
    for index in 0..512 {
        view.set_child(index, NodePointer::to(&machine, Pfn::new(u32::try_from(index).expect("small") + 64)));
    }
    let leads = |index| view.child(index).map(|child: NodePointer| child.frame(&machine).index());
    assert!((0..512).all(|index| leads(index) == Some(index + 64)));
}
