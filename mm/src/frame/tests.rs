//! Slots nest, whoever panics in between.

use core::num::NonZeroU16;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::host::HostMachine;

#[test]
fn a_slot_is_given_up_though_somebody_panics_who_looks() {
    let machine: HostMachine =
        HostMachine::new(Pfn::new(0x100), Pfn::new(0x80), NonZeroU16::MIN).expect("there is memory");
    let high = |number: u32| Pfn::new(0x90 + number);
    with_mapped(&machine, high(0), |outer| {
        let looked = catch_unwind(AssertUnwindSafe(|| with_mapped(&machine, high(1), |_| panic!("as asked"))));
        assert!(looked.is_err());
        assert_eq!(machine.live_slots(), 1, "the outer one");
        // SAFETY: nobody else looks at the page, which is mapped.
        unsafe { outer.write(7) };
    });
    assert_eq!(machine.live_slots(), 0);
}
